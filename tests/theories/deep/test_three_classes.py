"""Three classes of many samples on two layers: what used to lose their codes, or took minutes."""

import numpy as np
import pytest

import meanfield as mf
from meanfield.theories.deep.layers import terms
from meanfield.theories.deep.layers.rules import COARSE, FINE
from meanfield.theories.deep.readout import readout_minimum
from meanfield.theories.deep.reduction import problem_of
from meanfield.theories.deep.search.response import responding
from meanfield.theories.deep.search.shape import with_kernel
from meanfield.theories.deep.search.start import planted, relax
from meanfield.theories.deep.solve import solve_deep
from meanfield.theories.deep.system import System

ONE_HOT = mf.class_task(targets=np.where(np.eye(3), 1.0, 0.36), n_samples=96338)
GENERAL = mf.class_task(targets=[[0.81, 0.38, 0.18], [0.68, 0.85, -0.39], [0.98, 0.19, 0.95]], n_samples=3000)
SIGMOID = mf.Network("sigmoid", 2, sigma_a=1.5, sigma_w=0.8)


def counted_averages(system, monkeypatch):
    """A list that every evaluation of a layer appends to."""
    seen, before = [], system.averages

    def noted(*arguments, **options):
        seen.append(arguments[1])
        return before(*arguments, **options)

    monkeypatch.setattr(system, "averages", noted)
    return seen


@pytest.mark.parametrize(
    ("network", "task", "tau"), [(mf.Network("tanh", 2), ONE_HOT, 0.013), (SIGMOID, GENERAL, 2e-3)]
)
def test_codes_exchange_their_neurons_in_few_steps(network, task, tau, monkeypatch):
    """Newton's method on both sides of a kink went to and fro, and ended with one code of several."""
    problem, _ = problem_of(network, task, tau)
    system = System(problem, COARSE)
    seen = counted_averages(system, monkeypatch)
    order, (top,) = readout_minimum(system, planted(problem, limit=True))
    assert len(seen) < 25
    held = problem.readout_variance * (top.kernel * problem.n + np.diag(top.d)) @ order.t + tau * order.t
    assert np.abs(held - problem.y).max() < 1e-3
    assert len(top.codes) > 1


@pytest.mark.parametrize("task", [GENERAL, mf.class_task(targets=[1, -1], n_samples=100)])
def test_second_derivatives_by_t_alone_are_those_of_all(task):
    problem, _ = problem_of(SIGMOID, task, 2e-3)
    order = planted(problem)
    all_of_them, by_t = (System(problem, FINE).averages(order, 1, curvature=kind)[0] for kind in (True, "t"))
    size = problem.y.size
    for one, other in ((all_of_them, by_t), *((all_of_them.codes[word], code) for word, code in by_t.codes.items())):
        wanted = one.curvature[:size, :size]
        assert np.abs(other.curvature - wanted).max() < 1e-7 * np.abs(wanted).max()
        assert np.abs(other.kernel - one.kernel).max() < 1e-9
    assert list(by_t.codes) == list(all_of_them.codes)


def test_averages_at_the_readout_have_all_second_derivatives_where_asked():
    problem, _ = problem_of(SIGMOID, GENERAL, 2e-3)
    sizes = []
    for curvature in (False, True):
        system = System(problem, COARSE)
        order, (top,) = readout_minimum(system, planted(problem), curvature=curvature)
        sizes.append(len(top.curvature))
    assert sizes[0] == problem.y.size < sizes[1] == len(system.placement(1)[1])
    assert np.abs(top.kernel - system.averages(order, 1)[0].kernel).max() < 1e-6


def test_codes_add_up_to_all_neurons():
    problem, _ = problem_of(SIGMOID, GENERAL, 2e-3)
    _, (top,) = readout_minimum(System(problem, COARSE), planted(problem, limit=True))
    log_z = np.array([code.log_z for code in top.codes.values()])
    share = np.exp(log_z - top.log_z)
    assert share.sum() == pytest.approx(1.0, abs=1e-12)
    kernel = sum(part * code.kernel for part, code in zip(share, top.codes.values()))
    assert np.abs(kernel - top.kernel).max() < 1e-12


