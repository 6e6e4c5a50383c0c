"""`equations`: what is solved for a network and a task, in symbols."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meanfield.activations.activation import Activation, activation
from meanfield.posterior.registry import Derives, theories
from meanfield.problem.class_task import ClassTask
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.validation import instance

if TYPE_CHECKING:
    import sympy as sp

    from meanfield.symbolic.deep import DeepEquations
    from meanfield.symbolic.equations import Equations
    from meanfield.symbolic.theories import DataEquations

__all__ = ["equations"]


def equations(
    network: Network | Activation | sp.Expr | str, task: ClassTask | DataTask | None = None
) -> Equations | DataEquations | DeepEquations:
    """What `meanfield.solve` solves for a network and a task, derived by SymPy: that of the theory it belongs to.

    Parameters
    ----------
    network : Network, Activation, SymPy expression or name of a built-in activation
        On class tasks only the nonlinearity, the depth and whether layers have widths or scales of their own matter.
    task : ClassTask or DataTask, optional
        A finite number of samples asks for the finite-P equations; the limit P -> infinity is the default. With a data
        task: the equations of linear (any depth), lazy (any depth) and other networks (one hidden layer) on any inputs.

    Returns
    -------
    Equations, DeepEquations for a deep network, or DataEquations for a data task
        To be printed; ``latex()`` gives LaTeX. What is not derived for deep networks of rectifiers is said in
        `meanfield.symbolic.rectifiers`.

    Raises
    ------
    ValueError
        For what is no nonlinearity, and for networks whose equations no theory has in symbols.
    """
    if task is not None:
        instance("task", task, (ClassTask, DataTask), "built with class_task or data_task")
    asked = network if isinstance(network, Network) else Network(activation(network))
    for theory in theories():
        if isinstance(theory, Derives) and (found := theory.equations(asked, task)) is not None:
            return found
    own = "" if asked.uniform else ", layers of different width or scale"
    kind = "data" if isinstance(task, DataTask) else "classes"
    raise ValueError(
        f"no theory derives equations for depth {asked.depth} on {kind}, {asked.scaling} scaling, "
        f"{asked.activation.name}{own}. Networks with one hidden layer have them, linear and deep ones on classes too; "
        "the THEORY.md of a theory says what else it solves."
    )
