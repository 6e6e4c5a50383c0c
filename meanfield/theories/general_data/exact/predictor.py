"""Predictors from the exact theory on a weighted sample of weights.

Given the weights w of the first layer a new preactivation is z* ~ N(F* w, rho*), where rho* is what the training inputs
do not span, and the readout is N(s2 t^T phi(F w), s2). With phi* = E[phi(z*) | w], tabulated in F* w,

    f(x) = <a phi*>,    Var f_r(x) = [C** - C* (C + tau)^{-1} C*^T] / N,    C = Cov(a phi),

all of them weighted averages over the sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.linalg import cho_solve

from meanfield.activations.activation import Activation
from meanfield.posterior.predictor import Drawn
from meanfield.problem.data_task import DataTask
from meanfield.problem.features import Features
from meanfield.problem.network import Network
from meanfield.theories.general_data.exact.particles import ParticleSolution, halves
from meanfield.theories.general_data.exact.quadrature import nodes
from meanfield.theories.general_data.exact.readout import readout_given
from meanfield.theories.general_data.exact.sample import At, Sample, batches_of
from meanfield.theories.general_data.predictor import hermite_moments
from meanfield.validation import FloatArray, IntArray

__all__ = ["ParticlePredictor"]

_SPANNED = 1e-10  # rho* up to which an input counts as spanned by the training inputs
_PER_WIDTH = 12.0  # nodes of a table, per width of what is tabulated
_FEWEST, _MOST = 64, 6000
_TERMS = 12  # of Mehler's series for kernels
_NOTHING = 1e-15  # weight of nodes that are left out
_PARTS = 8  # of a sample that the noise of kernels is taken from
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
    def _at(self) -> At:
        s = self.solution
        given = readout_given(s.prior * (s.phi @ s.t), s.prior, s.reach)
        average = s.phi.T @ (s.weight[:, None] * s.readout)
        return At(s.objective, 0.0, s.weight, s.readout, average, given.scatter, given.along)

    @cached_property
    def _sample(self) -> Sample:
        return self.solution.sample

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
        """(l, m) variance over the posterior, without the bias of a finite sample where there are two halves of it.

        The variance is what remains of a regression on the sample that it is measured on, of n points that count: too
        small by sum_i W_i^2 s_i^T H^-1 s_i, with s_i the gradient of a point's squared residual r_i^2 (for evenly
        scattered residuals their variance times tr H^-1 Cov / n, degrees of freedom over points). And t, the minimum of
        J on the same sample, moves weights by W_i X_i . dt, dt = -H^-1 sum_i W_i X_i, which correlates with r_i^2. All
        this is of order 1/n and, whatever its coefficient, twice as large on a half with its own minimum: 2 V - (V_1 +
        V_2) / 2 has none of it (M. H. Quenouille, Biometrika 43:353, 1956).
        """
        found = self._variances(new)
        if self._halves:
            low = sum(half._variances(new) for half in self._halves) / len(self._halves)
            found = np.clip(2.0 * found - low, 0.5 * found, 2.0 * found)  # at least of the right size
        return found / width

    @cached_property
    def _halves(self) -> tuple[ParticlePredictor, ...]:
        """The same from either half of the sample, at its own minimum of J."""
        s, found = self.solution, []
        for t, part in zip(s.half_t, halves(self._sample)):
            at = s.dual.at(part, t)
            if not np.isfinite(at.log_z):  # a code without any points
                return ()
            own = replace(
                s, t=t, weight=at.share, readout=at.mean, phi=part.phi, particles=part.points, basin=part.group,
                family=np.empty(0, dtype=np.int64), half=np.empty(0, dtype=np.int64), half_t=s.half_t[:0],
            )  # fmt: skip
            found.append(replace(self, solution=own))
        return tuple(found)

    @cached_property
    def _factor(self) -> tuple[FloatArray, bool]:
        return self.solution.dual.curvature(self._sample, self._at)

    def _variances(self, new: FloatArray) -> FloatArray:
        """(l, m) N Var f_r, as the sample has it."""
        features, rest = self._features.project(new)
        m = self.task.n_outputs
        found = np.empty((len(new), m))
        for b in self._blocks(len(new) * m):
            if b.start >= len(new):
                break
            (phi,), square = self._moments(features[b], rest[b])
            found[b] = self._variance(phi, square)
        return np.maximum(found, 0.0)

    def _variance(self, phi: FloatArray, square: FloatArray) -> FloatArray:
        s, at = self.solution, self._at
        own = np.empty((phi.shape[1], s.t.shape[1]))
        for r in range(own.shape[1]):
            second = s.weight * (at.along * s.readout[:, r] ** 2 + at.scatter)
            own[:, r] = second @ square
        for weight, mean in s.dual.means(self._sample, at, phi):
            own -= weight * mean.reshape(own.shape) ** 2
        rows = s.dual.cross(self._sample, at, phi)
        explained = np.einsum("ij,ji->i", rows, cho_solve(self._factor, rows.T, check_finite=False))
        return np.asarray(own - explained.reshape(own.shape))

    def noise(self, new: FloatArray) -> FloatArray:
        """(l, m) standard errors of `mean`, from the sample that it is an average over.

        Of a quadrature, the difference to that with nodes in between.
        """
        s, m = self.solution, self.task.n_outputs
        if not s.random:
            return np.abs(self.mean(new) - self._between.mean(new))
        found = np.zeros((len(new), m))
        features, rest = self._features.project(new)
        for b in self._blocks(len(new) * m):
            if b.start >= len(new):
                break
            phi = self._moments(features[b], rest[b])[0][0]
            found[b] = s.dual.noise(self._sample, self._at, phi, self._factor, self._free(features[b]))
        return found

    @cached_property
    def _between(self) -> ParticlePredictor:
        """The same on the nodes of a quadrature that are between these."""
        s = self.solution
        sample = nodes(s.activation, s.features, s.prior, np.array(s.t), 0.5)
        if sample is None:  # of a file from elsewhere
            return self
        at = s.dual.at(sample, np.array(s.t))
        kept = np.flatnonzero(at.share > _NOTHING)
        own = replace(
            s, weight=at.share[kept], readout=at.mean[kept], phi=sample.phi[kept], particles=sample.points[kept],
            basin=np.zeros(len(kept), dtype=np.int64), family=kept,
        )  # fmt: skip
        return replace(self, solution=own)

    def _free(self, features: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Outputs of outliers of weight 1 on training inputs, (o, P m), and on others, (o, l m)."""
        s = self.solution
        left, right = self.network.activation.slopes if len(s.outlier_weight) else (0.0, 0.0)
        found = []
        for rows in (s.features, features):
            z = s.outlier_w @ rows.T
            active = np.where(z > 0.0, right, left) * z
            found.append(
                (active[:, :, None] * s.outlier_direction[:, None, :]).reshape(len(z), len(rows) * s.t.shape[1])
            )
        return found[0], found[1]

    def training_kernel(self) -> FloatArray:
        s = self.solution
        return np.asarray(s.phi.T @ (s.weight[:, None] * s.phi))

    def kernel(self, left: FloatArray, right: FloatArray | None, layer: int) -> FloatArray:
        return self._averages(left, right, [self.solution.weight])[0]

    def kernel_noise(self, left: FloatArray, right: FloatArray | None) -> FloatArray:
        """(l, l') standard errors of `kernel`, which parts of the sample move, and with each of them the minimum t."""
        if not self.solution.random:
            return np.abs(self.kernel(left, right, 1) - self._between.kernel(left, right, 1))
        parts = self._averages(left, right, self._influences())
        return np.asarray(np.sqrt(sum(part**2 for part in parts) * (_PARTS / (_PARTS - 1.0))))

    def _influences(self) -> list[FloatArray]:
        """What every part of the sample adds to the weights of points, beyond its share; they sum to zero."""
        s, sample, at = self.solution, self._sample, self._at
        group = s.basin if s.frozen else np.zeros(len(s.weight), dtype=int)
        total = np.bincount(group, s.weight)
        batches = s.dual.batches(sample, at)
        moved = -cho_solve(self._factor, batches.T, check_finite=False).T.reshape(len(batches), *s.t.shape)
        rows = batches_of(sample)
        found = []
        for part in range(_PARTS):
            mine = np.concatenate([np.arange(len(s.weight))[rows[b]] for b in range(part, len(rows), _PARTS)])
            own = np.zeros(len(s.weight))
            own[mine] = s.weight[mine]
            step = moved[part::_PARTS].sum(axis=0)
            own += s.weight * np.einsum("ir,ir->i", s.phi @ step, s.readout)
            own -= s.weight * (np.bincount(group, own, len(total)) / total)[group]
            found.append(own)
        return found

    def _averages(self, left: FloatArray, right: FloatArray | None, weights: list[FloatArray]) -> list[FloatArray]:
        """Sums of E[phi phi' | w] (l, l') over the particles with each of these weights (n,)."""
        other = left if right is None else right
        features, rest = self._features.project(left)
        others, others_rest = self._features.project(other)
        scale = self.network.sigma_w**2 / left.shape[1]
        outside = scale * left @ other.T - features @ others.T
        alone = float(rest.max(initial=0.0)) <= _SPANNED or float(others_rest.max(initial=0.0)) <= _SPANNED
        terms = 1 if alone else _TERMS
        found, square = self._moments(features, rest, terms)
        found2 = found if right is None else self._moments(others, others_rest, terms)[0]
        totals = [found[0].T @ (weight[:, None] * found2[0]) for weight in weights]
        if alone:
            return totals
        scales = np.sqrt(np.maximum(np.multiply.outer(rest, others_rest), 1e-300))
        rho = np.clip(outside / scales, -1.0, 1.0)
        power = np.ones_like(rho)
        for j in range(1, terms):
            power = power * rho
            for total, weight in zip(totals, weights):
                total += power * (found[j].T @ (weight[:, None] * found2[j]))
        same = (rho > 1.0 - 1e-9) & (((features[:, None, :] - others[None, :, :]) ** 2).sum(axis=2) < 1e-18)
        if same.any():
            for total, weight in zip(totals, weights):
                diagonal = (weight[:, None] * square).sum(axis=0)
                total[same] = np.broadcast_to(diagonal[:, None], total.shape)[same]
        return totals

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
