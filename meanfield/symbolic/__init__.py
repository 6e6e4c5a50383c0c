"""Symbolic layer (SymPy): from a nonlinearity to the equations that are solved, their derivatives, code and LaTeX.

Depends on SymPy and on the definitions in `meanfield.activations` only.
"""

from meanfield.symbolic.equations import Equations, equations

__all__ = ["Equations", "equations"]
