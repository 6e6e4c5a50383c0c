"""Transitions along a line: where neighbouring solutions of a sweep differ, the extended system that explains it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from meanfield.posterior import SingleNeuronPosterior
from meanfield.result import ConvergenceError
from meanfield.solvers.acceptance import Transition
from meanfield.solvers.transition import locate
from meanfield.validation import FloatArray

__all__ = ["transitions_along"]

_SAME = 0.3  # readouts further apart than this, relative to 1 + |a|, are not the same branch
_TWICE = 1e-6  # relative: nearer readouts are one code
_BESIDE = 1e-4  # of the interval: distance from a transition at which both sides are looked at again
_BESIDE_MERGER = 0.02  # the same where codes merge: nearer, h is so flat that solving gets hard
_MAX_DEPTH = 12  # halvings of an interval
_SAME_PLACE = 1e-9
_DRIVEN = 1e-7  # relative: classes that drive an outlier


class _Point(NamedTuple):
    value: float
    posterior: SingleNeuronPosterior


def _point(value: float, posterior: SingleNeuronPosterior) -> _Point:
    """A solution, each code once: a solver may return one that is nearly flat twice."""
    s = posterior.solution
    if s.gaussian_covariance is None and len(s.weight) > 1:
        first = np.argmax(_distance(s.readout, s.readout) < _TWICE, axis=1)
        kept = np.unique(first)
        weight = np.bincount(first, s.weight, minlength=len(first))[kept]
        if len(kept) < len(first):
            s = replace(s, readout=s.readout[kept], weight=weight)
            posterior = SingleNeuronPosterior(posterior.network, posterior.task, posterior.tau, s)
    return _Point(value, posterior)


def transitions_along(diagram: Any) -> tuple[Transition, ...]:
    """Transitions and label crossovers between the points of a one-axis `PhaseDiagram`, sorted by position.

    Empty at finite P and for a linear phi, where nothing is sharp. What cannot be explained by one of the known types
    is reported as a RuntimeWarning.

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
    found: list[Transition] = []
    for left, right in pairwise(_regular(points)):
        found += _Line(diagram, name).between(left, right, 0)
    return _joined(found)


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


