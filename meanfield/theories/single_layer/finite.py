"""Finite number of samples P: the readout integral itself, minimised over the order parameters (sigma_a = 1).

    J(t) = -sum_c p_c t_c.y_c + tau/2 sum_c p_c |t_c|^2 + (1/P) ln int da (P / 2 pi)^{m/2} exp(P h(a; t))
    y_c  = <a G'(a.t_c)> + tau t_c                      (single_layer/THEORY.md, "The dual problem")

J is smooth and strictly convex, so Newton's method with a line search finds the minimum from anywhere; raising P in
steps keeps it short. Up to rank-four targets the integral is a sum over a uniform lattice: e^{P h} is a positive
measure convolved with N(0, 1/P), so spacing d costs a relative error of at most 2 m exp(-2 pi^2 / (P d^2)) (Poisson
summation; rigorous where every p_c P is an integer). Beyond four dimensions each maximum of h becomes a Gaussian.

For an unbounded phi the integral is that of the bulk, and outliers are the multipliers of k sum_c p_c g(t_c.u) <= 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from meanfield.activations.cumulant import Cumulant
from meanfield.posterior.certificate import ConvergenceError
from meanfield.theories.single_layer.compiled.outlier import worst_directions
from meanfield.theories.single_layer.compiled.sweep import NOT_CONVERGED, RESIDUAL
from meanfield.theories.single_layer.finite_check import (
    laplace_residual,
    lattice_codes,
    lattice_residual,
    poisson_bound,
)
from meanfield.theories.single_layer.limit import limit_point
from meanfield.theories.single_layer.readout_integral import (
    ACCURACY,
    COARSE,
    NotIntegrable,
    Outliers,
    ReadoutIntegral,
    Sums,
    outlier_terms,
)
from meanfield.validation import FloatArray

__all__ = ["MAX_LATTICE_DIMENSION", "FiniteSolution", "finite_solve"]

MAX_LATTICE_DIMENSION = 4
_LATTICE_MAX_SAMPLES = 1e6  # above, the rounding of P h exceeds the 1 / P^2 that Laplace's method leaves out
_MAX_STEPS = 60
_MAX_POLISH = 12
_NEARLY_ACTIVE = 0.95
_MIN_WEIGHT = 1e-8  # lighter codes are not reported
_REFINEMENTS = (1.0, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.06)  # finer lattices, tried where the first is too coarse


@dataclass(frozen=True, eq=False)
class FiniteSolution:
    """Minimum of J at finite P with the codes it contains, in units sigma_a = 1.

    Attributes
    ----------
    t : (C, m) array
    objective : float
        J(t).
    level : float
        max_a h(a; t).
    weight : (n,) array
        Posterior mass of each code (basin of a local maximum of h), heaviest first.
    mode, mean : (n, m) array
        Maximum of h, and mean readout, of each code.
    covariance : (n, m, m) array
        Covariance of the readout within each code.
    outlier_direction : (o, m) array
    outlier_weight : (o,) array
    residual : float
        max_c |y_c - <a G'(a.t_c)> - sum_o w_o u_o g'(t_c.u_o)/2 - tau t_c| and, where codes are separated, violation
        of P_gamma = exp(P (l_gamma - s)) in units of l; recomputed with `direct` on another, finer lattice.
    decrement : float
        Newton estimate of J(t) - min J.
    integration_error : float
        Relative error of the readout integral: Poisson bound or difference of two lattices, whichever is larger;
        for Laplace's method its next order in 1/P.
    method : str
        "lattice" or "laplace".
    n_nodes, iterations : int
    """

    t: FloatArray
    objective: float
    level: float
    weight: FloatArray
    mode: FloatArray
    mean: FloatArray
    covariance: FloatArray
    outlier_direction: FloatArray
    outlier_weight: FloatArray
    residual: float
    decrement: float
    integration_error: float
    method: str
    n_nodes: int
    iterations: int


def _hessian(problem: ReadoutIntegral, sums: Sums) -> FloatArray:
    """d^2 J / dt^2 (C m, C m)."""
    deviation = sums.first - sums.weight @ sums.first
    return np.asarray(sums.within + problem.n_samples * (deviation.T * sums.weight) @ deviation)


def _newton_step(problem: ReadoutIntegral, t: FloatArray, sums: Sums, outliers: Outliers) -> tuple[FloatArray, float]:
    """Newton step of J, shortened where the Hessian is nearly singular, and its slope."""
    scale = np.repeat(np.sqrt(problem.p), t.shape[1])
    gradient = problem.gradient(t, sums, sums.weight, outliers) / scale
    values, vectors = np.linalg.eigh(_hessian(problem, sums) / np.outer(scale, scale))
    along = vectors.T @ gradient
    longest = 30.0 * (1.0 + np.abs(problem.y).max() + np.abs(t).max())
    shift = max(0.0, 1e-14 * values[-1] - values[0])
    step = -vectors @ (along / (values + shift))
    while np.abs(step).max() > longest:
        shift = max(4.0 * shift, 1e-12 * values[-1])
        step = -vectors @ (along / (values + shift))
    return (step / scale).reshape(t.shape), float(gradient @ step)


def _minimise(
    problem: ReadoutIntegral, t: FloatArray, accuracy: float, tolerance: float
) -> tuple[FloatArray, float, int]:
    """Damped Newton on J, no outliers, until the residual is below `tolerance` or stalls: (t, residual, steps)."""
    none = _no_outliers(t)
    sums = problem.evaluate(t, accuracy)
    residual, steps = np.inf, 0
    while steps < _MAX_STEPS:
        residual = problem.residual(problem.gradient(t, sums, sums.weight, none))
        if residual <= tolerance:
            break
        step, slope = _newton_step(problem, t, sums, none)
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
        float(np.abs(problem.mismatch(sums, weight)).max()),
        float(np.abs(0.5 * np.array(growth) - 0.5).max(initial=0.0)),
    )


def _polish(
    problem: ReadoutIntegral, t: FloatArray, outliers: Outliers, accuracy: float
) -> tuple[float, FloatArray, FloatArray, Outliers, Sums]:
    """Newton on t, the weights of separated regions and the outlier weights together, to round-off.

    For t alone, weights e^{P l} would turn a relative error of 1e-16 in t into one of 1e-16 P in the residual.
    Returns (residual, t, weights, outliers, sums) of the best point.
    """
    sums = problem.evaluate(t, accuracy)
    weight = sums.weight
    best = np.inf, t, weight, outliers, sums
    rises = 0
    for _ in range(_MAX_POLISH):
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
        if error < 1e-14:
            break
        n, k, o = t.size, weight.size, len(slack)
        matrix = np.zeros((n + k + 1 + o, n + k + 1 + o))
        matrix[:n, :n] = sums.within
        for w, term in zip(outliers.weight, terms):
            matrix[:n, :n] += w * term[3]
        matrix[:n, n : n + k] = sums.first.T * weight
        matrix[n : n + k, :n] = sums.first
        matrix[n : n + k, n : n + k] = -np.eye(k) / problem.n_samples
        matrix[n : n + k, n + k] = -1.0
        matrix[n + k, n : n + k] = weight
        for i, (_, _, slope, _) in enumerate(terms):
            matrix[:n, n + k + 1 + i] = matrix[n + k + 1 + i, :n] = slope
        step = np.linalg.lstsq(matrix, -np.concatenate([gradient, mismatch, [0.0], slack]), rcond=1e-14)[0]
        t = t + step[:n].reshape(t.shape)
        weight = weight * np.exp(np.clip(step[n : n + k], -20.0, 20.0))
        weight /= weight.sum()
        outliers = Outliers(outliers.direction, outliers.weight + step[n + k + 1 :])
        try:
            sums = problem.evaluate(t, accuracy)
        except NotIntegrable:
            break
        if sums.log_share.size != weight.size:
            break
    return best


def _descend(problem: ReadoutIntegral, t0: FloatArray | None) -> tuple[FloatArray, int]:
    """Minimise J for bounded phi from `t0`; without one, or where that stalls, approach P in steps of a factor of four.

    The lattice starts from t = 0 at a few samples, Laplace's method from P -> infinity, each where it is easy.
    """
    target = problem.n_samples
    total = 0
    if t0 is None and problem.method == "laplace":
        t0 = _limit(problem)[0]
    if t0 is not None:
        t, residual, total = _minimise(problem, t0, COARSE, 1e-5)
        if residual <= 1e-2:
            return t, total
        problem.starts = problem.starts[:0]
    if problem.method == "lattice":
        t, start, factor = np.zeros_like(problem.y), 8.0, 0.25
    else:
        assert t0 is not None
        t, start, factor = t0, max(1e6, target), 4.0
    for n_samples in _rungs(target, start, factor):
        problem.n_samples = n_samples
        t, residual, steps = _minimise(problem, t, COARSE, 1e-5 if n_samples == target else 1e-2)
        total += steps
        if residual > 1e-2:  # the coarse integral is not smooth enough for the line search
            t, residual, steps = _minimise(problem, t, ACCURACY, 1e-5)
            total += steps
    return t, total


def _rungs(target: float, start: float, factor: float) -> list[float]:
    """P from about `start` to `target` in steps of 1 / factor."""
    rungs = [target]
    while (start - rungs[-1]) * (factor - 1.0) > 0:
        rungs.append(factor * rungs[-1])
    return rungs[::-1]


def _limit(problem: ReadoutIntegral) -> tuple[FloatArray, Outliers]:
    """t and outliers of P -> infinity."""
    site = problem.single_site
    point = limit_point(site.activation, site.k, problem.p, problem.y, problem.tau, max_boxes=0)
    if point.status in (NOT_CONVERGED, RESIDUAL):
        raise ConvergenceError("the start at P -> infinity was not found; give t0, the solution of a similar task.")
    return point.t, Outliers(point.directions, point.direction_weights)


def _no_outliers(t: FloatArray) -> Outliers:
    return Outliers(np.empty((0, t.shape[1])), np.empty(0))


def _quadratic_programme(
    hessian: FloatArray, gradient: FloatArray, slope: FloatArray, slack: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Minimise g.d + d.H.d / 2 subject to slack + slope d <= 0; (d, multipliers).

    Least-distance programming: with d = -H^{-1} g + L^{-T} z it becomes non-negative least squares.
    """
    factor = np.linalg.cholesky(hessian)
    free = -np.linalg.solve(factor.T, np.linalg.solve(factor, gradient))
    g = -np.linalg.solve(factor, slope.T)  # (n, o)
    solution, _ = nnls(np.vstack([g, slack + slope @ free]), np.append(np.zeros(len(g)), 1.0))
    scale = 1.0 - (slack + slope @ free) @ solution
    multiplier = solution / scale
    return free + np.linalg.solve(factor.T, g @ multiplier), multiplier


