"""Prints the single-neuron action, the stationarity equations and their derivatives as Numba source.

Everything is in units sigma_a = 1 (phases/THEORY.md, "Exact facts": scaling). A neuron acts through its fields
f_c = p_c G(kappa_c) and their derivatives by kappa_c, here `zeroth`, `first`, ... : G may come from the solver's table
or from quadrature. An outlier abar_o = sqrt(w_o) u_o has the same equations with f_c = k/2 p_c g(t_c.u_o) and P -> w
(the generator checks that), so that one set of functions serves both.
"""

from __future__ import annotations

from collections.abc import Sequence

import sympy as sp

from meanfield.symbolic import action as theory
from meanfield.symbolic.equations import Equations, limit_equations
from meanfield.symbolic.index import CumulantChange, CumulantFunction, GrowthFunction, contract, differentiate
from meanfield.symbolic.loops import Output, indent, loops

__all__ = ["action_source", "stationarity_source"]

_HEADER = '''"""Machine-written by ``python -m meanfield.activations.generate`` from symbolic/{origin}; do not edit.

{text}
"""

from meanfield.numerics.jit import jit
{imports}
__all__ = [{names}]
'''
_ACTION = """\
Single-neuron action h(a; t) = -|a|**2 / 2 + sum_c p_c G(kappa_c), kappa_c = a . t_c, in units of sigma_a = 1, and its
derivatives. Shapes: p (C,), t (C, m), a (m,); `table` and `direct` as in `meanfield.numerics.cumulant_table`. The
fields of a neuron are p_c G(kappa_c) and its derivatives by kappa_c, (C,) each: zeroth, first, second, third,
fourth."""
_STATIONARITY = """\
The equations that `meanfield.equations` shows, and their derivatives, in units of sigma_a = 1. Shapes: p (C,),
t, y (C, m), readouts a (n, m), weight (n,), fields of the neurons (n, C). For outliers the readouts are unit vectors
u_o, the weights w_o, the fields those of `growth_fields`."""
_FIELDS = tuple(sp.IndexedBase(name) for name in ("zeroth", "first", "second", "third", "fourth"))
_CHANGES = tuple(sp.IndexedBase(name) for name in ("change_0", "change_1"))
_DP = sp.IndexedBase("change_p")
_WEIGHT = sp.IndexedBase("weight")


def _in_fields(expression: sp.Expr) -> sp.Expr:
    """G^(n)(kappa_c) written as field / p_c, and the names that the functions give to weights and level."""

    def field(order: sp.Expr, x: sp.Indexed) -> sp.Expr:
        return _FIELDS[int(order)][x.indices] / theory.p[x.indices[-1]]

    expression = expression.subs(theory.sigma_a, 1).replace(CumulantFunction, field)
    expression = expression.replace(GrowthFunction, lambda order, x: 2 * field(order, x) / theory.k)
    expression = expression.replace(CumulantChange, lambda order, x, by: _CHANGES[int(order)][x.indices])
    return sp.expand(_renamed(expression, theory.P, _WEIGHT))


def _renamed(expression: sp.Expr, old: sp.IndexedBase, new: sp.IndexedBase) -> sp.Expr:
    return expression.replace(lambda x: isinstance(x, sp.Indexed) and x.base == old, lambda x: new[x.indices])


# ---- functions that evaluate G ---------------------------------------------------------------------------------------

_READERS = {
    "table": ("table", "cumulant2(table, kappa)", 3),
    "table4": ("table", "cumulant4(table, kappa)", 5),
    "direct": ("direct", "direct2(direct, kappa)", 3),
}


