"""Islands between the points of a raster: where what keeps a phase together has a minimum that may lie below zero.

Inside a phase some smooth functions of the two parameters are positive, and each vanishes where the phase ends: by how
much the highest maximum of h that is no code stays below the level, the least weight of a code, the least squared
distance of two codes (they merge), and how firm the softest code is (it splits). Of outliers it is asked whether there
are any: the weight of all of them, and how far the first one is from entering, are continuous through phases that
differ by who drives them. An island that no point of the raster hits lies around a minimum of one of them. Points of
the raster that are lowest among their neighbours, and so low that the minimum may pass zero within a cell (a parabola
along each axis says so), are starts from which it is followed downhill through further certified solutions. One with
another number of codes, or without outliers where there were some, lies in an island.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from meanfield.activations.cumulant import cumulant
from meanfield.phases.points import Plane
from meanfield.phases.raster import solution_at
from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.division import ByCode, WithOutliers
from meanfield.posterior.posterior import Posterior
from meanfield.posterior.registry import division_of
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.problem.problem import Problem
from meanfield.theories.single_layer.compiled.ascent import find_maxima
from meanfield.theories.single_layer.compiled.outlier import worst_directions
from meanfield.theories.single_layer.limit import compiled_tables, phi_range
from meanfield.theories.single_layer.posterior import SingleNeuronPosterior
from meanfield.theories.single_layer.solution import Solution
from meanfield.validation import BoolArray, FloatArray, IntArray

__all__ = ["Leg", "hidden_islands", "margins", "outlier_margins"]

_PRESENT = 1e-9  # weight of a code that is there
_APART = 1e-3  # readouts nearer than this are one, in units of sigma_a
_NOTHING = 1e-9  # what counts as zero already: ties that a symmetry makes
_REACH = 3.0  # times what a parabola allows within half a cell
_MOST = 6  # starts per function
_SOLVES = 24  # per start
_MOST_CLIMBS = 20_000  # to maxima of h: 2^C at each point that is looked at, 2,500 points of three classes
_MOST_CLASSES = 5  # beyond, there are so many climbs, and solutions may hold orbits of codes
_FLAT = 0.1  # of the least value: simplexes on which it changes less have ended


@dataclass(frozen=True, eq=False)
class Leg:
    """Two points, one of them in an island, which share the value of one parameter; for `transitions_along`."""

    diagram: Plane
    name: str
    fixed: dict[str, float]
    ends: tuple[tuple[float, Posterior], tuple[float, Posterior]]

    @property
    def network(self) -> Network:
        return self.diagram.network

    @property
    def task(self) -> ClassTask:
        return self.diagram.task

    @property
    def tau(self) -> float:
        return self.diagram.tau

    @property
    def axes(self) -> Mapping[str, FloatArray]:
        return {self.name: np.array([value for value, _ in self.ends])}

    @property
    def certified(self) -> BoolArray:
        return np.ones(2, dtype=bool)

    def problems(self) -> Iterator[Problem]:
        return (self.problem_with({self.name: value}) for value, _ in self.ends)

    def problem_with(self, values: Mapping[str, object]) -> Problem:
        return self.diagram.problem_with({**self.fixed, **values})

    def posterior(self, index: int | tuple[int, ...]) -> Posterior:
        return self.ends[index if isinstance(index, int) else index[0]][1]

    def solve(self, **values: float) -> Posterior:
        return self.diagram.solve(**self.fixed, **values)


def hidden_islands(diagram: Plane) -> Iterator[Leg]:
    """Ways out of islands that no point of the raster hits, up to four of each.

    Of up to five classes: islands with other codes, and such with or without outliers.
    """
    few = diagram.task.n_classes <= _MOST_CLASSES
    divided = isinstance(division_of(diagram.network, diagram.task), (ByCode, WithOutliers))
    if not divided or not few or min(diagram.shape) < 3:
        return
    look = _Look(diagram)
    for place in look.starts():
        yield from look.legs(*place)


def margins(problem: Problem, solution: Solution) -> tuple[int, FloatArray]:
    """Number of codes, and what keeps them: gap to the next maximum, least weight, squared distance, firmness."""
    network, sigma_a = problem.network, problem.network.sigma_a
    present = solution.weight > _PRESENT
    t, a, weight = solution.t * sigma_a, solution.readout[present] / sigma_a, solution.weight[present]
    p = problem.class_task.fractions.copy()  # may be written to, as everywhere else: one compiled form for all
    table = compiled_tables(network.activation, network.k)[0]
    low, high, _, _ = phi_range(network.activation, network.k)
    maxima, height = np.empty((256, t.shape[1])), np.empty(256)
    count = find_maxima(table, p, t, low, high, a, False, maxima, height)
    absent = np.linalg.norm(maxima[:count, None] - a, axis=2).min(axis=1) > _APART
    gap = solution.level - height[:count][absent].max(initial=-math.inf)
    apart = np.sum((a[:, None] - a) ** 2, axis=2)[~np.eye(len(a), dtype=bool)].min(initial=math.inf)
    second = p * cumulant(network.activation, network.k).direct(a @ t.T)[2]  # (n, C)
    bends = np.linalg.eigvalsh(np.einsum("nc,cr,cs->nrs", second, t, t) - np.eye(t.shape[1]))
    return len(a), np.array([gap, weight.min(), apart, -bends.max()])


def outlier_margins(problem: Problem, solution: Solution) -> tuple[int, FloatArray]:
    """Whether there are outliers, the weight of all of them, and how far the first one is from entering.

    That is 1 less the largest growth sum_c p_c g(t_c.u) along a direction u; infinite where there are outliers, or
    where the largest one is not known. As in `margins` in units sigma_a = 1.
    """
    network, sigma_a = problem.network, problem.network.sigma_a
    weight = float(solution.outlier_weight.sum()) / sigma_a**2
    if weight > _PRESENT:
        return 1, np.array([weight, math.inf])
    t = np.ascontiguousarray(solution.t * sigma_a)
    table, none = compiled_tables(network.activation, network.k)[0], np.empty((0, t.shape[1]))
    _, growth, exact = worst_directions(table, problem.class_task.fractions, t, math.inf, none, np.empty(0))
    return 0, np.array([math.inf, 1.0 - growth if exact else math.inf])


class _InAnIsland(Exception):
    """Ends a search: the solution has another number of codes."""


class _Flat(Exception):
    """Ends a search: there is hardly anything left to fall."""


class _Look:
    """What keeps the phase at each point of a raster, and the searches that start where it is least."""

    def __init__(self, diagram: Plane) -> None:
        self.diagram = diagram
        self.names = tuple(diagram.axes)
        climbs = math.prod(diagram.shape) * 2**diagram.task.n_classes
        stride = math.ceil(math.sqrt(climbs / _MOST_CLIMBS))
        self.orders = [np.argsort(axis)[::stride] for axis in diagram.axes.values()]
        self.axes = [axis[order] for axis, order in zip(diagram.axes.values(), self.orders)]
        shape = tuple(len(axis) for axis in self.axes)
        by_code = isinstance(division_of(diagram.network, diagram.task), ByCode)
        self.margins: Callable[[Problem, Solution], tuple[int, FloatArray]] = margins if by_code else outlier_margins
        self.kind: IntArray = np.full(shape, -1)  # number of codes, or whether there are outliers
        self.margin = np.full((4 if by_code else 2, *shape), np.inf)
        for at in np.ndindex(shape):
            flat = self._flat(at)
            if diagram.certified.flat[flat]:
                problem = diagram.problem(flat)
                solution = solution_at(diagram.points, flat, problem.class_task, problem.tau)
                self.kind[at], self.margin[(slice(None), *at)] = self.margins(problem, solution)

    def _place(self, at: tuple[int, ...]) -> tuple[int, ...]:
        """Position on the raster of the diagram."""
        return tuple(int(order[i]) for order, i in zip(self.orders, at))

    def _flat(self, at: tuple[int, ...]) -> int:
        return int(np.ravel_multi_index(self._place(at), self.diagram.shape))

    def starts(self) -> Iterator[tuple[int, tuple[int, int]]]:
        """Function and place, those whose minimum is the likeliest to pass zero first."""
        for which in range(len(self.margin)):
            found = []
            for at in np.ndindex(self.kind.shape):
                share = self._share(which, (at[0], at[1]))
                if share <= _REACH:
                    found.append((share, (at[0], at[1])))
            yield from ((which, place) for _, place in sorted(found)[:_MOST])

    def _share(self, which: int, at: tuple[int, int]) -> float:
        """Height of a local minimum, in units of what a parabola may fall from there within half a cell."""
        values = self.margin[which]
        around = tuple(slice(max(i - 1, 0), i + 2) for i in at)
        here = values[at]
        alike = self.kind[at] >= 0 and (self.kind[around] == self.kind[at]).all()
        if not alike or not _NOTHING < here < math.inf or here > values[around].min():
            return math.inf
        falls = 0.0
        for axis in (0, 1):
            beside = [
                values[tuple(i + step * (k == axis) for k, i in enumerate(at))] - here
                for step in (-1, 1)
                if 0 <= at[axis] + step < values.shape[axis]
            ]
            falls += float(np.mean(beside)) / 4.0
        return float(here / falls) if 0.0 < falls < math.inf else math.inf

    def legs(self, which: int, at: tuple[int, int]) -> Iterator[Leg]:
        """Downhill from a point of the raster; ways out of the island, if one is met."""
        origin = np.array([axis[i] for axis, i in zip(self.axes, at)])
        cell = np.array([_cell(axis, i) for axis, i in zip(self.axes, at)])
        low, high = (np.array([f(axis) for axis in self.axes]) for f in (np.min, np.max))
        met: list[tuple[FloatArray, Posterior]] = []
        evaluated: list[float] = []

        def height(step: FloatArray) -> float:
            place = np.clip(origin + step * cell, low, high)
            try:
                posterior = self.diagram.solve(**dict(zip(self.names, map(float, place))))
            except (ConvergenceError, ValueError):
                return math.inf
            assert isinstance(posterior, SingleNeuronPosterior)
            problem = Problem(posterior.network, posterior.task, posterior.tau)
            kind, found = self.margins(problem, posterior.solution)
            if kind != self.kind[at]:
                met.append((place, posterior))
                raise _InAnIsland
            evaluated.append(float(found[which]))
            if len(evaluated) >= 9 and np.ptp(evaluated[-3:]) < _FLAT * min(evaluated):
                raise _Flat
            return evaluated[-1]

        downhill = self._downhill(which, at)
        across = np.array([-downhill[1], downhill[0]])
        simplex = np.array([np.zeros(2), downhill, 0.5 * downhill + 0.5 * across])
        with suppress(_InAnIsland, _Flat):
            minimize(
                height, np.zeros(2), method="Nelder-Mead",
                options={"initial_simplex": simplex, "maxfev": _SOLVES, "xatol": 1e-3, "fatol": 0.0},
            )  # fmt: skip
        if not met:
            return
        yield from self._cross(*met[0])

    def _cross(self, place: FloatArray, inside: Posterior) -> Iterator[Leg]:
        """From a point in an island along both parameters, both ways, to the next values of the raster."""
        for k, name in enumerate(self.names):
            fixed = {self.names[1 - k]: float(place[1 - k])}
            below, above = self.axes[k][self.axes[k] < place[k]], self.axes[k][self.axes[k] > place[k]]
            for end in (*below[-1:], *above[:1]):
                with suppress(ConvergenceError, ValueError):
                    outside = self.diagram.solve(**fixed, **{name: float(end)})
                    yield Leg(self.diagram, name, fixed, ((float(place[k]), inside), (float(end), outside)))

    def _downhill(self, which: int, at: tuple[int, int]) -> FloatArray:
        """Newton's step to the minimum of parabolas along both axes, in cells; at least a quarter of one."""
        values, step = self.margin[which], np.zeros(2)
        for axis in (0, 1):
            sides = [tuple(i + by * (k == axis) for k, i in enumerate(at)) for by in (-1, 1)]
            before, after = (values[s] if 0 <= s[axis] < values.shape[axis] else math.nan for s in sides)
            bend = before + after - 2.0 * values[at]
            if math.isnan(bend):
                step[axis] = 0.25 if math.isnan(before) else -0.25
            elif 0.0 < bend < math.inf:
                step[axis] = 0.5 * (before - after) / bend
        length = float(np.linalg.norm(step))
        return step * max(1.0, 0.25 / length) if length > 1e-3 else np.array([0.25, 0.25])


def _cell(axis: FloatArray, i: int) -> float:
    return float(np.mean(np.diff(axis[max(i - 1, 0) : i + 2])))
