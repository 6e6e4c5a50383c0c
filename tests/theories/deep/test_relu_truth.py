"""Deep rectifiers whose codes are found along a branch: equations integrated again by NumPy alone, rivals, limits."""

import numpy as np
import pytest
from relu_oracles import plain_violations, violations_with_errors

import meanfield as mf
from meanfield.numerics.limits import OutOfTime, time_limit
from meanfield.theories.deep.relu import solve as solving
from meanfield.theories.deep.relu.allowance import TooMuchWork, allowance, spend, spent
from meanfield.theories.deep.relu.average import CHECK, FINE, ROUGH, bulk
from meanfield.theories.deep.relu.newton import newton
from meanfield.theories.deep.relu.reduction import relu_problem
from meanfield.theories.deep.relu.search.branch import _Turns
from meanfield.theories.deep.relu.setting import ReluSetting
from meanfield.theories.deep.relu.stability import order_errors

# Numbers 35, 8 and 17 of benchmarks/random_deep.py at seed 0, and their outliers of both layers.
TASKS = {
    "two outputs, unequal sizes": (
        mf.Network("relu", 2, sigma_a=1.0, sigma_w=1.25),
        mf.class_task(targets=[[-0.6209, 0.2625], [-0.06432, -0.1253]], n_samples=239),
        0.0053,
        ({"10"}, {"10"}),
    ),
    "three classes, one output": (
        mf.Network("relu", 2, sigma_a=1.0, sigma_w=1.0, readout_exponent=1.0),
        mf.class_task(targets=[[-0.845], [-0.03953], [0.06972]], n_samples=3008),
        0.00529,
        ({"001", "110"}, {"011", "110"}),
    ),
    "three outputs, many samples": (
        mf.Network("relu", 2, sigma_a=1.5, sigma_w=0.8),
        mf.class_task(targets=[[-0.6706, 0.5076, -0.1084], [-0.3616, 0.6716, -0.8682]], n_samples=3106),
        0.0594,
        ({"01", "10"}, set()),
    ),
}
SMALL = mf.class_task(targets=[[0.95, 0.608], [0.608, 0.95]], n_samples=220)
NETWORK = mf.Network("relu", 2, sigma_w=0.8)


@pytest.mark.parametrize("name", TASKS)
def test_solutions_solve_the_equations_of_another_integration(name):
    network, task, tau, codes = TASKS[name]
    post = mf.solve(network, task, tau)
    assert post.status == "optimal"
    problem, index, span = relu_problem(network, task, tau)
    np.testing.assert_array_equal(index, np.arange(task.n_classes))
    found = plain_violations(problem, span, post.solution)
    assert max(found.values()) < 1e-6, found
    for field, wanted in zip(post.solution.outlier_field, codes):
        there = {word for word, b in zip(post.solution.patterns, field) if np.abs(b).max() > 1e-6}
        assert there == wanted


def test_the_error_of_order_parameters_is_their_distance_from_a_solution(tmp_path):
    """What the certificate says of a solution of coarse lattices is how far it is from that of fine ones."""
    network, task = mf.Network("relu", 2), mf.class_task(n_classes=2, off=-1.0, n_samples=100)
    post = mf.solve(network, task, 0.05)
    proof = post.certificate
    assert proof.order_error < 1e-8
    assert {(e.name, e.layer) for e in proof.order_errors} == {
        *((name, 1) for name in ("kernel", "d", "tilde", "delta", "outliers")),
        *((name, 2) for name in ("kernel", "d", "t", "outliers")),
    }
    assert mf.load(post.save(tmp_path / "post.npz")).certificate.order_errors == proof.order_errors
    system, order = post._system
    rough = ROUGH._replace(beta=1.6, h=1.6)
    x, size, _ = newton(system, system.pack(order), rough, 1e-11, 20, lambda size: None)
    assert size < 1e-9
    have, exact = system.unpack(x), system.unpack(system.pack(order))
    apart = {(e.name, e.layer): e.value for e in order_errors(system, x, rough, CHECK)}
    for name in ("kernel", "d", "tilde", "delta"):
        a, b = getattr(have, name)[0], getattr(exact, name)[0]
        assert apart[name, 1] == pytest.approx(np.abs(a - b).max() / np.abs(a).max(), rel=0.1), name
    assert apart["t", 2] == pytest.approx(np.abs(have.t - exact.t).max() / np.abs(have.t).max(), rel=0.1)
    assert max(apart.values()) > 1e-5


