"""Stationarity of a solution with outliers, recomputed in plain NumPy from its sites, t and outliers alone.

Nothing of the solver is used: covariances by matrix inversion, cavities by subtracting natural parameters, tilted
averages by Gauss-Legendre quadrature. The sites are those of the solution; that they are a fixed point is part of what
is checked.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import lsq_linear

from meanfield.validation import FloatArray

__all__ = ["joint_average", "node_moments", "outlier_violation"]

_X, _W = np.polynomial.legendre.leggauss(24)
_REACH = 12.0  # standard deviations on either side
_NEAR = np.array([0.05, 0.2, 0.6, 1.5, 3.0, 6.0])  # ends of panels next to the kink, in standard deviations
_PEAK = np.linspace(-_REACH, _REACH, 9)


def _quadrature(centre: FloatArray, sd: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Nodes and log weights (P, q) for exponents that are quadratic on either side of the kink, zero.

    centre, sd : (P, 2), of the two Gaussians. Panels resolve either peak, and the tails of those cut off at the kink.
    """
    near = np.concatenate([-_NEAR, [0.0], _NEAR]) * sd.min(axis=1, keepdims=True)
    peaks = (centre[:, :, None] + sd[:, :, None] * _PEAK).reshape(len(centre), -1)
    edges = np.sort(np.concatenate([near, peaks], axis=1), axis=1)
    half, middle = 0.5 * np.diff(edges), 0.5 * (edges[:, 1:] + edges[:, :-1])
    nodes = (middle[:, :, None] + half[:, :, None] * _X).reshape(len(centre), -1)
    weights = (half[:, :, None] * _W).reshape(len(centre), -1)
    with np.errstate(divide="ignore"):
        return nodes, np.log(weights)


def _phi(z: FloatArray, slopes: tuple[float, float]) -> FloatArray:
    return np.where(z > 0.0, slopes[1] * z, slopes[0] * z)


def joint_average(
    features: FloatArray,
    t: FloatArray,
    s2: float,
    slopes: tuple[float, float],
    precision: FloatArray,
    pull: FloatArray,
) -> tuple[FloatArray, float]:
    """<a phi> (P, m) of the joint Gaussian approximation with these sites, and its mismatch.

    The mismatch is the largest difference of marginal and tilted mean or variance of z_mu, relative to the marginal.
    """
    m, rank = t.shape[1], features.shape[1]
    rows = np.zeros((len(t), 2, m + rank))
    rows[:, 0, :m], rows[:, 1, m:] = t, features
    inverse = np.diag(np.concatenate([np.full(m, 1.0 / s2), np.ones(rank)]))
    inverse += np.einsum("pik,pij,pjl->kl", rows, precision, rows, optimize=True)
    covariance = np.linalg.inv(inverse)
    mean = covariance @ np.einsum("pik,pi->k", rows, pull)
    average = np.empty_like(t)
    mismatch = 0.0
    for mu in range(len(t)):
        keep = np.linalg.norm(rows[mu], axis=1) > 0.0  # t_mu = 0: kappa is zero, only z is random
        if not keep[1]:
            average[mu] = 0.0
            continue
        x = rows[mu][keep]
        marginal = x @ covariance @ x.T
        natural = np.linalg.inv(marginal) - precision[mu][np.ix_(keep, keep)]
        cavity = np.linalg.inv(natural)
        centre = cavity @ (np.linalg.solve(marginal, x @ mean) - pull[mu][keep])
        cross = covariance[:m] @ x.T @ np.linalg.solve(marginal, cavity)  # of a with x in the cavity
        readout = mean[:m] + covariance[:m] @ x.T @ np.linalg.solve(marginal, centre - x @ mean)
        z0, v = centre[-1], cavity[-1, -1]
        beta, rest, kappa = 0.0, 0.0, 0.0
        if keep[0]:
            beta, kappa = cavity[0, 1] / v, centre[0]
            rest = cavity[0, 0] - beta * cavity[0, 1]
        s = np.array(slopes)
        own = 1.0 / v - 2.0 * s * beta - s * s * rest  # precision of z on either side
        z, log_weight = _quadrature(((z0 / v + s * (kappa - beta * z0)) / own)[None], own[None] ** -0.5)
        phi = _phi(z, slopes)
        exponent = log_weight - 0.5 * (z - z0) ** 2 / v + phi * (kappa + beta * (z - z0)) + 0.5 * rest * phi**2
        p = np.exp(exponent - exponent.max())
        p /= p.sum()
        # E[a | z, tilted]: linear in z, and moved along Cov(a, kappa | z) by phi(z).
        along = cross[:, -1] / v
        lift = cross[:, 0] - along * cavity[0, -1] if keep[0] else np.zeros(m)
        average[mu] = np.sum(p * phi) * readout + along * np.sum(p * phi * (z - z0)) + lift * np.sum(p * phi**2)
        first = np.sum(p * z)
        second = np.sum(p * z * z) - first**2
        scale = marginal[-1, -1]
        mismatch = max(mismatch, abs(first - x[-1] @ mean) / np.sqrt(scale), abs(second / scale - 1.0))
    return average, float(mismatch)


