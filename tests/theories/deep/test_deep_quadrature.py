"""Quadrature of deep layers from few to very many samples, and where the branch without codes is looked for."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

import meanfield as mf
from meanfield.posterior.certificate import ConvergenceError
from meanfield.theories.deep.layers import class_tables, layer
from meanfield.theories.deep.layers.charts import Axis
from meanfield.theories.deep.layers.fields import fields_of
from meanfield.theories.deep.layers.rules import CHECK, COARSE, FINE, Setting
from meanfield.theories.deep.layers.site import site_values, z_rule
from meanfield.theories.deep.readout import readout_minimum
from meanfield.theories.deep.reduction import problem_of
from meanfield.theories.deep.search import fold, start
from meanfield.theories.deep.search.branches import NoBranch, prior_branch
from meanfield.theories.deep.search.coding import coding_branch
from meanfield.theories.deep.search.fold import uncoded_at
from meanfield.theories.deep.solve import solve_deep
from meanfield.theories.deep.system import System

BINARY = mf.class_task(targets=[1, -1], n_samples=100)
SIZES = (1e2, 1e4, 1e6)
NAMES = ("log_z", "kernel", "d", "tilde", "delta")


@pytest.fixture(scope="module")
def solved():
    found = {}
    for samples in SIZES:
        problem, _ = problem_of(mf.Network("sigmoid", 3), BINARY.with_(n_samples=samples), 0.01)
        system, solution = coding_branch(problem, 1e-8)
        assert solution.residual < 1e-8
        found[samples] = problem, system.unpack(solution.x)
    return found


def plain_terms(problem, setting, view, beta):
    """ln of the weight of nodes and shared fields, every class by a plain sum over a wide and fine lattice of its h."""
    b, alpha = beta @ setting.root.T, view.fields.alpha
    total = -0.5 * (beta**2).sum(axis=1)[:, None] + view.fields.log_alpha
    for c, n in enumerate(problem.n):
        u = view.fields.shared[c]
        variance, d = setting.covariance[c, c] - u**2, setting.d[c]
        centre, known = u * alpha, view.fields.h[c]
        step = 0.7 * (known[1] - known[0])
        h = np.arange(min(known[0], centre.min()) - 1.0, max(known[-1], centre.max()) + 1.0, step)
        nodes = z_rule(problem.phi, d, h[0], h[-1], 0.3, np.abs(b).max())
        g = site_values(nodes, b[:, c], h, d, setting.delta[c])
        for i, j in itertools.product(range(len(b)), range(len(alpha))):
            exponent = n * g[i] - 0.5 * (h - centre[j]) ** 2 / variance
            top = exponent.max()
            total[i, j] += top + np.log(np.exp(exponent - top).sum() * step / np.sqrt(2 * np.pi * variance))
    return total


@pytest.mark.parametrize("samples", SIZES)
@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize("rule", [FINE, CHECK])
def test_terms_of_nodes_are_plain_sums(solved, samples, which, rule):
    """Nodes of all weights; what a node leaves out is negligible in the layer, and so are errors of light ones."""
    problem, order = solved[samples]
    system = System(problem, rule)
    system.averages(order, which)
    part, setting = system.layers[which], system.setting(order, which)
    heavy = np.argsort(part.heights)[::-1]
    beta = part._nodes(part.index[heavy[:: max(1, len(heavy) // 6)]])
    view = part._view(setting, part._prepared(setting)[0], *part._bounds(setting, part._nodes(part.index), 0.0))
    found, wanted = part._terms(view, beta), plain_terms(problem, setting, view, beta)
    counts = wanted > wanted.max() - rule.depth - 8.0
    assert counts.sum() > 20
    assert np.isfinite(found[counts]).all()
    off = np.abs(found[counts] - wanted[counts])
    assert off.max() < 1e-5
    assert (off * np.exp(wanted[counts] - wanted.max())).max() < 2e-9


@pytest.mark.parametrize("samples", SIZES)
def test_averages_are_those_of_the_whole_grid(solved, samples, monkeypatch):
    """All shared fields of all rows, rows three times as close, and none of the lattice nodes' own."""
    problem, order = solved[samples]
    systems = [System(problem, rule) for rule in (FINE, CHECK)]
    found = [system.evaluate(system.pack(order), curvature=True) for system in systems]
    monkeypatch.setattr(class_tables, "_FEW", 10_000)
    view = layer.Layer._view
    monkeypatch.setattr(layer.Layer, "_view", lambda self, *a, between=False: view(self, *a, between=True))
    whole = System(problem, FINE._replace(rows=0.1))
    wanted = whole.evaluate(whole.pack(order), curvature=True)
    hessian = whole.hessian(wanted)
    size = np.sqrt(np.abs(np.diag(hessian)))
    for system, one in zip(systems, found):
        for at, (mine, right) in enumerate(zip([*one.lower, *one.top], [*wanted.lower, *wanted.top])):
            for name in NAMES if at else NAMES[:3]:  # the first layer has no fields
                value, value_right = getattr(mine, name), getattr(right, name)
                # d of the top is 3e-11 at 10^6, beside squares of order 1: rounding where rows are interpolated.
                atol = 3e-9 * np.abs(value_right).max() + (1e-16 if name == "d" else 0.0)
                np.testing.assert_allclose(value, value_right, rtol=0.0, atol=atol)
        assert np.abs((system.hessian(one) - hessian) / np.outer(size, size)).max() < 1e-6


