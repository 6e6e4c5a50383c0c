"""Sums over the conjugate fields of exchangeable classes: powers of one class by convolution, and sums over their S."""

from __future__ import annotations

import numpy as np

from meanfield.theories.deep.compiled.convolutions import convolved
from meanfield.theories.deep.monomials import Algebra
from meanfield.theories.deep.work import spend
from meanfield.validation import FloatArray, IntArray

__all__ = ["contracted", "halves", "power", "through"]


def halves(count: int) -> tuple[int, int]:
    """Classes in two parts."""
    return count // 2, count - count // 2


def power(one: FloatArray, count: int, products: IntArray) -> FloatArray:
    """(parts, M, B) a polynomial (parts, M, B) to the power of `count`, convolved."""
    if count == 1:
        return one
    left = power(one, count // 2, products)
    whole = _convolved(left, left, products, True)
    return whole if count % 2 == 0 else _convolved(whole, one, products, False)


def _convolved(left: FloatArray, right: FloatArray, products: IntArray, same: bool) -> FloatArray:
    """Their product; `same`: it is a square."""
    shape = len(left) + len(right) - 1, left.shape[1], left.shape[2] + right.shape[2] - 1
    spend(2.0 * len(products) * len(left) * len(right) * left.shape[2] * right.shape[2] * (0.5 if same else 1.0))
    found = np.zeros(shape, dtype=left.dtype)
    convolved(left, right, products, same, found)
    return found


def contracted(one: FloatArray, two: FloatArray, law: FloatArray, algebra: Algebra, low: IntArray) -> FloatArray:
    """(parts, M) sums over S of a weight `law` times the product of two polynomials, functions of parts of S."""
    low_one, low_two = (through(law, a, b, low) for a, b in ((one, two), (two, one)))
    parts, size = len(one) + len(two) - 1, one.shape[1]
    total = np.zeros((parts, size), dtype=one.dtype)
    left = np.einsum("ims,jls->imjl", one, low_two, optimize=True)
    right = np.einsum("ils,jms->iljm", low_one, two, optimize=True)
    a, b, made = algebra.products.T
    place = {int(m): k for k, m in enumerate(low)}
    on_two = np.array([int(m) in place for m in b])
    for i in range(len(one)):
        for j in range(len(two)):
            column = np.array([place.get(int(m), 0) for m in b])
            row = np.array([place.get(int(m), 0) for m in a])
            value = np.where(on_two, left[i, a, j, column], right[i, row, j, b])
            np.add.at(total[i + j], made, value)
    return total


def through(law: FloatArray, one: FloatArray, two: FloatArray, low: IntArray) -> FloatArray:
    """Monomials `low` of the first polynomial, summed over its part of S for every value of the other's."""
    window = np.lib.stride_tricks.sliding_window_view(law, one.shape[2])
    return np.matmul(one[:, low], np.ascontiguousarray(window[: two.shape[2]].T))
