"""Prints cumulants and class functions of deep networks (`meanfield.symbolic.deep`) as Numba source."""

from __future__ import annotations

from collections.abc import Sequence

import sympy as sp
from sympy.printing.pycode import PythonCodePrinter

from meanfield.symbolic import deep

__all__ = ["site_source"]

_HEADER = '''"""Machine-written by ``python -m meanfield.activations.generate`` from symbolic/deep.py; do not edit.

Derivatives of the single-site function g of a deep network in moments of one sample, and class functions
A_key = e^(-n g) d^key e^(n g), key = orders of the derivatives by (b, h, delta, d). Sample functions
e^(-n g) d_b^i d_h^j (g_xy e^(n g)), key = (x, y, i, j), x and y counted as (b, h, delta, d).
"""

from meanfield.numerics.jit import jit

__all__ = ["class_functions", "derivatives", "sample_functions"]

'''


class _Printer(PythonCodePrinter):
    """Whole powers as products."""

    def _print_Pow(self, expr: sp.Expr, rational: bool = False) -> str:
        base, power = expr.args
        if power.is_Integer and 1 < abs(int(power)) <= 8:
            factor = self.parenthesize(base, 55)
            product = "*".join([factor] * abs(int(power)))
            return f"({product})" if power > 0 else f"(1.0/({product}))"
        return str(super()._print_Pow(expr, rational=rational))

    def _print_Rational(self, expr: sp.Rational) -> str:
        return repr(float(expr))


def _constant(name: str, rows: Sequence[tuple[int, ...]]) -> str:
    return f"{name} = (\n" + "".join(f"    {row},\n" for row in rows) + ")\n"


def _body(targets: Sequence[str], expressions: Sequence[sp.Expr]) -> list[str]:
    shared, left = sp.cse(list(expressions), symbols=sp.numbered_symbols("x"), optimizations="basic")
    printer = _Printer()
    lines = [f"{name} = {printer.doprint(value)}" for name, value in shared]
    for target, value in zip(targets, left):
        whole = f"{target} = {printer.doprint(value)}"
        if len(whole) < 108:
            lines.append(whole)
            continue
        factor, inside = (
            value.as_independent(*value.args[-1:], as_Add=False) if value.is_Mul else (sp.Integer(1), value)
        )
        lines += [f"{target} = 0.0", *(f"{target} += {printer.doprint(term)}" for term in sp.Add.make_args(inside))]
        if factor != 1:
            lines.append(f"{target} *= {printer.doprint(factor)}")
    return lines


def site_source() -> str:
    """Source of `meanfield/theories/deep/compiled/generated/site.py`."""
    orders, keys, samples = deep.site_orders(), deep.class_keys(), deep.sample_keys()
    formulas = [deep.cumulants(*order) for order in orders]
    moments = sorted({s for f in formulas for s in f.free_symbols} - {deep.root_d}, key=str)
    known = [tuple(int(x) for x in s.name[2:]) for s in moments]
    first = [f"{s} = moments[{i}, k]" for i, s in enumerate(moments)]
    first += _body([f"out[{i}, k]" for i in range(len(orders))], formulas)
    second = _functions([deep.class_function(key) for key in keys], orders)
    third = _functions([deep.sample_function(key) for key in samples], orders)
    parts = [
        _HEADER,
        "# Rows of `moments`: orders of phi and xi; of `derivatives`: in b and h; columns of `class_functions`.\n",
        _constant("MOMENTS", known),
        _constant("ORDERS", orders),
        _constant("KEYS", keys),
        _constant("SAMPLE_KEYS", samples),
        _function(
            "derivatives",
            "Derivatives of g, rows as ORDERS, from moments, rows as MOMENTS; g_b lacks the middle of phi.",
            ("moments", "root_d", "out"),
            "moments.shape[1]",
            first,
        ),
        _function(
            "class_functions",
            "A_key, columns as KEYS, from the derivatives of g, rows as ORDERS, for a class of n samples.",
            ("site", "n", "out"),
            "site.shape[1]",
            second,
        ),
        _function(
            "sample_functions",
            "Columns as SAMPLE_KEYS, from the derivatives of g, rows as ORDERS, for a class of n samples.",
            ("site", "n", "out"),
            "site.shape[1]",
            third,
        ),
    ]
    return "".join(parts)


def _functions(expressions: Sequence[sp.Expr], orders: Sequence[tuple[int, int]]) -> list[str]:
    """Lines that compute polynomials in the derivatives of g that they contain."""
    used = {symbol for expression in expressions for symbol in expression.free_symbols}
    lines = [f"{deep.site(*order)} = site[{i}, k]" for i, order in enumerate(orders) if deep.site(*order) in used]
    return lines + _body([f"out[k, {i}]" for i in range(len(expressions))], expressions)


def _function(name: str, summary: str, arguments: Sequence[str], size: str, body: Sequence[str]) -> str:
    lines = "".join(f"        {line}\n" for line in body)
    head = f'\n\n@jit\ndef {name}({", ".join(arguments)}):\n    """{summary}"""\n'
    return f"{head}    for k in range({size}):\n{lines}"
