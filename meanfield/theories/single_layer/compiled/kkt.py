"""Newton on the stationarity equations of a given set of codes and outlier directions (sigma_a = 1).

Unknowns are t, the code weights P, the outlier weights w and the level s; readouts a_gamma(t) and directions u_o(t)
follow t as maximisers: they are eliminated from the (generated) Jacobian of the equations
    y_c = sum_gamma P_gamma a_gamma G'(a_gamma.t_c) + sum_o w_o u_o g'(t_c.u_o)/2 + tau t_c,
    h(a_gamma; t) = s,   sum_gamma P_gamma = 1,   q(u_o; t) = 1/2.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.copies import copy_matrix, copy_vector
from meanfield.numerics.jit import jit, jit_apart
from meanfield.numerics.linalg import cholesky, cholesky_solve, solve_stiff, solve_symmetric
from meanfield.theories.single_layer.compiled.ascent import ascend
from meanfield.theories.single_layer.compiled.generated.action import action_fields, growth_fields
from meanfield.theories.single_layer.compiled.generated.stationarity import (
    field_gradient,
    minus_hessian,
    neuron_jacobian,
    order_residual,
)

__all__ = [
    "add_neuron",
    "direction_step",
    "follow_direction",
    "follow_readout",
    "height_unit",
    "kkt_newton",
    "room_for_derivatives",
]

_MAX_STEPS = 40
_ROUNDING, _WANDERING = 5e-11, 6  # residual from which on so many steps suffice
_JOINT = 1e-6  # residual from which on readouts are unknowns of their own
_FAR_OUT = 100.0  # |a|^2 beyond which heights are compared in units of their terms
# Gaps below this make a direction of an outlier's sphere flat: a degenerate cone, or where phi grows on both sides only
# nearly so, by the ratio of the growths.
_FLAT, _FLAT_TWO_SIDED = 1e-6, 1e-9


@jit
def room_for_derivatives(n, n_classes, m):
    """Of n neurons fields G' and G'', and what `neuron_jacobian` fills: d^2 h / da dt, d^2 h / da^2, dh / dt."""
    return (
        np.empty((n, n_classes)),
        np.empty((n, n_classes)),
        np.empty((n, m, n_classes, m)),
        np.empty((n, m, m)),
        np.empty((n, n_classes, m)),
    )


@jit_apart(returns="none")
def direction_step(table, p, t, u, mixed, response, move):
    """Newton's step of the unit vector u to its stationary point along stiff directions: fills move (m,).

    With `mixed` (m, C, m) = d^2 q / du dt given, also fills response (m, C, m) = (lambda - A)^+ mixed on the stiff
    tangent space.
    """
    n_classes, m = t.shape
    first = np.empty(n_classes)
    second = np.empty(n_classes)
    gradient = np.empty(m)
    minus = np.empty((m, m))
    au = np.empty(m)
    tangent = np.empty((m, m))
    value = growth_fields(table.growth_plus, table.growth_minus, p, t, u, first, second)
    field_gradient(first, t, gradient)
    minus_hessian(second, t, minus)
    # Project A = 1 - minus onto the tangent space of the sphere; u itself gets eigenvalue -1, far from any gap.
    uau = 0.0
    for r in range(m):
        au[r] = u[r]
        for s in range(m):
            au[r] -= minus[r, s] * u[s]
        uau += u[r] * au[r]
    for r in range(m):
        gradient[r] -= 2.0 * value * u[r]
        for s in range(m):
            tangent[r, s] = -minus[r, s] - u[r] * au[s] - au[r] * u[s] + (uau - 1.0) * u[r] * u[s]
        tangent[r, r] += 1.0
    eigenvalues, eigenvectors = np.linalg.eigh(tangent)
    move[:] = 0.0
    response[:] = 0.0
    flat = _FLAT_TWO_SIDED if min(table.growth_plus, table.growth_minus) > 0.0 else _FLAT
    for i in range(m):
        gap = 2.0 * value - eigenvalues[i]
        inner = 0.0
        overlap = 0.0
        for r in range(m):
            inner += eigenvectors[r, i] * gradient[r]
            overlap += eigenvectors[r, i] * u[r]
        if not (abs(overlap) < 0.5 and gap > flat):
            continue
        for r in range(m):
            move[r] += inner / gap * eigenvectors[r, i]
        for c in range(response.shape[1]):
            for s in range(m):
                inner = 0.0
                for r in range(m):
                    inner += eigenvectors[r, i] * mixed[r, c, s]
                for r in range(m):
                    response[r, c, s] += inner / gap * eigenvectors[r, i]


