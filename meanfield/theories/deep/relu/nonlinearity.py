"""An unbounded phi as compiled code reads it: two slopes, or a table (relu/THEORY.md, "Single-site function")."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.validation import FloatArray

__all__ = ["RECTIFIER", "TABLE", "Nonlinearity", "nonlinearity_of"]

TABLE = 10  # where the values of a table begin
_SPACING, _END = 0.02, 60.0  # of a table of phi
_BESIDE_KINKS = 0.005  # the same where phi has kinks, at most
_MOST_KINKS = 3
_APART = 12  # spacings between kinks, at least
_JUMP = 1e-7  # of phi within 1e-9, which is none
_FLAT = 1e-13  # what is left of phi beyond its asymptotes at the end of the table
_NODES = 400  # of the unit noise of prior averages


@dataclass(frozen=True, eq=False)
class Nonlinearity:
    """phi(z) = r_- z for z -> -infinity and r_+ z for z -> infinity.

    Attributes
    ----------
    numbers : (2,) or (k,) array
        r_- and r_+ where phi is linear on both sides of 0; otherwise the table of `compiled.site`.
    phi : Activation or None
        None: max(z, 0).
    part : float
        1; less where it is mixed with a linear phi.
    """

    numbers: FloatArray
    phi: Activation | None = None
    part: float = 1.0

    @property
    def tabulated(self) -> bool:
        """Whether phi is more than its slopes on both sides of 0."""
        return len(self.numbers) > 2

    @property
    def _places(self) -> FloatArray:
        """The z of the table."""
        half = (len(self.numbers) - TABLE - 1) // 2
        return np.asarray(self.numbers[4] * np.arange(-half, half + 1))

    @property
    def slope(self) -> float:
        """The steeper of r_- and r_+."""
        return max(self.slopes, key=abs)

    @cached_property
    def bend(self) -> float:
        """The largest distance of phi from r_- z below zero and r_+ z above."""
        if not self.tabulated:
            return 0.0
        z = self._places
        low, high = self.slopes
        return float(np.abs(self.numbers[TABLE:] - np.where(z > 0.0, high, low) * z).max())

    def __call__(self, z: FloatArray) -> FloatArray:
        """phi(z)."""
        if not self.tabulated:
            return np.asarray(np.where(z > 0.0, self.numbers[1] * z, self.numbers[0] * z))
        assert self.phi is not None
        linear = max(self.phi.slopes, key=abs) * z
        return np.asarray(self.part * self.phi(z) + (1.0 - self.part) * linear if self.part < 1.0 else self.phi(z))

    @property
    def slopes(self) -> tuple[float, float]:
        """r_- and r_+."""
        return float(self.numbers[0]), float(self.numbers[1])

    def second_moments(self, variance: float, covariance: float) -> tuple[float, float]:
        """<phi(z) phi(z')> and <phi(z)^2> of two Gaussian preactivations of mean zero."""
        if not self.tabulated:
            low, high = self.slopes
            rho = covariance / variance
            both = variance / (2.0 * math.pi) * (math.sqrt(1.0 - rho * rho) + rho * (math.pi - math.acos(rho)))
            # phi = (r_+ - r_-) max(z, 0) + r_- z
            return (high - low) ** 2 * both + high * low * covariance, 0.5 * (high**2 + low**2) * variance
        x, weight = _normal()
        own = math.sqrt(max(variance - covariance, 0.0))
        given = self(math.sqrt(covariance) * x[:, None] + own * x) @ weight
        return float(weight @ given**2), float(weight @ self(math.sqrt(variance) * x) ** 2)

    @property
    def rectifies(self) -> bool:
        """Whether classes that a neuron is not driven by end the bulk along its ray, in the first layer, too.

        Their samples would have phi = 0 there, and nothing lower: phi vanishes on one side, or at the kink alone (|z|),
        and is positive elsewhere.
        """
        if not self.tabulated:
            return self.slopes[0] <= 0.0 < self.slopes[1]
        return (
            self.slopes[0] == 0.0 == self.numbers[2] and self.slopes[1] > 0.0 and not (self.numbers[TABLE:] < 0.0).any()
        )

    def lowest(self, ratio: float) -> tuple[float, float]:
        """The z at which phi(z) - ratio z is lowest, and the minimum; r_- <= ratio <= r_+.

        Between places of the table on a parabola, an error of the third order in their distance.
        """
        if not self.tabulated:
            return 0.0, 0.0
        z = self._places
        value = self.numbers[TABLE:] - ratio * z
        i = int(value.argmin())
        kinks = np.array(self.phi.kinks if self.phi is not None else ())
        if not 0 < i < len(z) - 1 or (np.abs(kinks - z[i]) < 0.5 * self.numbers[4]).any():
            return float(z[i]), float(value[i])
        slope, bend = 0.5 * (value[i + 1] - value[i - 1]), value[i + 1] + value[i - 1] - 2.0 * value[i]
        if not bend > 0.0:
            return float(z[i]), float(value[i])
        return float(z[i] - slope / bend * self.numbers[4]), float(value[i] - 0.5 * slope**2 / bend)

    def mean(self, variance: float) -> float:
        """<phi(z)> under the prior."""
        if not self.tabulated:
            return (self.slopes[1] - self.slopes[0]) * math.sqrt(variance / (2.0 * math.pi))
        x, weight = _normal()
        return float(weight @ self(math.sqrt(variance) * x))

    def mixed(self, part: float) -> Nonlinearity:
        """part phi(z) + (1 - part) r z, r the steeper of both slopes."""
        if part == 1.0:
            return self
        numbers, r = part * self.numbers, (1.0 - part) * self.slope
        numbers[:2] += r
        if self.tabulated:
            numbers[4], numbers[6:TABLE] = self.numbers[4], self.numbers[6:TABLE]
            numbers[TABLE:] += r * self._places
        return Nonlinearity(numbers, self.phi, part)


RECTIFIER = Nonlinearity(np.array([0.0, 1.0]))


def _normal() -> tuple[FloatArray, FloatArray]:
    """Values of a standard normal variable and their weights."""
    x = np.linspace(-9.0, 9.0, _NODES)
    weight = np.exp(-0.5 * x * x)
    return x, weight / weight.sum()


@lru_cache(maxsize=64)
def nonlinearity_of(phi: Activation) -> Nonlinearity | None:
    """phi for compiled code; None where it has no asymptotes, jumps, or has kinks that are not on one lattice.

    Two slopes where it is linear on both sides of 0, otherwise a table.
    """
    if phi.bounded or not all(math.isfinite(r) for r in phi.slopes):
        return None
    if phi.pieces is not None and phi.pieces.breaks in ((), (0.0,)) and not any(phi.pieces.intercepts):
        return Nonlinearity(np.array(phi.slopes), phi)
    spacing = _spacing_for(phi)
    if spacing is None or not all(math.isfinite(i) for i in phi.intercepts):
        return None
    count = round(_END / spacing)
    z = spacing * np.arange(-count, count + 1)
    value = np.asarray(phi(z))
    for side, end in ((0, z[0]), (1, z[-1])):
        asymptote = phi.slopes[side] * end + phi.intercepts[side]
        if abs(float(phi(end)) - asymptote) > _FLAT * max(1.0, abs(end)):
            return None
    kinks = np.rint(np.array(phi.kinks) / spacing).astype(int)
    curved = np.abs(np.diff(value, 2))
    curved[kinks + count - 1] = 0.0
    places = np.zeros(_MOST_KINKS)
    places[: len(kinks)] = kinks
    head = [*phi.slopes, *phi.intercepts, spacing, float(curved.max()) / spacing**2, len(kinks), *places]
    return Nonlinearity(np.array([*head, *value]), phi)


def _spacing_for(phi: Activation) -> float | None:
    """Of a table of phi of which all kinks are nodes; None where there is none, or phi jumps."""
    kinks = np.array(phi.kinks)
    if not len(kinks):
        return _SPACING
    if len(kinks) > _MOST_KINKS or np.abs(kinks).max() > 0.5 * _END or any(map(math.isfinite, phi.reach)):
        return None
    if np.abs(phi(kinks + 1e-9) - phi(kinks - 1e-9)).max() > _JUMP:
        return None
    farthest = float(np.abs(kinks).max())
    if farthest == 0.0:
        return _BESIDE_KINKS
    least = math.ceil(farthest / _BESIDE_KINKS)
    for parts in range(least, 3 * least + 1):
        places = kinks * (parts / farthest)
        if np.abs(places - np.rint(places)).max() < 1e-9 * parts:
            apart = np.diff(np.rint(places))
            return farthest / parts if not len(apart) or apart.min() >= _APART else None
    return None
