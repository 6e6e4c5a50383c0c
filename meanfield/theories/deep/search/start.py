"""Starts for Newton: codes planted from the saturated dual and the large-P kernels, and the uncoded branch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from scipy.optimize import brentq

from meanfield.theories.deep.large_p.saturated import saturated_weights
from meanfield.theories.deep.layers.site import noisy_means
from meanfield.theories.deep.prior import prior_kernels, shared_field
from meanfield.theories.deep.search.shape import LEARNED, apart, with_kernel
from meanfield.theories.deep.system import DeepProblem, Evaluation, Order, System
from meanfield.validation import FloatArray

__all__ = [
    "LOOSE",
    "MOST_LOOSE",
    "instability",
    "linear_instability",
    "planted",
    "relax",
    "uncoded",
    "uncoded_onset",
]

# 1 - n k~ d at most the first, falling beyond P of the second like P to minus the third: cautious, and as in solved
# cases of two classes, at L = 2 and more.
_CAUTIOUS, _GAP = (0.2, 2000.0, 0.45), {2: (0.2, 214.0, 0.45), 3: (0.1, 100.0, 0.5)}
_LIMIT_SWEEPS = 2
LOOSE, MOST_LOOSE = 0.02, 1e-4  # part of what tells classes apart on the diagonal of a planted kernel, and at most


def planted(problem: DeepProblem, fractions: Mapping[str, float] | None = None, limit: bool = False) -> Order:
    """Order parameters of the coding branch: saturated codes, kernels of the lower layers from their large-P form.

    With `limit` middle layers are as in the limit of many samples, else closer to the prior.
    """
    common, own, gain = prior_kernels(problem)
    n, p_total = problem.n, problem.n_samples
    p = n / p_total
    depth, n_classes = problem.depth, len(n)
    if fractions is None:
        words, weight = saturated_weights(problem)
    else:
        ends = {"0": problem.phi.infimum, "1": problem.phi.supremum}
        words = np.array([[ends[letter] for letter in word] for word in fractions])
        weight = np.array(list(fractions.values()))
    middle = 0.5 * (problem.phi.infimum + problem.phi.supremum)
    sign = np.sign(words - middle)
    d_top, last = (own[depth - 2], problem.scales[-1]) if depth > 1 else (problem.k, 1.0)
    gains = [own[0], *(scale * one**2 for scale, one in zip(problem.scales, gain[1 : depth - 1]))]
    gamma = np.cumprod(gains)  # of the kernels
    top = last * gamma[-1]  # of the fields of the last layer

    def responses(h: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Half of what mean activations at fields h and -h differ by, and their slope at h."""
        mean = noisy_means(problem.phi, np.array([h, -h, h + 1e-3, h - 1e-3]), last * d_top)[0]
        return (mean[0] - mean[1]) / 2.0, (mean[2] - mean[3]) / 2e-3

    def readout(half: float) -> tuple[FloatArray, FloatArray]:
        soft = middle + sign * half
        matrix = problem.readout_variance * ((soft.T * weight) @ soft * n + 1e-3 * np.eye(n_classes))
        return soft, np.asarray(np.linalg.solve(matrix + problem.tau * np.eye(n_classes), problem.y))

    def excess(h: float, half: float, rise: float) -> float:
        soft, t = readout(half)
        a = problem.readout_variance * (soft * n) @ t
        b = float(weight @ np.abs(a @ t.T) @ p)
        return math.log(max(p_total * b * rise, 1e-300)) - math.log(((h * h) * p_total / top) ** (1.0 / depth) / h)

    def at(h: float) -> float:
        half, rise = responses(np.array([h]))
        return excess(h, float(half[0]), float(rise[0]))

    h = 1.0
    if depth > 1:
        grid = np.linspace(0.4, 8.0, 77)
        values = np.array([excess(*one) for one in zip(grid, *responses(grid))])
        crossing = np.flatnonzero((values[:-1] > 0) & (values[1:] <= 0))
        h = brentq(at, grid[crossing[-1]], grid[crossing[-1] + 1]) if len(crossing) else 1.0
    field = h * sign
    centred = field - (field @ p)[:, None] if problem.phi.parity != "odd" else field  # as `apart`
    root = np.sqrt(p)
    spread = (centred.T * weight) @ centred * np.outer(root, root)
    eta, vectors = np.linalg.eigh(spread)
    eta = np.maximum(eta, 0.0)
    kernel, d = [], []
    for layer in range(depth - 1):
        size = (eta * p_total / top) ** ((layer + 1) / depth)
        kappa = (vectors * (gamma[layer] * size / p_total)) @ vectors.T / np.outer(root, root)
        # <phi^2> = K + d hardly changes while a layer learns.
        level, free, share = common[layer], own[layer], LEARNED if limit else 0.8
        if layer > 0:
            # The formula is that of a linear layer; phi saturates. Of the prior's neurons those of largest gain learn.
            span = problem.phi.supremum - problem.phi.infimum
            kappa = kappa / (1.0 + 3.0 * float(np.diag(kappa).max()) / span**2)
            if limit:
                level, free = _at_largest_gain(problem, problem.scales[layer - 1] * own[layer - 1])
                share = 0.13
        kernel.append(level + kappa + min(MOST_LOOSE, LOOSE * float(np.trace(kappa)) / n_classes) * np.eye(n_classes))
        d.append(np.maximum(free - share * np.diag(kappa), 0.4 * free))
    return Order(
        np.array(kernel).reshape(-1, n_classes, n_classes),
        np.array(d).reshape(-1, n_classes),
        np.zeros((depth - 1, n_classes, n_classes)),
        np.full((depth - 1, n_classes), -0.3),
        1.03 * readout(float(responses(np.array([h]))[0][0]))[1],
    )


