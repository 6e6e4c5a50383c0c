"""The average over the fields of a neuron: one lattice in the conjugate fields and in what the classes' fields share.

The weight is a positive mixture of unit Gaussians in the whitened conjugate fields and, given them, of Gaussians of
precision 1 + U^T (D + d / n)^-1 U in the shared fields: the error of the lattice is that of Poisson summation, in the
bulk and in its long tails along the outliers alike. Nodes are found by flooding from the highest near the origin.
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.copies import copy_vector
from meanfield.numerics.hash_set import enter
from meanfield.numerics.jit import jit
from meanfield.theories.deep.relu.compiled.lines import class_average
from meanfield.theories.deep.relu.compiled.operators import N_OPERATED, changes, operated
from meanfield.theories.deep.relu.compiled.site import N_SITE, N_SLOPES, site, site_slopes

__all__ = ["flood"]

_POINTS = 10  # of an interpolation
_GROWN = 60.0  # ln of what an integral that has an end never has
_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


@jit
def _lagrange(part, points, out):
    """Weights of the nodes 0 ... points - 1 at points // 2 - 1 + part; of one node: 1."""
    if points == 1:
        out[0] = 1.0
        return
    for i in range(points):
        product = 1.0
        for l in range(points):
            if l != i:
                product *= (part + (points // 2 - 1) - l) / (i - l)
        out[i] = product


@jit
def _twice(values):
    grown = np.empty(2 * values.size, dtype=np.int64)
    copy_vector(grown, values)
    return grown


@jit
def flood(origin, root, n, d, delta, phi, u, spread, lines, kind, reach, sizes, walls, seeds, rule, most, slopes, stop):
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
    walls : (o, q + 2) array
        Smooth cuts: direction, position and width of each.
    seeds : (k, q + p) array
        Fields from which the flood begins, too, where the weight there is not negligible.
    rule : (8,) array
        `average.ReluRule`.
    most : int
        Nodes before the integral is given up.
    slopes : (k, ...) array
        Where k > 0: derivatives of the sums are added to it (`operators.changes`).
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
    nodes : int
    """
    n_classes, q = root.shape
    p = lines.size
    dims = q + p
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
    table = np.empty((max(kinds, 1), rows if p else 1, columns if p else 1, depth))
    known = np.zeros((max(kinds, 1), rows if p else 1, columns if p else 1), dtype=np.bool_)
    sites = np.empty((max(kinds, 1), rows if p else 1, N_SLOPES if sloped else N_SITE, places if p else 1))
    opened = np.zeros((max(kinds, 1), rows if p else 1), dtype=np.bool_)
    points_b, points_m = 1 if q <= 1 else _POINTS, 1 if p <= 1 else _POINTS
    unit_b, unit_m = np.ones(n_classes), np.ones(n_classes)
    for c in range(n_classes):
        if p:
            unit_b[c] = 1.0 if q <= 1 else rule[3] * rule[0] * max(math.sqrt((root[c] ** 2).sum()), 1e-300)
            unit_m[c] = rule[3] * rule[1] * math.sqrt(spread[c] + d[c] / n[c])
    width = np.empty(dims, dtype=np.int64)
    stride = np.empty(dims, dtype=np.int64)
    edge = np.empty(dims, dtype=np.int64)
    total_stride, centre = 1, 0
    for k in range(dims - 1, -1, -1):
        edge[k] = reach if k < q else half_m if p == 1 else 20 * half_m
        width[k] = 2 * edge[k] + 1
        stride[k] = total_stride
        centre += edge[k] * total_stride
        total_stride *= width[k]
    keys = np.full(1 << 12, -1, dtype=np.int64)
    stack = np.empty(4096, dtype=np.int64)
    size = 1 + 3 * n_classes + 2 * n_classes**2 + q * n_classes + q * q
    total = np.zeros(size)
    field = np.zeros(dims)
    place = np.zeros(dims, dtype=np.int64)
    value, one = np.zeros((n_classes, depth)), np.zeros(N_SLOPES)
    weights_b, weights_m = np.zeros((n_classes, _POINTS)), np.zeros(_POINTS)
    base_b = np.zeros(n_classes, dtype=np.int64)
    last = np.full(max(q, 1), 1 << 60, dtype=np.int64)
    outer = 0.0
    reference, best, status, count, taken, held = math.nan, -math.inf, 0, 0, 0, 0
    # First the way up from the origin, then a look at the seeds, then the flood.
    climbing, here, tried, height_here = True, centre, 0, -math.inf
    sown, heights, codes = 0, np.empty(seeds.shape[0]), np.empty(seeds.shape[0], dtype=np.int64)
    while True:
        sowing = not climbing and sown < seeds.shape[0]
        if sowing:
            code = 0
            for k in range(dims):
                steps = round(seeds[sown, k] / (step if k < q else lines[k - q]) - shift)
                if abs(steps) >= edge[k]:
                    return total, math.nan, 1 if k < q else 4, count
                code += (steps + edge[k]) * stride[k]
            codes[sown] = code
        elif climbing:
            if tried == 0:
                code = here
            else:
                code = here + (stride[(tried - 1) // 2] if tried % 2 else -stride[(tried - 1) // 2])
        else:
            if held == 0:
                break
            held -= 1
            code = stack[held]
        count += 1
        if count > most:
            return total, math.nan, 2, count
        if count & 127 == 0 and stop[0] != 0:
            return total, math.nan, 6, count
        rest, moved = code, False
        for k in range(dims):
            place[k] = rest // stride[k] - edge[k]
            rest = rest % stride[k]
            field[k] = (place[k] + shift) * (step if k < q else lines[k - q])
            if k < q and place[k] != last[k]:
                last[k], moved = place[k], True
        if q == 0 and count == 1:
            moved = True
        if moved:
            outer = 0.0
            for k in range(q):
                outer -= 0.5 * field[k] ** 2
            for o in range(walls.shape[0]):
                along = -walls[o, q]
                for k in range(q):
                    along += walls[o, k] * field[k]
                along /= walls[o, q + 1] * math.sqrt(2.0)
                outer += math.log(0.5 * math.erfc(along)) if along < 20.0 else -math.inf
            for c in range(n_classes):
                b = origin[c]
                for k in range(q):
                    b += root[c, k] * field[k]
                if p == 0:
                    value[c, 0], value[c, 1], value[c, 3], value[c, 4], value[c, 6] = site(b, 0.0, d[c], delta[c], phi)
                    value[c, 0] *= n[c]
                    if sloped:
                        site_slopes(b, 0.0, d[c], delta[c], phi, one)
                        value[c, 7:] = 0.0
                        operated(one, 1.0, 0.0, 0.0, 0.0, n[c], d[c], value[c])
                    value[c, 2], value[c, 5] = value[c, 1] ** 2, value[c, 4] ** 2
                elif q <= 1:
                    base_b[c] = (place[0] if q else 0) + half_b
                    weights_b[c, 0] = 1.0
                else:
                    steps = (b - origin[c]) / unit_b[c]
                    whole = math.floor(steps)
                    base_b[c] = int(whole) + half_b - (_POINTS // 2 - 1)
                    _lagrange(steps - whole, _POINTS, weights_b[c])
        height = outer
        for k in range(q, dims):
            height -= 0.5 * field[k] ** 2
        if height > -math.inf:
            for c in range(n_classes):
                if p:
                    middle = 0.0
                    for j in range(p):
                        middle += u[c, j] * field[q + j]
                    if p == 1:
                        base_m = place[q] + half_m
                        weights_m[0] = 1.0
                    else:
                        whole = math.floor(middle / unit_m[c])
                        base_m = int(whole) + half_m - (_POINTS // 2 - 1)
                        _lagrange(middle / unit_m[c] - whole, _POINTS, weights_m)
                    if base_b[c] < 0 or base_b[c] + points_b > rows:
                        return total, math.nan, 1, count
                    if base_m < 0 or base_m + points_m > columns:
                        return total, math.nan, 4, count
                    for k in range(depth):
                        value[c, k] = 0.0
                    for i in range(points_b):
                        row = base_b[c] + i
                        for j in range(points_m):
                            column = base_m + j
                            if not known[kind[c], row, column]:
                                if q <= 1:
                                    b = origin[c] + (root[c, 0] * field[0] if q else 0.0)
                                else:
                                    b = origin[c] + (row - half_b) * unit_b[c]
                                if not opened[kind[c], row]:
                                    opened[kind[c], row] = True
                                    for k in range(places):
                                        sites[kind[c], row, 0, k] = math.nan
                                at = middle if p == 1 else (column - half_m) * unit_m[c]
                                if not class_average(
                                    sites[kind[c], row], b, at, spread[c], n[c], d[c], delta[c], phi, rule[1],
                                    shift, rule[5], table[kind[c], row, column],
                                ):  # fmt: skip
                                    return total, math.nan, 4, count
                                known[kind[c], row, column] = True
                            weight = weights_b[c, i] * weights_m[j]
                            for k in range(depth):
                                value[c, k] += weight * table[kind[c], row, column, k]
                height += value[c, 0]
        if math.isnan(height):
            return total, math.nan, 3, count
        if climbing:
            if tried == 0 or height > height_here:
                if height > height_here:
                    height_here, here = height, code
                tried = 1
                if dims == 0:
                    tried = 2 * dims + 1
            else:
                tried += 1
            inside = True
            for k in range(dims):
                inside = inside and abs(here // stride[k] % width[k] - edge[k]) < edge[k]
            if not inside:
                return total, math.nan, 1 if p == 0 else 4, count
            if tried > 2 * dims:
                climbing, best, reference = False, height_here, height_here
                stack[0], held, taken = here, 1, 1
                enter(keys, here)
            continue
        if sowing:
            heights[sown] = height
            best = max(best, height)
            sown += 1
            if sown == seeds.shape[0]:
                for i in range(sown):
                    if heights[i] > best - cut and enter(keys, codes[i]):
                        stack[held] = codes[i]
                        held += 1
                        taken += 1
                if best > reference + _GROWN:
                    return total, math.nan, 5, count
            continue
        if height > best:
            best = height
            if best > reference + _GROWN:
                return total, math.nan, 5, count
        if not height > best - cut:
            continue
        weight = math.exp(height - reference)
        if sloped:
            changes(slopes, weight, value, field, q)
        total[0] += weight
        at = 1
        for c in range(n_classes):
            total[at + c] += weight * value[c, 1]
        at += n_classes
        for c in range(n_classes):
            for e in range(n_classes):
                total[at] += weight * (value[c, 2] if c == e else value[c, 1] * value[e, 1])
                at += 1
        for c in range(n_classes):
            total[at + c] += weight * value[c, 3]
        at += n_classes
        for c in range(n_classes):
            for e in range(n_classes):
                total[at] += weight * (value[c, 5] if c == e else value[c, 4] * value[e, 4])
                at += 1
        for c in range(n_classes):
            total[at + c] += weight * value[c, 6]
        at += n_classes
        for k in range(q):
            for c in range(n_classes):
                total[at] += weight * field[k] * value[c, 1]
                at += 1
        for k in range(q):
            for l in range(q):
                total[at] += weight * field[k] * field[l]
                at += 1
        for k in range(dims):
            for sign in (-1, 1):
                if abs(place[k] + sign) > edge[k]:
                    if k >= q:
                        return total, math.nan, 4, count
                    status = 1
                    continue
                neighbour = code + sign * stride[k]
                if enter(keys, neighbour):
                    taken += 1
                    if 2 * taken > keys.size:
                        old = keys
                        keys = np.full(2 * old.size, -1, dtype=np.int64)
                        for i in range(old.size):
                            if old[i] >= 0:
                                enter(keys, old[i])
                    if held == stack.size:
                        stack = _twice(stack)
                    stack[held] = neighbour
                    held += 1
    log_z = reference + math.log(total[0]) + q * (math.log(step) - _LOG_SQRT_2PI)
    for j in range(p):
        log_z += math.log(lines[j]) - _LOG_SQRT_2PI
    return total, log_z, status, count
