"""A start from the limit of many samples at the readout exponent 1 / L (THEORY.md, "P -> infinity, beta = 1 / L").

Kernels of layer l are those of the prior and P^(l/L - 1) kappa_l, t is P^(1/L - 1) times that of the limit; what is
left out is of relative order P^(-1/L).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from meanfield.theories.deep.large_p.reduced import reduced_solve
from meanfield.theories.deep.layers.rules import NotCovered
from meanfield.theories.deep.prior import prior_kernels
from meanfield.theories.deep.search.shape import LEARNED, centring
from meanfield.theories.deep.search.start import LOOSE, MOST_LOOSE
from meanfield.theories.deep.system import DeepProblem, Order
from meanfield.validation import FloatArray

__all__ = ["first_conjugate", "has_limit", "limit_order"]

_STARTS = 3
_TRUE = 1e-6  # residual up to which the reduced problem is solved


def has_limit(problem: DeepProblem) -> bool:
    """Whether the reduced problem is that of this network."""
    return (
        problem.depth > 1
        and problem.exponent == 1.0 / problem.depth
        and problem.phi.parity is not None
        and len(set(problem.scales)) == 1
        and len(set(problem.ratios)) == 1
    )


def limit_order(problem: DeepProblem) -> Order:
    """Kernels, d and t of the limit at this number of samples; conjugates are left to a downward pass.

    Raises
    ------
    NotCovered
        If the reduced problem was not solved.
    """
    samples, depth, n_classes = problem.n_samples, problem.depth, len(problem.n)
    variance = problem.readout_variance * samples**problem.exponent
    found = reduced_solve(replace(problem, n=problem.n / samples, readout_variance=variance), _STARTS, few=False)
    if not (found.residual < _TRUE and found.weight.min() > -_TRUE):
        raise NotCovered("the reduced problem of many samples was not solved")
    common, own, _ = prior_kernels(problem)
    kernel, d = [], []
    for layer, kappa in enumerate(found.kappa):
        learned = samples ** ((layer + 1) / depth - 1.0) * kappa
        loose = min(MOST_LOOSE, LOOSE * float(np.trace(learned)) / n_classes)
        kernel.append(common[layer] + learned + loose * np.eye(n_classes))
        d.append(np.maximum(own[layer] - LEARNED * np.diag(learned), 0.4 * own[layer]))
    none = np.zeros((depth - 1, n_classes))
    t = samples ** (1.0 / depth - 1.0) * found.t
    return Order(np.array(kernel), np.array(d), np.zeros_like(np.array(kernel)), none, t)


def first_conjugate(problem: DeepProblem, order: Order) -> FloatArray:
    """k~ of the first layer with the kernel that it is meant to have, as a linear layer responds.

    Its class means of variance d / n become K' + d / n, K' what tells classes apart in the kernel, with
    n k~ n = (d / n)^-1 - (K' + d / n)^-1: in a direction in which that is X times d / n, n k~ d = X / (1 + X).
    """
    root = np.sqrt(order.d[0] / problem.n)
    centred = centring(problem)
    beyond = centred @ order.kernel[0] @ centred.T
    values, vectors = np.linalg.eigh(beyond / np.outer(root, root))
    response = np.maximum(values, 0.0) / (1.0 + np.maximum(values, 0.0))
    outer = np.outer(root * problem.n, root * problem.n)
    return np.asarray((vectors * response) @ vectors.T / outer)