def test_classes_of_equal_targets_start_from_a_solution():
    """Two of three classes are one in the equations; outliers have code words of the three."""
    network = mf.Network("relu", 2)
    task = mf.class_task(targets=[[1.0], [-1.0], [-1.0]], fractions=[0.5, 0.25, 0.25], n_samples=100)
    post = mf.solve(network, task, 0.05)
    again = mf.solve(network, task, 0.06, warm_start=post)
    assert "one outlier per class and layer leads to the same solution" in again.certificate.searched[0]
    alone = mf.solve(network, task, 0.06)
    assert again.free_energy == pytest.approx(alone.free_energy, abs=1e-9)


def test_past_a_first_order_transition_both_solutions_are_compared(tmp_path):
    """These targets are learned in a transition below them; the solution that has not learned goes on beyond."""
    post = mf.solve(NETWORK, SMALL, 0.66)
    assert post.status == "optimal"
    (other,) = post.certificate.branches
    assert other.name == "outliers none / none"
    assert other.residual < 1e-7
    assert other.free_energy < post.solution.free_energy - 0.01
    assert "first-order" in post.certificate.searched[0]
    back = mf.load(post.save(tmp_path / "both")).certificate
    assert back.branches == post.certificate.branches
    assert back.searched == post.certificate.searched


def test_a_warm_start_does_not_keep_to_its_branch_past_a_transition():
    """From larger tau a sweep follows the solution that has not learned, whose Phi becomes the smaller one."""
    lazy = mf.solve(NETWORK, SMALL, 0.7)
    warm = mf.solve(NETWORK, SMALL, 0.66, warm_start=lazy)
    assert warm.free_energy == pytest.approx(-23.2839833, abs=1e-7)  # as without the warm start, see below
    (other,) = warm.certificate.branches
    assert (other.name, round(other.free_energy, 5)) == ("outliers none / none", -23.35033)


def test_a_search_without_end_is_given_up_in_words(monkeypatch):
    monkeypatch.setattr(solving, "_WORK", 4e8)
    with pytest.raises(mf.ConvergenceError, match=r"as much work as is allowed .* of the targets"):
        mf.solve(NETWORK, SMALL, 0.66)


def test_work_is_counted_inside_an_allowance_only():
    spend(1e30)
    with allowance(10.0):
        spend(4.0)
        assert spent() == 4.0
        with pytest.raises(TooMuchWork):
            spend(7.0)


def test_one_integral_obeys_the_time_limit():
    root = 0.002 * np.eye(3)
    setting = ReluSetting(
        root, np.full(3, 300.0), np.full(3, 0.3), np.zeros(3), 0.2 * np.ones((3, 3)) + 0.1 * np.eye(3)
    )
    bulk(setting, ROUGH, np.zeros((0, 3)), True)  # compiled
    finest = FINE._replace(beta=0.2, alpha=0.2)
    with time_limit(0.3), pytest.raises(OutOfTime):
        bulk(setting, finest, np.zeros((0, 3)), True)


def test_turns_of_a_parameter():
    turns = _Turns()
    for mu in (-1.0, 0.0, 0.1, 0.099, 0.11, 0.05, -0.2, -0.1, 0.3):
        turns.note(mu)
    assert turns.found == [0.11, -0.2]


@pytest.mark.slow
def test_three_layers_by_importance_sampling():
    network, task, tau = mf.Network("relu", 3), mf.class_task(targets=[1.0, 0.5], n_samples=100), 0.1
    post = mf.solve(network, task, tau)
    problem, _, span = relu_problem(network, task, tau)
    found, share = violations_with_errors(problem, span, post.solution, log2_points=9)
    assert share > 0.3
    for name in ("kernel 1", "d 1"):
        assert found.pop(name)[0] < 1e-8
    for name, (off, _, z) in found.items():
        assert off < 0.05, name
        assert z < 5.0, name


@pytest.mark.slow
def test_a_layer_with_outliers_by_importance_sampling():
    network, task, tau = mf.Network("relu", 2), mf.class_task([1 / 3] * 3, targets=np.eye(3), n_samples=120), 0.1
    post = mf.solve(network, task, tau)
    assert np.abs(post.solution.outlier_activation[1]).max() > 0.1
    problem, _, span = relu_problem(network, task, tau)
    found, share = violations_with_errors(problem, span, post.solution, scramblings=5, log2_points=9)
    assert share > 0.2
    for name in ("kernel 1", "d 1"):
        assert found.pop(name)[0] < 1e-7
    for name, (off, error, z) in found.items():
        assert error < 0.08, name  # of 5 * 512 points
        assert off < 0.15, name
        assert z < 6.0, name
