"""What a file claims of a nonlinear network on data: the constraint Y = <a phi> + tau t from the stored moments."""

from __future__ import annotations

import numpy as np

from meanfield.posterior.claims import check_weights, same
from meanfield.theories.general_data.posterior import GeneralDataPosterior

__all__ = ["check_general"]

_ROUGHLY = 0.05  # of t, where readouts of codes are taken as Gaussian


def check_general(posterior: GeneralDataPosterior) -> None:
    """Refuse a solution whose arrays do not fit, or whose moments do not meet the constraint."""
    s, task = posterior.solution, posterior.task
    n, p, m = s.weight.size, task.n_samples, task.n_outputs
    g, o, r = s.code_weight.size, s.outlier_weight.size, s.features.shape[1]
    shapes = {
        "readout": (n, m), "weight": (n,), "phi": (n, p), "spread": (n, p), "gain": (n, p), "s": (n, p), "nu": (n, p),
        "basin": (n,), "soft": (n,), "soft_x": (n,), "code_readout": (g, m), "code_covariance": (g, m, m),
        "code_phi": (g, p), "outlier_direction": (o, m), "outlier_w": (o, r), "directions": (len(s.directions), r),
        "cuts": (len(s.cuts), 5),
    }  # fmt: skip
    for name, shape in shapes.items():
        if np.shape(getattr(s, name)) != shape:
            raise ValueError(f"its {name} has shape {np.shape(getattr(s, name))}, expected {shape}.")
    check_weights("weights", s.weight)
    check_weights("code weights", s.code_weight)
    check_weights("outlier weights", s.outlier_weight, None)
    if s.basin.dtype.kind not in "iu" or not np.isin(s.basin, np.arange(g)).all():
        raise ValueError("its components belong to codes that are not there.")
    per_code = np.bincount(s.basin, s.weight, minlength=g)
    same("code weights", per_code, s.code_weight, 1e-6)
    variance = posterior.network.sigma_a**2 / p
    same("prior", variance, s.prior, 1e-9, variance)
    same("tau", posterior.tau, s.tau, 0.0)
    if o == 0:  # what outliers add depends on the solver's limit, see `OutlierSolution`
        output = (s.weight[:, None] * s.phi).T @ s.readout
        scale = float(np.abs(task.targets).max()) + posterior.tau * float(np.abs(s.t).max())
        same("t", output + posterior.tau * s.t, task.targets, _ROUGHLY, scale)
