"""Built-in nonlinearities, one file each.

A file `name.py` here makes `meanfield.activation("name")` work. It holds

* `PARAMETERS`: a dict of the parameters and their defaults, and
* `expression(z, **parameters)`: the SymPy expression of phi(z).

A parameter called `gain` must be positive. Everything else about phi (kinks, symmetry, limits, growth, closed forms,
NumPy and Numba code) is derived from the expression. `python -m meanfield.activations.generate` writes what is derived
into `activations/derived.py`, so that SymPy need not be loaded to solve; a file without an entry there works as well,
slower.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

__all__ = ["definition", "names"]


def names() -> tuple[str, ...]:
    """Names of the built-in nonlinearities."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def definition(name: str) -> ModuleType:
    """Module that defines the nonlinearity `name`.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in names():
        raise ValueError(
            f"there is no activation {name!r}; choose one of {', '.join(names())}, or give one of your own: "
            "mf.Activation(expression, symbol) with an expression of SymPy, such as Abs(z)"
        )
    return importlib.import_module(f"{__name__}.{name}")
