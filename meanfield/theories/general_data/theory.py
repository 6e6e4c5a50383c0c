"""The theory of one hidden layer on data as a room: what it covers, how it solves, how it is read from files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.archive import Arrays, Header
from meanfield.numerics.limits import (
    OutOfTime,
    interruptible,
    one_blas_thread,
    seconds_left,
    time_limit,
)
from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.data_posterior import check_data_posterior, rest_of_header, solution_arrays
from meanfield.posterior.registry import Elsewhere, Options, check_theory
from meanfield.posterior.status import Status
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.problem.problem import Problem
from meanfield.progress import progress_bar
from meanfield.theories.general_data.coverage import asymptote, homogeneous, unbounded_refusal
from meanfield.validation import FloatArray, IntArray, entry

if TYPE_CHECKING:
    from meanfield.problem.class_task import ClassTask
    from meanfield.symbolic.theories import DataEquations
    from meanfield.theories.general_data.exact.examine import Examined
    from meanfield.theories.general_data.posterior import GeneralDataPosterior
    from meanfield.theories.general_data.solution import GeneralSolution

__all__ = ["THEORY", "GeneralDataTheory"]

_FEW = 60  # unknowns up to which a predictor that misses the solution's own outputs is corrected


class GeneralDataTheory:
    """Expectation propagation inside the convex dual, for nonlinear networks with one hidden layer."""

    name = "general_data"
    answers = "one hidden layer on data"
    sweeps = False

    def refuses(self, problem: Problem) -> str | None:
        network, task, tau = problem
        if not isinstance(task, DataTask):
            return Elsewhere("it needs inputs; build the task with data_task(X, Y)")
        if network.scaling != "non-lazy":
            return Elsewhere("the network is lazy")
        if network.activation.parts == "gaussian":
            return Elsewhere(f"{network.activation!r} is affine")
        if network.depth != 1:
            return (
                f"nonlinear networks of {network.depth} hidden layers are not solved on data; on data there are one "
                "hidden layer (depth = 1), and linear and lazy networks of any depth, and deep nonlinear networks are "
                "solved on class tasks (class_task(...)), at finite n_samples and at n_samples = inf"
            )
        if tau == 0.0:
            return "nonlinear networks on data need tau = N T > 0; give for example tau = 0.01"
        if network.activation.parts == "outliers":
            return unbounded_refusal(network.activation, task.targets.size)
        return None

    def solve(
        self, problem: Problem, *, warm_start: object, progress: bool | None, options: Options
    ) -> GeneralDataPosterior:
        from meanfield.theories.general_data.exact.examine import certificate_of, examine, kept_for_measurement
        from meanfield.theories.general_data.posterior import GeneralDataPosterior

        network, task, tau = problem.network, problem.data_task, problem.tau
        warm = _start(warm_start)
        refine, seconds = options.get("refine"), options.get("max_seconds")
        kept = kept_for_measurement(task, seconds)

        def work() -> Examined:
            with time_limit(seconds, kept), one_blas_thread():
                solution = _solved(network, task, tau, warm, progress, refine)
                found = examine(solution, task.labels, refine)
                if refine is None and solution.t.size <= _FEW and posterior(found).predictor_shortcoming() is not None:
                    better = examine(solution, task.labels, True)
                    return better if better.status == Status.OPTIMAL else found
                return found

        def posterior(verdict: Examined) -> GeneralDataPosterior:
            proof, notes = certificate_of(verdict), (*verdict.notes, *_notes(verdict.solution))
            return GeneralDataPosterior(
                network, task, tau, verdict.solution, proof, verdict.status, verdict.message, notes
            )

        found = posterior(interruptible(work))
        shortcoming = found.predictor_shortcoming()
        return found if shortcoming is None else replace(found, notes=(*found.notes, shortcoming))

    def equations(self, network: Network, task: ClassTask | DataTask | None) -> DataEquations | None:
        from meanfield.symbolic.theories import general_data

        own = isinstance(task, DataTask) and network.scaling == "non-lazy" and network.depth == 1
        return general_data(outliers=network.activation.parts == "outliers") if own else None

    def load(self, header: Header, arrays: Arrays) -> GeneralDataPosterior:
        from meanfield.theories.general_data.claims import check_general
        from meanfield.theories.general_data.exact.outliers import OutlierParticles
        from meanfield.theories.general_data.exact.particles import ParticleSolution
        from meanfield.theories.general_data.outliers.solution import OutlierSolution
        from meanfield.theories.general_data.posterior import GeneralDataPosterior
        from meanfield.theories.general_data.solution import GeneralSolution

        network = Network.from_dict(entry(header, "network", dict))
        task, tau = DataTask.from_arrays(entry(header, "task", dict), arrays), entry(header, "tau", (int, float))
        check_theory(self.name, network, task, tau)
        given, own = entry(header, "solution", dict), solution_arrays(arrays)
        # The singular value decomposition of another machine may differ by signs and rotations.
        features = task.features(network.sigma_w).matrix
        turn = np.linalg.lstsq(features, own["features"], rcond=None)[0]
        own |= {name: own[name] @ turn.T for name in ("directions", "outlier_w", "particles") if name in own}
        own |= {"features": features, "targets": task.targets}
        given = given | {"activation": network.activation}
        kind: type[GeneralSolution] = OutlierSolution if "limit" in given else GeneralSolution
        if "particles" in own:
            kind = OutlierParticles if kind is OutlierSolution else ParticleSolution
        solution = kind(**{**given, **own})
        found = GeneralDataPosterior(network, task, float(tau), solution, *rest_of_header(header))
        if check_data_posterior(found) and not issubclass(
            kind, ParticleSolution
        ):  # whose moments are sums over its particles
            check_general(found)
        return found


THEORY = GeneralDataTheory()


def _start(warm_start: object) -> GeneralSolution | None:
    from meanfield.theories.general_data.posterior import GeneralDataPosterior

    warm = warm_start.solution if isinstance(warm_start, GeneralDataPosterior) else None
    return None if warm is None or warm.method == "particles" else warm  # particles are no mixture to start from


class _Solver(Protocol):
    """What both solvers take."""

    def __call__(
        self,
        activation: Activation,
        features: FloatArray,
        targets: FloatArray,
        sigma_a: float,
        tau: float,
        *,
        labels: IntArray | None,
        warm_start: GeneralSolution | None,
        rng: int,
        progress: Callable[[str, int, float], None],
    ) -> GeneralSolution: ...


def _solved(
    network: Network,
    task: DataTask,
    tau: float,
    warm: GeneralSolution | None,
    progress: bool | None,
    refine: bool | None,
) -> GeneralSolution:
    """The solution of expectation propagation, or a start for samples of the exact measure."""
    phi = network.activation
    solver: _Solver
    if phi.parts == "outliers":
        from meanfield.theories.general_data.outliers.descent import solve_outliers  # both load compiled code

        solver = solve_outliers
    else:
        from meanfield.theories.general_data.solve import solve_general

        solver = solve_general
    # Of unbounded phi with other shapes the solution for its asymptote is where samples start from.
    known = phi.parts != "outliers" or homogeneous(phi)
    unaided = refine is not False and phi.parts != "outliers"  # particles need no solution to start from
    left = seconds_left()

    def nothing(message: str, status: Status = Status.EP_FAILED) -> GeneralSolution:
        from meanfield.theories.general_data.exact.unaided import blank

        start = blank(phi, task.features(network.sigma_w).matrix, task.targets, network.sigma_a, tau)
        return replace(start, status=status, message=message)

    with progress_bar(progress, None, unit="step") as advance, time_limit(_SHARE * left if unaided else left):
        try:
            found = solver(
                phi if known else asymptote(phi),
                task.features(network.sigma_w).matrix,
                task.targets,
                network.sigma_a,
                tau,
                labels=task.labels,
                warm_start=warm,
                rng=0,
                progress=lambda stage, step, error: advance(),
            )
        except ConvergenceError as error:
            if not unaided:
                raise
            return nothing(str(error))
        except OutOfTime as error:
            if unaided and _SHARE * left > _WORTH:
                return nothing("expectation propagation found no state in its share of the time.")
            over = "the time was over before there was any state"
            if unaided:
                return nothing(f"{over}: these are t = 0 and the prior; allow more.", Status.OUT_OF_TIME)
            raise ConvergenceError(f"no solution: {over}; allow more.") from error
        except (ArithmeticError, MemoryError) as error:
            raise ConvergenceError(f"no solution: {error}; give a larger tau, or other scales.") from error
    if known:
        return found
    status = found.status if found.status == Status.OUT_OF_TIME else Status.NOT_CONVERGED
    return replace(found, activation=phi, status=status, message=_STARTED.format(phi=repr(phi)))


_SHARE = 0.5  # of the time, for expectation propagation where particles are another way
_WORTH = 10.0  # seconds that particles need at least
_STARTED = (
    "this is the solution for the asymptote of {phi}, from which samples of the exact measure did not lead to that of "
    "{phi} itself (refine=False keeps them from trying); use a larger tau, fewer samples, or relu"
)


def _notes(found: GeneralSolution) -> tuple[str, ...]:
    notes = []
    if found.extrapolated_weight > 1e-4:
        share = f"{found.extrapolated_weight:.2g} of the weight"
        notes.append(f"{share} lies where expectation propagation was extrapolated")
    if found.ambiguous_weight > 1e-2:
        notes.append(f"{found.ambiguous_weight:.2g} of the weight lies where expectation propagation has two solutions")
    if found.method == "joint" and found.method_error > 1e-5:
        notes.append(f"one Gaussian of readout and weights per code: <a phi> is known to {found.method_error:.1g}")
    if len(found.outlier_weight):
        notes.append("the variance of the predictor does not contain the fluctuations of the outliers")
    return tuple(notes)
