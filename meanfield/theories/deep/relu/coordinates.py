"""Order parameters, and vectors of unknowns: their coordinates along the orthogonal bases of blocks."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np

from meanfield.validation import FloatArray

__all__ = ["Block", "ReluOrder", "add_blocks", "directions", "packed", "packed_changes"]

Block: TypeAlias = tuple[str, int, FloatArray, float]  # name, layer or -1, basis (k, ...), and the unit of coordinates


@dataclass(frozen=True, eq=False)
class ReluOrder:
    """Order parameters: kernel (L-1, C, C), d (L-1, C), tilde (L-1, C, C), delta (L-1, C), t (C, q), and the outliers:
    lower (L-1, o, C) and top (o, q), whitened, in units of sqrt(N)."""

    kernel: FloatArray
    d: FloatArray
    tilde: FloatArray
    delta: FloatArray
    t: FloatArray
    lower: FloatArray
    top: FloatArray

    def outliers(self, layer: int) -> FloatArray:
        """(o, q) outliers of a layer, from 0."""
        return self.top if layer == len(self.kernel) else self.lower[layer]


def packed(blocks: list[Block], order: ReluOrder) -> FloatArray:
    """The vector of unknowns of some order parameters."""
    parts = []
    for name, layer, basis, unit in blocks:
        value = getattr(order, name)
        value = value if layer < 0 else value[layer]
        flat = basis.reshape(len(basis), value.size)
        parts.append(flat @ value.ravel() / (flat**2).sum(axis=1) / unit)
    return np.concatenate(parts)


def add_blocks(blocks: list[Block], x: FloatArray, order: ReluOrder) -> None:
    """Adds to `order` what the unknowns x stand for."""
    at = 0
    for name, layer, basis, unit in blocks:
        target = getattr(order, name)
        target = target if layer < 0 else target[layer]
        target += np.tensordot(x[at : at + len(basis)] * unit, basis, 1).reshape(target.shape)
        at += len(basis)


def directions(blocks: list[Block], nothing: ReluOrder) -> ReluOrder:
    """Changes of order parameters by each unknown, along a first axis; `nothing` has their shapes."""
    count = sum(len(basis) for _, _, basis, _ in blocks)
    found = ReluOrder(*(np.zeros((count, *getattr(nothing, f.name).shape)) for f in fields(nothing)))
    at = 0
    for name, layer, basis, unit in blocks:
        rows = slice(at, at + len(basis))
        target = getattr(found, name)[rows]
        target = target if layer < 0 else target[:, layer]
        target += (unit * basis).reshape(target.shape)
        at += len(basis)
    return found


def packed_changes(blocks: list[Block], moved: ReluOrder) -> FloatArray:
    """(k, P) changes of the unknowns of P changes of order parameters."""
    parts = []
    for name, layer, basis, unit in blocks:
        if not len(basis):
            continue
        value = getattr(moved, name)
        value = value if layer < 0 else value[:, layer]
        flat = basis.reshape(len(basis), -1)
        parts.append(flat @ value.reshape(len(value), -1).T / ((flat**2).sum(axis=1) * unit)[:, None])
    return np.concatenate(parts)
