"""Panels that several figures share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from meanfield.plot.style import MAP, PALETTE, group_centres
from meanfield.posterior.neurons import Neurons
from meanfield.posterior.registry import division_of
from meanfield.validation import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from meanfield.posterior.posterior import Posterior
    from meanfield.sampling.chains import Chains

__all__ = [
    "draw_activations",
    "draw_kernel_matrix",
    "draw_readouts",
    "legend_above",
    "letters",
    "marginal",
    "mean_kernel",
    "network_of",
    "strongest",
]


def network_of(chains: Chains, *, chain: int = 0, layer: int = -1) -> Neurons:
    """The last draw of a chain as neurons, named by the codes that their activations show."""
    phi = chains.activations(layer)[chain]
    z = chains.preactivations(layer)[chain]
    means = chains.class_activations(layer)[chain]
    division = division_of(chains.network, chains.task)
    words, code = np.unique(division.told_apart(division.words(means, chains.network, layer)), return_inverse=True)
    names = tuple(division.label(int(word), means.shape[1]) for word in words)
    return Neurons(chains.readout[chain, -1], code, names, z, phi, chains.labels, chains.task.class_names)


def mean_kernel(chains: Chains, layer: int = -1) -> FloatArray:
    """(P, P) kernel of a layer, mean over the last draws of all chains."""
    phi = chains.activations(layer)
    return np.asarray(np.einsum("kip,kiq->pq", phi, phi) / (phi.shape[0] * phi.shape[1]))


def draw_kernel_matrix(
    ax: Axes, matrix: FloatArray, labels: NDArray[np.intp], names: Sequence[str], *, colorbar: bool = True
) -> None:
    """A kernel on inputs sorted by class."""
    order = np.argsort(labels, kind="stable")
    image = ax.imshow(matrix[np.ix_(order, order)], cmap=MAP, interpolation="nearest")
    edges = np.flatnonzero(np.diff(labels[order])) + 0.5
    for edge in edges:
        ax.axvline(edge, color="white", linewidth=0.6)
        ax.axhline(edge, color="white", linewidth=0.6)
    centres = group_centres(edges, labels.size)
    ax.set_xticks(centres, names)
    upright = all(len(name) == 1 and not name.isalnum() for name in names)  # "-" would be "|"
    ax.set_yticks(centres, names, rotation=0 if upright else 90, va="center")
    ax.tick_params(length=0)
    if colorbar:
        ax.figure.colorbar(image, ax=ax, pad=0.03)


def draw_activations(ax: Axes, neurons: Neurons, rows: NDArray[np.intp] | None = None) -> None:
    """Activations of neurons, by code unless rows are given, on inputs sorted by class."""
    columns = np.argsort(neurons.labels, kind="stable")
    by_code = rows is None
    if rows is None:
        rows = np.argsort(-neurons.code, kind="stable")
    image = neurons.activations[np.ix_(rows, columns)]
    shown = ax.imshow(
        image, aspect="auto", interpolation="nearest", cmap=MAP, vmin=float(image.min()),
        vmax=float(np.quantile(image, 0.995)),
    )  # fmt: skip
    edges = np.flatnonzero(np.diff(neurons.labels[columns])) + 0.5
    for edge in edges:
        ax.axvline(edge, color="white", linewidth=0.6)
    if by_code:
        for edge in np.flatnonzero(np.diff(neurons.code[rows])) + 0.5:
            ax.axhline(edge, color="white", linewidth=0.6)
    ax.set_xticks(group_centres(edges, columns.size), neurons.class_names)
    ax.set_yticks([])
    ax.tick_params(length=0)
    ax.figure.colorbar(shown, ax=ax, pad=0.03)


def strongest(neurons: Neurons, n: int) -> NDArray[np.intp]:
    """Rows of the n neurons with the largest mean squared activity, the strongest first."""
    power = (neurons.activations**2).mean(axis=1)
    return np.argsort(-power, kind="stable")[:n]


def marginal(posterior: Posterior, output: int, grid: FloatArray) -> FloatArray:
    """Density of one component of the readout: the Gaussian parts of the posterior, integrated over the others."""
    density = np.zeros_like(grid)
    for weight, center, covariance in posterior.division.gaussians(posterior):
        if covariance is not None:
            mean, variance = float(center[output]), float(covariance[output, output])
            density += weight * np.exp(-0.5 * (grid - mean) ** 2 / variance) / np.sqrt(2 * np.pi * variance)
    return density


def draw_readouts(ax: Axes, values: FloatArray, posterior: Posterior, output: int) -> None:
    """Histogram of a component of sampled readouts, with the density of the theory."""
    low, high = np.quantile(values, [0.0005, 0.9995])
    margin = 0.15 * (high - low)
    grid = np.linspace(low - margin, high + margin, 400)
    ax.hist(values, bins=60, range=(grid[0], grid[-1]), density=True, color="0.8", label="sampled")
    ax.plot(grid, marginal(posterior, output, grid), color=PALETTE[0], label="theory")
    ax.set_xlabel(f"readout $a_{output + 1}$")
    ax.set_ylabel("density")
    ax.spines[["top", "right"]].set_visible(False)


def legend_above(ax: Axes) -> None:
    """Beside the letter of the panel, where no point can be; the upper and right edge go."""
    ax.legend(
        frameon=False, loc="lower right", bbox_to_anchor=(1.02, 0.98), ncols=4, markerscale=2, handletextpad=0.3,
        handlelength=1.2, columnspacing=1.0, borderaxespad=0.0,
    )  # fmt: skip
    ax.spines[["top", "right"]].set_visible(False)


def letters(axes: Iterable[Axes]) -> None:
    """A, B, C, ... at the upper left."""
    for ax, letter in zip(axes, "ABCDEFGHIJKLMNOPQRSTUVWX"):
        ax.set_title(letter, loc="left", fontweight="bold")
