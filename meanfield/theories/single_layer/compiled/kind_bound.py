"""Proof that no readout exceeds a level where classes are of a few kinds: branch and bound in reduced coordinates.

With exchangeable classes t_c . t_c' = overlap_kl for different classes of the kinds k and l, and |t_c|^2 = overlap_kk +
r_k. At a stationary point kappa_c = sum_c' p_c' (t_c . t_c') G'(kappa_c') reads

    F_k(kappa_c) = nu_k = sum_l overlap_kl q_l,   F_k(kappa) = kappa - r_k p_k G'(kappa),
    q_l = p_l sum_{c in l} G'(kappa_c):

all classes of a kind are roots of the same equation. Where F_k decreases (between its folds) at most one class of a
kind can sit at a maximum, since exchanging preactivation between two of them would raise h. A maximum is thus given by
nu (K,), the number of classes on the upper branch of every kind, and whether one is on the middle branch. Boxes of
these are contracted by nu = overlap q and, at fixed numbers, by its linearisation, and bounded by
h = sum_c p_c psi(kappa_c).

`globalcheck.global_bound` proves the same for classes that all differ, and has a stack of boxes, too. Its boxes are of
kappa (C,), which the increasing G' maps to boxes; these are of nu (K,) with numbers of classes beside them, contracted
by the roots of F_k. What the two have in common, the bounds psi and the maximum of a function over a range of
its table, is in `bounds`; what would be left to share is the stack itself, ten lines.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.cumulant_table import cumulant2, interval_index
from meanfield.numerics.jit import jit
from meanfield.theories.single_layer.compiled.bounds import (
    asymptotic_lines,
    curvature_over,
    psi_and_mean,
    range_maximum,
)

__all__ = ["folds", "kind_bound"]

_FAR = 1e9  # stands for infinity in kappa
_MAX_STACK = 65536
_SAMPLES = 16  # in each interval of the table, where F' is looked at
LOWER, UPPER, MIDDLE = range(3)


@jit
def folds(table, slope):
    """Where F' = 1 - slope G'' changes sign: (number of changes, first, last); the table resolves G'' by far."""
    changes = 0
    found = np.zeros(2)
    previous = 0.0
    before = 1.0
    for i in range(table.centre.shape[0]):
        half = 1.0 / table.inverse[i]
        for j in range(_SAMPLES):
            kappa = table.centre[i] + half * (-1.0 + 2.0 * (j + 0.5) / _SAMPLES)
            now = 1.0 - slope * cumulant2(table, kappa)[2]
            if (now > 0.0) != (before > 0.0):
                if changes == 0 and i == 0 and j == 0:
                    return 99, 0.0, 0.0  # unstable already at the end of the table
                left = previous
                right = kappa
                for _ in range(80):
                    middle = 0.5 * (left + right)
                    if (1.0 - slope * cumulant2(table, middle)[2] > 0.0) == (before > 0.0):
                        left = middle
                    else:
                        right = middle
                found[min(changes, 1)] = 0.5 * (left + right)
                changes += 1
            previous = kappa
            before = now
    return changes, found[0], found[1]


@jit
def _root(table, slope, nu, left, right, rising):
    """kappa in [left, right] with kappa - slope G'(kappa) = nu, where this is monotone; the nearer end without one."""
    kappa = 0.5 * (left + right)
    for _ in range(100):
        _, g1, g2 = cumulant2(table, kappa)
        value = kappa - slope * g1 - nu
        if (value > 0.0) == rising:
            right = kappa
        else:
            left = kappa
        derivative = 1.0 - slope * g2
        trial = kappa - value / derivative if derivative != 0.0 else np.inf
        if not (left < trial < right):
            trial = 0.5 * (left + right)
        if abs(trial - kappa) <= 4e-16 * (1.0 + abs(kappa)):
            return trial
        kappa = trial
    return kappa


@jit
def _top_of_psi(table, bounds, lines, low, high):
    """Upper bound of psi on an interval."""
    psi_low, _, _ = psi_and_mean(table, low, lines)
    psi_high, _, _ = psi_and_mean(table, high, lines)
    psi = max(psi_low, psi_high)
    first = interval_index(table, low)
    last = interval_index(table, high)
    narrow = psi + 0.0625 * (high - low) ** 2 * range_maximum(bounds.bend, first, last)
    return min(narrow, max(range_maximum(bounds.psi, first, last), psi))


