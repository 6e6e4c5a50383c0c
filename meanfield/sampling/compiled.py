"""Energy of the weights of a network, its gradient, and leapfrog trajectories.

Weights are in units of their prior standard deviation, in one vector x: first-layer weights (N_1, r), weights of the
layers above (N_l, N_{l-1}), then the readout (m, N). With z^1 = W^1 F^T, z^l = sigma_l W^l phi(z^{l-1}) / sqrt(N_{l-1})
and f = q a^T phi(z^L), q = sigma_a P^{-beta/2} / N (lazy: / sqrt(N)), N = N_L,

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
    scales: np.ndarray  # (L,) sigma_l; the first is that multiple
    widths: np.ndarray  # (L,) N_l
    targets: np.ndarray  # (m, P)
    depth: int
    readout_scale: float  # q
    table: Nonlinearity


class Work(NamedTuple):
    """Scratch memory, and what a call of `forward` leaves behind; layer l uses the first N_l rows of the widest."""

    z: np.ndarray  # (L, max N_l, P) preactivations
    phi: np.ndarray  # (L, max N_l, P)
    slope: np.ndarray  # (L, max N_l, P) phi', then the derivative of the loss by z
    back: np.ndarray  # (max N_l, P)
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
    p = work.z.shape[2]
    r = p if target.features.size == 0 else target.features.shape[1]
    n = target.widths[0]
    at = n * r
    scale = target.scales[0] if target.features.size == 0 else 1.0
    _layer(target, x[:at].reshape((n, r)), target.features_t, scale, work.z[0, :n], work.phi[0, :n], work.slope[0, :n])
    for layer in range(1, target.depth):
        low, n = n, target.widths[layer]
        weights = x[at : at + n * low].reshape((n, low))
        below, scale = work.phi[layer - 1, :low], target.scales[layer] / np.sqrt(low)
        _layer(target, weights, below, scale, work.z[layer, :n], work.phi[layer, :n], work.slope[layer, :n])
        at += n * low
    return at


@jit
def forward(target, x, readout, work):
    """Residual f - y (m, P) of a network with this readout (m, N); fills `work`. Returns its square, summed."""
    _hidden(target, x, work)
    return _residual(target, readout, work)


@jit
def _residual(target, readout, work):
    top, residual = work.phi[target.depth - 1, : target.widths[-1]], work.residual
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
    n, p = target.widths[0], work.z.shape[2]
    delta = work.slope[0, :n]
    r = p if target.features.size == 0 else target.features.shape[1]
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        if target.features.size == 0:
            for i in range(start, stop):
                for mu in range(p):
                    gradient[i * p + mu] = target.scales[0] * delta[i, mu]
        else:
            np.dot(delta[start:stop], target.features, gradient[start * r : stop * r].reshape((stop - start, r)))
        for i in range(start * r, stop * r):
            gradient[i] += x[i]


@jit_apart
def energy_gradient(target, x, beta, work, gradient):
    """E at x; its gradient is written into `gradient`."""
    n, p = target.widths[-1], work.z.shape[2]
    m = target.targets.shape[0]
    at = _hidden(target, x, work)
    readout = x[at:].reshape((m, n))
    square = _residual(target, readout, work)
    pull = work.pull
    for r in range(m):
        for mu in range(p):
            pull[r, mu] = beta * target.readout_scale * work.residual[r, mu]
    top, delta = work.phi[target.depth - 1, :n], work.slope[target.depth - 1, :n]
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
        n, low = target.widths[layer], target.widths[layer - 1]
        root = target.scales[layer] / np.sqrt(low)
        at -= n * low
        weights, delta = x[at : at + n * low].reshape((n, low)), work.slope[layer, :n]
        np.dot(delta, work.phi[layer - 1, :low].T, gradient[at : at + n * low].reshape((n, low)))
        for i in range(at, at + n * low):
            gradient[i] = root * gradient[i] + x[i]
        back, below = work.back[:low], work.slope[layer - 1, :low]
        np.dot(weights.T, delta, back)
        for i in range(low):
            for mu in range(p):
                below[i, mu] *= root * back[i, mu]
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
