"""Many different classes: the central path over codes, and answers where codes come in crowds."""

import numpy as np
import pytest

import meanfield as mf
from meanfield.activations.cumulant import cumulant
from meanfield.theories.single_layer import limit
from meanfield.theories.single_layer.compiled import ascent, basic_codes, code_path, code_program


def fractions_of(n_classes, seed):
    share = 0.3 / n_classes + 0.7 * np.random.default_rng(seed).dirichlet(np.ones(n_classes))
    return share / share.sum()


def tables(name):
    phi = mf.activation(name)
    return limit.compiled_tables(phi, 1.0)[0], *limit.phi_range(phi, 1.0)[:2]


def mean_activations(name, readouts, t):
    """G' (n, C) without the table."""
    return np.asarray(cumulant(mf.activation(name), 1.0).direct(readouts @ t.T)[1])


def trained_output(name, solution):
    """sum_k w_k a_k G'(a_k.t_c) (C, m) at sigma_a = 1."""
    mean = mean_activations(name, solution.readout, solution.t)
    return np.einsum("k,kc,kr->cr", solution.weight, mean, solution.readout)


@pytest.mark.parametrize(
    ("name", "n_classes", "off", "objective"),
    # Objectives of the shorter ones by the bundle method, which proves them too.
    [
        ("sigmoid", 6, -1.0, -42.27555755),
        ("sigmoid", 7, 0.0, -13.64184946),
        ("sigmoid", 8, 0.0, -15.46853996),
        ("sigmoid", 10, 0.0, -19.62857813),
        ("tanh", 8, 0.0, None),
    ],
)
def test_different_classes(name, n_classes, off, objective):
    task = mf.class_task(fractions=fractions_of(n_classes, 100 * n_classes), off=off)
    post = mf.solve(mf.Network(name), task)
    assert post.status == "optimal"
    assert post.certificate.kkt_residual < 1e-10
    assert post.certificate.global_check
    if objective is not None:
        assert post.objective == pytest.approx(objective, abs=1e-7)
    assert trained_output(name, post.solution) == pytest.approx(task.targets, abs=1e-9)


def test_flood_finds_what_enumeration_finds():
    """Within the window no maximum above the lowest one found is missed, at order parameters of a solution."""
    task = mf.class_task(fractions=fractions_of(7, 700), off=0.5)
    post = mf.solve(mf.Network("sigmoid"), task)
    table, low, high = tables("sigmoid")
    p, t, m = task.fractions, post.solution.t, task.n_outputs
    maxima, heights = np.empty((1024, m)), np.empty(1024)
    count = ascent.find_maxima(table, p, t, low, high, np.empty((0, m)), True, maxima, heights)
    window = 0.05
    words, found, found_heights = np.empty(512, np.int64), np.empty((512, m)), np.empty(512)
    n = code_path.flood(
        table, p, t, low, high, np.empty((0, m)), window, np.empty(4096, np.int64), words, found, found_heights
    )
    assert np.unique(words[:n]).size == n
    top = heights[:count].max()
    near = maxima[:count][heights[:count] > top - 0.5 * window]
    assert len(near) > 20
    for a in near:
        assert np.abs(found[:n] - a).max(axis=1).min() < 1e-6


def test_basic_codes_keep_contributions():
    """What is left contributes the same, is independent, and is no lower on average."""
    table, low, high = tables("tanh")
    rng = np.random.default_rng(3)
    p, t = np.full(4, 0.25), np.diag([4.0, 5.0, 6.0, 7.0])
    maxima, heights = np.empty((64, 4)), np.empty(64)
    count = ascent.find_maxima(table, p, t, low, high, np.empty((0, 4)), False, maxima, heights)
    assert count >= 16
    readouts, weights = maxima[:16].copy(), rng.dirichlet(np.ones(16))
    kept, share = basic_codes.basic_codes(table, p, t, readouts, weights)
    assert len(kept) <= 17 - 8
    assert share.min() >= 0.0
    mean = mean_activations("tanh", readouts, t)
    before = np.einsum("k,kc,kr->cr", weights, mean, readouts)
    after = np.einsum("k,kc,kr->cr", share, mean[kept], readouts[kept])
    assert after == pytest.approx(before, abs=1e-9)
    assert share.sum() == pytest.approx(1.0, abs=1e-12)


def test_crowds_of_equal_codes_say_that_weights_are_not_unique():
    """Ten classes, tanh and one-hot targets: h separates over classes, and all 2^10 patterns of signs are equal."""
    post = mf.solve(mf.Network("tanh"), mf.class_task(fractions=fractions_of(10, 1000), off=0.0))
    assert post.status == "optimal"
    assert not post.certificate.unique
    assert post.certificate.nullity > 900
    assert any("one choice of many" in note for note in post.notes)
    assert post.solution.weight.sum() == pytest.approx(1.0, abs=1e-12)


def test_a_sweep_has_room_for_crowds_of_codes():
    """All 2^8 equal codes of eight classes: what a point of a sweep keeps is the whole solution."""
    task = mf.class_task(fractions=fractions_of(8, 800), off=0.0)
    diagram = mf.sweep(mf.Network("tanh"), task, sigma_a=[1.0, 1.01], progress=False)
    assert diagram.certified.all()
    for i in range(2):
        solution = diagram.posterior(i).solution
        assert len(solution.weight) == 256
        assert solution.weight.sum() == pytest.approx(1.0, abs=1e-12)
        assert trained_output("tanh", solution) == pytest.approx(task.targets, abs=1e-9)


def test_programme_meets_its_conditions_of_optimality():
    """Weights and slacks are complementary, constraints hold, and directions of turning are free."""
    rng = np.random.default_rng(11)
    table, _, _ = tables("sigmoid")
    n_classes, m, total = 4, 3, 60
    t = rng.normal(size=(n_classes, m))
    readouts, first = rng.normal(size=(total, m)), rng.uniform(0.1, 0.9, (total, n_classes))
    readouts[:] = first @ t  # as maxima have it: then turning changes no height
    columns = np.einsum("kc,kr->kcr", first, readouts).reshape(total, -1)
    heights = 3.0 + 1e-3 * rng.normal(size=total)
    half = rng.normal(size=(n_classes * m, n_classes * m))
    matrix = half @ half.T + np.eye(n_classes * m)
    slope = columns.T @ rng.dirichlet(np.ones(total)) + 0.1 * rng.normal(size=n_classes * m)
    weights, slack, step = np.ones(total), np.empty(total), np.empty(n_classes * m)
    gain = code_program.solve_programme(table, t, matrix, slope, heights, columns, weights, slack, step)
    assert gain > 0.0
    assert weights.min() >= 0.0
    assert slack.min() >= 0.0
    assert weights.sum() == pytest.approx(1.0, abs=1e-9)
    assert matrix @ step + columns.T @ weights == pytest.approx(slope, abs=1e-9)
    level = heights.max() - gain + slope @ step - 0.5 * step @ matrix @ step
    assert heights + columns @ step + slack == pytest.approx(np.full(total, level), abs=1e-9)
    assert np.abs(weights * slack).max() < 1e-15
