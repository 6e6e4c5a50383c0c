"""Gaussian error linear unit: phi(z) = z [1 + erf(gain z / sqrt(2))] / 2."""

import sympy as sp

PARAMETERS: dict[str, float] = {"gain": 1.0}


def expression(z: sp.Symbol, gain: sp.Expr) -> sp.Expr:
    return z * (1 + sp.erf(gain * z / sp.sqrt(2))) / 2