def _reading(name: str, summary: str, reader: str, outputs: Sequence[Output]) -> str:
    """Source of a function of one readout that fills the arrays among the outputs and returns the numbers."""
    source, call, letters = _READERS.get(reader, ("", "", 3))
    values = [sp.Symbol(f"g{i}") for i in range(letters)]
    numbers = [o.name for o in outputs if not o.indices]
    before = [f"{name} = 0.0" for name in numbers]
    within: list[str] = []
    for output in outputs:
        expression = theory.with_kappa(output.expression).subs(theory.sigma_a, 1).subs(theory.d, theory.c)
        indices = tuple(theory.c if i == theory.d else i for i in output.indices)
        expression = expression.replace(CumulantFunction, lambda order, x: values[int(order)])
        expression = expression.replace(GrowthFunction, lambda order, x: 2 * values[int(order)] / theory.k)
        expression = expression.replace(
            lambda x: isinstance(x, sp.Indexed) and x.base in (theory.kappa, theory.kappa_bar),
            lambda x: sp.Symbol("kappa"),
        )
        constant = sp.Integer(0)
        adds = theory.c not in indices
        for term in sp.Add.make_args(sp.expand(expression)):
            factor, total = term.as_independent(sp.Sum)
            if theory.c in indices:
                within += loops(Output(output.name, indices, term), (theory.c,))
            elif isinstance(total, sp.Sum) and total.limits[0][0] == theory.c:
                within += loops(Output(output.name, indices, sp.expand(factor * total.function), adds), (theory.c,))
            else:
                constant += term
        if output.indices and theory.c not in indices:
            before += loops(Output(output.name, indices, constant))
        elif not output.indices and constant != 0:
            before += loops(Output(output.name, (), constant, True))
    used = "\n".join(within)
    if reader == "growth":
        read = [
            "growth = growth_plus if kappa > 0.0 else growth_minus",
            "g0, g1, g2 = 0.5*growth*kappa*kappa, growth*kappa, growth",
        ]
        sources = ["growth_plus", "growth_minus"]
    else:
        read = [f"{', '.join(str(g) if str(g) in used else f'_{g}' for g in values)} = {call}"]
        sources = [source]
    loop = [
        "for c in range(n_class):",
        *indent(["kappa = 0.0", "for q in range(n_output):", "    kappa += a[q]*t[c, q]", *read, *within]),
    ]
    arrays = [o.name for o in outputs if o.indices]
    body = ["n_class, n_output = t.shape", *before, *loop, f"return {', '.join(numbers)}"]
    return _definition(name, summary, [*sources, "p", "t", "a", *arrays], body)


def _definition(name: str, summary: str, arguments: Sequence[str], body: Sequence[str]) -> str:
    return "\n".join([f"@jit\ndef {name}({', '.join(arguments)}):", f'    """{summary}"""', *indent(body)]) + "\n"


def _source(origin: str, text: str, imports: str, functions: Sequence[tuple[str, str]]) -> str:
    names = "".join(f'\n    "{name}",' for name, _ in functions) + "\n"
    head = _HEADER.format(origin=origin, text=text, imports=imports, names=names)
    return head + "".join(f"\n\n{source}" for _, source in functions)


