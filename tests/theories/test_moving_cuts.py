"""Codes far out: the bundle method on the half sphere of readouts, and what the end game makes of its answers."""

import numpy as np
import pytest
import sympy as sp
from independent import SingleSite, stationarity

import meanfield as mf
from meanfield.numerics.budget import new_stop
from meanfield.numerics.linalg import solve_stiff
from meanfield.theories.single_layer import limit
from meanfield.theories.single_layer.compiled import dual, moving_cuts
from meanfield.theories.single_layer.compiled.ascent import NO_PUSH, linear_push
from meanfield.theories.single_layer.compiled.generated import action

Z = sp.Symbol("z", real=True)
HARDSWISH = sp.Piecewise((0, Z < -3), (Z, Z > 3), (Z * (Z + 3) / 6, True))
# phi, sigma_a, tau, fractions, targets: codes of weight 1e-6 at readouts of hundreds, stiff directions of outliers.
FAR = {
    "gelu": (
        "gelu", 1.26, 0.0, (0.876, 0.070, 0.054),
        [[-0.71, 1.96, -0.94, 1.32, -1.31], [0.35, 1.83, 0.87, 1.92, 0.30], [1.93, 1.35, 1.11, 1.55, 0.53]],
    ),
    "hardswish": (
        HARDSWISH, 0.654, 0.0, (0.573, 0.161, 0.266),
        [[-2.00, -1.83, 0.09, -1.20], [-1.11, -0.25, 0.22, 0.97], [-1.20, 1.47, 1.39, 0.32]],
    ),
    "leaky_relu": (
        "leaky_relu", 0.684, 0.05, (0.086, 0.411, 0.319, 0.184),
        [[-0.93, -0.40, -0.01, -1.30], [-0.45, -0.58, -1.04, 1.04], [0.43, -0.27, 0.30, -0.21],
         [-0.67, -1.11, 0.80, -1.95]],
    ),
    "gelu, small targets": (
        "gelu", 330.0, 0.05, (0.310, 0.523, 0.167), [[1.0, -1.5, 0.6], [-0.4, 1.2, -1.4], [1.5, 0.3, 0.9]],
    ),
}  # fmt: skip


def network_and_task(name):
    phi, sigma_a, tau, fractions, targets = FAR[name]
    phi = mf.activation(phi) if isinstance(phi, str) else mf.Activation(phi, Z)
    p = np.array(fractions)
    return mf.Network(phi, sigma_a=sigma_a), mf.class_task(fractions=p / p.sum(), targets=np.array(targets)), tau


@pytest.mark.parametrize("name", FAR)
def test_codes_far_out_are_found_and_certified(name):
    network, task, tau = network_and_task(name)
    post = mf.solve(network, task, tau=tau)
    assert post.status == "optimal"
    s = post.solution
    far = np.abs(s.readout).max() / network.sigma_a
    assert far > 10.0 or name == "gelu, small targets"
    phi = network.activation
    kappa = np.abs(s.readout @ s.t.T).max()
    site = SingleSite(phi, network.k, phi.kinks, reach=15.0 + 1.2 * np.sqrt(max(phi.growth)) * kappa, panels_per_unit=1)
    assert stationarity(site, task, s, tau, network.sigma_a, network.k, phi.growth) < 1e-9 * max(1.0, far)


def problem(name):
    """Tables and arrays (sigma_a = 1) of a task."""
    network, task, tau = network_and_task(name)
    table = limit.compiled_tables(network.activation, network.k)[0]._replace(stop=new_stop())
    low, high, _, _ = limit.phi_range(network.activation, network.k)
    return table, task.fractions, task.targets / network.sigma_a, tau / network.sigma_a**2, low, high


def test_metric_is_the_curvature_that_moving_maxima_add():
    """Second differences of max_a F and of F at a fixed readout differ by it."""
    table, p, y, _, _, high = problem("hardswish")
    rng = np.random.default_rng(3)
    t, s, soft = 0.8 * y + 0.1 * rng.normal(size=y.shape), 0.05, 1.3
    t *= 0.9 / np.sqrt(max(1e-9, np.linalg.eigvalsh((p[:, None] * t).T @ t)[-1]))
    a = p @ (t * high) / 2
    value = moving_cuts.climb_half_sphere(table, p, t, s, soft, a)
    assert value > -1.0

    def fixed(t, s):
        h = action.action_hessian(table, p, t, a, np.empty(a.size), np.empty((a.size, a.size)))
        return (h - s) / (soft + a @ a)

    def highest(t, s):
        b = a.copy()
        return moving_cuts.climb_half_sphere(table, p, t, s, soft, b)

    n = y.size + 1
    metric = np.empty((n, n))
    none = np.empty((0, a.size))
    moving_cuts._metric(table, p, t, s, soft, a[None], np.ones(1), none, np.empty(0), metric)
    np.testing.assert_allclose(metric, metric.T, atol=1e-12 * np.abs(metric).max())
    for along in rng.normal(size=(4, n)):
        dt, ds, step = along[:-1].reshape(y.shape), along[-1], 1e-3
        difference = [f(t + step * dt, s + step * ds) + f(t - step * dt, s - step * ds) - 2 * f(t, s)
                      for f in (highest, fixed)]  # fmt: skip
        assert difference[0] - difference[1] == pytest.approx(step**2 * along @ metric @ along, rel=2e-2, abs=1e-10)


def test_no_outlier_where_h_is_pushed_outwards():
    """J is infinite with one: a direction of hardswish that phi < 0 pushes on is never held by the rim alone."""
    rng = np.random.default_rng(1)
    network = mf.Network(mf.Activation(HARDSWISH, Z), sigma_a=0.4)
    table = limit.compiled_tables(network.activation, network.k)[0]
    for _ in range(4):
        task = mf.class_task(fractions=[0.4, 0.35, 0.25], targets=rng.uniform(-2, 2, (3, 3)))
        post = mf.solve(network, task, tau=0.05)
        assert post.status == "optimal"
        for outlier in post.outliers:
            u = outlier.readout / np.linalg.norm(outlier.readout)
            assert linear_push(table, task.fractions, post.solution.t * network.sigma_a, u) <= NO_PUSH
    assert dual._pushed(table, np.array([0.5, 0.5]), np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([[1.0, 0.0]]))


def test_stiff_systems_are_solved():
    """Rows that differ by 1e12 in size are no sign of a singular matrix; a row that is the sum of others is."""
    rng = np.random.default_rng(0)
    core = rng.normal(size=(7, 7))
    core = core + core.T
    scale = 10.0 ** np.array([6.0, -6.0, 0.0, 3.0, -3.0, 1.0, 5.0])
    x = rng.normal(size=7)
    found, regular = solve_stiff(core * scale[:, None] * scale, scale * (core @ x))
    assert regular
    np.testing.assert_allclose(found * scale, x, rtol=1e-11)
    core[6] = core[0] + core[1]
    core[:, 6] = core[6].copy()
    core[6, 6] = core[0, 6] + core[1, 6]
    core[:6, 6] = core[6, :6]
    assert not solve_stiff(core * scale[:, None] * scale, scale)[1]
