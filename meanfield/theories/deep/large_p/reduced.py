"""P -> infinity for bounded phi at the exponent 1/L: the reduced problem (THEORY.md, "P -> infinity, beta = 1 / L").

    max over kappa of  -R(kappa) + min over t [ max over (a, h) E - sum_c p_c t_c.y_c ]
    E(a, h) = -|a|^2 / 2 sigma_a^2 + sum_c p_c (a.t_c) phibar(h_c) - w^T X^+ w / 2,    w = sqrt(p) (h - p.h)
    (for odd phi w = sqrt(p) h: its prior has no field that classes share, and to share one costs as much as any)
    R = (L - 1)/2 tr (X / Gamma)^(1/(L-1)),    X = sqrt(p) kappa sqrt(p)

t stands for P^(1 - 1/L) t, phibar for the mean activation at a common field. Codes gamma are the global maximisers
of E. With their weights X = (Gamma H^(L-1))^(1/L), H = sum_gamma P_gamma w w^T.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.optimize import least_squares, minimize

from meanfield.numerics.limits import check_time
from meanfield.theories.deep.large_p.reduced_cost import Means
from meanfield.theories.deep.large_p.reduced_descent import LEAST, SAME, End, descend, descents
from meanfield.theories.deep.large_p.saturated import largest_entropy, saturated_weights
from meanfield.theories.deep.layers.rules import NotCovered
from meanfield.theories.deep.layers.site import noisy_means
from meanfield.theories.deep.prior import prior_kernels
from meanfield.theories.deep.system import DeepProblem
from meanfield.validation import FloatArray

__all__ = ["Reduced", "reduced_solve", "usual_starts"]

_STARTS, _STARTS_PER_TARGET = 24, 4
_MOST_SETS = 12
_MOST_MORE = 4
_LIGHT = 0.003  # weight that a code begins with
_HIGHER = 1e-9  # in E, of a code that was left out
_NARROW = 1e-3  # second moment of fields in a direction that may be none, of the largest
_NO_FIELD = 1e-7  # where there is none but for rounding
_EXACT: dict[str, Any] = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "max_nfev": 100}
_EQUAL = 1e-8  # in E, of codes that may share their weights
_LOWER = 1e-5  # relative, in the cost of another end that is looked at
_SOLVED = 1e-8
_STEP = 1.5e-8  # of differences, relative to unknowns beyond 1
_WORTH = 1e-4  # residual below which a set of codes is looked at for others


@dataclass(frozen=True, eq=False)
class Reduced:
    """Codes at P -> infinity and the exponent 1/L.

    Attributes
    ----------
    field : (n, C) array
        h of each code.
    activation, variance : (n, C) arrays
        Mean activation, and its variance over the samples of a class.
    weight, readout : (n,), (n, m) arrays
    t : (C, m) array
        P^(1 - 1/L) t.
    kappa : (L - 1, C, C) array
        kappa_l: kernels of the lower layers are those of the prior and P^(l/L - 1) kappa_l.
    objective : float
        The limit of Phi / P^(1/L).
    residual : float
        Largest violation of the conditions above.
    excess : float
        How much higher E is at other maxima; at most rounding where the codes are the global maximisers.
    nullity : int
        Dimension of the family of weights that are equally good; the ones reported have the largest entropy.
    """

    field: FloatArray
    activation: FloatArray
    variance: FloatArray
    weight: FloatArray
    readout: FloatArray
    t: FloatArray
    kappa: FloatArray
    objective: float
    residual: float
    excess: float
    nullity: int = 0


def usual_starts(problem: DeepProblem) -> int:
    """How many descents along each number of directions leave few local minima: more where there are more targets."""
    return max(_STARTS, _STARTS_PER_TARGET * problem.y.size)


def reduced_solve(problem: DeepProblem, starts: int, few: bool = True) -> Reduced:
    """Solve the reduced problem of a problem whose n are the fractions p_c, at any tau, from so many random laws along
    every number of directions, or along all of them only."""
    reduction = Reduction(problem)
    found = reduction.solve(starts, few)
    return _with_mirror_images(found) if reduction.odd else found


def _with_mirror_images(found: Reduced) -> Reduced:
    """The codes (a, h) and (-a, -h), which are equally good, with equal weights: the limit of finite P."""
    field, activation, readout = (np.concatenate([x, -x]) for x in (found.field, found.activation, found.readout))
    weight, variance = np.tile(0.5 * found.weight, 2), np.tile(found.variance, (2, 1))
    return replace(
        found, field=field, activation=activation, variance=variance, weight=weight, readout=readout
    )  # fmt: skip


def _turned(matrices: FloatArray) -> FloatArray:
    """Transposes of matrices (..., j, k)."""
    return np.swapaxes(matrices, -1, -2)


class Chart:
    """Coordinates of codes whose fields span `rank` directions, near those of the end of a descent.

    w = v F^T, F = along + across Z: unknowns are t (C, m), v (n, rank), the fields that all classes share (n,) unless
    phi is odd, weights (n,), and Z (C - rank, or one less, rank).
    """

    def __init__(self, reduction: Reduction, end: End, rank: int) -> None:
        self.reduction, self.rank, self.count = reduction, rank, len(end.weight)
        w = reduction.root_field(end.field)
        vectors = np.linalg.eigh((w.T * end.weight) @ w)[1][:, ::-1]
        self.along, self.across = vectors[:, :rank], vectors[:, rank:]
        if not reduction.odd:  # w has no part along sqrt(p)
            across = self.across - np.outer(reduction.root_p, reduction.root_p @ self.across)
            self.across = np.linalg.svd(across)[0][:, : max(0, across.shape[1] - 1)]

    def start(self, end: End) -> FloatArray:
        """The unknowns at the end of the descent."""
        shared = [] if self.reduction.odd else [end.field @ self.reduction.p]
        v = self.reduction.root_field(end.field) @ self.along
        parts = [end.t.ravel(), v.ravel(), *shared, end.weight, np.zeros(self.across.shape[1] * self.rank)]
        return np.concatenate(parts)

    def parts(self, u: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        """t, v, h (..., n, C), weights and F (..., C, rank) of every row of u."""
        reduction, n, rows = self.reduction, self.count, u.shape[:-1]
        (n_classes, m), extra = reduction.problem.y.shape, 0 if reduction.odd else self.count
        sizes = np.cumsum([n_classes * m, n * self.rank, extra, n])
        t, v, shared, weight, z = np.split(u, sizes, axis=-1)
        v = v.reshape(*rows, n, self.rank)
        frame = self.along + self.across @ z.reshape(*rows, self.across.shape[1], self.rank)
        h = v @ _turned(frame) / reduction.root_p
        if not reduction.odd:
            h = h + shared[..., None]
        return t.reshape(*rows, n_classes, m), v, h, weight, frame


class Reduction:
    def __init__(self, problem: DeepProblem) -> None:
        self.problem, self.p = problem, problem.n / problem.n_samples
        self.root_p = np.sqrt(self.p)
        _, own, gain = prior_kernels(problem)
        scales = np.array(problem.scales)
        gains = np.array([own[0], *(scales[:-1] * gain[1:-1] ** 2)])
        self.gammas = np.cumprod(gains / problem.ratios[:-1])  # of kappa_l
        self.gamma = float(scales[-1] * self.gammas[-1])  # of the fields of the last layer
        self.spread = math.sqrt(scales[-1] * own[-2])
        self.middle = 0.5 * (problem.phi.infimum + problem.phi.supremum)
        # Of odd phi (a, h) and (-a, -h) are equally good: one of both stands for them, with half the weight each.
        self.odd = problem.phi.parity == "odd"
        shared = np.zeros_like(self.p) if self.odd else self.p
        self.field_root = (np.eye(len(shared)) - shared[:, None]) * self.root_p  # w = h field_root

    def mean(self, h: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean of phi at common fields h, its derivative, and variance."""
        check_time()
        return noisy_means(self.problem.phi, h, self.spread**2)

    @cached_property
    def means(self) -> Means:
        """Tables of the first two of `mean`."""
        return Means(self)

    def root_field(self, h: FloatArray) -> FloatArray:
        """w (..., n, C)."""
        return np.asarray(h @ self.field_root)

    def stiffness(self, h: FloatArray, weight: FloatArray, rank: int) -> tuple[FloatArray, FloatArray]:
        """X and its pseudo-inverse (..., C, C), of fields that span `rank` directions."""
        w = self.root_field(h)
        values, vectors = np.linalg.eigh((_turned(w) * weight[..., None, :]) @ w)
        depth = self.problem.depth
        kept = (np.arange(values.shape[-1]) >= values.shape[-1] - rank) & (values > 0.0)
        x = np.where(kept, (self.gamma * np.maximum(values, 0.0) ** (depth - 1)) ** (1.0 / depth), 0.0)
        inverse = np.where(kept, 1.0 / np.where(kept, x, 1.0), 0.0)
        one, other = (np.asarray((vectors * size[..., None, :]) @ _turned(vectors)) for size in (x, inverse))
        return one, other

    def energy(
        self, t: FloatArray, h: FloatArray, inverse: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """E at the best a, its gradient by h, a, and mean activations, for rows of h (..., n, C)."""
        mean, slope, _ = self.mean(h)
        w = self.root_field(h)
        a = self.problem.readout_variance * (mean * self.p) @ t
        force = w @ inverse
        energy = 0.5 * (a**2).sum(axis=-1) / self.problem.readout_variance - 0.5 * (force * w).sum(axis=-1)
        return energy, (a @ _turned(t)) * self.p * slope - force @ self.field_root.T, a, mean

    def conditions(self, u: FloatArray, chart: Chart) -> FloatArray:
        """Stationary fields and directions, equal E, outputs, weights, of every row of u (..., unknowns)."""
        t, v, h, weight, frame = chart.parts(u)
        _, inverse = self.stiffness(h, weight, chart.rank)
        energy, gradient, a, mean = self.energy(t, h, inverse)
        outputs = (_turned(mean) * weight[..., None, :]) @ a - self.problem.y
        first, flat = energy[..., :1], (*u.shape[:-1], -1)
        total = weight.sum(axis=-1, keepdims=True)
        slope = gradient / self.root_p  # by w
        turn = (_turned(v) * weight[..., None, :]) @ (slope @ chart.across)
        along = [(slope @ frame).reshape(flat), turn.reshape(flat)] + ([] if self.odd else [gradient.sum(axis=-1)])
        return np.concatenate([*along, energy[..., 1:] - first, outputs.reshape(flat), total - 1.0], axis=-1)

    def slopes(self, u: FloatArray, chart: Chart) -> FloatArray:
        """Derivatives of the conditions by u, from differences of all unknowns at once."""
        step = np.where(u < 0.0, -_STEP, _STEP) * np.maximum(1.0, np.abs(u))
        moved = u + np.diag(step)
        step = np.diag(moved) - u
        found = self.conditions(np.vstack([u, moved]), chart)
        return np.asarray((found[1:] - found[0]).T / step)

    def solve(self, starts: int, few: bool) -> Reduced:
        """Descents of the cost of a law of codes, the lowest first, polished by least squares until one is a solution.

        R is concave in X and codes may span few directions, so that several sets of codes may satisfy all conditions.
        """
        words, weight = saturated_weights(self.problem)
        if self.odd:  # the mirror image of word i is word -1 - i
            words, weight = words[: len(words) // 2], 2.0 * weight[: len(weight) // 2]
        ends, found = descents(self, words, weight, starts, few), list[tuple[Reduced, FloatArray]]()
        if not ends:
            raise NotCovered("no descent led to codes that make the targets: the reduced problem was not solved")
        least = ends[0].cost
        for end in ends[:_MOST_SETS]:
            if any(self.solves(one) and -one.objective <= end.cost * (1.0 + _LOWER) for one, _ in found):
                break
            result, others = self.polished(end, words)
            found.append((result, others))
            for _ in range(_MOST_MORE):  # codes that lower the cost to first order
                if not (len(others) and result.excess > _HIGHER):
                    break
                field, shares = np.vstack([result.field, others[:1]]), np.append(result.weight.clip(LEAST), _LIGHT)
                again = descend(self, field, shares)
                if again is None or again.cost >= -result.objective - _HIGHER:
                    break
                least = min(least, again.cost)
                result, others = self.polished(again, words)
                found.append((result, others))
        good = [one for one in found if self.solves(one[0])]
        if not good:
            return min((one for one, _ in found), key=lambda one: (one.residual, one.excess))
        best = self.spread_out(*max(good, key=lambda one: one[0].objective), words)
        missed = -best.objective - least
        return replace(best, excess=max(best.excess, missed)) if missed > _LOWER * abs(least) else best

    def solves(self, result: Reduced) -> bool:
        """Whether all conditions hold."""
        return result.residual < _SOLVED and float(result.weight.min()) > -1e-9 and result.excess < _HIGHER

    def spread_out(self, found: Reduced, others: FloatArray, words: FloatArray) -> Reduced:
        """Of all weights of codes of the same E that make the same outputs and H, those of largest entropy."""
        field = np.vstack([found.field, others])
        weight = np.append(found.weight.clip(0.0), np.zeros(len(others)))
        w, a = self.root_field(field), self.problem.readout_variance * (self.mean(field)[0] * self.p) @ found.t
        made = self.mean(field)[0][:, :, None] * a[:, None], w[:, :, None] * w[:, None]
        rows = np.vstack([*(one.reshape(len(field), -1).T for one in made), np.ones(len(field))])
        rank = int(np.linalg.matrix_rank(rows, tol=1e-8 * np.abs(rows).max()))
        if rank == len(field):
            return found
        end = End(-found.objective, found.t, field, largest_entropy(rows, weight))
        kappa = found.kappa[-1] * np.outer(self.root_p, self.root_p)
        spread, _ = self.along(end, int(np.linalg.matrix_rank(kappa, tol=1e-9 * np.abs(kappa).max())), words)
        return replace(spread if self.solves(spread) else found, nullity=len(field) - rank)

    def polished(self, end: End, words: FloatArray) -> tuple[Reduced, FloatArray]:
        """Where least squares lead from the end of a descent, as `report` has it.

        Directions that its fields hardly span are left out, as many as lead to a solution.
        """
        w = self.root_field(end.field)
        values = np.append(np.linalg.eigvalsh((w.T * end.weight) @ w)[::-1], 0.0)
        real, slight = values > _NO_FIELD * values[0], values < _NARROW * values[0]
        best: tuple[Reduced, FloatArray] | None = None
        for rank in (np.flatnonzero(real[:-1] & slight[1:]) + 1).tolist() or [1]:
            found = self.along(end, rank, words)
            if best is None or (self.solves(found[0]), -found[0].residual) > (self.solves(best[0]), -best[0].residual):
                best = found
            if self.solves(best[0]) and -best[0].objective <= end.cost * (1.0 + _LOWER):
                break
        assert best is not None
        return best

    def along(self, end: End, rank: int, words: FloatArray) -> tuple[Reduced, FloatArray]:
        """The same of fields that span `rank` directions."""
        chart = Chart(self, end, rank)
        solved = least_squares(self.conditions, chart.start(end), jac=self.slopes, args=(chart,), **_EXACT)
        return self.report(solved.x, chart, float(np.abs(solved.fun).max()), words)

    def report(self, u: FloatArray, chart: Chart, residual: float, words: FloatArray) -> tuple[Reduced, FloatArray]:
        """The solution of a set of codes, and the fields (k, C) of other maxima of E that are no lower, highest first.

        Fields outside of what the codes span cost an infinite amount to first order (R^(1/L) of a new direction): E is
        maximised over those inside, and over a field that all classes share where the prior has one.
        """
        t, _, h, weight, frame = chart.parts(u)
        x, inverse = self.stiffness(h, weight, chart.rank)
        energy, slope, a, _ = self.energy(t, h, inverse)
        values, vectors = np.linalg.eigh(x)
        basis = (vectors[:, -chart.rank :] / self.root_p[:, None]).T
        if not self.odd:
            basis = np.concatenate([basis, np.ones((1, len(self.p)))])

        def lost(v: FloatArray) -> tuple[float, FloatArray]:
            value, slope, *_ = self.energy(t, (v @ basis)[None], inverse)
            return -float(value[0]), -(basis @ slope[0])

        level, top = float(energy.max()), -math.inf
        maxima: list[tuple[float, FloatArray]] = []
        for word in words if residual < _WORTH else ():
            for size in (0.5, 1.5):
                where = np.linalg.lstsq(basis.T, size * np.sign(word - self.middle), rcond=None)[0]
                at = minimize(lost, where, jac=True)
                top = max(top, -float(at.fun))
                if -at.fun > level - _EQUAL * max(1.0, abs(level)):
                    maxima.append((-float(at.fun), least_squares(lambda v: lost(v)[1], at.x, **_EXACT).x @ basis))
        maxima.sort(key=lambda one: -one[0])
        excess = top - level if residual < _WORTH else math.inf
        excess = max(excess, self.bends(slope, weight, frame))
        mean, _, variance = self.mean(h)
        values, vectors = (part[..., -chart.rank :] for part in np.linalg.eigh(x / self.gamma))
        depth, lower = self.problem.depth, []
        for layer in range(1, depth):
            power = np.maximum(values, 0.0) ** (layer / (depth - 1))
            block = self.gammas[layer - 1] * (vectors * power) @ vectors.T
            lower.append(block / np.outer(self.root_p, self.root_p))
        penalty = 0.5 * (depth - 1) * float((np.maximum(values, 0.0) ** (1.0 / (depth - 1))).sum())
        objective = level - float(self.p @ (t * self.problem.y).sum(axis=1)) - penalty
        found = Reduced(h, mean, variance, weight, a, t, np.array(lower), objective, residual, excess)
        return found, self.others(h, np.array([one for _, one in maxima]).reshape(-1, len(self.p)))

    def others(self, known: FloatArray, field: FloatArray) -> FloatArray:
        """Those fields that have other activations than the ones known, and than each other."""
        phi, size = self.problem.phi, len(known)
        for one in field:
            mean = self.mean(np.vstack([known, one[None], -one[None]]))[0]
            apart = np.abs(mean[:-2, None] - mean[-2 : None if self.odd else -1]).max(axis=2)
            if apart.min() > 0.2 * SAME * (phi.supremum - phi.infimum):
                known = np.vstack([known, one[None]])
        return known[size:]

    def bends(self, gradient: FloatArray, weight: FloatArray, frame: FloatArray) -> float:
        """What fields gain to first order by leaving the directions that they span, at most 0: at L = 2 they cost the
        nuclear norm of (P_gamma / Gamma)^(1/2) w, and infinitely much beyond."""
        if self.problem.depth > 2:
            return -math.inf
        outside = np.linalg.qr(frame, "complete")[0][:, frame.shape[1] :]  # and, unless phi is odd, sqrt(p)
        across = np.sqrt(np.maximum(weight, 0.0))[:, None] * ((gradient / self.root_p) @ outside)
        return float(np.linalg.norm(across, 2)) - 1.0 / math.sqrt(self.gamma)
