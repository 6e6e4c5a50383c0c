"""Scales of the weights between layers, and widths of layers (THEORY.md, "The equations")."""

from __future__ import annotations

import numpy as np

from meanfield.validation import FloatArray

__all__ = ["LayerScales"]


class LayerScales:
    """What a problem in numbers says of its layers.

    Attributes
    ----------
    depth : int
        L.
    scales : (L - 1,) tuple of float
        sigma^2 of the weights above a layer; 1 where nothing is said.
    ratios : (L,) tuple of float
        Widths N_l of the layers in units of that of the last one; 1 where nothing is said.
    """

    depth: int
    scales: tuple[float, ...]
    ratios: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", self.scales or (1.0,) * (self.depth - 1))
        object.__setattr__(self, "ratios", self.ratios or (1.0,) * self.depth)

    @property
    def push(self) -> FloatArray:
        """(L - 1,) factors of <g_h g_h^T> and <g_hh> of layer l + 1 in the conjugates of layer l."""
        ratios = np.array(self.ratios)
        return np.array(self.scales) * ratios[1:] / ratios[:-1]
