"""The action of a task with kinds of classes, and the master problem of its bundle method (sigma_a = 1).

There are K kinds with n_k classes each. In the coordinates of `class_kinds` the order parameter of a kind is theta_k
(d,), a readout is v (d - 1 + K,), and the classes of a kind are in two parts, the upper one with `counts[k]` of them.
A readout enters through its part vectors z (K, 2, d), kappa = z . theta, and what a part counts, weight (K, 2).

`kind_master` takes the same steps as `master.solve_master` (Mehrotra's predictor and corrector), but shares no loop
with it. There the gradient of a cut is an outer product p_c G'(a.t_c) a, which is never formed: a cut costs C + m
numbers instead of C m, and its rows of the normal matrix are written from them. Here the gradient is a sum over two
parts of a kind and is kept whole, and there are no cuts of growth. One loop for both would form the gradients of the
former, or call a function per cut in the innermost loop.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.copies import copy_vector
from meanfield.numerics.cumulant_table import cumulant2
from meanfield.numerics.jit import jit
from meanfield.numerics.linalg import cholesky, cholesky_solve
from meanfield.theories.single_layer.compiled.ascent import ascend
from meanfield.theories.single_layer.compiled.generated.action import action_hessian

__all__ = ["best_readouts", "cumulant_values", "kind_master", "part_vectors", "split_factors"]

_MAX_ITERATIONS = 60
_MAX_CLIMB = 12
_GAIN = 1e-12  # of the last step of a climb, after which there is nothing left to gain


@jit
def cumulant_values(table, kappa, value, first, second):
    """G, G', G'' of a flat array."""
    for i in range(kappa.shape[0]):
        value[i], first[i], second[i] = cumulant2(table, kappa[i])


@jit
def split_factors(n, j):
    """b . u_c for a unit vector b that tells j of n classes from the others, u_c unit vectors of the simplex."""
    if j <= 0.0 or j >= n:
        return 0.0, 0.0
    return -np.sqrt(j / ((n - j) * (n - 1.0))), np.sqrt((n - j) / (j * (n - 1.0)))


@jit
def part_vectors(n, p, counts, v, z, weight):
    """Fill z (K, 2, d) and weight (K, 2) = p_k times the classes in a part; returns the prior term -|v|^2 / 2."""
    n_kinds, d = z.shape[0], z.shape[2]
    for k in range(n_kinds):
        lower, upper = split_factors(n[k], counts[k])
        weight[k, 0] = p[k] * (n[k] - counts[k])
        weight[k, 1] = p[k] * counts[k]
        for r in range(d - 1):
            z[k, 0, r] = v[r]
            z[k, 1, r] = v[r]
        z[k, 0, d - 1] = lower * v[d - 1 + k]
        z[k, 1, d - 1] = upper * v[d - 1 + k]
    return -0.5 * np.sum(v * v)


@jit
def _climb(table, p, t, a):
    """Newton's steps of a readout (in place) until the last has gained next to nothing; returns (ok, h).

    What that step gains is known without a look at its end. Not ok where h does not bend down, or a step leads down.
    """
    m = a.shape[0]
    grad, step, trial = np.empty(m), np.empty(m), np.empty(m)
    factor = np.empty((m, m))
    h = action_hessian(table, p, t, a, grad, factor)
    for _ in range(_MAX_CLIMB):
        if not cholesky(factor):
            return False, h
        copy_vector(step, grad)
        cholesky_solve(factor, step)
        gain = 0.0
        for r in range(m):
            gain += 0.5 * step[r] * grad[r]
            trial[r] = a[r] + step[r]
        if gain <= _GAIN * (1.0 + abs(h)):
            copy_vector(a, trial)
            return True, h + gain
        higher = action_hessian(table, p, t, trial, grad, factor)
        if not higher > h:
            return False, h
        h = higher
        copy_vector(a, trial)
    return False, h


