"""Active-set Newton for the minimum of the dual J(t) in the limit P -> infinity (sigma_a = 1)."""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.copies import copy_matrix, copy_vector
from meanfield.numerics.jit import jit, jit_apart
from meanfield.numerics.linalg import cholesky
from meanfield.numerics.order import largest_first
from meanfield.theories.single_layer.compiled.ascent import NO_PUSH, ascend, find_maxima, linear_push, merge_maximum
from meanfield.theories.single_layer.compiled.bounds import HEIGHT_ROUNDING
from meanfield.theories.single_layer.compiled.certificate import weight_nullity
from meanfield.theories.single_layer.compiled.generated.action import action_hessian
from meanfield.theories.single_layer.compiled.kkt import kkt_newton
from meanfield.theories.single_layer.compiled.outlier import worst_directions
from meanfield.theories.single_layer.compiled.returned import CUTS, SOLUTION
from meanfield.theories.single_layer.compiled.ridges import climb_ridges, highest_maximum
from meanfield.theories.single_layer.compiled.weights import feasible_weights, select_weights

__all__ = ["MOST_SPARE", "active_set", "candidates"]

_MAX_CHANGES = 40  # codes or directions entering or leaving during one active-set solve
_VIOLATION = 2e-12  # relative excess of h over s at which a readout counts as violating
_TOUCHING = 1e-10  # the same below s for one that counts as touching, where codes far out are known to fewer digits
MOST_SPARE = 512  # codes beyond those that are needed, up to which weights are selected among all of them
_ESCAPED = 1e-6  # excess of h of a readout that runs away, which rounding may feign
_SETTLED, _CHANGED, _STUCK = range(3)  # whether codes and directions may stay, have changed, or would have to
_FLAT = 1e-9  # curvature of h below which a cut lies on a ridge towards infinity, in units of sigma_a


@jit_apart(returns=f"Tuple(({CUTS}))")
def _distinct_codes(table, p, t, readouts, weights, distance, climb):
    """Climb every readout to its local maximum, or not, and merge those that coincide; returns (readouts, weights)."""
    m = t.shape[1]
    merged = np.empty((readouts.shape[0], m))
    total = np.zeros(readouts.shape[0])
    count = 0
    a = np.empty(m)
    for k in range(readouts.shape[0]):
        copy_vector(a, readouts[k])
        if climb:
            ascend(table, p, t, a)
        found = -1
        for i in range(count):
            gap = 0.0
            for r in range(m):
                gap = max(gap, abs(merged[i, r] - a[r]))
            if gap <= distance * (1.0 + np.max(np.abs(a))):
                found = i
                break
        if found < 0:
            found = count
            copy_vector(merged[count], a)
            count += 1
        total[found] += weights[k]
    return merged[:count].copy(), total[:count].copy()


@jit_apart(returns=f"Tuple(({CUTS}))")
def carrying(rows, values, least):
    """Rows whose values are above `least`, and these values."""
    count = 0
    for value in values:
        count += value > least
    kept, kept_values = np.empty((count, rows.shape[1])), np.empty(count)
    count = 0
    for k in range(rows.shape[0]):
        if values[k] > least:
            copy_vector(kept[count], rows[k])
            kept_values[count] = values[k]
            count += 1
    return kept, kept_values


@jit_apart(returns=f"Tuple(({CUTS}))")
def _distinct_directions(directions, weights, distance):
    merged = np.empty(directions.shape)
    total = np.zeros(directions.shape[0])
    count = 0
    for k in largest_first(weights):
        found = -1
        for i in range(count):
            if np.max(np.abs(merged[i] - directions[k])) <= distance:
                found = i
                break
        if found < 0:
            found = count
            copy_vector(merged[count], directions[k])
            count += 1
        total[found] += weights[k]
    return merged[:count].copy(), total[:count].copy()


@jit_apart(returns=f"Tuple(({CUTS}))")
def _without(rows, values, index):
    n = rows.shape[0]
    kept = np.empty((n - 1, rows.shape[1]))
    kept_values = np.empty(n - 1)
    j = 0
    for i in range(n):
        if i != index:
            copy_vector(kept[j], rows[i])
            kept_values[j] = values[i]
            j += 1
    return kept, kept_values


