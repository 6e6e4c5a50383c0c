"""Linear networks of any depth on any data, in closed form (linear/THEORY.md).

phi(z) = z; the weights of layer l have variance sigma_l^2, the readout has s = sigma_a^2 / P^beta. Only the product of
the sigma_l enters the outputs, so everything is solved for the kernel K = prod_l sigma_l^2 X X^T / N_0 = F F^T, and the
kernel of layer l is divided by the sigma^2 of the layers above it.

At tau = 0, with w = F^+ Y and Q = w^T w = Y^T K^+ Y (m x m), for every eigenvalue q of Q

    v (1 + v q)^L = 1 / s,    u = s (1 + v q) = 1 / [v (1 + v q)^(L-1)]

are the eigenvalues of V and of the readout covariance U, and with f(x) = w^T F(x)

    K_l(x, x') = k(x, x') + f(x)^T M_l f(x'),   M_l = [(1 + VQ)^l - 1] Q^{-1} (l < L),   M_L = M_{L-1} + U^{-1},
    P(z^L | a) = N(f U^{-1} a, K_{L-1}).

At tau > 0 (L = 1), with K = sum_i lambda_i e_i e_i^T and y_i = e_i^T Y, U minimises the convex function

    F(U) = [tr U / s - ln det U + sum_i y_i (lambda_i U + tau)^{-1} y_i^T] / 2,

whose stationarity is U^{-1} = 1/s - t^T K t with Y = K t U + tau t; then f(x) = F(x) w, w = F^T t U, M_1 = U^{-1}.

Predictor variance. Given a, neurons are independent; the covariance of (a_r w_i) over neurons, in feature space, is
A = 1 (x) U + (w U^{-1} w^T) (x) U + swap, and Var f = rows of [A^{-1} + F^T F / tau]^{-1} / N plus what the features
leave out, rho*. At tau = 0 the first part vanishes: F has full column rank, so every output within the span of the
training inputs is fixed. For rho* the weights of layer 1 are a priori Gaussian and never seen; with the readout pulled
back to layer 1, of covariance B, Var f_r(x) = B_rr rho*(x) / N. Pulling the readout back through one layer is a network
of depth L - 1 with prior covariance U, which has the same V; so u_L = s (1 + vq), u_{L-1} = s (1 + vq)^2, ..., and
B = s (1 + VQ)^L = V^{-1} (U for L = 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from meanfield.problem.features import Features
from meanfield.theories.linear.coverage import deep_linear_refusal
from meanfield.validation import FloatArray

__all__ = ["LinearDataSolution", "linear_data_solve"]

_CONSISTENT = 1e-8  # relative misfit of targets that lie in the span of the inputs
_NEWTON_STEPS = 200


@dataclass(frozen=True, eq=False)
class LinearDataSolution:
    """Posterior of a linear network in units where all sigma_l = 1.

    Attributes
    ----------
    t : (P, m) array
        Order parameters; the training residual is tau t. Where duplicated inputs leave it open: of least norm.
    readout_covariance : (m, m) array
        U of P(a) = N(0, U).
    weights : (r, m) array
        w of the mean predictor f(x) = F(x) w.
    learned : (L + 1, m, m) array
        M_l of the kernels K_l = k + f^T M_l f; M_0 = 0.
    pulled_back : (m, m) array
        B, covariance of the readout pulled back to the first layer.
    objective : float
        min J = extremum of the action per neuron; sum over q of (L/2) ln(1 + vq) - (L + 1)/2 vq at tau = 0.
    residual : float
        Violation of s K_L t + tau t = Y, of U^{-1} = 1/s - t^T K_{L-1} t (times s) and of the recursion
        K_{l+1} K_l^{-1} = K_l K_{l-1}^{-1}, recomputed from t, U, w and M_l, relative to the largest target.
    duality_gap : float
        J(t) minus the value of the primal problem at U (0 for L > 1, where no bound is known).
    """

    t: FloatArray
    readout_covariance: FloatArray
    weights: FloatArray
    learned: FloatArray
    pulled_back: FloatArray
    objective: float
    residual: float
    duality_gap: float


def linear_data_solve(
    features: Features, targets: FloatArray, readout_variance: float, tau: float = 0.0, depth: int = 1
) -> LinearDataSolution:
    """Solve the equations above.

    Parameters
    ----------
    features : Features
        F (P, r) of the kernel with all sigma_l^2 included.
    targets : (P, m) array
        Y.
    readout_variance : float
        s = sigma_a^2 / P^beta.
    tau : float
        N T >= 0.
    depth : int
        L.

    Raises
    ------
    ValueError
        At tau > 0 for depth > 1, where no closed form is known; at tau = 0 for targets that no linear network fits.
    """
    if reason := deep_linear_refusal(depth, tau):
        raise ValueError(f"{reason}.")
    f, y, s = features.matrix, np.asarray(targets), readout_variance
    power = (f**2).sum(axis=0)  # eigenvalues lambda_i of K: the columns of F are orthogonal
    along = f.T @ y / power[:, None]  # F^+ Y
    if tau == 0.0:
        _check_consistent(f, y, along)
        q, basis = np.linalg.eigh(along.T @ along)
        q = np.maximum(q, 0.0)
        v = _root(q, s, depth)
        u = s * (1.0 + v * q)
        growth = np.array([_growth(v, q, min(layer, depth - 1)) for layer in range(depth + 1)])
        growth[depth] += 1.0 / u
        covariance, pulled_back = _symmetric(basis, u), _symmetric(basis, 1.0 / v)
        learned = np.array([_symmetric(basis, row) for row in growth])
        weights = along
        # t = K_{L-1}^+ Y U^{-1}, of which F^T K_{L-1}^+ = F^+ divided by (1 + VQ)^(L-1), leaving V.
        t = (f / power) @ along @ _symmetric(basis, v)
        objective = float(np.sum(0.5 * depth * np.log1p(v * q) - 0.5 * (depth + 1) * v * q))
    else:
        root = np.sqrt(power)
        rows = (f / root).T @ y
        covariance = _minimise(power, rows, s, tau)
        inverse = np.linalg.inv(power[:, None, None] * covariance + tau * np.eye(len(covariance)))
        inside = np.einsum("ij,ijk->ik", rows, inverse)
        t = (f / root) @ inside + (y - (f / root) @ rows) / tau
        weights = (root[:, None] * inside) @ covariance
        learned = np.stack([np.zeros_like(covariance), np.linalg.inv(covariance)])
        pulled_back = covariance
        objective = _dual(f, y, t, s, tau)
    residual = _residual(f, y, t, covariance, weights, learned, s, tau)
    gap = 0.0 if depth > 1 else abs(_dual(f, y, t, s, tau) + _primal(f, y, covariance, s, tau))
    return LinearDataSolution(t, covariance, weights, learned, pulled_back, objective, residual, gap)


def linear_variance(features: Features, solution: LinearDataSolution, tau: float, new: FloatArray) -> FloatArray:
    """N Var f_r(x) (n, m) within the span of the training inputs, of features `new` (n, r); L = 1, or 0 at tau = 0.

    In blocks of m x m: A = 1 (x) U + R G R^T with R = w (x) 1 (r m x m^2), so two Woodbury steps of size m^2 do it.
    """
    w, u = solution.weights, solution.readout_covariance
    (r, m), n = w.shape, len(new)
    if tau == 0.0:
        return np.zeros((n, m))
    power = (features.matrix**2).sum(axis=0)
    inverse = np.linalg.inv(u)
    # Index (k, r) of R: component k of w times output r. Cov(w_i a_r, w_j a_s) = U_rs (1 + w U^-1 w^T)_ij + w_is w_jr.
    g = np.einsum("kl,rs->krls", inverse, u) + np.einsum("ks,lr->krls", np.eye(m), np.eye(m))
    g = g.reshape(m * m, m * m)
    gram = np.kron(w.T @ w, inverse)  # R^T (1 (x) U)^{-1} R
    h = np.linalg.solve(np.eye(m * m) + g @ gram, g)  # A^{-1} = 1 (x) U^{-1} - R' h R'^T, R' = w (x) U^{-1}
    block = np.linalg.inv(inverse + power[:, None, None] / tau * np.eye(m))  # (r, m, m)
    low = block @ (w[:, None, :, None] * inverse[None, :, None, :]).reshape(r, m, m * m)
    overlap = np.einsum("ik,irs,st->krt", w, low.reshape(r, m, m * m), np.eye(m * m))
    overlap = np.einsum("pr,krt->kpt", inverse, overlap).reshape(m * m, m * m)  # R'^T block R'
    middle = np.linalg.solve(np.eye(m * m) - h @ overlap, h)
    direct = (new**2) @ np.einsum("irr->ir", block)
    reach = np.einsum("ni,irt->nrt", new, low)
    return np.asarray(direct + np.einsum("nrt,tu,nru->nr", reach, middle, reach))


def _check_consistent(f: FloatArray, y: FloatArray, along: FloatArray) -> None:
    misfit = np.abs(y - f @ along).max(axis=1)
    worst = int(np.argmax(misfit))
    if misfit[worst] > _CONSISTENT * np.abs(y).max():
        raise ValueError(
            f"no linear network fits these targets: the inputs span {f.shape[1]} of {f.shape[0]} dimensions and the "
            f"best fit misses sample {worst} by {misfit[worst]:.3g}. Duplicated inputs with different targets, more "
            "samples than inputs, or inputs centred without centring the targets do this; give tau > 0 (depth 1)."
        )


def _root(q: FloatArray, s: float, depth: int) -> FloatArray:
    """v of v (1 + v q)^L = 1 / s by Newton's method in x = ln v: convex and increasing, from where it is positive."""
    x = np.full(q.shape, -math.log(s))
    positive = q > 0.0
    steep = (x[positive] - depth * np.log(q[positive])) / (depth + 1)
    x[positive] = np.minimum(x[positive], steep)
    for _ in range(_NEWTON_STEPS):
        vq = np.exp(x) * q
        step = (x + depth * np.log1p(vq) + math.log(s)) / (1.0 + depth * vq / (1.0 + vq))
        x = x - step
        if np.all(np.abs(step) <= 1e-15 * np.maximum(1.0, np.abs(x))):
            break
    return np.exp(x)


