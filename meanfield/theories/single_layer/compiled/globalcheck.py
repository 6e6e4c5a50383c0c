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

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.copies import copy_vector
from meanfield.numerics.cumulant_table import cumulant2
from meanfield.numerics.jit import jit, jit_apart
from meanfield.numerics.linalg import thin_svd
from meanfield.theories.single_layer.compiled.bounds import (
    BARREN,
    CONTRACTED,
    confined_radius,
    growth_bound,
    psi_and_mean,
    second_order,
)
from meanfield.theories.single_layer.compiled.chords import chord_bound
from meanfield.theories.single_layer.compiled.frames import STRAIGHT, coordinates, narrowest_frame, rank, tied
from meanfield.theories.single_layer.compiled.majorants import ROUNDING_STRAIGHT, charged_aim, majorised, peaked, ranges
from meanfield.theories.single_layer.compiled.relaxation import PRODUCT_CLASSES
from meanfield.theories.single_layer.compiled.tails import tails

__all__ = ["branch_and_bound", "exchangeable", "global_bound"]

_FAR = 1e9  # stands for infinity in kappa
_SLACK = 1e-12  # relative slack given to the tabulated G' when boxes are contracted
# Boxes that wait, per side: the last one is looked at first, and each split halves one of its sides (above _THIN of at
# most 2 _FAR; roots of large ends come first). A large array that is made for every task costs page faults.
_STACK_PER_SIDE = 96
_THIN = 1e-13  # relative width of a side that is not split
_FRAMED_CLASSES = 8  # up to so many classes all sets of them are looked at
_FEW_FRAMED, _ALONG_AXES = 12_000, 100_000  # boxes of each kind before the other is tried
_EQUAL = 1e-13  # relative difference of classes that count as exchangeable
_ROUNDING = 1e-14  # relative error of inverses of t t^T, from which on forms are charged for it
_EASY = 300  # boxes after which majorants are worth their price


@jit
def exchangeable(p, gram):
    """For each class the next one equivalent to it (equal p, and gram = t t^T unchanged by swapping the two), or -1.

    h depends on t through t t^T alone, so swapping equivalent classes maps maxima onto maxima. Returns (next ones,
    the largest relative difference that was let pass: of the rounding of t).
    """
    n_classes = p.shape[0]
    unit = 1e-300 + np.max(np.abs(gram))
    follower = np.full(n_classes, -1)
    asymmetry = 0.0
    for c in range(n_classes):
        for d in range(c + 1, n_classes):
            difference = max(abs(p[c] - p[d]) / p[c], abs(gram[c, c] - gram[d, d]) / unit)
            for e in range(n_classes):
                if e not in (c, d):
                    difference = max(difference, abs(gram[c, e] - gram[d, e]) / unit)
            if difference <= _EQUAL:
                follower[c] = d
                asymmetry = max(asymmetry, difference)
                break
    return follower, asymmetry


@jit_apart(returns="none")
def _highest_centre(table, p, t, lows, highs, to_readout, where):
    """A place to climb from: fills `where` (m,) with the readout at the highest centre of boxes (n, sides)."""
    n_classes, m = t.shape
    stack, sides = lows.shape
    trial = np.empty(m)
    highest = -np.inf
    for k in range(stack):
        height = 0.0
        for r in range(m):
            trial[r] = 0.0
            for i in range(sides):
                trial[r] += to_readout[r, i] * 0.5 * (lows[k, i] + highs[k, i])
            height -= 0.5 * trial[r] * trial[r]
        for c in range(n_classes):
            height += p[c] * cumulant2(table, np.sum(t[c] * trial))[0]
        if height > highest or (k == stack - 1 and highest == -np.inf):
            highest = height
            copy_vector(where, trial)


