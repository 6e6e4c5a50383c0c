"""The grid of a sweep: values of the control parameters, the problem at a point, chunks that warm-start in a row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from meanfield.phases.raster import Problem
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.theories.single_layer.transitions.extended import Control
from meanfield.validation import FloatArray, real_array, real_number

__all__ = ["checked_axes", "chunks", "fingerprint", "parents", "problem_with"]


def checked_axes(axes: dict[str, Any]) -> dict[str, FloatArray]:
    """The values of one or two parameters as arrays; ValueError for other numbers or shapes."""
    if not 1 <= len(axes) <= 2:
        raise ValueError(
            f"sweep takes one or two parameters with their values, e.g. off=np.linspace(-1, 0.9, 200); got {len(axes)}."
        )
    grid = {}
    for name, values in axes.items():
        if name == "n_samples":
            array = np.array([real_number(name, v, above=0.0, infinite=True) for v in np.atleast_1d(values)])
        else:
            array = real_array(name, values)
        wanted = 2 if name == "fractions" else 1
        if array.ndim != wanted:
            raise ValueError(
                f"{name} must hold {'rows of fractions' if wanted == 2 else 'a list of values'}, one per point."
            )
        grid[name] = array
    return grid


def problem_with(network: Network, task: ClassTask, tau: float, changes: dict[str, Any]) -> Problem:
    """The problem with some parameters replaced."""
    direct = {name: changes[name] for name in ("fractions", "n_samples") if name in changes}
    if direct:
        task = task.with_(**direct)
    rest = {name: float(value) for name, value in changes.items() if name not in direct}
    if rest:
        network, task, tau = Control(network, task, tau, tuple(rest)).physical(list(rest.values()))
    return Problem(network, task, tau)


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


def fingerprint(network: Network, task: ClassTask, tau: float, grid: dict[str, FloatArray]) -> str:
    described = {"network": network.to_dict(), "task": task.to_dict(), "tau": tau}
    described["axes"] = {name: values.tolist() for name, values in grid.items()}
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:12]
