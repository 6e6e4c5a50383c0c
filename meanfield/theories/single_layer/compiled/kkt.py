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
from meanfield.numerics.linalg import cholesky, cholesky_solve, nonnegative_least_squares, solve_symmetric
from meanfield.theories.single_layer.compiled.ascent import ascend
from meanfield.theories.single_layer.compiled.generated.action import action_fields, growth_fields
from meanfield.theories.single_layer.compiled.generated.stationarity import (
    field_gradient,
    minus_hessian,
    neuron_jacobian,
    order_residual,
    output_by_weights,
)

__all__ = ["add_neuron", "feasible_weights", "follow_direction", "kkt_newton", "select_weights", "weight_columns"]

_MAX_STEPS = 40
_ROUNDING, _WANDERING = 5e-11, 6  # residual from which on so many steps suffice
_FLAT = 1e-6  # gaps below this make a direction of an outlier's sphere flat (degenerate cone)


@jit_apart
def follow_direction(table, p, t, u, mixed, response):
    """Move the unit vector u (in place) to its stationary point along stiff directions.

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
    for sweep in range(20):
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
        move = np.zeros(m)
        for i in range(m):
            gap = 2.0 * value - eigenvalues[i]
            inner = 0.0
            overlap = 0.0
            for r in range(m):
                inner += eigenvectors[r, i] * gradient[r]
                overlap += eigenvectors[r, i] * u[r]
            if abs(overlap) < 0.5 and gap > _FLAT:
                for r in range(m):
                    move[r] += inner / gap * eigenvectors[r, i]
        size = np.max(np.abs(move))
        if size < 1e-15 or sweep == 19:
            if response.shape[1] > 0:
                response[:] = 0.0
                for i in range(m):
                    gap = 2.0 * value - eigenvalues[i]
                    overlap = 0.0
                    for r in range(m):
                        overlap += eigenvectors[r, i] * u[r]
                    if abs(overlap) < 0.5 and gap > _FLAT:
                        for c in range(n_classes):
                            for s in range(m):
                                inner = 0.0
                                for r in range(m):
                                    inner += eigenvectors[r, i] * mixed[r, c, s]
                                for r in range(m):
                                    response[r, c, s] += inner / gap * eigenvectors[r, i]
            return
        if size > 0.3:
            move *= 0.3 / size
        u += move
        u /= np.sqrt(np.sum(u * u))


@jit
def weight_columns(table, p, t, readouts, directions, columns):
    """Fill columns (mC, n + o): what a unit of weight of each code or outlier contributes to y, class by class."""
    n_classes, m = t.shape
    n = readouts.shape[0]
    total = n + directions.shape[0]
    rows = np.empty((total, m))
    first = np.empty((total, n_classes))
    second = np.empty(n_classes)
    for k in range(total):
        for r in range(m):
            rows[k, r] = readouts[k, r] if k < n else directions[k - n, r]
        if k < n:
            action_fields(table, p, t, rows[k], first[k], second)
        else:
            growth_fields(table.growth_plus, table.growth_minus, p, t, rows[k], first[k], second)
    output = np.empty((n_classes, m, total))
    output_by_weights(first, p, rows, output)
    for c in range(n_classes):
        for r in range(m):
            for k in range(total):
                columns[c * m + r, k] = output[c, r, k]


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


@jit_apart
def kkt_newton(table, p, y, tau, t, readouts, weights, directions, direction_weights, max_steps):
    """Newton from the given point; all arrays are updated in place.

    Returns (ok, s, residual, nullity): residual of all equations, nullity of the last Newton matrix.
    """
    n_classes, m = t.shape
    n = n_classes * m
    n_codes = readouts.shape[0]
    n_out = directions.shape[0]
    size = n + n_codes + n_out + 1
    matrix = np.empty((size, size))
    rhs = np.empty(size)
    response = np.empty((m, n_classes, m))
    none = np.empty((m, 0, m))
    order = np.empty((n_classes, m))
    # Fields of the neurons, and the derivatives of their equations.
    first = np.empty((n_codes, n_classes))
    second = np.empty((n_codes, n_classes))
    mixed = np.empty((n_codes, m, n_classes, m))
    curvature = np.empty((n_codes, m, m))
    gradient = np.empty((n_codes, n_classes, m))
    first_out = np.empty((n_out, n_classes))
    second_out = np.empty((n_out, n_classes))
    mixed_out = np.empty((n_out, m, n_classes, m))
    curvature_out = np.empty((n_out, m, m))
    gradient_out = np.empty((n_out, n_classes, m))
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
    t_before = t.copy()
    readouts_before = readouts.copy()
    weights_before = weights.copy()
    directions_before = directions.copy()
    direction_weights_before = direction_weights.copy()
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
            if k == 0:
                level = f
            residual = max(residual, abs(f - level))
            rhs[n + k] = -f
        if not lost:
            neuron_jacobian(first, second, p, t, readouts, weights, mixed, curvature, gradient, same_class)
            for k in range(n_codes):
                if not follow_readout(curvature[k], mixed[k], response):
                    lost = True
                    break
                add_neuron(matrix, n + k, weights[k], gradient[k], mixed[k], response)
                matrix[n + k, size - 1] = -1.0
                matrix[size - 1, n + k] = -1.0
        if lost:
            reductions += 1
            if steps == 0 or reductions > 12:
                return False, s, np.inf, 0
            copy_matrix(directions, directions_before)
            copy_matrix(readouts, readouts_before)
            length *= 0.25
            for i in range(n):
                t[i // m, i % m] = t_before[i // m, i % m] + length * solution[i]
            for k in range(n_codes):
                weights[k] = weights_before[k] + length * (solution[n + k] - weights_before[k])
            for k in range(n_out):
                change = solution[n + n_codes + k] - direction_weights_before[k]
                direction_weights[k] = direction_weights_before[k] + length * change
            continue
        steps += 1
        if exhausted(table.stop, size * size * size // 5000):
            return False, s, np.inf, 0
        for k in range(n_out):
            u = directions[k]
            follow_direction(table, p, t, u, none, none)
            f = growth_fields(table.growth_plus, table.growth_minus, p, t, u, first_out[k], second_out[k])
            residual = max(residual, abs(f - 0.5))
            rhs[n + n_codes + k] = 0.5 - f
        neuron_jacobian(
            first_out, second_out, p, t, directions, direction_weights, mixed_out, curvature_out, gradient_out,
            same_class,
        )  # fmt: skip
        for k in range(n_out):
            follow_direction(table, p, t, directions[k], mixed_out[k], response)
            add_neuron(matrix, n + n_codes + k, direction_weights[k], gradient_out[k], mixed_out[k], response)
        rhs[size - 1] = -1.0
        order_residual(y, tau, t, order)
        for c in range(n_classes):
            for r in range(m):
                i = c * m + r
                rhs[i] = -p[c] * order[c, r]
                matrix[i, i] += p[c] * tau
                for q in range(m):
                    matrix[i, c * m + q] += p[c] * same_class[c, r, q]
                # Residual of the y equations with the current weights.
                value = rhs[i]
                for k in range(n_codes):
                    value -= weights[k] * matrix[i, n + k]
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
            least = min(least, residual)
            if small >= _WANDERING and residual <= 2.0 * least:
                return True, level, residual, nullity
        previous = residual
        solution, nullity = solve_symmetric(matrix, rhs)
        change = 0.0
        largest = 1.0
        for i in range(n):
            change = max(change, abs(solution[i]))
            largest = max(largest, abs(t[i // m, i % m]))
        length = min(1.0, largest / max(change, 1e-300))
        copy_matrix(t_before, t)
        copy_matrix(readouts_before, readouts)
        copy_vector(weights_before, weights)
        copy_matrix(directions_before, directions)
        copy_vector(direction_weights_before, direction_weights)
        for i in range(n):
            t[i // m, i % m] += length * solution[i]
        for k in range(n_codes):
            weights[k] += length * (solution[n + k] - weights[k])
        for k in range(n_out):
            direction_weights[k] += length * (solution[n + n_codes + k] - direction_weights[k])
        s = solution[size - 1]
    return False, s, previous, nullity


@jit_apart
def select_weights(table, p, t, readouts, weights):
    """Among all optimal code weights, those of the P -> infinity limit of the finite-P theory (in place).

    They maximise -sum_gamma P_gamma ln(P_gamma / D_gamma), D_gamma = det(-d^2 h(a_gamma))^(-1/2), at fixed sum_gamma
    P_gamma v_gamma, v_gamma the contribution of code gamma to y; the dual has P_gamma ~ D_gamma exp(lambda.v_gamma).
    `weights` must satisfy the constraints on entry. Returns the largest remaining violation.
    """
    n_classes, m = t.shape
    n = n_classes * m
    n_codes = readouts.shape[0]
    columns = np.empty((n, n_codes))
    weight_columns(table, p, t, readouts, np.empty((0, m)), columns)
    log_width = np.empty(n_codes)
    first = np.empty(n_classes)
    second = np.empty(n_classes)
    stiffness = np.empty((m, m))
    for k in range(n_codes):
        action_fields(table, p, t, readouts[k], first, second)
        minus_hessian(second, t, stiffness)
        if not cholesky(stiffness):
            return np.inf
        log_width[k] = 0.0
        for r in range(m):
            log_width[k] -= np.log(stiffness[r, r])
    target = columns @ weights
    multiplier = np.zeros(n)
    gradient = np.empty(n)
    trial_weights = np.empty(n_codes)
    violation = np.inf
    last = np.inf
    damping = 1e-12
    value = np.inf
    step = np.zeros(n)
    for _ in range(200):
        if exhausted(table.stop, 1 + n * n * n_codes // 500):
            break
        trial = multiplier + step
        exponent = log_width.copy()
        for k in range(n_codes):
            for i in range(n):
                exponent[k] += trial[i] * (columns[i, k] - target[i])
        top = np.max(exponent)
        total = 0.0
        for k in range(n_codes):
            trial_weights[k] = np.exp(exponent[k] - top)
            total += trial_weights[k]
        trial_value = top + np.log(total)
        if trial_value > value + 1e-12 * (1.0 + abs(value)):
            step *= 0.25
            if np.max(np.abs(step)) < 1e-14:
                break
            continue
        value = trial_value
        multiplier = trial
        for k in range(n_codes):
            trial_weights[k] /= total
        violation = 0.0
        hess = np.zeros((n, n))
        for i in range(n):
            gradient[i] = -target[i]
            for k in range(n_codes):
                gradient[i] += trial_weights[k] * columns[i, k]
            violation = max(violation, abs(gradient[i]))
        if violation < 1e-15 or (violation < 1e-12 and violation > 0.5 * last):
            break
        last = violation
        for k in range(n_codes):
            for i in range(n):
                di = columns[i, k] - target[i]
                for j in range(n):
                    hess[i, j] += trial_weights[k] * di * (columns[j, k] - target[j])
        for i in range(n):
            hess[i, i] += damping
        step, _ = solve_symmetric(hess, -gradient)
        largest = np.max(np.abs(step))
        if largest > 20.0:
            step *= 20.0 / largest
    if violation < 1e-11:
        copy_vector(weights, trial_weights)
    return violation


@jit_apart
def feasible_weights(table, p, y, tau, t, readouts, weights, directions, direction_weights):
    """Non-negative weights that satisfy the y equations and sum to one (in place); returns the residual norm."""
    n_classes, m = t.shape
    n = n_classes * m
    total = readouts.shape[0] + directions.shape[0]
    columns = np.empty((n + 1, total))
    weight_columns(table, p, t, readouts, directions, columns)
    rhs = np.empty(n + 1)
    for c in range(n_classes):
        for r in range(m):
            rhs[c * m + r] = y[c, r] - tau * t[c, r]
    for k in range(total):
        columns[n, k] = 1.0 if k < readouts.shape[0] else 0.0
    rhs[n] = 1.0
    solution = np.empty(total)
    norm = nonnegative_least_squares(columns, rhs, solution, table.stop)
    for k in range(readouts.shape[0]):
        weights[k] = solution[k]
    for k in range(directions.shape[0]):
        direction_weights[k] = solution[readouts.shape[0] + k]
    return norm
