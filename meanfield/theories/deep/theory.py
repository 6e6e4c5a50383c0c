"""The theory of deep networks as a room: what it covers, how it solves, how it is read from files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meanfield.numerics.interruptible import check_time
from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.registry import check_theory
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.problem.problem import Problem
from meanfield.progress import progress_bar

__all__ = ["THEORY", "DeepTheory"]


class DeepTheory:
    """Codes in every layer: the saddle equations of two and more hidden layers on class tasks."""

    name = "deep"
    answers = "deep networks"
    sweeps = True
    solves_at_fractions = True

    def refuses(self, problem: Problem) -> str | None:
        from meanfield.theories.deep.coverage import refuses
        from meanfield.theories.deep.relu import handover as relu

        return relu.refuses(*problem) if relu.covers(problem.network) else refuses(*problem)

    def solve(self, problem: Problem, *, warm_start: Any, progress: bool | None, options: dict[str, Any]) -> Any:
        from meanfield.theories.deep.relu import handover as relu

        warm = None if warm_start is None or warm_start.theory != self.name else warm_start
        if warm is not None and relu.covers(warm.network) != relu.covers(problem.network):
            warm = None
        given = options.get("fractions")
        if given is not None and relu.covers(problem.network):
            raise ValueError("fractions= is for bounded phi, whose codes share the neurons; rectifiers have outliers.")
        shares: dict[str, Any] = {} if given is None else {"fractions": _normalised(given)}
        return _solved(problem, progress, warm_start=warm, **_accuracy(options), **_width(problem, options), **shares)

    def frozen(self, posterior: Any, fractions: Any) -> Any:
        """`DeepPosterior.frozen`."""
        given = dict(posterior._named_fractions(fractions))
        problem = Problem(posterior.network, posterior.task, posterior.tau)
        found = _solved(problem, False, fractions=_normalised(given))
        if found.status != "optimal":
            raise ConvergenceError(f"no certified solution at these fractions of the codes: {found.message}.", found)
        return found

    def load(self, header: dict[str, Any], arrays: dict[str, Any]) -> Any:
        network, task = Network.from_dict(header["network"]), ClassTask.from_dict(header["task"])
        tau = header["solution"]["tau"]
        check_theory(self.name, network, task, tau)
        return self.restore(Problem(network, task, tau), header["solution"], arrays)

    def restore(self, problem: Problem, header: dict[str, Any], arrays: dict[str, Any]) -> Any:
        """The posterior of a problem from what its ``solution.pack()`` gave."""
        from meanfield.theories.deep.claims import check_deep
        from meanfield.theories.deep.posterior import DeepPosterior
        from meanfield.theories.deep.relu import handover as relu
        from meanfield.theories.deep.solution import DeepSolution

        if header.get("rectifier"):
            return relu.restore(problem, header, arrays)
        solution = DeepSolution.unpack(header, arrays)
        if solution.tau != problem.tau:
            raise ValueError(f"its solution is at tau = {solution.tau:g}, its problem at {problem.tau:g}.")
        found = DeepPosterior(*problem, solution)
        check_deep(found)
        return found

    def transitions_along(self, diagram: Any) -> Any:
        """Where the code set of the last layer changes along a sweep at P = infinity."""
        from meanfield.theories.deep.transitions import transitions_along

        return transitions_along(diagram)


THEORY = DeepTheory()


def _normalised(fractions: Mapping[Any, Any]) -> dict[str, float]:
    given = {str(pattern).replace("-", ""): float(value) for pattern, value in fractions.items() if value != 0.0}
    total = sum(given.values())
    if not total > 0.0 or min(given.values()) < 0.0:
        raise ValueError("fractions of codes must not be negative, and not all zero.")
    return {pattern: value / total for pattern, value in given.items()}


def _accuracy(options: dict[str, Any]) -> dict[str, float]:
    return {} if options.get("rtol") is None else {"rtol": options["rtol"]}


def _width(problem: Problem, options: dict[str, Any]) -> dict[str, float]:
    """N of the finite-N saddle, which only rectifiers have."""
    from meanfield.theories.deep.relu import handover as relu

    if options.get("width") is None:
        return {}
    if not relu.covers(problem.network):
        raise ValueError("width= is for deep networks of rectifiers; other theories are those of infinite width.")
    return {"width": options["width"]}


def _solved(problem: Problem, progress: bool | None, **options: Any) -> Any:
    from meanfield.theories.deep.relu import handover as relu
    from meanfield.theories.deep.solve import solve_deep

    with progress_bar(progress, None, unit="step") as advance:

        def step_done(stage: str, step: int, residual: float) -> None:
            advance()
            check_time()

        try:
            solver = relu.solve if relu.covers(problem.network) else solve_deep
            return solver(*problem, progress=step_done, **options)
        except TimeoutError as error:
            raise ConvergenceError(f"no solution yet: {error}; give more time.") from error
