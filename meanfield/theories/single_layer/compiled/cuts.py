"""The cut between codes that overlap at finite P, and sums on either side of it (sigma_a = 1)."""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.cumulant_table import cumulant2
from meanfield.numerics.jit import jit
from meanfield.theories.single_layer.compiled.ascent import ascend
from meanfield.theories.single_layer.compiled.lattice import FIRST, KEY, NEXT, REGION, SIZE, find_line

__all__ = ["beside_a_cut", "owners", "radii", "run_moments"]

_STEPS = 400
_ALIGNED = 0.9  # squared cosine between steps
_FINEST = 24  # halvings of a cell
_GAUSS_X = np.polynomial.legendre.leggauss(6)[0] * 0.5 + 0.5
_GAUSS_W = np.polynomial.legendre.leggauss(6)[1] * 0.5


@jit
def _nearest(modes, a):
    best, least = -1, np.inf
    for k in range(modes.shape[0]):
        distance = 0.0
        for r in range(a.shape[0]):
            distance += (modes[k, r] - a[r]) ** 2
        if distance < least:
            best, least = k, distance
    return best, math.sqrt(least)


@jit
def radii(modes, part):
    """A radius around each mode (n, m), this part of the distance to the next one."""
    n = modes.shape[0]
    near = np.full(n, np.inf)
    for k in range(n):
        for j in range(n):
            if j != k:
                near[k] = min(near[k], part * math.sqrt(np.sum((modes[k] - modes[j]) ** 2)))
    return near


@jit
def _owner(table, p, t, a, modes, near):
    """Which of the modes the readout `a` (m,), which is lost, leads to: the one that it comes within `near` (n,) of.

    Steps that go the same way as the one before, away from a saddle, are made longer, up to what is `near`.
    """
    n_classes, m = t.shape
    step = np.empty(m)
    before = np.zeros(m)
    longest = np.min(near)
    stretch = 1.0
    for _ in range(_STEPS):
        for r in range(m):
            step[r] = -a[r]
        for c in range(n_classes):
            kappa = 0.0
            for r in range(m):
                kappa += a[r] * t[c, r]
            g1 = p[c] * cumulant2(table, kappa)[1]
            for r in range(m):
                step[r] += g1 * t[c, r]
        along, size, last = 0.0, 0.0, 0.0
        for r in range(m):
            along += step[r] * before[r]
            size += step[r] * step[r]
            last += before[r] * before[r]
        if along > 0.0 and along * along > _ALIGNED * size * last:
            stretch *= 2.0
        else:
            stretch = 1.0
        size = math.sqrt(size)
        if size * stretch > longest:
            stretch = max(1.0, longest / size)
        for r in range(m):
            a[r] += stretch * step[r]
            before[r] = step[r]
        if size < longest:
            k, distance = _nearest(modes, a)
            if distance < near[k]:
                return k
    ascend(table, p, t, a)
    return _nearest(modes, a)[0]


@jit
def owners(table, p, t, a, modes, near, label):
    """Codes (k,) of readouts a (k, m), which are lost, in place."""
    for i in range(a.shape[0]):
        label[i] = _owner(table, p, t, a[i], modes, near)


@jit
def beside_a_cut(runs, slots, label, beside):
    """Mark nodes with a neighbour along a basis vector whose code is another."""
    m = runs.shape[1] - KEY
    key = np.empty(m, np.int64)
    for i in range(beside.shape[0]):
        beside[i] = False
    for run in range(runs.shape[0]):
        first, size = runs[run, FIRST], runs[run, SIZE]
        for i in range(first, first + size - 1):
            if label[i] != label[i + 1]:
                beside[i] = True
                beside[i + 1] = True
        for q in range(1, m):  # those below are met from there
            for r in range(m):
                key[r] = runs[run, KEY + r]
            key[q] += 1
            other = slots[find_line(slots, runs, key)]
            while other >= 0:
                ahead = runs[run, KEY] - runs[other, KEY]
                for i in range(max(0, -ahead), min(size, runs[other, SIZE] - ahead)):
                    j = runs[other, FIRST] + i + ahead
                    if label[j] != label[first + i]:
                        beside[j] = True
                        beside[first + i] = True
                other = runs[other, NEXT]


