"""One branch of solutions from its start: the coding branch, or the one that continues the prior.

Newton first at a coarse quadrature, then at the fine one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np

from meanfield.theories.deep.ascent import ascended, climbed_up
from meanfield.theories.deep.limit_start import first_conjugate, has_limit, limit_order
from meanfield.theories.deep.newton import Found, chord, newton
from meanfield.theories.deep.patched import PatchedLayer
from meanfield.theories.deep.readout import readout_minimum
from meanfield.theories.deep.response import responding
from meanfield.theories.deep.rules import COARSE, FINE, NotCovered
from meanfield.theories.deep.start import instability, planted, relax, uncoded, uncoded_onset
from meanfield.theories.deep.system import MOST_FIELDS, DeepProblem, Order, System, fields_of_layers, patched
from meanfield.theories.deep.upwards import from_few, with_samples
from meanfield.theories.deep.work import OutOfWork, counted
from meanfield.validation import FloatArray

__all__ = [
    "ONE_WAY",
    "NoBranch",
    "Way",
    "climbed",
    "coarse_starts",
    "coding_and_starts",
    "coding_branch",
    "frozen_branch",
    "polish",
    "prior_branch",
    "refined",
]

Report = Callable[[str, int, float], None]
Way = Callable[[], tuple[System, Found]]

_ROUGH, _ASTRAY = 5e-5, 0.1  # residual at the coarse quadrature, and from which on it is no start
_MOST_REFINED = 400_000  # nodes of a layer that finer ones are tried for
_ROUGH_PEAKS = 1e-3  # the first on lattices around peaks, which leave about that
_GOOD = 1e-6  # residual that is asked for of a solution that is only a start
_FEWEST = 60.0  # samples per class, below which there is no other start
_MANY = 3000.0  # samples, from which on the start is that of the limit first
_NARROW = 1e4  # samples, from which on planted starts of two layers may be lost, as those of three are
_CLIMB = 1.2e7  # samples, from which on three and more layers are reached from fewer
_RUNG = 1.25  # times as many samples at a time
_FEW_STEPS, _LOST = 12, 1e-2  # steps of Newton on the way, and the residual at which it was lost
# Times the tau of `uncoded_onset`: where else the branch without codes is looked at.
_HIGHER = (2.8, 2.0, 1.4, 1.0)
_ASCENDED = 0.1  # relative change of conjugates up to which Newton is left the rest
# By which the reach of lattices grows that are too coarse, in up to so many dimensions; less in more, where nodes grow
# as its power.
_REFINED, _DIMENSIONS = 0.08, 4.0
_MOST_UPWARDS, _FINEST = 20, 1.1  # steps of Newton at more samples, and by how many times more at least
_NEARLY = 0.05  # residual from which on Newton is worth more steps in any case
_QUICK, _TOO_FAR = 4, 0.5  # steps in which kernels that followed by themselves are corrected, and from where it is none
_FIRST, _CLOSE = 2, 0.2  # passes after which Newton is tried, and up to which residual at first; then as many more
_LEARNED = 1e-2  # relative error of t up to which it is at its minimum
_WORK, ONE_WAY = 9e10, 5e10  # multiplications (30 to 60 s) in finding the codes, and from one start
_FEWER = 1.5e10  # of two layers at a third of the samples
_AROUND_PEAKS = 4.0  # times as much, where layers are integrated around peaks
_SPENT = 0.98  # part of them after which no other start is tried
_UPHILL, _NEARLY_UP = 0.03, 0.1  # residual from which Newton takes over from the climb, and from one that began close
_UP = 3e-3  # residual to which the latter goes on where Newton was lost
_LONG = 100  # steps of the latter at most: neurons of steps change their ways slowly


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
    if rough.residual > (_ROUGH_PEAKS if coarse.around_peaks else _ROUGH):
        return system, newton(system, rough.x, tolerance, most=most, progress=report)
    with counted((_AROUND_PEAKS if coarse.around_peaks else 1.0) * ONE_WAY, beyond=True):
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
            again = newton(finer, again.x, tolerance, most=_FEW_STEPS, progress=report)
    except NotCovered:
        return None
    return finer, again


def coding_branch(problem: DeepProblem, tolerance: float, report: Report | None = None) -> tuple[System, Found]:
    """The branch with codes: from the planted starts; where Newton's method loses it from few samples upwards, by a
    climb, from a third of the samples, which comes first for two layers, and by an ascent, which comes first on
    lattices around peaks. Of unconverged ones the best.

    Raises
    ------
    NotCovered
        If the integrals cannot be done on the way.
    """
    return coding_and_starts(problem, tolerance, report)[:2]


def coarse_starts(problem: DeepProblem, report: Report | None = None) -> list[Way]:
    """Ways to the codes at the coarse quadrature, in the order in which they are tried."""
    many = problem.n_samples > _MANY
    plants = (many, not many) if problem.depth > 2 or many else (many,)
    starts: list[Way] = [partial(_from_plant, problem, report, limit) for limit in plants]
    if has_limit(problem) and not patched(problem):
        starts.insert(0, partial(_from_limit, problem, report))
    narrow = problem.depth > 2 or (problem.depth == 2 and problem.n_samples > _NARROW)
    if narrow and not patched(problem):
        starts.insert(len(starts) - 1, partial(from_few, problem, _ROUGH, report))
    soft = problem.depth > 2 and many and has_limit(problem)  # what classes share is far from the prior
    three = len(problem.n) > 2 and (problem.depth > 2 or (many and not patched(problem) and problem.depth == 2))
    if soft or three:
        starts.insert(0, partial(_from_response, problem, report))
    return starts


def coding_and_starts(
    problem: DeepProblem, tolerance: float, report: Report | None = None
) -> tuple[System, Found, list[Way] | None]:
    """The same, and the starts at the coarse quadrature that were not needed; None where some before led to none."""
    if problem.depth > 2 and problem.n_samples > _CLIMB:
        return *climbed(problem, tolerance, report), []
    starts = coarse_starts(problem, report)
    others = [partial(way, problem, tolerance, report) for way in (_from_fewer, _from_ascent)]
    if patched(problem):
        others.reverse()
    elif problem.depth > 1:  # layers are soft at fewer samples, where they are two
        others.insert(1 if problem.depth == 2 else 0, partial(_from_climb, problem, tolerance, report))
    ways: list[Way] = [*(partial(_polished, start, tolerance, report) for start in starts), *others]
    found: tuple[System, Found] | None = None
    error = NotCovered("no start was found from which the quadrature of all layers can be done")
    more = _AROUND_PEAKS if patched(problem) else 1.0
    with counted(more * _WORK) as work:
        for tried, way in enumerate(ways, 1):
            try:
                with counted(more * ONE_WAY):
                    reached = way()
            except OutOfWork:
                if work.done < _SPENT * work.most:
                    continue
                error = NotCovered("codes were not found in the work that is allowed for it")
                break
            except (NotCovered, np.linalg.LinAlgError) as reason:
                error = reason if isinstance(reason, NotCovered) else error
                continue
            if found is None or reached[1].residual < found[1].residual:
                found = reached
            if found[1].residual <= tolerance:
                return *found, starts[1:] if tried == 1 else None
    if found is None:
        raise error
    return *found, None


def _polished(start: Way, tolerance: float, report: Report | None) -> tuple[System, Found]:
    return polish(*start(), tolerance, report)


def _from_fewer(problem: DeepProblem, tolerance: float, report: Report | None) -> tuple[System, Found]:
    """From a third of the samples."""
    if problem.n_samples < _FEWEST * len(problem.n):
        raise NotCovered("a third of so few samples is no start")
    fewer = with_samples(problem, 1.0 / 3.0)
    with counted(_FEWER if problem.depth == 2 and not patched(problem) else math.inf):  # and a climb is tried after it
        lower, start = coding_branch(fewer, max(tolerance, _GOOD), report)
    if start.residual > _ROUGH:
        raise NotCovered(f"the branch with codes was not found at {fewer.n_samples:.4g} samples")
    return _continued(fewer, problem, lower.unpack(start.x), tolerance, report)


def climbed(problem: DeepProblem, tolerance: float, report: Report | None = None) -> tuple[System, Found]:
    """The branch with codes of very many samples: planted, else from fewer, `_RUNG` times as many at a time.

    The layers are so close to an instability there that planted starts miss it; from two solutions the powers of P with
    which they change are known. At the fine quadrature: the coarse one leaves the common part of a middle kernel open.

    Raises
    ------
    NotCovered
        If it is lost on the way; the text says where.
    """
    system, found = _rung(problem, None, report)
    if found.residual <= _LOST:
        reached = polish(system, found, tolerance, report, _FEW_STEPS)
        if reached[1].residual <= tolerance:
            return reached
    steps = math.ceil(math.log(problem.n_samples / _CLIMB) / math.log(_RUNG))
    orders: list[Order] = []
    for k in range(steps + 1, -1, -1):
        rung = with_samples(problem, _RUNG**-k)
        system, found = _rung(rung, _extrapolated(*orders[-2:]) if len(orders) > 1 else None, report)
        if found.residual > _LOST:
            raise NotCovered(
                f"with so many samples the layers are close to an instability; at {rung.n_samples:.3g} samples, on the "
                f"way to {problem.n_samples:.3g}, Newton ended at a residual of {found.residual:.1g}"
            )
        orders.append(system.unpack(found.x))
    return polish(system, found, tolerance, report)


def _rung(problem: DeepProblem, order: Order | None, report: Report | None) -> tuple[System, Found]:
    """A few steps of Newton at the fine quadrature, from order parameters or planted ones."""
    system = System(problem, COARSE)
    if order is None:
        planted_one = readout_minimum(system, planted(problem, limit=True))[0]
        x = relax(system, planted_one, critical=True, limit=True)
    else:
        x = system.pack(order)
    system = system.at_rule(FINE)
    return system, newton(system, x, _ROUGH, most=_FEW_STEPS, patience=4, progress=report)


def _extrapolated(one: Order, two: Order) -> Order:
    """The order parameters at more samples than those of `two`, by the same factor as these are more than of `one`."""
    mean, last = (order.kernel.mean(axis=(1, 2), keepdims=True) for order in (two, one))
    apart, before = two.kernel - mean, one.kernel - last
    return Order(
        mean * _ratio(mean, last) + apart * _ratio(apart, before),
        two.d * _ratio(two.d, one.d),
        two.tilde * _ratio(two.tilde, one.tilde),
        two.delta * _ratio(two.delta, one.delta),
        two.t * _ratio(two.t, one.t),
    )


def _ratio(two: FloatArray, one: FloatArray) -> FloatArray:
    """two / one, where that is a moderate factor, else 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = two / one
    return np.where(np.isfinite(found) & (found > 0.1) & (found < 10.0), found, 1.0)


