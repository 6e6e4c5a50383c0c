"""The theory of deep networks as a room: what it covers, how it solves, how it is read from files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from meanfield.archive import Arrays, Header
from meanfield.numerics.limits import check_time
from meanfield.posterior.certificate import ConvergenceError, UnstableFractions
from meanfield.posterior.registry import Options, check_theory
from meanfield.posterior.swept import Swept
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.problem.problem import Problem
from meanfield.progress import progress_bar
from meanfield.validation import entry

if TYPE_CHECKING:
    from meanfield.posterior.division import Division
    from meanfield.problem.data_task import DataTask
    from meanfield.symbolic.deep import DeepEquations
    from meanfield.theories.deep.posterior import DeepPosterior
    from meanfield.theories.deep.relu.posterior import ReluPosterior
    from meanfield.theories.deep.transitions import CodeTransition

__all__ = ["THEORY", "DeepTheory"]

_RTOL = 1e-6  # of the order parameters of rectifiers, unless the user wants another


class DeepTheory:
    """Codes in every layer: the saddle equations of two and more hidden layers on class tasks."""

    name = "deep"
    answers = "deep networks"
    sweeps = True
    takes = ("fractions", "width")

    def refuses(self, problem: Problem) -> str | None:
        from meanfield.theories.deep.coverage import refuses
        from meanfield.theories.deep.relu import handover as relu

        return relu.refuses(*problem) if relu.covers(problem.network) else refuses(*problem)

    def solve(
        self, problem: Problem, *, warm_start: object, progress: bool | None, options: Options
    ) -> DeepPosterior | ReluPosterior:
        from meanfield.theories.deep.relu import handover as relu
        from meanfield.theories.deep.relu.posterior import ReluPosterior

        rtol, width, given = options.get("rtol"), options.get("width"), options.get("fractions")
        if relu.covers(problem.network):
            if given is not None:
                text = "fractions= is for bounded phi, whose codes share the neurons; rectifiers have outliers."
                raise ValueError(text)
            start = warm_start if isinstance(warm_start, ReluPosterior) else None
            with _in_steps(progress) as report:
                return relu.solve(problem, warm_start=start, rtol=rtol or _RTOL, width=width, progress=report)
        if width is not None:
            raise ValueError("width= is for deep networks of rectifiers; other theories are those of infinite width.")
        return _solved(problem, progress, warm_start, rtol, None if given is None else _normalised(given))

    def frozen(self, posterior: DeepPosterior, fractions: object) -> DeepPosterior:
        """`DeepPosterior.frozen`, from planted codes, and where one is lost on the way, that may be stable at the end,
        from the posterior."""
        from meanfield.theories.deep.system import LATTICE_CLASSES, kinds_of

        given = _normalised(dict(posterior._named_fractions(fractions)))
        problem = Problem(posterior.network, posterior.task, posterior.tau)
        if kinds_of(posterior.task.targets) > LATTICE_CLASSES:  # planted starts are too far from some solutions
            found = _solved(problem, False, posterior, None, given)
        else:
            try:
                found = _solved(problem, False, None, None, given)
            except UnstableFractions as error:
                try:
                    found = _solved(problem, False, posterior, None, given)
                except ConvergenceError:
                    raise error from None
        if found.status != "optimal":
            text = f"no certified solution at these fractions of the codes: {found.message}."
            if "rtol" in found.message:
                text = f"{text[:-1]}: options of mf.solve(fractions=...)."
            raise ConvergenceError(text, found)
        return found

    def equations(self, network: Network, task: ClassTask | DataTask | None) -> DeepEquations | None:
        from meanfield.symbolic.deep import deep_equations, of_network
        from meanfield.symbolic.rectifiers import rectifier_equations
        from meanfield.theories.deep.relu import handover as relu

        if network.scaling != "non-lazy" or network.depth == 1 or not isinstance(task, ClassTask | None):
            return None
        layered = not network.uniform
        if relu.covers(network):
            plain = network.activation.pieces is not None and network.activation.slopes == (0.0, 1.0)
            found = rectifier_equations(network.depth, rectifier=plain, layered=layered)
        elif network.activation.parts == "outliers":
            return None
        else:
            found = deep_equations(network.depth, layered=layered)
        phi = network.activation
        return of_network(found, phi.expression, phi.symbol, network.beta)

    def division(self, network: Network, task: ClassTask | DataTask) -> Division | None:
        from meanfield.theories.deep.relu import handover as relu
        from meanfield.theories.deep.relu.tail import BulkWithTail

        own = network.scaling == "non-lazy" and isinstance(task, ClassTask) and relu.covers(network)
        return BulkWithTail() if own else None

    def load(self, header: Header, arrays: Arrays) -> DeepPosterior | ReluPosterior:
        network = Network.from_dict(entry(header, "network", dict))
        task = ClassTask.from_dict(entry(header, "task", dict))
        own = entry(header, "solution", dict)
        tau = entry(own, "tau", (int, float))
        check_theory(self.name, network, task, tau)
        return self.restore(Problem(network, task, tau), own, arrays)

    def restore(self, problem: Problem, header: Header, arrays: Arrays) -> DeepPosterior | ReluPosterior:
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
        found = DeepPosterior(problem.network, problem.class_task, problem.tau, solution)
        check_deep(found)
        return found

    def transitions_along(self, diagram: Swept) -> tuple[CodeTransition, ...]:
        """Where the code set of the last layer changes along a sweep at P = infinity."""
        from meanfield.theories.deep.transitions import transitions_along

        return transitions_along(diagram)


THEORY = DeepTheory()


def _normalised(fractions: Mapping[str, float]) -> dict[str, float]:
    given = {str(pattern).replace("-", ""): float(value) for pattern, value in fractions.items() if value != 0.0}
    total = sum(given.values())
    if not total > 0.0 or min(given.values()) < 0.0:
        raise ValueError("fractions of codes must not be negative, and not all zero.")
    return {pattern: value / total for pattern, value in given.items()}


def _solved(
    problem: Problem,
    progress: bool | None,
    warm_start: object,
    rtol: float | None,
    fractions: Mapping[str, float] | None,
) -> DeepPosterior:
    from meanfield.theories.deep.posterior import DeepPosterior
    from meanfield.theories.deep.solve import solve_deep

    start = warm_start if isinstance(warm_start, DeepPosterior) else None
    network, task, tau = problem.network, problem.class_task, problem.tau
    with _in_steps(progress) as report:
        return solve_deep(network, task, tau, warm_start=start, rtol=rtol, fractions=fractions, progress=report)


@contextmanager
def _in_steps(progress: bool | None) -> Iterator[Callable[[str, int, float], None]]:
    """What a solver calls after every step, so that it shows progress and stops in time."""
    with progress_bar(progress, None, unit="step") as advance:

        def step_done(stage: str, step: int, residual: float) -> None:
            advance()
            check_time()

        try:
            yield step_done
        except TimeoutError as error:
            raise ConvergenceError(f"no solution yet: {error}; give more time.") from error
