"""The table of bad inputs: entry point, what is given, and the words of the refusal."""

import itertools

import numpy as np
import pytest
from scipy import sparse

from meanfield import geometry as g


def good(P=3, M=4, N=9):
    return np.random.default_rng(0).standard_normal((P, M, N)) + 0.5


def replaced(value, where=(1, 2, 3)):
    points = good()
    points[where] = value
    return points


def masked(points):
    return np.ma.MaskedArray(points, mask=np.abs(points) > 1.5)


class Tabular:
    """Looks like a data frame with a column of names."""

    def __array__(self, dtype=None, copy=None):
        return np.array([["a", 1.0], ["b", 2.0]], dtype=object)


X, Y = good()[0], np.array([0, 0, 1, 1])
SECOND = list(good()[1:])

# What no function takes as points of the first of three manifolds, or as features.
ARRAYS = {
    "masked": (masked(X), "masked entries"),
    "masked rows": ([masked(row) for row in X], "masked entries"),
    "nan": (np.where(X > 1, np.nan, X), "NaN or infinite"),
    "inf": (np.where(X > 1, np.inf, X), "NaN or infinite"),
    "complex": (X + 1j, "dtype complex128, expected real numbers"),
    "strings": ([["a", "b"], ["c", "d"]], "dtype <U1"),
    "numbers in strings": ([["1", "2"], ["3", "4"]], "dtype <U1"),
    "bytes": ([[b"a"], [b"b"]], "dtype .S1"),
    "objects": (np.array([[None, 1.0], [2.0, 3.0]]), "entries like None"),
    "large integers": ([[10**400, 1], [1, 2]], "numbers too large for float64"),
    "ragged": ([[1.0], [1.0, 2.0]], "cannot be read as an array"),
    "sparse": (sparse.csr_array(X), r"toarray\(\)"),
    "table": (Tabular(), "entries like 'a'"),
    "mapping": ({"a": X}, "is a dict"),
    "set": ({1.0, 2.0}, "is a set"),
    "dates": (np.full((3, 2), "2020-01-01", "datetime64[D]"), "datetime64"),
    "records": (np.zeros((3, 2), [("a", float)]), "expected real numbers"),
    "none": (None, "entries like None"),
    "scalar": (3.0, "shape"),
    "vector": (np.ones(4), "shape"),
    "three axes": (np.ones((2, 2, 9)), "shape"),
    "no points": (np.ones((0, 9)), "shape"),
    "huge": (1e200 * X, "Rescale"),
    "tiny": (1e-200 * X, "Rescale"),
}
CLOUDS = {
    "glue": g.glue,
    "capacity": g.capacity,
    "anchor_points": g.anchor_points,
    "simulated_capacity": g.simulated_capacity,
    "replica_capacity": g.replica_capacity,
    "center_correlation": g.center_correlation,
    "remove_center_components": g.remove_center_components,
    "neural_collapse": g.neural_collapse,
    "trajectory": lambda manifolds: g.trajectory([manifolds]),
}
FEATURES = {
    "cka": lambda x: g.cka(x, good()[0]),
    "cka second": lambda x: g.cka(good()[0], x),
    "cka debiased": lambda x: g.cka(x, good()[0], debiased=True),
    "cka precomputed": lambda x: g.cka(x, np.eye(4), precomputed=True),
    "kernel_target_alignment": lambda x: g.kernel_target_alignment(x, Y),
    "participation_ratio": g.participation_ratio,
    "participation_ratio raw": lambda x: g.participation_ratio(x, center=False),
    "group_by_label": lambda x: g.group_by_label(x, Y),
    "project_onto_cone": lambda x: g.project_onto_cone(np.ones(9), x),
    "replica_manifold": lambda x: g.replica_manifold(x, center_norm=1.0),
    "weight_change": lambda x: g.weight_change(x, good()[0]),
    "labelled glue": lambda x: g.glue((x, Y)),
}


