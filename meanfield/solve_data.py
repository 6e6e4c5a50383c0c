"""Solvers for data tasks: linear networks of any depth, lazy networks of any depth; called by `solve`."""

from __future__ import annotations

import numpy as np

from meanfield.data import DataTask
from meanfield.data_posterior import DataPosterior
from meanfield.lazy import lazy_solve
from meanfield.network import Network
from meanfield.predict import linear_scale
from meanfield.result import Certificate
from meanfield.solvers.linear_data import linear_data_solve

__all__ = ["solve_data"]

_TOLERANCE = 1e-8  # of the residual of closed forms, relative to the largest target


def solve_data(network: Network, task: DataTask, tau: float) -> DataPosterior:
    """Posterior of a network on a data task; see `meanfield.solve` for arguments and errors."""
    if tau == 0.0 and task.conflicts.size:
        i, j = task.conflicts[0]
        raise ValueError(
            f"{len(task.conflicts)} pairs of samples have the same inputs but different targets (e.g. samples {i} and "
            f"{j}), so no network fits them at tau = 0; remove one of each, or give tau > 0."
        )
    if network.scaling == "lazy":
        return _lazy(network, task, tau)
    if network.activation.parts == "gaussian":
        return _linear(network, task, tau)
    raise ValueError(
        f"non-lazy networks with {network.activation!r} are not available for data tasks yet; use a linear activation, "
        "or scaling='lazy'."
    )


def _linear(network: Network, task: DataTask, tau: float) -> DataPosterior:
    features = task.features(linear_scale(network) ** network.depth)
    s = network.sigma_a**2 / task.n_samples ** (1.0 / network.depth)
    found = linear_data_solve(features, task.targets, s, tau, network.depth)
    unique = tau > 0.0 or features.rank == task.n_samples
    certified = found.residual <= _TOLERANCE and found.duality_gap <= _TOLERANCE * max(1.0, abs(found.objective))
    notes: tuple[str, ...] = ()
    if not unique:
        notes = (
            f"inputs of rank {features.rank} < P = {task.n_samples}: t is not unique, the one of least norm is given",
        )
    return DataPosterior(
        network,
        task,
        tau,
        found,
        Certificate(found.residual, found.duality_gap, 0.0, certified, unique),
        "optimal" if certified else "residual too large",
        "closed form" if certified else "rounding errors: inputs are nearly dependent; give tau > 0, or remove some",
        notes,
    )


def _lazy(network: Network, task: DataTask, tau: float) -> DataPosterior:
    found = lazy_solve(network, task, tau)
    certified = bool(found.residual <= _TOLERANCE and np.isfinite(found.objective))
    notes = []
    if found.jitter > 0.0:
        notes.append(f"the kernel is singular: {found.jitter:.2e} was added to the diagonal of s K (T = 0)")
    if found.kernel_error > 1e-12:
        notes.append(f"kernel elements are known to {found.kernel_error:.1e}")
    return DataPosterior(
        network,
        task,
        tau,
        found,
        Certificate(found.residual, 0.0, 0.0, certified, True),
        "optimal" if certified else "residual too large",
        "Gaussian process" if certified else "rounding errors: the kernel is nearly singular; give tau = T > 0",
        tuple(notes),
    )