def action_source() -> str:
    """Source of `meanfield/theories/single_layer/compiled/generated/action.py`."""
    a, r, s, d = theory.a, theory.r, theory.s, theory.d
    h = theory.action()
    gradient = differentiate(h, a[r])
    hessian = differentiate(gradient, a[s])
    # As functions of the kappa_c, which the weights of neurons and t only act through.
    in_kappa, growth = theory.with_kappa(h), theory.with_kappa(theory.growth_field())
    by_kappa = [theory.p[d] * CumulantFunction(0, theory.kappa[d])]
    for _ in range(4):
        by_kappa.append(differentiate(by_kappa[-1], theory.kappa[d]))
    assert by_kappa[1] == differentiate(in_kappa, theory.kappa[d])
    growth_by_kappa = [differentiate(growth, theory.kappa_bar[d])]
    growth_by_kappa.append(differentiate(growth_by_kappa[0], theory.kappa_bar[d]))
    legendre = sp.Sum(theory.kappa[theory.c] * by_kappa[1].subs(d, theory.c), (theory.c, 1, theory.C)) - in_kappa
    growth = growth.replace(theory.abar, a)

    def fields(names: Sequence[str], expressions: Sequence[sp.Expr]) -> list[Output]:
        return [Output(name, (d,), x) for name, x in zip(names, expressions, strict=True)]

    value = Output("h", (), h)
    all_fields = [Output(str(base), (d,), x) for base, x in zip(_FIELDS, by_kappa)]
    cost = Output("cost", (), _distributed(legendre))
    functions = [
        (
            "action_hessian",
            "h; fills grad (m,) with dh/da_r and minus_hess (m, m) with -d2h/da_r da_s.",
            "table",
            [value, Output("grad", (r,), gradient), Output("minus_hess", (r, s), -hessian)],
        ),
        ("action_fields", "h; fills the first and second fields.", "table", [value, *all_fields[1:3]]),
        ("action_fields4", "h; fills all fields.", "table4", [value, *all_fields]),
        (
            "action_direct",
            "h and cost = sum_c kappa_c dh/dkappa_c - h, without tables; fills the first fields.",
            "direct",
            [value, cost, all_fields[1]],
        ),
        (
            "growth_fields",
            "q(a; t) = 1/2 sum_c p_c g(kappa_c), g with k in it; fills its first and second derivatives by kappa_c.",
            "growth",
            [Output("value", (), growth), *fields(("first", "second"), growth_by_kappa)],
        ),
    ]
    made = [(name, _reading(name, summary, reader, outputs)) for name, summary, reader, outputs in functions]
    imports = "from meanfield.numerics.cumulant_table import cumulant2, cumulant4, direct2\n"
    return _source("action.py", _ACTION, imports, made)


def _distributed(expression: sp.Expr) -> sp.Expr:
    """Sums multiplied out."""
    return sp.expand(expression.replace(sp.Sum, lambda f, limit: sp.Sum(sp.expand(f), limit)))


# ---- functions of the fields -----------------------------------------------------------------------------------------


def _filling(name: str, summary: str, arguments: Sequence[str], outputs: Sequence[Output]) -> str:
    """Source of a function that fills the arrays among the outputs and returns the numbers, if any."""
    numbers = [o.name for o in outputs if not o.indices]
    body = [line for o in outputs for line in ([f"{o.name} = 0.0"] if not o.indices else [])]
    for output in outputs:
        body += loops(output if output.indices else output._replace(adds=True))
    text = "\n".join(body)
    where = {
        "n_neuron": "a.shape[0]",
        "n_class": "t.shape[0]" if "t" in arguments else "p.shape[0]",
        "n_output": "t.shape[1]" if "t" in arguments else "a.shape[1]",
    }
    sizes = [f"{size} = {place}" for size, place in where.items() if f"range({size})" in text]
    body = [*sizes, *body, *([f"return {', '.join(numbers)}"] if numbers else [])]
    return _definition(name, summary, [*arguments, *(o.name for o in outputs if o.indices)], body)


def _diagonal(expression: sp.Expr, first: sp.Symbol, second: sp.Symbol) -> sp.Expr:
    """The part of an expression proportional to a Kronecker delta that all its terms must have."""
    kept = sp.Integer(0)
    for term in sp.Add.make_args(expression):
        delta = sp.KroneckerDelta(first, second)
        if term != 0 and not term.has(delta):
            raise ValueError(f"{term} is not diagonal in {first}, {second}")
        kept += term.subs(second, first)
    return sp.expand(kept)


