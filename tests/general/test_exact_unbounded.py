"""The exact single-neuron measure of unbounded activations: bulk, its sample, and what is corrected with it."""

import numpy as np
import pytest
from exact_problems import raw
from margins import below, beyond

import meanfield as mf
from meanfield.activations.activation import activation
from meanfield.posterior.certificate import Certificate, ConvergenceError
from meanfield.theories.general_data.exact.correct import correct
from meanfield.theories.general_data.exact.outliers import BulkSampler, OutlierParticles
from meanfield.theories.general_data.exact.readout import readout_given
from meanfield.theories.general_data.exact.sample import Dual, sample_of
from meanfield.theories.general_data.outliers.descent import solve_outliers
from meanfield.theories.general_data.posterior import GeneralDataPosterior


def test_the_readout_within_its_reach():
    """One output: truncated normals, by quadrature; no limit: the Gaussian itself."""
    centre, s2, reach = np.array([[0.3], [0.9], [-1.4], [0.0]]), 0.04, 1.0
    found = readout_given(centre, s2, reach)
    x, w = np.polynomial.legendre.leggauss(200)
    a = reach * x
    for i, c in enumerate(centre[:, 0]):
        density = reach * w * np.exp(-0.5 * (a - c) ** 2 / s2) / np.sqrt(2 * np.pi * s2)
        share = density.sum()
        assert found.level[i] == pytest.approx(0.5 * c**2 / s2 + np.log(share), abs=1e-9)
        assert found.mean[i, 0] == pytest.approx(density @ a / share, abs=1e-9)
        assert found.scatter[i] + found.along[i] * found.mean[i, 0] ** 2 == pytest.approx(
            density @ a**2 / share, abs=1e-9
        )
    free = readout_given(centre, s2)
    np.testing.assert_array_equal(free.mean, centre)
    np.testing.assert_allclose(free.scatter, s2)


def test_moments_of_a_bulk_are_derivatives():
    """With readouts cut off: dJ/dt and its derivative by differences."""
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    sample = sample_of(activation("relu"), features, rng.normal(size=(300, 3)), np.full(300, -np.log(300)))
    dual = Dual(targets, 0.2, 0.1, reach=1.1)
    t = 0.5 * rng.normal(size=(5, 2))
    slope, matrix = dual.gradient(dual.at(sample, t), t), dual.covariance(sample, dual.at(sample, t))
    step = 1e-5
    for index in np.ndindex(5, 2):
        move = np.zeros((5, 2))
        move[index] = step
        up, down = dual.at(sample, t + move), dual.at(sample, t - move)
        assert (up.value - down.value) / (2 * step) == pytest.approx(slope[index], abs=1e-7)
        column = (dual.gradient(up, t + move) - dual.gradient(down, t - move)) / (2 * step) - 0.1 * move / step
        np.testing.assert_allclose(matrix[:, np.ravel_multi_index(index, (5, 2))], column.ravel(), atol=1e-6)


@pytest.fixture(scope="module")
def bulk():
    """ReLU with ridges and outliers, as expectation propagation has it, and corrected."""
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 2
    inputs = rng.normal(size=(12, 20)) + 0.8 * rng.normal(size=(2, 20))[labels]
    task = mf.data_task(inputs, labels=labels, off=0.0)
    rough = solve_outliers(
        activation("relu"), task.features(1.0).matrix, task.targets, 1.0, 0.1, labels=labels, rng=0, reach=0.7
    )
    sampler = BulkSampler(rough, labels, np.random.default_rng(0))
    return task, rough, sampler, correct(sampler, np.array(rough.t))


@pytest.mark.statistical
def test_relu_is_measured_and_corrected(bulk):
    """Stationarity and cone on the sample; the measured error of expectation propagation is the way to the answer."""
    task, rough, _, (exact, measured) = bulk
    assert isinstance(exact, OutlierParticles)
    assert measured.reliable
    assert max(exact.residual, exact.cone_excess, exact.slackness, exact.outlier_violation) < 1e-5
    first = BulkSampler(rough, task.labels, np.random.default_rng(1)).measure(np.array(rough.t))
    difference = 0.1 * (rough.t - exact.t)
    noise = np.hypot(first.noise, measured.noise)
    assert below((np.sqrt(np.mean(difference**2)) - first.rms) / noise)
    # t moved on purpose: e says by how much.
    shifted = BulkSampler(rough, task.labels, np.random.default_rng(2))
    e, _ = shifted.shift(shifted.sample(16384, np.array(exact.t)), 0.97 * np.array(exact.t))
    expected = 0.1 * (np.array(exact.t) - 0.97 * np.array(exact.t))
    rest = np.sqrt(np.mean((e.outputs - expected) ** 2)) / (0.2 * np.sqrt(np.mean(expected**2)) + noise)
    assert below(rest, what="what e leaves, second order or noise")


@pytest.mark.statistical
def test_a_corrected_bulk_answers_all_questions(bulk, tmp_path):
    task, _, _, (exact, measured) = bulk
    network = mf.Network("relu")
    proof = Certificate(exact.residual, np.nan, np.nan, False, True, output_error=measured.rms)
    post = GeneralDataPosterior(network, task, 0.1, exact, proof)
    outputs = post._predictor.mean(task.inputs)
    np.testing.assert_allclose(outputs, post.predictions, atol=1e-5)
    neurons = post.sample_neurons(4000, rng=0)
    inner = neurons.readouts[: 4000 - len(exact.outlier_weight)]
    assert (np.linalg.norm(inner, axis=1) <= exact.reach).mean() > 0.99
    products = neurons.activations[:, :, None] * neurons.readouts[:, None]
    error = products[: len(inner)].std(axis=0) / np.sqrt(len(inner))  # those of outliers are not drawn
    made = products.mean(axis=0)
    assert below((made - post.predictions) / error, what="output of drawn neurons")
    assert beyond((0.9 * made - post.predictions) / error, what="output of drawn neurons, a tenth missing")
    assert "bulk" in post.table()
    read = mf.load(post.save(tmp_path / "post.npz"))
    assert type(read.solution) is OutlierParticles
    np.testing.assert_allclose(read._predictor.mean(task.inputs), outputs, atol=1e-9)
    with pytest.raises(ValueError, match="fractions"):
        post.frozen([1.0])


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["softplus", "gelu"])
def test_unbounded_smooth_functions_start_from_their_asymptote(name):
    """Two coordinates, outputs small enough for no outlier: against the trapezoidal rule."""
    x, y = np.array([[1.0, 0.2], [-0.4, 1.0], [-0.8, -0.7]]), np.array([0.3, 0.1, 0.2])
    post = mf.solve(mf.Network(name), raw(x, y), 0.3)
    assert post.status == "optimal"
    s = post.solution
    assert len(s.outlier_weight) == 0
    axis = 0.15 * np.arange(-100, 101)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    base = np.log(0.15**2 / (2 * np.pi)) - 0.5 * (points**2).sum(axis=1)
    sample = sample_of(activation(name), s.features, points, base, random=False)
    t, _, arrived = Dual(s.targets, s.prior, 0.3, reach=s.reach).minimise(sample, np.zeros((3, 1)))
    assert arrived
    proof = post.certificate
    off = np.sqrt(np.mean((0.3 * (t - s.t)) ** 2))
    assert below(off / (proof.output_error_se + proof.output_error))
    with pytest.raises(ConvergenceError, match=r"asymptote.*refine=False"):
        mf.solve(mf.Network(name), raw(x, y), 0.3, refine=False)