@jit
def best_readouts(table, n, p, theta, counts, v, heights, low, high, fresh, fine):
    """Local maxima of h with given counts (N, K), from v (N, d - 1 + K) or, if `fresh`, from their code words.

    Overwrites v and fills heights (N,). Without `fine` v is the maximum to some 1e-8 only, less than heights show.
    Counts are put in order: the upper part has the larger kappa, and parts that are not different are one, the upper
    where kappa > 0.
    """
    n_kinds, d = theta.shape
    parts = np.empty(2 * n_kinds)
    t = np.zeros((2 * n_kinds, d - 1 + n_kinds))
    for i in range(counts.shape[0]):
        if exhausted(table.stop, 4 * n_kinds * (d + n_kinds)):
            break
        a = v[i]
        for k in range(n_kinds):
            factors = split_factors(n[k], counts[i, k])
            for b in range(2):
                parts[2 * k + b] = p[k] * (counts[i, k] if b == 1 else n[k] - counts[i, k])
                for r in range(d - 1):
                    t[2 * k + b, r] = theta[k, r]
                t[2 * k + b, d - 1 + k] = theta[k, d - 1] * factors[b]
        if fresh:
            for r in range(d - 1 + n_kinds):
                a[r] = 0.0
                for k in range(n_kinds):
                    for b in range(2):
                        a[r] += parts[2 * k + b] * (high if b == 1 else low) * t[2 * k + b, r]
        known = False
        if not fine:
            known, heights[i] = _climb(table, parts, t, a)
        if not known:
            heights[i], _ = ascend(table, parts, t, a)
        for k in range(n_kinds):
            split = a[d - 1 + k] * theta[k, d - 1]
            if abs(split) <= 1e-9 * (1.0 + np.max(np.abs(a))):
                kappa = 0.0
                for r in range(d - 1):
                    kappa += a[r] * theta[k, r]
                counts[i, k] = n[k] if kappa > 0.0 else 0.0
                a[d - 1 + k] = 0.0
            elif split < 0.0:
                counts[i, k] = n[k] - counts[i, k]
                a[d - 1 + k] = -a[d - 1 + k]


@jit
def _fields(table, constant, weight, z, theta, gradient, second):
    """h; fills gradient (K d,) by theta, and second (K, 2) = weight G''."""
    n_kinds, d = theta.shape
    h = constant
    for k in range(n_kinds):
        for r in range(d):
            gradient[k * d + r] = 0.0
        for b in range(2):
            second[k, b] = 0.0
            if weight[k, b] > 0.0:
                kappa = 0.0
                for r in range(d):
                    kappa += z[k, b, r] * theta[k, r]
                g0, g1, g2 = cumulant2(table, kappa)
                h += weight[k, b] * g0
                second[k, b] = weight[k, b] * g2
                for r in range(d):
                    gradient[k * d + r] += weight[k, b] * g1 * z[k, b, r]
    return h


