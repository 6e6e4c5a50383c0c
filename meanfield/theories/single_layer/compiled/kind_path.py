"""A central path for tasks with kinds of classes: J with a soft maximum over orbits of codes (sigma_a = 1).

    J_beta(theta) = -sum_k share_k theta_k . y_k + tau/2 sum_k share_k |theta_k|^2
                    + (1/beta) ln sum_j e^{beta H_j(theta)}

with H_j the local maximum of h at the counts j of classes in the upper parts. J_beta is smooth, and Newton's method
takes a few steps at each beta, whatever the number of orbits that are nearly as high as the highest. These are found
by a flood fill over counts, from those of the step before; while beta is small, over a sublattice of counts.
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.copies import copy_matrix, copy_vector
from meanfield.numerics.cumulant_table import cumulant2
from meanfield.numerics.jit import jit
from meanfield.numerics.linalg import cholesky
from meanfield.theories.single_layer.compiled.kind_master import best_readouts, split_factors
from meanfield.theories.single_layer.compiled.newton_step import newton_step

__all__ = ["all_fields", "basic_weights", "distinct", "highest_orbits", "orbit_fields", "smooth_stage"]

_MOST = 600  # orbits at a time
_WINDOW = 18.0  # of beta (H - max H), where orbits count
_KEPT = 8.0  # windows: what is lower is forgotten
_STEPS = 30
_DECREMENT = 0.02  # Newton's estimate of J_beta above its minimum, in units of 1 / beta, at which a stage ends


@jit
def orbit_fields(table, n, p, excess_norm, theta, counts, v, columns, curvature):
    """h of an orbit; fills columns (K d,) = dh / dtheta and curvature (K d, K d), the second derivative of max_v h.

    Returns (h, |dh / dv|, ln det of minus the second derivative of h by the readout, all outputs).
    """
    n_kinds, d = theta.shape
    n_v = v.shape[0]
    stiff = np.eye(n_v)
    mixed = np.zeros((n_kinds * d, n_v))
    slope = np.zeros(n_v)
    z = np.empty(d)
    t = np.zeros(n_v)
    h = 0.0
    log_det = 0.0
    for i in range(n_kinds * d):
        columns[i] = 0.0
        for j in range(n_kinds * d):
            curvature[i, j] = 0.0
    for k in range(n_kinds):
        factors = split_factors(n[k], counts[k])
        for b in range(2):
            number = counts[k] if b == 1 else n[k] - counts[k]
            if number <= 0.0:
                continue
            kappa = 0.0
            for r in range(d):
                z[r] = v[r] if r < d - 1 else factors[b] * v[d - 1 + k]
                kappa += z[r] * theta[k, r]
            for i in range(n_v):
                t[i] = theta[k, i] if i < d - 1 else 0.0
            t[d - 1 + k] = factors[b] * theta[k, d - 1]
            g0, g1, g2 = cumulant2(table, kappa)
            weight = p[k] * number
            h += weight * g0
            log_det += (number - 1.0) * np.log(max(1.0 - excess_norm[k] * p[k] * g2, 1e-300))
            for i in range(n_v):
                slope[i] += weight * g1 * t[i]
                for j in range(n_v):
                    stiff[i, j] -= weight * g2 * t[i] * t[j]
            for r in range(d):
                row = k * d + r
                columns[row] += weight * g1 * z[r]
                for i in range(n_v):
                    mixed[row, i] += weight * g2 * z[r] * t[i]
                if r < d - 1:
                    mixed[row, r] += weight * g1
                else:
                    mixed[row, d - 1 + k] += weight * g1 * factors[b]
                for q in range(d):
                    curvature[row, k * d + q] += weight * g2 * z[r] * z[q]
    size = 0.0
    for i in range(n_v):
        h -= 0.5 * v[i] * v[i]
        size += (slope[i] - v[i]) ** 2
    factor = stiff.copy()
    if cholesky(factor):
        for i in range(n_kinds * d):  # rows of mixed C^{-T}
            for r in range(n_v):
                for q in range(r):
                    mixed[i, r] -= factor[r, q] * mixed[i, q]
                mixed[i, r] /= factor[r, r]
            for j in range(i + 1):
                total = 0.0
                for r in range(n_v):
                    total += mixed[i, r] * mixed[j, r]
                curvature[i, j] += total
                if j < i:
                    curvature[j, i] += total
        for r in range(n_v):
            log_det += 2.0 * np.log(factor[r, r])
    else:  # h does not bend down there
        solved = np.linalg.solve(stiff, mixed.T)
        for i in range(n_kinds * d):
            for j in range(n_kinds * d):
                for r in range(n_v):
                    curvature[i, j] += mixed[i, r] * solved[r, j]
        log_det += np.linalg.slogdet(stiff)[1]
    return h, np.sqrt(size), log_det


@jit
def all_fields(table, n, p, excess_norm, theta, counts, v, heights, slopes, widths, columns, curvature):
    """`orbit_fields` of several orbits: h (N,), slopes (N,), log determinants (N,), columns (N, K d) and curvature."""
    for o in range(counts.shape[0]):
        heights[o], slopes[o], widths[o] = orbit_fields(
            table, n, p, excess_norm, theta, counts[o], v[o], columns[o], curvature[o]
        )


@jit
def distinct(counts, v, distance):
    """Which orbits are there for the first time: others of the same counts are farther than `distance` (1 + |v|)."""
    kept = np.empty(counts.shape[0], np.int64)
    count = 0
    for i in range(counts.shape[0]):
        size = 0.0
        for r in range(v.shape[1]):
            size = max(size, abs(v[i, r]))
        known = False
        for j in kept[:count]:
            same = True
            for k in range(counts.shape[1]):
                same = same and counts[i, k] == counts[j, k]
            if not same:
                continue
            apart = 0.0
            for r in range(v.shape[1]):
                apart = max(apart, abs(v[i, r] - v[j, r]))
            if not apart > distance * (1.0 + size):
                known = True
                break
        if not known:
            kept[count] = i
            count += 1
    return kept[:count].copy()


@jit
def basic_weights(free, heights, weights):
    """Which of N orbits are left, and, in place, their weights, after changes along `free` (N, D), orthonormal columns.

    They go uphill in sum_o w_o h_o until the weight of an orbit is gone; then on in what does not change that one.
    """
    n, directions = free.shape
    left = np.ones(n, np.bool_)
    slope, along = np.empty(directions), np.empty(n)
    while directions > 0:
        top, size = -np.inf, 0.0
        for i in range(n):
            if left[i]:
                top, size = max(top, heights[i]), max(size, abs(heights[i]))
        for j in range(directions):
            slope[j] = 0.0
        for i in range(n):
            if left[i]:
                for j in range(directions):
                    slope[j] += (heights[i] - top) * free[i, j]
        steepest = 0.0
        for i in range(n):
            along[i] = 0.0
            if left[i]:
                for j in range(directions):
                    along[i] += free[i, j] * slope[j]
                steepest = max(steepest, abs(along[i]))
        gone, reach = -1, np.inf
        for i in range(n):
            if left[i]:
                if steepest <= 1e-14 * (1.0 + size):
                    along[i] = free[i, 0]
                if along[i] < 0.0 and weights[i] < -reach * along[i]:
                    gone, reach = i, -weights[i] / along[i]
        if gone < 0:
            break
        for i in range(n):
            if left[i]:
                weights[i] = max(weights[i] + reach * along[i], 0.0)
        left[gone] = False
        # What is left are the directions that do not change the one that is gone: a reflection makes them all but one.
        norm = 0.0
        for j in range(directions):
            slope[j] = free[gone, j]
            norm += slope[j] * slope[j]
        slope[0] += math.copysign(math.sqrt(norm), slope[0])
        norm = 0.0
        for j in range(directions):
            norm += slope[j] * slope[j]
        for i in range(n):
            if left[i]:
                product = 0.0
                for j in range(directions):
                    product += free[i, j] * slope[j]
                product *= 2.0 / norm
                for j in range(1, directions):
                    free[i, j - 1] = free[i, j] - product * slope[j]
        directions -= 1
    return left


@jit
def _key(n, counts):
    key = 0
    for k in range(n.shape[0]):
        key = key * (int(n[k]) + 1) + int(counts[k])
    return key


@jit
def _orbits(table, n, p, theta, split, low, high, known, window, strides, seen, orbits, fine):
    """Fill orbits = (counts, v, heights) with the maxima within `window` of the highest; returns their number.

    known = (counts, v) are climbed from where they are, neighbours at the distance `strides` from their code words;
    `fine` as in `best_readouts`.
    """
    counts, v, heights = orbits
    n_kinds = n.shape[0]
    for i in range(seen.shape[0]):
        seen[i] = False
    count = 0
    top = -np.inf
    row = np.empty((1, n_kinds))
    readout = np.empty((1, v.shape[1]))
    height = np.empty(1)
    for i in range(known[0].shape[0]):
        if count == counts.shape[0]:
            break
        copy_vector(row[0], known[0][i])
        copy_vector(readout[0], known[1][i])
        best_readouts(table, n, p, theta, row, readout, height, low, high, False, fine)
        key = _key(n, row[0])
        if seen[key]:
            continue
        seen[key] = True
        copy_vector(counts[count], row[0])
        copy_vector(v[count], readout[0])
        heights[count] = height[0]
        top = max(top, height[0])
        count += 1
    head = 0
    while head < count:
        if heights[head] > top - window:
            # One class more or less of a kind, or of one kind more and of another less.
            for move in range((n_kinds + 1) ** 2):
                more = move // (n_kinds + 1)
                less = move % (n_kinds + 1)
                if more == less or count == counts.shape[0] or exhausted(table.stop, 1):
                    continue
                copy_vector(row[0], counts[head])
                # To the next multiple of the stride, or to the end: one sublattice, wherever it is entered.
                if more < n_kinds and split[more]:
                    next_up = (np.floor(row[0, more] / strides[more]) + 1.0) * strides[more]
                    row[0, more] = min(next_up, n[more])
                if less < n_kinds and split[less]:
                    row[0, less] = (np.ceil(row[0, less] / strides[less]) - 1.0) * strides[less]
                    row[0, less] = max(row[0, less], 0.0)
                key = _key(n, row[0])
                if seen[key]:
                    continue
                seen[key] = True
                best_readouts(table, n, p, theta, row, readout, height, low, high, True, fine)
                found = _key(n, row[0])
                if found != key and seen[found]:
                    continue
                seen[found] = True
                copy_vector(counts[count], row[0])
                copy_vector(v[count], readout[0])
                heights[count] = height[0]
                top = max(top, height[0])
                count += 1
        head += 1
    kept = 0
    for i in range(count):
        if heights[i] > top - _KEPT * window:
            copy_vector(counts[kept], counts[i])
            copy_vector(v[kept], v[i])
            heights[kept] = heights[i]
            kept += 1
    return kept


@jit
def highest_orbits(table, n, p, theta, split, low, high, known, window, strides):
    """(counts, v, heights) of the orbits within `window` of the highest, along ridges and uphill from known ones."""
    n_kinds = n.shape[0]
    total = 1
    for k in range(n_kinds):
        total *= int(n[k]) + 1
    seen = np.empty(total, np.bool_)
    room = known[0].shape[0] + _MOST
    orbits = np.empty((room, n_kinds)), np.empty((room, known[1].shape[1])), np.empty(room)
    count = _orbits(table, n, p, theta, split, low, high, known, window, strides, seen, orbits, True)
    return orbits[0][:count].copy(), orbits[1][:count].copy(), orbits[2][:count].copy()


@jit
def _value(share, y, tau, theta, beta, heights, count, weights):
    """J_beta; fills the weights of the orbits. Infinite where there is none: numbers ran out."""
    if count == 0:
        return np.inf
    top = np.max(heights[:count])
    total = 0.0
    for i in range(count):
        weights[i] = np.exp(beta * (heights[i] - top))
        total += weights[i]
    for i in range(count):
        weights[i] /= total
    value = top + np.log(total) / beta
    for k in range(theta.shape[0]):
        for r in range(theta.shape[1]):
            value += share[k] * theta[k, r] * (0.5 * tau * theta[k, r] - y[k, r])
    return value


@jit
def _at_least(table, n, p, share, y, tau, theta, beta, counts, v, count, heights, weights):
    """J_beta with the readouts of known orbits as they are: no more than with those that are maxima at this theta."""
    n_kinds, d = theta.shape
    for o in range(count):
        heights[o] = 0.0
        for k in range(n_kinds):
            factors = split_factors(n[k], counts[o, k])
            mean = 0.0
            for r in range(d - 1):
                mean += v[o, r] * theta[k, r]
            for b in range(2):
                number = counts[o, k] if b == 1 else n[k] - counts[o, k]
                if number > 0.0:
                    g0, _, _ = cumulant2(table, mean + factors[b] * v[o, d - 1 + k] * theta[k, d - 1])
                    heights[o] += p[k] * number * g0
        for i in range(v.shape[1]):
            heights[o] -= 0.5 * v[o, i] * v[o, i]
    return _value(share, y, tau, theta, beta, heights, count, weights)


@jit
def smooth_stage(table, n, p, share, excess_factor, y, tau, split, low, high, theta, beta, known, strides):
    """Minimise J_beta from `theta` (overwritten); known = (counts, v) of orbits to begin with.

    Returns (ok, counts, v, heights, weights).
    """
    n_kinds, d = theta.shape
    size = n_kinds * d
    n_v = d - 1 + n_kinds
    total = 1
    for k in range(n_kinds):
        total *= int(n[k]) + 1
    seen = np.empty(total, np.bool_)
    window = _WINDOW / beta
    orbits = np.empty((_MOST, n_kinds)), np.empty((_MOST, n_v)), np.empty(_MOST)
    trials = np.empty((_MOST, n_kinds)), np.empty((_MOST, n_v)), np.empty(_MOST)
    counts, v, heights = orbits
    weights = np.empty(_MOST)
    trial_weights = np.empty(_MOST)
    columns = np.empty((_MOST, size))
    curvature = np.empty((size, size))
    matrix = np.empty((size, size))
    factor = np.empty((size, size))
    gradient = np.empty(size)
    mean = np.empty(size)
    step = np.empty(size)
    excess = np.empty(n_kinds)
    trial = np.empty((n_kinds, d))
    count = _orbits(table, n, p, theta, split, low, high, known, window, strides, seen, orbits, False)
    value = _value(share, y, tau, theta, beta, heights, count, weights)
    ok = value < np.inf
    for _ in range(_STEPS if ok else 0):
        if exhausted(table.stop, count * size):
            ok = False
            break
        for k in range(n_kinds):
            excess[k] = excess_factor[k] * theta[k, d - 1] ** 2
        for i in range(size):
            mean[i] = 0.0
            for j in range(size):
                matrix[i, j] = 0.0
        for o in range(count):
            if weights[o] < 1e-12:
                continue
            orbit_fields(table, n, p, excess, theta, counts[o], v[o], columns[o], curvature)
            for i in range(size):
                mean[i] += weights[o] * columns[o, i]
                for j in range(i + 1):
                    matrix[i, j] += weights[o] * (curvature[i, j] + beta * columns[o, i] * columns[o, j])
        for i in range(size):
            k, r = i // d, i % d
            gradient[i] = mean[i] + share[k] * (tau * theta[k, r] - y[k, r])
            for j in range(i + 1):
                matrix[i, j] -= beta * mean[i] * mean[j]
            matrix[i, i] += share[k] * tau
            if r == d - 1 and not split[k]:
                for j in range(size):
                    matrix[max(i, j), min(i, j)] = 0.0
                matrix[i, i] = 1.0
                gradient[i] = 0.0
        newton_step(matrix, gradient, factor, step)
        slope = np.sum(step * gradient)
        if not -slope * beta > _DECREMENT:
            break
        length = min(1.0, (1.0 + np.max(np.abs(theta))) / np.max(np.abs(step)))
        moved, found, trial_value = False, 0, value
        for _ in range(30):
            for k in range(n_kinds):
                for r in range(d):
                    trial[k, r] = theta[k, r] + length * step[k * d + r]
            most = value + 0.1 * length * slope + 1e-13 * (1.0 + abs(value))
            # Climbing takes most of the time, and most of what is too high is so from where the climbs start.
            least = _at_least(table, n, p, share, y, tau, trial, beta, counts, v, count, trials[2], trial_weights)
            if not least > most:
                found = _orbits(
                    table, n, p, trial, split, low, high, (counts[:count], v[:count]), window, strides, seen, trials,
                    False,
                )  # fmt: skip
                trial_value = _value(share, y, tau, trial, beta, trials[2], found, trial_weights)
                if trial_value <= most:
                    moved = True
                    break
            length *= 0.4
        if not moved:
            break
        copy_matrix(theta, trial)
        value, count = trial_value, found
        for i in range(count):
            copy_vector(counts[i], trials[0][i])
            copy_vector(v[i], trials[1][i])
            heights[i] = trials[2][i]
            weights[i] = trial_weights[i]
    return ok, counts[:count].copy(), v[:count].copy(), heights[:count].copy(), weights[:count].copy()
