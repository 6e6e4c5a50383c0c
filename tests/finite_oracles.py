"""Stationarity at finite P integrated anew, with nothing of the solver: own G, lattices, Sobol points; missed codes."""

import numpy as np
from scipy.interpolate import BPoly, PPoly
from scipy.special import gamma, logsumexp
from scipy.stats import chi2, norm, qmc


class SlopesOfG:
    """G and G' between two kappa, by Gauss-Legendre panels in z and quintic splines in kappa (error about 1e-13)."""

    def __init__(self, phi, k, low, high):
        x, w = np.polynomial.legendre.leggauss(12)
        # exp(kappa phi) moves the Gaussian by kappa times a slope, on either side.
        far = max(abs(low), abs(high)) * np.sqrt(k) * max(np.abs(phi.slopes).max(), 1e-3)
        ends = 32.0 + (0.0 if phi.bounded else np.ceil(far))
        edges = np.linspace(-ends, ends, int(8 * ends) + 1)
        edges = np.unique(np.concatenate([edges, np.array(phi.kinks) / np.sqrt(k)]))
        centre, half = 0.5 * (edges[1:] + edges[:-1]), 0.5 * (edges[1:] - edges[:-1])
        z = (centre[:, None] + half[:, None] * x).ravel()
        log_weight = (np.log(half)[:, None] + np.log(w)).ravel() - 0.5 * z * z - 0.5 * np.log(2 * np.pi)
        value = phi(np.sqrt(k) * z)
        low, high = low - 0.1, high + 0.1
        grid = np.linspace(low, high, int(min(3000, max(300, (high - low) / 0.02))))
        exponent = np.multiply.outer(grid, value) + log_weight
        g0 = logsumexp(exponent, axis=1)
        tilted = np.exp(exponent - g0[:, None])
        g1 = tilted @ value
        g2 = tilted @ value**2 - g1 * g1
        # Quintic: P times the error of G is a relative error of the integrand.
        spline = BPoly.from_derivatives(grid, np.stack([g0, g1, g2], axis=1))
        self.grid, self.powers = grid, np.ascontiguousarray(PPoly.from_bernstein_basis(spline).c.T)

    def __call__(self, kappa):
        width = self.grid[1] - self.grid[0]
        interval = np.clip(((kappa - self.grid[0]) / width).astype(np.int64), 0, len(self.grid) - 2)
        offset, powers = kappa - self.grid[interval], np.moveaxis(self.powers[interval], -1, 0)
        value, slope = powers[0], np.zeros_like(kappa)
        for power in powers[1:]:
            slope = slope * offset + value
            value = value * offset + power
        return value, slope


def slopes_of_g(phi, k, kappa):
    """G and G' at kappa."""
    return SlopesOfG(phi, k, kappa.min(), kappa.max())(kappa)


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


BALL = (6.5, 7.5)  # half axes of ellipsoids in standard deviations; beyond them there is 2e-7, 3e-10 in six dimensions


def ball_size(network, task, solution, radius=BALL[-1]):
    """Number of nodes that `ball_residual` sums over."""
    y, _, _, covariance, _ = in_the_span(task, solution)
    rank = y.shape[1]
    reach = _reach(solution.weight, radius)
    volume = np.sqrt(np.linalg.det(covariance * task.n_samples / network.sigma_a**2)) * (reach * np.sqrt(np.pi)) ** rank
    return volume.sum() / gamma(0.5 * rank + 1)


