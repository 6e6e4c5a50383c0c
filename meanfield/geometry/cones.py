"""Projection on finitely generated cones: the primitive that every capacity in this package reduces to.

``Pi_C(t) = argmin_{p in C} |t - p|^2 = sum_i w_i g_i`` with ``w >= 0``. Moreau's decomposition ``t = p + v`` splits t
into the projection on the cone and on its polar, and the optimality conditions ``w >= 0``, ``g_i . v <= 0``,
``w_i g_i . v = 0`` prove the answer. They are recomputed here from the vectors themselves for every probe.

Their scale matters. A score ``g_i . v = e > 0`` leaves an error of ``e sum(w)`` in the squared length, and a rounding
of the generators one of ``eps |v| sum(w)``: where generators nearly coincide (a large common offset, clouds close to a
line or to a point) the weights are large. Both are bounded relative to the squared length; what exceeds the bounds is
refused.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meanfield.validation import squarable_array, thread_count

__all__ = ["ConeProjection", "convex_weights", "is_separable", "project_onto_cone", "project_probes"]

Array = NDArray[np.float64]

KKT_TOLERANCE = 1e-9  # relative to |t|, generators of unit length
GAP_TOLERANCE = 1e-8  # of the squared length, at which the Gram form is believed
ACCURACY = 1e-6  # of the squared length, demanded of every projection
CARRIED = 1e-7  # change of the squared length by a rounding of the generators, above which they are refused
SMALL_SHARE = 1e-3  # of |t|^2: squared lengths below are not resolved relatively
GRAM_LIMIT = 3000  # points; a Gram matrix of 72 MB. Above, working sets of points are as fast and bound the memory
SINGLE_PROBE_GRAM_LIMIT = 1000  # for one probe the Gram matrix costs more than the problem
WORKING_BATCH = 16  # probes priced together when working sets are used
HULL_THRESHOLD = 1e-24  # squared distance of the origin from the convex hull of unit vectors that counts as separable
HULL_CLEAR = 1e-6  # squared distance that the Gram form resolves


@dataclass(frozen=True)
class ConeProjection:
    """Projection ``t = point + polar`` of one vector (N,) or of several (T, N).

    Attributes
    ----------
    point : (..., N) array
        Nearest point of the cone.
    polar : (..., N) array
        Nearest point of the polar cone, orthogonal to `point`.
    weights : (..., n) array
        Non-negative coefficients of the generators, ``point = weights @ generators``.
    squared_norm : (...) array
        ``|point|^2``.
    kkt_residual : float
        Largest violation of the optimality conditions, relative to the length of t, for unit generators.
    """

    point: Array
    polar: Array
    weights: Array
    squared_norm: Array
    kkt_residual: float


@dataclass(frozen=True)
class ProbeProjections:
    """Projections of T probes: weights of unit generators (T, n), points (T, r), scores ``sign_i z_i . v`` (T, n)."""

    weights: Array
    points: Array
    scores: Array
    kkt_residual: float


def _gram_weights(rows: Array, signs: Array, linear: Array, threads: int) -> tuple[Array, NDArray[np.bool_]]:
    """Weights (T, n), and for which probes the Gram matrix resolves them (T,)."""
    from meanfield.geometry import compiled

    probes, n = linear.shape
    gram = rows @ rows.T
    capacity = min(n, rows.shape[1]) + 1
    weights = np.zeros((probes, n))
    trusted = np.zeros(probes, dtype=np.bool_)

    def work(part: slice) -> None:
        compiled.solve_probes(gram, signs[part], linear[part], capacity, weights[part], trusted[part])

    if threads == 1:
        work(slice(None))
    else:
        # The kernel releases the GIL and treats every probe alone, so the split does not change a single bit.
        bounds = np.linspace(0, probes, min(4 * threads, probes) + 1).astype(int)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, [slice(a, b) for a, b in itertools.pairwise(bounds)]))
    return weights, trusted


def _working_set_weights(rows: Array, signs: Array, targets: Array, linear: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Solve on small sets of generators, add the most violated ones until none is; memory of one small Gram matrix.

    Generators without weight are dropped in every round; the distance to the target falls strictly, so no set returns.
    """
    from meanfield.geometry import compiled

    probes, n = linear.shape
    capacity = min(n, rows.shape[1]) + 1
    factor = np.empty((capacity, capacity))
    weights = np.zeros((probes, n))
    pending = np.arange(probes)
    scores = signs * linear
    tolerance = 0.1 * KKT_TOLERANCE * np.linalg.norm(targets, axis=1)
    distance = np.full(probes, np.inf)
    trusted = np.ones(probes, dtype=np.bool_)
    while pending.size:
        unfinished = []
        for probe in pending:
            current = np.flatnonzero(weights[probe])
            room = max(64, current.size)
            candidates = np.flatnonzero((scores[probe] > tolerance[probe]) & (weights[probe] == 0.0))
            if candidates.size > room:
                best = np.argpartition(scores[probe, candidates], -room)[-room:]
                candidates = candidates[best]
            if candidates.size == 0:
                continue
            chosen = np.concatenate((current, candidates))
            active = np.zeros(capacity, dtype=np.int64)
            active[: current.size] = np.arange(current.size)
            weight = np.zeros(capacity)
            weight[: current.size] = weights[probe, current]
            part = rows[chosen]
            size, trusted[probe] = compiled.lawson_hanson(
                part @ part.T, signs[probe, chosen], linear[probe, chosen], active, weight, current.size, factor
            )
            weights[probe] = 0.0
            weights[probe, chosen[active[:size]]] = weight[:size]
            unfinished.append(probe)
        pending = np.array(unfinished, dtype=int)
        if pending.size:
            polar = targets[pending] - (weights[pending] * signs[pending]) @ rows
            scores[pending] = signs[pending] * (polar @ rows.T)
            shrunk = np.linalg.norm(polar, axis=1)
            moving = shrunk < distance[pending] * (1.0 - 1e-14)
            distance[pending] = shrunk
            pending = pending[moving]
    return weights, trusted


