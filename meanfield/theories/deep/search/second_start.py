"""A second start for the codes.

There may be several solutions with codes: which one Newton's method ends in depends on where it begins (three classes,
three layers, 1,013 samples: Phi = -1296.07 and -1295.49). Where samples are many, so that codes come and go within a
small change of t, and beside warm starts a start of another kind is tried, at the coarse quadrature, in limited work.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from meanfield.numerics.limits import OutOfTime, seconds_left, time_limit
from meanfield.theories.deep.certificate import Branch
from meanfield.theories.deep.layers.rules import NotCovered
from meanfield.theories.deep.layers.work import OutOfWork, counted
from meanfield.theories.deep.newton import Found
from meanfield.theories.deep.search.branches import Report, Way, polish
from meanfield.theories.deep.system import DeepProblem, System, patched

__all__ = ["COARSE", "Second", "highest", "one_solution", "others_than", "second_start"]

_MANY = 1000.0  # samples, below which one start is all
_TIMES, _LEAST, _MOST = 2.0, 1e9, 8e9  # times the work of the first start, and multiplications at least and at most
COARSE = 1e-4  # of Phi, up to which the coarse quadrature leaves open which of two is the larger one
_SAME = 1e-2  # difference of order parameters, in units of their blocks, of one solution at both quadratures
_SHARE = 0.3  # of the time that is left
_FOUND = 5e-5  # residual of a solution at the coarse quadrature


class Second(NamedTuple):
    """What came of it in words, and another solution, at the coarse quadrature, if there is one."""

    outcome: str
    other: tuple[System, Found] | None = None


def second_start(
    problem: DeepProblem, system: System, found: Found, starts: list[Way] | None, work: float, warm: bool = False
) -> Second:
    """Other starts than the one that led to `found` by so much work, until one leads to a solution; None where others
    were tried before it. Beside a `warm` start, which keeps to its branch past a transition, they are tried at any
    number of samples."""
    if starts is None:
        return Second("other starts led to none")
    if (problem.n_samples < _MANY and not warm) or not starts or patched(problem):
        return Second("one start only")
    left = seconds_left()
    try:
        with (
            time_limit(_SHARE * left if math.isfinite(left) else None),
            counted(max(_LEAST, min(_TIMES * work, _MOST))),
        ):
            for start in starts:
                try:
                    other = start()
                except (NotCovered, np.linalg.LinAlgError):
                    continue
                if other[1].residual > _FOUND:
                    continue
                if one_solution(system, found, other[1]):
                    return Second("a second start leads to the same solution")
                return Second("a second start leads to another solution", other)
    except (OutOfWork, OutOfTime):
        return Second("a second start led to none in the work that was allowed for it")
    return Second("no other start led to a solution")


def highest(
    second: Second, system: System, found: Found, tolerance: float, report: Report | None
) -> tuple[System, Found, list[Branch]]:
    """The solution of larger Phi, at the fine quadrature, and the other one, if there is one."""
    if second.other is None:
        return system, found, []
    rival, end = second.other
    phi, against = system.free_energy(found.x, found.averages), rival.free_energy(end.x, end.averages)
    if against > phi - COARSE * max(1.0, abs(phi)):
        try:
            fine, other = polish(rival, end, tolerance, report)
        except (NotCovered, OutOfTime, np.linalg.LinAlgError):
            return system, found, [Branch("other codes", against, end.residual)]
        against = fine.free_energy(other.x, other.averages)
        if other.residual <= tolerance and against > phi:
            return fine, other, [Branch("other codes", phi, found.residual)]
        end = other
    return system, found, [Branch("other codes", against, end.residual)]


def others_than(branches: list[Branch], others: list[Branch]) -> list[Branch]:
    """Of `others`, that a second start led to, those that are none of the `branches`, which have names of their own:
    after a warm start that kept to a branch past its transition both searches lead to the other one."""
    levels = [branch.free_energy for branch in branches]
    return [
        other for other in others if all(abs(other.free_energy - phi) > COARSE * max(1.0, abs(phi)) for phi in levels)
    ]


def one_solution(system: System, found: Found, other: Found) -> bool:
    """Whether order parameters agree, in units of their blocks, as one solution does at both quadratures."""
    return float(np.abs((found.x - other.x) / system.scales(found.x)).max()) < _SAME
