"""Finite P by rules around single codes: held against the lattice over all codes, which shares only h with them."""

import itertools

import numpy as np
import pytest

import meanfield as mf
from meanfield.activations.cumulant import cumulant
from meanfield.numerics.exponentials import exponentials
from meanfield.numerics.lattice_basis import unlike_shift
from meanfield.theories.single_layer.compiled.quick import cumulants
from meanfield.theories.single_layer.compiled.stretch import ROOM, anywhere, direct_site, single_site
from meanfield.theories.single_layer.finite import clouds as finite_clouds
from meanfield.theories.single_layer.finite import solver as finite
from meanfield.theories.single_layer.finite.newton import no_outliers
from meanfield.theories.single_layer.readout.check import stationarity
from meanfield.theories.single_layer.readout.clouds import (
    Frames,
    ball_rule,
    ball_sums,
    choose_rules,
    cloud_sums,
    framed,
    hermite_rule,
    overlapping,
)
from meanfield.theories.single_layer.readout.integral import ReadoutIntegral, Sums
from meanfield.theories.single_layer.readout.nodes import direct_samples, quick_table

TAU = 0.01


def one_hot(off, n_samples):
    return mf.class_task(fractions=[0.5, 0.25, 0.25], off=off, n_samples=n_samples)


def by_lattice(monkeypatch, *arguments, **options):
    """The solution without rules around codes."""
    with monkeypatch.context() as patch:
        patch.setattr(finite, "solve_clouds", lambda _, t, *__: (t, None))
        return mf.solve(*arguments, **options)


def integral(task, network, tau=TAU):
    single_site = cumulant(network.activation, network.k)
    return ReadoutIntegral(single_site, task.fractions, task.targets, tau, task.n_samples, "lattice")


@pytest.fixture(scope="module")
def separated():
    """The integral of a task whose codes are separated, t near its minimum, and the codes there."""
    network, task = mf.Network("sigmoid"), one_hot(0.0, 300.0)
    post = mf.solve(network, task, TAU)
    problem, t = integral(task, network), post.solution.t + 0.01
    frames = framed(problem, t, np.ascontiguousarray(post.solution.readout))
    return problem, t, frames, post.solution.weight


@pytest.mark.parametrize(("off", "n_samples"), [(-0.3, 200.0), (0.0, 1e4), (0.3, 1e3), (0.5, 1e5)])
@pytest.mark.parametrize("rtol", [None, 1e-8])
def test_both_ways_agree(off, n_samples, rtol, monkeypatch):
    network, task = mf.Network("sigmoid"), one_hot(off, n_samples)
    found, used = mf.solve(network, task, TAU, rtol=rtol), []
    known = finite.solve_clouds
    monkeypatch.setattr(finite, "solve_clouds", lambda *args: used.append(known(*args)) or used[-1])
    warm = mf.solve(network, task, TAU, rtol=rtol, warm_start=mf.solve(network, one_hot(off - 0.01, n_samples), TAU))
    assert None not in [clouds for _, clouds in used]
    expected = by_lattice(monkeypatch, network, task, TAU)
    for post in (found, warm):
        error = post.certificate.kkt_residual + expected.certificate.kkt_residual
        assert post.certificate.kkt_residual < (rtol or 1e-10)
        np.testing.assert_allclose(post.solution.t, expected.solution.t, atol=2.0 * error / TAU, rtol=0)
        assert post.objective == pytest.approx(expected.objective, abs=1e-9)
        np.testing.assert_allclose(post.solution.weight, expected.solution.weight, atol=1e-6)
        np.testing.assert_allclose(post.solution.readout, expected.solution.readout, atol=1e-6)
        spread = np.abs(post.solution.covariance - expected.solution.covariance).max(axis=(1, 2))
        assert np.max(post.solution.weight * spread) < 1e-9  # codes of little weight are known to fewer digits


@pytest.mark.parametrize(
    "targets", [[[0.8], [-0.4], [0.3]], [[1.0, -0.3], [-0.6, 0.8]], np.diag([1.0, 0.8, 1.1, 0.9]) - 0.2]
)
@pytest.mark.parametrize("name", ["tanh", "step", "logistic"])
def test_other_numbers_of_outputs(name, targets, monkeypatch):
    network, task = mf.Network(name, sigma_a=1.5), mf.class_task(targets=targets, n_samples=2e4)
    found = mf.solve(network, task, 0.05)
    expected = by_lattice(monkeypatch, network, task, 0.05)
    error = found.certificate.kkt_residual + expected.certificate.kkt_residual
    np.testing.assert_allclose(found.solution.t, expected.solution.t, atol=2.0 * error / 0.05, rtol=0)


