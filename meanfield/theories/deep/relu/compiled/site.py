"""The single-site function of a rectifier in closed form (relu/THEORY.md, "Single-site function").

    g(b, h) = ln int Dxi exp(b phi(z) + delta phi(z)^2 / 2),    z = h + sqrt(d) xi,    phi(z) = max(z, 0)

Two truncated Gaussians: z < 0 of N(h, d), z > 0 of N(mu, d') with d' = d / (1 - delta d), mu = d' (b + h / d).
"""

from __future__ import annotations

import math

from meanfield.numerics.jit import jit

__all__ = ["N_SITE", "N_SLOPES", "site", "site_slopes"]

N_SITE, N_SLOPES = 5, 13  # numbers of a site, without and with its higher derivatives

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_FAR = 5.0  # from here the tail is a continued fraction, whose terms do not cancel


@jit
def _half_line(x: float) -> tuple[float, float, float, float]:
    """For N(x, 1) on the positive half-line: ln of its mass (plus x^2/2 where x is far below 0), mean, mean square,
    and whether x^2/2 was added."""
    if x > -_FAR:
        mass = 0.5 * math.erfc(-x / math.sqrt(2.0))
        log_mass = math.log(mass) if x < 2.0 else math.log1p(-0.5 * math.erfc(x / math.sqrt(2.0)))
        ratio = math.exp(-0.5 * x * x - _HALF_LOG_2PI) / mass
        return log_mass, x + ratio, x * x + 1.0 + x * ratio, 0.0
    y = -x
    tail = 0.0
    for k in range(26, 1, -1):
        tail = k / (y + tail)
    delta = 1.0 / (y + tail)
    return -_HALF_LOG_2PI - math.log(y + delta), delta, tail * delta, 1.0


@jit
def _half_line_spread(x: float) -> tuple[float, float, float]:
    """Second, third and fourth central moment of N(x, 1) on the positive half-line."""
    if x > -_FAR:
        ratio = math.exp(-0.5 * x * x - _HALF_LOG_2PI) / (0.5 * math.erfc(-x / math.sqrt(2.0)))
        slope = -ratio * (x + ratio)
        second = 1.0 + slope
        inner = (x + ratio) * (x + 2.0 * ratio) - 1.0
        fourth = slope * inner + ratio * ((1.0 + slope) * (x + 2.0 * ratio) + (x + ratio) * (1.0 + 2.0 * slope))
        return second, ratio * inner, fourth + 3.0 * second * second
    tail = 0.0
    for k in range(30, 4, -1):
        tail = k / (tail - x)
    four = 4.0 / (tail - x)
    three = 3.0 / (four - x)
    two = 2.0 / (three - x)
    m1 = 1.0 / (two - x)  # moments are products of the tails of the continued fraction
    m2 = m1 * two
    m3 = m2 * three
    m4 = m3 * four
    return m2 - m1 * m1, m3 - 3.0 * m1 * m2 + 2.0 * m1**3, m4 - 4.0 * m1 * m3 + 6.0 * m1 * m1 * m2 - 3.0 * m1**4


@jit
def _halves(b: float, h: float, d: float, delta: float) -> tuple[float, float, float, float, float, float, float]:
    """g, the mass of z > 0 and of z < 0, and mean and mean square of z in units of its width on either side."""
    curvature = 1.0 - delta * d
    narrow = d / curvature
    root, root_on = math.sqrt(d), math.sqrt(narrow)
    mu = narrow * (b + h / d)
    log_on, first_on, second_on, far = _half_line(mu / root_on)
    log_on += -0.5 * math.log(curvature)
    if far > 0.0:
        log_on -= 0.5 * h * h / d
    else:  # mu^2/2d' - h^2/2d without its cancellation
        log_on += 0.5 * narrow * b * b + narrow * b * h / d + 0.5 * delta * narrow * h * h / d
    log_off, first_off, second_off, far = _half_line(-h / root)
    if far > 0.0:
        log_off -= 0.5 * h * h / d
    if log_on > log_off:
        off = math.exp(log_off - log_on)
        g = log_on + math.log1p(off)
        on = 1.0 / (1.0 + off)
        off *= on
    else:
        on = math.exp(log_on - log_off)
        g = log_off + math.log1p(on)
        off = 1.0 / (1.0 + on)
        on *= off
    return g, on, off, first_on, second_on, first_off, second_off


