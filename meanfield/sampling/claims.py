"""What a file claims of sampled networks: the last draw of every chain has the energy of its weights."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from meanfield.posterior.claims import same
from meanfield.problem.class_task import ClassTask
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.sampling.problem import SampledProblem
from meanfield.sampling.problem import problem as problem_of
from meanfield.validation import FloatArray

__all__ = ["check_chains"]


class Recorded(Protocol):
    """`meanfield.sampling.chains.Chains`, which ask this module when they are loaded."""

    @property
    def network(self) -> Network: ...
    @property
    def task(self) -> ClassTask | DataTask: ...
    @property
    def problem(self) -> SampledProblem: ...
    @property
    def settings(self) -> dict[str, object]: ...
    @property
    def energy(self) -> FloatArray: ...
    @property
    def step_size(self) -> FloatArray: ...
    @property
    def state_last(self) -> FloatArray: ...
    @property
    def residual(self) -> FloatArray: ...
    @property
    def readout(self) -> FloatArray: ...


def check_chains(chains: Recorded) -> None:
    """Refuse records that are not those of their network and task; the last draw must have the energy of its weights.

    Raises
    ------
    ValueError
    """
    q = chains.problem
    fresh = problem_of(chains.network, chains.task, q.width, q.tau)
    for name in ("targets", "labels", "n_groups"):
        if not np.array_equal(getattr(q, name), getattr(fresh, name)):
            raise ValueError(f"its {name} are not those of the task.")
    if q.features.shape != fresh.features.shape or not np.isfinite(q.features).all():
        raise ValueError(f"its features have shape {q.features.shape}, expected {fresh.features.shape}.")
    if q.new_residual.shape != q.new_features.shape[:1]:
        raise ValueError(f"its new features and residuals have shapes {q.new_features.shape}, {q.new_residual.shape}.")
    if chains.energy.ndim != 2 or not chains.energy.size:
        raise ValueError(f"its energy has shape {chains.energy.shape}; expected chains and draws.")
    c, d = chains.energy.shape
    n, m, groups, depth = q.width, q.n_outputs, q.n_groups, chains.network.depth
    below = max(q.widths[:-1], default=n)
    shapes = {
        "readout": (c, d, n, m), "class_activation": (c, d, n, groups),
        "lower_activation": (c, d, depth - 1, below, groups), "kernel_between": (c, d, depth, groups, groups),
        "kernel_diagonal": (c, d, depth, groups), "residual": (c, d, q.n_samples, m),
        "prediction": (c, d, len(q.new_features), m), "acceptance": (c, d), "divergent": (c, d), "steps": (c, d),
        "step_size": (c,), "state_first": (c, q.n_weights), "state_last": (c, q.n_weights),
    }  # fmt: skip
    for name, shape in shapes.items():
        array = getattr(chains, name)
        if array.shape != shape:
            raise ValueError(f"its {name} has shape {array.shape}, expected {shape}.")
        if name == "lower_activation":
            known = np.arange(below) < np.array(q.widths[:-1], dtype=int)[:, None]
            array = array[:, :, known]
        if name != "kernel_between" and not np.isfinite(array).all():
            raise ValueError(f"its {name} is not finite.")
    if not np.isfinite(chains.energy).all() or (chains.step_size <= 0.0).any() or "start" not in chains.settings:
        raise ValueError("its energy is not finite, a step size is not positive, or the settings are incomplete.")
    last = chains.state_last
    energy = 0.5 * q.coldness * (chains.residual[:, -1] ** 2).sum(axis=(1, 2)) + 0.5 * (last**2).sum(axis=1)
    same("energy", energy, chains.energy[:, -1], 1e-8, float(np.abs(energy).max()))
    for i, state in enumerate(last):
        readout = q.readout_std * q.readout(state).T  # (N, m)
        same("readout", readout, chains.readout[i, -1], 1e-9, float(np.abs(readout).max()))
        first, *others = q.weights(state)
        phi = chains.network.activation(
            chains.network.sigma_w * first if q.features.size == 0 else first @ q.features.T
        )
        for n, scale, weights in zip(q.widths, chains.network.scales[1:], others):
            phi = chains.network.activation(scale / math.sqrt(n) * weights @ phi)
        residual = q.targets - q.output_scale * (readout.T @ phi).T
        same("residual", residual, chains.residual[i, -1], 1e-8, float(np.abs(residual).max()))
