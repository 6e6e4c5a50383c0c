"""The equations of one hidden layer on a class task, as SymPy objects and as LaTeX of exactly what is solved."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import sympy as sp

from meanfield.symbolic import action as theory
from meanfield.symbolic.cumulant import closed_form, definition
from meanfield.symbolic.index import Average, CumulantFunction, GrowthFunction, contract, differentiate
from meanfield.symbolic.latex import aligned, environment
from meanfield.symbolic.shape import shape_of
from meanfield.symbolic.theories import SymbolicActivation

__all__ = ["Equations", "equations", "finite_equations", "limit_equations", "linear_equations"]

_KAPPA = sp.Symbol("kappa", real=True)
_M = sp.IndexedBase("M")  # second moment of the readouts of a linear network


@dataclass(frozen=True)
class Equations:
    """What `meanfield.solve` solves for one nonlinearity, in index form.

    Indices run over outputs (q, r, s), classes (c, d, e), codes (alpha, beta, gamma) and outliers (i, j, o);
    `kappa[gamma, c]` stands for a_gamma . t_c. G^(n)(kappa) is ``CumulantFunction(n, kappa)``.

    Attributes
    ----------
    cumulant : sympy.Eq
        G(kappa), in closed form where there is one, else as the integral that is computed by quadrature.
    action : sympy.Expr
        h(a; t), single-neuron log weight per training sample.
    objective : sympy.Expr
        The dual objective whose minimum over t is J: its Lagrangian (with P_gamma the multipliers of h <= s and
        abar_o = sqrt(w_o) u_o those of the growth constraint), or for finite P the logarithm of the integral over a.
    stationarity : tuple of sympy.Eq
        The order-parameter equations.
    unknowns : dict of str to SymPy expression
        The unknowns of the equations, then the control parameters: y, p, tau, sigma_a, k = sigma_w**2 and the
        parameters of phi (d/dk and those act on G as ``CumulantChange``).
    jacobian : dict of (int, str) to SymPy expression
        Derivative of (left - right) side of equation number i by the unknown or control parameter of that name, the
        indices of the latter being those in `unknowns`.
    hessian : sympy.Expr
        d2J/dt_dr dt_es: of the Lagrangian at fixed readouts for P -> inf, exact for finite P.
    constraint : sympy.Expr or None
        h_o(abar; t), which must be <= 0 for every abar so that J is finite; None where phi has no quadratic growth.
    definitions : tuple of sympy.Eq
        kappa and, where G grows, g.
    parameters : tuple of sympy.Symbol
        Parameters of the nonlinearity.
    objective_name : str
        LaTeX of what `objective` is.
    """

    cumulant: sp.Eq
    action: sp.Expr
    objective: sp.Expr
    stationarity: tuple[sp.Eq, ...]
    unknowns: Mapping[str, sp.Expr]
    jacobian: Mapping[tuple[int, str], sp.Expr]
    hessian: sp.Expr
    constraint: sp.Expr | None
    definitions: tuple[sp.Eq, ...]
    parameters: tuple[sp.Symbol, ...]
    objective_name: str

    def latex(self) -> str:
        """An ``align`` environment (package amsmath) with every equation, and the exact Hessian of J."""
        h = sp.Symbol("h(a; t)")
        hessian = sp.Symbol(r"\frac{\partial^{2} J}{\partial t_{d,r} \, \partial t_{e,s}}")
        rows = [_exponential(self.cumulant), *self.definitions, sp.Eq(h, self.action, evaluate=False)]
        if self.objective_name != "J":
            best = sp.Symbol(rf"\min_{{t, s}} \max_{{a, P \ge 0}} {self.objective_name}")
            rows.append(sp.Eq(sp.Symbol("J"), best, evaluate=False))
        rows += [sp.Eq(sp.Symbol(self.objective_name), self.objective, evaluate=False)]
        rows += [sp.Eq(row.rhs, row.lhs, evaluate=False) for row in self.stationarity]  # the short side first
        names = {x: rf"\mathrm{{{x.name}}}" for x in self.parameters}
        lines = [line for row in rows for line in aligned(row, names)]
        if self.constraint is not None:
            ball = r"\quad \text{for all } \bar{a}"
            lines.append(f"{sp.latex(theory.with_kappa(self.constraint))} &\\le 0 {ball}")
        lines += aligned(sp.Eq(hessian, self.hessian, evaluate=False), names)
        return environment(lines)

    def _repr_latex_(self) -> str:
        return self.latex()


def _exponential(row: sp.Eq) -> sp.Eq:
    """G = ln(sum) written as exp(G) = sum, which breaks into lines."""
    if isinstance(row.rhs, sp.log) and row.rhs.args[0].is_Add:
        return sp.Eq(sp.exp(row.lhs), row.rhs.args[0], evaluate=False)
    return row


def equations(activation: SymbolicActivation, n_samples: float = math.inf) -> Equations:
    """What is solved for one hidden layer on a class task, derived by SymPy.

    In the notation of single_layer/THEORY.md the outliers' k g'(abar_o . t_c) / 2 is their activation: for ReLU
    phi(zbar_oc) = zbar_oc = k [t_c . abar_o]_+.

    Parameters
    ----------
    activation : Activation
        Whether phi is linear, and whether G grows, is read off its formula.
    n_samples : float
        P; a finite number asks for the finite-P equations.

    Returns
    -------
    Equations
        The symbols keep their names (sigma_a, k = sigma_w**2, tau, p_c, y_cr); only the nonlinearity is special.
    """
    formula, z = activation.formula, activation.symbol
    sample = {s: sp.Rational(repr(activation.parameters[s.name])) for s in formula.free_symbols - {z}}
    try:
        shape = shape_of(formula, z, sample)
    except ValueError:  # kinks that cannot be written in terms of the parameters: take their values
        formula = activation.expression
        shape = shape_of(formula, z)
    pieces = shape.linear_pieces(z)
    if pieces is None:
        right = definition(formula, z, _KAPPA, theory.k)
    else:
        right = closed_form(shape.kinks, pieces, _KAPPA, theory.k)
    cumulant = sp.Eq(CumulantFunction(0, _KAPPA), right, evaluate=False)
    if pieces is not None and not shape.kinks and pieces[0][0] == 0:
        return linear_equations(cumulant, pieces[0][1])
    if math.isfinite(n_samples):
        return finite_equations(cumulant)
    growth = None
    minus, plus = (max(*side, key=lambda x: float(x.subs(sample))) for side in _one_sided(shape.slopes))
    if not (minus.is_zero and plus.is_zero):
        rectified = plus**2 * sp.Max(_KAPPA, 0) ** 2 + minus**2 * sp.Max(-_KAPPA, 0) ** 2
        growth = sp.Eq(GrowthFunction(0, _KAPPA), rectified, evaluate=False)
    return limit_equations(cumulant, growth)


def _one_sided(slopes: tuple[sp.Expr, sp.Expr]) -> tuple[tuple[sp.Expr, ...], tuple[sp.Expr, ...]]:
    """Slopes along which kappa phi may grow, for kappa < 0 and kappa > 0; the largest wins."""
    left, right = slopes
    return (-right, left, sp.Integer(0)), (right, -left, sp.Integer(0))


def _assemble(
    cumulant: sp.Eq,
    objective: sp.Expr,
    rows: list[tuple[sp.Expr, sp.Expr]],
    unknowns: dict[str, sp.Expr],
    hessian: sp.Expr,
    *,
    constraint: sp.Expr | None = None,
    definitions: tuple[sp.Eq, ...] = (),
    derivative: Callable[[sp.Expr, sp.Expr], sp.Expr] = theory.derivative,
    objective_name: str = "J",
) -> Equations:
    parameters = tuple(sorted(cumulant.free_symbols - {_KAPPA, theory.k}, key=str))
    unknowns = unknowns | _CONTROLS | {x.name: x for x in parameters}
    jacobian = {
        (number, name): theory.with_kappa(sp.expand(derivative(left - right, by)))
        for number, (left, right) in enumerate(rows)
        for name, by in unknowns.items()
    }
    kappa = _product(theory.kappa, theory.a)
    if "P" in unknowns:
        definitions = (_product(theory.kappa, theory.a, theory.gamma), *definitions)
    return Equations(
        cumulant=cumulant,
        action=theory.with_kappa(theory.action()),
        objective=theory.with_kappa(objective),
        stationarity=tuple(sp.Eq(theory.with_kappa(left), right, evaluate=False) for left, right in rows),
        unknowns=unknowns,
        jacobian=jacobian,
        hessian=theory.with_kappa(hessian),
        constraint=constraint,
        definitions=(kappa, *definitions),
        parameters=parameters,
        objective_name=objective_name,
    )


_CONTROLS = {
    "y": theory.y[theory.e, theory.s],
    "p": theory.p[theory.e],
    "tau": theory.tau,
    "sigma_a": theory.sigma_a,
    "k": theory.k,
}


def limit_equations(cumulant: sp.Eq, growth: sp.Eq | None) -> Equations:
    """P -> inf: codes, and outliers where G grows."""
    a, t, alpha, beta, r, s, d, e = (
        theory.a, theory.t, theory.alpha, theory.beta, theory.r, theory.s, theory.d, theory.e
    )  # fmt: skip
    total = theory.lagrangian(outliers=growth is not None)
    h = theory.action(a, alpha)
    by_t = differentiate(total, t[d, r])
    match = sp.expand(by_t / theory.p[d])
    zero = sp.Integer(0)
    rows = [
        (differentiate(h, a[alpha, r]), zero),
        (h, theory.level),
        (1 - differentiate(total, theory.level), sp.Integer(1)),
        (match + theory.y[d, r], theory.y[d, r]),
    ]
    unknowns = {"t": t[e, s], "a": a[beta, s], "P": theory.P[beta], "s": theory.level}
    constraint = None
    definitions: tuple[sp.Eq, ...] = ()
    if growth is not None:
        constraint = theory.growth_action()
        rows.append((differentiate(theory.growth_action(theory.abar, theory.i), theory.abar[theory.i, r]), zero))
        unknowns["abar"] = theory.abar[theory.j, s]
        labels: tuple[tuple[sp.Symbol, ...], ...] = ((), (theory.o,))
        definitions = (*(_product(theory.kappa_bar, theory.abar, *label) for label in labels), growth)
    hessian = differentiate(by_t, t[e, s])
    return _assemble(
        cumulant,
        total,
        rows,
        unknowns,
        hessian,
        constraint=constraint,
        definitions=definitions,
        objective_name=r"\mathcal{L}",
    )


def finite_equations(cumulant: sp.Eq) -> Equations:
    """Finite P: averages over P(a), proportional to exp(P h(a; t))."""
    t, r, s, d, e = theory.t, theory.r, theory.s, theory.d, theory.e
    linear = theory.lagrangian(outliers=False).subs(theory.n, 0).doit() - theory.level
    force = differentiate(theory.action(), t[d, r])
    field = theory.average(force / theory.p[d])
    rows = [(field + theory.tau * t[d, r], theory.y[d, r])]

    def derivative(row: sp.Expr, by: sp.Expr) -> sp.Expr:
        averages = row.atoms(Average)
        plain = theory.derivative(row.subs(dict.fromkeys(averages, sp.Integer(0))), by)
        return plain + sum(theory.average_derivative(x.args[0], by) for x in averages)

    hessian = sp.expand(differentiate(differentiate(linear, t[d, r]), t[e, s]))
    hessian += theory.average_derivative(force, t[e, s])
    integral = sp.Symbol(r"\int \! \mathrm{d}a \left(\tfrac{P}{2\pi\sigma_{a}^{2}}\right)^{m/2} e^{P\,h(a; t)}")
    objective = linear + sp.log(integral) / theory.n_samples
    return _assemble(cumulant, objective, rows, {"t": t[e, s]}, hessian, derivative=derivative)


def linear_equations(cumulant: sp.Eq, slope: sp.Expr) -> Equations:
    """Linear phi: P(a) is Gaussian with second moment M (of leading order), which lives where -d2h/da2 has no slope."""
    a, t, r, s, d, e, q = theory.a, theory.t, theory.r, theory.s, theory.d, theory.e, theory.q
    strength = theory.k * slope**2

    def closed(expression: sp.Expr) -> sp.Expr:
        return expression.replace(
            CumulantFunction, lambda order, x: (strength * x**2 / 2, strength * x, strength)[int(order)]
        )

    curvature = -closed(differentiate(differentiate(theory.action(), a[r]), a[s]))
    total = theory.lagrangian(outliers=False).subs(theory.n, 0).doit() - theory.level
    moment = strength * sp.Sum(_M[r, q] * t[d, q], (q, 1, theory.m))  # <a_r G'(a . t_d)>
    rows = [
        (contract(sp.Sum(_M[theory.u, r] * curvature, (r, 1, theory.m))), sp.Integer(0)),
        (moment + theory.tau * t[d, r], theory.y[d, r]),
    ]
    unknowns = {"t": t[e, s], "M": _M[theory.i, s]}
    hessian = differentiate(differentiate(total, t[d, r]), t[e, s])
    hessian += strength * theory.p[d] * _M[r, s] * sp.KroneckerDelta(d, e)
    growth = sp.Eq(GrowthFunction(0, _KAPPA), slope**2 * _KAPPA**2, evaluate=False)
    definitions = (_product(theory.kappa_bar, theory.abar), growth)
    bound = theory.growth_action()
    return _assemble(cumulant, total, rows, unknowns, hessian, constraint=bound, definitions=definitions)


def _product(name: sp.IndexedBase, readout: sp.IndexedBase, *label: sp.Symbol) -> sp.Eq:
    return sp.Eq(name[(*label, theory.c)], theory.kappa_sum(readout, *label), evaluate=False)
