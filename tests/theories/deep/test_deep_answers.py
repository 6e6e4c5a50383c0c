"""What a posterior says of its neurons: merged classes, readouts without fields, samples at strong fields, files."""

import contextlib
import itertools
import math
import pickle

import numpy as np
import pytest
from deep_grids import site
from deep_oracles import Cloud, Weight, _root
from scipy.interpolate import CubicSpline
from scipy.special import erfc, erfcx, logsumexp

import meanfield as mf
from meanfield.posterior.certificate import Certificate
from meanfield.posterior.posterior import NotAvailable
from meanfield.theories.deep.certificate import DeepCertificate, SecondOrder
from meanfield.theories.deep.codes.single_samples import drawn_samples, sample_means
from meanfield.theories.deep.codes.states import layer_nodes, mean_kurtosis
from meanfield.theories.deep.reduction import problem_of
from meanfield.theories.deep.system import System

THREE = [0.2, 0.3, 0.5]


def test_kurtosis_of_classes_that_hardly_differ():
    """A saturated layer of nearly equal targets: raw moments cancelled down to 7.34 and, the other way round, 7.45."""
    network = mf.Network("sigmoid", 2, layer_sigmas=(1.2,), width_ratios=(0.6,))
    task = mf.class_task([0.65, 0.35], targets=[0.4, 0.43], n_samples=7509)
    post = mf.solve(network, task, 0.5)
    s, n, rng = post.solution, 7509 * np.array([0.65, 0.35]), np.random.default_rng(0)
    spread = _root(1.44 * s.kernel[0])
    weight = Weight(network.activation, n, s.t / math.sqrt(7509), spread, 1.44 * s.d[0], np.zeros(2))
    centre, covariance, height = weight.maxima(rng)
    cloud = Cloud(np.exp(height - height.max()), centre, 1.5 * covariance)
    x = cloud.draw(14, rng)
    g = weight.sites_at(x)
    log = weight.log(x, g) - logsumexp(cloud.logs(x), axis=1)
    share = np.exp(log - logsumexp(log))
    mean, variance = g[1, 0] - g[1, 1], (g[2] / n[:, None]).sum(axis=0)
    apart = mean - share @ mean
    second = share @ (apart**2 + variance)
    fourth = share @ (apart**4 + 6 * apart**2 * variance + 3 * variance**2)  # skewness of so many samples aside
    found = post.separation(2)["kurtosis"]
    assert found[0, 1] == pytest.approx(found[1, 0], rel=1e-8)
    assert found[0, 1] == pytest.approx(fourth / second**2, rel=1e-2)


@pytest.mark.parametrize(
    ("phi", "fractions", "targets"),
    [("sigmoid", THREE, [1, 1, -1]), ("tanh", THREE, [1, -1, 0]), ("tanh", [0.2, 0.8], [1, -1])],
    ids=["equal targets", "opposite targets", "two opposite classes"],
)
def test_kurtosis_has_the_sizes_of_the_classes_of_the_task(phi, fractions, targets):
    """Classes are taken together where they are solved; every class apart knows nothing of that. Of all samples of both
    sigmoid classes 1.2753 was given in layer 1 for 1.3014, and NaN between them."""
    network, task = mf.Network(phi, 2), mf.class_task(fractions, targets=targets, n_samples=40)
    post = mf.solve(network, task, 0.1)
    problem, alike = problem_of(network, task, 0.1, merge=False)
    system = System(problem)
    order = alike.order(post.solution)
    for layer in (0, 1):
        layer_nodes(system, order, layer)
        wanted = mean_kurtosis(system, order, layer, alike, problem.n, np.zeros(len(problem.n)))
        found = post.separation(layer + 1)["kurtosis"]
        apart = ~np.eye(len(fractions), dtype=bool)
        np.testing.assert_allclose(found[apart], wanted[apart], rtol=1e-6)
        assert np.isnan(np.diag(found)).all()


