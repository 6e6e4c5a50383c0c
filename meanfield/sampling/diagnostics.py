"""Convergence of Markov chains: rank-normalised split R-hat, bulk and tail ESS, Monte-Carlo standard errors.

A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Buerkner, "Rank-normalization, folding, and localization: an
improved R-hat for assessing convergence of MCMC", Bayesian Analysis 16:667 (2021). Every function takes draws
(chain, draw, ...) and returns one number per remaining entry; constant quantities give NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from meanfield.validation import BoolArray, FloatArray, real_array

__all__ = ["ess_bulk", "ess_mean", "ess_quantile", "ess_tail", "mcse_mean", "rhat"]

_FEWEST = 4  # draws per chain
_TOGETHER = 256  # quantities whose spectra are in memory at a time


def rhat(draws: object) -> FloatArray:
    """Rank-normalised split R-hat, the larger of the one for the location and the one for the scale.

    Parameters
    ----------
    draws : (c, d, ...) array

    Returns
    -------
    (...) array, or float for one quantity
    """

    def all_of(x: FloatArray) -> FloatArray:
        split = _split(x)
        folded = np.abs(split - np.median(split, axis=(0, 1)))
        location, scale = _rhat(_normal_scores(split)), _rhat(_normal_scores(folded))
        return np.where(scale > location, scale, location)

    return _each(draws, all_of)


def ess_bulk(draws: object) -> FloatArray:
    """Effective sample size of rank-normalised draws: how well the centre of the distribution is known."""
    return _each(draws, lambda x: _ess(_normal_scores(_split(x))))


def ess_tail(draws: object) -> FloatArray:
    """The smaller effective sample size of the 5 % and the 95 % quantiles."""

    def all_of(x: FloatArray) -> FloatArray:
        low, high = _ess_quantile(x, 0.05), _ess_quantile(x, 0.95)
        return np.where(high < low, high, low)

    return _each(draws, all_of)


def ess_quantile(draws: object, probability: float) -> FloatArray:
    """Effective sample size of one quantile."""
    return _each(draws, lambda x: _ess_quantile(x, probability))


def ess_mean(draws: object) -> FloatArray:
    """Effective sample size of the mean."""
    return _each(draws, lambda x: _ess(_split(x)))


def mcse_mean(draws: object) -> FloatArray:
    """Monte-Carlo standard error of the mean over all chains and draws."""
    return _each(draws, lambda x: np.std(x, axis=(0, 1), ddof=1) / np.sqrt(_ess(_split(x))))


def _each(draws: object, function: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """Of every quantity; the function takes many, (c, d, q), to (q,)."""
    array = real_array("draws", draws)
    if array.ndim < 2 or array.shape[1] < _FEWEST:
        raise ValueError(
            f"draws must have shape (chains, draws, ...) with at least {_FEWEST} draws, got {array.shape}."
        )
    flat = array.reshape(*array.shape[:2], -1)
    begins = range(0, flat.shape[2], _TOGETHER)
    values = np.concatenate([function(flat[:, :, begin : begin + _TOGETHER]) for begin in begins])
    return values.reshape(array.shape[2:])[()]  # a number for one quantity


def _split(x: FloatArray) -> FloatArray:
    """First and second half of every chain as chains of their own; the middle draw of an odd number is left out."""
    half = x.shape[1] // 2
    return np.concatenate([x[:, :half], x[:, -half:]])


def _normal_scores(x: FloatArray) -> FloatArray:
    draws = x.reshape(-1, x.shape[2])
    rank = rankdata(draws, method="average", axis=0).reshape(x.shape)
    return np.asarray(ndtri((rank - 0.375) / (len(draws) + 0.25)))


def _constant(x: FloatArray) -> BoolArray:
    return np.asarray(np.ptp(x, axis=(0, 1)) <= 1e-14 * np.abs(x).max(axis=(0, 1)))


def _variances(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Within-chain variance W and the estimate of the posterior variance from W and the between-chain variance."""
    n = x.shape[1]
    within = np.var(x, axis=1, ddof=1).mean(axis=0)
    between = np.var(x.mean(axis=1), axis=0, ddof=1) if len(x) > 1 else 0.0
    return within, within * (n - 1) / n + between


def _rhat(x: FloatArray) -> FloatArray:
    within, total = _variances(x)
    ratio = np.divide(total, within, out=np.full_like(within, np.inf), where=within > 0)
    return np.where(_constant(x), np.nan, np.sqrt(ratio))


def _ess_quantile(x: FloatArray, probability: float) -> FloatArray:
    below = (x <= np.quantile(x, probability, axis=(0, 1))).astype(float)
    return _ess(_split(below))


def _ess(x: FloatArray) -> FloatArray:
    """Effective sample size of the means of chains (c, n, q), by Geyer's initial monotone sequence."""
    found, moving = np.full(x.shape[2], np.nan), ~_constant(x)
    x = x[:, :, moving]
    if not x.size:
        return found
    chains, n, _ = x.shape
    centred = x - x.mean(axis=1, keepdims=True)
    size = 2 ** int(np.ceil(np.log2(2 * n)))
    spectrum = np.abs(np.fft.rfft(centred, size, axis=1)) ** 2
    autocovariance = np.fft.irfft(spectrum, size, axis=1)[:, :n] / n
    within, total = _variances(x)
    rho = 1.0 - (within - autocovariance.mean(axis=0)) / total
    rho[0] = 1.0
    count = max(1, (n - 1) // 2)  # pairs of lags that are looked at
    even, odd = rho[0 : 2 * count : 2], rho[1 : 2 * count : 2]
    pairs = even + odd
    ends = pairs <= 0
    last = np.where(ends.any(axis=0), ends.argmax(axis=0), count - 1)
    kept = np.arange(count)[:, None] < last
    monotone = np.where(kept, np.minimum.accumulate(pairs, axis=0), 0.0).sum(axis=0)
    at = last, np.arange(len(last))
    # Half of the first pair that is left out: improves the estimate for antithetic chains.
    rest = np.where(pairs[at] >= 0, even[at], np.maximum(0.0, even[at]))
    time = np.maximum(-1.0 + 2.0 * monotone + rest, 1.0 / np.log10(chains * n))
    found[moving] = chains * n / time
    return found
