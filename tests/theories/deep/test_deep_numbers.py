"""Deep theory: numbers that were established by other means, and limits."""

import itertools
import math

import numpy as np
import pytest
import sympy
from deep_grids import site
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq, minimize

import meanfield as mf
from meanfield.symbolic import deep as derived
from meanfield.theories.deep.coverage import refuses
from meanfield.theories.deep.large_p.reduced import reduced_solve
from meanfield.theories.deep.layers.layer import Layer
from meanfield.theories.deep.layers.linear import LinearLayer, linear_order
from meanfield.theories.deep.layers.products import pairs_of
from meanfield.theories.deep.layers.rules import CHECK, COARSE, FINE, Setting
from meanfield.theories.deep.reduction import problem_of
from meanfield.theories.deep.search.start import uncoded
from meanfield.theories.deep.solve import solve_deep
from meanfield.theories.deep.system import DeepProblem, Order, System

SIGMOID, TANH, LINEAR = (mf.activation(name) for name in ("sigmoid", "tanh", "linear"))
TWO = np.array([[1.0], [-1.0]])


def one_hot(off, samples=200):
    y = np.where(np.eye(3, dtype=bool), 1.0, off)
    return mf.class_task([0.5, 0.25, 0.25], targets=y, n_samples=samples)


# ---- derivatives ----------------------------------------------------------------------------------


def by_operators(averages, n, root, last, fields):
    """d ln Z by k~ (or t), delta, covariance of h, d, from the averages."""

    def pairs(block, own):
        both = n[:, None] * n * block + np.diag(n * own)
        return [both[c, e] * (0.5 if c == e else 1.0) for c, e in pairs_of(len(n))]

    k = n[:, None] * n * averages.kernel + np.diag(n * averages.d)
    first = list((k @ root).ravel()) if last else pairs(averages.kernel, averages.d)
    first += list(0.5 * n * (np.diag(averages.kernel) + averages.d))
    if fields:
        first += pairs(averages.tilde, averages.delta)
        first += list(0.5 * n * (np.diag(averages.tilde) + averages.delta))
    return np.array(first)


def square_root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


CASES = {
    "first": (SIGMOID, [[0.31, -0.12], [-0.12, 0.31]], np.zeros((2, 2)), False),
    "middle": (SIGMOID, [[0.2, -0.09], [-0.09, 0.15]], [[0.3, 0.2], [0.2, 0.27]], False),
    "negative": (TANH, [[0.2, -0.09], [-0.09, 0.15]], [[0.2, -0.1], [-0.1, 0.25]], False),
    "narrow": (SIGMOID, [[0.3, -0.1], [-0.1, 0.3]], [[0.3, 0.29999], [0.29999, 0.3]], False),
    "rank one": (SIGMOID, [[0.3, -0.1], [-0.1, 0.3]], [[0.3, 0.3], [0.3, 0.3]], False),
    "last": (SIGMOID, [[0.3], [-0.25]], [[0.3, 0.2], [0.2, 0.31]], True),
    "linear": (LINEAR, [[0.06, -0.03], [-0.03, 0.05]], [[0.3, 0.2], [0.2, 0.27]], False),
    "linear, last": (LINEAR, [[0.06, 0.01], [-0.03, 0.05]], [[0.3, 0.2], [0.2, 0.27]], True),
}


@pytest.mark.parametrize("name", CASES)
def test_second_derivatives_of_a_layer_against_differences(name):
    phi, root, covariance, last = CASES[name]
    root, covariance, n = np.array(root), np.array(covariance), np.array([12.0, 9.0])
    d, delta = np.full(2, 0.07), np.full(2, 0.0 if last else -0.4)
    fields, kind = bool(covariance.any()), LinearLayer if phi is LINEAR else Layer

    def averages(move, **options):
        count = root.size if last else 3
        if last:
            now = root + move[:count].reshape(root.shape)
        else:
            now = square_root(root @ root.T + np.array([[move[0], move[1]], [move[1], move[2]]]))
        rest = np.concatenate([move[count:], np.zeros(7 - len(move[count:]))])
        h = covariance + np.array([[rest[2], rest[3]], [rest[3], rest[4]]])
        given = Setting(now, h, d + rest[5:7], delta + rest[:2])
        found, _ = kind(phi, n, FINE, last).evaluate(given, **options)
        return found, by_operators(found, n, now, last, fields)

    size = (root.size if last else 3) + 2 + 5 * fields
    found, _ = averages(np.zeros(size), curvature=True)
    unit = np.sqrt(np.abs(np.diag(found.curvature)))
    start = root.size if last else 3
    for j in range(size):
        if name in ("narrow", "rank one") and start + 2 <= j < start + 5:
            continue  # a step would leave what is positive
        step = np.zeros(size)
        step[j] = 1e-5
        change = (averages(step)[1] - averages(-step)[1]) / 2e-5
        np.testing.assert_allclose(change / unit / unit[j], found.curvature[j] / unit / unit[j], atol=2e-6)


