"""`solve` on data with codes: expectation propagation, predictor, neurons, saving; what it refuses."""

import numpy as np
import pytest
import sympy
from margins import below, beyond
from problems import fixed_rng

import meanfield as mf
from meanfield.archive import read_archive, write_archive
from meanfield.posterior.certificate import ConvergenceError


def blobs(seed=0, n=8, off=0.0, n_inputs=30):
    """Two classes of noisy inputs."""
    rng = fixed_rng(seed)
    labels = np.repeat([3, 5], n)
    x = 1.2 * np.sign(np.arange(n_inputs) - n_inputs / 2) * np.where(labels == 3, 1, -1)[:, None]
    x = x + rng.standard_normal((2 * n, n_inputs))
    return x, labels, mf.data_task(x, labels=labels, off=off)


@pytest.fixture(scope="module")
def posterior():
    return mf.solve(mf.Network("sigmoid", sigma_w=0.8), blobs()[2], tau=0.02)


def test_training_outputs_and_codes(posterior):
    task = posterior.task
    assert posterior.status == "optimal"
    assert posterior.certificate.kkt_residual < 1e-4
    assert not posterior.certificate.global_check  # nothing proves that no code was missed
    assert posterior.scheme == "redundant"
    np.testing.assert_allclose(posterior.predictions, task.targets - 0.02 * posterior.order_parameters["t"])
    made = sum(c.weight * np.multiply.outer(c.sample_activation, c.readout) for c in posterior.codes)
    spread = posterior.predictions - made  # covariance of readout and activation within a code
    assert np.abs(spread).max() < 0.1
    assert sum(code.weight for code in posterior.codes) == pytest.approx(1.0)
    assert {"10", "01"} <= {code.pattern for code in posterior.codes}
    for code in posterior.codes:
        np.testing.assert_allclose(code.activation[0], code.sample_activation[:8].mean())
    assert posterior.bulk is None
    assert posterior.outliers == ()


def test_predictor_on_new_inputs(posterior):
    x, labels, task = blobs(seed=1, n=20)
    mean, variance = posterior.predict(x, variance=True, width=100)
    error = posterior.generalization_error(x, labels, width=100)
    np.testing.assert_allclose(error.bias_per_sample, ((mean - task.targets) ** 2).sum(1))
    assert error.accuracy == 1.0
    assert (variance > 0).all()
    assert variance.max() < 0.05
    by_codes = posterior.code_activations(x)
    assert by_codes.shape == (len(posterior.codes), 40)
    rough = sum(c.weight * np.multiply.outer(phi, c.readout) for c, phi in zip(posterior.codes, by_codes, strict=True))
    np.testing.assert_allclose(rough, mean, atol=0.1)


@pytest.mark.statistical
def test_drawn_neurons(posterior):
    x, labels, _ = blobs(seed=1, n=3)
    drawn = posterior.sample_neurons(20_000, rng=0, X=x, labels=labels)
    products = drawn.activations[:, :, None] * drawn.readouts[:, None, :]
    error = products.std(axis=0) / np.sqrt(20_000)
    # Drawn neurons have the moments of the particles, not those of a Gaussian fit to them: 0.004 and less.
    assert below((drawn.output - posterior.predict(x)) / np.hypot(error, 0.004))
    products = drawn.activations[:, :, None] * drawn.activations[:, None, :]
    error = products.std(axis=0) / np.sqrt(20_000)
    assert below((products.mean(axis=0) - posterior.kernel(x)) / np.hypot(error, 1e-3))
    weight = np.array([code.weight for code in posterior.codes])
    fractions = np.bincount(drawn.code, minlength=len(weight)) / 20_000
    assert below((fractions - weight) / np.sqrt(weight * (1 - weight) / 20_000))
    covariance = posterior.readout_covariance
    assert below((np.cov(drawn.readouts.T) - covariance) / (np.trace(covariance) * np.sqrt(2 / 20_000)))
    few = posterior.sample_neurons(20_000, rng=0, X=x[:2], labels=labels[:2])
    np.testing.assert_allclose(few.activations, drawn.activations[:, :2], atol=1e-12)


