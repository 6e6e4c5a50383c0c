"""Moments of the tilted law N(z; mean, variance) exp(k phi(z)) / Zhat of one sample.

What they are for: general_data/THEORY.md, "Expectation propagation".

Closed form for piecewise linear phi: a mixture of truncated normals, written so that no tail loses digits. Otherwise
quadrature: the trapezoidal rule where phi is analytic (spectrally accurate wherever its nodes lie: they are those of
fixed grids on which phi is tabulated once), Gauss-Legendre panels split at the kinks where it is not. With
x = (z - mean) / sd the tilted log density has slope -x + k sd phi', so everything above e^{-reach^2 / 2} of its maximum
lies between k sd min phi' - reach and k sd max phi' + reach.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from meanfield.numerics.jit import jit, jit_apart
from meanfield.numerics.phi_table import Nonlinearity, phi0_array
from meanfield.theories.general_data.compiled.generated.propagation import kink_curvature, tilted_piece

__all__ = [
    "GRID_REACH",
    "GRID_STEPS",
    "KINKED",
    "PIECEWISE_LINEAR",
    "SMOOTH",
    "Scratch",
    "Tilt",
    "gaussian_curvature",
    "half_line",
    "integrated",
    "rule",
    "scratch",
    "tilted_moments",
    "window",
]

PIECEWISE_LINEAR, SMOOTH, KINKED = 0, 1, 2

_LOG_ROOT_2PI = 0.5 * math.log(2.0 * math.pi)
_REACH = 7.2  # e^{-reach^2 / 2} = 6e-12
_STEP = 0.6  # of the trapezoidal rule, in units of the narrowest width the tilted law can have
_PANEL = 2.4  # width of a panel in the same units
_MAX_NODES = 4096
_NEGLIGIBLE = -60.0  # exponents below count as this
GRID_REACH = 48  # the grids cover |z| <= GRID_REACH
GRID_STEPS = 2.0 ** (-0.5 * np.arange(2, 17))  # 1/2 to 1/256
_NODE, _WEIGHT = np.polynomial.legendre.leggauss(16)


class Tilt(NamedTuple):
    """A nonlinearity with what its quadrature needs to know."""

    kind: int  # PIECEWISE_LINEAR, SMOOTH or KINKED
    breaks: np.ndarray  # (n - 1,) ends of the linear pieces, or the kinks
    intercepts: np.ndarray  # (n,) of the linear pieces
    slopes: np.ndarray  # (n,)
    slope_min: float  # range of phi'
    slope_max: float
    curvature: float  # max |phi''| between kinks
    jump: float  # sum of |jumps| of phi
    step: float  # largest step in z that resolves phi
    grid: np.ndarray  # phi on all grids, one after the other (SMOOTH)
    start: np.ndarray  # (n_grids,) position of z = 0 of each
    nonlinearity: Nonlinearity


class Scratch(NamedTuple):
    """Buffers for `tilted_moments`."""

    rows: np.ndarray  # (4, n): exponents, values of phi, nodes, weights
    scale: np.ndarray  # (n,)
    bits: np.ndarray  # (n,) the same memory as integers


@jit
def scratch():
    """Buffers for `tilted_moments`."""
    scale = np.empty(_MAX_NODES)
    return Scratch(np.empty((4, _MAX_NODES)), scale, scale.view(np.int64))


@jit
def _exponentials(scratch, n):
    """Replace the first n exponents (<= 0) by their exponentials, to rounding; no branch, so it vectorises."""
    exponent, scale, bits = scratch.rows[0], scratch.scale, scratch.bits
    for j in range(n):
        x = max(exponent[j], _NEGLIGIBLE)
        power = np.floor(x * 1.4426950408889634 + 0.5)
        r = (x - power * 0.693145751953125) - power * 1.42860682030941723212e-6
        # e^r, |r| < 0.35, by its Taylor series; the bits of 2^power come from adding 1.5 * 2^52.
        q = r * r
        even = 1.0 + q * (
            1 / 2 + q * (1 / 24 + q * (1 / 720 + q * (1 / 40320 + q * (1 / 3628800 + q * (1 / 479001600)))))
        )
        odd = 1.0 + q * (1 / 6 + q * (1 / 120 + q * (1 / 5040 + q * (1 / 362880 + q * (1 / 39916800)))))
        exponent[j] = even + r * odd
        scale[j] = power + 6755399441055744.0
    for j in range(n):
        bits[j] = (bits[j] + 1023) << 52
    for j in range(n):
        exponent[j] *= scale[j]


@jit
def half_line(u):
    """ln Q(u), mean - u and variance of a standard normal cut to [u, inf)."""
    if u > 4.0:
        # Mills' ratio 1 / (u + 1 / (u + 2 / (u + ...))): mean = u + d, d = 1 / (u + e), variance (e - d) / (u + e).
        n = 5 + int(200.0 / (u * math.sqrt(u)))
        e = 0.5 * (math.sqrt(u * u + 4.0 * (n + 1)) - u)  # what is left out, to leading order
        for j in range(n, 1, -1):
            e = j / (u + e)
        d = 1.0 / (u + e)
        return -0.5 * u * u - _LOG_ROOT_2PI - math.log(u + d), d, (e - d) / (u + e)
    if u < 0.0:
        log_mass = math.log1p(-0.5 * math.erfc(-u * math.sqrt(0.5)))
    else:
        log_mass = math.log(0.5 * math.erfc(u * math.sqrt(0.5)))
    r = math.exp(-0.5 * u * u - _LOG_ROOT_2PI - log_mass)
    return log_mass, r - u, 1.0 - r * (r - u)


@jit
def _interval(low, high):
    """ln mass, mean and variance of a standard normal cut to [low, high]; either end may be infinite."""
    if high == np.inf:
        log_mass, excess, variance = half_line(low) if low > -np.inf else (0.0, 0.0, 1.0)
        return log_mass, (low + excess if low > -np.inf else 0.0), variance
    if low == -np.inf:
        log_mass, excess, variance = half_line(-high)
        return log_mass, high - excess, variance
    sign = 1.0
    if low + high < 0.0:
        low, high, sign = -high, -low, -1.0
    width = high - low
    if width * (1.0 + max(low, 0.0)) < 2.5:
        nearest = max(low, 0.0)
        s0 = s1 = s2 = 0.0
        for j in range(_NODE.shape[0]):
            y = 0.5 * width * (1.0 + _NODE[j])
            x = low + y
            w = _WEIGHT[j] * math.exp(0.5 * (nearest - x) * (nearest + x))
            s0 += w
            s1 += w * y
        for j in range(_NODE.shape[0]):
            y = 0.5 * width * (1.0 + _NODE[j])
            x = low + y
            w = _WEIGHT[j] * math.exp(0.5 * (nearest - x) * (nearest + x))
            s2 += w * (y - s1 / s0) ** 2
        log_mass = math.log(0.5 * width * s0) - 0.5 * nearest * nearest - _LOG_ROOT_2PI
        return log_mass, sign * (low + s1 / s0), s2 / s0
    log_a, da, va = half_line(low)
    log_b, db, vb = half_line(high)
    db += width
    ratio = math.exp(log_b - log_a)
    mean = (da - ratio * db) / (1.0 - ratio)
    variance = (va - ratio * vb + (da - mean) ** 2 - ratio * (db - mean) ** 2) / (1.0 - ratio)
    return log_a + math.log1p(-ratio), sign * (low + mean), variance


@jit
def _linear_pieces(tilt, k, mean, variance, scratch):
    work = scratch.rows
    sd = math.sqrt(variance)
    n = tilt.slopes.shape[0]
    largest = -np.inf
    for i in range(n):
        shift, height = tilted_piece(k, tilt.intercepts[i], tilt.slopes[i], mean, variance)
        low = (tilt.breaks[i - 1] - mean - shift) / sd if i > 0 else -np.inf
        high = (tilt.breaks[i] - mean - shift) / sd if i < n - 1 else np.inf
        log_mass, x, width = _interval(low, high)
        work[0, i] = log_mass + height
        work[1, i] = mean + shift + sd * x
        work[2, i] = variance * width
        largest = max(largest, work[0, i])
    total = first = value = 0.0
    for i in range(n):
        w = math.exp(work[0, i] - largest)
        work[3, i] = w
        total += w
        first += w * work[1, i]
        value += w * (tilt.intercepts[i] + tilt.slopes[i] * work[1, i])
    first /= total
    value /= total
    spread = value_spread = mixed = 0.0
    for i in range(n):
        w, slope = work[3, i], tilt.slopes[i]
        dz = work[1, i] - first
        dv = tilt.intercepts[i] + slope * work[1, i] - value
        spread += w * (work[2, i] + dz * dz)
        value_spread += w * (slope * slope * work[2, i] + dv * dv)
        mixed += w * (slope * work[2, i] + dv * dz)
    return largest + math.log(total), first, spread / total, value, value_spread / total, mixed / total


@jit
def window(tilt, k, sd):
    """Ends in x of what matters, and the narrowest width that the tilted law can have."""
    a, b = k * sd * tilt.slope_min, k * sd * tilt.slope_max
    reach = math.sqrt(_REACH * _REACH + 2.0 * abs(k) * tilt.jump)
    return min(a, b) - reach, max(a, b) + reach, 1.0 / math.sqrt(1.0 + abs(k) * sd * sd * tilt.curvature)


@jit
def _grid_values(tilt, low, high, step, scratch):
    """phi (row 1) at the nodes `first` + j times `spacing`, from a grid; (number of nodes, spacing, first).

    The number is 0 where no grid reaches far enough or is fine enough.
    """
    if not (step >= GRID_STEPS[-1] and max(-low, high) < GRID_REACH - 1.0):
        return 0, 0.0, 0.0
    level = max(0, math.ceil(-2.0 * math.log2(step)) - 2)
    spacing = GRID_STEPS[level]
    first = math.floor(low / spacing)
    n = int(math.ceil(high / spacing) - first) + 1
    if n > _MAX_NODES:
        return 0, 0.0, 0.0
    start = tilt.start[level] + int(first)
    value = scratch.rows[1]
    for j in range(n):
        value[j] = tilt.grid[start + j]
    return n, spacing, first * spacing


@jit_apart(returns="int64")
def rule(tilt, window, mean, sd, scratch):
    """Values of phi, nodes z - mean and weights of the rule (rows 1 to 3) for a window from `window`; their number."""
    value, node, weight = scratch.rows[1], scratch.rows[2], scratch.rows[3]
    low, high, narrow = window
    if tilt.kind == SMOOTH:
        step = min(_STEP * narrow * sd, tilt.step)
        n, spacing, first = _grid_values(tilt, mean + sd * low, mean + sd * high, step, scratch)
        if n > 0:
            for j in range(n):
                node[j] = first - mean + j * spacing
                weight[j] = spacing
            return n
        n = min(int(sd * (high - low) / step) + 2, _MAX_NODES)
        step = sd * (high - low) / (n - 1)
        for j in range(n):
            node[j] = sd * low + j * step
            weight[j] = step
    else:
        width = min(_PANEL * narrow, 4.0 * tilt.step / sd)
        width = max(width, (high - low) / (_MAX_NODES // 16 - tilt.breaks.shape[0] - 2))
        n = 0
        left = low
        for i in range(tilt.breaks.shape[0] + 1):
            right = high
            if i < tilt.breaks.shape[0]:
                right = min(max((tilt.breaks[i] - mean) / sd, low), high)
            if right <= left:
                continue
            panels = int((right - left) / width) + 1
            half = 0.5 * (right - left) / panels
            for p in range(panels):
                for j in range(16):
                    node[n] = sd * (left + (2 * p + 1 + _NODE[j]) * half)
                    weight[n] = sd * half * _WEIGHT[j]
                    n += 1
            left = right
    for j in range(n):
        scratch.scale[j] = mean + node[j]
    phi0_array(tilt.nonlinearity, scratch.scale[:n], value[:n])
    return n


@jit
def _quadrature(tilt, k, mean, variance, scratch):
    sd = math.sqrt(variance)
    n = rule(tilt, window(tilt, k, sd), mean, sd, scratch)
    exponent, value, node = scratch.rows[0], scratch.rows[1], scratch.rows[2]
    precision = -0.5 / variance
    for j in range(n):
        exponent[j] = k * value[j] + precision * node[j] * node[j]
    return integrated(n, mean, sd, scratch)


@jit
def integrated(n, mean, sd, scratch):
    """ln norm and moments, as `tilted_moments` gives them, of a law with n exponents in row 0 of `scratch`."""
    exponent, value, node, weight = scratch.rows[0], scratch.rows[1], scratch.rows[2], scratch.rows[3]
    largest = -np.inf
    for j in range(n):
        largest = max(largest, exponent[j])
    for j in range(n):
        exponent[j] -= largest
    _exponentials(scratch, n)
    s0 = s1 = s2 = p1 = p2 = pz = 0.0
    for j in range(n):
        w, x, f = weight[j] * exponent[j], node[j], value[j]
        s0 += w
        s1 += w * x
        s2 += w * x * x
        p1 += w * f
        p2 += w * f * f
        pz += w * f * x
    x = s1 / s0
    f = p1 / s0
    return (
        largest + math.log(s0 / sd) - _LOG_ROOT_2PI,
        mean + x,
        max(s2 / s0 - x * x, 1e-300),
        f,
        max(p2 / s0 - f * f, 0.0),
        pz / s0 - f * x,
    )


@jit_apart(returns="UniTuple(float64, 6)")
def tilted_moments(tilt, k, mean, variance, scratch):
    """ln Zhat, E z, Var z, E phi, Var phi and Cov(phi, z) under N(z; mean, variance) e^{k phi(z)} / Zhat."""
    if tilt.kind == PIECEWISE_LINEAR:
        return _linear_pieces(tilt, k, mean, variance, scratch)
    return _quadrature(tilt, k, mean, variance, scratch)


@jit_apart(returns="float64")
def gaussian_curvature(tilt, mean, variance, scratch):
    """d^2/dmean^2 of E phi(z), z ~ N(mean, variance)."""
    sd = math.sqrt(variance)
    if tilt.kind == PIECEWISE_LINEAR:
        total = 0.0
        for i in range(tilt.breaks.shape[0]):
            x = (tilt.breaks[i] - mean) / sd
            turn = tilt.slopes[i + 1] - tilt.slopes[i]
            jump = tilt.intercepts[i + 1] - tilt.intercepts[i] + turn * tilt.breaks[i]
            total += kink_curvature(turn, jump, x, sd) * math.exp(-0.5 * x * x - _LOG_ROOT_2PI) / sd
        return total
    n = rule(tilt, window(tilt, 0.0, sd), mean, sd, scratch)
    total = 0.0
    for j in range(n):
        x = scratch.rows[2, j] / sd
        total += scratch.rows[3, j] * math.exp(-0.5 * x * x) * scratch.rows[1, j] * (x * x - 1.0)
    return total * math.exp(-_LOG_ROOT_2PI) / (sd * variance)
