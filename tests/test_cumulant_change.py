"""Derivatives of G by k and by parameters of phi against differences of the quadrature of G."""

import numpy as np
import pytest
import sympy as sp

from meanfield.activations.activation import Activation, activation
from meanfield.activations.cumulant import Cumulant, _pieces, _rule
from meanfield.activations.cumulant_change import cumulant_change, growth_change, midpoint_change
from meanfield.numerics.cumulant_table import direct4

Z, B = sp.symbols("z b", real=True)
KAPPA = np.array([-40.0, -3.0, -0.2, 0.0, 0.7, 5.0, 60.0])
# A step whose place moves, with a slope beside it: surface terms.
JUMP = Activation(sp.Piecewise((sp.Integer(0), Z < B), (1 + sp.tanh(Z), True)), Z, parameters={"b": 0.3})
SHELF = Activation(sp.Piecewise((sp.Integer(-1), Z < B), (sp.Integer(2), True)), Z, parameters={"b": -0.4})
CASES = [
    (activation("sigmoid", gain=1.4), "gain"),
    (activation("tanh"), "k"),
    (activation("softplus", gain=2.0), "gain"),
    (activation("gelu"), "gain"),
    (activation("relu", gain=0.8), "k"),
    (activation("relu", gain=0.8), "gain"),
    (activation("leaky_relu", slope=0.3), "slope"),
    (activation("hard_tanh", gain=1.7), "gain"),
    (activation("hard_sigmoid"), "k"),
    (activation("step"), "k"),
    (Activation(sp.erf(B * Z) * B, Z, parameters={"b": 0.9}), "b"),
    (JUMP, "b"),
    (JUMP, "k"),
    (SHELF, "b"),
]


def differences(function, value, step):
    """Fourth-order central differences."""
    f = [function(value + n * step) for n in (-2, -1, 1, 2)]
    return (f[0] - 8.0 * f[1] + 8.0 * f[2] - f[3]) / (12.0 * step)


@pytest.mark.parametrize(("phi", "name"), CASES)
def test_change_of_G_against_differences(phi, name):
    k = 0.8

    def G(value):
        varied = Cumulant.__new__(Cumulant)  # the quadrature alone, without its table
        moved, variance = (phi, value) if name == "k" else (phi.with_parameters(**{name: value}), k)
        varied.direct_data = _pieces(moved, variance) if moved.piecewise_linear else _rule(moved, variance)
        return np.array([direct4(varied.direct_data, x)[:4] for x in KAPPA]).T

    single = Cumulant(phi, k)
    exact = cumulant_change(single, name, KAPPA)
    assert exact.shape == (4, KAPPA.size)
    value = k if name == "k" else phi.parameters[name]
    plain = differences(G, value, 2e-3)
    scale = 1.0 + np.abs(G(value)) + np.abs(plain)
    # Where phi is steep in kappa the differences themselves are no better than this.
    np.testing.assert_allclose(exact / scale, plain / scale, atol=2e-7)


@pytest.mark.parametrize(
    ("phi", "name"),
    [
        (activation("relu", gain=0.8), "gain"),
        (activation("relu", gain=0.8), "k"),
        (activation("leaky_relu", slope=0.3), "slope"),
        (activation("leaky_relu", slope=-0.3), "slope"),
        (activation("softplus", gain=2.0), "gain"),
        (activation("sigmoid"), "gain"),
    ],
)
def test_change_of_growth_against_differences(phi, name):
    k, step = 1.3, 1e-6

    def growth(value):
        moved, variance = (phi, value) if name == "k" else (phi.with_parameters(**{name: value}), k)
        return variance * np.array(moved.growth[::-1])

    value = k if name == "k" else phi.parameters[name]
    plain = (growth(value + step) - growth(value - step)) / (2.0 * step)
    np.testing.assert_allclose(growth_change(phi, name, k), plain, atol=1e-9)


def test_change_of_midpoint():
    phi = Activation(B * sp.Piecewise((sp.Integer(0), Z < 0), (1 - sp.exp(-Z), True)), Z, parameters={"b": 2.0})
    assert midpoint_change(phi, "b") == pytest.approx(0.5, abs=1e-9)
    assert midpoint_change(activation("hard_tanh"), "gain") == pytest.approx(0.0, abs=1e-12)


def test_a_jump_without_a_formula_is_refused():
    place = sp.Piecewise((sp.Integer(0), Z + sp.exp(B * Z) < 2), (sp.Integer(1), True))
    phi = Activation(place, Z, parameters={"b": 0.5})
    with pytest.raises(ValueError, match="without a formula"):
        cumulant_change(Cumulant(phi, 1.0), "b", np.array([1.0]))
