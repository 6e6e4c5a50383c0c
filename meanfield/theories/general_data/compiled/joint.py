"""Moments of one sample when readout and weights of a neuron are inferred together: factor exp(kappa phi(z)).

Given z, kappa = t.a is Gaussian with mean offset + beta z and variance `rest` in the cavity, which leaves the law

    N(z; mean, variance) exp((offset + beta z) phi(z) + rest phi(z)^2 / 2)

of z alone: the quadrature of `tilted`, with a window that allows for the range of kappa.
"""

from __future__ import annotations

import math

from meanfield.numerics.jit import jit
from meanfield.theories.general_data.compiled.generated.propagation import given_preactivation, joint_exponent
from meanfield.theories.general_data.compiled.tilted import half_line, integrated, rule, scratch, window

__all__ = ["gaussian_moments", "joint_moments"]

_RANGE = 4.0  # standard deviations of z over which kappa varies


@jit
def _window(tilt, kappa, spread, sd):
    """Union of the windows at kappa - spread and kappa + spread."""
    low, high, narrow = window(tilt, kappa - spread, sd)
    other = window(tilt, kappa + spread, sd)
    return min(low, other[0]), max(high, other[1]), min(narrow, other[2])


@jit
def joint_moments(tilt, mean, cov, low, high, cut, sharp, moments):
    """ln norm, E z, Var z, E phi, Var phi and Cov(phi, z) in the rows of `moments` (P, 6).

    mean (P, 2) and cov (P, 2, 2) of (kappa, z); phi is expected between `low` and `high` (for the window only).
    Where sharp[i] is not zero the factor is multiplied by Phi(sharp[i] (z - cut[i])).
    """
    work = scratch()
    exponent, value, node = work.rows[0], work.rows[1], work.rows[2]
    for i in range(mean.shape[0]):
        variance = max(cov[i, 1, 1], 1e-30)
        sd = math.sqrt(variance)
        beta, rest = given_preactivation(cov[i, 0, 0], cov[i, 0, 1], variance)
        rest = max(rest, 0.0)
        kappa = mean[i, 0] + 0.5 * rest * (low + high)
        spread = 0.5 * rest * (high - low) + _RANGE * abs(beta) * sd + abs(beta) * max(abs(low), abs(high)) / sd
        ends = _window(tilt, kappa, spread, sd)
        if sharp[i] != 0.0:
            at = (cut[i] - mean[i, 1]) / sd
            ends = min(ends[0], at - _RANGE), max(ends[1], at + _RANGE), min(ends[2], 1.0 / (abs(sharp[i]) * sd))
        n = rule(tilt, ends, mean[i, 1], sd, work)
        precision = -0.5 / variance
        for j in range(n):
            x, f = node[j], value[j]
            exponent[j] = joint_exponent(mean[i, 0], beta, rest, x, f) + precision * x * x
        if sharp[i] != 0.0:
            for j in range(n):
                exponent[j] += half_line(-sharp[i] * (mean[i, 1] + node[j] - cut[i]))[0]
        log_norm, z, spread_z, phi, spread_phi, mixed = integrated(n, mean[i, 1], sd, work)
        moments[i, 0], moments[i, 1], moments[i, 2] = log_norm, z, spread_z
        moments[i, 3], moments[i, 4], moments[i, 5] = phi, spread_phi, mixed


@jit
def gaussian_moments(tilt, mean, variance, moments):
    """E phi^2 and E[phi(z) He_j(x)], j = 0 ... 3, z = mean + sd x, in the rows of `moments` (P, 5)."""
    work = scratch()
    value, node, weight = work.rows[1], work.rows[2], work.rows[3]
    for i in range(mean.shape[0]):
        sd = math.sqrt(max(variance[i], 1e-30))
        n = rule(tilt, window(tilt, 0.0, sd), mean[i], sd, work)
        total = s0 = s1 = s2 = s3 = square = 0.0
        for j in range(n):
            x = node[j] / sd
            w = weight[j] * math.exp(-0.5 * x * x)
            f = w * value[j]
            total += w
            square += f * value[j]
            s0 += f
            s1 += f * x
            s2 += f * (x * x - 1.0)
            s3 += f * x * (x * x - 3.0)
        moments[i, 0], moments[i, 1], moments[i, 2] = square / total, s0 / total, s1 / total
        moments[i, 3], moments[i, 4] = s2 / total, s3 / total
