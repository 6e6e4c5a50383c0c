"""GLUE: exact special cases, identities, invariances and the geometry it recovers."""

import numpy as np
import pytest
from margins import below, beyond, ratio
from problems import fixed_rng

from meanfield.geometry import (
    anchor_points,
    ball_capacity,
    capacity,
    glue,
    project_onto_cone,
    replica_manifold,
    spherical_manifolds,
)
from meanfield.geometry.descriptors import CONVENTIONS
from meanfield.geometry.problem import cone_problem, solve_problem


def random_clouds(seed=0, P=5, M=8, N=60, offset=1.0):
    rng = np.random.default_rng(seed)
    return 0.7 * rng.standard_normal((P, M, N)) + offset * rng.standard_normal((P, 1, N))


def orthogonal_blocks(parts):
    """Embed manifolds (M, d) in mutually orthogonal subspaces."""
    total = sum(part.shape[1] for part in parts)
    embedded, first = [], 0
    for part in parts:
        block = np.zeros((len(part), total))
        block[:, first : first + part.shape[1]] = part
        embedded.append(block)
        first += part.shape[1]
    return embedded


# ---------------------------------------------------------------- exact values


def test_orthogonal_blocks_decouple():
    """a(t, y) = sum_mu F_mu(-y_mu t_mu), so the capacity is the harmonic mean of the single-manifold ones."""
    rng = np.random.default_rng(1)
    parts = [rng.standard_normal((m, d)) + 1.0 for m, d in ((5, 4), (10, 6), (6, 3), (9, 5))]
    found = anchor_points(orthogonal_blocks(parts), n_probes=60, labels="random", seed=2)
    expected, first = np.zeros(60), 0
    for index, part in enumerate(parts):
        own = found.probes[:, first : first + part.shape[1]]
        expected += project_onto_cone(-found.labels[:, [index]] * own, part).squared_norm
        first += part.shape[1]
    assert np.allclose(found.distance, expected, rtol=0, atol=1e-11)


@pytest.mark.statistical
def test_uncorrelated_limit_is_the_replica_capacity():
    rng = np.random.default_rng(3)
    parts = []
    for _ in range(4):
        directions = rng.standard_normal((40, 3))
        sphere = 0.8 * directions / np.linalg.norm(directions, axis=1)[:, None]
        parts.append(np.column_stack((sphere - sphere.mean(axis=0), np.ones(40))))
    joint = glue(orthogonal_blocks(parts), n_probes=2000, seed=4)
    wide = [np.pad(part[:, :3], ((0, 0), (0, 37))) for part in parts]
    single = [replica_manifold(part, center_norm=1.0, n_probes=2000, seed=i) for i, part in enumerate(wide)]
    inverse = np.mean([1 / one.capacity for one in single])
    error = np.sqrt(sum((one.standard_error / one.capacity**2) ** 2 for one in single)) / 4
    faces = joint.standard_errors["capacity_faces"] / joint.capacity_faces**2
    assert below((1 / joint.capacity_faces - inverse) / np.hypot(error, faces))


@pytest.mark.statistical
@pytest.mark.parametrize("M", [1, 3, 6])
def test_orthonormal_points(M):
    if M == 1:
        with pytest.warns(UserWarning, match="single point"):
            found = glue(np.eye(8).reshape(8, 1, 8), n_probes=1000, seed=5)
        assert np.isnan([found.dimension, found.radius, found.utility]).all()
    else:
        found = glue(np.eye(8 * M).reshape(8, M, 8 * M), n_probes=1000, seed=5)
    assert below(ratio(found.capacity - 2 / M, found.standard_error))
    assert below(ratio(found.capacity_faces - 2 / M, found.standard_errors["capacity_faces"]))


@pytest.mark.statistical
@pytest.mark.parametrize("radius", [0.3, 1.0, 2.5])
def test_segments(radius):
    segment = np.array([[radius, 1.0], [-radius, 1.0]])
    found = glue(orthogonal_blocks([segment] * 6), n_probes=1500, seed=6)
    exact = 1 / (0.5 + 2 / np.pi * np.arctan(radius))
    assert below((found.capacity - exact) / found.standard_error)
    assert below((found.capacity_faces - exact) / found.standard_errors["capacity_faces"])


