"""The theories there are: asked one after the other which of them covers a problem.

A theory is a folder whose module ``theory`` holds an object `THEORY` with the attributes of `Theory`; its line in
`ROOMS` is all that the rest of the package knows of it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, TypedDict, runtime_checkable

from meanfield.archive import Arrays, Header
from meanfield.problem.class_task import ClassTask
from meanfield.problem.problem import Problem, checked_problem

if TYPE_CHECKING:
    from meanfield.posterior.division import Division
    from meanfield.posterior.status import Status
    from meanfield.problem.data_task import DataTask
    from meanfield.problem.network import Network
    from meanfield.symbolic.deep import DeepEquations
    from meanfield.symbolic.equations import Equations
    from meanfield.symbolic.theories import DataEquations

    _Equations = Equations | DataEquations | DeepEquations

__all__ = [
    "ROOMS",
    "Answer",
    "Derives",
    "Divides",
    "Elsewhere",
    "Freezes",
    "Options",
    "Restores",
    "Theory",
    "check_theory",
    "covering_theory",
    "division_of",
    "sweep_accuracy",
    "theories",
    "theory_named",
    "theory_of",
]

ROOMS = (
    "meanfield.theories.linear",
    "meanfield.theories.lazy",
    "meanfield.theories.single_layer",
    "meanfield.theories.general_data",
    "meanfield.theories.deep",
)


class Options(TypedDict, total=False):
    """What `meanfield.solve` hands to a theory; each takes what concerns it."""

    max_boxes: int
    rtol: float | None
    max_seconds: float | None
    refine: bool | None
    width: float | None
    fractions: Mapping[str, float]


class Answer(Protocol):
    """A `meanfield.posterior.posterior.Posterior`, which asks this module for the theory that reads a file."""

    @property
    def status(self) -> Status: ...
    @property
    def message(self) -> str: ...
    @property
    def certified(self) -> bool: ...
    def frozen(self, fractions: object) -> Answer: ...


class Elsewhere(str):
    """Why a theory refuses a problem that is of another kind than its own: said after the reasons of those whose it is.

    In a few words, which follow those of a theory that the problem belongs to.
    """


class Theory(Protocol):
    """What a theory has to say of itself.

    Attributes
    ----------
    name : str
        Unique; in files, and in the texts of refusals.
    sweeps : bool
        Whether `meanfield.sweep` can keep its solutions as points of a diagram: its posteriors are those of one hidden
        layer, or their ``solution.pack()`` gives a header and arrays from which ``restore(problem, header, arrays)``
        makes the posterior again. ``transitions_along(diagram)``, where there is one, locates transitions.
    takes : tuple of str, optional
        Options of `Options` that only some theories know and this one does: "width", and "fractions", the shares of the
        codes; without the latter `Posterior.frozen` is asked.
    sweep_rtol : float, optional
        Accuracy that is aimed at in a sweep where nothing else is said, if it is not that of a single solve.
    answers : str
        What it covers, in a few words, for the texts of refusals: "lazy networks on data".
    """

    name: str
    answers: str
    sweeps: bool

    def refuses(self, problem: Problem) -> str | None:
        """None if the theory covers the problem; else the reason, as a sentence to its user. Cheap.

        `Elsewhere` if networks or tasks of this kind belong to others.
        """

    def solve(self, problem: Problem, *, warm_start: object, progress: bool | None, options: Options) -> Answer:
        """The posterior of a covered problem, whatever its status; ValueError for inputs that cannot be solved."""

    def load(self, header: Header, arrays: Arrays) -> Answer:
        """The posterior from header and arrays of a file; ValueError if they do not fit together."""


@runtime_checkable
class Restores(Protocol):
    """A theory whose solutions are kept whole in a sweep: ``solution.pack()`` gave header and arrays."""

    def restore(self, problem: Problem, header: Header, arrays: Arrays) -> Answer: ...


@runtime_checkable
class Derives(Protocol):
    """A theory that prints what it solves."""

    def equations(self, network: Network, task: ClassTask | DataTask | None) -> _Equations | None:
        """Its equations for a network and a task (None: classes, P -> infinity); None if they are not its own.

        Users print them; the command line asks them for ``latex()``.
        """


@runtime_checkable
class Divides(Protocol):
    """A theory whose networks divide into parts in another way than phi says."""

    def division(self, network: Network, task: ClassTask | DataTask) -> Division | None:
        """How the neurons of its networks divide into parts; None for networks that are not its own."""


@runtime_checkable
class Freezes(Protocol):
    """A theory that solves again at given fractions of the codes."""

    def frozen(self, posterior: Answer, fractions: object) -> Answer:
        """`Posterior.frozen`."""


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


def covering_theory(network: object, task: object, tau: object) -> Theory:
    """The first theory that covers a problem.

    Raises
    ------
    ValueError
        If the arguments are no problem, or no theory covers it; lists the theories with their reasons.
    """
    return theory_of(checked_problem(network, task, tau))


def theory_of(problem: Problem) -> Theory:
    """`covering_theory` of a problem whose parts have been checked.

    Raises
    ------
    ValueError
        If no theory covers it; lists the theories with their reasons, first those that are for such problems.
    """
    reasons: dict[str, list[str]] = {}
    for theory in theories():
        reason = theory.refuses(problem)
        if reason is None:
            return theory
        reasons.setdefault(reason, []).append(theory.answers)
    kind = "class task" if isinstance(problem.task, ClassTask) else "data task"
    parts = []
    for far in (False, True):
        said = [reason for reason in reasons if isinstance(reason, Elsewhere) == far]
        parts.append("; ".join(f"{reason} ({' and '.join(reasons[reason])})" for reason in said))
    listed = ". Other theories are for other problems: ".join(part for part in parts if part)
    raise ValueError(f"no theory covers this network on a {kind} at tau = {problem.tau:g}: {listed}.")


def sweep_accuracy(theory: Theory) -> float | None:
    """`rtol` of a solve in a sweep, and of what is looked at between its points; None: that of a single solve."""
    return getattr(theory, "sweep_rtol", None)


def division_of(network: Network, task: ClassTask | DataTask) -> Division:
    """How the neurons of a network, solved or sampled, divide into parts."""
    from meanfield.posterior.division import division_by_growth

    for theory in theories():
        if isinstance(theory, Divides) and (found := theory.division(network, task)) is not None:
            return found
    return division_by_growth(network)


def check_theory(name: str, network: object, task: object, tau: object) -> None:
    """Refuse a file of the theory `name` whose problem belongs to another one, or to none.

    Raises
    ------
    ValueError
    """
    found = covering_theory(network, task, tau).name
    if found != name:
        raise ValueError(f"it claims to be an answer of the theory {name!r}, but its problem belongs to {found!r}.")
