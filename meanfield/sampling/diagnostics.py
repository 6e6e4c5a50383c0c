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

from meanfield.validation import FloatArray, real_array

__all__ = ["ess_bulk", "ess_mean", "ess_quantile", "ess_tail", "mcse_mean", "rhat"]

_FEWEST = 4  # draws per chain


def rhat(draws: object) -> FloatArray:
    """Rank-normalised split R-hat, the larger of the one for the location and the one for the scale.

    Parameters
    ----------
    draws : (c, d, ...) array

    Returns
    -------
    (...) array, or float for one quantity
    """

    def one(x: FloatArray) -> float:
        split = _split(x)
        folded = np.abs(split - np.median(split))
        return max(_rhat(_normal_scores(split)), _rhat(_normal_scores(folded)))

    return _each(draws, one)


def ess_bulk(draws: object) -> FloatArray:
    """Effective sample size of rank-normalised draws: how well the centre of the distribution is known."""
    return _each(draws, lambda x: _ess(_normal_scores(_split(x))))


def ess_tail(draws: object) -> FloatArray:
    """The smaller effective sample size of the 5 % and the 95 % quantiles."""
    return _each(draws, lambda x: min(_ess_quantile(x, 0.05), _ess_quantile(x, 0.95)))


def ess_quantile(draws: object, probability: float) -> FloatArray:
    """Effective sample size of one quantile."""
    return _each(draws, lambda x: _ess_quantile(x, probability))


def ess_mean(draws: object) -> FloatArray:
    """Effective sample size of the mean."""
    return _each(draws, lambda x: _ess(_split(x)))


def mcse_mean(draws: object) -> FloatArray:
    """Monte-Carlo standard error of the mean over all chains and draws."""
    return _each(draws, lambda x: float(np.std(x, ddof=1) / np.sqrt(_ess(_split(x)))))


def _each(draws: object, function: Callable[[FloatArray], float]) -> FloatArray:
    array = real_array("draws", draws)
    if array.ndim < 2 or array.shape[1] < _FEWEST:
        raise ValueError(
            f"draws must have shape (chains, draws, ...) with at least {_FEWEST} draws, got {array.shape}."
        )
    flat = array.reshape(*array.shape[:2], -1)
    values = np.array([function(flat[:, :, i]) for i in range(flat.shape[2])])
    return values.reshape(array.shape[2:])[()]  # a number for one quantity


def _split(x: FloatArray) -> FloatArray:
    """First and second half of every chain as chains of their own; the middle draw of an odd number is left out."""
    half = x.shape[1] // 2
    return np.concatenate([x[:, :half], x[:, -half:]])


def _normal_scores(x: FloatArray) -> FloatArray:
    rank = rankdata(x, method="average").reshape(x.shape)
    return np.asarray(ndtri((rank - 0.375) / (x.size + 0.25)))


def _constant(x: FloatArray) -> bool:
    return bool(np.ptp(x) <= 1e-14 * np.abs(x).max())


def _variances(x: FloatArray) -> tuple[float, float]:
    """Within-chain variance W and the estimate of the posterior variance from W and the between-chain variance."""
    n = x.shape[1]
    within = float(np.mean(np.var(x, axis=1, ddof=1)))
    between = float(np.var(np.mean(x, axis=1), ddof=1)) if len(x) > 1 else 0.0
    return within, within * (n - 1) / n + between


def _rhat(x: FloatArray) -> float:
    if _constant(x):
        return np.nan
    within, total = _variances(x)
    return float(np.sqrt(total / within)) if within > 0 else np.inf


def _ess_quantile(x: FloatArray, probability: float) -> float:
    below = (x <= np.quantile(x, probability)).astype(float)
    return _ess(_split(below))


def _ess(x: FloatArray) -> float:
    """Effective sample size of the mean of chains (c, n), by Geyer's initial monotone sequence."""
    if _constant(x):
        return np.nan
    chains, n = x.shape
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
    last = int(np.argmax(pairs <= 0)) if (pairs <= 0).any() else count - 1
    monotone = float(np.minimum.accumulate(pairs[:last]).sum()) if last else 0.0
    # Half of the first pair that is left out: improves the estimate for antithetic chains.
    rest = float(even[last]) if pairs[last] >= 0 else max(0.0, float(even[last]))
    time = -1.0 + 2.0 * monotone + rest
    time = max(time, 1.0 / np.log10(chains * n))
    return chains * n / time