def effective_ball_radius(radius, dimension):
    """R of the descriptors for uncorrelated balls: anchors on the surface, or inside where the apex is nearest."""
    rng = np.random.default_rng(7)
    t, t0 = np.sqrt(rng.chisquare(dimension, 400_000)), rng.standard_normal(400_000)
    inside = t0 < -t / radius
    length = np.where(inside, t / np.where(inside, -t0, 1.0), radius)
    c = t**2 * length**2 / (1 + length**2)
    return np.sqrt(c.mean() / (t**2 - c).mean())


@pytest.mark.statistical
@pytest.mark.parametrize("radius", [0.3, 0.8, 1.0, 1.4, 2.0])
def test_spheres_have_their_dimension_and_radius(radius):
    spheres = spherical_manifolds(2, 1000, 200, 4, radius, seed=8)
    found = glue(spheres, n_probes=1000, seed=9)
    centers = spheres.mean(axis=1, keepdims=True)
    spread = np.sqrt(np.mean(np.sum((spheres - centers) ** 2, axis=2)))
    actual = spread / np.sqrt(np.mean(np.sum(centers**2, axis=2)))
    # Besides the errors: 200 points fill the sphere incompletely, and centres and axes are not quite orthogonal.
    for name, expected, systematic in (
        ("dimension", 4.0, 0.025),
        ("radius", effective_ball_radius(actual, 4), 0.02),
        ("capacity_faces", ball_capacity(actual, 4), 0.02),
    ):
        error = np.hypot(found.standard_errors[name], systematic * expected)
        assert below((getattr(found, name) - expected) / error, what=f"|z| of {name}")
        assert below(error / expected, 0.05, f"relative error of {name}")


@pytest.mark.statistical
def test_inactive_rules_differ_only_where_manifolds_idle():
    small = spherical_manifolds(2, 1000, 200, 4, 0.3, seed=8)
    found = {rule: glue(small, n_probes=2400, inactive=rule, seed=10) for rule in ("support", "zero", "exclude")}
    assert found["support"].capacity == found["zero"].capacity == found["exclude"].capacity
    error = np.hypot(found["support"].standard_errors["dimension"], 0.1)  # 200 points fill the sphere incompletely
    assert below((found["support"].dimension - 4.0) / error)
    assert below(found["support"].radius / 0.3 - 1, 0.08, "radius")
    assert below(found["exclude"].radius / 0.3 - 1, 0.08, "radius, exclude")
    assert below(found["exclude"].dimension, 3.4, "dimension, exclude")
    assert below(found["zero"].dimension, 3.4, "dimension, zero")
    assert beyond(np.log(found["zero"].radius / 0.3), 0.3, "log of radius / true, zero")
    assert beyond(1 - found["zero"].active_fraction.mean(), 0.12, "idle fraction, zero")
    assert found["zero"].options["inactive"] == "zero"


@pytest.mark.statistical
def test_correlated_centres_raise_radius_not_dimension():
    rows = []
    for correlation in (0.0, 0.4, 0.8):
        results = [
            glue(spherical_manifolds(2, 1000, 200, 4, 1.0, center_corr=correlation, seed=s), n_probes=600, seed=11)
            for s in range(3)
        ]
        rows.append(
            [np.mean([getattr(r, n) for r in results]) for n in ("center_alignment", "radius", "dimension", "capacity")]
        )
    alignment, radius, dimension, alpha = np.array(rows).T
    assert below(alignment - [0.05, 0.42, 0.81], 0.12, "alignment")
    assert below(radius / radius[0] / [1.0, 1.23, 1.9] - 1, 0.05, "radius")
    assert below(dimension - 3.9, 0.25, "dimension")
    assert below(alpha / [0.405, 0.345, 0.268] - 1, 0.11, "capacity")


# ------------------------------------------------------------------ identities


@pytest.mark.parametrize("inactive", ["support", "zero", "exclude"])
@pytest.mark.parametrize("labels", ["balanced", "random", "one_vs_rest"])
def test_three_factors_multiply_to_the_capacity(labels, inactive):
    found = glue(random_clouds(), labels=labels, inactive=inactive, n_probes=80, seed=12)
    product = found.utility * (1 + found.radius**-2) / found.dimension
    assert product == pytest.approx(found.capacity, rel=1e-10)
    assert found.capacity_approximate == pytest.approx(found.capacity / found.utility, rel=1e-10)
    assert found.manifold_dimension.sum() == pytest.approx(found.dimension * 5, rel=1e-10)
    assert 0 < found.utility < 1


