"""Stationarity at finite P integrated anew, with nothing of the solver: own G, cubic lattice or Sobol points."""

import numpy as np
from scipy.interpolate import CubicHermiteSpline, CubicSpline
from scipy.special import logsumexp
from scipy.stats import norm, qmc


def slopes_of_g(phi, k, kappa):
    """G and G' at kappa, by Gauss-Legendre panels in z and splines in kappa (error about 1e-10)."""
    x, w = np.polynomial.legendre.leggauss(12)
    edges = np.linspace(-24, 24, 193)
    centre, half = 0.5 * (edges[1:] + edges[:-1]), 0.5 * (edges[1:] - edges[:-1])
    z = (centre[:, None] + half[:, None] * x).ravel()
    log_weight = (np.log(half)[:, None] + np.log(w)).ravel() - 0.5 * z * z - 0.5 * np.log(2 * np.pi)
    value = phi(np.sqrt(k) * z)
    low, high = kappa.min() - 0.1, kappa.max() + 0.1
    grid = np.linspace(low, high, int(min(3000, max(300, (high - low) / 0.02))))
    exponent = np.multiply.outer(grid, value) + log_weight
    g0 = logsumexp(exponent, axis=1)
    g1 = np.exp(exponent - g0[:, None]) @ value
    return CubicHermiteSpline(grid, g0, g1)(kappa), CubicSpline(grid, g1)(kappa)


def weighted_mean(network, task, t, a, log_measure):
    """<a G'(a.t_c)> (C, m), nodes `a` with ln of their volume."""
    kappa = a @ t.T
    g0, g1 = slopes_of_g(network.activation, network.k, kappa)
    h = g0 @ task.fractions - 0.5 * np.sum(a * a, axis=1) / network.sigma_a**2
    exponent = task.n_samples * h + log_measure
    mass = np.exp(exponent - exponent.max())
    return np.einsum("i,ic,ir->cr", mass / mass.sum(), g1, a)


def in_the_span(task, solution):
    """Targets, t, mean and covariance of the codes in the span of the targets."""
    _, size, axes = np.linalg.svd(task.targets)
    basis = axes[: int(np.sum(size > 1e-12 * size[0]))].T
    covariance = np.einsum("ra,nrs,sb->nab", basis, solution.covariance, basis)
    return task.targets @ basis, solution.t @ basis, solution.readout @ basis, covariance, basis


def lattice_residual(network, task, tau, solution, reach=9.0):
    """max |y_c - <a G'> - outliers - tau t_c| by a cubic lattice of spacing 0.75 sigma_a / sqrt(P) (error 1e-14)."""
    y, t, mean, covariance, basis = in_the_span(task, solution)
    spacing = 0.75 * network.sigma_a / np.sqrt(task.n_samples)
    index = []
    for centre, spread in zip(mean, np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))):
        axis = [
            np.arange(np.floor((c - reach * s) / spacing), np.ceil((c + reach * s) / spacing) + 1)
            for c, s in zip(centre, spread)
        ]
        index.append(np.stack(np.meshgrid(*axis, indexing="ij"), axis=-1).reshape(-1, len(centre)))
    a = np.unique(np.concatenate(index).astype(np.int64), axis=0) * spacing
    found = weighted_mean(network, task, t, a, 0.0) + tau * t
    minus, plus = (s * s * network.k for s in network.activation.slopes)
    for u, w in zip(solution.outlier_direction @ basis, solution.outlier_weight):
        kappa = t @ u
        found += w * np.outer(np.where(kappa > 0, plus, minus) * kappa, u)
    return np.abs(y - found).max()


def sobol_residual(network, task, tau, solution, log2_points, seeds=(0, 1, 2, 3)):
    """The same by importance sampling: Sobol points in each code's Gaussian, one mixture; (value, standard error)."""
    y, t, mean, covariance, _ = in_the_span(task, solution)
    chol = np.linalg.cholesky(1.3 * covariance)
    results = []
    for seed in seeds:
        u = [qmc.Sobol(y.shape[1], rng=np.random.default_rng([seed, j])).random_base2(log2_points) for j in range(len(mean))]
        a = np.concatenate([m + norm.ppf(x) @ c.T for m, c, x in zip(mean, chol, u)])
        log_q = []
        for m, c in zip(mean, chol):
            x = np.linalg.solve(c, (a - m).T)
            log_q.append(-0.5 * np.sum(x * x, axis=0) - np.log(np.diag(c)).sum())
        results.append(y - tau * t - weighted_mean(network, task, t, a, -logsumexp(log_q, axis=0)))
    error = np.std(results, axis=0, ddof=1) / np.sqrt(len(seeds))
    return np.abs(np.mean(results, axis=0)).max(), error.max()