def ball_residual(network, task, tau, solution, radii=BALL):
    """As `lattice_residual`, for up to six dimensions: spacing sigma_a / sqrt(P) (error 1e-8), nodes in ellipsoids.

    They are wide enough for the weight of their code; (value, its change from the smaller to the larger ellipsoids).
    """
    y, t, mean, covariance, basis = in_the_span(task, solution)
    spacing = network.sigma_a / np.sqrt(task.n_samples)
    whiten = np.linalg.cholesky(np.linalg.inv(covariance))
    small, large = (_reach(solution.weight, radius) for radius in radii)
    away = large[:, None] * np.sqrt(np.einsum("ca,nab,cb->nc", t, covariance, t))
    slopes = SlopesOfG(network.activation, network.k, (mean @ t.T - away).min(), (mean @ t.T + away).max())

    def exponent(a):
        g0, g1 = slopes(a @ t.T)
        return task.n_samples * (g0 @ task.fractions - 0.5 * np.sum(a * a, axis=1) / network.sigma_a**2), g1

    top = exponent(mean)[0].max()
    mass, total = np.zeros(2), np.zeros((2, *t.shape))
    for code in range(len(mean)):
        for nodes in _nodes(mean[code] / spacing, covariance[code] / spacing**2, large[code]):
            a = nodes * spacing
            distance = np.array([np.sum(((a - m) @ w) ** 2, axis=1) for m, w in zip(mean, whiten)])
            new = ~(distance[:code] <= large[:code, None] ** 2).any(axis=0)
            a, distance = a[new], distance[:, new]
            height, g1 = exponent(a)
            weight = np.exp(height - top)
            inner = np.where((distance <= small[:, None] ** 2).any(axis=0), weight, 0.0)
            for i, w in enumerate((inner, weight)):
                mass[i] += w.sum()
                total[i] += (g1 * w[:, None]).T @ a
    less, found = total / mass[:, None, None]
    rest = tau * t + outlier_part(network, t, solution, basis)
    return np.abs(y - rest - found).max(), np.abs(found - less).max()


def cloud_size(task, solution, radius):
    """Number of nodes that `cloud_residual` sums over."""
    rank = in_the_span(task, solution)[0].shape[1]
    return 2 * len(solution.weight) * (radius * np.sqrt(np.pi)) ** rank / gamma(0.5 * rank + 1)


def cloud_residual(network, task, tau, solution, radii):
    """As `ball_residual`, with a lattice of its own for every code, along its principal axes in standard deviations.

    Codes share the space smoothly (a code's part is its Gaussian over the sum of all), so that lattices need not fit
    each other. Each is summed twice, shifted by half a cell: (value from both, largest of the change from the smaller
    to the larger ellipsoids and half of the change between the two lattices).
    """
    y, t, mean, covariance, basis = in_the_span(task, solution)
    rank = y.shape[1]
    small, large = radii
    away = large * np.sqrt(np.einsum("ca,nab,cb->nc", t, covariance, t))
    slopes = SlopesOfG(network.activation, network.k, (mean @ t.T - away).min(), (mean @ t.T + away).max())
    whiten = np.linalg.cholesky(np.linalg.inv(covariance))  # covariance^-1 = w w'
    log_gauss = np.log(solution.weight) + np.log(np.diagonal(whiten, axis1=1, axis2=2)).sum(axis=1)

    def exponent(a):
        g0, g1 = slopes(a @ t.T)
        return task.n_samples * (g0 @ task.fractions - 0.5 * np.sum(a * a, axis=1) / network.sigma_a**2), g1

    def share(a, code):
        near = np.flatnonzero(
            np.einsum("na,ab,nb->n", mean - mean[code], whiten[code] @ whiten[code].T, mean - mean[code])
            <= 9.0 * large**2
        )
        parts = [log_gauss[j] - 0.5 * np.sum(((a - mean[j]) @ whiten[j]) ** 2, axis=1) for j in near]
        return np.exp(parts[list(near).index(code)] - logsumexp(parts, axis=0))

    top = exponent(mean)[0].max()
    mass, total = np.zeros((2, 2)), np.zeros((2, 2, *t.shape))  # inner ellipsoid and whole, lattice
    for code, lattice in np.ndindex(len(mean), 2):
        axes = np.linalg.inv(whiten[code]).T  # columns of the Cholesky factor: a = mean + axes x
        volume = np.exp(-log_gauss[code]) * solution.weight[code]
        shift = np.full(rank, 0.5 * lattice)
        for nodes in _nodes(shift, np.eye(rank), large):
            x = nodes - shift
            a = mean[code] + x @ axes.T
            height, g1 = exponent(a)
            weight = volume * share(a, code) * np.exp(height - top)
            inner = np.where(np.sum(x * x, axis=1) <= small**2, weight, 0.0)
            for i, w in enumerate((inner, weight)):
                mass[i, lattice] += w.sum()
                total[i, lattice] += (g1 * w[:, None]).T @ a
    found = total / mass[..., None, None]
    both = total.sum(axis=1) / mass.sum(axis=1)[:, None, None]
    rest = tau * t + outlier_part(network, t, solution, basis)
    error = max(np.abs(both[1] - both[0]).max(), 0.5 * np.abs(found[1, 1] - found[1, 0]).max())
    return np.abs(y - rest - both[1]).max(), error


