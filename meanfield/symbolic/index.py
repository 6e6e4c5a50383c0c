"""Calculus of index expressions: sums over classes, outputs and codes of products of indexed quantities."""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp
from sympy.printing.latex import LatexPrinter

__all__ = [
    "Average",
    "CumulantChange",
    "CumulantFunction",
    "GrowthChange",
    "GrowthFunction",
    "Ordered",
    "contract",
    "differentiate",
    "differentiate_parameter",
    "explicit",
]

_epsilon = sp.Symbol("epsilon", real=True)


class Ordered(sp.Function):
    """The n-th derivative f^(n)(x) of a function of one variable, written with its order: f(n, x)."""

    nargs = 2
    letter = "f"

    def fdiff(self, argindex: int = 2) -> sp.Expr:
        return self.func(self.args[0] + 1, self.args[1])

    def _latex(self, printer: LatexPrinter, exp: str | None = None) -> str:
        text = f"{self.letter}{chr(39) * int(self.args[0])}{{\\left({printer.doprint(self.args[1])}\\right)}}"
        return text if exp is None else f"\\left[{text}\\right]^{{{exp}}}"


class CumulantFunction(Ordered):
    """G^(n)(kappa) = CumulantFunction(n, kappa): single-site cumulant generating function and its derivatives."""

    letter = "G"


class GrowthFunction(Ordered):
    """g^(n)(kappa) = GrowthFunction(n, kappa), with G(kappa) ~ k g(kappa) / 2 far out."""

    letter = "g"


class _Change(sp.Function):
    """Derivative of f^(n)(x) by a parameter of f, at fixed x: f(n, x, parameter)."""

    nargs = 3
    letter = "f"

    def fdiff(self, argindex: int = 2) -> sp.Expr:
        if argindex != 2:
            raise sp.core.function.ArgumentIndexError(self, argindex)
        return self.func(self.args[0] + 1, *self.args[1:])

    def _latex(self, printer: LatexPrinter, exp: str | None = None) -> str:
        order, x, parameter = self.args
        text = f"\\partial_{{{printer.doprint(parameter)}}} {self.letter}{chr(39) * int(order)}"
        text += f"{{\\left({printer.doprint(x)}\\right)}}"
        return text if exp is None else f"\\left[{text}\\right]^{{{exp}}}"


class CumulantChange(_Change):
    """dG^(n)(kappa)/d parameter = CumulantChange(n, kappa, parameter) at fixed kappa; parameter k or one of phi."""

    letter = "G"


class GrowthChange(_Change):
    """dg^(n)(kappa)/d parameter of phi."""

    letter = "g"


class Average(sp.Function):
    """Average of its argument over P(a), proportional to exp(P h(a; t))."""

    nargs = 1

    def _latex(self, printer: LatexPrinter, exp: str | None = None) -> str:
        text = f"\\left\\langle {printer.doprint(self.args[0])} \\right\\rangle"
        return text if exp is None else f"{text}^{{{exp}}}"


def contract(expression: sp.Expr) -> sp.Expr:
    """Carry out sums over Kronecker deltas, constant factors in front; free indices lie within their ranges."""
    if not expression.has(sp.Sum):
        return expression
    if not isinstance(expression, sp.Sum):
        args = [contract(a) if isinstance(a, sp.Expr) else a for a in expression.args]
        return expression.func(*args) if args else expression
    function = expression.function
    for index, first, last in expression.limits:
        total = sp.Integer(0)
        for term in sp.Add.make_args(sp.expand(contract(function))):
            deltas = [f for f in sp.Mul.make_args(term) if isinstance(f, sp.KroneckerDelta) and index in f.args]
            if deltas:
                (other,) = set(deltas[0].args) - {index}
                total += (term / deltas[0]).subs(index, other)
            else:
                # Constant factors go in front, so that an outer sum finds its deltas.
                factor, rest = term.as_independent(index, as_Add=False)
                total += factor * sp.Sum(rest, (index, first, last))
        function = total
    return function


def differentiate(expression: sp.Expr, by: sp.Expr) -> sp.Expr:
    """Derivative with respect to an indexed quantity (d x[i] / d x[j] is a Kronecker delta), deltas contracted.

    Raises
    ------
    ValueError
        If an index of `by` is a summation index of the expression.
    """
    summed = {limit[0] for sum_ in expression.atoms(sp.Sum) for limit in sum_.limits}
    if summed & by.free_symbols:
        raise ValueError(f"{by} uses an index that {expression} sums over")
    return sp.expand(contract(sp.diff(expression, by)))


def differentiate_parameter(expression: sp.Expr, by: sp.Symbol) -> sp.Expr:
    """Derivative by a symbol on which G and, unless it is k, g depend beside what is written out."""
    moved = expression.replace(
        CumulantFunction, lambda order, x: CumulantFunction(order, x) + _epsilon * CumulantChange(order, x, by)
    )
    if by.name != "k":
        moved = moved.replace(
            GrowthFunction, lambda order, x: GrowthFunction(order, x) + _epsilon * GrowthChange(order, x, by)
        )
    implicit = sp.diff(moved, _epsilon).subs(_epsilon, 0)
    return sp.expand(differentiate(expression, by) + contract(sp.expand(implicit.doit())))


def explicit(expression: sp.Expr, sizes: Mapping[sp.Symbol, int], indices: Mapping[sp.Symbol, int]) -> sp.Expr:
    """The expression with sums written out, for given sizes (number of classes, ...) and values of free indices."""
    return expression.subs({**sizes, **indices}).doit()
