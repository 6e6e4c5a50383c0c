"""Finite P with many different classes: sums over two halves of the classes against lattices over all outputs."""

import math

import numpy as np
import pytest

import meanfield as mf
from meanfield.activations.activation import activation
from meanfield.activations.cumulant import cumulant
from meanfield.posterior.certificate import ConvergenceError
from meanfield.theories.single_layer.finite.halves import solve_halves
from meanfield.theories.single_layer.finite.halves_averages import halves_averages
from meanfield.theories.single_layer.finite.halves_codes import halves_codes
from meanfield.theories.single_layer.finite.solver import finite_solve
from meanfield.theories.single_layer.readout.halves import Halves
from meanfield.theories.single_layer.readout.halves_grids import choices, smoothed
from meanfield.theories.single_layer.readout.integral import NotIntegrable, ReadoutIntegral


def task_of(n_classes, m, seed, equal=True):
    """Fractions, targets and order parameters that are not those of a solution."""
    rng = np.random.default_rng(seed)
    p = np.full(n_classes, 1.0) if equal else rng.uniform(0.5, 1.5, n_classes)
    return p / p.sum(), rng.uniform(-1.0, 1.0, (n_classes, m)), rng.uniform(-6.0, 6.0, (n_classes, m))


def halves_of(name, p, y, tau, n_samples, t):
    halves = Halves(ReadoutIntegral(cumulant(activation(name)), p, y, tau, n_samples, "lattice"))
    halves.look_for_maxima(t, 1e-12)
    return halves


def over_all_outputs(name, p, t, n_samples, spacing=0.55, reach=7.6):
    """ln of the integral, <G'_c a>, <G'_c G'_e> and <G''_c> from a cubic lattice over all outputs, G directly."""
    site, m = cumulant(activation(name)), t.shape[1]
    bound = site.direct(np.array([-200.0, 200.0]))[1]
    ends = np.sort(np.stack([bound[0] * p[:, None] * t, bound[1] * p[:, None] * t]), axis=0).sum(axis=1)
    step, margin = spacing / math.sqrt(n_samples), reach / math.sqrt(n_samples)
    axes = [np.arange(low - margin, high + margin, step) for low, high in ends.T]
    sums = [0.0, 0.0, 0.0, 0.0]
    for first in axes[0]:
        a = np.stack(np.meshgrid([first], *axes[1:], indexing="ij"), axis=-1).reshape(-1, m)
        g0, g1, g2 = site.direct(a @ t.T)
        w = np.exp(n_samples * (g0 @ p - 0.5 * (a**2).sum(axis=1)))
        for i, part in enumerate((w.sum(), (g1.T * w) @ a, (g1.T * w) @ g1, w @ g2)):
            sums[i] = sums[i] + part
    log = math.log(sums[0]) + m * (math.log(step) + 0.5 * math.log(n_samples / (2.0 * math.pi)))
    return log, *(part / sums[0] for part in sums[1:])


@pytest.mark.parametrize(
    ("name", "n_classes", "m", "n_samples"),
    [
        ("sigmoid", 3, 3, 12.0),
        ("tanh", 3, 3, 12.0),
        ("step", 4, 3, 12.0),  # more classes than outputs: halves share two directions
        ("sigmoid", 4, 3, 10.0),
        ("sigmoid", 5, 3, 10.0),  # and one has a direction of its own
    ],
)
def test_against_a_cubic_lattice(name, n_classes, m, n_samples):
    p, y, t = task_of(n_classes, m, 1)
    t *= 0.5
    halves = halves_of(name, p, y, 0.05, n_samples, t)
    value, block, bend = halves.averages(t, 1e-11)
    log, output, pairs, curvature = over_all_outputs(name, p, t, n_samples)
    linear = np.sum(p[:, None] * t * (0.025 * t - y))
    assert value.objective == pytest.approx(linear + log / n_samples, abs=1e-9)
    gradient = p[:, None] * (0.05 * t - y + output)
    np.testing.assert_allclose(value.gradient.reshape(t.shape), gradient, atol=1e-8)
    np.testing.assert_allclose(block, pairs, atol=1e-6)
    np.testing.assert_allclose(bend, curvature, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "n_classes", "m", "equal", "n_samples"),
    [
        ("sigmoid", 4, 4, True, 40.0),
        ("tanh", 5, 4, False, 60.0),  # p_c P no integers
        ("sigmoid", 5, 5, True, 20.0),
        ("erf", 3, 3, True, 300.0),  # codes that are apart
    ],
)
def test_slope_and_curvature_against_lattices_and_differences(name, n_classes, m, equal, n_samples):
    p, y, t = task_of(n_classes, m, 2, equal)
    halves = halves_of(name, p, y, 0.05, n_samples, t)
    problem = halves.problem
    halves.refinement = problem.refinement = 0.8
    value = halves.value(t, 1e-10, True)
    sums = problem.evaluate(t, 1e-10, hessian=False)
    assert value.objective == pytest.approx(sums.objective, abs=1e-10)
    expected = (p[:, None] * (0.05 * t - y)).ravel() + sums.weight @ sums.first
    np.testing.assert_allclose(value.gradient, expected, atol=1e-9)
    other = halves.checked(t, 1e-11)  # other halves, other tables, G directly
    assert other.objective == pytest.approx(value.objective, abs=1e-11)
    np.testing.assert_allclose(other.gradient, value.gradient, atol=1e-10)
    way, d = np.random.default_rng(3).normal(size=t.shape), 1e-4
    up, down = halves.value(t + d * way, 1e-10, False), halves.value(t - d * way, 1e-10, False)
    turned = value.hessian @ way.ravel()
    np.testing.assert_allclose((up.gradient - down.gradient) / (2.0 * d), turned, atol=1e-5 * np.abs(turned).max())


