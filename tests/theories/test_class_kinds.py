"""Exchangeable classes: the reduced solver against the full one and against the full equations in plain NumPy."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from independent import SingleSite
from scipy.special import erf

import meanfield as mf
from meanfield.theories.single_layer import limit
from meanfield.theories.single_layer.compiled import kind_bound, kind_dual, kind_path
from meanfield.theories.single_layer.kinds.classes import averaged_over_orbits, class_kinds, kinds_of, orbit_size
from meanfield.theories.single_layer.kinds.orbits import KindTask, fields_of
from meanfield.theories.single_layer.kinds.solver import solve_kinds


def sigmoid(z):
    return 0.5 * (1 + erf(np.sqrt(np.pi) * z / 2))


def one_hot(sizes, on=1.0, off=0.0):
    """Targets of groups of classes; the classes of group i have a fraction that grows with i."""
    share = np.repeat(1.0 + 0.5 * np.arange(len(sizes)), sizes)
    n = sum(sizes)
    return mf.class_task(fractions=share / share.sum(), targets=off + (on - off) * np.eye(n))


def site(name="sigmoid"):
    phi = mf.activation(name)
    return phi, (limit.compiled_tables(phi, 1.0), limit.phi_range(phi, 1.0))


def reduced(task, name="sigmoid", tau=0.0):
    phi, tables = site(name)
    kinds = class_kinds(task.fractions, task.targets)
    return kinds, solve_kinds(phi, 1.0, kinds, tau, tables, 100_000)


@pytest.mark.parametrize(
    ("name", "sizes", "off", "tau"),
    [
        ("sigmoid", [4], 0.5, 0.0),
        ("sigmoid", [6], 0.0, 0.0),
        ("sigmoid", [5], -0.25, 0.0),  # sum_c p_c t_c = 0: codes and complements
        ("tanh", [2, 3], 0.0, 0.05),
        ("step", [3, 2], 0.3, 0.02),
        ("sigmoid", [1, 4], 0.2, 0.0),
    ],
)
def test_reduced_answer_is_that_of_the_full_solver(name, sizes, off, tau):
    task = one_hot(sizes, off=off)
    kinds, found = reduced(task, name, tau)
    assert found.proved
    phi, _ = site(name)
    full = limit.limit_point(phi, 1.0, task.fractions, task.targets, tau)
    assert full.status == 0
    assert found.objective == pytest.approx(full.numbers["objective"], abs=1e-10, rel=0)
    assert found.level == pytest.approx(full.numbers["level"], abs=1e-10, rel=0)
    np.testing.assert_allclose(kinds.order_parameters(found.theta), full.t, atol=1e-7 * np.abs(full.t).max())
    rows = []
    for counts, v, weight in zip(found.counts, found.v, found.weights, strict=True):
        members = kinds.members(counts)
        rows += [(*np.round(kinds.readout(v, upper), 6) + 0.0, weight / len(members)) for upper in members]
    expected = [(*np.round(a, 6) + 0.0, w) for a, w in zip(full.readouts, full.weights, strict=True)]
    np.testing.assert_allclose(sorted(rows), sorted(expected), atol=2e-6)


@pytest.mark.parametrize(("sizes", "off"), [([12], 0.5), ([24], 0.0), ([7, 5], 0.5), ([5, 4, 3], 0.5)])
def test_full_equations_hold_in_numpy(sizes, off):
    """Stationarity of all C x m equations with all permuted codes, and no better readout by random restarts."""
    task = one_hot(sizes, off=off)
    post = mf.solve(mf.Network("sigmoid"), task)
    t, p = post.solution.t, task.fractions
    single = SingleSite(sigmoid, 1.0, reach=12.0)
    kinds = class_kinds(p, task.targets)
    rng = np.random.default_rng(0)

    def fields(a):
        value, first = (np.asarray(g) for g in single(a @ t.T)[:2])
        return value @ p - 0.5 * (a**2).sum(axis=-1), first

    output = np.zeros(t.shape)
    for code in post.codes:
        h, first = fields(code.readout)
        assert h == pytest.approx(post.solution.level, abs=1e-10 * max(1.0, abs(h)))
        np.testing.assert_allclose(code.readout, (p * first) @ t, atol=1e-9)
        # The mean over permutations within kinds, by what a permutation does: classes and outputs move together.
        own = np.outer(first, code.readout)
        order = kinds.kind
        total = averaged_over_orbits(order, own)
        output += code.weight * total
        for _ in range(20):  # a permuted code is as high
            shuffle = np.arange(len(p))
            for k in range(kinds.n_kinds):
                members = np.flatnonzero(order == k)
                shuffle[members] = rng.permutation(members)
            assert fields(code.readout[shuffle])[0] == pytest.approx(h, abs=1e-9)
    np.testing.assert_allclose(output, task.targets, atol=1e-9)
    a = rng.normal(size=(30, len(p))) * 2.0
    for _ in range(100):
        h, first = fields(a)
        a = (p * first) @ t
    assert h.max() <= post.solution.level + 1e-8
    linear = -p @ (t * task.targets).sum(axis=1)
    assert post.objective == pytest.approx(linear + post.solution.level, abs=1e-9)


def test_convex_objective_has_no_descent_direction():
    """Random full-space directions of t, codes enumerated: J does not fall, to second order in the step."""
    task = one_hot([8], off=0.5)
    post = mf.solve(mf.Network("sigmoid"), task)
    t, p = post.solution.t, task.fractions
    single = SingleSite(sigmoid, 1.0, reach=12.0)
    readouts = np.array([code.readout for code in post.codes])

    def lower_bound(t):  # max over the codes only: below J
        value = np.asarray(single(readouts @ t.T)[0])
        h = value @ p - 0.5 * (readouts**2).sum(axis=1)
        return -p @ (t * task.targets).sum(axis=1) + h.max()

    rng = np.random.default_rng(1)
    for scale in (1e-3, 0.1, 1.0):
        for _ in range(10):
            assert lower_bound(t + scale * rng.normal(size=t.shape)) >= post.objective - 1e-10


def test_hundred_classes_are_usable(tmp_path):
    post = mf.solve(mf.Network("sigmoid"), mf.class_task(fractions=np.full(100, 0.01), off=0.5))
    (code,) = post.codes
    assert (code.label, code.count) == ("67/100", math.comb(100, 67))
    assert code.weight == pytest.approx(1.0)
    assert "67/100" in post.table()
    assert max(map(len, post.table().splitlines())) < 160
    kernel = post.kernel()
    assert np.ptp(kernel.block[~np.eye(100, dtype=bool)]) < 1e-12
    neurons = post.sample_neurons(4000, rng=0)
    spread = np.cov(neurons.readouts.T)
    assert np.trace(spread) == pytest.approx(np.trace(post.readout_covariance), rel=0.02)
    assert neurons.readouts[:, 0].std() == pytest.approx(math.sqrt(post.readout_covariance[0, 0]), rel=0.05)
    again = mf.load(post.save(tmp_path / "post.npz"))
    assert again.codes[0].count == code.count
    np.testing.assert_array_equal(again.kernel().block, kernel.block)


def test_orbits_and_lists_agree():
    """What a posterior of orbits says is what the list of all its codes says."""
    task = one_hot([6], off=0.5)
    listed = mf.solve(mf.Network("sigmoid"), task)
    assert listed.solution.kind is None
    firsts = {code.pattern.count("1"): code for code in listed.codes}
    orbits = replace(
        listed,
        solution=replace(
            listed.solution,
            kind=np.zeros(6),
            readout=np.array([code.readout for code in firsts.values()]),
            weight=np.array([sum(c.weight for c in listed.codes if c.pattern.count("1") == on) for on in firsts]),
        ),
    )
    assert sum(code.count for code in orbits.codes) == len(listed.codes)
    np.testing.assert_allclose(orbits.kernel().block, listed.kernel().block, atol=1e-12)
    np.testing.assert_allclose(orbits.kernel().diagonal, listed.kernel().diagonal, atol=1e-12)
    np.testing.assert_allclose(orbits.readout_covariance, listed.readout_covariance, atol=1e-10)
    grid = np.linspace(-3, 3, 7)
    np.testing.assert_allclose(
        orbits.preactivation_density(None, 2, grid), listed.preactivation_density(None, 2, grid), atol=1e-10
    )


def test_kinds_are_found():
    p, y = np.array([0.2, 0.1, 0.2, 0.1, 0.4]), np.eye(5)
    np.testing.assert_array_equal(kinds_of(p, y), [0, 1, 0, 1, 2])
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    np.testing.assert_array_equal(kinds_of(p, y @ rotation), [0, 1, 0, 1, 2])
    y[0, 1] = 1e-6  # tells class 0 from class 2, and 1 from 3
    np.testing.assert_array_equal(kinds_of(p, y), [0, 1, 2, 3, 4])
    assert orbit_size(np.array([0, 0, 0, 1, 1]), np.array([1.0, 1.0, 2.0, 3.0, 4.0])) == 6


def brute_force(table, n, p, overlap, excess_norm):
    """Highest of all maxima of h with any counts, from plain fixed-point iteration in the full space of classes."""
    gram = np.repeat(np.repeat(overlap, n, axis=0), n, axis=1)
    kind = np.repeat(np.arange(len(n)), n)
    gram[np.diag_indices(len(kind))] += excess_norm[kind]
    weight = p[kind]
    single = SingleSite(sigmoid, 1.0, reach=12.0)
    # Which classes of a kind begin with 1 does not matter.
    counts = product(*(range(size + 1) for size in n))
    q = np.array([np.concatenate([np.arange(a) < j for a, j in zip(n, row)]) for row in counts], dtype=float)
    for _ in range(400):
        q = np.asarray(single((weight * q) @ gram)[1])
    kappa = (weight * q) @ gram
    value = np.asarray(single(kappa)[0])
    return float((value @ weight - 0.5 * ((weight * q) * kappa).sum(axis=1)).max())


def couplings(n):
    """Arguments of the bounds for kinds with random means, and the highest maximum."""
    _phi, ((table, bounds, _), (_, _, infimum, supremum)) = site()
    n = np.array(n)
    p = 0.5 / n
    root = np.random.default_rng(3).normal(size=(2, 2)) * 3.0
    theta2 = np.array([60.0, 40.0])
    spread = np.where(n > 1, theta2 / np.maximum(n - 1, 1), 0.0)
    overlap, excess_norm = root @ root.T - np.diag(spread), spread * n
    top = brute_force(table, n, p, overlap, excess_norm)
    return (table, bounds, n.astype(float), p, overlap, excess_norm, infimum, supremum), top


@pytest.mark.parametrize("n", [[3, 2], [4, 1]])
def test_bound_is_sharp(n):
    """A level just above the highest maximum is proven, one just below is not."""
    arguments, top = couplings(n)
    assert kind_bound.kind_bound(*arguments, top + 1e-7, 1e-9, 50_000)[0]
    assert not kind_bound.kind_bound(*arguments, top - 1e-7, 1e-9, 50_000)[0]


@pytest.mark.parametrize(("n", "applies"), [([5, 4], True), ([6, 1], True), ([2, 2], False)])
def test_dual_bound_is_sharp(n, applies):
    """As `test_bound_is_sharp`; two classes of a kind may share what is between the branches, and are left alone."""
    arguments, top = couplings(n)
    proved, _, boxes, *_ = kind_dual.kind_dual(*arguments, top + 1e-8, 1e-9, 50_000)
    assert proved == applies
    assert (boxes > 0) == applies
    assert not kind_dual.kind_dual(*arguments, top - 1e-8, 1e-9, 50_000)[0]


@pytest.mark.parametrize(("sizes", "off"), [([12, 8, 5], 0.0), ([12, 8, 5], 0.5), ([9, 7], -1.0)])
def test_both_proofs_agree_on_solutions(sizes, off):
    """On the answer, on its level raised, and lowered by hardly more than the tolerance."""
    kinds, found = reduced(one_hot(sizes, off=off))
    assert found.proved
    _phi, ((table, bounds, _), (_, _, infimum, supremum)) = site()
    overlap, excess_norm = kinds.overlaps(found.theta)
    arguments = table, bounds, kinds.n, kinds.p, overlap, excess_norm, infimum, supremum
    tolerance = 1e-9 * (1.0 + abs(found.level))
    for level, expected in ((found.level, True), (found.level + 0.1, True), (found.level - 2.0 * tolerance, False)):
        new = kind_dual.kind_dual(*arguments, level, tolerance, 100_000)
        assert new[0] == kind_bound.kind_bound(*arguments, level, tolerance, 100_000)[0] == expected
        assert new[2] > 0
        assert (new[1] <= tolerance) == expected


def test_fields_of_orbits_are_derivatives():
    """Columns and curvature of an orbit against differences of max_v h."""
    task = one_hot([4, 3], off=0.3)
    kinds = class_kinds(task.fractions, task.targets)
    _phi, ((table, _, _), (low, high, _, _)) = site()
    reduced_task = KindTask(kinds, table, 0.0, low, high)
    theta = np.random.default_rng(2).normal(size=kinds.y.shape) * 8.0
    orbit = reduced_task.readouts(theta, [[2.0, 1.0]])
    counts = orbit.counts[0]
    whole = fields_of(reduced_task, theta, orbit)
    assert whole.slope[0] < 1e-11
    step = 1e-5
    for i in range(theta.size):
        change = np.zeros(theta.size)
        change[i] = step
        sides = []
        for sign in (1.0, -1.0):
            moved = theta + sign * change.reshape(theta.shape)
            near = reduced_task.readouts(moved, [counts], orbit.v)
            sides.append(fields_of(reduced_task, moved, near))
        up, down = sides
        assert whole.columns.ravel()[i] == pytest.approx((up.h - down.h)[0] / (2 * step), abs=1e-8)
        slope = (up.columns - down.columns).ravel() / (2 * step)
        np.testing.assert_allclose(whole.curvature[0, i], slope, atol=1e-6 * np.abs(whole.curvature).max())


def test_soft_maximum_tends_to_the_maximum():
    """J_beta lies above min J by ln(number of orbits) / beta at most, at its minimum."""
    task = one_hot([6, 5], off=0.5)
    kinds, found = reduced(task)
    _phi, ((table, _, _), (low, high, _, _)) = site()
    reduced_task = KindTask(kinds, table, 0.0, low, high)
    theta, factor = found.theta.copy(), kinds.n / (kinds.n - 1.0)
    for beta in (1e2, 1e4):
        ok, counts, _, heights, weights = kind_path.smooth_stage(
            table, kinds.n, kinds.p, reduced_task.share, factor, kinds.y, 0.0, kinds.split, low, high, theta, beta,
            (found.counts, found.v), np.ones(2),
        )  # fmt: skip
        assert ok
        assert weights.sum() == pytest.approx(1.0)
        top = heights.max()
        value = reduced_task.linear(theta) + top + np.log(np.exp(beta * (heights - top)).sum()) / beta
        assert -1e-9 <= value - found.objective <= np.log(len(counts)) / beta + 1e-9


def test_readouts_that_do_not_climb_bound_the_soft_maximum_from_below():
    """What a line search rejects before it climbs is too high indeed, and nothing is lost where nothing moves."""
    task = one_hot([6, 5], off=0.5)
    kinds, found = reduced(task)
    _phi, ((table, _, _), (low, high, _, _)) = site()
    share, beta, count = KindTask(kinds, table, 0.0, low, high).share, 50.0, len(found.v)
    scratch = np.empty(count), np.empty(count)

    def least(theta):
        given = table, kinds.n, kinds.p, share, kinds.y, 0.0, theta, beta, found.counts, found.v, count
        return kind_path._at_least(*given, *scratch)

    def climbed(theta):
        top = KindTask(kinds, table, 0.0, low, high).readouts(theta, found.counts, found.v).heights
        linear = -np.sum(share[:, None] * theta * kinds.y)
        return linear + top.max() + np.log(np.exp(beta * (top - top.max())).sum()) / beta

    assert least(found.theta) == pytest.approx(climbed(found.theta), abs=1e-12)
    for size in (1e-3, 0.1, 1.0):
        moved = found.theta * (1.0 + size * np.random.default_rng(3).normal(size=found.theta.shape))
        assert least(moved) < climbed(moved)
