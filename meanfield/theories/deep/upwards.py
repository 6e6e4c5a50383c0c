"""The branch with codes of many samples from that of few, where everything is soft and planted starts lead to it.

In units in which they hardly change, P k~ and P^(1 - beta) t, order parameters are extrapolated in ln P from the last
solutions, and corrected by Newton's method. How far a step goes depends on how many corrections the last one took.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from meanfield.theories.deep.newton import Found, admissible, newton
from meanfield.theories.deep.readout import readout_minimum
from meanfield.theories.deep.rules import COARSE, NotCovered
from meanfield.theories.deep.start import planted, prior_kernels, relax
from meanfield.theories.deep.system import DeepProblem, System
from meanfield.theories.deep.work import OutOfWork, counted
from meanfield.validation import FloatArray

__all__ = ["from_few", "with_samples"]

Report = Callable[[str, int, float], None]

_FEW = (15.0, 50.0)  # samples per class that are tried, from the fewest
_LEARNED = 0.7  # of the prior's d of the last layer: what neurons that have no codes keep
_FIRST, _LONGEST, _SHORTEST = math.log(2.0), math.log(6.0), 0.05  # steps in ln P
_LONGER, _SHORTER, _EASY = 1.6, 0.5, 4  # after so many corrections at most
_CORRECTIONS, _PATIENCE = 8, 2
_POINTS = 3  # solutions that are extrapolated from
_ONE_STEP = 1e10  # multiplications


def with_samples(problem: DeepProblem, factor: float) -> DeepProblem:
    """The same task with so many times the samples."""
    variance = problem.readout_variance / factor**problem.exponent
    return replace(problem, n=problem.n * factor, readout_variance=variance)


def from_few(problem: DeepProblem, rough: float, report: Report | None = None) -> tuple[System, Found]:
    """The branch with codes at the coarse quadrature, to a residual of `rough`, followed upwards in P.

    Raises
    ------
    NotCovered
        If it is found at none of a few small P, or lost on the way; the text says where.
    """
    error = NotCovered("the branch with codes was not found at few samples")
    for samples in _FEW:
        if samples * len(problem.n) > 0.7 * problem.n_samples:
            break
        try:
            return _followed(problem, samples * len(problem.n), rough, report)
        except NotCovered as reason:
            error = reason
        except (OutOfWork, np.linalg.LinAlgError):
            continue
    raise error


def _followed(problem: DeepProblem, samples: float, rough: float, report: Report | None) -> tuple[System, Found]:
    """The same from so many samples."""
    goal, size = math.log(problem.n_samples), math.log(samples)
    few = with_samples(problem, samples / problem.n_samples)
    with counted(_ONE_STEP):
        system = System(few, COARSE)
        order = readout_minimum(system, planted(few))[0]
        found = newton(system, relax(system, order, critical=True), rough, progress=report)
    coded = system.combined(found.averages)[-1].d.mean() < _LEARNED * prior_kernels(few)[1][-1]
    if not (found.residual <= rough and coded):
        raise NotCovered(f"the branch with codes was not found at {samples:.3g} samples")
    known, step = [(size, found.x / _units(system))], _FIRST
    while size < goal:
        end = min(size + step, goal)
        factor = math.exp(end - goal) if end < goal else 1.0
        system = System(with_samples(problem, factor), COARSE)
        start = _extrapolated(known[-_POINTS:], end) * _units(system)
        reached = False
        try:
            if not admissible(system, start):
                raise NotCovered("extrapolated too far")
            with counted(_ONE_STEP):
                found = newton(system, start, rough, most=_CORRECTIONS, patience=_PATIENCE, progress=report)
            reached = found.residual <= rough
        except (NotCovered, OutOfWork, np.linalg.LinAlgError):
            reached = False
        if reached:
            size = end
            known.append((size, found.x / _units(system)))
            step = min(_LONGEST, step * (_LONGER if found.steps <= _EASY else 1.0))
        else:
            step = _SHORTER * (end - size)
            if step < _SHORTEST:
                there = system.problem.n_samples
                raise NotCovered(f"the branch with codes was lost at {there:.4g} samples, followed upwards")
    return system, found


def _units(system: System) -> FloatArray:
    """Of every coordinate, as it changes with P."""
    problem, units = system.problem, np.ones(system.size)
    for name, _, at in system.blocks:
        if name == "tilde":
            units[at] = 1.0 / problem.n_samples
        elif name == "t":
            units[at] = problem.n_samples ** (problem.exponent - 1.0)
    return units


def _extrapolated(known: list[tuple[float, FloatArray]], where: float) -> FloatArray:
    """The polynomial through points and values."""
    total = np.zeros_like(known[0][1])
    for i, (at, value) in enumerate(known):
        others = [other for j, (other, _) in enumerate(known) if j != i]
        total = total + value * math.prod((where - other) / (at - other) for other in others)
    return total
