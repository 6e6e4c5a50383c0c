"""Pictures, comparisons and sweeps ask the division of the neurons: that of a third party is as good as ours."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from fake_chains import fake_chains

import meanfield as mf
from meanfield.phases.curves import LINE_QUANTITIES, line_quantities
from meanfield.plot.page import write_page
from meanfield.plot.sampling import plot_readouts
from meanfield.posterior import registry
from meanfield.posterior.division import ByCode, Division, Members, OfOneGaussian, WithOutliers

NETWORK = mf.Network("sigmoid")


class BySpecialty(Division):
    """Every neuron belongs to the class that it answers to most."""

    quantity, key, carriers, freezes = "specialists", "class", "specialists", False

    def words(self, activation, network, layer=-1):
        return 1 << (activation.shape[-1] - 1 - np.argmax(activation, axis=-1))

    def label(self, word, n_classes):
        return f"of class {n_classes - int(word).bit_length() + 1}"

    def patterns(self, words, n_classes):
        return [format(int(word), f"0{n_classes}b") for word in np.unique(words)[::-1]]

    def members(self, words, patterns):
        return Members({f"class {p.index('1') + 1}": words == int(p, 2) for p in patterns}, {})

    def carrying(self, words):
        return words > 1

    def line(self, diagram):
        return {"codes": np.array([float(len(names)) for names in diagram.patterns])}

    def phase_name(self, codes, n_codes, sharing):
        return f"{n_codes} kinds"

    def readout_unit(self, width):
        return 2.0, "/2"


@pytest.fixture
def third_party(monkeypatch):
    def division(network, task):
        return BySpecialty() if network.activation.name == "sigmoid" else None

    theory = SimpleNamespace(
        name="specialty", answers="specialists", sweeps=False, refuses=lambda p: "it is for a test"
    )
    theory.division = division
    known = registry.theories()
    monkeypatch.setattr(registry, "theories", lambda: (theory, *known))


def chains():
    generator = np.random.default_rng(5)
    activation = generator.uniform(size=(2, 6, 30, 3))
    return fake_chains(NETWORK, generator.normal(size=(2, 6, 30, 3)), activation)


def test_the_division_of_a_network_is_that_of_its_theory_or_of_the_growth_of_phi(third_party):
    task = mf.class_task(n_classes=3)
    assert isinstance(registry.division_of(NETWORK, task), BySpecialty)
    for phi, kind in (("tanh", ByCode), ("relu", WithOutliers), ("linear", OfOneGaussian)):
        assert type(registry.division_of(mf.Network(phi), task)) is kind
        assert mf.solve(mf.Network(phi), task).division is registry.division_of(mf.Network(phi), task)
    assert LINE_QUANTITIES["outliers"] == (WithOutliers.quantity, WithOutliers.key)


def test_sampled_networks_are_summarized_by_it(third_party):
    found = mf.summarize(chains())
    assert [code.label for code in sorted(found.codes, key=lambda c: c.label)] == ["class 1", "class 2", "class 3"]
    assert sum(float(code.fraction.value) for code in found.codes) == pytest.approx(1.0)
    assert not found.outliers


def test_their_codes_are_followed_by_it(third_party):
    found = mf.drift(chains())
    assert found.coding == "specialists"
    carrying = np.argmax(chains().class_activation[:, 0], axis=-1) < 2
    changed = np.argmax(chains().class_activation, axis=-1)
    kept = [np.mean((changed[k, 0] == changed[k, -1])[carrying[k]]) for k in range(2)]
    assert found.persistence == pytest.approx(np.mean(kept))


def test_they_are_drawn_and_compared_by_it(third_party):
    post = mf.solve(NETWORK, mf.class_task([0.5, 0.25, 0.25], off=0.5, n_samples=16), tau=0.1)
    comparison = mf.compare(post, chains())  # shares that do not freeze: the equilibrium
    assert {row.name.partition(" [")[0] for row in comparison.rows} >= {"residual", "fraction class 1"}
    ax = plot_readouts(comparison)
    assert ax.get_xlabel().endswith("/2")
    assert set(ax.get_legend_handles_labels()[1]) == {"of class 1", "of class 2", "of class 3"}
    plt.close("all")


def test_sweeps_are_named_and_drawn_by_it(third_party, tmp_path):
    diagram = mf.sweep(NETWORK, mf.class_task([0.5, 0.25, 0.25]), off=[0.2, 0.5])
    assert set(diagram.phase_labels) <= {"3 kinds", "4 kinds"}
    np.testing.assert_array_equal(line_quantities(diagram)["codes"], [len(names) for names in diagram.patterns])
    ax = mf.plot.plot_weights(diagram)
    assert ax.get_ylabel() == "specialists"
    plt.close("all")
    pytest.importorskip("bokeh", reason="pages need the extra html")
    assert write_page([diagram], tmp_path / "page").exists()


def test_level_of_outliers_is_that_of_their_layer():
    """2.5 standard deviations of the prior: sigma_w^2 sigma_2^2 / 2 and half of sigma_3^2 times that for a ReLU."""
    network = mf.Network("relu", 3, sigma_w=1.5, layer_sigmas=[4.0, 0.1])
    level = [WithOutliers().threshold(network, layer) for layer in (1, 2, -1)]
    second = 16.0 * 1.5**2 / 2.0
    np.testing.assert_allclose(level, 2.5 * np.sqrt([1.5**2, second, 0.01 * second / 2.0]), rtol=1e-10)
    rng = np.random.default_rng(0)
    first = np.maximum(1.5 * rng.normal(size=(1500, 20)), 0.0)
    above = np.maximum(4.0 / np.sqrt(1500) * rng.normal(size=(1500, 1500)) @ first, 0.0)
    mean = above.reshape(1500, 2, 10).mean(axis=2)
    assert (WithOutliers().words(mean, network, 2) > 0).mean() < 1e-2
