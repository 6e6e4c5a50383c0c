"""The single-layer theory as a room: what it covers, how it solves, how it is read from files."""

from __future__ import annotations

import math
from typing import Any

from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.problem.problem import Problem

__all__ = ["THEORY", "SingleLayerTheory"]


class SingleLayerTheory:
    """The convex dual of class tasks, for nonlinear networks with one hidden layer."""

    name = "single_layer"
    answers = "nonlinear networks of one hidden layer on class tasks, any P and tau"

    def refuses(self, problem: Problem) -> str | None:
        network, task, _ = problem
        if not isinstance(task, ClassTask):
            return "it needs classes of orthogonal inputs; build the task with class_task(...)"
        if network.scaling != "non-lazy":
            return "it covers scaling='non-lazy'"
        if network.activation.parts == "gaussian":
            return "the activation is affine"
        if network.depth != 1:
            return f"networks of depth {network.depth} are not available yet; it covers one hidden layer"
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
        from meanfield.theories.single_layer.posterior import SingleNeuronPosterior
        from meanfield.theories.single_layer.solution import unpack_solution

        solution = unpack_solution(header["solution"], arrays)
        network, task = Network.from_dict(header["network"]), ClassTask.from_dict(header["task"])
        return SingleNeuronPosterior(network, task, solution.tau, solution)


THEORY = SingleLayerTheory()
