"""Finite P with exchangeable classes: against sums over planes, lattices over all outputs, and Monte Carlo."""

import math

import numpy as np
import pytest

import meanfield as mf
from meanfield.activations.activation import activation
from meanfield.activations.cumulant import cumulant
from meanfield.theories.single_layer.compiled.exchange import kind_values, others_of
from meanfield.theories.single_layer.finite.exchange import reduced_order_parameters, solve_exchange
from meanfield.theories.single_layer.finite.exchange_codes import exchange_codes
from meanfield.theories.single_layer.finite.solver import finite_solve
from meanfield.theories.single_layer.kinds.classes import class_kinds
from meanfield.theories.single_layer.readout.exchange import ExchangeIntegral, range_of
from meanfield.theories.single_layer.readout.nodes import direct_samples


def grouped(groups, off):
    """Fractions and one-hot targets of groups of classes, classes of a group alike."""
    p = np.concatenate([np.full(size, 1.0 + 0.5 * i) for i, size in enumerate(groups)])
    return p / p.sum(), np.where(np.eye(sum(groups), dtype=bool), 1.0, off)


def in_plane(site, n_samples, p, rho, field):
    """ln R of three classes: a square lattice in the plane of x with mean zero, G directly."""
    spacing = 0.4 * math.sqrt(rho / n_samples)
    grid = spacing * np.arange(-60, 61)
    x = np.multiply.outer(grid, np.array([1.0, -1.0, 0.0]) / math.sqrt(2))[:, None]
    x = x + np.multiply.outer(grid, np.array([1.0, 1.0, -2.0]) / math.sqrt(6))[None]
    g = site.direct((field + x).ravel())[0].reshape(x.shape)
    exponent = n_samples * (p * g.sum(axis=-1) - (x**2).sum(axis=-1) / (2 * rho))
    top = exponent.max()
    cell = spacing**2 * n_samples / (2 * math.pi * rho)
    return top + math.log(np.exp(exponent - top).sum() * cell)


