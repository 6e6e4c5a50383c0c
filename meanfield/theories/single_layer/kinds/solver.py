"""Tasks with exchangeable classes at P -> infinity, bounded phi, in reduced coordinates (sigma_a = 1).

The bundle method, Newton's method with an active set and the certificate of the general solver, with orbits of codes in
the place of codes and K (d) order parameters in the place of C (m).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from scipy.optimize import nnls

from meanfield.activations.activation import Activation
from meanfield.activations.cumulant import cumulant
from meanfield.numerics.budget import new_stop
from meanfield.numerics.limits import call_in_thread, check_time
from meanfield.theories.single_layer.compiled import kind_bound, kind_dual, kind_master, kind_path
from meanfield.theories.single_layer.compiled.code_program import RATIOS
from meanfield.theories.single_layer.kinds.classes import ClassKinds
from meanfield.theories.single_layer.kinds.orbits import (
    KindTask,
    Orbits,
    columns_of,
    direct_fields,
    fields_of,
    heights_of,
    log_widths,
    nullity_of,
    search,
)
from meanfield.theories.single_layer.kinds.programme import padded, settled
from meanfield.validation import FloatArray, IntArray

__all__ = ["KindSolution", "solve_kinds"]

_ROUNDS = 200
_NEW_CUTS = 6
_PATIENCE = 3  # rounds that a cut without weight is kept, and steps without progress
_SMALLEST = 1e-12, 1e-15  # relative singular values that Newton's method resolves, first and then
_VIOLATION = 1e-11
_GLOBAL_TOLERANCE = 1e-9
_STEPS = 40
_REFINEMENTS = 20  # with codes that branch and bound has found
_FEW_COUNTS, _MOST_COUNTS = 12, 2e6  # choices of counts that are too few for a path, and that it keeps a mark for
_STAGES, _FEW_STAGES, _FIRST_STAGE, _FACTOR = 24, 7, 3, 4.0  # of beta; from which on Newton's method is tried
_WINDOW = 4.0  # over the last beta: orbits that are looked at beyond
_FEW_ORBITS = 60  # of weight, below which the path looks at more counts
_DEPENDENT = 1e-6, 1e-9  # see `KindTask.dependent`: on the path, in turns
_ROUNDING = 1e-13  # of contributions
_GOOD = 1e-10  # residual
_SHORT = 20_000, 3000  # boxes of `kind_dual` and `kind_bound` that take no longer than a user waits for Ctrl-C


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


def solve_kinds(
    activation: Activation, k: float, kinds: ClassKinds, tau: float, site: Any, max_boxes: int
) -> KindSolution | None:
    """Solve and try to prove; None if no stationary point was found in time. `site`: tables, phi_range of `limit`."""
    try:
        return _solve(activation, k, kinds, tau, site, max_boxes)
    except (TimeoutError, ValueError, np.linalg.LinAlgError):  # of a reduction or factorisation where numbers ran out
        return None


def _solve(
    activation: Activation, k: float, kinds: ClassKinds, tau: float, site: Any, max_boxes: int
) -> KindSolution | None:
    (table, bounds, _), (low, high, infimum, supremum) = site
    task = KindTask(kinds, table._replace(stop=new_stop()), tau, low, high)
    followed = _followed(task)
    theta = np.zeros(kinds.y.shape)
    codes = task.readouts(theta, np.zeros((1, kinds.n_kinds)))
    multipliers, best = np.ones(1), math.inf
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
        # Where Newton's method fails with these, cuts go on from here.
        theta, codes = followed.theta.copy(), (followed.codes + missed.take(slice(_NEW_CUTS))).distinct()
        multipliers, best = padded(followed.weights, len(codes.v)), task.linear(theta) + float(missed.heights[0])
        together = (followed.codes + missed).distinct()
        weights = padded(followed.weights, len(together.v))
        followed = _active_set(task, theta, *_basic(task, theta, together, weights))
    task.dependent = KindTask.dependent
    idle = np.zeros(len(codes.v))
    rho, predicted = 1.0, math.inf
    refinements, wait = 0, 0
    for used in range(1, _ROUNDS + 1):
        trial = theta.copy()
        inner = 1e-9 if math.isinf(predicted) else min(1e-9, max(1e-13, 1e-3 * predicted))
        _, model, _ = kind_master.kind_master(
            task.table, task.share, kinds.y, tau, rho, theta, task.cuts(codes), trial, multipliers, inner
        )
        active = multipliers > 1e-7
        idle = np.where(active, 0.0, idle + 1.0)
        maxima = search(task, trial, codes.take(active))
        young = np.flatnonzero(idle <= _PATIENCE)
        kept, kept_weights, idle = codes.take(young), multipliers[young], idle[young]
        value = task.linear(trial) + maxima.heights[0]
        # The search is not exhaustive: what it finds now may show that the best value was an underestimate.
        if best < math.inf:
            best = max(best, task.linear(theta) + float(heights_of(task, theta, maxima.take(slice(_NEW_CUTS))).max()))
        gain = best - model if best < math.inf else math.inf
        serious = best == math.inf or value < best - 0.1 * gain
        codes = (kept + maxima.take(slice(_NEW_CUTS))).distinct(1e-9)
        multipliers, idle = padded(kept_weights, len(codes.v)), padded(idle, len(codes.v))
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
                multipliers, idle = padded(found.weights, len(codes.v)), np.zeros(len(codes.v))
                best, predicted = task.linear(theta) + float(better.heights[0]), math.inf
    return None


def _followed(task: KindTask) -> _Point | None:
    """The end of the central path of `kind_path`; None where it leads nowhere, or orbits are few enough without."""
    kinds = task.kinds
    n = np.where(kinds.split, kinds.n, 0.0)
    if not _FEW_COUNTS < float(np.prod(n + 1.0)) <= _MOST_COUNTS or kinds.n_kinds == 1:
        return None
    # Heights differ by how far targets are apart, readouts grow with what they have in common.
    apart = kinds.y - np.append(task.share @ kinds.y[:, :-1] / task.share.sum(), 0.0)
    whole = float(np.abs(kinds.y).max()) + 1e-9
    found = _path(task, n, 3.0 / math.sqrt(whole * (float(np.abs(apart).max()) + 1e-9)), _FEW_STAGES)
    return found if found is not None else _path(task, n, 3.0 / whole, _STAGES)


def _path(task: KindTask, n: FloatArray, beta: float, stages: int) -> _Point | None:
    """The end of a path that starts at `beta`; `n` (K,): classes of kinds that are split, else zero."""
    kinds = task.kinds
    theta, strides = np.zeros(kinds.y.shape), np.maximum(n // 4, 1.0)
    grid = product(*(sorted({0.0, a // 4, a // 2, a - a // 4, a}) for a in n))
    codes = task.readouts(theta, list(grid))
    factor = kinds.n / np.maximum(kinds.n - 1.0, 1.0)
    for stage in range(stages):
        ok, counts, v, heights, weights = kind_path.smooth_stage(
            task.table, kinds.n, kinds.p, task.share, factor, kinds.y, task.tau, kinds.split, task.low, task.high,
            theta, beta, (codes.counts, codes.v), strides,
        )  # fmt: skip
        check_time()
        if not ok:
            return None
        codes = Orbits(counts, v, heights)
        strong = np.flatnonzero(weights > 1e-6)
        if stage >= _FIRST_STAGE:
            task.starts, task.dependent = counts[strong], _DEPENDENT[stage % 2]
            if stage == _FIRST_STAGE:  # which orbits carry weight cannot be seen from the path yet
                found = _told_apart(task, theta, codes, weights, _WINDOW / (_FACTOR * beta))
            else:
                basic, share = _basic(task, theta, codes.take(strong), weights[strong])
                found = _active_set(task, theta, basic, share)
            if found is not None:
                return found
        if len(strong) < _FEW_ORBITS:
            strides = np.maximum(strides // 2.0, 1.0)
        beta *= _FACTOR
    return None


def _told_apart(task: KindTask, theta: FloatArray, codes: Orbits, weights: FloatArray, window: float) -> _Point | None:
    """The active set of the orbits whose weight `settled` finds not to be small beside their slack."""
    end = settled(task, theta, codes, weights, window)
    if end is None:
        return None
    theta, codes, weights, slack = end
    for ratio in RATIOS:
        strong = weights > ratio * slack
        if strong.any():
            task.starts = codes.counts[strong]
            found = _active_set(task, theta, *_basic(task, theta, codes.take(strong), weights[strong]))
            if found is not None:
                return found
    return None


def _basic(task: KindTask, theta: FloatArray, codes: Orbits, weights: FloatArray) -> tuple[Orbits, FloatArray]:
    """Some of the orbits, with weights that do the same: none of them can be had from the others.

    Along directions in which weights can change they change uphill in sum_o w_o h_o, until one of them is gone.
    """
    columns = columns_of(task, theta, codes)
    columns = columns / np.maximum(np.abs(columns).max(axis=1, keepdims=True), 1e-300)
    heights = heights_of(task, theta, codes)
    kept, weights = np.arange(len(weights)), weights.copy()
    while len(kept) > 1:
        _, singular, right = np.linalg.svd(columns[:, kept])
        free = right[int(np.sum(singular > task.dependent * singular[0])) :].T  # (kept, directions), orthonormal
        if not free.size:
            break
        share = weights[kept]
        left = kind_path.basic_weights(np.ascontiguousarray(free), heights[kept], share)
        if left.all():
            break
        weights[kept] = share
        kept = kept[left]
    return codes.take(kept), weights[kept]


def _better(task: KindTask, solution: KindSolution, counts: FloatArray) -> Orbits:
    """Codes above the level next to `counts`, where branch and bound could not decide."""
    steps = np.array(list(product((-1.0, 0.0, 1.0), repeat=len(counts))))
    near = np.clip(counts + steps, 0.0, np.where(task.kinds.split, task.kinds.n, 0.0))
    found = task.readouts(solution.theta, near)
    found = found.take(np.argsort(-found.heights, kind="stable"))
    return found.take(found.heights > solution.level + 0.5 * _GLOBAL_TOLERANCE * (1.0 + abs(solution.level))).distinct()


def _proven(
    task: KindTask, solution: KindSolution, bounds: Any, phi_range: tuple[float, float], max_boxes: int
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

    bound, short = kind_dual.kind_dual, _SHORT[0]
    found = run(bound, new_stop(), min(max_boxes, short))
    if found[2] < 0:  # classes between the branches
        bound, short = kind_bound.kind_bound, _SHORT[1]
        found = run(bound, new_stop(), min(max_boxes, short))
    if not found[0] and found[2] >= short and max_boxes > short:
        stop = new_stop()
        found = call_in_thread(lambda: run(bound, stop, max_boxes), stop, lambda: 0)
    return replace(solution, proved=bool(found[0]), excess=float(found[1]), boxes=int(found[2])), found[4]


@dataclass(eq=False)
class _Point:
    theta: FloatArray
    codes: Orbits
    weights: FloatArray
    nullity: int


def _active_set(task: KindTask, theta: FloatArray, codes: Orbits, weights: FloatArray) -> _Point | None:
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
        maxima = search(task, theta, codes)
        top = maxima.heights[0]
        if top > level + _VIOLATION * (1.0 + abs(level)):
            entering = maxima.take(maxima.heights > level + 0.5 * (top - level))
            count = len(codes.v)
            codes = (codes + entering).distinct()
            if len(codes.v) == count:
                return None
            weights = padded(weights, len(codes.v))
            if task.dependent > 0.0:
                codes, weights = _basic(task, theta, codes, weights)
            continue
        touching = (codes + maxima.take(np.abs(maxima.heights - level) <= _tolerance(level))).distinct()
        if len(touching.v) > len(codes.v) or nullity_of(task, theta, codes):
            given = np.concatenate([weights, np.zeros(len(touching.v) - len(weights))])
            selected = _select(task, theta, touching, given)
            if selected is not None:
                codes, weights = touching, selected
        keep = weights > 1e-13
        codes, weights = codes.take(keep), weights[keep]
        return _Point(theta, codes, weights, nullity_of(task, theta, codes))
    return None


def _tolerance(level: float) -> float:
    """By how much heights may differ and count as equal: a part of the residual, where rounding allows it."""
    size = 1.0 + abs(level)
    return min(_VIOLATION * size, max(0.25 * _GOOD, 4e-14 * size))


def _newton(
    task: KindTask, theta: FloatArray, codes: Orbits, weights: FloatArray
) -> tuple[FloatArray, Orbits, FloatArray, float] | None:
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
        fields = fields_of(task, theta, codes)
        h, columns = fields.h, fields.columns.reshape(len(fields.h), -1)
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
        matrix[:n, :n] = np.tensordot(weights, fields.curvature, 1)
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


def _merged(codes: Orbits, kept: Orbits, weights: FloatArray) -> FloatArray:
    total = np.zeros(len(kept.v))
    for i, weight in enumerate(weights):
        reach = 1e-6 * (1.0 + np.abs(codes.v[i]).max())
        same = [
            (codes.counts[i] == kept.counts[j]).all() and np.abs(codes.v[i] - kept.v[j]).max() < reach
            for j in range(len(kept.v))
        ]
        total[int(np.argmax(same))] += weight
    return total


def _feasible(task: KindTask, theta: FloatArray, codes: Orbits) -> FloatArray | None:
    """Weights >= 0 that solve the equations of y, if these have several solutions."""
    columns = columns_of(task, theta, codes)
    free = task.kinds.free.ravel()
    target = np.append((task.share[:, None] * (task.kinds.y - task.tau * theta)).ravel()[free], 1.0)
    weights, norm = nnls(columns, target)
    return np.asarray(weights) if norm < 1e-12 else None


def _select(task: KindTask, theta: FloatArray, codes: Orbits, given: FloatArray) -> FloatArray | None:
    """Of all optimal weights those that the limit P -> infinity selects: maximal -sum_o w_o ln(w_o / (N_o D_o))."""
    columns = columns_of(task, theta, codes)[:-1]
    log_width = log_widths(task, theta, codes)
    centred = columns - (columns @ given)[:, None]
    centred[np.abs(centred) <= _ROUNDING * (1.0 + np.abs(columns).max())] = 0.0
    multiplier, best = np.zeros(len(columns)), math.inf
    step = np.zeros(len(columns))
    weights: Any = given
    least, idle = math.inf, 0
    for _ in range(200):
        exponent = log_width + (multiplier + step) @ centred
        top = float(exponent.max())
        value = top + math.log(float(np.exp(exponent - top).sum()))
        if value > best + 1e-12 * (1.0 + abs(best)):
            step = 0.25 * step
            continue
        gains = value < best - 1e-13 * (1.0 + abs(best))
        best, multiplier = value, multiplier + step
        weights = np.asarray(np.exp(exponent - top))
        weights = np.asarray(weights / weights.sum())
        gradient = centred @ weights
        size = float(np.abs(gradient).max(initial=0.0))
        idle = 0 if gains or size < 0.9 * least else idle + 1
        least = min(least, size)
        if size < 1e-15 or idle > 3:  # rounding
            break
        hessian = (centred * weights) @ centred.T - np.outer(gradient, gradient)
        step = -np.linalg.lstsq(hessian, gradient, rcond=1e-13)[0]
    return weights if np.abs(centred @ weights).max(initial=0.0) < 1e-12 else None


def _certified(task: KindTask, point: _Point, activation: Activation, k: float, rounds: int) -> KindSolution:
    """Residual of all equations and duality gap, with G from quadrature; norms are those of the full equations."""
    direct = cumulant(activation, k).direct
    theta, codes, weights, kinds = point.theta, point.codes, point.weights, task.kinds
    h, columns, slopes = direct_fields(task, theta, codes, direct)
    level = float(h.max())
    defect = (kinds.y - task.tau * theta) - np.einsum("n,nkr->kr", weights, columns) / task.share[:, None]
    residual = max(
        float(np.sqrt((defect**2).sum(axis=1)).max()),
        float(slopes.max()),
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
