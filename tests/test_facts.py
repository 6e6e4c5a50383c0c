"""Facts about nonlinearities given as expressions: right, or refused in words."""

import math
import sys
import threading

import mpmath
import numpy as np
import pytest
import sympy as sp
from scipy.special import log_ndtr, logsumexp

import meanfield as mf
from meanfield.activations.activation import Activation, activation
from meanfield.activations.cumulant import cumulant
from meanfield.activations.nonlinearity import nonlinearity
from meanfield.symbolic import asymptotics
from meanfield.symbolic.checks import check_digits, check_far_out, check_isolated, check_smooth, check_values
from meanfield.symbolic.shape import shape_of

Z = sp.Symbol("z", real=True)
INF, NAN, PI = math.inf, math.nan, math.pi


def parsed(text):
    return eval(text, {**vars(sp), "z": Z})  # of this file


# Kinks (their number where there are many), limits, slopes, infimum, supremum, parity; by hand.
FACTS = {
    "z - floor(z)": (401, (NAN, NAN), (0, 0), 0, 1, "complement"),
    "ceiling(z) - z": (401, (NAN, NAN), (0, 0), 0, 1, "complement"),
    "frac(z)": (401, (NAN, NAN), (0, 0), 0, 1, "complement"),
    "Mod(z, 1)": (401, (NAN, NAN), (0, 0), 0, 1, "complement"),
    "Mod(z, 3) - z/2": (133, (INF, -INF), (-0.5, -0.5), -INF, INF, "complement"),
    "Mod(z, 2) - Mod(z, 1)": (401, (NAN, NAN), (0, 0), 0, 1, "complement"),
    "Abs(Mod(z, 2) - 1)": (401, (NAN, NAN), (0, 0), 0, 1, "even"),
    "floor(z)": (401, (-INF, INF), (1, 1), -INF, INF, "complement"),
    "ceiling(2*z)/2": (801, (-INF, INF), (1, 1), -INF, INF, "complement"),
    "floor(z + sin(z))": (399, (-INF, INF), (1, 1), -INF, INF, "complement"),
    "sign(z - Rational(1, 3))*floor(z)": (401, (INF, INF), (-1, 1), 0, INF, None),
    "tanh(z)*frac(z)": (401, (NAN, NAN), (0, 0), -1, 1, None),
    "ceiling(z)*exp(-Abs(z))": (401, (0, 0), (0, 0), -math.exp(-1), 1, None),
    "floor(3*tanh(z))": (5, (-3, 2), (0, 0), -3, 2, "complement"),
    "floor(4*tanh(z))/4": (7, (-1, 0.75), (0, 0), -1, 0.75, "complement"),
    "floor(4*atan(z))": (13, (-7, 6), (0, 0), -7, 6, "complement"),
    "floor(3*exp(-z**2))": (4, (0, 0), (0, 0), 0, 3, "even"),
    "ceiling(erf(z))": ((0,), (0, 1), (0, 0), 0, 1, "complement"),
    "floor(sin(z))": (127, (NAN, NAN), (0, 0), -1, 0, "complement"),
    "floor(sqrt(Abs(z)))": (28, (INF, INF), (0, 0), 0, INF, "even"),
    "sign(sin(z))": (127, (NAN, NAN), (0, 0), -1, 1, "odd"),
    "Abs(sin(z))": (127, (NAN, NAN), (0, 0), 0, 1, "even"),
    "sqrt(Abs(sin(z)))": (127, (NAN, NAN), (0, 0), 0, 1, "even"),
    "Max(sin(z), cos(z))": (127, (NAN, NAN), (0, 0), -math.sqrt(0.5), 1, None),
    "Abs(z - 1000)": ((1000,), (INF, INF), (-1, 1), 0, INF, None),
    "Heaviside(z - 300)": ((300,), (0, 1), (0, 0), 0, 1, None),
    "Heaviside(z) - Heaviside(z - 1)": ((0, 1), (0, 0), (0, 0), 0, 1, None),
    "Heaviside(z)*sin(z)": ((0,), (0, NAN), (0, 0), -1, 1, None),
    "Piecewise((0, z < -1), (z + 1, z < 0), (1, True))": ((-1, 0), (0, 1), (0, 0), 0, 1, None),
    "Min(Max(z, -1), 1)*exp(-Abs(z)/10)": ((-1, 0, 1), (0, 0), (0, 0), -math.exp(-0.1), math.exp(-0.1), "odd"),
    "arg(z)": ((0,), (PI, 0), (0, 0), 0, PI, "complement"),
    "arg(1 + I*z)": ((), (-PI / 2, PI / 2), (0, 0), -PI / 2, PI / 2, "odd"),
    "im(log(z))": ((0,), (PI, 0), (0, 0), 0, PI, "complement"),
    "re(sqrt(z))": ((0,), (0, INF), (0, 0), 0, INF, None),
    "acot(z)": ((0,), (0, 0), (0, 0), -PI / 2, PI / 2, "odd"),
    "tanh(1/z)": ((0,), (0, 0), (0, 0), -1, 1, "odd"),
    "SingularityFunction(z, 1, 0)": ((1,), (0, 1), (0, 0), 0, 1, None),
    "SingularityFunction(z, 1, 1)": ((1,), (0, INF), (0, 1), 0, INF, None),
    "sqrt(Abs(z))": ((0,), (INF, INF), (0, 0), 0, INF, "even"),
    "sign(z)*Abs(z)**Rational(1, 3)": ((0,), (-INF, INF), (0, 0), -INF, INF, "odd"),
    "z + 5*sin(sqrt(Abs(z)))": ((0,), (-INF, INF), (1, 1), -INF, INF, None),
    "sqrt(Abs(z))*sin(z)": ((0,), (NAN, NAN), (0, 0), -INF, INF, "odd"),
    "log(1 + z**2)*sin(z)": ((), (NAN, NAN), (0, 0), -INF, INF, "odd"),
    "exp(-1/z**2)": ((0,), (1, 1), (0, 0), 0, 1, "even"),
    "coth(z) - 1/z": ((), (-1, 1), (0, 0), -1, 1, "odd"),
    "sin(z)/z": ((), (0, 0), (0, 0), -0.21723362821122164, 1, "even"),
    "sinc(z)": ((), (0, 0), (0, 0), -0.21723362821122164, 1, "even"),
    "(1 - cos(z))/z**2": ((), (0, 0), (0, 0), 0, 0.5, "even"),
    "(cosh(z) - 1)/z**2*exp(-Abs(z))": ((0,), (0, 0), (0, 0), 0, 0.5, "even"),
    "(sqrt(1 + z**2) - 1)/z": ((), (-1, 1), (0, 0), -1, 1, "odd"),
    "z/(exp(z) - 1)": ((), (INF, 0), (-1, 0), 0, INF, None),
    "sin(z)": ((), (NAN, NAN), (0, 0), -1, 1, "odd"),
    "exp(sin(z))": ((), (NAN, NAN), (0, 0), math.exp(-1), math.e, None),
    "z + sin(z)": ((), (-INF, INF), (1, 1), -INF, INF, "odd"),
    "log(1 + z**2)": ((), (INF, INF), (0, 0), 0, INF, "even"),
    "1/log(3 + z**2)": ((), (0, 0), (0, 0), 0, 1 / math.log(3), "even"),
    "exp(-z**2)": ((), (0, 0), (0, 0), 0, 1, "even"),
    "asinh(z)": ((), (-INF, INF), (0, 0), -INF, INF, "odd"),
    "atan(z)": ((), (-PI / 2, PI / 2), (0, 0), -PI / 2, PI / 2, "odd"),
    "erf(z)": ((), (-1, 1), (0, 0), -1, 1, "odd"),
    "erfc(z)": ((), (2, 0), (0, 0), 0, 2, "complement"),
    "Si(z)": ((), (-PI / 2, PI / 2), (0, 0), -1.8519370519824662, 1.8519370519824662, "odd"),
    "besselj(0, z)": ((), (0, 0), (0, 0), -0.40275939570255297, 1, "even"),
    "LambertW(exp(z))": ((), (0, INF), (0, 1), 0, INF, None),
    "1/(1 + exp(-z)) - 1/(1 + exp(1 - z))": ((), (0, 0), (0, 0), 0, 2 / (1 + math.exp(-0.5)) - 1, None),
    "log(cosh(z))": ((), (INF, INF), (-1, 1), 0, INF, "even"),
    "1000000*tanh(z)": ((), (-1e6, 1e6), (0, 0), -1e6, 1e6, "odd"),
}  # fmt: skip


