"""Manifolds in: accepted forms, refusals with a message that helps, labels, synthetic spheres."""

import numpy as np
import pytest
from margins import below

from meanfield.geometry import anchor_points, capacity, glue, group_by_label, simulated_capacity, spherical_manifolds
from meanfield.geometry.clouds import draw_labels, streams


def clouds(seed=0, P=4, M=5, N=20):
    return np.random.default_rng(seed).standard_normal((P, M, N))


def spoiled(manifold, point, neuron, value):
    points = clouds()
    points[manifold, point, neuron] = value
    return points


ENTRIES = [glue, capacity, anchor_points, simulated_capacity]


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    ("manifolds", "message"),
    [
        (clouds(P=1), "at least 2 manifolds are needed, got 1"),
        ([], "at least 2 manifolds are needed, got 0"),
        ([np.ones((3, 4)), np.ones((0, 4))], r"manifold '1' has shape \(0, 4\).*rows are points"),
        ([np.ones((3, 4)), np.ones(4)], r"manifold '1' has shape \(4,\)"),
        ([np.eye(3), np.ones((3, 4))], r"manifold '1' has 4 neurons \(columns\), manifold '0' has 3"),
        (np.ones((3, 4)), r"shape \(P, M, N\), got \(3, 4\)"),
        (3.0, "sequence of arrays, got float"),
        ([np.eye(3) * 1j, np.eye(3)], "manifold '0' has dtype complex128, expected real numbers"),
        ([np.eye(3), np.array([[None, 1, 2]])], "manifold '1' has entries like None"),
        ([np.eye(3), [[1.0], [1.0, 2.0]]], "manifold '1' cannot be read as an array"),
        (spoiled(2, 1, 3, np.nan), "manifold '2' must be finite, but has 1 NaN or infinite entries of 100"),
        (spoiled(1, 0, 0, np.inf), "manifold '1' must be finite, but has 1 NaN or infinite"),
        ({"cat": np.eye(3), "dog": np.full((2, 3), np.nan)}, "manifold 'dog' must be finite, but has 6 NaN"),
        (spoiled(3, 2, slice(None), 0.0), "manifold '3' has a point that is zero in every neuron"),
    ],
)
def test_manifolds_are_refused(entry, manifolds, message):
    with pytest.raises(ValueError, match=message):
        entry(manifolds, seed=0)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, -1, 1], r"labels have shape \(3,\), expected \(4,\) or \(any, 4\)"),
        ([1, 0, 1, -1], r"must be \+1 or -1"),
        ([1, 1, 1, 1], "constant"),
        ([[1, 1, -1, -1], [-1, -1, -1, -1]], "constant"),
        ("all", "labels='all' is not known"),
        ([1, np.nan, 1, -1], "NaN"),
        (np.ones((2, 2, 4)), "labels have shape"),
    ],
)
def test_labels_are_refused(entry, labels, message):
    with pytest.raises(ValueError, match=message):
        entry(clouds(), labels=labels, seed=0)


@pytest.mark.parametrize("entry", ENTRIES)
def test_shared_rays(entry):
    overlapping = clouds()
    overlapping[2, 3] = 2.5 * overlapping[0, 1]
    with pytest.raises(ValueError, match="manifolds '0' and '2' contain the same point up to a positive factor"):
        entry(overlapping, seed=0)


@pytest.mark.statistical
def test_shared_rays_can_be_allowed():
    overlapping = clouds()
    overlapping[2, 3] = overlapping[0, 1]
    parted = glue(overlapping, allow_overlap=True, labels=[1, 1, -1, -1], n_probes=60, seed=0)
    once = [*overlapping[:2], np.delete(overlapping[2], 3, axis=0), overlapping[3]]
    # The shared point must lie on the hyperplane itself: one more constraint for every probe.
    assert parted.capacity < glue(once, labels=[1, 1, -1, -1], n_probes=60, seed=0).capacity
    with pytest.raises(ValueError, match="100% of the draws are inseparable"):
        simulated_capacity(overlapping, allow_overlap=True, labels=[1, 1, -1, -1], n_draws=10, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_probes": 1}, "n_probes must be an integer >= 2, got 1"),
        ({"n_probes": 2.5}, "n_probes must be an integer"),
        ({"probes": np.ones((5, 3))}, r"probes must have shape \(n_probes >= 2, 20\), got \(5, 3\)"),
        ({"probes": np.full((5, 20), np.nan)}, "probes must be finite, but has 100 NaN"),
        ({"kappa": 0.5}, "margin 0 only"),
        ({"inactive": "none"}, "inactive='none' is not known"),
        ({"alignment": "angle"}, "alignment='angle' is not known"),
        ({"threads": 0}, "threads must be an integer >= 1"),
        ({"seed": -1}, "seed must be None"),
        ({"seed": 1.5}, "seed must be None"),
    ],
)
def test_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        glue(clouds(), **options)


def test_a_dead_unit_at_the_centre_is_refused_after_centring_only():
    points = clouds()
    points[1, 2] = 0.0
    assert glue(points, center=True, n_probes=60, seed=1).capacity > 0
    points = clouds()
    others = np.concatenate(points)[1:]
    points[0, 0] = others.mean(axis=0)
    with pytest.raises(ValueError, match="zero in every neuron"):
        glue(points, center=True, seed=1)