def test_kernel_on_training_inputs(posterior):
    kernel = posterior.kernel()
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-13)
    assert np.linalg.eigvalsh(kernel).min() > 0
    np.testing.assert_allclose(kernel, posterior.kernel(blobs()[0]), atol=0.02)  # Gaussian instead of tilted moments


def test_round_trip(posterior, tmp_path):
    again = mf.DataPosterior.load(posterior.save(tmp_path / "a"))
    x = blobs(seed=1)[0]
    np.testing.assert_allclose(again.predict(x), posterior.predict(x), atol=1e-13)
    assert again.table() == posterior.table()
    assert [c.pattern for c in again.codes] == [c.pattern for c in posterior.codes]
    one, two = (p.sample_neurons(5, rng=1, X=x) for p in (again, posterior))
    np.testing.assert_allclose(one.activations, two.activations, atol=1e-12)
    # Saved on a machine whose singular vectors differ by a rotation.
    header, arrays = read_archive(tmp_path / "a.npz", "data posterior")
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((arrays["solution_features"].shape[1],) * 2))[0]
    for name in ("features", "directions", "outlier_w"):
        arrays[f"solution_{name}"] = arrays[f"solution_{name}"] @ turn
    write_archive(tmp_path / "b", "data posterior", header, arrays)
    np.testing.assert_allclose(mf.DataPosterior.load(tmp_path / "b.npz").predict(x), posterior.predict(x), atol=1e-12)


def test_frozen_fractions(posterior):
    weights = np.array([code.weight for code in posterior.codes])
    same = posterior.frozen(weights)
    np.testing.assert_allclose(same.order_parameters["t"], posterior.order_parameters["t"], atol=0.02)
    x = blobs(seed=1)[0]
    np.testing.assert_allclose(same.predict(x), posterior.predict(x), atol=1e-3)
    _, free = posterior.predict(x, variance=True, width=100)
    _, fixed = same.predict(x, variance=True, width=100)
    assert fixed.sum() != pytest.approx(free.sum(), rel=1e-3)
    other = posterior.frozen(weights * np.where(np.arange(weights.size) == 0, 1.1, 1.0))
    assert other.codes[0].weight == pytest.approx(1.1 * weights[0] / (1 + 0.1 * weights[0]), rel=1e-6)
    assert np.abs(other.residual).max() < 0.5  # the readouts adapt
    with pytest.raises(ValueError, match="fractions must be"):
        posterior.frozen([1.0])
    with pytest.raises(ValueError, match="fractions of the codes is not available"):
        mf.solve(mf.Network("linear"), posterior.task, tau=0.1).frozen([1.0])


def test_a_warm_start_gives_the_same_solution(posterior):
    task = posterior.task
    near = mf.solve(posterior.network, task, tau=0.025, warm_start=posterior)
    cold = mf.solve(posterior.network, task, tau=0.025)
    np.testing.assert_allclose(near.order_parameters["t"], cold.order_parameters["t"], atol=0.02)
    assert near.objective == pytest.approx(cold.objective, abs=1e-3)
    with pytest.raises(ValueError, match="warm_start has targets of shape"):
        mf.solve(posterior.network, blobs(n=5)[2], tau=0.02, warm_start=posterior)


def test_orthogonal_inputs_equal_the_solver_for_classes():
    """Here expectation propagation is exact, and the solver for classes integrates the same readout posterior."""
    labels = np.repeat([0, 1, 2], [12, 6, 6])
    task = mf.data_task(np.sqrt(24) * np.eye(24), labels=labels, off=0.2)
    network = mf.Network("sigmoid")
    post = mf.solve(network, task, tau=0.05)
    classes = mf.solve(network, mf.class_task([0.5, 0.25, 0.25], off=0.2, n_samples=24), tau=0.05)
    np.testing.assert_allclose(
        post.order_parameters["t"], classes.order_parameters["t"][labels], atol=2e-3 * np.abs(post.solution.t).max()
    )
    assert post.objective / 24 == pytest.approx(classes.objective, abs=1e-4)
    np.testing.assert_allclose(post.kernel(), classes.kernel().matrix(labels), atol=2e-3)


