"""The weight of a neuron as a sum of smooth peaks, one per local maximum: a Gaussian mixture, and the share of each of
its members in every point (a partition of unity)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from meanfield.theories.deep.layers.rules import NotCovered
from meanfield.validation import FloatArray

__all__ = ["Peaks", "fitted", "moments"]

_ROUNDS, _MOST_ROUNDS, _POINTS = 3, 15, 11  # of the fit, good ones and all; log2 of its points
_TEMPERS = (1.0, 0.5, 0.25, 0.12, 0.06, 0.03, 0.01, 0.003, 0.001)  # powers of the weight of points
_EFFECTIVE = 0.08  # part of the points that has to count
_TAIL, _WIDER, _LEAST = 8, 1.15, 0.02  # degrees of freedom, covariance and smallest share that points are drawn with
_FEW = 8.0  # effective points per dimension from which on a member is fitted to them


class Peaks(NamedTuple):
    """Members of a mixture: mean (k, D), covariance (k, D, D) and share (k,)."""

    mean: FloatArray
    covariance: FloatArray
    share: FloatArray

    def log_parts(self, v: FloatArray) -> FloatArray:
        """(N, k) ln of share times density of every member, up to a constant."""
        return np.log(self.share) - 0.5 * self.squares(v) - self._log_volume

    def squares(self, v: FloatArray) -> FloatArray:
        """(N, k) squared distances in units of the standard deviations of every member."""
        found = np.empty((len(v), len(self.share)))
        for k, (mean, inverse) in enumerate(zip(self.mean, np.linalg.inv(self.roots))):
            found[:, k] = (((v - mean) @ inverse.T) ** 2).sum(axis=1)
        return found

    def shares(self, v: FloatArray) -> FloatArray:
        """(N, k) the part of the weight at v that belongs to every member."""
        parts = self.log_parts(v)
        parts = np.exp(parts - parts.max(axis=1, keepdims=True))
        return np.asarray(parts / parts.sum(axis=1, keepdims=True))

    @property
    def roots(self) -> FloatArray:
        """(k, D, D) Cholesky factors of the covariances."""
        return np.asarray(np.linalg.cholesky(self.covariance))

    @property
    def _log_volume(self) -> FloatArray:
        return np.asarray(0.5 * np.linalg.slogdet(self.covariance)[1])


def drawn(peaks: Peaks, count: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Scrambled Sobol points (2^count, D) of a mixture of Student's t, wider than the peaks, and ln of its density."""
    from scipy.stats import chi2, qmc  # takes longer to load than all else that a sweep of class tasks does

    dimension = peaks.mean.shape[1]
    share = np.maximum(peaks.share, _LEAST)
    share = share / share.sum()
    uniform = np.clip(qmc.Sobol(dimension + 1, seed=seed).random_base2(count), 1e-12, 1.0 - 1e-12)
    ends = np.cumsum(share)
    member = np.minimum(np.searchsorted(ends, uniform[:, -1]), len(share) - 1)
    inside = np.clip((uniform[:, -1] - (ends - share)[member]) / share[member], 1e-9, 1.0 - 1e-9)
    radius = np.sqrt(_WIDER * _TAIL / chi2.ppf(inside, _TAIL))
    roots = peaks.roots
    v = peaks.mean[member] + np.einsum("nij,nj->ni", roots[member], ndtri(uniform[:, :-1]) * radius[:, None])
    shape = 0.5 * (_TAIL + dimension)
    norm = math.lgamma(shape) - math.lgamma(0.5 * _TAIL) - 0.5 * dimension * math.log(_TAIL * math.pi * _WIDER)
    parts = np.log(share) + norm - peaks._log_volume - shape * np.log1p(peaks.squares(v) / (_TAIL * _WIDER))
    top = parts.max(axis=1)
    return v, np.asarray(top + np.log(np.exp(parts - top[:, None]).sum(axis=1)))


def moments(v: FloatArray, part: FloatArray, total: float) -> tuple[FloatArray, FloatArray]:
    """Mean (D,) and covariance (D, D) of points with these weights (N,), whose sum is `total`."""
    mean = part @ v / total
    apart = v - mean
    return mean, (apart.T * (part / total)) @ apart


def fitted(log_weight: Callable[[FloatArray], FloatArray], peaks: Peaks, least: float) -> Peaks:
    """The mixture with the means, covariances and shares that its members have under a weight, by importance sampling.

    Where few of the points have weight, as the mixture is much too wide or too narrow, it is fitted to a weight between
    both at first. Members of a share below `least` are left out.

    Raises
    ------
    NotCovered
        If no mixture is found from which a fair part of the points counts.
    """
    good = 0
    for seed in range(_MOST_ROUNDS):
        v, log_density = drawn(peaks, _POINTS, seed)
        log_ratio = log_weight(v) - log_density
        for temper in _TEMPERS:
            weight = np.exp(temper * (log_ratio - log_ratio.max()))
            weight /= weight.sum()
            if (weight**2).sum() * _EFFECTIVE * len(weight) < 1.0:
                break
        parts = peaks.shares(v) * weight[:, None]
        total = parts.sum(axis=0)
        enough = total**2 > _FEW * v.shape[1] * (parts**2).sum(axis=0)
        mean, covariance = peaks.mean.copy(), peaks.covariance.copy()
        for k in np.flatnonzero(enough):
            mean[k], covariance[k] = moments(v, parts[:, k], total[k])
        share = np.maximum(total, 1e-300)
        kept = share > least * share.max()
        peaks = Peaks(mean[kept], covariance[kept], share[kept] / share[kept].sum())
        good += temper == 1.0
        if good == _ROUNDS:
            return peaks
    raise NotCovered("the peaks of the weight of a layer's neurons were not found to be nearly Gaussian")
