"""Directions along which the single-neuron action of an unbounded activation stops being confined (sigma_a = 1).

J(t) is finite only where Q(t) = max over unit u of sum_c p_c g(t_c.u) is at most one, g(kappa) = growth_+ [kappa]_+^2 +
growth_- [kappa]_-^2. With v_c = +-sqrt(p_c growth_+-) t_c this is the maximum of the Rayleigh quotient of the Gram
matrix of the v_c over non-negative vectors: on its minimal support a maximiser is the leading eigenvector of the
principal submatrix (the test of copositivity by principal submatrices), so all supports and signs are enumerated.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.copies import copy_vector
from meanfield.numerics.jit import jit_apart
from meanfield.theories.single_layer.compiled.ascent import climb_direction, merge_maximum

__all__ = ["MAX_PATTERNS", "worst_directions"]

MAX_PATTERNS = 1 << 20  # above this the enumeration is replaced by a multistart search, which proves nothing


@jit_apart(returns="Tuple((int64, float64, boolean))")
def worst_directions(table, p, t, threshold, directions, values):
    """Local maxima u of sum_c p_c g(t_c.u) above `threshold`: fills directions (n, m), values (n,).

    Returns (count, Q, exact): Q is the global maximum where `exact`, else the best found.
    """
    n_classes, m = t.shape
    two_sided = table.growth_minus > 0.0 and table.growth_plus > 0.0
    base = 3 if two_sided else 2
    patterns = 1
    for _ in range(n_classes):
        patterns = min(patterns * base, 4 * MAX_PATTERNS)
    count = 0
    worst = 0.0
    u = np.empty(m)
    if patterns > MAX_PATTERNS:
        for c in range(n_classes):
            norm = np.sqrt(np.sum(t[c] * t[c]))
            for sign in (-1.0, 1.0):
                copy_vector(u, sign * t[c] / max(norm, 1e-300))
                value = climb_direction(table, p, t, u)
                worst = max(worst, value)
                if value > threshold:
                    count = merge_maximum(directions, values, count, u, value, 1e-9)
        return count, worst, False
    vectors = np.empty((n_classes, m))
    for pattern in range(1, patterns):
        if exhausted(table.stop, n_classes):
            return count, worst, False
        size = 0
        code = pattern
        for c in range(n_classes):
            digit = code % base
            code //= base
            if digit == 0:
                continue
            positive = digit == 1 if two_sided else table.growth_plus > 0.0
            growth = table.growth_plus if positive else table.growth_minus
            factor = np.sqrt(p[c] * growth) * (1.0 if positive else -1.0)
            for r in range(m):
                vectors[size, r] = factor * t[c, r]
            size += 1
        if size == 1:
            value = np.sum(vectors[0] * vectors[0])
            copy_vector(u, vectors[0])
        else:
            gram = np.empty((size, size))
            for i in range(size):
                for j in range(size):
                    gram[i, j] = np.sum(vectors[i] * vectors[j])
            if np.max(gram) <= 0.0:
                continue
            eigenvalues, eigenvectors = np.linalg.eigh(gram)
            value = eigenvalues[size - 1]
            leading = eigenvectors[:, size - 1]
            if np.sum(leading) < 0.0:
                leading = -leading
            if np.min(leading) < -1e-9:
                continue
            u[:] = 0.0
            for i in range(size):
                for r in range(m):
                    u[r] += leading[i] * vectors[i, r]
        norm = np.sqrt(np.sum(u * u))
        worst = max(worst, value)
        if value > threshold and norm > 0.0:
            count = merge_maximum(directions, values, count, u / norm, value, 1e-9)
    return count, worst, True
