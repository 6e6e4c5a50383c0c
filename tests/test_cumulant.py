"""G(kappa) and its derivatives: direct evaluation against closed forms and mpmath, table against direct evaluation."""

import functools
import itertools
import os
import subprocess
import sys

import mpmath
import numpy as np
import pytest
import sympy as sp

from meanfield.activations.activation import Activation, activation
from meanfield.activations.cumulant import Cumulant, cumulant
from meanfield.numerics.cumulant_table import cumulant2, cumulant4, direct2, direct4, direct_many, in_range

Z = sp.Symbol("z")
SOFTSIGN = Z / (1 + sp.Abs(Z))
# (nonlinearity, parameters, k): every built-in, and some of them where they are stiff.
PIECEWISE = [
    ("linear", {"gain": 0.7}, 1.3),
    ("step", {}, 1.0),
    ("relu", {}, 1.0),
    ("relu", {"gain": 3.0}, 0.2),
    ("leaky_relu", {"slope": 0.3}, 1.0),
    ("leaky_relu", {"slope": -0.5}, 2.0),
    ("hard_sigmoid", {}, 1.0),
    ("hard_sigmoid", {"gain": 4.0}, 1.0),
    ("hard_tanh", {"gain": 0.3}, 0.5),
]
SMOOTH = [
    ("sigmoid", {}, 1.0),
    ("sigmoid", {"gain": 30.0}, 2.0),
    ("logistic", {}, 1.0),
    ("erf", {"gain": 0.2}, 1.0),
    ("tanh", {}, 3.0),
    ("softplus", {}, 1.0),
    ("softplus", {"gain": 4.0}, 0.3),
    ("gelu", {}, 1.0),
]
KAPPAS = [1e-3, 0.3, 2.0, 17.0, 300.0, 4e3, 1e5]


def signed(values):
    return [s * x for x in values for s in (1.0, -1.0)]


def close(value, expected, tolerance=1e-14):
    """Relative to max(1, |expected|), as the errors of the table are given."""
    return abs(mpmath.mpf(value) - expected) <= tolerance * max(1, abs(expected))


@pytest.mark.parametrize(("name", "parameters", "k"), PIECEWISE)
def test_direct_evaluation_against_the_closed_form(name, parameters, k):
    """G in closed form from SymPy, its derivatives by mpmath's differentiation of that closed form."""
    one = cumulant(activation(name, **parameters), k)
    kappa = sp.Symbol("kappa", real=True)
    steep = k * max(map(abs, one.activation.pieces.slopes)) ** 2
    closed_form = sp.lambdify(kappa, one.closed_form, "mpmath")
    for x in signed([1e-3, 0.3, 2.0, 9.0]):
        # exp(kappa^2 / 2) times a tail of the normal law: as many digits as it takes.
        with mpmath.workdps(80 + int(x * x * steep / 4)):
            exact = [c * mpmath.factorial(d) for d, c in enumerate(mpmath.taylor(closed_form, mpmath.mpf(x), 4))]
        found = direct4(one.direct_data, x)
        spread = max(1.0, one.table.scale)
        for d in range(5):
            assert close(found[d], exact[d], 4e-14 * spread ** max(0, d - 2)), (x, d, found[d], exact[d])


@pytest.mark.parametrize(("name", "parameters", "k"), PIECEWISE)
def test_direct_evaluation_far_out(name, parameters, k):
    """Up to kappa = 1e5 against asymptotic forms: the largest piece, up to its boundary layer."""
    phi = activation(name, **parameters)
    one = cumulant(phi, k)
    ends = [-np.inf, *phi.kinks, np.inf]
    with mpmath.workdps(40):
        for x in signed([4e3, 1e5]):
            kappa, root, total = mpmath.mpf(x), mpmath.sqrt(mpmath.mpf(k)), []
            for alpha, beta, low, high in zip(phi.pieces.intercepts, phi.pieces.slopes, ends, ends[1:]):
                d = kappa * mpmath.mpf(beta) * root
                low_d, high_d = (mpmath.mpf(v) / root - d for v in (low, high))
                # ln [Phi(high_d) - Phi(low_d)], mirrored so that both are small numbers
                if low_d > 0:
                    low_d, high_d = -high_d, -low_d
                mass = _log_phi(high_d) + mpmath.log1p(-mpmath.exp(_log_phi(low_d) - _log_phi(high_d)))
                total.append(kappa * mpmath.mpf(alpha) + d * d / 2 + mass)
            top = max(total)
            exact = top + mpmath.log(sum(mpmath.exp(v - top) for v in total))
            assert close(direct2(one.direct_data, x)[0], exact)


