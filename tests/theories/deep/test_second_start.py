"""A second start for the codes of many samples: which solutions it finds, and what is said of it."""

import numpy as np
import pytest

import meanfield as mf
from meanfield.theories.deep import solve
from meanfield.theories.deep.layers.rules import NotCovered
from meanfield.theories.deep.reduction import problem_of
from meanfield.theories.deep.search.coding import coding_and_starts
from meanfield.theories.deep.search.fold import uncoded_at
from meanfield.theories.deep.search.second_start import Second, highest, second_start

NETWORK = mf.Network("sigmoid", 2)


def test_few_samples_have_one_start_and_many_a_second_one():
    few = mf.solve(NETWORK, mf.class_task(targets=[1, -1], n_samples=100), 0.3)
    assert "one start only" in few.certificate.searched[0]
    many = mf.solve(NETWORK, mf.class_task(targets=[1, -1], n_samples=4000), 0.3)
    assert "a second start leads to the same solution" in many.certificate.searched[0]
    assert all(branch.name != "other codes" for branch in many.certificate.branches)


def test_another_solution_is_reported_and_the_larger_phi_wins():
    problem, _ = problem_of(NETWORK, mf.class_task(targets=[1, -1], n_samples=4000), 0.4)
    system, codes, starts = coding_and_starts(problem, 1e-8)
    rival, other = uncoded_at(problem)  # stands for the other solution: that of smaller Phi here or not
    second = second_start(problem, system, codes, [lambda: (rival, other)], 1e9)
    assert second.outcome == "a second start leads to another solution"
    phi = system.free_energy(codes.x, codes.averages), rival.free_energy(other.x, other.averages)
    best, end, (lower,) = highest(second, system, codes, 1e-8, None)
    np.testing.assert_allclose(best.free_energy(end.x, end.averages), max(phi), rtol=1e-6)
    np.testing.assert_allclose(lower.free_energy, min(phi), rtol=1e-6)
    swapped = Second("", (system, codes))
    best, end, (lower,) = highest(swapped, rival, other, 1e-8, None)
    np.testing.assert_allclose(best.free_energy(end.x, end.averages), max(phi), rtol=1e-6)
    assert starts


def test_starts_that_lead_nowhere_are_said():
    problem, _ = problem_of(NETWORK, mf.class_task(targets=[1, -1], n_samples=4000), 0.01)
    system, codes, starts = coding_and_starts(problem, 1e-8)

    def fails():
        raise NotCovered("no such luck")

    assert second_start(problem, system, codes, [fails], 1e9).outcome == "no other start led to a solution"
    assert second_start(problem, system, codes, None, 1e9).outcome == "other starts led to none"
    found = second_start(problem, system, codes, starts, 1e9)
    assert found == Second("a second start leads to the same solution")


def test_codes_that_were_given_up_are_no_answer_without_codes(monkeypatch):
    """Where starts were lost that is said; where one was left for its work, the branch without codes does not stand in
    for codes (hard sigmoid, sigma_w = .1: Phi = -5,000, with codes -1,675)."""
    network, task = mf.Network("hard_tanh", 2, readout_exponent=0.5), mf.class_task(targets=[1, -1], n_samples=100)
    post = mf.solve(network, task, 5.0)
    assert post.status == "optimal"
    assert any("first starts for it were lost" in note for note in post.notes)
    monkeypatch.setattr(solve, "ONE_WAY", 0.0)
    with pytest.raises(mf.ConvergenceError, match=r"only the solution without codes \(Phi = -9\.9"):
        mf.solve(network, task, 5.0)


def test_sweeps_do_not_keep_to_codes_past_a_transition():
    """From tau = .11 the codes go on to .16 with the smaller Phi of three solutions (the other two without a start)."""
    network = mf.Network("sigmoid", 2, sigma_a=0.8)
    task = mf.class_task(targets=[[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.8]], n_samples=40)
    before = mf.solve(network, task, 0.11)
    post = mf.solve(network, task, 0.16, warm_start=before)
    assert post.free_energy == pytest.approx(-112.45185, abs=1e-4)
    assert "a second start leads to another solution" in post.certificate.searched[0]
    others = sorted(other.free_energy for other in post.certificate.branches)
    assert others == pytest.approx([-115.62264, -115.55292], abs=1e-4)


@pytest.mark.parametrize(("tau", "other"), [(0.43, "coding"), (0.41, "uncoded")])
def test_a_solution_that_two_searches_find_counts_once(tau, other):
    """Down from above the transition at tau = .4229, on the branch without codes: the second start and the search for
    the other branch end in the same solution."""
    task = mf.class_task(targets=[1, -1], n_samples=100)
    post = mf.solve(NETWORK, task, tau, warm_start=mf.solve(NETWORK, task, 0.46))
    assert "a second start leads to another solution" in post.certificate.searched[0]
    assert [branch.name for branch in post.certificate.branches] == [other]