@jit
def site(b: float, h: float, d: float, delta: float) -> tuple[float, float, float, float, float]:
    """g, g_b, g_bb, g_h, g_hh; NaN where delta d >= 1 (the integral diverges)."""
    if not delta * d < 1.0:
        return math.nan, math.nan, math.nan, math.nan, math.nan
    g, on, off, first_on, second_on, first_off, second_off = _halves(b, h, d, delta)
    narrow = d / (1.0 - delta * d)
    z_on, z_off = math.sqrt(narrow) * first_on, -math.sqrt(d) * first_off
    var_on, var_off = narrow * (second_on - first_on**2), d * (second_off - first_off**2)
    mean = on * z_on
    g_bb = on * (var_on + off * z_on * z_on)
    variance = on * var_on + off * var_off + on * off * (z_on - z_off) ** 2
    return g, mean, g_bb, (mean + off * z_off - h) / d, (variance - d) / (d * d)


@jit
def site_slopes(b: float, h: float, d: float, delta: float, out):
    """g, g_b, g_bb, g_h, g_hh, g_bh, g_bbb, g_bbh, g_bhh, g_hhh, g_bbbb, g_bbhh, g_hhhh into `out` (13,).

    Derivatives by b and h / d are joint cumulants of phi and z, of two truncated Gaussians, about their means.
    """
    if not delta * d < 1.0:
        out[:] = math.nan
        return
    g, on, off, first_on, _, first_off, _ = _halves(b, h, d, delta)
    narrow = d / (1.0 - delta * d)
    root, root_on = math.sqrt(d), math.sqrt(narrow)
    z_on, z_off = root_on * first_on, -root * first_off
    v, v3, v4 = _half_line_spread(narrow * (b + h / d) / root_on)
    w, w3, w4 = _half_line_spread(-h / root)
    v, v3, v4 = narrow * v, narrow * root_on * v3, narrow * narrow * v4
    w, w3, w4 = d * w, -d * root * w3, d * d * w4
    # Of phi and z, on and off, from their means.
    p, q = off * z_on, off * (z_on - z_off)
    r, s = -on * z_on, -on * (z_on - z_off)
    m20 = on * (p * p + v) + off * r * r
    m02 = on * (q * q + v) + off * (s * s + w)
    m11 = on * (p * q + v) + off * r * s
    m40 = on * (p**4 + 6.0 * p * p * v + 4.0 * p * v3 + v4) + off * r**4
    m04 = on * (q**4 + 6.0 * q * q * v + 4.0 * q * v3 + v4) + off * (s**4 + 6.0 * s * s * w + 4.0 * s * w3 + w4)
    m22 = on * (p * p * q * q + (p * p + 4.0 * p * q + q * q) * v + 2.0 * (p + q) * v3 + v4)
    m22 += off * r * r * (s * s + w)
    out[0], out[1], out[2] = g, on * z_on, m20
    out[3], out[4] = (on * z_on + off * z_off - h) / d, (m02 - d) / (d * d)
    out[5] = m11 / d
    out[6] = on * (p**3 + 3.0 * p * v + v3) + off * r**3
    out[7] = (on * (p * p * q + (2.0 * p + q) * v + v3) + off * r * r * s) / d
    out[8] = (on * (p * q * q + (p + 2.0 * q) * v + v3) + off * r * (s * s + w)) / (d * d)
    out[9] = (on * (q**3 + 3.0 * q * v + v3) + off * (s**3 + 3.0 * s * w + w3)) / d**3
    out[10] = m40 - 3.0 * m20 * m20
    out[11] = (m22 - m20 * m02 - 2.0 * m11 * m11) / (d * d)
    out[12] = (m04 - 3.0 * m02 * m02) / d**4
