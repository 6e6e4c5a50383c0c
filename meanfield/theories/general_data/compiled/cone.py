"""Directions in which the single-neuron action of an unbounded activation is not confined, for any input kernel.

With phi(z) = s_- z for z < 0 and s_+ z for z > 0 the action is homogeneous, and the readout integral exists only where

    q(t) = max over unit u, and w, of (t u).phi(F w) - |w|^2 / 2 = max over unit v in R^r of |t^T phi(F v)|^2 / 2

stays below P / 2 sigma_a^2 (the second form: w = |w| v, then |w| and u maximised). On one pattern of signs of z, with
z = 0 imposed where a sample rests on the kink, q is half the largest eigenvalue of an m x m matrix. The search has to
find the patterns: for given u, samples with c = (s_+ - s_-) t.u > 0 are convex and enter linearised, those with c < 0
are concave and their part is solved exactly, a least-squares problem over a box (general_data/THEORY.md, "Bulk and
outliers").
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.copies import copy_vector
from meanfield.numerics.jit import jit

__all__ = ["climb", "maximise_pattern", "search"]

_BOX_SWEEPS = 400
_BOX_TOLERANCE = 1e-13
_DEPENDENT = 1e-9  # of a row's length: what is left of it beyond the rows before counts as nothing
_EDGE = 1e-9  # |z|, in units of |f||w|, that counts as zero
_INSIDE = 1e-7  # share of the box within which a multiplier counts as at its end


@jit
def _response(features, t, slopes, w):
    """t^T phi(F w) (m,)."""
    z = features @ w
    total = np.zeros(t.shape[1])
    for mu in range(z.shape[0]):
        value = z[mu] * (slopes[1] if z[mu] > 0.0 else slopes[0])
        for r in range(t.shape[1]):
            total[r] += t[mu, r] * value
    return total


@jit
def _box(features, length2, curvature, multiplier, w):
    """Minimise |w|^2 over w = w_0 - sum_mu multiplier_mu f_mu, 0 <= multiplier_mu <= -curvature_mu, by coordinates.

    `w` and `multiplier` belong together on entry and on return; only samples with curvature_mu < 0 move.
    """
    n_samples, rank = features.shape
    for _ in range(_BOX_SWEEPS):
        largest = 0.0
        for mu in range(n_samples):
            if curvature[mu] >= 0.0 or length2[mu] <= 0.0:
                continue
            z = 0.0
            for i in range(rank):
                z += features[mu, i] * w[i]
            new = min(max(multiplier[mu] + z / length2[mu], 0.0), -curvature[mu])
            change = new - multiplier[mu]
            if change != 0.0:
                multiplier[mu] = new
                for i in range(rank):
                    w[i] -= change * features[mu, i]
                largest = max(largest, change * change * length2[mu])
        if largest <= _BOX_TOLERANCE**2 * (1e-300 + np.sum(w * w)):
            break


@jit
def maximise_pattern(features, t, slopes, pattern):
    """Maximum of q with the signs of z given: pattern (P,) of -1, +1, and 0 where z = 0 is imposed.

    Returns (ok, u (m,), w (r,)) with q = |w|^2 / 2; ok where the signs of z = F w are those of the pattern and the
    samples at the kink are held there by forces within their range, so that (u, w) is a local maximum.
    """
    n_samples, rank = features.shape
    m = t.shape[1]
    basis = np.zeros((min(rank, n_samples), rank))  # orthonormal rows that span the f_mu at the kink
    n_basis = 0
    linear = np.zeros((m, rank))
    row = np.empty(rank)
    for mu in range(n_samples):
        if pattern[mu] != 0:
            slope = slopes[1] if pattern[mu] > 0 else slopes[0]
            for a in range(m):
                weight = t[mu, a] * slope
                for i in range(rank):
                    linear[a, i] += weight * features[mu, i]
            continue
        copy_vector(row, features[mu])
        size = np.sqrt(np.sum(row * row))
        for _ in range(2):  # twice is enough
            for b in range(n_basis):
                row -= np.sum(basis[b] * row) * basis[b]
        left = np.sqrt(np.sum(row * row))
        if left > _DEPENDENT * size and n_basis < basis.shape[0]:
            copy_vector(basis[n_basis], row / left)
            n_basis += 1
    free = linear.copy()
    for _ in range(2):
        for a in range(m):
            for b in range(n_basis):
                row = free[a]
                row -= np.sum(basis[b] * row) * basis[b]
    values, vectors = np.linalg.eigh(free @ free.T)
    u = vectors[:, m - 1].copy()
    w = u @ free
    # u and -u with w and -w have the same q on paper; only one of them has the signs of the pattern.
    z = features @ w
    agreement = 0.0
    for mu in range(n_samples):
        agreement += pattern[mu] * z[mu]
    if agreement < 0.0:
        u, w, z = -u, -w, -z
    ok = values[m - 1] > 0.0
    scale = 1e-10 * np.sqrt(np.sum(w * w))
    kinked = 0
    for mu in range(n_samples):
        if pattern[mu] == 0:
            kinked += 1
        elif pattern[mu] * z[mu] < -scale * np.sqrt(np.sum(features[mu] * features[mu])):
            ok = False
    if ok and kinked > 0:
        # t^T phi pulls w out of the plane z = 0 by `force`: the kinks must hold it, each by s in [s_-, s_+] times t.u.
        rows = np.empty((kinked, rank))
        bound = np.empty(kinked)
        n = 0
        force = u @ linear - w
        for mu in range(n_samples):
            if pattern[mu] == 0:
                copy_vector(rows[n], features[mu])
                pull = np.sum(t[mu] * u)
                bound[n] = -(slopes[1] - slopes[0]) * pull
                force += slopes[0] * pull * features[mu]
                n += 1
        ok = _held(rows, bound, force)
    return ok, u, w


@jit
def _held(rows, bound, force):
    """Whether force = sum_i b_i rows_i for some b_i in [0, bound_i]."""
    if np.min(bound) < 0.0:
        return False
    size = np.sqrt(np.sum(force * force))
    multiplier = np.empty(bound.shape[0])
    length2 = np.empty(bound.shape[0])
    left = force.copy()
    for i in range(bound.shape[0]):
        multiplier[i] = 0.5 * bound[i]
        left -= multiplier[i] * rows[i]
        length2[i] = np.sum(rows[i] * rows[i])
    _box(rows, length2, -bound, multiplier, left)
    # Reached slowly, not in finitely many steps, where rows are nearly dependent.
    return np.sqrt(np.sum(left * left)) <= 1e-6 * (size + np.sqrt(np.max(bound**2 * length2)))


@jit
def climb(features, t, slopes, u, w, pattern, max_sweeps):
    """Local maximum of q from (u, w); w = 0 means the best w for this u, every convex sample on the steeper side.

    Returns (ok, q, sweeps); overwrites u (m,), w (r,) with |w|^2 = 2 q, and pattern (P,). Where `ok` is False the value
    is that of the best point reached, a lower bound of the maximum.
    """
    n_samples, rank = features.shape
    length2 = np.empty(n_samples)
    for mu in range(n_samples):
        length2[mu] = np.sum(features[mu] * features[mu])
    convexity = slopes[1] - slopes[0]
    steeper = 1 if abs(slopes[1]) >= abs(slopes[0]) else -1
    multiplier = np.zeros(n_samples)
    curvature = np.empty(n_samples)
    last = np.full(n_samples, np.int8(2))
    best = 0.0
    for sweep in range(max_sweeps):
        z = features @ w
        edge = _EDGE * np.sqrt(np.sum(w * w))
        point = np.zeros(rank)
        for mu in range(n_samples):
            pull = np.sum(t[mu] * u)
            curvature[mu] = convexity * pull
            weight = slopes[0] * pull
            if curvature[mu] > 0.0:
                # At z = 0 a convex sample is pulled to its steeper side; staying there would be a saddle.
                at_kink = abs(z[mu]) <= edge * np.sqrt(length2[mu])
                if steeper > 0 if at_kink else z[mu] > 0.0:
                    weight += curvature[mu]
                multiplier[mu] = 0.0
            else:
                multiplier[mu] = min(multiplier[mu], -curvature[mu])
                weight -= multiplier[mu]
            for i in range(rank):
                point[i] += weight * features[mu, i]
        copy_vector(w, point)
        _box(features, length2, curvature, multiplier, w)
        size = np.sqrt(np.sum(w * w))
        if size == 0.0:
            return False, 0.0, sweep
        z = features @ w
        same = True
        for mu in range(n_samples):
            inside = _INSIDE * -curvature[mu]
            if curvature[mu] < 0.0 and inside < multiplier[mu] < -curvature[mu] - inside:
                sign = 0
            else:
                sign = 1 if z[mu] > 0.0 else -1
                if curvature[mu] > 0.0 and abs(z[mu]) <= _EDGE * size * np.sqrt(length2[mu]):
                    sign = steeper
            pattern[mu] = sign
            same = same and sign == last[mu]
            last[mu] = sign
        if same or sweep == max_sweeps - 1:
            ok, u_new, w_new = maximise_pattern(features, t, slopes, pattern)
            value = 0.5 * np.sum(w_new * w_new)
            if ok and value >= best * (1.0 - 1e-9):
                copy_vector(u, u_new)
                copy_vector(w, w_new)
                return True, value, sweep
        response = _response(features, t, slopes, w / size)
        length = np.sqrt(np.sum(response * response))
        if length == 0.0:
            return False, 0.0, sweep
        copy_vector(u, response / length)
        best = 0.5 * length * length
        w *= length / size
    return False, best, max_sweeps


@jit
def search(features, t, slopes, u, w, pattern, max_sweeps, ok, values):
    """`climb` from every row of u (n, m), w (n, r), pattern (n, P), in place; fills ok (n,) and values (n,) = q."""
    for start in range(u.shape[0]):
        ok[start], values[start], _ = climb(features, t, slopes, u[start], w[start], pattern[start], max_sweeps)
