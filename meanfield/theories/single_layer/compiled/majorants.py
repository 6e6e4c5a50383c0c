"""Bounds of h over one box that `branch_and_bound` asks for now and then (sigma_a = 1)."""

from __future__ import annotations

import numpy as np

from meanfield.numerics.copies import copy_vector
from meanfield.numerics.cumulant_table import interval_index
from meanfield.numerics.jit import jit, jit_apart
from meanfield.numerics.linalg import cholesky, cholesky_solve
from meanfield.theories.single_layer.compiled.bounds import (
    HEIGHT_ROUNDING,
    curvature_over,
    range_maximum,
    remainder_maximum,
)
from meanfield.theories.single_layer.compiled.far import far_bound
from meanfield.theories.single_layer.compiled.frames import ROUNDING
from meanfield.theories.single_layer.compiled.generated.action import action_hessian
from meanfield.theories.single_layer.compiled.generated.stationarity import minus_hessian
from meanfield.theories.single_layer.compiled.relaxation import relaxed_bound

__all__ = ["ROUNDING_STRAIGHT", "charged_aim", "majorised", "peaked", "ranges"]

# Relative error of the form of |a|^2 from which on it is charged for where phi is homogeneous: its rays reach to
# infinity, forms vanish along them, and are not known better than t.
ROUNDING_STRAIGHT = 4e-14
_FAR_OUT = 1e3  # kappa beyond which boxes are as wide as they are far, where phi is homogeneous


@jit
def ranges(table, bounds, p, lines, low_k, high_k, psi, low_q, high_q, low_r, high_r, spread):
    """Bounds of sum_c p_c psi and, where phi is unbounded, of sum_c p_c R over a box of kappa, from range maxima.

    psi, low_q, high_q, low_r, high_r (C,): of `psi_and_mean` at the ends, the larger psi. spread (C,) is filled with
    what is left open of R.
    """
    bound = 0.0
    second = 0.0
    unbounded = table.growth_plus > 0.0 or table.growth_minus > 0.0
    for c in range(p.shape[0]):
        low, high = low_k[c], high_k[c]
        first = interval_index(table, low)
        last = interval_index(table, high)
        width = high - low
        narrow = psi[c] + 0.0625 * width * width * range_maximum(bounds.bend, first, last)
        bound += p[c] * min(narrow, max(range_maximum(bounds.psi, first, last), psi[c]))
        if unbounded:
            r_low = low_r[c] - (lines[0] if low < 0.0 else lines[1]) * low
            r_high = high_r[c] - (lines[0] if high < 0.0 else lines[1]) * high
            r_top = remainder_maximum(table, bounds, low, high, r_low, r_high)
            second += p[c] * r_top
            spread[c] = min(r_top - min(r_low, r_high), (high_q[c] - low_q[c]) * width)
    return bound, second


@jit_apart(returns="float64")
def charged_aim(aim, prior, rounding, low_x, high_x):
    """The aim less what rounding of the form `prior` may feign over a box."""
    d = low_x.shape[0]
    for i in range(d):
        for j in range(d):
            sizes = max(high_x[i], -low_x[i]) * max(high_x[j], -low_x[j])
            middle = 0.25 * (low_x[i] + high_x[i]) * (low_x[j] + high_x[j])
            aim -= 0.5 * ROUNDING * abs(prior[i, j]) * sizes + rounding * prior[i, j] * middle
    return aim


@jit_apart(returns="float64")
def majorised(
    table, bounds, p, t, least, frames, to_kappa, prior, lines, low_x, high_x, low_k, high_k, framed, straight, aim,
    products, ready, gap, matrix, other_matrix,
):  # fmt: skip
    """Concave majorant of h over a box, which few tasks need: `relaxed_bound`, in other frames and far out, too.

    `matrix` and `other_matrix` are scratch.
    """
    d, n_classes = low_x.shape[0], p.shape[0]
    far = straight and max(np.max(high_k), -np.min(low_k)) > _FAR_OUT
    relaxed = relaxed_bound(
        table, bounds, p, to_kappa, prior, lines, low_x, high_x, low_k, high_k, framed, far, aim, products, ready, gap,
        matrix, other_matrix,
    )  # fmt: skip
    if not (far and relaxed > aim):
        return relaxed
    relaxed = min(relaxed, far_bound(table, bounds, p, t, least, lines, low_k, high_k, aim, relaxed, gap))
    # The dual may crawl in one frame and not in another.
    low_y, high_y, room = np.empty(d), np.empty(d), np.empty(n_classes)
    for f in range(frames.volume.shape[0] if framed else 0):
        if relaxed <= aim or frames.rounding[f] > ROUNDING_STRAIGHT:
            continue
        for i in range(d):
            low_y[i], high_y[i] = low_k[frames.classes[f, i]], high_k[frames.classes[f, i]]
        other = relaxed_bound(
            table, bounds, p, frames.to_kappa[f], frames.prior[f], lines, low_y, high_y, low_k, high_k, True, far, aim,
            products, ready, room, matrix, other_matrix,
        )  # fmt: skip
        relaxed = min(relaxed, other)
    return relaxed


@jit_apart(returns="boolean")
def peaked(
    table, bounds, p, t, a, kappa, low_k, high_k, errors, level, tolerance, curvature, slopes, hess, uphill
):  # fmt: skip
    """Whether h is strictly concave over a box around the readout `a` (m,), with kappa (C,), of a maximum.

    Nothing in the box is higher then, but for what a slope there may give. Arrays from `curvature` on are scratch.
    """
    rest = 0.0
    for c in range(p.shape[0]):
        curvature[c] = p[c] * curvature_over(table, bounds, low_k[c], high_k[c])[1]
        if abs(kappa[c]) > table.kappa_max:
            rest += p[c] * errors[1 if kappa[c] > 0.0 else 0] * abs(kappa[c])
    height = action_hessian(table, p, t, a, slopes, hess)
    minus_hessian(curvature, t, hess)
    if not (rest <= 0.1 * tolerance and cholesky(hess)):
        return False
    copy_vector(uphill, slopes)
    cholesky_solve(hess, uphill)
    height += 0.5 * np.sum(slopes * uphill)
    return height <= level + tolerance + HEIGHT_ROUNDING * np.sum(a * a)
