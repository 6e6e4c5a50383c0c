"""Classes that are exchangeable: one shared field, and their conjugate fields by convolution."""

import math

import numpy as np
import pytest
from deep_oracles import Site, Weight, _root, layer_means, plain_averages
from scipy.linalg import block_diag
from scipy.stats import norm, qmc

import meanfield as mf
from meanfield.theories.deep.coverage import refuses, refuses_shares
from meanfield.theories.deep.exchangeable import nodes as exchange_nodes
from meanfield.theories.deep.exchangeable.averages import ExchangeLayer
from meanfield.theories.deep.exchangeable.neurons import class_law, drawn, mean_powers
from meanfield.theories.deep.layers.layer import Layer
from meanfield.theories.deep.layers.products import MeanMoments, pairs_of
from meanfield.theories.deep.layers.rules import CHECK, FINE, Setting
from meanfield.theories.deep.reduction import problem_of
from meanfield.theories.deep.search.coding import coding_branch
from meanfield.theories.deep.solve import solve_deep
from meanfield.theories.deep.symmetry import AllPermutations, exchangeable, symmetry

SIGMOID, TANH = (mf.Network(name, depth=2).activation for name in ("sigmoid", "tanh"))
TWO, THREE = mf.Network("sigmoid", depth=2), mf.Network("sigmoid", depth=3)
FOUR, FIVE = (mf.class_task(n_classes=c, n_samples=100) for c in (4, 5))


def setting(count, tilde, covariance, d, delta):
    """Numbers on the diagonal, beyond those of all entries."""
    root, field = (own * np.eye(count) + other for own, other in (tilde, covariance))
    values, vectors = np.linalg.eigh(root)
    return Setting((vectors * np.sqrt(values)) @ vectors.T, field, np.full(count, d), np.full(count, delta))


CASES = {
    "first layer": (SIGMOID, 3, (0.12, -0.035), (0.0, 0.0), 1.0, -0.4, False),
    "middle layer": (SIGMOID, 3, (0.12, -0.035), (0.06, 0.23), 0.08, -0.4, False),
    "common conjugate": (SIGMOID, 3, (0.12, 0.02), (0.06, 0.23), 0.08, -0.4, False),
    "last layer": (SIGMOID, 3, (0.018, -0.0058), (0.06, 0.23), 0.08, 0.0, True),
    "imaginary field": (TANH, 2, (0.12, -0.05), (0.16, -0.07), 0.3, -0.4, False),
    "imaginary field of the last layer": (TANH, 2, (0.12, -0.05), (0.16, -0.07), 0.3, 0.0, True),
    "waves that cancel": (TANH, 2, (0.131, 0.057), (0.2727, -0.1312), 0.2443, -0.4, False),
    "waves that cancel in the last layer": (TANH, 2, (0.05, 0.03), (0.2727, -0.1312), 0.2443, 0.0, True),
    "classes with one field": (SIGMOID, 3, (0.12, -0.035), (0.0, 0.23), 0.08, -0.4, False),
}


@pytest.mark.parametrize("name", CASES)
def test_layers_against_one_lattice(name):
    phi, count, tilde, covariance, d, delta, last = CASES[name]
    given, n = setting(count, tilde, covariance, d, delta), np.full(count, 25.0)
    exact = Layer(phi, n, CHECK, last).evaluate(given, curvature=True)[0]
    layer = ExchangeLayer(phi, n, CHECK, last)
    assert bool(layer.nodes(given).sectors) == name.startswith("waves")
    found = layer.evaluate(given, curvature=True)[0]
    assert found.log_z == pytest.approx(exact.log_z, abs=2e-9)
    fields = given.covariance.any()
    for part in ("kernel", "d", "tilde", "delta")[: 4 if fields else 2]:
        value = getattr(exact, part)
        np.testing.assert_allclose(getattr(found, part), value, atol=5e-9 * np.abs(value).max())
    entries = np.array([[c == e, c != e] for c, e in pairs_of(count)], dtype=float)
    alike = [entries, np.ones((count, 1))]
    by_root = np.array([np.eye(count).ravel(), (1.0 - np.eye(count)).ravel()]).T
    basis = block_diag(*([by_root, alike[1]] if last else alike), *(alike if fields else []))
    one, other = (basis.T @ averages.curvature @ basis for averages in (exact, found))
    unit = np.sqrt(np.abs(np.diag(one)))
    np.testing.assert_allclose(other / np.outer(unit, unit), one / np.outer(unit, unit), atol=1e-7)


