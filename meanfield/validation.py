"""The one door from what a user gives to checked arrays, numbers, flags, names, seeds and paths.

Every refusal is a ValueError in words that begin with the name of the argument.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from numbers import Real
from pathlib import Path
from typing import Literal, SupportsFloat, TypeVar, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]
BoolArray = NDArray[np.bool_]
Rows = IntArray | BoolArray | slice | list[int]  # what picks rows of an array
Seed = int | np.random.SeedSequence | np.random.Generator | None
_Kind = TypeVar("_Kind")

MOST = 10**9  # of any count: more cannot be stored
_SQUARED = (1e-152, 1e152)  # of the largest entry of an array whose products are needed: its square must be a number
_SCALES = (1e-50, 1e50)  # of widths of priors, targets and inputs: products of four of them must be numbers
_MOST_THREADS = 1024


# ---- arrays --------------------------------------------------------------------------------------


def plain_array(name: str, value: object) -> np.ndarray:
    """`value` as an array of any type; tensors are detached, sparse and masked ones and mappings refused."""
    try:
        if hasattr(value, "detach"):  # a tensor that may sit on a graph or on another device
            value = value.detach()
            value = value.cpu() if hasattr(value, "cpu") else value
        if hasattr(value, "toarray"):
            raise ValueError(f"{name} is a sparse {type(value).__name__}, expected a dense array: give its .toarray().")
        if isinstance(value, Mapping | set | frozenset):
            raise ValueError(f"{name} is a {type(value).__name__}, expected an array of numbers.")
        parts = value if isinstance(value, list | tuple) else (value,)
        hidden = sum(int(np.ma.count_masked(part)) for part in parts if isinstance(part, np.ma.MaskedArray))
    except ValueError:
        raise
    except Exception as error:  # of a user's object, which may do anything
        raise ValueError(f"{name} cannot be read as an array ({type(error).__name__}: {error}).") from error
    if hidden:
        raise ValueError(
            f"{name} has {hidden} masked entries, and a mask cannot be respected here; leave those rows out, or fill "
            "them with .filled(value)."
        )
    try:
        return np.asarray(value)
    except Exception as error:
        raise ValueError(
            f"{name} cannot be read as an array of real numbers with equally long rows: got {short(value)} ({error})."
        ) from error


def real_array(name: str, value: object, *, empty: bool = False) -> FloatArray:
    """Finite float64 copy of `value`; ValueError if it is not real, ragged, empty, or holds NaN or infinities.

    An empty array is taken if `empty`. Arrays of Python numbers are taken, too: tables of several types, e.g. data
    frames with booleans, come as such.
    """
    raw = plain_array(name, value)
    if raw.dtype.kind == "O":
        strangers = [entry for entry in raw.ravel() if not isinstance(entry, (Real, np.bool_))]
        if strangers:
            raise ValueError(f"{name} has entries like {short(strangers[0])}, expected real numbers.")
    elif raw.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {raw.dtype}, expected real numbers, got {short(value)}.")
    try:
        with np.errstate(over="ignore"):  # of longer types; found below
            array = np.array(raw, dtype=np.float64, order="C")
    except (TypeError, ValueError, OverflowError, ArithmeticError):
        raise ValueError(f"{name} has numbers too large for float64, expected real numbers: {short(value)}.") from None
    if array.size == 0 and not empty:
        raise ValueError(f"{name} is empty; give at least one number.")
    finite = np.isfinite(array)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        first = f" (the first, {array[where]}, at index {where[0] if len(where) == 1 else where})" if where else ""
        bad = array.size - np.count_nonzero(finite)
        raise ValueError(
            f"{name} must be finite, but has {bad} NaN or infinite entries of {array.size}{first}; remove them."
        )
    array += 0.0  # no negative zeros: they would make equal arrays compare unequal byte by byte
    return array


def squarable_array(name: str, value: object) -> FloatArray:
    """As `real_array`, of any shape, with entries whose products are float64 numbers."""
    array = real_array(name, value, empty=True)
    largest = float(np.max(np.abs(array), initial=0.0))
    if largest and not _SQUARED[0] <= largest <= _SQUARED[1]:
        raise ValueError(
            f"{name} has its largest entry at {largest:.1e}, expected between {_SQUARED[0]:.0e} and {_SQUARED[1]:.0e}: "
            "products of entries leave float64. Rescale all data by one factor."
        )
    return array


def class_labels(name: str, value: object) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and their sorted distinct values: integers, whole or real numbers, booleans or strings."""
    labels = plain_array(name, value)
    if labels.dtype.kind == "O" and labels.size and all(isinstance(entry, str) for entry in labels.ravel()):
        labels = labels.astype(str)
    if labels.dtype.kind not in "fiubUS":
        raise ValueError(f"{name} has dtype {labels.dtype}, expected integer or string labels.")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ValueError(f"{name} contains NaN or infinite values; every point needs a label.")
    return labels, np.unique(labels)


