"""One branch of solutions from its start: the coding branch, or the one that continues the prior.

Newton first at a coarse quadrature, then at the fine one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from meanfield.theories.deep.newton import Found, newton
from meanfield.theories.deep.rules import COARSE, FINE, NotCovered
from meanfield.theories.deep.start import instability, planted, readout_minimum, relax, uncoded, uncoded_onset
from meanfield.theories.deep.system import DeepProblem, Order, System
from meanfield.validation import FloatArray

__all__ = ["NoBranch", "coding_branch", "frozen_branch", "polish", "prior_branch"]

Report = Callable[[str, int, float], None]

_ROUGH = 1e-4  # residual at the coarse quadrature, below its own error
_FEWEST = 60.0  # samples per class, below which there is no other start
_MANY = 3000.0  # samples, from which on the start is that of the limit first
_HIGHER = (
    4.0,
    2.8,
    2.0,
    1.4,
    1.0,
)  # times the tau of `uncoded_onset`: where else the branch without codes is looked at
_LEARNED = 1e-2  # relative error of t up to which it is at its minimum


class NoBranch(ValueError):
    """There is no solution that continues the prior; the text says why."""


def polish(
    problem: DeepProblem, x: FloatArray, tolerance: float, report: Report | None, most: int = 30
) -> tuple[System, Found]:
    """Newton at the fine quadrature with natural weights of the codes."""
    system = System(problem, FINE)
    return system, newton(system, x, tolerance, most=most, progress=report)


def coding_branch(problem: DeepProblem, tolerance: float, report: Report | None = None) -> tuple[System, Found]:
    """The branch with codes: from the planted starts, else from a third of the samples, where these are better.

    Raises
    ------
    NotCovered
        If the integrals cannot be done on the way.
    """
    found: tuple[System, Found] | None = None
    error = NotCovered("no start was found from which the quadrature of all layers can be done")
    many = problem.n_samples > _MANY
    for limit in (many, not many) if problem.depth > 2 or many else (many,):
        try:
            system, again = _from_plant(problem, tolerance, report, limit)
        except NotCovered as problem_of_start:
            error = problem_of_start
            continue
        if again.residual <= tolerance:
            return system, again
        if found is None or again.residual < found[1].residual:
            found = system, again
    if problem.n_samples >= _FEWEST * len(problem.n):
        fewer = replace(problem, n=problem.n / 3.0, readout_variance=problem.readout_variance * 3.0**problem.exponent)
        with contextlib.suppress(NotCovered):
            lower, start = coding_branch(fewer, tolerance, report)
            if start.residual <= tolerance:
                continued = _continued(problem, lower.unpack(start.x), tolerance, report)
                if found is None or continued[1].residual < found[1].residual:
                    return continued
    if found is None:
        raise error
    return found


def _continued(problem: DeepProblem, order: Order, tolerance: float, report: Report | None) -> tuple[System, Found]:
    """The same branch at three times the samples of `order`."""
    moved = Order(order.kernel, order.d, order.tilde / 3.0, order.delta, order.t / 3.0 ** (1.0 - problem.exponent))
    system = System(problem, COARSE)
    moved = readout_minimum(system, moved)[0]
    rough = newton(system, system.pack(moved), _ROUGH, progress=report)
    return polish(problem, rough.x, tolerance, report)


def _from_plant(problem: DeepProblem, tolerance: float, report: Report | None, limit: bool) -> tuple[System, Found]:
    system = System(problem, COARSE)
    order = readout_minimum(system, planted(problem, limit=limit))[0]
    if problem.depth == 1:
        return polish(problem, system.pack(order), tolerance, report)
    rough = newton(system, relax(system, order, critical=True, limit=limit), _ROUGH, progress=report)
    return polish(problem, rough.x, tolerance, report)


def prior_branch(problem: DeepProblem, report: Report | None = None) -> tuple[System, Found]:
    """The branch without codes, from Gaussian process kernels, at the coarse quadrature.

    Raises
    ------
    NoBranch
        If it has ended at a larger tau.
    NotCovered
        If the integrals cannot be done on the way.
    """
    system = System(problem, COARSE)
    if problem.depth == 1:
        order, _ = readout_minimum(system, replace(uncoded(problem), t=planted(problem).t))
    else:
        below = _followed_down(problem)
        order = _learned(problem, *below, uncoded(problem).t, planted(problem).t)
    return system, newton(system, relax(system, order), _ROUGH, most=12, patience=3, progress=report)


def _followed_down(problem: DeepProblem) -> list[FloatArray]:
    """The readout with the kernels of the prior at the last of a few larger tau, from where it is linear; none if there
    are none, or it was lost.

    Raises
    ------
    NoBranch
        If the branch without codes has ended at one of them.
    """
    onset = uncoded_onset(problem)
    t: list[FloatArray] = []
    for factor in _HIGHER:
        there = replace(problem, tau=factor * onset)
        if there.tau <= problem.tau:
            break
        with contextlib.suppress(NotCovered, np.linalg.LinAlgError):
            t = [_learned(there, *t, uncoded(there).t).t]
    return t


def _learned(problem: DeepProblem, *starts: FloatArray) -> Order:
    """The kernels of the prior with t at its minimum, from the first of several t that leads there.

    Raises
    ------
    NoBranch
        If the layer below does not stay as it is (`_still_stable`).
    NotCovered
        If no start leads to the minimum.
    """
    error = NotCovered("the readout with the kernels of the prior was not found")
    for t in starts:
        try:
            order, _ = readout_minimum(System(problem, COARSE), replace(uncoded(problem), t=t))
            _still_stable(problem, order)
        except NotCovered as reason:
            error = reason
        else:
            return order
    raise error


def _still_stable(problem: DeepProblem, order: Order) -> None:
    """Whether the layer below the top stays as it is under the prior when the readout has learned.

    With conjugates k~ the class means of its kernel are d^2 k~ / (1 - n k~ d): no k~ beyond 1 / n d goes with a small
    kernel, and Phi, whose slope by the kernel is the difference of the k~ asked for from above and that, grows with it.

    Raises
    ------
    NoBranch
        If it does not.
    NotCovered
        If t is not at its minimum, so that this is not known.
    """
    system = System(problem, COARSE)  # with nodes of its own, in case some were missed
    (top,) = system.averages(order, problem.depth - 1)
    if np.abs(system.readout_order(top) - order.t).max() > _LEARNED * np.abs(order.t).max():
        raise NotCovered("the readout with the kernels of the prior was not found")
    largest = instability(problem, order.d[-1], top.tilde)
    if largest > 1.0:
        raise NoBranch(
            f"with the kernels of the prior n k~ d = {largest:.3g} > 1 in layer {problem.depth - 1} at "
            f"tau = {problem.tau:.3g}, so that Phi grows with what tells the classes apart there"
        )


def frozen_branch(
    problem: DeepProblem,
    fractions: dict[str, float],
    tolerance: float,
    report: Report | None = None,
    order: Order | None = None,
) -> tuple[System, Found]:
    """The solution with given shares of the codes.

    Raises
    ------
    UnstableCode
        If one of the codes is not locally stable.
    """
    system = System(problem, COARSE, fractions)
    x = relax(system, planted(problem, fractions) if order is None else order, critical=order is None)
    rough = newton(system, x, _ROUGH, progress=report)
    fine = System(problem, FINE, fractions)
    return fine, newton(fine, rough.x, tolerance, progress=report)
