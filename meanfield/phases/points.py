"""The numbers of a sweep on its grid: status, residuals, order parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from meanfield.phases.grid import Grid
from meanfield.phases.raster import PointArrays
from meanfield.posterior.posterior import SolvedPosterior
from meanfield.posterior.swept import Swept
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.problem.problem import Problem
from meanfield.theories.deep.transitions import CodeTransition
from meanfield.theories.single_layer.compiled.sweep import CONVERGED
from meanfield.theories.single_layer.limit import STATUS, message_of
from meanfield.theories.single_layer.transitions.acceptance import Transition
from meanfield.validation import (
    BoolArray,
    FloatArray,
    IntArray,
)

__all__ = ["GridOfPoints", "Plane"]


@dataclass(frozen=True, eq=False)
class GridOfPoints:
    """What a `meanfield.phases.diagram.PhaseDiagram` knows of its points without making posteriors of them."""

    network: Network
    task: ClassTask
    tau: float
    axes: dict[str, FloatArray]
    points: PointArrays

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the grid."""
        return tuple(len(values) for values in self.axes.values())

    def _grid(self, values: np.ndarray) -> np.ndarray:
        array = np.asarray(values)
        return array.reshape(*self.shape, *array.shape[1:])

    @property
    def certified(self) -> BoolArray:
        """Bool array: residual, duality gap and global check all passed."""
        return self._grid(self.points.column("status") == CONVERGED)

    @property
    def status(self) -> np.ndarray:
        """Array of str: "optimal", or what went wrong at the point."""
        return self._grid(np.array(STATUS)[self.points.column("status").astype(int)])

    @property
    def messages(self) -> np.ndarray:
        """Array of str: the status in words; for points that failed the error."""
        said = np.array([message_of(word) for word in STATUS])[self.points.column("status").astype(int)]
        if self.points.message is not None:
            said = np.where(self.points.message == "", said, self.points.message)
        return self._grid(said)

    @property
    def notes(self) -> np.ndarray:
        """Array of str: remarks on solutions at finite P, e.g. that codes overlap; mostly empty."""
        none = np.zeros(len(self.points), dtype="U1")
        return self._grid(none if self.points.note is None else self.points.note)

    @property
    def objective(self) -> FloatArray:
        """min J; NaN where the solver failed."""
        return self._grid(
            np.where(np.isfinite(self.points.column("objective")), self.points.column("objective"), np.nan)
        )

    @property
    def kkt_residual(self) -> FloatArray:
        """Stationarity residual of each point, recomputed without tables."""
        return self._grid(self.points.column("residual"))

    @property
    def duality_gap(self) -> FloatArray:
        """J minus the primal value."""
        return self._grid(self.points.column("gap"))

    @property
    def unique(self) -> np.ndarray:
        """Bool array: weights and order parameters are unique."""
        return self._grid((self.points.column("nullity") + self.points.column("t_nullity")) == 0)

    @property
    def t(self) -> FloatArray:
        """(..., C, m) order parameters."""
        return self._grid(self.points.t)

    def _position(self, flat: int) -> tuple[int, ...]:
        return tuple(int(i) for i in np.unravel_index(flat, self.shape))

    def problem(self, index: int | tuple[int, ...]) -> Problem:
        """Network, task and tau of one grid point."""
        at = self._position(int(index)) if isinstance(index, (int, np.integer)) else index
        return self._problems.problem(at)

    def problems(self) -> Iterator[Problem]:
        """All grid points, first axis outermost."""
        return self._problems.problems()

    def problem_with(self, values: Mapping[str, object]) -> Problem:
        """Network, task and tau at these values of the swept parameters."""
        return self._problems.problem_with(dict(values))

    @cached_property
    def _problems(self) -> Grid:
        return Grid(self.network, self.task, self.tau, self.axes)


class Plane(Swept, Protocol):
    """A `meanfield.phases.diagram.PhaseDiagram`, as those see it whom it asks for its boundaries."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def points(self) -> PointArrays: ...
    @property
    def patterns(self) -> list[tuple[str, ...]]: ...
    @property
    def phase(self) -> IntArray: ...
    @property
    def phase_labels(self) -> tuple[str, ...]: ...
    @property
    def phase_codes(self) -> tuple[frozenset[str], ...]: ...
    @property
    def codes(self) -> tuple[str, ...]: ...
    def problem(self, index: int | tuple[int, ...]) -> Problem: ...
    def present(self, i: int) -> float: ...
    def solve_as_swept(self, values: Mapping[str, float]) -> SolvedPosterior: ...
    def row(self, axis: int, k: int) -> Plane: ...
    def segment(self, one: tuple[int, int], other: tuple[int, int]) -> Plane: ...
    def transitions(self) -> tuple[Transition | CodeTransition, ...]: ...
