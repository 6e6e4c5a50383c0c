"""ReLU-like networks on any data: bulk and outliers, against the single-layer solver, samples and identities."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from margins import below
from problems import fixed_rng

import meanfield as mf
from meanfield.problem.features import features_from_inputs
from meanfield.theories.general_data.lattice.nodes import Lattice
from meanfield.theories.general_data.neuron import Neuron
from meanfield.theories.general_data.outliers.bulk import bulk_moments
from meanfield.theories.general_data.outliers.check import joint_average, node_moments
from meanfield.theories.general_data.outliers.descent import OutlierSolution, solve_outliers
from meanfield.theories.general_data.outliers.lattice import BoundedNeuron, LatticeBulk, lattice_bulk, raise_heights

RELU = mf.Network("relu").activation


def outputs(solution: OutlierSolution, features):
    """sum_o lam_o phi(F w_o) u_o^T."""
    slope = solution.activation.slopes
    z = features @ solution.outlier_w.T
    return (np.where(z > 0, slope[1], slope[0]) * z * solution.outlier_weight) @ solution.outlier_direction


def one_hot(labels, off=0.0):
    return np.where(np.eye(labels.max() + 1)[labels] > 0, 1.0, off)


def mixture(n_samples=60, n_inputs=120, seed=5):
    rng = fixed_rng(seed)
    labels = np.arange(n_samples) % 3
    x = 0.5 * rng.standard_normal((3, n_inputs))[labels] + rng.standard_normal((n_samples, n_inputs))
    x -= x.mean(0)
    return x / np.sqrt((x**2).mean()), labels


# ---- the bulk ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("slopes", [(0.0, 1.0), (0.2, 1.0), (-0.5, 1.0)])
def test_gradient_of_the_bulk_is_exact(slopes):
    rng = np.random.default_rng(0)
    features, t = rng.standard_normal((20, 8)) / 3.0, 0.7 * rng.standard_normal((20, 2))
    found = bulk_moments(features, t, 1 / 20, slopes)
    for _ in range(3):
        change = 1e-5 * rng.standard_normal(t.shape)
        ahead, behind = (bulk_moments(features, t + s * change, 1 / 20, slopes).log_z for s in (1, -1))
        assert 0.5 * (ahead - behind) == pytest.approx((found.mean_a_phi * change).sum(), rel=1e-5, abs=1e-13)


def test_linear_phi_is_exact():
    rng = np.random.default_rng(1)
    features, t = rng.standard_normal((15, 25)) / 5.0, 0.5 * rng.standard_normal((15, 2))
    s2, b = 1 / 15, 0.5
    found = bulk_moments(features, t, s2, (b, b))
    inner = np.eye(2) - s2 * b**2 * t.T @ features @ features.T @ t
    assert found.log_z == pytest.approx(-0.5 * np.linalg.slogdet(inner)[1], abs=1e-11)
    expected = s2 * b**2 * features @ features.T @ t @ np.linalg.inv(inner)
    np.testing.assert_allclose(found.mean_a_phi, expected, atol=1e-11)


@pytest.mark.statistical
def test_bulk_against_importance_sampling():
    rng = fixed_rng(2)
    features, t, s2 = rng.standard_normal((60, 40)) / 6.3, 0.8 * rng.standard_normal((60, 2)), 1 / 60
    found = bulk_moments(features, t, s2, (0.0, 1.0))
    w = np.random.default_rng(3).standard_normal((300_000, 40))
    phi = np.maximum(w @ features.T, 0.0)
    response = phi @ t
    weight = np.exp(0.5 * s2 * (response**2).sum(1))  # the readout is Gaussian, given w
    error = weight.std() / weight.mean() / np.sqrt(len(w))
    # EP is an approximation here.
    assert below((found.log_z - np.log(weight.mean())) / np.hypot(error, 5e-4))
    average = (phi.T * weight) @ (s2 * response) / weight.sum()
    assert below((found.mean_a_phi - average) / np.abs(average).max(), 0.1, "<a phi>, relative")


@pytest.mark.parametrize("zero", [False, True])
def test_independent_averages_agree(zero):
    """Quadrature and matrix inversion against the closed forms, also where a sample has t = 0 or a zero input."""
    rng = np.random.default_rng(3)
    features, t = rng.standard_normal((12, 5)) / 2.0, 0.8 * rng.standard_normal((12, 2))
    if zero:
        t[3], features[5] = 0.0, 0.0
    found = bulk_moments(features, t, 1 / 12, (0.1, 1.0))
    average, mismatch = joint_average(features, t, 1 / 12, (0.1, 1.0), found.q, found.nu)
    np.testing.assert_allclose(found.mean_a_phi, average, atol=1e-9)
    assert mismatch < 1e-9
    wrong = found.nu + 0.01
    assert joint_average(features, t, 1 / 12, (0.1, 1.0), found.q, wrong)[1] > 1e-3


def test_nodes_far_out_on_a_ridge_agree_with_quadrature():
    """Strong tilts: |k| sd is large, and some preactivations are cut off at the kink far from their mean."""
    x, labels = mixture(45, 60)
    features = np.array(features_from_inputs(x).matrix)
    t = 0.8 * one_hot(labels, -0.5)
    readout = np.array([[0.0, 0.0, 0.0], [0.4, -0.3, 0.1], [3.0, -0.5, -0.5], [-2.0, 0.3, 2.5]])
    at = BoundedNeuron(RELU, features, 1 / 45, 10.0).evaluate(t, readout, tolerance=1e-10)
    assert (at.status == 0).all()
    exponent, phi, mismatch = node_moments(features, t, 1 / 45, (0.0, 1.0), readout, at.s, at.nu)
    assert mismatch < 1e-8
    np.testing.assert_allclose(exponent, at.exponent, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(phi, at.phi, rtol=1e-9, atol=1e-10)
    assert node_moments(features, t, 1 / 45, (0.0, 1.0), readout, at.s, at.nu + 0.01)[2] > 1e-4


def ridge_problem():
    """A t near the edge of its cone, a lattice and a neuron bounded at |a| = 1."""
    x, labels = mixture(45, 60)
    features = np.array(features_from_inputs(x).matrix)
    rng = np.random.default_rng(4)
    t = 2.4 * one_hot(labels, -0.3) + 0.8 * rng.standard_normal((45, 3))
    return t, Lattice(3, 1 / 45, 1.6, 6.0), BoundedNeuron(RELU, features, 1 / 45, 1.0)


def test_accelerated_iterations_end_at_the_same_fixed_points():
    t, _, neuron = ridge_problem()
    readout = np.random.default_rng(5).uniform(-0.5, 0.5, (60, 3))
    fast = neuron.evaluate(t, readout, tolerance=1e-10)
    plain = Neuron(RELU, neuron.features.matrix, neuron.prior)
    plain.features, plain.cap = neuron.features, 2000
    slow = plain.evaluate(t, readout, tolerance=1e-10, dampings=np.array([1.0, 0.8, 0.3]))
    both = (slow.status == 0) & (fast.status == 0)
    same = both & (np.abs(slow.exponent - fast.exponent) < 1e-8)
    assert both.sum() >= 50
    assert same.sum() >= both.sum() - 2, "where there are several, either may be found"
    np.testing.assert_allclose(fast.phi[same], slow.phi[same], atol=1e-7)
    assert fast.iterations[both].sum() < 0.8 * slow.iterations[both].sum()
    good = fast.status == 0
    exponent, _, mismatch = node_moments(
        neuron.features.matrix, t, neuron.prior, (0.0, 1.0), readout[good], fast.s[good], fast.nu[good]
    )
    assert mismatch < 1e-8
    np.testing.assert_allclose(exponent, fast.exponent[good], rtol=1e-9, atol=1e-9)


def test_one_attempt_where_it_failed_before():
    _, _, neuron = ridge_problem()
    rng = np.random.default_rng(6)
    t, readout = 15.0 * rng.standard_normal((45, 3)), rng.uniform(-0.5, 0.5, (40, 3))  # beyond capacity
    start = np.zeros((2, 40, 45))
    first = neuron.evaluate(t, readout, tuple(start))
    failed = np.flatnonzero(first.status != 0)
    assert 0 < failed.size < 40
    assert len(neuron.hopeless) == failed.size
    again = neuron.evaluate(t, readout, tuple(start))
    assert again.iterations[failed].max() <= 30
    assert again.iterations[failed].sum() < 0.6 * first.iterations[failed].sum()
    np.testing.assert_array_equal(again.exponent[first.status == 0], first.exponent[first.status == 0])
    assert (neuron.evaluate(0.02 * t, readout).status == 0).all(), "without sites: from zero"
    assert not neuron.hopeless


def test_bulk_that_was_dropped_is_found_again():
    t, lattice, neuron = ridge_problem()
    whole = lattice_bulk(neuron, t, lattice, None, 1e-8, np.empty((0, 3)))
    depth = np.linalg.norm(whole.nodes.at.readout, axis=1)
    far = whole.nodes.take(np.argsort(-depth)[:3])
    left = LatticeBulk(neuron, far, 0.0, np.zeros_like(t), 0)
    again = lattice_bulk(neuron, t, lattice, left, 1e-8, np.empty((0, 3)))
    assert again.log_z == pytest.approx(whole.log_z, abs=1e-3)
    assert len(again.nodes.at) > 0.9 * len(whole.nodes.at)


def test_higher_fixed_points_are_preferred():
    t, lattice, neuron = ridge_problem()
    some = lattice_bulk(neuron, t, lattice, None, 1e-8, np.empty((0, 3)))
    higher = raise_heights(neuron, some.nodes, 1e-8)
    assert (higher.at.exponent >= some.nodes.at.exponent - 1e-9)[some.nodes.at.status == 0].all()
    np.testing.assert_array_equal(higher.index, some.nodes.index)
    thorough = lattice_bulk(neuron, t, lattice, some, 1e-8, np.empty((0, 3)), thorough=True)
    assert thorough.log_z >= some.log_z - 1e-9
    once_more = lattice_bulk(neuron, t, lattice, thorough, 1e-8, np.empty((0, 3)), thorough=True)
    assert once_more.log_z == pytest.approx(thorough.log_z, abs=1e-5)


def test_other_lattice_starts_from_the_known_sites():
    t, lattice, neuron = ridge_problem()
    coarse = lattice_bulk(neuron, t, lattice, None, 1e-8, np.empty((0, 3)))
    fine = lattice_bulk(neuron, t, Lattice(3, 1 / 45, 1.4, 8.0), coarse, 1e-8, np.empty((0, 3)))
    assert fine.nodes.lattice.spacing == 1.4
    cold = lattice_bulk(neuron, t, Lattice(3, 1 / 45, 1.4, 8.0), None, 1e-8, np.empty((0, 3)))
    assert fine.log_z == pytest.approx(cold.log_z, abs=1e-3)
    assert fine.iterations <= cold.iterations


def test_no_fixed_point_is_not_hidden():
    features, t = np.ones((6, 1)), 4.0 * np.ones((6, 1))  # far outside the cone: no integral
    assert bulk_moments(features, t, 1 / 6, (0.0, 1.0)) is None


# ---- orthogonal data: the single-layer solver -----------------------------------------------------------


@pytest.mark.parametrize(("name", "off"), [("relu", 0.0), ("relu", -0.5), ("leaky_relu", 0.0)])
@pytest.mark.parametrize("n_samples", [99, 300])
def test_orthogonal_inputs_reproduce_the_single_layer_solver(name, off, n_samples):
    labels = np.arange(n_samples) % 3
    network = mf.Network(name)
    found = solve_outliers(network.activation, np.eye(n_samples), one_hot(labels, off), 1.0, 0.01, labels=labels, rng=0)
    task = mf.class_task(fractions=[1 / 3] * 3, off=off, n_samples=n_samples)
    expected = mf.solve(network, task, tau=0.01)
    # The readout is Gaussian to order 1 / P in the bulk here, and integrated on a lattice there.
    error = 10.0 / n_samples**2
    assert found.status == "optimal"
    np.testing.assert_allclose(found.t, expected.solution.t[labels], atol=error)
    assert len(found.outlier_weight) == len(expected.solution.outlier_weight) == 3
    np.testing.assert_allclose(found.outlier_weight, expected.solution.outlier_weight, atol=error)
    np.testing.assert_allclose(found.code_readout[0], expected.solution.readout[0], atol=3 * error)
    for u in expected.solution.outlier_direction:
        assert np.abs(found.outlier_direction - u).max(axis=1).min() < 10 * error


def test_prior_scales():
    n_samples, sigma_a, sigma_w = 120, 0.8, 1.3
    labels = np.arange(n_samples) % 3
    network = mf.Network("relu", sigma_a=sigma_a, sigma_w=sigma_w)
    found = solve_outliers(RELU, sigma_w * np.eye(n_samples), one_hot(labels), sigma_a, 0.02, labels=labels, rng=0)
    task = mf.class_task(fractions=[1 / 3] * 3, off=0.0, n_samples=n_samples)
    expected = mf.solve(network, task, tau=0.02).solution
    np.testing.assert_allclose(found.t, expected.t[labels], atol=1e-3)
    np.testing.assert_allclose(found.outlier_weight, expected.outlier_weight, rtol=2e-3)


def test_both_integrals_of_the_bulk_agree():
    n_samples = 150
    labels = np.arange(n_samples) % 3
    joint, lattice = (
        solve_outliers(RELU, np.eye(n_samples), one_hot(labels), 1.0, 0.01, labels=labels, rng=0, method=method)
        for method in ("joint", "lattice")
    )
    assert (joint.method, lattice.method) == ("joint", "lattice")
    np.testing.assert_allclose(joint.t, lattice.t, atol=1e-3)
    np.testing.assert_allclose(joint.outlier_weight, lattice.outlier_weight, atol=1e-3)
    np.testing.assert_allclose(joint.code_covariance[0], lattice.code_covariance[0], atol=3e-2 / n_samples)


# ---- other data -----------------------------------------------------------------------------------------


def check(solution: OutlierSolution, tolerance=1e-6, extrapolated=0.0):
    """Everything the certificate says, and Y = <a phi> + outliers + tau t once more.

    `extrapolated` is the weight of the readouts on which EP may have failed; more than 2 % must not be called optimal.
    """
    assert solution.extrapolated_weight <= extrapolated
    assert solution.status == ("EP failed" if solution.extrapolated_weight > 0.02 else "optimal"), solution.message
    for error in (solution.residual, solution.cone_excess, solution.slackness, solution.outlier_violation):
        assert error <= tolerance
    assert (solution.outlier_weight > 0).all()
    assert 1 <= solution.cone_hits <= solution.cone_starts
    rest = solution.targets - outputs(solution, solution.features) - solution.tau * solution.t
    if solution.method == "lattice":
        slope = solution.activation.slopes
        s2, f = solution.prior, solution.features
        exponent, phi, _ = node_moments(f, solution.t, s2, slope, solution.readout, solution.s, solution.nu)
        weight = np.exp(exponent - exponent.max())
        bulk = (phi.T * weight / weight.sum()) @ solution.readout
        if solution.extrapolated_weight == 0.0:
            assert np.abs(rest - bulk).max() <= tolerance
    # From the reported activations of the components, which are those of the tilted distributions.
    assert np.abs(rest - (solution.phi.T * solution.weight) @ solution.readout).max() < 0.02


def test_correlated_inputs():
    x, labels = mixture()
    features = features_from_inputs(x).matrix
    found = solve_outliers(RELU, features, one_hot(labels), 1.0, 0.01, labels=labels, rng=0, reach=1.0)
    check(found)
    assert found.separation < 12.0
    # One outlier per class, silent elsewhere.
    assert len(found.outlier_weight) == 3
    activation = np.maximum(found.features @ found.outlier_w.T, 0.0)
    by_class = np.array([activation[labels == c].mean(0) for c in range(3)])
    assert sorted(by_class.argmax(0)) == [0, 1, 2]
    assert (np.sort(by_class, axis=0)[1] < 0.1 * by_class.max(0)).all()


@pytest.mark.slow
def test_coordinates_of_the_weights_and_order_of_the_samples_are_arbitrary():
    x, labels = mixture(45, 60)
    features = features_from_inputs(x).matrix
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((features.shape[1],) * 2))[0]
    order = rng.permutation(len(labels))
    one = solve_outliers(RELU, features, one_hot(labels), 1.0, 0.02, labels=labels, rng=1, reach=1.0)
    turned = (features @ rotation)[order]
    other = solve_outliers(RELU, turned, one_hot(labels)[order], 1.0, 0.02, labels=labels[order], rng=2, reach=1.0)
    np.testing.assert_allclose(other.t, one.t[order], atol=1e-5)


@pytest.mark.statistical
@pytest.mark.slow
def test_ridges_replace_the_outliers_and_sampled_networks_agree():
    """Where nothing separates bulk and outliers the whole tail belongs to the bulk: then t is that of networks."""
    x, labels = mixture()
    features = features_from_inputs(x).matrix
    found = solve_outliers(RELU, features, one_hot(labels), 1.0, 0.01, labels=labels, rng=0)
    check(found)
    assert found.outlier_weight.size == 0
    assert found.cone_excess < 0.0, "inside the cone, not on its edge"
    tail = np.linalg.norm(found.readout, axis=1) > 0.6
    assert 0.25 < found.weight[tail].sum() < 0.4
    task = mf.data_task(x, one_hot(labels), labels=labels)
    chains = mf.sample(mf.Network("relu"), task, 100, 0.01, draws=300, warmup=400, chains=2, rng=1, progress=False)
    t = np.asarray(chains.residual).mean((0, 1)) / 0.01
    assert below(1 - np.corrcoef(t.ravel(), found.t.ravel())[0, 1], 0.01, "1 - correlation of t")
    assert below((t * found.t).sum() / (found.t**2).sum() - 1, 0.05, "slope of t - 1")


@pytest.mark.slow
def test_fewer_inputs_than_samples():
    x, labels = mixture(50, 25)
    features = features_from_inputs(x).matrix
    found = solve_outliers(RELU, features, one_hot(labels), 1.0, 0.5, labels=labels, rng=0, reach=1.0)
    assert found.features.shape == (50, 25)
    check(found)


@pytest.mark.slow
def test_duplicated_inputs_share_what_they_can():
    x, labels = mixture(30, 60)
    features = features_from_inputs(x).matrix
    twice = np.vstack([features, features])
    y = np.vstack([one_hot(labels), one_hot(labels)])
    found = solve_outliers(RELU, twice, y, 1.0, 0.05, labels=np.tile(labels, 2), rng=0, reach=1.0)
    check(found)
    np.testing.assert_allclose(found.t[:30], found.t[30:], atol=1e-6)
    # Two copies with t / 2 each, and the prior of P samples, are one sample at half the temperature.
    # (EP, an approximation, treats the copies as two sites.)
    once = solve_outliers(RELU, features, one_hot(labels), np.sqrt(0.5), 0.025, labels=labels, rng=0, reach=1.0)
    np.testing.assert_allclose(once.t, 2 * found.t[:30], atol=0.02)


def test_warm_start_and_progress():
    x, labels = mixture(45, 60)
    features = features_from_inputs(x).matrix
    seen = []
    options = {"labels": labels, "rng": 0, "reach": 1.0, "method": "lattice"}
    cold = solve_outliers(RELU, features, one_hot(labels), 1.0, 0.02, **options)
    warm = solve_outliers(
        RELU,
        features,
        one_hot(labels),
        1.0,
        0.022,
        **options,
        warm_start=cold,
        progress=lambda *what: seen.append(what),
    )
    assert warm.iterations < cold.iterations
    check(warm)
    assert {stage for stage, _, _ in seen} == {"samples"}
    assert seen[-1][2] < 1e-7


def test_zero_targets():
    found = solve_outliers(RELU, np.eye(8), np.zeros((8, 2)), 1.0, 0.1)
    assert found.status == "optimal"
    assert np.abs(found.t).max() == 0.0
    assert found.outlier_weight.size == 0


def test_what_cannot_be_solved_is_refused_in_words():
    x = np.eye(6)
    with pytest.raises(ValueError, match="is not treated here"):
        solve_outliers(mf.Network("sigmoid").activation, x, np.eye(6), 1.0, 0.1)
    with pytest.raises(ValueError, match="equally many rows"):
        solve_outliers(RELU, x, np.eye(5), 1.0, 0.1)
    with pytest.raises(ValueError, match="labels must be 6 integers"):
        solve_outliers(RELU, x, np.eye(6), 1.0, 0.1, labels=[0.5] * 6)
    with pytest.raises(ValueError, match="tau"):
        solve_outliers(RELU, x, np.eye(6), 1.0, 0.0)
    with pytest.raises(ValueError, match="finite"):
        solve_outliers(RELU, np.where(x > 0, np.nan, x), np.eye(6), 1.0, 0.1)
    with pytest.raises(ValueError, match="unknowns"):
        solve_outliers(RELU, np.zeros((700, 1)), np.zeros((700, 10)), 1.0, 0.1)


@pytest.mark.slow
def test_random_labels_are_solved_or_refused():
    """Many maxima of the cone, few starts reach the highest: the numbers that say so come with the result."""
    rng = np.random.default_rng(5)
    features = features_from_inputs(rng.standard_normal((24, 40))).matrix
    y = np.sign(rng.standard_normal((24, 1)))
    found = solve_outliers(RELU, features, y, 1.0, 0.1, rng=0)
    if found.status == "optimal":
        check(found, extrapolated=0.02)
    else:
        assert ("residual" if found.status == "not converged" else "extrapolated") in found.message
    assert found.cone_hits < 0.5 * found.cone_starts


@pytest.mark.slow
def test_digits():
    from meanfield import datasets

    train, _ = datasets.digits().classes(0, 1, 2).split(45, 30, rng=0)
    task = train.task(center=True, scale="rms")
    features = task.features(1.0).matrix
    found = solve_outliers(RELU, features, task.targets, 1.0, 0.05, labels=task.labels, rng=0, reach=1.0)
    check(found, extrapolated=0.1)
    assert found.separation < 12.0, "45 digits do not separate bulk and outliers"


@pytest.mark.slow
def test_mnist():
    folder = os.environ.get("MEANFIELD_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MEANFIELD_DATA does not name a folder with the IDX files of MNIST")
    from meanfield import datasets

    train, _ = datasets.mnist(folder, part="test").classes(0, 1, 2).split(100, 300, rng=0)
    task = train.task(center=True, scale="rms")
    features = task.features(1.0).matrix
    found = solve_outliers(RELU, features, task.targets, 1.0, 0.05, labels=task.labels, rng=0)
    assert found.status == "optimal", found.message
    assert found.reach >= 0.5
    check(found, extrapolated=0.02)


# ---- through `solve` ------------------------------------------------------------------------------------


def test_solve_predicts_and_saves(tmp_path):
    n_samples = 99
    labels = np.arange(n_samples) % 3
    x = np.sqrt(n_samples) * np.eye(n_samples)
    task = mf.data_task(x, one_hot(labels), labels=labels)
    post = mf.solve(mf.Network("relu"), task, tau=0.01, progress=False)
    assert isinstance(post.solution, OutlierSolution)
    assert post.status == "optimal"
    assert post.scheme == "sparse"
    assert len(post.outliers) == 3
    # The predictor takes z to be Gaussian, also on the training inputs, where it is not quite.
    np.testing.assert_allclose(post.predict(x), task.targets - 0.01 * post.solution.t, atol=6e-3)
    np.testing.assert_allclose(post.predictions, task.targets - 0.01 * post.solution.t, atol=6e-3)
    loaded = mf.DataPosterior.load(post.save(tmp_path / "relu.npz"))
    assert isinstance(loaded.solution, OutlierSolution)
    assert loaded.solution.cone_starts == post.solution.cone_starts
    np.testing.assert_array_equal(loaded.solution.outlier_pattern, post.solution.outlier_pattern)
    np.testing.assert_allclose(loaded.predict(x), post.predict(x), atol=1e-9)
