"""Compiles what a first solve of a class task needs last, in a process beside the one that solves."""

from __future__ import annotations

import numpy as np

from meanfield.numerics import budget
from meanfield.numerics.jit import cache_directory, source_hash
from meanfield.problem.network import Network
from meanfield.theories.single_layer.compiled import globalcheck, sweep
from meanfield.theories.single_layer.compiled.bundle import bundle_rounds
from meanfield.theories.single_layer.compiled.certificate import certify
from meanfield.theories.single_layer.limit import compiled_tables, phi_range

__all__ = ["is_compiled", "precompile"]


def is_compiled() -> bool:
    """Whether the loop over tasks has been compiled, or cannot be kept."""
    home = cache_directory()
    if home is None or sweep.__file__ is None:
        return True
    return any((home / source_hash(sweep.__file__)).glob("sweep.sweep_points-*.nbc"))


def precompile() -> None:
    """Call the big functions with the types with which `sweep_points` calls them, the last ones first."""
    network = Network("sigmoid")
    table, bounds, direct = compiled_tables(network.activation, network.k)
    low, high, infimum, supremum = phi_range(network.activation, network.k)
    table = table._replace(stop=budget.new_stop())
    p, t, y = np.array([0.5, 0.5]), np.eye(2), np.eye(2)
    maxima, weights, none, no_weights = np.zeros((2, 2)), np.array([0.5, 0.5]), np.empty((0, 2)), np.empty(0)
    globalcheck.global_bound(table, bounds, p, t, 1.0, maxima[:1], infimum, supremum, 1e-9, 10, 1.0, np.empty(2))
    growth = table.growth_plus, table.growth_minus
    certify(direct, *growth, p, y, 0.1, t, maxima, weights, none, no_weights)
    bundle_rounds(table, p, y, 0.1, low, high, (t, none, no_weights, none, no_weights, 1.0), 1e-12, 1)
