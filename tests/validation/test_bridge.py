"""Representations of sampled networks, and of neurons drawn from the theory, go straight into the geometry."""

import numpy as np
import pytest

import meanfield as mf

TAU = 0.02


@pytest.mark.parametrize(("name", "off"), [("linear", 0.0), ("sigmoid", 0.5)])
def test_sampled_network_and_theory_have_the_same_geometry(name, off):
    network = mf.Network(name)
    task = mf.class_task([0.5, 0.25, 0.25], off=off, n_samples=64)
    posterior = mf.solve(network, task, TAU)
    chains = mf.sample(network, task, 100, TAU, draws=4, warmup=120, chains=2, rng=0, start="annealed", progress=False)
    drawn = posterior.sample_neurons(100, rng=1, samples_per_class=[32, 16, 16])
    theory = mf.geometry.glue(mf.geometry.group_by_label(drawn.activations.T, drawn.labels), seed=2)
    features = chains.activations(layer=-1, at="last")  # (chains, N, P)
    assert features.shape == (2, 100, 64)
    prior = np.asarray(network.activation(np.random.default_rng(3).standard_normal((100, 64))))
    random = mf.geometry.glue(mf.geometry.group_by_label(prior.T, chains.labels), seed=2)
    for network_features in features:
        sampled = mf.geometry.glue(mf.geometry.group_by_label(network_features.T, chains.labels), seed=2)
        assert sampled.capacity > 2 * random.capacity  # learned
        assert sampled.capacity == pytest.approx(theory.capacity, rel=0.12)
        assert sampled.radius == pytest.approx(theory.radius, rel=0.12)
        assert sampled.dimension == pytest.approx(theory.dimension, rel=0.15)
