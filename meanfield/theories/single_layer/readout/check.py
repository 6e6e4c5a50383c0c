"""Stationarity of a finite-P solution recomputed without the table (sigma_a = 1)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from meanfield.numerics.lattice_basis import unlike_shift
from meanfield.numerics.limits import check_time
from meanfield.theories.single_layer.compiled.ascent import ascend
from meanfield.theories.single_layer.compiled.laplace import laplace
from meanfield.theories.single_layer.compiled.outlier import worst_directions
from meanfield.theories.single_layer.readout.integral import ACCURACY, Outliers, ReadoutIntegral, Sums
from meanfield.theories.single_layer.readout.nodes import common_regions, direct_samples
from meanfield.validation import FloatArray

__all__ = [
    "Direct",
    "extra_starts",
    "laplace_error",
    "laplace_residual",
    "lattice_residual",
    "outlier_residual",
    "stationarity",
]

_EXTRA_STARTS = 64

Direct = Callable[[FloatArray], tuple[FloatArray, FloatArray, FloatArray]]


def lattice_residual(
    problem: ReadoutIntegral, t: FloatArray, weight: FloatArray, outliers: Outliers, judged: Sums
) -> tuple[float, float]:
    """Stationarity of (t, weights), and J(t), recomputed from direct evaluations of G on a finer, shifted lattice.

    The weights are those of the regions of `judged`; where the other lattice joins other codes, those of groups.

    Maxima of h are searched again from extra starts, so that a missed code shows up as missing weight.
    """
    accuracy = 0.1 * problem.accuracy
    maxima, height = problem.maxima(t, extra_starts(problem, t))
    nodes, seeds = problem.grow(t, maxima, height, accuracy, unlike_shift(t.shape[1]), accuracy)
    groups = common_regions(judged.detail, judged.maxima, nodes, seeds)
    if groups is None:  # found on one lattice only: all weights follow from h
        group, weight = np.zeros(nodes.n_regions, dtype=np.int64), np.ones(1)
    else:
        group, weight = groups[1], np.asarray(np.bincount(groups[0], weight), dtype=np.float64)
    share, first = direct_samples(problem.single_site).sums(
        problem.p, t, problem.n_samples, height[0], nodes, group, weight.size
    )
    sums = Sums(0.0, np.log(share), first / share[:, None], np.empty(0), maxima, height[0], None)
    cell = nodes.log_cell(problem.n_samples)
    objective = problem.linear(t) + height[0] + (np.log(share.sum()) + cell) / problem.n_samples
    return stationarity(problem, t, sums, weight, outliers), float(objective)


def laplace_residual(
    problem: ReadoutIntegral, direct: Direct, t: FloatArray, weight: FloatArray, outliers: Outliers
) -> float:
    """Stationarity of Laplace's J at (t, weights), recomputed with `direct` in plain NumPy from maxima found afresh."""
    maxima, height = problem.maxima(t, extra_starts(problem, t))
    maxima = maxima[problem.n_samples * (height - height[0]) > np.log(ACCURACY)]
    if len(maxima) != weight.size:
        return float("inf")
    p, d = problem.p, 2e-3
    log_share, first = np.empty(weight.size), np.empty((weight.size, t.size))
    climb = 0.0
    for k, a in enumerate(maxima):
        kappa = t @ a
        g0, g1, g2 = direct(kappa)
        curvature = [direct(kappa + j * d)[2] for j in (-2, -1, 1, 2)]
        g3 = (curvature[0] - 8 * curvature[1] + 8 * curvature[2] - curvature[3]) / (12 * d)
        inverse = np.linalg.inv(np.eye(a.size) - (t.T * (p * g2)) @ t)
        climb = max(climb, float(np.abs(t.T @ (p * g1) - a).max()))
        g4 = (-curvature[0] + 16 * curvature[1] - 30 * g2 + 16 * curvature[2] - curvature[3]) / (12 * d * d)
        overlap = t @ inverse @ t.T
        spread = np.diag(overlap)
        moved = -inverse @ (t.T @ (p * g3 * spread))
        quartic = 0.125 * (p * g4) @ spread**2
        cubic = (p * g3) @ (0.125 * np.outer(spread, spread) * overlap + overlap**3 / 12) @ (p * g3)
        log_share[k] = problem.n_samples * (p @ g0 - 0.5 * a @ a) + 0.5 * np.linalg.slogdet(inverse)[1]
        log_share[k] += (quartic + cubic) / problem.n_samples
        determinant = -np.outer(g3 * spread, a) - 2 * g2[:, None] * (t @ inverse)
        determinant += np.outer(g1, moved) + np.outer(g2 * (t @ moved), a)
        first[k] = (p[:, None] * (np.outer(g1, a) - 0.5 * determinant / problem.n_samples)).ravel()
    sums = Sums(0.0, log_share, first, np.empty(0), maxima, height[0], None)
    return max(climb, stationarity(problem, t, sums, weight, outliers))


def laplace_error(problem: ReadoutIntegral, t: FloatArray, weight: FloatArray, sums: Sums) -> float:
    """What the first order that Laplace's method leaves out, 1 / P^2, can change in the residual.

    The correction c of each mode's ln share enters its weight, but not the slope of ln share; the next order of
    ln share is taken to be c^2.
    """
    correction = sums.detail[-1]
    heavy = np.flatnonzero(weight > 0.1 * ACCURACY)
    slope = np.zeros(t.size)
    step = 1e-4 * (1.0 + float(np.abs(t).max()))
    for i in range(t.size):
        check_time()
        moved = []
        for sign in (1.0, -1.0):
            near = t.copy()
            near.flat[i] += sign * step
            modes = sums.maxima[heavy].copy()
            for a in modes:
                ascend(problem.table, problem.p, near, a)
            moved.append(laplace(problem.table, problem.p, near, problem.n_samples, modes)[-1])
        slope[i] = weight[heavy] @ (moved[0] - moved[1]) / (2.0 * step * problem.n_samples)
    apart = np.abs(sums.first - weight @ sums.first)
    return problem.residual(np.abs(slope) + (weight * correction**2) @ apart)


def outlier_residual(problem: ReadoutIntegral, t: FloatArray, outliers: Outliers) -> float:
    """How far outliers are from q(u_o) = 1/2 and stationary, and t from sum_c p_c g(t_c.u) <= 1 for every u."""
    if not problem.unbounded:
        return 0.0
    table, p, m = problem.table, problem.p, t.shape[1]
    _, worst, _ = worst_directions(table, p, t, 2.0, np.empty((1, m)), np.empty(1))
    error = max(0.0, float(worst) - 1.0)
    for u in outliers.direction:
        kappa = t @ u
        pull = t.T @ (p * problem.growth(kappa) * kappa)
        error = max(error, float(np.abs(pull - u).max()))  # stationary with eigenvalue 2 q = 1
    return error


def stationarity(problem: ReadoutIntegral, t: FloatArray, sums: Sums, weight: FloatArray, outliers: Outliers) -> float:
    gradient = problem.gradient(t, sums, weight, outliers)
    return max(problem.residual(gradient), problem.share_error(sums, weight), outlier_residual(problem, t, outliers))


def extra_starts(problem: ReadoutIntegral, t: FloatArray) -> FloatArray:
    return (2.0 * _evenly(t.shape[1]) - 1.0) * problem.reach(t)


@lru_cache(maxsize=16)
def _evenly(m: int) -> FloatArray:
    return np.random.default_rng(0).random((_EXTRA_STARTS, m))
