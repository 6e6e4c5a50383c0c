"""Moments of the anchor points over probes, and the jackknife errors of everything computed from them.

Formulas in `descriptors`. The mean anchors are estimated from the same probes, so a jackknife would have to recompute
every probe for every block; instead their change enters through its exact first derivative.

``b`` and ``c`` are squared lengths of projections on the spans of the rows of S1 and of [S0 S1]. A Gram matrix resolves
them where the rows are clearly independent; otherwise (anchors along one line, or a common offset much longer than
their fluctuations) they come from an orthogonal factor of the rows themselves. What rounding of the anchors can do to
them is estimated, and refused where it shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meanfield.geometry.problem import Solved

__all__ = ["Estimates", "center_cosines", "estimate", "stack_anchors"]

Array = NDArray[np.float64]

BLOCKS = 20  # of the delete-block jackknife
GRAM_CLEAR = 1e-6  # smallest eigenvalue of a Gram matrix with unit diagonal that keeps nine digits
EPS = float(np.finfo(float).eps)
VANISHING = 64 * EPS  # fluctuation of an anchor relative to its length that is rounding (single points)
RESOLVED = 2e-7  # mean relative error of b and c by rounding of the anchors that is accepted
INFINITE = 1e-9  # of b: b - c below means that the anchor centres vanish
CHUNK = 250_000  # numbers in one block of anchors; about the size of a cache


@dataclass(frozen=True)
class Estimates:
    """Scalars with jackknife errors, mean anchors in span coordinates (P, r), share of each manifold in P D (P,)."""

    values: dict[str, float]
    errors: dict[str, float]
    mean: Array
    manifold_dimension: Array


def stack_anchors(weights: Array, solved: Solved, points: Array) -> Array:
    """Anchor points (T, P, columns of `points`) from convex weights (T, n)."""
    clouds = solved.problem.clouds
    anchors = np.empty((len(weights), clouds.number, points.shape[1]))
    for manifold in range(clouds.number):
        block = clouds.block(manifold)
        anchors[:, manifold] = weights[:, block] @ points[block]
    return anchors


@dataclass(frozen=True)
class _Moments:
    """Per-probe statistics (T,) by name, and the derivatives (P, r) of their means by the mean anchors."""

    samples: dict[str, Array]
    responses: dict[str, Array]
    manifold_dimension: Array
    error: float  # relative, of b and c, by rounding of the anchors
    thinnest: int  # manifold whose anchors vary least, relative to their length


@dataclass(frozen=True)
class _Spans:
    """Projections of T vectors on row spans: squared lengths (T,), coefficients of the rows (T, P), their errors."""

    square: Array
    coefficients: Array
    error: Array  # relative, by the rounding of the rows


def _project_on_rows(rows: Array, target: Array, rounding: Array) -> _Spans:
    """Project each target (T, d) on the span of its rows (T, P, d); rows without length drop out.

    Parameters
    ----------
    rounding : (T,) array
        Relative error of the rows. Directions not longer than that, relative to the longest, are no directions.
    """
    length = np.linalg.norm(rows, axis=2)
    present = length > 0.0
    inverse = np.divide(1.0, length, out=np.zeros_like(length), where=present)
    unit = rows * inverse[..., None]
    absent = np.where(present, 0.0, 1.0)  # an absent row stands alone in the Gram matrix
    values, vectors = np.linalg.eigh(unit @ unit.transpose(0, 2, 1) + absent[:, :, None] * np.eye(rows.shape[1]))
    right = np.einsum("tpd,td->tp", unit, target)
    part = np.einsum("tpk,tp->tk", vectors, right)
    values = np.maximum(values, EPS)
    square = np.sum(part**2 / values, axis=1)
    solved = np.einsum("tpk,tk->tp", vectors, part / values)
    error = rounding / np.sqrt(values[:, 0])
    for probe in np.flatnonzero(values[:, 0] < GRAM_CLEAR):
        orthonormal, triangle = np.linalg.qr(unit[probe].T)
        left, singular, turned = np.linalg.svd(triangle, full_matrices=False)
        kept = singular > 4.0 * max(rounding[probe], VANISHING) * singular[0]
        part_kept = (target[probe] @ orthonormal @ left)[kept]
        square[probe] = np.sum(part_kept**2)
        solved[probe] = turned[kept].T @ (part_kept / singular[kept])
        error[probe] = rounding[probe] / np.min(singular[kept], initial=1.0)
    return _Spans(square, solved * inverse, np.minimum(error, 1.0))


def _alignment(first: Array, second: Array, alignment: str) -> tuple[Array, Array, Array]:
    """Mean over mu != nu of ``|first_mu . second_nu|`` (T,) and its derivatives by both stacks (T or 1, P, r).

    Of cosines unless `alignment` is "raw", with their sign if it is "signed".

    Rows without length take no part; NaN where no pair is left.
    """
    cosine = alignment != "raw"
    length, other = np.linalg.norm(first, axis=2)[..., None], np.linalg.norm(second, axis=2)[..., None]
    present = (length > 0.0) & (other.transpose(0, 2, 1) > 0.0) & ~np.eye(first.shape[1], dtype=bool)
    if cosine:
        first = np.divide(first, length, out=np.zeros_like(first), where=length > 0.0)
        second = np.divide(second, other, out=np.zeros_like(second), where=other > 0.0)
    products = first @ second.transpose(0, 2, 1)
    count = present.sum(axis=(1, 2))
    sign = np.ones_like(products) if alignment == "signed" else np.sign(products)
    weight = sign * present / np.maximum(count, 1)[:, None, None]
    value = np.where(count > 0, np.sum(weight * products, axis=(1, 2)), np.nan)
    by_first, by_second = weight @ second, weight.transpose(0, 2, 1) @ first
    if cosine:
        by_first -= np.sum(weight * products, axis=2)[..., None] * first
        by_second -= np.sum(weight * products, axis=1)[..., None] * second
        by_first = np.divide(by_first, length, out=np.zeros_like(by_first), where=length > 0.0)
        by_second = np.divide(by_second, other, out=np.zeros_like(by_second), where=other > 0.0)
    return value, by_first, by_second


def _moments(
    solved: Solved, weights: Array, active: NDArray[np.bool_], mean: Array, options: Mapping[str, object]
) -> _Moments:
    coordinates = solved.problem.coordinates
    probes, manifolds = active.shape
    step = max(1, CHUNK // (manifolds * coordinates.shape[1]))
    parts: dict[str, list[Array]] = {"b": [], "c": [], "axis": [], "center_axis": []}
    responses = {name: np.zeros_like(mean) for name in parts}
    share = np.zeros(manifolds)
    errors: list[Array] = []
    ratios = np.zeros(manifolds)
    alignment = str(options["alignment"])
    for first in range(0, probes, step):
        chosen = slice(first, first + step)
        t = solved.probes[chosen]
        present = active[chosen, :, None] if options["inactive"] == "exclude" else np.ones((1, manifolds, 1))
        centers = np.broadcast_to(mean * present, (len(t), *mean.shape))
        anchors = stack_anchors(weights[chosen], solved, coordinates)
        axes = (anchors - centers) * present
        length = np.maximum(np.linalg.norm(anchors, axis=2), np.linalg.norm(centers, axis=2))
        extent = np.linalg.norm(axes, axis=2)
        moving = extent > VANISHING * length
        axes *= moving[..., None]
        tau = np.einsum("tpr,tr->tp", axes, t)
        ratio = np.divide(length, extent, out=np.zeros_like(length), where=moving)
        ratios = np.maximum(ratios, ratio.max(axis=0))
        along = _project_on_rows(axes, t, EPS * ratio.max(axis=1))
        both = np.concatenate((centers, axes), axis=2)
        joint = _project_on_rows(both, np.concatenate((np.zeros_like(t), t), axis=1), np.full(len(t), EPS))
        u, w = along.coefficients, joint.coefficients
        parts["b"].append(along.square)
        parts["c"].append(joint.square)
        errors.append(np.maximum(along.error, joint.error))
        share += np.sum(tau * u, axis=0)
        # Envelope theorem: b = max_u 2 u.tau - u.G1 u, so only the explicit dependence on the mean anchors counts.
        responses["b"] -= 2.0 * np.einsum("tp,tr->pr", u, t - np.einsum("tpr,tp->tr", axes, u))
        responses["c"] -= 2.0 * np.einsum("tp,tr->pr", w, t - np.einsum("tpr,tp->tr", axes - centers, w))

        value, by_axes, by_others = _alignment(axes, axes, alignment)
        parts["axis"].append(value)
        responses["axis"] -= np.sum(by_axes + by_others, axis=0)
        value, by_centers, by_axes = _alignment(mean[None], axes, alignment)
        parts["center_axis"].append(value)
        responses["center_axis"] += np.sum(by_centers - by_axes, axis=0)
    return _Moments(
        samples={name: np.concatenate(part) for name, part in parts.items()},
        responses={name: response / probes for name, response in responses.items()},
        manifold_dimension=share / probes,
        error=float(np.concatenate(errors).mean()),
        thinnest=int(np.argmax(ratios)),
    )


def center_cosines(mean: Array) -> Array:
    norms = np.linalg.norm(mean, axis=1)
    unit = np.divide(mean, norms[:, None], out=np.zeros_like(mean), where=norms[:, None] > 0.0)
    return unit @ unit.T


def _center_alignment(mean: Array, alignment: str) -> float:
    matrix = mean @ mean.T if alignment == "raw" else center_cosines(mean)
    matrix = matrix if alignment == "signed" else np.abs(matrix)
    return float(matrix[~np.eye(len(mean), dtype=bool)].mean())


def _finite_mean(values: Array) -> float:
    """Mean without the entries that do not exist (no two manifolds with extent)."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else float("nan")


