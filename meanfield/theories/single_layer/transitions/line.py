"""Transitions along a line: where neighbouring solutions of a sweep differ, the extended system that explains it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.posterior import Posterior
from meanfield.posterior.swept import Swept
from meanfield.theories.single_layer.posterior import SingleNeuronPosterior
from meanfield.theories.single_layer.transitions.acceptance import Transition
from meanfield.theories.single_layer.transitions.line_outliers import Proposal, outlier_proposals, outlier_signature
from meanfield.theories.single_layer.transitions.transition import locate
from meanfield.validation import FloatArray

__all__ = ["transitions_along"]

_SAME = 0.3  # readouts further apart than this, relative to 1 + |a|, are not the same branch
_TWICE = 1e-6  # relative: nearer readouts are one code
_BESIDE = 1e-4  # of the interval: distance from a transition at which both sides are looked at again
_BESIDE_MERGER = 0.02  # the same where codes merge: nearer, h is so flat that solving gets hard
_MAX_DEPTH = 12  # halvings of an interval
_MAX_SOLVES = 24  # per interval
_SAME_PLACE = 1e-9


class _Point(NamedTuple):
    value: float
    posterior: SingleNeuronPosterior


def _point(value: float, posterior: Posterior) -> _Point:
    """A solution, each code once: a solver may return one that is nearly flat twice."""
    assert isinstance(posterior, SingleNeuronPosterior)
    s = posterior.solution
    if s.gaussian_covariance is None and len(s.weight) > 1:
        first = np.argmax(_distance(s.readout, s.readout) < _TWICE, axis=1)
        kept = np.unique(first)
        weight = np.bincount(first, s.weight, minlength=len(first))[kept]
        if len(kept) < len(first):
            s = replace(s, readout=s.readout[kept], weight=weight)
            posterior = SingleNeuronPosterior(posterior.network, posterior.task, posterior.tau, s)
    return _Point(value, posterior)


def transitions_along(diagram: Swept, max_solves: int = _MAX_SOLVES) -> tuple[Transition, ...]:
    """Transitions and label crossovers between the points of a one-axis `PhaseDiagram`, sorted by position.

    Empty at finite P and for a linear phi, where nothing is sharp. What cannot be explained by one of the known types
    is reported as a RuntimeWarning; `max_solves` is how many further points are solved between two neighbouring ones.

    Raises
    ------
    ValueError
        For a diagram with two axes, or over ``fractions`` as a whole.
    """
    if len(diagram.axes) != 1:
        raise ValueError(
            f"transitions are located along one parameter, but the diagram has {list(diagram.axes)}; sweep one of them."
        )
    (name, values) = next(iter(diagram.axes.items()))
    if name == "fractions":
        raise ValueError("transitions along fractions= are not located; sweep one fraction, fraction_<class>=.")
    if name == "n_samples" or math.isfinite(diagram.task.n_samples) or diagram.network.activation.parts == "gaussian":
        return ()
    points = [
        _point(float(values[i]), diagram.posterior(int(i))) for i in np.argsort(values) if diagram.certified[int(i)]
    ]
    pairs = pairwise(_regular(points))
    return _joined([item for left, right in pairs for item in _Interval(diagram, name, left, right, max_solves).found])


def _regular(points: list[_Point]) -> list[_Point]:
    """Without isolated points where the weights are less unique than on both sides (a code and its complement tie)."""
    free = [point.posterior.certificate.nullity for point in points]
    inside = range(1, len(points) - 1)
    isolated = {
        i for i in inside if points[i].posterior.scheme == "redundant" and free[i] > max(free[i - 1], free[i + 1])
    }
    return [point for i, point in enumerate(points) if i not in isolated]


def _joined(found: list[Transition]) -> tuple[Transition, ...]:
    """Sorted by position; the crossovers of an orbit, or one transition found twice, become one entry."""
    kept: list[Transition] = []
    for item in sorted(found, key=lambda item: item.value):
        last = kept[-1] if kept else None
        if last is None or last.kind != item.kind or item.value - last.value > _SAME_PLACE * (1 + abs(item.value)):
            kept.append(item)
        elif item.label not in last.label:
            codes = tuple(dict.fromkeys(last.codes + item.codes))
            kept[-1] = replace(last, label=f"{last.label}, {item.label}", codes=codes)
    return tuple(kept)


class _Proposal(NamedTuple):
    """Arguments of `locate`, and where to start."""

    kind: str
    start: _Point
    codes: tuple[int, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()


class _Interval:
    """What happens between two neighbouring points of a diagram."""

    def __init__(self, diagram: Swept, name: str, left: _Point, right: _Point, max_solves: int) -> None:
        self.diagram, self.name = diagram, name
        self.budget = max_solves
        self.unexplained: list[tuple[float, float]] = []
        self.found = self.between(left, right, 0)
        if self.unexplained:
            low, high = self.unexplained[0][0], self.unexplained[-1][1]
            warnings.warn(
                f"between {name} = {low:.8g} and {high:.8g} the phase changes in a way that none of the known types of "
                "transition explains (or there is no certified solution in between).",
                RuntimeWarning,
                stacklevel=4,
            )

    def between(self, left: _Point, right: _Point, depth: int) -> list[Transition]:
        """Everything that happens between two points."""
        if left.posterior.network.activation.parts == "codes":
            partner = _partners(left, right)
            if partner is not None:
                return self._crossovers(left, right, partner)
            proposals = _code_proposals(left, right)
        else:
            if outlier_signature(left.posterior) == outlier_signature(right.posterior):
                return []
            proposals = outlier_proposals(left.posterior, right.posterior)
        for kind, at_left, codes, pairs in proposals:
            transition = self._try(_Proposal(kind, left if at_left else right, codes, pairs), left, right)
            if transition is not None:
                return self._around(transition, left, right, depth)
        middle = None
        if depth < _MAX_DEPTH and self.budget > 0:
            middle = self._solved(0.5 * (left.value + right.value))
        if middle is None:
            self.unexplained.append((left.value, right.value))
            return []
        return self.between(left, middle, depth + 1) + self.between(middle, right, depth + 1)

    def _solved(self, value: float) -> _Point | None:
        self.budget -= 1
        try:
            posterior = self.diagram.solve(**{self.name: value})
        except (ConvergenceError, ValueError):
            return None
        return _point(value, posterior)

    def _try(self, proposal: _Proposal, left: _Point, right: _Point) -> Transition | None:
        post = proposal.start.posterior
        try:
            found = locate(
                proposal.kind,
                post.network,
                post.task,
                post.tau,
                self.name,
                post.solution,
                codes=proposal.codes,
                pairs=proposal.pairs,
                bracket=(left.value, right.value),
            )
        except (ConvergenceError, ValueError):
            return None
        if proposal.kind == "weight":  # the side it is started from is the one that has the codes
            leaving = proposal.start is left
            shown, _, verb = found.label.rpartition(" ")
            plural = "" if verb in ("enter", "leave") else "s"
            found = replace(found, label=f"{shown} {'leave' if leaving else 'enter'}{plural}")
        return found

    def _around(self, transition: Transition, left: _Point, right: _Point, depth: int) -> list[Transition]:
        """The transition, and what else happens on either side of it."""
        beside = (_BESIDE_MERGER if transition.kind == "merge" else _BESIDE) * (right.value - left.value)
        found = [transition]
        if depth == _MAX_DEPTH or self.budget <= 0:
            return found
        below, above = transition.value - beside, transition.value + beside
        if below > left.value and (point := self._solved(below)):
            found += self.between(left, point, depth + 1)
        if above < right.value and (point := self._solved(above)):
            found += self.between(point, right, depth + 1)
        return found

    def _crossovers(self, left: _Point, right: _Point, partner: list[int]) -> list[Transition]:
        """Labels that flip on a branch that is otherwise smooth."""
        found = []
        for i, j in enumerate(partner):
            before, after = left.posterior.codes[i].pattern, right.posterior.codes[j].pattern
            for c in (c for c in range(len(before)) if before[c] != after[c]):
                for proposal in (_Proposal("label", left, pairs=((i, c),)), _Proposal("label", right, pairs=((j, c),))):
                    transition = self._try(proposal, left, right)
                    if transition is not None:
                        found.append(transition)
                        break
        return found


# ---- codes -----------------------------------------------------------------------------------------------------------


def _distance(one: FloatArray, other: FloatArray) -> FloatArray:
    """(n, n') relative distances between readouts."""
    scale = 1.0 + np.linalg.norm(one, axis=1)[:, None]
    return np.asarray(np.linalg.norm(one[:, None] - other, axis=2) / scale)


def _partners(left: _Point, right: _Point) -> list[int] | None:
    """For each code on the left its continuation on the right; None if the sets of codes differ."""
    one, other = left.posterior.solution.readout, right.posterior.solution.readout
    if len(one) != len(other):
        return None
    distance = _distance(one, other)
    rows, columns = linear_sum_assignment(distance)
    moved = distance[rows, columns].max()
    apart = min(_separation(one), _separation(other))
    return list(map(int, columns)) if moved < min(_SAME, 0.5 * apart) else None


def _separation(readout: FloatArray) -> float:
    """Smallest relative distance between two codes (one: infinite)."""
    distance = _distance(readout, readout)
    return float(distance[~np.eye(len(readout), dtype=bool)].min(initial=np.inf))


def _code_proposals(left: _Point, right: _Point) -> Iterator[Proposal]:
    """What may have happened to codes that exist on one side only."""
    at_left = len(left.posterior.codes) > len(right.posterior.codes)
    rich, poor = (left, right) if at_left else (right, left)
    many, few = rich.posterior.solution.readout, poor.posterior.solution.readout
    if len(many) == len(few):
        return
    distance = _distance(few, many)
    rows, columns = linear_sum_assignment(distance)
    extra = tuple(int(j) for j in range(len(many)) if j not in columns)
    if distance[rows, columns].max() < _SAME:
        yield "weight", at_left, extra, ()
    # The codes whose mean is nearest to one of the few, and whose symmetry makes their weights equal.
    weight = rich.posterior.solution.weight
    for k in np.argsort(distance.min(axis=1)):
        for size in range(len(many) - len(few) + 1, 1, -1):
            group = tuple(int(j) for j in np.argsort(distance[k])[:size])
            if np.ptp(weight[list(group)]) < 1e-6:
                yield "merge", at_left, group, ()
    if len(extra) > 1:
        yield from (("weight", at_left, (j,), ()) for j in extra)
