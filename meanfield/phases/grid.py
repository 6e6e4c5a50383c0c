"""The grid of a sweep: values of the control parameters, the problem at a point, chunks that warm-start in a row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meanfield import __version__
from meanfield.numerics.jit import source_hash
from meanfield.phases import raster
from meanfield.posterior.registry import Theory, theory_of
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.problem.problem import Problem
from meanfield.theories.single_layer.theory import is_limit, is_limit_of
from meanfield.theories.single_layer.transitions.extended import Control
from meanfield.validation import FloatArray, plain_array, real_array, real_number, temperature

__all__ = ["Grid", "checked_axes", "chunks", "fingerprint", "parents", "segment_size"]

_KEPT = 65_536  # problems that are not made a second time
_BY_LAYER = ("layer_sigmas", "width_ratios")
_OF_NETWORK = ("depth", "readout_exponent", *_BY_LAYER)
_DIRECT = ("fractions", "n_samples", *_OF_NETWORK)  # parameters that are not those of transitions
_OF_TASK = ("on", "off", "fraction_", "target_")  # parameters of the task, or how they begin


def checked_axes(axes: Mapping[str, object]) -> dict[str, FloatArray]:
    """The values of one or two parameters as arrays; ValueError for other numbers or shapes."""
    if not 1 <= len(axes) <= 2:
        raise ValueError(
            f"sweep takes one or two parameters with their values, e.g. off=np.linspace(-1, 0.9, 200); got {len(axes)}."
        )
    grid = {}
    for name, values in axes.items():
        if name == "n_samples":
            given = np.atleast_1d(plain_array(name, values)).ravel().tolist()
            array = np.array([real_number(name, v, above=0.0, infinite=True) for v in given])
            if not array.size:
                raise ValueError(f"{name} is empty; give at least one number.")
        else:
            array = real_array(name, values)
        if name == "depth" and (array != np.rint(array)).any():
            raise ValueError(f"depth must hold whole numbers of hidden layers, got {array.tolist()}.")
        row = {"fractions": "rows of fractions"} | dict.fromkeys(_BY_LAYER, "rows of depth - 1 numbers")
        if array.ndim != (2 if name in row else 1):
            raise ValueError(f"{name} must hold {row.get(name, 'a list of values')}, one per point.")
        grid[name] = array
    return grid


class Grid:
    """The problems on a grid of control parameters; every one of them is covered by a theory.

    Parameters
    ----------
    network, task, tau
        The problem; swept parameters are replaced point by point.
    axes : dict of str to (n,) array
        Values of the parameters; for ``fractions`` (n, C), for ``layer_sigmas`` and ``width_ratios`` (n, L - 1).

    Raises
    ------
    ValueError
        Here for parameters that do not exist; from `problem` for values that a task or network refuses, and for
        problems that no theory covers.
    """

    def __init__(self, network: Network, task: ClassTask, tau: float, axes: dict[str, FloatArray]) -> None:
        self.axes, self.tau = axes, temperature("tau", tau)
        self.base = network, task
        self._made: dict[tuple[int, ...], Problem] = {}
        self._limits: NDArray[np.bool_] | None = None  # of all problems, once each has been seen to be covered
        # By their places along the axes that make them: along those of the one the other stays the same.
        self._networks: dict[tuple[int, ...], Network] = {}
        self._tasks: dict[tuple[int, ...], ClassTask] = {}
        rest = tuple(name for name in axes if name not in _DIRECT)
        if rest:
            Control(network, task, tau, rest)  # refuses parameters that do not exist
        self._task_names = tuple(name for name in rest if name.startswith(_OF_TASK))
        self._network_names = tuple(name for name in rest if name != "tau" and name not in self._task_names)
        of_network = (*self._network_names, *_OF_NETWORK)
        self._network_axes = tuple(i for i, name in enumerate(axes) if name in of_network)
        self._task_axes = tuple(i for i, name in enumerate(axes) if name not in (*of_network, "tau"))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(values) for values in self.axes.values())

    def problem(self, at: Sequence[int]) -> Problem:
        """The problem at a position of the grid."""
        place = tuple(map(int, at))
        if place not in self._made:
            problem = self._at(place)
            if self._limits is None:
                _covering(problem)
            self._keep(place, problem)
        return self._made[place]

    def _keep(self, place: tuple[int, ...], problem: Problem) -> None:
        if len(self._made) >= _KEPT:
            self._made.clear()
        self._made[place] = problem

    def check(self) -> None:
        """Make each problem once, so that nothing is solved of a grid that no theory covers."""
        limits = np.empty(self.shape, dtype=np.bool_)
        for at in np.ndindex(self.shape):
            problem = self._at(at)
            limits[at] = is_limit_of(_covering(problem), problem)
            self._keep(at, problem)
        self._limits = limits

    def is_limit(self, at: Sequence[int]) -> bool:
        """`is_limit` of the problem there."""
        return is_limit(self.problem(at)) if self._limits is None else bool(self._limits[tuple(at)])

    def sigma_a(self, at: Sequence[int]) -> float:
        """That of the network there, without a look at the rest of the problem."""
        return self._network_at(tuple(map(int, at))).sigma_a

    def _values(self, at: Sequence[int]) -> dict[str, Any]:
        return {name: values[i] for (name, values), i in zip(self.axes.items(), at, strict=True)}

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_made": {}, "_networks": {}, "_tasks": {}}  # workers make their own problems

    def problem_with(self, values: dict[str, Any]) -> Problem:
        """The problem with these values of the parameters."""
        problem = Problem(self._network(values), self._task(values), self._tau(values))
        _covering(problem)
        return problem

    def _at(self, place: tuple[int, ...]) -> Problem:
        key = tuple([place[i] for i in self._task_axes])
        if key not in self._tasks:
            self._tasks[key] = self._task(self._values(place))
        return Problem(self._network_at(place), self._tasks[key], self._tau_at(place))

    def _network_at(self, place: tuple[int, ...]) -> Network:
        key = tuple([place[i] for i in self._network_axes])
        if key not in self._networks:
            self._networks[key] = self._network(self._values(place))
        return self._networks[key]

    def _tau_at(self, place: tuple[int, ...]) -> float:
        return self._tau(self._values(place)) if "tau" in self.axes else self.tau

    def _tau(self, values: dict[str, Any]) -> float:
        return temperature("tau", values["tau"]) if "tau" in values else self.tau

    def _network(self, values: dict[str, Any]) -> Network:
        base, task = self.base
        control = Control(base, task, self.tau, self._network_names)
        network = control.physical([values[name] for name in self._network_names])[0]
        kinds: dict[str, Any] = {"depth": int, "readout_exponent": float} | dict.fromkeys(_BY_LAYER, tuple)
        direct = {name: kinds[name](values[name]) for name in _OF_NETWORK if name in values}
        return network.with_(**direct) if direct else network

    def _task(self, values: dict[str, Any]) -> ClassTask:
        network, base = self.base
        control = Control(network, base, self.tau, self._task_names)
        task = control.physical([values[name] for name in self._task_names])[1]
        direct = {name: values[name] for name in _DIRECT if name in values and name not in _OF_NETWORK}
        return task.with_(**direct) if direct else task

    def problems(self) -> Iterator[Problem]:
        """All problems, first axis outermost."""
        return (self.problem(at) for at in np.ndindex(self.shape))


def _covering(problem: Problem) -> Theory:
    """The theory of a point; ValueError where there is none, or none that sweeps."""
    theory = theory_of(problem)
    if not theory.sweeps:
        raise ValueError(f"sweep covers class tasks, not {theory.answers}; call solve point by point.")
    return theory


def chunks(shape: tuple[int, ...], size: int) -> Iterator[list[tuple[int, ...]]]:
    """Whole rows (points with the same first index), as many as fit in a chunk; a single axis in pieces of `size`."""
    if len(shape) == 1:
        indices: list[tuple[int, ...]] = [(i,) for i in range(shape[0])]
        yield from (indices[i : i + size] for i in range(0, shape[0], size))
        return
    rows = max(1, size // shape[1])
    for start in range(0, shape[0], rows):
        yield [(i, j) for i in range(start, min(start + rows, shape[0])) for j in range(shape[1])]


def parents(points: Sequence[tuple[int, ...]]) -> list[int]:
    """Where each point of a chunk starts from: the one before it in its row, a row's first from the row before."""
    where = {at: n for n, at in enumerate(points)}
    parents = []
    for at in points:
        before = where.get((*at[:-1], at[-1] - 1), -1)
        if before < 0 and len(at) == 2:
            before = where.get((at[0] - 1, at[1]), -1)
        parents.append(before)
    return parents


def segment_size(problem: Problem) -> int:
    """Points that start from each other; few where they are slow, so that the work can be shared."""
    if is_limit(problem) and problem.task.targets.size <= 16:
        return 256
    return 32


def fingerprint(grid: Grid, size: int) -> str:
    """Hash of what determines the points of a sweep: problem, axes, size of the segments, code."""
    network, task = grid.base
    described = {"network": network.to_dict(), "task": task.to_dict(), "tau": grid.tau, "size": size}
    described["axes"] = {name: values.tolist() for name, values in grid.axes.items()}
    described["code"] = [__version__, np.__version__, source_hash(raster.__file__)]
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()
