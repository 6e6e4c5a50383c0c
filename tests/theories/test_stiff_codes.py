"""Tasks whose codes sit far out in almost unconfined directions, or whose landscape is flat out to infinity."""

import numpy as np
import pytest
import sympy as sp
from independent import SingleSite, stationarity

import meanfield as mf

Z = sp.Symbol("z", real=True)
HALF = sp.Rational(1, 2)
TASKS = {
    # sigma_a of hundreds: t of order one against targets of order 1 / sigma_a
    "gelu": ([0.309, 0.524, 0.167], [[0.72, 1.45, -1.49], [-0.02, 0.19, -1.56], [0.93, -0.18, 0.48]], 330.12, 0.05),
    # growth on both sides and a bulk at zero, where h = 0 as at infinity
    "hardshrink": ([0.782, 0.218], [[0.2, -0.91], [-0.27, -1.47]], 2.98, 0.0),
    # outliers whose form is copositive only
    "z tanh z": ([0.542, 0.316, 0.142], [[1.63, -1.97, 1.92], [-1.4, -1.08, 0.93], [1.01, 0.05, -1.91]], 1.83, 0.0),
}
FORMULAS = {"hardshrink": sp.Piecewise((Z, Z > HALF), (Z, Z < -HALF), (0, True)), "z tanh z": Z * sp.tanh(Z)}


@pytest.mark.parametrize("name", TASKS)
def test_certified_and_stationary(name):
    fractions, targets, sigma_a, tau = TASKS[name]
    phi = mf.Activation(FORMULAS[name], Z, name=name) if name in FORMULAS else mf.activation(name)
    network = mf.Network(phi, sigma_a=sigma_a)
    task = mf.class_task(fractions=fractions, targets=targets)
    post = mf.solve(network, task, tau)
    assert post.status == "optimal"
    s = post.solution
    kappa = np.abs(s.readout @ s.t.T).max()
    site = SingleSite(phi, network.k, phi.kinks, reach=15.0 + 1.2 * kappa, panels_per_unit=1)
    scale = max(1.0, np.abs(s.t).max(), np.abs(s.readout).max())
    assert stationarity(site, task, s, tau, sigma_a, network.k, phi.growth) < 1e-8 * scale
    # No readout that an ascent from a random start finds is better.
    a = np.random.default_rng(0).normal(size=(60, task.n_outputs)) * max(sigma_a, np.abs(s.readout).max())
    for _ in range(60):
        value, mean, _ = site(a @ s.t.T)
        h = value @ task.fractions - 0.5 * (a**2).sum(axis=1) / sigma_a**2
        inside = np.abs(a @ s.t.T).max(axis=1) < 1.2 * kappa + 10.0
        assert h[inside].max(initial=-np.inf) <= s.level + 1e-8 * (1.0 + abs(s.level))
        step = sigma_a**2 * (task.fractions * mean) @ s.t
        a = np.where(inside[:, None], step, a)


def test_minimum_on_the_growth_constraint():
    """Flat ridges and outliers alone: as for linear phi, J = -|sqrt(p) y| (nuclear norm), here of a single column."""
    network = mf.Network(mf.Activation(FORMULAS["hardshrink"], Z, name="hardshrink"))
    post = mf.solve(network, mf.class_task(fractions=[0.5, 0.5], targets=[[1.0], [-0.5]]))
    assert post.objective == pytest.approx(-np.sqrt(0.5 * (1.0 + 0.25)), abs=1e-12)
    assert post.solution.weight == pytest.approx([1.0])
    assert len(post.outliers) > 0
