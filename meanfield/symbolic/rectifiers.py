"""Deep networks of rectifiers on class tasks: the saddle equations of bulk and outliers at N = infinity.

What they mean: deep/relu/THEORY.md. The bulk has the saddle equations of any phi (`meanfield.symbolic.deep`). An
outlier o is a neuron with fields sqrt(N) (b_o, h_o): it adds Ehat(b_o, h_o), the exponent of its weight per N, to Phi,
is stationary in its fields, and Ehat = 0 there, as Ehat is homogeneous. Derived here, and held against the solver by a
test: the single-site function g of the bulk in closed form, ghat of outliers branch by branch, what an outlier adds to
every equation, and its own equations.

Not derived: the derivatives of g that compiled code evaluates (truncated moments, with a continued fraction in the
tails, ``relu/compiled/site.py``); what outliers add to the Jacobian, which a test holds to differences
(``relu/compiled/operators.py``), of which second derivatives of ln Z of the bulk are printed, those of any phi; the
equations at finite N, in which outliers have the exact g (deep/relu/THEORY.md, "Finite width").
"""

from __future__ import annotations

from functools import cache

import sympy as sp

from meanfield.symbolic.deep import (
    READOUT_VARIANCE,
    SIGMA_W,
    SIZE,
    TAU,
    C,
    DeepEquations,
    L,
    Layer,
    LayerAverage,
    T,
    Y,
    array_of,
    c,
    class_function,
    e,
    equation,
    layer_scale,
    n,
    of_class,
    push,
    q,
    saddle,
    saddle_action,
    second_derivatives,
    written,
)

__all__ = ["completed_square", "condensed_site", "rectifier_equations", "site_function"]

o, n_out = sp.symbols("o n_o", integer=True)
b, h, delta = sp.symbols(r"b h \tilde{\delta}", real=True)
d = sp.Symbol("d", positive=True)  # variance of the preactivation given h, sigma_w included
_Z = sp.Symbol("z", real=True)
_MU, _NARROW = sp.Symbol("mu", real=True), sp.Symbol("d'", positive=True)


def _exponent() -> sp.Expr:
    """ln of the weight of a sample with preactivation z > 0, without the normalisation of the Gaussian."""
    return b * _Z + delta * _Z**2 / 2 - (_Z - h) ** 2 / (2 * d)


@cache
def completed_square() -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """d', mu and the constant k with exponent = k - (z - mu)^2 / 2d' on z > 0."""
    square, linear, constant = sp.Poly(sp.expand(_exponent()), _Z).all_coeffs()
    narrow = d / sp.expand(-2 * square * d)
    mu = sp.factor(linear * narrow)
    return narrow, mu, sp.factor(constant + mu**2 / (2 * narrow))


def site_function() -> sp.Expr:
    """g(b, h) = ln <e^(b phi(z) + delta phi(z)^2 / 2)>, z ~ N(h, d): the masses of two truncated Gaussians."""
    _, _, constant = completed_square()
    below, above = (sp.erfc(x / sp.sqrt(2)) / 2 for x in (h / sp.sqrt(d), -_MU / sp.sqrt(_NARROW)))
    return sp.log(below + sp.sqrt(_NARROW / d) * sp.exp(_shown(constant)) * above)


def _shown(constant: sp.Expr) -> sp.Expr:
    """The constant of the square by mu and d': the rest of it does not depend on b."""
    _, mu, _ = completed_square()
    narrow = completed_square()[0]
    rest = sp.simplify(constant - mu**2 / (2 * narrow))
    return _MU**2 / (2 * _NARROW) + rest


def branches() -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """ghat where the maximum over z lies at z = mu > 0, on the kink, and at z = h < 0."""
    (top,) = sp.solve(sp.diff(_exponent(), _Z), _Z)
    return sp.factor(_exponent().subs(_Z, top)), _exponent().subs(_Z, 0), sp.Integer(0)


def condensed_site() -> sp.Expr:
    """ghat(b, h) = max_z [b phi(z) + delta phi(z)^2 / 2 - (z - h)^2 / 2d]."""
    off = branches()[1].subs(h, sp.Max(h, 0))  # on the kink where h > 0, else below it
    return sp.Piecewise((sp.Max(_shown(completed_square()[2]), off), _MU > 0), (off, True))


