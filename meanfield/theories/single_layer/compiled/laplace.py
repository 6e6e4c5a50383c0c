"""Laplace's method for the readout integral at finite P, one Gaussian per local maximum of h (sigma_a = 1)."""

from __future__ import annotations

import numpy as np

from meanfield.numerics.cumulant_table import cumulant4
from meanfield.numerics.jit import jit

__all__ = ["laplace"]


@jit
def laplace(table, p, t, n_samples, modes):
    """ln of each mode's share of I(t), that is l = P h(a) - ln det(-d^2 h) / 2, with derivatives.

    Parameters: `modes` (n, m), maxima of h. Returns (l (n,), dl/dt / P (n, C m), its leading second derivative / P
    (n, C m, C m), covariance [-P d^2 h]^{-1} (n, m, m), mean readout to order 1 / P (n, m), next correction of l,
    of order 1 / P (n,)). The gradient is exact, determinant included; the second derivative leaves the determinant
    out, an error of relative order 1 / P that costs iterations, not accuracy.
    """
    n_modes = modes.shape[0]
    n_classes, m = t.shape
    size = n_classes * m
    log_share = np.empty(n_modes)
    first = np.empty((n_modes, size))
    second = np.zeros((n_modes, size, size))
    covariance = np.empty((n_modes, m, m))
    mean = np.empty((n_modes, m))
    correction = np.empty(n_modes)
    g = np.empty((n_classes, 5))
    cross = np.empty((m, size))  # d(grad_a h) / dt
    for mode in range(n_modes):
        a = modes[mode]
        h = 0.0
        minus_hessian = np.eye(m)
        for r in range(m):
            h -= 0.5 * a[r] * a[r]
        for c in range(n_classes):
            kappa = 0.0
            for r in range(m):
                kappa += a[r] * t[c, r]
            g[c] = cumulant4(table, kappa)
            h += p[c] * g[c, 0]
            for r in range(m):
                for q in range(m):
                    minus_hessian[r, q] -= p[c] * g[c, 2] * t[c, r] * t[c, q]
        inverse = np.linalg.inv(minus_hessian)
        covariance[mode] = inverse / n_samples
        log_share[mode] = n_samples * h - 0.5 * np.log(np.linalg.det(minus_hessian))
        # d ln det(-d^2 h) / da = -sum_c p_c G''' (t_c M t_c) t_c, M = inverse
        width = np.empty((n_classes, m))  # M t_c
        slope = np.zeros(m)
        for c in range(n_classes):
            for r in range(m):
                width[c, r] = 0.0
                for q in range(m):
                    width[c, r] += inverse[r, q] * t[c, q]
            spread = 0.0
            for r in range(m):
                spread += t[c, r] * width[c, r]
            for r in range(m):
                slope[r] -= p[c] * g[c, 3] * spread * t[c, r]
        moved = np.zeros(m)  # M slope
        for r in range(m):
            for q in range(m):
                moved[r] += inverse[r, q] * slope[q]
        quartic = 0.0
        cubic = 0.0
        for r in range(m):
            mean[mode, r] = a[r] - 0.5 * moved[r] / n_samples
            cubic += 0.125 * slope[r] * moved[r]
        for c in range(n_classes):
            spread = 0.0
            shifted = 0.0
            for r in range(m):
                spread += t[c, r] * width[c, r]
                shifted += t[c, r] * moved[r]
            quartic += 0.125 * p[c] * g[c, 4] * spread * spread
            for d in range(n_classes):
                overlap = 0.0
                for r in range(m):
                    overlap += t[d, r] * width[c, r]
                cubic += p[c] * g[c, 3] * p[d] * g[d, 3] * overlap**3 / 12.0
            for r in range(m):
                i = c * m + r
                explicit = -(g[c, 3] * a[r] * spread + 2.0 * g[c, 2] * width[c, r])
                implicit = g[c, 1] * moved[r] + g[c, 2] * a[r] * shifted
                first[mode, i] = p[c] * (g[c, 1] * a[r] - 0.5 * (explicit + implicit) / n_samples)
                for q in range(m):
                    cross[q, i] = p[c] * (g[c, 2] * a[r] * t[c, q] + (g[c, 1] if q == r else 0.0))
                    second[mode, i, c * m + q] += p[c] * g[c, 2] * a[r] * a[q]
        correction[mode] = (quartic + cubic) / n_samples
        second[mode] += cross.T @ inverse @ cross
    return log_share, first, second, covariance, mean, correction
