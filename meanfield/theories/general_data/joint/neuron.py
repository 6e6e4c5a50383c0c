"""Readout and weights of a neuron together, by expectation propagation: one Gaussian of (a, w) per code.

    Z(t) = Int da N(a; 0, s2) Int dw N(w; 0, 1_r) exp(sum_mu (t_mu.a) phi(f_mu.w))

A factor depends on x_mu = (kappa, z) = (t_mu.a, f_mu.w) alone, so the joint Gaussian needs one site
exp(-x.Q x / 2 + nu.x), Q 2 x 2 and of any sign, per sample: readout and weights are integrated together, for any number
of outputs and any rank. A fixed point gives

    d log Z / d t_mu = E_tilted,mu[a phi(z_mu)]                                                (exactly, for this log Z)

Where Z has several maxima (codes) each has a fixed point of its own. Where the kernel is diagonal the weights are exact
and what is left out is of order 1 / P^2 in <a phi>, the readout being Gaussian to order 1 / P only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular

from meanfield.numerics.limits import check_time
from meanfield.validation import FloatArray

__all__ = ["Cut", "Joint", "Tilted", "cavities", "joint_bound", "joint_moments"]

_TOLERANCE = 1e-11
_MAX_ITERATIONS = 80
_WAITS = 4  # iterations without progress
_SMALLEST_DAMPING, _SMALLEST_STEP = 0.2, 0.02
_MIXED, _MIXED_RANK = 12, 1e-5  # iterates that acceleration remembers, relative accuracy of their combination
_MIXED_BELOW, _MIXED_AFTER = 0.3, 20  # change of the sites, or plain iterations, at which it begins
_LEAST_MIXED = 0.2  # shortest part of its step
_ASTRAY = 10.0  # growth of the gap


class Tilted(NamedTuple):
    """Averages over N(x; mean, cov) exp(kappa phi(z)) / norm, one row per sample.

    first (P, 2) and second (P, 2, 2) are the derivatives of log norm with respect to the mean: first[:, 0] = E phi,
    second[:, 0, 0] = Var phi. gain (P,): Cov(phi, z) at given kappa, in units of Var z (sets C, for speed only).
    """

    log_norm: FloatArray
    first: FloatArray
    second: FloatArray
    gain: FloatArray


class Cut(NamedTuple):
    """Factor Phi(side (z - at) / width) on one sample, see `pieces`."""

    sample: int
    at: float
    width: float
    side: int

    @property
    def flipped(self) -> Cut:
        return self._replace(side=-self.side)


class Joint(NamedTuple):
    """Fixed point of EP at one t.

    Attributes
    ----------
    log_z : float
        log Z(t), of one code.
    mean_a_phi : (P, m) array
        <a phi(z_mu)>, the gradient of log Z.
    readout, weights : (m,) and (r,) array
        Posterior means of a and w.
    factor : (m + r, m + r) array
        R with covariance of (a, w) = R^T R.
    z : (m + r, P) array
        R_w F^T: Cov(z, z) = z^T z, Cov(a, z) = R_a^T z.
    phi, spread, gain : (P,) array
        E phi, Var phi and the slope of phi in z.
    q, nu : (P, 2, 2) and (P, 2) array
        Sites.
    iterations : int
    bound : bool
        Whether log_z is the variational lower bound instead.
    cuts : tuple of Cut
        Restrictions, if this is only a piece of a code.
    family : int
        The code, whatever t; pieces of one code share it.
    """

    log_z: float
    mean_a_phi: FloatArray
    readout: FloatArray
    weights: FloatArray
    factor: FloatArray
    z: FloatArray
    phi: FloatArray
    spread: FloatArray
    gain: FloatArray
    q: FloatArray
    nu: FloatArray
    iterations: int
    bound: bool = False
    cuts: tuple[Cut, ...] = ()
    family: int = -1

    @property
    def part(self) -> FloatArray:
        """R_a, (m + r, m)."""
        return self.factor[:, : self.readout.size]

    @property
    def covariance(self) -> FloatArray:
        """(m, m) covariance of the readout."""
        return np.asarray(self.part.T @ self.part)

    def curvature(self, v: FloatArray) -> FloatArray:
        """Cov(a phi_mu, a phi_nu) applied to v (P, m): the second derivative of log Z, nearly.

        a phi is replaced by its regression on a and z_mu, so that the response of the sites to t is left out: this
        sets the speed of Newton's method, not its result.
        """
        a, part = self.readout, self.part
        along = v @ a
        u = part @ (self.phi @ v) + self.z @ (self.gain * along)
        rest = np.maximum(self.spread - self.gain**2 * np.einsum("ip,ip->p", self.z, self.z), 0.0)
        result = np.outer(self.gain * (u @ self.z) + rest * along, a)
        result += self.phi[:, None] * (u @ part)
        result += self.spread[:, None] * (v @ self.covariance)
        return np.asarray(result)

    def curvature_matrix(self) -> FloatArray:
        """The same as a matrix, (P, m, P, m)."""
        a, phi, slopes = self.readout, self.phi, self.gain * self.z
        kernel = slopes.T @ slopes
        kernel.flat[:: len(phi) + 1] = np.maximum(self.spread, kernel.diagonal())
        along = slopes.T @ self.part  # Cov(phi, a)
        result = np.empty((len(phi), a.size, len(phi), a.size))
        for r in range(a.size):
            for s in range(r + 1):
                block = (a[r] * a[s]) * kernel
                left = np.stack([a[r] * along[:, s], a[s] * phi, self.covariance[r, s] * phi], axis=1)
                block += left @ np.stack([phi, along[:, r], phi])
                block.flat[:: len(phi) + 1] += self.spread * self.covariance[r, s]
                result[:, r, :, s] = block
                result[:, s, :, r] = block.T
        return result

    def hessian(self, basis: FloatArray | None) -> FloatArray:
        """`curvature_matrix` as (P m, P m), or that of theta (q, m), t = basis theta, where a basis (P, q) is given."""
        matrix = self.curvature_matrix()
        if basis is not None:
            matrix = np.einsum("pc,pmqn,qd->cmdn", basis, matrix, basis, optimize=True)
        size = matrix.shape[0] * matrix.shape[1]
        return np.asarray(matrix.reshape(size, size))


class _Posterior(NamedTuple):
    """The joint Gaussian of (a, w) that sites (Q, nu) make, and its marginals and cavities of every sample."""

    lower: FloatArray  # Cholesky factor L of the precision
    z: FloatArray
    centre: FloatArray  # (m + r,) mean in whitened coordinates
    log_det: float
    cov: FloatArray  # (P, 2, 2) of x_mu
    mean: FloatArray  # (P, 2)
    cavity_cov: FloatArray
    cavity_mean: FloatArray

    @property
    def factor(self) -> FloatArray:
        """L^{-1}."""
        return np.asarray(solve_triangular(self.lower, np.eye(len(self.lower)), lower=True, check_finite=False))


def _symmetric(a: FloatArray, b: FloatArray, d: FloatArray) -> FloatArray:
    """(P, 2, 2) from its entries."""
    return np.stack([a, b, b, d], axis=-1).reshape(-1, 2, 2)


def _times(matrix: FloatArray, vector: FloatArray) -> FloatArray:
    return np.asarray((matrix @ vector[..., None])[..., 0])


def _inverse(matrix: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Inverses and determinants of (P, 2, 2)."""
    a, b, c, d = matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 0], matrix[:, 1, 1]
    det = a * d - b * c
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([d, -b, -c, a], axis=-1).reshape(-1, 2, 2) / det[:, None, None], det


