"""Remarks that several theories make."""

from __future__ import annotations

import numpy as np

from meanfield.problem.data_task import DataTask

__all__ = ["offset_notes"]

_NEGLIGIBLE = 1e-9  # mean of inputs or targets that counts as none


def offset_notes(task: DataTask) -> tuple[str, ...]:
    """Linear networks have no constant output, where the inputs have no mean: what that does to the residual."""
    inputs, offset = task.inputs, np.abs(task.targets.mean(axis=0)).max()
    centred = np.abs(inputs.mean(axis=0)).max() <= _NEGLIGIBLE * np.abs(inputs).max()
    if not centred or offset <= _NEGLIGIBLE * np.abs(task.targets).max():
        return ()
    return (
        "the inputs are centred, so that a linear network has outputs of mean 0; the mean of the targets, up to "
        f"{offset:.3g}, stays in residual and bias: choose targets of mean 0 (off), or keep the mean of the inputs",
    )
