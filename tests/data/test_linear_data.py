"""Linear networks on data: closed forms against the dual, numerical optimisation, brute-force algebra and samples."""

import numpy as np
import pytest
from linear_gibbs import sample
from margins import below, beyond
from problems import fixed_rng
from scipy.optimize import minimize

import meanfield as mf
from meanfield.problem.features import features_from_inputs
from meanfield.sampling.diagnostics import mcse_mean
from meanfield.theories.linear.data_tasks import linear_data_solve, linear_variance


def problem(n=6, n_inputs=9, m=2, seed=0):
    rng = fixed_rng(seed)
    x, y, new = rng.standard_normal((n, n_inputs)), rng.standard_normal((n, m)), rng.standard_normal((5, n_inputs))
    return features_from_inputs(x), x, y, new


def dual(t, kernel, y, s, tau):
    """J(t) written from the page, in sample space."""
    t = t.reshape(y.shape)
    stiffness = np.linalg.eigvalsh(np.eye(y.shape[1]) - s * t.T @ kernel @ t)
    if stiffness[0] <= 0:
        return 1e6
    return -np.sum(t * y) + 0.5 * tau * np.sum(t**2) - 0.5 * np.log(stiffness).sum()


@pytest.mark.parametrize(("n", "n_inputs"), [(6, 9), (9, 4)])
@pytest.mark.parametrize("tau", [1e-3, 0.1, 2.0])
def test_one_layer_is_the_stationary_point_of_the_dual(n, n_inputs, tau):
    features, _, y, _ = problem(n, n_inputs)
    found = linear_data_solve(features, y, 0.3, tau)
    assert found.residual < 1e-10
    assert found.duality_gap < 1e-10
    kernel = features.kernel
    np.testing.assert_allclose(dual(found.t, kernel, y, 0.3, tau), found.objective, rtol=1e-12)
    np.testing.assert_allclose(kernel @ found.t @ found.readout_covariance + tau * found.t, y, atol=1e-10)
    inverse = np.eye(2) / 0.3 - found.t.T @ kernel @ found.t
    np.testing.assert_allclose(np.linalg.inv(found.readout_covariance), inverse, rtol=1e-9)
    if tau < 0.01:  # too stiff for BFGS from zero, which knows nothing of U
        return
    free = minimize(dual, np.zeros(y.size), (kernel, y, 0.3, tau), method="BFGS", options={"gtol": 1e-7})
    assert free.fun == pytest.approx(found.objective, abs=1e-8)
    assert free.fun >= found.objective - 1e-9


def test_small_tau_joins_the_closed_form_at_zero():
    features, _, y, _ = problem()
    exact, close = linear_data_solve(features, y, 0.3), linear_data_solve(features, y, 0.3, 1e-9)
    # t = (y - ...) / tau: rounding leaves eps / tau of the largest element, whatever the size of the others.
    np.testing.assert_allclose(close.t, exact.t, rtol=0.0, atol=1e-6 * np.abs(exact.t).max())
    np.testing.assert_allclose(close.readout_covariance, exact.readout_covariance, rtol=1e-6)
    assert exact.duality_gap < 1e-11
    assert dual(exact.t, features.kernel, y, 0.3, 0.0) == pytest.approx(exact.objective, abs=1e-11)


def last_layer(kernel, y, s):
    """min over t of -<t, Y> - ln det(1 - s t^T K t) / 2, by its eigenvalues."""
    q = np.linalg.eigvalsh(y.T @ np.linalg.solve(kernel, y))
    v = (np.sqrt(1 + 4 * q / s) - 1) / (2 * q)
    return np.sum(0.5 * np.log1p(v * q) - v * q)


