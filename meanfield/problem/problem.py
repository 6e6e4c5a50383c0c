"""`Problem`: a question to the theory."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from meanfield.problem.class_task import ClassTask
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.validation import temperature

__all__ = ["OfClasses", "Problem", "checked_problem"]


class Problem(NamedTuple):
    """A network, its task, and tau = N T."""

    network: Network
    task: ClassTask | DataTask
    tau: float

    @property
    def class_task(self) -> ClassTask:
        """The task of a problem that is one of classes."""
        assert isinstance(self.task, ClassTask)
        return self.task

    @property
    def data_task(self) -> DataTask:
        """The task of a problem that is one of data."""
        assert isinstance(self.task, DataTask)
        return self.task


class OfClasses(Protocol):
    """What belongs to a network, a class task and tau."""

    @property
    def network(self) -> Network: ...
    @property
    def task(self) -> ClassTask: ...
    @property
    def tau(self) -> float: ...


def checked_problem(network: object, task: object, tau: object) -> Problem:
    """The problem of these arguments.

    Raises
    ------
    ValueError
        If they are of other types, tau is no number >= 0, or no network whatsoever could fit the task.
    """
    if not isinstance(network, Network):
        raise ValueError(f"network must be a Network, got {type(network).__name__}; build one with Network('sigmoid').")
    if not isinstance(task, (ClassTask, DataTask)):
        found = type(task).__name__
        raise ValueError(f"task must be a ClassTask or DataTask, got {found}; build one with class_task or data_task.")
    tau = temperature("tau", tau)
    if isinstance(task, DataTask) and tau == 0.0 and task.conflicts.size:
        i, j = task.conflicts[0]
        raise ValueError(
            f"samples {i} and {j} have the same inputs but different targets ({len(task.conflicts)} such pairs), so no "
            "network fits them at tau = 0; remove one of each pair, or give tau > 0."
        )
    return Problem(network, task, tau)