def test_sectors_are_what_waves_sum_to(monkeypatch):
    """Four classes whose imaginary field cancels little, both ways; laws, powers of means and drawn neurons, too."""
    given, n = setting(4, (0.05, -0.0053), (0.347, -0.053), 0.324, 0.0), np.full(4, 25.0)
    found = []
    for most in (np.inf, 0.0):
        monkeypatch.setattr(exchange_nodes, "_WAVES", most)
        layer = ExchangeLayer(TANH, n, FINE, True)
        assert bool(layer.nodes(given).sectors) == (most == 0.0)
        averages, law = layer.evaluate(given, curvature=True)[0], class_law(layer, given)
        shares = [law.weight.sum(axis=(2, 3)) / law.weight.sum(), [orbit.share for orbit in layer.orbits(given)]]
        neurons = drawn(layer, given, 40, np.random.default_rng(0))
        found.append([
            averages.log_z, averages.kernel, averages.tilde, averages.curvature, *shares, mean_powers(layer, given)[0],
            *neurons,
        ])  # fmt: skip
    for waves, sectors in zip(*found):
        np.testing.assert_allclose(sectors, waves, atol=1e-9 * np.abs(waves).max())


@pytest.mark.statistical
@pytest.mark.parametrize("count", [4, 5])
def test_layers_against_plain_monte_carlo(count):
    given, n = setting(count, (0.7, -0.1), (0.3, 0.2), 0.35, -0.3), np.full(count, 2)
    found = ExchangeLayer(SIGMOID, n.astype(float), FINE).evaluate(given)[0]
    mean, error = plain_averages(SIGMOID, n, given, 200_000, seed=count)
    assert abs(mean.pop("log_z") - found.log_z) < 5.0 * error["log_z"]
    for (kind, *at), value in mean.items():
        own = found.kernel[*at] if kind == "kernel" else found.kernel[at[0], at[0]] + found.d[at[0]]
        assert abs(value - own) < 5.0 * error[kind, *at]


@pytest.mark.parametrize(("count", "phi"), [(4, "sigmoid"), (5, "erf")])
def test_one_layer_is_the_single_layer_theory(count, phi):
    network, task = mf.Network(phi), mf.class_task(n_classes=count, n_samples=100)
    one = mf.solve(network, task, 0.1)
    system, found = coding_branch(problem_of(network, task, 0.1)[0], 1e-12)
    assert system.exchanged
    assert system.free_energy(found.x, found.averages) == pytest.approx(100.0 * one.objective, rel=1e-10)
    np.testing.assert_allclose(system.unpack(found.x).t, one.solution.t, atol=1e-9 * np.abs(one.solution.t).max())


@pytest.fixture(scope="module")
def three():
    return solve_deep(THREE, FOUR, 0.1, competitors=False)


@pytest.fixture(scope="module")
def two():
    return solve_deep(TWO, FIVE, 0.1, competitors=False)


def test_four_classes_on_three_layers_are_certified(three):
    proof, o = three.certificate, three.solution
    assert three.status == "optimal"
    assert proof.residual < 1e-9
    assert proof.order_error < 1e-9
    assert proof.inner_curvature > 0.0 > proof.outer_curvature
    outputs = 0.01 * (25.0 * o.kernel[-1] @ o.t + o.d[-1][:, None] * o.t) + 0.1 * o.t
    np.testing.assert_allclose(outputs, np.eye(4), atol=1e-9)
    assert len(three.codes) == 10
    assert sum(code.weight for code in three.codes) == pytest.approx(1.0, abs=1e-6)
    kernel = sum(code.weight * np.outer(code.activation, code.activation) for code in three.codes)
    np.testing.assert_allclose(kernel, o.kernel[-1], atol=0.01)  # codes are narrow