def _posterior(
    features: FloatArray,
    t: FloatArray,
    s2: float,
    q: FloatArray,
    nu: FloatArray,
    bound: FloatArray | None,
    with_cavities: bool = True,
) -> _Posterior | None:
    m, rank = t.shape[1], features.shape[1]
    precision = np.diag(np.concatenate([np.full(m, 1.0 / s2), np.ones(rank)]))
    precision[:m, :m] += (t.T * q[:, 0, 0]) @ t
    precision[m:, :m] += (features.T * q[:, 0, 1]) @ t
    precision[:m, m:] = precision[m:, :m].T
    precision[m:, m:] += (features.T * q[:, 1, 1]) @ features
    try:
        lower = np.linalg.cholesky(precision)
    except np.linalg.LinAlgError:
        return None
    columns = np.eye(m + rank, m + 1)  # readouts, and the linear term
    columns[:, m] = np.concatenate([t.T @ nu[:, 0], features.T @ nu[:, 1]])
    columns = solve_triangular(lower, columns, lower=True, check_finite=False)
    centre, kappa = columns[:, m], columns[:, :m] @ t.T
    # Readouts come first, so that z needs the last rows only.
    z = np.zeros((m + rank, len(t)))
    z[m:] = solve_triangular(lower[m:, m:], features.T, lower=True, check_finite=False)
    cov = _symmetric(np.einsum("ip,ip->p", kappa, kappa), np.einsum("ip,ip->p", kappa, z), np.einsum("ip,ip->p", z, z))
    mean = np.stack([centre @ kappa, centre @ z], axis=-1)
    log_det = float(np.log(np.diag(lower)).sum() + 0.5 * m * np.log(s2))
    if not with_cavities:
        return _Posterior(lower, z, centre, log_det, cov, mean, cov, mean)
    back, det = _inverse(np.eye(2) - cov @ q)
    if not (det > 0.0).all():
        return None
    cavity = back @ cov
    cavity = 0.5 * (cavity + cavity.transpose(0, 2, 1))
    if not ((cavity[:, 0, 0] >= 0.0) & (cavity[:, 1, 1] >= 0.0)).all():
        return None
    if bound is not None and not ((cov[:, 1, 1] <= bound) & (cavity[:, 1, 1] <= bound)).all():
        return None
    shifted = _times(back, mean - _times(cov, nu))
    return _Posterior(lower, z, centre, log_det, cov, mean, cavity, shifted)


