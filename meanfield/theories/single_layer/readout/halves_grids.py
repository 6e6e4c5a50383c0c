"""Two halves of the classes, and product grids of the coordinates in which they meet (sigma_a = 1).

See `meanfield.theories.single_layer.readout.halves`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np

from meanfield.numerics.limits import check_time
from meanfield.validation import FloatArray, IntArray

__all__ = ["Grids", "Half", "Smoothed", "choices", "field_ranges", "smoothed", "span_of", "transformed"]

_DEPENDENT = 1e-12
_ROUNDING = 1e-14  # eigenvalue of t t^T, relative to the largest, which is as good as none


class Smoothed(NamedTuple):
    """Vectors t' (C, d) and variances D_c (C,) with t t^T = t' t'^T + D."""

    t: FloatArray
    variance: FloatArray


@dataclass(frozen=True, eq=False)
class Half:
    """Classes (n,) of one half and its directions (d, m): shared ones first, then pairs, then its own."""

    classes: IntArray
    axes: FloatArray
    n_kept: int  # shared and paired


@dataclass(frozen=True, eq=False)
class Grids:
    """Two halves and their product grids at one t.

    rho, sine (k,) are those of the shared and paired directions; offset (k,), which both halves are tilted by, is a
    typical x - y or, where the direction is shared, half of a typical difference of the slopes of both exponents;
    spread (k,) is how far from it those of the maxima of h are.
    low, step (d,) and size (d,) are those of either half.
    """

    smoothed: Smoothed
    halves: tuple[Half, Half]
    rho: FloatArray
    sine: FloatArray
    offset: FloatArray
    spread: FloatArray
    low: tuple[FloatArray, FloatArray]
    step: tuple[FloatArray, FloatArray]
    size: tuple[IntArray, IntArray]

    def tilt(self, side: int) -> FloatArray:
        """(d,) slope of the exponent of a half over P, of what is taken out of the kernel."""
        tilt = np.zeros(len(self.low[side]))
        scale = np.divide(self.rho, self.sine**2, out=np.ones_like(self.rho), where=self.sine > 0.0)
        tilt[: scale.size] = (-1.0, 1.0)[side] * scale * self.offset
        return tilt

    def curvature(self, side: int) -> FloatArray:
        curvature = np.ones(len(self.low[side]))
        curvature[: self.rho.size] = 1.0 / (1.0 + self.rho)
        return curvature

    def slabs(self, n: int) -> list[Grids]:
        """n parts along the first direction, if both halves share it."""
        if n == 1 or self.sine[0] > 0.0:
            return [self]
        ends = np.linspace(0, self.size[0][0], min(n, self.size[0][0]) + 1).astype(np.int64)
        found = []
        for first, last in itertools.pairwise(ends.tolist()):
            low, size = [one.copy() for one in self.low], [one.copy() for one in self.size]
            for side in (0, 1):
                low[side][0] += first * self.step[side][0]
                size[side][0] = last - first
            found.append(replace(self, low=(low[0], low[1]), size=(size[0], size[1])))
        return found

    def largest_gap(self, n_samples: float) -> float:
        """Bound of -ln of the kernel at the maxima of h."""
        pair = self.sine > 0.0
        return 0.5 * n_samples * float(np.sum((self.rho * self.spread**2)[pair] / self.sine[pair] ** 2))

    def log_measure(self, n_samples: float) -> float:
        """ln of what multiplies the sum of both halves and the kernel."""
        pair = self.sine > 0.0
        total = 0.5 * n_samples * float(np.sum((self.rho * self.offset**2)[pair] / self.sine[pair] ** 2))
        total -= float(np.log(self.sine[pair]).sum())
        both = np.concatenate([self.step[0], self.step[1][: pair.size][pair], self.step[1][pair.size :]])
        return total + float(np.log(both).sum()) + 0.5 * both.size * math.log(n_samples / (2.0 * math.pi))

    def kernels(self, n_samples: float) -> list[FloatArray | None]:
        """(n_x, n_y) of each pair; None where both halves share the coordinate."""
        found: list[FloatArray | None] = []
        for i, sine in enumerate(self.sine):
            if sine == 0.0:
                found.append(None)
                continue
            x, y = (self.low[s][i] + self.step[s][i] * np.arange(self.size[s][i]) for s in (0, 1))
            gap = np.subtract.outer(x, y) - self.offset[i]
            found.append(np.exp(-0.5 * n_samples * self.rho[i] / sine**2 * gap * gap))
        return found


