"""Tasks on any inputs and targets: samples x_mu in R^{N_0}, wanted outputs y_mu in R^m, and classes where there are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meanfield.archive import Arrays
from meanfield.problem.features import Features, features_from_inputs
from meanfield.validation import (
    FloatArray,
    check_scale,
    class_name_tuple,
    entry,
    plain_array,
    read_only,
    real_array,
    real_number,
    short,
)

__all__ = ["DataTask", "data_task"]

_MOST_CLASSES = 20  # that are recognised from the targets alone


@dataclass(frozen=True, eq=False)
class DataTask:
    """P samples with inputs X and targets Y; build it with `data_task`.

    Parameters
    ----------
    inputs : (P, N_0) array
        X as the network sees it, centred and scaled.
    targets : (P, m) array
        Y.
    labels : (P,) integer array or None
        Class of every sample, an index into `class_names`; None for regression.
    class_names : tuple of str
        One name per class; empty without classes.
    center : (N_0,) array
        What was subtracted from the raw inputs.
    scale : float
        What they were divided by after that.
    image_shape : tuple of int
        (h, w) or (h, w, channels) of the raw inputs if they were images, else ().

    Raises
    ------
    ValueError
        For NaN, wrong shapes, a scale that is not positive, labels that do not fit the class names.
    """

    inputs: FloatArray
    targets: FloatArray
    labels: NDArray[np.intp] | None
    class_names: tuple[str, ...]
    center: FloatArray
    scale: float = 1.0
    image_shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        inputs, targets = real_array("inputs", self.inputs), real_array("targets", self.targets)
        if inputs.ndim != 2:
            raise ValueError(f"inputs must have shape (P, N_0), got {inputs.shape}.")
        if targets.ndim == 1:
            targets = targets[:, None]
        if targets.ndim != 2 or len(targets) != len(inputs):
            raise ValueError(
                f"targets must have shape (P, m) or (P,) with P = {len(inputs)} as in the inputs, got {targets.shape}."
            )
        check_scale("inputs", inputs)
        check_scale("targets", targets)
        center = real_array("center", self.center)
        if center.shape != inputs.shape[1:]:
            raise ValueError(f"center must have shape (N_0,) = {inputs.shape[1:]}, got {center.shape}.")
        names = class_name_tuple(self.class_names)
        labels = None if self.labels is None else _checked_labels(self.labels, len(inputs), names)
        if labels is None and names:
            raise ValueError(f"class names {names} without labels; give labels=, or leave the names out.")
        values = {
            "inputs": read_only(inputs),
            "targets": read_only(targets),
            "labels": labels,
            "class_names": names,
            "center": read_only(center),
            "scale": real_number("scale", self.scale, above=0),
            "image_shape": tuple(int(n) for n in self.image_shape),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def n_samples(self) -> int:
        """P."""
        return int(self.inputs.shape[0])

    @property
    def n_inputs(self) -> int:
        """N_0."""
        return int(self.inputs.shape[1])

    @property
    def n_outputs(self) -> int:
        """m."""
        return int(self.targets.shape[1])

    @property
    def n_classes(self) -> int:
        """C; 0 without classes."""
        return len(self.class_names)

    @cached_property
    def class_targets(self) -> FloatArray | None:
        """(C, m) target of every class; None without classes, or where the targets vary within a class."""
        if self.labels is None:
            return None
        first = np.array([np.argmax(self.labels == c) for c in range(self.n_classes)])
        rows = self.targets[first]
        return read_only(rows) if np.array_equal(rows[self.labels], self.targets) else None

    @cached_property
    def conflicts(self) -> NDArray[np.intp]:
        """(k, 2) pairs of samples with exactly the same inputs but different targets: no network can fit both."""
        _, group = np.unique(self.inputs, axis=0, return_inverse=True)
        group = group.ravel()
        order = np.argsort(group, kind="stable")
        pair = np.column_stack([order[:-1], order[1:]])
        same = group[pair[:, 0]] == group[pair[:, 1]]
        differ = (self.targets[pair[:, 0]] != self.targets[pair[:, 1]]).any(axis=1)
        return np.asarray(pair[same & differ])

    def transform(self, raw: object) -> FloatArray:
        """Raw inputs (n, N_0), or images, as the network sees them: flattened, centred and scaled as in training.

        Raises
        ------
        ValueError
            For NaN and inputs of another size.
        """
        rows = _flattened("inputs", raw)[0]
        if rows.shape[1] != self.n_inputs:
            raise ValueError(
                f"inputs must have {self.n_inputs} numbers per sample as in training, got an array of shape "
                f"{np.shape(cast(ArrayLike, raw))}."
            )
        return (rows - self.center) / self.scale

    def features(self, sigma_w: float = 1.0) -> Features:
        """Feature factor F (P, r) of the kernel K = sigma_w^2 X X^T / N_0; remembered."""
        return _features(self, float(sigma_w))

    def targets_of(self, wanted: object, n: int) -> FloatArray:
        """(n, m) targets of new samples, from such an array, or from their class names or raw labels (n,).

        Raises
        ------
        ValueError
            For a wrong shape, an unknown class, classes that have no common target, and integers that are the targets
            of some classes and the labels of others.
        """
        array = plain_array("targets", wanted)
        if array.ndim == 1 and self.n_classes and (self.n_outputs > 1 or not self._are_targets(array)):
            if self.class_targets is None:
                raise ValueError("the targets vary within the classes; give the targets (n, m) of the new samples.")
            return np.asarray(self.class_targets[self.class_index(array, n)])
        targets = real_array("targets", array)
        if targets.ndim == 1:
            targets = targets[:, None]
        if targets.shape != (n, self.n_outputs):
            raise ValueError(
                f"targets must have shape (n, m) = ({n}, {self.n_outputs}), or be class names (n,), got {array.shape}."
            )
        return targets

    def _are_targets(self, values: np.ndarray) -> bool:
        """Whether numbers (n,), for a task of one output, are targets and not labels."""
        if values.dtype.kind not in "biu":
            return values.dtype.kind == "f"
        if not {_name(value) for value in values.tolist()} <= set(self.class_names):
            return True
        if self.class_targets is None or not np.isin(values, self.class_targets).all():
            return False
        if not np.array_equal(self.class_targets[self.class_index(values, len(values)), 0], values):
            raise ValueError(
                "these integers may be targets or labels, of different classes; give targets as floats, labels as text."
            )
        return False

    def class_index(self, names: object, n: int) -> NDArray[np.intp]:
        """(n,) class indices of class names or of the raw labels they were made from."""
        values = [_name(value) for value in plain_array("labels", names).ravel().tolist()]
        unknown = sorted(set(values) - set(self.class_names))
        if unknown or len(values) != n:
            what = f"unknown class {short(unknown[0])}" if unknown else f"{len(values)} labels for {n} samples"
            raise ValueError(f"{what}; expected {n} labels out of {', '.join(self.class_names)}.")
        index = {name: c for c, name in enumerate(self.class_names)}
        return np.array([index[value] for value in values], dtype=np.intp)

    def to_arrays(self) -> tuple[dict[str, object], Arrays]:
        """Header and arrays, for `meanfield.archive.write_archive`."""
        arrays: Arrays = {"inputs": self.inputs, "targets": self.targets, "center": self.center}
        if self.labels is not None:
            arrays["labels"] = self.labels
        header = {"class_names": list(self.class_names), "scale": self.scale, "image_shape": list(self.image_shape)}
        return header, arrays

    @classmethod
    def from_arrays(cls, header: Mapping[str, object], arrays: Mapping[str, np.ndarray]) -> DataTask:
        """Inverse of `to_arrays`."""
        return cls(
            arrays["inputs"],
            arrays["targets"],
            arrays.get("labels"),
            tuple(entry(header, "class_names", list)),
            arrays["center"],
            entry(header, "scale", (int, float)),
            tuple(entry(header, "image_shape", list)),
        )

    def __repr__(self) -> str:
        classes = f", {self.n_classes} classes ({', '.join(self.class_names[:10])})" if self.n_classes else ""
        shape = "x".join(map(str, self.image_shape)) + " images" if self.image_shape else f"N_0={self.n_inputs}"
        return f"DataTask(P={self.n_samples}, {shape}, m={self.n_outputs}{classes})"


def data_task(
    X: object,
    Y: object = None,
    *,
    labels: object = None,
    on: float = 1.0,
    off: float = 0.0,
    center: object = False,
    scale: object = None,
    class_names: object = (),
) -> DataTask:
    """A task on any inputs: images or vectors in, targets or class labels out.

    Parameters
    ----------
    X : (P, N_0), (P, h, w) or (P, h, w, channels) array-like
        Inputs; images are flattened. Integers (uint8 pixels) are taken as they are: see `scale`.
    Y : (P, m) or (P,) array-like, optional
        Targets. If only they are given and have at most 20 distinct rows, each at least twice on average, these rows
        are the classes.
    labels : (P,) array-like of numbers or strings, optional
        Classes, sorted by value. Without `Y` they are made into one-hot targets of one output per class.
    on, off : float
        Targets of the output of the own class and of the others, if made from labels.
    center : bool or (N_0,) array-like
        Whether to subtract the mean of the inputs (or what to subtract).
    scale : None, "rms" or float
        What to divide by after centring: nothing, the root mean square of all entries (so that the kernel has diagonal
        sigma_w^2 on average), or a number. None is the default because scaling is a choice of the prior.
    class_names : sequence of str
        Names of the classes, in the order of their sorted labels; or the labels themselves in the order that the
        classes shall have.

    Raises
    ------
    ValueError
        For NaN, wrong shapes, one class only, neither targets nor labels, and as for `DataTask`.

    Examples
    --------
    >>> import meanfield as mf
    >>> mf.data_task([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], labels=["cat", "dog", "dog"])
    DataTask(P=3, N_0=2, m=2, 2 classes (cat, dog))
    """
    rows, image_shape = _flattened("X", X)
    center_row = _center(center, rows, image_shape)
    rows = rows - center_row
    factor = _scale(scale, rows)
    names = () if class_names is None else class_name_tuple(class_names)
    index: NDArray[np.intp] | None = None
    if labels is not None:
        index, found = _classes(labels, len(rows))
        names = names or found
        if sorted(names) == sorted(found):
            index = np.array([names.index(name) for name in found], dtype=np.intp)[index]
        elif len(names) != len(found):
            raise ValueError(f"{len(names)} class names {names} for {len(found)} classes in labels: {found}.")
    if Y is None:
        if index is None:
            raise ValueError("give targets Y or labels=.")
        if len(names) < 2:
            raise ValueError(
                f"all samples belong to class {names[0]!r}, so there is nothing to classify; give samples of at least "
                "two classes, or targets Y."
            )
        on, off = real_number("on", on), real_number("off", off)
        if on == off:
            raise ValueError(f"on and off are both {on:g}: all targets are equal; choose different values.")
        targets = np.where(np.arange(len(names)) == index[:, None], on, off)
    else:
        targets = real_array("Y", Y)
        if targets.ndim == 1:
            targets = targets[:, None]
        if index is None and targets.ndim == 2 and len(targets) == len(rows):
            index, found = _distinct_rows(targets)
            names = names or found
    return DataTask(rows / factor, targets, index, names, center_row, factor, image_shape)


@lru_cache(maxsize=8)
def _features(task: DataTask, sigma_w: float) -> Features:
    return features_from_inputs(task.inputs, sigma_w)


def _flattened(name: str, value: object) -> tuple[FloatArray, tuple[int, ...]]:
    array = real_array(name, value)
    if array.ndim not in (2, 3, 4):
        raise ValueError(
            f"{name} must have shape (P, N_0), or (P, h, w) or (P, h, w, channels) for images, got {array.shape}."
        )
    return array.reshape(len(array), -1), array.shape[1:] if array.ndim > 2 else ()


def _center(center: object, rows: FloatArray, image_shape: tuple[int, ...]) -> FloatArray:
    if isinstance(center, (bool, np.bool_)):
        # A constant column is its own mean: the rounding of the mean would be taken for data.
        mean = np.where((rows == rows[0]).all(axis=0), rows[0], rows.mean(axis=0))
        return mean if center else np.zeros(rows.shape[1])
    wanted = real_array("center", center)
    if wanted.shape not in ((rows.shape[1],), image_shape):
        raise ValueError(f"center must be True, False or an array of shape {rows.shape[1:]}, got shape {wanted.shape}.")
    return wanted.ravel()


def _scale(scale: object, rows: FloatArray) -> float:
    if scale is None:
        return 1.0
    if not isinstance(scale, str):
        return real_number("scale", scale, above=0)
    if scale != "rms":
        raise ValueError(f"scale must be None, 'rms' or a positive number, got {short(scale)}.")
    largest = float(np.abs(rows).max())
    value = largest * float(np.sqrt(np.mean((rows / largest) ** 2))) if largest > 0.0 else 0.0
    if value == 0.0:
        raise ValueError("scale='rms' divides by the root mean square of the inputs, but all (centred) inputs are 0.")
    return value


def _name(value: object) -> str:
    if isinstance(value, (float, bool)) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return value if isinstance(value, str) else short(value)


def _is_missing(value: object) -> bool:
    try:
        return value is None or bool(value != value)
    except TypeError:  # pandas.NA is neither equal nor unequal to anything
        return True


def _classes(labels: object, n: int) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    """Class indices and names of raw labels, in the order of their values."""
    raw = plain_array("labels", labels)
    if raw.shape != (n,):
        raise ValueError(f"labels must have shape (P,) = ({n},), one per sample, got {raw.shape}.")
    if raw.dtype.kind == "O":
        if any(_is_missing(value) for value in raw):
            raise ValueError("labels are missing (None or NaN); remove these samples or name their class.")
        entries = np.array(raw.tolist())  # numbers are sorted as numbers
        raw = entries if entries.dtype.kind in "biuf" else raw
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        raise ValueError("labels hold NaN or infinity; remove these samples or name their class.")
    if raw.dtype.kind not in "biufUSO":
        raise ValueError(f"labels must be numbers or strings, got an array of {raw.dtype}.")
    values, index = np.unique(raw.astype(str) if raw.dtype.kind in "SO" else raw, return_inverse=True)
    return index.ravel().astype(np.intp), tuple(_name(value) for value in values.tolist())


def _distinct_rows(targets: FloatArray) -> tuple[NDArray[np.intp] | None, tuple[str, ...]]:
    """Classes of equal targets, the first outputs on first (one-hot targets: class c is output c); None if many."""
    rows, index = np.unique(-targets, axis=0, return_inverse=True)
    if not 2 <= len(rows) <= min(_MOST_CLASSES, len(targets) // 2):
        return None, ()
    names = [_name(float(-row[0])) for row in rows] if targets.shape[1] == 1 else []
    return index.ravel().astype(np.intp), tuple(names or [str(c + 1) for c in range(len(rows))])


def _checked_labels(value: object, n: int, names: tuple[str, ...]) -> NDArray[np.intp]:
    labels = np.asarray(value)
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be {n} class indices, got an array of {labels.dtype} and shape {labels.shape}.")
    if len(set(names)) != len(names) or set(np.unique(labels).tolist()) != set(range(len(names))):
        raise ValueError(
            f"labels {np.unique(labels).tolist()} do not fit the {len(names)} class names {names}: every class needs a "
            "name of its own and at least one sample."
        )
    frozen = labels.astype(np.intp)
    frozen.setflags(write=False)
    return frozen