def node_moments(
    features: FloatArray,
    t: FloatArray,
    s2: float,
    slopes: tuple[float, float],
    readout: FloatArray,
    s: FloatArray,
    nu: FloatArray,
) -> tuple[FloatArray, FloatArray, float]:
    """h(a_i) (n,), E phi (n, P) and the mismatch for readouts a_i (n, m) with sites (n, P)."""
    exponent, activation, mismatch = np.empty(len(readout)), np.empty(s.shape), 0.0
    for i, a in enumerate(readout):
        inverse = np.eye(features.shape[1]) + (features.T * s[i]) @ features
        covariance = np.linalg.inv(inverse)
        weights = covariance @ (features.T @ nu[i])
        mean, v = features @ weights, np.einsum("pi,ij,pj->p", features, covariance, features, optimize=True)
        flat = v <= 0.0
        v = np.where(flat, 1.0, v)
        cavity = 1.0 / (1.0 / v - s[i])
        centre = cavity * (mean / v - nu[i])
        kappa = t @ a
        sides = centre[:, None] + np.outer(kappa * cavity, slopes)
        z, log_weight = _quadrature(sides, np.sqrt(np.tile(cavity[:, None], 2)))
        phi = _phi(z, slopes)
        value = log_weight - 0.5 * (z - centre[:, None]) ** 2 / cavity[:, None] + kappa[:, None] * phi
        top = value.max(axis=1)
        p = np.exp(value - top[:, None])
        norm = p.sum(axis=1)
        p /= norm[:, None]
        activation[i] = np.where(flat, 0.0, (p * phi).sum(axis=1))
        first = (p * z).sum(axis=1)
        second = (p * z * z).sum(axis=1) - first**2
        here = np.maximum(np.abs(first - mean) / np.sqrt(v), np.abs(second / v - 1.0))
        mismatch = max(mismatch, float(np.where(flat, 0.0, here).max()))
        site = 0.5 * (mean**2 / v - centre**2 / cavity) + 0.5 * np.log(v / cavity)
        log_norm = np.log(norm) + top - 0.5 * np.log(2.0 * np.pi * cavity) - site
        exponent[i] = np.where(flat, 0.0, log_norm).sum() - 0.5 * a @ a / s2
        exponent[i] += 0.5 * weights @ inverse @ weights - 0.5 * np.linalg.slogdet(inverse)[1]
    return exponent, activation, mismatch


def outlier_violation(
    features: FloatArray, t: FloatArray, s2: float, slopes: tuple[float, float], u: FloatArray, w: FloatArray
) -> float:
    """Largest violation, relative to |w|, of what makes outliers (u, w) stationary.

    |u| = 1, |w|^2 = 1 / s2, u along t^T phi(F w), and w = F^T (k d) with k = t u and d_mu = phi'(z_mu), anything
    between the slopes where a sample rests on the kink.
    """
    worst = 0.0
    for direction, weights in zip(u, w):
        length = np.linalg.norm(weights)
        z, k = features @ weights, t @ direction
        response = t.T @ _phi(z, slopes)
        rest = np.abs(z) <= 1e-8 * length * np.linalg.norm(features, axis=1)
        left = weights - features.T @ np.where(rest, 0.0, k * np.where(z > 0.0, slopes[1], slopes[0]))
        if rest.any():
            matrix = (features[rest] * k[rest, None]).T
            bounds = min(slopes), max(slopes)
            left = left - matrix @ lsq_linear(matrix, left, bounds=bounds, method="bvls", tol=1e-14).x
        worst = max(
            worst,
            abs(np.linalg.norm(direction) - 1.0),
            abs(length * s2**0.5 - 1.0),
            float(np.linalg.norm(response / np.linalg.norm(response) - direction)),
            float(np.linalg.norm(left) / length),
        )
    return float(worst)
