"""Sets of integer lattice points, one row each."""

from __future__ import annotations

import itertools

import numpy as np

from meanfield.validation import FloatArray, IntArray

__all__ = ["HALF", "cross", "difference", "keys", "unique"]

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


def cross(r: int, most: int) -> IntArray:
    """Steps from a node to those that are up to `most` single steps away."""
    cube = np.array(list(itertools.product(range(-most, most + 1), repeat=r)), dtype=np.int64)
    size = np.abs(cube).sum(axis=1)
    return np.asarray(cube[(size > 0) & (size <= most)])
