"""`Predictor`: what every theory of a data task can say about any inputs.

A predictor answers for inputs as the network sees them (centred, scaled); `DataPosterior` transforms raw ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from meanfield.validation import FloatArray, IntArray

__all__ = ["Drawn", "Predictor"]

Drawn = tuple[FloatArray, IntArray, Sequence[str], FloatArray]  # readouts, parts, names of the parts, preactivations


class Predictor(Protocol):
    """What every theory of a data task can say about new inputs (n, N_0)."""

    def mean(self, new: FloatArray) -> FloatArray:
        """(n, m) mean of the outputs f(x)."""

    def variance(self, new: FloatArray, width: float) -> FloatArray:
        """(n, m) variance of f_r(x) over the posterior, for N = `width` neurons (the lazy one does not depend on N)."""

    def kernel(self, left: FloatArray, right: FloatArray | None, layer: int) -> FloatArray:
        """(n, n') posterior kernel <phi(z(x)) phi(z(x'))> of a hidden layer; `right` None: of `left` with itself."""

    def draw(self, n: int, new: FloatArray, rng: np.random.Generator) -> Drawn:
        """Readouts (N, m), part of the posterior (N,), names of the parts, preactivations (N, n) of N = `n` neurons."""
