"""Symbolic layer: derived equations against plain differentiation, generated source, closed forms, LaTeX."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.integrate
import sympy as sp

from meanfield.activations.activation import Activation, activation
from meanfield.activations.cumulant import cumulant
from meanfield.activations.generate import files
from meanfield.numerics.cumulant_table import cumulant4
from meanfield.symbolic import action as theory
from meanfield.symbolic import equations
from meanfield.symbolic.index import (
    Average,
    CumulantChange,
    CumulantFunction,
    GrowthChange,
    GrowthFunction,
    contract,
    differentiate,
    explicit,
)
from meanfield.theories.single_layer.compiled.generated import action as compiled
from meanfield.theories.single_layer.compiled.generated import stationarity

SIZES = {theory.m: 2, theory.C: 3, theory.n: 2, theory.n_out: 2}


def written_out(expression, **indices):
    """An index expression at the sizes above and the given values of free indices."""
    free = {getattr(theory, name): value for name, value in indices.items()}
    return explicit(theory.without_kappa(expression), SIZES, free)


@pytest.fixture(scope="module")
def generated():
    """Path and text of what is derived."""
    return files()


def test_generated_files_are_up_to_date(generated):
    """Byte for byte; `python -m meanfield.activations.generate` rewrites them."""
    assert len(generated) == 5
    for path, text in generated.items():
        assert path.read_bytes() == text.encode(), path.name


# Compiled action ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["sigmoid", "relu"])
def point(request):
    """Table, arrays and the numerical values of the explicit SymPy symbols at a random point."""
    rng = np.random.default_rng(1)
    table = cumulant(activation(request.param), 0.8).table
    p, t, a = np.array([0.5, 0.2, 0.3]), rng.normal(size=(3, 2)), rng.normal(size=2)
    values = {theory.p[c + 1]: p[c] for c in range(3)} | {theory.a[r + 1]: a[r] for r in range(2)}
    values |= {theory.t[c + 1, r + 1]: t[c, r] for c in range(3) for r in range(2)} | {theory.sigma_a: 1.0}
    return table, p, t, a, values


def number(expression, values, table):
    """Value of an explicit expression, G from the table."""
    expression = expression.subs(values)
    cumulants = expression.atoms(CumulantFunction)
    return float(expression.subs({g: cumulant4(table, float(g.args[1]))[int(g.args[0])] for g in cumulants}))


def test_compiled_action_against_plain_differentiation(point):
    """Each entry against SymPy's derivative of h written out for C = 3, m = 2 by that very component."""
    table, p, t, a, values = point
    h = written_out(theory.action())
    grad, minus_hess, first, second = np.empty(2), np.empty((2, 2)), np.empty(3), np.empty(3)
    height = number(h, values, table)
    assert height_of(table, p, t, a) == pytest.approx(height, abs=1e-14)
    assert compiled.action_hessian(table, p, t, a, grad, minus_hess) == pytest.approx(height, abs=1e-14)
    assert compiled.action_fields(table, p, t, a, first, second) == pytest.approx(height, abs=1e-14)
    fields = np.empty((5, 3))
    assert compiled.action_fields4(table, p, t, a, *fields) == pytest.approx(height, abs=1e-14)
    np.testing.assert_array_equal(fields[1:3], [first, second])
    by_t, by_a, dh_dt, same = np.empty((1, 2, 3, 2)), np.empty((1, 2, 2)), np.empty((1, 3, 2)), np.zeros((3, 2, 2))
    fields1 = fields[1][None], fields[2][None]
    stationarity.neuron_jacobian(*fields1, p, t, a[None], np.array([0.7]), by_t, by_a, dh_dt, same)
    stiffness, pull = np.empty((2, 2)), np.empty(2)
    stationarity.minus_hessian(fields[2], t, stiffness)
    stationarity.field_gradient(fields[1], t, pull)
    A, T = theory.a, theory.t
    for r, s in itertools.product(range(2), repeat=2):
        assert grad[r] == pytest.approx(number(h.diff(A[r + 1]), values, table), abs=1e-14)
        assert pull[r] - a[r] == pytest.approx(grad[r], abs=1e-14)
        hessian = number(h.diff(A[r + 1], A[s + 1]), values, table)
        for found in (-minus_hess[r, s], by_a[0, r, s], -stiffness[r, s]):
            assert found == pytest.approx(hessian, abs=1e-14)
        for c in range(3):
            exact = number(h.diff(A[r + 1], T[c + 1, s + 1]), values, table)
            assert by_t[0, r, c, s] == pytest.approx(exact, abs=1e-14)
            exact = 0.7 * number(h.diff(T[c + 1, r + 1], T[c + 1, s + 1]), values, table) / p[c]
            assert same[c, r, s] == pytest.approx(exact, abs=1e-14)
            assert dh_dt[0, c, s] == pytest.approx(number(h.diff(T[c + 1, s + 1]), values, table), abs=1e-14)
    assert number(h.diff(T[1, 1], T[2, 1]), values, table) == 0.0


