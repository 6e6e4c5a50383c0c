"""Predictors from the exact theory on a weighted sample of weights.

Given the weights w of the first layer a new preactivation is z* ~ N(F* w, rho*), where rho* is what the training inputs
do not span, and the readout is N(s2 t^T phi(F w), s2). With phi* = E[phi(z*) | w], tabulated in F* w,

    f(x) = <a phi*>,    Var f_r(x) = [C** - C* (C + tau)^{-1} C*^T] / N,    C = Cov(a phi),

all of them weighted averages over the sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.linalg import cho_solve

from meanfield.activations.activation import Activation
from meanfield.posterior.predictor import Drawn
from meanfield.problem.data_task import DataTask
from meanfield.problem.features import Features
from meanfield.problem.network import Network
from meanfield.theories.general_data.exact.particles import ParticleSolution
from meanfield.theories.general_data.exact.readout import readout_given
from meanfield.theories.general_data.exact.sample import At, Dual, Sample
from meanfield.theories.general_data.predictor import hermite_moments
from meanfield.validation import FloatArray, IntArray

__all__ = ["ParticlePredictor"]

_SPANNED = 1e-10  # rho* up to which an input counts as spanned by the training inputs
_PER_WIDTH = 12.0  # nodes of a table, per width of what is tabulated
_FEWEST, _MOST = 64, 6000
_TERMS = 12  # of Mehler's series for kernels
_SMALL = 1e-7
_TRIALS = 200  # draws of a readout within its reach
_BLOCK = 2_000_000  # activations at a time


@dataclass(frozen=True, eq=False)
class ParticlePredictor:
    """See the module; a `meanfield.posterior.predictor.Predictor`."""

    network: Network
    task: DataTask
    tau: float
    solution: ParticleSolution
    part_names: tuple[str, ...]

    @property
    def _features(self) -> Features:
        return self.task.features(self.network.sigma_w)

    @cached_property
    def _dual(self) -> Dual:
        s = self.solution
        return Dual(s.targets, s.prior, s.tau, s.code_weight if s.frozen else None, s.reach)

    @cached_property
    def _at(self) -> At:
        s = self.solution
        given = readout_given(s.prior * (s.phi @ s.t), s.prior, s.reach)
        average = s.phi.T @ (s.weight[:, None] * s.readout)
        return At(s.objective, 0.0, s.weight, s.readout, average, given.scatter, given.along)

    @cached_property
    def _sample(self) -> Sample:
        s = self.solution
        return Sample(s.particles, s.phi, np.log(s.weight), s.basin)

    def _blocks(self, count: int) -> list[slice]:
        size = max(1, _BLOCK // len(self.solution.weight))
        return [slice(i, i + size) for i in range(0, count, size)]

    def _moments(self, features: FloatArray, rest: FloatArray, terms: int = 1) -> tuple[list[FloatArray], FloatArray]:
        """E[phi h_j | w] (n, l) for j < terms, and E[phi^2 | w] (n, l), on l inputs."""
        phi = self.network.activation
        z = self.solution.particles @ features.T
        found, square = [np.zeros_like(z) for _ in range(terms)], np.empty_like(z)
        for column, variance in enumerate(rest):
            if variance <= _SPANNED:
                found[0][:, column] = phi(z[:, column])
                square[:, column] = found[0][:, column] ** 2
                continue
            table = _tabulate(phi, z[:, column], float(variance), terms)
            for j in range(terms):
                found[j][:, column] = table[:, j]
            square[:, column] = table[:, -1]
        return found, square

    def mean(self, new: FloatArray) -> FloatArray:
        features, rest = self._features.project(new)
        weighted = self.solution.weight[:, None] * self.solution.readout
        parts = [self._moments(features[b], rest[b])[0][0].T @ weighted for b in self._blocks(len(new))]
        return np.concatenate(parts) + self.outlier_outputs(new)

    def code_activations(self, new: FloatArray) -> FloatArray:
        """(G, l) mean activation of the neurons of each code on inputs (l, N_0)."""
        s = self.solution
        features, rest = self._features.project(new)
        share = np.where(np.arange(s.n_codes)[:, None] == s.basin, s.weight, 0.0) / s.code_weight[:, None]
        parts = [share @ self._moments(features[b], rest[b])[0][0] for b in self._blocks(len(new))]
        return np.concatenate(parts, axis=1)

    def outlier_outputs(self, new: FloatArray) -> FloatArray:
        """What the outliers add, (l, m); their preactivations on what training did not see are O(1/sqrt(N))."""
        s = self.solution
        if not len(s.outlier_weight):
            return np.zeros((len(new), self.task.n_outputs))
        left, right = self.network.activation.slopes
        z = self._features.project(new)[0] @ s.outlier_w.T
        return np.asarray((np.where(z > 0.0, right, left) * z * s.outlier_weight) @ s.outlier_direction)

    def variance(self, new: FloatArray, width: float) -> FloatArray:
        features, rest = self._features.project(new)
        blocks = self._blocks(len(new) * self.task.n_outputs)
        parts = [self._variance(features[b], rest[b]) for b in blocks if b.start < len(new)]
        return np.maximum(np.concatenate(parts), 0.0) / width

    @cached_property
    def _factor(self) -> tuple[FloatArray, bool]:
        return self._dual.curvature(self._sample, self._at)

    def _variance(self, features: FloatArray, rest: FloatArray) -> FloatArray:
        s = self.solution
        (p, m), count = s.t.shape, len(features)
        (phi,), square = self._moments(features, rest)
        own = np.empty((count, m))
        cross = np.empty((count, m, p, m))
        means = self._code_means(phi)
        train = self._code_means(s.phi)
        at = self._at
        for r in range(m):
            second = s.weight * (at.along * s.readout[:, r] ** 2 + at.scatter)
            own[:, r] = second @ square - sum(w * g[:, r] ** 2 for w, g in means)
            for q in range(m):
                pair = s.weight * (at.along * s.readout[:, r] * s.readout[:, q] + at.scatter * (r == q))
                cross[:, r, :, q] = phi.T @ (pair[:, None] * s.phi)
                for (w, g), (_, h) in zip(means, train):
                    cross[:, r, :, q] -= w * np.multiply.outer(g[:, r], h[:, q])
        rows = cross.reshape(count * m, p * m)
        explained = np.einsum("ij,ji->i", rows, cho_solve(self._factor, rows.T, check_finite=False))
        return np.asarray(own - explained.reshape(count, m))

    def _code_means(self, phi: FloatArray) -> list[tuple[float, FloatArray]]:
        """Weight and <a phi> of what fluctuates together."""
        s = self.solution
        if not s.frozen:
            return [(1.0, phi.T @ (s.weight[:, None] * s.readout))]
        found = []
        for g, weight in enumerate(s.code_weight):
            share = np.where(s.basin == g, s.weight, 0.0) / weight
            found.append((float(weight), phi.T @ (share[:, None] * s.readout)))
        return found

    def training_kernel(self) -> FloatArray:
        s = self.solution
        return np.asarray(s.phi.T @ (s.weight[:, None] * s.phi))

    def kernel(self, left: FloatArray, right: FloatArray | None, layer: int) -> FloatArray:
        other = left if right is None else right
        features, rest = self._features.project(left)
        others, others_rest = self._features.project(other)
        scale = self.network.sigma_w**2 / left.shape[1]
        outside = scale * left @ other.T - features @ others.T
        alone = float(rest.max(initial=0.0)) <= _SPANNED or float(others_rest.max(initial=0.0)) <= _SPANNED
        terms = 1 if alone else _TERMS
        found, square = self._moments(features, rest, terms)
        found2 = found if right is None else self._moments(others, others_rest, terms)[0]
        weight = self.solution.weight[:, None]
        total = found[0].T @ (weight * found2[0])
        if alone:
            return np.asarray(total)
        scales = np.sqrt(np.maximum(np.multiply.outer(rest, others_rest), 1e-300))
        rho = np.clip(outside / scales, -1.0, 1.0)
        power = np.ones_like(rho)
        for j in range(1, terms):
            power = power * rho
            total += power * (found[j].T @ (weight * found2[j]))
        same = (rho > 1.0 - 1e-9) & (((features[:, None, :] - others[None, :, :]) ** 2).sum(axis=2) < 1e-18)
        if same.any():
            diagonal = (weight * square).sum(axis=0)
            total[same] = np.broadcast_to(diagonal[:, None], total.shape)[same]
        return np.asarray(total)

    def draw(self, n: int, new: FloatArray, rng: np.random.Generator) -> Drawn:
        """Points by their weights; readouts from their Gaussian given the weights; the last neurons are outliers."""
        s, features = self.solution, self._features
        outliers = len(s.outlier_weight)
        codes = len(self.part_names) - outliers
        if n <= outliers:
            raise ValueError(f"n = {n} neurons cannot hold {outliers} outliers and a bulk; ask for more neurons.")
        chosen = rng.choice(len(s.weight), size=n, p=s.weight / s.weight.sum())
        w, part = s.particles[chosen], s.basin[chosen].astype(np.intp)
        readouts = self._readouts(chosen, rng)
        for o in range(outliers):
            row, size = n - outliers + o, math.sqrt(n * s.outlier_weight[o])
            part[row], readouts[row], w[row] = codes + o, size * s.outlier_direction[o], size * s.outlier_w[o]
        unseen = rng.standard_normal((n, new.shape[1]))
        unseen -= (unseen @ features.map) @ features.map.T
        unseen[n - outliers :] = 0.0
        scale = self.network.sigma_w / math.sqrt(new.shape[1])
        z = w @ features.project(new)[0].T + scale * unseen @ new.T
        return readouts, part, self.part_names, z

    def _readouts(self, chosen: IntArray, rng: np.random.Generator) -> FloatArray:
        """From N(s2 t^T phi, s2) at these particles, drawn again where they are beyond the reach of the bulk."""
        s = self.solution
        centre = s.prior * (s.phi[chosen] @ s.t)
        found = centre + math.sqrt(s.prior) * rng.standard_normal(centre.shape)
        for _ in range(_TRIALS):
            beyond = np.linalg.norm(found, axis=1) > s.reach
            if not beyond.any():
                break
            found[beyond] = centre[beyond] + math.sqrt(s.prior) * rng.standard_normal((int(beyond.sum()), s.t.shape[1]))
        else:  # what is left hardly ever gets there: its mean
            found[beyond] = s.readout[chosen][beyond]
        return np.asarray(found)


def _tabulate(phi: Activation, z: FloatArray, variance: float, terms: int) -> FloatArray:
    """(n, terms + 1) E[phi h_j] and E phi^2 at the means z (n,), interpolated from a table."""
    low, high = float(z.min()), float(z.max())
    width = math.sqrt(variance) if phi.kinks else max(math.sqrt(variance), 0.3)
    count = int(np.clip(_PER_WIDTH * (high - low) / width, _FEWEST, _MOST))
    if count >= len(z):
        found, square = hermite_moments(phi, z, np.full(len(z), variance), terms)
        return np.column_stack([found, square])
    grid = np.linspace(low, high, count)
    found, square = hermite_moments(phi, grid, np.full(count, variance), terms)
    return np.asarray(CubicSpline(grid, np.column_stack([found, square]))(z))