@pytest.mark.parametrize("text", FACTS)
def test_facts_by_hand(text):
    phi = Activation(parsed(text), Z)
    kinks, limits, slopes, infimum, supremum, parity = FACTS[text]
    if isinstance(kinks, int):
        assert len(phi.kinks) == kinks
    else:
        assert phi.kinks == pytest.approx(kinks, abs=1e-15)
    assert phi.limits == pytest.approx(limits, rel=1e-13, nan_ok=True)
    assert phi.slopes == pytest.approx(slopes, rel=1e-13)
    assert phi.infimum == pytest.approx(infimum, rel=1e-13, abs=1e-14)
    assert phi.supremum == pytest.approx(supremum, rel=1e-13, abs=1e-14)
    assert phi.parity == parity


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("DiracDelta(z)", "is no function"),
        ("SingularityFunction(z, 0, -1)", "is no function"),
        ("KroneckerDelta(z, 0)", "holds KroneckerDelta, whose kinks and jumps are not known"),
        ("zeta(2 + z**2)", "holds zeta, whose kinks"),
        ("Integral(exp(-z**2), z)", "holds Integral, whose kinks"),
        ("LambertW(z, -1)", "another branch"),
        ("gamma(z)", "not finite at z = "),
        ("floor(z)/z", "not finite at z = 0"),
        ("sin(1/z)", "no limit at z = 0"),
        ("Piecewise((z, z > 0))", "cannot be evaluated"),
        ("Piecewise((0, z < 10), (1, z > 11))", "no value at"),
        ("Piecewise((1, Eq(z, 0)), (z, True))", "isolated value 1 at z = 0"),
        ("Piecewise((sin(z)/z, Ne(z, 0)), (2, True))", "isolated value 2 at z = 0"),
        ("cbrt(z)", "not real"),
        ("sqrt(100 - z)", "not real"),
        ("log(1 + z) - log(1 - z)", "not real"),
        ("conjugate(z + I)", "not real"),
        ("tan(z)*cos(z)", "where phi itself is smooth: simplify"),
        ("z*sin(z)", "no asymptotic slope"),
        ("Heaviside(sin(z))*z", "no asymptotic slope"),
        ("exp(floor(z))", "faster than linearly"),
        ("floor(z) + ceiling(-z)", "constant"),
        ("floor(1000*z)/1000", "more than 2000 kinks"),
        ("floor(z**2)", "more than 2000 kinks"),
        ("Abs(sin(100000*z))", "more than 2000 kinks"),
        ("atan(log(2 + z**2))", "limit .* cannot be told"),
        ("((z + 10**9)**2 - z**2 - 10**18)/(2*10**9) + tanh(z)", "loses its digits"),
        ("asin(tanh(z))", "loses its digits"),
    ],
)
def test_refused_in_words(text, message):
    with pytest.raises(ValueError, match=message):
        Activation(parsed(text), Z)


