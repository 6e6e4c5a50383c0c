"""Finite number of samples P: the readout integral itself, minimised over the order parameters (sigma_a = 1).

    J(t) = -sum_c p_c t_c.y_c + tau/2 sum_c p_c |t_c|^2 + (1/P) ln int da (P / 2 pi)^{m/2} exp(P h(a; t))
    y_c  = <a G'(a.t_c)> + tau t_c                      (single_layer/THEORY.md, "The dual problem")

J is smooth and strictly convex, so Newton's method with a line search finds the minimum from anywhere; raising P in
steps keeps it short. Up to rank-six targets the integral is a lattice sum: e^{P h} is a positive measure convolved with
N(0, 1/P), so the error is that of Poisson summation (`lattice_basis`; rigorous where every p_c P is an integer). Where
codes overlap and there is one class for each output, one class is integrated out before (`finite_marginal`), and codes
are worked out when they are asked for. Beyond six dimensions, and at large P, each maximum of h becomes a Gaussian with
its next order in 1/P.

Whatever integrates, its error counts: the residual is the one on another lattice, or with the order left out.

For an unbounded phi the integral is that of the bulk, and outliers are the multipliers of k sum_c p_c g(t_c.u) <= 1; at
P so small that bulk and tail are one, the integral is that of both, and there are no outliers.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from operator import itemgetter
from typing import Any

import numpy as np

from meanfield.activations.cumulant import Cumulant
from meanfield.numerics.lattice_basis import MAX_LATTICE_DIMENSION
from meanfield.posterior.certificate import ConvergenceError
from meanfield.theories.single_layer.finite.clouds import MAX_CLOUD_DIMENSION, Codes, solve_clouds
from meanfield.theories.single_layer.finite.code_cuts import lattice_codes
from meanfield.theories.single_layer.finite.exchange import exchange_solve
from meanfield.theories.single_layer.finite.halves import halves_solve, is_halved
from meanfield.theories.single_layer.finite.marginal import Minimum, is_marginal, solve_marginal
from meanfield.theories.single_layer.finite.newton import approach, decrement, minimise, no_outliers, polish, settle
from meanfield.theories.single_layer.finite.outliers import minimise_with_outliers
from meanfield.theories.single_layer.finite.solution import FiniteSolution, deferred
from meanfield.theories.single_layer.finite.start import limit_start, rungs
from meanfield.theories.single_layer.readout.check import laplace_error, laplace_residual, lattice_residual
from meanfield.theories.single_layer.readout.clouds import OVERLAP
from meanfield.theories.single_layer.readout.integral import (
    ACCURACY,
    COARSE,
    NotIntegrable,
    Outliers,
    OutOfBudget,
    ReadoutIntegral,
    Sums,
)
from meanfield.theories.single_layer.solution import heaviest_first
from meanfield.validation import FloatArray, read_only

__all__ = ["AIM", "MAX_LATTICE_DIMENSION", "TOLERANCE", "finite_solve"]

TOLERANCE = 1e-6  # of the residual; 1e-10 is the aim, missed by many outputs and wide posteriors
_LATTICE_MAX_SAMPLES = 1e6  # above, the rounding of P h exceeds the 1 / P^2 that Laplace's method leaves out
_LAPLACE_MIN_SAMPLES = 1e3  # below, Laplace's method is not worth trying
_ALWAYS_LATTICE = 4  # outputs up to which the lattice is cheap
_FEW_SAMPLES = 30.0  # up to here t = 0 is as good a start as P -> infinity
AIM = 1e-10  # of the residual
_OF_TARGETS = 1e-4  # of the largest target: the largest residual where targets are small
_SLIGHT = 3e-8  # overlap of codes from which on rules around them need more nodes than they save
_TABLES_GROW = 1e3  # P from which on tables of the class that is integrated out are what costs
_MARGIN = 1e-2  # error of the lattice, relative to the residual that is aimed at
_MIN_WEIGHT = 1e-8  # lighter codes are not reported
_REFINEMENTS = (1.0, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.06)  # finer lattices, tried where the first is too coarse
# The first whose lattice has fewer nodes than this.
_ACCURACIES = ((ACCURACY, 2e6), (1e-9, 1.5e6), (1e-7, 3e6), (1e-6, 4.5e6), (1e-5, 4.5e6))


def _descend(problem: ReadoutIntegral, t0: FloatArray | None) -> tuple[FloatArray, int]:
    """Minimise J for bounded phi from `t0`, or from P -> infinity; where that stalls, in steps of a factor four in P.

    The lattice then starts from t = 0 at a few samples, Laplace's method from P -> infinity, each where it is easy.
    """
    target = problem.n_samples
    total = 0
    if t0 is None and problem.method == "laplace":
        t0 = limit_start(problem)[0]
    elif t0 is None and target > _FEW_SAMPLES:
        with suppress(ConvergenceError):
            t0 = limit_start(problem)[0]
    if t0 is not None:
        try:
            if problem.method == "lattice":
                error, t0 = approach(problem, t0, COARSE)
                if error <= 1e-5:
                    return t0, 0
            t, residual, total = minimise(problem, t0, COARSE, 1e-5)
        except NotIntegrable:
            residual = np.inf
        if residual <= 1e-2:
            return t, total
        problem.starts = problem.starts[:0]
    if problem.method == "lattice":
        t, start, factor = np.zeros_like(problem.y), 8.0, 0.25
    else:
        assert t0 is not None
        t, start, factor = t0, max(1e6, target), 4.0
    for n_samples in rungs(target, start, factor):
        problem.n_samples = n_samples
        t, residual, steps = minimise(problem, t, COARSE, 1e-5 if n_samples == target else 1e-2)
        total += steps
        if residual > 1e-2:  # the coarse integral is not smooth enough for the line search
            t, residual, steps = minimise(problem, t, 1e-2 * COARSE, 1e-5)
            total += steps
    return t, total


def _descend_with_outliers(problem: ReadoutIntegral) -> tuple[FloatArray, Outliers, int]:
    """From P -> infinity down to P: at large P the bulk is sharp and the outliers are those of the limit."""
    target = problem.n_samples
    t, outliers, _ = limit_start(problem)
    steps = rungs(target, max(1e4, target), 4.0)
    for n_samples in steps:
        problem.n_samples = n_samples
        _, t, _, outliers, _ = minimise_with_outliers(problem, t, outliers, COARSE)
    return t, outliers, len(steps)


def _start(problem: ReadoutIntegral, t0: FloatArray | None) -> tuple[FloatArray, Outliers, int]:
    """Approximate minimum of J and its outliers."""
    if problem.isolated:
        return _descend_with_outliers(problem)
    if t0 is None and problem.method == "lattice" and problem.y.shape[1] > _ALWAYS_LATTICE:
        problem.method = "laplace"
        with suppress(ConvergenceError):
            t0 = _descend(problem, None)[0]
        problem.method = "lattice"
        problem.starts = problem.starts[:0]
    t, steps = _descend(problem, t0)
    return t, no_outliers(t), steps


def _choose_accuracy(problem: ReadoutIntegral, t: FloatArray, wanted: float) -> float:
    """The accuracy that is wanted, or the best whose lattice is affordable; returns the number of nodes expected."""
    m = t.shape[1]
    few = len(problem.evaluate(t, COARSE).detail)

    def size(accuracy: float) -> float:
        first = problem.basis(accuracy)[0]
        return float((problem.window(accuracy) / (first @ first)) ** (0.5 * m))

    for accuracy, budget in ((max(wanted, best), budget) for best, budget in _ACCURACIES):
        problem.accuracy, nodes = accuracy, few * size(accuracy) / size(COARSE)
        if nodes <= budget:
            return nodes
    raise NotIntegrable(
        f"the readout posterior at P = {problem.asked:g} would need about {nodes:.0e} lattice nodes in {m} "
        f"dimensions (largest |t| {np.abs(t).max():.2g}); a larger P or a larger tau makes it narrower."
    )


def finite_solve(
    single_site: Cumulant,
    p: FloatArray,
    y: FloatArray,
    tau: float,
    n_samples: float,
    t0: FloatArray | None = None,
    *,
    codes0: Codes | None = None,
    method: str = "auto",
    aim: float = AIM,
    tolerance: float = TOLERANCE,
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
    codes0 : Codes, optional
        Codes of that solution.
    method : {"auto", "lattice", "laplace"}
        "auto": where classes can be exchanged and targets span five dimensions or more, sums over exchangeable classes;
        else the lattice where the targets span at most four dimensions (and P <= 1e6), beyond Laplace's method where it
        is accurate enough, then sums over two halves of the classes, then, up to six dimensions, the lattice.
    aim : float
        Residual for which the lattice is made as fine as it has to be, while that is affordable.
    tolerance : float
        Largest residual accepted; 1e-4 of the largest target where that is less.

    Raises
    ------
    ValueError
        For an unknown method.
    ConvergenceError
        If no start leads to a residual, recomputed independently and with the error of the integral, below the
        tolerance, or the integral is out of reach.
    """
    if method not in ("auto", "lattice", "laplace"):
        raise ValueError(f"method must be 'auto', 'lattice' or 'laplace', got {method!r}.")
    basis = _span(y.tobytes(), y.shape[1])
    if basis.shape[1] == 0:
        return _trivial(y, n_samples)
    tolerance = min(tolerance, _OF_TARGETS * float(np.abs(y).max()))
    aim = min(aim, 0.1 * tolerance)
    exchanged = exchange_solve(single_site, p, y, tau, n_samples, t0, aim) if method == "auto" else None
    if exchanged is not None and exchanged.residual <= tolerance:
        return exchanged
    start = None if t0 is None else np.ascontiguousarray(t0 @ basis)
    codes = None if codes0 is None else Codes(np.ascontiguousarray(codes0.readout @ basis), codes0.weight)
    failures: list[ConvergenceError] = []
    for kind in _methods(basis.shape[1], n_samples) if method == "auto" else [method]:
        problem = ReadoutIntegral(single_site, p, np.ascontiguousarray(y @ basis), tau, n_samples, kind)
        if kind == "halves" and not is_halved(problem):
            continue
        if kind == "laplace" and failures:  # so few samples that it is only where nothing else is to be tried
            break
        for isolated in (True, False) if problem.unbounded and kind == "lattice" else (problem.unbounded,):
            if isolated != problem.isolated:  # the second attempt
                problem = ReadoutIntegral(single_site, p, problem.y, tau, n_samples, kind)
            problem.isolated = isolated
            try:
                return _solve(problem, start, codes, basis, aim, tolerance)
            except (ConvergenceError, np.linalg.LinAlgError) as error:
                failures.append(_in_words(error, problem))
    raise _best(failures)


