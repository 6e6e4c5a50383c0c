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
from meanfield.numerics.jit import jit, jit_apart
from meanfield.numerics.linalg import cholesky, cholesky_solve
from meanfield.theories.single_layer.compiled.bounds import curvature_over, psi_and_mean, remainder_maximum

__all__ = ["PRODUCT_CLASSES", "relaxed_bound", "sign_products"]

PRODUCT_CLASSES = 12  # up to so many classes products are added: 2^C patterns of signs
_SWEEPS, _COORDINATES = 24, 4  # of coordinate descent; after so many, sides that are met are solved for together
_FAR = 1e6  # a wider interval has no chord
_RIM = 1e3  # beyond which a side may reach along a direction of an outlier
_STIFFEST = 1e6  # curvature of a majorant in units of 1 / kappa^2, for rounding


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


@jit
def _majorant(table, bounds, p, lines, low_k, high_k, frozen, weight, slope, gap, sign, anchor):
    """Majorants of p_c G(kappa_c): fills weight = p_c lambda_c, slope and gap; returns the sum of constants.

    With frozen > 0 narrow classes are given a lambda so far below G'' that their majorants are off by `frozen`.
    """
    constant = 0.0
    for c in range(p.shape[0]):
        low, high = low_k[c], high_k[c]
        width = high - low
        sign[c] = 1.0 if high > -low else -1.0
        anchor[c] = low if sign[c] > 0.0 else high
        growth = table.growth_plus if sign[c] > 0.0 else table.growth_minus
        line = lines[1] if sign[c] > 0.0 else lines[0]
        _, _, rest_low = psi_and_mean(table, low, lines)
        _, _, rest_high = psi_and_mean(table, high, lines)
        inside = max(-low, high) <= table.kappa_max and width <= _FAR
        off = np.inf
        least = 0.0
        if inside:
            least, most = curvature_over(table, bounds, low, high)
            least = min(max(least, 0.0), growth)
            off = 0.125 * width * width * max(most - least, 0.0)
            if frozen > 0.0 and p[c] * off < frozen:
                reach = max(-low, high)
                lower = most - 8.0 * frozen / (p[c] * max(width * width, 1e-300))
                least = min(least, max(lower, -_STIFFEST / (1.0 + reach * reach)))
                off = 0.0
        if low >= 0.0 or high <= 0.0:
            end_low, end_high = rest_low - line * low, rest_high - line * high
            top = remainder_maximum(table, bounds, low, high, end_low, end_high)
            spread = top - min(end_low, end_high)
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
    return constant


@jit
def _without_rims(p, prior, to_kappa, slope, high_x, low_x, matrix, free):
    """Take sides along which the form vanishes far out from it: marks them in `free`, and puts the prior there."""
    d = prior.shape[0]
    for i in range(d):
        free[i] = False
        if not max(high_x[i], -low_x[i]) > _RIM or abs(matrix[i, i]) > 1e-12 * prior[i, i]:
            continue
        pull = 0.0
        for c in range(p.shape[0]):
            pull += abs(p[c] * slope[c] * to_kappa[c, i])
        flat = pull <= 1e-12
        for j in range(d):
            flat = flat and (j == i or abs(matrix[i, j]) <= 1e-9 * np.sqrt(prior[i, i] * prior[j, j]))
        if not flat:
            continue
        free[i] = True
        for j in range(d):
            matrix[i, j] = 0.0
            matrix[j, i] = 0.0
        matrix[i, i] = prior[i, i]