def test_regression_has_numbered_codes():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 4))
    post = mf.solve(mf.Network("tanh"), mf.data_task(x, np.sin(x[:, 0])), tau=0.1)
    assert [code.pattern for code in post.codes] == [str(g + 1) for g in range(len(post.codes))]
    assert "code" not in post.table().splitlines()[0] or post.table()
    assert post.generalization_error(x, np.sin(x[:, 0])).bias < np.mean(np.sin(x[:, 0]) ** 2)


def test_activations_on_the_training_inputs_are_those_of_the_codes(posterior):
    expected = np.array([code.sample_activation for code in posterior.codes])
    np.testing.assert_array_equal(posterior.code_activations(), expected)
    # As new inputs, where the neuron counts as Gaussian, they are only close.
    assert np.abs(posterior.code_activations(blobs()[0]) - expected).max() < 0.1


@pytest.mark.parametrize("network", [mf.Network("linear"), mf.Network("linear", scaling="lazy")])
def test_what_centred_inputs_cannot_make_is_said(network):
    x, labels, _ = blobs()
    stuck = mf.solve(network, mf.data_task(x, labels=labels, center=True), tau=0.1)
    assert "mean of the targets, up to 0.5" in stuck.notes[-1]
    assert "mean of the targets, up to 0.5" in stuck.table()
    np.testing.assert_allclose(stuck.residual.mean(axis=0), 0.5, atol=1e-9)
    for task in (mf.data_task(x, labels=labels), mf.data_task(x, labels=labels, center=True, off=-1.0)):
        assert mf.solve(network, task, tau=0.1).notes == ()


def test_unbounded_activations_without_a_theory_are_refused():
    z = sympy.Symbol("z", real=True)
    with pytest.raises(ValueError, match=r"relu, softplus, gelu\), or scaling='lazy'"):
        mf.solve(mf.Network(z + sympy.tanh(z)), blobs()[2], tau=0.1)


def test_refusals_in_words():
    task = blobs()[2]
    with pytest.raises(ValueError, match="tau = N T > 0"):
        mf.solve(mf.Network("sigmoid"), task)
    with pytest.raises(ValueError, match="a similar data task, got int"):
        mf.solve(mf.Network("sigmoid"), task, tau=0.01, warm_start=5)
    with pytest.raises(ValueError, match="of 2 hidden layers are not solved on data"):
        mf.solve(mf.Network("sigmoid", depth=2), task, tau=0.01)
    with pytest.raises(ValueError, match="must be a ClassTask or DataTask"):
        mf.solve(mf.Network("sigmoid"), np.eye(3))
    with pytest.raises(ValueError, match="affine with an offset"):
        mf.solve(mf.Network(mf.activation("linear").expression + 1), task, tau=0.1)
    with pytest.raises(ValueError, match="activation of codes on inputs is not available"):
        mf.solve(mf.Network("linear"), task, tau=0.1).code_activations()


def test_a_solution_that_is_not_one_is_never_returned_silently(monkeypatch):
    from dataclasses import replace

    from meanfield.theories.general_data import solve as module

    real = module.solve_general
    monkeypatch.setattr(
        module, "solve_general", lambda *args, **kwargs: replace(real(*args, **kwargs), status="not converged")
    )
    network, task = mf.Network("sigmoid"), blobs()[2]
    with pytest.raises(ConvergenceError, match="not converged"):
        mf.solve(network, task, tau=0.1, refine=False)
    with pytest.warns(mf.CertificateWarning, match="not converged"):
        mf.solve(network, task, tau=0.1, refine=False, on_failure="warn")
    assert mf.solve(network, task, tau=0.1, refine=False, on_failure="return").status == "not converged"


