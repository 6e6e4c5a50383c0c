"""Plots by name: results have a ``plot`` method without depending on the plots, which depend on them."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from meanfield.validation import short

__all__ = ["check_arguments", "drawn"]

_ABSTRACT = {"Mapping": Mapping, "Iterable": Iterable}  # kinds that classes have without having the name
_INSIDE = re.compile(r"\b(Mapping|Iterable)\[[^\[\]]*\]")  # what they hold


def drawn(name: str, *args: object, **options: object) -> Any:
    """What the function of that name in the plot package returns; Matplotlib is loaded only then."""
    module, function = name.rsplit(".", 1)
    return getattr(importlib.import_module(f"meanfield.plot.{module}"), function)(*args, **options)


def check_arguments(function: Callable[..., object], args: tuple[object, ...], options: dict[str, object]) -> None:
    """Refuses an argument whose classes have none of the names that its annotation has, e.g. no PhaseDiagram.

    Only annotations by names of classes, by what is in `_ABSTRACT`, and None are looked at, so that nothing has to be
    imported.
    """
    wanted = _class_names(function)
    for name, value in inspect.signature(function).bind(*args, **options).arguments.items():
        kinds = wanted.get(name)
        if kinds is None or (value is None and "None" in kinds):
            continue
        fits = any(kind.__name__ in kinds for kind in type(value).__mro__)
        if not fits and not any(isinstance(value, _ABSTRACT[kind]) for kind in kinds if kind in _ABSTRACT):
            expected = " or ".join(sorted(kinds))
            article = "an" if expected[0] in "AEIOU" else "a"
            raise ValueError(f"{name} must be {article} {expected}, got {short(value)}.")


@lru_cache(maxsize=256)
def _class_names(function: Callable[..., object]) -> dict[str, frozenset[str]]:
    """Names of the classes that parameters may have, of those annotated by names of classes alone."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        kinds = [kind.strip() for kind in _INSIDE.sub(r"\1", str(parameter.annotation)).split("|")]
        if all(re.fullmatch(r"[A-Z]\w*", kind) for kind in kinds) and not {"Any", "ArrayLike"} & set(kinds):
            found[name] = frozenset(kinds)
    return found