def _continued(
    fewer: DeepProblem, problem: DeepProblem, order: Order, tolerance: float, report: Report | None
) -> tuple[System, Found]:
    """The same branch at more samples than those of `order`: at once, or where that fails in smaller steps."""
    samples, factor = fewer.n_samples, problem.n_samples / fewer.n_samples
    while True:
        factor = min(factor, problem.n_samples / samples)
        last = samples * factor > 0.999 * problem.n_samples
        there = problem if last else with_samples(problem, samples * factor / problem.n_samples)
        moved = replace(order, tilde=order.tilde / factor, t=order.t / factor ** (1.0 - problem.exponent))
        system = System(there, COARSE)
        try:
            moved = readout_minimum(system, moved)[0]
            rough = newton(system, system.pack(moved), _ROUGH, most=_MOST_UPWARDS, patience=4, progress=report)
        except (NotCovered, np.linalg.LinAlgError):
            rough = None
        reached = rough is not None and rough.residual <= _ROUGH
        if not reached and factor >= _FINEST:
            factor = math.sqrt(factor)
        elif rough is None or not (reached or last):
            raise NotCovered(f"the branch with codes was lost at {there.n_samples:.4g} samples, followed upwards")
        elif last:
            return polish(system, rough, tolerance, report)
        else:
            samples, order = there.n_samples, system.unpack(rough.x)


