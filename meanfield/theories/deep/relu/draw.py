"""Neurons of a layer drawn from its bulk (Gibbs sampling of the fields) and its outliers."""

from __future__ import annotations

import numpy as np
from scipy.special import log_ndtr, ndtri_exp

from meanfield.theories.deep.relu.nonlinearity import Nonlinearity
from meanfield.theories.deep.relu.setting import ReluSetting
from meanfield.validation import FloatArray

__all__ = ["draw_bulk", "draw_site"]

_SWEEPS = 200
_CELLS, _REACH = 1500, 8.0  # of a lattice of z, and its ends in standard deviations beyond the means


def draw_site(
    phi: Nonlinearity, b: FloatArray, h: FloatArray, d: float, delta: float, generator: np.random.Generator, size: int
) -> FloatArray:
    """(n, size) preactivations under exp(b phi(z) + delta phi(z)^2 / 2) N(z; h, d) for each of n pairs b, h."""
    if phi.tabulated:
        return _from_lattice(phi, b, h, d, delta, generator, size)
    log_weight, found = [], []
    log_u = np.log(generator.random((len(b), size)))
    for r, sign in ((phi.slopes[1], 1.0), (phi.slopes[0], -1.0)):
        narrow = d / (1.0 - delta * r * r * d)
        mu = narrow * (r * b + h / d)
        log_mass = log_ndtr(sign * mu / np.sqrt(narrow))
        log_weight.append(0.5 * np.log(narrow / d) + 0.5 * mu**2 / narrow - 0.5 * h**2 / d + log_mass)
        beyond = np.sqrt(narrow) * ndtri_exp(log_u + log_mass[:, None])
        found.append(mu[:, None] - sign * beyond)
    on = 1.0 / (1.0 + np.exp(np.clip(log_weight[1] - log_weight[0], -700.0, 700.0)))
    above, below = np.maximum(found[0], 0.0), np.minimum(found[1], 0.0)
    return np.asarray(np.where(generator.random((len(b), size)) < on[:, None], above, below))


def _from_lattice(
    phi: Nonlinearity, b: FloatArray, h: FloatArray, d: float, delta: float, generator: np.random.Generator, size: int
) -> FloatArray:
    """The same for a phi without closed forms: a place of a lattice of z, and a uniform one in its cell."""
    ends = np.array([h, *(d / (1.0 - delta * r * r * d) * (r * b + h / d) for r in phi.slopes)])
    reach = _REACH * np.sqrt(max(d, *(d / (1.0 - delta * r * r * d) for r in phi.slopes)))
    low, high = ends.min(axis=0) - reach, ends.max(axis=0) + reach
    found = np.empty((len(b), size))
    for part in np.array_split(np.arange(len(b)), max(1, len(b) * _CELLS // 2_000_000)):
        cell = (high[part] - low[part]) / _CELLS
        z = low[part, None] + cell[:, None] * (np.arange(_CELLS) + 0.5)
        y = phi(z)
        height = b[part, None] * y + 0.5 * delta * y**2 - 0.5 * (z - h[part, None]) ** 2 / d
        law = np.cumsum(np.exp(height - height.max(axis=1, keepdims=True)), axis=1)
        law /= law[:, -1:]
        uniform = generator.random((len(part), size))
        place = np.array([np.searchsorted(row, u) for row, u in zip(law, uniform)])
        found[part] = low[part, None] + cell[:, None] * (place + generator.random(place.shape))
    return found


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
            d, delta = float(setting.d[c]), float(setting.delta[c])
            z = draw_site(setting.phi, b[:, c], h[:, c], d, delta, generator, int(n[c]))
            total[:, c], first[:, c] = setting.phi(z).sum(axis=1), z.sum(axis=1)
        beta = total @ setting.root + generator.standard_normal((count, q))
        if fields is not None:
            precision, root = fields
            h = (first / setting.d) @ precision + generator.standard_normal((count, n_classes)) @ root.T
    return beta, h