@cache
def _own_slopes() -> tuple[sp.Expr, sp.Expr]:
    """dghat/d delta and dghat/dd in x = ghat_b and y = ghat_h: the same on all branches."""
    x, y = sp.symbols("x y")
    for value in branches():
        first, second = value.diff(b), value.diff(h)
        if sp.simplify(value.diff(delta) - first**2 / 2) != 0 or sp.simplify(value.diff(d) - second**2 / 2) != 0:
            raise AssertionError("an outlier would change d or delta~")
    return x**2 / 2, y**2 / 2


@cache
def _pair_slopes() -> tuple[sp.Expr, sp.Expr]:
    """Derivatives of Ehat by an entry of the covariance of its fields, off the diagonal and on it, at an outlier.

    In u_c = n_c ghat_c, the force of a class on its field; two classes show what any two do.
    """
    first, second, both = sp.symbols("k_11 k_22 k_12")
    u = sp.Matrix(sp.symbols("u_1 u_2"))
    covariance = sp.Matrix([[first, both], [both, second]])
    field = sp.Matrix(sp.symbols("x_1 x_2"))
    energy = -(field.T * covariance.inv() * field)[0] / 2
    balance = [energy.diff(x) + force for x, force in zip(field, u)]  # dEhat/dx = 0
    (at,) = sp.solve(balance, list(field), dict=True)
    if any(sp.simplify(at[x] - value) != 0 for x, value in zip(field, covariance * u)):
        raise AssertionError("an outlier does not lie at covariance times force")
    off, diagonal = (sp.simplify(energy.diff(entry).subs(at)) for entry in (both, first))
    return off, diagonal


def _added_by_outliers(slope: sp.IndexedBase) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """What all outliers add to the derivatives of ln Z by the covariance of a field, and by the own part of a class.

    `slope` (o, C) is ghat_b for k~ and delta~, ghat_h for the covariance of h and d.
    """
    off, diagonal = _pair_slopes()
    one, other = sp.symbols("u_1 u_2")
    forces = {one: SIZE[c] * slope[o, c], other: SIZE[e] * slope[o, e]}
    own = SIZE[c] * _own_slopes()[0].subs(sp.Symbol("x"), slope[o, c])
    return _over_outliers(off.subs(forces)), _over_outliers(diagonal.subs(forces)), _over_outliers(own)


def _over_outliers(term: sp.Expr) -> sp.Expr:
    front, inside = term.as_independent(o)
    return front * sp.Sum(inside, (o, 1, n_out))


def _slope(by: str, layer: Layer) -> sp.IndexedBase:
    return sp.IndexedBase(sp.Symbol(rf"{{\hat{{g}}_{{{by}}}^{{({layer})}}}}"))


def _field(name: str, layer: Layer) -> sp.IndexedBase:
    return sp.IndexedBase(sp.Symbol(rf"{{\bar{{{name}}}^{{({layer})}}}}"))


def _site_definitions(rectifier: bool) -> tuple[sp.Eq, ...]:
    """g and ghat: in closed form, or by the slopes r_- and r_+ of any other phi at infinity."""
    if not rectifier:
        law = r"\ln \left\langle e^{b \varphi(z) + \tilde{\delta} \varphi(z)^2 / 2} \right\rangle"
        law += r"_{z \sim \mathcal{N}(h, d)}"
        ends = r"r_{+} \max(z, 0) + r_{-} \min(z, 0), \quad r_{\pm} = \lim_{z \to \pm \infty} \varphi(z) / z"
        largest = (
            r"\max_{z} \left[ b \varphi_{\infty}(z) + \tfrac{1}{2} \tilde{\delta} \varphi_{\infty}(z)^2"
            r" - (z - h)^2 / 2 d \right]"
        )
        return (
            equation("g(b, h)", written(law)),
            equation(r"\varphi_{\infty}(z)", written(ends)),
            equation(r"\hat{g}(b, h)", written(largest)),
        )
    narrow, mu, _ = completed_square()
    return (
        equation(_NARROW, narrow),
        equation(_MU, _NARROW * sp.expand(mu / narrow)),
        equation("g(b, h)", site_function()),
        equation(r"\hat{g}(b, h)", condensed_site()),
    )


