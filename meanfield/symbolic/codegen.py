"""Prints the single-neuron action and its derivatives as Numba source: index expressions become loops.

The compiled functions take sigma_a = 1 (phases/THEORY.md, "Exact facts": scaling); G comes from a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sympy as sp
from sympy.printing.pycode import PythonCodePrinter

from meanfield.symbolic import action as theory
from meanfield.symbolic.index import CumulantFunction, differentiate

__all__ = ["action_source"]

_HEADER = '''"""Machine-written by ``python -m meanfield.activations.generate`` from symbolic/action.py; do not edit.

Single-neuron action h(a; t) = -|a|**2 / 2 + sum_c p_c G(kappa_c), kappa_c = a . t_c, in units of sigma_a = 1, and its
derivatives. Shapes: p (C,), t (C, m), a (m,); `table` as in `meanfield.numerics.cumulant_table`.
"""

from meanfield.numerics.jit import jit
from meanfield.numerics.cumulant_table import cumulant2, cumulant4

__all__ = [{names}]
'''


class Output(NamedTuple):
    """One result: an array to fill (or "h", which is returned), its indices and its index expression."""

    name: str
    indices: tuple[sp.Symbol, ...]
    expression: sp.Expr


class _Printer(PythonCodePrinter):
    def _print_Indexed(self, e: sp.Indexed) -> str:
        return f"{e.base}[{', '.join(str(i) for i in e.indices)}]"

    def _print_CumulantFunction(self, e: sp.Expr) -> str:
        return f"g{int(e.args[0])}"

    def _print_Rational(self, e: sp.Rational) -> str:
        return repr(float(e))


def _statements(output: Output, expression: sp.Expr, operator: str) -> list[str]:
    """Loops that put (operator "=") or add ("+=") an expression without sums over classes into an output.

    Terms with a delta of two output indices only touch the diagonal.
    """
    deltas: dict[tuple[sp.Symbol, sp.Symbol], sp.Expr] = {}
    plain = sp.Integer(0)
    for term in sp.Add.make_args(sp.expand(expression)):
        found = [f for f in sp.Mul.make_args(term) if isinstance(f, sp.KroneckerDelta)]
        if found:
            first, second = (i for i in output.indices if i in found[0].args)
            deltas[first, second] = deltas.get((first, second), 0) + (term / found[0]).subs(second, first)
        else:
            plain += term
    lines = []
    if plain != 0 or operator == "=":
        lines += _loop(output, output.indices, plain, operator)
    for (first, second), term in deltas.items():
        diagonal = tuple(first if i == second else i for i in output.indices)
        lines += _loop(output, diagonal, term, "+=")
    return lines


def _loop(output: Output, indices: Sequence[sp.Symbol], expression: sp.Expr, operator: str) -> list[str]:
    lines: list[str] = []
    depth = 0
    for index in dict.fromkeys(indices):
        if index != theory.c:
            lines.append("    " * depth + f"for {index} in range(n_output):")
            depth += 1
    target = f"{output.name}[{', '.join(map(str, indices))}]" if indices else output.name
    for term in sp.Add.make_args(expression):
        if isinstance(term.as_independent(sp.Sum)[1], sp.Sum):
            factor, total = term.as_independent(sp.Sum)
            lines.append("    " * depth + f"for {total.limits[0][0]} in range(n_output):")
            lines.append("    " * (depth + 1) + f"{target} += {_print(factor * total.function)}")
        else:
            lines.append("    " * depth + f"{target} {operator} {_print(term)}")
    return lines


def _print(expression: sp.Expr) -> str:
    return repr(float(expression)) if expression.is_Integer else str(_Printer().doprint(expression))


def _function(name: str, summary: str, outputs: Sequence[Output]) -> str:
    """Source of one function that fills all outputs and returns h."""
    arrays = [o.name for o in outputs if o.indices]
    before: list[str] = []
    within: list[str] = []
    for output in outputs:
        if theory.c in output.indices:
            within += _statements(output, output.expression, "=")
            continue
        constant = sp.Integer(0)
        for term in sp.Add.make_args(output.expression):
            factor, total = term.as_independent(sp.Sum)
            if isinstance(total, sp.Sum) and total.limits[0][0] == theory.c:
                within += _statements(output, factor * total.function, "+=")
            else:
                constant += term
        before += ["h = 0.0"] if not output.indices else []
        before += _statements(output, constant, "=" if output.indices else "+=")
    order = max(int(f.args[0]) for o in outputs for f in o.expression.atoms(CumulantFunction))
    reader, letters = ("cumulant2", 3) if order <= 2 else ("cumulant4", 5)
    used = "\n".join(within)
    values = ", ".join(f"g{i}" if f"g{i}" in used else f"_g{i}" for i in range(letters))
    loop = [
        "for c in range(n_class):",
        "    kappa = 0.0",
        "    for q in range(n_output):",
        "        kappa += a[q]*t[c, q]",
        f"    {values} = {reader}(table, kappa)",
        *("    " + line for line in within),
    ]
    body = ["n_class, n_output = t.shape", *before, *loop, "return h"]
    head = f'@jit\ndef {name}({", ".join(["table", "p", "t", "a", *arrays])}):\n    """{summary}"""\n'
    return head + "".join(f"    {line}\n" for line in body)


def action_source() -> str:
    """Source of `meanfield/theories/single_layer/compiled/generated/action.py`."""
    a, t, r, s, u, d, c = theory.a, theory.t, theory.r, theory.s, theory.u, theory.d, theory.c
    h = theory.action().subs(theory.sigma_a, 1)
    gradient = differentiate(h, a[r])
    hessian = differentiate(gradient, a[s])
    third = differentiate(hessian, a[u])
    force = differentiate(h, t[d, r]) / theory.p[d]
    mixed = differentiate(gradient, t[d, s])
    curvature = differentiate(differentiate(h, t[d, r]), t[theory.e, s])

    def output(name: str, indices: tuple[sp.Symbol, ...], expression: sp.Expr) -> Output:
        # The sum over classes is the only loop over c: what has the free class d is filled inside it.
        return Output(name, tuple(c if i == d else i for i in indices), theory.with_kappa(expression).subs(d, c))

    value = output("h", (), h)
    grad, hess = output("grad", (r,), gradient), output("hess", (r, s), hessian)
    # dh/dt_cr = p_c a_r G'(kappa_c) and d2h/dt_cr dt_ds vanishes unless c = d.
    mean = output("first", (d,), sp.cancel(force / a[r]))
    same_class = sp.expand(curvature.subs(theory.e, d))
    functions = [
        ("action", "h(a; t).", [value]),
        ("action_gradient", "h; fills grad (m,) with dh/da_r.", [value, grad]),
        ("action_hessian", "h; fills grad (m,) and hess (m, m) with d2h/da_r da_s.", [value, grad, hess]),
        (
            "action_mixed",
            "h; fills first (C,) with G'(kappa_c) and mixed (C, m, m) with d2h/da_r dt_cs at [c, r, s].",
            [value, mean, output("mixed", (d, r, s), mixed)],
        ),
        (
            "action_curvature",
            "h; fills curvature (C, m, m) with d2h/dt_cr dt_cs (0 between different classes).",
            [value, output("curvature", (d, r, s), same_class)],
        ),
        (
            "action_third",
            "h; fills grad (m,), hess (m, m) and third (m, m, m) with d3h/da_r da_s da_u.",
            [value, grad, hess, output("third", (r, s, u), third)],
        ),
    ]
    names = ", ".join(f'"{name}"' for name, _, _ in functions)
    source = [_HEADER.format(names=names)]
    source += [f"\n\n{_function(name, summary, outputs)}" for name, summary, outputs in functions]
    return "".join(source)
