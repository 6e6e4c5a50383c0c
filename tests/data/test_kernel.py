"""Gaussian kernels of a layer against two-dimensional quadrature that knows only phi and its kinks."""

import numpy as np
import pytest
import sympy as sp
from margins import below
from scipy.special import erf

import meanfield as mf
from meanfield.theories.lazy import kernel as lazy_kernel
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


NEAR = (0.0, 0.3, -0.7, 0.99, 0.999, 1 - 1e-6, -1 + 1e-9, 1 - 1e-12, 1.0, -1.0)
VARIANCES = ((1.0, 1.0), (0.3, 2.5), (1e-4, 1.0), (400.0, 300.0))


@pytest.mark.parametrize(
    ("expression", "exact"),
    [
        (sp.erf(3 * Z), lambda a, b, c: 2 / np.pi * np.arcsin(18 * c / np.sqrt((1 + 18 * a) * (1 + 18 * b)))),
        (sp.sin(5 * Z), lambda a, b, c: np.exp(-12.5 * (a + b)) * np.sinh(25 * c) if a < 9 else 0.0),
        (sp.exp(-(Z**2)), lambda a, b, c: 1 / np.sqrt((1 + 2 * a) * (1 + 2 * b) - 4 * c * c)),
        (sp.sign(Z), lambda a, b, c: 2 / np.pi * np.arcsin(c / np.sqrt(a * b))),
        (sp.Heaviside(Z), lambda a, b, c: 0.25 + np.arcsin(c / np.sqrt(a * b)) / 2 / np.pi),
    ],
    ids=["erf", "sin", "Gaussian", "sign", "Heaviside"],
)
def test_closed_forms_of_users_up_to_parallel_inputs(expression, exact):
    phi = mf.Activation(expression, Z)
    for k11, k22 in VARIANCES:
        for rho in NEAR:
            if k11 > 9 and phi.name.startswith("sin") and abs(rho) > 0.9:
                continue  # the closed form overflows
            k12 = rho * np.sqrt(k11 * k22)
            kernel = gaussian_kernel(phi, [[k12]], [k11], [k22])
            scale = np.sqrt(kernel.left * kernel.right)[0]
            # rho = k12 / root has lost its last bit: d arcsin = d rho / sqrt(1 - rho^2)
            lost = 1e-15 / np.sqrt(max(1e-3 - abs(rho) * 1e-3, 1e-12)) if abs(rho) < 1 else 0.0
            assert abs(kernel.cross[0, 0] - exact(k11, k22, k12)) < 1e-10 * scale + lost
            assert kernel.error <= 1e-10 * max(kernel.left[0], kernel.right[0])


HARD = [
    *(mf.activation("tanh", gain=g) for g in (2.0, 5.0, 50.0)),
    mf.activation("hard_tanh", gain=5.0),
    *(
        mf.Activation(e, Z)
        for e in (
            Z / (1 + sp.Abs(Z)),
            sp.atan(3 * Z),
            sp.sqrt(sp.Abs(Z)),
            sp.floor(Z),
            sp.sign(Z - 1) + sp.tanh(Z),
            sp.Max(0, Z) + sp.sign(Z),
            sp.Abs(sp.sin(2 * Z)),
        )
    ),
]


