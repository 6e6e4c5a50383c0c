"""Second-order check: Phi is convex in the conjugates and t, and concave in the kernels once those are minimised over.
Error of the order parameters: what is left of the equations, by the inverse of that Hessian.

The Hessian of Phi is exact (`System.hessian`) and symmetric by construction; what it differs by from that of another
quadrature is the error of these curvatures.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from meanfield.theories.deep.certificate import OrderError, SecondOrder
from meanfield.theories.deep.layers.rules import JUDGE, Averages
from meanfield.theories.deep.newton import direction
from meanfield.theories.deep.system import SMALL, Evaluation, System
from meanfield.validation import BoolArray, FloatArray

__all__ = ["order_errors", "second_order", "signs"]


def second_order(system: System, found: Evaluation, again: FloatArray | None = None) -> SecondOrder:
    """Signs of the curvature of Phi at a solution, from averages with curvature; `again`: by another quadrature."""
    hessian = system.hessian(found)
    outer = np.zeros(len(hessian), dtype=bool)
    for name, _, at in system.blocks:
        outer[at] = name in ("kernel", "d")
    found_signs = signs(hessian, outer)
    if again is None:
        return found_signs
    size = _size(hessian)
    error = float(np.abs((again - hessian) / np.outer(size, size)).max())
    return replace(found_signs, error=error)


def signs(hessian: FloatArray, outer: BoolArray) -> SecondOrder:
    """Curvatures of Phi from its second derivatives, `outer` those by kernels."""
    size = _size(hessian)
    unit = hessian / np.outer(size, size)
    inner = ~outer
    low = np.linalg.eigvalsh(unit[np.ix_(inner, inner)])
    if not outer.any():
        return SecondOrder(float(low[0] / low[-1]), -1.0)
    mixed = unit[np.ix_(inner, outer)]
    schur = unit[np.ix_(outer, outer)] - mixed.T @ np.linalg.solve(unit[np.ix_(inner, inner)], mixed)
    high = np.linalg.eigvalsh(schur)
    return SecondOrder(float(low[0] / low[-1]), float(high[-1] / np.abs(high).max()))


def _size(hessian: FloatArray) -> FloatArray:
    return np.sqrt(np.maximum(np.abs(np.diag(hessian)), 1e-300))


def order_errors(
    system: System,
    x: FloatArray,
    found: Evaluation,
    solver: tuple[System, Evaluation] | None = None,
    allowed: float = 0.0,
) -> tuple[OrderError, ...]:
    """How far the order parameters x are from where they solve the equations of a system: the step of Newton's method.

    `found`: averages there with curvature. Along a soft direction, in which Phi is nearly flat, a small residual leaves
    a large error. With the equations of the `solver` and their averages, K and d of the last layer, which are no
    unknowns, are there as well: what the step changes in them, and the distance of both quadratures, or, where that is
    more than `allowed`, from those of a finer one.
    """
    step = direction(system, x, found, system.hessian(found))
    errors = [OrderError(name, layer + 1, float(np.abs(step[at]).max())) for name, layer, at in system.blocks]
    if solver is not None:
        values = _last_kernel_errors(system, x, step, found, solver, allowed)
        errors += [OrderError(name, system.problem.depth, float(v)) for name, v in zip(("kernel", "d"), values)]
    return tuple(errors)


def _last_kernel_errors(
    check: System,
    x: FloatArray,
    step: FloatArray,
    found: Evaluation,
    solver: tuple[System, Evaluation],
    allowed: float,
) -> FloatArray:
    """Errors (2,) of K and d of the last layer, relative to the largest.

    What the step changes is a difference at one quadrature: that of the solver, which has fewer nodes; lattices around
    peaks are found anew for every x, and finer ones are nearer to each other.
    """
    given, own = check.combined(found)[-1], solver[0].combined(solver[1])[-1]

    def gap(given: Averages, other: Averages) -> FloatArray:
        sets = ((given.kernel, other.kernel, SMALL["kernel"]), (given.d, other.d, SMALL["d"]))
        return np.array([np.abs(a - b).max() / max(float(np.abs(a).max()), least) for a, b, least in sets])

    def top(system: System, at: FloatArray) -> Averages:
        last = system.averages(system.unpack(at), system.problem.depth - 1)
        return system.combined(Evaluation(found.lower, last))[-1]

    error = gap(given, own)
    if error.max() > allowed and not check.around_peaks:
        error = gap(given, top(check.at_rule(JUDGE), x))
    if np.abs(step).max() <= allowed:  # others are no answers, and may end where nothing can be integrated
        system, here = (check, given) if check.around_peaks else (solver[0], own)
        error = error + gap(here, top(system, x + step * check.scales(x)))
    return error