def refused(call, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        call()
    assert len(str(caught.value)) > 20  # a sentence


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("entry", CLOUDS)
def test_bad_manifolds(entry, kind):
    array, message = ARRAYS[kind]
    refused(lambda: CLOUDS[entry]([array, *SECOND]), message)


@pytest.mark.parametrize(
    ("entry", "kind"),
    # Without generators a cone is the origin, and the projection zero.
    [pair for pair in itertools.product(FEATURES, ARRAYS) if pair != ("project_onto_cone", "no points")],
)
def test_bad_features(entry, kind):
    array, message = ARRAYS[kind]
    if entry == "weight_change":
        message = message if message != "shape" else "equal, non-empty shapes"
        message = message.replace("is a dict", "two mappings|same layers")
    refused(lambda: FEATURES[entry](array), message)


SETS = {
    "one manifold": (good(P=1), "at least 2 manifolds are needed, got 1"),
    "none": ([], "at least 2 manifolds are needed, got 0"),
    "no mapping": ({}, "at least 2 manifolds are needed, got 0"),
    "a number": (3.0, "sequence of arrays, got float"),
    "None": (None, "sequence of arrays, got NoneType"),
    "text": ("ab", "sequence of arrays, got str"),
    "bytes": (b"ab", "sequence of arrays, got bytes"),
    "sparse": (sparse.csr_array(X), "sequence of arrays, got csr_array"),
    "matrix": (X, r"shape \(P, M, N\), got \(4, 9\)"),
    "four axes": (np.ones((2, 2, 3, 4)), r"shape \(P, M, N\)"),
    "masked": (masked(good()), "masked entries"),
    "other neurons": ([X, X[:, :5]], r"manifold '1' has 5 neurons \(columns\)"),
    "empty": ([X, X[:, :0]], "manifold '1' has shape"),
    "one class": ((X, [1, 1, 1, 1]), "at least 2 manifolds are needed, got 1"),
    "short labels": ((X, [0, 1]), r"y \(n,\); got \(4, 9\) and \(2,\)"),
    "nan labels": ((X, [0, 1, np.nan, 1]), "y contains NaN"),
    "mixed labels": ((X, np.array([0, "a", None, 1], dtype=object)), "integer or string labels"),
    "masked labels": ((X, np.ma.MaskedArray([0, 1, 0, 1], mask=[1, 0, 0, 0])), "masked entries"),
    "complex labels": ((X, np.array([0, 1j, 0, 1])), "integer or string labels"),
    "no points": ((X[:0], np.array([], int)), "at least 2 manifolds are needed, got 0"),
    "coinciding points": (np.full((3, 2, 9), 0.1), "same point|coincide|no direction"),
    "lost digits": (1e-3 * good() + 1e12, "same point|float64 carries too few digits"),
}


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("entry", CLOUDS)
def test_bad_sets_of_manifolds(entry, kind):
    manifolds, message = SETS[kind]
    refused(lambda: CLOUDS[entry](manifolds), message)


NUMBERS = {
    "fraction": 2.5,
    "whole float": 60.0,
    "text": "60",
    "None": "none",
    "negative": -3,
    "zero": 0,
    "true": True,
    "nan": np.nan,
    "huge": 10**400,
    "array": np.array([60, 60]),
    "list": [60],
}
COUNTS = {
    "glue": lambda n: g.glue(good(), n_probes=n),
    "capacity": lambda n: g.capacity(good(), n_probes=n),
    "anchor_points": lambda n: g.anchor_points(good(), n_probes=n),
    "simulated_capacity": lambda n: g.simulated_capacity(good(), n_draws=n),
    "replica_capacity": lambda n: g.replica_capacity(good(), n_probes=n),
    "replica_manifold": lambda n: g.replica_manifold(X, center_norm=1.0, n_probes=n),
    "ellipsoid_capacity": lambda n: g.ellipsoid_capacity([1.0], n_probes=n),
    "group_by_label": lambda n: g.group_by_label(X, Y, n_points=n),
    "spherical_manifolds": lambda n: g.spherical_manifolds(n, 9, 4, 2, 1.0),
    "n_starts": lambda n: g.remove_center_components(good(), n_starts=n),
    "threads": lambda n: g.glue(good(), threads=n),
    "threads of the cone": lambda n: g.project_onto_cone(np.ones(9), X, threads=n),
}


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("entry", COUNTS)
def test_bad_counts(entry, kind):
    refused(lambda: COUNTS[entry](NUMBERS[kind]), "must be an integer [<>]=")


REALS = {"text": "1", "None": None, "nan": np.nan, "infinite": np.inf, "huge": 10**400, "complex": 1j, "array": [1.0]}
LENGTHS = {
    "glue kappa": lambda x: g.glue(good(), kappa=x),
    "replica kappa": lambda x: g.replica_capacity(good(), kappa=x),
    "center_norm": lambda x: g.replica_manifold(X, center_norm=x),
    "point_capacity": g.point_capacity,
    "ball radius": lambda x: g.ball_capacity(x, 3),
    "ball dimension": lambda x: g.ball_capacity(1.0, x),
    "ball kappa": lambda x: g.ball_capacity(1.0, 3, x),
    "ellipsoid kappa": lambda x: g.ellipsoid_capacity([1.0], x),
    "sphere radius": lambda x: g.spherical_manifolds(2, 9, 4, 2, x),
    "center_corr": lambda x: g.spherical_manifolds(2, 9, 4, 2, 1.0, center_corr=x),
}


@pytest.mark.parametrize("kind", REALS)
@pytest.mark.parametrize("entry", LENGTHS)
def test_bad_real_numbers(entry, kind):
    refused(lambda: LENGTHS[entry](REALS[kind]), "must be a real number")


FLAGS = {
    "glue center": lambda x: g.glue(good(), center=x),
    "glue pairwise": lambda x: g.glue(good(), pairwise=x),
    "glue allow_overlap": lambda x: g.glue(good(), allow_overlap=x),
    "capacity center": lambda x: g.capacity(good(), center=x),
    "capacity pairwise": lambda x: g.capacity(good(), pairwise=x),
    "anchors center": lambda x: g.anchor_points(good(), center=x),
    "simulated bias": lambda x: g.simulated_capacity(good(), bias=x),
    "simulated center": lambda x: g.simulated_capacity(good(), center=x),
    "replica": lambda x: g.replica_capacity(good(), remove_correlations=x),
    "cka": lambda x: g.cka(X, X, precomputed=x),
    "cka debiased": lambda x: g.cka(X, X, debiased=x),
    "alignment": lambda x: g.kernel_target_alignment(X, Y, centered=x),
    "participation_ratio": lambda x: g.participation_ratio(X, center=x),
}


@pytest.mark.parametrize("value", ["no", 1, None, [True]], ids=str)
@pytest.mark.parametrize("entry", FLAGS)
def test_bad_flags(entry, value):
    refused(lambda: FLAGS[entry](value), "must be True or False")


SINGLE = {
    "inactive": (lambda: g.glue(good(), inactive="none"), "inactive='none' is not known"),
    "inactive list": (lambda: g.glue(good(), inactive=["zero"]), "inactive=.* is not known"),
    "inactive None": (lambda: g.anchor_points(good(), inactive=None), "inactive=None is not known"),
    "alignment": (lambda: g.glue(good(), alignment=0), "alignment=0 is not known"),
    "definition": (lambda: g.simulated_capacity(good(), definition="mode"), "definition='mode' is not known"),
    "margin": (lambda: g.glue(good(), kappa=0.1), "margin 0 only"),
    "labels name": (lambda: g.glue(good(), labels="all"), "labels='all' is not known"),
    "labels None": (lambda: g.glue(good(), labels=None), "labels has entries like None"),
    "labels zero": (lambda: g.glue(good(), labels=[1, 0, -1]), r"must be \+1 or -1"),
    "labels long": (lambda: g.glue(good(), labels=[1, -1, 1, 1]), "labels have shape"),
    "labels constant": (lambda: g.glue(good(), labels=[1, 1, 1]), "constant"),
    "labels pairwise": (lambda: g.glue(good(), labels=[1, -1, 1], pairwise=True), "explicit labels"),
    "labels masked": (lambda: g.glue(good(), labels=np.ma.masked_less([1, -1, 1], 0)), "masked"),
    "probes shape": (lambda: g.glue(good(), probes=np.ones((5, 3))), "probes must have shape"),
    "probes masked": (lambda: g.glue(good(), probes=masked(np.full((5, 9), 2.0))), "masked"),
    "probes single": (lambda: g.glue(good(), probes=np.ones((1, 9))), "n_probes >= 2"),
    "replica probes": (lambda: g.replica_capacity(good(), probes=3), "one array per manifold"),
    "seed negative": (lambda: g.glue(good(), seed=-1), "seed must be"),
    "seed float": (lambda: g.glue(good(), seed=0.0), "seed must be"),
    "seed text": (lambda: g.simulated_capacity(good(), seed="0"), "seed must be"),
    "seed list": (lambda: g.replica_capacity(good(), seed=[0]), "seed must be"),
    "seed true": (lambda: g.spherical_manifolds(2, 9, 4, 2, 1.0, seed=True), "seed must be"),
    "unknown option": (lambda: g.capacity(good(), probe=3), "no option 'probe'"),
    "zero point": (lambda: g.glue(replaced(0.0, (1, 2))), "zero in every neuron"),
    "shared ray": (lambda: g.glue(replaced(3 * good()[0, 1], (1, 2))), "same point up to a positive factor"),
    "components": (lambda: g.remove_center_components(good(), n_components=3), "exceeds P - 3"),
    "components float": (lambda: g.remove_center_components(good(), n_components=1.0), "must be an integer"),
    "negative radius": (lambda: g.ball_capacity(-1.0, 3), "radius must be a real number"),
    "no dimension": (lambda: g.ball_capacity(1.0, 0), "dimension must be a real number"),
    "no axes": (lambda: g.ellipsoid_capacity([]), "semi-axes"),
    "negative axis": (lambda: g.ellipsoid_capacity([1.0, -1.0]), "semi-axes"),
    "no norm": (lambda: g.replica_manifold(X, center_norm=0), "center_norm must be a real number"),
    "tiny norm": (lambda: g.replica_manifold(X, center_norm=1e-12), "times its centre norm"),
    "correlation": (lambda: g.spherical_manifolds(2, 9, 4, 2, 1.0, center_corr=1.0), "strictly between"),
    "too large": (lambda: g.spherical_manifolds(10**5, 10**5, 10, 2, 1.0), "expected fewer"),
    "other points": (lambda: g.cka(X, X[:3]), "same points"),
    "few points": (lambda: g.cka(X[:3], X[:3], debiased=True), "at least four"),
    "no kernel": (lambda: g.cka(X, X, precomputed=True), "symmetric"),
    "asymmetric": (lambda: g.cka(np.eye(3), np.triu(np.ones((3, 3))), precomputed=True), "symmetric"),
    "offset kernel": (lambda: g.cka(np.eye(4) + 1e12, np.eye(4), precomputed=True), "rounding"),
    "constant": (lambda: g.cka(np.full((4, 3), 0.1), X), "constant features"),
    "constant targets": (lambda: g.kernel_target_alignment(X, [1, 1, 1, 1]), "single class"),
    "few targets": (lambda: g.kernel_target_alignment(X, [1, 2]), "same points"),
    "ragged targets": (lambda: g.kernel_target_alignment(X, [[1], [1, 2], [1], [2]]), "cannot be read"),
    "nan targets": (lambda: g.kernel_target_alignment(X, [1, np.nan, 1, 2]), "y contains NaN"),
    "coincide": (lambda: g.participation_ratio(np.full((7, 3), 0.1)), "coincide"),
    "zeros": (lambda: g.participation_ratio(np.zeros((7, 3)), center=False), "are zero"),
    "lost digits": (lambda: g.participation_ratio(1e11 + X), "float64 carries too few digits"),
    "centres": (lambda: g.neural_collapse(np.ones((2, 3, 4))), "coincide"),
    "classifier": (lambda: g.neural_collapse(good(), classifier=np.eye(2)), "classifier must have shape"),
    "no classifier": (lambda: g.neural_collapse(good(), classifier=np.zeros((3, 9))), "vanishes"),
    "bias alone": (lambda: g.neural_collapse(good(), bias=[0, 0, 0]), "needs its classifier"),
    "bias": (lambda: g.neural_collapse(good(), classifier=np.ones((3, 9)), bias=[0]), "bias must"),
    "layers": (lambda: g.weight_change({"a": X}, {"b": X}), "same layers"),
    "layers and array": (lambda: g.weight_change(X, {"b": X}), "two mappings or two arrays"),
    "weights": (lambda: g.weight_change(X, X[:2]), "equal, non-empty shapes"),
    "target shape": (lambda: g.project_onto_cone(np.ones(3), np.ones((2, 4))), "target of shape"),
    "target nan": (lambda: g.project_onto_cone([1.0, np.nan], np.eye(2)), "target must be finite, but has 1 NaN"),
    "trajectory": (lambda: g.trajectory([]), "no representations"),
    "trajectory number": (lambda: g.trajectory(3), "sequence or mapping of manifolds"),
    "trajectory text": (lambda: g.trajectory("abc"), "sequence or mapping of manifolds"),
    "measure": (lambda: g.trajectory([good()], measures="width"), "measure 'width' is not known"),
    "measure number": (lambda: g.trajectory([good()], measures=3), "names or functions"),
    "measure list": (lambda: g.trajectory([good()], measures=[["glue"]]), "is not known"),
    "no measures": (lambda: g.trajectory([good()], measures=()), "no measures"),
    "stray options": (lambda: g.trajectory([good()], options={"replica": {}}), "not measured"),
    "options": (lambda: g.trajectory([good()], options=3), "options must map"),
    "options of a measure": (lambda: g.trajectory([good()], options={"glue": 3}), "options must map"),
    "parameter": (lambda: g.trajectory([good()], parameter=[1, 2]), "for 1 representations"),
    "ragged parameter": (lambda: g.trajectory([good()], parameter=[[1], [1, 2]]), "numbers or names"),
    "points": (lambda: g.trajectory([good()], n_points=3), "needs the labels y"),
    "short y": (lambda: g.trajectory([X], y=[1, 2]), "y .n,.; got"),
    "many points": (lambda: g.group_by_label(X, Y, 3), "has 2 points, fewer than n_points=3"),
}


@pytest.mark.parametrize("case", SINGLE)
def test_bad_options(case):
    call, message = SINGLE[case]
    refused(call, message)


def test_the_table_is_long():
    pairs = ((ARRAYS, CLOUDS), (ARRAYS, FEATURES), (SETS, CLOUDS), (NUMBERS, COUNTS), (REALS, LENGTHS))
    assert sum(len(kinds) * len(entries) for kinds, entries in pairs) + 4 * len(FLAGS) + len(SINGLE) > 750


def test_what_is_not_bad_is_taken():
    points = np.round(good()) + np.arange(9)
    reference = g.capacity(points, n_probes=50, seed=1)
    forms = (points.astype(int), points.astype(object), points.astype(np.float32), np.ma.MaskedArray(points))
    for same in (*forms, points.tolist()):
        assert g.capacity(same, n_probes=50, seed=1) == reference
    flags = np.random.default_rng(1).random((3, 4, 9)) > 0.5
    assert g.capacity(flags, n_probes=50, seed=1) == g.capacity(flags.astype(float), n_probes=50, seed=1)
