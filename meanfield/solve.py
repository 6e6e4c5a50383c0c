"""`solve`: from a network and a task to the certified single-neuron posterior."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack, overload

from numpy.linalg import LinAlgError

from meanfield.numerics.limits import long_work
from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.posterior import Posterior
from meanfield.posterior.registry import Options, Theory, covering_theory
from meanfield.posterior.status import Status
from meanfield.problem.class_task import ClassTask
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.problem.problem import Problem
from meanfield.validation import flag, real_number, short, whole_number

if TYPE_CHECKING:
    from meanfield.posterior.data_posterior import DataPosterior
    from meanfield.posterior.posterior import SolvedPosterior

__all__ = ["MAX_BOXES", "CertificateWarning", "solve"]

MAX_BOXES = 1_000_000  # of branch and bound, before a solution counts as unproven


class CertificateWarning(UserWarning):
    """A result is returned although its certificate is incomplete."""


class SolveOptions(TypedDict, total=False):
    """Keywords of `solve`."""

    warm_start: Posterior | None
    on_failure: Literal["raise", "warn", "return"]
    max_boxes: int
    rtol: float | None
    max_seconds: float | None
    refine: bool | None
    width: float | None
    fractions: Mapping[str, float] | None
    progress: bool | None


@overload
def solve(network: Network, task: ClassTask, tau: float = ..., **options: Unpack[SolveOptions]) -> SolvedPosterior: ...
@overload
def solve(network: Network, task: DataTask, tau: float = ..., **options: Unpack[SolveOptions]) -> DataPosterior: ...
@overload
def solve(
    network: Network, task: ClassTask | DataTask, tau: float = ..., **options: Unpack[SolveOptions]
) -> Posterior: ...
def solve(
    network: Network,
    task: ClassTask | DataTask,
    tau: float = 0.0,
    *,
    warm_start: Posterior | None = None,
    on_failure: Literal["raise", "warn", "return"] = "raise",
    max_boxes: int = MAX_BOXES,
    rtol: float | None = None,
    max_seconds: float | None = None,
    refine: bool | None = None,
    width: float | None = None,
    fractions: Mapping[str, float] | None = None,
    progress: bool | None = None,
) -> Posterior:
    """Posterior of a wide network on a class task, or on data.

    On a class task: minimises the convex dual (A. van Meegen and H. Sompolinsky, Nature Communications 16:3354, 2025)

        J(t) = -sum_c p_c t_c.y_c + tau/2 sum_c p_c |t_c|^2 + (1/P) ln int da (P/2 pi sigma_a^2)^{m/2} exp(P h(a; t)),
        h(a; t) = -|a|^2 / 2 sigma_a^2 + sum_c p_c G(a.t_c),

    over the order parameters t (C, m); at ``task.n_samples = inf`` the last term is max_a h(a; t).

    On a data task: closed forms of linear networks (`meanfield.theories.linear.data_tasks`; any depth at tau = 0) and
    Gaussian process regression with lazy ones (`meanfield.theories.lazy.gaussian_process`; any depth and activation),
    expectation propagation inside the convex dual for all other networks of one hidden layer
    (`meanfield.theories.general_data`; tau > 0).

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
    warm_start : Posterior, optional
        Solution of a neighbouring problem with equally many classes (samples) and outputs; a hint, never a constraint.
    on_failure : {"raise", "warn", "return"}
        What to do with a result whose certificate is incomplete. "return" leaves it to the caller to read
        ``certificate`` and ``status``.
    max_boxes : int
        Budget of the global check (class tasks, P -> infinity).
    rtol : float, optional
        Deep networks: wanted accuracy of the order parameters, 1e-6 by default; class tasks with one hidden layer at
        finite P: residual that is aimed at, 1e-10 by default (1e-6 is demanded). What is reached is in the certificate.
    max_seconds : float, optional
        Time after which the solver gives up, no limit by default; it is looked at a few times a second. Class tasks at
        P -> infinity then have the status "stopped", nonlinear networks on data "out of time" with what was reached;
        others raise ConvergenceError.
    refine : bool, optional
        Whether to correct expectation propagation on samples of the exact single-neuron posterior (nonlinear networks
        on data); by default where its measured error is too large.
    width : float, optional
        Deep networks of rectifiers (ReLU, softplus): number N of neurons per layer of the finite-N saddle, 100 to 1e5;
        by default N = infinity. ConvergenceError where its branch has ended. Refused by all other theories, which are
        those of infinite width.
    fractions : mapping of code pattern to number, optional
        Class tasks at finite P, bounded phi: shares of the neurons in each code, normalised, as sampled networks freeze
        them; those of equilibrium by default. The same as `Posterior.frozen` of the solution at equilibrium, but in
        deep networks without solving that first, which is harder.
    progress : bool, optional
        Whether to show progress of long solves; by default only on a terminal.

    Returns
    -------
    SingleNeuronPosterior, DeepPosterior or ReluPosterior
        For a class task.
    DataPosterior
        For a data task.

    Raises
    ------
    ValueError
        For bad input, and for networks this solver does not cover.
    ConvergenceError
        If stationarity residual (1e-10; at finite P 1e-6, with the error of the readout integral and 1e-10 as the aim;
        closed forms on data 1e-8 of the largest target), duality gap (1e-8) or global check fail; carries the
        partial result.

    Examples
    --------
    >>> import meanfield as mf
    >>> post = mf.solve(mf.Network("sigmoid"), mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5))
    >>> [code.pattern for code in post.codes]
    ['011', '110', '101', '111']
    >>> round(post.objective, 8)
    -3.75433206
    """
    theory = covering_theory(network, task, tau)
    problem = Problem(network, task, float(tau))
    _check_options(task, warm_start, on_failure, max_boxes)
    progress = flag("progress", progress, none=True)
    options = _numbers(max_boxes, rtol, max_seconds, refine, width)
    shares = _takes_fractions(theory, width, fractions)
    if shares:
        options["fractions"] = dict(fractions or {})
    try:
        with long_work(options["max_seconds"], progress):
            posterior = theory.solve(problem, warm_start=warm_start, progress=progress, options=options)
            assert isinstance(posterior, Posterior)
            if fractions is not None and not shares:
                posterior = posterior.frozen(fractions)
    except TimeoutError as error:
        raise ConvergenceError(f"no solution yet: {error}; give more time.") from error
    except (ArithmeticError, IndexError, LinAlgError) as error:
        raise ConvergenceError(
            f"no certified solution: the numbers of this problem are beyond what float64 resolves ({error}); bring "
            "targets, inputs, sigma_a and sigma_w closer to 1."
        ) from error
    if posterior.status != Status.OPTIMAL and on_failure != "return":
        text = f"no certified solution ({posterior.status}): {posterior.message.rstrip('.')}."
        if on_failure == "raise":
            raise ConvergenceError(text, posterior)
        warnings.warn(text, CertificateWarning, stacklevel=2)
    return posterior


def _takes_fractions(theory: Theory, width: object, fractions: object) -> bool:
    """Whether the theory itself solves at these fractions; refuses options that only others know."""
    takes = getattr(theory, "takes", ())
    if width is not None and "width" not in takes:
        raise ValueError("width= is for deep networks of rectifiers; other theories are those of infinite width.")
    if fractions is not None and not isinstance(fractions, Mapping):
        raise ValueError(f"fractions must be a mapping from code patterns to numbers, got {short(fractions)}.")
    return fractions is not None and "fractions" in takes


def _numbers(max_boxes: int, rtol: object, max_seconds: object, refine: object, width: object) -> Options:
    """The options of theories, checked."""
    accuracy = None if rtol is None else real_number("rtol", rtol, above=0.0)
    if accuracy is not None and accuracy >= 1.0:
        raise ValueError(f"rtol must be a real number below 1, got {accuracy:g}.")
    size = None if width is None else real_number("width", width, at_least=100.0)
    if size is not None and size > 1e5:
        raise ValueError(f"width must be at most 1e5, got {size:g}; leave it out for N = infinity.")
    return Options(
        max_boxes=int(max_boxes),
        rtol=accuracy,
        max_seconds=None if max_seconds is None else real_number("max_seconds", max_seconds, above=0.0),
        refine=flag("refine", refine, none=True),
        width=size,
    )


def _check_options(task: ClassTask | DataTask, warm_start: object, on_failure: str, max_boxes: object) -> None:
    if not isinstance(on_failure, str) or on_failure not in ("raise", "warn", "return"):
        raise ValueError(f"on_failure must be 'raise', 'warn' or 'return', got {short(on_failure)}.")
    whole_number("max_boxes", max_boxes, at_least=1)
    if warm_start is None:
        return
    kind = "class" if isinstance(task, ClassTask) else "data"
    if not isinstance(warm_start, Posterior) or type(warm_start.task) is not type(task):
        raise ValueError(
            f"warm_start must be what solve returned for a similar {kind} task, got {type(warm_start).__name__}."
        )
    found = warm_start.task.targets.shape
    if found != task.targets.shape:
        raise ValueError(
            f"warm_start has targets of shape {found}, the task of shape {task.targets.shape}; classes (samples) and "
            "outputs must agree."
        )
