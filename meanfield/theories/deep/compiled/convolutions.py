"""Sums of conjugate fields of exchangeable classes: convolutions of polynomials."""

from __future__ import annotations

import numpy as np

from meanfield.numerics.jit import jit

__all__ = ["convolved"]


@jit
def _supports(values):
    """(k, 2) where the first row of each part (k, monomials, n) is not 0: from and to."""
    found = np.empty((values.shape[0], 2), dtype=np.int64)
    for i in range(values.shape[0]):
        low, high = 0, values.shape[2]
        while low < high and values[i, 0, low] == 0.0:
            low += 1
        while high > low and values[i, 0, high - 1] == 0.0:
            high -= 1
        found[i, 0], found[i, 1] = low, high
    return found


@jit
def convolved(one, two, products, same, out):
    """Products of two polynomials whose coefficients are functions on a lattice, in out (zeros at first).

    one (k, monomials, n) and two (k', monomials, n'), parts by the number of classes that are active; out
    (k + k' - 1, monomials, n + n' - 1); row of `products` (j, j', j''): monomial j times j' is j''. Of a square
    (`same`) one half is computed.
    """
    left, right = _supports(one), _supports(two)
    for i in range(one.shape[0]):
        for j in range(i if same else 0, two.shape[0]):
            low, high = right[j, 0], right[j, 1]
            for row in range(products.shape[0]):
                a, b, c = products[row, 0], products[row, 1], products[row, 2]
                factor = 1.0
                if same and i == j:
                    if a > b:
                        continue
                    factor = 1.0 if a == b else 2.0
                elif same:
                    factor = 2.0
                for s in range(left[i, 0], left[i, 1]):
                    value = factor * one[i, a, s]
                    for t in range(low, high):
                        out[i + j, c, s + t] += value * two[j, b, t]
