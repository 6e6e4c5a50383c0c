"""Where a class is tabulated along its conjugate field b, and how its table is read in between.

Rows are equally spaced and read by a local polynomial, or they are the b of the lattice nodes themselves, where these
are fewer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from meanfield.theories.deep.compiled.kernels import POINTS, lagrange
from meanfield.validation import FloatArray, IntArray

__all__ = ["Rows", "even_rows", "given_rows"]

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
        return np.unique((np.unique(start)[:, None] + np.arange(self.points)).ravel())


def even_rows(low: float, high: float, step: float) -> Rows:
    """Rows at distance `step` that cover b between the bounds."""
    margin = (POINTS // 2 + 1) * step
    count = math.ceil((high - low) / step) + POINTS + 3
    return Rows(low - margin + step * np.arange(count), POINTS)


def given_rows(values: FloatArray, least: float) -> Rows:
    """Rows at these b (k,); those that are closer than `least` are one."""
    ordered = np.sort(values)
    return Rows(ordered[np.append(True, np.diff(ordered) > least)], 1)