def test_class_functions_are_derivatives_of_the_weight():
    """Against SymPy on a g that obeys both of its equations: phi = z, a Gaussian integral."""
    import sympy as sp

    b, h, delta, d = sp.symbols("b h delta d", positive=True)
    own = d / (1 - delta * d)
    g = sp.log(own / d) / 2 + (own * (b + h / d)) ** 2 / (2 * own) - h**2 / (2 * d)
    at = {b: sp.Rational(1, 3), h: sp.Rational(2, 5), delta: sp.Rational(-1, 2), d: sp.Rational(3, 4)}
    count = 5
    for key in derived.class_keys()[1:]:
        weight = sp.exp(count * g)
        for symbol, order in zip((b, h, delta, d), key):
            weight = sp.diff(weight, symbol, order)
        wanted = float((weight * sp.exp(-count * g)).subs(at))
        values = {derived.n: count}
        for i in range(5):
            for j in range(5 - i):
                values[derived.site(i, j)] = sp.diff(g, b, i, h, j).subs(at)
        assert float(derived.class_function(key).subs(values)) == pytest.approx(wanted, rel=1e-12)


def test_equations_of_deep_networks():
    found = mf.equations(mf.Network("sigmoid", 3), mf.class_task(targets=[1, -1], n_samples=100))
    assert found.depth == 3
    assert len(found.stationarity) == 2 * 4 + 1
    text = found.latex()
    assert text.count("{") == text.count("}")
    for layer in (1, 2):
        assert rf"\bar{{K}}^{{({layer})}}" in text
    assert r"\right\rangle_{3}" in text
    for given in (r"s &= \frac{\sigma_{a}^{2}}{P}", r"\operatorname{erf}", r"\bar{K}_{0}, \; d_{0} &= 0, \; 1"):
        assert given in text
    rectifiers = mf.equations(mf.Network("relu", 3), mf.class_task(targets=[1, -1], n_samples=100))
    assert rectifiers.jacobian == found.jacobian  # of the bulk
    assert r"s &= \frac{\sigma_{a}^{2}}{\sqrt[3]{P}}" in rectifiers.latex()
    with pytest.raises(ValueError, match="depth 2"):
        mf.equations(mf.Network(sum(sympy.Abs(sympy.Symbol("z") - k) for k in range(4)), 2))


