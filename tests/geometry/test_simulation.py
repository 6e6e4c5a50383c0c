"""Simulated capacity: Cover's theorem, the exact link to GLUE, monotone curves, inseparable draws."""

import numpy as np
import pytest
from margins import below
from problems import fixed_rng
from scipy.stats import binom

from meanfield.geometry import glue, simulated_capacity, spherical_manifolds

pytestmark = pytest.mark.statistical


def clouds_of(name):
    rng = np.random.default_rng(0)
    return {
        "spheres": lambda: spherical_manifolds(8, 60, 20, 4, 0.8, seed=1),
        "correlated centres": lambda: spherical_manifolds(8, 60, 20, 4, 0.8, center_corr=0.8, seed=2),
        "correlated axes": lambda: spherical_manifolds(8, 60, 20, 4, 1.2, axis_corr=0.9, seed=3),
        "relu": lambda: np.maximum(rng.standard_normal((10, 10, 50)) + rng.standard_normal((10, 1, 50)), 0.0),
        "few neurons": lambda: rng.standard_normal((6, 4, 30)) + rng.standard_normal((6, 1, 30)),
        "segments": lambda: rng.standard_normal((12, 2, 40)),
        "ragged": lambda: [rng.standard_normal((m, 50)) + rng.standard_normal(50) for m in (4, 7, 8, 5, 6, 4)],
    }[name]()


@pytest.mark.parametrize(
    "name", ["spheres", "correlated centres", "correlated axes", "relu", "few neurons", "segments", "ragged"]
)
@pytest.mark.parametrize("center", [False, True])
def test_equals_glue(name, center):
    clouds = clouds_of(name)
    simulated = simulated_capacity(clouds, n_draws=150, center=center, seed=4)
    theory = glue(clouds, n_probes=300, center=center, seed=5)
    error = np.hypot(simulated.standard_error, theory.standard_errors["capacity_faces"])
    assert below((simulated.capacity - theory.capacity_faces) / error)
    assert error < 0.05 * theory.capacity


def test_cover():
    """Points in general position: n_crit is 1 + Binomial(P - 1, 1/2) over random dichotomies."""
    points = np.random.default_rng(6).standard_normal((12, 1, 40))
    found = simulated_capacity(points, labels="random", n_draws=1500, seed=7)
    assert below((found.critical_dimension - 6.5) / found.standard_errors["critical_dimension"])
    grid = np.arange(1, 13)
    expected = binom.cdf(grid - 1, 11, 0.5)
    error = np.sqrt(expected * (1 - expected) / 1500) + 1e-3
    assert below((found.separability(grid) - expected) / error)


def test_median_definition():
    points = np.random.default_rng(8).standard_normal((12, 1, 40))
    found = simulated_capacity(points, labels="random", definition="median", n_draws=1500, seed=9)
    assert below((found.critical_dimension - 6.0) / found.standard_errors["critical_dimension"])  # P(n <= P/2) = 1/2
    assert found.capacity == pytest.approx(12 / found.critical_dimension)
    mean = simulated_capacity(points, labels="random", n_draws=1500, seed=9)
    assert np.array_equal(mean.n_crit, found.n_crit)
    assert 0.3 < found.standard_errors["critical_dimension"] / mean.standard_errors["critical_dimension"] < 3


def test_threads_and_seeds():
    clouds = spherical_manifolds(6, 40, 10, 3, 0.8, seed=10)
    first = simulated_capacity(clouds, n_draws=20, seed=11)
    assert np.array_equal(first.n_crit, simulated_capacity(clouds, n_draws=20, seed=11, threads=3).n_crit)
    assert not np.array_equal(first.n_crit, simulated_capacity(clouds, n_draws=20, seed=12).n_crit)


def test_bias_helps_where_the_origin_is_on_the_wrong_side():
    rng = fixed_rng(13)
    clouds = rng.standard_normal((6, 5, 30)) * 0.3 + rng.standard_normal((6, 1, 30)) + 3 * np.ones(30)
    without = simulated_capacity(clouds, n_draws=100, seed=14)
    with_bias = simulated_capacity(clouds, n_draws=100, bias=True, seed=14)
    # The common mean acts as a bias already; a second one costs a dimension and gains little.
    assert with_bias.options["bias"]
    assert below(with_bias.capacity / without.capacity - 1, 0.15, "with bias / without - 1")
    constant = simulated_capacity(clouds, labels="random", bias=True, n_draws=200, seed=15)
    assert constant.n_crit.min() == 1  # a constant dichotomy needs the bias alone
    zero = clouds.copy()
    zero[0, 0] = 0.0
    assert simulated_capacity(zero, n_draws=20, bias=True, seed=16).capacity > 0


def test_inseparable_draws():
    rng = fixed_rng(28)
    clouds = rng.standard_normal((6, 2, 6))
    labels = np.array([[1, 1, 1, -1, -1, -1], [1, -1, 1, -1, 1, -1], [1, -1, -1, 1, 1, -1], [-1, 1, 1, 1, -1, -1.0]])
    with pytest.warns(UserWarning, match="of the draws are inseparable"):
        found = simulated_capacity(clouds, labels=labels, n_draws=400, seed=18)
    assert 0 < found.fraction_inseparable <= 0.5
    assert found.separability(6) == pytest.approx(1 - found.fraction_inseparable)
    with pytest.warns(UserWarning, match="no solution"), pytest.warns(UserWarning, match="general position"):
        theory = glue(clouds, labels=labels, n_probes=2000, seed=19)
    assert found.fraction_inseparable == theory.fraction_inseparable
    # Counting them as rank + 1/2 keeps the identity with GLUE exact.
    error = np.hypot(found.standard_error, theory.standard_errors["capacity_faces"])
    assert below((found.capacity - theory.capacity_faces) / error)
    with pytest.raises(ValueError, match="of the draws are inseparable even with all 4 dimensions"):
        simulated_capacity(rng.standard_normal((6, 6, 4)), n_draws=20, seed=20)


def test_refusals():
    clouds = np.random.default_rng(21).standard_normal((4, 3, 12))
    with pytest.raises(ValueError, match="definition='mode'"):
        simulated_capacity(clouds, definition="mode")
    with pytest.raises(ValueError, match="n_draws"):
        simulated_capacity(clouds, n_draws=1)
    with pytest.raises(ValueError, match="threads"):
        simulated_capacity(clouds, threads=0)
