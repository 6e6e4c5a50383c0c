"""The exact single-neuron measure: derivatives, quadrature against sampling, coverage, closed forms by symmetry."""

from dataclasses import replace

import numpy as np
import pytest
from exact_problems import PAIR, SIGMOID, Clock, cube, pair_of, raw
from margins import below, beyond
from problems import fixed_rng

import meanfield as mf
from meanfield.activations.activation import activation
from meanfield.numerics import limits
from meanfield.posterior.certificate import Certificate, ConvergenceError
from meanfield.theories.general_data.exact import check, examine
from meanfield.theories.general_data.exact.check import Sampler
from meanfield.theories.general_data.exact.correct import correct
from meanfield.theories.general_data.exact.coverage import cover, modes
from meanfield.theories.general_data.exact.examine import _twice
from meanfield.theories.general_data.exact.moves import anneal
from meanfield.theories.general_data.exact.particles import ParticleSolution
from meanfield.theories.general_data.exact.proposal import Mixture, mixture_of, prior_mixture
from meanfield.theories.general_data.exact.quadrature import nodes
from meanfield.theories.general_data.exact.sample import Dual, sample_of
from meanfield.theories.general_data.exact.unaided import approach, blank
from meanfield.theories.general_data.solve import solve_general


@pytest.fixture(scope="module")
def three_codes():
    rng = fixed_rng(1)
    labels = np.arange(30) % 3
    inputs = rng.normal(size=(30, 60)) + 0.8 * rng.normal(size=(3, 60))[labels]
    targets = np.where(np.eye(3)[labels] > 0, 1.0, 0.0)
    found = solve_general(
        SIGMOID, inputs / np.sqrt(60), targets, 1.0, 0.05, labels=labels, threads=1, rng=0, method="joint"
    )
    return found, labels


# ---- the dual on a sample ------------------------------------------------------------------------


@pytest.mark.parametrize("fractions", [None, np.array([0.3, 0.7])])
def test_gradient_and_curvature_are_derivatives(fractions):
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    points = rng.normal(size=(400, 3))
    sample = sample_of(SIGMOID, features, points, np.full(400, -np.log(400)), group=np.arange(400) % 2)
    dual = Dual(targets, 0.2, 0.1, fractions)
    t = rng.normal(size=(5, 2))
    slope = dual.gradient(dual.at(sample, t), t)
    lower = np.tril(dual.curvature(sample, dual.at(sample, t))[0])
    step = 1e-5
    for index in np.ndindex(5, 2):
        move = np.zeros((5, 2))
        move[index] = step
        up, down = dual.at(sample, t + move), dual.at(sample, t - move)
        assert (up.value - down.value) / (2 * step) == pytest.approx(slope[index], abs=1e-7)
        column = (dual.gradient(up, t + move) - dual.gradient(down, t - move)) / (2 * step)
        position = np.ravel_multi_index(index, (5, 2))
        np.testing.assert_allclose((lower @ lower.T)[:, position], column.ravel(), atol=1e-6)


def test_the_minimum_is_one():
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(5, 3)), rng.normal(size=(5, 1))
    sample = sample_of(SIGMOID, features, rng.normal(size=(2000, 3)), np.full(2000, -np.log(2000)))
    dual = Dual(targets, 0.2, 0.1)
    t, at, arrived = dual.minimise(sample, np.zeros((5, 1)))
    assert arrived
    assert np.abs(dual.gradient(at, t)).max() < 1e-9
    # J is tau-strongly convex.
    for _ in range(10):
        move = rng.normal(size=t.shape)
        assert dual.at(sample, t + move).value >= at.value + 0.05 * np.sum(move**2) - 1e-9


# ---- samples -------------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", ["sigmoid", "tanh", "step"])
def test_nodes_integrate_the_prior(phi):
    """ln Z at t = 0, and E phi of one preactivation against its own closed form or quadrature."""
    for rank in (1,) if phi == "step" else (1, 2, 3):
        features = np.random.default_rng(rank).uniform(-1.0, 1.0, size=(4, rank))
        found = nodes(activation(phi), features, 0.25, np.zeros((4, 1)))
        share = np.exp(found.base)
        assert share.sum() == pytest.approx(1.0, abs=1e-9)
        expected = 0.0 if phi == "tanh" else 0.5
        np.testing.assert_allclose(share @ found.phi, expected, atol=1e-9)


