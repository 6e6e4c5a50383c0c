"""Two samplers that share no code, one with the readout integrated out, agree on every statistic."""

import numpy as np
import pytest
import reference_sampler
from margins import below, beyond

import meanfield as mf
from meanfield.sampling.statistics import as_draws, estimate, normal_deviate, observables

TAU = 0.05


@pytest.mark.statistical
@pytest.mark.parametrize(("name", "off"), [("sigmoid", 0.5), ("linear", 0.0)])
def test_two_samplers_agree(name, off):
    network = mf.Network(name)
    task = mf.class_task([0.5, 0.25, 0.25], off=off, n_samples=24)
    posterior = mf.solve(network, task, TAU)
    options = {"draws": 150, "warmup": 100, "chains": 3, "thin": 2, "start": posterior}
    runs = (
        mf.sample(network, task, 20, TAU, rng=1, progress=False, **options),
        reference_sampler.sample(network, task, 20, TAU, seed=2, **options),
    )
    assert below(np.concatenate([deviations(*pair) for pair in same(*runs)]))
    warmer = mf.sample(network, task, 20, 1.3 * TAU, rng=1, progress=False, **options)
    assert beyond(np.concatenate([deviations(*pair) for pair in same(warmer, runs[1])]))


def same(*runs):
    """Pairs of the same observable."""
    return zip(*(observables(as_draws(run), ("111",)) for run in runs), strict=True)


def deviations(one, other):
    """Differences of the means as normal deviates: where the chains disagree the errors have two degrees of freedom."""
    assert one.name == other.name
    first, second = estimate(one.series), estimate(other.series)
    error = np.hypot(first.standard_error, second.standard_error)
    return np.ravel(normal_deviate((first.value - second.value) / error, np.minimum(first.dof, second.dof)))
