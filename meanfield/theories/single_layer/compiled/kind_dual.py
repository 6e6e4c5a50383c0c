"""Proof that no readout exceeds a level where classes are of a few kinds, by duality in the mean fields of the kinds.

With m_k = a . tau_k, the mean of kappa_c over a kind, and the classes' deviations from it at their best,

    h = -|a_0|^2 / 2 + sum_k Phi_k(m_k),
    Phi_k(m) = max_{kappa, mean m} sum_c [p_k G(kappa_c) - (kappa_c - m)^2 / 2 rho_k],

with rho_k what |t_c|^2 has in excess of t_c . t_c'. Phi_k is convex, as a maximum of sums of G over its argument plus
something, so that for any slopes g and intervals of m, with M_kl = tau_k . tau_l,

    h <= g M g / 2 + sum_k max over both ends of the interval of [Phi_k(m) - g_k m].

Phi_k is the largest of phi_kj, where j classes are on the upper branch of F_k(kappa) = kappa - rho_k p_k G'(kappa) and
the others on the lower one: phi_kj(m) = min_nu [(n - j) A_lower + j A_upper] is concave in j, since A, the best that a
class of either branch makes of p G - (kappa - m)^2 / 2 rho + (nu - m)(kappa - m) / rho, is convex in nu. Pieces follow
each other in the order of j, with one kink between two. Where a box holds one piece of each kind, h is bounded by its
expansion about a point, with the largest curvature of the piece in it.

One class of a kind may sit between the branches (`kind_bound`), where -1 / (n - 1) < F' < 0: on a stretch next to
either fold, where what it makes of its kappa is largest at an end. With nu* where A_lower = A_upper, and m_j where the
piece j has nu = nu*, piece j is the largest one at m_j, and the kink between j and j + 1 lies between m_j and m_j+1.
There, at the nu of piece j, which is nu* at least, any split with a class between, next to the lower fold, is worth
phi_kj at most if the far end of that stretch is below A_lower; and so with piece j + 1 next to the upper fold. Both
differences are monotonic in nu, which rises with m. Where this does not hold nothing is proven here.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.cumulant_table import cumulant2
from meanfield.numerics.jit import jit
from meanfield.numerics.linalg import cholesky, cholesky_solve
from meanfield.theories.single_layer.compiled.bounds import curvature_over
from meanfield.theories.single_layer.compiled.kind_bound import folds

__all__ = ["kind_dual"]

_MAX_STACK = 16384
_SAMPLES = 64  # between the folds, where F' is looked at
_NEWTON = 100
_SWEEPS = 3  # over the slopes of a box
_DESCENTS = 4  # steps to the stationary point of a box of single pieces
_SLACK = 1e-13


@jit
def _best_split(table, p, rho, n, j, m, low_end, high_end):
    """kappa of the n - j lower and the j upper classes at mean m, their phi_kj and nu; phi is -inf if there is none."""
    if j <= 0.0 or j >= n:
        g0, g1, _ = cumulant2(table, m)
        inside = m <= low_end if j <= 0.0 else m >= high_end
        return m, m, (n * p * g0 if inside else -np.inf), m - rho * p * g1
    # F(lower) = F(upper) along (n - j) lower + j upper = n m, with lower <= low_end and upper >= high_end: monotonic.
    left = max(high_end, (n * m - (n - j) * low_end) / j)
    share = j / (n - j)
    upper = left
    right = np.inf
    for step in range(_NEWTON):
        lower = (n * m - j * upper) / (n - j)
        _, b1, b2 = cumulant2(table, upper)
        _, a1, a2 = cumulant2(table, lower)
        value = upper - rho * p * b1 - (lower - rho * p * a1)
        if value > 0.0:
            if step == 0:  # held at the end of a branch
                break
            right = upper
        else:
            left = upper
        slope = 1.0 - rho * p * b2 + share * (1.0 - rho * p * a2)
        trial = upper - value / slope if slope > 0.0 else np.inf
        if not (left <= trial <= right and trial < 2.0 * abs(left) + 1e3):
            trial = 0.5 * (left + right) if right < np.inf else left + 1.0 + abs(left)
        if abs(trial - upper) <= 4e-16 * (1.0 + abs(upper)):
            break
        upper = trial
    lower = (n * m - j * upper) / (n - j)
    a0, a1, _ = cumulant2(table, lower)
    b0, b1, _ = cumulant2(table, upper)
    value = (n - j) * (p * a0 - 0.5 * (lower - m) ** 2 / rho) + j * (p * b0 - 0.5 * (upper - m) ** 2 / rho)
    # Where one branch is held at its end, the other one tells nu.
    nu = upper - rho * p * b1 if lower >= low_end - 1e-12 * (1.0 + abs(low_end)) else lower - rho * p * a1
    return lower, upper, value, nu


@jit
def _tilted(table, p, rho, nu, kappa):
    """rho [p G - kappa^2 / 2 rho + nu kappa / rho]: what a class makes of its kappa at nu, up to a constant."""
    return rho * p * cumulant2(table, kappa)[0] - 0.5 * kappa * kappa + nu * kappa


@jit
def _between(table, slope, n, low_end, high_end):
    """Far ends of the two stretches next to the folds outside of which F' < -1 / (n - 1) between the folds."""
    least = -1.0 / (n - 1.0)
    first = high_end
    last = low_end
    deepest = 0.5 * (low_end + high_end)
    depth = 0.0
    for i in range(_SAMPLES):
        kappa = low_end + (high_end - low_end) * (i + 0.5) / _SAMPLES
        derivative = 1.0 - slope * cumulant2(table, kappa)[2]
        if derivative <= 1.02 * least:
            first = min(first, kappa)
            last = max(last, kappa)
        if derivative < depth:
            depth = derivative
            deepest = kappa
    for i in range(_SAMPLES):
        kappa = low_end + (high_end - low_end) * (i + 0.5) / _SAMPLES
        if first < kappa < last and 1.0 - slope * cumulant2(table, kappa)[2] > least:
            return deepest, deepest
    return (first, last) if first <= last else (deepest, deepest)


