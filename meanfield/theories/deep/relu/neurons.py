"""Averages of products of class functions over the neurons of a layer of two classes (relu/THEORY.md, "One loop").

Given the conjugate fields b a neuron's class fields h_0, h_1 have the weight e^(n g_0) N(h; 0, H) e^(n g_1): means of
all products of a function of class 0 and one of class 1 are one product of three matrices on a lattice of h.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import log_ndtr

from meanfield.theories.deep.compiled.generated.site import ORDERS
from meanfield.theories.deep.layers.class_tables import class_columns
from meanfield.theories.deep.layers.products import Products, added
from meanfield.theories.deep.layers.sums import Totals
from meanfield.theories.deep.relu.average import WALL
from meanfield.theories.deep.relu.moments import sample_derivatives, sample_weight
from meanfield.theories.deep.relu.setting import ReluSetting
from meanfield.validation import FloatArray, IntArray

__all__ = ["CUT", "Nodes", "RayProducts", "line", "plane", "summed"]

_STEP = 0.92  # of lattices, in standard deviations
_LOG_CELL = math.log(_STEP / math.sqrt(2.0 * math.pi))
CUT = 36.0  # ln of the weight below which nodes are left out
_COARSE, _LOSS = 6, 16.0  # stride at which the weight is looked for, and what it may be lower by there
_AT_ONCE = 30_000  # fields of a class


class RayProducts(Products):
    """With the rows of what the first derivative along a ray needs: every operator with one more d/db_e."""

    def __post_init__(self) -> None:
        super().__post_init__()
        classes = range(self.n_classes)
        once = (1, 0, 0, 0)
        self.once = np.array([self._derivative({e: once}) for e in classes])
        self.pairs = np.array([[self._derivative(added({c: once}, {e: once})) for e in classes] for c in classes])
        self.mixed = np.array([[self._derivative(added(one, {e: once})) for e in classes] for one in self.operators])
        self._finish()


@dataclass(eq=False)
class Nodes:
    """Neurons with conjugate fields b = origin + root beta on a lattice of beta (k, q), ln of their weights without
    that of the classes, and of every one the lattice of h (k, C, 2: first index and one behind the last)."""

    beta: FloatArray
    log_prior: FloatArray
    spacing: float = 0.0
    windows: IntArray = field(default_factory=lambda: np.empty((0, 2, 2), dtype=np.int64))

    def times(self, log_factor: FloatArray) -> Nodes:
        """With other weights."""
        return replace(self, log_prior=self.log_prior + log_factor)

    @classmethod
    def kept(cls, beta: FloatArray, log_prior: FloatArray, b: FloatArray, setting: ReluSetting, reach: float) -> Nodes:
        """Those of some nodes that count; h up to `reach` is looked at."""
        if not setting.has_fields:
            height = log_prior.copy()
            for c, n in enumerate(setting.n):
                height += n * sample_weight(b[:, c], 0.0 * b[:, c], setting.d[c], setting.delta[c])
            counts = height > height.max() - CUT
            return cls(beta[counts], log_prior[counts])
        stiffest = float(np.linalg.eigvalsh(setting.inverse + np.diag(setting.n / setting.d))[-1])
        spacing = _STEP / math.sqrt(stiffest)
        coarse = np.arange(-math.ceil(reach / spacing / _COARSE), math.ceil(reach / spacing / _COARSE) + 1) * _COARSE
        h, inverse = np.asarray(coarse * spacing, dtype=np.float64), setting.inverse
        prior = -0.5 * (inverse[0, 0] * h[:, None] ** 2 + inverse[1, 1] * h**2) - inverse[0, 1] * h[:, None] * h
        top, windows = np.empty(len(b)), np.empty((len(b), 2, 2), dtype=np.int64)
        for i in range(len(b)):
            g = [n * sample_weight(b[i, c], h, setting.d[c], setting.delta[c]) for c, n in enumerate(setting.n)]
            height = prior + g[0][:, None] + g[1]
            top[i] = height.max() + log_prior[i]
            inside = height > height.max() - CUT - _LOSS
            for c in range(2):
                rows = np.flatnonzero(inside.any(axis=1 - c))
                windows[i, c] = coarse[rows[0]] - _COARSE, coarse[rows[-1]] + _COARSE + 1
        counts = top > top.max() - CUT - _LOSS
        return cls(beta[counts], log_prior[counts], spacing, windows[counts])


def plane(root: FloatArray, setting: ReluSetting, outliers: FloatArray, size: float, reach: float) -> Nodes:
    """The bulk of size `size`, ended at the outliers (o, q): whitened, with their lengths."""
    q = root.shape[1]
    most = math.ceil((size + 9.0 * WALL) / _STEP)
    lattice = np.arange(-most, most + 1)
    beta = _STEP * np.array(list(itertools.product(lattice, repeat=q)), dtype=float)
    log_prior = q * _LOG_CELL - 0.5 * (beta**2).sum(axis=1)
    for outlier, length in zip(outliers, np.linalg.norm(outliers, axis=1)):
        beyond = (beta @ (outlier / length) - length) / WALL
        log_prior = log_prior + log_ndtr(-beyond)
    return Nodes.kept(beta, log_prior, beta @ root.T, setting, reach)


def line(origin: FloatArray, root: FloatArray, setting: ReluSetting, reach: float) -> Nodes:
    """The fields across a ray: b = origin + root gamma, beta = gamma."""
    q = root.shape[1]
    lattice = np.arange(-40, 41)
    gamma = _STEP * np.array(list(itertools.product(lattice, repeat=q)), dtype=float)
    log_prior = q * _LOG_CELL - 0.5 * (gamma**2).sum(axis=1)
    return Nodes.kept(gamma, log_prior, origin + gamma @ root.T, setting, reach)


def _columns(
    b: FloatArray, h: FloatArray, n: float, d: float, delta: float, samples: bool
) -> tuple[FloatArray, FloatArray]:
    """n g (k,) and all functions of a class (k, columns)."""
    g, found = sample_derivatives(b, h, d, delta)
    return n * g, class_columns(found, dict(zip(ORDERS, found)), h, n, samples)


def summed(nodes: Nodes, b: FloatArray, beta: FloatArray, setting: ReluSetting, products: Products) -> Totals:
    """Sums of all products over nodes whose fields are b (k, C) now; beta (k, q): what they are multiplied with."""
    height, out = (_fieldless if not setting.has_fields else _with_fields)(nodes, b, setting, products)
    top = float(height.max())
    out = out * np.exp(height - top)[:, None]
    q = beta.shape[1]
    twice = ((beta[:, :, None] * beta[:, None, :]).reshape(len(beta), -1).T @ out).reshape(q, q, -1)
    return Totals(top, out.sum(axis=0), beta.T @ out, twice)


def _fieldless(nodes: Nodes, b: FloatArray, setting: ReluSetting, products: Products) -> tuple[FloatArray, FloatArray]:
    height, out = nodes.log_prior, np.ones((len(b), len(products.table)))
    for c, n in enumerate(setting.n):
        log_v, parts = _columns(b[:, c], 0.0 * b[:, c], n, setting.d[c], setting.delta[c], products.samples)
        height = height + log_v
        out *= parts[:, products.table[:, c]]
    return height, out


def _with_fields(
    nodes: Nodes, b: FloatArray, setting: ReluSetting, products: Products
) -> tuple[FloatArray, FloatArray]:
    inverse, spacing = setting.inverse, nodes.spacing
    height, out = np.empty(len(b)), np.empty((len(b), len(products.table)))
    width = (nodes.windows[:, :, 1] - nodes.windows[:, :, 0]).max(axis=1)
    groups = np.split(np.arange(len(b)), np.flatnonzero(np.diff(np.cumsum(width) // _AT_ONCE)) + 1)
    for group in groups:
        h = [[spacing * np.arange(*nodes.windows[i, c]) for i in group] for c in range(2)]
        found = []
        for c in range(2):
            count = np.array([len(x) for x in h[c]])
            log_v, parts = _columns(
                np.repeat(b[group, c], count), np.concatenate(h[c]), setting.n[c], setting.d[c], setting.delta[c],
                products.samples,
            )  # fmt: skip
            ends = np.cumsum(count)[:-1]
            found.append((np.split(log_v, ends), np.split(parts, ends)))
        for k, i in enumerate(group):
            x, y = h[0][k], h[1][k]
            rows = found[0][0][k] - 0.5 * inverse[0, 0] * x**2
            columns = found[1][0][k] - 0.5 * inverse[1, 1] * y**2
            log_weight = rows[:, None] + columns - inverse[0, 1] * x[:, None] * y
            top = float(log_weight.max())
            both = found[0][1][k].T @ (np.exp(log_weight - top) @ found[1][1][k])
            height[i] = top + nodes.log_prior[i]
            out[i] = both[products.table[:, 0], products.table[:, 1]]
    scale = 2.0 * math.log(spacing) - 0.5 * float(np.linalg.slogdet(2.0 * math.pi * setting.covariance)[1])
    return height + scale, out
