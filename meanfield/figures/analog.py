"""Figure 2: analog coding in a two-layer linear network."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

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
from meanfield.figures.runs import effort, sampled
from meanfield.plot.style import PALETTE, styled
from meanfield.problem.class_task import class_task
from meanfield.problem.network import Network
from meanfield.solve import solve

TAU = 0.02


@styled
def draw(name: str, scale: Scale) -> Drawing:
    """Classes 1/2, 1/4, 1/4, y_+ = 1, y_- = 0, N = P = 200."""
    n = scale.size(80, 200)
    network = Network("linear", depth=2)
    task = class_task(fractions=[0.5, 0.25, 0.25], n_samples=n)
    posterior = solve(network, task, tau=TAU)
    how = effort(scale, draws=(100, 80), warmup=(150, 300), thin=3, chains=(3, 2))
    runs = sampled(posterior, (n // 2, n), scale, how, start="annealed")
    chains, neurons = runs.widest, [network_of(runs.widest, layer=layer) for layer in (-2, -1)]
    figure, axes = plt.subplots(2, 3, figsize=(8.0, 4.6), layout="constrained")
    draw_readouts(axes[0, 0], chains.readout[..., 0].ravel(), posterior, 0)
    axes[0, 0].legend(frameon=False)
    a = chains.readout
    for i, color in zip(range(2), PALETTE, strict=False):
        axes[1, 0].plot(a[0, :, i, 0], a[0, :, i, 1], ".", markersize=2, color=color, label=f"neuron {i + 1}")
    axes[1, 0].set(xlabel="readout $a_1$", ylabel="readout $a_2$")
    legend_above(axes[1, 0])
    for column, (layer, found) in enumerate(zip((-2, -1), neurons, strict=True), 1):
        draw_activations(axes[0, column], found, strongest(found, n))
        draw_kernel_matrix(axes[1, column], mean_kernel(chains, layer), chains.labels, chains.task.class_names)
        axes[0, column].set_title(f"activations, layer {column}")
        axes[1, column].set_title(f"kernel, layer {column}")
    letters(axes.flat)
    ratio = np.std(a[..., 0]) ** 2 / float(posterior.readout_covariance[0, 0])
    said = (
        runs.said,
        f"variance of the readouts of class 1, sampled over theory: {ratio:.4f} at N = {n}",
    )
    return Drawing(name, figure, runs.comparisons, said)
