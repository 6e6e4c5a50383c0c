"""Outliers at finite P: J minimised subject to sum_c p_c g(t_c.u) <= 1 for every direction u."""

from __future__ import annotations

import numpy as np

from meanfield.numerics.quadratic import quadratic_programme
from meanfield.posterior.certificate import ConvergenceError
from meanfield.theories.single_layer.compiled.outlier import worst_directions
from meanfield.theories.single_layer.finite.newton import hessian_of, no_outliers, polish
from meanfield.theories.single_layer.readout.integral import Outliers, ReadoutIntegral, Sums, outlier_terms
from meanfield.validation import FloatArray

__all__ = ["minimise_with_outliers", "quadratic_programme"]

_MAX_STEPS = 60
_NEARLY_ACTIVE = 0.95


def minimise_with_outliers(
    problem: ReadoutIntegral, t: FloatArray, outliers: Outliers, accuracy: float
) -> tuple[float, FloatArray, FloatArray, Outliers, Sums]:
    """Minimise J subject to sum_c p_c g(t_c.u) <= 1 for all u: quadratic programmes, then `polish`.

    Every step sees all local maxima u of the constraint that are nearly active, and those that carry weight.
    """
    m = t.shape[1]
    found, values = np.empty((64, m)), np.empty(64)
    none = no_outliers(t)
    error = np.inf
    for _ in range(_MAX_STEPS):
        if error < 1e-7:
            done = polish(problem, t, _merged(outliers), accuracy)
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
        hessian = hessian_of(problem, sums)
        for w, term in zip(weights, terms):
            hessian += w * term[3]
        hessian[np.diag_indices(t.size)] += 1e-12 * np.trace(hessian)
        slack = np.array([q - 0.5 for _, q, *_ in terms])
        slope = np.array([term[2] for term in terms]).reshape(-1, t.size)
        step, weights = quadratic_programme(hessian, problem.gradient(t, sums, sums.weight, none), slope, slack)
        step *= min(1.0, (1.0 + np.abs(t).max()) / np.abs(step).max(initial=1e-300))
        t = t + step.reshape(t.shape)
        keep = (weights > 0) | (slack > -0.2)
        outliers = Outliers(np.array([u for u, *_ in terms]).reshape(-1, m)[keep], weights[keep])
        error = float(np.abs(step).max())
    raise ConvergenceError(f"the set of outliers at P = {problem.asked:g} did not settle (last step {error:.1e}).")


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
