"""Step function: phi(z) = 0 for z < 0, 1 for z > 0."""

import sympy as sp

PARAMETERS: dict[str, float] = {}


def expression(z: sp.Symbol) -> sp.Expr:
    return sp.Heaviside(z)
