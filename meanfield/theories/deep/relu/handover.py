"""What the room of deep networks hands to the theory of rectifiers: activations phi(z) = max(z, 0)."""

from __future__ import annotations

from typing import Any

from meanfield.posterior.registry import check_theory
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network

__all__ = ["covers", "load", "refuses", "solve"]


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


def load(header: dict[str, Any], arrays: dict[str, Any]) -> Any:
    """The posterior from header and arrays of a file."""
    from meanfield.theories.deep.relu.claims import check_relu
    from meanfield.theories.deep.relu.posterior import ReluPosterior
    from meanfield.theories.deep.relu.solution import ReluSolution

    solution = ReluSolution.unpack(header["solution"], arrays)
    network, task = Network.from_dict(header["network"]), ClassTask.from_dict(header["task"])
    check_theory("deep", network, task, solution.tau)
    found = ReluPosterior(network, task, solution.tau, solution)
    check_relu(found)
    return found
