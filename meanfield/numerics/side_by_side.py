"""Many unconstrained minimisations of one function at once, by the BFGS method, for functions that NumPy evaluates in
rows: the cost of a call is shared by all of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["minimise_rows"]

Array = NDArray[np.float64]
_DECREASE, _CURVATURE = 1e-4, 0.9  # Wolfe's conditions
_TRIALS = 20  # of a step
_FAR = 1e8  # no unknown is larger


def minimise_rows(
    function: Callable[..., tuple[Array, Array]], x: Array, given: Array, tolerance: float, steps: int
) -> tuple[Array, Array]:
    """Ends (B, N) of descents from every row of x, and the values (B,) there.

    Each row bisects its own step until it satisfies Wolfe's conditions, and leaves as soon as it is done.

    Parameters
    ----------
    function : callable
        Values (b,) and gradients (b, N) of rows (b, N), and of `given` for these rows; infinite or NaN is no minimum.
    x : (B, N) array
    given : (B,) array
        What else `function` takes.
    tolerance : float
        Largest gradient at which a row is done.
    steps : int
        Most steps of a row.
    """
    if not len(x):
        return x, np.empty(0)
    x, given, rows = x.copy(), given.copy(), np.arange(len(x))
    ends, values = x.copy(), np.full(len(x), np.inf)
    value, slope = _finite(function, x, given)
    identity = np.eye(x.shape[1])
    inverse = np.broadcast_to(identity, (*x.shape, x.shape[1])).copy()
    fresh, done = np.ones(len(x), dtype=bool), np.zeros((2, len(x)), dtype=int)  # steps, trials of this one
    along = -slope
    falls = -(slope**2).sum(axis=1)
    step = 1.0 / np.sqrt(np.maximum(-falls, 1.0))
    low, high = np.zeros(len(x)), np.full(len(x), np.inf)
    active = np.isfinite(value) & (np.abs(slope).max(axis=1, initial=0.0) > tolerance)
    while True:
        if not active.all():
            ends[rows[~active]], values[rows[~active]] = x[~active], value[~active]
            if not active.any():
                return ends, values
            rows, x, given, value, slope, inverse, fresh, along, falls, step, low, high = (
                one[active] for one in (rows, x, given, value, slope, inverse, fresh, along, falls, step, low, high)
            )
            done, active = done[:, active], np.ones(len(rows), dtype=bool)
        trial = x + step[:, None] * along
        found, gradient = _finite(function, trial, given)
        done[1] += 1
        ends_there = (gradient * along).sum(axis=1)
        long = ~(found <= value + _DECREASE * step * falls)
        short = ~long & (ends_there < _CURVATURE * falls)
        last = done[1] >= _TRIALS
        high, low = np.where(long, step, high), np.where(short, step, low)
        active = ~(long & last)
        taken = np.flatnonzero(~long & (~short | last))
        # The minimum of a parabola where there is none of a step that is too short, else bisection or twice as long.
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            lowest = -0.5 * falls * step**2 / (found - value - falls * step)
        lowest = np.clip(np.where(np.isfinite(lowest), lowest, 0.0), 0.1 * step, 0.5 * step)
        between = np.where(np.isfinite(high), 0.5 * (low + np.where(np.isfinite(high), high, 0.0)), 2.0 * low)
        step = np.where(long & (low == 0.0), lowest, between)
        if not len(taken):
            continue
        _update(inverse, fresh, taken, trial[taken] - x[taken], gradient[taken] - slope[taken])
        x[taken], value[taken], slope[taken] = trial[taken], found[taken], gradient[taken]
        along[taken] = -(inverse[taken] @ slope[taken, :, None])[:, :, 0]
        falls[taken] = (along[taken] * slope[taken]).sum(axis=1)
        lost = taken[~(falls[taken] < 0.0)]
        if len(lost):
            inverse[lost], fresh[lost] = identity, True
            along[lost], falls[lost] = -slope[lost], -(slope[lost] ** 2).sum(axis=1)
        step[taken], low[taken], high[taken] = 1.0, 0.0, np.inf
        done[0, taken] += 1
        done[1, taken] = 0
        active[taken] = (np.abs(slope[taken]).max(axis=1) > tolerance) & (done[0, taken] < steps)


def _finite(function: Callable[..., tuple[Array, Array]], x: Array, given: Array) -> tuple[Array, Array]:
    """The function, infinite without slope where it is no number or x is too far."""
    near = np.abs(x).max(axis=1, initial=0.0) < _FAR
    value, slope = function(np.where(near[:, None], x, 0.0), given)
    good = near & np.isfinite(value) & np.isfinite(slope).all(axis=1)
    return np.where(good, value, np.inf), np.where(good[:, None], slope, 0.0)


def _update(inverse: Array, fresh: NDArray[np.bool_], rows: NDArray[np.intp], moved: Array, turned: Array) -> None:
    """BFGS's inverse Hessians (B, N, N) after these rows moved and their gradients turned."""
    curvature, square = (moved * turned).sum(axis=1), (turned**2).sum(axis=1)
    good = curvature > 1e-12 * np.sqrt((moved**2).sum(axis=1) * square)
    rows, moved, turned, curvature, square = (one[good] for one in (rows, moved, turned, curvature, square))
    first = fresh[rows]
    inverse[rows[first]] *= (curvature[first] / square[first])[:, None, None]
    fresh[rows] = False
    image = (inverse[rows] @ turned[:, :, None])[:, :, 0]
    share = 0.5 * (1.0 + (turned * image).sum(axis=1) / curvature)
    outer = (moved / curvature[:, None])[:, :, None] * (share[:, None] * moved - image)[:, None]
    inverse[rows] += outer + np.swapaxes(outer, 1, 2)
