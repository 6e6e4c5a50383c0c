"""P = infinity at the exponent 1/L with nothing of the solver: the cost of laws of codes, integrated and minimised.

Minus the limit of Phi is the least  L/2 tr (H / Gamma)^(1/L) + 1/2 tr y^T K^-1 y  over fields and weights of codes.
"""

import math

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize
from scipy.special import erf

X, W = np.polynomial.legendre.leggauss(400)
X, W = 9.0 * X, 9.0 * W * np.exp(-40.5 * X * X) / math.sqrt(2.0 * math.pi)  # of N(0, 1)
PHI = {"tanh": np.tanh, "erf": erf, "sigmoid": lambda z: 0.5 + 0.5 * erf(0.5 * math.sqrt(math.pi) * z)}
SMOOTH = ((1e-1, 1e-2), (1e-2, 1e-4), (1e-3, 1e-6), (1e-6, 1e-7), (1e-12, 1e-8))


class Laws:
    """The cost of a law of codes (fields (n, C), weights (n,)) for phi that is odd around phi(0).

    sigmas: of the weights above layers 1 to L - 1; ratios: widths of these in units of that of the last one.
    """

    def __init__(self, name, depth, p, y, sigmas=None, ratios=None):
        sigmas, ratios = sigmas or [1.0] * (depth - 1), ratios or [1.0] * (depth - 1)
        self.depth, self.p, self.y = depth, np.array(p), np.array(y, dtype=float).reshape(len(p), -1)
        phi, odd = PHI[name], name != "sigmoid"
        common, noise, self.gamma = 0.0, 1.0, 1.0
        for layer in range(1, depth):  # kernels of the prior; gains at no common field, where they are largest
            h = math.sqrt(common) * X
            mean = phi(h[:, None] + math.sqrt(noise) * X) @ W
            square = phi(h[:, None] + math.sqrt(noise) * X) ** 2 @ W
            gain = (phi(math.sqrt(noise) * X) * X) @ W / math.sqrt(noise)
            common, noise = (sigmas[layer - 1] ** 2 * part for part in (W @ mean**2, W @ (square - mean**2)))
            self.gamma = (noise if layer == 1 else self.gamma * (sigmas[layer - 1] * gain) ** 2) / ratios[layer - 1]
        h = np.linspace(-30.0, 30.0, 6001)
        self.mean = CubicSpline(h, phi(h[:, None] + math.sqrt(noise) * X) @ W)
        self.slope = self.mean.derivative()
        shared = np.zeros(len(p)) if odd else self.p
        self.root = (np.eye(len(p)) - shared[:, None]) * np.sqrt(self.p)

    def parts(self, field, weight, eps, delta):
        w, mean = field @ self.root, self.mean(field)
        values, vectors = np.linalg.eigh((w.T * weight) @ w / self.gamma)
        values = np.maximum(values, 0.0) + eps
        u = np.linalg.solve((mean.T * weight) @ mean + delta * np.eye(len(self.p)), self.y)
        cost = (
            0.5 * self.depth * (values ** (1 / self.depth) - eps ** (1 / self.depth)).sum() + 0.5 * (u * self.y).sum()
        )
        return cost, w, mean @ u, u, (vectors * values ** (1 / self.depth - 1.0)) @ vectors.T / self.gamma

    def split(self, x, count):
        """Fields and weights."""
        field, log = np.clip(x[: count * len(self.p)].reshape(count, -1), -29.0, 29.0), x[-count:]
        return field, np.exp(log - log.max()) / np.exp(log - log.max()).sum()

    def descent(self, field, weight, smooth=SMOOTH):
        x = np.append(field, np.log(weight))
        for eps, delta in smooth:
            x = minimize(self, x, (len(field), eps, delta), jac=True, method="BFGS", options={"maxiter": 300}).x
        return x

    def __call__(self, x, count, eps, delta):
        field, weight = self.split(x, count)
        cost, w, a, u, force = self.parts(field, weight, eps, delta)
        along = weight[:, None] * ((w @ force) @ self.root.T - (a @ u.T) * self.slope(field))
        each = 0.5 * ((w @ force) * w).sum(axis=1) - 0.5 * (a**2).sum(axis=1)
        return cost, np.concatenate([along.ravel(), weight * (each - weight @ each)])

    def least(self, starts, rng):
        """The lowest end of descents from random codes, and from random fields along one direction."""
        found = []
        for k in range(2 * starts):
            count = len(self.y.T) + k // 2
            field = rng.choice([-1.0, 1.0], (count, len(self.p))) * rng.uniform(0.4, 1.8)
            if k % 2:
                field = 1.5 * np.outer(rng.normal(size=count), rng.normal(size=len(self.p))) + rng.normal(
                    size=(count, 1)
                )
            x = self.descent(field + 0.1 * rng.normal(size=field.shape), np.ones(count))
            found.append(self(x, count, *SMOOTH[-1])[0])
        return float(np.nanmin(found))
