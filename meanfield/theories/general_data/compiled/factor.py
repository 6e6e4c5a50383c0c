"""Blocked Cholesky factor and triangular solve: matrix products through BLAS, the rest in short vectorised loops."""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.jit import jit

__all__ = ["factor_and_solve", "solve_transposed"]

_BLOCK = 48


@jit
def _subtract_rows(rows, weights, target):
    """target -= weights @ rows for a handful of rows: four at a time, so that one pass over `target` serves four."""
    n = weights.shape[0]
    full = n - n % 4
    for i in range(0, full, 4):
        w0, w1, w2, w3 = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        r0, r1, r2, r3 = rows[i], rows[i + 1], rows[i + 2], rows[i + 3]
        for j in range(target.shape[0]):
            target[j] -= w0 * r0[j] + w1 * r1[j] + w2 * r2[j] + w3 * r3[j]
    for i in range(full, n):
        w0, r0 = weights[i], rows[i]
        for j in range(target.shape[0]):
            target[j] -= w0 * r0[j]


@jit
def factor_and_solve(matrix, right):
    """Overwrite the lower triangle of `matrix` (r, r) with its Cholesky factor L and `right` (r, P) with L^{-1} right.

    Returns False where the matrix is not positive definite (what is left in the arguments is then useless).
    """
    size = matrix.shape[0]
    for first in range(0, size, _BLOCK):
        last = min(first + _BLOCK, size)
        for j in range(first, last):
            row = matrix[j, first : j + 1]
            pivot = row[j - first]
            diagonal = abs(pivot)
            for i in range(j - first):
                pivot -= row[i] * row[i]
            if not pivot > 1e-13 * diagonal:
                return False
            pivot = math.sqrt(pivot)
            row[j - first] = pivot
            inverse = 1.0 / pivot
            for k in range(j + 1, size):
                below = matrix[k, first : j + 1]
                value = below[j - first]
                for i in range(j - first):
                    value -= below[i] * row[i]
                below[j - first] = value * inverse
            _subtract_rows(right[first:j], row[: j - first], right[j])
            for i in range(right.shape[1]):
                right[j, i] *= inverse
        if last == size:
            break
        panel = np.ascontiguousarray(matrix[last:, first:last])
        product = np.dot(panel, panel.T)
        for k in range(last, size):
            for j in range(last, k + 1):
                matrix[k, j] -= product[k - last, j - last]
        rest = np.dot(panel, right[first:last])
        for k in range(last, size):
            for j in range(right.shape[1]):
                right[k, j] -= rest[k - last, j]
    return True


@jit
def solve_transposed(factor, vector):
    """Overwrite `vector` (r,) with L^{-T} vector."""
    for i in range(factor.shape[0] - 1, -1, -1):
        vector[i] /= factor[i, i]
        for j in range(i):
            vector[j] -= factor[i, j] * vector[i]