@jit_apart(returns=f"Tuple(({CUTS}))")
def _with(rows, values, row, value):
    n = rows.shape[0]
    longer = np.empty((n + 1, rows.shape[1]))
    longer_values = np.empty(n + 1)
    copy_matrix(longer, rows)
    copy_vector(longer_values, values)
    copy_vector(longer[n], row)
    longer_values[n] = value
    return longer, longer_values


@jit_apart(returns="boolean")
def _pushed(table, p, t, directions):
    """Whether h rises without bound along the direction of an outlier: J is infinite, and a code far out is sought."""
    most = 0.0
    for k in range(directions.shape[0]):
        most = max(most, linear_push(table, p, t, directions[k]))
    return most > NO_PUSH


@jit_apart(returns=f"Tuple((int64, {CUTS}, {CUTS}))")
def _without_negative(table, p, y, tau, t, readouts, weights, directions, direction_weights, nullity):
    """Other weights where these are not unique, or without the code or direction whose weight is least.

    Returns (_SETTLED, _CHANGED or _STUCK, readouts, weights, directions, direction_weights).
    """
    if nullity > 0:
        trial = weights.copy()
        trial_direction = direction_weights.copy()
        norm = feasible_weights(table, p, y, tau, t, readouts, trial, directions, trial_direction)
        if norm < 1e-12:
            return _SETTLED, readouts, trial, directions, trial_direction
    lowest_direction = np.min(direction_weights) if direction_weights.shape[0] > 0 else 0.0
    verdict = _CHANGED
    if np.min(weights) < lowest_direction and weights.shape[0] > 1:
        readouts, weights = _without(readouts, weights, np.argmin(weights))
    elif lowest_direction < -1e-13:
        directions, direction_weights = _without(directions, direction_weights, np.argmin(direction_weights))
    else:
        verdict = _STUCK
    return verdict, readouts, weights, directions, direction_weights


@jit_apart(returns=f"Tuple((int64, {CUTS}))")
def _with_worst(table, p, t, directions, direction_weights, worst, worst_values):
    """The directions along which J is infinite, as well; returns (a verdict, directions, their weights)."""
    n_worst, _q_max, _exact = worst_directions(table, p, t, 1.0 + _VIOLATION, worst, worst_values)
    if n_worst > 0 and linear_push(table, p, t, worst[0]) > NO_PUSH:
        return _STUCK, directions, direction_weights  # no outlier can hold t back
    for i in range(min(n_worst, 8)):
        directions, direction_weights = _with(directions, direction_weights, worst[i], 0.0)
    return _CHANGED if n_worst > 0 else _SETTLED, directions, direction_weights


