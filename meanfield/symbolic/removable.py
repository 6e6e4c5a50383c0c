"""Points that look singular and are not (z = 0 of coth z - 1/z): recognised, and computed without cancellation.

Near such a point the formula loses its digits in floating point. A polynomial through values in high precision takes
its place there, checked before it is used.
"""

from __future__ import annotations

from typing import NamedTuple

import mpmath
import numpy as np
import sympy as sp

from meanfield.symbolic.asymptotics import value_at

__all__ = ["Patch", "is_removable", "patch"]

_DIGITS = 80
_RADIUS = 0.25
_DEGREE = 40
_PATCH_DEGREE = 28
_VALUE_ERROR = 1e-15  # of a patch, relative to max(1, |phi|)
_CHECK = [mpmath.mpf(x) for x in ("-0.97", "-0.71", "-0.33", "-0.011", "0.0007", "0.052", "0.47", "0.83", "0.991")]


class Patch(NamedTuple):
    """phi near `centre`, on both sides (0) or for z below (-1) or above (1): a polynomial in (z - centre) / radius."""

    centre: float
    radius: float
    coefficients: tuple[float, ...]
    side: int = 0

    def source(self, order: int = 0) -> str:
        """NumPy source of the polynomial (order 0) or of its derivative (order 1)."""
        c = np.array(self.coefficients)
        if order:
            c = np.polynomial.polynomial.polyder(c) / self.radius
        text = repr(float(c[-1]))
        for x in c[-2::-1]:
            text = f"({float(x)!r} + ((z - {self.centre!r})/{self.radius!r})*{text})"
        return text

    def inserted(self, source: str, order: int = 0, slope: float = 0.0) -> str:
        """NumPy source of phi, phi' or phi - slope * z, given that which holds elsewhere."""
        inside = self.source(order)
        if slope:
            inside = f"({inside} - {slope!r}*z)"
        where = f"numpy.abs(z - {self.centre!r}) <= {self.radius!r}"
        if self.side:
            where = f"({where}) & (z {'>=' if self.side > 0 else '<'} {self.centre!r})"
        return f"numpy.where({where}, {inside}, {source})"


def is_removable(phi: sp.Expr, z: sp.Symbol, centre: float, room: float) -> bool:
    """Whether phi is analytic around a point: a polynomial through both sides meets it to 18 digits.

    `room` is the distance to the next point where phi may be singular.
    """
    radius = min(_RADIUS, 0.5 * room)
    fitted = _fit(phi, z, centre, radius, _DEGREE)
    if fitted is None:
        return False
    return _agrees(phi, z, centre, radius, fitted, mpmath.mpf(10) ** -18)


def patch(phi: sp.Expr, z: sp.Symbol, centre: float, radius: float) -> Patch | None:
    """Polynomial for phi within `radius` of a removable point; None if it is not accurate."""
    fitted = _fit(phi, z, centre, radius, _PATCH_DEGREE)
    if fitted is None:
        return None
    largest = max(abs(c) for c in fitted)
    coefficients = [float(c) if abs(c) > 1e-22 * largest else 0.0 for c in fitted]
    while len(coefficients) > 1 and coefficients[-1] == 0.0:
        coefficients.pop()
    accurate = _agrees(phi, z, centre, radius, coefficients, _VALUE_ERROR)
    return Patch(centre, radius, tuple(coefficients)) if accurate else None


def _agrees(phi: sp.Expr, z: sp.Symbol, centre: float, radius: float, powers: list[mpmath.mpf], error: object) -> bool:
    with mpmath.workdps(_DIGITS):
        for u in _CHECK:
            there = value_at(phi, z, centre + radius * u, _DIGITS)
            if there is None or abs(mpmath.polyval(powers[::-1], u) - there) > error * max(1, abs(there)):
                return False
    return True


def _fit(phi: sp.Expr, z: sp.Symbol, centre: float, radius: float, degree: int) -> list[mpmath.mpf] | None:
    """Powers of (z - centre) / radius of the polynomial through the values at Chebyshev's points."""
    with mpmath.workdps(_DIGITS):
        n = degree + 2 - degree % 2  # even: the centre is no node
        nodes = [mpmath.cos(mpmath.pi * (2 * i + 1) / (2 * n)) for i in range(n)]
        values = [value_at(phi, z, centre + radius * u, _DIGITS) for u in nodes]
        if any(v is None or not mpmath.isfinite(v) for v in values):
            return None
        chebyshev = [
            mpmath.fsum(mpmath.re(v) * mpmath.cos(mpmath.pi * k * (2 * i + 1) / (2 * n)) for i, v in enumerate(values))
            * (2 if k else 1)
            / n
            for k in range(n)
        ]
        powers = [mpmath.mpf(0)] * n
        for k, c in enumerate(chebyshev):
            for j, p in enumerate(_chebyshev_powers(k)):
                powers[j] += c * p
        return powers


def _chebyshev_powers(k: int) -> list[int]:
    """T_k in powers, exact."""
    before, now = [1], [0, 1]
    if k == 0:
        return before
    for _ in range(k - 1):
        after = [0, *(2 * x for x in now)]
        for j, x in enumerate(before):
            after[j] -= x
        before, now = now, after
    return now
