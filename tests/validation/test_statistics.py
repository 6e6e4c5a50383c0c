"""Monte-Carlo errors that hold, and statistics that do not depend on the order of neurons."""

from types import SimpleNamespace

import numpy as np
import pytest
from fake_chains import fake_chains
from margins import below

import meanfield as mf
from meanfield.sampling.statistics import as_draws, estimate, normal_deviate, observables


def autoregressive(rng, chains, draws, correlation, mean=0.0):
    noise = rng.standard_normal((chains, draws))
    x = np.empty_like(noise)
    x[:, 0] = noise[:, 0]
    for i in range(1, draws):
        x[:, i] = correlation * x[:, i - 1] + np.sqrt(1 - correlation**2) * noise[:, i]
    return mean + x


def random_chains(rng, k=3, d=10, n=12, name="sigmoid", **more):
    activation = rng.random((k, d, n, 3)) if name == "sigmoid" else np.abs(rng.standard_normal((k, d, n, 3)))
    return fake_chains(mf.Network(name), rng.standard_normal((k, d, n, 3)), activation, **more)


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.statistical
def test_error_of_independent_draws():
    x = np.random.default_rng(0).standard_normal((40, 100))
    found = estimate(x)
    assert found.value == pytest.approx(x.mean())
    assert below(found.standard_error * np.sqrt(x.size) / x.std() - 1, 0.4, "error / exact - 1")
    assert found.dof == 39 or found.dof > 1000  # one time in twenty chance makes independent chains disagree
    assert below(found.rhat - 1, 0.01, "R-hat - 1")


@pytest.mark.statistical
def test_error_of_autocorrelated_chains():
    """The error of a mean of an AR(1) chain is sqrt((1 + r) / (1 - r)) times that of independent draws."""
    x = autoregressive(np.random.default_rng(1), 32, 1000, 0.9)
    assert below(estimate(x).standard_error / np.sqrt(1.9 / 0.1 / x.size) - 1, 0.25, "error / exact - 1")


@pytest.mark.statistical
def test_z_scores_of_a_right_theory_are_standard_normal():
    """400 experiments with short autocorrelated chains: the deviations are neither too large nor too small."""
    rng = np.random.default_rng(2)
    z = np.array([estimate(autoregressive(rng, 4, 150, 0.7)).z() for _ in range(400)])
    assert below(z.mean() * np.sqrt(z.size))
    assert below(z.std() - 0.95, 0.22, "sd - 0.95")
    assert below(np.mean(np.abs(z) > 1.96), 0.12, "5 % quantile")
    assert below(z, what="max |z|")


@pytest.mark.statistical
def test_chains_that_do_not_mix_are_the_independent_units():
    """Each stays near its own level: only their scatter tells the error, with k - 1 degrees of freedom."""
    rng = np.random.default_rng(3)
    levels = rng.standard_normal(6)
    found = estimate(levels[:, None] + 1e-3 * rng.standard_normal((6, 500)))
    assert found.standard_error == pytest.approx(levels.std(ddof=1) / np.sqrt(6), rel=1e-3)
    assert found.dof == 5
    assert found.rhat > 2


@pytest.mark.statistical
def test_z_scores_of_frozen_chains_follow_students_t():
    rng = np.random.default_rng(4)
    z = [estimate(rng.standard_normal((4, 1)) + 1e-3 * rng.standard_normal((4, 20))).z() for _ in range(600)]
    assert below(np.mean(np.abs(z) > 1.96), 0.105, "5 % quantile")
    assert below(np.std(z) - 1, 0.16, "sd - 1")


def test_normal_deviate():
    assert normal_deviate(2.0, 1e6) == 2.0
    assert normal_deviate(-12.706, 1) == pytest.approx(-1.96, abs=1e-3)
    assert np.isfinite(normal_deviate(1e8, 3))


def test_nothing_is_known_about_the_error_of_a_constant():
    found = estimate(np.full((3, 10), 0.25))
    assert found.value == 0.25
    assert np.isnan(found.standard_error)
    assert np.isnan(found.z())


@pytest.mark.parametrize("series", [np.zeros(5), np.zeros((1, 3)), np.full((2, 10), np.nan)])
def test_estimates_refuse(series):
    with pytest.raises(ValueError, match="series"):
        estimate(series)


# ---- observables ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sigmoid", "relu", "linear"])
def test_order_of_neurons_does_not_matter(name):
    rng = np.random.default_rng(5)
    chains = random_chains(rng, name=name)
    order = rng.permuted(np.tile(np.arange(12), (3, 10, 1)), axis=2)[..., None]
    shuffled = SimpleNamespace(**vars(chains))
    shuffled.readout = np.take_along_axis(chains.readout, order, axis=2)
    shuffled.class_activation = np.take_along_axis(chains.class_activation, order, axis=2)
    patterns = ("110", "101")
    for one, other in zip(*(observables(as_draws(run), patterns) for run in (chains, shuffled)), strict=True):
        np.testing.assert_allclose(one.series, other.series, atol=1e-12, err_msg=one.name)


