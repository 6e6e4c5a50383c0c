"""Which unbounded activations, and which problems, the theory of deep rectifier networks covers."""

from __future__ import annotations

import math

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.posterior.registry import Elsewhere
from meanfield.problem.class_task import ClassTask
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.theories.deep.reduction import problem_of
from meanfield.theories.deep.relu.nonlinearity import nonlinearity_of
from meanfield.theories.deep.symmetry import exchanged
from meanfield.theories.deep.system import DeepProblem

__all__ = ["covers", "refuses"]

_SAME = 1e-12  # relative difference of sizes and Gram matrices that are equal
_MOST_DIMENSIONS = 6  # of a lattice, where there are more than three classes


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
    problem, _ = problem_of(network, task, tau)
    n_classes = len(problem.n)
    outputs, shared = int(np.linalg.matrix_rank(problem.y, tol=1e-12 * np.abs(problem.y).max())), _shared(problem)
    fields = outputs if network.depth == 2 else max(outputs, n_classes)
    needed = max(n_classes, fields + shared)
    if n_classes > 3 and needed > _MOST_DIMENSIONS:
        return (
            f"deep networks of rectifiers are integrated on lattices of up to {_MOST_DIMENSIONS} dimensions, and these "
            f"{n_classes} classes of different targets need {needed} ({fields} conjugate fields, {shared} that classes "
            "share): up to 4 classes of any targets and sizes, 5 on two layers with up to three outputs, and 5 "
            "exchangeable ones are covered"
        )
    return None


def _shared(problem: DeepProblem) -> int:
    """Fields that the classes of a layer share (`setting.several_factors`); those that may be exchanged are a block."""
    gram, n = problem.y @ problem.y.T, problem.n
    near = _SAME * np.abs(gram).max()
    blocks = exchanged(
        len(n),
        lambda swap: bool(
            np.abs(gram[np.ix_(swap, swap)] - gram).max() <= near and (np.abs(n[swap] - n) <= _SAME * n).all()
        ),
    )
    single = any(len(block) == 1 for block in blocks)
    return {1: 1, 2: 1 if single else 2, 3: 2, 4: 2, 5: 3}.get(len(blocks), len(blocks) - 1)
