"""One branch of solutions from its start: that of given codes, or the one that continues the prior; and from the coarse
quadrature to the fine one."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain

import numpy as np

from meanfield.theories.deep.layers.rules import COARSE, FINE, NotCovered
from meanfield.theories.deep.layers.work import counted
from meanfield.theories.deep.newton import Found, chord, newton
from meanfield.theories.deep.readout import readout_minimum
from meanfield.theories.deep.search.ascent import ascended
from meanfield.theories.deep.search.start import instability, planted, relax, uncoded, uncoded_onset
from meanfield.theories.deep.system import DeepProblem, Order, System
from meanfield.theories.deep.unlike_classes.patched import PatchedLayer
from meanfield.validation import FloatArray

__all__ = [
    "AROUND_PEAKS",
    "ASCENDED",
    "FEW_STEPS",
    "ONE_WAY",
    "ROUGH",
    "ROUGH_PEAKS",
    "NoBranch",
    "Report",
    "Way",
    "frozen_branch",
    "polish",
    "prior_branch",
    "refined",
]

Report = Callable[[str, int, float], None]
Way = Callable[[], tuple[System, Found]]

ROUGH, _ASTRAY = 5e-5, 0.1  # residual at the coarse quadrature, and from which on it is no start
ROUGH_PEAKS = 1e-3  # the first on lattices around peaks, which leave about that
_MOST_REFINED = 400_000  # nodes of a layer that finer ones are tried for
FEW_STEPS = 12  # of Newton on the way
# Times the tau of `uncoded_onset`: where else the branch without codes is looked at.
_HIGHER = (2.8, 2.0, 1.4, 1.0)
ASCENDED = 0.1  # relative change of conjugates up to which Newton is left the rest
# By which the reach of lattices grows that are too coarse, in up to so many dimensions; less in more, where nodes grow
# as its power.
_REFINED, _DIMENSIONS = 0.08, 4.0
_NEARLY = 0.05  # residual from which on Newton is worth more steps in any case
_QUICK, _TOO_FAR = 4, 0.5  # steps in which kernels that followed by themselves are corrected, and from where it is none
_FIRST, _CLOSE = 2, 0.2  # passes after which Newton is tried, and up to which residual at first; then as many more
_LEARNED = 1e-2  # relative error of t up to which it is at its minimum
ONE_WAY = 5e10  # multiplications (20 to 40 s) from one start to the codes
AROUND_PEAKS = 4.0  # times as much, where layers are integrated around peaks


class NoBranch(ValueError):
    """There is no solution that continues the prior; the text says why.

    instability : float
        n k~ d in the layer below the top, if that is why.
    """

    def __init__(self, text: str, instability: float = 0.0) -> None:
        super().__init__(text)
        self.instability = instability


def polish(
    coarse: System, rough: Found, tolerance: float, report: Report | None, most: int = 30
) -> tuple[System, Found]:
    """Newton at the fine quadrature, from a solution at the coarse one and its lattices.

    Its second derivatives are good enough for the few steps from there, where it is one. Where Newton ended far from
    any solution the fine quadrature leads to none either, and the coarse ones are handed back; not so for given codes
    and lattices around peaks, whose coarse equations are rough themselves. What is allowed for finding a solution is
    no limit once there is one.
    """
    if rough.residual > _ASTRAY and not coarse.codes and not coarse.around_peaks:
        return coarse, rough
    system = coarse.at_rule(FINE)
    if rough.residual > (ROUGH_PEAKS if coarse.around_peaks else ROUGH):
        return system, newton(system, rough.x, tolerance, most=most, progress=report)
    with counted((AROUND_PEAKS if coarse.around_peaks else 1.0) * ONE_WAY, beyond=True):
        found = chord(system, rough.x, coarse.hessian(rough.averages), tolerance, report)
        if found.residual > tolerance:
            found = newton(system, found.x, tolerance, most=most, progress=report, known=found.averages)
    return system, found


def refined(system: System, found: Found, tolerance: float, report: Report | None) -> tuple[System, Found] | None:
    """The same solution on finer lattices of peaks; None if there are none, or they take too many nodes."""
    finer = system.at_rule(FINE)
    for own, layer in zip(system.layers, finer.layers):
        if not isinstance(own, PatchedLayer):
            return None
        if own.nodes is not None and len(own.nodes.v) > _MOST_REFINED:  # the certificate's would not be there
            return None
        size = own.nodes.v.shape[1] if own.nodes is not None else _DIMENSIONS
        layer.level = own.reach + _REFINED * min(1.0, _DIMENSIONS / size) ** 2
    try:
        curved = found.averages
        if curved.top[0].curvature is None:
            curved = system.evaluate(found.x, grow=False, curvature=True)
        again = chord(finer, found.x, system.hessian(curved), tolerance, report)
        if again.residual > tolerance:
            again = newton(finer, again.x, tolerance, most=FEW_STEPS, progress=report)
    except NotCovered:
        return None
    return finer, again


def prior_branch(problem: DeepProblem, report: Report | None = None, patient: bool = True) -> tuple[System, Found]:
    """The branch without codes, from Gaussian process kernels, at the coarse quadrature.

    Unless `patient`, Newton is not tried where kernels that followed by themselves are far from right, and not again
    where it did not make them nearly so.

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
        order = _learned(problem, chain(below, (start(problem).t for start in (uncoded, planted))))
    x = relax(system, order, _FIRST, kernels=True)
    found = newton(system, x, ROUGH, most=_QUICK, patience=3, hopeless=_CLOSE, progress=report)
    if found.residual > ROUGH:
        far = math.inf if patient else _TOO_FAR
        x = relax(system, system.unpack(x), _FIRST, kernels=True)
        found = newton(system, x, ROUGH, most=_QUICK, patience=3, hopeless=far, progress=report)
    if found.residual > ROUGH and (patient or found.residual < _NEARLY):  # near its end, or where steps creep
        found = newton(system, relax(system, order), ROUGH, most=12, patience=3, progress=report)
    return system, found


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
            t = [_learned(there, [*t, uncoded(there).t]).t]
    return t


def _learned(problem: DeepProblem, starts: Iterable[FloatArray]) -> Order:
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
            f"tau = {problem.tau:.3g}, so that Phi grows with what tells the classes apart there",
            largest,
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
    start = relax(system, planted(problem, fractions) if order is None else order, critical=order is None)
    rough = newton(system, start, ROUGH, progress=report)
    if rough.residual > ROUGH and system.around_peaks:
        x = ascended(system, system.unpack(start), ASCENDED, progress=report)
        rough = newton(system, x, ROUGH, progress=report)
    return polish(system, rough, tolerance, report, 40)
