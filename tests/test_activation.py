"""Nonlinearities: derived facts, evaluation, identity, refusals."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import sympy as sp

import meanfield.activations.builtin
from meanfield.activations.activation import Activation, activation
from meanfield.activations.builtin import definition, names

Z = sp.Symbol("z")
BUILT_IN = [
    "erf",
    "gelu",
    "hard_sigmoid",
    "hard_tanh",
    "leaky_relu",
    "linear",
    "logistic",
    "relu",
    "sigmoid",
    "softplus",
    "step",
    "tanh",
]
PARTS = {"linear": "gaussian"} | dict.fromkeys(("relu", "leaky_relu", "softplus", "gelu"), "outliers")


def test_names():
    assert list(names()) == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_machine_written_facts_are_those_of_the_expression(name):
    """At parameters other than the ones the written formulas were made with."""
    parameters = dict.fromkeys(definition(name).PARAMETERS, 0.6)
    built_in = activation(name, **parameters)
    symbols = {key: sp.Symbol(key) for key in parameters}
    user = Activation(definition(name).expression(Z, **symbols), Z, parameters=parameters)
    assert user.kinks == pytest.approx(built_in.kinks, abs=1e-15)
    for attribute in ("limits", "slopes", "intercepts", "growth"):
        assert getattr(user, attribute) == pytest.approx(getattr(built_in, attribute), abs=1e-14)
    assert (user.infimum, user.supremum) == pytest.approx((built_in.infimum, built_in.supremum), abs=1e-14)
    assert user.parity == built_in.parity
    assert user.complement == built_in.complement
    assert user.parts == built_in.parts == PARTS.get(name, "codes")
    assert user.piecewise_linear is built_in.piecewise_linear
    z = np.linspace(-6.0, 6.0, 101) + 0.013
    np.testing.assert_allclose(user(z), built_in(z), rtol=1e-14, atol=1e-300)
    np.testing.assert_allclose(user.derivative(z), built_in.derivative(z), rtol=1e-13, atol=1e-300)


@pytest.mark.parametrize("name", BUILT_IN)
def test_derivative_and_symmetry(name):
    phi = activation(name)
    z = np.linspace(-3.0, 3.0, 25) + 0.0107
    step = 1e-5
    slope = (phi(z - 2 * step) - 8 * phi(z - step) + 8 * phi(z + step) - phi(z + 2 * step)) / (12 * step)
    np.testing.assert_allclose(phi.derivative(z), slope, atol=2e-10)
    if phi.complement is not None:
        np.testing.assert_allclose(phi(-z), 2 * phi.complement - phi(z), atol=1e-15)


def test_growth_and_range_by_hand():
    leaky = activation("leaky_relu", slope=0.3)
    assert leaky.growth == pytest.approx((0.09, 1.0))
    assert activation("leaky_relu", slope=1.0).parts == "gaussian"
    absolute = activation("leaky_relu", slope=-1.0)
    assert absolute.growth == (0.0, 1.0)
    assert absolute.parity == "even"
    gelu = activation("gelu")
    assert gelu.infimum == pytest.approx(-0.16997120747990369, abs=1e-15)  # mpmath, minimum of z Phi(z)
    assert gelu.midpoint is None
    assert activation("hard_sigmoid").midpoint == 0.5
    assert activation("step").kinks == (0.0,)
    assert activation("hard_tanh", gain=4.0).pieces.slopes == (0.0, 4.0, 0.0)


def test_limits_of_slow_and_oscillating_functions():
    assert Activation(sp.asinh(Z), Z).limits == (-np.inf, np.inf)
    wave = Activation(sp.sin(Z), Z)
    assert np.isnan(wave.limits).all()
    assert (wave.infimum, wave.supremum, wave.parts) == (-1.0, 1.0, "codes")
    folded = Activation(sp.Abs(sp.sin(Z)), Z)
    assert len(folded.kinks) == 2 * 63 + 1  # multiples of pi up to 200
    assert np.isnan(folded.limits).all()
    assert Activation(Z + sp.sin(Z), Z).slopes == (1.0, 1.0)
    # SymPy's limit of this one does not end within minutes.
    long = sp.erf(Z) * sp.tanh(Z) / (1 + Z**2) + sp.atan(Z**3) * sp.exp(-(Z**2)) * sp.sin(Z)
    assert Activation(long, Z).limits == (0.0, 0.0)


def test_no_overflow_in_a_users_expression():
    phi = Activation(sp.exp(Z) / (1 + sp.exp(Z)), Z)
    np.testing.assert_array_equal(phi([-1000.0, 1000.0]), [0.0, 1.0])
    np.testing.assert_array_equal(phi.derivative([-1000.0, 1000.0]), [0.0, 0.0])
    quotient = Activation((sp.exp(Z) - sp.exp(-Z)) / (sp.exp(Z) + sp.exp(-Z)), Z)
    np.testing.assert_array_equal(quotient([-1000.0, 1000.0]), [-1.0, 1.0])
    assert Activation(sp.sin(Z) / Z, Z)(0.0) == 1.0


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (Z**2, "faster than linearly"),
        (sp.exp(Z), "faster than linearly"),
        (sp.Abs(Z) ** sp.Rational(3, 2), "faster than linearly"),
        (sp.Integer(3) + 0 * Z, "constant"),
        (sp.Heaviside(Z) + sp.Heaviside(-Z), "constant"),
        (sp.sqrt(Z), "not real"),
        (sp.log(Z), "not real"),
        (sp.log(sp.Abs(Z)), "not finite"),
        (1 / Z, "not finite"),
        (sp.tan(Z), "not finite"),
        (Z * sp.sin(Z), "no asymptotic slope"),
        (Z / (1 + sp.Symbol("w") * sp.Abs(Z)), "symbols without a value: w"),
        (sp.nan * Z, "cannot be evaluated"),
    ],
)
def test_refused(expression, message):
    with pytest.raises(ValueError, match=message):
        Activation(expression, Z)


def test_bad_arguments():
    with pytest.raises(ValueError, match="there is no activation 'relux'; choose one of erf, gelu"):
        activation("relux")
    with pytest.raises(ValueError, match="step has no parameter 'gain'; it has none"):
        activation("step", gain=1.0)
    with pytest.raises(ValueError, match="must be positive"):
        activation("tanh", gain=0.0)
    with pytest.raises(ValueError, match="must be a real number, got inf"):
        activation("leaky_relu", slope=np.inf)
    with pytest.raises(ValueError, match="must be a real number"):
        activation("tanh", gain="large")
    with pytest.raises(ValueError, match="which symbol"):
        activation(Z * sp.Symbol("x"))
    with pytest.raises(ValueError, match="SymPy expression and its symbol"):
        Activation("z", Z)


def test_identity():
    b = sp.Symbol("b")
    phi = Activation(Z / (b + sp.Abs(Z)), Z, parameters={b: 0.5}, name="softsign")
    again = activation(Z / (b + sp.Abs(Z)), b=0.5)
    assert phi == again
    assert hash(phi) == hash(again)
    assert phi.with_parameters(b=2.0) != phi
    assert phi.with_parameters(b=2.0)(1.0) == pytest.approx(1 / 3)
    for one in (phi, activation("sigmoid", gain=2.0)):
        copy = pickle.loads(pickle.dumps(one))
        assert copy == one
        assert copy(0.3) == one(0.3)
        with pytest.raises(AttributeError):
            one.name = "other"
    assert activation("sigmoid") is activation("sigmoid")
    assert activation("sigmoid") != activation("sigmoid", gain=2.0)
    assert repr(activation("tanh", gain=2.0)) == "activation('tanh', gain=2)"
    with pytest.raises(ValueError, match="no parameter 'gain'"):
        phi.with_parameters(gain=1.0)


def test_a_new_file_is_a_new_nonlinearity(tmp_path, monkeypatch):
    (tmp_path / "bent.py").write_text(
        "import sympy as sp\n\nPARAMETERS = {'gain': 1.0}\n\n\n"
        "def expression(z, gain):\n    return sp.Max(gain * z, sp.atan(z))\n"
    )
    monkeypatch.setattr(
        meanfield.activations.builtin, "__path__", [*meanfield.activations.builtin.__path__, str(tmp_path)]
    )
    phi = activation("bent", gain=3.0)
    np.testing.assert_allclose(phi([-1.0, 1.0]), [-np.pi / 4, 3.0], rtol=1e-15)
    assert phi.kinks == (0.0,)
    assert phi.growth == (0.0, 9.0)


def test_built_ins_need_no_sympy():
    code = (
        "import sys; from meanfield.activations.activation import activation;"
        "from meanfield.activations.cumulant import cumulant;"
        "cumulant(activation('sigmoid', gain=1.5), 2.0).direct([1.0]); activation('gelu').derivative([1.0]);"
        "print('sympy' in sys.modules, 'matplotlib' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.split() == ["False", "False"]
