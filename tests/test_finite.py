"""Finite P: against brute-force integrals, generic optimisers, closed forms, limits and reference values."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_ndtr, ndtr

from meanfield.activations.activation import activation
from meanfield.activations.cumulant import cumulant
from meanfield.posterior.certificate import ConvergenceError
from meanfield.theories.linear.class_tasks import linear_solve
from meanfield.theories.single_layer.finite.newton import no_outliers
from meanfield.theories.single_layer.finite.solver import finite_solve
from meanfield.theories.single_layer.readout.integral import ReadoutIntegral

REFERENCE_P = np.array([0.5, 0.25, 0.25])


def one_hot(n_classes, off, on=1.0):
    return np.where(np.eye(n_classes, dtype=bool), on, off)


def solve(name, p, y, tau, n_samples, t0=None, **options):
    c = cumulant(activation(name))
    p, y = np.asarray(p, dtype=float), np.asarray(y, dtype=float)
    return finite_solve(c, p, y, tau, n_samples, t0, **options)


def brute_force(name, p, y, tau, n_samples, t):
    """J(t) and <a G'(a.t_c)> for one output, by the trapezoidal rule on a dense grid and the exact G."""
    p, y, t = np.asarray(p), np.asarray(y).ravel(), np.asarray(t).ravel()
    a = np.linspace(-12, 12, 3001)
    g0, g1, _ = cumulant(activation(name)).direct(np.multiply.outer(a, t))
    h = g0 @ p - 0.5 * a**2
    mass = np.exp(n_samples * (h - h.max()))
    integral = mass.sum() * (a[1] - a[0]) * math.sqrt(n_samples / (2 * math.pi))
    objective = -p @ (t * y) + 0.5 * tau * p @ t**2 + h.max() + math.log(integral) / n_samples
    return objective, (mass * a) @ g1 / mass.sum()


@pytest.mark.parametrize(
    ("name", "p", "y", "tau", "n_samples"),
    [
        ("sigmoid", [0.5, 0.5], [1.0, 0.0], 0.0, 40.0),
        ("sigmoid", [0.5, 0.5], [1.0, -1.0], 0.0, 100.0),
        ("tanh", [0.25, 0.75], [1.5, -0.5], 0.05, 20.0),
        ("step", [0.25, 0.25, 0.5], [1.0, -2.0, 0.3], 0.1, 4.0),
        ("step", [0.3, 0.7], [2.0, -1.0], 0.0, 3.0),  # p_c P not integer: the lattice has to be refined
    ],
)
def test_one_output_against_dense_grid(name, p, y, tau, n_samples):
    y = np.array(y)[:, None]
    found = solve(name, p, y, tau, n_samples)
    objective, mean = brute_force(name, p, y, tau, n_samples, found.t)
    assert found.objective == pytest.approx(objective, abs=1e-10)
    np.testing.assert_allclose(y[:, 0], mean + tau * found.t[:, 0], atol=1e-9)
    # A generic optimiser cannot do better.
    other = minimize(lambda t: brute_force(name, p, y, tau, n_samples, t)[0], np.zeros(len(p)), tol=1e-9)
    assert found.objective <= other.fun + 1e-10
    assert found.objective == pytest.approx(other.fun, abs=1e-6)


def test_two_outputs_against_dense_grid():
    p, y, tau, n_samples = np.array([0.3, 0.3, 0.4]), np.array([[1.0, -0.5], [0.2, 1.0], [-1.0, 0.3]]), 0.02, 30.0
    found = solve("erf", p, y, tau, n_samples)
    direct = cumulant(activation("erf")).direct
    axis = np.linspace(-6, 6, 601)
    a = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    g0, g1, _ = direct(a @ found.t.T)
    h = g0 @ p - 0.5 * np.sum(a**2, axis=1)
    mass = np.exp(n_samples * (h - h.max()))
    mean = np.einsum("i,ic,ir->cr", mass, g1, a) / mass.sum()
    np.testing.assert_allclose(y, mean + tau * found.t, atol=1e-10)
    integral = mass.sum() * (axis[1] - axis[0]) ** 2 * n_samples / (2 * math.pi)
    objective = np.sum(p[:, None] * found.t * (0.5 * tau * found.t - y)) + h.max() + math.log(integral) / n_samples
    assert found.objective == pytest.approx(objective, abs=1e-12)
    # Codes are a partition: their moments are those of the whole posterior.
    overall = mass @ a / mass.sum()
    np.testing.assert_allclose(found.weight @ found.mean, overall, atol=1e-7)
    second = np.einsum("i,ir,iq->rq", mass, a, a) / mass.sum()
    codes = found.covariance + found.mean[:, :, None] * found.mean[:, None, :]
    np.testing.assert_allclose(np.tensordot(found.weight, codes, 1), second, atol=1e-7)


