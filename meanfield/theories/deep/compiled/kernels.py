"""Sums over the fields of one layer: over h given the shared field, and over lattice nodes of the conjugate field.

A class is tabulated at rows (values of b, equally spaced) and columns (values of the shared field alpha): ln of its
weight and means of its class functions, which at nodes of the lattice are interpolated between rows.
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.jit import jit

__all__ = [
    "POINTS", "accumulate", "accumulate_plane", "add_log", "contract", "field_law", "lagrange", "log_sum",
    "plane_terms", "prior_terms", "reach", "table_lines",
]  # fmt: skip

POINTS = 10  # of the interpolation between equally spaced rows
_NEGLIGIBLE, _NO_SHARE = 42.0, 1e-14  # nats; part of a node
_STRIDE, _FAR = 8, 90.0
_TOGETHER, _SPAN = 8, 16.0  # columns that share exponentials, at most, and how far apart they may be in steps of h
_STEEP = 250.0  # nats between their maxima


@jit
def _range(base, h, centre, half, first, last):
    """Of h[first:last]: where base - half (h - centre)^2 is not negligible, from and to, and its maximum.

    It is smooth on the scale of the lattice: blocks whose ends are far below the top are left out.
    """
    rough = -np.inf
    for k in range(first, last, _STRIDE):
        rough = max(rough, base[k] - half * (h[k] - centre) ** 2)
    low, high, top = last, first, -np.inf
    for start in range(first, last, _STRIDE):
        stop = min(start + _STRIDE, last)
        one, two = base[start] - half * (h[start] - centre) ** 2, base[stop - 1] - half * (h[stop - 1] - centre) ** 2
        if max(one, two) < rough - _FAR:
            continue
        low, high = min(low, start), stop
        for k in range(start, stop):
            top = max(top, base[k] - half * (h[k] - centre) ** 2)
    while base[low] - half * (h[low] - centre) ** 2 <= top - _NEGLIGIBLE:
        low += 1
    while base[high - 1] - half * (h[high - 1] - centre) ** 2 <= top - _NEGLIGIBLE:
        high -= 1
    return low, high, top


@jit
def contract(g, n, log_prior, h, centre, precision, first, last, begin, end, parts, log_v, place, means):
    """Over h: ln sum exp(n g + log_prior - precision (h - centre)^2 / 2) in log_v (rows, alpha), and means of parts
    (rows, h, k) under it in means[place[row] + alpha].

    Of column j only h[first[j]:last[j]] take part; g is (rows, h), centre (alpha,). Row i has its columns from begin[i]
    to end[i] filled. From one column to the next weights change by a factor that is geometric in h, whose lattice is
    uniform: a few columns take one exponential for every h.
    """
    n_row, n_h = g.shape
    n_part, half = parts.shape[2], 0.5 * precision
    step = h[1] - h[0] if precision > 0.0 and n_h > 1 else 0.0
    base, weight, ratio = np.empty(n_h), np.empty(n_h), np.empty(n_h)
    for i in range(n_row):
        for k in range(n_h):
            base[k] = n * g[i, k] + log_prior[k]
        j = begin[i]
        while j < end[i]:
            many = 1
            if step > 0.0:
                while many < _TOGETHER and j + many < end[i] and abs(centre[j + many] - centre[j]) <= _SPAN * step:
                    many += 1
            low, high, top = _range(base, h, centre[j], half, first[j], last[j])
            if many > 1:
                tail = j + many - 1
                other = _range(base, h, centre[tail], half, first[tail], last[tail])
                low, high = min(low, other[0]), max(high, other[1])
                if max(other[2] - top, top - other[2]) > _STEEP:
                    many = 1  # weights would leave the range of numbers
            for k in range(low, high):
                weight[k] = math.exp(base[k] - half * (h[k] - centre[j]) ** 2 - top)
            middle, shift = h[(low + high) // 2], np.inf
            for m in range(many):
                column = j + m
                total = 0.0
                for k in range(low, high):
                    total += weight[k]
                log_v[i, column] = top + math.log(total)
                if n_part > 0:
                    row = means[place[i] + column]
                    row[:] = 0.0
                    least = 1e-19 * total
                    for k in range(low, high):
                        if weight[k] > least:
                            w = weight[k] / total
                            for p in range(n_part):
                                row[p] += w * parts[i, k, p]
                if m + 1 < many:
                    further = centre[column + 1] - centre[column]
                    if not abs(further - shift) <= 1e-12 * abs(further):
                        shift, factor = further, math.exp(2.0 * half * further * step)
                        ratio[low] = math.exp(2.0 * half * shift * (h[low] - middle))
                        for k in range(low + 1, high):
                            ratio[k] = ratio[k - 1] * factor
                    for k in range(low, high):
                        weight[k] *= ratio[k]
                    top += half * shift * (2.0 * middle - centre[column] - centre[column + 1])
            j += many


@jit
def reach(g, n, log_prior, h, centre, precision, first, last, begin, end):
    """Smallest range of h that holds what `contract` sums over at any row and column.

    The centre is monotonic in the column, and a larger one moves the range upwards: the two end columns are enough.
    """
    low, high = g.shape[1], 0
    half = 0.5 * precision
    for i in range(len(g)):
        if begin[i] >= end[i]:
            continue
        for j in (begin[i], end[i] - 1):
            top = -np.inf
            for k in range(first[j], last[j]):
                top = max(top, n * g[i, k] + log_prior[k] - half * (h[k] - centre[j]) ** 2)
            k = first[j]
            while n * g[i, k] + log_prior[k] - half * (h[k] - centre[j]) ** 2 <= top - _NEGLIGIBLE:
                k += 1
            low = min(low, k)
            k = last[j] - 1
            while n * g[i, k] + log_prior[k] - half * (h[k] - centre[j]) ** 2 <= top - _NEGLIGIBLE:
                k -= 1
            high = max(high, k + 1)
    return low, high


@jit
def field_law(g, n, log_prior, h, centre, precision, first, last, share, joint):
    """Weights of h (nodes, h) when the shared field has the weights share (nodes, alpha)."""
    n_h, half = g.shape[1], 0.5 * precision
    weight = np.empty(n_h)
    for i in range(len(g)):
        joint[i, :] = 0.0
        for j in range(len(centre)):
            if abs(share[i, j]) < _NO_SHARE:
                continue
            top = -np.inf
            for k in range(first[j], last[j]):
                weight[k] = n * g[i, k] + log_prior[k] - half * (h[k] - centre[j]) ** 2
                top = max(top, weight[k])
            total, low, high = 0.0, last[j], first[j]
            for k in range(first[j], last[j]):
                if weight[k] > top - _NEGLIGIBLE:
                    weight[k] = math.exp(weight[k] - top)
                    total += weight[k]
                    low, high = min(low, k), k + 1
                else:
                    weight[k] = 0.0
            part = share[i, j] / total
            for k in range(low, high):
                joint[i, k] += part * weight[k]


@jit
def lagrange(b, low, step, n_row, start, weight):
    """First row (nodes,) and Lagrange weights (nodes, POINTS) of the interpolation at b between equally spaced rows."""
    for i in range(len(b)):
        place = (b[i] - low) / step
        first = math.floor(place) - POINTS // 2 + 1
        start[i] = min(max(first, 0), n_row - POINTS)
        x = place - start[i]
        for k in range(POINTS):
            value = 1.0
            for m in range(POINTS):
                if m != k:
                    value *= (x - m) / (k - m)
            weight[i, k] = value


@jit
def prior_terms(outer, log_alpha, begin, end):
    """outer (nodes,) + log_alpha (alpha,) from begin to end (nodes,), -inf elsewhere."""
    total = np.full((len(outer), len(log_alpha)), -np.inf)
    for i in range(len(outer)):
        for j in range(begin[i], end[i]):
            total[i, j] = outer[i] + log_alpha[j]
    return total


@jit
def add_log(start, weight, log_v, begin, end, total):
    """Adds log_v (rows, alpha), read with the stencils of the nodes, to total (nodes, alpha), from begin to end."""
    for i in range(len(start)):
        for k in range(weight.shape[1]):
            x, row = weight[i, k], log_v[start[i] + k]
            for j in range(begin[i], end[i]):
                total[i, j] += x * row[j]


@jit
def table_lines(start, weight, log_v, lines):
    """log_v (rows, columns), read with the stencils of the nodes, in lines (nodes, columns)."""
    for i in range(len(start)):
        line = lines[i]
        line[:] = 0.0
        for k in range(weight.shape[1]):
            x, row = weight[i, k], log_v[start[i] + k]
            for j in range(len(line)):
                line[j] += x * row[j]


@jit
def plane_terms(lines, first, share, outer, log_alpha, wide, window, total):
    """Terms total (nodes, pairs) for two shared fields, where pairs are a grid of rows of `wide` columns: from
    window[i, 0] to window[i, 1] of its rows and window[i, 2] to window[i, 3] of its columns, -inf elsewhere.

    Pair j reads class c from lines[i, first[c, j]] on with the weights share[c, j].
    """
    for i in range(len(outer)):
        line = lines[i]
        total[i, :] = -np.inf
        for row in range(window[i, 0], window[i, 1]):
            for j in range(row * wide + window[i, 2], row * wide + window[i, 3]):
                value = outer[i] + log_alpha[j]
                for c in range(len(first)):
                    at, part = first[c, j], 0.0
                    for k in range(POINTS):  # a constant: unrolled
                        part += share[c, j, k] * line[at + k]
                    value += part
                total[i, j] = value


@jit
def log_sum(total):
    """ln sum exp over the columns of total."""
    out = np.empty(len(total))
    for i in range(len(total)):
        top = -np.inf
        for j in range(total.shape[1]):
            top = max(top, total[i, j])
        value = 0.0
        for j in range(total.shape[1]):
            if total[i, j] > top - _NEGLIGIBLE:
                value += math.exp(total[i, j] - top)
        out[i] = top + math.log(value)
    return out


@jit
def _add_products(w, mean, products, out):
    """Add w times the products of the class means (C, columns) that are named in products (products, C).

    The first column is 1, and multiplied as the others are: branches take longer.
    """
    if len(mean) == 3:
        for p in range(len(products)):
            out[p] += w * mean[0, products[p, 0]] * mean[1, products[p, 1]] * mean[2, products[p, 2]]
        return
    for p in range(len(products)):
        value = w
        for c in range(len(mean)):
            value *= mean[c, products[p, c]]
        out[p] += value


@jit
def accumulate(start, weight, kind, place, means, total, top, depth, products, out):
    """Sums over alpha of exp(total - top) times products of class means, per node, in out (nodes, products).

    start (C, nodes) and weight (C, nodes, points) read class c from its rows, row r at alpha j being
    means[place[kind[c], r] + j]; products (products, C) name the column of each class, 0 for 1. Terms below exp(-depth)
    are left out.
    """
    n_class, points = len(start), weight.shape[2]
    n_part = means.shape[1]
    mean = np.empty((n_class, n_part))
    for i in range(start.shape[1]):
        out[i, :] = 0.0
        for j in range(total.shape[1]):
            if total[i, j] < top - depth:
                continue
            w = math.exp(total[i, j] - top)
            for c in range(n_class):
                table, first = place[kind[c]], start[c, i]
                row = mean[c]
                for k in range(n_part):
                    row[k] = 0.0
                for r in range(0, points - 1, 2):
                    x, y = weight[c, i, r], weight[c, i, r + 1]
                    one, two = means[table[first + r] + j], means[table[first + r + 1] + j]
                    for k in range(n_part):
                        row[k] += x * one[k] + y * two[k]
                if points % 2 == 1:
                    x, one = weight[c, i, points - 1], means[table[first + points - 1] + j]
                    for k in range(n_part):
                        row[k] += x * one[k]
            _add_products(w, mean, products, out[i])


@jit
def accumulate_plane(start, weight, kind, place, means, first, share, total, top, depth, products, out):
    """`accumulate` for two shared fields: pair j of them reads a class from its columns first[c, j] + k, with the
    weights share[c, j, k]."""
    n_class, points, n_part = len(start), weight.shape[2], means.shape[1]
    n_pair, wide = first.shape[1], share.shape[2]
    mean = np.empty((n_class, n_part))
    low, high = np.empty(n_class, dtype=np.int64), np.empty(n_class, dtype=np.int64)
    lines = np.empty((n_class, first.max() + wide, n_part))
    for i in range(start.shape[1]):
        out[i, :] = 0.0
        low[:], high[:] = first.max(), -1
        for j in range(n_pair):
            if total[i, j] >= top - depth:
                for c in range(n_class):
                    low[c], high[c] = min(low[c], first[c, j]), max(high[c], first[c, j] + wide)
        for c in range(n_class):
            table, lowest = place[kind[c]], start[c, i]
            for column in range(low[c], high[c]):
                row = lines[c, column]
                row[:] = 0.0
                for r in range(points):
                    x, one = weight[c, i, r], means[table[lowest + r] + column]
                    for k in range(n_part):
                        row[k] += x * one[k]
        for j in range(n_pair):
            if total[i, j] < top - depth:
                continue
            w = math.exp(total[i, j] - top)
            for c in range(n_class):
                row = mean[c]
                row[:] = 0.0
                for r in range(0, wide, 2):
                    x, one = share[c, j, r], lines[c, first[c, j] + r]
                    y, two = share[c, j, r + 1], lines[c, first[c, j] + r + 1]
                    for k in range(n_part):
                        row[k] += x * one[k] + y * two[k]
            _add_products(w, mean, products, out[i])
