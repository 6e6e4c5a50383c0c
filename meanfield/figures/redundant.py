"""Figure 4: redundant coding in a sigmoid network, with the theory at finite P."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
)
from meanfield.figures.runs import effort, sampled
from meanfield.plot.style import PALETTE, code_color, styled
from meanfield.problem.class_task import class_task
from meanfield.problem.network import Network
from meanfield.solve import solve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from meanfield.posterior.posterior import Posterior
    from meanfield.sampling.chains import Chains

TAU = 0.02


@styled
def draw(name: str, scale: Scale) -> Drawing:
    """Classes 1/2, 1/4, 1/4, y_+ = 1, y_- = 1/2, N = P = 500."""
    n = scale.size(100, 500)
    network, task = Network("sigmoid"), class_task(fractions=[0.5, 0.25, 0.25], off=0.5, n_samples=n)
    posterior = solve(network, task, tau=TAU)
    how = effort(scale, draws=(100, 60), warmup=(150, 150), thin=2, chains=(3, 4))
    runs = sampled(posterior, (n // 2, n), scale, how)
    chains = runs.widest
    figure, axes = plt.subplots(2, 3, figsize=(8.0, 4.6), layout="constrained")
    draw_readouts(axes[0, 0], chains.readout[..., 0].ravel(), posterior, 0)
    axes[0, 0].legend(frameon=False)
    words = posterior.division.words(chains.class_activation, network)
    for pattern in ("110", "101"):  # neurons whose code is clear, one of each
        color, label = code_color("-".join(pattern)), "-".join(pattern)
        same = np.flatnonzero((words[0] == int(pattern, 2)).all(axis=0))
        for i in same[:1]:
            axes[0, 1].plot(*chains.readout[0, :, i, :2].T, ".", markersize=2, color=color, label=label)
    axes[0, 1].set(xlabel="readout $a_1$", ylabel="readout $a_2$")
    legend_above(axes[0, 1])
    for c, color in zip(range(3), PALETTE, strict=False):
        axes[0, 2].hist(chains.readout[..., c].ravel(), bins=60, density=True, histtype="step", color=color,
                        label=f"$a_{c + 1}$")  # fmt: skip
    axes[0, 2].set(xlabel="readouts", ylabel="density")
    legend_above(axes[0, 2])
    draw_activations(axes[1, 0], network_of(chains))
    axes[1, 0].set_title("activations")
    _activation_of_code(axes[1, 1], posterior, chains)
    draw_kernel_matrix(axes[1, 2], mean_kernel(chains), chains.labels, task.class_names)
    axes[1, 2].set_title("kernel")
    letters(axes.flat)
    said = (runs.said,)
    return Drawing(name, figure, runs.comparisons, said)


def _activation_of_code(ax: Axes, posterior: Posterior, chains: Chains) -> None:
    """Activations of the 1-1-0 neurons on the samples of class 1, with their density."""
    phi, means = chains.activations(), chains.class_activations()
    member = posterior.division.words(means, chains.network) == 0b110
    values = phi[member][:, chains.labels == 0].ravel()
    grid = np.linspace(0.002, 0.998, 400)
    ax.hist(values, bins=50, range=(0, 1), density=True, color="0.8")
    ax.plot(grid, posterior.activation_density("110", 0, grid), color=PALETTE[0])
    ax.set(xlabel="activation of 1-1-0 neurons on class 1", ylabel="density", ylim=(0, None))
    ax.spines[["top", "right"]].set_visible(False)
