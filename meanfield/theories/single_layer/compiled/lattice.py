"""The readout integral at finite P on a lattice, split into separated regions (sigma_a = 1).

    I(t) = int da (P / 2 pi)^{m/2} e^{P h(a; t)}  ~  |det B| (P / 2 pi)^{m/2} sum_i e^{P h(a_i)},  a_i = (n_i + shift) B

Only nodes that carry weight are visited: a flood fill over nearest neighbours from every local maximum of h, down to
e^{-window} of the highest one. Its connected components, the regions, are what separated codes are at finite P.

The fill goes by runs, stretches of nodes along the first basis vector: along these kappa_c is linear in the position,
and only runs have to be found again among those that are known. All nodes of a run are kept in order.

Every loop here can be left and entered again, so that the callers in
`meanfield.theories.single_layer.readout.nodes` look at signals and clocks in between.
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.exponentials import LANES, exponentials, padded
from meanfield.numerics.hash_set import HASH_FACTOR
from meanfield.numerics.jit import jit
from meanfield.theories.single_layer.compiled.stretch import (
    ROOM,
    along,
    anywhere,
    direct_site,
    line_fields,
    line_through,
    single_site,
)

__all__ = [
    "COLUMNS",
    "CURSOR",
    "FIRST",
    "KEY",
    "NEXT",
    "REGION",
    "SIZE",
    "basin_roots",
    "code_moments",
    "direct_slopes",
    "find_line",
    "grow",
    "moments",
    "rehash",
    "slopes",
]

CURSOR = 6  # entries: nodes, runs, next run to expand, next seed, regions closed, whether the open one has nodes
# Columns of `runs`: where its nodes begin, their number, region, next run on the same line (or -1), the stretch around
# it about which all is known, and the integers n (m,) of its first node.
FIRST, SIZE, REGION, NEXT, _LOW, _HIGH, KEY = range(7)
COLUMNS = KEY
_BELOW = 2  # nodes below and above those beside a run that are evaluated with them


@jit
def find_line(slots, runs, key):
    """Slot of the line through `key` (m,), along the first basis vector, or the empty slot where it belongs."""
    code = 0
    for r in range(1, key.shape[0]):
        code = (code ^ key[r]) * HASH_FACTOR
        code ^= code >> 29
    mask = slots.shape[0] - 1
    slot = code & mask
    while slots[slot] >= 0:
        i = slots[slot]
        same = True
        for r in range(1, key.shape[0]):
            if runs[i, KEY + r] != key[r]:
                same = False
                break
        if same:
            return slot
        slot = (slot + 1) & mask
    return slot


@jit
def _known(slots, runs, key, position):
    """The run on the line of `key` around which `position` is known, or -1."""
    i = slots[find_line(slots, runs, key)]
    while i >= 0 and not (runs[i, _LOW] <= position <= runs[i, _HIGH]):
        i = runs[i, NEXT]
    return i


@jit
def rehash(runs, n_runs, slots):
    """Enter the lines of all runs into the empty hash table `slots`; the last run of a line leads to the others."""
    key = np.empty(runs.shape[1] - KEY, np.int64)
    for i in range(n_runs):
        for r in range(key.shape[0]):
            key[r] = runs[i, KEY + r]
        slots[find_line(slots, runs, key)] = i


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
    coefficients, inverse, half = quick.coefficients, quick.inverse, quick.half
    summed = mass.shape[0] > 0
    kappa, slope, value, w = np.empty((n_classes, ROOM)), np.empty((n_classes, ROOM)), np.empty(ROOM), np.empty(ROOM)
    none = np.empty((0, 0))
    part = np.empty((n_classes, 2))
    key, a = np.empty(m, np.int64), np.empty(m)
    line, step = np.empty(n_classes + 2), along(basis, t, n_samples)
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
                key[r] = seeds[seed, r] if fresh else runs[head, KEY + r]
            position = key[0]
            last = position if fresh else position + runs[head, SIZE] - 1
            if not fresh:
                key[1 + (move >> 1)] += 1 if move & 1 else -1
            origin = position  # distances along the line are counted from here
            line_through(basis, shift, t, n_samples, top, key, origin, a, line)
            low, got = position, 0  # nodes low ... low + got - 1 are evaluated
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
                if not low <= position < low + got:
                    low, got = position - _BELOW, min(last - position + 1 + 2 * _BELOW, ROOM)
                    line_fields(line, step, low - origin, padded(got), kappa, value)
                    if not single_site(
                        coefficients, inverse, half, n_samples, p, kappa, padded(got), value, slope, none
                    ):
                        anywhere(quick, n_samples, p, kappa, padded(got), value, slope, none)
                if not value[position - low] > -window:
                    if beside >= 0:
                        runs[beside, _HIGH] = position
                    position += 1
                    continue
                # A run: down from here to where it begins, then up.
                begin = position
                while True:
                    while begin > low and value[begin - 1 - low] > -window:
                        begin -= 1
                    if begin > low or position - begin > exponent.shape[0]:
                        break
                    low, got = begin - ROOM // 2, ROOM
                    line_fields(line, step, low - origin, padded(got), kappa, value)
                    if not single_site(
                        coefficients, inverse, half, n_samples, p, kappa, padded(got), value, slope, none
                    ):
                        anywhere(quick, n_samples, p, kappa, padded(got), value, slope, none)
                end, at = count, begin
                total = 0.0
                for c in range(n_classes):
                    part[c, 0], part[c, 1] = 0.0, 0.0
                while True:
                    if at >= low + got:
                        low, got = at, ROOM // 2
                        line_fields(line, step, low - origin, padded(got), kappa, value)
                        if not single_site(
                            coefficients, inverse, half, n_samples, p, kappa, padded(got), value, slope, none
                        ):
                            anywhere(quick, n_samples, p, kappa, padded(got), value, slope, none)
                    i, n = at - low, 0
                    while i + n < got and value[i + n] > -window:
                        n += 1
                    if end + n > exponent.shape[0]:
                        break
                    for j in range(n):
                        exponent[end + j] = value[i + j]
                    if summed:
                        exponentials(value, i + n, w)
                        total += _add(w, slope, i, i + n, low - origin, part)
                    end += n
                    at += n
                    if i + n < got:
                        break
                if (at < low + got and value[at - low] > -window) or n_runs == runs.shape[0]:
                    state = 3 if n_runs == runs.shape[0] else 2
                    break
                slot = find_line(slots, runs, key)
                runs[n_runs, FIRST], runs[n_runs, SIZE], runs[n_runs, REGION] = count, end - count, n_regions
                runs[n_runs, NEXT], runs[n_runs, KEY] = slots[slot], begin
                runs[n_runs, _LOW], runs[n_runs, _HIGH] = min(begin - 1, outside), at
                for r in range(1, m):
                    runs[n_runs, KEY + r] = key[r]
                slots[slot] = n_runs
                n_runs += 1
                if summed:
                    mass[n_regions] += total
                    _spread(p, a, basis, part, first, n_regions)
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
            if known >= 0 and 0 <= seeds[seed, 0] - runs[known, KEY] < runs[known, SIZE]:
                seed_region[seed] = runs[known, REGION]
            seed += 1
        else:
            head += 1
    cursor[0], cursor[1], cursor[2], cursor[3], cursor[4], cursor[5] = count, n_runs, head, seed, n_regions, open_region
    return state


@jit
def _add(w, slope, begin, end, at, part):
    """Add the sums of w G'_c and of its product with the distance, at + i, to part (C, 2); returns the sum of w.

    Over begin <= i < end; w of the other nodes in the same lanes becomes 0.
    """
    first, last = begin // LANES * LANES, padded(end)
    for i in range(first, begin):
        w[i] = 0.0
    for i in range(end, last):
        w[i] = 0.0
    total = 0.0
    for block in range(first, last, LANES):
        for i in range(block, block + LANES):
            total += w[i]
    for c in range(part.shape[0]):
        one, two = 0.0, 0.0
        for block in range(first, last, LANES):
            for i in range(block, block + LANES):
                factor = w[i] * slope[c, i]
                one += factor
                two += factor * (at + i)
        part[c, 0] += one
        part[c, 1] += two
    return total


@jit
def _spread(p, a, basis, part, first, k):
    """Add p_c times the sums of w G'_c x to first[k] (C, m), x = a + distance times the first basis vector."""
    for c in range(part.shape[0]):
        for r in range(a.shape[0]):
            first[k, c, r] += p[c] * (part[c, 0] * a[r] + part[c, 1] * basis[0, r])