def _growth(v: FloatArray, q: FloatArray, layer: int) -> FloatArray:
    """[(1 + v q)^l - 1] / q, also where q = 0."""
    return np.where(q > 0.0, np.expm1(layer * np.log1p(v * q)) / np.where(q > 0.0, q, 1.0), layer * v)


def _symmetric(basis: FloatArray, values: FloatArray) -> FloatArray:
    return np.asarray((basis * values) @ basis.T)


def _minimise(power: FloatArray, rows: FloatArray, s: float, tau: float) -> FloatArray:
    """U (m, m) that minimises F(U), by Newton's method with backtracking in the eigenbasis of U."""
    m = rows.shape[1]
    covariance = s * np.eye(m)
    value = _fractional(power, rows, covariance, s, tau)
    previous = math.inf
    for _ in range(_NEWTON_STEPS):
        u, basis = np.linalg.eigh(covariance)
        y = rows @ basis
        b = 1.0 / (power[:, None] * u + tau)
        c = b * y
        gradient = 0.5 * (np.diag(1.0 / s - 1.0 / u) - (c * power[:, None]).T @ c)
        cubic = np.einsum("i,ik,ij,il->kjl", power**2, b, c, c, optimize=True)
        hessian = np.einsum("kp,lr->klpr", np.diag(1.0 / u), np.diag(1.0 / u))
        hessian += np.einsum("kjl,kp->klpj", cubic, np.eye(m)) + np.einsum("lkj,lr->kljr", cubic, np.eye(m))
        step = -np.linalg.solve(0.5 * hessian.reshape(m * m, m * m), gradient.ravel()).reshape(m, m)
        step = 0.5 * (step + step.T)
        decrease = -float(np.sum(gradient * step))
        step = basis @ step @ basis.T
        close = decrease <= 1e-9 * max(1.0, abs(value))
        if close and decrease >= 0.5 * previous:  # the steps are rounding
            break
        previous = decrease if close else math.inf
        size = 1.0
        while True:
            trial = covariance + size * step
            trial_value = _fractional(power, rows, trial, s, tau)
            if close or trial_value <= value - 1e-4 * size * decrease:  # close to the minimum F is all rounding
                break
            size *= 0.5
        covariance, value = trial, trial_value
    return covariance


