"""The term of order 1/N of deep networks with all samples apart: Phi and its second derivatives by every K_mu,nu,
K~_mu,nu and t_mu, from sums over a plain lattice of the preactivations of a few samples.

ln Z_l = ln int N(z; 0, C) exp(phi.K~ phi / 2), in the last layer exp(s |sum_mu t_mu phi_mu|^2 / 2); derivatives by K~
and t are averages of phi phi, those by C of the score (u u^T - C^-1) / 2, u = C^-1 z. Nothing of the package but phi.
"""

import itertools

import numpy as np
from scipy.special import log_ndtr


class SamplesApart:
    """A network at a posterior `post` with a whole number of samples in every class; spacing and radius of the lattice
    in standard deviations of z."""

    def __init__(self, post, spacing=0.65, radius=6.0):
        network, task, found = post.network, post.task, post.solution
        self.phi, self.depth, self.tau = network.activation, network.depth, post.tau
        n = np.rint(np.array(task.fractions) * task.n_samples).astype(int)
        self.labels = np.repeat(np.arange(len(n)), n)
        self.y = np.array(task.targets)[self.labels]
        self.samples, self.outputs = self.y.shape
        self.s = network.sigma_a**2 / task.n_samples**network.beta
        above = network.layer_sigmas or (network.sigma_w,) * (self.depth - 1)
        self.variance = np.square([network.sigma_w, *above])
        self.ratio = [*(network.width_ratios or (1.0,) * (self.depth - 1)), 1.0]
        line = spacing * np.arange(-int(radius / spacing), int(radius / spacing) + 1)
        x = np.stack(np.meshgrid(*[line] * self.samples, indexing="ij"), -1).reshape(-1, self.samples)
        self.x = x[(x**2).sum(axis=1) <= radius**2]
        self.log_prior = -0.5 * (self.x**2).sum(axis=1)
        self.log_prior -= np.log(np.exp(self.log_prior).sum())
        self.pairs = list(itertools.combinations_with_replacement(range(self.samples), 2))
        self.twice = np.array([1.0 if i == j else 2.0 for i, j in self.pairs])
        at = np.ix_(self.labels, self.labels)
        kernels = [found.kernel[i][at] + np.diag(found.d[i][self.labels]) for i in range(self.depth - 1)]
        conjugates = [found.tilde[i][at] + np.diag(found.delta[i][self.labels]) for i in range(self.depth - 1)]
        self.saddle = self.pack(kernels, conjugates, found.t[self.labels])
        self.kept = {}

    def pack(self, kernels, conjugates, t):
        rows, columns = np.transpose(self.pairs)
        parts = [one[rows, columns] for pair in zip(kernels, conjugates) for one in pair]
        return np.concatenate([*parts, np.ravel(t)])

    def matrix(self, entries):
        found = np.zeros((self.samples, self.samples))
        rows, columns = np.transpose(self.pairs)
        found[rows, columns] = found[columns, rows] = entries
        return found

    def places(self, layer):
        """Coordinates of K and K~ (or t) of a layer."""
        size = len(self.pairs)
        if layer == self.depth - 1:
            return None, np.arange(2 * size * layer, 2 * size * layer + self.y.size)
        return 2 * size * layer + np.arange(size), 2 * size * layer + size + np.arange(size)

    def neurons(self, x, layer, s, source):
        """ln Z, its gradient and Hessian by `places` of this layer's conjugates and the kernel below, <phi phi^T> and
        <|a|^2>; `source`: (i, j, size) of size phi_i phi_j, added to ln of the weight of the last layer."""
        top, own = layer == self.depth - 1, self.places(layer)[1]
        below = self.places(layer - 1)[0] if layer else np.empty(0, dtype=int)
        key = (layer, x[own].tobytes(), x[below].tobytes(), *((s, source) if top else ()))
        if key in self.kept:
            return self.kept[key]
        covariance = self.variance[layer] * (self.matrix(x[below]) if layer else np.eye(self.samples))
        z = self.x @ np.linalg.cholesky(covariance).T
        f = self.phi(z)
        if top:
            field = f @ x[own].reshape(self.y.shape)
            exponent = 0.5 * s * (field**2).sum(axis=1)
            if source is not None:
                exponent += source[2] * f[:, source[0]] * f[:, source[1]]
            by_own = s * (f[:, :, None] * field[:, None, :]).reshape(len(f), -1)
        else:
            exponent = 0.5 * ((f @ self.matrix(x[own])) * f).sum(axis=1)
            by_own = 0.5 * self.twice * np.stack([f[:, i] * f[:, j] for i, j in self.pairs], axis=1)
        log_weight = self.log_prior + exponent
        highest = log_weight.max()
        weight = np.exp(log_weight - highest)
        log_z = highest + np.log(weight.sum())
        weight /= weight.sum()
        features = [by_own]
        if layer:
            inverse = np.linalg.inv(covariance)
            u, scale = z @ inverse, 0.5 * self.twice * self.variance[layer]
            features.append(scale * np.stack([u[:, i] * u[:, j] - inverse[i, j] for i, j in self.pairs], axis=1))
        features = np.concatenate(features, axis=1)
        mean = weight @ features
        second = (features * weight[:, None]).T @ features - np.outer(mean, mean)
        kernel = (f * weight[:, None]).T @ f
        if top:  # the exponent itself is quadratic in t
            second[: len(own), : len(own)] += s * np.kron(kernel, np.eye(self.outputs))
        if layer:  # and the score depends on the kernel
            moved = self.moved_scores(inverse, (u * weight[:, None]).T @ u, layer)
            second[len(own) :, len(own) :] += scale[:, None] * moved
        square = self.outputs * s + s**2 * float(weight @ (field**2).sum(axis=1)) if top else 0.0
        self.kept[key] = log_z, mean, second, np.append(own, below), kernel, square
        return self.kept[key]

    def moved_scores(self, inverse, moment, layer):
        """(pairs, pairs) mean change of u u^T - inverse with each entry of the kernel below, `moment` being <u u^T>."""
        found = np.empty((len(self.pairs), len(self.pairs)))
        for b, (i, j) in enumerate(self.pairs):
            move = np.zeros((self.samples, self.samples))
            move[i, j] = move[j, i] = self.variance[layer]
            change = inverse @ move @ inverse - inverse @ move @ moment - moment @ move @ inverse
            found[:, b] = [change[one] for one in self.pairs]
        return found

    def fluctuations(self, x, s=None, source=None):
        """L, Phi, its gradient and Hessian, and <phi phi^T> with <|a|^2> of the last layer."""
        s = self.s if s is None else s
        gradient, hessian, reference = np.zeros(len(x)), np.zeros((len(x), len(x))), np.zeros((len(x), len(x)))
        value = 0.0
        for layer in range(self.depth):
            log_z, mean, second, at, kernel, square = self.neurons(x, layer, s, source)
            value += self.ratio[layer] * log_z
            gradient[at] += self.ratio[layer] * mean
            hessian[np.ix_(at, at)] += self.ratio[layer] * second
            own, conjugate = self.places(layer)
            if own is not None:
                half = 0.5 * self.ratio[layer] * self.twice
                value -= float(half @ (x[own] * x[conjugate]))
                gradient[own] -= half * x[conjugate]
                gradient[conjugate] -= half * x[own]
                reference[own, conjugate] = reference[conjugate, own] = -half
        t, y = x[conjugate], self.y.ravel()
        value += 0.5 * self.tau * t @ t - t @ y
        gradient[conjugate] += self.tau * t - y
        hessian += reference
        hessian[conjugate, conjugate] += self.tau
        reference[conjugate, conjugate] = 1.0
        L = -0.5 * (np.linalg.slogdet(hessian)[1] - np.linalg.slogdet(reference)[1])
        return L, value, gradient, hessian, np.append(kernel.ravel(), square)

    def directions(self):
        """Perturbations that respect the classes: of K and K~ of every layer between samples and on the diagonal,
        of t."""
        labels, classes = self.labels, range(self.labels.max() + 1)
        between, none = [], np.zeros((self.samples, self.samples))
        for c, e in itertools.combinations_with_replacement(classes, 2):
            one = np.outer(labels == c, labels == e).astype(float)
            between.append(np.maximum(one, one.T) * (1.0 - np.eye(self.samples)))
        shapes = [*between, *(np.diag((labels == c).astype(float)) for c in classes)]
        found, lower, nothing = [], self.depth - 1, np.zeros(self.y.shape)
        for layer in range(lower):
            for kind, shape in itertools.product(range(2), shapes):
                parts = [[none] * lower, [none] * lower]
                parts[kind][layer] = shape
                found.append(self.pack(*parts, nothing))
        for c, q in itertools.product(classes, range(self.outputs)):
            t = nothing.copy()
            t[labels == c, q] = 1.0
            found.append(self.pack([none] * lower, [none] * lower, t))
        return np.array(found)

    def one_loop(self, step=1e-3):
        """L, and coefficients of 1/N: kernels (L, samples, samples), t (samples, m), <|a|^2>."""
        x, labels = self.saddle, self.labels
        L, _, _, hessian, _ = self.fluctuations(x)
        along, slope, moving = self.directions(), [], []
        for one in along:
            move = step * max(float(np.abs(x[one > 0.0]).mean()), 1e-2) * one
            high, low = self.fluctuations(x + move), self.fluctuations(x - move)
            slope.append((high[0] - low[0]) / (2.0 * move.max()))
            moving.append((high[-1] - low[-1]) / (2.0 * move.max()))
        weights = -np.linalg.solve(along @ hessian @ along.T, slope)
        shift, observed = weights @ along, weights @ np.array(moving)
        kernels = [self.matrix(shift[self.places(layer)[0]]) for layer in range(self.depth - 1)]
        last = observed[:-1].reshape(self.samples, self.samples)
        known = {}
        for i, j in itertools.product(range(self.samples), repeat=2):
            alike = (*sorted((labels[i], labels[j])), i == j)
            if alike not in known:
                ends = [self.fluctuations(x, source=(i, j, size))[0] for size in (-2e-4, 2e-4)]
                known[alike] = (ends[1] - ends[0]) / 4e-4
            last[i, j] += known[alike]
        ends = [self.fluctuations(x, s=(1.0 + size) * self.s)[0] for size in (-1e-4, 1e-4)]
        square = observed[-1] + 2.0 * self.s * (ends[1] - ends[0]) / 2e-4
        return L, np.array([*kernels, last]), shift[self.places(self.depth - 1)[1]].reshape(self.y.shape), square


