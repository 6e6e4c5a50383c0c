"""Finite P: every answer called optimal, integrated again by independent means; every other one raises in words."""

import numpy as np
import pytest
from finite_oracles import ball_residual, lattice_residual

import meanfield as mf
from meanfield.numerics.lattice_basis import aliasing, aliasing_length, unit_basis, unlike_shift
from meanfield.numerics.nonnegative import nonnegative_least_squares
from meanfield.posterior.certificate import ConvergenceError

NAMES = ["erf", "gelu", "hard_sigmoid", "hard_tanh", "leaky_relu", "logistic", "relu", "sigmoid"]
NAMES += ["softplus", "step", "tanh"]


def random_task(seed):
    """Network, task and tau: all activations in turn, C <= 6, m <= 6 in a span of at most two dimensions."""
    rng = np.random.default_rng([13, seed])
    name = NAMES[seed % len(NAMES)]
    n_classes, m = int(rng.integers(2, 7)), int(rng.integers(1, 7))
    rank = int(rng.integers(1, 3))
    targets = rng.uniform(-1, 1, (n_classes, rank)) @ rng.uniform(-1, 1, (rank, m))
    fractions = rng.dirichlet(np.full(n_classes, 4.0)) * 0.7 + 0.3 / n_classes
    n_samples = float(np.round(10 ** rng.uniform(np.log10(n_classes), 5)))
    n_samples = max(n_samples, float(np.ceil(1.0 / fractions.min())))  # a class has a sample
    tau = float(rng.choice([0.0, 1e-3, 0.1, 1.0]))
    network = mf.Network(name, sigma_a=float(rng.choice([0.5, 1.0, 2.0])), sigma_w=float(rng.choice([0.7, 1.0, 1.5])))
    task = mf.class_task(fractions=fractions / fractions.sum(), targets=targets, n_samples=n_samples)
    return network, task, tau


@pytest.mark.parametrize("seed", range(2 * len(NAMES)))
def test_optimal_means_stationary(seed):
    """A true residual above what the certificate says plus 1e-7 is caught; the lattice draws nothing."""
    network, task, tau = random_task(seed)
    message, found = "", None
    try:
        found = mf.solve(network, task, tau)
    except ConvergenceError as error:
        message = str(error)
    if found is None:
        assert f"P = {task.n_samples:g}" in message or "P ->" in message
        assert "t0" not in message
        assert "method=" not in message
        return
    assert found.certificate.kkt_residual <= 1e-6 * max(1.0, network.sigma_a)
    assert lattice_residual(network, task, tau, found.solution) <= found.certificate.kkt_residual + 1e-7


def test_five_outputs():
    """Laplace's method alone is off by 0.0077 here; three million nodes of a cubic lattice see 1e-6."""
    network = mf.Network("sigmoid")
    task = mf.class_task(n_classes=5, off=0.5, n_samples=20)
    found = mf.solve(network, task, 0.02)
    assert found.certificate.kkt_residual < 1e-6
    value, change = ball_residual(network, task, 0.02, found.solution)
    assert change < 2e-5  # of the last standard deviation; the next one holds a twentieth of that
    assert value < 1e-6


def test_laplace_alone_is_not_certified_where_it_is_wrong():
    from meanfield.activations.cumulant import cumulant
    from meanfield.theories.single_layer.finite.solver import finite_solve

    task = mf.class_task(n_classes=5, off=0.5)
    single_site = cumulant(mf.activation("sigmoid"))
    with pytest.raises(ConvergenceError, match="leaves out") as caught:
        finite_solve(single_site, task.fractions, task.targets, 0.02, 20.0, method="laplace")
    assert caught.value.result.residual > 0.0077


@pytest.mark.parametrize("dimension", range(1, 7))
def test_lattice_sum_of_a_gaussian(dimension):
    """Aliasing of exp(-P |a|^2 / 2), summed over the dual lattice: the bound holds and is nearly reached."""
    basis = aliasing_length(dimension, 1e-4, 7.0) * unit_basis(dimension)
    dual = np.linalg.inv(basis)
    index = np.stack(np.meshgrid(*[np.arange(-2, 3)] * dimension, indexing="ij"), axis=-1).reshape(-1, dimension)
    size = np.sum((index @ dual.T) ** 2, axis=1)
    phase = np.exp(2j * np.pi * index @ unlike_shift(dimension))
    terms = np.where(size > 0, np.exp(-2 * np.pi**2 * size / 7.0), 0.0)
    assert terms.sum() == pytest.approx(1e-4, rel=1e-3)
    assert terms.sum() <= aliasing(dimension, aliasing_length(dimension, 1e-4, 7.0), 7.0)
    # The shift changes the sign or the size of every leading error.
    leading = terms > 0.5 * terms.max()
    assert np.abs(phase[leading] - 1.0).min() > 0.5


def test_nonnegative_least_squares_without_columns_or_rows():
    x, distance = nonnegative_least_squares(np.empty((3, 0)), [3.0, 0.0, 4.0])
    assert x.shape == (0,)
    assert distance == 5.0
    x, distance = nonnegative_least_squares(np.empty((0, 2)), [])
    np.testing.assert_array_equal(x, 0.0)
    assert distance == 0.0
    with pytest.raises(ValueError, match="NaN or infinite"):
        nonnegative_least_squares([[np.nan]], [1.0])
    with pytest.raises(ValueError, match="shapes"):
        nonnegative_least_squares([[1.0]], [1.0, 2.0])
    np.testing.assert_allclose(nonnegative_least_squares([[2.0, -1.0], [0.0, 1.0]], [4.0, -1.0])[0], [2.0, 0.0])


def test_relu_with_one_direction_of_outliers():
    """No further outlier is near: the quadratic programme has no constraint."""
    found = mf.solve(mf.Network("relu"), mf.class_task(n_classes=2, n_samples=100), tau=1.0)
    assert found.status == "optimal"
