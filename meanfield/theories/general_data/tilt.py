"""What the quadrature of tilted moments must know about an activation."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.activations.nonlinearity import nonlinearity
from meanfield.theories.general_data.compiled.tilted import (
    GRID_REACH,
    GRID_STEPS,
    KINKED,
    PIECEWISE_LINEAR,
    SMOOTH,
    Tilt,
    scratch,
    tilted_moments,
)

__all__ = ["tilt_of"]

_REACH = 40.0
_POINTS = 80001
_ACCURACY = 1e-11  # agreement of the moments with those of half the step


@lru_cache(maxsize=64)
def tilt_of(activation: Activation) -> Tilt:
    """Range of phi', bound of phi'', kinks and the step in z that resolves phi, with the table of phi itself.

    Raises
    ------
    ValueError
        If no step down to 1e-4 resolves phi.
    """
    table = nonlinearity(activation)
    pieces = activation.pieces
    none, nowhere = np.empty(0), np.empty(0, dtype=np.int64)
    if pieces is not None:
        breaks, intercepts, slopes = (np.array(part, dtype=float) for part in pieces)
        low, high = float(slopes.min()), float(slopes.max())
        return Tilt(PIECEWISE_LINEAR, breaks, intercepts, slopes, low, high, 0.0, 0.0, 1.0, none, nowhere, table)
    z = np.linspace(-_REACH, _REACH, _POINTS)
    kinks = np.array(activation.kinks, dtype=float)
    slope = activation.derivative(z)
    ends = np.append(slope, activation.slopes)
    cell = np.searchsorted(kinks, z)
    same = cell[1:] == cell[:-1]
    bend = np.abs(np.diff(slope) / np.diff(z))[same]
    jumps = [abs(float(activation(x + 1e-12) - activation(x - 1e-12))) for x in kinks]
    half = np.floor(GRID_REACH / GRID_STEPS).astype(np.int64)
    grids = [h * np.arange(-n, n + 1) for h, n in zip(GRID_STEPS, half)]
    first = Tilt(
        kind=KINKED if kinks.size else SMOOTH,
        breaks=kinks,
        intercepts=none,
        slopes=none,
        slope_min=float(np.nanmin(ends)),
        slope_max=float(np.nanmax(ends)),
        curvature=float(bend.max()),
        jump=float(sum(jump for jump in jumps if jump > 1e-9)),
        step=float(GRID_STEPS[0]),
        grid=activation(np.concatenate(grids)),
        start=np.concatenate([[0], np.cumsum(2 * half + 1)[:-1]]) + half,
        nonlinearity=table,
    )
    step = first.step
    while not _resolved(first._replace(step=step)):
        step *= 0.5
        if step < 1e-4:
            raise ValueError(f"{activation!r} varies too fast for the quadrature of its tilted moments.")
    return first._replace(step=step)


def _resolved(tilt: Tilt) -> bool:
    """Whether halving the step leaves the moments unchanged, at wide cavities where phi is the limit."""
    work = scratch()
    finer = tilt._replace(step=0.5 * tilt.step)
    for sd in (1.0, 3.0):
        for k in (-6.0, -1.0, 0.0, 0.3, 4.0):
            for mean in (-1.3, 0.0, 0.7, 2.0):
                coarse = np.array(tilted_moments(tilt, k, mean, sd * sd, work))
                fine = np.array(tilted_moments(finer, k, mean, sd * sd, work))
                if np.abs(coarse - fine).max() > _ACCURACY * (1.0 + np.abs(fine).max()):
                    return False
    return True
