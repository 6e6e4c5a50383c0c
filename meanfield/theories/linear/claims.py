"""What a file claims of a linear network, held against the closed forms."""

from __future__ import annotations

import numpy as np

from meanfield.posterior.claims import same
from meanfield.theories.linear.data_tasks import LinearDataSolution
from meanfield.theories.linear.posterior import LinearDataPosterior
from meanfield.theories.single_layer.posterior import SingleNeuronPosterior
from meanfield.theories.single_layer.solution import Solution

__all__ = ["check_classes", "check_data"]

_EXACT = 1e-7  # relative error of equations that hold to rounding


def check_classes(posterior: SingleNeuronPosterior, again: Solution) -> None:
    """Refuse the posterior of a class task that is not the solution `again` of its task."""
    scale = float(np.abs(again.t).max(initial=0.0))
    same("t", again.t, posterior.solution.t, _EXACT, scale)
    same("objective", again.objective, posterior.solution.objective, _EXACT, abs(again.objective))
    spread, claimed = again.gaussian_covariance, posterior.solution.gaussian_covariance
    assert spread is not None  # of a linear network
    same("covariance of the readouts", spread, claimed, _EXACT, float(np.abs(spread).max(initial=0.0)))


def check_data(posterior: LinearDataPosterior, again: LinearDataSolution) -> None:
    """Refuse the posterior of a data task that is not the solution `again` of its task."""
    for name in ("t", "readout_covariance", "weights", "learned", "pulled_back", "objective"):
        claimed, found = np.asarray(getattr(posterior.solution, name)), np.asarray(getattr(again, name))
        if claimed.shape != found.shape:
            raise ValueError(f"its {name} has shape {claimed.shape}, expected {found.shape}.")
        if name != "weights":  # in the basis of a singular value decomposition, whose signs are open
            same(name, found, claimed, 1e-6, float(np.abs(found).max(initial=0.0)))