@pytest.mark.statistical
def test_five_classes_against_sobol_points(two):
    """Averages of both layers, by importance sampling over all their fields."""
    s, rng, n = two.solution, np.random.default_rng(1), np.full(5, 20.0)
    off = ~np.eye(5, dtype=bool)
    settings = [
        (_root(s.tilde[0]), np.zeros((5, 0)), np.ones(5), s.delta[0]),
        (0.1 * s.t, _root(s.kernel[0]), s.d[0], np.zeros(5)),
    ]
    assert two.status == "optimal"
    for layer, given in enumerate(settings):
        found, share = layer_means(Weight(SIGMOID, n, *given), rng, scramblings=10, power=10)
        assert share > 0.4
        rows = np.array([
            [np.diag(k).mean(), k[off].mean(), d.mean(), np.diag(tilde).mean(), tilde[off].mean(), delta.mean()]
            for _, k, d, tilde, delta in found
        ])  # fmt: skip
        expected = [s.kernel[layer, 0, 0], s.kernel[layer, 0, 1], s.d[layer, 0]]
        if layer == 1:
            expected += [s.tilde[0, 0, 0], s.tilde[0, 0, 1], s.delta[0, 0]]
        mean, error = rows.mean(axis=0), rows.std(axis=0, ddof=1) / math.sqrt(len(rows))
        for value, wide, own in zip(mean, error, expected):
            assert wide < 1e-2 * abs(own)
            assert abs(value - own) < 5.0 * wide


@pytest.mark.parametrize("layer", [1, 2])
def test_neurons_of_five_classes(two, layer):
    """Means over drawn neurons, densities and codes against the kernels of the theory."""
    s, z = two.solution, np.linspace(-12.0, 12.0, 961)
    neurons = two.sample_neurons(1500, rng=layer, samples_per_class=2, layer=layer)
    for one, other in ((0, 1), (2, 3), (0, 2), (0, 8), (2, 4)):
        product = neurons.activations[:, one] * neurons.activations[:, other]
        error = product.std() / math.sqrt(len(product))
        assert abs(product.mean() - s.kernel[layer - 1][neurons.labels[one], neurons.labels[other]]) < 5.0 * error
    square = s.kernel[layer - 1][2, 2] + s.d[layer - 1][2]
    step = z[1] - z[0]
    density = two.preactivation_density(None, 2, z, layer=layer)
    assert step * density.sum() == pytest.approx(1.0, abs=1e-9)
    assert step * (density * SIGMOID(z) ** 2).sum() == pytest.approx(square, rel=1e-8)
    codes = two.layer_codes(layer)
    assert sum(c.weight * (c.activation_variance[2] + c.activation[2] ** 2) for c in codes) == pytest.approx(square)
    of_code = two.preactivation_density(codes[0], 2, z, layer=layer)
    # Whole nodes belong to a code: where the cut runs on another lattice is worth 3e-7.
    assert step * (of_code * SIGMOID(z)).sum() == pytest.approx(codes[0].activation[2], rel=1e-6)
    sharp = two.separation(layer)
    assert (sharp["on"] > 0.5).all()
    assert (sharp["off"] < 0.5).all()
    assert 1.0 < sharp["kurtosis"][0, 1] < 3.0


def test_kurtosis_is_that_of_one_lattice():
    """Three classes, which `Layer` takes as well; of two parts of a class and of parts of two, by their sizes."""
    given, n = setting(3, (0.12, -0.035), (0.06, 0.23), 0.08, -0.4), np.full(3, 25.0)
    layer, own = Layer(SIGMOID, n, FINE), ExchangeLayer(SIGMOID, n, FINE)
    layer.evaluate(given)

    def expected(index, counts, i, j):
        products = MeanMoments(np.array(index), np.array(counts), np.zeros(len(index)))
        total = layer.totals(given, products).plain
        return (total / total[products.one])[products.powers[:, :, i, j]]

    pieces = [0, 0, 1, 1, 2], [8.0, 17.0, 25.0, 8.0, 17.0]
    whole, parts = mean_powers(own, given), mean_powers(own, given, 8.0, 17.0)
    some = np.add.outer(np.arange(5), np.arange(5)) <= 4
    for found, right in (
        (whole[0], expected([0, 1, 2], n, 0, 1)), (parts[0], expected(*pieces, 0, 4)),
        (parts[1], expected(*pieces, 0, 1)), (parts[0].T, expected(*pieces, 4, 3)),
    ):  # fmt: skip
        np.testing.assert_allclose(found[some], right[some], rtol=1e-8)