@jit
def _response(bounds, table, slope, low, high):
    """Range of d G' / d nu = G'' / F' on a branch, (-inf, inf) next to a fold."""
    smallest, largest = curvature_over(table, bounds, low, high)
    smallest = max(smallest, 0.0)
    if 1.0 - slope * largest > 0.0:
        return smallest / (1.0 - slope * smallest), largest / (1.0 - slope * largest)
    if 1.0 - slope * smallest < 0.0:
        return largest / (1.0 - slope * largest), smallest / (1.0 - slope * smallest)
    return -np.inf, np.inf


@jit
def kind_bound(table, bounds, n, p, overlap, excess_norm, infimum, supremum, level, tolerance, max_boxes):
    """Try to prove h(a) <= level + tolerance for all readouts; phi is bounded.

    n, p, excess_norm (K,): classes of a kind, the fraction of one, r_k; overlap (K, K). Returns (proved, excess, boxes,
    nu, counts): `excess` is the largest proven bound minus the level, or that of the box that could not be decided; nu
    and counts (K,) are the middle of that box.
    """
    n_kinds = n.shape[0]
    lines = asymptotic_lines(table, infimum, supremum)
    slope = excess_norm * p
    fold = np.empty((n_kinds, 2))  # lower and upper end of the middle branch in kappa
    at_fold = np.empty((n_kinds, 2))  # nu there
    split = np.zeros(n_kinds)
    where = np.zeros(n_kinds)
    numbers = np.zeros(n_kinds)
    for k in range(n_kinds):
        changes = 0
        if n[k] > 1.0 and slope[k] > 0.0:
            changes, fold[k, 0], fold[k, 1] = folds(table, slope[k])
        if changes != 0 and changes != 2:
            return False, np.inf, 0, where, numbers
        split[k] = changes
        for side in range(2):
            if changes == 0:
                fold[k, side] = np.inf
                at_fold[k, side] = np.inf
            else:
                at_fold[k, side] = fold[k, side] - slope[k] * cumulant2(table, fold[k, side])[1]
    # at_fold[k, 0] > at_fold[k, 1]: the lower branch ends above where the upper one begins.
    words = 1
    for k in range(n_kinds):
        words *= 2 if split[k] > 0 else 1
    lows = np.empty((_MAX_STACK, n_kinds))
    highs = np.empty((_MAX_STACK, n_kinds))
    fewest = np.empty((_MAX_STACK, n_kinds))
    most = np.empty((_MAX_STACK, n_kinds))
    single = np.empty((_MAX_STACK, n_kinds))
    stack = 0
    for word in range(words):
        rest = word
        for k in range(n_kinds):
            middle = 0.0
            if split[k] > 0:
                middle = rest % 2
                rest //= 2
            single[stack, k] = middle
            fewest[stack, k] = 0.0
            most[stack, k] = n[k] - middle if split[k] > 0 else 0.0
            low = 0.0
            high = 0.0
            for q in range(n_kinds):
                a = overlap[k, q] * p[q] * n[q] * infimum
                b = overlap[k, q] * p[q] * n[q] * supremum
                low += min(a, b)
                high += max(a, b)
            lows[stack, k] = low - 1e-9 * (1.0 + abs(low))
            highs[stack, k] = high + 1e-9 * (1.0 + abs(high))
        stack += 1
    low = np.empty(n_kinds)
    high = np.empty(n_kinds)
    first = np.empty(n_kinds)
    last = np.empty(n_kinds)
    alone = np.empty(n_kinds)
    q_low = np.empty(n_kinds)
    q_high = np.empty(n_kinds)
    by_nu = np.empty(n_kinds)
    by_count = np.empty(n_kinds)
    ends = np.empty((n_kinds, 3, 2))
    mean = np.empty((3, 2))
    top = np.empty(3)
    matrix = np.empty((n_kinds, n_kinds))
    radius = np.empty(n_kinds)
    defect = np.empty(n_kinds)
    excess = -np.inf
    boxes = 0
    while stack > 0:
        stack -= 1
        for k in range(n_kinds):
            low[k] = lows[stack, k]
            high[k] = highs[stack, k]
            first[k] = fewest[stack, k]
            last[k] = most[stack, k]
            alone[k] = single[stack, k]
        boxes += 1
        if exhausted(table.stop, 4 * n_kinds):
            return False, np.inf, boxes, where, numbers
        empty = False
        done = False
        bound = np.inf
        for _ in range(60):
            bound = 0.0
            for k in range(n_kinds):
                # Branches that a box does not reach hold no classes; those that must hold some cut the box.
                if split[k] > 0:
                    if low[k] > at_fold[k, 0]:
                        first[k] = max(first[k], n[k] - alone[k])
                    if high[k] < at_fold[k, 1]:
                        last[k] = 0.0
                    if alone[k] > 0.0 or first[k] > 0.0:
                        low[k] = max(low[k], at_fold[k, 1] - 1e-12 * (1.0 + abs(at_fold[k, 1])))
                    if alone[k] > 0.0 or last[k] < n[k] - alone[k]:
                        high[k] = min(high[k], at_fold[k, 0] + 1e-12 * (1.0 + abs(at_fold[k, 0])))
                if low[k] > high[k] or first[k] > last[k]:
                    empty = True
                    break
                for branch in range(3):
                    present = (
                        last[k] > 0.0
                        if branch == UPPER
                        else (alone[k] > 0.0 if branch == MIDDLE else first[k] < n[k] - alone[k])
                    )
                    top[branch] = 0.0
                    mean[branch, 0] = 0.0
                    mean[branch, 1] = 0.0
                    if not present:
                        continue
                    for side in range(2):
                        nu = low[k] if (side == 0) != (branch == MIDDLE) else high[k]
                        left = nu + slope[k] * infimum - 1e-9 * (1.0 + abs(nu))
                        right = nu + slope[k] * supremum + 1e-9 * (1.0 + abs(nu))
                        if split[k] > 0:
                            if branch == LOWER:
                                right = min(right, fold[k, 0])
                                left = min(left, right)
                            elif branch == UPPER:
                                left = max(left, fold[k, 1])
                                right = max(left, right)
                            else:
                                left = fold[k, 0]
                                right = fold[k, 1]
                        kappa = _root(table, slope[k], nu, left, right, branch != MIDDLE)
                        margin = 1e-13 * (1.0 + abs(kappa))
                        kappa += margin if side == 1 else -margin
                        ends[k, branch, side] = kappa
                        mean[branch, side] = psi_and_mean(table, kappa, lines)[1]
                    top[branch] = _top_of_psi(table, bounds, lines, ends[k, branch, 0], ends[k, branch, 1])
                a = first[k]
                b = last[k]
                low_a = n[k] - alone[k] - a
                low_b = n[k] - alone[k] - b
                highest = max(low_a * top[0] + a * top[1], low_b * top[0] + b * top[1])
                bound += p[k] * (highest + alone[k] * top[2])
                q_low[k] = low_a * mean[0, 0] + a * mean[1, 0]
                q_high[k] = low_b * mean[0, 1] + b * mean[1, 1]
                q_low[k] = p[k] * (min(q_low[k], low_b * mean[0, 0] + b * mean[1, 0]) + alone[k] * mean[2, 0])
                q_high[k] = p[k] * (max(q_high[k], low_a * mean[0, 1] + a * mean[1, 1]) + alone[k] * mean[2, 1])
                by_count[k] = p[k] * (b - a) * abs(mean[1, 1] - mean[0, 0])
                by_nu[k] = max(q_high[k] - q_low[k] - by_count[k], 0.0)
            if empty:
                break
            if bound <= level + tolerance:
                done = True
                break
            shrink = 1.0
            for k in range(n_kinds):
                new_low = 0.0
                new_high = 0.0
                size = 0.0
                for q in range(n_kinds):
                    a = overlap[k, q] * q_low[q]
                    b = overlap[k, q] * q_high[q]
                    new_low += min(a, b)
                    new_high += max(a, b)
                    size += max(abs(a), abs(b))
                width = high[k] - low[k]
                margin = 1e-13 * (1.0 + size)
                low[k] = max(low[k], new_low - margin)
                high[k] = min(high[k], new_high + margin)
                if low[k] > high[k]:
                    empty = True
                    break
                if width > 1e-300:
                    shrink = min(shrink, (high[k] - low[k]) / width)
            if empty:
                break
            if shrink > 0.5 and _fixed(first, last):
                factor = _linearised(
                    table, bounds, n, p, overlap, slope, low, high, last, alone, ends, matrix, radius, defect
                )  # fmt: skip
                if factor < 0.0:
                    empty = True
                    break
                shrink = min(shrink, factor)
            if shrink > 0.9:
                break
        if empty:
            continue
        if done:
            excess = max(excess, bound - level)
            continue
        best = -1
        score = -1.0
        for k in range(n_kinds):
            for kind in range(2):
                value = by_count[k] if kind == 1 else by_nu[k]
                if kind == 1 and last[k] == first[k]:
                    continue
                if kind == 0 and high[k] - low[k] <= 1e-12 * (1.0 + abs(low[k])):
                    continue
                if value > score:
                    score = value
                    best = 2 * k + kind
        for q in range(n_kinds):
            where[q] = 0.5 * (low[q] + high[q])
            numbers[q] = np.floor(0.5 * (first[q] + last[q]))
        if best < 0 or boxes >= max_boxes or stack + 2 > _MAX_STACK:
            return False, bound - level, boxes, where, numbers
        k = best // 2
        for side in range(2):
            for q in range(n_kinds):
                lows[stack, q] = low[q]
                highs[stack, q] = high[q]
                fewest[stack, q] = first[q]
                most[stack, q] = last[q]
                single[stack, q] = alone[q]
            if best % 2 == 1:
                half = np.floor(0.5 * (first[k] + last[k]))
                if side == 0:
                    most[stack, k] = half
                else:
                    fewest[stack, k] = half + 1.0
            elif side == 0:
                highs[stack, k] = 0.5 * (low[k] + high[k])
            else:
                lows[stack, k] = 0.5 * (low[k] + high[k])
            stack += 1
    return True, max(excess, 0.0), boxes, where, numbers


