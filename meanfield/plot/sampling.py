"""Pictures of theory against sampled networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from meanfield.plot.style import MAP, PALETTE, axes_or_new, code_styles, phi_name, styled
from meanfield.posterior.posterior import Posterior
from meanfield.sampling.compare import LIMIT, STATISTICS, Comparison
from meanfield.validation import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from meanfield.sampling.drift import Drift
    from meanfield.sampling.trend import Trend

__all__ = ["figure_comparison", "figure_drift", "figure_trend", "plot_readouts", "plot_scores", "plot_values"]

_COLOR = dict(zip(STATISTICS, PALETTE, strict=False))
_MARKER = dict(zip(STATISTICS, "osD^vPX", strict=True))
_NAME = {
    "residual": "residual $y - f$",
    "kernel": "kernel",
    "readout": "readout moments",
    "codes": "codes",
    "fractions": "fractions",
    "outliers": "outliers",
    "predictor": "predictor",
}
_MAX_POINTS = 1500  # per code


@styled
def figure_comparison(comparison: Comparison) -> Figure:
    """Three panels: theory against sample, z-scores by group, readouts of neurons with the parts of the theory."""
    figure, axes = plt.subplots(1, 3, figsize=(7.4, 2.5), layout="constrained", width_ratios=(1.0, 0.9, 1.1))
    plot_values(comparison, axes[0])
    plot_scores(comparison, axes[1])
    plot_readouts(comparison, axes[2])
    for ax, letter in zip(axes, "abc", strict=True):
        ax.set_title(letter, loc="left", fontweight="bold")
    draws = comparison.draws
    figure.suptitle(
        f"{phi_name(draws.network.activation.name)}: "
        f"$N = {draws.width}$, $P = {draws.labels.size}$, $\\tau = {draws.tau:g}$",
        fontsize=9,
    )
    return figure


@styled
def plot_values(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """Sample against theory, every statistic a point, with the identity."""
    ax = axes_or_new(ax, (2.6, 2.5))
    both = np.array([(row.theory, row.sample) for row in comparison.tested])
    reach = np.array([both.min(), both.max()]) + np.array([-0.05, 0.05]) * np.ptp(both)
    ax.plot(reach, reach, color="0.7", linewidth=0.8, zorder=0)
    for group in _present(comparison):
        rows = [row for row in comparison.tested if row.group == group]
        ax.errorbar(
            [row.theory for row in rows], [row.sample for row in rows], [row.standard_error for row in rows],
            fmt=_MARKER[group], color=_COLOR[group], markersize=3.2, linewidth=0.8, markerfacecolor="none",
            markeredgewidth=0.8, label=_NAME[group],
        )  # fmt: skip
    ax.set(xlim=reach, ylim=reach, xlabel="theory", ylabel="sampled networks", aspect="equal")
    ax.legend(frameon=False, fontsize=6, loc="upper left", handletextpad=0.2, borderaxespad=0.1, labelspacing=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


@styled
def plot_scores(comparison: Comparison, ax: Axes | None = None, *, limit: float = LIMIT) -> Axes:
    """z-scores by group of statistics; the band is |z| < `limit`."""
    ax = axes_or_new(ax, (2.6, 2.5))
    groups = _present(comparison)
    ax.axvspan(-limit, limit, color="0.93", linewidth=0, zorder=0)
    ax.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    for y, group in enumerate(groups):
        z = np.array([row.z for row in comparison.tested if row.group == group])
        height = y + 0.5 * (_spread(z.size) - 0.5)
        ax.plot(z, height, _MARKER[group], color=_COLOR[group], markersize=3.2, markerfacecolor="none", mew=0.8)
    ax.set_yticks(range(len(groups)), [_NAME[group] for group in groups])
    ax.set_ylim(len(groups) - 0.4, -0.6)
    reach = 1.08 * max(limit, comparison.max_z)
    ax.set(xlim=(-reach, reach), xlabel="$z$ = (sample - theory) / standard error")
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax


@styled
def plot_readouts(comparison: Comparison, ax: Axes | None = None, *, outputs: tuple[int, int] | None = None) -> Axes:
    """Readouts of sampled neurons, coloured by code, and the theory: means and two standard deviations.

    One output: a histogram and the means. Where phi has outliers, readouts in units of sqrt(N).
    """
    ax = axes_or_new(ax, (2.8, 2.5))
    draws, posterior = comparison.draws, comparison.posterior
    division, n_classes = draws.division, draws.class_activation.shape[3]
    unit, written = division.readout_unit(draws.width)
    readout = draws.readout.reshape(-1, draws.readout.shape[-1]) / unit
    words = division.told_apart(draws.words).ravel()
    pair = (0, 0) if readout.shape[1] == 1 else outputs or (0, 1)
    shown = division.shown(words)
    labels = [division.legend(word, n_classes) for word in shown]
    for word, label, style in zip(shown, labels, code_styles(labels), strict=True):
        color = style["color"]
        own = readout[words == word]
        if pair[0] == pair[1]:
            edges = np.linspace(readout.min(), readout.max(), 81).tolist()
            ax.hist(own[:, 0], edges, color=color, alpha=0.7, label=label, weights=np.full(len(own), 1 / len(readout)))
        else:
            some = own[:: 1 + len(own) // _MAX_POINTS]
            ax.plot(*some[:, pair].T, ".", color=color, markersize=1.6, alpha=0.5, mew=0, label=label, rasterized=True)
    for mean, covariance in _parts_of_theory(posterior, unit):
        if pair[0] == pair[1]:
            ax.axvline(mean[0], color="black", linewidth=0.9)
            continue
        ax.plot(*mean[list(pair)], "k+", markersize=6, mew=0.9)
        if covariance is not None:
            ax.plot(*_ellipse(mean, covariance, pair), color="black", linewidth=0.8)
    axis = rf"readout $a_{{{pair[0] + 1}}}$" + written
    ax.set_xlabel(axis)
    if pair[0] == pair[1]:
        ax.set_ylabel("fraction of neurons")
    else:
        ax.set_ylabel(axis.replace(f"{{{pair[0] + 1}}}", f"{{{pair[1] + 1}}}"))
        ax.set_aspect("equal", adjustable="datalim")
    if ax.get_legend_handles_labels()[1]:
        ax.legend(
            frameon=False, fontsize=6, markerscale=4, handletextpad=0.1, loc="center left", bbox_to_anchor=(0.98, 0.5)
        )
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _parts_of_theory(posterior: Posterior, unit: float) -> list[tuple[FloatArray, FloatArray | None]]:
    """Means and covariances of codes, bulk or Gaussian, and outliers without a covariance."""
    parts = [
        (mean / unit, None if covariance is None else covariance / unit**2)
        for _, mean, covariance in posterior.division.gaussians(posterior)
    ]
    return [*parts, *((outlier.readout, None) for outlier in posterior.outliers)]


def _ellipse(mean: FloatArray, covariance: FloatArray, pair: tuple[int, int]) -> FloatArray:
    """(2, 100) curve at two standard deviations."""
    angle = np.linspace(0, 2 * np.pi, 100)
    inside = covariance[np.ix_(pair, pair)]
    value, vector = np.linalg.eigh(inside)
    root = vector * np.sqrt(np.maximum(value, 0.0))
    return np.asarray(mean[list(pair), None] + 2.0 * root @ np.stack([np.cos(angle), np.sin(angle)]))


@styled
def figure_trend(trend: Trend) -> Figure:
    """|z| by width and extrapolated; deviations over 1/N, relative to those of the narrowest network."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 2.6), layout="constrained")
    _scores_by_width(trend, left)
    _collapse(trend, right)
    for ax, letter in ((left, "a"), (right, "b")):
        ax.set_title(letter, loc="left", fontweight="bold")
        ax.spines[["top", "right"]].set_visible(False)
    name = phi_name(trend.comparisons[0].draws.network.activation.name)
    figure.suptitle(f"{name}: $\\tau = {trend.comparisons[0].draws.tau:g}$", fontsize=9)
    return figure


