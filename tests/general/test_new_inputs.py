"""Corrected solutions on new inputs: where the exact answer is known, claimed errors cover what they are off by."""

from dataclasses import replace

import numpy as np
import pytest
from exact_problems import PAIR, SIGMOID, Clock, cube, raw
from margins import below, beyond, reach
from problems import fixed_rng

import meanfield as mf
from meanfield.numerics import limits
from meanfield.posterior.certificate import ConvergenceError
from meanfield.theories.general_data.exact import check, examine
from meanfield.theories.general_data.exact.check import Sampler
from meanfield.theories.general_data.exact.correct import correct
from meanfield.theories.general_data.exact.particles import particle_solution
from meanfield.theories.general_data.exact.predictor import ParticlePredictor
from meanfield.theories.general_data.exact.proposal import prior_mixture
from meanfield.theories.general_data.exact.sample import Dual, Sample
from meanfield.theories.general_data.exact.spread import spread
from meanfield.theories.general_data.exact.unaided import blank


def _rms(x):
    return float(np.sqrt(np.mean(np.square(x))))


# Inputs of rank 3 in four dimensions: new ones have a part that training has not seen.
INPUTS = np.column_stack([cube(3), cube(3)[:, 0]])
TASKS = {
    "majority": (2.0, (cube(3).sum(axis=1) > 0) * 1.0),
    "and, or": (1.5, np.column_stack([cube(3).min(axis=1) > 0, cube(3).max(axis=1) > 0]) * 1.0),
    "random": (1.0, np.array([1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0])),
}


@pytest.fixture(scope="module")
def answers():
    """Expectation propagation, the answer by quadrature and that of samples, and new inputs, for every task."""
    new = fixed_rng(3).normal(size=(12, 4))
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, (sigma_w, y) in TASKS.items():
            network, task = mf.Network("sigmoid", sigma_w=sigma_w), raw(INPUTS, y)
            rough = mf.solve(network, task, 0.1, refine=False, on_failure="return")
            exact = mf.solve(network, task, 0.1, refine=True)
            assert not exact.solution.random
            patch.setattr(check, "MAX_RANK", 0)
            sampled = mf.solve(network, task, 0.1, refine=True)
            patch.undo()
            assert sampled.solution.random
            found[name] = rough, exact, sampled, new
    return found


@pytest.mark.statistical
@pytest.mark.parametrize("name", TASKS)
def test_standard_errors_cover_what_new_outputs_and_kernels_are_off_by(answers, name):
    rough, exact, sampled, new = answers[name]
    error = sampled.prediction_error(new)
    assert not error.difference.any()
    off = sampled.predict(new) - exact.predict(new)
    assert below(off / (error.standard_error + 1e-6))
    assert beyond(_rms(off) / _rms(error.standard_error), 0.15, "rms of what outputs are off by, in standard errors")
    assert _rms(error.standard_error) < 0.002
    # A note says what to expect.
    (note,) = (x for x in sampled.notes if "outputs on new inputs" in x)
    assert "prediction_error(X)" in note
    assert _rms(exact.prediction_error(new).standard_error) < 1e-5  # tables of E phi
    kernel = sampled.kernel_error(new)
    assert kernel.standard_error.shape == (12, 12)
    off = np.asarray(sampled.kernel(new)) - np.asarray(exact.kernel(new))
    assert below(off / reach(kernel.standard_error + 1e-6, 7), 1.0, "kernel, in units of Student's limit")
    # Of expectation propagation the distance is measured: here by quadrature.
    error = rough.prediction_error(new)
    np.testing.assert_allclose(error.difference, rough.predict(new) - exact.predict(new), atol=1e-8)
    kernel = rough.kernel_error(new[:4], new[:2])
    off = np.asarray(rough.kernel(new[:4], new[:2])) - np.asarray(exact.kernel(new[:4], new[:2]))
    np.testing.assert_allclose(kernel.difference, off, atol=1e-8)


@pytest.mark.statistical
def test_a_correction_on_samples_is_no_worse_than_the_approximation_on_new_inputs(answers):
    """Root mean square over new inputs, and over the tasks, near to the exact answer and far from it."""
    rough, refined = (
        [_rms(found[i].predict(found[3]) - found[1].predict(found[3])) for found in answers.values()] for i in (0, 2)
    )
    assert below(_rms(refined) / _rms(rough), 1.0, "rms of the correction, in units of the approximation's")