def test_distance_is_the_anchor_form():
    """a = (S t)^T (S S^T)^+ (S t) with the rows of idle manifolds set to zero."""
    found = anchor_points(random_clouds(1), inactive="zero", n_probes=60, seed=13)
    for anchors, probe, distance in zip(found.anchors, found.probes, found.distance):
        product = anchors @ probe
        gram = product @ np.linalg.pinv(anchors @ anchors.T, rcond=1e-12) @ product
        assert gram == pytest.approx(distance, rel=1e-9)
    assert not found.active.all()


def test_anchors_lie_in_their_manifolds_and_descriptors_follow_from_them():
    clouds = random_clouds(2)
    points = anchor_points(clouds, n_probes=100, seed=14)
    result = glue(clouds, n_probes=100, seed=14)
    assert np.allclose(points.anchors.mean(axis=0), result.anchor_centers, atol=1e-10)
    assert np.allclose(points.active.mean(axis=0), result.active_fraction)
    assert result.n_manifolds / points.mean_distance == pytest.approx(result.capacity)
    # Convex combinations: every anchor has barycentric weights >= 0 that sum to one.
    for index in range(5):
        lifted = np.column_stack((clouds[index], np.ones(8)))
        targets = np.column_stack((points.anchors[:, index], np.ones(100)))
        assert np.allclose(project_onto_cone(targets, lifted).point, targets, atol=1e-8)
    # Solutions classify every point of every manifold.
    margins = np.einsum("tp,pmn,tn->tpm", points.labels, clouds, points.solutions)
    assert margins.min() > -1e-8
    # The definition of b and c, written out with pseudo-inverses.
    centers = points.anchors.mean(axis=0)
    b, c = [], []
    for anchors, probe in zip(points.anchors, points.probes):
        axes = anchors - centers
        tau = axes @ probe
        b.append(tau @ np.linalg.pinv(axes @ axes.T) @ tau)
        c.append(tau @ np.linalg.pinv(axes @ axes.T + centers @ centers.T) @ tau)
    b, c = np.array(b), np.array(c)
    assert result.dimension == pytest.approx(b.mean() / 5, rel=1e-9)
    assert result.radius == pytest.approx(np.sqrt(c.mean() / (b - c).mean()), rel=1e-9)
    assert result.radius_mean_ratio == pytest.approx(np.sqrt((c / (b - c)).mean()), rel=1e-9)
    assert result.utility == pytest.approx(c.mean() / points.distance.mean(), rel=1e-9)


def test_alignments_follow_their_definition():
    clouds = random_clouds(3)
    points = anchor_points(clouds, n_probes=60, seed=15)
    centers = points.anchors.mean(axis=0)
    axes = points.anchors - centers
    off = ~np.eye(5, dtype=bool)
    raw = glue(clouds, n_probes=60, alignment="raw", seed=15)
    assert raw.center_alignment == pytest.approx(np.abs(centers @ centers.T)[off].mean())
    assert raw.axis_alignment == pytest.approx(np.abs(axes @ axes.transpose(0, 2, 1))[:, off].mean())
    assert raw.center_axis_alignment == pytest.approx(np.abs(centers @ axes.transpose(0, 2, 1))[:, off].mean())
    unit_centers = centers / np.linalg.norm(centers, axis=1)[:, None]
    unit_axes = axes / np.linalg.norm(axes, axis=2)[..., None]
    cosine = glue(clouds, n_probes=60, seed=15)
    assert cosine.center_alignment == pytest.approx(np.abs(unit_centers @ unit_centers.T)[off].mean())
    assert cosine.axis_alignment == pytest.approx(np.abs(unit_axes @ unit_axes.transpose(0, 2, 1))[:, off].mean())
    cross = np.abs(unit_centers @ unit_axes.transpose(0, 2, 1))[:, off].mean()
    assert cosine.center_axis_alignment == pytest.approx(cross)
    assert np.allclose(cosine.center_cosines, unit_centers @ unit_centers.T)


@pytest.mark.statistical
def test_support_vectors_count_the_distance():
    found = glue(random_clouds(4, P=10, M=20, N=150), n_probes=1000, seed=16)
    error, faces = found.standard_errors["capacity"], found.standard_errors["capacity_faces"]
    assert below((found.capacity - found.capacity_faces) / np.hypot(error, faces))
    assert faces < error
    # On its face of dimension k the squared length of the projection is chi-squared with k degrees of freedom.
    problem = cone_problem(random_clouds(4, P=10, M=20, N=150), center=False, allow_overlap=False)
    solved = solve_problem(problem, labels="balanced", n_probes=4000, probes=None, threads=1, seed=16)
    standard = (solved.distance - solved.faces) / np.sqrt(2 * solved.faces)
    assert below(standard.mean() * np.sqrt(4000))
    assert below((standard.var() - 1) / np.sqrt(3 / 4000))
    assert 2.5 < solved.distance.var() / solved.faces.var() < 4.5


