"""The average over a class's own field at given conjugate and shared fields: a lattice that remembers its sites.

exp(n g(b, h)) is a positive mixture of Gaussians of precision n / d in h, so a lattice of some standard deviations has
the error of Poisson summation. It is the same for all shared fields at one b: g and its derivatives are computed once.
"""

from __future__ import annotations

import math

from meanfield.numerics.jit import jit
from meanfield.theories.deep.relu.compiled.operators import operated
from meanfield.theories.deep.relu.compiled.site import site, site_slopes

__all__ = ["class_average"]

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@jit
def _log_weight(sites, index, h, b, middle, spread, n, d, delta, phi):
    """ln of the integrand at a place of the lattice; NaN beyond its end."""
    half = sites.shape[1] // 2
    if abs(index) > half:
        return math.nan
    at = index + half
    if math.isnan(sites[0, at]):
        if sites.shape[0] > 5:
            site_slopes(b, h, d, delta, phi, sites[:, at])
            sites[0, at] *= n
        else:
            g, gb, gbb, gh, ghh = site(b, h, d, delta, phi)
            sites[0, at], sites[1, at], sites[2, at], sites[3, at], sites[4, at] = n * g, gb, gbb, gh, ghh
    return sites[0, at] - 0.5 * (h - middle) ** 2 / spread


@jit
def class_average(sites, b, middle, spread, n, d, delta, phi, step, shift, cut, out):
    """Averages over h ~ N(middle, spread) with weight exp(n g(b, h)), into `out`; False if `sites` has too few.

    ln of the integral, then g_b, g_b^2, g_bb, g_h, g_h^2, g_hh; with more than these seven places in `out` their
    derivatives (`operators.operated`), for which `sites` has higher ones. `sites` (5 or 13, k) is that of this b; NaN
    where not yet computed. There may be two maxima, where the class is on and off: all that are found are integrated.
    """
    spacing = step / math.sqrt(1.0 / spread + n / d)
    best, first, second = -math.inf, 0, 0
    other = 0
    for guess in range(3):
        if guess == 1:
            h = middle * d / (d + n * spread)
        else:
            r = phi[0] if guess == 0 else phi[1]
            h = middle
            if r != 0.0:
                narrow = d / (1.0 - delta * r * r * d)
                slope = 1.0 / spread - n * (narrow / d - 1.0) / d
                if slope > 0.0:
                    h = (middle / spread + n * narrow * r * b / d) / slope
        if not abs(h) < 1e9 * spacing:
            return False
        index = round(h / spacing)
        value = _log_weight(sites, index, (index + shift) * spacing, b, middle, spread, n, d, delta, phi)
        if math.isnan(value):
            if guess == 2:  # only a guess
                continue
            return False
        stride = 16
        while stride >= 1:
            moved = False
            for sign in (-1, 1):
                while True:
                    at = index + sign * stride
                    new = _log_weight(sites, at, (at + shift) * spacing, b, middle, spread, n, d, delta, phi)
                    if math.isnan(new):
                        return False
                    if not new > value:
                        break
                    value, index, moved = new, at, True
            if not moved:
                stride //= 4
        if guess == 0:
            first = index
        elif guess == 1:
            second = index
        else:
            other = index
        if value > best:
            best = value
    half = sites.shape[1] // 2
    total, s1, s2, s3, s4, s5, s6 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    slopes = out.size > 7
    for k in range(7, out.size):
        out[k] = 0.0
    # Intervals that are summed already: of the peaks, from the left to the right.
    low, high = min(first, second, other), max(first, second, other)
    centre = first + second + other - low - high
    end = -(1 << 60)
    for peak in (low, centre, high):
        if peak <= end:
            continue
        for direction in (-1, 1):
            index = peak if direction == 1 else peak - 1
            while index > end or direction == 1:
                h = (index + shift) * spacing
                value = _log_weight(sites, index, h, b, middle, spread, n, d, delta, phi)
                if math.isnan(value):
                    return False
                if not value - best > -cut:
                    break
                at = index + half
                w = math.exp(value - best)
                gb, gh = sites[1, at], sites[3, at]
                total += w
                s1 += w * gb
                s2 += w * gb * gb
                s3 += w * sites[2, at]
                s4 += w * gh
                s5 += w * gh * gh
                s6 += w * sites[4, at]
                if slopes:
                    operated(sites[:, at], w, h, middle, spread, n, d, out)
                index += direction
            if direction == 1:
                end = max(end, index)
    out[0] = best + math.log(total * spacing) - 0.5 * math.log(spread) - _HALF_LOG_2PI
    out[1], out[2], out[3] = s1 / total, s2 / total, s3 / total
    out[4], out[5], out[6] = s4 / total, s5 / total, s6 / total
    for k in range(7, out.size):
        out[k] /= total
    return True
