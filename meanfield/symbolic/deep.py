"""Deep networks on class tasks: the saddle equations and their exact Jacobian from two rules of differentiation.

What they mean: deep/THEORY.md. A neuron of a layer has weight prod_c exp(n_c g_c(b_c, h_c)) under independent Gaussian
fields b ~ N(0, k~), h ~ N(0, H), and g = ln E exp(b phi(h + sqrt(d) xi) + delta phi^2 / 2). Everything follows from

- Price's theorem, d/d covariance E[F] = 1/2 E[d^2 F], for both fields and, one sample at a time, for d;
- the definition of delta, d exp(g)/d delta = 1/2 d^2 exp(g)/db^2.

Hence every derivative of Z is the average of a product of *class functions* A_key = e^(-n g) d^key e^(n g), key =
orders of the derivatives by (b, h, delta, d): polynomials in n and in derivatives of g by b and h, which are cumulants
of phi and xi.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeAlias

import sympy as sp
from sympy.printing.latex import LatexPrinter

from meanfield.symbolic.latex import align

__all__ = [
    "READOUT_VARIANCE",
    "SIGMA_W",
    "SIZE",
    "TAU",
    "C",
    "DeepEquations",
    "L",
    "Layer",
    "LayerAverage",
    "T",
    "Y",
    "array_of",
    "c",
    "class_function",
    "class_keys",
    "cumulants",
    "deep_equations",
    "e",
    "equation",
    "layer_scale",
    "layer_width",
    "moment",
    "n",
    "of_class",
    "of_network",
    "one_loop_equations",
    "push",
    "q",
    "root_d",
    "saddle",
    "saddle_action",
    "sample_function",
    "sample_keys",
    "second_derivatives",
    "site",
    "site_orders",
    "written",
]

Layer: TypeAlias = int | sp.Expr  # a number, or the symbol of any
Key = tuple[int, int, int, int]  # orders of the derivatives by b, h, delta, d
SampleKey = tuple[int, int, int, int]  # x, y; orders by b and h

n = sp.Symbol("n", positive=True)
root_d = sp.Symbol("root_d", positive=True)
_HALF = sp.Rational(1, 2)
# An operator of one parameter: what it differentiates by, in the classes it names.
_PAIR = {"k": (1, 0, 0, 0), "H": (0, 1, 0, 0)}
_ONE = {"delta": (0, 0, 1, 0), "d": (0, 0, 0, 1)}


def site(i: int, j: int) -> sp.Symbol:
    """d^(i + j) g / db^i dh^j."""
    return sp.Symbol(f"g_{'b' * i}{'h' * j}" if i + j else "g", real=True)


def moment(i: int, j: int) -> sp.Symbol:
    """<(phi - middle)^i xi^j> under the tilted law of one sample."""
    return sp.Symbol(f"m_{i}{j}", real=True)


def _orders(expression: sp.Expr) -> list[tuple[int, int]]:
    known = {site(i, j): (i, j) for i in range(5) for j in range(5 - i)}
    return [known[s] for s in expression.free_symbols if s in known]


def _by_field(expression: sp.Expr, step: tuple[int, int]) -> sp.Expr:
    """Derivative by b or h of a polynomial in the derivatives of g."""
    return sp.expand(sum(expression.diff(site(i, j)) * site(i + step[0], j + step[1]) for i, j in _orders(expression)))


@cache
def _parameter(which: str, i: int, j: int) -> sp.Expr:
    """Derivative of site(i, j) by delta or d: that of g is half the second derivative of exp(g), over exp(g)."""
    order = (1, 0) if which == "delta" else (0, 1)
    found = _HALF * (site(2 * order[0], 2 * order[1]) + site(*order) ** 2)
    for step, times in (((1, 0), i), ((0, 1), j)):
        for _ in range(times):
            found = _by_field(found, step)
    return found


def _derivative(expression: sp.Expr, axis: int) -> sp.Expr:
    if axis < 2:
        return _by_field(expression, ((1, 0), (0, 1))[axis])
    which = ("delta", "d")[axis - 2]
    return sp.expand(sum(expression.diff(site(i, j)) * _parameter(which, i, j) for i, j in _orders(expression)))


@cache
def class_function(key: Key) -> sp.Expr:
    """A_key of the module's docstring."""
    if not any(key):
        return sp.Integer(1)
    axis = next(i for i in (2, 3, 0, 1) if key[i])
    lower = class_function(tuple(order - (i == axis) for i, order in enumerate(key)))
    return sp.expand(_derivative(lower, axis) + n * _derivative(site(0, 0), axis) * lower)


