"""Coordinates in which one class is integrated out, and the box in which its readouts are (sigma_a = 1).

With as many classes as outputs, a = W b + x u with u orthogonal to the t_c of all classes but j. At finite P readouts
are sum_c p_c phi_c t_c with phi_c in the range of phi, convolved with N(0, 1/P): that bounds all their coordinates.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from meanfield.numerics.jit import jit

__all__ = ["Framed", "box_shape", "framed", "nearest"]

_LEAST_GAIN = 1e-2
_MAX_BLOCKS = 40_000_000
_MAX_ALONG = 4000
_FARTHEST = 1e8


class Framed(NamedTuple):
    """One class j integrated out, d = m - 1 others, a lattice of b in a box, and nodes of x."""

    j: int  # -1 where the t_c are nearly dependent
    others: np.ndarray  # (d,)
    shares: np.ndarray  # (d,) their fractions
    plane: np.ndarray  # W (m, d), with orthonormal columns
    u: np.ndarray  # (m,)
    gain: float  # u . t_j
    fields: np.ndarray  # (d, d), t_c of the others in coordinates of b
    along: np.ndarray  # (d,), t_j in coordinates of b
    basis: np.ndarray  # (d, d)
    volume: float  # ln of its determinant
    low: np.ndarray  # (d,) integers, the first nodes of the box
    size: np.ndarray  # (d,)
    x_step: float
    x_first: int
    n_x: int
    s_low: float  # range of b . t_j
    s_high: float


@jit
def _orthogonal(t, j, plane, u):
    """Fill `plane` with an orthonormal basis of the t_c of other classes, u with what is orthogonal; u . t_j."""
    m = t.shape[0]
    size = 0.0
    for k in range(m):  # the last is j
        c = k if k < j else (k + 1 if k < m - 1 else j)
        for r in range(m):
            u[r] = t[c, r]
        for _ in range(2):
            for q in range(k):
                overlap = 0.0
                for r in range(m):
                    overlap += plane[r, q] * u[r]
                for r in range(m):
                    u[r] -= overlap * plane[r, q]
        size = 0.0
        for r in range(m):
            size += u[r] * u[r]
        size = math.sqrt(size)
        if not size > _LEAST_GAIN:
            return 0.0
        for r in range(m):
            u[r] /= size
            if k < m - 1:
                plane[r, k] = u[r]
    return size


@jit
def _span(p, t, low, high, vector, radius):
    """Smallest and largest a . vector."""
    least, most, size = 0.0, 0.0, 0.0
    for r in range(vector.shape[0]):
        size += vector[r] * vector[r]
    for c in range(p.shape[0]):
        overlap = 0.0
        for r in range(vector.shape[0]):
            overlap += t[c, r] * vector[r]
        least += p[c] * min(low * overlap, high * overlap)
        most += p[c] * max(low * overlap, high * overlap)
    size = radius * math.sqrt(size)
    return least - size, most + size


@jit
def framed(p, t, low, high, n_samples, rank, unit, inverse, lengths, shift, x_shift, radius):
    """The frame of the class with the largest gain (`rank` 0), the second largest (1), ...

    `low`, `high`: range of phi. Nodes b = (n + shift) lengths[0] unit, with the inverse of `unit`, and
    x = (n + x_shift) lengths[1]. The box is that of readouts no farther than `radius` from all sum_c p_c phi_c t_c.
    """
    m = t.shape[0]
    d = m - 1
    plane, u, gains = np.empty((m, d)), np.empty(m), np.empty(m)
    for j in range(m):
        gains[j] = _orthogonal(t, j, plane, u)
    j, least = -1, np.min(gains)
    for _ in range(rank + 1):
        if j >= 0:
            gains[j] = -1.0
        j = np.argmax(gains)
    gain = _orthogonal(t, j, plane, u) if least > 0.0 else 0.0
    others, shares = np.empty(d, np.int64), np.empty(d)
    fields, along = np.zeros((d, d)), np.zeros(d)
    for k in range(d):
        others[k] = k if k < j else k + 1
        shares[k] = p[others[k]]
    for q in range(d):
        for r in range(m):
            along[q] += t[j, r] * plane[r, q]
            for k in range(d):
                fields[k, q] += t[others[k], r] * plane[r, q]
    basis = lengths[0] * unit
    first, size = np.zeros(d, np.int64), np.zeros(d, np.int64)
    vector = np.empty(m)
    fits = gain > 0.0
    for r in range(d + 1):
        for i in range(m):
            vector[i] = 0.0
            if r < d:
                for q in range(d):
                    vector[i] += plane[i, q] * inverse[q, r] / lengths[0]
            else:
                vector[i] = u[i] / lengths[1]
        begin, end = _span(p, t, low, high, vector, radius)
        fits = fits and begin > -_FARTHEST and end < _FARTHEST
        offset = shift[r] if r < d else x_shift
        begin, end = (math.floor(begin - offset), math.ceil(end - offset)) if fits else (0, 0)
        if r < d:
            first[r], size[r] = begin, end - begin + 1
    for i in range(m):
        vector[i] = 0.0
        for q in range(d):
            vector[i] += plane[i, q] * along[q]
    s_low, s_high = _span(p, t, low, high, vector, radius)
    volume = d * math.log(lengths[0]) - math.log(abs(np.linalg.det(inverse)))
    return Framed(
        j if fits else -1, others, shares, plane, u, gain, fields, along, basis, volume, first, size, lengths[1],
        int(begin), int(end - begin + 1), s_low, s_high,
    )  # fmt: skip


@jit
def box_shape(f, block):
    """Blocks of nodes along the first vector, then lines (d,); nothing but zeros where that is too many."""
    shape = f.size.copy()
    shape[0] = (shape[0] + block - 1) // block
    total = 1.0
    for r in range(shape.shape[0]):
        total *= shape[r]
    if f.j < 0 or total > _MAX_BLOCKS or f.n_x > _MAX_ALONG:
        for r in range(shape.shape[0]):
            shape[r] = 0
    return shape


@jit
def nearest(f, inverse, length, shift, maxima):
    """Nodes (n, d) nearest to the b of some readouts (n, m)."""
    n, m = maxima.shape
    d = m - 1
    nodes, b = np.empty((n, d), np.int64), np.empty(d)
    for i in range(n):
        for q in range(d):
            b[q] = 0.0
            for r in range(m):
                b[q] += maxima[i, r] * f.plane[r, q]
        for r in range(d):
            at = 0.0
            for q in range(d):
                at += b[q] * inverse[q, r]
            nodes[i, r] = math.floor(at / length - shift[r] + 0.5)
    return nodes
