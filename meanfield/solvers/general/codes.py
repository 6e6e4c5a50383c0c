"""Codes of a bounded nonlinearity at one t, each a fixed point of expectation propagation over readout and weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

from meanfield.activation import Activation
from meanfield.solvers.general.compiled.joint import gaussian_moments
from meanfield.solvers.general.compiled.joint import joint_moments as tilted_moments
from meanfield.solvers.general.joint import Joint, Tilted, joint_bound, joint_moments
from meanfield.solvers.general.tilt import tilt_of
from meanfield.validation import FloatArray

__all__ = ["Codes", "JointNeuron", "pattern"]

_MAX_VARIANCE = 10.0  # of a preactivation, in units of its prior variance
_SITE_SCALE = 0.5, 1.6
_OVERLAP = 8.0  # squared distance of readouts, in units of their covariance, within a code
_FAR = 6.0  # of a component, in units of sqrt(s2)
_SAME_PHI = 0.02  # mean square difference of activations
_SEARCH_TOLERANCE = 1e-2
_FIRST, _SECOND = (60, 1.0), (150, 0.5)  # iterations and damping of EP, from known sites and from the bound


class Codes(NamedTuple):
    """Codes known at t (P, m)."""

    t: FloatArray
    joints: tuple[Joint, ...]

    @property
    def log_z(self) -> FloatArray:
        return np.array([joint.log_z for joint in self.joints])

    @property
    def readout(self) -> FloatArray:
        """(n, m) mean readouts."""
        return np.array([joint.readout for joint in self.joints]).reshape(-1, self.t.shape[1])

    @property
    def top(self) -> float:
        return float(self.log_z.max())

    def split(self, depth: float, number: int) -> tuple[Codes, list[Joint]]:
        """The highest codes, at most `number`, down to `depth` below the top; the others."""
        order = np.argsort(-self.log_z, kind="stable")
        keep = [i for i in order[:number] if self.joints[i].log_z > self.top - depth]
        return Codes(self.t, tuple(self.joints[i] for i in keep)), [self.joints[i] for i in order if i not in keep]

    @property
    def weight(self) -> FloatArray:
        """(n,) P_g."""
        log_z = self.log_z
        return np.asarray(np.exp(log_z - logsumexp(log_z)))


class JointNeuron:
    """Joint expectation propagation for z = F w, w ~ N(0, 1_r), a ~ N(0, s2), spread over threads.

    Parameters
    ----------
    activation : Activation
        Bounded.
    matrix : (P, r) array
        F.
    prior : float
        s2 = sigma_a^2 / P.
    threads : int or None
        All processors if None.
    """

    def __init__(self, activation: Activation, matrix: FloatArray, prior: float, threads: int | None = None) -> None:
        self.activation, self.matrix, self.prior = activation, matrix, prior
        self.tilt = tilt_of(activation)
        self.bound = _MAX_VARIANCE * np.sum(matrix * matrix, axis=1)
        self.ends = activation.limits
        self.pool = ThreadPoolExecutor(threads or os.cpu_count() or 1)
        self.variational = False  # the bound everywhere
        self.fallback = False  # the bound where EP fails

    def tilted(self, mean: FloatArray, cov: FloatArray) -> Tilted | None:
        """Tilted averages from the moments of z, kappa being Gaussian at given z."""
        moments = np.empty((len(mean), 6))
        tilted_moments(self.tilt, mean, cov, *self.ends, moments)
        if not np.isfinite(moments).all():
            return None
        log_norm, z, spread_z, phi, spread, mixed = moments.T
        v = cov[:, 1, 1]
        still = v < 1e-20  # zero input: z = 0
        v = np.where(still, 1.0, v)
        beta = np.where(still, 0.0, cov[:, 0, 1] / v)
        first = np.stack([phi, np.where(still, 0.0, (z - mean[:, 1]) / v - beta * phi)], axis=-1)
        cross = np.where(still, 0.0, mixed / v - beta * spread)
        bend = spread_z / v**2 - 2.0 * beta * mixed / v + beta**2 * spread - 1.0 / v
        second = np.stack([spread, cross, cross, np.where(still, 0.0, bend)], axis=-1).reshape(-1, 2, 2)
        return Tilted(log_norm, first, second, np.where(still, 0.0, mixed / spread_z))

    def gaussian(self, mean: FloatArray, variance: FloatArray) -> FloatArray:
        """E phi^2 and E[phi He_j], j < 4, of Gaussian z."""
        moments = np.empty((len(mean), 5))
        gaussian_moments(self.tilt, mean, variance, moments)
        return moments

    def _ep(self, t: FloatArray, start: Any, tolerance: float, effort: tuple[int, float] = _FIRST) -> Joint | None:
        return joint_moments(self.matrix, t, self.prior, self.tilted, start, tolerance, self.bound, *effort)

    def solve(self, t: FloatArray, start: Any, tolerance: float, bound: bool = False) -> Joint | None:
        """The code near sites (Q, nu) by EP, if need be from the variational Gaussian; that one itself if `bound`."""
        with np.errstate(all="ignore"):  # what is not finite is rejected
            return self._solve(t, start, tolerance, bound or self.variational)

    def _solve(self, t: FloatArray, start: Any, tolerance: float, only: bool) -> Joint | None:
        found = None if only else self._ep(t, start, tolerance)
        if found is None:
            loose = min(tolerance, _SEARCH_TOLERANCE) if only or self.fallback else _SEARCH_TOLERANCE
            found = joint_bound(self.matrix, t, self.prior, self.gaussian, start, loose)
            if found is not None and not only:
                exact = self._ep(t, (found.q, found.nu), tolerance, _SECOND)
                found = found if exact is None and self.fallback else exact
        return found

    def map(self, job: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return list(self.pool.map(job, items))

    def moved(self, codes: Codes, t: FloatArray, tolerance: float) -> tuple[Codes, list[Joint]]:
        """The codes at another t, each once; those (at the old t) that merged, or for which EP has become the bound."""

        def job(old: Joint) -> Joint | None:
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = (t @ old.readout) / (codes.t @ old.readout)
            ratio = np.clip(np.nan_to_num(ratio, nan=1.0), *_SITE_SCALE)
            q, nu = old.q.copy(), old.nu.copy()
            q[:, 1, 1] *= ratio
            nu[:, 1] *= ratio
            return self.solve(t, (q, nu), tolerance, old.bound) or self.solve(t, pattern(old.phi), tolerance)

        found = self.map(job, codes.joints)
        kept = self.distinct(Codes(t, tuple(joint for joint in found if joint is not None)))
        still = {id(joint) for joint in kept.joints}
        left = [
            old
            for old, new in zip(codes.joints, found)
            if id(new) not in still or (new is not None and new.bound and not old.bound)
        ]
        return kept, left

    def same(self, one: Joint, other: Joint) -> bool:
        """Whether two Gaussians describe one code: their readouts overlap and their activations agree."""
        gap = one.readout - other.readout
        if float(np.abs(gap).max()) > _FAR * np.sqrt(self.prior):
            return False
        far = float(gap @ np.linalg.solve(0.5 * (one.covariance + other.covariance), gap)) > _OVERLAP
        return not far and float(np.mean((one.phi - other.phi) ** 2)) < _SAME_PHI

    def distinct(self, codes: Codes) -> Codes:
        """One of each group of codes that have become the same: by EP if there is one, the largest. Keeps the order."""
        kept: list[Joint] = []
        for joint in sorted(codes.joints, key=lambda joint: (joint.bound, -joint.log_z)):
            if not any(self.same(joint, other) for other in kept):
                kept.append(joint)
        chosen = {id(joint) for joint in kept}
        return Codes(codes.t, tuple(joint for joint in codes.joints if id(joint) in chosen))

    def search(self, t: FloatArray, sites: list[Any], known: Codes | None, tolerance: float, depth: float) -> Codes:
        """Known codes and those that EP reaches from sites, roughly if `depth` below the top."""

        def rough(start: Any) -> Joint | None:
            return self.solve(t, start, _SEARCH_TOLERANCE, bound=self.variational or self.fallback)

        old = () if known is None else known.joints
        found = self.distinct(Codes(t, tuple(joint for joint in self.map(rough, sites) if joint is not None)))
        fresh = [joint for joint in found.joints if not any(self.same(joint, other) for other in old)]
        top = max([joint.log_z for joint in (*old, *fresh)], default=-np.inf)

        def polished(joint: Joint) -> Joint | None:
            return joint if joint.log_z < top - depth else self.solve(t, (joint.q, joint.nu), tolerance)

        exact = [joint for joint in self.map(polished, fresh) if joint is not None]
        return self.distinct(Codes(t, (*old, *exact)))


def pattern(phi: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Sites of readouts that follow activations phi (P,): a = s2 t^T phi, weights as in the prior."""
    nu = np.zeros((len(phi), 2))
    nu[:, 0] = phi
    return np.zeros((len(phi), 2, 2)), nu
