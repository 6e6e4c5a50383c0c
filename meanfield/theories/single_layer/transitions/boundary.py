"""Phase boundaries in the plane of two control parameters: pseudo-arclength continuation of a transition.

Unknowns X = (x, lambda, mu), one equation fewer. Predictor along the null vector T of the Jacobian, corrector Newton on
{F, conditions, T.(X - X_pred)} (phases/THEORY.md, "Continuation"). Every accepted point passes the tests of
`locate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import brentq

from meanfield.posterior.certificate import ConvergenceError
from meanfield.theories.single_layer.transitions.acceptance import Transition
from meanfield.theories.single_layer.transitions.control import Control
from meanfield.theories.single_layer.transitions.extended import (
    SINGULAR,
    ExtendedSystem,
    Linearised,
    Soft,
    Vanishing,
    newton,
    quartic,
)
from meanfield.theories.single_layer.transitions.meeting import meeting_point
from meanfield.theories.single_layer.transitions.transition import RESIDUAL, Setup, locate, make_root, set_up
from meanfield.validation import FloatArray

__all__ = ["MEETING", "Boundary", "trace_boundary"]

MEETING = "meeting point"  # how the reason for an end begins that was located with a second condition

_ALIGNED = 0.9  # cosine between successive tangents
_SHORTEST = 1e-5
_SHORTEST_CLOSE = 5e-4  # the same where two codes come closer than `_CLOSE`, in units of sigma_a
_CLOSE = 0.2
_FOLD = 1e-6  # of a step: accuracy of a fold's place along the curve, squared in the parameter that turns
_CORRECTIONS = 15  # Newton steps; a corrector that needs more has a step that is too long
_REACH = 3.0  # steps within which a meeting point belongs to this end
_NEAR_END = 0.01  # so close to a located end comes the last point before it: the direction there is not known


@dataclass(frozen=True, eq=False)
class Boundary:
    """A curve of transitions in the plane of two control parameters.

    Attributes
    ----------
    names : (str, str)
        The parameters.
    points : tuple of Transition
        In order along the curve; each with its own certificate.
    folds : tuple of (str, dict)
        Parameter that has an extremum along the curve, and where.
    ends : (str, str)
        Why the curve stops at its first and last point: "limit of <name>", "cusp" (the end point is part of `points`),
        "closed", or the reason why the next point is no transition of this kind. Where that is a second condition
        which holds at the end, the end is located with both ("meeting point", see `meeting`).
    """

    names: tuple[str, str]
    points: tuple[Transition, ...]
    folds: tuple[tuple[str, dict[str, float]], ...]
    ends: tuple[str, str]
    _tracer: _Tracer
    _stretches: tuple[list[_Point], list[_Point]]

    @property
    def label(self) -> str:
        """What happens along the curve, as the first parameter increases."""
        middle = self.points[len(self.points) // 2]
        return next((p.label for p in (middle, *self.points) if p.kind != "cusp"), middle.label)

    @property
    def kind(self) -> str:
        """Kind of the transitions along the curve, see `KINDS`."""
        return next((p.kind for p in self.points if p.kind != "cusp"), "cusp")

    @property
    def crossover(self) -> bool:
        """Whether only a label changes."""
        return self.points[0].crossover

    @property
    def continuous(self) -> bool:
        """Whether codes, weights and order parameters are continuous across the curve, see `Transition.continuous`."""
        return all(point.continuous for point in self.points[1:-1] or self.points)

    @property
    def curve(self) -> FloatArray:
        """Parameter values along the curve, (n, 2)."""
        return np.array([[point.parameters[name] for name in self.names] for point in self.points])

    def fine(self, per_step: int = 8) -> FloatArray:
        """Parameter values along the curve with `per_step` places on each step, (n, 2): cubics through the points.

        The cubics share the tangents of the points; they are for drawing and for comparisons with a raster.
        """
        back, forth = (_cubics(stretch, per_step) for stretch in self._stretches)
        return np.vstack([back[::-1], forth[1:]]) if len(forth) else back

    def at(self, name: str, value: float) -> tuple[Transition, ...]:
        """Where the curve crosses a value of one parameter, to the accuracy of `locate`.

        Raises
        ------
        ValueError
            If `name` is neither parameter.
        ConvergenceError
            If that is beside an end, where codes are too close to be told apart.
        """
        if name not in self.names:
            raise ValueError(f"the curve is in the plane of {self.names}, got {name!r}.")
        i = self.names.index(name) - 2
        found = []
        for stretch in self._stretches:
            for here, there in pairwise(stretch):
                if (here.unknowns[i] - value) * (there.unknowns[i] - value) < 0:
                    found.append(self._tracer.meet(here, there, i, value).transition)
            found += [point.transition for point in stretch if point.unknowns[i] == value]
        return tuple(found)


@dataclass(frozen=True, eq=False)
class _Point:
    unknowns: FloatArray
    tangent: FloatArray
    transition: Transition
    last: bool = False  # located with a second condition, so that the tangent is not that of the curve here


def trace_boundary(
    transition: Transition,
    second: str,
    limits: Mapping[str, tuple[float, float]],
    *,
    order: tuple[str, str] | None = None,
    step: float = 0.02,
    longest: float = 0.1,
    max_points: int = 400,
) -> Boundary:
    """Follow a transition, located along one parameter, in the plane of this and a second one, both ways.

    Parameters
    ----------
    transition : Transition
        Where to start (not a cusp).
    second : str
        Name of the second parameter.
    limits : dict of str to (float, float)
        Range of each parameter; the curve ends just inside.
    order : (str, str), optional
        The two parameters as `Boundary.names` is to have them; the transition's own one first if left out.
    step, longest : float
        First and longest step, measured in the parameters (relative to 1 + |value|).
    max_points : int
        Per direction.

    Raises
    ------
    ValueError
        If limits are missing or do not contain the start.
    ConvergenceError
        If the starting point cannot be reproduced.
    """
    names = order or (transition.parameter, second)
    if set(limits) != set(names):
        raise ValueError(f"limits must be given for {names[0]!r} and {names[1]!r}, got {sorted(limits)}.")
    control = Control(transition.network, transition.task, transition.tau, names)
    for name, value in zip(names, control.values):
        if not limits[name][0] <= value <= limits[name][1]:
            raise ValueError(f"the transition lies at {name} = {value:g}, outside limits {tuple(limits[name])}.")
    setup = set_up(transition.kind, control, transition.solution, transition.marginal, transition.pairs)
    first = _point(setup, *newton(setup.system, setup.start), None)
    tracer = _Tracer(setup, names, dict(limits), step, longest, max_points)
    back, back_end = tracer.follow(_Point(first.unknowns, -first.tangent, first.transition))
    if back_end == "closed":
        return Boundary(names, _transitions(back), tracer.folds(back), (back_end, back_end), tracer, (back, []))
    forth, forth_end = tracer.follow(first)
    points = [*back[::-1], *forth[1:]]
    return Boundary(
        names=names,
        points=_transitions(points),
        folds=tracer.folds(back) + tracer.folds(forth),
        ends=(back_end, forth_end),
        _tracer=tracer,
        _stretches=(back, forth),
    )


def _transitions(points: list[_Point]) -> tuple[Transition, ...]:
    return tuple(point.transition for point in points)


def _cubics(points: list[_Point], per_step: int) -> FloatArray:
    """Hermite cubics through the parameters of successive points, (n, 2)."""
    places = [point.unknowns[-2:] for point in points[:1]]
    u = np.arange(1, per_step + 1)[:, None] / per_step
    for here, there in pairwise(points):
        scale = _scale(here.unknowns)
        length = float(here.tangent @ ((there.unknowns - here.unknowns) * scale))
        start, end = here.unknowns[-2:], there.unknowns[-2:]
        chord = np.linalg.norm(end - start)
        leaving, arriving = (
            length * here.tangent[-2:] / scale[-2:],
            length * there.tangent[-2:] / _scale(there.unknowns)[-2:],
        )
        if there.last:  # a parabola: only one of the two directions is known
            leaving = here.tangent[-2:] / scale[-2:]
            leaving = leaving * (chord / max(float(np.linalg.norm(leaving)), 1e-300))
            arriving = 2.0 * (end - start) - leaving
        elif max(np.linalg.norm(leaving), np.linalg.norm(arriving)) > 3.0 * chord:  # a sharp turn: no cubic follows it
            leaving = arriving = end - start
        h = (2 * u**3 - 3 * u**2 + 1) * start + (u**3 - 2 * u**2 + u) * leaving
        places.extend(h + (3 * u**2 - 2 * u**3) * end + (u**3 - u**2) * arriving)
    return np.array(places).reshape(-1, 2)


def _scale(unknowns: FloatArray) -> FloatArray:
    """Lengths are measured relative to 1 + |X|, and the parameters count ten times as much as the rest."""
    scale = 1.0 / (1.0 + np.abs(unknowns))
    scale[:-2] *= 0.1
    return scale


def _tangent(setup: Setup, unknowns: FloatArray, along: FloatArray | None) -> FloatArray:
    """Unit null vector of the Jacobian, in scaled unknowns, pointing along the last one."""
    matrix = setup.system.linearised(unknowns)[1] / _scale(unknowns)
    _, spectrum, vectors = np.linalg.svd(matrix)
    rank = min(int(np.sum(spectrum > SINGULAR * spectrum[0])), len(vectors) - 1)
    null = vectors[rank:]
    if len(null) > 1:  # non-unique weights: keep the combination that moves the parameters
        null = np.linalg.svd(null[:, -2:])[0][:, :1].T @ null
    tangent = null[0] / np.linalg.norm(null[0])
    return tangent if along is None or tangent @ along > 0 else -tangent


def _point(setup: Setup, unknowns: FloatArray, residual: float, along: FloatArray | None) -> _Point:
    if not residual <= RESIDUAL:
        raise ConvergenceError(f"the corrector stopped at a residual of {residual:.1e}.")
    transition = setup.accept(make_root(setup.system, unknowns, residual, free=1), unknowns)
    return _Point(unknowns, _tangent(setup, unknowns, along), transition)


@dataclass(frozen=True, eq=False)
class _Pinned:
    """The extended system with one more equation: normal.(X - origin) = 0 in scaled unknowns."""

    system: Linearised
    normal: FloatArray
    origin: FloatArray

    @property
    def control(self) -> Control:
        return self.system.control

    @property
    def bounded(self) -> slice:
        return self.system.bounded

    def linearised(self, unknowns: FloatArray) -> tuple[FloatArray, FloatArray]:
        residual, matrix = self.system.linearised(unknowns)
        return np.append(residual, self.normal @ (unknowns - self.origin)), np.vstack([matrix, self.normal])


@dataclass(frozen=True, eq=False)
class _Tracer:
    setup: Setup
    names: tuple[str, str]
    limits: dict[str, tuple[float, float]]
    step: float
    longest: float
    max_points: int

    def advance(self, start: _Point, length: float) -> tuple[FloatArray, float]:
        """Unknowns at arclength about `length` from a point, and their residual."""
        scale = _scale(start.unknowns)
        predicted = start.unknowns + length * start.tangent / scale
        pinned = _Pinned(self.setup.system, start.tangent * scale, predicted)
        return newton(pinned, predicted, max_steps=_CORRECTIONS)

    def follow(self, start: _Point) -> tuple[list[_Point], str]:
        """Points from `start` along its tangent, and why they end."""
        points = [start]
        length = self.step
        end: _Point | None = None  # once located, points come closer to it
        reason = ""
        while len(points) < self.max_points:
            last = points[-1]
            if end is not None:
                apart = self._apart(last, end)
                if apart <= _NEAR_END:
                    break
                length = min(length, 0.5 * apart)
            try:
                unknowns, residual = self.advance(last, length)
                if leaving := self._outside(unknowns):
                    name, border = self._first_limit(last, leaving, unknowns)
                    return [*points, *border], f"limit of {name}"
                point = _point(self.setup, unknowns, residual, last.tangent)
                if point.tangent @ last.tangent < _ALIGNED:
                    raise ConvergenceError("the curve bends too sharply for this step.")
            except ConvergenceError as error:
                if end is None and isinstance(error.result, Transition):
                    end = self._meeting(last, unknowns, length, error.result)
                    reason = f"{MEETING}: {error}"
                length *= 0.5
                if length >= _SHORTEST and (length >= _SHORTEST_CLOSE or not self._approach(last)):
                    continue
                if end is None:
                    return points, str(error)
                break
            if cusp := self._cusp(last, point):
                return [*points, _Point(unknowns, last.tangent, cusp)], "cusp"
            points.append(point)
            if len(points) > 10 and self._returned(start, last, point):
                return points, "closed"
            predicted = last.unknowns + length * last.tangent / _scale(last.unknowns)
            error_size = np.abs((unknowns - predicted) * _scale(last.unknowns)).max()
            length = min(length * (1.5 if error_size < 0.05 * length else 0.8), self.longest)
        return (points, f"{self.max_points} points") if end is None else ([*points, end], reason)

    def _apart(self, here: _Point, there: _Point) -> float:
        """Distance of two points in the parameters, relative to 1 + |value|."""
        return float(np.abs((there.unknowns - here.unknowns)[-2:] * _scale(here.unknowns)[-2:]).max())

    def _meeting(self, last: _Point, beyond: FloatArray, length: float, refused: Transition) -> _Point | None:
        """The end of the curve, where a second condition holds; None if that is not what ends it."""
        if refused.kind == "merge" and (end := self._end_of_mergers(last, length)) is not None:
            return end
        transition = meeting_point(self.setup, last.transition, last.unknowns, beyond)
        if transition is None:
            return None
        values = np.array([transition.parameters[name] for name in self.names])
        unknowns = np.append(beyond[:-2], values)
        end = _Point(unknowns, last.tangent, transition, last=True)
        return None if self._apart(last, end) > _REACH * length or self._outside(unknowns) else end

    def _end_of_mergers(self, last: _Point, length: float) -> _Point | None:
        """Where the quartic coefficient of a merger vanishes: beyond, codes leave at a distance before they merge."""
        system = self.setup.system
        assert isinstance(system, ExtendedSystem)
        (condition,) = system.conditions
        assert isinstance(condition, Soft)

        def coefficient(x: float) -> float:
            problem, state, _ = system.split(self.advance(last, x)[0])
            return quartic(problem, state, condition.code)

        try:
            # Short of the root, where the coefficient still has the sign of a continuous merger.
            reach = brentq(coefficient, 0.0, length, xtol=_SHORTEST * 1e-3) - _SHORTEST * 1e-3
            unknowns, residual = self.advance(last, max(reach, 0.0))
            return _point(self.setup, unknowns, residual, last.tangent)
        except (ConvergenceError, ValueError):
            return None

    def _approach(self, last: _Point) -> bool:
        """Whether two codes come close at the end of a curve, where the Jacobian degenerates."""
        readout = last.transition.solution.readout
        distance = np.linalg.norm(readout[:, None] - readout, axis=2) + 1e9 * np.eye(len(readout))
        return bool(distance.min(initial=np.inf) < _CLOSE * last.transition.network.sigma_a)

    def _outside(self, unknowns: FloatArray, slack: float = 0.0) -> list[str]:
        """Parameters that are beyond their limits."""
        values = dict(zip(self.names, unknowns[-2:]))
        return [n for n, (low, high) in self.limits.items() if not low - slack <= values[n] <= high + slack]

    def _first_limit(self, last: _Point, names: list[str], beyond: FloatArray) -> tuple[str, list[_Point]]:
        """Which of the limits that it has passed the curve met first, and the point there unless it is the last one."""
        ends = [(name, self._at_limit(last, name, beyond)) for name in names]
        inside = [end for end in ends if not any(self._outside(point.unknowns, 1e-9) for point in end[1])]
        return (inside or ends)[0]

    def _at_limit(self, last: _Point, name: str, beyond: FloatArray) -> list[_Point]:
        """The point where the curve meets the limit of a parameter, unless it is there already."""
        i = self.names.index(name) - 2
        low, high = self.limits[name]
        edge = high if beyond[i] > high else low
        if abs(last.unknowns[i] - edge) <= 1e-9:
            return []
        return [self.meet(last, _Point(beyond, last.tangent, last.transition), i, edge)]

    def meet(self, here: _Point, there: _Point, i: int, value: float) -> _Point:
        """The point between two where parameter `i` (-2 or -1) has a given value."""
        pinned = np.zeros(here.unknowns.size)
        pinned[i] = 1.0

        def landed(start: FloatArray) -> _Point:
            start[i] = value
            unknowns, residual = newton(_Pinned(self.setup.system, pinned, start), start)
            return _point(self.setup, unknowns, residual, here.tangent)

        share = (value - here.unknowns[i]) / (there.unknowns[i] - here.unknowns[i])
        apart = np.abs((there.unknowns - here.unknowns)[-2:]).max()
        try:
            found = landed(here.unknowns + share * (there.unknowns - here.unknowns))
            if np.abs((found.unknowns - here.unknowns)[-2:]).max() <= 2.0 * apart:
                return found
        except ConvergenceError:
            pass  # the chord is no good start where the curve turns
        length = float(here.tangent @ ((there.unknowns - here.unknowns) * _scale(here.unknowns)))
        reach = brentq(lambda x: self.advance(here, x)[0][i] - value, 0.0, length, xtol=1e-15, rtol=1e-14)
        return landed(self.advance(here, reach)[0])

    def _cusp(self, last: _Point, point: _Point) -> Transition | None:
        """The critical end point between two points where the vanishing code passes through another one."""
        if last.transition.kind != "weight":
            return None
        system = self.setup.system
        assert isinstance(system, ExtendedSystem)
        condition = system.conditions[0]
        assert isinstance(condition, Vanishing)
        shape, j = system.shape, condition.code
        before, after = (shape.with_unknowns(p.unknowns[:-2]) for p in (last, point))
        i = int(np.argmin(np.linalg.norm(before.a - before.a[j], axis=1) + 1e9 * (np.arange(len(before.a)) == j)))
        if (before.a[i] - before.a[j]) @ (after.a[i] - after.a[j]) > 0:
            return None
        found = last.transition
        codes = [
            int(np.argmin(np.abs(found.solution.readout / found.network.sigma_a - before.a[k]).sum(1))) for k in (i, j)
        ]
        return locate("cusp", found.network, found.task, found.tau, self.names, found.solution, codes=codes)

    def _returned(self, start: _Point, last: _Point, point: _Point) -> bool:
        """Whether the curve has passed its starting point again."""
        scale = _scale(start.unknowns)
        before, after = (float(start.tangent @ ((p.unknowns - start.unknowns) * scale)) for p in (last, point))
        near = np.abs((point.unknowns - start.unknowns) * scale).max() < 2 * self.longest
        return near and before < 0 <= after

    def folds(self, points: list[_Point]) -> tuple[tuple[str, dict[str, float]], ...]:
        """Extrema of either parameter along a stretch of points."""
        found = []
        for i, name in enumerate(self.names):
            for here, there in pairwise(points):
                if here.tangent[i - 2] * there.tangent[i - 2] >= 0:
                    continue
                scale = _scale(here.unknowns)
                length = float(here.tangent @ ((there.unknowns - here.unknowns) * scale))

                def slope(x: float, here: _Point = here, i: int = i) -> float:
                    return float(_tangent(self.setup, self.advance(here, x)[0], here.tangent)[i - 2])

                if slope(0.0) * slope(length) < 0:
                    unknowns, _ = self.advance(here, brentq(slope, 0.0, length, xtol=_FOLD * length))
                    found.append((name, dict(zip(self.names, map(float, unknowns[-2:])))))
        return tuple(found)
