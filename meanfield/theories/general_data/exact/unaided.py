"""The exact theory without expectation propagation: t is followed from 0, where weights have their prior.

In few dimensions a mixture of many Gaussians follows the measure: on a sample of it Newton's method goes as far as half
of the points still count, and the mixture is fitted again to samples of itself at the new t. Weights of distant codes
then are those of the samples, whatever lies between.

In many dimensions particles follow, which know their own place only.

On particles at some t Newton's method goes as far as half of them still count; they are drawn again by their weights,
moved (Hamiltonian moves, or elliptical slices) at the new t, and so on until t stays. What is found is only a start: a
mixture fitted to the particles is the proposal of new samples, from which the answer and its error are taken.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.numerics.limits import check_time
from meanfield.theories.general_data.exact.check import Sampler
from meanfield.theories.general_data.exact.moves import move
from meanfield.theories.general_data.exact.particles import particle_solution
from meanfield.theories.general_data.exact.proposal import Mixture, adapt, affordable, prior_mixture, refit
from meanfield.theories.general_data.exact.sample import At, Dual, Sample, sample_of
from meanfield.theories.general_data.solution import GeneralSolution
from meanfield.validation import FloatArray, IntArray

__all__ = ["approach", "blank"]

_POINTS, _FOLLOWING = 4096, 20_000  # particles, and points of a mixture
_ROUNDS, _SETTLED = 150, 6  # steps of t; how many full ones count as arrived
_AGREED = 2  # the same of mixtures
_KEPT, _SOUND = 0.5, 0.1  # effective points: share that a step leaves, and share that a sample needs for one
_MOST_LOST = 8  # steps that were too long
_RICHER = 0.75  # Gaussians that points are enough for, in units of those there are (with their wider copies)
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


def approach(
    solution: GeneralSolution, labels: IntArray | None, rng: np.random.Generator
) -> tuple[Sampler, FloatArray] | None:
    """A sampler and the t at which its proposal has arrived; None where neither way leads there."""
    return _by_mixtures(solution, labels, rng) or _by_particles(solution, labels, rng)


def _by_mixtures(
    solution: GeneralSolution, labels: IntArray | None, rng: np.random.Generator
) -> tuple[Sampler, FloatArray] | None:
    sampler = Sampler(solution, labels, rng, prior_mixture(solution.features.shape[1]))
    if not sampler.few:
        return None
    n, full = _FOLLOWING, 0
    t = before = np.zeros(solution.targets.shape)
    adjusted: Mixture | None = None
    lost = 0
    for _ in range(_ROUNDS):
        known = sampler.mixture
        found = sampler.fit(t, n, adjusted)
        if found is None or found[1].effective < _SOUND * n:
            # Newton's method went where the sample happened to have no points: less far.
            sampler.mixture, adjusted, t, full = known, None, 0.5 * (before + t), 0
            lost += 1
            if lost > _MOST_LOST:
                return None
            continue
        before = t
        t, at, arrived = sampler.dual.minimise(found[0], t, least_effective=_KEPT * found[1].effective)
        points, share = found[0].points, at.share
        adjusted = adapt(sampler.mixture, points, share)
        if affordable(points.shape[1], share) > _RICHER * len(adjusted.weight):  # it was fitted to fewer points
            adjusted = refit(adjusted, points, share, rng)
        full = full + 1 if arrived else 0
        if full >= _AGREED:
            sampler.mixture = _coded(sampler.mixture, solution, t)
            return sampler, t
    return None


def _by_particles(
    solution: GeneralSolution, labels: IntArray | None, rng: np.random.Generator
) -> tuple[Sampler, FloatArray] | None:
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
        t, at, arrived = dual.minimise(sample, t, least_effective=_KEPT * _POINTS)
        if not np.isfinite(at.share).all():
            return None
        chosen = np.searchsorted(np.cumsum(at.share)[:-1], (np.arange(_POINTS) + rng.random()) / _POINTS)
        points = move(s, points[chosen], t, _MOVES, rng)
        full = full + 1 if arrived else 0
        history.append(t)
        if full >= _SETTLED:
            break
    if full < _SETTLED:
        return None
    t = np.mean(history[-_SETTLED + 1 :], axis=0)
    share = np.full(_POINTS, 1.0 / _POINTS)
    mixture = refit(prior_mixture(points.shape[1]), points, share, rng)
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
