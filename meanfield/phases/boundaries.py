"""Boundaries of a plane: every place where the raster changes its phase is explained by a curve, or counted as open.

At P = infinity with one hidden layer boundaries are sharp. The first place of the raster that no curve explains gives a
transition, located between two neighbouring points, and from there the boundary is followed both ways; this repeats
until nothing is left, so that islands which no row or column crosses twice are found as well; those that no point hits
are looked for (`islands`). Elsewhere (finite P, deep networks) see `level_curves`. Ends that lie together are meeting
points: cusps, triple points, ends of mergers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import numpy as np
from scipy.spatial import KDTree

from meanfield.phases.ends import legs_around
from meanfield.phases.islands import Leg, hidden_islands
from meanfield.phases.level_curves import LevelCurve, level_curves
from meanfield.phases.points import Plane
from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.division import ByCode
from meanfield.posterior.registry import division_of
from meanfield.posterior.swept import Swept
from meanfield.theories.single_layer.theory import is_limit
from meanfield.theories.single_layer.transitions.acceptance import Transition
from meanfield.theories.single_layer.transitions.boundary import MEETING, Boundary, trace_boundary
from meanfield.theories.single_layer.transitions.line import transitions_along
from meanfield.validation import BoolArray, FloatArray, IntArray

__all__ = ["Boundaries", "MeetingPoint", "find_boundaries"]

_MARGIN = 0.05  # cells: by which a curve may miss an edge of the raster that it crosses
# Further points that are solved per place of the raster: none at first, as beside a merger solving is slow, then more
# at places that no curve has crossed.
_SOLVES = (0, 2, 12)
_TRIES = 12  # such places
_TOGETHER = 5e-3  # of the ranges: ends that lie closer meet
_LONGEST = 0.12  # step along a curve, relative to 1 + |value|
_SAME = 1e-6
_BESIDE = 1e-3  # of the ranges: where both sides of a boundary that may jump are looked at
_GENERATIONS = 3  # of curves that start at the ends of those before
_NO_JUMP = 1e-4  # of a weight, extrapolated linearly from both sides


@dataclass(frozen=True)
class MeetingPoint:
    """Where boundaries meet.

    Attributes
    ----------
    parameters : dict of str to float
    kind : str
        "cusp": two codes become one; "end of mergers": codes merge beyond it on one side and leave at a distance on the
        other; "triple point", "4-fold point", ...: so many boundaries meet; "corner": two; "crossovers": labels only.
    curves : tuple of int
        Which curves.
    error : float
        Largest distance of their ends, in units of the ranges of the plane.
    """

    parameters: dict[str, float]
    kind: str
    curves: tuple[int, ...]
    error: float


@dataclass(frozen=True, eq=False)
class Boundaries(Sequence[Boundary | LevelCurve]):
    """The boundaries of a plane, a sequence of curves; what `PhaseDiagram.boundaries` returns.

    Attributes
    ----------
    curves : tuple of Boundary or LevelCurve
    points : tuple of MeetingPoint
    unexplained : tuple of (dict, dict)
        Pairs of neighbouring points of the raster with different phases and no curve between them.
    """

    curves: tuple[Boundary | LevelCurve, ...]
    points: tuple[MeetingPoint, ...] = ()
    unexplained: tuple[tuple[dict[str, float], dict[str, float]], ...] = ()
    jumps: tuple[float, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.curves)

    def __getitem__(self, index: Any) -> Any:
        return self.curves[index]

    def table(self) -> list[dict[str, object]]:
        """One row per curve: label, kind, whether it is continuous, its jump, where it begins and ends."""
        return [
            {
                "label": curve.label,
                "kind": curve.kind,
                "continuous": not jumps,
                "jump": jump,
                "from": tuple(map(float, curve.curve[0])),
                "to": tuple(map(float, curve.curve[-1])),
            }
            for curve, jump, jumps in zip(self.curves, self.jumps, self._discontinuous(), strict=True)
        ]

    def _discontinuous(self) -> list[bool]:
        """Which curves jump: where solutions on a curve are not unique, those beside it tell."""
        return [not (c.continuous or jump <= _NO_JUMP) for c, jump in zip(self.curves, self.jumps, strict=True)]

    def __repr__(self) -> str:
        points = ", ".join(sorted({point.kind for point in self.points})) or "none"
        return (
            f"<Boundaries: {len(self)} curves, {sum(self._discontinuous())} discontinuous; "
            f"meeting points: {points}; {len(self.unexplained)} places unexplained>"
        )


def find_boundaries(diagram: Plane) -> Boundaries:
    """See `PhaseDiagram.boundaries`."""
    if len(diagram.axes) != 2:
        raise ValueError(f"boundaries are curves in a plane, but the diagram has the axes {list(diagram.axes)}.")
    if any(values.ndim > 1 for values in diagram.axes.values()):
        raise ValueError("boundaries are not followed along fractions=; sweep one fraction, fraction_<class>=.")
    if sum(name.startswith("fraction_") for name in diagram.axes) > 1:
        raise ValueError("boundaries are not followed in a plane of two fractions; sweep one of them.")
    if not diagram.codes:
        return Boundaries(())  # what has no codes has no phases
    if not _sharp(diagram):
        levels, unexplained = level_curves(diagram)
        return Boundaries(tuple(levels), (), tuple(unexplained), (0.0,) * len(levels))
    explained = _Explained(diagram)
    curves = tuple(explained.curves)
    return Boundaries(
        curves, _meeting_points(diagram, curves), tuple(explained.open), tuple(_jump(diagram, c) for c in curves)
    )


def _sharp(diagram: Plane) -> bool:
    """Whether the whole plane is covered by the extended systems."""
    if {"n_samples", "depth", "readout_exponent"} & set(diagram.axes):
        return False
    problem = diagram.problem((0, 0))
    return is_limit(problem) and math.isinf(problem.task.n_samples)


class _Explained:
    """Curves for all places where the raster changes its phase."""

    def __init__(self, diagram: Plane) -> None:
        self.diagram = diagram
        self.curves: list[Boundary] = []
        self.lines: list[FloatArray] = []  # their places in cells
        self.open: list[tuple[dict[str, float], dict[str, float]]] = []
        self.limits = {name: (float(axis.min()), float(axis.max())) for name, axis in diagram.axes.items()}
        phase = _sorted_phase(diagram)
        edges = list(_edges(phase))
        codes = diagram.phase_codes
        differ = [codes[phase[one]] ^ codes[phase[other]] for one, other, _ in edges]
        self.ends = np.array([edge[:2] for edge in edges], dtype=float).reshape(-1, 2, 2)
        self.crossing: list[set[str]] = [set() for _ in edges]
        self.crossed = np.zeros(len(edges), dtype=bool)
        # Places where little changes are the easiest; those on the border give curves with one way to go.
        easy = sorted(range(len(edges)), key=lambda i: (len(differ[i]), _on_border(edges[i], diagram.shape)))
        for max_solves in _SOLVES:
            tries = 0
            for i in easy:
                known = self.crossed[i] and (max_solves > 0 or differ[i] <= self.crossing[i])
                if not known and (max_solves == 0 or tries < _TRIES):
                    tries += 1
                    self._trace(_line(diagram, edges[i]), max_solves)
        for leg in hidden_islands(diagram):
            self._trace(leg, _SOLVES[-1])
        self._around_ends()
        self.open = [_ends(diagram, edges[i]) for i in easy if not self.crossed[i]]

    def _trace(self, line: Swept, max_solves: int) -> None:
        """Follow what happens between two points that share the value of one parameter."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # what is left unexplained is counted
            located = transitions_along(line, max_solves=max_solves)
        for transition in located:
            if self._known(transition):
                continue
            second = next(name for name in self.diagram.axes if name != transition.parameter)
            names = cast("tuple[str, str]", tuple(self.diagram.axes))
            try:
                curve = trace_boundary(transition, second, self.limits, order=names, longest=_LONGEST)
            except (ConvergenceError, ValueError):
                continue
            self.curves.append(curve)
            self.lines.append(self._cells(curve.fine(16)))
            crossed = _crossings(self._cells(curve.fine()), self.ends)
            self.crossed |= crossed
            own = {code for point in curve.points for code in point.codes}
            for i in np.flatnonzero(crossed):
                self.crossing[i] |= own

    def _around_ends(self) -> None:
        """Follow what else starts where curves end."""
        if not isinstance(division_of(self.diagram.network, self.diagram.task), ByCode):
            return
        seen: list[FloatArray] = []
        for _ in range(_GENERATIONS):
            for point in _meeting_points(self.diagram, tuple(self.curves)):
                place = np.array([point.parameters[name] for name in self.diagram.axes])
                near = any(np.abs(self._cells(place[None]) - self._cells(old[None])).max() < 0.01 for old in seen)
                if near or point.kind == "crossovers":
                    continue
                seen.append(place)
                for leg, codes in legs_around(self.diagram, place):
                    if not self._told(leg, codes):
                        self._trace(leg, _SOLVES[-1])

    def _told(self, leg: Leg, codes: set[str]) -> bool:
        """Whether curves that cross a leg tell of all codes that change along it."""
        names = tuple(self.diagram.axes)
        places = [[{**leg.fixed, leg.name: value}[name] for name in names] for value, _ in leg.ends]
        edge = self._cells(np.array(places))[None]
        crossing = [c for c, line in zip(self.curves, self.lines) if _crossings(line, edge)[0]]
        return codes <= {code for curve in crossing for code in curve.points[len(curve.points) // 2].codes}

    def _known(self, transition: Transition) -> bool:
        """Whether a curve of this kind passes here."""
        own = dict(self._base(transition), **transition.parameters)
        place = [own[name] for name in self.diagram.axes]
        for curve in self.curves:
            if curve.kind != transition.kind or not len(curve.curve):
                continue
            if np.abs(self._cells(curve.fine(32)) - self._cells(np.array([place]))).max(axis=1).min() > 0.2:
                continue
            crossings = _at(curve, transition.parameter, transition.value) if len(curve.points) > 1 else ()
            other = next(name for name in self.diagram.axes if name != transition.parameter)
            if any(abs(point.parameters[other] - own[other]) < _SAME for point in crossings):
                return True
            fixed = _at(curve, other, own[other])
            if any(abs(point.parameters[transition.parameter] - transition.value) < _SAME for point in fixed):
                return True
        return False

    def _base(self, transition: Transition) -> dict[str, float]:
        from meanfield.theories.single_layer.transitions.control import Control

        control = Control(transition.network, transition.task, transition.tau, tuple(self.diagram.axes))
        return dict(zip(self.diagram.axes, map(float, control.values)))

    def _cells(self, places: FloatArray) -> FloatArray:
        """Parameter values in units of the raster's cells, (n, 2)."""
        axes = list(self.diagram.axes.values())
        return np.stack([_position(axis, places[:, k]) for k, axis in enumerate(axes)], axis=1)


def _at(curve: Boundary, name: str, value: float) -> tuple[Transition, ...]:
    """Where a curve crosses a value; nowhere if that is beside its end, where it is no transition any more."""
    try:
        return curve.at(name, value)
    except ConvergenceError:
        return ()


def _position(axis: FloatArray, values: FloatArray) -> FloatArray:
    """Index, with fraction, of values on an axis that need not be sorted."""
    order = np.argsort(axis)
    return np.asarray(np.interp(values, axis[order], np.arange(len(axis), dtype=float)))


_Edge = tuple[tuple[int, int], tuple[int, int], int]


def _crossings(line: FloatArray, edges: FloatArray) -> BoolArray:
    """Which edges, (n, 2, 2) in cells, a line (k, 2) crosses, (n,) of bool; with a margin for its own error."""
    crossed = np.zeros(len(edges), dtype=bool)
    if len(line) < 2 or not len(edges):
        return crossed
    tree = KDTree(edges.mean(axis=1))
    for start, end in pairwise(line):
        middle, reach = 0.5 * (start + end), 0.5 * float(np.linalg.norm(end - start)) + 1.0
        near = np.array(tree.query_ball_point(middle, reach), dtype=int)
        if not near.size:
            continue
        a, b = edges[near, 0], edges[near, 1]
        along, across = end - start, b - a
        determinant = along[0] * across[:, 1] - along[1] * across[:, 0]
        offset = a - start
        with np.errstate(divide="ignore", invalid="ignore"):
            u = (offset[:, 0] * across[:, 1] - offset[:, 1] * across[:, 0]) / determinant
            v = (offset[:, 0] * along[1] - offset[:, 1] * along[0]) / determinant
        margin = _MARGIN / max(float(np.linalg.norm(along)), 1e-12)
        crossed[near[(u >= -margin) & (u <= 1 + margin) & (v >= -_MARGIN) & (v <= 1 + _MARGIN)]] = True
    return crossed


def _edges(phase: IntArray) -> Iterator[_Edge]:
    """Neighbouring certified points with different phases: their ranks along both axes, and the axis they differ in."""
    for axis in (0, 1):
        before, after = (phase[:-1], phase[1:]) if axis == 0 else (phase[:, :-1], phase[:, 1:])
        for i, j in np.argwhere((before != after) & (before >= 0) & (after >= 0)):
            there = (int(i) + 1, int(j)) if axis == 0 else (int(i), int(j) + 1)
            yield (int(i), int(j)), there, axis


def _orders(diagram: Plane) -> list[IntArray]:
    return [np.argsort(axis) for axis in diagram.axes.values()]


def _sorted_phase(diagram: Plane) -> IntArray:
    return np.asarray(diagram.phase)[np.ix_(*_orders(diagram))]


def _on_border(edge: _Edge, shape: tuple[int, ...]) -> bool:
    (i, j), _, axis = edge
    return j in (0, shape[1] - 1) if axis == 0 else i in (0, shape[0] - 1)


def _ends(diagram: Plane, edge: _Edge) -> tuple[dict[str, float], dict[str, float]]:
    orders, axes = _orders(diagram), diagram.axes
    one, other = (
        {name: float(values[order[at]]) for (name, values), order, at in zip(axes.items(), orders, place)}
        for place in edge[:2]
    )
    return one, other


def _line(diagram: Plane, edge: _Edge) -> Plane:
    """The two points of an edge as a diagram over the parameter that changes."""
    (i, j), (k, l), _ = edge
    first, second = _orders(diagram)
    return diagram.segment((int(first[i]), int(second[j])), (int(first[k]), int(second[l])))


# ---- meeting points --------------------------------------------------------------------------------------------------


def _meeting_points(diagram: Plane, curves: tuple[Boundary, ...]) -> tuple[MeetingPoint, ...]:
    """Ends of curves that lie together, other than those on the border of the plane."""
    ranges = np.array([float(np.ptp(axis)) for axis in diagram.axes.values()])
    ends = [
        (i, curve.curve[place], reason, curve)
        for i, curve in enumerate(curves)
        for place, reason in ((0, curve.ends[0]), (-1, curve.ends[1]))
        if reason != "closed" and not reason.startswith("limit of")
    ]
    groups: list[list[int]] = []
    for n, (_, place, _, _) in enumerate(ends):
        near = [g for g in groups if any(np.abs((ends[k][1] - place) / ranges).max() < _TOGETHER for k in g)]
        groups = [g for g in groups if g not in near] + [[*(k for g in near for k in g), n]]
    found = []
    for group in groups:
        members = [ends[k] for k in group]
        # The place of one that was located as a root; others end short of it, where their Jacobian degenerates.
        exact = [m for m in members if m[2] == "cusp" or m[2].startswith(MEETING)]
        mergers = [m for m in exact if m[3].kind == "merge"]
        centre = (mergers or exact or members)[0][1]
        error = max(float(np.abs((m[1] - centre) / ranges).max()) for m in members)
        parameters = dict(zip(diagram.axes, map(float, centre)))
        found.append(MeetingPoint(parameters, _kind(members), tuple(sorted({m[0] for m in members})), error))
    return tuple(found)


def _kind(members: list[Any]) -> str:
    if any(reason == "cusp" for _, _, reason, _ in members):
        return "cusp"
    if any(curve.kind == "merge" for *_, curve in members):
        return "end of mergers"
    sharp = sum(not curve.crossover for *_, curve in members)
    return {0: "crossovers", 1: "end", 2: "corner", 3: "triple point"}.get(sharp, f"{sharp}-fold point")


# ---- jumps -----------------------------------------------------------------------------------------------------------


def _jump(diagram: Plane, curve: Boundary) -> float:
    """Largest jump of a code's weight across a curve, half way along it; 0 where the solution there is unique."""
    if curve.continuous:
        return 0.0
    places = curve.fine()
    k = len(places) // 2
    ranges = np.array([float(np.ptp(axis)) for axis in diagram.axes.values()])
    along = (places[min(k + 1, len(places) - 1)] - places[max(k - 1, 0)]) / ranges
    normal = np.array([-along[1], along[0]]) / (np.linalg.norm(along) or 1.0) * ranges
    sides = []
    for sign in (-1.0, 1.0):
        near, far = (_weights(diagram, places[k] + sign * step * _BESIDE * normal) for step in (1.0, 2.0))
        if near is None or far is None:
            return math.nan
        sides.append({code: 2.0 * near.get(code, 0.0) - far.get(code, 0.0) for code in {*near, *far}})
    return max(abs(sides[0].get(code, 0.0) - sides[1].get(code, 0.0)) for code in {*sides[0], *sides[1]})


def _weights(diagram: Plane, place: FloatArray) -> dict[str, float] | None:
    try:
        posterior = diagram.solve(**dict(zip(diagram.axes, map(float, place))))
    except (ConvergenceError, ValueError):
        return None
    found: dict[str, float] = {}
    for code in posterior.codes:
        found[code.pattern] = found.get(code.pattern, 0.0) + code.weight
    return found
