"""A second start for the codes.

There may be several solutions with codes: which one Newton's method ends in depends on where it begins (three classes,
three layers, 1,013 samples: Phi = -1296.07 and -1295.49). Where samples are many, so that codes come and go within a
small change of t, a start of another kind is tried with at most as much work as the first took.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from meanfield.numerics.limits import OutOfTime, seconds_left, time_limit
from meanfield.theories.deep.branches import Report, Way, polish
from meanfield.theories.deep.newton import Found
from meanfield.theories.deep.rules import NotCovered
from meanfield.theories.deep.solution import Branch
from meanfield.theories.deep.system import DeepProblem, System, patched
from meanfield.theories.deep.work import OutOfWork, counted

__all__ = ["Second", "highest", "second_start"]

_MANY = 1000.0  # samples, below which one start is all
_LEAST = 1e9  # multiplications that are allowed in any case, half a second
_ROUGHLY, _SAME = 1e-2, 1e-4  # difference of order parameters, in units of their blocks, of one solution; and at last
_SHARE = 0.3  # of the time that is left
_FOUND = 5e-5  # residual of a solution at the coarse quadrature


class Second(NamedTuple):
    """What came of it in words, and another solution if there is one."""

    outcome: str
    other: tuple[System, Found] | None = None


def second_start(
    problem: DeepProblem, system: System, found: Found, starts: list[Way], work: float, tolerance: float,
    report: Report | None,
) -> Second:  # fmt: skip
    """Other starts than the one that led to `found` in so much work, until one leads to a solution."""
    if problem.n_samples < _MANY or not starts or patched(problem):
        return Second("one start only")
    left = seconds_left()
    try:
        with time_limit(_SHARE * left if math.isfinite(left) else None), counted(max(work, _LEAST)):
            for start in starts:
                try:
                    coarse, rough = start()
                    if rough.residual > _FOUND:
                        continue
                    if _apart(system, found, rough) < _ROUGHLY:
                        return Second("a second start leads to the same solution")
                    fine, other = polish(coarse, rough, tolerance, report)
                except (NotCovered, np.linalg.LinAlgError):
                    continue
                if other.residual <= tolerance:
                    if _apart(system, found, other) < _SAME:
                        return Second("a second start leads to the same solution")
                    return Second("a second start leads to another solution", (fine, other))
    except (OutOfWork, OutOfTime):
        return Second("a second start led to none in as much work as the first took")
    return Second("no other start leads to a solution")


def highest(second: Second, system: System, found: Found) -> tuple[System, Found, list[Branch]]:
    """The solution of larger Phi, and the other one, if there is one."""
    if second.other is None:
        return system, found, []
    pairs = [(one, end, one.free_energy(end.x, end.averages)) for one, end in ((system, found), second.other)]
    (best, end, _), (_, lower, phi) = sorted(pairs, key=lambda pair: -pair[2])
    return best, end, [Branch("other codes", phi, lower.residual)]


def _apart(system: System, found: Found, other: Found) -> float:
    """Largest difference of order parameters in units of their blocks."""
    return float(np.abs((found.x - other.x) / system.scales(found.x)).max())
