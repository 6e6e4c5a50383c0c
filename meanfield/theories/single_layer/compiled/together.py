"""Maxima of h(a; t) for bounded phi, climbed to from many starts at once: starts share the lanes of vectorised loops.

The steps are those of `ascent.ascend`, with G from the quick table. Most starts lead to the few maxima there are; these
are found to the last digits by `ascend`, which goes on with starts that have not arrived, too (sigma_a = 1).
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.jit import jit, jit_apart
from meanfield.theories.single_layer.compiled.ascent import ascend, code_word_start, merge_maximum
from meanfield.theories.single_layer.compiled.stretch import anywhere, single_site

__all__ = ["maxima_together"]

_BLOCK = 16  # starts that climb together
_STEPS, _ROUNDS = 5, 12  # steps until those that have arrived are left out, and how often
_ARRIVED = 1e-7  # the last step of Newton's method, relative to 1 + |a|: what is left is of the order of its square
_SAME = 1e-6  # distance up to which two maxima are one, relative to that
_SINGULAR = 1e-14  # least pivot
_PATIENCE = 4  # rounds after which starts that crawl are hurried
_LEAST_BEND = 1e-4  # of h along a hurried step
_ZERO = 3e-16  # a gradient that is nothing but rounding, in units of sum_c p_c |t_c|


@jit
def _look(quick, p, t, a, kappa, slope, curvature, h, grad, bend):
    """h (n,), its gradient (m, n) and -d^2 h (m, m, n), a lower triangle, at readouts a (m, n)."""
    n_classes, m = t.shape
    for i in range(_BLOCK):
        h[i] = 0.0
    for r in range(m):
        for i in range(_BLOCK):
            h[i] -= 0.5 * a[r, i] * a[r, i]
            grad[r, i] = -a[r, i]
        for q in range(r + 1):
            prior = 1.0 if q == r else 0.0
            for i in range(_BLOCK):
                bend[r, q, i] = prior
    for c in range(n_classes):
        for i in range(_BLOCK):
            kappa[c, i] = 0.0
        for r in range(m):
            along = t[c, r]
            for i in range(_BLOCK):
                kappa[c, i] += along * a[r, i]
    if not single_site(quick.coefficients, quick.inverse, quick.half, 1.0, p, kappa, _BLOCK, h, slope, curvature):
        anywhere(quick, 1.0, p, kappa, _BLOCK, h, slope, curvature)
    for c in range(n_classes):
        for r in range(m):
            one = p[c] * t[c, r]
            for i in range(_BLOCK):
                grad[r, i] += one * slope[c, i]
            for q in range(r + 1):
                two = one * t[c, q]
                for i in range(_BLOCK):
                    bend[r, q, i] -= two * curvature[c, i]


@jit
def _largest(vector, result):
    """Largest component (n,) of vectors (m, n)."""
    for i in range(_BLOCK):
        result[i] = 0.0
    for r in range(vector.shape[0]):
        for i in range(_BLOCK):
            size, before = abs(vector[r, i]), result[i]
            result[i] = size if size > before else before


@jit
def _newton(bend, step, concave):
    """Solve with each of the matrices (m, m, n), which are overwritten; concave (n,) is 0 where one is not positive.

    There pivots count by their sizes, so that the step still leads uphill.
    """
    m = step.shape[0]
    for i in range(_BLOCK):
        concave[i] = 1.0
    for j in range(m):
        for k in range(j):
            for row in range(j, m):
                for i in range(_BLOCK):
                    bend[row, j, i] -= bend[row, k, i] * bend[j, k, i]
        for i in range(_BLOCK):
            pivot, before = bend[j, j, i], concave[i]
            concave[i] = before if pivot > _SINGULAR else 0.0
            size = -pivot if -pivot > _LEAST_BEND else _LEAST_BEND
            bend[j, j, i] = 1.0 / np.sqrt(pivot if pivot > _SINGULAR else size)
        for row in range(j + 1, m):
            for i in range(_BLOCK):
                bend[row, j, i] *= bend[j, j, i]
    for j in range(m):
        for k in range(j):
            for i in range(_BLOCK):
                step[j, i] -= bend[j, k, i] * step[k, i]
        for i in range(_BLOCK):
            step[j, i] *= bend[j, j, i]
    for j in range(m - 1, -1, -1):
        for k in range(j + 1, m):
            for i in range(_BLOCK):
                step[j, i] -= bend[k, j, i] * step[k, i]
        for i in range(_BLOCK):
            step[j, i] *= bend[j, j, i]


@jit
def _keep(taken, new, old):
    """Replace what is `taken` (n,) of old (n,) by the new."""
    for i in range(_BLOCK):
        moved, here, yes = new[i], old[i], taken[i]
        old[i] = moved if yes > 0.0 else here


@jit
def _climb(quick, p, t, place, going, left, hurried, there):
    """Move the first `left` of the starts in `going` some steps uphill; `there` (n,) becomes 1 where they have arrived.

    Where h does not bend down the steps are monotone, a <- sum_c p_c G' t_c. On ridges these crawl: `hurried`, Newton's
    with the sizes of the pivots are tried first, no longer than half of 1 + |a|.
    """
    n_classes, m = t.shape
    kappa, slope = np.empty((n_classes, _BLOCK)), np.empty((n_classes, _BLOCK))
    curvature = np.empty((n_classes, _BLOCK))
    h, grad, bend = np.empty(_BLOCK), np.empty((m, _BLOCK)), np.empty((m, m, _BLOCK))
    new_h, new_grad, new_bend = np.empty(_BLOCK), np.empty((m, _BLOCK)), np.empty((m, m, _BLOCK))
    a, step, trial = np.empty((m, _BLOCK)), np.empty((m, _BLOCK)), np.empty((m, _BLOCK))
    size, new_size, length, reach = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
    concave, refused, taken, arrived = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
    shorter = np.empty(_BLOCK)
    least, monotone = 0.0, 0.0 if hurried else 1.0
    for c in range(n_classes):
        for r in range(m):
            least += _ZERO * p[c] * abs(t[c, r])
    for begin in range(0, left, _BLOCK):
        for i in range(_BLOCK):
            j = going[min(begin + i, left - 1)]
            refused[i], arrived[i] = 0.0, 0.0
            for r in range(m):
                a[r, i] = place[j, r]
        _look(quick, p, t, a, kappa, slope, curvature, h, grad, bend)
        for _ in range(_STEPS):
            for r in range(m):
                for i in range(_BLOCK):
                    step[r, i] = grad[r, i]
                for q in range(r + 1):
                    for i in range(_BLOCK):
                        new_bend[r, q, i] = bend[r, q, i]
            _newton(new_bend, step, concave)
            _largest(grad, size)
            _largest(step, length)
            _largest(a, reach)
            for i in range(_BLOCK):
                bent, no, full, longest = concave[i], refused[i], length[i], 0.5 * (1.0 + reach[i])
                less = longest / full if full > longest else 1.0
                shorter[i] = 1.0 if bent > 0.0 else less
                refused[i] = no if bent > 0.0 else max(no, monotone)
            for r in range(m):
                for i in range(_BLOCK):
                    newton, plain, no = shorter[i] * step[r, i], grad[r, i], refused[i]
                    step[r, i] = plain if no > 0.0 else newton
                    trial[r, i] = a[r, i] + step[r, i]
            _look(quick, p, t, trial, kappa, slope, curvature, new_h, new_grad, new_bend)
            _largest(new_grad, new_size)
            moving = 0.0
            for i in range(_BLOCK):
                rise, digits, bent = new_h[i] - h[i], 1e-12 * (1.0 + abs(h[i])), concave[i]
                # Close to the maximum h no longer resolves the step, its gradient does.
                near = bent if new_size[i] < size[i] else 0.0
                near = near if rise > -digits else 0.0
                uphill = 1.0 if rise > 0.0 else near
                no = refused[i]
                taken[i] = 1.0 if no > 0.0 else uphill
                refused[i] = 1.0 - taken[i]
                bent = 0.0 if no > 0.0 else bent
                now = bent if length[i] <= _ARRIVED * (1.0 + reach[i]) else arrived[i]
                arrived[i] = 1.0 if size[i] <= least else now
                moving += 1.0 - arrived[i]
            _keep(taken, new_h, h)
            for r in range(m):
                _keep(taken, trial[r], a[r])
                _keep(taken, new_grad[r], grad[r])
                for q in range(r + 1):
                    _keep(taken, new_bend[r, q], bend[r, q])
            if moving == 0.0:
                break
        for i in range(min(_BLOCK, left - begin)):
            j = going[begin + i]
            there[j] = arrived[i]
            for r in range(m):
                place[j, r] = a[r, i]


@jit
def _is_known(maxima, count, a):
    largest = np.max(np.abs(a))
    for k in range(count):
        distance = 0.0
        for r in range(a.shape[0]):
            distance = max(distance, abs(maxima[k, r] - a[r]))
        if distance <= _SAME * (1.0 + largest):
            return True
    return False


@jit_apart(returns="int64", from_python=True)
def maxima_together(table, quick, p, t, low, high, starts, maxima, heights):
    """Local maxima of h from `starts` (n, m), all code words (up to 2^12) and the origin; returns their number.

    As `ascent.find_maxima` for bounded phi, between `low` and `high`.
    """
    n_classes, m = t.shape
    words, n_starts = 1 << min(n_classes, 12), starts.shape[0]
    n = n_starts + words + 1
    place, there = np.empty((n, m)), np.zeros(n)
    for i in range(n):
        if i < n_starts:
            for r in range(m):
                place[i, r] = starts[i, r]
        elif i < n - 1:
            code_word_start(p, t, i - n_starts, low, high, place[i])
        else:
            code_word_start(p, t, 0, 0.5 * (low + high), high, place[i])
    going, left = np.arange(n), n
    for step in range(_ROUNDS):
        if left == 0 or exhausted(table.stop, 1 + left * m * n_classes // 64):
            break
        _climb(quick, p, t, place, going, left, step >= _PATIENCE, there)
        kept = 0
        for i in range(left):
            if there[going[i]] == 0.0:
                going[kept] = going[i]
                kept += 1
        left = kept
    count = 0
    for i in range(n):
        if there[i] > 0.0 and _is_known(maxima, count, place[i]):
            continue
        if exhausted(table.stop, 1):
            break
        h, _ = ascend(table, p, t, place[i])
        count = merge_maximum(maxima, heights, count, place[i], h, _SAME)
    return count
