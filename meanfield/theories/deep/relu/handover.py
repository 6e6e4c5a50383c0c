"""What the room of deep networks hands to the theory of rectifiers: unbounded activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from meanfield.archive import Arrays, Header
from meanfield.problem.class_task import ClassTask
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.problem.problem import Problem

if TYPE_CHECKING:
    from meanfield.theories.deep.relu.posterior import ReluPosterior

__all__ = ["covers", "refuses", "restore", "solve"]

Report = Callable[[str, int, float], None]


def covers(network: Network) -> bool:
    """Whether the network is one of rectifiers, or of another unbounded phi like them, in two and more layers."""
    from meanfield.theories.deep.relu import coverage

    return network.depth > 1 and coverage.covers(network.activation)


def refuses(network: Network, task: ClassTask | DataTask, tau: float) -> str | None:
    """Why a problem of such a network is not covered; None if it is."""
    from meanfield.theories.deep.relu import coverage

    return coverage.refuses(network, task, tau)


def solve(
    problem: Problem, *, warm_start: ReluPosterior | None, rtol: float, width: float | None, progress: Report
) -> ReluPosterior:
    """`solve_relu`."""
    from meanfield.theories.deep.relu.nonlinearity import nonlinearity_of
    from meanfield.theories.deep.relu.solve import solve_relu

    phi = nonlinearity_of(problem.network.activation)
    if width is not None and not (phi is not None and phi.rectifies and phi.slopes[0] == 0.0):
        raise ValueError(
            f"width= is for deep networks of rectifiers, whose neurons condense in every layer; those of "
            f"{problem.network.activation.name} have modes at finite distances, which hold no whole number of neurons."
        )
    network, task, tau = problem.network, problem.class_task, problem.tau
    return solve_relu(network, task, tau, warm_start=warm_start, rtol=rtol, width=width, progress=progress)


def restore(problem: Problem, header: Header, arrays: Arrays) -> ReluPosterior:
    """The posterior of a problem from what its ``solution.pack()`` gave."""
    from meanfield.theories.deep.relu.claims import check_relu
    from meanfield.theories.deep.relu.posterior import ReluPosterior
    from meanfield.theories.deep.relu.solution import ReluSolution

    solution = ReluSolution.unpack(header, arrays)
    if solution.tau != problem.tau:
        raise ValueError(f"its solution is at tau = {solution.tau:g}, its problem at {problem.tau:g}.")
    found = ReluPosterior(problem.network, problem.class_task, problem.tau, solution)
    check_relu(found)
    return found