def test_compiled_gradient_against_differences(point):
    """Independent of SymPy: fourth-order differences of the compiled h itself."""
    table, p, t, a, _ = point
    grad, minus_hess = np.empty(2), np.empty((2, 2))
    compiled.action_hessian(table, p, t, a, grad, minus_hess)
    step = 1e-3
    for r in range(2):
        e = step * np.eye(2)[r]
        f = [height_of(table, p, t, a + n * e) for n in (-2, -1, 1, 2)]
        assert (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step) == pytest.approx(grad[r], abs=1e-10)


def test_derivatives_along_a_direction(point):
    """d(d2h v) and the third and fourth derivative of h along v, with what they change with."""
    table, p, t, a, values = point
    v = np.array([0.8, -0.6])
    fields = np.empty((5, 3))
    compiled.action_fields4(table, p, t, a, *fields)
    _, _, second, third, fourth = fields
    curved_by_t, curved_by_a = np.empty((2, 3, 2)), np.empty((2, 2))
    stationarity.curvature_along(second, third, t, a, v, t @ v, curved_by_t, curved_by_a)
    by_t, by_a, by_v = np.empty((3, 2)), np.empty(2), np.empty(2)
    cubic, quartic = stationarity.cubic_along(third, fourth, t, a, v, t @ v, by_t, by_a, by_v)
    A, T = (theory.a[1], theory.a[2]), theory.t
    h = written_out(theory.action())
    V = sp.symbols("v1 v2")
    values = values | dict(zip(V, v))

    def along(order):
        return sum(sp.prod(V[i] for i in index) * h.diff(*(A[i] for i in index)) for index in _indices(order))

    third_along = along(3)
    curved = [sum(V[i] * h.diff(A[r], A[i]) for i in range(2)) for r in range(2)]
    assert cubic == pytest.approx(number(third_along, values, table), abs=1e-13)
    assert quartic == pytest.approx(number(along(4), values, table), abs=1e-13)
    for r in range(2):
        assert by_a[r] == pytest.approx(number(third_along.diff(A[r]), values, table), abs=1e-13)
        assert by_v[r] == pytest.approx(number(third_along.diff(V[r]), values, table), abs=1e-13)
        for s in range(2):
            assert curved_by_a[r, s] == pytest.approx(number(curved[r].diff(A[s]), values, table), abs=1e-13)
            for c in range(3):
                exact = number(curved[r].diff(T[c + 1, s + 1]), values, table)
                assert curved_by_t[r, c, s] == pytest.approx(exact, abs=1e-13)
        for c in range(3):
            exact = number(third_along.diff(T[c + 1, r + 1]), values, table)
            assert by_t[c, r] == pytest.approx(exact, abs=1e-13)


def height_of(table, p, t, a):
    return compiled.action_fields(table, p, t, a, np.empty(len(p)), np.empty(len(p)))