# ----------------------------------------------------------------- invariances


def test_rays_alone_decide():
    clouds = random_clouds(5)
    reference = capacity(clouds, n_probes=60, seed=17)
    rng = np.random.default_rng(18)
    scaled = clouds * np.exp(rng.standard_normal((5, 8, 1)))
    assert capacity(scaled, n_probes=60, seed=17) == pytest.approx(reference, rel=1e-9)
    assert capacity(1e-7 * clouds, n_probes=60, seed=17) == pytest.approx(reference, rel=1e-9)


def test_global_scale_changes_nothing():
    clouds = random_clouds(5)
    reference, scaled = (glue(x, n_probes=60, seed=17).to_dict() for x in (clouds, 1e5 * clouds))
    for name, value in reference.items():
        assert scaled[name] == pytest.approx(value, rel=1e-8), name


def test_rotation_padding_permutation_duplicates_and_interior_points():
    clouds = random_clouds(6)
    rng = np.random.default_rng(19)
    probes = rng.standard_normal((60, 60))
    labels = rng.permuted(np.tile([1.0, 1.0, 1.0, -1.0, -1.0], (60, 1)), axis=1)
    reference = glue(clouds, probes=probes, labels=labels).to_dict()

    def same(found, *, points=True):
        row = found.to_dict()
        for name, value in reference.items():
            if points or name != "n_points":
                assert row[name] == pytest.approx(value, rel=1e-7, abs=1e-9), name

    rotation = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    same(glue(clouds @ rotation, probes=probes @ rotation, labels=labels))
    same(glue(np.pad(clouds, ((0, 0), (0, 0), (0, 7))), probes=np.pad(probes, ((0, 0), (0, 7))), labels=labels))
    order = np.array([3, 0, 4, 1, 2])
    same(glue(clouds[order], probes=probes, labels=labels[:, order]))
    same(glue([np.concatenate((x, x[:3])) for x in clouds], probes=probes, labels=labels))
    interior = [np.concatenate((x, [x[:4].mean(axis=0)])) for x in clouds]
    same(glue(interior, probes=probes, labels=labels), points=False)
    same(glue([x.astype(np.float64)[::-1] for x in clouds], probes=probes, labels=labels))


def test_capacity_is_bounded_by_the_rank():
    for N in (12, 20, 60):
        clouds = random_clouds(7, N=N, M=3)
        assert capacity(clouds, n_probes=200, seed=20) >= 5 / min(N, 15) * 0.95


# --------------------------------------------------------------- random numbers


def test_seeds_threads_and_streams():
    clouds = random_clouds(8)
    reference = glue(clouds, n_probes=60, seed=21)
    for again in (glue(clouds, n_probes=60, seed=21), glue(clouds, n_probes=60, seed=21, threads=3)):
        assert again.to_dict() == reference.to_dict()
    sequence = np.random.SeedSequence(21)
    first, second = (capacity(clouds, n_probes=60, seed=sequence) for _ in range(2))
    assert first == second
    generator = np.random.default_rng(21)
    first, second = (capacity(clouds, n_probes=60, seed=generator) for _ in range(2))
    assert first != second
    assert capacity(clouds, n_probes=60) != capacity(clouds, n_probes=60)


@pytest.mark.statistical
@pytest.mark.parametrize("seed", [0, 1])
def test_data_of_the_same_seed_do_not_meet_their_own_probes(seed):
    """Probes equal to centres and axes of the data would double the dimension."""
    own = spherical_manifolds(2, 1000, 100, 4, 1.0, seed=seed)
    rng = np.random.default_rng(seed)
    users = rng.standard_normal((2, 1, 1000)) + rng.standard_normal((2, 5, 1000))
    assert below(glue(own, n_probes=200, seed=seed).dimension, 4.5, "dimension")
    assert below(glue(users, n_probes=200, seed=seed).dimension, 4.5, "dimension of users")


