"""The average over the fields of a neuron: a lattice in the conjugate fields, a line in the shared field.

The weight is a positive mixture of unit Gaussians in the whitened conjugate fields and, given them, of Gaussians of
precision 1 + sum u^2 / D in the shared field: the error of both lattices is that of Poisson summation, in the bulk and
in its long tails along the outliers alike. Nodes are found by flooding from the origin.
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.copies import copy_vector
from meanfield.numerics.jit import jit
from meanfield.theories.deep.relu.compiled.site import class_average

__all__ = ["flood"]

_POINTS = 10  # of the interpolation in b
_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


@jit
def _fetch(table, i, j, alpha, b, n, d, delta, u, spread, rule, out):
    """Entry (i, j) of a table of class averages, computed when it is first asked for."""
    if math.isnan(table[i, j, 0]):
        class_average(b, u * alpha, spread, n, d, delta, rule[1], rule[4], rule[5], out)
        for k in range(7):
            table[i, j, k] = out[k]


@jit
def flood(origin, root, n, d, delta, u, spread, kind, tables, reach, walls, rule, most):
    """Averages of all classes over gamma (lattice) and alpha (line).

    Parameters
    ----------
    origin, root : (C,), (C, q) array
        b = origin + root gamma, gamma ~ N(0, 1).
    n, d, delta, u, spread : (C,) arrays
        h_c ~ N(u_c alpha, spread_c), alpha ~ N(0, 1); no fields h if all of u and spread vanish.
    kind : (C,) integer array
        Which of the tables a class reads; -1: none, its averages are computed where they are needed.
    tables : (kinds, n_b, n_alpha, 7) array of NaN
    reach : int
        Half-width of the lattice, in steps.
    walls : (o, q + 2) array
        Smooth cuts: direction, position and width of each.
    rule : (7,) array
        Steps (gamma, h, alpha), steps per table entry, shift of the lattices, depth of the inner and of the outer cut.
    most : int
        Nodes before the integral is given up.

    Returns
    -------
    total : (1 + C + C^2 + C + C^2 + C + q C + q^2,) array
        Sums of the weight and, with it, of g_b, g_b g_b^T, g_bb, g_h g_h^T, g_hh, gamma g_b^T, gamma gamma^T.
    log_z : float
        ln of the integral.
    status : int
        0; 1 edge of the lattice met, 2 too many nodes, 3 not a number.
    nodes : int
    """
    n_classes, q = root.shape
    shared = False
    precision = 1.0
    for c in range(n_classes):
        if spread[c] > 0.0:
            shared = True
            precision += u[c] ** 2 / spread[c]
    step, shift, cut = rule[0], rule[4], rule[6]
    line = rule[2] / math.sqrt(precision) if shared else 1.0
    width = 2 * reach + 1
    seen = np.zeros(width**q, dtype=np.bool_)
    stack = np.empty(4096, dtype=np.int64)
    modes = np.empty(4096, dtype=np.int64)
    centre = 0
    for _ in range(q):
        centre = centre * width + reach
    stack[0], modes[0], held = centre, 0, 1
    seen[centre] = True
    size = 1 + 3 * n_classes + 2 * n_classes**2 + q * n_classes + q * q
    total = np.zeros(size)
    node = np.zeros(size)
    gamma = np.zeros(q)
    place = np.zeros(q, dtype=np.int64)
    b = np.zeros(n_classes)
    value = np.zeros((n_classes, 7))
    out = np.zeros(7)
    base = np.zeros(n_classes, dtype=np.int64)
    exact = np.zeros(n_classes, dtype=np.bool_)
    lagrange = np.zeros((n_classes, _POINTS))
    half_b = tables.shape[1] // 2
    half_alpha = tables.shape[2] // 2
    reference, best, status, count = math.nan, -math.inf, 0, 0
    while held > 0:
        held -= 1
        code, mode = stack[held], modes[held]
        count += 1
        if count > most:
            return total, math.nan, 2, count
        rest = code
        for k in range(q - 1, -1, -1):
            place[k] = rest % width - reach
            rest //= width
            gamma[k] = (place[k] + shift) * step
        outer = 0.0
        for k in range(q):
            outer -= 0.5 * gamma[k] ** 2
        for o in range(walls.shape[0]):
            along = -walls[o, q]
            for k in range(q):
                along += walls[o, k] * gamma[k]
            along /= walls[o, q + 1] * math.sqrt(2.0)
            outer += math.log(0.5 * math.erfc(along)) if along < 20.0 else -math.inf
        if outer == -math.inf:
            continue
        for c in range(n_classes):
            b[c] = origin[c]
            for k in range(q):
                b[c] += root[c, k] * gamma[k]
            if kind[c] >= 0:
                unit = rule[3] * rule[0] * math.sqrt((root[c] ** 2).sum())
                x = b[c] / unit
                whole = math.floor(x)
                part = x - whole
                base[c] = int(whole) + half_b - (_POINTS // 2 - 1)
                if base[c] < 0 or base[c] + _POINTS > tables.shape[1]:
                    return total, math.nan, 1, count
                exact[c] = False
                for i in range(_POINTS):
                    product = 1.0
                    for l in range(_POINTS):
                        if l != i:
                            product *= (part + (_POINTS // 2 - 1) - l) / (i - l)
                    lagrange[c, i] = product
        # The line in alpha: climb to its maximum, then both sides down to the cut.
        node[:] = 0.0
        top, start, phase, j, direction = -math.inf, mode, 0, mode, 1
        log_node = -math.inf
        while True:
            alpha = (j + shift) * line if shared else 0.0
            height = outer - 0.5 * alpha * alpha if shared else outer
            for c in range(n_classes):
                if kind[c] < 0:
                    class_average(
                        b[c], u[c] * alpha, spread[c], n[c], d[c], delta[c], rule[1], shift, rule[5], value[c]
                    )
                else:
                    column = j + half_alpha
                    if column < 0 or column >= tables.shape[2]:
                        return total, math.nan, 1, count
                    unit = rule[3] * rule[0] * math.sqrt((root[c] ** 2).sum())
                    for k in range(7):
                        value[c, k] = 0.0
                    table = tables[kind[c]]
                    for i in range(_POINTS):
                        row = base[c] + i
                        _fetch(
                            table, row, column, alpha, (row - half_b) * unit, n[c], d[c], delta[c], u[c], spread[c],
                            rule, out,
                        )  # fmt: skip
                        for k in range(7):
                            value[c, k] += lagrange[c, i] * table[row, column, k]
                height += value[c, 0]
            if math.isnan(height):
                return total, math.nan, 3, count
            if phase == 0:  # climbing
                if height > top:
                    top, start = height, j
                    if shared:
                        j += direction
                        continue
                elif direction == 1 and start == mode:
                    direction, j = -1, mode - 1
                    continue
                phase, direction, j = 1, 1, start
                if shared:
                    continue
            if math.isnan(reference):
                reference = top
            weight = math.exp(height - reference)
            keep = height > max(best, top) - cut - 4.0
            if keep:
                node[0] += weight
                at = 1
                for c in range(n_classes):
                    node[at + c] += weight * value[c, 1]
                at += n_classes
                for c in range(n_classes):
                    for e in range(n_classes):
                        both = value[c, 2] if c == e else value[c, 1] * value[e, 1]
                        node[at + c * n_classes + e] += weight * both
                at += n_classes**2
                for c in range(n_classes):
                    node[at + c] += weight * value[c, 3]
                at += n_classes
                for c in range(n_classes):
                    for e in range(n_classes):
                        both = value[c, 5] if c == e else value[c, 4] * value[e, 4]
                        node[at + c * n_classes + e] += weight * both
                at += n_classes**2
                for c in range(n_classes):
                    node[at + c] += weight * value[c, 6]
            if not shared:
                break
            if keep:
                j += direction
            elif direction == 1:
                direction, j = -1, start - 1
            else:
                break
        if node[0] > 0.0:
            log_node = reference + math.log(node[0])
        if log_node > best:
            best = log_node
        at = 1 + 3 * n_classes + 2 * n_classes**2
        for k in range(q):
            for c in range(n_classes):
                node[at + k * n_classes + c] = gamma[k] * node[1 + c]
        at += q * n_classes
        for k in range(q):
            for l in range(q):
                node[at + k * q + l] = gamma[k] * gamma[l] * node[0]
        total += node
        if log_node < best - cut:
            continue
        stride = 1
        for k in range(q - 1, -1, -1):
            for sign in (-1, 1):
                if abs(place[k] + sign) > reach:
                    status = 1
                    continue
                neighbour = code + sign * stride
                if not seen[neighbour]:
                    seen[neighbour] = True
                    if held == stack.size:
                        grown = np.empty(2 * held, dtype=np.int64)
                        copy_vector(grown, stack)
                        stack = grown
                        wider = np.empty(2 * held, dtype=np.int64)
                        copy_vector(wider, modes)
                        modes = wider
                    stack[held], modes[held] = neighbour, start
                    held += 1
            stride *= width
    log_z = reference + math.log(total[0]) + q * (math.log(step) - _LOG_SQRT_2PI)
    if shared:
        log_z += math.log(line) - _LOG_SQRT_2PI
    return total, log_z, status, count