def _scalars(P: int, a: float, k: float, b: float, c: float, ratio: float) -> dict[str, float]:
    if b <= 0.0:
        dimension = radius = utility = approximate = older = float("nan")
    else:
        dimension = b / P
        radius = float(np.sqrt(c / (b - c))) if b - c > INFINITE * b else float("inf")
        utility = c / a
        approximate = b / c / dimension if c > 0.0 else float("inf")
        older = float(np.sqrt(ratio))
    return {
        "capacity": P / a,
        "capacity_faces": P / k,
        "capacity_approximate": approximate,
        "dimension": dimension,
        "radius": radius,
        "utility": utility,
        "radius_mean_ratio": older,
    }


def estimate(solved: Solved, weights: Array, active: NDArray[np.bool_], options: Mapping[str, object]) -> Estimates:
    """Descriptors from convex weights (T, n) and activity (T, P), with errors of a delete-block jackknife."""
    P = solved.problem.clouds.number
    probes = len(solved.distance)
    blocks = np.array_split(np.arange(probes), min(BLOCKS, probes))
    sums = np.array([weights[block].sum(axis=0) for block in blocks])
    per_block = stack_anchors(sums, solved, solved.problem.coordinates)
    if options["inactive"] == "exclude":
        counts = np.array([active[block].sum(axis=0) for block in blocks], dtype=float)
    else:
        counts = np.repeat([[float(len(block))] for block in blocks], P, axis=1)
    total, count = per_block.sum(axis=0), counts.sum(axis=0)
    mean = total / np.maximum(count, 1.0)[:, None]
    moments = _moments(solved, weights, active, mean, options)
    if moments.error > RESOLVED:
        raise ValueError(
            f"dimension and radius are lost in rounding (relative error {moments.error:.0e}, accepted {RESOLVED:.0e}): "
            f"the anchor points of manifold {solved.problem.clouds.names[moments.thinnest]!r} differ by too little of "
            "their length, or those of several manifolds along one line. The capacity exists: capacity(...). Subtract "
            "a common offset (center=True), or replace points that are equal up to noise by one"
        )

    samples = moments.samples
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = np.where(samples["b"] - samples["c"] > INFINITE * samples["b"], samples["b"] - samples["c"], 0.0)
        ratio = np.where(samples["b"] > 0.0, samples["c"] / rest, 0.0)

    def scalars(kept: NDArray[np.int64], centers: Array) -> dict[str, float]:
        shift = centers - mean
        means = {
            name: _finite_mean(values[kept]) + float(np.sum(moments.responses[name] * shift))
            for name, values in samples.items()
        }
        values = _scalars(
            P,
            float(solved.distance[kept].mean()),
            float(solved.faces[kept].mean()),
            means["b"],
            means["c"],
            float(ratio[kept].mean()),
        )
        values["center_alignment"] = _center_alignment(centers, str(options["alignment"]))
        values["axis_alignment"] = means["axis"]
        values["center_axis_alignment"] = means["center_axis"]
        return values

    everything = np.arange(probes)
    full = scalars(everything, mean)
    left_out = []
    for block, part, number in zip(blocks, per_block, counts):
        centers = (total - part) / np.maximum(count - number, 1.0)[:, None]
        left_out.append(scalars(np.setdiff1d(everything, block), centers))
    factor = (len(blocks) - 1) / len(blocks)
    errors = {}
    for name in full:
        values = np.array([item[name] for item in left_out])
        with np.errstate(invalid="ignore"):
            errors[name] = float(np.sqrt(factor * np.sum((values - values.mean()) ** 2)))
    return Estimates(full, errors, mean, moments.manifold_dimension)
