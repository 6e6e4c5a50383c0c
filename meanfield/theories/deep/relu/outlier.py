"""Outliers of a layer: the direction in which Ehat touches zero, and the proof that it is positive nowhere.

    Ehat(beta, h) = -|beta|^2 / 2 - h^T K^{-1} h / 2 + sum_c n_c ghat_c(b_c, h_c) <= 0,       b = R beta

ghat_c(b, h) = max_z [b phi(z) + delta phi(z)^2 / 2 - (z - h)^2 / 2d] is piecewise quadratic: z on, at the kink, off.
Given b the maximum over h is one of 3^C linear systems.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from meanfield.theories.deep.relu.setting import ReluSetting
from meanfield.validation import FloatArray

__all__ = ["Condensed", "condensed", "worst_direction"]

_RANDOM_DIRECTIONS = 2000
_CLIMB = 200


class Condensed(NamedTuple):
    """A neuron of infinite length in direction beta, in units of sqrt(N).

    Attributes
    ----------
    gain : float
        Twice the maximum over h of Ehat + |beta|^2 / 2: 1 per |beta|^2 on an outlier, less elsewhere.
    h : (C,) array
        Common preactivation.
    activation : (C,) array
        ghat_b, the activation.
    force : (C,) array
        ghat_h.
    """

    gain: float
    h: FloatArray
    activation: FloatArray
    force: FloatArray


def condensed(setting: ReluSetting, beta: FloatArray) -> Condensed:
    """Maximum over h at given beta; gain = inf where the on-branch is unbounded."""
    n, d, delta = setting.n, setting.d, setting.delta
    b = setting.root @ beta
    narrow = d / (1.0 - delta * d)
    if not setting.has_fields:
        activation = np.maximum(narrow * b, 0.0)
        return Condensed(float(n @ (activation**2 / narrow)), np.zeros(len(b)), activation, np.zeros(len(b)))
    inverse = setting.inverse
    best: Condensed | None = None
    for pieces in _pieces(len(b)):
        on, kink = pieces == 0, pieces == 1
        curvature = np.where(on, n * delta * narrow / d, np.where(kink, -n / d, 0.0))
        matrix = inverse - np.diag(curvature)
        force = np.where(on, n * narrow * b / d, 0.0)
        if on.any() and np.linalg.eigvalsh(matrix)[0] <= 0.0:
            return Condensed(np.inf, np.zeros(len(b)), np.zeros(len(b)), np.zeros(len(b)))
        h = np.linalg.solve(matrix, force)
        found = _at(setting, b, h, narrow)
        if best is None or found.gain > best.gain:
            best = found
    assert best is not None
    return best


def _pieces(n_classes: int) -> FloatArray:
    return np.array(list(itertools.product(range(3), repeat=n_classes)))


def _at(setting: ReluSetting, b: FloatArray, h: FloatArray, narrow: FloatArray) -> Condensed:
    d = setting.d
    mu = narrow * (b + h / d)
    off = -(np.maximum(h, 0.0) ** 2) / (2.0 * d)
    value = mu**2 / (2.0 * narrow) - h**2 / (2.0 * d)
    on = (mu > 0.0) & (value > off)
    activation = np.where(on, mu, 0.0)
    z = np.where(on, mu, np.minimum(h, 0.0))
    total = float(setting.n @ np.where(on, value, off)) - 0.5 * float(h @ setting.inverse @ h)
    return Condensed(2.0 * total, h, activation, (z - h) / d)


def worst_direction(setting: ReluSetting) -> float:
    """Largest gain over all unit beta: Ehat <= 0 in all directions where it is at most 1.

    gain(beta) is a maximum of squares of linear functions of beta, so that beta -> R^T (n ghat_b) / |.| never lowers
    it; it is started from a lattice of directions in one and two dimensions, from random ones beyond.
    """
    q = setting.root.shape[1]
    if q == 1:
        starts = np.array([[1.0], [-1.0]])
    elif q == 2:
        angle = np.arange(720) * (2.0 * np.pi / 720)
        starts = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    else:
        starts = np.random.Generator(np.random.PCG64(7)).standard_normal((_RANDOM_DIRECTIONS, q))
        starts /= np.linalg.norm(starts, axis=1)[:, None]
    scored = sorted(((condensed(setting, beta).gain, tuple(beta)) for beta in starts), reverse=True)
    worst = scored[0][0]
    kept: list[FloatArray] = []
    for _, start in scored:
        beta = np.array(start)
        if len(kept) >= 24:
            break
        if any(float(beta @ other) > 0.97 for other in kept):
            continue
        kept.append(beta)
        for _ in range(_CLIMB):
            found = condensed(setting, beta)
            worst = max(worst, found.gain)
            push = setting.root.T @ (setting.n * found.activation)
            size = float(np.linalg.norm(push))
            if not 0.0 < size < np.inf or np.linalg.norm(push / size - beta) < 1e-12:
                break
            beta = push / size
    return float(worst)
