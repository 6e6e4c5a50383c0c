"""A start in which every layer below the top has the kernel that it is meant to have (THEORY.md, "Solving").

In fields v = sqrt(n) h the noise of class means is the same for all classes, and a layer that is nearly linear acts in
every direction that tells classes apart by itself: with x_l the kernel in units of 1 / P, s_l = gain^2 x_{l-1} + d_l
its variance under the prior and c_l = x_l + d_l, conjugates of size 1/s_l - 1/c_l go with it, and those of the layer
below are gain^2 (c_l - s_l) / s_l^2. So x_1 determines all others, and what the top has to ask for: the fields of its
codes, of size S = x^2 (1/s - 1/c), determine x_{L-1} in turn.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from meanfield.theories.deep.layers.rules import Averages, NotCovered
from meanfield.theories.deep.newton import raised
from meanfield.theories.deep.prior import prior_kernels
from meanfield.theories.deep.readout import readout_minimum
from meanfield.theories.deep.search.shape import LEARNED
from meanfield.theories.deep.search.start import planted
from meanfield.theories.deep.system import DeepProblem, Order, System
from meanfield.validation import FloatArray

__all__ = ["responding"]

_SHAPES, _ALIKE, _RANK = 5, 0.1, 1e-8  # corrections of the form, down to which change, and least part of the largest
_AT_ONCE = (
    -6.0,
    1.5,
)  # of ln of a kernel: directions that codes hardly use are orders of magnitude smaller than planted
_RESPONSES = np.geomspace(1e-4, 1e8, 3000)  # x_1 in units of d_1
_MOST, _EXACT, _FAILED = 14, 0.03, 1.0  # steps to a conjugate; decrements at which it is found, and lost
_QUIET = 3.0  # nats by which delta may prefer neurons whose activations do not vary, at first
_ARMIJO, _SHORTER, _SHORTEST = 1e-3, 0.4, 1e-3


class _Frame:
    """Directions of fields v = sqrt(n) h: those that tell classes apart, and what they have in common (none of odd
    phi, whose prior tells all apart)."""

    def __init__(self, problem: DeepProblem) -> None:
        self.root = np.sqrt(problem.n)
        self.outer = np.outer(self.root, self.root)
        common = self.root / np.sqrt(problem.n_samples)
        every = np.linalg.svd(common[:, None])[0]  # the first along `common`
        if problem.phi.parity == "odd":
            self.apart, self.common = np.eye(len(common)), np.empty((len(common), 0))
        else:
            self.apart, self.common = every[:, 1:], common[:, None]

    def kernel(self, matrix: FloatArray) -> FloatArray:
        """Of kernels (C, C), or conjugates times n n', what tells classes apart (k, k)."""
        return np.asarray(self.apart.T @ (matrix * self.outer) @ self.apart)

    def diagonal(self, vector: FloatArray) -> FloatArray:
        """The same of diag(vector / n)."""
        return np.asarray((self.apart.T * vector) @ self.apart)

    def back(self, matrix: FloatArray) -> FloatArray:
        """The (C, C) of a (k, k)."""
        return np.asarray(self.apart @ matrix @ self.apart.T / self.outer)


def responding(system: System) -> Order:
    """Order parameters from planted codes with kernels that these ask for, and conjugates that go with the kernels.

    Raises
    ------
    NotCovered
        If there are no such conjugates, or the integrals cannot be done.
    """
    problem, frame = system.problem, _Frame(system.problem)
    order = _shaped(system, frame, planted(problem))
    order, top = readout_minimum(system, order)
    found = top[0]
    _, own, gains = prior_kernels(problem)
    tilde, delta = order.tilde.copy(), order.delta.copy()
    for layer in range(problem.depth - 2, -1, -1):
        tilde[layer] = problem.push[layer] * found.tilde
        delta[layer] = np.maximum(problem.push[layer] * found.delta, -2.0 * _QUIET / (problem.n_samples * own[layer]))
        before = noise = own[layer] * np.eye(frame.apart.shape[1])  # of the prior: on the stable side
        if layer > 0:
            gain = problem.scales[layer - 1] * gains[layer] ** 2
            before = gain * frame.kernel(order.kernel[layer - 1]) + noise
        tilde[layer] = _conjugate(frame, problem, before, frame.kernel(order.kernel[layer]) + noise, delta[layer])
        order = replace(order, tilde=tilde, delta=delta)
        if layer > 0:
            found = system.averages(order, layer)[0]
    for layer in range(problem.depth - 1):
        order = _with_kernel(system, frame, order, layer)
    return order


def _shaped(system: System, frame: _Frame, order: Order) -> Order:
    """The kernels that the fields of the codes of the top ask for, found with t at its minimum for them."""
    problem = system.problem
    own = prior_kernels(problem)[1]
    span = problem.phi.supremum - problem.phi.infimum
    for _ in range(_SHAPES):
        order, top = readout_minimum(system, order)
        kernel = frame.kernel(order.kernel[-1])
        fields = kernel @ frame.kernel(problem.push[-1] * top[0].tilde) @ kernel
        x, asked = _chain(problem, order)
        wanted = _by_values(fields, x[-1] ** 2 * asked, x[-1])
        if problem.depth > 2:  # as planted: phi saturates
            wanted /= 1.0 + 3.0 * float(np.diag(frame.back(wanted)).max()) / span**2
        low = np.linalg.cholesky(kernel)
        values, vectors = np.linalg.eigh(np.linalg.solve(low, np.linalg.solve(low, wanted).T))
        rise = np.log(np.maximum(values, 1e-300))
        moved = low @ vectors
        new = (moved * np.exp(np.clip(rise, *_AT_ONCE))) @ moved.T
        sizes, axes = np.linalg.eigh(new)
        new = (axes * np.maximum(sizes, _RANK * sizes[-1])) @ axes.T
        kernels, d = order.kernel.copy(), order.d.copy()
        for layer in range(problem.depth - 1):
            change = frame.back(_by_values(new, x[-1], x[layer]) - frame.kernel(kernels[layer]))
            kernels[layer] += change
            d[layer] = np.clip(d[layer] - LEARNED * np.diag(change), 0.4 * own[layer], own[layer])
        order = replace(order, kernel=kernels, d=d)
        heavy = np.linalg.norm(moved, axis=0) ** 2 > 1e-3 * sizes[-1]
        if np.abs(rise[heavy]).max() < _ALIKE:
            break
    return order


