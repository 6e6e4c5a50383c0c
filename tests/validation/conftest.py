"""Networks sampled once for all tests of this folder: sigmoid, three classes, P = 60, two widths."""

import pytest

import meanfield as mf

TAU = 0.02


@pytest.fixture(scope="session")
def problem():
    """Network, task at finite P, and the theory of both."""
    network = mf.Network("sigmoid")
    task = mf.class_task([0.5, 0.25, 0.25], off=0.5, n_samples=60)
    return network, task, mf.solve(network, task, TAU)


@pytest.fixture(scope="session")
def chains(problem):
    """Chains by width, started from neurons drawn from the theory."""
    network, task, posterior = problem
    options = {"draws": 120, "chains": 8, "warmup": 150, "thin": 2, "start": posterior, "progress": False}
    return {width: mf.sample(network, task, width, TAU, rng=width, **options) for width in (50, 100)}
