"""Outputs and variances on new inputs in two dimensions, by a sum over all weights of a neuron in polar coordinates.

Given t the readout is Gaussian: ln int da N(a; 0, s) exp(a S) = s S^2 / 2, S = sum_mu t_mu phi(z_mu), <a> = s S and
<a^2> = s + s^2 S^2, so that only the weights are summed over.
"""

import math

import numpy as np
import pytest
import sympy as sp

import meanfield as mf

Z = sp.Symbol("z", real=True)
SHIFTED = mf.Activation(Z / sp.sqrt(1 + Z**2) + sp.Rational(3, 10), Z, name="shifted")


def neurons(radii=300, angles=1501, reach=12.0):
    """Weights (n, 2) of the prior N(0, 1) and their shares (n,)."""
    x, w = np.polynomial.legendre.leggauss(radii)
    r = 0.5 * reach * (x + 1.0)
    theta = (np.arange(angles) + 0.37) * 2.0 * np.pi / angles
    weights = np.stack([np.outer(r, np.cos(theta)).ravel(), np.outer(r, np.sin(theta)).ravel()], axis=1)
    return weights, np.repeat(w * r * np.exp(-0.5 * r * r), angles)


@pytest.mark.parametrize(
    ("phi", "sigma_w", "sigma_a", "tau", "targets"),
    [
        ("hard_tanh", 2.0, 0.5, 0.34, [0.7, 0.7]),  # the mean was off by 12 %
        (SHIFTED, 2.0, 2.0, 1.8, [-0.3, 0.9, 0.6, -0.7]),
        ("sigmoid", 1.0, 1.0, 0.1, [0.2, -0.8, 0.5]),
    ],
)
def test_new_inputs_of_few_samples(phi, sigma_w, sigma_a, tau, targets):
    """Outputs on training inputs were known to 1e-3 and certified; those of predict were not, on the same inputs."""
    rng = np.random.default_rng(5)
    inputs, new = rng.normal(size=(len(targets), 2)), 2.0 * rng.normal(size=(5, 2))
    new[0] = inputs[0]
    network = mf.Network(phi, sigma_w=sigma_w, sigma_a=sigma_a)
    post = mf.solve(network, mf.data_task(inputs, np.array(targets)[:, None]), tau=tau)
    t, s, n = post.solution.t[:, 0], sigma_a**2 / len(targets), len(targets)

    weights, share = neurons()
    value = network.activation(sigma_w * weights @ np.concatenate([inputs, new]).T / math.sqrt(2.0))
    drive = value[:, :n] @ t
    share = share * np.exp(0.5 * s * (drive**2 - (drive**2).max()))
    share /= share.sum()
    mean = (share * s * drive) @ value
    assert mean[:n] + tau * t == pytest.approx(np.array(targets), abs=3e-3)
    spread = (value * (share * (s + (s * drive) ** 2))[:, None]).T @ value - np.outer(mean, mean)
    seen = np.linalg.solve(spread[:n, :n] + tau * np.eye(n), spread[:n, n:])
    variance = np.diag(spread)[n:] - np.einsum("ij,ij->j", spread[:n, n:], seen)

    found, found_variance = post.predict(new, variance=True, width=10.0)
    assert found[:, 0] == pytest.approx(mean[n:], abs=5e-3)
    assert 10.0 * found_variance[:, 0] == pytest.approx(variance, abs=0.03 * variance.max())
    kernel = (value[:, n:] * share[:, None]).T @ value[:, n:]
    assert np.asarray(post.kernel(new)) == pytest.approx(kernel, abs=5e-3)
