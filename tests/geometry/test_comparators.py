"""Kernel alignments, neural collapse, participation ratio and weight changes, against definitions and limits."""

import numpy as np
import pytest
from margins import below, beyond

from meanfield.geometry import cka, kernel_target_alignment, neural_collapse, participation_ratio, weight_change


def test_cka_definition_and_invariances():
    rng = np.random.default_rng(0)
    for N1, N2 in ((5, 8), (60, 70), (5, 70)):
        X, Y = rng.standard_normal((30, N1)), rng.standard_normal((30, N2))
        center = np.eye(30) - 1 / 30
        K, L = center @ X @ X.T @ center, center @ Y @ Y.T @ center
        expected = np.sum(K * L) / np.sqrt(np.sum(K**2) * np.sum(L**2))
        assert cka(X, Y) == pytest.approx(expected, rel=1e-12)
        assert cka(X @ X.T, Y @ Y.T, precomputed=True) == pytest.approx(expected, rel=1e-12)
        rotation = np.linalg.qr(rng.standard_normal((N1, N1)))[0]
        assert cka(3.0 * X @ rotation + 1.0, Y) == pytest.approx(expected, rel=1e-12)
        assert cka(X, X @ rotation) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.statistical
def test_debiased_cka_of_independent_features_vanishes():
    rng = np.random.default_rng(1)
    values = [cka(rng.standard_normal((20, 100)), rng.standard_normal((20, 100)), debiased=True) for _ in range(60)]
    biased = [cka(rng.standard_normal((20, 100)), rng.standard_normal((20, 100))) for _ in range(60)]
    assert below(np.mean(values) / (np.std(values) / np.sqrt(60)))
    assert beyond(np.mean(biased) / (np.std(biased) / np.sqrt(60)), what="|z| of biased CKA")
    X = rng.standard_normal((20, 4))
    assert cka(X, 2 * X + 1, debiased=True) == pytest.approx(1.0)


def test_debiased_product_is_the_u_statistic():
    from meanfield.geometry.comparators import _unbiased_product

    rng = np.random.default_rng(2)
    K, L = (x @ x.T for x in rng.standard_normal((2, 6, 3)))
    from itertools import permutations

    total = [K[i, j] * (L[i, j] + L[k, m] - 2 * L[i, k]) for i, j, k, m in permutations(range(6), 4)]
    assert _unbiased_product(K, L) / (6 * 3) == pytest.approx(np.mean(total), rel=1e-10)


