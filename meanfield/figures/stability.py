"""Drift: which networks keep their codes while the posterior is sampled."""

from __future__ import annotations

from typing import Any

from meanfield.figures.gallery import Drawing, Scale
from meanfield.plot.sampling import figure_drift
from meanfield.problem.class_task import class_task
from meanfield.problem.network import Network
from meanfield.sampling.compare import compare
from meanfield.sampling.drift import drift
from meanfield.sampling.sample import sample
from meanfield.solve import solve

TAU = 0.02
CASES = {"sigmoid": 0.2, "relu": 0.0, "linear": 0.0}  # phi -> y_-


def draw(name: str, scale: Scale) -> Drawing:
    """The same neurons in the first and in the last draw."""
    n, p = scale.size(60, 200), scale.size(100, 200)
    how: dict[str, Any] = {
        "draws": scale.size(80, 400),
        "warmup": scale.size(100, 500),
        "thin": 3,
        "chains": 2,
        "progress": False,
    }
    drifts, comparisons = [], []
    for phi, off in CASES.items():
        network, task = Network(phi), class_task(fractions=[0.5, 0.25, 0.25], off=off, n_samples=p)
        posterior = solve(network, task, tau=TAU)
        chains = sample(network, task, n, TAU, rng=scale.seed, start=posterior, **how)
        comparisons.append(compare(posterior, chains))
        drifts.append(drift(chains))
    return Drawing(name, figure_drift(drifts), tuple(comparisons), tuple(repr(found) for found in drifts))