@pytest.mark.parametrize(
    "text",
    ["coth(z) - 1/z", "(1 - cos(z))/z**2", "(cosh(z) - 1)/z**2*exp(-Abs(z))", "z/(exp(z) - 1)", "besselj(1, z)/z"],
)
def test_removable_points_keep_their_digits(text):
    phi = Activation(parsed(text), Z)
    function = sp.lambdify(Z, parsed(text), "mpmath")
    distance = 10.0 ** -np.linspace(0.0, 15.0, 61)
    points = np.concatenate([-distance, distance])
    with mpmath.workdps(60):
        exact = [function(mpmath.mpf(float(x))) for x in points]
        slope = [mpmath.diff(function, mpmath.mpf(float(x)), h=mpmath.mpf(10) ** -22) for x in points]
    np.testing.assert_allclose(phi(points), np.array(exact, dtype=float), atol=2e-14)
    np.testing.assert_allclose(phi.derivative(points), np.array(slope, dtype=float), atol=1e-11)
    assert phi(0.0) == pytest.approx(float(exact[60]), abs=1e-14)


def test_steps_do_not_rise_where_rounding_reaches_the_next_one():
    phi = Activation(sp.floor(4 * sp.tanh(Z)) / 4, Z)
    np.testing.assert_array_equal(phi([-40.0, -0.1, 5.0, 19.0, 40.0]), [-1.0, -0.25, 0.75, 0.75, 0.75])


