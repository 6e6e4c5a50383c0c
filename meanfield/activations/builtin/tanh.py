"""Hyperbolic tangent: phi(z) = tanh(gain z)."""

import sympy as sp

PARAMETERS: dict[str, float] = {"gain": 1.0}


def expression(z: sp.Symbol, gain: sp.Expr) -> sp.Expr:
    return sp.tanh(gain * z)
