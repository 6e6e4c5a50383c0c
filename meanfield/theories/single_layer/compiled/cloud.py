"""Sums over the nodes of a rule that is laid around one code, in units of its widths (sigma_a = 1).

    int da (P / 2 pi)^{m/2} e^{P h(a; t)} f(a)  ~  |det L| (P / 2 pi)^{m/2} sum_i W_i e^{P h(a_i)} f(a_i),
    a_i = centre + L z_i,   L L^T = [-P d^2 h]^{-1} at the centre

Rules come in blocks of `ROOM` nodes: z (blocks, m, ROOM) and W (blocks, ROOM), filled up with nodes of weight zero.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.cumulant_table import cumulant2
from meanfield.numerics.jit import jit
from meanfield.numerics.linalg import cholesky
from meanfield.theories.single_layer.compiled.ascent import ascend
from meanfield.theories.single_layer.compiled.stretch import ROOM, anywhere, direct_site, exponentials, single_site

__all__ = ["cloud", "direct_cloud", "frames", "masses"]


@jit
def frames(table, p, t, n_samples, modes, height, factor, inverse):
    """Climb from each of `modes` (K, m), in place, and fill height (K,), L (K, m, m), an upper triangle, and its
    inverse. False where h does not bend down at one of them.
    """
    n_classes, m = t.shape
    hess = np.empty((m, m))
    for k in range(modes.shape[0]):
        height[k], _ = ascend(table, p, t, modes[k])
        for r in range(m):
            for q in range(m):
                hess[r, q] = 1.0 if r == q else 0.0
        for c in range(n_classes):
            kappa = 0.0
            for r in range(m):
                kappa += t[c, r] * modes[k, r]
            _, _, g2 = cumulant2(table, kappa)
            for r in range(m):
                for q in range(m):
                    hess[r, q] -= p[c] * g2 * t[c, r] * t[c, q]
        if not cholesky(hess):
            return False
        # hess = C C^T with C in its lower triangle: L = C^{-T} / sqrt(P).
        root = np.sqrt(n_samples)
        for q in range(m):
            for r in range(m):
                inverse[k, q, r] = root * hess[r, q] if r >= q else 0.0
                factor[k, r, q] = 0.0
        for q in range(m):
            factor[k, q, q] = 1.0 / inverse[k, q, q]
            for r in range(q - 1, -1, -1):
                total = 0.0
                for s in range(r + 1, q + 1):
                    total -= inverse[k, r, s] * factor[k, s, q]
                factor[k, r, q] = total / inverse[k, r, r]
    return True


@jit
def _place(t, n_samples, top, centre, factor, z, block, a, kappa, value):
    """a (m, ROOM), kappa (C, ROOM) and P (-|a|^2 / 2 - top) (ROOM,) of one block of nodes."""
    n_classes, m = t.shape
    for i in range(ROOM):
        value[i] = -n_samples * top
    for r in range(m):
        start = centre[r]
        for i in range(ROOM):
            a[r, i] = start
        for s in range(r, m):
            along = factor[r, s]
            for i in range(ROOM):
                a[r, i] += along * z[block, s, i]
        for i in range(ROOM):
            value[i] -= 0.5 * n_samples * a[r, i] * a[r, i]
    for c in range(n_classes):
        for i in range(ROOM):
            kappa[c, i] = 0.0
        for r in range(m):
            along = t[c, r]
            for i in range(ROOM):
                kappa[c, i] += along * a[r, i]


@jit
def _dot(one, other, row):
    """Sum of the products of one (ROOM,) and a row of the other."""
    total = 0.0
    for i in range(ROOM):
        total += one[i] * other[row, i]
    return total


@jit
def masses(quick, p, t, n_samples, height, modes, factor, z, weight, mass):
    """sum_i W_i e^{P (h(a_i) - height)} around each mode, into mass (K,)."""
    n_classes, m = t.shape
    a, kappa, slope = np.empty((m, ROOM)), np.empty((n_classes, ROOM)), np.empty((n_classes, ROOM))
    value, w, none = np.empty(ROOM), np.empty(ROOM), np.empty((0, 0))
    coefficients, inverse, half = quick.coefficients, quick.inverse, quick.half
    for k in range(modes.shape[0]):
        mass[k] = 0.0
        for block in range(z.shape[0]):
            _place(t, n_samples, height[k], modes[k], factor[k], z, block, a, kappa, value)
            if not single_site(coefficients, inverse, half, n_samples, p, kappa, ROOM, value, slope, none):
                anywhere(quick, n_samples, p, kappa, ROOM, value, slope, none)
            exponentials(value, ROOM, w)
            mass[k] += _dot(w, weight, block)


@jit
def cloud(quick, p, t, n_samples, height, centre, factor, z, weight, first, mean, square, second):
    """Sums around one code; returns that of w_i = W_i e^{P (h(a_i) - height)}.

    Adds w p_c G'_c a_r to first (C, m), w z_r z_q to square (m, m), r >= q, and, unless it is empty, to second
    (C (C + 1) / 2 + C, m (m + 1) / 2) w p_c G'_c p_d G'_d a_r a_q for c >= d (rows) and r >= q (columns), then
    w p_c G''_c a_r a_q; the sum of w z_r is put into mean (m,).
    """
    n_classes, m = t.shape
    with_second = second.shape[0] > 0
    a, kappa, slope = np.empty((m, ROOM)), np.empty((n_classes, ROOM)), np.empty((n_classes, ROOM))
    curvature = np.empty((n_classes if with_second else 0, ROOM))
    value, w, both, products = np.empty(ROOM), np.empty(ROOM), np.empty(ROOM), np.empty((m * (m + 1) // 2, ROOM))
    total = np.zeros((m, ROOM))
    coefficients, inverse, half = quick.coefficients, quick.inverse, quick.half
    mass = 0.0
    for block in range(z.shape[0]):
        _place(t, n_samples, height, centre, factor, z, block, a, kappa, value)
        if not single_site(coefficients, inverse, half, n_samples, p, kappa, ROOM, value, slope, curvature):
            anywhere(quick, n_samples, p, kappa, ROOM, value, slope, curvature)
        exponentials(value, ROOM, w)
        for i in range(ROOM):
            w[i] *= weight[block, i]
            mass += w[i]
        for r in range(m):
            for i in range(ROOM):
                value[i] = w[i] * z[block, r, i]
                total[r, i] += value[i]
            for q in range(r + 1):
                square[r, q] += _dot(value, z[block], q)
        j = 0
        for r in range(m if with_second else 0):
            for q in range(r + 1):
                for i in range(ROOM):
                    products[j, i] = a[r, i] * a[q, i]
                j += 1
        row = 0
        for c in range(n_classes):
            scale = p[c]
            for i in range(ROOM):
                value[i] = scale * (w[i] * slope[c, i])
            for r in range(m):
                first[c, r] += _dot(value, a, r)
            for d in range(c + 1 if with_second else 0):
                for i in range(ROOM):
                    both[i] = value[i] * slope[d, i]
                for j in range(products.shape[0]):
                    second[row, j] += p[d] * _dot(both, products, j)
                row += 1
        for c in range(n_classes if with_second else 0):
            for i in range(ROOM):
                both[i] = w[i] * curvature[c, i]
            for j in range(products.shape[0]):
                second[row, j] += p[c] * _dot(both, products, j)
            row += 1
    for r in range(m):
        mean[r] = np.sum(total[r])
    return mass


@jit
def direct_cloud(
    sample, spacing, origin, p, t, n_samples, height, k, centres, factor, inverses, near, z, weight, edge, first, shell
):  # fmt: skip
    """What `cloud` adds up first, written apart from it, around code k, from samples of G that are not of the table.

    A node counts for the code whose widths it is fewest of away from: the others in `near` (n,) are asked, whose
    `inverses` of L measure. shell[0] is the part of the sum beyond |z|^2 = `edge`.
    """
    n_classes, m = t.shape
    a, kappa, slope = np.empty((m, ROOM)), np.empty((n_classes, ROOM)), np.empty((n_classes, ROOM))
    value, w = np.empty(ROOM), np.empty(ROOM)
    mine, other, part = np.empty(ROOM), np.empty(ROOM), np.empty(ROOM)
    mass, beyond = 0.0, 0.0
    for block in range(z.shape[0]):
        _place(t, n_samples, height, centres[k], factor, z, block, a, kappa, value)
        direct_site(sample, spacing, origin, n_samples, p, kappa, ROOM, value, slope)
        exponentials(value, ROOM, w)
        for i in range(ROOM):
            w[i] *= weight[block, i]
            mine[i] = 0.0
        for r in range(m):
            for i in range(ROOM):
                mine[i] += z[block, r, i] * z[block, r, i]
        for j in near:
            for i in range(ROOM):
                other[i] = 0.0
            for r in range(m):
                for i in range(ROOM):
                    part[i] = 0.0
                for s in range(r, m):
                    for i in range(ROOM):
                        part[i] += inverses[j, r, s] * (a[s, i] - centres[j, s])
                for i in range(ROOM):
                    other[i] += part[i] * part[i]
            for i in range(ROOM):
                w[i] = w[i] if mine[i] <= other[i] else 0.0
        for i in range(ROOM):
            mass += w[i]
            beyond += w[i] if mine[i] > edge else 0.0
        for c in range(n_classes):
            for i in range(ROOM):
                part[i] = w[i] * slope[c, i]
            for r in range(m):
                first[c, r] += p[c] * _dot(part, a, r)
    shell[0] = beyond
    return mass
