"""Finite P with one class integrated out: against the lattice over all outputs, and where it fails."""

import copy
import pickle
from dataclasses import fields, replace

import numpy as np
import pytest

import meanfield as mf
from meanfield.activations.cumulant import cumulant
from meanfield.theories.single_layer.deferred import is_pending
from meanfield.theories.single_layer.finite import marginal as finite_marginal
from meanfield.theories.single_layer.finite import solver as finite
from meanfield.theories.single_layer.finite.marginal import solve_marginal
from meanfield.theories.single_layer.finite.newton import hessian_of, no_outliers
from meanfield.theories.single_layer.readout import marginal as readout_marginal
from meanfield.theories.single_layer.readout.integral import NotIntegrable, ReadoutIntegral
from meanfield.theories.single_layer.readout.marginal import Marginal
from meanfield.theories.single_layer.solution import Solution

SIGMOID, TAU = mf.Network("sigmoid"), 0.01


def one_hot(off, n_samples):
    return mf.class_task(fractions=[0.5, 0.25, 0.25], off=off, n_samples=n_samples)


def integral(task, tau=TAU, name="sigmoid"):
    single_site = cumulant(mf.activation(name))
    return ReadoutIntegral(single_site, task.fractions, task.targets, tau, task.n_samples, "lattice")


@pytest.fixture
def by_lattice(monkeypatch):
    """Solutions by the lattice over all codes alone."""

    def solved(*arguments, **options):
        with monkeypatch.context() as patch:
            patch.setattr(finite, "solve_clouds", lambda _, t, *__: (t, None))
            patch.setattr(finite, "solve_marginal", lambda _, t, *__: (t, None))
            return mf.solve(*arguments, **options)

    return solved