@pytest.mark.statistical
def test_new_outputs_where_weights_keep_their_prior():
    """Parity of two: t^T phi does not depend on w, and f(x) = <a> / 2 = mean(y) / (1 + 4 tau) whatever x."""
    exact, x = 0.5 / 1.4, cube(4)
    new = 1.5 * fixed_rng(0).normal(size=(12, 4))
    network, task = mf.Network("sigmoid"), raw(x, (1.0 + x[:, 0] * x[:, 1]) / 2.0)
    post = mf.solve(network, task, 0.1)
    assert below((post.predict(new) - exact) / post.prediction_error(new).standard_error)
    rough = mf.solve(network, task, 0.1, refine=False, on_failure="return")
    error = rough.prediction_error(new)
    assert below((rough.predict(new) - error.difference - exact) / error.standard_error)
    assert beyond((rough.predict(new) - exact) / error.standard_error)
    pair = mf.solve(network, raw(PAIR, [1.0, 1.0]), 0.1)
    np.testing.assert_allclose(pair.predict(new[:, :2]), 1.0 / 1.4, atol=1e-6)


def test_nodes_know_how_well_they_integrate_what_jumps():
    """Two opposite inputs, a step: nodes end at the jump of these, not at those of other inputs."""
    new = fixed_rng(0).normal(size=(12, 1)) * PAIR[:1] + [[0.0, 1e-3]]
    post = mf.solve(mf.Network("step"), raw(PAIR, [1.0, 1.0]), 0.1)
    error = post.prediction_error(new).standard_error
    off = np.abs(post.predict(new) - 1.0 / 1.4)
    assert 1e-7 < _rms(off) < 0.01
    assert _rms(off) < 4.0 * _rms(error)


# ---- what a finite sample does to a variance -----------------------------------------------------


def _halved(problem, task, network, n, rng):
    """A predictor from a sample of the prior, with its halves."""
    dual = Dual(problem.targets, problem.prior, problem.tau)
    sample = prior_mixture(problem.features.shape[1]).sample(problem, n, rng)
    sample = replace(sample, half=np.arange(n) % 2)
    t, at, arrived = dual.minimise(sample, np.zeros(problem.targets.shape))
    assert arrived
    parts = [
        Sample(sample.points[b::2], sample.phi[b::2], sample.base[b::2], sample.group) for b in (0, 1)
    ]  # of which J does not know the number of points
    half_t = np.array([dual.minimise(part, t)[0] for part in parts])
    found = particle_solution(problem, sample, at, t, np.zeros(n, dtype=int), 0, half_t)
    return ParticlePredictor(network, task, problem.tau, found, ("code",))


@pytest.mark.statistical
def test_variances_have_no_bias_from_the_size_of_the_sample():
    """1200 samples of 120 points of the prior, against quadrature: 2 to 3 % too small without halves."""
    sigma_w, y = TASKS["and, or"]
    network, task = mf.Network("sigmoid", sigma_w=sigma_w), raw(INPUTS, y)
    problem = blank(SIGMOID, task.features(sigma_w).matrix, task.targets, 1.0, 0.1)
    exact, _ = correct(Sampler(problem, None, np.random.default_rng(0), prior_mixture(3)), np.zeros((8, 2)))
    new = fixed_rng(3).normal(size=(10, 4))
    expected = ParticlePredictor(network, task, 0.1, exact, ("code",)).variance(new, 1.0).mean()
    ratios = []
    rng = np.random.default_rng(0)
    for _ in range(1200):
        predictor = _halved(problem, task, network, 120, rng)
        ratios.append([predictor.variance(new, 1.0).mean(), predictor._variances(new).mean()])
    ratios = np.array(ratios) / expected
    mean, error = ratios.mean(axis=0) - 1.0, ratios.std(axis=0) / np.sqrt(len(ratios))
    assert below(mean[0] / error[0])
    assert beyond(mean[1] / error[1], what="variance of a finite sample, in standard errors of its bias")
    assert below(mean[0] / mean[1], 0.4, "bias left, of what there was")