def transformed(values: FloatArray, kernels: list[FloatArray | None], back: bool = False) -> FloatArray:
    """(M, n_y1, n_y2, ...) of values (M, n_x1, n_x2, ...), or the other way."""
    for i, kernel in enumerate(kernels):
        if kernel is None:
            continue
        matrix = kernel if back else kernel.T
        shape = values.shape
        post = math.prod(shape[i + 2 :])
        flat = values.reshape(math.prod(shape[: i + 1]), shape[i + 1], post)
        moved = flat[:, :, 0] @ matrix.T if post == 1 else np.matmul(matrix, flat)
        values = moved.reshape(*shape[: i + 1], len(matrix), *shape[i + 2 :])
        check_time()
    return values


def span_of(t: FloatArray) -> FloatArray:
    """Orthonormal rows that span those of t."""
    _, size, axes = np.linalg.svd(t, full_matrices=False)
    return np.asarray(axes[size > _DEPENDENT * size[0]])


def smoothed(t: FloatArray, most: float = np.inf, other: bool = False) -> Smoothed:
    """t and no variance where the t_c are dependent; else t' with one dimension less: all classes are smoothed by the
    least eigenvalue of t t^T or, with `other`, one of them by as much as its kappa_c has beside all others.

    Least eigenvalues that are equal go together. Halves of t' share a direction, where those of t would be nearly
    parallel in one if t is nearly dependent. Where the variance would be more than `most`, it is none.
    """
    n_classes = len(t)
    gram = t @ t.T
    values = np.linalg.eigvalsh(gram)
    if not values[0] > _ROUNDING * values[-1]:
        _, size, axes = np.linalg.svd(t, full_matrices=False)
        axes = axes[size**2 > _ROUNDING * size[0] ** 2]
        return Smoothed(t @ axes.T @ axes, np.zeros(n_classes))
    variance = np.full(n_classes, values[0])
    if other:
        alone = 1.0 / np.diag(np.linalg.inv(gram))
        variance = np.where(np.arange(n_classes) == np.argmin(alone), alone, 0.0)
    if variance.max() > most:
        return Smoothed(t, np.zeros(n_classes))
    values, vectors = np.linalg.eigh(gram - np.diag(variance))
    kept = values > _ROUNDING * values[-1]
    kept[0] = False
    return Smoothed(vectors[:, kept] * np.sqrt(values[kept]), variance)


def field_ranges(grids: Grids) -> tuple[FloatArray, FloatArray]:
    """Smallest and largest kappa_c (C,) at the corners of the grids."""
    low, high = np.empty((2, len(grids.smoothed.t)))
    for half, first, step, size in zip(grids.halves, grids.low, grids.step, grids.size, strict=True):
        fields = grids.smoothed.t[half.classes] @ half.axes.T
        ends = np.sort(np.stack([fields * first, fields * (first + step * size)]), axis=0).sum(axis=2)
        low[half.classes], high[half.classes] = ends
    return low, high


@lru_cache(maxsize=8)
def choices(n_classes: int) -> list[tuple[IntArray, IntArray]]:
    """Each way to split the classes into two halves, the smaller one first."""
    found = []
    for left in combinations(range(n_classes), n_classes // 2):
        right = tuple(c for c in range(n_classes) if c not in left)
        if len(left) < len(right) or left < right:
            found.append((np.array(left), np.array(right)))
    return found
