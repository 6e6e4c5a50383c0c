"""Gaussian kernels of a layer against two-dimensional quadrature that knows only phi and its kinks."""

import numpy as np
import pytest
import sympy as sp
from scipy.special import erf

import meanfield as mf
from meanfield.theories.lazy.kernel import gaussian_kernel, gaussian_moment, kernel_layers

_X, _W = np.polynomial.legendre.leggauss(24)
Z = sp.Symbol("z", real=True)


def panels(kinks):
    edges = np.unique(np.concatenate([np.linspace(-11, 11, 45), [b for b in kinks if abs(b) < 11]]))
    half = 0.5 * np.diff(edges)
    x = ((edges[1:] + edges[:-1])[:, None] / 2 + half[:, None] * _X).ravel()
    return x, (half[:, None] * _W).ravel() * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


def brute(phi, k11, k22, k12):
    """E[phi(z) phi(z')] with the inner integral, given z, split at the kinks of the second factor."""
    x, w = panels([b / np.sqrt(k11) for b in phi.kinks])
    spread = np.sqrt(k22 - k12**2 / k11)
    inner = np.empty(x.size)
    for i, mean in enumerate(k12 / np.sqrt(k11) * x):
        y, v = panels([(b - mean) / spread for b in phi.kinks])
        inner[i] = v @ phi(mean + spread * y)
    return w @ (phi(np.sqrt(k11) * x) * inner)


ACTIVATIONS = [
    *map(mf.activation, ("linear", "relu", "leaky_relu", "step", "sigmoid", "erf", "tanh")),
    *map(mf.activation, ("hard_tanh", "hard_sigmoid", "gelu", "softplus", "logistic")),
    mf.activation("sigmoid", gain=2.3),
    mf.activation("hard_tanh", gain=3.0),
    mf.activation("leaky_relu", slope=0.3),
    mf.Activation(sp.Max(Z, 0) + sp.Max(Z - 1, 0) / 2, Z),
    mf.Activation(sp.sin(Z) + Z / 2, Z),
    mf.Activation(3 * Z - 1, Z),
]


@pytest.mark.parametrize("phi", ACTIVATIONS, ids=str)
def test_against_two_dimensional_quadrature(phi):
    for k11, k22, rho in [(1.0, 1.0, 0.3), (0.3, 2.5, -0.8), (3.0, 0.7, 0.99), (1.4, 1.3, -0.999), (2.0, 0.5, 0.0)]:
        k12 = rho * np.sqrt(k11 * k22)
        kernel = gaussian_kernel(phi, [[k12]], [k11], [k22])
        expected = brute(phi, k11, k22, k12)
        assert kernel.cross[0, 0] == pytest.approx(expected, abs=1e-11)
        assert kernel.error < 1e-10


def test_kinks_of_the_curvature_only_are_bounded():
    """z / (1 + |z|): the Hermite series converges like a power, and the bound holds."""
    phi = mf.Activation(Z / (1 + sp.Abs(Z)), Z)
    for rho in (0.5, 0.9, 0.999):
        kernel = gaussian_kernel(phi, [[rho * 1.5]], [1.5], [1.5])
        error = abs(kernel.cross[0, 0] - brute(phi, 1.5, 1.5, rho * 1.5))
        assert error <= kernel.error + 1e-12
        assert kernel.error < 1e-6


def test_jumps_of_users_are_refused_where_the_series_is_slow():
    phi = mf.Activation(sp.sign(Z - 1) + sp.tanh(Z), Z)
    assert gaussian_kernel(phi, [[0.1]], [1.0], [1.0]).error < 1e-6
    with pytest.raises(ValueError, match="converge slowly"):
        gaussian_kernel(phi, [[1.0]], [1.0], [1.0])


def test_formulas_of_the_page():
    k11, k22, k12 = 1.3, 0.8, 0.5
    arcsine = np.arcsin(np.pi / 2 * k12 / np.sqrt((1 + np.pi * k11 / 2) * (1 + np.pi * k22 / 2)))
    assert gaussian_kernel("sigmoid", [[k12]], [k11], [k22]).cross[0, 0] == pytest.approx(0.25 + arcsine / (2 * np.pi))
    theta = np.arccos(k12 / np.sqrt(k11 * k22))
    relu = np.sqrt(k11 * k22) * (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / (2 * np.pi)
    assert gaussian_kernel("relu", [[k12]], [k11], [k22]).cross[0, 0] == pytest.approx(relu)


@pytest.mark.parametrize("phi", ACTIVATIONS, ids=str)
def test_diagonal_and_moments_are_consistent(phi):
    variances = np.array([0.5, 1.0, 2.0])
    kernel = gaussian_kernel(phi, np.diag(variances), variances, variances)
    np.testing.assert_allclose(np.diag(kernel.cross), kernel.left, atol=1e-10)
    mean = gaussian_moment(phi, variances)[0]
    np.testing.assert_allclose(kernel.cross[0, 1], mean[0] * mean[1], atol=1e-12)  # independent
    eigenvalues = np.linalg.eigvalsh(
        gaussian_kernel(phi, np.full((3, 3), 0.4) + np.eye(3), *[np.full(3, 1.4)] * 2).cross
    )
    assert eigenvalues.min() > -1e-12


def test_zero_variance_is_a_constant():
    for name in ("sigmoid", "relu", "tanh", "hard_tanh", "gelu"):
        phi = mf.activation(name)
        kernel = gaussian_kernel(phi, [[0.0, 0.0]], [0.0], [1.0, 0.0])
        value = float(phi(0.0))
        np.testing.assert_allclose(kernel.cross, [[value * gaussian_moment(phi, 1.0)[0], value**2]], atol=1e-14)


def test_layers_of_erf_by_hand():
    k = np.array([[1.0, 0.3], [0.3, 2.0]])
    layers = kernel_layers("erf", k, np.diag(k), np.diag(k), 1.5, 3)
    below = k
    for layer in layers:
        norm = np.sqrt(np.multiply.outer(1 + 2 * np.diag(below), 1 + 2 * np.diag(below)))
        by_hand = 2 / np.pi * np.arcsin(2 * below / norm)
        np.testing.assert_allclose(layer.cross, by_hand, atol=1e-13)
        np.testing.assert_allclose(layer.left, np.diag(by_hand), atol=1e-13)
        below = 1.5**2 * by_hand


def test_layers_equal_a_very_wide_random_network():
    rng = np.random.default_rng(0)
    k = np.array([[1.0, 0.6], [0.6, 1.5]])
    z = rng.standard_normal((400_000, 2)) @ np.linalg.cholesky(k).T
    np.testing.assert_allclose(
        erf(z).T @ erf(z) / len(z), gaussian_kernel("erf", k, *[np.diag(k)] * 2).cross, atol=3e-3
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0.1]], [1.0, 2.0], [1.0]), "shapes"),
        (([[0.1]], [-1.0], [1.0]), "must not be negative"),
        (([[1.5]], [1.0], [1.0]), "larger than the variances allow"),
        (([[np.nan]], [1.0], [1.0]), "finite"),
    ],
)
def test_bad_input_is_refused_in_words(arguments, message):
    with pytest.raises(ValueError, match=message):
        gaussian_kernel("tanh", *arguments)
