"""Descents of the cost of a law of codes, for the reduced problem (THEORY.md, "P -> infinity, beta = 1 / L").

At given kappa the maximum over (a, h) is one over laws of codes, linear in the law and in t, so that it and the minimum
over t change places; kappa is then the best one for the law. Minus the reduced problem is the least cost

    L/2 tr (H / Gamma)^(1/L) + <|a|^2> / 2 sigma_a^2     with     y_c = <a phibar(h_c)>,     H = <w w^T>,

or, at the best readouts a, of  L/2 tr (H / Gamma)^(1/L) + 1/2 tr y^T (sigma_a^2 K)^-1 y,  K = <phibar phibar^T>. The
first is concave in the law: C m + 1 codes are enough. Fields that leave the directions they span cost infinitely much
to first order beyond L = 2, so that there are minima for every number of directions, and descents of laws along all of
them find those along few ones hardly ever: each number has descents of its own.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np

from meanfield.numerics.side_by_side import minimise_rows
from meanfield.theories.deep.large_p.reduced_cost import End, LawCost, Reduction
from meanfield.validation import FloatArray

__all__ = ["LEAST", "SAME", "End", "descend", "descents"]


class Stage(NamedTuple):
    """Of all descents side by side.

    Attributes
    ----------
    eps : float
        Of the mean eigenvalue of H at first.
    delta : float
        Of the square of the largest |phi| times sigma_a^2.
    tolerance, steps : float, int
        Of the descents.
    kept : float
        Part of them that goes on, the lowest ones that differ.
    """

    eps: float
    delta: float
    tolerance: float
    steps: int
    kept: float = 1.0


# eps is the last to fall: fields of no extent are a minimum of their own without it.
_RACE = (
    Stage(1e-2, 1e-3, 1e-2, 30),
    Stage(1e-2, 1e-5, 1e-2, 60, 1 / 3),
    Stage(1e-3, 1e-6, 1e-3, 100, 1 / 6),
    Stage(1e-4, 1e-7, 1e-3, 200, 1 / 12),
    Stage(1e-7, 1e-8, 1e-5, 300, 1 / 12),
)
_SHARP = (Stage(1e-7, 1e-8, 1e-9, 500), Stage(1e-12, 1e-8, 1e-9, 500))
_FEWEST = 4  # descents go on
_SAME_COST = 1e-6  # relative
_MOST_CODES = 16
_MOST_NUMBERS = 4e6  # in the inverse Hessians of descents side by side
LEAST = 1e-4  # weight of a code
_ACTIVE = 0.02  # weight of a code of saturated neurons
SAME = 0.005  # of the range of phi: activations of codes that are one


def descents(reduction: Reduction, words: FloatArray, weight: FloatArray, starts: int, few: bool = True) -> list[End]:
    """Ends from the codes of saturated neurons, with `weight`, and from `starts` random laws along every number of
    directions (all of them only, unless `few`), the lowest first."""
    rng = np.random.default_rng(0)
    n_classes, m = reduction.problem.y.shape
    saturated = 1.1 * np.sign(words[weight > _ACTIVE] - reduction.middle)
    least = max(int(np.linalg.matrix_rank(reduction.problem.y)), len(saturated))  # fewer cannot make these targets
    count, directions = max(least, min(n_classes * m + 1, _MOST_CODES)), n_classes - (not reduction.odd)
    ends = []
    for rank in range(1 if few else directions, directions + 1):
        cost = LawCost(reduction, count, rank)
        x = cost.random(rng, max(1, min(starts, int(_MOST_NUMBERS / cost.unknowns**2))))
        if cost.all:
            x = np.vstack([x, cost.planted(x[0], saturated, weight[weight > _ACTIVE])])
        ends += _ends(cost, _race(cost, x, _RACE))
    return sorted(ends, key=lambda end: end.cost)


def descend(reduction: Reduction, field: FloatArray, weight: FloatArray) -> End | None:
    """The end of a descent from codes with these fields and weights, little smoothed; None where codes do not make the
    targets."""
    cost = LawCost(reduction, len(weight), len(reduction.p))
    x = np.concatenate([field.ravel(), np.sqrt(weight / weight.sum())])[None]
    return next(iter(_ends(cost, _race(cost, x, _SHARP))), None)


def _race(cost: LawCost, x: FloatArray, stages: tuple[Stage, ...]) -> FloatArray:
    """The rows that are left."""
    first, size = len(x), cost.size(x)
    for stage in stages:
        x, value = minimise_rows(partial(cost, delta=stage.delta), x, stage.eps * size, stage.tolerance, stage.steps)
        order = np.argsort(value)[: np.isfinite(value).sum()]
        apart = np.diff(value[order], prepend=-math.inf) > _SAME_COST * np.abs(value[order])
        kept = order[apart][: max(_FEWEST, math.ceil(stage.kept * first))]
        x, size = x[kept], size[kept]
    return x


def _ends(cost: LawCost, x: FloatArray) -> list[End]:
    """The laws of rows of x that make the targets, without smoothing."""
    ends = [cost.exact(*_different(cost.reduction, *law)) for law in zip(*cost.parts(x)[:2], strict=True)]
    return [end for end in ends if end.cost < math.inf]


def _different(reduction: Reduction, field: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Codes that have weight, those with the same activations (up to their sign, if phi is odd) as one."""
    phi = reduction.problem.phi
    kept = weight > LEAST
    field, weight = field[kept], weight[kept]
    mean = reduction.mean(field)[0]
    least = SAME * (phi.supremum - phi.infimum)
    same = np.abs(mean[:, None] - mean).max(axis=-1) <= least
    mirrored = np.abs(mean[:, None] + mean).max(axis=-1) <= least if reduction.odd else np.zeros_like(same)
    first = np.argmax(same | mirrored, axis=1)  # the first one that is the same
    field = np.where(mirrored[np.arange(len(first)), first][:, None], -field, field)
    fields, weights = [], []
    for k in np.unique(first):
        members = first == k
        weights.append(float(weight[members].sum()))
        fields.append(weight[members] @ field[members] / weights[-1])
    return np.array(fields), np.array(weights) / sum(weights)