@jit
def slopes(quick, p, t, n_samples, basis, shift, top, runs, begin, end, exponent, mass, first):
    """Add to each region's mass (K,) and first (K, C, m), sums of e^{P (h - top)} and of its product with
    p_c G'(a.t_c) a, over the runs begin ... end - 1.

    The nodes may come from a nearby t: exponents (n,) are those of this t afterwards. Returns the largest change.
    """
    n_classes, m = t.shape
    coefficients, inverse, half = quick.coefficients, quick.inverse, quick.half
    kappa, slope, value, w = np.empty((n_classes, ROOM)), np.empty((n_classes, ROOM)), np.empty(ROOM), np.empty(ROOM)
    none = np.empty((0, 0))
    a, line, step = np.empty(m), np.empty(n_classes + 2), along(basis, t, n_samples)
    part = np.empty((n_classes, 2))
    changed, check = 0.0, 0.0
    for run in range(begin, end):
        line_through(basis, shift, t, n_samples, top, runs[run, KEY:], runs[run, KEY], a, line)
        for c in range(n_classes):
            part[c, 0], part[c, 1] = 0.0, 0.0
        total = 0.0
        for at in range(0, runs[run, SIZE], ROOM):
            n = min(ROOM, runs[run, SIZE] - at)
            line_fields(line, step, at, padded(n), kappa, value)
            if not single_site(coefficients, inverse, half, n_samples, p, kappa, padded(n), value, slope, none):
                anywhere(quick, n_samples, p, kappa, padded(n), value, slope, none)
            node = runs[run, FIRST] + at
            for i in range(n):
                changed = max(changed, abs(value[i] - exponent[node + i]))
                check += value[i]
                exponent[node + i] = value[i]
            exponentials(value, n, w)
            total += _add(w, slope, 0, n, at, part)
        k = runs[run, REGION]
        mass[k] += total
        _spread(p, a, basis, part, first, k)
    return changed if np.isfinite(check) else np.inf


