"""Leaky ReLU: phi(z) = z for z > 0, slope z for z < 0; slope may be any number (1 is linear)."""

import sympy as sp

PARAMETERS: dict[str, float] = {"slope": 0.01}


def expression(z: sp.Symbol, slope: sp.Expr) -> sp.Expr:
    return sp.Piecewise((slope * z, z < 0), (z, True))
