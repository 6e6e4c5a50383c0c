"""Independent computations for the general-data solver: plain NumPy expectation propagation, quadrature, HMC, data."""

from __future__ import annotations

import numpy as np
from problems import fixed_rng


def digits(off, n_samples, seed=0, classes=(0, 1, 2)):
    """sklearn's digits: features (P, r), one-hot targets (P, m), labels (P,)."""
    from sklearn.datasets import load_digits

    from meanfield.problem.features import features_from_inputs

    inputs, digit = load_digits(return_X_y=True)
    order = fixed_rng(seed).permutation(len(digit))
    inputs, digit = inputs[order], digit[order]
    rows = np.concatenate([np.flatnonzero(digit == c)[: n_samples // len(classes)] for c in classes])
    inputs = inputs[rows] - inputs[rows].mean(axis=0)
    inputs /= np.sqrt(np.mean(inputs**2))
    labels = np.searchsorted(classes, digit[rows])
    targets = np.where(np.eye(len(classes))[labels] > 0, 1.0, off)
    return features_from_inputs(inputs).matrix, targets, labels


def tilted(phi, k, mean, variance, points=4001, reach=12.0):
    """ln Zhat, E z, Var z, E phi, Var phi and Cov(phi, z) by the trapezoidal rule; arrays (P,)."""
    sd = np.sqrt(variance)
    width = reach + np.abs(k) * sd
    x = np.linspace(-1, 1, points)[:, None] * width
    z = mean + sd * x
    f = phi(z)
    exponent = k * f - 0.5 * x * x
    top = exponent.max(axis=0)
    w = np.exp(exponent - top)
    total = w.sum(axis=0)
    w /= total
    m, e = (w * z).sum(axis=0), (w * f).sum(axis=0)
    log_z = top + np.log(total * 2.0 * width / (points - 1)) - 0.5 * np.log(2 * np.pi)
    return (
        log_z,
        m,
        (w * (z - m) ** 2).sum(axis=0),
        e,
        (w * (f - e) ** 2).sum(axis=0),
        (w * (z - m) * (f - e)).sum(axis=0),
    )


def numpy_ep(phi, matrix, k, s=None, nu=None, damping=0.8, tolerance=1e-9, cap=200):
    """log Z, E phi and the sites, by expectation propagation in sample space; None where it does not converge."""
    kernel = matrix @ matrix.T
    p = len(k)
    s, nu = np.zeros(p) if s is None else s.copy(), np.zeros(p) if nu is None else nu.copy()
    for _ in range(cap):
        system = np.eye(p) + kernel * s
        sigma = np.linalg.solve(system, kernel)
        m, v = sigma @ nu, np.diag(sigma).copy()
        cavity = v / (1 - s * v)
        if not (v > 0).all() or not (cavity > 0).all():
            return None
        mc = cavity * (m / v - nu)
        log_zhat, mt, vt, e, _, _ = tilted(phi, k, mc, cavity)
        if max(np.abs((mt - m) / np.sqrt(v)).max(), np.abs(vt / v - 1).max()) < tolerance:
            gauss = -0.5 * np.linalg.slogdet(system)[1] + 0.5 * nu @ m
            sites = log_zhat - 0.5 * np.log(v / cavity) - 0.5 * m**2 / v + 0.5 * mc**2 / cavity
            return gauss + sites.sum(), e, s, nu
        s += damping * (1 / vt - 1 / cavity - s)
        nu += damping * (mt / vt - mc / cavity - nu)
    return None


def weight_quadrature(phi, matrix, k, reach=8.0, step=0.05):
    """log Z(k) and E phi for r = 2 weights by the trapezoidal rule."""
    x = np.arange(-reach, reach + step, step)
    grid = np.stack(np.meshgrid(x, x), axis=-1).reshape(-1, 2)
    value = phi(grid @ matrix.T)
    log_w = value @ k - 0.5 * np.sum(grid**2, axis=1) + np.log(step**2 / (2 * np.pi))
    top = log_w.max()
    weight = np.exp(log_w - top)
    return top + np.log(weight.sum()), weight @ value / weight.sum()


def hmc_mean(phi, slope, matrix, k, rng, chains=200, warmup=300, draws=500, steps=12):
    """E phi (P,) under N(w; 0, 1) exp(k.phi(F w)) with its standard error over independent chains."""
    w = rng.normal(size=(chains, matrix.shape[1]))
    size = np.full(chains, 0.1)
    total = np.zeros((chains, len(k)))

    def energy(weights):
        z = weights @ matrix.T
        return 0.5 * np.sum(weights**2, axis=1) - phi(z) @ k, weights - (slope(z) * k) @ matrix

    now, gradient = energy(w)
    for step in range(warmup + draws):
        momentum = rng.normal(size=w.shape)
        start = now + 0.5 * np.sum(momentum**2, axis=1)
        new, g = w.copy(), gradient
        # Step sizes vary a little so that no trajectory closes on itself.
        h = (size * rng.uniform(0.8, 1.2, chains))[:, None]
        for _ in range(steps):
            momentum = momentum - 0.5 * h * g
            new = new + h * momentum
            after, g = energy(new)
            momentum = momentum - 0.5 * h * g
        accept = np.log(rng.uniform(size=chains)) < start - after - 0.5 * np.sum(momentum**2, axis=1)
        w[accept], now[accept] = new[accept], after[accept]
        gradient = np.where(accept[:, None], g, gradient)
        if step < warmup:
            size *= np.where(accept, 1.02, 0.93)
        else:
            total += phi(w @ matrix.T)
    means = total / draws
    return means.mean(axis=0), means.std(axis=0, ddof=1) / np.sqrt(chains)
