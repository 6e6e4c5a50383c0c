"""What a solver hands back: solution, certificate, the error when there is none."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from meanfield.validation import FloatArray, entry, read_only


@dataclass(frozen=True)
class Certificate:
    """The proof that comes with a solution.

    Attributes
    ----------
    kkt_residual : float
        Largest violation of the stationarity system, recomputed without the solver's tables.
    duality_gap : float
        J(t) minus the value of the primal problem at the reported posterior.
    bound_gap : float
        Proven upper bound of max_a h(a; t), over all readouts a, minus the level s of the reported codes.
    global_check : bool
        Whether branch and bound proved that no readout lies above s by more than the tolerance.
    unique : bool
        Whether the weights of the codes are unique (t is, wherever J is strictly convex).
    nullity : int
        Dimension of the family of optimal weights; 0 if they are unique.
    boxes : int
        Boxes that branch and bound needed.
    """

    kkt_residual: float
    duality_gap: float
    bound_gap: float
    global_check: bool
    unique: bool
    nullity: int = 0
    boxes: int = 0


@dataclass(frozen=True, eq=False)
class Solution:
    """Numbers that solve one task, in physical units (sigma_a restored).

    Attributes
    ----------
    t : (C, m) array
        Order parameters t_c; the training residual of class c is tau t_c.
    objective : float
        J(t), the minimum.
    level : float
        s = max_a h(a; t).
    readout : (n, m) array
        Readouts a_gamma of the codes, heaviest first (with outliers: the bulk a_0).
    weight : (n,) array
        P_gamma.
    outlier_direction : (o, m) array
        Unit vectors u_o.
    outlier_weight : (o,) array
        w_o = |abar_o|^2, so that abar_o = sqrt(w_o) u_o.
    covariance : (n, m, m) array or None
        Covariance of the readout around each code at finite P.
    gaussian_covariance : (m, m) array or None
        U of the analog scheme, P(a) = N(0, U).
    certificate : Certificate
    status, message : str
        "optimal" or what went wrong, and what to try.
    notes : tuple of str
        Remarks, e.g. that weights were selected among many.
    n_samples, tau : float
        P and tau = N T.
    """

    t: FloatArray
    objective: float
    level: float
    readout: FloatArray
    weight: FloatArray
    outlier_direction: FloatArray
    outlier_weight: FloatArray
    certificate: Certificate
    covariance: FloatArray | None = None
    gaussian_covariance: FloatArray | None = None
    status: str = "optimal"
    message: str = ""
    notes: tuple[str, ...] = ()
    n_samples: float = math.inf
    tau: float = 0.0

    def __post_init__(self) -> None:
        if np.ndim(self.t) != 2:
            raise ValueError(f"t of a solution must have shape (C, m), got {np.shape(self.t)}.")
        m = np.shape(self.t)[1]
        n, o = np.size(self.weight), np.size(self.outlier_weight)
        shapes = {
            "t": np.shape(self.t),
            "readout": (n, m),
            "weight": (n,),
            "outlier_direction": (o, m),
            "outlier_weight": (o,),
            "covariance": (n, m, m),
            "gaussian_covariance": (m, m),
        }
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is None:
                continue
            array = read_only(value)
            if array.size == 0:
                array = read_only(array.reshape(shape))
            if array.shape != shape:
                raise ValueError(f"{name} of a solution must have shape {shape}, got {array.shape}.")
            object.__setattr__(self, name, array)


class ConvergenceError(RuntimeError):
    """No certified solution was found; `result` holds what was reached (a posterior or solution), not to be trusted.

    The text says which part of the certificate failed and what to try.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


_ARRAYS = ("t", "readout", "weight", "outlier_direction", "outlier_weight", "covariance", "gaussian_covariance")


def pack_solution(solution: Solution) -> tuple[dict[str, Any], dict[str, FloatArray]]:
    """Header and arrays of a solution, for `write_archive`."""
    header = {f.name: getattr(solution, f.name) for f in fields(solution) if f.name not in _ARRAYS}
    header["certificate"] = asdict(solution.certificate)
    return header, {name: getattr(solution, name) for name in _ARRAYS if getattr(solution, name) is not None}


def unpack_solution(header: dict[str, Any], arrays: dict[str, Any]) -> Solution:
    """Inverse of `pack_solution`; ValueError for what is missing, unknown or of another type."""
    from meanfield.checked import certificate_from, numbers, real_arrays

    unknown = sorted(set(arrays) - set(_ARRAYS))
    if unknown:
        raise ValueError(f"it has arrays that no solution has: {', '.join(unknown)[:80]}.")
    real_arrays(arrays)
    numbers(header, "objective", "level", "n_samples", "tau")
    status = entry(header, "status", str)
    certificate = certificate_from(entry(header, "certificate", dict), status)
    notes = tuple(str(note) for note in entry(header, "notes", list))
    values = {**header, "message": entry(header, "message", str), "certificate": certificate, "notes": notes}
    return Solution(**values, **{name: arrays[name] for name in _ARRAYS if name in arrays})
