"""Finite P where codes overlap, with as many classes as outputs: Newton's method on J, one class integrated out.

J is convex and its minimum needs no codes: they are looked for when they are asked for. Wherever anything is out of the
ordinary the answer is None, and the lattice over all codes takes over (sigma_a = 1).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meanfield.theories.single_layer.readout.halves import Halves, PairedValue
from meanfield.theories.single_layer.readout.integral import ACCURACY, NotIntegrable, ReadoutIntegral
from meanfield.theories.single_layer.readout.marginal import Marginal, Value
from meanfield.validation import FloatArray

__all__ = ["MAX_MARGINAL_SAMPLES", "Minimum", "approach", "is_marginal", "solve_marginal"]

MAX_MARGINAL_SAMPLES = 2e4  # beyond, an error of 1e-16 in t is felt in the shares of codes, which are no unknowns here
_OUTPUTS = 2, 5
_FIRST, _ROUGH = 1e-4, 1e-6  # accuracies of the lattice at the start, which is not near, and on the way
_NEAR = 2.5e-3  # residual up to which that is the way
_MARGIN = 0.05  # error of the lattice, relative to the residual that is aimed at
_MAX_COARSE, _MAX_FINE = 40, 6
_REFINEMENTS = (1.0, 0.75, 0.5)
_ENOUGH = 0.1  # residual of the lattice itself, relative to that
_SQUARED = 3.0  # the residual after a step of Newton's method, over its square before
_LONG = 0.03  # change of t in one step, relative to 1 + |t|, beyond which maxima of h are looked for again


class Minimum(NamedTuple):
    """A solution, and what another rule says of it."""

    t: FloatArray
    objective: float
    level: float
    decrement: float  # Newton's estimate of J(t) - min J
    reached: float  # residual of the rule itself
    other: float  # residual of the other rule
    error: float  # of the integral
    n_nodes: int
    steps: int


def is_marginal(problem: ReadoutIntegral) -> bool:
    """Whether one class can be integrated out."""
    n_classes, m = problem.y.shape
    few = problem.n_samples <= MAX_MARGINAL_SAMPLES
    return few and n_classes == m and _OUTPUTS[0] <= m <= _OUTPUTS[1] and not problem.unbounded


def solve_marginal(problem: ReadoutIntegral, t: FloatArray, aim: float) -> tuple[FloatArray, Minimum | None]:
    """Minimise J from t; None, and the best t so far, where this does not lead to a residual below the aim."""
    marginal, accuracy = Marginal(problem), max(ACCURACY, _MARGIN * aim)
    try:
        t, steps = approach(marginal, t)
        for marginal.refinement in _REFINEMENTS:
            t, objective, inverse, reached, more = _newton(marginal, t, _ENOUGH * aim, accuracy)
            steps += more
            again = marginal.checked(t, accuracy)
            other = problem.residual(again.gradient)
            if 2.0 * other + reached <= aim:
                error = max(marginal.aliasing(accuracy), problem.n_samples * abs(again.objective - objective))
                decrement = 0.5 * float(again.gradient @ inverse @ again.gradient)
                numbers = decrement, reached, other, error, again.n_nodes, steps
                return t, Minimum(t, objective, marginal.level, *numbers)
    except (NotIntegrable, np.linalg.LinAlgError):
        pass
    return t, None


def approach(
    marginal: Marginal | Halves, t: FloatArray, rough: float = _ROUGH, near: float = _NEAR
) -> tuple[FloatArray, int]:
    """t where the residual of the coarse lattice is small, by Newton's method with a line search; number of steps."""
    problem = marginal.problem
    marginal.look_for_maxima(t, rough)
    value = marginal.value(t, max(_FIRST, rough), True)
    for step in range(_MAX_COARSE):
        residual = problem.residual(value.gradient)
        if residual <= near:
            return _newton_step(problem, t, value), step
        trial = _newton_step(problem, t, value)
        slope = float(value.gradient @ (trial - t).ravel())
        length = 1.0
        while True:
            moved = t + length * (trial - t)
            try:
                if np.abs(moved - t).max() > _LONG * (1.0 + np.abs(t).max()):
                    marginal.look_for_maxima(moved, rough)
                new = marginal.value(moved, rough, True)
            except NotIntegrable:
                new = None
            # Values carry the error of the integral, gradients less of it.
            if new is not None and (
                new.objective <= value.objective + 1e-4 * length * slope
                or problem.residual(new.gradient) < 0.5 * residual
            ):
                break
            length *= 0.3
            if length < 1e-6:
                raise NotIntegrable("the coarse lattice does not lead on.")
        t, value = moved, new
    raise NotIntegrable("the coarse lattice does not lead to a minimum.")


def _newton_step(problem: ReadoutIntegral, t: FloatArray, value: Value | PairedValue) -> FloatArray:
    step = np.linalg.solve(value.hessian, value.gradient).reshape(t.shape)
    longest = 30.0 * (1.0 + np.abs(problem.y).max() + np.abs(t).max())
    return np.asarray(t - step * min(1.0, longest / max(np.abs(step).max(), 1e-300)))


def _newton(
    marginal: Marginal, t: FloatArray, enough: float, accuracy: float
) -> tuple[FloatArray, float, FloatArray, float, int]:
    """t, J there, inverse of a Hessian nearby, residual and number of steps, on the fine lattice.

    A last step after which the residual is far below `enough`, since it becomes its square, is not looked at: the other
    rule does that, and J is that of the parabola. The residual is 0 then, which is what the step is made for.
    """
    problem = marginal.problem
    value = marginal.value(t, accuracy, True)
    inverse: FloatArray = np.asarray(np.linalg.inv(value.hessian), dtype=np.float64)
    best, residual = t, problem.residual(value.gradient)
    steps = 0
    while residual > enough and steps < _MAX_FINE:
        steps += 1
        step = inverse @ value.gradient
        trial = best - step.reshape(t.shape)
        if steps == 1 and _SQUARED * residual * residual <= enough:
            return trial, value.objective - 0.5 * float(value.gradient @ step), inverse, 0.0, steps
        new = marginal.value(trial, accuracy, False)
        error = problem.residual(new.gradient)
        if not error < 0.5 * residual:
            break
        best, value, residual = trial, new, error
    return best, value.objective, inverse, residual, steps