@jit
def _fixed(first, last):
    """Whether the numbers of classes are decided."""
    return np.sum(last - first) == 0.0


@jit
def _linearised(table, bounds, n, p, overlap, slope, low, high, count, alone, ends, matrix, radius, defect):
    """Contract a box at fixed numbers of classes by the mean-value form of nu - overlap q(nu) = 0, preconditioned.

    Returns the largest ratio of new to old widths, 1 where the form says nothing, -1 where there is no solution.
    """
    n_kinds = n.shape[0]
    centre = np.empty(n_kinds)
    q = np.empty(n_kinds)
    response = np.empty(n_kinds)
    lower = np.empty(n_kinds)
    upper = np.empty(n_kinds)
    for k in range(n_kinds):
        nu = 0.5 * (low[k] + high[k])
        least = 0.0
        largest = 0.0
        q[k] = 0.0
        for branch in range(3):
            number = count[k] if branch == UPPER else (alone[k] if branch == MIDDLE else n[k] - alone[k] - count[k])
            if number <= 0.0:
                continue
            a, b = _response(bounds, table, slope[k], ends[k, branch, 0], ends[k, branch, 1])
            if not (abs(a) < 1e12 and abs(b) < 1e12):
                return 1.0
            least += number * min(a, b)
            largest += number * max(a, b)
            kappa = _root(table, slope[k], nu, ends[k, branch, 0], ends[k, branch, 1], branch != MIDDLE)
            q[k] += p[k] * number * cumulant2(table, kappa)[1]
        centre[k] = nu
        response[k] = p[k] * 0.5 * (least + largest)
        radius[k] = p[k] * 0.5 * (largest - least) * (1.0 + 1e-12) + 1e-13 * abs(response[k])
    for i in range(n_kinds):
        defect[i] = centre[i]
        for j in range(n_kinds):
            matrix[i, j] = (1.0 if i == j else 0.0) - overlap[i, j] * response[j]
            defect[i] -= overlap[i, j] * q[j]
    if abs(np.linalg.det(matrix)) < 1e-10:
        return 1.0
    inverse = np.linalg.inv(matrix)
    spread = inverse @ overlap
    ratio = 0.0
    for i in range(n_kinds):
        middle = centre[i]
        reach = 0.0
        size = 0.0
        for j in range(n_kinds):
            middle -= inverse[i, j] * defect[j]
            reach += abs(spread[i, j]) * radius[j] * 0.5 * (high[j] - low[j])
            size += abs(inverse[i, j]) * (1.0 + abs(centre[j]))
        reach = reach * (1.0 + 1e-12) + 2e-14 * size
        width = high[i] - low[i]
        new_low = max(low[i], middle - reach)
        new_high = min(high[i], middle + reach)
        if new_low > new_high:
            return -1.0
        lower[i] = new_low
        upper[i] = new_high
        if width > 1e-300:
            ratio = max(ratio, (new_high - new_low) / width)
    for i in range(n_kinds):
        low[i] = lower[i]
        high[i] = upper[i]
    return ratio
