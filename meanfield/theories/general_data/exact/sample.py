"""The exact single-neuron measure on a weighted sample of weights, and the dual J(t) on it.

The readout is integrated exactly: given weights w it is N(s2 t^T phi(F w), s2), so that

    p(w) ~ N(w; 0, 1) exp(s2 |t^T phi(F w)|^2 / 2),    <a phi> = E_w[s2 (t^T phi) phi].

On points w_i with log weights b_i that stand for the prior, sum_i exp(b_i) f(w_i) ~ E_{N(0, 1)} f, the dual is

    J(t) = -<t, Y> + (tau / 2)|t|^2 + ln sum_i exp(b_i + s2 |t^T phi_i|^2 / 2),

smooth and tau-strongly convex (`readout` holds the exponent where readouts are cut off). Neurons whose code fractions
p_g are frozen have sum_g p_g ln sum_{i in g} instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import cho_solve

from meanfield.activations.activation import Activation
from meanfield.numerics.limits import check_time
from meanfield.theories.general_data.exact.readout import readout_given
from meanfield.theories.general_data.slices import factorise, gram, rows_at_a_time
from meanfield.validation import FloatArray

__all__ = ["At", "Dual", "Sample", "Shift", "batches_of", "sample_of"]

_BATCHES = 32  # that the standard error is taken from
_MAX_STEPS = 60
_ARMIJO = 1e-4


@dataclass(frozen=True, eq=False)
class Sample:
    """Points and their log weights with respect to the prior.

    Attributes
    ----------
    points : (n, r) array
        w_i, in the coordinates of the features.
    phi : (n, P) array
        phi(F w_i).
    base : (n,) array
        b_i; ln of prior density over proposal density, minus ln n.
    group : (n,) integer array
        Code of each point; only frozen fractions need it.
    random : bool
        Whether points were drawn (or are nodes of a quadrature).
    family : (n,) integer array or None
        Points of different families are independent; None: all points.
    half : (n,) integer array or None
        0 and 1: which of two independent samples a point is from, where there are two.
    """

    points: FloatArray
    phi: FloatArray
    base: FloatArray
    group: Any = None
    random: bool = True
    family: Any = None
    half: Any = None

    def part(self, index: Any) -> Sample:
        """These points of it, at the same base."""
        group, family, half = (None if x is None else x[index] for x in (self.group, self.family, self.half))
        return Sample(self.points[index], self.phi[index], self.base[index], group, self.random, family, half)


def sample_of(
    activation: Activation, features: FloatArray, points: FloatArray, base: FloatArray, **rest: Any
) -> Sample:
    """The sample at these points."""
    return Sample(points, activation(points @ features.T), base, **rest)


class At(NamedTuple):
    """What a sample says at some t.

    Attributes
    ----------
    value : float
        J.
    log_z : float
    share : (n,) array
        Normalised weights W_i.
    mean : (n, m) array
        E[a | w_i]; s2 t^T phi_i, unless readouts are cut off.
    average : (P, m) array
        <a phi>.
    scatter, along : (n,) arrays
        E[a a^T | w_i] = scatter 1_m + along mean mean^T.
    """

    value: float
    log_z: float
    share: FloatArray
    mean: FloatArray
    average: FloatArray
    scatter: FloatArray
    along: FloatArray

    @property
    def effective(self) -> float:
        """Effective number of points, 1 / sum W_i^2."""
        return float(1.0 / (self.share @ self.share))


class Shift(NamedTuple):
    """How far outputs are from those of the exact theory, to first order.

    Attributes
    ----------
    outputs : (P, m) array
        e = tau H^-1 (Y - tau t - <a phi>): f - f_exact.
    error : (P, m) array
        Its standard error.
    """

    outputs: FloatArray
    error: FloatArray


@dataclass(frozen=True, eq=False)
class Dual:
    """J(t) on samples; see the module.

    Attributes
    ----------
    targets : (P, m) array
    prior : float
        s2.
    tau : float
    fractions : (g,) array or None
        Frozen fractions of the neurons in the groups of a sample.
    reach : float
        Largest |a| of the neurons that are meant.
    """

    targets: FloatArray
    prior: float
    tau: float
    fractions: FloatArray | None = None
    reach: float = math.inf

    def at(self, sample: Sample, t: FloatArray) -> At:
        readout = readout_given(self.prior * (sample.phi @ t), self.prior, self.reach)
        mean, level = readout.mean, sample.base + readout.level
        if self.fractions is None:
            log_z, share = _normalised(level)
        else:
            log_z, share = 0.0, np.zeros(len(level))
            for g, fraction in enumerate(self.fractions):
                if fraction > 0.0:
                    mine = sample.group == g
                    part, inside = _normalised(level[mine])
                    log_z += fraction * part
                    share[mine] = fraction * inside
        average = sample.phi.T @ (share[:, None] * mean)
        value = -float(np.vdot(t, self.targets)) + 0.5 * self.tau * float(np.vdot(t, t)) + log_z
        return At(value, log_z, share, mean, average, readout.scatter, readout.along)

    def gradient(self, at: At, t: FloatArray) -> FloatArray:
        return np.asarray(self.tau * t - self.targets + at.average)

    def curvature(self, sample: Sample, at: At) -> tuple[FloatArray, bool]:
        """Cholesky factor of H = tau + Cov(a phi), (P m, P m), and that it is the lower one, for `cho_solve`."""
        matrix = self.covariance(sample, at)
        matrix.flat[:: len(matrix) + 1] += self.tau
        return factorise(matrix)

    def covariance(self, sample: Sample, at: At) -> FloatArray:
        """Cov(a phi), (P m, P m)."""
        (n, p), m = sample.phi.shape, at.mean.shape[1]
        matrix, own = np.zeros((p * m, p * m)), np.zeros((p, p))
        spare, small = np.empty_like(matrix), np.empty_like(own)
        for part in rows_at_a_time(n, float(p * m) ** 2):
            root = np.sqrt(at.share[part])[:, None] * sample.phi[part]
            rows = root[:, :, None] * (np.sqrt(at.along[part])[:, None] * at.mean[part])[:, None, :]
            gram(matrix, rows.reshape(len(root), p * m), spare)
            root *= np.sqrt(at.scatter[part])[:, None]
            gram(own, root, small)
        blocks = matrix.reshape(p, m, p, m)
        for r in range(m):
            blocks[:, r, :, r] += own
        for weight, g in self.means(sample, at):
            matrix -= weight * np.multiply.outer(g, g)
        return matrix

    def cross(self, sample: Sample, at: At, phi: FloatArray) -> FloatArray:
        """Cov(a phi*, a phi), (l m, P m), of activations phi* (n, l) on other inputs with those of the sample."""
        m, (p, count) = at.mean.shape[1], (sample.phi.shape[1], phi.shape[1])
        found = np.empty((count, m, p, m))
        for r in range(m):
            for q in range(m):
                pair = at.share * (at.along * at.mean[:, r] * at.mean[:, q] + at.scatter * (r == q))
                found[:, r, :, q] = phi.T @ (pair[:, None] * sample.phi)
        rows = found.reshape(count * m, p * m)
        for (weight, g), (_, h) in zip(self.means(sample, at, phi), self.means(sample, at)):
            rows -= weight * np.multiply.outer(g, h)
        return rows

    def means(self, sample: Sample, at: At, phi: FloatArray | None = None) -> list[tuple[float, FloatArray]]:
        """Weight and <a phi> (P m,) of what fluctuates together: all neurons, or each code if fractions are frozen.

        With phi* (n, l) on other inputs <a phi*>, (l m,).
        """
        if self.fractions is None:
            average = at.average if phi is None else phi.T @ (at.share[:, None] * at.mean)
            return [(1.0, average.ravel())]
        phi = sample.phi if phi is None else phi
        found = []
        for g, fraction in enumerate(self.fractions):
            if fraction > 0.0:
                mine = sample.group == g
                inside = phi[mine].T @ (at.share[mine, None] * at.mean[mine]) / fraction
                found.append((float(fraction), inside.ravel()))
        return found

    def shift(self, sample: Sample, t: FloatArray) -> tuple[Shift, At]:
        """The step of Newton's method in units of the outputs, with its standard error."""
        at = self.at(sample, t)
        factor = self.curvature(sample, at)
        wrong = -self.gradient(at, t)
        batches = self.batches(sample, at)
        solved = self.tau * cho_solve(factor, np.column_stack([wrong.ravel(), batches.T]), check_finite=False)
        error = np.sqrt(np.sum(solved[:, 1:] ** 2, axis=1) * (_BATCHES / (_BATCHES - 1.0)))
        return Shift(solved[:, 0].reshape(t.shape), error.reshape(t.shape)), at

    def batches(self, sample: Sample, at: At, phi: FloatArray | None = None) -> FloatArray:
        """(batches, P m) fluctuations of <a phi> over parts of the sample, independent ones; they sum to zero.

        With phi* (n, l) on other inputs those of <a phi*>, (batches, l m).
        """
        values = sample.phi if phi is None else phi
        if not sample.random:
            return np.zeros((_BATCHES, values.shape[1] * at.mean.shape[1]))
        found = np.empty((_BATCHES, values.shape[1] * at.mean.shape[1]))
        means = [g for _, g in self.means(sample, at, phi)]
        used = [0] if self.fractions is None else [g for g, x in enumerate(self.fractions) if x > 0.0]
        for b, mine in enumerate(batches_of(sample)):
            share, mean = at.share[mine], at.mean[mine]
            found[b] = (values[mine].T @ (share[:, None] * mean)).ravel()
            for g, average in zip(used, means):
                inside = share if self.fractions is None else share[sample.group[mine] == g]
                found[b] -= inside.sum() * average
        return found

    def noise(
        self,
        sample: Sample,
        at: At,
        phi: FloatArray,
        factor: tuple[FloatArray, bool],
        free: tuple[FloatArray, FloatArray] | None = None,
    ) -> FloatArray:
        """(l, m) standard errors of <a phi*> at the minimum of J on the sample.

        If <a phi> fluctuates by d, the minimum moves by dt = -H^-1 d, and <a phi*> by d* + Cov(a phi*, a phi) dt. What
        training inputs tell is not noise: it is that of the residual of a regression.

        Parameters
        ----------
        phi : (n, l) array
        factor
            Of H, at the minimum.
        free : (o, P m) and (o, l m) arrays, optional
            Outputs of outliers, whose multipliers move so that t stays on the cone.
        """
        rows = self.cross(sample, at, phi)
        slope = cho_solve(factor, rows.T, check_finite=False).T
        if free is not None and len(free[0]):
            inside = cho_solve(factor, free[0].T, check_finite=False)
            missing = free[1] - free[0] @ slope.T
            slope = slope + np.linalg.lstsq(free[0] @ inside, missing, rcond=1e-12)[0].T @ inside.T
        off = self.batches(sample, at, phi) - self.batches(sample, at) @ slope.T
        error = np.sqrt(np.sum(off**2, axis=0) * (_BATCHES / (_BATCHES - 1.0)))
        return np.asarray(error.reshape(phi.shape[1], -1))

    def minimise(
        self, sample: Sample, t: FloatArray, tolerance: float = 1e-9, least_effective: float = 0.0
    ) -> tuple[FloatArray, At, bool]:
        """Minimum of J on the sample by Newton's method, or the last point where that has enough effective points.

        Returns
        -------
        t, what the sample says there, and whether it is the minimum.
        """
        at = self.at(sample, t)
        for _ in range(_MAX_STEPS):
            check_time()
            slope = self.gradient(at, t)
            if np.abs(slope).max() < tolerance:
                return t, at, True
            step = -cho_solve(self.curvature(sample, at), slope.ravel(), check_finite=False).reshape(t.shape)
            decrease = float(np.vdot(slope, step))
            length = 1.0
            while True:
                trial = self.at(sample, t + length * step)
                enough = trial.effective >= least_effective
                if enough and trial.value <= at.value + _ARMIJO * length * decrease:
                    break
                length *= 0.5
                if length < 1e-6:  # rounding, or nowhere to go
                    return t, at, bool(np.abs(slope).max() < 1e3 * tolerance)
            t, at = t + length * step, trial
        return t, at, False


def batches_of(sample: Sample) -> list[Any]:
    """Indices of independent parts of a sample."""
    if sample.family is None:
        return [slice(b, None, _BATCHES) for b in range(_BATCHES)]
    part = np.asarray(sample.family) % _BATCHES
    return [np.flatnonzero(part == b) for b in range(_BATCHES)]


def _normalised(level: FloatArray) -> tuple[float, FloatArray]:
    """ln of the sum of exp(level), and its terms divided by it."""
    top = float(level.max(initial=-math.inf))
    if not math.isfinite(top):
        return top, np.full(len(level), math.nan)
    share = np.exp(level - top)
    total = float(share.sum())
    return top + math.log(total), share / total
