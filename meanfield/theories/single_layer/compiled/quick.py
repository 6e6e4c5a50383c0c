"""G, G', G'' from one short polynomial per interval: what a lattice sum over the readout evaluates.

`Table` holds five polynomials of degree 13 for each interval; here it is one of degree 7 in a cache line, on intervals
so narrow that G' agrees with the table to 4e-15 of max(1, |G'|).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from meanfield.numerics.cumulant_table import cumulant2
from meanfield.numerics.jit import jit

__all__ = ["Quick", "cumulants", "quick2"]


class Quick(NamedTuple):
    """Polynomials of degree 7 in u = (kappa - centre) / width, |u| <= 1/2.

    The first n = 2 `half` intervals have equal widths, with kappa = 0 in their middle; then come those of a constant
    ratio for kappa > 0, and as many for kappa < 0, all outwards.
    """

    coefficients: np.ndarray  # (n + 2 f, 8)
    half: int
    inverse: float  # one over the width of the first n intervals
    centre: np.ndarray  # (2 f,)
    far_inverse: np.ndarray  # (2 f,)
    per_log: float  # intervals per unit of ln kappa
    kappa_max: float  # beyond, G goes on with the curvature that it has at infinity
    growth_plus: float
    growth_minus: float


@jit
def cumulants(table, kappa):
    """G, G', G'' (n, 3) of the table at each kappa (n,)."""
    result = np.empty((kappa.size, 3))
    for i in range(kappa.size):
        result[i, 0], result[i, 1], result[i, 2] = cumulant2(table, kappa[i])
    return result


@jit
def _interval(quick, kappa):
    """Interval that holds kappa (at most kappa_max in size), u, and one over its width."""
    x = kappa * quick.inverse
    half = quick.half
    if abs(x) < half or quick.centre.shape[0] == 0:
        i = min(int(x + half), 2 * half - 1)
        return i, x + half - i - 0.5, quick.inverse
    n_far = quick.centre.shape[0] // 2
    j = min(int(quick.per_log * math.log(abs(x) / half)), n_far - 1)
    if kappa < 0.0:
        j += n_far
    return 2 * half + j, (kappa - quick.centre[j]) * quick.far_inverse[j], quick.far_inverse[j]


# Rows of coefficients are read in place: a view of them, or a table passed on, would be counted as a reference at every
# call, which takes ten times as long as the polynomial.


@jit
def quick2(quick, kappa):
    """G, G' and G'' at one kappa."""
    reach = min(max(kappa, -quick.kappa_max), quick.kappa_max)
    i, u, inverse = _interval(quick, reach)
    g0 = quick.coefficients[i, 7]
    g1 = 7.0 * g0
    g2 = 42.0 * g0
    for j in range(6, 1, -1):
        g0 = g0 * u + quick.coefficients[i, j]
        g1 = g1 * u + j * quick.coefficients[i, j]
        g2 = g2 * u + (j * (j - 1)) * quick.coefficients[i, j]
    g0 = g0 * u + quick.coefficients[i, 1]
    g1 = (g1 * u + quick.coefficients[i, 1]) * inverse
    g0 = g0 * u + quick.coefficients[i, 0]
    beyond = kappa - reach
    growth = quick.growth_plus if kappa > 0.0 else quick.growth_minus
    return g0 + beyond * (g1 + 0.5 * growth * beyond), g1 + growth * beyond, g2 * (inverse * inverse)
