"""Networks of a user are read as chains are: same statistics, whatever the parameterization and the order of axes."""

import math
from dataclasses import replace

import numpy as np
import pytest
from margins import below, beyond

import meanfield as mf
from meanfield.sampling.problem import problem
from meanfield.sampling.statistics import as_draws, estimate, observables

N, P, TAU = 24, 16, 0.1
FRACTIONS = [0.5, 0.25, 0.25]


@pytest.fixture(scope="module")
def task():
    return mf.class_task(fractions=FRACTIONS, off=0.5, n_samples=P)


@pytest.fixture(scope="module")
def chains(task):
    return mf.sample(
        mf.Network("sigmoid"), task, N, tau=TAU, rng=0, chains=3, draws=12, warmup=20, thin=1, progress=False
    )


@pytest.fixture(scope="module")
def deep_chains(task):
    return mf.sample(
        mf.Network("tanh", depth=2), task, N, tau=TAU, rng=1, chains=2, draws=8, warmup=10, thin=1, progress=False
    )


def ends(chains):
    """Readouts and activations of the first and the last draw of every chain."""
    readouts = chains.readout[:, [0, -1]]
    layers = [
        np.stack([chains.activations(layer, at) for at in ("first", "last")], axis=1)
        for layer in range(1, chains.network.depth + 1)
    ]
    return readouts, layers


def test_what_is_read_of_activations_is_what_chains_record(chains, task):
    readouts, layers = ends(chains)
    seen = mf.observe(chains.network, task, TAU, readouts=readouts, activations=layers)
    assert (seen.n_chains, seen.n_draws, seen.width) == (3, 2, N)
    recorded = as_draws(chains)
    found = seen.as_draws(whole=True)
    for name in ("readout", "class_activation", "kernel_between", "kernel_diagonal", "residual"):
        np.testing.assert_allclose(getattr(found, name), getattr(recorded, name)[:, [0, -1]], rtol=0, atol=1e-12)


def test_every_layer_is_kept(deep_chains, task):
    readouts, layers = ends(deep_chains)
    seen = mf.observe(deep_chains.network, task, TAU, readouts=readouts, activations=layers)
    np.testing.assert_allclose(seen.kernel_between, deep_chains.kernel_between[:, [0, -1]], atol=1e-12)
    np.testing.assert_array_equal(seen.activations(1), layers[0][:, -1])
    top = mf.observe(deep_chains.network, task, TAU, readouts=readouts, activations=layers[-1])
    assert "last 1 of 2" in repr(top)
    with pytest.raises(ValueError, match="layer 1 is not known"):
        top.activations(1)


def test_samples_in_any_order(chains, task):
    order = np.random.default_rng(3).permutation(P)
    readouts, (phi,) = ends(chains)
    labels = chains.labels[order]
    seen = mf.observe(chains.network, task, TAU, readouts=readouts, activations=phi[..., order], labels=labels)
    straight = mf.observe(chains.network, task, TAU, readouts=readouts, activations=phi)
    for name in ("class_activation", "kernel_between", "kernel_diagonal"):
        np.testing.assert_allclose(getattr(seen, name), getattr(straight, name), atol=1e-13)
    np.testing.assert_allclose(seen.residual, straight.residual[:, :, order], atol=1e-13)


class Tensor:
    """As PyTorch has them: no array before it is detached from its graph."""

    def __init__(self, values, attached=True):
        self.values, self.attached = np.asarray(values, dtype=np.float32), attached

    def detach(self):
        return Tensor(self.values, attached=False)

    def cpu(self):
        return self

    def __array__(self, dtype=None, copy=None):
        if self.attached:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return np.asarray(self.values, dtype=dtype)


