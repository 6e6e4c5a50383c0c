"""What a file claims of a deep network: shapes, signs, and the equation of the outputs."""

from __future__ import annotations

import math

import numpy as np

from meanfield.posterior.claims import check_covariances, check_weights, same
from meanfield.theories.deep.posterior import DeepPosterior

__all__ = ["check_deep"]

_EXACT = 1e-6  # relative error of the equation of the outputs


def check_deep(posterior: DeepPosterior) -> None:
    """Refuse a solution that is not one of its network and task; an uncertified one is held to shapes only.

    Recomputed is y = (s [K_L diag(n) + diag(d_L)] + tau) t, with s the variance of the readout prior; the saddle
    equations of the layers below need the solver's integrals and are not.

    Raises
    ------
    ValueError
    """
    s, task, network = posterior.solution, posterior.task, posterior.network
    depth, (n_classes, m), n = network.depth, task.targets.shape, len(s.patterns)
    shapes = {
        "kernel": (depth, n_classes, n_classes), "d": (depth, n_classes), "tilde": (depth - 1, n_classes, n_classes),
        "delta": (depth - 1, n_classes), "t": (n_classes, m), "readout": (n, m), "weight": (n,),
        "activation": (n, n_classes), "activation_variance": (n, n_classes), "second_readout": (m, m),
    }  # fmt: skip
    for name, shape in shapes.items():
        if np.shape(getattr(s, name)) != shape:
            raise ValueError(f"its {name} has shape {np.shape(getattr(s, name))}, expected {shape}.")
    if s.n_samples != task.n_samples:
        raise ValueError(f"its solution is of {s.n_samples:g} samples, its task of {task.n_samples:g}.")
    if posterior.status != "optimal":
        return
    for name in ("kernel", "d", "t", "readout", "second_readout"):
        if not np.isfinite(getattr(s, name)).all():
            raise ValueError(f"its {name} is not finite.")
    if not math.isfinite(s.free_energy):
        raise ValueError("its free energy is not finite.")
    if n:
        check_weights("weights", s.weight)
    check_covariances("kernel", s.kernel)
    check_covariances("second moment of the readout", s.second_readout[None])
    if math.isinf(task.n_samples) or s.frozen:
        return
    variance = network.readout_variance(task.n_samples)
    counts = task.fractions * task.n_samples
    matrix = variance * (s.kernel[-1] * counts + np.diag(s.d[-1])) + s.tau * np.eye(n_classes)
    same("t", matrix @ s.t, task.targets, _EXACT, float(np.abs(task.targets).max()))