def test_frames_are_the_widths_at_maxima(separated):
    problem, t, frames, _ = separated
    for mode, height, factor, inverse in zip(frames.mode, frames.height, frames.factor, frames.inverse, strict=True):
        g0, g1, g2 = problem.single_site.direct(t @ mode)
        np.testing.assert_allclose(t.T @ (problem.p * g1), mode, atol=1e-12)
        assert height == pytest.approx(problem.p @ g0 - 0.5 * mode @ mode, abs=1e-13)
        bend = problem.n_samples * (np.eye(3) - (t.T * (problem.p * g2)) @ t)
        np.testing.assert_allclose(factor @ factor.T @ bend, np.eye(3), atol=1e-10)
        np.testing.assert_allclose(factor @ inverse, np.eye(3), atol=1e-12)


def test_sums_are_those_of_the_lattice(separated):
    """Shares, slopes and Hessian of all codes at a t that is not the solution."""
    problem, t, frames, _ = separated
    rules = choose_rules(problem, t, frames, np.full(len(frames), 1.0), 1e-12)
    expected = problem.evaluate(t, 1e-13)
    order = np.argsort([np.abs(expected.maxima - a).max(axis=1).argmin() for a in frames.mode])
    sums = cloud_sums(problem, t, frames, rules, expected.weight[np.argsort(order)])
    np.testing.assert_allclose(sums.log_share[order], expected.log_share, atol=1e-10)
    np.testing.assert_allclose(sums.first[order], expected.first, atol=1e-11)
    np.testing.assert_allclose(sums.within, expected.within, atol=1e-9)
    assert sums.objective == pytest.approx(expected.objective, abs=1e-13)


def test_the_other_rule_measures_what_the_first_is_off_by(separated):
    """Order 5 instead of 11: the residual by lattices in balls is that of the lattice over all codes."""
    problem, t, frames, weight = separated
    log_share, first, shell = ball_sums(problem, t, frames, weight, 1e-12)
    exact = problem.evaluate(t, 1e-13)
    coarse = cloud_sums(problem, t, frames, (hermite_rule(3, 3),) * len(frames))
    off = np.abs(coarse.first - first).max()
    assert off > 1e-6
    for a, row in zip(frames.mode, first, strict=True):
        k = np.abs(exact.maxima - a).max(axis=1).argmin()
        np.testing.assert_allclose(row, exact.first[k], atol=1e-11)
    assert shell < 1e-11
    again = Sums(0.0, log_share, first, np.empty(0), frames.mode, 0.0, None)
    assert stationarity(problem, t, again, weight, no_outliers(t)) > 1e-3  # t was moved


def test_rules_too_coarse_are_not_certified_by_themselves(monkeypatch):
    """Where the first rules are off, what they claim is not: the lattice takes over."""
    monkeypatch.setattr(
        finite_clouds, "choose_rules", lambda _, t, frames, *__: (hermite_rule(t.shape[1], 4),) * len(frames)
    )
    claims = []
    known = finite.solve_clouds
    monkeypatch.setattr(finite, "solve_clouds", lambda *args: claims.append(known(*args)) or claims[-1])
    found = mf.solve(mf.Network("sigmoid"), one_hot(0.0, 500.0), TAU)
    assert claims[0][1].reached < 1e-10 < 1e-7 < claims[0][1].other
    assert found.certificate.kkt_residual < 1e-10


def test_codes_that_the_start_lacks_are_found():
    network, task = mf.Network("sigmoid"), one_hot(0.0, 300.0)
    post = mf.solve(network, task, TAU)
    problem = integral(task, network)
    few = finite_clouds.Codes(np.ascontiguousarray(post.solution.readout[:3]), post.solution.weight[:3])
    _, found = finite_clouds.solve_clouds(problem, post.solution.t, few, 1e-10, 1e-12)
    assert len(found.weight) == len(post.codes) == 4
    np.testing.assert_allclose(found.t, post.solution.t, atol=1e-8)


