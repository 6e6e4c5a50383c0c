"""Joint expectation propagation over readout and weights: factors, fixed points, bound, curvature, model steps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.special import logsumexp

from meanfield.activations.activation import activation
from meanfield.theories.general_data.joint.codes import Codes, JointNeuron
from meanfield.theories.general_data.joint.dual import CodesDual, _Model
from meanfield.theories.general_data.joint.scout import Scout

SIGMOID = activation("sigmoid")


def _clusters(n_samples, n_inputs, classes, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n_samples) % classes
    inputs = rng.normal(size=(n_samples, n_inputs)) + 0.8 * rng.normal(size=(classes, n_inputs))[labels]
    return inputs / np.sqrt(n_inputs), labels


@pytest.fixture(scope="module")
def neuron():
    matrix, labels = _clusters(45, 60, 3)
    t = 7.0 * (np.eye(3)[labels] - 1.0 / 3.0) + 0.5 * np.random.default_rng(1).normal(size=(45, 3))
    return JointNeuron(SIGMOID, matrix, 1.0 / 45, threads=2), t, labels


@pytest.fixture(scope="module")
def codes(neuron):
    model, t, labels = neuron
    starts = Scout(labels, model, np.random.default_rng(0)).starts(t, None, 24)
    found = model.search(t, starts, None, 1e-11, np.inf)
    assert len(found.joints) >= 4
    return found


@pytest.mark.parametrize("name", ["sigmoid", "erf", "hard_tanh", "step"])
def test_tilted_averages_against_adaptive_quadrature(name):
    """log norm, and its derivatives with respect to the mean, for kappa correlated with z."""
    phi = activation(name)
    model = JointNeuron(phi, np.eye(2), 0.5, threads=1)
    mean = np.array([[2.3, 0.4], [-1.1, -0.7]])
    cov = np.array([[[0.3, -0.2], [-0.2, 0.9]], [[0.2, 0.1], [0.1, 0.4]]])

    def log_norm(m, c):
        beta = c[0, 1] / c[1, 1]
        rest = c[0, 0] - beta * c[0, 1]

        def density(z):
            kappa, f = m[0] + beta * (z - m[1]), float(phi(np.array([z]))[0])
            gauss = np.exp(-0.5 * (z - m[1]) ** 2 / c[1, 1]) / np.sqrt(2 * np.pi * c[1, 1])
            return gauss * np.exp(kappa * f + 0.5 * rest * f * f)

        width = 12 * np.sqrt(c[1, 1])
        points = [*phi.kinks, m[1]]
        value, _ = quad(density, m[1] - width, m[1] + width, points=points, epsabs=0, epsrel=1e-12, limit=400)
        return np.log(value)

    found = model.tilted(mean, cov)
    h = 1e-3
    for i in range(2):
        assert found.log_norm[i] == pytest.approx(log_norm(mean[i], cov[i]), abs=1e-10)
        steps = h * np.eye(2)
        for j in range(2):
            up, down = log_norm(mean[i] + steps[j], cov[i]), log_norm(mean[i] - steps[j], cov[i])
            assert (up - down) / (2 * h) == pytest.approx(found.first[i, j], abs=2e-6)
            for k in range(2):
                corners = [log_norm(mean[i] + a * steps[j] + b * steps[k], cov[i]) for a in (1, -1) for b in (1, -1)]
                second = (corners[0] - corners[1] - corners[2] + corners[3]) / (4 * h * h)
                assert second == pytest.approx(found.second[i, j, k], abs=2e-5)


@pytest.mark.parametrize("bound", [False, True])
def test_gradient_of_log_z_is_the_mean_of_a_phi(neuron, codes, bound):
    """At a fixed point, and at the maximum of the bound, by central differences."""
    model, t, _ = neuron
    direction = np.random.default_rng(2).normal(size=t.shape)
    h = 1e-4
    for code in codes.joints:
        start = model.solve(t, (code.q, code.nu), 1e-12, bound)
        high, low = (model.solve(t + x * direction, (start.q, start.nu), 1e-12, bound).log_z for x in (h, -h))
        slope = float(np.sum(start.mean_a_phi * direction))
        assert (high - low) / (2 * h) == pytest.approx(slope, abs=2e-5 * (1 + abs(slope)))
        assert start.bound == bound


def test_variational_bound_lies_below(neuron, codes):
    model, t, _ = neuron
    for code in codes.joints:
        low = model.solve(t, (code.q, code.nu), 1e-10, bound=True)
        assert low.log_z < code.log_z
        assert low.log_z == pytest.approx(code.log_z, abs=1.0)
        assert low.readout == pytest.approx(code.readout, abs=0.05)


def test_sum_of_codes_is_the_integral():
    """Two weights, one output: ln Z by quadrature over readout and weights, all codes together."""
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(80, 2)) * 1.5
    t = 4.0 * np.sign(matrix[:, :1]) * (1.0 + 0.1 * rng.normal(size=(80, 1)))
    model = JointNeuron(SIGMOID, matrix, 1.0 / 80, threads=1)
    starts = Scout(None, model, rng).starts(t, None, 30)
    found = model.search(t, starts, None, 1e-10, np.inf)
    x = np.arange(-7, 7.01, 0.05)
    grid = np.stack(np.meshgrid(x, x), axis=-1).reshape(-1, 2)
    energy = SIGMOID(grid @ matrix.T) @ t[:, 0]
    # The readout is Gaussian at given weights.
    log_w = 0.5 * energy**2 / 80 - 0.5 * np.sum(grid**2, axis=1) + np.log(0.05**2 / (2 * np.pi))
    exact = logsumexp(log_w)
    assert logsumexp(found.log_z) == pytest.approx(exact, abs=0.02)
    mean = (energy / 80) @ np.exp(log_w - exact)
    assert found.weight @ found.readout[:, 0] == pytest.approx(mean, abs=0.01)


def test_curvature_is_symmetric_and_nearly_the_second_derivative(neuron, codes):
    model, t, _ = neuron
    rng = np.random.default_rng(4)
    u, v = rng.normal(size=(2, *t.shape))
    h = 1e-3
    for code in codes.joints:
        assert np.sum(u * code.curvature(v)) == pytest.approx(np.sum(v * code.curvature(u)), rel=1e-9)
        assert np.sum(u * code.curvature(u)) > 0
        matrix = code.curvature_matrix().reshape(t.size, t.size)
        assert matrix @ u.ravel() == pytest.approx(code.curvature(u).ravel(), rel=1e-9, abs=1e-9)
        high, low = (model.solve(t + x * u, (code.q, code.nu), 1e-12).mean_a_phi for x in (h, -h))
        exact = float(np.sum(u * (high - low))) / (2 * h)
        # Without the response of the sites: it sets the speed only.
        assert np.sum(u * code.curvature(u)) == pytest.approx(exact, rel=0.35)


def test_scout_finds_what_many_starts_find(neuron, codes):
    """The first dozen starts lead to every code within reach of the highest one."""
    model, t, labels = neuron
    starts = Scout(labels, model, np.random.default_rng(5)).starts(t, None, 12)
    few = model.search(t, starts, None, 1e-8, np.inf)
    for code in codes.joints:
        if code.log_z > codes.top - 8.0:
            assert any(model.same(code, other) for other in few.joints)


def test_codes_are_told_apart_once_and_in_order(neuron, codes):
    model, _, _ = neuron
    again = tuple(joint._replace(iterations=0) for joint in codes.joints)
    once = model.distinct(Codes(codes.t, (*codes.joints, *again)))
    assert [id(joint) for joint in once.joints] == [id(joint) for joint in codes.joints]
    top, low = codes.split(5.0, 2)
    assert len(top.joints) <= 2
    assert len(top.joints) + len(low) == len(codes.joints)
    assert top.joints[0].log_z == codes.top


def test_step_minimises_the_model(neuron, codes):
    """Log-sum of quadratics: conjugate gradients against a generic quasi-Newton method."""
    model, t, labels = neuron
    targets = np.where(np.eye(3)[labels] > 0, 1.0, 0.0)
    dual = CodesDual(model, targets, 0.05)
    state = dual.state(t, codes)
    problem = _Model(dual, state)
    _, drop = problem.minimum(1e3)

    def fun(x):
        value, gradient, *_ = problem.at(x.reshape(t.shape))
        return value, gradient.ravel()

    best = minimize(fun, np.zeros(t.size), jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-14})
    rest = fun(np.zeros(t.size))[0]
    assert 0.97 * (rest - best.fun) < drop <= rest - best.fun + 1e-8
    short, gained = problem.minimum(0.1)
    assert np.abs(short).max() <= 0.1 + 1e-12
    assert 0 < gained < drop


def test_gradient_of_the_model_is_its_slope(neuron, codes):
    model, t, labels = neuron
    dual = CodesDual(model, np.where(np.eye(3)[labels] > 0, 1.0, 0.0), 0.05)
    problem = _Model(dual, dual.state(t, codes))
    rng = np.random.default_rng(6)
    x, direction = rng.normal(size=(2, *t.shape)) * 0.1
    h = 1e-5
    slope = (problem.at(x + h * direction)[0] - problem.at(x - h * direction)[0]) / (2 * h)
    assert np.sum(problem.at(x)[1] * direction) == pytest.approx(slope, abs=1e-7 * (1 + abs(slope)))
