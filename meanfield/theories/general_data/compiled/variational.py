"""Gaussian approximation of P(w | k) that maximises the variational lower bound of log Z(k).

The natural gradient of the bound k.E phi - KL moves the sites towards S = -k d2E/dm2, nu = S m + k dE/dm, E = E phi.
Nothing of it is derived in symbols: it stands in where expectation propagation fails, which is what is printed, and its
equations are these two, whose derivatives are moments E[phi He_j] by quadrature.
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.copies import copy_vector
from meanfield.numerics.jit import jit
from meanfield.theories.general_data.compiled.ep import FAILED, VGA, step_to, workspace
from meanfield.theories.general_data.compiled.factor import solve_transposed
from meanfield.theories.general_data.compiled.tilted import gaussian_curvature, tilted_moments

__all__ = ["ascend"]

_CAP = 600  # iterations


@jit
def _bound(features, tilt, k, s, work, phi, spread, gain):
    """Variational bound k.E phi - KL at the Gaussian in `work`; its moments, and the sites that would be stationary."""
    n, rank = features.matrix.shape
    kl = 0.0
    for j in range(rank):
        kl += math.log(work.precision[j, j])
    weight = work.centre.copy()
    solve_transposed(work.precision, weight)
    for j in range(rank):
        kl += 0.5 * weight[j] * weight[j]
    value = 0.0
    for i in range(n):
        v, m = work.variance[i], work.mean[i]
        safe = max(v, 1e-30)
        kl -= 0.5 * s[i] * v
        _, _, _, phi[i], spread[i], mixed = tilted_moments(tilt, 0.0, m, safe, work.quadrature)
        value += k[i] * phi[i]
        if features.variance[i] == 0.0:
            spread[i] = gain[i] = work.curvature[i] = work.linear[i] = 0.0
            continue
        gain[i] = mixed / v
        work.curvature[i] = -k[i] * gaussian_curvature(tilt, m, safe, work.quadrature)
        work.linear[i] = work.curvature[i] * m + k[i] * gain[i]
    return value - kl


@jit
def _ascend(features, tilt, k, s, nu, tolerance, work, phi, spread, gain):
    """Gaussian approximation by ascent of its lower bound, from zero sites; (bound, iterations, found one).

    The value is a bound wherever the ascent ends, at the latest after _CAP steps.
    """
    s[:] = 0.0
    nu[:] = 0.0
    work.curvature[:] = 0.0
    work.linear[:] = 0.0
    value = -np.inf
    step = 1.0
    for iteration in range(1, _CAP + 1):
        if features.stop[0] != 0:
            return value, iteration, False
        while True:
            _, _, ok = step_to(features, s, nu, step, work, False)
            target_s = work.curvature.copy()
            target_nu = work.linear.copy()
            if ok:
                new = _bound(features, tilt, k, work.trial[0], work, phi, spread, gain)
                if new >= value - 1e-9 * (1.0 + abs(value)):
                    break
            copy_vector(work.curvature, target_s)
            copy_vector(work.linear, target_nu)
            step *= 0.5
            if step < 1e-6:
                return value, iteration, True
        copy_vector(s, work.trial[0])
        copy_vector(nu, work.trial[1])
        value = new
        change = 0.0
        for i in range(s.shape[0]):
            v = work.variance[i]
            change = max(change, abs(work.curvature[i] - s[i]) * v, abs(work.linear[i] - nu[i]) * math.sqrt(v))
        if change < tolerance:
            return value, iteration, True
        step = min(1.0, 1.5 * step)
    return value, _CAP, True


@jit
def ascend(features, tilt, rows, k, s, nu, tolerance, moments):
    """Lower bound of log Z and the Gaussian's moments for the given rows of k (n, P); status VGA or FAILED."""
    work = workspace(*features.matrix.shape)
    for i in rows:
        moments.log_z[i], moments.iterations[i], ok = _ascend(
            features, tilt, k[i], s[i], nu[i], tolerance[i], work, moments.phi[i], moments.spread[i], moments.gain[i]
        )
        moments.status[i] = VGA if ok else FAILED
        moments.lowest[i] = 1.0