def _added(*keys: Key) -> Key:
    b, h, delta, d = (sum(orders) for orders in zip(*keys))
    return b, h, delta, d


@cache
def class_keys() -> tuple[Key, ...]:
    """Keys of all class functions that first and second derivatives of ln Z by k~, delta, H and d need."""
    own = [_added(k, k) for k in _PAIR.values()] + list(_ONE.values())  # both indices, or the only one, in this class
    half = list(_PAIR.values())  # one index in this class, the other elsewhere
    found = {(0, 0, 0, 0), *own, *half}
    for first, second in itertools.product([*own, *half], repeat=2):
        found.add(_added(first, second))
    return tuple(sorted(found, key=lambda key: (key[0] + key[1] + 2 * (key[2] + key[3]), [-x for x in key])))


@cache
def sample_function(key: SampleKey) -> sp.Expr:
    """e^(-n g) d_b^i d_h^j (g_xy e^(n g)), key = (x, y, i, j), x and y counted as (b, h, delta, d).

    What a perturbation that tells the samples of a class apart (u over them, sum u = 0, sum u^2 = 1) couples to: first
    derivatives by it vanish, and of second derivatives sum u^2 g_xy is left.
    """
    x, y, *orders = key
    found = _derivative(_derivative(site(0, 0), max(x, y)), min(x, y))
    for axis, times in enumerate(orders):
        for _ in range(times):
            found = sp.expand(_derivative(found, axis) + n * _derivative(site(0, 0), axis) * found)
    return found


@cache
def sample_keys() -> tuple[SampleKey, ...]:
    """Keys of all sample functions that second derivatives of ln Z need.

    An entry of k~ or H differentiates by b or h of one sample and of a whole class: x = b, h, perhaps with one more
    derivative of this class. t, delta and d: of one sample alone.
    """
    whole = {0: ((0, 0), (1, 0)), 1: ((0, 0), (0, 1))}
    found = set()
    for x, y in itertools.combinations_with_replacement(range(4), 2):
        for one, two in itertools.product(whole.get(x, ((0, 0),)), whole.get(y, ((0, 0),))):
            found.add((x, y, one[0] + two[0], one[1] + two[1]))
    return tuple(sorted(found))


@cache
def site_orders() -> tuple[tuple[int, int], ...]:
    """Orders (i, j) of the derivatives of g in the class functions."""
    used = [*map(class_function, class_keys()), *map(sample_function, sample_keys())]
    return tuple(sorted({order for expression in used for order in _orders(expression)} - {(0, 0)}))


@cache
def cumulants(i: int, j: int) -> sp.Expr:
    """site(i, j), but for the middle of phi in g_b, in moments of one sample: z = h + sqrt(d) xi, so that a derivative
    by h at fixed z is (xi - d/dxi) / sqrt(d) inside of the average."""
    if (i, j) == (1, 0):
        return moment(1, 0)
    if (i, j) == (0, 1):
        return moment(0, 1) / root_d
    lower = cumulants(i - 1, j) if i else cumulants(i, j - 1)
    total = sp.Integer(0)
    for p, q in itertools.product(range(5), repeat=2):
        m = moment(p, q)
        if not lower.has(m):
            continue
        if i:
            change = moment(p + 1, q) - m * moment(1, 0)
        else:
            inside = (moment(p, q - 1) if (p, q) != (0, 1) else sp.Integer(1)) if q else sp.Integer(0)
            change = (moment(p, q + 1) - m * moment(0, 1) - q * inside) / root_d
        total += lower.diff(m) * change
    return sp.expand(total)


