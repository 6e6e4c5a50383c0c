"""Finite P with many different classes: Newton's method on J with sums over two halves of the classes (sigma_a = 1).

Slopes are those of fine grids, the Hessian that of coarse ones nearby. Where that does not do, up to six dimensions
the lattice over all outputs takes over.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meanfield.posterior.certificate import ConvergenceError
from meanfield.theories.single_layer.finite.halves_codes import halves_codes
from meanfield.theories.single_layer.finite.marginal import Minimum, approach
from meanfield.theories.single_layer.finite.solution import FiniteSolution, deferred
from meanfield.theories.single_layer.finite.start import rungs
from meanfield.theories.single_layer.readout.halves import Halves
from meanfield.theories.single_layer.readout.integral import (
    ACCURACY,
    COARSE,
    NotIntegrable,
    OutOfBudget,
    ReadoutIntegral,
)
from meanfield.validation import FloatArray

__all__ = ["halves_solve", "is_halved", "solve_halves"]

MIN_OUTPUTS, _MAX_CLASSES = 5, 9
_MAX_SAMPLES = 2e4  # as where one class is integrated out: weights of codes are no unknowns
_ROUGH = 1e-3  # accuracy of the sums on the way
_NEAR = 1e-2  # residual up to which that is the way
_START = 8.0  # samples at which t is found from anywhere
_FACTOR = 0.25  # of P from rung to rung
_MARGIN = 0.05  # error of the sums, relative to the residual that is aimed at
_ENOUGH = 0.1  # residual of the sums themselves, relative to that
_MAX_CHORDS = 12
_HESSIANS = COARSE, 1e-6, 1e-8, 1e-8  # accuracy of Hessians: a better one where steps gain little
_REFINEMENTS = (1.0, 0.75, 0.5)


def is_halved(problem: ReadoutIntegral) -> bool:
    """Whether sums over halves of the classes are to be tried."""
    n_classes, m = problem.y.shape
    few = problem.n_samples <= _MAX_SAMPLES and n_classes <= _MAX_CLASSES
    return few and m >= MIN_OUTPUTS and n_classes < 2 * m and not problem.unbounded


def solve_halves(problem: ReadoutIntegral, t0: FloatArray | None, aim: float, tolerance: float) -> Minimum:
    """Minimise J, from t0 where that is near.

    Raises
    ------
    ConvergenceError
        Where this does not lead to a residual below the tolerance.
    """
    halves, accuracy = Halves(problem), max(ACCURACY, _MARGIN * aim)
    halves.finest = accuracy
    best: Minimum | None = None
    try:
        t, steps = _start(halves, t0)
        for halves.refinement in _REFINEMENTS:
            found = _polished(halves, t, aim, accuracy, steps)
            better = best is None or _residual(found) < 0.3 * _residual(best)
            if best is None or _residual(found) < _residual(best):
                best = found
            t, steps = found.t, found.steps
            if _residual(best) <= aim or (_residual(best) <= tolerance and not better):
                break
    except (NotIntegrable, OutOfBudget, np.linalg.LinAlgError) as error:
        if best is None:
            raise ConvergenceError(str(error)) from error
    assert best is not None
    if _residual(best) > tolerance:
        raise ConvergenceError(
            f"at P = {problem.asked:g} the stationarity residual, recomputed with other halves of the classes, is "
            f"{_residual(best):.1e}, above {tolerance:.0e}. A larger P or a larger tau makes the integral easier."
        )
    return best


def _residual(found: Minimum) -> float:
    return 2.0 * found.other + found.reached


def _start(halves: Halves, t0: FloatArray | None) -> tuple[FloatArray, int]:
    """t near the minimum: from t0 where that is near, else with P raised in steps."""
    problem = halves.problem
    target = problem.n_samples
    if t0 is not None:
        try:
            return approach(halves, t0, _ROUGH, _NEAR)
        except (NotIntegrable, np.linalg.LinAlgError):
            problem.starts = problem.starts[:0]
    t, total = problem.y.copy(), 0
    try:
        for problem.n_samples in rungs(target, _START, _FACTOR):
            t, steps = approach(halves, t, _ROUGH, _NEAR)
            total += steps
    finally:
        problem.n_samples = target
    return t, total


def _polished(halves: Halves, t: FloatArray, aim: float, accuracy: float, steps: int) -> Minimum:
    """Steps with the slope of fine sums and a Hessian of coarse ones, then other halves and other grids."""
    problem = halves.problem
    halves.look_for_maxima(t, accuracy)
    finer = iter(_HESSIANS)
    inverse = np.linalg.inv(halves.value(t, next(finer), True).hessian)
    value = halves.value(t, accuracy, False)
    residual = problem.residual(value.gradient)
    for _ in range(_MAX_CHORDS):
        if residual <= _ENOUGH * aim:
            break
        steps += 1
        trial = t - (inverse @ value.gradient).reshape(t.shape)
        new = halves.value(trial, accuracy, False)
        error = problem.residual(new.gradient)
        slow = not error < 0.1 * residual
        if error < residual:
            t, value, residual = trial, new, error
        if slow and residual > _ENOUGH * aim:
            hessian = next(finer, 0.0)
            if hessian == 0.0:
                break
            inverse = np.linalg.inv(halves.value(t, hessian, True).hessian)
    again = halves.checked(t, 0.1 * accuracy)
    error = max(halves.aliasing(accuracy), problem.n_samples * abs(again.objective - value.objective))
    decrement = 0.5 * float(value.gradient @ inverse @ value.gradient)
    other = problem.residual(again.gradient)
    numbers = decrement, residual, other, error, value.n_nodes, steps
    return Minimum(t, value.objective, halves.level, *numbers)


def halves_solve(
    problem: ReadoutIntegral, t0: FloatArray | None, basis: FloatArray, aim: float, tolerance: float
) -> FiniteSolution:
    """`finite.finite_solve` in the span of the targets (columns of `basis`)."""
    found = solve_halves(problem, t0, aim, tolerance)
    m = len(basis)

    def codes() -> dict[str, Any]:
        halves = Halves(problem)
        halves.look_for_maxima(found.t, ACCURACY)
        own = halves_codes(halves, found.t)
        outside = (np.eye(m) - basis @ basis.T) / problem.n_samples
        return {
            **own, "mode": own["mode"] @ basis.T, "mean": own["mean"] @ basis.T, "kind": None,
            "covariance": basis @ own["covariance"] @ basis.T + outside,
        }  # fmt: skip

    return deferred(
        found.t @ basis.T,
        codes,
        objective=found.objective,
        level=found.level,
        residual=_residual(found),
        decrement=found.decrement,
        integration_error=found.error,
        method="halves",
        n_nodes=found.n_nodes,
        iterations=found.steps,
    )
