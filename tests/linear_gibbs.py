"""Gibbs sampler of finite linear networks with one or two hidden layers: a layer given the others is Gaussian."""

import math

import numpy as np


def conditioned(rng, prior, left, right, y, scale, noise):
    """Draw W (n, k) of prior variance prior^2 given y (P, m) = scale right (P, k) . W^T . left (n, m) + noise."""
    w = prior * rng.standard_normal((left.shape[0], right.shape[1]))
    seen = scale * right @ w.T @ left
    gram = (prior * scale) ** 2 * np.kron(right @ right.T, left.T @ left) + noise**2 * np.eye(y.size)
    misfit = y - seen - noise * rng.standard_normal(y.shape)
    c = np.linalg.solve(gram, misfit.ravel()).reshape(y.shape)
    return w + prior**2 * scale * left @ c.T @ right


def sample(x, y, new, width, s, tau, *, depth, sweeps, burn, seed):
    """Draws (first axis) of the readout covariance, the kernels of all layers on (x, new), and f on new."""
    rng = np.random.default_rng(seed)
    n, noise = width, math.sqrt(tau / width)
    n_inputs = x.shape[1]
    w1 = rng.standard_normal((n, n_inputs))
    w2 = rng.standard_normal((n, n))
    a = math.sqrt(s) * rng.standard_normal((n, y.shape[1]))
    everything = np.vstack([x, new])
    found = []
    for sweep in range(sweeps):
        pulled = a if depth == 1 else w2.T @ a / math.sqrt(n)
        w1 = conditioned(rng, 1.0, pulled, x, y, 1 / (n * math.sqrt(n_inputs)), noise)
        z = [everything @ w1.T / math.sqrt(n_inputs)]
        if depth == 2:
            w2 = conditioned(rng, 1.0, a, z[0][: len(x)], y, n**-1.5, noise)
            z.append(z[0] @ w2.T / math.sqrt(n))
        a = conditioned(rng, math.sqrt(s), np.eye(y.shape[1]), z[-1][: len(x)], y, 1 / n, noise).T
        if sweep >= burn:
            kernels = [layer @ layer.T / n for layer in z]
            found.append((a.T @ a / n, kernels, z[-1][len(x) :] @ a / n))
    covariances, kernels, outputs = zip(*found, strict=True)
    return np.array(covariances), np.array(kernels), np.array(outputs)
