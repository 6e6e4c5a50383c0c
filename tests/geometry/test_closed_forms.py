"""Closed forms against each other, against exact special cases and against the numbers of the specification."""

import numpy as np
import pytest
from margins import below

from meanfield.geometry import ball_capacity, ellipsoid_capacity, point_capacity
from meanfield.geometry.closed_forms import ellipsoid_distance


@pytest.mark.parametrize(("kappa", "expected"), [(0.0, 2.0), (0.5, 0.961205), (1.0, 0.519572)])
def test_point_capacity(kappa, expected):
    assert point_capacity(kappa) == pytest.approx(expected, rel=1e-6)


def test_point_capacity_is_its_integral():
    t = np.linspace(-12, 12, 200_001)
    density = np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)
    for kappa in (-1.3, 0.2, 2.1):
        integral = np.trapezoid(np.maximum(kappa - t, 0.0) ** 2 * density, t)
        assert point_capacity(kappa) == pytest.approx(1 / integral, rel=1e-8)


@pytest.mark.parametrize("dimension", [1, 2, 3, 7, 40, 2.5])
def test_unit_ball_is_self_dual(dimension):
    assert ball_capacity(1.0, dimension) == pytest.approx(2 / (dimension + 1), rel=1e-9)


@pytest.mark.parametrize("radius", [0.01, 0.4, 1.0, 3.0, 50.0])
def test_segment(radius):
    assert ball_capacity(radius, 1) == pytest.approx(1 / (0.5 + 2 / np.pi * np.arctan(radius)), rel=1e-9)


def test_ball_limits():
    assert ball_capacity(0.0, 5, 0.5) == point_capacity(0.5)
    assert ball_capacity(1e-6, 5, 0.5) == pytest.approx(point_capacity(0.5), rel=1e-4)
    assert ball_capacity(0.3, 100) == pytest.approx(0.109003, rel=1e-5)
    assert ball_capacity(0.3, 100) == pytest.approx((1 + 0.09) / (1 + 9), rel=1e-3)
    assert ball_capacity(0.5, 10) == pytest.approx(0.360, abs=5e-4)
    # Large D: (1 + R^2) alpha_0(kappa + R sqrt D); far beyond D R^2 = 1 also (1 + R^-2)/D.
    assert ball_capacity(0.1, 1000, 0.5) == pytest.approx(1.01 * point_capacity(0.5 + np.sqrt(10)), rel=5e-3)
    assert ball_capacity(2.0, 1000) == pytest.approx(1.25 / 1000, rel=1e-3)


def test_ball_capacity_falls_with_every_argument():
    assert ball_capacity(0.5, 4) > ball_capacity(0.6, 4) > ball_capacity(0.6, 5) > ball_capacity(0.6, 5, 0.1)


@pytest.mark.statistical
@pytest.mark.parametrize("kappa", [-0.7, 0.0, 0.7])
def test_ellipsoid_equals_ball(kappa):
    value, error = ellipsoid_capacity([0.5] * 6, kappa, n_probes=40_000, seed=1)
    assert below((value - ball_capacity(0.5, 6, kappa)) / error)
    assert error < 0.01 * value


@pytest.mark.statistical
def test_ellipsoid_ignores_vanishing_axes():
    with_zeros = ellipsoid_capacity([0.7, 0.0, 0.0], n_probes=40_000, seed=2)
    assert below((with_zeros.value - ball_capacity(0.7, 1)) / with_zeros.standard_error)
    points = ellipsoid_capacity([0.0], 0.3, n_probes=40_000, seed=3)
    assert below((points.value - point_capacity(0.3)) / points.standard_error)


def test_ellipsoid_distance_satisfies_its_constraint_and_is_minimal():
    rng = np.random.default_rng(4)
    radii, kappa = np.array([0.2, 0.9, 2.5]), 0.4
    t, t0 = rng.standard_normal((30, 3)), rng.standard_normal(30)
    distance = ellipsoid_distance(radii, t, t0, kappa)
    # The same minimum over V = (v, kappa + |R v|) on the boundary, from many feasible competitors around the best.
    from scipy.optimize import minimize

    for probe, height, found in zip(t, t0, distance):

        def objective(v, probe=probe, height=height):
            lift = max(height, kappa + np.linalg.norm(radii * v))
            return np.sum((v - probe) ** 2) + (lift - height) ** 2

        best = min(
            minimize(objective, start, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-12}).fun
            for start in (probe, 0.1 * probe)
        )
        assert found == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: point_capacity(np.inf), "kappa must be a real number"),
        (lambda: ball_capacity(-1.0, 3), "radius"),
        (lambda: ball_capacity(1.0, 0), "dimension"),
        (lambda: ball_capacity(1.0, 3, np.nan), "kappa must be a real number"),
        (lambda: ellipsoid_capacity([1.0, -0.5]), "semi-axes"),
        (lambda: ellipsoid_capacity([[1.0]]), "semi-axes"),
        (lambda: ellipsoid_capacity([1.0], n_probes=1), "n_probes"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
