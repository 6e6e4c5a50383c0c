"""Which theory covers which problem: the one door that `solve`, `sweep`, files, estimators and the command line use.

Every theory says why it does not cover a problem (network, task, tau); a problem that none covers is refused with all
their reasons. A further theory is one more function in `THEORIES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from meanfield.activations.activation import Activation
from meanfield.problem.class_task import ClassTask
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.validation import real_number

__all__ = ["MAX_UNKNOWNS", "THEORIES", "Theory", "covering_theory", "deep_linear_refusal", "piecewise_refusal"]

MAX_UNKNOWNS = 6000  # P m of unbounded nonlinear networks on data


class Theory(NamedTuple):
    """A theory and the problems it covers.

    Attributes
    ----------
    name : str
        By which `solve` finds its solver.
    title : str
        For messages.
    task : type
        ClassTask or DataTask.
    refuses : callable
        Of (network, task, tau), task of the right type: None if the problem is covered, else the reason, in words.
    """

    name: str
    title: str
    task: type
    refuses: Callable[[Network, Any, float], str | None]


def covering_theory(network: Network, task: ClassTask | DataTask, tau: float) -> Theory:
    """The theory that covers a problem.

    Raises
    ------
    ValueError
        If the arguments are no problem, or no theory covers it: with the reason of each that is about such tasks.
    """
    if not isinstance(network, Network):
        raise ValueError(f"network must be a Network, got {type(network).__name__}; build one with Network('sigmoid').")
    if not isinstance(task, (ClassTask, DataTask)):
        found = type(task).__name__
        raise ValueError(f"task must be a ClassTask or DataTask, got {found}; build one with class_task or data_task.")
    tau = real_number("tau", tau, at_least=0.0)
    reasons: dict[str, list[str]] = {}
    for theory in THEORIES:
        if not isinstance(task, theory.task):
            continue
        reason = theory.refuses(network, task, tau)
        if reason is None:
            return theory
        reasons.setdefault(reason, []).append(theory.title)
    kind = "class task" if isinstance(task, ClassTask) else "data task"
    listed = "; ".join(f"{reason} ({', '.join(titles)})" for reason, titles in reasons.items())
    raise ValueError(f"no theory covers this network on a {kind} at tau = {tau:g}: {listed}.")


# ---- class tasks ---------------------------------------------------------------------------------------------------


def _class_network(network: Network) -> str | None:
    """What all theories of class tasks ask of a network."""
    if network.scaling != "non-lazy":
        return "lazy networks are solved on data only: give a task of data_task(X, Y), or use scaling='non-lazy'"
    if network.depth != 1:
        return f"networks of depth {network.depth} are not available for class tasks; use depth = 1"
    return None


def _classes_linear(network: Network, task: ClassTask, tau: float) -> str | None:
    return _class_network(network) or _not_linear(network.activation)


def _classes_limit(network: Network, task: ClassTask, tau: float) -> str | None:
    if reason := _class_network(network) or _affine(network.activation):
        return reason
    return None if math.isinf(task.n_samples) else f"n_samples = {task.n_samples:g} is finite"


def _classes_finite(network: Network, task: ClassTask, tau: float) -> str | None:
    if reason := _class_network(network) or _affine(network.activation):
        return reason
    return None if math.isfinite(task.n_samples) else "n_samples is infinite"


def _not_linear(phi: Activation) -> str | None:
    if phi.parts != "gaussian":
        return f"{phi!r} is not linear"
    offset = float(phi(0.0))
    if offset == 0.0:
        return None
    return (
        f"{phi!r} is affine with an offset, phi(0) = {offset:g}, and the closed form covers phi(z) = gain * z: "
        "subtract the offset from the activation, or its contribution from the targets"
    )


def _affine(phi: Activation) -> str | None:
    return f"{phi!r} is affine" if phi.parts == "gaussian" else None


# ---- data ----------------------------------------------------------------------------------------------------------


def _conflict(task: DataTask, tau: float) -> str | None:
    if tau > 0.0 or not task.conflicts.size:
        return None
    i, j = task.conflicts[0]
    return (
        f"samples {i} and {j} have the same inputs but different targets ({len(task.conflicts)} such pairs), so no "
        "network fits them at tau = 0: remove one of each pair, or give tau > 0"
    )


def _data_linear(network: Network, task: DataTask, tau: float) -> str | None:
    if network.scaling == "lazy":
        return "the network is lazy"
    if reason := _not_linear(network.activation):
        return reason
    return deep_linear_refusal(network.depth, tau) or _conflict(task, tau)


def deep_linear_refusal(depth: int, tau: float) -> str | None:
    """Why a linear network is not solved on data at this depth and temperature; None if it is."""
    if depth == 1 or tau == 0.0:
        return None
    return (
        f"linear networks of depth {depth} are solved in closed form at tau = 0 only, got tau = {tau:g}: set tau = 0, "
        "or depth = 1"
    )


def _data_lazy(network: Network, task: DataTask, tau: float) -> str | None:
    return _conflict(task, tau) if network.scaling == "lazy" else "the network is not lazy; scaling='lazy' would be"


def _data_general(network: Network, task: DataTask, tau: float) -> str | None:
    if network.scaling == "lazy":
        return "the network is lazy"
    if reason := _affine(network.activation):
        return reason
    if network.depth != 1:
        return (
            f"nonlinear networks of depth {network.depth} are not available for data tasks; use depth = 1, a linear "
            "activation, or scaling='lazy'"
        )
    if tau == 0.0:
        return _conflict(task, tau) or "nonlinear networks on data need tau = N T > 0; give for example tau = 0.01"
    if network.activation.parts == "outliers":
        return piecewise_refusal(network.activation, task.targets.size)
    return None


def piecewise_refusal(phi: Activation, unknowns: int) -> str | None:
    """Why an unbounded nonlinear phi is not solved on data with P m unknowns; None if it is."""
    pieces = phi.pieces
    if pieces is None or pieces.breaks != (0.0,) or any(pieces.intercepts):
        return (
            f"{phi!r} is not treated here: unbounded networks on data need phi(z) = s_- z for z < 0 and s_+ z for "
            "z > 0 (relu, leaky_relu), or scaling='lazy'; bounded activations are all available"
        )
    if unknowns > MAX_UNKNOWNS:
        return f"P m = {unknowns} unknowns are more than {MAX_UNKNOWNS}; use fewer samples or outputs"
    return None


THEORIES = (
    Theory("classes_linear", "linear networks", ClassTask, _classes_linear),
    Theory("classes_limit", "coding schemes at P = infinity", ClassTask, _classes_limit),
    Theory("classes_finite", "coding schemes at finite P", ClassTask, _classes_finite),
    Theory("data_linear", "linear networks on data", DataTask, _data_linear),
    Theory("data_lazy", "lazy networks on data", DataTask, _data_lazy),
    Theory("data_general", "one hidden layer on data", DataTask, _data_general),
)
