"""Solvers for data tasks: linear and lazy networks of any depth, others with one hidden layer; called by `solve`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from meanfield.coverage import covering_theory
from meanfield.numerics.interruptible import check_time
from meanfield.posterior.data_posterior import DataPosterior
from meanfield.posterior.generalization import linear_scale
from meanfield.posterior.result import Certificate, ConvergenceError
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.progress import progress_bar
from meanfield.theories.lazy.gaussian_process import lazy_solve
from meanfield.theories.linear.data_tasks import linear_data_solve

__all__ = ["solve_data"]

_TOLERANCE = 1e-8  # of the residual of closed forms, relative to the largest target


def solve_data(
    network: Network,
    task: DataTask,
    tau: float,
    warm_start: DataPosterior | None = None,
    progress: bool | None = None,
) -> DataPosterior:
    """Posterior of a network on a data task; see `meanfield.solve` for arguments and errors."""
    theory = covering_theory(network, task, tau).name
    if theory == "data_lazy":
        found = _lazy(network, task, tau)
    elif theory == "data_linear":
        found = _linear(network, task, tau)
    else:
        found = _general(network, task, tau, warm_start, progress)
    notes = _offset_notes(network, task)
    return replace(found, notes=(*found.notes, *notes)) if notes else found


def _offset_notes(network: Network, task: DataTask) -> tuple[str, ...]:
    """Linear networks have no constant output, where the inputs have no mean: what that does to the residual."""
    if network.activation.parts != "gaussian" or float(network.activation(0.0)) != 0.0:
        return ()
    inputs, offset = task.inputs, np.abs(task.targets.mean(axis=0)).max()
    centred = np.abs(inputs.mean(axis=0)).max() <= 1e-9 * np.abs(inputs).max()
    if not centred or offset <= 1e-9 * np.abs(task.targets).max():
        return ()
    return (
        "the inputs are centred, so that a linear network has outputs of mean 0; the mean of the targets, up to "
        f"{offset:.3g}, stays in residual and bias: choose targets of mean 0 (off), or keep the mean of the inputs",
    )


def _general(
    network: Network, task: DataTask, tau: float, warm_start: DataPosterior | None, progress: bool | None
) -> DataPosterior:
    solver: Any
    if network.activation.parts == "outliers":
        from meanfield.theories.general_data.outliers.descent import solve_outliers as solver  # both load compiled code
    else:
        from meanfield.theories.general_data.solve import solve_general as solver

    warm = None if warm_start is None or warm_start.kind != "general" else warm_start.solution
    with progress_bar(progress, None, unit="step") as advance:

        def step_done(stage: str, step: int, error: float) -> None:
            advance()
            check_time()

        try:
            found = solver(
                network.activation,
                task.features(network.sigma_w).matrix,
                task.targets,
                network.sigma_a,
                tau,
                labels=task.labels,
                warm_start=warm,
                rng=0,
                progress=step_done,
            )
        except TimeoutError as error:
            raise ConvergenceError(f"no solution yet: {error}; give more time, or a larger tau.") from error
        except (ArithmeticError, MemoryError) as error:
            raise ConvergenceError(f"no solution: {error}; give a larger tau, or other scales.") from error
    notes: tuple[str, ...] = ()
    if found.extrapolated_weight > 1e-4:
        notes = (f"{found.extrapolated_weight:.2g} of the weight lies where expectation propagation was extrapolated",)
    if found.ambiguous_weight > 1e-2:
        notes += (f"{found.ambiguous_weight:.2g} of the weight lies where expectation propagation has two solutions",)
    if found.method == "joint" and found.method_error > 1e-5:
        notes += (f"one Gaussian of readout and weights per code: <a phi> is known to {found.method_error:.1g}",)
    if len(found.outlier_weight):
        notes += ("the variance of the predictor does not contain the fluctuations of the outliers",)
    return DataPosterior(
        network,
        task,
        tau,
        found,
        # J is convex; that its minimum is the right one is up to expectation propagation and the search for codes.
        Certificate(found.residual, math.nan, math.nan, False, True),
        found.status,
        found.message or "expectation propagation",
        notes,
    )


def _linear(network: Network, task: DataTask, tau: float) -> DataPosterior:
    features = task.features(linear_scale(network) ** network.depth)
    s = network.readout_variance(task.n_samples)
    found = linear_data_solve(features, task.targets, s, tau, network.depth)
    unique = tau > 0.0 or features.rank == task.n_samples
    certified = found.residual <= _TOLERANCE and found.duality_gap <= _TOLERANCE * max(1.0, abs(found.objective))
    notes: tuple[str, ...] = ()
    if not unique:
        notes = (
            f"inputs of rank {features.rank} < P = {task.n_samples}: t is not unique, the one of least norm is given",
        )
    return DataPosterior(
        network,
        task,
        tau,
        found,
        Certificate(found.residual, found.duality_gap, 0.0, certified, unique),
        "optimal" if certified else "residual too large",
        "closed form" if certified else "rounding errors: inputs are nearly dependent; give tau > 0, or remove some",
        notes,
    )


def _lazy(network: Network, task: DataTask, tau: float) -> DataPosterior:
    found = lazy_solve(network, task, tau)
    certified = bool(found.residual <= _TOLERANCE and np.isfinite(found.objective))
    notes = []
    if found.jitter > 0.0:
        notes.append(f"the kernel is singular: {found.jitter:.2e} was added to the diagonal of s K (T = 0)")
    if found.kernel_error > 1e-12:
        notes.append(f"kernel elements are known to {found.kernel_error:.1e}")
    return DataPosterior(
        network,
        task,
        tau,
        found,
        Certificate(found.residual, 0.0, 0.0, certified, True),
        "optimal" if certified else "residual too large",
        "Gaussian process" if certified else "rounding errors: the kernel is nearly singular; give tau = T > 0",
        tuple(notes),
    )
