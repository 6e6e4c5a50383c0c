"""Sets of integer lattice points, one row each."""

from __future__ import annotations

import itertools

import numpy as np

from meanfield.validation import FloatArray, IntArray

__all__ = ["cross", "difference", "half", "keys", "unique"]

_BITS = {1: 31, 2: 31, 3: 21}  # of an index, by their number; 16 in more dimensions


def half(r: int) -> int:
    """So many steps from the origin indices of r numbers may lie at most."""
    return 1 << (_BITS.get(r, 16) - 1)


def keys(index: np.ndarray) -> FloatArray:
    """One integer per row of lattice indices."""
    most = half(index.shape[1])
    names = index[:, 0] + most
    for column in index.T[1:]:
        names = names * (2 * most) + (column + most)
    return np.asarray(names)


def _once(names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct names, ascending, and the first place of each."""
    order = np.argsort(names, kind="stable")
    ordered = names[order]
    new = np.ones(len(names), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return ordered[new], order[new]


def unique(index: np.ndarray) -> np.ndarray:
    """Distinct rows."""
    return index[_once(keys(index))[1]]


def difference(candidates: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Rows of `candidates` whose keys are not among the sorted keys `known`, once each."""
    names, first = _once(keys(candidates))
    at = np.minimum(np.searchsorted(known, names), max(len(known) - 1, 0))
    fresh = known[at] != names if len(known) else np.ones(len(names), dtype=bool)
    return np.asarray(candidates[first[fresh]])


def cross(r: int, most: int) -> IntArray:
    """Steps from a node to those that are up to `most` single steps away."""
    cube = np.array(list(itertools.product(range(-most, most + 1), repeat=r)), dtype=np.int64)
    size = np.abs(cube).sum(axis=1)
    return np.asarray(cube[(size > 0) & (size <= most)])
