"""The minimum of J by continuation in the size of the targets, for tasks with stiff codes far out (sigma_a = 1).

Codes far out are known to few digits along almost flat ridges, and which of them carry weight changes with the targets.
From a solution for y / share the active set follows y: one code enters or leaves at a time.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.jit import jit_apart
from meanfield.theories.single_layer.compiled.dual import active_set
from meanfield.theories.single_layer.compiled.smoothing import smooth_path

__all__ = ["grown_targets"]

_SHARES = (0.1, 0.003, 0.01, 0.03, 0.001, 0.3)  # of the targets to begin with: which of them gets through is luck
_MOST_STEPS = 200
_FIRST_RATIO, _LARGEST_RATIO, _SMALLEST_RATIO = 2.0, 4.0, 1.002


@jit_apart
def grown_targets(table, p, y, tau, low, high):
    """Solve for a share of the targets, then let them grow to `y`. Returns as `active_set`."""
    n_classes, m = y.shape
    none = np.empty((0, m))
    no_weights = np.empty(0)
    failed = (False, np.zeros((n_classes, m)), none, no_weights, none, no_weights, 0.0, 0, 0)
    search = np.empty((1024, m)), np.empty(1024), np.empty(1, np.int64)
    for first in _SHARES:
        share = first
        solution = smooth_path(table, p, y * share, tau, low, high, none)
        ratio = _FIRST_RATIO
        for _ in range(_MOST_STEPS):
            if not solution[0] or exhausted(table.stop, 1):
                break
            trial = min(1.0, share * ratio)
            found = active_set(
                table,
                p,
                y * trial,
                tau,
                low,
                high,
                solution[1].copy(),
                solution[2].copy(),
                solution[3].copy(),
                solution[4].copy(),
                solution[5].copy(),
                search,
            )
            if found[0]:
                solution = found
                share = trial
                if share == 1.0:
                    return solution
                ratio = min(ratio**1.5, _LARGEST_RATIO)
            else:
                ratio = ratio**0.4
                if ratio < _SMALLEST_RATIO:
                    break
        if exhausted(table.stop, 1):
            break
    return failed
