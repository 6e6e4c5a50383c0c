"""The readout integral at finite P on a lattice, split into separated regions (sigma_a = 1).

    I(t) = int da (P / 2 pi)^{m/2} e^{P h(a; t)}  ~  |det B| (P / 2 pi)^{m/2} sum_i e^{P h(a_i)},  a_i = (n_i + shift) B

Only nodes that carry weight are visited: a flood fill over nearest neighbours from every local maximum of h, down to
e^{-window} of the highest one. Its connected components, the regions, are what separated codes are at finite P.

The fill goes by runs, stretches of nodes along the first basis vector: along these kappa_c is linear in the position,
and only runs have to be found again among those that are known. All nodes of a run are kept in order.

Every loop here can be left and entered again, so that the callers in
`meanfield.theories.single_layer.readout_nodes` look at signals and clocks in between.
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.jit import jit
from meanfield.theories.single_layer.compiled.quick import hermite, quick1, quick2

__all__ = [
    "COLUMNS",
    "CURSOR",
    "basin_roots",
    "code_moments",
    "direct_slopes",
    "grow",
    "moments",
    "rehash",
    "slopes",
]

_HASH_FACTOR = -7046029254386353131  # 2^64 / golden ratio, as int64: products wrap around
CURSOR = 6  # entries: nodes, runs, next run to expand, next seed, regions closed, whether the open one has nodes
# Columns of `runs`: where its nodes begin, their number, region, next run on the same line (or -1), the stretch around
# it about which all is known, and the integers n (m,) of its first node.
_FIRST, _SIZE, _REGION, _NEXT, _LOW, _HIGH, _KEY = range(7)
COLUMNS = _KEY


@jit
def _find(slots, runs, key):
    """Slot of the line through `key` (m,), along the first basis vector, or the empty slot where it belongs."""
    code = 0
    for r in range(1, key.shape[0]):
        code = (code ^ key[r]) * _HASH_FACTOR
        code ^= code >> 29
    mask = slots.shape[0] - 1
    slot = code & mask
    while slots[slot] >= 0:
        i = slots[slot]
        same = True
        for r in range(1, key.shape[0]):
            if runs[i, _KEY + r] != key[r]:
                same = False
                break
        if same:
            return slot
        slot = (slot + 1) & mask
    return slot


@jit
def _known(slots, runs, key, position):
    """The run on the line of `key` around which `position` is known, or -1."""
    i = slots[_find(slots, runs, key)]
    while i >= 0 and not (runs[i, _LOW] <= position <= runs[i, _HIGH]):
        i = runs[i, _NEXT]
    return i


@jit
def rehash(runs, n_runs, slots):
    """Enter the lines of all runs into the empty hash table `slots`; the last run of a line leads to the others."""
    key = np.empty(runs.shape[1] - _KEY, np.int64)
    for i in range(n_runs):
        for r in range(key.shape[0]):
            key[r] = runs[i, _KEY + r]
        slots[_find(slots, runs, key)] = i


@jit
def _start(basis, shift, t, key, a, kappa):
    """Readout a (m,) at position 0 of the line of `key` and its kappa_c (C,), in place."""
    n_classes, m = t.shape
    for r in range(m):
        a[r] = shift[0] * basis[0, r]
    for q in range(1, m):
        n = key[q] + shift[q]
        for r in range(m):
            a[r] += n * basis[q, r]
    for c in range(n_classes):
        kappa[c] = 0.0
        for r in range(m):
            kappa[c] += a[r] * t[c, r]


@jit
def _along(basis, t):
    """What kappa_c gains with a step along the first basis vector (C,)."""
    result = np.zeros(t.shape[0])
    for c in range(t.shape[0]):
        for r in range(t.shape[1]):
            result[c] += basis[0, r] * t[c, r]
    return result


@jit
def grow(
    quick, p, t, n_samples, basis, shift, seeds, top, window, until, exponent, runs, slots, seed_region, cursor, mass,
    first,
):  # fmt: skip
    """Flood fill of {a : P (h(a) - top) > -window} from `seeds` (n, m), lattice points near the local maxima of h.

    `basis` (m, m) has the lattice vectors as rows, `shift` (m,) counts in lattice vectors. Fills exponent (N,) =
    P (h - top) of the nodes inside, runs (R, COLUMNS + m), and seed_region (n,), -1 for seeds outside; adds to mass
    (n,) and first (n, C, m) what `slopes` does, unless these are empty. Returns 0 when done, 1 at `until` nodes, 2 and
    3 where there is no room for further nodes or runs: call it again.
    """
    n_classes, m = t.shape
    summed = mass.shape[0] > 0
    x = np.empty(m)
    slope = np.empty(n_classes)
    part = np.empty((n_classes, m))
    key = np.empty(m, np.int64)
    a = np.empty(m)
    kappa = np.empty(n_classes)
    along = _along(basis, t)
    count, n_runs, head, seed, n_regions, open_region = cursor
    state = 1
    while count <= until:
        if n_runs + 1 >= runs.shape[0]:
            state = 3
            break
        fresh = head == n_runs  # nothing left to expand: the next seed
        if fresh:
            n_regions += open_region
            open_region = 0
            if seed == seeds.shape[0]:
                state = 0
                break
        state = 1
        for move in range(1 if fresh else 2 * (m - 1)):
            for r in range(m):
                key[r] = seeds[seed, r] if fresh else runs[head, _KEY + r]
            position = key[0]
            last = position if fresh else position + runs[head, _SIZE] - 1
            if not fresh:
                key[1 + (move >> 1)] += 1 if move & 1 else -1
            _start(basis, shift, t, key, a, kappa)
            outside = position  # from here to the position all nodes are outside, up from what is known about `beside`
            beside = -1
            while position <= last:
                known = _known(slots, runs, key, position)
                if known >= 0:
                    runs[known, _LOW] = min(runs[known, _LOW], outside)
                    beside = known
                    position = runs[known, _HIGH] + 1
                    outside = position
                    continue
                # A run, if there is one: down from here, turned round, then up.
                end, at, step, begin = count, position, -1, position
                total = 0.0
                while end < exponent.shape[0]:
                    h = 0.0
                    for r in range(m):
                        x[r] = a[r] + at * basis[0, r]
                        h -= 0.5 * x[r] * x[r]
                    for c in range(n_classes):
                        g0, g1 = quick1(quick, kappa[c] + at * along[c])
                        h += p[c] * g0
                        slope[c] = g1
                    value = n_samples * (h - top)
                    if value > -window:
                        exponent[end] = value
                        if summed:
                            if end == count:
                                for c in range(n_classes):
                                    for r in range(m):
                                        part[c, r] = 0.0
                            w = math.exp(value)
                            total += w
                            for c in range(n_classes):
                                factor = w * slope[c]
                                for r in range(m):
                                    part[c, r] += factor * x[r]
                        end += 1
                        at += step
                    elif step < 0 and end > count:
                        begin = at + 1
                        for i in range((end - count) // 2):
                            exponent[count + i], exponent[end - 1 - i] = exponent[end - 1 - i], exponent[count + i]
                        at, step = position + 1, 1
                    else:
                        break
                if end == count and end < exponent.shape[0]:
                    if beside >= 0:
                        runs[beside, _HIGH] = position
                    position += 1
                    continue
                if end >= exponent.shape[0] or n_runs == runs.shape[0]:
                    state = 2 if end >= exponent.shape[0] else 3
                    break
                slot = _find(slots, runs, key)
                runs[n_runs, _FIRST], runs[n_runs, _SIZE], runs[n_runs, _REGION] = count, end - count, n_regions
                runs[n_runs, _NEXT], runs[n_runs, _KEY] = slots[slot], begin
                runs[n_runs, _LOW], runs[n_runs, _HIGH] = min(begin - 1, outside), at
                for r in range(1, m):
                    runs[n_runs, _KEY + r] = key[r]
                slots[slot] = n_runs
                n_runs += 1
                if summed:
                    mass[n_regions] += total
                    for c in range(n_classes):
                        for r in range(m):
                            first[n_regions, c, r] += p[c] * part[c, r]
                count = end
                open_region = 1
                beside = n_runs - 1
                position = at + 1
                outside = position
            if state != 1:
                break
        if state != 1:
            break
        if fresh:
            known = _known(slots, runs, seeds[seed], seeds[seed, 0])
            seed_region[seed] = -1
            if known >= 0 and 0 <= seeds[seed, 0] - runs[known, _KEY] < runs[known, _SIZE]:
                seed_region[seed] = runs[known, _REGION]
            seed += 1
        else:
            head += 1
    cursor[0], cursor[1], cursor[2], cursor[3], cursor[4], cursor[5] = count, n_runs, head, seed, n_regions, open_region
    return state


@jit
def slopes(quick, p, t, n_samples, basis, shift, top, runs, begin, end, exponent, mass, first):
    """Add to each region's mass (K,) and first (K, C, m), sums of e^{P (h - top)} and of its product with
    p_c G'(a.t_c) a, over the runs begin ... end - 1.

    The nodes may come from a nearby t: exponents (n,) are those of this t afterwards. Returns the largest change.
    """
    n_classes, m = t.shape
    a, x = np.empty(m), np.empty(m)
    kappa, slope = np.empty(n_classes), np.empty(n_classes)
    along = _along(basis, t)
    part = np.empty((n_classes, m))
    changed = 0.0
    for run in range(begin, end):
        _start(basis, shift, t, runs[run, _KEY:], a, kappa)
        for c in range(n_classes):
            for r in range(m):
                part[c, r] = 0.0
        total = 0.0
        for i in range(runs[run, _SIZE]):
            position = runs[run, _KEY] + i
            h = 0.0
            for r in range(m):
                x[r] = a[r] + position * basis[0, r]
                h -= 0.5 * x[r] * x[r]
            for c in range(n_classes):
                g0, g1 = quick1(quick, kappa[c] + position * along[c])
                h += p[c] * g0
                slope[c] = g1
            node = runs[run, _FIRST] + i
            value = n_samples * (h - top)
            changed = max(changed, abs(value - exponent[node]))
            exponent[node] = value
            w = math.exp(value)
            total += w
            for c in range(n_classes):
                factor = w * slope[c]
                for r in range(m):
                    part[c, r] += factor * x[r]
        k = runs[run, _REGION]
        mass[k] += total
        for c in range(n_classes):
            for r in range(m):
                first[k, c, r] += p[c] * part[c, r]
    return changed


@jit
def direct_slopes(sample, step, origin, p, t, n_samples, top, basis, shift, runs, begin, end, group, mass, first):
    """What `slopes` adds up, written apart from it, from samples of G that owe nothing to the table (`quick.hermite`).

    group (K',) says to which entry of mass (K,) and first (K, C, m) the nodes of a region belong.
    """
    n_classes, m = t.shape
    a, x = np.empty(m), np.empty(m)
    kappa, slope = np.empty(n_classes), np.empty(n_classes)
    along = _along(basis, t)
    part = np.empty((n_classes, m))
    for run in range(begin, end):
        _start(basis, shift, t, runs[run, _KEY:], a, kappa)
        for c in range(n_classes):
            for r in range(m):
                part[c, r] = 0.0
        total = 0.0
        for i in range(runs[run, _SIZE]):
            position = runs[run, _KEY] + i
            h = 0.0
            for r in range(m):
                x[r] = a[r] + position * basis[0, r]
                h -= 0.5 * x[r] * x[r]
            for c in range(n_classes):
                g0, g1 = hermite(sample, step, origin, kappa[c] + position * along[c])
                h += p[c] * g0
                slope[c] = g1
            w = math.exp(n_samples * (h - top))
            total += w
            for c in range(n_classes):
                factor = w * slope[c]
                for r in range(m):
                    part[c, r] += factor * x[r]
        k = group[runs[run, _REGION]]
        mass[k] += total
        for c in range(n_classes):
            for r in range(m):
                first[k, c, r] += p[c] * part[c, r]


@jit
def moments(quick, p, t, n_samples, basis, shift, top, runs, begin, end, exponent, mass, first, second):
    """As `slopes`, and over all regions second (C (C + 1) / 2 + C, m (m + 1) / 2): sums of e^{P (h - top)} times
    p_c G'_c p_d G'_d a_r a_q for c >= d (rows) and r >= q (columns), then of p_c G''_c a_r a_q.
    """
    n_classes, m = t.shape
    a, x = np.empty(m), np.empty(m)
    kappa, slope, curvature = np.empty(n_classes), np.empty(n_classes), np.empty(n_classes)
    along = _along(basis, t)
    n_squares = m * (m + 1) // 2
    square = np.empty(n_squares)
    for run in range(begin, end):
        _start(basis, shift, t, runs[run, _KEY:], a, kappa)
        k = runs[run, _REGION]
        for i in range(runs[run, _SIZE]):
            position = runs[run, _KEY] + i
            h = 0.0
            j = 0
            for r in range(m):
                x[r] = a[r] + position * basis[0, r]
                h -= 0.5 * x[r] * x[r]
                for q in range(r + 1):
                    square[j] = x[r] * x[q]
                    j += 1
            for c in range(n_classes):
                g0, g1, g2 = quick2(quick, kappa[c] + position * along[c])
                h += p[c] * g0
                slope[c] = p[c] * g1
                curvature[c] = p[c] * g2
            value = n_samples * (h - top)
            exponent[runs[run, _FIRST] + i] = value
            w = math.exp(value)
            mass[k] += w
            row = 0
            for c in range(n_classes):
                factor = w * slope[c]
                for r in range(m):
                    first[k, c, r] += factor * x[r]
                for d in range(c + 1):
                    both = factor * slope[d]
                    for j in range(n_squares):
                        second[row, j] += both * square[j]
                    row += 1
            for c in range(n_classes):
                both = w * curvature[c]
                for j in range(n_squares):
                    second[row, j] += both * square[j]
                row += 1


@jit
def basin_roots(exponent, runs, slots):
    """Position of the lattice maximum that steepest ascent over nearest neighbours reaches from each node."""
    m = runs.shape[1] - _KEY
    root = np.arange(exponent.shape[0])
    key = np.empty(m, np.int64)
    for run in range(runs.shape[0]):
        first, size = runs[run, _FIRST], runs[run, _SIZE]
        for i in range(first, first + size):
            if i > first and exponent[i - 1] > exponent[i]:
                root[i] = i - 1
            if i + 1 < first + size and exponent[i + 1] > exponent[root[i]]:
                root[i] = i + 1
        for move in range(2 * (m - 1)):
            for r in range(m):
                key[r] = runs[run, _KEY + r]
            key[1 + (move >> 1)] += 1 if move & 1 else -1
            other = slots[_find(slots, runs, key)]
            while other >= 0:
                ahead = runs[run, _KEY] - runs[other, _KEY]
                for i in range(max(0, -ahead), min(size, runs[other, _SIZE] - ahead)):
                    j = runs[other, _FIRST] + i + ahead
                    if exponent[j] > exponent[root[first + i]]:
                        root[first + i] = j
                other = runs[other, _NEXT]
    for i in range(root.shape[0]):
        top = i
        while root[top] != top:
            top = root[top]
        j = i
        while root[j] != top:
            root[j], j = top, root[j]
    return root


@jit
def code_moments(basis, shift, runs, exponent, scale, centre, label, whole, total, mean, covariance):
    """Weight (n,), mean (n, m) and covariance (n, m, m) of each code, in place of the moments of runs that are cut.

    The mass of a node is e^exponent times the `scale` (K,) of its region, its code that of `label` (N,); runs that are
    not `whole` (R,) are left out. `centre` (n, m) is somewhere in the code, so that squares keep their digits.
    """
    n_codes, m = mean.shape
    a = np.empty(m)
    x = np.empty(m)
    for run in range(runs.shape[0]):
        for r in range(m):
            a[r] = (runs[run, _KEY] + shift[0]) * basis[0, r]
            for q in range(1, m):
                a[r] += (runs[run, _KEY + q] + shift[q]) * basis[q, r]
        factor = scale[runs[run, _REGION]]
        for i in range(runs[run, _SIZE] if whole[run] else 0):
            node = runs[run, _FIRST] + i
            k = label[node]
            mass = factor * math.exp(exponent[node])
            total[k] += mass
            for r in range(m):
                x[r] = a[r] + i * basis[0, r] - centre[k, r]
                mean[k, r] += mass * x[r]
                for q in range(r + 1):
                    covariance[k, r, q] += mass * x[r] * x[q]
    for k in range(n_codes):
        for r in range(m):
            mean[k, r] /= total[k]
        for r in range(m):
            for q in range(r + 1):
                covariance[k, r, q] = covariance[k, r, q] / total[k] - mean[k, r] * mean[k, q]
                covariance[k, q, r] = covariance[k, r, q]
        for r in range(m):
            mean[k, r] += centre[k, r]
