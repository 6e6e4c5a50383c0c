"""The numbers that solve a class task, and how they are kept in files."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from meanfield.archive import Arrays, Header
from meanfield.posterior.certificate import Certificate
from meanfield.posterior.claims import certificate_from, numbers, real_arrays
from meanfield.posterior.status import Status
from meanfield.theories.single_layer.deferred import Later, whole
from meanfield.validation import FloatArray, entry, read_only

__all__ = ["DeferredSolution", "Solution", "heaviest_first", "pack_solution", "unpack_solution"]


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
    status : Status
        A word of `Status` becomes its member.
    message : str
        What was certified or went wrong, and what to try.
    notes : tuple of str
        Remarks, e.g. that weights were selected among many.
    n_samples, tau : float
        P and tau = N T.
    kind : (C,) array or None
        Where classes are exchangeable and codes too many to list: the kind of every class. Each readout then stands for
        all that permutations of classes within kinds make of it, in equal shares of its weight.
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
    status: Status = Status.OPTIMAL
    message: str = ""
    notes: tuple[str, ...] = ()
    n_samples: float = math.inf
    tau: float = 0.0
    kind: FloatArray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", Status.of(self.status))
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
            "kind": (np.shape(self.t)[0],),
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


class DeferredSolution(Solution):
    """A solution whose codes are worked out when they are asked for."""

    readout: Any = Later()
    weight: Any = Later()
    covariance: Any = Later()
    notes: Any = Later()
    kind: Any = Later()

    def __reduce__(self) -> tuple[type[Solution], tuple[object, ...]]:
        return whole(Solution, self)


def heaviest_first(weights: FloatArray, vectors: FloatArray) -> list[int]:
    """Order by falling weight; ties, up to rounding, by falling components: the same on every machine."""
    keys = np.column_stack([-np.round(weights, 9), -np.round(vectors, 6)])
    return sorted(range(len(weights)), key=lambda i: tuple(keys[i].tolist()))


_ARRAYS = ("t", "readout", "weight", "outlier_direction", "outlier_weight", "covariance", "gaussian_covariance", "kind")


def pack_solution(solution: Solution) -> tuple[Header, dict[str, FloatArray]]:
    """Header and arrays of a solution, for `write_archive`."""
    header = {f.name: getattr(solution, f.name) for f in fields(solution) if f.name not in _ARRAYS}
    header["certificate"] = asdict(solution.certificate)
    return header, {name: getattr(solution, name) for name in _ARRAYS if getattr(solution, name) is not None}


def unpack_solution(header: dict, arrays: Arrays) -> Solution:
    """Inverse of `pack_solution`; ValueError for what is missing, unknown or of another type."""
    unknown = sorted(set(arrays) - set(_ARRAYS))
    if unknown:
        raise ValueError(f"it has arrays that no solution has: {', '.join(unknown)[:80]}.")
    real_arrays(arrays)
    numbers(header, "objective", "level", "n_samples", "tau")
    status = entry(header, "status", str)
    certificate = certificate_from(entry(header, "certificate", dict), status)
    notes = tuple(str(note) for note in entry(header, "notes", list))
    values: dict = {**header, "message": entry(header, "message", str), "certificate": certificate, "notes": notes}
    return Solution(**(values | {name: array for name, array in arrays.items() if name in _ARRAYS}))
