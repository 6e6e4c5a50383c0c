"""A branch of saddles followed from a network that hardly learns (relu/THEORY.md, "Following a branch").

Targets are scaled from near zero, where no neuron condenses, to their size, at a moderate number of samples, and the
number of samples to its own after that. Where the branch turns back on its way it may reach the targets several times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from meanfield.numerics.limits import check_time
from meanfield.theories.deep.relu.allowance import TooMuchWork, spent, unspent
from meanfield.theories.deep.relu.average import ROUGH
from meanfield.theories.deep.relu.coordinates import ReluOrder
from meanfield.theories.deep.relu.outlier import above
from meanfield.theories.deep.relu.search.bare import BareSystem, words_on_the_way
from meanfield.theories.deep.relu.search.start import prior_kernels
from meanfield.theories.deep.relu.search.walk import BranchLost, Point, Report, Walk
from meanfield.theories.deep.relu.setting import BulkDiverges
from meanfield.theories.deep.relu.system import ReluProblem
from meanfield.validation import FloatArray

__all__ = ["BranchLost", "Course", "followed", "grown"]

_MODERATE, _MODERATE_CLASS = 220.0, 60.0  # samples, and of the smallest class, at which targets are scaled
_FIRST_GAIN = 0.7
_BEYOND = 1.3  # of the targets: so far a branch is followed that may turn back to them
_TURNED = 0.005  # of ln of the targets: a branch that goes back by as much has turned
_BRANCH = "the branch from targets that are hardly learned"
_SHARE = 1.0  # of the work done: what may be done for another solution
_LEFT = 0.5  # and of what is still allowed: Newton's method on fine lattices comes afterwards


@dataclass(frozen=True, eq=False)
class Course:
    """What a branch has led to.

    Attributes
    ----------
    ends : list of (BareSystem, array)
        Solutions, from the first to the last along the branch.
    folds : tuple of float
        Targets, in units of their own, at which it has turned: up, back, up ...
    searched : str
        How other solutions were looked for.
    """

    ends: list[tuple[BareSystem, FloatArray]]
    folds: tuple[float, ...]
    searched: str


class _Turns:
    """Where the parameter of a branch has had its extremes."""

    def __init__(self) -> None:
        self.found: list[float] = []
        self._extreme, self._sign = -math.inf, 1.0

    def note(self, mu: float) -> None:
        if self._sign * (mu - self._extreme) > 0.0:
            self._extreme = mu
        elif self._sign * (self._extreme - mu) > _TURNED:
            self.found.append(self._extreme)
            self._extreme, self._sign = mu, -self._sign


def followed(problem: ReluProblem, report: Report) -> Course:
    """Where the branch leads to.

    Raises
    ------
    BranchLost
        If it does not come to its end.
    """
    smallest = float((problem.n / problem.n_samples).min())
    samples = min(max(_MODERATE, _MODERATE_CLASS / smallest), problem.n_samples)
    if problem.n_samples < 1.3 * samples:
        samples = problem.n_samples
    first = problem.at(samples)
    turns = _Turns()
    way = _targets(first, 0.0, report)
    before = spent()
    last, forwards = _walked(way, *_lazy(first, report), turns)
    ends = [grown(problem, last.system, last.x, report)]
    if turns.found:
        searched = _crossed(turns.found, samples)
    else:
        searched = (
            f"the branch from targets that are hardly learned does not turn back on its way to {_BEYOND:g} times these"
        )
    work = min(_SHARE * (spent() - before), _LEFT * unspent())
    try:
        others = _beyond(first, last, forwards, turns, report, spent() + work)
        for other in others:
            ends.append(grown(problem, other.system, other.x, report))
        if others:
            searched = _crossed(turns.found, samples)
    except (BranchLost, TooMuchWork) as error:
        if not turns.found:
            searched = f"{_BRANCH} does not turn back on its way to these targets"
        reason = str(error) or TooMuchWork.WORDS
        searched += f"; beyond them it was not followed to its end ({reason})"
    return Course(ends, tuple(math.exp(mu) for mu in turns.found), searched)


def _crossed(folds: list[float], samples: float) -> str:
    places = ", ".join(f"{math.exp(mu):.3g}" for mu in folds)
    return (
        f"{_BRANCH} turns back in first-order transitions, near {places} of these targets (at {samples:.4g} samples): "
        "between two such places both solutions exist"
    )


def _targets(problem: ReluProblem, end: float, report: Report) -> Walk:
    """Along ln of the scale of the targets."""
    return Walk(
        lambda mu: replace(problem, y=math.exp(mu) * problem.y), end, report,
        lambda mu: f"{math.exp(mu):.3g} of the targets ({problem.n_samples:.4g} samples)",
    )  # fmt: skip


def _walked(way: Walk, system: BareSystem, x: FloatArray, mu: float, turns: _Turns) -> tuple[Point, FloatArray]:
    """The end of a walk, and the direction there."""
    last = way.start(system, x, mu)
    direction = np.append(np.zeros(len(last.x)), 1.0)
    try:
        for point, forwards in way.points(last):
            last, direction = point, forwards
            turns.note(point.mu)
    except TooMuchWork:
        raise BranchLost(f"{TooMuchWork.WORDS}, at {way.place(last.mu)}") from None
    return last, direction


def grown(problem: ReluProblem, system: BareSystem, x: FloatArray, report: Report) -> tuple[BareSystem, FloatArray]:
    """The solution at the problem's own number of samples, from that at another.

    Raises
    ------
    BranchLost
    """
    samples = system.problem.n_samples
    if samples < problem.n_samples:
        end = math.log(problem.n_samples)
        way = Walk(lambda mu: problem.at(math.exp(mu)), end, report, lambda mu: f"{math.exp(mu):.4g} samples")
        point, _ = _walked(way, system, x, math.log(samples), _Turns())
        system, x = point.system, point.x
    return system.moved(problem), x


def _beyond(
    problem: ReluProblem, point: Point, forwards: FloatArray, turns: _Turns, report: Report, most: float
) -> list[Point]:
    """Solutions at the targets that the branch comes to again, upwards, before it reaches more than them."""
    found, before, way, back = [], point, _targets(problem, math.log(_BEYOND), report), _targets(problem, 0.0, report)
    for other, _ in way.points(point, forwards):
        if spent() > most:
            raise TooMuchWork
        turns.note(other.mu)
        if before.mu < 0.0 <= other.mu:
            # The rest of the way to the targets themselves, from the last point below them.
            last, _ = _walked(back, before.system, before.x, before.mu, _Turns())
            found.append(last)
        before = other
    return found


def _lazy(problem: ReluProblem, report: Report) -> tuple[BareSystem, FloatArray, float]:
    """Where the targets are so small that no code is near to condensing, and ln of their scale."""
    depth, n_classes, n, s = problem.depth, len(problem.n), problem.n, problem.readout_variance
    words = words_on_the_way(problem)
    prior = prior_kernels(problem)
    kernel = np.array([np.full((n_classes, n_classes), k) + 0.03 * k * np.eye(n_classes) for k, _ in prior])
    d = np.array([np.full(n_classes, rest) for _, rest in prior])
    response = s * (kernel[-1] * n + np.diag(d[-1])) + problem.tau * np.eye(n_classes)
    unit = np.linalg.solve(response, problem.y)
    scale, o = 0.9, len(words)
    while scale > 1e-8:
        check_time()
        scale *= 0.7
        system = BareSystem(replace(problem, y=scale * problem.y), words, np.zeros((depth, o), dtype=bool))
        order = replace(problem.nothing(o), kernel=kernel[:-1].copy(), d=d[:-1].copy(), t=scale * unit)
        try:
            for layer in range(depth - 1, -1, -1):
                if _largest_gain(system, order, layer) > _FIRST_GAIN:
                    raise BulkDiverges("near to condensing.")
                if layer:
                    found = system.full.layer(order, layer, ROUGH)
                    order.tilde[layer - 1] = problem.push[layer - 1] * found.h_h
                    order.delta[layer - 1] = problem.push[layer - 1] * found.hh
            x = system.pack(order)
            point = _targets(problem, 0.0, report).corrected(system, x, math.log(scale), None, None, 25)
            if point is not None:
                return point.system, point.x, point.mu
        except BulkDiverges:
            pass
    raise BranchLost("there are no targets so small that nothing condenses")


def _largest_gain(system: BareSystem, order: ReluOrder, layer: int) -> float:
    setting = system.full.setting(order, layer)
    words = (*system.words, "1" * len(setting.n))
    return max(above(setting, word)[1].gain for word in words)
