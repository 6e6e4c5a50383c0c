"""Averages over the readout posterior of a task with exchangeable classes at finite P, from order parameters alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from meanfield.activations.cumulant import cumulant
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.theories.single_layer.compiled import exchange as compiled
from meanfield.theories.single_layer.finite.exchange import exchangeable, reduced_order_parameters
from meanfield.theories.single_layer.readout.exchange import ExchangeIntegral, range_of
from meanfield.theories.single_layer.readout.integral import NotIntegrable, OutOfBudget
from meanfield.theories.single_layer.solution import Solution
from meanfield.validation import FloatArray

__all__ = ["ExchangeAverages", "exchange_averages"]

_ACCURACY = 1e-10
_REFINEMENT = 0.7  # where a p_c P is not an integer, too


class ExchangeAverages(NamedTuple):
    """Of all neurons: J at t, how far t is from stationary, and the kernel of different samples and its diagonal."""

    objective: float
    residual: float
    block: FloatArray  # (C, C)
    diagonal: FloatArray  # (C,)


def exchange_averages(network: Network, task: ClassTask, solution: Solution) -> ExchangeAverages | None:
    """None where classes cannot be exchanged, t is not symmetric, or grids would be too large."""
    if math.isinf(task.n_samples) or network.activation.parts != "codes":
        return None
    single_site, sigma_a = cumulant(network.activation, network.k), network.sigma_a
    kinds = exchangeable(single_site, task.fractions, task.targets / sigma_a)
    if kinds is None:
        return None
    t = solution.t * sigma_a
    theta = reduced_order_parameters(kinds, t)
    if not np.abs(kinds.order_parameters(theta) - t).max() <= 1e-9 * (1.0 + np.abs(t).max()):
        return None
    integral = ExchangeIntegral(single_site, kinds, solution.tau / sigma_a**2, task.n_samples, range_of(single_site))
    integral.refinement = _REFINEMENT
    try:
        value = integral.value(theta, _ACCURACY, 1)
        means, squares, own, curvature = _activities(integral, theta, value.outer.a)
    except (NotIntegrable, OutOfBudget):
        return None
    w = np.exp(value.outer.exponent - value.outer.exponent.max())
    w /= w.sum()
    n = integral.n.astype(float)
    between = (means * w) @ means.T / np.outer(n, n)
    pairs = (squares @ w - own @ w) / np.maximum(n * (n - 1.0), 1.0)
    alone = (own @ w) / n
    between[np.diag_indices(len(n))] = np.where(n > 1, pairs, alone)
    block = between[np.ix_(kinds.kind, kinds.kind)]
    block[np.diag_indices(len(block))] = alone[kinds.kind]
    diagonal = np.diag(block) + ((curvature @ w) / n)[kinds.kind]
    return ExchangeAverages(value.objective, integral.residual(value.gradient) * sigma_a, block, diagonal)


def _activities(integral: ExchangeIntegral, theta: FloatArray, a: FloatArray) -> tuple[FloatArray, ...]:
    """Arrays (K, M): see `compiled.exchange.kind_activity`."""
    rho = integral.kinds.overlaps(theta)[1]
    values = np.zeros((len(theta), len(a), 4))
    for k in range(len(theta)):
        samples, grid = integral.site(theta, k, _ACCURACY, direct=False, shifted=False)
        low, step, size = (0.0, 1.0, 1) if grid is None else (grid.low, grid.step, grid.size)
        inverse_rho = 0.0 if grid is None else 1.0 / rho[k]
        compiled.kind_activity(
            *samples, integral.n_samples, integral.p[k], int(integral.n[k]), inverse_rho, low, step, size,
            np.ascontiguousarray(a @ theta[k, :-1]), values[k],
        )  # fmt: skip
    return tuple(np.moveaxis(values, 2, 0))
