"""Classes of equal targets are one: from network and task to the problem in numbers."""

from __future__ import annotations

import numpy as np

from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.theories.deep.system import DeepProblem
from meanfield.validation import IntArray

__all__ = ["problem_of"]


def problem_of(network: Network, task: ClassTask, tau: float, merge: bool = True) -> tuple[DeepProblem, IntArray]:
    """The problem in numbers, classes of equal targets taken together, and which of its classes each class is."""
    targets = np.array(task.targets)
    index = np.arange(task.n_classes)
    n = np.array(task.fractions) * task.n_samples
    if merge:
        _, first, inverse = np.unique(targets, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        index = rank[inverse.ravel()]
        targets = targets[np.sort(first)]
        n = np.asarray(np.bincount(index, weights=n), dtype=float)
    s = network.readout_variance(task.n_samples)
    scales = tuple(sigma**2 for sigma in network.scales[1:])
    phi, depth = network.activation, network.depth
    return DeepProblem(phi, depth, n, targets, tau, s, network.k, scales, network.beta, network.ratios), index