@pytest.mark.statistical
def test_a_proposal_is_a_density(three_codes):
    mixture = mixture_of(three_codes[0])
    points = mixture.draw(4000, np.random.default_rng(0))
    rank = points.shape[1]
    # E_q[prior / q] = 1: the mean of weights with a bounded second moment, as the prior is one of the components.
    ratio = np.exp(-0.5 * (points**2).sum(axis=1) - mixture.log_density(points))
    assert ratio.max() <= 1.0 / 0.05 + 1e-9
    assert below((ratio.mean() - 1) / (ratio.std() / np.sqrt(len(points))))
    small = Mixture(np.array([0.4, 0.6]), np.array([[0.0], [1.0]]), np.array([[[1.0]], [[0.5]]]), np.zeros(2, int))
    grid = np.linspace(-9, 9, 4001)[:, None]
    assert np.exp(small.log_density(grid)).sum() * (grid[1, 0] - grid[0, 0]) == pytest.approx(
        np.sqrt(2 * np.pi), rel=1e-9
    )
    assert rank == three_codes[0].features.shape[1]


def _moments(sample, dual, t):
    """ln Z and <a phi> with standard errors, from 16 parts of a sample."""
    parts = []
    for b in range(16):
        mine = slice(b, None, 16)
        part = replace(sample, points=sample.points[mine], phi=sample.phi[mine], base=sample.base[mine] + np.log(16))
        at = dual.at(part, t)
        parts.append(np.append(at.average.ravel(), at.log_z))
    return np.mean(parts, axis=0), np.std(parts, axis=0) / 4.0


@pytest.mark.statistical
@pytest.mark.parametrize("phi", ["sigmoid", "step"])
def test_annealed_points_are_of_the_exact_measure(phi):
    """From the prior, far from p, against nodes (or, for a step, a hundred thousand points of the prior)."""
    shape = activation(phi)
    features = np.array([[1.5, 0.0], [0.0, 1.5], [-1.2, 0.7]])
    t = np.array([[3.0], [-2.0], [2.5]])
    solution = type("Problem", (), {"activation": shape, "features": features, "prior": 1.0 / 3.0})
    dual = Dual(np.zeros((3, 1)), 1.0 / 3.0, 0.1)
    exact = nodes(shape, features, 1.0 / 3.0, t)
    if exact is None:
        exact = prior_mixture(2).sample(solution, 100_000, np.random.default_rng(1))
    expected = dual.at(exact, t)
    sample = anneal(solution, prior_mixture(2), t, 4096, np.random.default_rng(0))
    assert dual.at(sample, t).effective > 2500
    mean, error = _moments(sample, dual, t)
    wanted = np.append(expected.average.ravel(), expected.log_z)
    assert below(mean - wanted, 0.05, "ln Z and <a phi>")
    assert below((mean - wanted) / np.hypot(error, 1e-3), 10.0)  # 16 parts: errors are known to 20 %


@pytest.mark.statistical
def test_a_code_that_the_proposal_misses_is_found(three_codes):
    solution, labels = three_codes
    t = np.array(solution.t)
    mixture = mixture_of(solution)
    rng = np.random.default_rng(0)
    found = modes(solution, t, labels, rng)
    log_z = Dual(solution.targets, solution.prior, solution.tau).at(mixture.sample(solution, 4096, rng), t).log_z
    _, missed = cover(mixture, solution, t, log_z, found, rng)
    assert below(missed, 0.05, "missed")
    keep = mixture.code != 0
    less = Mixture(
        mixture.weight[keep] / mixture.weight[keep].sum(), mixture.mean[keep], mixture.root[keep], mixture.code[keep]
    )
    repaired, missed = cover(less, solution, t, log_z, found, rng)
    assert beyond(missed, 0.05, "missed, one code removed")
    assert len(repaired.weight) > len(less.weight)


# ---- closed forms by symmetry --------------------------------------------------------------------


@pytest.mark.parametrize(("phi", "sigma_w"), [("sigmoid", 1.0), ("sigmoid", 3.0), ("step", 1.0)])
def test_weights_that_are_pulled_both_ways_keep_their_prior(phi, sigma_w):
    """phi(z) + phi(-z) = 1 and x, -x with equal targets: f = mean(y) / (1 + 4 tau / sigma_a^2)."""
    exact = 1.0 / 1.4
    with pytest.raises(ConvergenceError, match=r"approximate.*root mean square") as error:
        pair_of(phi, sigma_w, refine=False)
    rough = error.value.result
    assert rough.status == "approximate"
    assert "refine=True" in rough.status.advice
    assert not isinstance(rough.solution, ParticleSolution)
    actual = np.sqrt(np.mean((rough.predictions - exact) ** 2))
    assert rough.certificate.output_error == pytest.approx(actual, rel=0.02)  # first order, and hardly any second
    assert rough.certificate.effective_samples == np.inf
    post = pair_of(phi, sigma_w)
    assert post.status == "optimal"
    assert "corrected" in post.message
    np.testing.assert_allclose(post.predictions, exact, atol=1e-8)
    np.testing.assert_allclose(post.predict(PAIR), exact, atol=1e-6)
    assert post.certificate.output_error < 1e-8
    assert post.codes[0].readout[0] == pytest.approx(2 * exact, abs=1e-6)


