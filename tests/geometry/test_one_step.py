"""Capacity after one gradient step: limits, an independent simulation, and a network that takes the step."""

import numpy as np
import pytest

from meanfield import geometry
from meanfield.geometry.one_step import leaning_volumes, one_step_capacity


def test_limits():
    """Orthonormal points before the step (2 / M), a ray after an infinite one, a wedge for two points."""
    assert one_step_capacity(20, 0.0) == pytest.approx(4 / 20, abs=1e-12)
    assert one_step_capacity(20, 1e5) == pytest.approx(4.0, abs=1e-2)
    angle = np.arccos(0.5 / 1.5)
    assert 2 / one_step_capacity(2, 2 * np.sqrt(0.5)) == pytest.approx(0.5 + angle / np.pi, abs=1e-11)
    np.testing.assert_allclose(leaning_volumes(3, 0.0), np.array([1, 3, 3, 1]) / 8, atol=1e-12)


@pytest.mark.parametrize(("n", "lean"), [(5, 2.0), (20, 25.0), (60, 0.5)])
def test_against_projections(n, lean):
    """E[a] of the same cone by non-negative least squares: its fixed point lambda_i = (g_i.t - lean sum lambda)_+."""
    rng = np.random.default_rng(3)
    h = rng.standard_normal((4000, n)) + np.sqrt(lean) * rng.standard_normal((4000, 1))
    low, high = np.zeros((4000, 1)), np.maximum(h, 0).sum(axis=1, keepdims=True)
    for _ in range(60):
        middle = 0.5 * (low + high)
        below = np.maximum(h - lean * middle, 0).sum(axis=1, keepdims=True) > middle
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    weight = np.maximum(h - lean * low, 0)
    distance = (weight**2).sum(axis=1) + lean * weight.sum(axis=1) ** 2
    exact = np.arange(n + 1) @ leaning_volumes(n, lean)
    assert abs(distance.mean() - exact) < 5 * distance.std() / np.sqrt(4000)


def test_capacity_grows_with_the_step():
    values = [one_step_capacity(30, rate) for rate in (0, 3, 10, 30, 100, 300)]
    assert (np.diff(values) > 0).all()


def test_a_wide_network_after_one_step():
    """W random, one gradient step of a linear hidden layer on orthonormal inputs: GLUE of what it has become."""
    n, width, rate = 12, 4000, 20.0
    rng = np.random.default_rng(5)
    y = np.repeat([1.0, -1.0], n // 2)
    weights = rng.standard_normal((width, n)) / np.sqrt(width)
    readout = rng.standard_normal(width)
    readout /= np.linalg.norm(readout)
    after = weights + rate * np.outer(readout, y) / n  # inputs are the unit vectors
    features = after.T
    found = geometry.glue([features[:6], features[6:]], labels=[1, -1], n_probes=2000, seed=0)
    assert abs(found.capacity - one_step_capacity(n, rate)) < 5 * found.standard_errors["capacity"]


def test_refusals():
    with pytest.raises(ValueError, match="n_points"):
        one_step_capacity(1, 1.0)
    with pytest.raises(ValueError, match="learning_rate"):
        one_step_capacity(10, -1.0)
    with pytest.raises(ArithmeticError, match="take fewer points"):
        leaning_volumes(200, 1e3)
