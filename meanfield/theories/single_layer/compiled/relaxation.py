"""Concave quadratic majorants of h over a box, maximised exactly (sigma_a = 1).

On an interval where G'' >= lambda the function G - lambda kappa^2 / 2 is convex and lies below its chord, so that
    G(kappa) <= chord + lambda kappa^2 / 2,   off by (max G'' - lambda) width^2 / 8 at most:
exact where G is a parabola, which it is far out. An interval that reaches far is given the growth of G and its
asymptotic line instead. With the prior this makes a quadratic form -x^T M x / 2.

What keeps J finite makes M copositive on the signs of kappa, not positive: products of (kappa_c - nearer end) of one
sign can be added. `sign_products` finds N >= 0 such that M - N is positive semidefinite. The maximum of a concave form
over the box is bounded by the dual value at any multipliers of the sides, found by coordinate descent.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.copies import copy_matrix, copy_vector
from meanfield.numerics.cumulant_table import cumulant2, interval_index
from meanfield.numerics.jit import jit, jit_apart
from meanfield.numerics.linalg import cholesky, cholesky_solve
from meanfield.theories.single_layer.compiled.bounds import curvature_range, psi_and_mean, range_maximum

__all__ = ["PRODUCT_CLASSES", "relaxed_bound", "sign_products"]

PRODUCT_CLASSES = 8  # up to so many classes products are added: 2^C patterns of signs
_SWEEPS = 24  # of coordinate descent
_FAR = 1e6  # a wider interval has no chord


@jit
def _form(prior, to_kappa, weight, products, sign, matrix):
    """Fill matrix with prior - sum_c weight_c K_c K_c^T - sum_cd products_cd sign_c sign_d K_c K_d^T."""
    d, n_classes = prior.shape[0], to_kappa.shape[0]
    for i in range(d):
        for j in range(i + 1):
            value = prior[i, j]
            for c in range(n_classes):
                value -= weight[c] * to_kappa[c, i] * to_kappa[c, j]
                for e in range(c):
                    if products[c, e] != 0.0:
                        mixed = to_kappa[c, i] * to_kappa[e, j] + to_kappa[e, i] * to_kappa[c, j]
                        value -= products[c, e] * sign[c] * sign[e] * mixed
            matrix[i, j] = value
            matrix[j, i] = value


@jit
def _inverse(matrix, shift, prior, result):
    """Inverse of matrix + shift diag(prior); False where that is not positive definite."""
    d = matrix.shape[0]
    factor = matrix.copy()
    for i in range(d):
        factor[i, i] += shift * prior[i, i]
    if not cholesky(factor):
        return False
    unit = np.empty(d)
    for i in range(d):
        for j in range(d):
            unit[j] = 1.0 if i == j else 0.0
        cholesky_solve(factor, unit)
        copy_vector(result[i], unit)
    return True


@jit_apart(returns="none")
def sign_products(prior, to_kappa, weight, sign, products):
    """Fill the symmetric products (C, C) >= 0 so that the form with them is positive semidefinite, if that is found.

    Analytic centres of {products >= 0, form + shift >= 0} as the shift falls, by Newton's method.
    """
    d, n_classes = prior.shape[0], to_kappa.shape[0]
    n = n_classes * (n_classes - 1) // 2
    trial = np.zeros((n_classes, n_classes))
    matrix = np.empty((d, d))
    inverse = np.empty((d, d))
    products[:] = 0.0
    none = products.copy()
    _form(prior, to_kappa, weight, none, sign, matrix)
    shift = 1e-12
    while not _inverse(matrix, shift, prior, inverse):
        shift *= 4.0
        if shift > 1e9:
            return
    if shift == 1e-12:
        return
    shift *= 2.0
    scale = 1e-300
    for i in range(d):
        scale = max(scale, prior[i, i])
    value = np.full(n, 1e-3 * scale)
    gradient = np.empty(n)
    hess = np.empty((n, n))
    overlap = np.empty((n_classes, n_classes))
    while True:
        inside = False
        for _ in range(60):
            k = 0
            for c in range(n_classes):
                for e in range(c):
                    trial[c, e] = trial[e, c] = value[k]
                    k += 1
            _form(prior, to_kappa, weight, trial, sign, matrix)
            if not _inverse(matrix, shift, prior, inverse):
                if inside:
                    break
                for k in range(n):  # the start: smaller products are inside
                    value[k] *= 0.1
                if np.max(value) < 1e-30 * scale:
                    return
                continue
            inside = True
            for c in range(n_classes):
                for e in range(n_classes):
                    overlap[c, e] = 0.0
                    for i in range(d):
                        for j in range(d):
                            overlap[c, e] += to_kappa[c, i] * inverse[i, j] * to_kappa[e, j]
                    overlap[c, e] *= sign[c] * sign[e]
            k = 0
            for c in range(n_classes):
                for e in range(c):
                    gradient[k] = 1.0 / value[k] - 2.0 * overlap[c, e]
                    j = 0
                    for a in range(n_classes):
                        for b in range(a):
                            hess[k, j] = 2.0 * (overlap[c, a] * overlap[e, b] + overlap[c, b] * overlap[e, a])
                            j += 1
                    hess[k, k] += 1.0 / value[k] ** 2
                    k += 1
            if not cholesky(hess):
                break
            step = gradient.copy()
            cholesky_solve(hess, step)
            decrement = np.sqrt(max(np.sum(step * gradient), 0.0))
            length = 1.0 if decrement < 0.25 else 1.0 / (1.0 + decrement)
            for k in range(n):
                value[k] += length * step[k]
            if decrement < 0.1:
                break
        if not inside:
            return
        copy_matrix(products, trial)
        if shift <= 1e-12:
            return
        fraction = 0.1
        _form(prior, to_kappa, weight, products, sign, matrix)
        while not _inverse(matrix, max(fraction * shift, 1e-12), prior, inverse):
            fraction = 0.5 * (1.0 + fraction)
            if fraction > 0.995:
                return
        shift = max(0.5 * (1.0 + fraction) * shift if fraction > 0.1 else 0.1 * shift, 1e-12)


@jit_apart(returns="float64")
def relaxed_bound(
    table, bounds, p, to_kappa, prior, lines, low_x, high_x, low_k, high_k, target, products, ready, gap, matrix,
    inverse,
):  # fmt: skip
    """Upper bound of h(x) = -x^T prior x / 2 + sum_c p_c G(kappa_c) over a box; inf where no majorant is concave.

    Where the bound is above `target` the box is cut (in place) to what may lie above it: a side with multiplier mu
    gains mu for a unit of width. gap (C,) is filled with about the most by which each class's majorant is off.
    products (2^C, C, C) and ready (2^C,) keep what `sign_products` has found, empty where that is not wanted; `matrix`
    and `inverse` (d, d) are scratch.
    """
    d, n_classes = low_x.shape[0], p.shape[0]
    weight = np.empty(n_classes)  # p_c lambda_c
    slope = np.empty(n_classes)
    sign = np.empty(n_classes)
    anchor = np.empty(n_classes)
    none = np.zeros((n_classes, n_classes))
    constant = 0.0
    for c in range(n_classes):
        low, high = low_k[c], high_k[c]
        width = high - low
        sign[c] = 1.0 if high > -low else -1.0
        anchor[c] = low if sign[c] > 0.0 else high
        growth = table.growth_plus if sign[c] > 0.0 else table.growth_minus
        line = lines[1] if sign[c] > 0.0 else lines[0]
        first = interval_index(table, low)
        last = interval_index(table, high)
        _, _, rest_low = psi_and_mean(table, low, lines)
        _, _, rest_high = psi_and_mean(table, high, lines)
        inside = max(-low, high) <= table.kappa_max and width <= _FAR
        off = np.inf
        least = 0.0
        if inside:
            least, most = curvature_range(table, bounds, low, high, cumulant2(table, 0.5 * (low + high))[2])
            least = min(max(least, 0.0), growth)
            off = 0.125 * width * width * max(most - least, 0.0)
        if low >= 0.0 or high <= 0.0:
            top = max(range_maximum(bounds.remainder, first, last), max(rest_low - line * low, rest_high - line * high))
            spread = top - min(rest_low - line * low, rest_high - line * high)
            if spread < off:
                gap[c] = spread
                weight[c] = p[c] * growth
                slope[c] = line
                constant += p[c] * top
                continue
        if not inside:
            return np.inf
        gap[c] = off
        weight[c] = p[c] * least
        # The chord of G - least kappa^2 / 2, from R without the cancellation of a growth.
        growth_low = table.growth_plus if low > 0.0 else table.growth_minus
        growth_high = table.growth_plus if high > 0.0 else table.growth_minus
        value_low = rest_low + 0.5 * (growth_low - least) * low * low
        value_high = rest_high + 0.5 * (growth_high - least) * high * high
        slope[c] = (value_high - value_low) / width if width > 1e-12 * (1.0 + abs(low)) else 0.0
        constant += p[c] * max(value_low - slope[c] * low, value_high - slope[c] * high)
    size = 1e-300
    for i in range(d):
        size += prior[i, i] * max(low_x[i] * low_x[i], high_x[i] * high_x[i])
    # A form that is semidefinite is shifted, which is charged.
    shift = min(max(2e-3 * max(abs(target), 1e-3) / size, 1e-13), 1e-9)
    used = none
    _form(prior, to_kappa, weight, none, sign, matrix)
    if not _inverse(matrix, 0.5 * shift, prior, inverse):
        if ready.shape[0] == 0:
            return np.inf
        pattern = 0
        for c in range(n_classes):
            pattern = 2 * pattern + (1 if sign[c] > 0.0 else 0)
        if not ready[pattern]:
            ready[pattern] = True
            most = np.empty(n_classes)
            for c in range(n_classes):
                most[c] = p[c] * (table.growth_plus if sign[c] > 0.0 else table.growth_minus)
            sign_products(prior, to_kappa, most, sign, products[pattern])
        used = products[pattern]
        _form(prior, to_kappa, weight, used, sign, matrix)
        if not _inverse(matrix, 0.5 * shift, prior, inverse):
            return np.inf
    for i in range(d):
        matrix[i, i] += shift * prior[i, i]
    constant += 0.5 * shift * size
    _inverse(matrix, 0.0, prior, inverse)
    linear = np.zeros(d)
    for c in range(n_classes):
        pull = p[c] * slope[c]
        for e in range(n_classes):
            # products sign sign (kappa_c - anchor_c)(kappa_e - anchor_e), each pair twice with half the weight
            share = used[c, e] * sign[c] * sign[e]
            if share != 0.0:
                pull -= share * anchor[e]
                constant += 0.5 * share * anchor[c] * anchor[e]
                gap[c] += 0.5 * abs(share) * (high_k[c] - low_k[c]) * (high_k[e] - low_k[e]) / p[c]
        for i in range(d):
            linear[i] += pull * to_kappa[c, i]
    multiplier = np.zeros(d)
    x = np.zeros(d)
    for i in range(d):
        for j in range(d):
            x[i] += inverse[i, j] * linear[j]
    value = np.inf
    for _ in range(_SWEEPS):
        change = 0.0
        for i in range(d):
            free = x[i] + inverse[i, i] * multiplier[i]
            new = 0.0
            if free > high_x[i]:
                new = (free - high_x[i]) / inverse[i, i]
            elif free < low_x[i]:
                new = (free - low_x[i]) / inverse[i, i]
            step = new - multiplier[i]
            if step != 0.0:
                change = max(change, abs(step) * (high_x[i] - low_x[i]))
                multiplier[i] = new
                for j in range(d):
                    x[j] -= inverse[j, i] * step
        value = constant + _dual_value(matrix, 0.5 * shift, prior, linear, multiplier, x, low_x, high_x)
        value += 1e-15 * abs(constant)
        if value <= target:
            return value
        if change <= 1e-3 * (value - target):
            break
    for i in range(d):
        if multiplier[i] != 0.0:
            reach = (value - target) / abs(multiplier[i]) * (1.0 + 1e-9)
            if multiplier[i] > 0.0:
                low_x[i] = max(low_x[i], high_x[i] - reach)
            else:
                high_x[i] = min(high_x[i], low_x[i] + reach)
    return value


@jit
def _dual_value(matrix, floor, prior, linear, multiplier, x, low_x, high_x):
    """Bound of linear.x - x^T matrix x / 2 over the box at these multipliers, x about their maximiser, with rounding.

    With v = linear - multiplier and r = v - matrix x,
        v^T matrix^-1 v / 2 = v.x - x^T matrix x / 2 + r^T matrix^-1 r / 2,
    and matrix is at least `floor` times the diagonal of the prior.
    """
    value = 0.0
    size = 0.0
    for i in range(x.shape[0]):
        v = linear[i] - multiplier[i]
        along = 0.0
        for j in range(x.shape[0]):
            along += matrix[i, j] * x[j]
        rest = v - along
        side = multiplier[i] * (high_x[i] if multiplier[i] > 0.0 else low_x[i])
        value += x[i] * (v - 0.5 * along) + 0.5 * rest * rest / (floor * prior[i, i]) + side
        size += abs(x[i]) * (abs(v) + abs(along)) + abs(side)
    return value + 1e-15 * size
