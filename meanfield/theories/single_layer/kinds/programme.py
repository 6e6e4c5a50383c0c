"""Orbits of codes that are nearly as high as each other: which carry weight, by quadratic programmes.

Of 50 + 30 + 20 classes hundreds are. Which of them the solution needs cannot be seen from a smoothed problem, whose
weights follow the last digits of their heights, but from the linear ones that a step of t is held against.
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.numerics.limits import check_time
from meanfield.theories.single_layer.compiled import kind_path
from meanfield.theories.single_layer.compiled.code_program import DAMPING, PROGRAMMES, RATIOS, SETTLED, STRONG, interior
from meanfield.theories.single_layer.kinds.orbits import KindTask, Orbits, fields_of
from meanfield.validation import FloatArray

__all__ = ["padded", "settled"]

_CROWD = 4  # orbits for each equation that are too many


def settled(
    task: KindTask, theta: FloatArray, codes: Orbits, weights: FloatArray, window: float
) -> tuple[FloatArray, Orbits, FloatArray, FloatArray] | None:
    """Newton's steps in which nearly equal orbits are sorted out by a quadratic programme (`compiled.code_program`).

    Returns (theta, codes, weights, slack); orbits within `window` of the highest are looked at. None where many more
    orbits than are needed touch the level, which the path sees as well, or where numbers run out.
    """
    kinds = task.kinds
    free = np.flatnonzero(kinds.free)
    value, damping = task.linear(theta) + float(codes.heights.max()), 0.0
    share = np.repeat(task.share, theta.shape[1])[free]
    slack = np.zeros(len(weights))
    for _ in range(PROGRAMMES):
        fields = fields_of(task, theta, codes)
        columns = np.ascontiguousarray(fields.columns.reshape(len(fields.h), -1)[:, free])
        strong = weights > STRONG
        curvature = np.tensordot(weights[strong], fields.curvature[strong], 1)[np.ix_(free, free)]
        slope = share * (kinds.y - task.tau * theta).ravel()[free]
        matrix = np.ascontiguousarray(curvature + np.diag((task.tau + damping) * share))
        weights, slack, step = weights.copy(), np.empty(len(weights)), np.empty(len(free))
        s = interior(task.table, matrix, slope, fields.h, columns, weights, slack, step)
        gain = float(fields.h.max() - s + slope @ step - 0.5 * step @ matrix @ step)
        if np.sum(weights > RATIOS[0] * slack) > _CROWD * (len(free) + 1):
            return None
        if gain <= SETTLED * (1.0 + abs(value)):
            return theta, codes, weights, slack
        if not np.isfinite(step).all():
            return None
        trial = theta.copy()
        trial.ravel()[free] += step
        near = codes.take(slack < window)
        found = Orbits(
            *kind_path.highest_orbits(
                task.table, kinds.n, kinds.p, trial, kinds.split, task.low, task.high, (near.counts, near.v),
                window, np.ones(kinds.n_kinds),
            )
        )  # fmt: skip
        check_time()
        trial_value = task.linear(trial) + float(found.heights.max()) if len(found.v) else math.inf
        known = {tuple(counts): weight for counts, weight in zip(codes.counts.tolist(), weights, strict=True)}
        if trial_value <= value - 0.1 * gain + 1e-13 * (1.0 + abs(value)):
            damping = 0.1 * damping if damping > DAMPING else 0.0
            weights = np.array([known.get(tuple(counts), 0.0) for counts in found.counts.tolist()])
            theta, codes, value = trial, found, trial_value
            continue
        # Orbits that the programme did not know are in the way, or the step is too long.
        fresh = found.take([i for i, counts in enumerate(found.counts.tolist()) if tuple(counts) not in known])
        if len(fresh.v):
            codes = codes + task.readouts(theta, fresh.counts, fresh.v)
            value = task.linear(theta) + float(codes.heights.max())
            weights = padded(weights, len(codes.v))
        else:
            damping = max(10.0 * damping, DAMPING)
    return None


def padded(values: FloatArray, size: int) -> FloatArray:
    """Zeros for what has been added."""
    return np.concatenate([values, np.zeros(size - len(values))])