@pytest.mark.parametrize("depth", [2, 3])
def test_deep_kernels_maximise_the_action(depth):
    """max over K_1..K_{L-1} of sum_l [ln det(K_{l-1}^-1 K_l) - tr K_{l-1}^-1 K_l + P] / 2 + min_t of the last layer."""
    features, _, y, _ = problem(3, 5)
    k0, s = features.kernel, 0.4
    lower = np.tril_indices(3)

    def kernels(theta):
        roots = np.zeros((depth - 1, 3, 3))
        roots[:, lower[0], lower[1]] = theta.reshape(depth - 1, -1)
        return [r @ r.T for r in roots]

    def action(theta):
        below, total = k0, 0.0
        for kernel in kernels(theta):
            ratio = np.linalg.solve(below, kernel)
            total += 0.5 * (np.linalg.slogdet(ratio)[1] - np.trace(ratio) + 3)
            below = kernel
        return total + last_layer(below, y, s)

    start = np.tile(np.linalg.cholesky(k0)[lower], depth - 1)
    best = minimize(lambda theta: -action(theta), start, method="BFGS", options={"gtol": 1e-8, "maxiter": 5000})
    found = linear_data_solve(features, y, s, 0.0, depth)
    assert -best.fun == pytest.approx(found.objective, abs=1e-9)
    for layer, kernel in enumerate(kernels(best.x), 1):
        np.testing.assert_allclose(k0 + y @ found.learned[layer] @ y.T, kernel, atol=1e-4 * np.abs(kernel).max())


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_kernel_recursion_and_saddle_point_equations(depth):
    features, _, y, _ = problem(m=3)
    s = 0.3
    found = linear_data_solve(features, y, s, 0.0, depth)
    assert found.residual < 1e-12
    k = [features.kernel + y @ layer @ y.T for layer in found.learned]
    for layer in range(1, depth):
        np.testing.assert_allclose(k[layer + 1], k[layer] @ np.linalg.solve(k[layer - 1], k[layer]), rtol=1e-10)
    np.testing.assert_allclose(s * k[-1] @ found.t, y, atol=1e-11)
    np.testing.assert_allclose(
        np.linalg.inv(found.readout_covariance), np.eye(3) / s - found.t.T @ k[-2] @ found.t, rtol=1e-9
    )
    assert np.linalg.eigvalsh(found.readout_covariance).min() > 0
    np.testing.assert_allclose(found.readout_covariance, found.readout_covariance.T, rtol=1e-13)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_scaling_of_the_readouts_with_the_targets_and_with_p(depth):
    features, _, y, _ = problem()
    one, two = (linear_data_solve(features, c * y, 1.0, 0.0, depth).readout_covariance for c in (1e9, 3e9))
    np.testing.assert_allclose(two, 3 ** (2 / (depth + 1)) * one, rtol=1e-4)
    value, vector = np.linalg.eigh(y.T @ np.linalg.solve(features.kernel, y) * 1e18)
    power = (vector * value ** (1 / (depth + 1))) @ vector.T  # s^L Q to the power 1 / (L + 1), s = 1
    np.testing.assert_allclose(one, power, rtol=1e-4)


@pytest.mark.parametrize(("tau", "off"), [(0.0, 0.0), (0.0, 0.5), (0.05, -0.3)])
def test_orthogonal_inputs_equal_the_solver_for_classes(tau, off):
    labels = np.repeat([0, 1, 2], [6, 3, 3])
    task = mf.data_task(np.sqrt(12) * np.eye(12), labels=labels, off=off)
    network = mf.Network("linear", sigma_a=1.3, sigma_w=0.8)
    post = mf.solve(network, task, tau=tau)
    classes = mf.solve(network, mf.class_task([0.5, 0.25, 0.25], off=off, n_samples=12), tau=tau)
    np.testing.assert_allclose(post.order_parameters["t"], classes.order_parameters["t"][labels], atol=1e-9)
    np.testing.assert_allclose(post.readout_covariance, classes.readout_covariance, atol=1e-10)
    assert post.objective / 12 == pytest.approx(classes.objective, abs=1e-11)
    np.testing.assert_allclose(post.kernel(), classes.kernel().matrix(labels), atol=1e-9)


def brute_variance(features, solution, tau, new):
    """The formula of the page with dense matrices over samples and outputs."""
    u, w = solution.readout_covariance, solution.weights

    def covariance(left, right):
        f, g = left @ w, right @ w
        k1 = left @ right.T + f @ solution.learned[1] @ g.T
        block = np.einsum("rs,xy->xrys", u, k1) + np.einsum("xs,yr->xrys", f, g)
        return block.reshape(len(left) * len(u), -1)

    train, cross = covariance(features.matrix, features.matrix), covariance(new, features.matrix)
    explained = cross @ np.linalg.solve(train + tau * np.eye(len(train)), cross.T)
    return np.diag(covariance(new, new) - explained).reshape(len(new), -1)


@pytest.mark.parametrize(("n", "n_inputs", "m"), [(6, 9, 2), (9, 4, 3), (5, 5, 1)])
@pytest.mark.parametrize("tau", [1e-3, 0.1, 2.0])
def test_variance_equals_the_formula_of_the_page(n, n_inputs, m, tau):
    features, _, y, new = problem(n, n_inputs, m)
    solution = linear_data_solve(features, y, 0.3, tau)
    projected, _ = features.project(new)
    expected = brute_variance(features, solution, tau, projected)
    np.testing.assert_allclose(linear_variance(features, solution, tau, projected), expected, rtol=1e-9)
    assert expected.min() > 0


def gibbs(x, y, new, width, tau, depth):
    """Readout covariance, kernels, f and N Var f of a sampled network, and their errors."""
    u, kernels, f = sample(x, y, new, width, 0.25, tau, depth=depth, sweeps=2000, burn=200, seed=width)
    spread = width * (f - f.mean(axis=0)) ** 2
    draws = np.concatenate([part.reshape(1, len(u), -1) for part in (u, kernels, f, spread)], axis=2)
    return draws.mean(axis=(0, 1)), mcse_mean(draws)


