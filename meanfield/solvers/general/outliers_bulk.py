"""The bulk of an unbounded activation on any data: readout and weights of a neuron that is no outlier, by EP.

    Z_bulk(t) = Int da N(a; 0, s2) Int dw N(w; 0, 1_r) exp(sum_mu (t_mu.a) phi(f_mu.w))   over |a|, |w| = O(1)

Beyond the bulk the integrand rises again along the outlier directions; there it is not integrated, the outliers are
multipliers instead. A factor depends on x_mu = (t_mu.a, f_mu.w) alone, so expectation propagation over the joint
Gaussian of (a, w) needs one site exp(-x.Q x / 2 + nu.x), Q 2 x 2 and of any sign, per sample: readout and weights are
integrated together, for any number of outputs and any rank. Its fixed point gives

    d log Z / d t_mu = E_tilted,mu[a phi(z_mu)]                                                (exactly, for this log Z)

Where the kernel is diagonal the weights are exact and what is left out is of order 1 / P^2 in <a phi>, the readout
being Gaussian to order 1 / P only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import log_ndtr

from meanfield.validation import FloatArray

__all__ = ["Bulk", "bulk_moments"]

_TOLERANCE = 1e-11
_MAX_ITERATIONS = 80
_SMALLEST = 1e-24  # variance of a preactivation whose input is zero


class Bulk(NamedTuple):
    """EP of the bulk at one t.

    Attributes
    ----------
    log_z : float
        log Z_bulk(t).
    mean_a_phi : (P, m) array
        <a phi(z_mu)>, the gradient of log Z.
    readout, weights : (m,) and (r,) array
        Posterior means of a and w.
    factor : (m + r, m + r) array
        R with covariance of (a, w) = R^T R.
    phi, slope, phi2 : (P,) array
        E phi(z_mu), E phi'(z_mu) and E phi(z_mu)^2.
    precision, pull : (P, 2, 2) and (P, 2) array
        Sites: Q and nu.
    iterations : int
    features : (P, r) array
    """

    log_z: float
    mean_a_phi: FloatArray
    readout: FloatArray
    weights: FloatArray
    factor: FloatArray
    phi: FloatArray
    slope: FloatArray
    phi2: FloatArray
    precision: FloatArray
    pull: FloatArray
    iterations: int
    features: FloatArray

    def hessian(self, basis: FloatArray | None) -> FloatArray:
        """d^2 log Z / dt^2 = Cov(a phi_mu, a phi_nu), nearly; with t = basis @ theta where a basis is given.

        a phi is replaced by its regression on a and z_mu, so that the response of the sites to t is left out: this
        sets the speed of Newton's method, not its result.
        """
        m = self.readout.size
        part = self.factor[:, :m].T
        z = (self.factor[:, m:] @ self.features.T).T
        x = self.phi[:, None, None] * part + self.slope[:, None, None] * self.readout[:, None] * z[:, None, :]
        variance = np.maximum(self.phi2 - self.phi**2, 0.0)
        unexplained = np.maximum(variance - self.slope**2 * (z * z).sum(1), 0.0)
        diagonal = unexplained[:, None, None] * np.outer(self.readout, self.readout)
        diagonal = diagonal + variance[:, None, None] * self.covariance
        if basis is None:
            rows = x.reshape(-1, x.shape[2])
            matrix = rows @ rows.T
            blocks = matrix.reshape(len(x), m, len(x), m)
            index = np.arange(len(x))
            blocks[index, :, index, :] += diagonal
            return np.asarray(matrix)
        rows = np.einsum("pc,pmk->cmk", basis, x).reshape(-1, x.shape[2])
        blocks = np.einsum("pc,pd,pij->cidj", basis, basis, diagonal)
        return np.asarray(rows @ rows.T + blocks.reshape(len(rows), len(rows)))

    @property
    def covariance(self) -> FloatArray:
        """(m, m) covariance of the readout."""
        part = self.factor[:, : self.readout.size]
        return np.asarray(part.T @ part)


class _Tilted(NamedTuple):
    """Averages over N(x; mean, cov) exp(kappa phi(z)), x = (kappa, z): log of the norm, E phi, E phi', ..."""

    log_norm: FloatArray
    phi: FloatArray
    slope: FloatArray
    phi2: FloatArray
    kappa_slope: FloatArray
    kappa_slope_phi: FloatArray
    second: FloatArray  # E (kappa phi')^2 + kappa phi''