def _neuron_part(expression: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """What of an order-parameter equation comes from the neurons (has a readout) and the rest."""
    terms = sp.Add.make_args(sp.expand(expression))
    own = sp.Add(*(x for x in terms if x.has(theory.a)))
    return own, sp.expand(expression - own)


def _equations() -> Equations:
    """Codes and outliers, for any phi."""
    x = sp.Symbol("kappa", real=True)
    cumulant, growth = (sp.Eq(f(0, x), f(0, x), evaluate=False) for f in (CumulantFunction, GrowthFunction))
    return limit_equations(cumulant, growth)


def _check_outliers(found: Equations, gradient: sp.Expr, output: sp.Expr) -> None:
    """Outliers in polar form obey the equations of codes, with their own fields."""
    alpha, gamma = theory.alpha, theory.gamma

    def as_codes(expression: sp.Expr) -> sp.Expr:
        expression = (
            sp.expand(expression)
            .subs(theory.sigma_a, 1)
            .replace(
                GrowthFunction,
                lambda order, x: 2 * _FIELDS[int(order)][x.indices] / (theory.k * theory.p[x.indices[-1]]),
            )
        )
        expression = _renamed(_renamed(expression, theory.unit, theory.a), theory.w, _WEIGHT)
        expression = contract(sp.expand(expression))
        return sp.expand(expression.xreplace({theory.i: alpha, theory.o: gamma, theory.n_out: theory.n}))

    row = found.stationarity[4]
    assert as_codes(theory.polar(row.lhs - row.rhs) / sp.sqrt(theory.w[theory.i])) == contract(gradient)
    terms = sp.Add.make_args(sp.expand(found.stationarity[3].lhs))
    assert as_codes(theory.polar(sp.Add(*(x for x in terms if x.has(theory.abar))))) == contract(output)


def stationarity_source() -> str:
    """Source of `meanfield/theories/single_layer/compiled/generated/stationarity.py`."""
    alpha, beta, r, s, d, e, c = (
        theory.alpha, theory.beta, theory.r, theory.s, theory.d, theory.e, theory.c
    )  # fmt: skip
    found = _equations()

    def row(number: int) -> sp.Expr:
        equation = found.stationarity[number]
        return _in_fields(_of_codes(sp.expand(equation.lhs - equation.rhs)))

    def entry(number: int, by: str) -> sp.Expr:
        return _in_fields(_of_codes(found.jacobian[number, by]))

    def change(number: int) -> sp.Expr:
        """Along p and G."""
        by_p = sp.Sum((entry(number, "p") * _DP[e]).subs(e, c), (c, 1, theory.C)) if entry(number, "p") != 0 else 0
        return sp.expand(entry(number, "k") + by_p)

    neurons, order = _neuron_part(row(3))
    _check_outliers(found, row(0), neurons)
    same_class = _diagonal(_neuron_part(entry(3, "t"))[0], d, e)
    readout_hessian = _of_one(_diagonal(entry(0, "a"), alpha, beta))
    linear = theory.lagrangian(outliers=False).subs(theory.n, 0).doit() - theory.level
    functions = [
        (
            "linear_part",
            "-sum_c p_c t_c.y_c + tau/2 sum_c p_c |t_c|^2.",
            ("p", "y", "tau", "t"),
            [Output("linear", (), linear)],
        ),
        ("order_residual", "tau t_c - y_c; linear in y and tau.", ("y", "tau", "t"), [Output("output", (d, r), order)]),
        (
            "neuron_residual",
            "dh/da (n, m); adds what the neurons contribute to output (C, m).",
            ("first", "p", "t", "a", "weight"),
            [
                Output("gradient", (alpha, r), row(0)),
                Output("output", (d, r), neurons, adds=True),
            ],
        ),
        (
            "neuron_jacobian",
            "Derivatives of `neuron_residual` and h by t, last indices [c, s] (output: same class, added), by own a.",
            ("first", "second", "p", "t", "a", "weight"),
            [
                Output("gradient_by_t", (alpha, r, e, s), entry(0, "t")),
                Output("gradient_by_a", (alpha, r, s), _diagonal(entry(0, "a"), alpha, beta)),
                Output("height_by_t", (alpha, e, s), entry(1, "t")),
                Output("output_by_t", (d, r, s), same_class, adds=True),
            ],
        ),
        (
            "output_by_readouts",
            "Derivatives of output (C, m) of `neuron_residual` by the readouts, at [d, r, alpha, s].",
            ("first", "second", "t", "a", "weight", "p"),
            [Output("output_by_a", (d, r, beta, s), entry(3, "a"))],
        ),
        (
            "output_by_weights",
            "Derivatives of output (C, m) of `neuron_residual` by the weights, at [d, r, alpha].",
            ("first", "p", "a"),
            [Output("output_by_weight", (d, r, beta), entry(3, "P"))],
        ),
        (
            "neuron_change",
            "Changes of `neuron_residual` (output: added) and of h with p (C,) and with G, G' at fixed kappa (n, C).",
            ("zeroth", "first", "p", "t", "a", "weight", "change_p", "change_0", "change_1"),
            [
                Output("gradient", (alpha, r), change(0)),
                Output("height", (alpha,), change(1)),
                Output("output", (d, r), change(3), adds=True),
            ],
        ),
        (
            "field_gradient",
            "d(h + |a|^2 / 2)/da (m,) of one neuron.",
            ("first", "t"),
            [Output("gradient", (r,), _of_one(row(0)) + theory.a[r])],
        ),
        (
            "minus_hessian",
            "-d2h/da2 (m, m) of one neuron.",
            ("second", "t"),
            [Output("hessian", (r, s), -readout_hessian)],
        ),
        *_soft_functions(),
    ]
    made = [(name, _filling(name, summary, arguments, outputs)) for name, summary, arguments, outputs in functions]
    return _source("equations.py", _STATIONARITY, "", made)


def _of_codes(expression: sp.Expr) -> sp.Expr:
    """The equations without the terms of outliers, which `_check_outliers` shows to have the same form."""
    return sp.expand(expression).replace(
        lambda x: isinstance(x, sp.Sum) and x.limits[0][0] == theory.o, lambda x: sp.Integer(0)
    )


def _of_one(expression: sp.Expr) -> sp.Expr:
    """Without the label of the neuron."""
    return expression.replace(
        lambda x: isinstance(x, sp.Indexed) and theory.alpha in x.indices,
        lambda x: x.base[tuple(i for i in x.indices if i != theory.alpha)],
    )


def _soft_functions() -> list[tuple[str, str, tuple[str, ...], list[Output]]]:
    """Derivatives of h along a direction v of the readout: what tells mergers of codes."""
    a, t, v, r, s, d = theory.a, theory.t, theory.v, theory.r, theory.s, theory.d
    h = theory.action()
    second, third, fourth = (theory.along(h, n) for n in (2, 3, 4))

    def fields(expression: sp.Expr) -> sp.Expr:
        return _in_fields(theory.with_kappa(expression))

    curved = differentiate(second, v[r]) / 2  # (d2h v)_r
    pull = differentiate(third, v[r]) / 3
    activity = CumulantFunction(1, theory.kappa_sum(a, cls=d))
    return [
        (
            "mean_activations",
            "Derivatives of G'(kappa_c) by t_c and by a, both at [c, r].",
            ("second", "p", "t", "a"),
            [
                Output("by_t", (d, r), _diagonal(fields(differentiate(activity, t[theory.e, r])), d, theory.e)),
                Output("by_a", (d, r), fields(differentiate(activity, a[r]))),
            ],
        ),
        (
            "curvature_along",
            "Derivatives of d2h v, v fixed, by t at [r, c, s] and by a at [r, s]; kappa_v = t v.",
            ("second", "third", "t", "a", "v", "kappa_v"),
            [
                Output("by_t", (r, d, s), fields(differentiate(curved, t[d, s]))),
                Output("by_a", (r, s), fields(differentiate(curved, a[s]))),
            ],
        ),
        (
            "cubic_along",
            "Third and fourth derivative of h along v; fills those of the third by t, a and v.",
            ("third", "fourth", "t", "a", "v", "kappa_v"),
            [
                Output("cubic", (), fields(third)),
                Output("quartic", (), fields(fourth)),
                Output("by_t", (d, r), fields(differentiate(third, t[d, r]))),
                Output("by_a", (r,), fields(differentiate(third, a[r]))),
                Output("by_v", (r,), sp.expand(3 * fields(pull))),
            ],
        ),
    ]
