"""h(a; t) at several readouts at once, in loops that vectorise; along a line, where kappa_c is linear in the position.

The loops have no branches and no calls; what is asked for beyond the intervals of equal width of the quick table goes
node by node. They are fastest where the number of nodes is a multiple of `LANES`.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.jit import jit
from meanfield.theories.single_layer.compiled.quick import quick2

__all__ = [
    "ROOM",
    "along",
    "anywhere",
    "direct_line",
    "direct_site",
    "line_through",
    "single_site",
]

ROOM = 64  # nodes of a stretch at most
_INSIDE = 1.0 - 1e-9


@jit
def along(basis, t, n_samples):
    """What a step along the first basis vector does: gains of kappa_c (C,), then -P/2 times its squared length."""
    n_classes, m = t.shape
    result = np.zeros(n_classes + 1)
    for r in range(m):
        for c in range(n_classes):
            result[c] += basis[0, r] * t[c, r]
        result[n_classes] -= 0.5 * n_samples * basis[0, r] * basis[0, r]
    return result


@jit
def line_through(basis, shift, t, n_samples, top, key, first, a, line):
    """Readout a (m,) at position `first` of the line of `key`, its kappa_c, and the first two coefficients of
    P (-|a|^2 / 2 - top) in the distance from there (`line`, (C + 2,)), in place.
    """
    n_classes, m = t.shape
    for r in range(m):
        a[r] = (first + shift[0]) * basis[0, r]
    for q in range(1, m):
        n = key[q] + shift[q]
        for r in range(m):
            a[r] += n * basis[q, r]
    size, slope = 0.0, 0.0
    for r in range(m):
        size += a[r] * a[r]
        slope += a[r] * basis[0, r]
    line[n_classes] = -n_samples * (0.5 * size + top)
    line[n_classes + 1] = -n_samples * slope
    for c in range(n_classes):
        kappa = 0.0
        for r in range(m):
            kappa += a[r] * t[c, r]
        line[c] = kappa


@jit
def single_site(coefficients, inverse, half, n_samples, p, kappa, n, value, slope, curvature):
    """Add P p_c G(kappa_c) (n,) to value, and set slope to G', curvature to G'' (C, n) unless it is empty.

    False, and nothing done, where kappa leaves the intervals of equal width: `anywhere` then does it. (The table itself
    is not an argument: to pass it on takes longer than the polynomials of a short stretch.)
    """
    n_classes = p.shape[0]
    far = 0
    for c in range(n_classes):
        for i in range(n):
            far += 0 if abs(kappa[c, i] * inverse) < half * _INSIDE else 1
    if far > 0:
        return False
    for c in range(n_classes):
        weight = n_samples * p[c]
        for i in range(n):
            x = kappa[c, i] * inverse + half
            j = np.int32(x)
            u = x - j - 0.5
            g0 = coefficients[j, 7]
            g1 = 7.0 * g0
            g0 = g0 * u + coefficients[j, 6]
            g1 = g1 * u + 6.0 * coefficients[j, 6]
            g0 = g0 * u + coefficients[j, 5]
            g1 = g1 * u + 5.0 * coefficients[j, 5]
            g0 = g0 * u + coefficients[j, 4]
            g1 = g1 * u + 4.0 * coefficients[j, 4]
            g0 = g0 * u + coefficients[j, 3]
            g1 = g1 * u + 3.0 * coefficients[j, 3]
            g0 = g0 * u + coefficients[j, 2]
            g1 = g1 * u + 2.0 * coefficients[j, 2]
            g0 = g0 * u + coefficients[j, 1]
            g1 = g1 * u + coefficients[j, 1]
            g0 = g0 * u + coefficients[j, 0]
            value[i] += weight * g0
            slope[c, i] = g1 * inverse
    if curvature.shape[0] == 0:
        return True
    for c in range(n_classes):
        for i in range(n):
            x = kappa[c, i] * inverse + half
            j = np.int32(x)
            u = x - j - 0.5
            g2 = 42.0 * coefficients[j, 7]
            g2 = g2 * u + 30.0 * coefficients[j, 6]
            g2 = g2 * u + 20.0 * coefficients[j, 5]
            g2 = g2 * u + 12.0 * coefficients[j, 4]
            g2 = g2 * u + 6.0 * coefficients[j, 3]
            curvature[c, i] = (g2 * u + 2.0 * coefficients[j, 2]) * (inverse * inverse)
    return True


@jit
def anywhere(quick, n_samples, p, kappa, n, value, slope, curvature):
    """`single_site` at any kappa, one by one."""
    for c in range(p.shape[0]):
        for i in range(n):
            g0, g1, g2 = quick2(quick, kappa[c, i])
            value[i] += n_samples * p[c] * g0
            slope[c, i] = g1
            if curvature.shape[0] > 0:
                curvature[c, i] = g2


@jit
def direct_site(sample, spacing, origin, n_samples, p, kappa, n, value, slope):
    """As `single_site`, written apart from it, from samples of G, G', G'' that owe nothing to the table.

    Those at origin, origin + 1, ... times the spacing, by quintic Hermite interpolation between them: the same bits
    whatever `origin` is.
    """
    last = float(sample.shape[0] - 2)
    inverse = 1.0 / spacing
    for c in range(p.shape[0]):
        weight = n_samples * p[c]
        for i in range(n):
            x = kappa[c, i] * inverse
            whole = np.floor(x)
            x -= whole
            place = whole - origin
            place = place if place > 0.0 else 0.0
            j = np.uint32(np.int32(place if place < last else last))
            b0, b1, b2 = sample[j, 0], spacing * sample[j, 1], 0.5 * spacing * spacing * sample[j, 2]
            # G = b0 + x b1 + x^2 b2 + x^3 (b3 + b4 (x - 1) + b5 (x - 1)^2), matched at both ends.
            b3 = sample[j + 1, 0] - b0 - b1 - b2
            b4 = spacing * sample[j + 1, 1] - b1 - 2.0 * b2 - 3.0 * b3
            b5 = 0.5 * (spacing * spacing * sample[j + 1, 2] - 2.0 * b2 - 6.0 * b3 - 6.0 * b4)
            u = x - 1.0
            cubic = b3 + u * (b4 + u * b5)
            value[i] += weight * (b0 + x * (b1 + x * (b2 + x * cubic)))
            slope[c, i] = (b1 + x * (2.0 * b2 + x * (3.0 * cubic + x * (b4 + 2.0 * u * b5)))) * inverse


@jit
def direct_line(sample, spacing, origin, n_samples, share, low, step, action, slope):
    """P p_j G (n,) and G' (n,) at low, low + step, ..., from direct samples."""
    kappa, value, rise, only = np.empty((1, ROOM)), np.empty(ROOM), np.empty((1, ROOM)), np.full(1, share)
    for begin in range(0, action.shape[0], ROOM):
        count = min(ROOM, action.shape[0] - begin)
        for i in range(count):
            kappa[0, i] = low + (begin + i) * step
            value[i] = 0.0
        direct_site(sample, spacing, origin, n_samples, only, kappa, count, value, rise)
        for i in range(count):
            action[begin + i], slope[begin + i] = value[i], rise[0, i]


@jit
def line_fields(line, step, at, n, kappa, value):
    """kappa_c (C, n) and P (-|a|^2 / 2 - top) (n,) of the nodes at distances at, at + 1, ... along a line."""
    n_classes = kappa.shape[0]
    for i in range(n):
        d = float(at + i)
        value[i] = line[n_classes] + d * (line[n_classes + 1] + d * step[n_classes])
    for c in range(n_classes):
        for i in range(n):
            kappa[c, i] = line[c] + (at + i) * step[c]
