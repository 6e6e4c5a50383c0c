"""e^x of many numbers at once, in a loop without branches and calls, which vectorises."""

from __future__ import annotations

import numpy as np

from meanfield.numerics.jit import jit

__all__ = ["LANES", "exponentials", "padded"]

LANES = 8  # numbers that are done together
_LOWEST, _HIGHEST = -745.0, 800.0  # beyond, e^x is 0 and infinite
_LEAST = 1080
_POWERS = np.append(np.ldexp(1.0, np.arange(-_LEAST, 1024)), np.full(160, np.inf))  # 2^k
_LOG2E = 1.4426950408889634
_LN2, _LN2_REST = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # the first has 32 bits


@jit
def padded(n):
    """n, filled up to whole lanes."""
    return (n + LANES - 1) // LANES * LANES


@jit
def exponentials(value, n, result):
    """result[i] = e^value[i], to 3e-16, for i < n; where value is not a number, 0. Writes whole lanes.

    No integer of this loop can be negative, and its floor is no integer: else it would not vectorise.
    """
    for i in range(padded(n)):
        x = value[i] if value[i] > _LOWEST else _LOWEST
        x = x if x < _HIGHEST else _HIGHEST
        k = np.floor(x * _LOG2E + 0.5)
        r = x - k * _LN2 - k * _LN2_REST
        q = 1.0 / 479001600.0
        q = q * r + 1.0 / 39916800.0
        q = q * r + 1.0 / 3628800.0
        q = q * r + 1.0 / 362880.0
        q = q * r + 1.0 / 40320.0
        q = q * r + 1.0 / 5040.0
        q = q * r + 1.0 / 720.0
        q = q * r + 1.0 / 120.0
        q = q * r + 1.0 / 24.0
        q = q * r + 1.0 / 6.0
        q = q * r + 0.5
        q = q * r + 1.0
        q = q * r + 1.0
        result[i] = q * _POWERS[np.uint32(np.int32(k) + _LEAST)]
