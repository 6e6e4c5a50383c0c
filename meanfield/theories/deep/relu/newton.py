"""Damped Newton with Broyden updates for the saddle equations."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from meanfield.theories.deep.relu.average import COARSE, ROUGH, ReluRule
from meanfield.theories.deep.relu.setting import BulkDiverges
from meanfield.theories.deep.relu.system import ReluSystem
from meanfield.validation import FloatArray

__all__ = ["newton"]

_MOST_CHANGE = 0.3  # of an unknown in one step
_HALVINGS = 7
_SLOW = 0.3  # a step that leaves more of the residual renews the Jacobian


def newton(
    system: ReluSystem,
    x: FloatArray,
    rule: ReluRule,
    tolerance: float,
    steps: int,
    report: Callable[[float], None],
    jacobian: FloatArray | None = None,
) -> tuple[FloatArray, float, FloatArray | None]:
    """Unknowns, the norm of their residual, below `tolerance` or not, and the Jacobian that Newton ended with.

    The Jacobian is that of coarser lattices, whatever the rule: it has to be right to a few per cent only. It may be
    given, from a problem nearby.

    Raises
    ------
    BulkDiverges
        If `x` has no residual.
    """
    r = system.residual(x, rule)
    size = float(np.linalg.norm(r))
    fresh = False
    for _ in range(steps):
        report(size)
        if size <= tolerance:
            break
        if jacobian is None:
            if math.isinf(system.problem.width):
                jacobian = system.jacobian(x, ROUGH, r)
            else:
                jacobian = system.jacobian(x, COARSE, r if rule == COARSE else system.residual(x, COARSE))
            fresh = True
        step = np.asarray(np.linalg.lstsq(jacobian, -r, rcond=1e-12)[0], dtype=float)
        scale = min(1.0, _MOST_CHANGE / float(np.max(np.abs(step) / (np.abs(x) + 0.1 * np.abs(x).mean()))))
        found = _shorter(system, x, rule, scale * step, size)
        if found is None:
            if fresh:
                break
            jacobian = None
            continue
        moved, new, new_size, taken = found
        change = moved - x
        if taken < 1.0 or scale < 1.0 or new_size > _SLOW * size:
            jacobian = None
        else:
            jacobian = jacobian + np.outer(new - r - jacobian @ change, change) / float(change @ change)
        fresh = False
        x, r, size = moved, new, new_size
    return x, size, jacobian


def _shorter(
    system: ReluSystem, x: FloatArray, rule: ReluRule, step: FloatArray, size: float
) -> tuple[FloatArray, FloatArray, float, float] | None:
    """The first of the halved steps that lowers the residual."""
    part = 1.0
    for _ in range(_HALVINGS):
        try:
            moved = x + part * step
            r = system.residual(moved, rule)
            new = float(np.linalg.norm(r))
            if new < (1.0 - 0.05 * part) * size:
                return moved, r, new, part
        except BulkDiverges:
            pass  # too long a step
        part *= 0.5
    return None