@pytest.mark.statistical
def test_standard_errors_are_honest():
    clouds = spherical_manifolds(4, 60, 30, 4, 1.0, center_corr=0.5, axis_corr=0.3, seed=1)
    results = [glue(clouds, n_probes=100, seed=s) for s in range(60)]
    for name in ("capacity", "capacity_faces", "dimension", "radius", "utility", "center_alignment", "axis_alignment"):
        spread = np.std([getattr(r, name) for r in results], ddof=1)
        error = np.mean([r.standard_errors[name] for r in results])
        # The spread of 60 is known to 1 / sqrt(2 * 59) = 9 %, six of which are 55 %.
        assert below(np.log(spread / error), 0.55, "log of spread / error"), name


# --------------------------------------------------------------------- options


@pytest.mark.statistical
def test_pairwise():
    clouds = random_clouds(9, P=4)
    found = glue(clouds, pairwise=True, n_probes=60, seed=22)
    pairs = found.pair_capacity[np.triu_indices(4, 1)]
    assert found.capacity == pytest.approx(1 / np.mean(1 / pairs))
    assert np.isnan(np.diag(found.pair_capacity)).all()
    assert found.n_manifolds == 4
    assert found.anchor_centers is None
    alone = [glue(clouds[[i, j]], n_probes=2000, seed=23).capacity for i in range(4) for j in range(i)]
    assert below((found.capacity - 1 / np.mean(1 / np.array(alone))) / found.standard_error)
    assert capacity(clouds, pairwise=True, n_probes=60, seed=22) == found.capacity
    with pytest.raises(ValueError, match="cannot be split into pairs"):
        glue(clouds, pairwise=True, labels=[1, 1, -1, -1])


def test_centring():
    clouds = random_clouds(10, offset=0.0) + 5.0
    moved = clouds - np.concatenate(clouds).mean(axis=0)
    assert glue(clouds, center=True, n_probes=60, seed=24).capacity == pytest.approx(
        capacity(moved, n_probes=60, seed=24)
    )
    assert capacity(clouds, n_probes=60, seed=24) != pytest.approx(capacity(moved, n_probes=60, seed=24), rel=1e-3)


@pytest.mark.statistical
def test_dichotomies_count():
    clouds = random_clouds(11)
    fixed = glue(clouds, labels=[1, 1, -1, -1, 1], n_probes=60, seed=25)
    assert fixed.options["labels"] == "explicit (5,)"
    drawn = anchor_points(clouds, labels="balanced", n_probes=60, seed=25).labels
    assert set(np.abs(drawn.sum(axis=1))) == {1.0}
    assert below((np.sum(drawn.sum(axis=1) > 0) - 30) / np.sqrt(15))
    one = anchor_points(clouds, labels="one_vs_rest", n_probes=60, seed=25).labels
    assert set(np.abs(one.sum(axis=1))) == {3.0}


def test_capacity_shortcut_equals_glue():
    clouds = random_clouds(12)
    assert capacity(clouds, n_probes=60, seed=26, labels="random") == pytest.approx(
        glue(clouds, n_probes=60, seed=26, labels="random").capacity, rel=1e-12
    )
    with pytest.raises(TypeError, match="no option 'probe'"):
        capacity(clouds, probe=3)


def test_single_points_among_manifolds():
    clouds = [*random_clouds(13, P=3), *random_clouds(14, P=1)[:, :1]]
    with pytest.warns(UserWarning, match="between 1 and 8 points"):
        found = glue(clouds, n_probes=60, seed=27)
    assert found.manifold_dimension[3] == 0.0
    assert np.isfinite(list(found.to_dict().values())).all()


# -------------------------------------------------------------------- warnings


def test_inseparable_dichotomies_are_counted():
    from scipy.optimize import linprog

    rng = fixed_rng(28)
    clouds = rng.standard_normal((6, 2, 6))
    labels = np.array([[1, 1, 1, -1, -1, -1], [1, -1, 1, -1, 1, -1], [1, -1, -1, 1, 1, -1], [-1, 1, 1, 1, -1, -1.0]])
    solvable = []
    for label in labels:
        rows = (label[:, None, None] * clouds).reshape(-1, 6)
        solvable.append(linprog(np.zeros(6), A_ub=-rows, b_ub=-np.ones(12), bounds=(None, None)).status == 0)
    assert 0 < sum(solvable) < 4
    with pytest.warns(UserWarning, match="have no solution"), pytest.warns(UserWarning, match="general position"):
        found = glue(clouds, labels=labels, n_probes=80, seed=29)
    assert found.fraction_inseparable == pytest.approx(1 - np.mean(solvable))


