"""Shift, scale, rotation, permutation and continuity of every quantity, to 1e-6 or a refusal in words."""

import re

import numpy as np
import pytest
from margins import below

from meanfield import geometry as g

P, M, N = 4, 8, 30
RNG = np.random.default_rng(3)
CENTERS, AXIS = RNG.standard_normal((P, 1, N)), RNG.standard_normal((P, 1, N))
NOISE, ALONG = RNG.standard_normal((P, M, N)), RNG.standard_normal((P, M, 1))
CLOUDS = CENTERS + 0.7 * NOISE
PROBES = RNG.standard_normal((50, N))
LABELS = RNG.permuted(np.tile([1.0, 1.0, -1.0, -1.0], (50, 1)), axis=1)
DIRECTION = RNG.standard_normal(N)
DIRECTION /= np.linalg.norm(DIRECTION)
ROTATION = np.linalg.qr(RNG.standard_normal((N, N)))[0]
ANSWERS = RNG.integers(0, 3, P * M)


def glue(clouds, **options):
    return g.glue(clouds, **{"probes": PROBES, "labels": LABELS, **options}).to_dict()


def flat(clouds):
    return np.concatenate(list(clouds))


# Of all these, only `nc4` and the uncentred variants depend on a common shift.
SHIFTED = {
    "glue centred": lambda x: glue(x, center=True),
    "center_correlation": lambda x: {"": g.center_correlation(x)},
    "replica": lambda x: g.replica_capacity(x, n_probes=50, remove_correlations=False, seed=1).to_dict(),
    "neural_collapse": lambda x: g.neural_collapse(x).to_dict(),
    "cka": lambda x: {"": g.cka(flat(x), flat(CLOUDS) ** 2)},
    "cka wide": lambda x: {"": g.cka(flat(x)[:20], flat(CLOUDS)[:20] ** 2)},
    "cka debiased": lambda x: {"": g.cka(flat(x), flat(CLOUDS) ** 2, debiased=True)},
    "kernel_target_alignment": lambda x: {"": g.kernel_target_alignment(flat(x), ANSWERS)},
    "participation_ratio": lambda x: {"": g.participation_ratio(flat(x))},
}
FIXED = {
    "glue": glue,
    "capacity": lambda x: {"": g.capacity(x, probes=PROBES, labels=LABELS)},
    "simulated": lambda x: g.simulated_capacity(x, n_draws=20, seed=1).to_dict(),
    "components": lambda x: {"": g.remove_center_components(x, seed=1)[1].residual_correlation},
    "alignment": lambda x: {"": g.kernel_target_alignment(flat(x), ANSWERS, centered=False)},
    "participation_ratio": lambda x: {"": g.participation_ratio(flat(x), center=False)},
    "weight_change": lambda x: {k: v for k, v in g.weight_change(x[0], 2 * x[1]).items() if k != "norm"},
}
REFUSALS = "too few digits|nearly coincide in direction|same point up to|lost in rounding"


def same(found, reference, rel=1e-6):
    assert found.keys() == reference.keys()
    for name, value in reference.items():
        if not name.endswith("_error") or name == "nearest_center_error":
            assert found[name] == pytest.approx(value, rel=rel, abs=1e-12, nan_ok=True), name


@pytest.mark.parametrize("size", [1e2, 1e4, 1e6, 1e8])
@pytest.mark.parametrize("name", SHIFTED)
def test_shift(name, size):
    same(SHIFTED[name](CLOUDS + size * DIRECTION), SHIFTED[name](CLOUDS))


@pytest.mark.parametrize("name", SHIFTED)
def test_a_shift_that_takes_the_digits_is_refused(name):
    for size in (1e11, 1e14):
        with pytest.raises(ValueError, match=REFUSALS):
            SHIFTED[name](CLOUDS + size * DIRECTION)


def test_glue_without_centring_has_a_limit_for_large_shifts():
    """A hyperplane through the origin, seen from far away, is one with a bias: corrections fall as 1/shift."""
    size = 1e8
    limit = glue(CLOUDS + size * DIRECTION)
    for shift in (1e5, 1e6, 1e7):
        found = glue(CLOUDS + shift * DIRECTION)
        for name in ("capacity", "dimension", "radius", "utility", "axis_alignment"):
            assert found[name] == pytest.approx(limit[name], rel=30 / shift + 1e-6), name
    for shift in (1e11, 1e13):
        with pytest.raises(ValueError, match=REFUSALS):
            glue(CLOUDS + shift * DIRECTION)


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1e30, 1e150])
@pytest.mark.parametrize("name", [*SHIFTED, *FIXED])
def test_scale(name, scale):
    measure = {**SHIFTED, **FIXED}[name]
    same(measure(scale * CLOUDS), measure(CLOUDS), rel=1e-9)


@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_lengths_follow_the_scale(scale):
    first = g.glue(CLOUDS, probes=PROBES, labels=LABELS, alignment="raw")
    other = g.glue(scale * CLOUDS, probes=PROBES, labels=LABELS, alignment="raw")
    assert np.allclose(other.anchor_centers / scale, first.anchor_centers, rtol=1e-9)
    assert np.allclose(other.center_norm / scale, first.center_norm, rtol=1e-9)
    assert other.center_alignment / scale**2 == pytest.approx(first.center_alignment, rel=1e-9)
    anchors = [g.anchor_points(x, probes=PROBES, labels=LABELS).anchors for x in (CLOUDS, scale * CLOUDS)]
    assert np.allclose(anchors[1] / scale, anchors[0], rtol=1e-9)


