"""Codes of neurons told as in samples, by mean activations over few samples of a class, against weighted draws from the
prior of preactivations of all samples (plain NumPy)."""

import numpy as np
import pytest

import meanfield as mf
from meanfield.posterior.certificate import UnstableFractions

CASES = {
    "two outputs": (
        mf.Network("sigmoid", 2), mf.class_task([0.5, 0.25, 0.25], targets=[[1, 0], [-0.5, 0.8], [-0.5, -0.8]],
        n_samples=32), 0.5,
    ),
    "three layers": (
        mf.Network("sigmoid", 3, readout_exponent=0.5), mf.class_task(targets=[0.6, -0.4], n_samples=8), 1.0,
    ),
    "equal targets": (
        mf.Network("sigmoid", 2), mf.class_task([0.25, 0.5, 0.25], targets=[1, -0.6, 1], n_samples=24), 0.6,
    ),
    "no fields": (mf.Network("erf", 2, sigma_a=0.7), mf.class_task([0.5, 0.5], targets=[0.3, -0.2], n_samples=16), 1.0),
}  # fmt: skip


def by_weight(post, count=150_000, batches=20):
    """By word, twice (mean over batches, standard error): share, then times it readout and mean activations."""
    task, network, found = post.task, post.network, post.solution
    n = np.rint(task.fractions * task.n_samples).astype(int)
    labels, rng, rows = np.repeat(np.arange(len(n)), n), np.random.default_rng(5), []
    at = np.ix_(labels, labels)
    covariance = network.sigma_w**2 * (found.kernel[-2][at] + np.diag(found.d[-2][labels]))
    s, t = network.readout_variance(task.n_samples), found.t[labels]
    phi, root = network.activation, np.linalg.cholesky(covariance)
    for _ in range(batches):
        value = phi(rng.standard_normal((count // batches, len(labels))) @ root.T)
        field = value @ t
        weight = np.exp(0.5 * s * (field**2).sum(axis=1))
        mean = np.stack([value[:, labels == c].mean(axis=1) for c in range(len(n))], axis=1)
        words = (mean > 0.5 * (phi.infimum + phi.supremum)) @ (1 << np.arange(len(n))[::-1])
        here = np.concatenate([np.ones((len(mean), 1)), s * field, mean], axis=1) * weight[:, None]
        rows.append([here[words == word].sum(axis=0) / weight.sum() for word in range(2 ** len(n))])
    return np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1) / np.sqrt(batches)


@pytest.mark.parametrize("name", CASES)
def test_codes_by_mean_activations_over_few_samples(name):
    network, task, tau = CASES[name]
    post = mf.solve(network, task, tau)
    told = post.by_activation(task.fractions * task.n_samples)
    value, error = by_weight(post)
    whole = {code.pattern: code.weight for code in post.codes}
    apart = 0.0
    for code in told.codes:
        at = int(code.pattern, 2)
        own = code.weight * np.concatenate([[1.0], code.readout, code.activation])
        assert (np.abs(own - value[at]) < 4.0 * error[at] + 1e-3 * value[at, 0]).all(), code.label
        apart = max(apart, abs(whole.get(code.pattern, 0.0) - code.weight) / error[at, 0])
    assert apart > 20.0  # than codes by the fields of neurons
    assert sum(code.weight for code in told.codes) == pytest.approx(1.0, abs=1e-6)
    assert "samples of a class" in told.solution.notes[-1]
    np.testing.assert_array_equal(told.kernel().block, post.kernel().block)


def test_means_of_three_samples_are_not_normal():
    """Shares of 10 and 01 were .0804 and .0770 with normal means."""
    task = mf.class_task(targets=[0.6, -0.4], n_samples=6)
    post = mf.solve(mf.Network("sigmoid", 2), task, 0.6)
    value, error = by_weight(post, count=1_000_000)
    for code in post.by_activation([3, 3]).codes:
        at = int(code.pattern, 2)
        assert abs(code.weight - value[at, 0]) < 3.0 * error[at, 0], code.label
        assert error[at, 0] < 6e-4


def test_a_code_that_rounding_makes_unstable_is_refused_by_name():
    """Codes 00 and 11 have next to no fields here: given a share of 6e-5 one has a maximum at some steps only."""
    post = mf.solve(mf.Network("sigmoid", 3), mf.class_task(targets=[1, -1], n_samples=16), 0.1)
    with pytest.raises(UnstableFractions, match="code 00"):
        post.frozen({"00": 6.25e-5, "10": 0.49996875, "01": 0.49996875})


def test_codes_that_are_maxima_only_at_given_fields_are_no_basins():
    """Phi of all neurons in both basins was -3.28, certified, with nothing at the cut; half spaces of a have -3.99."""
    network = mf.Network("sigmoid", 2, readout_exponent=0.5, sigma_w=1.5, layer_sigmas=[1.4], width_ratios=[1.5])
    task = mf.class_task(targets=[0.6, -0.4], n_samples=4)
    with pytest.raises(UnstableFractions, match="no neuron is locally stable"):
        mf.solve(network, task, 0.05, fractions={"10": 0.45, "01": 0.55})
