"""Point clouds in: validation, labels, probes, random streams, and synthetic manifolds.

A manifold is a finite point cloud of shape (M, N): rows are points, columns are neurons.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meanfield.validation import class_labels, real_number, seed_like, short, squarable_array, whole_number

__all__ = [
    "Clouds",
    "as_clouds",
    "binary_scale",
    "draw_labels",
    "group_by_label",
    "spherical_manifolds",
    "streams",
    "subtract_mean",
]

Array = NDArray[np.float64]
Seed = int | np.random.SeedSequence | np.random.Generator | None

ORIENTATION = "one manifold is an array of shape (points, neurons): rows are points, columns are neurons"
STREAM_TAG = 0x6D616E69  # keeps our streams apart from a user's default_rng(seed)
LARGEST = 2e9  # numbers in one synthetic data set, 16 GB
DATA_TAG = 0x64617461  # and those of synthetic or subsampled points apart from probes drawn with the same seed
OVERLAP_TOLERANCE = 1e-10
CARRIED = 2e-9  # spread of points relative to their size; below, a rounding of the points changes results by 1e-7
DICHOTOMIES = ("balanced", "random", "one_vs_rest")


def binary_scale(points: Array) -> float:
    """Power of two above the largest entry; division by it changes no digit and keeps fourth powers in float64."""
    return float(2.0 ** int(np.frexp(np.max(np.abs(points), initial=0.0))[1]))


def subtract_mean(points: Array, what: str) -> Array:
    """Points without their mean, exact to the rounding of their differences; zero if all coincide.

    Raises
    ------
    ValueError
        If the points differ by so little of their size that float64 has lost the digits of the differences.
    """
    moved = points - points[0]  # exact for neighbours, so that the mean is not taken of a large common offset
    centered: Array = moved - moved.mean(axis=0)
    spread, size = float(np.max(np.abs(centered), initial=0.0)), float(np.max(np.abs(points), initial=0.0))
    if spread <= 4.0 * np.finfo(float).eps * size:
        return np.zeros_like(points)
    if spread < CARRIED * size:
        raise ValueError(
            f"the points of {what} differ by {spread:.0e} at a size of {size:.0e}: float64 carries too few digits of "
            f"their differences (wanted: more than {CARRIED:.0e} of the size). Subtract the common offset before the "
            "data are rounded"
        )
    return centered


@dataclass(frozen=True)
class Clouds:
    """P manifolds, stacked: points (n, N), first row of each manifold (P + 1,), names."""

    points: Array
    starts: NDArray[np.int64]
    names: tuple[str, ...]

    @property
    def number(self) -> int:
        return len(self.names)

    @property
    def sizes(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    @property
    def owner(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(self.number), self.sizes)

    def block(self, manifold: int) -> slice:
        return slice(int(self.starts[manifold]), int(self.starts[manifold + 1]))

    def centered(self) -> Clouds:
        """Subtract the mean of all points; a point that equals it up to rounding becomes exactly zero."""
        points = subtract_mean(self.points, "all manifolds")
        points[np.linalg.norm(points, axis=1) <= 1e-13 * np.linalg.norm(self.points, axis=1)] = 0.0
        return self.with_points(points)

    def with_points(self, points: Array) -> Clouds:
        return Clouds(points, self.starts, self.names)

    def separate(self) -> list[Array]:
        return [self.points[self.block(i)] for i in range(self.number)]

    def without_duplicates(self) -> Clouds:
        """Drop exact repetitions of a point inside its manifold, keeping the order of first appearance."""
        parts = []
        for part in self.separate():
            first: dict[bytes, int] = {}
            for i, row in enumerate(part):
                first.setdefault(row.tobytes(), i)
            parts.append(part[list(first.values())] if len(first) < len(part) else part)
        sizes = np.array([len(part) for part in parts])
        if sizes.sum() == len(self.points):
            return self
        return Clouds(np.concatenate(parts), np.concatenate(([0], np.cumsum(sizes))), self.names)

    def select(self, manifolds: Sequence[int]) -> Clouds:
        parts = [self.points[self.block(i)] for i in manifolds]
        starts = np.concatenate(([0], np.cumsum([len(part) for part in parts])))
        return Clouds(np.concatenate(parts), starts, tuple(self.names[i] for i in manifolds))

    def check_separable_in_principle(self, *, allow_zero: bool, allow_overlap: bool) -> None:
        """Refuse points that no hyperplane through the origin can put on the right side."""
        norms = np.linalg.norm(self.points, axis=1)
        if not allow_zero and not norms.all():
            row = int(np.flatnonzero(norms == 0.0)[0])
            raise ValueError(
                f"manifold {self.names[self.owner[row]]!r} has a point that is zero in every neuron (dead units?): no "
                "hyperplane through the origin separates it strictly. Remove the point, or center the data, or use "
                "simulated_capacity(..., bias=True)"
            )
        if allow_overlap:
            return
        pair = _shared_ray(self.points, norms, self.owner)
        if pair is not None:
            first, second = (self.names[self.owner[i]] for i in pair)
            raise ValueError(
                f"manifolds {first!r} and {second!r} contain the same point up to a positive factor, so no dichotomy "
                "that parts them is separable. Remove it from one of them, or pass allow_overlap=True. (Directions "
                f"within {OVERLAP_TOLERANCE:.0e} count as the same; a large common offset goes with center=True)"
            )

    def with_tied_rays(self) -> list[str]:
        """Manifolds with two points that differ by a positive factor."""
        tied = []
        for name, part in zip(self.names, self.separate()):
            if _shared_ray(part, np.linalg.norm(part, axis=1), np.arange(len(part))) is not None:
                tied.append(name)
        return tied

    def warn_if_unequal(self) -> None:
        if self.sizes.max() > 2 * self.sizes.min():
            warnings.warn(
                f"manifolds have between {self.sizes.min()} and {self.sizes.max()} points; capacity, dimension and "
                "radius depend on the number of points. Subsample with group_by_label(X, y, n_points=...)",
                UserWarning,
                stacklevel=4,
            )


def _shared_ray(points: Array, norms: Array, owner: NDArray[np.int64]) -> tuple[int, int] | None:
    """Find two points of different owners on the same ray, through a sorted random projection of unit vectors."""
    kept = np.flatnonzero(norms > 0.0)
    unit = points[kept] / norms[kept, None]
    direction = np.random.default_rng(STREAM_TAG).standard_normal(points.shape[1])
    height = unit @ direction
    order = np.argsort(height, kind="stable")
    reach = OVERLAP_TOLERANCE * np.linalg.norm(direction)
    for position, i in enumerate(order):
        for j in order[position + 1 :]:
            if height[j] - height[i] > reach:
                break
            if owner[kept[i]] != owner[kept[j]] and np.linalg.norm(unit[i] - unit[j]) <= OVERLAP_TOLERANCE:
                return int(kept[min(i, j)]), int(kept[max(i, j)])
    return None


def dimension(values: object) -> int:
    """Number of axes of an array or of nested sequences, -1 if ragged."""
    try:
        return int(np.ndim(cast(ArrayLike, values)))
    except Exception:  # ragged, or a user's object, which may do anything
        return -1


def as_clouds(manifolds: object, *, least: int = 2) -> Clouds:
    """Validate manifolds given as a sequence or mapping of (M, N) arrays, a (P, M, N) array, or a tuple (X, labels).

    Raises
    ------
    ValueError
        Fewer than `least` manifolds, an empty or not two-dimensional one, unequal numbers of neurons, numbers that
        are not real and finite.
    """
    names: tuple[str, ...] | None = None
    if isinstance(manifolds, Clouds):
        return manifolds
    if isinstance(manifolds, tuple) and len(manifolds) == 2 and dimension(manifolds[1]) == 1:
        names = tuple(str(value) for value in class_labels("y", manifolds[1])[1])
        parts: list[np.ndarray] = group_by_label(*manifolds)
    elif isinstance(manifolds, Mapping):
        names = tuple(str(key) for key in manifolds)
        parts = list(manifolds.values())
    else:
        if isinstance(manifolds, str | bytes | set | frozenset) or hasattr(manifolds, "toarray"):
            raise ValueError(f"manifolds must be a sequence of arrays, got {type(manifolds).__name__}; {ORIENTATION}")
        if isinstance(manifolds, np.ma.MaskedArray):
            squarable_array("the array of manifolds", manifolds)
        ndim = getattr(manifolds, "ndim", None)
        if ndim is not None and ndim != 3:
            raise ValueError(
                f"an array of manifolds has shape (P, M, N), got {np.shape(cast(ArrayLike, manifolds))}; {ORIENTATION}"
            )
        try:
            parts = list(cast("Iterable[np.ndarray]", manifolds))
        except TypeError:
            raise ValueError(f"manifolds must be a sequence of arrays, got {type(manifolds).__name__}") from None
    if len(parts) < least:
        raise ValueError(f"at least {least} manifolds are needed, got {len(parts)}; {ORIENTATION}")
    if names is None:
        names = tuple(str(i) for i in range(len(parts)))
    arrays: list[Array] = []
    for name, part in zip(names, parts):
        array = squarable_array(f"manifold {name!r}", part)
        if array.ndim != 2 or 0 in array.shape:
            raise ValueError(f"manifold {name!r} has shape {array.shape}; {ORIENTATION}, and none is empty")
        if arrays and array.shape[1] != arrays[0].shape[1]:
            raise ValueError(
                f"manifold {name!r} has {array.shape[1]} neurons (columns), manifold {names[0]!r} has "
                f"{arrays[0].shape[1]}; {ORIENTATION}"
            )
        arrays.append(array)
    sizes = [len(array) for array in arrays]
    neurons = arrays[0].shape[1]
    if min(sizes) == max(sizes) > 10 * neurons:
        warnings.warn(
            f"every manifold has {sizes[0]} points and only {neurons} neurons: is the array transposed? {ORIENTATION}",
            UserWarning,
            stacklevel=3,
        )
    return Clouds(np.concatenate(arrays), np.concatenate(([0], np.cumsum(sizes))), names)


def streams(seed: Seed, number: int, tag: int = STREAM_TAG) -> list[np.random.SeedSequence]:
    """Independent random streams of `seed` and `tag`, none equal to ``default_rng(seed)``.

    Synthetic clouds are often drawn with the seed that the analysis gets too; probes from the same stream would repeat
    their centres and axes, and the measured dimension would double. A Generator is advanced by this call, a
    SeedSequence is not.
    """
    if isinstance(seed, np.random.SeedSequence):
        root = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, tag), pool_size=seed.pool_size)
    elif isinstance(seed, np.random.Generator):
        root = np.random.SeedSequence([int(word) for word in seed.integers(0, 2**32, size=4)])
    elif seed is None:
        root = np.random.SeedSequence()
    else:
        given = seed_like("seed", seed)
        assert isinstance(given, int)
        root = np.random.SeedSequence(given, spawn_key=(tag,))
    return root.spawn(number)


def describe_seed(seed: Seed) -> int | str | None:
    """Entry for the options of a result."""
    return int(seed) if isinstance(seed, int | np.integer) else (None if seed is None else type(seed).__name__)


def draw_labels(labels: str | ArrayLike, manifolds: int, number: int, seed: np.random.SeedSequence) -> Array:
    """Dichotomies (number, P) of +-1: "balanced", "random", "one_vs_rest", or explicit ones, used in turn.

    Raises
    ------
    ValueError
        For an unknown name, entries other than +-1, a wrong length, or an explicit constant dichotomy.
    """
    if isinstance(labels, str):
        if labels not in DICHOTOMIES:
            raise ValueError(
                f"labels={short(labels)} is not known: 'balanced', 'random', 'one_vs_rest', or an array of +-1, one "
                "per manifold"
            )
        rng = np.random.default_rng(seed)
        if labels == "random":
            return rng.choice([-1.0, 1.0], size=(number, manifolds))
        sign = rng.choice([-1.0, 1.0], size=(number, 1))
        order = rng.permuted(np.broadcast_to(np.arange(manifolds), (number, manifolds)), axis=1)
        if labels == "balanced":
            return sign * np.where(order < manifolds // 2, 1.0, -1.0)
        return sign * np.where(order == 0, 1.0, -1.0)
    array = np.atleast_2d(squarable_array("labels", labels))
    if array.ndim != 2 or array.shape[1] != manifolds or len(array) == 0:
        raise ValueError(f"labels have shape {np.shape(labels)}, expected ({manifolds},) or (any, {manifolds})")
    if not np.isin(array, (-1.0, 1.0)).all():
        raise ValueError("explicit labels must be +1 or -1")
    if (np.abs(array.sum(axis=1)) == manifolds).any():
        raise ValueError("an explicit dichotomy is constant; every dichotomy needs both signs")
    return array[np.arange(number) % len(array)]


def describe_labels(labels: str | ArrayLike) -> str:
    return labels if isinstance(labels, str) else f"explicit {np.shape(labels)}"


def group_by_label(X: ArrayLike, y: ArrayLike, n_points: int | None = None, seed: Seed = None) -> list[Array]:
    """Split points by label into manifolds, in the order of ``numpy.unique(y)``.

    Parameters
    ----------
    X : (n, N) array
        One point per row.
    y : (n,) array
        Integer or string labels.
    n_points : int, optional
        Number of points drawn from every class without replacement; all by default.
    seed : int, SeedSequence, Generator or None

    Returns
    -------
    list of (M, N) arrays

    Raises
    ------
    ValueError
        Shapes that do not match, or a class with fewer than `n_points` points.

    Examples
    --------
    >>> [part.shape for part in group_by_label([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0]], ["b", "a", "a"])]
    [(2, 2), (1, 2)]
    """
    points = squarable_array("X", X)
    labels, classes = class_labels("y", y)
    if points.ndim != 2 or labels.shape != points.shape[:1]:
        raise ValueError(
            f"X must have shape (n, N), one point per row, and y (n,); got {points.shape} and {labels.shape}"
        )
    rng = np.random.default_rng(streams(seed, 1, DATA_TAG)[0])
    parts = []
    for value in classes:
        rows = np.flatnonzero(labels == value)
        if n_points is not None:
            wanted = whole_number("n_points", n_points, at_least=1)
            if len(rows) < wanted:
                raise ValueError(f"class {str(value)!r} has {len(rows)} points, fewer than n_points={wanted}")
            rows = np.sort(rng.choice(rows, wanted, replace=False))
        parts.append(points[rows])
    return parts


def spherical_manifolds(
    P: int,
    N: int,
    M: int,
    D: int,
    R: float,
    center_corr: float = 0.0,
    axis_corr: float = 0.0,
    seed: Seed = None,
) -> Array:
    """Random spheres: P manifolds of M points, radius R in D random directions around random centres.

    Centres and axes have iid entries N(0, 1/N), so lengths are close to one. Correlations between manifolds mu and nu
    are ``center_corr**|mu - nu|`` for the centres and ``axis_corr**|mu - nu|`` for each axis.

    Returns
    -------
    (P, M, N) array
    """
    P, N, M, D = (whole_number(n, v, at_least=1) for v, n in ((P, "P"), (N, "N"), (M, "M"), (D, "D")))
    if P * M * N + P * D * N > LARGEST:
        raise ValueError(f"P={P}, M={M}, N={N}, D={D} need more than {LARGEST:.0e} numbers; expected fewer")
    R = real_number("R", R, at_least=0.0)
    for value, name in ((center_corr, "center_corr"), (axis_corr, "axis_corr")):
        if not -1 < real_number(name, value) < 1:
            raise ValueError(f"{name} must lie strictly between -1 and 1, got {value!r}")
    rng = np.random.default_rng(streams(seed, 1, DATA_TAG)[0])
    distance = np.abs(np.subtract.outer(np.arange(P), np.arange(P)))

    def mix(correlation: float, vectors: Array) -> Array:
        return np.tensordot(np.linalg.cholesky(float(correlation) ** distance), vectors, axes=1)

    centers = mix(center_corr, rng.standard_normal((P, N)) / np.sqrt(N))
    axes = mix(axis_corr, rng.standard_normal((P, D, N)) / np.sqrt(N))
    directions = rng.standard_normal((P, M, D))
    directions /= np.linalg.norm(directions, axis=2, keepdims=True)
    return centers[:, None, :] + R * directions @ axes