def read_only(array: object) -> FloatArray:
    """C-contiguous float64 copy that refuses to be written to, for frozen dataclasses."""
    frozen = np.array(array, dtype=np.float64, order="C")
    frozen.setflags(write=False)
    return frozen


# ---- numbers -------------------------------------------------------------------------------------


def real_number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    infinite: bool = False,
    hint: str = "",
) -> float:
    """Python float of `value`, above or at least a bound; +inf only if `infinite`. ValueError otherwise."""
    bound = f" > {above:g}" if above is not None else f" >= {at_least:g}" if at_least is not None else ""
    wanted = f"{name} must be a real number{bound}" + (" or math.inf" if infinite else "") + hint
    try:
        if (
            isinstance(value, (str, bytes, bool, np.bool_))
            or value is np.ma.masked
            or np.ndim(cast(ArrayLike, value)) > 0
        ):
            raise TypeError
        number = float(cast(SupportsFloat, value))
    except Exception:  # of a user's object, which may do anything
        raise ValueError(f"{wanted}, got {short(value)}.") from None
    in_range = (above is None or number > above) and (at_least is None or number >= at_least)
    if math.isnan(number) or not in_range or (math.isinf(number) and not infinite):
        raise ValueError(f"{wanted}, got {number:g}.")
    return number


def whole_number(name: str, value: object, *, at_least: int, at_most: int = MOST) -> int:
    """Python int of an integer between two bounds; ValueError otherwise."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < at_least:
        raise ValueError(f"{name} must be an integer >= {at_least}, got {short(value)}.")
    if value > at_most:
        raise ValueError(f"{name} must be an integer <= {at_most}, got {short(value)}.")
    return int(value)


def thread_count(value: object) -> int:
    """A number of threads."""
    return whole_number("threads", value, at_least=1, at_most=_MOST_THREADS)


def scale_number(name: str, value: object) -> float:
    """A positive number whose fourth power is one, too; ValueError otherwise."""
    number = real_number(name, value, above=0)
    if not _SCALES[0] <= number <= _SCALES[1]:
        raise ValueError(f"{name} must lie between {_SCALES[0]:.0e} and {_SCALES[1]:.0e}, got {number:g}.")
    return number


def check_scale(name: str, array: FloatArray) -> None:
    """Refuses an array whose largest entry is outside of the range of `scale_number`, unless it is zero."""
    largest = float(np.max(np.abs(array), initial=0.0))
    if largest and not _SCALES[0] <= largest <= _SCALES[1]:
        raise ValueError(
            f"{name}: the largest entry is {largest:.3g}, expected between {_SCALES[0]:.0e} and {_SCALES[1]:.0e}; "
            "rescale by one factor."
        )


def temperature(name: str, value: object) -> float:
    """Zero, or a number in the range of `scale_number`; ValueError otherwise."""
    number = real_number(name, value, at_least=0.0)
    return number if number == 0.0 else scale_number(name, number)


# ---- everything else -----------------------------------------------------------------------------


@overload
def flag(name: str, value: object) -> bool: ...
@overload
def flag(name: str, value: object, *, none: Literal[True]) -> bool | None: ...
def flag(name: str, value: object, *, none: bool = False) -> bool | None:
    """True or False, or None if allowed; a string or a number is no answer."""
    if isinstance(value, bool | np.bool_) or (none and value is None):
        return None if value is None else bool(value)
    raise ValueError(f"{name} must be True or False{', or None' if none else ''}, got {short(value)}.")


def choice(name: str, value: object, choices: Sequence[str]) -> str:
    """One of some names."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={short(value)} is not known: one of {', '.join(map(repr, choices))}.")
    return value