def _fractional(power: FloatArray, rows: FloatArray, covariance: FloatArray, s: float, tau: float) -> float:
    """F(U); infinite where U is not positive definite."""
    u, basis = np.linalg.eigh(covariance)
    if u[0] <= 0.0:
        return math.inf
    fit = np.sum((rows @ basis) ** 2 / (power[:, None] * u + tau))
    return float(0.5 * (np.sum(u / s - np.log(u)) + fit))


def _primal(f: FloatArray, y: FloatArray, covariance: FloatArray, s: float, tau: float) -> float:
    """Minus the lower bound of J at U, from sample space: F(U) - m (1 - ln s) / 2; the span alone at tau = 0."""
    power = (f**2).sum(axis=0)
    rows = (f / np.sqrt(power)).T @ y
    outside = 0.5 * float(np.sum((y - (f / np.sqrt(power)) @ rows) ** 2)) / tau if tau > 0.0 else 0.0
    return _fractional(power, rows, covariance, s, tau) + outside - 0.5 * y.shape[1] * (1.0 - math.log(s))


def _dual(f: FloatArray, y: FloatArray, t: FloatArray, s: float, tau: float) -> float:
    """J(t) = -<t, Y> + tau |t|^2 / 2 - ln det(1 - s t^T K t) / 2."""
    along = f.T @ t
    sign, log = np.linalg.slogdet(np.eye(y.shape[1]) - s * along.T @ along)
    return float(-np.sum(t * y) + 0.5 * tau * np.sum(t**2) - 0.5 * log) if sign > 0.0 else math.inf


def _residual(
    f: FloatArray,
    y: FloatArray,
    t: FloatArray,
    covariance: FloatArray,
    weights: FloatArray,
    learned: FloatArray,
    s: float,
    tau: float,
) -> float:
    fit, along = f @ weights, f.T @ t
    outputs = s * (f @ along + fit @ (learned[-1] @ (fit.T @ t))) + tau * t
    below = along.T @ along + (fit.T @ t).T @ learned[-2] @ (fit.T @ t)
    stiffness = covariance @ (np.eye(len(covariance)) - s * below) / s - np.eye(len(covariance))
    worst = max(float(np.abs(outputs - y).max()), float(np.abs(fit + tau * t - y).max()))
    # 1 + Q M_l grows by the same factor in every layer.
    gram = weights.T @ weights
    ratios = [np.eye(len(gram)) + gram @ layer for layer in learned]
    for low, middle, high in zip(ratios, ratios[1:], ratios[2:]):
        worst = max(worst, float(np.abs(np.linalg.solve(low, middle) - np.linalg.solve(middle, high)).max()))
    return max(worst / max(float(np.abs(y).max()), 1e-300), float(np.abs(stiffness).max()))
