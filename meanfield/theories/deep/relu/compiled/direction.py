"""Maximum of Ehat over h at given beta, and the ascent over directions beta that never lowers it (relu/outlier.py)."""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.jit import jit
from meanfield.numerics.linalg import cholesky, cholesky_solve

__all__ = ["climb", "condense"]


@jit
def _largest(b, h, d, delta, phi):
    """2 ghat, and the z and phi(z) at which it is: on the side of one of the slopes, or at the kink."""
    best, z, value = -h * h / d, 0.0, 0.0
    for k in range(2):
        r = phi[k]
        narrow = d / (1.0 - delta * r * r * d)
        mu = narrow * (r * b + h / d) if r != 0.0 else h
        found = narrow * r * (r * b * b + 2.0 * b * h / d + delta * r * h * h / d)
        if (mu > 0.0 if k == 1 else mu < 0.0) and found > best:
            best, z, value = found, mu, r * mu
    return best, z, value


@jit
def condense(root, beta, n, d, delta, phi, inverse, fields, out):
    """Twice the maximum over h of Ehat + |beta|^2 / 2; h, activation and force of each class into `out` (3, C).

    Without `fields` h = 0. Each class is above, at or below the kink, phi having the slopes phi[1] and phi[0] there:
    3^C linear systems. Infinite where one that is above is not bounded.
    """
    n_classes, q = root.shape
    b = np.zeros(n_classes)
    for c in range(n_classes):
        for k in range(q):
            b[c] += root[c, k] * beta[k]
    if not fields:
        gain = 0.0
        for c in range(n_classes):
            value, z, y = _largest(b[c], 0.0, d[c], delta[c], phi)
            out[0, c], out[1, c], out[2, c] = 0.0, y, z / d[c]
            gain += n[c] * value
        return gain
    best = -math.inf
    matrix, h = np.empty((n_classes, n_classes)), np.empty(n_classes)
    total = 1
    for _ in range(n_classes):
        total *= 3
    for code in range(total):
        rest, driven = code, False
        for c in range(n_classes):
            for e in range(n_classes):
                matrix[c, e] = inverse[c, e]
        for c in range(n_classes):
            piece = rest % 3
            rest //= 3
            h[c] = 0.0
            r = phi[1] if piece == 0 else phi[0]
            if piece == 1:
                matrix[c, c] += n[c] / d[c]
            elif r != 0.0:
                driven = True
                narrow = d[c] / (1.0 - delta[c] * r * r * d[c])
                matrix[c, c] -= n[c] * delta[c] * r * r * narrow / d[c]
                h[c] = n[c] * narrow * r * b[c] / d[c]
        if not cholesky(matrix):
            if driven:
                out[:] = 0.0
                return math.inf
            continue
        cholesky_solve(matrix, h)
        gain = 0.0
        for c in range(n_classes):
            for e in range(n_classes):
                gain -= h[c] * inverse[c, e] * h[e]
        for c in range(n_classes):
            value, _, _ = _largest(b[c], h[c], d[c], delta[c], phi)
            gain += n[c] * value
        if gain > best:
            best = gain
            for c in range(n_classes):
                _, z, y = _largest(b[c], h[c], d[c], delta[c], phi)
                out[0, c], out[1, c], out[2, c] = h[c], y, (z - h[c]) / d[c]
    return best


@jit
def climb(root, beta, n, d, delta, phi, inverse, fields, steps, out):
    """The largest gain met on the way beta -> R^T (n ghat_b) / |.| from the unit vector `beta`, moved in place.

    `out` is that of the last direction."""
    n_classes, q = root.shape
    push = np.empty(q)
    gain = condense(root, beta, n, d, delta, phi, inverse, fields, out)
    worst = gain
    for _ in range(steps):
        if not gain < math.inf:
            break
        size = 0.0
        for k in range(q):
            push[k] = 0.0
            for c in range(n_classes):
                push[k] += root[c, k] * n[c] * out[1, c]
            size += push[k] ** 2
        size = math.sqrt(size)
        if not size > 0.0:
            break
        change = 0.0
        for k in range(q):
            change += (push[k] / size - beta[k]) ** 2
            beta[k] = push[k] / size
        gain = condense(root, beta, n, d, delta, phi, inverse, fields, out)
        worst = max(worst, gain)
        if change < 1e-24:
            break
    return worst
