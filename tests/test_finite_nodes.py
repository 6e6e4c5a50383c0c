"""Lattice nodes of the readout integral: found by runs, summed in slices, stopped in words."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from finite_oracles import ball_residual
from scipy import ndimage

import meanfield as mf
from meanfield.activations.cumulant import cumulant
from meanfield.numerics.lattice_basis import unlike_shift
from meanfield.numerics.limits import long_work
from meanfield.posterior.certificate import ConvergenceError
from meanfield.theories.single_layer.compiled.quick import cumulants, quick2
from meanfield.theories.single_layer.readout import integral as readout_integral
from meanfield.theories.single_layer.readout import marginal as readout_marginal
from meanfield.theories.single_layer.readout import nodes as readout_nodes
from meanfield.theories.single_layer.readout.integral import ReadoutIntegral


@pytest.mark.parametrize("name", ["sigmoid", "step", "relu", "softplus"])
@pytest.mark.parametrize("k", [0.3, 4.0])
def test_quick_table_is_the_table(name, k):
    single_site = cumulant(mf.activation(name), k)
    table, quick = single_site.table, readout_nodes.quick_table(single_site)
    rng = np.random.default_rng(0)
    largest = min(table.kappa_max, 1e6)
    kappa = np.concatenate(
        [rng.uniform(-20, 20, 300), rng.choice([-1, 1], 300) * 10 ** rng.uniform(0, np.log10(largest), 300)]
    )
    expected = cumulants(table, np.append(kappa, [-1.5 * largest, 1.5 * largest]))
    found = np.array([quick2(quick, x) for x in [*kappa, -1.5 * largest, 1.5 * largest]])
    error = np.abs(found - expected) / np.maximum(1.0, np.abs(expected))
    assert error[:, 0].max() < 1e-13  # the table is as exact as that
    assert error[:, 1].max() < 5e-14
    assert error[:, 2].max() < 1e-12


@pytest.fixture
def plane():
    """A task of two outputs, and a t at which six codes are separated."""
    single_site = cumulant(mf.activation("sigmoid"))
    p, y = np.array([0.3, 0.3, 0.4]), np.array([[1.0, -0.5], [0.2, 1.0], [-1.0, 0.3]])
    problem = ReadoutIntegral(single_site, p, y, 0.02, 800.0, "lattice")
    return problem, np.array([[6.6166, -7.1768], [2.9842, 9.2919], [-7.2004, -1.5857]])


def filled(plane, shift):
    problem, t = plane
    maxima, height = problem.maxima(t)
    return problem.grow(t, maxima, height, 1e-6, shift, 1e-6)[0], height[0]


@pytest.mark.parametrize("shift", [np.zeros(2), unlike_shift(2)])
def test_nodes_are_the_components_of_the_window(plane, shift):
    """Against all nodes in a box and their connected components."""
    problem, t = plane
    nodes, top = filled(plane, shift)
    half = 200
    index = np.stack(np.meshgrid(*[np.arange(-half, half + 1)] * 2, indexing="ij"), axis=-1)
    a = (index + shift) @ nodes.basis
    h = problem.single_site.direct(a @ t.T)[0] @ problem.p - 0.5 * np.sum(a**2, axis=-1)
    exponent = problem.n_samples * (h - top)
    label, count = ndimage.label(exponent > -problem.window(1e-6))
    assert label[0].max() == label[-1].max() == label[:, 0].max() == label[:, -1].max() == 0
    assert nodes.n_regions == count > 1
    assert len(nodes) == np.sum(label > 0)
    where = np.rint(nodes.position @ np.linalg.inv(nodes.basis) - shift).astype(int) + half
    assert len(np.unique(where, axis=0)) == len(nodes)
    np.testing.assert_allclose(nodes.exponent, exponent[tuple(where.T)], atol=1e-10)
    pairs = np.unique(np.stack([nodes.region, label[tuple(where.T)]]), axis=1)
    assert pairs.shape[1] == count  # one region is one component


def test_slices_do_not_matter(plane, monkeypatch):
    at_once, top = filled(plane, np.zeros(2))
    problem, t = plane
    sums = readout_nodes.moments(problem.quick, problem.p, t, 800.0, top, at_once)
    few = readout_nodes.slopes(problem.quick, problem.p, t, 800.0, top, at_once)
    monkeypatch.setattr(readout_nodes, "_SLICE", 50)
    in_slices, _ = filled(plane, np.zeros(2))
    np.testing.assert_array_equal(in_slices.position, at_once.position)
    np.testing.assert_array_equal(in_slices.region, at_once.region)
    for one, other in zip(sums, readout_nodes.moments(problem.quick, problem.p, t, 800.0, top, in_slices), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(few[0], sums[0], rtol=1e-13)
    np.testing.assert_allclose(few[1], sums[1], rtol=1e-12, atol=1e-13)
    assert few[2] < 1e-10


def test_moments_are_derivatives(plane):
    problem, t = plane
    problem.n_samples = 60.0  # a blunt maximum, for differences
    sums = problem.evaluate(t, 1e-12)
    gradient = sums.weight @ sums.first + (problem.p[:, None] * (problem.tau * t - problem.y)).ravel()
    step = 1e-5
    rows = []
    for i in range(t.size):
        change = np.zeros(t.size)
        change[i] = step
        up, down = (problem.evaluate(t + sign * change.reshape(t.shape), 1e-12) for sign in (1, -1))
        assert gradient[i] == pytest.approx((up.objective - down.objective) / (2 * step), abs=1e-8)
        rows.append((up.weight @ up.first - down.weight @ down.first) / (2 * step))
    deviation = sums.first - sums.weight @ sums.first
    hessian = sums.within + problem.n_samples * (deviation.T * sums.weight) @ deviation
    expected = np.array(rows) + problem.tau * np.diag(np.repeat(problem.p, 2))
    np.testing.assert_allclose(hessian, expected, atol=1e-6)


@pytest.mark.parametrize("what", ["fill", "slopes", "moments", "direct"])
def test_every_slice_looks_at_the_clock(plane, what, monkeypatch):
    nodes, top = filled(plane, np.zeros(2))
    problem, t = plane
    monkeypatch.setattr(readout_nodes, "_SLICE", 50)
    direct = readout_nodes.DirectSamples(problem.single_site)
    calls = {
        "fill": lambda: filled(plane, np.zeros(2)),
        "slopes": lambda: readout_nodes.slopes(problem.quick, problem.p, t, 800.0, top, nodes),
        "moments": lambda: readout_nodes.moments(problem.quick, problem.p, t, 800.0, top, nodes),
        "direct": lambda: direct.sums(problem.p, t, 800.0, top, nodes, np.arange(nodes.n_regions), nodes.n_regions),
    }
    with long_work(1e-9, False), pytest.raises(TimeoutError, match="max_seconds"):
        calls[what]()


def test_time_limit_is_told_with_the_number_of_samples_asked_for():
    task = mf.class_task(n_classes=4, off=0.3, n_samples=49)
    with pytest.raises(ConvergenceError, match=r"P = 49 .*max_seconds"):
        mf.solve(mf.Network("sigmoid"), task, tau=0.02, max_seconds=1e-6)


@pytest.mark.parametrize("name", ["sigmoid", "relu"])
def test_refusals_name_the_number_of_samples_asked_for(name, monkeypatch):
    """Whatever P is on the way there."""
    monkeypatch.setattr(readout_integral, "_MAX_COARSE_NODES", 3)
    monkeypatch.setattr(readout_integral, "_MAX_NODES", 3)
    monkeypatch.setattr(readout_marginal, "_MAX_NODES", 3)
    task = mf.class_task(n_classes=3, off=0.3, n_samples=49)
    with pytest.raises(ConvergenceError) as caught:
        mf.solve(mf.Network(name), task, tau=0.02)
    text = str(caught.value)
    assert "P = 49" in text
    assert text.count("P = ") == text.count("P = 49")


def test_regions_are_compared_by_what_they_hold():
    """Three maxima; one lattice joins the first two, the other the last two, or none, or misses one."""

    def nodes(*region):
        return SimpleNamespace(seed_region=np.array(region), n_regions=max(region) + 1)

    maxima = np.array([[0.0, 1.0], [2.0, 0.0], [-3.0, 1.0]])
    compare = readout_nodes.common_regions
    for one, other, expected in [
        (nodes(0, 0, 1), nodes(0, 1, 1), ([0, 0], [0, 0])),
        (nodes(0, 1, 2), nodes(0, 1, 1), ([0, 1, 1], [0, 1])),
        (nodes(0, 1, 2), nodes(0, 1, 2), ([0, 1, 2], [0, 1, 2])),
        (nodes(0, 1, 0), nodes(0, 1, 2), ([0, 1], [0, 1, 0])),
    ]:
        for found, wanted in zip(compare(one, maxima, other, maxima), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    swapped = compare(nodes(0, 1, 2), maxima, nodes(0, 1, 2), maxima[[1, 0, 2]])
    np.testing.assert_array_equal(swapped[0], [0, 1, 2])
    np.testing.assert_array_equal(swapped[1], [1, 0, 2])
    assert compare(nodes(0, 1), maxima[:2], nodes(0, 1, 2), maxima) is None
    assert compare(nodes(0, 1, 2), maxima, nodes(0, 1), maxima[:2]) is None


def test_coarser_answers_cost_less_and_say_so():
    task = mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5, n_samples=300.0)
    fine, coarse = (mf.solve(mf.Network("sigmoid"), task, tau=0.01, rtol=rtol) for rtol in (None, 1e-7))
    assert fine.certificate.kkt_residual < 1e-10 < coarse.certificate.kkt_residual < 1e-7
    assert fine.certificate.bound_gap < coarse.certificate.bound_gap < 1e-7
    np.testing.assert_allclose(coarse.solution.t, fine.solution.t, atol=coarse.certificate.kkt_residual / 0.01)


def test_lattices_that_join_different_codes():
    """Codes 1-1-0 and 1-0-1 mirror each other, a lattice does not: each joins another of them with 0-1-1 here."""
    task = mf.class_task(fractions=[0.5, 0.25, 0.25], off=2.0**-54, n_samples=50 * 2000 ** (1 / 15))
    found = mf.solve(mf.Network("sigmoid"), task, tau=0.01)
    assert found.certificate.kkt_residual < 1e-10


SPATIAL = ["erf", "hard_sigmoid", "logistic", "relu", "sigmoid", "softplus", "step", "tanh"]


@pytest.mark.parametrize("seed", range(len(SPATIAL)))
def test_three_outputs_integrated_anew(seed):
    """Random tasks whose targets span three dimensions; a residual beyond the certified one plus 1e-7 is caught."""
    rng = np.random.default_rng([14, seed])
    n_classes = int(rng.integers(3, 6))
    network = mf.Network(SPATIAL[seed], sigma_a=float(rng.choice([0.5, 1.0, 2.0])))
    fractions = 0.3 / n_classes + 0.7 * rng.dirichlet(np.full(n_classes, 4.0))
    targets = rng.uniform(-1, 1, (n_classes, 3))
    n_samples = float(np.round(10 ** rng.uniform(1.7, 5)))
    task = mf.class_task(fractions=fractions / fractions.sum(), targets=targets, n_samples=n_samples)
    tau = float(rng.choice([0.02, 0.1, 1.0]))
    try:
        found = mf.solve(network, task, tau)
    except ConvergenceError as error:
        assert f"P = {n_samples:g}" in str(error)  # noqa: PT017
        assert not network.activation.bounded
        return
    value, error = ball_residual(network, task, tau, found.solution)
    assert error < 1e-5
    assert value <= found.certificate.kkt_residual + 1e-7


def test_plane_of_samples_and_targets():
    """A sweep over (n_samples, off), warm-started, is the same as solving each point."""
    task = mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5, n_samples=100)
    network = mf.Network("sigmoid")
    samples, off = [60.0, 1e3, 1e5], [0.45, 0.5, 0.2]
    diagram = mf.sweep(network, task, tau=0.01, n_samples=samples, off=off)
    assert diagram.certified.all()
    for (i, n), (j, y) in itertools.product(enumerate(samples), enumerate(off)):
        alone = mf.solve(network, mf.class_task(fractions=[0.5, 0.25, 0.25], off=y, n_samples=n), tau=0.01)
        found = diagram.posterior((i, j))
        assert found.task.n_samples == n
        np.testing.assert_allclose(found.solution.t, alone.solution.t, atol=1e-7)
        assert found.objective == pytest.approx(alone.objective, abs=1e-10)