def _definitions(rectifier: bool, layered: bool) -> tuple[sp.Eq, ...]:
    sigma = r"\sigma_{\ell}" if layered else r"\sigma_w"
    energy = (
        rf"-\tfrac{{1}}{{2}} b^{{\top}} \tilde{{k}}_{{\ell}}^{{-1}} b"
        rf" - \tfrac{{1}}{{2}} h^{{\top}} ({sigma}^2 \bar{{K}}_{{\ell-1}})^{{-1}} h"
        r" + \sum_{c} n_{c} \hat{g}_{c}(b_{c}, h_{c})"
    )
    gaussian_b, gaussian_h = (
        r"b \sim \mathcal{N}(0, \tilde{k}_{\ell})",
        rf"h \sim \mathcal{{N}}(0, {sigma}^2 \bar{{K}}_{{\ell-1}})",
    )
    weight = r"\left\langle e^{\sum_{c} n_{c} g_{c}(b_{c}, h_{c})} \right\rangle"
    return (
        equation(r"Z_{\ell}", written(rf"{weight}_{{{gaussian_b}, \; {gaussian_h}}}")),
        equation(r"b^{(L)}_{c}", written(r"a \cdot t_{c}, \quad a \sim \mathcal{N}(0, s)")),
        equation("d", written(rf"{sigma}^2 d_{{\ell - 1, c}}")),
        *_site_definitions(rectifier),
        equation(r"\hat{E}_{\ell}(b, h)", written(energy)),
    )


def rectifier_equations(depth: int | None = None, *, rectifier: bool = True, layered: bool = False) -> DeepEquations:
    """Equations of rectifiers, or of another unbounded phi, in `depth` hidden layers, or in any number.

    `layered`: every layer has a width N_l and a scale of its own, as in `deep.deep_equations`; fields of outliers of
    layer l are then in units of sqrt(N_l), and Ehat is the exponent of their weight per N_l.
    """
    layers: list[Layer] = list(range(1, depth)) if depth else [written(r"\ell")]
    upper: list[Layer] = list(range(2, depth + 1)) if depth else [written(r"\ell + 1")]
    last: Layer = depth or L
    below_last: Layer = depth - 1 if depth else L - 1
    rows = []
    for layer, above in zip(layers, upper):
        kernel, spread = array_of("K", layer), array_of("d", layer)
        tilde, own_tilde = array_of("k~", layer), array_of("delta~", layer)
        slope = _slope("b", layer)
        off, block, own = saddle("k", "delta", sp.Integer(1), layer, _added_by_outliers(slope))
        assert sp.expand(off.subs(e, c) - block) == 0  # one equation for both
        rows += [equation(kernel[c, e], off), equation(spread[c], own)]
        off, block, own = saddle("H", "d", push(layer, above, layered), above, _added_by_outliers(_slope("h", above)))
        assert sp.expand(off.subs(e, c) - block) == 0
        rows += [equation(tilde[c, e], off), equation(own_tilde[c], own)]
        force = sp.Sum(tilde[c, e] * SIZE[e] * slope[o, e], (e, 1, C))
        rows.append(equation(_field("b", layer)[o, c], force))
        rows.append(equation(_field("h", above)[o, c], _field_of_class(kernel, above, layered)))
    if depth is None:
        rows.append(equation(_field("h", last)[o, c], _field_of_class(array_of("K", below_last), last, layered)))
    readout, slope = sp.IndexedBase("a"), _slope("b", last)
    pull = SIZE[c] * slope[o, c] * T[c, q]
    rows.append(equation(_field("a", last)[o, q], READOUT_VARIANCE * sp.Sum(pull, (c, 1, C))))
    # dPhi/dt_cq / n_c, with b_c = a.t_c: a_q d/db_c of the weight of the bulk, and of Ehat.
    bulk = sp.cancel(class_function((1, 0, 0, 0)) / n)
    output = LayerAverage(readout[q] * of_class(bulk, c), sp.sympify(last))
    output += sp.Sum(_field("a", last)[o, q] * slope[o, c], (o, 1, n_out))
    rows.append(equation(Y[c, q], output + TAU * T[c, q]))
    bound = sp.Le(written(r"\hat{E}_{\ell}(b, h)"), sp.Integer(0), evaluate=False)
    second = second_derivatives(layered) if depth else ()
    return DeepEquations(depth, saddle_action(layered), _definitions(rectifier, layered), tuple(rows), second, (bound,))


def _field_of_class(kernel: sp.IndexedBase, layer: Layer, layered: bool) -> sp.Expr:
    scale = layer_scale(layer) if layered else SIGMA_W
    return scale**2 * sp.Sum(kernel[c, e] * SIZE[e] * _slope("h", layer)[o, e], (e, 1, C))
