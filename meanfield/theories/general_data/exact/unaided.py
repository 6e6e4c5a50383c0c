"""The exact theory without expectation propagation: particles that follow t from 0, where they have their prior.

On particles at some t Newton's method goes as far as half of them still count; they are drawn again by their weights,
moved (Hamiltonian moves, or elliptical slices) at the new t, and so on until t stays. What is found is only a start: a
mixture fitted to the particles is the proposal of new samples, from which the answer and its error are taken.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.general_data.exact.check import Sampler
from meanfield.theories.general_data.exact.moves import moved
from meanfield.theories.general_data.exact.particles import particle_solution
from meanfield.theories.general_data.exact.proposal import Mixture, prior_mixture, refitted
from meanfield.theories.general_data.exact.sample import At, Dual, Sample, sample_of
from meanfield.theories.general_data.limits import check_time
from meanfield.theories.general_data.solution import GeneralSolution
from meanfield.validation import FloatArray, IntArray

__all__ = ["approached", "blank"]

_POINTS = 4096
_ROUNDS, _SETTLED = 150, 6  # steps of t; how many full ones count as arrived
_KEPT = 0.5
_MOVES = 8
_SAME = 0.02  # mean square difference of activations within a code


def blank(
    activation: Activation, features: FloatArray, targets: FloatArray, sigma_a: float, tau: float
) -> GeneralSolution:
    """No solution: t = 0, and the prior."""
    zero, prior = np.zeros(targets.shape), sigma_a**2 / len(targets)
    rank = features.shape[1]
    sample = sample_of(activation, features, np.zeros((1, rank)), np.zeros(1))
    at = At(
        0.0, 0.0, np.ones(1), np.zeros((1, targets.shape[1])), np.zeros(targets.shape), np.full(1, prior), np.ones(1)
    )
    start = type("Start", (), {"activation": activation, "features": features, "targets": targets, "prior": prior,
                               "tau": tau, "t": zero, "frozen": False, "iterations": 0})  # fmt: skip
    found: Any = start
    return particle_solution(found, sample, at, zero, np.zeros(1, dtype=int), 0)


def approached(
    solution: GeneralSolution, labels: IntArray | None, rng: np.random.Generator
) -> tuple[Sampler, FloatArray] | None:
    """A sampler whose proposal is fitted to particles, and the t they arrived at; None if they did not."""
    s = solution
    dual = Dual(s.targets, s.prior, s.tau)
    t = np.zeros(s.targets.shape)
    points = rng.standard_normal((_POINTS, s.features.shape[1]))
    full, history = 0, []
    for _ in range(_ROUNDS):
        check_time()
        phi = s.activation(points @ s.features.T)
        base = -0.5 * s.prior * ((phi @ t) ** 2).sum(axis=1) - math.log(_POINTS)
        sample = Sample(points, phi, base)
        t, at, arrived = dual.minimised(sample, t, least_effective=_KEPT * _POINTS)
        if not np.isfinite(at.share).all():
            return None
        chosen = np.searchsorted(np.cumsum(at.share)[:-1], (np.arange(_POINTS) + rng.random()) / _POINTS)
        points = moved(s, points[chosen], t, _MOVES, rng)
        full = full + 1 if arrived else 0
        history.append(t)
        if full >= _SETTLED:
            break
    if full < _SETTLED:
        return None
    t = np.mean(history[-_SETTLED + 1 :], axis=0)
    share = np.full(_POINTS, 1.0 / _POINTS)
    mixture = refitted(prior_mixture(points.shape[1]), points, share, rng)
    return Sampler(solution, labels, rng, _coded(mixture, s, t)), t


def _coded(mixture: Mixture, solution: GeneralSolution, t: FloatArray) -> Mixture:
    """Components whose neurons respond alike are of one code."""
    phi = solution.activation(mixture.mean @ solution.features.T)
    code = np.full(len(phi), -1)
    seen: list[FloatArray] = []
    for k in np.argsort(-mixture.weight, kind="stable"):
        if mixture.code[k] < 0:
            continue
        distance = [float(np.mean((phi[k] - other) ** 2)) for other in seen]
        if distance and min(distance) < _SAME:
            code[k] = int(np.argmin(distance))
        else:
            code[k] = len(seen)
            seen.append(phi[k])
    return Mixture(mixture.weight, mixture.mean, mixture.root, code)
