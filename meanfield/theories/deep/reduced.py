"""P -> infinity for bounded phi at the exponent 1/L: the reduced problem (THEORY.md, "P -> infinity, beta = 1 / L").

    max over kappa of  -R(kappa) + min over t [ max over (a, h) E - sum_c p_c t_c.y_c ]
    E(a, h) = -|a|^2 / 2 sigma_a^2 + sum_c p_c (a.t_c) phibar(h_c) - w^T X^+ w / 2,    w = sqrt(p) (h - p.h)
    (for odd phi w = sqrt(p) h: its prior has no field that classes share, and to share one costs as much as any)
    R = (L - 1)/2 tr (X / Gamma)^(1/(L-1)),    X = sqrt(p) kappa sqrt(p)

t stands for P^(1 - 1/L) t, phibar for the mean activation at a common field. Codes gamma are the global maximisers
of E. With their weights X = (Gamma H^(L-1))^(1/L), H = sum_gamma P_gamma w w^T.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares, minimize

from meanfield.numerics.limits import check_time
from meanfield.theories.deep.site import noisy_means
from meanfield.theories.deep.start import prior_kernels, saturated_weights
from meanfield.theories.deep.system import DeepProblem
from meanfield.validation import FloatArray

__all__ = ["Reduced", "reduced_solve"]

_MOST_SETS = 30
_HIGHER = 1e-9  # in E, of a code that was left out
_FEW_STEPS = 40
# Fields of a code, and its activations in units of the range of phi, that least squares begin with: targets that are
# small beside sigma_a need codes that are hardly saturated, and are lost from strong ones.
_STARTS = ((1.1, 0.35), (0.3, 0.15), (1.1, 0.15))
_SOLVED = 1e-8
_SMALL = 1e-12
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


def reduced_solve(problem: DeepProblem) -> Reduced:
    """Solve the reduced problem of a problem whose n are the fractions p_c, at any tau."""
    reduction = _Reduction(problem)
    found = reduction.solve()
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


class _Reduction:
    def __init__(self, problem: DeepProblem) -> None:
        self.problem, self.p = problem, problem.n / problem.n_samples
        self.root_p = np.sqrt(self.p)
        _, own, gain = prior_kernels(problem)
        depth, scale = problem.depth, problem.scales[0]  # that of all layers
        gains = np.array([own[0], *(scale * gain[1 : depth - 1] ** 2)])
        self.gammas = np.cumprod(gains)  # of kappa_l
        self.gamma = scale * float(self.gammas[-1])  # of the fields of the last layer
        self.spread = math.sqrt(scale * own[depth - 2])
        self.middle = 0.5 * (problem.phi.infimum + problem.phi.supremum)
        # Of odd phi (a, h) and (-a, -h) are equally good: one of both stands for them, with half the weight each.
        self.odd = problem.phi.parity == "odd"
        shared = np.zeros_like(self.p) if self.odd else self.p
        self.field_root = (np.eye(len(shared)) - shared[:, None]) * self.root_p  # w = h field_root

    def mean(self, h: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean of phi at common fields h, its derivative, and variance."""
        check_time()
        return noisy_means(self.problem.phi, h, self.spread**2)

    def root_field(self, h: FloatArray) -> FloatArray:
        """w (..., n, C)."""
        return np.asarray(h @ self.field_root)

    def stiffness(self, h: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
        """X and its pseudo-inverse (..., C, C)."""
        w = self.root_field(h)
        values, vectors = np.linalg.eigh((_turned(w) * weight[..., None, :]) @ w)
        depth = self.problem.depth
        kept = values > _SMALL * values[..., -1:]
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

    def conditions(self, u: FloatArray, count: int) -> FloatArray:
        """Stationary fields, equal E, outputs, weights, of every row of u (..., unknowns)."""
        t, h, weight = self.split(u, count)
        _, inverse = self.stiffness(h, weight)
        energy, gradient, a, mean = self.energy(t, h, inverse)
        outputs = (_turned(mean) * weight[..., None, :]) @ a - self.problem.y
        first, flat = energy[..., :1], (*u.shape[:-1], -1)
        total = weight.sum(axis=-1, keepdims=True)
        parts = [gradient.reshape(flat), energy[..., 1:] - first, outputs.reshape(flat), total - 1.0]
        return np.concatenate(parts, axis=-1)

    def slopes(self, u: FloatArray, count: int) -> FloatArray:
        """Derivatives of the conditions by u, from differences of all unknowns at once."""
        step = np.where(u < 0.0, -_STEP, _STEP) * np.maximum(1.0, np.abs(u))
        moved = u + np.diag(step)
        step = np.diag(moved) - u
        found = self.conditions(np.vstack([u, moved]), count)
        return np.asarray((found[1:] - found[0]).T / step)

    def split(self, u: FloatArray, count: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        n_classes, m = self.problem.y.shape
        t, rest = u[..., : n_classes * m], u[..., n_classes * m :]
        h, weight = rest[..., : count * n_classes], rest[..., count * n_classes :]
        return t.reshape(*u.shape[:-1], n_classes, m), h.reshape(*u.shape[:-1], count, n_classes), weight

    def solve(self) -> Reduced:
        """Active-set iteration over code patterns, each set by least squares; then sets of one and two codes.

        R is concave in X for L > 2 and codes may span few directions, so that several sets may satisfy all conditions:
        the solution of the highest value is returned.
        """
        words, weight = saturated_weights(self.problem)
        if self.odd:  # the mirror image of word i is word -1 - i
            words, weight = words[: len(words) // 2], 2.0 * weight[: len(weight) // 2]
        active = [i for i in range(len(words)) if weight[i] > 0.02]
        tried: set[tuple[int, ...]] = set()
        found: list[Reduced] = []
        for _ in range(_MOST_SETS):
            tried.add(tuple(active))
            result, other = self.at(active, words, weight)
            found.append(result)
            following = [i for i, q in zip(active, result.weight) if q > 1e-9]
            if other is not None and other not in following:
                following = sorted([*following, other])
            if tuple(following) in tried or not following:
                break
            active = following
        least = int(np.linalg.matrix_rank(self.problem.y))  # fewer codes cannot make these targets
        few = [chosen for size in (1, 2) if size >= least for chosen in itertools.combinations(range(len(words)), size)]
        for chosen in few[:_MOST_SETS]:
            if chosen not in tried:
                found.append(self.at(list(chosen), words, weight, _FEW_STEPS)[0])
        good = [result for result in found if self.solves(result)]
        return max(good, key=lambda r: r.objective) if good else min(found, key=lambda r: (r.residual, r.excess))

    def solves(self, result: Reduced) -> bool:
        """Whether all conditions hold."""
        return result.residual < _SOLVED and float(result.weight.min()) > -1e-9 and result.excess < _HIGHER

    def at(
        self, active: list[int], words: FloatArray, weight: FloatArray, steps: int = 400
    ) -> tuple[Reduced, int | None]:
        """Where least squares end for a set of codes, as `report` has it: from the first start that leads to a
        solution, else from the one that comes closest."""
        low, high = self.problem.phi.infimum, self.problem.phi.supremum
        signs = np.sign(words[active] - self.middle)
        share = np.maximum(weight[active], 1e-3) / np.maximum(weight[active], 1e-3).sum()
        best, least = np.empty(0), math.inf
        for size, half in _STARTS:
            soft = self.middle + half * (high - low) * signs
            matrix = self.problem.readout_variance * (soft.T * share) @ soft
            u = np.linalg.lstsq(matrix, self.problem.y, rcond=1e-10)[0]
            start = np.concatenate([(u / self.p[:, None]).ravel(), size * signs.ravel(), share])
            end = least_squares(
                self.conditions, start, jac=self.slopes, args=(len(active),), xtol=1e-15, ftol=1e-15, gtol=1e-15,
                max_nfev=steps,
            )  # fmt: skip
            residual, steps = float(np.abs(end.fun).max()), min(steps, _FEW_STEPS)
            if residual < least:
                best, least = end.x, residual
            if least < _SOLVED:
                break
        return self.report(best, len(active), least, words)

    def report(self, u: FloatArray, count: int, residual: float, words: FloatArray) -> tuple[Reduced, int | None]:
        """The solution of a set of codes, and the pattern of a higher maximum of E, if there is one.

        Fields outside of what the codes span cost an infinite amount to first order (R^(1/L) of a new direction): E is
        maximised over those inside, and over a field that all classes share where the prior has one.
        """
        t, h, weight = self.split(u, count)
        x, inverse = self.stiffness(h, weight)
        energy, _, a, _ = self.energy(t, h, inverse)
        values, vectors = np.linalg.eigh(x)
        basis = (vectors[:, values > _SMALL * values[-1]] / self.root_p[:, None]).T
        if not self.odd:
            basis = np.concatenate([basis, np.ones((1, len(self.p)))])

        def lost(v: FloatArray) -> tuple[float, FloatArray]:
            value, slope, *_ = self.energy(t, (v @ basis)[None], inverse)
            return -float(value[0]), -(basis @ slope[0])

        top, other = -math.inf, None
        for i, word in enumerate(words if residual < _WORTH else ()):
            for size in (0.5, 1.5):
                where = np.linalg.lstsq(basis.T, size * np.sign(word - self.middle), rcond=None)[0]
                at = minimize(lost, where, jac=True)
                if -at.fun > top:
                    top, other = float(-at.fun), i
        excess = top - float(energy.max()) if residual < _WORTH else math.inf
        mean, _, variance = self.mean(h)
        values, vectors = np.linalg.eigh(x / self.gamma)
        depth, lower = self.problem.depth, []
        for layer in range(1, depth):
            power = np.maximum(values, 0.0) ** (layer / (depth - 1))
            block = self.gammas[layer - 1] * (vectors * power) @ vectors.T
            lower.append(block / np.outer(self.root_p, self.root_p))
        penalty = 0.5 * (depth - 1) * float((np.maximum(values, 0.0) ** (1.0 / (depth - 1))).sum())
        objective = float(energy.max()) - float(self.p @ (t * self.problem.y).sum(axis=1)) - penalty
        found = Reduced(h, mean, variance, weight, a, t, np.array(lower), objective, residual, excess)
        return found, other if excess > _HIGHER else None