def _with_outliers(
    problem: ReadoutIntegral, t: FloatArray, outliers: Outliers, accuracy: float
) -> tuple[float, FloatArray, FloatArray, Outliers, Sums]:
    """Minimise J subject to sum_c p_c g(t_c.u) <= 1 for all u: quadratic programmes, then `_polish`.

    Every step sees all local maxima u of the constraint that are nearly active, and those that carry weight.
    """
    m = t.shape[1]
    found, values = np.empty((64, m)), np.empty(64)
    none = _no_outliers(t)
    error = np.inf
    for _ in range(_MAX_STEPS):
        if error < 1e-7:
            done = _polish(problem, t, _merged(outliers), accuracy)
            count, _, _ = worst_directions(problem.table, problem.p, done[1], 1.0 + 1e-10, found, values)
            if done[0] < 1e-8 and count == 0 and done[3].weight.min(initial=0.0) > -1e-13:
                return done
        count, _, _ = worst_directions(problem.table, problem.p, t, _NEARLY_ACTIVE, found, values)
        new = [u for u in found[:count] if np.abs(outliers.direction - u).max(axis=1, initial=0).min(initial=1) > 1e-3]
        directions = np.vstack([outliers.direction, *new])
        weights = np.append(outliers.weight, np.zeros(len(new)))
        sums = problem.evaluate(t, accuracy)
        flat = min(max(10.0 * error, 1e-7), 0.1)
        terms = [outlier_terms(problem, t, u, flat) for u in directions]
        hessian = _hessian(problem, sums)
        for w, term in zip(weights, terms):
            hessian += w * term[3]
        hessian[np.diag_indices(t.size)] += 1e-12 * np.trace(hessian)
        slack = np.array([q - 0.5 for _, q, *_ in terms])
        slope = np.array([term[2] for term in terms]).reshape(-1, t.size)
        step, weights = _quadratic_programme(hessian, problem.gradient(t, sums, sums.weight, none), slope, slack)
        step *= min(1.0, (1.0 + np.abs(t).max()) / np.abs(step).max(initial=1e-300))
        t = t + step.reshape(t.shape)
        keep = (weights > 0) | (slack > -0.2)
        outliers = Outliers(np.array([u for u, *_ in terms]).reshape(-1, m)[keep], weights[keep])
        error = float(np.abs(step).max())
    raise ConvergenceError(f"the set of outliers at P = {problem.n_samples:g} did not settle (last step {error:.1e}).")


