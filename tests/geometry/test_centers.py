"""Correlations of class centres and their removal."""

import numpy as np
import pytest
from margins import below, beyond

from meanfield.geometry import (
    center_correlation,
    glue,
    remove_center_components,
    replica_capacity,
    simulated_capacity,
    spherical_manifolds,
)
from meanfield.geometry.centers import correlation_cost


def correlated_points(seed=1, P=40):
    """Spheres whose centres share a plane."""
    rng = np.random.default_rng(seed)
    spheres = spherical_manifolds(P, 200, 20, 3, 0.5, seed=seed)
    plane = np.linalg.qr(rng.standard_normal((200, 2)))[0].T
    return spheres + (1.5 * rng.standard_normal((P, 2)) @ plane)[:, None, :], plane


def test_gradient_of_the_cost():
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((9, 6))
    directions = np.linalg.qr(rng.standard_normal((6, 2)))[0]
    _, gradient = correlation_cost(centers, directions)
    step = 1e-6
    for i in range(6):
        for j in range(2):
            move = np.zeros((6, 2))
            move[i, j] = step
            # The cost is defined through V V^T and needs no orthonormal columns for its derivative.
            up, down = (gram_cost(centers, directions + s * move) for s in (1, -1))
            assert gradient[i, j] == pytest.approx((up - down) / (2 * step), abs=1e-6)


def gram_cost(centers, V):
    gram = centers @ (np.eye(len(V)) - V @ V.T) @ centers.T
    return 0.5 * np.sum(gram**2 / np.outer(np.diag(gram), np.diag(gram)))


def test_cost_is_half_the_sum_of_squared_cosines():
    rng = np.random.default_rng(1)
    centers = rng.standard_normal((7, 5))
    unit = centers / np.linalg.norm(centers, axis=1)[:, None]
    cost, _ = correlation_cost(centers, np.zeros((5, 0)))
    assert cost == pytest.approx(0.5 * np.sum((unit @ unit.T) ** 2))


@pytest.mark.statistical
def test_finds_the_common_plane():
    points, plane = correlated_points()
    cleaned, components = remove_center_components(points, seed=2)
    # The plane, and in some draws of the spheres a direction that a few centres share by chance.
    assert 2 <= components.n_components <= 4
    assert components.center_correlation > 0.3
    assert below(components.residual_correlation, 0.1, "residual correlation")
    assert components.center_correlation == pytest.approx(center_correlation(points))
    overlap = np.linalg.svd(components.directions @ plane.T, compute_uv=False)
    assert below(1 - overlap.min(), 0.05, "1 - overlap with the plane")
    assert np.abs(np.concatenate(cleaned) @ components.directions.T).max() < 1e-10
    assert center_correlation(cleaned) == pytest.approx(components.residual_correlation)
    assert np.argmin(components.correlation_path) == components.n_components
    again = remove_center_components(points, seed=2)[1]
    assert np.array_equal(again.directions, components.directions)


@pytest.mark.statistical
def test_uncorrelated_centres_lose_nothing():
    points = spherical_manifolds(30, 300, 10, 3, 0.5, seed=3)
    _, components = remove_center_components(points, seed=4)
    assert components.n_components == 0
    assert components.correlation_path[0] < components.correlation_path[1]


@pytest.mark.statistical
@pytest.mark.parametrize("P", [2, 3, 4, 5, 8])
def test_small_numbers_of_classes(P):
    points = spherical_manifolds(P, 50, 10, 3, 0.5, center_corr=0.8, seed=5)
    cleaned, components = remove_center_components(points, seed=6)
    assert components.n_components <= max(0, P - 3)
    assert len(cleaned) == P
    if P <= 4:
        assert components.n_components == 0


@pytest.mark.statistical
def test_corrected_replica_agrees_with_glue_and_simulation():
    points, _ = correlated_points()
    raw = replica_capacity(points, remove_correlations=False, seed=7)
    corrected = replica_capacity(points, seed=7)
    joint = glue(points, seed=8)
    simulated = simulated_capacity(points, n_draws=60, seed=9)
    assert 2 <= corrected.n_components <= 4
    # The number of common directions that are taken out, 2 to 4, moves the capacity by several per cent.
    assert below(corrected.capacity / joint.capacity_faces - 1, 0.15, "replica / glue - 1")
    assert beyond(raw.capacity / joint.capacity_faces - 1, 0.15, "not corrected / glue - 1")
    errors = np.hypot(simulated.standard_error, joint.standard_errors["capacity_faces"])
    assert below((simulated.capacity - joint.capacity_faces) / errors)


@pytest.mark.statistical
def test_fixed_number_and_refusals():
    points, _ = correlated_points()
    assert remove_center_components(points, n_components=1, seed=10)[1].n_components == 1
    with pytest.raises(ValueError, match="exceeds P - 3"):
        remove_center_components(points[:6], n_components=4)
    with pytest.raises(ValueError, match="coincides with the mean"):
        remove_center_components(points - points.mean(axis=1, keepdims=True))
    with pytest.raises(ValueError, match="n_starts"):
        remove_center_components(points, n_starts=0)


def test_center_correlation_of_known_centres():
    assert center_correlation(np.eye(5).reshape(5, 1, 5)) == pytest.approx(0.25)
    assert center_correlation([[[1.0, 2.0]], [[3.0, -2.0]]]) == pytest.approx(1.0)