@jit
def _cuts(table, p, t, start, step, exponent, factor, least, label, modes, near, place, code):
    """Where codes change along a run, in steps from its first node, and the codes between; returns how often."""
    n, m = 0, start.shape[0]
    a = np.empty(m)
    for i in range(label.shape[0] - 1):
        mass = factor * max(math.exp(exponent[i]), math.exp(exponent[i + 1]))
        if label[i] == label[i + 1]:
            continue
        low, high = float(i), float(i + 1)
        for _ in range(_FINEST if mass >= least else 0):  # where nothing is, the middle is near enough
            middle = 0.5 * (low + high)
            for r in range(m):
                a[r] = start[r] + middle * step[r]
            if _owner(table, p, t, a, modes, near) == label[i + 1]:
                high = middle
            else:
                low = middle
            mass *= 0.5
            if mass < least:
                break
        place[n], code[n] = 0.5 * (low + high), label[i]
        n += 1
        code[n] = label[i + 1]
    return n


@jit
def _between(table, p, t, n_samples, top, start, step, low, high):
    """Integrals of e^{P (h - top)} u^k, k = 0, 1, 2, from u = `low` to `high` along a run, by Gauss's rule per step."""
    panels = math.ceil(high - low)
    width = (high - low) / panels
    s0, s1, s2 = 0.0, 0.0, 0.0
    for j in range(panels):
        for g in range(_GAUSS_X.shape[0]):
            u = low + (j + _GAUSS_X[g]) * width
            h = 0.0
            for r in range(start.shape[0]):
                h -= 0.5 * (start[r] + u * step[r]) ** 2
            for c in range(t.shape[0]):
                kappa = 0.0
                for r in range(start.shape[0]):
                    kappa += (start[r] + u * step[r]) * t[c, r]
                h += p[c] * cumulant2(table, kappa)[0]
            mass = width * _GAUSS_W[g] * math.exp(n_samples * (h - top))
            s0 += mass
            s1 += mass * u
            s2 += mass * u * u
    return s0, s1, s2


@jit
def run_moments(
    table, p, t, n_samples, top, basis, shift, runs, begin, end, exponent, scale, least, modes, near, label, whole,
    total, mean, square,
):  # fmt: skip
    """Add what runs `begin` ... `end` - 1 that are cut hold on either side; they are taken out of `whole` (R,).

    Masses (n,), first (n, m) and second moments (n, m, m) around `modes`. The mass of a node is e^exponent times the
    `scale` (K,) of its region, `least` one that does not count. Along a run the nodes say what all of it holds, and
    what is left of that by the other parts is in the one with the largest mass.
    """
    m = t.shape[1]
    start = np.empty(m)
    step = basis[0]
    for run in range(begin, end):
        first, size = runs[run, FIRST], runs[run, SIZE]
        changes = False
        for i in range(first, first + size - 1):
            changes = changes or label[i] != label[i + 1]
        if not changes:
            continue
        for r in range(m):
            start[r] = 0.0
            for q in range(m):
                start[r] += (runs[run, KEY + q] + shift[q]) * basis[q, r]
        factor = scale[runs[run, REGION]]
        place, code = np.empty(size), np.empty(size, np.int64)
        of_run, on = label[first : first + size], exponent[first : first + size]
        n = _cuts(table, p, t, start, step, on, factor, least, of_run, modes, near, place, code)
        if n == 0:
            continue
        whole[run] = False
        part = np.zeros((n + 1, 3))
        rest = np.zeros(3)
        held = np.zeros(n + 1)
        k = 0
        for i in range(size):
            while k < n and i > place[k]:
                k += 1
            mass = math.exp(on[i])
            held[k] += mass
            rest[0] += mass
            rest[1] += mass * i
            rest[2] += mass * i * i
        largest = np.argmax(held)
        for k in range(n + 1):
            if k != largest:
                low = place[k - 1] if k > 0 else -1.0
                high = place[k] if k < n else float(size)
                s0, s1, s2 = _between(table, p, t, n_samples, top, start, step, low, high)
                part[k, 0], part[k, 1], part[k, 2] = s0, s1, s2
                for i in range(3):
                    rest[i] -= part[k, i]
        for i in range(3):
            part[largest, i] = rest[i]
        for k in range(n + 1):
            c = code[k]
            s0, s1, s2 = factor * part[k, 0], factor * part[k, 1], factor * part[k, 2]
            total[c] += s0
            for r in range(m):
                x = start[r] - modes[c, r]
                mean[c, r] += s0 * x + s1 * step[r]
                for q in range(r + 1):
                    y = start[q] - modes[c, q]
                    square[c, r, q] += s0 * x * y + s1 * (x * step[q] + y * step[r]) + s2 * step[r] * step[q]