@jit
def direct_slopes(sample, spacing, origin, p, t, n_samples, top, basis, shift, runs, begin, end, group, mass, first):
    """What `slopes` adds up, written apart from it, from samples of G that owe nothing to the table.

    group (K',) says to which entry of mass (K,) and first (K, C, m) the nodes of a region belong.
    """
    n_classes, m = t.shape
    kappa, slope, value, w = np.empty((n_classes, ROOM)), np.empty((n_classes, ROOM)), np.empty(ROOM), np.empty(ROOM)
    a, line, step = np.empty(m), np.empty(n_classes + 2), along(basis, t, n_samples)
    for run in range(begin, end):
        line_through(basis, shift, t, n_samples, top, runs[run, KEY:], runs[run, KEY], a, line)
        k = group[runs[run, REGION]]
        for at in range(0, runs[run, SIZE], ROOM):
            n = min(ROOM, runs[run, SIZE] - at)
            whole = padded(n)
            line_fields(line, step, at, whole, kappa, value)
            direct_site(sample, spacing, origin, n_samples, p, kappa, whole, value, slope)
            exponentials(value, n, w)
            for i in range(n, whole):
                w[i] = 0.0
            for block in range(0, whole, LANES):
                for i in range(block, block + LANES):
                    mass[k] += w[i]
            for c in range(n_classes):
                one, two = 0.0, 0.0
                for block in range(0, whole, LANES):
                    for i in range(block, block + LANES):
                        one += w[i] * slope[c, i]
                        two += w[i] * slope[c, i] * (at + i)
                for r in range(m):
                    first[k, c, r] += p[c] * (one * a[r] + two * basis[0, r])


