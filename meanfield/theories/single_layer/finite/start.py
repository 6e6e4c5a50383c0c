"""Where Newton's method at finite P starts: at P -> infinity, or at a few samples."""

from __future__ import annotations

import numpy as np

from meanfield.posterior.certificate import ConvergenceError
from meanfield.theories.single_layer.compiled.sweep import NOT_CONVERGED, RESIDUAL
from meanfield.theories.single_layer.finite.clouds import Codes
from meanfield.theories.single_layer.limit import limit_point
from meanfield.theories.single_layer.readout.integral import Outliers, ReadoutIntegral
from meanfield.validation import FloatArray

__all__ = ["limit_start", "rungs"]


def rungs(target: float, start: float, factor: float) -> list[float]:
    """P from about `start` to `target` in steps of 1 / factor."""
    rungs = [target]
    while (start - rungs[-1]) * (factor - 1.0) > 0:
        rungs.append(factor * rungs[-1])
    return rungs[::-1]


def limit_start(problem: ReadoutIntegral) -> tuple[FloatArray, Outliers, Codes]:
    """t, outliers and codes of P -> infinity."""
    site = problem.single_site
    point = limit_point(site.activation, site.k, problem.p, problem.y, problem.tau, max_boxes=0)
    if point.status in (NOT_CONVERGED, RESIDUAL) or not np.isfinite(point.t).all():
        raise ConvergenceError(
            "the solution at P -> infinity, from which this P is approached, was not found; a larger tau is easier, "
            "and warm_start takes the solution of a similar task."
        )
    return point.t, Outliers(point.directions, point.direction_weights), Codes(point.readouts, point.weights)
