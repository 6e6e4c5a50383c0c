"""Where the branch that continues the prior ends: the fold at which it turns back to larger tau.

On the branch the Hessian of Phi has signs of its own (a maximum over kernels of a minimum over conjugates). As tau
falls it meets the state over which it would have to pass to learn codes, an eigenvalue of the Hessian goes through
zero, and both are gone. Followed here by the size of the conjugate under the top, in which tau is a smooth function
with a minimum: unknowns are all order parameters and ln tau, and the Hessian is exact, so that the slope of tau is,
too.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from meanfield.theories.deep.layers.rules import CHECK, FINE, NotCovered, Rule
from meanfield.theories.deep.layers.work import OutOfWork, counted
from meanfield.theories.deep.newton import Found, newton
from meanfield.theories.deep.search.branches import NoBranch, prior_branch
from meanfield.theories.deep.search.start import uncoded_onset
from meanfield.theories.deep.system import DeepProblem, Evaluation, System
from meanfield.validation import FloatArray

__all__ = ["BranchEnd", "Fold", "uncoded_at", "uncoded_end"]

_HIGHER = 1.6  # factor between the tau at which the branch is looked for
_MOST_STARTS, _EASY = 24, 6  # starts, and of these those that are left for the next where they are not easy
_GROWTH, _FASTER, _MOST_GROWTH = 0.2, 1.7, 0.7  # of the conjugate, per step: at first, how it changes, at most
_SHARE, _LEAST = 0.5, 0.15  # of the way to where the slope of tau would vanish; the least step, which ends behind it
_FARTHEST = 30.0  # ln of the longest
_ABOVE = 3.2  # times the tau at which a linear readout makes layers unstable, where the branch is nearly the prior
_FAR = 0.3  # of ln tau below the fold, where its place need not be known well
_STEPS, _FLATTENED = 80, 30  # along the branch, and to the fold between two of its points
_CORRECTIONS = 12
# Corrections after which the residual has to be below that; so large, it has to shrink by this with every one.
_SURE, _HOPELESS, _SHRINKS = 4, 0.02, 0.8
_KINK = 0.5  # residual of a guess beyond which a code has weight that had none
_ON_THE_WAY, _ROUGH, _EXACT = 1e-4, 1e-5, 1e-9  # residuals of the points that are passed, near the fold, and at the end
# Residual from which one step of Newton's method ends below the first of these, and slope of tau well before the fold:
# such a point is passed without a look at its own averages; where the next one is not reached from it, it is given up.
_ONE_STEP, _WELL_BEFORE = 0.02, -0.1
_FLAT, _ROUGHLY_FLAT = 1e-7, 1e-3  # d ln tau / d ln k~ at the fold
_MANY = 1000.0  # samples, from which on codes come within a step, and no point is passed
_DEAR, _LITTLE = 8.0, 3e8  # times the work of the step before, or that, up to which the next one is tried
_CLEAR = 0.02  # difference of ln tau that does not need a fine quadrature


@dataclass(frozen=True)
class BranchEnd:
    """The fold at which the branch without codes ends.

    Attributes
    ----------
    tau : float
        There is no such solution below.
    free_energy : float
        Phi there.
    residual : float
        Of the saddle equations, by an independent quadrature.
    eigenvalue : float
        The one of the Hessian of Phi that vanishes, in units of its diagonal and of the next larger in size.
    before, behind : float
        The same where the conjugate is 3 % smaller (on the branch) and larger (on the one that it meets): the signs
        differ.
    """

    tau: float
    free_energy: float
    residual: float
    eigenvalue: float
    before: float
    behind: float


class Fold(NamedTuple):
    """tau and Phi where the branch without codes ends, to the accuracy that a comparison needs."""

    tau: float
    free_energy: float


@dataclass(frozen=True, eq=False)
class _Point:
    """A solution and the direction of the branch there, d(x, ln tau) per relative change of the conjugate.

    Averages and direction of one that is `passed` are those of the guess that a step led to it from.
    """

    x: FloatArray
    log_tau: float
    system: System
    averages: Evaluation
    tangent: FloatArray
    passed: bool = False
    work: float = 0.0  # that it took to get there from the one before

    @property
    def slope(self) -> float:
        """d ln tau / d ln k~."""
        return float(self.tangent[-1])


def uncoded_end(problem: DeepProblem) -> BranchEnd:
    """The end of the branch that continues the prior of a problem, whose own tau only says where to begin.

    Raises
    ------
    NoBranch
        If the branch was not found at any tau, or does not turn back.
    NotCovered
        If integrals cannot be done on the way.
    """
    *_, (before, point) = _followed(_start(problem))
    return _described(_flattest(_at_rule(before, FINE), point))


def uncoded_at(problem: DeepProblem) -> tuple[System, Found] | Fold:
    """The solution of this branch, at the coarse quadrature, followed from a larger tau; where it has ended, its end.

    The end is located at the coarse quadrature, and at the fine one only if that leaves open whether it is above tau.

    Raises
    ------
    NoBranch, NotCovered
        As `uncoded_end`.
    """
    wanted = math.log(max(problem.tau, 1e-300))
    above = max(_HIGHER * max(problem.tau, 1e-3), _ABOVE * uncoded_onset(problem))
    for before, point in _followed(_start(replace(problem, tau=above))):
        if point.log_tau <= wanted:
            share = (wanted - before.log_tau) / (point.log_tau - before.log_tau) if point is not before else 0.0
            system = _with_tau(point.system, problem.tau)
            found = newton(system, before.x + share * (point.x - before.x), _ROUGH)
            if found.residual <= _ROUGH or not point.passed:
                return system, found
    close = _near_fold(before, point)
    if close is not None and wanted < close.log_tau - _FAR:
        return Fold(math.exp(close.log_tau), close.system.free_energy(close.x, close.averages))
    end = _flattest(before, point, _ROUGH, _ROUGHLY_FLAT)
    if abs(wanted - end.log_tau) < _CLEAR:
        end = _flattest(_at_rule(before, FINE), point)
    if wanted <= end.log_tau:
        return Fold(math.exp(end.log_tau), end.system.free_energy(end.x, end.averages))
    # Between the last point and the fold, where tau is a parabola.
    share = 1.0 - math.sqrt((wanted - end.log_tau) / (before.log_tau - end.log_tau))
    system = _with_tau(end.system, problem.tau)
    return system, newton(system, before.x + share * (end.x - before.x), _ROUGH)


def _followed(point: _Point) -> Iterator[tuple[_Point, _Point]]:
    """Neighbouring points of the branch, from a first one to the first behind the fold."""
    before, step, most = point, _GROWTH, _MOST_GROWTH
    passing = point.system.problem.n_samples < _MANY
    sure = before, point, step  # where the last point was that was looked at
    for _ in range(_STEPS):
        yield before, point
        if point.slope >= 0.0:
            return
        following = None
        while following is None:
            with contextlib.suppress(_Kink):
                following = _moved(point, step, _ON_THE_WAY, before, _KINK, passing)
                if following is None and before is not point:
                    following = _moved(point, step, _ROUGH)  # along the tangent
            if following is None and point.passed:
                exact = _looked_at(point)
                if exact is None:
                    passing, (before, point, step) = False, sure
                else:
                    point = exact
            elif following is None:
                step = most = 0.5 * step
                if step < 1e-3:
                    raise NoBranch(f"it was lost at tau = {math.exp(point.log_tau):.4g}")
        before, point, step = point, following, min(_FASTER * step, most, _to_fold(point, following))
        sure = sure if point.passed else (before, point, step)
    raise NoBranch(f"it was followed to tau = {math.exp(point.log_tau):.3g} and does not turn back")


def _looked_at(point: _Point) -> _Point | None:
    """A point that was passed, with averages and direction of its own; None if no solution is close to it."""
    try:
        exact = _corrected(point.x, point.log_tau, point.system, _ON_THE_WAY)
    except (NotCovered, np.linalg.LinAlgError):
        return None
    return exact if exact is not None and abs(exact.log_tau - point.log_tau) < _CLEAR and exact.slope < 0.0 else None


def _to_fold(one: _Point, two: _Point) -> float:
    """Relative growth of the conjugate from `two` over half of the way to the fold, were tau a parabola from there."""
    whole, rise = math.log(_size(two) / _size(one)), two.slope - one.slope
    if not rise > 0.0 > two.slope:
        return math.inf
    return max(math.expm1(min(_SHARE * -two.slope * whole / rise, _FARTHEST)), _LEAST)


def _start(problem: DeepProblem) -> _Point:
    tau = problem.tau if problem.tau > 0.0 else 1e-3
    for count in range(_MOST_STARTS):
        try:
            system, found = prior_branch(replace(problem, tau=tau), patient=count >= _EASY)
        except (NoBranch, NotCovered, np.linalg.LinAlgError) as error:
            tau *= max(_HIGHER, error.instability) if isinstance(error, NoBranch) else _HIGHER
            continue
        if found.residual <= 1e-4:
            point = _point(found.x, math.log(tau), system, found.averages)
            if point.slope < 0.0:
                return point
        tau *= _HIGHER
    raise NoBranch(f"it was not found at any tau up to {tau:.3g}")


def _conjugate(system: System, x: FloatArray) -> FloatArray:
    """Row whose product with the unknowns is what grows: the conjugate under the top apart from what classes share."""
    n = system.problem.n
    centred = np.eye(len(n)) - np.outer(np.ones(len(n)), n) / n.sum()
    row = np.zeros(len(x))
    (at,) = (at for name, layer, at in system.blocks if name == "tilde" and layer == system.problem.depth - 2)
    row[at] = [float(np.trace(centred @ one @ centred.T)) for one in system.matrices]
    return row


def _border(system: System, x: FloatArray) -> FloatArray:
    """The same in units of what it is, without ln tau."""
    row = _conjugate(system, x)
    return np.append(row / float(row @ x), 0.0)


def _matrix(point_system: System, x: FloatArray, averages: Evaluation, scale: FloatArray) -> FloatArray:
    """Derivatives of the gradient of Phi by x and ln tau, all in units of the blocks."""
    p = point_system.problem
    hessian = point_system.hessian(averages) * np.outer(scale, scale)
    order = point_system.unpack(x)
    by_tau = np.zeros(len(x))
    at = point_system.blocks[-1][2]
    by_tau[at] = [p.tau * float((p.n[:, None] * order.t * one).sum()) for one in point_system.outputs]
    return np.hstack([hessian, (by_tau * scale)[:, None]])


def _solve(matrix: FloatArray, row: FloatArray, scale: FloatArray, right: FloatArray) -> FloatArray:
    """Solution (x, ln tau) of the equations with the size of the conjugate as the last one."""
    border = row.copy()
    border[:-1] *= scale
    whole = np.vstack([matrix, border])
    size = np.abs(whole).max(axis=1)
    found = np.linalg.solve(whole / size[:, None], right / size)
    found[:-1] *= scale
    return np.asarray(found)


def _point(x: FloatArray, log_tau: float, system: System, averages: Evaluation | None = None) -> _Point:
    averages = system.evaluate(x, curvature=True) if averages is None else averages
    scale = system.scales(x)
    right = np.zeros(len(x) + 1)
    right[-1] = 1.0
    tangent = _solve(_matrix(system, x, averages, scale), _border(system, x), scale, right)
    return _Point(x, log_tau, system, averages, tangent)


class _Kink(Exception):
    """A guess is beyond where a code gains weight within 1 / P: the branch bends there, and has to be met closer by."""


def _corrected(
    x: FloatArray,
    log_tau: float,
    system: System,
    tolerance: float,
    shrinks: float = math.inf,
    first: float = math.inf,
    passing: bool = False,
) -> _Point | None:
    """The solution with the conjugate's size of x; None if Newton does not get there, or far off not by this factor.

    With `passing` one step is the last, from a residual that is not large, and well before the fold.

    Raises
    ------
    _Kink
        If the residual at x is beyond `first`.
    """
    row, smallest = _border(system, x), math.inf
    for count in range(_CORRECTIONS):
        if not (system.unpack(x).d > 0.0).all():
            return None
        system = _with_tau(system, math.exp(log_tau))
        averages = system.evaluate(x, curvature=True)
        error = float(np.abs(system.residual(x, averages)).max())
        if error <= tolerance:
            return _point(x, log_tau, system, averages)
        if count == 0 and error > first:
            raise _Kink
        if not error < 10.0 * smallest or (error > _HOPELESS and (count >= _SURE or error > shrinks * smallest)):
            return None
        smallest = min(smallest, error)
        scale = system.scales(x)
        matrix, right = _matrix(system, x, averages, scale), np.append(-system.gradient(x, averages) * scale, 0.0)
        move = _solve(matrix, row, scale, right)
        if passing and error <= _ONE_STEP:
            tangent = _solve(matrix, row, scale, np.append(np.zeros(len(x)), 1.0))
            if tangent[-1] < _WELL_BEFORE:
                return _Point(x + move[:-1], log_tau + float(move[-1]), system, averages, tangent, True)
        largest = max(float(np.abs(move[:-1] / scale).max()), abs(float(move[-1])))
        move *= min(1.0, 0.3 / max(largest, 1e-300))
        x, log_tau = x + move[:-1], log_tau + float(move[-1])
    return None


def _moved(
    point: _Point,
    step: float,
    tolerance: float,
    before: _Point | None = None,
    first: float = math.inf,
    passing: bool = False,
) -> _Point | None:
    """The point where the conjugate is larger by this share; from the polynomial through another point, if given, whose
    residual may be `first` at most (`_Kink`)."""
    guess, shrinks = np.append(point.x, point.log_tau) + step * point.tangent, math.inf
    if before is not None and before is not point:
        guess, shrinks = _between(before, point, math.log1p(step)), _SHRINKS
    else:
        first = math.inf
    most = _DEAR * max(point.work, _LITTLE) if point.work > 0.0 else math.inf
    try:
        with counted(most) as work:
            found = _corrected(guess[:-1], float(guess[-1]), point.system, tolerance, shrinks, first, passing)
    except (NotCovered, OutOfWork, np.linalg.LinAlgError):
        return None
    return None if found is None else replace(found, work=work.done)


def _between(one: _Point, two: _Point, further: float) -> FloatArray:
    """(x, ln tau) where the ln of the conjugate's size is larger than that of `two` by this: of third order, with the
    directions of the branch at both points."""
    whole = math.log(_size(two) / _size(one))
    s = 1.0 + further / whole
    first, last = np.append(one.x, one.log_tau), np.append(two.x, two.log_tau)
    change = last - first
    start, end = whole * one.tangent - change, change - whole * two.tangent
    return np.asarray(first + s * change + s * (1.0 - s) * ((1.0 - s) * start + s * end))


def _with_tau(system: System, tau: float) -> System:
    """The same equations at another tau; lattices and symmetry stay."""
    if tau == system.problem.tau:
        return system
    other = copy.copy(system)
    other.problem = replace(system.problem, tau=tau)
    return other


def _at_rule(point: _Point, rule: Rule) -> _Point:
    found = _corrected(point.x, point.log_tau, point.system.at_rule(rule), _EXACT)
    if found is None:
        raise NoBranch(f"it was lost at tau = {math.exp(point.log_tau):.4g}")
    return found


def _near_fold(point: _Point, beyond: _Point) -> _Point | None:
    """A point near the fold between two others, from tau and its slopes there; None if it was not reached."""
    whole = math.log(_size(beyond) / _size(point))
    share = np.linspace(0.0, 1.0, 101)
    lowest = int(np.argmin([_between(point, beyond, (one - 1.0) * whole)[-1] for one in share]))
    return _moved(beyond, math.expm1((share[lowest] - 1.0) * whole), _ROUGH, point)


def _flattest(point: _Point, beyond: _Point, tolerance: float = _EXACT, flat: float = _FLAT) -> _Point:
    """Where tau has its minimum, between two points: regula falsi (Illinois) on its exact slope, from the cubics."""
    ends, slopes, here, last = [point, beyond], [point.slope, beyond.slope], point, -1
    for _ in range(_FLATTENED):
        if abs(here.slope) <= flat:
            return here
        share = slopes[0] / (slopes[0] - slopes[1])
        whole = math.log(_size(ends[1]) / _size(ends[0]))
        moved = None
        for part in (share, 0.5 * share, 0.5 + 0.5 * share):
            guess = _between(ends[0], ends[1], (part - 1.0) * whole)
            with contextlib.suppress(NotCovered, np.linalg.LinAlgError):
                moved = _corrected(guess[:-1], float(guess[-1]), here.system, tolerance)
            if moved is not None:
                break
        if moved is None:
            break
        here = moved
        side = int(here.slope >= 0.0)
        if side == last:
            slopes[1 - side] *= 0.5
        ends[side], slopes[side], last = here, here.slope, side
    raise NoBranch(f"its end near tau = {math.exp(here.log_tau):.4g} was not located")


def _size(point: _Point) -> float:
    """Of the conjugate apart from what all classes share."""
    return float(_conjugate(point.system, point.x) @ point.x)


def _soft(point: _Point) -> float:
    """The eigenvalue of the Hessian that is smallest in size, in units of the next one."""
    hessian = point.system.hessian(point.averages)
    size = np.sqrt(np.maximum(np.abs(np.diag(hessian)), 1e-300))
    values = np.linalg.eigvalsh(hessian / np.outer(size, size))
    order = np.argsort(np.abs(values))
    return float(values[order[0]] / abs(values[order[1]]))


def _described(point: _Point) -> BranchEnd:
    check = point.system.at_rule(CHECK)
    residual = float(np.abs(check.residual(point.x, check.evaluate(point.x))).max())
    beside = [_moved(point, step, _ROUGH) for step in (-0.03, 0.03)]
    if any(one is None for one in beside):
        raise NoBranch("its end could not be looked at from both sides")
    before, behind = (_soft(one) for one in beside if one is not None)
    return BranchEnd(
        tau=math.exp(point.log_tau),
        free_energy=point.system.free_energy(point.x, point.averages),
        residual=residual,
        eigenvalue=_soft(point),
        before=before,
        behind=behind,
    )
