"""From an approximate solution to the exact theory: Newton's method on samples of the exact measure.

On a frozen sample J is smooth and convex, so that a few steps of Newton's method end at its minimum; where t moves so
far that few points are left, a new sample is drawn there.
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.limits import check_time
from meanfield.theories.general_data.exact.check import Measured, Sampler, scale_of, summary
from meanfield.theories.general_data.exact.particles import ParticleSolution
from meanfield.theories.general_data.exact.sample import At, Sample, Shift
from meanfield.validation import FloatArray

__all__ = ["correct"]

_ROUNDS = 30  # samples on the way
_EVEN = 0.02  # share of effective points of a usable sample
_KEPT = 0.3  # share of the effective points that a step leaves
_EXACT = 1e-9  # change of t at which nodes need not move any more
_NOISE = 3e-4  # of the outputs, that more points are drawn for
_SIGMAS = 3.0


def correct(sampler: Sampler, t: FloatArray) -> tuple[ParticleSolution, Measured] | None:
    """The exact solution near t, and how well it is known; None where sampling does not work."""
    exact = sampler.quadrature(t)
    if exact is not None:
        return _by_quadrature(sampler, t, exact)
    n: int | None = sampler.first
    arrived = False
    for _ in range(_ROUNDS):
        if n is None:
            return None
        check_time()
        found = sampler.fit(t, n) if sampler.few and not sampler.annealing else None
        sample = sampler.sample(n, t) if found is None else found[0]
        before = sampler.dual.at(sample, t)
        if not math.isfinite(before.log_z):
            return None
        t, at, arrived = sampler.minimise(sample, t, least_effective=_KEPT * before.effective)
        even = at.effective >= _EVEN * len(at.share)
        if arrived and even:
            break
        if even:
            sampler.adapt(sample, at)
        else:
            n = sampler.improve(sample, at, n, even)
    if not arrived or n is None:
        return None
    if sampler.dual.fractions is None:
        sampler.scout(t)
    return _pool(sampler, t, n)


def _pool(sampler: Sampler, t: FloatArray, n: int) -> tuple[ParticleSolution, Measured] | None:
    """Two new samples, each with its own minimum, then both together; the difference is the error."""
    scale = scale_of(sampler.solution.targets)
    best: tuple[ParticleSolution, Measured] | None = None
    while True:
        if sampler.few and not sampler.annealing:
            sampler.fit(t, n)
        found = []
        for _ in range(2):
            check_time()
            sample = sampler.sample(n, t)
            own, _, arrived = sampler.minimise(sample, t)
            if not arrived:
                return None
            found.append((sample, own))
        both = _join(found[0][0], found[1][0])
        t, at, arrived = sampler.minimise(both, 0.5 * (found[0][1] + found[1][1]))
        if not arrived:
            return None
        error = sampler.shift(both, t)[0].error
        half = 0.5 * sampler.solution.tau * (found[0][1] - found[1][1])
        result = summary(Shift(half, error), at, sampler.missed, scale)
        if best is None or (result.even, -result.noise) > (best[1].even, -best[1].noise):
            best = sampler.answer(both, at, t), result
        if best[1].within(scale) and best[1].noise <= _NOISE * scale:
            break
        more = sampler.improve(both, at, n, result.even)
        if more is None or (best[1].reliable and more <= n):
            break
        n = more
    return best


def _join(one: Sample, other: Sample) -> Sample:
    def both(name: str) -> FloatArray:
        return np.concatenate([getattr(one, name), getattr(other, name)])

    group = None if one.group is None else np.concatenate([one.group, other.group])
    return Sample(both("points"), both("phi"), both("base") - math.log(2.0), group)


def _by_quadrature(sampler: Sampler, t: FloatArray, exact: Sample) -> tuple[ParticleSolution, Measured] | None:
    at: At
    for _ in range(_ROUNDS):
        check_time()
        before = t
        t, at, arrived = sampler.minimise(exact, t)
        if not arrived:
            return None
        if np.abs(t - before).max() <= _EXACT * (1.0 + np.abs(t).max()):
            break
        again = sampler.quadrature(t)
        if again is None:
            return None
        exact = again
    measured = sampler.measure(t)
    return sampler.answer(exact, at, t), measured