@pytest.mark.parametrize("phi", ["tanh", "erf"])
def test_odd_functions_cannot_agree_on_opposite_inputs(phi):
    """Expectation propagation has no fixed point here."""
    post = pair_of(phi)
    np.testing.assert_allclose(post.predictions, 0.0, atol=1e-8)


@pytest.mark.statistical
@pytest.mark.parametrize(("n", "phi", "atol"), [(3, "sigmoid", 1e-8), (3, "step", 2e-3), (4, "sigmoid", 2e-3)])
def test_parity_of_two_on_the_hypercube(n, phi, atol):
    """f = mean(y) / (1 + 4 tau): by quadrature to rounding; samples to 6 standard errors."""
    x = cube(n)
    post = mf.solve(mf.Network(phi), raw(x, (1.0 + x[:, 0] * x[:, 1]) / 2.0), 0.1)
    proof = post.certificate
    error = np.abs(post.predictions - 0.5 / 1.4)
    assert below(error, atol, "f")
    assert proof.output_error_se < 5e-4
    scale = proof.output_error + 6 * proof.output_error_se + 1e-8
    assert below(np.sqrt(np.mean(error**2)) / scale, 1.0, "rms / certified")


def test_repeated_rows_are_one_sample_with_its_mean_target():
    """Two copies of X with targets y1, y2 at tau: the copies have the same output, t differs by (y1 - y2) / tau."""
    x = np.random.default_rng(0).normal(size=(3, 2))
    y = np.array([1.0, 0.2, 0.6])
    off = np.array([0.1, -0.2, 0.3])
    post = mf.solve(
        mf.Network("sigmoid"), raw(np.concatenate([x, x]), np.concatenate([y + off, y - off])), 0.1, refine=True
    )
    # One copy: s2 = sigma_a^2 / P is twice as large for half the P; t adds up over copies, hence tau / 2.
    once = mf.solve(mf.Network("sigmoid", sigma_a=np.sqrt(0.5)), raw(x, y), 0.05, refine=True)
    np.testing.assert_allclose(post.predictions[:3], post.predictions[3:], atol=1e-7)
    np.testing.assert_allclose(post.predictions[:3], once.predictions, atol=1e-7)


@pytest.mark.statistical
def test_sampling_agrees_with_quadrature(monkeypatch):
    """Majority of three: the error of an answer, and the corrected answer, by both."""
    x = cube(3)
    post = mf.solve(
        mf.Network("sigmoid", sigma_w=2.0), raw(x, (x.sum(axis=1) > 0) * 1.0), 0.1, refine=False, on_failure="return"
    )
    solution = post.solution
    exact = Sampler(solution, None, np.random.default_rng(0))
    by_nodes = exact.measure(np.array(solution.t))
    assert by_nodes.effective == np.inf
    true, _ = correct(exact, np.array(solution.t))
    monkeypatch.setattr(check, "MAX_RANK", 0)
    sampled = Sampler(solution, None, np.random.default_rng(0))
    by_points = sampled.measure(np.array(solution.t))
    assert np.isfinite(by_points.effective)
    assert below((by_points.rms - by_nodes.rms) / by_points.noise)
    assert below(by_points.log_z - by_nodes.log_z, 0.1, "ln Z")
    found, measured = correct(sampled, np.array(solution.t))
    assert below(0.1 * (found.t - true.t) / (measured.largest_noise + 1e-6))
    # What the solver's answer was off by.
    actual = np.sqrt(np.mean((0.1 * (true.t - solution.t)) ** 2))
    assert by_nodes.rms == pytest.approx(actual, rel=0.05, abs=1e-6)


# ---- what is handed back -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blobs():
    """A solution of several codes, corrected; and as expectation propagation has it."""
    rng = fixed_rng(0)
    labels = np.repeat([0, 1], 6)
    inputs = rng.normal(size=(12, 8)) + 1.2 * np.where(labels == 0, 1, -1)[:, None]
    task = mf.data_task(inputs, labels=labels, off=0.0)
    network = mf.Network("sigmoid")
    new = rng.normal(size=(5, 8)) + 0.5
    return mf.solve(network, task, 0.1, refine=True), mf.solve(network, task, 0.1, refine=False), new


