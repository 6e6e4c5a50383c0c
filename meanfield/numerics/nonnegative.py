"""Non-negative least squares, guarded: the one door to `scipy.optimize.nnls`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["nonnegative_least_squares"]


def nonnegative_least_squares(
    matrix: ArrayLike, target: ArrayLike, *, max_iterations: int | None = None
) -> tuple[NDArray[np.float64], float]:
    """Minimise |A x - b| over x >= 0; returns (x, |A x - b|).

    SciPy's routine ends the interpreter on a matrix without columns, and does not look at NaN.

    Parameters
    ----------
    matrix : (n, k) array
        A; n or k may be 0.
    target : (n,) array
        b.
    max_iterations : int, optional
        Limit of active-set steps; SciPy's default 3 k if left out.

    Raises
    ------
    ValueError
        For shapes that do not fit, NaN or infinite entries.
    RuntimeError
        If the iteration limit is reached.
    """
    a = np.ascontiguousarray(matrix, dtype=np.float64)
    b = np.ascontiguousarray(target, dtype=np.float64)
    if a.ndim != 2 or b.shape != a.shape[:1]:
        raise ValueError(f"non-negative least squares needs A (n, k) and b (n,), got shapes {a.shape} and {b.shape}.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("non-negative least squares was given NaN or infinite numbers.")
    if a.size == 0:
        return np.zeros(a.shape[1]), float(np.linalg.norm(b))
    from scipy.optimize import nnls

    options: dict[str, int] = {} if max_iterations is None else {"maxiter": max_iterations}
    x, distance = nnls(a, b, **options)
    return np.asarray(x, dtype=np.float64), float(distance)