@jit
def _turn(u, move):
    """Move a unit vector (in place)."""
    size = np.max(np.abs(move))
    u += move * min(1.0, 0.3 / max(size, 1e-300))
    u /= np.sqrt(np.sum(u * u))


@jit_apart(returns="none")
def follow_direction(table, p, t, u, none):
    """Move the unit vector u (in place) to its stationary point along stiff directions; `none` is (m, 0, m)."""
    move = np.empty(u.shape[0])
    for _ in range(19):
        direction_step(table, p, t, u, none, none, move)
        if np.max(np.abs(move)) < 1e-15:
            break
        _turn(u, move)


@jit
def add_neuron(matrix, row, weight, gradient, mixed, response):
    """One neuron in the Newton matrix: dh/dt (C, m) as a row and column, and its readout's response to t.

    mixed (m, C, m) = d(grad_a h)/dt, response (m, C, m) = da/dt.
    """
    n_classes, m = gradient.shape
    for c in range(n_classes):
        for r in range(m):
            i = c * m + r
            matrix[row, i] = gradient[c, r]
            matrix[i, row] = gradient[c, r]
            for d in range(n_classes):
                for s in range(m):
                    value = 0.0
                    for q in range(m):
                        value += mixed[q, c, r] * response[q, d, s]
                    matrix[i, d * m + s] += weight * value


@jit
def follow_readout(curvature, mixed, response):
    """Fill response (m, C, m) = (-d^2 h / da^2)^-1 mixed of a readout; False where it is no strict maximum.

    `curvature` (m, m) is overwritten.
    """
    m, n_classes = mixed.shape[0], mixed.shape[1]
    column = np.empty(m)
    for r in range(m):
        for q in range(m):
            curvature[r, q] = -curvature[r, q]
    if not cholesky(curvature):
        return False
    for c in range(n_classes):
        for q in range(m):
            for r in range(m):
                column[r] = mixed[r, c, q]
            cholesky_solve(curvature, column)
            for r in range(m):
                response[r, c, q] = column[r]
    return True


@jit
def _joint_step(drift, response, solution):
    """Newton's step of a readout or direction (m,), where t changes by the first numbers of `solution`."""
    step = drift.copy()
    m, n_classes = response.shape[0], response.shape[1]
    for r in range(m):
        for c in range(n_classes):
            for q in range(m):
                step[r] += response[r, c, q] * solution[c * m + q]
    return step


@jit_apart(returns="none")
def _turn_jointly(directions, drift, responses, solution):
    """`_joint_step` of all directions (in place)."""
    for k in range(directions.shape[0]):
        _turn(directions[k], _joint_step(drift[k], responses[k], solution))


@jit_apart(returns="float64")
def _add_directions(
    table, p, t, directions, direction_weights, joint, n_codes, matrix, rhs, same_class, responses, drift
):
    """Outliers in the Newton system; returns the residual of their q = 1/2. Fills `responses` and `drift` of each."""
    n_classes, m = t.shape
    n, n_out = n_classes * m, directions.shape[0]
    none = np.empty((m, 0, m))
    first, second, mixed, curvature, gradient = room_for_derivatives(n_out, n_classes, m)
    residual = 0.0
    for k in range(n_out):
        u = directions[k]
        if not joint:
            follow_direction(table, p, t, u, none)
        f = growth_fields(table.growth_plus, table.growth_minus, p, t, u, first[k], second[k])
        residual = max(residual, abs(f - 0.5))
        rhs[n + n_codes + k] = 0.5 - f
    neuron_jacobian(first, second, p, t, directions, direction_weights, mixed, curvature, gradient, same_class)
    for k in range(n_out):
        direction_step(table, p, t, directions[k], mixed[k], responses[k], drift[k])
        add_neuron(matrix, n + n_codes + k, direction_weights[k], gradient[k], mixed[k], responses[k])
        if joint:
            for c in range(n_classes):
                for r in range(m):
                    for q in range(m):
                        rhs[c * m + r] -= direction_weights[k] * mixed[k, q, c, r] * drift[k, q]
    return residual


@jit
def height_unit(a):
    """The unit in which h(a; t) = s is looked at: its terms of order |a|^2 cancel, and are rounded."""
    return max(np.sum(a * a) / _FAR_OUT, 1.0)


