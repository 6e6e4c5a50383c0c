"""Neurons of a layer drawn from its bulk (Gibbs sampling of the fields) and its outliers."""

from __future__ import annotations

import numpy as np
from scipy.special import log_ndtr, ndtri_exp

from meanfield.theories.deep.relu.setting import ReluSetting
from meanfield.validation import FloatArray

__all__ = ["draw_bulk", "draw_site"]

_SWEEPS = 200


def draw_site(
    b: FloatArray, h: FloatArray, d: float, delta: float, generator: np.random.Generator, size: int
) -> FloatArray:
    """(n, size) preactivations under exp(b phi(z) + delta phi(z)^2 / 2) N(z; h, d) for each of n pairs b, h."""
    narrow = d / (1.0 - delta * d)
    mu = narrow * (b + h / d)
    x_on, x_off = mu / np.sqrt(narrow), -h / np.sqrt(d)
    log_on = 0.5 * np.log(narrow / d) + 0.5 * x_on**2 - 0.5 * h**2 / d + log_ndtr(x_on)
    on = 1.0 / (1.0 + np.exp(np.clip(log_ndtr(x_off) - log_on, -700.0, 700.0)))
    log_u = np.log(generator.random((len(b), size)))
    above = mu[:, None] - np.sqrt(narrow) * ndtri_exp(log_u + log_ndtr(x_on)[:, None])
    below = h[:, None] + np.sqrt(d) * ndtri_exp(log_u + log_ndtr(x_off)[:, None])
    return np.asarray(np.where(generator.random((len(b), size)) < on[:, None], np.maximum(above, 0.0), below))


def draw_bulk(setting: ReluSetting, count: int, generator: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Whitened conjugate fields (count, q) and class fields (count, C) of neurons of the bulk.

    Every neuron is a chain of its own, started at rest: samples given the fields, fields given the samples. Numbers of
    samples are rounded. The chains stay in the bulk: outliers are beyond a barrier that grows with N.
    """
    n_classes, q = setting.root.shape
    n = np.maximum(np.round(setting.n), 1.0).astype(int)
    beta, h = np.zeros((count, q)), np.zeros((count, n_classes))
    fields = None  # precision of the fields, and its root
    if setting.has_fields:
        precision = np.linalg.inv(setting.inverse + np.diag(n / setting.d))
        fields = precision, np.linalg.cholesky(precision)
    for _ in range(_SWEEPS):
        b = beta @ setting.root.T
        total, first = np.empty((count, n_classes)), np.empty((count, n_classes))
        for c in range(n_classes):
            z = draw_site(b[:, c], h[:, c], float(setting.d[c]), float(setting.delta[c]), generator, int(n[c]))
            total[:, c], first[:, c] = np.maximum(z, 0.0).sum(axis=1), z.sum(axis=1)
        beta = total @ setting.root + generator.standard_normal((count, q))
        if fields is not None:
            precision, root = fields
            h = (first / setting.d) @ precision + generator.standard_normal((count, n_classes)) @ root.T
    return beta, h
