"""What the average over the neurons of one layer depends on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from meanfield.theories.deep.relu.nonlinearity import RECTIFIER, Nonlinearity
from meanfield.theories.deep.symmetry import exchanged
from meanfield.validation import BoolArray, FloatArray

__all__ = ["BulkDiverges", "ReluSetting", "factor", "several_factors"]

_TINY = 1e-13
_FLOOR = 1e-9  # of a variance: fields that are nearly functions of each other
_ALIKE = 1e-11  # relative difference of classes that count as exchangeable
_LEAST_ALONE = 0.05  # of a field's variance given the others, which it keeps for itself where fields are fewer
_FACTOR_STEPS, _EXACT, _RANK = 40, 1e-15, 1e-10


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
            return several_factors(self.covariance)

    def check(self) -> None:
        """Refuse what has no integral."""
        if not (
            np.isfinite(self.root).all()
            and (self.d > 0.0).all()
            and (self.phi.slope**2 * self.delta * self.d < 1.0).all()
        ):
            raise BulkDiverges("a variance is not positive, or delta~ slope^2 d >= 1.")


def several_factors(covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """U (C, p) and D > 0 with covariance = diag(D) + U U^T, p being as small as is known to do.

    Classes that the covariance tells nothing apart are one block: they have one row of U. Of B blocks B - 1 shared
    fields are enough where one is a class of its own, B otherwise; fewer are tried.

    Raises
    ------
    BulkDiverges
        If the covariance is not positive.
    """
    value = np.linalg.eigvalsh(covariance)
    if value[0] <= -_TINY * value[-1]:
        raise BulkDiverges("the fields of the classes have no positive covariance.")
    blocks = _blocks(covariance)
    between = _between(covariance, blocks)
    if np.linalg.eigvalsh(between)[0] < 0.0:  # classes of one block are anticorrelated
        blocks = [[c] for c in range(len(covariance))]
        between = covariance.copy()
    single = np.array([len(block) == 1 for block in blocks])
    own = np.diag(between).copy()
    lower = 0
    if single.any():
        value, vector = np.linalg.eigh(between)
        value = np.maximum(value, _TINY * value[-1])
        alone = np.where(single, 1.0 / np.diag((vector / value) @ vector.T), 0.0)
        inside = (vector / np.sqrt(value)).T * np.sqrt(alone)
        spread = np.maximum(alone / np.linalg.eigvalsh(inside.T @ inside)[-1], np.where(single, _FLOOR * own, 0.0))
        few = _fewer_factors(between, single, own - _LEAST_ALONE * alone, spread)
        if few is None:
            value, vector = np.linalg.eigh(between - np.diag(spread))
            lower = 1
        else:
            value, vector = np.ones(few.shape[1]), few
    else:
        value, vector = np.linalg.eigh(between)
    u = vector[:, lower:] * np.sqrt(np.maximum(value[lower:], 0.0))
    found = np.zeros((len(covariance), u.shape[1]))
    for block, row in zip(blocks, u):
        found[block] = row
    return found, np.maximum(np.diag(covariance) - (found**2).sum(axis=1), _FLOOR * np.diag(covariance))


def _blocks(covariance: FloatArray) -> list[list[int]]:
    """Classes that may be exchanged in a covariance."""
    near = _ALIKE * np.abs(covariance).max()
    return exchanged(
        len(covariance), lambda swap: bool(np.abs(covariance[np.ix_(swap, swap)] - covariance).max() <= near)
    )


def _between(covariance: FloatArray, blocks: list[list[int]]) -> FloatArray:
    """(B, B) covariance of two classes of each block, of one with itself where it is alone."""
    first, last = [block[0] for block in blocks], [block[-1] for block in blocks]
    found = covariance[np.ix_(first, last)]
    return np.asarray(0.5 * (found + found.T))


def _fewer_factors(between: FloatArray, single: BoolArray, most: FloatArray, spread: FloatArray) -> FloatArray | None:
    """U (B, p) with U U^T = between off the diagonal, and of `most` at most where a class is alone, if p < B - 1 shared
    fields do; found by Gauss's method from the largest parts of what `spread` leaves."""
    n = len(between)
    size = np.sqrt(np.diag(between))
    wanted, most = between / np.outer(size, size), most / size**2
    pairs = [(i, j) for i in range(n) for j in range(i + (1 if single[i] else 0), n)]
    value, vector = np.linalg.eigh((between - np.diag(spread)) / np.outer(size, size))
    for p in range(1, n - 1):
        u = vector[:, -p:] * np.sqrt(np.maximum(value[-p:], 0.0))
        for _ in range(_FACTOR_STEPS):
            rows, rest = [], []
            for i, j in pairs:
                row = np.zeros((n, p))
                row[i] += u[j]
                row[j] += u[i]
                rows.append(row.ravel())
                rest.append(float(u[i] @ u[j]) - wanted[i, j])
            for c in np.flatnonzero(single & ((u**2).sum(axis=1) > most)):
                row = np.zeros((n, p))
                row[c] = 2.0 * u[c]
                rows.append(row.ravel())
                rest.append(float(u[c] @ u[c] - most[c]))
            if np.abs(rest).max() <= _EXACT:
                return u * size[:, None]
            u = u - np.linalg.lstsq(np.array(rows), np.array(rest), rcond=_RANK)[0].reshape(n, p)
    return None


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
