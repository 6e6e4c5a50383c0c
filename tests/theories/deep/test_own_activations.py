"""Deep networks with a user's activation, and classes that are mirror images of one another for odd phi."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import meanfield as mf
from meanfield.theories.deep.layers.site import _smooth, _width

sys.path.insert(0, str(Path(__file__).parents[2]))
from deep_oracles import deep_residual

z = sp.Symbol("z", real=True)
BUMP = mf.Activation(sp.exp(-((z - sp.Rational(1, 2)) ** 2)), z, name="bump")
OPPOSITE = mf.class_task(targets=[1.0, 0.3, -1.0], fractions=[0.2, 0.5, 0.3], n_samples=100)


def _violation(network, task, tau, solution):
    """Largest violation by independent integration beyond six standard errors."""
    found, error, _ = deep_residual(network, task, tau, solution, 1, power=9, rounds=4)
    return float((np.abs(found) - 6.0 * error).max())


@pytest.fixture(scope="module")
def mirrored():
    return mf.solve(mf.Network("tanh", 2), OPPOSITE, 0.05)


def test_a_bump_is_active_on_both_sides_of_its_top():
    """Half of the maxima were missed: Phi = -198.0219, certified."""
    network, task = mf.Network(BUMP, 2), mf.class_task(targets=[1, 0, -1], n_samples=100)
    post = mf.solve(network, task, 0.05)
    assert post.free_energy == pytest.approx(-198.0036664, abs=1e-6)
    assert _violation(network, task, 0.05, post.solution) < 1e-6


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "erf", "logistic"])
def test_spacing_of_built_ins_is_that_of_their_step(name):
    phi = mf.Network(name, 2).activation
    assert _smooth(phi) == pytest.approx(0.33 * _width(phi), rel=1e-12)


def test_a_ripple_is_resolved():
    """A residual of 1e-3 before: lattices of z went by the step alone."""
    phi = mf.Activation(sp.tanh(z) + sp.tanh(20 * z) / 20, z, name="ripple")
    post = mf.solve(mf.Network(phi, 2), mf.class_task(targets=[1, 0, 0], n_samples=100), 0.05)
    assert post.status == "optimal"
    assert post.certificate.residual < 1e-8


def test_opposite_targets_of_odd_phi_are_one_class(mirrored):
    """Its numbers by integration over all three classes, and those of two classes."""
    assert _violation(mirrored.network, OPPOSITE, 0.05, mirrored.solution) < 1e-6
    task = mf.class_task(targets=[1.0, 0.3], fractions=[0.5, 0.5], n_samples=100)
    two, sign = mf.solve(mirrored.network, task, 0.05), np.array([1.0, 1.0, -1.0])
    index = [0, 1, 0]
    assert mirrored.free_energy == pytest.approx(two.free_energy, abs=1e-9)
    np.testing.assert_allclose(mirrored.solution.t[:, 0], sign * two.solution.t[index, 0], atol=1e-10)
    for layer in (1, 2):
        wanted = np.outer(sign, sign) * two.kernel(layer).elements[np.ix_(index, index)]
        np.testing.assert_allclose(mirrored.kernel(layer).elements, wanted, atol=1e-10)


def test_neurons_of_mirror_images(mirrored, tmp_path):
    """Codes, drawn neurons, densities and what a file has."""
    assert {code.pattern for code in mirrored.codes} == {"110", "001"}
    for layer in (1, 2):
        neurons = mirrored.sample_neurons(4_000, rng=0, samples_per_class=2, layer=layer)
        phi = neurons.activations
        between = (phi[:, ::2].T @ phi[:, 1::2]) / len(phi)
        np.testing.assert_allclose(between, mirrored.kernel(layer).elements, atol=0.05)
    grid = np.linspace(-5.0, 5.0, 11)
    first, last = (mirrored.preactivation_density("110", cls, grid) for cls in (0, 2))
    np.testing.assert_allclose(last, first[::-1], rtol=1e-12)
    loop = mirrored.one_loop()
    np.testing.assert_allclose(loop.kernel[:, 0, 1], -loop.kernel[:, 2, 1], rtol=1e-9)
    apart = mirrored.separation(1)
    assert 1.0 < apart["kurtosis"][0, 2] < 3.0
    assert apart["on"][0] == pytest.approx(-apart["off"][2])
    again = mf.load(mirrored.save(tmp_path / "mirrored.npz"))
    np.testing.assert_array_equal(again.separation(1)["kurtosis"], apart["kurtosis"])


def test_sizes_of_two_opposite_classes_make_no_difference():
    network = mf.Network("tanh", 2)
    equal, unequal = (
        mf.solve(network, mf.class_task(targets=[1, -1], fractions=p, n_samples=100), 0.05)
        for p in ([0.5, 0.5], [0.3, 0.7])
    )
    assert unequal.free_energy == equal.free_energy
    with pytest.raises(ValueError, match="mirror image"):
        unequal.frozen({"10": 0.5, "01": 0.5})


def test_a_class_without_a_field_is_not_active():
    """Of odd phi one with the target 0: its letter was a matter of rounding, and NumPy warned."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        post = mf.solve(mf.Network("tanh", 2), mf.class_task(targets=[1, 0, -1], n_samples=100), 0.05)
    assert {code.pattern for code in post.codes} == {"100", "001"}


def test_rounding_in_a_kernel_is_no_field():
    """The same with K of 1e-17, the square root of which is 3e-9: 110 and 011 were .13 each."""
    task = mf.class_task([0.5, 0.2, 0.3], targets=[1, 0, -1], n_samples=60)
    post = mf.solve(mf.Network("tanh", 2), task, 0.3)
    for layer in (1, 2):
        shares = {code.pattern: code.weight for code in post.layer_codes(layer)}
        assert shares == pytest.approx({"100": 0.5, "001": 0.5}, abs=1e-6)
        found = post.separation(layer)
        assert np.isnan(found["on"][1])
        assert found["off"][1] == pytest.approx(0.0, abs=1e-12)