def class_name_tuple(value: object) -> tuple[str, ...]:
    """Names of classes, from strings or integers; may be empty."""
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim == 1):
        items = value.tolist() if isinstance(value, np.ndarray) else value
        if all(isinstance(item, (str, int, np.integer)) and not isinstance(item, bool) for item in items):
            return tuple(str(item) for item in items)
    raise ValueError(f"class_names must be a list of names, one per class, got {short(value)}.")


def seed_like(name: str, value: object) -> Seed:
    """What random streams start from: None, an integer >= 0, a SeedSequence or a Generator."""
    if value is None or isinstance(value, (np.random.SeedSequence, np.random.Generator)):
        return value
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 <= value < 2**4096:
        return int(value)
    raise ValueError(
        f"{name} must be None, an integer >= 0 (of at most 4096 bits), a SeedSequence or a Generator, got "
        f"{short(value)}."
    )


def generator(name: str, value: object) -> np.random.Generator:
    """The Generator of what `seed_like` takes."""
    return np.random.default_rng(seed_like(name, value))


def file_path(name: str, value: object) -> Path:
    """A path, of a file or folder that may not exist."""
    if not isinstance(value, (str, os.PathLike)) or not isinstance(text := os.fspath(value), str):
        raise ValueError(f"{name} must be a path, a str or os.PathLike, got {short(value)}.")
    if not text or "\0" in text or len(text) > 10_000:
        raise ValueError(f"{name} must be a path, got {short(text)}.")
    return Path(text)


def folder_path(name: str, value: object) -> Path:
    """A path of a folder that may not exist; not the name of an archive, which would become that of a folder."""
    path = file_path(name, value)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{name} is a folder, and {short(str(path))} is a file; give another name.")
    if path.suffix == ".npz" and not path.exists():
        raise ValueError(
            f"{name} is a folder of many files, got {short(str(path))}, the name of one; give for example "
            f"{short(str(path.with_suffix('')))} (results themselves are kept by their save)."
        )
    return path


def instance(name: str, value: object, kinds: type | tuple[type, ...], origin: str) -> None:
    """Refuses what is not of some types, and says where one gets them."""
    if not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise ValueError(f"{name} must be a {wanted}, {origin}, got {short(value)}.")


def executor_or_none(name: str, value: object) -> Executor | None:
    """An executor of concurrent.futures or one with its `submit`, or None."""
    if value is not None and (isinstance(value, type) or not callable(getattr(value, "submit", None))):
        raise ValueError(f"{name} must be an executor of concurrent.futures, or None, got {short(value)}.")
    return cast("Executor | None", value)


def short(value: object) -> str:
    """What was given, in at most 80 characters."""
    try:
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**60:
            return f"an integer of {value.bit_length()} bits"
        text = " ".join(repr(value).split())  # on one line: arrays have many
    except Exception:  # a user's object may do anything
        text = f"an {type(value).__name__} that cannot be shown"
    return text if len(text) <= 80 else text[:77] + "..."


@overload
def entry(values: object, name: str, kind: type[_Kind]) -> _Kind: ...
@overload
def entry(values: object, name: str, kind: tuple[type[int], type[float]]) -> float: ...
def entry(values: object, name: str, kind: type | tuple[type, ...]) -> object:
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