def test_kernel_target_alignment():
    labels = np.repeat(["a", "b", "c"], 4)
    onehot = (labels[:, None] == np.array(["a", "b", "c"])).astype(float)
    assert kernel_target_alignment(onehot, labels) == pytest.approx(1.0)
    assert kernel_target_alignment(5 * onehot + 1, labels) == pytest.approx(1.0)
    assert kernel_target_alignment(onehot, labels, centered=False) == pytest.approx(1.0)
    assert kernel_target_alignment(5 * onehot + 1, labels, centered=False) < 0.99
    X = np.random.default_rng(3).standard_normal((12, 7))
    signs = np.where(labels == "a", 1.0, -1.0)[:, None]
    K = X @ X.T
    expected = (signs.T @ K @ signs).item() / (np.linalg.norm(K) * 12)
    assert kernel_target_alignment(X, signs, centered=False) == pytest.approx(expected)
    assert kernel_target_alignment(K, signs, precomputed=True, centered=False) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cka(np.ones((3, 2)), np.eye(4)), "same points"),
        (lambda: cka(np.ones((3, 2)), np.eye(3)), "constant features"),
        (lambda: cka(np.ones(3), np.eye(3)), "shape"),
        (lambda: cka(np.eye(3), np.triu(np.ones((3, 3))), precomputed=True), "symmetric"),
        (lambda: cka(np.eye(3), np.eye(3), debiased=True), "at least four"),
        (lambda: kernel_target_alignment(np.eye(3), [1, 1, 1]), "single class"),
        (lambda: kernel_target_alignment(np.eye(3), [1, 2]), "same points"),
        (lambda: participation_ratio(np.ones((3, 2))), "coincide"),
        (lambda: neural_collapse(np.ones((2, 3, 4))), "coincide"),
        (lambda: neural_collapse(np.eye(4).reshape(2, 2, 4), classifier=np.eye(2)), "classifier must have shape"),
        (lambda: neural_collapse(np.eye(4).reshape(2, 2, 4), classifier=np.zeros((2, 4))), "vanishes"),
        (lambda: neural_collapse(np.eye(4).reshape(2, 2, 4), bias=[0, 0]), "needs its classifier"),
        (lambda: neural_collapse(np.eye(4).reshape(2, 2, 4), classifier=np.ones((2, 4)), bias=[0]), "bias must"),
        (lambda: weight_change(np.ones(3), np.ones(4)), "equal, non-empty shapes"),
        (lambda: weight_change({"a": 1.0}, {"b": 1.0}), "same layers"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_participation_ratio():
    rng = np.random.default_rng(4)
    X = rng.standard_normal((2000, 6)) * np.array([3, 2, 1, 1, 0.5, 0.1])
    values = np.linalg.eigvalsh(np.cov(X.T))
    assert participation_ratio(X) == pytest.approx(values.sum() ** 2 / np.sum(values**2))
    assert participation_ratio(X.T[:4], center=False) == pytest.approx(participation_ratio(X.T[:4] * 3, center=False))
    assert participation_ratio(np.eye(5), center=False) == pytest.approx(5.0)
    assert participation_ratio(np.eye(5)) == pytest.approx(4.0)


def test_full_neural_collapse():
    P, N = 4, 10
    simplex = np.zeros((P, N))
    simplex[:, :P] = np.eye(P) - 1 / P
    collapsed = np.repeat(simplex[:, None], 5, axis=1) + 3.0
    found = neural_collapse(collapsed, classifier=2 * simplex, bias=np.zeros(P) - 6 * simplex.sum(axis=1))
    for name in ("nc1", "nc2_norm", "nc2_angle", "nc2_simplex", "nc3", "nc4", "nearest_center_error"):
        assert getattr(found, name) == pytest.approx(0.0, abs=1e-10), name


def test_neural_collapse_definitions():
    rng = np.random.default_rng(5)
    clouds = rng.standard_normal((3, 20, 8)) + 2 * rng.standard_normal((3, 1, 8))
    W, bias = rng.standard_normal((3, 8)), rng.standard_normal(3)
    found = neural_collapse(clouds, classifier=W, bias=bias)
    means = clouds.mean(axis=1)
    centers = means - means.mean(axis=0)
    within = np.mean([np.cov(x.T, bias=True) for x in clouds], axis=0)
    between = centers.T @ centers / 3
    assert found.nc1 == pytest.approx(np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / 3)
    norms = np.linalg.norm(centers, axis=1)
    assert found.nc2_norm == pytest.approx(norms.std() / norms.mean())
    cosines = (centers @ centers.T / np.outer(norms, norms))[~np.eye(3, dtype=bool)]
    assert found.nc2_angle == pytest.approx(cosines.std())
    assert found.nc2_simplex == pytest.approx(np.abs(cosines + 0.5).mean())
    assert found.nc3 == pytest.approx(np.linalg.norm(W / np.linalg.norm(W) - centers / np.linalg.norm(centers)))
    points, owner = clouds.reshape(-1, 8), np.repeat(range(3), 20)
    nearest = np.argmin(np.linalg.norm(points[:, None] - means, axis=2), axis=1)
    assert found.nc4 == pytest.approx(np.mean(np.argmax(points @ W.T + bias, axis=1) != nearest))
    assert found.nearest_center_error == pytest.approx(np.mean(nearest != owner))
    without = neural_collapse(clouds)
    assert np.isnan(without.nc3)
    assert np.isnan(without.nc4)
    assert without.nc1 == found.nc1


def test_weight_change():
    rng = np.random.default_rng(6)
    W, u, v = rng.standard_normal((7, 5)), rng.standard_normal(7), rng.standard_normal(5)
    found = weight_change(W, W + np.outer(u, v))
    assert found["norm"] == pytest.approx(np.linalg.norm(u) * np.linalg.norm(v))
    assert found["relative"] == pytest.approx(found["norm"] / np.linalg.norm(W))
    assert found["spectral"] == pytest.approx(found["norm"] / np.linalg.norm(W, 2))
    assert found["stable_rank"] == pytest.approx(1.0)
    assert weight_change(W, 2 * W)["cosine"] == pytest.approx(1.0)
    same = weight_change(W, W)
    assert same["norm"] == 0.0
    assert np.isnan(same["stable_rank"])
    layers = weight_change({"first": W, "bias": v}, {"first": 2 * W, "bias": -v})
    assert layers["first"]["relative"] == pytest.approx(1.0)
    assert layers["bias"]["cosine"] == pytest.approx(-1.0)
    kernel = rng.standard_normal((4, 3, 2, 2))
    assert weight_change(kernel, 3 * kernel)["relative"] == pytest.approx(2.0)
