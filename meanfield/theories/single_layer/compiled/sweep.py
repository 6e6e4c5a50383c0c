"""The compiled loop over tasks: warm start, bundle from scratch, certificate (sigma_a = 1).

The stages call each other through pointers and say what they return (`numerics.barrier`): one that no task needs is not
compiled.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.copies import copy_matrix, copy_vector
from meanfield.numerics.jit import jit, jit_apart
from meanfield.numerics.order import largest_first
from meanfield.theories.single_layer.compiled.analog import analog_candidate
from meanfield.theories.single_layer.compiled.ascent import ascend, find_maxima
from meanfield.theories.single_layer.compiled.bundle import bundle_rounds
from meanfield.theories.single_layer.compiled.certificate import certify
from meanfield.theories.single_layer.compiled.code_path import code_path
from meanfield.theories.single_layer.compiled.dual import active_set, candidates
from meanfield.theories.single_layer.compiled.globalcheck import global_bound
from meanfield.theories.single_layer.compiled.moving_cuts import moving_cuts
from meanfield.theories.single_layer.compiled.outlier import worst_directions
from meanfield.theories.single_layer.compiled.returned import SOLUTION
from meanfield.theories.single_layer.compiled.ridges import climb_ridges, edge_above, highest_maximum, softness

__all__ = [
    "CONVERGED",
    "DUALITY_GAP",
    "FAILED",
    "GAP_LIMIT",
    "NOT_CONVERGED",
    "NOT_GLOBAL",
    "NUMBERS",
    "RELATIVE_RESIDUAL",
    "RESIDUAL",
    "RESIDUAL_LIMIT",
    "STOPPED",
    "sweep_points",
]

CONVERGED, NOT_CONVERGED, RESIDUAL, DUALITY_GAP, NOT_GLOBAL, FAILED, STOPPED = range(7)

# Columns of `numbers`; nullities: dimensions of the families of optimal weights and of optimal t.
NUMBERS = (
    "status",
    "n_codes",
    "n_outliers",
    "level",
    "objective",
    "residual",
    "gap",
    "excess",
    "boxes",
    "nullity",
    "t_nullity",
    "rounds",
)

# Ways to a solution, in this order: active set from the neighbour; bundle method from scratch; for bounded phi a
# central path over codes, for others the bundle method whose cuts move; continuation in tau, for which t is unique: tau
# -> 0 selects the optimal t of least norm. The second comes first where codes come in crowds, with many classes and
# outputs, and where they sit far out.
_WARM, _SCRATCH, _PATH, _TAU = range(4)

RESIDUAL_LIMIT = 1e-10
RELATIVE_RESIDUAL = 1e-4  # of the largest target: of targets of 1e-10 the first alone would leave nothing
GAP_LIMIT = 1e-8
_GLOBAL_TOLERANCE = 1e-9
_MAX_ROUNDS, _FEW_ROUNDS = 300, 24
_MANY_CLASSES, _MANY_UNKNOWNS = 6, 36  # from which on the central path goes first
_FIRST_CHUNK = 6  # rounds of the bundle method before candidates are looked at
_MAX_REFINEMENTS = 8  # with readouts that branch and bound has found
_FEW_BOXES = 30_000  # after which one looks for such a readout before going on
_TAU_STEPS = 18  # tau falls by 4 per step, to 1e-10 of its first value


@jit
def _nothing(n_classes, m):
    """What `active_set` returns, where there is no solution yet."""
    none, no_weights = np.empty((0, m)), np.empty(0)
    return False, np.zeros((n_classes, m)), none, no_weights, none, no_weights, 0.0, 0, 0


@jit_apart(returns=f"Tuple(({SOLUTION}, int64, int64))")
def _bundled(table, p, y, tau, low, high, origin, solution, most, search):
    """At most so many rounds of the bundle method from `origin`, `active_set` now and then with cuts that carry weight.

    `solution` is what was found before. Returns (solution, rounds, rounds between two looks at the end).
    """
    m = y.shape[1]
    unbounded = table.growth_plus > 0.0 or table.growth_minus > 0.0
    none, no_weights = np.empty((0, m)), np.empty(0)
    state = (origin, none, no_weights, none, no_weights, 1.0)
    used = 0
    converged = 0
    chunk = _FIRST_CHUNK
    while used < most and not exhausted(table.stop, 1):
        state, best, predicted, more = bundle_rounds(table, p, y, tau, low, high, state, 1e-12, chunk)
        used += more
        chunk = 3 if used < 60 else 12
        if not predicted < 0.1 * (1.0 + abs(best)):
            continue
        readouts, weights, directions, direction_weights = candidates(table, p, state, 0.1 if used < 60 else 0.02)
        solution = active_set(
            table, p, y, tau, low, high, state[0].copy(), readouts, weights, directions, direction_weights, search
        )
        # With nothing left to gain the same candidates return; cuts that move go elsewhere.
        converged += more < chunk or predicted < 1e-12 * (1.0 + abs(best))
        if solution[0] or (more < chunk and used > 100) or (unbounded and converged > 3):
            break
    return solution, used, chunk


@jit_apart(returns="Tuple((float64, boolean))")
def _confinement(table, p, t):
    """Q(t), and whether it is exact."""
    _, worst, exact = worst_directions(table, p, t, np.inf, np.empty((0, t.shape[1])), np.empty(0))
    return worst, exact


@jit_apart(returns="Tuple((boolean, float64, int64))")
def _proved(tables, phi_range, p, solution, max_boxes, where, search):
    """Whether no readout is higher than the codes, by how much one may be, and boxes; `where` as in `global_bound`."""
    table, bounds, _ = tables
    low, high, infimum, supremum = phi_range
    _, t, readouts, _, _, _, s, _, _ = solution
    maxima, heights, searched = search
    unbounded = table.growth_plus > 0.0 or table.growth_minus > 0.0
    count = searched[0]
    if count < 0:
        count = find_maxima(table, p, t, low, high, readouts, True, maxima, heights)
        count, _ = climb_ridges(table, p, t, maxima, heights, count)
    tolerance = _GLOBAL_TOLERANCE * (1.0 + abs(s))
    worst = 0.0
    exact = True
    if unbounded:
        worst, exact = _confinement(table, p, t)
    confinement = 1.0 - worst if exact else 0.0
    proved, excess, boxes = global_bound(
        table, bounds, p, t, s, maxima[:count], infimum, supremum, tolerance, max_boxes, confinement, where
    )
    if unbounded:
        proved = proved and exact and worst <= 1.0 + _GLOBAL_TOLERANCE
        excess = max(excess, worst - 1.0)
    return proved and highest_maximum(maxima, heights, count) <= s + tolerance, excess, boxes


@jit_apart(returns=f"Tuple(({SOLUTION}, int64))")
def _with_readout(table, p, y, tau, low, high, solution, where, chunk, search):
    """Solve with the readout `where` (m,) beside those of a solution that has missed it; returns (solution, rounds)."""
    _, t, readouts, weights, directions, direction_weights, _, _, _ = solution
    m = where.shape[0]
    rounds = 0
    grown = np.zeros((readouts.shape[0] + 1, m))
    grown_weights = np.zeros(readouts.shape[0] + 1)
    copy_matrix(grown, readouts)
    copy_vector(grown_weights, weights)
    copy_vector(grown[readouts.shape[0]], where)
    found = active_set(
        table, p, y, tau, low, high, t.copy(), grown.copy(), grown_weights.copy(), directions.copy(),
        direction_weights.copy(), search,
    )  # fmt: skip
    if not found[0]:
        state = (t, grown, grown_weights, directions, direction_weights, 1.0)
        for _ in range(6):
            state, _, _, more = bundle_rounds(table, p, y, tau, low, high, state, 1e-12, chunk)
            rounds += more
            readouts, weights, directions, direction_weights = candidates(table, p, state, 0.1)
            found = active_set(
                table, p, y, tau, low, high, state[0].copy(), readouts, weights, directions, direction_weights, search
            )
            if found[0] or exhausted(table.stop, 1):
                break
    if not found[0] and (table.growth_plus > 0.0 or table.growth_minus > 0.0):
        found = moving_cuts(table, p, y, tau, low, high, grown)
        search[2][0] = -1
    return found, rounds


@jit_apart(returns="int64")
def _put_heaviest(rows_out, weights_out, rows, weights):
    """Copy rows and weights, heaviest first, as many as there is room for; returns their number."""
    n = 0
    for k in largest_first(weights):
        if n < weights_out.shape[0]:
            copy_vector(rows_out[n], rows[k])
            weights_out[n] = weights[k]
            n += 1
    return n


@jit_apart(returns=SOLUTION)
def _that_of(j, codes, outliers, t, numbers):
    """The solution of task j, from what `sweep_points` has filled."""
    n, o = int(numbers[j, 1]), int(numbers[j, 2])
    readouts, weights = codes[0][j, :n].copy(), codes[1][j, :n].copy()
    directions, direction_weights = outliers[0][j, :o].copy(), outliers[1][j, :o].copy()
    solved, unique = numbers[j, 0] == CONVERGED, np.int64(0)
    return solved, t[j].copy(), readouts, weights, directions, direction_weights, 0.0, unique, unique


@jit_apart(returns=SOLUTION)
def _by_path(table, p, y, tau, low, high):
    """From scratch, by a central path, or cuts that move where phi is unbounded."""
    if table.growth_plus > 0.0 or table.growth_minus > 0.0:
        return moving_cuts(table, p, y, tau, low, high, np.empty((0, y.shape[1])))
    return code_path(table, p, y, tau, low, high)


@jit_apart(returns=SOLUTION)
def _analog(table, p, y, tau):
    """The solution of the linear network of the same growth, with a code at zero."""
    t, directions, direction_weights = analog_candidate(table, p, y, tau)
    solved, unique = t.shape[0] > 0, np.int64(0)  # neither is a literal, as is said of what is returned
    return solved, t, np.zeros((1, y.shape[1])), np.ones(1), directions, direction_weights, 0.0, unique, unique


@jit_apart(returns="boolean")
def _above(table, p, y, t, s, where):
    """Whether a readout is above the level s, by a climb from `where` (m,), which is filled with it.

    The box that could not be decided may hold one that the ascents have missed.
    """
    height, _ = ascend(table, p, t, where)
    if height > s + _GLOBAL_TOLERANCE * (1.0 + abs(s)) and np.max(np.abs(where)) < 1e5:
        return True
    unbounded = table.growth_plus > 0.0 or table.growth_minus > 0.0
    return unbounded and edge_above(table, p, t, s, softness(y, s), where)


@jit
def sweep_points(tables, tasks, phi_range, parent, max_boxes, first, last, codes, outliers, t_out, numbers):
    """Solve and certify tasks first .. last - 1.

    max_boxes = 0 asks for no proof: the first stationary point is what is returned, NOT_GLOBAL.
    tables = (Table, Bounds, Direct); tasks = (p (N, C), y (N, C, m), tau (N,)); phi_range = (low, high, infimum,
    supremum): activations for code-word starts and the range of phi. Task i starts from the solution of task
    parent[i] < i, if that is certified; -1 means none.
    Fills codes = (readouts (N, K, m), weights (N, K)), outliers = (directions (N, O, m), weights (N, O)), t (N, C, m)
    and numbers (N, 12), see `NUMBERS`. Statuses: CONVERGED means certified.

    Returns the first task that is not done: `last`, or less where table.stop ended the loop, between tasks or inside
    one, whose status is STOPPED then.
    """
    table, _, direct = tables
    p_all, y_all, tau_all = tasks
    low, high, infimum, supremum = phi_range
    readouts_out, weights_out = codes
    directions_out, direction_weights_out = outliers
    n_classes, m = y_all.shape[1], y_all.shape[2]
    unbounded = table.growth_plus > 0.0 or table.growth_minus > 0.0
    # Where phi grows on one side and keeps a value on the other, codes sit far out.
    dips = unbounded and (
        (table.growth_minus == 0.0 and abs(infimum) > 0.0) or (table.growth_plus == 0.0 and abs(supremum) > 0.0)
    )
    # Where it grows on both, but not equally, they often do: the bundle method from scratch is given up early.
    skewed = 0.0 < min(table.growth_minus, table.growth_plus) < max(table.growth_minus, table.growth_plus)
    searched = np.full(1, -1)
    search = np.empty((1024, m)), np.empty(1024), searched
    where = np.empty(m)
    chunk = _FIRST_CHUNK
    stop = table.stop
    for i in range(first, last):
        if i > first and stop[1] > stop[2]:
            return i
        p = p_all[i].copy()
        y = y_all[i].copy()
        tau = tau_all[i]
        j = parent[i]
        many = not unbounded and n_classes >= _MANY_CLASSES and n_classes * m >= _MANY_UNKNOWNS
        first_path = many or dips
        stage = _PATH if first_path else _SCRATCH
        solution = _nothing(n_classes, m)
        if 0 <= j < i and numbers[j, 0] == CONVERGED:
            stage = _WARM
            solution = _that_of(j, codes, outliers, t_out, numbers)
        rounds = 0
        status = NOT_CONVERGED
        residual = gap = objective = excess = np.inf
        boxes = 0
        level = 0.0
        reported = solution  # the point whose numbers are known, if there is one
        while stage <= _TAU:
            start = 0.03 * np.max(np.abs(y)) ** 2 + 1e-3
            steps = 1
            failures = 0
            if stage == _PATH:
                solution = _by_path(table, p, y, tau, low, high)
                searched[0] = -1
                steps = 0
            elif stage != _WARM:
                solution = _nothing(n_classes, m)
                if stage == _TAU:
                    steps = _TAU_STEPS
                elif table.growth_plus == table.growth_minus > 0.0:
                    solution = _analog(table, p, y, tau)
            for step in range(steps):
                if exhausted(stop, 1):
                    break
                tau_now = tau if step == steps - 1 else tau + start * 0.25**step
                origin = solution[1].copy()
                if solution[0]:
                    solution = active_set(
                        table, p, y, tau_now, low, high, origin.copy(), solution[2].copy(), solution[3].copy(),
                        solution[4].copy(), solution[5].copy(), search,
                    )  # fmt: skip
                if solution[0] or stage == _WARM:
                    continue
                if stage == _SCRATCH:
                    origin = np.zeros((n_classes, m))
                failures += 1
                if failures > 3:
                    break
                most = _FEW_ROUNDS if skewed and stage == _SCRATCH else _MAX_ROUNDS
                solution, used, chunk = _bundled(table, p, y, tau_now, low, high, origin, solution, most, search)
                rounds += used
            refinements = 0
            budget = min(max_boxes, _FEW_BOXES)
            while solution[0] and (solution[8] == 0 or stage == _TAU):
                _, t, readouts, weights, directions, direction_weights, s, _, _ = solution
                reported = solution
                excess = np.inf
                boxes = 0
                residual, gap, objective, level = certify(
                    direct, table.growth_plus, table.growth_minus, p, y, tau, t, readouts, weights, directions,
                    direction_weights,
                )  # fmt: skip
                if not residual <= min(RESIDUAL_LIMIT, RELATIVE_RESIDUAL * np.max(np.abs(y))):
                    status = RESIDUAL
                elif not gap <= GAP_LIMIT * max(1.0, abs(objective)):
                    status = DUALITY_GAP
                else:
                    proved, excess, boxes = _proved(tables, phi_range, p, solution, budget, where, search)
                    status = CONVERGED if proved else NOT_GLOBAL
                if status != NOT_GLOBAL or refinements == _MAX_REFINEMENTS or exhausted(stop, 1):
                    break
                if not _above(table, p, y, t, s, where):
                    if budget == max_boxes or (skewed and stage == _SCRATCH and max_boxes > 0):
                        break
                    budget = max_boxes
                    continue
                refinements += 1
                found, used = _with_readout(table, p, y, tau, low, high, solution, where, chunk, search)
                rounds += used
                if not found[0]:
                    break
                solution = found
            if status == CONVERGED or (status == NOT_GLOBAL and max_boxes == 0):  # no proof is asked for
                break
            if not first_path or stage == _TAU:
                stage += 1
            elif stage == _WARM:
                stage = _PATH
            elif stage == _PATH:
                stage = _SCRATCH
            else:
                stage = _TAU
            if exhausted(stop, 0):
                break
        if status != CONVERGED and exhausted(stop, 0):
            status = STOPPED
        if residual == np.inf:
            reported = solution
        _, t, readouts, weights, directions, direction_weights, _, nullity, t_nullity = reported
        copy_matrix(t_out[i], t)
        n = _put_heaviest(readouts_out[i], weights_out[i], readouts, weights)
        o = _put_heaviest(directions_out[i], direction_weights_out[i], directions, direction_weights)
        numbers[i, 0] = status
        numbers[i, 1] = n
        numbers[i, 2] = o
        numbers[i, 3] = level
        numbers[i, 4] = objective
        numbers[i, 5] = residual
        numbers[i, 6] = gap
        numbers[i, 7] = excess
        numbers[i, 8] = boxes
        numbers[i, 9] = nullity
        numbers[i, 10] = t_nullity
        numbers[i, 11] = rounds
        if status == STOPPED:
            return i
    return last
