"""Large matrix operations in slices that look at the clock in between, so that time limits and Ctrl-C reach them.

The routines of LAPACK and BLAS that SciPy wraps hold the interpreter lock while they run; those of NumPy do not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.linalg import cho_factor, solve_triangular

from meanfield.numerics.limits import check_time
from meanfield.validation import FloatArray

__all__ = ["factorise", "gram", "rows_at_a_time", "solve_rows"]

_FLOPS = 3e8  # between two looks at the clock, about
_FEWEST = 16  # rows of a slice
_WHOLE, _BLOCK = 1000, 128  # size up to which a matrix is factorised at once, columns at a time beyond


def rows_at_a_time(n: int, flops: float) -> Iterator[slice]:
    """Slices of n rows that cost so many operations each; looks at the clock before each of them."""
    step = max(_FEWEST, int(_FLOPS / max(flops, 1.0)))
    for start in range(0, n, step):
        check_time()
        yield slice(start, min(start + step, n))


def factorise(matrix: FloatArray) -> tuple[FloatArray, bool]:
    """`scipy.linalg.cho_factor` (lower) of a symmetric matrix, which is overwritten.

    Raises
    ------
    LinAlgError
        Where it is not positive definite.
    """
    n = len(matrix)
    check_time()
    lower = matrix if matrix.flags.f_contiguous else matrix.T  # the same, being symmetric
    if n <= _WHOLE:
        return cho_factor(lower, lower=True, overwrite_a=True, check_finite=False)
    for start in range(0, n, _BLOCK):
        check_time()
        stop = min(start + _BLOCK, n)
        panel = lower[start:, start:stop]
        if start:
            panel -= lower[start:, :start] @ lower[start:stop, :start].T
        corner: FloatArray = np.asarray(np.linalg.cholesky(panel[: stop - start]), dtype=np.float64)
        panel[: stop - start] = corner
        if stop < n:
            panel[stop - start :] = solve_rows(corner, panel[stop - start :])
    return lower, True


def solve_rows(lower: FloatArray, rows: FloatArray) -> FloatArray:
    """rows L^-T, (n, r): every row x becomes L^-1 x."""
    found = np.empty_like(rows)
    for part in rows_at_a_time(len(rows), float(len(lower)) ** 2):
        found[part] = solve_triangular(lower, rows[part].T, lower=True, check_finite=False).T
    return found


def gram(total: FloatArray, rows: FloatArray, spare: FloatArray) -> None:
    """total += rows^T rows, by way of the array `spare` of its shape."""
    total += np.matmul(rows.T, rows, out=spare)
