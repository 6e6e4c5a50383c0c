"""Bounds on h(a; t) over boxes of kappa or of readouts (sigma_a = 1): what branch and bound is made of.

With psi(kappa) = G - kappa G' / 2 (h at stationary points) and R = G - growth kappa^2 / 2 (h everywhere), bounds come
from range maxima over the intervals of the table, from second-order expansions, and from the growth of G at infinity.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meanfield.numerics.copies import copy_matrix
from meanfield.numerics.cumulant_table import cumulant2, interval_index
from meanfield.numerics.jit import jit, jit_apart
from meanfield.numerics.linalg import cholesky, cholesky_solve
from meanfield.theories.single_layer.compiled.tails import asymptotic_lines

__all__ = [
    "BARREN",
    "CONTRACTED",
    "HEIGHT_ROUNDING",
    "Bounds",
    "confined_radius",
    "curvature_over",
    "curvature_range",
    "growth_bound",
    "interval_bounds",
    "psi_and_mean",
    "range_maximum",
    "remainder_maximum",
    "second_order",
]


HEIGHT_ROUNDING = 1e-15  # of h, in units of |a|^2
# What an expansion says of a box: nothing; that nothing is above the target; a smaller box.
OPEN, BARREN, CONTRACTED = range(3)


class Bounds(NamedTuple):
    """Range maxima over table intervals: level l, entry i covers intervals i .. i + 2^l - 1."""

    psi: np.ndarray  # max of psi
    bend: np.ndarray  # max of |kappa G'''|
    curvature: np.ndarray  # max of G''
    flatness: np.ndarray  # max of -G''
    steepness: np.ndarray  # max of |G'''|
    remainder: np.ndarray  # max of R = G - growth kappa^2 / 2, less its asymptotic line


@jit
def interval_bounds(table, infimum, supremum):
    """Range maxima of psi, |kappa G'''|, +-G'', |G'''| and R for `global_bound`.

    Those of third derivatives are sums of the sizes of the coefficients of their polynomials, the others come from
    samples with a second-order margin.
    """
    n = table.centre.shape[0]
    levels = 1
    while (1 << levels) <= n:
        levels += 1
    psi = np.full((levels, n), -np.inf)
    bend = np.zeros((levels, n))
    curvature = np.full((levels, n), -np.inf)
    flatness = np.full((levels, n), -np.inf)
    steepness = np.zeros((levels, n))
    remainder = np.full((levels, n), -np.inf)
    samples = 16
    rest = np.empty((samples + 1, 2))  # R less its line, and the slope of that
    lines = asymptotic_lines(table, infimum, supremum)
    degree = table.coefficients.shape[2]
    for i in range(n):
        half = 1.0 / table.inverse[i]
        for j in range(samples + 1):
            u = -1.0 + 2.0 * j / samples
            kappa = table.centre[i] + half * u
            # The interval's own polynomials, also at the edges.
            value = np.zeros(3)
            for k in range(degree - 1, -1, -1):
                value[2] = value[2] * u + table.coefficients[i, 2, k]
                value[1] = value[1] * u + table.coefficients[i, 1, k]
                value[0] = value[0] * u + table.coefficients[i, 0, k]
            value[0] += table.line[i] * kappa
            value[1] += table.line[i]
            growth = table.growth_plus if table.centre[i] > 0.0 else table.growth_minus
            psi[0, i] = max(psi[0, i], value[0] - 0.5 * kappa * value[1])
            line = lines[1] if table.centre[i] > 0.0 else lines[0]
            rest[j, 0] = value[0] - line * kappa
            rest[j, 1] = value[1] - line
            curvature[0, i] = max(curvature[0, i], value[2] + growth)
            flatness[0, i] = max(flatness[0, i], -value[2] - growth)
        spacing = 2.0 * half / samples
        before = 0.0
        for k in range(1, degree + 1):
            third = k * table.coefficients[i, 2, k] * table.inverse[i] if k < degree else 0.0  # of u^(k - 1)
            steepness[0, i] += abs(third)
            bend[0, i] += abs(table.centre[i] * third + half * before)
            before = third
        psi[0, i] += 0.0625 * spacing * spacing * bend[0, i]
        curvature[0, i] += 0.5 * spacing * steepness[0, i]
        flatness[0, i] += 0.5 * spacing * steepness[0, i]
        growth = table.growth_plus if table.centre[i] > 0.0 else table.growth_minus
        # Between two samples R lies below its chord and a bow, and below a parabola on the tangent at either: where R
        # is concave and highest at a sample, as at 0, that is no more than the sample.
        bow = 0.125 * spacing * spacing * max(flatness[0, i] + growth, 0.0)
        bend_up = 0.5 * spacing * spacing * max(curvature[0, i] - growth, 0.0)
        for j in range(samples):
            left, right = rest[j, 0], rest[j + 1, 0]
            top = max(left, right) + bow
            top = min(top, max(left, left + rest[j, 1] * spacing) + bend_up)
            top = min(top, max(right, right - rest[j + 1, 1] * spacing) + bend_up)
            remainder[0, i] = max(remainder[0, i], top)
        # Far out R hardly moves, and its polynomial knows that better than derivatives do.
        tilt = table.line[i] - (lines[1] if table.centre[i] > 0.0 else lines[0])
        level = table.coefficients[i, 0, 0] + tilt * table.centre[i]
        level += abs(table.coefficients[i, 0, 1] + tilt * half)
        for k in range(2, degree):
            level += abs(table.coefficients[i, 0, k])
        remainder[0, i] = min(remainder[0, i], level + 1e-15)
    for level in range(1, levels):
        reach = 1 << (level - 1)
        for i in range(n - 2 * reach + 1):
            psi[level, i] = max(psi[level - 1, i], psi[level - 1, i + reach])
            bend[level, i] = max(bend[level - 1, i], bend[level - 1, i + reach])
            curvature[level, i] = max(curvature[level - 1, i], curvature[level - 1, i + reach])
            flatness[level, i] = max(flatness[level - 1, i], flatness[level - 1, i + reach])
            steepness[level, i] = max(steepness[level - 1, i], steepness[level - 1, i + reach])
            remainder[level, i] = max(remainder[level - 1, i], remainder[level - 1, i + reach])
    return Bounds(psi, bend, curvature, flatness, steepness, remainder)


@jit
def psi_and_mean(table, kappa, lines):
    """psi(kappa), G'(kappa) and R(kappa) without the cancellation of a quadratic growth.

    Beyond the table R is continued with its slope at infinity, `lines` (at -inf and +inf).
    """
    reach = min(max(kappa, -table.kappa_max), table.kappa_max)
    i = interval_index(table, reach)
    u = (reach - table.centre[i]) * table.inverse[i]
    w = u * u
    r0 = r1 = o0 = o1 = 0.0
    # Read in place, even and odd powers apart: as in `cumulant2`.
    for j in range(table.coefficients.shape[2] - 2, -1, -2):
        r0 = r0 * w + table.coefficients[i, 0, j]
        o0 = o0 * w + table.coefficients[i, 0, j + 1]
        r1 = r1 * w + table.coefficients[i, 1, j]
        o1 = o1 * w + table.coefficients[i, 1, j + 1]
    r0 += u * o0
    r1 += u * o1
    growth = table.growth_plus if kappa > 0.0 else table.growth_minus
    # R = r0 + line * kappa: the line halves in psi.
    psi = r0 + 0.5 * table.line[i] * reach - 0.5 * reach * r1
    r0 += table.line[i] * reach
    r1 += table.line[i]
    if reach != kappa:
        slope = lines[1] if kappa > 0.0 else lines[0]
        psi += 0.5 * slope * (kappa - reach)
        r0 += slope * (kappa - reach)
    return psi, r1 + growth * kappa, r0


@jit
def range_maximum(levels, first, last):
    level = 0
    while (2 << level) <= last - first + 1:
        level += 1
    return max(levels[level, first], levels[level, last - (1 << level) + 1])


@jit
def remainder_maximum(table, bounds, low, high, rest_low, rest_high):
    """Largest R less its line on an interval, which is `rest_low` and `rest_high` at its ends.

    On one side of 0 it lies below its chord and a bow, which is better than the intervals of the table where those are
    wider.
    """
    first = interval_index(table, low)
    last = interval_index(table, high)
    ends = max(rest_low, rest_high)
    top = max(range_maximum(bounds.remainder, first, last), ends)
    if low >= 0.0 or high <= 0.0:
        growth = table.growth_plus if low >= 0.0 else table.growth_minus
        bow = 0.125 * (high - low) ** 2 * max(range_maximum(bounds.flatness, first, last) + growth, 0.0)
        top = min(top, ends + bow + 1e-15 * (1.0 + abs(ends)))
    return top


@jit
def curvature_range(table, bounds, low, high, place, second):
    """Range of G'' on an interval, from that of the table's intervals and from `second` = G'' at `place` inside."""
    first = interval_index(table, low)
    last = interval_index(table, high)
    least = -range_maximum(bounds.flatness, first, last)
    most = range_maximum(bounds.curvature, first, last)
    if low >= -table.kappa_max and high <= table.kappa_max:
        change = range_maximum(bounds.steepness, first, last) * max(high - place, place - low) + 1e-13
        least = max(least, second - change)
        most = min(most, second + change)
    if low < -table.kappa_max:  # G'' tends to the growth
        least, most = min(least, table.growth_minus), max(most, table.growth_minus)
    if high > table.kappa_max:
        least, most = min(least, table.growth_plus), max(most, table.growth_plus)
    return least, most