def cavities(joint: Joint, t: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Covariance (P, 2, 2) and mean (P, 2) of x_mu = (t_mu.a, z_mu), with and then without the site of the sample."""
    across = joint.part @ t.T
    cov = _symmetric(
        np.einsum("ip,ip->p", across, across),
        np.einsum("ip,ip->p", across, joint.z),
        np.einsum("ip,ip->p", joint.z, joint.z),
    )
    # z = R_w F^T, and its mean is that of the sites pulled through the covariance.
    pull = joint.part @ (t.T @ joint.nu[:, 0]) + joint.z @ joint.nu[:, 1]
    mean = np.stack([across.T @ pull, joint.z.T @ pull], axis=-1)
    back, _ = _inverse(np.eye(2) - cov @ joint.q)
    cavity = back @ cov
    return cov, mean, 0.5 * (cavity + cavity.transpose(0, 2, 1)), _times(back, mean - _times(cov, joint.nu))


def _sites(cavity: _Posterior, tilted: Tilted) -> tuple[FloatArray, FloatArray]:
    """Sites that give every marginal the mean and covariance of its tilted distribution.

    Of matrices, and from derivatives of ln norm by the cavity's mean instead of moments: the covariance of (kappa, z)
    may be singular, and the derived `matching_site` of one sample takes its inverse.
    """
    back, _ = _inverse(np.eye(2) + tilted.second @ cavity.cavity_cov)
    q = -back @ tilted.second
    return 0.5 * (q + q.transpose(0, 2, 1)), _times(back, tilted.first - _times(tilted.second, cavity.cavity_mean))


def joint_moments(
    features: FloatArray,
    t: FloatArray,
    s2: float,
    tilted_of: Callable[[FloatArray, FloatArray], Tilted | None],
    start: tuple[FloatArray, FloatArray] | None = None,
    tolerance: float = _TOLERANCE,
    bound: FloatArray | None = None,
    cap: int = _MAX_ITERATIONS,
    damping: float = 1.0,
) -> Joint | None:
    """EP from sites `start` (Q, nu), or from none; None where no fixed point is found.

    Parameters
    ----------
    features : (P, r) array
        F, K = F F^T.
    t : (P, m) array
    s2 : float
        Prior variance sigma_a^2 / P of a readout weight.
    tilted_of : callable
        Mean (P, 2) and covariance (P, 2, 2) of the cavities to `Tilted`, or None where a factor is not integrable.
    start : sites, optional
    tolerance : float
        Largest change of a site, relative to 1 + its size.
    bound : (P,) array, optional
        Of the variances of z, marginal and cavity.
    cap : int
        Iterations.
    damping : float
        Of the first iterations; halved where they make no progress.
    """

    def evaluate_joint(sites: FloatArray) -> _Point | None:
        check_time()
        state = _posterior(features, t, s2, *_unpack(sites), bound)
        tilted = None if state is None else tilted_of(state.cavity_mean, state.cavity_cov)
        if state is None or tilted is None:
            return None
        gap = _pack(*_sites(state, tilted)) - sites
        return (state, tilted, gap) if np.isfinite(gap).all() else None

    def advance(sites: FloatArray, step: FloatArray, least: float) -> tuple[FloatArray, _Point | None]:
        """The longest of step, step / 2, ... down to `least` that leads to proper Gaussians."""
        rate = 1.0
        while rate >= least:
            found = evaluate_joint(sites + rate * step)
            if found is not None:
                return sites + rate * step, found
            rate *= 0.5
        return sites, None

    sites = np.zeros((len(features), 5)) if start is None else _pack(*start)
    point = evaluate_joint(sites)
    mixing = _Mixing()
    best, waits, plain = np.inf, 0, 0
    for iteration in range(cap):
        if point is None:
            return None
        state, tilted, gap = point
        change = float(np.max(np.abs(gap) / (1.0 + np.abs(sites))))
        if change < tolerance:
            return _report(t, state, tilted, *_unpack(sites), iteration)
        if mixing.used(plain, change):
            sized, point = mixing.step(sites, gap, _scale(state)), None
            if sized is not None:
                sites, point = advance(sites, sized, _LEAST_MIXED)
            if point is not None:
                continue
            mixing, plain, best = _Mixing(), 0, np.inf  # it went astray
        plain += 1
        waits = waits + 1 if change > 0.7 * best else 0
        best = min(best, change)
        if waits >= _WAITS:  # it oscillates
            damping, waits = max(0.5 * damping, _SMALLEST_DAMPING), 0
        sites, point = advance(sites, damping * gap, _SMALLEST_STEP)
    return None


_Point = tuple[_Posterior, Tilted, FloatArray]  # posterior, tilted moments, gap of the sites


def _pack(q: FloatArray, nu: FloatArray) -> FloatArray:
    """Sites as one array (P, 5)."""
    return np.stack([q[:, 0, 0], q[:, 0, 1], q[:, 1, 1], nu[:, 0], nu[:, 1]], axis=-1)


def _unpack(sites: FloatArray) -> tuple[FloatArray, FloatArray]:
    return _symmetric(*sites[:, :3].T), np.ascontiguousarray(sites[:, 3:])


def _scale(state: _Posterior) -> FloatArray:
    """(P, 5) units of the sites, so that all of them are numbers without dimension."""
    kappa, z = state.cov[:, 0, 0], state.cov[:, 1, 1]
    return np.stack([kappa, np.sqrt(kappa * z), z, np.sqrt(kappa), np.sqrt(z)], axis=-1)


class _Mixing:
    """Anderson's acceleration of the map from sites to sites (D. G. Anderson, J. ACM 12, 547, 1965).

    Where samples are many and hard, the map is close to losing its stability although the fixed point stays: plain
    iterations crawl at any damping. A step here goes to where the gap vanishes, judged from the latest iterates.
    """

    def __init__(self) -> None:
        self.sites: list[FloatArray] = []
        self.gaps: list[FloatArray] = []
        self.least = np.inf

    def used(self, plain: int, change: float) -> bool:
        """Whether it is time to accelerate, after a number of plain iterations."""
        return bool(self.sites) or change < _MIXED_BELOW or plain >= _MIXED_AFTER

    def step(self, sites: FloatArray, gap: FloatArray, scale: FloatArray) -> FloatArray | None:
        """The next step; None where the gap has grown too much."""
        size = float(np.linalg.norm(gap * scale))
        if size > _ASTRAY * self.least:
            return None
        self.least = min(self.least, size)
        self.sites, self.gaps = [*self.sites[-_MIXED:], sites], [*self.gaps[-_MIXED:], gap]
        if len(self.sites) == 1:
            return gap
        moves, changes = np.diff(self.sites, axis=0), np.diff(self.gaps, axis=0)
        columns = (changes * scale).reshape(len(changes), -1)
        norm = np.maximum(np.linalg.norm(columns, axis=1), 1e-300)
        share = np.linalg.lstsq((columns / norm[:, None]).T, (gap * scale).ravel(), rcond=_MIXED_RANK)[0] / norm
        return np.asarray(gap - np.tensordot(share, moves + changes, axes=1))


def _report(t: FloatArray, state: _Posterior, tilted: Tilted, q: FloatArray, nu: FloatArray, iterations: int) -> Joint:
    m = t.shape[1]
    # log E_cavity[site], without inverting covariances: t_mu may be zero.
    back, det = _inverse(np.eye(2) + q @ state.cavity_cov)
    pull = nu - _times(q, state.cavity_mean)
    site = (0.5 * (pull + nu) * state.cavity_mean).sum(1) - 0.5 * np.log(det)
    site += 0.5 * np.sum(pull * _times(state.cavity_cov, _times(back, pull)), axis=1)
    log_z = 0.5 * state.centre @ state.centre - state.log_det + np.sum(tilted.log_norm - site)
    # E_tilted[a phi] by Stein's lemma in the cavity.
    factor = state.factor
    part = factor[:, :m]
    cross = np.stack([t @ (part.T @ part), state.z.T @ part], axis=-1)
    back, _ = _inverse(np.eye(2) - q @ state.cov)
    cross = cross @ back  # (P, m, 2) covariance of a with x_mu in the cavity
    readout = state.centre @ part
    cavity = readout + _times(cross, _times(q, state.mean) - nu)
    phi, spread = tilted.first[:, 0], tilted.second[:, 0, 0]
    lever = tilted.second[:, 0, :] + phi[:, None] * tilted.first
    mean_a_phi = cavity * phi[:, None] + _times(cross, lever)
    return Joint(
        float(log_z), mean_a_phi, readout, state.centre @ factor[:, m:], factor, state.z, phi, spread,
        tilted.gain, q, nu, iterations,
    )  # fmt: skip


def joint_bound(
    features: FloatArray,
    t: FloatArray,
    s2: float,
    moments_of: Callable[[FloatArray, FloatArray], FloatArray],
    start: tuple[FloatArray, FloatArray],
    tolerance: float = 1e-6,
    cap: int = 200,
) -> Joint | None:
    """Best Gaussian of (a, w) in the sense of the variational lower bound of log Z, from sites `start`.

    With l = E[kappa phi(z)] under N(m, V), sites are nu = dl/dm + Q m, Q = -2 dl/dV; the bound is the sum of l less
    the Kullback-Leibler divergence from the prior, and d bound / d t_mu = E[a phi(z_mu)]. Always there, less accurate.

    Parameters
    ----------
    moments_of : callable
        Mean and variance of z (P,) to E phi^2 and E[phi(z) He_j(x)] for j < 4, z = mean + sd x: (P, 5).
    """
    q, nu = start
    m = t.shape[1]
    best, step = -np.inf, 0.5
    trial = q, nu
    kept = None
    iterations = 0
    while iterations < cap:
        check_time()
        iterations += 1
        state = _posterior(features, t, s2, *trial, None, with_cavities=False)
        value = -np.inf
        if state is not None:
            kappa, z, c, v = state.mean[:, 0], state.mean[:, 1], state.cov[:, 0, 1], state.cov[:, 1, 1]
            moments = moments_of(z, v)
            sd = np.sqrt(np.maximum(v, 1e-300))
            phi, slope, bend, third = (moments[:, j + 1] / sd**j for j in range(4))
            factor = state.factor
            readout, weights = state.centre @ factor[:, :m], state.centre @ factor[:, m:]
            trace = np.sum(factor[:, :m] ** 2) / s2 + np.sum(factor[:, m:] ** 2)
            divergence = 0.5 * (trace + readout @ readout / s2 + weights @ weights - len(factor)) + state.log_det
            value = float(np.sum(kappa * phi + c * slope) - divergence)
        if not value > best - 1e-12 * abs(best):
            step *= 0.5
            if kept is None or step < 1e-4:
                break
        else:
            assert state is not None
            q, nu = trial
            gained, best = value - best, value
            kept = state, phi, slope, moments[:, 0], readout, weights
            new_q = -_symmetric(np.zeros_like(phi), slope, kappa * bend + c * third)
            new_nu = np.stack([phi, kappa * slope + c * bend], axis=-1) + _times(new_q, state.mean)
            if gained < tolerance:
                break
            step = min(1.0, 1.3 * step)
        trial = q + step * (new_q - q), nu + step * (new_nu - nu)
    if kept is None:
        return None
    state, phi, slope, phi2, readout, weights = kept
    factor = state.factor
    part = factor[:, :m]
    mean_a_phi = phi[:, None] * readout + slope[:, None] * (state.z.T @ part)
    spread = np.maximum(phi2 - phi**2, 0.0)
    return Joint(best, mean_a_phi, readout, weights, factor, state.z, phi, spread, slope, q, nu, iterations, bound=True)
