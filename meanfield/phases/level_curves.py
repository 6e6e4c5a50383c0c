"""Where the codes of a plane come and go without a sharp transition of one hidden layer: finite P, and deep networks.

At finite P everything is smooth. A code counts as present where it has more than one neuron in a thousand, as in
`PhaseDiagram.phase`, and its curve is where its share passes that value; two codes that become one, or a label that
flips, are curves as well. Each point lies on an edge of the raster, between two certified points. Parabolas of
ln(share) through these two and the next one on either side have to meet zero within `ACCURACY` of a cell of each other;
as long as they do not, further certified solutions enclose the point. At P = infinity codes enter and leave with weight
zero, which is extrapolated from the side that has them. Along whole-numbered parameters (depth) nothing lies between
two points: there curves join the places found at each value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np

from meanfield.phases.points import Plane
from meanfield.posterior.certificate import ConvergenceError
from meanfield.validation import FloatArray

__all__ = ["ACCURACY", "LevelCurve", "LevelPoint", "level_curves"]

_Open = tuple[dict[str, float], dict[str, float]]  # two points of the raster, what is between them is not known

ACCURACY = 2e-2  # of a cell of the raster
_SOLVES = 12  # per edge and change
_WHOLE = ("depth",)
_NOTHING = 1e-30
_ALIKE = 3e-3  # of the ranges: curves of one orbit, each enclosed on its own
_FAR = 12.0
_ENOUGH = 0.05  # of ln(share)
_AGREE = 0.1  # of the accuracy, by which line and parabola through weights may differ
_BEFORE = 0.9  # of the way to where they vanish
_NEAR, _THROUGH = 3.5, 4  # places that a guess is made from: cells they may be away, how many
_APART = 0.1  # cells across an edge by which they differ at least
_BESIDE = 0.1  # by which a guess may miss its edge
_FARTHEST = 0.15  # of an edge: guesses that are less certain are none


@dataclass(frozen=True)
class LevelPoint:
    """A point of a `LevelCurve`: parameters, what happens, and that it is no sharp transition at finite P."""

    parameters: dict[str, float]
    label: str
    kind: str
    crossover: bool


@dataclass(frozen=True, eq=False)
class LevelCurve:
    """A curve on which a code comes to count as present; see `level_curves`.

    Attributes
    ----------
    names : (str, str)
    points : tuple of LevelPoint
        In order along the curve.
    label : str
        The codes concerned.
    kind : str
        "share" at finite P; "weight" where the code's weight passes through zero (deep networks at P = infinity).
    continuous : bool
        Always true: shares are continuous.
    """

    names: tuple[str, str]
    points: tuple[LevelPoint, ...]
    label: str
    kind: str
    continuous: bool = True

    @property
    def crossover(self) -> bool:
        """Whether nothing is sharp here."""
        return self.kind == "share"

    @property
    def curve(self) -> FloatArray:
        """Parameter values along the curve, (n, 2)."""
        return np.array([[point.parameters[name] for name in self.names] for point in self.points])

    def fine(self, per_step: int = 1) -> FloatArray:
        """The points; between them curves are straight."""
        return self.curve


def level_curves(diagram: Plane) -> tuple[list[LevelCurve], list[_Open]]:
    """Curves between all points of the raster whose codes differ, and the pairs of points that remained open."""
    names = cast("tuple[str, str]", tuple(diagram.axes))
    sharp = "n_samples" not in names and math.isinf(diagram.problem((0, 0)).task.n_samples)
    whole = [name in _WHOLE for name in names]
    crossings: _Crossings
    open_edges: list[_Open]
    if sharp and any(whole):
        crossings, open_edges = _by_rows(diagram, whole.index(True)), []
    else:
        crossings, open_edges = _by_edges(diagram, names, sharp)
    found: list[LevelCurve] = []
    for code, places in sorted(crossings.items()):
        joined = _along_rows(places, whole.index(True)) if any(whole) else _through_cells(places)
        found += [_curve(names, code, np.array(line), sharp) for line in joined]
    ranges = np.array([float(np.ptp(axis[np.isfinite(axis)])) or 1.0 for axis in diagram.axes.values()])
    return _orbits(found, ranges), open_edges


_Place = tuple[int, int, int]  # edge of the raster
_Crossings = dict[str, dict[_Place, FloatArray]]  # code -> edge of the raster -> where it comes or goes


def _by_rows(diagram: Plane, whole: int) -> _Crossings:
    """At every value of a whole-numbered parameter the transitions along the other one."""
    crossings: _Crossings = {}
    values = list(diagram.axes.values())
    rank = np.argsort(np.argsort(values[whole]))
    for k, fixed in enumerate(values[whole]):
        row = diagram.row(whole, k)
        for n, transition in enumerate(t for t in row.transitions() if not t.crossover):
            place = np.empty(2)
            place[whole], place[1 - whole] = fixed, transition.value
            for code in transition.codes:
                edge = (int(rank[k]), n, 1) if whole == 0 else (n, int(rank[k]), 0)
                crossings.setdefault(code, {})[edge] = place
    return crossings


def _by_edges(diagram: Plane, names: tuple[str, str], sharp: bool) -> tuple[_Crossings, list[_Open]]:
    """On every edge of the raster whose ends have different codes, where these come or go."""
    orders = [np.argsort(axis) for axis in diagram.axes.values()]
    axes = [axis[order] for axis, order in zip(diagram.axes.values(), orders)]
    shares = _Shares(diagram)
    nodes = {
        (i, j): shares.at_node((int(orders[0][i]), int(orders[1][j])))
        for i in range(len(axes[0]))
        for j in range(len(axes[1]))
    }
    crossings: _Crossings = {}
    open_edges: list[_Open] = []
    known = _Known()
    for axis in (0, 1):
        if names[axis] in _WHOLE:
            continue
        # Line by line; every other one first, and those between two of them last, so that guesses are interpolated.
        for place in sorted(nodes, key=lambda at: (at[1 - axis] % 2, at[1 - axis], at[axis])):
            there = (place[0] + 1, place[1]) if axis == 0 else (place[0], place[1] + 1)
            one, other = nodes[place], nodes.get(there)
            if one is None or other is None or not np.isfinite(axes[axis][there[axis]]):
                continue
            ends = (float(axes[axis][place[axis]]), float(axes[axis][there[axis]]))
            fixed = {names[1 - axis]: float(axes[1 - axis][place[1 - axis]])}
            edge = _Edge(shares, names[axis], fixed, {ends[0]: one, ends[1]: other}, {})
            for step in (-1, 2):
                at = (place[0] + step, place[1]) if axis == 0 else (place[0], place[1] + step)
                beyond = nodes.get(at)
                if beyond is not None and np.isfinite(axes[axis][at[axis]]):
                    edge.around[float(axes[axis][at[axis]])] = beyond
            for code in sorted(edge.changing()):
                guess = known.guess(code, (*place, axis))
                found = edge.vanishing(code) if sharp else edge.enclosed(code, *guess)
                if found is None:
                    low, high = ({**fixed, names[axis]: end} for end in ends)
                    open_edges.append((low, high))
                    continue
                known.add(code, (*place, axis), (found - ends[0]) / (ends[1] - ends[0]))
                where = np.empty(2)
                where[axis], where[1 - axis] = found, fixed[names[1 - axis]]
                crossings.setdefault(code, {})[*place, axis] = where
    return crossings, open_edges


class _Known:
    """Places found so far, in cells of the raster: curves through them foretell further ones."""

    def __init__(self) -> None:
        self.places: dict[str, list[tuple[float, float]]] = {}

    def add(self, code: str, place: _Place, share: float) -> None:
        """On an edge of the raster, `share` of the way along it."""
        i, j, axis = place
        self.places.setdefault(code, []).append((i + share, float(j)) if axis == 0 else (float(i), j + share))

    def guess(self, code: str, place: _Place) -> tuple[float, float]:
        """Where on an edge, as a share of it, and about how far from there at most; (nan, nan) if little is known.

        Neville's polynomial through the nearest places, with its last correction.
        """
        axis, start = place[2], float(place[place[2]])
        near = np.array(self.places.get(code, []), dtype=float).reshape(-1, 2)
        along, across = near[:, axis] - start, near[:, 1 - axis] - place[1 - axis]
        distance = np.hypot(along - 0.5, across)
        x, y = list[float](), list[float]()
        for k in np.argsort(distance):
            if distance[k] > _NEAR or len(x) == _THROUGH:
                break
            if all(abs(across[k] - other) > _APART for other in x):
                x.append(float(across[k]))
                y.append(float(along[k]))
        if len(x) < 2:
            return math.nan, math.nan
        last = math.nan
        for order in range(1, len(x)):
            last = y[0]
            y = [(x[i + order] * y[i] - x[i] * y[i + 1]) / (x[i + order] - x[i]) for i in range(len(y) - 1)]
        error = abs(y[0] - last)
        if error > _FARTHEST or not -_BESIDE <= y[0] <= 1.0 + _BESIDE:
            return math.nan, math.nan
        return min(max(y[0], 0.0), 1.0), error


class _Shares:
    """Share of every code: at points of the raster, and between them."""

    def __init__(self, diagram: Plane) -> None:
        self.diagram = diagram
        self.certified = np.asarray(diagram.certified)
        wide = self.certified.shape[1]  # P may be infinite at one end: what counts at all of them, one row and column
        self.least = max(map(diagram.present, [*range(wide), *range(0, self.certified.size, wide)]))

    def at_node(self, place: tuple[int, int]) -> dict[str, float] | None:
        """None where the point is not certified."""
        if not self.certified[place]:
            return None
        flat = int(np.ravel_multi_index(place, self.diagram.shape))
        return _added(zip(self.diagram.patterns[flat], self.diagram.points.weight[flat]))

    def solved(self, values: dict[str, float]) -> dict[str, float]:
        """At a place of its own."""
        return _added((code.pattern, code.weight) for code in self.diagram.solve_as_swept(values).codes)

    def excess(self, share: float) -> float:
        """ln(share / least), limited: of a code that is not there at all nothing is known."""
        return float(np.clip(math.log(max(share, _NOTHING) / self.least), -_FAR, _FAR))


def _added(shares: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Codes that the exact label of their neurons does not tell apart are one."""
    found: dict[str, float] = {}
    for pattern, share in shares:
        found[str(pattern)] = found.get(str(pattern), 0.0) + float(share)
    return found


