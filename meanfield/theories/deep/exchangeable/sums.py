"""Sums over the conjugate fields of exchangeable classes: powers of one class by convolution, and sums over their S."""

from __future__ import annotations

import numpy as np

from meanfield.theories.deep.compiled.convolutions import convolved
from meanfield.theories.deep.exchangeable.monomials import Algebra
from meanfield.theories.deep.layers.work import spend
from meanfield.validation import FloatArray, IntArray

__all__ = ["contracted", "halves", "power", "product", "through"]


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


def product(one: FloatArray, two: FloatArray, often: int, again: int, products: IntArray) -> FloatArray:
    """One polynomial (parts, M, B) to a power times another to another; of no classes it is 1."""
    if not (often or again):
        found = np.zeros((1, one.shape[1], 1), dtype=one.dtype)
        found[0, 0] = 1.0
        return found
    parts = [power(part, k, products) for part, k in ((one, often), (two, again)) if k]
    return parts[0] if len(parts) == 1 else _convolved(parts[0], parts[1], products, False)


def _convolved(left: FloatArray, right: FloatArray, products: IntArray, same: bool) -> FloatArray:
    """Their product; `same`: it is a square."""
    shape = len(left) + len(right) - 1, left.shape[1], left.shape[2] + right.shape[2] - 1
    spend(2.0 * len(products) * len(left) * len(right) * left.shape[2] * right.shape[2] * (0.5 if same else 1.0))
    found = np.zeros(shape, dtype=left.dtype)
    convolved(left, right, products, same, found)
    return found


def contracted(one: FloatArray, two: FloatArray, law: FloatArray, algebra: Algebra) -> FloatArray:
    """(parts, M) sums over S of a weight `law` times the product of two polynomials, functions of parts of S."""
    low = algebra.low
    left = np.tensordot(one, through(law, one, two, low, of_second=True), (2, 2))
    right = np.tensordot(through(law, one, two, low), two, (2, 2))
    a, b, made = algebra.products.T
    column, row = algebra.place[b], algebra.place[a]
    total = np.zeros((len(one) + len(two) - 1, one.shape[1]), dtype=one.dtype)
    for i in range(len(one)):
        for j in range(len(two)):
            value = np.where(column >= 0, left[i, a, j, column], right[i, row, j, b])
            np.add.at(total[i + j], made, value)
    return total


def through(law: FloatArray, one: FloatArray, two: FloatArray, low: IntArray, *, of_second: bool = False) -> FloatArray:
    """Monomials `low` of the first polynomial, summed over its part of S for every value of the other's; or
    `of_second`."""
    window = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(law, two.shape[2])[: one.shape[2]])
    return np.asarray(np.matmul(two[:, low], window.T) if of_second else np.matmul(one[:, low], window))
