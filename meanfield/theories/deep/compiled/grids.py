"""Functions of two variables read from a table between its rows and columns."""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.jit import jit
from meanfield.theories.deep.compiled.kernels import POINTS

__all__ = ["TOGETHER", "places", "read_grid", "read_values"]

TOGETHER = 8  # a multiple of it are the functions of a table that are read at once
_SCALE = np.array([
    1.0 / math.prod(k - m for m in range(POINTS) if m != k) for k in range(POINTS)
])  # fmt: skip


@jit
def places(x, low, step, first):
    """First of the POINTS neighbours between which each x (N,) is, of values `step` apart from `low` on."""
    for i in range(len(x)):
        first[i] = math.floor((x[i] - low) / step) - POINTS // 2 + 1


@jit
def _weights(x, scale, weight):
    """Lagrange weights at x, in steps from the first of POINTS neighbours."""
    before = 1.0
    for k in range(POINTS):
        weight[k] = before * scale[k]
        before *= x - k
    after = 1.0
    for k in range(POINTS - 1, -1, -1):
        weight[k] *= after
        after *= x - k


@jit
def read_values(b, h, low, step, row, column, table, out):
    """table (rows, columns), which are `step` apart from `low` on, (2,) each, at pairs b and h (N,) whose neighbours
    are those from row and column (N,) on; in out (N,)."""
    by_row, by_column = np.empty(POINTS), np.empty(POINTS)
    for i in range(len(row)):
        _weights((b[i] - low[0]) / step[0] - row[i], _SCALE, by_row)
        _weights((h[i] - low[1]) / step[1] - column[i], _SCALE, by_column)
        total = 0.0
        for a in range(POINTS):
            part = 0.0
            for c in range(POINTS):
                part += by_column[c] * table[row[i] + a, column[i] + c]
            total += by_row[a] * part
        out[i] = total


@jit
def read_grid(b, h, low, step, row, column, table, out):
    """The same for several functions: table (rows, columns, k), out (N, k)."""
    by_row, by_column = np.empty(POINTS), np.empty(POINTS)
    size = table.shape[2]
    for i in range(len(row)):
        first, second = row[i], column[i]
        _weights((b[i] - low[0]) / step[0] - first, _SCALE, by_row)
        _weights((h[i] - low[1]) / step[1] - second, _SCALE, by_column)
        for j in range(size):
            out[i, j] = 0.0
        for a in range(POINTS):
            for c in range(POINTS):
                share = by_row[a] * by_column[c]
                for j in range(size):
                    out[i, j] += share * table[first + a, second + c, j]
