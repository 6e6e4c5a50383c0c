"""Hard sigmoid: phi(z) = (1 + gain z) / 2 cut to [0, 1]; at 0 it has the slope of `sigmoid`."""

import sympy as sp

PARAMETERS: dict[str, float] = {"gain": 1.0}


def expression(z: sp.Symbol, gain: sp.Expr) -> sp.Expr:
    return sp.Max(0, sp.Min(1, (1 + gain * z) / 2))