def _chain(problem: DeepProblem, order: Order) -> tuple[FloatArray, FloatArray]:
    """x (L - 1, k) of the layers below the top, by that of the first, and the conjugates (k,) of the last of them."""
    gains = prior_kernels(problem)[2]
    d = order.d @ problem.n / problem.n_samples
    x = [_RESPONSES * d[0]]
    asked = x[0] / (d[0] * (x[0] + d[0]))
    for layer in range(1, problem.depth - 1):
        gain = problem.scales[layer - 1] * gains[layer] ** 2
        before = gain * x[-1] + d[layer]
        x.append(gain * x[-1] + asked * before**2 / gain)
        asked = 1.0 / before - 1.0 / (x[-1] + d[layer])
    return np.array(x), asked


def _by_values(matrix: FloatArray, grid: FloatArray, result: FloatArray) -> FloatArray:
    """The function of a positive matrix that takes the values `grid` to `result`."""
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    values = np.maximum(values, 1e-12 * max(float(values[-1]), 1e-300))
    mapped = np.exp(np.interp(np.log(values), np.log(grid), np.log(result)))
    return np.asarray((vectors * mapped) @ vectors.T)


def _conjugate(
    frame: _Frame, problem: DeepProblem, before: FloatArray, after: FloatArray, delta: FloatArray
) -> FloatArray:
    """That of a linear layer whose class means have these covariances (k, k) before and after, beside delta (C,).

    Neurons that do the same on all classes are pushed nowhere, k~ n + delta = 0: many samples push hard.
    """
    found = np.linalg.inv(before) - np.linalg.inv(after) - frame.diagonal(delta)
    values, vectors = np.linalg.eigh(found)
    found = frame.apart @ ((vectors * np.maximum(values, 1e-6 * values[-1])) @ vectors.T) @ frame.apart.T
    if frame.common.shape[1]:
        along = frame.common[:, 0]
        push = -frame.root * delta / np.sqrt(problem.n_samples)
        own = float(along @ push)
        cross = push - own * along
        least = 2.0 * float(cross @ np.linalg.pinv(found) @ cross)  # the conjugate stays positive
        found = found + np.outer(cross, along) + np.outer(along, cross) + max(own, least, 1e-6) * np.outer(along, along)
    return np.asarray(found / frame.outer)


def _with_kernel(system: System, frame: _Frame, order: Order, layer: int) -> Order:
    """The order parameters with the conjugate of a layer at the minimum of ln Z - tr K~ K / 2 for its kernel, as far as
    that tells classes apart or they differ from what they have in common; and with the kernel that it has there.

    A convex problem, by damped Newton: close to its instability a layer answers to k~ far from linearly.

    Raises
    ------
    NotCovered
        If the minimum was not found.
    """
    problem, goal, noise = system.problem, order.kernel[layer], order.d[layer]
    pairs = np.outer(problem.n, problem.n)
    every = np.hstack([frame.apart, frame.common])
    k = frame.apart.shape[1]
    moves = []
    for i in range(k):
        for j in range(i, every.shape[1]):
            one = np.outer(every[:, i], every[:, j]) / frame.outer
            moves.append(0.5 * (one + one.T))
    basis = np.array([system.matrix_coordinates(move) for move in moves])
    _, placed = system.placement(layer)
    size = basis.shape[1]

    def at(tilde: FloatArray) -> tuple[Averages, float, FloatArray, FloatArray]:
        """Averages, value, slope and second derivatives along `moves`."""
        moved = order.tilde.copy()
        moved[layer] = tilde
        found = system.averages(replace(order, tilde=moved), layer, curvature=True)[0]
        assert found.curvature is not None
        curved = (placed.T @ found.curvature @ placed)[:size, :size]
        beyond = pairs * (found.kernel - goal) + np.diag(problem.n * (found.d - noise))
        value = found.log_z - 0.5 * float((pairs * tilde * goal).sum() + (problem.n * noise) @ np.diag(tilde))
        return found, value, 0.5 * np.tensordot(moves, beyond, 2), basis @ curved @ basis.T

    tilde = order.tilde[layer]
    found, value, slope, curved = at(tilde)
    decrement = np.inf
    for _ in range(_MOST):
        step = -np.linalg.lstsq(curved, slope, rcond=1e-12)[0]
        decrement = -float(slope @ step)
        if decrement < _EXACT:
            break
        length = 1.0
        while length > _SHORTEST:
            moved = raised((tilde + length * np.tensordot(step, moves, 1))[None])[0]
            try:
                trial = at(moved)
            except NotCovered:
                pass
            else:
                if trial[1] <= value - _ARMIJO * length * decrement:
                    tilde, (found, value, slope, curved) = moved, trial
                    break
            length *= _SHORTER
        else:
            break
    if not decrement < _FAILED:
        raise NotCovered("the conjugates that go with planted kernels were not found")
    kernel, d, conjugate = order.kernel.copy(), order.d.copy(), order.tilde.copy()
    kernel[layer], d[layer], conjugate[layer] = found.kernel, found.d, tilde
    return replace(order, kernel=kernel, d=d, tilde=conjugate)
