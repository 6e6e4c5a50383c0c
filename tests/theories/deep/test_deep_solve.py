"""Deep theory, from the outside: reference numbers, certificates, posterior of every layer, refusals."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import sympy as sp
from margins import below

import meanfield as mf
from meanfield.posterior.certificate import ConvergenceError
from meanfield.theories.deep import recomputed
from meanfield.theories.deep.codes.states import word_law
from meanfield.theories.deep.coverage import refuses
from meanfield.theories.deep.posterior import DeepPosterior
from meanfield.theories.deep.solve import solve_deep

BINARY = mf.class_task(targets=[1, -1], n_samples=100)


def deep(depth=2, **options):
    return mf.Network("sigmoid", depth, **options)


@pytest.fixture(scope="module")
def two():
    return solve_deep(deep(2), BINARY, 0.01)


@pytest.fixture(scope="module")
def three():
    return solve_deep(deep(3), BINARY, 0.01)


def check(post, layers, t, square, phi, tolerance):
    """Kernels within, between and d of every layer, t, <a^2>, Phi."""
    assert post.status == "optimal"
    assert post.certificate.residual < 1e-6
    for layer, (within, between, d) in enumerate(layers, start=1):
        kernel = post.kernel(layer)
        found = [kernel.block[0, 0], kernel.block[0, 1], kernel.diagonal[0] - kernel.block[0, 0]]
        np.testing.assert_allclose(found, [within, between, d], atol=tolerance)
    assert post.solution.t[0, 0] == pytest.approx(t, abs=20 * tolerance)
    assert np.trace(post.solution.second_readout) / post.task.n_outputs == pytest.approx(square, abs=20 * tolerance)
    assert post.free_energy == pytest.approx(phi, abs=2e-3)


def test_two_layers_exponent_one(two):
    check(two, [(0.30465, 0.19274, 0.06641), (0.48652, 0.01352, 0.00014)], 4.0568, 3.9022, -262.222, 1e-5)
    code = two.codes[0]
    assert {c.pattern: round(c.weight, 9) for c in two.codes} == {"10": 0.5, "01": 0.5}
    assert abs(code.readout[0]) == pytest.approx(1.9728, abs=1e-4)
    assert math.sqrt(code.covariance[0, 0]) == pytest.approx(0.1014, abs=1e-4)
    assert sorted(code.activation) == pytest.approx([0.0137, 0.9863], abs=1e-4)
    assert two.solution.tilde[0][0] == pytest.approx([0.1234, -0.1081], abs=1e-4)
    assert two.solution.delta[0] == pytest.approx([-0.8046] * 2, abs=1e-4)
    first = two.separation(1)
    assert (first["on"][0], first["off"][0]) == pytest.approx((0.729, 0.269), abs=1e-3)
    assert first["kurtosis"][0, 1] == pytest.approx(1.195, abs=1e-3)
    assert two.certificate.inner_curvature > 0 > two.certificate.outer_curvature


def test_three_layers_exponent_one(three):
    layers = [(0.27364, 0.22325, 0.08677), (0.35608, 0.13904, 0.00790), (0.49292, 0.00710, 0.00001)]
    check(three, layers, 3.9539, 3.8076, -241.229, 1e-5)
    assert three.solution.tilde[:, 0].ravel() == pytest.approx([0.1071, -0.1002, 0.0444, -0.0341], abs=2e-4)
    assert three.solution.delta[:, 0] == pytest.approx([-0.3835, -0.5508], abs=1e-4)
    on, off = zip(*((s["on"][0], s["off"][0]) for s in map(three.separation, range(1, 3 + 1))))
    assert on == pytest.approx((0.640, 0.822, 0.9929), abs=3e-3)  # sharper with depth
    assert off == pytest.approx((0.356, 0.170, 0.0071), abs=3e-3)
    # 1.672 where the noise of finitely many samples is taken to be Gaussian
    assert three.separation(1)["kurtosis"][0, 1] == pytest.approx(1.6702, abs=1e-4)
    assert three.separation(2)["kurtosis"][0, 1] == pytest.approx(1.082, abs=5e-4)
    assert three.certificate.inner_curvature > 0 > three.certificate.outer_curvature


def test_two_layers_exponent_one_half():
    post = solve_deep(deep(2, readout_exponent=0.5), BINARY, 0.05)
    check(post, [(0.28106, 0.21591, 0.08187), (0.40591, 0.09592, 0.00413)], 0.62485, 6.15316, -63.712, 3e-5)
    assert abs(post.codes[0].readout[0]) == pytest.approx(2.454, abs=1e-3)
    assert math.sqrt(post.codes[0].covariance[0, 0]) == pytest.approx(0.365, abs=1e-3)


def test_three_layers_exponent_one_third():
    post = solve_deep(deep(3, readout_exponent=1 / 3), BINARY, 0.05)
    layers = [(0.26427, 0.23307, 0.09344), (0.29070, 0.19345, 0.01358), (0.39407, 0.11046, 0.00092)]
    check(post, layers, 0.32203, 7.0422, -39.1628, 3e-5)


@pytest.mark.parametrize(
    ("depth", "samples", "t", "readout", "kappa", "objective"),
    [
        (2, 1600, 3.8897, 1.9335, [0.0187], -2.12886),
        (2, 6400, 3.8664, 1.9279, [0.01028], -2.03307),
        (3, 1600, 3.8569, 1.9256, [0.0050, 0.0712], -2.00624),
    ],
)
def test_many_samples(depth, samples, t, readout, kappa, objective):
    post = solve_deep(deep(depth), BINARY.with_(n_samples=samples), 0.01, second=False, competitors=False)
    assert post.status == "optimal"
    found = [(k[0, 0] - k[0, 1]) / 2 for k in post.solution.kernel[:-1]]
    np.testing.assert_allclose(found, kappa, atol=6e-5)
    assert post.solution.t[0, 0] == pytest.approx(t, abs=1e-4)
    assert abs(post.codes[0].readout[0]) == pytest.approx(readout, abs=1e-4)
    assert post.objective == pytest.approx(objective, abs=1e-5)


def test_finite_samples_run_into_the_saturated_limit():
    limit = solve_deep(deep(2), BINARY.with_(n_samples=math.inf), 0.01)
    assert limit.status == "optimal"
    assert limit.objective == pytest.approx(-0.5 / 0.26, abs=1e-12)
    errors = []
    for samples in (1e3, 1e4, 1e5):
        post = solve_deep(deep(2), BINARY.with_(n_samples=samples), 0.01, second=False, competitors=False)
        errors.append(post.objective - limit.objective)
    assert all(e < 0 for e in errors)
    assert errors[0] / errors[1] > 2.0
    assert errors[1] / errors[2] > 2.0


def test_given_shares_of_the_codes(two):
    """At f = .54 the readouts and t are not those of equilibrium."""
    post = two.frozen({"1-0": 0.54, "0-1": 0.46})
    assert post.status == "optimal"
    assert post.solution.t.ravel() == pytest.approx([3.791, -4.369], abs=1e-3)
    assert {c.pattern: c.weight for c in post.codes} == pytest.approx({"10": 0.54, "01": 0.46})
    # at one half it is equilibrium
    half = two.frozen({"10": 0.5, "01": 0.5})
    np.testing.assert_allclose(half.solution.t, two.solution.t, rtol=1e-7)
    assert half.free_energy == pytest.approx(two.free_energy, abs=1e-6)


def test_shares_that_cannot_be(two):
    with pytest.raises(ValueError, match="must be a real number >= 0"):
        two.frozen({"10": 1.5, "01": -0.5})
    with pytest.raises(ValueError, match="one 0 or 1 for each of the 2 classes"):
        two.frozen({"101": 1.0})
    with pytest.raises(ConvergenceError, match="no neuron is locally stable with code 11"):
        two.frozen({"10": 0.45, "01": 0.45, "11": 0.1})


@pytest.mark.parametrize("layer", [1, 2])
def test_laws_of_a_layer_add_up(two, layer):
    phi = two.network.activation
    z = np.linspace(-7, 7, 4001)
    for code in (None, 0):
        density = two.preactivation_density(code, 0, z, layer=layer)
        assert np.trapezoid(density, z) == pytest.approx(1.0, abs=1e-6)
        if code == 0:
            mean = np.trapezoid(density * phi(z), z)
            assert mean == pytest.approx(two.layer_codes(layer)[0].activation[0], abs=1e-6)
        else:
            square = np.trapezoid(density * phi(z) ** 2, z)
            assert square == pytest.approx(two.kernel(layer).diagonal[0], abs=1e-6)
    value = np.linspace(0.001, 0.999, 4001)
    direct = two.activation_density(0, 1, value, layer=layer)
    inverse = np.interp(value, phi(z), z)
    wanted = two.preactivation_density(0, 1, inverse, layer=layer) / phi.derivative(inverse)
    np.testing.assert_allclose(direct, wanted, rtol=1e-3, atol=1e-3 * direct.max())
    assert sum(c.weight for c in two.layer_codes(layer)) == pytest.approx(1.0, abs=1e-6)


def test_the_law_of_words_is_worked_out_once_for_all_densities(two, monkeypatch):
    calls = []
    monkeypatch.setattr(recomputed, "word_law", lambda *given: calls.append(given[2]) or word_law(*given))
    post, z = replace(two), np.linspace(-6.0, 6.0, 41)
    found = [post.preactivation_density(code, c, z) for code in (0, 1) for c in (0, 1)]
    assert calls == [1]
    wanted = replace(two).preactivation_density(1, 1, z)
    np.testing.assert_allclose(found[-1], wanted, rtol=1e-7, atol=1e-9)


def test_readout_density(two):
    a = np.linspace(-4, 4, 4001)[:, None]
    density = two.readout_density(a)
    assert np.trapezoid(density, a[:, 0]) == pytest.approx(1.0, abs=1e-9)
    assert np.trapezoid(density * a[:, 0] ** 2, a[:, 0]) == pytest.approx(two.solution.second_readout[0, 0], abs=1e-8)


@pytest.mark.statistical
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_drawn_neurons_have_the_kernel_and_the_output_of_the_theory(three, layer):
    n = 20_000
    drawn = three.sample_neurons(n, rng=3, samples_per_class=4, layer=layer)
    phi = drawn.activations
    kernel, wanted = phi.T @ phi / n, three.kernel(layer).matrix(drawn.labels)
    spread = np.std(phi[:, :, None] * phi[:, None, :], axis=0) / math.sqrt(n)
    # Neurons are drawn with repetition of the nodes: allow for it with a factor of two.
    assert below((kernel - wanted) / (2 * spread + 1e-4))
    if layer == 3:
        error = np.std(phi * drawn.readouts, axis=0) / math.sqrt(n)
        assert below((drawn.output - three.predictions[drawn.labels])[:, 0] / (2 * error))
    else:
        assert drawn.readouts.shape == (n, 0)


def test_round_trip_and_table(two, tmp_path):
    again = DeepPosterior.load(two.save(tmp_path / "deep"))
    assert again.table() == two.table()
    assert again.network == two.network
    assert again.task == two.task
    assert again.certificate == two.certificate
    np.testing.assert_array_equal(again.solution.tilde, two.solution.tilde)
    assert again.separation(1)["on"] == pytest.approx(two.separation(1)["on"])
    for word in ("layer 2", "1-0", "independent quadrature", "second order passed", "sigma_a^2 / P^1"):
        assert word in two.table()
    assert repr(two).startswith("<DeepPosterior: 2 layers")


def test_warm_start_is_a_hint(two):
    near = solve_deep(deep(2), BINARY, 0.012, warm_start=two, second=False)
    fresh = solve_deep(deep(2), BINARY, 0.012, second=False)
    np.testing.assert_allclose(near.solution.t, fresh.solution.t, rtol=1e-7)
    other = solve_deep(deep(2), BINARY.with_(n_samples=120), 0.01, warm_start=near.solution, second=False)
    assert other.status == "optimal"


def test_classes_of_equal_targets_are_one():
    split = mf.class_task([0.2, 0.5, 0.3], targets=[1, -1, 1], n_samples=100)
    post = solve_deep(deep(2), split, 0.01, second=False)
    kernel = post.kernel(1).block
    assert kernel[0, 0] == kernel[0, 2] == kernel[2, 2]
    assert {c.pattern for c in post.codes} == {"101", "010"}
    plain = solve_deep(deep(2), BINARY, 0.01, second=False)
    assert post.free_energy == pytest.approx(plain.free_energy, abs=1e-8)


def test_linear_networks_at_finite_temperature():
    """tau -> 0 is the closed form; the certificate is that of the same equations."""
    task = mf.class_task([0.5, 0.25, 0.25], n_samples=100)
    found = [solve_deep(mf.Network("linear", 3), task, tau) for tau in (0.0, 1e-6, 0.1)]
    for post in found:
        assert post.status == "optimal"
        assert post.scheme == "analog"
        assert post.codes == ()
        assert post.certificate.residual < 1e-9
    np.testing.assert_allclose(found[0].solution.kernel, found[1].solution.kernel, atol=1e-5)
    # y = <a phi> + tau t: the outputs follow from the kernel of the last layer.
    post = found[2]
    n, s = 100 * np.array(task.fractions), 100 ** (-1 / 3)
    t, kernel, d = post.solution.t, post.solution.kernel[-1], post.solution.d[-1]
    np.testing.assert_allclose(s * (kernel @ (n[:, None] * t) + d[:, None] * t) + 0.1 * t, task.targets, atol=1e-8)


@pytest.mark.parametrize(
    ("network", "task", "words"),
    [
        (deep(1), BINARY, "for two and more hidden layers"),
        (mf.Network(mf.activation(sp.Abs(sp.Symbol("z", real=True) - 1)), 2), BINARY, "is unbounded"),
        (deep(2, scaling="lazy"), BINARY, "the network is lazy"),
        (deep(2), mf.class_task([0.2, 0.2, 0.2, 0.2, 0.15, 0.05], targets=np.eye(6), n_samples=100), "up to 4 classes"),
        (deep(2, readout_exponent=0.7), BINARY.with_(n_samples=math.inf), "readout exponents 1 and 1 / depth"),
        (deep(2), mf.class_task([0.1, 0.9], targets=[1, -1], n_samples=10), "more than one sample per class"),
        (mf.Network("linear", 2), BINARY.with_(n_samples=2), "more than one sample per class"),
        (deep(2), mf.data_task(np.eye(3), [[1.0], [0.0], [1.0]]), "class tasks only"),
    ],
)
def test_what_is_not_covered_is_refused_in_words(network, task, words):
    assert words in refuses(network, task, 0.1)
    with pytest.raises(ValueError, match=words):
        solve_deep(network, task, 0.1)


@pytest.mark.parametrize("tau", [0.0, 0.2])
def test_one_sample_per_class_is_where_it_is_sent_to(tau):
    """Slightly more samples than one per class: as data, of which linear networks know single samples (tau = 0)."""
    network, task = mf.Network("linear", 2), BINARY.with_(n_samples=2)
    sent = float(re.search(r"n_samples=([\d.]+)", refuses(network, task, tau)).group(1))
    assert 2.0 < sent < 2.00001
    post = solve_deep(network, task.with_(n_samples=sent), tau)
    assert post.status == "optimal"
    if tau == 0.0:
        data = mf.solve(network, mf.data_task(math.sqrt(2.0) * np.eye(2), Y=[[1.0], [-1.0]]))
        np.testing.assert_allclose(post.kernel().matrix([0, 1]), np.asarray(data.kernel()), rtol=1e-5)
        np.testing.assert_allclose(post.solution.t, np.asarray(data.solution.t).reshape(2, 1), rtol=1e-5)
    other = solve_deep(deep(2), task.with_(n_samples=sent), tau or 0.1)
    beyond = solve_deep(deep(2), task.with_(n_samples=2.0 + 2.0 * (sent - 2.0)), tau or 0.1)
    assert other.status == beyond.status == "optimal"
    np.testing.assert_allclose(other.solution.kernel, beyond.solution.kernel, rtol=1e-5)
    np.testing.assert_allclose(other.solution.t, beyond.solution.t, rtol=1e-5)


def test_what_is_covered_is_not_refused():
    assert refuses(deep(3), BINARY, 0.0) is None
    assert refuses(mf.Network("tanh", 2), mf.class_task(targets=[1, 0.2], n_samples=50), 0.1) is None
    assert refuses(mf.Network("linear", 4), BINARY, 0.0) is None
    assert refuses(deep(2), mf.class_task(n_classes=5), 0.0) is None


def test_scales_of_the_weights_are_in_the_equations():
    """A sigmoid of gain g with weights of scale 1 is one of gain 1 with weights of scale g in every layer."""
    task = mf.class_task(targets=[1, -1], n_samples=60)
    scaled = solve_deep(mf.Network("sigmoid", 3, sigma_w=1.3), task, 0.05, second=False)
    steeper = solve_deep(mf.Network(mf.activation("sigmoid", gain=1.3), 3), task, 0.05, second=False)
    assert scaled.status == steeper.status == "optimal"
    np.testing.assert_allclose(scaled.solution.kernel, steeper.solution.kernel, rtol=1e-7)
    assert scaled.free_energy == pytest.approx(steeper.free_energy, abs=1e-7)


@pytest.mark.parametrize("name", ["hard_sigmoid", "logistic"])
def test_other_bounded_activations(name):
    post = solve_deep(mf.Network(name, 2), mf.class_task(targets=[1, -1], n_samples=60), 0.05)
    assert post.status == "optimal"
    assert post.certificate.inner_curvature > 0 > post.certificate.outer_curvature


def test_an_activation_of_the_users():
    import sympy as sp

    z = sp.Symbol("z", real=True)
    phi = sp.Rational(1, 2) + z / (2 * sp.sqrt(1 + z**2))
    post = solve_deep(mf.Network(phi, 2), mf.class_task(targets=[1, -1], n_samples=60), 0.05)
    assert post.status == "optimal"


@pytest.mark.slow
def test_three_classes_exponent_one_half():
    """One-hot, n = 33 each."""
    post = solve_deep(deep(2, readout_exponent=0.5), mf.class_task(n_classes=3, n_samples=99), 0.05, competitors=False)
    layers = [(0.29136, 0.22849, 0.07573), (0.52335, 0.31557, 0.00379)]
    check(post, layers, 0.98740, 3.1696, -91.2917, 2e-5)
    weights = {c.pattern: c.weight for c in post.codes if c.weight > 1e-3}
    assert weights["110"] == pytest.approx(0.312, abs=5e-4)
    assert weights["100"] == pytest.approx(0.0215, abs=5e-4)
