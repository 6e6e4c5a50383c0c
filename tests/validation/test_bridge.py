"""Representations of sampled networks, and of neurons drawn from the theory, go straight into the geometry."""

import numpy as np
import pytest
from margins import below, beyond, reach

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
    theory, theory_error = geometry((one.activations for one in drawn), drawn[0].labels)
    sampled, sampled_error = geometry(features, chains.labels)
    prior = np.asarray(network.activation(np.random.default_rng(3).standard_normal((1, 100, 64))))
    random, _ = geometry(prior, chains.labels)
    assert beyond(sampled[0] / random[0], 2.0, "capacity, learned / random")
    # At N = 100, 200 and 12 networks the radius differs by 0.057, 0.033 +- 0.009 (sigmoid), 0.024 +- 0.008 (linear).
    of_width = 6.0 / 100
    error = np.hypot(sampled_error / sampled, theory_error / theory)
    for name, deviation, own in zip(("capacity", "radius", "dimension"), sampled / theory - 1, error):
        assert below(deviation, reach(own, 14, of_width), name)
    assert beyond(random[0] / theory[0] - 1, reach(error[0], 14, of_width), "capacity of random features")


def geometry(networks, labels):
    """Capacity, radius and dimension: mean over networks (N, P), standard error."""
    found = [mf.geometry.glue(mf.geometry.group_by_label(phi.T, labels), seed=2) for phi in networks]
    values = np.array([(one.capacity, one.radius, one.dimension) for one in found])
    return values.mean(axis=0), values.std(axis=0, ddof=min(1, len(values) - 1)) / np.sqrt(len(values))