@jit_apart(returns="Tuple((boolean, float64, int64))", from_python=True)
def global_bound(table, bounds, p, t, level, known, infimum, supremum, tolerance, max_boxes, confinement, where):
    """Try to prove h(a; t) <= level + tolerance for all a; `known` (n, m) are maxima with h <= level.

    infimum, supremum: range of phi (may be infinite); confinement: 1 - Q(t), at least. Returns (proved, excess, boxes):
    `excess` is the largest proven bound minus level, or that of the box that could not be decided; `where` (m,) is
    filled with the highest centre of a box that is left.
    """
    singular = thin_svd(t)[1]
    d = rank(singular)
    if d == 0:
        return level >= -tolerance, max(-level, 0.0), 0
    straight = singular[d - 1] > STRAIGHT * singular[0]
    unbounded = table.growth_plus > 0.0 or table.growth_minus > 0.0
    several = unbounded and straight and 1 < d < t.shape[0] <= _FRAMED_CLASSES
    excess = np.inf
    total = 0
    # A few boxes with sides in all fields, then sides along axes, then the former again with what is left.
    shares = (_FEW_FRAMED, _ALONG_AXES, max_boxes)
    for turn in range(3):
        budget = min(shares[turn], max_boxes - total) if several else max_boxes
        if budget <= 0 or exhausted(table.stop, 1):
            break
        proved, excess, boxes = branch_and_bound(
            table, bounds, p, t, level, known, infimum, supremum, tolerance, budget, confinement,
            several and turn != 1, where,
        )  # fmt: skip
        total += boxes
        if proved or not several:
            return proved, excess, total
    return False, excess, total


