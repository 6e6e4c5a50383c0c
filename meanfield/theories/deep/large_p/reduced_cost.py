"""The smoothed cost of laws of codes whose fields span few directions (THEORY.md, "P -> infinity, beta = 1 / L").

    L/2 (tr (H / Gamma + eps)^(1/L) - C eps^(1/L)) + 1/2 tr y^T (sigma_a^2 K + delta)^-1 y

with K = <phibar phibar^T>, H = <w w^T>, for many laws at once. As there is no slope where fields span few directions or
codes cannot make the targets, both terms are smoothed; eps only lowers the first.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np

from meanfield.numerics.limits import check_time
from meanfield.theories.deep.system import DeepProblem
from meanfield.validation import FloatArray

__all__ = ["End", "LawCost", "Means", "Reduction"]

_FARTHEST = 60.0  # field in the table of means, in units of the larger one of 1 and the noise
_VALUES, _TOGETHER = 3000, 100  # of the table, and neighbours that are integrated at once
_EXTENT = 1.5  # of random fields
_LITTLE = 1e-3  # weight of codes beside planted ones
_ROUNDING = 1e-15  # of the largest eigenvalue
_LEAST_DELTA = 1e-8


class Reduction(Protocol):
    """The reduced problem: fractions p (C,), middle of the range of phi, whether it is odd, Gamma, the deviation of the
    noise of a field, w = h field_root."""

    problem: DeepProblem
    p: FloatArray
    middle: float
    odd: bool
    gamma: float
    spread: float
    field_root: FloatArray

    @property
    def means(self) -> Means: ...
    def mean(self, h: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]: ...
    def root_field(self, h: FloatArray) -> FloatArray: ...


class End(NamedTuple):
    """Where a descent ended: cost, and codes that differ.

    Attributes
    ----------
    cost : float
    t : (C, m) array
    field : (n, C) array
    weight : (n,) array
    """

    cost: float
    t: FloatArray
    field: FloatArray
    weight: FloatArray


class Means:
    """Mean activation at a common field and its derivative, from cubics between equal steps of asinh(h / spread)."""

    def __init__(self, reduction: Reduction) -> None:
        self.scale = reduction.spread
        self.end = math.asinh(_FARTHEST * max(1.0, self.scale) / self.scale)
        self.step = 2.0 * self.end / _VALUES
        x = np.linspace(-self.end, self.end, _VALUES + 1)
        parts = [reduction.mean(self.scale * np.sinh(one))[:2] for one in np.array_split(x, _VALUES // _TOGETHER)]
        mean, slope = (np.concatenate(one) for one in zip(*parts, strict=True))
        slope = slope * self.scale * np.cosh(x) * self.step
        rise, left, right = np.diff(mean), slope[:-1], slope[1:]
        self.cubics = np.stack([mean[:-1], left, 3.0 * rise - 2.0 * left - right, left + right - 2.0 * rise], axis=-1)

    def __call__(self, h: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Arrays like h; constant beyond the table."""
        x = (np.arcsinh(h / self.scale) + self.end) / self.step
        cell = np.clip(x, 0.0, _VALUES - 1.0).astype(int)
        u = np.clip(x - cell, 0.0, 1.0)
        constant, linear, square, cubic = np.moveaxis(self.cubics[cell], -1, 0)
        inside = (x > 0.0) & (x < _VALUES)
        slope = (linear + u * (2.0 * square + 3.0 * u * cubic)) / (self.step * np.hypot(h, self.scale)) * inside
        return constant + u * (linear + u * (square + u * cubic)), slope


