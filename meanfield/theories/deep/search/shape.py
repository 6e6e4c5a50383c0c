"""The form of what tells the classes apart in the first of two or more layers, where many samples leave it open.

A layer is planted with its kernel, and the conjugate follows from that (`with_kernel`); how classes share the kernel
follows from the fields that the codes of the layer above have (`response.py`).
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.theories.deep.system import DeepProblem, Order, System
from meanfield.validation import FloatArray

__all__ = ["LEARNED", "apart", "centring", "with_kernel"]

_CORRECTIONS, _NEAR_KERNEL = 6, 0.03
_AT_ONCE, _STABLE = (math.exp(-1.5), math.exp(1.5)), 1.0 - 1e-6  # factors of a kernel in one step; n k~ d at most
LEARNED = 0.73  # part of what a layer learns that it takes from d: <phi^2> hardly changes


def apart(problem: DeepProblem, one: FloatArray, other: FloatArray) -> FloatArray:
    """Projection (C, C) on what tells classes apart: off `one`, which costs nothing as the prior has it, along `other`.

    Under the prior of an odd phi classes have nothing in common.
    """
    whole = np.eye(len(one))
    return whole if problem.phi.parity == "odd" else whole - np.outer(one, other) / float(one @ other)


def centring(problem: DeepProblem) -> FloatArray:
    """`apart` (C, C) of fields, whose means over samples classes have in common."""
    return apart(problem, np.ones(len(problem.n)), problem.n)


def _span(problem: DeepProblem) -> FloatArray:
    """Orthonormal columns (C, k) that span what tells classes apart."""
    centred = centring(problem)
    return np.asarray(np.linalg.svd(centred)[0][:, : np.linalg.matrix_rank(centred)])


def _onto(problem: DeepProblem, span: FloatArray) -> FloatArray:
    """(C, k) whose transpose gives the coordinates along `span` of fields (C,)."""
    return np.asarray(centring(problem).T @ span)


def with_kernel(system: System, order: Order) -> None:
    """Moves the conjugate of the first layer until that has the kernel that it is meant to have, as far as classes
    differ.

    While the layer is linear, its fields b have the precision k~^-1 - n d and the kernel is d b b^T d: what is missing
    of the inverse of that is added to k~^-1. So near to the instability the form of k~ matters as much as its size.
    """
    problem, wanted = system.problem, order.kernel[0].copy()
    n = problem.n
    onto = _onto(problem, _span(problem))
    goal = onto.T @ wanted @ onto
    best, least = order.tilde[0].copy(), math.inf
    for _ in range(_CORRECTIONS):
        now = onto.T @ system.averages(order, 0)[0].kernel @ onto
        try:
            root = np.linalg.cholesky(now)
            values, vectors = np.linalg.eigh(np.linalg.solve(root, np.linalg.solve(root, goal).T))
            miss = float(np.abs(np.log(values)).max()) if values[0] > 0.0 else math.inf
            if miss < least:
                best, least = order.tilde[0].copy(), miss
            if miss < _NEAR_KERNEL:
                break
            back = np.linalg.solve(root.T, vectors)
            missing = (back * (1.0 / np.clip(values, *_AT_ONCE) - 1.0)) @ back.T
            slope = order.d[0][:, None] * onto
            moved = np.linalg.inv(np.linalg.inv(order.tilde[0]) + slope @ missing @ slope.T)
        except np.linalg.LinAlgError:
            break
        order.tilde[0] = _below(0.5 * (moved + moved.T), n * order.d[0])
    order.tilde[0] = best


def _below(tilde: FloatArray, stiffness: FloatArray) -> FloatArray:
    """A conjugate with n k~ d positive and below its instability at 1."""
    root = np.sqrt(stiffness)
    values, vectors = np.linalg.eigh(tilde * np.outer(root, root))
    return np.asarray((vectors * np.clip(values, 1e-6, _STABLE)) @ vectors.T / np.outer(root, root))
