"""P -> infinity for bounded phi at the exponent 1/L: the reduced problem (THEORY.md, "P -> infinity, beta = 1 / L").

    max over kappa of  -R(kappa) + min over t [ max over (a, h) E - sum_c p_c t_c.y_c ]
    E(a, h) = -|a|^2 / 2 sigma_a^2 + sum_c p_c (a.t_c) phibar(h_c) - w^T X^+ w / 2,    w = sqrt(p) (h - p.h)
    R = (L - 1)/2 tr (X / Gamma)^(1/(L-1)),    X = sqrt(p) kappa sqrt(p)

t stands for P^(1 - 1/L) t, phibar for the mean activation at a common field. Codes gamma are the global maximisers
of E. With their weights X = (Gamma H^(L-1))^(1/L), H = sum_gamma P_gamma w w^T.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
_SMALL = 1e-12


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
    return _Reduction(problem).solve()


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

    def mean(self, h: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean of phi at common fields h, its derivative, and variance."""
        check_time()
        mean, slope, square = noisy_means(self.problem.phi, h, self.spread**2)
        return mean, slope, square - mean**2

    def root_field(self, h: FloatArray) -> FloatArray:
        """w (n, C)."""
        return np.asarray((h - (h @ self.p)[:, None]) * self.root_p)

    def stiffness(self, h: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
        """X and its pseudo-inverse."""
        w = self.root_field(h)
        values, vectors = np.linalg.eigh((w.T * weight) @ w)
        depth = self.problem.depth
        kept = values > _SMALL * values[-1]
        x = np.where(kept, (self.gamma * np.maximum(values, 0.0) ** (depth - 1)) ** (1.0 / depth), 0.0)
        inverse = np.where(kept, 1.0 / np.where(kept, x, 1.0), 0.0)
        return np.asarray((vectors * x) @ vectors.T), np.asarray((vectors * inverse) @ vectors.T)

    def energy(
        self, t: FloatArray, h: FloatArray, inverse: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """E at the best a, its gradient by h, a, and mean activations, for rows of h."""
        mean, slope, _ = self.mean(h)
        w = self.root_field(h)
        a = self.problem.readout_variance * (mean * self.p) @ t
        force = w @ inverse
        energy = 0.5 * (a**2).sum(axis=1) / self.problem.readout_variance - 0.5 * (force * w).sum(axis=1)
        pull = force * self.root_p
        return energy, (a @ t.T) * self.p * slope - pull + pull.sum(axis=1)[:, None] * self.p, a, mean

    def conditions(self, u: FloatArray, count: int) -> FloatArray:
        """Stationary fields, equal E, outputs, weights."""
        t, h, weight = self.split(u, count)
        _, inverse = self.stiffness(h, weight)
        energy, gradient, a, mean = self.energy(t, h, inverse)
        outputs = (mean.T * weight) @ a - self.problem.y
        return np.concatenate(
            [gradient.ravel(), energy[1:] - energy[0], outputs.ravel(), [weight.sum() - 1.0]]
        )  # fmt: skip

    def split(self, u: FloatArray, count: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        n_classes, m = self.problem.y.shape
        t, rest = u[: n_classes * m].reshape(n_classes, m), u[n_classes * m :]
        return t, rest[: count * n_classes].reshape(count, n_classes), rest[count * n_classes :]

    def solve(self) -> Reduced:
        """Active-set iteration over code patterns, each set by least squares."""
        words, weight = saturated_weights(self.problem)
        low, high = self.problem.phi.infimum, self.problem.phi.supremum
        active = [i for i in range(len(words)) if weight[i] > 0.02]
        tried: set[tuple[int, ...]] = set()
        best: Reduced | None = None
        for _ in range(_MOST_SETS):
            tried.add(tuple(active))
            signs = np.sign(words[active] - self.middle)
            share = weight[active] / weight[active].sum()
            soft = self.middle + 0.35 * (high - low) * signs
            matrix = self.problem.readout_variance * (soft.T * share) @ soft
            u = np.linalg.lstsq(matrix, self.problem.y, rcond=1e-10)[0]
            start = np.concatenate([(u / self.p[:, None]).ravel(), 1.1 * signs.ravel(), share])
            found = least_squares(
                self.conditions, start, args=(len(active),), xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=400
            )
            result, other = self.report(found.x, len(active), float(np.abs(found.fun).max()), words)
            if best is None or (result.residual < 1e-8, -max(result.excess, 0.0)) > (
                best.residual < 1e-8, -max(best.excess, 0.0)
            ):  # fmt: skip
                best = result
            if result.residual < 1e-8 and result.weight.min() > -1e-9 and result.excess < _HIGHER:
                return result
            following = [i for i, q in zip(active, result.weight) if q > 1e-9]
            if other is not None and other not in following:
                following = sorted([*following, other])
            if tuple(following) in tried or not following:
                break
            active = following
        assert best is not None
        return best

    def report(self, u: FloatArray, count: int, residual: float, words: FloatArray) -> tuple[Reduced, int | None]:
        """The solution of a set of codes, and the pattern of a higher maximum of E, if there is one."""
        t, h, weight = self.split(u, count)
        x, inverse = self.stiffness(h, weight)
        energy, _, a, _ = self.energy(t, h, inverse)
        top, other = -math.inf, None
        for i, word in enumerate(words):
            for size in (0.5, 1.5):
                where = size * np.sign(word - self.middle)
                at = minimize(
                    lambda z: tuple(-part[0] for part in self.energy(t, z[None], inverse)[:2]), where, jac=True
                )
                if -at.fun > top:
                    top, other = float(-at.fun), i
        excess = top - float(energy.max())
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
