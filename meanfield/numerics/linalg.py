"""Dense linear algebra for matrices too small for LAPACK calls to pay."""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.jit import jit, jit_apart

__all__ = ["cholesky", "cholesky_solve", "cholesky_until", "largest_eigenvalue_below", "solve_symmetric", "thin_svd"]

_RELATIVE_RANK = 1e-11  # singular values below this fraction of the largest count as zero


@jit
def _next_column(matrix, j):
    """Column j of the Cholesky factor, from the columns before it; False where the pivot is not positive."""
    pivot = matrix[j, j]
    for i in range(j):
        pivot -= matrix[j, i] * matrix[j, i]
    if not pivot > 1e-14 * abs(matrix[j, j]):
        return False
    pivot = np.sqrt(pivot)
    matrix[j, j] = pivot
    for row in range(j + 1, matrix.shape[0]):
        value = matrix[row, j]
        for i in range(j):
            value -= matrix[row, i] * matrix[j, i]
        matrix[row, j] = value / pivot
    return True


@jit
def cholesky(matrix):
    """Overwrite the lower triangle of `matrix` with its Cholesky factor; False where it is not positive definite."""
    n = matrix.shape[0]
    done = 0
    while done < n and _next_column(matrix, done):
        done += 1
    return done == n


@jit
def cholesky_until(matrix, stop):
    """`cholesky`, to the last bit, of a matrix that may be large: False where `stop` ends it, too."""
    n = matrix.shape[0]
    done = 0
    while done < n and not exhausted(stop, (n - done) * done // 1000) and _next_column(matrix, done):
        done += 1
    return done == n


@jit
def cholesky_solve(factor, vector):
    """Overwrite `vector` with the solution of L L^T x = vector."""
    n = factor.shape[0]
    for i in range(n):
        value = vector[i]
        for j in range(i):
            value -= factor[i, j] * vector[j]
        vector[i] = value / factor[i, i]
    for i in range(n - 1, -1, -1):
        value = vector[i]
        for j in range(i + 1, n):
            value -= factor[j, i] * vector[j]
        vector[i] = value / factor[i, i]


@jit
def largest_eigenvalue_below(matrix, bound):
    """Whether the symmetric `matrix` has all eigenvalues below `bound`."""
    n = matrix.shape[0]
    shifted = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            shifted[i, j] = -matrix[i, j]
        shifted[i, i] += bound
    return cholesky(shifted)


@jit
def _eliminate(lu, x, least):
    """Gaussian elimination with partial pivoting (in place); False where a pivot is below `least` times the largest."""
    n = x.shape[0]
    largest = 0.0
    for j in range(n):
        pivot_row = j
        for i in range(j + 1, n):
            if abs(lu[i, j]) > abs(lu[pivot_row, j]):
                pivot_row = i
        pivot = lu[pivot_row, j]
        largest = max(largest, abs(pivot))
        if not abs(pivot) > least * largest:
            return False
        if pivot_row != j:
            for i in range(n):
                lu[j, i], lu[pivot_row, i] = lu[pivot_row, i], lu[j, i]
            x[j], x[pivot_row] = x[pivot_row], x[j]
        for i in range(j + 1, n):
            ratio = lu[i, j] / pivot
            if ratio != 0.0:
                for k in range(j + 1, n):
                    lu[i, k] -= ratio * lu[j, k]
                x[i] -= ratio * x[j]
    for i in range(n - 1, -1, -1):
        value = x[i]
        for k in range(i + 1, n):
            value -= lu[i, k] * x[k]
        x[i] = value / lu[i, i]
    return True


@jit_apart(returns="Tuple((float64[::1], boolean))")
def solve_stiff(matrix, vector):
    """Solve a symmetric system whose rows differ much in size; returns (solution, whether it is regular).

    Rows and columns are scaled until their largest entries are about one. Pivots may be as small as rounding.
    """
    n = matrix.shape[0]
    lu = matrix.copy()
    scale = np.ones(n)
    for _ in range(4):
        factor = np.ones(n)
        for i in range(n):
            size = np.max(np.abs(lu[i]))
            if size > 0.0:
                factor[i] = 1.0 / np.sqrt(size)
        for i in range(n):
            scale[i] *= factor[i]
            for j in range(n):
                lu[i, j] *= factor[i] * factor[j]
    x = vector * scale
    regular = _eliminate(lu, x, 1e-14)
    return x * scale, regular


@jit_apart(returns="Tuple((float64[::1], int64))")
def solve_symmetric(matrix, vector):
    """Solve a symmetric, possibly indefinite or singular system; returns (solution, nullity).

    Gaussian elimination with partial pivoting on a copy; where a pivot is tiny, the solution of least norm.
    """
    x = vector.copy()
    if _eliminate(matrix.copy(), x, 1e-9):
        return x, 0
    return _of_least_norm(matrix, vector)


@jit_apart(returns="Tuple((float64[::1], int64))")
def _of_least_norm(matrix, vector):
    """The solution of least norm of a symmetric system, and its nullity."""
    n = matrix.shape[0]
    values, vectors = np.linalg.eigh(matrix)
    cut = _RELATIVE_RANK * np.max(np.abs(values))
    solution = np.zeros(n)
    nullity = 0
    for i in range(n):
        if abs(values[i]) <= cut:
            nullity += 1
            continue
        weight = 0.0
        for k in range(n):
            weight += vectors[k, i] * vector[k]
        weight /= values[i]
        for k in range(n):
            solution[k] += weight * vectors[k, i]
    return solution, nullity


@jit
def nonnegative_least_squares(matrix, rhs, solution, stop):
    """Minimise |matrix x - rhs| over x >= 0 (Lawson-Hanson active set); fills `solution`, returns the residual norm.

    `stop`: of `numerics.budget`.
    """
    n_rows, n = matrix.shape
    gram = np.empty((n, n))
    linear = np.empty(n)
    for i in range(n):
        linear[i] = np.sum(matrix[:, i] * rhs)
        for j in range(n):
            gram[i, j] = np.sum(matrix[:, i] * matrix[:, j])
    passive = np.zeros(n, dtype=np.bool_)
    solution[:] = 0.0
    scale = np.max(np.abs(linear)) + 1e-300
    for _ in range(10 * n + 10):
        best = -1
        best_gain = 1e-13 * scale
        for i in range(n):
            if not passive[i]:
                gain = linear[i]
                for j in range(n):
                    gain -= gram[i, j] * solution[j]
                if gain > best_gain:
                    best_gain = gain
                    best = i
        if best < 0:
            break
        passive[best] = True
        while True:
            index = np.nonzero(passive)[0]
            size = index.shape[0]
            if exhausted(stop, 1 + size * size * size // 5000):
                return np.inf
            sub = np.empty((size, size))
            right = np.empty(size)
            for i in range(size):
                right[i] = linear[index[i]]
                for j in range(size):
                    sub[i, j] = gram[index[i], index[j]]
            trial, _ = solve_symmetric(sub, right)
            step = 1.0
            for i in range(size):
                if trial[i] <= 0.0:
                    current = solution[index[i]]
                    step = min(step, current / (current - trial[i]) if current > 0.0 else 0.0)
            for i in range(size):
                solution[index[i]] += step * (trial[i] - solution[index[i]])
            if step >= 1.0:
                break
            for i in range(size):
                if solution[index[i]] <= 1e-300 and trial[i] <= 0.0:
                    solution[index[i]] = 0.0
                    passive[index[i]] = False
    norm = 0.0
    for row in range(n_rows):
        value = -rhs[row]
        for j in range(n):
            value += matrix[row, j] * solution[j]
        norm += value * value
    return np.sqrt(norm)


@jit_apart(returns="Tuple((float64[::1, :], float64[::1], float64[::1, :]))")
def thin_svd(matrix):
    """U, the singular values and V^T, without what they have beyond the rank that a matrix of this shape can have."""
    return np.linalg.svd(matrix, False)
