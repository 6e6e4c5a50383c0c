"""Averages over the readout posterior with many different classes at finite P, from order parameters alone."""

from __future__ import annotations

import math

import numpy as np

from meanfield.activations.cumulant import cumulant
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.theories.single_layer.finite.exchange_averages import ExchangeAverages
from meanfield.theories.single_layer.finite.halves import MIN_OUTPUTS, is_halved
from meanfield.theories.single_layer.readout.halves import Halves
from meanfield.theories.single_layer.readout.halves_grids import span_of
from meanfield.theories.single_layer.readout.integral import NotIntegrable, OutOfBudget, ReadoutIntegral
from meanfield.theories.single_layer.solution import Solution

__all__ = ["halves_averages"]

_ACCURACY = 1e-9
_REFINEMENT = 0.8  # where a p_c P is not an integer, too


def halves_averages(network: Network, task: ClassTask, solution: Solution) -> ExchangeAverages | None:
    """None where halves of the classes are not to be tried, or their grids would be too large."""
    if math.isinf(task.n_samples) or network.activation.parts != "codes" or min(task.targets.shape) < MIN_OUTPUTS:
        return None
    sigma_a, basis = network.sigma_a, span_of(np.vstack([task.targets, solution.t])).T
    t, y = solution.t @ basis * sigma_a, task.targets @ basis / sigma_a
    site = cumulant(network.activation, network.k)
    problem = ReadoutIntegral(site, np.array(task.fractions), y, solution.tau / sigma_a**2, task.n_samples, "lattice")
    if not is_halved(problem):
        return None
    halves = Halves(problem)
    halves.refinement = _REFINEMENT
    try:
        halves.look_for_maxima(t, _ACCURACY)
        value, block, bend = halves.averages(t, _ACCURACY)
    except (NotIntegrable, OutOfBudget, np.linalg.LinAlgError):
        return None
    residual = problem.residual(value.gradient) * sigma_a
    return ExchangeAverages(value.objective, residual, block, np.diag(block) + bend)