@lru_cache(maxsize=16)
def _span(targets: bytes, m: int) -> FloatArray:
    """Orthonormal basis (m, rank), as columns, of the span of the targets, which are given row by row.

    J is invariant under reflections that leave every y_c in place, and convex: t_c lies in that span.
    """
    _, size, axes = np.linalg.svd(np.frombuffer(targets).reshape(-1, m))
    rank = int(np.sum(size > 1e-13 * size[0]))
    return read_only(np.eye(m) if rank == m else np.ascontiguousarray(axes[:rank].T))


def _methods(rank: int, n_samples: float) -> list[str]:
    """What to try, in this order."""
    if rank <= _ALWAYS_LATTICE and n_samples <= _LATTICE_MAX_SAMPLES:
        return ["lattice"]
    sums = [] if n_samples > _LATTICE_MAX_SAMPLES else ["halves"]
    if rank <= MAX_LATTICE_DIMENSION and sums:
        sums.append("lattice")
    if n_samples < _LAPLACE_MIN_SAMPLES:
        return sums if rank <= MAX_LATTICE_DIMENSION else [*sums, "laplace"]
    return ["laplace", *sums]


def _in_words(error: Exception, problem: ReadoutIntegral) -> ConvergenceError:
    if isinstance(error, ConvergenceError):
        return error
    return ConvergenceError(f"at P = {problem.asked:g} the solver stopped at a singular matrix ({error}).")


