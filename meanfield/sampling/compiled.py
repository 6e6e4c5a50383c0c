"""Energy of the weights of a network, its gradient, and leapfrog trajectories.

Weights are in units of their prior standard deviation, in one vector x: first-layer weights (N, r), weights of the
layers above (N, N) each, then the readout (m, N). With z^1 = W^1 F^T, z^l = W^l phi(z^{l-1}) / sqrt(N) and
f = q a^T phi(z^L), q = sigma_a P^{-1/2L} / N (lazy: / sqrt(N)),

    E = |x|^2 / 2 + (beta / 2) sum_mu |y_mu - f_mu|^2,         beta = 1 / T.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meanfield.compiled import jit
from meanfield.compiled.nonlinearity import Nonlinearity, phi1_array

__all__ = ["Target", "Work", "energy_gradient", "forward", "trajectory"]


class Target(NamedTuple):
    """What the energy depends on besides the weights and beta."""

    features: np.ndarray  # (P, r) F; (0, 0) where F is a multiple of the identity
    features_t: np.ndarray  # (r, P)
    scale: float  # that multiple
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
def _hidden(target, x, work):
    """Preactivations, phi and phi' of all layers."""
    _, n, p = work.z.shape
    root = 1.0 / np.sqrt(n)
    r = p if target.features.size == 0 else target.features.shape[1]
    at = n * r
    first = x[:at].reshape((n, r))
    if target.features.size == 0:
        z = work.z[0].reshape(n * p)
        for i in range(n * p):
            z[i] = target.scale * x[i]
    else:
        np.dot(first, target.features_t, work.z[0])
    for layer in range(target.depth):
        if layer > 0:
            np.dot(x[at : at + n * n].reshape((n, n)), work.phi[layer - 1], work.z[layer])
            at += n * n
            z = work.z[layer].reshape(n * p)
            for i in range(n * p):
                z[i] *= root
        phi1_array(
            target.table,
            work.z[layer].reshape(n * p),
            work.phi[layer].reshape(n * p),
            work.slope[layer].reshape(n * p),
        )
    return at


@jit
def forward(target, x, readout, work):
    """Residual f - y (m, P) of a network with this readout (m, N); fills `work`."""
    _hidden(target, x, work)
    np.dot(readout, work.phi[target.depth - 1], work.residual)
    for r in range(work.residual.shape[0]):
        for mu in range(work.residual.shape[1]):
            work.residual[r, mu] = target.readout_scale * work.residual[r, mu] - target.targets[r, mu]


@jit
def _output(target, x, at, beta, work, gradient):
    """Loss; its derivatives by the readout go to `gradient`, those by z of the last layer to `work.slope`."""
    _, n, p = work.z.shape
    m = target.targets.shape[0]
    readout = x[at : at + m * n].reshape((m, n))
    top, delta = work.phi[target.depth - 1], work.slope[target.depth - 1]
    np.dot(readout, top, work.residual)
    loss = 0.0
    for r in range(m):
        for mu in range(p):
            work.residual[r, mu] = target.readout_scale * work.residual[r, mu] - target.targets[r, mu]
            loss += work.residual[r, mu] ** 2
            work.pull[r, mu] = beta * target.readout_scale * work.residual[r, mu]
    np.dot(work.pull, top.T, gradient[at : at + m * n].reshape((m, n)))
    row = np.empty(p)
    for i in range(n):
        for mu in range(p):
            row[mu] = readout[0, i] * work.pull[0, mu]
        for r in range(1, m):
            weight = readout[r, i]
            for mu in range(p):
                row[mu] += weight * work.pull[r, mu]
        for mu in range(p):
            delta[i, mu] *= row[mu]
    return 0.5 * beta * loss


@jit
def energy_gradient(target, x, beta, work, gradient):
    """E at x; its gradient is written into `gradient`."""
    _, n, p = work.z.shape
    root = 1.0 / np.sqrt(n)
    at = _hidden(target, x, work)
    energy = _output(target, x, at, beta, work, gradient)
    for layer in range(target.depth - 1, 0, -1):
        at -= n * n
        weights, delta = x[at : at + n * n].reshape((n, n)), work.slope[layer]
        np.dot(delta, work.phi[layer - 1].T, gradient[at : at + n * n].reshape((n, n)))
        for i in range(at, at + n * n):
            gradient[i] *= root
        np.dot(weights.T, delta, work.back)
        below = work.slope[layer - 1]
        for i in range(n):
            for mu in range(p):
                below[i, mu] *= root * work.back[i, mu]
    if target.features.size == 0:
        delta = work.slope[0].reshape(n * p)
        for i in range(n * p):
            gradient[i] = target.scale * delta[i]
    else:
        np.dot(work.slope[0], target.features, gradient[:at].reshape((n, target.features.shape[1])))
    prior = 0.0
    for i in range(x.size):
        prior += x[i] * x[i]
        gradient[i] += x[i]
    return energy + 0.5 * prior


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
    for i in range(x.size):
        momentum[i] -= 0.5 * step * gradient[i]
    for k in range(n_steps):
        for i in range(x.size):
            x[i] += step * momentum[i]
        energy = energy_gradient(target, x, beta, work, gradient)
        if not energy - total < worst:
            return np.inf
        size = step if k < n_steps - 1 else 0.5 * step
        for i in range(x.size):
            momentum[i] -= size * gradient[i]
    return energy + _kinetic(momentum) - total
