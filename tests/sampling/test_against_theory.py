"""Wide sampled networks against `meanfield.solve` where the theory is exact up to known orders of 1 / N."""

import numpy as np
import pytest
from margins import below, beyond
from problems import fixed_rng

import meanfield as mf
from meanfield.sampling.diagnostics import mcse_mean

pytestmark = pytest.mark.statistical
RNG = fixed_rng(6)
INPUTS, NEW = RNG.standard_normal((8, 5)), RNG.standard_normal((4, 5))
TASK = mf.data_task(INPUTS, labels=np.repeat([0, 1], 4), center=True)


def moments(chains):
    """Mean and variance of the predictor over the posterior, each with its Monte-Carlo error."""
    f = chains.prediction
    square = (f - f.mean(axis=(0, 1))) ** 2
    return f.mean(axis=(0, 1)), mcse_mean(f), square.mean(axis=(0, 1)), mcse_mean(square)


@pytest.mark.parametrize(("phi", "depth", "width"), [("sigmoid", 1, 300), ("relu", 1, 300), ("tanh", 2, 120)])
def test_lazy_network_is_a_gaussian_process(phi, depth, width):
    network = mf.Network(phi, depth=depth, scaling="lazy", sigma_a=2.0, sigma_w=1.3)
    post = mf.solve(network, TASK, tau=0.1)
    chains = mf.sample(network, TASK, width, 0.1, inputs=NEW, draws=400, warmup=300, chains=2, rng=2, progress=False)
    mean, error, variance, variance_error = moments(chains)
    wanted, wanted_variance = post.predict(NEW, variance=True)
    # Corrections of order 1 / N to mean and variance.
    own = 2 * np.abs(wanted).max() / width
    assert below((mean - wanted) / np.hypot(error, own))
    other = mf.solve(network, TASK, tau=0.3).predict(NEW)
    assert beyond((mean - other) / np.hypot(error, own))
    wanted_variance = np.broadcast_to(np.reshape(wanted_variance, (4, -1)), variance.shape)
    assert below((variance - wanted_variance) / np.hypot(variance_error, 5 * wanted_variance / width), what="|z| of V")


def test_linear_network_on_data():
    """Mean predictor and its variance / N; corrections of order 1 / N are extrapolated from two widths."""
    network, tau = mf.Network("linear"), 0.3
    post = mf.solve(network, TASK, tau=tau)
    found = []
    for width in (40, 80):
        chains = mf.sample(
            network, TASK, width, tau, inputs=NEW, draws=1000, warmup=300, chains=2, rng=width, progress=False
        )
        found.append(moments(chains))
    wanted, wanted_variance = post.predict(NEW, variance=True, width=1)
    (mean, error, variance, variance_error), wide = found
    extrapolated, spread = 2 * wide[0] - mean, np.hypot(2 * wide[1], error)
    assert below((extrapolated - wanted) / spread)
    assert beyond((extrapolated - mf.solve(network, TASK, tau=1.2 * tau).predict(NEW)) / spread)
    scaled, scaled_error = 2 * 80 * wide[2] - 40 * variance, np.hypot(2 * 80 * wide[3], 40 * variance_error)
    wanted_variance = np.broadcast_to(np.reshape(wanted_variance, (4, -1)), scaled.shape)
    assert below((scaled - wanted_variance) / scaled_error, what="|z| of V")
