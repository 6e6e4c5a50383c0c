"""Damped Newton on the saddle equations; the Jacobian by differences, kept and updated between steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from meanfield.theories.deep.layer import NotCovered
from meanfield.theories.deep.system import Evaluation, System
from meanfield.validation import FloatArray

__all__ = ["Found", "newton"]

_CAP = 0.3  # largest change of a block in one step, of its size
_PATIENCE = 12
_RISE = 1.2  # of the norm of the residual that a step may cause


@dataclass(frozen=True, eq=False)
class Found:
    """Where Newton ended: x, largest residual in units of the blocks, averages there, steps, last Jacobian."""

    x: FloatArray
    residual: float
    averages: Evaluation
    steps: int
    jacobian: FloatArray | None


def newton(
    system: System,
    x: FloatArray,
    tolerance: float,
    *,
    most: int = 40,
    jacobian: FloatArray | None = None,
    renew: int = 1,
    step: float = 1e-4,
    progress: Callable[[str, int, float], None] | None = None,
) -> Found:
    """Solve the equations from x, with a new Jacobian every `renew` steps and Broyden updates between.

    A step is shortened so that no block changes by more than 30 % of its size, and d stays positive.
    """
    averages = system.evaluate(x)
    residual = system.residual(x, averages)
    error = float(np.abs(residual).max())
    best = Found(x, error, averages, 0, jacobian)
    since = 0 if jacobian is not None else renew
    worse = count = 0
    while error > tolerance and count < most and worse <= _PATIENCE and np.isfinite(error):
        count += 1
        if since >= renew or jacobian is None:
            jacobian = system.jacobian(x, averages, step)
            since = 0
        move = -np.linalg.lstsq(jacobian, residual, rcond=1e-14)[0]
        length = min(1.0, _CAP / max(float(np.abs(move).max()), 1e-300))
        scale = system.scales(x)
        reached = None
        for _ in range(5):
            candidate = x + length * move * scale
            if _admissible(system, candidate):
                try:
                    trial = system.evaluate(candidate)
                except (NotCovered, np.linalg.LinAlgError):
                    pass
                else:
                    there = system.residual(candidate, trial)
                    size = float(np.linalg.norm(there))
                    if reached is None or size < reached[3]:
                        reached = candidate, trial, there, size, length
                    if size < _RISE * float(np.linalg.norm(residual)):
                        break
            length *= 0.4
        if reached is None:
            break
        before = residual
        x, averages, residual, _, length = reached
        now = float(np.abs(residual).max())
        since += 1
        # Broyden: the Jacobian is made to explain the last step.
        done = length * move
        jacobian = jacobian + np.outer(residual - before - jacobian @ done, done) / float(done @ done)
        if now > 0.7 * error and length > 0.9:
            since = renew
        error = now
        worse = worse + 1 if error >= best.residual else 0
        if progress is not None:
            progress("newton", count, error)
        if error < best.residual:
            best = Found(x, error, averages, count, jacobian)
    return Found(best.x, best.residual, best.averages, count, best.jacobian)


def _admissible(system: System, x: FloatArray) -> bool:
    order = system.unpack(x)
    if not (order.d > 0.0).all() or (system.free and not (system.shares(x) > 0.0).all()):
        return False
    for matrix in (*order.kernel, *order.tilde):
        values = np.linalg.eigvalsh(matrix)
        if values[0] < -1e-3 * values[-1]:
            return False
    return True