def test_reference_equal_fractions():
    found = solve("sigmoid", np.full(3, 1 / 3), one_hot(3, 0.0), 0.05, 99.0)
    np.testing.assert_allclose(found.t, one_hot(3, -1.8828, 6.0846), atol=5e-5)
    np.testing.assert_allclose(found.weight, 1 / 3, atol=1e-6)


def test_reference_overlapping_codes():
    found = solve("sigmoid", REFERENCE_P, one_hot(3, 0.5), 0.01, 60.0)
    np.testing.assert_allclose(found.t[:2, :2], [[4.736, -0.663], [-1.776, 7.751]], atol=6e-4)
    assert found.integration_error < 1e-11
    # 1-1-0 and 1-0-1; how 0-1-1 and 1-1-1, which overlap, share the rest is a convention.
    paired = found.weight[np.abs(found.mean[:, 1] - found.mean[:, 2]) > 1]
    np.testing.assert_allclose(paired, 0.2988, atol=1e-4)
    assert sorted(found.weight)[0] == pytest.approx(0.101, abs=0.005)


def test_large_n_samples_approaches_the_limit():
    at = [solve("sigmoid", REFERENCE_P, one_hot(3, 0.5), 0.0, n_samples) for n_samples in (1e4, 1e5)]
    extrapolated = (10 * at[1].objective - at[0].objective) / 9
    assert extrapolated == pytest.approx(-3.75433206, abs=2e-8)
    np.testing.assert_allclose(at[1].weight, [0.3316, 0.3154, 0.3154, 0.0376], atol=1e-4)
    np.testing.assert_allclose(at[1].mean[0], [-0.3275, 1.6126, 1.6126], atol=1e-4)
    # Codes are separated and as wide as the curvature of h says.
    ratio = at[0].covariance / at[1].covariance
    np.testing.assert_allclose(np.diagonal(ratio, axis1=1, axis2=2), 10.0, rtol=5e-3)
    warm = solve("sigmoid", REFERENCE_P, one_hot(3, 0.5), 0.0, 1e5, t0=at[0].t)
    np.testing.assert_allclose(warm.t, at[1].t, atol=1e-9)


def test_very_large_n_samples_uses_laplace():
    found = solve("sigmoid", REFERENCE_P, one_hot(3, 0.5), 0.0, 1e9)
    assert found.method == "laplace"
    assert found.objective == pytest.approx(-3.75433206, abs=1e-8)


def test_laplace_error_is_second_order():
    p, y = REFERENCE_P, one_hot(3, 0.2)
    error = []
    for n_samples in (400.0, 1600.0):
        exact = solve("sigmoid", p, y, 0.0, n_samples)
        laplace = solve("sigmoid", p, y, 0.0, n_samples, t0=exact.t, method="laplace", tolerance=1.0)
        # What Laplace's method leaves out is in the residual that is reported.
        problem = ReadoutIntegral(cumulant(activation("sigmoid")), p, y, 0.0, n_samples, "lattice")
        sums = problem.evaluate(laplace.t, 1e-12)
        true = problem.residual(problem.gradient(laplace.t, sums, sums.weight, no_outliers(y)))
        assert laplace.residual / 100 < true < laplace.residual
        error.append(np.abs(laplace.t - exact.t).max())
        order = np.argsort(laplace.mean @ [1.0, 0.1, 0.01])
        exact_order = np.argsort(exact.mean @ [1.0, 0.1, 0.01])
        np.testing.assert_allclose(laplace.mean[order], exact.mean[exact_order], atol=20 / n_samples**1.5)
    assert error[1] < error[0] / 10  # 1/P^2: a factor of 16


