"""The readout posterior at finite P on a lattice: averages over it without assuming that codes are Gaussian."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import gammainccinv

from meanfield.activations.cumulant import cumulant
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.theories.single_layer.solution import Solution
from meanfield.validation import FloatArray

_ACCURACY = 1e-12  # of the lattice sum where every p_c P is an integer, and of the tail that is cut off
_REFINEMENTS = (1.0, 0.7, 0.5, 0.35)  # elsewhere the lattice must be finer
_TOLERANCE = 1e-9
_MAX_DIMENSION = 4
_MAX_NODES, _MAX_BULK = 2_000_000, 200_000  # of a bulk more means that it is not separated from the tail


def log_integral(task: ClassTask, solution: Solution) -> float:
    """S = (1/P) ln int da (P / 2 pi sigma_a^2)^{m/2} exp(P h(a; t)), the last term of J."""
    p, y, t = task.fractions, task.targets, solution.t
    return float(solution.objective + p @ (t * y).sum(axis=1) - 0.5 * solution.tau * p @ (t**2).sum(axis=1))


def readout_lattice(
    network: Network, task: ClassTask, solution: Solution, tolerance: float = _TOLERANCE
) -> tuple[FloatArray, FloatArray] | None:
    """Nodes (n, m) and weights (n,) with <f> = sum_i weight_i f(a_i) for smooth f.

    P(a) is a positive measure convolved with N(0, sigma_a^2/P), so that a lattice integrates it; it is fine
    enough if it reproduces the integral in J to `tolerance`. For unbounded phi the nodes are those of the bulk. None
    where that is out of reach: P = infinity, more than four outputs, and a bulk that is not separated from the tail.
    """
    m, n_samples = task.n_outputs, task.n_samples
    if math.isinf(n_samples) or m > _MAX_DIMENSION or network.activation.parts == "gaussian":
        return None
    from meanfield.numerics.lattice_basis import aliasing_length, unit_basis
    from meanfield.theories.single_layer.readout.nodes import fill, quick_table

    quick = quick_table(cumulant(network.activation, network.k))
    window = float(gammainccinv(0.5 * m, _ACCURACY)) + 1.0
    t, seeds = solution.t * network.sigma_a, solution.readout / network.sigma_a  # sigma_a = 1 from here on
    excess = n_samples * (solution.level - log_integral(task, solution))
    most = _MAX_NODES if network.activation.parts == "codes" else _MAX_BULK
    for refinement in _REFINEMENTS:
        basis = refinement * aliasing_length(m, _ACCURACY, n_samples) * unit_basis(m)
        nodes = fill(quick, task.fractions, t, n_samples, basis, np.zeros(m), seeds, solution.level, window, most)
        if not nodes.complete:
            return None
        # A file may claim what makes the excess anything: no density is above e^700 of its level.
        weight = np.exp(np.minimum(nodes.exponent + excess + nodes.log_cell(n_samples), 700.0))
        if abs(weight.sum() - 1) < tolerance and weight.sum() > 0.0:
            return nodes.position * network.sigma_a, weight / weight.sum()
    return None