@jit_apart(returns="Tuple((boolean, float64, int64))")
def branch_and_bound(
    table, bounds, p, t, level, known, infimum, supremum, tolerance, max_boxes, confinement, framed, where
):
    """As `global_bound`, over boxes of one kind.

    Sides are in kappa, |a|^2 = kappa^T (t t^T)^-1 kappa, where there are no more classes than outputs; where there are,
    along the principal axes of t, or `framed`: in all kappa, each box being looked at in a frame of its own.
    """
    n_classes, m = t.shape
    unbounded = table.growth_plus > 0.0 or table.growth_minus > 0.0
    inner = t @ t.T
    d, least, frames, to_kappa, prior, rounding, to_readout, from_activation = coordinates(p, t, inner, framed)
    over_kappa = frames.volume.shape[0] > 0
    framed = framed and over_kappa
    sides = from_activation.shape[0]
    known_x = np.empty((known.shape[0], n_classes))
    for k in range(known.shape[0]):
        for c in range(n_classes):
            known_x[k, c] = np.sum(known[k] * t[c])
    # A maximum on the plane of two such classes may lie a little beside it: searches allow for that.
    follower, asymmetry = exchangeable(p, inner)
    slack = _SLACK + 4.0 * asymmetry
    lows = np.empty((_STACK_PER_SIDE * sides + 3, sides))
    highs = np.empty((_STACK_PER_SIDE * sides + 3, sides))
    for i in range(sides):
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
    lines, errors = tails(table, infimum, supremum)
    if infimum == -np.inf or supremum == np.inf:
        ball = confined_radius(table, p, t, confinement, infimum, supremum)
        for i in range(sides):
            reach = ball * (np.sqrt(np.sum(t[i] * t[i])) if over_kappa else 1.0)
            lows[0, i] = max(lows[0, i], -reach)
            highs[0, i] = min(highs[0, i], reach)
    straight = unbounded and lines[0] == 0.0 and lines[1] == 0.0
    stack = 1
    boxes = 0
    excess = -np.inf
    low_s = np.empty(sides)
    high_s = np.empty(sides)
    low_x = np.empty(d)
    high_x = np.empty(d)
    low_k = np.empty(n_classes)
    high_k = np.empty(n_classes)
    low_q = np.empty(n_classes)
    high_q = np.empty(n_classes)
    psi = np.empty(n_classes)
    low_r = np.empty(n_classes)
    high_r = np.empty(n_classes)
    slope = np.empty(n_classes)
    field = np.empty(n_classes)
    spread = np.empty(n_classes)
    curvature = np.empty(n_classes)
    gap = np.empty(n_classes)
    patterns = 1 << n_classes if unbounded and n_classes <= PRODUCT_CLASSES else 0
    products = np.zeros((patterns, n_classes, n_classes))
    ready = np.zeros(patterns, np.bool_)
    hess = np.empty((m, m))
    slopes = np.empty(m)
    uphill = np.empty(m)
    gradient = np.empty(d)
    matrix = np.empty((d, d))
    middle_matrix = np.empty((d, d))
    radius = np.empty((d, d))
    while stack > 0:
        stack -= 1
        copy_vector(low_s, lows[stack])
        copy_vector(high_s, highs[stack])
        boxes += 1
        if exhausted(table.stop, n_classes):
            return False, np.inf, boxes
        bound = np.inf
        empty = False
        done = False
        for turn in range(12):
            bound = 0.0
            second = 0.0
            lost = False  # beyond the table, where that says nothing
            if framed and turn < 2 and not tied(frames, low_s, high_s):
                empty = True
                break
            for c in range(n_classes):
                if over_kappa:
                    low = low_s[c]
                    high = high_s[c]
                else:
                    low = 0.0
                    high = 0.0
                    for i in range(d):
                        factor = to_kappa[c, i]
                        low += factor * (low_s[i] if factor > 0.0 else high_s[i])
                        high += factor * (high_s[i] if factor > 0.0 else low_s[i])
                low_k[c] = low
                high_k[c] = high
                psi_low, low_q[c], r_low = psi_and_mean(table, low, lines)
                psi_high, high_q[c], r_high = psi_and_mean(table, high, lines)
                if low < -table.kappa_max and table.growth_minus == 0.0:
                    low_q[c] = max(infimum, -_FAR)
                if high > table.kappa_max and table.growth_plus == 0.0:
                    high_q[c] = min(supremum, _FAR)
                lost = lost or (high > table.kappa_max and errors[1] == np.inf)
                lost = lost or (low < -table.kappa_max and errors[0] == np.inf)
                low_r[c] = r_low
                high_r[c] = r_high
                psi[c] = max(psi_low, psi_high)
            if unbounded or boxes > _EASY:
                bound, second = ranges(
                    table, bounds, p, lines, low_k, high_k, psi, low_q, high_q, low_r, high_r, spread
                )
            if straight:
                bound = min(bound, second)
            if lost:
                bound = second = np.inf
            elif not unbounded:
                chords = chord_bound(p, inner, low_k, high_k, low_r, high_r, slope, field)
                bound = chords if boxes <= _EASY else min(bound, chords)
            if bound <= level + tolerance:
                done = True
                break
            # Of boxes that differ by an exchange of equivalent classes, look at the one with falling kappa.
            if over_kappa:
                for c in range(n_classes):
                    after = follower[c]
                    if after >= 0:
                        low_s[c] = max(low_s[c], low_s[after])
                        high_s[after] = min(high_s[after], high_s[c])
                        if low_s[c] > high_s[c] or low_s[after] > high_s[after]:
                            empty = True
                if empty:
                    break
            # Contract with the stationarity equation.
            shrink = 1.0
            for i in range(sides):
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
                margin = slack * (1.0 + size)
                low -= margin
                high += margin
                width = high_s[i] - low_s[i]
                low_s[i] = max(low_s[i], low)
                high_s[i] = min(high_s[i], high)
                if low_s[i] > high_s[i]:
                    empty = True
                    break
                if width > 0.0:
                    shrink = min(shrink, (high_s[i] - low_s[i]) / width)
            if empty or shrink > 0.9:
                break
        if empty:
            continue
        if done:
            excess = max(excess, bound - level)
            continue
        frame = 0
        if framed:
            frame = narrowest_frame(frames, low_s, high_s)
            to_kappa = frames.to_kappa[frame]
            prior = frames.prior[frame]
            rounding = frames.rounding[frame]
        for i in range(d):
            side = frames.classes[frame, i] if over_kappa else i
            low_x[i] = low_s[side]
            high_x[i] = high_s[side]
        aim = level + tolerance
        charged = rounding > (ROUNDING_STRAIGHT if straight else _ROUNDING)
        relaxed = np.inf
        if charged:
            aim = charged_aim(aim, prior, rounding, low_x, high_x)
        if unbounded:
            second += growth_bound(
                table, p, to_kappa, prior, lines, low_x, high_x, low_k, high_k, middle_matrix, gradient
            )
            if second <= aim:
                excess = max(excess, second - level)
                continue
        if boxes > _EASY and not lost:
            relaxed = majorised(
                table, bounds, p, t, least, frames, to_kappa, prior, lines, low_x, high_x, low_k, high_k, framed,
                straight, aim, products, ready, gap, matrix, middle_matrix,
            )  # fmt: skip
        if relaxed <= aim:
            excess = max(excess, relaxed - level)
            continue
        verdict = second_order(
            table, bounds, p, to_kappa, prior, rounding + 4.0 * asymmetry, errors, low_x, high_x, low_k, high_k,
            level + tolerance, gradient, matrix, middle_matrix, radius,
        )  # fmt: skip
        if verdict == BARREN:
            excess = max(excess, tolerance)
            continue
        # Strictly concave around a known maximum: nothing in the box is higher, but for what a slope there may give.
        for k in range(known.shape[0]):
            if done:
                break
            inside = True
            for c in range(n_classes):
                margin = 1e-9 * (1.0 + abs(known_x[k, c]))
                if known_x[k, c] < low_k[c] - margin or known_x[k, c] > high_k[c] + margin:
                    inside = False
                    break
            if inside:
                done = peaked(
                    table, bounds, p, t, known[k], known_x[k], low_k, high_k, errors, level, tolerance, curvature,
                    slopes, hess, uphill,
                )  # fmt: skip
        if done:
            excess = max(excess, 0.0)
            continue
        if framed:  # the relaxation may have cut sides of other classes
            copy_vector(low_s, low_k)
            copy_vector(high_s, high_k)
        for i in range(d):
            side = frames.classes[frame, i] if over_kappa else i
            low_s[side] = max(low_s[side], low_x[i])
            high_s[side] = min(high_s[side], high_x[i])
            empty = empty or low_s[side] > high_s[side]
        if empty:  # cut from both ends
            excess = max(excess, tolerance)
            continue
        copy_vector(lows[stack], low_s)
        copy_vector(highs[stack], high_s)
        if verdict == CONTRACTED and boxes < max_boxes:
            stack += 1
            continue
        # Split where the curvature of G is felt most.
        best = -1
        best_score = -1.0
        for i in range(sides):
            score = 0.0
            width = high_s[i] - low_s[i]
            if width <= _THIN * (1.0 + abs(low_s[i])):
                continue
            for c in range(n_classes):
                if over_kappa and c != i:
                    continue
                share = width if over_kappa else abs(to_kappa[c, i]) * width
                if relaxed < np.inf:
                    score += p[c] * share / max(high_k[c] - low_k[c], 1e-300) * gap[c] + 1e-12 * width
                elif unbounded:
                    share /= max(high_k[c] - low_k[c], 1e-300)
                    score += p[c] * share * spread[c] + 1e-12 * width
                else:
                    score += p[c] * share * (high_q[c] - low_q[c])
            if score > best_score:
                best_score = score
                best = i
        if boxes >= max_boxes or stack + 3 > lows.shape[0] or best < 0:
            _highest_centre(table, p, t, lows[: stack + 1], highs[: stack + 1], to_readout, where)
            return False, bound - level, boxes
        low = low_s[best]
        high = high_s[best]
        middle = 0.5 * (low + high)
        unit = 4.0 / table.scale
        if low < 0.0 < high and (high > unit or low < -unit):
            middle = 0.0
        elif high > 8.0 * max(low, unit) and low >= 0.0:
            middle = math.sqrt(max(low, unit) * high)
        elif -low > 8.0 * max(-high, unit) and high <= 0.0:
            middle = -math.sqrt(max(-high, unit) * -low)
        highs[stack, best] = middle
        copy_vector(lows[stack + 1], low_s)
        copy_vector(highs[stack + 1], high_s)
        lows[stack + 1, best] = middle
        stack += 2
    return True, max(excess, 0.0), boxes