def _indices(order):
    return itertools.product(range(2), repeat=order)


def test_cost_and_growth(point):
    """The cost is the Legendre transform that the primal value needs; q and its derivatives by kappa."""
    _, p, t, a, _ = point
    direct = cumulant(activation("tanh")).direct_data
    first, second = np.empty(3), np.empty(3)
    h, cost = compiled.action_direct(direct, p, t, a, first)
    assert cost == pytest.approx(first @ (t @ a) - h, abs=1e-14)
    value = compiled.growth_fields(2.0, 0.5, p, t, a, first, second)
    kappa = t @ a
    growth = np.where(kappa > 0, 2.0, 0.5)
    assert value == pytest.approx(0.5 * p @ (growth * kappa**2), abs=1e-14)
    np.testing.assert_allclose(first, p * growth * kappa, atol=1e-14)
    np.testing.assert_allclose(second, p * growth, atol=1e-14)


def test_generated_functions_have_callers(generated):
    """What is derived is what runs: every generated function is used by the package, not only by tests."""
    package = Path(stationarity.__file__).parents[4]
    sources = {path: path.read_text() for path in package.rglob("*.py") if "generated" not in path.parts}
    compiled = [path for path in generated if "generated" in path.parts]
    assert len(compiled) == 4
    for path in compiled:
        for name in re.findall(r"^def (\w+)\(", path.read_text(), re.MULTILINE):
            room = ".".join(path.relative_to(package).parts[:-1])
            callers = [p.name for p, text in sources.items() if _calls(text, room, path.stem, name)]
            assert callers, f"{path.name}: {name} has no caller"


def _calls(text, room, module, name):
    start = rf"from meanfield\.{re.escape(room)}"
    imported = re.search(rf"{start}\.{module} import [^)]*?\b{name}\b", text)
    named = re.search(rf"{start} import {module} as (\w+)", text)
    return bool(imported and re.search(rf"\b{name}\(", text)) or bool(named and f"{named[1]}.{name}(" in text)


# Equations --------------------------------------------------------------------------------------------------------

# The components of each unknown or control parameter at the sizes above, with the values of its indices.
COMPONENTS = {
    "t": [{"e": e, "s": s} for e in (1, 2, 3) for s in (1, 2)],
    "a": [{"beta": b, "s": s} for b in (1, 2) for s in (1, 2)],
    "P": [{"beta": b} for b in (1, 2)],
    "s": [{}],
    "abar": [{"j": j, "s": s} for j in (1, 2) for s in (1, 2)],
    "y": [{"e": e, "s": s} for e in (1, 3) for s in (1, 2)],
    "p": [{"e": e} for e in (1, 2)],
    "tau": [{}],
    "sigma_a": [{}],
}
ROWS = [{"alpha": 2, "r": 1}, {"alpha": 1}, {}, {"d": 3, "r": 2}, {"i": 2, "r": 1}]


@pytest.mark.parametrize("name", ["sigmoid", "relu"])
def test_jacobian_against_plain_differentiation(name):
    """The index-form Jacobian, written out, is SymPy's derivative of the written-out equations, entry by entry."""
    found = equations(activation(name))
    assert ("abar" in found.unknowns) is (name == "relu")
    assert set(found.jacobian) == set(itertools.product(range(len(found.stationarity)), found.unknowns))
    for (row, name_), entry in found.jacobian.items():
        if name_ not in COMPONENTS:
            assert name_ in ("k", "gain")  # G and g depend on them: below
            continue
        equation = found.stationarity[row]
        residual = written_out(equation.lhs - equation.rhs, **ROWS[row])
        for indices in COMPONENTS[name_]:
            by = written_out(found.unknowns[name_], **indices)
            difference = residual.diff(by) - written_out(entry, **ROWS[row], **indices)
            assert sp.expand(difference) == 0, (row, name_, indices)