@pytest.mark.parametrize("k", [1.0, 3.0])
def test_G_of_endless_stairs_against_the_sum_over_steps(k):
    n = np.arange(-300, 300)
    low, high = np.abs(n + 0.5) - 0.5, np.abs(n + 0.5) + 0.5  # mirrored to positive z
    outer, inner = log_ndtr(-high / math.sqrt(k)), log_ndtr(-low / math.sqrt(k))
    log_mass = inner + np.log1p(-np.exp(outer - inner))
    table = cumulant(Activation(sp.floor(Z), Z), k)
    for kappa in (-9.1, -0.4, 0.3, 2.7, 60.0):
        assert table.direct(kappa)[0] == pytest.approx(logsumexp(kappa * n + log_mass), rel=1e-13, abs=1e-14)


def test_G_stays_on_this_side_of_the_last_of_endless_kinks():
    stairs = cumulant(Activation(sp.floor(Z), Z), 1.0)
    assert 100.0 < stairs.table.kappa_max < 200.0
    with pytest.raises(ValueError, match="cannot be integrated"):
        cumulant(Activation(sp.floor(Z), Z), 100.0)


def test_endless_stairs_in_theory_and_sampling():
    saw = mf.Network(Z - sp.floor(Z))
    task = mf.class_task(n_classes=2)
    certificate = mf.solve(saw, task, tau=1.0).certificate  # or it raises
    assert certificate.global_check
    assert certificate.kkt_residual < 1e-9
    finite = mf.class_task(n_classes=2, n_samples=4)
    for text in (
        "z - floor(z)",
        "Mod(z, 1)",
        "arg(z)",
        "SingularityFunction(z, 1, 0)",
        "floor(4*tanh(z))/4",
        "acot(z)",
    ):
        with pytest.raises(ValueError, match="jumps at z = "):
            mf.sample(mf.Network(parsed(text)), finite, width=3, tau=1.0)
    assert nonlinearity(Activation(Z - sp.floor(Z), Z)).edges.size < 20_000


def test_limits_of_sympy_end(monkeypatch):
    """Bounded in calls, without a thread, and the profiler of others is left as it was."""
    threads = threading.active_count()

    def for_ever(*_args):
        while True:
            sp.Symbol("x").as_base_exp()

    def profiler(*_args):
        return None

    monkeypatch.setattr(asymptotics.sp, "limit", for_ever)
    monkeypatch.setattr(asymptotics, "_MAX_CALLS", 20_000)
    sys.setprofile(profiler)
    try:
        phi = Activation(sp.asinh(Z), Z)
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)
    assert phi.limits == (-INF, INF)
    assert threading.active_count() == threads


def test_verification_sees_wrong_facts():
    phi = sp.tanh(Z)
    good = shape_of(phi, Z)
    check_far_out(phi, Z, good)
    for wrong in (
        good._replace(limits=(sp.Integer(-1), sp.Rational(9, 10))),
        good._replace(slopes=(sp.Integer(0), sp.Integer(1))),
        good._replace(intercepts=(sp.Integer(0), sp.Integer(1))),
    ):
        with pytest.raises(ValueError, match="cannot be told"):
            check_far_out(phi, Z, wrong)
    facts = activation("tanh")._facts
    for change in ({"supremum": 0.5}, {"infimum": -0.5}, {"complement": 0.5}, {"even": True}):
        with pytest.raises(ValueError, match="cannot be told"):
            check_values(phi, Z, facts._replace(**change), np.tanh)
    none = np.empty(0)
    slope = np.vectorize(lambda x: 1.0 - math.tanh(x) ** 2)
    points = np.linspace(-3.0, 3.0, 7)
    check_smooth(phi, Z, (np.tanh, slope), none)
    check_digits(phi, Z, (np.tanh, slope), points)
    with pytest.raises(ValueError, match="loses its digits"):
        check_digits(phi, Z, (lambda x: np.tanh(x) + 1e-12, slope), points)
    with pytest.raises(ValueError, match=r"jumps at z = 0\.5"):
        check_smooth(phi, Z, (lambda x: np.tanh(x) + 1e-3 * (x > 0.5), slope), none)
    with pytest.raises(ValueError, match=r"has a kink at z = 0\.5"):
        check_smooth(phi, Z, (np.tanh, lambda x: slope(x) + 1e-3 * (x > 0.5)), none)
    with pytest.raises(ValueError, match="isolated value"):
        check_isolated(sp.Piecewise((3, sp.Eq(Z, 1)), (Z, True)), Z, np.array([1.0]))
