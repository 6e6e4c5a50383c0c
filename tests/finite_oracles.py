"""Stationarity at finite P integrated anew, with nothing of the solver: own G, cubic lattice or Sobol points."""

import numpy as np
from scipy.interpolate import BPoly
from scipy.special import logsumexp
from scipy.stats import chi2, norm, qmc


def slopes_of_g(phi, k, kappa):
    """G and G' at kappa, by Gauss-Legendre panels in z and quintic splines in kappa (error about 1e-13)."""
    x, w = np.polynomial.legendre.leggauss(12)
    # exp(kappa phi) moves the Gaussian by kappa times a slope, on either side.
    reach = np.abs(kappa).max() * np.sqrt(k) * max(np.abs(phi.slopes).max(), 1e-3) if not phi.bounded else 0.0
    ends = 32.0 + np.ceil(reach)
    edges = np.unique(np.concatenate([np.linspace(-ends, ends, int(8 * ends) + 1), np.array(phi.kinks) / np.sqrt(k)]))
    centre, half = 0.5 * (edges[1:] + edges[:-1]), 0.5 * (edges[1:] - edges[:-1])
    z = (centre[:, None] + half[:, None] * x).ravel()
    log_weight = (np.log(half)[:, None] + np.log(w)).ravel() - 0.5 * z * z - 0.5 * np.log(2 * np.pi)
    value = phi(np.sqrt(k) * z)
    low, high = kappa.min() - 0.1, kappa.max() + 0.1
    grid = np.linspace(low, high, int(min(3000, max(300, (high - low) / 0.02))))
    exponent = np.multiply.outer(grid, value) + log_weight
    g0 = logsumexp(exponent, axis=1)
    tilted = np.exp(exponent - g0[:, None])
    g1 = tilted @ value
    g2 = tilted @ value**2 - g1 * g1
    # Quintic: P times the error of G is a relative error of the integrand.
    spline = BPoly.from_derivatives(grid, np.stack([g0, g1, g2], axis=1))
    return spline(kappa), spline.derivative()(kappa)


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


def lattice_residual(network, task, tau, solution, reach=25.0):
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
    found = weighted_mean(network, task, t, a, 0.0) + tau * t + outlier_part(network, t, solution, basis)
    return np.abs(y - found).max()


def ball_residual(network, task, tau, solution, radii=(6.5, 8.0)):
    """As `lattice_residual`, for more dimensions: spacing sigma_a / sqrt(P) (error 1e-8), nodes in ellipsoids.

    They are wide enough for the weight of their code; (value, its change from the smaller to the larger ellipsoids).
    """
    found = [_ball_mean(network, task, tau, solution, radius) for radius in radii]
    return np.abs(task.targets @ found[1][1] - found[1][0]).max(), np.abs(found[1][0] - found[0][0]).max()


def _ball_mean(network, task, tau, solution, radius):
    _, t, mean, covariance, basis = in_the_span(task, solution)
    m = t.shape[1]
    spacing = network.sigma_a / np.sqrt(task.n_samples)
    nodes = [np.empty((0, m), np.int64)]
    for weight, centre, inner in zip(solution.weight, mean, covariance):
        reach = np.sqrt(max(9.0, radius**2 + 2.0 * np.log(weight)))
        metric = np.linalg.inv(inner) * spacing**2
        found = np.zeros((1, 0), np.int64)
        # Coordinate after coordinate: those for which the others can be chosen so that the node is inside.
        for axis in range(m):
            half = reach * np.sqrt(inner[axis, axis]) / spacing
            middle = centre[axis] / spacing
            steps = np.arange(np.ceil(middle - half), np.floor(middle + half) + 1).astype(np.int64)
            found = np.hstack([np.repeat(found, steps.size, axis=0), np.tile(steps, len(found))[:, None]])
            away = found - centre[: axis + 1] / spacing
            part = np.linalg.inv(np.linalg.inv(metric)[: axis + 1, : axis + 1])
            found = found[np.einsum("ir,rq,iq->i", away, part, away) <= reach**2]
        nodes.append(found)
    a = np.unique(np.concatenate(nodes), axis=0) * spacing
    return tau * t + outlier_part(network, t, solution, basis) + weighted_mean(network, task, t, a, 0.0), basis


