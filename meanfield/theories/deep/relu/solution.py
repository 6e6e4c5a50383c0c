"""What the solver of deep rectifier networks hands back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

from meanfield.archive import Arrays, Header
from meanfield.theories.deep.solution import LayeredSolution
from meanfield.validation import FloatArray

__all__ = ["ReluSolution"]


@dataclass(frozen=True, eq=False)
class ReluSolution(LayeredSolution):
    """Order parameters of a deep network of rectifiers, layer 1 first, in the notation of relu/THEORY.md.

    Kernels are those over all neurons; code words those of the outliers, the same in every layer.

    Attributes
    ----------
    bulk_kernel : (L, C, C) array
        The kernel without the outliers.
    bulk_activation, bulk_readout, bulk_covariance : (L, C), (m,), (m, m) arrays
        Mean activation of the bulk on each class; mean and covariance of its readout.
    bulk_output : (C, m) array
        Part of the outputs that the bulk makes, and at finite N fluctuations of outliers across their rays.
    outlier_field, outlier_activation, outlier_preactivation : (L, o, C) arrays
        Conjugate field b, activation and preactivation of the outliers, in units of sqrt(N).
    outlier_readout : (o, m) array
        abar, in the same units.
    barrier : (L,) array
        -ln of the density of the bulk at the outlier, along the ray; infinite at N = infinity.
    width : float
        N.
    """

    arrays: ClassVar[tuple[str, ...]] = (
        *LayeredSolution.arrays, "bulk_kernel", "bulk_activation", "bulk_readout", "bulk_covariance", "bulk_output",
        "outlier_field", "outlier_activation", "outlier_preactivation", "outlier_readout", "barrier",
    )  # fmt: skip

    bulk_kernel: FloatArray
    bulk_activation: FloatArray
    bulk_readout: FloatArray
    bulk_covariance: FloatArray
    bulk_output: FloatArray
    outlier_field: FloatArray
    outlier_activation: FloatArray
    outlier_preactivation: FloatArray
    outlier_readout: FloatArray
    barrier: FloatArray
    width: float = math.inf

    def pack(self) -> tuple[Header, dict[str, FloatArray]]:
        """Header and arrays, for `write_archive`."""
        header, arrays = super().pack()
        return header | {"rectifier": True}, arrays

    @classmethod
    def unpack(cls, header: Header, arrays: Arrays) -> Self:
        """Inverse of `pack`; ValueError for what is missing, unknown or of another type."""
        return super().unpack({name: value for name, value in header.items() if name != "rectifier"}, arrays)
