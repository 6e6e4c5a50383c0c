"""Classes of unlike sizes and targets from classes that are made alike (relu/THEORY.md, "Solving").

Exchangeable classes have ten unknowns at two layers, and of the nodes of their lattices one in C! is visited: their
solution costs little. From there sizes and targets go to those of the task, outliers being kept at Ehat = 0 class by
class before each of Newton's ways.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from meanfield.theories.deep.relu.average import ROUGH
from meanfield.theories.deep.relu.coordinates import ReluOrder
from meanfield.theories.deep.relu.newton import newton
from meanfield.theories.deep.relu.search.branch import BranchLost
from meanfield.theories.deep.relu.search.start import rescaled
from meanfield.theories.deep.relu.setting import BulkDiverges
from meanfield.theories.deep.relu.system import ReluProblem, ReluSystem
from meanfield.theories.deep.symmetry import AllPermutations, exchangeable, symmetry
from meanfield.validation import FloatArray

__all__ = ["can_be_alike", "from_alike_classes", "is_long"]

_ENDED, _STEPS = 1e-3, 14  # of Newton, on rough lattices
_LONG = 4  # classes
_SHORTEST = 0.1  # step, as a part of the way
Planted = Callable[[ReluProblem], tuple[ReluSystem, FloatArray]]


def can_be_alike(problem: ReluProblem) -> bool:
    """Whether every class has a direction of the outputs of its own, and all are not alike already."""
    y = problem.y
    return y.shape[1] == len(y) > 2 and _alike(problem).y[0, 0] > 0.0 and not exchangeable(problem.n, y)


def is_long(problem: ReluProblem) -> bool:
    """Whether lattices of six dimensions have no nodes that a symmetry exchanges, and the way is one of minutes."""
    n, y = problem.n, problem.y
    return len(n) == y.shape[1] >= _LONG and len(symmetry(n, y).permutations) == 1


def _alike(problem: ReluProblem) -> ReluProblem:
    """With mean sizes, and targets (a symmetric root) that are averaged over all permutations of the classes."""
    y = AllPermutations(*problem.y.shape).matrices(problem.y)
    return replace(problem, n=np.full(len(y), problem.n.mean()), y=y)


def from_alike_classes(
    problem: ReluProblem, planted: Planted, report: Callable[[float], None]
) -> tuple[ReluSystem, FloatArray]:
    """Equations, and a solution on rough lattices.

    Raises
    ------
    BranchLost
    BulkDiverges
    """
    alike = _alike(problem)
    system, x = planted(alike)
    x, size, _ = newton(system, x, ROUGH, _ENDED, 2 * _STEPS, report)
    if size > _ENDED:
        raise BranchLost("Newton did not end at a solution of classes that are made alike")
    done, step = 0.0, 1.0
    while done < 1.0:
        if step < _SHORTEST:
            raise BranchLost(f"it was lost at {done:.2g} of the way from classes that are made alike")
        to = min(1.0, done + step)
        there = replace(problem, n=alike.n ** (1.0 - to) * problem.n**to, y=(1.0 - to) * alike.y + to * problem.y)
        moved = ReluSystem(there, system.words)
        try:
            start = moved.pack(rescaled(moved, system.unpack(x), _lengths(system, x), system.problem.n))
            found, size, _ = newton(moved, start, ROUGH, _ENDED, _STEPS, report)
        except BulkDiverges:
            size = np.inf
        if size > _ENDED:
            step *= 0.5
            continue
        system, x, done = moved, found, to
    return system, x


def _lengths(system: ReluSystem, x: FloatArray) -> FloatArray:
    """(C, L) squared activations of outliers on each class."""
    order: ReluOrder = system.unpack(x)
    layers = range(system.problem.depth)
    return np.array([(system.layer(order, i, ROUGH).activation ** 2).sum(axis=0) for i in layers]).T
