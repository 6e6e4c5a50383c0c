"""The readout integral where there is one class for each output: one class integrated out, the others on a lattice.

Along the unit vector u that is orthogonal to the t_c of all other classes only kappa_j moves. With a = b + x u,
s = b.t_j and gain = u.t_j the integral over x is a function of s alone,

    e^{L(s)} = int dx (P / 2 pi)^{1/2} e^{-P x^2 / 2 + P p_j G(s + gain x)}

What is left is a lattice sum with one dimension less (sigma_a = 1). Moments of x are derivatives of L: at given b, with
D_n = e^{-L} d^n e^L / ds^n,

    <x> = gain D_1 / P,  <x^2> = 1/P + (gain / P)^2 D_2,  P p_j <G'> = D_1,  P p_j <x G'> = gain D_2 / P  and so on.

Nodes are visited by blocks of neighbours on a line, from those that hold maxima of h to all that touch them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from meanfield.numerics.exponentials import exponentials, padded
from meanfield.numerics.jit import jit
from meanfield.theories.single_layer.compiled.marginal_blocks import push, push_seed, start_of
from meanfield.theories.single_layer.compiled.marginal_frame import box_shape, framed, nearest
from meanfield.theories.single_layer.compiled.stretch import ROOM, anywhere, single_site

__all__ = ["BLOCK", "marginal_value"]

BLOCK = 16  # nodes of a line that are visited together
_OUT = -1e300
_MAX_INTERVALS = 20_000
_CHUNK = 16  # intervals of L that are made together
_ROUNDING = 1e-6  # of places in the table, in intervals
_FAINT = -40.0  # ln of what is left out of the integral over x


def _hermite() -> np.ndarray:
    """Coefficients of powers of u from value and three derivatives at u = -1/2, then at u = 1/2."""
    rows = np.zeros((8, 8))
    for end, u in enumerate((-0.5, 0.5)):
        for order in range(4):
            for power in range(order, 8):
                rows[4 * end + order, power] = math.perm(power, order) * u ** (power - order)
    return np.linalg.inv(rows)


_HERMITE = _hermite()


class _Smoothed(NamedTuple):
    """L on n intervals of width `of_s` * spacing from s = `low` on, made by chunks where it is asked for.

    Nodes x lie at (first + k) h, k < n_x, with h = `of_x` * spacing / gain, so that all kappa are on one grid.
    """

    coefficients: np.ndarray  # (n, 8), of powers of u, |u| <= 1/2
    made: np.ndarray  # (chunks,) 1 where that was done
    action: np.ndarray  # P p_j G on the grid of kappa
    low: float
    spacing: float
    gain: float
    of_s: int
    of_x: int
    first: int
    n_x: int


@jit
def _smoothed(quick, n_samples, p, gain, low, high, spacing, of_s, of_x, first, n_x):
    """L between `low` and `high`: nothing of it is made yet but the grid of kappa."""
    n = math.ceil((high - low) / (of_s * spacing)) + 1
    size = padded(n * of_s + (n_x - 1) * of_x + 1)
    action = np.empty(size)
    kappa, value, slope, none = np.empty((1, ROOM)), np.empty(ROOM), np.empty((1, ROOM)), np.empty((0, 0))
    share = np.full(1, p)
    start = low + first * of_x * spacing
    for begin in range(0, size, ROOM):
        count = min(ROOM, size - begin)
        for i in range(count):
            kappa[0, i] = start + (begin + i) * spacing
            value[i] = 0.0
        if not single_site(
            quick.coefficients, quick.inverse, quick.half, n_samples, share, kappa, count, value, slope, none
        ):
            anywhere(quick, n_samples, share, kappa, count, value, slope, none)
        for i in range(count):
            action[begin + i] = value[i]
    chunks = (n + _CHUNK - 1) // _CHUNK
    made = np.zeros(chunks, np.uint8)
    # Nodes outside of the table look at the first interval: nothing there may be no number.
    return _Smoothed(np.zeros((n, 8)), made, action, low, spacing, gain, of_s, of_x, first, n_x)


@jit
def _make(smooth, n_samples, chunk):
    """Fill the coefficients of a chunk of intervals."""
    action, coefficients, of_s, of_x, n_x = smooth.action, smooth.coefficients, smooth.of_s, smooth.of_x, smooth.n_x
    step = of_x * smooth.spacing / smooth.gain
    scale = n_samples * of_s * smooth.spacing / smooth.gain
    cell = math.log(step * math.sqrt(n_samples / (2.0 * math.pi)))
    w, exponent, ends = np.empty(padded(n_x)), np.empty(padded(n_x)), np.empty((2, 4))
    smooth.made[chunk] = 1
    begin_of, end_of = chunk * _CHUNK, min((chunk + 1) * _CHUNK, coefficients.shape[0])
    kept = 0  # what carries weight moves up with s, since G is convex
    for i in range(begin_of, end_of + 1):
        top = -np.inf
        for k in range(kept, n_x):
            x = (smooth.first + k) * step
            exponent[k - kept] = action[i * of_s + k * of_x] - 0.5 * n_samples * x * x
            top = max(top, exponent[k - kept])
        begin, end = kept, n_x
        while exponent[begin - kept] < top + _FAINT:
            begin += 1
        while exponent[end - 1 - kept] < top + _FAINT:
            end -= 1
        for k in range(begin, end):
            exponent[k - begin] = exponent[k - kept] - top
        kept = begin
        exponentials(exponent, end - begin, w)
        s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
        for k in range(end - begin):
            s0 += w[k]
            s1 += w[k] * k
        mean = s1 / s0
        for k in range(end - begin):
            x = k - mean
            s2 += w[k] * x * x
            s3 += w[k] * x * x * x
        ends[1, 0] = top + math.log(s0) + cell
        ends[1, 1] = scale * (smooth.first + begin + mean) * step
        ends[1, 2] = scale * scale * (s2 / s0 * step * step - 1.0 / n_samples)
        ends[1, 3] = (scale * step) ** 3 * s3 / s0
        if i > begin_of:
            for power in range(8):
                total = 0.0
                for order in range(4):
                    total += _HERMITE[power, order] * ends[0, order] + _HERMITE[power, 4 + order] * ends[1, order]
                coefficients[i - 1, power] = total
        for order in range(4):
            ends[0, order] = ends[1, order]


@jit
def _made_between(smooth, n_samples, inverse, one, other):
    """Make what is missing of L between two values of s."""
    last = smooth.coefficients.shape[0] - 1
    low = (min(one, other) - smooth.low) * inverse - _ROUNDING
    high = (max(one, other) - smooth.low) * inverse + _ROUNDING
    for chunk in range(int(min(max(low, 0.0), last)) // _CHUNK, int(min(max(high, 0.0), last)) // _CHUNK + 1):
        if smooth.made[chunk] == 0:
            _make(smooth, n_samples, chunk)


@jit
def _smooth_site(smooth, low, inverse, s, value, slope):
    """Add L(s) (n,) to value and set slope (4, n) to the first derivatives; outside of the table nothing is there."""
    n = smooth.shape[0]
    for i in range(s.shape[0]):
        x = (s[i] - low) * inverse
        inside = 0.0 <= x < n
        j = np.int32(x if inside else 0.0)
        u = x - j - 0.5 if inside else 0.0
        c2, c3, c4 = smooth[j, 2], smooth[j, 3], smooth[j, 4]
        c5, c6, c7 = smooth[j, 5], smooth[j, 6], smooth[j, 7]
        l0 = c2 + u * (c3 + u * (c4 + u * (c5 + u * (c6 + u * c7))))
        l1 = 2.0 * c2 + u * (3.0 * c3 + u * (4.0 * c4 + u * (5.0 * c5 + u * (6.0 * c6 + u * 7.0 * c7))))
        l2 = 2.0 * c2 + u * (6.0 * c3 + u * (12.0 * c4 + u * (20.0 * c5 + u * (30.0 * c6 + u * 42.0 * c7))))
        l3 = 6.0 * c3 + u * (24.0 * c4 + u * (60.0 * c5 + u * (120.0 * c6 + u * 210.0 * c7)))
        l4 = 24.0 * c4 + u * (120.0 * c5 + u * (360.0 * c6 + u * 840.0 * c7))
        value[i] += (smooth[j, 0] + u * (smooth[j, 1] + u * l0)) if inside else _OUT
        slope[0, i] = (smooth[j, 1] + u * l1) * inverse
        slope[1, i] = l2 * inverse**2
        slope[2, i] = l3 * inverse**3
        slope[3, i] = l4 * inverse**4


@jit
def _weighted_squares(w, beta, squares):
    """Fill squares (s, n) with w beta_r beta_q (r >= q), w beta_r and w, in the order of a triangle."""
    d = beta.shape[0]
    j = 0
    for r in range(d):
        for q in range(r + 1):
            for i in range(BLOCK):
                squares[j, i] = w[i] * beta[r, i] * beta[q, i]
            j += 1
    for r in range(d):
        for i in range(BLOCK):
            squares[j, i] = w[i] * beta[r, i]
        j += 1
    for i in range(BLOCK):
        squares[j, i] = w[i]


@jit
def _add_weighted(squares, z0, z1, z2, d, row, sums):
    """Add sums of z0, z1 and z2 times the squares that have no, one and two factors x to a row of sums (., s)."""
    last = squares.shape[0] - 1
    for j in range(last - d):
        total = 0.0
        for i in range(BLOCK):
            total += z0[i] * squares[j, i]
        sums[row, j] += total
    for j in range(last - d, last):
        total = 0.0
        for i in range(BLOCK):
            total += z1[i] * squares[j, i]
        sums[row, j] += total
    total = 0.0
    for i in range(BLOCK):
        total += z2[i] * squares[last, i]
    sums[row, last] += total


@jit
def _marginal_sums(
    quick, p, t, n_samples, smooth, along, basis, low, shape, seeds, window, limit, first, second,
):  # fmt: skip
    """Sums over the lattice of e^{P h} integrated over x, in the coordinates (b, x): number of nodes, top, their sum.

    p (C - 1,) and t (C - 1, d) are of the other classes, `along` (d,) is t_j, all in coordinates of b; `smooth` is L.
    Lattice: basis (d, d), from the integers `low` (d,) on; `shape` (d,) counts blocks
    first, then lines. seeds (n, d) are nodes near maxima.

    With e^{P h} relative to its top, adds sums of p_c G'_c a to first (C, d + 1), with class j last, and to second,
    unless it is empty, of P p_c p_e G'_c G'_e a a^T for c >= e (rows) and a lower triangle of components (columns),
    with p_c G''_c a a^T where c = e. The number of nodes is -1 beyond `limit`.
    """
    n_other, d = t.shape
    with_second = second.shape[0] > 0
    no_shift = np.zeros(d)
    n_blocks = 1
    for r in range(d):
        n_blocks *= shape[r]
    visited, stack = np.zeros(n_blocks, np.uint8), np.empty(n_blocks, np.int64)
    place, base = np.empty(d, np.int64), np.empty(d)
    beta, kappa, slope = np.empty((d, BLOCK)), np.empty((n_other, BLOCK)), np.empty((n_other, BLOCK))
    curvature = np.empty((n_other if with_second else 0, BLOCK))
    s, value, w = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    moved = np.empty((4, BLOCK))
    z0, z1, z2, squares = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty((second.shape[1], BLOCK))
    one = smooth.gain / n_samples
    coefficients, s_low, s_inverse = smooth.coefficients, smooth.low, 1.0 / (smooth.of_s * smooth.spacing)
    half = 0.5 * n_samples
    top, mass, n_nodes = -np.inf, 0.0, 0
    for phase in range(2):  # the top is that of the blocks of the seeds
        n_stack = 0
        for i in range(n_blocks if phase == 1 and seeds.shape[0] > 0 else 0):
            visited[i] = 0
        for k in range(seeds.shape[0]):
            n_stack = push_seed(seeds[k], low, shape, BLOCK, visited, stack, n_stack)
        while n_stack > 0:
            n_stack -= 1
            start_of(stack[n_stack], low, shape, no_shift, basis, BLOCK, place, base)
            for i in range(BLOCK):
                value[i] = -top if phase == 1 else 0.0
                s[i] = 0.0
            for r in range(d):
                for i in range(BLOCK):
                    beta[r, i] = base[r] + i * basis[0, r]
                    value[i] -= half * beta[r, i] * beta[r, i]
                    s[i] += along[r] * beta[r, i]
            for c in range(n_other):
                for i in range(BLOCK):
                    kappa[c, i] = 0.0
                for r in range(d):
                    for i in range(BLOCK):
                        kappa[c, i] += t[c, r] * beta[r, i]
            if not single_site(
                quick.coefficients, quick.inverse, quick.half, n_samples, p, kappa, BLOCK, value, slope, curvature
            ):
                anywhere(quick, n_samples, p, kappa, BLOCK, value, slope, curvature)
            _made_between(smooth, n_samples, s_inverse, s[0], s[BLOCK - 1])
            _smooth_site(coefficients, s_low, s_inverse, s, value, moved)
            if phase == 0:
                for i in range(BLOCK):
                    top = max(top, value[i])
                continue
            begin, end = BLOCK, -1
            for i in range(BLOCK):
                if value[i] > -window:
                    begin, end = min(begin, i), i
            if end < 0:
                continue
            n_nodes += BLOCK
            if n_nodes > limit:
                return -1, top, mass
            n_stack = push(place, shape, begin, end, BLOCK, visited, stack, n_stack)
            exponentials(value, BLOCK, w)
            for i in range(BLOCK):
                mass += w[i]
                l1, l2, l3, l4 = moved[0, i], moved[1, i], moved[2, i], moved[3, i]
                square = l1 * l1
                moved[1, i] = l2 + square
                moved[2, i] = l3 + l1 * (3.0 * l2 + square)
                moved[3, i] = l4 + 4.0 * l3 * l1 + 3.0 * l2 * l2 + square * (6.0 * l2 + square)
            for c in range(n_other):
                scale = p[c]
                for i in range(BLOCK):
                    slope[c, i] *= scale
                    z0[i] = w[i] * slope[c, i]
                for r in range(d):
                    total = 0.0
                    for i in range(BLOCK):
                        total += z0[i] * beta[r, i]
                    first[c, r] += total
                total = 0.0
                for i in range(BLOCK):
                    total += z0[i] * moved[0, i]
                first[c, d] += one * total
            for r in range(d):
                total = 0.0
                for i in range(BLOCK):
                    total += w[i] * moved[0, i] * beta[r, i]
                first[n_other, r] += total / n_samples
            total = 0.0
            for i in range(BLOCK):
                total += w[i] * moved[1, i]
            first[n_other, d] += one / n_samples * total
            if not with_second:
                continue
            _weighted_squares(w, beta, squares)
            row = 0
            for c in range(n_other):
                for e in range(c + 1):
                    scale = p[c] if c == e else 0.0
                    for i in range(BLOCK):
                        z0[i] = n_samples * slope[c, i] * slope[e, i] + scale * curvature[c, i]
                        z1[i] = z0[i] * one * moved[0, i]
                        z2[i] = z0[i] * (1.0 / n_samples + one * one * moved[1, i])
                    _add_weighted(squares, z0, z1, z2, d, row, second)
                    row += 1
            for e in range(n_other):
                for i in range(BLOCK):
                    z0[i] = slope[e, i] * moved[0, i]
                    z1[i] = slope[e, i] * one * moved[1, i]
                    z2[i] = slope[e, i] * (moved[0, i] / n_samples + one * one * moved[2, i])
                _add_weighted(squares, z0, z1, z2, d, row, second)
                row += 1
            for i in range(BLOCK):
                z0[i] = moved[1, i] / n_samples
                z1[i] = one * moved[2, i] / n_samples
                z2[i] = (moved[1, i] / n_samples + one * one * moved[3, i]) / n_samples
            _add_weighted(squares, z0, z1, z2, d, row, second)
    return n_nodes, top, mass


@jit
def marginal_value(
    quick, p, y, tau, n_samples, low, high, t, maxima, unit, inverse, lengths, window, radius, width, limit, hessian,
    gradient, matrix,
):  # fmt: skip
    """Number of nodes, 0 where these are too many, and J(t); fills its gradient (C m,) and its Hessian (C m, C m), if
    it is asked for.

    `low` and `high` bound phi. The lattice of b is lengths[0] times `unit` (d, d), whose inverse is `inverse`, steps of
    x are lengths[1]; L is on intervals of about `width`, maxima (n, m) are near those of h. See
    `meanfield.theories.single_layer.compiled.marginal_frame.framed` for `radius`.
    """
    n_classes, m = t.shape
    d = m - 1
    zero = np.zeros(d)
    f = framed(p, t, low, high, n_samples, 0, unit, inverse, lengths, zero, 0.0, radius)
    shape = box_shape(f, BLOCK)
    if shape[0] == 0:
        return 0, np.nan
    moved = f.gain * f.x_step
    of_x = max(1, math.ceil(moved / width))
    of_s = max(1, int(width * of_x / moved))
    spacing = moved / of_x
    if not f.s_high - f.s_low < _MAX_INTERVALS * of_s * spacing:
        return 0, np.nan
    smooth = _smoothed(quick, n_samples, p[f.j], f.gain, f.s_low, f.s_high, spacing, of_s, of_x, f.x_first, f.n_x)
    seeds = nearest(f, inverse, lengths[0], zero, maxima)
    first = np.zeros((n_classes, m))
    pairs = n_classes * (n_classes + 1) // 2
    second = np.zeros((pairs if hessian else 0, m * (m + 1) // 2))
    n_nodes, top, mass = _marginal_sums(
        quick, f.shares, f.fields, n_samples, smooth, f.along, f.basis, f.low, shape, seeds, window, limit, first,
        second,
    )  # fmt: skip
    if n_nodes <= 0 or not mass > 0.0:
        return 0, np.nan
    axes = np.empty((m, m))
    order = np.empty(n_classes, np.int64)
    for r in range(m):
        for q in range(d):
            axes[r, q] = f.plane[r, q]
        axes[r, d] = f.u[r]
        order[r] = f.others[r] if r < d else f.j
    slope = np.empty(n_classes * m)
    linear = 0.0
    for k in range(n_classes):
        c = order[k]
        for r in range(m):
            total = 0.0
            for q in range(m):
                total += axes[r, q] * first[k, q]
            slope[c * m + r] = total / mass
            gradient[c * m + r] = slope[c * m + r] + p[c] * (tau * t[c, r] - y[c, r])
            linear += p[c] * t[c, r] * (0.5 * tau * t[c, r] - y[c, r])
    if hessian:
        _turned(second, order, axes, mass, matrix)
        for i in range(slope.shape[0]):
            for j in range(slope.shape[0]):
                matrix[i, j] -= n_samples * slope[i] * slope[j]
            matrix[i, i] += tau * p[i // m]
    volume = f.volume + 0.5 * d * math.log(n_samples / (2.0 * math.pi))
    return n_nodes, linear + (top + math.log(mass) + volume) / n_samples


@jit
def _turned(second, order, axes, mass, matrix):
    """Fill matrix (C m, C m) from sums over lower triangles in the coordinates of a frame."""
    m = axes.shape[0]
    block, half = np.empty((m, m)), np.empty((m, m))
    row = 0
    for c in range(order.shape[0]):
        for e in range(c + 1):
            j = 0
            for r in range(m):
                for q in range(r + 1):
                    block[r, q] = second[row, j] / mass
                    block[q, r] = block[r, q]
                    j += 1
            row += 1
            for r in range(m):
                for q in range(m):
                    total = 0.0
                    for i in range(m):
                        total += axes[r, i] * block[i, q]
                    half[r, q] = total
            for r in range(m):
                for q in range(m):
                    total = 0.0
                    for i in range(m):
                        total += half[r, i] * axes[q, i]
                    matrix[order[c] * m + r, order[e] * m + q] = total
                    matrix[order[e] * m + q, order[c] * m + r] = total
