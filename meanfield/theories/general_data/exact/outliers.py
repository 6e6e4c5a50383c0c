"""The exact measure of the bulk of an unbounded phi, with outliers as multipliers of the cone.

The bulk are the neurons with |a| <= R: R is the reach of the solution, or sigma_a where bulk and outliers are separated
(the density in between is e^-12 or less of that of the bulk, which place is taken does not matter). On a sample of its
exact measure the dual

    J(t) = -<t, Y> + (tau / 2)|t|^2 + ln Z_bulk(t)    subject to    q(u; t) <= P / 2 sigma_a^2

(q with the slopes that phi has far away) is that of `outliers/dual.py`, whose programme is solved with this Z_bulk. One
step of it at the solution of expectation propagation, tau dt, is the difference between outputs, along active maxima of
q. See general_data/THEORY.md, "Held against the exact neuron".
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from meanfield.numerics.limits import check_time
from meanfield.theories.general_data.exact.check import Sampler
from meanfield.theories.general_data.exact.coverage import Mode, cover
from meanfield.theories.general_data.exact.particles import ParticleSolution
from meanfield.theories.general_data.exact.proposal import Mixture
from meanfield.theories.general_data.exact.sample import At, Dual, Sample, Shift
from meanfield.theories.general_data.outliers.check import outlier_violation
from meanfield.theories.general_data.outliers.cone import ConeMaxima, follow
from meanfield.theories.general_data.outliers.dual import OutlierDual, OutlierState
from meanfield.theories.general_data.outliers.solution import OutlierSolution
from meanfield.theories.general_data.slices import factorise
from meanfield.validation import FloatArray, IntArray

__all__ = ["BulkSampler", "OutlierParticles"]

_STARTS, _FEW = 100, 8  # of the search for maxima of q
_TOLERANCE = 1e-8
_ARRIVED = 1e-6  # error of a minimum that counts; both in units of the largest target below one
_RIDGES = 0.8  # of the limit of q: maxima that may be ridges of the bulk
_MOST_RIDGES = 40
_WIDEST = 0.1  # least precision across a ridge
_LIGHTEST = 1e-10


@dataclass(frozen=True, eq=False)
class OutlierParticles(ParticleSolution, OutlierSolution):
    """An `OutlierSolution` whose bulk is a weighted sample."""


@dataclass(frozen=True)
class SampledBulk:
    """The bulk at one t on a sample; the names mean what they do in `outliers.lattice.LatticeBulk`."""

    dual: Dual
    sample: Sample
    at: At

    iterations = 0

    @property
    def log_z(self) -> float:
        return self.at.log_z

    @property
    def mean_a_phi(self) -> FloatArray:
        return self.at.average

    @property
    def readout(self) -> FloatArray:
        return np.asarray(self.at.share @ self.at.mean)

    def hessian(self, basis: FloatArray | None) -> FloatArray:
        assert basis is None
        return self.dual.covariance(self.sample, self.at)


class SampledDual(OutlierDual):
    """The programme of `OutlierDual`, with the bulk of a sample."""

    def __init__(self, solution: OutlierSolution, exact: Dual, sample: Sample, least_effective: float) -> None:
        slopes = float(solution.activation.slopes[0]), float(solution.activation.slopes[1])
        super().__init__(solution.features, solution.targets, solution.prior, solution.tau, slopes)
        self.exact, self.sample, self.least_effective = exact, sample, least_effective

    def bulk(self, t: FloatArray, start: object, thorough: bool = False) -> SampledBulk | None:
        at = self.exact.at(self.sample, t)
        enough = math.isfinite(at.log_z) and at.effective >= self.least_effective
        return SampledBulk(self.exact, self.sample, at) if enough else None


class BulkSampler(Sampler):
    """Samples of the exact measure of a bulk, and the programme with the cone on them."""

    solution: OutlierSolution

    def __init__(
        self,
        solution: OutlierSolution,
        labels: IntArray | None,
        rng: np.random.Generator,
        mixture: Mixture | None = None,
    ) -> None:
        sigma_a = math.sqrt(solution.prior * solution.n_samples)
        self.reach = min(solution.reach, sigma_a) if math.isinf(solution.reach) else solution.reach
        super().__init__(solution, labels, rng, mixture)
        self.maxima: ConeMaxima | None = None  # of q, the last ones found
        self.state: OutlierState | None = None

    def quadrature(self, t: FloatArray, shift: float = 0.0) -> None:
        return None

    def _programme(self, sample: Sample, least_effective: float = 0.0) -> SampledDual:
        return SampledDual(self.solution, self.dual, sample, least_effective)

    def _found(self, dual: SampledDual, t: FloatArray, starts: int) -> ConeMaxima:
        """The nearly active maxima of q at t."""
        if self.maxima is None:
            s = self.solution
            none = len(s.outlier_weight)
            self.maxima = ConeMaxima(
                np.full(none, dual.limit), np.array(s.outlier_direction), np.array(s.outlier_w),
                np.array(s.outlier_pattern), np.ones(none, dtype=int), 0, 0,
            )  # fmt: skip
        self.maxima = dual.track(dual.explore(t, self.maxima, self.rng, starts, self.labels))
        return self.maxima

    def shift(self, sample: Sample, t: FloatArray) -> tuple[Shift, At]:
        dual = self._programme(sample)
        at = self.dual.at(sample, t)
        if not math.isfinite(at.log_z):
            lost = np.full(t.shape, math.nan)
            return Shift(lost, lost), at
        bulk = SampledBulk(self.dual, sample, at)
        maxima = self._found(dual, t, _FEW)
        state = dual.state(t, bulk, maxima, None)
        state = dual.state(t, bulk, maxima, state)  # now with the curvature of q
        error = self._noise(dual, sample, state, at)
        return Shift(self.solution.tau * state.step, error), at

    def _noise(self, dual: SampledDual, sample: Sample, state: OutlierState, at: At) -> FloatArray:
        """Standard error of tau dt: what fluctuates of <a phi>, through the step along the active constraints."""
        from scipy.linalg import cho_solve

        batches = self.dual.batches(sample, at)
        hessian = dual.hessian(state.t, state.bulk, state.maxima, state.multiplier)
        factor = factorise(hessian)
        solved = cho_solve(factor, batches.T, check_finite=False)
        active = np.flatnonzero(state.multiplier > _LIGHTEST * state.multiplier.max(initial=0.0))
        if len(active):
            slope = np.array([
                np.multiply.outer(dual.phi(self.solution.features @ state.maxima.weights[i]), state.maxima.direction[i])
                for i in active
            ]).reshape(len(active), -1)  # fmt: skip
            across = cho_solve(factor, slope.T, check_finite=False)
            solved = solved - across @ np.linalg.lstsq(slope @ across, slope @ solved, rcond=1e-12)[0]
        count = len(batches)
        error = self.solution.tau * np.sqrt(np.sum(solved**2, axis=1) * (count / (count - 1.0)))
        return np.asarray(error.reshape(state.t.shape))

    def minimise(self, sample: Sample, t: FloatArray, least_effective: float = 0.0) -> tuple[FloatArray, At, bool]:
        dual = self._programme(sample, least_effective)
        unit = min(1.0, float(np.abs(self.solution.targets).max()) or 1.0)
        known = follow(self.solution.features, t, dual.slopes, self._found(dual, t, _FEW))
        state = dual.minimise(
            t,
            self.rng,
            _TOLERANCE * unit,
            labels=self.labels,
            n_final=_STARTS,
            known=known,
            report=lambda state: check_time(),
        )
        if state is None:
            return t, self.dual.at(sample, t), False
        self.state, self.maxima = state, state.maxima
        return state.t, state.bulk.at, state.error <= _ARRIVED * unit

    def scout(self, t: FloatArray) -> None:
        """Add the ridges along the maxima of q that the proposal does not reach."""
        sample = self.sample(self.first, t)
        dual = self._programme(sample)
        log_z = self.dual.at(sample, t).log_z
        found = list(self._ridges(dual, t, self._found(dual, t, _STARTS)))
        check_time()
        self.mixture, self.missed = cover(self.mixture, self.solution, t, log_z, found, self.rng, self.reach)

    def _ridges(self, dual: SampledDual, t: FloatArray, maxima: ConeMaxima) -> Iterator[Mode]:
        """Gaussians along w = rho w_o, up to the reach of the readout, with the width of q across."""
        s = self.solution
        for i in range(min(_MOST_RIDGES, len(maxima.value))):
            share = min(1.0, maxima.value[i] / dual.limit)  # s2 |t^T phi|^2 at |w| = 1
            if share < _RIDGES:
                break
            unit = maxima.weights[i] / np.linalg.norm(maxima.weights[i])
            longest = self.reach / math.sqrt(s.prior * share)
            slope = np.where(maxima.pattern[i] > 0, dual.slopes[1], dual.slopes[0])
            along = (slope[:, None] * s.features).T @ t  # (r, m)
            precision = np.eye(len(unit)) - s.prior * along @ along.T
            values, vectors = np.linalg.eigh(precision)
            covariance = (vectors / np.clip(values, _WIDEST, None)) @ vectors.T
            inside = covariance @ unit
            covariance -= np.multiply.outer(inside, inside) / (unit @ inside)
            covariance += 0.25 * longest**2 * np.multiply.outer(unit, unit)
            root = np.linalg.cholesky(covariance + 1e-9 * np.eye(len(unit)))
            weights = 0.5 * longest * unit
            level = self.dual.at(_point(s, weights), t).log_z - 0.5 * weights @ weights
            yield Mode(weights, root, float(level + np.log(np.diag(root)).sum()))

    def answer(self, sample: Sample, at: At, t: FloatArray, half_t: FloatArray | None = None) -> OutlierParticles:
        state = self.state
        assert state is not None
        plain = super().answer(sample, at, t, half_t)
        dual = self._programme(sample)
        order = np.argsort(-state.multiplier, kind="stable")
        heaviest = float(state.multiplier.max(initial=0.0))
        active = order[state.multiplier[order] > _LIGHTEST * max(heaviest, 1e-300)]
        u, w, weight = state.maxima.direction[active], state.maxima.weights[active], state.multiplier[active]
        outputs = (dual.phi(self.solution.features @ w.T) * weight) @ u
        average = plain.phi.T @ (plain.weight[:, None] * plain.readout)
        searched = dual.explore(t, state.maxima, self.rng, _STARTS, self.labels)
        highest = float(searched.value.max(initial=0.0))
        values = {f.name: getattr(plain, f.name) for f in fields(plain)}
        return OutlierParticles(**values | {
            "residual": float(np.abs(self.solution.targets - average - outputs - self.solution.tau * t).max()),
            "reach": self.reach,
            "outlier_direction": u,
            "outlier_weight": weight,
            "outlier_w": w,
            "outlier_pattern": state.maxima.pattern[active],
            "limit": dual.limit,
            "cone_excess": highest / dual.limit - 1.0,
            "cone_starts": searched.starts,
            "cone_hits": int(searched.hits[searched.value >= highest * (1.0 - 1e-6)].sum()),
            "cone_failed": searched.failed,
            "slackness": float((weight * np.abs(state.maxima.value[active] / dual.limit - 1.0)).max(initial=0.0)),
            "outlier_violation": outlier_violation(self.solution.features, t, dual.s2, dual.slopes, u, w),
            "separation": self.solution.separation,
        })  # fmt: skip


def _point(solution: OutlierSolution, weights: FloatArray) -> Sample:
    phi = solution.activation(solution.features @ weights)
    return Sample(weights[None], phi[None], np.zeros(1))
