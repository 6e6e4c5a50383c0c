"""Exchangeable classes at finite P: what `exchange` integrates, split by how many classes are in the upper part."""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.exponentials import exponentials, padded
from meanfield.numerics.jit import jit
from meanfield.theories.single_layer.compiled.exchange import convolved, single_class

__all__ = ["MOMENTS", "split_kind"]

MOMENTS = 5  # ln of the share, mean and variance of s, and what either part has of sum (kappa - mean of the part)^2
_FAINT = -42.0


@jit
def _all_powers(f, n, ends):
    """Rows of the n' -fold convolutions of f, n' = 0 ... n, one after the other; `ends` (n + 2,) says where."""
    size = f.shape[1]
    ends[0] = 0
    for j in range(n + 1):
        ends[j + 1] = ends[j] + j * (size - 1) + 1
    result = np.zeros((2, ends[n + 1]))
    for j in range(1, n + 1):
        convolved(result[:, ends[j - 1] : ends[j]], f, 1, result[:, ends[j] : ends[j + 1]])
    return result


@jit
def split_kind(
    sample, spacing, origin, n_samples, p, n, inverse_rho, low, step, size, cut, first, result
):  # fmt: skip
    """ln of what choices of j of n classes in the upper part, nodes `cut` ... of the grid, add to f^{*n}, and moments.

    result (n + 1, n_s, MOMENTS), at sums of kappa n low + (first + i) step; s is the sum of kappa of the upper part.
    """
    f, none = np.empty((2, size)), np.empty(0)
    single_class(sample, spacing, origin, n_samples, p, inverse_rho, low, step, f[0], none, none)
    for i in range(size):
        f[1, i] = (low + i * step) ** 2
    lower_ends, upper_ends = np.empty(n + 2, np.int64), np.empty(n + 2, np.int64)
    lower = _all_powers(f[:, :cut].copy(), n, lower_ends)
    upper = _all_powers(f[:, cut:].copy(), n, upper_ends)
    n_s = result.shape[1]
    for j in range(n + 1):
        one = upper[:, upper_ends[j] : upper_ends[j + 1]]
        other = lower[:, lower_ends[n - j] : lower_ends[n - j + 1]][:, ::-1].copy()
        n_one, n_other = one.shape[1], other.shape[1]
        ways = math.lgamma(n + 1.0) - math.lgamma(j + 1.0) - math.lgamma(n - j + 1.0)
        exponent, w = np.empty(padded(min(n_one, n_other))), np.empty(padded(min(n_one, n_other)))
        base = j * (low + cut * step)
        for i in range(n_s):
            at = first + i - j * cut
            begin = max(0, at - n_other + 1)
            count = min(n_one, at + 1) - begin
            if count <= 0:
                result[j, i, 0] = -np.inf
                result[j, i, 1:] = 0.0
                continue
            start = n_other - 1 - at + begin
            top = -np.inf
            for q in range(count):
                exponent[q] = one[0, begin + q] + other[0, start + q]
                top = max(top, exponent[q])
            for q in range(count):
                exponent[q] = max(exponent[q] - top, 10.0 * _FAINT)
            exponentials(exponent, count, w)
            total, mean, variance, upper_spread, lower_spread = 0.0, 0.0, 0.0, 0.0, 0.0
            for q in range(count):
                total += w[q]
                mean += w[q] * (base + (begin + q) * step)
            mean /= total
            whole = n * low + (first + i) * step
            for q in range(count):
                s = base + (begin + q) * step
                variance += w[q] * (s - mean) ** 2
                upper_spread += w[q] * max(0.0, one[1, begin + q] - s * s / max(j, 1))
                lower_spread += w[q] * max(0.0, other[1, start + q] - (whole - s) ** 2 / max(n - j, 1))
            result[j, i, 0] = ways + top + math.log(total)
            result[j, i, 1] = mean
            result[j, i, 2] = variance / total
            result[j, i, 3] = upper_spread / total
            result[j, i, 4] = lower_spread / total
