"""The equations of every theory besides class tasks (those: `meanfield.symbolic.equations`), derived by SymPy.

Indices: samples mu, nu; outputs q, r, s; outliers o, i; f_mu are the rows of the feature factor F, K = F F^T, sigma_w
included; the readout has prior variance s = sigma_a^2 / P^(1/L).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import sympy as sp
from sympy.printing.latex import LatexPrinter

from meanfield.symbolic import action as class_theory
from meanfield.symbolic.index import Ordered, contract, differentiate
from meanfield.symbolic.latex import align
from meanfield.symbolic.propagation import SiteSymbols, site_equations

__all__ = [
    "DataEquations",
    "SymbolicActivation",
    "general_data",
    "lazy",
    "linear",
]

a, r, s, q, o, i = (
    class_theory.a, class_theory.r, class_theory.s, class_theory.q, class_theory.o, class_theory.i
)  # fmt: skip
m = class_theory.m
tau, sigma_a = class_theory.tau, class_theory.sigma_a
mu, nu, rho, j = sp.symbols("mu nu rho j", integer=True)
P, rank, n_out, depth = sp.symbols("P r n_o L", integer=True, positive=True)
temperature = sp.Symbol("T", nonnegative=True)
variance = sp.Symbol("s", positive=True)  # of the readout under the prior
t, Y, K, U, F = (sp.IndexedBase(name) for name in ("t", "Y", "K", "U", "F"))
k = sp.IndexedBase("k")  # k_mu = t_mu . a
weight, unit = sp.IndexedBase("w"), sp.IndexedBase("u")  # w_o, u_o of an outlier
lam = sp.IndexedBase(sp.Symbol("lambda"))


class SiteFunction(Ordered):
    """Share of sample mu in log Z(k): only first derivatives are used, d log Z / dk_mu = E[phi(z_mu) | a]."""

    letter = "Z"


class Asymptote(Ordered):
    """phi far out: slope s_- below and s_+ above 0."""

    letter = r"\varphi_{\infty}"


class MeanActivation(sp.Function):
    """E[phi(z_mu) | a]."""

    nargs = 2

    def _latex(self, printer: LatexPrinter, exp: str | None = None) -> str:
        text = rf"\left\langle \varphi_{{{printer.doprint(self.args[0])}}} \right\rangle_{{a}}"
        return text if exp is None else f"{text}^{{{exp}}}"


@dataclass(frozen=True)
class DataEquations:
    """What `meanfield.solve` solves for one theory, as equations with the short side first.

    Attributes
    ----------
    theory : str
        "general data", "general data with outliers", "linear" or "lazy".
    objective : sympy.Eq or None
        What is minimised.
    stationarity : tuple of sympy.Eq
        The equations that are solved, left side the known or simple one.
    definitions : tuple of sympy.Eq
        What the symbols in them stand for.
    constraint : sympy.Rel or None
        Where the objective is finite.
    """

    theory: str
    objective: sp.Eq | None
    stationarity: tuple[sp.Eq, ...]
    definitions: tuple[sp.Eq, ...] = ()
    constraint: sp.Rel | None = None

    def latex(self) -> str:
        """An ``align`` environment (package amsmath) with every equation."""
        objective = () if self.objective is None else (self.objective,)
        constraint = () if self.constraint is None else (self.constraint,)
        return align((*self.definitions, *objective, *constraint, *self.stationarity))

    def _repr_latex_(self) -> str:
        return self.latex()


class SymbolicActivation(Protocol):
    """What the equations ask of a nonlinearity, an `Activation` for example."""

    @property
    def name(self) -> str: ...
    @property
    def formula(self) -> sp.Expr: ...
    @property
    def expression(self) -> sp.Expr: ...
    @property
    def symbol(self) -> sp.Symbol: ...
    @property
    def parameters(self) -> Mapping[str, float]: ...


def _eq(left: sp.Expr, right: sp.Expr) -> sp.Eq:
    return sp.Eq(left, right, evaluate=False)


def _name(text: str) -> sp.Symbol:
    return sp.Symbol(text)


def _order_part(noise: sp.Expr) -> sp.Expr:
    """-<t, Y> + noise |t|^2 / 2."""
    outer = (q, 1, m), (mu, 1, P)
    return -sp.Sum(t[mu, q] * Y[mu, q], *outer) + noise / 2 * sp.Sum(t[mu, q] ** 2, *outer)


def _quadratic(first: sp.Expr, second: sp.Expr) -> sp.Expr:
    """sum_mu,nu t_mu,first K_mu,nu t_nu,second."""
    return sp.Sum(t[mu, first] * K[mu, nu] * t[nu, second], (mu, 1, P), (nu, 1, P))


def _gradient(objective: sp.Expr) -> sp.Expr:
    """d/dt_(rho, r), with K symmetric, written for the sample mu."""
    found = differentiate(objective, t[rho, r])
    found = found.replace(lambda x: isinstance(x, sp.Indexed) and x.base == K, _sorted_kernel)
    terms: dict[sp.Expr, sp.Expr] = {}
    for term in sp.Add.make_args(found):
        factor, rest = term.as_coeff_Mul()
        key = rest.replace(lambda x: isinstance(x, sp.Sum) and x.limits[0][0] == mu, lambda x: x.xreplace({mu: nu}))
        terms[key] = terms.get(key, sp.Integer(0)) + factor
    return sp.Add(*(factor * rest for rest, factor in terms.items())).subs(rho, mu)


def _sorted_kernel(x: sp.Indexed) -> sp.Expr:
    """K_(x, rho) as K_(rho, x)."""
    first, second = x.indices
    return K[second, first] if second == rho else x


def lazy() -> DataEquations:
    """Gaussian process: quadratic dual with the kernel K^(L) of the last hidden layer."""
    objective = _order_part(temperature) + variance / 2 * sp.Sum(
        t[mu, q] * K[mu, nu] * t[nu, q], (q, 1, m), (mu, 1, P), (nu, 1, P)
    )
    row = _gradient(objective)
    predictor = variance * sp.Sum(_name(r"K^{(L)}(x, x_{\nu})") * t[nu, r], (nu, 1, P))
    inner = r"\mathcal{N}(0,\, \sigma_{w}^{2} K^{(\ell)})"
    definitions = (
        _eq(_name(r"K^{(0)}(x, x')"), _name(r"x \cdot x' / N_{0}")),
        _eq(_name(r"K^{(\ell+1)}(x, x')"), _name(rf"\left\langle \varphi(z) \varphi(z') \right\rangle_{{{inner}}}")),
        _eq(_name(r"{K}_{\mu,\nu}"), _name(r"K^{(L)}(x_{\mu}, x_{\nu})")),
        _eq(variance, sigma_a**2 / P ** (1 / depth)),
    )
    rows = (_eq(Y[mu, r], _solved_for_targets(row)), _eq(_name(r"f_{r}(x)"), predictor))
    return DataEquations("lazy", _eq(_name("J"), objective), rows, definitions)


def _solved_for_targets(row: sp.Expr) -> sp.Expr:
    return sp.expand(row + Y[mu, r])


def linear() -> DataEquations:
    """Closed forms of linear networks: eigenvalues for any depth at tau = 0, the dual for one hidden layer."""
    # With K that of layer L - 1 the first two equations hold at any depth. For one hidden layer J is the extremum over
    # U of the Lagrangian, U the multiplier of t^T K t <= 1 / s.
    bound = _quadratic(q, s) - sp.KroneckerDelta(q, s) / variance
    log_det = _name(r"\ln \det U")
    quadratic = sp.Sum(U[q, s] * bound, (q, 1, m), (s, 1, m)) / 2
    objective = _order_part(tau) + sp.Sum(U[q, s] * _quadratic(q, s), (q, 1, m), (s, 1, m)) / 2
    row = _gradient(objective)
    row = _symmetric(row)
    inverse = sp.expand(contract(-2 * differentiate(quadratic, U[r, i]))).subs(i, j)
    trace = sp.Sum(U[q, q], (q, 1, m))
    shown = _order_part(tau) + sp.Sum(U[q, s] * _quadratic(q, s), (q, 1, m), (s, 1, m)) / 2
    shown += (log_det - trace / variance + m) / 2 + m * sp.log(variance) / -2
    # At every depth: u^{-1} = v (1 + v q)^{L-1} and u = s (1 + v q) for every eigenvalue.
    u, v, eigenvalue = sp.symbols("u v q", positive=True)
    inverse_u, from_prior = v * (1 + v * eigenvalue) ** (depth - 1), variance * (1 + v * eigenvalue)
    closed = sp.powsimp(inverse_u * from_prior / variance)  # u / (u s)
    stationarity = (
        _eq(Y[mu, r], _solved_for_targets(row)),
        _eq(_name(r"\left(U^{-1}\right)_{r,j}"), inverse),
        _eq(1 / variance, closed),
        _eq(u, from_prior),
        _eq(_name(r"K_{\ell}(x, x')"), _name(r"k(x, x') + f(x)^{\top} \left[(1 + VQ)^{\ell} - 1\right] Q^{-1} f(x')")),
        _eq(_name(r"K_{L}(x, x')"), _name(r"K_{L-1}(x, x') + f(x)^{\top} U^{-1} f(x')")),
    )
    definitions = (
        _eq(_name(r"{K}_{\mu,\nu}"), _name(r"K_{L-1}(x_{\mu}, x_{\nu})")),
        _eq(_name("Q"), _name(r"Y^{\top} K_{0}^{+} Y = \sum_{q} q\, e_{q} e_{q}^{\top}")),
        _eq(_name("V"), _name(r"\sum_{q} v_{q}\, e_{q} e_{q}^{\top}")),
        _eq(_name("U"), _name(r"\sum_{q} u_{q}\, e_{q} e_{q}^{\top}")),
        _eq(variance, sigma_a**2 / P ** (1 / depth)),
    )
    return DataEquations("linear", _eq(_name("J_{L=1}"), shown), stationarity, definitions)


def _symmetric(row: sp.Expr) -> sp.Expr:
    """U_(r, x) and U_(x, r) are the same, so the two halves of the derivative add up."""

    def ordered(x: sp.Indexed) -> sp.Expr:
        return U[x.indices[1], r] if x.indices[0] == r else x

    row = row.replace(lambda x: isinstance(x, sp.Indexed) and x.base == U, ordered)
    row = row.replace(lambda x: isinstance(x, sp.Sum) and x.limits[0][0] == s, lambda x: x.xreplace({s: q}))
    total: dict[sp.Expr, sp.Expr] = {}
    for term in sp.Add.make_args(sp.expand(contract(row))):
        factor, rest = term.as_coeff_Mul()
        total[rest] = total.get(rest, sp.Integer(0)) + factor
    return sp.Add(*(factor * rest for rest, factor in total.items()))


def general_data(outliers: bool = False) -> DataEquations:
    """One hidden layer on any inputs: convex dual, log Z(t a) by expectation propagation; outliers where phi grows.

    The outermost average is over P(a), proportional to exp(h(a)).
    """
    log_z = sp.Sum(SiteFunction(0, sp.Sum(t[mu, q] * a[q], (q, 1, m))), (mu, 1, P))
    prior = -sp.Sum(a[q] ** 2, (q, 1, m)) / (2 * variance)
    h = prior + log_z
    force = _moments(differentiate(h, t[rho, r]))  # dh/dt_mu,r at fixed a
    gradient = _moments(differentiate(h, a[r]))
    order = _gradient(_order_part(tau))
    neurons = class_theory.average(force.subs(rho, mu))
    shown_h = prior + _name(r"\ln Z(t a)")
    objective = _order_part(tau) + _name(r"\ln \int \! \mathrm{d}a \; (2 \pi s)^{-m/2} e^{h(a)}")
    constraint: sp.Rel | None = None
    exponent = r"\sum_{\mu} k_{\mu} \varphi(f_{\mu} \cdot w)"
    definitions = [
        _eq(variance, sigma_a**2 / P),
        _eq(_name("Z(k)"), _name(rf"\left\langle e^{{{exponent}}} \right\rangle_{{w \sim \mathcal{{N}}(0, 1)}}")),
        _eq(_name("h(a)"), shown_h),
        _eq(_name(r"\partial h / \partial a_{r}"), gradient),
    ]
    total = order + neurons
    extra: tuple[sp.Eq, ...] | None
    if outliers:
        growth = _growth(o)
        objective_row = sp.Sum(lam[o] * growth, (o, 1, n_out))
        output = differentiate(objective_row, t[rho, r]).subs(rho, mu)
        total += output
        # w_o and u_o are stationary: w = dq/dw + w, and u is along dq/du.
        weights = differentiate(_growth(i), weight[i, j]) + weight[i, j]
        direction = differentiate(_growth(i), unit[i, r])
        strength = _name(r"2 q(u_{i})")
        largest = r"\max_{w} \; \sum_{\mu} (t_{\mu} \cdot u) \varphi_{\infty}(f_{\mu} \cdot w) - |w|^{2} / 2"
        definitions += [
            _eq(_name(r"q(u)"), _name(largest)),
            _eq(_name(r"{z}_{o,\mu}"), _name(r"f_{\mu} \cdot w_{o}")),
            _eq(_name(r"{k}_{o,\mu}"), _name(r"t_{\mu} \cdot u_{o}")),
        ]
        constraint = sp.Le(_name(r"q(u)"), P / (2 * sigma_a**2), evaluate=False)
        extra = (_eq(weight[i, j], _shown(weights)), _eq(strength * unit[i, r], _shown(direction)))
        total = _shown(total)
        objective_name = "general data with outliers"
    else:
        extra, objective_name = None, "general data"
    rows = (_eq(Y[mu, r], _solved_for_targets(total)), *(extra or ()), *expectation_propagation())
    return DataEquations(objective_name, _eq(_name("J"), objective), rows, tuple(definitions), constraint)


def _growth(label: sp.Symbol) -> sp.Expr:
    """q at the outlier's own w and u: sum_mu (t_mu.u) phi(f_mu.w) - |w|^2 / 2."""
    field = sp.Sum(t[mu, q] * unit[label, q], (q, 1, m))
    preactivation = sp.Sum(F[mu, nu] * weight[label, nu], (nu, 1, rank))
    half = sp.Sum(weight[label, nu] ** 2, (nu, 1, rank)) / 2
    return sp.Sum(field * Asymptote(0, preactivation), (mu, 1, P)) - half


