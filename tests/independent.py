"""Second opinions in plain NumPy and SciPy: nothing here calls the package's solvers or tables."""

from __future__ import annotations

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy.optimize import minimize


class SingleSite:
    """G, G', G'' of a vectorised phi by composite Gauss-Legendre quadrature, panels split at the kinks."""

    def __init__(self, phi, k=1.0, kinks=(), reach=40.0, panels_per_unit=2):
        x, w = leggauss(24)
        edges = np.unique(
            np.concatenate([np.linspace(-reach, reach, int(2 * panels_per_unit * reach) + 1), np.asarray(kinks, float)])
        )
        centre, half = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
        z = (centre[:, None] + half[:, None] * x).ravel()
        self.log_weight = np.log((half[:, None] * w).ravel()) - z * z / (2 * k) - 0.5 * np.log(2 * np.pi * k)
        self.phi = phi(z)

    def __call__(self, kappa):
        kappa = np.asarray(kappa, float)
        exponent = kappa[..., None] * self.phi + self.log_weight
        top = exponent.max(-1, keepdims=True)
        weight = np.exp(exponent - top)
        total = weight.sum(-1, keepdims=True)
        mean = (weight @ self.phi) / total[..., 0]
        variance = (weight * (self.phi - mean[..., None]) ** 2).sum(-1) / total[..., 0]
        return top[..., 0] + np.log(total[..., 0]), mean, variance


def h(site, p, t, a, sigma_a=1.0):
    """Single-neuron action for readouts a (..., m)."""
    return -(a**2).sum(-1) / (2 * sigma_a**2) + site(a @ t.T)[0] @ p


def stationarity(site, task, solution, tau, sigma_a=1.0, k=1.0, growth=(0.0, 0.0)):
    """Largest violation of the stationarity equations of a solution at P -> infinity, bulk and outliers included."""
    p, y, t = task.fractions, task.targets, solution.t
    violations = [abs(solution.weight.sum() - 1.0)]
    kappa = solution.readout @ t.T
    _, mean, _ = site(kappa)
    gradient = -solution.readout / sigma_a**2 + (p * mean) @ t
    violations.append(np.abs(gradient).max())
    level = h(site, p, t, solution.readout, sigma_a)
    violations.append(np.ptp(level))
    produced = np.einsum("g,gr,gc->cr", solution.weight, solution.readout, mean) + tau * t
    for direction, weight in zip(solution.outlier_direction, solution.outlier_weight):
        kappa = t @ direction
        slope = k * np.where(kappa > 0, growth[1], growth[0]) * kappa
        produced = produced + weight * np.outer(slope, direction)
        violations.append(np.abs((p * slope) @ t - direction / sigma_a**2).max())
    violations.append(np.abs(y - produced).max())
    return max(violations)


def objective(task, t, level, tau):
    p = task.fractions[:, None]
    return level - (p * t * task.targets).sum() + tau / 2 * (p * t**2).sum()


def exchange(site, p, y, tau, growth=(0.0, 0.0), rounds=60, seed=0, tolerance=1e-9):
    """min J at P -> infinity, sigma_a = k = 1, by cutting readouts, SLSQP masters and L-BFGS ascents: (J, t).

    Generic and slow; the reference for speed. A box on t keeps the first masters bounded.
    """
    rng = np.random.default_rng(seed)
    n_classes, m = y.shape
    cuts = [np.zeros(m)]
    directions = []
    t = np.zeros((n_classes, m))
    box = 400.0

    def worst(t):
        found = [(0.0, None)]
        for u in np.concatenate([t, -t, rng.normal(size=(4, m))]):
            for _ in range(300):
                kappa = t @ u
                u = (p * np.where(kappa > 0, growth[1], growth[0]) * kappa) @ t
                if not np.linalg.norm(u) > 0:
                    break
                u = u / np.linalg.norm(u)
            kappa = t @ u
            found.append(((p * np.where(kappa > 0, growth[1], growth[0]) * kappa**2).sum(), u))
        return max(found, key=lambda pair: pair[0])

    def peaks(t):
        starts = [np.zeros(m), *cuts[-12:], *rng.normal(size=(4, m))]
        low, high = site(np.array([-30.0, 30.0]))[1] if max(growth) == 0 else (0.0, 1.2)
        for word in range(2**n_classes):
            pattern = np.where([(word >> c) & 1 for c in range(n_classes)], high, low)
            starts.append((p * pattern) @ t)
        best = []
        for start in starts:
            res = minimize(
                lambda a: -float(h(site, p, t, a)),
                start,
                jac=lambda a: a - (p * site(t @ a)[1]) @ t,
                method="L-BFGS-B",
                options={"ftol": 1e-15, "gtol": 1e-10},
            )
            best.append((-res.fun, res.x))
        return sorted(best, key=lambda pair: -pair[0])

    best_j, best_t = np.inf, t
    for _ in range(rounds):
        a = np.array(cuts)
        u = np.array(directions).reshape(-1, m)

        def value(x):
            t = x[:-1].reshape(n_classes, m)
            return x[-1] - (p[:, None] * t * y).sum() + tau / 2 * (p[:, None] * t**2).sum()

        def slope(x):
            t = x[:-1].reshape(n_classes, m)
            return np.append((p[:, None] * (tau * t - y)).ravel(), 1.0)

        def slack(x, a=a, u=u):
            t = x[:-1].reshape(n_classes, m)
            kappa = u @ t.T
            return np.append(
                x[-1] - h(site, p, t, a), 0.5 - 0.5 * (np.where(kappa > 0, growth[1], growth[0]) * kappa**2) @ p
            )

        def slack_slope(x, a=a, u=u):
            t = x[:-1].reshape(n_classes, m)
            mean = site(a @ t.T)[1]
            rows = -np.einsum("c,kc,kr->kcr", p, mean, a).reshape(len(a), n_classes * m)
            rows = np.hstack([rows, np.ones((len(a), 1))])
            kappa = u @ t.T
            inner = np.where(kappa > 0, growth[1], growth[0]) * kappa
            more = -np.einsum("c,oc,or->ocr", p, inner, u).reshape(len(u), n_classes * m)
            return np.vstack([rows, np.hstack([more, np.zeros((len(u), 1))])])

        start = np.append(best_t.ravel(), h(site, p, best_t, a).max())
        res = minimize(
            value,
            start,
            jac=slope,
            constraints={"type": "ineq", "fun": slack, "jac": slack_slope},
            bounds=[(-box, box)] * (n_classes * m) + [(None, None)],
            method="SLSQP",
            options={"ftol": 1e-13, "maxiter": 500},
        )
        model = res.fun
        t = res.x[:-1].reshape(n_classes, m)
        if max(growth) > 0:
            q, direction = worst(t)
            if q > 1.0:
                t = t / np.sqrt(q)
                directions.append(direction)
        found = peaks(t)
        j = objective_value(p, y, tau, t, found[0][0])
        if j < best_j:
            best_j, best_t = j, t
        if best_j - model < tolerance * (1 + abs(best_j)):
            break
        for height, a_new in found:
            near = min(np.abs(np.array(cuts) - a_new).max(1))
            if height > found[0][0] - 0.5 * (1 + abs(found[0][0])) and near > 1e-7:
                cuts.append(a_new)
    return best_j, best_t


def objective_value(p, y, tau, t, level):
    return level - (p[:, None] * t * y).sum() + tau / 2 * (p[:, None] * t**2).sum()
