"""Strictly convex quadratic programmes."""

from __future__ import annotations

import numpy as np

from meanfield.numerics.nonnegative import nonnegative_least_squares
from meanfield.validation import FloatArray

__all__ = ["quadratic_programme"]


def quadratic_programme(
    hessian: FloatArray, gradient: FloatArray, slope: FloatArray, slack: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Minimise g.d + d.H.d / 2 subject to slack + slope d <= 0; (d, multipliers).

    Least-distance programming: with d = -H^{-1} g + L^{-T} z it becomes non-negative least squares.
    """
    factor = _factor(hessian)
    free = -np.linalg.solve(factor.T, np.linalg.solve(factor, gradient))
    g = -np.linalg.solve(factor, slope.T)  # (n, o)
    solution, _ = nonnegative_least_squares(np.vstack([g, slack + slope @ free]), np.append(np.zeros(len(g)), 1.0))
    scale = 1.0 - (slack + slope @ free) @ solution
    multiplier = solution / scale
    return free + np.linalg.solve(factor.T, g @ multiplier), multiplier


def _factor(hessian: FloatArray) -> FloatArray:
    """Cholesky factor of a convex Hessian, lifted by as little as rounding demands."""
    size = float(np.trace(hessian))
    for lift in (0.0, 1e-12, 1e-10, 1e-8, 1e-6):
        try:
            return np.linalg.cholesky(hessian + lift * size * np.eye(len(hessian)))
        except np.linalg.LinAlgError:
            continue
    raise np.linalg.LinAlgError("the Hessian of J is not positive definite: the readout integral is not resolved.")
