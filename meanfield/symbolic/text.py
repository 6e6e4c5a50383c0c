"""Expressions from text, without running what is read (`sympy.sympify` and `parse_expr` would)."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

import sympy as sp
from sympy.functions.elementary.piecewise import ExprCondPair

__all__ = ["from_formula", "from_srepr"]

_FUNCTIONS: dict[str, Callable[..., Any]] = {"sqrt": sp.sqrt, "cbrt": sp.cbrt, "abs": sp.Abs}
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def from_srepr(text: str) -> sp.Expr:
    """The SymPy expression that `sympy.srepr` wrote as `text`.

    Raises
    ------
    ValueError
        If `text` holds anything but constructors of SymPy objects, numbers, strings and tuples.
    """
    return _read(text, {}, arithmetic=False)


def from_formula(text: str, symbols: dict[str, sp.Symbol]) -> sp.Expr:
    """The SymPy expression of a formula such as ``z / (1 + Abs(z))``, with exact integers.

    Parameters
    ----------
    text : str
        Arithmetic, comparisons inside Piecewise, numbers, `symbols`, and functions and constants of SymPy.
    symbols : dict of str to Symbol
        Names that stand for symbols.

    Raises
    ------
    ValueError
        If `text` holds anything else.
    """
    return _read(text.replace("^", "**"), symbols, arithmetic=True)


def _read(text: str, symbols: dict[str, sp.Symbol], *, arithmetic: bool) -> sp.Expr:
    try:
        expression = _build(ast.parse(text.strip(), mode="eval").body, symbols, arithmetic)
    except (SyntaxError, TypeError, RecursionError, ZeroDivisionError) as error:
        raise ValueError(f"{text[:80]!r} is not a SymPy expression ({error})") from error
    if not isinstance(expression, sp.Expr):
        raise ValueError(f"{text[:80]!r} is not a SymPy expression")
    return expression


def _build(node: ast.expr, symbols: dict[str, sp.Symbol], arithmetic: bool) -> Any:
    def build(inner: ast.expr) -> Any:
        return _build(inner, symbols, arithmetic)

    match node:
        case ast.Constant(value=bool() | None as value):
            return value
        case ast.Constant(value=int() | float() as value):
            return sp.sympify(value) if arithmetic else value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -build(operand)
        case ast.Tuple(elts=items):
            return tuple(build(item) for item in items)
        case ast.Name(id=name):
            return symbols[name] if name in symbols else _known(name, arithmetic)
        case ast.Call(func=ast.Name(id="Symbol" | "Float" as name), args=[ast.Constant(value=str() as value), *args]):
            # Nowhere else: SymPy evaluates strings.
            options = {keyword.arg: build(keyword.value) for keyword in node.keywords if keyword.arg is not None}
            return getattr(sp, name)(value, *map(build, args), **options)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            options = {keyword.arg: build(keyword.value) for keyword in keywords if keyword.arg is not None}
            return _known(name, arithmetic)(*map(build, args), **options)
        case ast.BinOp(left=left, op=op, right=right) if arithmetic and type(op) in _OPERATORS:
            return _OPERATORS[type(op)](build(left), build(right))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if arithmetic and type(op) in _COMPARISONS:
            return _COMPARISONS[type(op)](build(left), build(right))
    raise ValueError(f"a SymPy expression cannot hold {ast.unparse(node)[:80]!r}")


def _known(name: str, arithmetic: bool) -> Any:
    """A SymPy class or constant by name; other Python objects are out of reach."""
    if arithmetic and name in _FUNCTIONS:
        return _FUNCTIONS[name]
    found = ExprCondPair if name == "ExprCondPair" else getattr(sp, name, None)
    if isinstance(found, sp.Basic) or (isinstance(found, type) and issubclass(found, sp.Basic)):
        return found
    raise ValueError(f"{name!r} is neither the preactivation, a parameter, nor a function or constant of SymPy")