def _gram_form(rows: Array, signs: Array, targets: Array, threads: int) -> tuple[Array, NDArray[np.bool_]]:
    """Weights (T, n) through Gram matrices, and for which probes they resolve them (T,)."""
    linear = targets @ rows.T
    if len(rows) <= (SINGLE_PROBE_GRAM_LIMIT if len(targets) == 1 else GRAM_LIMIT):
        return _gram_weights(rows, signs, linear, threads)
    weights = np.zeros(linear.shape)
    trusted = np.zeros(len(targets), dtype=np.bool_)

    def work(part: slice) -> None:
        weights[part], trusted[part] = _working_set_weights(rows, signs[part], targets[part], linear[part])

    parts = [slice(first, first + WORKING_BATCH) for first in range(0, len(targets), WORKING_BATCH)]
    if threads == 1:
        for part in parts:
            work(part)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, parts))
    return weights, trusted


@dataclass(frozen=True)
class _Certificate:
    """Of each probe (T,): KKT residual, and errors of the squared length left by it and by rounding the generators."""

    points: Array
    scores: Array
    residual: Array
    gap: Array
    rounding: Array


def _certify(rows: Array, signs: Array, targets: Array, weights: Array, polar: Array) -> _Certificate:
    """Certificate from the vectors and not from the Gram matrix; errors relative to the squared length.

    What the weights miss of ``targets - polar`` counts as a change of the generators.
    """
    points = targets - polar
    missed = np.linalg.norm(points - (weights * signs) @ rows, axis=1)
    scores = signs * (polar @ rows.T)
    length = np.linalg.norm(targets, axis=1)
    infeasible = np.max(scores, axis=1, initial=0.0)
    complementary = np.max(np.abs(scores) * (weights > 0.0), axis=1, initial=0.0)
    residual = np.maximum(infeasible, complementary) / np.where(length > 0.0, length, 1.0)
    total = weights.sum(axis=1)
    square = np.maximum(np.sum(points**2, axis=1), SMALL_SHARE * length**2)
    square = np.where(square > 0.0, square, 1.0)
    gap = (infeasible * total + np.abs(np.sum(weights * scores, axis=1))) / square
    rounding = 2.0 * np.linalg.norm(polar, axis=1) * np.maximum(np.finfo(float).eps * total, missed) / square
    return _Certificate(points, scores, residual, gap, rounding)


