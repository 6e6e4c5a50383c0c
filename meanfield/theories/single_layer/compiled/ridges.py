"""Readouts on the ridges of h along directions that prior and growth leave almost unconfined (sigma_a = 1).

Along a direction u with Q(u) = 1, h tends to the sum of R over the classes with kappa_c = 0 and of its limits over the
others. Where R has a maximum at a finite kappa (ReLU: 0.135 at 0.8) a readout that keeps some kappa_c there while the
others grow is a maximum far out, or one at infinity: at the edges of cones of outliers, which code words do not find.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.jit import jit, jit_apart
from meanfield.numerics.linalg import cholesky, cholesky_solve
from meanfield.theories.single_layer.compiled.ascent import ascend, merge_maximum
from meanfield.theories.single_layer.compiled.outlier import worst_directions

__all__ = ["HEIGHT_ROUNDING", "RIDGE_RADII", "climb_ridges", "highest_maximum", "ridge_start"]

RIDGE_RADII = 3  # starts along each direction
_SMALL = 0.05  # kappa below this, in units of the largest, may be held
_RIDGE = 0.98  # growth from which on a direction is a ridge
HEIGHT_ROUNDING = 1e-15  # of h, in units of |a|^2
_FAR_OUT = 1e5  # a readout beyond this has run away, in units of sigma_a


@jit
def ridge_start(table, p, t, u, number, a):
    """Fill `a` with the start of this number (below RIDGE_RADII) on the ridge along u; False where it is none.

    Small kappa_c are put where R of a rectifier is largest, the others where R is near its limit.
    """
    n_classes, m = t.shape
    longest = 1e-300
    kappa = np.empty(n_classes)
    for c in range(n_classes):
        kappa[c] = np.sum(t[c] * u)
        longest = max(longest, abs(kappa[c]))
    least, most = min(table.growth_plus, table.growth_minus), max(table.growth_plus, table.growth_minus)
    reach = 5.0 / (table.scale * longest)
    for _ in range(number):
        reach *= 6.0 if least == 0.0 else max(np.sqrt(np.sqrt(most / least)), 3.0)
    for r in range(m):
        a[r] = reach * u[r]
    held = np.zeros(n_classes, np.int64)
    n = 0
    for c in range(n_classes):
        if abs(kappa[c]) <= _SMALL * longest and n < m - 1:
            held[n] = c
            n += 1
    if n == 0:
        return number == 0
    gram = np.empty((n, n))
    rest = np.empty(n)
    side = 1.0 if table.growth_plus >= table.growth_minus else -1.0
    trace = 0.0
    for i in range(n):
        rest[i] = side * 0.5 / table.scale - reach * kappa[held[i]]
        for j in range(n):
            gram[i, j] = np.sum(t[held[i]] * t[held[j]])
        trace += gram[i, i]
    for i in range(n):
        gram[i, i] += 1e-6 * trace
    if not cholesky(gram):
        return False
    cholesky_solve(gram, rest)
    for i in range(n):
        for r in range(m):
            a[r] += rest[i] * t[held[i], r]
    return True


@jit
def highest_maximum(maxima, heights, count):
    """The largest of `heights`, each less what rounding may feign: its terms of order |a|^2 cancel."""
    top = -np.inf
    for i in range(count):
        top = max(top, heights[i] - HEIGHT_ROUNDING * np.sum(maxima[i] * maxima[i]))
    return top


@jit_apart(returns="Tuple((int64, float64))")
def climb_ridges(table, p, t, maxima, heights, count):
    """Add the maxima of h that ridges lead to; returns (their number, the largest h of a readout that runs away).

    The latter is reduced by what the cancellation of terms of order |a|^2 may feign.
    """
    m = t.shape[1]
    escaped = -np.inf
    if table.growth_plus == 0.0 and table.growth_minus == 0.0:
        return count, escaped
    directions = np.empty((64, m))
    values = np.empty(64)
    n, _, _ = worst_directions(table, p, t, _RIDGE, directions, values)
    a = np.empty(m)
    for i in range(n):
        for number in range(RIDGE_RADII):
            if exhausted(table.stop, 1):
                return count, escaped
            if not ridge_start(table, p, t, directions[i], number, a):
                continue
            h, _ = ascend(table, p, t, a)
            if np.max(np.abs(a)) < _FAR_OUT:
                count = merge_maximum(maxima, heights, count, a, h, 1e-6)
            else:
                escaped = max(escaped, h - 4.0 * HEIGHT_ROUNDING * np.sum(a * a))
    return count, escaped
