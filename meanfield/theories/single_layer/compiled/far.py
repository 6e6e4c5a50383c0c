"""Boxes far out along rays of outliers: the problem of the fields that stay small there (sigma_a = 1).

Where phi is homogeneous and fields of the classes F are large, G of these is growth kappa^2 / 2, and
    h(a) <= sum_F p_c max R - a^T M a / 2 + sum_S p_c G(kappa_c),   M = 1 - sum_F p_c growth_c t_c t_c^T,
with the other classes S. Readouts that leave kappa_S as it is are maximised out: with eigenvectors v_i of M,
    h <= sum_F p_c max R - kappa_S^T (sum_i K_i K_i^T / mu_i)^-1 kappa_S / 2 + sum_S p_c G(kappa_c),   K_i = t_S.v_i,
which no longer knows how far out the box is. Along a ray mu_i = 0 and K_i = 0.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.copies import copy_vector
from meanfield.numerics.jit import jit_apart
from meanfield.numerics.linalg import cholesky, cholesky_solve
from meanfield.theories.single_layer.compiled.bounds import psi_and_mean, remainder_maximum
from meanfield.theories.single_layer.compiled.relaxation import relaxed_bound

__all__ = ["far_bound"]

_SMALL = 1e-2  # fields below this, in units of the largest, are those that stay small
_LEAST = 100.0  # fields above this are large
_RAY = 1e-14  # curvature of M that is zero
_DRIFT = 1e-6  # change of kappa_S along a ray through the box, relative, which is allowed for


@jit_apart(returns="float64")
def far_bound(table, bounds, p, t, least, lines, low_k, high_k, target, best, gap):
    """Upper bound of h over a box of fields far out; inf where it has none.

    least: smallest singular value of t; gap (C,) as in `relaxed_bound`, filled where the bound is better than `best`.
    """
    n_classes, m = t.shape
    largest = 0.0
    for c in range(n_classes):
        largest = max(largest, max(high_k[c], -low_k[c]))
    small = np.empty(n_classes, np.int64)
    n = 0
    constant = 0.0
    minus = np.eye(m)
    for c in range(n_classes):
        if max(high_k[c], -low_k[c]) <= _SMALL * largest:
            small[n] = c
            n += 1
            continue
        if low_k[c] < _LEAST and high_k[c] > -_LEAST:
            return np.inf
        _, _, rest_low = psi_and_mean(table, low_k[c], lines)
        _, _, rest_high = psi_and_mean(table, high_k[c], lines)
        constant += p[c] * remainder_maximum(table, bounds, low_k[c], high_k[c], rest_low, rest_high)
        growth = table.growth_plus if low_k[c] >= 0.0 else table.growth_minus
        for r in range(m):
            for q in range(m):
                minus[r, q] -= p[c] * growth * t[c, r] * t[c, q]
    if n == 0 or n >= m or not constant < target:
        return np.inf
    curvatures, axes = np.linalg.eigh(minus)
    if curvatures[0] > _RAY or curvatures[0] < -_RAY:  # without a ray the form itself tells how far out the box is
        return np.inf
    spread = np.zeros((n, n))
    along = np.empty(n)
    drift = np.zeros(n)
    reach = np.sqrt(n_classes) * largest / max(least, 1e-300)  # of |a| in the box
    for i in range(m):
        for k in range(n):
            along[k] = 0.0
            for r in range(m):
                along[k] += t[small[k], r] * axes[r, i]
        if curvatures[i] <= _RAY:
            for k in range(n):
                drift[k] += abs(along[k]) * reach
            continue
        for k in range(n):
            for j in range(n):
                spread[k, j] += along[k] * along[j] / curvatures[i]
    low, high, weight = np.empty(n), np.empty(n), np.empty(n)
    for k in range(n):
        low[k], high[k], weight[k] = low_k[small[k]], high_k[small[k]], p[small[k]]
        if not drift[k] <= _DRIFT * (1.0 + max(high[k], -low[k])):
            return np.inf
        low[k] -= drift[k]
        high[k] += drift[k]
    if not cholesky(spread):
        return np.inf
    prior = np.empty((n, n))
    for k in range(n):
        along[:] = 0.0
        along[k] = 1.0
        cholesky_solve(spread, along)
        copy_vector(prior[k], along)
    room = np.empty(n)
    value = relaxed_bound(
        table, bounds, weight, np.eye(n), prior, lines, low.copy(), high.copy(), low, high, False, False,
        target - constant, np.zeros((1 << n, n, n)), np.zeros(1 << n, np.bool_), room, np.empty((n, n)),
        np.empty((n, n)),
    )  # fmt: skip
    if constant + value < best:
        gap[:] = 0.0
        for k in range(n):
            gap[small[k]] = room[k]
    return constant + value