def _tilted(mean: FloatArray, cov: FloatArray, slopes: tuple[float, float]) -> _Tilted | None:
    """Closed form: kappa is integrated at given z, which leaves half a Gaussian on either side of the kink.

    None where one of them has no end: the site is not confined.
    """
    kappa, z, v = mean[:, 0], mean[:, 1], np.maximum(cov[:, 1, 1], _SMALLEST)
    beta = cov[:, 0, 1] / v
    rest = np.maximum(cov[:, 0, 0] - beta * cov[:, 0, 1], 0.0)
    offset = kappa - beta * z  # E[kappa | z] = offset + beta z before the tilt, + rest phi(z) after it
    halves = []
    for s, side in zip(slopes, (-1.0, 1.0)):
        precision = 1.0 / v - 2.0 * s * beta - s * s * rest
        if not precision.min() > 0.0:
            return None
        centre, sd = (z / v + s * offset) / precision, precision**-0.5
        x = side * centre / sd
        log_share = log_ndtr(x)
        log_norm = 0.5 * (x * x - z * z / v - np.log(v * precision)) + log_share
        first = centre + side * sd * np.exp(-0.5 * (x * x + np.log(2.0 * np.pi)) - log_share)
        halves.append((log_norm, s, first, sd * sd + centre * first))
    total = np.logaddexp(halves[0][0], halves[1][0])
    sums = np.zeros((5, len(z)))
    bend = np.zeros(len(z))
    for log_norm, s, first, second in halves:
        p = np.exp(log_norm - total)
        along = beta + rest * s
        sums += p * np.array(
            [s * first, np.full_like(first, s), s * s * second, s * (offset + along * first),
             s * s * (offset * first + along * second)]
        )  # fmt: skip
        bend += p * s * s * (rest + offset * offset + 2.0 * offset * along * first + along * along * second)
    at_kink = np.exp(-0.5 * (z * z / v + np.log(2.0 * np.pi * v)) - total)  # density of z at 0
    phi, slope, phi2, kappa_slope, kappa_slope_phi = sums
    second = bend + (slopes[1] - slopes[0]) * offset * at_kink
    return _Tilted(total, phi, slope, phi2, kappa_slope, kappa_slope_phi, second)


def _symmetric(a: FloatArray, b: FloatArray, d: FloatArray) -> FloatArray:
    """(P, 2, 2) from its entries."""
    return np.stack([a, b, b, d], axis=-1).reshape(-1, 2, 2)


def _times(matrix: FloatArray, vector: FloatArray) -> FloatArray:
    return np.asarray((matrix @ vector[..., None])[..., 0])


class _Posterior(NamedTuple):
    """The joint Gaussian of (a, w) that sites (Q, nu) make, and its marginals and cavities of every sample."""

    factor: FloatArray
    centre: FloatArray  # (m + r,) mean in whitened coordinates
    log_det: float
    cov: FloatArray  # (P, 2, 2) of x_mu
    mean: FloatArray  # (P, 2)
    cavity_cov: FloatArray
    cavity_mean: FloatArray


def _posterior(features: FloatArray, t: FloatArray, s2: float, q: FloatArray, nu: FloatArray) -> _Posterior | None:
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
    factor = solve_triangular(lower, np.eye(m + rank), lower=True, check_finite=False)
    centre = factor @ np.concatenate([t.T @ nu[:, 0], features.T @ nu[:, 1]])
    kappa, z = factor[:, :m] @ t.T, factor[:, m:] @ features.T
    cov = _symmetric((kappa * kappa).sum(0), (kappa * z).sum(0), (z * z).sum(0))
    mean = np.stack([centre @ kappa, centre @ z], axis=-1)
    out = np.eye(2) - cov @ q
    if not (np.linalg.det(out) > 0.0).all():
        return None
    cavity = np.linalg.solve(out, cov)
    cavity = 0.5 * (cavity + cavity.transpose(0, 2, 1))
    if not ((cavity[:, 0, 0] >= 0.0) & (cavity[:, 1, 1] >= 0.0)).all():
        return None
    shifted = np.asarray(np.linalg.solve(out, (mean - _times(cov, nu))[..., None])[..., 0], dtype=float)
    log_det = float(np.log(np.diag(lower)).sum() + 0.5 * m * np.log(s2))
    return _Posterior(factor, centre, log_det, cov, mean, cavity, shifted)


