"""The single-site function of a class on the lattice of its own field h, at any conjugate field b of an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.deep.compiled.generated.site import ORDERS
from meanfield.theories.deep.layers.rules import Rule, activation_range
from meanfield.theories.deep.layers.site import SiteNodes, noise_law, site_derivatives, site_rule, site_values
from meanfield.validation import FloatArray

__all__ = ["SingleSites"]

_FEW = 200  # points, up to which there is a table in any case
_KEPT = 200_000  # numbers in a law of the noise, up to which it is kept


@dataclass(eq=False)
class SingleSites:
    """g(b, h) and its derivatives: by interpolation between Chebyshev points in b, or directly.

    A broad interval of b takes thousands of points, where few b may be asked for: these are integrated directly until
    there have been as many.
    """

    phi: Activation
    rule: Rule
    d: float
    delta: float
    h: FloatArray
    bounds: tuple[float, float]  # of b
    derived: dict[int, FloatArray] = field(default_factory=dict)  # by the highest order
    asked: dict[int, int] = field(default_factory=dict)  # how many b without a table, by the highest order
    together: bool = False  # few b are asked for: one quadrature does for all of them

    @cached_property
    def _chebyshev(self) -> tuple[FloatArray, FloatArray]:
        """Points in b, and their barycentric weights."""
        infimum, supremum = activation_range(self.phi)
        low, high = self.bounds
        half = max(0.5 * (high - low), 1e-9)
        ratio = 3.0 / (half * max(supremum - infimum, 1e-9))  # nearest zeros of exp(g): i pi / (range of phi)
        growth = math.log(ratio + math.sqrt(1.0 + ratio**2))
        digits = 16.0 if self.rule.depth < 20 else 34.0
        size = max(8, math.ceil(digits / growth) + 4)
        theta = math.pi * (np.arange(size) + 0.5) / size
        sign = 1.0 - 2.0 * (np.arange(size) % 2)
        return 0.5 * (low + high) + half * np.cos(theta), np.asarray(sign * np.sin(theta))

    def _z(self, h: FloatArray, most: float) -> SiteNodes:
        return site_rule(self.phi, self.d, float(h.min()), float(h.max()), self.rule.z, most)

    @cached_property
    def _every(self) -> tuple[SiteNodes, FloatArray | None]:
        """Quadrature for all b of the interval and all h, and the law of the noise, unless that is too large to keep"""
        nodes = self._z(self.h, float(np.abs(self.bounds).max()))
        return nodes, noise_law(nodes, self.h, self.d) if len(nodes.z) * len(self.h) <= _KEPT else None

    def _nodes(self, b: FloatArray, inside: slice) -> tuple[SiteNodes, FloatArray | None]:
        """What g is integrated with at b (N,) and h[inside]."""
        whole = inside.start in (None, 0) and inside.stop in (None, len(self.h)) and inside.step is None
        if whole and (self.together or b is self._chebyshev[0]):
            return self._every
        return self._z(self.h[inside], float(np.abs(b).max())), None

    @cached_property
    def _table(self) -> FloatArray:
        """(points, h)"""
        return self.values(self._chebyshev[0], slice(None))

    def _derived(self, highest: int) -> FloatArray:
        """(orders, points, h)"""
        if highest not in self.derived:
            self.derived[highest] = self.derivatives(self._chebyshev[0], slice(None), highest)[1]
        return self.derived[highest]

    def values(self, b: FloatArray, inside: slice) -> FloatArray:
        """g (N, h) at b (N,) and h[inside], integrated there."""
        nodes, law = self._nodes(b, inside)
        return site_values(nodes, b, self.h[inside], self.d, self.delta, law)

    def derivatives(self, b: FloatArray, inside: slice, highest: int) -> tuple[FloatArray, FloatArray]:
        """g (N, h) and derivatives (orders, N, h) up to a total order, at b (N,) and h[inside], integrated there."""
        nodes, law = self._nodes(b, inside)
        return site_derivatives(nodes, b, self.h[inside], self.d, self.delta, highest, law)

    def _weights(self, b: FloatArray) -> FloatArray:
        nodes, bary = self._chebyshev
        difference = b[:, None] - nodes
        exact = difference == 0.0
        difference[exact] = 1.0
        weight = bary / difference
        weight[exact.any(axis=1)] = 0.0
        weight[exact] = 1.0
        return np.asarray(weight / weight.sum(axis=1, keepdims=True))

    def interpolated(self, b: FloatArray) -> FloatArray:
        """g (N, h) at b (N,) and all h."""
        if self._directly(0, len(b)):
            return self.values(b, slice(None))
        return np.asarray(self._weights(b) @ self._table)

    def _directly(self, highest: int, count: int) -> bool:
        """Whether so many b more are to be integrated rather than read from a table."""
        size = len(self._chebyshev[0])
        if size <= _FEW or highest in self.derived or (highest == 0 and "_table" in self.__dict__):
            return False
        self.asked[highest] = self.asked.get(highest, 0) + count
        return self.asked[highest] <= size

    def interpolated_derivatives(self, b: FloatArray, inside: slice, wanted: list[int]) -> FloatArray:
        """(wanted, N h) derivatives at b (N,) and h[inside]."""
        highest = max(sum(ORDERS[order]) for order in wanted)
        if self._directly(highest, len(b)):
            return self.derivatives(b, inside, highest)[1][wanted].reshape(len(wanted), -1)
        return (self._weights(b) @ self._derived(highest)[wanted][:, :, inside]).reshape(len(wanted), -1)