@pytest.mark.parametrize("name", ["k", "gain"])
def test_jacobian_by_parameters_of_G(name):
    """With formulas put in for G and g, the derivative by k or the gain is that of the equation."""
    found = equations(activation("relu"))
    x, gain = found.cumulant.lhs.args[1], found.parameters[0]
    cumulant_formula = gain * theory.k**2 * x**4 + theory.k * gain**3 * x**3
    growth = next(d for d in found.definitions if isinstance(d.lhs, GrowthFunction)).rhs.subs(sp.Max(0, x), x)
    growth = growth.subs(sp.Max(0, -x), 0)  # on the side where it grows
    parameter = found.unknowns[name]

    def put_in(expression):
        for function, change, closed in (
            (CumulantFunction, CumulantChange, cumulant_formula),
            (GrowthFunction, GrowthChange, growth),
        ):
            expression = expression.replace(function, lambda n, at, g=closed: g.diff(x, int(n)).subs(x, at))
            expression = expression.replace(change, lambda n, at, by, g=closed: g.diff(x, int(n), by).subs(x, at))
        return expression

    for row, indices in enumerate(ROWS):
        equation = found.stationarity[row]
        residual = put_in(written_out(equation.lhs - equation.rhs, **indices))
        difference = residual.diff(parameter) - put_in(written_out(found.jacobian[row, name], **indices))
        assert sp.expand(difference) == 0


def test_hessian_is_the_second_derivative_of_the_lagrangian():
    found = equations(activation("relu"))
    total = written_out(found.objective)
    for (d, r), (e, s) in itertools.product(itertools.product((1, 3), (1, 2)), repeat=2):
        plain = total.diff(theory.t[d, r], theory.t[e, s])
        assert sp.expand(plain - written_out(found.hessian, d=d, r=r, e=e, s=s)) == 0
    # The order-parameter equation is dL/dt_dr / p_d; the equation for the readouts, dL/da / P.
    match = found.stationarity[3]
    assert sp.expand(total.diff(theory.t[3, 1]) / theory.p[3] - written_out(match.lhs - match.rhs, d=3, r=1)) == 0
    gradient = written_out(found.stationarity[0].lhs, alpha=2, r=1)
    assert sp.expand(total.diff(theory.a[2, 1]) / theory.P[2] - gradient) == 0


def test_what_is_solved_for_which_growth():
    assert equations(activation("sigmoid")).constraint is None
    leaky = equations(activation("leaky_relu", slope=0.3))
    growth = next(d for d in leaky.definitions if isinstance(d.lhs, GrowthFunction))
    slope, kappa = leaky.parameters[0], growth.lhs.args[1]
    assert [growth.rhs.subs({slope: 0.3, kappa: x}) for x in (2, -2)] == pytest.approx([4.0, 0.36])
    linear = equations(activation("linear"))
    assert "M" in linear.unknowns
    gain, kappa = linear.parameters[0], linear.cumulant.lhs.args[1]
    assert sp.expand(linear.cumulant.rhs - theory.k * (gain * kappa) ** 2 / 2) == 0
    assert len(equations(activation("sigmoid"), 200.0).stationarity) == 1
    assert equations(activation("step")).cumulant.rhs.subs(sp.Symbol("kappa", real=True), 0) == 0


def test_linear_equations_hold_for_the_closed_form():
    """m = 1, p = 1/2, y = (1, u): t_c = y_c / (k M), with k sum p t^2 = 1 / sigma_a^2 (linear/THEORY.md)."""
    found = equations(activation("linear"))
    u, k, sigma = 0.4, 0.7, 1.3
    moment = sigma * np.sqrt(0.5 * (1 + u * u) / k)
    M = next(x for x in found.stationarity[0].lhs.atoms(sp.Indexed) if str(x.base) == "M").base
    values = {theory.p[c]: 0.5 for c in (1, 2)} | {theory.y[1, 1]: 1.0, theory.y[2, 1]: u}
    values |= {theory.tau: 0, M[1, 1]: moment}
    values |= {theory.t[c, 1]: y / (k * moment) for c, y in ((1, 1.0), (2, u))}
    values |= {theory.k: k, theory.sigma_a: sigma, found.parameters[0]: 1}
    for row, indices in ((0, {theory.u: 1, theory.s: 1}), (1, {theory.d: 2, theory.r: 1})):
        equation = found.stationarity[row]
        residual = explicit(equation.lhs - equation.rhs, {theory.m: 1, theory.C: 2}, indices)
        assert abs(float(residual.subs(values))) < 1e-14


