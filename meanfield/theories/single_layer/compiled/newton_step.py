"""Newton's step towards a minimum."""

from __future__ import annotations

from meanfield.numerics.copies import copy_matrix
from meanfield.numerics.jit import jit
from meanfield.numerics.linalg import cholesky, cholesky_solve

__all__ = ["newton_step"]


@jit
def newton_step(matrix, gradient, factor, step):
    """Fill `step` with that of Newton's method, damped where the Hessian is not positive definite; factor: scratch."""
    n = gradient.shape[0]
    damping = 1e-13
    while True:
        copy_matrix(factor, matrix)
        for i in range(n):
            factor[i, i] += damping * (1e-3 + matrix[i, i])
        if cholesky(factor) or damping > 1e3:
            break
        damping *= 100.0
    for i in range(n):
        step[i] = -gradient[i]
    cholesky_solve(factor, step)
