"""The single-site function of an unbounded phi (relu/THEORY.md, "Single-site function").

    g(b, h) = ln int Dxi exp(b phi(z) + delta phi(z)^2 / 2),    z = h + sqrt(d) xi

phi(z) = r_- z below zero and r_+ z above: two truncated Gaussians, on either side of N(mu, d') with
d' = d / (1 - delta r^2 d), mu = d' (r b + h / d). Any other phi is a table, and z is summed over a lattice.

`phi` is the array of `relu.nonlinearity.Nonlinearity.numbers`: r_-, r_+, and for a table the constants of the
asymptotes r z + i, the spacing of z, the largest |phi''|, the number of kinks and up to three of them in spacings, and
phi at z = -M ... M spacings. Kinks are nodes; the sums on either side have end corrections (Gregory).
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from meanfield.numerics.jit import jit

__all__ = ["N_SITE", "N_SLOPES", "site", "site_slopes"]

N_SITE, N_SLOPES = 5, 13  # numbers of a site, without and with its higher derivatives

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_FAR = 5.0  # from here the tail is a continued fraction, whose terms do not cancel
_TABLE = 10  # where the values of a table begin
_SPACING = 0.5  # of the lattice of z, in widths of the law
_WIDEST = 0.3  # and over the bend of phi
_REACH = 9.2  # half of the lattice beyond the means of the asymptotic laws, in widths
_SEARCH = 6  # stride of the search for the largest weight
_CUT = 44.0  # ln of the weight below which nodes of z are left out
_BESIDE_KINKS = 0.1  # spacing there, in widths of the law
_N_ENDS = 12  # nodes of an end correction
_ALLOWED = -16.0  # ln of the relative error of an end correction, times 100


def _end_weights() -> np.ndarray:
    """e_j: the sum of f_j over j >= 0 and of e_j f_j over j < 12 is the integral of polynomials up to degree 11.

    In the sense of Ramanujan sums of j^k are zeta(-k) = -B_{k+1} / (k + 1), that of j^0 is 1/2.
    """
    count = _N_ENDS
    bernoulli = [Fraction(1)]
    for k in range(1, count + 1):
        bernoulli.append(-sum((math.comb(k + 1, j) * bernoulli[j] for j in range(k)), Fraction(0)) / (k + 1))
    rows = [[Fraction(j) ** k for j in range(count)] for k in range(count)]
    right = [Fraction(-1, 2)] + [bernoulli[k + 1] / (k + 1) for k in range(1, count)]
    for i in range(count):  # Gauss-Jordan: in floating point half of the digits would be lost
        pivot = next(k for k in range(i, count) if rows[k][i])
        rows[i], rows[pivot], right[i], right[pivot] = rows[pivot], rows[i], right[pivot], right[i]
        for k in range(count):
            if k != i and rows[k][i]:
                ratio = rows[k][i] / rows[i][i]
                rows[k] = [a - ratio * b for a, b in zip(rows[k], rows[i])]
                right[k] -= ratio * right[i]
    return np.array([float(right[i] / rows[i][i]) for i in range(count)])


_ENDS = _end_weights()


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
def _side(b: float, h: float, d: float, delta: float, r: float, sign: float) -> tuple[float, float, float, float]:
    """Of z on one side of 0, where phi(z) = r z: ln of its weight, its width, and mean and mean square of |z| in units
    of that."""
    curvature = 1.0 - delta * r * r * d
    narrow = d / curvature
    width = math.sqrt(narrow)
    log_weight, first, second, far = _half_line(sign * narrow * (r * b + h / d) / width)
    log_weight += -0.5 * math.log(curvature)
    if far > 0.0:
        log_weight -= 0.5 * h * h / d
    else:  # mu^2/2d' - h^2/2d without its cancellation
        log_weight += narrow * r * (0.5 * r * b * b + b * h / d + 0.5 * delta * r * h * h / d)
    return log_weight, width, first, second


@jit
def _halves(b: float, h: float, d: float, delta: float, phi):
    """g, the mass of z > 0 and of z < 0, and of both sides width, and mean and mean square of |z| in units of it."""
    log_on, width_on, first_on, second_on = _side(b, h, d, delta, phi[1], 1.0)
    log_off, width_off, first_off, second_off = _side(b, h, d, delta, phi[0], -1.0)
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
    return g, on, off, width_on, first_on, second_on, width_off, first_off, second_off


@jit
def site(b: float, h: float, d: float, delta: float, phi) -> tuple[float, float, float, float, float]:
    """g, g_b, g_bb, g_h, g_hh; NaN where delta r^2 d >= 1 (the integral diverges)."""
    low, high = phi[0], phi[1]
    if not delta * d * max(low * low, high * high) < 1.0:
        return math.nan, math.nan, math.nan, math.nan, math.nan
    if phi.size > 2:
        found = _lattice_moments(b, h, d, delta, phi, False)
        g, mean, middle, m20, m02 = found[0], found[1], found[2], found[3], found[5]
        return g, mean, m20, (middle - h) / d, (m02 - d) / (d * d)
    g, on, off, width_on, first_on, second_on, width_off, first_off, second_off = _halves(b, h, d, delta, phi)
    z_on, z_off = width_on * first_on, -width_off * first_off
    var_on = width_on * width_on * (second_on - first_on**2)
    var_off = width_off * width_off * (second_off - first_off**2)
    y_on, y_off = high * z_on, low * z_off
    g_bb = on * high * high * var_on + off * low * low * var_off + on * off * (y_on - y_off) ** 2
    variance = on * var_on + off * var_off + on * off * (z_on - z_off) ** 2
    return g, on * y_on + off * y_off, g_bb, (on * z_on + off * z_off - h) / d, (variance - d) / (d * d)


@jit
def site_slopes(b: float, h: float, d: float, delta: float, phi, out):
    """g, g_b, g_bb, g_h, g_hh, g_bh, g_bbb, g_bbh, g_bhh, g_hhh, g_bbbb, g_bbhh, g_hhhh into `out` (13,).

    Derivatives by b and h / d are joint cumulants of phi and z.
    """
    low, high = phi[0], phi[1]
    if not delta * d * max(low * low, high * high) < 1.0:
        out[:] = math.nan
        return
    if phi.size > 2:
        found = _lattice_moments(b, h, d, delta, phi, True)
        g, mean, middle, m20, m11, m02, m30, m21, m12, m03, m40, m22, m04 = found
    else:
        g, on, off, width_on, first_on, _, width_off, first_off, _ = _halves(b, h, d, delta, phi)
        z_on, z_off = width_on * first_on, -width_off * first_off
        narrow_on, narrow_off = width_on * width_on, width_off * width_off
        v, v3, v4 = _half_line_spread(narrow_on * (high * b + h / d) / width_on)
        w, w3, w4 = _half_line_spread(-narrow_off * (low * b + h / d) / width_off)
        v, v3, v4 = narrow_on * v, narrow_on * width_on * v3, narrow_on * narrow_on * v4
        w, w3, w4 = narrow_off * w, -narrow_off * width_off * w3, narrow_off * narrow_off * w4
        apart, apart_z = high * z_on - low * z_off, z_on - z_off
        mean, middle = on * high * z_on + off * low * z_off, on * z_on + off * z_off
        # Of phi and z about their means, one side after the other.
        m20 = m11 = m02 = m30 = m21 = m12 = m03 = m40 = m22 = m04 = 0.0
        for k in range(2):
            if k == 0:
                weight, r, p, q = on, high, off * apart, off * apart_z
            else:
                weight, r, p, q = off, low, -on * apart, -on * apart_z
                v, v3, v4 = w, w3, w4
            m20 += weight * (p * p + r * r * v)
            m11 += weight * (p * q + r * v)
            m02 += weight * (q * q + v)
            m30 += weight * (p**3 + 3.0 * p * r * r * v + r**3 * v3)
            m21 += weight * (p * p * q + (2.0 * p + q * r) * r * v + r * r * v3)
            m12 += weight * (p * q * q + (p + 2.0 * q * r) * v + r * v3)
            m03 += weight * (q**3 + 3.0 * q * v + v3)
            m40 += weight * (p**4 + 6.0 * p * p * r * r * v + 4.0 * p * r**3 * v3 + r**4 * v4)
            m04 += weight * (q**4 + 6.0 * q * q * v + 4.0 * q * v3 + v4)
            both = p * p * q * q + (p * p + 4.0 * p * q * r + q * q * r * r) * v
            m22 += weight * (both + 2.0 * r * (p + q * r) * v3 + r * r * v4)
    out[0], out[1], out[2] = g, mean, m20
    out[3], out[4] = (middle - h) / d, (m02 - d) / (d * d)
    out[5] = m11 / d
    out[6] = m30
    out[7] = m21 / d
    out[8] = m12 / (d * d)
    out[9] = m03 / d**3
    out[10] = m40 - 3.0 * m20 * m20
    out[11] = (m22 - m20 * m02 - 2.0 * m11 * m11) / (d * d)
    out[12] = (m04 - 3.0 * m02 * m02) / d**4


@jit
def _value(phi, index: int) -> float:
    """phi at a place of its table, and beyond it."""
    half = (phi.size - _TABLE - 1) // 2
    if index < -half:
        return phi[0] * index * phi[4] + phi[2]
    if index > half:
        return phi[1] * index * phi[4] + phi[3]
    return phi[_TABLE + half + index]


@jit
def _lattice_moments(b: float, h: float, d: float, delta: float, phi, higher: bool):
    """g, means of phi and z, and their central moments 20, 11, 02 and, if asked for, 30, 21, 12, 03, 40, 22, 04.

    NaN where the weight falls from a kink too steeply for the table.

    The law is a Gaussian but for the bend of phi, which makes it narrower by b phi'' and delta (phi phi')' at most.
    """
    step = phi[4]
    low, high, width = h, h, math.sqrt(d)
    largest = max(abs(phi[0]), abs(phi[1]))
    for k in range(2):
        narrow = d / (1.0 - delta * phi[k] * phi[k] * d)
        width = max(width, math.sqrt(narrow))
        middle = narrow * (phi[k] * (b + delta * phi[2 + k]) + h / d)
        low, high = min(low, middle), max(high, middle)
    low -= _REACH * width
    high += _REACH * width
    stiff = 1.0 / d + abs(b) * phi[5] + max(0.0, -delta) * (largest * largest + phi[5])
    stride = max(1, int(min(_SPACING / math.sqrt(stiff), _WIDEST / max(phi[5], 0.25)) / step))
    first, last = math.floor(low / step), math.ceil(high / step)
    best, at = -math.inf, first
    for index in range(first, last + 1, _SEARCH * stride):  # the unit of weights need not be the largest
        y, z = _value(phi, index), index * step - h
        height = b * y + 0.5 * delta * y * y - 0.5 * z * z / d
        if height > best:
            best, at = height, index
    y_at, z_at = _value(phi, at), at * step
    s = np.zeros(13)
    kinks, steep = int(phi[6]), False
    for part in range(kinks + 1):  # between kinks
        begin, end, pace = first, last, stride
        at_left, at_right = False, False
        if part > 0:
            kink = int(phi[6 + part])
            if kink >= last:
                break
            at_left = kink > first
            begin = max(begin, kink)
        if part < kinks:
            kink = int(phi[7 + part])
            if kink <= first:
                continue
            at_right = kink < last
            end = min(end, kink)
        if at_left or at_right:
            pace = max(1, min(stride, int(_BESIDE_KINKS / (math.sqrt(stiff) * step))))
            for side in range(2):
                if not (at_left if side == 0 else at_right):
                    continue
                kink, inwards = (begin, 1) if side == 0 else (end, -1)
                value, next_value, z = _value(phi, kink), _value(phi, kink + inwards), kink * step - h
                there = b * value + 0.5 * delta * value * value - 0.5 * z * z / d
                beside = b * next_value + 0.5 * delta * next_value**2 - 0.5 * (z + inwards * step) ** 2 / d
                # Of exp(-k z) the relative error of an end correction is about (k spacing)^12 / 100.
                most = math.exp((_ALLOWED - max(there - best, -_CUT)) / _N_ENDS)
                if abs(beside - there) > 2.0 * most:
                    steep = True
                pace = max(1, min(pace, int(most / max(abs(beside - there), 1e-300))))
        if at_left and at_right:
            while pace > 1 and ((end - begin) % pace != 0 or end - begin < _N_ENDS * pace):
                pace -= 1
        count = (end - begin + pace - 1) // pace
        if at_left != at_right:
            count = max(count, _N_ENDS)
            if at_right:
                begin = end - count * pace
        for j in range(count + 1):
            index = begin + j * pace
            value, z = _value(phi, index), index * step
            height = b * value + 0.5 * delta * value * value - 0.5 * (z - h) ** 2 / d - best
            if height < -_CUT:
                continue
            w = pace * math.exp(height)
            factor = 1.0
            if at_left and j < _N_ENDS:
                factor += _ENDS[j]
            if at_right and count - j < _N_ENDS:
                factor += _ENDS[count - j]
            w *= factor
            y, x = value - y_at, z - z_at
            yy, xx = y * y, x * x
            s[0] += w
            s[1] += w * y
            s[2] += w * x
            s[3] += w * yy
            s[4] += w * y * x
            s[5] += w * xx
            if not higher:
                continue
            s[6] += w * yy * y
            s[7] += w * yy * x
            s[8] += w * y * xx
            s[9] += w * xx * x
            s[10] += w * yy * yy
            s[11] += w * yy * xx
            s[12] += w * xx * xx
    total = s[0] if not steep else math.nan
    g = best + math.log(total * step) - 0.5 * math.log(d) - _HALF_LOG_2PI
    for k in range(1, 13):
        s[k] /= total
    p, q = s[1], s[2]
    m20, m11, m02 = s[3] - p * p, s[4] - p * q, s[5] - q * q
    m30 = s[6] - 3.0 * p * s[3] + 2.0 * p**3
    m03 = s[9] - 3.0 * q * s[5] + 2.0 * q**3
    m21 = s[7] - q * s[3] - 2.0 * p * s[4] + 2.0 * p * p * q
    m12 = s[8] - p * s[5] - 2.0 * q * s[4] + 2.0 * p * q * q
    m40 = s[10] - 4.0 * p * s[6] + 6.0 * p * p * s[3] - 3.0 * p**4
    m04 = s[12] - 4.0 * q * s[9] + 6.0 * q * q * s[5] - 3.0 * q**4
    m22 = (
        s[11] - 2.0 * q * s[7] - 2.0 * p * s[8] + q * q * s[3] + p * p * s[5] + 4.0 * p * q * s[4] - 3.0 * (p * q) ** 2
    )
    return g, y_at + p, z_at + q, m20, m11, m02, m30, m21, m12, m03, m40, m22, m04
