"""Order parameters, and vectors of unknowns: their coordinates along the orthogonal bases of blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from meanfield.validation import FloatArray

__all__ = ["Block", "ReluOrder", "add_blocks", "packed"]

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
