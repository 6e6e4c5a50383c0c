"""The quadratic programme over codes that are nearly as high as each other (bounded phi, sigma_a = 1).

With many classes that are all different, codes by the hundred are as high as the highest to 1e-8, some to 1e-12, and
which of them carry weight is a question of these differences. With H_k and g_k the height of code k and its gradient at
t, b = p_c (y_c - tau t_c) and M = sum_k w_k d^2 H_k / dt^2 + tau p, J is near t

    min over (x, s):  s - b.x + x.M x / 2    subject to    s >= H_k + g_k.x    for all k,

whose multipliers are the weights. Turning readouts and order parameters together leaves all H_k as they are: along
these directions, of which there are up to m (m - 1) / 2, there is no constraint, and they are eliminated.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.copies import copy_vector
from meanfield.numerics.jit import jit, jit_apart
from meanfield.numerics.linalg import cholesky_solve

__all__ = ["DAMPING", "PROGRAMMES", "RATIOS", "SETTLED", "STRONG", "interior", "solve_programme"]

# Of Newton's steps with such programmes, over codes (`code_path`) and over orbits of codes (`kind_programme`):
PROGRAMMES, SETTLED, DAMPING = 20, 1e-13, 1e-3  # how many, what the last gains, in the way of long steps
STRONG = 1e-7  # weight from which on a code counts in M
RATIOS = (1e4, 1.0, 1e-4)  # of weight to slack, from which on a code is handed to the active set: rounding blurs that

_MOST_STEPS = 60
_LEAST = 1e-22  # mean of weight times slack at which what carries weight is told from what does not
_LEAST_SPREAD = 1e-9  # of heights, with which slacks begin
_ROWS = 512  # codes that are added up at a time
_TURNING = 1e-9  # relative square of a direction that counts as one of turning


@jit
def _factorise(matrix):
    """Overwrite the lower triangle with the Cholesky factor; a pivot that is lost in rounding counts as infinite."""
    n = matrix.shape[0]
    for j in range(n):
        pivot = matrix[j, j]
        for i in range(j):
            pivot -= matrix[j, i] * matrix[j, i]
        if not pivot > 1e-16 * matrix[j, j]:
            pivot = 1e100
        pivot = np.sqrt(pivot)
        matrix[j, j] = pivot
        for row in range(j + 1, n):
            value = matrix[row, j]
            for i in range(j):
                value -= matrix[row, i] * matrix[j, i]
            matrix[row, j] = value / pivot


@jit_apart(returns="Tuple((float64[:, ::1], float64[:, ::1]))")
def _frame(t):
    """Orthonormal rows: directions of t along which heights change, and those of turning all t_c."""
    n_classes, m = t.shape
    n = n_classes * m
    square = np.zeros((n, n))
    for q in range(m):
        for r in range(q):
            for c in range(n_classes):
                for d in range(n_classes):
                    square[c * m + q, d * m + q] += t[c, r] * t[d, r]
                    square[c * m + q, d * m + r] -= t[c, r] * t[d, q]
                    square[c * m + r, d * m + q] -= t[c, q] * t[d, r]
                    square[c * m + r, d * m + r] += t[c, q] * t[d, q]
    values, vectors = np.linalg.eigh(square)
    left = 0
    while left < n and values[left] <= _TURNING * values[n - 1]:
        left += 1
    rows = np.ascontiguousarray(vectors.T)
    return rows[:left].copy(), rows[left:].copy()


@jit_apart(returns="float64", from_python=True)
def interior(table, matrix, slope, heights, columns, weights, slack, x):
    """Mehrotra's method for the programme of `matrix` (r, r), slope b (r,), heights (K,), columns g_k (K, r).

    Fills weights (K,), which come in as a guess, slack (K,) and x (r,); returns s.
    """
    total, n = columns.shape
    top = np.max(heights)
    below = np.sort(heights - top)
    spread = max(_LEAST_SPREAD, -below[max(total - 1 - 4 * n, 0)])
    s = spread
    x[:] = 0.0
    mass = 0.0
    for k in range(total):
        weights[k] = max(weights[k], 1e-4 / total)
        mass += weights[k]
    for k in range(total):
        weights[k] /= mass
        slack[k] = s - (heights[k] - top)
    along = np.empty(total)
    infeasible = np.empty(total)
    ratio = np.empty(total)
    push = np.empty(total)
    step_slack, step_weight = np.zeros(total), np.zeros(total)
    normal = np.empty((n, n))
    residual, rhs, mean = np.empty(n), np.empty(n), np.empty(n)
    rows = np.empty((min(_ROWS, total), n))
    for _ in range(_MOST_STEPS):
        if exhausted(table.stop, 1 + total * n * n // 4000 + n * n * n // 3000):
            break
        mu = np.sum(weights * slack) / total
        if mu < _LEAST:
            break
        copy_vector(along, columns @ x)
        copy_vector(residual, slope - matrix @ x - weights @ columns)
        lacking = 1.0 - np.sum(weights)
        for k in range(total):
            infeasible[k] = heights[k] - top + along[k] - s + slack[k]
            ratio[k] = weights[k] / slack[k]
        stiff = np.sum(ratio)
        copy_vector(mean, (ratio @ columns) / stiff)
        for i in range(n):
            for j in range(n):
                normal[i, j] = matrix[i, j]
        first = 0
        while first < total:
            size = min(rows.shape[0], total - first)
            for k in range(size):
                root = np.sqrt(ratio[first + k])
                for i in range(n):
                    rows[k, i] = root * (columns[first + k, i] - mean[i])
            part = rows[:size]
            normal += part.T @ part
            first += size
        _factorise(normal)
        centring = 0.0
        length = 1.0
        for stage in range(2):
            for k in range(total):
                target = weights[k] * slack[k] - centring * mu
                if stage == 1:
                    target += step_weight[k] * step_slack[k]
                push[k] = ratio[k] * infeasible[k] - target / slack[k]
            lift = (np.sum(push) - lacking) / stiff
            copy_vector(rhs, residual - push @ columns + (stiff * lift) * mean)
            cholesky_solve(normal, rhs)
            change = lift + np.sum(mean * rhs)
            copy_vector(along, columns @ rhs)
            length_slack, length_weight = 1.0, 1.0
            for k in range(total):
                step_slack[k] = change - along[k] - infeasible[k]
                step_weight[k] = push[k] + ratio[k] * (along[k] - change)
                if step_slack[k] < 0.0:
                    length_slack = min(length_slack, -0.99 * slack[k] / step_slack[k])
                if step_weight[k] < 0.0:
                    length_weight = min(length_weight, -0.99 * weights[k] / step_weight[k])
            if stage == 0:
                after = 0.0
                for k in range(total):
                    after += (weights[k] + length_weight * step_weight[k]) * (slack[k] + length_slack * step_slack[k])
                centring = min(max((after / (total * mu)) ** 3, 1e-4), 0.9)
            length = min(length_slack, length_weight)
        if not np.isfinite(length * change):
            break
        for i in range(n):
            x[i] += length * rhs[i]
        s += length * change
        for k in range(total):
            slack[k] += length * step_slack[k]
            weights[k] += length * step_weight[k]
    return s + top


@jit_apart(returns="float64")
def solve_programme(table, t, matrix, slope, heights, columns, weights, slack, step):
    """Solve the programme of matrix M (n, n), slope b (n,), heights (K,) and columns g_k (K, n), n = C m, at t (C, m).

    Fills weights (K,), which come in as a guess, slack (K,) and step (n,); returns by how much J is to fall.
    """
    free, turning = _frame(t)
    n_free, n_turning = free.shape[0], turning.shape[0]
    half = free @ matrix
    inner = half @ free.T
    inner_slope = free @ slope
    cross = half @ turning.T
    stiff = turning @ matrix @ turning.T
    for i in range(n_turning):
        stiff[i, i] += 1e-13
    _factorise(stiff)
    away = turning @ slope
    cholesky_solve(stiff, away)
    inner_slope -= cross @ away
    back = np.empty((n_free, n_turning))
    for i in range(n_free):
        line = cross[i].copy()
        cholesky_solve(stiff, line)
        copy_vector(back[i], line)
    inner -= cross @ back.T
    reduced = columns @ free.T
    x = np.empty(n_free)
    s = interior(table, inner, inner_slope, heights, reduced, weights, slack, x)
    other = away - x @ back
    copy_vector(step, x @ free + other @ turning)
    return np.max(heights) - s + np.sum(slope * step) - 0.5 * np.sum(step * (matrix @ step))