# ---- equations -------------------------------------------------------------------------------------------------------

C, L = sp.symbols("C L", integer=True, positive=True)
c, e, q = sp.symbols("c e q", integer=True)
SIZE = sp.IndexedBase("n")
SIGMA_W, TAU, READOUT_VARIANCE = sp.Symbol("sigma_w", positive=True), sp.Symbol("tau"), sp.Symbol("s", positive=True)
T, Y = sp.IndexedBase("t"), sp.IndexedBase("y")


def array_of(name: str, layer: Layer) -> sp.IndexedBase:
    tilde = name.endswith("~")
    letter = name[:-1] if name in ("k~", "delta~") else name
    letter = {"K": r"\bar{K}", "delta": r"\delta"}.get(letter, letter)
    return sp.IndexedBase(
        sp.Symbol(rf"{{\tilde{{{letter}}}^{{({layer})}}}}" if tilde else rf"{{{letter}^{{({layer})}}}}")
    )


def of_class(expression: sp.Expr, cls: sp.Expr) -> sp.Expr:
    """Derivatives of g and n of one class."""
    found = expression.subs(n, SIZE[cls])
    return found.replace(lambda x: x.is_Symbol and x.name.startswith("g"), lambda x: sp.IndexedBase(x.name)[cls])


def layer_average(expression: sp.Expr, layer: Layer) -> sp.Expr:
    """<...>, numbers and class sizes in front."""
    total = sp.Integer(0)
    for term in sp.Add.make_args(sp.expand(expression)):
        factors = sp.Mul.make_args(term)
        inside = [f for f in factors if any(str(x.base).startswith("g") for x in f.atoms(sp.Indexed))]
        front = sp.Mul(*(f for f in factors if f not in inside))
        total += front * (LayerAverage(sp.Mul(*inside), sp.sympify(layer)) if inside else 1)
    return total


class LayerAverage(sp.Function):
    """Average of its first argument over the neurons of the layer that is its second."""

    nargs = 2

    def _latex(self, printer: LatexPrinter, exp: str | None = None) -> str:
        inside, layer = map(printer.doprint, self.args)
        text = rf"\left\langle {inside} \right\rangle_{{{layer}}}"
        return text if exp is None else f"{text}^{{{exp}}}"


def _log_z_slope(kind: str, same: bool, layer: Layer) -> sp.Expr:
    """d ln Z / d entry of k~ or H (an entry off the diagonal stands for both), delta or d, of class c, or c and e."""
    if kind in _ONE:
        return layer_average(of_class(class_function(_ONE[kind]), c), layer)
    key = _PAIR[kind]
    if same:
        return layer_average(_HALF * of_class(class_function(_added(key, key)), c), layer)
    return layer_average(of_class(class_function(key), c) * of_class(class_function(key), e), layer)


NOTHING: tuple[sp.Expr, sp.Expr, sp.Expr] = (sp.Integer(0), sp.Integer(0), sp.Integer(0))


def saddle(
    pair: str, one: str, scale: sp.Expr, layer: Layer, beside: tuple[sp.Expr, sp.Expr, sp.Expr] = NOTHING
) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """Off-diagonal, diagonal and own part of the array conjugate to (pair, one), at which Phi is stationary.

    - tr K~ K / 2 in an entry c, e is n_c n_e X_ce, in one c, c (n_c^2 X_cc + n_c x_c) / 2, in the own part
    n_c (X_cc + x_c) / 2: X, x the block and the own part of the conjugate array. `beside` ln Z the action may have
    other terms that depend on (pair, one): their derivatives by an off-diagonal and a diagonal entry, and by one.
    """
    off, block, own = sp.symbols("off block own")
    between = sp.solve(scale * (_log_z_slope(pair, False, layer) + beside[0]) - SIZE[c] * SIZE[e] * off, off)[0]
    pairwise = scale * (_log_z_slope(pair, True, layer) + beside[1]) - (SIZE[c] ** 2 * block + SIZE[c] * own) / 2
    single = scale * (_log_z_slope(one, True, layer) + beside[2]) - SIZE[c] * (block + own) / 2
    found = sp.solve([pairwise, single], [block, own], dict=True)[0]
    return tuple(sp.simplify(sp.expand(x)) for x in (between, found[block], found[own]))


