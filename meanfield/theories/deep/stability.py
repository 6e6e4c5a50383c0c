"""Second-order check: Phi is convex in the conjugates and t, and concave in the kernels once those are minimised over.

The gradient of Phi is linear in the residual F(x) - x, so that its Hessian is that map times the Jacobian of the
equations, which Newton needs anyway; its asymmetry measures the error of both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from meanfield.theories.deep.system import Evaluation, System
from meanfield.validation import FloatArray

__all__ = ["SecondOrder", "second_order"]


@dataclass(frozen=True)
class SecondOrder:
    """Curvatures of Phi at a solution, in units of its blocks, among perturbations that respect the symmetry.

    Attributes
    ----------
    inner : float
        Smallest eigenvalue over the conjugates and t, relative to the largest; positive at a minimum.
    outer : float
        Largest eigenvalue over the kernels after that minimisation, relative to the largest in size; negative at a
        maximum.
    asymmetry : float
        Largest |H - H^T| relative to sqrt(H_ii H_jj): zero up to the error of the derivatives.
    """

    inner: float
    outer: float
    asymmetry: float

    @property
    def passed(self) -> bool:
        """Whether the solution is a maximum over the kernels of the minimum over the conjugates and t."""
        return self.inner > 0.0 and self.outer < 0.0


def second_order(system: System, x: FloatArray, found: Evaluation, step: float = 1e-5) -> SecondOrder:
    """Signs of the curvature of Phi at x."""
    scale = system.scales(x)
    jacobian = system.jacobian(x, found, step)[: len(x)] * scale[:, None] / scale
    hessian = _metric(system, x, found) @ jacobian
    names = [(name, range(at.start, at.stop)) for name, _, at in system.blocks if name != "f"]
    outer = [j for name, at in names if name in ("kernel", "d") for j in at]
    inner = [j for name, at in names if name not in ("kernel", "d") for j in at]
    size = np.sqrt(np.maximum(np.abs(np.diag(hessian)), 1e-300))
    unit = hessian / np.outer(size, size)
    asymmetry = float(np.abs(unit - unit.T).max())
    unit = 0.5 * (unit + unit.T)
    low = np.linalg.eigvalsh(unit[np.ix_(inner, inner)])
    if not outer:
        return SecondOrder(float(low[0] / low[-1]), -1.0, asymmetry)
    mixed = unit[np.ix_(inner, outer)]
    schur = unit[np.ix_(outer, outer)] - mixed.T @ np.linalg.solve(unit[np.ix_(inner, inner)], mixed)
    high = np.linalg.eigvalsh(schur)
    return SecondOrder(float(low[0] / low[-1]), float(high[-1] / np.abs(high).max()), asymmetry)


def _metric(system: System, x: FloatArray, found: Evaluation) -> FloatArray:
    """The matrix that turns F(x) - x into the gradient of Phi."""
    p = system.problem
    n = p.n
    matrix = np.zeros((len(x), len(x)))
    at = {(name, layer): rows for name, layer, rows in system.blocks}
    pairs = np.outer(n, n)
    for layer in range(p.depth - 1):
        # dPhi = 1/2 sum over samples of dK (F - K~) and dK~ (F - K), in blocks and diagonals.
        for moved, moved_own, by, by_own in (("kernel", "d", "tilde", "delta"), ("tilde", "delta", "kernel", "d")):
            block, own = at[moved, layer], at[moved_own, layer]
            force, force_own = at[by, layer], at[by_own, layer]
            for i, basis in enumerate(system.matrices):
                for j, other in enumerate(system.matrices):
                    matrix[block.start + i, force.start + j] += 0.5 * float((pairs * basis * other).sum())
                for j, vector in enumerate(system.vectors):
                    matrix[block.start + i, force_own.start + j] += 0.5 * float(n @ (np.diag(basis) * vector))
            for i, vector in enumerate(system.vectors):
                for j, other in enumerate(system.matrices):
                    matrix[own.start + i, force.start + j] += 0.5 * float(n @ (vector * np.diag(other)))
                for j, other in enumerate(system.vectors):
                    matrix[own.start + i, force_own.start + j] += 0.5 * float(n @ (vector * other))
    top = system.combined(x, found)[-1]
    stiffness = p.readout_variance * (top.kernel * n + np.diag(top.d)) + p.tau * np.eye(len(n))
    rows = at["t", p.depth - 1]
    for i, basis in enumerate(system.outputs):
        for j, other in enumerate(system.outputs):
            matrix[rows.start + i, rows.start + j] = -float((basis * (n[:, None] * (stiffness @ other))).sum())
    return matrix