ROTATED = {name: call for name, call in SHIFTED.items() if name not in ("glue centred", "replica")}


@pytest.mark.parametrize("name", ROTATED)
def test_rotation_and_permutation(name):
    """Probes of `glue` turn along below; those of the replica theory live in the frame of a manifold."""
    same(ROTATED[name](CLOUDS @ ROTATION), ROTATED[name](CLOUDS), rel=1e-9)
    if name not in ("kernel_target_alignment", "cka", "cka wide", "cka debiased"):
        same(ROTATED[name](CLOUDS[:, ::-1]), ROTATED[name](CLOUDS), rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 1e3, 1e6])
def test_rotation_permutation_and_duplicates_of_glue(shift):
    clouds = CLOUDS + shift * DIRECTION
    reference = glue(clouds)
    same(glue(clouds @ ROTATION, probes=PROBES @ ROTATION), reference)
    same(glue(clouds[:, ::-1]), reference)
    same(glue(clouds[::-1], labels=LABELS[:, ::-1]), reference)
    same(glue([np.concatenate((x, x[:2])) for x in clouds]), reference)


FAMILIES = {
    "lines": lambda eps: CENTERS + ALONG * AXIS + eps * NOISE,
    "one line": lambda eps: ALONG * AXIS[0] + eps * NOISE,
    "points": lambda eps: CENTERS + eps * NOISE,
    "one point": lambda eps: CENTERS[0] + eps * NOISE,
    "a plane": lambda eps: ALONG * AXIS[0] + ALONG[::-1] ** 2 * AXIS[1] + eps * NOISE,
    "a line of centres": lambda eps: ALONG[:, :1] * AXIS[0] + 0.3 * ALONG * AXIS[1] + eps * NOISE,
}
SIZES = 10.0 ** -np.arange(1, 13)


@pytest.mark.parametrize("name", FAMILIES)
def test_continuity(name):
    """As clouds degenerate, every number approaches its limit linearly in the deviation, or is refused from there."""
    found = []
    for eps in SIZES:
        try:
            found.append(glue(FAMILIES[name](eps)))
        except ValueError as error:
            refusal = str(error)
            break
    else:
        refusal = ""
    assert not refusal or re.search(REFUSALS, refusal)
    assert len(found) >= 6
    for key in ("capacity", "capacity_faces", "dimension", "utility", "center_alignment", "radius"):
        values = np.array([row[key] for row in found])
        if name == "points" and key in ("radius", "utility"):  # vanish with the extent, and with its square
            values = values / SIZES[: len(found)] ** (1 if key == "radius" else 2)
        change = np.abs(np.diff(values)) / np.abs(values[-1])
        assert (change[3:] < 100 * SIZES[3 : len(change)] + 1e-6).all(), (key, values)


@pytest.mark.parametrize("name", ["one line", "points", "a plane"])
def test_no_digit_is_lost_before_the_refusal(name):
    """Exact under a permutation of the points, which changes every rounding, for each deviation that is accepted."""
    for eps in SIZES[2:]:
        clouds = FAMILIES[name](eps)
        try:
            reference = glue(clouds)
        except ValueError:
            break
        same(glue(clouds @ ROTATION, probes=PROBES @ ROTATION), reference)


@pytest.mark.statistical
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_simulation_and_theory_agree_far_from_the_origin(shift):
    """The conic identity holds for every data set; both sides see the same degenerate cones."""
    clouds = CLOUDS + shift * DIRECTION
    measured = g.simulated_capacity(clouds, n_draws=1500, seed=2)
    theory = g.glue(clouds, n_probes=1500, seed=3)
    error = np.hypot(measured.standard_error, theory.standard_errors["capacity_faces"])
    assert measured.fraction_inseparable == 0.0
    assert below((measured.capacity - theory.capacity_faces) / error)


def test_manifolds_that_are_points_have_no_dimension_and_no_warning_of_rounding():
    repeated = np.repeat(CENTERS, 3, axis=1) + 1e3
    with pytest.warns(UserWarning, match="single point"):
        found = g.glue(repeated, probes=PROBES, labels=LABELS)
    assert np.isnan([found.dimension, found.radius]).all()
    single = g.replica_capacity(repeated, n_probes=2000, remove_correlations=False, seed=4)
    assert single.radius == single.dimension == 0.0


def test_replica_radius_is_linear_in_the_extent():
    values = []
    for eps in (1e-3, 1e-5, 1e-7, 1e-8):
        found = g.replica_capacity(CENTERS + eps * NOISE, n_probes=50, remove_correlations=False, seed=5)
        values.append((found.radius / eps, found.dimension))
    assert np.allclose(values[1:], values[-1], rtol=1e-4)
    assert np.allclose(values[2:], values[-1], rtol=2e-6)
    with pytest.raises(ValueError, match="too few digits"):
        g.replica_capacity(CENTERS + 1e-11 * NOISE, n_probes=50, seed=5)


def test_points_on_one_ray_are_told():
    """Which of them is the anchor is open: descriptors depend on the order of the points, the capacity does not."""
    tied = np.concatenate((CLOUDS, 2.0 * CLOUDS[:, :2]), axis=1)
    with pytest.warns(UserWarning, match="differ by a positive factor only"):
        one, other = glue(tied), glue(tied[:, ::-1])
    assert one["capacity"] == pytest.approx(other["capacity"], rel=1e-9)
    assert one["capacity"] == pytest.approx(glue(CLOUDS)["capacity"], rel=1e-9)
