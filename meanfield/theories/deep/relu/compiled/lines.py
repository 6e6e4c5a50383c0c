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
_DEEPER = 10.0  # ln of how much lower than the cut a maximum is that is left out unseen


@jit
def _log_weight(sites, centre, index, h, b, middle, spread, n, d, delta, phi):
    """ln of the integrand at a place of the lattice; NaN beyond its end."""
    half = sites.shape[1] // 2
    if abs(index - centre) > half:
        return math.nan
    at = index - centre + half
    if math.isnan(sites[0, at]):
        if sites.shape[0] > 5:
            site_slopes(b, h, d, delta, phi, sites[:, at])
            sites[0, at] *= n
        else:
            g, gb, gbb, gh, ghh = site(b, h, d, delta, phi)
            sites[0, at], sites[1, at], sites[2, at], sites[3, at], sites[4, at] = n * g, gb, gbb, gh, ghh
    return sites[0, at] - 0.5 * (h - middle) ** 2 / spread


@jit
def _negligible(h, b, middle, spread, n, d, delta, phi, least):
    """Whether a maximum near h, which no place is remembered for, is below `least`: its law is no wider than `spread`
    where phi is straight."""
    g, _, _, gh, _ = site(b, h, d, delta, phi)
    pull = n * gh - (h - middle) / spread
    return n * g - 0.5 * (h - middle) ** 2 / spread + 0.5 * pull * pull * spread < least


@jit
def class_average(sites, centre, b, middle, spread, n, d, delta, phi, step, shift, cut, out):
    """Averages over h ~ N(middle, spread) with weight exp(n g(b, h)), into `out`; False if `sites` has too few.

    ln of the integral, then g_b, g_b^2, g_bb, g_h, g_h^2, g_hh; with more than these seven places in `out` their
    derivatives (`operators.operated`), for which `sites` has higher ones. `sites` (5 or 13, k) is that of this b; NaN
    where not yet computed, its middle place being `centre`. There may be two maxima, where the class is on and off: all
    that are found and not negligible are integrated.
    """
    spacing = step / math.sqrt(1.0 / spread + n / d)
    best, low, high, of_all = -math.inf, 0, 0, 0
    found, beyond, h_beyond, h_other = 0, 0, 0.0, 0.0
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
        value = _log_weight(sites, centre, index, (index + shift) * spacing, b, middle, spread, n, d, delta, phi)
        if math.isnan(value):
            if guess < 2:  # the third is only a guess
                if beyond == 0:
                    h_beyond = h
                else:
                    h_other = h
                beyond += 1
            continue
        stride = 16
        while stride >= 1:
            moved = False
            for sign in (-1, 1):
                while True:
                    at = index + sign * stride
                    new = _log_weight(sites, centre, at, (at + shift) * spacing, b, middle, spread, n, d, delta, phi)
                    if math.isnan(new):
                        return False
                    if not new > value:
                        break
                    value, index, moved = new, at, True
            if not moved:
                stride //= 4
        low = index if found == 0 else min(low, index)
        high = index if found == 0 else max(high, index)
        of_all += index
        found += 1
        best = max(best, value)
    if found == 0:
        return False
    for k in range(beyond):
        at = h_beyond if k == 0 else h_other
        if not _negligible(at, b, middle, spread, n, d, delta, phi, best - cut - _DEEPER):
            return False
    half = sites.shape[1] // 2
    total, s1, s2, s3, s4, s5, s6 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    slopes = out.size > 7
    for k in range(7, out.size):
        out[k] = 0.0
    # Intervals that are summed already: of the peaks, from the left to the right.
    between = of_all - low - high if found == 3 else low
    end = -(1 << 60)
    for peak in (low, between, high):
        if peak <= end:
            continue
        for direction in (-1, 1):
            index = peak if direction == 1 else peak - 1
            while index > end or direction == 1:
                h = (index + shift) * spacing
                value = _log_weight(sites, centre, index, h, b, middle, spread, n, d, delta, phi)
                if math.isnan(value):
                    return False
                if not value - best > -cut:
                    break
                at = index - centre + half
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