def test_five_outputs_reduce_to_fewer_where_targets_do():
    p = np.full(5, 0.2)
    # Targets in a plane of R^5: the same problem as in the plane.
    plane = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0][:2]
    y = np.array([[1.0, 0.0], [0.0, 1.0], [-0.5, 0.5], [0.3, -1.0], [0.7, 0.7]])
    inside = solve("sigmoid", p, y, 0.05, 50.0)
    embedded = solve("sigmoid", p, y @ plane, 0.05, 50.0)
    assert embedded.method == "lattice"
    assert embedded.objective == pytest.approx(inside.objective, abs=1e-12)
    np.testing.assert_allclose(embedded.t, inside.t @ plane, atol=1e-9)
    assert np.trace(embedded.covariance[0]) == pytest.approx(np.trace(inside.covariance[0]) + 3 / 50, abs=1e-3)


def test_rotation_leaves_objective_and_weights():
    y = one_hot(3, 0.3)
    rotation = np.eye(3) - 2 / 3
    plain, turned = (solve("sigmoid", REFERENCE_P, z, 0.02, 80.0) for z in (y, y @ rotation))
    assert turned.objective == pytest.approx(plain.objective, abs=1e-12)
    np.testing.assert_allclose(turned.t, plain.t @ rotation, atol=1e-9)
    np.testing.assert_allclose(turned.weight, plain.weight, atol=1e-6)  # codes hardly overlap, and the cut follows h


def test_large_tau_leaves_the_prior():
    y = one_hot(3, 0.3)
    tau = 1e6
    found = solve("sigmoid", REFERENCE_P, y, tau, 50.0)
    np.testing.assert_allclose(tau * found.t, y, atol=1e-5)
    np.testing.assert_allclose(found.covariance[0], np.eye(3) / 50, atol=1e-6)


def test_zero_targets_keep_the_prior():
    found = solve("tanh", [0.5, 0.5], np.zeros((2, 2)), 0.0, 10.0)
    np.testing.assert_array_equal(found.t, 0.0)
    np.testing.assert_allclose(found.covariance[0], np.eye(2) / 10)


def test_relu_bulk_and_outliers():
    found = solve("relu", REFERENCE_P, one_hot(3, 0.0), 0.0, 1e6)
    assert found.objective == pytest.approx(-1.62411463, abs=2e-6)  # off by O(1/P)
    np.testing.assert_allclose(found.mean, [[0.3122, 0.1694, 0.1694]], atol=1e-4)
    outliers = np.sqrt(found.outlier_weight)[:, None] * found.outlier_direction
    expected = [[0.7596, -0.0865, -0.0865], [-0.1087, 0.6724, -0.0589], [-0.1087, -0.0589, 0.6724]]
    for a in expected:
        assert np.abs(outliers - a).max(axis=1).min() < 1e-4


@pytest.mark.parametrize("off", [0.3, 0.38, 0.5])
def test_relu_cones_of_outliers(off):
    """Degenerate directions: t_2.t_3 = 0 (partial cone), then all t_c orthogonal (full cone), as at P -> infinity."""
    found = solve("relu", REFERENCE_P, one_hot(3, off), 0.0, 1e3)
    gram = found.t @ found.t.T * np.sqrt(np.outer(REFERENCE_P, REFERENCE_P))
    np.testing.assert_allclose(np.diag(gram), 1.0, atol=1e-9)
    assert gram[1, 2] == pytest.approx(0.0, abs=1e-9)
    assert gram[0, 1] < (1e-9 if off > 0.4 else -1e-5)
    kappa = np.maximum(found.outlier_direction @ found.t.T, 0.0)
    carried = np.einsum("o,oc,or->cr", found.outlier_weight, kappa, found.outlier_direction)
    # The rest of y is the bulk's <a G'>, here on a dense grid with G = ln(1/2 + e^{kappa^2/2} Phi(kappa)).
    axis = np.linspace(-0.45, 0.45, 61)
    a = found.mean[0] + np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    kappa = a @ found.t.T
    upper = np.exp(0.5 * kappa**2) * ndtr(kappa)
    g1 = (kappa * upper + 1 / math.sqrt(2 * math.pi)) / (0.5 + upper)
    h = np.log(0.5 + upper) @ REFERENCE_P - 0.5 * np.sum(a**2, axis=1)
    mass = np.exp(1e3 * (h - h.max()))
    bulk = np.einsum("i,ic,ir->cr", mass, g1, a) / mass.sum()
    np.testing.assert_allclose(one_hot(3, off), carried + bulk, atol=1e-10)


