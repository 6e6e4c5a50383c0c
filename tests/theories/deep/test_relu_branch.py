"""Rectifiers with several outputs: codes found along a branch, held to an integration of its own."""

import math
from dataclasses import replace

import numpy as np
import pytest
from relu_oracles import plain_site

import meanfield as mf
from meanfield.theories.deep.relu.average import COARSE, FINE, bulk
from meanfield.theories.deep.relu.outlier import condensed, worst_direction
from meanfield.theories.deep.relu.reduction import relu_problem
from meanfield.theories.deep.relu.search.bare import BareSystem, every_word
from meanfield.theories.deep.relu.setting import BulkDiverges, ReluSetting, factor, several_factors

NETWORK = mf.Network("relu", 2, sigma_w=0.8)
TASK = mf.class_task(targets=[[1.0, 0.64], [0.64, 1.0]], n_samples=287)
TAU = 0.66


@pytest.fixture(scope="module")
def solved():
    return mf.solve(NETWORK, TASK, TAU)


def plain_bulk(setting, step, reach):
    """Averages of two classes: a square of beta, a square of h; nothing but NumPy. Order of `ReluAverages`."""
    axis = np.arange(-reach, reach + step / 2, step) + 0.3 * step
    beta = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    b = beta @ setting.root.T
    n, d, delta = setting.n, setting.d, setting.delta
    parts = []
    if setting.has_fields:
        h = np.linspace(-5.0, 9.0, 640)
        inverse = np.linalg.inv(setting.covariance)
        prior = -0.5 * (inverse[0, 0] * h[:, None] ** 2 + 2 * inverse[0, 1] * np.outer(h, h) + inverse[1, 1] * h**2)
    for x, (b0, b1) in zip(beta, b):
        height = -0.5 * x @ x
        if not setting.has_fields:
            f = [plain_site(np.array(one), 0.0, d[c], delta[c]) for c, one in enumerate((b0, b1))]
            weight = height + n[0] * f[0][0] + n[1] * f[1][0]
            pairs = [[f[c][k] for k in range(1, 5)] for c in (0, 1)]
            parts.append((weight, x, np.array(pairs), np.array([f[0][1] ** 2, f[0][1] * f[1][1], f[1][1] ** 2])))
            continue
        f = [plain_site(one, h, d[c], delta[c]) for c, one in enumerate((b0, b1))]
        log = prior + n[0] * f[0][0][:, None] + n[1] * f[1][0][None, :]
        top = log.max()
        if height + top < -45.0:
            continue
        w = np.exp(log - top)
        total, rows, columns = w.sum(), w.sum(1), w.sum(0)
        pairs = [[rows @ f[0][k] / total for k in range(1, 5)], [columns @ f[1][k] / total for k in range(1, 5)]]
        b_b = [rows @ f[0][1] ** 2, f[0][1] @ w @ f[1][1], columns @ f[1][1] ** 2]
        h_h = [rows @ f[0][3] ** 2, f[0][3] @ w @ f[1][3], columns @ f[1][3] ** 2]
        parts.append((height + top + math.log(total), x, np.array(pairs), np.array([*b_b, *h_h]) / total))
    weight = np.array([part[0] for part in parts])
    weight = np.exp(weight - weight.max())
    weight /= weight.sum()
    pairs = np.einsum("k,kcf->cf", weight, [part[2] for part in parts])
    squares = weight @ np.array([part[3] for part in parts])
    beta_b = np.einsum("k,kq,kc->qc", weight, [part[1] for part in parts], [part[2][:, 0] for part in parts])
    return pairs, squares, beta_b


def two_by_two(values):
    return np.array([[values[0], values[1]], [values[1], values[2]]])