@dataclass(frozen=True)
class _Edge:
    """Between two neighbouring points of the raster: what has been solved there, and around it, by the parameter."""

    shares: _Shares
    name: str
    fixed: dict[str, float]
    solved: dict[float, dict[str, float]]
    around: dict[float, dict[str, float]]

    def _excess(self, value: float, code: str) -> float:
        known = self.solved if value in self.solved else self.around
        return self.shares.excess(known[value].get(code, 0.0))

    def changing(self) -> set[str]:
        """Codes that count as present at one end only."""
        low, high = (
            {c for c in self.solved[v] if self._excess(v, c) > 0.0} for v in (min(self.solved), max(self.solved))
        )
        return low ^ high

    def enclosed(self, code: str, guess: float = math.nan, error: float = math.nan) -> float | None:
        """Where a code comes to be present: regula falsi on ln(share / least), halving where that does not help.

        Where a code ends with a jump of its share, as codes that become one do, both sides of `guess` (a share of the
        edge, like its `error`) are tried first.
        Codes of one orbit change together: what was solved for one of them encloses the others.
        """
        first, length = min(self.solved), max(self.solved) - min(self.solved)
        width, guess = ACCURACY * length, first + guess * length
        reach = max(0.9 * width, error * length)
        for step in range(_SOLVES):
            places = sorted(self.solved)
            signs = [self._excess(place, code) > 0.0 for place in places]
            k = next(k for k in range(len(places) - 1) if signs[k] != signs[k + 1])
            left, right = places[k], places[k + 1]
            f_left, f_right = self._excess(left, code), self._excess(right, code)
            share = f_left / (f_left - f_right)
            if right - left <= width or min(abs(f_left), abs(f_right)) < _ENOUGH:
                return left + share * (right - left)
            known = max(abs(f_left), abs(f_right)) < _FAR
            if not known and right - left <= 2.0 * width:  # a code that is not there at all: the middle is near enough
                return 0.5 * (left + right)
            guesses = self._by_parabolas(code, left, right) if known else []
            if len(guesses) == 2 and abs(guesses[1] - guesses[0]) <= width:
                return sum(guesses) / 2.0
            if step % 3 == 2 or not known:
                share = 0.5
            elif guesses:
                share = (sum(guesses) / len(guesses) - left) / (right - left)
            middle = left + min(max(share, 0.02), 0.98) * (right - left)
            while not known and reach < 0.5 * (right - left):
                if inside := [x for x in (guess - reach, guess + reach) if left < x < right]:
                    middle = inside[0]
                    break
                reach *= 3.0
            try:
                self.solved[middle] = self.shares.solved({**self.fixed, self.name: middle})
            except (ConvergenceError, ValueError):
                return None
        return 0.5 * (left + right)

    def vanishing(self, code: str) -> float | None:
        """Where the weight of a code becomes zero: extrapolated from the nearest places that have it.

        Line and parabola have to agree; as long as they do not, the weight is solved for beside the parabola's zero.
        """
        width = ACCURACY * (max(self.solved) - min(self.solved))
        for step in range(_SOLVES):
            places = sorted(self.solved)
            signs = [self._excess(place, code) > 0.0 for place in places]
            k = next(k for k in range(len(places) - 1) if signs[k] != signs[k + 1])
            there, gone = (places[k + 1], places[k]) if signs[k + 1] else (places[k], places[k + 1])
            line, parabola = self._zeros(code, there, gone)
            best = line if math.isnan(parabola) else parabola
            near = abs(gone - there)
            if near <= width or near * abs(line - parabola) <= _AGREE * width:
                break
            share = 0.5 if math.isnan(best) or step % 3 == 2 else _BEFORE * best
            middle = there + min(max(share, 0.02), 0.98) * (gone - there)
            try:
                self.solved[middle] = self.shares.solved({**self.fixed, self.name: middle})
            except (ConvergenceError, ValueError):
                return None
        return there + (0.5 if math.isnan(best) else best) * (gone - there)

    def _zeros(self, code: str, there: float, gone: float) -> tuple[float, float]:
        """Where line and parabola through weights on the side of `there` vanish, as shares of the way to `gone`.

        NaN where that is not between the two.
        """
        known = {**self.around, **self.solved}.items()
        side = sorted(((place - there) / (gone - there), shares.get(code, 0.0)) for place, shares in known)
        away, weights = list[float](), list[float]()
        for x, weight in reversed([one for one in side if one[0] <= 0.0]):
            if len(away) == 3 or not self.shares.excess(weight) > 0.0:
                break
            away.append(x)
            weights.append(weight)
        found = []
        for order in (1, 2):
            enough = len(away) > order
            roots = np.roots(np.polyfit(away[: order + 1], weights[: order + 1], order)) if enough else np.empty(0)
            inside = [float(root.real) for root in roots if abs(root.imag) < 1e-9 and 0.0 <= root.real <= 1.0]
            found.append(min(inside, default=math.nan))
        return found[0], found[1]

    def _by_parabolas(self, code: str, left: float, right: float) -> list[float]:
        """Zeros of the parabolas through both ends of a bracket and the next known place on either side of it."""
        places = {*self.solved, *self.around}
        before = max((place for place in places if place < left), default=None)
        after = min((place for place in places if place > right), default=None)
        f_left, f_right = self._excess(left, code), self._excess(right, code)
        found = []
        for third in (before, after):
            if third is None or abs(f_third := self._excess(third, code)) >= _FAR:
                continue
            # f(s) = f_left (1 - s) + f_right s + bend s (s - 1), with s = 0 and 1 at the ends: one zero between them.
            s = (third - left) / (right - left)
            bend = (f_third - f_left * (1.0 - s) - f_right * s) / (s * (s - 1.0))
            slope = f_right - f_left - bend
            root = -2.0 * f_left / (slope + math.copysign(math.sqrt(slope**2 - 4.0 * bend * f_left), f_right - f_left))
            found.append(left + root * (right - left))
        return found


