"""Readouts on the ridges of h along directions that prior and growth leave almost unconfined (sigma_a = 1).

Along a direction u with Q(u) = 1, h tends to the sum of R over the classes with kappa_c = 0 and of its limits over the
others. Where R has a maximum at a finite kappa (ReLU: 0.135 at 0.8) a readout that keeps some kappa_c there while the
others grow is a maximum far out, or one at infinity: at the edges of cones of outliers, which code words do not find.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.copies import copy_matrix, copy_vector
from meanfield.numerics.cumulant_table import cumulant2
from meanfield.numerics.jit import jit, jit_apart
from meanfield.numerics.linalg import cholesky, cholesky_solve
from meanfield.theories.single_layer.compiled.ascent import ascend, merge_maximum
from meanfield.theories.single_layer.compiled.bounds import HEIGHT_ROUNDING
from meanfield.theories.single_layer.compiled.generated.action import action_hessian, growth_fields
from meanfield.theories.single_layer.compiled.generated.stationarity import minus_hessian
from meanfield.theories.single_layer.compiled.outlier import worst_directions

__all__ = [
    "LOST",
    "RIDGE_RADII",
    "climb_half_sphere",
    "climb_ridges",
    "edge_above",
    "highest_maximum",
    "ridge_start",
    "softness",
]

RIDGE_RADII = 3  # starts along each direction
_SMALL = 0.05  # kappa below this, in units of the largest, may be held
_RIDGE = 0.98  # growth from which on a direction is a ridge
_CLIMB_STEPS, _TRIALS = 60, 30
LOST = 1e6  # beyond, a readout is an outlier
_FACE, _EDGE_RADII = 1e-3, 8  # growth this near to one belongs to a face; starts along each of its edges
_MOST_R = 1.3  # largest R of a rectifier, in units of that where a class is put to hold it
_ABOVE = 1e-8  # of h, relative, from which on a readout is above the level
_FAR_OUT = 1e5  # a readout beyond this has run away, in units of sigma_a


@jit
def _hold(table, t, held, a):
    """Move `a` (in place) by t_c of the classes `held` to where R of a rectifier is largest for these; False if not."""
    n = held.shape[0]
    gram = np.empty((n, n))
    rest = np.empty(n)
    side = 1.0 if table.growth_plus >= table.growth_minus else -1.0
    trace = 0.0
    for i in range(n):
        rest[i] = side * 0.5 / table.scale - np.sum(t[held[i]] * a)
        for j in range(n):
            gram[i, j] = np.sum(t[held[i]] * t[held[j]])
        trace += gram[i, i]
    for i in range(n):
        gram[i, i] += 1e-6 * trace
    if not cholesky(gram):
        return False
    cholesky_solve(gram, rest)
    for i in range(n):
        for r in range(t.shape[1]):
            a[r] += rest[i] * t[held[i], r]
    return True


@jit
def ridge_start(table, p, t, u, number, a):
    """Fill `a` with the start of this number (below RIDGE_RADII) on the ridge along u; False where it is none.

    Small kappa_c are put where R of a rectifier is largest, the others where R is near its limit.
    """
    n_classes, m = t.shape
    longest = 1e-300
    kappa = np.empty(n_classes)
    for c in range(n_classes):
        kappa[c] = np.sum(t[c] * u)
        longest = max(longest, abs(kappa[c]))
    least, most = min(table.growth_plus, table.growth_minus), max(table.growth_plus, table.growth_minus)
    reach = 5.0 / (table.scale * longest)
    for _ in range(number):
        reach *= 6.0 if least == 0.0 else max(np.sqrt(np.sqrt(most / least)), 3.0)
    for r in range(m):
        a[r] = reach * u[r]
    held = np.zeros(n_classes, np.int64)
    n = 0
    for c in range(n_classes):
        if abs(kappa[c]) <= _SMALL * longest and n < m - 1:
            held[n] = c
            n += 1
    if n == 0:
        return number == 0
    return _hold(table, t, held[:n], a)


@jit
def softness(y, s):
    """What is added to |a|^2 in F of `moving_cuts`, at a level s."""
    return max(np.max(np.abs(y)), 1e-9) + 2.0 * max(s, 0.0)


@jit
def climb_half_sphere(table, p, t, s, soft, a):
    """Move `a` (in place) to a local maximum of F = (h - s) / (soft + |a|^2), of `moving_cuts`.

    Returns F, or -1 where the readout runs away.
    """
    m = a.shape[0]
    grad = np.empty(m)
    hess = np.empty((m, m))
    factor = np.empty((m, m))
    trial = np.empty(m)
    step = np.empty(m)
    h = action_hessian(table, p, t, a, grad, hess)
    value = (h - s) / (soft + np.sum(a * a))
    for _ in range(_CLIMB_STEPS):
        if exhausted(table.stop, 1 + t.shape[0] * (16 + m * m) // 64):
            break
        for r in range(m):
            grad[r] -= 2.0 * value * a[r]
            hess[r, r] += 2.0 * value
            step[r] = grad[r]
        copy_matrix(factor, hess)
        if cholesky(factor):
            cholesky_solve(factor, step)
        else:
            curvatures, axes = np.linalg.eigh(hess)
            step[:] = 0.0
            for i in range(m):
                along = 0.0
                for r in range(m):
                    along += axes[r, i] * grad[r]
                along /= max(abs(curvatures[i]), 1e-13)
                for r in range(m):
                    step[r] += along * axes[r, i]
        length = min(1.0, (1.0 + np.sqrt(np.sum(a * a))) / max(np.sqrt(np.sum(step * step)), 1e-300))
        if length * np.max(np.abs(step)) <= 1e-13 * (1.0 + np.max(np.abs(a))):
            break
        moved = False
        for _ in range(_TRIALS):
            for r in range(m):
                trial[r] = a[r] + length * step[r]
            h = action_hessian(table, p, t, trial, grad, hess)
            new = (h - s) / (soft + np.sum(trial * trial))
            if new >= value - 1e-16:
                moved = True
                break
            length *= 0.3
        if not moved:
            break
        copy_vector(a, trial)
        value = new
        if np.max(np.abs(a)) > LOST:
            return -1.0
    return value


@jit
def highest_maximum(maxima, heights, count):
    """The largest of `heights`, each less what rounding may feign: its terms of order |a|^2 cancel."""
    top = -np.inf
    for i in range(count):
        top = max(top, heights[i] - HEIGHT_ROUNDING * np.sum(maxima[i] * maxima[i]))
    return top


@jit
def climb_ridges(table, p, t, maxima, heights, count):
    """Add the maxima of h that ridges lead to; returns (their number, the largest h of a readout that runs away).

    The latter is reduced by what the cancellation of terms of order |a|^2 may feign.
    """
    if table.growth_plus == 0.0 and table.growth_minus == 0.0:
        return count, -np.inf
    return _along_ridges(table, p, t, maxima, heights, count)


@jit_apart(returns="Tuple((int64, float64))")
def _along_ridges(table, p, t, maxima, heights, count):
    """`climb_ridges`, where there are some."""
    m = t.shape[1]
    escaped = -np.inf
    directions = np.empty((64, m))
    values = np.empty(64)
    n, _, _ = worst_directions(table, p, t, _RIDGE, directions, values)
    a = np.empty(m)
    for i in range(n):
        for number in range(RIDGE_RADII):
            if exhausted(table.stop, 1):
                return count, escaped
            if not ridge_start(table, p, t, directions[i], number, a):
                continue
            h, _ = ascend(table, p, t, a)
            if np.max(np.abs(a)) < _FAR_OUT:
                count = merge_maximum(maxima, heights, count, a, h, 1e-6)
            else:
                escaped = max(escaped, h - 4.0 * HEIGHT_ROUNDING * np.sum(a * a))
    return count, escaped


@jit
def _edge(table, p, t, u, held, flat, v):
    """Fill `v` with the unit vector nearest to `u` on the face of u, where kappa of the classes `held` vanishes.

    The face: directions on which growth with the signs of u is one to within `flat`. False where there is none.
    """
    n_classes, m = t.shape
    n = held.shape[0]
    second = np.empty(n_classes)
    for c in range(n_classes):
        second[c] = p[c] * (table.growth_plus if np.sum(t[c] * u) > 0.0 else table.growth_minus)
    minus = np.empty((m, m))
    minus_hessian(second, t, minus)
    gaps, axes = np.linalg.eigh(minus)
    within = np.zeros((m, m))
    dim = 0
    for i in range(m):
        if abs(gaps[i]) < flat:
            dim += 1
            for r in range(m):
                for q in range(m):
                    within[r, q] += axes[r, i] * axes[q, i]
    if dim <= n:
        return False
    normals = np.ascontiguousarray(t[held[0]]).reshape((1, m)) @ within
    for i in range(1, n):
        normals = np.concatenate((normals, np.ascontiguousarray(t[held[i]]).reshape((1, m)) @ within))
    singular, right = np.linalg.svd(normals, False)[1:]
    if not singular[n - 1] > 1e-6 * singular[0]:
        return False
    for r in range(m):
        v[r] = 0.0
        for q in range(m):
            v[r] += within[r, q] * u[q]
    for i in range(n):
        part = np.sum(right[i] * v)
        for r in range(m):
            v[r] -= part * right[i, r]
    length = np.sqrt(np.sum(v * v))
    if not length > 1e-6:
        return False
    v /= length
    return True


@jit_apart(returns="boolean")
def edge_above(table, p, t, s, soft, where):
    """Look for a readout above the level s far out along the edges of faces of growth one; fills `where` (m,) with it.

    At most two classes are held where R is largest; starts are up to where all others are in their limits.
    """
    n_classes, m = t.shape
    directions, values = np.empty((64, m)), np.empty(64)
    n, _, _ = worst_directions(table, p, t, 1.0 - _FACE, directions, values)
    fields = np.empty(n_classes)
    v, a = np.empty(m), np.empty(m)
    edges = np.empty((64, m))
    hold = 0.5 / table.scale
    held_r = _MOST_R * (cumulant2(table, hold)[0] - 0.5 * max(table.growth_plus, table.growth_minus) * hold * hold)
    highest = 0.0
    for pair in range(n_classes * n_classes):
        c, d = pair // n_classes, pair % n_classes
        if d > c or not held_r * (p[c] + (p[d] if d < c else 0.0)) > s:
            continue
        held = np.array([c, d]) if d < c else np.array([c])
        count = 0
        for i in range(n):
            u = directions[i]
            longest = 1e-300
            for k in range(n_classes):
                longest = max(longest, abs(np.sum(t[k] * u)))
            if not _edge(table, p, t, u, held, _FACE, v):
                largest = 0.0
                for k in held:
                    largest = max(largest, abs(np.sum(t[k] * u)))
                if largest > _SMALL * longest or held.shape[0] >= m:
                    continue
                copy_vector(v, u)
            elif 2.0 * growth_fields(table.growth_plus, table.growth_minus, p, t, v, fields, fields) < 1.0 - _FACE:
                continue
            before = count
            count = merge_maximum(edges, values, count, v, 0.0, 1e-6)
            if count == before:
                continue
            reach = 5.0 / (table.scale * longest)
            for _ in range(_EDGE_RADII):
                if exhausted(table.stop, 1):
                    return False
                for r in range(m):
                    a[r] = reach * v[r]
                reach *= 5.0
                if not _hold(table, t, held, a):
                    break
                value = climb_half_sphere(table, p, t, s, soft, a)
                size = soft + np.sum(a * a)
                if value > highest and value * size > _ABOVE * (1.0 + abs(s)) + 4.0 * HEIGHT_ROUNDING * size:
                    highest = value
                    copy_vector(where, a)
    return highest > 0.0