def test_two_outputs_are_certified_and_solve_the_equations_of_an_integration_of_its_own(solved):
    """The branch turns back twice on its way: learning is a first-order transition here."""
    assert solved.status == "optimal"
    proof, s = solved.certificate, solved.solution
    assert proof.residual < 1e-7
    assert proof.global_check
    assert proof.inner_curvature > 0.0 > proof.outer_curvature
    problem, _, span = relu_problem(NETWORK, TASK, TAU)
    assert sorted(s.patterns) == ["01", "10"]
    found = []
    for layer in (0, 1):
        if layer:
            root, delta, d = math.sqrt(problem.readout_variance) * s.t @ span, np.zeros(2), problem.scales[0] * s.d[0]
            covariance = problem.scales[0] * s.kernel[0]
        else:
            value, vector = np.linalg.eigh(s.tilde[0])
            root, delta = (vector * np.sqrt(value)) @ vector.T, s.delta[0]
            d, covariance = np.full(2, problem.k), np.zeros((2, 2))
        setting = ReluSetting(root, problem.n, d, delta, covariance)
        found.append(plain_bulk(setting, 0.9, 32.0 if layer else 16.0))
    first, second = s.outlier_activation
    (pairs, squares, _), (above, more, beta_b) = found
    np.testing.assert_allclose(s.kernel[0], two_by_two(squares) + first.T @ first, rtol=1e-6)
    np.testing.assert_allclose(s.d[0], pairs[:, 1], rtol=1e-6)
    np.testing.assert_allclose(s.kernel[1], two_by_two(more[:3]) + second.T @ second, rtol=1e-6)
    np.testing.assert_allclose(s.tilde[0], problem.scales[0] * two_by_two(more[3:]), rtol=1e-5)
    np.testing.assert_allclose(s.delta[0], problem.scales[0] * above[:, 3], atol=1e-7)
    outputs = math.sqrt(problem.readout_variance) * (span @ beta_b).T + second.T @ s.outlier_readout
    np.testing.assert_allclose(outputs + TAU * s.t, TASK.targets, atol=1e-6)


def test_outliers_touch_the_bound_and_nothing_is_above_it(solved):
    s = solved.solution
    problem, _, _ = relu_problem(NETWORK, TASK, TAU)
    value, vector = np.linalg.eigh(s.tilde[0])
    root = (vector * np.sqrt(value)) @ vector.T
    setting = ReluSetting(root, problem.n, np.full(2, problem.k), s.delta[0], np.zeros((2, 2)))
    for field in s.outlier_field[0]:
        beta = np.linalg.solve(root, field)
        assert condensed(setting, beta).gain == pytest.approx(beta @ beta, rel=1e-7)
    assert worst_direction(setting) < 1.0 + 1e-7


def test_a_saved_answer_is_read_back(solved, tmp_path):
    back = mf.load(solved.save(tmp_path / "two_outputs"))
    np.testing.assert_array_equal(back.solution.kernel, solved.solution.kernel)
    assert back.solution.patterns == solved.solution.patterns


def test_one_and_two_shared_fields_are_the_same_integral():
    covariance = np.array([[0.2, 0.12, 0.1], [0.12, 0.22, 0.11], [0.1, 0.11, 0.18]])
    root = np.array([[0.004, -0.002], [0.001, 0.003], [-0.003, 0.002]])
    setting = ReluSetting(root, np.array([120.0, 140.0, 100.0]), np.array([0.3, 0.28, 0.25]), np.zeros(3), covariance)
    one = bulk(setting, FINE, np.zeros((0, 2)), True)
    two = replace(setting)
    u, spread = factor(covariance)
    alone = 0.3 * spread  # one more field, that has this part of what is each class's own
    more = np.array([1.0, 0.0, 0.0]) * np.sqrt(alone)
    two.__dict__["shared"] = np.column_stack([u, more]), spread - more**2
    other = bulk(two, FINE, np.zeros((0, 2)), True)
    for name in ("log_z", "b_b", "bb", "h_h", "hh", "beta_b", "beta_beta"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-7, atol=1e-9)


def test_three_classes_have_two_shared_fields_where_they_do_not_have_one():
    v = np.array([-0.8, 0.0, 0.9])
    covariance = 0.16 + 0.01 * np.outer(v, v) + 1e-4 * np.eye(3)
    with pytest.raises(BulkDiverges):
        factor(covariance)
    u, spread = several_factors(covariance)
    np.testing.assert_allclose(u @ u.T + np.diag(spread), covariance, atol=1e-15)
    assert spread.min() > 0.0


def test_what_diverges_is_refused_before_it_is_integrated():
    problem, _, _ = relu_problem(NETWORK, TASK, TAU)
    words = every_word(2)
    assert words == ("01", "10")
    system = BareSystem(problem, words, np.zeros((2, 2), dtype=bool))
    x = np.concatenate([np.full(len(basis), 5.0) for _, _, basis, _ in system.blocks if len(basis)])
    with pytest.raises(BulkDiverges, match="gain"):
        system.order(x, COARSE)
