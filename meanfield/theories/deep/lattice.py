"""Sets of integer lattice points, one row each."""

from __future__ import annotations

import numpy as np

from meanfield.validation import FloatArray

__all__ = ["HALF", "difference", "keys", "unique"]

HALF, _WIDTH = 1 << 15, 1 << 16  # indices lie within 32768 steps of the origin


def keys(index: FloatArray) -> FloatArray:
    """One integer per row of lattice indices."""
    r = index.shape[1]
    return np.asarray((index + HALF) @ (np.int64(_WIDTH) ** np.arange(r - 1, -1, -1, dtype=np.int64)))


def unique(index: FloatArray) -> FloatArray:
    """Distinct rows."""
    _, first = np.unique(keys(index), return_index=True)
    return index[first]


def difference(candidates: FloatArray, known: np.ndarray) -> FloatArray:
    """Rows of `candidates` that are not rows of `known`, once each."""
    candidates = unique(candidates)
    return candidates[~np.isin(keys(candidates), keys(known))]
