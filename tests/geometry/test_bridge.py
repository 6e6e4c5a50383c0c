"""Representations drawn from a solved theory go straight into the geometry."""

import numpy as np
import pytest
from margins import below, beyond

import meanfield as mf


@pytest.mark.statistical
def test_learning_raises_the_capacity_of_drawn_neurons():
    posterior = mf.solve(mf.Network("linear"), mf.class_task(fractions=[0.5, 0.25, 0.25]))
    neurons = posterior.sample_neurons(300, rng=0, samples_per_class=60)
    learned = mf.geometry.glue((neurons.activations.T, neurons.labels), seed=1)
    prior = np.random.default_rng(2).standard_normal(neurons.activations.T.shape)
    random = mf.geometry.glue((prior, neurons.labels), seed=1)
    assert learned.n_manifolds == 3
    assert beyond(learned.capacity / random.capacity, 3.0, "capacity, learned / random")
    assert below(learned.radius / random.radius, 0.6, "radius, learned / random")
    collapse = mf.geometry.neural_collapse((neurons.activations.T, neurons.labels))
    assert collapse.nearest_center_error == 0.0
    assert below(collapse.nc1, 0.05, "nc1")
