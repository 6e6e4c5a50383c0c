"""Targets far below sigma_a: what is certified meets them, however small they are, or is refused."""

import numpy as np
import pytest

import meanfield as mf

SHAPE = np.array([1.0, -0.4, 0.3])
FRACTIONS = np.array([0.5, 0.3, 0.2])
Z = np.linspace(-12.0, 12.0, 48_001)
WEIGHT = np.exp(-0.5 * Z**2) / np.sqrt(2.0 * np.pi) * (Z[1] - Z[0])


def outputs(post, phi):
    """<a phi> on every class, by a sum over preactivations; tilted densities lie within the grid."""
    s = post.solution
    total = np.zeros(s.t.shape)
    for weight, readout in zip(s.weight, s.readout):
        for c, kappa in enumerate(s.t @ readout):
            law = WEIGHT * np.exp(kappa * phi(Z) - np.max(kappa * phi(Z)))
            total[c] += weight * readout * (law @ phi(Z)) / law.sum()
    for o in post.outliers:
        total += np.outer(o.activation, o.readout)
    return total


@pytest.mark.parametrize("size", [1e-3, 1e-7, 1e-11, 1e-13])
@pytest.mark.parametrize(
    ("name", "phi"),
    [("relu", lambda z: np.maximum(z, 0.0)), ("tanh", np.tanh), ("hard_tanh", lambda z: np.clip(z, -1.0, 1.0))],
)
def test_classes(name, phi, size):
    targets = SHAPE * size
    try:
        post = mf.solve(mf.Network(name), mf.class_task(FRACTIONS, targets=targets))
    except mf.ConvergenceError:
        assert size < 1e-6
        return
    # 1.4e-12 of 1.4e-12 was a residual below the absolute 1e-10.
    np.testing.assert_allclose(outputs(post, phi)[:, 0], targets, atol=1e-3 * size)


@pytest.mark.parametrize("size", [1e-2, 1e-6, 1e-9, 1e-12])
def test_classes_at_finite_p(size):
    try:
        post = mf.solve(mf.Network("sigmoid"), mf.class_task(FRACTIONS, targets=SHAPE * size, n_samples=20), tau=0.05)
    except mf.ConvergenceError:
        assert size < 1e-8
        return
    assert post.certificate.kkt_residual <= 1e-4 * size
    # Linear response, whatever the size: t / y tends to a limit.
    reference = mf.solve(mf.Network("sigmoid"), mf.class_task(FRACTIONS, targets=SHAPE * 1e-3, n_samples=20), tau=0.05)
    np.testing.assert_allclose(post.solution.t / size, reference.solution.t / 1e-3, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("size", [1e-3, 1e-10])
def test_saturated_last_layer(size):
    """J is homogeneous of degree two: was certified with a residual of a third of the targets, and refused later."""

    def solved(size):
        return mf.solve(
            mf.Network("sigmoid", depth=2), mf.class_task([0.6, 0.4], targets=[size, -0.4 * size]), tau=0.01
        )

    post, reference = solved(size), solved(1.0)
    np.testing.assert_allclose(post.solution.t / size, reference.solution.t, rtol=1e-9)
    np.testing.assert_allclose(post.solution.weight, reference.solution.weight, rtol=1e-9)
    np.testing.assert_allclose(post.solution.readout / size, reference.solution.readout, rtol=1e-9)


@pytest.mark.parametrize("size", [1e-13, 1e-15, 1e-30])
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_deep_at_finite_p(name, size):
    """At 1e-30 a refusal was "Maximum allowed size exceeded", and below 1e-12 t was right to 1e-12 of sigma_a."""

    def solved(size):
        task = mf.class_task([0.6, 0.4], targets=np.array([1.0, -0.4]) * size, n_samples=60)
        return mf.solve(mf.Network(name, depth=2), task, tau=0.05)

    try:
        post = solved(size)
    except mf.ConvergenceError:
        assert size < 1e-13
        return
    # Linear response, whatever the size: t / y tends to a limit.
    np.testing.assert_allclose(post.solution.t / size, solved(1e-3).solution.t / 1e-3, rtol=1e-4)


@pytest.mark.parametrize("phi", ["sigmoid", "relu"])
def test_data(phi):
    """Outputs of 5,000 times the targets (sigmoid), or of nothing (ReLU), were certified at 1e-10."""
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(8, 5)), np.array([0, 0, 0, 1, 1, 1, 1, 0])
    found = {}
    for size in (1e-3, 1e-10):
        task = mf.data_task(inputs, np.array([1.0, -0.4])[labels] * size)
        found[size] = mf.solve(mf.Network(phi), task, tau=0.01).predict() / size
    # A tenth of the targets is the most that is accepted; a hundredth is what is left.
    np.testing.assert_allclose(found[1e-10], found[1e-3], atol=0.05)