def test_a_pair_of_tensors_is_compared_with_the_theory_in_ten_lines():
    rng = np.random.default_rng(0)
    x = math.sqrt(18) * np.linalg.qr(rng.normal(size=(18, P)))[0].T
    first, second = Tensor(rng.normal(size=(N, 18))), Tensor(rng.normal(size=(3, N)))
    # What a user writes:
    task = mf.class_task(fractions=FRACTIONS, off=0.5, n_samples=P)
    network = mf.Network("sigmoid")
    seen = mf.observe(network, task, TAU, weights=[first], readouts=second, inputs=Tensor(x))
    found = mf.compare(mf.solve(network, task, tau=TAU), seen)
    assert not found.passed()  # random weights were not trained
    assert "one network" in found.table()
    z = first.values.astype(float) @ x.T.astype(np.float32) / math.sqrt(18)
    expected = mf.Network("sigmoid").activation(z).T @ second.values.T / N
    np.testing.assert_allclose(seen.outputs[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("depth", [1, 3])
def test_parameterizations_are_the_same_network(depth):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 5)), rng.normal(size=(9, 2))
    task, network = mf.data_task(x, y, center=False, scale=None), mf.Network("tanh", depth=depth)
    sizes = [5] + [N] * depth
    weights = [rng.normal(size=(N, size)) for size in sizes[:-1]]
    a = rng.normal(size=(N, 2))
    own = mf.observe(network, task, readouts=a, weights=weights)
    plain = [w / math.sqrt(size) for w, size in zip(weights, sizes, strict=False)]
    standard = mf.observe(network, task, readouts=a.T / N, weights=plain, parameterization="standard")
    ntk = mf.observe(network, task, readouts=a.T / math.sqrt(N), weights=weights, parameterization="ntk")
    phi = x.T
    for w in plain:
        phi = np.tanh(w @ phi)
    np.testing.assert_allclose(own.outputs[0, 0], phi.T @ a / N, atol=1e-13)
    for other in (standard, ntk):
        np.testing.assert_allclose(other.outputs, own.outputs, atol=1e-13)
        np.testing.assert_allclose(other.readout, own.readout, atol=1e-13)
        np.testing.assert_allclose(other.layers[-1], own.layers[-1], atol=1e-13)


def test_lazy_scaling_has_its_own_factor(task):
    rng = np.random.default_rng(1)
    phi, v = np.tanh(rng.normal(size=(N, P))), rng.normal(size=(3, N))
    lazy = mf.observe(mf.Network("tanh", scaling="lazy"), task, readouts=v, activations=phi, parameterization="ntk")
    np.testing.assert_allclose(lazy.readout[0, 0], v.T, atol=1e-14)
    np.testing.assert_allclose(lazy.outputs[0, 0], (v @ phi).T / math.sqrt(N), atol=1e-13)


# ---- errors --------------------------------------------------------------------------------------------------------


def test_of_one_network_the_values_are_its_own_and_the_errors_those_of_its_neurons(chains, task):
    readouts, (phi,) = ends(chains)
    seen = mf.observe(chains.network, task, TAU, readouts=readouts[0, -1].T, activations=phi[0, -1])
    draws, whole = seen.as_draws(), seen.as_draws(whole=True)
    assert draws.by_neuron
    patterns = ["111", "110", "101", "011"]
    values = {found.name: found.series for found in observables(whole, patterns)}
    found = {found.name: found.series for found in observables(draws, patterns)}
    for name in values:
        np.testing.assert_allclose(found[name].mean(axis=1), values[name][:, 0], atol=1e-12, err_msg=name)
    a, m = seen.readout[0, 0], seen.class_activation[0, 0]
    member = (m > 0.5).all(axis=1)
    assert member.any()
    expected = {"readout 1-1-1": a[member].mean(axis=0), "activation 1-1-1": m[member].mean(axis=0)}
    expected["covariance 1-1-1"] = np.cov(a[member].T, ddof=0)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].mean(axis=1)[0], value, atol=1e-12, err_msg=name)
    moment = estimate(next(o.series for o in observables(draws, []) if o.name == "readout second moment"))
    squares = seen.readout[0, 0, :, 0] ** 2
    independent = squares.std(ddof=1) / math.sqrt(N)
    assert 0.5 * independent < moment.standard_error[0, 0] < 2 * independent


