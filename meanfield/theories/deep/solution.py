"""What the deep solver hands back: order parameters of all layers, and the proof that comes with them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np

from meanfield.archive import Arrays, Header
from meanfield.posterior.claims import numbers, real_arrays
from meanfield.posterior.status import Status
from meanfield.theories.deep.certificate import DeepCertificate
from meanfield.validation import FloatArray, entry, read_only

__all__ = ["DeepSolution", "LayeredSolution"]


@dataclass(frozen=True, eq=False)
class LayeredSolution:
    """What the solutions of all deep networks have, besides arrays of their own (`arrays`): those of rectifiers, too.

    Attributes
    ----------
    kernel : (L, C, C) array
        Kernel between two different samples of each pair of classes.
    d : (L, C) array
        What the diagonal of the kernel has beyond it.
    tilde, delta : (L - 1, C, C) and (L - 1, C) arrays
        Conjugates of the kernels of all layers but the last.
    t : (C, m) array
        Conjugate of the outputs; the training residual of class c is tau t_c.
    free_energy : float
        Phi, ln p(Y) / N; at P = infinity its leading part per sample, Phi / P.
    second_readout : (m, m) array
        <a a^T> over all neurons.
    patterns : tuple of str
        Code words, "1" where active.
    certificate : DeepCertificate
    status : Status
    message : str
    notes : tuple of str
    n_samples, tau : float
    """

    arrays: ClassVar[tuple[str, ...]] = ("kernel", "d", "tilde", "delta", "t", "second_readout")

    kernel: FloatArray
    d: FloatArray
    tilde: FloatArray
    delta: FloatArray
    t: FloatArray
    free_energy: float
    second_readout: FloatArray
    patterns: tuple[str, ...]
    certificate: DeepCertificate
    status: Status = field(default=Status.OPTIMAL, kw_only=True)
    message: str = field(default="", kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    n_samples: float = field(default=math.inf, kw_only=True)
    tau: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", Status.of(self.status))
        for name in self.arrays:
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @property
    def objective(self) -> float:
        """Phi / P, the counterpart of min J of one hidden layer."""
        return self.free_energy if math.isinf(self.n_samples) else self.free_energy / self.n_samples

    def pack(self) -> tuple[Header, dict[str, FloatArray]]:
        """Header and arrays, for `write_archive`."""
        header = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in self.arrays}
        header["certificate"] = self.certificate.pack()
        return header, {name: getattr(self, name) for name in self.arrays}

    @classmethod
    def unpack(cls, header: Header, arrays: Arrays) -> Self:
        """Inverse of `pack`; ValueError for what is missing, unknown or of another type."""
        if set(arrays) != set(cls.arrays):
            raise ValueError(
                f"its arrays are {', '.join(sorted(arrays))[:80]}, expected {', '.join(sorted(cls.arrays))}."
            )
        real_arrays(arrays)
        known = {f.name for f in fields(cls)} - set(cls.arrays)
        if set(header) - known:
            raise ValueError(f"its entries {', '.join(sorted(set(header) - known))[:80]} are unknown.")
        numbers(header, *(name for name in ("free_energy", "n_samples", "tau", "width") if name in known))
        status = entry(header, "status", str)
        values: dict[str, Any] = {
            **header,
            "certificate": DeepCertificate.unpack(entry(header, "certificate", dict), status),
            "message": entry(header, "message", str),
            "notes": tuple(str(note) for note in entry(header, "notes", list)),
            "patterns": tuple(str(word) for word in entry(header, "patterns", list)),
        }
        return cls(**(values | {name: np.asarray(arrays[name], dtype=float) for name in cls.arrays}))


@dataclass(frozen=True, eq=False)
class DeepSolution(LayeredSolution):
    """Order parameters of a deep network, layer 1 first, in the notation of THEORY.md; codes are of the last layer.

    Attributes
    ----------
    readout, weight, covariance : (n, m), (n,), (n, m, m) arrays
        Mean readout, share of the neurons, and covariance of the readout of each code, heaviest first.
    activation, activation_variance : (n, C) arrays
        Mean and variance of the activation of a neuron with this code on a sample of each class.
    frozen : bool
        Whether the shares of the codes were given.
    """

    arrays: ClassVar[tuple[str, ...]] = (
        *LayeredSolution.arrays, "readout", "weight", "covariance", "activation", "activation_variance",
    )  # fmt: skip

    readout: FloatArray
    weight: FloatArray
    covariance: FloatArray
    activation: FloatArray
    activation_variance: FloatArray
    frozen: bool = False

    def squares(self) -> tuple[FloatArray, FloatArray]:
        """<phi^2> on a sample of each class (C,), in the last layer: from its codes, and K_cc + d_c."""
        of_codes = self.weight @ (self.activation_variance + self.activation**2)
        return of_codes, np.diag(self.kernel[-1]) + self.d[-1]