@jit
def _kinks(table, p, rho, n, low_end, high_end, kinks, values):
    """Fill kinks (n,), where the pieces j and j + 1 meet, and Phi there; False if a class between may be higher."""
    slope = rho * p
    left = high_end - slope * cumulant2(table, high_end)[1]
    right = low_end - slope * cumulant2(table, low_end)[1]
    lower = low_end
    upper = high_end
    for _ in range(200):
        nu = 0.5 * (left + right)
        lower = _branch(table, slope, nu, low_end, -1.0)
        upper = _branch(table, slope, nu, high_end, 1.0)
        if _tilted(table, p, rho, nu, upper) > _tilted(table, p, rho, nu, lower):
            right = nu
        else:
            left = nu
        if right - left <= 1e-14 * (1.0 + abs(nu)):
            break
    x_low, x_high = _between(table, slope, n, low_end, high_end)
    for i in range(int(n)):
        left = ((n - i) * lower + i * upper) / n
        right = ((n - i - 1) * lower + (i + 1) * upper) / n
        a, _, one, nu = _best_split(table, p, rho, n, float(i), right, low_end, high_end)
        if one == -np.inf or _tilted(table, p, rho, nu, x_low) > _tilted(table, p, rho, nu, a):
            return False
        _, b, other, nu = _best_split(table, p, rho, n, i + 1.0, left, low_end, high_end)
        if other == -np.inf or _tilted(table, p, rho, nu, x_high) > _tilted(table, p, rho, nu, b):
            return False
        m = 0.5 * (left + right)
        for _ in range(60):
            _, _, one, nu_one = _best_split(table, p, rho, n, float(i), m, low_end, high_end)
            _, _, other, nu_other = _best_split(table, p, rho, n, i + 1.0, m, low_end, high_end)
            if other > one:
                right = m
            else:
                left = m
            rate = n * (nu_one - nu_other) / rho  # since d phi / dm = n (m - nu) / rho
            trial = m - (other - one) / rate if rate > 0.0 else np.inf
            if not (left < trial < right):
                trial = 0.5 * (left + right)
            if abs(trial - m) <= 1e-15 * (1.0 + abs(m)) or right - left <= 1e-15 * (1.0 + abs(m)):
                break
            m = trial
        kinks[i] = m
        values[i] = max(one, other)
    return True