@jit
def curvature_over(table, bounds, low, high):
    """`curvature_range` from G'' in the middle of the interval."""
    middle = 0.5 * (low + high)
    return curvature_range(table, bounds, low, high, middle, cumulant2(table, middle)[2])


@jit_apart(returns="int64")
def second_order(
    table, bounds, p, to_kappa, prior, rounding, errors, low_x, high_x, low_k, high_k, target, gradient, upper, middle,
    radius,
):  # fmt: skip
    """What an expansion at the centre of a box says: BARREN if h <= target on it or no stationary point is inside.

    With G'' in [gamma_-, gamma_+] per class, h(x) = -x^T prior x / 2 + sum_c p_c G(kappa_c) lies below its second-order
    expansion with gamma_+: over the box, and where that is concave also over all x. Its gradient lies within the
    mean-value form; multiplied by the inverse of the Hessian at the centre this contracts the box (in place) also along
    almost flat directions. CONTRACTED if that was worth it. `rounding`: relative error of to_kappa and prior, which are
    large where classes are nearly dependent; `errors`: of `tails`. Arrays from `gradient` on are scratch.
    """
    d, n_classes = low_x.shape[0], p.shape[0]
    for i in range(d):
        if high_x[i] - low_x[i] > 1e4:
            return OPEN
    value = 0.0
    error = 0.0
    margin = np.empty(d)
    for i in range(d):
        gradient[i] = 0.0
        margin[i] = 0.0
        for j in range(d):
            term = prior[i, j] * 0.5 * (low_x[j] + high_x[j])
            gradient[i] -= term
            margin[i] += abs(term)
            upper[i, j] = -prior[i, j]
            middle[i, j] = -prior[i, j]
            radius[i, j] = 0.0
        value += 0.25 * gradient[i] * (low_x[i] + high_x[i])
        error += 0.25 * margin[i] * abs(low_x[i] + high_x[i])
    declared = HEIGHT_ROUNDING * -2.0 * value  # of |a|^2
    for c in range(n_classes):
        kappa = 0.0
        size = 0.0
        for i in range(d):
            term = to_kappa[c, i] * 0.5 * (low_x[i] + high_x[i])
            kappa += term
            size += abs(term)
        g0, g1, g2 = cumulant2(table, kappa)
        value += p[c] * g0
        error += p[c] * abs(g1) * size
        beyond = 0.0
        if abs(kappa) > table.kappa_max:
            beyond = errors[1 if kappa > 0.0 else 0]
            if beyond == np.inf:
                return OPEN
            value += p[c] * beyond * (abs(kappa) - table.kappa_max)
        for i in range(d):
            margin[i] += p[c] * (abs(g1) + g2 * size + beyond / rounding) * abs(to_kappa[c, i])
        # With sides in other fields than those of the frame the centre need not be inside: the way from there counts.
        least, most = curvature_range(table, bounds, min(low_k[c], kappa), max(high_k[c], kappa), kappa, g2)
        top = p[c] * most
        half_gap = 0.5 * p[c] * (most - least)
        for i in range(d):
            gradient[i] += p[c] * g1 * to_kappa[c, i]
            for j in range(d):
                product = to_kappa[c, i] * to_kappa[c, j]
                upper[i, j] += top * product
                middle[i, j] += (top - half_gap) * product
                radius[i, j] += half_gap * abs(product)
    value += max(rounding * error - declared, 0.0)
    quadratic = 0.0
    slope = 0.0
    for i in range(d):
        margin[i] = 1e-12 + rounding * margin[i]
        reach = 0.0
        row = 0.0
        half_i = 0.5 * (high_x[i] - low_x[i])
        for j in range(d):
            half = 0.5 * (high_x[j] - low_x[j])
            reach += (abs(middle[i, j]) + radius[i, j]) * half
            row += upper[i, j] * half if i == j else abs(upper[i, j]) * half
        if abs(gradient[i]) > reach * (1.0 + 1e-12) + margin[i]:
            return BARREN
        slope += abs(gradient[i]) * half_i
        quadratic += 0.5 * half_i * max(row, 0.0)  # Gershgorin, scaled by the widths
    if value + slope + quadratic <= target:
        return BARREN
    # Concave expansion: its maximum over all x.
    inverse = np.empty((d, d))
    for i in range(d):
        for j in range(d):
            inverse[i, j] = -upper[i, j]
    if value <= target and cholesky(inverse):
        if value + slope <= target:
            return BARREN
        step = gradient.copy()
        cholesky_solve(inverse, step)
        gain = 0.0
        for i in range(d):
            gain += 0.5 * gradient[i] * step[i]
        if value + gain * (1.0 + 1e-9) <= target:
            return BARREN
    if not _invert(middle, inverse):
        return OPEN
    shrink = 1.0
    for i in range(d):
        centre = 0.5 * (low_x[i] + high_x[i])
        reach = 0.0
        size = abs(centre)
        for j in range(d):
            row = 0.0
            for k in range(d):
                row += radius[j, k] * 0.5 * (high_x[k] - low_x[k])
            reach += abs(inverse[i, j]) * (row + margin[j] + 1e-13 * abs(gradient[j]))
            centre -= inverse[i, j] * gradient[j]
            size += abs(inverse[i, j] * gradient[j])
        reach = reach * (1.0 + 1e-9) + 1e-12 * (1.0 + size)
        vector_low = centre - reach
        vector_high = centre + reach
        width = high_x[i] - low_x[i]
        # The new box is kept aside in columns that are no longer needed.
        upper[i, 0] = max(low_x[i], vector_low)
        middle[i, 0] = min(high_x[i], vector_high)
        if upper[i, 0] > middle[i, 0]:
            return BARREN
        if width > 0.0:
            shrink = min(shrink, (middle[i, 0] - upper[i, 0]) / width)
    if shrink > 0.7:
        return OPEN
    for i in range(d):
        low_x[i] = upper[i, 0]
        high_x[i] = middle[i, 0]
    return CONTRACTED