@pytest.mark.statistical
@pytest.mark.parametrize(("depth", "tau"), [(1, 1e-5), (1, 0.3), (2, 1e-5)])
def test_against_samples_of_finite_networks(depth, tau):
    """Gibbs sampling at two widths, O(1/N) extrapolated away; that of a prior 20 % wider is seen to be wrong."""
    features, x, y, new = problem(4, 7, seed=1)
    solved = 0.0 if depth == 2 else tau
    theory, wrong = (linear_data_solve(features, y, s, solved, depth) for s in (0.25, 0.3))
    everything = np.vstack([x, new])

    def expected(solution):
        projected, residual = features.project(new)
        variance = linear_variance(features, solution, solved, projected)
        variance = variance + np.multiply.outer(residual, np.diag(solution.pulled_back))
        outputs = features.project(everything)[0] @ solution.weights
        kernels = [everything @ everything.T / 7 + outputs @ k @ outputs.T for k in solution.learned[1:]]
        parts = solution.readout_covariance, np.array(kernels), projected @ solution.weights, variance
        return np.concatenate([part.ravel() for part in parts])

    (narrow, first), (wide, second) = (gibbs(x, y, new, width, tau, depth) for width in (50, 100))
    extrapolated, error = 2 * wide - narrow, np.hypot(2 * second, first)
    assert below((extrapolated - expected(theory)) / error)
    assert beyond((extrapolated - expected(wrong)) / error)
    if depth == 2:  # the pulled back readout is not the readout
        assert (np.diag(theory.pulled_back) > 2 * np.diag(theory.readout_covariance)).all()


def test_rank_deficient_inputs():
    """Duplicated inputs: consistent targets are solved with the pseudo-inverse, contradictory ones need tau > 0."""
    _, x, y, new = problem(4, 7)
    task = mf.data_task(x, y)
    twice = mf.data_task(np.vstack([x, x[:2]]), np.vstack([y, y[:2]]))
    network = mf.Network("linear", sigma_a=np.sqrt(4.0))
    wide = mf.Network("linear", sigma_a=np.sqrt(6.0))  # the same s = sigma_a^2 / P
    once, again = mf.solve(network, task), mf.solve(wide, twice)
    np.testing.assert_allclose(again.readout_covariance, once.readout_covariance, rtol=1e-10)
    np.testing.assert_allclose(again.predict(new), once.predict(new), atol=1e-11)
    assert again.objective == pytest.approx(once.objective, abs=1e-10)
    assert not again.certificate.unique
    assert "not unique" in again.notes[0]
    conflict = mf.data_task(np.vstack([x, x[:1]]), np.vstack([y, -y[:1]]))
    with pytest.raises(ValueError, match=r"samples 0 and 4 have the same inputs but different targets \(1 such"):
        mf.solve(network, conflict)
    post = mf.solve(network, conflict, tau=0.1)
    np.testing.assert_allclose(post.predictions[0], post.predictions[4], atol=1e-12)
    crowded = mf.data_task(*(problem(9, 4)[i] for i in (1, 2)))
    with pytest.raises(ValueError, match="no linear network fits these targets: the inputs span 4 of 9"):
        mf.solve(network, crowded)


def test_outputs_without_targets_keep_their_prior():
    features, _, y, _ = problem()
    padded = np.column_stack([y, np.zeros(6)])
    for tau, depth in ((0.0, 1), (0.0, 3), (0.2, 1)):
        found = linear_data_solve(features, padded, 0.3, tau, depth)
        np.testing.assert_allclose(found.readout_covariance[2], [0, 0, 0.3], atol=1e-12)
        plain = linear_data_solve(features, y, 0.3, tau, depth)
        np.testing.assert_allclose(found.readout_covariance[:2, :2], plain.readout_covariance, rtol=1e-10)


def test_deep_networks_at_finite_temperature_are_refused():
    features, _, y, _ = problem()
    with pytest.raises(ValueError, match="depth 2 are solved in closed form at tau = 0 only"):
        linear_data_solve(features, y, 0.3, 0.1, 2)


def test_gain_and_sigma_w_scale_every_layer():
    """phi = g z with weights sigma is phi = z with weights g sigma; activations are those of z times g."""
    _, x, y, new = problem()
    task = mf.data_task(x, y)
    first = mf.solve(mf.Network(mf.activation("linear", gain=2.0), depth=3, sigma_w=0.6), task)
    second = mf.solve(mf.Network("linear", depth=3, sigma_w=1.2), task)
    np.testing.assert_allclose(first.readout_covariance, second.readout_covariance, rtol=1e-11)
    np.testing.assert_allclose(first.predict(new), second.predict(new), rtol=1e-10)
    for layer in (1, 2, 3):
        np.testing.assert_allclose(first.kernel(new, layer=layer), second.kernel(new, layer=layer), rtol=1e-10)
    # The first layer's kernel under the prior is sigma_w^2 X X^T / N_0: far from the data nothing is learned.
    far = np.linalg.svd(x)[2][-1:]  # orthogonal to the training inputs
    np.testing.assert_allclose(second.kernel(far, layer=1), 1.2**2 * far @ far.T / 9, rtol=1e-10)
    np.testing.assert_allclose(second.kernel(far, layer=3), 1.2**6 * far @ far.T / 9, rtol=1e-10)