@jit
def _branch(table, slope, nu, end, direction):
    """The root of F = nu below (direction -1) or above (+1) the fold at `end`; the fold itself if there is none."""
    if (nu - (end - slope * cumulant2(table, end)[1])) * direction <= 0.0:
        return end
    near = end
    far = end + direction
    while (nu - (far - slope * cumulant2(table, far)[1])) * direction > 0.0:
        near = far
        far = end + 2.0 * (far - end)
    kappa = 0.5 * (near + far)
    for _ in range(_NEWTON):
        _, g1, g2 = cumulant2(table, kappa)
        value = kappa - slope * g1 - nu
        if value * direction > 0.0:
            far = kappa
        else:
            near = kappa
        trial = kappa - value / (1.0 - slope * g2) if slope * g2 < 1.0 else np.inf
        if not (min(near, far) < trial < max(near, far)):
            trial = 0.5 * (near + far)
        if abs(trial - kappa) <= 4e-16 * (1.0 + abs(kappa)):
            return trial
        kappa = trial
    return kappa


@jit
def _piece(table, p, rho, n, j, m, ends, split):
    """phi_kj and its slope at m; of a kind without folds n p G."""
    if not split:
        g0, g1, _ = cumulant2(table, m)
        return n * p * g0, n * p * g1, m, m
    lower, upper, value, nu = _best_split(table, p, rho, n, j, m, ends[0], ends[1])
    if j <= 0.0 or j >= n:  # also beyond the fold: an upper bound is asked for, and n p G is one of the expansion
        g0, g1, _ = cumulant2(table, m)
        return n * p * g0, n * p * g1, m, m
    return value, n * (m - nu) / rho, lower, upper


@jit
def _highest_curvature(table, bounds, left, right):
    """Upper bound of G'' on an interval."""
    return curvature_over(table, bounds, left, right)[1]


@jit
def _curvature(table, bounds, p, rho, n, j, left, right, ends, split):
    """Upper bound of the second derivative of phi_kj between two m; inf where there is none."""
    if not split or j <= 0.0 or j >= n:
        return n * p * max(_highest_curvature(table, bounds, left, right), 0.0)
    a_left, b_left, _, _ = _best_split(table, p, rho, n, j, left, ends[0], ends[1])
    a_right, b_right, _, _ = _best_split(table, p, rho, n, j, right, ends[0], ends[1])
    at_low = 1.0 - rho * p * _highest_curvature(table, bounds, min(a_left, a_right), max(a_left, a_right))
    at_high = 1.0 - rho * p * _highest_curvature(table, bounds, min(b_left, b_right), max(b_left, b_right))
    if at_low <= 0.0 or at_high <= 0.0:
        return np.inf
    return max(n / rho * (1.0 - n / ((n - j) / at_low + j / at_high)), 0.0)


@jit
def _slopes_bound(matrix, low, high, at_low, at_high, slopes, gaps):
    """The dual bound of a box at good slopes, which are left in `slopes`, with what each kind contributes in `gaps`."""
    n_kinds = low.shape[0]
    for k in range(n_kinds):
        width = high[k] - low[k]
        slopes[k] = (at_high[k] - at_low[k]) / width if width > 0.0 else 0.0
        gaps[k] = slopes[k]
    for _ in range(_SWEEPS):
        for k in range(n_kinds):
            if matrix[k, k] <= 0.0:
                continue
            rest = 0.0
            for q in range(n_kinds):
                if q != k:
                    rest += matrix[k, q] * slopes[q]
            chord = gaps[k]
            if high[k] <= low[k]:
                slopes[k] = (low[k] - rest) / matrix[k, k]
                continue
            above = (low[k] - rest) / matrix[k, k]
            below = (high[k] - rest) / matrix[k, k]
            slopes[k] = below if below < chord else (above if above > chord else chord)
    bound = 0.0
    size = 0.0
    for k in range(n_kinds):
        best = max(at_low[k] - slopes[k] * low[k], at_high[k] - slopes[k] * high[k])
        for q in range(n_kinds):
            bound += 0.5 * slopes[k] * matrix[k, q] * slopes[q]
        bound += best
        size += abs(best)
        gaps[k] = best
    return bound + _SLACK * (1.0 + size)


