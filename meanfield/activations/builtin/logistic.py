"""Logistic function: phi(z) = 1 / (1 + exp(-gain z))."""

import sympy as sp

PARAMETERS: dict[str, float] = {"gain": 1.0}


def expression(z: sp.Symbol, gain: sp.Expr) -> sp.Expr:
    return 1 / (1 + sp.exp(-gain * z))
