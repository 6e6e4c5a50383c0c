"""What distinguishes phases with outliers, and which transitions may lie between two of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment

from meanfield.theories.single_layer.posterior import SingleNeuronPosterior
from meanfield.theories.single_layer.transitions.transition import tight_constraints
from meanfield.validation import FloatArray

__all__ = ["Proposal", "outlier_proposals", "outlier_signature"]

# kind of transition, whether to start from the left, codes, pairs: arguments of `locate`
Proposal = tuple[str, bool, tuple[int, ...], tuple[tuple[int, int], ...]]

_DRIVEN = 1e-6  # relative: classes that drive an outlier
_PRESENT = 1e-9  # weight of a code that is part of the bulk
_CARRIES = 1e-7  # relative weight of an outlier
_ALIKE = 1e-4  # directions closer than this are one outlier
_NEARLY = 4  # classes, nearest to driving an outlier, that are tried


def _outliers(post: SingleNeuronPosterior) -> tuple[FloatArray, FloatArray, list[int]]:
    """Directions (o, m), kappa_oc = t_c.u_o over its largest (o, C), and their places in the solution."""
    s = post.solution
    kept: list[int] = []
    for i in np.argsort(-s.outlier_weight):
        u = s.outlier_direction[i]
        carries = s.outlier_weight[i] > _CARRIES * s.outlier_weight.max()
        if carries and all(np.abs(u - s.outlier_direction[j]).max() > _ALIKE for j in kept):
            kept.append(int(i))
    u = s.outlier_direction[kept]
    kappa = u @ s.t.T
    return u, kappa / np.abs(kappa).max(axis=1, keepdims=True, initial=1e-300), kept


def _driven(post: SingleNeuronPosterior, kappa: FloatArray) -> FloatArray:
    """Which classes act on which outlier, (o, C) with the sign of kappa where G grows on that side, else 0."""
    g_minus, g_plus = post.network.activation.growth
    sign = np.where(np.abs(kappa) > _DRIVEN, np.sign(kappa), 0.0)
    return np.where(np.where(sign > 0, g_plus, g_minus) > 0, sign, 0.0)


def _cone(post: SingleNeuronPosterior) -> set[tuple[int, int]] | None:
    """Norms and angles that hold t back, where these describe the phase (see `ConeSystem`); else None."""
    g_minus, g_plus = post.network.activation.growth
    t = post.solution.t * post.network.sigma_a
    tight = tight_constraints(t, post.task.fractions, g_plus * post.network.k)
    every = len(t) * (len(t) + 1) // 2
    return None if tight is None or (g_minus > 0 and len(tight) < every) else tight


def outlier_signature(post: SingleNeuronPosterior) -> tuple[int, object]:
    """What a phase with outliers is: how many codes the bulk consists of, and what tells its outliers from others."""
    return int(np.sum(post.solution.weight > _PRESENT)), _of_outliers(post)


def _of_outliers(post: SingleNeuronPosterior) -> object:
    """How many outliers there are and who drives them, or which constraints span a cone of them.

    In a cone that is not described by norms and angles the decomposition into outliers is not unique: "degenerate".
    """
    tight = _cone(post)
    if tight is not None and any(c != d for c, d in tight):
        return "cone", tuple(sorted(tight))
    if post.certificate.nullity:
        return "degenerate"
    _, kappa, _ = _outliers(post)
    return tuple(sorted(tuple(row) for row in _driven(post, kappa)))


def outlier_proposals(left: SingleNeuronPosterior, right: SingleNeuronPosterior) -> Iterator[Proposal]:
    """Transitions that may lie between two posteriors with different signatures, the likeliest first."""
    sides = ((True, left, right), (False, right, left))
    cones = {at_left: _cone(post) for at_left, post, _ in sides}
    if cones[True] is not None or cones[False] is not None:
        # A side that is no cone has isolated outliers: none of the angles is active there.
        n_classes = left.task.n_classes
        norms = {(c, c) for c in range(n_classes)}
        one, other = (norms if cone is None else cone for cone in cones.values())
        changed = tuple(sorted(one ^ other))
        if changed:
            yield from (("cone", at_left, (), changed) for at_left, *_ in sides)
            yield from (("cone", at_left, (), (pair,)) for pair in changed for at_left, *_ in sides)
    for at_left, here, there in sides:
        if _of_outliers(here) == "degenerate":
            continue
        u, kappa, place = _outliers(here)
        v, other_kappa, _ = _outliers(there)
        if len(u) > len(v):
            kept = set(linear_sum_assignment(_distance(v, u))[1]) if len(v) else set()
            extra = tuple(place[j] for j in range(len(u)) if j not in kept)
            yield "outlier", at_left, extra, ()
            if len(extra) > 1:
                yield from (("outlier", at_left, (j,), ()) for j in extra)
        if len(u) == len(v):
            _, columns = linear_sum_assignment(_distance(u, v))
            changed_rows = _driven(here, kappa) != _driven(there, other_kappa)[columns]
            pairs = tuple((place[i], int(c)) for i, c in np.argwhere(changed_rows))
            if pairs:
                yield "driven", at_left, (), pairs
        # Towards a cone: a class that nearly drives an outlier, alone or together with another.
        order = np.argsort(np.abs(kappa).ravel())[:_NEARLY]
        nearly = [(place[i], int(c)) for i, c in (np.unravel_index(int(n), kappa.shape) for n in order)]
        yield from (("driven", at_left, (), pairs) for pairs in combinations(nearly, 1))
        yield from (("driven", at_left, (), pairs) for pairs in combinations(nearly, 2))


def _distance(one: FloatArray, other: FloatArray) -> FloatArray:
    return np.asarray(np.linalg.norm(one[:, None] - other, axis=2))