# ---- linear ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_linear_networks_equal_the_closed_form(depth):
    n, y = np.array([60.0, 25.0, 15.0]), np.eye(3) - 0.3
    task = mf.class_task(n / 100, targets=y, n_samples=100)
    post = solve_deep(mf.Network("linear", depth), task, 0.0)
    kernel, _, t = linear_order(n, y, 100 ** (-1 / depth), 1.0, (1.0,) * (depth - 1), 1.0)
    np.testing.assert_allclose(post.solution.kernel[:-1], kernel, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(post.solution.t, t, rtol=1e-8, atol=1e-9)
    exact = mf.solve(mf.Network("linear", depth), mf.data_task(10.0 * np.eye(100), np.repeat(y, n.astype(int), axis=0)))
    np.testing.assert_allclose(post.solution.t, exact.solution.t[[0, 60, 85]], rtol=1e-8, atol=1e-9)


def layered(name, **options):
    return mf.Network(name, 3, layer_sigmas=(0.8, 1.3), width_ratios=(2.0, 0.6), **options)


@pytest.mark.parametrize("tau", [0.0, 0.1])
def test_linear_networks_of_different_layers(tau):
    """(N_l / N) K~_l K_l = q is the same in all layers: K_l / sigma^2 K_{l-1} = 1 + q N / N_l on the targets."""
    network, task = layered("linear", sigma_w=0.9), mf.class_task(targets=[1, -1], n_samples=100)
    post, s = solve_deep(network, task, tau), 100 ** (-1 / 3)
    prior = (0.9 * 0.8 * 1.3) ** 2

    def growth(q):
        return (1 + q / 2.0) * (1 + q / 0.6) * (1 + q)

    def excess(q):
        kernel = prior * growth(q)
        return q - 100 * s * kernel / (s * kernel + tau) ** 2

    q = brentq(excess, 0.0, 1e4, xtol=1e-13)
    kernel = prior * growth(q)  # in the direction of y; n = 50 of each class
    assert post.solution.t[0, 0] == pytest.approx(1.0 / (s * kernel + tau), rel=1e-8)
    found = post.solution.kernel[:, 0, 0] - post.solution.kernel[:, 0, 1]
    one = 0.81 * (1 + q / 2.0)
    two = one * 0.64 * (1 + q / 0.6)
    np.testing.assert_allclose(50 * found + post.solution.d[:, 0], [one, two, kernel], rtol=1e-8)


def test_layers_of_different_width_and_scale():
    """Phi is stationary: its differences, each layer weighted by its width, and its Hessian."""
    network, task = layered("sigmoid"), mf.class_task(targets=[1, -1], n_samples=100)
    post = solve_deep(network, task, 0.05)
    assert post.status == "optimal"
    assert post.certificate.inner_curvature > 0.0 > post.certificate.outer_curvature
    system = System(problem_of(network, task, 0.05)[0])
    s = post.solution
    x = system.pack(Order(s.kernel[:-1], s.d[:-1], s.tilde, s.delta, s.t))
    unit = system.scales(x)

    def phi(x):
        return system.free_energy(x, system.evaluate(x, grow=False))

    hessian = system.hessian(system.evaluate(x, curvature=True))
    for j in range(len(x)):
        step = np.zeros(len(x))
        step[j] = 1e-4 * unit[j]
        ends = phi(x + step), phi(x), phi(x - step)
        assert abs(ends[0] - ends[2]) < 1e-6
        curved = hessian[j, j] * step[j] ** 2
        assert ends[0] - 2 * ends[1] + ends[2] == pytest.approx(curved, abs=2e-9 + 1e-2 * abs(curved))


def test_layers_of_different_width_and_scale_elsewhere():
    """Written to files and read back; refused in words by what does not know them."""
    network = layered("sigmoid")
    assert mf.Network.from_dict(network.to_dict()) == network
    assert mf.Network("sigmoid", 3).uniform
    assert "layer_sigmas" not in mf.Network("sigmoid", 3).to_dict()
    for act in (
        lambda: mf.equations(layered("linear"), mf.data_task(np.eye(4), np.ones((4, 1)))),
        lambda: mf.solve(layered("linear"), mf.data_task(np.eye(4), np.ones((4, 1)))),
        lambda: mf.solve(layered("tanh", scaling="lazy"), mf.data_task(np.eye(4), np.ones((4, 1))), 0.1),
    ):
        with pytest.raises(ValueError, match="width"):
            act()
    for wrong in ((1.0,), (1.0, -1.0), "ab", 2.0):
        with pytest.raises(ValueError, match="width_ratios"):
            mf.Network("sigmoid", 3, width_ratios=wrong)


def test_scales_of_layers_are_gains():
    """sigma_l of all layers at once is the gain of phi; wide lower layers learn less."""
    task = mf.class_task(targets=[1, -1], n_samples=100)
    steep = mf.Network(mf.activation("sigmoid", gain=1.2), 2)
    same = mf.Network("sigmoid", 2, sigma_w=1.2, layer_sigmas=(1.2,))
    found = [solve_deep(network, task, 0.05, second=False, competitors=False) for network in (steep, same)]
    np.testing.assert_allclose(found[0].solution.kernel, found[1].solution.kernel, atol=1e-8)
    gaps = []
    for ratio in (0.5, 1.0, 4.0):
        network = mf.Network("sigmoid", 2, width_ratios=(ratio,))
        kernel = solve_deep(network, task, 0.05, second=False, competitors=False).solution.kernel[0]
        gaps.append(kernel[0, 0] - kernel[0, 1])
    assert gaps == sorted(gaps, reverse=True)


# ---- P -> infinity at the exponent 1 / L ----------------------------------------------------------


def test_reduced_problem_of_two_classes():
    found = reduced_solve(DeepProblem(SIGMOID, 2, np.full(2, 0.5), TWO, 0.0, 1.0), 24)
    assert np.abs(found.field) == pytest.approx(1.1132, abs=1e-4)
    assert np.abs(found.readout) == pytest.approx(2.4876, abs=1e-4)
    assert np.abs(found.t) == pytest.approx(6.1879, abs=1e-4)
    assert np.diag(found.kappa[0]) == pytest.approx(0.36008, abs=1e-5)
    assert found.residual < 1e-12
    deeper = reduced_solve(DeepProblem(SIGMOID, 3, np.full(2, 0.5), TWO, 0.0, 1.0), 24)
    assert np.abs(deeper.field) == pytest.approx(1.0254, abs=1e-4)
    assert np.abs(deeper.readout) == pytest.approx(2.5154, abs=1e-4)
    assert np.abs(deeper.t) == pytest.approx(6.3273, abs=1e-4)
    assert deeper.kappa[:, 0, 0] == pytest.approx([0.37704, 0.29176], abs=1e-5)


def test_reduced_problem_of_three_classes():
    found = reduced_solve(DeepProblem(SIGMOID, 2, np.full(3, 1 / 3), np.eye(3), 0.0, 1.0), 24)
    np.testing.assert_allclose(np.sort(found.readout), np.tile([-1.9171, 1.7353, 1.7353], (3, 1)), atol=1e-4)
    np.testing.assert_allclose(np.sort(found.field), np.tile([-1.1228, 1.1953, 1.1953], (3, 1)), atol=1e-4)
    np.testing.assert_allclose(found.t[0], [9.6977, -3.6421, -3.6421], atol=1e-4)
    assert found.kappa[0, 0, 0] - found.kappa[0, 0, 1] == pytest.approx(0.74977, abs=1e-5)
    assert found.weight == pytest.approx([1 / 3] * 3)
    assert found.excess < 1e-12  # no other code is as high
    # 2.4600 of the pairs, 2.1921 of single classes: maxima over readout and common fields, by a generic method
    x, w = np.polynomial.hermite_e.hermegauss(60)
    w, inverse = w / w.sum(), np.linalg.pinv(found.kappa[0])
    first = SIGMOID(x)
    spread = math.sqrt(w @ first**2 - (w @ first) ** 2)

    def height(at):
        a, h = at[:3], at[3:] - at[3:].mean()
        mean = SIGMOID(at[3:, None] + spread * x) @ w
        return -0.5 * a @ a + (found.t @ a) @ mean / 3 - 0.5 * h @ inverse @ h

    for start, energy in (([1.7, 1.7, -1.9, 1.0, 1.0, -1.0], 2.4600), ([2.6, -0.8, -0.8, 1.0, -1.0, -1.0], 2.1921)):
        best = minimize(lambda at: -height(at), start, method="BFGS", options={"gtol": 1e-9})
        assert -best.fun == pytest.approx(energy, abs=6e-5)
        assert list(best.x[3:] > 0) == list(np.array(start[3:]) > 0)


def test_reduced_problem_balances_by_scales_of_the_weights():
    """sigma_w = g with gain 1 is sigma_w = 1 with gain g."""
    scaled = reduced_solve(DeepProblem(SIGMOID, 3, np.full(2, 0.5), TWO, 0.0, 1.0, 1.69, (1.69, 1.69)), 24)
    steep = reduced_solve(DeepProblem(mf.activation("sigmoid", gain=1.3), 3, np.full(2, 0.5), TWO, 0.0, 1.0), 24)
    np.testing.assert_allclose(scaled.kappa, steep.kappa, rtol=1e-9)
    np.testing.assert_allclose(np.abs(scaled.t), np.abs(steep.t), rtol=1e-9)
    assert scaled.objective == pytest.approx(steep.objective, rel=1e-9)


def test_finite_networks_run_into_the_reduced_problem():
    """Steps of P^(-1/2) at two layers."""
    network = mf.Network("sigmoid", 2, readout_exponent=0.5)
    limit = solve_deep(network, mf.class_task(targets=[1, -1], n_samples=math.inf), 0.02)
    assert limit.status == "optimal"
    assert abs(limit.codes[0].readout[0]) == pytest.approx(2.4876, abs=1e-4)
    for samples, t, kappa, readout in ((400, 6.232, 0.3444, 2.486), (6400, 6.198, 0.3561, 2.487)):
        task = mf.class_task(targets=[1, -1], n_samples=samples)
        post = solve_deep(network, task, 0.02, second=False, competitors=False)
        kernel = post.solution.kernel[0]
        assert post.status == "optimal"
        assert post.solution.t[0, 0] * math.sqrt(samples) == pytest.approx(t, abs=1e-3)
        assert 0.5 * (kernel[0, 0] - kernel[0, 1]) * math.sqrt(samples) == pytest.approx(kappa, abs=1e-4)
        assert abs(post.codes[0].readout[0]) == pytest.approx(readout, abs=1e-3)


def kurtosis_of_means(post):
    """Of g_b of one class minus that of the other over neurons of the first layer: without the noise g_bb / n of class
    means. Fields along (1, -1) and (1, 1), where the weight is broader than the Gaussian, on plain grids."""
    n, tilde, delta = 0.5 * post.task.n_samples, post.solution.tilde[0], post.solution.delta[0][0]
    apart, common = tilde[0, 0] - tilde[0, 1], tilde[0, 0] + tilde[0, 1]
    wanted = 2.0 * (post.solution.kernel[0][0, 0] - post.solution.kernel[0][0, 1])
    reach = 6.0 * (math.sqrt(apart) + apart * n * math.sqrt(wanted))
    u, v = np.linspace(-reach, reach, 1001), math.sqrt(common) * np.arange(-100.0, 100.1, 0.7)
    b = np.linspace(-1.1 * reach - v[-1] - 8.0, 1.1 * reach + v[-1] + 8.0, 8001)
    g, mean, *_ = (CubicSpline(b, part[:, 0]) for part in site(SIGMOID, b, np.zeros(1), 1.0, delta))
    one, two = (u[:, None] + v) / math.sqrt(2.0), (v - u[:, None]) / math.sqrt(2.0)
    log = n * (g(one) + g(two)) - 0.5 * u[:, None] ** 2 / apart - 0.5 * v**2 / common
    w, gap = np.exp(log - log.max()), mean(one) - mean(two)
    square = np.sum(w * gap**2) / w.sum()
    assert square == pytest.approx(wanted, rel=1e-6)
    return np.sum(w * gap**4) / w.sum() / square**2


def test_soft_codes_of_the_first_layer():
    """Kurtosis of class means: steps of P^(-1/2) towards that of exp(-rho x^2 / 2 - u x^4), u from the fourth cumulant
    of phi under the prior."""
    found = []
    for samples, wanted in ((100, 1.431), (400, 1.494), (1600, 1.531), (6400, 1.551)):
        task = mf.class_task(targets=[1, -1], n_samples=samples)
        post = solve_deep(mf.Network("sigmoid", 2, readout_exponent=0.5), task, 0.02, second=False, competitors=False)
        found.append(kurtosis_of_means(post))
        assert found[-1] == pytest.approx(wanted, abs=1.1e-3)
    x, w = np.polynomial.hermite_e.hermegauss(60)
    centred = SIGMOID(x) - 0.5
    d, fourth = (np.sum(w * centred**k) / w.sum() for k in (2, 4))
    assert fourth - 3.0 * d**2 == pytest.approx(-0.014924, abs=1e-6)
    u, x = (3.0 * d**2 - fourth) / (24.0 * d**4), np.linspace(-4.0, 4.0, 4001)

    def moment(k, rho):
        log = -0.5 * rho * x**2 - u * x**4
        weight = np.exp(log - log.max())
        return np.sum(weight * x**k) / weight.sum()

    rho = brentq(lambda rho: moment(2, rho) - 0.36008, -100.0, 100.0)
    limit = moment(4, rho) / moment(2, rho) ** 2
    assert limit == pytest.approx(1.571, abs=5e-4)
    assert 2.0 * found[3] - found[2] == pytest.approx(limit, abs=2e-3)


# ---- three classes, exponent 1 --------------------------------------------------------------------


def test_three_classes_of_unequal_size():
    post = solve_deep(mf.Network("sigmoid", 2), one_hot(0.0), 0.005, competitors=False)
    s = post.solution
    assert post.status == "optimal"
    assert post.certificate.inner_curvature > 0.0 > post.certificate.outer_curvature
    assert post.free_energy == pytest.approx(-783.278, abs=1e-3)
    entries = [s.kernel[0][c, e] for c, e in ((0, 0), (0, 1), (1, 1), (1, 2))]
    np.testing.assert_allclose(entries, [0.3013, 0.2220, 0.3085, 0.2137], atol=4e-4)
    np.testing.assert_allclose(s.d[0], [0.0827, 0.0545, 0.0545], atol=1e-4)
    np.testing.assert_allclose(s.t[0], [4.4997, -1.4880, -1.4880], atol=1e-3)
    np.testing.assert_allclose(s.t[1], [-2.9760, 8.7906, -2.8630], atol=1e-3)
    weights = {code.pattern: code.weight for code in post.codes}
    assert weights["110"] == pytest.approx(0.3332, abs=2e-4)
    assert weights["011"] == pytest.approx(0.3336, abs=2e-4)


def test_six_degenerate_codes():
    """y_- = -1/2: codes and their complements tie; weights follow t by 1 / P."""
    post = solve_deep(mf.Network("sigmoid", 2), one_hot(-0.5), 0.002, competitors=False)
    assert post.status == "optimal"
    assert post.free_energy == pytest.approx(-1475.76, abs=5e-3)
    weights = {code.pattern: code.weight for code in post.codes if code.weight > 1e-3}
    assert set(weights) == {"100", "010", "001", "110", "101", "011"}
    assert all(0.164 < weight < 0.171 for weight in weights.values())
    np.testing.assert_allclose(post.solution.t[0], [5.975, -2.988, -2.988], atol=2e-2)


# ---- odd phi, branches ----------------------------------------------------------------------------


def test_odd_activations_with_opposite_targets():
    """Kernels of rank one: the classes are mirror images."""
    task = mf.class_task(targets=[1, -1], n_samples=100)
    assert refuses(mf.Network("tanh", 2), task, 0.1) is None
    post = solve_deep(mf.Network("tanh", 2), task, 0.1, competitors=False)
    assert post.status == "optimal"
    assert post.certificate.inner_curvature > 0.0 > post.certificate.outer_curvature
    for kernel in post.solution.kernel:
        np.testing.assert_allclose(kernel, kernel[0, 0] * np.array([[1, -1], [-1, 1]]), atol=1e-9)
    one = np.array([[1.0]])  # the same as one class of all samples
    system = System(DeepProblem(TANH, 2, np.array([100.0]), one, 0.1, 0.01))
    s = post.solution
    order = Order(s.kernel[:1, :1, :1], s.d[:1, :1], s.tilde[:, :1, :1], s.delta[:, :1], s.t[:1])
    x = system.pack(order)
    assert np.abs(system.residual(x, system.evaluate(x))).max() < 1e-6


@pytest.mark.parametrize("exponent", [1.0, 1 / 3])
def test_large_tau_is_the_prior(exponent):
    """t -> 0: the recursion of the Gaussian process, here by Gauss-Hermite nodes, and no conjugate fields."""
    post = solve_deep(
        mf.Network("sigmoid", 3, readout_exponent=exponent), mf.class_task(targets=[1, -1], n_samples=50), 1e6
    )
    assert post.status == "optimal"
    s, (x, w) = post.solution, np.polynomial.hermite_e.hermegauss(80)
    w = w / w.sum()
    shared, own = 0.0, 1.0
    for layer in range(3):
        given = SIGMOID(math.sqrt(shared) * x[:, None] + math.sqrt(own) * x) @ w
        square = SIGMOID(math.sqrt(shared) * x[:, None] + math.sqrt(own) * x) ** 2 @ w
        shared, own = w @ given**2, w @ square - w @ given**2
        np.testing.assert_allclose(s.kernel[layer], shared, rtol=1e-6)
        np.testing.assert_allclose(s.d[layer], own, rtol=1e-6 if layer < 2 else 1e-5)  # d_3 is 1 % of the kernel
    assert np.abs(s.tilde).max() < 1e-9
    assert np.abs(s.delta).max() < 1e-5


def test_uncoded_solution_where_codes_are_lost():
    """Large tau: the branch that continues the prior, reached from the coding start as well."""
    post = solve_deep(mf.Network("sigmoid", 2), mf.class_task(targets=[1, -1], n_samples=100), 0.5)
    assert post.status == "optimal"
    kernel = post.kernel(1).block
    assert kernel[0, 0] - kernel[0, 1] < 1e-3
    assert post.free_energy == pytest.approx(-99.9617, abs=1e-3)


@pytest.mark.parametrize(("depth", "tau_end", "phi_end"), [(2, 0.27266548, -183.192157), (3, 0.1532935, -326.0748)])
def test_the_branch_without_codes_ends(depth, tau_end, phi_end):
    """In a fold, where an eigenvalue of the Hessian goes through zero. Far below it the conjugate under the top is
    beyond the instability of that layer; just below it the fold is named, just above it the branch is a rival."""
    network, task = mf.Network("sigmoid", depth), mf.class_task(targets=[1, -1], n_samples=100)
    post = solve_deep(network, task, 0.01, second=False)
    assert post.status == "optimal"
    assert any("there is no branch without codes" in note for note in post.notes)
    end = post.uncoded_end()
    assert end.tau == pytest.approx(tau_end, rel=1e-6)
    assert end.free_energy == pytest.approx(phi_end, rel=1e-6)
    assert end.residual < 1e-8
    assert abs(end.eigenvalue) < 1e-5 < min(abs(end.before), abs(end.behind))
    assert end.before * end.behind < 0.0
    below, above = (solve_deep(network, task, factor * end.tau, second=False) for factor in (0.998, 1.002))
    assert not below.certificate.branches
    assert any("fold at tau" in note for note in below.notes)
    (rival,) = above.certificate.branches
    assert rival.name == "uncoded"
    assert rival.residual < 1e-4
    assert rival.free_energy == pytest.approx(end.free_energy / 1.002, rel=2e-3)  # Phi ~ -1 / tau
    with pytest.raises(ValueError, match="linear"):
        solve_deep(mf.Network("linear", depth), task, 0.01).uncoded_end()


def test_nodes_found_in_a_part_of_their_orbit_count_for_all_of_it():
    """A weight with one maximum far out on one side: its images under permutations are not in the list."""
    group = System(DeepProblem(SIGMOID, 2, np.full(3, 33.0), np.eye(3), 0.1, 0.01)).group
    layer = Layer(SIGMOID, np.full(3, 33.0), FINE, False, group.permuted())
    part = np.array([[-2, 9, -2], [-2, 9, -3], [-3, 9, -2], [1, 1, 1]])
    kept = layer._representatives(part)
    often = layer._often(kept)
    assert sorted(map(tuple, np.sort(kept, axis=1))) == [(-3, -2, 9), (-2, -2, 9), (1, 1, 1)]
    assert sorted(often) == [1, 3, 6]
    whole = np.unique(np.vstack([part[:, list(p)] for p in itertools.permutations(range(3))]), axis=0)
    assert sorted(layer._often(layer._representatives(whole))) == [1, 3, 6]


@pytest.mark.parametrize("t", [4.0, 5.0, 5.5, 7.0])
def test_integrals_at_kernels_of_nearly_one_field(t):
    """The classes share almost all of their field, and few values of it matter to a node."""
    order = uncoded(problem_of(mf.Network("sigmoid", 2), mf.class_task(targets=[1, -1], n_samples=100), 0.1)[0])
    n, root = np.full(2, 50.0), 0.1 * t * np.array([[1.0], [-1.0]])
    given = Setting(root, order.kernel[0], order.d[0], np.zeros(2))
    found = [Layer(SIGMOID, n, rule, True).evaluate(given)[0] for rule in (FINE, CHECK, COARSE)]
    for other, accuracy in zip(found[1:], (1e-9, 1e-3)):
        assert other.log_z == pytest.approx(found[0].log_z, abs=accuracy)
        np.testing.assert_allclose(other.kernel, found[0].kernel, atol=accuracy)


@pytest.mark.parametrize(("depth", "samples"), [(2, 1e8), (3, 1e2), (3, 1e6), (3, 1e7)])
def test_newton_takes_few_steps_at_any_number_of_samples(depth, samples):
    steps = []  # "newton", or "chord" where the second derivatives are those of the step before

    def step_done(stage, step, residual):
        steps.append(stage)

    task = mf.class_task(targets=[1, -1], n_samples=samples)
    post = solve_deep(mf.Network("sigmoid", depth), task, 0.01, second=False, competitors=False, progress=step_done)
    assert post.status == "optimal"
    assert steps.count("newton") <= 8
    assert steps.count("chord") <= 2
