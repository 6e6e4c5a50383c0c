"""From network and task to the problem in numbers."""

from __future__ import annotations

import numpy as np

from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.theories.deep.reduction import problem_of
from meanfield.theories.deep.relu.nonlinearity import nonlinearity_of
from meanfield.theories.deep.relu.system import ReluProblem
from meanfield.validation import FloatArray, IntArray

__all__ = ["relu_problem"]


def relu_problem(network: Network, task: ClassTask, tau: float) -> tuple[ReluProblem, IntArray, FloatArray]:
    """The problem in numbers; which of its classes each class is; (m, q) orthonormal basis of the targets' span."""
    found, members = problem_of(network, task, tau)
    left, size, right = np.linalg.svd(found.y, full_matrices=False)
    span = right[size > 1e-12 * size[0]].T
    # Without loss of generality: the targets in this basis are their symmetric root, in which classes are exchanged as
    # the outputs are (`average`); where they span less, its signs make its largest entries positive.
    if span.shape[1] == len(found.y):
        span = span @ left.T
    else:
        span = span * np.sign(span[np.abs(span).argmax(axis=0), np.arange(span.shape[1])])
    y = found.y @ span
    phi = nonlinearity_of(network.activation)
    if phi is None:
        raise ValueError(f"{network.activation.name} is not covered.")
    problem = ReluProblem(
        found.depth, found.n, y, tau, found.readout_variance, found.k, found.scales, exponent=network.beta, phi=phi,
        ratios=found.ratios,
    )  # fmt: skip
    return problem, members.index, span
