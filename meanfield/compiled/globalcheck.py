"""Proof that no readout exceeds a level: branch and bound for max_a h(a; t) (sigma_a = 1).

Every maximiser is stationary, a = sum_c p_c q_c t_c with q_c = G'(kappa_c), and there h separates over classes,
    h = sum_c p_c psi(kappa_c),   psi(kappa) = G(kappa) - kappa G'(kappa) / 2,
in which a quadratic growth of G cancels, so boxes may reach to infinity. G' increases, so the stationarity equation
maps a box of kappa to a box: boxes shrink or vanish. Around a known maximum a box on which h is concave is done.
Where J is finite, growth terms and prior add up to something negative, so h <= sum_c p_c R(kappa_c) as well, with
R = G - growth kappa^2 / 2. For a supremum approached at infinity the equation holds along a sequence with
|a| |grad h| -> 0 (Ekeland), so the same bounds cover it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from meanfield.compiled import jit
from meanfield.compiled.cumulant import cumulant2, interval_index
from meanfield.compiled.linalg import cholesky

__all__ = ["Bounds", "asymptotic_lines", "exchangeable", "global_bound", "interval_bounds"]

_FAR = 1e9  # stands for infinity in kappa
_SLACK = 1e-12  # relative slack given to the tabulated G' when boxes are contracted
_MAX_STACK = 8192


class Bounds(NamedTuple):
    """Range maxima over table intervals: level l, entry i covers intervals i .. i + 2^l - 1."""

    psi: np.ndarray  # max of psi
    bend: np.ndarray  # max of |kappa G'''|
    curvature: np.ndarray  # max of G''
    flatness: np.ndarray  # max of -G''
    remainder: np.ndarray  # max of R = G - growth kappa^2 / 2, less its asymptotic line


@jit
def asymptotic_lines(table, infimum, supremum):
    """Slopes of R at -inf and +inf: the extreme value of phi where G grows linearly, else 0 or an offset of phi."""
    lines = np.zeros(2)
    for side in range(2):
        growth = table.growth_plus if side == 1 else table.growth_minus
        extreme = supremum if side == 1 else infimum
        if growth == 0.0 and abs(extreme) < np.inf:
            lines[side] = extreme
        else:
            i = 2 * table.n_half - 1 if side == 1 else 0
            slope = table.line[i]
            u = 1.0 if side == 1 else -1.0
            for j in range(table.coefficients.shape[2]):
                slope += table.coefficients[i, 1, j] * u**j
            if abs(slope) > 1e-6:
                lines[side] = slope
    return lines


@jit
def interval_bounds(table, infimum, supremum):
    """Range maxima of psi, |kappa G'''|, +-G'' and R for `global_bound`, from samples with a second-order margin."""
    n = table.centre.shape[0]
    levels = 1
    while (1 << levels) <= n:
        levels += 1
    psi = np.full((levels, n), -np.inf)
    bend = np.zeros((levels, n))
    curvature = np.full((levels, n), -np.inf)
    flatness = np.full((levels, n), -np.inf)
    remainder = np.full((levels, n), -np.inf)
    samples = 16
    lines = asymptotic_lines(table, infimum, supremum)
    degree = table.coefficients.shape[2]
    for i in range(n):
        half = 1.0 / table.inverse[i]
        for j in range(samples + 1):
            u = -1.0 + 2.0 * j / samples
            kappa = table.centre[i] + half * u
            # The interval's own polynomials, also at the edges.
            value = np.zeros(4)
            for k in range(degree - 1, -1, -1):
                value[3] = value[3] * u + value[2]
                value[2] = value[2] * u + table.coefficients[i, 2, k]
                value[1] = value[1] * u + table.coefficients[i, 1, k]
                value[0] = value[0] * u + table.coefficients[i, 0, k]
            value[0] += table.line[i] * kappa
            value[1] += table.line[i]
            growth = table.growth_plus if table.centre[i] > 0.0 else table.growth_minus
            third = value[3] * table.inverse[i]
            psi[0, i] = max(psi[0, i], value[0] - 0.5 * kappa * value[1])
            line = lines[1] if table.centre[i] > 0.0 else lines[0]
            remainder[0, i] = max(remainder[0, i], value[0] - line * kappa)
            bend[0, i] = max(bend[0, i], abs(kappa * third))
            curvature[0, i] = max(curvature[0, i], value[2] + growth)
            flatness[0, i] = max(flatness[0, i], -value[2] - growth)
        spacing = 2.0 * half / samples
        bend[0, i] *= 1.1
        psi[0, i] += 0.0625 * spacing * spacing * bend[0, i]
        largest = bend[0, i] / max(abs(table.centre[i]) - half, 0.5 * half)
        curvature[0, i] += 0.5 * spacing * largest
        flatness[0, i] += 0.5 * spacing * largest
        growth = table.growth_plus if table.centre[i] > 0.0 else table.growth_minus
        remainder[0, i] += 0.125 * spacing * spacing * max(curvature[0, i] - growth, flatness[0, i] + growth)
    for level in range(1, levels):
        reach = 1 << (level - 1)
        for i in range(n - 2 * reach + 1):
            psi[level, i] = max(psi[level - 1, i], psi[level - 1, i + reach])
            bend[level, i] = max(bend[level - 1, i], bend[level - 1, i + reach])
            curvature[level, i] = max(curvature[level - 1, i], curvature[level - 1, i + reach])
            flatness[level, i] = max(flatness[level - 1, i], flatness[level - 1, i + reach])
            remainder[level, i] = max(remainder[level - 1, i], remainder[level - 1, i + reach])
    return Bounds(psi, bend, curvature, flatness, remainder)


@jit
def _psi_and_mean(table, kappa, lines):
    """psi(kappa), G'(kappa) and R(kappa) without the cancellation of a quadratic growth.

    Beyond the table R is continued with its slope at infinity, `lines` (at -inf and +inf).
    """
    reach = min(max(kappa, -table.kappa_max), table.kappa_max)
    i = interval_index(table, reach)
    u = (reach - table.centre[i]) * table.inverse[i]
    c = table.coefficients[i]
    n = c.shape[1]
    r0 = c[0, n - 1]
    r1 = c[1, n - 1]
    for j in range(n - 2, -1, -1):
        r0 = r0 * u + c[0, j]
        r1 = r1 * u + c[1, j]
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
def _range_maximum(levels, first, last):
    level = 0
    while (2 << level) <= last - first + 1:
        level += 1
    return max(levels[level, first], levels[level, last - (1 << level) + 1])


@jit
def exchangeable(p, t):
    """For each class the next one equivalent to it (equal p, and t t^T unchanged by swapping the two), or -1.

    h depends on t through t t^T alone, so swapping equivalent classes maps maxima onto maxima.
    """
    n_classes = p.shape[0]
    gram = t @ t.T
    tolerance = 1e-10 * (1e-300 + np.max(np.abs(gram)))
    follower = np.full(n_classes, -1)
    for c in range(n_classes):
        for d in range(c + 1, n_classes):
            same = abs(p[c] - p[d]) <= 1e-12 and abs(gram[c, c] - gram[d, d]) <= tolerance
            for e in range(n_classes):
                if e not in (c, d) and abs(gram[c, e] - gram[d, e]) > tolerance:
                    same = False
            if same:
                follower[c] = d
                break
    return follower


@jit
def _second_order(
    table, bounds, p, to_kappa, prior, low_x, high_x, low_k, high_k, target, gradient, upper, middle, radius
):
    """Whether an expansion at the centre of a box proves h <= target on it, or that it holds no stationary point.

    With G'' in [gamma_-, gamma_+] per class, h(x) = -x^T prior x / 2 + sum_c p_c G(kappa_c) lies below its second-order
    expansion with gamma_+, and its gradient lies within the mean-value form. Arrays from `gradient` on are scratch.
    """
    d, n_classes = low_x.shape[0], p.shape[0]
    for i in range(d):
        if high_x[i] - low_x[i] > 1e4:
            return False
    value = 0.0
    for i in range(d):
        gradient[i] = 0.0
        for j in range(d):
            gradient[i] -= prior[i, j] * 0.5 * (low_x[j] + high_x[j])
            upper[i, j] = -prior[i, j]
            middle[i, j] = -prior[i, j]
            radius[i, j] = 0.0
        value += 0.25 * gradient[i] * (low_x[i] + high_x[i])
    for c in range(n_classes):
        kappa = 0.0
        for i in range(d):
            kappa += to_kappa[c, i] * 0.5 * (low_x[i] + high_x[i])
        g0, g1, _ = cumulant2(table, kappa)
        value += p[c] * g0
        first = interval_index(table, low_k[c])
        last = interval_index(table, high_k[c])
        top = p[c] * _range_maximum(bounds.curvature, first, last)
        half_gap = 0.5 * (top + p[c] * _range_maximum(bounds.flatness, first, last))
        for i in range(d):
            gradient[i] += p[c] * g1 * to_kappa[c, i]
            for j in range(d):
                product = to_kappa[c, i] * to_kappa[c, j]
                upper[i, j] += top * product
                middle[i, j] += (top - half_gap) * product
                radius[i, j] += half_gap * abs(product)
    quadratic = 0.0
    for i in range(d):
        reach = 0.0
        row = 0.0
        half_i = 0.5 * (high_x[i] - low_x[i])
        for j in range(d):
            half = 0.5 * (high_x[j] - low_x[j])
            reach += (abs(middle[i, j]) + radius[i, j]) * half
            row += upper[i, j] * half if i == j else abs(upper[i, j]) * half
        if abs(gradient[i]) > reach * (1.0 + 1e-12) + 1e-12:
            return True
        value += abs(gradient[i]) * half_i
        quadratic += 0.5 * half_i * max(row, 0.0)  # Gershgorin, scaled by the widths
    if value > target:
        return False
    if value + quadratic <= target:
        return True
    for i in range(d):
        for j in range(d):
            middle[i, j] = -upper[i, j]
    return cholesky(middle)


@jit
def _growth_bound(table, p, to_kappa, prior, lines, low_x, high_x, low_k, high_k, matrix, vector):
    """Upper bound, over a box, of sum_c p_c (line kappa_c + growth kappa_c^2 / 2) - x^T prior x / 2.

    `lines` = asymptotic slopes of R at -inf and +inf. Where the form is positive semidefinite, the wide sides of the
    box (they reach towards infinity) are maximised out and the rest, concave, is bounded by its tangent at the centre;
    inf where nothing is known. `matrix` and `vector` are scratch.
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
    # Eliminate the wide sides, then check on a copy that what is left is positive semidefinite.
    rest = matrix.copy()
    for stage in range(2):
        work = matrix if stage == 0 else rest
        for i in range(d):
            if (stage == 0) != (high_x[i] - low_x[i] > wide):
                continue
            pivot = work[i, i]
            if pivot <= 1e-9 * prior[i, i]:
                if pivot < -1e-9 * prior[i, i] or (stage == 0 and abs(vector[i]) > 1e-12):
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
            rest[:] = matrix
    for i in range(d):
        if high_x[i] - low_x[i] > wide:
            continue
        slope = 0.0
        for j in range(d):
            if high_x[j] - low_x[j] <= wide:
                slope += matrix[i, j] * 0.5 * (low_x[j] + high_x[j])
        centre = 0.5 * (low_x[i] + high_x[i])
        value += centre * (vector[i] - 0.5 * slope) + 0.5 * (high_x[i] - low_x[i]) * abs(vector[i] - slope)
    return value


@jit
def global_bound(table, bounds, p, t, level, known, infimum, supremum, tolerance, max_boxes):
    """Try to prove h(a; t) <= level + tolerance for all a; `known` (n, m) are maxima with h <= level.

    infimum, supremum: range of phi (may be infinite). Returns (proved, excess, boxes): `excess` is the largest
    proven bound minus level, or that of the box that could not be decided.
    """
    n_classes, m = t.shape
    _, singular, right = np.linalg.svd(t, full_matrices=False)
    over_kappa = n_classes <= m and singular[n_classes - 1] > 1e-3 * singular[0]
    if over_kappa:
        # Branch over kappa itself: |a|^2 = kappa^T (t t^T)^-1 kappa.
        d = n_classes
        to_kappa = np.eye(n_classes)
        from_activation = t @ t.T
        prior = np.linalg.inv(from_activation)
    else:
        # Branch over the readout along the principal axes of t.
        d = 0
        for i in range(singular.shape[0]):
            if singular[i] > 1e-13 * singular[0]:
                d += 1
        if d == 0:
            return level >= -tolerance, max(-level, 0.0), 0
        axes = np.ascontiguousarray(right[:d].T)
        to_kappa = t @ axes
        from_activation = np.ascontiguousarray(to_kappa.T)
        prior = np.eye(d)
    for i in range(d):
        for c in range(n_classes):
            from_activation[i, c] *= p[c]
    known_x = np.empty((known.shape[0], n_classes))
    for k in range(known.shape[0]):
        for c in range(n_classes):
            known_x[k, c] = np.sum(known[k] * t[c])
    follower = exchangeable(p, t)
    lows = np.empty((_MAX_STACK, d))
    highs = np.empty((_MAX_STACK, d))
    for i in range(d):
        low = 0.0
        high = 0.0
        for c in range(n_classes):
            factor = from_activation[i, c]
            if factor > 0.0:
                low += factor * max(infimum, -_FAR)
                high += factor * min(supremum, _FAR)
            elif factor < 0.0:
                low += factor * min(supremum, _FAR)
                high += factor * max(infimum, -_FAR)
        lows[0, i] = max(low - 1e-9 * (1.0 + abs(low)), -_FAR)
        highs[0, i] = min(high + 1e-9 * (1.0 + abs(high)), _FAR)
    unbounded = table.growth_plus > 0.0 or table.growth_minus > 0.0
    lines = asymptotic_lines(table, infimum, supremum)
    straight = unbounded and lines[0] == 0.0 and lines[1] == 0.0
    stack = 1
    boxes = 0
    excess = -np.inf
    low_x = np.empty(d)
    high_x = np.empty(d)
    low_k = np.empty(n_classes)
    high_k = np.empty(n_classes)
    low_q = np.empty(n_classes)
    high_q = np.empty(n_classes)
    spread = np.empty(n_classes)
    hess = np.empty((m, m))
    gradient = np.empty(d)
    matrix = np.empty((d, d))
    middle_matrix = np.empty((d, d))
    radius = np.empty((d, d))
    while stack > 0:
        stack -= 1
        low_x[:] = lows[stack]
        high_x[:] = highs[stack]
        boxes += 1
        bound = np.inf
        empty = False
        done = False
        for _ in range(12):
            bound = 0.0
            second = 0.0
            for c in range(n_classes):
                if over_kappa:
                    low = low_x[c]
                    high = high_x[c]
                else:
                    low = 0.0
                    high = 0.0
                    for i in range(d):
                        factor = to_kappa[c, i]
                        low += factor * (low_x[i] if factor > 0.0 else high_x[i])
                        high += factor * (high_x[i] if factor > 0.0 else low_x[i])
                low_k[c] = low
                high_k[c] = high
                psi_low, low_q[c], r_low = _psi_and_mean(table, low, lines)
                psi_high, high_q[c], r_high = _psi_and_mean(table, high, lines)
                if low < -table.kappa_max and table.growth_minus == 0.0:
                    low_q[c] = max(infimum, -_FAR)
                if high > table.kappa_max and table.growth_plus == 0.0:
                    high_q[c] = min(supremum, _FAR)
                psi = max(psi_low, psi_high)
                first = interval_index(table, low)
                last = interval_index(table, high)
                width = high - low
                narrow = psi + 0.0625 * width * width * _range_maximum(bounds.bend, first, last)
                bound += p[c] * min(narrow, max(_range_maximum(bounds.psi, first, last), psi))
                if unbounded:
                    r_low -= (lines[0] if low < 0.0 else lines[1]) * low
                    r_high -= (lines[0] if high < 0.0 else lines[1]) * high
                    r_top = max(_range_maximum(bounds.remainder, first, last), max(r_low, r_high))
                    second += p[c] * r_top
                    spread[c] = min(r_top - min(r_low, r_high), (high_q[c] - low_q[c]) * width)
            if straight:
                bound = min(bound, second)
            if bound <= level + tolerance:
                done = True
                break
            # Of boxes that differ by an exchange of equivalent classes, look at the one with falling kappa.
            if over_kappa:
                for c in range(n_classes):
                    after = follower[c]
                    if after >= 0:
                        low_x[c] = max(low_x[c], low_x[after])
                        high_x[after] = min(high_x[after], high_x[c])
                        if low_x[c] > high_x[c] or low_x[after] > high_x[after]:
                            empty = True
                if empty:
                    break
            # Contract with the stationarity equation.
            shrink = 1.0
            for i in range(d):
                low = 0.0
                high = 0.0
                size = 0.0
                for c in range(n_classes):
                    factor = from_activation[i, c]
                    a = factor * low_q[c]
                    b = factor * high_q[c]
                    low += min(a, b)
                    high += max(a, b)
                    size += max(abs(a), abs(b))
                margin = _SLACK * (1.0 + size)
                low -= margin
                high += margin
                width = high_x[i] - low_x[i]
                low_x[i] = max(low_x[i], low)
                high_x[i] = min(high_x[i], high)
                if low_x[i] > high_x[i]:
                    empty = True
                    break
                if width > 0.0:
                    shrink = min(shrink, (high_x[i] - low_x[i]) / width)
            if empty or shrink > 0.9:
                break
        if empty:
            continue
        if done:
            excess = max(excess, bound - level)
            continue
        if unbounded:
            second += _growth_bound(
                table, p, to_kappa, prior, lines, low_x, high_x, low_k, high_k, middle_matrix, gradient
            )
            if second <= level + tolerance:
                excess = max(excess, second - level)
                continue
        if _second_order(
            table,
            bounds,
            p,
            to_kappa,
            prior,
            low_x,
            high_x,
            low_k,
            high_k,
            level + tolerance,
            gradient,
            matrix,
            middle_matrix,
            radius,
        ):
            excess = max(excess, tolerance)
            continue
        # Strictly concave around a known maximum: that maximum is the largest value in the box.
        for k in range(known.shape[0]):
            inside = True
            for c in range(n_classes):
                margin = 1e-9 * (1.0 + abs(known_x[k, c]))
                if known_x[k, c] < low_k[c] - margin or known_x[k, c] > high_k[c] + margin:
                    inside = False
                    break
            if inside:
                for r in range(m):
                    for q in range(m):
                        hess[r, q] = 1.0 if r == q else 0.0
                for c in range(n_classes):
                    first = interval_index(table, low_k[c])
                    last = interval_index(table, high_k[c])
                    curvature = p[c] * _range_maximum(bounds.curvature, first, last)
                    for r in range(m):
                        for q in range(r + 1):
                            hess[r, q] -= curvature * t[c, r] * t[c, q]
                if cholesky(hess):
                    done = True
                break
        if done:
            excess = max(excess, 0.0)
            continue
        # Split where the curvature of G is felt most.
        best = -1
        best_score = -1.0
        for i in range(d):
            score = 0.0
            width = high_x[i] - low_x[i]
            for c in range(n_classes):
                share = abs(to_kappa[c, i]) * width
                if unbounded:
                    share /= max(high_k[c] - low_k[c], 1e-300)
                    score += p[c] * share * spread[c] + 1e-12 * width
                else:
                    score += p[c] * share * (high_q[c] - low_q[c])
            if score > best_score:
                best_score = score
                best = i
        low = low_x[best]
        high = high_x[best]
        if boxes >= max_boxes or stack + 2 > _MAX_STACK or high - low <= 1e-13 * (1.0 + abs(low)):
            return False, bound - level, boxes
        middle = 0.5 * (low + high)
        unit = 4.0 / table.scale
        if low < 0.0 < high and (high > unit or low < -unit):
            middle = 0.0
        elif high > 8.0 * max(low, unit) and low >= 0.0:
            middle = math.sqrt(max(low, unit) * high)
        elif -low > 8.0 * max(-high, unit) and high <= 0.0:
            middle = -math.sqrt(max(-high, unit) * -low)
        lows[stack] = low_x
        highs[stack] = high_x
        highs[stack, best] = middle
        lows[stack + 1] = low_x
        highs[stack + 1] = high_x
        lows[stack + 1, best] = middle
        stack += 2
    return True, max(excess, 0.0), boxes
