"""The minimum of J along a central path, for tasks with stiff codes far out (sigma_a = 1).

Where phi dips below zero and grows on one side, h has maxima at large readouts whose height rises like
push^2 / 2 (1 - Q(t)): cuts at fixed readouts say little of that. Here the readouts move along. With H_k(t) the local
maxima of h and Q_o(t) those of the growth,

    J_beta(t) = -sum_c p_c t_c.y_c + (tau + 1 / beta) / 2 sum_c p_c |t_c|^2 + (1 / beta) ln sum_k e^{beta H_k(t)}
                - (1 / beta) sum_o ln(1 - Q_o(t))

is smooth and convex as long as no high maximum is missed. Newton's method with a line search, beta rising: the weights
of codes and outliers follow, and `active_set` ends the way as soon as it can.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.copies import copy_matrix, copy_vector
from meanfield.numerics.jit import jit, jit_apart
from meanfield.numerics.linalg import cholesky, cholesky_solve
from meanfield.theories.single_layer.compiled.ascent import find_maxima
from meanfield.theories.single_layer.compiled.dual import active_set
from meanfield.theories.single_layer.compiled.generated.action import action_fields, growth_fields
from meanfield.theories.single_layer.compiled.generated.stationarity import linear_part, neuron_jacobian
from meanfield.theories.single_layer.compiled.kkt import add_neuron, follow_direction, follow_readout
from meanfield.theories.single_layer.compiled.outlier import worst_directions

__all__ = ["smooth_path"]

_MOST = 256  # maxima that are followed
_STEPS = 40  # of Newton's method at one beta
_FACTOR = 4.0
_STAGES = 18
_WATCHED = 0.5  # growth from which on a direction has a barrier


@jit_apart
def _smoothed(table, p, y, tau, low, high, beta, t, starts, maxima, heights, directions, growths):
    """J_beta(t), with its maxima and directions; returns (value, maxima, directions), inf outside of the domain."""
    n_worst = 0
    barrier = 0.0
    if table.growth_plus > 0.0 or table.growth_minus > 0.0:
        n_worst, q_max, _ = worst_directions(table, p, t, _WATCHED, directions, growths)
        if not q_max < 1.0:
            return np.inf, 0, 0
        for k in range(n_worst):
            barrier -= np.log((1.0 - growths[k]) / (1.0 - _WATCHED))
    count = find_maxima(table, p, t, low, high, starts, True, maxima, heights)
    if count == 0:
        return np.inf, 0, 0
    top = np.max(heights[:count])
    total = 0.0
    for k in range(count):
        total += np.exp(beta * (heights[k] - top))
    value = linear_part(p, y, tau + 1.0 / beta, t) + top + (np.log(total) + barrier) / beta
    return (value if np.isfinite(value) else np.inf), count, n_worst


@jit_apart
def _newton_system(table, p, y, tau, beta, t, readouts, weights, directions, direction_weights, matrix, gradient):
    """Gradient (C m,) and Hessian of J_beta; False where a readout is no strict maximum."""
    n_classes, m = t.shape
    n = n_classes * m
    n_codes, n_out = readouts.shape[0], directions.shape[0]
    first = np.empty((n_codes, n_classes))
    second = np.empty((n_codes, n_classes))
    mixed = np.empty((n_codes, m, n_classes, m))
    curvature = np.empty((n_codes, m, m))
    slope = np.empty((n_codes, n_classes, m))
    first_out = np.empty((n_out, n_classes))
    second_out = np.empty((n_out, n_classes))
    mixed_out = np.empty((n_out, m, n_classes, m))
    curvature_out = np.empty((n_out, m, m))
    slope_out = np.empty((n_out, n_classes, m))
    same_class = np.zeros((n_classes, m, m))
    response = np.empty((m, n_classes, m))
    full = np.zeros((n + 1, n + 1))
    for k in range(n_codes):
        action_fields(table, p, t, readouts[k], first[k], second[k])
    neuron_jacobian(first, second, p, t, readouts, weights, mixed, curvature, slope, same_class)
    for k in range(n_codes):
        if not follow_readout(curvature[k], mixed[k], response):
            return False
        add_neuron(full, n, weights[k], slope[k], mixed[k], response)
    for k in range(n_out):
        growth_fields(table.growth_plus, table.growth_minus, p, t, directions[k], first_out[k], second_out[k])
    neuron_jacobian(
        first_out, second_out, p, t, directions, direction_weights, mixed_out, curvature_out, slope_out, same_class
    )
    for k in range(n_out):
        follow_direction(table, p, t, directions[k], mixed_out[k], response)
        add_neuron(full, n, direction_weights[k], slope_out[k], mixed_out[k], response)
    mean = np.zeros(n)
    for c in range(n_classes):
        for r in range(m):
            i = c * m + r
            for k in range(n_codes):
                mean[i] += weights[k] * slope[k, c, r]
            gradient[i] = p[c] * ((tau + 1.0 / beta) * t[c, r] - y[c, r]) + mean[i]
            for k in range(n_out):
                gradient[i] += direction_weights[k] * slope_out[k, c, r]
    for i in range(n):
        c, r = i // m, i % m
        for j in range(n):
            d, q = j // m, j % m
            value = full[i, j]
            for k in range(n_codes):
                value += beta * weights[k] * (slope[k, c, r] - mean[i]) * (slope[k, d, q] - mean[j])
            for k in range(n_out):
                value += beta * direction_weights[k] ** 2 * slope_out[k, c, r] * slope_out[k, d, q]
            if c == d:
                value += p[c] * same_class[c, r, q]
            matrix[i, j] = value
        matrix[i, i] += p[c] * (tau + 1.0 / beta)
    return True


@jit
def _shares(beta, maxima, heights, count, directions, growths, n_worst):
    """Readouts and directions with their weights, the lightest left out."""
    m = maxima.shape[1]
    top = np.max(heights[:count])
    readouts = np.empty((count, m))
    weights = np.empty(count)
    size = 0
    total = 0.0
    for k in range(count):
        share = np.exp(beta * (heights[k] - top))
        total += share
        if share > 1e-10:
            copy_vector(readouts[size], maxima[k])
            weights[size] = share
            size += 1
    weights /= total
    kept = np.empty((n_worst, m))
    kept_weights = np.empty(n_worst)
    for k in range(n_worst):
        copy_vector(kept[k], directions[k])
        kept_weights[k] = 2.0 / (beta * (1.0 - growths[k]))
    return readouts[:size].copy(), weights[:size].copy(), kept, kept_weights


@jit_apart
def smooth_path(table, p, y, tau, low, high, found):
    """Follow the central path from t = 0; `found` (n, m) are readouts known from before. Returns as `active_set`."""
    n_classes, m = y.shape
    n = n_classes * m
    maxima = np.empty((_MOST, m))
    heights = np.empty(_MOST)
    trial_maxima = np.empty((_MOST, m))
    trial_heights = np.empty(_MOST)
    directions = np.empty((64, m))
    growths = np.empty(64)
    trial_directions = np.empty((64, m))
    trial_growths = np.empty(64)
    matrix = np.empty((n, n))
    gradient = np.empty(n)
    step = np.empty(n)
    t = np.zeros((n_classes, m))
    scale = np.max(np.abs(y)) + 1e-9
    beta = 3.0 / scale
    starts = found.copy()
    search = np.empty((1024, m)), np.empty(1024), np.empty(1, np.int64)
    solution = (False, t, np.empty((0, m)), np.empty(0), np.empty((0, m)), np.empty(0), 0.0, 0, 0)
    for stage in range(_STAGES):
        value, count, n_worst = _smoothed(
            table, p, y, tau, low, high, beta, t, starts, maxima, heights, directions, growths
        )
        if not value < np.inf:
            break
        stalled = 0
        for _ in range(_STEPS):
            if exhausted(table.stop, 1 + n * n * n // 500):
                return solution
            readouts, weights, kept, kept_weights = _shares(beta, maxima, heights, count, directions, growths, n_worst)
            if not _newton_system(table, p, y, tau, beta, t, readouts, weights, kept, kept_weights, matrix, gradient):
                break
            damping = 1e-14
            factor = matrix.copy()
            while not cholesky(factor) and damping < 1e3:
                damping *= 100.0
                copy_matrix(factor, matrix)
                for i in range(n):
                    factor[i, i] += damping * (1.0 + matrix[i, i])
            for i in range(n):
                step[i] = -gradient[i]
            cholesky_solve(factor, step)
            slope = 0.0
            for i in range(n):
                slope += step[i] * gradient[i]
            if not -slope * beta > 1e-3:
                break
            longest = np.max(np.abs(step))
            length = min(1.0, (1.0 + np.max(np.abs(t))) / longest)
            starts = maxima[:count].copy()
            moved = False
            for _ in range(40):
                trial = t.copy()
                for i in range(n):
                    trial[i // m, i % m] += length * step[i]
                trial_value, trial_count, trial_worst = _smoothed(
                    table,
                    p,
                    y,
                    tau,
                    low,
                    high,
                    beta,
                    trial,
                    starts,
                    trial_maxima,
                    trial_heights,
                    trial_directions,
                    trial_growths,
                )
                if trial_value <= value + 0.1 * length * slope + 1e-14 * (1.0 + abs(value)):
                    moved = True
                    break
                length *= 0.4
            if not moved:
                break
            stalled = stalled + 1 if length < 1e-4 else 0
            if stalled > 5:  # maxima appear or vanish on the way
                break
            t = trial
            value, count, n_worst = trial_value, trial_count, trial_worst
            copy_matrix(maxima, trial_maxima)
            copy_vector(heights, trial_heights)
            copy_matrix(directions, trial_directions)
            copy_vector(growths, trial_growths)
        readouts, weights, kept, kept_weights = _shares(beta, maxima, heights, count, directions, growths, n_worst)
        starts = maxima[:count].copy()
        if stage >= 3:
            strong = np.nonzero(weights > 1e-7)[0]
            carried = np.nonzero(kept_weights > 1e-3 * scale / (1.0 + beta * scale) ** 0.25)[0]
            solution = active_set(
                table, p, y, tau, low, high, t.copy(), readouts[strong].copy(), weights[strong].copy(),
                kept[carried].copy(), kept_weights[carried].copy(), search,
            )  # fmt: skip
            if solution[0]:
                break
        beta *= _FACTOR
    return solution
