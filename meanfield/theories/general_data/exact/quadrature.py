"""Nodes for the weights of a neuron where they have at most three coordinates: no sampling, no noise."""

from __future__ import annotations

import math

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.general_data.exact.sample import Sample, sample_of
from meanfield.validation import FloatArray

__all__ = ["MAX_RANK", "has_jumps", "nodes"]

MAX_RANK = 3
_DEPTH = 40.0  # ln of the density, below its maximum, that is left out
_STEP, _WIDEST = 0.45, 0.5  # step of the grid, in preactivations and in weights
_MAX_NODES, _MAX_VALUES = 600_000, 2e7
_GAUSS_X, _GAUSS_W = np.polynomial.legendre.leggauss(12)
_PANEL = 0.5


def has_jumps(activation: Activation) -> bool:
    """Whether phi is discontinuous somewhere."""
    kinks = np.array(activation.kinks)
    return bool(len(kinks)) and bool(np.abs(activation(kinks + 1e-9) - activation(kinks - 1e-9)).max() > 1e-6)


def nodes(
    activation: Activation, features: FloatArray, prior: float, t: FloatArray, shift: float = 0.0
) -> Sample | None:
    """Nodes that integrate over w to about rounding at t and near it; None where that takes too many.

    In one dimension Gauss-Legendre panels that end where a sample meets a kink of phi; in two and three, for smooth
    phi, the trapezoidal rule, `shift` steps away from the origin.
    """
    rank = features.shape[1]
    if rank > MAX_RANK or (activation.kinks and rank > 1):
        return None
    low, high = activation.infimum, activation.supremum
    up, down = np.maximum(t, 0.0).sum(axis=0), np.minimum(t, 0.0).sum(axis=0)
    most = np.maximum(np.abs(up * high + down * low), np.abs(up * low + down * high))  # |t^T phi|
    bound = 0.5 * prior * float(most @ most)
    reach = math.sqrt(2.0 * (1.2 * bound + _DEPTH))
    scale = max(1.0, float(np.sqrt((features**2).sum(axis=1)).max()))
    if rank == 1:
        points, weight = _panels(activation, features[:, 0], reach, scale, shift)
    else:
        steps = [min(_WIDEST, _STEP / float(np.abs(column).max())) for column in features.T]
        counts = [math.ceil(reach / step) for step in steps]
        total = math.prod(2 * count + 1 for count in counts)
        if total > _MAX_NODES or total * len(features) > _MAX_VALUES:
            return None
        axes = [step * (np.arange(-count, count + 1) + shift) for step, count in zip(steps, counts)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, rank)
        weight = np.full(len(points), math.prod(steps))
        inside = (points**2).sum(axis=1) <= reach**2
        points, weight = points[inside], weight[inside]
    base = np.log(weight) - 0.5 * (points**2).sum(axis=1) - 0.5 * rank * math.log(2.0 * math.pi)
    return sample_of(activation, features, points, base, random=False)


def _panels(
    activation: Activation, feature: FloatArray, reach: float, scale: float, shift: float
) -> tuple[FloatArray, FloatArray]:
    active = feature[feature != 0.0]
    kinks = np.multiply.outer(np.array(activation.kinks), 1.0 / active).ravel()
    even = np.arange(-reach - 1.0, reach + 1.0, _PANEL / scale) + 0.3 * shift * _PANEL / scale
    edges = np.unique(np.concatenate([even, kinks[np.abs(kinks) < reach]]))
    half, middle = 0.5 * np.diff(edges), 0.5 * (edges[1:] + edges[:-1])
    points = middle[:, None] + half[:, None] * _GAUSS_X
    return points.reshape(-1, 1), (half[:, None] * _GAUSS_W).ravel()
