"""What capacity is compared with: kernel alignments, neural collapse, participation ratio, distance of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meanfield.geometry.clouds import as_clouds, real_array
from meanfield.geometry.results import Result

__all__ = [
    "NeuralCollapse",
    "cka",
    "kernel_target_alignment",
    "neural_collapse",
    "participation_ratio",
    "weight_change",
]

Array = NDArray[np.float64]


def _features(values: ArrayLike, name: str) -> Array:
    array = real_array(values, name)
    if array.ndim != 2 or len(array) < 2:
        raise ValueError(f"{name} must have shape (n >= 2, N), one point per row, got {array.shape}")
    return array


def _kernel(values: ArrayLike, name: str, precomputed: bool) -> Array:
    array = _features(values, name)
    if not precomputed:
        return array @ array.T
    if array.shape[0] != array.shape[1] or not np.allclose(
        array, array.T, rtol=1e-10, atol=1e-12 * np.abs(array).max()
    ):
        raise ValueError(f"{name} must be a symmetric (n, n) kernel when precomputed=True, got shape {array.shape}")
    return array


def _double_centered(kernel: Array) -> Array:
    rows = kernel.mean(axis=1)
    return kernel - rows[:, None] - rows[None, :] + rows.mean()


def _unbiased_product(first: Array, second: Array) -> float:
    """Unbiased estimate of the Hilbert-Schmidt independence criterion, times n (n - 3) (Song et al. 2012)."""
    n = len(first)
    first = first - np.diag(np.diag(first))
    second = second - np.diag(np.diag(second))
    sums = first.sum(axis=0) @ second.sum(axis=0)
    return float(np.sum(first * second) + first.sum() * second.sum() / ((n - 1) * (n - 2)) - 2.0 * sums / (n - 2))


def _ratio(product: float, first: float, second: float) -> float:
    if not (first > 0 and second > 0):
        raise ValueError(
            "the alignment does not exist: a centred kernel vanishes (constant features or a single class)"
        )
    return product / float(np.sqrt(first * second))


def cka(X: ArrayLike, Y: ArrayLike, *, precomputed: bool = False, debiased: bool = False) -> float:
    """Centred kernel alignment of two representations of the same n points (Kornblith et al. 2019).

    Parameters
    ----------
    X, Y : (n, N1) and (n, N2) arrays, or (n, n) kernels
        Rows are points.
    precomputed : bool
        X and Y are kernels; otherwise linear kernels of the features are used.
    debiased : bool
        Use the unbiased estimate of the independence criterion; needs n > 3 and may be negative.

    Returns
    -------
    float
        In [0, 1] unless debiased.

    Raises
    ------
    ValueError
        Different numbers of points, asymmetric kernels, constant features.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(8.0).reshape(4, 2) ** 2
    >>> round(cka(X, X @ [[0.0, -3.0], [3.0, 0.0]]), 12)
    1.0
    """
    first, second = _features(X, "X"), _features(Y, "Y")
    if len(first) != len(second):
        raise ValueError(f"X and Y must describe the same points, got {len(first)} and {len(second)} rows")
    if debiased:
        if len(first) < 4:
            raise ValueError("the unbiased estimate needs at least four points")
        kernels = _kernel(first, "X", precomputed), _kernel(second, "Y", precomputed)
        return _ratio(
            _unbiased_product(*kernels),
            _unbiased_product(kernels[0], kernels[0]),
            _unbiased_product(kernels[1], kernels[1]),
        )
    if not precomputed and max(first.shape[1], second.shape[1]) < len(first):
        first, second = first - first.mean(axis=0), second - second.mean(axis=0)
        products = [np.sum((a.T @ b) ** 2) for a, b in ((first, second), (first, first), (second, second))]
        return _ratio(*map(float, products))
    kernels = _double_centered(_kernel(first, "X", precomputed)), _double_centered(_kernel(second, "Y", precomputed))
    return _ratio(*(float(np.sum(a * b)) for a, b in (kernels, kernels[:1] * 2, kernels[1:] * 2)))


def kernel_target_alignment(X: ArrayLike, y: ArrayLike, *, precomputed: bool = False, centered: bool = True) -> float:
    """Alignment of the kernel of a representation with the kernel of its targets.

    Parameters
    ----------
    X : (n, N) array, or (n, n) kernel if `precomputed`
    y : (n,) labels, turned into one-hot targets, or (n, m) targets
    precomputed : bool
    centered : bool
        Centre both kernels (Cortes et al. 2012); False is the original definition (Cristianini et al. 2001).

    Returns
    -------
    float
        Cosine of the kernels, ``<K, Y Y^T>/(|K| |Y Y^T|)``.
    """
    labels = np.asarray(y)
    if labels.ndim == 1:
        targets = (labels[:, None] == np.unique(labels)[None, :]).astype(float)
    else:
        targets = _features(labels, "y")
    kernel = _kernel(X, "X", precomputed)
    if len(targets) != len(kernel):
        raise ValueError(f"X and y must describe the same points, got {len(kernel)} and {len(targets)}")
    target_kernel = targets @ targets.T
    if centered:
        return cka(kernel, target_kernel, precomputed=True)
    product, first, second = (
        float(np.sum(a * b)) for a, b in ((kernel, target_kernel), (kernel, kernel), (target_kernel, target_kernel))
    )
    return _ratio(product, first, second)


def participation_ratio(X: ArrayLike, *, center: bool = True) -> float:
    """Participation ratio ``(sum l)^2/sum l^2`` of the covariance eigenvalues of points (n, N).

    Examples
    --------
    >>> participation_ratio([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    2.0
    """
    points = _features(X, "X")
    if center:
        points = points - points.mean(axis=0)
    gram = points @ points.T if len(points) < points.shape[1] else points.T @ points
    square = float(np.sum(gram**2))
    if square == 0.0:
        raise ValueError("all points coincide: their covariance vanishes and has no participation ratio")
    return float(np.trace(gram)) ** 2 / square


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class NeuralCollapse(Result):
    """Measures of neural collapse; see `neural_collapse`. NC3 and NC4 are NaN without a classifier."""

    nc1: float
    nc2_norm: float
    nc2_angle: float
    nc2_simplex: float
    nc3: float
    nc4: float
    nearest_center_error: float
    n_manifolds: int

    title: ClassVar[str] = "neural collapse"
    quantities: ClassVar[tuple[tuple[str, str], ...]] = (
        ("nc1", "tr(within between^+)/P, variability inside classes"),
        ("nc2_norm", "std/mean of the norms of the centres"),
        ("nc2_angle", "std of the cosines between centres"),
        ("nc2_simplex", "mean |cos + 1/(P - 1)|"),
        ("nc3", "distance of classifier and centres, normalised"),
        ("nc4", "points where classifier and nearest centre disagree"),
        ("nearest_center_error", "points nearer to another class's centre"),
        ("n_manifolds", "P classes"),
    )


def neural_collapse(
    manifolds: Any, *, classifier: ArrayLike | None = None, bias: ArrayLike | None = None
) -> NeuralCollapse:
    """Neural collapse of the last layer's features (Papyan, Han, Donoho 2020); classes count equally.

    Parameters
    ----------
    manifolds : as in `glue`, one per class
    classifier : (P, N) array, optional
        Rows of the linear classifier, in the order of the classes.
    bias : (P,) array, optional

    Returns
    -------
    NeuralCollapse
        All measures vanish at full collapse.

    Raises
    ------
    ValueError
        Coinciding centres, or a classifier of another shape.
    """
    clouds = as_clouds(manifolds)
    P, owner = clouds.number, clouds.owner
    means = np.add.reduceat(clouds.points, clouds.starts[:-1], axis=0) / clouds.sizes[:, None]
    centers = means - means.mean(axis=0)
    deviations = clouds.points - means[owner]
    _, singular, right = np.linalg.svd(centers, full_matrices=False)
    kept = singular > 1e-10 * max(singular[0], np.sqrt(np.mean(np.sum(clouds.points**2, axis=1))))
    if not kept.any():
        raise ValueError("all class centres coincide: neural collapse is not defined")
    along = (deviations @ right[kept].T) ** 2
    within = np.mean(np.add.reduceat(along, clouds.starts[:-1], axis=0) / clouds.sizes[:, None], axis=0)
    norms = np.linalg.norm(centers, axis=1)
    unit = np.divide(centers, norms[:, None], out=np.zeros_like(centers), where=norms[:, None] > 0.0)
    cosines = (unit @ unit.T)[~np.eye(P, dtype=bool)]
    # |x - m|^2 up to |x|^2, which is common to all classes.
    nearest = np.argmin(np.sum(means**2, axis=1) - 2.0 * clouds.points @ means.T, axis=1)

    nc3 = nc4 = float("nan")
    if classifier is None:
        if bias is not None:
            raise ValueError("a bias needs its classifier")
    else:
        rows = real_array(classifier, "classifier")
        if rows.shape != means.shape:
            raise ValueError(f"classifier must have shape (P, N) = {means.shape}, got {rows.shape}")
        offset = np.zeros(P) if bias is None else real_array(bias, "bias")
        if offset.shape != (P,):
            raise ValueError(f"bias must have shape ({P},), got {offset.shape}")
        if not np.any(rows):
            raise ValueError("the classifier vanishes")
        nc3 = float(np.linalg.norm(rows / np.linalg.norm(rows) - centers / np.linalg.norm(centers)))
        decided = np.argmax(clouds.points @ rows.T + offset, axis=1)
        nc4 = _class_average(decided != nearest, clouds.starts, clouds.sizes)
    return NeuralCollapse(
        nc1=float(np.sum(within / singular[kept] ** 2)),
        nc2_norm=float(norms.std() / norms.mean()),
        nc2_angle=float(cosines.std()),
        nc2_simplex=float(np.mean(np.abs(cosines + 1.0 / (P - 1)))),
        nc3=nc3,
        nc4=nc4,
        nearest_center_error=_class_average(nearest != owner, clouds.starts, clouds.sizes),
        n_manifolds=P,
        names=clouds.names,
    )


def _class_average(indicator: NDArray[np.bool_], starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> float:
    return float(np.mean(np.add.reduceat(indicator.astype(float), starts[:-1]) / sizes))


def weight_change(before: Any, after: Any) -> dict[str, Any]:
    """How far weights moved: norms of ``after - before`` of one array, or of every layer of two mappings.

    Parameters
    ----------
    before, after : arrays of equal shape, or mappings of layer name to array

    Returns
    -------
    dict
        `norm` (Frobenius), `relative` to the norm before, `spectral` (largest singular value, relative to that
        before), `cosine` between the weights, `stable_rank` of the change. For mappings: one such dict per layer.
        Quantities that do not exist (no change, zero weights) are NaN.

    Examples
    --------
    >>> weight_change([[3.0, 4.0]], [[6.0, 8.0]])["relative"]
    1.0
    """
    if isinstance(before, Mapping):
        if not isinstance(after, Mapping) or set(before) != set(after):
            raise ValueError("before and after must name the same layers")
        return {name: weight_change(before[name], after[name]) for name in before}
    first, second = real_array(before, "before"), real_array(after, "after")
    if first.shape != second.shape or first.size == 0:
        raise ValueError(f"before and after must have equal, non-empty shapes, got {first.shape} and {second.shape}")
    rows = len(first) if first.ndim > 1 else 1
    change = (second - first).reshape(rows, -1)
    norm, length = float(np.linalg.norm(change)), float(np.linalg.norm(first))
    top = float(np.linalg.norm(change, 2))
    product = length * float(np.linalg.norm(second))

    def divide(numerator: float, denominator: float) -> float:
        return numerator / denominator if denominator > 0.0 else float("nan")

    return {
        "norm": norm,
        "relative": divide(norm, length),
        "spectral": divide(top, float(np.linalg.norm(first.reshape(rows, -1), 2))),
        "cosine": divide(float(np.sum(first * second)), product),
        "stable_rank": divide(norm**2, top**2),
    }