@pytest.mark.parametrize(
    ("name", "targets", "fractions", "n_samples"),
    [
        ("sigmoid", [[1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [0.5, 0.5, 1.0]], [0.5, 0.25, 0.25], 200.0),
        ("tanh", [[1.0, -0.3], [-0.6, 0.8]], [0.4, 0.6], 60.0),
        ("step", [[0.9, 0.2, -0.4], [0.1, 1.2, 0.3], [-0.5, 0.4, 0.8]], [0.2, 0.3, 0.5], 40.0),
        ("erf", (np.diag([1.0, 0.8, 1.1, 0.9]) - 0.2).tolist(), [0.25] * 4, 24.0),
    ],
)
def test_value_slope_and_curvature_are_those_of_the_lattice(name, targets, fractions, n_samples):
    """At a t that is not the minimum; the second rule, too."""
    task = mf.class_task(targets=targets, fractions=fractions, n_samples=n_samples)
    t = 3.0 * task.targets + 0.3 * np.random.default_rng(0).normal(size=task.targets.shape)
    problem = integral(task, name=name)
    expected = problem.evaluate(t, 1e-12)
    slope = problem.gradient(t, expected, expected.weight, no_outliers(t))
    marginal = Marginal(integral(task, name=name))
    marginal.look_for_maxima(t, 1e-12)
    found, again = marginal.value(t, 1e-12, True), marginal.checked(t, 1e-12)
    for value in found, again:
        assert value.objective == pytest.approx(expected.objective, abs=1e-12)
        np.testing.assert_allclose(value.gradient, slope, atol=5e-12, rtol=0)
    curvature = hessian_of(problem, expected)
    np.testing.assert_allclose(found.hessian, curvature, atol=1e-7 * np.abs(curvature).max(), rtol=0)


@pytest.mark.parametrize(("off", "n_samples"), [(-0.4, 50.0), (0.3, 100.0), (0.5, 50.0), (0.5, 700.0), (0.7, 2000.0)])
def test_solutions_are_those_of_the_lattice(off, n_samples, by_lattice):
    task = one_hot(off, n_samples)
    found, expected = mf.solve(SIGMOID, task, TAU), by_lattice(SIGMOID, task, TAU)
    warm = mf.solve(SIGMOID, task, TAU, warm_start=mf.solve(SIGMOID, one_hot(off - 0.01, n_samples), TAU))
    for post in found, warm:
        assert is_pending(post.solution)
        assert post.certificate.kkt_residual < 1e-10
        error = post.certificate.kkt_residual + expected.certificate.kkt_residual
        np.testing.assert_allclose(post.solution.t, expected.solution.t, atol=error / TAU, rtol=0)
        assert post.objective == pytest.approx(expected.objective, abs=1e-11)
        codes = {code.pattern: code for code in expected.codes}  # the order of two equal weights is left open
        assert {code.pattern for code in post.codes} == codes.keys()
        for code in post.codes:
            assert code.weight == pytest.approx(codes[code.pattern].weight, abs=1e-6)
            np.testing.assert_allclose(code.readout, codes[code.pattern].readout, atol=1e-5)
        assert post.notes == expected.notes


@pytest.mark.parametrize(("n_classes", "n_samples"), [(5, 20.0), (4, 12.0), (3, 5.0)])
def test_five_outputs_and_a_few_samples(n_classes, n_samples, by_lattice):
    """The start at few samples is not t = 0, where the t_c are dependent."""
    task = mf.class_task(n_classes=n_classes, off=0.5, n_samples=n_samples)
    found, expected = mf.solve(SIGMOID, task, 0.02), by_lattice(SIGMOID, task, 0.02)
    assert is_pending(found.solution)
    error = found.certificate.kkt_residual + expected.certificate.kkt_residual
    assert error < 1e-7
    np.testing.assert_allclose(found.solution.t, expected.solution.t, atol=error / 0.02, rtol=0)


def test_steps_of_the_smoothed_class_are_not_lost():
    """Where one branch of x takes over from another within an interval, L' jumps by P p_j."""
    task = one_hot(0.5, 1000.0)
    start = mf.solve(SIGMOID, one_hot(0.495, 1000.0), TAU).solution.t
    found = solve_marginal(integral(task), start, 1e-10)[1]
    assert found is not None
    assert found.steps < 6


@pytest.fixture
def problem_at_its_minimum():
    task = one_hot(0.5, 200.0)
    return integral(task), mf.solve(SIGMOID, task, TAU).solution.t


def test_a_smoothing_too_coarse_is_seen(problem_at_its_minimum, monkeypatch):
    """By the second rule, and made finer."""
    problem, t = problem_at_its_minimum
    monkeypatch.setattr(readout_marginal, "_WIDTH", 1.5)
    refinements = []
    known = Marginal.checked

    def checked(self, *arguments):
        refinements.append(self.refinement)
        return known(self, *arguments)

    monkeypatch.setattr(Marginal, "checked", checked)
    _, found = solve_marginal(problem, t, 1e-10)
    assert len(refinements) > 1
    assert found is not None
    assert 2.0 * found.other + found.reached <= 1e-10
    np.testing.assert_allclose(found.t, t, atol=1e-8)


def test_a_code_that_is_lost_on_the_way_is_seen(monkeypatch):
    """Newton's method ends at the minimum of another integral, if anywhere, which the second rule does not confirm."""
    task = one_hot(0.0, 1000.0)  # codes are apart: from one of them no other is reached
    t = mf.solve(SIGMOID, task, TAU).solution.t
    assert solve_marginal(integral(task), t, 1e-10)[1] is not None
    known = Marginal.look_for_maxima

    def without_the_last(self, t, accuracy, extra=None):
        known(self, t, accuracy, extra)
        self.seeds = self.seeds if extra is not None else self.seeds[:-1]

    monkeypatch.setattr(Marginal, "look_for_maxima", without_the_last)
    assert solve_marginal(integral(task), t, 1e-10)[1] is None


def test_dependent_fields_are_refused(problem_at_its_minimum):
    problem, t = problem_at_its_minimum
    marginal = Marginal(problem)
    marginal.look_for_maxima(t, 1e-6)
    with pytest.raises(NotIntegrable):
        marginal.value(np.vstack([t[:2], t[1:2]]), 1e-6, False)


def test_what_cannot_be_marginal_is_left_to_the_lattice():
    for task in (
        mf.class_task(targets=[[1.0], [-0.5]], n_samples=50.0),  # one output
        mf.class_task(targets=[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], n_samples=50.0),  # three classes, two outputs
        one_hot(0.5, 1e5),
    ):
        assert not finite_marginal.is_marginal(integral(task))
        assert not is_pending(mf.solve(SIGMOID, task, TAU).solution)


# ---- codes that are worked out when they are asked for ---------------------------------------------------


@pytest.fixture
def pending():
    post = mf.solve(SIGMOID, one_hot(0.5, 100.0), TAU)
    assert is_pending(post.solution)
    return post


@pytest.mark.parametrize("name", ["weight", "readout", "covariance", "notes"])
def test_any_field_makes_all(pending, name):
    value = getattr(pending.solution, name)
    assert not is_pending(pending.solution)
    assert getattr(pending.solution, name) is value
    assert pending.solution.weight.sum() == pytest.approx(1.0, abs=1e-12)
    assert not pending.solution.weight.flags.writeable
    assert len(pending.codes) == len(pending.solution.weight) == len(pending.solution.covariance) == 4
    assert pending.notes
    assert "codes overlap" in pending.notes[0]


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s)), lambda s: replace(s, message="")]
)
def test_copies_have_their_codes(pending, copied):
    other = copied(pending.solution)
    assert isinstance(other, Solution)
    for field in fields(Solution):
        if field.name != "message":
            np.testing.assert_array_equal(getattr(other, field.name), getattr(pending.solution, field.name))


def test_files_have_their_codes(pending, tmp_path):
    loaded = mf.load(pending.save(tmp_path / "post.npz"))
    np.testing.assert_array_equal(loaded.solution.weight, pending.solution.weight)
    np.testing.assert_array_equal(loaded.solution.t, pending.solution.t)
    assert loaded.notes == pending.notes


def test_a_start_need_not_have_its_codes(pending):
    warm = mf.solve(SIGMOID, one_hot(0.505, 100.0), TAU, warm_start=pending)
    assert is_pending(pending.solution)
    scratch = mf.solve(SIGMOID, one_hot(0.505, 100.0), TAU)
    np.testing.assert_allclose(warm.solution.t, scratch.solution.t, atol=1e-8)
    large = mf.solve(SIGMOID, one_hot(0.5, 1e5), TAU, warm_start=pending)
    assert large.certificate.kkt_residual < 1e-10


def test_sweeps_have_all_codes():
    diagram = mf.sweep(SIGMOID, one_hot(0.5, 100.0), off=np.linspace(0.45, 0.5, 3), tau=TAU)
    assert diagram.certified.all()
    post = mf.solve(SIGMOID, one_hot(0.5, 100.0), TAU)
    weight = {code.pattern: code.weight for code in post.codes}
    for pattern, value in weight.items():
        assert diagram.weights(pattern)[-1] == pytest.approx(value, abs=2e-4)