@jit
def kind_master(table, share, y, tau, rho, centre, cuts, theta, multipliers, tolerance):
    """Minimise the model of the cuts plus a proximal term from `theta` (overwritten), by an interior-point method.

        s - sum_k share_k theta_k . y_k + tau/2 sum_k share_k |theta_k|^2 + sum_k share_k |theta_k - centre_k|^2 / 2 rho
        subject to h_i(theta) <= s for the cuts (constants (N,), weights (N, K, 2), z (N, K, 2, d))

    Fills multipliers (N,), the weights of the codes; returns (s, model without proximal term, ok).
    """
    constants, part_weights, z = cuts
    n_kinds, d = theta.shape
    n_cuts = constants.shape[0]
    n = n_kinds * d
    gradient = np.empty((n_cuts, n))
    second = np.empty((n_cuts, n_kinds, 2))
    value = np.empty(n_cuts)
    slack = np.empty(n_cuts)
    target = np.empty(n_cuts)
    step_slack = np.empty(n_cuts)
    step_weight = np.zeros(n_cuts)
    residual = np.empty(n)
    matrix = np.empty((n + 1, n + 1))
    rhs = np.empty(n + 1)
    for i in range(n_cuts):
        value[i] = _fields(table, constants[i], part_weights[i], z[i], theta, gradient[i], second[i])
    s = np.max(value) + 0.1
    total = 0.0
    for i in range(n_cuts):
        slack[i] = max(s - value[i], 0.05)
        multipliers[i] = max(multipliers[i], 1e-3)
        total += multipliers[i]
    for i in range(n_cuts):
        multipliers[i] /= total
    ok = False
    for _ in range(_MAX_ITERATIONS):
        if exhausted(table.stop, 1 + n * n * (n + n_cuts) // 1000):
            break
        mu = 0.0
        mass = 1.0
        primal = 0.0
        for i in range(n_cuts):
            mu += multipliers[i] * slack[i] / n_cuts
            mass -= multipliers[i]
            primal = max(primal, abs(value[i] - s + slack[i]))
        dual = 0.0
        for k in range(n_kinds):
            for r in range(d):
                x = theta[k, r]
                total = share[k] * (tau * x - y[k, r] + (x - centre[k, r]) / rho)
                for i in range(n_cuts):
                    total += multipliers[i] * gradient[i, k * d + r]
                residual[k * d + r] = total
                dual = max(dual, abs(total))
        scale = 1.0 + abs(s)
        if max(dual, abs(mass)) <= tolerance and primal <= tolerance * scale and mu <= tolerance * scale:
            ok = True
            break
        for i in range(n + 1):
            for j in range(n + 1):
                matrix[i, j] = 0.0
        for k in range(n_kinds):
            for r in range(d):
                matrix[k * d + r, k * d + r] = share[k] * (tau + 1.0 / rho) + 1e-14
        for i in range(n_cuts):
            ratio = multipliers[i] / slack[i]
            for k in range(n_kinds):
                for b in range(2):
                    curvature = multipliers[i] * second[i, k, b]
                    for r in range(d):
                        for q in range(r + 1):
                            matrix[k * d + r, k * d + q] += curvature * z[i, k, b, r] * z[i, k, b, q]
            for row in range(n):
                for column in range(row + 1):
                    matrix[row, column] += ratio * gradient[i, row] * gradient[i, column]
                matrix[n, row] -= ratio * gradient[i, row]
            matrix[n, n] += ratio
        if not cholesky(matrix):
            break
        centring = 0.0
        length = 1.0
        for stage in range(2):
            for row in range(n):
                rhs[row] = -residual[row]
            rhs[n] = -mass
            for i in range(n_cuts):
                target[i] = multipliers[i] * slack[i] - centring * mu
                if stage == 1:
                    target[i] += step_weight[i] * step_slack[i]
                push = (multipliers[i] * (value[i] - s + slack[i]) - target[i]) / slack[i]
                for row in range(n):
                    rhs[row] -= push * gradient[i, row]
                rhs[n] += push
            cholesky_solve(matrix, rhs)
            length_primal = 1.0
            length_dual = 1.0
            for i in range(n_cuts):
                change = -rhs[n]
                for row in range(n):
                    change += gradient[i, row] * rhs[row]
                step_slack[i] = -(value[i] - s + slack[i]) - change
                step_weight[i] = (-target[i] - multipliers[i] * step_slack[i]) / slack[i]
                if step_slack[i] < 0.0:
                    length_primal = min(length_primal, -0.99 * slack[i] / step_slack[i])
                if step_weight[i] < 0.0:
                    length_dual = min(length_dual, -0.99 * multipliers[i] / step_weight[i])
            length = min(length_primal, length_dual)
            if stage == 0:
                after = 0.0
                for i in range(n_cuts):
                    product = multipliers[i] + length_dual * step_weight[i]
                    after += product * (slack[i] + length_primal * step_slack[i]) / n_cuts
                centring = min(max((after / mu) ** 3, 1e-4), 0.9)
        # A long step makes the linearised cuts meaningless: cap it relative to the size of theta.
        length = min(length, 2.0 * max(1.0, np.max(np.abs(theta))) / max(np.max(np.abs(rhs[:n])), 1e-300))
        for k in range(n_kinds):
            for r in range(d):
                theta[k, r] += length * rhs[k * d + r]
        s += length * rhs[n]
        for i in range(n_cuts):
            multipliers[i] += length * step_weight[i]
            value[i] = _fields(table, constants[i], part_weights[i], z[i], theta, gradient[i], second[i])
            slack[i] = max(slack[i] + length * step_slack[i], s - value[i])
    model = s
    for k in range(n_kinds):
        for r in range(d):
            model += share[k] * theta[k, r] * (0.5 * tau * theta[k, r] - y[k, r])
    return s, model, ok