def _sites(cavity: _Posterior, tilted: _Tilted) -> tuple[FloatArray, FloatArray]:
    """Sites that give every marginal the mean and covariance of its tilted distribution."""
    first = np.stack([tilted.phi, tilted.kappa_slope], axis=-1)
    second = _symmetric(tilted.phi2, tilted.slope + tilted.kappa_slope_phi, tilted.second)
    second -= first[:, :, None] * first[:, None, :]  # d^2 log norm / d mean^2
    back = np.asarray(np.linalg.inv(np.eye(2) + second @ cavity.cavity_cov), dtype=float)
    q = -back @ second
    return 0.5 * (q + q.transpose(0, 2, 1)), _times(back, first - _times(second, cavity.cavity_mean))


def bulk_moments(
    features: FloatArray,
    t: FloatArray,
    s2: float,
    slopes: tuple[float, float],
    start: Bulk | None = None,
    tolerance: float = _TOLERANCE,
) -> Bulk | None:
    """EP of the bulk; None where it finds no fixed point (the bulk is not separated from the outlier directions).

    Parameters
    ----------
    features : (P, r) array
        F, K = F F^T.
    t : (P, m) array
    s2 : float
        Prior variance sigma_a^2 / P of a readout weight.
    slopes : (s_-, s_+)
        phi(z) = s_- z for z < 0, s_+ z for z > 0.
    start : Bulk, optional
        At a neighbouring t.
    tolerance : float
        Largest change of a site, relative to 1 + its size.
    """
    n_samples = len(features)
    nothing = np.zeros((n_samples, 2, 2)), np.zeros((n_samples, 2))
    for damping, warm in ((1.0, True), (0.6, False)):
        if warm and start is not None:
            q, nu = start.precision, start.pull
        else:
            q, nu = nothing
        state = _posterior(features, t, s2, q, nu)
        for iteration in range(_MAX_ITERATIONS):
            if state is None:
                break
            tilted = _tilted(state.cavity_mean, state.cavity_cov, slopes)
            if tilted is None:
                break
            new_q, new_nu = _sites(state, tilted)
            change = max(
                np.max(np.abs(new_q - q) / (1.0 + np.abs(q))),
                np.max(np.abs(new_nu - nu) / (1.0 + np.abs(nu))),
            )
            if change < tolerance:
                return _report(features, t, slopes, state, tilted, q, nu, iteration)
            if not np.isfinite(change):
                break
            step = damping
            while step > 1e-3:
                trial = q + step * (new_q - q), nu + step * (new_nu - nu)
                state = _posterior(features, t, s2, *trial)
                if state is not None and _tilted(state.cavity_mean, state.cavity_cov, slopes) is not None:
                    break
                step *= 0.5
            q, nu = trial
    return None


def _report(
    features: FloatArray,
    t: FloatArray,
    slopes: tuple[float, float],
    state: _Posterior,
    tilted: _Tilted,
    q: FloatArray,
    nu: FloatArray,
    iterations: int,
) -> Bulk:
    m = t.shape[1]
    # log E_cavity[site], without inverting covariances: t_mu may be zero.
    lifted = np.eye(2) + q @ state.cavity_cov
    pull = nu - _times(q, state.cavity_mean)
    site = (0.5 * (pull + nu) * state.cavity_mean).sum(1) - 0.5 * np.log(np.linalg.det(lifted))
    moved = _times(state.cavity_cov, np.asarray(np.linalg.solve(lifted, pull[..., None])[..., 0], dtype=float))
    site += 0.5 * np.sum(pull * moved, axis=1)
    log_z = 0.5 * state.centre @ state.centre - state.log_det + np.sum(tilted.log_norm - site)
    # E_tilted[a phi] by Stein's lemma in the cavity.
    part = state.factor[:, :m]
    cross = np.stack([(state.factor[:, :m] @ t.T).T @ part, (state.factor[:, m:] @ features.T).T @ part], axis=-1)
    back = np.linalg.inv(np.eye(2) - q @ state.cov)
    cross = cross @ back  # (P, m, 2) covariance of a with x_mu in the cavity
    readout = state.centre @ part
    cavity = readout + _times(cross, _times(q, state.mean) - nu)
    lever = np.stack([tilted.phi2, tilted.slope + tilted.kappa_slope_phi], axis=-1)
    mean_a_phi = cavity * tilted.phi[:, None] + _times(cross, lever)
    return Bulk(
        float(log_z), mean_a_phi, readout, state.centre @ state.factor[:, m:], state.factor, tilted.phi, tilted.slope,
        tilted.phi2, q, nu, iterations, features,
    )  # fmt: skip
