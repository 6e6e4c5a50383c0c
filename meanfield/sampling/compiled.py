"""Energy of the weights of a network, its gradient, and leapfrog trajectories.

Weights are in units of their prior standard deviation, in one vector x: first-layer weights (N, r), weights of the
layers above (N, N) each, then the readout (m, N). With z^1 = W^1 F^T, z^l = sigma_w W^l phi(z^{l-1}) / sqrt(N) and
f = q a^T phi(z^L), q = sigma_a P^{-beta/2} / N (lazy: / sqrt(N)),

    E = |x|^2 / 2 + (beta / 2) sum_mu |y_mu - f_mu|^2,         beta = 1 / T.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meanfield.numerics.jit import jit, jit_apart
from meanfield.numerics.phi_table import Nonlinearity, phi1_array

__all__ = ["Target", "Work", "energy_gradient", "forward", "trajectory"]

_BLOCK = 64  # neurons that are worked on while their rows are in the cache


class Target(NamedTuple):
    """What the energy depends on besides the weights and beta."""

    features: np.ndarray  # (P, r) F; (0, 0) where F is a multiple of the identity
    features_t: np.ndarray  # (r, P)
    scale: float  # sigma_w: that multiple, and the prior scale of the weights of the layers above
    targets: np.ndarray  # (m, P)
    depth: int
    readout_scale: float  # q
    table: Nonlinearity


class Work(NamedTuple):
    """Scratch memory, and what a call of `forward` leaves behind."""

    z: np.ndarray  # (L, N, P) preactivations
    phi: np.ndarray  # (L, N, P)
    slope: np.ndarray  # (L, N, P) phi', then the derivative of the loss by z
    back: np.ndarray  # (N, P)
    residual: np.ndarray  # (m, P) f - y
    pull: np.ndarray  # (m, P)


@jit
def _layer(target, weights, below, scale, z, phi, slope):
    """z = scale * weights @ below (P columns), phi(z) and phi'(z), a block of neurons at a time."""
    n, p = z.shape
    for start in range(0, n, _BLOCK):
        rows = slice(start, min(start + _BLOCK, n))
        block = z[rows]
        if below.size == 0:
            for i in range(block.shape[0]):
                for mu in range(p):
                    block[i, mu] = scale * weights[start + i, mu]
        else:
            np.dot(weights[rows], below, block)
            if scale != 1.0:
                for i in range(block.shape[0]):
                    for mu in range(p):
                        block[i, mu] *= scale
        size = block.size
        phi1_array(target.table, block.reshape(size), phi[rows].reshape(size), slope[rows].reshape(size))


@jit
def _hidden(target, x, work):
    """Preactivations, phi and phi' of all layers; returns where the readout starts in x."""
    _, n, p = work.z.shape
    r = p if target.features.size == 0 else target.features.shape[1]
    at = n * r
    scale = target.scale if target.features.size == 0 else 1.0
    _layer(target, x[:at].reshape((n, r)), target.features_t, scale, work.z[0], work.phi[0], work.slope[0])
    for layer in range(1, target.depth):
        weights = x[at : at + n * n].reshape((n, n))
        below = work.phi[layer - 1]
        _layer(target, weights, below, target.scale / np.sqrt(n), work.z[layer], work.phi[layer], work.slope[layer])
        at += n * n
    return at


@jit
def forward(target, x, readout, work):
    """Residual f - y (m, P) of a network with this readout (m, N); fills `work`. Returns its square, summed."""
    _hidden(target, x, work)
    return _residual(target, readout, work)


@jit
def _residual(target, readout, work):
    top, residual = work.phi[target.depth - 1], work.residual
    m, p = residual.shape
    residual[:] = 0.0
    for i in range(top.shape[0]):
        for r in range(m):
            weight = target.readout_scale * readout[r, i]
            for mu in range(p):
                residual[r, mu] += weight * top[i, mu]
    square = 0.0
    for r in range(m):
        for mu in range(p):
            residual[r, mu] -= target.targets[r, mu]
            square += residual[r, mu] * residual[r, mu]
    return square


@jit
def _first_gradient(target, x, work, gradient):
    """Gradient by the first-layer weights, from the derivatives by z^1 in `work.slope`, with that of the prior."""
    _, n, p = work.z.shape
    delta = work.slope[0]
    r = p if target.features.size == 0 else target.features.shape[1]
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        if target.features.size == 0:
            for i in range(start, stop):
                for mu in range(p):
                    gradient[i * p + mu] = target.scale * delta[i, mu]
        else:
            np.dot(delta[start:stop], target.features, gradient[start * r : stop * r].reshape((stop - start, r)))
        for i in range(start * r, stop * r):
            gradient[i] += x[i]


@jit_apart
def energy_gradient(target, x, beta, work, gradient):
    """E at x; its gradient is written into `gradient`."""
    _, n, p = work.z.shape
    m = target.targets.shape[0]
    root = target.scale / np.sqrt(n)
    at = _hidden(target, x, work)
    readout = x[at:].reshape((m, n))
    square = _residual(target, readout, work)
    pull = work.pull
    for r in range(m):
        for mu in range(p):
            pull[r, mu] = beta * target.readout_scale * work.residual[r, mu]
    top, delta = work.phi[target.depth - 1], work.slope[target.depth - 1]
    row = np.empty(p)
    for i in range(n):  # while the row of a neuron is at hand: derivatives by its readout and by its z
        row[:] = 0.0
        for r in range(m):
            weight = readout[r, i]
            overlap = 0.0
            for mu in range(p):
                row[mu] += weight * pull[r, mu]
                overlap += pull[r, mu] * top[i, mu]
            gradient[at + r * n + i] = overlap + weight
        for mu in range(p):
            delta[i, mu] *= row[mu]
    for layer in range(target.depth - 1, 0, -1):
        at -= n * n
        weights, delta = x[at : at + n * n].reshape((n, n)), work.slope[layer]
        np.dot(delta, work.phi[layer - 1].T, gradient[at : at + n * n].reshape((n, n)))
        for i in range(at, at + n * n):
            gradient[i] = root * gradient[i] + x[i]
        np.dot(weights.T, delta, work.back)
        below = work.slope[layer - 1]
        for i in range(n):
            for mu in range(p):
                below[i, mu] *= root * work.back[i, mu]
    _first_gradient(target, x, work, gradient)
    prior = 0.0
    for i in range(x.size):
        prior += x[i] * x[i]
    return 0.5 * beta * square + 0.5 * prior


@jit
def _kinetic(momentum):
    total = 0.0
    for i in range(momentum.size):
        total += momentum[i] * momentum[i]
    return 0.5 * total


@jit
def trajectory(target, x, momentum, beta, step, n_steps, worst, work, gradient):
    """Move (x, momentum) along n_steps leapfrog steps of unit masses, in place.

    Returns the change of E + |momentum|^2 / 2. Where E alone exceeds the initial total by `worst`, or is no number, the
    trajectory has diverged: it ends there with an infinite change.
    """
    energy = energy_gradient(target, x, beta, work, gradient)
    total = energy + _kinetic(momentum)
    for k in range(n_steps):
        kick = step if k > 0 else 0.5 * step
        for i in range(x.size):
            momentum[i] -= kick * gradient[i]
            x[i] += step * momentum[i]
        energy = energy_gradient(target, x, beta, work, gradient)
        if not energy - total < worst:
            return np.inf
    for i in range(x.size):
        momentum[i] -= 0.5 * step * gradient[i]
    return energy + _kinetic(momentum) - total