def _from_plant(problem: DeepProblem, report: Report | None, limit: bool) -> tuple[System, Found]:
    system = System(problem, COARSE)
    order = readout_minimum(system, planted(problem, limit=limit))[0]
    x = system.pack(order) if problem.depth == 1 else relax(system, order, critical=True, limit=limit)
    return system, newton(system, x, _ROUGH_PEAKS if patched(problem) else _ROUGH, progress=report)


def _from_limit(problem: DeepProblem, report: Report | None) -> tuple[System, Found]:
    """From the limit of many samples at the exponent 1 / L."""
    system = System(problem, COARSE)
    order = readout_minimum(system, limit_order(problem))[0]
    x = relax(system, order, limit=True, first=first_conjugate(problem, order))
    return system, newton(system, x, _ROUGH, progress=report)


def _from_response(problem: DeepProblem, report: Report | None) -> tuple[System, Found]:
    """Upwards along Phi from where every layer has the kernel that planted codes ask for.

    On lattices around peaks, which are found anew in every step of the climb, at once by Newton's method.
    """
    system = System(problem, COARSE)
    order = responding(system)
    if patched(problem):
        x = system.pack(order)
    else:
        x = climbed_up(system, order, _NEARLY_UP, _LONG, progress=report)
    found = newton(system, x, _ROUGH, progress=report)
    if found.residual > _ROUGH and not patched(problem) and len(problem.n) < 3:  # too early, where layers are soft
        x = climbed_up(system, system.unpack(x), _UP, _LONG, progress=report)
        found = newton(system, x, _ROUGH, progress=report)
    return system, found


