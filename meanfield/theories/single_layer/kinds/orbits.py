"""A task with kinds of classes in reduced coordinates, its orbits of codes, and the search for them (sigma_a = 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from meanfield.theories.single_layer.compiled import kind_master, kind_path
from meanfield.theories.single_layer.kinds.classes import ClassKinds, log_orbit_sizes
from meanfield.validation import FloatArray, Rows

__all__ = [
    "ALL_COUNTS",
    "KindTask",
    "Orbits",
    "columns_of",
    "direct_fields",
    "fields_of",
    "heights_of",
    "log_widths",
    "nullity_of",
    "search",
]

_RIDGE = 1e-7  # difference of heights of codes that are equally high, relative to 1 + |h|
ALL_COUNTS = 32  # up to so many choices of counts all are tried in every round


@dataclass(eq=False)
class KindTask:
    kinds: ClassKinds
    table: Any
    tau: float
    low: float
    high: float
    share: FloatArray = field(init=False)
    starts: FloatArray = field(init=False)  # counts where the search has missed something before
    dependent: float = 0.0  # singular values of contributions, relative to the largest, that count as none

    def __post_init__(self) -> None:
        self.share = self.kinds.n * self.kinds.p
        self.starts = np.empty((0, self.kinds.n_kinds))

    def linear(self, theta: FloatArray) -> float:
        y = self.kinds.y
        return float(self.share @ (theta * (0.5 * self.tau * theta - y)).sum(axis=1))

    def readouts(self, theta: FloatArray, counts: ArrayLike, v: FloatArray | None = None) -> Orbits:
        """Local maxima of h, from v or from code words; different ones only, highest first."""
        counts = np.array(counts, dtype=float).reshape(-1, self.kinds.n_kinds)
        fresh = v is None
        v = np.zeros((len(counts), self.kinds.y.shape[1] - 1 + self.kinds.n_kinds)) if v is None else v.copy()
        heights = np.empty(len(counts))
        kinds = self.kinds
        kind_master.best_readouts(
            self.table, kinds.n, kinds.p, theta, counts, v, heights, self.low, self.high, fresh, True
        )
        return Orbits(counts, v, heights)

    def cuts(self, codes: Orbits) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Constants (N,), weights (N, K, 2) and part vectors (N, K, 2, d)."""
        n_kinds, d = self.kinds.y.shape
        z, weight = np.empty((len(codes.v), n_kinds, 2, d)), np.empty((len(codes.v), n_kinds, 2))
        constant = np.empty(len(codes.v))
        for i in range(len(codes.v)):
            constant[i] = kind_master.part_vectors(
                self.kinds.n, self.kinds.p, codes.counts[i], codes.v[i], z[i], weight[i]
            )
        return constant, weight, z


@dataclass(eq=False)
class Orbits:
    counts: FloatArray
    v: FloatArray
    heights: FloatArray

    def take(self, index: Rows) -> Orbits:
        return Orbits(self.counts[index], self.v[index], self.heights[index])

    def __add__(self, other: Orbits) -> Orbits:
        return Orbits(
            np.concatenate([self.counts, other.counts]),
            np.concatenate([self.v, other.v]),
            np.concatenate([self.heights, other.heights]),
        )

    def distinct(self, distance: float = 1e-6) -> Orbits:
        """One of each, in the order of first appearance."""
        kept = kind_path.distinct(self.counts, self.v, distance)
        return self if len(kept) == len(self.v) else self.take(kept)


def heights_of(task: KindTask, theta: FloatArray, codes: Orbits) -> FloatArray:
    """h of given readouts."""
    constant, weight, z = task.cuts(codes)
    kappa = np.einsum("nkbr,kr->nkb", z, theta)
    value, first, second = (np.empty(kappa.size) for _ in range(3))
    kind_master.cumulant_values(task.table, kappa.ravel(), value, first, second)
    return np.asarray(constant + (weight * value.reshape(kappa.shape)).sum(axis=(1, 2)))


