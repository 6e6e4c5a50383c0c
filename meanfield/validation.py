"""The one door from what a user gives to checked float64 arrays and numbers; every refusal is a ValueError in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def real_array(name: str, value: Any) -> FloatArray:
    """Finite float64 copy of `value`; ValueError if it is not real, ragged, empty, or holds NaN or infinities."""
    if hasattr(value, "toarray"):
        raise ValueError(f"{name} must be a dense array, got a sparse one of shape {value.shape}; give its .toarray().")
    if np.ma.is_masked(value):
        raise ValueError(f"{name} has {np.ma.count_masked(value)} masked entries; fill them in, or leave them out.")
    try:
        raw = np.asarray(value)
        # Tables of several types, e.g. data frames with booleans, come as arrays of Python numbers.
        numbers = raw.dtype.kind == "O" and all(isinstance(entry, (Real, np.bool_)) for entry in raw.ravel())
        if raw.dtype.kind not in "biuf" and not numbers:
            raise TypeError
        array = np.array(raw, dtype=np.float64, order="C")
    except (TypeError, ValueError, OverflowError):
        wanted = "an array of real numbers with equally long rows"
        raise ValueError(f"{name} must be {wanted}, got {short(value)}.") from None
    if array.size == 0:
        raise ValueError(f"{name} is empty; give at least one number.")
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        position = f" at index {where[0] if len(where) == 1 else where}" if where else ""
        raise ValueError(f"{name} must be finite, got {array[where]}{position}; remove NaN and infinite entries.")
    return array + 0.0  # no negative zeros: they would make equal arrays compare unequal byte by byte


def real_number(
    name: str, value: Any, *, above: float | None = None, at_least: float | None = None, infinite: bool = False
) -> float:
    """Python float of `value`, above or at least a bound; +inf only if `infinite`. ValueError otherwise."""
    bound = f" > {above:g}" if above is not None else f" >= {at_least:g}" if at_least is not None else ""
    wanted = f"{name} must be a real number{bound}" + (" or math.inf" if infinite else "")
    try:
        if isinstance(value, (str, bytes, bool, np.bool_)):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{wanted}, got {short(value)}.") from None
    in_range = (above is None or number > above) and (at_least is None or number >= at_least)
    if math.isnan(number) or not in_range or (math.isinf(number) and not infinite):
        raise ValueError(f"{wanted}, got {number:g}.")
    return number


def whole_number(name: str, value: Any, *, at_least: int, at_most: int = 10**9) -> int:
    """Python int of an integer between two bounds; ValueError otherwise."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < at_least:
        raise ValueError(f"{name} must be an integer >= {at_least}, got {short(value)}.")
    if value > at_most:
        raise ValueError(f"{name} may be at most {at_most}, got {short(value)}.")
    return int(value)


def scale_number(name: str, value: Any) -> float:
    """A positive number whose square is one, too; ValueError otherwise."""
    number = real_number(name, value, above=0)
    if not 1e-100 <= number <= 1e100:
        raise ValueError(f"{name} must lie between 1e-100 and 1e100, got {number:g}.")
    return number


def read_only(array: Any) -> FloatArray:
    """C-contiguous float64 copy that refuses to be written to, for frozen dataclasses."""
    frozen = np.array(array, dtype=np.float64, order="C")
    frozen.setflags(write=False)
    return frozen


def short(value: Any) -> str:
    """What was given, in at most 80 characters."""
    try:
        text = repr(value)
    except Exception:  # integers of thousands of digits have no text, and a user's object may do anything
        text = f"an {type(value).__name__} that cannot be shown"
    return text if len(text) <= 80 else text[:77] + "..."


def entry(values: Any, name: str, kind: type | tuple[type, ...]) -> Any:
    """An entry of a mapping that was read from a file; ValueError if it is not there, or of another type."""
    if not isinstance(values, Mapping):
        raise ValueError(f"expected named entries, among them {name!r}, got {short(values)}.")
    if name not in values:
        raise ValueError(f"the entry {name!r} is missing.")
    found = values[name]
    if not isinstance(found, kind) or (isinstance(found, bool) and kind not in (bool, object)):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise ValueError(
            f"the entry {name!r} must be of type {' or '.join(k.__name__ for k in kinds)}, got {short(found)}."
        )
    return found
