"""Codes of a bounded nonlinearity at one t, each a fixed point of expectation propagation over readout and weights."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar, cast

import numpy as np
from scipy.special import logsumexp

from meanfield.activations.activation import Activation
from meanfield.numerics.limits import mapped
from meanfield.theories.general_data.compiled.joint import gaussian_moments
from meanfield.theories.general_data.compiled.joint import joint_moments as tilted_moments
from meanfield.theories.general_data.joint.neuron import Cut, Joint, Tilted, cavities, joint_bound, joint_moments
from meanfield.theories.general_data.joint.pieces import apart, places, region, within
from meanfield.theories.general_data.tilt import tilt_of
from meanfield.validation import FloatArray

Start = tuple[FloatArray, FloatArray] | None  # sites
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

__all__ = ["NEGLIGIBLE", "SAME_PHI", "Codes", "Cuts", "JointNeuron", "Start", "pattern"]

_MAX_VARIANCE = 10.0  # of a preactivation, in units of its prior variance
_OVERLAP = 8.0  # squared distance of readouts, in units of their covariance, within a code
_FAR = 6.0  # of a component, in units of sqrt(s2)
SAME_PHI = 0.02  # mean square difference of activations
_SEARCH_TOLERANCE = 1e-2
_MAX_CUTS, _SIBLINGS = 8, 3
_SHORTEST = 1.0 / 16.0  # part of a step
NEGLIGIBLE = -12.0  # ln of a weight
_INCOMPLETE = 1.0  # of ln Z
_FIRST, _SECOND = (60, 1.0), (120, 0.5)  # iterations and damping of EP, from known sites and from the bound


Cuts = tuple[Cut, ...]


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
    def without_negligible(self) -> Codes:
        """Without the negligible pieces of codes."""
        top: dict[int, float] = {}
        for joint in self.joints:
            top[joint.family] = max(top.get(joint.family, -np.inf), joint.log_z)
        return Codes(self.t, tuple(j for j in self.joints if not j.cuts or j.log_z > top[j.family] + NEGLIGIBLE))

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
        self.families = itertools.count()
        self.splitting = True  # codes into pieces where EP fails
        self.variational = False  # the bound everywhere
        self.fallback = False  # the bound where EP fails

    def tilted(self, mean: FloatArray, cov: FloatArray, cuts: Cuts = ()) -> Tilted | None:
        """Tilted averages from the moments of z, kappa being Gaussian at given z."""
        moments = np.empty((len(mean), 6))
        at, sharp = np.zeros(len(mean)), np.zeros(len(mean))
        for cut in cuts:
            at[cut.sample], sharp[cut.sample] = cut.at, cut.side / cut.width
        tilted_moments(self.tilt, mean, cov, *self.ends, at, sharp, moments)
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

    def _ep(self, t: FloatArray, start: Start, tolerance: float, cuts: Cuts, effort: tuple[int, float]) -> Joint | None:
        tilted = functools.partial(self.tilted, cuts=cuts) if cuts else self.tilted
        return joint_moments(self.matrix, t, self.prior, tilted, start, tolerance, self.bound, *effort)

    def solve(
        self, t: FloatArray, start: Start, tolerance: float, bound: bool = False, cuts: Cuts = (), family: int = -1
    ) -> Joint | None:
        """The code near sites (Q, nu) by EP, if need be from the variational Gaussian; that one itself if `bound`.

        With cuts, the piece of a code, by EP only.
        """
        with np.errstate(all="ignore"):  # what is not finite is rejected
            found = self._solve(t, start, tolerance, bound or self.variational, cuts)
        if found is None:
            return None
        return found._replace(cuts=cuts, family=next(self.families) if family < 0 else family)

    def _solve(self, t: FloatArray, start: Start, tolerance: float, only: bool, cuts: Cuts) -> Joint | None:
        found = None if only else self._ep(t, start, tolerance, cuts, _FIRST)
        if found is None and not cuts:
            loose = min(tolerance, _SEARCH_TOLERANCE) if only or self.fallback else _SEARCH_TOLERANCE
            found = joint_bound(
                self.matrix, t, self.prior, self.gaussian, cast("tuple[FloatArray, FloatArray]", start), loose
            )
            if found is not None and not only:
                exact = self._ep(t, (found.q, found.nu), tolerance, cuts, _SECOND)
                found = found if exact is None and self.fallback else exact
        return found

    def again(self, t: FloatArray, joint: Joint, start: Start, tolerance: float) -> Joint | None:
        """The same code or piece from other sites."""
        return self.solve(t, start, tolerance, joint.bound, joint.cuts, joint.family)

    def map(self, job: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        return list(mapped(self.pool, job, items))

    def move(self, codes: Codes, t: FloatArray, tolerance: float) -> tuple[Codes, list[Joint]]:
        """The codes at another t, each once; those (at the old t) that merged, or for which EP has become the bound."""

        floor = codes.top + NEGLIGIBLE

        def job(old: Joint) -> list[Joint]:
            if not old.bound and not self.variational:
                with np.errstate(all="ignore"):
                    new = self._ep(t, (old.q, old.nu), tolerance, old.cuts, _FIRST)
                if new is not None:
                    return [new._replace(cuts=old.cuts, family=old.family)]
                if old.log_z > floor:
                    far, at = self.follow(old, codes.t, t, tolerance)
                    if at is t:
                        return [far]
                    pieces = self.pieces(far, t, places(far, at, self.activation), tolerance) if self.splitting else []
                    if pieces:
                        return pieces
            new = self.again(t, old, (old.q, old.nu), tolerance) or self.again(t, old, pattern(old.phi), tolerance)
            return [] if new is None else [new]

        found = self.map(job, codes.joints)
        siblings: dict[int, list[Joint]] = {}
        for joint in (joint for group in found for joint in group):
            siblings.setdefault(joint.family, []).append(joint)

        def rescued(pair: tuple[Joint, list[Joint]]) -> list[Joint]:
            old, group = pair
            if group or not old.cuts or old.log_z < floor:
                return group
            starts = sorted(siblings.get(old.family, []), key=lambda joint: -joint.log_z)[:_SIBLINGS]
            tries = (self.again(t, old, (joint.q, joint.nu), tolerance) for joint in starts)
            return [joint for joint in tries if joint is not None][:1]

        found = self.map(rescued, zip(codes.joints, found))
        kept = self.distinct(Codes(t, tuple(joint for group in found for joint in group)))
        still = {id(joint) for joint in kept.joints}
        left = [
            old
            for old, group in zip(codes.joints, found)
            if not any(id(new) in still and new.bound <= old.bound for new in group)
        ]
        return kept, left

    def follow(self, old: Joint, start: FloatArray, end: FloatArray, tolerance: float) -> tuple[Joint, FloatArray]:
        """A code on the way from one t to another, as far as EP finds it; and the t there."""
        joint, t = old, start
        done, step = 0.0, 0.5
        while step >= _SHORTEST:
            at = end if done + step == 1.0 else start + (done + step) * (end - start)
            with np.errstate(all="ignore"):
                new = self._ep(at, (joint.q, joint.nu), tolerance, old.cuts, _FIRST)
            if new is None:
                step *= 0.5
                continue
            joint, t = new._replace(cuts=old.cuts, family=old.family), at
            done += step
            if at is end:
                break
            step = min(step, 1.0 - done)
        return joint, t

    def pieces(self, old: Joint, t: FloatArray, cuts: list[Cut], tolerance: float) -> list[Joint]:
        """What EP finds of a code at t when it is cut at the first of `cuts`, and its pieces at the following ones."""
        found: list[Joint] = []
        if not cuts or len(old.cuts) == _MAX_CUTS:
            return found
        above = self.matrix[cuts[0].sample] @ old.weights > cuts[0].at
        cut = cuts[0] if above else cuts[0].flipped
        for part in ((*old.cuts, cut), (*old.cuts, cut.flipped)):
            if found and max(self.flipped(joint, t, len(old.cuts)) for joint in found) < NEGLIGIBLE:
                break
            with np.errstate(all="ignore"):
                new = self._ep(t, (old.q, old.nu), tolerance, part, _SECOND)
            if new is not None:
                found.append(new._replace(cuts=part, family=old.family))
            else:
                found += self.pieces(old._replace(cuts=part), t, cuts[1:], tolerance)
        return found

    def flipped(self, joint: Joint, t: FloatArray, which: int) -> float:
        """ln Z of what lies beyond a cut of a piece, less its own, were the other samples not to react."""
        cut = joint.cuts[which]
        _, _, cov, mean = cavities(joint, t)
        row = slice(cut.sample, cut.sample + 1)
        sides = []
        for side in (-1, 1):
            moments = np.empty((1, 6))
            at, sharp = np.array([cut.at]), np.array([side / cut.width])
            tilted_moments(self.tilt, mean[row], cov[row], *self.ends, at, sharp, moments)
            sides.append(moments[0, 0])
        return float(cut.side * (sides[0] - sides[1]))

    def alike(self, one: Joint, other: Joint) -> bool:
        """Whether two Gaussians describe one code: their readouts overlap and their activations agree."""
        gap = one.readout - other.readout
        if float(np.abs(gap).max()) > _FAR * np.sqrt(self.prior):
            return False
        far = float(gap @ np.linalg.solve(0.5 * (one.covariance + other.covariance), gap)) > _OVERLAP
        return not far and float(np.mean((one.phi - other.phi) ** 2)) < SAME_PHI

    def same(self, one: Joint, other: Joint) -> bool:
        """Whether two Gaussians cover the same."""
        if one.family == other.family:
            return not apart(one.cuts, other.cuts)
        return self.alike(one, other)

    def distinct(self, codes: Codes) -> Codes:
        """One of each group of codes that have become the same: by EP if there is one, the largest. Keeps the order.

        Of a code and its pieces, the pieces, unless most of it is missing there.
        """
        joints = list(codes.joints)
        for whole in codes.joints:
            parts = [joint for joint in joints if joint.family == whole.family and within(joint.cuts, whole.cuts)]
            if parts:
                complete = logsumexp([joint.log_z for joint in parts]) > whole.log_z - _INCOMPLETE
                out = {id(whole)} if complete else {id(part) for part in parts}
                joints = [joint for joint in joints if id(joint) not in out]
        kept: list[Joint] = []
        for joint in sorted(joints, key=lambda joint: (joint.bound, -joint.log_z)):
            if not any(self.same(joint, other) for other in kept):
                kept.append(joint)
        chosen = {id(joint) for joint in kept}
        return Codes(codes.t, tuple(joint for joint in codes.joints if id(joint) in chosen))

    def search(
        self, t: FloatArray, sites: Sequence[Start], known: Codes | None, tolerance: float, depth: float
    ) -> Codes:
        """Known codes and those that EP reaches from sites, roughly if `depth` below the top."""

        def rough(start: Start) -> Joint | None:
            return self.solve(t, start, _SEARCH_TOLERANCE, bound=self.variational or self.fallback)

        old = () if known is None else known.joints
        found = self.distinct(Codes(t, tuple(joint for joint in self.map(rough, sites) if joint is not None)))
        fresh = [placed for joint in found.joints if (placed := self.place(joint, old)) is not None]
        top = max([joint.log_z for joint in (*old, *fresh)], default=-np.inf)

        def polished(joint: Joint) -> Joint | None:
            if joint.log_z < top - depth and not joint.cuts:
                return joint
            return self.solve(t, (joint.q, joint.nu), tolerance, cuts=joint.cuts, family=joint.family)

        exact = [joint for joint in self.map(polished, fresh) if joint is not None]
        return self.distinct(Codes(t, (*old, *exact)))

    def place(self, joint: Joint, known: tuple[Joint, ...]) -> Joint | None:
        """A code as the missing piece of a known one, if it is that; None if it is known."""
        near = next((other for other in known if self.alike(joint, other)), None)
        if near is None:
            return joint
        part = region(self.matrix @ joint.weights, [other.cuts for other in known if other.family == near.family])
        return None if part is None else joint._replace(cuts=part, family=near.family)


def pattern(phi: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Sites of readouts that follow activations phi (P,): a = s2 t^T phi, weights as in the prior."""
    nu = np.zeros((len(phi), 2))
    nu[:, 0] = phi
    return np.zeros((len(phi), 2, 2)), nu
