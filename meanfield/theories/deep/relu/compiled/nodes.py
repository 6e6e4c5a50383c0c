"""Nodes of one line of the lattice, along the last field that the classes share: what they add to the averages.

A line has one place b for each class. There the table of class averages is interpolated once for each column, whatever
the number of nodes and of lines that read it.
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.jit import jit
from meanfield.theories.deep.relu.compiled.lines import class_average
from meanfield.theories.deep.relu.compiled.operators import averaged, changes

__all__ = ["along_line", "interpolation"]

_POINTS = 10  # of an interpolation
_OVER = np.array([(-1.0) ** (9 - i) / (math.factorial(i) * math.factorial(9 - i)) for i in range(_POINTS)])


@jit
def interpolation(part, out):
    """Weights of the nodes 0 ... 9 at 4 + part; of one node: 1."""
    if out.size == 1:
        out[0] = 1.0
        return
    # Products of the distances to all nodes before and behind, over (-1)^(points - 1 - i) i! (points - 1 - i)!.
    at = part + (_POINTS // 2 - 1)
    product = 1.0
    for i in range(_POINTS):
        out[i] = product * _OVER[i]
        product *= at - i
    product = 1.0
    for i in range(_POINTS - 1, -1, -1):
        out[i] *= product
        product *= at - i


@jit
def _mixed_seven(weights, rows, first, out):
    """Weighted sum of rows of seven numbers, from `first` on."""
    t0, t1, t2, t3, t4, t5, t6 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(weights.size):
        weight, row = weights[i], first + i
        t0 += weight * rows[row, 0]
        t1 += weight * rows[row, 1]
        t2 += weight * rows[row, 2]
        t3 += weight * rows[row, 3]
        t4 += weight * rows[row, 4]
        t5 += weight * rows[row, 5]
        t6 += weight * rows[row, 6]
    out[0], out[1], out[2], out[3], out[4], out[5], out[6] = t0, t1, t2, t3, t4, t5, t6


@jit
def _cell(own, column, row, centre, at, middle, spread, n, d, delta, phi, rule, table, sites, opened):
    """One entry of the table of a class; False at the edge of its lattice of h."""
    if not opened[own, row]:
        opened[own, row] = True
        for k in range(sites.shape[3]):
            sites[own, row, 0, k] = math.nan
    return class_average(
        sites[own, row],
        centre,
        at,
        middle,
        spread,
        n,
        d,
        delta,
        phi,
        rule[1],
        rule[4],
        rule[5],
        table[own, column, row],
    )


@jit
def along_line(
    index, sign, least, best, cut, reference, start, run, origin, b, base_b, weights_b, shared, u, spread, n, d, delta,
    phi, lines, kind, unit_b, unit_m, half_b, half_m, longest, centres, rule, table, known, sites, opened, mixed, stamp,
    weights_m, value, local, changed, counts, ends,
):  # fmt: skip
    """Nodes from `index` in steps of `sign` to `least`, and on while their weight is above the cut; `start` is ln of
    the weight of all of them.

    What they add goes to `local` and `changed` (`operators.changes`); with cut < 0 only the first is looked at. The
    last node goes to ends[0], the lowest and highest above the cut to the rest, as far as they are beyond.

    Returns
    -------
    best : float
        ln of the largest weight so far.
    status : int
        That of `flood`.
    """
    n_classes, p = u.shape
    columns = mixed.shape[1]
    depth, points, across = value.shape[1], weights_b.shape[1], _POINTS if p > 1 else 1
    while True:
        if abs(index) > longest:
            if p == 0:  # there is one node
                return best, 0
            return best, 4
        alpha, height = 0.0, start
        if p:
            alpha = (index + rule[4]) * lines[p - 1]
            height -= 0.5 * alpha * alpha
        for c in range(n_classes):
            if p:
                own = kind[c]
                middle, first = shared[c] + u[c, p - 1] * alpha, index + half_m
                if p == 1:
                    first -= centres[own, base_b[c], 0]
                    if first < 0 or first >= columns:
                        return best, 4
                else:
                    whole = math.floor(middle / unit_m[c])
                    first = int(whole) + half_m - (_POINTS // 2 - 1)
                    if first < 0 or first + _POINTS > columns:
                        return best, 4
                    interpolation(middle / unit_m[c] - whole, weights_m)
                for j in range(across):
                    column = first + j
                    if stamp[c, column] == run:
                        continue
                    for i in range(points):
                        row = base_b[c] + i
                        if not known[own, column, row]:
                            at = b[c] if points == 1 else origin[c] + (row - half_b) * unit_b[c]
                            centre = centres[own, row, 1]
                            if not _cell(
                                own, column, row, centre, at, middle if p == 1 else (column - half_m) * unit_m[c],
                                spread[c], n[c], d[c], delta[c], phi, rule, table, sites, opened,
                            ):  # fmt: skip
                                return best, 4
                            known[own, column, row] = True
                            counts[1] += 1
                    if depth == 7:
                        _mixed_seven(weights_b[c], table[own, column], base_b[c], mixed[c, column])
                    else:  # along the last axis, which is the longer here
                        for k in range(depth):
                            mixed[c, column, k] = 0.0
                        for i in range(points):
                            weight = weights_b[c, i]
                            for k in range(depth):
                                mixed[c, column, k] += weight * table[own, column, base_b[c] + i, k]
                    stamp[c, column] = run
                    counts[2] += 1
                if depth == 7:
                    _mixed_seven(weights_m, mixed[c], first, value[c])
                else:
                    for k in range(depth):
                        value[c, k] = 0.0
                    for j in range(across):
                        weight = weights_m[j]
                        for k in range(depth):
                            value[c, k] += weight * mixed[c, first + j, k]
            height += value[c, 0]
        counts[0] += 1
        if math.isnan(height):
            return best, 3
        if cut < 0.0:
            return height, 0
        best = max(best, height)
        if height > best - cut:
            ends[1], ends[2] = min(ends[1], index), max(ends[2], index)
            weight = math.exp(height - reference)
            averaged(local, weight, value)
            if changed.shape[0]:
                changes(changed, weight, value, alpha, p)
        elif sign * (index - least) >= 0:
            ends[0] = index
            return best, 0
        ends[0] = index
        index += sign
        if p == 0:
            return best, 0
