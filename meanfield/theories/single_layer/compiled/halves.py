"""What one half of the classes gives on a product grid of the readout's coordinates (sigma_a = 1).

See `meanfield.theories.single_layer.readout.halves`. With f_c(kappa_c), smooth, positive and tabulated, and kappa_c
linear in the coordinates x, sums over products of derivatives of the f_c by kappa_c are all that J and its derivatives
need.
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.exponentials import exponentials, padded
from meanfield.numerics.jit import jit
from meanfield.theories.single_layer.compiled.quick import quick2
from meanfield.theories.single_layer.compiled.stretch import ROOM

__all__ = ["code_sums", "half_sums", "smooth_tables", "split_tables"]

_SPACING = 0.78  # of nodes, in standard deviations: an error of 1e-14
_MARGIN = 8.0
_FINE = 0.13  # the same where codes are cut


def _hermite(order: int) -> np.ndarray:
    """Coefficients of powers of u from a value and derivatives up to `order` at u = -1/2, then at u = 1/2."""
    n = order + 1
    rows = np.zeros((2 * n, 2 * n))
    for end, u in enumerate((-0.5, 0.5)):
        for k in range(n):
            for power in range(k, 2 * n):
                rows[n * end + k, power] = math.perm(power, k) * u ** (power - k)
    return np.linalg.inv(rows)


_HERMITE7, _HERMITE5 = _hermite(3), _hermite(2)


@jit
def _third(quick, kappa):
    """G''' at one kappa; 0 far out, where G is nearly a line."""
    x = kappa * quick.inverse + quick.half
    if not 0.0 <= x < 2.0 * quick.half:
        return 0.0
    j = int(x)
    u = x - j - 0.5
    total = 0.0
    for power in range(7, 2, -1):
        total = total * u + power * (power - 1) * (power - 2) * quick.coefficients[j, power]
    return total * quick.inverse**3


@jit
def _direct(sample, spacing, origin, kappa):
    """G, G', G'' at one kappa by quintic interpolation between direct samples."""
    x = kappa / spacing
    place = min(max(math.floor(x) - origin, 0.0), sample.shape[0] - 2.0)
    j = int(place)
    x -= origin + place
    b0, b1, b2 = sample[j, 0], spacing * sample[j, 1], 0.5 * spacing * spacing * sample[j, 2]
    # G = b0 + x b1 + x^2 b2 + x^3 (b3 + b4 (x - 1) + b5 (x - 1)^2), matched at both ends.
    b3 = sample[j + 1, 0] - b0 - b1 - b2
    b4 = spacing * sample[j + 1, 1] - b1 - 2.0 * b2 - 3.0 * b3
    b5 = 0.5 * (spacing * spacing * sample[j + 1, 2] - 2.0 * b2 - 6.0 * b3 - 6.0 * b4)
    u = x - 1.0
    cubic, rise = b3 + u * (b4 + u * b5), b4 + 2.0 * u * b5
    g1 = (b1 + x * (2.0 * b2 + x * (3.0 * cubic + x * rise))) / spacing
    g2 = (2.0 * b2 + x * (6.0 * cubic + x * (6.0 * rise + 2.0 * x * b5))) / (spacing * spacing)
    return b0 + x * (b1 + x * (b2 + x * cubic)), g1, g2


@jit
def smooth_tables(quick, sample, spacing, origin, n_samples, p, variance, low, largest, step, tables, bends):
    """Fill tables (n, intervals, 8) with L(m) = ln <e^{P p G(m + x)}>, x ~ N(0, variance / P), for each class.

    Polynomials in u = (m - centre) / step on intervals from `low` on: of degree seven from L and three derivatives at
    their ends, or, with direct samples, of degree five from two.

    bends (n, intervals + 1) are the averages of P p G'' at the ends of intervals, for the same x.
    p, variance, low (n,); `largest`: of |phi|, which bounds how far the tilted x is from 0.
    """
    direct = sample.shape[0] > 0
    order = 2 if direct else 3
    ends = np.zeros((2, 4))
    for c in range(p.shape[0]):
        weight, width = n_samples * p[c], math.sqrt(variance[c] / n_samples)
        reach = math.sqrt(variance[c] * n_samples) * p[c] * largest
        n_x = 0 if variance[c] == 0.0 else int((reach + _MARGIN) / _SPACING) + 1
        w, l1, l2, l3 = np.empty((4, 2 * n_x + 1))
        for i in range(tables.shape[1] + 1):
            m = low[c] + step * i
            top = -np.inf
            for k in range(2 * n_x + 1):
                x = (k - n_x) * _SPACING
                kappa = m + width * x
                if direct:
                    g0, g1, g2 = _direct(sample, spacing, origin, kappa)
                else:
                    g0, g1, g2 = quick2(quick, kappa)
                    l3[k] = weight * _third(quick, kappa)
                w[k] = weight * g0 - 0.5 * x * x
                l1[k], l2[k] = weight * g1, weight * g2
                top = max(top, w[k])
            s0, s1 = 0.0, 0.0
            for k in range(2 * n_x + 1):
                w[k] = math.exp(w[k] - top)
                s0 += w[k]
                s1 += w[k] * l1[k]
            mean, s2, s3, bend = s1 / s0, 0.0, 0.0, 0.0
            for k in range(2 * n_x + 1):
                d = l1[k] - mean
                bend += w[k] * l2[k]
                s2 += w[k] * d * d
                if not direct:
                    s3 += w[k] * (l3[k] + d * (3.0 * l2[k] + d * d))
            bends[c, i] = bend / s0
            s2 += bend
            ends[1, 0] = top + math.log(s0)
            if n_x > 0:
                ends[1, 0] += math.log(_SPACING / math.sqrt(2.0 * math.pi))
            ends[1, 1] = step * mean
            ends[1, 2] = step * step * s2 / s0
            ends[1, 3] = step**3 * s3 / s0
            if i > 0:
                for power in range(8):
                    total = 0.0
                    if power < 2 * order + 2:
                        for k in range(order + 1):
                            if direct:
                                total += _HERMITE5[power, k] * ends[0, k] + _HERMITE5[power, 3 + k] * ends[1, k]
                            else:
                                total += _HERMITE7[power, k] * ends[0, k] + _HERMITE7[power, 4 + k] * ends[1, k]
                    tables[c, i - 1, power] = total
            for k in range(4):
                ends[0, k] = ends[1, k]


@jit
def _site(table, c, place, n, value, deep, derivative):
    """Add L (n,) of class c to value, at places in its table (in steps); derivative (4, n) is by them, of orders 3
    and 4 only if `deep`.
    """
    for i in range(n):
        j = np.int32(place[i])
        u = place[i] - j - 0.5
        c1, c2, c3, c4 = table[c, j, 1], table[c, j, 2], table[c, j, 3], table[c, j, 4]
        c5, c6, c7 = table[c, j, 5], table[c, j, 6], table[c, j, 7]
        l2 = c2 + u * (c3 + u * (c4 + u * (c5 + u * (c6 + u * c7))))
        l1 = 2.0 * c2 + u * (3.0 * c3 + u * (4.0 * c4 + u * (5.0 * c5 + u * (6.0 * c6 + u * 7.0 * c7))))
        value[i] += table[c, j, 0] + u * (c1 + u * l2)
        derivative[0, i] = c1 + u * l1
        derivative[1, i] = 2.0 * c2 + u * (
            6.0 * c3 + u * (12.0 * c4 + u * (20.0 * c5 + u * (30.0 * c6 + u * 42.0 * c7)))
        )
    if not deep:
        return
    for i in range(n):
        j = np.int32(place[i])
        u = place[i] - j - 0.5
        c3, c4, c5, c6, c7 = table[c, j, 3], table[c, j, 4], table[c, j, 5], table[c, j, 6], table[c, j, 7]
        derivative[2, i] = 6.0 * c3 + u * (24.0 * c4 + u * (60.0 * c5 + u * (120.0 * c6 + u * 210.0 * c7)))
        derivative[3, i] = 24.0 * c4 + u * (120.0 * c5 + u * (360.0 * c6 + u * 840.0 * c7))


@jit
def _between(bends, c, place):
    """Cubic interpolation of a row of bends."""
    j = min(max(int(place), 1), bends.shape[1] - 3)
    u = place - j
    a0, a1, a2, a3 = bends[c, j - 1], bends[c, j], bends[c, j + 1], bends[c, j + 2]
    outer = a0 * (1.0 - u) * (2.0 - u) * -u + a3 * (u + 1.0) * u * (u - 1.0)
    return outer / 6.0 + 0.5 * (a1 * (u + 1.0) * (1.0 - u) * (2.0 - u) + a2 * (u + 1.0) * u * (2.0 - u))


@jit
def _coordinates(index, size, first, last, low, step, x):
    """Coordinates x[first:last] of the node with this number in the product of grids."""
    rest = index
    for r in range(last - 1, first - 1, -1):
        x[r] = low[r] + step[r] * (rest % size[r])
        rest //= size[r]


@jit
def half_sums(
    tables, bends, table_low, table_step, n_samples, fields, low, step, size, curvature, tilt, kept, begin, end, parent,
    which, power, second, sums, tops,
):  # fmt: skip
    """Fill sums (M, N) with products of derivatives of the f_c at nodes of the first `kept` coordinates, relative to
    e^tops (N,), summed over the nodes of the others. Of the nodes those of lines `begin` ... `end` - 1 along the last
    of the first `kept` coordinates.

    fields (n, d): kappa_c = fields[c] . x, x = low + step * (0 ... size - 1). The exponent is sum_c L_c(kappa_c) plus
    P (-sum_i curvature_i x_i^2 / 2 + tilt . x), with L_c of `smooth_tables`. Product k > 0 is number parent[k] < k
    times the derivative of f = e^L over f of order power[k] of class which[k]; number 0 is one. What stands for a
    second derivative: itself (`second[c]` 0), kappa d/dkappa (1), or the average of P p G'' (2).
    """
    n_classes, d = fields.shape
    n_products = parent.shape[0]
    last = kept - 1
    n_free = 1
    for r in range(kept, d):
        n_free *= size[r]
    inverse = 1.0 / table_step
    highest = 0
    for k in range(1, n_products):
        highest = max(highest, power[k])
    x = np.empty(d)
    place, value, w = np.empty(ROOM), np.empty(ROOM), np.empty(padded(ROOM))
    l = np.empty((4, ROOM))
    derivative = np.empty((n_classes, 5, ROOM))
    product = np.empty((n_products, ROOM))
    for line in range(begin, end):
        _coordinates(line, size, 0, last, low, step, x)
        for start in range(0, size[last], ROOM):
            n = min(ROOM, size[last] - start)
            at = line * size[last] + start
            top = -np.inf
            for free in range(n_free):
                _coordinates(free, size, kept, d, low, step, x)
                fixed = 0.0
                for r in range(d):
                    if r != last:
                        fixed += x[r] * (tilt[r] - 0.5 * curvature[r] * x[r])
                for i in range(n):
                    y = low[last] + step[last] * (start + i)
                    value[i] = n_samples * (fixed + y * (tilt[last] - 0.5 * curvature[last] * y))
                for c in range(n_classes):
                    base = -table_low[c]
                    for r in range(d):
                        if r != last:
                            base += fields[c, r] * x[r]
                    for i in range(n):
                        place[i] = (base + fields[c, last] * (low[last] + step[last] * (start + i))) * inverse
                    _site(tables, c, place, n, value, highest > 2, l)
                    if highest > 0:
                        for i in range(n):
                            first = l[0, i] * inverse
                            derivative[c, 1, i] = first
                            if second[c] == 0:
                                derivative[c, 2, i] = l[1, i] * (inverse * inverse) + first * first
                            elif second[c] == 1:
                                derivative[c, 2, i] = (place[i] * table_step + table_low[c]) * first
                            else:
                                derivative[c, 2, i] = _between(bends, c, place[i])
                    if highest > 2:
                        for i in range(n):
                            first, bend = l[0, i] * inverse, l[1, i] * (inverse * inverse)
                            square, turn = first * first, l[2, i] * inverse**3
                            derivative[c, 3, i] = turn + first * (3.0 * bend + square)
                            derivative[c, 4, i] = (
                                l[3, i] * inverse**4 + 4.0 * turn * first + 3.0 * bend * bend
                                + square * (6.0 * bend + square)
                            )  # fmt: skip
                largest = -np.inf
                for i in range(n):
                    largest = max(largest, value[i])
                if largest > top:
                    scale = np.exp(top - largest)
                    if free > 0:
                        for k in range(n_products):
                            for i in range(n):
                                sums[k, at + i] *= scale
                    top = largest
                for i in range(n):
                    value[i] -= top
                exponentials(value, n, w)
                for i in range(n):
                    product[0, i] = w[i]
                for k in range(1, n_products):
                    c, order, of = which[k], power[k], parent[k]
                    for i in range(n):
                        product[k, i] = product[of, i] * derivative[c, order, i]
                if free == 0:
                    for k in range(n_products):
                        for i in range(n):
                            sums[k, at + i] = product[k, i]
                else:
                    for k in range(n_products):
                        for i in range(n):
                            sums[k, at + i] += product[k, i]
            for i in range(n):
                tops[at + i] = top


@jit
def split_tables(quick, n_samples, p, variance, low, largest, step, cut, width, splits):
    """Fill splits (n, points, 7), at m = low + step * (0, 1, ...), with averages under the tilted law of x (see
    `smooth_tables`) of 1, x, x^2 where kappa = m + x is below the cut of a class, the same above, and the share within
    `width` of it.

    Within `width` (n,) of a cut (n,) a neuron is shared.
    """
    for c in range(p.shape[0]):
        sigma = math.sqrt(variance[c] / n_samples)
        reach = math.sqrt(variance[c] * n_samples) * p[c] * largest
        n_x = 0 if variance[c] == 0.0 else int((reach + _MARGIN) / _FINE) + 1
        w = np.empty(2 * n_x + 1)
        for i in range(splits.shape[1]):
            m = low[c] + step * i
            top, total = -np.inf, 0.0
            for k in range(2 * n_x + 1):
                x = (k - n_x) * _FINE
                w[k] = n_samples * p[c] * quick2(quick, m + sigma * x)[0] - 0.5 * x * x
                top = max(top, w[k])
            for k in range(7):
                splits[c, i, k] = 0.0
            for k in range(2 * n_x + 1):
                here = math.exp(w[k] - top)
                kappa = m + sigma * (k - n_x) * _FINE
                upper = min(max(0.5 + 0.5 * (kappa - cut[c]) / width[c], 0.0), 1.0)
                total += here
                for side in range(2):
                    part = here * (upper if side == 1 else 1.0 - upper)
                    splits[c, i, 3 * side] += part
                    splits[c, i, 3 * side + 1] += part * (kappa - m)
                    splits[c, i, 3 * side + 2] += part * (kappa - m) ** 2
                splits[c, i, 6] += here if 0.0 < upper < 1.0 else 0.0
            for k in range(7):
                splits[c, i, k] /= total


@jit
def code_sums(
    tables, splits, table_low, table_step, n_samples, fields, low, step, size, curvature, tilt, kept, begin, end, total,
    sums, beside,
):  # fmt: skip
    """Fill sums (2^n, 1 + n + n (n + 1) / 2, N) with averages of 1, kappa_c, kappa_c kappa_e (c >= e), split by
    patterns of upper classes and times `total` (N,), and beside (N,) with the part within a width of a cut. See
    `half_sums` and `split_tables`.
    """
    n_classes, d = fields.shape
    n_free = 1
    for r in range(kept, d):
        n_free *= size[r]
    n_patterns, n_moments = 1 << n_classes, sums.shape[1]
    x, moment, split, value = np.empty(d), np.empty(n_moments), np.empty((n_classes, 7)), np.empty(1)
    place, derivative, field = np.empty(1), np.empty((4, 1)), np.empty(n_classes)
    for at in range(begin, end):
        _coordinates(at, size, 0, kept, low, step, x)
        beside[at] = 0.0
        for s in range(n_patterns):
            for k in range(n_moments):
                sums[s, k, at] = 0.0
        top, mass = -np.inf, 0.0
        for free in range(n_free):
            _coordinates(free, size, kept, d, low, step, x)
            value[0], near = 0.0, 0.0
            for r in range(d):
                value[0] += n_samples * x[r] * (tilt[r] - 0.5 * curvature[r] * x[r])
            for c in range(n_classes):
                field[c] = 0.0
                for r in range(d):
                    field[c] += fields[c, r] * x[r]
                place[0] = (field[c] - table_low[c]) / table_step
                _site(tables, c, place, 1, value, False, derivative)
                j = int(place[0])
                u = place[0] - j
                for k in range(7):
                    split[c, k] = (1.0 - u) * splits[c, j, k] + u * splits[c, j + 1, k]
                near = max(near, split[c, 6])
            if value[0] > top:
                scale = math.exp(top - value[0])
                mass *= scale
                beside[at] *= scale
                for s in range(n_patterns):
                    for k in range(n_moments):
                        sums[s, k, at] *= scale
                top = value[0]
            weight = math.exp(value[0] - top)
            mass += weight
            beside[at] += near * weight
            for s in range(n_patterns):
                part = weight
                for c in range(n_classes):
                    part *= split[c, 3 * ((s >> c) & 1)]
                if part < 1e-30 * weight:
                    continue
                moment[0] = 1.0
                for c in range(n_classes):
                    k = 3 * ((s >> c) & 1)
                    moment[1 + c] = field[c] + split[c, k + 1] / split[c, k]
                for c in range(n_classes):
                    k, row = 3 * ((s >> c) & 1), 1 + n_classes + c * (c + 1) // 2
                    for e in range(c):
                        moment[row + e] = moment[1 + c] * moment[1 + e]
                    moment[row + c] = field[c] * (2.0 * moment[1 + c] - field[c]) + split[c, k + 2] / split[c, k]
                for k in range(n_moments):
                    sums[s, k, at] += part * moment[k]
        for s in range(n_patterns):
            for k in range(n_moments):
                sums[s, k, at] *= total[at] / mass
        beside[at] *= total[at] / mass
