"""The readout integral node by node, with classes as in `meanfield.theories.single_layer.compiled.marginal`.

What that does by derivatives of a smoothed function is done here by sums alone, with G from direct samples.
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.exponentials import LANES, exponentials
from meanfield.numerics.jit import jit
from meanfield.theories.single_layer.compiled.marginal_blocks import push, push_seed, start_of
from meanfield.theories.single_layer.compiled.marginal_frame import box_shape, framed, nearest
from meanfield.theories.single_layer.compiled.stretch import ROOM, direct_line, direct_site

__all__ = ["product_range", "product_value"]


@jit
def _add(value, n, w, lines, cells, starts, x_step, slope, sums):
    """Add the first n cells of `value`, one of each line in `lines`, to sums (., 4): of e^value, times x, G', x G'."""
    exponentials(value, n * LANES, w)
    for k in range(n):
        total, moment, with_slope, both = 0.0, 0.0, 0.0, 0.0
        for j in range(LANES):
            here = w[k * LANES + j]
            moved = here * (starts[k] + j * x_step)
            total += here
            moment += moved
            with_slope += here * slope[cells[k] + j]
            both += moved * slope[cells[k] + j]
        i = lines[k]
        sums[i, 0] += total
        sums[i, 1] += moment
        sums[i, 2] += with_slope
        sums[i, 3] += both


@jit
def product_sums(
    sample, spacing, origin, p, t, share, gain, n_samples, top, along, basis, low, shape, shift, seeds, x_first, x_step,
    n_x, kappa_low, n_kappa, window, limit, first,
):  # fmt: skip
    """Sums over lattices of b and, for each b, of x of e^{P (h - top)}: number of nodes, and their sum.

    Written apart from `marginal_value`: every node (b, x) is in the sum, G is that of direct samples. Nodes x of every
    line of fixed b are shifted so that kappa_j is on one grid of `n_kappa` (whole lanes) nodes from `kappa_low` on.
    `share` is p_j. Adds sums of p_c G'_c a to first (C, d + 1), class j last. G is convex, so that chords bound it:
    lanes that are below e^{-window} by them are left out. Nodes are -1 beyond `limit`.
    """
    n_other, d = t.shape
    n_blocks = 1
    for r in range(d):
        n_blocks *= shape[r]
    visited, stack = np.zeros(n_blocks, np.uint8), np.empty(n_blocks, np.int64)
    place, base = np.empty(d, np.int64), np.empty(d)
    beta, kappa, slope = np.empty((d, LANES)), np.empty((n_other, LANES)), np.empty((n_other, LANES))
    s, line, sums = np.empty(LANES), np.empty(LANES), np.empty((LANES, 4))
    value, w = np.empty(LANES * LANES), np.empty(LANES * LANES)  # of some cells, whose exponentials are taken together
    lines, cells, starts = np.empty(LANES, np.int64), np.empty(LANES, np.int64), np.empty(LANES)
    action, rising = np.empty(n_kappa + LANES), np.empty(n_kappa + LANES)
    direct_line(sample, spacing, origin, n_samples, share, kappa_low, gain * x_step, action, rising)
    length, half, least = LANES * x_step, 0.5 * n_samples, math.exp(-window)
    mass, n_nodes, n_stack = 0.0, 0, 0
    for k in range(seeds.shape[0]):
        n_stack = push_seed(seeds[k], low, shape, LANES, visited, stack, n_stack)
    while n_stack > 0:
        n_stack -= 1
        start_of(stack[n_stack], low, shape, shift, basis, LANES, place, base)
        for i in range(LANES):
            line[i] = -n_samples * top
            s[i] = 0.0
        for r in range(d):
            for i in range(LANES):
                beta[r, i] = base[r] + i * basis[0, r]
                line[i] -= half * beta[r, i] * beta[r, i]
                s[i] += along[r] * beta[r, i]
        for c in range(n_other):
            for i in range(LANES):
                kappa[c, i] = 0.0
            for r in range(d):
                for i in range(LANES):
                    kappa[c, i] += t[c, r] * beta[r, i]
        direct_site(sample, spacing, origin, n_samples, p, kappa, LANES, line, slope)
        waiting = 0
        for i in range(LANES):
            start = (kappa_low - s[i]) / gain  # x of the first node of the grid
            cell = max(0, math.floor((x_first - start) / length))
            last = min(n_kappa // LANES, math.ceil((x_first + n_x * x_step - start) / length))
            for k in range(4):
                sums[i, k] = 0.0
            while cell < last:
                x0 = start + cell * length
                g = cell * LANES
                cell += 1
                rise = (action[g + LANES] - action[g]) / length
                x = min(max(rise / n_samples, x0), x0 + length)
                if not line[i] + action[g] + rise * (x - x0) - half * x * x > -window:
                    continue
                lines[waiting], cells[waiting], starts[waiting] = i, g, x0
                for j in range(LANES):
                    x = x0 + j * x_step
                    value[waiting * LANES + j] = line[i] + action[g + j] - half * x * x
                waiting += 1
                n_nodes += LANES
                if waiting == LANES:
                    _add(value, waiting, w, lines, cells, starts, x_step, rising, sums)
                    waiting = 0
        _add(value, waiting, w, lines, cells, starts, x_step, rising, sums)
        begin, end = LANES, -1
        for i in range(LANES):
            total, moment, with_slope, both = sums[i, 0], sums[i, 1], sums[i, 2], sums[i, 3]
            if not total > least:
                continue
            begin, end = min(begin, i), i
            mass += total
            for c in range(n_other):
                factor = p[c] * slope[c, i]
                for r in range(d):
                    first[c, r] += factor * total * beta[r, i]
                first[c, d] += factor * moment
            for r in range(d):
                first[n_other, r] += share * with_slope * beta[r, i]
            first[n_other, d] += share * both
        if end >= 0:
            if n_nodes > limit:
                return -1, mass
            n_stack = push(place, shape, begin, end, LANES, visited, stack, n_stack)
    return n_nodes, mass


@jit
def _fields(f, x_shift):
    """Range of the fields of all classes but j in a box and a block around it, and the grid of kappa_j: (low, high,
    kappa_low, number of nodes in whole lanes).
    """
    d = f.low.shape[0]
    low, high, kappa_low, kappa_high = np.inf, -np.inf, 0.0, 0.0
    for k in range(d + 1):
        least, most = 0.0, 0.0
        for r in range(d):
            gain = 0.0
            for q in range(d):
                gain += (f.fields[k, q] if k < d else f.along[q]) * f.basis[r, q]
            one, other = (f.low[r] - 2) * gain, (f.low[r] + f.size[r] + LANES + 2) * gain
            least, most = least + min(one, other), most + max(one, other)
        if k < d:
            low, high = min(low, least), max(high, most)
        else:
            kappa_low = least + f.gain * (f.x_first + x_shift) * f.x_step
            kappa_high = most + f.gain * (f.x_first + f.n_x + ROOM) * f.x_step
    return low, high, kappa_low, LANES * math.ceil((kappa_high - kappa_low) / (f.gain * f.x_step * LANES))


@jit
def product_range(p, t, low, high, n_samples, unit, inverse, lengths, shift, x_shift, radius):
    """Whether the box around the readouts is small enough, and the range of kappa in `product_value`."""
    f = framed(p, t, low, high, n_samples, 1, unit, inverse, lengths, shift, x_shift, radius)
    if box_shape(f, LANES)[0] == 0:
        return False, 0.0, 0.0
    least, most, kappa_low, n_kappa = _fields(f, x_shift)
    return True, min(least, kappa_low), max(most, kappa_low + (n_kappa + LANES) * f.gain * f.x_step)


@jit
def product_value(
    sample, spacing, origin, p, y, tau, n_samples, low, high, t, maxima, level, unit, inverse, lengths, shift, x_shift,
    window, radius, limit, gradient,
):  # fmt: skip
    """Number of nodes, -1 beyond `limit`, and J(t); fills its gradient (C m,). As `marginal_value`, by `product_sums`.

    The class with the second largest gain is the one that has a lattice of its own; `level` is the maximum of h.
    """
    f = framed(p, t, low, high, n_samples, 1, unit, inverse, lengths, shift, x_shift, radius)
    m = t.shape[0]
    d = m - 1
    _, _, kappa_low, n_kappa = _fields(f, x_shift)
    first = np.zeros((m, m))
    n_nodes, mass = product_sums(
        sample, spacing, origin, f.shares, f.fields, p[f.j], f.gain, n_samples, level, f.along, f.basis, f.low,
        box_shape(f, LANES), shift, nearest(f, inverse, lengths[0], shift, maxima), (f.x_first + x_shift) * f.x_step,
        f.x_step, f.n_x, kappa_low, n_kappa, window, limit, first,
    )  # fmt: skip
    linear = 0.0
    for k in range(m):
        c = f.others[k] if k < d else f.j
        for r in range(m):
            total = first[k, d] * f.u[r]
            for q in range(d):
                total += first[k, q] * f.plane[r, q]
            gradient[c * m + r] = total / mass + p[c] * (tau * t[c, r] - y[c, r])
            linear += p[c] * t[c, r] * (0.5 * tau * t[c, r] - y[c, r])
    cell = f.volume + math.log(f.x_step) + 0.5 * m * math.log(n_samples / (2.0 * math.pi))
    return n_nodes, linear + level + (math.log(mass) + cell) / n_samples
