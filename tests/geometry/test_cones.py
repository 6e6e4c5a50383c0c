"""Projections on cones: optimality, agreement with other solvers, degenerate generators, independence of threads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, nnls

from meanfield.geometry import cones, project_onto_cone
from meanfield.geometry.cones import is_separable


def random_case(seed, n, N, probes=7):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, N)), rng.standard_normal((probes, N))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 40), N=st.integers(1, 30))
def test_moreau_and_optimality(seed, n, N):
    generators, targets = random_case(seed, n, N)
    found = project_onto_cone(targets, generators)
    assert found.kkt_residual <= 1e-9
    assert (found.weights >= 0).all()
    assert np.allclose(found.weights @ generators, found.point, atol=1e-12)
    assert np.allclose(found.point + found.polar, targets, atol=1e-12)
    assert np.abs(np.sum(found.point * found.polar, axis=1)).max() < 1e-9
    assert (found.polar @ generators.T).max() < 1e-8
    assert np.allclose(found.squared_norm, np.sum(found.point**2, axis=1))


@pytest.mark.parametrize(("n", "N"), [(30, 50), (200, 20), (60, 60)])
def test_equals_independent_solver(n, N):
    generators, targets = random_case(n, n, N)
    found = project_onto_cone(targets, generators)
    for target, point in zip(targets, found.point):
        weights, _ = nnls(generators.T, target)
        assert np.allclose(weights @ generators, point, atol=1e-10)


def test_shapes_of_one_target_and_orthant():
    one = project_onto_cone([1.0, -2.0], np.eye(2))
    assert one.point.tolist() == [1.0, 0.0]
    assert one.polar.tolist() == [0.0, -2.0]
    assert one.weights.shape == (2,)
    assert one.squared_norm.shape == ()


def test_working_sets_agree_with_the_gram_matrix(monkeypatch):
    generators, targets = random_case(3, 400, 25, probes=40)
    expected = project_onto_cone(targets, generators)
    monkeypatch.setattr(cones, "GRAM_LIMIT", 10)
    for threads in (1, 2):
        found = project_onto_cone(targets, generators, threads=threads)
        assert found.kkt_residual <= 1e-9
        assert np.allclose(found.point, expected.point, atol=1e-9)


def test_threads_do_not_change_a_bit():
    generators, targets = random_case(5, 80, 40, probes=33)
    one = project_onto_cone(targets, generators)
    three = project_onto_cone(targets, generators, threads=3)
    assert np.array_equal(one.weights, three.weights)


def test_duplicates_zero_rows_and_opposite_rays():
    generators, targets = random_case(7, 20, 12)
    expected = project_onto_cone(targets, generators).point
    more = np.concatenate((generators, 3.0 * generators[:5], np.zeros((2, 12)), generators[:4]))
    found = project_onto_cone(targets, more)
    assert np.allclose(found.point, expected, atol=1e-10)
    assert not found.weights[:, 25:27].any()
    line = project_onto_cone([3.0, 4.0], [[1.0, 0.0], [-2.0, 0.0]])
    assert np.allclose(line.point, [3.0, 0.0])


def test_near_duplicates_meet_the_tolerance():
    rng = np.random.default_rng(11)
    generators = np.repeat(rng.standard_normal((30, 20)), 3, axis=0)
    generators = generators + 1e-6 * rng.standard_normal(generators.shape)
    targets = rng.standard_normal((20, 20))
    found = project_onto_cone(targets, generators)
    assert found.kkt_residual <= 1e-9
    reference = [nnls(generators.T, target)[1] ** 2 for target in targets]
    assert np.allclose(np.sum(found.polar**2, axis=1), reference, rtol=1e-7, atol=1e-7)


def test_failed_kernel_is_repaired_and_failed_repair_raises(monkeypatch):
    generators, targets = random_case(13, 15, 10)
    expected = project_onto_cone(targets, generators).point

    def useless(rows, signs, targets, threads):
        return np.zeros((len(targets), len(rows))), np.ones(len(targets), dtype=bool)

    monkeypatch.setattr(cones, "_gram_form", useless)
    assert np.allclose(project_onto_cone(targets, generators).point, expected, atol=1e-10)
    monkeypatch.setattr(cones, "_orthogonal", lambda *arguments: None)
    with pytest.raises(RuntimeError, match="probe 0 on the cone of 15 generators did not converge"):
        project_onto_cone(targets, generators)


@pytest.mark.parametrize(
    ("target", "generators", "message"),
    [
        (np.ones(3), np.ones((2, 4)), "shape"),
        (np.ones((2, 2, 3)), np.ones((2, 3)), "shape"),
        (np.ones(3), np.ones(3), "shape"),
        ([1.0, np.nan], np.eye(2), "NaN"),
        (np.ones(2), [[1.0, np.inf]], "infinite"),
        (np.ones(2), np.eye(2) * 1j, "complex"),
    ],
)
def test_refusals(target, generators, message):
    with pytest.raises(ValueError, match=message):
        project_onto_cone(target, generators)


def test_separability_equals_linear_programming():
    verdicts = []
    for seed in range(60):
        generators, _ = random_case(seed, 24, 12)
        program = linprog(np.zeros(12), A_ub=-generators, b_ub=-np.ones(24), bounds=(None, None))
        assert is_separable(generators) == (program.status == 0)
        verdicts.append(program.status == 0)
    assert 10 < sum(verdicts) < 50  # both verdicts occur