def _best(failures: list[ConvergenceError]) -> ConvergenceError:
    """The failure that came closest; without any result the first, of the theory that was to apply."""
    partial = [(f.result.residual, f) for f in failures if isinstance(f.result, FiniteSolution)]
    return min(partial, key=itemgetter(0))[1] if partial else failures[0]


def _solve(
    problem: ReadoutIntegral,
    t0: FloatArray | None,
    codes: Codes | None,
    basis: FloatArray,
    aim: float,
    tolerance: float,
) -> FiniteSolution:
    """`finite_solve` with one method, in the span of the targets (columns of `basis`)."""
    if problem.method == "halves":
        if t0 is None:
            with suppress(ConvergenceError):
                t0 = limit_start(problem)[0]
        return halves_solve(problem, t0, basis, aim, tolerance)
    lattice = problem.method == "lattice"
    wanted = max(ACCURACY, _MARGIN * aim)
    near_codes = problem.y.shape[1] <= MAX_CLOUD_DIMENSION
    marginal = lattice and is_marginal(problem)
    if marginal or (lattice and not problem.unbounded and near_codes):
        if t0 is None and (marginal or problem.n_samples > _FEW_SAMPLES):
            with suppress(ConvergenceError):
                t0, _, codes = limit_start(problem)
        if t0 is not None and codes is not None and near_codes:
            slight = _SLIGHT * np.sqrt(aim / AIM) * max(1.0, problem.n_samples / _TABLES_GROW)
            overlap = min(OVERLAP, slight) if marginal else OVERLAP
            t0, clouds = solve_clouds(problem, t0, codes, aim, wanted, overlap)
            residual = np.inf if clouds is None else 2.0 * clouds.other + clouds.reached
            if clouds is not None and residual <= aim:
                parts = clouds.weight, clouds.sums.maxima, *clouds.sums.detail
                measured = residual, clouds.error, clouds.n_nodes
                return _solution(problem, t0, clouds.sums, no_outliers(t0), parts, measured, basis, 0)
        if t0 is not None and marginal:
            t0, minimum = solve_marginal(problem, t0, aim)
            if minimum is not None and _has_codes(problem, t0, wanted):
                return _deferred(problem, minimum, basis)
    t, outliers, steps = _start(problem, t0)
    n_nodes = _choose_accuracy(problem, t, wanted) if lattice else 0.0
    if not lattice or problem.accuracy > wanted:
        aim = max(aim, tolerance)
    found: FiniteSolution | None = None
    # Where a p_c P is not an integer, e^{P h} has branch points at complex a: a finer lattice may be needed.
    for refinement in _REFINEMENTS if lattice else (1.0,):
        if found is not None and n_nodes / refinement ** t.shape[1] > _ACCURACIES[-1][1]:
            break
        problem.refinement = refinement
        try:
            t, outliers, more, trial = _polished(problem, t, outliers, basis, aim)
        except (NotIntegrable, OutOfBudget):
            if found is None:
                raise
            break
        steps += more
        better = found is None or trial.residual < 0.3 * found.residual
        if found is None or trial.residual < found.residual:
            found = replace(trial, iterations=steps)
        if found.residual <= aim or (found.residual <= tolerance and not better):
            break
    assert found is not None
    if found.residual <= tolerance:
        return found
    what = "the difference of two lattices" if lattice else "the order in 1/P that Laplace's method leaves out"
    advice = "A larger P or a larger tau makes the integral easier."
    raise ConvergenceError(
        f"at P = {problem.asked:g} the stationarity residual, recomputed independently and with {what}, is "
        f"{found.residual:.1e}, above {tolerance:.0e} (relative error of the readout integral "
        f"{found.integration_error:.0e}). {advice}",
        found,
    )


