"""The term of order 1/N: second derivatives by single samples, and what follows from their determinant."""

import itertools
import math

import numpy as np
import pytest
from deep_fluctuations import CodesApart, SamplesApart

import meanfield as mf
from meanfield.theories.deep.fluctuations.one_loop import one_loop
from meanfield.theories.deep.fluctuations.sectors import sectors
from meanfield.theories.deep.reduction import Members
from meanfield.theories.deep.system import DeepProblem, Order, System

PHI = mf.Network("sigmoid", 2).activation
CLASSES = np.array([0, 0, 0, 1, 1])
SCALE, K, S, TAU = 1.3, 0.15, 0.7, 0.3
Y = np.array([1.0, -0.4])


def one_vector(c, which=0):
    """Unit vectors over the five samples, on those of one class and with sum zero."""
    vectors = {0: [[1, -1, 0, 0, 0], [1, 1, -2, 0, 0]], 1: [[0, 0, 0, 1, -1]]}
    v = np.array(vectors[c][which], dtype=float)
    return v / np.linalg.norm(v)


class Samples:
    """Phi of two layers and five samples as a function of all K, K~ and t, by a tensor product of quadratures."""

    def __init__(self, order):
        x, w = np.polynomial.hermite_e.hermegauss(10)
        self.x = np.stack(np.meshgrid(*[x] * 5, indexing="ij"), -1).reshape(-1, 5)
        self.log_w = np.log(np.stack(np.meshgrid(*[w / w.sum()] * 5, indexing="ij"), -1)).sum(-1).ravel()
        self.first = PHI(math.sqrt(K) * self.x)
        at = np.ix_(CLASSES, CLASSES)
        self.kernel = order.kernel[0][at] + np.diag(order.d[0][CLASSES])
        self.tilde = order.tilde[0][at] + np.diag(order.delta[0][CLASSES])
        self.t = order.t[CLASSES, 0]

    def phi(self, change):
        kernel, tilde, t = (a + b for a, b in zip((self.kernel, self.tilde, self.t), change))
        one = np.logaddexp.reduce(self.log_w + 0.5 * ((self.first @ tilde) * self.first).sum(1))
        second = PHI(self.x @ np.linalg.cholesky(SCALE * kernel).T)
        two = np.logaddexp.reduce(self.log_w + 0.5 * S * (second @ t) ** 2)
        return one + two - 0.5 * np.trace(tilde @ kernel) - t @ Y[CLASSES] + 0.5 * TAU * t @ t

    def hessian(self, directions, step=5e-4):
        def at(*parts):
            return self.phi([sum(size * directions[i][k] for i, size in parts) for k in range(3)])

        size = len(directions)
        found, middle = np.empty((size, size)), at((0, 0.0))
        for i, j in itertools.combinations_with_replacement(range(size), 2):
            if i == j:
                value = (at((i, step)) - 2.0 * middle + at((i, -step))) / step**2
            else:
                signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
                value = sum(a * b * at((i, a * step), (j, b * step)) for a, b in signs) / (4.0 * step**2)
            found[i, j] = found[j, i] = value
        return found


def small_order():
    """Order parameters of no saddle, and not symmetric."""
    return Order(
        np.array([[[0.06, 0.03], [0.03, 0.05]]]), np.array([[0.05, 0.04]]), np.array([[[0.5, -0.3], [-0.3, 0.4]]]),
        np.array([[-0.2, -0.1]]), np.array([[0.8], [-0.5]]),
    )  # fmt: skip


@pytest.fixture(scope="module")
def found():
    order = small_order()
    problem = DeepProblem(PHI, 2, np.array([3.0, 2.0]), Y[:, None], TAU, S, k=K, scales=(SCALE,))
    system = System(problem, distinct=True)
    layers = [system.averages(order, i, curvature=True, samples=True)[0] for i in range(2)]
    return {sector.name: sector for sector in sectors(system, layers)}, Samples(order)