@jit
def _expanded_bound(table, bounds, n, p, rho, matrix, ends, split, low, high, piece, response, scratch):
    """Bound of h over a box with one piece of each kind by an expansion with the largest curvatures; inf if none."""
    n_kinds = n.shape[0]
    q, w, curvature, system, pushed = scratch
    for k in range(n_kinds):
        q[k] = _piece(table, p[k], rho[k], n[k], piece[k], 0.5 * (low[k] + high[k]), ends[k], split[k])[1]
    best = np.inf
    for _ in range(_DESCENTS):
        value = 0.0
        size = 0.0
        ok = True
        for k in range(n_kinds):
            m = 0.0
            for l in range(n_kinds):
                m += matrix[k, l] * q[l]
            phi, slope, _, _ = _piece(table, p[k], rho[k], n[k], piece[k], m, ends[k], split[k])
            if not abs(phi) < np.inf:
                return best
            w[k] = slope - q[k]
            value += phi - 0.5 * q[k] * m
            size += abs(phi) + abs(q[k] * m)
            curvature[k] = _curvature(
                table, bounds, p[k], rho[k], n[k], piece[k], min(low[k], m), max(high[k], m), ends[k], split[k]
            )
            ok = ok and curvature[k] < np.inf
        if not ok:
            return best
        # S = 1 - L^(1/2) M L^(1/2), then (w M w + v L^(1/2) S^-1 L^(1/2) v) / 2 with v = M w.
        for k in range(n_kinds):
            for l in range(n_kinds):
                system[k, l] = (1.0 if k == l else 0.0) - np.sqrt(curvature[k] * curvature[l]) * matrix[k, l]
        if not cholesky(system):
            return best
        gain = 0.0
        for k in range(n_kinds):
            v = 0.0
            for l in range(n_kinds):
                v += matrix[k, l] * w[l]
            gain += 0.5 * w[k] * v
            response[k] = np.sqrt(curvature[k]) * v
            pushed[k] = response[k]
        cholesky_solve(system, response)
        for k in range(n_kinds):
            gain += 0.5 * pushed[k] * response[k]
        best = min(best, value + gain + _SLACK * (1.0 + size))
        if gain <= 1e-12 * (1.0 + abs(value)):
            break
        # To the maximum of the expansion: q + w + L m', with m' = M (w + L m').
        for k in range(n_kinds):
            q[k] += w[k] + np.sqrt(curvature[k]) * response[k]
    return best


