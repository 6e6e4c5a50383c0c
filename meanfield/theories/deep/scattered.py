"""The single-site function at scattered pairs of fields (b, h), each integrated over z on its own.

    g(b, h) = ln int Dxi exp(b phi(z) + delta phi(z)^2 / 2),    z = h + sqrt(d) xi

For nodes that are no grid: moments of phi and z under the tilted law are one matrix product, those of xi follow.
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.deep.compiled.generated.site import MOMENTS, ORDERS, derivatives
from meanfield.theories.deep.site import SiteNodes, z_rule
from meanfield.validation import FloatArray

__all__ = ["ScatteredSites"]

_AT_ONCE = 1 << 18  # numbers per temporary array


class ScatteredSites:
    """The single sites of one class, for fields within bounds of b and h."""

    def __init__(
        self, phi: Activation, step: float, d: float, delta: float, b: tuple[float, float], h: tuple[float, float]
    ) -> None:
        nodes: SiteNodes = z_rule(phi, d, *h, step, max(abs(b[0]), abs(b[1])))
        self.root = math.sqrt(d)
        self.middle, self.origin = 0.5 * float(nodes.phi.max() + nodes.phi.min()), float(nodes.z.mean())
        self.z, self.phi = (nodes.z - self.origin) / self.root, nodes.phi - self.middle
        self.log_law = np.log(nodes.weight / math.sqrt(2.0 * math.pi * d)) + 0.5 * delta * nodes.phi**2
        powers = [(i, j) for i in range(5) for j in range(5 - i)]
        self.at = {power: column for column, power in enumerate(powers)}
        self.basis = np.column_stack([self.phi**i * self.z**j for i, j in powers])

    def __call__(self, b: FloatArray, h: FloatArray, highest: int) -> tuple[FloatArray, FloatArray]:
        """g (N,) and its derivatives (orders, N), in the order of ORDERS, up to a total order, at b (N,) and h (N,)."""
        g, found = np.empty(len(b)), np.zeros((len(ORDERS), len(b)))
        x = (h - self.origin) / self.root
        columns = [column for power, column in self.at.items() if sum(power) <= highest]
        basis = np.ascontiguousarray(self.basis[:, columns])
        size = max(64, _AT_ONCE // len(self.z))
        for start in range(0, len(b), size):
            part = slice(start, start + size)
            exponent = np.outer(b[part], self.phi) + self.log_law - 0.5 * (self.z - x[part, None]) ** 2
            top = exponent.max(axis=1)
            law = np.exp(exponent - top[:, None])
            sums = np.zeros((len(top), len(self.at)))
            sums[:, columns] = law @ basis
            total = sums[:, 0].copy()
            g[part] = top + np.log(total) + self.middle * b[part]
            if highest:
                found[:, part] = self._derivatives(sums / total[:, None], x[part], highest)
        return g, found

    def _derivatives(self, moments: FloatArray, x: FloatArray, highest: int) -> FloatArray:
        """From the means (N, powers) of phi and z; xi = z - x."""
        powers = [np.ones(len(x))]
        for _ in range(highest):
            powers.append(-powers[-1] * x)
        rows = np.zeros((len(MOMENTS), len(x)))
        for row, (i, j) in zip(rows, MOMENTS):
            if i + j <= highest:
                for k in range(j + 1):
                    row += math.comb(j, k) * moments[:, self.at[i, k]] * powers[j - k]
        found = np.empty((len(ORDERS), len(x)))
        derivatives(rows, self.root, found)
        found[ORDERS.index((1, 0))] += self.middle
        return found