def _curve(names: tuple[str, str], code: str, places: FloatArray, sharp: bool) -> LevelCurve:
    shown = "-".join(code)
    kind = "weight" if sharp else "share"
    points = tuple(LevelPoint(dict(zip(names, map(float, place))), shown, kind, not sharp) for place in places)
    return LevelCurve(names, points, shown, kind)


def _orbits(curves: list[LevelCurve], ranges: FloatArray) -> list[LevelCurve]:
    """Curves that coincide, those of codes that an exchange of classes maps onto each other, as one."""
    kept: list[LevelCurve] = []
    for curve in curves:
        for n, other in enumerate(kept):
            same = len(other.points) == len(curve.points)
            if same and np.abs((other.curve - curve.curve) / ranges).max() < _ALIKE:
                label = f"{other.label} and {curve.label}"
                kept[n] = LevelCurve(other.names, other.points, label, other.kind)
                break
        else:
            kept.append(curve)
    return kept


# ---- joining places to lines -----------------------------------------------------------------------------------------


def _through_cells(places: dict[tuple[int, int, int], FloatArray]) -> Iterator[list[FloatArray]]:
    """Places on edges of the raster joined through its cells; in a cell with four of them the nearest pairs."""
    links: dict[tuple[int, int, int], list[tuple[int, int, int]]] = {edge: [] for edge in places}
    cells = {
        (i - di, j - dj) for i, j, axis in places for di, dj in (((0, 0), (0, 1)) if axis == 0 else ((0, 0), (1, 0)))
    }
    for i, j in sorted(cells):
        around = [(i, j, 0), (i, j + 1, 0), (i, j, 1), (i + 1, j, 1)]
        around = [edge for edge in around if edge in places]
        pairs = [(around[0], around[1])] if len(around) == 2 else []
        if len(around) == 4:  # bottom, top, left, right: a curve cuts off two opposite corners
            bottom, top, left, right = around
            pairs = [(bottom, left), (top, right)]
            if _length(places, pairs) > _length(places, [(bottom, right), (top, left)]):
                pairs = [(bottom, right), (top, left)]
        for one, other in pairs:
            links[one].append(other)
            links[other].append(one)
    yield from _chains(places, links)