@jit
def _solve_sides(along, to_kappa, low_x, high_x, low_k, high_k, multiplier, x):
    """Multipliers and x (in place) such that all sides with a multiplier are met, or the first of them is given up.

    Coordinate descent crawls where the form is nearly flat: far out, along rays of outliers.
    """
    d = x.shape[0]
    sides = multiplier.shape[0]
    met = np.empty(sides, np.int64)
    n = 0
    for k in range(sides):
        if multiplier[k] != 0.0 and n < d:
            met[n] = k
            n += 1
    for _ in range(d):
        if n == 0:
            return
        matrix = np.empty((n, n))
        step = np.empty(n)
        for i in range(n):
            k = met[i]
            place = 0.0
            for j in range(d):
                place += (1.0 if j == k else 0.0) * x[j] if k < d else to_kappa[k - d, j] * x[j]
            if k < d:
                step[i] = place - (high_x[k] if multiplier[k] > 0.0 else low_x[k])
            else:
                step[i] = place - (high_k[k - d] if multiplier[k] > 0.0 else low_k[k - d])
            for q in range(n):
                matrix[i, q] = 0.0
                for j in range(d):
                    matrix[i, q] += (
                        (1.0 if j == k else 0.0) * along[met[q], j]
                        if k < d
                        else (to_kappa[k - d, j] * along[met[q], j])
                    )
        if not cholesky(matrix):
            return
        cholesky_solve(matrix, step)
        length, last = 1.0, -1
        for i in range(n):
            k = met[i]
            if (multiplier[k] + step[i]) * multiplier[k] < 0.0 and -multiplier[k] / step[i] < length:
                length, last = -multiplier[k] / step[i], i
        for i in range(n):
            multiplier[met[i]] += length * step[i]
            for j in range(d):
                x[j] -= length * step[i] * along[met[i], j]
        if last < 0:
            return
        multiplier[met[last]] = 0.0
        n -= 1
        for i in range(last, n):
            met[i] = met[i + 1]


