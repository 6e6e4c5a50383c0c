"""Where the branch with codes and the one that continues the prior change places, at finite P.

Both are solutions of the saddle equations on either side, and the one with the larger Phi is reported: a first-order
transition is where both Phi are equal. Each branch is followed from the side on which it was found, and may end beyond
the transition.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.swept import Swept
from meanfield.problem.problem import Problem
from meanfield.theories.deep.layers.rules import CHECK, NotCovered
from meanfield.theories.deep.newton import newton
from meanfield.theories.deep.reduction import problem_of
from meanfield.theories.deep.system import Order, System
from meanfield.validation import FloatArray

__all__ = ["Crossing", "crossings"]

_APART = 0.05  # difference of the last kernel between classes, relative to its diagonal, from which a branch has codes
_EXACT = 1e-9  # residual of a followed branch
_ACCURATE = 1e-6  # the same by the independent quadrature, at the transition
_STEPS = 40
_SHORTEST = 1e-3  # of a bracket, to which a branch is followed in smaller and smaller steps


@dataclass(frozen=True)
class Crossing:
    """Where both branches have the same Phi.

    Attributes
    ----------
    value, width : float
        The parameter, and the last step of the root finder.
    before : str
        Branch that is reported below: "coding" or "uncoded".
    free_energy : float
        Phi of both.
    residual : float
        Largest violation of the saddle equations of either branch, by an independent quadrature.
    """

    value: float
    width: float
    before: str
    free_energy: float
    residual: float


class _Lost(ConvergenceError):
    """A branch could not be followed."""

    def __init__(self, message: str, branch: _Branch) -> None:
        super().__init__(message)
        self.branch = branch


def branch_of(kernel: FloatArray) -> str:
    """ "coding" where the last kernel (C, C) tells classes apart, else "uncoded"."""
    apart = float(np.ptp(np.where(np.eye(len(kernel), dtype=bool), kernel.mean(), kernel)))
    apart = max(apart, float(np.abs(np.diag(kernel)[:, None] - kernel).max()))
    return "coding" if apart > _APART * float(np.abs(np.diag(kernel)).max()) else "uncoded"


def crossings(diagram: Swept, name: str, values: FloatArray) -> tuple[list[Crossing], list[str]]:
    """All first-order transitions between neighbouring certified points of a sweep, in order.

    And, in words, between which points another branch is reported but no transition was located.
    """
    good = [int(i) for i in np.argsort(values) if diagram.certified[i]]
    found, lost = [], []
    for left, right in itertools.pairwise(good):
        posteriors: Any = diagram.posterior(left), diagram.posterior(right)
        before, after = (branch_of(posterior.solution.kernel[-1]) for posterior in posteriors)
        if before == after:
            continue
        ends = float(values[left]), float(values[right])
        try:
            found.append(_crossing(diagram, name, ends, posteriors, before))
        except ConvergenceError as error:
            lost.append(
                f"between {name} = {ends[0]:.8g} and {ends[1]:.8g} the reported branch changes, but the transition was "
                f"not located: {error}"
            )
    return found, lost


def _uncertainty(known: list[tuple[float, float]]) -> float:
    """Of a root, from its value and the slope to the point before."""
    if len(known) < 2 or known[-1][1] == known[-2][1]:
        return 0.0
    (a, fa), (b, fb) = known[-2:]
    return abs(fb * (b - a) / (fb - fa)) + 1e-12 * abs(b)


class _Branch:
    """A branch, followed from the last place at which it was solved."""

    def __init__(self, problem_at: Callable[[float], Problem], where: float, order: Order, kind: str) -> None:
        self.problem_at, self.where, self.order = problem_at, where, order
        self.kind = kind
        self.residual = math.nan

    def phi(self, x: float, check: bool = False) -> float:
        """Phi at x, reached in steps that are halved where Newton does not converge, or on the other branch."""
        step, shortest = x - self.where, _SHORTEST * abs(x - self.where)
        while True:
            target = x if abs(x - self.where) <= abs(step) else self.where + step
            try:
                problem = self.problem_at(target)
                system = System(problem_of(problem.network, problem.class_task, problem.tau)[0])
                solved = newton(system, system.pack(self.order), _EXACT, most=15)
                reached = solved.residual <= _EXACT
                reached = reached and branch_of(system.combined(solved.averages)[-1].kernel) == self.kind
            except (NotCovered, np.linalg.LinAlgError):
                reached = False
            if not reached:
                step *= 0.5
                if not abs(step) > shortest:
                    text = f"the {self.kind} branch was lost at {target:.6g} on the way to {x:.6g}."
                    raise _Lost(text, self)
                continue
            self.where, self.order = target, system.unpack(solved.x)
            if target == x:
                if check:
                    other = system.at_rule(CHECK)
                    self.residual = float(np.abs(other.residual(solved.x, other.evaluate(solved.x))).max())
                return system.free_energy(solved.x, solved.averages)


def _crossing(diagram: Swept, name: str, ends: tuple[float, float], posteriors: Any, before: str) -> Crossing:
    """By secants, kept inside the bracket.

    A branch that ends on the way to a place leaves the part of the bracket up to there: the transition is where both
    branches exist, and is looked for at that end next.
    """

    def problem_at(x: float) -> Problem:
        return diagram.problem_with({name: x})

    low, high = ends
    one, two = (
        _Branch(problem_at, x, post._order, branch_of(post.solution.kernel[-1]))
        for x, post in zip(ends, posteriors, strict=True)
    )

    def lead(x: float) -> float:
        """Phi of the branch from below beyond that of the other; positive below the transition."""
        return one.phi(x) - two.phi(x)

    x, width = 0.5 * (low + high), high - low
    known: list[tuple[float, float]] = []
    ended: tuple[float, _Lost] | None = None  # a branch, at the last place where it was solved
    for _ in range(_STEPS):
        try:
            value = lead(x)
        except _Lost as error:
            if ended is not None:
                raise
            ended, x = (error.branch.where, error), error.branch.where
            continue
        if ended is not None and x == ended[0] and (value > 0.0) == (ended[1].branch is one):
            raise _Lost(f"{ended[1]} Its Phi is the larger one up to there.", ended[1].branch)
        known.append((x, value))
        low, high = (x, high) if value > 0.0 else (low, x)
        size = abs(one.phi(x))
        if abs(value) <= 1e-10 * max(1.0, size):
            width = _uncertainty(known)
            break
        new = 0.5 * (low + high)
        if len(known) > 1 and known[-1][1] != known[-2][1]:
            (a, fa), (b, fb) = known[-2:]
            secant = b - fb * (b - a) / (fb - fa)
            new = secant if low < secant < high else new
        width, x = abs(new - x), new
        if width <= 1e-11 * max(abs(x), ends[1] - ends[0]):
            break
    else:
        raise ConvergenceError(f"the transition between {ends[0]:.6g} and {ends[1]:.6g} was not located.")
    phi = one.phi(x, check=True)
    two.phi(x, check=True)
    residual = max(one.residual, two.residual)
    if not residual <= _ACCURATE:
        raise ConvergenceError(f"at the transition near {x:.6g} the equations hold to {residual:.1e} only.")
    return Crossing(x, width, before, phi, residual)