@dataclass(frozen=True)
class DeepEquations:
    """The saddle equations of a deep network on a class task, layer by layer.

    Attributes
    ----------
    depth : int or None
        None: of any depth, layers called l.
    objective : sympy.Eq
        Phi, ln p(Y) / N.
    definitions : tuple of sympy.Eq
    stationarity : tuple of sympy.Eq
        Kernels and d of layers 1 .. L - 1, their conjugates, and t.
    jacobian : tuple of sympy.Eq
        Second derivatives of ln Z, of which that of Phi consists, in class functions, and these.
    constraint : tuple of sympy.Rel
        Where the bulk has an integral (rectifiers).
    """

    depth: int | None
    objective: sp.Eq
    definitions: tuple[sp.Eq, ...]
    stationarity: tuple[sp.Eq, ...]
    jacobian: tuple[sp.Eq, ...]
    constraint: tuple[sp.Rel, ...] = ()

    def latex(self) -> str:
        """An ``align`` environment (package amsmath) with every equation."""
        return align((self.objective, *self.definitions, *self.constraint, *self.stationarity, *self.jacobian))

    def _repr_latex_(self) -> str:
        return self.latex()


def equation(left: sp.Expr | str, right: sp.Expr) -> sp.Eq:
    return sp.Eq(sp.Symbol(left) if isinstance(left, str) else left, right, evaluate=False)


def written(text: str) -> sp.Symbol:
    return sp.Symbol(text)


def layer_scale(layer: Layer) -> sp.Symbol:
    """sigma_l, where layers have scales of their own."""
    return sp.Symbol(rf"\sigma_{{{layer}}}", positive=True)


def layer_width(layer: Layer) -> sp.Symbol:
    """N_l, where layers have widths of their own; N is the last one."""
    return sp.Symbol(rf"N_{{{layer}}}", positive=True)


def push(layer: Layer, above: Layer, layered: bool) -> sp.Expr:
    """Factor of the averages of the layer above in the conjugates of a layer."""
    return layer_scale(above) ** 2 * layer_width(above) / layer_width(layer) if layered else SIGMA_W**2


def saddle_action(layered: bool = False) -> sp.Eq:
    """Phi, ln p(Y) / N; `layered`: with a width for every layer."""
    share = r"\tfrac{N_{\ell}}{N_{L}} " if layered else ""
    within = r"\left[ \ln Z_{\ell} - \tfrac{1}{2} \operatorname{tr} \tilde{K}_{\ell} K_{\ell} \right]"
    trace = r"\sum_{\ell < L} " + share + within
    return equation(
        r"\Phi",
        written(trace) + written(r"\ln Z_{L}")
        - sp.Sum(SIZE[c] * T[c, q] * Y[c, q], (q, 1, sp.Symbol("m")), (c, 1, C))
        + TAU / 2 * sp.Sum(SIZE[c] * T[c, q] ** 2, (q, 1, sp.Symbol("m")), (c, 1, C)),
    )  # fmt: skip


