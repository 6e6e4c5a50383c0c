"""Descents of the cost of a law of codes, for the reduced problem (THEORY.md, "P -> infinity, beta = 1 / L").

At given kappa the maximum over (a, h) is one over laws of codes, linear in the law and in t, so that it and the minimum
over t change places; kappa is then the best one for the law. Minus the reduced problem is the least cost

    L/2 tr (H / Gamma)^(1/L) + <|a|^2> / 2 sigma_a^2     with     y_c = <a phibar(h_c)>,     H = <w w^T>,

or, at the best readouts a, of  L/2 tr (H / Gamma)^(1/L) + 1/2 tr y^T (sigma_a^2 K)^-1 y,  K = <phibar phibar^T>. The
first is concave in the law: C m + 1 codes are enough. Both terms are smoothed at first (H + eps, sigma_a^2 K + delta),
as there is no slope where fields span few directions or codes cannot make the targets.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np
from scipy.optimize import minimize

from meanfield.numerics.limits import check_time
from meanfield.theories.deep.rules import NotCovered
from meanfield.theories.deep.system import DeepProblem
from meanfield.validation import FloatArray

__all__ = ["LEAST", "SAME", "SHARP", "End", "descend", "descents"]

# eps, of the mean eigenvalue of H at first, and delta, of the square of the largest |phi| times sigma_a^2. eps is the
# last to fall: fields of no extent are a minimum of their own without it.
_SMOOTH = ((1e-1, 1e-2), (1e-2, 1e-4), (1e-2, 1e-6), (1e-4, 1e-7), (1e-7, 1e-8), (1e-12, 1e-8))
# The same from where the penalty is nearly linear in H and the problem nearly convex, and little smoothed at once.
_SLOWLY = (
    (1e1, 1e-2), (3.0, 1e-2), (1.0, 1e-3), (0.3, 1e-3), (1e-1, 1e-4), (3e-2, 1e-5), (1e-2, 1e-6), (1e-3, 1e-6),
    *_SMOOTH[-3:],
)  # fmt: skip
SHARP = _SMOOTH[-2:]
_STEPS = 300  # of each
_MOST_CODES = 16
LEAST = 1e-4  # weight of a code
SAME = 0.02  # of the range of phi: activations of codes that are one
_COMMON = 3.0  # field of a code that is on in all classes
_FEW = 2  # number of the start after which slow descents begin: a search from few starts has none
_RANK = 1e-9  # of the largest eigenvalue


class Reduction(Protocol):
    """The reduced problem: fractions p (C,), middle of the range of phi, whether it is odd, Gamma, w = h field_root."""

    problem: DeepProblem
    p: FloatArray
    middle: float
    odd: bool
    gamma: float
    field_root: FloatArray

    def mean(self, h: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]: ...
    def root_field(self, h: FloatArray) -> FloatArray: ...


class End(NamedTuple):
    """Where a descent ended: cost, and codes that differ.

    Attributes
    ----------
    cost : float
    t : (C, m) array
    field : (n, C) array
    weight : (n,) array
    """

    cost: float
    t: FloatArray
    field: FloatArray
    weight: FloatArray


def descents(reduction: Reduction, words: FloatArray, weight: FloatArray, starts: int) -> list[End]:
    """Ends from the codes of saturated neurons, with `weight`, and from as many random ones, the lowest first."""
    rng = np.random.default_rng(0)
    n_classes, m = reduction.problem.y.shape
    least = int(np.linalg.matrix_rank(reduction.problem.y))  # fewer codes cannot make these targets
    most = max(least, min(n_classes * m + 1, _MOST_CODES))
    active = weight > 0.02
    signs = np.sign(words - reduction.middle)
    found = [descend(reduction, 1.1 * signs[active], weight[active])]
    for k in range(starts):
        count = least + k // 2 % (most - least + 1)
        if k % 4 == 3 and not reduction.odd:  # many along one direction, one on in all classes: its fields cost nothing
            field = 1.5 * np.outer(rng.normal(size=most), rng.normal(size=n_classes)) + rng.normal(size=(most, 1))
            field = np.vstack([field, np.full(n_classes, _COMMON)])
        elif k % 2:  # along few directions, which many layers favour and random codes do not lead to
            rank = 1 + (k // 2 if reduction.odd else k // 4) % max(1, n_classes - 2)
            field = 1.5 * rng.normal(size=(count, rank)) @ rng.normal(size=(rank, n_classes)) / math.sqrt(rank)
            field = field if reduction.odd else field + rng.normal(size=(count, 1))
        else:
            field = rng.choice([-1.0, 1.0], size=(count, n_classes)) * rng.uniform(0.3, 2.0)
            field = field + 0.2 * rng.normal(size=field.shape)
        slowly = k > _FEW and k % 4 == 2
        found.append(descend(reduction, field, rng.uniform(0.5, 1.0, len(field)), _SLOWLY if slowly else _SMOOTH))
    return sorted((end for end in found if end is not None and end.cost < math.inf), key=lambda end: end.cost)


def descend(
    reduction: Reduction, field: FloatArray, weight: FloatArray, smooth: tuple[tuple[float, float], ...] = _SMOOTH
) -> End | None:
    """The end of a descent from codes with these fields and weights, less and less smoothed; None where numbers do not
    bear it."""
    shape, cost = field.shape, _Cost(reduction)
    x = np.concatenate([field.ravel(), np.log(weight / weight.sum())])
    size = cost.size(field, weight / weight.sum())
    for eps, delta in smooth:
        check_time()
        try:
            x = minimize(
                cost, x, args=(shape, eps * size, delta), jac=True, method="BFGS", options={"maxiter": _STEPS}
            ).x
        except (NotCovered, np.linalg.LinAlgError):
            return None
        if not np.isfinite(x).all():
            return None
    field, weight = _different(reduction, *cost.split(x, shape))
    t, value = cost.exact(field, weight)
    return End(value, t, field, weight)


def _different(reduction: Reduction, field: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Codes that have weight, those with the same activations as one."""
    phi = reduction.problem.phi
    kept = weight > LEAST
    field, weight = field[kept], weight[kept]
    mean = reduction.mean(field)[0]
    apart = np.abs(mean[:, None] - mean).max(axis=-1) > SAME * (phi.supremum - phi.infimum)
    first = np.array([int(np.argmin(row)) for row in apart])  # the first one that is the same
    fields, weights = [], []
    for k in np.unique(first):
        members = first == k
        weights.append(float(weight[members].sum()))
        fields.append(weight[members] @ field[members] / weights[-1])
    return np.array(fields), np.array(weights) / sum(weights)