@pytest.mark.parametrize(("c", "which"), [(0, 0), (0, 1), (1, 0)])
def test_perturbations_of_samples_of_one_class(found, c, which):
    sector, u = found[0][f"samples of class {c}"], one_vector(c, which)
    none, nowhere = np.zeros((5, 5)), np.zeros(5)
    shapes = []
    for e in range(2) if c == 0 else range(1):  # of two samples the kernel between them has no part of this kind
        one = np.outer(u, e == CLASSES)
        shapes.append(one + one.T)
    shapes.append(np.diag(u))
    directions = [(a, none, nowhere) for a in shapes] + [(none, a, nowhere) for a in shapes] + [(none, none, u)]
    np.testing.assert_allclose(sector.hessian, found[1].hessian(directions), atol=3e-5)
    assert sector.outer.tolist() == [True] * len(shapes) + [False] * (len(shapes) + 1)


def test_perturbations_of_pairs_of_samples(found):
    c, e = 0, 1
    sector = found[0][f"pairs of samples of classes {c} and {e}"]
    one = np.outer(one_vector(c), one_vector(e))
    shape, none, nowhere = one + one.T, np.zeros((5, 5)), np.zeros(5)
    directions = [(shape, none, nowhere), (none, shape, nowhere)]
    np.testing.assert_allclose(sector.hessian, found[1].hessian(directions), atol=3e-5)
    assert sector.multiplicity == 2.0


def test_every_perturbation_is_in_one_sector(found):
    """5 t, and 15 entries each of K and K~."""
    assert sum(sector.multiplicity * len(sector.hessian) for sector in found[0].values()) == 35.0


class OneLayer:
    """One hidden layer, all t_mu apart: Phi'' and averages from a quadrature over the readout."""

    def __init__(self, k, s):
        x, w = np.polynomial.legendre.leggauss(400)
        self.a, self.weight = 9.0 * math.sqrt(s) * x, w * np.exp(-0.5 * (9.0 * x) ** 2)
        z, wz = np.polynomial.hermite_e.hermegauss(60)
        self.value, self.wz = PHI(math.sqrt(k) * z), wz / wz.sum()

    def moments(self, t):
        tilt = np.exp(self.a[:, None, None] * t[:, None] * self.value) * self.wz  # (a, mu, z)
        norm = tilt.sum(-1)
        mean, square = tilt @ self.value / norm, tilt @ self.value**2 / norm
        weight = self.weight * np.exp(np.log(norm).sum(1))
        return weight / weight.sum(), mean, square - mean**2

    def hessian(self, t, tau):
        w, mean, variance = self.moments(t)
        slope = w @ (self.a[:, None] * mean)
        second = (mean * (w * self.a**2)[:, None]).T @ mean - np.outer(slope, slope)
        return second + np.diag((w * self.a**2) @ variance) + tau * np.eye(len(t))

    def observed(self, t):
        """Kernel between samples 0 and 1 (of one class), 0 and 3, on the diagonal, and <a^2>."""
        w, mean, variance = self.moments(t)
        same, other = w @ (mean[:, 0] * mean[:, 1]), w @ (mean[:, 0] * mean[:, 3])
        return np.array([same, other, w @ (mean[:, 0] ** 2 + variance[:, 0]), w @ self.a**2])


