"""Softplus: phi(z) = ln(1 + exp(gain z)) / gain, a smooth ReLU."""

import sympy as sp

PARAMETERS: dict[str, float] = {"gain": 1.0}


def expression(z: sp.Symbol, gain: sp.Expr) -> sp.Expr:
    return sp.log(1 + sp.exp(gain * z)) / gain
