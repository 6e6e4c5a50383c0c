"""The cone of order parameters for unbounded activations: the search for local maxima of q, and its derivatives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from meanfield.activations.cumulant import cumulant
from meanfield.problem.network import Network
from meanfield.theories.general_data.outliers.check import outlier_violation
from meanfield.theories.general_data.outliers.cone import cone_starts, cone_terms, crossed_starts, follow, local_maxima
from meanfield.theories.single_layer.compiled.outlier import worst_directions

SLOPES = [(0.0, 1.0), (0.2, 1.0), (-1.0, 1.0), (1.0, 0.1)]


def problem(rng, n_samples, rank, m):
    return rng.standard_normal((n_samples, rank)), rng.standard_normal((n_samples, m))


def maxima_of(features, t, slopes, rng, n=60):
    return local_maxima(features, t, slopes, cone_starts(features, t, rng, n))


def value(features, t, slopes, v):
    """|t^T phi(F v)|^2 / 2 |v|^2 for rows v (n, r)."""
    z = v @ features.T
    response = (z * np.where(z > 0, slopes[1], slopes[0])) @ t
    return 0.5 * (response**2).sum(1) / (v**2).sum(1)


@pytest.mark.parametrize("slopes", SLOPES)
def test_two_weights_against_a_grid_of_angles(slopes):
    rng = np.random.default_rng(1)

    def on_circle(angle):
        return value(features, t, slopes, np.stack([np.cos(angle), np.sin(angle)], axis=1))

    angle = np.linspace(0, 2 * np.pi, 10000, endpoint=False)
    for _ in range(20):
        features, t = problem(rng, rng.integers(2, 15), 2, rng.integers(1, 4))
        grid = on_circle(angle)
        peaks = angle[(grid > np.roll(grid, 1)) & (grid > np.roll(grid, -1))]
        # A maximum at a kink is a corner: the grid must be fine there.
        heights = np.array([on_circle(peak + np.linspace(-7e-4, 7e-4, 20001)).max() for peak in peaks])
        found = maxima_of(features, t, slopes, rng)
        assert found.value[0] == pytest.approx(heights.max(), rel=1e-6)
        for q in found.value:
            assert np.abs(heights - q).min() < 1e-6 * q, "every maximum found is one of the grid"


@pytest.mark.parametrize("slopes", SLOPES)
def test_more_weights_against_many_started_minimisation(slopes):
    rng = np.random.default_rng(2)
    features, t = problem(rng, 12, 5, 2)
    best = 0.0
    for _ in range(60):
        run = minimize(
            lambda v: -value(features, t, slopes, v[None])[0],
            rng.standard_normal(5),
            method="Nelder-Mead",
            options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000, "maxfev": 4000},
        )
        best = max(best, -run.fun)
    assert maxima_of(features, t, slopes, rng, 200).value[0] == pytest.approx(best, rel=1e-7)


@pytest.mark.parametrize(("name", "off"), [("relu", -0.3), ("relu", 0.4), ("leaky_relu", -0.3), ("leaky_relu", 0.4)])
def test_orthogonal_inputs_against_the_closed_form_for_classes(name, off):
    sigma_w, p_per_class = 1.3, 4
    network = Network(name, sigma_w=sigma_w)
    slopes = network.activation.slopes
    t = np.where(np.eye(3) > 0, 1.7, off) + 0.1 * np.random.default_rng(0).standard_normal((3, 3))
    table = cumulant(network.activation, network.k).table
    directions, heights = np.empty((64, 3)), np.empty(64)
    count, _, exact = worst_directions(table, np.full(3, 1 / 3), t, 1e-9, directions, heights)
    assert exact
    features = sigma_w * np.eye(3 * p_per_class)
    found = maxima_of(features, np.repeat(t, p_per_class, axis=0), slopes, np.random.default_rng(0), 100)
    # There Q is per sample and twice q.
    assert found.value[0] == pytest.approx(0.5 * 3 * p_per_class * heights[:count].max(), rel=1e-12)
    for q, u in zip(found.value, found.direction):
        i = np.argmin(np.abs(directions[:count] - u).max(axis=1))
        np.testing.assert_allclose(directions[i], u, atol=1e-9)
        assert q == pytest.approx(6 * p_per_class / 4 * heights[i], rel=1e-12)


@pytest.mark.parametrize("slopes", SLOPES)
@pytest.mark.parametrize("shape", [(12, 5, 2), (30, 40, 3), (30, 12, 3), (9, 4, 1)])
def test_derivatives_against_differences(slopes, shape):
    rng = np.random.default_rng(3)
    features, t = problem(rng, *shape)
    top = maxima_of(features, t, slopes, rng).keep(np.array([0]))
    gradient, roots = cone_terms(features, t, slopes, top, 0)
    for _ in range(2):
        change = rng.standard_normal(t.shape)

        def q(step, change=change):
            return follow(features, t + step * change, slopes, top).value[0]

        assert (q(1e-5) - q(-1e-5)) / 2e-5 == pytest.approx((gradient * change).sum(), rel=1e-7)
        second = (np.tensordot(roots, change, axes=2) ** 2).sum()
        assert (q(2e-4) + q(-2e-4) - 2 * q(0.0)) / 4e-8 == pytest.approx(second, rel=1e-5)


def test_samples_at_the_kink_are_maxima_too():
    rng = np.random.default_rng(5)
    n_kinks = 0
    for slopes in SLOPES * 5:
        features, t = problem(rng, 30, 12, 2)
        found = maxima_of(features, t, slopes, rng)
        scale = np.sqrt(0.5 / found.value)  # |w|^2 = 2 q; the check wants 1 / s2
        for i in range(len(found.value)):
            violation = outlier_violation(
                features, t, 0.5 / found.value[i], slopes, found.direction[i : i + 1], found.weights[i : i + 1]
            )
            assert violation < 1e-8
        at_kink = found.pattern == 0
        n_kinks += at_kink.sum()
        z = found.weights @ features.T * scale[:, None]
        assert np.abs(z[at_kink]).max(initial=0) < 1e-9
        # A maximum: q falls in every direction of w.
        for w, q in zip(found.weights, found.value):
            nearby = w + 1e-7 * np.linalg.norm(w) * rng.standard_normal((400, len(w)))
            assert value(features, t, slopes, nearby).max() <= q * (1 + 1e-12)
    assert n_kinks > 100, "the kinks must occur for this test to mean anything"


def test_q_is_homogeneous():
    rng = np.random.default_rng(6)
    features, t = problem(rng, 20, 8, 2)
    start = cone_starts(features, t, rng, 40)
    found = local_maxima(features, t, (0.0, 1.0), start)
    scaled = local_maxima(2.0 * features, 3.0 * t, (0.0, 1.0), start)
    np.testing.assert_allclose(scaled.value, 36.0 * found.value, rtol=1e-10)
    gradient, _ = cone_terms(features, t, (0.0, 1.0), found, 0)
    assert (gradient * t).sum() == pytest.approx(2.0 * found.value[0], rel=1e-12), "Euler"


def test_duplicates_count_once_with_their_sum():
    rng = np.random.default_rng(7)
    features, t = problem(rng, 10, 4, 2)
    split = rng.uniform(0.0, 1.0, (10, 1))
    both = np.vstack([features, features]), np.vstack([split * t, (1 - split) * t])
    for slopes in SLOPES:
        once, twice = maxima_of(features, t, slopes, rng, 200), maxima_of(*both, slopes, rng, 200)
        assert twice.value[0] == pytest.approx(once.value[0], rel=1e-9)


def test_rotation_of_the_weights_changes_nothing():
    rng = np.random.default_rng(8)
    features, t = problem(rng, 15, 6, 2)
    rotation = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    u, w = cone_starts(features, t, rng, 40)
    one = local_maxima(features, t, (0.0, 1.0), (u, w))
    other = local_maxima(features @ rotation, t, (0.0, 1.0), (u, w @ rotation))
    np.testing.assert_allclose(other.value, one.value, rtol=1e-9)


def test_nothing_to_find():
    rng = np.random.default_rng(9)
    features = rng.standard_normal((6, 3))
    assert maxima_of(features, np.zeros((6, 2)), (0.0, 1.0), rng).value.size == 0
    features[2] = 0.0  # a zero input: never active
    t = rng.standard_normal((6, 2))
    found = maxima_of(features, t, (0.0, 1.0), rng)
    t[2] = 100.0
    np.testing.assert_allclose(maxima_of(features, t, (0.0, 1.0), rng).value[0], found.value[0], rtol=1e-9)
    assert cone_terms(features, t, (0.0, 1.0), found, 0)[0][2].max() == 0.0


def test_random_labels_need_many_starts():
    """The number of starts that reach the highest value is what a certificate can report; here it is small."""
    rng = np.random.default_rng(10)
    features = rng.standard_normal((40, 25)) / 5.0
    t = rng.standard_normal((40, 1))
    found = maxima_of(features, t, (0.0, 1.0), rng, 400)
    assert found.hits.sum() + found.failed == found.starts
    assert 1 <= found.hits[0] < 0.3 * found.starts
    assert len(found.value) > 20


def test_starts_between_known_maxima_find_what_random_ones_miss():
    """Random labels: of many maxima the highest ones have small basins."""
    rng = np.random.default_rng(3)
    slopes = (0.0, 1.0)
    hits = np.zeros(2)
    for _ in range(5):
        features, t = problem(rng, 60, 40, 2)
        known = maxima_of(features, t, slopes, rng, 100)
        u, w = crossed_starts(known, rng, 200)
        assert u.shape == (200, 2)
        assert w.shape == (200, 40)
        found = local_maxima(features, t, slopes, (u, w)), maxima_of(features, t, slopes, rng, 200)
        assert found[0].failed == 0
        top = max(maxima.value[0] for maxima in found)
        hits += [maxima.hits[maxima.value > 0.97 * top].sum() for maxima in found]
    assert hits[0] > 2 * hits[1] > 0, "starts that end near the top"
