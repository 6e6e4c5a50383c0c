"""Posteriors of the four schemes found by an independent method (NumPy quadrature and SciPy roots); pytest fixtures."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize, root
from scipy.special import erf

from meanfield.posterior.certificate import Certificate
from meanfield.problem.class_task import class_task
from meanfield.problem.network import Network
from meanfield.theories.single_layer.posterior import SingleNeuronPosterior
from meanfield.theories.single_layer.solution import Solution

P3 = np.array([0.5, 0.25, 0.25])
CERTIFICATE = Certificate(1e-15, 1e-12, 1e-9, True, True, 0, 100)
_X, _W = np.polynomial.legendre.leggauss(400)
_Z = np.concatenate([8 * _X - 8, 8 * _X + 8])  # two panels, a kink at 0 lies between them


def sigmoid(z):
    return 0.5 * (1 + erf(math.sqrt(math.pi) * z / 2))


def relu(z):
    return np.maximum(z, 0)


def cumulant(phi, kappa):
    """G, G', G'' by Gauss-Legendre quadrature, k = 1."""
    value = phi(_Z)
    weight = np.concatenate([8 * _W, 8 * _W]) * stats.norm.pdf(_Z) * np.exp(np.asarray(kappa)[..., None] * value)
    total = weight.sum(-1)
    mean = (weight * value).sum(-1) / total
    return np.log(total), mean, (weight * value**2).sum(-1) / total - mean**2


def make(name, task, t, level, readout, weight, *, tau=0.0, direction=(), outlier=(), **more):
    p, y = task.fractions, task.targets
    objective = level - p @ (t * y).sum(1) + 0.5 * tau * p @ (t**2).sum(1)
    solution = Solution(
        t, objective, level, readout, weight, np.asarray(direction), np.asarray(outlier), CERTIFICATE,
        n_samples=task.n_samples, tau=tau, **more,
    )  # fmt: skip
    return SingleNeuronPosterior(Network(name), task, tau, solution)


@pytest.fixture(scope="module")
def redundant():
    """Sigmoid, y_- = 0.5: reference value of single_layer/THEORY.md, polished on the KKT system."""
    task = class_task(P3, off=0.5)
    y = task.targets
    a = np.array(
        [[-0.3275, 1.6126, 1.6126], [1.7322, 1.5739, -0.3357], [1.7322, -0.3357, 1.5739], [1.164, 1.3449, 1.3449]]
    )
    weight = np.array([0.3316, 0.3154, 0.3154, 0.0376])

    def dual(t):
        g, g1, _ = cumulant(sigmoid, a @ t.reshape(3, 3).T)
        gradient = P3[:, None] * (np.einsum("n,nm,nc->cm", weight, a, g1) - y)
        return weight @ g @ P3 - P3 @ (t.reshape(3, 3) * y).sum(1), gradient.ravel()

    def kkt(x):
        t, a, weight, level = x[:9].reshape(3, 3), x[9:21].reshape(4, 3), x[21:25], x[25]
        g, g1, _ = cumulant(sigmoid, a @ t.T)
        return np.concatenate([
            (g1 * P3 @ t - a).ravel(),
            g @ P3 - 0.5 * (a**2).sum(1) - level,
            (np.einsum("n,nm,nc->cm", weight, a, g1) - y).ravel(),
            [weight.sum() - 1],
        ])  # fmt: skip

    t = minimize(dual, np.zeros(9), jac=True, method="BFGS", options={"gtol": 1e-7}).x
    found = root(
        kkt, np.concatenate([t, a.ravel(), weight, [0.4]]), method="lm", options={"xtol": 1e-15, "ftol": 1e-15}
    )
    assert np.abs(found.fun).max() < 1e-13
    x = found.x
    return make("sigmoid", task, x[:9].reshape(3, 3), x[25], x[9:21].reshape(4, 3), x[21:25])


@pytest.fixture(scope="module")
def sparse():
    """ReLU, y_- = 0: bulk and three outliers, from y_c = a_0 G' + w_c t_c, p_c |t_c|^2 = 1, a_0 = sum p_c G' t_c."""
    task = class_task(P3)

    def kkt(x):
        t, a, w = x[:9].reshape(3, 3), x[9:12], x[12:]
        _, g1, _ = cumulant(relu, t @ a)
        targets = np.outer(g1, a) + w[:, None] * t
        return np.concatenate([P3 * g1 @ t - a, (targets - task.targets).ravel(), P3 * (t**2).sum(1) - 1])

    u = np.array([[0.99, -0.11, -0.11], [-0.16, 0.98, -0.09], [-0.16, -0.09, 0.98]])
    start = np.concatenate([(u / np.sqrt(P3)[:, None]).ravel(), [0.31, 0.17, 0.17], [0.6, 0.47, 0.47]])
    found = root(kkt, start, method="lm", options={"xtol": 1e-15, "ftol": 1e-15})
    assert np.abs(found.fun).max() < 1e-13
    t, a, w = found.x[:9].reshape(3, 3), found.x[9:12], found.x[12:]
    g, _, _ = cumulant(relu, t @ a)
    direction = t / np.linalg.norm(t, axis=1)[:, None]
    # abar phi(zbar) = sqrt(w_o) u (sqrt(w_o) u.t) = w_o t
    return make("relu", task, t, P3 @ g - 0.5 * a @ a, a[None], np.ones(1), direction=direction, outlier=w)


@pytest.fixture(scope="module")
def analog():
    """Linear: U^2 = sigma_a^2 Y^T K_0^{-1} Y / P at large P, t = K_0^{-1} Y U^{-1} (linear/THEORY.md)."""
    task = class_task(P3, off=-0.3)
    y = task.targets
    value, vector = np.linalg.eigh(y.T @ (P3[:, None] * y))
    u = (vector * np.sqrt(value)) @ vector.T
    t = y @ np.linalg.inv(u)
    return make("linear", task, t, 0.0, np.zeros((0, 3)), np.zeros(0), gaussian_covariance=u)


@pytest.fixture(scope="module")
def finite():
    """Sigmoid, two classes, one output, P = 30: J minimised with the readout integral done by a fine Riemann sum."""
    n, sigma = 30.0, 1.0
    task = class_task(targets=[1.0, -1.0], n_samples=n)
    a = np.linspace(-7, 7, 401)

    def h(t):
        return -0.5 * a**2 / sigma**2 + cumulant(sigmoid, a[:, None] * t)[0] @ task.fractions

    def dual(t):
        exponent = n * h(t)
        top = exponent.max()
        integral = np.log(np.exp(exponent - top).sum() * (a[1] - a[0])) + top
        integral += 0.5 * math.log(n / (2 * math.pi * sigma**2))
        return integral / n - task.fractions @ (t * task.targets[:, 0])

    # By symmetry t = (t, -t) and the two codes have equal mass.
    options = {"xatol": 1e-9, "fatol": 1e-14}
    best = minimize(lambda x: dual(np.array([x[0], -x[0]])), [4.0], method="Nelder-Mead", options=options)
    t = np.array([best.x[0], -best.x[0]])
    density = np.exp(n * (h(t) - h(t).max()))
    right = density * (a > 0) / (density * (a > 0)).sum()
    mean = right @ a
    covariance = np.full((2, 1, 1), right @ (a - mean) ** 2)
    return make(
        "sigmoid", task, t[:, None], best.fun + task.fractions @ (t * task.targets[:, 0]), np.array([[mean], [-mean]]),
        np.array([0.5, 0.5]), covariance=covariance,
    )  # fmt: skip