@pytest.mark.statistical
def test_a_corrected_posterior_answers_as_the_approximation_does(blobs):
    post, rough, new = blobs
    assert isinstance(post.solution, ParticleSolution)
    assert rough.certificate.output_error <= 0.003
    np.testing.assert_allclose(post.predict(new), rough.predict(new), atol=0.02)
    np.testing.assert_allclose(post.predict(post.task.inputs + post.task.center), post.predictions, atol=1e-6)
    _, variance = post.predict(new, variance=True, width=100)
    _, expected = rough.predict(new, variance=True, width=100)
    np.testing.assert_allclose(variance, expected, rtol=0.3)
    np.testing.assert_allclose(np.asarray(post.kernel(new)), np.asarray(rough.kernel(new)), atol=0.03)
    np.testing.assert_allclose(np.asarray(post.kernel()), np.asarray(rough.kernel()), atol=0.03)
    assert sum(code.weight for code in post.codes) == pytest.approx(1.0)
    np.testing.assert_allclose(post.readout_covariance, rough.readout_covariance, atol=0.1)
    neurons = post.sample_neurons(4000, rng=0)
    products = neurons.activations[:, :, None] * neurons.readouts[:, None, :]
    assert below((products.mean(axis=0) - post.predictions) / (products.std(axis=0) / np.sqrt(4000)))


@pytest.mark.statistical
def test_frozen_fractions_of_a_corrected_posterior(blobs):
    post, _, new = blobs
    weights = np.array([code.weight for code in post.codes])
    same = post.frozen(weights)
    # Measured, and where need be corrected, by itself.
    assert same.certificate.output_error_se != post.certificate.output_error_se
    noise = np.hypot(same.certificate.output_error_se, post.certificate.output_error_se)
    difference = np.sqrt(np.mean((same.predictions - post.predictions) ** 2))
    assert below(difference / (noise + same.certificate.output_error + post.certificate.output_error))
    assert (same.predict(new, variance=True, width=1)[1] <= post.predict(new, variance=True, width=1)[1] + 1e-6).all()
    if len(weights) > 1:
        other = post.frozen(weights * np.where(np.arange(len(weights)) == 0, 1.2, 1.0))
        assert other.codes[0].weight > weights[0]
        assert np.abs(other.predictions - post.predictions).max() > 1e-5


def test_files_hold_the_measured_error(blobs, tmp_path):
    for post in blobs[:2]:
        found = mf.load(post.save(tmp_path / "posterior.npz"))
        np.testing.assert_allclose(found.predict(blobs[2]), post.predict(blobs[2]), atol=1e-9)
        assert found.certificate.output_error == post.certificate.output_error
        assert found.certificate.effective_samples == post.certificate.effective_samples
        assert type(found.solution) is type(post.solution)


def test_certificates_of_before_still_load():
    old = {
        "kkt_residual": 1e-9,
        "duality_gap": 0.0,
        "bound_gap": 0.0,
        "global_check": True,
        "unique": True,
        "nullity": 0,
    }
    assert Certificate(**old).output_error is None


def test_what_is_not_measured_is_said(monkeypatch):
    monkeypatch.setattr("meanfield.theories.general_data.exact.examine.MAX_SAMPLED", 5)
    post = mf.solve(mf.Network("sigmoid"), raw(cube(3), cube(3)[:, 0]), 0.5)
    assert post.certificate.output_error is None
    assert "not measured" in post.notes[0]


@pytest.mark.parametrize("options", [{"refine": "yes"}, {"max_seconds": 0.0}, {"max_seconds": "long"}])
def test_options_are_checked(options):
    with pytest.raises((ValueError, TypeError), match=r"refine|max_seconds"):
        pair_of("sigmoid", **options)


# ---- limits, and no help from expectation propagation ------------------------------------------------


def _noisy():
    rng = fixed_rng(0)
    return mf.data_task(rng.normal(size=(24, 30)), labels=[0, 1] * 12, off=0.0)


