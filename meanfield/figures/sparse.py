"""Sparse coding in a ReLU network: a bulk of weakly active neurons, and one strong neuron per class."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np

from meanfield.figures.gallery import Drawing, Scale
from meanfield.figures.panels import draw_activations, draw_kernel_matrix, letters, mean_kernel, network_of, strongest
from meanfield.figures.runs import effort, sampled
from meanfield.plot.style import code_color, styled
from meanfield.problem.class_task import class_task
from meanfield.problem.network import Network
from meanfield.solve import solve

TAU = 0.02
_SHOWN = 20


@styled
def draw(name: str, scale: Scale) -> Drawing:
    """Classes 1/2, 1/4, 1/4, y_+ = 1, y_- = 0."""
    n = scale.size(100, 500)
    network, task = Network("relu"), class_task(fractions=[0.5, 0.25, 0.25], n_samples=scale.size(100, 200))
    posterior = solve(network, task, tau=TAU)
    how = effort(scale, draws=(80, 80), warmup=(120, 150), thin=3, chains=(3, 3))
    runs = sampled(posterior, (n // 2, n), scale, how)
    chains = runs.widest
    figure, axes = plt.subplots(2, 2, figsize=(6.4, 4.8), layout="constrained")
    a = chains.readout[:, -1]
    axes[0, 0].plot(a[..., 0].ravel(), a[..., 1].ravel(), ".", markersize=3, color="0.6", label="neurons")
    for outlier in posterior.outliers:
        x, y = math.sqrt(n) * outlier.readout[:2]
        axes[0, 0].plot(
            x,
            y,
            "D",
            markersize=5,
            color=code_color(outlier.label),
            fillstyle="none",
            label=f"theory, outlier {outlier.label}",
        )
    axes[0, 0].set(xlabel="readout $a_1$", ylabel="readout $a_2$")
    axes[0, 0].legend(frameon=False)
    axes[0, 0].spines[["top", "right"]].set_visible(False)
    neurons = network_of(chains)
    draw_activations(axes[0, 1], neurons, strongest(neurons, _SHOWN))
    axes[0, 1].set_title(f"the {_SHOWN} most active neurons")
    draw_kernel_matrix(axes[1, 0], mean_kernel(chains), chains.labels, task.class_names)
    axes[1, 0].set_title("kernel, sampled")
    axes[1, 1].remove()
    last = figure.add_subplot(2, 2, 4)
    draw_kernel_matrix(last, posterior.kernel().matrix(chains.labels), chains.labels, task.class_names)
    last.set_title("kernel, theory")
    letters([axes[0, 0], axes[0, 1], axes[1, 0], last])
    share = float(np.mean(neurons.code != neurons.part_names.index("bulk")))
    said = (
        runs.said,
        f"{100 * share:.1f} % of the neurons are outliers",
    )
    return Drawing(name, figure, runs.comparisons, said)
