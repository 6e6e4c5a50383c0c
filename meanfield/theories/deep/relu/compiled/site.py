"""The single-site function of a rectifier in closed form (relu/THEORY.md, "Single-site function").

    g(b, h) = ln int Dxi exp(b phi(z) + delta phi(z)^2 / 2),    z = h + sqrt(d) xi,    phi(z) = max(z, 0)

Two truncated Gaussians: z < 0 of N(h, d), z > 0 of N(mu, d') with d' = d / (1 - delta d), mu = d' (b + h / d).
"""

from __future__ import annotations

import math

from meanfield.numerics.jit import jit

__all__ = ["site"]

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
def site(b: float, h: float, d: float, delta: float) -> tuple[float, float, float, float, float]:
    """g, g_b, g_bb, g_h, g_hh; NaN where delta d >= 1 (the integral diverges)."""
    curvature = 1.0 - delta * d
    if not curvature > 0.0:
        return math.nan, math.nan, math.nan, math.nan, math.nan
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
    z_on, z_off = root_on * first_on, -root * first_off
    var_on, var_off = narrow * (second_on - first_on**2), d * (second_off - first_off**2)
    mean = on * z_on
    g_bb = on * (var_on + off * z_on * z_on)
    variance = on * var_on + off * var_off + on * off * (z_on - z_off) ** 2
    return g, mean, g_bb, (mean + off * z_off - h) / d, (variance - d) / (d * d)