def test_readouts_that_no_class_sees_are_as_under_the_prior():
    """Two outputs of equal targets: of the difference of their readouts nothing was drawn, and its variance is s."""
    task = mf.class_task(targets=[[1, 1], [-1, -1]], n_samples=40)
    post = mf.solve(mf.Network("sigmoid", 2), task, 0.1)
    a = post.sample_neurons(20_000, rng=0, samples_per_class=1).readouts
    apart = a[:, 0] - a[:, 1]
    assert np.mean(apart**2) == pytest.approx(2.0 / 40, rel=0.04)
    second = post.readout_covariance + np.outer(*[sum(code.weight * code.readout for code in post.codes)] * 2)
    np.testing.assert_allclose(a.T @ a / len(a), second, atol=0.02)


@pytest.mark.parametrize("field", [1.0, 8.0, 60.0, 900.0])
def test_samples_at_strong_fields_are_on_their_side_of_a_jump(field):
    """Of a step the law is two halves of a Gaussian in closed form; on a fixed grid .2 % were on the wrong side."""
    h, d, rng = -0.5, 2.0, np.random.default_rng(0)
    z, mean = drawn_samples(mf.activation("step"), np.full(2000, field), np.full(2000, h), d, 0.0, 20, rng)
    x = h / math.sqrt(2.0 * d)
    odds = math.exp(min(field, 700.0)) * erfc(-x) / erfc(x)
    assert mean[0] == pytest.approx(odds / (1.0 + odds), rel=1e-12)
    assert np.mean(z > 0.0) == pytest.approx(mean[0], abs=4.0 * math.sqrt(mean[0] * (1.0 - mean[0]) / z.size) + 1e-12)
    above = h + math.sqrt(2.0 * d / math.pi) / erfcx(-x)
    assert z[z > 0.0].mean() == pytest.approx(above, abs=0.02)


@pytest.mark.parametrize("name", ["sigmoid", "hard_sigmoid", "tanh"])
def test_samples_at_strong_fields(name):
    """Moments of z and phi(z), by a plain fine grid; neurons of all fields h together."""
    phi, rng = mf.activation(name), np.random.default_rng(1)
    b, h, d, delta = rng.normal(0.0, 60.0, 200), rng.normal(0.0, 1.0, 200), 0.1, -0.4
    z, mean = drawn_samples(phi, b, h, d, delta, 100, rng)
    x = np.linspace(-12.0, 12.0, 24_001)
    log = b[:, None] * phi(x) + 0.5 * delta * phi(x) ** 2 - 0.5 * (x - h[:, None]) ** 2 / d
    w = np.exp(log - log.max(axis=1, keepdims=True))
    w /= w.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(mean, w @ phi(x), atol=1e-5)
    np.testing.assert_array_equal(mean, sample_means(phi, b, h, d, delta))
    for value, wanted in ((z, w @ x), (z**2, w @ x**2), (phi(z), w @ phi(x)), (phi(z) ** 2, w @ phi(x) ** 2)):
        apart = value - wanted[:, None]
        assert abs(apart.mean()) < 4.0 * apart.std() / math.sqrt(apart.size)


def test_certificates_are_equal_after_a_file(tmp_path):
    """Numbers that were not computed are NaN, and equal."""
    post = mf.solve(mf.Network("sigmoid", 2), mf.class_task(targets=[1, -1], n_samples=40), 0.1)
    again = mf.load(post.save(tmp_path / "one")), pickle.loads(pickle.dumps(post))
    for one, other in itertools.pairwise([post, *again]):
        assert one.certificate == other.certificate
        assert hash(one.certificate) == hash(other.certificate)
    changed = DeepCertificate.of(0.0, 0.0, 0.0, SecondOrder(1.0, math.nan))
    assert changed == DeepCertificate.of(0.0, 0.0, 0.0, SecondOrder(1.0, float("nan")))
    assert changed != DeepCertificate.of(0.0, 0.0, 0.0, SecondOrder(math.nan, math.nan))
    assert changed != Certificate(0.0, math.nan, math.nan, False, True)


