"""From an approximate solution to the exact theory: Newton's method on samples of the exact measure.

On a frozen sample J is smooth and convex, so that a few steps of Newton's method end at its minimum; where t moves so
far that few points are left, a new sample is drawn there.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from meanfield.numerics.limits import OutOfTime, check_time
from meanfield.theories.general_data.exact.check import Measured, Sampler, scale_of, summary
from meanfield.theories.general_data.exact.particles import ParticleSolution
from meanfield.theories.general_data.exact.sample import At, Sample, Shift
from meanfield.theories.general_data.exact.spread import noise_on_probes, spread, states_for
from meanfield.validation import FloatArray

__all__ = ["correct"]

_ROUNDS = 30  # samples on the way
_EVEN = 0.02  # share of effective points of a usable sample
_KEPT = 0.3  # share of the effective points that a step leaves
_EXACT = 1e-9  # change of t at which nodes need not move any more
_NOISE = 3e-4  # of the outputs, that more points are drawn for
_SIGMAS = 3.0


def correct(sampler: Sampler, t: FloatArray, thorough: bool = True) -> tuple[ParticleSolution, Measured] | None:
    """The exact solution near t, and how well it is known; None where sampling does not work.

    `thorough`: with points enough for new inputs, too.
    """
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
    return _pool(sampler, t, n, thorough)


class _Found(NamedTuple):
    """An answer with its error, on two independent samples and on both as one, at its minimum."""

    parts: list[Sample]
    both: Sample
    at: At
    t: FloatArray
    answer: ParticleSolution
    measured: Measured


def _pool(sampler: Sampler, t: FloatArray, n: int, thorough: bool) -> tuple[ParticleSolution, Measured] | None:
    """Two new samples, each with its own minimum, then both together; the difference is the error."""
    scale = scale_of(sampler.solution.targets)
    best: _Found | None = None
    while True:
        if sampler.few and not sampler.annealing:
            sampler.fit(t, n)
        parts = []
        for _ in range(2):
            check_time()
            parts.append(sampler.sample(n, t))
        found = _together(sampler, parts, t)
        if found is None:
            return None
        t = found.t
        key = found.measured.even, -found.measured.noise
        if best is None or key > (best.measured.even, -best.measured.noise):
            best = found
        if best.measured.within(scale) and best.measured.noise <= _NOISE * scale:
            break
        more = sampler.improve(found.both, found.at, n, found.measured.even)
        if more is None or (best.measured.reliable and more <= n):
            break
        n = more
    noise = noise_on_probes(sampler, best.both, best.at)
    if thorough and best.measured.within(scale):
        best, noise = _spread(sampler, best, noise, scale)
    return best.answer, best.measured._replace(new_noise=noise)


def _spread(sampler: Sampler, found: _Found, noise: float, scale: float) -> tuple[_Found, float]:
    """The same, and its noise, with points enough that outputs on new inputs are known, too, if there is time."""
    effective = found.measured.effective
    states = states_for(sampler, noise, effective, scale)
    if not states:
        return found, noise
    try:
        parts = [spread(sampler, part, found.t, states) for part in found.parts]
        better = _together(sampler, parts, found.t)
        if better is None or not better.measured.within(scale):
            return found, noise
        less = noise_on_probes(sampler, better.both, better.at)
    except OutOfTime:
        return found, noise
    if not less < noise:
        return found, noise
    # Points of a family are not independent: as many count as would have this noise.
    effective = min(better.measured.effective, effective * (noise / max(less, 1e-300)) ** 2)
    return better._replace(measured=better.measured._replace(effective=effective)), less


def _together(sampler: Sampler, parts: list[Sample], t: FloatArray) -> _Found | None:
    """Two samples as one, and the answer at its minimum; None where there is no minimum."""
    ends = []
    for part in parts:
        own, _, arrived = sampler.minimise(part, t)
        if not arrived:
            return None
        ends.append(own)
    both = _join(parts[0], parts[1])
    t, at, arrived = sampler.minimise(both, 0.5 * (ends[0] + ends[1]))
    if not arrived:
        return None
    error = sampler.shift(both, t)[0].error
    half = 0.5 * sampler.solution.tau * (ends[0] - ends[1])
    measured = summary(Shift(half, error), at, sampler.missed, scale_of(sampler.solution.targets))
    return _Found(parts, both, at, t, sampler.answer(both, at, t, np.array(ends)), measured)


def _join(one: Sample, other: Sample) -> Sample:
    def both(name: str) -> FloatArray:
        return np.concatenate([getattr(one, name), getattr(other, name)])

    sizes = len(one.base), len(other.base)
    return Sample(
        both("points"),
        both("phi"),
        both("base") - math.log(2.0),
        None if one.group is None else both("group"),
        family=np.concatenate([np.arange(n) if x.family is None else x.family for n, x in zip(sizes, (one, other))]),
        half=np.repeat([0, 1], sizes),
    )


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
    return sampler.answer(exact, at, t), measured._replace(new_noise=0.0)