def outlier_part(network, t, solution, basis):
    """What outliers add to the mean outputs (C, m)."""
    minus, plus = (s * s * network.k for s in network.activation.slopes)
    result = np.zeros_like(t)
    for u, w in zip(solution.outlier_direction @ basis, solution.outlier_weight):
        kappa = t @ u
        result += w * np.outer(np.where(kappa > 0, plus, minus) * kappa, u)
    return result


def sobol_residual(network, task, tau, solution, log2_points, seeds=(0, 1, 2, 3)):
    """The same by importance sampling: Sobol points in each code's Gaussian, one mixture; (value, standard error)."""
    y, t, mean, covariance, _ = in_the_span(task, solution)
    chol = np.linalg.cholesky(1.3 * covariance)
    results = []
    for seed in seeds:
        points = [qmc.Sobol(y.shape[1], seed=100 * seed + j).random_base2(log2_points) for j in range(len(mean))]
        a = np.concatenate([m + norm.ppf(x) @ c.T for m, c, x in zip(mean, chol, points)])
        log_q = []
        for m, c in zip(mean, chol):
            x = np.linalg.solve(c, (a - m).T)
            log_q.append(-0.5 * np.sum(x * x, axis=0) - np.log(np.diag(c)).sum())
        results.append(y - tau * t - weighted_mean(network, task, t, a, -logsumexp(log_q, axis=0)))
    error = np.std(results, axis=0, ddof=1) / np.sqrt(len(seeds))
    return np.abs(np.mean(results, axis=0)).max(), error.max()


def student_residual(network, task, tau, solution, log2_points, n_scramblings=8):
    """The same with tails: Sobol points in a Student-t (6 degrees) around each code; (value, standard error).

    Returned is the largest component of the mean over independent scramblings and the largest standard error of one.
    """
    y, t, mean, covariance, basis = in_the_span(task, solution)
    m, degrees = y.shape[1], 6.0
    # Regions of a node or two have no width of their own; that of the prior's cell is wide enough.
    chol = np.linalg.cholesky(covariance * 1.2 + 0.1 * network.sigma_a**2 / task.n_samples * np.eye(m))
    weight = 0.8 * solution.weight + 0.2 / len(mean)
    weight = weight / weight.sum()
    count = np.maximum(64, np.ceil(weight * 2**log2_points)).astype(int)
    weight = count / count.sum()
    linear = outlier_part(network, t, solution, basis)
    results = []
    for seed in range(n_scramblings):
        points = []
        for j in range(len(mean)):
            size = int(np.ceil(np.log2(count[j])))
            x = qmc.Sobol(m + 1, seed=1000 * seed + j).random_base2(size)[: count[j]]
            normal = norm.ppf(np.clip(x[:, :m], 1e-15, 1 - 1e-15))
            scale = np.sqrt(degrees / chi2.ppf(np.clip(x[:, m], 1e-12, 1 - 1e-12), degrees))
            points.append(mean[j] + (scale[:, None] * normal) @ chol[j].T)
        a = np.concatenate(points)
        log_q = []
        for j in range(len(mean)):
            x = np.linalg.solve(chol[j], (a - mean[j]).T)
            size = np.sum(x * x, axis=0)
            norming = np.log(weight[j]) - np.log(np.diag(chol[j])).sum()
            log_q.append(norming - 0.5 * (degrees + m) * np.log1p(size / degrees))
        results.append(y - tau * t - linear - weighted_mean(network, task, t, a, -logsumexp(log_q, axis=0)))
    error = np.std(results, axis=0, ddof=1) / np.sqrt(n_scramblings)
    return np.abs(np.mean(results, axis=0)).max(), error.max()