def test_finite_hessian_and_jacobian_against_differences_of_J():
    """One output, two classes: J(t) by integrating over a on a grid, its derivatives by differences."""
    found = equations(activation("sigmoid"), 7.0)
    table = cumulant(activation("sigmoid")).table
    P, sigma, tau, p, y = 7.0, 1.2, 0.3, np.array([0.6, 0.4]), np.array([1.0, -0.5])
    grid = np.linspace(-9.0, 9.0, 3001)

    def log_weight(t, p, sigma):
        h = [-(x**2) / (2 * sigma**2) + p @ [cumulant4(table, x * tc)[0] for tc in t] for x in grid]
        return P * np.array(h)

    def objective(t, p=p, sigma=sigma):
        w = log_weight(t, p, sigma)
        z = np.log(np.trapezoid(np.exp(w - w.max()), grid) * np.sqrt(P / (2 * np.pi)) / sigma) + w.max()
        return -p @ (t * y) + tau / 2 * p @ t**2 + z / P

    t = np.array([0.8, -1.1])
    weight = np.exp(log_weight(t, p, sigma))
    weight /= weight.sum()
    values = {theory.p[c + 1]: p[c] for c in range(2)} | {theory.t[c + 1, 1]: t[c] for c in range(2)}
    values |= {theory.y[c + 1, 1]: y[c] for c in range(2)}
    values |= {theory.tau: tau, theory.n_samples: P, theory.sigma_a: sigma}

    def evaluate(expression, **indices):
        free = {getattr(theory, name): value for name, value in indices.items()}
        plain = explicit(theory.without_kappa(expression), {theory.m: 1, theory.C: 2}, free).subs(values)
        averages = {}
        for average in plain.atoms(Average):
            inside = sp.lambdify(theory.a[1], average.args[0], {"CumulantFunction": from_table})
            averages[average] = weight @ [inside(x) for x in grid]
        return float(plain.subs(averages))

    def from_table(order, kappa):
        return cumulant4(table, kappa)[order]

    step = 1e-3
    match = found.stationarity[0]

    def gradient(t, c, **other):
        e = step * np.eye(2)[c]
        f = [objective(t + n * e, **other) for n in (-2, -1, 1, 2)]
        return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step)

    for c in range(2):
        assert evaluate(match.lhs - match.rhs, d=c + 1, r=1) == pytest.approx(gradient(t, c) / p[c], abs=1e-9)
        for d in range(2):
            e = step * np.eye(2)[d]
            second = (gradient(t + e, c) - gradient(t - e, c)) / (2 * step)
            assert evaluate(found.hessian, d=c + 1, r=1, e=d + 1, s=1) == pytest.approx(second, abs=2e-6)
            jacobian = evaluate(found.jacobian[0, "t"], d=c + 1, r=1, e=d + 1, s=1)
            assert jacobian == pytest.approx(second / p[c], abs=4e-6)
        by_sigma = (gradient(t, c, sigma=sigma + step) - gradient(t, c, sigma=sigma - step)) / (2 * step)
        assert evaluate(found.jacobian[0, "sigma_a"], d=c + 1, r=1) == pytest.approx(by_sigma / p[c], abs=4e-6)


