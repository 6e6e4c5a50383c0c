"""Sampled networks whose layers have widths and scales of their own, against the theory at infinite width."""

from dataclasses import replace

import pytest
from margins import MAX_Z, below, beyond

import meanfield as mf

pytestmark = pytest.mark.statistical

OPTIONS = {"draws": 400, "warmup": 300, "thin": 2, "chains": 2, "progress": False}
WIDTHS = (40, 80)  # of the last layer
CASES = {
    # Planted with neurons of the theory; fractions of the codes are those of the chains.
    "sigmoid": (mf.Network("sigmoid", 2, layer_sigmas=(1.4,), width_ratios=(0.5,)), 40, 0.05, "sampled"),
    "linear": (
        mf.Network("linear", 3, layer_sigmas=(0.8, 1.3), width_ratios=(2.0, 0.5)), 20, 0.1, "equilibrium",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_theory_at_infinite_width(name):
    network, samples, tau, fractions = CASES[name]
    task = mf.class_task(targets=[1, -1], n_samples=samples)
    post = mf.solve(network, task, tau)
    start = post if name == "sigmoid" else "annealed"
    runs = [mf.sample(network, task, width, tau, start=start, rng=width, **OPTIONS) for width in WIDTHS]

    def trend(theory):
        """Deviations extrapolated to infinite width: their terms of order 1 / N are taken out."""
        chains = [replace(run, network=theory.network) for run in runs]
        found = mf.finite_size_trend([mf.compare(theory, one, fractions=fractions) for one in chains])
        return [row.z for row in found.rows]

    assert below(trend(post), MAX_Z)
    for uniform in ({"width_ratios": None}, {"layer_sigmas": None}):
        assert beyond(trend(mf.solve(network.with_(**uniform), task, tau)), MAX_Z)
