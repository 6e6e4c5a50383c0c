"""The single-site function at scattered pairs of fields (b, h), that are no grid.

    g(b, h) = ln int Dxi exp(b phi(z) + delta phi(z)^2 / 2),    z = h + sqrt(d) xi

Few pairs are integrated over z each on its own: moments of phi and z under the tilted law are one matrix product, those
of xi follow. Where many are asked for, g and its derivatives are tabulated on a grid of (b, h) that covers them, which
is a matrix product as well, and read at the pairs by ten points along either axis. Differences of
that order tell the error of each place: pairs at which it is too large, few where spacings fit, are integrated.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from meanfield.activations.activation import Activation
from meanfield.theories.deep.compiled.generated.site import MOMENTS, ORDERS, derivatives
from meanfield.theories.deep.compiled.grids import TOGETHER, places, read_grid, read_values
from meanfield.theories.deep.compiled.kernels import POINTS
from meanfield.theories.deep.layers.rows import MIDDLE
from meanfield.theories.deep.layers.rules import activation_range
from meanfield.theories.deep.layers.site import EXPONENTIAL, PRODUCT, SiteNodes, site_derivatives, site_values, z_rule
from meanfield.theories.deep.layers.work import spend
from meanfield.validation import BoolArray, FloatArray, IntArray

__all__ = ["ScatteredSites", "stencil_errors", "stencils"]

_AT_ONCE = 1 << 15  # numbers per temporary array
_DERIVED = 100.0  # multiplications of the derivatives of g at one pair
_READ = 1.5  # and of a number of a stencil
_B_STEP, _H_STEP, _SAFE = 0.5, 0.4, 0.95  # of 1 / range of phi and of sqrt(d), at first; a little less than allowed
_EXACT = 1e-9  # nats of the weight of a class
_BESIDE, _TRIALS = 0.02, 4  # part of the pairs that may be integrated one by one; spacings that are tried
_LEAST = 1e5  # multiplications for each z, below which no table is thought of
_STEEPEST = 300.0  # b times the range of phi, up to which there are tables: no tilt underflows
_MARGIN = POINTS // 2 + 1  # rows and columns beyond the pairs
_WIDER, _MOST = 0.15, 400_000  # how much further than the pairs a table reaches that was too small; its size


def stencils(low: FloatArray, step: FloatArray, b: FloatArray, h: FloatArray) -> tuple[IntArray, IntArray]:
    """First rows and columns of the stencils of pairs (N,) in a table from `low` (2,) on."""
    found = np.empty((2, len(b)), dtype=np.int64)
    for first, x, start, apart in zip(found, (b, h), low, step):
        places(np.ascontiguousarray(x), start, apart, first)
    return found[0], found[1]


class _Table(NamedTuple):
    """g and its derivatives up to a total order, values (rows, columns, functions) at equally spaced b and h, the first
    of which are `low` (2,), and the error of n g by the first row and column of a stencil."""

    low: FloatArray
    step: FloatArray
    values: FloatArray
    highest: int
    error: FloatArray

    def places(self, b: FloatArray, h: FloatArray) -> tuple[IntArray, IntArray, BoolArray]:
        """First rows and columns of the stencils of pairs (N,), and whether the table tells g there."""
        row, column = stencils(self.low, self.step, b, h)
        inside = (row >= 0) & (row < len(self.error)) & (column >= 0) & (column < self.error.shape[1])
        if inside.all():
            return row, column, self.error[row, column] <= _EXACT
        inside[inside] = self.error[row[inside], column[inside]] <= _EXACT
        return row, column, inside

    def read(
        self, b: FloatArray, h: FloatArray, row: IntArray, column: IntArray, highest: int
    ) -> tuple[FloatArray, FloatArray]:
        """As `ScatteredSites`, at pairs with these stencils."""
        at = (np.ascontiguousarray(b), np.ascontiguousarray(h), self.low, self.step, row, column)
        found = np.zeros((len(ORDERS), len(b)))
        wanted = _orders(highest)
        out = np.empty((len(b), _padded(highest)))
        spend(_READ * POINTS**2 * float(out.size))
        if highest == 0:
            read_values(*at, np.ascontiguousarray(self.values[:, :, 0]), out[:, 0])
        else:
            read_grid(*at, np.ascontiguousarray(self.values[:, :, : out.shape[1]]), out)
            found[wanted] = out[:, 1 : len(wanted) + 1].T
        return np.ascontiguousarray(out[:, 0]), found


def _padded(highest: int) -> int:
    """Functions of a table, g and its derivatives up to a total order, and some that are 0."""
    return -(-(len(_orders(highest)) + 1) // TOGETHER) * TOGETHER if highest else 1


@cache
def _orders(highest: int) -> list[int]:
    """Which derivatives there are up to a total order, lowest first."""
    return sorted((i for i, one in enumerate(ORDERS) if sum(one) <= highest), key=lambda i: (sum(ORDERS[i]), i))


def stencil_errors(g: FloatArray, axis: int) -> FloatArray:
    """Error of what stencils along one axis of g (rows, columns) read, by the first row and column of a stencil."""
    off = np.moveaxis(MIDDLE * np.abs(np.diff(g, POINTS, axis=axis)), axis, 0)
    off = np.concatenate([off[:1], np.maximum(off[1:], off[:-1]), off[-1:]])
    return np.moveaxis(sliding_window_view(off, POINTS, axis=1).max(axis=2), 0, axis)


class ScatteredSites:
    """The single sites of one class of n samples at settings of (d, delta), which share spacings."""

    def __init__(self, phi: Activation, step: float, n: float) -> None:
        self.phi, self.step, self.n = phi, step, n
        low, high = activation_range(phi)
        self.range = max(high - low, 1e-300)
        self.spacing = np.array([_B_STEP, _H_STEP])
        self.at(math.nan, 0.0)

    def at(self, d: float, delta: float) -> ScatteredSites:
        """This, at another noise."""
        self.d, self.delta = d, delta
        self.table: _Table | None = None
        self.asked = 0.0
        return self

    def __call__(self, b: FloatArray, h: FloatArray, highest: int) -> tuple[FloatArray, FloatArray]:
        """g (N,) and its derivatives (orders, N), in the order of ORDERS, up to a total order, at b (N,) and h (N,)."""
        row, column, held = self._places(b, h, highest)
        if not held.all():
            self.asked += _each(highest) * float(np.count_nonzero(~held))
            if self.asked > _LEAST and self._prepared(b, h, highest):
                row, column, held = self._places(b, h, highest)
        if not held.any():
            return self._direct(b, h, highest)
        assert self.table is not None
        if held.all():
            return self.table.read(b, h, row, column, highest)
        g, found = np.empty(len(b)), np.empty((len(ORDERS), len(b)))
        g[held], found[:, held] = self.table.read(b[held], h[held], row[held], column[held], highest)
        g[~held], found[:, ~held] = self._direct(b[~held], h[~held], highest)
        return g, found

    # ---- tables ----------------------------------------------------------------------------------

    def _places(self, b: FloatArray, h: FloatArray, highest: int) -> tuple[IntArray, IntArray, BoolArray]:
        if self.table is None or highest > self.table.highest:
            none = np.zeros(len(b), dtype=np.int64)
            return none, none, none.astype(bool)
        return self.table.places(b, h)

    def _prepared(self, b: FloatArray, h: FloatArray, highest: int) -> bool:
        """Whether there is a new table, as pairs asked for so far would have paid for it."""
        low, high = np.array([b.min(), h.min()]), np.array([b.max(), h.max()])
        if self.table is not None:
            first = self.table.low + _MARGIN * self.table.step
            last = self.table.low + (np.array(self.table.values.shape[:2]) - 1 - _MARGIN) * self.table.step
            wide = _WIDER * (high - low)
            low, high = np.where(low < first, low - wide, first), np.where(high > last, high + wide, last)
            highest = max(highest, self.table.highest)
        if max(abs(low[0]), abs(high[0])) * self.range > _STEEPEST:
            return False
        for _ in range(_TRIALS):
            step = self.spacing * [1.0 / self.range, math.sqrt(self.d)]
            count = np.ceil((high - low) / step).astype(int) + 2 * _MARGIN + 1
            size = float(count[0]) * float(count[1])
            if size * _each(highest, grid=True) > self.asked or size > _MOST:
                return False
            table = self._tabulated(low - _MARGIN * step, step, count, 0)
            row, column, held = table.places(b, h)
            if np.count_nonzero(~held) <= _BESIDE * len(b):
                self.table = self._tabulated(table.low, step, count, highest) if highest else table
                self.asked = 0.0
                return True
            self.asked -= size * _each(0, grid=True)
            self._shorten(table, row, column)
        return False

    def _tabulated(self, low: FloatArray, step: FloatArray, count: IntArray, highest: int) -> _Table:
        b, h = (low[axis] + step[axis] * np.arange(count[axis]) for axis in (0, 1))
        nodes, wanted = self._nodes(b, h), _orders(highest)
        values = np.zeros((len(b), len(h), _padded(highest)))
        if highest:
            values[:, :, 0], found = site_derivatives(nodes, b, h, self.d, self.delta, highest)
            values[:, :, 1 : len(wanted) + 1] = found[wanted].transpose(1, 2, 0)
        else:
            values[:, :, 0] = site_values(nodes, b, h, self.d, self.delta)
        error = sum(stencil_errors(self.n * values[:, :, 0], axis) for axis in (0, 1))
        return _Table(low, step, values, highest, np.asarray(error))

    def _shorten(self, table: _Table, row: IntArray, column: IntArray) -> None:
        """Spacings at which few of the pairs are beyond the allowed error, as that of a table tells."""
        g = self.n * table.values[:, :, 0]
        for axis in (0, 1):
            worst = float(np.quantile(stencil_errors(g, axis)[row, column], 1.0 - 0.3 * _BESIDE))
            longer = (0.5 * _EXACT / max(worst, 1e-300)) ** (1.0 / POINTS)
            self.spacing[axis] *= float(np.clip(_SAFE * longer, 0.3, 1.0))

    # ---- one by one ------------------------------------------------------------------------------

    def _nodes(self, b: FloatArray, h: FloatArray) -> SiteNodes:
        return z_rule(self.phi, self.d, float(h.min()), float(h.max()), self.step, float(np.abs(b).max()))

    def _direct(self, b: FloatArray, h: FloatArray, highest: int) -> tuple[FloatArray, FloatArray]:
        nodes, root = self._nodes(b, h), math.sqrt(self.d)
        spend(len(nodes.z) * _each(highest) * float(len(b)))
        middle, origin = 0.5 * float(nodes.phi.max() + nodes.phi.min()), float(nodes.z.mean())
        z, phi = (nodes.z - origin) / root, nodes.phi - middle
        log_law = np.log(nodes.weight / math.sqrt(2.0 * math.pi * self.d)) + 0.5 * self.delta * nodes.phi**2
        powers = [(i, j) for i in range(5) for j in range(5 - i) if i + j <= highest]
        basis = np.column_stack([phi**i * z**j for i, j in powers])
        g, found = np.empty(len(b)), np.zeros((len(ORDERS), len(b)))
        x = (h - origin) / root
        size = max(64, _AT_ONCE // len(z))
        for start in range(0, len(b), size):
            part = slice(start, start + size)
            exponent = np.outer(b[part], phi) + log_law - 0.5 * (z - x[part, None]) ** 2
            top = exponent.max(axis=1)
            sums = np.exp(exponent - top[:, None]) @ basis
            total = sums[:, 0].copy()
            g[part] = top + np.log(total) + middle * b[part]
            if highest:
                means = dict(zip(powers, (sums / total[:, None]).T))
                found[:, part] = _derivatives(means, x[part], root, highest)
                found[ORDERS.index((1, 0)), part] += middle
        return g, found


def _each(highest: int, grid: bool = False) -> float:
    """Multiplications for each z and pair, of pairs of a grid or others."""
    functions = (highest + 1) * (highest + 2) / 2
    return PRODUCT * functions + (0.0 if grid else EXPONENTIAL)


def _derivatives(means: dict[tuple[int, int], FloatArray], x: FloatArray, root: float, highest: int) -> FloatArray:
    """From the means (N,) of powers of phi and z; xi = z - x."""
    powers = [np.ones(len(x))]
    for _ in range(highest):
        powers.append(-powers[-1] * x)
    rows = np.zeros((len(MOMENTS), len(x)))
    for row, (i, j) in zip(rows, MOMENTS):
        if i + j <= highest:
            for k in range(j + 1):
                row += math.comb(j, k) * means[i, k] * powers[j - k]
    found = np.empty((len(ORDERS), len(x)))
    derivatives(rows, root, found)
    return found
