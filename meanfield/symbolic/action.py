"""The single-neuron action, the dual objective and everything derived from them.

What they mean: single_layer/THEORY.md, "The dual problem".

Everything is derived by SymPy from two expressions written in index form: the single-neuron action

    h(a; t) = -|a|^2 / 2 sigma_a^2 + sum_c p_c G(a . t_c)

and the Lagrangian of min over t of max over a (the weights P_gamma of codes a_gamma are the multipliers of h <= s)

    L = s - sum_c p_c t_c . y_c + tau/2 sum_c p_c |t_c|^2 + sum_gamma P_gamma [h(a_gamma; t) - s] + sum_o h_o(abar_o; t)

with h_o(abar; t) = -|abar|^2 / 2 sigma_a^2 + k/2 sum_c p_c g(abar . t_c), the growth of h, for outliers.
Summation indices: q (outputs), c (classes), gamma (codes), o (outliers); free ones: r, s, u, d, e, alpha, beta, i, j.
"""

from __future__ import annotations

import sympy as sp

from meanfield.symbolic.index import (
    Average,
    CumulantFunction,
    GrowthFunction,
    contract,
    differentiate,
    differentiate_parameter,
)

# Sizes: outputs, classes, codes, outliers.
m, C, n, n_out = sp.symbols("m C n n_o", integer=True, positive=True)
# Summation indices (never used as free ones) and free indices.
q, c, gamma, o = sp.symbols("q c gamma o", integer=True)
r, s, u, d, e, alpha, beta, i, j = sp.symbols("r s u d e alpha beta i j", integer=True)
p, y, t, a, P = (sp.IndexedBase(name) for name in ("p", "y", "t", "a", "P"))
abar = sp.IndexedBase(sp.Symbol(r"\bar{a}"))
kappa = sp.IndexedBase(sp.Symbol(r"\kappa"))  # kappa[c] = a . t_c
kappa_bar = sp.IndexedBase(sp.Symbol(r"\bar{\kappa}"))  # of an outlier
# Outliers as abar_o = sqrt(w_o) u_o, kappa_u[o, c] = u_o . t_c; v: a direction of the readout, kappa_v[c] = v . t_c.
w = sp.IndexedBase(sp.Symbol("w", positive=True))
unit, kappa_u, v, kappa_v = (sp.IndexedBase(name) for name in ("u", "kappa_u", "v", "kappa_v"))
_KAPPAS = {a: kappa, abar: kappa_bar, unit: kappa_u, v: kappa_v}
_epsilon = sp.Symbol("epsilon", real=True)
sigma_a, k = sp.symbols("sigma_a k", positive=True)
tau = sp.Symbol("tau", nonnegative=True)
level = sp.Symbol("s", real=True)  # s = max h, the multiplier of sum P = 1
n_samples = sp.Symbol("P", positive=True)


def kappa_sum(readout: sp.IndexedBase, *label: sp.Expr, cls: sp.Expr = c) -> sp.Expr:
    """a . t_c, with the label of the code where there is one."""
    return sp.Sum(readout[(*label, q)] * t[cls, q], (q, 1, m))


def _quadratic(readout: sp.IndexedBase, *label: sp.Expr) -> sp.Expr:
    return -sp.Sum(readout[(*label, q)] ** 2, (q, 1, m)) / (2 * sigma_a**2)


def action(readout: sp.IndexedBase = a, *label: sp.Expr) -> sp.Expr:
    """h(a; t) for the readout a[label, r]."""
    field = sp.Sum(p[c] * CumulantFunction(0, kappa_sum(readout, *label)), (c, 1, C))
    return _quadratic(readout, *label) + field


def growth_field(readout: sp.IndexedBase = abar, *label: sp.Expr) -> sp.Expr:
    """q(abar; t) = k/2 sum_c p_c g(abar . t_c)."""
    return k * sp.Sum(p[c] * GrowthFunction(0, kappa_sum(readout, *label)), (c, 1, C)) / 2


def growth_action(readout: sp.IndexedBase = abar, *label: sp.Expr) -> sp.Expr:
    """h_o(abar; t), homogeneous of degree two in abar: what h / N tends to on a readout sqrt(N) abar."""
    return _quadratic(readout, *label) + growth_field(readout, *label)


def of_code(expression: sp.Expr, label: sp.Expr) -> sp.Expr:
    """The expression with a[r] replaced by a[label, r]."""
    return expression.replace(
        lambda x: isinstance(x, sp.Indexed) and x.base == a and len(x.indices) == 1, lambda x: a[label, x.indices[0]]
    )