def adaptive(phi, k11, k22, rho):
    """E[phi phi'] by panels in u and v that are graded towards every kink, and to 1e-9 of it."""
    fine = np.concatenate([-np.geomspace(3, 1e-9, 30), [0], np.geomspace(1e-9, 3, 30)])
    centres = np.array([0.0, *(b for b in phi.kinks if abs(b) < 12)])
    spread, slope = np.sqrt(k22 * (1 - abs(rho)) * (1 + abs(rho))), rho * np.sqrt(k22 / k11)
    edges = np.concatenate([np.linspace(-12, 12, 97), (centres[:, None] + fine).ravel()])
    outer = np.unique(np.concatenate([edges, ((centres[:, None] + spread * np.linspace(-9, 9, 37)) / slope).ravel()]))
    outer = outer[np.abs(outer) < 9 * np.sqrt(k11)]
    x, w = np.polynomial.legendre.leggauss(12)
    half = np.diff(outer) / 2
    u = (outer[:-1] + half)[:, None] + half[:, None] * x
    total = 0.0
    for row, h in zip(u, half):
        near = np.unique(edges)
        mean = slope * row
        low, high = mean.min() - 9 * spread, mean.max() + 9 * spread
        inner = np.unique(np.concatenate([near[(near > low) & (near < high)], np.arange(low, high, spread), [high]]))
        g = np.diff(inner) / 2
        v = ((inner[:-1] + g)[:, None] + g[:, None] * x).ravel()
        t = (g[:, None] * w).ravel() * phi(v)
        smooth = np.exp(-(((v - mean[:, None]) / spread) ** 2) / 2) @ t / (spread * np.sqrt(2 * np.pi))
        total += h * (w * phi(row) * np.exp(-(row**2) / 2 / k11)) @ smooth / np.sqrt(2 * np.pi * k11)
    return total


@pytest.mark.parametrize("phi", HARD, ids=str)
def test_steep_kinked_and_jumping_functions_against_graded_quadrature(phi):
    for k11, k22, rho in [(1.5, 0.6, 0.4), (1.5, 0.6, -0.995), (1.0, 1.0, 1 - 1e-6)]:
        kernel = gaussian_kernel(phi, [[rho * np.sqrt(k11 * k22)]], [k11], [k22])
        scale = max(kernel.left[0], kernel.right[0])
        assert kernel.cross[0, 0] == pytest.approx(adaptive(phi, k11, k22, rho), abs=2e-10 * scale)
        assert kernel.error < 1e-10 * scale


@pytest.mark.parametrize("phi", HARD, ids=str)
def test_kernel_matrix_of_near_duplicates_is_positive(phi):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 4))
    x = np.vstack([x, x, x + 1e-5 * rng.standard_normal(x.shape), -x])
    k = x @ x.T / 4
    kernel = gaussian_kernel(phi, k, np.diag(k), np.diag(k))
    np.testing.assert_array_equal(kernel.cross, kernel.cross.T)
    np.testing.assert_allclose(np.diag(kernel.cross), kernel.left, rtol=0, atol=1e-10 * kernel.left.max())
    assert np.linalg.eigvalsh(kernel.cross).min() > -1e-10 * kernel.left.max() * len(k)


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


@pytest.mark.statistical
def test_layers_equal_a_very_wide_random_network():
    rng = np.random.default_rng(0)
    k = np.array([[1.0, 0.6], [0.6, 1.5]])
    z = rng.standard_normal((400_000, 2)) @ np.linalg.cholesky(k).T
    products = erf(z)[:, :, None] * erf(z)[:, None, :]
    deviation = products.mean(axis=0) - gaussian_kernel("erf", k, *[np.diag(k)] * 2).cross
    assert below(deviation / (products.std(axis=0) / np.sqrt(len(z))))


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


def test_an_element_of_equal_inputs_is_held_against_the_mean_square(monkeypatch):
    """Integrals over panels in a wrong order agree with each other at every order of the rule: E[phi^2] does not."""
    k = 1.5**2 * np.array([[1.0, 0.3], [0.3, 2.0]])
    right = gaussian_kernel("hard_tanh", k, np.diag(k), np.diag(k))
    np.testing.assert_allclose(np.diag(right.cross), right.left, atol=1e-10)
    near = lazy_kernel.near_kernel
    monkeypatch.setattr(lazy_kernel, "near_kernel", lambda *arguments: (3.0 * near(*arguments)[0], 0.0))
    monkeypatch.setattr(lazy_kernel, "_WANTED", 0.0)
    with pytest.raises(ValueError, match="contradicts itself"):
        gaussian_kernel("hard_tanh", k, np.diag(k), np.diag(k))