class CodesApart(SamplesApart):
    """The same with given shares (2,) of the neurons of a > 0 and a < 0, two codes of one output: the last layer has
    sum_g p_g ln Z_g, with a itself beside z (given which it is a Gaussian cut at 0)."""

    def __init__(self, post, shares, **lattice):
        self.shares = shares
        super().__init__(post, **lattice)

    def neurons(self, x, layer, s, source):
        if layer < self.depth - 1:
            return super().neurons(x, layer, s, source)
        own, below = self.places(layer)[1], self.places(layer - 1)[0]
        key = (layer, x[own].tobytes(), x[below].tobytes(), s, source)
        if key not in self.kept:
            parts = [self._code(x, layer, s, source, sign) for sign in (1.0, -1.0)]
            log_z, mean, second, kernel, square = (
                sum(p * one for p, one in zip(self.shares, kind)) for kind in zip(*parts)
            )
            self.kept[key] = log_z, mean, second, np.append(own, below), kernel, square
        return self.kept[key]

    def _code(self, x, layer, s, source, sign):
        own, below = self.places(layer)[1], self.places(layer - 1)[0]
        covariance = self.variance[layer] * self.matrix(x[below])
        inverse = np.linalg.inv(covariance)
        z = self.x @ np.linalg.cholesky(covariance).T
        f, u, scale = self.phi(z), z @ inverse, 0.5 * self.twice * self.variance[layer]
        field = f @ x[own]
        cut = sign * np.sqrt(s) * field
        log_weight = self.log_prior + 0.5 * s * field**2 + log_ndtr(cut)
        if source is not None:
            log_weight += source[2] * f[:, source[0]] * f[:, source[1]]
        a = s * field + sign * np.sqrt(s / (2 * np.pi)) * np.exp(-0.5 * cut**2 - log_ndtr(cut))
        square = s + s * field * a
        highest = log_weight.max()
        weight = np.exp(log_weight - highest)
        log_z = highest + np.log(weight.sum())
        weight /= weight.sum()
        score = scale * np.stack([u[:, i] * u[:, j] - inverse[i, j] for i, j in self.pairs], axis=1)
        features = np.concatenate([f * a[:, None], score], axis=1)
        mean = weight @ features
        second = (features * weight[:, None]).T @ features - np.outer(mean, mean)
        second[: len(own), : len(own)] += (f * (weight * (square - a**2))[:, None]).T @ f
        moved = self.moved_scores(inverse, (u * weight[:, None]).T @ u, layer)
        second[len(own) :, len(own) :] += scale[:, None] * moved
        return log_z, mean, second, (f * weight[:, None]).T @ f, float(weight @ square)