def test_codes_that_overlap_are_left_to_the_lattice(monkeypatch):
    network, task = mf.Network("sigmoid"), one_hot(0.5, 100.0)
    used = []
    known = finite.solve_clouds
    monkeypatch.setattr(finite, "solve_clouds", lambda *args: used.append(known(*args)) or used[-1])
    post = mf.solve(network, task, TAU)
    assert [clouds for _, clouds in used] == [None]
    problem, t = integral(task, network), post.solution.t
    frames = framed(problem, t, np.ascontiguousarray(post.solution.readout))
    assert overlapping(problem, t, frames, post.solution.weight)
    # Nodes of balls that overlap count once, so that their sum is still the whole integral, but for the cuts.
    log_share, _, _ = ball_sums(problem, t, frames, post.solution.weight, 1e-10)
    exact = problem.evaluate(t, 1e-12).log_share
    assert np.logaddexp.reduce(log_share) == pytest.approx(np.logaddexp.reduce(exact), abs=1e-2)


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_rules_integrate_a_normal_density(m):
    """e^{-z^2/2} and its fourth moments: exactly, and to the accuracy of the ball."""
    for rule, error in [
        (hermite_rule(m, 5), 1e-13),
        (ball_rule(m, 1e-8, 1.0, True), 3e-7),
        (ball_rule(m, 1e-8, 1.25, False), 3e-7),
    ]:
        z = rule.z.transpose(0, 2, 1).reshape(-1, m)
        w = rule.weight.ravel() * np.exp(-0.5 * np.sum(z * z, axis=1))
        assert w.sum() == pytest.approx(1.0, abs=error)
        assert w @ z[:, 0] ** 4 == pytest.approx(3.0, abs=1e2 * error)
        assert np.linalg.norm(z[rule.weight.ravel() > 0], axis=1).max() <= rule.radius * (1.0 + 1e-12)
    shifted, plain = (ball_rule(m, 1e-8, 1.0, shift).z.transpose(0, 2, 1).reshape(-1, m) for shift in (True, False))
    assert np.abs(plain).sum(axis=1).min() == 0.0
    assert np.linalg.norm(shifted, axis=1)[:-ROOM].min(initial=np.inf) > 0.05 or m == 1
    assert not np.allclose(unlike_shift(m), 0.0)


def test_vectorised_single_site():
    """G, G', G'' and e^x in loops of whole lanes, inside and beyond the intervals of equal width."""
    site = cumulant(mf.activation("sigmoid"))
    quick, p = quick_table(site), np.array([0.3, 0.7])
    rng = np.random.default_rng(0)
    for largest, near in ((100.0, True), (1e5, False)):
        kappa = rng.uniform(-largest, largest, (2, ROOM))
        value, slope, curvature = np.ones(ROOM), np.empty((2, ROOM)), np.empty((2, ROOM))
        done = single_site(quick.coefficients, quick.inverse, quick.half, 50.0, p, kappa, ROOM, value, slope, curvature)
        assert done is near
        if not near:
            np.testing.assert_array_equal(value, 1.0)
            anywhere(quick, 50.0, p, kappa, ROOM, value, slope, curvature)
        exact = np.array([cumulants(site.table, row) for row in kappa])
        np.testing.assert_allclose(value, 1.0 + 50.0 * p @ exact[:, :, 0], rtol=1e-12)
        np.testing.assert_allclose(slope, exact[:, :, 1], rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(curvature, exact[:, :, 2], atol=1e-11)
    samples = direct_samples(site)
    origin, known = samples.cover(-60.0, 60.0)
    kappa, value, slope = rng.uniform(-60.0, 60.0, (2, ROOM)), np.zeros(ROOM), np.empty((2, ROOM))
    direct_site(known, samples.step, origin, 50.0, p, kappa, ROOM, value, slope)
    exact = np.array([site.direct(row) for row in kappa])
    np.testing.assert_allclose(value, 50.0 * p @ exact[:, 0], rtol=1e-12)
    np.testing.assert_allclose(slope, exact[:, 1], rtol=1e-11)
    x = np.append(rng.uniform(-50, 1, ROOM - 6), [0.0, -800.0, 709.0, 900.0, -np.inf, np.nan])
    result = np.empty(ROOM)
    exponentials(x, ROOM, result)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(result[:-1], np.exp(x[:-1]), rtol=5e-16, atol=1e-320)
    assert result[-1] == 0.0


def test_each_maximum_once():
    """Two readouts that climb to one maximum share its weight."""
    network, task = mf.Network("sigmoid"), one_hot(0.0, 300.0)
    post = mf.solve(network, task, TAU)
    problem, t = integral(task, network), post.solution.t
    readout = post.solution.readout[[0, 1, 0, 2]] + 0.001
    frames = framed(problem, t, readout)
    merged, weight = finite_clouds._merged(frames, np.array([0.3, 0.2, 0.1, 0.4]))
    assert isinstance(merged, Frames)
    assert len(merged) == 3
    np.testing.assert_allclose(weight, [0.4, 0.2, 0.4])
    for one, other in itertools.combinations(merged.mode, 2):
        assert np.abs(one - other).max() > 0.1
