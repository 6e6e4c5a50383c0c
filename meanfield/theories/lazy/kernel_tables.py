"""Tables behind the kernel of nearly parallel inputs: phi, and phi smoothed by a Gaussian, as piecewise polynomials.

For u, v of standard deviations s1 >= s2 and correlation rho, v given u is Gaussian around m u, m = rho s2 / s1, with
standard deviation b = s2 sqrt(1 - rho^2), so that

    E[phi(u) phi(v)] = E[phi(u) phi_b(m u)],    phi_b(x) = E phi(x + b xi),  xi ~ N(0, 1).

phi is cut at its kinks and bisected until a polynomial fits each panel, so that jumps, roots and steep parts are
resolved wherever they are. phi_b is smooth at scale b; one table holds it for an octave of b, by Chebyshev
interpolation in ln b (the heat kernel is analytic for |arg b| < pi/4).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.lazy.compiled.kernel import pair_integrals
from meanfield.validation import FloatArray

__all__ = ["Panels", "near_kernel", "panels_of"]

_Q = 16  # Chebyshev coefficients of a panel
_NODE = np.cos(np.pi * (np.arange(_Q) + 0.5) / _Q)
_TO_SERIES = np.cos(np.pi * np.outer(np.arange(_Q), np.arange(_Q) + 0.5) / _Q) * 2.0 / _Q
_TO_SERIES[0] *= 0.5
_CHECK = np.array([-0.9973, -0.911, -0.5772, -0.2718, 0.0577, 0.3142, 0.618, 0.9331, 0.9981])
_CHECK_BASIS = np.polynomial.chebyshev.chebvander(_CHECK, _Q - 1)
_FIT = 3e-14  # error of a polynomial relative to the largest |phi|
_NARROWEST = 1e-9  # width of a panel relative to the smallest standard deviation: what is left of a root counts < 1e-13
_MAX_PANELS = 20_000
_WIDTHS = 18  # values of b in an octave
_WIDTH_NODE = np.cos(np.pi * (np.arange(_WIDTHS) + 0.5) / _WIDTHS)
_WIDTH_SIGN = np.sin(np.pi * (np.arange(_WIDTHS) + 0.5) / _WIDTHS) * (-1.0) ** np.arange(_WIDTHS)
_REACH = 9.0  # the Gaussian beyond is below 1e-17
_INNER = np.linspace(-_REACH, _REACH, 13)
_INNER_X, _INNER_W = np.polynomial.legendre.leggauss(16)
_COARSE = np.polynomial.legendre.leggauss(10)
_FINE = np.polynomial.legendre.leggauss(14)
_SAMPLE = 200  # pairs at which two orders are compared


class Panels(NamedTuple):
    """A function as Chebyshev series on the panels between `edges` (n + 1,); `table` is (n, q)."""

    edges: FloatArray
    table: FloatArray
    size: float  # largest |value|


def panels_of(phi: Activation, reach: float, smallest: float) -> Panels:
    """phi within `reach`, for Gaussians of standard deviation `smallest` and more.

    Raises
    ------
    ValueError
        If phi varies too fast for the number of panels that are allowed.
    """
    start = np.unique(np.concatenate([np.linspace(-reach, reach, 9), [k for k in phi.kinks if abs(k) < reach]]))
    return _fitted(phi, start, _NARROWEST * smallest, phi.name)


def near_kernel(
    phi: Activation, panels: Panels, s1: FloatArray, s2: FloatArray, rho: FloatArray, spread: FloatArray
) -> tuple[FloatArray, float]:
    """E[phi(u) phi(v)] for pairs of standard deviations s1, s2 and correlation rho, all (n,), and its measured error.

    `spread` is 1 - |rho|, which carries the digits that matter.
    """
    wide, narrow = np.maximum(s1, s2), np.minimum(s1, s2)
    slope = rho * narrow / wide
    width = narrow * np.sqrt(spread * (2.0 - spread))
    # log2 of the lower end of the octave; pairs without spread need no smoothing
    octave = np.where(width > 0.0, np.floor(np.log2(np.maximum(width, 1e-300))), -np.inf)
    values, error = np.empty(s1.size), 0.0
    for which in np.unique(octave):
        mine = np.flatnonzero(octave == which)
        if np.isinf(which):
            x_edges, x_table, fault = panels.edges, panels.table[:, None, :], 0.0
            lagrange = np.ones((mine.size, 1))
        else:
            x_edges, x_table, fault = _smoothed_table(phi, panels, 2.0**which, _REACH * float(narrow[mine].max()))
            lagrange = _lagrange(2.0 * (np.log2(width[mine]) - which) - 1.0)

        def integrate(rule: tuple[FloatArray, FloatArray], pairs: FloatArray) -> FloatArray:
            found = np.empty(pairs.size)
            own = lagrange[np.searchsorted(mine, pairs)]
            arguments = (wide[pairs], slope[pairs], *rule, found)
            pair_integrals(panels.edges, panels.table, x_edges, x_table, own, *arguments)
            return found

        for block in np.array_split(mine, 1 + mine.size // 5000):  # an interrupt is seen between blocks
            values[block] = integrate(_FINE, block)
        some = mine[np.unique(np.linspace(0, mine.size - 1, _SAMPLE).astype(int))]
        difference = np.abs(integrate(_COARSE, some) - values[some]).max()
        error = max(error, float(difference) + fault * panels.size)
    return values, error


def _fitted(value: Callable[[FloatArray], FloatArray], edges: FloatArray, narrowest: float, name: str) -> Panels:
    left, right = edges[:-1], edges[1:]
    lefts, tables, size, count = [], [], 0.0, 0
    while left.size:
        half = 0.5 * (right - left)
        middle = left + half
        at = value(middle[:, None] + half[:, None] * _NODE)
        check = value(middle[:, None] + half[:, None] * _CHECK)
        size = max(size, float(np.abs(at).max()))
        table = at @ _TO_SERIES.T
        off = np.abs(table @ _CHECK_BASIS.T - check).max(axis=1)
        # The last bit of z moves phi by this much.
        rounding = 1e-15 * np.abs(middle) / half * (np.abs(table) @ np.arange(_Q))
        good = (off <= _FIT * size + rounding) | (2.0 * half <= np.maximum(narrowest, 1e-14 * np.abs(middle)))
        if not np.isfinite(size):
            raise ValueError(f"{name} is not finite within the reach of its preactivations.")
        lefts.append(left[good])
        tables.append(table[good])
        count += int(good.sum())
        bad = ~good
        left, right = np.concatenate([left[bad], middle[bad]]), np.concatenate([middle[bad], right[bad]])
        if count + left.size > _MAX_PANELS:
            raise ValueError(
                f"the kernel of {name!r} cannot be computed: within {edges[-1]:.3g}, where its preactivations lie, it "
                f"varies too fast for {_MAX_PANELS} polynomials of degree {_Q - 1} (or its values are not smooth to "
                f"{_FIT:.0e}). Scale the inputs down, or smooth the activation."
            )
    starts = np.concatenate(lefts)
    order = np.argsort(starts)
    return Panels(np.append(starts[order], edges[-1]), np.concatenate(tables)[order], size)


def _smoothed(phi: Activation, edges: FloatArray, x: FloatArray, width: float) -> FloatArray:
    """phi_b(x) at sorted points x (n,) by Gauss-Legendre panels that end at `edges`."""
    low, high = x[0] - _REACH * width, x[-1] + _REACH * width
    near = edges[np.searchsorted(edges, low) : np.searchsorted(edges, high)]
    inside = np.clip((near - x[:, None]) / width, -_REACH, _REACH)
    cuts = np.sort(np.concatenate([np.broadcast_to(_INNER, (x.size, _INNER.size)), inside], axis=1), axis=1)
    half = 0.5 * np.diff(cuts)
    nodes = (cuts[:, :-1] + half)[:, :, None] + half[:, :, None] * _INNER_X
    density = np.exp(-0.5 * nodes**2) / math.sqrt(2.0 * math.pi)
    return np.asarray(((phi(x[:, None, None] + width * nodes) * density) @ _INNER_W * half).sum(axis=1))


def _smoothed_table(
    phi: Activation, panels: Panels, width: float, reach: float
) -> tuple[FloatArray, FloatArray, float]:
    """Edges (n + 1,), coefficients (n, widths, q) for b in [width, 2 width], and the measured error of the table."""

    def rows(b: float) -> Callable[[FloatArray], FloatArray]:
        def value(at: FloatArray) -> FloatArray:
            found = np.empty(at.shape)
            for i, row in enumerate(at):
                order = np.argsort(row)
                found[i, order] = _smoothed(phi, panels.edges, row[order], b)
            return found

        return value

    # Panels that resolve phi_b at the smallest b resolve it at the others.
    start = np.unique(np.concatenate([np.linspace(-reach, reach, 9), [k for k in phi.kinks if abs(k) < reach]]))
    edges = _fitted(rows(width), start, 0.02 * width, phi.name).edges
    half = 0.5 * np.diff(edges)[:, None]
    middle = edges[:-1, None] + half
    table = np.empty((half.size, _WIDTHS, _Q))
    for j, node in enumerate(_WIDTH_NODE):
        table[:, j] = rows(width * 2.0 ** (0.5 * (node + 1.0)))(middle + half * _NODE) @ _TO_SERIES.T
    fault = 0.0
    for t in (-0.985, 0.035, 0.99):
        series = np.einsum("w,pwq->pq", _lagrange(np.array([t]))[0], table)
        exact = rows(width * 2.0 ** (0.5 * (t + 1.0)))(middle + half * _CHECK)
        fault = max(fault, float(np.abs(series @ _CHECK_BASIS.T - exact).max()))
    return edges, table, fault


def _lagrange(t: FloatArray) -> FloatArray:
    """(n, widths) weights of the Chebyshev nodes for points t in [-1, 1]."""
    difference = t[:, None] - _WIDTH_NODE
    at = difference == 0.0
    weight = _WIDTH_SIGN / np.where(at, 1.0, difference)
    weight = np.where(at.any(axis=1)[:, None], at, weight)
    return np.asarray(weight / weight.sum(axis=1)[:, None])
