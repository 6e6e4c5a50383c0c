"""Numbers in order, inside compiled code: Numba's sort is compiled again in every function that has it otherwise."""

from __future__ import annotations

import numpy as np

from meanfield.numerics.jit import jit_apart

__all__ = ["largest_first"]


@jit_apart(returns="int64[::1]")
def largest_first(values):
    """Indices that sort values (n,), the largest first."""
    return np.argsort(-values)
