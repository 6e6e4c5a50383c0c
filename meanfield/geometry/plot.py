"""Figures of the geometry package: functions that take ``ax=None`` and return the Axes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import ArrayLike

from meanfield.drawing import PALETTE, axes_or_new, styled
from meanfield.geometry.clouds import as_clouds
from meanfield.geometry.descriptors import AnchorPoints, Glue
from meanfield.geometry.simulation import SimulatedCapacity
from meanfield.geometry.trajectories import Trajectory

__all__ = [
    "plot_alignment",
    "plot_anchors",
    "plot_factors",
    "plot_radius_dimension",
    "plot_separability",
    "plot_summary",
    "plot_trajectory",
]

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELS = {
    "capacity": "capacity $\\alpha$",
    "dimension": "effective dimension $D$",
    "radius": "effective radius $R$",
    "utility": "utility $\\Psi$",
    "center_alignment": "centre alignment",
    "axis_alignment": "axis alignment",
    "center_axis_alignment": "centre-axis alignment",
}


_SIZE = (3.6, 2.6)
_MARKERS = "osD^"  # of manifolds beyond the colours of the palette


def _axes(ax: Axes | None) -> Axes:
    ax = axes_or_new(ax, _SIZE)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _next_color(ax: Axes) -> str:
    """That of the next curve with error bars, so that several calls on the same axes can be told apart."""
    return PALETTE[len(ax.containers) % len(PALETTE)]


def _positions(path: Trajectory, ax: Axes) -> np.ndarray:
    """Horizontal positions; names become ticks."""
    if path.parameter.dtype.kind == "U":
        positions = np.arange(len(path))
        ax.set_xticks(positions, path.parameter)
    else:
        positions = path.parameter
    ax.set_xlabel(path.parameter_name)
    return positions


@styled
def plot_radius_dimension(
    results: object, ax: Axes | None = None, *, utility: float | None = None, label: str | None = None
) -> Axes:
    """Plane of effective radius and dimension with contours of constant capacity.

    Parameters
    ----------
    results : Trajectory, Glue, or sequence or mapping of Glue
        A trajectory or sequence is joined by a line, a mapping is annotated by its keys.
    ax : matplotlib Axes, optional
    utility : float, optional
        Of the contours ``utility (1 + R^-2)/D``; the mean over the results by default.
    label : str, optional
        For the legend.

    Returns
    -------
    matplotlib Axes
    """
    ax = _axes(ax)
    notes: list[str] = []
    joined = True
    if isinstance(results, Trajectory):
        radius, dimension, factor = (results[name] for name in ("radius", "dimension", "utility"))
        errors = [results[f"{name}_error"] for name in ("radius", "dimension")]
        notes = [str(results.parameter[0]), str(results.parameter[-1])]
        marks = [0, len(results) - 1]
    else:
        if isinstance(results, Mapping):
            notes, joined = [str(key) for key in results], False
            results = list(results.values())
        items = [results] if isinstance(results, Glue) else list(cast("Iterable[Glue]", results))
        radius, dimension, factor = (
            np.array([getattr(r, name) for r in items]) for name in ("radius", "dimension", "utility")
        )
        errors = [np.array([r.standard_errors[name] for r in items]) for name in ("radius", "dimension")]
        marks = list(range(len(items)))
    level = float(np.mean(factor)) if utility is None else float(utility)
    ax.errorbar(
        radius, dimension, yerr=errors[1], xerr=errors[0], marker="o", ms=3.5, ls="-" if joined else "", label=label,
        color=_next_color(ax), elinewidth=0.8,
    )  # fmt: skip
    for mark, note in zip(marks, notes):
        ax.annotate(note, (radius[mark], dimension[mark]), xytext=(6, 6), textcoords="offset points", fontsize="small")
    ax.margins(0.2)
    ax.autoscale_view()
    (left, x1), (bottom, y1) = ax.get_xlim(), ax.get_ylim()
    x0, y0 = max(left, 0.2 * radius.min()), max(bottom, 0.2 * dimension.min())
    if len(radius) == 1:  # error bars alone would span too little for contours
        (x0, x1), (y0, y1) = np.outer((radius[0], dimension[0]), (0.7, 1.4))
    grid_x, grid_y = np.meshgrid(np.linspace(x0, x1, 200), np.linspace(y0, y1, 200))
    surface = level * (1.0 + grid_x**-2.0) / grid_y
    low, high = np.quantile(surface, [0.04, 0.96])
    contours = ax.contour(
        grid_x, grid_y, surface, levels=np.geomspace(low, high, 6), colors="0.7", linewidths=0.8, zorder=0
    )
    ax.clabel(contours, fmt="%.3g", fontsize="x-small")
    ax.locator_params(nbins=6)
    ax.set(
        xlim=(x0, x1),
        ylim=(y0, y1),
        xlabel=LABELS["radius"],
        ylabel=LABELS["dimension"],
        title=f"contours: capacity at utility {level:.2g}",
    )
    if label:
        ax.legend(frameon=False)
    return ax


@styled
def plot_trajectory(
    path: Trajectory, columns: str | Sequence[str] = "capacity", ax: Axes | None = None, *, relative: bool = False
) -> Axes:
    """Columns of a trajectory over its parameter, with error bars of two standard errors where they are known.

    Parameters
    ----------
    path : Trajectory
    columns : str or sequence of str
    ax : matplotlib Axes, optional
    relative : bool
        Divide each column by its first value.

    Returns
    -------
    matplotlib Axes
    """
    ax = _axes(ax)
    names = [columns] if isinstance(columns, str) else list(columns)
    positions = _positions(path, ax)
    for name in names:
        values = path[name]
        scale = values[0] if relative else 1.0
        error = path[f"{name}_error"] if f"{name}_error" in path.columns else np.zeros(len(path))
        ax.errorbar(
            positions,
            values / scale,
            yerr=2.0 * error / abs(scale),
            marker="o",
            ms=3,
            capsize=2,
            label=LABELS.get(name, name),
            color=_next_color(ax),
        )
    if len(names) == 1 and not relative:
        ax.set_ylabel(LABELS.get(names[0], names[0]))
    else:
        ax.legend(frameon=False)
        ax.set_ylabel("relative to the first value" if relative else "value")
    return ax


@styled
def plot_factors(path: Trajectory, ax: Axes | None = None) -> Axes:
    """Capacity and its three factors over the parameter, relative to the first value, on a logarithmic axis.

    ``capacity = utility (1 + R^-2)/D`` exactly, so the three curves add up to that of the capacity.
    """
    ax = _axes(ax)
    positions = _positions(path, ax)
    factors = {
        LABELS["capacity"]: path["capacity"],
        LABELS["utility"]: path["utility"],
        "$1 + R^{-2}$": 1.0 + path["radius"] ** -2.0,
        "$1/D$": 1.0 / path["dimension"],
    }
    for index, (name, values) in enumerate(factors.items()):
        (line,) = ax.plot(positions, values / values[0], label=name)
        if index == 0:
            line.set(color="black", linewidth=2.0)
        else:
            line.set(color=PALETTE[index - 1], linewidth=1.2, marker="o", markersize=3)
    ax.axhline(1.0, color="0.8", lw=0.8, zorder=0)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    ax.set_ylabel("relative to the first value")
    ax.legend(frameon=False)
    return ax


@styled
def plot_anchors(
    anchors: AnchorPoints, manifolds: object = None, ax: Axes | None = None, *, directions: ArrayLike | None = None
) -> Axes:
    """Anchor points in two dimensions, over the points of their manifolds.

    Parameters
    ----------
    anchors : AnchorPoints
    manifolds : as in `glue`, optional
        Drawn faintly behind the anchors.
    ax : matplotlib Axes, optional
    directions : (2, N) array, optional
        Orthonormal rows to project on; by default the leading directions in which anchor centres differ and anchors
        fluctuate.

    Returns
    -------
    matplotlib Axes
    """
    ax = _axes(ax)
    centers = anchors.anchors.mean(axis=0)
    neurons = centers.shape[1]
    if neurons < 2:
        raise ValueError("a plot in two dimensions needs at least two neurons")
    if directions is None:
        # What the manifolds share is left out; centres weigh as much as the fluctuations of all probes together.
        between = (centers - centers.mean(axis=0)) * np.sqrt(len(anchors.anchors))
        everything = np.concatenate((between, (anchors.anchors - centers).reshape(-1, neurons)))
        plane = np.linalg.svd(everything, full_matrices=False)[2][:2]
        if len(plane) < 2:
            raise ValueError("all anchors coincide: pass the two directions of the plot")
    else:
        plane = np.asarray(directions, dtype=float)
        if plane.shape != (2, neurons):
            raise ValueError(f"directions must have shape (2, {neurons}), got {plane.shape}")
    clouds = None if manifolds is None else as_clouds(manifolds)
    for index, name in enumerate(anchors.names):
        color, marker = PALETTE[index % 8], _MARKERS[index // 8 % 4]
        if clouds is not None:
            points = clouds.points[clouds.block(index)] @ plane.T
            ax.scatter(points[:, 0], points[:, 1], s=4, color=color, marker=marker, alpha=0.2, linewidths=0)
        flat = anchors.anchors[:, index] @ plane.T
        ax.scatter(flat[:, 0], flat[:, 1], s=8, color=color, marker=marker, alpha=0.7, linewidths=0, label=name)
        ax.plot(*(centers[index] @ plane.T), marker="X", ms=7, color=color, mec="black", mew=0.6, ls="")
    ax.plot(0.0, 0.0, "+", color="black", ms=9)
    ax.set_aspect("equal", adjustable="datalim")
    ax.set(xlabel="first direction of the anchors", ylabel="second direction")
    ax.legend(frameon=False, ncols=2 if len(anchors.names) > 6 else 1)
    return ax


@styled
def plot_alignment(result: Glue | ArrayLike, ax: Axes | None = None, *, names: Sequence[str] | None = None) -> Axes:
    """Matrix of the cosines between anchor centres (or of any cosines), from -1 to 1."""
    ax = _axes(ax)
    if isinstance(result, Glue):
        matrix, names = result.center_cosines, result.names if names is None else names
    else:
        matrix = np.asarray(result, dtype=float)
        if matrix.ndim != 2:
            raise ValueError(f"expected a Glue result or a matrix, got shape {matrix.shape}")
    image = ax.imshow(matrix, vmin=-1.0, vmax=1.0, cmap="RdBu_r")
    ax.figure.colorbar(image, ax=ax, label="cosine of anchor centres")
    if names is not None and len(names) <= 30:
        ax.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 2 else 0)
        ax.set_yticks(range(len(names)), names)
    return ax


@styled
def plot_separability(result: SimulatedCapacity, ax: Axes | None = None, *, label: str | None = None) -> Axes:
    """Probability that n random projections separate a dichotomy; critical dimension with two standard errors."""
    ax = _axes(ax)
    finite = result.n_crit[np.isfinite(result.n_crit)]
    grid = np.arange(max(0, int(finite.min()) - 2), int(finite.max()) + 3)
    color = PALETTE[len(ax.patches) % len(PALETTE)]  # each call leaves one span
    ax.step(grid, result.separability(grid), where="post", label=label, color=color)
    error = 2.0 * result.standard_errors["critical_dimension"]
    ax.axvspan(result.critical_dimension - error, result.critical_dimension + error, color=color, alpha=0.2, lw=0)
    ax.axvline(result.critical_dimension, color=color, ls="--", lw=0.8)
    ax.set(xlabel="number of random projections $n$", ylabel="probability of separability", ylim=(-0.02, 1.02))
    if label:
        ax.legend(frameon=False)
    return ax


@styled
def plot_summary(result: Glue, anchors: AnchorPoints, manifolds: object = None) -> tuple[Axes, Axes, Axes]:
    """A figure of one analysis: radius and dimension, alignments of the centres, anchor points.

    Returns
    -------
    tuple of three matplotlib Axes
        Of a figure of their own, ``axes[0].figure``, which needs no display.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 3.0), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    plot_radius_dimension(result, ax=left)
    plot_alignment(result, ax=middle)
    plot_anchors(anchors, manifolds, ax=right)
    figure.suptitle(f"capacity {result.capacity:.3g} ± {result.standard_error:.1g}")
    return left, middle, right
