"""The bulk of an unbounded activation on any data: readout and weights of a neuron that is no outlier, by EP.

    Z_bulk(t) = Int da N(a; 0, s2) Int dw N(w; 0, 1_r) exp(sum_mu (t_mu.a) phi(f_mu.w))   over |a|, |w| = O(1)

Beyond the bulk the integrand rises again along the outlier directions; there it is not integrated, the outliers are
multipliers instead. It is the joint expectation propagation of `joint`, with one code near a = 0 and factors in closed
form.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_ndtr

from meanfield.theories.general_data.compiled.generated.propagation import given_preactivation
from meanfield.theories.general_data.joint.neuron import Joint, Tilted, joint_moments
from meanfield.validation import FloatArray

__all__ = ["bulk_moments"]

_TOLERANCE = 1e-11
_SMALLEST = 1e-24  # variance of a preactivation whose input is zero
_GIVEN = getattr(given_preactivation, "py_func", given_preactivation)  # derived; for arrays, so not compiled


def _tilted(mean: FloatArray, cov: FloatArray, slopes: tuple[float, float]) -> Tilted | None:
    """Closed form: kappa is integrated at given z, which leaves half a Gaussian on either side of the kink.

    `compiled.joint.joint_moments` does the same by quadrature for any phi; of the derived formulas only that of kappa
    given z applies, since theirs for pieces of phi hold at a given kappa, and here kappa is correlated with z.

    None where one of them has no end: the site is not confined.
    """
    kappa, z, v = mean[:, 0], mean[:, 1], np.maximum(cov[:, 1, 1], _SMALLEST)
    beta, rest = _GIVEN(cov[:, 0, 0], cov[:, 0, 1], v)
    rest = np.maximum(rest, 0.0)
    offset = kappa - beta * z  # E[kappa | z] = offset + beta z before the tilt, + rest phi(z) after it
    halves = []
    for s, side in zip(slopes, (-1.0, 1.0)):
        precision = 1.0 / v - 2.0 * s * beta - s * s * rest
        if not precision.min() > 0.0:
            return None
        centre, sd = (z / v + s * offset) / precision, precision**-0.5
        x = side * centre / sd
        log_share = log_ndtr(x)
        log_norm = 0.5 * (x * x - z * z / v - np.log(v * precision)) + log_share
        first = centre + side * sd * np.exp(-0.5 * (x * x + np.log(2.0 * np.pi)) - log_share)
        halves.append((log_norm, s, first, sd * sd + centre * first))
    total = np.logaddexp(halves[0][0], halves[1][0])
    sums = np.zeros((5, len(z)))
    bend = np.zeros(len(z))
    for log_norm, s, first, second in halves:
        p = np.exp(log_norm - total)
        along = beta + rest * s
        sums += p * np.array(
            [s * first, np.full_like(first, s), s * s * second, s * (offset + along * first),
             s * s * (offset * first + along * second)]
        )  # fmt: skip
        bend += p * s * s * (rest + offset * offset + 2.0 * offset * along * first + along * along * second)
    at_kink = np.exp(-0.5 * (z * z / v + np.log(2.0 * np.pi * v)) - total)  # density of z at 0
    phi, slope, phi2, kappa_slope, kappa_slope_phi = sums
    first = np.stack([phi, kappa_slope], axis=-1)
    cross = slope + kappa_slope_phi
    second = np.stack([phi2, cross, cross, bend + (slopes[1] - slopes[0]) * offset * at_kink], axis=-1)
    return Tilted(total, first, second.reshape(-1, 2, 2) - first[:, :, None] * first[:, None, :], slope)


def bulk_moments(
    features: FloatArray,
    t: FloatArray,
    s2: float,
    slopes: tuple[float, float],
    start: Joint | None = None,
    tolerance: float = _TOLERANCE,
) -> Joint | None:
    """EP of the bulk; None where it finds no fixed point (the bulk is not separated from the outlier directions).

    Parameters
    ----------
    features : (P, r) array
        F, K = F F^T.
    t : (P, m) array
    s2 : float
        Prior variance sigma_a^2 / P of a readout weight.
    slopes : (s_-, s_+)
        phi(z) = s_- z for z < 0, s_+ z for z > 0.
    start : Joint, optional
        At a neighbouring t.
    tolerance : float
        Largest change of a site, relative to 1 + its size.
    """

    def tilted(mean: FloatArray, cov: FloatArray) -> Tilted | None:
        return _tilted(mean, cov, slopes)

    found = None
    if start is not None:
        found = joint_moments(features, t, s2, tilted, (start.q, start.nu), tolerance)
    return joint_moments(features, t, s2, tilted, None, tolerance) if found is None else found
