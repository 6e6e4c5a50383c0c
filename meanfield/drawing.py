"""Plots by name: results have a ``plot`` method without depending on the plots, which depend on them.

And what every picture begins with: arguments that are checked, fonts and colours.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

from meanfield.validation import short

__all__ = ["PALETTE", "axes_or_new", "check_arguments", "drawn", "styled"]

# Those of Okabe and Ito, told apart by all common kinds of colour vision.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
_STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.4,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # text stays text
}
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_ABSTRACT = {"Mapping": Mapping, "Iterable": Iterable}  # kinds that classes have without having the name
_INSIDE = re.compile(r"\b(Mapping|Iterable)\[[^\[\]]*\]")  # what they hold


def drawn(name: str, *args: object, **options: object) -> Any:
    """What the function of that name in the plot package returns; Matplotlib is loaded only then."""
    module, function = name.rsplit(".", 1)
    return getattr(importlib.import_module(f"meanfield.plot.{module}"), function)(*args, **options)


def styled(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Run `function` with arguments checked and the style of this module, and leave the user's settings alone."""

    @wraps(function)
    def inner(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        check_arguments(function, args, kwargs)
        settings = importlib.import_module("matplotlib").rcParams  # by name: results know this module, not Matplotlib
        before = {name: settings[name] for name in _STYLE}  # rc_context would undo what a notebook sets
        settings.update(_STYLE)
        try:
            return function(*args, **kwargs)
        finally:
            settings.update(before)

    return inner


def axes_or_new(ax: Any, size: tuple[float, float]) -> Any:
    """`ax`, or where that is None the axes of a new figure."""
    if ax is not None:
        return ax
    return importlib.import_module("matplotlib.pyplot").subplots(figsize=size, layout="constrained")[1]


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
