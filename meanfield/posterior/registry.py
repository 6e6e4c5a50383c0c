"""The theories there are: asked one after the other which of them covers a problem.

A theory is a folder whose module ``theory`` holds an object `THEORY` with the attributes of `Theory`; its line in
`ROOMS` is all that the rest of the package knows of it.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any, Protocol

from meanfield.problem.problem import Problem

__all__ = ["ROOMS", "Theory", "covering_theory", "theories", "theory_named"]

ROOMS = (
    "meanfield.theories.linear",
    "meanfield.theories.lazy",
    "meanfield.theories.single_layer",
    "meanfield.theories.general_data",
)


class Theory(Protocol):
    """What a theory has to say of itself.

    Attributes
    ----------
    name : str
        Unique; in files, and in the texts of refusals.
    answers : str
        What it covers, in a few words, for the texts of refusals.
    """

    name: str
    answers: str

    def refuses(self, problem: Problem) -> str | None:
        """None if the theory covers the problem; else the reason, as a sentence to its user. Cheap."""

    def solve(self, problem: Problem, *, warm_start: Any, progress: bool | None, options: dict[str, Any]) -> Any:
        """The posterior of a covered problem, whatever its status; ValueError for inputs that cannot be solved."""

    def load(self, header: dict[str, Any], arrays: dict[str, Any]) -> Any:
        """The posterior from header and arrays of a file; ValueError if they do not fit together."""


@functools.cache
def theories() -> tuple[Theory, ...]:
    """All theories, in the order in which they are asked."""
    return tuple(importlib.import_module(f"{room}.theory").THEORY for room in ROOMS)


def theory_named(name: str) -> Theory:
    """The theory of this name.

    Raises
    ------
    ValueError
        If there is none.
    """
    for theory in theories():
        if theory.name == name:
            return theory
    raise ValueError(f"there is no theory {name!r}; there are {', '.join(theory.name for theory in theories())}.")


def covering_theory(problem: Problem) -> Theory:
    """The first theory that covers the problem.

    Raises
    ------
    ValueError
        If none does; lists every theory with its reason.
    """
    reasons = []
    for theory in theories():
        reason = theory.refuses(problem)
        if reason is None:
            return theory
        reasons.append(f"{theory.name} ({theory.answers}): {reason}")
    kind = type(problem.task).__name__
    raise ValueError(
        f"no theory covers {problem.network} on a {kind} at tau = {problem.tau:g}:\n  " + "\n  ".join(reasons)
    )
