"""Figure 3: a linear network on images of digits, its predictor and its generalisation error.

One hidden layer, whose theory holds at any tau; the mean predictor is that of any depth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from meanfield.datasets.images import ImageSet
from meanfield.figures.gallery import Drawing, Scale
from meanfield.figures.panels import (
    draw_activations,
    draw_kernel_matrix,
    draw_readouts,
    letters,
    mean_kernel,
    network_of,
)
from meanfield.figures.runs import effort, sampled
from meanfield.plot.style import PALETTE, styled
from meanfield.posterior.generalization import Generalization
from meanfield.problem.network import Network
from meanfield.solve import solve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from meanfield.posterior.posterior import Posterior
    from meanfield.sampling.chains import Chains

TAU = 0.01


@styled
def draw(name: str, scale: Scale) -> Drawing:
    """Digits 0, 1, 2, y_+ = 1, y_- = 0, N = P = 100; MNIST where it is, else the digits of scikit-learn."""
    n = scale.size(60, 100)
    images = _images(scale).classes(0, 1, 2)
    train, test = images.split(scale.size(42, 99), scale.size(150, 999), rng=scale.seed)
    network, task = Network("linear"), train.task(on=1.0, off=0.0, center=False)
    posterior = solve(network, task, tau=TAU)
    cold, gaussian_process = solve(network, task), solve(Network("linear", scaling="lazy"), task)  # both at T = 0
    how = effort(scale, draws=(120, 400), warmup=(150, 600), thin=3, chains=3)
    runs = sampled(posterior, [n], scale, how, start="annealed", inputs=test.images)
    chains = runs.widest
    figure, axes = plt.subplots(2, 3, figsize=(8.2, 4.8), layout="constrained")
    draw_readouts(axes[0, 0], chains.readout[..., 0].ravel(), posterior, 0)
    axes[0, 0].legend(frameon=False)
    draw_activations(axes[0, 1], network_of(chains))
    axes[0, 1].set_title("activations, training")
    draw_kernel_matrix(axes[0, 2], mean_kernel(chains), chains.labels, task.class_names)
    axes[0, 2].set_title("kernel, training")
    theory = posterior.predict(test.images)
    shift = np.abs(cold.predict(test.images) - gaussian_process.predict(test.images)).max()
    witness = chains.prediction.mean(axis=(0, 1))
    order = np.argsort(test.labels, kind="stable")
    x = np.arange(order.size)
    axes[1, 0].plot(x, witness[order, 0], ".", markersize=2.5, color="0.6", label="sampled")
    axes[1, 0].plot(x, theory[order, 0], color=PALETTE[0], linewidth=0.8, label="theory")
    axes[1, 0].set(xlabel="test inputs by class", ylabel="mean predictor of class 0")
    axes[1, 0].legend(frameon=False)
    axes[1, 1].plot(theory.ravel(), witness.ravel(), ".", markersize=2, color="0.5")
    axes[1, 1].axline((0, 0), slope=1, color=PALETTE[0], linewidth=0.8)
    axes[1, 1].set(xlabel="predictor, theory", ylabel="predictor, sampled")
    said = [
        f"tau = 0: largest |mean predictor - that of the Gaussian process|: {shift:.1e}",
    ]
    said += _errors(axes[1, 2], {"theory": posterior, "theory, τ = 0": cold, "GP": gaussian_process}, chains, test)
    letters(axes.flat)
    return Drawing(name, figure, runs.comparisons, tuple(said))


def _images(scale: Scale) -> ImageSet:
    from meanfield import datasets

    return datasets.digits() if scale.data is None else datasets.mnist(scale.data)


def _errors(ax: Axes, solved: dict[str, Posterior], chains: Chains, test: ImageSet) -> list[str]:
    """Mean squared error per class: bias and variance of theory, Gaussian process and samples."""
    named: dict[str, Generalization] = {
        key: posterior.generalization_error(test.images, test.labels, width=chains.width)
        for key, posterior in solved.items()
    }
    classes = np.unique(test.labels)
    of_class = test.labels[:, None] == classes
    square = ((chains.prediction - of_class) ** 2).sum(axis=-1)
    bars = {"sampled": [float(square[..., member].mean()) for member in of_class.T]}
    bars |= {key: [row["bias"] + row["variance"] for row in found.per_class().values()] for key, found in named.items()}
    for i, (key, values) in enumerate(bars.items()):
        ax.bar(np.arange(classes.size) + 0.2 * (i - 1.5), values, 0.19, color=PALETTE[i], label=key)
    ax.set_xticks(range(classes.size), [str(c) for c in classes])
    top = max(max(values) for values in bars.values())
    ax.set(xlabel="class", ylabel="generalisation error", ylim=(0, 1.5 * top))  # room for the legend
    ax.legend(frameon=False)
    return [f"generalisation error, {key}: " + ", ".join(f"{v:.4f}" for v in values) for key, values in bars.items()]