def _length(places: dict[_Place, FloatArray], pairs: list[tuple[_Place, _Place]]) -> float:
    return float(sum(np.linalg.norm(places[a] - places[b]) for a, b in pairs))


def _along_rows(places: dict[tuple[int, int, int], FloatArray], whole: int) -> Iterator[list[FloatArray]]:
    """Places at successive values of a whole-numbered parameter, each joined to the nearest one at the next value."""
    links: dict[tuple[int, int, int], list[tuple[int, int, int]]] = {edge: [] for edge in places}
    for edge in places:
        after = [other for other in places if other[whole] == edge[whole] + 1 and len(links[other]) == 0]
        if after:
            nearest = min(after, key=lambda other: abs(places[other][1 - whole] - places[edge][1 - whole]))
            links[edge].append(nearest)
            links[nearest].append(edge)
    yield from _chains(places, links)


def _chains(places: dict[_Place, FloatArray], links: dict[_Place, list[_Place]]) -> Iterator[list[FloatArray]]:
    """Lines through linked places, open ones from an end, then closed ones."""
    left = dict.fromkeys(sorted(places, key=lambda edge: (len(links[edge]) != 1, edge)))
    while left:
        edge = next((one for one in left if len([k for k in links[one] if k in left]) < 2), next(iter(left)))
        line, start = [], edge
        here: _Place | None = edge
        while here is not None:
            left.pop(here)
            line.append(places[here])
            here = next((other for other in links[here] if other in left), None)
        if len(line) > 2 and line[-1] is not line[0] and any(np.array_equal(places[k], line[-1]) for k in links[start]):
            line.append(line[0])
        yield line