def _polished(
    problem: ReadoutIntegral, t: FloatArray, outliers: Outliers, basis: FloatArray, aim: float
) -> tuple[FloatArray, Outliers, int, FiniteSolution]:
    """Solution on the final lattice (or by Laplace's method), with its codes and its independent check."""
    accuracy, n_samples, steps = problem.accuracy, problem.n_samples, 0
    beside = weight_error = 0.0
    if problem.isolated:
        reached, t, weight, outliers, sums = minimise_with_outliers(problem, t, outliers, accuracy)
    else:
        settled = settle(problem, t, accuracy, 3e-2 * aim) if problem.method == "lattice" else None
        if settled is not None and settled[0] <= 0.1 * aim:
            reached, t, weight, outliers, sums = settled
        else:
            reached, t, weight, outliers, sums = polish(problem, t, outliers, accuracy)
        if reached > aim:
            t, _, steps = minimise(problem, t, accuracy, max(1e-9, 1e-12 * n_samples))
            reached, t, weight, outliers, sums = polish(problem, t, outliers, accuracy)
    if problem.method == "laplace":
        covariance, mean, correction = sums.detail
        share, mode = weight, sums.maxima
        residual = laplace_residual(problem, problem.single_site.direct, t, weight, outliers)
        residual += laplace_error(problem, t, weight, sums)
        error, n_nodes = float(np.max(correction**2 * (weight > _MIN_WEIGHT))), len(mean)
    else:
        share, mode, mean, covariance, beside, weight_error = lattice_codes(problem, t, weight, sums)
        other, objective = lattice_residual(problem, t, weight, outliers, sums)
        residual = 2.0 * other + reached  # |other| plus at least the difference of the two lattices
        error = max(problem.aliasing(), n_samples * abs(objective - sums.objective))
        n_nodes = len(sums.detail)
    parts, measured = (share, mode, mean, covariance), (residual, error, n_nodes)
    found = _solution(problem, t, sums, outliers, parts, measured, basis, steps)
    return t, outliers, steps, replace(found, beside_cuts=beside, weight_error=weight_error)


