"""Closed forms of G(kappa) = ln int Dz exp(kappa phi(sqrt(k) z)) for piecewise linear phi."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import sympy as sp

__all__ = ["closed_form", "definition", "gaussian_piece"]


@lru_cache(maxsize=1)
def _antiderivative() -> tuple[sp.Expr, sp.Symbol, sp.Symbol]:
    """Antiderivative of exp(b z - z**2 / 2) / sqrt(2 pi) in z, found by SymPy, and its two symbols."""
    z, b = sp.symbols("z b", real=True)
    found = sp.integrate(sp.exp(b * z - z**2 / 2) / sp.sqrt(2 * sp.pi), z)
    return sp.simplify(found), z, b


def gaussian_piece(
    alpha: sp.Expr, beta: sp.Expr, lower: sp.Expr, upper: sp.Expr, kappa: sp.Expr, k: sp.Expr
) -> sp.Expr:
    """int_lower^upper dz N(z; 0, k) exp(kappa (alpha + beta z)): what one linear piece of phi adds to exp(G)."""
    primitive, z, b = _antiderivative()
    shift = kappa * beta * sp.sqrt(k)

    def at(end: sp.Expr) -> sp.Expr:
        if end in (sp.oo, -sp.oo):
            return sp.limit(primitive, z, end).subs(b, shift)
        return primitive.subs({z: end / sp.sqrt(k), b: shift}, simultaneous=True)

    return sp.exp(kappa * alpha) * sp.factor_terms(sp.simplify(at(upper) - at(lower)))


def closed_form(
    kinks: Sequence[sp.Expr], pieces: Sequence[tuple[sp.Expr, sp.Expr]], kappa: sp.Expr, k: sp.Expr
) -> sp.Expr:
    """G(kappa) of the phi with the given (intercept, slope) of each piece between the given kinks.

    Parameters
    ----------
    kinks : where the pieces meet, ascending.
    pieces : one more (intercept, slope) than kinks.
    kappa, k : SymPy expressions, k positive.
    """
    ends = [-sp.oo, *kinks, sp.oo]
    parts = [gaussian_piece(*piece, low, high, kappa, k) for piece, low, high in zip(pieces, ends, ends[1:])]
    if len(parts) == 1:
        ((alpha, beta),) = pieces
        return kappa * alpha + k * beta**2 * kappa**2 / 2
    return sp.log(sp.Add(*parts))


def definition(phi: sp.Expr, z: sp.Symbol, kappa: sp.Expr, k: sp.Expr) -> sp.Expr:
    """G(kappa) as the integral that defines it, left as such."""
    density = sp.exp(-(z**2) / (2 * k)) / sp.sqrt(2 * sp.pi * k)
    return sp.log(sp.Integral(density * sp.exp(kappa * phi), (z, -sp.oo, sp.oo)))
