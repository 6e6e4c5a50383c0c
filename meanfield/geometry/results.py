"""Result objects: named numbers with standard errors, a printed table, and files without pickle."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from meanfield.archive import Arrays, read_archive, reading, write_archive
from meanfield.validation import entry, short

__all__ = ["Result", "load"]

R = TypeVar("R", bound="Result")
_KIND = "geometry result"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Result:
    """Base of the results: scalars named in `quantities`, their standard errors, and the options that produced them.

    Attributes
    ----------
    standard_errors : dict of str to float
        One standard error per estimated scalar.
    options : dict
        The options of the call, seed and labels included.
    names : tuple of str
        Names of the manifolds.
    """

    standard_errors: dict[str, float] = field(default_factory=dict)
    options: dict[str, object] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    quantities: ClassVar[tuple[tuple[str, str], ...]] = ()  # (field, description) in the order of the table
    title: ClassVar[str] = ""
    classes: ClassVar[dict[str, type[Result]]] = {}

    def __init_subclass__(cls, **keywords: object) -> None:
        super().__init_subclass__(**keywords)
        Result.classes[cls.__name__] = cls

    @property
    def standard_error(self) -> float:
        """Standard error of the capacity."""
        return self.standard_errors["capacity"]

    def to_dict(self) -> dict[str, float]:
        """Scalars and their errors (``name`` and ``name_error``): one row of a table or of a data frame."""
        row: dict[str, float] = {}
        for name, _ in self.quantities:
            row[name] = float(getattr(self, name))
            if name in self.standard_errors:
                row[f"{name}_error"] = float(self.standard_errors[name])
        return row

    def table(self) -> str:
        """Text table of the scalars with standard errors."""
        width = max(len(name) for name, _ in self.quantities)
        lines = [self.title]
        for name, description in self.quantities:
            value = format_value(float(getattr(self, name)), self.standard_errors.get(name))
            lines.append(f"  {name:<{width}}  {value:<20}  {description}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        parts = [
            f"{name}={format_value(float(getattr(self, name)), self.standard_errors.get(name))}"
            for name, _ in self.quantities[:4]
        ]
        return f"{type(self).__name__}({', '.join(parts)}, ...)"

    def save(self, path: str | PathLike[str]) -> Path:
        """Write a compressed npz file, a JSON header and the arrays without pickle; return its path.

        ``.npz`` is added if missing.
        """
        rest: dict[str, object] = {}
        arrays: Arrays = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                arrays[item.name] = value
            else:
                rest[item.name] = value
        return write_archive(path, _KIND, {"class": type(self).__name__, "fields": rest}, arrays)

    @classmethod
    def load(cls: type[R], path: str | PathLike[str]) -> R:
        """Read a file written by `save`; raises ValueError if it holds another kind of result."""
        result = load(path)
        if not isinstance(result, cls):
            raise ValueError(f"{path} holds a {type(result).__name__}, not a {cls.__name__}")
        return result


def load(path: str | PathLike[str]) -> Result:
    """Read a result that was written by its `save` method.

    Raises
    ------
    ValueError
        If the file was not written by this package or by a newer version of its format.
    """
    import meanfield.geometry as geometry

    header, arrays = read_archive(path, _KIND)
    with reading(path, "geometry result"):
        name = entry(header, "class", str)
        if name in geometry.__all__:
            getattr(geometry, name)  # importing the class registers it
        if name not in Result.classes:
            raise ValueError(f"unknown kind of result: {name[:40]!r}; update meanfield.")
        values: dict[str, Any] = dict(arrays)
        given = entry(header, "fields", dict)
        values |= {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        return _checked(Result.classes[name], values)


def _checked(cls: type[Result], values: dict[str, Any]) -> Result:
    """The result of these values, if they are all that it has, and of the right types."""
    known = {item.name: str(item.type) for item in fields(cls)}
    wrong = sorted(set(known) ^ set(values))
    if wrong:
        raise ValueError(f"entries are missing or unknown: {', '.join(wrong)[:80]}.")
    kinds = {"float": (int, float), "int": int, "str": str, "bool": bool, "dict": dict, "tuple": tuple}
    kinds |= {"FloatArray": np.ndarray, "NDArray": np.ndarray, "Array": np.ndarray}
    for name, declared in known.items():
        alternatives = [part.strip() for part in declared.split("|")]
        if values[name] is None and "None" in alternatives:
            continue
        wanted = [kinds.get(part.split("[")[0].split(".")[-1]) for part in alternatives if part != "None"]
        if None not in wanted:
            entry(values, name, tuple(k for w in wanted for k in (w if isinstance(w, tuple) else (w,))))
        if isinstance(values[name], np.ndarray) and values[name].dtype.kind not in "biuf":
            raise ValueError(f"its {name} holds {values[name].dtype}.")
    for name, _ in cls.quantities:
        number = values.get(name)
        if isinstance(number, (str, bool, dict, tuple)) or (isinstance(number, np.ndarray) and number.ndim):
            raise ValueError(f"its {name} is no number: {short(number)}.")
    for name, error in values["standard_errors"].items():
        if isinstance(error, bool) or not isinstance(error, (int, float)) or error < 0.0:
            raise ValueError(f"its standard error of {name[:40]!r} is {short(error)}.")
    return cls(**values)


def format_value(value: float, error: float | None) -> str:
    """Format ``value ± error`` with the digits that the error justifies."""
    if error is None or not np.isfinite(error) or not np.isfinite(value) or error <= 0.0:
        return f"{value:.6g}"
    decimals = int(np.clip(1 - np.floor(np.log10(error)), 0, 12))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"