@pytest.mark.parametrize("rule", [COARSE, FINE])
def test_work_hardly_grows_with_the_samples(solved, rule):
    """Nodes of the middle layer, and rows times shared fields: for 10,000 times the samples a few times more."""
    nodes, entries = {}, {}
    for samples, (problem, order) in solved.items():
        system = System(problem, rule)
        for _ in range(4):
            system.averages(order, 1)
        part, setting = system.layers[1], system.setting(order, 1)
        view = part._view(setting, part._prepared(setting)[0], *part._bounds(setting, part._nodes(part.index), 0.0))
        part._terms(view, part._nodes(part.index))
        entries[samples] = sum(int((table.end - table.begin).sum()) for table in view.tables.values())
        nodes[samples] = len(part.index)
    assert nodes[1e6] < 4.5 * nodes[1e2]
    assert entries[1e6] < 2.5 * entries[1e2]


def test_very_many_samples_are_solved_or_refused():
    network = mf.Network("sigmoid", 3)
    post = solve_deep(network, BINARY.with_(n_samples=2e7), 0.01, competitors=False, second=False)
    assert post.status == "optimal"
    assert post.certificate.residual < 1e-7
    assert post.certificate.order_error < 1e-6
    # What is soft there: from another path, in other steps.
    assert post.kernel(2).block.mean() == pytest.approx(0.192140, abs=1e-6)
    with pytest.raises(ConvergenceError, match=r"close to an instability; at .* samples, on the way to 1e"):
        solve_deep(network, BINARY.with_(n_samples=1e8), 0.01, competitors=False, second=False)


# ---- the branch without codes ---------------------------------------------------------------------


@pytest.mark.parametrize("depth", [2, 3])
def test_onset_is_that_of_a_linear_readout(depth):
    problem, _ = problem_of(mf.Network("sigmoid", depth), BINARY, 0.05)
    onset = start.uncoded_onset(problem)
    assert start.linear_instability(replace(problem, tau=onset)) == pytest.approx(1.0, rel=0.02)
    # At a large tau the readout is linear, and both are the same.
    there = replace(problem, tau=30.0 * onset)
    order, parts = readout_minimum(System(there, FINE), start.uncoded(there))
    weak = start.instability(there, order.d[-1], parts[0].tilde)
    assert weak == pytest.approx(start.linear_instability(there), rel=0.05)


@pytest.mark.parametrize("tau", [0.001, 0.05])
def test_end_of_the_uncoded_branch_is_decided_from_above(tau):
    problem, _ = problem_of(mf.Network("sigmoid", 2), mf.class_task(n_classes=3, n_samples=99), tau)
    with pytest.raises(NoBranch, match=r"n k~ d = 34\.\d > 1 in layer 1 at tau = 0\.0759"):
        prior_branch(problem)


def test_coarse_fold_is_the_fine_one():
    problem, _ = problem_of(mf.Network("sigmoid", 2), BINARY, 0.25)
    fold = uncoded_at(problem)
    assert fold.tau == pytest.approx(0.2726655, rel=1e-5)
    assert fold.free_energy == pytest.approx(-183.19216, rel=1e-5)


def test_steps_towards_the_fold_end_behind_it(monkeypatch):
    """Half of the way at a time would never get there."""
    points, usual = [], fold._corrected
    monkeypatch.setattr(fold, "_corrected", lambda *given: points.append(usual(*given)) or points[-1])
    uncoded_at(problem_of(mf.Network("sigmoid", 2), BINARY, 0.25)[0])
    assert len(points) < 12
    assert any(point.slope > 0.05 for point in points if point is not None)


def test_a_spacing_that_was_fitted_elsewhere_is_not_used():
    """All values of the shared field lay between two of them, and a layer had none (sigmoid, P = 993,610)."""
    root = np.array([[0.00152678, -0.0004633], [-0.00088217, 0.00274482]])
    covariance = np.array([[0.25007323, 0.25001068], [0.25001068, 0.25006578]])
    setting = Setting(root, covariance, np.array([0.10461835, 0.10461762]), np.zeros(2), 0.0)
    n, b, h = np.full(2, 496805.0), np.array([[1.60543487, -1.61188413]]), np.array([[1.99747195, -1.75345685]])
    bounds = np.array([0.72640247, -1.62629961]), np.array([1.6134125, 1.27137867])
    phi = mf.Network("sigmoid", 2).activation
    far = Axis(7.073384174326905, 0.12588707883713984, 1.2429153544027298)
    alone = fields_of(phi, n, COARSE, setting, b, h, bounds)
    found = fields_of(phi, n, COARSE, setting, b, h, bounds, axis=far)
    np.testing.assert_array_equal(found.alpha, alone.alpha)
