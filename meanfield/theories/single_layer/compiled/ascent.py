"""Local maxima of the single-neuron action h(a; t) over the readout a (sigma_a = 1)."""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.copies import copy_matrix, copy_vector
from meanfield.numerics.cumulant_table import cumulant2
from meanfield.numerics.jit import jit, jit_apart
from meanfield.numerics.linalg import cholesky, cholesky_solve
from meanfield.theories.single_layer.compiled.generated.action import action_hessian, growth_fields
from meanfield.theories.single_layer.compiled.generated.stationarity import field_gradient

__all__ = [
    "NO_PUSH",
    "ascend",
    "climb_direction",
    "code_word_start",
    "find_maxima",
    "linear_push",
    "merge_maximum",
]

_MAX_STEPS = 200
_CRAWLING = 20  # monotone steps after which they are stretched
_STRIDING = 40  # and after which axes are told apart
_CURVATURE = 1e-14  # below which h counts as straight along an axis
_RADII = 3  # starts on a ridge where phi grows on both sides, but not equally
_LOST = 1e7  # where an ascent ends, if h still does not bend down
_FAR_OUT = 1e5  # a readout beyond this has run away, in units of sigma_a
NO_PUSH = 1e-6  # slopes of R far out below this count as zero (rounding, or slowly decaying tails)


@jit_apart(returns="UniTuple(float64, 2)")
def ascend(table, p, t, a):
    """Move `a` (in place) to a local maximum of h; returns (h, |grad h|_inf).

    Newton where h is strictly concave, otherwise the monotone step a <- sum_c p_c G'(a.t_c) t_c that maximises the
    minorant obtained by linearising the convex G, or a longer one along ridges.
    """
    m = a.shape[0]
    grad = np.empty(m)
    hess = np.empty((m, m))
    step = np.empty(m)
    trial = np.empty(m)
    trial_grad = np.empty(m)
    trial_hess = np.empty((m, m))
    scale = 1.0
    work = 1 + t.shape[0] * (16 + m * m) // 64
    for c in range(t.shape[0]):
        for r in range(m):
            scale += p[c] * abs(t[c, r])
    h = action_hessian(table, p, t, a, grad, hess)
    plain = 0
    stretch = 1.0
    strides = True
    for _ in range(_MAX_STEPS):
        if exhausted(table.stop, work):
            break
        size = 0.0
        for r in range(m):
            size = max(size, abs(grad[r]))
            step[r] = grad[r]
        if size <= 3e-16 * scale:
            return h, size
        newton = cholesky(hess)
        if newton:
            cholesky_solve(hess, step)
            for r in range(m):
                trial[r] = a[r] + step[r]
            h_trial = action_hessian(table, p, t, trial, trial_grad, trial_hess)
            trial_size = 0.0
            for r in range(m):
                trial_size = max(trial_size, abs(trial_grad[r]))
            # Close to the maximum h no longer resolves the step, its gradient does.
            newton = h_trial > h or (h_trial > h - 1e-12 * (1.0 + abs(h)) and trial_size < size)
            if not newton and size <= 1e-13 * scale:
                return h, size
        if not newton:
            # On a long ridge the monotone step crawls: twice as far each time, as long as that leads uphill, then with
            # a length of its own for each axis.
            plain += 1
            if np.max(np.abs(a)) > _LOST:
                return h, size
            strides = strides and plain > _STRIDING and _stride(table, p, t, a, h, grad, trial, trial_grad, trial_hess)
            if strides:
                h_trial = action_hessian(table, p, t, trial, trial_grad, trial_hess)
            else:
                strides = plain <= _STRIDING
                stretch = 2.0 * stretch if plain > _CRAWLING else 1.0
                while True:
                    for r in range(m):
                        trial[r] = a[r] + stretch * grad[r]
                    h_trial = action_hessian(table, p, t, trial, trial_grad, trial_hess)
                    if h_trial > h or stretch == 1.0:
                        break
                    stretch = 1.0
            if h_trial <= h and size <= 1e-13 * scale:
                return h, size
        h = h_trial
        copy_vector(a, trial)
        copy_vector(grad, trial_grad)
        copy_matrix(hess, trial_hess)
    size = 0.0
    for r in range(m):
        size = max(size, abs(grad[r]))
    return h, size


@jit_apart(returns="boolean")
def _stride(table, p, t, a, h, grad, trial, trial_grad, trial_hess):
    """Fill `trial` with a higher point by Newton's step with the absolute values of the curvatures; False if none is.

    Along a ridge h bends up, or hardly, and across it strongly: each axis is given a step of its own.
    """
    m = a.shape[0]
    action_hessian(table, p, t, a, trial_grad, trial_hess)
    curvatures, axes = np.linalg.eigh(trial_hess)
    step = np.zeros(m)
    for i in range(m):
        along = 0.0
        for r in range(m):
            along += axes[r, i] * grad[r]
        along /= max(abs(curvatures[i]), _CURVATURE)
        for r in range(m):
            step[r] += along * axes[r, i]
    length = min(1.0, (1.0 + np.sqrt(np.sum(a * a))) / max(np.sqrt(np.sum(step * step)), 1e-300))
    for _ in range(6):
        for r in range(m):
            trial[r] = a[r] + length * step[r]
        if action_hessian(table, p, t, trial, trial_grad, trial_hess) > h:
            return True
        length *= 0.25
    return False