def test_one_layer_against_all_samples_apart():
    """The mean of an observable o(t) is moved by o'.x - tr(o'' H^-1) / 2, x = -H^-1 L', L = - ln det H / 2."""
    k, s, tau = 0.8, 0.9, 0.2
    problem = DeepProblem(PHI, 1, np.array([3.0, 2.0]), Y[:, None], tau, s, k=k)
    system = System(problem)
    t = np.array([[0.5], [-0.7]])
    for _ in range(60):
        t = 0.5 * t + 0.5 * system.readout_order(system.averages(Order(*[np.empty((0, 2))] * 4, t), 0)[0])
    empty = np.empty((0, 2, 2)), np.empty((0, 2))
    loop = one_loop(system, Order(*empty, *empty, t), Members(np.arange(2), np.ones(2)))
    exact, at, step = OneLayer(k, s), t[CLASSES, 0], 2e-3
    unit = step * np.eye(5)

    def determinant(x):
        return -0.5 * np.linalg.slogdet(exact.hessian(x, tau))[1]

    inverse = np.linalg.inv(exact.hessian(at, tau))
    move = -inverse @ [(determinant(at + e) - determinant(at - e)) / (2 * step) for e in unit]
    np.testing.assert_allclose(loop.t[CLASSES, 0], move, rtol=2e-5)
    np.testing.assert_allclose(loop.log_determinant, determinant(at), rtol=1e-8)
    change = move @ [(exact.observed(at + e) - exact.observed(at - e)) / (2 * step) for e in unit]
    for i, j in itertools.product(range(5), repeat=2):
        ends = [exact.observed(at + a * unit[i] + b * unit[j]) * a * b for a in (1, -1) for b in (1, -1)]
        change = change - 0.5 * inverse[i, j] * sum(ends) / (4 * step**2)
    kernel, d = loop.kernel[0], loop.d[0]
    own = [kernel[0, 0], kernel[0, 1], kernel[0, 0] + d[0], loop.second_readout]
    np.testing.assert_allclose(own, change, rtol=2e-4)


@pytest.fixture(scope="module")
def solved():
    network = mf.Network("sigmoid", 2, readout_exponent=0.5)
    return mf.solve(network, mf.class_task(targets=[1, -1], n_samples=100), 0.05)


def test_face(solved):
    loop = solved.one_loop()
    assert loop.stable
    assert set(loop.curvatures) == {"classes", "samples of class 0", "samples of class 1"} | {
        f"pairs of samples of classes {pair}" for pair in ("0 and 0", "0 and 1", "1 and 1")
    }
    assert "stable" in repr(loop)
    wide, narrow = loop.at(1e9), loop.at(100)
    np.testing.assert_allclose(wide.kernel, solved.solution.kernel, rtol=1e-6)
    np.testing.assert_allclose(wide.d, solved.solution.d, rtol=1e-6)
    np.testing.assert_allclose(wide.outputs, solved.predictions, rtol=1e-6)
    np.testing.assert_allclose(wide.second_readout, np.trace(solved.solution.second_readout), rtol=1e-6)
    np.testing.assert_allclose(narrow.kernel - solved.solution.kernel, loop.kernel / 100, rtol=1e-6)
    with pytest.raises(ValueError, match="width"):
        loop.at(0)


def test_networks_of_one_hundred_and_two_hundred_neurons(solved):
    """Sampled networks (HMC; L = 2, P = 100, tau = 0.05, exponent 1/2): K1 and K2 within and between, d, <a^2>."""
    sampled = {
        100: ([0.28194, 0.21516, 0.08108, 0.40840, 0.09368, 6.05929], [16, 14, 5, 21, 11, 332]),
        200: ([0.28147, 0.21556, 0.08152, 0.40696, 0.09481, 6.11292], [15, 15, 4, 17, 13, 299]),
    }
    loop = solved.one_loop()
    for width, (value, error) in sampled.items():
        at = loop.at(width)
        first, second = at.kernel
        theory = [first[0, 0], first[0, 1], at.d[0, 0], second[0, 0], second[0, 1], at.second_readout]
        z = (np.array(value) - theory) / (1e-5 * np.array(error))
        assert np.abs(z).max() < 3.5, z


