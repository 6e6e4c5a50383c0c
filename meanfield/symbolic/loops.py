"""Prints index expressions as Numba source: free indices and sums become loops, Kronecker deltas diagonals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import sympy as sp
from sympy.printing.pycode import PythonCodePrinter

from meanfield.symbolic import action as theory

__all__ = ["Output", "indent", "loops", "printed", "printed_number", "without_deltas"]

_RANGES = {
    **dict.fromkeys((theory.q, theory.r, theory.s, theory.u), "n_output"),
    **dict.fromkeys((theory.c, theory.d, theory.e), "n_class"),
    **dict.fromkeys((theory.alpha, theory.beta, theory.gamma), "n_neuron"),
}


class Output(NamedTuple):
    """One result: an array to fill, or without indices a number that is returned, and its index expression.

    Where `adds` is true the expression is added to what the array holds.
    """

    name: str
    indices: tuple[sp.Symbol, ...]
    expression: sp.Expr
    adds: bool = False


class _Printer(PythonCodePrinter):
    def _print_Indexed(self, e: sp.Indexed) -> str:
        return f"{e.base}[{', '.join(str(i) for i in e.indices)}]"

    def _print_Rational(self, e: sp.Rational) -> str:
        return repr(float(e))


def printed(expression: sp.Expr) -> str:
    """A product of numbers and indexed quantities, numbers as floats."""
    return repr(float(expression)) if expression.is_Integer else str(_Printer().doprint(expression))


def printed_number(expression: sp.Expr) -> str:
    """An expression of plain symbols as source that needs `math` only."""
    return str(_Printer().doprint(expression))


def indent(lines: Sequence[str], depth: int = 1) -> list[str]:
    """The lines, `depth` levels further in."""
    return ["    " * depth + line for line in lines]


def _products(expression: sp.Expr) -> Iterator[tuple[tuple[sp.Symbol, ...], sp.Expr]]:
    """The terms of an expression as (indices summed over, product)."""
    for term in sp.Add.make_args(sp.expand(expression)):
        factor, total = term.as_independent(sp.Sum)
        if not term.has(sp.Sum):
            yield (), term
        elif isinstance(total, sp.Sum):
            summed = tuple(index for index, _, _ in reversed(total.limits))
            for inner, product in _products(sp.expand(factor * total.function)):
                yield (*summed, *inner), product
        else:
            raise ValueError(f"cannot print a product of sums as loops: {total}")


def _is_diagonal(product: sp.Expr) -> bool:
    return bool(product.has(sp.KroneckerDelta))


def without_deltas(indices: tuple[sp.Symbol, ...], product: sp.Expr) -> tuple[tuple[sp.Symbol, ...], sp.Expr]:
    """Indices of the target and the product, with every Kronecker delta of two free indices carried out."""
    for delta in product.atoms(sp.KroneckerDelta):
        first, second = (i for i in indices if i in delta.args)
        product = (product / delta).subs(second, first)
        indices = tuple(first if i == second else i for i in indices)
    return indices, product


def loops(output: Output, fixed: tuple[sp.Symbol, ...] = ()) -> list[str]:
    """Source that fills (or adds to) an output, inside loops over the indices `fixed`."""
    nests: dict[tuple[sp.Symbol, ...], list[str]] = {}
    filled = output.adds
    # What covers the whole array comes first: it sets the entries, the others add to them.
    for summed, product in sorted(_products(output.expression), key=lambda x: (len(x[0]), _is_diagonal(x[1]))):
        indices, product = without_deltas(output.indices, product)
        if product == 0:
            continue
        every = set(indices) == set(output.indices) and not summed
        if not filled and not every:
            nests[output.indices] = [f"{_target(output.name, output.indices)} = 0.0"]
        operator = "+=" if filled or not every else "="
        filled = True
        outer = tuple(i for i in summed if _RANGES[i] != "n_output")
        inner = tuple(i for i in summed if _RANGES[i] == "n_output")
        order = tuple(dict.fromkeys((*outer, *indices, *inner)))
        nests.setdefault(order, []).append(f"{_target(output.name, indices)} {operator} {printed(product)}")
    if not filled:
        nests[output.indices] = [f"{_target(output.name, output.indices)} = 0.0"]
    lines: list[str] = []
    for order, statements in nests.items():
        depth = 0
        for index in order:
            if index not in fixed:
                lines.append("    " * depth + f"for {index} in range({_RANGES[index]}):")
                depth += 1
        lines += indent(statements, depth)
    return lines


def _target(name: str, indices: Sequence[sp.Symbol]) -> str:
    return f"{name}[{', '.join(map(str, indices))}]" if indices else name