@jit_apart(returns="float64")
def relaxed_bound(
    table, bounds, p, to_kappa, prior, lines, low_x, high_x, low_k, high_k, slabs, from_zero, target, products, ready,
    gap, matrix, inverse,
):  # fmt: skip
    """Upper bound of h(x) = -x^T prior x / 2 + sum_c p_c G(kappa_c) over a box; inf where no majorant is concave.

    slabs: the box has sides in kappa, low_k and high_k, that those in x do not imply. from_zero: products are those
    of distances from zero instead of the nearer end, where signs are fixed: for boxes as wide as they are far.
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
    free = np.zeros(d, np.bool_)
    size = 1e-300
    shift = 0.0
    constant = 0.0
    concave = False
    for stage in range(2):
        frozen = 0.01 * max(abs(target), 1e-3) if stage == 1 else 0.0
        constant = _majorant(table, bounds, p, lines, low_k, high_k, frozen, weight, slope, gap, sign, anchor)
        if constant == np.inf:
            return np.inf
        _form(prior, to_kappa, weight, none, sign, matrix)
        _without_rims(p, prior, to_kappa, slope, high_x, low_x, matrix, free)
        size = 1e-300
        for i in range(d):
            if not free[i]:
                size += prior[i, i] * max(low_x[i] * low_x[i], high_x[i] * high_x[i])
        # A form that is semidefinite is shifted, which is charged.
        shift = min(max(2e-3 * max(abs(target), 1e-3) / size, 1e-13), 1e-9)
        concave = _inverse(matrix, 0.5 * shift, prior, inverse)
        if concave:
            break
    used = none
    if not concave:
        if ready.shape[0] == 0:
            return np.inf
        constant = _majorant(table, bounds, p, lines, low_k, high_k, 0.0, weight, slope, gap, sign, anchor)
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
        free[:] = False
        if not _inverse(matrix, 0.5 * shift, prior, inverse):
            return np.inf
        if from_zero:
            for c in range(n_classes):
                if low_k[c] >= 0.0 or high_k[c] <= 0.0:
                    anchor[c] = 0.0
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
                if anchor[c] != 0.0 and anchor[e] != 0.0:
                    gap[c] += 0.5 * abs(share) * (high_k[c] - low_k[c]) * (high_k[e] - low_k[e]) / p[c]
        for i in range(d):
            linear[i] += pull * to_kappa[c, i]
    # Sides of x, then those of kappa where they are not the same.
    sides = d + (n_classes if slabs else 0)
    multiplier = np.zeros(sides)
    x = np.zeros(d)
    along = np.empty((sides, d))  # inverse times the normal of a side
    stiff = np.empty(sides)
    blind = np.zeros(sides, np.bool_)
    for k in range(sides):
        stiff[k] = 0.0
        for i in range(d):
            along[k, i] = inverse[i, k] if k < d else 0.0
            if k >= d:
                for j in range(d):
                    along[k, i] += inverse[i, j] * to_kappa[k - d, j]
                stiff[k] += along[k, i] * to_kappa[k - d, i]
        if k < d:
            stiff[k] = inverse[k, k]
        for i in range(d):  # what is free has no sides
            blind[k] = blind[k] or (free[i] and (i == k if k < d else abs(to_kappa[k - d, i]) > 0.0))
    for i in range(d):
        for j in range(d):
            x[i] += inverse[i, j] * linear[j]
    value = np.inf
    for sweep in range(_SWEEPS):
        change = 0.0
        if sweep >= _COORDINATES:
            _solve_sides(along, to_kappa, low_x, high_x, low_k, high_k, multiplier, x)
        for k in range(sides):
            if not stiff[k] > 0.0 or blind[k]:
                continue
            place = 0.0
            if k < d:
                place = x[k]
            else:
                for i in range(d):
                    place += to_kappa[k - d, i] * x[i]
            low = low_x[k] if k < d else low_k[k - d]
            high = high_x[k] if k < d else high_k[k - d]
            free = place + stiff[k] * multiplier[k]
            new = 0.0
            if free > high:
                new = (free - high) / stiff[k]
            elif free < low:
                new = (free - low) / stiff[k]
            step = new - multiplier[k]
            if step != 0.0:
                change = max(change, abs(step) * (high - low))
                multiplier[k] = new
                for j in range(d):
                    x[j] -= along[k, j] * step
        value = constant + _dual_value(
            matrix, 0.5 * shift, prior, linear, multiplier, x, to_kappa, low_x, high_x, low_k, high_k
        )
        value += 1e-15 * abs(constant)
        if value <= target:
            return value
        if sweep > _COORDINATES and change <= 1e-3 * (value - target):
            break
    for k in range(sides):
        if multiplier[k] != 0.0:
            reach = (value - target) / abs(multiplier[k]) * (1.0 + 1e-9)
            lows, highs = (low_x, high_x) if k < d else (low_k, high_k)
            i = k if k < d else k - d
            if multiplier[k] > 0.0:
                lows[i] = max(lows[i], highs[i] - reach)
            else:
                highs[i] = min(highs[i], lows[i] + reach)
    return value


@jit
def _dual_value(matrix, floor, prior, linear, multiplier, x, to_kappa, low_x, high_x, low_k, high_k):
    """Bound of linear.x - x^T matrix x / 2 over the box at these multipliers, x about their maximiser, with rounding.

    With v = linear less the multipliers times the normals of their sides and r = v - matrix x,
        v^T matrix^-1 v / 2 = v.x - x^T matrix x / 2 + r^T matrix^-1 r / 2,
    and matrix is at least `floor` times the diagonal of the prior.
    """
    d = x.shape[0]
    value = 0.0
    size = 0.0
    for i in range(d):
        v = linear[i] - multiplier[i]
        for k in range(d, multiplier.shape[0]):
            v -= multiplier[k] * to_kappa[k - d, i]
        along = 0.0
        for j in range(d):
            along += matrix[i, j] * x[j]
        rest = v - along
        side = multiplier[i] * (high_x[i] if multiplier[i] > 0.0 else low_x[i])
        value += x[i] * (v - 0.5 * along) + 0.5 * rest * rest / (floor * prior[i, i]) + side
        size += abs(x[i]) * (abs(v) + abs(along)) + abs(side)
    for k in range(d, multiplier.shape[0]):
        side = multiplier[k] * (high_k[k - d] if multiplier[k] > 0.0 else low_k[k - d])
        value += side
        size += abs(side)
    return value + 1e-15 * size
