"""The minimum of J by a bundle method on a half sphere of readouts, for tasks with codes far out (sigma_a = 1).

Where phi grows, codes may sit far out, at readouts r u with 1 - Q(u) of order 1 / r^2, and outliers are where they end.
With a = b / rho, |b|^2 + n rho^2 = 1, what a readout asks for,

    F(b, rho; t, s) = rho^2 (h(b / rho; t) - s) = (h(a; t) - s) / (n + |a|^2) <= 0,

goes over into (Q(u; t) - 1) / 2 <= 0 at rho = 0: the index set is compact, F is convex in (t, s) and of order one, and
the multipliers w = (n + |a|^2) P of far codes are of the order of outlier weights. Local maxima of F move with (t, s)
along almost flat directions, so that cuts at fixed readouts crawl. The curvature that this adds to the Lagrangian,

    sum_k w_k (d_x d_a F) (-d_a^2 F)^-1 (d_a d_x F),   x = (t, s),

is the metric of the proximal term. Steps are then those of Newton's method, while cuts, which hold everywhere, keep
them from going astray. Accepted is what lowers the exact penalty function J's objective + sigma [max F]_+.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.copies import copy_matrix, copy_vector
from meanfield.numerics.jit import jit, jit_apart
from meanfield.theories.single_layer.compiled.ascent import NO_PUSH, code_word_start, linear_push
from meanfield.theories.single_layer.compiled.cones import solve_cones
from meanfield.theories.single_layer.compiled.dual import active_set
from meanfield.theories.single_layer.compiled.generated.action import action_fields, growth_fields
from meanfield.theories.single_layer.compiled.generated.stationarity import linear_part, neuron_jacobian
from meanfield.theories.single_layer.compiled.kkt import direction_step, room_for_derivatives
from meanfield.theories.single_layer.compiled.master import solve_master
from meanfield.theories.single_layer.compiled.outlier import worst_directions
from meanfield.theories.single_layer.compiled.returned import SOLUTION
from meanfield.theories.single_layer.compiled.ridges import (
    LOST,
    RIDGE_RADII,
    climb_half_sphere,
    edge_above,
    ridge_start,
    softness,
)

__all__ = ["moving_cuts"]

_ROUNDS = 160
_WINDOW = 0.05  # of F below zero, where maxima become cuts
_MOST = 64  # new readouts in a round
_CARRIED = 1e-9  # multiplier from which on a cut is kept
_SAME = 1e-9  # relative distance of cuts that are one
_NEAR = 0.05  # squared distance on the half sphere within which a maximum is where a cut went
_FLAT = 1e-9  # least curvature of F, in units of 1 / (n + |a|^2)
_WATCHED = 0.7  # growth from which on a direction is looked at
_MERGED, _MERGED_AT_FIRST = 1e-3, 0.05  # relative distance of cuts that go to the active set as one; of directions
_FIRST_TRY, _NEXT_TRY = 1e-5, 1e-2  # predicted gain at which the active set is tried, and by how much less again
_CLOSE, _NEXT_TRY_CLOSE = 1e-7, 0.1  # the same where spaces of growth one come apart
_SMALLEST_GAIN = 1e-12
_MUCH = 1e-4  # multiplier, in units of the targets, of what surely counts
_FAR = 1e4  # |a|^2 from which on a maximum is held against where its ray ends
_RIM = 4e8  # |a|^2 from which on a code is an outlier on its way


@jit
def _insert(cuts, values, count, a, value, distance):
    """Add a readout or direction unless it is there, or the array is full; returns the count."""
    for k in range(count):
        gap = 0.0
        size = 1.0
        for r in range(a.shape[0]):
            gap = max(gap, abs(cuts[k, r] - a[r]))
            size = max(size, abs(cuts[k, r]))
        if gap <= distance * size:
            return count
    if count == cuts.shape[0]:
        return count
    copy_vector(cuts[count], a)
    values[count] = value
    return count + 1


@jit
def _rim_is_higher(table, p, t, s, a):
    """Whether F is larger where the ray through the far readout `a` ends than at `a`: no code of its own is there.

    F (n + |a|^2) = -|a|^2 (1 - Q) / 2 + R - s: with R below s, F rises all the way, in steps that rounding ends.
    """
    size = np.sum(a * a)
    if size < _FAR:
        return False
    fields = np.empty(t.shape[0])
    h = action_fields(table, p, t, a, fields, fields)
    return h + 0.5 * size - growth_fields(table.growth_plus, table.growth_minus, p, t, a, fields, fields) < s


@jit_apart(returns="Tuple((int64, int64, float64))")
def _maxima(table, p, t, s, soft, low, high, known, readouts, values, directions, growths):
    """Local maxima of F above -_WINDOW: fills readouts, values and directions, growths.

    Returns (readouts, directions, largest F).
    """
    n_classes, m = t.shape
    a = np.empty(m)
    worst = np.empty((64, m))
    worst_values = np.empty(64)
    count = 0
    n_directions = 0
    largest = -1.0
    n_worst, q_max, _ = worst_directions(table, p, t, _WATCHED, worst, worst_values)
    largest = max(largest, 0.5 * (q_max - 1.0))
    for k in range(n_worst):
        if worst_values[k] >= 1.0 - 2.0 * _WINDOW:
            n_directions = _insert(directions, growths, n_directions, worst[k], worst_values[k], _SAME)
        push = linear_push(table, p, t, worst[k])
        if push > NO_PUSH:
            # Where -(1 - Q) r^2 / 2 + push r + R_0 - s over r^2 is largest at Q = 1, with R_0 from 0 to about -1/2.
            for part in range(3):
                rest = max(s, 1e-3 * min(soft, 1.0)) * (0.2 if part == 0 else 1.0) + (0.5 if part == 2 else 0.0)
                for r in range(m):
                    a[r] = worst[k, r] * min(2.0 * rest / push, LOST)
                value = climb_half_sphere(table, p, t, s, soft, a)
                if value > -_WINDOW and not _rim_is_higher(table, p, t, s, a):
                    count = _insert(readouts, values, count, a, value, 1e-5)
                    largest = max(largest, value)
    for k in range(n_worst * RIDGE_RADII):
        u = worst[k // RIDGE_RADII]
        if worst_values[k // RIDGE_RADII] < 1.0 - 2.0 * _WINDOW:
            continue
        if ridge_start(table, p, t, u, k % RIDGE_RADII, a):
            value = climb_half_sphere(table, p, t, s, soft, a)
            if value > -_WINDOW and not _rim_is_higher(table, p, t, s, a):
                count = _insert(readouts, values, count, a, value, 1e-5)
                largest = max(largest, value)
    for k in range(known.shape[0] + (1 << min(n_classes, 10))):
        if exhausted(table.stop, 1):
            break
        if k < known.shape[0]:
            copy_vector(a, known[k])
        else:
            code_word_start(p, t, k - known.shape[0], low, high, a)
        value = climb_half_sphere(table, p, t, s, soft, a)
        if value > -_WINDOW and not _rim_is_higher(table, p, t, s, a):
            count = _insert(readouts, values, count, a, value, 1e-5)
            largest = max(largest, value)
    return count, n_directions, largest


@jit
def _add_response(metric, n, weight, across, curvatures, axes, least):
    """Add weight across (axes / curvatures) across^T, `across` (n, m), where curvatures are at least `least`."""
    m = across.shape[1]
    turned = np.zeros((n, m))
    for i in range(n):
        for j in range(m):
            for r in range(m):
                turned[i, j] += across[i, r] * axes[r, j]
    for j in range(m):
        share = weight / max(curvatures[j], least)
        for i in range(n):
            for k in range(n):
                metric[i, k] += share * turned[i, j] * turned[k, j]


@jit_apart(returns="none")
def _metric(table, p, t, s, soft, readouts, weights, directions, direction_weights, metric):
    """Fill metric (C m + 1, C m + 1) with the curvature that moving maxima add, see the module."""
    n_classes, m = t.shape
    n = n_classes * m
    n_codes, n_out = readouts.shape[0], directions.shape[0]
    metric[:] = 0.0
    first, second, mixed, curvature, slope = room_for_derivatives(n_codes, n_classes, m)
    same_class = np.zeros((n_classes, m, m))
    across = np.empty((n + 1, m))
    heights = np.empty(n_codes)
    for k in range(n_codes):
        heights[k] = action_fields(table, p, t, readouts[k], first[k], second[k])
    neuron_jacobian(first, second, p, t, readouts, weights, mixed, curvature, slope, same_class)
    for k in range(n_codes):
        if not weights[k] > 0.0:
            continue
        a = readouts[k]
        size = soft + np.sum(a * a)
        value = (heights[k] - s) / size
        bend = np.empty((m, m))
        for r in range(m):
            for q in range(m):
                bend[r, q] = -curvature[k, r, q] / size
            bend[r, r] += 2.0 * value / size
            for i in range(n):
                c = i // m
                across[i, r] = mixed[k, r, c, i % m] / size - 2.0 * slope[k, c, i % m] * a[r] / (size * size)
            across[n, r] = 2.0 * a[r] / (size * size)
        curvatures, axes = np.linalg.eigh(bend)
        _add_response(metric, n + 1, weights[k], across, curvatures, axes, _FLAT / size)
    first_out, second_out, mixed_out, curvature_out, slope_out = room_for_derivatives(n_out, n_classes, m)
    response = np.empty((m, n_classes, m))
    move = np.empty(m)
    for k in range(n_out):
        growth_fields(table.growth_plus, table.growth_minus, p, t, directions[k], first_out[k], second_out[k])
    neuron_jacobian(
        first_out, second_out, p, t, directions, direction_weights, mixed_out, curvature_out, slope_out, same_class
    )
    for k in range(n_out):
        if not direction_weights[k] > 0.0:
            continue
        direction_step(table, p, t, directions[k], mixed_out[k], response, move)
        for i in range(n):
            for j in range(n):
                total = 0.0
                for r in range(m):
                    total += mixed_out[k, r, i // m, i % m] * response[r, j // m, j % m]
                metric[i, j] += direction_weights[k] * total


@jit
def _distance(a, size, b, other):
    """Squared distance of two points of the half sphere; sizes: n + |a|^2, or 1 of a direction."""
    total = 0.0
    for r in range(a.shape[0]):
        total += (a[r] / np.sqrt(size) - b[r] / np.sqrt(other)) ** 2
    return total


@jit
def _weights_of_maxima(cuts, sizes, directions, multipliers, soft, readouts, new_directions, weights, new_weights):
    """Give each multiplier to the maximum that is nearest on the half sphere."""
    n_cuts, count = cuts.shape[0], readouts.shape[0]
    weights[:] = 0.0
    new_weights[:] = 0.0
    for k in range(multipliers.shape[0]):
        if not multipliers[k] > _CARRIED:
            continue
        best = -1
        nearest = _NEAR
        here = cuts[k] if k < n_cuts else directions[k - n_cuts]
        size = sizes[k] if k < n_cuts else 1.0
        for j in range(count + new_directions.shape[0]):
            if j < count:
                gap = _distance(here, size, readouts[j], soft + np.sum(readouts[j] * readouts[j]))
            else:
                gap = _distance(here, size, new_directions[j - count], 1.0)
            if gap < nearest:
                nearest = gap
                best = j
        if best >= count:
            new_weights[best - count] += multipliers[k]
        elif best >= 0:
            weights[best] += multipliers[k]


@jit
def _merged(rows, multipliers, sizes, least, distance):
    """Rows of multipliers above `least`, with those near each other as one, and multipliers over sizes."""
    kept = np.empty(rows.shape)
    total = np.zeros(rows.shape[0])
    heaviest = np.zeros(rows.shape[0])
    count = 0
    for k in range(rows.shape[0]):
        if not multipliers[k] > least:
            continue
        found = -1
        for j in range(count):
            if np.max(np.abs(kept[j] - rows[k])) <= distance * (1.0 + np.max(np.abs(rows[k]))):
                found = j
                break
        if found < 0:
            found = count
            count += 1
        if multipliers[k] > heaviest[found]:
            heaviest[found] = multipliers[k]
            copy_vector(kept[found], rows[k])
        total[found] += multipliers[k] / sizes[k]
    return kept[:count].copy(), total[:count].copy()


@jit
def _far_as_directions(codes, weights, directions, direction_weights):
    """Codes so far out that their weights are rounding are outliers on their way."""
    m = codes.shape[1]
    kept = np.empty(codes.shape)
    kept_weights = np.empty(codes.shape[0])
    rims = np.empty((codes.shape[0] + directions.shape[0], m))
    rim_weights = np.empty(rims.shape[0])
    n = directions.shape[0]
    copy_matrix(rims[:n], directions)
    copy_vector(rim_weights[:n], direction_weights)
    count = 0
    for k in range(codes.shape[0]):
        size = np.sum(codes[k] * codes[k])
        if size < _RIM:
            copy_vector(kept[count], codes[k])
            kept_weights[count] = weights[k]
            count += 1
            continue
        found = -1
        for j in range(n):
            if np.max(np.abs(rims[j] - codes[k] / np.sqrt(size))) <= _MERGED:
                found = j
                break
        if found < 0:
            found = n
            n += 1
            copy_vector(rims[found], codes[k] / np.sqrt(size))
            rim_weights[found] = 0.0
        rim_weights[found] += weights[k] * size
    return kept[:count].copy(), kept_weights[:count].copy(), rims[:n].copy(), rim_weights[:n].copy()


@jit
def _pool(rows, multipliers, new_rows):
    """Rows that carry weight, and the new ones that are not among them."""
    pool = np.empty((rows.shape[0] + new_rows.shape[0], rows.shape[1]))
    values = np.empty(pool.shape[0])
    count = 0
    for k in range(rows.shape[0]):
        if multipliers[k] > _CARRIED:
            count = _insert(pool, values, count, rows[k], 0.0, _SAME)
    for k in range(new_rows.shape[0]):
        count = _insert(pool, values, count, new_rows[k], 0.0, _SAME)
    return pool[:count].copy()


@jit_apart(returns=SOLUTION)
def _refined(table, p, y, tau, low, high, soft, solution, search):
    """A solution with directions as unknowns: the active set leaves them where their growth is almost flat."""
    _, t, codes, weights, outliers, outlier_weights, s, _, _ = solution
    if outliers.shape[0] == 0 or not min(table.growth_plus, table.growth_minus) > 0.0:
        return solution
    sizes = np.empty(codes.shape[0])
    for k in range(codes.shape[0]):
        sizes[k] = soft + np.sum(codes[k] * codes[k])
    multipliers = np.concatenate((weights * sizes, outlier_weights))
    found = search[0].copy(), search[1].copy(), search[2].copy()
    refined = solve_cones(table, p, y, tau, low, high, t, s, codes, sizes, outliers, multipliers, 0.0, found)
    return refined if refined[0] else solution


@jit_apart(returns=SOLUTION)
def _candidate(
    table, p, y, tau, low, high, t, s, soft, off, state, directions, way_multipliers, rims, rim_weights, search
):  # fmt: skip
    """Solution from where the bundle method is, by cones or by an active set; returns as `active_set`.

    state = (cuts, their sizes and multipliers, maxima, their multipliers); directions and rims with their multipliers.
    """
    cuts, sizes, carried, maxima, weights = state
    scale = max(np.max(np.abs(y)), 1e-9)
    ones = np.ones(max(rims.shape[0], directions.shape[0]))
    multipliers = np.concatenate((carried, way_multipliers))
    solution = solve_cones(table, p, y, tau, low, high, t, s, cuts, sizes, directions, multipliers, off, search)
    if solution[0]:
        return solution
    tried = -1
    for way in range(4):
        if way < 2:  # maxima with the multipliers of the cuts near them, directions as few as possible at first
            spread = np.empty(maxima.shape[0])
            for k in range(maxima.shape[0]):
                spread[k] = soft + np.sum(maxima[k] * maxima[k])
            codes, code_weights = _merged(maxima, weights, spread, 1e-7 * scale, _MERGED)
            apart = _MERGED if way == 1 else _MERGED_AT_FIRST
            outliers, outlier_weights = _merged(rims, rim_weights, ones, 1e-6 * scale, apart)
            if way == 1 and outliers.shape[0] == tried:
                continue
            tried = outliers.shape[0]
        else:  # the cuts themselves, all or those that carry much: a cone of outliers needs many
            least = 1e-7 * scale if way == 2 else _MUCH * scale
            codes, code_weights = _merged(cuts, carried, sizes, least, _MERGED)
            least = 1e-6 * scale if way == 2 else _MUCH * scale
            outliers, outlier_weights = _merged(directions, way_multipliers, ones, least, _MERGED)
            if way == 3 and codes.shape[0] + outliers.shape[0] == tried:
                continue
            tried = codes.shape[0] + outliers.shape[0]
            codes, code_weights, outliers, outlier_weights = _far_as_directions(
                codes, code_weights, outliers, outlier_weights
            )
        if codes.shape[0] == 0:
            continue
        code_weights /= np.sum(code_weights)
        solution = active_set(
            table, p, y, tau, low, high, t.copy(), codes, code_weights, outliers, outlier_weights, search
        )
        if solution[0]:
            return _refined(table, p, y, tau, low, high, soft, solution, search)
    return solution


@jit_apart(returns=SOLUTION)
def moving_cuts(table, p, y, tau, low, high, found):
    """Solve from t = 0; `found` (n, m) are readouts known from before. Returns as `active_set`."""
    n_classes, m = y.shape
    n = n_classes * m
    none = np.empty((0, m))
    no_weights = np.empty(0)
    search = np.empty((1024, m)), np.empty(1024), np.empty(1, np.int64)
    solution = (False, np.zeros((n_classes, m)), none, no_weights, none, no_weights, 0.0, 0, 0)
    failed, missed = solution, np.empty(m)
    two_sided = min(table.growth_plus, table.growth_minus) > 0.0
    readouts = np.empty((_MOST, m))
    values = np.empty(_MOST)
    ways = np.empty((_MOST, m))
    growths = np.empty(_MOST)
    metric = np.zeros((n + 1, n + 1))
    centre = np.zeros((n_classes, m))
    scale = max(np.max(np.abs(y)), 1e-9)  # of J and of multipliers of far codes, where |t| is of order one
    centre_s, soft = 0.1 * scale, scale
    objective = linear_part(p, y, tau, centre) + centre_s
    violation = 0.0
    cuts = np.concatenate((np.zeros((1, m)), found))
    directions = none.copy()
    rho, penalty, next_try, last_try = max(1.0, 1.0 / scale), 0.0, _FIRST_TRY, np.inf
    for number in range(_ROUNDS):
        table.stop[4] += 1
        if exhausted(table.stop, 1):
            break
        sizes = np.empty(cuts.shape[0])
        for k in range(cuts.shape[0]):
            sizes[k] = soft + np.sum(cuts[k] * cuts[k])
        multipliers = np.full(cuts.shape[0] + directions.shape[0], 0.1)
        t = centre.copy()
        s, model, _ = solve_master(
            table, p, y, tau, rho, centre, cuts, sizes, directions, metric, centre_s, t, multipliers, 1e-11 * scale
        )
        if not (np.isfinite(s) and np.isfinite(model)):
            break
        carried = multipliers[: cuts.shape[0]]
        known = _pool(cuts, carried, found)
        soft = softness(y, s)
        count, n_ways, largest = _maxima(table, p, t, s, soft, low, high, known, readouts, values, ways, growths)
        penalty = max(penalty, 1.5 * np.sum(multipliers))
        excess = max(largest, 0.0)
        before = objective + penalty * violation
        gain = before - model
        accepted = number == 0 or model + penalty * excess < before - 0.05 * gain
        weights = np.empty(count)
        way_weights = np.empty(n_ways)
        maxima, rims = readouts[:count].copy(), ways[:n_ways].copy()
        _weights_of_maxima(cuts, sizes, directions, multipliers, soft, maxima, rims, weights, way_weights)
        if accepted:
            _metric(table, p, t, s, soft, maxima, weights, rims, way_weights, metric)
            copy_matrix(centre, t)
            centre_s, objective, violation = s, model, excess
            rho = min(4.0 * rho, 1e8 / scale)
        else:
            rho = max(rho / 3.0, 1e-5)
        off = max(penalty * excess, abs(gain)) / (scale + abs(model))
        done = off < _SMALLEST_GAIN or (excess <= 0.0 and gain < 1e-13 * scale) or number == _ROUNDS - 1
        if number > 2 and (off < next_try or (done and off < last_try)):
            next_try, last_try = (_NEXT_TRY if off > _CLOSE else _NEXT_TRY_CLOSE) * off, off
            state = cuts, sizes, carried, maxima, weights
            rest = multipliers[cuts.shape[0] :]
            solution = _candidate(
                table, p, y, tau, low, high, t, s, soft, off, state, directions, rest, rims, way_weights, search
            )
            if solution[0] and not (two_sided and edge_above(table, p, solution[1], solution[6], soft, missed)):
                return solution
            if solution[0]:  # a readout far out that no ascent has led to
                solution = failed
                next_try, last_try = off, np.inf
                found = np.concatenate((found, missed.copy().reshape((1, m))))
                maxima = np.concatenate((maxima, missed.copy().reshape((1, m))))
                violation = max(violation, climb_half_sphere(table, p, centre, centre_s, soft, missed))
        if done:
            break
        directions = _pool(directions, multipliers[cuts.shape[0] :], rims)
        cuts = _pool(cuts, carried, maxima)
    return solution
