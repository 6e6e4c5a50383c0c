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

from meanfield.symbolic.index import Average, CumulantFunction, GrowthFunction, differentiate

# Sizes: outputs, classes, codes, outliers.
m, C, n, n_out = sp.symbols("m C n n_o", integer=True, positive=True)
# Summation indices (never used as free ones) and free indices.
q, c, gamma, o = sp.symbols("q c gamma o", integer=True)
r, s, u, d, e, alpha, beta, i, j = sp.symbols("r s u d e alpha beta i j", integer=True)
p, y, t, a, P = (sp.IndexedBase(name) for name in ("p", "y", "t", "a", "P"))
abar = sp.IndexedBase(sp.Symbol(r"\bar{a}"))
kappa = sp.IndexedBase(sp.Symbol(r"\kappa"))  # kappa[c] = a . t_c
kappa_bar = sp.IndexedBase(sp.Symbol(r"\bar{\kappa}"))  # of an outlier
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


def growth_action(readout: sp.IndexedBase = abar, *label: sp.Expr) -> sp.Expr:
    """h_o(abar; t), homogeneous of degree two in abar: what h / N tends to on a readout sqrt(N) abar."""
    field = sp.Sum(p[c] * GrowthFunction(0, kappa_sum(readout, *label)), (c, 1, C))
    return _quadratic(readout, *label) + k * field / 2


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


def average_derivative(function: sp.Expr, by: sp.Expr) -> sp.Expr:
    """d<f>/dx = <df/dx> + P (<f dh/dx> - <f> <dh/dx>) for the average over exp(P h(a; t)), f a function of a[r], t."""
    force = differentiate(action(), by)
    return average(differentiate(function, by)) + n_samples * (
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
        return sorted(str(getattr(f, "base", "")) for f in x.function.args) in (["a", "t"], [str(abar), "t"])

    def name(x: sp.Sum) -> sp.Indexed:
        (cls,) = (f.indices[0] for f in x.function.args if isinstance(f, sp.Indexed) and f.base == t)
        (readout,) = (f for f in x.function.args if isinstance(f, sp.Indexed) and f.base != t)
        return (kappa_bar if readout.base == abar else kappa)[(*readout.indices[:-1], cls)]

    return expression.replace(is_kappa, name)


def without_kappa(expression: sp.Expr) -> sp.Expr:
    """The inverse of `with_kappa`."""

    def written_out(x: sp.Indexed) -> sp.Expr:
        *label, cls = x.indices
        return kappa_sum(a if x.base == kappa else abar, *label, cls=cls)

    return expression.replace(lambda x: isinstance(x, sp.Indexed) and x.base in (kappa, kappa_bar), written_out)
