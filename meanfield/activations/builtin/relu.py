"""Rectified linear unit: phi(z) = gain max(0, z)."""

import sympy as sp

PARAMETERS: dict[str, float] = {"gain": 1.0}


def expression(z: sp.Symbol, gain: sp.Expr) -> sp.Expr:
    return gain * sp.Max(0, z)
