"""R-hat and effective sample sizes against arviz-stats and against processes whose answer is known."""

import numpy as np
import pytest
from margins import below

from meanfield.sampling.diagnostics import ess_bulk, ess_mean, ess_quantile, ess_tail, mcse_mean, rhat

SHAPES = [
    (4, 1000, 0.9),
    (4, 501, 0.5),
    (2, 100, -0.6),
    (4, 50, 0.99),
    (2, 4, 0.0),
    (3, 7, 0.0),
    (3, 10, 0.999),
    (2, 12, -0.95),
]


def autoregressive(chains, draws, memory, seed=0):
    noise = np.random.default_rng(seed).standard_normal((chains, draws))
    x = noise.copy()
    for i in range(1, draws):
        x[:, i] = memory * x[:, i - 1] + np.sqrt(1 - memory**2) * noise[:, i]
    return x


@pytest.mark.parametrize(("chains", "draws", "memory"), SHAPES)
def test_against_arviz(chains, draws, memory):
    stats = pytest.importorskip("arviz_stats.base", reason="arviz-stats is not installed").array_stats
    gaussian = autoregressive(chains, draws, memory)
    for x in (gaussian, gaussian**3, np.round(gaussian, 1), gaussian + np.arange(chains)[:, None]):
        assert rhat(x) == pytest.approx(stats.rhat(x), rel=1e-12)
        assert ess_bulk(x) == pytest.approx(stats.ess(x, method="bulk"), rel=1e-9)
        assert ess_tail(x) == pytest.approx(stats.ess(x, method="tail", prob=0.05), rel=1e-9)
        assert ess_mean(x) == pytest.approx(stats.ess(x, method="mean"), rel=1e-9)
        assert ess_quantile(x, 0.3) == pytest.approx(stats.ess(x, method="quantile", prob=0.3), rel=1e-9)
        assert mcse_mean(x) == pytest.approx(stats.mcse(x, method="mean"), rel=1e-9)


@pytest.mark.statistical
@pytest.mark.parametrize("memory", [0.0, 0.7, -0.5])
def test_autoregressive_process(memory):
    """ESS of the mean of an AR(1) process is n (1 - rho) / (1 + rho)."""
    x = autoregressive(4, 20_000, memory, seed=1)
    exact = x.size * (1 - memory) / (1 + memory)
    assert below(ess_mean(x) / exact - 1, 0.12, "ESS / exact - 1")
    assert below(x.mean() / mcse_mean(x))
    assert below(rhat(x) - 1, 0.0015, "R-hat - 1")


@pytest.mark.statistical
def test_chains_that_disagree():
    x = autoregressive(4, 500, 0.0)
    assert rhat(x + 3.0 * np.arange(4)[:, None]) > 1.5  # in location
    assert rhat(x * np.array([1.0, 1.0, 5.0, 5.0])[:, None]) > 1.1  # in scale only: seen by the folded draws
    assert ess_bulk(x + 3.0 * np.arange(4)[:, None]) < 10


def test_many_quantities_at_once():
    x = np.stack([autoregressive(3, 200, memory) for memory in (0.0, 0.5, 0.9, 0.2)], axis=2).reshape(3, 200, 2, 2)
    assert rhat(x).shape == (2, 2)
    assert ess_bulk(x)[1, 0] == ess_bulk(x[:, :, 1, 0])


def test_constant_and_bad_input():
    assert np.isnan(rhat(np.ones((2, 10))))
    assert np.isnan(ess_mean(np.ones((2, 10))))
    with pytest.raises(ValueError, match="at least 4 draws"):
        rhat(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="finite"):
        rhat(np.full((2, 10), np.nan))