class LawCost:
    """The smoothed cost and its gradient at rows of x, laws of `count` codes along `rank` directions.

    h = v F^T, and a field that all classes share unless phi is odd. A row has F (C, rank), v (count, rank), the shared
    fields (count,), and square roots of the weights (count,) but for a factor: weights of codes that are not needed
    vanish in a few steps. Where `rank` is all that cost anything, it has h (count, C) and the latter.
    """

    def __init__(self, reduction: Reduction, count: int, rank: int) -> None:
        self.reduction, self.means, self.count, self.rank = reduction, reduction.means, count, rank
        self.depth, self.y = reduction.problem.depth, reduction.problem.y
        self.variance, phi = reduction.problem.readout_variance, reduction.problem.phi
        self.square = self.variance * max(abs(phi.infimum), abs(phi.supremum)) ** 2
        n_classes = len(self.y)
        self.all = rank >= n_classes - (not reduction.odd)
        sizes = (
            (0, count * n_classes, 0) if self.all else (n_classes * rank, count * rank, 0 if reduction.odd else count)
        )
        self.cuts = np.cumsum(sizes)

    @property
    def unknowns(self) -> int:
        """Of a row."""
        return int(self.cuts[-1]) + self.count

    def random(self, rng: np.random.Generator, rows: int) -> FloatArray:
        """Laws with normal fields, and weights that differ by at most a factor of two."""
        n_classes, width = len(self.y), math.sqrt(self.rank)
        if self.all:
            field = _EXTENT * rng.normal(size=(rows, self.count * n_classes))
        else:
            frame, along = rng.normal(size=(rows, self.cuts[0])), rng.normal(size=(rows, self.cuts[1] - self.cuts[0]))
            shared = rng.normal(size=(rows, self.cuts[2] - self.cuts[1]))
            field = np.concatenate([frame, _EXTENT / width * along, shared], axis=1)
        return np.concatenate([field, np.sqrt(rng.uniform(0.5, 1.0, (rows, self.count)) / self.count)], axis=1)

    def planted(self, x: FloatArray, field: FloatArray, weight: FloatArray) -> FloatArray:
        """The row x of fields along all directions with these codes for its first ones, and little weight of others."""
        n = len(weight)
        h, root = x[: self.cuts[-1]].reshape(self.count, -1).copy(), np.full(self.count, math.sqrt(_LITTLE))
        h[:n], root[:n] = field, np.sqrt(weight)
        return np.concatenate([h.ravel(), root])

    def parts(self, x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """h (B, count, C), weights (B, count), F, and v."""
        first, root = x[:, : self.cuts[-1]], x[:, self.cuts[-1] :]
        weight = root**2 / (root**2).sum(axis=1, keepdims=True)
        n_classes = len(self.y)
        if self.all:
            h = first.reshape(len(x), self.count, n_classes)
            return h, weight, np.eye(n_classes)[None], h
        frame, v, shared = np.split(first, self.cuts[:2], axis=1)
        frame, v = frame.reshape(-1, n_classes, self.rank), v.reshape(-1, self.count, self.rank)
        h = v @ np.swapaxes(frame, 1, 2)
        return h if self.reduction.odd else h + shared[:, :, None], weight, frame, v

    def size(self, x: FloatArray) -> FloatArray:
        """Mean eigenvalue of H / Gamma."""
        h, weight, *_ = self.parts(x)
        square = (self.reduction.root_field(h) ** 2).sum(axis=2)
        return np.asarray((weight * square).sum(axis=1) / (len(self.y) * self.reduction.gamma))

    def __call__(self, x: FloatArray, eps: FloatArray, delta: float) -> tuple[FloatArray, FloatArray]:
        check_time()
        reduction, depth, n_classes, rows = self.reduction, self.depth, len(self.y), len(x)
        h, weight, frame, v = self.parts(x)
        w = reduction.root_field(h)
        values, vectors = np.linalg.eigh(np.swapaxes(w * weight[:, :, None], 1, 2) @ w / reduction.gamma)
        values = np.maximum(values, 0.0) + eps[:, None]
        roots = values ** (1.0 / depth)
        force = (vectors * (roots / values)[:, None]) @ np.swapaxes(vectors, 1, 2) / reduction.gamma  # 2 d cost / dH
        mean, slope = self.means(h)
        kernel = self.variance * np.swapaxes(mean * weight[:, :, None], 1, 2) @ mean
        kernel += delta * self.square * np.eye(n_classes)
        u = np.linalg.solve(kernel, np.broadcast_to(self.y, (rows, *self.y.shape)))
        cost = 0.5 * depth * (roots.sum(axis=1) - n_classes * eps ** (1.0 / depth)) + 0.5 * (u * self.y).sum((1, 2))
        a, pull = mean @ u, w @ force
        turned = pull @ reduction.field_root.T - self.variance * (a @ np.swapaxes(u, 1, 2)) * slope
        turned = weight[:, :, None] * turned  # d cost / dh
        each = 0.5 * (pull * w).sum(axis=2) - 0.5 * self.variance * (a**2).sum(axis=2)
        root = x[:, self.cuts[-1] :]
        share = 2.0 * root * (each - (weight * each).sum(axis=1, keepdims=True)) / (root**2).sum(axis=1, keepdims=True)
        if self.all:
            return cost, np.concatenate([turned.reshape(rows, -1), share], axis=1)
        parts = [(np.swapaxes(turned, 1, 2) @ v).reshape(rows, -1), (turned @ frame).reshape(rows, -1)]
        parts += [] if reduction.odd else [turned.sum(axis=2)]
        return cost, np.concatenate([*parts, share], axis=1)

    def exact(self, field: FloatArray, weight: FloatArray) -> End:
        """The law with these fields, along `rank` directions, and weights: t, and the cost without smoothing (to first
        order in delta), infinite of codes that cannot make the targets."""
        reduction, depth = self.reduction, self.depth
        w, mean = reduction.root_field(field), reduction.mean(field)[0]
        values = np.linalg.eigvalsh((w.T * weight) @ w / reduction.gamma)[-self.rank :]
        kernel, delta = self.variance * (mean.T * weight) @ mean, _LEAST_DELTA * self.square
        u = np.linalg.solve(kernel + delta * np.eye(len(kernel)), self.y)
        value = 0.5 * float((u * (self.y + delta * u)).sum())
        value += 0.5 * depth * float((values[values > _ROUNDING * values[-1]] ** (1.0 / depth)).sum())
        missed = float(np.abs(kernel @ u - self.y).max()) > 1e-3 * float(np.abs(self.y).max())
        return End(math.inf if missed else value, u / reduction.p[:, None], field, weight)
