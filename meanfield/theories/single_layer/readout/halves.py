"""The readout integral of many different classes: two halves of them that meet in pairs of coordinates (sigma_a = 1).

The integral over the readout depends on the Gram matrix T = t t^T alone: with kappa ~ N(0, T / P) it is the average of
prod_c f_c(kappa_c), f_c = e^{P p_c G}. Let the classes be in two halves, and u_i, v_i principal vectors of the spans of
their t_c: orthonormal in each half, u_i . v_j = rho_i delta_ij. In x_i = u_i . a and y_i = v_i . a

    int da e^{-P |a|^2 / 2} prod_c f_c
        = int dx dy A(x) B(y) prod_i e^{-P (x_i^2 - 2 rho_i x_i y_i + y_i^2) / 2 (1 - rho_i^2)},

whose kernel is a product: a sum over n^d nodes takes 2 n^{d/2} evaluations and d/2 products with n x n matrices. It is
a positive measure convolved with N(0, [[1, rho], [rho, 1]] / P): the error of product grids is that of Poisson's sums.
Directions that both spans share (rho = 1) have one coordinate, and those that only one half has (rho = 0) are summed
over at once. With T = t' t'^T + D the average over kappa is one over N(0, t' t'^T / P) of what D makes of each f_c, a
table: D is chosen such that t' has one dimension less than t, so that a direction in which the t_c are nearly
dependent, and halves nearly parallel, becomes a shared one.

    d ln Z / dT_ce = Q_ce / 2P,  Q_ce = <d_c d_e prod f / prod f>,

so that slope and Hessian of J need products of derivatives of the f_c, of two and four in all, and no moments of a.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from itertools import combinations_with_replacement, permutations
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from meanfield.numerics.limits import check_time
from meanfield.theories.single_layer.compiled.halves import code_sums, half_sums, smooth_tables, split_tables
from meanfield.theories.single_layer.compiled.quick import cumulants
from meanfield.theories.single_layer.readout.check import extra_starts
from meanfield.theories.single_layer.readout.halves_grids import (
    Grids,
    Half,
    Smoothed,
    choices,
    field_ranges,
    smoothed,
    span_of,
    transformed,
)
from meanfield.theories.single_layer.readout.integral import (
    ACCURACY,
    COARSE,
    NotIntegrable,
    OutOfBudget,
    ReadoutIntegral,
)
from meanfield.theories.single_layer.readout.nodes import direct_samples
from meanfield.validation import FloatArray, IntArray

__all__ = ["Halves", "PairedValue"]

_PILOT = 3e-2  # error of the sum that says where the posterior is
_BESIDE = 1e-3  # share of a coordinate's ends that are left out, relative to the accuracy
_MAX_NODES = 4e7  # of one half
_MAX_NUMBERS, _AT_ONCE = 4e7, 1e7  # products at nodes that one half keeps; if it can be done in parts
_AT_A_NODE = 20.0  # of one class at one node, about nanoseconds
_SLOPES = 5.0  # slopes on the finest grids that a solve takes, about
_WIDTH, _WIDE, _WIDEST, _NARROW = 0.3, 2.0, 4.0, 0.25  # of intervals of L, in those of the quick table of G
_SMOOTH = 0.3  # variance of a class times p G'' up to which it is smoothed
_MAX_INTERVALS = 100_000
_LEAST = 1e-14  # share of a coordinate beyond what codes can reach
_SHIFT = 0.37  # of the grids that judge, in steps
_FAR = 250.0  # -ln of the kernel at a maximum of h, beyond which halves are the last choice
_UNDERFLOW = 640.0  # ln of the halves' maxima over the integral, beyond which nodes that matter could be lost
_BUDGET = 7e9  # about nanoseconds, of all sums of one solve
_SLICE = 2e5  # nodes between two looks at the clock
_SAME = 1e-12  # 1 - rho^2 of directions that are shared, at most
_SHARED = 1e-9  # 1 - rho^2 below which spans share a direction up to rounding, or are too close


class PairedValue(NamedTuple):
    """J at one t, with its gradient (C m,) and Hessian (C m, C m), empty where it was not asked for, and Q / P^2."""

    objective: float
    gradient: FloatArray
    hessian: FloatArray
    n_nodes: int
    pairs: FloatArray  # (C, C)


class _Tables(NamedTuple):
    """L (C, n, 8) and averages of P p G'' (C, n + 1) on intervals of width `step` from low (C,) on."""

    values: FloatArray
    bends: FloatArray
    low: FloatArray
    step: float


class Halves:
    """J of a task with bounded phi, by sums over two halves of its classes; see `readout_marginal.Marginal`.

    Attributes
    ----------
    refinement : float
        Grids are finer by this factor than their accuracy demands.
    finest : float
        Accuracy that slopes will be asked for: where that is out of reach, `value` says so at once.
    level : float
        Maximum of h, and `seeds` all its maxima that carry weight, at the t where they were last looked for.
    """

    def __init__(self, problem: ReadoutIntegral) -> None:
        self.problem = problem
        self.refinement = 1.0
        self.level, self.at = np.nan, problem.y
        self.seeds = np.empty((0, problem.y.shape[1]))
        # Beyond, one class may have two maxima, and its table a bend that is sharp at large P.
        reach = 30.0 * problem.table.scale
        bend = cumulants(problem.table, np.linspace(-reach, reach, 1001))[:, 2].max()
        self.most = _SMOOTH / float(problem.p.max() * bend)
        self.work = 0.0
        self.finest = ACCURACY

    def look_for_maxima(self, t: FloatArray, accuracy: float, extra: FloatArray | None = None) -> None:
        """Maxima of h from the last ones, the code words, and from `extra` and all signs where these are given."""
        problem = self.problem
        maxima, height = problem.maxima(t, extra, on_the_way=extra is None)
        if len(height) == 0 or not math.isfinite(height[0]):
            raise NotIntegrable(f"at P = {problem.asked:g} the readout posterior has no maximum at a trial step.")
        self.level, self.at = float(height[0]), t
        self.seeds = maxima[problem.n_samples * (height - height[0]) > -problem.window(accuracy)]

    def aliasing(self, accuracy: float) -> float:
        """Relative error of the sum: the shortest vectors of the dual of its grid, two for each direction."""
        m = self.problem.y.shape[1]
        q = math.exp(-math.log(2.0 * m / accuracy) / self.refinement**2)
        return 2.0 * m * q / (1.0 - 10.0 * q)

    def spacing(self, accuracy: float) -> float:
        """Of a direction that is not paired."""
        problem = self.problem
        m = problem.y.shape[1]
        return self.refinement * math.pi * math.sqrt(2.0 / (problem.n_samples * math.log(2.0 * m / accuracy)))

    def value(self, t: FloatArray, accuracy: float, hessian: bool) -> PairedValue:
        """J at t with its derivatives.

        Raises
        ------
        NotIntegrable
            If the grids would be too large, or the posterior too far from both halves.
        """
        width, grids = _WIDE if accuracy >= COARSE else _WIDTH, self.grids(smoothed(t, self.most), accuracy)
        if accuracy > self.finest:
            self._affordable(grids, self.spacing(accuracy) / self.spacing(self.finest))
        return self._value(t, grids, 4 if hessian else 2, width)

    def checked(self, t: FloatArray, accuracy: float) -> PairedValue:
        """J and its gradient with other halves, smoothed otherwise, finer grids, and direct evaluations of G.

        Maxima of h are searched again, from more starts; second derivatives are needed of the one class only that is
        smoothed.
        """
        self.look_for_maxima(t, accuracy, extra_starts(self.problem, t))
        grids = self.grids(smoothed(t, self.most, other=True), accuracy, 1, _SHIFT)
        return self._value(t, grids, 2, _NARROW, second=1)

    def averages(self, t: FloatArray, accuracy: float) -> tuple[PairedValue, FloatArray, FloatArray]:
        """J and its gradient, <G'_c G'_e> (C, C) and <G''_c> (C,)."""
        grids = self.grids(smoothed(t, self.most), accuracy)
        value = self._value(t, grids, 2, _WIDTH)
        p, n_samples = self.problem.p, self.problem.n_samples
        bend = np.diag(self._value(t, grids, 2, _NARROW, second=2).pairs) / p * n_samples
        return value, (value.pairs - np.diag(bend * p / n_samples)) / np.outer(p, p), bend

    def grids(self, task: Smoothed, accuracy: float, rank: int = 0, shift: float = 0.0) -> Grids:
        """Halves that need the fewest nodes (`rank` 0), the second fewest (1), and where the posterior is on them."""
        problem, found = self.problem, []
        span = len(span_of(task.t))
        # p_c G' at the maxima of h.
        rise = cumulants(problem.table, (self.seeds @ self.at.T).ravel())[:, 1].reshape(len(self.seeds), -1)
        rise *= problem.p
        for left, right in choices(len(task.t)):
            paired = self._paired(task, left, right, span, rise)
            if paired is not None:
                far = paired.largest_gap(problem.n_samples) > _FAR
                found.append((far, sum(float(np.prod(size.astype(float))) for size in paired.size), paired))
        if len(found) <= rank:
            raise NotIntegrable("no two halves of the classes are far enough from each other.")
        found.sort(key=itemgetter(0, 1))
        return self._cut(found[rank][2], accuracy, shift)

    def _paired(self, task: Smoothed, left: IntArray, right: IntArray, span: int, rise: FloatArray) -> Grids | None:
        """Coarse grids over all that a readout can be; None where the halves' spans are too close."""
        problem, t = self.problem, task.t
        bases = [span_of(t[left]), span_of(t[right])]
        u, rho, v = np.linalg.svd(bases[0] @ bases[1].T)
        n_shared, k = len(bases[0]) + len(bases[1]) - span, len(rho)
        u, v, rho = u.T @ bases[0], v @ bases[1], np.minimum(rho, 1.0)
        sine = np.linalg.norm(u[:k] - rho[:, None] * v[:k], axis=1)
        if not 0 <= n_shared <= k or (sine[n_shared:] ** 2 < _SHARED).any() or (sine[:n_shared] ** 2 > _SAME).any():
            return None
        sine[:n_shared], rho[:n_shared], v[:n_shared] = 0.0, 1.0, u[:n_shared]
        narrow = np.where(sine > 0.0, np.minimum(1.0, math.sqrt(2.0) * sine / np.sqrt(1.0 + rho)), 1.0)
        margin = math.sqrt(2.0 * problem.window(_LEAST) / problem.n_samples)
        lows, steps, sizes = [], [], []
        for axes in (u, v):
            step = np.full(len(axes), self.spacing(_PILOT))
            step[:k] *= narrow
            gains = problem.p[:, None] * (t @ axes.T)
            ends = np.sort(np.stack([problem.range[0] * gains, problem.range[1] * gains]), axis=0).sum(axis=1)
            lows.append(ends[0] - margin)
            sizes.append(np.ceil((ends[1] - ends[0] + 2.0 * margin) / step).astype(np.int64) + 1)
            steps.append(step)
        pull = rise[:, left] @ t[left], rise[:, right] @ t[right]
        apart = (pull[0] + pull[1]) @ (u[:k] - v[:k]).T
        apart[:, :n_shared] = 0.5 * (pull[0] - pull[1]) @ u[:n_shared].T
        low, high = apart.min(axis=0), apart.max(axis=0)
        halves = Half(left, u, k), Half(right, v, k)
        return Grids(
            task,
            halves,
            rho,
            sine,
            0.5 * (low + high),
            0.5 * (high - low),
            (lows[0], lows[1]),
            (steps[0], steps[1]),
            (sizes[0], sizes[1]),
        )

    def _cut(self, pilot: Grids, accuracy: float, shift: float) -> Grids:
        """Finer grids, without ends of coordinates that hold next to nothing."""
        sums, _ = self._sums(pilot, 0, pilot.size, self._tables(pilot, _WIDEST))
        kernels, k = pilot.kernels(self.problem.n_samples), pilot.rho.size
        values = [part[0].reshape(size) for part, size in zip(sums, pilot.size, strict=True)]
        kept = [value.sum(axis=tuple(range(k, value.ndim))) for value in values]
        across = transformed(kept[1][None], kernels, back=True)[0], transformed(kept[0][None], kernels)[0]
        ratio = self.spacing(accuracy) / self.spacing(_PILOT)
        ends = []
        for side, value in enumerate(values):
            value *= np.expand_dims(across[side], tuple(range(k, value.ndim)))
            total = float(value.sum())
            if not total > math.exp(-_UNDERFLOW):
                raise NotIntegrable("the readout posterior is too far from both halves of the classes.")
            inside = []
            for i in range(value.ndim):
                along = value.sum(axis=tuple(r for r in range(value.ndim) if r != i))
                heavy = np.flatnonzero(along > _BESIDE * accuracy * total)
                inside.append((heavy[0] - 1, heavy[-1] + 1))
            ends.append(pilot.low[side] + pilot.step[side] * np.array(inside).reshape(-1, 2).T)
        shared = np.flatnonzero(pilot.sine == 0.0)  # one grid for both
        for which, best in ((0, np.minimum), (1, np.maximum)):
            ends[0][which, shared] = ends[1][which, shared] = best(ends[0][which, shared], ends[1][which, shared])
        step = pilot.step[0] * ratio, pilot.step[1] * ratio
        low = ends[0][0] - shift * step[0], ends[1][0] - shift * step[1]
        size = [np.ceil((end[1] - end[0]) / one).astype(np.int64) + 2 for end, one in zip(ends, step, strict=True)]
        return replace(pilot, low=low, step=step, size=(size[0], size[1]))

    def _tables(self, grids: Grids, width: float, direct: bool = False) -> _Tables:
        """L of every class, on intervals of `width` times those of the quick table, or by direct evaluations of G."""
        problem = self.problem
        low, high = field_ranges(grids)
        step = width / problem.quick.inverse
        size = math.ceil(float((high - low).max()) / step) + 6
        low = low - 2.0 * step
        if size > _MAX_INTERVALS:
            raise NotIntegrable("kappa is out of reach.")
        sample, spacing, origin = np.empty((0, 3)), 1.0, 0
        if direct:
            cover = direct_samples(problem.single_site)
            variance = float(grids.smoothed.variance.max())
            reach = variance * float(np.abs(problem.range).max() * problem.p.max())
            reach += 10.0 * math.sqrt(variance / problem.n_samples)
            covered = cover.cover(float(low.min()) - reach, float(low.max()) + step * size + reach)
            if covered is None:
                raise NotIntegrable("|kappa| is beyond direct samples.")
            origin, sample = covered
            spacing = cover.step
        tables, bends = np.empty((low.size, size, 8)), np.empty((low.size, size + 1))
        self._spend(40.0 * low.size * size * 25)
        for c in range(low.size):
            check_time()
            smooth_tables(
                problem.quick, sample, spacing, origin, problem.n_samples, problem.p[c : c + 1],
                grids.smoothed.variance[c : c + 1], low[c : c + 1], float(np.abs(problem.range).max()), step,
                tables[c : c + 1], bends[c : c + 1],
            )  # fmt: skip
        return _Tables(tables, bends, low, step)

    def _sums(
        self, grids: Grids, order: int, kept: tuple[IntArray, ...], tables: _Tables, second: int = 0
    ) -> tuple[list[FloatArray], float]:
        """Products of derivatives (M, N) of each half at its nodes, and ln of what both together are relative to: for
        each node of the directions that are shared, the halves have their largest value set to one and its weight goes
        to the second.

        `kept`: the sizes of those coordinates that are not summed over; `second`: see `compiled.halves.half_sums`.
        """
        problem, t = self.problem, grids.smoothed.t
        found, levels = [], []
        for side, half in enumerate(grids.halves):
            n_nodes, n_products = float(np.prod(grids.size[side].astype(float))), len(_words(len(half.classes), order))
            if n_nodes > _MAX_NODES or n_products * float(np.prod(kept[side].astype(float))) > 2.0 * _MAX_NUMBERS:
                raise NotIntegrable(f"at P = {problem.asked:g} half of the classes would need {n_nodes:.0e} nodes.")
            self._spend(n_nodes * (4.0 + 4.0 * len(half.classes) + n_products))
        # A class that is smoothed may have no kappa_c of its own left.
        instead = np.where((second == 1) & (grids.smoothed.variance > 0.0), 0, second)
        n_apart = math.prod(kept[0][: int(np.sum(grids.sine == 0.0))].tolist())
        for side, half in enumerate(grids.halves):
            own, words = half.classes, _products(len(half.classes), order)
            n_lines, n_sums = math.prod(kept[side][:-1].tolist()), math.prod(kept[side].tolist())
            sums, tops = np.empty((len(words[0]), n_sums)), np.empty(n_sums)
            fields = np.ascontiguousarray(t[own] @ half.axes.T)
            stride = max(1, int(_SLICE * n_lines / np.prod(grids.size[side].astype(float))))
            for begin in range(0, n_lines, stride):
                check_time()
                half_sums(
                    tables.values[own], tables.bends[own], tables.low[own], tables.step, problem.n_samples, fields,
                    grids.low[side], grids.step[side], grids.size[side], grids.curvature(side), grids.tilt(side),
                    len(kept[side]),
                    begin, min(begin + stride, n_lines), *words, instead[own], sums, tops,
                )  # fmt: skip
            top = tops.reshape(n_apart, -1).max(axis=1)
            sums *= np.exp(tops - np.repeat(top, n_sums // n_apart))
            found.append(sums)
            levels.append(top)
        level = levels[0] + levels[1]
        found[1] *= np.repeat(np.exp(level - level.max()), found[1].shape[1] // n_apart)
        return found, float(level.max())

    def patterns(self, grids: Grids, cut: FloatArray) -> tuple[list[FloatArray], float]:
        """Moments of the kappa_c of each half, split by which of its classes are above their cuts (C,): (2^n,
        1 + n + n (n + 1) / 2, N), and the share of neurons near a cut. See `compiled.halves.code_sums`.
        """
        problem, k = self.problem, grids.rho.size
        kept = grids.size[0][:k], grids.size[1][:k]
        tables = self._tables(grids, _NARROW)
        whole, _ = self._sums(grids, 0, kept, tables)
        variance, found, near = grids.smoothed.variance, [], []
        for side, half in enumerate(grids.halves):
            own, n, count = half.classes, len(half.classes), whole[side].shape[1]
            fields = np.ascontiguousarray(grids.smoothed.t[own] @ half.axes.T)
            splits = np.empty((n, tables.values.shape[1] + 1, 7))
            check_time()
            split_tables(
                problem.quick, problem.n_samples, problem.p[own], variance[own], tables.low[own],
                float(np.abs(problem.range).max()), tables.step, cut[own], 0.5 * np.abs(fields) @ grids.step[side],
                splits,
            )  # fmt: skip
            sums, beside = np.empty((2**n, 1 + n + n * (n + 1) // 2, count)), np.empty(count)
            stride = max(1, int(0.1 * _SLICE * count / np.prod(grids.size[side].astype(float))))
            for begin in range(0, count, stride):
                check_time()
                code_sums(
                    tables.values[own], splits, tables.low[own], tables.step, problem.n_samples, fields,
                    grids.low[side], grids.step[side], grids.size[side], grids.curvature(side), grids.tilt(side), k,
                    begin, min(begin + stride, count), whole[side][0], sums, beside,
                )  # fmt: skip
            found.append(sums)
            near.append(beside)
        kernels = grids.kernels(problem.n_samples)
        across = transformed(whole[0].reshape(1, *kept[0]), kernels).ravel()
        back = transformed(whole[1].reshape(1, *kept[1]), kernels, back=True).ravel()
        return found, float((near[0] @ back + near[1] @ across) / (whole[1][0] @ across))

    def _pairs(self, grids: Grids, order: int, tables: _Tables, second: int) -> tuple[FloatArray, float]:
        """Sums of all pairs of products of derivatives of even degree, and ln of what they are relative to."""
        k = grids.rho.size
        kept = grids.size[0][:k], grids.size[1][:k]
        (left, right), level = self._sums(grids, order, kept, tables, second)
        degrees = [np.array([len(word) for word in _words(len(half.classes), order)]) for half in grids.halves]
        kernels = grids.kernels(self.problem.n_samples)
        half = order // 2
        count = int((degrees[0] <= half).sum()), int((degrees[1] < half).sum())
        self._spend(0.16 * k * sum(float(n * left.shape[1] * kept[1].max()) for n in count))
        over = transformed(left[: count[0]].reshape(-1, *kept[0]), kernels).reshape(count[0], -1)
        back = transformed(right[: count[1]].reshape(-1, *kept[1]), kernels, back=True).reshape(count[1], -1)
        sums = np.zeros((len(left), len(right)))
        for i in range(order + 1):
            for j in range(i % 2, order + 1 - i, 2):
                rows, columns = np.flatnonzero(degrees[0] == i), np.flatnonzero(degrees[1] == j)
                one, other = (over[rows], right[columns]) if i <= half else (left[rows], back[columns])
                sums[np.ix_(rows, columns)] = one @ other.T
        return sums, level

    def _numbers(self, grids: Grids, order: int, finer: float = 1.0) -> list[float]:
        """Products at nodes that each half keeps, on grids that are finer by a factor."""
        k = grids.rho.size
        return [
            len(_words(len(half.classes), order)) * finer**k * float(np.prod(size[:k].astype(float)))
            for half, size in zip(grids.halves, grids.size, strict=True)
        ]

    def _affordable(self, grids: Grids, finer: float) -> None:
        """Raise where slopes on grids that are finer by a factor would take too long: it is soon known."""
        nodes = [float(np.prod(size.astype(float))) * finer**size.size for size in grids.size]
        cost = sum(n * _AT_A_NODE * len(half.classes) for n, half in zip(nodes, grids.halves, strict=True))
        at_once = max(self._numbers(grids, 2, finer)) / (finer * grids.size[0][0] if grids.sine[0] == 0.0 else 1.0)
        if max(nodes) > _MAX_NODES or at_once > _MAX_NUMBERS or _SLOPES * cost > _BUDGET:
            raise NotIntegrable(
                f"at P = {self.problem.asked:g} half of the classes would need {max(nodes):.0e} nodes (largest |t| "
                f"{np.abs(self.at).max():.2g}); a larger tau makes the readout posterior narrower."
            )

    def _spend(self, nanoseconds: float) -> None:
        self.work += nanoseconds
        if self.work > _BUDGET:
            raise OutOfBudget(f"at P = {self.problem.asked:g} the sums over halves of the classes take too long.")

    def _value(self, t: FloatArray, grids: Grids, order: int, width: float, second: int = 0) -> PairedValue:
        problem, n_samples = self.problem, self.problem.n_samples
        sizes = [len(half.classes) for half in grids.halves]
        numbers = max(self._numbers(grids, order))
        tables = self._tables(grids, width, second == 1)
        sums, level = np.zeros((len(_words(sizes[0], order)), len(_words(sizes[1], order)))), -np.inf
        for slab in grids.slabs(math.ceil(numbers / _AT_ONCE)):
            part, here = self._pairs(slab, order, tables, second)
            top = max(level, here)
            sums, level = sums * math.exp(level - top) + part * math.exp(here - top), top
        mass = float(sums[0, 0])
        if not mass > math.exp(-_UNDERFLOW):
            raise NotIntegrable("the readout posterior is too far from both halves of the classes.")
        log_z = level + math.log(mass) + grids.log_measure(n_samples)
        sums = sums.ravel() / mass
        order_of = np.concatenate([half.classes for half in grids.halves])
        place = np.argsort(order_of)
        pairs = sums[_places(sizes[0], sizes[1], order, 2)][np.ix_(place, place)]
        if second == 1:  # of kappa d/dkappa instead of second derivatives: <kappa_c d_c> = sum_e T_ce Q_ce / P
            gram, own = grids.smoothed.t @ grids.smoothed.t.T, np.diag(pairs).copy()
            np.fill_diagonal(pairs, 0.0)
            other = (n_samples * own - (gram * pairs).sum(axis=1)) / np.maximum(np.diag(gram), 1e-300)
            np.fill_diagonal(pairs, np.where(grids.smoothed.variance > 0.0, own, other))
        pairs /= n_samples**2
        p, m = problem.p, t.shape[1]
        gradient = (p[:, None] * (problem.tau * t - problem.y) + pairs @ t).ravel()
        matrix = np.empty((0, 0))
        if order == 4:
            fours = sums[_places(sizes[0], sizes[1], order, 4)][np.ix_(place, place, place, place)] / n_samples**4
            fours -= np.multiply.outer(pairs, pairs)
            blocks = n_samples * np.einsum("cegh,er,hs->crgs", fours, t, t, optimize=True)
            for r in range(m):
                blocks[:, r, :, r] += pairs + np.diag(problem.tau * p)
            matrix = blocks.reshape(t.size, t.size)
        objective = problem.linear(t) + log_z / n_samples
        if not math.isfinite(objective + gradient.sum() + matrix.sum()):
            raise NotIntegrable(f"at P = {problem.asked:g} the readout posterior of a trial step is out of reach.")
        n_nodes = sum(int(np.prod(size)) for size in grids.size)
        return PairedValue(objective, gradient, matrix, n_nodes, pairs)


@lru_cache(maxsize=32)
def _words(n_classes: int, order: int) -> tuple[tuple[int, ...], ...]:
    """Products of up to `order` derivatives, by the classes they are of, shortest first."""
    return tuple(word for n in range(order + 1) for word in combinations_with_replacement(range(n_classes), n))


@lru_cache(maxsize=32)
def _products(n_classes: int, order: int) -> tuple[IntArray, IntArray, IntArray]:
    """For each word, which one it is without its last class, this class, and how often it is there."""
    words = _words(n_classes, order)
    place = {word: i for i, word in enumerate(words)}
    parent, which, power = np.zeros((3, len(words)), np.int64)
    for i, word in enumerate(words[1:], 1):
        which[i], power[i] = word[-1], word.count(word[-1])
        parent[i] = place[word[: -power[i]]]
    return parent, which, power


@lru_cache(maxsize=32)
def _places(n_left: int, n_right: int, order: int, degree: int) -> IntArray:
    """(C,) * degree: where the sum of derivatives by these classes (left ones first) is among all pairs of words."""
    n = n_left + n_right
    left = {word: i for i, word in enumerate(_words(n_left, order))}
    right = {word: i for i, word in enumerate(_words(n_right, order))}
    places = np.empty((n,) * degree, dtype=np.int64)
    for word in combinations_with_replacement(range(n), degree):
        one = tuple(c for c in word if c < n_left)
        other = tuple(c - n_left for c in word if c >= n_left)
        for turned in set(permutations(word)):
            places[turned] = left[one] * len(right) + right[other]
    return places