class _Cost:
    """The smoothed cost, and its gradient, at x = (fields, ln weights but for a constant)."""

    def __init__(self, reduction: Reduction) -> None:
        self.reduction, self.depth = reduction, reduction.problem.depth
        self.variance, self.y = reduction.problem.readout_variance, reduction.problem.y
        phi = reduction.problem.phi
        self.square = self.variance * max(abs(phi.infimum), abs(phi.supremum)) ** 2

    def split(self, x: FloatArray, shape: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
        """Fields and weights."""
        field, log = x[: math.prod(shape)].reshape(shape), x[math.prod(shape) :]
        weight = np.exp(log - log.max())
        return field, weight / weight.sum()

    def size(self, field: FloatArray, weight: FloatArray) -> float:
        """Mean eigenvalue of H / Gamma."""
        w = self.reduction.root_field(field)
        return float(weight @ (w**2).sum(axis=1)) / (field.shape[1] * self.reduction.gamma)

    def __call__(self, x: FloatArray, shape: tuple[int, ...], eps: float, delta: float) -> tuple[float, FloatArray]:
        reduction, depth = self.reduction, self.depth
        field, weight = self.split(x, shape)
        w = reduction.root_field(field)
        values, vectors = np.linalg.eigh((w.T * weight) @ w / reduction.gamma)
        values = np.maximum(values, 0.0) + eps
        force = (vectors * values ** (1.0 / depth - 1.0)) @ vectors.T / reduction.gamma  # 2 d cost / dH
        mean, slope, _ = reduction.mean(field)
        kernel = self.variance * (mean.T * weight) @ mean + delta * self.square * np.eye(shape[1])
        u = np.linalg.solve(kernel, self.y)
        value = 0.5 * depth * float((values ** (1.0 / depth)).sum()) + 0.5 * float((u * self.y).sum())
        a = mean @ u
        along = weight[:, None] * ((w @ force) @ reduction.field_root.T - self.variance * (a @ u.T) * slope)
        each = 0.5 * ((w @ force) * w).sum(axis=1) - 0.5 * self.variance * (a**2).sum(axis=1)
        return value, np.concatenate([along.ravel(), weight * (each - weight @ each)])

    def exact(self, field: FloatArray, weight: FloatArray) -> tuple[FloatArray, float]:
        """t, and the cost without smoothing, infinite of codes that cannot make the targets."""
        reduction, depth = self.reduction, self.depth
        w, mean = reduction.root_field(field), reduction.mean(field)[0]
        values = np.linalg.eigvalsh((w.T * weight) @ w / reduction.gamma)
        values = values[values > _RANK * values[-1]]
        kernel = self.variance * (mean.T * weight) @ mean
        u = np.linalg.solve(kernel + _SMOOTH[-1][1] * self.square * np.eye(len(kernel)), self.y)
        value = 0.5 * depth * float((values ** (1.0 / depth)).sum()) + 0.5 * float((u * self.y).sum())
        missed = float(np.abs(kernel @ u - self.y).max()) > 1e-3 * float(np.abs(self.y).max())
        return u / reduction.p[:, None], math.inf if missed else value