def test_probes_inside_the_polar_cone_are_not_inseparable():
    """In few dimensions a probe may project to nothing although the dichotomy has solutions."""
    spheres = spherical_manifolds(2, 1000, 200, 4, 2.0, seed=1)
    found = anchor_points(spheres, n_probes=600, seed=30)
    rest = np.linalg.norm(found.solutions, axis=1)
    assert np.mean(rest < 1e-9) > 0.01
    assert glue(spheres, n_probes=600, seed=30).fraction_inseparable == 0.0


def test_saturation_and_missing_general_position_are_reported():
    rng = np.random.default_rng(31)
    clouds = rng.standard_normal((6, 30, 8))
    with pytest.warns(UserWarning, match="no solution"), pytest.warns(UserWarning, match="general position"):
        found = glue(clouds, n_probes=60, seed=32)
    assert found.capacity == pytest.approx(6 / 8, rel=0.1)
    with pytest.warns(UserWarning, match="not in general position"):
        glue(rng.standard_normal((12, 2, 18)), n_probes=60, seed=33)


# ------------------------------------------------------------ lazy to rich, large


def features(strength, seed=34):
    """Features of ten classes in a two-layer ReLU network after a gradient step of the given strength."""
    rng = np.random.default_rng(seed)
    P, M, n_in, width = 10, 30, 60, 400
    centers = rng.standard_normal((P, n_in))
    X = (centers[:, None] + 1.2 * rng.standard_normal((P, M, n_in))).reshape(P * M, n_in) / np.sqrt(n_in)
    targets = np.repeat(np.eye(P), M, axis=0) - 1 / P
    W, A = rng.standard_normal((n_in, width)), rng.standard_normal((width, P))
    gradient = X.T @ ((targets @ A.T) * (X @ W > 0)) / len(X)
    step = strength * np.linalg.norm(W) / np.linalg.norm(gradient)
    return np.maximum(X @ (W + step * gradient), 0.0).reshape(P, M, width)


@pytest.mark.statistical
def test_capacity_grows_and_dimension_falls_from_lazy_to_rich():
    rows = [glue(features(s), n_probes=150, seed=35) for s in (0.0, 0.3, 0.6, 1.2, 2.4)]
    alpha = np.array([r.capacity for r in rows])
    error = np.array([r.standard_error for r in rows])
    dimension = np.array([r.dimension for r in rows])
    assert (np.diff(alpha) > 0).all()
    assert beyond((alpha[-1] - alpha[0]) / np.hypot(error[0], error[-1]), 10, "(last - first) / error")
    assert (np.diff(dimension) < 0).all()
    assert below(dimension[-1] / dimension[0], 0.7, "last / first dimension")


def test_more_points_than_a_gram_matrix_holds():
    spheres = spherical_manifolds(4, 60, 1000, 8, 1.0, seed=36)
    with pytest.warns(UserWarning, match="transposed"):
        many = glue(spheres, n_probes=60, seed=37)
    assert many.n_points == 4000
    few = glue(spheres[:, :200], n_probes=60, seed=37)
    assert many.capacity < few.capacity  # common probes, more constraints
    assert many.dimension > few.dimension


# ---- conventions -----------------------------------------------------------------------------------------------------


def test_conventions_share_the_capacity_and_recover_published_dimensions():
    """Rows of zeros give what an independent implementation reports for D = 4: 4.07; the default gives less."""
    spheres = spherical_manifolds(2, 1000, 200, 4, 1.0, seed=3)
    found = {name: glue(spheres, convention=name, n_probes=200, seed=1) for name in CONVENTIONS}
    assert len({result.capacity for result in found.values()}) == 1
    zero, own = found["algorithm"], found["scale-free"]
    assert abs(zero.dimension - 4.07) < 5 * zero.standard_errors["dimension"]
    assert zero.dimension > own.dimension  # the same probes
    assert found["older"].radius == found["older"].radius_mean_ratio != zero.radius
    assert found["signed"].center_alignment == pytest.approx(found["signed"].center_cosines[0, 1], abs=1e-12)
    assert found["definition"].options["inactive"] == "exclude"
    assert glue(spheres, convention="algorithm", inactive="support", n_probes=200, seed=1).dimension == (own.dimension)
    with pytest.raises(ValueError, match="convention"):
        glue(spheres, convention="icml")
