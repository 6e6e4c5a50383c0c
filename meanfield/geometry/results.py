"""Result objects: named numbers with standard errors, a printed table, and files without pickle."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from meanfield.archive import read_archive, write_archive

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
    options: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    quantities: ClassVar[tuple[tuple[str, str], ...]] = ()  # (field, description) in the order of the table
    title: ClassVar[str] = ""
    classes: ClassVar[dict[str, type[Result]]] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
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
        header: dict[str, Any] = {"class": type(self).__name__, "fields": {}}
        arrays: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                arrays[item.name] = value
            else:
                header["fields"][item.name] = value
        return write_archive(path, _KIND, header, arrays)

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
    name = header["class"]
    getattr(geometry, name, None)  # importing the class registers it
    if name not in Result.classes:
        raise ValueError(f"{path} holds an unknown kind of result: {name!r}; update meanfield.")
    values: dict[str, Any] = dict(arrays)
    values |= {key: tuple(value) if isinstance(value, list) else value for key, value in header["fields"].items()}
    return Result.classes[name](**values)


def format_value(value: float, error: float | None) -> str:
    """Format ``value ± error`` with the digits that the error justifies."""
    if error is None or not np.isfinite(error) or not np.isfinite(value) or error <= 0.0:
        return f"{value:.6g}"
    decimals = int(np.clip(1 - np.floor(np.log10(error)), 0, 12))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"
