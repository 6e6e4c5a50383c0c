"""Tasks with exchangeable classes at P -> infinity, bounded phi, in reduced coordinates (sigma_a = 1).

The bundle method, Newton's method with an active set and the certificate of the general solver, with orbits of codes in
the place of codes and K (d) order parameters in the place of C (m).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
from scipy.optimize import nnls

from meanfield.activations.activation import Activation
from meanfield.activations.cumulant import cumulant
from meanfield.numerics.budget import new_stop
from meanfield.numerics.limits import call_in_thread, check_time
from meanfield.theories.single_layer.class_kinds import ClassKinds, log_orbit_size
from meanfield.theories.single_layer.compiled import kind_bound, kind_dual, kind_master, kind_path
from meanfield.validation import FloatArray, IntArray, Rows

__all__ = ["KindSolution", "solve_kinds"]

_ROUNDS = 200
_ALL_COUNTS = 32  # up to so many choices of counts all are tried in every round
_NEW_CUTS = 6
_PATIENCE = 3  # rounds that a cut without weight is kept, and steps without progress
_SMALLEST = 1e-12, 1e-15  # relative singular values that Newton's method resolves, first and then
_VIOLATION = 1e-11
_GLOBAL_TOLERANCE = 1e-9
_STEPS = 40
_REFINEMENTS = 20  # with codes that branch and bound has found
_MOST_COUNTS = 2e6  # choices of counts that the central path keeps a mark for
_STAGES, _FIRST_STAGE, _FACTOR = 24, 4, 4.0  # of beta; from which on Newton's method is tried
_FEW_ORBITS = 60  # of weight, below which the path looks at more counts
_DEPENDENT = 1e-6, 1e-9  # see `_Task.dependent`: on the path, in turns
_ROUNDING = 1e-13  # of contributions
_GOOD = 1e-10  # residual
_SHORT = 3000  # boxes that take no longer than a user waits for Ctrl-C


@dataclass(frozen=True, eq=False)
class KindSolution:
    """Order parameters and orbits of codes; n orbits.

    Attributes
    ----------
    theta : (K, d) array
    counts : (n, K) array
        Classes of each kind that are in the upper part.
    v : (n, d - 1 + K) array
        Readouts in reduced coordinates.
    weights : (n,) array
        Of whole orbits.
    free_weights : int
        Dimension of the family of optimal weights of orbits.
    level, objective, residual, gap, excess, boxes, proved, rounds
        As in `compiled.sweep.NUMBERS`.
    """

    theta: FloatArray
    counts: FloatArray
    v: FloatArray
    weights: FloatArray
    free_weights: int
    level: float
    objective: float
    residual: float
    gap: float
    excess: float
    boxes: int
    proved: bool
    rounds: int


@dataclass(eq=False)
class _Task:
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

    def readouts(self, theta: FloatArray, counts: Any, v: FloatArray | None = None) -> _Codes:
        """Local maxima of h, from v or from code words; different ones only, highest first."""
        counts = np.array(counts, dtype=float).reshape(-1, self.kinds.n_kinds)
        fresh = v is None
        v = np.zeros((len(counts), self.kinds.y.shape[1] - 1 + self.kinds.n_kinds)) if v is None else v.copy()
        heights = np.empty(len(counts))
        kinds = self.kinds
        kind_master.best_readouts(self.table, kinds.n, kinds.p, theta, counts, v, heights, self.low, self.high, fresh)
        return _Codes(counts, v, heights)

    def cuts(self, codes: _Codes) -> tuple[FloatArray, FloatArray, FloatArray]:
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
class _Codes:
    counts: FloatArray
    v: FloatArray
    heights: FloatArray

    def take(self, index: Rows) -> _Codes:
        return _Codes(self.counts[index], self.v[index], self.heights[index])

    def __add__(self, other: _Codes) -> _Codes:
        return _Codes(
            np.concatenate([self.counts, other.counts]),
            np.concatenate([self.v, other.v]),
            np.concatenate([self.heights, other.heights]),
        )

    def distinct(self, distance: float = 1e-6) -> _Codes:
        """One of each, in the order of first appearance."""
        kept: list[int] = []
        same_counts: dict[tuple[float, ...], list[int]] = {}
        for i, key in enumerate(map(tuple, self.counts.tolist())):
            others = same_counts.setdefault(key, [])
            reach = distance * (1.0 + np.abs(self.v[i]).max(initial=0.0)) if others else 0.0
            if all(np.abs(self.v[i] - self.v[j]).max(initial=0.0) > reach for j in others):
                others.append(i)
                kept.append(i)
        return self.take(kept)


def solve_kinds(
    activation: Activation, k: float, kinds: ClassKinds, tau: float, site: Any, max_boxes: int
) -> KindSolution | None:
    """Solve and try to prove; None if no stationary point was found in time. `site`: tables, phi_range of `limit`."""
    try:
        return _solve(activation, k, kinds, tau, site, max_boxes)
    except (TimeoutError, np.linalg.LinAlgError):
        return None


def _solve(
    activation: Activation, k: float, kinds: ClassKinds, tau: float, site: Any, max_boxes: int
) -> KindSolution | None:
    (table, bounds, _), (low, high, infimum, supremum) = site
    task = _Task(kinds, table._replace(stop=new_stop()), tau, low, high)
    followed = _followed(task)
    for _ in range(_REFINEMENTS):
        if followed is None:
            break
        solution = _certified(task, followed, activation, k, 0)
        solution, counts = _proven(task, solution, bounds, (infimum, supremum), max_boxes)
        if solution.proved and solution.residual <= _GOOD:
            return solution
        missed = _better(task, solution, counts)
        if not len(missed.v):
            break
        task.starts = np.concatenate([task.starts, missed.counts])
        codes = (followed.codes + missed).distinct()
        weights = _padded(followed.weights, len(codes.v))
        followed = _active_set(task, followed.theta, *_basic(task, followed.theta, codes, weights))
    task.dependent = _Task.dependent
    theta = np.zeros(kinds.y.shape)
    codes = task.readouts(theta, np.zeros((1, kinds.n_kinds)))
    multipliers, idle = np.ones(1), np.zeros(1)
    best, rho, predicted = math.inf, 1.0, math.inf
    refinements, wait = 0, 0
    for used in range(1, _ROUNDS + 1):
        trial = theta.copy()
        inner = 1e-9 if math.isinf(predicted) else min(1e-9, max(1e-13, 1e-3 * predicted))
        _, model, _ = kind_master.kind_master(
            task.table, task.share, kinds.y, tau, rho, theta, task.cuts(codes), trial, multipliers, inner
        )
        active = multipliers > 1e-7
        idle = np.where(active, 0.0, idle + 1.0)
        maxima = _search(task, trial, codes.take(active))
        young = np.flatnonzero(idle <= _PATIENCE)
        kept, kept_weights, idle = codes.take(young), multipliers[young], idle[young]
        value = task.linear(trial) + maxima.heights[0]
        # The search is not exhaustive: what it finds now may show that the best value was an underestimate.
        if best < math.inf:
            best = max(best, task.linear(theta) + float(_heights(task, theta, maxima.take(slice(_NEW_CUTS))).max()))
        gain = best - model if best < math.inf else math.inf
        serious = best == math.inf or value < best - 0.1 * gain
        codes = (kept + maxima.take(slice(_NEW_CUTS))).distinct(1e-9)
        multipliers, idle = _padded(kept_weights, len(codes.v)), _padded(idle, len(codes.v))
        if serious:
            theta, best, rho = trial, value, min(4.0 * rho, 1e8)
        else:
            rho = max(rho / 3.0, 1e-4)
        predicted = max(gain, 0.0) if gain < math.inf else math.inf
        check_time()
        wait -= 1
        if predicted < 0.03 * (1.0 + abs(best)) and wait < 0:
            wait = 3 if used < 30 else 10
            strong = multipliers > 2e-3 / len(multipliers)
            found = _active_set(task, theta, codes.take(strong), multipliers[strong])
            if found is not None:
                solution = _certified(task, found, activation, k, used)
                solution, counts = _proven(task, solution, bounds, (infimum, supremum), max_boxes)
                refinements += 1
                better = _better(task, solution, counts)
                if solution.proved or refinements > _REFINEMENTS or not len(better.v):
                    return solution
                # The search has missed these: they become cuts, and starts from now on.
                task.starts = np.concatenate([task.starts, better.counts[:1]])
                theta, rho = solution.theta, 1.0
                codes = (found.codes + better.take(slice(_NEW_CUTS))).distinct()
                multipliers, idle = _padded(found.weights, len(codes.v)), np.zeros(len(codes.v))
                best, predicted = task.linear(theta) + float(better.heights[0]), math.inf
    return None


def _followed(task: _Task) -> _Point | None:
    """The end of the central path of `kind_path`; None where it leads nowhere, or orbits are few enough without."""
    kinds = task.kinds
    n = np.where(kinds.split, kinds.n, 0.0)
    if not _ALL_COUNTS < float(np.prod(n + 1.0)) <= _MOST_COUNTS:
        return None
    theta, strides = np.zeros(kinds.y.shape), np.maximum(n // 4, 1.0)
    grid = product(*(sorted({0.0, a // 4, a // 2, a - a // 4, a}) for a in n))
    codes = task.readouts(theta, list(grid))
    beta = 3.0 / (float(np.abs(kinds.y).max()) + 1e-9)
    factor = kinds.n / np.maximum(kinds.n - 1.0, 1.0)
    for stage in range(_STAGES):
        ok, counts, v, heights, weights = kind_path.smooth_stage(
            task.table, kinds.n, kinds.p, task.share, factor, kinds.y, task.tau, kinds.split, task.low, task.high, theta,
            beta, (codes.counts, codes.v), strides,
        )  # fmt: skip
        check_time()
        if not ok:
            return None
        codes = _Codes(counts, v, heights)
        strong = np.flatnonzero(weights > 1e-6)
        if stage >= _FIRST_STAGE:
            task.starts, task.dependent = counts[strong], _DEPENDENT[stage % 2]
            basic, share = _basic(task, theta, codes.take(strong), weights[strong])
            found = _active_set(task, theta, basic, share)
            if found is not None:
                return found
        if len(strong) < _FEW_ORBITS:
            strides = np.maximum(strides // 2.0, 1.0)
        beta *= _FACTOR
    return None


def _basic(task: _Task, theta: FloatArray, codes: _Codes, weights: FloatArray) -> tuple[_Codes, FloatArray]:
    """Some of the orbits, with weights that do the same: none of them can be had from the others.

    Along directions in which weights can change they change uphill in sum_o w_o h_o, until one of them is gone.
    """
    columns = _columns(task, theta, codes)
    columns = columns / np.maximum(np.abs(columns).max(axis=1, keepdims=True), 1e-300)
    heights = _heights(task, theta, codes)
    kept, weights = np.arange(len(weights)), weights.copy()
    while len(kept) > 1:
        _, singular, right = np.linalg.svd(columns[:, kept])
        free = right[int(np.sum(singular > task.dependent * singular[0])) :]
        if not len(free):
            break
        along = (free @ (heights[kept] - heights[kept].max())) @ free
        if np.abs(along).max() <= 1e-14 * (1.0 + np.abs(heights).max()):
            along = free[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.where(along < 0.0, weights[kept] / -along, np.inf)
        gone = int(np.argmin(reach))
        weights[kept] = np.maximum(weights[kept] + reach[gone] * along, 0.0)
        kept = np.delete(kept, gone)
    return codes.take(kept), weights[kept]


def _padded(values: FloatArray, size: int) -> FloatArray:
    """Zeros for what has been added."""
    return np.concatenate([values, np.zeros(size - len(values))])


def _better(task: _Task, solution: KindSolution, counts: FloatArray) -> _Codes:
    """Codes above the level next to `counts`, where branch and bound could not decide."""
    steps = np.array(list(product((-1.0, 0.0, 1.0), repeat=len(counts))))
    near = np.clip(counts + steps, 0.0, np.where(task.kinds.split, task.kinds.n, 0.0))
    found = task.readouts(solution.theta, near)
    found = found.take(np.argsort(-found.heights, kind="stable"))
    return found.take(found.heights > solution.level + 0.5 * _GLOBAL_TOLERANCE * (1.0 + abs(solution.level))).distinct()


def _proven(
    task: _Task, solution: KindSolution, bounds: Any, phi_range: tuple[float, float], max_boxes: int
) -> tuple[KindSolution, FloatArray]:
    """The solution with the result of branch and bound, and where that failed; a long one runs in a thread."""
    kinds = task.kinds
    overlap, excess_norm = kinds.overlaps(solution.theta)
    tolerance = _GLOBAL_TOLERANCE * (1.0 + abs(solution.level))

    def run(bound: Any, stop: IntArray, budget: int) -> Any:
        return bound(
            task.table._replace(stop=stop), bounds, kinds.n, kinds.p, overlap, excess_norm, *phi_range,
            solution.level, tolerance, budget,
        )  # fmt: skip

    bound = kind_dual.kind_dual
    found = run(bound, new_stop(), min(max_boxes, _SHORT))
    if found[2] < 0:  # classes between the branches
        bound = kind_bound.kind_bound
        found = run(bound, new_stop(), min(max_boxes, _SHORT))
    if not found[0] and found[2] >= _SHORT and max_boxes > _SHORT:
        stop = new_stop()
        found = call_in_thread(lambda: run(bound, stop, max_boxes), stop, lambda: 0)
    return replace(solution, proved=bool(found[0]), excess=float(found[1]), boxes=int(found[2])), found[4]


def _heights(task: _Task, theta: FloatArray, codes: _Codes) -> FloatArray:
    """h of given readouts."""
    constant, weight, z = task.cuts(codes)
    kappa = np.einsum("nkbr,kr->nkb", z, theta)
    value, first, second = (np.empty(kappa.size) for _ in range(3))
    kind_master.cumulant_values(task.table, kappa.ravel(), value, first, second)
    return np.asarray(constant + (weight * value.reshape(kappa.shape)).sum(axis=(1, 2)))


def _search(task: _Task, theta: FloatArray, known: _Codes) -> _Codes:
    """Maxima of h, highest first: over all counts where these are few, else on a coarse grid and uphill from there."""
    kinds = task.kinds
    n = [int(n) if split else 0 for n, split in zip(kinds.n, kinds.split, strict=True)]
    if math.prod(a + 1 for a in n) <= _ALL_COUNTS:
        found = task.readouts(theta, list(product(*(range(a + 1) for a in n))))
    else:
        grid = product(*(sorted({0, a // 4, a // 2, a - a // 4, a}) for a in n))
        starts = np.concatenate([known.counts, task.starts, np.array(list(grid), dtype=float)])
        found = _uphill(task, theta, task.readouts(theta, starts).distinct(), np.array(n, dtype=float))
    found = found + task.readouts(theta, known.counts, known.v)
    return found.take(np.argsort(-found.heights, kind="stable")).distinct()


def _uphill(task: _Task, theta: FloatArray, found: _Codes, n: FloatArray) -> _Codes:
    """Neighbours in counts of the highest codes, until none is higher."""
    seen = {tuple(row) for row in found.counts}
    steps = np.concatenate([np.eye(len(n)), -np.eye(len(n))])
    step = max(1.0, float(n.max()) // 8)
    while True:
        top = np.argsort(-found.heights, kind="stable")[:6]
        near = (found.counts[top][:, None] + step * steps).reshape(-1, len(n))
        new = {tuple(row) for row in near if (row >= 0.0).all() and (row <= n).all()} - seen
        if new:
            seen.update(new)
            found = found + task.readouts(theta, sorted(new))
        elif step > 1.0:
            step = max(1.0, step // 2)
        else:
            return found


@dataclass(eq=False)
class _Fields:
    """h of one orbit and its derivatives by theta and v."""

    h: float
    columns: FloatArray  # (K, d) dh/dtheta
    curvature: FloatArray  # (K d, K d) second derivative of max_v h by theta
    log_width: float  # ln of what fluctuations around all readouts of the orbit contribute
    slope: float  # |dh/dv|


def _fields(task: _Task, theta: FloatArray, counts: FloatArray, v: FloatArray) -> _Fields:
    kinds = task.kinds
    columns, curvature = np.empty(theta.size), np.empty((theta.size, theta.size))
    h, slope, log_det = kind_path.orbit_fields(
        task.table, kinds.n, kinds.p, kinds.overlaps(theta)[1], theta, counts, v, columns, curvature
    )
    return _Fields(h, columns.reshape(theta.shape), curvature, log_orbit_size(kinds.n, counts) - 0.5 * log_det, slope)


def _direct_fields(
    task: _Task, theta: FloatArray, counts: FloatArray, v: FloatArray, direct: Any
) -> tuple[float, FloatArray, float]:
    """h of an orbit, dh / dtheta (K, d) and |dh / dv| with G from quadrature, apart from the compiled code."""
    kinds = task.kinds
    (n_kinds, d), n_v = theta.shape, len(v)
    lift = np.zeros((n_kinds, 2, d, n_v))
    lift[:, :, : d - 1, : d - 1] = np.eye(d - 1)
    for k in range(n_kinds):
        lift[k, :, d - 1, d - 1 + k] = kind_master.split_factors(kinds.n[k], counts[k])
    weight = kinds.p[:, None] * np.stack([kinds.n - counts, counts], axis=1)
    z = lift @ v
    value, first, _ = (np.asarray(g) for g in direct(np.einsum("kbr,kr->kb", z, theta)))
    slope = np.einsum("kb,kbv->v", weight * first, np.einsum("kbrv,kr->kbv", lift, theta)) - v
    columns = np.einsum("kb,kbr->kr", weight * first, z)
    return float((weight * value).sum() - 0.5 * v @ v), columns, float(np.sqrt(slope @ slope))


@dataclass(eq=False)
class _Point:
    theta: FloatArray
    codes: _Codes
    weights: FloatArray
    nullity: int


def _active_set(task: _Task, theta: FloatArray, codes: _Codes, weights: FloatArray) -> _Point | None:
    """Newton on the stationarity equations; orbits enter where h > s and leave where their weight is negative."""
    theta, weights = theta.copy(), weights / weights.sum()
    for _ in range(40):
        solved = _newton(task, theta, codes, weights)
        if solved is None:
            return None
        theta, codes, weights, level = solved
        lowest = int(np.argmin(weights))
        if weights[lowest] < -1e-13:
            feasible = _feasible(task, theta, codes)
            if feasible is not None:
                weights = feasible
            elif len(weights) == 1:
                return None
            else:
                keep = np.arange(len(weights)) != lowest
                codes, weights = codes.take(keep), weights[keep] / weights[keep].sum()
                continue
        maxima = _search(task, theta, codes)
        top = maxima.heights[0]
        if top > level + _VIOLATION * (1.0 + abs(level)):
            entering = maxima.take(maxima.heights > level + 0.5 * (top - level))
            count = len(codes.v)
            codes = (codes + entering).distinct()
            if len(codes.v) == count:
                return None
            weights = _padded(weights, len(codes.v))
            if task.dependent > 0.0:
                codes, weights = _basic(task, theta, codes, weights)
            continue
        touching = (codes + maxima.take(maxima.heights >= level - 1e-10 * (1.0 + abs(level)))).distinct()
        if len(touching.v) > len(codes.v) or _nullity(task, theta, codes):
            given = np.concatenate([weights, np.zeros(len(touching.v) - len(weights))])
            selected = _select(task, theta, touching, given)
            if selected is not None:
                codes, weights = touching, selected
        keep = weights > 1e-13
        codes, weights = codes.take(keep), weights[keep]
        return _Point(theta, codes, weights, _nullity(task, theta, codes))
    return None


def _newton(
    task: _Task, theta: FloatArray, codes: _Codes, weights: FloatArray
) -> tuple[FloatArray, _Codes, FloatArray, float] | None:
    kinds, n = task.kinds, theta.size
    free = kinds.free.ravel()
    previous, least, stalled, smallest = math.inf, math.inf, 0, _SMALLEST[0]
    for _ in range(_STEPS):
        before = len(codes.v)
        fresh = task.readouts(theta, codes.counts, codes.v)
        if np.abs(fresh.v - codes.v).max() > 2.0 * (1.0 + np.abs(codes.v).max()) and previous < math.inf:
            return None  # a code ran away
        codes = fresh.distinct(1e-7)
        if len(codes.v) < before:  # orbits have merged
            weights = _merged(fresh, codes, weights)
        parts = [_fields(task, theta, c, v) for c, v in zip(codes.counts, codes.v, strict=True)]
        h = np.array([part.h for part in parts])
        columns = np.array([part.columns.ravel() for part in parts])
        target = (task.share[:, None] * (kinds.y - task.tau * theta)).ravel()
        defect = (target - weights @ columns) / np.repeat(task.share, theta.shape[1])
        residual = max(float(np.abs(defect[free]).max()), float(np.ptp(h)), abs(float(weights.sum()) - 1.0))
        if not residual < 1e8:
            return None
        if residual <= 1e-14 or (residual <= 1e-11 and residual >= 0.3 * previous):
            return theta, codes, weights, float(h[0])
        previous = residual
        # Orbits that nearly depend on each other: first their common part, then what tells them apart.
        stalled = stalled + 1 if residual > 0.5 * least else 0
        least = min(least, residual)
        if stalled > _PATIENCE:
            if smallest == _SMALLEST[1]:
                return None
            smallest, stalled, least = _SMALLEST[1], 0, math.inf
        size = n + len(h) + 1
        matrix, rhs = np.zeros((size, size)), np.zeros(size)
        matrix[:n, :n] = sum(w * part.curvature for w, part in zip(weights, parts, strict=True))
        matrix[:n, :n] += task.tau * np.diag(np.repeat(task.share, theta.shape[1]))
        matrix[:n, n:-1], matrix[n:-1, :n] = columns.T, columns
        matrix[n:-1, -1] = matrix[-1, n:-1] = -1.0
        rhs[:n], rhs[n:-1], rhs[-1] = target, -h, -1.0
        dead = np.flatnonzero(~free)
        matrix[dead], matrix[:, dead], rhs[dead] = 0.0, 0.0, 0.0
        matrix[dead, dead] = 1.0
        step = np.linalg.lstsq(matrix, rhs, rcond=smallest)[0]
        length = min(1.0, max(1.0, float(np.abs(theta).max())) / max(float(np.abs(step[:n]).max()), 1e-300))
        theta = theta + length * step[:n].reshape(theta.shape)
        weights = weights + length * (step[n:-1] - weights)
    return None


def _merged(codes: _Codes, kept: _Codes, weights: FloatArray) -> FloatArray:
    total = np.zeros(len(kept.v))
    for i, weight in enumerate(weights):
        reach = 1e-6 * (1.0 + np.abs(codes.v[i]).max())
        same = [
            (codes.counts[i] == kept.counts[j]).all() and np.abs(codes.v[i] - kept.v[j]).max() < reach
            for j in range(len(kept.v))
        ]
        total[int(np.argmax(same))] += weight
    return total


def _columns(task: _Task, theta: FloatArray, codes: _Codes) -> FloatArray:
    """(free + 1, n) what a unit of weight of each orbit contributes to the equations of y and to 1."""
    free = task.kinds.free.ravel()
    parts = [_fields(task, theta, c, v) for c, v in zip(codes.counts, codes.v, strict=True)]
    rows = np.array([part.columns.ravel()[free] for part in parts]).T
    return np.vstack([rows, np.ones(len(parts))])


def _nullity(task: _Task, theta: FloatArray, codes: _Codes) -> int:
    return len(codes.v) - int(np.linalg.matrix_rank(_columns(task, theta, codes), rtol=1e-9))


def _feasible(task: _Task, theta: FloatArray, codes: _Codes) -> FloatArray | None:
    """Weights >= 0 that solve the equations of y, if these have several solutions."""
    columns = _columns(task, theta, codes)
    free = task.kinds.free.ravel()
    target = np.append((task.share[:, None] * (task.kinds.y - task.tau * theta)).ravel()[free], 1.0)
    weights, norm = nnls(columns, target)
    return np.asarray(weights) if norm < 1e-12 else None


def _select(task: _Task, theta: FloatArray, codes: _Codes, given: FloatArray) -> FloatArray | None:
    """Of all optimal weights those that the limit P -> infinity selects: maximal -sum_o w_o ln(w_o / (N_o D_o))."""
    columns = _columns(task, theta, codes)[:-1]
    log_width = np.array([_fields(task, theta, c, v).log_width for c, v in zip(codes.counts, codes.v, strict=True)])
    centred = columns - (columns @ given)[:, None]
    centred[np.abs(centred) <= _ROUNDING * (1.0 + np.abs(columns).max())] = 0.0
    multiplier, best = np.zeros(len(columns)), math.inf
    step = np.zeros(len(columns))
    weights: Any = given
    for _ in range(200):
        exponent = log_width + (multiplier + step) @ centred
        top = float(exponent.max())
        value = top + math.log(float(np.exp(exponent - top).sum()))
        if value > best + 1e-12 * (1.0 + abs(best)):
            step = 0.25 * step
            continue
        best, multiplier = value, multiplier + step
        weights = np.asarray(np.exp(exponent - top))
        weights = np.asarray(weights / weights.sum())
        gradient = centred @ weights
        if np.abs(gradient).max(initial=0.0) < 1e-15:
            break
        hessian = (centred * weights) @ centred.T - np.outer(gradient, gradient)
        step = -np.linalg.lstsq(hessian, gradient, rcond=1e-13)[0]
    return weights if np.abs(centred @ weights).max(initial=0.0) < 1e-12 else None


def _certified(task: _Task, point: _Point, activation: Activation, k: float, rounds: int) -> KindSolution:
    """Residual of all equations and duality gap, with G from quadrature; norms are those of the full equations."""
    direct = cumulant(activation, k).direct
    theta, codes, weights, kinds = point.theta, point.codes, point.weights, task.kinds
    parts = [_direct_fields(task, theta, c, v, direct) for c, v in zip(codes.counts, codes.v, strict=True)]
    h = np.array([part[0] for part in parts])
    level = float(h.max())
    columns = np.array([part[1] for part in parts])
    defect = (kinds.y - task.tau * theta) - np.einsum("n,nkr->kr", weights, columns) / task.share[:, None]
    residual = max(
        float(np.sqrt((defect**2).sum(axis=1)).max()),
        max(part[2] for part in parts),
        level - float(h.min()),
        abs(float(weights.sum()) - 1.0),
    )
    # sum_c p_c KL = sum theta . dh/dtheta - sum_c p_c G, and |v|^2 / 2 is what h lacks of the latter.
    cost = np.einsum("nkr,kr->n", columns, theta) - h
    output = kinds.y - defect - task.tau * theta
    primal = -float(weights @ cost)
    if task.tau > 0.0:
        primal -= float(task.share @ ((kinds.y - output) ** 2).sum(axis=1)) / (2.0 * task.tau)
    else:
        primal -= float(task.share @ np.abs((theta * defect).sum(axis=1)))
    objective = task.linear(theta) + level
    return KindSolution(
        theta, codes.counts, codes.v, weights, point.nullity, level, objective, residual, abs(objective - primal),
        math.inf, 0, False, rounds,
    )  # fmt: skip