def test_saved_and_loaded(two, tmp_path):
    again = mf.load(two.save(tmp_path / "five.npz"))
    np.testing.assert_array_equal(again.solution.kernel, two.solution.kernel)


def test_all_permutations_are_the_group_that_is_found():
    y = np.eye(4) - 0.2
    assert exchangeable(np.full(4, 25.0), y)
    assert not exchangeable(np.array([25.0, 25.0, 25.0, 26.0]), y)
    assert not exchangeable(np.full(4, 25.0), y * np.array([1.0, 1.0, 1.0, 1.1])[:, None])
    every, found = AllPermutations(4, 4), symmetry(np.full(4, 25.0), y)
    rng = np.random.default_rng(0)
    value = rng.normal(size=(4, 4))
    np.testing.assert_allclose(every.matrices(value), found.matrices(value))
    np.testing.assert_allclose(every.vectors(value[0]), found.vectors(value[0]))
    one, other = (group.output_basis(y).reshape(-1, 16) for group in (every, found))
    np.testing.assert_allclose(one.T @ one, other.T @ other, atol=1e-12)
    words = ["1100", "1000"]
    assert every.patterns(words) == [sorted(orbit)[::-1] for orbit in found.patterns(words)]


def test_what_is_refused(two):
    assert refuses(THREE, mf.class_task(n_classes=10, n_samples=100), 0.1) is None
    assert "up to 10 classes that are exchangeable" in refuses(THREE, mf.class_task(n_classes=11, n_samples=100), 0.1)
    six = mf.class_task(n_classes=6, n_samples=120)
    with pytest.raises(ValueError, match=r"shares of codes tell exchangeable classes apart.* got 6"):
        mf.solve(TWO, six, 0.1, fractions=dict.fromkeys(("110000", "001111"), 0.5))
    assert refuses_shares(TWO, FIVE) is None
    with pytest.raises(ValueError, match="up to 3 classes of different targets"):
        two.one_loop()


@pytest.mark.parametrize("fields", [False, True])
def test_words_are_those_of_each_neuron(fields):
    """Shares of words by Sobol points over both fields of all classes; of whole nodes they were 2e-2 off."""
    phi, count, size = mf.Network("sigmoid").activation, 3, 9.0
    ones = np.ones((count, count))
    root = np.linalg.cholesky(0.6 * np.eye(count) - 0.15 * ones)
    covariance = (0.2 * np.eye(count) + 0.1 * ones) * fields
    given = Setting(root, covariance, np.full(count, 0.4), np.full(count, -0.2))
    layer = ExchangeLayer(phi, np.full(count, size), FINE)
    mine = {orbit.active: orbit for orbit in layer.orbits(given)}
    law = class_law(layer, given)
    site, found = Site(phi, 0.4, -0.2), []
    for seed in range(6):
        x = norm.ppf(qmc.Sobol(2 * count, seed=seed).random_base2(12))
        b = x[:, :count] @ root.T
        h = x[:, count:] @ np.linalg.cholesky(covariance + 1e-30 * np.eye(count)).T
        g = np.array([site(b[:, c], h[:, c]) for c in range(count)])
        weight = np.exp(size * g[:, 0].sum(axis=0))
        weight /= weight.sum()
        on = g[:, 1] > 0.5
        active = [float(weight @ (on.sum(axis=0) == k)) for k in range(count + 1)]
        above = [float((weight * g[c, 1] * on[c]).sum() / (weight * on[c]).sum()) for c in range(count)]
        found.append([*active, np.mean(above)])
    mean, error = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
    values = [mine[k].share if k in mine else 0.0 for k in range(count + 1)]
    np.testing.assert_array_less(np.abs([*values, law.on_and_off()[0]] - mean), 5.0 * error + 5e-4)
