"""Equations in Markdown pages: every block ``<!-- equations: name -->`` of a page is generated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import sympy as sp

from meanfield.symbolic import action as theory
from meanfield.symbolic import theories
from meanfield.symbolic.cumulant import definition
from meanfield.symbolic.deep import deep_equations, one_loop_equations, second_derivatives
from meanfield.symbolic.equations import finite_equations, limit_equations, linear_equations
from meanfield.symbolic.index import CumulantFunction, GrowthFunction
from meanfield.symbolic.latex import align, with_equations
from meanfield.symbolic.rectifiers import rectifier_equations

__all__ = ["THEORIES", "latex_of", "pages", "rendered"]

_KAPPA, _Z = sp.Symbol("kappa", real=True), sp.Symbol("z", real=True)


def _cumulant() -> sp.Eq:
    phi = sp.Function("varphi")(_Z)
    return sp.Eq(CumulantFunction(0, _KAPPA), definition(phi, _Z, _KAPPA, theory.k), evaluate=False)


def _growth() -> sp.Eq:
    above, below = sp.symbols("g_+ g_-", nonnegative=True)
    square = above * sp.Max(_KAPPA, 0) ** 2 + below * sp.Max(-_KAPPA, 0) ** 2
    return sp.Eq(GrowthFunction(0, _KAPPA), square, evaluate=False)


# LaTeX of each theory for any nonlinearity, by the name that pages use.
THEORIES: dict[str, Callable[[], str]] = {
    "single_layer": lambda: limit_equations(_cumulant(), None).latex(),
    "single_layer_outliers": lambda: limit_equations(_cumulant(), _growth()).latex(),
    "single_layer_finite": lambda: finite_equations(_cumulant()).latex(),
    "single_layer_linear": lambda: linear_equations(_cumulant(), sp.Symbol("gain")).latex(),
    "linear": lambda: theories.linear().latex(),
    "lazy": lambda: theories.lazy().latex(),
    "general_data": lambda: theories.general_data().latex(),
    "general_data_outliers": lambda: theories.general_data(outliers=True).latex(),
    "deep_network": lambda: deep_equations(jacobian=False).latex(),
    "deep_network_layers": lambda: deep_equations(jacobian=False, layered=True).latex(),
    "deep_rectifiers": lambda: rectifier_equations().latex(),
    "deep_network_jacobian": lambda: align(second_derivatives()),
    "deep_one_loop": lambda: align(one_loop_equations()),
}


@cache
def latex_of(name: str) -> str:
    """The ``align`` environment of a theory.

    Raises
    ------
    ValueError
        If there is no theory of that name.
    """
    if name not in THEORIES:
        raise ValueError(f"there are no equations {name!r}; there are {', '.join(THEORIES)}")
    return THEORIES[name]()


def rendered(page: str) -> str:
    """The page with its equations as they are derived now."""
    return with_equations(page, latex_of)


def pages(root: Path | None = None) -> Iterator[Path]:
    """Markdown pages of the package and beside it, or below `root`."""
    if root is not None:
        yield from sorted(root.rglob("*.md"))
        return
    package = Path(__file__).parents[1]
    yield from sorted(package.rglob("*.md"))
    yield from sorted(package.parent.glob("*.md"))
