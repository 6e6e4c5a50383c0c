"""Figure 2: analog coding in a two-layer linear network."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from meanfield.figures.gallery import Drawing, Scale
from meanfield.figures.panels import (
    draw_activations,
    draw_kernel,
    draw_readouts,
    letters,
    mean_kernel,
    network_of,
    strongest,
)
from meanfield.plot.style import PALETTE, styled
from meanfield.problem.class_task import class_task
from meanfield.problem.network import Network
from meanfield.sampling.compare import compare
from meanfield.sampling.sample import sample
from meanfield.sampling.trend import finite_size_trend
from meanfield.solve import solve

TAU = 0.02


@styled
def draw(name: str, scale: Scale) -> Drawing:
    """Classes 1/2, 1/4, 1/4, y_+ = 1, y_- = 0, N = P = 200."""
    n = scale.size(80, 200)
    network = Network("linear", depth=2)
    task = class_task(fractions=[0.5, 0.25, 0.25], n_samples=n)
    posterior = solve(network, task, tau=TAU)
    how: dict[str, Any] = {
        "draws": scale.size(100, 400),
        "warmup": scale.size(150, 500),
        "thin": 3,
        "chains": 3,
        "progress": False,
    }
    runs = [sample(network, task, width, TAU, rng=scale.seed, **how) for width in (n // 2, n)]
    comparisons = [compare(posterior, run) for run in runs]
    trend = finite_size_trend(comparisons)
    chains, neurons = runs[1], [network_of(runs[1], layer=layer) for layer in (-2, -1)]
    figure, axes = plt.subplots(2, 3, figsize=(8.0, 4.6), layout="constrained")
    draw_readouts(axes[0, 0], chains.readout[..., 0].ravel(), posterior, 0)
    axes[0, 0].legend(frameon=False)
    a = chains.readout
    for i, color in zip(range(2), PALETTE, strict=False):
        axes[1, 0].plot(a[0, :, i, 0], a[0, :, i, 1], ".", markersize=2, color=color, label=f"neuron {i + 1}")
    axes[1, 0].set(xlabel="readout $a_1$", ylabel="readout $a_2$")
    axes[1, 0].legend(frameon=False)
    for column, (layer, found) in enumerate(zip((-2, -1), neurons, strict=True), 1):
        draw_activations(axes[0, column], found, strongest(found, n))
        draw_kernel(axes[1, column], mean_kernel(chains, layer), chains.labels, chains.task.class_names)
        axes[0, column].set_title(f"activations, layer {column}")
        axes[1, column].set_title(f"kernel, layer {column}")
    letters(axes.flat)
    ratio = np.std(a[..., 0]) ** 2 / float(posterior.readout_covariance[0, 0])
    said = (
        f"1/N extrapolated: max |z| = {trend.max_z:.2f} over {len(trend.rows)} statistics",
        f"variance of the readouts of class 1, sampled over theory: {ratio:.4f} at N = {n}",
    )
    return Drawing(name, figure, tuple(comparisons), said)