def test_relu_bulk_without_gap_has_no_outliers():
    """At few samples bulk and tail are one: ReLU, one output, against the trapezoidal rule far into the tail."""
    p, y, n_samples = np.array([0.5, 0.5]), np.array([1.0, -0.5]), 12.0
    found = solve("relu", p, y[:, None], 0.1, n_samples)
    assert found.outlier_weight.size == 0
    t = found.t[:, 0]
    a = np.linspace(-60, 60, 60001)
    kappa = np.multiply.outer(a, t)
    log_upper = 0.5 * kappa**2 + log_ndtr(kappa)
    g0 = np.logaddexp(np.log(0.5), log_upper)
    g1 = np.exp(log_upper - g0) * kappa + np.exp(-g0) / math.sqrt(2 * math.pi)
    h = g0 @ p - 0.5 * a**2
    mass = np.exp(n_samples * (h - h.max()))
    np.testing.assert_allclose(y, (mass * a) @ g1 / mass.sum() + 0.1 * t, atol=1e-8)


def test_bad_method():
    with pytest.raises(ValueError, match="method must be"):
        solve("tanh", [0.5, 0.5], one_hot(2, 0.0), 0.0, 10.0, method="montecarlo")


def test_unreachable_tolerance_carries_the_result():
    with pytest.raises(ConvergenceError, match="recomputed independently") as caught:
        solve("tanh", [0.5, 0.5], one_hot(2, 0.0), 0.0, 10.0, aim=0.0, tolerance=0.0)
    assert caught.value.result.residual < 1e-10


@pytest.mark.parametrize("n_samples", [5.0, 200.0, 1e8, math.inf])
@pytest.mark.parametrize("tau", [0.0, 0.3])
def test_linear_closed_form(n_samples, tau):
    rng = np.random.default_rng(3)
    p, y, k = np.array([0.2, 0.3, 0.5]), rng.normal(size=(3, 4)), 1.7
    found = linear_solve(p, y, tau, n_samples, k)
    assert found.residual < 1e-13
    assert found.duality_gap < 1e-13
    u = found.readout_covariance
    np.testing.assert_allclose(y, k * found.t @ u + tau * found.t, atol=1e-13)
    assert np.linalg.eigvalsh(u).min() >= (0.0 if math.isinf(n_samples) else 1 / n_samples) - 1e-12
    if n_samples < 1e3:

        def objective(flat):
            t = flat.reshape(3, 4)
            matrix = np.eye(4) - k * (t.T * p) @ t
            eigenvalues = np.linalg.eigvalsh(matrix)
            if eigenvalues[0] <= 0:
                return 1e6
            return np.sum(p[:, None] * t * (0.5 * tau * t - y)) - np.log(eigenvalues).sum() / (2 * n_samples)

        assert found.objective == pytest.approx(objective(found.t.ravel()), abs=1e-13)
        for _ in range(20):
            assert objective(found.t.ravel() + 1e-4 * rng.normal(size=12)) >= found.objective


def test_linear_limit_known_case():
    """One-hot, m = C, tau = 0: t_c = e_c / sqrt(p_c), U = diag(sqrt(p_c)), J = -sum_c sqrt(p_c)."""
    found = linear_solve(REFERENCE_P, one_hot(3, 0.0), 0.0, math.inf, 1.0)
    np.testing.assert_allclose(found.t, np.diag(1 / np.sqrt(REFERENCE_P)), atol=1e-14)
    np.testing.assert_allclose(found.readout_covariance, np.diag(np.sqrt(REFERENCE_P)), atol=1e-14)
    assert found.objective == pytest.approx(-np.sqrt(REFERENCE_P).sum(), abs=1e-14)


def test_linear_matches_deep_closed_form():
    """linear/THEORY.md: v (1 + v q) = P / sigma_a^2, u = (1 + v q) / P with q = sum over samples y^2 / k."""
    n_samples, k, y = 40.0, 1.3, np.array([[1.0], [-0.5]])
    p = np.array([0.25, 0.75])
    q = n_samples * float(p @ y[:, 0] ** 2) / k
    v = (-1 + math.sqrt(1 + 4 * q * n_samples)) / (2 * q)
    found = linear_solve(p, y, 0.0, n_samples, k)
    assert found.readout_covariance[0, 0] == pytest.approx((1 + v * q) / n_samples, rel=1e-13)
    assert 1 / found.readout_covariance[0, 0] == pytest.approx(v, rel=1e-12)
