"""Figure 3: a linear network of two hidden layers on images of digits, its predictor and its generalisation error.

The theory of deep linear networks is exact at tau = 0; the networks are sampled at a small tau, see `_at_temperature`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import matplotlib.pyplot as plt
import numpy as np

from meanfield.datasets.images import ImageSet
from meanfield.figures.gallery import Drawing, Scale
from meanfield.figures.panels import (
    draw_activations,
    draw_kernel_matrix,
    draw_readouts,
    legend_above,
    letters,
    mean_kernel,
    network_of,
    strongest,
)
from meanfield.figures.runs import effort, sampled, solved
from meanfield.plot.style import PALETTE, styled
from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.generalization import Generalization
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.solve import solve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from meanfield.sampling.chains import Chains
    from meanfield.theories.linear.posterior import LinearDataPosterior

TAU = 1e-3
_FIXED = 1e-11  # of t, where the outputs are those that they ask for


@styled
def draw(name: str, scale: Scale) -> Drawing:
    """Digits 0, 1, 2, y_+ = 1, y_- = 0, N = P = 100; MNIST where it is, else the digits of scikit-learn."""
    n = scale.size(60, 100)
    images = _images(scale).classes(0, 1, 2)
    train, test = images.split(scale.size(42, 99), scale.size(150, 999), rng=scale.seed)
    network, task = Network("linear", depth=2), train.task(on=1.0, off=0.0, center=False)
    cold, gaussian_process = solve(network, task), solve(Network("linear", scaling="lazy"), task)  # both at T = 0
    posterior = _at_temperature(network, task, TAU, scale)
    how = effort(scale, draws=(60, 80), warmup=(120, 250), thin=2, chains=(3, 2))
    # The theory's fluctuations of outputs are those of tau = 0.
    runs = sampled(posterior, [n // 2, n], scale, how, start="annealed", inputs=test.images).without("prediction var")
    chains = runs.widest
    figure, axes = plt.subplots(2, 4, figsize=(10.6, 4.8), layout="constrained")
    draw_readouts(axes[0, 0], chains.readout[..., 0].ravel(), posterior, 0)
    axes[0, 0].legend(frameon=False)
    neurons = network_of(chains)
    draw_activations(axes[0, 1], neurons, strongest(neurons, n))
    axes[0, 1].set_title("activations, layer 2")
    for ax, layer in zip(axes[0, 2:], (1, 2)):
        draw_kernel_matrix(ax, mean_kernel(chains, layer - 3), chains.labels, task.class_names)
        ax.set_title(f"kernel, layer {layer}")
    theory = posterior.predict(test.images)
    shift = np.abs(cold.predict(test.images) - gaussian_process.predict(test.images)).max()
    witness = chains.prediction.mean(axis=(0, 1))
    order = np.argsort(test.labels, kind="stable")
    x = np.arange(order.size)
    axes[1, 0].plot(x, witness[order, 0], ".", markersize=2.5, color="0.6", label="sampled")
    axes[1, 0].plot(x, theory[order, 0], color=PALETTE[0], linewidth=0.8, label="theory")
    axes[1, 0].set(xlabel="test inputs by class", ylabel="mean predictor of class 0")
    legend_above(axes[1, 0])
    axes[1, 1].plot(theory.ravel(), witness.ravel(), ".", markersize=2, color="0.5")
    axes[1, 1].axline((0, 0), slope=1, color=PALETTE[0], linewidth=0.8)
    axes[1, 1].set(xlabel="predictor, theory", ylabel="predictor, sampled")
    axes[1, 1].spines[["top", "right"]].set_visible(False)
    kernel = posterior.kernel(layer=2).matrix()
    draw_kernel_matrix(axes[1, 3], kernel, chains.labels, task.class_names)
    axes[1, 3].set_title("kernel, layer 2, theory")
    apart = np.sqrt(np.mean((witness - theory) ** 2))
    said = [
        runs.said,
        f"mean predictor on new images, sampled minus theory: {apart:.4f} (root mean square) at N = {n}",
        f"tau = 0: largest |mean predictor - that of the Gaussian process|: {shift:.1e}",
    ]
    # Fluctuations, of order 1/N, are those of tau = 0.
    bias = posterior.generalization_error(test.images, test.labels, width=math.inf)
    errors = {
        "theory": {c: row["bias"] for c, row in bias.per_class().items()},
        "theory, τ = 0": _total(cold.generalization_error(test.images, test.labels, width=n)),
        "GP": _total(gaussian_process.generalization_error(test.images, test.labels)),
    }
    said += _errors(axes[1, 2], errors, chains, test)
    letters(axes.flat)
    return Drawing(name, figure, runs.comparisons, tuple(said))


def _images(scale: Scale) -> ImageSet:
    from meanfield import datasets

    return datasets.digits() if scale.data is None else datasets.mnist(scale.data)


def _at_temperature(network: Network, task: DataTask, tau: float, scale: Scale) -> LinearDataPosterior:
    """A deep linear network at a small tau, N -> infinity: its outputs f miss the targets by tau t.

    The posterior given the outputs is that of tau = 0 with f for targets, whose order parameters are t(f). The action
    is not convex in f for depth > 1, so that this is the solution near the targets, which is all that is left as
    tau -> 0.
    """
    found = cast("LinearDataPosterior", solved(scale, network, task, tau, by=_given_outputs))
    return replace(found, task=task, tau=tau)


def _given_outputs(network: Network, task: DataTask, tau: float) -> LinearDataPosterior:
    """The solution of tau = 0 with f = y - tau t(f) for targets, by iteration."""
    found = cast("LinearDataPosterior", solve(network, task))
    for _ in range(200):
        outputs = task.targets - tau * found.solution.t
        last, found = found, cast("LinearDataPosterior", solve(network, replace(task, targets=outputs)))
        if np.abs(found.solution.t - last.solution.t).max() <= _FIXED * np.abs(found.solution.t).max():
            return found
    raise ConvergenceError(f"the outputs at tau = {tau:g} did not settle; take a smaller one.")


def _total(found: Generalization) -> dict[str, float]:
    return {name: row["bias"] + row["variance"] for name, row in found.per_class().items()}


def _errors(ax: Axes, errors: dict[str, dict[str, float]], chains: Chains, test: ImageSet) -> list[str]:
    """Mean squared error per class: theories, Gaussian process and samples."""
    classes = np.unique(test.labels)
    of_class = test.labels[:, None] == classes
    square = ((chains.prediction - of_class) ** 2).sum(axis=-1)
    bars = {"sampled": [float(square[..., member].mean()) for member in of_class.T]}
    bars |= {key: list(found.values()) for key, found in errors.items()}
    for i, (key, values) in enumerate(bars.items()):
        color = ("0.75", PALETTE[0], PALETTE[4], PALETTE[1])[i]
        ax.bar(np.arange(classes.size) + 0.2 * (i - 1.5), values, 0.19, color=color, label=key)
    ax.set_xticks(range(classes.size), [str(c) for c in classes])
    top = max(max(values) for values in bars.values())
    ax.set(xlabel="class", ylabel="generalisation error", ylim=(0, 1.5 * top))  # room for the legend
    ax.legend(frameon=False, ncols=2, handlelength=1.0, handletextpad=0.4, columnspacing=0.8, loc="upper right")
    ax.spines[["top", "right"]].set_visible(False)
    return [f"generalisation error, {key}: " + ", ".join(f"{v:.4f}" for v in values) for key, values in bars.items()]
