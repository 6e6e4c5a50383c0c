"""`solve`: from a network and a task to the certified single-neuron posterior."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, cast, overload

import numpy as np

from meanfield.activations.cumulant import cumulant
from meanfield.posterior.data_posterior import DataPosterior
from meanfield.posterior.result import Certificate, ConvergenceError, Solution
from meanfield.problem.class_task import ClassTask
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.theories.data import solve_data
from meanfield.theories.linear.class_tasks import LinearSolution, linear_solve
from meanfield.theories.single_layer.finite import FiniteSolution, finite_solve
from meanfield.theories.single_layer.limit import MAX_BOXES, solve_limit
from meanfield.theories.single_layer.posterior import SingleNeuronPosterior
from meanfield.validation import real_number

__all__ = ["CertificateWarning", "solve"]


class CertificateWarning(UserWarning):
    """A result is returned although its certificate is incomplete."""


@overload
def solve(
    network: Network,
    task: ClassTask,
    tau: float = ...,
    *,
    warm_start: SingleNeuronPosterior | None = ...,
    on_failure: Literal["raise", "warn", "return"] = ...,
    max_boxes: int = ...,
    progress: bool | None = ...,
) -> SingleNeuronPosterior: ...


@overload
def solve(
    network: Network,
    task: DataTask,
    tau: float = ...,
    *,
    warm_start: DataPosterior | None = ...,
    on_failure: Literal["raise", "warn", "return"] = ...,
    max_boxes: int = ...,
    progress: bool | None = ...,
) -> DataPosterior: ...


def solve(
    network: Network,
    task: ClassTask | DataTask,
    tau: float = 0.0,
    *,
    warm_start: SingleNeuronPosterior | DataPosterior | None = None,
    on_failure: Literal["raise", "warn", "return"] = "raise",
    max_boxes: int = MAX_BOXES,
    progress: bool | None = None,
) -> SingleNeuronPosterior | DataPosterior:
    """Posterior of a wide network on a class task, or on data.

    On a class task: minimises the convex dual (A. van Meegen and H. Sompolinsky, Nature Communications 16:3354, 2025)

        J(t) = -sum_c p_c t_c.y_c + tau/2 sum_c p_c |t_c|^2 + (1/P) ln int da (P/2 pi sigma_a^2)^{m/2} exp(P h(a; t)),
        h(a; t) = -|a|^2 / 2 sigma_a^2 + sum_c p_c G(a.t_c),

    over the order parameters t (C, m); at ``task.n_samples = inf`` the last term is max_a h(a; t).

    On a data task: closed forms of linear networks (`meanfield.theories.linear.data_tasks`; any depth at tau = 0) and
    Gaussian process regression with lazy ones (`meanfield.theories.lazy.gaussian_process`; any depth and activation), expectation propagation
    inside the convex dual for all other networks of one hidden layer (`meanfield.solvers.general`; tau > 0).

    Parameters
    ----------
    network : Network
        For class tasks: one hidden layer, non-lazy scaling. In deeper networks sigma_w is the scale of the weights of
        every layer.
    task : ClassTask or DataTask
        Fractions p_c, targets y_c and the number of samples P (may be infinite); or inputs X and targets Y.
    tau : float
        tau = N T >= 0, the rescaled temperature; the training residual is tau t_c (tau t_mu on data). For lazy
        networks the temperature T itself, so that tau = 0 is the baseline of non-lazy networks at any tau.
    warm_start : SingleNeuronPosterior or DataPosterior, optional
        Solution of a neighbouring problem with equally many classes (samples) and outputs; a hint, never a constraint.
    on_failure : {"raise", "warn", "return"}
        What to do with a result whose certificate is incomplete. "return" leaves it to the caller to read
        ``certificate`` and ``status``.
    max_boxes : int
        Budget of the global check (class tasks, P -> infinity).
    progress : bool, optional
        Whether to show progress of long solves; by default only on a terminal.

    Returns
    -------
    SingleNeuronPosterior
        For a class task.
    DataPosterior
        For a data task.

    Raises
    ------
    ValueError
        For bad input, and for networks this solver does not cover.
    ConvergenceError
        If stationarity residual (1e-10; closed forms on data 1e-8 of the largest target), duality gap (1e-8) or global
        check fail; carries the partial result.

    Examples
    --------
    >>> import meanfield as mf
    >>> post = mf.solve(mf.Network("sigmoid"), mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5))
    >>> [code.pattern for code in post.codes]
    ['011', '110', '101', '111']
    >>> round(post.objective, 8)
    -3.75433206
    """
    tau = real_number("tau", tau, at_least=0.0)
    _check(network, task, on_failure)
    failure: ConvergenceError | None = None
    posterior: SingleNeuronPosterior | DataPosterior
    if isinstance(task, DataTask):
        posterior = solve_data(network, task, tau, cast(DataPosterior | None, warm_start), progress)
    else:
        posterior, failure = _solve_classes(network, task, tau, warm_start, max_boxes)
    if posterior.status != "optimal" and on_failure != "return":
        text = f"no certified solution ({posterior.status}): {posterior.message.rstrip('.')}."
        if on_failure == "raise":
            raise ConvergenceError(text, posterior) from failure
        warnings.warn(text, CertificateWarning, stacklevel=2)
    return posterior


def _check(network: Network, task: ClassTask | DataTask, on_failure: str) -> None:
    if not isinstance(network, Network):
        raise ValueError(f"network must be a Network, got {type(network).__name__}; build one with Network('sigmoid').")
    if not isinstance(task, (ClassTask, DataTask)):
        found = type(task).__name__
        raise ValueError(f"task must be a ClassTask or DataTask, got {found}; build one with class_task or data_task.")
    if on_failure not in ("raise", "warn", "return"):
        raise ValueError(f"on_failure must be 'raise', 'warn' or 'return', got {on_failure!r}.")
    offset = float(network.activation(0.0))
    if network.scaling != "lazy" and network.activation.parts == "gaussian" and offset != 0.0:
        raise ValueError(
            f"{network.activation!r} is affine with an offset, phi(0) = {offset:g}; the closed form covers "
            "phi(z) = gain * z. Subtract the offset from the activation, or its contribution from the targets."
        )


def _solve_classes(
    network: Network, task: ClassTask, tau: float, warm_start: Any, max_boxes: int
) -> tuple[SingleNeuronPosterior, ConvergenceError | None]:
    if network.depth != 1:
        raise ValueError(f"networks of depth {network.depth} are not available yet; solve covers one hidden layer.")
    if network.scaling != "non-lazy":
        raise ValueError(
            "lazy networks are solved on data only: give a task of data_task(X, Y), or use scaling='non-lazy'."
        )
    if warm_start is not None and warm_start.task.targets.shape != task.targets.shape:
        raise ValueError(
            f"warm_start has targets of shape {warm_start.task.targets.shape}, the task of shape {task.targets.shape}; "
            "classes and outputs must agree."
        )
    failure = None
    if network.activation.parts == "gaussian":
        solution = _linear(network, task, tau)
    elif math.isinf(task.n_samples):
        warm = None if warm_start is None else warm_start.solution
        solution = solve_limit(network, task, tau, warm, max_boxes)
    else:
        solution, failure = _finite(network, task, tau, warm_start)
    return SingleNeuronPosterior(network, task, tau, solution), failure


def _linear(network: Network, task: ClassTask, tau: float) -> Solution:
    sigma_a = network.sigma_a
    slope = network.activation.slopes[1]
    found: LinearSolution = linear_solve(
        np.array(task.fractions), task.targets / sigma_a, tau / sigma_a**2, task.n_samples, network.k * slope**2
    )
    # The dual variable of phi = slope * z is that of z divided by the slope, absorbed in k: t is unchanged.
    residual = found.residual * max(1.0, sigma_a)
    certified = residual <= 1e-10 and found.duality_gap <= 1e-8 * max(1.0, abs(found.objective))
    m = task.targets.shape[1]
    return Solution(
        t=found.t / sigma_a,
        objective=found.objective,
        level=0.0,
        readout=np.empty((0, m)),
        weight=np.empty(0),
        outlier_direction=np.empty((0, m)),
        outlier_weight=np.empty(0),
        gaussian_covariance=found.readout_covariance * sigma_a**2,
        certificate=Certificate(residual, found.duality_gap, 0.0, certified, True),
        status="optimal" if certified else "residual too large",
        message="closed form; stationarity and duality gap are certified" if certified else "rounding errors",
        n_samples=task.n_samples,
        tau=tau,
    )


def _finite(
    network: Network, task: ClassTask, tau: float, warm_start: SingleNeuronPosterior | None
) -> tuple[Solution, ConvergenceError | None]:
    sigma_a = network.sigma_a
    single_site = cumulant(network.activation, network.k)
    start = None if warm_start is None else warm_start.solution.t * sigma_a
    failure = None
    try:
        found: FiniteSolution = finite_solve(
            single_site,
            np.array(task.fractions),
            task.targets / sigma_a,
            tau / sigma_a**2,
            task.n_samples,
            start,
        )
    except ConvergenceError as error:
        if not isinstance(error.result, FiniteSolution):
            raise
        found, failure = error.result, error
    certificate = Certificate(
        kkt_residual=found.residual * max(1.0, sigma_a),
        duality_gap=found.decrement,
        bound_gap=found.integration_error,
        global_check=failure is None,
        unique=True,
    )
    how = "lattice" if found.method == "lattice" else "Laplace's method"
    return (
        Solution(
            t=found.t / sigma_a,
            objective=found.objective,
            level=found.level,
            readout=found.mean * sigma_a,
            weight=found.weight,
            outlier_direction=found.outlier_direction,
            outlier_weight=found.outlier_weight * sigma_a**2,
            covariance=found.covariance * sigma_a**2,
            certificate=certificate,
            status="optimal" if failure is None else "residual too large",
            message=f"readout integrated by {how}, relative error {found.integration_error:.0e}; J is convex, so its "
            "stationary point is the minimum"
            if failure is None
            else str(failure),
            n_samples=task.n_samples,
            tau=tau,
        ),
        failure,
    )
