"""Classes of equal targets are one: from network and task to the problem in numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.theories.deep.system import DeepProblem
from meanfield.validation import IntArray, real_number

__all__ = ["code_shares", "problem_of"]


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


def code_shares(fractions: Mapping[str, float], n_classes: int) -> dict[str, float]:
    """Shares of codes, normalised patterns."""
    shares: dict[str, float] = {}
    for word, share in fractions.items():
        pattern = str(word).replace("-", "")
        if len(pattern) != n_classes or set(pattern) - {"0", "1"}:
            raise ValueError(f"a code pattern has one 0 or 1 for each of the {n_classes} classes, got {word!r}.")
        if pattern in shares:
            raise ValueError(f"code {pattern} is given twice in fractions.")
        shares[pattern] = real_number(f"the share of code {pattern}", share, above=0.0)
    total = sum(shares.values())
    if abs(total - 1.0) > 1e-8:
        raise ValueError(f"the shares of the codes must sum to 1, got {total:.10g}.")
    return {word: share / total for word, share in shares.items()}
