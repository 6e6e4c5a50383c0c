"""Pictures of posteriors on class tasks: functions take `ax=None` and return the Axes; nothing is shown or saved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.patches import Ellipse

from meanfield.plot.style import (
    GREY,
    MAP,
    PALETTE,
    axes_or_new,
    code_color,
    code_styles,
    group_centres,
    reading_order,
    side_legend,
    styled,
)
from meanfield.posterior.kernel import Kernel
from meanfield.posterior.neurons import Neurons
from meanfield.posterior.parts import Code, Outlier
from meanfield.posterior.posterior import Posterior
from meanfield.problem.class_task import ClassTask
from meanfield.problem.data_task import DataTask
from meanfield.problem.layers import layer_index
from meanfield.validation import FloatArray, short, whole_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes


__all__ = ["plot_activation_map", "plot_kernel", "plot_readout_posterior"]

_MOST_NAMED = 8  # codes of a legend, heaviest first
_MOST_INPUTS = 10_000  # in a picture of a kernel: a matrix of 800 MB


@styled
def plot_readout_posterior(
    posterior: Posterior, ax: Axes | None = None, *, outputs: tuple[int, int] | None = None
) -> Axes:
    """Readout posterior with its codes.

    One output: weights over a (P = infinity) or the density (finite P, Gaussian). More: one line per code through its
    components a_1, ..., a_m, as thick as its weight; outliers dashed, in units of sqrt(N). Two outputs, a Gaussian, or
    `outputs` given: the plane of two components, codes as discs of area proportional to weight.
    """
    m = posterior.task.n_outputs
    if outputs is not None:
        outputs = _pair(outputs, m)
    ax = axes_or_new(ax, (3.4, 2.6))
    if m == 1:
        _readout_line(posterior, ax)
    elif outputs is not None or m == 2 or not posterior.codes:
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
    limits: tuple[float, float] | None = None,
) -> Axes:
    """Activations of drawn neurons: rows are neurons sorted by code, columns inputs sorted by class.

    A posterior is drawn from first (100 neurons of `layer`, seed 0). Marks at the side have the colours of
    the codes, or by name those of `colors`. `limits` are the activations at both ends of the colours, by default the
    smallest one and the quantile .995 of those shown.
    """
    if isinstance(drawn, Neurons):
        neurons = drawn
    else:
        depth = drawn.network.depth
        last = layer_index(layer, depth) == depth - 1
        neurons = drawn.sample_neurons(100, rng=0, **({} if last else {"layer": layer}))
    ax = axes_or_new(ax, (3.4, 2.8))
    columns = np.argsort(neurons.labels, kind="stable")
    names = sorted(neurons.part_names, key=reading_order)
    rank = np.array([names.index(name) for name in neurons.part_names])
    rows = np.argsort(rank[neurons.code], kind="stable")
    image = neurons.activations[np.ix_(rows, columns)]
    bottom, top = limits or (float(image.min()), float(np.quantile(image, 0.995)))
    drawn_image = ax.imshow(
        image, aspect="auto", interpolation="nearest", cmap=MAP, vmin=bottom, vmax=top, origin="upper"
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
    _side_labels(ax, centres, names, rows.size, [(colors or {}).get(name, code_color(name) or GREY) for name in names])
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
    n_samples = whole_number("n_samples", n_samples, at_least=1, at_most=_MOST_INPUTS)
    return draw_kernel(posterior.task, posterior.kernel(layer=layer), axes_or_new(ax, (3.0, 2.5)), n_samples)


def draw_kernel(task: ClassTask | DataTask, kernel: Kernel, ax: Axes, n_samples: int) -> Axes:
    """`plot_kernel` of any kernel, that of sampled networks for one."""
    if isinstance(task, ClassTask):
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


def _pair(outputs: object, m: int) -> tuple[int, int]:
    """Two of m outputs, counted from 0."""
    given = tuple(outputs) if isinstance(outputs, (tuple, list, np.ndarray)) else ()
    if len(given) != 2:
        raise ValueError(f"outputs must be two of the {m} outputs, counted from 0, e.g. (0, 1), got {short(outputs)}.")
    first, second = (whole_number("outputs", r, at_least=0, at_most=m - 1) for r in given)
    return first, second


def _styled_codes(posterior: Posterior) -> list[tuple[dict[str, Any], Code, str]]:
    names = posterior.division.names(posterior)
    return list(zip(code_styles(names), posterior.codes, names, strict=True))


def _styled_outliers(posterior: Posterior) -> list[tuple[dict[str, Any], Outlier]]:
    return list(zip(code_styles(outlier.label for outlier in posterior.outliers), posterior.outliers, strict=True))


def _readout_line(posterior: Posterior, ax: Axes) -> None:
    ax.set_xlabel("readout $a$")
    humps = [(mean, variance) for _, mean, variance in posterior.division.gaussians(posterior) if variance is not None]
    if humps:
        reach = [(float(mean[0]), 6 * math.sqrt(float(variance[0, 0]))) for mean, variance in humps]
        a = np.linspace(min(a - r for a, r in reach), max(a + r for a, r in reach), 2001)
        ax.plot(a, posterior.readout_density(a[:, None]), color=PALETTE[0], label="bulk" if posterior.outliers else "")
        ax.set_ylabel("density $P(a)$")
    else:
        ax.set_ylabel(r"weight $P_\gamma$")
        for style, code, name in _styled_codes(posterior):
            ax.plot([code.readout[0]] * 2, [0, code.weight], **style)
            ax.plot(code.readout[0], code.weight, "o", color=style["color"], label=name)
        ax.margins(x=0.15)
    for style, outlier in _styled_outliers(posterior):
        name = rf"outlier {outlier.label}, $\bar a$"
        ax.plot(outlier.readout[0], 0, "D", color=style["color"], label=name, clip_on=False)
    ax.set_ylim(0, None)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False)


def _readout_components(posterior: Posterior, ax: Axes) -> None:
    r = np.arange(1, posterior.task.n_outputs + 1)
    ax.axhline(0, color="0.8", linewidth=0.6, zorder=0)
    for style, code, name in _styled_codes(posterior):
        ax.plot(
            r, code.readout, marker="o", markersize=3 + 4 * math.sqrt(code.weight), linewidth=0.8 + 2 * code.weight,
            color=style["color"], label=f"{name} ({code.weight:.3f})",
        )  # fmt: skip
        if code.covariance is not None:
            ax.errorbar(
                r, code.readout, np.sqrt(np.diag(code.covariance)), fmt="none", ecolor=style["color"], capsize=2
            )
    for style, outlier in _styled_outliers(posterior):
        name = f"outlier {outlier.label} ({outlier.weight:.3f})"
        ax.plot(r, outlier.readout, "D--", markersize=4, linewidth=1.2, color=style["color"], label=name)
    ax.set_xticks(r)
    ax.set_xlim(0.7, r[-1] + 0.3)
    ax.set_xlabel("output $r$")
    ax.set_ylabel(r"readout $a_r$ (outliers: $\bar a_r$)" if posterior.outliers else "readout $a_r$")
    ax.spines[["top", "right"]].set_visible(False)
    side_legend(ax, "code (weight)", most=_MOST_NAMED)


def _readout_plane(posterior: Posterior, ax: Axes, outputs: tuple[int, int]) -> None:
    pair = list(outputs)
    if not posterior.codes:
        for _, mean, covariance in posterior.division.gaussians(posterior):
            if covariance is not None:
                _ellipses(ax, mean[pair], covariance[np.ix_(pair, pair)], PALETTE[0])
                ax.plot(*mean[pair], "+", color="0.3")
    for style, code, name in _styled_codes(posterior):
        x, y = code.readout[pair]
        if code.covariance is not None:
            _ellipses(ax, code.readout[pair], code.covariance[np.ix_(pair, pair)], style["color"])
        ax.scatter(x, y, s=400 * code.weight, color=style["color"], alpha=0.8, label=f"{name} ({code.weight:.3f})")
    for style, outlier in _styled_outliers(posterior):
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
        for handle in side_legend(ax, "code (weight)", most=_MOST_NAMED).legend_handles:
            if isinstance(handle, PathCollection):
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
            arrowprops={"arrowstyle": "-", "linewidth": 0.5 if color == GREY else 2, "color": color, "shrinkB": 0},
        )  # fmt: skip
