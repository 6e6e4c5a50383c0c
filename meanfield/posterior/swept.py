"""What a theory sees of a sweep whose transitions it locates: a `meanfield.phases.diagram.PhaseDiagram`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

from meanfield.posterior.posterior import Posterior
from meanfield.problem.problem import OfClasses, Problem
from meanfield.validation import BoolArray, FloatArray

__all__ = ["LocatesTransitions", "Swept"]


class Swept(OfClasses, Protocol):
    """Solutions along one or two parameters, and solutions in between."""

    @property
    def axes(self) -> Mapping[str, FloatArray]: ...
    @property
    def certified(self) -> BoolArray: ...
    def problems(self) -> Iterable[Problem]: ...
    def problem_with(self, values: Mapping[str, object]) -> Problem: ...
    def posterior(self, index: int | tuple[int, ...]) -> Posterior: ...
    def solve(self, **values: float) -> Posterior: ...


@runtime_checkable
class LocatesTransitions(Protocol):
    """A theory that locates transitions in its own way."""

    def transitions_along(self, diagram: Swept) -> tuple[object, ...]: ...
