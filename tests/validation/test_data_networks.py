"""Sampled networks on correlated inputs against the theory on data: outputs on new inputs, order parameters, variance.

A chain keeps the numbers of neurons per code that it froze into, so each chain is held against the theory with its own
fractions; errors are taken between chains.
"""

import numpy as np
import pytest
from frozen_chains import agrees, compared, places, slopes, without_code
from margins import below
from problems import fixed_rng

import meanfield as mf

pytestmark = pytest.mark.statistical

TAU, WIDTH, CHAINS = 0.01, 100, 4


def mixture(rng, per_class, n_inputs=120, strength=0.5):
    """Gaussian mixture of three classes; `strength` is the part of every input's variance that its class mean has."""
    means = rng.standard_normal((3, n_inputs))
    labels = np.repeat(np.arange(3), per_class)
    noise = rng.standard_normal((len(labels), n_inputs))
    return np.sqrt(strength) * means[labels] + np.sqrt(1 - strength) * noise, labels


@pytest.fixture(scope="module")
def outcome():
    """Per chain outputs, order parameters, variances of theory and sample; outputs of the lazy network; the theory."""
    X, labels = mixture(fixed_rng(0), 60)
    train = np.concatenate([np.flatnonzero(labels == c)[:20] for c in range(3)])
    new = np.setdiff1d(np.arange(len(X)), train)
    task = mf.data_task(X[train], labels=labels[train], off=0.5, center=True, scale="rms")
    network = mf.Network("sigmoid")
    post = mf.solve(network, task, tau=TAU)
    lazy = mf.solve(network.with_(scaling="lazy"), task, tau=0.0).predict(X[new])
    chains = mf.sample(
        network, task, WIDTH, TAU, draws=300, warmup=700, thin=2, chains=CHAINS, rng=1, inputs=X[new], progress=False
    )
    return compared(post, chains, X[new]), lazy, post


def test_every_neuron_has_one_of_the_codes(outcome):
    rows, _, post = outcome
    assert without_code(post, rows, WIDTH)


def test_outputs_on_new_inputs(outcome):
    """On the line from the lazy (0) to the non-lazy prediction (1) sampled networks sit at 1."""
    rows, lazy, _ = outcome
    for row in rows:
        way = row["theory"] - lazy
        off = np.sqrt(np.mean((row["sample"] - row["theory"]) ** 2))
        assert below(off / np.sqrt(np.mean(way**2)), 0.03, "rms / way")
    assert agrees(places(rows, lazy), 1.0, noticed=0.05)


def test_order_parameters_are_training_residuals(outcome):
    """y - f = tau t, sample by sample: slope 1."""
    rows, *_ = outcome
    assert agrees(slopes(rows), 1.0, noticed=0.05)
    for row in rows:
        assert below(np.corrcoef(row["t"].ravel(), row["residual"].ravel())[0, 1] - 1, 1e-3, "correlation - 1")


def test_variance_of_the_outputs(outcome):
    """1/N fluctuations of the outputs on new inputs, in size and from input to input."""
    rows, *_ = outcome
    ratio = [np.sum(row["sample_variance"]) / np.sum(row["variance"]) for row in rows]
    assert agrees(ratio, 1.0, noticed=0.3)
    for row in rows:
        correlation = np.corrcoef(row["variance"].ravel(), row["sample_variance"].ravel())[0, 1]
        assert below(1 - correlation, 0.1, "1 - correlation of variances")
