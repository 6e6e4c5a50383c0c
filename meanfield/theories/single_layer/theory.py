"""The single-layer theory as a room: what it covers, how it solves, how it is read from files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from meanfield.archive import Arrays, Header
from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.posterior import Posterior
from meanfield.posterior.registry import Elsewhere, Options, Theory, check_theory, covering_theory
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.problem.problem import Problem
from meanfield.validation import entry

if TYPE_CHECKING:
    from meanfield.problem.data_task import DataTask
    from meanfield.symbolic.equations import Equations
    from meanfield.theories.single_layer.posterior import SingleNeuronPosterior

__all__ = ["THEORY", "SingleLayerTheory", "is_limit", "is_limit_of"]


class SingleLayerTheory:
    """The convex dual of class tasks, for nonlinear networks with one hidden layer."""

    name = "single_layer"
    answers = "coding schemes of one hidden layer"
    sweeps = True
    sweep_rtol = 1e-8  # residual at finite P: lattices for 1e-10 have twice as many nodes

    def refuses(self, problem: Problem) -> str | None:
        network, task, _ = problem
        if not isinstance(task, ClassTask):
            return Elsewhere("it needs classes of orthogonal inputs; build the task with class_task(...)")
        if network.scaling != "non-lazy":
            return Elsewhere("the network is lazy")
        if network.activation.parts == "gaussian":
            return Elsewhere(f"{network.activation!r} is affine")
        if network.depth != 1:
            return Elsewhere(f"this is for one hidden layer, the network has {network.depth}")
        return None

    def solve(
        self, problem: Problem, *, warm_start: object, progress: bool | None, options: Options
    ) -> SingleNeuronPosterior:
        from meanfield.theories.single_layer.finite.task import solve_finite
        from meanfield.theories.single_layer.limit import MAX_BOXES, solve_limit
        from meanfield.theories.single_layer.posterior import SingleNeuronPosterior

        network, task, tau = problem.network, problem.class_task, problem.tau
        if math.isinf(task.n_samples):
            warm = warm_start.solution if isinstance(warm_start, SingleNeuronPosterior) else None
            solution = solve_limit(network, task, tau, warm, options.get("max_boxes") or MAX_BOXES)
        else:
            start = warm_start if isinstance(warm_start, Posterior) else None
            solution = solve_finite(network, task, tau, start, options.get("rtol"))
        return SingleNeuronPosterior(network, task, tau, solution)

    def equations(self, network: Network, task: ClassTask | DataTask | None) -> Equations | None:
        """Those of linear networks, too, which are a case of them."""
        from meanfield.symbolic.equations import equations

        if network.scaling != "non-lazy" or network.depth != 1 or not isinstance(task, ClassTask | None):
            return None
        return equations(network.activation, math.inf if task is None else task.n_samples)

    def load(self, header: Header, arrays: Arrays) -> SingleNeuronPosterior:
        from meanfield.theories.single_layer.claims import check_posterior
        from meanfield.theories.single_layer.posterior import SingleNeuronPosterior, frozen_from
        from meanfield.theories.single_layer.solution import unpack_solution

        told = entry(header, "solution", dict)
        given = entry(told, "frozen", bool) if "frozen" in told else None
        told = {name: value for name, value in told.items() if name != "frozen"}
        fractions = [arrays.pop(name, np.empty(0)) for name in ("shares", "counts")] if given is not None else []
        solution = unpack_solution(told, arrays)
        network = Network.from_dict(entry(header, "network", dict))
        task = ClassTask.from_dict(entry(header, "task", dict))
        check_theory(self.name, network, task, solution.tau)
        found = SingleNeuronPosterior(network, task, solution.tau, solution)
        check_posterior(found)
        if given is None:
            return found
        try:
            return frozen_from(found, given, *fractions)
        except ConvergenceError as error:
            raise ValueError(f"it has no solution at its fractions of the codes: {error}") from error


THEORY = SingleLayerTheory()


def is_limit(problem: Problem) -> bool:
    """Whether this theory covers the problem, at P = infinity: what the compiled sweep and transitions are made for."""
    return is_limit_of(covering_theory(*problem), problem)


def is_limit_of(theory: Theory, problem: Problem) -> bool:
    """The same, where the theory that covers the problem is known."""
    return theory is THEORY and math.isinf(problem.class_task.n_samples)