@jit_apart(returns="none")
def _copy_point(target, source):
    """Copy (t, readouts, weights, directions, direction_weights)."""
    copy_matrix(target[0], source[0])
    copy_matrix(target[1], source[1])
    copy_vector(target[2], source[2])
    copy_matrix(target[3], source[3])
    copy_vector(target[4], source[4])


@jit_apart(returns="none")
def _shorter(point, before, unit, length, solution):
    """Make a point, as in `_copy_point`, that of a shorter step from the one before, whose readouts it takes."""
    t, readouts, weights, directions, direction_weights = point
    t_before, readouts_before, weights_before, directions_before, direction_weights_before = before
    m, n_codes = t.shape[1], readouts.shape[0]
    n = t.shape[0] * m
    copy_matrix(directions, directions_before)
    copy_matrix(readouts, readouts_before)
    for i in range(n):
        t[i // m, i % m] = t_before[i // m, i % m] + length * solution[i]
    for k in range(n_codes):
        weights[k] = weights_before[k] + length * (solution[n + k] / unit[k] - weights_before[k])
    for k in range(directions.shape[0]):
        change = solution[n + n_codes + k] - direction_weights_before[k]
        direction_weights[k] = direction_weights_before[k] + length * change


@jit_apart(returns="Tuple((boolean, float64, float64, int64))")
def kkt_newton(table, p, y, tau, t, readouts, weights, directions, direction_weights, max_steps):
    """Newton from the given point; all arrays are updated in place.

    Readouts climb to their maxima before every step, until it is small. From then on they are unknowns like the others:
    along flat directions maxima are known to few digits, which the equations for y would feel. Weights of codes far
    out are in units of one over `height_unit`.

    Returns (ok, s, residual, nullity): residual of all equations, nullity of the last Newton matrix.
    """
    n_classes, m = t.shape
    n = n_classes * m
    n_codes = readouts.shape[0]
    n_out = directions.shape[0]
    size = n + n_codes + n_out + 1
    matrix = np.empty((size, size))
    rhs = np.empty(size)
    order = np.empty((n_classes, m))
    # Fields of the codes, and the derivatives of their equations.
    first, second, mixed, curvature, gradient = room_for_derivatives(n_codes, n_classes, m)
    same_class = np.empty((n_classes, m, m))
    s = 0.0
    nullity = 0
    previous = np.inf
    least = np.inf
    small = 0
    # The point before the last step, to return to where a code ran away (an almost unconfined direction).
    solution = np.zeros(size)
    length = 0.0
    reductions = 0
    joint = False
    unit = np.ones(n_codes)
    heights = np.empty(n_codes)
    responses = np.empty((n_codes, m, n_classes, m))
    drift = np.zeros((n_codes, m))  # Newton's step of a readout at fixed t
    responses_out = np.empty((n_out, m, n_classes, m))
    drift_out = np.zeros((n_out, m))
    t_before = t.copy()
    readouts_before = readouts.copy()
    weights_before = weights.copy()
    directions_before = directions.copy()
    direction_weights_before = direction_weights.copy()
    # The best point at the level of rounding.
    best = (0.0, 0)
    t_best = t.copy()
    readouts_best = readouts.copy()
    weights_best = weights.copy()
    directions_best = directions.copy()
    direction_weights_best = direction_weights.copy()
    steps = 0
    while steps < max_steps:
        lost = False
        matrix[:] = 0.0
        rhs[:] = 0.0
        same_class[:] = 0.0
        residual = 0.0
        level = 0.0
        for k in range(n_codes):
            if exhausted(table.stop, 1 + n * n * m // 500):
                return False, s, np.inf, 0
            a = readouts[k]
            if not joint:
                ascend(table, p, t, a)
            if steps > 0:
                reach = 1.0
                moved = 0.0
                for r in range(m):
                    reach = max(reach, abs(readouts_before[k, r]))
                    moved = max(moved, abs(a[r] - readouts_before[k, r]))
                lost = lost or not moved <= 2.0 * reach
            if lost:
                break
            f = action_fields(table, p, t, a, first[k], second[k])
            unit[k] = height_unit(a)
            heights[k] = f
            rhs[n + k] = -f / unit[k]
        if not lost:
            level = heights[np.argmin(unit)]  # of a code that is not far out, where there is one
            for k in range(n_codes):
                residual = max(residual, abs(heights[k] - level) / unit[k])
            neuron_jacobian(first, second, p, t, readouts, weights, mixed, curvature, gradient, same_class)
            for k in range(n_codes):
                if not follow_readout(curvature[k], mixed[k], responses[k]):
                    lost = True
                    break
                if joint:
                    field_gradient(first[k], t, drift[k])
                    for r in range(m):
                        drift[k, r] -= readouts[k, r]
                        residual = max(residual, abs(drift[k, r]) / unit[k])
                    cholesky_solve(curvature[k], drift[k])
                    for c in range(n_classes):
                        for r in range(m):
                            for q in range(m):
                                rhs[c * m + r] -= weights[k] * mixed[k, q, c, r] * drift[k, q]
                for c in range(n_classes):
                    for r in range(m):
                        gradient[k, c, r] /= unit[k]
                add_neuron(matrix, n + k, weights[k], gradient[k], mixed[k], responses[k])
                matrix[n + k, size - 1] = -1.0 / unit[k]
                matrix[size - 1, n + k] = -1.0 / unit[k]
        if lost:
            reductions += 1
            if steps == 0 or reductions > 12:
                return False, s, np.inf, 0
            length *= 0.25
            point = t, readouts, weights, directions, direction_weights
            before = t_before, readouts_before, weights_before, directions_before, direction_weights_before
            _shorter(point, before, unit, length, solution)
            continue
        steps += 1
        if exhausted(table.stop, size * size * size // 5000):
            return False, s, np.inf, 0
        if n_out > 0:
            off = _add_directions(
                table, p, t, directions, direction_weights, joint, n_codes, matrix, rhs, same_class, responses_out,
                drift_out,
            )  # fmt: skip
            residual = max(residual, off)
        rhs[size - 1] = -1.0
        order_residual(y, tau, t, order)
        for c in range(n_classes):
            for r in range(m):
                i = c * m + r
                rhs[i] -= p[c] * order[c, r]
                matrix[i, i] += p[c] * tau
                for q in range(m):
                    matrix[i, c * m + q] += p[c] * same_class[c, r, q]
                # Residual of the y equations with the current weights.
                value = -p[c] * order[c, r]
                for k in range(n_codes):
                    value -= weights[k] * unit[k] * matrix[i, n + k]
                for k in range(n_out):
                    value -= direction_weights[k] * matrix[i, n + n_codes + k]
                residual = max(residual, abs(value) / p[c])
        residual = max(residual, abs(np.sum(weights) - 1.0))
        if not residual < 1e8:
            return False, s, np.inf, nullity
        if residual <= 1e-14 or (residual <= 1e-11 and residual >= 0.3 * previous):
            return True, level, residual, nullity
        # Codes far out are known to fewer digits, and the residual wanders about its rounding.
        if residual <= _ROUNDING:
            small += 1
            if residual < least:
                least = residual
                best = level, nullity
                point_best = t_best, readouts_best, weights_best, directions_best, direction_weights_best
                _copy_point(point_best, (t, readouts, weights, directions, direction_weights))
            if small >= _WANDERING and residual <= 2.0 * least:
                return True, level, residual, nullity
        previous = residual
        solution, nullity = solve_symmetric(matrix, rhs)
        if nullity > 0 and np.max(unit) > 1.0:  # stiff rather than singular, perhaps
            stiff_solution, regular = solve_stiff(matrix, rhs)
            if regular:
                solution = stiff_solution
                nullity = 0
        change = 0.0
        largest = 1.0
        for i in range(n):
            change = max(change, abs(solution[i]))
            largest = max(largest, abs(t[i // m, i % m]))
        length = min(1.0, largest / max(change, 1e-300))
        point_before = t_before, readouts_before, weights_before, directions_before, direction_weights_before
        _copy_point(point_before, (t, readouts, weights, directions, direction_weights))
        for i in range(n):
            t[i // m, i % m] += length * solution[i]
        joint = joint or (residual <= _JOINT and length == 1.0)
        for k in range(n_codes):
            weights[k] += length * (solution[n + k] / unit[k] - weights[k])
        for k in range(n_out):
            direction_weights[k] += length * (solution[n + n_codes + k] - direction_weights[k])
        if joint:
            for k in range(n_codes):
                move = _joint_step(drift[k], responses[k], solution)
                for r in range(m):
                    readouts[k, r] += move[r]
            if n_out > 0:
                _turn_jointly(directions, drift_out, responses_out, solution)
        s = solution[size - 1]
    if least <= _ROUNDING:
        point_best = t_best, readouts_best, weights_best, directions_best, direction_weights_best
        _copy_point((t, readouts, weights, directions, direction_weights), point_best)
        return True, best[0], least, best[1]
    return False, s, previous, nullity