def test_windows_of_the_plane_of_two_shared_fields_leave_nothing_out(monkeypatch):
    task = mf.class_task(targets=[[0.7, -0.1], [-0.5, 0.6], [-0.3, -0.8]], n_samples=400)
    problem, _ = problem_of(mf.Network("tanh", 2), task, 0.05)
    order = planted(problem)
    order.kernel[0] = [[0.2, -0.06, 0.05], [-0.06, 0.2, 0.04], [0.05, 0.04, 0.2]]  # of signs that one field cannot have
    system = System(problem, FINE)
    found = system.averages(order, 1)[0]
    assert system.layers[1]._prepared(system.setting(order, 1))[0].plane is not None
    monkeypatch.setattr(terms, "_WIDE", 1)  # every node of the plane is looked at
    wanted = System(problem, FINE).averages(order, 1)[0]
    assert found.log_z == pytest.approx(wanted.log_z, abs=1e-9)
    assert np.abs(found.kernel - wanted.kernel).max() < 1e-9
    assert np.abs(found.tilde / wanted.tilde - 1.0).max() < 1e-7


def test_odd_activations_are_integrated_over_half_of_their_neurons():
    task = mf.class_task(fractions=[0.5, 0.3, 0.2], targets=[[1, 0.2], [-0.3, 1], [0.4, -0.6]], n_samples=300)
    problem, _ = problem_of(mf.Network("tanh", 2), task, 0.1)
    order = planted(problem)
    half, whole = System(problem, COARSE), System(problem, COARSE)
    for layer in whole.layers:
        layer.turns = np.empty((0, 0, 0), dtype=np.int64)
    for layer in range(2):
        found, wanted = (system.averages(order, layer)[0] for system in (half, whole))
        assert len(half.layers[layer].index) < 0.6 * len(whole.layers[layer].index)
        assert found.log_z == pytest.approx(wanted.log_z, abs=1e-6)
        assert np.abs(found.kernel - wanted.kernel).max() < 1e-6


def test_the_first_conjugate_has_the_form_that_goes_with_its_kernel():
    """Only its size was planted, and with n k~ d = .98 along one direction alone the kernel had one form of many."""
    problem, _ = problem_of(mf.Network("tanh", 2), ONE_HOT, 0.013)
    system = System(problem, COARSE)
    start = readout_minimum(system, planted(problem, limit=True))[0]
    order = system.unpack(relax(system, start, critical=True, limit=True))
    with_kernel(system, order)
    found = system.averages(order, 0)[0].kernel
    wanted = order.kernel[0]
    # A start: a conjugate known to 1e-2 of 1 - n k~ d leaves a quarter of the kernel open.
    assert found[0, 1] / found[0, 0] == pytest.approx(wanted[0, 1] / wanted[0, 0], abs=0.1)
    assert found[0, 0] == pytest.approx(wanted[0, 0], rel=0.4)


def test_a_kernel_that_tells_no_classes_apart_is_a_start():
    task = mf.class_task(targets=np.where(np.eye(3), 1.0, 0.58), n_samples=254220)
    problem, _ = problem_of(mf.Network("step", 2, sigma_a=0.7, sigma_w=0.8), task, 0.12)
    system = System(problem, COARSE)
    order = responding(system)
    assert np.isfinite(system.pack(order)).all()
    found = system.averages(order, 0)[0].kernel
    assert np.abs(found - order.kernel[0]).max() < 1e-3 * np.abs(found).max()


def test_many_samples_of_three_classes_are_solved():
    """Stopped after a minute before; integrated again by Sobol points (`benchmarks/random_deep.py`, task 55)."""
    solution = solve_deep(mf.Network("tanh", 2), ONE_HOT, 0.013, competitors=False, second=False).solution
    assert solution.status == "optimal"
    assert solution.free_energy == pytest.approx(-142768.38119858, rel=1e-9)
    assert solution.kernel[0, 0, :2] == pytest.approx([0.01333515, 0.00275905], abs=1e-8)
