"""The readout of a neuron, given its weights: a Gaussian, cut off where neurons count as outliers.

Given w it is N(c, s2 1_m) with c = s2 t^T phi(F w). Where readouts beyond |a| = R do not belong to the bulk, moments of
what is left follow from the distribution function M_k = P(chi^2_{m + k}(l) <= R^2 / s2), l = |c|^2 / s2, of the
noncentral chi^2 law, as dM_k / dl = (M_{k+2} - M_k) / 2:

    P(|a| <= R) = M_0,    E[a; |a| <= R] = c M_2,    E[a a^T; |a| <= R] = s2 M_2 1_m + M_4 c c^T.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import chndtr

from meanfield.validation import FloatArray

__all__ = ["Readout", "readout_given"]

_INSIDE = 8.5  # standard deviations of the readout from its limit at which the cut is not felt
_LEAST = 1e-12  # share inside the limit, below which its asymptotic form is used: such points have no weight


class Readout(NamedTuple):
    """What is known of the readout at each of n points.

    Attributes
    ----------
    level : (n,) array
        ln int da N(a; 0, s2) exp(a . t^T phi) over the readouts allowed.
    mean : (n, m) array
        E[a | w].
    scatter, along : (n,) arrays
        E[a a^T | w] = scatter 1_m + along mean mean^T.
    """

    level: FloatArray
    mean: FloatArray
    scatter: FloatArray
    along: FloatArray


def readout_given(centre: FloatArray, prior: float, reach: float = math.inf) -> Readout:
    """Moments of the readout whose Gaussians have these centres c (n, m), within |a| <= reach."""
    square = np.einsum("ij,ij->i", centre, centre)
    n, m = centre.shape
    level = (0.5 / prior) * square
    scatter, along = np.full(n, prior), np.ones(n)
    length, width = np.sqrt(square), math.sqrt(prior)
    cut = np.flatnonzero(length + _INSIDE * width > reach)
    if not len(cut):
        return Readout(level, centre, scatter, along)
    noncentral, limit = square[cut] / prior, reach**2 / prior
    share = [np.asarray(chndtr(limit, m + k, noncentral)) for k in (0, 2, 4)]
    tiny = ~(share[0] > _LEAST)
    far = reach / np.maximum(length[cut], 1e-300)
    m0 = np.where(tiny, 1.0, share[0])
    shrunk = np.where(tiny, far, share[1] / m0)
    with np.errstate(divide="ignore"):
        log_share = np.where(tiny, -0.5 * ((length[cut] - reach) / width) ** 2, np.log(m0))
    level[cut] += log_share
    mean = centre.copy()
    mean[cut] *= shrunk[:, None]
    scatter[cut] = np.where(tiny, 0.0, prior * share[1] / m0)
    along[cut] = np.where(tiny, 1.0, share[2] / m0 / np.maximum(shrunk, 1e-300) ** 2)
    return Readout(level, mean, scatter, along)
