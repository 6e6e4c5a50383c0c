"""What the room of deep networks hands to the theory of rectifiers: activations phi(z) = max(z, 0)."""

from __future__ import annotations

from typing import Any

from meanfield.problem.network import Network
from meanfield.problem.problem import Problem

__all__ = ["covers", "refuses", "restore", "solve"]


def covers(network: Network) -> bool:
    """Whether the network is one of rectifiers in two and more layers."""
    from meanfield.theories.deep.relu.coverage import is_rectifier

    return network.depth > 1 and is_rectifier(network.activation)


def refuses(network: Network, task: Any, tau: float) -> str | None:
    """Why a problem of such a network is not covered; None if it is."""
    from meanfield.theories.deep.relu import coverage

    return coverage.refuses(network, task, tau)


def solve(network: Network, task: Any, tau: float, **options: Any) -> Any:
    """`solve_relu`."""
    from meanfield.theories.deep.relu.solve import solve_relu

    return solve_relu(network, task, tau, **options)


def restore(problem: Problem, header: dict[str, Any], arrays: dict[str, Any]) -> Any:
    """The posterior of a problem from what its ``solution.pack()`` gave."""
    from meanfield.theories.deep.relu.claims import check_relu
    from meanfield.theories.deep.relu.posterior import ReluPosterior
    from meanfield.theories.deep.relu.solution import ReluSolution

    solution = ReluSolution.unpack(header, arrays)
    if solution.tau != problem.tau:
        raise ValueError(f"its solution is at tau = {solution.tau:g}, its problem at {problem.tau:g}.")
    found = ReluPosterior(*problem, solution)
    check_relu(found)
    return found