def _scores_by_width(trend: Trend, ax: Axes) -> None:
    names = [f"{width}" for width in trend.widths] + [r"$\infty$"]
    for x in range(len(names)):
        for group in dict.fromkeys(row.group for row in trend.rows):
            rows = [row for row in trend.rows if row.group == group]
            scores = [row.z if x == len(names) - 1 else row.deviation[x] / row.standard_error[x] for row in rows]
            shift = 0.6 * (_spread(len(trend.rows))[: len(rows)] - 0.5)
            ax.plot(
                x + shift, np.maximum(np.abs(scores), 0.03), _MARKER[group], color=_COLOR[group], markersize=3.0,
                markerfacecolor="none", mew=0.7, label=_NAME[group] if x == 0 else "",
            )  # fmt: skip
    ax.axhline(LIMIT, color="0.4", linewidth=0.8, linestyle="--")
    ax.axvline(len(names) - 1.5, color="0.85", linewidth=0.8)
    ax.set_yscale("log")
    ax.set_xticks(range(len(names)), names)
    ax.set(xlabel=r"width $N$   ($\infty$: extrapolated)", ylabel="$|z|$")
    ax.legend(frameon=False, fontsize=6, handletextpad=0.1, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _collapse(trend: Trend, ax: Axes) -> None:
    narrow = float(trend.widths[0])
    ax.plot([0, 1.05], [0, 1.05], color="0.5", linewidth=0.8, zorder=0, label="$c/N$")
    x = narrow / trend.widths
    clear = [row for row in trend.rows if abs(row.deviation[0]) > 8 * row.standard_error[0]]
    for i, row in enumerate(clear):
        shift = 0.03 * (i / max(1, len(clear) - 1) - 0.5)
        unit = row.deviation[0]
        ax.errorbar(
            x + shift * (x < 1), row.deviation / unit, row.standard_error / abs(unit), fmt=_MARKER[row.group],
            color=_COLOR[row.group], markersize=3.0, markerfacecolor="none", mew=0.7, linewidth=0.6,
        )  # fmt: skip
    ax.axhline(0, color="0.85", linewidth=0.8, zorder=0)
    ax.set_xticks([0, *x], [r"$\infty$", *(f"{width}" for width in trend.widths)])
    ax.set_xlim(0, 1.08)
    ax.set(xlabel="width $N$ (scale $1/N$)", ylabel=f"deviation / deviation at $N = {narrow:g}$")
    text = f"{len(clear)} statistics beyond 8 standard errors\nat $N = {narrow:g}$" if clear else "no clear deviation"
    ax.text(0.03, 0.97, text, transform=ax.transAxes, va="top", fontsize=6.5)


@styled
def figure_drift(drifts: Sequence[Drift]) -> Figure:
    """Per network a row: class activations of the same neurons in the first and the last draw, and the overlap."""
    figure, rows = plt.subplots(
        len(drifts), 3, figsize=(6.6, 2.2 * len(drifts)), layout="constrained", squeeze=False,
        width_ratios=(1.0, 1.0, 1.3),
    )  # fmt: skip
    for (first, last, curve), drift in zip(rows, drifts, strict=True):
        order = np.lexsort((-drift.first.sum(axis=1), -drift.words))
        coded = int(np.sum(drift.words > 0))
        if coded < order.size // 5:  # a few outliers: show them among as many of the bulk, not as a line
            order = order[: max(20, 4 * coded)]
        low, high = np.quantile(drift.first, 0.005), np.quantile(drift.first, 0.995)
        for ax, values in ((first, drift.first), (last, drift.last)):
            image = ax.imshow(
                values[order], aspect="auto", interpolation="nearest", cmap=MAP, vmin=low, vmax=high
            )  # fmt: skip
            ax.set_xticks(range(values.shape[1]), [str(c + 1) for c in range(values.shape[1])])
            ax.set_yticks([])
            ax.set_xlabel("class")
            ax.tick_params(length=0)
        first.set_ylabel(f"{phi_name(drift.name)}\n{order.size} neurons by first code")
        bar = figure.colorbar(image, ax=last, pad=0.03)
        bar.set_label("mean activation")
        curve.errorbar(drift.lags, drift.overlap, drift.overlap_error, color=PALETTE[0], linewidth=1.2, capsize=0)
        curve.set(xlabel="draws apart", ylabel="overlap of codes", ylim=(min(0.0, drift.overlap.min()) - 0.02, 1.05))
        curve.spines[["top", "right"]].set_visible(False)
        kept = (
            f"{100 * drift.persistence:.0f} % of the {drift.coding} keep their code (chance {100 * drift.chance:.0f} %)"
        )
        curve.set_title(kept, fontsize=7)
    rows[0, 0].set_title("first draw")
    rows[0, 1].set_title("last draw")
    return figure


def _present(comparison: Comparison) -> list[str]:
    found = {row.group for row in comparison.tested}
    return [group for group in STATISTICS if group in found]


def _spread(n: int) -> FloatArray:
    """n numbers spread evenly over [0, 1] in an order without pattern: overlapping points become visible."""
    return np.asarray((np.arange(n) * 0.6180339887498949) % 1.0)
