"""Sums over the nodes of a rule that is laid around one code, in units of its widths (sigma_a = 1).

    int da (P / 2 pi)^{m/2} e^{P h(a; t)} f(a)  ~  |det L| (P / 2 pi)^{m/2} sum_i W_i e^{P h(a_i)} f(a_i),
    a_i = centre + L z_i,   L L^T = [-P d^2 h]^{-1} at the centre

Rules come in blocks of `ROOM` nodes: z (blocks, m, ROOM) and W (blocks, ROOM), filled up with nodes of weight zero.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.cumulant_table import cumulant2
from meanfield.numerics.exponentials import exponentials
from meanfield.numerics.jit import jit
from meanfield.numerics.linalg import cholesky
from meanfield.theories.single_layer.compiled.ascent import ascend
from meanfield.theories.single_layer.compiled.stretch import ROOM, anywhere, direct_site, single_site

__all__ = ["balls", "choose", "closest", "clouds", "frames", "judge", "overlap"]

_FORESEEN = 10.0  # times a change that is only expected has to be allowed


@jit
def frames(table, p, t, n_samples, modes, height, factor, inverse, log_size):
    """Climb from each of `modes` (K, m), in place, and fill height (K,), L (K, m, m), an upper triangle, its inverse,
    and ln of det L in units of P^{-m/2} (K,). False where h does not bend down at one of them.
    """
    n_classes, m = t.shape
    hess = np.empty((m, m))
    for k in range(modes.shape[0]):
        height[k], _ = ascend(table, p, t, modes[k])
        for r in range(m):
            for q in range(m):
                hess[r, q] = 1.0 if r == q else 0.0
        for c in range(n_classes):
            kappa = 0.0
            for r in range(m):
                kappa += t[c, r] * modes[k, r]
            _, _, g2 = cumulant2(table, kappa)
            for r in range(m):
                for q in range(m):
                    hess[r, q] -= p[c] * g2 * t[c, r] * t[c, q]
        if not cholesky(hess):
            return False
        # hess = C C^T with C in its lower triangle: L = C^{-T} / sqrt(P).
        root = np.sqrt(n_samples)
        for q in range(m):
            for r in range(m):
                inverse[k, q, r] = root * hess[r, q] if r >= q else 0.0
                factor[k, r, q] = 0.0
        for q in range(m):
            factor[k, q, q] = 1.0 / inverse[k, q, q]
            for r in range(q - 1, -1, -1):
                total = 0.0
                for s in range(r + 1, q + 1):
                    total -= inverse[k, r, s] * factor[k, s, q]
                factor[k, r, q] = total / inverse[k, r, r]
        log_size[k] = 0.0
        for r in range(m):
            log_size[k] += np.log(factor[k, r, r] * root)
    return True


@jit
def closest(modes):
    """Smallest distance of two of the readouts (K, m), relative to 1 + the largest."""
    least, size = np.inf, 0.0
    for k in range(modes.shape[0]):
        for r in range(modes.shape[1]):
            size = max(size, abs(modes[k, r]))
        for i in range(k):
            distance = 0.0
            for r in range(modes.shape[1]):
                distance = max(distance, abs(modes[k, r] - modes[i, r]))
            least = min(least, distance)
    return least / (1.0 + size)


@jit
def _place(t, n_samples, top, centre, factor, z, block, a, kappa, value):
    """a (m, ROOM), kappa (C, ROOM) and P (-|a|^2 / 2 - top) (ROOM,) of one block of nodes."""
    n_classes, m = t.shape
    for i in range(ROOM):
        value[i] = -n_samples * top
    for r in range(m):
        start = centre[r]
        for i in range(ROOM):
            a[r, i] = start
        for s in range(r, m):
            along = factor[r, s]
            for i in range(ROOM):
                a[r, i] += along * z[block, s, i]
        for i in range(ROOM):
            value[i] -= 0.5 * n_samples * a[r, i] * a[r, i]
    for c in range(n_classes):
        for i in range(ROOM):
            kappa[c, i] = 0.0
        for r in range(m):
            along = t[c, r]
            for i in range(ROOM):
                kappa[c, i] += along * a[r, i]


@jit
def _dot(one, other, row):
    """Sum of the products of one (ROOM,) and a row of the other."""
    total = 0.0
    for i in range(ROOM):
        total += one[i] * other[row, i]
    return total


@jit
def _mass(quick, p, t, n_samples, height, mode, factor, z, weight, begin, end):
    """sum_i W_i e^{P (h(a_i) - height)} around a mode, over blocks begin ... end of nodes."""
    n_classes, m = t.shape
    a, kappa, slope = np.empty((m, ROOM)), np.empty((n_classes, ROOM)), np.empty((n_classes, ROOM))
    value, w, none = np.empty(ROOM), np.empty(ROOM), np.empty((0, 0))
    mass = 0.0
    for block in range(begin, end):
        _place(t, n_samples, height, mode, factor, z, block, a, kappa, value)
        if not single_site(
            quick.coefficients, quick.inverse, quick.half, n_samples, p, kappa, ROOM, value, slope, none
        ):
            anywhere(quick, n_samples, p, kappa, ROOM, value, slope, none)
        exponentials(value, ROOM, w)
        mass += _dot(w, weight, block)
    return mass


@jit
def overlap(quick, p, t, n_samples, height, modes, factor, share, z, weight, ends):
    """Largest change of the integral (relative to the sum of the shares (K,)) from the first rule to the second."""
    most = 0.0
    for k in range(modes.shape[0]):
        one = _mass(quick, p, t, n_samples, height[k], modes[k], factor[k], z, weight, 0, ends[0])
        other = _mass(quick, p, t, n_samples, height[k], modes[k], factor[k], z, weight, ends[0], ends[1])
        change = share[k] * abs(other / one - 1.0)
        if not change <= most:  # nan stays
            most = change
    return most


@jit
def choose(
    quick, p, t, n_samples, height, modes, factor, share, z, weight, ends, n_first, widest, accuracy, rounding, nearly,
    changes, chosen,
):  # fmt: skip
    """Fill chosen (K,) with numbers of rules; False where a code has none.

    Rules are tried in turn, the first `n_first`, then the others, until the integral changes by less than is allowed
    from one to the next: the one before is taken. Of the first, one is taken itself where changes shrink so fast that
    the next would be far below that; what holds the solution against another rule would tell. `changes`: beyond them a
    rule does not converge. Those in `widest` (R,) are taken themselves where they change it by `nearly` times as much.
    Codes of small share may be off by more.
    """
    for k in range(modes.shape[0]):
        allowed = max(accuracy / min(1.0, 2.0 * share[k]), rounding * n_samples)
        chosen[k] = -1
        for way in range(2):
            before, changed = np.nan, np.nan
            first, last = (0, n_first) if way == 0 else (n_first, ends.shape[0])
            for rule in range(first, last):
                begin = ends[rule - 1] if rule > 0 else 0
                mass = _mass(quick, p, t, n_samples, height[k], modes[k], factor[k], z, weight, begin, ends[rule])
                change = abs(mass / before - 1.0)
                next_change = change * change / changed if way == 0 and change < changed else np.inf
                before, changed = mass, change
                if rule > first and not share[k] * change < changes[rule - first]:
                    return False
                if change <= allowed:
                    chosen[k] = rule - 1
                elif (widest[rule] and change <= nearly * allowed) or _FORESEEN * next_change <= allowed:
                    chosen[k] = rule
                if chosen[k] >= 0:
                    break
            if chosen[k] >= 0:
                break
        if chosen[k] < 0:
            return False
    return True


@jit
def clouds(
    quick, p, y, tau, t, n_samples, height, modes, factor, log_size, share, z, weight, begins, ends, hessian, log_share,
    first, readout, covariance, blocks,
):  # fmt: skip
    """Sums over all codes, code k over blocks begins[k] ... ends[k] of nodes; returns J(t).

    Fills, per code, ln of its share (K,), <p_c G'_c a> (K, C m), mean (K, m) and covariance (K, m, m) of the readout
    and, if it is asked for, the Hessian of J at these `share`s of the codes without the part between them (C m, C m).
    """
    n_classes, m = t.shape
    n_pairs, size = n_classes * (n_classes + 1) // 2, m * (m + 1) // 2
    total, moment, square = np.zeros((n_classes, m)), np.zeros(m), np.zeros((m, m))
    second = np.zeros((n_pairs + n_classes if hessian else 0, size))
    mean_second = np.zeros((n_pairs + n_classes if hessian else 0, size))
    top = -np.inf
    for k in range(modes.shape[0]):
        for c in range(n_classes):
            for r in range(m):
                total[c, r] = 0.0
        for r in range(m):
            for q in range(m):
                square[r, q] = 0.0
        for i in range(second.shape[0]):
            for j in range(size):
                second[i, j] = 0.0
        mass = cloud(
            quick, p, t, n_samples, height[k], modes[k], factor[k], z, weight, begins[k], ends[k], total, moment,
            square, second,
        )  # fmt: skip
        log_share[k] = np.log(mass) + n_samples * height[k] + log_size[k]
        top = max(top, log_share[k])
        for c in range(n_classes):
            for r in range(m):
                first[k, c * m + r] = total[c, r] / mass
        for i in range(second.shape[0]):
            for j in range(size):
                mean_second[i, j] += share[k] * (second[i, j] / mass)
        for r in range(m):
            moment[r] /= mass
            readout[k, r] = modes[k, r]
        for r in range(m):
            for q in range(m):
                readout[k, r] += factor[k, r, q] * moment[q]
                covariance[k, r, q] = 0.0
        for i in range(m):
            for j in range(m):
                within = square[max(i, j), min(i, j)] / mass - moment[i] * moment[j]
                for r in range(m):
                    for q in range(m):
                        covariance[k, r, q] += factor[k, r, i] * within * factor[k, q, j]
    if hessian:
        _blocks(p, tau, n_samples, share, first, mean_second, blocks)
    value, linear = 0.0, 0.0
    for k in range(modes.shape[0]):
        value += np.exp(log_share[k] - top)
    for c in range(n_classes):
        for r in range(m):
            linear += p[c] * t[c, r] * (0.5 * tau * t[c, r] - y[c, r])
    return linear + (top + np.log(value)) / n_samples


@jit
def _blocks(p, tau, n_samples, share, first, second, blocks):
    """The Hessian (C m, C m) from means over codes, of <g g^T> and <p_c G''_c a a^T> in lower triangles."""
    n_classes = p.shape[0]
    m = blocks.shape[0] // n_classes
    row = 0
    for c in range(n_classes):
        for d in range(c + 1):
            for r in range(m):
                for q in range(m):
                    high, low = max(r, q), min(r, q)
                    i, j, column = c * m + r, d * m + q, high * (high + 1) // 2 + low
                    value = second[row, column]
                    for k in range(share.shape[0]):
                        value -= share[k] * first[k, i] * first[k, j]
                    value *= n_samples
                    if c == d:
                        value += second[n_classes * (n_classes + 1) // 2 + c, column]
                        value += tau * p[c] if r == q else 0.0
                    blocks[i, j] = blocks[j, i] = value
            row += 1


@jit
def judge(p, y, tau, t, n_samples, share, log_share, first, violation):
    """Largest violation of stationarity and of P_k = e^{P (l_k - s)} (see `ReadoutIntegral.share_error`), and fill
    `violation` (C m + K + 1,) with all of them, the last being that of sum_k P_k = 1, which holds.
    """
    n, m = first.shape[1], y.shape[1]
    worst, mean = 0.0, 0.0
    for i in range(n):
        c, r = i // m, i % m
        total = p[c] * (tau * t[c, r] - y[c, r])
        for k in range(share.shape[0]):
            total += share[k] * first[k, i]
        violation[i] = total
        if not abs(total) / p[c] <= worst:
            worst = abs(total) / p[c]
    for k in range(share.shape[0]):
        violation[n + k] = (log_share[k] - np.log(share[k])) / n_samples
        mean += share[k] * violation[n + k]
    for k in range(share.shape[0]):
        violation[n + k] -= mean
        error = abs(violation[n + k]) * min(1.0, n_samples * share[k])
        if not error <= worst:
            worst = error
    violation[n + share.shape[0]] = 0.0
    return worst


@jit
def cloud(quick, p, t, n_samples, height, centre, factor, z, weight, begin, end, first, mean, square, second):
    """Sums around one code over blocks begin ... end of nodes; returns that of w_i = W_i e^{P (h(a_i) - height)}.

    Adds w p_c G'_c a_r to first (C, m), w z_r z_q to square (m, m), r >= q, and, unless it is empty, to second
    (C (C + 1) / 2 + C, m (m + 1) / 2) w p_c G'_c p_d G'_d a_r a_q for c >= d (rows) and r >= q (columns), then
    w p_c G''_c a_r a_q; the sum of w z_r is put into mean (m,).
    """
    n_classes, m = t.shape
    with_second = second.shape[0] > 0
    a, kappa, slope = np.empty((m, ROOM)), np.empty((n_classes, ROOM)), np.empty((n_classes, ROOM))
    curvature = np.empty((n_classes if with_second else 0, ROOM))
    value, w, both, products = np.empty(ROOM), np.empty(ROOM), np.empty(ROOM), np.empty((m * (m + 1) // 2, ROOM))
    total = np.zeros((m, ROOM))
    coefficients, inverse, half = quick.coefficients, quick.inverse, quick.half
    mass = 0.0
    for block in range(begin, end):
        _place(t, n_samples, height, centre, factor, z, block, a, kappa, value)
        if not single_site(coefficients, inverse, half, n_samples, p, kappa, ROOM, value, slope, curvature):
            anywhere(quick, n_samples, p, kappa, ROOM, value, slope, curvature)
        exponentials(value, ROOM, w)
        for i in range(ROOM):
            w[i] *= weight[block, i]
            mass += w[i]
        for r in range(m):
            for i in range(ROOM):
                value[i] = w[i] * z[block, r, i]
                total[r, i] += value[i]
            for q in range(r + 1):
                square[r, q] += _dot(value, z[block], q)
        j = 0
        for r in range(m if with_second else 0):
            for q in range(r + 1):
                for i in range(ROOM):
                    products[j, i] = a[r, i] * a[q, i]
                j += 1
        row = 0
        for c in range(n_classes):
            scale = p[c]
            for i in range(ROOM):
                value[i] = scale * (w[i] * slope[c, i])
            for r in range(m):
                first[c, r] += _dot(value, a, r)
            for d in range(c + 1 if with_second else 0):
                for i in range(ROOM):
                    both[i] = value[i] * slope[d, i]
                for j in range(products.shape[0]):
                    second[row, j] += p[d] * _dot(both, products, j)
                row += 1
        for c in range(n_classes if with_second else 0):
            for i in range(ROOM):
                both[i] = w[i] * curvature[c, i]
            for j in range(products.shape[0]):
                second[row, j] += p[c] * _dot(both, products, j)
            row += 1
    for r in range(m):
        mean[r] = np.sum(total[r])
    return mass


@jit
def balls(
    sample, spacing, origin, p, t, n_samples, height, modes, factors, inverses, share, z, weight, ends, radii, depth,
    faint, log_share, first,
):  # fmt: skip
    """ln of the share of each code (K,) (without what its frame says of that) and <p_c G'_c a> (K, C m), by
    `_direct_cloud`; returns the mass in the outermost shells of the balls, of `depth` in |z|^2.

    Balls are larger, up to the last rule, until their shells hold less than `faint`; share (K,) is that of the codes.
    """
    n_classes, m = t.shape
    n_codes, widest = modes.shape[0], radii[radii.shape[0] - 1]
    near, total, shell = np.empty(n_codes, np.int64), np.empty((n_classes, m)), np.empty(1)
    outermost = 0.0
    for k in range(n_codes):
        n_near = 0
        for i in range(n_codes):
            if i != k and _may_touch(modes, factors, inverses, k, i, widest):
                near[n_near] = i
                n_near += 1
        mass, beyond = 0.0, np.inf
        for rule in range(ends.shape[0]):
            for c in range(n_classes):
                for r in range(m):
                    total[c, r] = 0.0
            mass = _direct_cloud(
                sample, spacing, origin, p, t, n_samples, height[k], k, modes, factors[k], inverses, near, n_near, z,
                weight, ends[rule - 1] if rule > 0 else 0, ends[rule], radii[rule] ** 2 - depth, total, shell,
            )  # fmt: skip
            beyond = share[k] * (shell[0] / mass)
            if beyond <= faint:
                break
        outermost += beyond
        log_share[k] = np.log(mass)
        for c in range(n_classes):
            for r in range(m):
                first[k, c * m + r] = total[c, r] / mass
    return outermost


@jit
def _may_touch(modes, factors, inverses, k, other, widest):
    """Whether a readout can be within `widest` widths of both codes."""
    m = modes.shape[1]
    apart, stretched = 0.0, 0.0
    for r in range(m):
        distance = 0.0
        for q in range(r, m):
            distance += inverses[k, r, q] * (modes[other, q] - modes[k, q])
            product = 0.0
            for s in range(r, q + 1):
                product += inverses[k, r, s] * factors[other, s, q]
            stretched += product * product
        apart += distance * distance
    return np.sqrt(apart) < widest * (1.0 + np.sqrt(stretched))


@jit
def _direct_cloud(
    sample, spacing, origin, p, t, n_samples, height, k, centres, factor, inverses, near, n_near, z, weight, begin, end,
    edge, first, shell,
):  # fmt: skip
    """What `cloud` adds up first, written apart from it, around code k, from samples of G that are not of the table.

    A node counts for the code whose widths it is fewest of away from: the first `n_near` in `near` are asked, whose
    `inverses` of L measure. shell[0] is the part of the sum beyond |z|^2 = `edge`.
    """
    n_classes, m = t.shape
    a, kappa, slope = np.empty((m, ROOM)), np.empty((n_classes, ROOM)), np.empty((n_classes, ROOM))
    value, w = np.empty(ROOM), np.empty(ROOM)
    mine, other, part = np.empty(ROOM), np.empty(ROOM), np.empty(ROOM)
    mass, beyond = 0.0, 0.0
    for block in range(begin, end):
        _place(t, n_samples, height, centres[k], factor, z, block, a, kappa, value)
        direct_site(sample, spacing, origin, n_samples, p, kappa, ROOM, value, slope)
        exponentials(value, ROOM, w)
        for i in range(ROOM):
            w[i] *= weight[block, i]
            mine[i] = 0.0
        for r in range(m):
            for i in range(ROOM):
                mine[i] += z[block, r, i] * z[block, r, i]
        for n in range(n_near):
            j = near[n]
            for i in range(ROOM):
                other[i] = 0.0
            for r in range(m):
                for i in range(ROOM):
                    part[i] = 0.0
                for s in range(r, m):
                    for i in range(ROOM):
                        part[i] += inverses[j, r, s] * (a[s, i] - centres[j, s])
                for i in range(ROOM):
                    other[i] += part[i] * part[i]
            for i in range(ROOM):
                w[i] = w[i] if mine[i] <= other[i] else 0.0
        for i in range(ROOM):
            mass += w[i]
            beyond += w[i] if mine[i] > edge else 0.0
        for c in range(n_classes):
            for i in range(ROOM):
                part[i] = w[i] * slope[c, i]
            for r in range(m):
                first[c, r] += p[c] * _dot(part, a, r)
    shell[0] = beyond
    return mass