def test_order_of_classes_does_not_matter():
    network, targets, fractions = mf.Network("sigmoid", 2), np.array([[1.0], [-0.4]]), np.array([0.3, 0.7])
    one = mf.solve(network, mf.class_task(fractions, targets=targets, n_samples=60), 0.1).one_loop()
    two = mf.solve(network, mf.class_task(fractions[::-1], targets=targets[::-1], n_samples=60), 0.1).one_loop()
    np.testing.assert_allclose(two.kernel, one.kernel[:, ::-1, ::-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(two.outputs, one.outputs[::-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(two.log_determinant, one.log_determinant, rtol=1e-6)


def test_refused_where_there_is_none():
    task = mf.class_task(targets=[1, -1])
    with pytest.raises(ValueError, match="P = infinity"):
        mf.solve(mf.Network("sigmoid", 2), task, 0.1).one_loop()


def test_given_fractions_do_not_fluctuate(solved):
    """At shares of one half the solution is that of equilibrium, its kernels fluctuate less."""
    frozen = solved.frozen({"10": 0.5, "01": 0.5}).one_loop()
    loop = solved.one_loop()
    np.testing.assert_allclose(frozen.kernel[0], loop.kernel[0], rtol=2e-2)
    assert frozen.log_determinant > loop.log_determinant


def test_sampled_networks_at_their_own_width(tmp_path):
    """With the term of order 1/N the theory is that of 60 neurons; without, it is 20 standard errors away."""
    network, task = mf.Network("sigmoid", 2), mf.class_task(targets=[1, -1], n_samples=40)
    post = mf.solve(network, task, 0.1)
    chains = mf.sample(
        network, task, 60, 0.1, draws=400, thin=3, warmup=300, chains=2, rng=3, start=post, progress=False,
        target_acceptance=0.85,
    )  # fmt: skip
    own = mf.compare(post, chains, one_loop=True)
    assert {row.group for row in own.tested} == {"residual", "kernel"}
    assert any("order 1/N" in note for note in own.notes)
    limit = mf.compare(post, chains, statistics=("residual", "kernel"))
    assert own.max_z < 5.0 < limit.max_z


def test_compare_says_where_there_is_no_such_term():
    network, task = mf.Network("sigmoid"), mf.class_task(targets=[1, -1], n_samples=8)
    post = mf.solve(network, task, 0.1)
    chains = mf.sample(network, task, 20, 0.1, draws=20, warmup=50, chains=2, rng=0, start=post, progress=False)
    with pytest.raises(mf.NotAvailable, match="order 1/N"):
        mf.compare(post, chains, one_loop=True)
    with pytest.raises(ValueError, match="one_loop"):
        mf.compare(post, chains, one_loop="yes")


# Two samples in a class, odd phi, two outputs, layers of different width and scale; kernels without codes, which are
# singular but for little; three layers.
TWO, BOTH = [0.5, 0.5], [[1.0, 0.5], [-0.3, 0.8]]
APART = {
    "odd": (
        mf.Network("erf", 2, readout_exponent=0.5, sigma_w=0.8, layer_sigmas=[1.4], width_ratios=[1.5]), BOTH, 0.7,
    ),
    "no codes": (mf.Network("erf", 2, sigma_a=0.8), [0.6, -0.4], 1.0),
    "three layers": (
        mf.Network("sigmoid", 3, sigma_w=0.8, layer_sigmas=[1.4, 1.1], width_ratios=[1.5, 0.5]),
        [[0.6, 0.5], [-0.3, 0.4]], 1.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_against_all_samples_of_deep_networks_apart(name):
    network, targets, tau = APART[name]
    post = mf.solve(network, mf.class_task(TWO, targets=targets, n_samples=4), tau)
    oracle, loop = SamplesApart(post), post.one_loop()
    _, value, gradient, _, _ = oracle.fluctuations(oracle.saddle)
    assert value == pytest.approx(post.free_energy, abs=1e-5)
    assert np.abs(gradient).max() < 1e-4
    L, kernel, t, square = oracle.one_loop()
    at = np.ix_(oracle.labels, oracle.labels)
    assert loop.log_determinant == pytest.approx(L, abs=3e-4)
    for own, d, other in zip(loop.kernel, loop.d, kernel):
        error = own[at] + np.diag(d[oracle.labels]) - other
        assert np.abs(error).max() < 5e-3 * np.abs(other).max()
    np.testing.assert_allclose(loop.t[oracle.labels], t, atol=2e-3 * np.abs(t).max())
    assert loop.second_readout == pytest.approx(square, rel=1e-3)


def test_given_shares_against_all_samples_of_both_codes_apart():
    """Three layers of sigmoids agree, too, on finer lattices (benchmarks/RESULTS.md)."""
    shares = {"10": 0.6, "01": 0.4}
    task = mf.class_task(targets=[1, -0.8], n_samples=4)
    frozen = mf.solve(mf.Network("erf", 2, sigma_a=0.35, sigma_w=0.8), task, 0.02, fractions=shares)
    oracle, loop = CodesApart(frozen, (0.6, 0.4), spacing=0.5), frozen.one_loop()
    _, value, gradient, _, _ = oracle.fluctuations(oracle.saddle)
    entropy = -sum(p * math.log(p) for p in shares.values())
    assert value + entropy == pytest.approx(frozen.free_energy, abs=2e-4)
    assert np.abs(gradient).max() < 5e-4
    L, kernel, t, square = oracle.one_loop()
    at = np.ix_(oracle.labels, oracle.labels)
    assert loop.log_determinant == pytest.approx(L, abs=5e-4)
    for own, d, other in zip(loop.kernel, loop.d, kernel):
        assert np.abs(own[at] + np.diag(d[oracle.labels]) - other).max() < 4e-3 * np.abs(other).max()
    np.testing.assert_allclose(loop.t[oracle.labels, 0], t[:, 0], rtol=4e-3)
    assert loop.second_readout == pytest.approx(square, rel=4e-3)


def test_classes_of_less_than_two_samples_have_no_kernel_of_their_own():
    post = mf.solve(mf.Network("sigmoid", 2), mf.class_task([0.375, 0.625], targets=[1, -0.4], n_samples=4), 0.3)
    with pytest.raises(mf.ConvergenceError, match="less than two samples"):
        post.one_loop()


def test_slope_of_ln_p_by_the_target_at_many_samples():
    """d ln p(Y) / dy_c = -N n_c <t_c>. The weights of codes change by a factor where t does by 1/P of itself."""
    task = mf.class_task([0.3, 0.7], targets=[1.0, -0.4], n_samples=1000)
    loop, low, high = (
        mf.solve(mf.Network("sigmoid", 2), task.with_(targets=[[y], [-0.4]]), 0.1, rtol=1e-9).one_loop()
        for y in (1.0, 0.999, 1.001)
    )
    slope = (high.log_determinant - low.log_determinant) / 0.002
    assert loop.t[0, 0] == pytest.approx(-slope / 300.0, rel=1e-5)
    np.testing.assert_allclose(low.kernel + high.kernel, 2.0 * loop.kernel, atol=2e-5)  # no noise


def test_split_class_with_turned_outputs():
    network = mf.Network("sigmoid", 2, sigma_w=1.2, layer_sigmas=[0.9], width_ratios=[0.5])
    y, angle = np.array([[1.0, 0.2], [-0.3, 0.8]]), 0.7
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    one, split = (
        mf.solve(network, mf.class_task(p, targets=targets, n_samples=8), 0.3).one_loop()
        for p, targets in (([0.25, 0.75], y), ([0.125, 0.75, 0.125], (y @ turn)[[0, 1, 0]]))
    )
    where = [0, 1, 0]
    np.testing.assert_allclose(split.kernel, one.kernel[:, where][:, :, where], atol=1e-5 * np.abs(one.kernel).max())
    np.testing.assert_allclose(split.t @ turn.T, one.t[where], atol=1e-5 * np.abs(one.t).max())
