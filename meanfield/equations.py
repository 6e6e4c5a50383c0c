"""`equations`: what is solved for a network and a task, in symbols."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from meanfield.activations.activation import Activation, activation
from meanfield.problem.class_task import ClassTask
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.symbolic import equations as derived
from meanfield.symbolic.deep import DeepEquations
from meanfield.symbolic.equations import Equations
from meanfield.symbolic.theories import DataEquations
from meanfield.validation import instance

if TYPE_CHECKING:
    import sympy as sp

__all__ = ["equations"]


def equations(
    network: Network | Activation | sp.Expr | str, task: ClassTask | DataTask | None = None
) -> Equations | DataEquations | DeepEquations:
    """What `meanfield.solve` solves for a network and a task, derived by SymPy.

    Parameters
    ----------
    network : Network, Activation, SymPy expression or name of a built-in activation
        On class tasks only the nonlinearity and the depth matter.
    task : ClassTask or DataTask, optional
        A finite number of samples asks for the finite-P equations; the limit P -> infinity is the default. With a data
        task: the equations of linear (any depth), lazy (any depth) and other networks (one hidden layer) on any inputs.

    Returns
    -------
    Equations, DeepEquations for a deep network, or DataEquations for a data task
        To be printed; ``latex()`` gives LaTeX.

    Raises
    ------
    ValueError
        For what is no nonlinearity, and for networks whose equations are not available in symbols.
    """
    if task is not None:
        instance("task", task, (ClassTask, DataTask), "built with class_task or data_task")
    return derived(cast("Network", network) if hasattr(network, "activation") else activation(network), task)
