"""Primal-dual interior-point method for the master problem of the bundle method.

    minimise over (t, s):  s - sum_c p_c t_c.y_c + tau/2 sum_c p_c |t_c|^2 + 1/(2 rho) sum_c p_c |t_c - centre_c|^2
                           + 1/2 (x - x_0)^T metric (x - x_0),   x = (t, s)
    subject to             h(a_k; t) / n_k <= s / n_k    (readout cuts, multipliers = n_k times code weights)
                           q(u_o; t) <= 1/2              (direction cuts, multipliers = outlier weights)

with q(u; t) = 1/2 sum_c p_c g(t_c.u), g(kappa) = growth_plus kappa^2 for kappa > 0, growth_minus kappa^2 below, and n_k
the size of a cut: 1, or 1 + |a_k|^2 for readouts far out.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.jit import jit_apart
from meanfield.numerics.linalg import cholesky_solve, cholesky_until
from meanfield.theories.single_layer.compiled.generated.action import action_fields, growth_fields
from meanfield.theories.single_layer.compiled.generated.stationarity import linear_part

__all__ = ["solve_master"]

_MAX_ITERATIONS = 60


@jit_apart(returns="none")
def _cut_fields(table, p, t, cuts, unit, directions, value, first, second):
    """Values of all cuts and directions, their first and second fields, cuts in units of their sizes."""
    n_cuts = cuts.shape[0]
    for k in range(value.shape[0]):
        if k < n_cuts:
            value[k] = action_fields(table, p, t, cuts[k], first[k], second[k]) * unit[k]
            for c in range(p.shape[0]):
                first[k, c] *= unit[k]
                second[k, c] *= unit[k]
        else:
            u = directions[k - n_cuts]
            value[k] = growth_fields(table.growth_plus, table.growth_minus, p, t, u, first[k], second[k])


@jit_apart(returns="Tuple((float64, float64, boolean))")
def solve_master(table, p, y, tau, rho, centre, cuts, sizes, directions, metric, centre_s, t, weights, tolerance):
    """Solve the master problem from `t` (overwritten); fills `weights` (K + O,) and returns (s, model value, ok).

    The model value excludes the proximal terms. `cuts` (K, m) of sizes (K,), `directions` (O, m); K >= 1. `metric`
    (C m + 1, C m + 1) about x_0 = (centre, centre_s), or (0, 0) where there is none.
    """
    n_classes, m = t.shape
    n_cuts = cuts.shape[0]
    total = n_cuts + directions.shape[0]
    n = n_classes * m
    first = np.empty((total, n_classes))
    second = np.empty((total, n_classes))
    value = np.empty(total)
    slack = np.empty(total)
    matrix = np.empty((n + 1, n + 1))
    rhs = np.empty(n + 1)
    residual = np.empty(n)
    step_slack = np.empty(total)
    step_weight = np.empty(total)
    target = np.empty(total)
    unit = np.zeros(total)  # what a cut takes of s
    for k in range(n_cuts):
        unit[k] = 1.0 / sizes[k]
    metric_size = metric.shape[0]
    shift = np.zeros(n + 1)  # x - x_0
    _cut_fields(table, p, t, cuts, unit, directions, value, first, second)
    s = centre_s if metric_size > 0 else np.max(value[:n_cuts]) + 0.1
    total_weight = 0.0
    for k in range(total):
        level = s * unit[k] if k < n_cuts else 0.5
        slack[k] = max(level - value[k], 0.05)
        weights[k] = max(weights[k], 1e-3)
        total_weight += weights[k] * unit[k]
    if metric_size == 0:
        for k in range(n_cuts):
            weights[k] /= total_weight
    ok = False
    for _ in range(_MAX_ITERATIONS):
        if exhausted(table.stop, 1 + n * total // 1000):
            break
        mu = 0.0
        for k in range(total):
            mu += weights[k] * slack[k]
        mu /= total
        # Dual and primal residuals.
        dual = 0.0
        scale = 1.0
        for i in range(metric_size):
            shift[i] = t[i // m, i % m] - centre[i // m, i % m] if i < n else s - centre_s
        for c in range(n_classes):
            for r in range(m):
                value_cr = p[c] * (-y[c, r] + tau * t[c, r] + (t[c, r] - centre[c, r]) / rho)
                for k in range(total):
                    x = cuts[k, r] if k < n_cuts else directions[k - n_cuts, r]
                    value_cr += weights[k] * first[k, c] * x
                for j in range(metric_size):
                    value_cr += metric[c * m + r, j] * shift[j]
                residual[c * m + r] = value_cr
                dual = max(dual, abs(value_cr))
        mass = 1.0
        primal = 0.0
        for j in range(metric_size):
            mass += metric[n, j] * shift[j]
        for k in range(total):
            mass -= weights[k] * unit[k]
            violation = value[k] - (s * unit[k] if k < n_cuts else 0.5) + slack[k]
            primal = max(primal, abs(violation))
        scale = 1.0 + abs(s)
        if max(dual, abs(mass)) <= tolerance and primal <= tolerance * scale and mu <= tolerance * scale:
            ok = True
            break
        # Normal matrix W + J^T diag(weights / slack) J in (t, s).
        for i in range(n + 1):
            for j in range(n + 1):
                matrix[i, j] = metric[i, j] if metric_size > 0 else 0.0
        for c in range(n_classes):
            for r in range(m):
                matrix[c * m + r, c * m + r] += p[c] * (tau + 1.0 / rho) + 1e-14
        for k in range(total):
            row = cuts[k] if k < n_cuts else directions[k - n_cuts]
            ratio = weights[k] / slack[k]
            if exhausted(table.stop, n * n // 1000):
                break
            for c in range(n_classes):
                curvature = weights[k] * second[k, c]
                for r in range(m):
                    i = c * m + r
                    gradient = first[k, c] * row[r]
                    for q in range(r + 1):
                        matrix[i, c * m + q] += curvature * row[r] * row[q]
                    for d in range(c + 1):
                        factor = ratio * gradient * first[k, d]
                        for q in range(m):
                            matrix[i, d * m + q] += factor * row[q]
                    if k < n_cuts:
                        matrix[n, i] -= ratio * gradient * unit[k]
            matrix[n, n] += ratio * unit[k] * unit[k]
        if not cholesky_until(matrix, table.stop):
            break
        # Predictor (centring 0), then corrector with Mehrotra's centring and second-order term.
        centring = 0.0
        length = 1.0
        for stage in range(2):
            for i in range(n):
                rhs[i] = -residual[i]
            rhs[n] = -mass
            for k in range(total):
                row = cuts[k] if k < n_cuts else directions[k - n_cuts]
                violation = value[k] - (s * unit[k] if k < n_cuts else 0.5) + slack[k]
                target[k] = weights[k] * slack[k] - centring * mu
                if stage == 1:
                    target[k] += step_weight[k] * step_slack[k]
                # dw = (-target + w (violation + J dx)) / slack
                push = (weights[k] * violation - target[k]) / slack[k]
                for c in range(n_classes):
                    for r in range(m):
                        rhs[c * m + r] -= push * first[k, c] * row[r]
                rhs[n] += push * unit[k]
            cholesky_solve(matrix, rhs)
            length_primal = 1.0
            length_dual = 1.0
            for k in range(total):
                row = cuts[k] if k < n_cuts else directions[k - n_cuts]
                change = -rhs[n] * unit[k]
                for c in range(n_classes):
                    inner = 0.0
                    for r in range(m):
                        inner += row[r] * rhs[c * m + r]
                    change += first[k, c] * inner
                violation = value[k] - (s * unit[k] if k < n_cuts else 0.5) + slack[k]
                step_slack[k] = -violation - change
                step_weight[k] = (-target[k] - weights[k] * step_slack[k]) / slack[k]
                if step_slack[k] < 0.0:
                    length_primal = min(length_primal, -0.99 * slack[k] / step_slack[k])
                if step_weight[k] < 0.0:
                    length_dual = min(length_dual, -0.99 * weights[k] / step_weight[k])
            length = min(length_primal, length_dual)
            if stage == 0:
                after = 0.0
                for k in range(total):
                    after += (weights[k] + length_dual * step_weight[k]) * (slack[k] + length_primal * step_slack[k])
                after /= total
                centring = min(max((after / mu) ** 3, 1e-4), 0.9)
        # A long step in t makes the linearised cuts meaningless: cap it relative to the size of t.
        reach = 0.0
        size = 1.0
        for c in range(n_classes):
            for r in range(m):
                reach = max(reach, abs(rhs[c * m + r]))
                size = max(size, abs(t[c, r]))
        length = min(length, 2.0 * size / max(reach, 1e-300))
        for c in range(n_classes):
            for r in range(m):
                t[c, r] += length * rhs[c * m + r]
        s += length * rhs[n]
        for k in range(total):
            slack[k] += length * step_slack[k]
            weights[k] += length * step_weight[k]
        _cut_fields(table, p, t, cuts, unit, directions, value, first, second)
        for k in range(total):
            # Keep the nonlinear constraint's slack honest where that only enlarges it.
            slack[k] = max(slack[k], (s * unit[k] if k < n_cuts else 0.5) - value[k])
    return s, s + linear_part(p, y, tau, t), ok
