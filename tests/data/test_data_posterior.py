"""What `solve` returns for data: predictors on raw inputs, generalisation error, neurons, saving."""

import numpy as np
import pytest
from margins import below, ratio

import meanfield as mf
from meanfield.posterior.generalization import generalization


def blobs(n=30, seed=0, off=0.0, **options):
    rng = np.random.default_rng(seed)
    labels = np.repeat(["a", "b", "c"], n // 3)
    centres = 2 * np.eye(3, 40)
    images = centres[np.repeat([0, 1, 2], n // 3)] + 0.3 * rng.standard_normal((n, 40)) + 5.0
    return images.reshape(n, 5, 8), labels, mf.data_task(images.reshape(n, 5, 8), labels=labels, off=off, **options)


POSTERIORS = {
    "linear": (mf.Network("linear"), 0.05),
    "deep": (mf.Network("linear", depth=3), 0.0),
    "lazy": (mf.Network("sigmoid", scaling="lazy"), 0.0),
    "lazy at T": (mf.Network("relu", depth=2, scaling="lazy"), 0.1),
}


@pytest.fixture(scope="module", params=POSTERIORS)
def posterior(request):
    network, tau = POSTERIORS[request.param]
    return mf.solve(network, blobs(scale="rms")[2], tau=tau)


def test_raw_inputs_are_transformed(posterior):
    images, _, task = blobs(scale="rms")
    np.testing.assert_allclose(posterior.predict(images), posterior.predictions, atol=1e-7)
    np.testing.assert_allclose(posterior.predict(), posterior.predictions, atol=1e-7)
    np.testing.assert_allclose(posterior.predict(images.reshape(30, 40)), posterior.predict(images), atol=1e-13)
    np.testing.assert_allclose(task.targets - posterior.residual, posterior.predictions)


def test_generalisation_error_adds_up(posterior):
    images, labels, task = blobs(seed=1)
    error = posterior.generalization_error(images, labels, width=200)
    mean, variance = posterior.predict(images, variance=True, width=200)
    np.testing.assert_allclose(error.bias_per_sample, ((mean - task.targets) ** 2).sum(1))
    np.testing.assert_allclose(error.variance_per_sample, variance.sum(1))
    assert error.error == pytest.approx(error.bias + error.variance)
    assert error.accuracy == np.mean(mean.argmax(1) == task.labels)
    assert (posterior.predict_class(images) == labels).mean() == error.accuracy
    table = error.per_class()
    assert list(table) == ["a", "b", "c"]
    assert np.mean([row["bias"] for row in table.values()]) == pytest.approx(error.bias)
    assert len(error.table().splitlines()) == 5
    by_targets = posterior.generalization_error(images, task.targets, width=200)
    assert by_targets.bias == error.bias
    assert by_targets.accuracy == error.accuracy


def test_variance_needs_a_width(posterior):
    images, labels, _ = blobs(seed=1)
    if posterior.scheme == "lazy":
        np.testing.assert_array_equal(posterior.predict(images, True)[1], posterior.predict(images, True, width=9)[1])
        assert posterior.generalization_error(images, labels).variance > 0
        return
    with pytest.raises(ValueError, match="give width=N"):
        posterior.predict(images, variance=True)
    one, two = (posterior.predict(images, variance=True, width=width)[1] for width in (100, 400))
    np.testing.assert_allclose(one, 4 * two)
    assert (one > 0).all()
    assert posterior.generalization_error(images, labels).variance == 0


@pytest.mark.statistical
def test_drawn_neurons_have_the_kernel_and_the_outputs(posterior):
    images = blobs(seed=1)[0][:4]
    drawn = posterior.sample_neurons(60_000, rng=0, X=images)
    products = drawn.activations[:, :, None] * drawn.activations[:, None, :]
    error = products.std(axis=0) / np.sqrt(60_000)
    assert below(ratio(products.mean(0) - posterior.kernel(images), error + 1e-12))
    if posterior.scheme != "lazy":  # there f is the sum over neurons / sqrt(N) of what each one hardly changes
        products = drawn.activations[:, :, None] * drawn.readouts[:, None, :]
        error = products.std(axis=0) / np.sqrt(60_000)
        assert below(ratio(products.mean(0) - posterior.predict(images), error))
    covariance = np.cov(drawn.readouts.T)
    error = np.trace(covariance) * np.sqrt(2 / 60_000)
    assert below((covariance - posterior.readout_covariance) / error)


def test_the_same_seed_gives_the_same_neurons_on_other_inputs(posterior):
    images = blobs(seed=1)[0]
    few, many = (posterior.sample_neurons(20, rng=3, X=x) for x in (images[:3], images))
    if posterior.kind != "lazy" or posterior.network.depth == 1:  # else responses are drawn for the inputs given
        np.testing.assert_allclose(few.activations, many.activations[:, :3], atol=1e-12)
    np.testing.assert_array_equal(few.readouts, many.readouts)
    on_training = posterior.sample_neurons(20, rng=3)
    np.testing.assert_array_equal(on_training.labels, posterior.task.labels)
    assert on_training.class_names == ("a", "b", "c")


def test_round_trip(posterior, tmp_path):
    again = mf.DataPosterior.load(posterior.save(tmp_path / "posterior"))
    images, _labels, _ = blobs(seed=1)
    np.testing.assert_array_equal(again.predict(images), posterior.predict(images))
    np.testing.assert_array_equal(
        again.predict(images, True, width=10)[1], posterior.predict(images, True, width=10)[1]
    )
    assert again.table() == posterior.table()
    assert repr(again) == repr(posterior)
    assert again.certificate == posterior.certificate
    with pytest.raises(ValueError, match="expected a SingleNeuronPosterior"):
        mf.SingleNeuronPosterior.load(tmp_path / "posterior.npz")


def test_certificate_and_table(posterior):
    assert posterior.status == "optimal"
    assert posterior.certificate.kkt_residual <= 1e-8
    assert posterior.certificate.global_check
    table = posterior.table()
    assert "certificate: residual" in table
    assert ("T = " if posterior.scheme == "lazy" else "tau = ") in table
    assert posterior.codes == posterior.outliers == ()
    assert posterior.bulk is None


def test_targets_that_are_not_classes():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((10, 4)), rng.standard_normal(10)
    post = mf.solve(mf.Network("tanh", scaling="lazy"), mf.data_task(x, y), tau=0.1)
    error = post.generalization_error(x, y)
    assert error.accuracy is None
    assert error.per_class() == {}
    assert len(error.table().splitlines()) == 2
    with pytest.raises(ValueError, match="no classes"):
        post.predict_class(x)
    drawn = post.sample_neurons(5, rng=0)
    assert not drawn.labels.any()


def test_one_sample():
    post = mf.solve(mf.Network("linear"), mf.data_task([[1.0, 2.0]], [[3.0]]))
    np.testing.assert_allclose(post.predict([[1.0, 2.0], [2.0, 4.0]]), [[3.0], [6.0]])
    post = mf.solve(mf.Network("relu", scaling="lazy"), mf.data_task([[1.0, 2.0]], [[3.0]]))
    np.testing.assert_allclose(post.predict([[1.0, 2.0], [2.0, 4.0]]), [[3.0], [6.0]])


def test_generalisation_of_mixed_targets_has_no_classes():
    _, _, task = blobs()
    outputs = np.zeros((2, 3))
    assert generalization(task, outputs, outputs, np.array([[1.0, 0.0, 0.0], [0.5, 0.2, 0.0]]), 10).labels is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda post, x: post.predict(x[:, :3]), "40 numbers per sample"),
        (lambda post, x: post.predict(x * np.nan), "finite"),
        (lambda post, x: post.predict(x, variance=True, width=0.5), "width"),
        (lambda post, x: post.kernel(layer=2), r"1\.\.1"),
        (lambda post, x: post.kernel(None, x), "leave X2 out"),
        (lambda post, x: post.generalization_error(x, ["a", "d"] * 15), "unknown class 'd'"),
        (lambda post, x: post.generalization_error(x, ["a"]), "1 labels for 30 samples"),
        (lambda post, x: post.sample_neurons(0), "n must be"),
    ],
)
def test_bad_requests_are_refused_in_words(call, message):
    images, _, task = blobs()
    post = mf.solve(mf.Network("linear"), task, tau=0.1)
    with pytest.raises(ValueError, match=message):
        call(post, images)
