"""Drift: which networks keep their codes while the posterior is sampled."""

from __future__ import annotations

from meanfield.figures.gallery import Drawing, Scale
from meanfield.figures.runs import effort, sampled
from meanfield.plot.sampling import figure_drift
from meanfield.problem.class_task import class_task
from meanfield.problem.network import Network
from meanfield.sampling.compare import Comparison
from meanfield.sampling.drift import Drift, drift
from meanfield.solve import solve

TAU = 0.02
CASES = {"sigmoid": 0.2, "relu": 0.0, "linear": 0.0}  # phi -> y_-


def draw(name: str, scale: Scale) -> Drawing:
    """The same neurons in the first and in the last draw."""
    n, p = scale.size(60, 200), scale.size(100, 200)
    how = effort(scale, draws=(80, 200), warmup=(100, 200), thin=3, chains=(2, 2))
    drifts: list[Drift] = []
    said: list[str] = []
    comparisons: list[Comparison] = []
    for phi, off in CASES.items():
        network, task = Network(phi), class_task(fractions=[0.5, 0.25, 0.25], off=off, n_samples=p)
        posterior = solve(network, task, tau=TAU)
        runs = sampled(posterior, (n // 2, n), scale, how)
        comparisons += runs.comparisons
        drifts.append(drift(runs.widest))
        said.append(f"{phi}, {runs.said}")
    return Drawing(name, figure_drift(drifts), tuple(comparisons), (*map(repr, drifts), *said))
