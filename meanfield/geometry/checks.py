"""What a user gives, checked: arrays, whole and real numbers, flags and names. Every refusal says what was expected."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MOST_THREADS",
    "check_choice",
    "check_flag",
    "check_number",
    "check_probes",
    "check_real",
    "class_labels",
    "real_array",
    "short",
]

Array = NDArray[np.float64]

RANGE = (1e-152, 1e152)  # of the largest entry: its square must be a number
MOST_THREADS = 1024
MOST = 10_000_000  # of any count: more cannot be stored


def short(value: Any) -> str:
    """At most 60 characters of ``repr(value)``; digits of numbers too long to print are not printed."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**60:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _plain(values: Any, name: str) -> NDArray[Any]:
    """`values` as an array of any type; tensors are detached, sparse and masked ones refused."""
    if hasattr(values, "detach"):  # a tensor that may sit on a graph or on another device
        values = values.detach()
        values = values.cpu() if hasattr(values, "cpu") else values
    if hasattr(values, "toarray"):
        raise ValueError(f"{name} is a sparse {type(values).__name__}, expected a dense array: pass its .toarray()")
    if isinstance(values, Mapping | set | frozenset):
        raise ValueError(f"{name} is a {type(values).__name__}, expected an array of numbers")
    parts = values if isinstance(values, list | tuple) else (values,)
    hidden = sum(int(np.ma.count_masked(item)) for item in parts if isinstance(item, np.ma.MaskedArray))
    if hidden:
        raise ValueError(
            f"{name} has {hidden} masked entries and a mask cannot be respected here; drop those rows or columns, or "
            "fill them with .filled(value)"
        )
    try:
        return np.asarray(values)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{name} cannot be read as an array of numbers: {error}") from error


def real_array(values: Any, name: str) -> Array:
    """Return `values` as C-contiguous float64; refuse what is not real, finite and of a representable square."""
    raw = _plain(values, name)
    if raw.dtype.kind == "O":
        strangers = [entry for entry in raw.ravel() if not isinstance(entry, Real)]
        if strangers:
            found = f"entries like {short(strangers[0])}"
        else:
            found = "integers too large for float64" if any(map(_huge, raw.ravel())) else "Python numbers"
        raise ValueError(f"{name} has dtype object ({found}), expected real numbers; convert with .astype(float)")
    if raw.dtype.kind not in "fiub":
        raise ValueError(f"{name} has dtype {raw.dtype}, expected real numbers")
    with np.errstate(over="ignore"):  # of longer types; found below
        array = np.ascontiguousarray(raw, dtype=np.float64).reshape(raw.shape)
    bad = int(array.size - np.count_nonzero(np.isfinite(array)))
    if bad:
        raise ValueError(f"{name} has {bad} NaN or infinite entries of {array.size}; remove or impute them first")
    largest = float(np.max(np.abs(array), initial=0.0))
    if largest and not RANGE[0] <= largest <= RANGE[1]:
        raise ValueError(
            f"{name} has its largest entry at {largest:.1e}, expected between {RANGE[0]:.0e} and {RANGE[1]:.0e}: "
            "products of entries leave float64. Rescale all data by one factor"
        )
    return array


def _huge(entry: Any) -> bool:
    try:
        return not math.isfinite(float(entry))
    except OverflowError:
        return True


def class_labels(y: Any, name: str = "y") -> tuple[NDArray[Any], NDArray[Any]]:
    """Labels (n,) and their sorted distinct values: integers, whole or real numbers, booleans or strings."""
    labels = _plain(y, name)
    if labels.dtype.kind == "O" and labels.size and all(isinstance(entry, str) for entry in labels.ravel()):
        labels = labels.astype(str)
    if labels.dtype.kind not in "fiubUS":
        raise ValueError(f"{name} has dtype {labels.dtype}, expected integer or string labels")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ValueError(f"{name} contains NaN or infinite values; every point needs a label")
    return labels, np.unique(labels)


def check_number(value: Any, name: str, least: int, most: int = MOST) -> int:
    """An integer option between `least` and `most`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {short(value)}")
    if value > most:
        raise ValueError(f"{name} must be an integer <= {most}, got {short(value)}")
    return int(value)


def check_probes(n_probes: Any) -> int:
    number = check_number(n_probes, "n_probes", 2)
    if number < 50:
        warnings.warn(
            f"n_probes={number} is few: 200 give about 3 % on the capacity, and below 50 the errors are rough",
            UserWarning,
            stacklevel=3,
        )
    return number


def check_real(value: Any, name: str, *, least: float = -math.inf, above: float = -math.inf, hint: str = "") -> float:
    """A finite real number, at least or above a bound."""
    bound = f" >= {least:g}" if least > -math.inf else f" > {above:g}" if above > -math.inf else ""
    single = isinstance(value, Real) or (isinstance(value, np.ndarray) and value.ndim == 0)
    if single and not isinstance(value, bool):
        try:
            number = float(value)
        except (OverflowError, TypeError, ValueError):
            number = math.nan
        if math.isfinite(number) and number >= least and number > above:
            return number
    raise ValueError(f"{name} must be finite, a real number{bound}{hint}, got {short(value)}")


def check_flag(value: Any, name: str) -> bool:
    """True or False; a string or a number is no answer."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, got {short(value)}")
    return bool(value)


def check_choice(value: Any, name: str, choices: Sequence[str]) -> str:
    """One of some names."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={short(value)} is not known: one of {', '.join(map(repr, choices))}")
    return value
