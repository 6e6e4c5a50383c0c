"""Figure 1: kernels and activations of lazy and non-lazy networks on random binary labels."""

from __future__ import annotations

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

from meanfield.figures.gallery import Drawing, Scale
from meanfield.figures.panels import draw_activations, draw_kernel_matrix, letters, mean_kernel, network_of, strongest
from meanfield.figures.runs import effort, sampled
from meanfield.plot.style import phi_name, styled
from meanfield.problem.class_task import class_task
from meanfield.problem.data_task import data_task
from meanfield.problem.network import Network
from meanfield.sampling.compare import Comparison
from meanfield.solve import solve

TAU = 0.02
_SHOWN = 20  # neurons of an activation map


@styled
def draw(name: str, scale: Scale) -> Drawing:
    """N = P, y = +-1 with probability 1/2, orthogonal inputs; lazy networks have N >= 2 P, and deviate by O(P/N)."""
    n = scale.size(100, 500)
    task = class_task(targets=[1.0, -1.0], n_samples=n)
    sign = np.repeat([1.0, -1.0], n // 2)
    # The same task with its orthogonal inputs, |x|^2 = N_0: what lazy networks are solved on.
    data = data_task(np.sqrt(n) * np.eye(n), sign, labels=np.repeat(["+", "-"], n // 2), center=False, scale=None)
    free = effort(scale, draws=(60, 60), warmup=(150, 60), thin=scale.size(2, 1), chains=(2, 2))
    planted = effort(scale, draws=(60, 60), warmup=(150, 100), thin=2, chains=(2, 2))
    figure, axes = plt.subplots(3, 4, figsize=(8.2, 5.6), layout="constrained")
    comparisons: list[Comparison] = []
    said: list[str] = []
    for row, phi in zip(axes, ("linear", "sigmoid", "relu"), strict=True):
        contrast = []
        for scaling, kernel_ax, map_ax in (("lazy", row[0], row[2]), ("non-lazy", row[1], row[3])):
            # Readouts of lazy networks have a prior of variance 1, not 1/P: they are lazy at N >> P, not at N >> P^2.
            network = Network(phi, scaling=scaling, sigma_a=np.sqrt(n) if scaling == "lazy" else 1.0)
            own = data if scaling == "lazy" else task
            posterior = solve(network, own, tau=TAU)
            from_prior = scaling == "lazy"  # which is where its weights stay
            runs = sampled(
                posterior, (2 * n, 4 * n) if scaling == "lazy" else (n // 2, n), scale,
                free if from_prior else planted, start="prior" if from_prior else posterior,
            )  # fmt: skip
            comparisons += runs.comparisons
            chains, trend = runs.widest, runs.trend
            if scaling == "lazy":  # P/N is not small enough for a line
                wide, wider = np.sqrt(np.mean([row.deviation**2 for row in trend.rows], axis=0))
                said.append(f"{phi}, lazy: deviations fall {wide / wider:.2f} times from N = {2 * n} to {4 * n}")
            else:
                said.append(f"{phi}, {scaling}: 1/N extrapolated, max |z| = {trend.max_z:.2f}")
            draw_kernel_matrix(kernel_ax, mean_kernel(chains), chains.labels, ["+", "−"])
            neurons = replace(network_of(chains), class_names=("+", "−"))
            coded = (phi, scaling) == ("sigmoid", "non-lazy")  # neurons by code, others by activity
            draw_activations(map_ax, neurons, None if coded else strongest(neurons, _SHOWN if phi == "relu" else n))
            block = posterior.kernel().block
            contrast.append(float((block[0, 0] - block[0, 1]) / np.mean(np.abs(posterior.kernel().block_diagonal))))
        row[0].set_ylabel(phi_name(phi))
        said.append(
            f"{phi}: kernel within minus between classes, relative to the diagonal: lazy {contrast[0]:.3f}, "
            f"non-lazy {contrast[1]:.3f} (theory)"
        )
    letters(axes.flat)
    for ax, title in zip(axes[0], ("kernel, lazy", "kernel, non-lazy", "activations, lazy", "activations, non-lazy")):
        ax.set_title(title)
    return Drawing(name, figure, tuple(comparisons), tuple(said))