def test_averages_over_the_neurons_of_a_code():
    """The mean of the linearised ratio is the ratio of the means, chain by chain."""
    chains = random_chains(np.random.default_rng(6))
    found = {o.name: o for o in observables(as_draws(chains), ("110",))}
    a, m = chains.readout, chains.class_activation
    for chain in range(3):
        member = (m[chain] > 0.5) @ [4, 2, 1] == 6
        inside = a[chain][member]
        assert found["fraction 1-1-0"].series[chain].mean() == pytest.approx(member.mean())
        np.testing.assert_allclose(found["readout 1-1-0"].series[chain].mean(axis=0), inside.mean(axis=0))
        covariance = np.cov(inside.T, bias=True)
        np.testing.assert_allclose(found["covariance 1-1-0"].series[chain].mean(axis=0), covariance, atol=1e-12)
        np.testing.assert_allclose(found["activation 1-1-0"].series[chain].mean(axis=0), m[chain][member].mean(axis=0))


def test_code_that_a_chain_lacks():
    chains = random_chains(np.random.default_rng(7))
    chains.class_activation[1] = 0.1  # no neuron of the second chain is active
    found = {o.name: o for o in observables(as_draws(chains), ("110", "000"))}
    assert found["fraction 1-1-0"].series.shape[0] == 3
    assert found["readout 1-1-0"].chains.tolist() == [0, 2]


@pytest.mark.parametrize("sharing", [1, 4])
def test_outliers_are_the_same_whether_one_neuron_carries_them_or_four(sharing):
    n, abar, zbar = 400, np.array([-0.1, 0.65, -0.06]), 1.33
    readout = np.tile(np.array([0.3, 0.17, 0.17]), (2, 8, n, 1)) + 1e-3 * np.arange(8)[:, None, None]
    activation = np.full((2, 8, n, 3), 0.5)
    readout[:, :, :sharing] = np.sqrt(n / sharing) * abar
    activation[:, :, :sharing] = np.sqrt(n / sharing) * np.array([0.0, zbar, 0.0])
    chains = fake_chains(mf.Network("relu"), readout, activation)
    summary = mf.summarize(chains)
    (outlier,) = summary.outliers
    assert (outlier.label, outlier.number.value) == ("0-1-0", sharing)
    assert outlier.weight.value == pytest.approx(abar @ abar)
    np.testing.assert_allclose(outlier.readout.value, abar, rtol=1e-12)
    np.testing.assert_allclose(outlier.activation.value, [zbar], rtol=1e-12)
    (bulk,) = summary.codes
    assert bulk.fraction.value == pytest.approx(1 - sharing / n)
    np.testing.assert_allclose(bulk.readout.value, readout[0, :, -1].mean(axis=0), rtol=1e-12)


def test_summary_holds_kernels_residuals_and_predictor():
    rng = np.random.default_rng(8)
    prediction = rng.standard_normal((3, 10, 5, 3))
    chains = random_chains(rng, prediction=prediction)
    summary = mf.summarize(chains)
    np.testing.assert_allclose(summary.kernel_between.value, chains.kernel_between.mean(axis=(0, 1)))
    np.testing.assert_allclose(summary.residual.value[1], chains.residual[:, :, 8:12].mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(summary.order_parameter.value, summary.residual.value / 0.1)
    np.testing.assert_allclose(summary.prediction.value, prediction.mean(axis=(0, 1)))
    np.testing.assert_allclose(summary.prediction_variance, prediction.reshape(30, 5, 3).var(axis=0, ddof=1))
    assert sum(code.fraction.value for code in summary.codes) == pytest.approx(1.0)
    table = summary.table()
    assert "residual" in table
    assert all(code.label in table for code in summary.codes)
    assert summary.codes[0].label in repr(summary)


def test_several_runs_are_chains_side_by_side():
    rng = np.random.default_rng(9)
    runs = [random_chains(rng), random_chains(rng)]
    draws = as_draws(runs)
    assert draws.n_chains == 6
    np.testing.assert_array_equal(draws.readout[3:], runs[1].readout)
    runs[1].tau = 0.3
    with pytest.raises(ValueError, match="differ in tau"):
        as_draws(runs)
    with pytest.raises(ValueError, match="10 and 4 draws"):
        as_draws([runs[0], random_chains(rng, d=4)])
    with pytest.raises(ValueError, match="no chains"):
        as_draws([])


def test_classes_of_one_sample_are_refused():
    rng = np.random.default_rng(10)
    chains = random_chains(rng, labels=np.repeat([0, 1, 2], [8, 7, 1]))
    with pytest.raises(ValueError, match="two samples"):
        mf.summarize(chains)
