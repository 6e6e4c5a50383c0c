"""What a layer is given, what it hands back, and how finely it is integrated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from meanfield.activations.activation import Activation
from meanfield.validation import FloatArray

__all__ = [
    "CHECK",
    "COARSE",
    "FINE",
    "JUDGE",
    "Averages",
    "Detail",
    "NotCovered",
    "Rule",
    "SampleCurvature",
    "Setting",
    "TooFine",
    "UnstableCode",
    "above",
    "activation_range",
    "beyond",
    "code_words",
    "mixed",
    "threshold",
]

_AT_MIDPOINT = 1e-9  # of the range of phi
_BLURRED = 4.0  # times the size of a cell, from which standard deviation on it only adds to it
_CORNERS = ((1.0, 1.0), (1.0, -1.0), (-1.0, -1.0), (-1.0, 1.0))


class NotCovered(ValueError):
    """The integrals of this layer are outside of what the quadrature covers; the text says which."""


class TooFine(NotCovered):
    """The quadrature takes more nodes here than it may have."""


class UnstableCode(NotCovered):
    """No neuron is locally stable with the pattern `pattern`."""

    def __init__(self, pattern: str) -> None:
        super().__init__(f"no neuron is locally stable with code {pattern}")
        self.pattern = pattern


class Rule(NamedTuple):
    """How fine the quadrature is: spacings in units of the standard deviation they must resolve."""

    beta: float
    alpha: float
    h: float
    z: float
    depth: float  # nodes lighter than exp(-depth) of the heaviest are left out
    offset: float  # of all lattices, in steps
    rows: float  # spacing of tables in b, in units of its standard deviation under the prior


COARSE = Rule(1.25, 1.15, 0.95, 0.6, 13.0, 0.0, 0.8)
FINE = Rule(0.92, 0.9, 0.62, 0.45, 27.0, 0.0, 0.3)
CHECK = Rule(0.8, 0.78, 0.5, 0.37, 31.0, 0.37, 0.25)
JUDGE = Rule(0.7, 0.68, 0.45, 0.33, 33.0, 0.21, 0.22)  # of CHECK, where it and FINE differ


class Setting(NamedTuple):
    """What one layer is given: root (C, r) of the covariance of b, covariance of h (C, C), d and delta (C,).

    `shift` (C,): added to b.
    """

    root: FloatArray
    covariance: FloatArray
    d: FloatArray
    delta: FloatArray
    shift: FloatArray | float = 0.0


class SampleCurvature(NamedTuple):
    """Second derivatives of ln Z by perturbations that tell the samples of a class apart.

    one_class (C, k, k): by u_mu times, in this order, the entries of k~ with each class and delta (t in the last
    layer), and where there are fields h the entries of their covariance with each class and d; u over the samples of
    class c, sum u = 0, sum u^2 = 1. two_classes (C, C, 2, 2): by (k~, H)_mu_nu = u_mu v_nu, v over those of class e, or
    of class c again without a trace.
    """

    one_class: FloatArray
    two_classes: FloatArray


@dataclass(frozen=True, eq=False)
class Averages:
    """<g_b g_b^T> (C, C), <g_bb> (C,), <g_h g_h^T> (C, C), <g_hh> (C,) and ln Z of one layer.

    `curvature`, where asked for: second derivatives of ln Z by the entries of k~ on and above the diagonal (by t in the
    last layer), by delta, and then, in layers with fields h, by the entries of their covariance and d. `samples`
    likewise. `codes`, of a last layer with curvature: the same over the neurons of each code, by the word of one of
    those that a symmetry of the task exchanges.
    """

    log_z: float
    kernel: FloatArray
    d: FloatArray
    tilde: FloatArray
    delta: FloatArray
    curvature: FloatArray | None = None
    samples: SampleCurvature | None = None
    codes: dict[str, Averages] = field(default_factory=dict)


def mixed(parts: Sequence[tuple[float, Averages]]) -> Averages:
    """Averages over several kinds of neurons, each with its share."""
    share = np.array([one for one, _ in parts])
    kinds = [averages for _, averages in parts]

    def mean(values: Sequence[FloatArray | float]) -> FloatArray:
        return np.asarray(np.tensordot(share, np.array(values), 1))

    curved = [one.curvature for one in kinds if one.curvature is not None]
    apart = [one.samples for one in kinds if one.samples is not None]
    return Averages(
        float(mean([one.log_z for one in kinds])), mean([one.kernel for one in kinds]), mean([one.d for one in kinds]),
        mean([one.tilde for one in kinds]), mean([one.delta for one in kinds]), mean(curved) if curved else None,
        SampleCurvature(*(mean(one) for one in zip(*apart))) if apart else None,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Detail:
    """The nodes of a layer: beta (N, r), their share (N,), and given beta the mean g_b, g_bb and field h, (N, C)."""

    beta: FloatArray
    share: FloatArray
    log_weight: FloatArray
    activation: FloatArray
    activation_square: FloatArray
    noise: FloatArray
    field: FloatArray


def activation_range(phi: Activation) -> tuple[float, float]:
    """Infimum and supremum of a bounded phi; -1 and 1 for others."""
    return (phi.infimum, phi.supremum) if phi.bounded else (-1.0, 1.0)


def threshold(phi: Activation) -> float:
    """The midpoint of the range of phi, above which a class is active, and so much more that rounding does not decide
    where a class is at the midpoint in all neurons, as of odd phi one with the target 0."""
    low, high = activation_range(phi)
    return 0.5 * (low + high) + _AT_MIDPOINT * (high - low)


def above(excess: FloatArray, across: FloatArray, along: FloatArray) -> FloatArray:
    """Part of a cell in which a linear function is positive: its value in the middle, and changes over both sides."""
    wide = np.maximum(np.maximum(across, along), 1e-100)
    narrow = np.maximum(np.minimum(across, along), 1e-6 * wide)
    ends = [0.5 * np.maximum(excess + sign * 0.5 * (wide + other * narrow), 0.0) ** 2 for sign, other in _CORNERS]
    part = (ends[0] - ends[1] - ends[2] + ends[3]) / (wide * narrow)
    outside = np.abs(excess) >= 0.5 * (wide + narrow)
    return np.where(outside, excess > 0.0, np.clip(part, 0.0, 1.0))


def beyond(
    excess: FloatArray, spread: FloatArray, across: FloatArray, along: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The same of a normal variable with this mean in the middle and standard deviation: its part above 0, and the
    mean over the cell of how far it is from its own mean, where it is above 0 (and 0 elsewhere)."""
    spread = np.maximum(spread, 1e-100)
    wide = np.maximum(np.maximum(across, along), 1e-100)
    narrow = np.maximum(np.minimum(across, along), 1e-6 * wide)
    total = np.sqrt(spread**2 + (wide**2 + narrow**2) / 12.0)
    part = np.zeros(np.broadcast_shapes(excess.shape, spread.shape, wide.shape))
    for sign, (one, other) in zip((1.0, -1.0, -1.0, 1.0), _CORNERS):  # the second integral of ndtr
        x = excess + one * 0.5 * (wide + other * narrow)
        u = x / spread
        density = np.exp(-0.5 * u**2) / math.sqrt(2.0 * math.pi)
        part += 0.5 * sign * ((x**2 + spread**2) * ndtr(u) + x * spread * density)
    part = np.where(spread < _BLURRED * wide, part / (wide * narrow), ndtr(excess / total))
    far = np.abs(excess) > 0.5 * (wide + narrow) + 9.0 * spread
    lift = spread**2 / total * np.exp(-0.5 * (excess / total) ** 2) / math.sqrt(2.0 * math.pi)
    return np.where(far, excess > 0.0, np.clip(part, 0.0, 1.0)), np.where(far, 0.0, lift)


def code_words(phi: Activation, mean: FloatArray) -> FloatArray:
    """(k,) patterns of mean activations (k, C): "1" above the midpoint of the range of phi."""
    letters = np.where(np.ascontiguousarray(mean) > threshold(phi), "1", "0")
    return letters.view(f"<U{mean.shape[1]}")[:, 0]
