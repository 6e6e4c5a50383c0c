"""Laplace's method for the readout integral at finite P, one Gaussian per local maximum of h (sigma_a = 1)."""

from __future__ import annotations

import numpy as np

from meanfield.numerics.jit import jit
from meanfield.theories.single_layer.compiled.generated.action import action_fields4
from meanfield.theories.single_layer.compiled.generated.stationarity import neuron_jacobian

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
    # Fields of one mode, and the derivatives of h there; one neuron of weight 1.
    f0, f1, f2 = np.empty(n_classes), np.empty((1, n_classes)), np.empty((1, n_classes))
    f3, f4 = np.empty(n_classes), np.empty(n_classes)
    one = np.ones(1)
    cross = np.empty((1, m, n_classes, m))  # d(grad_a h) / dt
    hessian = np.empty((1, m, m))
    slope_t = np.empty((1, n_classes, m))  # dh / dt
    same_class = np.empty((n_classes, m, m))
    stiffness = np.empty((m, m))
    for mode in range(n_modes):
        a = modes[mode]
        h = action_fields4(table, p, t, a, f0, f1[0], f2[0], f3, f4)
        same_class[:] = 0.0
        neuron_jacobian(f1, f2, p, t, modes[mode : mode + 1], one, cross, hessian, slope_t, same_class)
        for r in range(m):
            for q in range(m):
                stiffness[r, q] = -hessian[0, r, q]
        inverse = np.linalg.inv(stiffness)
        for r in range(m):
            for q in range(m):
                covariance[mode, r, q] = inverse[r, q] / n_samples
        log_share[mode] = n_samples * h - 0.5 * np.log(np.linalg.det(stiffness))
        # d ln det(-d^2 h) / da = -sum_c p_c G''' (t_c M t_c) t_c, M = inverse
        width = t @ inverse  # M t_c
        spread = np.sum(t * width, axis=1)
        slope = np.zeros(m)
        for c in range(n_classes):
            for r in range(m):
                slope[r] -= f3[c] * spread[c] * t[c, r]
        moved = inverse @ slope
        quartic = 0.0
        cubic = 0.0
        for r in range(m):
            mean[mode, r] = a[r] - 0.5 * moved[r] / n_samples
            cubic += 0.125 * slope[r] * moved[r]
        for c in range(n_classes):
            quartic += 0.125 * f4[c] * spread[c] * spread[c]
            for d in range(n_classes):
                overlap = 0.0
                for r in range(m):
                    overlap += t[d, r] * width[c, r]
                cubic += f3[c] * f3[d] * overlap**3 / 12.0
            for r in range(m):
                i = c * m + r
                explicit = -(f3[c] * a[r] * spread[c] + 2.0 * f2[0, c] * width[c, r])
                implicit = 0.0
                for q in range(m):
                    implicit += cross[0, q, c, r] * moved[q]
                    second[mode, i, c * m + q] += p[c] * same_class[c, r, q]
                first[mode, i] = slope_t[0, c, r] - 0.5 * (explicit + implicit) / n_samples
        correction[mode] = (quartic + cubic) / n_samples
        flat = cross[0].copy().reshape(m, size)
        response = flat.T @ inverse @ flat
        for i in range(size):
            for j in range(size):
                second[mode, i, j] += response[i, j]
    return log_share, first, second, covariance, mean, correction
