"""The single-layer theory as a room: what it covers, how it solves, how it is read from files."""

from __future__ import annotations

import math
from typing import Any

from meanfield.posterior.registry import check_theory, covering_theory
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.problem.problem import Problem

__all__ = ["THEORY", "SingleLayerTheory", "is_limit"]


class SingleLayerTheory:
    """The convex dual of class tasks, for nonlinear networks with one hidden layer."""

    name = "single_layer"
    answers = "coding schemes of one hidden layer"
    sweeps = True

    def refuses(self, problem: Problem) -> str | None:
        network, task, _ = problem
        if not isinstance(task, ClassTask):
            return "it needs classes of orthogonal inputs; build the task with class_task(...)"
        if network.scaling != "non-lazy":
            return "lazy networks are solved on data only: give a task of data_task(X, Y), or use scaling='non-lazy'"
        if network.activation.parts == "gaussian":
            return f"{network.activation!r} is affine"
        if network.depth != 1:
            return f"networks of depth {network.depth} are not available for class tasks; use depth = 1"
        return None

    def solve(self, problem: Problem, *, warm_start: Any, progress: bool | None, options: dict[str, Any]) -> Any:
        from meanfield.theories.single_layer.finite_task import solve_finite
        from meanfield.theories.single_layer.limit import MAX_BOXES, solve_limit
        from meanfield.theories.single_layer.posterior import SingleNeuronPosterior

        network, task, tau = problem
        if math.isinf(task.n_samples):
            warm = None if warm_start is None else warm_start.solution
            solution = solve_limit(network, task, tau, warm, options.get("max_boxes") or MAX_BOXES)
        else:
            solution = solve_finite(network, task, tau, warm_start)
        return SingleNeuronPosterior(network, task, tau, solution)

    def load(self, header: dict[str, Any], arrays: dict[str, Any]) -> Any:
        from meanfield.theories.single_layer.claims import check_posterior
        from meanfield.theories.single_layer.posterior import SingleNeuronPosterior
        from meanfield.theories.single_layer.solution import unpack_solution

        solution = unpack_solution(header["solution"], arrays)
        network, task = Network.from_dict(header["network"]), ClassTask.from_dict(header["task"])
        check_theory(self.name, network, task, solution.tau)
        found = SingleNeuronPosterior(network, task, solution.tau, solution)
        check_posterior(found)
        return found


THEORY = SingleLayerTheory()


def is_limit(problem: Problem) -> bool:
    """Whether this theory covers the problem, at P = infinity: what the compiled sweep and transitions are made for."""
    return covering_theory(*problem) is THEORY and math.isinf(problem.task.n_samples)
