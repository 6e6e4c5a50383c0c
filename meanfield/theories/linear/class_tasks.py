"""Linear phi, one hidden layer: the analog scheme in closed form, at finite P and P -> infinity (sigma_a = 1).

With G(kappa) = k kappa^2 / 2 the readout is Gaussian, P(a) = N(0, U), U^{-1} = P (1 - k sum_c p_c t_c t_c^T), and

    J(t) = -sum_c p_c t_c.y_c + tau/2 sum_c p_c |t_c|^2 - (1/2P) ln det(1 - k sum_c p_c t_c t_c^T).

In the singular basis of A_c = sqrt(p_c) y_c, with values s, sqrt(p_c) t_c has singular values f and U eigenvalues u:
    f = s / (tau + k u),    1/(P u) + k f^2 = 1                      (linear theory, L = 1)
The left side of the second equation decreases in u: one root. As P -> infinity it becomes k f^2 <= 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from meanfield.validation import FloatArray

__all__ = ["LinearSolution", "linear_solve"]


@dataclass(frozen=True, eq=False)
class LinearSolution:
    """Minimum of J for linear phi, in units sigma_a = 1.

    Attributes
    ----------
    t : (C, m) array
    objective : float
        J(t).
    readout_covariance : (m, m) array
        U of P(a) = N(0, U).
    residual : float
        Violation of y_c = k U t_c + tau t_c, of U (1 - k sum_c p_c t_c t_c^T) = 1/P and of 1 - ... >= 0, recomputed
        from t and U.
    duality_gap : float
        J(t) minus the value of the primal problem at U.
    """

    t: FloatArray
    objective: float
    readout_covariance: FloatArray
    residual: float
    duality_gap: float


def linear_solve(p: FloatArray, y: FloatArray, tau: float, n_samples: float, k: float) -> LinearSolution:
    """Minimise J for phi(z) = z (a gain g is k -> g^2 k; an offset is not covered), sigma_a = 1.

    Parameters
    ----------
    p : (C,) array
        Fractions.
    y : (C, m) array
        Targets.
    tau, n_samples : float
        tau = N T >= 0; P, may be ``math.inf``.
    k : float
        Variance of the preactivations.
    """
    root_p = np.sqrt(p)[:, None]
    left, s, right = np.linalg.svd(root_p * y)  # all right singular vectors: outputs without a target keep their prior
    left = left[:, : s.size]
    s[s < 1e-15 * s.max()] = 0.0
    u = _readout_variance(s, tau, n_samples, k)
    with np.errstate(invalid="ignore"):
        f = np.where(s > 0.0, s / (tau + k * u), 0.0)
    t = (left * f) @ right[: s.size] / root_p
    spectrum = np.full(y.shape[1], 1.0 / n_samples)
    spectrum[: s.size] = u
    covariance = (right.T * spectrum) @ right
    objective = float(np.sum(f * (0.5 * tau * f - s)))
    if math.isfinite(n_samples):
        objective += float(np.sum(np.log(n_samples * spectrum))) / (2.0 * n_samples)
    residual, gap = _certify(p, y, tau, n_samples, k, t, covariance, objective)
    return LinearSolution(t, objective, covariance, residual, gap)


def _readout_variance(s: FloatArray, tau: float, n_samples: float, k: float) -> FloatArray:
    """Root u of 1/(P u) + k s^2 / (tau + k u)^2 = 1 (P -> infinity: 0 where no readout is needed)."""
    limit = np.maximum((math.sqrt(k) * s - tau) / k, 0.0)
    if math.isinf(n_samples):
        return limit
    # The left side is convex and decreasing: Newton from where it is above 1 climbs to the root.
    u = np.maximum(limit, 1.0 / n_samples)
    for _ in range(100):
        q = k * (s / (tau + k * u)) ** 2
        excess = 1.0 / (n_samples * u) + q - 1.0
        step = excess / (1.0 / (n_samples * u * u) + 2.0 * k * q / (tau + k * u))
        u = u + step
        if np.all(np.abs(step) <= 1e-16 * u):
            break
    return u


def _certify(
    p: FloatArray,
    y: FloatArray,
    tau: float,
    n_samples: float,
    k: float,
    t: FloatArray,
    covariance: FloatArray,
    objective: float,
) -> tuple[float, float]:
    """Residual of the stationarity equations and duality gap, from t and U alone."""
    identity = np.eye(y.shape[1])
    stiffness = identity - k * (t.T * p) @ t
    misfit = y - k * t @ covariance
    residual = float(np.abs(misfit - tau * t).max())
    residual = max(residual, float(np.abs(covariance @ stiffness - identity / n_samples).max()))
    residual = max(residual, -float(np.linalg.eigvalsh(stiffness)[0]))
    entropy = 0.0
    if math.isfinite(n_samples):
        entropy = (np.linalg.slogdet(n_samples * covariance)[1] + y.shape[1]) / (2.0 * n_samples)
    # Primal: -<|a|^2>/2 - sum_c p_c <KL(tilted || prior)> + entropy / P - |misfit|^2 / 2 tau, KL = k (a.t_c)^2 / 2.
    primal = entropy - 0.5 * np.trace(covariance) - 0.5 * k * np.trace(covariance @ (t.T * p) @ t)
    primal -= 0.5 * tau * np.sum(p[:, None] * t**2)  # misfit = tau t, tested above
    slack = np.sum(p[:, None] * t * (misfit - tau * t))
    return residual, abs(float(objective - primal)) + abs(float(slack))