def _log_phi(x):
    """ln of the standard normal distribution function, by its continued fraction far out."""
    if x == mpmath.inf:
        return mpmath.mpf(0)
    if x == -mpmath.inf:
        return -mpmath.inf
    if x > -20:
        return mpmath.log(mpmath.ncdf(x))
    fraction = mpmath.mpf(0)
    for n in range(200, 0, -1):
        fraction = n / (-x + fraction)
    return -x * x / 2 - mpmath.log(mpmath.sqrt(2 * mpmath.pi)) - mpmath.log(-x + fraction)


@pytest.mark.parametrize(("name", "parameters", "k"), SMOOTH)
@pytest.mark.parametrize("kappa", signed([0.3, 17.0, 300.0]))
def test_direct_evaluation_against_mpmath_quadrature(name, parameters, k, kappa):
    """Log mass, mean and central moments of phi under the tilted law, by mpmath's own quadrature."""
    phi = activation(name, **parameters)
    exact = _moments(phi, k, kappa)
    one = cumulant(phi, k)
    found = direct4(one.direct_data, kappa)
    for d in range(5):
        assert close(found[d], exact[d], 2e-14 * max(1.0, one.table.scale) ** d), (d, found[d], exact[d])


@functools.lru_cache(maxsize=1)
def _gauss_legendre():
    """Nodes and weights of order 30 to 30 digits: numpy's, polished by Newton."""
    with mpmath.workdps(30):
        nodes = []
        for x in np.polynomial.legendre.leggauss(30)[0]:
            x = mpmath.mpf(x)
            for _ in range(3):
                p, q = mpmath.legendre(30, x), mpmath.legendre(29, x)
                slope = 30 * (x * p - q) / (x * x - 1)
                x -= p / slope
            nodes.append((x, 2 / ((1 - x * x) * slope**2)))
        return nodes


def _moments(phi, k, kappa):
    """G and its derivatives by composite quadrature in 25 digits where the tilted law lives."""
    grid = np.linspace(-700.0, 700.0, 28001)
    heights = kappa * phi(np.sqrt(k) * grid) - grid * grid / 2
    inside = grid[heights > heights.max() - 70]
    points = np.arange(inside[0] - 0.5, inside[-1] + 0.75, 0.5)
    # Around the origin phi may vary on a scale of 1/30.
    points = np.unique([*points, *(x for x in np.linspace(-0.25, 0.25, 11) if points[0] < x < points[-1])])
    with mpmath.workdps(25):
        exact = sp.lambdify(phi.symbol, phi.expression, "mpmath")
        root, top = mpmath.sqrt(mpmath.mpf(k)), mpmath.mpf(heights.max())
        terms = []
        for a, b in itertools.pairwise(points):
            for x, w in _gauss_legendre():
                z = mpmath.mpf(a) + (b - a) / 2 * (1 + x)
                value = exact(root * z)
                terms.append((mpmath.exp(kappa * value - z * z / 2 - top) * w * (b - a) / 2, value))
        mass = mpmath.fsum(w for w, _ in terms)
        mean = mpmath.fsum(w * v for w, v in terms) / mass
        second, third, fourth = (mpmath.fsum(w * (v - mean) ** n for w, v in terms) / mass for n in (2, 3, 4))
        return top + mpmath.log(mass / mpmath.sqrt(2 * mpmath.pi)), mean, second, third, fourth - 3 * second**2


