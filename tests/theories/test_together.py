"""Maxima of h climbed to from many starts at once, and steps that are judged by another rule alone."""

import numpy as np
import pytest
from scipy.optimize import minimize

import meanfield as mf
from meanfield.activations.cumulant import cumulant
from meanfield.theories.single_layer.compiled.ascent import find_maxima
from meanfield.theories.single_layer.finite import marginal as finite_marginal
from meanfield.theories.single_layer.finite.marginal import solve_marginal
from meanfield.theories.single_layer.readout.integral import ReadoutIntegral
from meanfield.theories.single_layer.readout.marginal import Marginal


def random_task(seed, name):
    """Three to five classes with fields of a few units, and readouts to start from."""
    generator = np.random.default_rng(seed)
    n_classes, m = int(generator.integers(3, 6)), int(generator.integers(1, 4))
    fractions = generator.dirichlet(np.full(n_classes, 3.0))
    task = mf.class_task(fractions=fractions, targets=generator.normal(size=(n_classes, m)), n_samples=100.0)
    problem = ReadoutIntegral(cumulant(mf.activation(name)), task.fractions, task.targets, 0.02, 100.0, "lattice")
    return problem, 4.0 * generator.normal(size=(n_classes, m)), generator.normal(size=(40, m))


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "erf", "step"])
@pytest.mark.parametrize("seed", range(6))
def test_maxima_are_those_of_single_ascents(name, seed):
    problem, t, starts = random_task(seed, name)
    found, height = problem.maxima(t, starts)
    one, heights = np.empty((256, t.shape[1])), np.empty(256)
    patterns = np.vstack([problem.patterns @ t, starts])
    count = find_maxima(problem.table, problem.p, t, *problem.range, patterns, True, one, heights)
    bends = []
    for a in one[:count]:
        second = problem.single_site.direct(t @ a)[2]
        bends.append(np.linalg.eigvalsh(np.eye(a.size) - (t.T * (problem.p * second)) @ t)[0])
    for a in one[:count][np.array(bends) > 1e-3]:  # ascents from saddles, and along symmetric planes, end at saddles
        assert np.abs(found - a).max(axis=1).min() < 1e-6 * (1.0 + np.abs(a).max())
    for a, h in zip(found, height, strict=True):
        value, slope, _ = problem.single_site.direct(t @ a)
        assert h == pytest.approx(problem.p @ value - 0.5 * a @ a, abs=1e-12)
        np.testing.assert_allclose((problem.p * slope) @ t, a, atol=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_the_highest_maximum_is_that_of_a_general_optimiser(seed):
    problem, t, starts = random_task(seed, "sigmoid")

    def minus_h(a):
        value, slope, _ = problem.single_site.direct(t @ a)
        return 0.5 * a @ a - problem.p @ value, a - (problem.p * slope) @ t

    best = max(-minimize(minus_h, start, jac=True).fun for start in 3.0 * starts[:15])
    assert problem.maxima(t)[1][0] == pytest.approx(best, abs=1e-9)


def test_a_step_that_was_not_looked_at_is_judged_by_the_other_rule(monkeypatch):
    """Where it was expected to be the last but is not, the residual says so, and more steps follow."""
    task = mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5, n_samples=200.0)
    problem = ReadoutIntegral(cumulant(mf.activation("sigmoid")), task.fractions, task.targets, 0.01, 200.0, "lattice")
    start = mf.solve(mf.Network("sigmoid"), task.with_(off=0.49), 0.01).solution.t
    t, exact = solve_marginal(problem, start, 1e-10)
    judged, known = [], Marginal.checked

    def checked(self, *arguments):
        value = known(self, *arguments)
        judged.append(self.problem.residual(value.gradient))
        return value

    monkeypatch.setattr(Marginal, "checked", checked)
    monkeypatch.setattr(finite_marginal, "_NEAR", 1.0)
    monkeypatch.setattr(finite_marginal, "_SQUARED", 0.0)
    other, found = solve_marginal(problem, start, 1e-10)
    assert len(judged) > 1
    assert judged[0] > 1e-10
    assert exact is not None
    assert found is not None
    assert 2.0 * judged[-1] + found.reached <= 1e-10
    np.testing.assert_allclose(other, t, atol=(found.other + exact.other + 1e-12) / 0.01)