@jit
def kind_dual(table, bounds, n, p, overlap, excess_norm, infimum, supremum, level, tolerance, max_boxes):
    """Try to prove h(a) <= level + tolerance for all readouts; phi is bounded. As `kind_bound.kind_bound`.

    Returns (proved, excess, boxes, m, counts) of the kinds; boxes is -1 where this does not apply.
    """
    n_kinds = n.shape[0]
    where = np.zeros(n_kinds)
    numbers = np.zeros(n_kinds)
    matrix = overlap.copy()
    most = 1
    for k in range(n_kinds):
        matrix[k, k] += excess_norm[k] / n[k]
        most = max(most, int(n[k]))
    ends = np.zeros((n_kinds, 2))
    split = np.zeros(n_kinds, np.bool_)
    kinks = np.zeros((n_kinds, most))
    values = np.zeros((n_kinds, most))
    for k in range(n_kinds):
        changes = 0
        if n[k] > 1.0 and excess_norm[k] * p[k] > 0.0:
            changes, ends[k, 0], ends[k, 1] = folds(table, excess_norm[k] * p[k])
        if changes != 0 and changes != 2:
            return False, np.inf, -1, where, numbers
        split[k] = changes == 2
        if exhausted(table.stop, 100 * most):
            return False, np.inf, -1, where, numbers
        if split[k] and not _kinks(table, p[k], excess_norm[k], n[k], ends[k, 0], ends[k, 1], kinks[k], values[k]):
            return False, np.inf, -1, where, numbers
    # Columns: ends of the interval of m, Phi there, first and last piece.
    stack = np.empty((_MAX_STACK, n_kinds, 6))
    box = np.empty((n_kinds, 6))
    for k in range(n_kinds):
        low = 0.0
        high = 0.0
        for q in range(n_kinds):
            a = matrix[k, q] * p[q] * n[q] * infimum
            b = matrix[k, q] * p[q] * n[q] * supremum
            low += min(a, b)
            high += max(a, b)
        stack[0, k, 0] = low - 1e-9 * (1.0 + abs(low))
        stack[0, k, 1] = high + 1e-9 * (1.0 + abs(high))
        first = 0
        last = 0
        if split[k]:
            last = int(n[k])
            while first < last and kinks[k, first] <= stack[0, k, 0]:
                first += 1
            while last > first and kinks[k, last - 1] >= stack[0, k, 1]:
                last -= 1
        stack[0, k, 4] = first
        stack[0, k, 5] = last
        for side in range(2):
            m = stack[0, k, side]
            piece = float(first if side == 0 else last)
            stack[0, k, 2 + side] = _piece(table, p[k], excess_norm[k], n[k], piece, m, ends[k], split[k])[0]
    slopes = np.empty(n_kinds)
    gaps = np.empty(n_kinds)
    response = np.empty(n_kinds)
    scratch = np.empty(n_kinds), np.empty(n_kinds), np.empty(n_kinds), np.empty((n_kinds, n_kinds)), np.empty(n_kinds)
    count = 1
    boxes = 0
    excess = -np.inf
    while count > 0:
        count -= 1
        single = True
        for k in range(n_kinds):
            for i in range(6):
                box[k, i] = stack[count, k, i]
            single = single and box[k, 4] == box[k, 5]
        boxes += 1
        if exhausted(table.stop, 4 * n_kinds):
            return False, np.inf, boxes, where, numbers
        bound = _slopes_bound(matrix, box[:, 0], box[:, 1], box[:, 2], box[:, 3], slopes, gaps)
        if single and bound > level + tolerance:
            second = _expanded_bound(
                table, bounds, n, p, excess_norm, matrix, ends, split, box[:, 0], box[:, 1], box[:, 4], response,
                scratch,
            )  # fmt: skip
            bound = min(bound, second)
        if bound <= level + tolerance:
            excess = max(excess, bound - level)
            continue
        # Split where the chord is farthest from Phi.
        best = -1
        largest = -1.0
        place = 0.0
        height = 0.0
        for k in range(n_kinds):
            where[k] = 0.5 * (box[k, 0] + box[k, 1])
            numbers[k] = np.floor(0.5 * (box[k, 4] + box[k, 5]))
            if box[k, 1] - box[k, 0] <= 1e-10 * (1.0 + abs(box[k, 0])):
                continue
            if box[k, 4] < box[k, 5]:
                kink = int(0.5 * (box[k, 4] + box[k, 5]))
                m = kinks[k, kink]
                phi = values[k, kink]
            else:
                m = where[k]
                phi = _piece(table, p[k], excess_norm[k], n[k], box[k, 4], m, ends[k], split[k])[0]
            gap = gaps[k] - (phi - slopes[k] * m)
            if gap > largest:
                largest = gap
                best = k
                place = m
                height = phi
        if best < 0 or boxes >= max_boxes or count + 2 > _MAX_STACK:
            return False, bound - level, boxes, where, numbers
        pieces = box[best, 4] < box[best, 5]
        middle = np.floor(0.5 * (box[best, 4] + box[best, 5]))
        for side in range(2):
            for k in range(n_kinds):
                for i in range(6):
                    stack[count, k, i] = box[k, i]
            stack[count, best, 1 - side] = place
            stack[count, best, 3 - side] = height
            if pieces:
                stack[count, best, 5 - side] = middle + (1.0 if side == 1 else 0.0)
            count += 1
    return True, max(excess, 0.0), boxes, where, numbers
