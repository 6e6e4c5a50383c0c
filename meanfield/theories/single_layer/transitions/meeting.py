"""Where a boundary of codes ends because a second condition holds: another weight vanishes, a code enters or merges.

Beyond such a point the boundary is no transition any more: what has changed there says which condition to add, and with
it the point is the root of a system with two parameters (phases/THEORY.md, "Planes").
"""

from __future__ import annotations

import dataclasses

import numpy as np

from meanfield.posterior.certificate import ConvergenceError
from meanfield.theories.single_layer.compiled.ascent import find_maxima
from meanfield.theories.single_layer.limit import phi_range
from meanfield.theories.single_layer.transitions.acceptance import Transition, accept_codes
from meanfield.theories.single_layer.transitions.control import ScaledTask
from meanfield.theories.single_layer.transitions.extended import (
    CodeState,
    Condition,
    ExtendedSystem,
    Soft,
    Vanishing,
    newton,
    soft_mode,
)
from meanfield.theories.single_layer.transitions.transition import RESIDUAL, Setup, make_root
from meanfield.validation import FloatArray

__all__ = ["meeting_point"]

_NEGATIVE = -1e-10  # weight
_ABOVE = 1e-9  # of the level
_APART = 1e-3  # readouts


def meeting_point(setup: Setup, transition: Transition, last: FloatArray, beyond: FloatArray) -> Transition | None:
    """The meeting point between the last point of a boundary and one beyond, where it is no transition any more.

    Parameters
    ----------
    setup : Setup
        The boundary's extended system, with two parameters.
    transition : Transition
        At `last`.
    last, beyond : (N + 2,) arrays
        Unknowns.

    Returns
    -------
    Transition or None
        Certified, with both parameters; None where no second condition is found or the point is refused.
    """
    system = setup.system
    if not isinstance(system, ExtendedSystem):
        return None
    problem, state, _ = system.split(beyond)
    shape, extra = _second_condition(system, problem, state)
    if not extra:
        return None
    _, start, values = system.split(last)
    if len(shape.a) > len(start.a):  # a code enters
        a = np.vstack([start.a, shape.a[len(start.a) :]])
        start = CodeState(start.t, a, np.append(start.weight, np.zeros(len(a) - len(start.a))), start.level)
    try:
        both = ExtendedSystem(system.control, start, (*system.conditions, *extra))
        unknowns, residual = newton(both, np.append(start.x, values))
        if not residual <= RESIDUAL:
            return None
        root = make_root(both, unknowns, residual)
        codes = tuple(condition.code for condition in both.conditions)
        found = accept_codes(transition.kind, root, start.with_unknowns(unknowns[: start.x.size]), codes[:1], ())
    except (ConvergenceError, ValueError, np.linalg.LinAlgError):
        return None
    return dataclasses.replace(found, label=transition.label, crossover=transition.crossover)


def _second_condition(
    system: ExtendedSystem, problem: ScaledTask, state: CodeState
) -> tuple[CodeState, tuple[Condition, ...]]:
    """What is violated beyond the end of a boundary, as a condition; with the codes that it concerns."""
    concerned = {condition.code for condition in system.conditions}
    negative = [j for j in np.flatnonzero(state.weight < _NEGATIVE) if j not in concerned]
    if negative:
        return state, tuple(Vanishing(int(j)) for j in negative)
    fields = state.fields(problem)
    softest = [soft_mode(state, fields, j)[0][-1] for j in range(len(state.a))]
    saddles = [j for j in np.flatnonzero(np.array(softest) > 1e-9) if j not in concerned]
    if saddles:
        return state, tuple(Soft(int(j)) for j in saddles)
    highest = _entering(problem, state)
    if highest is None:
        return state, ()
    a = np.vstack([state.a, highest])
    weight = np.append(state.weight, np.zeros(len(highest)))
    return CodeState(state.t, a, weight, state.level), tuple(Vanishing(j) for j in range(len(state.a), len(a)))


def _entering(problem: ScaledTask, state: CodeState) -> FloatArray | None:
    """The highest maximum above the level, with what exchanges of classes make of it; None if there is none."""
    table = problem.cumulant.table
    low, high, _, _ = phi_range(problem.activation, problem.cumulant.k)
    maxima, height = np.empty((256, state.a.shape[1])), np.empty(256)
    count = find_maxima(table, problem.p, state.t, low, high, state.a, True, maxima, height)
    maxima, height = maxima[:count], height[:count]
    apart = np.linalg.norm(maxima[:, None] - state.a, axis=2).min(axis=1) > _APART
    above = apart & (height > state.level + _ABOVE)
    if not above.any():
        return None
    top = height[above].max()
    return np.asarray(maxima[above & (height > top - 1e-7 * (1.0 + abs(top)))])