def test_of_several_networks_the_scatter_counts():
    x = np.random.default_rng(0).normal(size=(5, 1, 2))
    found = estimate(x)
    np.testing.assert_allclose(found.standard_error, x[:, 0].std(axis=0, ddof=1) / math.sqrt(5))
    assert (found.dof == 4).all()
    assert np.isnan(found.rhat).all()
    with pytest.raises(ValueError, match="draws >= 4"):
        estimate(x[:1])


@pytest.mark.statistical
def test_comparison_with_the_theory(chains, task):
    """Twelve small networks: root mean square deviation, relative to the largest value; with a theory of other targets.

    The limit is 1/N and five standard deviations over seeds (0.004); z of few networks says nothing that far out.
    """
    network = chains.network
    posterior = mf.solve(network, task, tau=TAU)
    other = mf.class_task(fractions=FRACTIONS, off=0.2, n_samples=P)
    wrong = replace(mf.solve(network, other, tau=TAU), task=task)
    many = mf.sample(network, task, N, tau=TAU, rng=0, chains=12, draws=12, warmup=20, thin=1, progress=False)
    readouts, (phi,) = ends(many)
    seen = mf.observe(network, task, readouts=readouts[:, -1], activations=phi[:, -1])
    limit = 1 / N + 5 * 0.004
    groups = ["kernel", "residual"]
    comparison, planted = (mf.compare(theory, seen, statistics=groups) for theory in (posterior, wrong))
    assert "tau is not known" in comparison.table()
    for group in groups:
        assert below(rms(comparison, group), limit, group)
        assert beyond(rms(planted, group), limit, f"{group}, planted")
    readouts, (phi,) = ends(chains)
    one = mf.observe(chains.network, task, TAU, readouts=readouts[0, -1], activations=phi[0, -1])
    assert "one network" in mf.compare(posterior, one, statistics=["kernel"]).table()


def rms(comparison, group):
    rows = [row for row in comparison.tested if row.group == group]
    deviation = [row.sample - row.theory for row in rows]
    return np.sqrt(np.mean(np.square(deviation))) / max(abs(row.theory) for row in rows)


def test_summary_and_drift(chains, task):
    readouts, (phi,) = ends(chains)
    seen = mf.observe(chains.network, task, readouts=readouts, activations=phi)
    found = mf.summarize(seen)
    assert found.order_parameter is None
    assert "tau = unknown" in found.table()
    np.testing.assert_allclose(found.kernel_diagonal.value, seen.kernel_diagonal.mean(axis=(0, 1)))
    drift, own = mf.drift(seen), mf.drift(chains)
    assert drift.persistence == own.persistence
    single = mf.drift(mf.observe(chains.network, task, readouts=readouts[:1], activations=phi[:1]))
    assert single.first.shape == (N, 3)


def test_geometry_takes_the_activations(chains, task):
    readouts, (phi,) = ends(chains)
    seen = mf.observe(chains.network, task, readouts=readouts, activations=phi)
    clouds = [seen.activations()[0][:, seen.labels == c].T for c in range(3)]
    assert mf.geometry.cka(clouds[0], clouds[0]) == pytest.approx(1.0)


# ---- the dictionary of training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["sum", "mean"])
@pytest.mark.parametrize("parameterization", ["theory", "ntk", "standard"])
@pytest.mark.parametrize("depth", [1, 2])
def test_what_is_trained_is_the_posterior(task, depth, parameterization, loss):
    """(L + lambda theta^2 / 2) / T_L is the energy of the sampler, for any weights."""
    network = mf.Network("tanh", depth=depth, sigma_a=1.3, sigma_w=0.7)
    posed = problem(network, task, N, TAU)
    sizes = {"width": N, "n_inputs": P, "n_samples": P, "n_outputs": 3}
    found = mf.training_parameters(network, TAU, **sizes, loss=loss, parameterization=parameterization)
    x = np.random.default_rng(depth).normal(size=posed.n_weights)
    inputs = math.sqrt(P) * np.eye(P)  # orthogonal, |x|^2 = N_0
    theta = [w * s for w, s in zip(posed.weights(x), found.prior_std, strict=False)]
    v = posed.readout(x) * found.prior_std[-1]
    seen = mf.observe(network, task, TAU, readouts=v, weights=theta, inputs=inputs, parameterization=parameterization)
    residual = seen.residual
    value = 0.5 * np.sum(residual**2) if loss == "sum" else np.mean(residual**2)
    penalty = sum(r * np.sum(w**2) for r, w in zip(found.weight_decay, [*theta, v], strict=True)) / 2
    energy = 0.5 * posed.coldness * np.sum(residual**2) + 0.5 * x @ x
    assert (value + penalty) / found.temperature == pytest.approx(energy, rel=1e-11)
    back, tau = mf.theory_parameters(
        mf.Network("tanh", depth=depth), weight_decay=found.weight_decay, temperature=found.temperature, **sizes,
        loss=loss, parameterization=parameterization,
    )  # fmt: skip
    assert tau == pytest.approx(TAU, rel=1e-12)
    assert (back.sigma_a, back.sigma_w) == pytest.approx((1.3, 0.7), rel=1e-12)


