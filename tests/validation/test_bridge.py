"""Representations of sampled networks, and of neurons drawn from the theory, go straight into the geometry."""

import numpy as np
import pytest
from margins import below, beyond

import meanfield as mf

TAU = 0.02


@pytest.mark.statistical
@pytest.mark.parametrize(("name", "off"), [("linear", 0.0), ("sigmoid", 0.5)])
def test_sampled_network_and_theory_have_the_same_geometry(name, off):
    network = mf.Network(name)
    task = mf.class_task([0.5, 0.25, 0.25], off=off, n_samples=64)
    posterior = mf.solve(network, task, TAU)
    options = {"draws": 4, "warmup": 120, "start": "annealed", "progress": False}
    chains = mf.sample(network, task, 100, TAU, chains=8, rng=0, **options)
    features = chains.activations(layer=-1, at="last")  # (chains, N, P)
    assert features.shape == (8, 100, 64)
    drawn = [posterior.sample_neurons(100, rng=i, samples_per_class=[32, 16, 16]) for i in range(8)]
    theory = geometry((one.activations for one in drawn), drawn[0].labels)
    sampled = geometry(features, chains.labels)
    prior = np.asarray(network.activation(np.random.default_rng(3).standard_normal((1, 100, 64))))
    random = geometry(prior, chains.labels)
    assert beyond(sampled[0] / random[0], 2.0, "capacity, learned / random")
    for name, deviation in zip(("capacity", "radius", "dimension"), sampled / theory - 1):
        assert below(deviation, 0.15, name)


def geometry(networks, labels):
    """Capacity, radius and dimension, mean over networks (N, P)."""
    found = [mf.geometry.glue(mf.geometry.group_by_label(phi.T, labels), seed=2) for phi in networks]
    return np.mean([(one.capacity, one.radius, one.dimension) for one in found], axis=0)