def _solution(
    problem: ReadoutIntegral,
    t: FloatArray,
    sums: Sums,
    outliers: Outliers,
    parts: tuple[FloatArray, FloatArray, FloatArray, FloatArray],
    measured: tuple[float, float, int],
    basis: FloatArray,
    steps: int,
) -> FiniteSolution:
    """The solution in the space of all outputs; `parts`: weight, mode, mean and covariance of each code."""
    residual, error, n_nodes = measured
    return FiniteSolution(
        t=t @ basis.T,
        objective=sums.objective,
        level=sums.level,
        **_codes(problem, parts, basis),
        outlier_direction=outliers.direction @ basis.T,
        outlier_weight=outliers.weight,
        residual=residual,
        decrement=decrement(problem, t, sums, outliers),
        integration_error=error,
        method=problem.method,
        n_nodes=n_nodes,
        iterations=steps,
    )


def _codes(
    problem: ReadoutIntegral, parts: tuple[FloatArray, FloatArray, FloatArray, FloatArray], basis: FloatArray
) -> dict[str, Any]:
    """Codes that are not too light, heaviest first, in the space of all outputs."""
    share, mode, mean, covariance = parts
    order = [i for i in heaviest_first(share, mode @ basis.T) if share[i] > _MIN_WEIGHT]
    outside = (np.eye(len(basis)) - basis @ basis.T) / problem.n_samples
    return {
        "weight": share[order] / share[order].sum(),
        "mode": mode[order] @ basis.T,
        "mean": mean[order] @ basis.T,
        "covariance": basis @ covariance[order] @ basis.T + outside,
        "kind": None,
    }


def _has_codes(problem: ReadoutIntegral, t: FloatArray, wanted: float) -> bool:
    """Whether a lattice over all outputs is affordable, and how fine: codes are worked out on it when asked for."""
    problem.accuracy = wanted
    if t.shape[1] <= _ALWAYS_LATTICE:
        return True
    with suppress(NotIntegrable):
        return _choose_accuracy(problem, t, wanted) > 0.0
    return False


def _deferred(problem: ReadoutIntegral, found: Minimum, basis: FloatArray) -> FiniteSolution:
    """The solution with one class integrated out; codes are those of the lattice over all outputs, when asked for."""
    t = found.t

    def codes() -> dict[str, Any]:
        sums = problem.evaluate(t, problem.accuracy, hessian=False)
        share, mode, mean, covariance, beside, error = lattice_codes(problem, t, sums.weight, sums)
        parts = _codes(problem, (share, mode, mean, covariance), basis)
        return {**parts, "beside_cuts": beside, "weight_error": error}

    return deferred(
        t @ basis.T,
        codes,
        objective=found.objective,
        level=found.level,
        residual=2.0 * found.other + found.reached,
        decrement=found.decrement,
        integration_error=found.error,
        method=problem.method,
        n_nodes=found.n_nodes,
        iterations=found.steps,
    )


def _trivial(y: FloatArray, n_samples: float) -> FiniteSolution:
    """All targets zero: t = 0 and the readouts keep their prior."""
    m = y.shape[1]
    zero, none = np.zeros((1, m)), np.empty((0, m))
    prior = np.eye(m)[None] / n_samples
    return FiniteSolution(
        np.zeros_like(y), 0.0, 0.0, np.ones(1), zero, zero, prior, none, np.empty(0), 0.0, 0.0, 0.0, "lattice", 0, 0
    )
