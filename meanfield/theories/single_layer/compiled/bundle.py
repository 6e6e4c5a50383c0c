"""Proximal bundle method with exact nonlinear cuts: the robust route to the minimum of J from scratch (sigma_a = 1)."""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.copies import copy_vector
from meanfield.numerics.jit import jit_apart
from meanfield.numerics.order import largest_first
from meanfield.theories.single_layer.compiled.ascent import NO_PUSH, find_maxima, linear_push, merge_maximum
from meanfield.theories.single_layer.compiled.generated.stationarity import linear_part
from meanfield.theories.single_layer.compiled.master import solve_master
from meanfield.theories.single_layer.compiled.outlier import worst_directions
from meanfield.theories.single_layer.compiled.returned import CUTS, STATE

__all__ = ["bundle_rounds"]

_NEW_CUTS = (
    12  # at most so many new readouts, and half as many directions, a round: degenerate phases offer a continuum
)


@jit_apart(returns="int64")
def _scaled_back(table, p, t, worst, worst_values):
    """Scale t (in place) to where J is finite; fills the `worst` directions and their values, returns their number.

    Where G also grows linearly J diverges at the boundary: t stays inside, where h is of order one far out.
    """
    n_worst, q_max, _ = worst_directions(table, p, t, 1.0 - 1e-7, worst, worst_values)
    confined = 1.0
    for i in range(n_worst):
        push = linear_push(table, p, t, worst[i])
        if push > NO_PUSH:
            confined = min(confined, 1.0 - min(0.5, 0.5 * push * push))
            worst_values[i] = -1.0
    if q_max > confined:
        t *= np.sqrt(confined / q_max)
    return n_worst


@jit_apart(returns=f"Tuple(({CUTS}))")
def _new_directions(directions, weights, worst, worst_values):
    """The directions that carry weight, and the best of the `worst` ones; returns (directions, weights)."""
    n_old, m = directions.shape
    pool = np.empty((n_old + _NEW_CUTS // 2, m))
    pool_weights = np.empty(n_old + _NEW_CUTS // 2)
    size = 0
    for k in range(n_old):
        if weights[k] > 1e-8:
            copy_vector(pool[size], directions[k])
            pool_weights[size] = weights[k]
            size += 1
    added = 0
    for i in largest_first(worst_values):
        if added < _NEW_CUTS // 2 and worst_values[i] > 0.0:
            before = size
            size = merge_maximum(pool, pool_weights, size, worst[i], 0.0, 1e-10)
            added += size - before
    return pool[:size].copy(), pool_weights[:size].copy()


@jit_apart(returns=f"Tuple(({STATE}, float64, float64, int64))")
def bundle_rounds(table, p, y, tau, low, high, state, tolerance, max_rounds):
    """Run up to `max_rounds` rounds on `state` = (t, cuts, cut weights, directions, direction weights, rho).

    Returns (state, J at the best feasible t, predicted decrease, rounds used). The best t is feasible: Q(t) <= 1.
    """
    t_best, cuts, cut_weights, directions, direction_weights, rho = state
    m = t_best.shape[1]
    unbounded = table.growth_plus > 0.0 or table.growth_minus > 0.0
    maxima = np.empty((256, m))
    heights = np.empty(256)
    worst = np.empty((64, m))
    worst_values = np.empty(64)
    no_metric = np.empty((0, 0))
    best = np.inf
    if cuts.shape[0] > 0:
        level = -np.inf
        count = find_maxima(table, p, t_best, low, high, cuts, False, maxima, heights)
        level = np.max(heights[:count])
        best = linear_part(p, y, tau, t_best) + level
    predicted = np.inf
    used = 0
    for _ in range(max_rounds):
        table.stop[4] += 1
        used += 1
        t = t_best.copy()
        if cuts.shape[0] == 0:
            cuts = np.zeros((1, m))
            cut_weights = np.ones(1)
        weights = np.concatenate((cut_weights, direction_weights))
        inner = 1e-9 if predicted == np.inf else min(1e-9, max(1e-13, 1e-3 * predicted))
        n_cuts = cuts.shape[0]
        _, model, ok = solve_master(
            table, p, y, tau, rho, t_best, cuts, np.ones(n_cuts), directions, no_metric, 0.0, t, weights, inner
        )
        # New directions first; then t is scaled back to where J is finite.
        n_worst = 0
        if unbounded:
            n_worst = _scaled_back(table, p, t, worst, worst_values)
        active = 0
        for k in range(n_cuts):
            if weights[k] > 1e-7:
                active += 1
        starts = np.empty((active, m))
        active = 0
        for k in range(n_cuts):
            if weights[k] > 1e-7:
                copy_vector(starts[active], cuts[k])
                active += 1
        count = find_maxima(table, p, t, low, high, starts, False, maxima, heights)
        top = np.max(heights[:count])
        value = linear_part(p, y, tau, t) + top
        gain = best - model if best < np.inf else np.inf
        serious = value < best - 0.1 * gain or best == np.inf
        # Keep the cuts that carry weight, add the best new ones.
        order = largest_first(heights[:count])
        pool = np.empty((active + _NEW_CUTS, m))
        pool_weights = np.empty(active + _NEW_CUTS)
        size = 0
        for k in range(n_cuts):
            if weights[k] > 1e-7:
                copy_vector(pool[size], cuts[k])
                pool_weights[size] = weights[k]
                size += 1
        for i in range(min(count, _NEW_CUTS)):
            a = maxima[order[i]]
            known = -np.inf
            for k in range(size):
                close = 0.0
                for r in range(m):
                    close = max(close, abs(pool[k, r] - a[r]))
                if close < 1e-9:
                    known = np.inf
            if known == np.inf:
                continue
            if i > 0 and heights[order[i]] < top - 1.0 - abs(top) * 0.2:
                continue
            copy_vector(pool[size], a)
            pool_weights[size] = 0.0
            size += 1
        cuts = pool[:size].copy()
        cut_weights = pool_weights[:size].copy()
        if unbounded:
            directions, direction_weights = _new_directions(directions, weights[n_cuts:], worst, worst_values[:n_worst])
        if serious:
            t_best = t
            best = value
            rho = min(rho * 4.0, 1e8)
        else:
            rho = max(rho / 3.0, 1e-4)
        predicted = max(gain, 0.0) if gain < np.inf else np.inf
        if (predicted < tolerance * (1.0 + abs(best)) and ok) or exhausted(table.stop, 0):
            break
    return (t_best, cuts, cut_weights, directions, direction_weights, rho), best, predicted, used
