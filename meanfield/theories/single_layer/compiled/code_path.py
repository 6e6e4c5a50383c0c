"""The minimum of J along a central path, for bounded phi and many different classes (sigma_a = 1).

With many classes many codes are nearly as high as the highest, and which of them carry weight is known at the end only.
With H_k(t) the local maximum of h at code word k,

    J_beta(t) = -sum_c p_c t_c.y_c + (tau + r / beta) / 2 sum_c p_c |t_c|^2 + (1 / beta) ln sum_k e^{beta H_k(t)}

is smooth and convex, and Newton's method takes a few steps at each beta. Code words are not enumerated: those within a
window of the highest are found by a flood fill over words that differ by one class, or by two in opposite senses, or by
all, from those of the step before.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.copies import copy_matrix, copy_vector
from meanfield.numerics.hash_set import enter
from meanfield.numerics.jit import jit, jit_apart
from meanfield.numerics.linalg import cholesky
from meanfield.theories.single_layer.compiled.ascent import ascend, code_word_start
from meanfield.theories.single_layer.compiled.basic_codes import basic_codes
from meanfield.theories.single_layer.compiled.code_program import (
    DAMPING,
    PROGRAMMES,
    RATIOS,
    SETTLED,
    STRONG,
    solve_programme,
)
from meanfield.theories.single_layer.compiled.dual import active_set
from meanfield.theories.single_layer.compiled.generated.action import action_fields
from meanfield.theories.single_layer.compiled.generated.stationarity import linear_part, minus_hessian, neuron_jacobian
from meanfield.theories.single_layer.compiled.newton_step import newton_step
from meanfield.theories.single_layer.compiled.returned import SOLUTION

__all__ = ["code_path", "flood"]

_MOST = 1 << 14  # codes at a time
_SLOTS = 1 << 17  # of the hash table of words, half of which may be filled
_WINDOW = 18.0  # of beta (H - max H), where codes count
_LIGHT = 1e-10  # weight below which a code is left out of the Hessian
_ROW_CODES = 16  # whose contributions to the Hessian are added up at a time
_STEPS, _TRIALS = 30, 12
_ROUNDING = 1e-13  # of J
_DECREMENT = 0.02  # Newton's estimate of J_beta above its minimum, in units of 1 / beta, at which a stage ends
_REGULAR = 1e-3  # r
_STAGES, _FACTOR = 5, 4.0  # of beta


@jit
def _word(first, p, low, high):
    """Bits of the classes whose mean activation is above the middle; at it, as at 0 for odd phi, none is set."""
    word = 0
    middle = 0.5 * (low + high) + 1e-4 * (high - low)
    for c in range(p.shape[0]):
        if first[c] > middle * p[c]:
            word |= 1 << c
    return word


@jit
def _climb(table, p, t, a, first, second, stiff):
    """h at the local maximum above `a` (moved there); fills its fields. Minus infinity where it is none, as at 0."""
    ascend(table, p, t, a)
    h = action_fields(table, p, t, a, first, second)
    minus_hessian(second, t, stiff)
    return h if cholesky(stiff) else -np.inf


@jit_apart(returns="int64")
def flood(table, p, t, low, high, known, window, slots, words, readouts, heights):
    """Fill words (N,), readouts (N, m), heights (N,) with maxima of h; returns their number.

    From the maxima above `known` (n, m), and those of simple words, to words that differ by one class, by two in
    opposite senses, or by all, as far as within `window` of the highest. slots (a power of two,) is scratch.
    """
    n_classes, m = t.shape
    slots[:] = -1
    first = np.empty(n_classes)
    second = np.empty(n_classes)
    own = np.empty(n_classes)
    stiff = np.empty((m, m))
    a = np.empty(m)
    count = 0
    entered = 0
    top = -np.inf
    for i in range(known.shape[0] + n_classes + 1):
        if count == words.shape[0] or exhausted(table.stop, 1):
            break
        if i < known.shape[0]:
            copy_vector(a, known[i])
        else:  # one class, and none
            c = i - known.shape[0]
            code_word_start(p, t, 1 << c if c < n_classes else 0, low, high, a)
        h = _climb(table, p, t, a, first, second, stiff)
        if h == -np.inf:
            continue
        word = _word(first, p, low, high)
        if not enter(slots, word):
            continue
        entered += 1
        words[count] = word
        copy_vector(readouts[count], a)
        heights[count] = h
        top = max(top, h)
        count += 1
    head = 0
    while head < count:
        if heights[head] > top - window:
            action_fields(table, p, t, readouts[head], own, second)
            for c in range(n_classes + 1):
                for d in range(c + 1 if c < n_classes else 1):
                    # One class, two in opposite senses, or all at once: the code of the opposite side.
                    word = words[head] ^ ((1 << n_classes) - 1)
                    if c < n_classes:
                        if c != d and (words[head] >> c) & 1 == (words[head] >> d) & 1:
                            continue
                        word = words[head] ^ ((1 << c) | (1 << d))
                    full = count == words.shape[0] or 2 * (entered + 2) > slots.shape[0]
                    if full or exhausted(table.stop, 1) or not enter(slots, word):
                        continue
                    entered += 1
                    copy_vector(a, readouts[head])
                    for e in range(n_classes):
                        if (word ^ words[head]) >> e & 1:
                            change = p[e] * (high if word >> e & 1 else low) - own[e]
                            for r in range(m):
                                a[r] += change * t[e, r]
                    h = _climb(table, p, t, a, first, second, stiff)
                    if h == -np.inf:
                        continue
                    found = _word(first, p, low, high)
                    if found != word:
                        if not enter(slots, found):
                            continue
                        entered += 1
                    words[count] = found
                    copy_vector(readouts[count], a)
                    heights[count] = h
                    top = max(top, h)
                    count += 1
        head += 1
    return count


@jit
def _value(p, y, tau, beta, t, heights, count, weights):
    """J_beta without its regularisation; fills the weights of the codes."""
    top = np.max(heights[:count])
    total = 0.0
    for k in range(count):
        weights[k] = np.exp(beta * (heights[k] - top))
        total += weights[k]
    for k in range(count):
        weights[k] /= total
    return linear_part(p, y, tau, t) + top + np.log(total) / beta


@jit
def _newton_system(table, p, y, tau, beta, t, readouts, weights, count, matrix, gradient):
    """Gradient (C m,) and Hessian of J_beta; False where a readout is no strict maximum."""
    n_classes, m = t.shape
    n = n_classes * m
    first = np.empty((_ROW_CODES, n_classes))
    second = np.empty((_ROW_CODES, n_classes))
    some = np.empty((_ROW_CODES, m))
    share = np.empty(_ROW_CODES)
    mixed = np.empty((_ROW_CODES, m, n_classes, m))
    curvature = np.empty((_ROW_CODES, m, m))
    slope = np.empty((_ROW_CODES, n_classes, m))
    same_class = np.zeros((n_classes, m, m))
    rows = np.empty((_ROW_CODES * (m + 1), n))
    factor = np.empty((m, m))
    matrix[:] = 0.0
    mean = np.zeros(n)
    k = 0
    while k < count:
        size = 0
        while k < count and size < _ROW_CODES:
            if weights[k] > _LIGHT:
                share[size] = weights[k]
                copy_vector(some[size], readouts[k])
                action_fields(table, p, t, some[size], first[size], second[size])
                size += 1
            k += 1
        if size == 0:
            break
        if exhausted(table.stop, 1 + size * n * n * m // 4000):
            return False
        neuron_jacobian(
            first[:size], second[:size], p, t, some[:size], share, mixed[:size], curvature, slope, same_class
        )
        for j in range(size):
            for r in range(m):
                for q in range(m):
                    factor[r, q] = -curvature[j, r, q]
            if not cholesky(factor):
                return False
            root = np.sqrt(share[j])
            at = j * (m + 1)
            for r in range(m):
                for i in range(n):
                    rows[at + r, i] = root * mixed[j, r, i // m, i % m]
                for q in range(r):
                    ratio = factor[r, q]
                    for i in range(n):
                        rows[at + r, i] -= ratio * rows[at + q, i]
                for i in range(n):
                    rows[at + r, i] /= factor[r, r]
            for i in range(n):
                value = slope[j, i // m, i % m]
                rows[at + m, i] = root * np.sqrt(beta) * value
                mean[i] += share[j] * value
        part = rows[: size * (m + 1)]
        product = part.T @ part
        for i in range(n):
            for j in range(n):
                matrix[i, j] += product[i, j]
    for i in range(n):
        c, r = i // m, i % m
        gradient[i] = p[c] * (tau * t[c, r] - y[c, r]) + mean[i]
        for j in range(n):
            matrix[i, j] -= beta * mean[i] * mean[j]
        for q in range(m):
            matrix[i, c * m + q] += p[c] * same_class[c, r, q]
        matrix[i, i] += p[c] * tau
    return True


@jit_apart(returns="int64")
def _descend(table, p, y, tau, low, high, beta, t, known, slots, now, trials):
    """Newton's method on J_beta from `t` (overwritten), codes found by `flood`; returns their number, 0 for none.

    now = (words, readouts, heights, weights) is filled; trials is scratch of the same kind.
    """
    n_classes, m = t.shape
    n = n_classes * m
    words, readouts, heights, weights = now
    trial_words, trial_readouts, trial_heights, trial_weights = trials
    matrix, factor = np.empty((n, n)), np.empty((n, n))
    gradient, step = np.empty(n), np.empty(n)
    window = _WINDOW / beta
    count = flood(table, p, t, low, high, known, window, slots, words, readouts, heights)
    if count == 0:
        return 0
    value = _value(p, y, tau, beta, t, heights, count, weights)
    for _ in range(_STEPS):
        if exhausted(table.stop, 1 + n * n * n // 3000):
            return 0
        if not _newton_system(table, p, y, tau, beta, t, readouts, weights, count, matrix, gradient):
            break
        newton_step(matrix, gradient, factor, step)
        slope = np.sum(step * gradient)
        if not -slope * beta > _DECREMENT:
            break
        if not np.isfinite(slope):
            break
        length = min(1.0, (1.0 + np.max(np.abs(t))) / np.max(np.abs(step)))
        moved = False
        found = 0
        trial_value = value
        trial = t.copy()
        for _ in range(_TRIALS):
            for i in range(n):
                trial[i // m, i % m] = t[i // m, i % m] + length * step[i]
            found = flood(
                table, p, trial, low, high, readouts[:count], window, slots, trial_words, trial_readouts, trial_heights
            )
            if found == 0:
                length *= 0.4
                continue
            trial_value = _value(p, y, tau, beta, trial, trial_heights, found, trial_weights)
            if trial_value <= value + 0.1 * length * slope + _ROUNDING * (1.0 + abs(value)):
                moved = True
                break
            length *= 0.4
        if not moved:
            break
        copy_matrix(t, trial)
        value, count = trial_value, found
        for k in range(count):
            words[k], heights[k], weights[k] = trial_words[k], trial_heights[k], trial_weights[k]
            copy_vector(readouts[k], trial_readouts[k])
    return count


@jit
def _fields(table, p, t, readouts, count, columns):
    """Fill columns (K, C m) with the gradients of the heights of codes in t."""
    n_classes, m = t.shape
    first, second = np.empty(n_classes), np.empty(n_classes)
    for k in range(count):
        action_fields(table, p, t, readouts[k], first, second)
        for i in range(n_classes * m):
            columns[k, i] = first[i // m] * readouts[k, i % m]


@jit
def _taken_over(words, weights, count, found_words, found_weights, found):
    """Weights of the codes that are still there, in the same order; those of new ones are zero."""
    at = 0
    for k in range(found):
        ahead = at
        while ahead < count and words[ahead] != found_words[k]:
            ahead += 1
        found_weights[k] = weights[ahead] if ahead < count else 0.0
        if ahead < count:
            at = ahead + 1


@jit_apart(returns="int64")
def _settle(table, p, y, tau, low, high, window, t, slots, now, trials, count, slack):
    """Newton's steps in which codes nearly as high as each other are sorted out by a quadratic programme.

    `t` (C, m) and now = (words, readouts, heights, weights), as in `_descend`, are overwritten, slack (K,) is filled.
    Returns the number of codes, 0 where it fails.
    """
    n_classes, m = t.shape
    n = n_classes * m
    words, readouts, heights, weights = now
    trial_words, trial_readouts, trial_heights, trial_weights = trials
    matrix, gradient = np.empty((n, n)), np.empty(n)
    slope, step = np.empty(n), np.empty(n)
    strong = np.empty(_MOST)
    damping = 0.0
    value = linear_part(p, y, tau, t) + np.max(heights[:count])
    for _ in range(PROGRAMMES):
        columns = np.empty((count, n))
        _fields(table, p, t, readouts, count, columns)
        for k in range(count):
            strong[k] = weights[k] if weights[k] > STRONG else 0.0
        if not _newton_system(table, p, y, tau, 0.0, t, readouts, strong, count, matrix, gradient):
            return 0
        for i in range(n):
            slope[i] = p[i // m] * (y[i // m, i % m] - tau * t[i // m, i % m])
        moved = False
        gain = np.inf
        found = 0
        trial_value = value
        trial = t.copy()
        for _ in range(_TRIALS):
            for i in range(n):
                matrix[i, i] += damping * p[i // m]
            gain = solve_programme(
                table, t, matrix, slope, heights[:count], columns, weights[:count], slack[:count], step
            )
            if exhausted(table.stop, 1) or not np.isfinite(np.sum(step)):
                return 0
            if gain <= SETTLED * (1.0 + abs(value)):
                break
            for i in range(n):
                trial[i // m, i % m] = t[i // m, i % m] + step[i]
            found = flood(
                table, p, trial, low, high, readouts[:count], window, slots, trial_words, trial_readouts, trial_heights
            )
            if found > 0:
                trial_value = linear_part(p, y, tau, trial) + np.max(trial_heights[:found])
                moved = trial_value <= value - 0.1 * gain + _ROUNDING * (1.0 + abs(value))
            if moved:
                break
            damping = max(10.0 * damping, DAMPING)
        if not moved:
            return count
        damping *= 0.1
        if damping < DAMPING:
            damping = 0.0
        _taken_over(words, weights, count, trial_words, trial_weights, found)
        copy_matrix(t, trial)
        value, count = trial_value, found
        for k in range(count):
            words[k], heights[k], weights[k] = trial_words[k], trial_heights[k], trial_weights[k]
            copy_vector(readouts[k], trial_readouts[k])
    return count


@jit_apart(returns=SOLUTION)
def code_path(table, p, y, tau, low, high):
    """Follow the central path from t = 0, then sort codes out. Returns as `active_set`."""
    n_classes, m = y.shape
    slots = np.empty(_SLOTS, np.int64)
    now = np.empty(_MOST, np.int64), np.empty((_MOST, m)), np.empty(_MOST), np.empty(_MOST)
    trials = np.empty(_MOST, np.int64), np.empty((_MOST, m)), np.empty(_MOST), np.empty(_MOST)
    _, readouts, _, weights = now
    none = np.empty((0, m))
    no_weights = np.empty(0)
    search = np.empty((1024, m)), np.empty(1024), np.empty(1, np.int64)
    solution = (False, np.zeros((n_classes, m)), none, no_weights, none, no_weights, 0.0, 0, 0)
    t = np.zeros((n_classes, m))
    beta = 3.0 / (np.max(np.abs(y)) + 1e-9)
    count = 0
    for _ in range(_STAGES):
        known = readouts[:count].copy()
        count = _descend(table, p, y, tau + _REGULAR / beta, low, high, beta, t, known, slots, now, trials)
        if count == 0 or exhausted(table.stop, 1):
            return solution
        beta *= _FACTOR
    slack = np.empty(_MOST)
    count = _settle(table, p, y, tau, low, high, _FACTOR * _WINDOW / beta, t, slots, now, trials, count, slack)
    if count == 0:
        return solution
    before = 0
    for ratio in RATIOS:
        strong = np.nonzero(weights[:count] > ratio * slack[:count])[0]
        if strong.shape[0] == before:
            continue
        before = strong.shape[0]
        rows, share = readouts[strong].copy(), weights[strong].copy()
        for all_of_them in (True, False):
            if all_of_them and strong.shape[0] > n_classes * m + 1:
                continue
            if not all_of_them:
                kept, share = basic_codes(table, p, t, rows, share)
                rows = rows[kept].copy()
            solution = active_set(
                table, p, y, tau, low, high, t.copy(), rows.copy(), share / np.sum(share), none, no_weights, search
            )
            if solution[0] or exhausted(table.stop, 1):
                return solution
    return solution
