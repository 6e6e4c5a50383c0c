"""The form of what tells the classes apart in the first of two or more layers, where many samples leave it open.

A layer is planted with the size of its kernel; how classes share it follows from the fields that the codes of the layer
above have (`shaped`), and the conjugate from the kernel (`with_kernel`).
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace

import numpy as np

from meanfield.theories.deep.readout import readout_minimum
from meanfield.theories.deep.rules import NotCovered
from meanfield.theories.deep.system import DeepProblem, Order, System
from meanfield.validation import FloatArray

__all__ = ["LEARNED", "apart", "centring", "shaped", "with_kernel"]

_CORRECTIONS, _NEAR_KERNEL = 6, 0.03
_AT_ONCE, _STABLE = (math.exp(-1.5), math.exp(1.5)), 1.0 - 1e-6  # factors of a kernel in one step; n k~ d at most
_SHAPES, _ALIKE = 4, 0.1  # how often the form is corrected, and up to which change of it
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


def shaped(system: System, x: FloatArray) -> FloatArray:
    """Coordinates x of two layers with the kernel that its own codes ask for, and t and conjugates that go with it.

    Codes have fields h that hardly depend on the kernel K of the first layer: the conjugate asked for is that of forces
    K^-1 h. K is moved until it is the one that goes with K. Where nothing tells classes apart, or integrals cannot be
    done any more, it stays as it is.
    """
    change = math.inf
    for _ in range(_SHAPES):
        if change < _ALIKE:
            break
        try:
            x, change = _reshaped(system, x)
        except (NotCovered, np.linalg.LinAlgError):
            return x
    with contextlib.suppress(NotCovered, np.linalg.LinAlgError):
        x = system.pack(readout_minimum(system, system.unpack(x))[0])
    return x


def _reshaped(system: System, x: FloatArray) -> tuple[FloatArray, float]:
    """One such move, and the largest change of ln of the kernel that was wanted."""
    problem, order = system.problem, system.unpack(x)
    span = _span(problem)
    onto, weights = _onto(problem, span), problem.n[:, None] * span
    order, top = readout_minimum(system, order)
    asked = weights.T @ (problem.push[0] * top[0].tilde) @ weights
    own, kernel = weights.T @ order.tilde[0] @ weights, onto.T @ order.kernel[0] @ onto
    low = np.linalg.cholesky(kernel)
    root, back = _roots(own)
    wanted = back @ _roots(root @ kernel @ asked @ kernel @ root)[0] @ back
    values, vectors = np.linalg.eigh(np.linalg.solve(low, np.linalg.solve(low, wanted).T))
    rise = float(np.abs(np.log(np.maximum(values, 1e-300))).max())
    moved = low @ vectors
    change = span @ ((moved * np.clip(values, *_AT_ONCE)) @ moved.T - kernel) @ span.T
    d = np.maximum(order.d[0] - LEARNED * np.diag(change), 0.5 * order.d[0])
    delta = problem.push[0] * top[0].delta
    order = replace(order, kernel=(order.kernel[0] + change)[None], d=d[None], delta=delta[None])
    with_kernel(system, order)
    return system.pack(order), rise


def _roots(matrix: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Root of a positive matrix, and its inverse."""
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    size = np.sqrt(np.maximum(values, 1e-12 * max(values[-1], 1e-300)))
    return (vectors * size) @ vectors.T, (vectors / size) @ vectors.T


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
