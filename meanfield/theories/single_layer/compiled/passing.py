"""G at a few kappa without a table: of tasks that are passed on the way to another one."""

from __future__ import annotations

import numpy as np

from meanfield.numerics.cumulant_table import direct4
from meanfield.numerics.jit import jit

__all__ = ["direct_fields"]


@jit
def direct_fields(direct, kappa):
    """G and its first four derivatives at each kappa (n,), as an array (5, n); NaN beyond the reach of the rule."""
    result = np.empty((5, kappa.size))
    for i in range(kappa.size):
        g0, g1, g2, g3, g4 = direct4(direct, kappa[i])
        result[0, i], result[1, i], result[2, i], result[3, i], result[4, i] = g0, g1, g2, g3, g4
    return result
