"""Where phi grows equally on both sides: the solution of the linear network of the same growth (sigma_a = 1).

With G = g kappa^2 / 2 and sqrt(p_c) y_c = U S V^T, sqrt(p_c) t_c = U diag(x) V^T has x = g^-1/2 or S / tau, if that is
less, and an outlier along each column of V whose x is the former, of weight (g^1/2 S - tau) / g. It is the solution of
phi, too, with a code at zero, where no h exceeds h(0; t) = 0: for every odd phi with |phi(z)| <= |slope z|, since then
G = ln <cosh kappa phi> <= g kappa^2 / 2 (softshrink, hardshrink, tanhshrink).
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.copies import copy_vector
from meanfield.numerics.jit import jit_apart
from meanfield.theories.single_layer.compiled.returned import CUTS

__all__ = ["analog_candidate"]


@jit_apart(returns=f"Tuple((float64[:, ::1], {CUTS}))")
def analog_candidate(table, p, y, tau):
    """t, outlier directions and their weights of the linear network."""
    n_classes, m = y.shape
    growth = table.growth_plus
    scaled = y.copy()
    for c in range(n_classes):
        scaled[c] *= np.sqrt(p[c])
    left, singular, right = np.linalg.svd(scaled, False)
    t = np.zeros((n_classes, m))
    directions = np.zeros((singular.shape[0], m))
    weights = np.zeros(singular.shape[0])
    outliers = 0
    for i in range(singular.shape[0]):
        if not singular[i] > 1e-13 * singular[0]:
            continue
        most = 1.0 / np.sqrt(growth)
        weight = (singular[i] / most - tau) / growth
        size = most if weight > 0.0 else singular[i] / tau
        for c in range(n_classes):
            for r in range(m):
                t[c, r] += size * left[c, i] * right[i, r] / np.sqrt(p[c])
        if weight > 0.0:
            copy_vector(directions[outliers], right[i])
            weights[outliers] = weight
            outliers += 1
    return t, directions[:outliers].copy(), weights[:outliers].copy()
