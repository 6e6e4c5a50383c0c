"""Figure 5: the codes of a network, sigmoid unless told otherwise, change with the target of the other classes."""

from __future__ import annotations

from typing import cast

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import SubFigure

from meanfield.figures.gallery import Drawing, Scale
from meanfield.figures.panels import draw_activations, network_of
from meanfield.figures.runs import effort, sampled
from meanfield.phases.diagram import sweep
from meanfield.plot.diagrams import mark_map, plot_weights
from meanfield.plot.style import styled, symbol
from meanfield.problem.class_task import class_task
from meanfield.problem.network import Network
from meanfield.sampling.compare import Comparison
from meanfield.solve import solve

TAU = 0.02
TARGETS = (-0.75, 0.25, 0.55, 0.8)  # of the other classes, at which networks are sampled


@styled
def draw(name: str, scale: Scale) -> Drawing:
    """Weights of the codes over y_- at P -> infinity, and a sampled network at each of four values."""
    network, task = Network(scale.activation or "sigmoid"), class_task(fractions=[0.5, 0.25, 0.25], off=0.0)
    diagram = sweep(network, task, off=np.linspace(-1, 0.95, 196), progress=False)
    n = scale.size(80, 500)
    how = effort(scale, draws=(50, 50), warmup=(120, 120), thin=2, chains=(2, 2))
    figure = plt.figure(figsize=(8.0, 4.8), layout="constrained")
    upper, lower = cast("tuple[SubFigure, SubFigure]", figure.subfigures(2, 1, height_ratios=(1.1, 1.0)))
    top = plot_weights(diagram, upper.subplots())
    comparisons: list[Comparison] = []
    said: list[str] = []
    for ax, off, letter in zip(lower.subplots(1, len(TARGETS)), TARGETS, "ABCD", strict=True):
        own = task.with_(off=off, n_samples=n)
        posterior = solve(network, own, tau=TAU)
        runs = sampled(posterior, (n // 2, n), scale, how)
        comparisons += runs.comparisons
        said.append(f"y_- = {off:g}, {runs.said}")
        draw_activations(ax, network_of(runs.widest))
        ax.set_title(f"{letter}:  {symbol('off')} = ${off:g}$")
        mark_map(top, off, letter)
    lower.supylabel("sampled neurons by code", fontsize="medium")
    said += [f"{found.label} at y_- = {found.value:.10f}" for found in diagram.transitions() if not found.crossover]
    return Drawing(name, figure, tuple(comparisons), tuple(said))
