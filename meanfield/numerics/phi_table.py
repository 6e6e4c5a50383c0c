"""Every nonlinearity phi and its derivatives at tens of millions of preactivations a second, without compiling it.

`Nonlinearity` holds phi as polynomials of degree 7 on cells between its kinks, or as exact linear pieces;
`meanfield.activations.nonlinearity.nonlinearity` makes one. Loops over many values should call the array functions (3
ns a value): passing the tuple to a scalar function costs several times more than the polynomial.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meanfield.numerics.jit import jit

__all__ = ["DEGREE", "Nonlinearity", "phi0", "phi0_array", "phi1", "phi1_array", "phi2"]

DEGREE = 7  # eight coefficients fill one cache line
_BATCH = 256  # values whose cells are found before any is evaluated


class Nonlinearity(NamedTuple):
    """phi(z) for compiled code.

    At a kink or jump the values are those of the right-hand side. Buckets b have equal width 1 / per_unit, a power of
    two, so that finding the bucket of z involves no rounding; bucket b holds the cells first[b] to first[b + 1] - 1
    (one where phi is smooth), the first and the last bucket all of the rest of the line. The outermost cells continue
    phi linearly as far as |z| = 1e150.
    """

    piecewise_linear: bool
    breaks: np.ndarray  # (n,) where piecewise linear, else empty
    intercepts: np.ndarray  # (n + 1,) phi(z) = intercepts[i] + slopes[i] z between breaks[i - 1] and breaks[i]
    slopes: np.ndarray  # (n + 1,)
    per_unit: float
    lowest: float  # floor(z per_unit) of the first and the last bucket
    highest: float
    first: np.ndarray  # (n_buckets + 1,) integers
    edges: np.ndarray  # (n_cells,) left ends of the cells, ascending from -inf
    centre: np.ndarray  # (n_cells,) that of the bucket where it has one cell
    coefficients: np.ndarray  # (n_cells, 8) of the powers of z - centre, lowest first


@jit
def _piece(nl, z):
    """Index of the linear piece of z, without a branch."""
    i = 0
    for j in range(nl.breaks.size):
        i += z >= nl.breaks[j]
    return i


@jit
def _search(edges, low, high, z):
    """Index of the cell of z among low to high - 1."""
    while high - low > 1:
        middle = (low + high) // 2
        if z >= edges[middle]:
            low = middle
        else:
            high = middle
    return low


@jit
def _cell(nl, z):
    """Index of the cell of z; a NaN falls into the first one and comes out as NaN."""
    x = np.floor(z * nl.per_unit)
    if not x > nl.lowest:
        x = nl.lowest
    if x > nl.highest:
        x = nl.highest
    b = int(x - nl.lowest)
    low, high = nl.first[b], nl.first[b + 1]
    if high - low > 1:
        return _search(nl.edges, low, high, z)
    return low


@jit
def phi0(nl, z):
    """phi(z) at one z."""
    if nl.piecewise_linear:
        i = _piece(nl, z)
        return nl.intercepts[i] + nl.slopes[i] * z
    i = _cell(nl, z)
    c = nl.coefficients
    u = z - nl.centre[i]
    w = u * u
    even = ((c[i, 6] * w + c[i, 4]) * w + c[i, 2]) * w + c[i, 0]
    odd = ((c[i, 7] * w + c[i, 5]) * w + c[i, 3]) * w + c[i, 1]
    return even + u * odd


@jit
def phi1(nl, z):
    """phi(z) and phi'(z)."""
    if nl.piecewise_linear:
        i = _piece(nl, z)
        return nl.intercepts[i] + nl.slopes[i] * z, nl.slopes[i]
    i = _cell(nl, z)
    c = nl.coefficients
    u = z - nl.centre[i]
    w = u * u
    # Even and odd powers apart: two short chains of operations instead of a long one.
    even = ((c[i, 6] * w + c[i, 4]) * w + c[i, 2]) * w + c[i, 0]
    odd = ((c[i, 7] * w + c[i, 5]) * w + c[i, 3]) * w + c[i, 1]
    even1 = ((7.0 * c[i, 7] * w + 5.0 * c[i, 5]) * w + 3.0 * c[i, 3]) * w + c[i, 1]
    odd1 = (6.0 * c[i, 6] * w + 4.0 * c[i, 4]) * w + 2.0 * c[i, 2]
    return even + u * odd, even1 + u * odd1


@jit
def phi2(nl, z):
    """phi(z), phi'(z) and phi''(z) (0 at kinks)."""
    value, slope = phi1(nl, z)
    if nl.piecewise_linear:
        return value, slope, 0.0
    i = _cell(nl, z)
    c = nl.coefficients
    u = z - nl.centre[i]
    w = u * u
    even = (30.0 * c[i, 6] * w + 12.0 * c[i, 4]) * w + 2.0 * c[i, 2]
    odd = (42.0 * c[i, 7] * w + 20.0 * c[i, 5]) * w + 6.0 * c[i, 3]
    return value, slope, even + u * odd


@jit
def phi1_array(nl, z, value, slope):
    """Write phi(z) and phi'(z) into `value` and `slope`; flat arrays of equal length."""
    if nl.piecewise_linear:
        for i in range(z.size):
            value[i], slope[i] = nl.intercepts[0] + nl.slopes[0] * z[i], nl.slopes[0]
        for j in range(nl.breaks.size):  # select instead of looking up, which makes vector instructions
            at, a, s = nl.breaks[j], nl.intercepts[j + 1], nl.slopes[j + 1]
            for i in range(z.size):
                above = z[i] >= at
                value[i] = a + s * z[i] if above else value[i]
                slope[i] = s if above else slope[i]
        return
    per_unit, lowest, highest = nl.per_unit, nl.lowest, nl.highest
    first, edges, centre, c = nl.first, nl.edges, nl.centre, nl.coefficients
    width, one_each = 1.0 / per_unit, nl.centre.size == nl.first.size - 1
    cell, offset = np.empty(_BATCH, dtype=np.int64), np.empty(_BATCH)
    for start in range(0, z.size, _BATCH):
        count = min(_BATCH, z.size - start)
        for i in range(count):  # vector instructions
            x = np.floor(z[start + i] * per_unit)
            x = x if x > lowest else lowest
            x = x if x < highest else highest
            cell[i] = int(x - lowest)
            offset[i] = z[start + i] - (x + 0.5) * width
        if not one_each:
            for i in range(count):
                k = first[cell[i]]
                stop = first[cell[i] + 1]
                cell[i] = _search(edges, k, stop, z[start + i]) if stop - k > 1 else k
                offset[i] = z[start + i] - centre[cell[i]]
        for i in range(count):
            k, u = cell[i], offset[i]
            f = c[k, 7]
            g = f
            f = f * u + c[k, 6]
            g = g * u + f
            f = f * u + c[k, 5]
            g = g * u + f
            f = f * u + c[k, 4]
            g = g * u + f
            f = f * u + c[k, 3]
            g = g * u + f
            f = f * u + c[k, 2]
            g = g * u + f
            f = f * u + c[k, 1]
            g = g * u + f
            value[start + i] = f * u + c[k, 0]
            slope[start + i] = g


@jit
def phi0_array(nl, z, value):
    """Write phi(z) into `value`; flat arrays of equal length."""
    slope = np.empty(z.size)
    phi1_array(nl, z, value, slope)
