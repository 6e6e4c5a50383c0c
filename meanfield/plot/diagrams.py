"""Pictures of phase diagrams: weights of codes along a line, phases in a plane, and both with activation maps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import SubFigure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import distance_transform_edt, label

from meanfield.phases.curves import line_quantities, orbits
from meanfield.plot.class_tasks import plot_activation_map
from meanfield.plot.style import (
    GREY,
    PALETTE,
    axes_or_new,
    code_color,
    code_styles,
    curve_name,
    mark_infinity,
    on_paper,
    panel_letter,
    side_legend,
    some_of,
    span,
    styled,
    symbol,
    tint,
)
from meanfield.posterior.posterior import NotAvailable, Posterior
from meanfield.theories.deep.transitions import CodeTransition
from meanfield.theories.single_layer.posterior import SingleNeuronPosterior
from meanfield.validation import BoolArray, FloatArray, generator, instance, real_number, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from meanfield.phases.diagram import PhaseDiagram
    from meanfield.phases.level_curves import LevelCurve
    from meanfield.theories.single_layer.transitions.acceptance import Transition
    from meanfield.theories.single_layer.transitions.boundary import Boundary

__all__ = ["figure_phase_diagram", "plot_phases", "plot_weights"]

_AT = 1e-4  # of the range: a transition that close to a point is what happens there
_MOST_NAMED = 2  # codes that share a curve
_LEGEND = (0.6, 0.85)  # what a legend and labels leave of width and height of axes, about
_BOLD: dict[str, Any] = {
    "ha": "center",
    "fontweight": "bold",
    "path_effects": [withStroke(linewidth=2, foreground="white")],
}
_LINE: dict[str, Any] = {"arrowstyle": "-", "color": "0.15", "linewidth": 0.5, "shrinkA": 0.0, "shrinkB": 0.0}


@styled
def plot_weights(diagram: PhaseDiagram, ax: Axes | None = None) -> Axes:
    """Code weights over one control parameter; transitions as solid, label crossovers as dotted vertical lines.

    Curves are broken at first-order transitions, where weights jump.
    With outliers: the overlap M_cc' = sum_o phi(zbar_oc) phi(zbar_oc') of the classes in them, which is unique where
    the single outliers are not. At isolated points with non-unique weights (dashed) curves are drawn through.
    """
    if len(diagram.axes) != 1:
        raise ValueError(f"weights are drawn over one parameter, not over {list(diagram.axes)}; use plot_phases.")
    ax = axes_or_new(ax, (5.0, 2.6))
    name, swept = next(iter(diagram.axes.items()))
    try:
        transitions = list(diagram.transitions())
    except NotAvailable:  # weights and overlaps are there all the same
        transitions = []
    values = on_paper(swept)
    regular, curves = regular_curves(diagram)
    for style, (labels, quantity) in zip(code_styles(curve_name(names) for names, _ in curves), curves, strict=True):
        x, y = _with_end_points(values[regular], quantity, labels, transitions)
        alone = [int(i) for i in np.flatnonzero(_isolated(np.isfinite(y)))]  # no line leads there
        dots: dict[str, Any] = {"marker": ".", "markevery": alone} if alone else {}
        ax.plot(x, y, label=some_of(labels, _MOST_NAMED), **style, **dots)
    ax.set_xlim(*span(values))
    mark_infinity(ax.xaxis, swept)
    ax.set_ylim(0, None)
    ax.set_xlabel(symbol(name))
    ax.set_ylabel(diagram.division.quantity)
    lines = [(t.value, t.label, "0.45" if t.crossover else "0.2", ":" if t.crossover else "-") for t in transitions]
    known = np.array([t.value for t in transitions])
    open_ = [x for x in values[~regular] if not (np.abs(known - x) < _AT * np.ptp(values)).any()]
    _mark(ax, lines + [(x, "not unique", "0.45", "--") for x in open_])
    ax.spines[["top", "right"]].set_visible(False)
    side_legend(ax, diagram.division.key)
    return ax


def regular_curves(diagram: PhaseDiagram) -> tuple[BoolArray, list[tuple[list[str], FloatArray]]]:
    """Where curves are drawn, all but isolated points with non-unique weights, and names and values of them there."""
    regular = ~_isolated(~diagram.unique)
    quantities = {key: quantity[regular] for key, quantity in line_quantities(diagram).items()}
    return regular, orbits({key: quantity for key, quantity in quantities.items() if np.nanmax(quantity) > 0})


@styled
def plot_phases(
    diagram: PhaseDiagram, ax: Axes | None = None, *, boundaries: Iterable[Boundary | LevelCurve] = ()
) -> Axes:
    """Phases in the plane of two control parameters: one tint and letter per phase, its codes in the legend.

    `boundaries` (see `PhaseDiagram.boundaries`) are drawn as they are: sharp ones solid, label crossovers dotted, those
    of finite P dashed, and points where they meet as dots; without them the borders of the raster are outlined.
    """
    if len(diagram.axes) != 2:
        raise ValueError(
            f"phases are drawn in a plane, the diagram has the axes {list(diagram.axes)}; use plot_weights."
        )
    ax = axes_or_new(ax, (5.2, 2.9))
    x_name, y_name = diagram.axes
    x, y = map(on_paper, diagram.axes.values())
    phase, curves = np.asarray(diagram.phase).T, list(boundaries)
    for curve in curves:
        if not callable(getattr(curve, "fine", None)):
            raise ValueError(f"boundaries must be those of the diagram, diagram.boundaries(), got {short(curve)}.")
    shown = [i for i in range(len(diagram.phase_labels)) if (phase == i).any()]
    tints = [tint(PALETTE[j % len(PALETTE)], 0.35 + 0.25 * (j // len(PALETTE))) for j in range(len(shown))]
    image = np.ones((*phase.shape, 4))
    image[phase < 0, 3] = 0.0  # the hatching shows through
    handles, letters = [], []
    for j, i in enumerate(shown):
        region = phase == i
        image[region, :3] = tints[j]
        if not curves and not region.all() and min(region.shape) > 1:
            ax.contour(x, y, region, levels=[0.5], colors="0.15", linewidths=0.5)
        letters.append((panel_letter(j), region))
        label = f"{panel_letter(j)}: {some_of(diagram.phase_labels[i].split(', '), 7)}"
        handles.append(Patch(facecolor=tints[j], edgecolor="0.3", linewidth=0.5, label=label))
    ax.pcolormesh(x, y, image, shading="nearest", rasterized=True)
    for curve in curves:
        dash = "--" if curve.kind == "share" else ":" if curve.crossover else "-"
        ax.plot(*curve.fine().T, color="0.15", linewidth=0.8, linestyle=dash)
    points = [point for point in getattr(boundaries, "points", ()) if point.kind not in ("crossovers", "end")]
    for point in points:
        ax.plot(point.parameters[x_name], point.parameters[y_name], marker="o", color="0.15", markersize=3)
    if (phase < 0).any():
        ax.patch.set(hatch="////", edgecolor="0.6")
        handles.append(Patch(facecolor="white", edgecolor="0.6", hatch="////", label="not certified"))
    ax.set_xlim(*span(x))
    ax.set_ylim(*span(y))
    side_legend(ax, "codes", handles=handles)
    ax.set_xlabel(symbol(x_name))
    ax.set_ylabel(symbol(y_name))
    for name, values, set_scale in ((x_name, x, ax.set_xscale), (y_name, y, ax.set_yscale)):
        if name == "n_samples" and values.min() > 0 and values.max() > 20 * values.min():
            set_scale("log")
    for name, axis in ((x_name, ax.xaxis), (y_name, ax.yaxis)):
        if name == "depth":
            axis.set_major_locator(MaxNLocator(integer=True))
        mark_infinity(axis, diagram.axes[name])
    texts = _Texts(ax, [(point.parameters[x_name], point.parameters[y_name]) for point in points])
    for letter, region in sorted(letters, key=lambda one: -np.count_nonzero(one[1])):
        row, column, roomy = _middle(region)
        texts.letter(letter, (x[column], y[row]), roomy)
    for point in points:
        texts.name(point.kind, (point.parameters[x_name], point.parameters[y_name]))
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
    generator("seed", seed)
    if not posteriors:
        raise ValueError("posteriors must have at least one, by the value of the parameter; plot_weights needs none.")
    for value, posterior in posteriors.items():
        at = real_number(f"the value of {name} of a posterior", value, infinite=True)
        low, high = diagram.axes[name].min(), diagram.axes[name].max()
        if not low <= at <= high:
            raise ValueError(f"activation maps are drawn at values of {name} from {low:g} to {high:g}, got {at:g}.")
        instance("each of posteriors", posterior, Posterior, "what mf.solve returned")
    figure = plt.figure(figsize=(7.0, 4.4), layout="constrained")
    halves = cast("tuple[SubFigure, SubFigure]", figure.subfigures(2, 1, height_ratios=(1.1, 1.0)))
    upper, lower = halves
    top = plot_weights(diagram, upper.subplots())
    maps = np.atleast_1d(lower.subplots(1, len(posteriors)))
    colors = {
        name: code_color(curve_name(names)) or GREY for names, _ in orbits(line_quantities(diagram)) for name in names
    }
    for i, (ax, (value, posterior)) in enumerate(zip(maps, sorted(posteriors.items()), strict=True)):
        neurons = posterior.sample_neurons(100, rng=np.random.default_rng([seed, i]))
        plot_activation_map(neurons, ax, colorbar=i == len(posteriors) - 1, colors=colors)
        ax.set_title(f"{panel_letter(i)}:  {symbol(name)} = ${value:g}$")
        ax.set_xticks(ax.get_xticks(), list(neurons.class_names))
        ax.set_xlabel("inputs by class")
        ax.set_ylabel("")
        mark_map(top, value, panel_letter(i))
    lower.supylabel("neurons by code", fontsize="medium")
    return figure


def mark_map(ax: Axes, value: float, letter: str) -> None:
    """Where on the axis of weights the map with this letter is."""
    ax.plot(value, 0, marker="^", color="0.15", markersize=4, clip_on=False, zorder=5)
    ax.annotate(letter, (value, 0), (0, 4), textcoords="offset points", zorder=6, **_BOLD)


def _isolated(flags: BoolArray) -> BoolArray:
    """Where a flag is set, but at neither neighbour."""
    padded = np.pad(flags, 1)
    return flags & ~padded[:-2] & ~padded[2:]


def _with_end_points(
    x: FloatArray, weight: FloatArray, labels: Sequence[str], transitions: Iterable[Transition | CodeTransition]
) -> tuple[FloatArray, FloatArray]:
    """The curve where the code is present, ending at zero exactly at the transitions where it enters or leaves.

    It is broken where another solution takes over: weights jump there, and no line leads from one to the other.
    """
    gone = ~(weight > 0)
    y = np.where(gone, np.nan, weight)
    for transition in transitions:
        if transition.kind == "first order":
            i = int(np.searchsorted(x, transition.value))
            x, y, gone = np.insert(x, i, transition.value), np.insert(y, i, np.nan), np.insert(gone, i, True)
            continue
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


class _Texts:
    """Letters of phases and names of points in a plane, placed one after the other where they lie over no other."""

    def __init__(self, ax: Axes, dots: Iterable[tuple[float, float]]) -> None:
        self.ax = ax
        extent, inch = ax.get_window_extent(), ax.figure.dpi
        self.size = (
            np.array([extent.width, extent.height]) / inch * 72 * _LEGEND
        )  # points, once the legend has its room
        self.taken: list[tuple[FloatArray, FloatArray]] = []  # middles and half sizes
        self.taken += [(self._at(dot), np.full(2, 1.5)) for dot in dots]

    def letter(self, text: str, place: tuple[float, float], roomy: bool) -> None:
        """At its place, or beside it with a line that leads there."""
        at, half = self._at(place), np.array([4.5, 5.0]) if roomy else np.array([3.5, 4.0])
        at = np.clip(at, half, self.size - half)
        turns = [np.array([math.cos(angle), math.sin(angle)]) for angle in np.arange(16) * math.pi / 8]
        rings = [0.0 * turns[0], *(radius * turn for radius in (14.0, 22.0, 32.0, 44.0) for turn in turns)]
        shift = self._free(at, half, rings)
        shift = rings[0] if shift is None else shift
        beside = bool(shift.any())
        self.ax.annotate(
            text, place, tuple(at + shift - self._at(place)), textcoords="offset points", va="center",
            fontsize="large" if roomy else "x-small", arrowprops=_LINE if beside else None, **_BOLD,
        )  # fmt: skip
        self.taken.append((at + shift, half))

    def name(self, text: str, place: tuple[float, float]) -> None:
        """Beside a point, or a little further with a line that leads there; left out where no side is free."""
        at, half = self._at(place), np.array([1.7 * len(text), 3.5])
        ways = [*itertools.product((1, -1), (1, -1)), (1, 0), (-1, 0)]
        sides = [np.array(way) * (half + gap) for gap in (2.0, 9.0) for way in ways]
        shift = self._free(at, half, sides)
        if shift is not None:
            self.ax.annotate(
                text, place, tuple(shift), textcoords="offset points", ha="center", va="center", fontsize="x-small",
                path_effects=_BOLD["path_effects"], arrowprops=_LINE if (np.abs(shift) > half + 3.0).any() else None,
            )  # fmt: skip
            self.taken.append((at + shift, half))

    def _at(self, place: tuple[float, float]) -> FloatArray:
        """In points from the corner, on any scale of the axes."""
        return np.asarray((self.ax.transScale + self.ax.transLimits).transform(place)) * self.size

    def _free(self, at: FloatArray, half: FloatArray, shifts: Sequence[FloatArray]) -> FloatArray | None:
        """The first of some shifts by which a text is inside the axes and over no other."""
        for shift in shifts:
            middle = at + shift
            inside = (middle >= half - 0.5).all() and (middle <= self.size - half + 0.5).all()
            if inside and all((np.abs(middle - other) > half + own).any() for other, own in self.taken):
                return shift
        return None


def _middle(region: BoolArray) -> tuple[int, int, bool]:
    """Grid point deepest inside the largest connected part of a region, and whether there is room for a letter."""
    parts, _ = label(region)
    largest = parts == 1 + int(np.argmax(np.bincount(parts[parts > 0])[1:]))
    depth = distance_transform_edt(np.pad(largest, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return int(row), int(column), depth[row, column] > 0.03 * max(depth.shape)
