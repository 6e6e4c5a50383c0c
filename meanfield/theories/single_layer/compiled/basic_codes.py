"""Fewer codes with the same contributions to the stationarity equations: the simplex rule (sigma_a = 1)."""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.copies import copy_vector
from meanfield.numerics.jit import jit_apart
from meanfield.theories.single_layer.compiled.generated.action import action_fields
from meanfield.theories.single_layer.compiled.weights import weight_columns

__all__ = ["basic_codes"]

_DEPENDENT = 1e-9  # relative singular value below which contributions of codes are dependent


@jit_apart(returns="Tuple((int64[::1], float64[::1]))")
def basic_codes(table, p, t, readouts, weights):
    """Codes (n,) that are kept and their weights: the same contributions to y, none of which can be had from the rest.

    Along directions in which weights can change they change uphill in sum_k w_k h_k, until one of them is gone. Codes
    are taken in by and by, no more at a time than there are contributions.
    """
    n_classes, m = t.shape
    total = readouts.shape[0]
    n = n_classes * m + 1
    columns = np.empty((n, total))
    weight_columns(table, p, t, readouts, np.empty((0, m)), columns)
    first = np.empty(n_classes)
    second = np.empty(n_classes)
    heights = np.empty(total)
    for k in range(total):
        columns[n - 1, k] = 1.0
        heights[k] = action_fields(table, p, t, readouts[k], first, second)
    heights -= np.max(heights)
    for i in range(n):
        size = max(np.max(np.abs(columns[i])), 1e-300)
        for k in range(total):
            columns[i, k] /= size
    weights = weights.copy()
    kept = np.empty(0, np.int64)
    taken = 0
    while taken < total and not exhausted(table.stop, 1 + n * n * n // 100):
        more = min(total - taken, n)
        index = np.concatenate((kept, np.arange(taken, taken + more)))
        kept = index[_reduced(columns, heights, weights, index)]
        taken += more
    return kept, weights[kept]


@jit_apart(returns="int64[::1]")
def _reduced(columns, heights, weights, index):
    """Which of the codes `index` are left of them; `weights` of all codes change in place."""
    n, total = columns.shape[0], index.shape[0]
    square = np.zeros((max(n, total), total))
    for i in range(n):
        for k in range(total):
            square[i, k] = columns[i, index[k]]
    height = heights[index]
    _, singular, right = np.linalg.svd(square, False)
    rank = 0
    for value in singular:
        if value > _DEPENDENT * singular[0]:
            rank += 1
    free = right[rank:].copy()
    along = np.empty(total)
    there = np.ones(total, np.bool_)
    left = free.shape[0]
    while left > 0:
        along[:] = 0.0
        for i in range(left):
            uphill = np.sum(free[i] * height)
            for k in range(total):
                along[k] += uphill * free[i, k]
        if np.max(np.abs(along)) <= 1e-14:
            copy_vector(along, free[0])
            if np.min(along) >= 0.0:
                along *= -1.0
        gone = -1
        reach = np.inf
        for k in range(total):
            if there[k] and along[k] < 0.0 and weights[index[k]] < -reach * along[k]:
                reach = -weights[index[k]] / along[k]
                gone = k
        if gone < 0:
            break
        for k in range(total):
            weights[index[k]] = max(weights[index[k]] + reach * along[k], 0.0)
        weights[index[gone]] = 0.0
        there[gone] = False
        # A reflection leaves one direction that changes this weight, the last; the others stay.
        vector = free[:left, gone].copy()
        norm = np.sqrt(np.sum(vector * vector))
        vector[left - 1] += norm if vector[left - 1] >= 0.0 else -norm
        size = np.sum(vector * vector)
        image = vector @ free[:left]
        for i in range(left):
            ratio = 2.0 * vector[i] / size
            for k in range(total):
                free[i, k] -= ratio * image[k]
        left -= 1
        for i in range(left):
            free[i, gone] = 0.0
    return np.nonzero(there)[0]