def test_index_calculus():
    t, a, r, s, q, m = theory.t, theory.a, theory.r, theory.s, theory.q, theory.m
    assert contract(sp.Sum(sp.KroneckerDelta(q, r) * t[1, q], (q, 1, m))) == t[1, r]
    assert differentiate(sp.Sum(a[q] ** 2, (q, 1, m)), a[r]) == 2 * a[r]
    assert differentiate(a[s], a[r]) == sp.KroneckerDelta(r, s)
    with pytest.raises(ValueError, match="sums over"):
        differentiate(sp.Sum(a[q] ** 2, (q, 1, m)), a[q])
    assert theory.without_kappa(theory.with_kappa(theory.action())) == theory.action()


# Closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("linear", {"gain": 1.7}),
        ("relu", {"gain": 0.8}),
        ("leaky_relu", {"slope": 0.2}),
        ("step", {}),
        ("hard_sigmoid", {"gain": 0.7}),
        ("hard_tanh", {"gain": 1.4}),
    ],
)
def test_closed_form_of_G_against_quadrature(name, parameters):
    """The formula in kappa, k and the parameters of phi, as printed in the equations."""
    phi = activation(name, **parameters)
    found = equations(phi).cumulant
    assert not found.rhs.has(sp.Integral)
    k = 0.6
    formula = found.rhs.subs({theory.k: k} | {s: phi.parameters[s.name] for s in equations(phi).parameters})
    for kappa in (-4.0, -0.3, 0.0, 1.1, 5.0):

        def integrand(z, kappa=kappa):
            return np.exp(kappa * phi(z) - z * z / (2 * k)) / np.sqrt(2 * np.pi * k)

        points = [-12.0, *phi.kinks, 0.0, 12.0]
        mass = sum(scipy.integrate.quad(integrand, *ends, epsabs=0, epsrel=1e-13)[0] for ends in _pairs(points))
        assert float(formula.subs(found.lhs.args[1], kappa)) == pytest.approx(np.log(mass), abs=1e-12)


def _pairs(points):
    return list(itertools.pairwise(sorted(set(points))))


def test_no_closed_form_shows_the_integral():
    z = sp.Symbol("x")
    found = equations(Activation(z / (1 + sp.Abs(z)), z))
    assert found.cumulant.rhs.has(sp.Integral)
    kinked = equations(Activation(sp.Max(sp.Symbol("b") * z, sp.atan(z)), z, parameters={"b": 0.5}))
    assert kinked.parameters == ()  # its kinks have no formula in b, so b is replaced by its value


# LaTeX ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phi", "n_samples"),
    [("sigmoid", np.inf), ("relu", np.inf), ("leaky_relu", np.inf), ("linear", np.inf), ("tanh", 50), ("hard_tanh", 1)],
)
def test_latex_is_well_formed(phi, n_samples):
    text = equations(activation(phi), n_samples).latex()
    opening, closing = "\\begin{align}\n", "\n\\end{align}"
    assert text.startswith(opening)
    assert text.endswith(closing)
    body = text[len(opening) : -len(closing)]
    plain = body.replace("\\{", "").replace("\\}", "")
    depth = np.cumsum([(x == "{") - (x == "}") for x in plain])
    assert depth.min() == 0
    assert depth[-1] == 0
    assert len(re.findall(r"\\left\b", body)) == len(re.findall(r"\\right\b", body)) > 0
    assert re.findall(r"\\begin\{(\w+)\}", body) == re.findall(r"\\end\{(\w+)\}", body)
    rows = body.split(" \\\\\n")
    assert len(rows) >= 6
    for row in rows:
        assert row.count("&") == 1  # one alignment point an equation
        assert "_" not in re.sub(r"_(\{|[a-zA-Z0-9]|\\)", "", row)
    for word in ("gain", "slope"):  # parameters upright, never a product of italic letters
        assert len(re.findall(word, text)) == len(re.findall(rf"\\mathrm{{{word}}}", text))
    assert r"\sigma_{a}^{2}" in text
    assert "G'" in text or phi == "linear"