def test_warnings_about_the_input():
    with pytest.warns(UserWarning, match="is the array transposed"):
        capacity(clouds(M=60, N=5), n_probes=60, seed=2)
    with pytest.warns(UserWarning, match="between 5 and 12 points"):
        capacity([*clouds(P=2), np.random.default_rng(3).standard_normal((12, 20))], n_probes=60, seed=2)
    with pytest.warns(UserWarning, match="n_probes=20 is few"):
        capacity(clouds(), n_probes=20, seed=2)


class Tensor:
    """Has to be detached and moved before NumPy may read it."""

    def __init__(self, array, ready=False):
        self.array, self.ready = array, ready

    def detach(self):
        return Tensor(self.array)

    def cpu(self):
        return Tensor(self.array, ready=True)

    def __array__(self, dtype=None, copy=None):
        if not self.ready:
            raise RuntimeError("on a graph")
        return self.array


def test_accepted_forms_agree():
    points = np.round(8 * clouds()).astype(int)
    reference = capacity(points, n_probes=60, seed=4)
    stacked, labels = points.reshape(20, 20), np.repeat(["a", "b", "c", "d"], 5)
    for form in (
        list(points),
        tuple(points.astype(np.float32)),
        points.astype(float).tolist(),
        dict(zip("abcd", points)),
        (stacked, labels),
        (stacked[::-1], labels[::-1]),
        [Tensor(x) for x in points],
        (x for x in points),
        np.asfortranarray(points),
    ):
        assert capacity(form, n_probes=60, seed=4) == pytest.approx(reference, rel=1e-12)
    assert glue((stacked, labels), n_probes=60, seed=4).names == ("a", "b", "c", "d")


def test_group_by_label():
    X = np.arange(12.0).reshape(6, 2)
    y = np.array([2, 0, 2, 0, 2, 1])
    assert [part.tolist() for part in group_by_label(X, y)] == [
        X[[1, 3]].tolist(),
        X[[5]].tolist(),
        X[[0, 2, 4]].tolist(),
    ]
    drawn = group_by_label(X[:5], y[:5], 2, seed=0)
    assert [len(part) for part in drawn] == [2, 2]
    assert all(row in X[:5].tolist() for part in drawn for row in part.tolist())
    assert np.array_equal(group_by_label(X[:5], y[:5], 2, seed=0)[1], drawn[1])
    with pytest.raises(ValueError, match="has 1 points, fewer than n_points=2"):
        group_by_label(X, y, 2)
    with pytest.raises(ValueError, match=r"X must have shape \(n, N\)"):
        group_by_label(X, y[:4])
    with pytest.raises(ValueError, match="y contains NaN"):
        group_by_label(X, [0, 1, np.nan, 0, 0, 1])


@pytest.mark.statistical
def test_spherical_manifolds_have_their_geometry():
    spheres = spherical_manifolds(30, 2000, 40, 5, 0.7, center_corr=0.6, axis_corr=0.8, seed=5)
    assert spheres.shape == (30, 40, 2000)
    centers = spheres.mean(axis=1)
    offsets = spheres - np.linalg.lstsq(np.ones((40, 1)), spheres[0], rcond=None)[0]
    assert offsets.shape == spheres.shape
    cosines = np.corrcoef(centers)
    near, far = np.diag(cosines, 1).mean(), np.diag(cosines, 10).mean()
    assert below([near - 0.6, far], 0.08, "cosine of centres")
    assert below(np.linalg.norm(spheres - centers[:, None], axis=2).mean() / 0.7 - 1, 0.1, "radius")
    singular = np.linalg.svd(spheres[0] - centers[0], compute_uv=False)
    assert singular[5] < 1e-10 * singular[0]
    assert np.array_equal(spheres, spherical_manifolds(30, 2000, 40, 5, 0.7, 0.6, 0.8, seed=5))
    for bad in ({"R": -1.0}, {"center_corr": 1.0}, {"axis_corr": -1.5}, {"M": 0}):
        with pytest.raises(ValueError):
            spherical_manifolds(**{"P": 3, "N": 10, "M": 4, "D": 2, "R": 1.0, **bad})


@pytest.mark.statistical
def test_labels_have_their_statistics():
    stream = streams(6, 1)[0]
    for P in (2, 5, 6):
        balanced = draw_labels("balanced", P, 2000, stream)
        assert set(np.unique(np.abs(balanced.sum(axis=1)))) == {P % 2}
        assert below(balanced.mean(axis=0) * np.sqrt(2000))
        one = draw_labels("one_vs_rest", P, 2000, stream)
        assert set(np.unique(np.abs(one.sum(axis=1)))) == {abs(P - 2)}
        assert below(one.mean(axis=0) * np.sqrt(2000))
    iid = draw_labels("random", 6, 4000, stream)
    assert below((np.mean(np.abs(iid.sum(axis=1)) == 6) - 2 / 64) / np.sqrt(2 / 64 / 4000))
    explicit = draw_labels([[1, -1], [-1, 1]], 2, 5, stream)
    assert explicit[:, 0].tolist() == [1, -1, 1, -1, 1]


def test_streams_differ_by_seed_purpose_and_from_the_seed_itself():
    def first(sequence):
        return np.random.default_rng(sequence).standard_normal()

    own = [first(s) for s in streams(0, 3)]
    assert len({*own, *(first(s) for s in streams(1, 3)), *(first(s) for s in streams(0, 3, tag=7)), first(0)}) == 10
    assert own == [first(s) for s in streams(np.int64(0), 3)]
    sequence = np.random.SeedSequence(0)
    assert own == [first(s) for s in streams(sequence, 3)]
    assert sequence.n_children_spawned == 0
