"""Which unbounded activations, and which problems, the theory of deep rectifier networks covers."""

from __future__ import annotations

import math

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.posterior.registry import Elsewhere
from meanfield.problem.class_task import ClassTask
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.theories.deep.relu.nonlinearity import nonlinearity_of

__all__ = ["covers", "refuses"]

_MOST_CLASSES = 5


def covers(phi: Activation) -> bool:
    """Whether phi is unbounded and of a kind that this theory has."""
    return phi.parts == "outliers" and nonlinearity_of(phi) is not None


def refuses(network: Network, task: ClassTask | DataTask, tau: float) -> str | None:
    """Why this theory does not cover a problem of rectifiers in two and more layers, in words; None if it does."""
    if not isinstance(task, ClassTask):
        return Elsewhere("deep networks of rectifiers are solved on class tasks only")
    if network.scaling != "non-lazy":
        return Elsewhere("the network is lazy")
    if math.isinf(task.n_samples):
        return "deep networks of rectifiers are solved at a finite n_samples"
    targets = np.unique(task.targets, axis=0)
    if len(targets) > _MOST_CLASSES:
        return (
            f"deep networks of rectifiers are solved for up to {_MOST_CLASSES} classes of different targets, got "
            f"{len(targets)}"
        )
    return None