def _shown(expression: sp.Expr) -> sp.Expr:
    """f_mu . w_o and t_mu . u_o by name."""
    z, kappa = sp.IndexedBase("z"), sp.IndexedBase("k")

    def name(x: sp.Sum) -> sp.Expr:
        factors = {f.base: f for f in x.function.args if isinstance(f, sp.Indexed)}
        if set(factors) == {F, weight} and len(x.function.args) == 2:
            return z[factors[weight].indices[0], factors[F].indices[0]]
        if set(factors) == {t, unit} and len(x.function.args) == 2:
            return kappa[factors[unit].indices[0], factors[t].indices[0]]
        return x

    return expression.replace(lambda x: isinstance(x, sp.Sum) and x.function.is_Mul, name)


def _moments(expression: sp.Expr) -> sp.Expr:
    """d log Z / dk_mu written as the mean of phi(z_mu) given a."""

    def named(order: sp.Expr, x: sp.Sum) -> sp.Expr:
        (sample,) = (f.indices[0] for f in x.function.args if isinstance(f, sp.Indexed) and f.base == t)
        return MeanActivation(sample, a)

    return expression.replace(SiteFunction, named)


def expectation_propagation() -> tuple[sp.Eq, ...]:
    """Fixed point of the sites exp(-S_mu z^2 / 2 + nu_mu z) that stand for exp(k_mu phi(z_mu))."""
    mean, var, cavity_mean, cavity_var, site, linear_site = sp.symbols(
        r"m_{\mu} v_{\mu} \tilde{m}_{\mu} \tilde{v}_{\mu} S_{\mu} \nu_{\mu}", real=True
    )
    found = site_equations(SiteSymbols(mean, var, cavity_mean, cavity_var, site, linear_site))
    # Tilted moments: derivatives of the normalisation by the cavity mean (Gaussian integration by parts).
    normal = sp.Function(r"\ln \hat{Z}_{\mu}")(cavity_mean, cavity_var)
    tilted_mean = cavity_mean + cavity_var * normal.diff(cavity_mean)
    tilted_var = cavity_var + cavity_var**2 * normal.diff(cavity_mean, 2)
    cavity = r"\mathcal{N}(z; \tilde{m}_{\mu}, \tilde{v}_{\mu})"
    definition = _name(rf"\ln \int \! \mathrm{{d}}z \; {cavity} \, e^{{k_{{\mu}} \varphi(z)}}")
    weight_precision = _name(r"1 + F^{\top} S F")
    total = _name(r"-\tfrac{1}{2} \ln \det A + \tfrac{1}{2} \nu^{\top} F A^{-1} F^{\top} \nu")
    total += sp.Sum(_name(r"\ln \hat{Z}_{\mu}") - found.share, (mu, 1, P))
    return (
        _eq(_name("A"), weight_precision),
        _eq(mean, _name(r"\left(F A^{-1} F^{\top} \nu\right)_{\mu}")),
        _eq(var, _name(r"\left(F A^{-1} F^{\top}\right)_{\mu\mu}")),
        _eq(cavity_var, sp.simplify(found.cavity_variance)),
        _eq(cavity_mean, sp.expand(found.cavity_mean)),
        _eq(normal, definition),
        _eq(mean, tilted_mean),
        _eq(var, tilted_var),
        _eq(MeanActivation(mu, a), sp.Derivative(_name(r"\ln \hat{Z}_{\mu}"), _name(r"k_{\mu}"))),
        _eq(_name(r"\ln Z(k)"), total),
    )
