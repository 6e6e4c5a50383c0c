"""GLUE: data-driven manifold capacity with correlations, and the geometry of its anchor points.

``capacity = P / E[a(t, y)]`` with ``a(t, y) = min over v that solve the dichotomy y of |v - t|^2``, t standard Gaussian
(Chou et al., "Feature learning beyond the lazy-rich dichotomy: insights from representational geometry").
With the anchor points s = s0 + s1 (mean over probes and fluctuation), stacked S0 and S1, and ``tau = S1 t``:

    b = tau^T (S1 S1^T)^+ tau,    c = tau^T (S0 S0^T + S1 S1^T)^+ tau,
    dimension D = E[b]/P,    radius R = sqrt(E[c]/E[b - c]),    utility = E[c]/E[a],

so that ``capacity = utility (1 + R^-2)/D`` exactly.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meanfield.geometry.clouds import Seed, as_clouds, describe_labels, describe_seed, streams
from meanfield.geometry.moments import center_cosines, estimate, stack_anchors
from meanfield.geometry.problem import Solved, cone_problem, solve_problem, span_coordinates
from meanfield.geometry.results import Result
from meanfield.validation import choice, flag, real_number, thread_count

__all__ = ["AnchorPoints", "Glue", "anchor_points", "capacity", "glue"]

Array = NDArray[np.float64]

INACTIVE = ("support", "zero", "exclude")
ALIGNMENTS = ("cosine", "raw", "signed")
# Name -> (inactive, alignment, whether R is the root of a mean of ratios); see `glue`.
CONVENTIONS = {
    "scale-free": ("support", "cosine", False),
    "definition": ("exclude", "raw", False),
    "algorithm": ("zero", "raw", False),
    "older": ("zero", "cosine", True),
    "signed": ("zero", "signed", False),
}
CROWDED = 0.6  # share of the rank that E[a] takes; for spheres the dimension falls to about a half beyond


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Glue(Result):
    """Capacity and its geometry; see `glue`.

    Attributes
    ----------
    capacity, capacity_faces, capacity_approximate : float
        ``P/E[a]``; ``P/E[k]`` with k the number of support vectors (same mean, smaller variance); ``(1 + R^-2)/D``.
    dimension, radius, utility, radius_mean_ratio : float
        Factors of the capacity; `radius_mean_ratio` is the older ``sqrt(E[c/(b - c)])``.
    center_alignment, axis_alignment, center_axis_alignment : float
        Mean absolute alignment of anchor centres, of anchor fluctuations, and of centres with others' fluctuations.
    fraction_inseparable : float
        Share of probes whose dichotomy has no solution even with all neurons.
    rank, n_manifolds, n_points, n_probes : int
    center_cosines : (P, P) array
        Signed cosines of the anchor centres.
    anchor_centers : (P, N) array or None
        Mean anchor points; None for pairwise analyses.
    manifold_dimension, active_fraction, center_norm : (P,) arrays
        Share of each manifold in ``P D``, how often it supports the solution, length of its anchor centre.
    pair_capacity : (P, P) array or None
        Capacities of the pairs, where `pairwise` was asked for.
    """

    capacity: float
    capacity_faces: float
    capacity_approximate: float
    dimension: float
    radius: float
    utility: float
    radius_mean_ratio: float
    center_alignment: float
    axis_alignment: float
    center_axis_alignment: float
    fraction_inseparable: float
    rank: int
    n_manifolds: int
    n_points: int
    n_probes: int
    center_cosines: Array
    manifold_dimension: Array
    active_fraction: Array
    center_norm: Array
    anchor_centers: Array | None = None
    pair_capacity: Array | None = None

    title: ClassVar[str] = "manifold capacity and geometry (GLUE)"
    quantities: ClassVar[tuple[tuple[str, str], ...]] = (
        ("capacity", "P / E[a]"),
        ("dimension", "effective dimension D"),
        ("radius", "effective radius R"),
        ("utility", "E[c] / E[a]; capacity = utility (1 + 1/R^2) / D"),
        ("capacity_faces", "capacity from the number of support vectors"),
        ("capacity_approximate", "(1 + 1/R^2) / D"),
        ("radius_mean_ratio", "radius by the older mean of ratios"),
        ("center_alignment", "between anchor centres"),
        ("axis_alignment", "between anchor fluctuations"),
        ("center_axis_alignment", "between centres and others' fluctuations"),
        ("fraction_inseparable", "dichotomies without solution in the full space"),
        ("rank", "dimension of the span of all points"),
        ("n_manifolds", "P"),
        ("n_points", "points in all manifolds, without repetitions"),
        ("n_probes", "Gaussian probes"),
    )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class AnchorPoints(Result):
    """Anchor points of every probe; see `anchor_points`.

    Attributes
    ----------
    anchors : (T, P, N) array
    active : (T, P) array of bool
        False where the manifold does not support the solution and the anchor follows the `inactive` rule.
    probes, solutions : (T, N) array
        Gaussian probes in the span of the data, and the nearest vectors that solve their dichotomies.
    labels : (T, P) array
    distance : (T,) array
        ``a(t, y)``; its mean is ``P / capacity``.
    """

    anchors: Array
    active: NDArray[np.bool_]
    probes: Array
    solutions: Array
    labels: Array
    distance: Array

    title: ClassVar[str] = "anchor points"
    quantities: ClassVar[tuple[tuple[str, str], ...]] = (
        ("mean_distance", "E[a] = P / capacity"),
        ("active_fraction", "(probe, manifold) pairs that support the solution"),
    )

    @property
    def mean_distance(self) -> float:
        return float(self.distance.mean())

    @property
    def active_fraction(self) -> float:
        return float(self.active.mean())


def glue(
    manifolds: object,
    *,
    labels: str | ArrayLike = "balanced",
    n_probes: int = 200,
    probes: ArrayLike | None = None,
    center: bool = False,
    convention: str = "scale-free",
    inactive: str | None = None,
    alignment: str | None = None,
    pairwise: bool = False,
    allow_overlap: bool = False,
    kappa: float = 0.0,
    threads: int = 1,
    seed: Seed = None,
) -> Glue:
    """Manifold capacity with its effective dimension, radius, utility and alignments, correlations included.

    Parameters
    ----------
    manifolds : sequence or mapping of (M, N) arrays, (P, M, N) array, or tuple (X, labels)
        P >= 2 point clouds; rows are points, columns are neurons. Numbers of points may differ.
    labels : {"balanced", "random", "one_vs_rest"} or array (P,) or (any, P) of +-1
        Dichotomies; explicit ones are used in turn.
    n_probes : int
        Gaussian probes; 200 give about 3 % on the capacity, 1 % on dimension and radius.
    probes : (T, N) array, optional
        Explicit probes.
    center : bool
        Subtract the mean of all points first.
    convention : {"scale-free", "definition", "algorithm", "older", "signed"}
        What published formulas and codes do differently, by name: see THEORY.md, "Conventions". The default recovers
        the geometry of spheres; "definition" is the text of the paper (anchors of active manifolds only, plain absolute
        inner products), "algorithm" its algorithm step by step (a row of zeros for an inactive manifold), "older" has
        the radius as root of the mean ratio and cosines, "signed" keeps the sign of the cosines. The capacity is the
        same in all.
    inactive : {"support", "zero", "exclude"}, optional
        In place of the convention's: anchor of a manifold that does not support the solution: its point nearest to the
        hyperplane's wrong side, the origin, or none.
    alignment : {"cosine", "raw", "signed"}, optional
        In place of the convention's: absolute cosines, absolute inner products, or cosines with their sign.
    pairwise : bool
        Analyse all pairs of manifolds; harmonic mean of the capacities, arithmetic mean of the rest.
    allow_overlap : bool
        Accept a point shared by two manifolds.
    kappa : float
        Only 0: the descriptors are scale-free and a margin is not. `replica_capacity` takes margins.
    threads : int
        Threads that share the probes; the result does not depend on it.
    seed : int, SeedSequence, Generator or None

    Returns
    -------
    Glue
        With standard errors from a delete-block jackknife over the probes.

    Raises
    ------
    ValueError
        For input no capacity is defined for; the message names the manifold and what to do.
    RuntimeError
        If a projection cannot be solved to its optimality tolerance.

    Warns
    -----
    UserWarning
        Inseparable dichotomies, saturation at the rank, unequal numbers of points, few probes.

    Notes
    -----
    The capacity depends on the directions of the points alone, and on the number of points per manifold; never compare
    different numbers of points. Cost per probe ``~ k^2 n`` for n points and k support vectors.

    Examples
    --------
    >>> import numpy as np
    >>> result = glue(np.eye(12).reshape(4, 3, 12), seed=0)
    >>> round(3 * result.capacity / 2, 1)  # orthonormal points: capacity 2/M
    1.0
    """
    choice("convention", convention, tuple(CONVENTIONS))
    own_inactive, own_alignment, _ = CONVENTIONS[convention]
    inactive = own_inactive if inactive is None else choice("inactive", inactive, INACTIVE)
    alignment = own_alignment if alignment is None else choice("alignment", alignment, ALIGNMENTS)
    center, pairwise = flag("center", center), flag("pairwise", pairwise)
    if real_number("kappa", kappa) != 0:
        raise ValueError(
            "glue is defined at margin 0 only: its descriptors are scale-free. Use replica_capacity(kappa=...)"
        )
    thread_count(threads)
    options = {
        "labels": describe_labels(labels),
        "center": bool(center),
        "convention": convention,
        "inactive": inactive,
        "alignment": alignment,
        "pairwise": bool(pairwise),
        "seed": describe_seed(seed),
    }
    settings = ProbeSettings(n_probes=n_probes, probes=probes, threads=threads)
    if pairwise:
        return _pairwise(manifolds, labels, center, allow_overlap, seed, settings, options)
    problem = cone_problem(manifolds, center=center, allow_overlap=allow_overlap)
    return _describe(solve_problem(problem, labels=labels, seed=seed, **settings), options)


class ProbeSettings(TypedDict):
    """Of a Monte-Carlo average over probes."""

    n_probes: int
    probes: ArrayLike | None
    threads: int


def capacity(manifolds: object, **options: Any) -> float:
    """GLUE manifold capacity ``P / E[a]`` alone, without the descriptors; options and seeds as in `glue`."""
    if options.get("pairwise", False) is not False or options.get("kappa", 0) != 0:
        return glue(manifolds, **options).capacity
    allowed = {"labels", "n_probes", "probes", "center", "allow_overlap", "threads", "seed"}
    for name in set(options) - allowed:
        if name not in ("convention", "inactive", "alignment", "pairwise", "kappa"):
            raise TypeError(f"capacity() has no option {name!r}")
    thread_count(options.get("threads", 1))
    problem = cone_problem(
        manifolds, center=options.get("center", False), allow_overlap=options.get("allow_overlap", False)
    )
    solved = solve_problem(
        problem,
        labels=options.get("labels", "balanced"),
        n_probes=options.get("n_probes", 200),
        probes=options.get("probes"),
        threads=options.get("threads", 1),
        seed=options.get("seed"),
    )
    return problem.clouds.number / float(solved.distance.mean())


def anchor_points(
    manifolds: object,
    *,
    labels: str | ArrayLike = "balanced",
    n_probes: int = 200,
    probes: ArrayLike | None = None,
    center: bool = False,
    inactive: str = "support",
    allow_overlap: bool = False,
    threads: int = 1,
    seed: Seed = None,
) -> AnchorPoints:
    """Anchor points: for each probe and manifold the dual-weighted mean of the points that support the solution.

    Parameters are those of `glue`; the same seed gives the probes and dichotomies of that call. Needs memory for
    ``T P N`` numbers.

    Returns
    -------
    AnchorPoints
    """
    choice("inactive", inactive, INACTIVE)
    thread_count(threads)
    problem = cone_problem(manifolds, center=center, allow_overlap=allow_overlap)
    solved = solve_problem(problem, labels=labels, n_probes=n_probes, probes=probes, threads=threads, seed=seed)
    weights, active = solved.anchor_weights(inactive)
    return AnchorPoints(
        anchors=stack_anchors(weights, solved, problem.clouds.points) * problem.scale,
        active=active,
        probes=solved.probes @ problem.basis,
        solutions=(solved.probes - solved.projected.points) @ problem.basis,
        labels=solved.labels,
        distance=solved.distance,
        standard_errors={"mean_distance": float(solved.distance.std(ddof=1) / np.sqrt(len(solved.distance)))},
        options={
            "labels": describe_labels(labels),
            "center": bool(center),
            "inactive": inactive,
            "seed": describe_seed(seed),
        },
        names=problem.clouds.names,
    )


def _describe(solved: Solved, options: dict[str, object], *, stacklevel: int = 3) -> Glue:
    problem = solved.problem
    weights, active = solved.anchor_weights(str(options["inactive"]))
    found = estimate(solved, weights, active, options)
    values: dict[str, Any] = dict(found.values)
    errors = dict(found.errors)
    if CONVENTIONS[str(options["convention"])][2]:
        values["radius"], errors["radius"] = values["radius_mean_ratio"], errors["radius_mean_ratio"]
    if options["alignment"] == "raw":  # inner products, the only scalars with a unit
        for name in ("center_alignment", "axis_alignment", "center_axis_alignment"):
            values[name] *= problem.scale**2
            errors[name] *= problem.scale**2
    result = Glue(
        **values,
        fraction_inseparable=float(solved.inseparable.mean()),
        rank=problem.rank,
        n_manifolds=problem.clouds.number,
        n_points=len(problem.rows),
        n_probes=len(solved.distance),
        center_cosines=center_cosines(found.mean),
        anchor_centers=found.mean @ problem.basis * problem.scale,
        manifold_dimension=found.manifold_dimension,
        active_fraction=active.mean(axis=0),
        center_norm=np.linalg.norm(found.mean, axis=1) * problem.scale,
        standard_errors=errors,
        options=options,
        names=problem.clouds.names,
    )
    for message in _cautions(result, solved):
        warnings.warn(message, UserWarning, stacklevel=stacklevel)
    return result


def _cautions(result: Glue, solved: Solved) -> Iterator[str]:
    if tied := solved.problem.clouds.with_tied_rays():
        yield (
            f"points of manifold {tied[0]!r} differ by a positive factor only: which of them is the anchor is open, so "
            "dimension, radius, utility and alignments depend on the order of the points (the capacity does not). Keep "
            "one point of every ray"
        )
    P, rank = result.n_manifolds, result.rank
    error = result.standard_errors["capacity"]
    if result.fraction_inseparable > 0:
        yield (
            f"{result.fraction_inseparable:.1%} of the dichotomies have no solution even with all neurons; the "
            "capacity saturates there and says nothing about the geometry. Use more neurons or fewer points"
        )
    elif result.capacity - P / rank < 2 * error:
        yield f"the capacity is within two standard errors of its lower bound P/rank = {P / rank:.4g}: it is saturated"
    if np.isnan(result.dimension):
        yield "every manifold is a single point: dimension, radius and utility do not exist (NaN), the capacity does"
    elif P / result.capacity > CROWDED * rank:
        clouds, rows = solved.problem.clouds, solved.problem.rows
        if sum(len(span_coordinates(rows[clouds.block(manifold)])[1]) for manifold in range(P)) > 1.1 * rank:
            yield (
                f"the constraints fill {P / result.capacity:.0f} of the {rank} dimensions that the points span: the "
                "manifolds are not in general position, and their effective dimension is smaller than it is apart"
            )
    combined = np.hypot(error, result.standard_errors["capacity_faces"])
    if abs(result.capacity - result.capacity_faces) > 4 * combined:
        yield (
            f"capacity {result.capacity:.5g} and its support-vector estimate {result.capacity_faces:.5g} disagree by "
            "more than four standard errors: points may be tied or nearly identical"
        )


def _pairwise(
    manifolds: object,
    labels: str | ArrayLike,
    center: bool,
    allow_overlap: bool,
    seed: Seed,
    settings: ProbeSettings,
    options: dict[str, object],
) -> Glue:
    if not isinstance(labels, str):
        raise ValueError("pairwise=True draws the dichotomies of each pair; explicit labels cannot be split into pairs")
    clouds = as_clouds(manifolds)
    if center:
        clouds = clouds.centered()
    P = clouds.number
    pairs = [(i, j) for i in range(P) for j in range(i)]
    results = []
    for pair, stream in zip(pairs, streams(seed, len(pairs))):
        problem = cone_problem(clouds.select(pair), center=False, allow_overlap=allow_overlap)
        solved = solve_problem(problem, labels=labels, seed=stream, **settings)
        results.append(_describe(solved, options, stacklevel=4))

    number = len(pairs)
    values: dict[str, Any] = {}
    errors: dict[str, float] = {}
    for name in results[0].standard_errors:
        each = np.array([getattr(result, name) for result in results])
        error = np.array([result.standard_errors[name] for result in results])
        if name.startswith("capacity"):
            values[name] = float(1.0 / np.mean(1.0 / each))
            errors[name] = float(values[name] ** 2 * np.sqrt(np.sum((error / each**2) ** 2)) / number)
        else:
            values[name] = float(each.mean())
            errors[name] = float(np.sqrt(np.sum(error**2)) / number)
    cosines, capacities = np.eye(P), np.full((P, P), np.nan)
    per_manifold: dict[str, Any] = {
        name: np.zeros(P) for name in ("manifold_dimension", "active_fraction", "center_norm")
    }
    for (i, j), result in zip(pairs, results):
        cosines[i, j] = cosines[j, i] = result.center_cosines[0, 1]
        capacities[i, j] = capacities[j, i] = result.capacity
        for name, array in per_manifold.items():
            array[[i, j]] += getattr(result, name) / (P - 1)
    return Glue(
        **values,
        **per_manifold,
        fraction_inseparable=float(np.mean([result.fraction_inseparable for result in results])),
        rank=max(result.rank for result in results),
        n_manifolds=P,
        n_points=len(clouds.points),
        n_probes=results[0].n_probes,
        center_cosines=cosines,
        pair_capacity=capacities,
        standard_errors=errors,
        options=options,
        names=clouds.names,
    )