def test_a_code_that_is_lost_on_the_way_may_be_stable():
    """From planted codes 010 had no maximum on the way; at the shares of equilibrium the answer is that of it."""
    network, task = mf.Network("tanh", 2, readout_exponent=0.5), mf.class_task(targets=[1, -0.4, 0.3], n_samples=3000)
    post = mf.solve(network, task, 0.1)
    given = post.frozen({"010": 0.5, "101": 0.5})
    assert given.free_energy == pytest.approx(post.free_energy, abs=1e-6)
    np.testing.assert_allclose(given.solution.t, post.solution.t, rtol=1e-4)


def test_stability_is_refused_where_t_vanishes():
    """At P = infinity and the exponent 1/L; it was 0 for every code."""
    post = mf.solve(mf.Network("tanh", 2, readout_exponent=0.5), mf.class_task(targets=[1, -0.4]), 0.1)
    with pytest.raises(ValueError, match="t vanishes"):
        post.stability()


def test_drawn_rectifiers_have_the_tail_of_the_bulk():
    """Chains of 200 sweeps from rest had not got there: the kernel was 1.8 for 3.1, <a^2> .7 for 1.3."""
    task = mf.class_task(targets=[[1, 1, 0.5], [-1, 0.4, 0.2]], n_samples=160)
    post = mf.solve(mf.Network("relu", 2), task, 0.1)
    kernel = post.kernel().elements
    wanted = np.array([kernel[0, 0], kernel[0, 1], kernel[1, 1], *post.solution.second_readout.ravel()])
    found, outputs = [], []
    for seed in range(6):  # neurons of one draw are not independent
        neurons = post.sample_neurons(2000, rng=seed, samples_per_class=4)
        phi, a, at = neurons.activations, neurons.readouts, neurons.labels
        one, other = phi[:, at == 0], phi[:, at == 1]
        pairs = [one[:, ::2] * one[:, 1::2], one.mean(1) * other.mean(1), other[:, ::2] * other[:, 1::2]]
        found.append([*(pair.mean() for pair in pairs), *(a.T @ a / len(a)).ravel()])
        outputs.append([a.T @ one.mean(1) / len(a), a.T @ other.mean(1) / len(a)])
    error = np.std(found, axis=0, ddof=1) / math.sqrt(len(found))
    assert (np.abs(np.mean(found, axis=0) - wanted) < 4.0 * error + 1e-12).all()
    assert (error < 0.05 * np.abs(wanted)).all()
    np.testing.assert_allclose(np.mean(outputs, axis=0), post.predictions, atol=0.1)


def test_codes_add_up_where_own_fields_are_strongly_tilted(tmp_path):
    """exp(n g) takes the own fields of a class further than 7.5 of their standard deviations: <phi^2> of the codes was
    2.7e-3 off that of the layer, a light code by 4 %, and the file was refused as none of this solution."""
    task = mf.class_task([0.2, 0.38, 0.42], targets=[[-0.51, -0.33], [-0.36, -0.22], [0.6, -0.82]], n_samples=600)
    post = mf.solve(mf.Network("sigmoid", 2, sigma_a=0.7, sigma_w=1.25, readout_exponent=0.5), task, 0.02)
    s = post.solution
    square = s.weight @ (s.activation**2 + s.activation_variance)
    np.testing.assert_allclose(square, post.kernel().diagonal, atol=5e-5)
    assert mf.load(post.save(tmp_path / "tilted")).certificate == post.certificate


def test_few_samples_of_a_step_are_binomial():
    """Of two samples one is at the midpoint, and inactive: the mean is no normal variable (00 .006, 11 .009)."""
    task = mf.class_task([0.4, 0.6], targets=[1, -0.6], n_samples=50)
    post, counts = mf.solve(mf.Network("step", 2), task, 0.2), [3, 2]
    told = {code.pattern: code.weight for code in post.by_activation(counts).codes}
    neurons = post.sample_neurons(40_000, rng=0, samples_per_class=counts)
    active = np.stack([neurons.activations[:, neurons.labels == c].mean(axis=1) > 0.5 for c in (0, 1)], axis=1)
    for pattern, share in told.items():
        drawn = (active == [letter == "1" for letter in pattern]).all(axis=1).mean()
        assert drawn == pytest.approx(share, abs=4.0 * math.sqrt(share / 40_000))


