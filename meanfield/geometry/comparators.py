"""What capacity is compared with: kernel alignments, neural collapse, participation ratio, distance of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meanfield.geometry.clouds import CARRIED, as_clouds, binary_scale, dimension, subtract_mean
from meanfield.geometry.results import Result
from meanfield.validation import class_labels, flag, squarable_array

__all__ = [
    "NeuralCollapse",
    "cka",
    "kernel_target_alignment",
    "neural_collapse",
    "participation_ratio",
    "weight_change",
]

Array = NDArray[np.float64]

ROUNDING = 1e-13  # extent of class centres, relative to the points, that is none


def _features(values: ArrayLike, name: str) -> Array:
    array = squarable_array(name, values)
    if array.ndim != 2 or len(array) < 2:
        raise ValueError(f"{name} must have shape (n >= 2, N), one point per row, got {array.shape}")
    return array


def _centered_features(values: ArrayLike, name: str) -> Array:
    """Features without their mean, the largest entry about one: alignments do not depend on the scale."""
    centered = subtract_mean(_features(values, name), name)
    return centered / binary_scale(centered)


def _kernel(values: ArrayLike, name: str) -> Array:
    """A symmetric kernel given by the user, its largest entry about one."""
    array = _features(values, name)
    if array.shape[0] != array.shape[1] or not np.allclose(
        array, array.T, rtol=1e-10, atol=1e-12 * np.abs(array).max()
    ):
        raise ValueError(f"{name} must be a symmetric (n, n) kernel when precomputed=True, got shape {array.shape}")
    return array / binary_scale(array)


def _double_centered(kernel: Array, name: str) -> Array:
    rows = kernel.mean(axis=1)
    centered: Array = kernel - rows[:, None] - rows[None, :] + rows.mean()
    size = float(np.max(np.abs(centered)))
    if size < CARRIED * float(np.max(np.abs(kernel))):
        raise ValueError(
            f"the alignment does not exist: of the kernel {name}, {size:.0e} is left after centring, which is rounding "
            "(constant features, a single class, or a large common offset: center the features first)"
        )
    return centered / binary_scale(centered)


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


def _cosine(first: Array, second: Array) -> float:
    return _ratio(*(float(np.sum(a * b)) for a, b in ((first, second), (first, first), (second, second))))


def _unbiased_ratio(first: Array, second: Array) -> float:
    pairs = ((first, second), (first, first), (second, second))
    return _ratio(*(_unbiased_product(a, b) for a, b in pairs))


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
        Different numbers of points, asymmetric kernels, constant features, or an offset so large that float64 has
        lost the differences between points.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(8.0).reshape(4, 2) ** 2
    >>> round(cka(X, X @ [[0.0, -3.0], [3.0, 0.0]]), 12)
    1.0
    """
    flag("precomputed", precomputed)
    flag("debiased", debiased)
    first, second = _features(X, "X"), _features(Y, "Y")
    if len(first) != len(second):
        raise ValueError(f"X and Y must describe the same points, got {len(first)} and {len(second)} rows")
    if debiased and len(first) < 4:
        raise ValueError(f"the unbiased estimate needs at least four points, got {len(first)}")
    if precomputed:
        kernels = _kernel(first, "X"), _kernel(second, "Y")
        centered = _double_centered(kernels[0], "X"), _double_centered(kernels[1], "Y")
        return _unbiased_ratio(*kernels) if debiased else _cosine(*centered)
    first, second = _centered_features(first, "X"), _centered_features(second, "Y")
    if debiased:
        return _unbiased_ratio(first @ first.T, second @ second.T)
    if max(first.shape[1], second.shape[1]) < len(first):
        products = [np.sum((a.T @ b) ** 2) for a, b in ((first, second), (first, first), (second, second))]
        return _ratio(*map(float, products))
    return _cosine(first @ first.T, second @ second.T)


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
    flag("precomputed", precomputed)
    flag("centered", centered)
    if dimension(y) == 1:
        labels, classes = class_labels("y", y)
        targets = (labels[:, None] == classes[None, :]).astype(float)
    else:
        targets = _features(y, "y")
        targets = targets / binary_scale(targets)
    points = _features(X, "X")
    if len(targets) != len(points):
        raise ValueError(f"X and y must describe the same points, got {len(points)} and {len(targets)}")
    if centered:
        return cka(points, targets @ targets.T, precomputed=True) if precomputed else cka(points, targets)
    if precomputed:
        kernel = _kernel(points, "X")
    else:
        points = points / binary_scale(points)
        kernel = points @ points.T
    return _cosine(kernel, targets @ targets.T)


def participation_ratio(X: ArrayLike, *, center: bool = True) -> float:
    """Participation ratio ``(sum l)^2/sum l^2`` of the covariance eigenvalues of points (n, N).

    Examples
    --------
    >>> participation_ratio([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    2.0
    """
    points = _features(X, "X")
    if flag("center", center):
        points = subtract_mean(points, "X")
    points = points / binary_scale(points)
    gram = points @ points.T if len(points) < points.shape[1] else points.T @ points
    square = float(np.sum(gram**2))
    if square == 0.0:
        where = "coincide" if center else "are zero"
        raise ValueError(f"all points of X {where}: their covariance vanishes and has no participation ratio")
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
    manifolds: object, *, classifier: ArrayLike | None = None, bias: ArrayLike | None = None
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
    points = clouds.centered().points
    points = points / binary_scale(points)
    means = np.add.reduceat(points, clouds.starts[:-1], axis=0) / clouds.sizes[:, None]
    centers = means - means.mean(axis=0)
    deviations = points - means[owner]
    _, singular, right = np.linalg.svd(centers, full_matrices=False)
    relative = singular / max(singular[0], np.sqrt(np.mean(np.sum(points**2, axis=1))), np.finfo(float).tiny)
    kept = relative > ROUNDING
    if not kept.any():
        raise ValueError("all class centres coincide: neural collapse is not defined")
    if relative[kept].min() < CARRIED:
        raise ValueError(
            f"the class centres span a direction by only {relative[kept].min():.0e} of their size: rounding decides "
            "the variability along it (nc1). Merge classes that coincide, or project that direction out"
        )
    along = (deviations @ right[kept].T) ** 2
    within = np.mean(np.add.reduceat(along, clouds.starts[:-1], axis=0) / clouds.sizes[:, None], axis=0)
    norms = np.linalg.norm(centers, axis=1)
    unit = np.divide(centers, norms[:, None], out=np.zeros_like(centers), where=norms[:, None] > 0.0)
    cosines = (unit @ unit.T)[~np.eye(P, dtype=bool)]
    # |x - m|^2 up to |x|^2, which is common to all classes.
    nearest = np.argmin(np.sum(means**2, axis=1) - 2.0 * points @ means.T, axis=1)

    nc3 = nc4 = float("nan")
    if classifier is None:
        if bias is not None:
            raise ValueError("a bias needs its classifier")
    else:
        rows = squarable_array("classifier", classifier)
        if rows.shape != means.shape:
            raise ValueError(f"classifier must have shape (P, N) = {means.shape}, got {rows.shape}")
        offset = np.zeros(P) if bias is None else squarable_array("bias", bias)
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


def weight_change(before: object, after: object) -> dict[str, Any]:
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
    if isinstance(after, Mapping):
        raise ValueError(
            f"before is {type(before).__name__} and after names layers: expected two mappings or two arrays"
        )
    first, second = squarable_array("before", before), squarable_array("after", after)
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