def deep_equations(depth: int | None = None, jacobian: bool = True, layered: bool = False) -> DeepEquations:
    """Equations of a network of `depth` hidden layers, or of any.

    `layered`: every layer has a width N_l and a scale sigma_l of its own. The kernel of layer l enters N_l / N_L times
    in -tr K~ K / 2, and the fields of layer l + 1 have covariance sigma_(l+1)^2 K_l, with ln Z counted N_(l+1) / N_L
    times.
    """
    layers: list[Layer] = list(range(1, depth)) if depth else [written(r"\ell")]
    upper: list[Layer] = list(range(2, depth + 1)) if depth else [written(r"\ell + 1")]
    last: Layer = depth or L
    weight = r"\left\langle e^{\sum_{c} n_{c} g_{c}(b_{c}, h_{c})} \right\rangle"
    gaussian_b = r"b \sim \mathcal{N}(0, \tilde{k}_{\ell})"
    sigma = r"\sigma_{\ell}" if layered else r"\sigma_w"
    gaussian_h = rf"h \sim \mathcal{{N}}(0, {sigma}^2 \bar{{K}}_{{\ell-1}})"
    fields = rf"{weight}_{{{gaussian_b}, \; {gaussian_h}}}"
    gaussian_z = rf"z \sim \mathcal{{N}}(h, {sigma}^2 d_{{\ell - 1, c}})"
    tilted = (
        rf"\ln \left\langle e^{{b \varphi(z) + \tilde{{\delta}}_c \varphi(z)^2 / 2}} \right\rangle_{{{gaussian_z}}}"
    )
    definitions = (
        equation(r"Z_{\ell}", written(fields)),
        equation(r"g_{c}(b, h)", written(tilted)),
        equation(r"b^{(L)}_{c}", written(r"a \cdot t_{c}, \quad a \sim \mathcal{N}(0, s)")),
    )
    rows = []
    for layer, above in zip(layers, upper):
        kernel, d = array_of("K", layer), array_of("d", layer)
        tilde, delta = array_of("k~", layer), array_of("delta~", layer)
        off, block, own = saddle("k", "delta", sp.Integer(1), layer)
        assert off.subs(e, c) == block  # one equation for both
        rows += [equation(kernel[c, e], off), equation(d[c], own)]
        off, block, own = saddle("H", "d", push(layer, above, layered), above)
        assert off.subs(e, c) == block
        rows += [equation(tilde[c, e], off), equation(delta[c], own)]
    # <a g_b> + tau t = y, integrated by parts in a.
    top_off, _, top_own = saddle("k", "delta", sp.Integer(1), last)
    match = READOUT_VARIANCE * (sp.Sum(top_off * SIZE[e] * T[e, q], (e, 1, C)) + top_own * T[c, q]) + TAU * T[c, q]
    rows.append(equation(Y[c, q], match))
    second = second_derivatives(layered) if jacobian else ()
    return DeepEquations(depth, saddle_action(layered), definitions, tuple(rows), second)


def of_network(found: DeepEquations, phi: sp.Expr, variable: sp.Symbol, beta: float) -> DeepEquations:
    """With what its symbols stand for in a network: phi, its first layer, the exponent of the readouts' prior."""
    exponent = sp.nsimplify(beta, rational=True, tolerance=1e-12)
    trace = (
        r"\sum_{c, e} n_{c} n_{e} \tilde{k}_{\ell, c e} \bar{K}_{\ell, c e} + \sum_{c} n_{c} \left[ d_{\ell, c}"
        r" \tilde{k}_{\ell, c c} + \tilde{\delta}_{\ell, c} (\bar{K}_{\ell, c c} + d_{\ell, c}) \right]"
    )
    rows = (
        equation(r"\varphi(z)", phi.subs(variable, sp.Symbol("z", real=True))),
        equation(r"\operatorname{tr} \tilde{K}_{\ell} K_{\ell}", written(trace)),
        equation(
            r"g_{b}, \; g_{h}, \; g_{bb}, \ldots", written(r"\partial_b g, \; \partial_h g, \; \partial_b^2 g, \ldots")
        ),
        equation(r"\bar{K}_{0}, \; d_{0}", written(r"0, \; 1")),
        equation(
            READOUT_VARIANCE, sp.Symbol("sigma_a", positive=True) ** 2 / sp.Symbol("P", positive=True) ** exponent
        ),
    )
    return replace(found, definitions=(*found.definitions, *rows))


