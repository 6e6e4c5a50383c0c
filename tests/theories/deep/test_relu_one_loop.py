"""Deep rectifiers at finite width: moments of a sample, averages with outliers, and the term of order 1/N."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import log_ndtr

import meanfield as mf
from meanfield.theories.deep.compiled.generated.site import MOMENTS, ORDERS
from meanfield.theories.deep.relu.average import FINE, slab
from meanfield.theories.deep.relu.compiled.site import site
from meanfield.theories.deep.relu.coordinates import ReluOrder
from meanfield.theories.deep.relu.moments import sample_derivatives, sample_moments
from meanfield.theories.deep.relu.neurons import RayProducts, line, summed
from meanfield.theories.deep.relu.nonlinearity import RECTIFIER
from meanfield.theories.deep.relu.one_loop import ReluLoop
from meanfield.theories.deep.relu.setting import ReluSetting
from meanfield.theories.deep.relu.system import ReluProblem, ReluSystem

TWO, TASK, TAU = mf.Network("relu", 2), mf.class_task(targets=[1, -1], n_samples=100), 0.05


@pytest.mark.parametrize(
    ("b", "h", "d", "delta"),
    [(0.7, -0.3, 0.4, -0.5), (-2.0, 0.9, 0.2, 0.3), (3.0, -4.0, 1.0, 0), (-6.0, 0.5, 0.4, -0.5)],
)
def test_moments_of_a_sample(b, h, d, delta):
    sample = sample_moments(np.array([b]), np.array([h]), d, delta)

    def weight(z, i=0, j=0):
        x = max(z, 0.0)
        tilted = math.exp(b * x + 0.5 * delta * x * x - 0.5 * (z - h) ** 2 / d) / math.sqrt(2 * math.pi * d)
        return tilted * (x - sample.mean[0]) ** i * ((z - h) / math.sqrt(d)) ** j

    def integral(*orders):
        return sum(quad(weight, *ends, orders, epsabs=1e-14, epsrel=1e-11)[0] for ends in ((h - 12, 0), (0, 14)))

    norm = integral()
    assert sample.g[0] == pytest.approx(math.log(norm), rel=1e-10)
    np.testing.assert_allclose(sample.moments[:, 0], [integral(*orders) / norm for orders in MOMENTS], atol=1e-10)


@pytest.mark.parametrize(("b", "h"), [(-40.0, -3.0), (-9.0, 0.5), (5.0, 60.0), (-1.9, -1.6), (1.0, 0.3), (-4.4, 1.0)])
def test_derivatives_of_the_single_site_function(b, h):
    """Against the compiled function, and every higher one against differences of a lower one."""
    d, delta, e = 0.4, -0.5, 2e-3

    def at(x, y):
        g, found = sample_derivatives(np.array([x]), np.array([y]), d, delta)
        return g[0], dict(zip(ORDERS, found[:, 0]))

    g, found = at(b, h)
    own = [g, found[1, 0], found[2, 0], found[0, 1], found[0, 2]]
    np.testing.assert_allclose(own, site(b, h, d, delta, RECTIFIER.numbers), rtol=1e-10, atol=1e-11)
    for i, j in ORDERS:
        for step, lower in (((e, 0.0), (i - 1, j)), ((0.0, e), (i, j - 1))):
            if lower not in ORDERS:
                continue
            ends = {k: at(b + k * step[0], h + k * step[1])[1][lower] for k in (-2, -1, 1, 2)}
            slope = (8.0 * (ends[1] - ends[-1]) - (ends[2] - ends[-2])) / (12.0 * e)
            assert found[i, j] == pytest.approx(slope, rel=1e-6, abs=1e-8)


# ---- second derivatives by all samples apart -------------------------------------------------------------------------


class ThreeSamples:
    """Phi of two layers and three samples, two of them of one class, as a function of all K, K~ and t: an integral over
    all z at once."""

    classes = np.array([0, 0, 1])

    def __init__(self, order, problem):
        x, w = np.polynomial.legendre.leggauss(24)
        z = np.concatenate([5.5 * (x - 1.0), 5.5 * (x + 1.0)])
        self.z = np.stack(np.meshgrid(z, z, z, indexing="ij"), -1).reshape(-1, 3)
        w = np.tile(5.5 * w, 2)
        self.w = (w[:, None, None] * w[:, None] * w).ravel()
        self.phi_z = np.maximum(self.z, 0.0)
        self.problem = problem
        at = np.ix_(self.classes, self.classes)
        self.kernel = order.kernel[0][at] + np.diag(order.d[0][self.classes])
        self.tilde = order.tilde[0][at] + np.diag(order.delta[0][self.classes])
        self.t = order.t[self.classes, 0]

    def _log_mean(self, covariance, exponent):
        prior = -0.5 * ((self.z @ np.linalg.inv(covariance)) * self.z).sum(1)
        norm = math.sqrt(np.linalg.det(2.0 * math.pi * covariance))
        return math.log(self.w @ np.exp(prior + exponent) / norm)

    def phi(self, change):
        p = self.problem
        kernel, tilde, t = (a + b for a, b in zip((self.kernel, self.tilde, self.t), change))
        one = self._log_mean(p.k * np.eye(3), 0.5 * ((self.phi_z @ tilde) * self.phi_z).sum(1))
        two = self._log_mean(p.scales[0] * kernel, 0.5 * p.readout_variance * (self.phi_z @ t) ** 2)
        below = p.ratios[0] * (one - 0.5 * np.trace(tilde @ kernel))
        return below + two - t @ p.y[self.classes, 0] + 0.5 * p.tau * t @ t

    def second(self, first, second, step=2e-3):
        signs = ((1, 1), (1, -1), (-1, 1), (-1, -1))
        ends = [a * b * self.phi([step * (a * x + b * y) for x, y in zip(first, second)]) for a, b in signs]
        return sum(ends) / (4.0 * step**2)


@pytest.mark.parametrize("ratio", [1.0, 2.5])
def test_perturbations_of_samples_of_one_class(ratio):
    n, y = np.array([2.0, 1.0]), np.array([[1.0], [-0.4]])
    problem = ReluProblem(2, n, y, 0.3, 0.7, 0.8, (1.3,), ratios=(ratio, 1.0))
    order = ReluOrder(
        np.array([[[0.5, 0.2], [0.2, 0.4]]]), np.array([[0.4, 0.3]]), np.array([[[0.25, -0.1], [-0.1, 0.2]]]),
        np.array([[-0.3, -0.2]]), np.array([[0.4], [-0.3]]), np.zeros((1, 0, 2)), np.zeros((0, 1)),
    )  # fmt: skip
    loop = ReluLoop(ReluSystem(problem, ()), order)
    sector = loop.sectors(loop.layers(loop.place))[1]
    assert sector.name == "samples of class 0"
    exact, u = ThreeSamples(order, problem), np.array([1.0, -1.0, 0.0]) / math.sqrt(2.0)
    none, nowhere = np.zeros((3, 3)), np.zeros(3)
    other = np.outer(u, exact.classes == 1)  # of two samples the kernel between them has no part of this kind
    shapes = [other + other.T, np.diag(u)]
    directions = [(a, none, nowhere) for a in shapes] + [(none, a, nowhere) for a in shapes] + [(none, none, u)]
    found = np.array([[exact.second(a, b) for a in directions] for b in directions])
    np.testing.assert_allclose(sector.hessian, found, atol=3e-5)


class OneLayer:
    """One hidden layer, five samples and two outliers: ln p(Y) / N as a function of all t_mu and both distances.

    With a source the weight of a neuron is 1 + size times a function of its means and variances of phi and readout.
    """

    classes = np.array([0, 0, 0, 1, 1])

    def __init__(self, problem, walls):
        self.problem = problem
        x, w = np.polynomial.legendre.leggauss(160)
        self.beta, end = 14.0 * x, sum(log_ndtr(-(14.0 * x * sign - wall) / 1.3) for sign, wall in walls)
        self.signs, self.log_w = [sign for sign, _ in walls], np.log(14.0 * w) - 98.0 * x**2 + end

    def log_z(self, beta, log_w, t, source, size):
        a = math.sqrt(self.problem.readout_variance) * beta
        b = (a[:, None] * t).ravel()
        one = sample_moments(b, 0.0 * b, self.problem.k, 0.0)
        g, mean, variance = (x.reshape(-1, 5) for x in (one.g, one.mean, one.moments[MOMENTS.index((2, 0))]))
        weight = log_w + g.sum(1)
        return weight.max() + math.log(np.exp(weight - weight.max()) @ (1.0 + size * source(mean, variance, a)))

    def action(self, x, source, size):
        p, t, sizes = self.problem, x[:5], x[5:]
        found = (1.0 - 2.0 / p.width) * self.log_z(self.beta, self.log_w, t, source, size)
        for sign, r in zip(self.signs, sizes):
            found += self.log_z(np.array([sign * r]), np.array([-0.5 * r**2]), t, source, size) / p.width
        return found - t @ p.y[self.classes, 0] + 0.5 * p.tau * t @ t

    def value(self, x, source=lambda mean, variance, a: 0.0 * a, size=0.0):
        """L."""
        unit, found = 1e-3 * np.eye(7), np.empty((7, 7))
        for i, j in itertools.combinations_with_replacement(range(7), 2):
            ends = [a * b * self.action(x + a * unit[i] + b * unit[j], source, size) for a in (1, -1) for b in (1, -1)]
            found[i, j] = found[j, i] = sum(ends) / 4e-6
        reference = [1.0] * 5 + [-1.0 / self.problem.width] * 2
        return -0.5 * (np.linalg.slogdet(found)[1] - np.log(np.abs(reference)).sum())


@pytest.fixture(scope="module")
def one_layer():
    problem = ReluProblem(1, np.array([3.0, 2.0]), np.array([[1.0], [-0.4]]), 0.2, 0.5, 0.8, width=300.0)
    sizes = np.array([6.0, 7.0])
    order = ReluOrder(
        np.zeros((0, 2, 2)), np.zeros((0, 2)), np.zeros((0, 2, 2)), np.zeros((0, 2)), np.array([[0.5], [-0.7]]),
        np.zeros((0, 2, 2)), np.array([[1.0], [-1.0]]) * sizes[:, None] / math.sqrt(300.0),
    )  # fmt: skip
    exact = OneLayer(problem, ((1.0, 6.0), (-1.0, 7.0)))
    return ReluLoop(ReluSystem(problem, ("10", "01")), order), exact, np.append(order.t[exact.classes, 0], sizes)


def test_fluctuations_of_all_samples_and_outliers(one_layer):
    """L, and its derivatives by t of all samples of a class and by the distances."""
    loop, exact, x = one_layer
    assert loop.value(loop.layers(loop.place)) == pytest.approx(exact.value(x), rel=1e-5)
    slope, _ = loop.gradient(loop.pack(loop.place))
    steps = 2e-2 * np.array(
        [[1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 1]]
    )
    expected = [
        (8.0 * (exact.value(x + s / 2) - exact.value(x - s / 2)) - exact.value(x + s) + exact.value(x - s)) / 0.12
        for s in steps
    ]
    np.testing.assert_allclose(slope, expected, rtol=2e-4)


def test_observables_are_derivatives_by_sources(one_layer):
    loop, exact, x = one_layer
    sources = {
        "same": lambda mean, variance, a: mean[:, 0] * mean[:, 1],
        "other": lambda mean, variance, a: mean[:, 0] * mean[:, 3],
        "diagonal": lambda mean, variance, a: mean[:, 0] ** 2 + variance[:, 0],
        "last": lambda mean, variance, a: mean[:, 3] * mean[:, 4],
        "readout": lambda mean, variance, a: a**2,
    }
    found = loop.explicit(loop.layers(loop.place))
    own = dict(zip(sources, (found[0], found[1], found[0] + found[4], found[3], found[6])))
    for name, source in sources.items():
        size = 3e-4
        slope = (exact.value(x, source, size) - exact.value(x, source, -size)) / (2.0 * size)
        assert own[name] == pytest.approx(slope, rel=2e-3, abs=2e-4), name


def outputs_of(loop):
    """(C m, C m) axes of t, whose coordinates are along any orthonormal basis, as columns."""
    z = loop.pack(loop.place)
    moved = z + np.eye(len(z))[: loop.place.order.t.size]
    return np.array([(loop.unpack(x).order.t - loop.unpack(z).order.t).ravel() for x in moved]).T


def test_outputs_without_targets_and_turned_outputs(one_layer):
    """A second output whose targets vanish, in closed form and on the lattice of two outputs; and both turned."""
    system, place = one_layer[0].system, one_layer[0].place
    order = ReluOrder(
        *(np.zeros((0, 2, 2)), np.zeros((0, 2))) * 2, place.order.t, np.zeros((0, 2, 2)),
        np.array([[1.0], [-1.0]]) * place.size.T / math.sqrt(300.0),
    )  # fmt: skip
    closed = ReluLoop(system, order, unseen=1)
    layers = closed.layers(closed.place)
    slope, moving = closed.gradient(closed.pack(closed.place))
    slope[:2], moving[:2] = outputs_of(closed) @ slope[:2], outputs_of(closed) @ moving[:2]
    for angle in (0.0, 0.7):
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        # The symmetry of the task keeps t in the span of the targets, to which the second output belongs barely.
        y = np.column_stack([system.problem.y[:, 0], [1e-9, -1e-9]]) @ turn
        t, top = (np.pad(x, ((0, 0), (0, 1))) @ turn for x in (order.t, order.top))
        loop = ReluLoop(ReluSystem(replace(system.problem, y=y), system.words), replace(order, t=t, top=top))
        found = loop.layers(loop.place)
        assert loop.value(found) == pytest.approx(closed.value(layers), abs=1e-7)
        np.testing.assert_allclose(loop.explicit(found), closed.explicit(layers), atol=1e-6)
        along, changed = loop.gradient(loop.pack(loop.place))
        back = np.kron(np.eye(2), turn) @ outputs_of(loop)
        along[:4], changed[:4] = back @ along[:4], back @ changed[:4]
        first = [0, 2, 4, 5]
        np.testing.assert_allclose(along[first], slope, atol=1e-6)
        np.testing.assert_allclose(changed[first], moving, atol=1e-6)
        np.testing.assert_allclose(along[[1, 3]], 0.0, atol=1e-7)


def test_readouts_of_an_outlier_across_its_ray():
    """Two outputs: <beta g_b> and <beta beta^T> across the ray, by parts and from matrices on the lattice of h."""
    setting = ReluSetting(
        np.array([[0.3, 0.05], [-0.25, 0.2]]), np.array([3.0, 2.0]), np.array([0.4, 0.3]), np.zeros(2),
        np.array([[0.5, 0.2], [0.2, 0.4]]),
    )  # fmt: skip
    beta = np.array([6.0, 1.5])
    found, unit = slab(setting, beta, FINE), beta / np.linalg.norm(beta)
    across = np.array([[-unit[1]], [unit[0]]])
    by_parts = setting.root.T @ (setting.n[:, None] * found.b_b + np.diag(found.bb))
    np.testing.assert_allclose(found.beta_b, across @ across.T @ by_parts, atol=1e-8)
    nodes = line(setting.root @ beta, setting.root @ across, setting, 40.0)
    products = RayProducts(2, True, True, True, True)
    b = setting.root @ beta + nodes.beta @ (setting.root @ across).T
    total = summed(nodes, b, nodes.beta, setting, products)
    twice = total.twice[0, 0, products.one] / total.plain[products.one]
    np.testing.assert_allclose(found.beta_beta, twice * across @ across.T, atol=1e-8)
    once = total.once[0, products.slopes[:2]] / total.plain[products.one] / setting.n
    np.testing.assert_allclose(found.beta_b, across * once, atol=1e-8)


# ---- the saddle with outliers ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def limit():
    return mf.solve(TWO, TASK, TAU)


@pytest.fixture(scope="module")
def solved(limit):
    return mf.solve(TWO, TASK, TAU, width=800, warm_start=limit)


def test_averages_are_those_of_the_equations(solved):
    system, order = solved._system
    loop = ReluLoop(system, order)
    for layer, found in enumerate(loop.layers(loop.place)):
        other, own = system.layer(order, layer, FINE), found.averages
        for name, value in (("kernel", other.b_b), ("d", other.bb), ("tilde", other.h_h), ("delta", other.hh)):
            np.testing.assert_allclose(getattr(own, name), value, rtol=1e-9, atol=1e-9)
        assert own.log_z == pytest.approx(other.log_z, abs=1e-9)
        np.testing.assert_allclose(found.slope, 0.0, atol=1e-7)


def test_distances_and_order_parameters_together(solved):
    """Second derivatives by the distance of an outlier against differences of the first."""
    system, order = solved._system
    loop = ReluLoop(system, order)
    z, layers = loop.pack(loop.place), loop.layers(loop.place)
    hessian, scale, n = loop.hessian(layers), loop.scales(loop.pack(loop.place)), len(loop.pack(loop.place))
    for i in range(n):
        ends = []
        for sign in (1.0, -1.0):
            moved = z.copy()
            moved[i] += sign * 1e-7 * scale[i]
            ends.append([one.slope.sum() for one in loop.layers(loop.unpack(moved))])
        for layer, row in enumerate(hessian[-2:, i]):
            slope = (ends[0][layer] - ends[1][layer]) / (2e-7 * scale[i] * system.problem.width)
            assert row == pytest.approx(
                slope, rel=1e-4, abs=1e-6 * np.abs(hessian[-2 + layer] * scale).max() / scale[i]
            )


def test_sampled_networks_of_eight_hundred_and_more_neurons(limit, solved):
    """HMC: N = 800 with K1 of the longest chain and K2, t, <a^2> of three pooled, N = 3200."""
    sampled = {
        800: [(0.2921, 2), (0.1741, 2), (0.3633, 3), (1.6806, 11), (0.2948, 14), (0.1738, 3), (0.1442, 2)],
        3200: [(0.2908, 2), (0.1744, 1), (0.3644, 1), (1.6609, 8), (0.2757, 11), (0.1731, 2), (0.1433, 1)],
    }
    for width, rows in sampled.items():
        post = solved if width == 800 else mf.solve(TWO, TASK, TAU, width=width, warm_start=limit)
        loop = post.one_loop()
        assert loop.stable
        at, t = loop.at(width), post.order_parameters["t"] + loop.t / width
        (first, second), d = at.kernel, at.d
        theory = [first[0, 0], first[0, 1], d[0, 0], second[0, 0], second[0, 1], d[1, 0], t[0, 0]]
        value, error = np.array(rows).T
        z = (value - theory) / (1e-4 * error)
        assert np.abs(z).max() < 3.0, z
        np.testing.assert_allclose(loop.limit.kernel, post.solution.kernel, rtol=1e-8)
        np.testing.assert_allclose(loop.limit.second_readout, post.solution.second_readout[0, 0], rtol=1e-8)
        # y = <(s K + tau) t> exactly: what is missing in the product of the means is a covariance of order P / N.
        left = (0.1 * (50.0 * (second[0, 0] - second[0, 1]) + d[1, 0]) + TAU) * t[0, 0] - 1.0
        assert left == pytest.approx(98.0 / (100.0 * width * t[0, 0]), rel=20.0 / width)


@pytest.mark.slow
def test_three_layers_and_sampled_networks_of_two_hundred_neurons():
    """HMC at N = 200: three chains of 300 draws."""
    y = np.array([1.0, 0.5])
    post = mf.solve(mf.Network("relu", 3), mf.class_task(targets=y, n_samples=100), 0.1, width=200)
    found = post.one_loop()
    np.testing.assert_allclose(found.limit.kernel, post.solution.kernel, rtol=1e-7)
    np.testing.assert_allclose(found.limit.d, post.solution.d, rtol=1e-7)
    assert found.stable
    at = found.at(200)
    theory = np.append(at.kernel[:, (0, 0, 1), (0, 1, 1)], (y - at.outputs[:, 0])[None])
    sampled = [
        (0.23200, 0.00056), (0.16091, 0.00029), (0.12531, 0.00063), (0.65036, 0.0026), (0.36523, 0.0015),
        (0.21696, 0.00091), (1.92236, 0.0056), (1.01263, 0.0031), (0.54140, 0.0018), (0.01117, 1.0e-4),
        (-0.01015, 1.4e-4),
    ]  # fmt: skip
    value, error = np.array(sampled).T
    assert np.abs((value - theory) / error).max() < 3.0


def test_where_there_is_no_term(limit, solved):
    with pytest.raises(ValueError, match="width=N"):
        limit.one_loop()
    narrow = mf.solve(TWO, TASK, TAU, width=200, warm_start=limit)
    with pytest.raises(mf.ConvergenceError, match="outliers of layer 2 by 50 % of their distance"):
        narrow.one_loop()
    with pytest.raises(ValueError, match="at width 800, not 400"):
        solved.one_loop().at(400)


def test_a_wide_network_is_read_from_its_file(solved, tmp_path):
    back = mf.load(solved.save(tmp_path / "wide"))
    np.testing.assert_array_equal(back.solution.t, solved.solution.t)
    other = replace(solved.solution, t=1.002 * solved.solution.t)
    with pytest.raises(ValueError, match="does not belong"):
        mf.load(replace(solved, solution=other).save(tmp_path / "wrong"))