def _orthogonal(
    rows: Array, signs: Array, targets: Array, weights: Array, polar: Array, chosen: NDArray[np.int64], threads: int
) -> None:
    """Solve the chosen probes again through an orthonormal basis; write `weights` and `polar`."""
    from meanfield.geometry import compiled

    def work(probe: int) -> None:
        compiled.solve_orthogonal(rows, signs[probe], targets[probe], weights[probe], polar[probe])

    rows = np.ascontiguousarray(rows)
    if threads == 1:
        for probe in chosen:
            work(int(probe))
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, map(int, chosen)))


def project_probes(rows: Array, signs: Array, targets: Array, *, threads: int = 1) -> ProbeProjections:
    """Project targets (T, r) on the cones generated by ``signs[t, i] * rows[i]``, rows (n, r) of unit length.

    A probe whose Gram matrix is too ill-conditioned, or that fails its optimality check, is solved again through an
    orthonormal basis of its active generators.

    Raises
    ------
    ValueError
        If the squared length depends on the last digits of the generators.
    RuntimeError
        If the optimality conditions are not met.
    """
    weights, trusted = _gram_form(rows, signs, targets, threads)
    polar = targets - (weights * signs) @ rows
    found = _certify(rows, signs, targets, weights, polar)
    doubtful = np.flatnonzero(~(trusted & (found.residual <= KKT_TOLERANCE) & (found.gap <= GAP_TOLERANCE)))
    if doubtful.size:
        _orthogonal(rows, signs, targets, weights, polar, doubtful, threads)
        found = _certify(rows, signs, targets, weights, polar)
        _check(found, len(rows))
    return ProbeProjections(weights, found.points, found.scores, float(np.max(found.residual, initial=0.0)))


def _check(found: _Certificate, n: int) -> None:
    worst = int(np.argmax(found.rounding))
    if not found.rounding[worst] <= CARRIED:
        raise ValueError(
            f"the points nearly coincide in direction: a rounding of their last digit changes the squared length of a "
            f"projection by {found.rounding[worst]:.0e} of it, and {CARRIED:.0e} is accepted. A common offset or a "
            "direction much longer than the differences between points hides them: subtract it (center=True), or "
            "remove points that are equal up to noise"
        )
    failed = np.flatnonzero(~((found.residual <= KKT_TOLERANCE) & (found.gap <= ACCURACY)))
    if failed.size:
        probe = int(failed[0])
        raise RuntimeError(
            f"the projection of probe {probe} on the cone of {n} generators did not converge: optimality residual "
            f"{found.residual[probe]:.1e}, wanted {KKT_TOLERANCE:.0e}; relative gap {found.gap[probe]:.1e}, wanted "
            f"{ACCURACY:.0e}. Nearly identical points are the usual cause: remove duplicates up to noise, or pass "
            "fewer points per manifold (group_by_label(..., n_points=...))."
        )


