"""What one half of the classes gives on a product grid of the readout's coordinates (sigma_a = 1).

See `meanfield.theories.single_layer.readout_halves`. With f_c = e^{P p_c G(kappa_c)} and kappa_c linear in the
coordinates x, sums over products of derivatives of the f_c by kappa_c are all that J and its derivatives need.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.exponentials import exponentials, padded
from meanfield.numerics.jit import jit
from meanfield.theories.single_layer.compiled.quick import quick2
from meanfield.theories.single_layer.compiled.stretch import ROOM, direct_site

__all__ = ["code_sums", "half_sums"]


@jit
def _site4(quick, weight, kappa, n, value, deep, derivative):
    """Add weight * G (n,) to value; derivative (4, n) is that of weight * G, of orders 3 and 4 only if `deep`."""
    inverse, half = quick.inverse, quick.half
    far = 0
    for i in range(n):
        far += 0 if abs(kappa[i] * inverse) < half * (1.0 - 1e-9) else 1
    if far > 0:  # out there G is a line, to what a Hessian needs
        for i in range(n):
            g0, g1, g2 = quick2(quick, kappa[i])
            value[i] += weight * g0
            derivative[0, i], derivative[1, i] = weight * g1, weight * g2
            derivative[2, i], derivative[3, i] = 0.0, 0.0
        return
    w1 = weight * inverse
    w2 = w1 * inverse
    for i in range(n):
        x = kappa[i] * inverse + half
        j = np.int32(x)
        u = x - j - 0.5
        c1, c2, c3 = quick.coefficients[j, 1], quick.coefficients[j, 2], quick.coefficients[j, 3]
        c4, c5 = quick.coefficients[j, 4], quick.coefficients[j, 5]
        c6, c7 = quick.coefficients[j, 6], quick.coefficients[j, 7]
        l2 = c2 + u * (c3 + u * (c4 + u * (c5 + u * (c6 + u * c7))))
        l1 = 2.0 * c2 + u * (3.0 * c3 + u * (4.0 * c4 + u * (5.0 * c5 + u * (6.0 * c6 + u * 7.0 * c7))))
        value[i] += weight * (quick.coefficients[j, 0] + u * (c1 + u * l2))
        derivative[0, i] = w1 * (c1 + u * l1)
        derivative[1, i] = w2 * (
            2.0 * c2 + u * (6.0 * c3 + u * (12.0 * c4 + u * (20.0 * c5 + u * (30.0 * c6 + u * 42.0 * c7))))
        )
    if not deep:
        return
    w3 = w2 * inverse
    w4 = w3 * inverse
    for i in range(n):
        x = kappa[i] * inverse + half
        j = np.int32(x)
        u = x - j - 0.5
        c3, c4, c5 = quick.coefficients[j, 3], quick.coefficients[j, 4], quick.coefficients[j, 5]
        c6, c7 = quick.coefficients[j, 6], quick.coefficients[j, 7]
        derivative[2, i] = w3 * (6.0 * c3 + u * (24.0 * c4 + u * (60.0 * c5 + u * (120.0 * c6 + u * 210.0 * c7))))
        derivative[3, i] = w4 * (24.0 * c4 + u * (120.0 * c5 + u * (360.0 * c6 + u * 840.0 * c7)))


@jit
def _coordinates(index, size, first, last, low, step, x):
    """Coordinates x[first:last] of the node with this number in the product of grids."""
    rest = index
    for r in range(last - 1, first - 1, -1):
        x[r] = low[r] + step[r] * (rest % size[r])
        rest //= size[r]


@jit
def half_sums(
    quick, sample, spacing, origin, n_samples, p, fields, low, step, size, curvature, tilt, kept, begin, end, parent,
    which, power, squares, sums, tops,
):  # fmt: skip
    """Fill sums (M, N) with products of derivatives of the f_c at the nodes of the first `kept` coordinates, relative to
    e^tops (N,), summed over the nodes of the others. Of the nodes those of lines `begin` ... `end` - 1 along the last
    of the first `kept` coordinates.

    p (n,), fields (n, d): kappa_c = fields[c] . x, x = low + step * (0 ... size - 1). The exponent is
    P (sum_c p_c G(kappa_c) - sum_i curvature_i x_i^2 / 2 + tilt . x). Product k > 0 is number parent[k] < k times the
    derivative of f over f of order power[k] of class which[k]; number 0 is one. Where there are samples, G is
    interpolated between them, and kappa d/dkappa stands for a second derivative; with `squares` that of the first one.
    """
    n_classes, d = fields.shape
    n_products = parent.shape[0]
    last = kept - 1
    n_free = 1
    for r in range(kept, d):
        n_free *= size[r]
    direct = sample.shape[0] > 0
    highest = 0
    for k in range(1, n_products):
        highest = max(highest, power[k])
    x = np.empty(d)
    kappa, value, w = np.empty((n_classes, ROOM)), np.empty(ROOM), np.empty(padded(ROOM))
    l, slope, share = np.empty((4, ROOM)), np.empty((n_classes, ROOM)), p
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
                    base = 0.0
                    for r in range(d):
                        if r != last:
                            base += fields[c, r] * x[r]
                    for i in range(n):
                        kappa[c, i] = base + fields[c, last] * (low[last] + step[last] * (start + i))
                if direct:
                    direct_site(sample, spacing, origin, n_samples, share, kappa, n, value, slope)
                    for c in range(n_classes):
                        for i in range(n):
                            derivative[c, 1, i] = n_samples * p[c] * slope[c, i]
                            derivative[c, 2, i] = kappa[c, i] * derivative[c, 1, i]
                else:
                    for c in range(n_classes):
                        _site4(quick, n_samples * p[c], kappa[c], n, value, highest > 2, l)
                        if highest > 0:
                            for i in range(n):
                                derivative[c, 1, i] = l[0, i]
                                derivative[c, 2, i] = (0.0 if squares else l[1, i]) + l[0, i] * l[0, i]
                        if highest > 2:
                            for i in range(n):
                                square = l[0, i] * l[0, i]
                                derivative[c, 3, i] = l[2, i] + l[0, i] * (3.0 * l[1, i] + square)
                                derivative[c, 4, i] = (
                                    l[3, i] + 4.0 * l[2, i] * l[0, i] + 3.0 * l[1, i] * l[1, i]
                                    + square * (6.0 * l[1, i] + square)
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
def code_sums(
    quick, n_samples, p, fields, low, step, size, curvature, tilt, kept, begin, end, cut, width, top, sums, beside
):  # fmt: skip
    """Fill sums (2^n, 1 + d + d (d + 1) / 2, N) with e^{exponent - top} times 1, x_i, x_i x_j (i >= j) of each pattern
    of upper classes, and beside (N,) with what lies within a width of a cut. See `half_sums`.

    A class is upper where kappa_c is above its cut (n,); within `width` (n,) of it the node is shared.
    """
    n_classes, d = fields.shape
    n_free = 1
    for r in range(kept, d):
        n_free *= size[r]
    n_patterns = 1 << n_classes
    x, part = np.empty(d), np.empty(n_patterns)
    for at in range(begin, end):
        _coordinates(at, size, 0, kept, low, step, x)
        beside[at] = 0.0
        for s in range(n_patterns):
            for k in range(sums.shape[1]):
                sums[s, k, at] = 0.0
        for free in range(n_free):
            _coordinates(free, size, kept, d, low, step, x)
            value, near = -top, 0.0
            for r in range(d):
                value += n_samples * x[r] * (tilt[r] - 0.5 * curvature[r] * x[r])
            for s in range(n_patterns):
                part[s] = 1.0
            for c in range(n_classes):
                kappa = 0.0
                for r in range(d):
                    kappa += fields[c, r] * x[r]
                value += n_samples * p[c] * quick2(quick, kappa)[0]
                upper = min(max(0.5 + 0.5 * (kappa - cut[c]) / width[c], 0.0), 1.0)
                near = max(near, 1.0 if 0.0 < upper < 1.0 else 0.0)
                for s in range(n_patterns):
                    part[s] *= upper if (s >> c) & 1 else 1.0 - upper
            w = np.exp(value)
            beside[at] += near * w
            for s in range(n_patterns):
                here = part[s] * w
                if here == 0.0:
                    continue
                sums[s, 0, at] += here
                k = 1
                for r in range(d):
                    sums[s, k, at] += here * x[r]
                    k += 1
                for r in range(d):
                    for q in range(r + 1):
                        sums[s, k, at] += here * x[r] * x[q]
                        k += 1