@pytest.mark.parametrize(("name", "parameters", "k"), [*PIECEWISE, *SMOOTH, ("softsign", {}, 1.0), ("sine", {}, 1.0)])
def test_table_against_direct_evaluation(name, parameters, k):
    users = {"softsign": SOFTSIGN, "sine": sp.sin(Z)}
    phi = Activation(users[name], Z) if name in users else activation(name, **parameters)
    one = cumulant(phi, k)
    table, direct = one.table, one.direct_data
    assert one.error <= 1e-13
    steepest = max(map(abs, phi.slopes))
    assert table.kappa_max >= (1e6 if phi.piecewise_linear or steepest == 0.0 else 200.0 / (steepest * np.sqrt(k)))
    rng = np.random.default_rng(0)
    kappa = np.concatenate([10.0 ** rng.uniform(-4, np.log10(table.kappa_max), 300), rng.uniform(0, 30, 300)])
    for x in signed([*kappa, 0.0, table.kappa_max]):
        g = direct4(direct, x)
        for d, value in enumerate(cumulant4(table, x)):
            bound = 1e-13 if d < 3 else 1e-11 * max(1.0, table.scale) ** d
            assert abs(value - g[d]) <= bound * max(1.0, abs(g[d])), (x, d)
        assert cumulant2(table, x) == cumulant4(table, x)[:3]


@pytest.mark.parametrize("name", ["sigmoid", "logistic", "step", "hard_sigmoid", "tanh", "erf", "hard_tanh"])
def test_complement_symmetry(name):
    """G(-kappa) = G(kappa) - 2 c kappa for phi(-z) = 2 c - phi(z)."""
    phi = activation(name)
    table = cumulant(phi, 0.8).table
    for x in KAPPAS:
        (g, g1, g2), (h, h1, h2) = cumulant2(table, x), cumulant2(table, -x)
        assert h == pytest.approx(g - 2 * phi.complement * x, rel=1e-13, abs=1e-13 * x)
        assert h1 == pytest.approx(2 * phi.complement - g1, abs=1e-13)
        assert h2 == pytest.approx(g2, abs=1e-13)


def test_known_values():
    """v_0 = G''(0) of phases/THEORY.md, "Finite temperature", and elementary cases."""
    assert cumulant2(cumulant(activation("sigmoid")).table, 0.0)[2] == pytest.approx(0.104619345428, abs=5e-13)
    for k in (0.3, 4.0):
        v0 = np.arcsin(k * np.pi / (2 + k * np.pi)) / (2 * np.pi)
        assert cumulant2(cumulant(activation("sigmoid"), k).table, 0.0)[2] == pytest.approx(v0, abs=1e-14)
    step = cumulant(activation("step")).table
    assert cumulant2(step, 3.0)[0] == pytest.approx(np.log((1 + np.exp(3.0)) / 2), abs=1e-14)
    assert cumulant4(cumulant(activation("linear")).table, 7.0) == pytest.approx((24.5, 7.0, 1.0, 0.0, 0.0), abs=1e-13)


@pytest.mark.parametrize("k", [1.0, 1.69, 0.3])
@pytest.mark.parametrize("slope", [0.0, 0.14, 0.3, 0.38, 0.46, -0.22])
def test_nothing_is_left_of_a_homogeneous_function_far_out(slope, k):
    """R = G - growth kappa^2 / 2 is smaller than any number there; rounding of slope^2 times kappa^2 is not."""
    table = cumulant(activation("leaky_relu", slope=slope), k).table
    for i in np.flatnonzero(np.abs(table.centre) > 200.0 / np.sqrt(k)):
        if table.growth_minus > 0.0 or table.centre[i] > 0.0:  # of ReLU R falls without end on the other side
            u = np.linspace(-1.0, 1.0, 5)
            rest = np.polyval(table.coefficients[i, 0][::-1], u)
            assert np.abs(rest + table.line[i] * (table.centre[i] + u / table.inverse[i])).max() < 4e-15


