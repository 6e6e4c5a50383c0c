"""Mean fields of kinds at finite P: one direction of a_0 integrated on a grid of one mean field (sigma_a = 1).

a_0 = b + x u with u orthogonal to the tau of all kinds but one, whose mean field is m = b.tau + gain x. What that kind
gives is known on a grid of m; for each b the nodes x are those for which m is on the grid.
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.jit import jit

__all__ = ["line_pairs", "line_totals"]

_FAINT = -42.0


@jit
def _range(field, low, step, gain, n, x_low, x_high):
    """First and last but one node with x between two bounds."""
    first = math.floor((field + gain * x_low - low) / step)
    last = math.ceil((field + gain * x_high - low) / step) + 1
    return min(max(first, 0), n - 1), max(min(last, n), 1)


@jit
def line_totals(field, action, low, step, gain, n_samples, x_low, x_high, total):
    """ln sum_i e^{L(m_i) - P x_i^2 / 2} (M,), with m_i = low + i step, x_i = (m_i - field) / gain and L in `action`.

    Nodes x between x_low and x_high.
    """
    exponent = np.empty(action.shape[0])
    for k in range(field.shape[0]):
        begin, end = _range(field[k], low, step, gain, action.shape[0], x_low, x_high)
        top = -np.inf
        for i in range(begin, end):
            x = (low + i * step - field[k]) / gain
            exponent[i] = action[i] - 0.5 * n_samples * x * x
            top = max(top, exponent[i])
        mass = 0.0
        for i in range(begin, end):
            if exponent[i] > top + _FAINT:
                mass += math.exp(exponent[i] - top)
        total[k] = top + math.log(mass)


@jit
def line_pairs(field, other, action, low, step, gain, n_samples, x_low, x_high, least, rows, columns, exponent):
    """Number of pairs (k, i) of a field and a node where `other` and the exponent of x together are above `least`.

    Fills rows, columns and their sum as far as they go.
    """
    count = 0
    for k in range(field.shape[0]):
        begin, end = _range(field[k], low, step, gain, action.shape[0], x_low, x_high)
        for i in range(begin, end):
            x = (low + i * step - field[k]) / gain
            value = other[k] + action[i] - 0.5 * n_samples * x * x
            if value > least:
                if count < rows.shape[0]:
                    rows[count], columns[count], exponent[count] = k, i, value
                count += 1
    return count
