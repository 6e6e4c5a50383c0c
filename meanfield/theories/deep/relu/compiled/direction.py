"""Maximum of Ehat over h at given beta, and the ascent over directions beta that never lowers it (relu/outlier.py)."""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.jit import jit
from meanfield.numerics.linalg import cholesky, cholesky_solve

__all__ = ["climb", "condense"]


@jit
def condense(root, beta, n, d, delta, inverse, fields, out):
    """Twice the maximum over h of Ehat + |beta|^2 / 2; h, activation and force of each class into `out` (3, C).

    Without `fields` h = 0. Each class is on, at the kink or off: 3^C linear systems. Infinite where one that is on is
    not bounded.
    """
    n_classes, q = root.shape
    b = np.zeros(n_classes)
    for c in range(n_classes):
        for k in range(q):
            b[c] += root[c, k] * beta[k]
    if not fields:
        gain = 0.0
        for c in range(n_classes):
            narrow = d[c] / (1.0 - delta[c] * d[c])
            out[0, c], out[1, c], out[2, c] = 0.0, max(narrow * b[c], 0.0), 0.0
            gain += n[c] * out[1, c] ** 2 / narrow
        return gain
    best = -math.inf
    matrix, h = np.empty((n_classes, n_classes)), np.empty(n_classes)
    total = 1
    for _ in range(n_classes):
        total *= 3
    for code in range(total):
        rest, some_on = code, False
        for c in range(n_classes):
            for e in range(n_classes):
                matrix[c, e] = inverse[c, e]
        for c in range(n_classes):
            piece = rest % 3
            rest //= 3
            narrow = d[c] / (1.0 - delta[c] * d[c])
            h[c] = 0.0
            if piece == 0:
                some_on = True
                matrix[c, c] -= n[c] * delta[c] * narrow / d[c]
                h[c] = n[c] * narrow * b[c] / d[c]
            elif piece == 1:
                matrix[c, c] += n[c] / d[c]
        if not cholesky(matrix):
            if some_on:
                out[:] = 0.0
                return math.inf
            continue
        cholesky_solve(matrix, h)
        gain = 0.0
        for c in range(n_classes):
            for e in range(n_classes):
                gain -= h[c] * inverse[c, e] * h[e]
        for c in range(n_classes):
            narrow = d[c] / (1.0 - delta[c] * d[c])
            mu = narrow * (b[c] + h[c] / d[c])
            off = -(max(h[c], 0.0) ** 2) / d[c]
            value = mu * mu / narrow - h[c] * h[c] / d[c]
            gain += n[c] * (value if mu > 0.0 and value > off else off)
        if gain > best:
            best = gain
            for c in range(n_classes):
                narrow = d[c] / (1.0 - delta[c] * d[c])
                mu = narrow * (b[c] + h[c] / d[c])
                off = -(max(h[c], 0.0) ** 2) / d[c]
                on = mu > 0.0 and mu * mu / narrow - h[c] * h[c] / d[c] > off
                z = mu if on else min(h[c], 0.0)
                out[0, c], out[1, c], out[2, c] = h[c], mu if on else 0.0, (z - h[c]) / d[c]
    return best


@jit
def climb(root, beta, n, d, delta, inverse, fields, steps, out):
    """The largest gain met on the way beta -> R^T (n ghat_b) / |.| from the unit vector `beta`, moved in place.

    `out` is that of the last direction."""
    n_classes, q = root.shape
    push = np.empty(q)
    gain = condense(root, beta, n, d, delta, inverse, fields, out)
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
        gain = condense(root, beta, n, d, delta, inverse, fields, out)
        worst = max(worst, gain)
        if change < 1e-24:
            break
    return worst
