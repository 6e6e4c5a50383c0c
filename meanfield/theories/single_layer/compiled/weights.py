"""Weights of codes and outliers at given order parameters (sigma_a = 1)."""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.copies import copy_vector
from meanfield.numerics.jit import jit, jit_apart
from meanfield.numerics.linalg import cholesky, nonnegative_least_squares, solve_symmetric
from meanfield.theories.single_layer.compiled.generated.action import action_fields, growth_fields
from meanfield.theories.single_layer.compiled.generated.stationarity import minus_hessian, output_by_weights

__all__ = ["feasible_weights", "select_weights", "weight_columns"]


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


@jit_apart(returns="float64")
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


@jit_apart(returns="float64")
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