@jit
def moments(quick, p, t, n_samples, basis, shift, top, runs, begin, end, exponent, mass, first, second):
    """As `slopes`, and over all regions second (C (C + 1) / 2 + C, m (m + 1) / 2): sums of e^{P (h - top)} times
    p_c G'_c p_d G'_d a_r a_q for c >= d (rows) and r >= q (columns), then of p_c G''_c a_r a_q.
    """
    n_classes, m = t.shape
    coefficients, inverse, half = quick.coefficients, quick.inverse, quick.half
    kappa, slope, value, w = np.empty((n_classes, ROOM)), np.empty((n_classes, ROOM)), np.empty(ROOM), np.empty(ROOM)
    curvature = np.empty((n_classes, ROOM))
    a, line, step = np.empty(m), np.empty(n_classes + 2), along(basis, t, n_samples)
    part = np.empty((n_classes, 2))
    for run in range(begin, end):
        line_through(basis, shift, t, n_samples, top, runs[run, KEY:], runs[run, KEY], a, line)
        k = runs[run, REGION]
        for at in range(0, runs[run, SIZE], ROOM):
            n = min(ROOM, runs[run, SIZE] - at)
            line_fields(line, step, at, padded(n), kappa, value)
            if not single_site(coefficients, inverse, half, n_samples, p, kappa, padded(n), value, slope, curvature):
                anywhere(quick, n_samples, p, kappa, padded(n), value, slope, curvature)
            node = runs[run, FIRST] + at
            for i in range(n):
                exponent[node + i] = value[i]
            exponentials(value, n, w)
            for c in range(n_classes):
                part[c, 0], part[c, 1] = 0.0, 0.0
            mass[k] += _add(w, slope, 0, n, at, part)
            _spread(p, a, basis, part, first, k)
            row = 0
            for c in range(n_classes):
                for i in range(padded(n)):
                    value[i] = w[i] * slope[c, i]
                for d in range(c + 1):
                    _add_squares(p[c] * p[d], value, slope, d, n, at, a, basis, second, row)
                    row += 1
            for c in range(n_classes):
                _add_squares(p[c], w, curvature, c, n, at, a, basis, second, row)
                row += 1


@jit
def _add_squares(scale, w, factor, c, n, at, a, basis, second, row):
    """Add scale times the sum of w factor_c x_r x_q, x = a + distance times the first basis vector, to a row.

    w is 0 beyond n in the last lanes.
    """
    zero, one, two = 0.0, 0.0, 0.0
    for block in range(0, n, LANES):
        for i in range(block, block + LANES):
            value = w[i] * factor[c, i]
            moved = value * (at + i)
            zero += value
            one += moved
            two += moved * (at + i)
    zero, one, two = scale * zero, scale * one, scale * two
    j = 0
    for r in range(a.shape[0]):
        for q in range(r + 1):
            mixed = a[r] * basis[0, q] + a[q] * basis[0, r]
            second[row, j] += zero * a[r] * a[q] + one * mixed + two * basis[0, r] * basis[0, q]
            j += 1


@jit
def basin_roots(exponent, runs, slots):
    """Position of the lattice maximum that steepest ascent over nearest neighbours reaches from each node."""
    m = runs.shape[1] - KEY
    root = np.arange(exponent.shape[0])
    key = np.empty(m, np.int64)
    for run in range(runs.shape[0]):
        first, size = runs[run, FIRST], runs[run, SIZE]
        for i in range(first, first + size):
            if i > first and exponent[i - 1] > exponent[i]:
                root[i] = i - 1
            if i + 1 < first + size and exponent[i + 1] > exponent[root[i]]:
                root[i] = i + 1
        for move in range(2 * (m - 1)):
            for r in range(m):
                key[r] = runs[run, KEY + r]
            key[1 + (move >> 1)] += 1 if move & 1 else -1
            other = slots[find_line(slots, runs, key)]
            while other >= 0:
                ahead = runs[run, KEY] - runs[other, KEY]
                for i in range(max(0, -ahead), min(size, runs[other, SIZE] - ahead)):
                    j = runs[other, FIRST] + i + ahead
                    if exponent[j] > exponent[root[first + i]]:
                        root[first + i] = j
                other = runs[other, NEXT]
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
            a[r] = (runs[run, KEY] + shift[0]) * basis[0, r]
            for q in range(1, m):
                a[r] += (runs[run, KEY + q] + shift[q]) * basis[q, r]
        factor = scale[runs[run, REGION]]
        for i in range(runs[run, SIZE] if whole[run] else 0):
            node = runs[run, FIRST] + i
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
