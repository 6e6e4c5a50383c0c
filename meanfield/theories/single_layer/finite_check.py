"""Codes of a finite-P solution, and its stationarity recomputed without the table (sigma_a = 1)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from meanfield.numerics.lattice_basis import unlike_shift
from meanfield.theories.single_layer.compiled.ascent import ascend
from meanfield.theories.single_layer.compiled.laplace import laplace
from meanfield.theories.single_layer.compiled.lattice import Nodes, basin_roots
from meanfield.theories.single_layer.compiled.outlier import worst_directions
from meanfield.theories.single_layer.readout_integral import ACCURACY, Outliers, ReadoutIntegral, Sums
from meanfield.validation import FloatArray

__all__ = ["Direct", "laplace_error", "laplace_residual", "lattice_codes", "lattice_residual", "outlier_residual"]

_EXTRA_STARTS = 64
_CHUNK = 50_000  # lattice nodes evaluated at once

Direct = Callable[[Any], tuple[FloatArray, FloatArray, FloatArray]]


def lattice_codes(
    problem: ReadoutIntegral, t: FloatArray, weight: FloatArray, sums: Sums
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Weight, mode, mean, covariance of the basin of every local maximum of h.

    Basins are those of steepest ascent on the lattice; where codes overlap, the cut between them is a convention.
    """
    nodes: Nodes = sums.detail
    m = t.shape[1]
    roots = basin_roots(nodes)
    inside = roots >= 0
    position, basin = np.unique(roots[inside], return_inverse=True)
    basis = problem.basis(problem.accuracy)
    # Two lattice maxima can belong to one maximum of h, on a ridge that runs across the axes.
    modes: list[FloatArray] = []
    code = np.empty(position.size, dtype=np.int64)
    for i, start in enumerate(nodes.index[position] @ basis):
        ascend(problem.table, problem.p, t, start)
        known = [j for j, mode in enumerate(modes) if np.abs(mode - start).max() < 1e-5 * (1.0 + np.abs(start).max())]
        code[i] = known[0] if known else len(modes)
        if not known:
            modes.append(start)
    region = nodes.region[inside]
    mass = np.exp(nodes.exponent[inside])
    mass *= weight[region] / np.bincount(region, mass, minlength=weight.size)[region]
    label = code[basin]
    a = nodes.index[inside] @ basis
    total = np.asarray(np.bincount(label, mass, minlength=len(modes)), dtype=np.float64)
    mean = np.stack([np.bincount(label, mass * x, minlength=len(modes)) for x in a.T], axis=1) / total[:, None]
    away = a - mean[label]
    covariance = np.empty((len(modes), m, m))
    for r, q in itertools.product(range(m), repeat=2):
        covariance[:, r, q] = np.bincount(label, mass * away[:, r] * away[:, q], minlength=len(modes)) / total
    return total, np.array(modes), mean, covariance


