"""Sigmoid of van Meegen & Sompolinsky (2025): phi(z) = [1 + erf(sqrt(pi) gain z / 2)] / 2."""

import sympy as sp

PARAMETERS: dict[str, float] = {"gain": 1.0}


def expression(z: sp.Symbol, gain: sp.Expr) -> sp.Expr:
    return (1 + sp.erf(sp.sqrt(sp.pi) * gain * z / 2)) / 2
