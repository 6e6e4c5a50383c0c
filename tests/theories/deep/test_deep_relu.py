"""Deep networks of rectifiers: reference values, limits, and what is refused."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import quad

import meanfield as mf
from meanfield.posterior.posterior import NotAvailable
from meanfield.symbolic import rectifiers as derived
from meanfield.symbolic.deep import LayerAverage
from meanfield.theories.deep.relu.average import CHECK, COARSE, FINE, bulk
from meanfield.theories.deep.relu.classes import order_of
from meanfield.theories.deep.relu.compiled.site import site
from meanfield.theories.deep.relu.coordinates import ReluOrder
from meanfield.theories.deep.relu.newton import newton
from meanfield.theories.deep.relu.nonlinearity import RECTIFIER
from meanfield.theories.deep.relu.outlier import condensed, worst_direction
from meanfield.theories.deep.relu.reduction import relu_problem
from meanfield.theories.deep.relu.search.narrow import branch_end, narrowed
from meanfield.theories.deep.relu.search.start import chain_start
from meanfield.theories.deep.relu.setting import ReluSetting, factor
from meanfield.theories.deep.relu.stability import gradient
from meanfield.theories.deep.relu.system import ReluSystem

TASK = mf.class_task(targets=[1, -1], n_samples=100)
TWO = mf.Network("relu", depth=2)


@pytest.fixture(scope="module")
def limit():
    return mf.solve(TWO, TASK, 0.05)


@pytest.fixture(scope="module")
def narrow():
    return mf.solve(TWO, TASK, 0.05, width=400)


def system_of(network, task, tau):
    problem, _, _ = relu_problem(network, task, tau)
    n_classes = len(problem.n)
    words = tuple("".join("1" if c == o else "0" for c in range(n_classes)) for o in range(n_classes))
    return ReluSystem(problem, words)


@pytest.mark.parametrize(("b", "h", "d", "delta"), [(0.7, -0.3, 0.4, -0.5), (-2.0, 0.9, 0.2, 0.3), (3.0, -4.0, 1.0, 0)])
def test_the_single_site_function_is_its_integral(b, h, d, delta):
    def integral(f):
        def weight(z):
            x = max(z, 0.0)
            return math.exp(b * x + 0.5 * delta * x * x - 0.5 * (z - h) ** 2 / d) / math.sqrt(2 * math.pi * d) * f(z)

        return sum(quad(weight, *ends, epsabs=0, epsrel=1e-12, limit=200)[0] for ends in ((h - 12, 0), (0, 14)))

    z = integral(lambda _: 1.0)
    mean, square = (integral(lambda z, k=k: max(z, 0.0) ** k) / z for k in (1, 2))
    first, second = (integral(lambda z, k=k: z**k) / z for k in (1, 2))
    expected = [math.log(z), mean, square - mean**2, (first - h) / d, (second - first**2 - d) / d**2]
    np.testing.assert_allclose(site(b, h, d, delta, RECTIFIER.numbers), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("b", "h"), [(-40.0, -3.0), (-9.0, 0.5), (-2.0, -30.0), (5.0, 60.0), (-1.9, -1.6)])
def test_far_tails_keep_their_digits(b, h):
    d, delta, e = 0.4, -0.5, 1e-4

    def g(x, y):
        return site(x, y, d, delta, RECTIFIER.numbers)

    _, gb, gbb, gh, ghh = g(b, h)
    slopes = [(g(b + e, h)[i] - g(b - e, h)[i]) / (2 * e) for i in (0, 1)]
    slopes += [(g(b, h + e)[i] - g(b, h - e)[i]) / (2 * e) for i in (0, 3)]
    np.testing.assert_allclose([gb, gbb, gh, ghh], slopes, rtol=1e-6, atol=2e-8)


def test_two_layers_at_infinite_width(limit):
    s = limit.solution
    np.testing.assert_allclose(s.kernel[0][0], [0.290554, 0.174512], atol=1e-6)
    np.testing.assert_allclose(s.kernel[1][0], [1.65105, 0.26593], atol=1e-5)
    np.testing.assert_allclose(s.d[:, 0], [0.364704, 0.172739], atol=1e-6)
    np.testing.assert_allclose(s.t[:, 0], [0.1430032, -0.1430032], atol=1e-7)
    np.testing.assert_allclose(100 * s.tilde[0][0], [2.020557, -1.744224], atol=1e-5)
    np.testing.assert_allclose(100 * s.delta[0], -1.02785, atol=4e-5)
    np.testing.assert_allclose(s.second_readout, 1.51981, atol=1e-5)
    assert limit.free_energy == pytest.approx(-19.4396, abs=1.5e-4)
    np.testing.assert_allclose(s.bulk_kernel[0][0], [0.19079, 0.17451], atol=1e-5)
    np.testing.assert_allclose(s.bulk_kernel[1][0], [0.62062, 0.26593], atol=1e-5)
    np.testing.assert_allclose(s.outlier_activation[0][0], [0.31586, 0.0], atol=1e-5)
    np.testing.assert_allclose(s.outlier_field[0][0], [0.31911, -0.27547], atol=1e-5)
    np.testing.assert_allclose(s.outlier_activation[1][0], [1.01510, 0.0], atol=1e-5)
    np.testing.assert_allclose(s.outlier_readout[0], 0.72581, atol=1e-5)
    np.testing.assert_allclose(s.outlier_field[1][0], [0.10379, -0.10379], atol=1e-5)
    np.testing.assert_allclose(s.bulk_output[0], 0.2561, atol=1e-4)
    np.testing.assert_allclose(s.outlier_activation[1][0, 0] * s.outlier_readout[0], 0.7368, atol=1e-4)
    # n k~_cc + delta~ = 1 on the outliers of the first layer.
    assert 50 * s.tilde[0][0, 0] + s.delta[0][0] == pytest.approx(1.0, abs=1e-8)
    proof = limit.certificate
    assert proof.residual < 1e-8
    assert proof.global_check


def test_no_direction_is_condensed_but_the_outliers(limit):
    """Ehat <= 0 by brute force: angles in the first layer, a grid of h in the second, z by its definition."""
    s = limit.solution
    for angle in np.linspace(0, 2 * math.pi, 1801):
        b = np.array([math.cos(angle), math.sin(angle)])
        d, delta, tilde = 1.0, s.delta[0][0], s.tilde[0]
        z = np.maximum(b * d / (1 - delta * d), 0.0)
        value = -0.5 * b @ np.linalg.solve(tilde, b) + 50 * (b * z + 0.5 * delta * z**2 - 0.5 * z**2 / d).sum()
        assert value < 1e-6 * abs(b @ np.linalg.solve(tilde, b))
    inverse, grid = np.linalg.inv(s.kernel[0]), np.linspace(-3, 3, 241)
    z = np.linspace(-4, 8, 2401)
    for a in (1.0, -1.0, 0.0):
        best = [(a * t * np.maximum(z, 0) - 0.5 * (z - grid[:, None]) ** 2 / s.d[0][0]).max(axis=1) for t in s.t[:, 0]]
        x, y = np.meshgrid(grid, grid, indexing="ij")
        cost = 0.5 * (inverse[0, 0] * (x**2 + y**2) + 2 * inverse[0, 1] * x * y) + 0.5 * a**2 / 0.1
        value = 50 * (best[0][:, None] + best[1][None, :]) - cost
        assert value.max() < 1e-6
        if a:  # the outlier is on the grid up to its spacing
            assert value.max() > -0.02


def test_an_outlier_is_where_ehat_touches_zero(limit):
    problem, _, _ = relu_problem(TWO, TASK, 0.05)
    s = limit.solution
    setting = ReluSetting(math.sqrt(0.1) * s.t, problem.n, s.d[0], np.zeros(2), s.kernel[0])
    found = condensed(setting, s.outlier_readout[0] / math.sqrt(0.1))
    np.testing.assert_allclose(found.h, [0.97724, 0.02218], atol=1e-5)
    assert found.gain == pytest.approx(s.outlier_readout[0, 0] ** 2 / 0.1, rel=1e-8)
    assert worst_direction(setting) == pytest.approx(1.0, abs=1e-8)
    assert worst_direction(replace(setting, root=1.01 * setting.root)) > 1.015


def test_the_equations_are_the_stationarity_of_the_action(limit):
    """Phi by differences, for the unknowns of the bulk and of the outputs; outliers enter as multipliers."""
    system = system_of(TWO, TASK.with_(n_samples=100), 0.05)
    s = limit.solution
    roots = [system.setting(ReluOrder(s.kernel[:1], s.d[:1], s.tilde, s.delta, s.t, 0, 0), i).root for i in (0, 1)]
    lower = np.linalg.lstsq(roots[0], s.outlier_field[0].T, rcond=None)[0].T[None]
    top = np.linalg.lstsq(roots[1], s.outlier_field[1].T, rcond=None)[0].T
    order = ReluOrder(s.kernel[:1], s.d[:1], s.tilde, s.delta, s.t, lower, top)
    x = system.pack(order)
    assert system.error(x, CHECK) < 1e-8
    # Without the outliers' multipliers the gradient is that of their constraints: -n_c n_c' phi phi' / 2 on Kbar~ etc.
    step = 1e-5

    def phi(name, move):
        value = getattr(order, name) + move
        return system.free_energy(system.pack(replace(order, **{name: value})), FINE)

    sign = np.array([[1.0], [-1.0]])
    slope = (phi("t", step * sign) - phi("t", -step * sign)) / (2 * step)
    assert slope == pytest.approx(-100 * s.outlier_activation[1][0, 0] * s.outlier_readout[0, 0], rel=1e-5)
    one = np.ones((1, 2))
    slope = (phi("delta", step * one) - phi("delta", -step * one)) / (2 * step)
    assert slope == pytest.approx(-0.5 * 100 * s.outlier_activation[0][0, 0] ** 2, rel=1e-4)
    both = np.array([[[0.0, 1.0], [1.0, 0.0]]])
    slope = (phi("tilde", 1e-6 * both) - phi("tilde", -1e-6 * both)) / 2e-6
    assert abs(slope) < 1e-3 * 2500 * s.kernel[0][0, 1]


def test_finite_width(narrow):
    s = narrow.solution
    np.testing.assert_allclose(s.kernel[0][0], [0.2910, 0.1743], atol=6e-5)
    np.testing.assert_allclose(s.kernel[1][0], [1.6833, 0.3011], atol=6e-5)
    np.testing.assert_allclose(s.d[:, 0], [0.3649, 0.1746], atol=6e-5)
    np.testing.assert_allclose(s.t[0, 0], 0.14335, atol=6e-6)
    np.testing.assert_allclose(s.second_readout[0, 0], 1.5227, atol=6e-5)
    np.testing.assert_allclose(s.outlier_activation[1][0], [0.98, 0.25 / 20], atol=0.005)
    assert narrow.certificate.residual < 1e-8
    assert narrow.width == 400
    assert "N = 400" in narrow.table()


def test_finite_width_table_up_to_3200(narrow):
    """From N = 400 by factors of two."""
    table = {
        800: ([0.2909, 0.1743, 0.3648], [1.6714, 0.2879, 0.1738], 0.14319, 1.5214),
        1600: ([0.2907, 0.1744, 0.3647], [1.6636, 0.2794, 0.1733], 0.14311, 1.5207),
        3200: ([0.2907, 0.1744, 0.3647], [1.6585, 0.2739, 0.1731], 0.14306, 1.5203),
    }
    system, span = system_of(TWO, TASK, 0.05), np.eye(1)
    x = system.pack(order_of(narrow.solution, system, np.arange(2), span))
    for width, (first, second, t, square) in table.items():
        system = ReluSystem(replace(system.problem, width=width), system.words)
        x, size, _ = newton(system, x, FINE, 1e-7, 20, lambda size: None)
        assert size < 1e-7
        order = system.unpack(x)
        layers = [system.layer(order, i, FINE) for i in (0, 1)]
        for layer, values in zip(layers, (first, second)):
            np.testing.assert_allclose([*layer.b_b[0], layer.bb[0]], values, atol=7e-5)
        assert order.t[0, 0] == pytest.approx(t, abs=6e-6)
        assert 0.1 * layers[1].beta_beta[0, 0] == pytest.approx(square, abs=6e-5)
    assert layers[1].barrier > 33.0


def test_a_narrow_network_is_that_of_the_table(limit):
    found = mf.solve(TWO, TASK, 0.05, width=200, warm_start=limit)
    np.testing.assert_allclose(found.solution.kernel[1][0], [1.7033, 0.3235], atol=6e-5)
    np.testing.assert_allclose(found.solution.t[0], 0.14367, atol=6e-6)


def test_the_condensed_part_shrinks_with_the_number_of_samples():
    """P = 60 at N = 3e4: part of the outputs that outliers carry, abar^2, K_1 within minus between classes."""
    s = mf.solve(TWO, TASK.with_(n_samples=60), 0.05, width=3e4).solution
    assert s.outlier_activation[1][0, 0] * s.outlier_readout[0, 0] == pytest.approx(0.570, abs=5.1e-4)
    assert s.outlier_readout[0, 0] ** 2 == pytest.approx(0.412, abs=5.1e-4)
    assert s.kernel[0][0, 0] - s.kernel[0][0, 1] == pytest.approx(0.149, abs=5.1e-4)


def test_one_layer_is_the_single_layer_theory():
    network = mf.Network("relu")
    for task in (TASK, mf.class_task(n_classes=3, n_samples=120)):
        system = system_of(network, task, 0.05)
        x = system.pack(chain_start(system.problem, system.words, 0.75))
        x, _, _ = newton(system, x, COARSE, 1e-6, 30, lambda size: None)
        x, size, _ = newton(system, x, FINE, 1e-12, 10, lambda size: None)
        assert size < 1e-9
        order = system.unpack(x)
        layer = system.layer(order, 0, FINE)
        post = mf.solve(network, task, 0.05)
        _, _, span = relu_problem(network, task, 0.05)
        np.testing.assert_allclose(order.t @ span.T, post.solution.t, atol=1e-8)
        abar = math.sqrt(system.problem.readout_variance) * order.top @ span.T
        np.testing.assert_allclose(sorted((abar**2).sum(1)), sorted(o.weight for o in post.outliers), atol=1e-8)
        assert system.free_energy(x, FINE) / task.n_samples == pytest.approx(post.objective, abs=1e-8)
        assert worst_direction(system.setting(order, 0)) < 1.0 + 1e-8
        # The kernel by the equation of the outputs: that of the single-layer posterior takes the bulk as Gaussian.
        problem = system.problem
        matrix = problem.readout_variance * (layer.b_b * problem.n + np.diag(layer.bb)) + 0.05 * np.eye(len(problem.n))
        np.testing.assert_allclose(matrix @ order.t, problem.y, atol=1e-8)


def test_three_classes_on_coarse_lattices():
    """What fine lattices certify to 2e-9, found again with coarse ones."""
    network, task = mf.Network("relu", 2), mf.class_task(n_classes=3, n_samples=120)
    system = system_of(network, task, 0.05)
    x = system.pack(chain_start(system.problem, system.words, 0.75))
    x, size, _ = newton(system, x, COARSE, 1e-5, 30, lambda size: None)
    assert size < 1e-5
    order = system.unpack(x)
    _, _, span = relu_problem(network, task, 0.05)
    np.testing.assert_allclose(order.kernel[0][0], [0.318206, 0.181096, 0.181096], atol=1e-4)
    np.testing.assert_allclose(order.d[0], 0.366718, atol=1e-4)
    np.testing.assert_allclose((order.t @ span.T)[0], [0.171221, -0.050971, -0.050971], atol=1e-4)
    assert system.free_energy(x, COARSE) == pytest.approx(-27.209760, abs=1e-3)
    # The saddle at N = 5e4 (certified to 2e-10 with fine lattices): the outliers of the last layer are shorter.
    wide = ReluSystem(replace(system.problem, width=5e4), system.words)
    x, size, _ = newton(wide, x, COARSE, 1e-5, 30, lambda size: None)
    assert size < 1e-5
    first, second = (wide.layer(wide.unpack(x), i, COARSE) for i in (0, 1))
    np.testing.assert_allclose(first.b_b[0], [0.31824, 0.18110, 0.18110], atol=1e-4)
    np.testing.assert_allclose(second.b_b[0], [2.12264, 0.91022, 0.91022], atol=1e-3)
    assert (first.barrier, second.barrier) == pytest.approx((55.9, 38.3), abs=0.2)


def test_three_layers_and_no_saddle_at_finite_width(tmp_path):
    """No neuron condenses in the last layer: all of its neurons are bulk, also in files.

    The branch of saddles at finite width ends at N = 2.9e5. Newton from N = infinity finds a solution at N = 400, too:
    the other side of the fold, which is no answer.
    """
    network = mf.Network("relu", 3)
    post = mf.solve(network, TASK, 0.05)
    assert post.status == "optimal"
    assert not post.outliers
    np.testing.assert_allclose(post.solution.bulk_output + 0.05 * post.solution.t, [[1.0], [-1.0]], atol=1e-8)
    assert mf.load(post.save(tmp_path / "three.npz")).free_energy == post.free_energy
    system = system_of(network, TASK, 0.05)
    x = system.pack(order_of(post.solution, system, np.arange(2), np.eye(1)))
    with pytest.raises(mf.ConvergenceError, match=r"ends at N = 2\.9\de\+05, where the outliers of layer 2"):
        narrowed(system, x, 400.0, lambda size: None)


def test_the_branch_of_two_layers_ends_where_nobody_asks(limit):
    """Below the smallest width that is allowed; N has a minimum along the branch there."""
    system = system_of(TWO, TASK, 0.05)
    x = system.pack(order_of(limit.solution, system, np.arange(2), np.eye(1)))
    end = branch_end(system, x)
    assert end == pytest.approx(25.6, rel=0.05)
    with pytest.raises(mf.ConvergenceError, match="ends at N = 25"):
        narrowed(system, x, 20.0, lambda size: None)


def test_drawn_neurons_have_the_kernels_of_the_theory(limit):
    for layer in (1, 2):
        neurons = limit.sample_neurons(800, rng=1, samples_per_class=30, layer=layer)
        bulk = neurons.activations[neurons.code == 0]
        first, second = (bulk[:, neurons.labels == c].mean(axis=1) for c in (0, 1))
        s = limit.solution
        within = s.bulk_kernel[layer - 1][0, 0] + s.d[layer - 1][0] / 30
        for found, expected in ((first**2, within), (first * second, s.bulk_kernel[layer - 1][0, 1])):
            assert abs(found.mean() - expected) < 6 * found.std() / math.sqrt(len(found))
        outliers = neurons.activations[neurons.code > 0] / math.sqrt(800)
        np.testing.assert_allclose(
            [outliers[0][neurons.labels == 0].mean(), outliers[1][neurons.labels == 1].mean()],
            s.outlier_activation[layer - 1][0, 0], rtol=0.03,
        )  # fmt: skip


def test_the_tail_of_the_bulk_is_not_held_against_outliers(limit):
    """No level tells them apart: kernels, outputs and readouts over all neurons are compared, parts are not."""
    chains = mf.sample(TWO, TASK, 30, 0.05, draws=4, warmup=2, chains=1, rng=0, start=limit, progress=False)
    assert {row.group for row in mf.compare(limit, chains).rows} == {"residual", "kernel", "readout"}


def test_what_has_no_answer_is_refused(limit, tmp_path):
    for network, task, word in (
        (TWO, TASK.with_(n_samples=math.inf), "finite n_samples"),
        (TWO, mf.class_task(n_classes=7, n_samples=700), "up to 6 dimensions.*need 8"),
    ):
        with pytest.raises(ValueError, match=word):
            mf.solve(network, task, 0.05)
    with pytest.raises(ValueError, match="width"):
        mf.solve(mf.Network("sigmoid"), TASK, 0.05, width=400)
    with pytest.raises(ValueError, match="width"):
        mf.solve(mf.Network("sigmoid", depth=2), TASK, 0.05, width=400)
    for width in (10, 1e7, math.nan, "wide"):
        with pytest.raises(ValueError, match="width"):
            mf.solve(TWO, TASK, 0.05, width=width)
    with pytest.raises(NotAvailable):
        limit.readout_density([0.0])
    with pytest.raises(ValueError, match="layer"):
        limit.kernel(3)


def test_a_file_that_does_not_fit_is_refused(narrow, tmp_path):
    back = mf.load(narrow.save(tmp_path / "post"))
    assert back.solution.width == 400
    np.testing.assert_array_equal(back.solution.kernel, narrow.solution.kernel)
    for name in ("t", "bulk_output"):
        other = replace(narrow.solution, **{name: 1.01 * getattr(narrow.solution, name)})
        with pytest.raises(ValueError, match="does not belong"):
            mf.load(replace(narrow, solution=other).save(tmp_path / "wrong"))


def test_one_shared_field():
    covariance = np.array([[0.5, 0.1, 0.2], [0.1, 0.4, 0.08], [0.2, 0.08, 0.6]])
    u, spread = factor(covariance)
    np.testing.assert_allclose(np.outer(u, u) + np.diag(spread), covariance, atol=1e-15)
    opposite = np.array([[1.0, -0.1], [-0.1, 2.0]])  # of two classes u may have both signs
    u, spread = factor(opposite)
    np.testing.assert_allclose(np.outer(u, u) + np.diag(spread), opposite, atol=1e-15)
    with pytest.raises(ValueError, match="positively"):
        factor(np.where(np.eye(3) > 0, 1.0, -0.1))


# ---- what is printed --------------------------------------------------------------------------------


@pytest.mark.parametrize(("b", "h", "d", "delta"), [(0.7, -0.3, 0.4, -0.5), (-2.0, 0.9, 0.2, 0.3), (1.5, 2.0, 1.0, 0)])
def test_the_derived_single_site_functions_are_those_that_run(b, h, d, delta):
    narrow, mu, _ = derived.completed_square()
    at = {derived.b: b, derived.h: h, derived.d: d, derived.delta: delta}
    shown = {derived._NARROW: narrow, derived._MU: mu}
    assert float(derived.site_function().subs(shown).subs(at)) == pytest.approx(
        site(b, h, d, delta, RECTIFIER.numbers)[0], abs=1e-13
    )
    z = np.linspace(-6.0, 12.0, 180_001)
    best = np.max(b * np.maximum(z, 0) + delta * np.maximum(z, 0) ** 2 / 2 - (z - h) ** 2 / (2 * d))
    assert float(derived.condensed_site().subs(shown).subs(at)) == pytest.approx(best, abs=1e-7)


def printed(expression, at, arrays, averages, sizes):
    """An equation of `rectifier_equations` in numbers: arrays by name, averages over the bulk by what is averaged."""
    plain = expression.subs(at).subs({x: sizes[str(x)] for x in expression.free_symbols if str(x) in sizes}).doit()

    def average(inside, layer):
        powers = inside.as_powers_dict()
        found = sorted((str(x.base), *map(int, x.indices)) for x, times in powers.items() for _ in range(int(times)))
        name = " ".join(x[0] for x in found)
        return sp.Float(float(averages[int(layer)][name][tuple(i - 1 for x in found for i in x[1:])]))

    def entry(x):
        return sp.Float(float(arrays[re.sub(r"^{(.*)}$", r"\1", str(x.base))][tuple(int(i) - 1 for i in x.indices)]))

    plain = plain.replace(LayerAverage, average)
    return float(plain.replace(lambda x: isinstance(x, sp.Indexed), entry))


def test_the_printed_equations_hold_for_the_solution(limit):
    """Outliers from the maximum over h that is exact, the bulk from the lattices: both sides of every equation."""
    system = system_of(TWO, TASK, 0.05)
    problem, order = system.problem, order_of(limit.solution, system, np.arange(2), np.eye(1))
    root_s = math.sqrt(problem.readout_variance)
    arrays = {"n": problem.n, "t": order.t, "y": problem.y, r"\bar{K}^{(1)}": order.kernel[0], "d^{(1)}": order.d[0]}
    arrays |= {r"\tilde{k}^{(1)}": order.tilde[0], r"\tilde{\delta}^{(1)}": order.delta[0]}
    arrays |= {r"\bar{a}^{(2)}": root_s * order.top}
    averages = {}
    for layer in (1, 2):
        setting, outliers = system.setting(order, layer - 1), order.outliers(layer - 1)
        found = [condensed(setting, beta) for beta in outliers]
        arrays[rf"\bar{{b}}^{{({layer})}}"] = outliers @ setting.root.T
        arrays[rf"\bar{{h}}^{{({layer})}}"] = np.array([one.h for one in found])
        arrays[rf"\hat{{g}}_{{b}}^{{({layer})}}"] = np.array([one.activation for one in found])
        arrays[rf"\hat{{g}}_{{h}}^{{({layer})}}"] = np.array([one.force for one in found])
        inner = bulk(setting, CHECK, outliers, True)
        averages[layer] = {"g_b g_b": inner.b_b, "g_bb": inner.bb, "g_h g_h": inner.h_h, "g_hh": inner.hh}
        averages[layer]["a g_b"] = root_s * inner.beta_b
    sizes = {"tau": 0.05, "s": problem.readout_variance, "sigma_w": 1.0, "C": 2, "n_o": len(system.words)}
    rows = mf.equations(TWO, TASK).stationarity
    assert len(rows) == 8
    for row in rows:
        free = sorted((x for x in row.lhs.indices), key=str)
        for values in np.ndindex(*(1 if str(x) == "q" else 2 for x in free)):
            at = {x: i + 1 for x, i in zip(free, values)}
            left, right = (printed(side, at, arrays, averages, sizes) for side in (row.lhs, row.rhs))
            assert right == pytest.approx(left, abs=2e-6 * max(1.0, abs(left))), (row.lhs, at)


def test_second_order_of_outliers(limit):
    """grad Lambda is the derivative of Phi and of Ehat on outliers; the saddle is a maximum over kernels."""
    proof = limit.certificate
    assert proof.inner_curvature == pytest.approx(0.0361, abs=1e-3)
    assert proof.outer_curvature == pytest.approx(-3.505e-4, abs=5e-6)
    assert proof.curvature_error < 1e-3
    system = system_of(TWO, TASK, 0.05)
    x = system.pack(order_of(limit.solution, system, np.arange(2), np.array([[1.0]])))
    assert np.abs(gradient(system, x, FINE)).max() < 1e-7
    x = x * (1.0 + 1e-3 * np.cos(np.arange(len(x))))

    def lagrangian(x):
        order, total = system.unpack(x), system.free_energy(x, FINE)
        for layer in range(2):
            given = system.setting(order, layer)
            total += sum(0.5 * (condensed(given, beta).gain - beta @ beta) for beta in order.outliers(layer))
        return total

    found = gradient(system, x, FINE)
    for i in range(len(x)):
        step = np.zeros(len(x))
        step[i] = 1e-4 * abs(x[i])
        slope = (lagrangian(x + step) - lagrangian(x - step)) / (2.0 * step[i])
        assert found[i] == pytest.approx(slope, rel=2e-3, abs=1e-6)
