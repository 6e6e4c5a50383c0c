"""Hard tanh: phi(z) = gain z cut to [-1, 1]."""

import sympy as sp

PARAMETERS: dict[str, float] = {"gain": 1.0}


def expression(z: sp.Symbol, gain: sp.Expr) -> sp.Expr:
    return sp.Max(-1, sp.Min(1, gain * z))