def _from_climb(problem: DeepProblem, tolerance: float, report: Report | None) -> tuple[System, Found]:
    """From planted codes upwards along Phi, with its second derivatives."""
    system = System(problem, COARSE)
    limit = problem.n_samples > _MANY
    order = readout_minimum(system, planted(problem, limit=limit))[0]
    x = climbed_up(system, system.unpack(relax(system, order, critical=True, limit=limit)), _UPHILL, progress=report)
    return polish(system, newton(system, x, _ROUGH, progress=report), tolerance, report)


def _from_ascent(problem: DeepProblem, tolerance: float, report: Report | None) -> tuple[System, Found]:
    """From planted codes along the conjugates that are asked for, and Newton from where they are nearly right.

    The way there is on lattices around peaks, which bear layers far from any solution; one lattice takes over where it
    does.
    """
    if problem.depth == 1 or fields_of_layers(problem) > MOST_FIELDS:
        raise NotCovered("the fields of a layer are too many for lattices around peaks")
    system = System(problem, COARSE, peaks=True)
    order = readout_minimum(system, planted(problem))[0]
    start = system.unpack(relax(system, order, critical=True))
    x = ascended(system, start, _ASCENDED, progress=report)
    found = newton(system, x, _ROUGH, progress=report)
    if not patched(problem):
        order, system = system.unpack(found.x), System(problem, COARSE)
        found = newton(system, system.pack(order), _ROUGH, progress=report)
    return polish(system, found, tolerance, report)


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
    found = newton(system, x, _ROUGH, most=_QUICK, patience=3, hopeless=_CLOSE, progress=report)
    if found.residual > _ROUGH:
        far = math.inf if patient else _TOO_FAR
        x = relax(system, system.unpack(x), _FIRST, kernels=True)
        found = newton(system, x, _ROUGH, most=_QUICK, patience=3, hopeless=far, progress=report)
    if found.residual > _ROUGH and (patient or found.residual < _NEARLY):  # near its end, or where steps creep
        found = newton(system, relax(system, order), _ROUGH, most=12, patience=3, progress=report)
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
    rough = newton(system, start, _ROUGH, progress=report)
    if rough.residual > _ROUGH and system.around_peaks:
        x = ascended(system, system.unpack(start), _ASCENDED, progress=report)
        rough = newton(system, x, _ROUGH, progress=report)
    return polish(system, rough, tolerance, report, 40)