@pytest.mark.parametrize("distance", [1e-1, 1e-4, 1e-9, 0.0])
def test_classes_that_are_nearly_dependent(distance):
    p, y, t = task_of(4, 4, 4)
    way = t[3].copy()
    t[3] = 0.5 * (t[0] - t[1]) + 0.8 * t[2] + distance * way
    halves = halves_of("sigmoid", p, y, 0.05, 40.0, t)
    value, other = halves.value(t, 1e-11, False), halves.checked(t, 1e-12)
    sums = halves.problem.evaluate(t, 1e-11, hessian=False)
    assert value.objective == pytest.approx(sums.objective, abs=1e-10)
    assert other.objective == pytest.approx(sums.objective, abs=1e-10)
    expected = (p[:, None] * (0.05 * t - y)).ravel() + sums.weight @ sums.first
    np.testing.assert_allclose(value.gradient, expected, atol=1e-9)
    np.testing.assert_allclose(other.gradient, expected, atol=1e-9)


def test_what_is_smoothed_is_the_gram_matrix():
    t = task_of(6, 6, 5)[2]
    for other in (False, True):
        task = smoothed(t, other=other)
        assert task.t.shape == (6, 5)
        assert (task.variance >= 0.0).all()
        assert task.variance.any()
        np.testing.assert_allclose(task.t @ task.t.T + np.diag(task.variance), t @ t.T, atol=1e-11)
    assert len(choices(6)) == 10
    assert len(choices(5)) == 10


@pytest.mark.parametrize("name", ["sigmoid", "step"])
def test_solution_is_that_of_the_lattice_over_all_outputs(name):
    p, y, _ = task_of(5, 5, 6)
    site = cumulant(activation(name))
    ours = finite_solve(site, p, y, 0.1, 60.0)
    theirs = finite_solve(site, p, y, 0.1, 60.0, method="lattice")
    assert (ours.method, theirs.method) == ("halves", "lattice")
    assert ours.residual < 1e-9
    assert ours.integration_error < 1e-10
    assert np.abs(ours.t - theirs.t).max() <= (ours.residual + theirs.residual) / 0.1
    assert ours.objective == pytest.approx(theirs.objective, abs=1e-9)
    assert ours.weight.sum() == pytest.approx(1.0)
    assert ours.beside_cuts > 0.0
    total = ours.weight @ ours.mean
    np.testing.assert_allclose(total, theirs.weight @ theirs.mean, atol=1e-6)


def test_codes_that_are_apart_are_those_of_the_lattice():
    p, y, _ = task_of(5, 5, 1)
    site = cumulant(activation("sigmoid"))
    found = finite_solve(site, p, y, 0.05, 400.0, method="lattice")
    halves = halves_of("sigmoid", p, y, 0.05, 400.0, found.t)
    codes = halves_codes(halves, found.t)
    n = int((found.weight > 1e-3).sum())
    np.testing.assert_allclose(codes["weight"][:n], found.weight[:n], atol=1e-5)
    np.testing.assert_allclose(codes["mode"][:n], found.mode[:n], atol=1e-8)
    np.testing.assert_allclose(codes["mean"][:n], found.mean[:n], atol=1e-4)
    np.testing.assert_allclose(codes["covariance"][:n], found.covariance[:n], atol=1e-5)


def test_six_and_seven_different_classes():
    for n_classes, m in ((6, 6), (7, 5)):
        p, y, _ = task_of(n_classes, m, 7)
        network, task = mf.Network("sigmoid"), mf.class_task(fractions=p, targets=y, n_samples=14.0)
        post = mf.solve(network, task, 0.2)
        assert "halves" in post.solution.message
        assert post.certificate.kkt_residual < 1e-9
        averages = halves_averages(network, task, post.solution)
        assert averages.residual < 1e-8
        kernel = post.kernel()
        np.testing.assert_allclose(kernel.block, averages.block, atol=1e-12)
        assert np.linalg.eigvalsh(kernel.block)[0] > 0.0
        # The output of all codes together, each taken as a Gaussian, is nearly y - tau t.
        spread = [c.activation_variance[:, None] * (post.solution.t @ c.covariance) for c in post.codes]
        parts = zip(post.codes, spread, strict=True)
        output = sum(c.weight * (np.outer(c.activation, c.readout) + more) for c, more in parts)
        np.testing.assert_allclose(output, y - 0.2 * post.solution.t, atol=0.05)


def test_what_is_out_of_reach_is_said():
    p, y, t = task_of(6, 6, 8)
    problem = ReadoutIntegral(cumulant(activation("sigmoid")), p, y, 0.05, 1e4, "lattice")
    halves = Halves(problem)
    halves.look_for_maxima(10.0 * t, 1e-3)
    with pytest.raises(NotIntegrable):
        halves.value(10.0 * t, 1e-3, True)
    with pytest.raises(ConvergenceError, match="of the classes"):
        solve_halves(problem, 10.0 * t, 1e-10, 1e-6)