def lattice_residual(
    problem: ReadoutIntegral, direct: Direct, t: FloatArray, weight: FloatArray, outliers: Outliers
) -> tuple[float, float]:
    """Stationarity of (t, weights), and J(t), recomputed with `direct` on a finer, shifted lattice in plain NumPy.

    Maxima of h are searched again from extra starts, so that a missed code shows up as missing weight.
    """
    accuracy = 0.1 * problem.accuracy
    maxima, height = problem.maxima(t, _extra_starts(problem, t))
    shift = unlike_shift(t.shape[1])
    nodes, _ = problem.grow(t, maxima, height, accuracy, shift)
    inside = nodes.region >= 0
    basis = problem.basis(accuracy)
    a = (nodes.index[inside] + shift) @ basis
    region = nodes.region[inside]
    if nodes.n_regions != weight.size:  # separated on one lattice only: all weights follow from h
        region = np.zeros_like(region)
        weight = np.ones(1)
    share = np.zeros(weight.size)
    first = np.zeros((weight.size, t.size))
    for rows in np.array_split(np.arange(len(a)), 1 + len(a) // _CHUNK):
        g0, g1 = _interpolated(direct, problem.table.scale, a[rows] @ t.T)
        h = g0 @ problem.p - 0.5 * np.sum(a[rows] ** 2, axis=1)
        mass = np.exp(problem.n_samples * (h - height[0]))
        terms = ((g1 * problem.p)[:, :, None] * a[rows][:, None, :]).reshape(len(rows), -1)
        share += np.bincount(region[rows], mass, minlength=weight.size)
        for k in np.unique(region[rows]):
            chosen = region[rows] == k
            first[k] += mass[chosen] @ terms[chosen]
    sums = Sums(0.0, np.log(share), first / share[:, None], np.empty(0), maxima, height[0], None)
    cell = np.linalg.slogdet(basis)[1] + 0.5 * t.shape[1] * np.log(problem.n_samples / (2 * np.pi))
    objective = problem.linear(t) + height[0] + (np.log(share.sum()) + cell) / problem.n_samples
    return _stationarity(problem, t, sums, weight, outliers), float(objective)


def laplace_residual(
    problem: ReadoutIntegral, direct: Direct, t: FloatArray, weight: FloatArray, outliers: Outliers
) -> float:
    """Stationarity of Laplace's J at (t, weights), recomputed with `direct` in plain NumPy from maxima found afresh."""
    maxima, height = problem.maxima(t, _extra_starts(problem, t))
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
    return max(climb, _stationarity(problem, t, sums, weight, outliers))


def laplace_error(problem: ReadoutIntegral, t: FloatArray, weight: FloatArray, sums: Sums) -> float:
    """What the first order that Laplace's method leaves out, 1 / P^2, can change in the residual.

    The correction c of each mode's ln share enters its weight, but not the slope of ln share; the next order of ln share
    is taken to be c^2.
    """
    correction = sums.detail[-1]
    heavy = np.flatnonzero(weight > 0.1 * ACCURACY)
    slope = np.zeros(t.size)
    step = 1e-4 * (1.0 + float(np.abs(t).max()))
    for i in range(t.size):
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


def _stationarity(problem: ReadoutIntegral, t: FloatArray, sums: Sums, weight: FloatArray, outliers: Outliers) -> float:
    gradient = problem.gradient(t, sums, weight, outliers)
    mismatch = float(np.abs(problem.mismatch(sums, weight)).max())
    return max(problem.residual(gradient), mismatch, outlier_residual(problem, t, outliers))


def _extra_starts(problem: ReadoutIntegral, t: FloatArray) -> FloatArray:
    reach = problem.reach(t)
    return np.random.default_rng(0).uniform(-reach, reach, (_EXTRA_STARTS, t.shape[1]))


def _interpolated(direct: Direct, scale: float, kappa: FloatArray) -> tuple[FloatArray, FloatArray]:
    """G and G' at very many points, from `direct` on a grid by quintic Hermite interpolation (error below 1e-12)."""
    low = kappa.min()
    n = 2 + int((kappa.max() - low) * scale / 0.01)
    if n >= kappa.size:
        g0, g1, _ = direct(kappa)
        return g0, g1
    d = (kappa.max() - low) / (n - 1)
    g0, g1, g2 = direct(low + d * np.arange(n))
    i = np.minimum(((kappa - low) / d).astype(np.int64), n - 2)
    x = (kappa - low) / d - i
    # G = g0 + x d g1 + x^2 d^2 g2 / 2 + x^3 (b3 + b4 (x - 1) + b5 (x - 1)^2), matched at both ends.
    b0, b1, b2 = g0[i], d * g1[i], 0.5 * d * d * g2[i]
    b3 = g0[i + 1] - b0 - b1 - b2
    b4 = d * g1[i + 1] - b1 - 2 * b2 - 3 * b3
    b5 = 0.5 * (d * d * g2[i + 1] - 2 * b2 - 6 * b3 - 6 * b4)
    u = x - 1.0
    cubic = b3 + u * (b4 + u * b5)
    value = b0 + x * (b1 + x * (b2 + x * cubic))
    slope = b1 + x * (2 * b2 + x * (3 * cubic + x * (b4 + 2 * u * b5)))
    return value, slope / d
