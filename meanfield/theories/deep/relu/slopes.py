"""Derivatives of the averages of a layer by order parameters at N = infinity (relu/THEORY.md, "The Jacobian")."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from meanfield.theories.deep.relu.average import BulkSlopes, ReluRule, averages_of, bulk_slopes
from meanfield.theories.deep.relu.coordinates import ReluOrder
from meanfield.theories.deep.relu.outlier import condensed
from meanfield.theories.deep.relu.setting import ReluSetting
from meanfield.validation import FloatArray

__all__ = ["LayerChange", "condensed_change", "gain_change", "layer_change", "setting_change"]

_FLAT = 1e-7  # of the largest root of a conjugate kernel: in a direction with less it does not change the root
_RCOND = 1e-14
_AT_KINK = 1e-12  # of h, what z may be there
_TINY_STEP = 1e-30  # of the complex steps


class SettingChange(NamedTuple):
    """Of a `ReluSetting`, in P directions: root (P, C, q), d and delta (P, C), covariance (P, C, C)."""

    root: FloatArray
    d: FloatArray
    delta: FloatArray
    covariance: FloatArray


class LayerChange(NamedTuple):
    """Of the averages of a layer in P directions, and of R^T (n ghat_b) of each outlier."""

    b_b: FloatArray  # (P, C, C)
    bb: FloatArray  # (P, C)
    h_h: FloatArray
    hh: FloatArray
    beta_b: FloatArray  # (P, q, C)
    push: FloatArray  # (P, o, q)


def setting_change(
    order: ReluOrder, moved: ReluOrder, layer: int, readout_variance: float, scale: float
) -> SettingChange:
    """Of a layer, `moved` being changes of the order parameters with an axis of P directions before the others."""
    count, n_classes = len(moved.t), len(order.t)
    if layer == len(order.tilde):
        root, delta = math.sqrt(readout_variance) * moved.t, np.zeros((count, n_classes))
    else:
        value, axes = np.linalg.eigh(order.tilde[layer])  # R dR + dR R = dk~
        size = np.sqrt(np.maximum(value, 0.0))
        both = size[:, None] + size
        inner = axes.T @ moved.tilde[:, layer] @ axes
        root = axes @ np.where(both > _FLAT * size[-1], inner / np.maximum(both, 1e-300), 0.0) @ axes.T
        delta = moved.delta[:, layer]
    if layer == 0:
        return SettingChange(root, np.zeros_like(delta), delta, np.zeros((count, n_classes, n_classes)))
    return SettingChange(root, scale * moved.d[:, layer - 1], delta, scale * moved.kernel[:, layer - 1])


def layer_change(
    setting: ReluSetting, outliers: FloatArray, change: SettingChange, moved: FloatArray, rule: ReluRule
) -> LayerChange:
    """Of bulk and outliers together; `moved` (P, o, q) are the changes of the outliers."""
    count, (n_classes, q) = len(change.d), setting.root.shape
    slopes = bulk_slopes(setting, rule, outliers)
    total = change.root.reshape(count, -1) @ slopes.by_root + change.d @ slopes.by_d + change.delta @ slopes.by_delta
    if slopes.u.shape[1]:
        u, spread = _factors_change(setting, slopes, change.covariance)
        total += u @ slopes.by_u + spread @ slopes.by_spread
    inner = averages_of(total, n_classes, q)
    b_b, h_h, beta_b = inner.b_b.copy(), inner.h_h.copy(), inner.beta_b.copy()
    push = np.zeros((count, len(outliers), q))
    for o, beta in enumerate(outliers):
        found = condensed(setting, beta)
        activation, force = condensed_change(setting, beta, change, moved[:, o])
        b_b += _twice(found.activation, activation)
        h_h += _twice(found.force, force)
        beta_b += moved[:, o, :, None] * found.activation + beta[:, None] * activation[:, None, :]
        push[:, o] = (setting.n * activation) @ setting.root + np.einsum(
            "c,pcq->pq", setting.n * found.activation, change.root
        )
    return LayerChange(b_b, inner.bb, h_h, inner.hh, beta_b, push)


def _twice(one: FloatArray, change: FloatArray) -> FloatArray:
    outer = one[:, None] * change[:, None, :]
    return np.asarray(outer + outer.transpose(0, 2, 1))


def _factors_change(setting: ReluSetting, slopes: BulkSlopes, change: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(P, C p) and (P, C) changes of U and D with d(D + U U^T) = change: any will do; the smallest, as each is seen."""
    (n_classes, p), count = slopes.u.shape, len(change)
    unit_u = np.sqrt(np.diag(setting.covariance))
    unit_d = slopes.spread + setting.d / setting.n
    upper = np.triu_indices(n_classes)
    columns = []
    for c in range(n_classes):
        for j in range(p):
            matrix = np.zeros((n_classes, n_classes))
            matrix[c] += slopes.u[:, j]
            matrix[:, c] += slopes.u[:, j]
            columns.append(unit_u[c] * matrix[upper])
    for c in range(n_classes):
        matrix = np.zeros((n_classes, n_classes))
        matrix[c, c] = unit_d[c]
        columns.append(matrix[upper])
    system = np.array(columns).T
    wanted = change[:, upper[0], upper[1]].T
    found = np.linalg.lstsq(system, wanted, rcond=_RCOND)[0].T
    u = found[:, : n_classes * p].reshape(count, n_classes, p) * unit_u[:, None]
    return u.reshape(count, -1), found[:, n_classes * p :] * unit_d


def condensed_change(
    setting: ReluSetting, beta: FloatArray, change: SettingChange, moved: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(P, C) changes of the activation and the force of an outlier, in whose piece of ghat they are smooth.

    There h = K n ghat_h is one linear system, with complex steps instead of derivatives.
    """
    found = condensed(setting, beta)
    low, high = setting.phi.slopes
    z = found.h + setting.d * found.force
    slope_of_phi = np.where(z > 0.0, high, low)
    kink = np.abs(z) <= _AT_KINK * np.abs(found.h)
    step = 1j * _TINY_STEP
    root, d, delta = setting.root + step * change.root, setting.d + step * change.d, setting.delta + step * change.delta
    covariance = setting.covariance + step * change.covariance
    b = np.einsum("pcq,pq->pc", root, beta + step * moved)
    narrow = d / (1.0 - delta * slope_of_phi**2 * d)
    slope = np.where(kink, -1.0 / d, (narrow / d - 1.0) / d)  # force = slope h + start
    start = np.where(kink, 0.0, narrow * slope_of_phi * b / d)
    weighted = covariance * setting.n
    matrix = np.eye(len(d[0])) - weighted * slope[:, None, :]
    h = np.linalg.solve(matrix, (weighted @ start[..., None]))[..., 0]
    activation = np.where(kink, 0.0, slope_of_phi * narrow * (slope_of_phi * b + h / d))
    return activation.imag / _TINY_STEP, (slope * h + start).imag / _TINY_STEP


def gain_change(setting: ReluSetting, beta: FloatArray, change: SettingChange) -> FloatArray:
    """(P,) changes of the gain of a direction that is stationary: those at its own h, which is a maximum."""
    found = condensed(setting, beta)
    pulled, n = setting.n * found.force, setting.n
    return np.asarray(
        np.einsum("c,pce,e->p", pulled, change.covariance, pulled)
        + 2.0 * (n * found.activation) @ (change.root @ beta).T
        + change.d @ (n * found.force**2)
        + change.delta @ (n * found.activation**2)
    )
