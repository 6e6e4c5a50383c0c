"""The readout integral at finite P on a lattice, split into separated regions (sigma_a = 1).

    I(t) = int da (P / 2 pi)^{m/2} e^{P h(a; t)}  ~  |det B| (P / 2 pi)^{m/2} sum_i e^{P h(a_i)},  a_i = (n_i + shift) B

Only nodes that carry weight are visited: a flood fill over nearest neighbours from every local maximum of h, down to
e^{-window} of the highest one. Its connected components, the regions, are what separated codes are at finite P.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from meanfield.numerics.copies import copy_matrix, copy_vector
from meanfield.numerics.jit import jit
from meanfield.theories.single_layer.compiled.generated.action import action, action_fields

__all__ = ["Nodes", "basin_roots", "grow", "moments"]

_HASH_BASE = 1000003
_HASH_PRIME = 2147483629  # products of residues with the base stay far below 2^63


class Nodes(NamedTuple):
    """Lattice nodes visited by `grow`; region -1 marks those below the window, kept only as the rim."""

    index: np.ndarray  # (n, m) integers n_i
    exponent: np.ndarray  # (n,) P (h(a_i) - top), of the last call of `grow` or `moments`
    region: np.ndarray  # (n,)
    slots: np.ndarray  # open-addressing hash table: position of a node, or -1
    n_regions: int
    complete: bool  # False: the fill was stopped at max_nodes


@jit
def _find(slots, index, key):
    """Slot of the node `key` (m,), or the empty slot where it belongs."""
    code = 0
    for r in range(key.shape[0]):
        code = (code * _HASH_BASE + key[r]) % _HASH_PRIME
    mask = slots.shape[0] - 1
    slot = code & mask
    while slots[slot] >= 0:
        row = index[slots[slot]]
        same = True
        for r in range(key.shape[0]):
            if row[r] != key[r]:
                same = False
                break
        if same:
            return slot
        slot = (slot + 1) & mask
    return slot


@jit
def _place(basis, shift, key, a):
    """a = (key + shift) B, in place; the rows of `basis` are the basis vectors."""
    m = a.shape[0]
    for r in range(m):
        a[r] = 0.0
        for q in range(m):
            a[r] += (key[q] + shift[q]) * basis[q, r]


@jit
def _enlarged(index, exponent, region):
    n, m = index.shape
    new_index = np.empty((2 * n, m), np.int32)
    new_exponent = np.empty(2 * n)
    new_region = np.empty(2 * n, np.int32)
    copy_matrix(new_index, index)
    copy_vector(new_exponent, exponent)
    copy_vector(new_region, region)
    slots = np.full(8 * n, -1, np.int32)
    for i in range(n):
        slots[_find(slots, new_index, new_index[i])] = i
    return new_index, new_exponent, new_region, slots


@jit
def grow(table, p, t, n_samples, basis, inverse, shift, seeds, top, window, max_nodes):
    """Flood fill of {a : P (h(a) - top) > -window} from `seeds` (n, m), the local maxima of h with maximum `top`.

    `basis` (m, m) has the lattice vectors as rows, `inverse` is its inverse, `shift` (m,) counts in lattice vectors.
    """
    m = t.shape[1]
    index = np.empty((1024, m), np.int32)
    exponent = np.empty(1024)
    region = np.empty(1024, np.int32)
    slots = np.full(4096, -1, np.int32)
    key = np.empty(m, np.int64)
    a = np.empty(m)
    count = 0
    head = 0
    n_regions = 0
    for seed in range(seeds.shape[0]):
        for r in range(m):
            coordinate = 0.5 - shift[r]
            for q in range(m):
                coordinate += seeds[seed, q] * inverse[q, r]
            key[r] = math.floor(coordinate)
        fresh = count
        # Move -1 stands for the seed itself; later ones are the 2 m neighbours of the node at `head`.
        move = -1
        while True:
            slot = _find(slots, index, key)
            if slots[slot] < 0:
                if count == index.shape[0]:
                    if count >= max_nodes:
                        return Nodes(index, exponent, region, slots, n_regions, False)
                    index, exponent, region, slots = _enlarged(index, exponent, region)
                    slot = _find(slots, index, key)
                _place(basis, shift, key, a)
                for r in range(m):
                    index[count, r] = key[r]
                exponent[count] = n_samples * (action(table, p, t, a) - top)
                region[count] = n_regions if exponent[count] > -window else -1
                slots[slot] = count
                count += 1
            move += 1
            if move == 2 * m:
                move = 0
                head += 1
            while head < count and region[head] < 0:
                head += 1
            if head >= count:
                break
            for r in range(m):
                key[r] = index[head, r]
            key[move >> 1] += 1 if move & 1 else -1
        for i in range(fresh, count):
            if region[i] >= 0:
                n_regions += 1
                break
        head = count
    return Nodes(index[:count], exponent[:count], region[:count], slots, n_regions, True)


@jit
def moments(table, p, t, n_samples, basis, shift, top, nodes):
    """Sums over each region needed for J, its gradient and its Hessian.

    With g(a) = (p_c G'(a.t_c) a)_c (C m,), returns per region ln of its share of I (n_regions,) and <g>
    (n_regions, C m), and over all nodes <g g^T> and the class blocks <p_c G''(a.t_c) a a^T> (C, m, m). The nodes may
    come from a nearby t: their exponents are those of this t afterwards.
    """
    n_classes, m = t.shape
    size = n_classes * m
    mass = np.zeros(nodes.n_regions)
    first = np.zeros((nodes.n_regions, size))
    second = np.zeros((size, size))
    curvature = np.zeros((n_classes, m, m))
    a = np.empty(m)
    g = np.empty(size)
    field_1 = np.empty(n_classes)
    field_2 = np.empty(n_classes)
    for i in range(nodes.index.shape[0]):
        if nodes.region[i] < 0:
            continue
        _place(basis, shift, nodes.index[i], a)
        nodes.exponent[i] = n_samples * (action_fields(table, p, t, a, field_1, field_2) - top)
        w = math.exp(nodes.exponent[i])
        for c in range(n_classes):
            for r in range(m):
                g[c * m + r] = field_1[c] * a[r]
                factor = w * field_2[c] * a[r]
                for q in range(r + 1):
                    curvature[c, r, q] += factor * a[q]
        region = nodes.region[i]
        mass[region] += w
        for j in range(size):
            factor = w * g[j]
            first[region, j] += factor
            for k in range(j + 1):
                second[j, k] += factor * g[k]
    total = np.sum(mass)
    for j in range(size):
        for k in range(j + 1):
            second[j, k] /= total
            second[k, j] = second[j, k]
    for c in range(n_classes):
        for r in range(m):
            for q in range(r + 1):
                curvature[c, r, q] /= total
                curvature[c, q, r] = curvature[c, r, q]
    log_share = np.empty(nodes.n_regions)
    cell = abs(np.linalg.det(basis))
    constant = n_samples * top + math.log(cell) + 0.5 * m * math.log(n_samples / (2.0 * math.pi))
    for k in range(nodes.n_regions):
        log_share[k] = math.log(mass[k]) + constant
        for j in range(size):
            first[k, j] /= mass[k]
    return log_share, first, second, curvature


@jit
def basin_roots(nodes):
    """Position of the lattice maximum that steepest ascent over nearest neighbours reaches from each node (rim: -1)."""
    n, m = nodes.index.shape
    root = np.full(n, -1, np.int64)
    key = np.empty(m, np.int64)
    for i in np.argsort(-nodes.exponent):
        if nodes.region[i] < 0:
            continue
        best = i
        for move in range(2 * m):
            for r in range(m):
                key[r] = nodes.index[i, r]
            key[move >> 1] += 1 if move & 1 else -1
            j = nodes.slots[_find(nodes.slots, nodes.index, key)]
            if j >= 0 and root[j] >= 0 and nodes.exponent[j] > nodes.exponent[best]:
                best = j
        root[i] = i if best == i else root[best]
    return root
