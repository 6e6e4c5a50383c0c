"""Solutions whose codes are worked out when they are asked for.

Where codes overlap at finite P, which neuron belongs to which code is a convention that t and outputs do not depend on,
and finding it out takes longer than all the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar, cast

__all__ = ["Later", "is_pending", "pending", "whole"]

_MAKE = "_make"
_T = TypeVar("_T")


class Later:
    """A field of a frozen dataclass that is made, with all others of its kind, when one of them is first read."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        values = vars(instance)
        make = values.get(_MAKE)
        if make is not None:
            values.update(make())
            values.pop(_MAKE, None)
        return values[self.name]


def pending(kind: type[_T], known: object, make: Callable[[], Mapping[str, object]]) -> _T:
    """An instance of `kind`, a dataclass with fields that are `Later`, which has its other fields from `known`."""
    instance = object.__new__(kind)
    later = [name for name, value in vars(kind).items() if isinstance(value, Later)]
    vars(instance).update({name: value for name, value in vars(known).items() if name not in later})
    vars(instance)[_MAKE] = make
    return instance


def is_pending(solution: object) -> bool:
    """Whether its codes have not been asked for yet."""
    return _MAKE in vars(solution)


def whole(kind: type[_T], solution: object) -> tuple[type[_T], tuple[object, ...]]:
    """What `__reduce__` returns: copies and pickles have all fields."""
    return kind, tuple(getattr(solution, field.name) for field in fields(cast(Any, kind)))
