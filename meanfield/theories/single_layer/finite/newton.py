"""Newton's method on J at finite P: minimisation by line search, then all unknowns together to round-off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from meanfield.numerics.nonnegative import nonnegative_least_squares
from meanfield.theories.single_layer.readout.integral import (
    COARSE,
    NotIntegrable,
    Outliers,
    ReadoutIntegral,
    Sums,
    outlier_terms,
)
from meanfield.theories.single_layer.readout.nodes import common_regions
from meanfield.validation import FloatArray

__all__ = [
    "approach",
    "decrement",
    "hessian_of",
    "jacobian",
    "minimise",
    "newton_step",
    "no_outliers",
    "polish",
    "settle",
    "stepped",
]

_MAX_STEPS = 60
_MAX_POLISH = 12
_MAX_CHORDS = 6
_NEAR = 1e-5  # error at which the coarse lattice, whose own is larger, has said what it can
_LIGHTEST = 1e-8  # of the weights that a start from few codes gives to the others


def hessian_of(problem: ReadoutIntegral, sums: Sums) -> FloatArray:
    """d^2 J / dt^2 (C m, C m)."""
    deviation = sums.first - sums.weight @ sums.first
    return np.asarray(sums.within + problem.n_samples * (deviation.T * sums.weight) @ deviation)


def newton_step(problem: ReadoutIntegral, t: FloatArray, sums: Sums, outliers: Outliers) -> tuple[FloatArray, float]:
    """Newton step of J, shortened where the Hessian is nearly singular, and its slope."""
    scale = np.repeat(np.sqrt(problem.p), t.shape[1])
    gradient = problem.gradient(t, sums, sums.weight, outliers) / scale
    values, vectors = np.linalg.eigh(hessian_of(problem, sums) / np.outer(scale, scale))
    along = vectors.T @ gradient
    longest = 30.0 * (1.0 + np.abs(problem.y).max() + np.abs(t).max())
    shift = max(0.0, 1e-14 * values[-1] - values[0])
    step = -vectors @ (along / (values + shift))
    while np.abs(step).max() > longest:
        shift = max(4.0 * shift, 1e-12 * values[-1])
        step = -vectors @ (along / (values + shift))
    return (step / scale).reshape(t.shape), float(gradient @ step)


def decrement(problem: ReadoutIntegral, t: FloatArray, sums: Sums, outliers: Outliers) -> float:
    """Newton's estimate of J(t) - min J."""
    gradient = problem.gradient(t, sums, sums.weight, outliers)
    try:
        below = 0.5 * float(gradient @ np.linalg.solve(hessian_of(problem, sums), gradient))
    except np.linalg.LinAlgError:
        below = np.nan
    return below if below >= 0.0 else -0.5 * newton_step(problem, t, sums, outliers)[1]


def minimise(
    problem: ReadoutIntegral, t: FloatArray, accuracy: float, tolerance: float
) -> tuple[FloatArray, float, int]:
    """Damped Newton on J, no outliers, until the residual is below `tolerance` or stalls: (t, residual, steps)."""
    none = no_outliers(t)
    sums = problem.evaluate(t, accuracy)
    residual, steps = np.inf, 0
    while steps < _MAX_STEPS:
        residual = problem.residual(problem.gradient(t, sums, sums.weight, none))
        if residual <= tolerance:
            break
        step, slope = newton_step(problem, t, sums, none)
        length = 1.0
        while length > 1e-7:
            try:
                trial = problem.evaluate(t + length * step, accuracy)
            except NotIntegrable:
                length *= 0.1
                continue
            # Both values carry the error of the integral: a tie counts as progress.
            if trial.objective <= sums.objective + 1e-4 * length * slope + 1e-13 * (1.0 + abs(sums.objective)):
                break
            length *= 0.3
        else:
            break
        t, sums = t + length * step, trial
        steps += 1
    return t, residual, steps


def _error(problem: ReadoutIntegral, t: FloatArray, sums: Sums, weight: FloatArray, outliers: Outliers) -> float:
    """Violation of stationarity, P_k = e^{P l_k} and sum_c p_c g(t_c.u_o) = 1."""
    growth = [np.sum(problem.p * problem.growth(t @ u) * (t @ u) ** 2) for u in outliers.direction]
    return max(
        problem.residual(problem.gradient(t, sums, weight, outliers)),
        problem.share_error(sums, weight),
        float(np.abs(0.5 * np.array(growth) - 0.5).max(initial=0.0)),
    )