def convex_weights(
    projected: ProbeProjections, norms: Array, starts: NDArray[np.int64], inactive: str
) -> tuple[Array, NDArray[np.bool_]]:
    """Convex weights (T, n) of the points in each manifold's anchor, and which manifolds are active (T, P).

    The dual variables refer to the unscaled points of lengths `norms`. A manifold without dual weight gets its support
    point, the one nearest to violating its constraint (the limit of vanishing dual weight), if `inactive` is "support",
    and weight zero otherwise.
    """
    duals = projected.weights / norms
    sizes = np.diff(starts)
    totals = np.add.reduceat(duals, starts[:-1], axis=1)
    active = totals > 0.0
    weights = duals / np.repeat(np.where(active, totals, 1.0), sizes, axis=1)
    if inactive == "support":
        scores = projected.scores * norms
        for manifold, (first, last) in enumerate(itertools.pairwise(starts)):
            idle = np.flatnonzero(~active[:, manifold])
            weights[idle, first + np.argmax(scores[idle, first:last], axis=1)] = 1.0
    return weights, active


def is_separable(generators: Array) -> bool:
    """Whether some w has a positive product with every row, by the distance of the rows' convex hull from the origin.

    The non-negative least-squares problem ``[G^T; 1^T] x = [0; 1]`` leaves the squared residual ``d^2/(1 + d^2)``.
    """
    norms = np.linalg.norm(generators, axis=1)
    if not norms.all():
        return False
    rows = np.column_stack((generators / norms[:, None], np.ones(len(norms)))) / np.sqrt(2.0)
    target = np.zeros((1, rows.shape[1]))
    target[0, -1] = 1.0
    signs = np.ones((1, len(rows)))
    weights, trusted = _gram_form(rows, signs, target, 1)
    polar = target - weights @ rows
    resolved = trusted[0] and _certify(rows, signs, target, weights, polar).residual[0] <= KKT_TOLERANCE
    if not (resolved and np.sum(polar**2) > HULL_CLEAR):
        _orthogonal(rows, signs, target, weights, polar, np.zeros(1, dtype=np.int64), 1)
    return float(np.sum(polar**2)) > HULL_THRESHOLD


def project_onto_cone(target: ArrayLike, generators: ArrayLike, *, threads: int = 1) -> ConeProjection:
    """Project one or several vectors on the cone of non-negative combinations of generators.

    Parameters
    ----------
    target : (N,) or (T, N) array
    generators : (n, N) array
        One generator per row; zero rows generate nothing and get weight zero.
    threads : int
        Threads that share the targets; the result does not depend on it.

    Returns
    -------
    ConeProjection

    Raises
    ------
    ValueError
        For other shapes, NaN or infinite entries.
    RuntimeError
        If the optimality conditions cannot be met to 1e-9.

    Examples
    --------
    >>> project_onto_cone([1.0, -2.0], [[1.0, 0.0], [0.0, 1.0]]).point
    array([1., 0.])
    """
    thread_count(threads)
    rows = squarable_array("generators", generators)
    vectors = squarable_array("target", target)
    if rows.ndim != 2 or vectors.ndim not in (1, 2) or vectors.shape[-1] != rows.shape[1]:
        raise ValueError(
            "project_onto_cone needs generators of shape (n, N), one per row, and a target of shape (N,) or (T, N); "
            f"got generators {rows.shape} and target {vectors.shape}"
        )
    stacked = np.atleast_2d(vectors)
    norms = np.linalg.norm(rows, axis=1)
    kept = norms > 0.0
    unit = rows[kept] / norms[kept, None]
    weights = np.zeros((len(stacked), len(rows)))
    residual = 0.0
    if kept.any() and len(stacked):
        solved = project_probes(unit, np.ones((len(stacked), len(unit))), stacked, threads=threads)
        weights[:, kept] = solved.weights / norms[kept]
        residual = solved.kkt_residual
    points = weights @ rows
    shape = vectors.shape[:-1]
    return ConeProjection(
        point=points.reshape(vectors.shape),
        polar=(stacked - points).reshape(vectors.shape),
        weights=weights.reshape(*shape, len(rows)),
        squared_norm=np.sum(points**2, axis=1).reshape(shape),
        kkt_residual=residual,
    )