def test_weight_decays_may_give_layers_scales_of_their_own():
    sizes = {"width": 10, "n_inputs": 40, "n_samples": 20}
    network = mf.Network("tanh", depth=2)
    net, tau = mf.theory_parameters(network, weight_decay=0.1, temperature=0.01, **sizes)
    assert net.scales == pytest.approx((2.0, 1.0))
    decay = mf.training_parameters(net, tau, **sizes).weight_decay
    assert decay == pytest.approx((0.1, 0.1, 0.1))
    wide, _ = mf.theory_parameters(
        network.with_(width_ratios=(4.0,)), weight_decay=0.1, temperature=0.01, **sizes
    )  # 40 neurons, as many as inputs
    assert wide.scales == pytest.approx((2.0, 2.0))
    assert wide.layer_sigmas is None
    net, _ = mf.theory_parameters(network, weight_decay=[0.1, 0.025, 1.0], temperature=0.01, **sizes)
    assert net.sigma_w == pytest.approx(2.0)
    with pytest.raises(ValueError, match="without noise"):
        mf.theory_parameters(network, weight_decay=0.1, temperature=0.0, **sizes)


# ---- refusals ------------------------------------------------------------------------------------------------------

PHI, READOUT, X = np.ones((N, P)), np.ones((3, N)), np.ones((P, 7))
BAD = {
    "nothing": ({"readouts": READOUT}, "either weights"),
    "both": ({"readouts": READOUT, "activations": PHI, "weights": [np.ones((N, 7))]}, "either weights"),
    "transposed": ({"readouts": READOUT, "activations": PHI.T}, r"\(N, P\) with P = 16"),
    "NaN": ({"readouts": READOUT, "activations": PHI * np.nan}, "finite"),
    "readouts of another width": ({"readouts": np.ones((3, 5)), "activations": PHI}, r"\(m, N\) = \(3, 24\)"),
    "snapshots of one only": ({"readouts": np.ones((2, 3, N)), "activations": PHI}, "same axes"),
    "no inputs": ({"readouts": READOUT, "weights": [np.ones((N, 7))]}, "give inputs="),
    "inputs with activations": ({"readouts": READOUT, "activations": PHI, "inputs": X}, "goes with weights="),
    "weights of another size": ({"readouts": READOUT, "weights": [np.ones((N, 6))], "inputs": X}, r"\(N, 7\)"),
    "one array as weights": (
        {"readouts": READOUT, "weights": np.ones((N, 7)), "inputs": X},
        r"list of 1 .* one array of shape \(24, 7\)",
    ),
    "z for phi(z)": ({"readouts": READOUT, "activations": 3.0 * PHI}, r"give phi\(z\), not z"),
    "labels of other samples": (
        {"readouts": READOUT, "activations": PHI, "labels": [0] * 5},
        "5 entries, .* 16 samples",
    ),
    "a class without samples": (
        {"readouts": READOUT, "activations": PHI, "labels": [0, 1] * 8},
        "no sample is of class 3",
    ),
    "too many layers": ({"readouts": READOUT, "activations": [PHI, PHI]}, "depth 1"),
    "parameterization": ({"readouts": READOUT, "activations": PHI, "parameterization": "muP"}, "one of"),
    "labels out of range": ({"readouts": READOUT, "activations": PHI, "labels": [3] * P}, "from 0 to 2"),
    "unknown names": (
        {"readouts": READOUT, "activations": PHI, "labels": ["cat"] * P},
        r"names of classes, 1, 2, 3, or their numbers from 0; got 'cat'.*class_names=",
    ),
    "other fractions": ({"readouts": READOUT, "activations": PHI, "labels": [0, 1, 2, 2] * 4}, r"\[4, 4, 8\]\) / 16"),
    "text": ({"readouts": "a", "activations": PHI}, "real numbers"),
    "tau": ({"readouts": READOUT, "activations": PHI, "tau": -1}, "tau"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_inputs_are_refused_in_words(task, name):
    given, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        mf.observe(mf.Network("tanh"), task, **given)


def test_the_advice_about_fractions_can_be_followed():
    """Also where they are thirds."""
    options = {"readouts": np.ones((3, N)), "activations": np.zeros((N, 24)), "labels": np.repeat([0, 1, 2], 8)}
    with pytest.raises(ValueError, match=r"give class_task\(") as caught:
        mf.observe(mf.Network("tanh"), mf.class_task(FRACTIONS, n_samples=24), **options)
    advised = eval("mf." + str(caught.value).partition("give ")[2].rstrip("."), {"mf": mf, "np": np})
    assert mf.observe(mf.Network("tanh"), advised, **options).width == N


def test_labels_may_be_names_of_classes(task):
    named = task.with_(class_names=("cat", "dog", "cow"))
    words = np.array(named.class_names)[np.repeat([2, 0, 1], np.rint(P * np.array(FRACTIONS)[[2, 0, 1]]).astype(int))]
    phi = np.random.default_rng(0).uniform(-1, 1, (N, P))
    options = {"readouts": READOUT, "activations": phi}
    seen = mf.observe(mf.Network("tanh"), named, labels=words, **options)
    index = [named.class_names.index(word) for word in words]
    assert seen.labels.tolist() == index
    assert np.array_equal(
        mf.observe(mf.Network("tanh"), named, labels=words.tolist(), **options).class_activation,
        mf.observe(mf.Network("tanh"), named, labels=index, **options).class_activation,
    )


def test_more_refusals(task):
    with pytest.raises(ValueError, match="needs a Network"):
        mf.observe("tanh", task, readouts=READOUT, activations=PHI)
    with pytest.raises(ValueError, match="finite number of samples"):
        mf.observe(mf.Network("tanh"), mf.class_task(fractions=FRACTIONS), readouts=READOUT, activations=PHI)
    with pytest.raises(ValueError, match="cannot be told"):
        mf.observe(mf.Network("tanh"), task, readouts=np.ones((3, 3)), activations=np.ones((3, P)))
    seen = mf.observe(mf.Network("tanh"), task, readouts=READOUT, weights=[np.ones((N, 7))], inputs=X)
    assert "overlap" in repr(seen)
    with pytest.raises(ValueError, match="give phi"):
        mf.observe(mf.Network("relu"), task, readouts=READOUT, activations=-PHI)
    half = (PHI * (1 + 2e-4)).astype(np.float16)
    assert mf.observe(mf.Network("tanh"), task, readouts=READOUT, activations=half).width == N
    with pytest.raises(ValueError, match=r"give \['kernel'\]"):
        mf.compare(mf.solve(mf.Network("tanh"), task, tau=0.1), seen, statistics="kernel")


def test_a_code_of_one_network_only_has_a_fraction_but_no_error(task):
    phi = np.full((3, 40, P), 0.9)
    phi[:, ::2, 8:] = 0.1
    phi[0, 0] = 0.1  # one neuron of another code, in one network
    readouts = np.random.default_rng(0).normal(size=(3, 3, 40))
    found = mf.summarize(mf.observe(mf.Network("sigmoid"), task, readouts=readouts, activations=phi))
    assert [code.label for code in found.codes] == ["1-1-1", "1-0-0"]