def _at_largest_gain(problem: DeepProblem, below: float) -> tuple[float, float]:
    """Squared mean and variance of phi where a constant field makes the gain largest, for noise of variance `below`."""
    mean, slope, variance = noisy_means(problem.phi, np.linspace(-3.0, 3.0, 61), below)
    best = int(np.argmax(np.abs(slope)))
    return float(mean[best]) ** 2, float(variance[best])


def uncoded(problem: DeepProblem) -> Order:
    """Order parameters of the branch that continues the prior: Gaussian process kernels, weak conjugates."""
    common, own, _ = prior_kernels(problem)
    n_classes, depth = len(problem.n), problem.depth
    ones = np.ones((n_classes, n_classes))
    kernel = np.array([c * ones + 1e-3 * np.eye(n_classes) for c in common[:-1]]).reshape(-1, n_classes, n_classes)
    d = np.array([np.full(n_classes, x) for x in own[:-1]]).reshape(-1, n_classes)
    t = _prior_readout(problem, common[-1], own[-1], problem.tau)
    return Order(kernel, d, np.zeros((depth - 1, n_classes, n_classes)), np.zeros((depth - 1, n_classes)), t)


def _prior_readout(problem: DeepProblem, common: float, own: float, tau: float) -> FloatArray:
    """t (C, m) for the top layer's kernel under the prior."""
    n_classes = len(problem.n)
    matrix = problem.readout_variance * (common * np.ones((n_classes, n_classes)) * problem.n + own * np.eye(n_classes))
    return np.asarray(np.linalg.solve(matrix + tau * np.eye(n_classes), problem.y))


def instability(problem: DeepProblem, d: FloatArray, tilde: FloatArray) -> float:
    """Largest eigenvalue of n k~ d of the layer under the top, apart from what all classes share.

    d (C,) is that of the layer, tilde (C, C) the <g_h g_h^T> of the top.
    """
    root = np.sqrt(problem.n * d)
    centred = apart(problem, root, root)
    return float(np.linalg.eigvalsh(centred @ (problem.push[-1] * tilde * np.outer(root, root)) @ centred)[-1])