def one_loop_equations() -> tuple[sp.Eq, ...]:
    """Second derivatives of ln Z by perturbations of the samples of a class, in sample functions, and some of these."""
    rows = [
        equation(
            r"\partial_{\tilde{\kappa}_{e}}, \; \partial_{\tau_{q}}, \; \partial_{\tilde{\delta}}, \;"
            r" \partial_{\kappa_{e}}, \; \partial_{d}",
            written(
                r"\sum_{\mu} u_{\mu} \partial_{b_{\mu}} \partial_{b_{e}}, \;"
                r" a_{q} \sum_{\mu} u_{\mu} \partial_{b_{\mu}}, \;"
                r" \sum_{\mu} u_{\mu} \partial_{\tilde{\delta}_{\mu}}, \;"
                r" \sigma_w^2 \sum_{\mu} u_{\mu} \partial_{h_{\mu}} \partial_{h_{e}}, \;"
                r" \sigma_w^2 \sum_{\mu} u_{\mu} \partial_{d_{\mu}}"
            ),
        ),
        equation(
            r"\Big( \sum_{\mu} u_{\mu} \partial_{x_{\mu}} \Big) \Big( \sum_{\mu} u_{\mu} \partial_{y_{\mu}} \Big)"
            r" \partial_{b_{c}}^{i} \partial_{h_{c}}^{j} e^{n_{c} g_{c}}",
            written(r"e^{n_{c} g_{c}} S_{x y; \ldots}"),
        ),
        equation(
            r"\partial_{\tilde{K}_{u v}}^2, \; \partial_{\tilde{K}_{u v}} \partial_{K_{u v}}, \; \partial_{K_{u v}}^2"
            r" \ln Z",
            written(
                r"\left\langle {g_{bb}}_{c} {g_{bb}}_{e} \right\rangle, \;"
                r" \sigma_w^2 \left\langle {g_{bh}}_{c} {g_{bh}}_{e} \right\rangle, \;"
                r" \sigma_w^4 \left\langle {g_{hh}}_{c} {g_{hh}}_{e} \right\rangle"
            ),
        ),
    ]
    letters = ("b", "h", r"\delta ", "d")
    for key in sample_keys():
        if max(key[:2]) < 2 or key in {(0, 2, 0, 0), (2, 2, 0, 0), (2, 3, 0, 0)}:
            name = "".join(letters[axis] for axis in key[:2])
            more = "b" * key[2] + "h" * key[3]
            rows.append(equation(f"S_{{{name}{'; ' + more if more else ''}}}", sample_function(key)))
    return tuple(rows)


def second_derivatives(layered: bool = False) -> tuple[sp.Eq, ...]:
    """Second derivatives of ln Z in class functions, and the simplest of these."""
    sigma = r"\sigma_{\ell + 1}" if layered else r"\sigma_w"
    general = (
        r"\left\langle A_{\theta\theta'} \right\rangle - \left\langle A_{\theta} \right\rangle"
        r" \left\langle A_{\theta'} \right\rangle"
    )
    rows = [
        equation(r"\frac{\partial^2 \ln Z}{\partial \theta \, \partial \theta'}", written(general)),
        equation(
            r"A_{\theta \ldots}", written(r"\prod_{c} e^{-n_{c} g_{c}} \, \partial_{\theta} \cdots \, e^{n_{c} g_{c}}")
        ),
        equation(
            r"\partial_{\tilde{k}_{ce}}, \; \partial_{\bar{K}_{ce}}, \; \partial_{t_{cq}}",
            written(
                r"\left(1 - \tfrac{1}{2} \delta_{ce}\right) \partial_{b_{c}} \partial_{b_{e}}, \;"
                rf" {sigma}^2 "
                r"\left(1 - \tfrac{1}{2} \delta_{ce}\right) \partial_{h_{c}} \partial_{h_{e}}, \;"
                r" a_{q} \partial_{b_{c}}"
            ),
        ),
    ]
    letters = ("b", "h", r"\delta", "d")
    for key in class_keys():
        if 0 < sum(key[:2]) + 2 * sum(key[2:]) <= 2:
            name = "".join(letter * order for letter, order in zip(letters, key))
            rows.append(equation(f"A_{{{name}}}", class_function(key)))
    rows.append(equation("A_{bbbb}", class_function((4, 0, 0, 0))))
    rows.append(equation(r"A_{\delta d}", class_function((0, 0, 1, 1))))
    return tuple(rows)
