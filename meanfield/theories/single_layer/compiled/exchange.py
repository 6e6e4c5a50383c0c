"""Exchangeable classes at finite P: the integral over all that tells classes of a kind apart, at given mean field.

For n classes of a kind with fraction p each, rho = |t_c|^2 - t_c.t_c' and mean field m (sigma_a = 1),

    R(m) = int_{mean x = 0} dx (P / 2 pi rho)^{(n-1)/2} prod_c e^{-P x_c^2 / 2 rho + P p G(m + x_c)}
         = n^{1/2} (P / 2 pi rho)^{(n-1)/2} e^{P n m^2 / 2 rho} f^{*n}(n m),
    f(kappa) = e^{-P kappa^2 / 2 rho + P p G(kappa)},

with f^{*n} the n-fold convolution of a positive function: sums on a grid of kappa, whose error is that of Poisson
summation, and in which nothing cancels. Derivatives by rho are moments of the sum of kappa^2, which go through
convolutions. All functions are kept as logarithms.
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.copies import copy_matrix
from meanfield.numerics.exponentials import LANES, exponentials, padded
from meanfield.numerics.jit import jit
from meanfield.theories.single_layer.compiled.stretch import direct_line

__all__ = [
    "COLUMNS",
    "alone_values",
    "convolved",
    "kind_activity",
    "kind_values",
    "others_of",
    "powers",
    "single_class",
]

COLUMNS = 6  # of `kind_values`
BLOCK = 32  # places that are looked at together: whole lanes
_FAINT = -42.0  # ln of what is left out of a sum, relative to its largest term


@jit
def _bend(sample, place):
    """G'' at a place between samples, by a cubic through four of them."""
    j = min(max(math.floor(place), 1), sample.shape[0] - 3)
    u = place - j
    lower = -u * (u - 1.0) * (u - 2.0) / 6.0 * sample[j - 1, 2] + 0.5 * (u + 1.0) * (u - 1.0) * (u - 2.0) * sample[j, 2]
    upper = -0.5 * (u + 1.0) * u * (u - 2.0) * sample[j + 1, 2] + (u + 1.0) * u * (u - 1.0) / 6.0 * sample[j + 2, 2]
    return lower + upper


@jit
def single_class(sample, spacing, origin, n_samples, p, inverse_rho, low, step, value, first, second):
    """ln f, and its first two derivatives unless these are empty, at low, low + step, ...; G from samples.

    `inverse_rho` = 0: of e^{P p G} alone.
    """
    slope, pull = np.empty(value.shape[0]), n_samples * inverse_rho
    direct_line(sample, spacing, origin, n_samples, p, low, step, value, slope)
    for i in range(value.shape[0]):
        x = low + i * step
        value[i] -= 0.5 * pull * x * x
        if first.shape[0] > 0:
            first[i] = n_samples * p * slope[i] - pull * x
            second[i] = n_samples * p * _bend(sample, x / spacing - origin) - pull


@jit
def _largest(f, begin, backwards, start, count):
    """Largest of f[begin + i] + backwards[start + i], i < count."""
    lanes = np.full(LANES, -np.inf)
    whole = count // LANES * LANES
    for i in range(0, whole, LANES):
        for k in range(LANES):
            x = f[begin + i + k] + backwards[start + i + k]
            lanes[k] = x if x > lanes[k] else lanes[k]
    top = -np.inf
    for i in range(whole, count):
        top = max(top, f[begin + i] + backwards[start + i])
    for k in range(LANES):
        top = max(top, lanes[k])
    return top


@jit
def _block_top(f, begin, g, start):
    """Largest of f[begin + i] + g[start + i] over a whole block: four at a time, which do not wait for each other."""
    m0, m1, m2, m3 = -np.inf, -np.inf, -np.inf, -np.inf
    for i in range(0, BLOCK, 4):
        x0, x1 = f[begin + i] + g[start + i], f[begin + i + 1] + g[start + i + 1]
        x2, x3 = f[begin + i + 2] + g[start + i + 2], f[begin + i + 3] + g[start + i + 3]
        m0 = x0 if x0 > m0 else m0
        m1 = x1 if x1 > m1 else m1
        m2 = x2 if x2 > m2 else m2
        m3 = x3 if x3 > m3 else m3
    m0 = m1 if m1 > m0 else m0
    m2 = m3 if m3 > m2 else m2
    return m2 if m2 > m0 else m0


@jit
def convolved(f, g, n_moments, result):
    """Rows ln (f * g), <Q>, <Q^2> (1 + n_moments, n_f + n_g - 1) of functions with rows ln f, <Q>, <Q^2>.

    Blocks whose largest terms are too small to count are passed over: with many samples functions are narrow.
    """
    n_f, n_g = f.shape[1], g.shape[1]
    backwards = np.empty((g.shape[0], n_g))
    for k in range(n_g):
        for row in range(g.shape[0]):
            backwards[row, k] = g[row, n_g - 1 - k]
    tops, exponent, w = np.empty(min(n_f, n_g) // BLOCK + 2), np.empty(BLOCK), np.empty(BLOCK)
    for at in range(n_f + n_g - 1):
        begin = max(0, at - n_g + 1)
        size = min(n_f, at + 1) - begin
        start = n_g - 1 - at + begin
        n_blocks, top = size // BLOCK, -np.inf
        for k in range(n_blocks):
            tops[k] = _block_top(f[0], begin + k * BLOCK, backwards[0], start + k * BLOCK)
            top = max(top, tops[k])
        if n_blocks * BLOCK < size:
            tops[n_blocks] = -np.inf
            for i in range(n_blocks * BLOCK, size):
                tops[n_blocks] = max(tops[n_blocks], f[0, begin + i] + backwards[0, start + i])
            top = max(top, tops[n_blocks])
            n_blocks += 1
        total, mean, square = 0.0, 0.0, 0.0
        for k in range(n_blocks):
            if tops[k] < top + _FAINT:
                continue
            here, there, count = begin + k * BLOCK, start + k * BLOCK, min(BLOCK, size - k * BLOCK)
            for i in range(count):
                exponent[i] = f[0, here + i] + backwards[0, there + i] - top
            exponentials(exponent, count, w)
            for i in range(count):
                total += w[i]
            if n_moments > 0:
                for i in range(count):
                    mean += w[i] * (f[1, here + i] + backwards[1, there + i])
            if n_moments > 1:
                for i in range(count):
                    one, other = f[1, here + i], backwards[1, there + i]
                    square += w[i] * (f[2, here + i] + 2.0 * one * other + backwards[2, there + i])
        result[0, at] = top + math.log(total)
        if n_moments > 0:
            result[1, at] = mean / total
        if n_moments > 1:
            result[2, at] = square / total


@jit
def powers(f, n, n_moments, result):
    """Rows of the n-fold convolution of f, `result` (1 + n_moments, n (N - 1) + 1): by doubling."""
    size = f.shape[1]
    has, so_far = 0, np.empty((1 + n_moments, 1))
    power, exponent, left = f, 1, n
    while left > 0:
        if left % 2 == 1:
            if has == 0:
                so_far = power.copy()
            else:
                longer = np.empty((1 + n_moments, (has + exponent) * (size - 1) + 1))
                convolved(so_far, power, n_moments, longer)
                so_far = longer
            has += exponent
        left //= 2
        if left > 0:
            longer = np.empty((1 + n_moments, 2 * exponent * (size - 1) + 1))
            convolved(power, power, n_moments, longer)
            power, exponent = longer, 2 * exponent
    copy_matrix(result, so_far)


@jit
def others_of(sample, spacing, origin, n_samples, p, n, inverse_rho, low, step, size, n_moments):
    """All classes of a kind but one: rows of f^{*(n-1)}, from the highest sum of kappa to the lowest.

    Each of them is on the grid low, low + step, ... of `size` nodes.
    """
    one, none = np.empty((1 + n_moments, size)), np.empty(0)
    single_class(sample, spacing, origin, n_samples, p, inverse_rho, low, step, one[0], none, none)
    for row in range(1, 1 + n_moments):
        for i in range(size):
            one[row, i] = (low + i * step) ** (2 * row)
    others = np.empty((1 + n_moments, (n - 1) * (size - 1) + 1))
    powers(one, n - 1, n_moments, others)
    return others[:, ::-1].copy()


@jit
def alone_values(sample, spacing, origin, n_samples, p, mean_field, values):
    """P p G at each mean field (M,) and its first two derivatives; values (M, COLUMNS)."""
    value, first, second = np.empty(1), np.empty(1), np.empty(1)
    for i in range(mean_field.shape[0]):
        single_class(sample, spacing, origin, n_samples, p, 0.0, mean_field[i], 1.0, value, first, second)
        values[i, 0], values[i, 1], values[i, 2] = value[0], first[0], second[0]
        values[i, 3], values[i, 4], values[i, 5] = 0.0, 0.0, 0.0


@jit
def kind_values(
    sample, spacing, origin, n_samples, p, n, inverse_rho, low, step, size, n_moments, backwards, mean_field, values
):  # fmt: skip
    """ln R at each mean field (M,) and, with two moments, its derivatives by m, m m, lambda, lambda lambda, lambda m,
    where lambda = 1 / rho; with one moment those by m and lambda only. `values` (M, COLUMNS).

    `backwards` is what `others_of` returns; the class that is left is where the mean field leaves it. NaN beyond the
    grid.
    """
    pull = n_samples * inverse_rho
    base = 0.5 * math.log(n) + 0.5 * (n - 1) * math.log(pull / (2.0 * math.pi)) + (n - 1) * math.log(step)
    value, first, second = np.empty(size), np.empty(size), np.empty(size)
    exponent, w = np.empty(padded(size)), np.empty(padded(size))
    last = backwards.shape[1] - 1
    for k in range(mean_field.shape[0]):
        m = mean_field[k]
        # Others at (n - 1) low + i step, i = last .. 0, the one left at n m minus that.
        place = (n * (m - low)) / step
        i0 = min(last, math.floor(place))  # the one left at a non-negative place
        i1 = max(0, i0 - size + 1)
        count = i0 - i1 + 1
        if count <= 0:
            values[k, :] = np.nan
            continue
        start_kappa = n * m - (n - 1) * low - i0 * step
        single_class(
            sample, spacing, origin, n_samples, p, inverse_rho, start_kappa, step, value[:count], first[:count],
            second[:count],
        )  # fmt: skip
        start = last - i0  # in `backwards`, which goes down in i as kappa goes up
        top = _largest(value, 0, backwards[0], start, count)
        begin, end = 0, count
        while value[begin] + backwards[0, start + begin] < top + _FAINT:
            begin += 1
        while value[end - 1] + backwards[0, start + end - 1] < top + _FAINT:
            end -= 1
        used = end - begin
        for i in range(used):
            exponent[i] = value[begin + i] + backwards[0, start + begin + i] - top
        exponentials(exponent, used, w)
        total, slope, bend, square, fourth, mixed = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(used):
            total += w[i]
            slope += w[i] * first[begin + i]
        slope /= total
        values[k, 0] = base + 0.5 * pull * n * m * m + top + math.log(total)
        values[k, 1] = n * slope + pull * n * m
        if n_moments == 0:
            continue
        for i in range(used):
            x = start_kappa + (begin + i) * step
            square += w[i] * (backwards[1, start + begin + i] + x * x)
        square /= total
        values[k, 3] = 0.5 * (n - 1) / inverse_rho + 0.5 * n_samples * (n * m * m - square)
        if n_moments == 1:
            continue
        for i in range(used):
            x = start_kappa + (begin + i) * step
            away = first[begin + i] - slope
            own = backwards[1, start + begin + i]
            bend += w[i] * (second[begin + i] + away * away)
            mixed += w[i] * (own + x * x - square) * away
            # Centred, where <Q^2> allows it.
            fourth += w[i] * (backwards[2, start + begin + i] - own * own + (own + x * x - square) ** 2)
        values[k, 2] = n * n * bend / total + pull * n
        values[k, 4] = -0.5 * (n - 1) / inverse_rho**2 + 0.25 * n_samples * n_samples * fourth / total
        values[k, 5] = -0.5 * n_samples * n * mixed / total  # <2 kappa> = 2 m of the one left cancels n m


@jit
def kind_activity(
    sample, spacing, origin, n_samples, p, n, inverse_rho, low, step, size, mean_field, values
):  # fmt: skip
    """<A>, <A^2> of A = sum_c G'_c over the n classes of a kind, sum_c <G'_c^2>, sum_c <G''_c>, at each mean field."""
    pull = n_samples * inverse_rho
    if n == 1:
        value, first, second = np.empty(1), np.empty(1), np.empty(1)
        for k in range(mean_field.shape[0]):
            single_class(sample, spacing, origin, n_samples, p, 0.0, mean_field[k], step, value, first, second)
            g = first[0] / (n_samples * p)
            values[k, 0], values[k, 1], values[k, 2], values[k, 3] = g, g * g, g * g, second[0] / (n_samples * p)
        return
    one, value, first, second = np.empty((3, size)), np.empty(size), np.empty(size), np.empty(size)
    single_class(sample, spacing, origin, n_samples, p, inverse_rho, low, step, one[0], first, second)
    for i in range(size):
        g = (first[i] + pull * (low + i * step)) / (n_samples * p)
        one[1, i], one[2, i] = g, g * g
    others = np.empty((3, (n - 1) * (size - 1) + 1))
    powers(one, n - 1, 2, others)
    last = others.shape[1] - 1
    w = np.empty(size)
    for k in range(mean_field.shape[0]):
        i0 = min(last, math.floor(n * (mean_field[k] - low) / step))
        i1 = max(0, i0 - size + 1)
        count = i0 - i1 + 1
        values[k, :] = 0.0
        if count <= 0:
            continue
        start = n * mean_field[k] - (n - 1) * low - i0 * step
        single_class(
            sample, spacing, origin, n_samples, p, inverse_rho, start, step, value[:count], first[:count],
            second[:count],
        )  # fmt: skip
        top = -np.inf
        for i in range(count):
            top = max(top, value[i] + others[0, i0 - i])
        total = 0.0
        for i in range(count):
            w[i] = math.exp(value[i] + others[0, i0 - i] - top)
            total += w[i]
        for i in range(count):
            weight = w[i] / total
            g = (first[i] + pull * (start + i * step)) / (n_samples * p)
            a = others[1, i0 - i]
            values[k, 0] += weight * (a + g)
            values[k, 1] += weight * (others[2, i0 - i] + 2.0 * a * g + g * g)
            values[k, 2] += weight * n * g * g
            values[k, 3] += weight * n * (second[i] + pull) / (n_samples * p)