def test_time_that_is_over_leaves_the_best_state_with_its_error(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(limits, "time", clock)
    monkeypatch.setattr(examine, "seconds_of_measurement", lambda *sizes: 1e6)  # a quarter of the time is kept for it

    def solved(seconds, **options):
        clock.now = 0.0
        return mf.solve(mf.Network("sigmoid"), _noisy(), 0.02, max_seconds=seconds, **options)

    assert solved(1e6).status == "optimal"
    half = 0.5 * clock.now
    with pytest.raises(ConvergenceError, match=r"out of time.*time was over"):
        solved(half)
    post = solved(half, on_failure="return")
    assert post.status == "out of time"
    assert post.certificate.output_error is not None
    assert np.isfinite(post.predictions).all()
    assert clock.now <= 1.05 * half
    with pytest.raises(ConvergenceError, match="before there was any state"):
        solved(0.5)
    nothing = solved(0.5, on_failure="return")
    assert nothing.status == "out of time"
    assert not nothing.solution.t.any()
    monkeypatch.setattr(examine, "seconds_of_measurement", lambda *sizes: 0.0)
    late = solved(half, on_failure="return")
    assert late.certificate.output_error is None
    assert "was not measured in time" in late.message
    assert clock.now <= 1.05 * half


def test_a_corrected_solution_says_how_noisy_new_outputs_are(blobs):
    refined, rough, _ = blobs
    points = f"{refined.certificate.effective_samples:.0f} effective points"
    assert any(points in note for note in refined.notes)
    assert not any("effective points" in note for note in rough.notes)
    assert not any("effective points" in note for note in pair_of("sigmoid").notes)  # by quadrature


def test_mixtures_follow_a_measure_that_they_do_not_fit():
    """The prior, of which hardly a point counts at this t: fitted to its own samples until weights are even."""
    rng = fixed_rng(0)
    problem = blank(SIGMOID, rng.normal(size=(12, 3)), rng.normal(size=(12, 1)), 1.0, 0.05)
    t = 4.0 * rng.normal(size=(12, 1))
    sampler = Sampler(problem, None, rng, prior_mixture(3))
    assert sampler.dual.at(sampler.sample(4000, t), t).effective < 400.0
    _, at = sampler.fit(t, 4000)
    assert at.effective > 1600.0
    exact = sampler.dual.at(sampler.quadrature(t), t)
    assert at.log_z == pytest.approx(exact.log_z, abs=0.1)
    np.testing.assert_allclose(at.average, exact.average, atol=0.05)


@pytest.mark.statistical
def test_particles_from_the_prior_end_where_quadrature_does():
    """Majority of three inputs, t from 0."""
    x = cube(3)
    y = (x.sum(axis=1) > 0).astype(float)[:, None]
    features = raw(x, y).features(1.0).matrix
    nothing = blank(SIGMOID, features, y, 1.0, 0.1)
    exact, _ = correct(Sampler(nothing, None, np.random.default_rng(0), prior_mixture(3)), np.zeros((8, 1)))
    sampler, t = approach(nothing, None, np.random.default_rng(0))
    assert below(0.1 * (t - exact.t), 0.1, "first approach")
    sampler.quadrature = lambda t, shift=0.0: None
    found, measured = correct(sampler, t)
    assert measured.reliable
    assert below(0.1 * (found.t - exact.t) / measured.largest_noise)


@pytest.mark.statistical
def test_random_labels_without_a_fixed_point_are_solved():
    """Two answers from independent samples agree: t by the solver's own, and particles from the prior."""
    rng = fixed_rng(1)
    task = raw(rng.normal(size=(21, 10)), rng.integers(0, 2, 21) * 1.0)
    network = mf.Network("sigmoid")
    post = mf.solve(network, task, 0.1)
    nothing = blank(SIGMOID, task.features(1.0).matrix, task.targets, 1.0, 0.1)
    found, measured = correct(*approach(nothing, None, np.random.default_rng(5)))
    assert measured.reliable
    noise = np.hypot(measured.noise, post.certificate.output_error_se)
    difference = 0.1 * (found.t - post.order_parameters["t"])
    assert below(np.sqrt(np.mean(difference**2)) / (noise + post.certificate.output_error))


@pytest.mark.statistical
def test_two_runs_of_particles_agree_and_say_so():
    """Ten samples in three dimensions: no fixed point; t is that of quadrature."""
    task = raw(cube(3), [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    nothing = replace(
        blank(SIGMOID, task.features(2.0).matrix, task.targets, 1.0, 0.1), status="EP failed", residual=np.inf
    )
    exact, _ = correct(Sampler(nothing, None, np.random.default_rng(0), prior_mixture(3)), np.zeros((8, 1)))
    found, measured = _twice(nothing, None)
    assert measured.seeds > 0.0
    assert below(measured.seeds / measured.noise)
    assert below(0.1 * (found.t - exact.t) / (measured.largest_noise + measured.largest))
