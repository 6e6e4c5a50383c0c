"""Deep rectifiers on four and five classes: exchanged nodes, shared fields, lattices with centres, independent sums."""

import math
from dataclasses import replace

import numpy as np
import pytest
from relu_oracles import _outlier, plain_site
from shared_field_oracle import second_layer_violations

import meanfield as mf
from meanfield.theories.deep.relu import average
from meanfield.theories.deep.relu.average import COARSE, FINE, FINE_WIDE, bulk, bulk_slopes
from meanfield.theories.deep.relu.coverage import refuses
from meanfield.theories.deep.relu.reduction import relu_problem
from meanfield.theories.deep.relu.search.alike import can_be_alike, from_alike_classes
from meanfield.theories.deep.relu.search.few import least_left_out
from meanfield.theories.deep.relu.setting import ReluSetting, several_factors
from meanfield.theories.deep.relu.solve import _planted

TWO = mf.Network("relu", 2)
FOUR = mf.class_task([0.25] * 4, targets=np.eye(4), n_samples=100)
TAU = 0.1


def one_hot(fractions, n_samples):
    return mf.class_task(fractions, targets=np.eye(len(fractions)), n_samples=n_samples)


@pytest.fixture(scope="module")
def four():
    return mf.solve(TWO, FOUR, TAU)


def test_four_classes_of_25_samples_are_certified(four):
    """A neuron of the first layer is silent on three of them."""
    s, proof = four.solution, four.certificate
    assert four.status == "optimal"
    assert proof.residual < 1e-6
    assert proof.order_error < 1e-6
    assert s.patterns == ("1000", "0100", "0010", "0001")
    assert s.free_energy == pytest.approx(-30.73993086, abs=1e-6)
    np.testing.assert_allclose(s.kernel[:, 0, :2], [[0.3752524, 0.1851480], [2.2975953, 0.9482070]], rtol=1e-6)
    np.testing.assert_allclose(s.d[:, 0], [0.3692544, 0.2382696], rtol=1e-6)
    np.testing.assert_allclose(s.t[0, :2], [0.2337127, -0.0522224], rtol=1e-6)


def test_the_first_layer_of_four_classes_on_a_plain_lattice(four):
    problem, _, _ = relu_problem(TWO, FOUR, TAU)
    s, n, k = four.solution, problem.n, problem.k
    value, vector = np.linalg.eigh(s.tilde[0])
    root = (vector * np.sqrt(value)) @ vector.T
    axis = 1.02 * (np.arange(-9, 18) + 0.2)  # further on the side of the outliers
    beta = np.stack(np.meshgrid(*[axis] * 4, indexing="ij"), -1).reshape(-1, 4)
    g, g_b, g_bb = (
        np.array(f) for f in zip(*(plain_site(b, np.zeros(1), k, s.delta[0, 0])[:3] for b in (beta @ root.T).T))
    )
    w = n @ g - 0.5 * (beta**2).sum(axis=1)
    w = np.exp(w - w.max())
    w /= w.sum()
    kernel = np.einsum("ck,k,ek->ce", g_b, w, g_b)
    activation = np.array([_outlier(b, n, np.full(4, k), s.delta[0], None)[0] for b in s.outlier_field[0]])
    np.testing.assert_allclose(kernel + activation.T @ activation, s.kernel[0], rtol=1e-6)
    np.testing.assert_allclose(g_bb @ w, s.d[0], rtol=1e-6)


def test_the_second_layer_of_four_classes_by_scattered_points(four):
    problem, _, span = relu_problem(TWO, FOUR, TAU)
    found, share = second_layer_violations(problem, span, four.solution, scramblings=5, log2_points=9)
    assert share > 0.2
    for deviation, error, _ in found.values():
        assert error < 0.03
        assert abs(deviation) < 6.0 * error + 2e-3


def planted(fractions, n_samples):
    problem, _, _ = relu_problem(TWO, one_hot(fractions, n_samples), TAU)
    system, x = _planted(problem)
    return system, system.unpack(x)


@pytest.mark.parametrize(("fractions", "layer"), [([1 / 3] * 3, 0), ([1 / 3] * 3, 1), ([0.3, 0.3, 0.4], 0)])
def test_one_of_the_nodes_that_classes_map_into_each_other_is_enough(fractions, layer, monkeypatch):
    system, order = planted(fractions, 150)
    setting, walls = system.setting(order, layer), order.outliers(layer)
    found, slopes = bulk(setting, FINE_WIDE, walls, True), bulk_slopes(setting, FINE_WIDE, walls)
    alone = -np.ones(3, dtype=np.int64), [(0, 1, 2)]
    monkeypatch.setattr(average, "_exchanged", lambda *_: alone)
    every, every_slope = bulk(setting, FINE_WIDE, walls, True), bulk_slopes(setting, FINE_WIDE, walls)
    assert found.nodes < (0.25 if fractions[0] == fractions[2] else 0.6) * every.nodes
    for one, other in zip(found[:-1], every[:-1]):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-8)
    for one, other in zip(slopes, every_slope):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6 * max(np.abs(other).max(initial=0.0), 1e-9))


def test_classes_in_other_places_are_not_exchanged():
    system, order = planted([0.3, 0.3, 0.4], 150)
    setting = system.setting(order, 0)
    arguments = np.zeros((3, 0)), np.zeros(3), np.zeros((0, 5)), np.zeros((0, 3))
    before, images = average._exchanged(setting, np.zeros(3), setting.root, *arguments)
    assert before.tolist() == [-1, 0, -1]
    assert images == [(0, 1, 2), (1, 0, 2)]
    before, images = average._exchanged(setting, np.array([0.0, 0.1, 0.0]), setting.root, *arguments)
    assert before.tolist() == [-1, -1, -1]
    assert images == [(0, 1, 2)]


