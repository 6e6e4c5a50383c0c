"""What is known of G beyond its table: R = G - growth kappa^2 / 2 far out (sigma_a = 1)."""

from __future__ import annotations

import numpy as np

from meanfield.numerics.cumulant_table import cumulant2
from meanfield.numerics.jit import jit, jit_apart

__all__ = ["asymptotic_lines", "tails"]


@jit
def asymptotic_lines(table, infimum, supremum):
    """Slopes of R at -inf and +inf: the extreme value of phi where G grows linearly, else 0 or an offset of phi."""
    lines = np.zeros(2)
    for side in range(2):
        growth = table.growth_plus if side == 1 else table.growth_minus
        extreme = supremum if side == 1 else infimum
        if growth == 0.0 and abs(extreme) < np.inf:
            lines[side] = extreme
        else:
            i = 2 * table.n_half - 1 if side == 1 else 0
            slope = table.line[i]
            u = 1.0 if side == 1 else -1.0
            for j in range(table.coefficients.shape[2]):
                slope += table.coefficients[i, 1, j] * u**j
            if abs(slope) > 1e-6:
                lines[side] = slope
    return lines


@jit
def _slope_errors(table, infimum, supremum):
    """By how much R' may differ from that at the end of the table beyond it, on either side; inf: by anything.

    Between the end and the extreme value of phi, where G grows linearly; where phi is unbounded and G does not grow
    quadratically, R' has no limit.
    """
    errors = np.zeros(2)
    for side in range(2):
        growth = table.growth_plus if side == 1 else table.growth_minus
        extreme = supremum if side == 1 else infimum
        edge = table.kappa_max if side == 1 else -table.kappa_max
        _, g1, g2 = cumulant2(table, edge)
        if growth == 0.0:
            errors[side] = abs(g1 - extreme)
        elif abs(g1 - growth * edge) <= 1e-6:
            errors[side] = abs(g1 - growth * edge)
        else:  # it approaches its limit as fast as 1 / sqrt(kappa), or has reached it
            rest = 2.0 * abs(edge * (g2 - growth))
            errors[side] = rest if rest > 1e-6 else 0.0
    return errors


@jit_apart(returns="UniTuple(float64[::1], 2)")
def tails(table, infimum, supremum):
    """`asymptotic_lines` and `_slope_errors`."""
    return asymptotic_lines(table, infimum, supremum), _slope_errors(table, infimum, supremum)
