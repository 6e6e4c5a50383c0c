"""A second, independent sampler of the weight posterior, plain NumPy and slow: HMC with the readout integrated out.

For one hidden layer on class-structured orthogonal data the network is (z, a) with priors z_i ~ N(0, k 1) in R^P and
a_i ~ N(0, s 1) in R^m, s = sigma_a^2 / P. Given z the readout is Gaussian and integrates to

    ln p(z | Y) = -|z|^2/2k - (N/2) tr Y^T (s K + tau)^{-1} Y - (m/2) ln det(s K + tau),   K = phi^T phi / N,

which is smooth in z; a is then drawn exactly. Nothing of meanfield/sampling is used.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from scipy.linalg import cho_factor, cho_solve


class Target:
    """ln p(z | Y) with its gradient, and the exact draw of a given z."""

    def __init__(self, network, task, width, tau):
        self.phi, self.k = network.activation, network.k
        self.labels = np.repeat(np.arange(task.n_classes), np.rint(task.fractions * task.n_samples).astype(int))
        self.y = task.targets[self.labels]
        self.n, self.tau = width, tau
        self.s = network.sigma_a**2 / task.n_samples

    def value(self, z):
        """ln p, its gradient, and (s K + tau)^{-1}."""
        phi = np.asarray(self.phi(z))
        matrix = self.s / self.n * phi.T @ phi
        matrix[np.diag_indices(len(matrix))] += self.tau
        factor = cho_factor(matrix, lower=True)
        inverse = cho_solve(factor, np.eye(len(matrix)))
        u = inverse @ self.y
        m = self.y.shape[1]
        value = -0.5 * np.sum(z * z) / self.k - 0.5 * self.n * np.sum(u * self.y)
        value -= m * np.log(np.diag(factor[0])).sum()
        slope = self.s * (phi @ u) @ u.T - m * self.s / self.n * (phi @ inverse)
        return value, slope * np.asarray(self.phi.derivative(z)) - z / self.k, inverse

    def readout(self, z, rng):
        """a given z (Matheron's rule) and the residual y - f."""
        phi = np.asarray(self.phi(z))
        a = np.sqrt(self.s) * rng.standard_normal((self.n, self.y.shape[1]))
        noise = np.sqrt(self.tau / self.n) * rng.standard_normal(self.y.shape)
        a += self.s * phi @ (self.value(z)[2] @ (self.y - phi.T @ a / self.n - noise))
        return a, self.y - phi.T @ a / self.n


class Walker:
    """One chain of Hamiltonian Monte Carlo."""

    leapfrog, accept = 12, 0.85

    def __init__(self, target, z, rng):
        self.target, self.z, self.rng, self.step = target, z, rng, 0.1

    def run(self, n, adapt=False):
        """n transitions; the step size follows the acceptance if it is to adapt."""
        value, gradient, _ = self.target.value(self.z)
        for i in range(n):
            momentum = self.rng.standard_normal(self.z.shape)
            q, p, g = self.z, momentum, gradient
            size = self.step * self.rng.uniform(0.8, 1.2)
            for _ in range(self.leapfrog):
                p = p + 0.5 * size * g
                q = q + size * p
                new, g, _ = self.target.value(q)
                p = p + 0.5 * size * g
            change = new - value - 0.5 * (np.sum(p * p) - np.sum(momentum**2))
            probability = np.exp(min(0.0, change)) if np.isfinite(change) else 0.0
            if self.rng.random() < probability:
                self.z, value, gradient = q, new, g
            if adapt:
                self.step *= np.exp((probability - self.accept) / np.sqrt(i + 4.0))


def sample(network, task, width, tau, *, start, draws, warmup, chains, seed, thin=1):
    """Chains with the fields that statistics read; `start` is a posterior (planted) or "annealed"."""
    kept = []
    for chain in range(chains):
        rng = np.random.default_rng([seed, chain])
        target = Target(network, task, width, tau)
        if start == "annealed":
            walker = Walker(target, np.sqrt(target.k) * rng.standard_normal((width, target.labels.size)), rng)
            for target.tau in tau * 2.0 ** np.arange(7, 0, -1):
                walker.run(15, adapt=True)
            target.tau = tau
        else:
            neurons = start.sample_neurons(width, rng=rng, samples_per_class=np.bincount(target.labels).tolist())
            walker = Walker(target, neurons.preactivations, rng)
        walker.run(warmup, adapt=True)
        rows = []
        for _ in range(draws):
            walker.run(thin)
            rows.append(_observed(np.asarray(target.phi(walker.z)), *target.readout(walker.z, rng), target.labels))
        kept.append(rows)
    arrays = {name: np.array([[row[name] for row in rows] for rows in kept]) for name in kept[0][0]}
    return SimpleNamespace(network=network, task=task, width=width, tau=tau, labels=target.labels, **arrays)


def _observed(phi, a, residual, labels):
    indicator = np.eye(labels.max() + 1)[labels]  # (P, C)
    counts = indicator.sum(axis=0)
    mean = phi @ indicator / counts
    between = mean.T @ mean / len(phi)
    diagonal = (phi**2).mean(axis=0) @ indicator / counts
    between[np.diag_indices(counts.size)] = (counts * np.diag(between) - diagonal) / (counts - 1)
    return {
        "readout": a, "class_activation": mean, "kernel_between": between[None], "kernel_diagonal": diagonal[None],
        "residual": residual,
    }  # fmt: skip