def test_a_lattice_with_centres_is_a_lattice(monkeypatch):
    """Three dimensions, where it is not used."""
    system, order = planted([0.5, 0.5], 100)
    setting, walls = system.setting(order, 1), order.outliers(1)
    plain = bulk(setting, FINE, walls, True)
    monkeypatch.setattr(average, "_CENTRED", 3)
    for one, other in zip(bulk(setting, FINE, walls, True)[:-1], plain[:-1]):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-9)


COVARIANCES = {
    "four unlike": (np.eye(4), 2),
    "five unlike": (np.eye(5), 3),
    "two pairs": (np.kron(np.eye(2), np.ones((2, 2))), 2),
    "a pair and two": (np.diag([1.0, 1.0, 0.0, 0.0]), 2),
}


def covariance_of(name):
    seed, _ = COVARIANCES[name]
    n = len(seed)
    v = (
        np.linspace(-1.0, 1.0, n)
        if "unlike" in name
        else np.array([0.3, 0.3, -0.4, -0.4 if name == "two pairs" else 0.9])
    )
    w = np.cos(2.0 + 3.0 * v)
    return 0.15 + 0.03 * np.outer(v, v) + 0.01 * np.outer(w, w) + np.diag(0.1 + 0.02 * v)


@pytest.mark.parametrize("name", COVARIANCES)
def test_classes_share_as_few_fields_as_do(name):
    covariance = covariance_of(name)
    u, spread = several_factors(covariance)
    np.testing.assert_allclose(u @ u.T + np.diag(spread), covariance, atol=1e-14)
    assert u.shape[1] <= COVARIANCES[name][1]
    assert spread.min() > 0.0
    if "pair" in name:
        np.testing.assert_array_equal(u[0], u[1])


def test_other_factors_give_the_same_integral_of_four_classes():
    covariance = covariance_of("four unlike")
    n, d = np.array([90.0, 60.0, 70.0, 80.0]), np.array([0.3, 0.28, 0.33, 0.31])
    root = 0.02 * np.array([[0.3], [-0.2], [0.15], [0.25]])
    setting = ReluSetting(root, n, d, np.zeros(4), covariance)
    assert setting.shared[0].shape[1] == 2
    other = replace(setting)
    alone = 1.0 / np.diag(np.linalg.inv(covariance))
    least = np.linalg.eigvalsh(covariance / np.sqrt(np.outer(alone, alone)))[0]
    value, vector = np.linalg.eigh(covariance - np.diag(0.9 * least * alone))
    keep = value > 1e-3 * value[-1]
    u = vector[:, keep] * np.sqrt(value[keep])
    other.__dict__["shared"] = u, np.diag(covariance) - (u**2).sum(axis=1)
    exact = replace(setting, covariance=u @ u.T + np.diag(other.shared[1]))
    one, two = bulk(exact, FINE, np.zeros((0, 1)), True), bulk(other, FINE, np.zeros((0, 1)), True)
    for a, b in zip(one[:-1], two[:-1]):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-8)


def test_unlike_classes_from_classes_that_are_made_alike():
    """Chains of outliers, which lead to solutions of classes that are alike, do not here."""
    problem, _, _ = relu_problem(TWO, one_hot([0.4, 0.33, 0.27], 200), TAU)
    assert can_be_alike(problem)
    system, x = from_alike_classes(problem, _planted, lambda _: None)
    assert system.problem.n.tolist() == problem.n.tolist()
    assert np.linalg.norm(system.residual(x, COARSE)) < 0.01
    assert not can_be_alike(relu_problem(TWO, one_hot([0.25] * 4, 200), TAU)[0])
    assert not can_be_alike(relu_problem(TWO, mf.class_task(targets=[1, -1], n_samples=100), TAU)[0])


def test_samples_that_codes_leave_out():
    n = np.array([20.0, 30.0, 50.0])
    assert least_left_out(n) == 50.0
    assert least_left_out(n, ("100", "110"), np.array([True, False])) == 80.0
    assert least_left_out(n, ("100", "110"), np.array([True, True])) == 50.0
    assert least_left_out(n, ("100",), np.array([False])) == math.inf
    with pytest.raises(mf.ConvergenceError, match=r"36 samples per class.*got 30"):
        mf.solve(TWO, one_hot([0.25] * 4, 40), TAU)


def test_which_tasks_of_many_classes_are_refused():
    unlike = [0.3, 0.25, 0.2, 0.15, 0.1]
    for network, task in (
        (TWO, one_hot([0.4, 0.3, 0.2, 0.1], 400)),
        (mf.Network("relu", 3), one_hot([0.25] * 4, 400)),
        (TWO, one_hot([0.2] * 5, 400)),
        (TWO, mf.class_task(unlike, targets=[1, 0.5, 0, -0.5, -1], n_samples=400)),
    ):
        assert refuses(network, task, TAU) is None
    assert "need 8 (5 conjugate fields, 3 that classes share)" in refuses(TWO, one_hot(unlike, 400), TAU)
    assert "need 8" in refuses(
        mf.Network("relu", 3), mf.class_task(unlike, targets=[1, 0.5, 0, -0.5, -1], n_samples=400), TAU
    )


def test_classes_without_a_symmetry_in_six_dimensions_are_refused_at_once():
    with pytest.raises(mf.ConvergenceError, match="max_seconds= allows as much"):
        mf.solve(TWO, one_hot([0.4, 0.3, 0.2, 0.1], 400), TAU)