def _reach(weight, radius):
    """Half axes for codes of some weights: what is left out is the same share of all."""
    return np.sqrt(np.maximum(9.0, radius**2 + 2.0 * np.log(weight)))


def _nodes(centre, covariance, reach, block=300_000):
    """Integer points of an ellipsoid, in blocks: coordinate after coordinate, those for which the others have room."""
    found = [np.zeros((1, 0))]
    inverse = np.linalg.inv(covariance)
    for axis in range(len(centre)):
        half = reach * np.sqrt(covariance[axis, axis])
        steps = np.arange(np.ceil(centre[axis] - half), np.floor(centre[axis] + half) + 1)
        part = np.linalg.inv(np.linalg.inv(inverse)[: axis + 1, : axis + 1])
        found = _extended(found, steps, centre[: axis + 1], part, reach, block)
    return found


def _extended(blocks, steps, centre, metric, reach, block):
    for rows in blocks:
        for some in np.array_split(rows, max(1, len(rows) * len(steps) // block)):
            longer = np.hstack([np.repeat(some, steps.size, axis=0), np.tile(steps, len(some))[:, None]])
            away = longer - centre
            longer = longer[np.einsum("ir,rq,iq->i", away, metric, away) <= reach**2]
            if len(longer):
                yield longer


def unlisted_height(network, task, solution, n_starts=1000, n_steps=1500):
    """ln of the density that ascents from random readouts end at outside all codes, relative to the highest code.

    a <- sigma_a^2 sum_c f_c G'(a.t_c) t_c never falls, as G is convex. -inf where all ascents end at listed codes, and
    of solutions with outliers, along whose directions the density of a bulk has no maximum.
    """
    if solution.outlier_weight.size:
        return -np.inf
    y, t, mean, covariance, _ = in_the_span(task, solution)
    rng = np.random.default_rng(0)
    spread = np.sqrt(np.mean(np.sum(mean**2, axis=1)) + np.trace(covariance.mean(axis=0)))
    a = 2.0 * spread * rng.normal(size=(n_starts, y.shape[1])) / np.sqrt(y.shape[1])
    reach = np.abs(a @ t.T).max()
    slopes = SlopesOfG(network.activation, network.k, -reach, reach)
    cell = 1e-6 * network.sigma_a**2 / task.n_samples  # codes of a single node have no covariance
    to_codes = np.linalg.inv(covariance + cell * np.eye(y.shape[1]))

    def height(a):
        return task.n_samples * (slopes(a @ t.T)[0] @ task.fractions - 0.5 * np.sum(a * a, axis=1) / network.sigma_a**2)

    for _ in range(n_steps):
        step = network.sigma_a**2 * (slopes(a @ t.T)[1] * task.fractions) @ t - a
        a = a + step
        if np.abs(step).max() < 1e-10 * spread:
            break
    from_codes = a[:, None] - mean
    outside = np.einsum("ina,nab,inb->in", from_codes, to_codes, from_codes).min(axis=1) > 6.0**2
    return np.max(height(a[outside]), initial=-np.inf) - height(mean).max()


def outlier_part(network, t, solution, basis):
    """What outliers add to the mean outputs (C, m)."""
    minus, plus = (s * s * network.k for s in network.activation.slopes)
    result = np.zeros_like(t)
    for u, w in zip(solution.outlier_direction @ basis, solution.outlier_weight):
        kappa = t @ u
        result += w * np.outer(np.where(kappa > 0, plus, minus) * kappa, u)
    return result


def student_residual(network, task, tau, solution, log2_points, n_scramblings=8):
    """The same by importance sampling: Sobol points in a Student-t around each code; (value, standard error).

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
