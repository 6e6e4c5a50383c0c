"""The saddle equations of deep networks integrated anew, with nothing of the solver: own g, own maxima, Sobol points.

A layer is an integral over x = (beta, eta), b = R beta and h = S eta with R R^T = k~ (s t t^T in the last layer) and
S S^T = sigma^2 K: exp(-|x|^2 / 2 + sum_c n_c g_c(b_c, h_c)). Points are scrambled Sobol ones in Student-t clouds, first
around the maxima (damped Newton from code words and random places) and then adapted to the weight; the error is that
over independent scramblings. g comes from Gauss-Legendre panels in z between the kinks of phi.
"""

import itertools

import numpy as np
from scipy.special import gammaln, logsumexp
from scipy.stats import chi2, norm, qmc

FREE = 6.0  # degrees of freedom of the clouds
NODES, WEIGHTS = np.polynomial.legendre.leggauss(10)


class Site:
    """g_c(b, h) and its derivatives at paired b and h."""

    def __init__(self, phi, d, delta):
        self.phi, self.d, self.delta = phi, float(d), float(delta)

    def __call__(self, b, h):
        """g, g_b, g_bb, g_h, g_hh, g_bh, each like b."""
        if not self.phi.bounded:
            return self._linear(b, h)
        root = np.sqrt(self.d)
        span = self.phi.supremum - self.phi.infimum
        peak = max(abs(self.phi.supremum), abs(self.phi.infimum))
        reach = root * np.sqrt(2.0 * (45.0 + np.abs(b).max() * span + abs(self.delta) * peak**2))
        low, high = h.min() - reach, h.max() + reach
        edges = np.linspace(low, high, max(8, int(np.ceil((high - low) / min(1.2 * root, 0.8)))) + 1)
        kinks = [kink for kink in self.phi.kinks if low < kink < high]
        edges = np.unique(np.concatenate([edges, kinks]))
        centre, half = 0.5 * (edges[1:] + edges[:-1]), 0.5 * (edges[1:] - edges[:-1])
        z = (centre[:, None] + half[:, None] * NODES).ravel()
        log_weight = (np.log(half)[:, None] + np.log(WEIGHTS)).ravel() - 0.5 * np.log(2 * np.pi * self.d)
        value = self.phi(z)
        fixed = log_weight + 0.5 * self.delta * value**2
        out = np.empty((6, len(b)))
        size = max(16, 2_000_000 // len(z))
        for i in range(0, len(b), size):
            part = slice(i, i + size)
            xi = (z - h[part, None]) / root
            exponent = b[part, None] * value + fixed - 0.5 * xi**2
            top = exponent.max(axis=1, keepdims=True)
            w = np.exp(exponent - top)
            total = w.sum(axis=1)
            w /= total[:, None]
            mean, first = w @ value, (w * xi).sum(axis=1)
            apart, away = value - mean[:, None], xi - first[:, None]
            out[0, part] = top[:, 0] + np.log(total)
            out[1, part], out[3, part] = mean, first / root
            out[2, part] = (w * apart**2).sum(axis=1)
            out[4, part] = ((w * away**2).sum(axis=1) - 1.0) / self.d
            out[5, part] = (w * apart * away).sum(axis=1) / root
        return out

    def _linear(self, b, h):
        """phi(z) = slope z."""
        slope = float(self.phi(1.0))
        b, delta, d = slope * b, slope**2 * self.delta, self.d
        rest, one = 1.0 - delta * d, np.ones_like(b)
        g = (b * h + 0.5 * delta * h**2 + 0.5 * b**2 * d) / rest - 0.5 * np.log(rest)
        return np.array([
            g, slope * (h + b * d) / rest, slope**2 * d / rest * one, (b + delta * h) / rest, delta / rest * one,
            slope / rest * one,
        ])  # fmt: skip


class Weight:
    """The integrand of a layer: root (C, r) of b, spread (C, q) of h, sizes n (C,), own variance d and delta (C,)."""

    def __init__(self, phi, n, root, spread, d, delta):
        self.phi, self.n, self.root, self.spread = phi, n, root, spread
        self.sites = [Site(phi, *pair) for pair in zip(d, delta)]
        self.r, self.size = root.shape[1], root.shape[1] + spread.shape[1]
        self.both = np.concatenate([root, spread], axis=1)

    def sites_at(self, x):
        """(6, C, N) g and derivatives of every class."""
        b, h = x[:, : self.r] @ self.root.T, x[:, self.r :] @ self.spread.T
        return np.stack([site(b[:, c], h[:, c]) for c, site in enumerate(self.sites)], axis=1)

    def log(self, x, g=None):
        """ln of the weight, (N,)."""
        g = self.sites_at(x) if g is None else g
        return -0.5 * (x**2).sum(axis=1) + self.n @ g[0]

    def slopes(self, x):
        """ln of the weight, its gradient (N, k) and Hessian (N, k, k)."""
        g = self.sites_at(x)
        n = self.n[:, None]
        gradient = np.concatenate([(n * g[1]).T @ self.root, (n * g[3]).T @ self.spread], axis=1) - x
        blocks = [np.einsum("cn,ci,cj->nij", n * g[i], a, b) for i, a, b in (
            (2, self.root, self.root), (5, self.root, self.spread), (4, self.spread, self.spread))]  # fmt: skip
        upper = np.concatenate([blocks[0], blocks[1]], axis=2)
        lower = np.concatenate([blocks[1].transpose(0, 2, 1), blocks[2]], axis=2)
        return self.log(x, g), gradient, np.concatenate([upper, lower], axis=1) - np.eye(self.size)

    def maxima(self, rng, count=60, steps=80):
        """Where damped Newton ends, (k, size), those within 35 of the highest, with covariances (k, size, size)."""
        ends = (self.phi.infimum, self.phi.supremum) if self.phi.bounded else (-1.0, 1.0)
        words = np.array(list(itertools.product(ends, repeat=len(self.n))))
        x = np.zeros((2 * len(words) + 1 + count, self.size))
        x[: len(words), : self.r] = (words * self.n) @ self.root
        if self.spread.shape[1]:  # and with fields h on the side of b
            again = x[len(words) : 2 * len(words)]
            again[:, : self.r] = x[: len(words), : self.r]
            wanted = 2.0 * np.sqrt((self.spread**2).sum(axis=1)) * np.sign(again[:, : self.r] @ self.root.T)
            again[:, self.r :] = np.linalg.lstsq(self.spread, wanted.T, rcond=None)[0].T
        x[2 * len(words) + 1 :] = rng.normal(size=(count, self.size)) * rng.choice([1.0, 4.0, 16.0], (count, 1))
        damping = np.full(len(x), 1.0)
        value, gradient, hessian = self.slopes(x)
        for _ in range(steps):
            values, vectors = np.linalg.eigh(hessian)
            inside = np.einsum("nji,nj->ni", vectors, gradient)
            step = np.einsum("nij,nj->ni", vectors, inside / (np.abs(values) + damping[:, None]))
            moved = x + step
            new = self.slopes(moved)
            up = new[0] >= value
            damping = np.where(up, 0.2 * damping, 8.0 * damping + 1e-3)
            x = np.where(up[:, None], moved, x)
            value = np.where(up, new[0], value)
            gradient = np.where(up[:, None], new[1], gradient)
            hessian = np.where(up[:, None, None], new[2], hessian)
        kept, covariances = [], []
        for i in np.argsort(-value):
            if value[i] < value.max() - 35.0:
                break
            values, vectors = np.linalg.eigh(-hessian[i])
            covariance = (vectors / np.maximum(values, 0.1)) @ vectors.T
            if all((x[i] - x[j]) @ np.linalg.solve(covariance, x[i] - x[j]) > 0.25 for j in kept):
                kept.append(i)
                covariances.append(covariance)
        return x[kept], np.array(covariances), value[kept]


class Cloud:
    """Mixture of Student-t distributions."""

    def __init__(self, share, centre, covariance):
        self.share, self.centre, self.covariance = share / share.sum(), centre, covariance
        self.factor = np.linalg.cholesky(covariance)

    def draw(self, power, seed):
        """2^power Sobol points, stratified over the clouds."""
        size = self.centre.shape[1]
        u = np.clip(qmc.Sobol(size + 2, scramble=True, seed=seed).random_base2(power), 1e-15, 1.0 - 1e-15)
        pick = np.minimum(np.searchsorted(np.cumsum(self.share), u[:, 0]), len(self.share) - 1)
        t = norm.ppf(u[:, 2:]) / np.sqrt(chi2.ppf(u[:, 1], FREE) / FREE)[:, None]
        return self.centre[pick] + np.einsum("nij,nj->ni", self.factor[pick], t)

    def logs(self, x):
        """(N, clouds) ln of the density of each, times its share."""
        size = x.shape[1]
        apart = x[:, None, :] - self.centre
        white = np.einsum("kij,nkj->nki", np.linalg.inv(self.factor), apart)
        norms = np.log(np.diagonal(self.factor, axis1=1, axis2=2)).sum(axis=1)
        constant = gammaln(0.5 * (FREE + size)) - gammaln(0.5 * FREE) - 0.5 * size * np.log(FREE * np.pi)
        power = -0.5 * (FREE + size) * np.log1p((white**2).sum(axis=2) / FREE)
        return np.log(np.maximum(self.share, 1e-300)) + constant - norms + power

    def adapted(self, x, weight):
        """Clouds that fit points of these weights better; each keeps a little of its share."""
        logs = self.logs(x)
        belongs = np.exp(logs - logsumexp(logs, axis=1, keepdims=True)) * weight[:, None]
        mass = belongs.sum(axis=0)
        centre, covariance = self.centre.copy(), self.covariance.copy()
        for k in np.flatnonzero(mass > 0.0):
            w = belongs[:, k] / mass[k]
            if 1.0 / (w**2).sum() < 8 * x.shape[1]:
                continue
            centre[k] = w @ x
            apart = x - centre[k]
            covariance[k] = (w[:, None] * apart).T @ apart + 1e-9 * np.eye(x.shape[1])
        return Cloud(mass / mass.sum() + 0.02 / len(mass), centre, covariance)


def layer_means(weight, rng, scramblings=8, power=13, rounds=6):
    """Per scrambling: ln Z, <g_b g_b^T>, <g_bb>, <g_h g_h^T>, <g_hh>; and the effective share of the points."""
    centre, covariance, value = weight.maxima(rng)
    height = value + 0.5 * np.linalg.slogdet(covariance)[1]
    cloud = Cloud(np.exp(height - height.max()) + 1e-3, centre, 1.3 * covariance)
    for _ in range(rounds):
        x = cloud.draw(12, rng)
        log = weight.log(x) - logsumexp(cloud.logs(x), axis=1)
        # Tempered at first, so that no single point decides.
        for temper in (1.0, 0.5, 0.25, 0.1):
            w = np.exp(temper * (log - log.max()))
            if w.sum() ** 2 / (w**2).sum() > 0.1 * len(w) or temper == 0.1:
                break
        cloud = cloud.adapted(x, w / w.sum())
    found, effective = [], []
    for _ in range(scramblings):
        x = cloud.draw(power, rng)
        g = weight.sites_at(x)
        log = weight.log(x, g) - logsumexp(cloud.logs(x), axis=1)
        w = np.exp(log - log.max())
        total = w.sum()
        effective.append(total**2 / (w**2).sum() / len(w))
        w /= total
        found.append((
            log.max() + np.log(total / len(w)) - 0.5 * weight.size * np.log(2 * np.pi), (g[1] * w) @ g[1].T, g[2] @ w,
            (g[3] * w) @ g[3].T, g[4] @ w,
        ))  # fmt: skip
    return found, min(effective)


def _root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    keep = values > 1e-13 * max(values[-1], 1e-300)
    return vectors[:, keep] * np.sqrt(values[keep])


def deep_residual(network, task, tau, solution, seed=0, **options):
    """Violations of all equations and their errors, two arrays, in units of the blocks; then the least effective share.

    Entries: K, d, k~, delta of every layer below the top, the equation of t (in units of the largest target), and Phi
    (in units of 1 + |Phi|).
    """
    rng = np.random.default_rng(seed)
    n, variance = task.n_samples * task.fractions, network.sigma_a**2 / task.n_samples**network.beta
    scale, depth = network.sigma_w**2, network.depth
    s, found, share = solution, [], 1.0
    for layer in range(depth):
        top = layer == depth - 1
        root = np.sqrt(variance) * s.t if top else _root(s.tilde[layer])
        delta = np.zeros(len(n)) if top else s.delta[layer]
        spread = np.zeros((len(n), 0)) if layer == 0 else _root(scale * s.kernel[layer - 1])
        d = np.full(len(n), network.k) if layer == 0 else scale * s.d[layer - 1]
        means, effective = layer_means(Weight(network.activation, n, root, spread, d, delta), rng, **options)
        found.append(means)
        share = min(share, effective)
    rows = []
    for scramble in range(len(found[0])):
        parts, phi = [], 0.0
        for layer in range(depth):
            log_z, kernel, d, tilde, delta = found[layer][scramble]
            phi += log_z
            if layer < depth - 1:
                parts += [_relative(kernel, s.kernel[layer], 1e-3), _relative(d, s.d[layer], 1e-6)]
                own, conjugate = s.delta[layer], s.tilde[layer]
                trace = n @ (conjugate * s.kernel[layer]) @ n + n @ (s.d[layer] * np.diag(conjugate))
                phi -= 0.5 * (trace + n @ (own * (np.diag(s.kernel[layer]) + s.d[layer])))
            if layer > 0:
                parts += [
                    _relative(scale * tilde, s.tilde[layer - 1], 1.0 / task.n_samples),
                    _relative(scale * delta, s.delta[layer - 1], 0.02),
                ]
        phi += 0.5 * tau * n @ (s.t**2).sum(axis=1) - n @ (s.t * task.targets).sum(axis=1)
        outputs = variance * ((kernel * n) @ s.t + d[:, None] * s.t) + tau * s.t
        parts.append((outputs - task.targets).ravel() / max(np.abs(task.targets).max(), 1e-300))
        parts.append(np.array([(phi - s.free_energy) / (1.0 + abs(phi))]))
        rows.append(np.concatenate(parts))
    rows = np.array(rows)
    return rows.mean(axis=0), rows.std(axis=0, ddof=1) / np.sqrt(len(rows)), share


def plain_averages(phi, n, setting, count, seed=0):
    """Means over (b, h, z) drawn from the prior of a layer, each sample on its own: no class function, peak or lattice.

    b = root beta, h ~ N(0, covariance), z_mu ~ N(h_c, d_c) for n_c samples of class c; neurons weighted with
    exp(sum_mu b_c phi(z_mu) + delta_c phi(z_mu)^2 / 2). Two dictionaries, of means and of their standard errors:
    "log_z", and by ("kernel", c, e) and ("square", c) <phi phi'> of two samples and <phi^2> of one.
    """
    rng, n_classes = np.random.default_rng(seed), len(n)
    b = rng.normal(size=(count, setting.root.shape[1])) @ setting.root.T
    h = rng.normal(size=(count, n_classes)) @ _root(setting.covariance).T
    exponent, first, last = np.zeros(count), [], []
    for c, size in enumerate(n):
        value = phi(h[:, c, None] + np.sqrt(setting.d[c]) * rng.normal(size=(count, size)))
        exponent += b[:, c] * value.sum(axis=1) + 0.5 * setting.delta[c] * (value**2).sum(axis=1)
        first.append(value[:, 0])
        last.append(value[:, -1])
    weight = np.exp(exponent - exponent.max())
    mean, error = {}, {}
    mean["log_z"] = exponent.max() + np.log(weight.mean())
    error["log_z"] = weight.std() / weight.mean() / np.sqrt(count)
    weight /= weight.sum()

    def note(key, value):
        mean[key] = weight @ value
        error[key] = np.sqrt((weight**2) @ (value - mean[key]) ** 2)

    for c in range(n_classes):
        note(("square", c), first[c] ** 2)
        if n[c] > 1:
            note(("kernel", c, c), first[c] * last[c])
        for e in range(c):
            note(("kernel", c, e), first[c] * first[e])
    return mean, error


def _relative(found, given, floor):
    return (found - given).ravel() / max(np.abs(given).max(), floor)