def lagrangian(outliers: bool) -> sp.Expr:
    """L of the module's docstring."""
    linear = -sp.Sum(p[c] * t[c, q] * y[c, q], (q, 1, m), (c, 1, C))
    square = tau / 2 * sp.Sum(p[c] * t[c, q] ** 2, (q, 1, m), (c, 1, C))
    codes = sp.Sum(P[gamma] * (action(a, gamma) - level), (gamma, 1, n))
    total = level + linear + square + codes
    return total + sp.Sum(growth_action(abar, o), (o, 1, n_out)) if outliers else total


def polar(expression: sp.Expr) -> sp.Expr:
    """The expression (with `with_kappa`) at abar_o = sqrt(w_o) u_o: g^(n)(sqrt(w) x) = w^(1 - n/2) g^(n)(x)."""

    def homogeneous(order: sp.Expr, x: sp.Expr) -> sp.Expr:
        *label, cls = x.indices
        return w[tuple(label)] ** (1 - order / 2) * GrowthFunction(order, kappa_u[(*label, cls)])

    def scaled(x: sp.Indexed) -> sp.Expr:
        *label, output = x.indices
        return sp.sqrt(w[tuple(label)]) * unit[(*label, output)]

    expression = expression.replace(GrowthFunction, homogeneous)
    return sp.expand(contract(expression.replace(lambda x: isinstance(x, sp.Indexed) and x.base == abar, scaled)))


def along(expression: sp.Expr, order: int) -> sp.Expr:
    """Derivative of that order of a function of a[r] at a + epsilon v by epsilon; v . t_c appears as a sum."""
    moved = expression.replace(
        lambda x: isinstance(x, sp.Indexed) and x.base == a, lambda x: x + _epsilon * v[x.indices[-1]]
    )
    return sp.expand(sp.diff(moved.expand(), _epsilon, order).subs(_epsilon, 0).doit())


def derivative(expression: sp.Expr, by: sp.Expr) -> sp.Expr:
    """Derivative by an unknown or a control parameter; G and g depend on k = sigma_w^2 and on parameters of phi."""
    if isinstance(by, sp.Symbol) and by not in (tau, sigma_a, level):
        return differentiate_parameter(expression, by)
    return differentiate(expression, by)


def average_derivative(function: sp.Expr, by: sp.Expr) -> sp.Expr:
    """d<f>/dx = <df/dx> + P (<f dh/dx> - <f> <dh/dx>) for the average over exp(P h(a; t)), f a function of a[r], t."""
    force = derivative(action(), by)
    return average(derivative(function, by)) + n_samples * (
        average(function * force) - average(function) * average(force)
    )


def average(function: sp.Expr) -> sp.Expr:
    """<f>, term by term, with what does not depend on a in front."""
    total = sp.Integer(0)
    for term in sp.Add.make_args(sp.expand(function)):
        factors = sp.Mul.make_args(term)
        inside = sp.Mul(*(f for f in factors if f.has(a)))
        total += sp.Mul(*(f for f in factors if not f.has(a))) * (Average(inside) if inside != 1 else 1)
    return total


def with_kappa(expression: sp.Expr) -> sp.Expr:
    """a . t_c written as kappa_c (with the code's label first where there is one)."""

    def is_kappa(x: sp.Basic) -> bool:
        if not (isinstance(x, sp.Sum) and x.limits[0][0] == q and x.function.is_Mul):
            return False
        bases = {getattr(f, "base", None) for f in x.function.args}
        return len(bases) == 2 and t in bases and bool(bases & set(_KAPPAS))

    def name(x: sp.Sum) -> sp.Indexed:
        (cls,) = (f.indices[0] for f in x.function.args if isinstance(f, sp.Indexed) and f.base == t)
        (readout,) = (f for f in x.function.args if isinstance(f, sp.Indexed) and f.base != t)
        return _KAPPAS[readout.base][(*readout.indices[:-1], cls)]

    return expression.replace(is_kappa, name)


def without_kappa(expression: sp.Expr) -> sp.Expr:
    """The inverse of `with_kappa`."""

    def written_out(x: sp.Indexed) -> sp.Expr:
        *label, cls = x.indices
        (readout,) = (base for base, name in _KAPPAS.items() if name == x.base)
        return kappa_sum(readout, *label, cls=cls)

    return expression.replace(lambda x: isinstance(x, sp.Indexed) and x.base in _KAPPAS.values(), written_out)
