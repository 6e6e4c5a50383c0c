"""G and its first four derivatives at many points, for the systems of equations of transitions."""

from __future__ import annotations

import numpy as np

from meanfield.numerics.cumulant_table import cumulant4
from meanfield.numerics.jit import jit

__all__ = ["cumulant_many"]


@jit
def cumulant_many(table, kappa):
    """`cumulant4` at each kappa (n,), as an array (5, n)."""
    result = np.empty((5, kappa.size))
    for i in range(kappa.size):
        result[0, i], result[1, i], result[2, i], result[3, i], result[4, i] = cumulant4(table, kappa[i])
    return result