def test_codes_of_long_cells_and_of_opposed_forces(tmp_path):
    """Nodes of layer 1 are ten times nearer along one axis than along the other, across which classes are cut: 10 had
    .601. In layer 2 forces of a thousand nats pull one field in opposite directions: 11 had .930 and <phi> = .998."""
    network = mf.Network("sigmoid", 2, readout_exponent=0.5, layer_sigmas=(1.2,), width_ratios=(0.6,))
    post = mf.solve(network, mf.class_task([0.65, 0.35], targets=[-1.34, -1.4], n_samples=270145), 0.02)
    s, n = post.solution, 270145 * np.array([0.65, 0.35])
    along, across = np.meshgrid(np.arange(-27.0, 46.0, 0.1), np.arange(-60.0, 70.0, 0.1), indexing="ij")
    beta = np.stack([along.ravel(), across.ravel()], axis=1)
    values, vectors = np.linalg.eigh(s.tilde[0])
    b = beta @ (vectors * np.sqrt(values)) @ vectors.T
    log, mean = -0.5 * (beta**2).sum(axis=1), []
    for c in range(2):
        line = np.linspace(b[:, c].min(), b[:, c].max(), 400)
        g, g_b = (part[:, 0] for part in site(network.activation, line, np.zeros(1), 1.0, s.delta[0, c])[:2])
        log += n[c] * CubicSpline(line, g)(b[:, c])
        mean.append(CubicSpline(line, g_b)(b[:, c]))
    share = np.exp(log - logsumexp(log))
    assert post.kernel(1).block[0, 1] == pytest.approx(share @ (mean[0] * mean[1]), abs=1e-10)
    found = {code.pattern: code.weight for code in post.layer_codes(1)}
    for word, weight in found.items():
        on = [one > 0.5 if bit == "1" else one < 0.5 for bit, one in zip(word, mean)]
        assert weight == pytest.approx(float(share @ (on[0] & on[1])), abs=1e-3)
    assert len(found) == 4
    assert found["10"] < 0.49
    (code,) = post.codes
    assert code.pattern == "11"
    assert post.certificate.cuts[0].share < 1e-4
    square = code.activation**2 + post.solution.activation_variance[0]
    assert square == pytest.approx(np.diag(s.kernel[1]) + s.d[1], rel=1e-6)
    assert mf.load(post.save(tmp_path / "post.npz")).codes[0].weight == code.weight


def test_what_an_answer_lacks_it_refuses_in_words():
    """Bounded, rectified and linear deep networks, and P = infinity: no public name of one is unknown to another."""
    task = mf.class_task([0.5, 0.5], targets=[1, -1], n_samples=100)
    posts = [
        mf.solve(mf.Network(phi, 2), given, 0.1)
        for phi, given in (
            ("sigmoid", task), ("relu", task), ("linear", task), ("sigmoid", task.with_(n_samples=math.inf)),
        )
    ]  # fmt: skip
    names = {name for post in posts for name in dir(post) if not name.startswith("_")}
    missing = [(post.network.activation.name, name) for post in posts for name in names if name not in dir(post)]
    assert missing == []
    assert [post.width for post in posts] == [math.inf] * 4
    for post, name in itertools.product(posts, ("layer_codes", "separation", "stability", "layer_bulk", "uncoded_end")):
        with contextlib.suppress(NotAvailable):
            getattr(post, name)()
    with pytest.raises(NotAvailable, match=r"rivals is not there for deep networks of relu, .* layer_outliers"):
        posts[1].rivals()
    with pytest.raises(NotAvailable, match=r"layer_outliers is not there for deep networks of sigmoid, .* layer_codes"):
        posts[0].layer_outliers()
