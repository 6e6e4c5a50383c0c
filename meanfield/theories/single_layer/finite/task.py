"""Finite P for nonlinear activations: from network and task to the solver and back."""

from __future__ import annotations

import numpy as np

from meanfield.activations.cumulant import cumulant
from meanfield.posterior.certificate import Certificate, ConvergenceError
from meanfield.posterior.posterior import Posterior
from meanfield.posterior.status import Status
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.theories.single_layer.deferred import is_pending, pending
from meanfield.theories.single_layer.finite.clouds import Codes
from meanfield.theories.single_layer.finite.exchange import exchangeable
from meanfield.theories.single_layer.finite.marginal import MAX_MARGINAL_SAMPLES
from meanfield.theories.single_layer.finite.solution import FiniteSolution
from meanfield.theories.single_layer.finite.solver import AIM, TOLERANCE, finite_solve
from meanfield.theories.single_layer.solution import DeferredSolution, Solution
from meanfield.validation import read_only

__all__ = ["solve_finite"]

_HOW = {
    "lattice": "lattice",
    "laplace": "Laplace's method",
    "exchange": "sums over exchangeable classes",
    "halves": "sums over two halves of the classes",
}
_BESIDE = 1e-4  # share of the neurons beside cuts from which on weights of codes are not known as well as all else


def solve_finite(
    network: Network, task: ClassTask, tau: float, warm: Posterior | None, rtol: float | None = None
) -> Solution:
    """Solve a class task at finite P; the result may be uncertified (see `Solution.status`).

    `rtol`: the residual that is aimed at; coarser ones cost less, those above a tenth of the tolerance no less.
    """
    sigma_a = network.sigma_a
    single_site = cumulant(network.activation, network.k)
    start = None if warm is None else warm.solution.t * sigma_a
    codes = None
    known = warm.solution if warm is not None and isinstance(warm.solution, Solution) else None
    # Codes that overlap so much that nobody has asked for them yet are no start.
    if known is not None and exchangeable(single_site, task.fractions, task.targets) is not None:
        known = None  # nor do these sums need any
    if known is not None and not (is_pending(known) and task.n_samples <= MAX_MARGINAL_SAMPLES) and known.kind is None:
        codes = Codes(known.readout / sigma_a, known.weight)
    failure = None
    try:
        found: FiniteSolution = finite_solve(
            single_site,
            np.array(task.fractions),
            task.targets / sigma_a,
            tau / sigma_a**2,
            task.n_samples,
            start,
            codes0=codes,
            aim=AIM if rtol is None else min(max(rtol, AIM), 0.1 * TOLERANCE),
        )
    except ConvergenceError as error:
        if not isinstance(error.result, FiniteSolution):
            raise
        found, failure = error.result, error
    except (ArithmeticError, IndexError, ValueError, np.linalg.LinAlgError) as error:
        # The task is valid: whatever a trial step ran into is a failure of the solver.
        raise ConvergenceError(f"the solver at P = {task.n_samples:g} broke down: {error}") from error
    except TimeoutError as error:
        raise ConvergenceError(f"no solution at P = {task.n_samples:g} yet: {error}; give more time.") from error
    certificate = Certificate(
        kkt_residual=found.residual * max(1.0, sigma_a),
        duality_gap=found.decrement,
        bound_gap=found.integration_error,
        global_check=failure is None,
        unique=True,
    )
    how = _HOW[found.method]
    later = is_pending(found)
    no_codes = np.empty((0, task.n_outputs))
    solution = Solution(
        t=found.t / sigma_a,
        objective=found.objective,
        level=found.level,
        readout=no_codes if later else found.mean * sigma_a,
        weight=np.empty(0) if later else found.weight,
        outlier_direction=found.outlier_direction,
        outlier_weight=found.outlier_weight * sigma_a**2,
        covariance=None if later else found.covariance * sigma_a**2,
        certificate=certificate,
        status=Status.OPTIMAL if failure is None else Status.RESIDUAL,
        message=f"readout integrated by {how}, relative error {found.integration_error:.0e}, residual "
        f"{found.residual:.0e} with it; J is convex, so its stationary point is the minimum"
        if failure is None
        else str(failure),
        notes=() if later else _notes(found),
        kind=None if later else found.kind,
        n_samples=task.n_samples,
        tau=tau,
    )
    if not later:
        return solution

    def codes_of() -> dict[str, object]:
        return {
            "readout": read_only(found.mean * sigma_a),
            "weight": read_only(found.weight),
            "covariance": read_only(found.covariance * sigma_a**2),
            "notes": _notes(found),
            "kind": None if found.kind is None else read_only(found.kind),
        }

    return pending(DeferredSolution, solution, codes_of)


def _notes(found: FiniteSolution) -> tuple[str, ...]:
    notes = []
    if found.kind is not None:
        notes.append(
            "codes that differ by permutations of exchangeable classes are too many to list; one of each orbit is "
            "reported, with the weight of all"
        )
    if found.beside_cuts >= _BESIDE:
        notes.append(
            f"codes overlap, {found.beside_cuts:.2%} of the neurons lie beside a cut between two: whose they are is a "
            f"convention, and weights of codes are accurate to {found.weight_error:.0e} only; t, kernels and outputs "
            "do not depend on it"
        )
    return tuple(notes)