@jit_apart(returns=SOLUTION)
def active_set(table, p, y, tau, low, high, t, readouts, weights, directions, direction_weights, search):
    """Newton with codes and directions entering (h > s, Q > 1) and leaving (weight < 0).

    Returns (ok, t, readouts, weights, directions, direction_weights, s, nullity, nullity of t): the dimensions of the
    families of optimal weights and of optimal t. search = (maxima (1024, m), heights (1024,), number (1,)) is filled
    with the local maxima of h at the t that is returned; their number is -1 where none was found.
    """
    n_classes, m = t.shape
    unbounded = table.growth_plus > 0.0 or table.growth_minus > 0.0
    maxima, heights, searched = search
    searched[0] = -1
    worst = np.empty((64, m))
    worst_values = np.empty(64)
    s = 0.0
    nullity = 0
    for _ in range(_MAX_CHANGES):
        if readouts.shape[0] > n_classes * m + 1 + MOST_SPARE or exhausted(table.stop, 1):
            break
        readouts, weights = _distinct_codes(table, p, t, readouts, weights, 1e-7, True)
        converged, s, _residual, nullity = kkt_newton(
            table, p, y, tau, t, readouts, weights, directions, direction_weights, 25
        )
        if not converged:
            break
        # Codes may have merged on the way (next to a pitchfork): solve again with one of them.
        before = readouts.shape[0]
        readouts, weights = _distinct_codes(table, p, t, readouts, weights, 1e-7, False)
        if readouts.shape[0] < before:
            continue
        lowest_direction = np.min(direction_weights) if direction_weights.shape[0] > 0 else 0.0
        if min(np.min(weights), lowest_direction) < -1e-13:
            verdict, readouts, weights, directions, direction_weights = _without_negative(
                table, p, y, tau, t, readouts, weights, directions, direction_weights, nullity
            )
            if verdict == _STUCK:
                break
            if verdict == _CHANGED:
                continue
        if unbounded:
            verdict, directions, direction_weights = _with_worst(
                table, p, t, directions, direction_weights, worst, worst_values
            )
            if verdict == _STUCK:
                break
            if verdict == _CHANGED:
                continue
        count = find_maxima(table, p, t, low, high, readouts, True, maxima, heights)
        count, escaped = climb_ridges(table, p, t, maxima, heights, count)
        if escaped > s + _VIOLATION * (1.0 + abs(s)) + _ESCAPED:
            break  # a readout at infinity is better
        top = highest_maximum(maxima, heights, count)
        if top > s + _VIOLATION * (1.0 + abs(s)):
            # The highest, and whatever ties with it: orbits of a symmetry enter together.
            for i in range(count):
                if heights[i] - HEIGHT_ROUNDING * np.sum(maxima[i] * maxima[i]) > s + 0.5 * (top - s):
                    readouts, weights = _with(readouts, weights, maxima[i], 0.0)
            continue
        t_nullity = max(nullity - weight_nullity(table, p, t, readouts, directions), 0) if nullity > 0 else 0
        # Codes that touch the level without carrying weight make the weights non-unique: bring all in, then select.
        touching = readouts.copy()
        touching_weights = weights.copy()
        for i in range(count):
            if heights[i] >= s - (_TOUCHING if unbounded else _VIOLATION) * (1.0 + abs(s)):
                before = touching.shape[0]
                grown = np.empty((before + 1, m))
                copy_matrix(grown, touching)
                spare = np.zeros(before + 1)
                if merge_maximum(grown, spare, before, maxima[i], 0.0, 1e-6) > before:
                    touching, touching_weights = _with(touching, touching_weights, maxima[i], 0.0)
        many = touching.shape[0] > n_classes * m + 1 + MOST_SPARE
        if (
            (touching.shape[0] > readouts.shape[0] or nullity > 0)
            and directions.shape[0] == 0
            and touching.shape[0] > 1
            and not many
        ):
            select_weights(table, p, t, touching, touching_weights)
            readouts = touching
            weights = touching_weights
        readouts, weights = carrying(readouts, weights, 1e-13)
        directions, direction_weights = carrying(directions, direction_weights, 1e-13)
        directions, direction_weights = _distinct_directions(directions, direction_weights, 1e-6)
        if _pushed(table, p, t, directions):
            break
        nullity = weight_nullity(table, p, t, touching if many else readouts, directions)
        searched[0] = count
        return True, t, readouts, weights, directions, direction_weights, s, nullity, t_nullity
    return False, t, readouts, weights, directions, direction_weights, s, 0, 0


@jit
def _stands(table, p, t, a):
    """Whether h bends down at `a` in all directions: on the ridge of an outlier it does not, and no code is there."""
    m = a.shape[0]
    gradient = np.empty(m)
    hess = np.empty((m, m))
    action_hessian(table, p, t, a, gradient, hess)
    for r in range(m):
        hess[r, r] -= _FLAT
    return cholesky(hess)


@jit_apart(returns=f"Tuple(({CUTS}))")
def _standing(table, p, t, readouts, weights):
    """Readouts that `_stands`, with weights that add up to one; all where there are none."""
    steep = np.full(readouts.shape[0], -1.0)
    standing = 0
    for k in range(readouts.shape[0]):
        if _stands(table, p, t, readouts[k]):
            steep[k] = weights[k]
            standing += 1
    if standing > 0:
        readouts, weights = carrying(readouts, steep, -0.5)
        weights /= np.sum(weights)
    return readouts, weights


@jit_apart(returns=f"Tuple(({CUTS}, {CUTS}))")
def candidates(table, p, state, distance):
    """Codes and directions that carry weight in a state of the bundle method, ready for `active_set`."""
    t, cuts, cut_weights, directions, direction_weights, _ = state
    readouts, weights = carrying(cuts, cut_weights, 2e-3 / cut_weights.shape[0])
    readouts, weights = _distinct_codes(table, p, t, readouts, weights, 1e-5, True)
    if table.growth_plus > 0.0 or table.growth_minus > 0.0:
        readouts, weights = _standing(table, p, t, readouts, weights)
    directions, direction_weights = carrying(directions, direction_weights, 1e-6)
    directions, direction_weights = _distinct_directions(directions, direction_weights, distance)
    return readouts, weights, directions, direction_weights
