"""Pictures that can go into a paper. Every function takes `ax=None` and returns the Axes; nothing is shown or saved.

Colours are those of Okabe and Ito, told apart by all common kinds of colour vision; maps use cividis.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Ellipse, Patch
from matplotlib.patheffects import withStroke
from scipy.ndimage import distance_transform_edt, label

from meanfield.drawing import check_arguments
from meanfield.phases.curves import LINE_QUANTITIES, line_quantities, orbits
from meanfield.posterior.kernel import Kernel
from meanfield.posterior.neurons import Neurons
from meanfield.posterior.posterior import Posterior
from meanfield.theories.single_layer.posterior import SingleNeuronPosterior
from meanfield.validation import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

    from meanfield.phases.diagram import PhaseDiagram
    from meanfield.theories.single_layer.transitions.acceptance import Transition
    from meanfield.theories.single_layer.transitions.boundary import Boundary

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
MAP = "cividis"
_DASHES = ("-", "--", "-.", ":")
_STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.4,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # text stays text
}
_BOLD: Any = {"ha": "center", "fontweight": "bold", "path_effects": [withStroke(linewidth=2, foreground="white")]}
_SYMBOLS = {
    "off": "$y_{-}$",
    "on": "$y_{+}$",
    "sigma_a": r"$\sigma_a$",
    "sigma_w": r"$\sigma_w$",
    "tau": r"$\tau$",
    "n_samples": "$P$",
}
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def styled(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Run `function` with the style of this module, and leave the user's settings alone."""

    @wraps(function)
    def inner(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        check_arguments(function, args, kwargs)
        before = {name: plt.rcParams[name] for name in _STYLE}  # rc_context would undo what a notebook sets
        plt.rcParams.update(_STYLE)
        try:
            return function(*args, **kwargs)
        finally:
            plt.rcParams.update(before)

    return inner


@styled
def plot_readout_posterior(
    posterior: Posterior, ax: Axes | None = None, *, outputs: tuple[int, int] | None = None
) -> Axes:
    """Readout posterior with its codes.

    One output: weights over a (P = infinity) or the density (finite P, Gaussian). More: one line per code through its
    components a_1, ..., a_m, as thick as its weight; outliers dashed, in units of sqrt(N). Two outputs, a Gaussian, or
    `outputs` given: the plane of two components, codes as discs of area proportional to weight.
    """
    ax = axes_or_new(ax, (3.4, 2.6))
    m = posterior.task.n_outputs
    if m == 1:
        _readout_line(posterior, ax)
    elif outputs is not None or m == 2 or posterior.scheme == "analog":
        _readout_plane(posterior, ax, outputs or (0, 1))
    else:
        _readout_components(posterior, ax)
    return ax


@styled
def plot_activation_map(
    drawn: Neurons | Posterior,
    ax: Axes | None = None,
    *,
    colorbar: bool = True,
    colors: Mapping[str, str] | None = None,
    layer: int = -1,
) -> Axes:
    """Activations of drawn neurons: rows are neurons sorted by code, columns inputs sorted by class.

    A posterior is drawn from first (100 neurons of `layer`, seed 0). `colors` marks the groups, by name, at the side.
    """
    where: Any = {} if layer == -1 else {"layer": layer}
    neurons = drawn if isinstance(drawn, Neurons) else drawn.sample_neurons(100, rng=0, **where)
    ax = axes_or_new(ax, (3.4, 2.8))
    columns = np.argsort(neurons.labels, kind="stable")
    names = sorted(neurons.part_names, key=_reading_order)
    rank = np.array([names.index(name) for name in neurons.part_names])
    rows = np.argsort(rank[neurons.code], kind="stable")
    image = neurons.activations[np.ix_(rows, columns)]
    top = float(np.quantile(image, 0.995))
    drawn_image = ax.imshow(
        image, aspect="auto", interpolation="nearest", cmap=MAP, vmin=float(image.min()), vmax=top, origin="upper"
    )
    class_edges = np.flatnonzero(np.diff(neurons.labels[columns])) + 0.5
    code = rank[neurons.code][rows]
    code_edges = np.flatnonzero(np.diff(code)) + 0.5
    for edge in class_edges:
        ax.axvline(edge, color="white", linewidth=0.8)
    sizes = np.diff(np.concatenate([[-0.5], code_edges, [rows.size - 0.5]]))
    for edge, above, below in zip(code_edges, sizes[:-1], sizes[1:], strict=True):
        if max(above, below) > 2:  # single neurons (outliers) would be painted over
            ax.axhline(edge, color="white", linewidth=0.8)
    ax.set_xticks(
        group_centres(class_edges, columns.size), [f"class {neurons.class_names[c]}" for c in np.unique(neurons.labels)]
    )
    names = [names[c] for c in np.unique(code)]
    centres = group_centres(code_edges, rows.size)
    _side_labels(ax, centres, names, rows.size, [(colors or {}).get(name, "0.4") for name in names])
    ax.tick_params(length=0)
    ax.set_xlabel("inputs")
    ax.set_ylabel("neurons", labelpad=12 + 4.4 * max(len(name) for name in names))
    if colorbar:
        bar = ax.figure.colorbar(drawn_image, ax=ax, pad=0.02, extend="max" if top < image.max() else "neither")
        bar.set_label(r"activation $\phi(z)$")
    return ax


@styled
def plot_kernel(posterior: Posterior, ax: Axes | None = None, *, n_samples: int = 40, layer: int = -1) -> Axes:
    """Kernel of a hidden layer (the last) on about `n_samples` inputs sorted by class.

    On class tasks in proportion to the fractions; on data the first training inputs of every class, in proportion.
    """
    return draw_kernel(posterior.task, posterior.kernel(layer=layer), axes_or_new(ax, (3.0, 2.5)), n_samples)


def draw_kernel(task: Any, kernel: Kernel, ax: Axes, n_samples: int) -> Axes:
    """`plot_kernel` of any kernel, that of sampled networks for one."""
    if kernel.per_class:
        labels = np.repeat(np.arange(task.n_classes), [max(2, round(n_samples * float(p))) for p in task.fractions])
        matrix = kernel.matrix(labels)
    else:
        known = np.zeros(task.n_samples, dtype=np.intp) if kernel.labels is None else kernel.labels
        share = min(1.0, n_samples / task.n_samples)
        rows = np.concatenate(
            [np.flatnonzero(known == c)[: max(1, math.ceil(share * np.sum(known == c)))] for c in np.unique(known)]
        )
        labels, matrix = known[rows], kernel.matrix()[np.ix_(rows, rows)]
    image = ax.imshow(matrix, cmap=MAP, interpolation="nearest")
    edges = np.flatnonzero(np.diff(labels)) + 0.5
    for edge in edges:
        ax.axvline(edge, color="white", linewidth=0.8)
        ax.axhline(edge, color="white", linewidth=0.8)
    names = [f"class {name}" for name in task.class_names] if task.n_classes else ["inputs"]
    ax.set_xticks(group_centres(edges, labels.size), names)
    ax.set_yticks(group_centres(edges, labels.size), names, rotation=90, va="center")
    ax.tick_params(length=0)
    bar = ax.figure.colorbar(image, ax=ax, pad=0.03)
    bar.set_label(r"kernel $K_{\mu\nu}$")
    return ax


@styled
def plot_weights(diagram: PhaseDiagram, ax: Axes | None = None) -> Axes:
    """Code weights over one control parameter; transitions as solid, label crossovers as dotted vertical lines.

    With outliers: the overlap M_cc' = sum_o phi(zbar_oc) phi(zbar_oc') of the classes in them, which is unique where
    the single outliers are not. At isolated points with non-unique weights (dashed) curves are drawn through.
    """
    if len(diagram.axes) != 1:
        raise ValueError(f"weights are drawn over one parameter, not over {list(diagram.axes)}; use plot_phases.")
    ax = axes_or_new(ax, (5.0, 2.6))
    (name, values), transitions = next(iter(diagram.axes.items())), list(diagram.transitions())
    regular = ~_isolated(~diagram.unique)
    quantities = {key: quantity[regular] for key, quantity in line_quantities(diagram).items()}
    quantities = {key: quantity for key, quantity in quantities.items() if np.nanmax(quantity) > 0}
    for style, (labels, quantity) in zip(_styles(), orbits(quantities), strict=False):
        ax.plot(*_with_end_points(values[regular], quantity, labels, transitions), label=", ".join(labels), **style)
    ax.set_xlim(values.min(), values.max())
    ax.set_ylim(0, None)
    ax.set_xlabel(symbol(name))
    quantity_name, legend_title = LINE_QUANTITIES[diagram.network.activation.parts]
    ax.set_ylabel(quantity_name)
    lines = [(t.value, t.label, "0.45" if t.crossover else "0.2", ":" if t.crossover else "-") for t in transitions]
    _mark(ax, lines + [(value, "not unique", "0.45", "--") for value in values[~regular]])
    ax.spines[["top", "right"]].set_visible(False)
    side_legend(ax, legend_title)
    return ax


@styled
def plot_phases(diagram: PhaseDiagram, ax: Axes | None = None, *, boundaries: Iterable[Boundary] = ()) -> Axes:
    """Phases in the plane of two control parameters: one tint and letter per phase, its codes in the legend.

    `boundaries` (see `meanfield.phases.curves.boundaries`) are drawn as they are, label crossovers dotted; without
    them the borders of the raster are outlined.
    """
    if len(diagram.axes) != 2:
        raise ValueError(
            f"phases are drawn in a plane, the diagram has the axes {list(diagram.axes)}; use plot_weights."
        )
    ax = axes_or_new(ax, (5.2, 2.9))
    (x_name, x), (y_name, y) = diagram.axes.items()
    phase, curves = np.asarray(diagram.phase).T, list(boundaries)
    shown = [i for i in range(len(diagram.phase_labels)) if (phase == i).any()]
    tints = [_tint(PALETTE[j % len(PALETTE)], 0.35 + 0.25 * (j // len(PALETTE))) for j in range(len(shown))]
    image = np.ones((*phase.shape, 4))
    image[phase < 0, 3] = 0.0  # the hatching shows through
    handles = []
    for j, i in enumerate(shown):
        region = phase == i
        image[region, :3] = tints[j]
        if not curves and not region.all():
            ax.contour(x, y, region, levels=[0.5], colors="0.15", linewidths=0.5)
        row, column, roomy = _middle(region)
        ax.text(x[column], y[row], _letter(j), fontsize="large" if roomy else "x-small", **_BOLD, va="center")
        label = f"{_letter(j)}: {diagram.phase_labels[i]}"
        handles.append(Patch(facecolor=tints[j], edgecolor="0.3", linewidth=0.5, label=label))
    ax.pcolormesh(x, y, image, shading="nearest", rasterized=True)
    for curve in curves:
        dash = ":" if curve.points[0].crossover else "-"
        ax.plot(*curve.curve.T, color="0.15", linewidth=0.8, linestyle=dash)
    if (phase < 0).any():
        ax.patch.set(hatch="////", edgecolor="0.6")
        handles.append(Patch(facecolor="white", edgecolor="0.6", hatch="////", label="not certified"))
    ax.set_xlim(x.min(), x.max())
    ax.set_ylim(y.min(), y.max())
    side_legend(ax, "codes", handles=handles)
    ax.set_xlabel(symbol(x_name))
    ax.set_ylabel(symbol(y_name))
    return ax


@styled
def figure_phase_diagram(
    diagram: PhaseDiagram, posteriors: Mapping[float, SingleNeuronPosterior], *, seed: int = 0
) -> Figure:
    """Code weights over one parameter, and below it activation maps of drawn neurons at some of its values.

    Parameters
    ----------
    diagram : PhaseDiagram with one axis
    posteriors : mapping of parameter value to posterior
        Where maps are drawn, left to right.
    seed : int
        Of the drawn neurons.
    """
    name = next(iter(diagram.axes))
    figure = plt.figure(figsize=(7.0, 4.4), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.1, 1.0))
    upper, lower = halves
    top = plot_weights(diagram, upper.subplots())
    maps = np.atleast_1d(lower.subplots(1, len(posteriors)))
    curves = zip(_styles(), orbits(line_quantities(diagram)), strict=False)
    colors = {name: style["color"] for style, (names, _) in curves for name in names}
    for i, (ax, (value, posterior)) in enumerate(zip(maps, sorted(posteriors.items()), strict=True)):
        neurons = posterior.sample_neurons(100, rng=np.random.default_rng([seed, i]))
        plot_activation_map(neurons, ax, colorbar=i == len(posteriors) - 1, colors=colors)
        ax.set_title(f"{_letter(i)}:  {symbol(name)} = ${value:g}$")
        ax.set_xticks(ax.get_xticks(), list(neurons.class_names))
        ax.set_xlabel("inputs by class")
        ax.set_ylabel("")
        top.plot(value, 0, marker="^", color="0.15", markersize=4, clip_on=False, zorder=5)
        top.annotate(_letter(i), (value, 0), (0, 4), textcoords="offset points", zorder=6, **_BOLD)
    lower.supylabel("neurons by code", fontsize="medium")
    return figure


@styled
def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.pdf and `stem`.png, close the figure, and return the two paths."""
    written = [stem.with_name(stem.name + suffix) for suffix in (".pdf", ".png")]
    fonts = logging.getLogger("fontTools")  # chatters about time stamps in fonts that matplotlib ships
    level = fonts.level
    fonts.setLevel(logging.ERROR)
    for path in written:
        figure.savefig(path, bbox_inches="tight")
    fonts.setLevel(level)
    plt.close(figure)
    return written


def symbol(name: str) -> str:
    """The symbol of a control parameter, or its name."""
    kind, _, index = name.partition("_")
    if kind in ("fraction", "target") and index:
        return rf"${'p' if kind == 'fraction' else 'y'}_{{{index}}}$"
    return _SYMBOLS.get(name, name)


# ---- readouts ------------------------------------------------------------------------------------------------------


def _readout_line(posterior: Any, ax: Axes) -> None:
    ax.set_xlabel("readout $a$")
    if posterior.scheme == "analog" or math.isfinite(posterior.task.n_samples):
        u = posterior.solution.gaussian_covariance
        humps = [(0.0, u)] if u is not None else [(code.readout[0], code.covariance) for code in posterior.codes]
        reach = [(float(a), 6 * math.sqrt(float(variance[0, 0]))) for a, variance in humps if variance is not None]
        a = np.linspace(min(a - r for a, r in reach), max(a + r for a, r in reach), 2001)
        ax.plot(a, posterior.readout_density(a[:, None]), color=PALETTE[0], label="bulk" if posterior.outliers else "")
        ax.set_ylabel("density $P(a)$")
    else:
        ax.set_ylabel(r"weight $P_\gamma$")
        for style, code in zip(_styles(), posterior.codes, strict=False):
            name = "bulk" if posterior.scheme == "sparse" else code.label
            ax.plot([code.readout[0]] * 2, [0, code.weight], **style)
            ax.plot(code.readout[0], code.weight, "o", color=style["color"], label=name)
        ax.margins(x=0.15)
    for style, outlier in zip(_styles(max(1, len(posterior.codes))), posterior.outliers, strict=False):
        name = rf"outlier {outlier.label}, $\bar a$"
        ax.plot(outlier.readout[0], 0, "D", color=style["color"], label=name, clip_on=False)
    ax.set_ylim(0, None)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False)


def _readout_components(posterior: Any, ax: Axes) -> None:
    r = np.arange(1, posterior.task.n_outputs + 1)
    ax.axhline(0, color="0.8", linewidth=0.6, zorder=0)
    for style, code in zip(_styles(), posterior.codes, strict=False):
        name = "bulk" if posterior.scheme == "sparse" else code.label
        ax.plot(
            r, code.readout, marker="o", markersize=3 + 4 * math.sqrt(code.weight), linewidth=0.8 + 2 * code.weight,
            color=style["color"], label=f"{name} ({code.weight:.3f})",
        )  # fmt: skip
        if code.covariance is not None:
            ax.errorbar(
                r, code.readout, np.sqrt(np.diag(code.covariance)), fmt="none", ecolor=style["color"], capsize=2
            )
    for style, outlier in zip(_styles(len(posterior.codes)), posterior.outliers, strict=False):
        name = f"outlier {outlier.label} ({outlier.weight:.3f})"
        ax.plot(r, outlier.readout, "D--", markersize=4, linewidth=1.2, color=style["color"], label=name)
    ax.set_xticks(r)
    ax.set_xlim(0.7, r[-1] + 0.3)
    ax.set_xlabel("output $r$")
    ax.set_ylabel(r"readout $a_r$ (outliers: $\bar a_r$)" if posterior.outliers else "readout $a_r$")
    ax.spines[["top", "right"]].set_visible(False)
    side_legend(ax, "code (weight)")


def _readout_plane(posterior: Any, ax: Axes, outputs: tuple[int, int]) -> None:
    pair = list(outputs)
    if posterior.scheme == "analog":
        _ellipses(ax, np.zeros(2), posterior.readout_covariance[np.ix_(pair, pair)], PALETTE[0])
        ax.plot(0, 0, "+", color="0.3")
    for style, code in zip(_styles(), posterior.codes, strict=False):
        name = "bulk" if posterior.scheme == "sparse" else code.label
        x, y = code.readout[pair]
        if code.covariance is not None:
            _ellipses(ax, code.readout[pair], code.covariance[np.ix_(pair, pair)], style["color"])
        ax.scatter(x, y, s=400 * code.weight, color=style["color"], alpha=0.8, label=f"{name} ({code.weight:.3f})")
    for style, outlier in zip(_styles(len(posterior.codes)), posterior.outliers, strict=False):
        name = f"outlier {outlier.label} ({outlier.weight:.3f})"
        x, y = outlier.readout[pair]
        ax.scatter(x, y, s=36, marker="D", color=style["color"], label=name)
    ax.axhline(0, color="0.8", linewidth=0.6, zorder=0)
    ax.axvline(0, color="0.8", linewidth=0.6, zorder=0)
    unit = r"$a_{%d}$ (outliers: $\bar a_{%d}$)" if posterior.outliers else "$a_{%d}$"
    ax.set_xlabel("readout " + unit.replace("%d", str(pair[0] + 1)))
    ax.set_ylabel("readout " + unit.replace("%d", str(pair[1] + 1)))
    ax.set_aspect("equal", adjustable="datalim")
    ax.margins(0.15)
    if posterior.codes or posterior.outliers:
        handles: Any = side_legend(ax, "code (weight)").legend_handles
        for handle in handles:
            handle.set_sizes([30])


def _ellipses(ax: Axes, centre: FloatArray, covariance: FloatArray, color: str) -> None:
    """One and two standard deviations."""
    value, vector = np.linalg.eigh(covariance)
    angle = math.degrees(math.atan2(vector[1, 1], vector[0, 1]))
    for scale in (2.0, 4.0):
        width, height = scale * np.sqrt(np.maximum(value[::-1], 0.0))
        ax.add_patch(
            Ellipse((centre[0], centre[1]), width, height, angle=angle, facecolor=color, alpha=0.25, linewidth=0)
        )
    reach = 2.2 * np.sqrt(np.diag(covariance))
    ax.update_datalim([centre - reach, centre + reach])
    ax.autoscale_view()


# ---- phases --------------------------------------------------------------------------------------------------------


def _isolated(flags: Any) -> Any:
    """Where a flag is set, but at neither neighbour."""
    padded = np.pad(flags, 1)
    return flags & ~padded[:-2] & ~padded[2:]


def _with_end_points(
    x: FloatArray, weight: FloatArray, labels: Sequence[str], transitions: Iterable[Transition]
) -> tuple[FloatArray, FloatArray]:
    """The curve where the code is present, ending at zero exactly at the transitions where it enters or leaves."""
    gone = ~(weight > 0)
    y = np.where(gone, np.nan, weight)
    for transition in transitions:
        if transition.kind != "weight" or not set(labels) & {"-".join(pattern) for pattern in transition.codes}:
            continue
        i = int(np.searchsorted(x, transition.value))
        if 0 < i < x.size and gone[i - 1] != gone[i]:
            x, y = np.insert(x, i, transition.value), np.insert(y, i, 0.0)
            gone = np.insert(gone, i, False)
    return x, y


def _mark(ax: Axes, lines: Sequence[tuple[float, str, str, str]]) -> None:
    """Vertical lines (position, label, colour, dashes), labelled above the axes; labels step up where they collide."""
    low, high = ax.get_xlim()
    width = 0.8 * ax.get_window_extent().width / ax.figure.dpi * 72  # points, after room is made for the legend
    last: list[float] = []  # right end of the last label on every level, in axis fractions
    for value, text, color, dash in sorted(lines):
        ax.axvline(value, linewidth=0.8, zorder=0, color=color, linestyle=dash)
        centre = (value - low) / (high - low)
        half = 2.2 * len(text) / width
        level = next((i for i, end in enumerate(last) if end < centre - half), len(last))
        last[level : level + 1] = [centre + half]
        ax.annotate(
            text, (centre, 1), (0, 2 + 9 * level), xycoords="axes fraction", textcoords="offset points",
            ha="center", va="bottom", fontsize="small", color=color,
        )  # fmt: skip


def _middle(region: Any) -> tuple[int, int, bool]:
    """Grid point deepest inside the largest connected part of a region, and whether there is room for a letter."""
    parts, _ = label(region)
    largest = parts == 1 + int(np.argmax(np.bincount(parts[parts > 0])[1:]))
    depth = distance_transform_edt(np.pad(largest, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return int(row), int(column), depth[row, column] > 0.03 * max(depth.shape)


# ---- small things ----------------------------------------------------------------------------------------------------


def axes_or_new(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is not None:
        return ax
    return plt.subplots(figsize=size, layout="constrained")[1]


def _styles(skip: int = 0) -> list[dict[str, Any]]:
    """Colours of the palette, repeated with other dashes."""
    return [{"color": color, "linestyle": dash} for dash in _DASHES for color in PALETTE][skip:]


def group_centres(edges: Any, size: int) -> FloatArray:
    bounds = np.concatenate([[-0.5], edges, [size - 0.5]])
    return 0.5 * (bounds[1:] + bounds[:-1])


def _side_labels(ax: Axes, centres: FloatArray, names: Sequence[str], size: int, colors: Sequence[str]) -> None:
    """Labels of row groups at the left, moved apart where groups are thin, each tied to its group by a line."""
    height = ax.get_window_extent().height / ax.figure.dpi * 72  # points
    gap = 9.5 * size / max(height, 1.0)
    placed = centres.astype(float).copy()
    for _ in range(200):
        overlap = gap - np.diff(placed)
        if (overlap <= 1e-9).all():
            break
        push = np.maximum(overlap, 0) / 2
        placed[:-1] -= push
        placed[1:] += push
    ax.set_yticks([])
    for centre, place, name, color in zip(centres, placed, names, colors, strict=True):
        ax.annotate(
            name, (-0.5, centre), (-10, (centre - place) * height / size), textcoords="offset points",
            ha="right", va="center", fontsize="small", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.5 if color == "0.4" else 2, "color": color, "shrinkB": 0},
        )  # fmt: skip


def side_legend(ax: Axes, title: str, **options: Any) -> Legend:
    return ax.legend(
        title=title, frameon=False, alignment="left", loc="center left", bbox_to_anchor=(1.01, 0.5), **options
    )


def _reading_order(name: str) -> tuple[bool, list[int]]:
    """Codes from 1-1-1 down, then outliers."""
    return name.startswith("outlier"), [-ord(x) for x in name]


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else str(index + 1)


def _tint(color: str, amount: float) -> tuple[float, float, float]:
    red, green, blue = (1 - amount * (1 - x) for x in to_rgb(color))
    return red, green, blue
