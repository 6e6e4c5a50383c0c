"""Correlations between class centres, and the low-rank part whose removal makes them uncorrelated.

Source: Cohen, Chung, Lee, Sompolinsky, "Separability and geometry of object manifolds in deep neural networks" (2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from meanfield.geometry.clouds import CARRIED, Clouds, Seed, as_clouds, binary_scale, describe_seed, streams
from meanfield.geometry.problem import span_coordinates
from meanfield.geometry.results import Result
from meanfield.validation import whole_number

__all__ = ["CenterComponents", "center_correlation", "correlation_cost", "remove_center_components"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class CenterComponents(Result):
    """Common directions of the class centres; see `remove_center_components`.

    Attributes
    ----------
    center_correlation, residual_correlation : float
        Mean absolute cosine between the centres before and after the removal.
    n_components : int
        Number K of removed directions.
    directions : (K, N) array
        Orthonormal rows.
    correlation_path : (K_tried + 1,) array
        Residual correlation after removing 0, 1, 2, ... directions.
    """

    center_correlation: float
    residual_correlation: float
    n_components: int
    directions: Array
    correlation_path: Array

    title: ClassVar[str] = "correlations of class centres"
    quantities: ClassVar[tuple[tuple[str, str], ...]] = (
        ("center_correlation", "mean |cos| between centres"),
        ("residual_correlation", "after removal of the common directions"),
        ("n_components", "removed directions"),
    )


def _cosines(centers: Array) -> Array:
    norms = np.linalg.norm(centers, axis=1)
    unit = np.divide(centers, norms[:, None], out=np.zeros_like(centers), where=norms[:, None] > 0.0)
    return unit @ unit.T


def _mean_cosine(centers: Array) -> float:
    matrix = np.abs(_cosines(centers))
    return float(matrix[~np.eye(len(matrix), dtype=bool)].mean())


def _class_means(clouds: Clouds) -> Array:
    """Class means of centred clouds without their own mean.

    Raises
    ------
    ValueError
        If one of them vanishes: it has no direction.
    """
    means = np.add.reduceat(clouds.points, clouds.starts[:-1], axis=0) / clouds.sizes[:, None]
    means -= means.mean(axis=0)
    norms = np.linalg.norm(means, axis=1)
    if (norms <= CARRIED * np.sqrt(np.mean(np.sum(clouds.points**2, axis=1)))).any():
        name = clouds.names[int(np.argmin(norms))]
        raise ValueError(f"the centre of manifold {name!r} coincides with the mean of all centres: it has no direction")
    return np.asarray(means)


def correlation_cost(centers: Array, directions: Array, full_gram: Array | None = None) -> tuple[float, Array]:
    """Cost ``1/2 sum C_mn^2/(C_mm C_nn)`` of centres (P, d) without the orthonormal columns (d, K), and its gradient.

    The gradient by the columns is ``-2 X^T B X V`` with ``W = C/(C_mm C_nn)``, ``B = W - diag(sum_n C_mn W_mn/C_mm)``.
    With `full_gram`, the products of all centres, an evaluation costs of the order of P^2 K.
    """
    overlap = centers @ directions
    gram = (centers @ centers.T if full_gram is None else full_gram) - overlap @ overlap.T
    diagonal = np.diag(gram)
    weight = gram / np.outer(diagonal, diagonal)
    inner = weight - np.diag(np.sum(gram * weight, axis=1) / diagonal)
    return float(0.5 * np.sum(gram * weight)), -2.0 * centers.T @ (inner @ overlap)


def _minimise(centers: Array, start: Array) -> Array:
    """Local minimum over orthonormal columns; the cost depends on their span alone, so QR parametrises it."""
    from scipy.optimize import minimize

    shape, gram = start.shape, centers @ centers.T

    def objective(flat: Array) -> tuple[float, Array]:
        directions, triangle = np.linalg.qr(flat.reshape(shape))
        cost, gradient = correlation_cost(centers, directions, gram)
        tangent = gradient - directions @ (directions.T @ gradient)
        return cost, np.linalg.solve(triangle, tangent.T).T.ravel()

    found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200, "ftol": 1e-8})
    return np.linalg.qr(found.x.reshape(shape))[0]


def _search(
    centers: Array, rng: np.random.Generator, n_starts: int, last: int | None
) -> tuple[list[Array], list[float]]:
    """Directions (d, K) and residual correlations for K = 0, 1, ... up to `last`, or until three increases in a row."""
    P, d = centers.shape
    found = [np.zeros((d, 0))]
    path = [_mean_cosine(centers)]
    if P <= 4:
        return found, path
    variance = np.linalg.svd(centers, compute_uv=False) ** 2
    most = int(np.searchsorted(np.cumsum(variance), 0.95 * variance.sum())) + 1 + 10
    norms = np.linalg.norm(centers, axis=1)
    for K in range(1, (min(P - 3, most, d - 1) if last is None else min(last, d - 1)) + 1):
        starts = (np.column_stack((found[-1], rng.standard_normal(d))) for _ in range(n_starts))
        candidates = [_minimise(centers, np.linalg.qr(start)[0]) for start in starts]
        rests = [np.linalg.norm(centers - (centers @ V) @ V.T, axis=1) for V in candidates]
        best = candidates[int(np.argmax([np.min(rest / norms) for rest in rests]))]
        found.append(best)
        path.append(_mean_cosine(centers - (centers @ best) @ best.T))
        if last is None and K > 4 and path[-1] > path[-2] > path[-3] > path[-4]:
            break
    return found, path


def center_correlation(manifolds: object) -> float:
    """Mean absolute cosine between the class means, their common mean removed.

    Examples
    --------
    >>> round(center_correlation([[[1.0, 0.0]], [[-1.0, 0.0]]]), 12)
    1.0
    """
    return _mean_cosine(_class_means(as_clouds(manifolds).centered()))


def remove_center_components(
    manifolds: object, *, n_components: int | None = None, n_starts: int = 3, seed: Seed = None
) -> tuple[list[Array], CenterComponents]:
    """Project out the directions that the class centres share.

    For K = 1, 2, ... the directions minimise the sum of squared cosines between the residual centres; the K with the
    smallest mean absolute cosine is kept, K = 0 included. Seconds for a hundred classes, minutes for several hundred;
    `n_components` stops the search early.

    Parameters
    ----------
    manifolds : as in `glue`
    n_components : int, optional
        Fixed K <= P - 3 instead of the best one.
    n_starts : int
        Random starts of the non-convex minimisation for each K; the run that keeps the largest share of every centre
        wins.
    seed : int, SeedSequence, Generator or None

    Returns
    -------
    manifolds : list of (M, N) arrays
        The mean of all points and the common directions removed.
    components : CenterComponents

    Raises
    ------
    ValueError
        If two centres coincide with the mean of all, or `n_components` is out of range.
    """
    clouds = as_clouds(manifolds)
    whole_number("n_starts", n_starts, at_least=1)
    centered = clouds.centered()
    means = _class_means(centered)
    rows, basis = span_coordinates(means / binary_scale(means))
    rng = np.random.default_rng(streams(seed, 1)[0])
    if n_components is not None:
        whole_number("n_components", n_components, at_least=0)
        if n_components > max(0, clouds.number - 3):
            raise ValueError(f"n_components={n_components} exceeds P - 3 = {clouds.number - 3}")
    found, path = _search(rows, rng, n_starts, n_components)
    chosen = int(np.argmin(path)) if n_components is None else len(found) - 1
    directions = (basis.T @ found[chosen]).T
    cleaned = centered.with_points(centered.points - (centered.points @ directions.T) @ directions)
    components = CenterComponents(
        center_correlation=path[0],
        residual_correlation=path[chosen],
        n_components=chosen,
        directions=directions,
        correlation_path=np.array(path),
        options={"n_components": n_components, "n_starts": n_starts, "seed": describe_seed(seed)},
        names=clouds.names,
    )
    return cleaned.separate(), components
