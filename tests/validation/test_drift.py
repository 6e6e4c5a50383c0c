"""Frozen codes of sigmoid and ReLU, drifting codes of linear networks."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from fake_chains import fake_chains
from margins import below

import meanfield as mf
from meanfield.plot.sampling import figure_drift

TAU = 0.02


@pytest.fixture(scope="module")
def drifts():
    """Three networks, P = 80 (ReLU 100), N = 40, 60 draws of every fourth trajectory, two chains."""
    found = {}
    for name, off, n_samples in (("sigmoid", 0.2, 80), ("relu", 0.0, 100), ("linear", 0.0, 80)):
        network = mf.Network(name)
        task = mf.class_task([0.5, 0.25, 0.25], off=off, n_samples=n_samples)
        posterior = mf.solve(network, task, TAU)
        options = {"draws": 60, "warmup": 100, "thin": 4, "chains": 2, "progress": False}
        found[name] = mf.drift(mf.sample(network, task, 40, TAU, rng=0, start=posterior, **options))
    return found


@pytest.mark.statistical
def test_sigmoid_keeps_its_codes(drifts):
    drift = drifts["sigmoid"]
    assert below(1 - drift.persistence, 0.07, "1 - persistence")
    assert below(drift.chance, 0.5, "chance")
    assert below(1 - drift.final_overlap, 0.1, "1 - overlap")


@pytest.mark.statistical
def test_relu_keeps_its_outliers(drifts):
    drift = drifts["relu"]
    outliers = drift.words > 0
    assert outliers.sum() == 3  # one for each class
    assert drift.persistence == 1.0
    assert below(drift.chance, 0.1, "chance")
    assert "100.0 % of the outliers" in repr(drift)
    assert below(1 - drift.final_overlap, 0.1, "1 - overlap")
    change = drift.last[outliers].max(axis=1) / drift.first[outliers].max(axis=1) - 1
    assert below(change, 0.15, "change of the outliers")


@pytest.mark.statistical
def test_linear_drifts(drifts):
    drift = drifts["linear"]
    assert below(drift.persistence - drift.chance, 0.2, "persistence - chance")
    assert below(drift.final_overlap, 0.35, "overlap")
    assert drift.overlap[0] == pytest.approx(1.0)
    assert below(drift.overlap[5], 0.9, "overlap at lag 5")


def test_picture_shows_the_same_neurons_twice(drifts):
    figure = figure_drift(list(drifts.values()))
    axes = figure.axes
    for row, drift in enumerate(drifts.values()):
        first, last, curve = axes[3 * row : 3 * row + 3]
        one, other = (ax.images[0].get_array() for ax in (first, last))
        assert one.shape == other.shape
        at = [int(np.flatnonzero((drift.first == values).all(axis=1))[0]) for values in np.asarray(one)]
        np.testing.assert_array_equal(other, drift.last[at])
        assert (np.diff(drift.words[at]) <= 0).all()  # sorted by code in the first draw
        np.testing.assert_array_equal(curve.lines[0].get_xdata(), drift.lags)
    plt.close("all")
    plt.close(drifts["linear"].plot())


def test_words_and_overlap_of_made_up_chains():
    """Neurons that exchange their codes halfway: the overlap drops to zero, persistence to chance."""
    activation = np.zeros((2, 10, 8, 3))
    activation[:, :5, :4] = activation[:, 5:, 4:] = (0.9, 0.9, 0.1)
    activation[:, :5, 4:] = activation[:, 5:, :4] = (0.1, 0.1, 0.9)
    drift = mf.drift(fake_chains(mf.Network("sigmoid"), np.ones((2, 10, 8, 3)), activation))
    assert drift.persistence == 0.0
    assert drift.chance == pytest.approx(0.5)
    assert drift.final_overlap == pytest.approx(-1.0)
    assert "0.0 % of the neurons" in repr(drift)


@pytest.mark.statistical
def test_layers_of_a_deep_network():
    """Codes of the last layer are frozen, those of the first drift."""
    network = mf.Network("sigmoid", depth=2)
    task = mf.class_task(targets=[1, -1], n_samples=24)
    options = {"draws": 30, "warmup": 100, "thin": 4, "chains": 2, "start": "annealed", "progress": False}
    chains = mf.sample(network, task, 30, 0.05, rng=0, **options)
    top, low = mf.drift(chains), mf.drift(chains, layer=1)
    np.testing.assert_allclose(chains.class_activations(-1, "last")[0], top.last, atol=1e-12)
    np.testing.assert_allclose(chains.class_activations(1, "first")[0], low.first, atol=1e-12)
    assert (low.layer, top.layer) == (1, 2)
    assert mf.drift(chains, layer=2).final_overlap == top.final_overlap
    np.testing.assert_array_equal(low.lags, top.lags)
    assert top.lags[-1] == 29
    assert below(1 - top.final_overlap, 0.15, "1 - overlap of the top layer")
    assert below(low.final_overlap - top.final_overlap + 1, 1.0, "1 + low - top")  # the code sharpens with depth
    with pytest.raises(ValueError, match=r"layer must be an integer 1\.\.2"):
        mf.drift(chains, layer=3)
    with pytest.raises(ValueError, match=r"1\.\.2.*got 0"):
        mf.drift(chains, layer=0)


def test_a_bulk_without_outliers_has_no_codes():
    activation = np.random.default_rng(0).random((2, 10, 8, 3))
    drift = mf.drift(fake_chains(mf.Network("relu"), np.ones((2, 10, 8, 3)), activation))
    assert np.isnan(drift.persistence)
    assert np.isnan(drift.chance)
    assert abs(drift.final_overlap) < 0.5


def test_short_chains_are_refused():
    short = fake_chains(mf.Network("sigmoid"), np.ones((2, 1, 8, 3)), np.ones((2, 1, 8, 3)))
    with pytest.raises(ValueError, match="at least 2 draws"):
        mf.drift(short)