@pytest.mark.statistical
def test_against_sampled_networks():
    """N = 100: measured rms of the predictor .0008 (signal .40, lazy .126), slope of t .9994, variance 1.07."""
    _, _, task = blobs()
    new = blobs(seed=1, n=10)[0]
    network, tau, width = mf.Network("sigmoid", sigma_w=0.8), 0.05, 100
    post = mf.solve(network, task, tau=tau)
    chains = mf.sample(network, task, width=width, tau=tau, draws=1200, warmup=600, chains=4, rng=0, inputs=new)
    sampled = chains.prediction.mean(axis=(0, 1))
    mean, variance = post.predict(new, variance=True, width=width)
    assert below(np.sqrt(np.mean((mean - sampled) ** 2)), 0.003, "rms of the predictor")
    lazy = mf.solve(network.with_(scaling="lazy"), task).predict(new)
    assert beyond(np.sqrt(np.mean((lazy - sampled) ** 2)), 0.05, "rms of the lazy predictor")
    spread = chains.prediction.reshape(-1, *mean.shape).var(axis=0)
    assert below(variance.mean() / spread.mean() - 1, 0.4, "variance")
    assert below(1 - np.corrcoef(variance.ravel(), spread.ravel())[0, 1], 0.1, "1 - correlation of the variance")
    t, residual = post.order_parameters["t"], chains.residual.mean(axis=(0, 1)) / tau
    assert below(1 - np.corrcoef(t.ravel(), residual.ravel())[0, 1], 1e-3, "1 - correlation of t")
    assert below(np.sum(t * residual) / np.sum(t * t) - 1, 0.02, "slope of t - 1")
    # One draw of four chains shows the kernel up to a few neurons per code.
    drawn = chains.activations(at="last").reshape(-1, task.n_samples)
    assert below(drawn.T @ drawn / len(drawn) - post.kernel(), 0.1, "kernel")


def test_outliers_of_a_relu_network():
    """Orthogonal inputs, one-hot targets: a bulk and one outlier per class, of which equal classes have equal ones."""
    labels = np.repeat([0, 1, 2], [12, 6, 6])
    task = mf.data_task(np.sqrt(24) * np.eye(24), labels=labels)
    post = mf.solve(mf.Network("relu"), task, tau=0.05)
    assert post.scheme == "sparse"
    assert post.bulk is post.codes[0]
    assert [outlier.pattern for outlier in post.outliers] == ["100", "010", "001"]
    assert post.outliers[1].weight == pytest.approx(post.outliers[2].weight, rel=1e-5)
    assert "fluctuations of the outliers" in post.notes[-1]
    # Y = <a phi> of the bulk and the outliers + tau t; within the bulk readout and activation are correlated.
    weighted = post.solution.weight[:, None, None] * post.solution.phi[:, :, None] * post.solution.readout[:, None, :]
    outliers = sum(np.multiply.outer(o.sample_activation, o.readout) for o in post.outliers)
    np.testing.assert_allclose(weighted.sum(0) + outliers + post.residual, task.targets, atol=1e-4)
    drawn = post.sample_neurons(50, rng=0)
    assert [drawn.part_names[p] for p in drawn.code[-3:]] == ["outlier 1-0-0", "outlier 0-1-0", "outlier 0-0-1"]
    np.testing.assert_allclose(drawn.readouts[-1], np.sqrt(50) * post.outliers[2].readout)
    assert "outlier 1-0-0" in post.table()


@pytest.mark.parametrize("activation", ["erf", "tanh", "hard_tanh"])
def test_one_sample_whose_first_guess_is_exact(activation):
    """Nothing is left for conjugate gradients to do on the way."""
    for seed in range(8):
        inputs = np.random.default_rng(seed).standard_normal((1, 10))
        post = mf.solve(mf.Network(activation), mf.data_task(inputs, [1.0]), tau=0.01)
        assert post.status == "optimal"
        assert post.residual[0, 0] == pytest.approx(0.01 * post.order_parameters["t"][0, 0], abs=1e-6)
