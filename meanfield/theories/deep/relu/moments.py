"""Moments of one sample under its tilted law, in closed form (relu/THEORY.md, "One loop").

z is below zero with the law N(h, d) and above with N(mu, d'), d' = d / (1 - delta d), mu = d' (b + h / d): two
truncated Gaussians, whose moments of any order follow from Mills' ratio.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import erfcx, log_ndtr

from meanfield.theories.deep.compiled.generated.site import MOMENTS, ORDERS, derivatives
from meanfield.validation import BoolArray, FloatArray

__all__ = ["Sample", "sample_derivatives", "sample_moments", "sample_weight"]

_FAR = -2.0  # below it moments are those about zero, from a continued fraction; above about the mean of the Gaussian
_TERMS = 160  # of that fraction
_ORDER = 4


class Sample(NamedTuple):
    """g, the mean of phi, and the moments <(phi - mean)^i xi^j>, rows as MOMENTS, of samples (k,)."""

    g: FloatArray
    mean: FloatArray
    moments: FloatArray


def _half_line(x: FloatArray) -> tuple[BoolArray, FloatArray]:
    """N(x, 1) on the positive half-line: whether moments are about x, and their first four (5, k), 1 in front.

    About x, v > -x: <v^k> = (k - 1) <v^(k-2)> + (-x)^(k-1) lambda, lambda Mills' ratio. About zero the quotients of
    successive moments are r_k = k / (-x + r_(k+1)): nothing cancels, however far below zero x is.
    """
    near = x > _FAR
    moments = np.ones((_ORDER + 1, *x.shape))
    at = np.where(near, x, 0.0)
    mills = math.sqrt(2.0 / math.pi) / erfcx(-at / math.sqrt(2.0))
    power = mills.copy()
    moments[1] = power
    for k in range(2, _ORDER + 1):
        power = -at * power
        moments[k] = (k - 1) * moments[k - 2] + power
    if not near.all():
        far = ~near
        y = -x[far]
        quotient, found = np.zeros_like(y), []
        for k in range(_TERMS, 0, -1):
            quotient = k / (y + quotient)
            if k <= _ORDER:
                found.append(quotient)
        moments[1:, far] = np.cumprod(found[::-1], axis=0)
    return near, moments


def sample_weight(b: FloatArray, h: FloatArray, d: float, delta: float) -> FloatArray:
    """g (k,) alone, for fields whose shapes broadcast."""
    return np.logaddexp(*_log_masses(b, h, d, delta))


def _log_masses(b: FloatArray, h: FloatArray, d: float, delta: float) -> tuple[FloatArray, FloatArray]:
    """ln of the mass of z above and below zero; x_on^2 / 2 - h^2 / 2d is written without its cancellation."""
    curvature = 1.0 - delta * d
    narrow = d / curvature
    log_on = log_ndtr(math.sqrt(narrow) * (b + h / d)) - 0.5 * math.log(curvature)
    log_on = log_on + narrow * (0.5 * b**2 + b * h / d + 0.5 * delta * h**2 / d)
    return log_on, log_ndtr(-h / math.sqrt(d))


def sample_moments(b: FloatArray, h: FloatArray, d: float, delta: float) -> Sample:
    """The law of z at b, h (k,); d and delta with delta d < 1."""
    narrow, root = d / (1.0 - delta * d), math.sqrt(d)
    root_on = math.sqrt(narrow)
    x_on, x_off = root_on * (b + h / d), -h / root
    log_on, log_off = _log_masses(b, h, d, delta)
    g = np.logaddexp(log_on, log_off)
    on, off = np.exp(log_on - g), np.exp(log_off - g)
    near_on, v_on = _half_line(x_on)
    near_off, v_off = _half_line(x_off)
    mean = on * (np.where(near_on, root_on * x_on, 0.0) + root_on * v_on[1])
    # phi - mean and xi as start + unit v.
    phi_on = _powers(np.where(near_on, root_on * x_on, 0.0) - mean)
    xi_on = _powers(np.where(near_on, narrow * (b + delta * h), -h) / root)
    phi_off, xi_off = _powers(-mean), _powers(np.where(near_off, 0.0, -h) / root)
    moments = np.empty((len(MOMENTS), len(b)))
    for row, (i, j) in enumerate(MOMENTS):
        above = _expectation(phi_on, root_on, i, xi_on, root_on / root, j, v_on)
        below = phi_off[i] * _expectation(phi_off, 0.0, 0, xi_off, -1.0, j, v_off)
        moments[row] = on * above + off * below
    return Sample(g, mean, moments)


def _powers(x: FloatArray) -> FloatArray:
    """(5, k) powers of x, from the zeroth on."""
    found = np.ones((_ORDER + 1, len(x)))
    found[1:] = np.cumprod(np.broadcast_to(x, (_ORDER, len(x))), axis=0)
    return found


def _expectation(
    x: FloatArray, x_unit: float, i: int, y: FloatArray, y_unit: float, j: int, moments: FloatArray
) -> FloatArray:
    """<(x + x_unit v)^i (y + y_unit v)^j> from the powers of x and y."""
    total = np.zeros_like(x[0])
    for p in range(i + 1):
        for q in range(j + 1):
            factor = math.comb(i, p) * math.comb(j, q) * x_unit**p * y_unit**q
            total += (factor * x[i - p]) * y[j - q] * moments[p + q]
    return total


def sample_derivatives(b: FloatArray, h: FloatArray, d: float, delta: float) -> tuple[FloatArray, FloatArray]:
    """g (k,) and its derivatives, rows as ORDERS."""
    sample = sample_moments(b, h, d, delta)
    found = np.empty((len(ORDERS), len(b)))
    derivatives(sample.moments, math.sqrt(d), found)
    found[ORDERS.index((1, 0))] += sample.mean
    return sample.g, found
