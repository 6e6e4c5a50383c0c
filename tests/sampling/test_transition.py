"""Whether the Markov chain leaves the posterior as it is: joint-distribution test and simulation-based calibration."""

import dataclasses

import numpy as np
import pytest
from margins import below, beyond
from problems import fixed_rng
from scipy.stats import chi2, norm

import meanfield as mf
from meanfield.sampling import hmc
from meanfield.sampling.diagnostics import mcse_mean
from meanfield.sampling.problem import problem

TINY = mf.class_task(fractions=[0.5, 0.25, 0.25], n_samples=4)
DATA = mf.data_task(fixed_rng(2).standard_normal((5, 2)), np.eye(5)[:, :2])
SETTINGS = hmc.Settings(draws=1, warmup=0, thin=1, length=1.0, target_acceptance=0.8, max_steps=100, annealed=False)


def begin(posed, seed, step=0.35):
    """A chain that starts from the prior, with a fixed step size."""
    chain = hmc._Chain(hmc.Job(posed, SETTINGS, np.random.SeedSequence(seed)))
    chain.adaptation = hmc.DualAveraging.begin(0.8, step)
    return chain


def observe_targets(chain, rng):
    """New targets drawn from the network that the chain is at."""
    posed = chain.problem
    hmc.forward(chain.target, chain.x, posed.readout(chain.x), chain.work)
    f = chain.work.residual.T + posed.targets
    y = f + rng.standard_normal(f.shape) / np.sqrt(posed.coldness)
    chain.problem = dataclasses.replace(posed, targets=y)
    chain.target = chain.target._replace(targets=np.ascontiguousarray(y.T))


def functionals(chain):
    x, n = chain.x, chain.problem.n_hidden
    first = x[: chain.problem.rank]
    return [
        x[0],
        x[-1],
        x[n],
        np.mean(x[:n] ** 2),
        np.mean(x[n:] ** 2),
        np.mean(first) * x[n],
        np.mean(x[:n] ** 4),
        x[0] ** 2 * x[n] ** 2,
    ]


def joint_distribution(posed, seed, rounds, spoil=None):
    """z-scores of the prior means of `functionals` when targets and weights are drawn in turn (Geweke 2004)."""
    chain, rng = begin(posed, seed), np.random.default_rng(seed)
    if spoil:
        spoil(chain)
    rows = []
    for _ in range(rounds):
        observe_targets(chain, rng)
        chain.advance()
        rows.append(functionals(chain))
    draws = np.array(rows)[None]
    prior = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 3.0, 1.0])  # all weights are standard normal
    return (draws.mean(axis=(0, 1)) - prior) / mcse_mean(draws), np.mean(chain.records["acceptance"])


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("network", "task", "width", "tau"),
    [
        (mf.Network("sigmoid", sigma_w=2.0, sigma_a=2.0), TINY, 3, 0.2),
        (mf.Network("relu", sigma_a=2.0), DATA, 6, 1.0),
        (mf.Network("tanh", depth=2, sigma_a=2.0, scaling="lazy"), TINY, 3, 1.0),
    ],
    ids=["sigmoid", "ReLU, data", "L=2, lazy"],
)
def test_joint_distribution(network, task, width, tau):
    z, acceptance = joint_distribution(problem(network, task, width, tau), 4, 6000)
    assert below(
        acceptance - 0.7475, 0.2475, "acceptance - 0.7475"
    )  # proposals are refused now and then: the test sees the accept step
    assert below(z)


@pytest.mark.statistical
def test_joint_distribution_sees_a_wrong_sampler():
    posed = problem(mf.Network("sigmoid", sigma_w=2.0, sigma_a=2.0), TINY, 3, 0.2)

    def colder(chain):  # trajectories at T / 2
        chain.coldness = lambda: 2 * chain.problem.coldness

    z, _ = joint_distribution(posed, 4, 6000, colder)
    assert beyond(z)


@pytest.mark.statistical
def test_simulation_based_calibration():
    """Ranks of the true value among posterior draws are uniform (Talts et al. 2018)."""
    posed = problem(mf.Network("sigmoid", sigma_w=1.5, sigma_a=2.0), TINY, 3, 0.1)
    assert below(calibration(posed, 1.0))
    assert beyond(calibration(posed, 4.0, runs=100))  # trajectories at T / 4


def calibration(posed, factor, runs=160, kept=15, bins=8):
    """Normal deviates of the chi-square tests for uniform ranks, of chains with trajectories at T / factor."""
    ranks = []
    for run in range(runs):
        chain, rng = begin(posed, 1000 + run, step=0.3), np.random.default_rng(run)
        observe_targets(chain, rng)  # targets from weights drawn from the prior
        truth = invariants(chain)
        chain.coldness = lambda chain=chain: factor * chain.problem.coldness
        chain.x = rng.standard_normal(chain.x.size)  # start elsewhere
        for _ in range(40):
            chain.advance()
        draws = []
        for _ in range(kept):
            for _ in range(4):
                chain.advance()
            draws.append(invariants(chain))
        ranks.append(np.sum(np.array(draws) < truth, axis=0))
    counts = [np.bincount(column * bins // (kept + 1), minlength=bins) for column in np.array(ranks).T]
    statistics = [np.sum((n - runs / bins) ** 2) / (runs / bins) for n in counts]
    return np.maximum(0.0, norm.isf(chi2.sf(statistics, bins - 1)))


def invariants(chain):
    """Output on a sample, squared readout and hidden weights: what does not depend on the order of neurons."""
    posed, x = chain.problem, chain.x
    hmc.forward(chain.target, x, posed.readout(x), chain.work)
    f = chain.work.residual + posed.targets.T
    return np.array([f[0, 0], f[1, 3], np.sum(posed.readout(x) ** 2), np.sum(x[: posed.n_hidden] ** 2)])


def test_dual_averaging_reaches_the_target():
    """For an acceptance that falls with the step as exp(-step), the step goes to -ln(0.8)."""
    adaptation = hmc.DualAveraging.begin(0.8, 5.0)
    for _ in range(2000):
        adaptation.update(float(np.exp(-np.exp(adaptation.log_step))))
    assert np.exp(adaptation.log_mean) == pytest.approx(-np.log(0.8), rel=0.02)


@pytest.mark.statistical
def test_warm_up_tunes_and_draws_do_not():
    task = mf.class_task(n_classes=2, on=1, off=-1, n_samples=40)
    posed = problem(mf.Network("sigmoid"), task, 40, 0.05)
    settings = dataclasses.replace(SETTINGS, draws=60, warmup=300, annealed=True, length=1.5, max_steps=1000)
    chain = hmc._Chain(hmc.Job(posed, settings, np.random.SeedSequence(3)))
    cold = []
    for _ in range(300):
        cold.append(chain.coldness())
        chain.advance()
    assert np.all(np.diff(cold[:180]) > 0)  # cooled from where the data hardly matter
    assert cold[0] * np.sum(posed.targets**2) <= 1.0 + 1e-12
    assert set(cold[180:]) == {posed.coldness}
    step = chain.adaptation.log_mean
    for _ in range(60):
        chain.advance()
    assert chain.adaptation.log_mean == step
    assert below(np.mean(chain.records["acceptance"]) - 0.8, 0.15, "acceptance - 0.8")
