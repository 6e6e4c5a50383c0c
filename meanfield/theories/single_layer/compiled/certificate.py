"""Certificates: the stationarity equations and the duality gap, recomputed without the table (sigma_a = 1)."""

from __future__ import annotations

import numpy as np

from meanfield.numerics.cumulant_table import direct2
from meanfield.numerics.jit import jit
from meanfield.theories.single_layer.compiled.kkt import weight_columns

__all__ = ["certify", "weight_nullity"]


@jit
def certify(direct, growth_plus, growth_minus, p, y, tau, t, readouts, weights, directions, direction_weights):
    """Residual of every stationarity equation and the duality gap, from `direct2`; returns (residual, gap, J, s).

    The primal value is  -sum_gamma P_gamma [|a|^2/2 + sum_c p_c KL(q_gamma,c || prior)] - sum_o w_o (1/2 + q(u_o))
    - (1/2 tau) sum_c p_c |y_c - <a phi>_c|^2, with KL = kappa G' - G; at tau = 0 a residual r of the last term is
    charged sum_c p_c |t_c.r_c|.
    """
    n_classes, m = t.shape
    remainder = y - tau * t
    gradient = np.empty(m)
    residual = abs(np.sum(weights) - 1.0)
    primal = 0.0
    s = -np.inf
    lowest = np.inf
    for k in range(readouts.shape[0]):
        a = readouts[k]
        h = 0.0
        cost = 0.0
        for r in range(m):
            gradient[r] = -a[r]
            cost += 0.5 * a[r] * a[r]
        h -= cost
        for c in range(n_classes):
            kappa = 0.0
            for r in range(m):
                kappa += a[r] * t[c, r]
            g0, g1, _ = direct2(direct, kappa)
            h += p[c] * g0
            cost += p[c] * (kappa * g1 - g0)
            for r in range(m):
                gradient[r] += p[c] * g1 * t[c, r]
                remainder[c, r] -= weights[k] * a[r] * g1
        primal -= weights[k] * cost
        s = max(s, h)
        lowest = min(lowest, h)
        for r in range(m):
            residual = max(residual, abs(gradient[r]))
    residual = max(residual, s - lowest)
    for k in range(directions.shape[0]):
        u = directions[k]
        q = 0.0
        for r in range(m):
            gradient[r] = -u[r]
        for c in range(n_classes):
            kappa = 0.0
            for r in range(m):
                kappa += u[r] * t[c, r]
            growth = growth_plus if kappa > 0.0 else growth_minus
            q += 0.5 * p[c] * growth * kappa * kappa
            for r in range(m):
                gradient[r] += p[c] * growth * kappa * t[c, r]
                remainder[c, r] -= direction_weights[k] * growth * kappa * u[r]
        primal -= direction_weights[k] * (0.5 + q)
        residual = max(residual, abs(q - 0.5))
        for r in range(m):
            residual = max(residual, abs(gradient[r]))
    objective = s
    charge = 0.0
    for c in range(n_classes):
        for r in range(m):
            objective += p[c] * t[c, r] * (0.5 * tau * t[c, r] - y[c, r])
            residual = max(residual, abs(remainder[c, r]))
            if tau > 0.0:
                misfit = remainder[c, r] + tau * t[c, r]
                primal -= 0.5 * p[c] * misfit * misfit / tau
            else:
                charge += p[c] * abs(t[c, r] * remainder[c, r])
    return residual, abs(objective - primal) + charge, objective, s


@jit
def weight_nullity(table, p, t, readouts, directions):
    """Dimension of the family of optimal weights: codes and outliers minus the rank of their contributions."""
    n_classes, m = t.shape
    total = readouts.shape[0] + directions.shape[0]
    columns = np.empty((n_classes * m + 1, total))
    weight_columns(table, p, t, readouts, directions, columns)
    for k in range(total):
        columns[n_classes * m, k] = 1.0 if k < readouts.shape[0] else 0.0
        norm = np.sqrt(np.sum(columns[:, k] * columns[:, k]))
        if norm > 0.0:
            for i in range(columns.shape[0]):
                columns[i, k] /= norm
    singular = np.linalg.svd(columns)[1]
    rank = 0
    for value in singular:
        if value > 1e-7 * singular[0]:
            rank += 1
    return total - rank
