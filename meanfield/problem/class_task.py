"""Classification tasks on class-structured orthogonal data: fractions p_c, targets y_c, number of samples P."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike

from meanfield.validation import (
    FloatArray,
    check_scale,
    class_name_tuple,
    entry,
    read_only,
    real_array,
    real_number,
    whole_number,
)

_MOST_SAMPLES = 1e15  # beyond, P + 1 is P
_ROUNDING = 1e-9  # of p_c P
_SUM_TOLERANCE = 1e-8  # fractions typed with a few digits are an error; rounding of 1/3 is not

_Names = TypeVar("_Names")


@dataclass(frozen=True, eq=False)
class ClassTask:
    """C classes of orthogonal inputs with one target vector each; build it with `class_task`.

    Parameters
    ----------
    fractions : (C,) array
        p_c > 0, summing to 1. At finite P p_c P need not be an integer, but at least 1: exp(p_c P g) of a whole number
        is an average over samples, and between two of them, not below the first, it interpolates.
    targets : (C, m) array
        y_c in R^m, the wanted outputs of class c.
    n_samples : float
        P, the number of training samples; ``math.inf`` for the limit.
    class_names : tuple of str
        For tables and pictures; "1", "2", ... by default.
    on, off : float or None
        y_+ and y_- if the targets are one-hot (`targets[c, r]` = on if r = c else off), else None.

    Raises
    ------
    ValueError
        For NaN, wrong shapes, fewer than two classes, fractions that are not positive or do not sum to 1, targets that
        are the same for every class, less than one sample of a class, or on/off that contradict the targets.
    """

    fractions: FloatArray
    targets: FloatArray
    n_samples: float = math.inf
    class_names: tuple[str, ...] = ()
    on: float | None = None
    off: float | None = None

    def __post_init__(self) -> None:
        fractions = _checked_fractions(self.fractions)
        n_classes = fractions.size
        targets = _checked_targets(self.targets, n_classes)
        n_samples = real_number("n_samples", self.n_samples, at_least=1, infinite=True)
        if _MOST_SAMPLES < n_samples < math.inf:
            raise ValueError(f"n_samples must be at most {_MOST_SAMPLES:.0e} or math.inf, got {n_samples:g}.")
        if n_samples < n_classes:
            raise ValueError(
                f"n_samples = {n_samples:g} is smaller than the number of classes {n_classes}; give at least one "
                "sample per class, or math.inf for the limit."
            )
        fewest = int(np.argmin(fractions))
        if fractions[fewest] * n_samples < 1.0 - _ROUNDING:
            raise ValueError(
                f"a class has at least one sample, but n_samples = {n_samples:g} leaves "
                f"{fractions[fewest] * n_samples:.3g} for class {fewest + 1}; give more samples, or other fractions."
            )
        names = class_name_tuple(self.class_names) or tuple(str(c + 1) for c in range(n_classes))
        if len(names) != n_classes or len(set(names)) != n_classes:
            raise ValueError(f"class_names must be {n_classes} different names, one per class, got {names}.")
        if (self.on is None) != (self.off is None):
            raise ValueError(f"on and off go together: got on = {self.on}, off = {self.off}; give both or neither.")
        if self.on is not None and not np.array_equal(targets, _one_hot(n_classes, self.on, self.off)):
            raise ValueError(
                f"on = {self.on} and off = {self.off} contradict the targets; use class_task(on=, off=) for one-hot "
                "targets, or leave on and off out."
            )
        for name, value in (("fractions", read_only(fractions)), ("targets", read_only(targets))):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "n_samples", n_samples)
        object.__setattr__(self, "class_names", names)

    @property
    def n_classes(self) -> int:
        """C."""
        return int(self.targets.shape[0])

    @property
    def n_outputs(self) -> int:
        """m."""
        return int(self.targets.shape[1])

    @property
    def labels(self) -> tuple[str, ...]:
        """Deprecated name of `class_names`; elsewhere labels are the class of each sample."""
        return tuple(_deprecated(self.class_names))

    @property
    def is_one_hot(self) -> bool:
        """True if built from on and off, which can then be swept."""
        return self.on is not None

    def with_(self, **changes: object) -> ClassTask:
        """The same task with some of on, off, fractions, targets, n_samples, class_names replaced (used by sweeps).

        Raises
        ------
        ValueError
            For an unknown name, for on/off of a task that was given by `targets`, and as for the class itself.
        """
        if "labels" in changes:
            changes["class_names"] = _deprecated(changes.pop("labels"))
        known = ("fractions", "targets", "n_samples", "class_names", "on", "off")
        unknown = sorted(set(changes) - set(known))
        if unknown:
            names = ", ".join(map(repr, unknown))
            raise ValueError(f"a class task has no parameter {names}; it has {', '.join(known)}.")
        values: dict[str, Any] = {"fractions": self.fractions, "n_samples": self.n_samples}
        values["class_names"] = self.class_names
        if "targets" in changes:
            values["targets"] = self.targets
        elif self.is_one_hot:
            values |= {"on": self.on, "off": self.off}
        elif {"on", "off"} & set(changes):
            raise ValueError(
                "on and off can only be changed for one-hot targets, but this task was given by targets=; "
                "build it with class_task(on=, off=) or change targets."
            )
        else:
            values["targets"] = self.targets
        values |= changes
        changed = "fractions" in changes and "class_names" not in changes
        if changed and real_array("fractions", values["fractions"]).size != self.n_classes:
            values["class_names"] = ()
        return class_task(**values)

    def to_dict(self) -> dict[str, object]:
        """The task as lists, numbers and strings, for a JSON header."""
        plain = {"fractions": self.fractions.tolist(), "targets": self.targets.tolist()}
        plain["class_names"] = list(self.class_names)
        return plain | {"n_samples": self.n_samples, "on": self.on, "off": self.off}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> ClassTask:
        """Inverse of `to_dict`; ValueError for what is missing, unknown or of another type."""
        # In the first files they were called labels.
        names = entry(values, "class_names" if "class_names" in values else "labels", list)
        fractions, targets = (real_array(name, entry(values, name, list)) for name in ("fractions", "targets"))
        on, off = (None if values.get(name) is None else entry(values, name, (int, float)) for name in ("on", "off"))
        n_samples = entry(values, "n_samples", (int, float))
        return cls(fractions, targets, n_samples, tuple(str(name) for name in names), on, off)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClassTask) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        arrays = (self.fractions.tobytes(), self.targets.tobytes(), self.targets.shape)
        return (*arrays, self.n_samples, self.class_names, self.on, self.off)

    def __repr__(self) -> str:
        fractions = ", ".join(f"{p:.4g}" for p in self.fractions)
        if self.is_one_hot:
            targets = f"on={self.on:.10g}, off={self.off:.10g}"
        else:
            targets = f"targets={np.array2string(self.targets, precision=4, separator=', ').replace(chr(10), '')}"
        return f"ClassTask(fractions=[{fractions}], {targets}, n_samples={self.n_samples:g})"


def class_task(
    fractions: object = None,
    n_classes: int | None = None,
    *,
    on: float | None = None,
    off: float | None = None,
    targets: object = None,
    n_samples: float = math.inf,
    class_names: tuple[str, ...] = (),
    labels: object = None,
) -> ClassTask:
    """A classification task: one-hot targets y_+ = `on`, y_- = `off`, or any `targets`.

    Parameters
    ----------
    fractions : (C,) array-like, optional
        p_c, summing to 1; equal fractions if left out (then `n_classes` or `targets` tells C).
    n_classes : int, optional
        C >= 2, needed only if neither `fractions` nor `targets` is given.
    on, off : float, optional
        Targets of the output of the own class and of the others; 1 and 0 if left out. Not together with `targets`.
    targets : (C, m) or (C,) array-like, optional
        y_c; a vector means one output, e.g. ``targets=[1, -1]`` for random binary labels.
    n_samples : float
        P; ``math.inf`` (default) for the limit P -> infinity.
    class_names : tuple of str, optional
    labels : tuple of str, optional
        Deprecated name of `class_names`; elsewhere labels are the class of each sample.

    Raises
    ------
    ValueError
        As for `ClassTask`, and for contradictory or missing arguments.

    Examples
    --------
    >>> class_task(fractions=[0.5, 0.25, 0.25], off=0.5)
    ClassTask(fractions=[0.5, 0.25, 0.25], on=1, off=0.5, n_samples=inf)
    >>> class_task(targets=[1, -1], n_samples=200).fractions
    array([0.5, 0.5])
    """
    if labels is not None:
        class_names = class_name_tuple(_deprecated(labels))
    if n_classes is not None:
        if isinstance(n_classes, int) and not isinstance(n_classes, bool) and n_classes == 1:
            raise ValueError("a classification task needs at least two classes, got 1.")
        n_classes = whole_number("n_classes", n_classes, at_least=2, at_most=100_000)
    if fractions is None:
        if n_classes is None and targets is None:
            raise ValueError("the number of classes is unknown; give fractions=, n_classes= or targets=.")
        count = n_classes if n_classes is not None else len(np.atleast_1d(real_array("targets", targets)))
        if count < 2:
            raise ValueError(f"a classification task needs at least two classes, got {count}.")
        fractions = np.full(count, 1.0 / count)
    checked = _checked_fractions(fractions)
    if n_classes is not None and n_classes != checked.size:
        raise ValueError(f"n_classes = {n_classes}, but fractions has {checked.size} entries; leave n_classes out.")
    if targets is not None:
        if on is not None or off is not None:
            raise ValueError("give either targets= or on=/off= (one-hot targets), not both.")
        return ClassTask(checked, real_array("targets", targets), n_samples, class_names)
    on = real_number("on", 1.0 if on is None else on)
    off = real_number("off", 0.0 if off is None else off)
    if on == off:
        raise ValueError(
            f"on and off are both {on:g}: every class has the same target, so there is nothing to classify and the "
            "order parameters are not unique; choose different values."
        )
    return ClassTask(checked, _one_hot(checked.size, on, off), n_samples, class_names, on, off)


def _deprecated(names: _Names) -> _Names:
    warnings.warn(
        "labels of a class task are called class_names; the old name will mean the class of each sample",
        DeprecationWarning,
        stacklevel=3,
    )
    return names


def _one_hot(n_classes: int, on: float | None, off: float | None) -> FloatArray:
    return np.where(np.eye(n_classes, dtype=bool), np.float64(on), np.float64(off))


def _checked_fractions(value: object) -> FloatArray:
    fractions = real_array("fractions", value)
    if fractions.ndim != 1:
        raise ValueError(f"fractions must have shape (C,), one number per class, got shape {fractions.shape}.")
    if fractions.size < 2:
        raise ValueError("a classification task needs at least two classes, but fractions has one entry.")
    if (fractions <= 0).any():
        worst = int(np.argmin(fractions))
        found = f"{fractions[worst]:g} for class {worst + 1}"
        raise ValueError(f"fractions must be positive, got {found}; leave empty classes out.")
    total = float(fractions.sum())
    if abs(total - 1) > _SUM_TOLERANCE:
        raise ValueError(f"fractions must sum to 1, but {_listed(fractions)} sum to {total:.10g}; divide by their sum.")
    return fractions / total if abs(total - 1) > 1e-15 * fractions.size else fractions


def _checked_targets(value: object, n_classes: int) -> FloatArray:
    targets = real_array("targets", value)
    if targets.ndim == 1:
        targets = targets[:, None]
    if targets.ndim != 2 or targets.shape[0] != n_classes:
        raise ValueError(
            f"targets must have shape (C, m) = ({n_classes}, m) or ({n_classes},) for one output, one row per class, "
            f"got shape {np.shape(cast(ArrayLike, value))}."
        )
    check_scale("targets", targets)
    if (targets == targets[0]).all():
        raise ValueError(
            f"every class has the same target {_listed(targets[0])}, so there is nothing to classify and the order "
            "parameters are not unique; give at least two different rows."
        )
    return targets


def _listed(array: FloatArray) -> str:
    return "[" + ", ".join(f"{x:.6g}" for x in array) + "]"