@pytest.mark.parametrize("name", ["sigmoid", "step"])
def test_three_classes_against_a_plane(name):
    site, n_samples, p = cumulant(activation(name)), 48.0, 0.25
    samples = direct_samples(site)
    origin, values = samples.cover(-20.0, 20.0)

    def ours(rho, fields):
        step = 0.7 * math.sqrt(rho / n_samples)
        low, size = -12.0, int(24.0 / step)
        given = values, samples.step, origin, n_samples, p, 3, 1.0 / rho
        others = others_of(*given, low, step, size, 2)
        found = np.empty((len(fields), 6))
        kind_values(*given, low, step, size, 2, others, fields, found)
        return found

    fields, rho, d = np.array([-0.7, 0.0, 1.1]), 5.0, 1e-4
    found = ours(rho, fields)
    np.testing.assert_allclose(found[:, 0], [in_plane(site, n_samples, p, rho, m) for m in fields], atol=1e-9)
    up, down = ours(rho, fields + d), ours(rho, fields - d)
    np.testing.assert_allclose((up[:, 0] - down[:, 0]) / (2 * d), found[:, 1], rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose((up[:, 1] - down[:, 1]) / (2 * d), found[:, 2], rtol=1e-6, atol=1e-4)
    steeper, flatter = ours(1.0 / (1.0 / rho + d), fields), ours(1.0 / (1.0 / rho - d), fields)
    np.testing.assert_allclose((steeper[:, 0] - flatter[:, 0]) / (2 * d), found[:, 3], rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose((steeper[:, 3] - flatter[:, 3]) / (2 * d), found[:, 4], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose((steeper[:, 1] - flatter[:, 1]) / (2 * d), found[:, 5], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "groups", "off", "tau", "n_samples"),
    [
        ("sigmoid", (3,), 0.3, 0.02, 50.0),
        ("sigmoid", (3,), -0.3, 0.02, 50.0),  # couplings t.t' of either sign
        ("sigmoid", (4,), -1.0 / 3.0, 0.05, 40.0),  # mean targets vanish: no mean fields
        ("tanh", (2, 2), 0.3, 0.02, 100.0),
        ("sigmoid", (1, 3), 0.0, 0.02, 300.0),
        ("sigmoid", (2, 1, 1), 0.2, 0.05, 50.0),
        ("step", (2, 2), 0.1, 0.1, 10.0),  # p_c P no integers
    ],
)
def test_against_lattices_over_all_outputs(name, groups, off, tau, n_samples):
    site, (p, y) = cumulant(activation(name)), grouped(groups, off)
    kinds = class_kinds(p, y)
    found = solve_exchange(site, kinds, tau, n_samples, None, 1e-10)
    other = finite_solve(site, p, y, tau, n_samples)
    assert found.residual < 1e-9
    assert found.value.objective == pytest.approx(other.objective, abs=1e-10)
    np.testing.assert_allclose(kinds.order_parameters(found.theta), other.t, atol=2 * (1e-9 + other.residual) / tau)


def test_five_outputs_against_the_lattice():
    site, (p, y) = cumulant(activation("sigmoid")), grouped((5,), 0.0)
    found, other = finite_solve(site, p, y, 0.02, 100.0), finite_solve(site, p, y, 0.02, 100.0, method="lattice")
    assert (found.method, other.method) == ("exchange", "lattice")
    assert found.residual < 1e-10
    assert other.residual < 1e-8
    assert found.objective == pytest.approx(other.objective, abs=1e-10)
    assert found.level == pytest.approx(other.level, abs=1e-8)
    np.testing.assert_allclose(found.t, other.t, atol=1e-6)
    np.testing.assert_allclose(found.weight, other.weight, atol=1e-6)
    total = [
        np.einsum("n,nij->ij", s.weight, s.covariance + s.mean[:, :, None] * s.mean[:, None]) for s in (found, other)
    ]
    np.testing.assert_allclose(*total, atol=1e-5)


@pytest.mark.parametrize("groups", [(6,), (3, 2), (2, 2, 3)])
def test_slope_and_curvature_of_the_objective(groups):
    p, y = grouped(groups, 0.25)
    kinds, site = class_kinds(p, y), cumulant(activation("sigmoid"))
    integral = ExchangeIntegral(site, kinds, 0.03, 60.0, range_of(site))
    theta, d = 4.0 * kinds.y, 1e-5
    value = integral.value(theta, 1e-13)
    for i in np.flatnonzero(kinds.free):
        step = np.zeros(theta.size)
        step[i] = d
        up, down = (integral.value(theta + sign * step.reshape(theta.shape), 1e-13) for sign in (1.0, -1.0))
        slope = (up.objective - down.objective) / (2 * d)
        assert slope == pytest.approx(value.gradient.flat[i], abs=1e-7)
        bend = (up.gradient - down.gradient).ravel() / (2 * d)
        np.testing.assert_allclose(bend, value.hessian[i], atol=1e-5 * np.abs(value.hessian).max())


@pytest.mark.parametrize(("groups", "off", "n_samples"), [((8,), 0.5, 30.0), ((4, 3), 0.2, 100.0)])
def test_many_outputs_by_importance_sampling(groups, off, n_samples):
    """<a G'(a.t_c)>, kernel and covariance from points drawn around the codes (Student-t), with G directly."""
    p, y = grouped(groups, off)
    task, network, tau = mf.class_task(fractions=p, targets=y, n_samples=n_samples), mf.Network("sigmoid"), 0.05
    posterior = mf.solve(network, task, tau)
    assert posterior.status == "optimal"
    assert posterior.certificate.kkt_residual < 1e-9
    codes, m, t = posterior.codes, len(p), posterior.solution.t
    assert posterior.solution.kind is None
    rng, n, draws = np.random.default_rng(0), 40_000, len(codes)
    centre, spread = np.array([c.readout for c in codes]), np.array([c.covariance for c in codes])
    weight = 0.7 * np.array([code.weight for code in codes]) + 0.3 / draws
    which, degrees = rng.choice(draws, n, p=weight / weight.sum()), 8.0
    chol = np.linalg.cholesky(1.3 * spread)
    x = rng.normal(size=(n, m)) * np.sqrt(degrees / rng.chisquare(degrees, n))[:, None]
    a = centre[which] + np.einsum("nij,nj->ni", chol[which], x)
    log_q = np.full(n, -np.inf)
    for k in range(draws):
        z = np.linalg.inv(chol[k]) @ (a - centre[k]).T
        size = np.log(weight[k]) - np.log(np.diag(chol[k])).sum()
        log_q = np.logaddexp(log_q, size - 0.5 * (degrees + m) * np.log1p((z * z).sum(axis=0) / degrees))
    g0, g1, g2 = cumulant(network.activation, network.k).direct(a @ t.T)
    log_w = n_samples * (g0 @ p - 0.5 * (a * a).sum(axis=1)) - log_q
    w = np.exp(log_w - log_w.max())
    w /= w.sum()
    output = np.einsum("i,ic,ir->cr", w, g1, a)
    error = np.sqrt(np.einsum("i,icr->cr", w**2, (g1[:, :, None] * a[:, None, :] - output) ** 2))
    assert (np.abs(y - tau * t - output) < 6.0 * error + 1e-4).all()
    kernel = posterior.kernel()
    np.testing.assert_allclose((g1.T * w) @ g1, kernel.block, atol=0.01)
    np.testing.assert_allclose(w @ (g1**2 + g2), kernel.diagonal, atol=0.01)
    mean = w @ a
    np.testing.assert_allclose((a.T * w) @ a - np.outer(mean, mean), posterior.readout_covariance, atol=0.03)


@pytest.mark.parametrize(("groups", "off"), [((12,), 0.2), ((5, 4, 3), 0.0)])
def test_orbits_by_gibbs_sampling(groups, off):
    """Step: e^{n G} is a mixture over the number of active samples of each class, so that chains need no solver."""
    p, y = grouped(groups, off)
    if len(groups) > 1:
        p = np.full(len(p), 1.0 / len(p))
        y[5:] *= 0.8  # other kinds, of equal size
        y[9:] *= 0.7
    count, tau = 2, 0.1  # samples of each class
    task = mf.class_task(fractions=p, targets=y, n_samples=count * len(p))
    posterior = mf.solve(mf.Network("step"), task, tau)
    assert posterior.certificate.kkt_residual < 1e-8
    assert (posterior.solution.kind is not None) == (len(groups) == 1)
    assert posterior.solution.weight.sum() == pytest.approx(1.0)
    t, total, rng = posterior.solution.t, count * len(p), np.random.default_rng(1)
    active = rng.binomial(count, 0.5, size=(1500, len(p)))
    output, moment, kept = np.zeros(y.shape), np.zeros((len(p), len(p))), 0
    for sweep in range(250):
        a = active @ t / total + rng.normal(size=active.shape) / math.sqrt(total)
        mean = 1.0 / (1.0 + np.exp(-a @ t.T))
        active = (rng.random((count, *mean.shape)) < mean).sum(axis=0)
        if sweep >= 100:
            output, moment, kept = output + mean.T @ a, moment + mean.T @ mean, kept + len(a)
    np.testing.assert_allclose(output / kept, y - tau * t, atol=0.02)
    np.testing.assert_allclose(moment / kept, posterior.kernel().block, atol=0.01)
    draws = posterior.sample_neurons(2500, rng=2, samples_per_class=1).readouts
    np.testing.assert_allclose(draws.T @ draws / len(draws), (a.T @ a) / len(a), atol=0.3)
    np.testing.assert_allclose(np.cov(draws.T), posterior.readout_covariance, atol=0.15)


def test_codes_of_many_classes_answer_what_codes_answer(tmp_path):
    task = mf.class_task(n_classes=12, off=0.3, n_samples=600.0)
    posterior = mf.solve(mf.Network("sigmoid", sigma_a=1.2), task, 0.02)
    code = posterior.codes[0]
    assert code.label.endswith("/12")
    assert code.count > 1
    assert sum(c.weight for c in posterior.codes) == pytest.approx(1.0)
    # The output of all neurons, codes taken as Gaussian and averaged over permutations: up to their next order in 1/P.
    t, output = posterior.solution.t, np.zeros((12, 12))
    for c in posterior.codes:
        output += c.weight * (np.outer(c.activation, c.readout) + c.activation_variance[:, None] * (t @ c.covariance))
    kinds = class_kinds(task.fractions, task.targets)
    np.testing.assert_allclose(kinds.averaged_output(output), task.targets - 0.02 * t, atol=0.01)
    grid = np.linspace(-8.0, 8.0, 801)
    density = posterior.preactivation_density(None, 3, grid)
    assert np.sum(density) * (grid[1] - grid[0]) == pytest.approx(1.0, abs=1e-6)
    kernel = posterior.kernel()
    assert kernel.block[0, 0] == pytest.approx(np.mean([kernel.block[c, c] for c in range(12)]), abs=1e-12)
    assert (np.linalg.eigvalsh(kernel.block) > 0).all()
    loaded = mf.load(posterior.save(tmp_path / "many.npz"))
    assert loaded.objective == posterior.objective
    assert len(loaded.codes) == len(posterior.codes)
    with pytest.raises(mf.NotAvailable, match="orbits"):
        posterior.by_activation(np.full(12, 50))
    assert "orbit" in " ".join(posterior.solution.notes)


def test_a_neighbour_is_a_start_and_codes_are_not_asked_for():
    network, tau = mf.Network("sigmoid"), 0.02
    tasks = [mf.class_task(n_classes=8, off=off, n_samples=200.0) for off in (0.30, 0.31)]
    start = mf.solve(network, tasks[0], tau)
    warm, fresh = mf.solve(network, tasks[1], tau, warm_start=start), mf.solve(network, tasks[1], tau)
    assert warm.solution.certificate.kkt_residual < 1e-10
    np.testing.assert_allclose(warm.solution.t, fresh.solution.t, atol=1e-8)
    symmetric = class_kinds(tasks[0].fractions, tasks[0].targets)
    theta = reduced_order_parameters(symmetric, warm.solution.t)
    np.testing.assert_allclose(symmetric.order_parameters(theta), warm.solution.t, atol=1e-12)


def test_grids_that_are_too_coarse_are_seen():
    """The residual of the certificate is one by finer and shifted sums: it grows with the error of the sums."""
    site, (p, y) = cumulant(activation("sigmoid")), grouped((6,), 0.3)
    kinds = class_kinds(p, y)
    found = solve_exchange(site, kinds, 0.02, 100.0, None, 1e-10)
    coarse = ExchangeIntegral(site, kinds, 0.02, 100.0, range_of(site))
    coarse.refinement = 2.0
    off = coarse.residual(coarse.value(found.theta, 1e-12).gradient)
    assert off > 1e3 * found.residual
    assert coarse.aliasing(1e-12) > 1e-4


def test_codes_are_those_of_the_lattice():
    site, (p, y) = cumulant(activation("sigmoid")), grouped((1, 3), 0.0)
    kinds = class_kinds(p, y)
    found, other = solve_exchange(site, kinds, 0.02, 300.0, None, 1e-10), finite_solve(site, p, y, 0.02, 300.0)
    codes = exchange_codes(found.integral, found.theta, found.value.outer, 1e-12)
    assert codes["kind"] is None
    np.testing.assert_allclose(codes["weight"], other.weight, atol=1e-9)
    np.testing.assert_allclose(codes["mean"], other.mean, atol=1e-6)
    np.testing.assert_allclose(codes["covariance"], other.covariance, atol=1e-8)
