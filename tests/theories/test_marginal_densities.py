"""Densities and mean activations at finite P against sums over a grid of the readout, in plain NumPy."""

import numpy as np
import pytest
import sympy as sp
from independent import SingleSite

import meanfield as mf

Z = sp.Symbol("z", real=True)
BUMP = sp.tanh(Z) + sp.Rational(3, 10) * sp.exp(-((Z - 1) ** 2))
JUMPS = sp.Piecewise((-1, Z < -0.5), (Z, Z < 0.7), (sp.Rational(6, 5), True))


@pytest.mark.parametrize(
    ("expression", "kinks", "targets", "n_samples"),
    [
        (BUMP, (), [1.0, -0.5], 25),  # one code, skewed
        (JUMPS, (-0.5, 0.7), [1.0, -0.8, 0.3], 25),
        (sp.sqrt(sp.Abs(Z)), (0.0,), [1.0, 0.2], 25),
    ],
)
def test_marginal_of_a_preactivation(expression, kinks, targets, n_samples):
    """Codes taken as Gaussian made densities 1e-3 to 4e-2 wrong, mean activations up to 2.6e-2."""
    network = mf.Network(mf.Activation(expression, Z, name="own"))
    post = mf.solve(network, mf.class_task(targets=targets, n_samples=n_samples), 0.05)
    phi = sp.lambdify(Z, expression, "numpy")
    single = SingleSite(lambda z: phi(z) * np.ones_like(z), 1.0, kinks=kinks, reach=12.0, panels_per_unit=16)
    t, p = post.solution.t, post.task.fractions
    a = np.linspace(-5.0, 5.0, 4001)[:, None]
    value, mean, _ = single(a @ t.T)
    exponent = n_samples * (value @ p - 0.5 * a[:, 0] ** 2)
    weight = np.exp(exponent - exponent.max())
    weight /= weight.sum()
    keep = weight > 1e-14
    z = np.linspace(-3.0, 3.0, 61) + 1e-6
    for c in range(len(t)):
        tilted = np.exp((a @ t[c])[keep, None] * phi(z) - value[keep, c][:, None])
        exact = weight[keep] @ tilted * np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)
        np.testing.assert_allclose(post.preactivation_density(None, c, z), exact, atol=2e-5 * exact.max())
    if len(post.codes) == 1:
        np.testing.assert_allclose(post.codes[0].activation, weight @ mean, atol=1e-5)
        np.testing.assert_allclose(post.preactivation_density(0, 0, z), post.preactivation_density(None, 0, z))


def test_bulk_without_outliers():
    """Leaky ReLU at few samples: a readout with long tails."""
    network = mf.Network("leaky_relu", sigma_w=1.7)
    post = mf.solve(network, mf.class_task(targets=[0.6, -0.2], n_samples=25), 0.05)
    assert len(post.codes) == 1
    assert not post.outliers
    kernel = post.kernel()
    assert kernel.block[0, 0] >= post.codes[0].activation[0] ** 2
    np.testing.assert_allclose(
        kernel.diagonal, post.codes[0].activation ** 2 + post.codes[0].activation_variance, rtol=1e-7
    )
