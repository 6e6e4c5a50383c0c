"""The Jacobian of deep rectifiers: derivatives under the integrals, held to differences of finely integrated ones."""

import numpy as np
import pytest

import meanfield as mf
from meanfield.theories.deep.relu.average import FINE, ROUGH
from meanfield.theories.deep.relu.compiled.site import N_SLOPES, site, site_slopes
from meanfield.theories.deep.relu.nonlinearity import RECTIFIER
from meanfield.theories.deep.relu.outlier import above, condensed
from meanfield.theories.deep.relu.reduction import relu_problem
from meanfield.theories.deep.relu.search.bare import BareSystem
from meanfield.theories.deep.relu.search.start import prior_kernels
from meanfield.theories.deep.relu.slopes import gain_change, setting_change
from meanfield.theories.deep.relu.system import ReluSystem


def differences(function, x):
    columns = []
    for i, value in enumerate(x):
        step = 1e-5 * max(abs(value), 1e-2)
        unit = step * np.eye(len(x))[i]
        columns.append((function(x + unit) - function(x - unit)) / (2.0 * step))
    return np.array(columns).T


def agrees(found, wanted, x):
    """In units of the unknowns, relative to the largest derivative of each equation."""
    size = np.maximum(np.abs(x), 1e-2)
    error = np.abs(found - wanted) * size
    assert (error.max(axis=1) < 3e-6 * (1.0 + (np.abs(wanted) * size).max(axis=1))).all()


@pytest.mark.parametrize("h", [-30.0, -2.5, 0.1, 3.0, 40.0])
@pytest.mark.parametrize(
    ("b", "d", "delta"), [(0.7, 0.3, -0.02), (-4.0, 1.2, 0.3), (0.0, 0.05, 0.0), (25.0, 0.4, -1.0)]
)
def test_higher_derivatives_of_one_site_are_differences_of_lower_ones(b, h, d, delta):
    out = np.zeros(N_SLOPES)
    site_slopes(b, h, d, delta, RECTIFIER.numbers, out)
    np.testing.assert_allclose(out[:5], site(b, h, d, delta, RECTIFIER.numbers), rtol=1e-9, atol=1e-9)
    step = 1e-4

    def around(i, by_h):
        ends = []
        for sign in (1.0, -1.0):
            other = np.zeros(N_SLOPES)
            site_slopes(b + sign * step * (not by_h), h + sign * step * by_h, d, delta, RECTIFIER.numbers, other)
            ends.append(other[i])
        return (ends[0] - ends[1]) / (2.0 * step)

    lower = {5: (1, True), 6: (2, False), 7: (2, True), 8: (5, True), 9: (4, True), 10: (6, False), 11: (7, True)}
    lower[12] = (9, True)
    for i, (j, by_h) in lower.items():
        assert out[i] == pytest.approx(around(j, by_h), rel=1e-5, abs=1e-5 * (1.0 + abs(out[j])))


CASES = {
    "two layers": (mf.Network("relu", 2), mf.class_task(targets=[1, -1], n_samples=100), 0.05),
    "three layers": (mf.Network("relu", 3), mf.class_task(targets=[1, -1], n_samples=100), 0.05),
    "unequal, two outputs": (
        mf.Network("relu", 2, sigma_w=0.8),
        mf.class_task(targets=[[1.0, 0.2], [0.1, 0.7]], n_samples=120, fractions=[0.4, 0.6]),
        0.3,
    ),
}


def somewhere(problem, words):
    """Order parameters that solve nothing: weak conjugates, and outliers beside their directions."""
    rng = np.random.default_rng(3)
    order = problem.nothing(len(words))
    n_classes = len(problem.n)
    for layer, (off, rest) in enumerate(prior_kernels(problem)[:-1]):
        mixed = rng.standard_normal((n_classes, n_classes))
        order.kernel[layer] = off + 0.08 * off * (np.eye(n_classes) + 0.2 * (mixed + mixed.T) / 2.0)
        order.d[layer] = rest * (1.0 + 0.1 * rng.random(n_classes))
        order.tilde[layer] = (0.6 * np.eye(n_classes) - 0.25) / problem.n_samples
        order.delta[layer] = -(0.4 + 0.2 * rng.random(n_classes)) / problem.n_samples
    order.t[:] = 0.02 * (problem.y + 0.1 * rng.standard_normal(problem.y.shape))
    for layer in range(problem.depth):
        for o, word in enumerate(words):
            beta, _ = above(ReluSystem(problem, words).setting(order, layer), word)
            order.outliers(layer)[o] = 1.1 * beta + 0.05 * rng.standard_normal(len(beta))
    return order


@pytest.mark.parametrize("name", CASES)
def test_the_jacobian_is_that_of_differences_away_from_a_solution(name):
    problem, _, _ = relu_problem(*CASES[name])
    words = ("10", "01")
    system = ReluSystem(problem, words)
    x = system.pack(somewhere(problem, words))
    found = system.jacobian(x, FINE, system.residual(x, FINE))
    agrees(found, differences(lambda z: system.residual(z, FINE), x), x)


@pytest.mark.parametrize("name", CASES)
def test_with_kernels_eliminated_it_is_the_total_derivative(name):
    problem, _, _ = relu_problem(*CASES[name])
    words = ("01", "10")
    present = np.array([[True, True], [False, False], [True, True]])[: problem.depth]
    order = somewhere(problem, words)
    bare = BareSystem(problem, words, present)
    x = bare.pack(order)
    wanted, moved = bare.jacobian(x, FINE)
    agrees(wanted, differences(lambda z: bare.residual(z, FINE), x), x)
    size = np.maximum(np.abs(x), 1e-2)
    closeness = np.linalg.solve(bare.jacobian(x, ROUGH)[0] * size, wanted * size) - np.eye(len(x))
    assert np.linalg.norm(closeness, 2) < 0.1  # what the rough lattices of a branch are good for
    layer = problem.depth - 1

    def gain(z):
        setting = bare.full.setting(bare.order(z, FINE), layer)
        return condensed(setting, above(setting, "10")[0]).gain

    setting = bare.full.setting(bare.order(x, FINE), layer)
    change = setting_change(bare.order(x, FINE), moved, layer, problem.readout_variance, problem.into(layer))
    found = gain_change(setting, above(setting, "10")[0], change)
    np.testing.assert_allclose(found, differences(lambda z: np.array([gain(z)]), x)[0], rtol=1e-4, atol=1e-6)
