"""Codes in pieces: a neuron that either meets a hard sample or gives up on it.

Where a sample is hard its preactivation has two separate values, and P(w) two bumps whose exchange no Gaussian
follows: the fixed point of EP vanishes although Z is smooth. Z is then split exactly by

    1 = Phi((z_mu - c) / l) + Phi((c - z_mu) / l)

with c between the bumps, and each part has a fixed point of its own; again, on other samples, where need be. The parts
(pieces) of a code are the leaves of a binary tree, whose branches are the cuts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.general_data.joint.neuron import Cut, Joint, cavities
from meanfield.validation import FloatArray

__all__ = ["apart", "beside", "between", "places", "region", "within"]

_CANDIDATES = 8
_LEAST_RATIO = 1.2  # of the variances of z with and without the sample
_GRID = 400
_REACH = 8.0  # standard deviations
_WIDTH, _NARROW = 0.05, 0.2  # of the partition: in units of the distance of the bumps, or of the standard deviation


def places(joint: Joint, t: FloatArray, activation: Activation, bumps: int = 1) -> list[Cut]:
    """Cuts (side + 1) of the samples that widen P(z_mu) most: between the bumps, or at the mean where there is one.

    Only of samples with at least that many `bumps` (1 or 2).
    """
    cov, mean, cavity_cov, cavity_mean = cavities(joint, t)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.nan_to_num(cov[:, 1, 1] / cavity_cov[:, 1, 1])
    used = {cut.sample for cut in joint.cuts}
    cuts = []
    for i in np.argsort(-ratio)[:_CANDIDATES]:
        if ratio[i] < _LEAST_RATIO or int(i) in used:
            continue
        (kk, kz), (_, zz) = cavity_cov[i]
        slope, sd = kz / zz, np.sqrt(zz)
        reach = _REACH * max(sd, np.sqrt(cov[i, 1, 1]))
        ends = min(cavity_mean[i, 1], mean[i, 1]) - reach, max(cavity_mean[i, 1], mean[i, 1]) + reach
        z = np.linspace(*ends, _GRID)
        x, phi = z - cavity_mean[i, 1], activation(z)
        level = (cavity_mean[i, 0] + slope * x + 0.5 * max(kk - slope * kz, 0.0) * phi) * phi - 0.5 * x * x / zz
        tops = np.flatnonzero((level[1:-1] > level[:-2]) & (level[1:-1] >= level[2:])) + 1
        if len(tops) < bumps:
            continue
        at, width = mean[i, 1], _NARROW * np.sqrt(cov[i, 1, 1])
        if len(tops) > 1:
            low, high = np.sort(tops[np.argsort(-level[tops])[:2]])
            at, width = z[low + np.argmin(level[low : high + 1])], _WIDTH * (z[high] - z[low])
        cuts.append(Cut(int(i), float(at), float(width), 1))
    return cuts


def beside(joint: Joint, sample: int, mean: float, side: int) -> Cut:
    """Cut of a sample two standard deviations beyond its mean preactivation in a code."""
    spread = _spread(joint, sample)
    return Cut(sample, mean + 2.0 * side * spread, _NARROW * spread, side)


def between(near: Joint, far: Joint, sample: int, means: tuple[float, float], side: int) -> Cut:
    """Cut of a sample between its mean preactivations in two codes, equally many standard deviations from either."""
    (here, there), (width, other) = means, (_spread(near, sample), _spread(far, sample))
    return Cut(sample, (here * other + there * width) / (width + other), _WIDTH * abs(there - here), side)


def _spread(joint: Joint, sample: int) -> float:
    return float(np.sqrt(joint.z[:, sample] @ joint.z[:, sample]))


def apart(one: Sequence[Cut], other: Sequence[Cut]) -> bool:
    """Whether two pieces of one code lie on different sides of a cut."""
    return any(cut.flipped in other for cut in one)


def within(piece: Sequence[Cut], whole: Sequence[Cut]) -> bool:
    return len(piece) > len(whole) and tuple(piece[: len(whole)]) == tuple(whole)


def region(z: FloatArray, pieces: Sequence[tuple[Cut, ...]]) -> tuple[Cut, ...] | None:
    """The cuts of the largest part of a code that holds preactivations z (P,) and none of the known pieces; or None."""
    path: tuple[Cut, ...] = ()
    while True:
        inside = [cuts for cuts in pieces if cuts[: len(path)] == path]
        if not inside:
            return path
        if any(len(cuts) == len(path) for cuts in inside):
            return None
        cut = inside[0][len(path)]
        above = 1 if z[cut.sample] > cut.at else -1
        path = (*path, cut if cut.side == above else cut.flipped)
