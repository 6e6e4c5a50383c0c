"""What the solver of deep rectifier networks hands back."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from meanfield.archive import Arrays, Header
from meanfield.posterior.certificate import Certificate
from meanfield.posterior.claims import certificate_from, numbers, real_arrays
from meanfield.posterior.status import Status
from meanfield.theories.deep.solution import Branch
from meanfield.validation import FloatArray, entry, read_only

__all__ = ["ReluCertificate", "ReluSolution"]


@dataclass(frozen=True)
class ReluCertificate(Certificate):
    """The proof that comes with a solution of deep rectifiers.

    Attributes
    ----------
    kkt_residual : float
        Largest violation of the saddle equations, relative to the size of each block of order parameters (outputs:
        to the largest target), with all averages computed on other lattices than the solver's.
    bound_gap : float
        Largest violation of Ehat <= 0 per |beta|^2 / 2 found over all directions of all layers; at finite N of the
        solution at N = infinity that belongs to it.
    global_check : bool
        Whether that is zero up to rounding. It excludes outliers that are missing; that no other solution has a larger
        Phi is not proven.
    solver_residual : float
        The residual with the solver's own lattices.
    quadrature_error : float
        |Phi - Phi'| / max(1, |Phi|) between the two.
    inner_curvature, outer_curvature : float
        Smallest relative curvature of Phi over the conjugates and t along the constraints that outliers are (positive:
        a minimum), and largest over the kernels after that minimisation (negative: a maximum), among perturbations that
        respect the symmetry; at finite N of the solution at N = infinity. NaN if not computed.
    curvature_error : float
        Largest antisymmetric part of the Hessian, relative to its diagonal: it is computed by differences.
    branches : tuple of Branch
        Other solutions that were found; the one with the largest Phi is reported. At N = infinity.
    searched : tuple of str
        How other solutions were looked for.
    """

    solver_residual: float = math.nan
    quadrature_error: float = math.nan
    inner_curvature: float = math.nan
    outer_curvature: float = math.nan
    curvature_error: float = math.nan
    branches: tuple[Branch, ...] = ()
    searched: tuple[str, ...] = ()

    @property
    def residual(self) -> float:
        """`kkt_residual`."""
        return self.kkt_residual


@dataclass(frozen=True, eq=False)
class ReluSolution:
    """Order parameters of a deep network of rectifiers, layer 1 first, in the notation of relu/THEORY.md.

    Attributes
    ----------
    kernel, d : (L, C, C), (L, C) arrays
        Kernel between two samples of each pair of classes, over all neurons, and what the diagonal has beyond.
    bulk_kernel : (L, C, C) array
        The same without the outliers.
    tilde, delta : (L - 1, C, C), (L - 1, C) arrays
        Conjugates.
    t : (C, m) array
    free_energy : float
        Phi.
    bulk_activation, bulk_readout, bulk_covariance : (L, C), (m,), (m, m) arrays
        Mean activation of the bulk on each class; mean and covariance of its readout.
    bulk_output : (C, m) array
        Part of the outputs that the bulk makes, and at finite N fluctuations of outliers across their rays.
    outlier_field, outlier_activation, outlier_preactivation : (L, o, C) arrays
        Conjugate field b, activation and preactivation of the outliers, in units of sqrt(N).
    outlier_readout : (o, m) array
        abar, in the same units.
    patterns : tuple of str
        Code word of each outlier, the same in every layer.
    barrier : (L,) array
        -ln of the density of the bulk at the outlier, along the ray; infinite at N = infinity.
    second_readout : (m, m) array
        <a a^T> over all neurons.
    width : float
        N.
    """

    kernel: FloatArray
    d: FloatArray
    bulk_kernel: FloatArray
    tilde: FloatArray
    delta: FloatArray
    t: FloatArray
    free_energy: float
    bulk_activation: FloatArray
    bulk_readout: FloatArray
    bulk_covariance: FloatArray
    bulk_output: FloatArray
    outlier_field: FloatArray
    outlier_activation: FloatArray
    outlier_preactivation: FloatArray
    outlier_readout: FloatArray
    barrier: FloatArray
    second_readout: FloatArray
    patterns: tuple[str, ...]
    certificate: ReluCertificate
    status: Status = Status.OPTIMAL
    message: str = ""
    notes: tuple[str, ...] = ()
    n_samples: float = math.inf
    tau: float = 0.0
    width: float = math.inf

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", Status.of(self.status))
        for name in _ARRAYS:
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @property
    def objective(self) -> float:
        """Phi / P, the counterpart of min J of one hidden layer."""
        return self.free_energy if math.isinf(self.n_samples) else self.free_energy / self.n_samples

    def pack(self) -> tuple[Header, dict[str, FloatArray]]:
        """Header and arrays, for `write_archive`."""
        header = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _ARRAYS}
        header["certificate"] = asdict(self.certificate)
        return header | {"rectifier": True}, {name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def unpack(cls, header: Header, arrays: Arrays) -> ReluSolution:
        """Inverse of `pack`; ValueError for what is missing, unknown or of another type."""
        if set(arrays) != set(_ARRAYS):
            raise ValueError(f"its arrays are {', '.join(sorted(arrays))[:80]}, not those of deep rectifiers.")
        real_arrays(arrays)
        numbers(header, "free_energy", "n_samples", "tau", "width")
        status, proof = entry(header, "status", str), dict(entry(header, "certificate", dict))
        numbers(proof, "solver_residual", "quadrature_error")
        own = {name: proof.pop(name) for name in ("solver_residual", "quadrature_error")}
        for name in ("inner_curvature", "outer_curvature", "curvature_error"):  # files may be older than them
            own[name] = proof.pop(name) if isinstance(proof.get(name), float) else math.nan
            proof.pop(name, None)
        try:
            branches = tuple(Branch(**branch) for branch in proof.pop("branches", ()))
        except TypeError as error:
            raise ValueError(f"its other solutions are none: {error}.") from None
        searched = tuple(str(way) for way in proof.pop("searched", ()))
        values: dict[str, Any] = {name: value for name, value in header.items() if name != "rectifier"}
        values |= {
            "certificate": ReluCertificate(
                **vars(certificate_from(proof, status)), **own, branches=branches, searched=searched
            ),
            "message": entry(header, "message", str),
            "notes": tuple(str(note) for note in entry(header, "notes", list)),
            "patterns": tuple(str(word) for word in entry(header, "patterns", list)),
        }
        values |= {name: np.asarray(arrays[name], dtype=float) for name in _ARRAYS}
        return cls(**values)


_ARRAYS = (
    "kernel", "d", "bulk_kernel", "tilde", "delta", "t", "bulk_activation", "bulk_readout", "bulk_covariance",
    "bulk_output", "outlier_field", "outlier_activation", "outlier_preactivation", "outlier_readout", "barrier",
    "second_readout",
)  # fmt: skip