def _merged(outliers: Outliers) -> Outliers:
    """One entry for directions that have become the same; weightless ones left out."""
    kept: list[FloatArray] = []
    weights: list[float] = []
    for u, w in zip(*outliers):
        same = [i for i, v in enumerate(kept) if np.abs(u - v).max() < 1e-7]
        if same:
            weights[same[0]] += w
        elif w > 1e-12:
            kept.append(u)
            weights.append(w)
    return Outliers(np.array(kept).reshape(-1, outliers.direction.shape[1]), np.array(weights))


def _descend_with_outliers(problem: ReadoutIntegral, t0: FloatArray | None) -> tuple[FloatArray, Outliers, int]:
    """From P -> infinity down to P: at large P the bulk is sharp and the outliers are those of the limit."""
    target = problem.n_samples
    t, outliers = _limit(problem)
    rungs = _rungs(target, max(1e4, target), 4.0)
    for n_samples in rungs:
        problem.n_samples = n_samples
        _, t, _, outliers, _ = _with_outliers(problem, t, outliers, COARSE)
    return t, outliers, len(rungs)


def finite_solve(
    single_site: Cumulant,
    p: FloatArray,
    y: FloatArray,
    tau: float,
    n_samples: float,
    t0: FloatArray | None = None,
    *,
    method: str = "auto",
    tolerance: float = 1e-10,
) -> FiniteSolution:
    """Minimise J at finite P, in units sigma_a = 1.

    Parameters
    ----------
    single_site : Cumulant
        G, tabulated and, for the certificate, evaluated directly.
    p : (C,) array
        Fractions.
    y : (C, m) array
        Targets.
    tau, n_samples : float
        tau = N T >= 0 and P, finite.
    t0 : (C, m) array, optional
        Start, e.g. the solution at P -> infinity or at a neighbouring parameter (bounded phi).
    method : {"auto", "lattice", "laplace"}
        "auto": the lattice where the targets span at most four dimensions (and P <= 1e6).
    tolerance : float
        Largest residual accepted.

    Raises
    ------
    ValueError
        For an unknown method.
    ConvergenceError
        If no start leads to a residual, recomputed independently, below `tolerance`, or the integral is out of reach.
    """
    # J is invariant under reflections that leave every y_c in place, and convex: t_c lies in the span of the y_c.
    _, size, axes = np.linalg.svd(y)
    rank = int(np.sum(size > 1e-13 * size[0]))
    if rank == 0:
        return _trivial(y, n_samples)
    basis = np.eye(rank) if rank == y.shape[1] else axes[:rank].T  # (m, rank)
    if method == "auto":
        method = "lattice" if rank <= MAX_LATTICE_DIMENSION and n_samples <= _LATTICE_MAX_SAMPLES else "laplace"
    if method not in ("lattice", "laplace"):
        raise ValueError(f"method must be 'auto', 'lattice' or 'laplace', got {method!r}.")
    problem = ReadoutIntegral(single_site, p, np.ascontiguousarray(y @ basis), tau, n_samples, method)
    start = None if t0 is None else np.ascontiguousarray(t0 @ basis)
    if problem.unbounded:
        t, outliers, steps = _descend_with_outliers(problem, start)
    else:
        t, steps = _descend(problem, start)
        outliers = _no_outliers(t)
    # Where a p_c P is not an integer, e^{P h} has branch points at complex a: a finer lattice may be needed.
    for problem.refinement in _REFINEMENTS if method == "lattice" else (1.0,):
        if problem.unbounded:
            error, t, weight, outliers, sums = _with_outliers(problem, t, outliers, ACCURACY)
        else:
            error, t, weight, outliers, sums = _polish(problem, t, outliers, ACCURACY)
            if error > tolerance:
                t, _, more = _minimise(problem, t, ACCURACY, max(1e-9, 1e-12 * n_samples))
                steps += more
                error, t, weight, outliers, sums = _polish(problem, t, outliers, ACCURACY)
        if method == "laplace":
            covariance, mean, correction = sums.detail
            share, mode = weight, sums.maxima
            residual = laplace_residual(problem, single_site.direct, t, weight, outliers)
            error, n_nodes = float(np.max(np.abs(correction) * (weight > _MIN_WEIGHT))), len(mean)
        else:
            share, mode, mean, covariance = lattice_codes(problem, t, weight, sums)
            residual, objective = lattice_residual(problem, single_site.direct, t, weight, outliers)
            error = max(poisson_bound(problem), n_samples * abs(objective - sums.objective))
            n_nodes = int(np.sum(sums.detail.region >= 0))
        if residual <= tolerance:
            break
    _, slope = _newton_step(problem, t, sums, outliers)
    order = [i for i in np.argsort(-share, kind="stable") if share[i] > _MIN_WEIGHT]
    outside = (np.eye(y.shape[1]) - basis @ basis.T) / n_samples
    solution = FiniteSolution(
        t=t @ basis.T,
        objective=sums.objective,
        level=sums.level,
        weight=share[order] / share[order].sum(),
        mode=mode[order] @ basis.T,
        mean=mean[order] @ basis.T,
        covariance=basis @ covariance[order] @ basis.T + outside,
        outlier_direction=outliers.direction @ basis.T,
        outlier_weight=outliers.weight,
        residual=residual,
        decrement=-0.5 * slope,
        integration_error=error,
        method=method,
        n_nodes=n_nodes,
        iterations=steps,
    )
    if not residual <= tolerance:
        raise ConvergenceError(
            f"at P = {n_samples:g} the stationarity residual, recomputed independently, is {residual:.1e}, above "
            f"{tolerance:.0e} ({method}); try method='laplace', another t0, or n_samples = inf.",
            solution,
        )
    return solution


def _trivial(y: FloatArray, n_samples: float) -> FiniteSolution:
    """All targets zero: t = 0 and the readouts keep their prior."""
    m = y.shape[1]
    zero, none = np.zeros((1, m)), np.empty((0, m))
    prior = np.eye(m)[None] / n_samples
    return FiniteSolution(
        np.zeros_like(y), 0.0, 0.0, np.ones(1), zero, zero, prior, none, np.empty(0), 0.0, 0.0, 0.0, "lattice", 0, 0
    )
