"""Certificates: the stationarity equations and the duality gap, recomputed without the table (sigma_a = 1).

The equations are those that are generated for the solver too; G comes from quadrature, not from its tables.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.jit import jit_apart
from meanfield.numerics.linalg import thin_svd
from meanfield.theories.single_layer.compiled.generated.action import action_direct, growth_fields
from meanfield.theories.single_layer.compiled.generated.stationarity import linear_part, neuron_residual, order_residual
from meanfield.theories.single_layer.compiled.kkt import height_unit
from meanfield.theories.single_layer.compiled.weights import weight_columns

__all__ = ["certify", "weight_nullity"]


@jit_apart(returns="UniTuple(float64, 4)", from_python=True)
def certify(direct, growth_plus, growth_minus, p, y, tau, t, readouts, weights, directions, direction_weights):
    """Residual of every stationarity equation and the duality gap, G by `direct2`; returns (residual, gap, J, s).

    The primal value is  -sum_gamma P_gamma [|a|^2/2 + sum_c p_c KL(q_gamma,c || prior)] - sum_o w_o (1/2 + q(u_o))
    - (1/2 tau) sum_c p_c |y_c - <a phi>_c|^2, with KL = kappa G' - G; at tau = 0 a residual r of the last term is
    charged sum_c p_c |t_c.r_c|. Heights of codes are compared in units of `height_unit`: 1, unless they are far out.
    """
    n_classes, m = t.shape
    n = readouts.shape[0]
    n_out = directions.shape[0]
    output = np.empty((n_classes, m))  # tau t_c - y_c + what the neurons contribute
    order_residual(y, tau, t, output)
    first = np.empty((n, n_classes))
    second = np.empty(n_classes)
    gradient = np.empty((n, m))
    residual = abs(np.sum(weights) - 1.0)
    primal = 0.0
    s = -np.inf
    heights = np.empty(n)
    unit = np.empty(n)
    for k in range(n):
        heights[k], cost = action_direct(direct, p, t, readouts[k], first[k])
        primal -= weights[k] * cost
        s = max(s, heights[k])
        unit[k] = height_unit(readouts[k])
    for k in range(n):
        for j in range(k):
            residual = max(residual, abs(heights[k] - heights[j]) / max(unit[k], unit[j]))
    neuron_residual(first, p, t, readouts, weights, gradient, output)
    first_out = np.empty((n_out, n_classes))
    gradient_out = np.empty((n_out, m))
    for k in range(n_out):
        q = growth_fields(growth_plus, growth_minus, p, t, directions[k], first_out[k], second)
        primal -= direction_weights[k] * (0.5 + q)
        residual = max(residual, abs(q - 0.5))
    neuron_residual(first_out, p, t, directions, direction_weights, gradient_out, output)
    for r in range(m):
        for k in range(n):
            residual = max(residual, abs(gradient[k, r]))
        for k in range(n_out):
            residual = max(residual, abs(gradient_out[k, r]))
    charge = 0.0
    for c in range(n_classes):
        for r in range(m):
            residual = max(residual, abs(output[c, r]))
            if tau > 0.0:
                misfit = tau * t[c, r] - output[c, r]  # y - <a phi>
                primal -= 0.5 * p[c] * misfit * misfit / tau
            else:
                charge += p[c] * abs(t[c, r] * output[c, r])
    objective = s + linear_part(p, y, tau, t)
    return residual, abs(objective - primal) + charge, objective, s


@jit_apart(returns="int64", from_python=True)
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
    singular = thin_svd(columns)[1]
    rank = 0
    for value in singular:
        if value > 1e-7 * singular[0]:
            rank += 1
    return total - rank
