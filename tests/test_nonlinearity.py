"""The table of a nonlinearity against the nonlinearity itself, far beyond the points that it was made from."""

import numpy as np
import pytest
import sympy as sp

from meanfield.activations.activation import Activation, activation
from meanfield.activations.builtin import names
from meanfield.activations.nonlinearity import SLOPE_ERROR, VALUE_ERROR, nonlinearity
from meanfield.numerics.phi_table import phi0, phi0_array, phi1, phi1_array, phi2

Z = sp.Symbol("z", real=True)
BUILT_IN = [activation(name) for name in names()]
GAINS = [
    activation(name, gain=gain) for name in names() if name not in ("step", "leaky_relu") for gain in (0.03, 7, 50)
]
OWN = [
    Activation(Z / sp.sqrt(1 + Z**2), Z),  # algebraic tails
    Activation(Z / (1 + sp.Abs(Z - sp.Rational(1, 3))), Z),  # a kink off the grid
    Activation(sp.Max(0, Z) * sp.tanh(Z), Z),
    Activation(sp.atan(Z), Z),
    Activation(sp.log(1 + Z**2), Z),  # no asymptote
    Activation(sp.sqrt(sp.Abs(Z)), Z),  # infinite slope at 0
    Activation(sp.sin(Z) + Z / 5, Z),  # never stops oscillating
]


def points(phi, seed=0):
    """Preactivations of every size, and both sides of every kink."""
    rng = np.random.default_rng(seed)
    z = [scale * rng.standard_normal(4000) for scale in (1e-3, 0.1, 1, 3, 10, 60)]
    z.append(rng.choice([-1, 1], 4000) * 10.0 ** rng.uniform(-20, 14, 4000))
    z += [kink + side * 10.0 ** np.arange(-15.0, 0.0) for kink in phi.kinks for side in (-1, 1)]
    z = np.concatenate(z)
    return z[np.abs(z) < 250] if np.isnan(phi.intercepts).any() else z


@pytest.mark.parametrize("phi", BUILT_IN + GAINS + OWN, ids=repr)
def test_table_agrees_with_the_function(phi):
    z = points(phi)
    value, slope, only_value = np.empty((3, z.size))
    phi1_array(nonlinearity(phi), z, value, slope)
    phi0_array(nonlinearity(phi), z, only_value)
    wanted, wanted_slope = phi(z), phi.derivative(z)
    smooth = ~np.isin(z, phi.kinks)
    assert np.max(np.abs(value - wanted) / np.maximum(1, np.abs(wanted))) <= VALUE_ERROR
    assert np.max(np.abs(slope - wanted_slope)[smooth] / np.maximum(1, np.abs(wanted_slope[smooth]))) <= SLOPE_ERROR
    np.testing.assert_array_equal(only_value, value)


@pytest.mark.parametrize("phi", [*BUILT_IN, OWN[1]], ids=repr)
def test_scalars_are_the_same_table(phi):
    table = nonlinearity(phi)
    z = points(phi)[::97]
    value, slope = np.empty((2, z.size))
    phi1_array(table, z, value, slope)
    for i, at in enumerate(z):
        assert phi1(table, at) == pytest.approx((value[i], slope[i]), rel=1e-14, abs=1e-14)
        assert phi0(table, at) == phi1(table, at)[0]
        assert phi2(table, at)[:2] == phi1(table, at)


def test_second_derivative():
    z = np.linspace(-4, 4, 301)
    gain = 1.3
    second = np.array([phi2(nonlinearity(activation("sigmoid", gain=gain)), at)[2] for at in z])
    exact = -0.25 * np.pi * gain**3 * z * np.exp(-0.25 * np.pi * gain**2 * z**2)
    assert np.max(np.abs(second - exact)) < 1e-8


def test_pieces_are_exact():
    table = nonlinearity(activation("hard_tanh", gain=2.0))
    assert table.piecewise_linear
    np.testing.assert_array_equal(table.breaks, [-0.5, 0.5])
    assert phi1(table, 1e9) == (1.0, 0.0)
    assert phi1(table, 0.25) == (0.5, 2.0)
    assert not nonlinearity(activation("tanh")).piecewise_linear


def test_right_of_a_kink_and_nan():
    assert phi0(nonlinearity(activation("step")), 0.0) == 1.0
    assert np.isnan(phi0(nonlinearity(activation("sigmoid")), np.nan))
    assert phi0(nonlinearity(activation("sigmoid")), 1e150) == 1.0
    tiny = phi1(nonlinearity(OWN[1]), 1 / 3 - 1e-15)
    assert tiny[1] == pytest.approx(OWN[1].derivative(1 / 3 - 1e-15), abs=1e-10)


def test_remembered():
    assert nonlinearity(activation("sigmoid")) is nonlinearity(activation("sigmoid", gain=1.0))


def test_too_rough_is_refused():
    wild = Activation(sp.sin(2000 * Z) / 1000, Z)
    with pytest.raises(ValueError, match="too rough for 40000 cells"):
        nonlinearity(wild)
