"""Predictors from a mixture: exact on linear phi, where the mixture is a lattice over the Gaussian readout."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import sympy as sp
from margins import below

import meanfield as mf
from meanfield.theories.general_data.predictor import GeneralPredictor, hermite_moments

Z = sp.Symbol("z", real=True)


@pytest.mark.parametrize(
    "phi",
    [
        *map(mf.activation, ("sigmoid", "relu", "tanh", "step", "gelu", "hard_tanh", "linear")),
        mf.Activation(Z / (1 + sp.Abs(Z)), Z),
    ],
    ids=str,
)
def test_hermite_moments_against_a_fine_sum(phi):
    mean, variance = np.array([-1.3, 0.0, 0.4, 2.0]), np.array([0.3, 1.0, 4.0, 0.02])
    moments, square = hermite_moments(phi, mean, variance, 5)
    x = np.linspace(-9, 9, 200_001)
    w = np.exp(-x * x / 2) / np.sqrt(2 * np.pi) * (x[1] - x[0])
    hermite = [np.ones_like(x), x, (x**2 - 1) / 2**0.5, (x**3 - 3 * x) / 6**0.5, (x**4 - 6 * x**2 + 3) / 24**0.5]
    tolerance = 5e-5 if phi.name == "step" else 1e-9  # of the sum: half a step at the jump
    for i, (m, v) in enumerate(zip(mean, variance, strict=True)):
        value = phi(m + np.sqrt(v) * x)
        expected = [np.sum(w * value * h) for h in hermite]
        np.testing.assert_allclose(moments[i], expected, atol=tolerance)
        assert square[i] == pytest.approx(np.sum(w * value**2), abs=tolerance)


@pytest.mark.parametrize(
    "phi",
    [
        *(mf.activation(name, gain=gain) for name in ("tanh", "sigmoid", "erf") for gain in (1.0, 5.0, 20.0)),
        mf.Activation(sp.tanh(10 * (Z - 2)), Z),
    ],
    ids=repr,
)
def test_steep_and_wide_activations_are_resolved(phi):
    """However steep phi and however wide the distribution of z; the nodes of one row do not depend on the others."""
    mean = np.array([0.0, 0.3, 2.0, -40.0, 3.0, 2000.0])
    variance = np.array([1.0, 0.04, 9.0, 2500.0, 1e6, 1e6])
    moments, square = hermite_moments(phi, mean, variance, 3)
    for i, (m, v) in enumerate(zip(mean, variance, strict=True)):
        # Dense where phi may bend, and over the whole Gaussian.
        edges = np.concatenate([np.linspace(-12, 12, 2001), m + np.sqrt(v) * np.linspace(-9, 9, 2001)])
        edges = np.unique(np.clip(edges, m - 9 * np.sqrt(v), m + 9 * np.sqrt(v)))
        nodes, weights = np.polynomial.legendre.leggauss(8)
        z = (0.5 * (edges[1:] + edges[:-1])[:, None] + 0.5 * np.diff(edges)[:, None] * nodes).ravel()
        x = (z - m) / np.sqrt(v)
        w = (0.5 * np.diff(edges)[:, None] * weights).ravel() * np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi * v)
        value = phi(z)
        expected = [w @ value, w @ (value * x), w @ (value * (x**2 - 1)) / np.sqrt(2)]
        np.testing.assert_allclose(moments[i], expected, atol=1e-9)
        assert square[i] == pytest.approx(w @ value**2, abs=1e-9)
    alone = hermite_moments(phi, mean[1:2], variance[1:2], 3)[0]
    np.testing.assert_allclose(alone[0], moments[1], atol=1e-10)


def test_moments_of_enormous_inputs_need_no_enormous_memory():
    moments, square = hermite_moments(mf.activation("sigmoid"), np.array([0.0, 1e9]), np.array([1e18, 1e18]), 1)
    np.testing.assert_allclose(moments[:, 0], [0.5, 0.841344746], atol=1e-8)
    np.testing.assert_allclose(square, [0.5, 0.841344746], atol=1e-8)


def linear_mixture(m, tau, seed=0):
    """A linear network as a mixture over readouts: S = 0, nu = t a, and P(a) = N(0, U) on a lattice."""
    rng = np.random.default_rng(seed)
    task = mf.data_task(rng.standard_normal((6, 9)), 0.5 * rng.standard_normal((6, m)))
    network = mf.Network("linear", sigma_w=1.2)
    post = mf.solve(network, task, tau=tau)
    kernel = task.features(1.2).kernel
    t, covariance = post.order_parameters["t"], post.readout_covariance
    grid = np.array(list(itertools.product(0.5 * np.arange(-13, 14), repeat=m)))
    weight = np.exp(-0.5 * (grid**2).sum(1))
    readout = grid @ np.linalg.cholesky(covariance).T
    keep = weight > 1e-14
    readout, weight = readout[keep], weight[keep] / weight[keep].sum()
    n = len(weight)
    solution = SimpleNamespace(
        t=t,
        readout=readout,
        weight=weight,
        phi=readout @ (kernel @ t).T,
        spread=np.tile(np.diag(kernel), (n, 1)),
        gain=np.ones((n, 6)),
        s=np.zeros((n, 6)),
        nu=readout @ t.T,
        soft=np.full(n, -1),
        soft_x=np.zeros(n),
        basin=np.zeros(n, dtype=int),
        directions=np.zeros((0, 6)),
        frozen=False,
        outlier_direction=np.zeros((0, m)),
        outlier_weight=np.zeros(0),
        outlier_w=np.zeros((0, 6)),
    )
    return post, GeneralPredictor(network, task, tau, solution, ("Gaussian",)), rng.standard_normal((5, 9))


@pytest.mark.parametrize(("m", "tau"), [(1, 0.1), (2, 0.1), (2, 1.0)])
def test_linear_networks_as_a_mixture(m, tau):
    post, predictor, new = linear_mixture(m, tau)
    np.testing.assert_allclose(predictor.mean(new), post.predict(new), atol=1e-5)
    np.testing.assert_allclose(predictor.kernel(new, None, 1), post.kernel(new), atol=1e-3)
    np.testing.assert_allclose(predictor.kernel(new, new[:2], 1), post.kernel(new, new[:2]), atol=1e-3)
    np.testing.assert_allclose(predictor.variance(new, 50.0), post.predict(new, True, width=50)[1], rtol=1e-4)
    np.testing.assert_allclose(predictor.mean(post.task.inputs), post.predictions, atol=1e-5)


@pytest.mark.statistical
def test_a_component_resolved_along_a_line_is_the_same_gaussian():
    """Splitting w into u.w = x on a fine lattice and the rest changes nothing when P(w | a) is Gaussian."""
    post, plain, new = linear_mixture(1, 0.1)
    s = plain.solution
    features = post.task.features(1.2).matrix
    u = np.array([0.6, 0.0, 0.8, 0.0, 0.0, 0.0])
    mean = s.nu @ features @ u  # of u.w, whose variance is 1
    x = mean[:, None] + 0.25 * np.arange(-30, 31)
    share = np.exp(-0.5 * (x - mean[:, None]) ** 2)
    share /= share.sum(axis=1, keepdims=True)
    rest = features - np.outer(features @ u, u)
    count = x.shape[1]
    phi = (s.nu @ rest @ rest.T)[:, None, :] + x[:, :, None] * (features @ u)
    split = SimpleNamespace(**vars(s))
    split.weight = (s.weight[:, None] * share).ravel()
    split.phi = phi.reshape(-1, 6)
    split.spread = np.tile((rest**2).sum(1), (len(split.weight), 1))
    for name in ("readout", "gain", "s", "nu", "basin"):
        setattr(split, name, np.repeat(getattr(s, name), count, axis=0))
    split.soft, split.soft_x = np.zeros(x.size, dtype=int), x.ravel()
    split.directions = u[None]
    lines = GeneralPredictor(plain.network, plain.task, plain.tau, split, ("Gaussian",))
    np.testing.assert_allclose(lines.mean(new), plain.mean(new), atol=1e-6)
    np.testing.assert_allclose(lines.variance(new, 1.0), plain.variance(new, 1.0), rtol=1e-4)
    np.testing.assert_allclose(lines.kernel(new, None, 1), plain.kernel(new, None, 1), atol=1e-3)
    drawn = lines.draw(40_000, new, np.random.default_rng(0))
    moment = drawn[3].T @ drawn[3] / 40_000
    error = (drawn[3][:, :, None] * drawn[3][:, None, :]).std(axis=0) / 200
    assert below((moment - plain.kernel(new, None, 1)) / np.hypot(error, 1e-3))  # the lattice is exact to 1e-3


@pytest.mark.statistical
def test_drawn_neurons_make_the_outputs():
    post, predictor, new = linear_mixture(2, 0.1)
    readouts, part, names, z = predictor.draw(60_000, new, np.random.default_rng(0))
    products = z[:, :, None] * readouts[:, None, :]
    error = products.std(axis=0) / np.sqrt(60_000)
    assert below((products.mean(0) - post.predict(new)) / error)
    covariance = post.readout_covariance
    assert below((np.cov(readouts.T) - covariance) / (np.trace(covariance) * np.sqrt(2 / 60_000)))
    assert names == ("Gaussian",)
    assert not part.any()
    few = predictor.draw(60_000, new[:2], np.random.default_rng(0))[3]
    np.testing.assert_allclose(few, z[:, :2], atol=1e-12)


def test_outliers_add_their_outputs_and_their_kernel():
    _, predictor, new = linear_mixture(2, 0.1)
    s = SimpleNamespace(**vars(predictor.solution))
    s.outlier_direction, s.outlier_weight, s.outlier_w = np.array([[0.6, 0.8]]), np.array([0.3]), np.ones((1, 6))
    network = mf.Network("relu", sigma_w=1.2)
    plain = GeneralPredictor(network, predictor.task, 0.1, predictor.solution, ("bulk",))
    more = GeneralPredictor(network, predictor.task, 0.1, s, ("bulk", "outlier 1-0"))
    active = np.maximum(predictor.task.features(1.2).project(new)[0] @ np.ones(6), 0.0)
    np.testing.assert_allclose(more.mean(new) - plain.mean(new), 0.3 * np.outer(active, [0.6, 0.8]), atol=1e-12)
    difference = more.kernel(new, None, 1) - plain.kernel(new, None, 1)
    np.testing.assert_allclose(difference, 0.3 * np.outer(active, active), atol=1e-12)
    readouts, part, names, z = more.draw(100, new, np.random.default_rng(0))
    assert names[part[-1]] == "outlier 1-0"
    np.testing.assert_allclose(readouts[-1], np.sqrt(30) * np.array([0.6, 0.8]))
    np.testing.assert_allclose(np.maximum(z[-1], 0), np.sqrt(30) * active, atol=1e-12)
    with pytest.raises(ValueError, match="cannot hold 1 outliers"):
        more.draw(1, new, np.random.default_rng(0))