def linear_instability(problem: DeepProblem) -> float:
    """`instability` for a readout that is linear, with the kernels of the prior: <g_h g_h^T> = s t t^T <phi'>^2."""
    return _linear_instability(problem)(problem.tau)


def _linear_instability(problem: DeepProblem) -> Callable[[float], float]:
    """The same by tau, on which the kernels of the prior do not depend."""
    common, own, _ = prior_kernels(problem)
    noise = problem.scales[-1] * own[-2]
    h, weight = shared_field(problem.phi, problem.scales[-1] * common[-2], noise)
    slope = noisy_means(problem.phi, h, noise)[1]
    gain, d = problem.readout_variance * float(weight @ slope**2), np.full(len(problem.n), own[-2])

    def at(tau: float) -> float:
        t = _prior_readout(problem, common[-1], own[-1], tau)
        return instability(problem, d, gain * t @ t.T)

    return at


def uncoded_onset(problem: DeepProblem) -> float:
    """tau at which `linear_instability` is 1; 0 if there is none."""

    largest = _linear_instability(problem)

    def excess(log_tau: float) -> float:
        return largest(math.exp(log_tau)) - 1.0

    low, high = math.log(1e-12), math.log(1e6)
    return math.exp(brentq(excess, low, high, rtol=1e-3)) if excess(low) > 0.0 > excess(high) else 0.0


def relax(
    system: System,
    order: Order,
    sweeps: int = 4,
    critical: bool = False,
    limit: bool = False,
    kernels: bool = False,
    first: FloatArray | None = None,
) -> FloatArray:
    """Coordinates after a downward pass for the conjugates, and half-steps of d and delta.

    With `limit`, where d is known well enough, a pass less and no half-steps of d, and with `critical` the first
    layer has its kernel. `first` (C, C): its conjugate, if it is known. With `kernels` there are half-steps of
    the kernels as well and whole ones of delta, which a branch near the prior follows by itself.
    """
    problem = system.problem
    kernel, d = order.kernel.copy(), order.d.copy()
    tilde, delta = order.tilde.copy(), order.delta.copy()
    for sweep in range(min(sweeps, _LIMIT_SWEEPS if limit else sweeps) if problem.depth > 1 else 0):
        for layer in range(problem.depth - 1, -1, -1):
            if layer == 0 and limit:
                break
            now = Order(kernel, d, tilde, delta, order.t)
            parts = system.averages(now, layer)
            found = system.combined(Evaluation([], parts))[0] if len(parts) > 1 else parts[0]
            if layer > 0:
                tilde[layer - 1] = problem.push[layer - 1] * found.tilde
                if layer == 1 and first is not None:
                    tilde[0] = first
                elif critical and layer == 1:
                    tilde[0] = _critical(problem, tilde[0], limit)
                new = problem.push[layer - 1] * found.delta
                delta[layer - 1] = new if sweep == 0 or limit or kernels else 0.5 * (delta[layer - 1] + new)
            if layer < problem.depth - 1 and (sweep > 0 or kernels) and not limit:
                d[layer] = 0.5 * (d[layer] + found.d)
            if layer < problem.depth - 1 and kernels:
                kernel[layer] = 0.5 * (kernel[layer] + found.kernel)
    found_order = Order(kernel, d, tilde, delta, order.t)
    if critical and limit:
        with_kernel(system, found_order)
    return system.pack(found_order)


def _critical(problem: DeepProblem, tilde: FloatArray, limit: bool) -> FloatArray:
    """Conjugate of the first layer scaled to where it belongs: n k~ d below its instability at 1, closer for many P."""
    own = prior_kernels(problem)[1][0]
    most, many, power = _GAP[min(problem.depth, 3)] if limit else _CAUTIOUS
    gap = most * min(1.0, (many / problem.n_samples) ** power)
    root = np.sqrt(problem.n * own)
    values, vectors = np.linalg.eigh(tilde * np.outer(root, root))
    return np.asarray((vectors * (values * (1.0 - gap) / values[-1])) @ vectors.T / np.outer(root, root))