def test_beyond_the_reach():
    one = cumulant(activation("softplus"))
    reach = one.table.kappa_max
    assert in_range(one.table, reach)
    assert not in_range(one.table, 1.01 * reach)
    # phi is its asymptote z there, to all digits; one whose G does not grow quadratically has no such line.
    g, g1, g2 = one.direct([1.01 * reach, 12.0 * reach])
    at = np.array([1.01 * reach, 12.0 * reach])
    np.testing.assert_allclose([g, g1, g2], [at**2 / 2, at, np.ones(2)], rtol=1e-15)
    assert np.isnan(one.direct([-1.01 * reach])[0]).all()
    bounded = cumulant(activation("sigmoid"))
    assert np.isnan(bounded.direct([1.01 * bounded.direct_data.kappa_max])[0]).all()
    # G'' of the asymptote, and G continued with the slope it has at the end.
    g, g1, g2 = cumulant2(one.table, 2 * reach)
    assert g == pytest.approx(2 * reach**2, rel=1e-12)
    assert g1 == pytest.approx(2 * reach, rel=1e-12)
    assert g2 == pytest.approx(1.0, abs=1e-10)


def test_asymptote_of_a_function_with_an_offset():
    """phi = z - 1 + e^-z for z > 0: R = -kappa far out, and so is the rule where it ends."""
    z = sp.Symbol("z", real=True)
    one = cumulant(Activation(sp.Piecewise((z - 1 + sp.exp(-z), z > 0), (0, True)), z))
    edge = one.direct_data.kappa_max
    for at in (0.999 * edge, 1.5 * edge):
        g, g1, g2 = (float(value[0]) for value in one.direct([at]))
        assert g - at**2 / 2 == pytest.approx(-at, rel=1e-10)
        assert (g1, g2) == pytest.approx((at - 1.0, 1.0), rel=1e-13)


def test_arrays_and_density():
    one = cumulant(activation("sigmoid"), 0.7)
    kappa = np.array([[0.0, 2.0], [-3.0, 40.0]])
    g, g1, g2 = one.direct(kappa)
    assert g.shape == g1.shape == g2.shape == (2, 2)
    assert direct_many(one.direct_data, kappa.ravel())[3] == pytest.approx((g[1, 1], g1[1, 1], g2[1, 1]), abs=0)
    z = np.linspace(-9.0, 9.0, 4001)
    for i in np.ndindex(2, 2):
        density = one.tilted_density(kappa[i], z)
        assert np.trapezoid(density, z) == pytest.approx(1.0, abs=1e-12)
        assert np.trapezoid(density * one.activation(z), z) == pytest.approx(g1[i], abs=1e-12)
    assert one.closed_form is None
    assert "error" in repr(one)
    assert cumulant(activation("sigmoid"), 0.7) is one


@pytest.mark.parametrize("k", [0.0, -1.0, np.nan, np.inf])
def test_bad_variance(k):
    with pytest.raises(ValueError, match="must be positive and finite"):
        cumulant(activation("tanh"), k)


def test_too_much_oscillation_is_refused_or_cut():
    ripple = Cumulant(Activation(Z + sp.sin(Z), Z), 1.0)
    assert ripple.error <= 1e-13
    assert 10.0 < ripple.table.kappa_max < 100.0
    with pytest.raises(ValueError, match="oscillates too fast"):
        Cumulant(Activation(sp.sin(100000 * Z), Z), 1.0)


def test_without_compilation():
    code = (
        "from meanfield.activations.activation import activation; from meanfield.activations.cumulant import cumulant;"
        "from meanfield.numerics.cumulant_table import cumulant2, direct2, fill_table;"
        "c = cumulant(activation('step'), 1.0);"
        "assert type(fill_table).__name__ == 'function';"
        "print(*cumulant2(c.table, 2.0), *direct2(c.direct_data, 2.0))"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
    )
    values = [float(x) for x in run.stdout.split()]
    expected = [np.log((1 + np.exp(2.0)) / 2), 1 / (1 + np.exp(-2.0)), np.exp(2.0) / (1 + np.exp(2.0)) ** 2]
    assert values == pytest.approx(2 * expected, abs=1e-14)
