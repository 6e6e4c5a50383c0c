"""The form of what tells the classes apart in the first of two or more layers, where many samples leave it open.

A layer is planted with the size of its kernel; how classes share it follows from the fields that the codes of the layer
above have (`shaped`), and the conjugate from the kernel (`with_kernel`).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from meanfield.theories.deep.readout import readout_minimum
from meanfield.theories.deep.system import DeepProblem, Order, System
from meanfield.validation import FloatArray

__all__ = ["apart", "shaped", "with_kernel"]

_CORRECTIONS, _NEAR_KERNEL = 6, 0.03
_AT_ONCE, _STABLE = (math.exp(-1.5), math.exp(1.5)), 1.0 - 1e-6  # factors of a kernel in one step; n k~ d at most
_SHAPES, _ALIKE = 4, 0.1  # how often the form is corrected, and up to which change of it
_LEARNED = 0.73  # part of a kernel that d is smaller by


def apart(problem: DeepProblem, one: FloatArray, other: FloatArray) -> FloatArray:
    """Projection (C, C) on what tells classes apart: off `one`, which costs nothing as the prior has it, along `other`.

    Under the prior of an odd phi classes have nothing in common.
    """
    whole = np.eye(len(one))
    return whole if problem.phi.parity == "odd" else whole - np.outer(one, other) / float(one @ other)


def _span(problem: DeepProblem) -> FloatArray:
    """Orthonormal columns (C, k) that span what tells classes apart."""
    centred = apart(problem, np.ones(len(problem.n)), problem.n)
    return np.asarray(np.linalg.svd(centred)[0][:, : np.linalg.matrix_rank(centred)])


def _onto(problem: DeepProblem, span: FloatArray) -> FloatArray:
    """(C, k) whose transpose gives the coordinates along `span` of fields (C,)."""
    return np.asarray(apart(problem, np.ones(len(problem.n)), problem.n).T @ span)


def shaped(system: System, x: FloatArray) -> FloatArray:
    """Coordinates x of two layers with the kernel that its own codes ask for, and t and conjugates that go with it.

    Codes have fields h that hardly depend on the kernel K of the first layer: the conjugate asked for is that of forces
    K^-1 h. K is moved until it is the one that goes with K.
    """
    problem, order = system.problem, system.unpack(x)
    span = _span(problem)
    onto, weights = _onto(problem, span), problem.n[:, None] * span
    for _ in range(_SHAPES):
        order, top = readout_minimum(system, order)
        asked = weights.T @ (problem.push[0] * top[0].tilde) @ weights
        own, kernel = weights.T @ order.tilde[0] @ weights, onto.T @ order.kernel[0] @ onto
        root, back = _roots(own)
        wanted = back @ _roots(root @ kernel @ asked @ kernel @ root)[0] @ back
        low, rise = np.linalg.cholesky(kernel), 0.0
        values, vectors = np.linalg.eigh(np.linalg.solve(low, np.linalg.solve(low, wanted).T))
        rise = float(np.abs(np.log(np.maximum(values, 1e-300))).max())
        moved = low @ vectors
        change = span @ ((moved * np.clip(values, *_AT_ONCE)) @ moved.T - kernel) @ span.T
        d = np.maximum(order.d[0] - _LEARNED * np.diag(change), 0.5 * order.d[0])
        order = replace(order, kernel=(order.kernel[0] + change)[None], d=d[None])
        order.delta[0] = problem.push[0] * top[0].delta
        with_kernel(system, order)
        if rise < _ALIKE:
            break
    return system.pack(readout_minimum(system, order)[0])


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