class _Line(NamedTuple):
    diagram: Any
    name: str

    def between(self, left: _Point, right: _Point, depth: int) -> list[Transition]:
        """Everything that happens between two points."""
        if left.posterior.network.activation.parts == "codes":
            partner = _partners(left, right)
            if partner is not None:
                return self._crossovers(left, right, partner)
            proposals = _code_proposals(left, right)
        else:
            if _outlier_signature(left) == _outlier_signature(right):
                return []
            proposals = _outlier_proposals(left, right)
        for proposal in proposals:
            transition = self._try(proposal, left, right)
            if transition is not None:
                return self._around(transition, left, right, depth)
        if depth == _MAX_DEPTH:
            warnings.warn(
                f"the phase changes between {self.name} = {left.value:.8g} and {right.value:.8g} in a way that none of "
                "the known types of transition explains.",
                RuntimeWarning,
                stacklevel=2,
            )
            return []
        middle = self._solved(0.5 * (left.value + right.value))
        if middle is None:
            warnings.warn(
                f"a transition between {self.name} = {left.value:.8g} and {right.value:.8g} was not located: "
                "there is no certified solution in the middle.",
                RuntimeWarning,
                stacklevel=2,
            )
            return []
        return self.between(left, middle, depth + 1) + self.between(middle, right, depth + 1)

    def _solved(self, value: float) -> _Point | None:
        try:
            posterior = self.diagram.solve(**{self.name: value})
        except (ConvergenceError, ValueError):
            return None
        return _point(value, posterior)

    def _try(self, proposal: _Proposal, left: _Point, right: _Point) -> Transition | None:
        post = proposal.start.posterior
        try:
            return locate(
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

    def _around(self, transition: Transition, left: _Point, right: _Point, depth: int) -> list[Transition]:
        """The transition, and what else happens on either side of it."""
        beside = (_BESIDE_MERGER if transition.kind == "merge" else _BESIDE) * (right.value - left.value)
        found = [transition]
        if depth == _MAX_DEPTH:
            return found
        for value, ends in ((transition.value - beside, (left, None)), (transition.value + beside, (None, right))):
            if not left.value < value < right.value:
                continue
            point = self._solved(value)
            if point is not None:
                found += self.between(ends[0] or point, ends[1] or point, depth + 1)
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


def _code_proposals(left: _Point, right: _Point) -> Iterator[_Proposal]:
    """What may have happened to codes that exist on one side only."""
    rich, poor = (left, right) if len(left.posterior.codes) > len(right.posterior.codes) else (right, left)
    many, few = rich.posterior.solution.readout, poor.posterior.solution.readout
    if len(many) == len(few):
        return
    distance = _distance(few, many)
    rows, columns = linear_sum_assignment(distance)
    extra = tuple(int(j) for j in range(len(many)) if j not in columns)
    if distance[rows, columns].max() < _SAME:
        yield _Proposal("weight", rich, extra)
    # The codes whose mean is nearest to one of the few, and whose symmetry makes their weights equal.
    weight = rich.posterior.solution.weight
    for k in np.argsort(distance.min(axis=1)):
        for size in range(len(many) - len(few) + 1, 1, -1):
            group = tuple(int(j) for j in np.argsort(distance[k])[:size])
            if np.ptp(weight[list(group)]) < 1e-6:
                yield _Proposal("merge", rich, group)
    if len(extra) > 1:
        yield from (_Proposal("weight", rich, (j,)) for j in extra)


# ---- outliers --------------------------------------------------------------------------------------------------------


def _outliers(point: _Point) -> tuple[FloatArray, FloatArray]:
    """Directions (o, m), and which classes drive them (o, C)."""
    s = point.posterior.solution
    u = s.outlier_direction[s.outlier_weight > 1e-9 * max(1.0, s.outlier_weight.max(initial=0.0))]
    g_minus, g_plus = point.posterior.network.activation.growth
    kappa = u @ s.t.T
    pull = np.where(kappa > 0, g_plus, g_minus) * np.abs(kappa)
    return u, pull > _DRIVEN * np.abs(kappa).max(initial=1.0)


def _links(point: _Point) -> set[tuple[int, int]]:
    """Pairs of classes (c >= c') that drive an outlier together: what is unique about a cone of outliers."""
    _, driven = _outliers(point)
    return {(int(c), int(d)) for row in driven for c in np.flatnonzero(row) for d in np.flatnonzero(row) if c >= d}


def _outlier_signature(point: _Point) -> Any:
    if _may_form_cones(point):
        return frozenset(_links(point))
    _, driven = _outliers(point)
    return tuple(sorted(tuple(map(bool, row)) for row in driven))


def _may_form_cones(point: _Point) -> bool:
    """One-hot targets and ReLU-type growth: norms and angles of t are what is constrained."""
    post = point.posterior
    if not post.task.is_one_hot or post.network.activation.growth[0] > 0:
        return False
    gram = post.solution.t @ post.solution.t.T
    cosine = gram / np.sqrt(np.outer(np.diag(gram), np.diag(gram)))
    norm = post.network.activation.growth[1] * post.network.k * post.task.fractions * np.diag(gram)
    tight = np.abs(norm * post.network.sigma_a**2 - 1.0).max() < 1e-6
    return bool(tight and (cosine - np.eye(len(gram))).max() < 1e-6)


def _outlier_proposals(left: _Point, right: _Point) -> Iterator[_Proposal]:
    if _may_form_cones(left) and _may_form_cones(right):
        pairs = tuple((c, d) for c, d in sorted(_links(left) ^ _links(right)) if c != d)
        if pairs:
            yield _Proposal("cone", left, pairs=pairs)
            yield _Proposal("cone", right, pairs=pairs)
            yield from (_Proposal("cone", side, pairs=(pair,)) for pair in pairs for side in (left, right))
        return
    (u, driven), (v, driven_right) = _outliers(left), _outliers(right)
    if len(u) == len(v):
        _, columns = linear_sum_assignment(_distance(u, v))
        pairs = tuple((i, int(c)) for i, j in enumerate(columns) for c in np.flatnonzero(driven[i] != driven_right[j]))
        back = tuple((int(columns[i]), c) for i, c in pairs)
        if pairs:
            yield _Proposal("driven", left, pairs=pairs)
            yield _Proposal("driven", right, pairs=back)
        return
    rich, many, few = (left, u, v) if len(u) > len(v) else (right, v, u)
    kept = linear_sum_assignment(_distance(few, many))[1] if len(few) else np.empty(0)
    extra = tuple(j for j in range(len(many)) if j not in kept)
    yield _Proposal("outlier", rich, extra)
    if len(extra) > 1:
        yield from (_Proposal("outlier", rich, (j,)) for j in extra)
