"""More points of the exact measure than importance sampling gives: drawn again by their weights, and moved.

On training inputs outputs of a corrected solution hardly depend on how many points a sample has, since t is the minimum
of J on it. On new inputs they do, by the residual of a regression on the training inputs over the number of points that
count (`Dual.noise`). Where weights are uneven, as those of codes in pieces, few count. Copies of these points that move
within the exact measure at t soon forget where they were, except for their code, which training inputs know.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from meanfield.theories.general_data.exact.check import Sampler
from meanfield.theories.general_data.exact.moves import move
from meanfield.theories.general_data.exact.readout import readout_given
from meanfield.theories.general_data.exact.sample import At, Sample, sample_of
from meanfield.validation import FloatArray

__all__ = ["noise_on_probes", "probes", "spread", "states_for"]

_WALKERS = 4096
_THIN = 3  # moves between two states that are kept
_CORRELATED = 1.5  # points that count as one
_GRADIENTS = 4  # of a move
_TARGET = 1e-3  # of the noise on new inputs, in units of `scale_of` the targets
_MOST_STATES = 6
_VALUES, _WORK = 2e7, 1.5e11  # numbers that are kept, and operations, at most
_PROBES = 60


def probes(features: FloatArray) -> FloatArray:
    """(l, r) features of inputs like new ones: (x + x') / sqrt 2 of pairs of training inputs, as large as these."""
    p = len(features)
    left = np.unique(np.linspace(0, p - 1, min(p, _PROBES)).astype(int))
    return np.asarray((features[left] + features[(left + max(1, p // 2)) % p]) / math.sqrt(2.0))


def noise_on_probes(sampler: Sampler, sample: Sample, at: At) -> float:
    """Root mean square of the standard errors of outputs on probes."""
    if not sample.random:
        return 0.0
    phi = sampler.solution.activation(sample.points @ probes(sampler.solution.features).T)
    error = sampler.dual.noise(sample, at, phi, sampler.dual.curvature(sample, at))
    return float(np.sqrt(np.mean(error**2)))


def states_for(sampler: Sampler, noise: float, effective: float, scale: float) -> int:
    """How many states of the walkers of either half to keep; 0 where the noise is small enough, or that is no help."""
    s = sampler.solution
    p, rank = s.features.shape
    if not noise > _TARGET * scale:
        return 0
    wanted = _CORRELATED * effective * (noise / (_TARGET * scale)) ** 2 / (2.0 * _WALKERS)
    stored = _VALUES / (2.0 * _WALKERS * (p + rank + 2 * s.n_outputs))
    operations = 2.0 * _WALKERS * _THIN * _GRADIENTS * 4.0 * rank * (p + rank)
    states = int(min(math.ceil(wanted), _MOST_STATES, stored, _WORK / operations))
    return states if 2.0 * _WALKERS * states > _CORRELATED * effective else 0


def spread(sampler: Sampler, sample: Sample, t: FloatArray, states: int) -> Sample:
    """A sample of as many states of points that move at t, starting from this one; families are those of a start.

    With frozen fractions points stay in their codes: moves that end in another one are taken back.
    """
    s, rng = sampler.solution, sampler.rng
    at = sampler.dual.at(sample, t)
    edges = np.cumsum(at.share) / at.share.sum()
    chosen = np.searchsorted(edges[:-1], (np.arange(_WALKERS) + rng.random()) / _WALKERS)
    points = sample.points[chosen]
    group = None if sampler.dual.fractions is None else sample.group[chosen]
    kept = []
    for _ in range(states):
        moved = move(s, points, t, _THIN, rng, sampler.reach)
        if group is not None:
            moved = np.where((sampler.mixture.codes(moved) == group)[:, None], moved, points)
        points = moved
        kept.append(points)
    found = sample_of(s.activation, s.features, np.concatenate(kept), np.zeros(_WALKERS * states))
    level = readout_given(s.prior * (found.phi @ t), s.prior, sampler.reach).level
    return replace(
        found,
        base=-level - math.log(len(level)),
        group=None if group is None else np.tile(group, states),
        family=np.tile(chosen, states),
    )