@jit
def _invert(matrix, inverse):
    """Inverse of a small matrix by elimination with partial pivoting; False where it is singular."""
    n = matrix.shape[0]
    work = matrix.copy()
    for i in range(n):
        for j in range(n):
            inverse[i, j] = 1.0 if i == j else 0.0
    for j in range(n):
        row = j
        for i in range(j + 1, n):
            if abs(work[i, j]) > abs(work[row, j]):
                row = i
        pivot = work[row, j]
        if not abs(pivot) > 1e-12:
            return False
        for k in range(n):
            if row != j:
                work[j, k], work[row, k] = work[row, k], work[j, k]
                inverse[j, k], inverse[row, k] = inverse[row, k], inverse[j, k]
            inverse[j, k] /= pivot
        for k in range(n):
            work[j, k] /= pivot
        for i in range(n):
            ratio = work[i, j]
            if i != j and ratio != 0.0:
                for k in range(n):
                    work[i, k] -= ratio * work[j, k]
                    inverse[i, k] -= ratio * inverse[j, k]
    return True


@jit_apart(returns="float64")
def confined_radius(table, p, t, confinement, infimum, supremum):
    """|a| beyond which h(a; t) < 0 = h(0; t), where prior and growth together confine: 1 - Q(t) = `confinement` > 0.

    R(kappa) <= r |kappa| with r = sup |R'|, so that h <= -confinement |a|^2 / 2 + r |a| sum_c p_c |t_c|. Where phi is
    unbounded but G does not grow quadratically, r is that of the table. Beyond the table R / kappa^2 falls where
    psi = R - kappa R' / 2 >= 0, which is looked at where it ends; then h / |a|^2 stays below what the bound gives at
    the largest ball inside the table. Infinite where nothing is known.
    """
    if not confinement > 1e-9:
        return np.inf
    lines = asymptotic_lines(table, infimum, supremum)
    largest = max(abs(lines[0]), abs(lines[1]))
    for i in range(table.centre.shape[0]):
        growth = table.growth_plus if table.centre[i] > 0.0 else table.growth_minus
        for j in range(9):
            # Inside the interval: at 0 the growth of the other side would be taken.
            kappa = table.centre[i] + 0.999 * (-1.0 + 0.25 * j) / table.inverse[i]
            largest = max(largest, abs(cumulant2(table, kappa)[1] - growth * kappa))
    total = 0.0
    longest = 0.0
    for c in range(t.shape[0]):
        norm = np.sqrt(np.sum(t[c] * t[c]))
        total += p[c] * norm
        longest = max(longest, norm)
    radius = 2.02 * largest * total / confinement
    for side in range(2):
        extreme = supremum if side == 1 else infimum
        growth = table.growth_plus if side == 1 else table.growth_minus
        edge = table.kappa_max if side == 1 else -table.kappa_max
        if growth > 0.0 or abs(extreme) < np.inf:
            continue
        if radius * longest > table.kappa_max or not psi_and_mean(table, edge, lines)[0] >= 0.0:
            return np.inf
    return radius


