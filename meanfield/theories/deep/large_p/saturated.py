"""P -> infinity for bounded phi and readout variance sigma_a^2 / P: every class saturates.

THEORY.md, "P -> infinity, beta = 1, bounded phi".

    J(u) = -sum_c u_c.y_c + (tau/2) sum_c |u_c|^2 / p_c + max_S (sigma_a^2/2) |sum_c S_c u_c|^2,   u_c = p_c t_c
    -J*  = min over weights P_S of F(P) = 1/2 sum_r y_r^T (sigma_a^2 M(P) + tau diag(1/p))^{-1} y_r,  M = sum P_S S S^T

Both are convex; any u and any P bound the value from both sides, which is the certificate.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize, nnls

from meanfield.numerics.limits import check_time
from meanfield.theories.deep.system import DeepProblem
from meanfield.validation import FloatArray

__all__ = ["Saturated", "saturated_solve", "saturated_weights"]

_SWEEPS = (300, 1_000, 4_000, 15_000)
_ACTIVE = 1e-5
_TIED = 1e-6  # of the level, by which a code may miss it
_SUPPORT = 1e-9  # weight of a code that has any
_MAX_CLASSES = 12


@dataclass(frozen=True, eq=False)
class Saturated:
    """Codes of a network of two or more layers at P -> infinity.

    Attributes
    ----------
    words : (n, C) array
        Activations of the codes with weight, phi_min or phi_max on every class.
    weight : (n,) array
    readout : (n, m) array
        a_S = sigma_a^2 sum_c S_c u_c.
    t : (C, m) array
    objective : float
        J, the limit of Phi / P.
    gap : float
        J(u) + F(P), the distance between both bounds.
    residual : float
        Largest violation of y = (sigma_a^2 M + tau / p) u.
    nullity : int
        Dimension of the family of weights that are equally good; the ones reported have the largest entropy.
    """

    words: FloatArray
    weight: FloatArray
    readout: FloatArray
    t: FloatArray
    objective: float
    gap: float
    residual: float
    nullity: int


def saturated_solve(p: FloatArray, y: FloatArray, tau: float, sigma_a: float, low: float, high: float) -> Saturated:
    """Minimise J for fractions p (C,), targets y (C, m), and phi between `low` and `high`."""
    n_classes = len(p)
    if n_classes > _MAX_CLASSES:
        raise ValueError(
            f"the saturated theory lists all 2^C codes, up to C = {_MAX_CLASSES}, got {n_classes} classes."
        )
    words = np.array(list(itertools.product((high, low), repeat=n_classes)))
    words = words[np.abs(words).max(axis=1) > 0.0]
    # J is homogeneous: solved for the largest |y|, the largest |phi| and sigma_a of 1, where tolerances mean something
    y_size, phi_size = float(np.abs(y).max()) or 1.0, float(np.abs(words).max())
    stiffness = (sigma_a * phi_size) ** 2
    found = _solved(words / phi_size, p, y / y_size, tau / stiffness)
    return replace(
        found,
        words=found.words * phi_size,
        readout=found.readout * (y_size / phi_size),
        t=found.t * (y_size / stiffness),
        objective=found.objective * (y_size**2 / stiffness),
        gap=found.gap * (y_size**2 / stiffness),
        residual=found.residual * y_size,
    )


def _solved(words: FloatArray, p: FloatArray, y: FloatArray, tau: float) -> Saturated:
    """The same for words (n, C), targets and sigma_a of order 1."""
    u, weight = _optimum(words, p, y, tau)
    weight, nullity = _spread_out(words, weight, u)
    if tau == 0.0:
        u = _shortest(words, weight, u, p)
    total = words @ u
    length = (total**2).sum(axis=1)
    objective = float(-np.sum(u * y) + 0.5 * tau * np.sum(u**2 / p[:, None]) + 0.5 * length.max())
    matrix = (words.T * weight) @ words + tau * np.diag(1.0 / p)
    solved = np.linalg.lstsq(matrix, y, rcond=1e-12)[0]
    residual = float(np.abs(y - matrix @ u).max())
    primal = 0.5 * float(np.sum(y * solved)) if np.abs(matrix @ solved - y).max() < 1e-8 * np.abs(y).max() else np.inf
    kept = np.flatnonzero(weight > _SUPPORT)
    kept = kept[np.argsort(-weight[kept], kind="stable")]
    return Saturated(
        words[kept], weight[kept], total[kept], u / p[:, None], objective, objective + primal, residual, nullity
    )


def _optimum(words: FloatArray, p: FloatArray, y: FloatArray, tau: float) -> tuple[FloatArray, FloatArray]:
    """u and weights: a climb, ended by Newton as soon as that finds an optimum; beside transitions climbs are long."""
    weight = np.full(len(words), 1.0 / len(words))
    for sweeps in _SWEEPS:
        weight = _climb(words, weight, p, y, tau, sweeps)
        u, found, optimal = _newton(words, weight, p, y, tau)
        if optimal:
            return u, found
    near, rough = _in_one_go(words, u, p, y, tau)
    again, spread, optimal = _newton(words, rough, p, y, tau, near)
    return (again, spread) if optimal else (u, found)


def _in_one_go(
    words: FloatArray, u: FloatArray, p: FloatArray, y: FloatArray, tau: float
) -> tuple[FloatArray, FloatArray]:
    """u and weights by sequential quadratic programming in u and the level, |sum_c S_c u_c|^2 / 2 <= level: where
    many codes nearly tie. Weights are those that make the outputs, none negative."""
    share = np.repeat(p, y.shape[1])

    def lengths(x: FloatArray) -> FloatArray:
        return np.asarray(x[-1] - 0.5 * ((words @ x[:-1].reshape(u.shape)) ** 2).sum(axis=1))

    def slopes(x: FloatArray) -> FloatArray:
        total = words @ x[:-1].reshape(u.shape)
        along = (words[:, :, None] * total[:, None, :]).reshape(len(words), -1)
        return np.hstack([-along, np.ones((len(words), 1))])

    def value(x: FloatArray) -> tuple[float, FloatArray]:
        check_time()
        slope = tau * x[:-1] / share - y.ravel()
        return float(0.5 * x[:-1] @ (slope - y.ravel()) + x[-1]), np.append(slope, 1.0)

    level = 0.5 * float(((words @ u) ** 2).sum(axis=1).max())
    end = minimize(
        value, np.append(u.ravel(), level), jac=True, method="SLSQP", options={"ftol": 1e-16, "maxiter": 1000},
        constraints=[{"type": "ineq", "fun": lengths, "jac": slopes}],
    ).x  # fmt: skip
    near = end[:-1].reshape(u.shape)
    total = words @ near
    active = np.flatnonzero(lengths(end) < _TIED * end[-1])
    made = (words[active, :, None] * total[active, None, :]).reshape(len(active), -1)
    rows, target = np.vstack([made.T, np.ones(len(active))]), np.append((y - tau * near / p[:, None]).ravel(), 1.0)
    weight = np.zeros(len(words))
    if len(active):
        weight[active] = nnls(rows, target)[0]
    return near, weight


def _climb(words: FloatArray, weight: FloatArray, p: FloatArray, y: FloatArray, tau: float, sweeps: int) -> FloatArray:
    """Weights by P <- P |sum_c S_c u_c|, which never raises F."""
    noise = np.diag(tau / p)
    for sweep in range(sweeps):
        check_time()
        matrix = (words.T * weight) @ words + noise
        u = np.linalg.lstsq(matrix, y, rcond=1e-13)[0]
        length = np.linalg.norm(words @ u, axis=1)
        weight = weight * length
        weight /= weight.sum()
        if sweep % 50 == 49 and length.max() < (1.0 + 1e-9) * float(weight @ length):
            break
    return weight


def _newton(
    words: FloatArray, weight: FloatArray, p: FloatArray, y: FloatArray, tau: float,
    near: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray, bool]:  # fmt: skip
    """Newton on |sum_c S_c u_c|^2 = level for the active codes, y = (M + tau / p) u and sum P = 1, from u `near` or
    the one that belongs to the weights."""
    n_classes, m = y.shape
    start = (
        near if near is not None else np.linalg.lstsq((words.T * weight) @ words + np.diag(tau / p), y, rcond=1e-13)[0]
    )
    length = np.linalg.norm(words @ start, axis=1)
    waiting = [np.flatnonzero(length > (1.0 - threshold) * length.max()) for threshold in (_ACTIVE, 1e-3, 1e-7)]
    while waiting:
        active = waiting.pop(0)
        if not weight[active].sum() > 0.0:
            continue
        u, q = start.copy(), weight[active] / weight[active].sum()
        level = float(length.max()) ** 2
        chosen = words[active]
        for _ in range(30):
            check_time()
            total = chosen @ u
            misfit = y - (chosen.T * q) @ total - tau * u / p[:, None]
            slack = (total**2).sum(axis=1) - level
            error = np.concatenate([misfit.ravel(), slack, [1.0 - q.sum()]])
            if np.abs(error).max() < 1e-14 * max(1.0, level):
                break
            k = len(active)
            matrix = np.zeros((error.size, n_classes * m + k + 1))
            inner = (chosen.T * q) @ chosen + np.diag(tau / p)
            matrix[: n_classes * m, : n_classes * m] = np.kron(inner, np.eye(m))
            for i in range(k):
                column = np.outer(chosen[i], total[i]).ravel()
                matrix[: n_classes * m, n_classes * m + i] = column
                matrix[n_classes * m + i, : n_classes * m] = -2.0 * column
            matrix[n_classes * m : -1, -1] = 1.0
            matrix[-1, n_classes * m : -1] = 1.0
            step = np.linalg.lstsq(matrix, error, rcond=1e-12)[0]
            u = u + step[: n_classes * m].reshape(u.shape)
            q = q + step[n_classes * m : -1]
            level += float(step[-1])
        full = np.zeros(len(words))
        full[active] = q
        total = chosen @ u
        misfit = y - (chosen.T * q) @ total - tau * u / p[:, None]
        slack = (total**2).sum(axis=1) - level  # beside transitions codes that are none seem active
        if max(np.abs(misfit).max(), np.abs(slack).max()) > 1e-9 * max(1.0, level):
            continue
        worst = ((words @ u) ** 2).sum(axis=1).max()
        if q.min() > -1e-9 and worst <= level + 1e-9 * max(1.0, level):
            full = np.maximum(full, 0.0)
            return np.asarray(u, dtype=float), np.asarray(full / full.sum(), dtype=float), True
        negative = q <= q.min() + 1e-9  # a code that seemed active, with those that are exchangeable with it
        if q.min() < -1e-9 and not negative.all():
            waiting.insert(0, active[~negative])
    return np.asarray(start, dtype=float), weight, False


def _shortest(words: FloatArray, weight: FloatArray, u: FloatArray, p: FloatArray) -> FloatArray:
    """Of all optimal u at tau = 0 (same S.u for codes with weight, no code beyond these) the one to which u(tau) tends,
    that of smallest sum_c |u_c|^2 / p_c: classes of equal targets have equal t there."""
    root = np.sqrt(p)
    support = words[weight > _SUPPORT] * root
    rank = int(np.linalg.matrix_rank(support, tol=1e-9 * np.abs(support).max()))
    if rank == len(p):
        return u
    free = np.linalg.svd(support)[2][rank:]  # of v = u / sqrt(p)
    v = u / root[:, None]
    level = ((words @ u) ** 2).sum(axis=1).max() * (1.0 + 1e-12)

    def slack(along: FloatArray) -> FloatArray:
        moved = root[:, None] * (v + free.T @ along.reshape(len(free), -1))
        return np.asarray(1.0 - ((words @ moved) ** 2).sum(axis=1) / level)

    along = (-free @ v).ravel()
    if slack(along).min() < -1e-9:  # other codes come in before
        allowed = {"type": "ineq", "fun": slack}
        found = minimize(
            lambda x: float(((v + free.T @ x.reshape(len(free), -1)) ** 2).sum()), 0.0 * along, constraints=[allowed],
            method="SLSQP", options={"ftol": 1e-15, "maxiter": 300},
        )  # fmt: skip
        along = found.x if slack(found.x).min() > -1e-9 else 0.0 * along
    return np.asarray(root[:, None] * (v + free.T @ along.reshape(len(free), -1)))


def _spread_out(words: FloatArray, weight: FloatArray, u: FloatArray) -> tuple[FloatArray, int]:
    """Of all optimal weights (same M u, sum 1, active codes only) those of largest entropy, and their number."""
    total = words @ u
    length = (total**2).sum(axis=1)
    active = np.flatnonzero(length > (1.0 - 1e-8) * length.max())
    rows = np.vstack([np.array([np.outer(words[i], total[i]).ravel() for i in active]).T, np.ones(len(active))])
    nullity = len(active) - int(np.linalg.matrix_rank(rows, tol=1e-8 * np.abs(rows).max()))
    if nullity == 0:
        return weight, 0
    spread = np.zeros(len(words))
    spread[active] = largest_entropy(rows, weight[active])
    return spread / spread.sum(), nullity


def largest_entropy(rows: FloatArray, weight: FloatArray) -> FloatArray:
    """Of all positive q (n,) with the same rows @ q as the weights (n,) those of largest entropy; the weights if it is
    not found."""
    target = rows @ weight
    multiplier = np.zeros(len(rows))
    for _ in range(200):
        check_time()
        q = np.exp(np.clip(rows.T @ multiplier - 1.0, -60.0, 60.0))
        error = target - rows @ q
        if np.abs(error).max() < 1e-13:
            return np.asarray(q)
        step = np.linalg.lstsq((rows * q) @ rows.T, error, rcond=1e-12)[0]
        multiplier = multiplier + step * min(1.0, 2.0 / max(float(np.abs(rows.T @ step).max()), 1e-300))
    return np.asarray(q if np.abs(error).max() < 1e-9 else weight)


def saturated_weights(problem: DeepProblem, sweeps: int = 400) -> tuple[FloatArray, FloatArray]:
    """Code words (k, C) of saturated activations and their weights (k,), roughly, by P <- P |sum_c S_c u_c|."""
    n_classes = len(problem.n)
    low, high = problem.phi.infimum, problem.phi.supremum
    words = np.array(list(itertools.product((low, high), repeat=n_classes)))
    p = problem.n / problem.n_samples
    s = problem.readout_variance * problem.n_samples
    weight = np.full(len(words), 1.0 / len(words))
    for _ in range(sweeps):
        check_time()
        m = (words.T * weight) @ words
        u = np.linalg.solve(s * m + np.diag(max(problem.tau, 1e-6) / p), problem.y)
        weight = weight * np.linalg.norm(words @ u, axis=1)
        weight /= weight.sum()
    return words, weight
