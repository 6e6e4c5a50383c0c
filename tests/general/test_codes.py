"""The dual by joint expectation propagation: lattices, plain NumPy, many outputs, symmetries, frozen codes."""

from __future__ import annotations

import numpy as np
import pytest
from general_oracles import digits, numpy_ep

import meanfield as mf
from meanfield.activations.activation import activation
from meanfield.theories.general_data.joint.codes import Codes, JointNeuron, pattern
from meanfield.theories.general_data.joint.dual import CodesDual
from meanfield.theories.general_data.solution import verdict
from meanfield.theories.general_data.solve import solve_frozen, solve_general

SIGMOID = activation("sigmoid")


def _mixture(n_samples, n_inputs, classes, off=0.0, seed=1):
    """Gaussian clusters: features, one-hot targets, labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n_samples) % classes
    inputs = rng.normal(size=(n_samples, n_inputs)) + 0.8 * rng.normal(size=(classes, n_inputs))[labels]
    return inputs / np.sqrt(n_inputs), np.where(np.eye(classes)[labels] > 0, 1.0, off), labels


def _solve(matrix, targets, labels, tau=0.01, phi=SIGMOID, **options):
    options.setdefault("method", "joint")
    return solve_general(phi, matrix, targets, 1.0, tau, labels=labels, threads=2, rng=0, **options)


@pytest.fixture(scope="module")
def three():
    matrix, targets, labels = _mixture(48, 80, 3)
    return matrix, targets, labels, _solve(matrix, targets, labels, tolerance=1e-8)


@pytest.fixture(scope="module")
def six():
    """More outputs than a lattice can have."""
    matrix, targets, labels = _mixture(72, 100, 6)
    return matrix, targets, labels, _solve(matrix, targets, labels, tau=0.05)


def test_lattice_agrees(three):
    """Another way to integrate the readout; what separates them is what `method_error` says, within a factor."""
    matrix, targets, labels, found = three
    exact = _solve(matrix, targets, labels, method="lattice")
    assert found.status == exact.status == "optimal"
    assert (found.method, exact.method) == ("joint", "lattice")
    error = found.tau * np.abs(found.t - exact.t).max()
    assert error < 10.0 * found.method_error < 5e-4
    assert found.objective == pytest.approx(exact.objective, abs=5e-3)
    assert np.sum(found.code_weight > 0.05) == np.sum(exact.code_weight > 0.05)
    heavy = found.code_weight > 0.05
    for weight, readout in zip(found.code_weight[heavy], found.code_readout[heavy]):
        nearest = np.argmin(np.sum((exact.code_readout - readout) ** 2, axis=1))
        assert weight == pytest.approx(exact.code_weight[nearest], abs=2e-3)
        assert readout == pytest.approx(exact.code_readout[nearest], abs=2e-3)


def test_digits_agree_with_the_page():
    """general_data/THEORY.md, "Readout lattice": digits 0/1/2,
    y_- = 0 (another draw of 90 digits: weights to a few percent)."""
    matrix, targets, labels = digits(0.0, 90)
    found = _solve(matrix, targets, labels)
    assert found.status == "optimal"
    heavy = found.code_weight > 0.01
    assert heavy.sum() == 3
    assert found.code_weight[heavy] == pytest.approx([1 / 3] * 3, abs=0.03)
    assert np.sort(np.abs(found.code_readout[heavy]), axis=1) == pytest.approx(1.4 * np.ones((3, 3)), abs=0.12)


def test_stationarity_in_plain_numpy(three):
    """Y = <a phi> + tau t with E phi of every readout from an independent expectation propagation."""
    matrix, targets, _, found = three
    mean = np.zeros_like(targets)
    for a, w, s, nu in zip(found.readout, found.weight, found.s, found.nu):
        if w > 1e-5:
            _, phi, _, _ = numpy_ep(SIGMOID, matrix, found.t @ a, s, nu, tolerance=1e-7)
            mean += w * np.outer(phi, a)
    gradient = found.tau * found.t - targets + mean
    assert np.abs(gradient).max() < 3e-4
    assert found.residual < 1e-5
    assert found.weight.sum() == pytest.approx(1.0)
    assert found.code_weight.sum() == pytest.approx(1.0)


def test_six_outputs(six):
    """One-hot targets of six classes: half of the classes active per code, each class in half of the neurons."""
    _, targets, labels, found = six
    assert found.status == "optimal"
    assert found.n_codes > 6
    active = np.array([[phi[labels == c].mean() for c in range(6)] for phi in found.code_phi]) > 0.5
    share = found.code_weight @ active
    assert share == pytest.approx(0.5 * np.ones(6), abs=0.2)
    fitted = targets - found.tau * found.t
    assert (np.argmax(fitted, axis=1) == labels).all()


def test_permuted_outputs_permute_the_solution(six):
    matrix, targets, labels, found = six
    order = np.array([3, 0, 5, 1, 4, 2])
    other = _solve(matrix, targets[:, order], order.argsort()[labels], tau=0.05)
    assert other.t == pytest.approx(found.t[:, order], abs=2e-3)
    assert other.objective == pytest.approx(found.objective, abs=2e-3)


def test_data_task_with_six_classes(six):
    """From `solve` to predictions and codes on new inputs."""
    matrix, _, labels, _ = six
    task = mf.data_task(matrix * np.sqrt(matrix.shape[1]), labels=labels)
    posterior = mf.solve(mf.Network("sigmoid"), task, tau=0.05)
    assert posterior.status == "optimal"
    assert posterior.certificate.kkt_residual < 1e-5
    assert any("Gaussian" in note for note in posterior.notes)
    # Training inputs as if they were new: all but their own response.
    again = posterior.predict(task.inputs)
    assert np.sqrt(np.mean((again - posterior.predictions) ** 2)) < 0.03
    assert posterior.predict_class(task.inputs).astype(int).tolist() == labels.tolist()
    assert posterior.code_activations().shape == (len(posterior.codes), len(labels))


def test_regression_without_classes():
    rng = np.random.default_rng(2)
    matrix = rng.normal(size=(70, 40)) / np.sqrt(40)
    y = np.tanh(2.0 * matrix @ rng.normal(size=(40, 2)))
    phi = activation("erf")
    found = _solve(matrix, y, None, tau=0.2, phi=phi)
    exact = _solve(matrix, y, None, tau=0.2, phi=phi, method="lattice")
    assert found.status == exact.status == "optimal"
    assert found.tau * np.abs(found.t - exact.t).max() < 0.02


def test_frozen_fractions(three):
    """Those of equilibrium leave t as it is; others move it as on the lattice (which lets rare codes into a basin)."""
    matrix, targets, labels, found = three
    same = solve_frozen(found, found.code_weight, rng=0)
    assert same.status == "optimal"
    assert same.t == pytest.approx(found.t, abs=1e-4)
    exact = _solve(matrix, targets, labels, method="lattice")
    wanted = np.array([0.02, -0.02, *[0.0] * (found.n_codes - 2)]) + found.code_weight
    distance = np.sum((exact.code_readout[:, None] - found.code_readout) ** 2, axis=2)
    moved = [solve_frozen(found, wanted, rng=0), solve_frozen(exact, wanted[np.argmin(distance, axis=1)], rng=0)]
    assert [s.status for s in moved] == ["optimal", "optimal"]
    assert np.abs(moved[0].t - found.t).max() > 0.1
    assert moved[0].t == pytest.approx(moved[1].t, abs=0.02)


def test_frozen_neurons_do_not_go_over_to_codes_that_a_search_finds(three):
    matrix, targets, *_ = three
    neuron = JointNeuron(SIGMOID, matrix, 1.0 / len(targets), 1)
    t = 4.0 * (targets - targets.mean(axis=0))
    one, other = (neuron.solve(t, pattern(np.where(targets[:, r] > 0.5, 1.0, 0.0)), 1e-9) for r in (0, 1))
    dual = CodesDual(neuron, targets, 0.01, None, {one.family: 1.0})
    state = dual.state(t, Codes(t, (other, one)))
    assert state.codes.joints == (one,)
    assert state.gradient == pytest.approx(0.01 * t - targets + one.mean_a_phi, abs=1e-12)


def test_warm_start_is_a_fixed_point(three):
    matrix, targets, labels, found = three
    again = _solve(matrix, targets, labels, warm_start=found, tolerance=1e-8)
    assert again.t == pytest.approx(found.t, abs=1e-6)
    assert again.iterations < found.iterations


def test_wrong_input():
    matrix, targets, labels = _mixture(24, 30, 6)
    with pytest.raises(ValueError, match="method must be"):
        _solve(matrix, targets, labels, method="saddle")
    with pytest.raises(ValueError, match="method='joint'"):
        _solve(matrix, targets, labels, method="lattice")


def test_random_labels_beyond_capacity_say_so():
    """More random labels than input dimensions at small tau."""
    rng = np.random.default_rng(5)
    matrix = rng.normal(size=(60, 10)) / np.sqrt(10)
    targets = np.eye(2)[rng.integers(0, 2, 60)]
    found = _solve(matrix, targets, None, tau=1e-3)
    assert found.status != "optimal"
    assert "tau" in found.message


@pytest.mark.parametrize(
    ("numbers", "status"),
    [
        ((1e-7, 0.0, 0.0, 0.0), "optimal"),
        ((1e-2, 0.0, 0.0, 0.0), "not converged"),
        ((0.5, 0.0, 0.0, 0.0), "EP failed"),
        ((1e-7, 0.03, 0.0, 0.0), "EP failed"),
        ((1e-7, 0.0, 0.03, 0.0), "EP failed"),
        ((1e-7, 0.0, 0.0, 0.05), "EP failed"),
        ((np.nan, 0.0, 0.0, 0.0), "not converged"),
    ],
)
def test_verdict(numbers, status):
    residual, extrapolated, bounded, method_error = numbers
    got, message = verdict(residual, 1e-6, np.ones((3, 1)), 2, 0.1, extrapolated, bounded, method_error)
    assert got == status
    assert bool(message) == (status != "optimal")
