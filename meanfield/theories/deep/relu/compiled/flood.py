"""The average over the fields of a neuron: one lattice in the conjugate fields and in what the classes' fields share.

The weight is a positive mixture of unit Gaussians in the whitened conjugate fields and, given them, of Gaussians of
precision 1 + U^T (D + d / n)^-1 U in the shared fields: the error of the lattice is that of Poisson summation, in the
bulk and in its long tails along the outliers alike. Its nodes lie on lines along the last shared field; lines are found
by flooding from the highest near the origin.
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.copies import copy_vector
from meanfield.numerics.hash_set import HASH_FACTOR
from meanfield.numerics.jit import jit
from meanfield.theories.deep.relu.compiled.nodes import along_line, interpolation
from meanfield.theories.deep.relu.compiled.operators import N_LOCAL, N_OPERATED, flushed, operated
from meanfield.theories.deep.relu.compiled.site import N_SITE, N_SLOPES, site, site_slopes

__all__ = ["flood"]

_POINTS = 10  # of an interpolation
_GROWN = 60.0  # ln of what an integral that has an end never has
_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


@jit
def _twice(values):
    grown = np.empty(2 * values.size, dtype=np.int64)
    copy_vector(grown, values)
    return grown


@jit
def _slot(keys, number):
    """Where a number >= 0 is in a hash table, or the free place that it takes.

    Eight successive numbers are neighbours there: of lines beside each other one is in the cache when the next is
    looked for.
    """
    mask = keys.size - 1
    code = (number >> 3) * HASH_FACTOR
    slot = (((code ^ (code >> 29)) << 3) | (number & 7)) & mask
    while keys[slot] >= 0 and keys[slot] != number:
        slot = (slot + 1) & mask
    return slot


@jit
def _outer(field, q, walls):
    """ln of the prior of the conjugate fields and of the cuts."""
    outer = 0.0
    for k in range(q):
        outer -= 0.5 * field[k] ** 2
    for o in range(walls.shape[0]):
        along = -walls[o, q]
        for k in range(q):
            along += walls[o, k] * field[k]
        along /= walls[o, q + 1] * math.sqrt(2.0)
        outer += math.log(0.5 * math.erfc(along)) if along < 20.0 else -math.inf
    return outer


@jit
def _images(place, before, ranks):
    """How many images a node has under permutations of conjugate fields; 0 where another image stands for it."""
    number = 1.0
    for k in range(before.size):
        other = before[k]
        ranks[0, k], ranks[1, k] = 1.0, 1.0
        if other >= 0:
            if place[k] > place[other]:
                return 0.0
            ranks[0, k] += ranks[0, other]
            if place[k] == place[other]:
                ranks[1, k] += ranks[1, other]
        number *= ranks[0, k] / ranks[1, k]
    return number


@jit
def flood(
    origin, root, n, d, delta, phi, u, spread, lines, kind, reach, sizes, centres, walls, seeds, before, rule, most,
    slopes, stop,
):  # fmt: skip
    """Averages of all classes over gamma and alpha.

    Parameters
    ----------
    origin, root : (C,), (C, q) array
        b = origin + root gamma, gamma ~ N(0, 1).
    n, d, delta, spread : (C,) arrays
    phi : (k,) array
        `Nonlinearity.numbers`.
    u, lines : (C, p), (p,) array
        h_c ~ N(u_c alpha, spread_c), alpha ~ N(0, 1) of steps `lines`; no fields h where p = 0.
    kind : (C,) integer array
        Which table of class averages a class reads: those of a kind have the same.
    reach : int
        Half-width of the lattice in gamma, in steps.
    sizes : (3,) integer array
        Half-widths of the tables in b, in the middle of h, and of the lattices of h.
    centres : (kinds, rows, 2) integer array
        Middle of the table in the middle of h (one shared field), and of the lattice of h, for each row of the table in
        b: they follow a ray. Rows of several conjugate fields are interpolated, and have zeros.
    walls : (o, q + 2) array
        Smooth cuts: direction, position and width of each.
    seeds : (k, q + p) array
        Fields from which the flood begins, too, where the weight there is not negligible.
    before : (q,) integer array
        For each conjugate field one before it with which it may be exchanged (and the classes with them), or -1. Of the
        images of a node under these permutations one is visited, with the weight of all; sums are not symmetrised.
    rule : (8,) array
        `average.ReluRule`.
    most : int
        Nodes before the integral is given up.
    slopes : (k, ...) array
        Where k > 0: derivatives of the sums are added to it (`operators.flushed`).
    stop : (1,) integer array
        Set from outside to end at once (`numerics.limits.stop_word`).

    Returns
    -------
    total : (1 + C + C^2 + C + C^2 + C + q C + q^2,) array
        Sums of the weight and, with it, of g_b, g_b g_b^T, g_bb, g_h g_h^T, g_hh, gamma g_b^T, gamma gamma^T.
    log_z : float
        ln of the integral.
    status : int
        0; 1 edge of the lattice met, 2 too many nodes, 3 not a number, 4 edge of a table, 5 grown to more than the
        maximum near the origin by far, 6 stopped.
    counts : (3,) integer array
        Nodes, class averages and columns of the tables that were computed.
    """
    n_classes, q = root.shape
    p = lines.size
    dims = q + max(p - 1, 0)  # of the lattice of lines
    step, shift, cut = rule[0], rule[4], rule[6]
    kinds = 0
    for c in range(n_classes):
        kinds = max(kinds, kind[c] + 1)
    if p == 0:
        kinds = 0
    half_b, half_m, half_h = sizes[0], sizes[1], sizes[2]
    rows, columns, places = 2 * half_b + 1, 2 * half_m + 1, 2 * half_h + 1
    sloped = slopes.shape[0] > 0
    depth = N_OPERATED if sloped else 7
    table = np.empty((max(kinds, 1), columns if p else 1, rows if p else 1, depth))
    known = np.zeros((max(kinds, 1), columns if p else 1, rows if p else 1), dtype=np.bool_)
    sites = np.empty((max(kinds, 1), rows if p else 1, N_SLOPES if sloped else N_SITE, places if p else 1))
    opened = np.zeros((max(kinds, 1), rows if p else 1), dtype=np.bool_)
    # Columns of the tables at one place b of each class, and the place for which they are.
    mixed = np.empty((n_classes, columns if p else 1, depth))
    stamp = np.zeros((n_classes, columns if p else 1), dtype=np.int64)
    unit_b, unit_m = np.ones(n_classes), np.ones(n_classes)
    for c in range(n_classes):
        if p:
            unit_b[c] = 1.0 if q <= 1 else rule[3] * rule[0] * max(math.sqrt((root[c] ** 2).sum()), 1e-300)
            unit_m[c] = rule[3] * rule[1] * math.sqrt(spread[c] + d[c] / n[c])
    stride = np.empty(dims, dtype=np.int64)
    edge = np.empty(dims, dtype=np.int64)
    total_stride, centre = 1, 0
    for k in range(dims - 1, -1, -1):
        edge[k] = reach if k < q else 20 * half_m
        stride[k] = total_stride
        centre += edge[k] * total_stride
        total_stride *= 2 * edge[k] + 1
    longest = 0 if p == 0 else 1 << 40 if p == 1 else 20 * half_m
    # Lines and what is done of each; those to come, of the same conjugate fields and of others.
    keys = np.full(1 << 10, -1, dtype=np.int64)
    low, high = np.zeros(keys.size, dtype=np.int64), np.zeros(keys.size, dtype=np.int64)
    near, far = np.empty(3 * 64, dtype=np.int64), np.empty(3 * 4096, dtype=np.int64)
    base = 1 + 3 * n_classes + 2 * n_classes**2
    total = np.zeros(base + q * n_classes + q * q)
    local, changed = np.zeros(base), np.zeros((N_LOCAL * n_classes if sloped else 0, base))
    field, shared = np.zeros(dims), np.zeros(n_classes)
    place, ranks = np.zeros(dims, dtype=np.int64), np.empty((2, q))
    value, one = np.zeros((n_classes, depth)), np.zeros(N_SLOPES)
    weights_b, b = np.ones((n_classes, _POINTS if q > 1 else 1)), np.zeros(n_classes)
    weights_m, base_b = np.ones(_POINTS if p > 1 else 1), np.zeros(n_classes, dtype=np.int64)
    last = np.full(max(q, 1), 1 << 60, dtype=np.int64)
    # Nodes, averages, columns; the run; and of the last piece of a line its end and what is above the cut.
    counts, ends = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
    outer, run, taken, n_near, n_far, passes = 0.0, 0, 0, 0, 0, 0
    reference, best = math.nan, -math.inf
    # First the way up from the origin, node by node, then a look at the seeds, then the flood.
    climbing, here, at_here, tried, height_here = True, centre, 0, 0, -math.inf
    sown, heights, codes = 0, np.empty(seeds.shape[0]), np.empty((seeds.shape[0], 2), dtype=np.int64)
    while True:
        first, final = 0, 0
        sowing = not climbing and sown < seeds.shape[0]
        if sowing:
            code = 0
            for k in range(q + p):
                steps = round(seeds[sown, k] / (step if k < q else lines[k - q]) - shift)
                if k == dims:  # along the line
                    first = steps
                elif abs(steps) >= edge[k]:
                    return total, math.nan, 1 if k < q else 4, counts
                else:
                    code += (steps + edge[k]) * stride[k]
            codes[sown, 0], codes[sown, 1], final = code, first, first
        elif climbing:
            code, first = here, at_here
            if tried > 2 * dims:
                first += 1 if tried % 2 else -1
            elif tried > 0:
                code += stride[(tried - 1) // 2] if tried % 2 else -stride[(tried - 1) // 2]
            final = first
        elif n_near > 0:
            n_near -= 3
            code, first, final = near[n_near], near[n_near + 1], near[n_near + 2]
        elif n_far > 0:
            n_far -= 3
            code, first, final = far[n_far], far[n_far + 1], far[n_far + 2]
        else:
            break
        slot, new = 0, True
        if not climbing and not sowing:
            slot = _slot(keys, code)
            new = keys[slot] < 0
            if not new and low[slot] <= first and final <= high[slot]:
                continue
        passes += 1
        if counts[0] > most:
            return total, math.nan, 2, counts
        if passes & 15 == 0 and stop[0] != 0:
            return total, math.nan, 6, counts
        rest, moved = code, run == 0
        for k in range(dims):
            place[k] = rest // stride[k] - edge[k]
            rest = rest % stride[k]
        images = _images(place, before, ranks)
        if images == 0.0 and not climbing:
            continue
        for k in range(dims):
            field[k] = (place[k] + shift) * (step if k < q else lines[k - q])
            if k < q and place[k] != last[k]:
                last[k], moved = place[k], True
        if moved:
            run += 1
            outer = _outer(field, q, walls) + math.log(images) if images > 0.0 else -math.inf
            for c in range(n_classes):
                b[c] = origin[c]
                for k in range(q):
                    b[c] += root[c, k] * field[k]
                if p == 0:
                    value[c, 0], value[c, 1], value[c, 3], value[c, 4], value[c, 6] = site(
                        b[c], 0.0, d[c], delta[c], phi
                    )
                    value[c, 0] *= n[c]
                    if sloped:
                        site_slopes(b[c], 0.0, d[c], delta[c], phi, one)
                        value[c, 7:] = 0.0
                        operated(one, 1.0, 0.0, 0.0, 0.0, n[c], d[c], value[c])
                    value[c, 2], value[c, 5] = value[c, 1] ** 2, value[c, 4] ** 2
                elif q <= 1:
                    base_b[c] = (place[0] if q else 0) + half_b
                else:
                    steps = (b[c] - origin[c]) / unit_b[c]
                    whole = math.floor(steps)
                    base_b[c] = int(whole) + half_b - (_POINTS // 2 - 1)
                    interpolation(steps - whole, weights_b[c])
                if p and (base_b[c] < 0 or base_b[c] + weights_b.shape[1] > rows):
                    return total, math.nan, 1, counts
        start = outer
        for k in range(q, dims):
            start -= 0.5 * field[k] ** 2
        for c in range(n_classes):
            shared[c] = 0.0
            for k in range(q, dims):
                shared[c] += u[c, k - q] * field[k]
        if climbing or sowing:
            ends[0], ends[1], ends[2] = first, 1 << 60, -(1 << 60)
            height = start
            if start > -math.inf:
                height, status = along_line(
                    first, 1, final, -math.inf, -1.0, math.nan, start, run, origin, b, base_b, weights_b, shared, u,
                    spread, n, d, delta, phi, lines, kind, unit_b, unit_m, half_b, half_m, longest, centres, rule,
                    table, known, sites, opened, mixed, stamp, weights_m, value, local, changed, counts, ends,
                )  # fmt: skip
                if status != 0:
                    return total, math.nan, status, counts
            if sowing:
                heights[sown] = height
                best = max(best, height)
                sown += 1
                if sown == seeds.shape[0]:
                    if best > reference + _GROWN:
                        return total, math.nan, 5, counts
                    for i in range(sown):
                        if heights[i] > best - cut:
                            if n_far + 3 > far.size:
                                far = _twice(far)
                            far[n_far], far[n_far + 1], far[n_far + 2] = codes[i, 0], codes[i, 1], codes[i, 1]
                            n_far += 3
                continue
            if tried == 0 or height > height_here:
                height_here, here, at_here, tried = height, code, first, 0
                for k in range(dims):
                    if abs(place[k]) >= edge[k]:
                        return total, math.nan, 1 if p == 0 else 4, counts
                if abs(first) >= longest > 0:
                    return total, math.nan, 4, counts
            tried += 1
            if tried > 2 * (dims + (1 if p else 0)):
                climbing, best, reference = False, height_here, height_here
                far[0], far[1], far[2], n_far = here, at_here, at_here, 3
            continue
        if new:
            keys[slot], low[slot], high[slot] = code, first, first - 1
            taken += 1
        # Upwards from the first or behind what is done, then downwards; each on while it is above the cut.
        lowest, highest = 1 << 60, -(1 << 60)
        if start > -math.inf:
            local[:] = 0.0
            changed[:] = 0.0
            for sign in (1, -1):
                if sign == 1 and (new or final > high[slot]):
                    begin, least = high[slot] + 1, final
                elif sign == -1 and (new or first < low[slot]):
                    begin, least = low[slot] - 1, min(first, low[slot])
                else:
                    continue
                ends[0], ends[1], ends[2] = begin - sign, 1 << 60, -(1 << 60)
                best, status = along_line(
                    begin, sign, least, best, cut, reference, start, run, origin, b, base_b, weights_b, shared, u,
                    spread, n, d, delta, phi, lines, kind, unit_b, unit_m, half_b, half_m, longest, centres, rule,
                    table, known, sites, opened, mixed, stamp, weights_m, value, local, changed, counts, ends,
                )  # fmt: skip
                if status != 0:
                    return total, math.nan, status, counts
                if best > reference + _GROWN:
                    return total, math.nan, 5, counts
                if sign == 1:
                    high[slot] = ends[0]
                else:
                    low[slot] = ends[0]
                lowest, highest = min(lowest, ends[1]), max(highest, ends[2])
        else:
            low[slot], high[slot] = min(low[slot], first), max(high[slot], final)
        if lowest > highest:
            continue
        flushed(total, slopes, local, changed, field, q, p)
        for k in range(dims):
            for sign in (-1, 1):
                if abs(place[k] + sign) > edge[k]:
                    return total, math.nan, 4 if k >= q else 1, counts
                neighbour = code + sign * stride[k]
                slot = _slot(keys, neighbour)
                if keys[slot] >= 0 and low[slot] <= lowest and highest <= high[slot]:
                    continue
                if k >= q:
                    if n_near + 3 > near.size:
                        near = _twice(near)
                    near[n_near], near[n_near + 1], near[n_near + 2] = neighbour, lowest, highest
                    n_near += 3
                else:
                    if n_far + 3 > far.size:
                        far = _twice(far)
                    far[n_far], far[n_far + 1], far[n_far + 2] = neighbour, lowest, highest
                    n_far += 3
        if 2 * taken > keys.size:
            old, old_low, old_high = keys, low, high
            keys = np.full(2 * old.size, -1, dtype=np.int64)
            low, high = np.zeros(keys.size, dtype=np.int64), np.zeros(keys.size, dtype=np.int64)
            for i in range(old.size):
                if old[i] >= 0:
                    slot = _slot(keys, old[i])
                    keys[slot], low[slot], high[slot] = old[i], old_low[i], old_high[i]
    log_z = reference + math.log(total[0]) + q * (math.log(step) - _LOG_SQRT_2PI)
    for j in range(p):
        log_z += math.log(lines[j]) - _LOG_SQRT_2PI
    return total, log_z, 0, counts
