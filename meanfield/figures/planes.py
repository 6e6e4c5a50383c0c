"""Phases and their boundaries in planes of two control parameters; what the paper does not show."""

from __future__ import annotations

import math
import time

import matplotlib.pyplot as plt
import numpy as np

from meanfield.activations.activation import activation
from meanfield.figures.gallery import Drawing, Scale
from meanfield.phases.diagram import PhaseDiagram, sweep
from meanfield.plot.diagrams import plot_phases
from meanfield.plot.style import styled
from meanfield.problem.class_task import class_task
from meanfield.problem.network import Network

__all__ = ["PLANES", "draw", "plane"]

# Name -> what it shows.
PLANES = {
    "sigma_a": "sigmoid: cusp and fold of the boundaries",
    "tau": "sigmoid: codes merge and symmetry is restored at high temperature",
    "imbalance": "sigmoid: the share of the first class",
    "gain": "sigmoid: towards the step (large gain) and towards the linear network (small)",
    "slope": "leaky ReLU: isolated outliers and cones; analog at slope one",
    "samples": "sigmoid at finite P: where a code has one neuron in a thousand",
    "tau_finite": "sigmoid at P = 100: the same over temperature",
    "depth": "sigmoid, P = infinity: codes of the last layer by depth",
}


def plane(name: str, n: int) -> PhaseDiagram:
    """One of `PLANES` on about n x n points."""
    task, sigmoid = class_task(fractions=[0.5, 0.25, 0.25]), Network("sigmoid")
    off = np.linspace(-1.0, 0.95, n)
    if name == "sigma_a":
        return sweep(sigmoid, task, off=off, sigma_a=np.linspace(0.5, 2.5, n), progress=False)
    if name == "tau":
        return sweep(sigmoid, task, off=off, tau=np.linspace(0.0, 0.3, n), progress=False)
    if name == "imbalance":
        return sweep(sigmoid, task, off=off, fraction_1=np.linspace(0.1, 0.8, n), progress=False)
    if name == "gain":
        return sweep(sigmoid, task, gain=np.linspace(0.3, 3.0, n), off=off, progress=False)
    if name == "slope":
        leaky = Network(activation("leaky_relu", slope=0.3))
        return sweep(leaky, task, slope=np.linspace(0.0, 0.95, n), off=np.linspace(-0.5, 0.95, n), progress=False)
    if name == "samples":
        return sweep(sigmoid, task, 0.01, n_samples=np.geomspace(20, 2000, n), off=off, progress=False)
    if name == "tau_finite":
        return sweep(sigmoid, task.with_(n_samples=100), off=off, tau=np.linspace(0.01, 0.3, n), progress=False)
    return sweep(sigmoid, task, depth=[1, 2, 3, 4], off=off, progress=False)


@styled
def draw(name: str, scale: Scale) -> Drawing:
    """All planes: tints from the raster, lines from continuation (sharp) or between points of the raster (finite P)."""
    rows = math.ceil(len(PLANES) / 2)
    figure, axes = plt.subplots(rows, 2, figsize=(11.0, 2.9 * rows), layout="constrained")
    said = []
    for (key, what), ax, letter in zip(PLANES.items(), axes.ravel(), "ABCDEFGH", strict=True):
        diagram = plane(key, scale.size(16, 60))
        begin = time.process_time()
        found = diagram.boundaries()
        seconds = time.process_time() - begin
        plot_phases(diagram, ax, boundaries=found)
        ax.set_title(f"{letter}:  {what}", fontsize="small")
        said.append(f"{letter} ({key}): {found!r} in {seconds:.1f} s CPU")
        said += [
            f"  {point.kind} at " + ", ".join(f"{axis} = {value:.6f}" for axis, value in point.parameters.items())
            for point in found.points
        ]
    return Drawing(name, figure, (), tuple(said))
