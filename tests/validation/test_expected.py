"""What the theory predicts for sampled networks: at equilibrium what the posterior says, and given frozen fractions."""

from types import SimpleNamespace

import numpy as np
import pytest
from margins import below

import meanfield as mf
from meanfield.sampling.expected import expected, theory_patterns
from meanfield.sampling.statistics import as_draws, observables
from meanfield.theories.single_layer.code_averages import CodeAverages

TAU = 0.02
COUNTS = np.array([30, 15, 15])


@pytest.fixture(scope="module")
def theory(problem):
    return CodeAverages(problem[2], COUNTS)


def test_equilibrium_is_the_posterior(problem, theory):
    posterior = problem[2]
    same = posterior.by_activation(COUNTS)
    np.testing.assert_allclose(same.residual, posterior.residual, atol=1e-9)
    np.testing.assert_allclose(same.kernel().block, posterior.kernel().block, atol=1e-8)
    np.testing.assert_allclose(same.kernel().diagonal, posterior.kernel().diagonal, atol=1e-8)
    np.testing.assert_allclose(same.readout_covariance, posterior.readout_covariance, atol=1e-8)
    assert theory.shares.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(theory.given(theory.shares), theory.t, atol=1e-7)


@pytest.mark.statistical
def test_codes_of_the_theory_are_those_of_drawn_neurons(problem, theory):
    """Neurons drawn one by one, preactivations and all, and sorted by the statistics of samples: no normal law used."""
    network, task, posterior = problem
    size = 8_000
    neurons = posterior.sample_neurons(size, rng=0, samples_per_class=COUNTS.tolist())
    mean = np.stack([neurons.activations[:, neurons.labels == c].mean(axis=1) for c in range(3)], axis=1)
    unused = {"kernel_between": (3, 3), "kernel_diagonal": (3,), "residual": (60, 3)}
    run = SimpleNamespace(
        network=network, task=task, width=size // 4, tau=TAU, labels=neurons.labels,
        readout=neurons.readouts.reshape(1, 4, -1, 3), class_activation=mean.reshape(1, 4, -1, 3),
        **{name: np.zeros((1, 4, *([1] if "kernel" in name else []), *shape)) for name, shape in unused.items()},
    )  # fmt: skip
    draws = as_draws(run)
    values = expected(posterior, draws, ("110", "101", "011", "111"))
    for observable in observables(draws, ("110", "101", "011", "111")):
        if observable.group in ("codes", "fractions"):
            deviation = observable.series[0].mean(axis=0) - values[observable.name]
            # errors: binomial for fractions; a code has 15 % of the neurons or more, and spreads below 0.25
            error = 0.45 / np.sqrt(size) if observable.group == "fractions" else 0.25 / np.sqrt(0.15 * size)
            assert below(deviation / error), observable.name


def test_frozen_fractions_solve_the_frozen_dual(problem, theory):
    """The gradient of the convex J_p(t), from differences of its values, vanishes at the t found."""
    _, task, _ = problem
    shares = theory.shares.copy()
    shares[[6, 5, 3]] += [0.04, -0.03, -0.01]

    def dual(flat):
        t = flat.reshape(3, 3)
        sides = theory._sides(t)
        base = theory._base + 60 * theory._cumulants(t)[0] @ theory.fractions
        bits = [(word >> np.arange(3)[::-1]) & 1 for word in np.flatnonzero(shares)]
        inside = [sides.probability[one, :, np.arange(3)].prod(axis=0) for one in bits]
        logs = [np.log(np.exp(base) @ share) for share in inside]
        value = -np.sum(task.fractions[:, None] * t * task.targets)
        value += 0.5 * TAU * np.sum(task.fractions[:, None] * t**2)
        return value + shares[shares > 0] @ logs / 60

    t = theory.given(shares)
    assert np.abs(t - theory.t).max() > 0.05
    step = 1e-4
    gradient = [(dual(t.ravel() + step * e) - dual(t.ravel() - step * e)) / (2 * step) for e in np.eye(9)]
    # the normal law of M is not exactly consistent with dZ/dt: errors of 1e-4 where codes are shallow
    assert np.abs(gradient).max() < 2e-4
    np.testing.assert_allclose(theory.moments(t, shares).residual, TAU * t, atol=1e-8)


def test_fractions_of_narrow_codes():
    """At P = 500 a code's weight changes by e^-25 where its fraction changes by 0.002: that is no reason to drop it."""
    task = mf.class_task([0.5, 0.25, 0.25], off=-0.75, n_samples=500)
    averages = CodeAverages(mf.solve(mf.Network("sigmoid"), task, TAU), [250, 125, 125])
    shares = np.zeros(8)
    shares[[0b110, 0b101, 0b011, 0b100]] = 0.316, 0.316, 0.308, 0.06
    t = averages.given(shares)
    assert 0.02 < np.abs(t - averages.t).max() < 0.1
    np.testing.assert_allclose(averages.moments(t, shares).residual, TAU * t, atol=1e-9)
    swapped = shares.copy()
    swapped[[0b110, 0b101]] = 0.3158, 0.3162
    assert np.abs(averages.given(swapped) - t).max() < 0.01


def test_a_wrong_t_stays_wrong_at_other_fractions(problem, theory):
    posterior = problem[2]
    wrong = CodeAverages(with_t(posterior, 1.05 * posterior.solution.t), COUNTS)
    shares = theory.shares.copy()
    shares[[6, 5]] += [0.02, -0.02]
    right = theory.moments(theory.given(shares), shares).residual
    shifted = wrong.moments(wrong.given(shares), shares).residual
    np.testing.assert_allclose(np.diag(shifted), 1.05 * np.diag(right), rtol=0.01)


def with_t(posterior, t):
    from dataclasses import replace

    return replace(posterior, solution=replace(posterior.solution, t=t))


def test_more_outputs_than_a_lattice_holds():
    """Five outputs: nodes of the Gaussian codes take the place of the lattice."""
    task = mf.class_task(targets=[[1, 0, 0, 0.5, 1], [-1, 0, 0.5, 0, 1]], n_samples=200)
    posterior = mf.solve(mf.Network("sigmoid"), task, 0.02)
    same = posterior.by_activation(np.full(2, 100))
    np.testing.assert_allclose(same.residual, posterior.residual, atol=1e-8)
    np.testing.assert_allclose(same.kernel().diagonal, posterior.kernel().diagonal, atol=2e-3)


@pytest.mark.parametrize("name", ["relu", "linear"])
def test_unbounded_activations(name):
    task = mf.class_task([0.5, 0.25, 0.25], off=0.0, n_samples=100)
    posterior = mf.solve(mf.Network(name), task, 0.02)
    patterns = theory_patterns(posterior)
    draws = SimpleNamespace(counts=COUNTS, labels=np.repeat(np.arange(3), COUNTS))
    values = expected(posterior, draws, patterns)
    np.testing.assert_allclose(values["residual"], posterior.residual)
    moment = posterior.readout_covariance
    if name == "relu":
        assert patterns == ("100", "010", "001")
        outlier = posterior.outliers[0]
        assert values["outlier weight 1-0-0"] == pytest.approx(outlier.weight)
        np.testing.assert_allclose(values["outlier readout 1-0-0"], outlier.readout, atol=1e-12)
        np.testing.assert_allclose(values["outlier activation 1-0-0"], outlier.activation[:1])
        moment = moment + np.outer(posterior.bulk.readout, posterior.bulk.readout)
    np.testing.assert_allclose(values["readout second moment"], moment)
