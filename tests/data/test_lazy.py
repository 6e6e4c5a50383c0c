"""Lazy networks: Gaussian process regression against dense algebra, and against wide random networks."""

import math

import numpy as np
import pytest
from margins import below, ratio

import meanfield as mf
from meanfield.theories.lazy.kernel import gaussian_kernel


def problem(n=12, n_inputs=5, m=2, seed=0):
    rng = np.random.default_rng(seed)
    x, new = rng.standard_normal((n, n_inputs)), rng.standard_normal((6, n_inputs))
    return mf.data_task(x, rng.standard_normal((n, m))), new


def lazy(name, **options):
    return mf.Network(name, scaling="lazy", **options)


@pytest.mark.parametrize("name", ["sigmoid", "relu", "tanh", "hard_tanh", "linear"])
@pytest.mark.parametrize(("depth", "temperature"), [(1, 0.1), (1, 1e-4), (3, 0.1)])
def test_mean_and_variance_by_dense_algebra(name, depth, temperature):
    task, new = problem()
    network = lazy(name, depth=depth, sigma_a=1.2, sigma_w=1.5)
    post = mf.solve(network, task, tau=temperature)
    everything = np.vstack([task.inputs, new])
    k = 1.5**2 * everything @ everything.T / 5
    for layer in range(depth):
        k = gaussian_kernel(name, k, np.diag(k), np.diag(k)).cross * (1.5**2 if layer < depth - 1 else 1.0)
    k *= 1.2**2 / 12 ** (1 / depth if name in ("relu", "linear") else 1)
    weights = np.linalg.solve(k[:12, :12] + temperature * np.eye(12), k[:12, 12:]).T
    mean, variance = post.predict(new, variance=True)
    np.testing.assert_allclose(mean, weights @ task.targets, atol=1e-9)
    expected = np.diag(k)[12:] - np.sum(weights * k[12:, :12], axis=1)
    np.testing.assert_allclose(variance, np.repeat(expected[:, None], 2, 1), rtol=1e-6)
    np.testing.assert_allclose(post.predictions, post.predict(), atol=1e-9)
    gauss = -0.5 * np.sum(task.targets * np.linalg.solve(k[:12, :12] + temperature * np.eye(12), task.targets))
    gauss -= np.linalg.slogdet(2 * math.pi * (k[:12, :12] + temperature * np.eye(12)))[1]  # m / 2 = 1
    assert post.objective == pytest.approx(-gauss, rel=1e-9)


def test_zero_temperature_interpolates():
    task, new = problem()
    post = mf.solve(lazy("sigmoid"), task)
    np.testing.assert_allclose(post.predict(), task.targets, atol=1e-9)
    close = mf.solve(lazy("sigmoid"), task, tau=1e-9)
    np.testing.assert_allclose(post.predict(new), close.predict(new), atol=1e-3)
    assert not post.residual.any()
    assert post.scheme == "lazy"
    assert post.codes == ()
    assert post.notes == ()


def test_the_mean_at_zero_temperature_is_that_of_the_non_lazy_linear_network():
    """linear/THEORY.md, "Kernels and predictors": same mean at T = 0; the variance is O(1) here and O(1/N) there."""
    rng = np.random.default_rng(0)
    task = mf.data_task(rng.standard_normal((6, 9)), rng.standard_normal((6, 2)))
    new = rng.standard_normal((4, 9))
    one, other = mf.solve(lazy("linear"), task), mf.solve(mf.Network("linear"), task)
    np.testing.assert_allclose(one.predict(new), other.predict(new), atol=1e-9)
    _, lazy_variance = one.predict(new, variance=True)
    _, variance = other.predict(new, variance=True, width=1000)
    assert (lazy_variance > 20 * variance).all()
    assert (variance > 0).all()


def test_singular_kernels():
    """More samples than inputs: a linear kernel interpolates consistent targets only, and says what it added."""
    rng = np.random.default_rng(1)
    x, new = rng.standard_normal((8, 3)), rng.standard_normal((4, 3))
    beta = rng.standard_normal((3, 1))
    post = mf.solve(lazy("linear"), mf.data_task(x, x @ beta))
    np.testing.assert_allclose(post.predict(new), new @ beta, atol=1e-6)
    assert "was added to the diagonal" in post.notes[0]
    with pytest.raises(ValueError, match=r"cannot interpolate: its kernel is singular \(5 of 8"):
        mf.solve(lazy("linear"), mf.data_task(x, rng.standard_normal((8, 1))))
    post = mf.solve(lazy("linear"), mf.data_task(x, rng.standard_normal((8, 1))), tau=0.1)
    assert post.status == "optimal"


@pytest.mark.statistical
@pytest.mark.parametrize(("name", "depth"), [("relu", 1), ("tanh", 2)])
def test_kernel_of_every_layer_equals_drawn_neurons(name, depth):
    task, new = problem()
    post = mf.solve(lazy(name, depth=depth, sigma_w=1.3), task, tau=0.1)
    kernel = post.kernel(new)
    drawn = post.sample_neurons(40_000, rng=0, X=new)
    moment = drawn.activations.T @ drawn.activations / 40_000
    error = (drawn.activations[:, :, None] * drawn.activations[:, None, :]).std(axis=0) / 200
    assert below(ratio(moment - kernel, error + 1e-12))
    np.testing.assert_allclose(post.kernel(new, task.inputs), post.kernel(task.inputs, new).T, atol=1e-13)
    assert post.kernel(layer=1).shape == (12, 12)


def test_class_tasks_are_refused():
    with pytest.raises(ValueError, match="solved on data only"):
        mf.solve(lazy("sigmoid"), mf.class_task(n_classes=2, n_samples=20))


def test_lazy_predictor_of_digits():
    """lazy/THEORY.md, "Held against samples": squared error per output .0190, accuracy .9955, digits 0/1/2, P = 90."""
    pytest.importorskip("sklearn", reason="scikit-learn (extra 'data') is not installed")
    train, test = mf.datasets.digits().classes(0, 1, 2).split(90, rng=0)
    error = mf.solve(lazy("sigmoid"), train.task()).generalization_error(test.images, test.labels)
    assert error.bias / 3 == pytest.approx(0.0190, abs=0.002)
    assert error.accuracy > 0.99
