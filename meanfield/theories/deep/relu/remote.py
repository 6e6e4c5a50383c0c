"""Codes that condense but for a mode beyond all lattices (relu/THEORY.md, "Remote modes").

At gain 1 the weight along a ray is A + c x - a ln x. Where c > 0 is small the code is a mode of the bulk at some 1e4 or
more standard deviations, and an outlier but for terms of order 1 / x.
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.theories.deep.relu.average import FINE, slab
from meanfield.theories.deep.relu.distant import ended, first_order
from meanfield.theories.deep.relu.outlier import condensed
from meanfield.theories.deep.relu.setting import ReluSetting
from meanfield.validation import FloatArray

__all__ = ["condenses", "remote_mode"]

_NEAREST = 400.0  # least distance at which the weight along the ray begins to grow
_PLACES = 500.0, 1000.0  # at which it is looked at: A and a are what they are far away to a few per cent
_FARTHEST = 1e30


def condenses(setting: ReluSetting, beta: FloatArray) -> bool:
    """Whether a code of gain 1 is an outlier, or nearly: the weight along its ray falls for a long way."""
    if ended(setting, beta):
        return True
    linear, kink = first_order(setting, beta)
    held = float(setting.n[kink].sum())  # each of these samples makes it fall at least like x^-1/2
    return linear / float(np.linalg.norm(beta)) * _NEAREST < 0.5 * held


def remote_mode(setting: ReluSetting, beta: FloatArray, log_z: float) -> tuple[float, float]:
    """Distance of the mode that an outlier is at N = infinity, in standard deviations, and what taking it as an outlier
    leaves of the equations: infinity and 0 where it is one.

    At a distance x the gain is 1 - c / x, and samples on the kink have an activation of order 1 / x beside those that
    drive the mode. `log_z` is that of the bulk.
    """
    if ended(setting, beta):
        return math.inf, 0.0
    length = float(np.linalg.norm(beta))
    unit = beta / length
    linear, kink = first_order(setting, unit)
    parts = [slab(setting, x * unit, FINE) for x in _PLACES]
    rest = [part.log_z - log_z - linear * x for part, x in zip(parts, _PLACES)]
    power = (rest[0] - rest[1]) / math.log(_PLACES[1] / _PLACES[0])
    start = rest[0] + power * math.log(_PLACES[0])

    def beyond(x: float) -> float:
        """ln of the ratio of what a mode at x has, its width (x / c)^1/2, and what it has to have."""
        return start + 0.5 * linear * x - power * math.log(x) + 0.5 * math.log(x / linear) - 2.0 * math.log(length / x)

    low = max(_PLACES[1], 2.0 * power / linear)
    if beyond(low) > 0.0:
        return low, math.inf
    high = 2.0 * low
    while beyond(high) < 0.0 and high < _FARTHEST:
        low, high = high, 2.0 * high
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if beyond(middle) < 0.0 else (low, middle)
    held = float(np.abs(parts[1].b[kink]).max(initial=0.0)) / float(np.abs(condensed(setting, unit).activation).max())
    return high, (linear + held) / high