@jit_apart(returns="float64")
def growth_bound(table, p, to_kappa, prior, lines, low_x, high_x, low_k, high_k, matrix, vector):
    """Upper bound, over a box, of sum_c p_c (line kappa_c + growth kappa_c^2 / 2) - x^T prior x / 2.

    `lines` = asymptotic slopes of R at -inf and +inf. Where the form is positive semidefinite along the wide sides of
    the box (they reach towards infinity), these are maximised out; the rest is bounded by its tangent at the centre,
    and by its largest curvature where it is not concave. inf where nothing is known. `matrix` and `vector` are scratch.
    """
    d, n_classes = low_x.shape[0], p.shape[0]
    value = 0.0
    for i in range(d):
        vector[i] = 0.0
        for j in range(d):
            matrix[i, j] = prior[i, j]
    for c in range(n_classes):
        growth = 0.0
        line = 0.0
        if high_k[c] > 0.0:
            growth = table.growth_plus
            line = lines[1]
        if low_k[c] < 0.0:
            growth = max(growth, table.growth_minus)
            line = lines[0]
            if high_k[c] > 0.0:
                # Both signs: the steeper line would not bound the other side; take its largest value instead.
                line = 0.0
                value += p[c] * max(lines[0] * low_k[c], max(lines[1] * high_k[c], 0.0))
        for i in range(d):
            vector[i] += p[c] * line * to_kappa[c, i]
            for j in range(d):
                matrix[i, j] -= p[c] * growth * to_kappa[c, i] * to_kappa[c, j]
    wide = 8.0 / table.scale
    # Eliminate the wide sides, then check on a copy whether what is left is positive semidefinite.
    rest = matrix.copy()
    concave = True
    for stage in range(2):
        work = matrix if stage == 0 else rest
        for i in range(d):
            if (stage == 0) != (high_x[i] - low_x[i] > wide):
                continue
            if not concave:
                break
            pivot = work[i, i]
            if pivot <= 1e-9 * prior[i, i]:
                if stage == 1:
                    concave = False
                    break
                if pivot < -1e-9 * prior[i, i] or abs(vector[i]) > 1e-12:
                    return np.inf
                for j in range(d):
                    if j != i and abs(work[i, j]) > 1e-6 * prior[i, i]:
                        return np.inf
                continue
            if stage == 0:
                value += 0.5 * vector[i] * vector[i] / pivot
            for j in range(d):
                if j == i:
                    continue
                ratio = work[i, j] / pivot
                if stage == 0:
                    vector[j] -= ratio * vector[i]
                for k in range(d):
                    if k != i:
                        work[j, k] -= ratio * work[i, k]
            for j in range(d):
                work[i, j] = 0.0
                work[j, i] = 0.0
        if stage == 0:
            copy_matrix(rest, matrix)
    for i in range(d):
        if high_x[i] - low_x[i] > wide:
            continue
        slope = 0.0
        row = 0.0
        for j in range(d):
            if high_x[j] - low_x[j] <= wide:
                slope += matrix[i, j] * 0.5 * (low_x[j] + high_x[j])
                row += (-matrix[i, i] if i == j else abs(matrix[i, j])) * 0.5 * (high_x[j] - low_x[j])
        half = 0.5 * (high_x[i] - low_x[i])
        centre = 0.5 * (low_x[i] + high_x[i])
        value += centre * (vector[i] - 0.5 * slope) + half * abs(vector[i] - slope)
        if not concave:
            value += 0.5 * half * max(row, 0.0)
    return value
