"""What the average over the neurons of one layer depends on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from meanfield.theories.deep.relu.nonlinearity import RECTIFIER, Nonlinearity
from meanfield.validation import FloatArray

__all__ = ["BulkDiverges", "ReluSetting", "factor", "two_factors"]

_TINY = 1e-13
_FLOOR = 1e-9  # of a variance: fields that are nearly functions of each other


class BulkDiverges(ValueError):
    """Order parameters for which the weight of a neuron has no integral."""


@dataclass(frozen=True, eq=False)
class ReluSetting:
    """A layer, as numbers.

    Attributes
    ----------
    root : (C, q) array
        b = root beta with beta ~ N(0, 1).
    n, d, delta : (C,) arrays
        Samples, variance of a preactivation around its class's common part, conjugate delta~.
    covariance : (C, C) array
        Of the common parts h; zero in the first layer.
    phi : Nonlinearity
    sizes : dict
        Half-widths of lattice and tables that were large enough, by rule and number of conjugate fields.
    """

    root: FloatArray
    n: FloatArray
    d: FloatArray
    delta: FloatArray
    covariance: FloatArray
    phi: Nonlinearity = RECTIFIER
    sizes: dict[object, tuple[int, int, int]] = field(default_factory=dict, compare=False)

    @cached_property
    def has_fields(self) -> bool:
        return bool(np.abs(self.covariance).max() > 0.0)

    @cached_property
    def inverse(self) -> FloatArray:
        """(C, C) inverse of `covariance`."""
        return np.asarray(np.linalg.inv(self.covariance))

    @cached_property
    def shared(self) -> tuple[FloatArray, FloatArray]:
        """U (C, p) and D with covariance = diag(D) + U U^T; p = 0 where there are no fields."""
        if not self.has_fields:
            return np.zeros((len(self.n), 0)), np.zeros(len(self.n))
        try:
            u, spread = factor(self.covariance)
            return u[:, None], spread
        except BulkDiverges:
            return two_factors(self.covariance)

    def check(self) -> None:
        """Refuse what has no integral."""
        if not (
            np.isfinite(self.root).all()
            and (self.d > 0.0).all()
            and (self.phi.slope**2 * self.delta * self.d < 1.0).all()
        ):
            raise BulkDiverges("a variance is not positive, or delta~ slope^2 d >= 1.")


def two_factors(covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """U (3, 2) and D > 0 with covariance = diag(D) + U U^T, which three classes always have.

    D is in proportion to the variance of each field given the others, as large as it can be.

    Raises
    ------
    BulkDiverges
        If the covariance is not positive, or not of three classes.
    """
    value, vector = np.linalg.eigh(covariance)
    if len(covariance) != 3 or value[0] <= -_TINY * value[-1]:
        raise BulkDiverges("the fields of the classes have no positive covariance.")
    value = np.maximum(value, _TINY * value[-1])
    alone = 1.0 / np.diag((vector / value) @ vector.T)
    least = np.linalg.eigvalsh(covariance / np.sqrt(np.outer(alone, alone)))[0]
    spread = np.maximum(least * alone, _FLOOR * np.diag(covariance))
    value, vector = np.linalg.eigh(covariance - np.diag(spread))
    return vector[:, 1:] * np.sqrt(np.maximum(value[1:], 0.0)), spread


def factor(covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """u and D > 0 with covariance = diag(D) + u u^T: one field shared by all classes.

    Raises
    ------
    BulkDiverges
        Where there is none: more than three classes that are not equivalent, negative or too strong correlations.
    """
    n = len(covariance)
    off = covariance[~np.eye(n, dtype=bool)]
    diagonal = np.diag(covariance)
    if n == 1:
        u = np.zeros(1)
    elif n == 2:
        ratio = math.sqrt(diagonal[0] / diagonal[1])
        u = np.sqrt(abs(covariance[0, 1]) * np.array([ratio, 1.0 / ratio]))
        u[1] = math.copysign(u[1], covariance[0, 1])
    elif off.min() <= 0.0:
        raise BulkDiverges("the common parts of two classes are not positively correlated.")
    else:
        u = np.array(
            [
                math.sqrt(
                    covariance[c, (c + 1) % n] * covariance[c, (c + 2) % n] / covariance[(c + 1) % n, (c + 2) % n]
                )
                for c in range(n)
            ]
        )
    spread = diagonal - u**2
    rest = np.outer(u, u) - covariance
    np.fill_diagonal(rest, 0.0)
    if spread.min() <= _TINY * diagonal.max() or np.abs(rest).max() > 1e-9 * diagonal.max():
        raise BulkDiverges("the fields of the classes do not have one shared part.")
    return u, spread