# ---- families ------------------------------------------------------------------------------------


def test_copies_of_points_do_not_make_an_answer_better_known():
    """Every point four times, as one family: the standard errors stay; as independent points they halve."""
    task = raw(INPUTS, TASKS["random"][1])
    problem = blank(SIGMOID, task.features(1.0).matrix, task.targets, 1.0, 0.1)
    dual = Dual(problem.targets, problem.prior, 0.1)
    sample = prior_mixture(3).sample(problem, 2000, np.random.default_rng(0))
    copies = Sample(
        np.tile(sample.points, (4, 1)),
        np.tile(sample.phi, (4, 1)),
        np.tile(sample.base, 4) - np.log(4.0),
        family=np.tile(np.arange(2000), 4),
    )
    t, at, _ = dual.minimise(sample, np.zeros((8, 1)))
    phi = SIGMOID(sample.points @ fixed_rng(0).normal(size=(5, 3)).T)
    plain = dual.noise(sample, at, phi, dual.curvature(sample, at))
    again = dual.at(copies, t)
    found = dual.noise(copies, again, np.tile(phi, (4, 1)), dual.curvature(copies, again))
    np.testing.assert_allclose(found, plain, rtol=1e-6)
    np.testing.assert_allclose(dual.shift(copies, t)[0].error, dual.shift(sample, t)[0].error, rtol=1e-6)


@pytest.mark.statistical
@pytest.mark.parametrize("phi", ["sigmoid", "step"])
def test_points_that_move_stay_in_the_exact_measure(phi):
    """From a sample of the prior: <a phi> within its standard errors of that on a hundred thousand points."""
    task = raw(INPUTS, TASKS["random"][1])
    network = mf.activation(phi)
    problem = blank(network, task.features(1.0).matrix, task.targets, 1.0, 0.1)
    sampler = Sampler(problem, None, np.random.default_rng(0), prior_mixture(3))
    t = np.array([[3.0], [-2.0], [-2.0], [3.0], [-1.0], [2.0], [2.0], [-1.0]])
    moved = spread(sampler, sampler.sample(8192, t), t, 2)
    assert sampler.dual.at(moved, t).effective == pytest.approx(len(moved.base))  # weights are even at t
    large = sampler.mixture.sample(problem, 100_000, np.random.default_rng(1))
    one, other = sampler.dual.at(moved, t), sampler.dual.at(large, t)
    noise = [np.sqrt(np.sum(sampler.dual.batches(*pair) ** 2, axis=0)) for pair in ((moved, one), (large, other))]
    assert below((one.average - other.average).ravel() / np.hypot(*noise))


# ---- limits of time ------------------------------------------------------------------------------


@pytest.mark.parametrize("refine", [False, True])
def test_frozen_fractions_have_a_limit_of_time(monkeypatch, refine):
    rng = fixed_rng(0)
    labels = np.repeat([0, 1], 6)
    inputs = rng.normal(size=(12, 8)) + 1.2 * np.where(labels == 0, 1, -1)[:, None]
    post = mf.solve(mf.Network("sigmoid"), mf.data_task(inputs, labels=labels, off=0.0), 0.1, refine=refine)
    weights = np.array([code.weight for code in post.codes])
    weights[0] *= 1.2
    clock = Clock()
    monkeypatch.setattr(limits, "time", clock)
    monkeypatch.setattr(examine, "seconds_of_measurement", lambda *sizes: 1e6)
    other = post.frozen(weights, max_seconds=1e6)
    assert other.status == "optimal"
    needed, clock.now = clock.now, 0.0
    with pytest.raises(ConvergenceError, match="before there was any state"):
        post.frozen(weights, max_seconds=0.5)
    clock.now = 0.0
    with pytest.raises(ConvergenceError, match="out of time") as error:
        post.frozen(weights, max_seconds=0.75 * needed)
    reached = error.value.result
    assert reached.status == "out of time"
    assert reached.solution.frozen
    assert np.isfinite(reached.predictions).all()
    assert clock.now <= 0.8 * needed
    with pytest.raises(ValueError, match="max_seconds"):
        post.frozen(weights, max_seconds=0.0)
