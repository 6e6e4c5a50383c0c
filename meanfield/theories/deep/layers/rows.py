"""Where a class is tabulated along its conjugate field b, and how its table is read in between.

Rows are equally spaced and read by a local polynomial, or they are the b of the lattice nodes themselves, where these
are fewer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from meanfield.theories.deep.compiled.kernels import POINTS, lagrange
from meanfield.validation import BoolArray, FloatArray, IntArray

__all__ = ["MIDDLE", "Rows", "even_rows", "given_rows", "spare"]

# Error of the polynomial through POINTS neighbours in the middle between two of them, in units of a difference of that
# order.
MIDDLE = float(np.prod(np.arange(1, POINTS, 2, dtype=float)) ** 2 / (2.0**POINTS * math.factorial(POINTS)))
_HEAVY, _MOST = 1e-2, 0.9  # entries that count, and how many of them differences have to reach
_HIT = 1e-6  # of the mean distance of given rows, within which a b is one of them


@dataclass(frozen=True, eq=False)
class Rows:
    """Values b (count,), ascending, and by how many neighbours of them a value in between is read: 1 for none."""

    b: FloatArray
    points: int

    def stencil(self, b: FloatArray) -> tuple[IntArray, FloatArray]:
        """First row (N,) and weights (N, points) with which the table is read at b (N,)."""
        start, weight = np.zeros(len(b), dtype=np.int64), np.ones((len(b), self.points))
        last = len(self.b) - 1
        distance = float(self.b[-1] - self.b[0]) / last if last else max(abs(float(self.b[0])), 1e-300)
        if self.points > 1:
            lagrange(np.ascontiguousarray(b), float(self.b[0]), distance, len(self.b), start, weight)
            return start, weight
        above = np.clip(np.searchsorted(self.b, b), 0, last)
        below = np.maximum(above - 1, 0)
        start = np.where(np.abs(b - self.b[below]) <= np.abs(b - self.b[above]), below, above)
        if np.abs(self.b[start] - b).max(initial=0.0) > _HIT * distance:
            raise ValueError("a table is read at a b that is not among its rows")
        return start, weight

    def needed(self, start: IntArray) -> IntArray:
        """Rows that stencils read, ascending."""
        read = np.zeros(len(self.b), dtype=bool)
        read[start] = True
        if self.points > 1:
            read[np.flatnonzero(read)[:, None] + np.arange(self.points)] = True
        return np.flatnonzero(read)


def even_rows(low: float, high: float, step: float) -> Rows:
    """Rows at distance `step` that cover b between the bounds."""
    margin = (POINTS // 2 + 1) * step
    count = math.ceil((high - low) / step) + POINTS + 3
    return Rows(low - margin + step * np.arange(count), POINTS)


def given_rows(values: FloatArray, least: float) -> Rows:
    """Rows at these b (k,); those that are closer than `least` are one."""
    ordered = np.sort(values)
    return Rows(ordered[np.append(True, np.diff(ordered) > least)], 1)


def spare(table: FloatArray, known: BoolArray, share: FloatArray, allowed: float) -> float:
    """How many times further apart rows may be, so that the error of what is read, times its share, is as allowed.

    table, known (where it has values) and share are (rows, columns), the last by the first row of a stencil. NaN if
    there are too few rows, or none that counts. From differences of every, of every second and of every fourth row:
    those of close ones may be rounding.
    """
    best = math.nan
    heavy = np.argwhere(share > _HEAVY * share.max())
    if not len(heavy):  # all shares are below what a number can be
        return best
    for stride in (1, 2, 4):
        count = len(table) - POINTS * stride
        if count <= 0:
            break
        whole = np.logical_and.reduce([known[i * stride : count + i * stride] for i in range(POINTS + 1)])
        # Stencils of a larger distance have the same middle.
        first = 5 * stride - 5
        weight = np.maximum.reduce([share[first + i : first + i + count] for i in range(stride)])
        change = np.where(known, table, 0.0)
        for _ in range(POINTS):
            change = change[stride:] - change[:-stride]
        at = np.clip(heavy[:, 0] - first, 0, count - 1)
        if stride > 1 and not whole[at, heavy[:, 1]].mean() * (at == heavy[:, 0] - first).mean() > _MOST:
            break
        if not whole.any():
            break
        error = MIDDLE * float((np.abs(change) * weight)[whole].max())
        best = np.fmax(best, stride * (allowed / max(error, 1e-300)) ** (1.0 / POINTS))
    return float(best)
