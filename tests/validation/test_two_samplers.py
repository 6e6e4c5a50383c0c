"""Two samplers that share no code, one with the readout integrated out, agree on every statistic."""

import numpy as np
import pytest
import reference_sampler

import meanfield as mf
from meanfield.sampling.statistics import as_draws, estimate, observables

TAU = 0.05


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
    for one, other in zip(*(observables(as_draws(run), ("111",)) for run in runs), strict=True):
        assert one.name == other.name
        first, second = estimate(one.series), estimate(other.series)
        error = np.hypot(first.standard_error, second.standard_error)
        z = (first.value - second.value) / error
        # few chains: where they disagree the error has two degrees of freedom, five errors are not rare there
        reliable = np.minimum(first.dof, second.dof) > 20
        assert np.abs(z[reliable]).max(initial=0.0) < 4.5, one.name
        assert np.abs(z).max() < 12, one.name
        if one.group in ("residual", "kernel"):
            assert reliable.mean() > 0.5
