"""Sets of integer lattice points, one row each, and the lattice that fits a curvature."""

from __future__ import annotations

import itertools

import numpy as np

from meanfield.validation import FloatArray

__all__ = ["HALF", "difference", "keys", "sheared", "unique"]

HALF, _WIDTH = 1 << 15, 1 << 16  # indices lie within 32768 steps of the origin


def keys(index: np.ndarray) -> FloatArray:
    """One integer per row of lattice indices."""
    r = index.shape[1]
    return np.asarray((index + HALF) @ (np.int64(_WIDTH) ** np.arange(r - 1, -1, -1, dtype=np.int64)))


def unique(index: np.ndarray) -> np.ndarray:
    """Distinct rows."""
    _, first = np.unique(keys(index), return_index=True)
    return index[first]


def difference(candidates: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Rows of `candidates` whose keys are not among the sorted keys `known`, once each."""
    names, first = np.unique(keys(candidates), return_index=True)
    at = np.minimum(np.searchsorted(known, names), max(len(known) - 1, 0))
    fresh = known[at] != names if len(known) else np.ones(len(names), dtype=bool)
    return np.asarray(candidates[first[fresh]])


_FLATTEST = 1e-3  # smallest precision of a lattice


def sheared(heights: FloatArray, step: float, turns: FloatArray) -> FloatArray:
    """Symmetric (r, r) matrix S with which a lattice of unit spacing fits a weight: S Z^r instead of Z^r.

    S^{-2} bounds the precision -d^2 ln w / d beta^2 at all probes, is at most 1 (a mixture of unit Gaussians has no
    larger one), and respects the `turns` (g, r, r). heights (k, 1 + 2r + r (r - 1)) hold ln w at a probe, at steps
    forward and back along each coordinate, and along the sum of each pair of coordinates.
    """
    r = turns.shape[1]
    second = np.empty((len(heights), r, r))
    middle = heights[:, 0]
    for i in range(r):
        second[:, i, i] = 2.0 * middle - heights[:, 1 + 2 * i] - heights[:, 2 + 2 * i]
    for k, (i, j) in enumerate(itertools.combinations(range(r), 2)):
        both = 2.0 * middle - heights[:, 1 + 2 * r + 2 * k] - heights[:, 2 + 2 * r + 2 * k]
        second[:, i, j] = second[:, j, i] = 0.5 * (both - second[:, i, i] - second[:, j, j])
    second = np.concatenate([turn.T @ second @ turn for turn in turns]) / step**2
    values, axes = np.linalg.eigh(second.mean(axis=0))
    size = np.maximum(np.einsum("ij,kil,lj->kj", axes, second, axes).max(axis=0), _FLATTEST)
    for value in values:  # axes that a turn may mix are treated alike
        alike = np.abs(values - value) < 1e-6
        size[alike] = size[alike].max()
    unit = axes / np.sqrt(size)
    largest = float(np.linalg.eigvalsh(unit.T @ second @ unit).max())
    size = np.clip(size * max(largest, 1e-3), _FLATTEST, 1.0)
    return np.asarray((axes / np.sqrt(size)) @ axes.T)