@jit
def code_word_start(p, t, word, low, high, a):
    """Fill `a` with sum_c p_c phi_c t_c, where class c has activation `high` if bit c of `word` is set, else `low`."""
    n_classes, m = t.shape
    for r in range(m):
        a[r] = 0.0
        for c in range(n_classes):
            a[r] += p[c] * t[c, r] * (high if (word >> c) & 1 else low)


@jit_apart(returns="float64")
def climb_direction(table, p, t, u):
    """Fixed point u <- sum_c p_c g'(t_c.u) t_c / |.| (in place, monotone); returns sum_c p_c g(t_c.u)."""
    n_classes, m = t.shape
    value = 0.0
    trial = np.empty(m)
    first = np.empty(n_classes)
    second = np.empty(n_classes)
    for _ in range(2000):
        if exhausted(table.stop, 1 + n_classes * m // 64):
            break
        new = 2.0 * growth_fields(table.growth_plus, table.growth_minus, p, t, u, first, second)
        field_gradient(first, t, trial)
        norm = np.sqrt(np.sum(trial * trial))
        if norm == 0.0:
            return new
        change = 0.0
        for r in range(m):
            trial[r] /= norm
            change = max(change, abs(trial[r] - u[r]))
            u[r] = trial[r]
        value = new
        if change < 1e-15:
            break
    return value


@jit_apart(returns="float64")
def linear_push(table, p, t, u):
    """Slope in r of sum_c p_c R(r t_c.u) far out: where it is positive, codes sit far out but not at infinity."""
    push = 0.0
    for c in range(t.shape[0]):
        kappa = np.sum(t[c] * u)
        edge = table.kappa_max if kappa > 0.0 else -table.kappa_max
        growth = table.growth_plus if kappa > 0.0 else table.growth_minus
        _, g1, _ = cumulant2(table, edge)
        push += p[c] * kappa * (g1 - growth * edge)
    return push


@jit
def merge_maximum(maxima, heights, count, a, h, distance):
    """Insert maximum `a` unless one within `distance` is known; returns the count (full arrays drop the lowest)."""
    m = a.shape[0]
    for i in range(count):
        d = 0.0
        for r in range(m):
            d = max(d, abs(maxima[i, r] - a[r]))
        if d <= distance * (1.0 + np.max(np.abs(a))):
            return count
    if count == maxima.shape[0]:
        lowest = np.argmin(heights[:count])
        if heights[lowest] >= h:
            return count
        copy_vector(maxima[lowest], a)
        heights[lowest] = h
        return count
    copy_vector(maxima[count], a)
    heights[count] = h
    return count + 1


@jit
def _climb_and_merge(table, p, t, a, maxima, heights, count):
    """Climb from `a` and insert the maximum, unless it runs away along an unconfined direction: that is an outlier."""
    h, _ = ascend(table, p, t, a)
    if not np.max(np.abs(a)) < _FAR_OUT:
        return count
    return merge_maximum(maxima, heights, count, a, h, 1e-6)


@jit_apart(returns="int64")
def _from_far(table, p, t, on_ridges, maxima, heights, count):
    """The starts of `find_maxima` far out, where phi is unbounded; returns the number of maxima."""
    n_classes, m = t.shape
    a = np.empty(m)
    least, most = min(table.growth_plus, table.growth_minus), max(table.growth_plus, table.growth_minus)
    ridges = on_ridges and 0.0 < least < most
    for c in range(2 * n_classes):
        norm = np.sqrt(np.sum(t[c // 2] * t[c // 2]))
        if norm == 0.0:
            continue
        u = t[c // 2] / (norm if c % 2 == 0 else -norm)
        confinement = 1.0 - climb_direction(table, p, t, u)
        push = linear_push(table, p, t, u)
        if push > NO_PUSH and confinement > 0.0:
            copy_vector(a, u * min(push / confinement, 1e6))
            count = _climb_and_merge(table, p, t, a, maxima, heights, count)
        elif ridges:
            # The steeper side masks the other one up to here: R rises along the ridge, against the confinement.
            longest = 1e-300
            for d in range(n_classes):
                longest = max(longest, abs(np.sum(t[d] * u)))
            reach = np.sqrt(most / least) / (table.scale * longest)
            for _ in range(_RADII):
                copy_vector(a, u * min(reach, 0.5 * _FAR_OUT))
                count = _climb_and_merge(table, p, t, a, maxima, heights, count)
                reach *= 3.0
    return count


@jit_apart(returns="int64", from_python=True)
def find_maxima(table, p, t, low, high, starts, on_ridges, maxima, heights):
    """Local maxima of h from `starts` (n, m), all code words (up to 2^12) and the origin; returns their number.

    on_ridges: also from far out on the ridges of h, where phi grows on both sides, but not equally.
    """
    n_classes, m = t.shape
    count = 0
    a = np.empty(m)
    for i in range(starts.shape[0]):
        if exhausted(table.stop, 1):
            break
        copy_vector(a, starts[i])
        count = _climb_and_merge(table, p, t, a, maxima, heights, count)
    words = 1 << min(n_classes, 12)
    for word in range(words):
        if exhausted(table.stop, 1):
            break
        code_word_start(p, t, word, low, high, a)
        count = _climb_and_merge(table, p, t, a, maxima, heights, count)
    if table.growth_plus > 0.0 or table.growth_minus > 0.0:
        count = _from_far(table, p, t, on_ridges, maxima, heights, count)
    code_word_start(p, t, 0, 0.5 * (low + high), high, a)
    return _climb_and_merge(table, p, t, a, maxima, heights, count)
