"""The dual of an unbounded piecewise linear activation on any data: sequential quadratic programmes with a cone.

    minimise J(t) = -<t, Y> + tau |t|^2 / 2 + log Z_bulk(t)   subject to   q(u; t) <= P / 2 sigma_a^2 for all u

The multipliers lam_o of the active local maxima (u_o, w_o) of q are the outliers,

    Y = <a phi>_bulk + sum_o lam_o phi(F w_o) u_o^T + tau t.

Every step sees all local maxima that are nearly active, followed to the current t, with the curvature of J and of q,
and ends where J + penalty * violation has decreased, the maxima being followed to the trial t. New maxima are searched
at every step from a few starts and, before the result counts, from many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from meanfield.numerics.limits import check_time
from meanfield.numerics.quadratic import quadratic_programme
from meanfield.theories.general_data.lattice.nodes import Lattice
from meanfield.theories.general_data.outliers.bulk import bulk_moments
from meanfield.theories.general_data.outliers.cone import (
    ConeMaxima,
    cone_starts,
    cone_terms,
    crossed_starts,
    follow,
    local_maxima,
)
from meanfield.theories.general_data.outliers.lattice import BoundedNeuron, lattice_bulk
from meanfield.validation import FloatArray

__all__ = ["OutlierDual", "OutlierState"]

_NEARLY_ACTIVE = 0.8
_SEED = 0.9  # of the reach: where nodes are looked for along the ridges
_MAX_TRACKED = 300
_PATIENCE = 10  # steps without half the error before the iteration is given up
_NEAR, _SMALLER = 0.5, 0.95  # error below which an error smaller by this factor is as good as a smaller merit
_SETTLED = 0.05  # error below which the bulk hardly changes any more
_SHORTEST = 1e-4, 0.02  # steps of the line search, far away and near
_JUMPS = 4  # steps that may increase the error
_SEARCHED = 1e-3  # error at which maxima are first searched from many starts
_LOOSEST, _LOOSER = 1e-4, 1e-2  # tolerance of expectation propagation: at most, and as a share of the error


class OutlierState(NamedTuple):
    """One t with its bulk, the tracked maxima of the cone, and the quadratic programme solved there."""

    t: FloatArray  # (P, m)
    bulk: Any
    maxima: ConeMaxima
    multiplier: FloatArray  # (n,) of the maxima, lam_o >= 0
    step: FloatArray  # (P, m)
    error: float  # violation of the stationarity conditions


class OutlierDual:
    """One problem; `basis` (P, C) restricts t to basis @ theta, e.g. to one value per class.

    Parameters
    ----------
    features : (P, r) array
    targets : (P, m) array
    s2 : float
        sigma_a^2 / P.
    tau : float
        N T.
    slopes : (s_-, s_+)
    basis : (P, C) array, optional
    """

    def __init__(
        self,
        features: FloatArray,
        targets: FloatArray,
        s2: float,
        tau: float,
        slopes: tuple[float, float],
        basis: FloatArray | None = None,
    ) -> None:
        self.features, self.targets, self.s2, self.tau, self.slopes = features, targets, s2, tau, slopes
        self.basis = basis
        self.limit = 0.5 / s2
        self.lattice: Lattice | None = None
        self.neuron: BoundedNeuron | None = None
        self.ep_tolerance = 1e-8
        self.loose = 0.0  # tolerance while the error is large
        self.ridges = np.empty((0, targets.shape[1]))  # directions in which the bulk may have ridges

    def reduce(self, rows: FloatArray) -> FloatArray:
        """Component of (..., P, m) along the basis, (..., n_free, m)."""
        return rows if self.basis is None else np.asarray(np.einsum("...pm,pc->...cm", rows, self.basis))

    def full(self, free: FloatArray) -> FloatArray:
        """(P, m) from (n_free, m)."""
        return free if self.basis is None else self.basis @ free

    def linear(self, t: FloatArray) -> float:
        """-<t, Y> + tau |t|^2 / 2."""
        return float(np.sum(t * (0.5 * self.tau * t - self.targets)))

    def violation(self, maxima: ConeMaxima) -> float:
        """Sum over the maxima of what q exceeds its limit by, as a share of it."""
        return float(np.maximum(maxima.value / self.limit - 1.0, 0.0).sum())

    def bulk(self, t: FloatArray, start: Any, thorough: bool = False) -> Any:
        if self.lattice is not None and self.neuron is not None:
            tolerance = max(self.ep_tolerance, self.loose)
            seeds = _SEED * self.neuron.reach * self.ridges
            return lattice_bulk(self.neuron, t, self.lattice, start, tolerance, seeds, thorough)
        return bulk_moments(self.features, t, self.s2, self.slopes, start)

    def explore(
        self,
        t: FloatArray,
        known: ConeMaxima | None,
        rng: np.random.Generator,
        n_random: int,
        labels: np.ndarray | None,
    ) -> ConeMaxima:
        """Local maxima at t from the known ones and from new starts."""
        u, w = cone_starts(self.features, t, rng, n_random, labels)
        if known is not None:
            between = crossed_starts(known, rng, n_random) if len(known.value) > 1 else (u[:0], w[:0])
            u, w = np.vstack([known.direction, between[0], u]), np.vstack([known.weights, between[1], w])
        return local_maxima(self.features, t, self.slopes, (u, w))

    def track(self, maxima: ConeMaxima) -> ConeMaxima:
        """Those that are nearly active."""
        return maxima.keep(np.flatnonzero(maxima.value > _NEARLY_ACTIVE * self.limit)[:_MAX_TRACKED])

    def start(self, rng: np.random.Generator, labels: np.ndarray | None) -> FloatArray:
        """The targets, scaled so that q is just below its limit; zero where they are."""
        t = self.full(self.reduce(self.targets) / (1.0 if self.basis is None else self.basis.sum(0)[:, None]))
        maxima = self.explore(t, None, rng, 20, labels)
        return t * np.sqrt(0.95 * self.limit / maxima.value[0]) if maxima.value.size else np.zeros_like(t)

    def state(self, t: FloatArray, bulk: Any, maxima: ConeMaxima, before: OutlierState | None) -> OutlierState:
        """Solve the quadratic programme at t; its multipliers are the outliers' weights once the step vanishes."""
        gradient = self.reduce(self.tau * t - self.targets + bulk.mean_a_phi)
        slope = np.array([
            self.reduce(maxima.direction[i] * self.phi(self.features @ w)[:, None])
            for i, w in enumerate(maxima.weights)
        ]).reshape(len(maxima.value), gradient.size)  # fmt: skip
        hessian = self.hessian(t, bulk, maxima, inherit(maxima, before))
        slack = maxima.value - self.limit
        if len(slope):
            step, multiplier = quadratic_programme(hessian, gradient.ravel(), slope, slack)
        else:
            step, multiplier = np.asarray(-np.linalg.solve(hessian, gradient.ravel()), dtype=float), np.zeros(0)
        scale = 1.0 if self.basis is None else np.abs(self.basis).sum(0)[:, None]
        rest = (gradient + (multiplier @ slope).reshape(gradient.shape)) / scale
        error = max(
            float(np.abs(rest).max()),
            float((multiplier * np.abs(slack)).max(initial=0.0)) * self.s2**0.5,
            float(slack.max(initial=0.0)) / self.limit,
        )
        return OutlierState(t, bulk, maxima, multiplier, self.full(step.reshape(gradient.shape)), error)

    def phi(self, z: FloatArray) -> FloatArray:
        return np.where(z > 0, self.slopes[1], self.slopes[0]) * z

    def hessian(self, t: FloatArray, bulk: Any, maxima: ConeMaxima, multiplier: FloatArray) -> FloatArray:
        """d^2 J / dt^2 (nearly: the response of the EP sites is left out) plus multipliers times that of q."""
        matrix = bulk.hessian(self.basis)
        for i in np.flatnonzero(multiplier > 0):
            check_time()
            roots = self.reduce(cone_terms(self.features, t, self.slopes, maxima, int(i))[1])
            roots = roots.reshape(len(roots), -1)
            matrix += multiplier[i] * (roots.T @ roots)
        if self.basis is None:
            matrix[np.diag_indices(len(matrix))] += self.tau
        else:
            matrix += self.tau * np.kron(self.basis.T @ self.basis, np.eye(t.shape[1]))
        matrix[np.diag_indices(len(matrix))] += 1e-12 * np.trace(matrix) / len(matrix)
        return np.asarray(matrix)

    def minimise(
        self,
        t: FloatArray,
        rng: np.random.Generator,
        tolerance: float,
        *,
        labels: np.ndarray | None = None,
        max_steps: int = 150,
        n_random: int = 8,
        n_final: int = 100,
        known: ConeMaxima | None = None,
        max_extrapolated: float = np.inf,
        start: Any = None,
        report: Callable[[OutlierState], None] | None = None,
    ) -> OutlierState | None:
        """SQP from t; None where the bulk has no EP fixed point at the start. The last state otherwise.

        `start` is a bulk at a neighbouring t. Given up where EP fails on more than `max_extrapolated` of the weight.
        """
        bulk = self.bulk(t, start)
        if bulk is None:
            return None
        maxima = self.explore(t, known, rng, n_random, labels)
        penalty = 0.0
        state = self.state(t, bulk, self.track(maxima), None)
        errors: list[float] = []
        searched, jumps = n_final == 0, _JUMPS
        for _ in range(max_steps):
            if report is not None:
                report(state)
            if errors and state.error > 10.0 * errors[-1]:
                errors.clear()  # a new maximum was found
            errors.append(state.error)
            if len(errors) > 2 * _PATIENCE and min(errors[-_PATIENCE:]) > 0.5 * min(errors[:-_PATIENCE]):
                break
            settled = max_extrapolated < np.inf and state.error < _SETTLED
            if settled and state.bulk.extrapolated > max_extrapolated:
                break
            if state.error <= tolerance or (not searched and tolerance < state.error <= _SEARCHED):
                maxima = self.track(self.explore(state.t, state.maxima, rng, n_final, labels))
                state = self.state(state.t, state.bulk, maxima, state)
                searched = state.error <= _SEARCHED
                if state.error <= tolerance:
                    break
            penalty = max(0.9 * penalty, 2.0 * float(state.multiplier.max(initial=0.0)) * self.limit)
            trial = self.line_search(state, penalty, rng, n_random, labels)
            if trial is None and jumps and state.error < _NEAR and self.lattice is not None:
                # The fixed point of some node ends on the way: go beyond, on another one.
                jumps -= 1
                trial = self.line_search(state, penalty, rng, n_random, labels, forced=True)
            if trial is None:
                break
            state = trial
        return state

    def line_search(
        self,
        state: OutlierState,
        penalty: float,
        rng: np.random.Generator,
        n_random: int,
        labels: np.ndarray | None,
        forced: bool = False,
    ) -> OutlierState | None:
        """The first of the shortened steps that decreases J + penalty * violation, or the error; any, if `forced`."""
        self.loose = min(_LOOSEST, _LOOSER * state.error)
        self.ridges = state.maxima.direction[state.multiplier > 0]
        longest = np.abs(state.t).max() + 0.5
        step = state.step * min(1.0, longest / max(float(np.abs(state.step).max()), 1e-300))
        merit = self.linear(state.t) + state.bulk.log_z + penalty * self.violation(state.maxima)
        length = 1.0
        while length > _SHORTEST[state.error < 1.0]:
            t = state.t + length * step
            bulk = self.bulk(t, state.bulk)
            if bulk is not None:
                maxima = follow(self.features, t, self.slopes, state.maxima)
                value = self.linear(t) + bulk.log_z + penalty * self.violation(maxima)
                better = value < merit - 1e-12 * (1.0 + abs(merit))
                if forced or better or state.error < _NEAR:
                    found = self.track(self.explore(t, maxima, rng, n_random, labels))
                    if better:  # with the new maxima, too?
                        back = self.violation(follow(self.features, state.t, self.slopes, found))
                        before = max(merit, self.linear(state.t) + state.bulk.log_z + penalty * back)
                        better = self.linear(t) + bulk.log_z + penalty * self.violation(found) < before
                    if forced or better or state.error < _NEAR:
                        trial = self.state(t, bulk, found, state)
                        if forced or better or trial.error < _SMALLER * state.error:
                            return trial
            length *= 0.4
        return None


def inherit(maxima: ConeMaxima, before: OutlierState | None) -> FloatArray:
    """Multipliers of the maxima from those that were nearest to them one step before."""
    multiplier = np.zeros(len(maxima.value))
    if before is not None and len(before.maxima.value) and len(multiplier):
        unit = [w / np.linalg.norm(w, axis=1, keepdims=True) for w in (maxima.weights, before.maxima.weights)]
        for j in np.flatnonzero(before.multiplier > 0):
            overlap = unit[0] @ unit[1][j]
            best = int(np.argmax(overlap))
            if overlap[best] > 0.9:
                multiplier[best] += before.multiplier[j]
    return multiplier