def search(task: KindTask, theta: FloatArray, known: Orbits) -> Orbits:
    """Maxima of h, highest first: over all counts where these are few, else on a coarse grid and uphill from there."""
    kinds = task.kinds
    n = [int(n) if split else 0 for n, split in zip(kinds.n, kinds.split, strict=True)]
    if math.prod(a + 1 for a in n) <= ALL_COUNTS:
        found = task.readouts(theta, list(product(*(range(a + 1) for a in n))))
    else:
        grid = product(*(sorted({0, a // 4, a // 2, a - a // 4, a}) for a in n))
        starts = np.concatenate([known.counts, task.starts, np.array(list(grid), dtype=float)])
        found = _uphill(task, theta, task.readouts(theta, starts).distinct(), np.array(n, dtype=float))
    found = found + task.readouts(theta, known.counts, known.v)
    return found.take(np.argsort(-found.heights, kind="stable")).distinct()


def _uphill(task: KindTask, theta: FloatArray, found: Orbits, n: FloatArray) -> Orbits:
    """The highest codes that lead up from some, in ever smaller steps: many may be equally high, in rows."""
    kinds = task.kinds
    strides = np.maximum(n // 8, 1.0)
    while True:
        window = _RIDGE * (1.0 + abs(float(found.heights.max())))
        found = Orbits(
            *kind_path.highest_orbits(
                task.table, kinds.n, kinds.p, theta, kinds.split, task.low, task.high, (found.counts, found.v), window,
                strides,
            )
        )  # fmt: skip
        if strides.max() <= 1.0:
            return found
        strides = np.maximum(strides // 2.0, 1.0)


@dataclass(eq=False)
class OrbitFields:
    """h of some orbits and its derivatives by theta and v."""

    h: FloatArray  # (n,)
    columns: FloatArray  # (n, K, d) dh/dtheta
    curvature: FloatArray  # (n, K d, K d) second derivative of max_v h by theta
    log_det: FloatArray  # (n,) ln det of minus the second derivative of h by the readout, all outputs
    slope: FloatArray  # (n,) |dh/dv|


def fields_of(task: KindTask, theta: FloatArray, codes: Orbits) -> OrbitFields:
    kinds, n, size = task.kinds, len(codes.v), theta.size
    h, slope, log_det = np.empty(n), np.empty(n), np.empty(n)
    columns, curvature = np.empty((n, size)), np.empty((n, size, size))
    kind_path.all_fields(
        task.table, kinds.n, kinds.p, kinds.overlaps(theta)[1], theta, codes.counts, codes.v, h, slope, log_det,
        columns, curvature,
    )  # fmt: skip
    return OrbitFields(h, columns.reshape(n, *theta.shape), curvature, log_det, slope)


def log_widths(task: KindTask, theta: FloatArray, codes: Orbits) -> FloatArray:
    """(n,) ln of what fluctuations around all readouts of each orbit contribute."""
    return log_orbit_sizes(task.kinds.n, codes.counts) - 0.5 * fields_of(task, theta, codes).log_det


def direct_fields(
    task: KindTask, theta: FloatArray, codes: Orbits, direct: Any
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """h of orbits (n,), dh / dtheta (n, K, d) and |dh / dv| with G from quadrature, apart from the compiled code."""
    kinds = task.kinds
    (n_kinds, d), (n, n_v) = theta.shape, codes.v.shape
    lift = np.zeros((n, n_kinds, 2, d, n_v))
    lift[:, :, :, : d - 1, : d - 1] = np.eye(d - 1)
    upper, lower = codes.counts, kinds.n - codes.counts
    inside = (upper > 0.0) & (lower > 0.0)
    up, low = np.where(inside, upper, 1.0), np.where(inside, lower, 1.0)
    rest = np.maximum(kinds.n - 1.0, 1.0)
    for k in range(n_kinds):
        lift[:, k, 0, d - 1, d - 1 + k] = -np.where(inside, np.sqrt(up / (low * rest)), 0.0)[:, k]
        lift[:, k, 1, d - 1, d - 1 + k] = np.where(inside, np.sqrt(low / (up * rest)), 0.0)[:, k]
    weight = kinds.p[:, None] * np.stack([lower, upper], axis=2)  # (n, K, 2)
    z = np.einsum("nkbrv,nv->nkbr", lift, codes.v)
    value, first, _ = (np.asarray(g) for g in direct(np.einsum("nkbr,kr->nkb", z, theta)))
    slope = np.einsum("nkb,nkbv->nv", weight * first, np.einsum("nkbrv,kr->nkbv", lift, theta)) - codes.v
    columns = np.einsum("nkb,nkbr->nkr", weight * first, z)
    h = (weight * value).sum(axis=(1, 2)) - 0.5 * (codes.v**2).sum(axis=1)
    return np.asarray(h), np.asarray(columns), np.sqrt((slope**2).sum(axis=1))


def columns_of(task: KindTask, theta: FloatArray, codes: Orbits) -> FloatArray:
    """(free + 1, n) what a unit of weight of each orbit contributes to the equations of y and to 1."""
    rows = fields_of(task, theta, codes).columns[:, task.kinds.free].T
    return np.vstack([rows, np.ones(len(codes.v))])


def nullity_of(task: KindTask, theta: FloatArray, codes: Orbits) -> int:
    return len(codes.v) - int(np.linalg.matrix_rank(columns_of(task, theta, codes), rtol=1e-9))
