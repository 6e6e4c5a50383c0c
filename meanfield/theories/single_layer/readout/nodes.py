"""Lattice nodes of the readout integral and sums over them, in slices that see Ctrl-C and the clock (sigma_a = 1)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from meanfield.activations.cumulant import Cumulant
from meanfield.numerics.cumulant_table import Table
from meanfield.numerics.limits import check_time
from meanfield.theories.single_layer.compiled import lattice as compiled
from meanfield.theories.single_layer.compiled.quick import Quick, cumulants
from meanfield.validation import FloatArray

__all__ = [
    "DirectSamples",
    "Nodes",
    "common_regions",
    "direct_samples",
    "fill",
    "from_lower",
    "lower_size",
    "moments",
    "quick_table",
    "shares",
    "slopes",
]

_SLICE = 200_000  # nodes between two looks at the clock: well below 0.1 s
_INTERVALS = 8192  # of equal width in the quick table
_FARTHEST = 1e6  # |kappa| up to which it reaches
_AGREEMENT = np.array([2e-15, 4e-15])  # of G and G' with the table, relative to max(1, |value|)
_DIRECT_SLICE = 2048  # direct evaluations of G between two looks
_BLOCK = 512  # samples that are made at a time
_MAX_DIRECT = 400_000
_STEP = 0.01  # of direct samples, over the scale of kappa


@dataclass(frozen=True, eq=False)
class Nodes:
    """Lattice nodes a_i = (n_i + shift) B inside the window, in runs along the first basis vector."""

    basis: FloatArray  # (m, m)
    shift: FloatArray  # (m,)
    exponent: FloatArray  # (n,) P (h(a_i) - top), of the last sum over the nodes
    runs: NDArray[np.int64]  # (R, COLUMNS + m), see `compiled.lattice`
    slots: NDArray[np.int64]  # hash table of the lines that hold runs
    seed_region: NDArray[np.int64]  # region of each maximum that the fill started from, or -1
    n_regions: int
    complete: bool  # False: the fill was stopped at the largest number of nodes
    sums: tuple[FloatArray, FloatArray] | None = None  # mass (K,) and first (K, C, m) of `slopes`, at the t of the fill

    def __len__(self) -> int:
        return len(self.exponent)

    @cached_property
    def region(self) -> NDArray[np.int64]:
        """Region (n,) of each node."""
        return np.repeat(self.runs[:, 2], self.runs[:, 1])

    @cached_property
    def position(self) -> FloatArray:
        """a_i (n, m)."""
        first, size, key = self.runs[:, 0], self.runs[:, 1], self.runs[:, compiled.COLUMNS :]
        start = (key + self.shift) @ self.basis
        step = np.arange(len(self)) - np.repeat(first, size)
        return np.asarray(np.repeat(start, size, axis=0) + step[:, None] * self.basis[0])

    def at(self, index: NDArray[np.int64]) -> FloatArray:
        """a_i (k, m) of some nodes."""
        run = np.searchsorted(self.runs[:, 0], index, side="right") - 1
        key = self.runs[run, compiled.COLUMNS :]
        return np.asarray((key + self.shift) @ self.basis + (index - self.runs[run, 0])[:, None] * self.basis[0])

    def field_range(self, t: FloatArray) -> tuple[float, float]:
        """Smallest and largest a_i . t_c: along a run it is linear."""
        start = (self.runs[:, compiled.COLUMNS :] + self.shift) @ self.basis @ t.T
        end = start + (self.runs[:, 1:2] - 1) * (self.basis[0] @ t.T)
        return float(min(start.min(), end.min())), float(max(start.max(), end.max()))

    @cached_property
    def _log_volume(self) -> float:
        return float(np.linalg.slogdet(self.basis)[1])

    def log_cell(self, n_samples: float) -> float:
        """ln of the volume of a cell, in units of (2 pi / P)^{m/2}."""
        return self._log_volume + 0.5 * len(self.basis) * math.log(n_samples / (2.0 * math.pi))

    def slices(self, size: int = _SLICE) -> Iterator[tuple[int, int]]:
        """Ranges of runs between which one looks at the clock."""
        begin = 0
        while begin < len(self.runs):
            end = int(np.searchsorted(self.runs[:, 0], self.runs[begin, 0] + size, side="right"))
            yield begin, end
            check_time()
            begin = end


@lru_cache(maxsize=64)
def quick_table(single_site: Cumulant) -> Quick:
    """Short polynomials for G, from those of G'' in the table integrated twice, so that G' keeps its digits."""
    table = single_site.table
    kappa_max = min(table.kappa_max, _FARTHEST)
    width, per_log = 0.25 / table.scale, 8.0
    for _ in range(6):
        half = min(_INTERVALS // 2, int(np.ceil(kappa_max / width)))
        width = min(width, kappa_max / half)  # the last interval ends where the table does
        near = width * (np.arange(2 * half) + 0.5 - half)
        span = float(np.log(kappa_max / (half * width)))
        n_far = int(np.ceil(per_log * span)) if span > 1e-9 else 0
        per_log = n_far / span if n_far else per_log
        edges = half * width * np.exp(np.arange(n_far + 1) / per_log)
        far = 0.5 * (edges[1:] + edges[:-1])
        centre, widths = np.concatenate([near, far, -far]), np.diff(edges)
        widths = np.concatenate([np.full(2 * half, width), widths, widths])
        coefficients, good = _polynomials(table, centre, widths)
        quick = Quick(
            coefficients, half, 1.0 / width, centre[2 * half :], 1.0 / widths[2 * half :], per_log, kappa_max,
            table.growth_plus, table.growth_minus,
        )  # fmt: skip
        if good[: 2 * half].all() and good[2 * half :].all():
            break
        width *= 1.0 if good[: 2 * half].all() else 0.5
        per_log *= 1.0 if good[2 * half :].all() else 2.0
    return quick


def _polynomials(table: Table, centre: FloatArray, width: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Coefficients (n, 8) for each interval, and whether they agree with the table."""
    node = 0.5 * np.cos(np.pi * (np.arange(6) + 0.5) / 6)
    powers = np.linalg.inv(np.vander(node, increasing=True)).T  # values at the nodes -> coefficients of powers
    at = cumulants(table, (centre[:, None] + width[:, None] * np.append(0.0, node)).ravel()).reshape(-1, 7, 3)
    coefficients = np.empty((centre.size, 8))
    coefficients[:, 0], coefficients[:, 1] = at[:, 0, 0], width * at[:, 0, 1]
    coefficients[:, 2:] = width[:, None] ** 2 * (at[:, 1:, 2] @ powers) / (np.arange(1.0, 7.0) * np.arange(2.0, 8.0))
    check = np.array([-0.5, -0.3, 0.1, 0.4, 0.5])
    exact = cumulants(table, (centre[:, None] + width[:, None] * check).ravel()).reshape(-1, check.size, 3)
    value = coefficients @ np.vander(check, 8, increasing=True).T
    slope = (coefficients[:, 1:] * np.arange(1.0, 8.0)) @ np.vander(check, 7, increasing=True).T / width[:, None]
    error = np.abs(np.stack([value, slope], axis=-1) - exact[..., :2]) / np.maximum(1.0, np.abs(exact[..., :2]))
    return coefficients, (error < _AGREEMENT).all(axis=(1, 2))


def fill(
    quick: Quick, p: FloatArray, t: FloatArray, n_samples: float, basis: FloatArray, shift: FloatArray,
    maxima: FloatArray, top: float, window: float, limit: int, summed: bool = False,
) -> Nodes:  # fmt: skip
    """Nodes where P (h - top) > -window, by flood fills from `maxima` (n, m) of h.

    Stopped, and not complete, at about `limit` nodes. `summed`: with what `slopes` adds up over them.
    """
    m, basis = t.shape[1], np.ascontiguousarray(basis)  # one layout, one compilation
    seeds = np.floor(maxima @ np.linalg.inv(basis) - shift + 0.5).astype(np.int64)
    exponent, runs = np.empty(8192), np.empty((1024, compiled.COLUMNS + m), np.int64)
    slots = np.full(2 * len(runs), -1)
    seed_region, cursor = np.full(len(seeds), -1), np.zeros(compiled.CURSOR, np.int64)
    n_sums = len(seeds) if summed else 0
    mass, first = np.zeros(n_sums), np.zeros((n_sums, *t.shape))
    while True:
        until = min(limit, int(cursor[0]) + _SLICE)
        state = compiled.grow(
            quick, p, t, n_samples, basis, shift, seeds, top, window, until, exponent, runs, slots, seed_region, cursor,
            mass, first,
        )  # fmt: skip
        # A single run that does not end, where h grows along its line, never adds to the count.
        if state == 0 or cursor[0] > limit or (state == 2 and len(exponent) - cursor[0] > limit):
            break
        check_time()
        if state == 2:
            exponent = _longer(exponent, 4 * len(exponent))
        elif state == 3:
            runs = _longer(runs, 4 * len(runs))
            slots = np.full(2 * len(runs), -1)
            compiled.rehash(runs, cursor[1], slots)
    n, n_runs, n_regions = int(cursor[0]), int(cursor[1]), int(cursor[4])
    sums = (mass[:n_regions], first[:n_regions]) if summed else None
    return Nodes(basis, shift, exponent[:n], runs[:n_runs], slots, seed_region, n_regions, state == 0, sums)


def common_regions(
    one: Nodes, maxima: FloatArray, other: Nodes, other_maxima: FloatArray
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Groups of regions that two lattices separate alike: the group of each region of the one, and of the other.

    Codes that nearly touch may be joined on one lattice only, and others on the other: regions that share a maximum of
    h belong to one group. None where some region has no counterpart.
    """
    first, second = np.arange(one.n_regions), np.full(other.n_regions, -1)
    for a, k in zip(other_maxima, other.seed_region, strict=True):
        if k < 0:
            continue
        for j in one.seed_region[np.abs(maxima - a).max(axis=1) < 1e-5 * (1.0 + np.abs(a).max())]:
            if j < 0:
                continue
            if second[k] >= 0:
                joined = min(first[j], second[k]), max(first[j], second[k])
                first[first == joined[1]] = joined[0]
                second[second == joined[1]] = joined[0]
            second[k] = first[j]
    if (second < 0).any() or not np.isin(first, second).all():
        return None
    groups, first = np.unique(first, return_inverse=True)
    return first, np.searchsorted(groups, second)


@np.errstate(all="ignore")  # an exponent can overflow at a trial t: the sums are then looked at by the caller
def slopes(
    quick: Quick, p: FloatArray, t: FloatArray, n_samples: float, top: float, nodes: Nodes
) -> tuple[FloatArray, FloatArray, float]:
    """Per region ln of its share of I (K,) and <g> (K, C m), g = (p_c G'(a.t_c) a)_c; largest change of an exponent."""
    mass, first = np.zeros(nodes.n_regions), np.zeros((nodes.n_regions, *t.shape))
    where = nodes.basis, nodes.shift, top, nodes.runs
    changed = 0.0
    for begin, end in nodes.slices():
        part = compiled.slopes(quick, p, t, n_samples, *where, begin, end, nodes.exponent, mass, first)
        changed = max(changed, part)
    return *shares(mass, first, n_samples, top, nodes), changed


@np.errstate(all="ignore")
def shares(
    mass: FloatArray, first: FloatArray, n_samples: float, top: float, nodes: Nodes
) -> tuple[FloatArray, FloatArray]:
    """ln of each region's share of I (K,) and <g> (K, C m) from the sums over its nodes."""
    return np.log(mass) + (n_samples * top + nodes.log_cell(n_samples)), first.reshape(len(mass), -1) / mass[:, None]


@lru_cache(maxsize=64)
def _lower(n: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the lower triangle of an n x n matrix, and the place of each entry (n, n) in it."""
    rows, columns = np.tril_indices(n)
    place = np.empty((n, n), np.int64)
    place[rows, columns] = place[columns, rows] = np.arange(rows.size)
    return rows, columns, place


@np.errstate(all="ignore")
def moments(
    quick: Quick, p: FloatArray, t: FloatArray, n_samples: float, top: float, nodes: Nodes
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """ln of shares and <g> as in `slopes`, over all nodes <g g^T> (C m, C m) and blocks <p_c G'' a a^T> (C, m, m)."""
    n_classes, m = t.shape
    mass, first = np.zeros(nodes.n_regions), np.zeros((nodes.n_regions, *t.shape))
    second = np.zeros((lower_size(n_classes) + n_classes, lower_size(m)))
    where = nodes.basis, nodes.shift, top, nodes.runs
    for begin, end in nodes.slices():
        compiled.moments(quick, p, t, n_samples, *where, begin, end, nodes.exponent, mass, first, second)
    return *shares(mass, first, n_samples, top, nodes), *from_lower(second / mass.sum(), n_classes, m)


def lower_size(n: int) -> int:
    """Entries of the lower triangle of an n x n matrix."""
    return n * (n + 1) // 2


def from_lower(second: FloatArray, n_classes: int, m: int) -> tuple[FloatArray, FloatArray]:
    """Matrix (C m, C m) and blocks (C, m, m) from sums over lower triangles, as compiled loops add them up."""
    pairs = lower_size(n_classes)
    blocks = second[:, _lower(m)[2]]  # (pairs + C, m, m)
    between = blocks[:pairs][_lower(n_classes)[2]]
    return between.transpose(0, 2, 1, 3).reshape(n_classes * m, n_classes * m), blocks[pairs:]


def _longer(array: np.ndarray, room: int) -> np.ndarray:
    longer = np.empty((room, *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer


class DirectSamples:
    """G, G', G'' by the direct evaluation on an even grid that grows with the range asked for, and sums made of them.

    Between the samples quintic Hermite interpolation is off by less than 1e-12.
    """

    def __init__(self, single_site: Cumulant) -> None:
        self.direct = single_site.direct
        self.step = _STEP / single_site.table.scale
        self._known = 0, np.empty((0, 3))  # the first multiple of `step`, and the samples; replaced as one

    def cover(self, low: float, high: float) -> tuple[int, FloatArray] | None:
        """First multiple of the step and samples of a grid over [low, high]; None if that takes too many.

        The grid grows by whole blocks, so that a sample has the same bits whatever was asked for before.
        """
        known, samples = self._known
        first = min((int(np.floor(low / self.step)) - 1) // _BLOCK * _BLOCK, known)
        last = max(-(-(int(np.ceil(high / self.step)) + 2) // _BLOCK) * _BLOCK, known + len(samples))
        if last - first > _MAX_DIRECT:
            return None
        if first < known or last > known + len(samples):
            before, after = np.arange(first, known), np.arange(known + len(samples), last)
            samples = np.vstack([self._at(before), samples, self._at(after)])
            self._known = first, samples
        return first, samples

    def _at(self, multiples: NDArray[np.int64]) -> FloatArray:
        parts = [np.empty((0, 3))]
        for begin in range(0, multiples.size, _BLOCK):
            parts.append(np.stack(self.direct(self.step * multiples[begin : begin + _BLOCK]), axis=1))
            check_time()
        return np.concatenate(parts)

    def sums(
        self, p: FloatArray, t: FloatArray, n_samples: float, top: float, nodes: Nodes,
        group: NDArray[np.int64], n_groups: int,
    ) -> tuple[FloatArray, FloatArray]:  # fmt: skip
        """Sums of e^{P (h - top)} (K,) and of its product with p_c G'(a.t_c) a (K, C m) over the nodes of each group.

        `group` says to which of them a region belongs.
        """
        share, first = np.zeros(n_groups), np.zeros((n_groups, *t.shape))
        grid = self.cover(*nodes.field_range(t))
        if grid is not None:
            origin, samples = grid
            where = nodes.basis, nodes.shift, nodes.runs
            for begin, end in nodes.slices():
                compiled.direct_slopes(
                    samples, self.step, origin, p, t, n_samples, top, *where, begin, end, group, share, first
                )  # fmt: skip
            return share, first.reshape(n_groups, t.size)
        a, region = nodes.position, group[nodes.region]
        for begin in range(0, len(a), _DIRECT_SLICE):
            part, of = a[begin : begin + _DIRECT_SLICE], region[begin : begin + _DIRECT_SLICE]
            g0, g1, _ = self.direct(part @ t.T)
            mass = np.exp(n_samples * (g0 @ p - 0.5 * np.sum(part**2, axis=1) - top))
            np.add.at(share, of, mass)
            np.add.at(first, of, mass[:, None, None] * (g1 * p)[:, :, None] * part[:, None, :])
            check_time()
        return share, first.reshape(n_groups, t.size)


@lru_cache(maxsize=64)
def direct_samples(single_site: Cumulant) -> DirectSamples:
    """Samples of the direct evaluation of G that are kept from solve to solve."""
    return DirectSamples(single_site)