def polish(
    problem: ReadoutIntegral,
    t: FloatArray,
    outliers: Outliers,
    accuracy: float,
    weight: FloatArray | None = None,
    enough: float | None = None,
) -> tuple[float, FloatArray, FloatArray, Outliers, Sums]:
    """Newton on t, the weights of separated regions and the outlier weights together, to round-off.

    For t alone, weights e^{P l} would turn a relative error of 1e-16 in t into one of 1e-16 P in the residual.
    Returns (residual, t, weights, outliers, sums) of the best point. `enough`: the error at which it ends, by default
    what the accuracy allows.
    """
    sums = problem.evaluate(t, accuracy)
    enough = max(1e-14, 1e-3 * accuracy) if enough is None else enough
    weight = sums.weight if weight is None else weight
    best = np.inf, t, weight, outliers, sums
    rises = 0
    for _ in range(_MAX_POLISH):
        terms = []
        if len(outliers.weight):
            flat = min(max(10.0 * _error(problem, t, sums, weight, outliers), 1e-7), 0.1)
            terms = [outlier_terms(problem, t, u, flat) for u in outliers.direction]
        directions = np.array([u for u, *_ in terms]).reshape(-1, t.shape[1])
        outliers = Outliers(directions, outliers.weight)
        slack = np.array([q - 0.5 for _, q, *_ in terms])
        gradient = problem.gradient(t, sums, weight, outliers)
        mismatch = problem.mismatch(sums, weight)
        error = _error(problem, t, sums, weight, outliers)
        # With outliers the way may lead uphill for a step; without, J has been minimised before.
        rises += error >= 0.5 * best[0]
        if rises > (2 if len(slack) else 0):
            break
        if error < best[0]:
            best = error, t, weight, outliers, sums
        if error < enough:
            break
        n, k, o = t.size, weight.size, len(slack)
        matrix = np.zeros((n + k + 1 + o, n + k + 1 + o))
        matrix[: n + k + 1, : n + k + 1] = jacobian(problem, sums, weight)
        for w, term in zip(outliers.weight, terms):
            matrix[:n, :n] += w * term[3]
        for i, (_, _, slope, _) in enumerate(terms):
            matrix[:n, n + k + 1 + i] = matrix[n + k + 1 + i, :n] = slope
        step = np.linalg.lstsq(matrix, -np.concatenate([gradient, mismatch, [0.0], slack]), rcond=1e-14)[0]
        t, weight = t + step[:n].reshape(t.shape), stepped(weight, step[n : n + k])
        outliers = Outliers(outliers.direction, outliers.weight + step[n + k + 1 :])
        try:
            sums = problem.evaluate(t, accuracy)
        except NotIntegrable:
            break
        if sums.log_share.size != weight.size:
            break
    return best


def jacobian(problem: ReadoutIntegral, sums: Sums, weight: FloatArray) -> FloatArray:
    """Derivatives of gradient, mismatches and total weight by t, the ln of the weights, and their normalisation."""
    n, k = sums.within.shape[0], weight.size
    matrix = np.zeros((n + k + 1, n + k + 1))
    matrix[:n, :n] = sums.within
    matrix[:n, n : n + k] = sums.first.T * weight
    matrix[n : n + k, :n] = sums.first
    matrix[n : n + k, n : n + k] = -np.eye(k) / problem.n_samples
    matrix[n : n + k, n + k] = -1.0
    matrix[n + k, n : n + k] = weight
    return matrix


def stepped(weight: FloatArray, step: FloatArray) -> FloatArray:
    weight = weight * np.exp(np.clip(step, -20.0, 20.0))
    return np.asarray(weight / weight.sum())


def _alike(one: Sums, other: Sums) -> bool:
    """Whether two lattices separate the same regions, in the same order."""
    groups = common_regions(one.detail, one.maxima, other.detail, other.maxima)
    n = one.log_share.size
    return groups is not None and all(np.array_equal(group, np.arange(n)) for group in groups)


def settle(
    problem: ReadoutIntegral, t: FloatArray, accuracy: float, enough: float
) -> tuple[float, FloatArray, FloatArray, Outliers, Sums] | None:
    """`polish` from a t that is nearly right, without outliers: residuals of the fine lattice, Jacobian of a coarse.

    Sums over the fine lattice then need no Hessian, and their nodes are found once. Ends at the error `enough`, or
    where errors stop shrinking; None where the two lattices do not separate the same regions.
    """
    none = no_outliers(t)
    coarse = problem.evaluate(t, COARSE)
    sums = problem.evaluate(t, accuracy, hessian=False)
    weight = sums.weight
    if not _alike(coarse, sums):  # codes that carry little are beyond its window
        coarse = problem.evaluate(t, COARSE, tail=accuracy)
    if not _alike(coarse, sums):
        return None
    inverse = np.linalg.pinv(jacobian(problem, coarse, weight), rcond=1e-14)
    best = np.inf, t, weight, none, sums
    for _ in range(_MAX_CHORDS):
        error = _error(problem, t, sums, weight, none)
        if not error < 0.5 * best[0]:
            break
        best = error, t, weight, none, replace(sums, within=coarse.within)
        if error <= enough:
            break
        residual = np.concatenate([problem.gradient(t, sums, weight, none), problem.mismatch(sums, weight), [0.0]])
        step = -inverse @ residual
        t, weight = t + step[: t.size].reshape(t.shape), stepped(weight, step[t.size : -1])
        sums = problem.evaluate_nearby(sums, t, accuracy)
        if sums.log_share.size != weight.size:
            break
    return best


def approach(problem: ReadoutIntegral, t: FloatArray, accuracy: float) -> tuple[float, FloatArray]:
    """`polish` from the t of a similar task, or of P -> infinity, where codes are separated: (error, t).

    There e^{P h} says little about the weights of the codes; those that make t stationary come closer.
    """
    sums = problem.evaluate(t, accuracy)
    if sums.log_share.size == 1:
        return np.inf, t
    none = no_outliers(t)
    zero = np.zeros(sums.log_share.size)
    scale = 1.0 / np.repeat(problem.p, t.shape[1])
    columns = np.vstack([sums.first.T * scale[:, None], np.ones(zero.size)])
    weight, _ = nonnegative_least_squares(columns, np.append(-problem.gradient(t, sums, zero, none) * scale, 1.0))
    weight = np.maximum(weight, _LIGHTEST)
    error, t, *_ = polish(problem, t, none, accuracy, weight / weight.sum(), _NEAR)
    return error, t


def no_outliers(t: FloatArray) -> Outliers:
    return Outliers(np.empty((0, t.shape[1])), np.empty(0))
