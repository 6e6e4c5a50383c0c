"""Outliers of a layer: the direction in which Ehat touches zero, and the proof that it is positive nowhere.

    Ehat(beta, h) = -|beta|^2 / 2 - h^T K^{-1} h / 2 + sum_c n_c ghat_c(b_c, h_c) <= 0,       b = R beta

ghat_c(b, h) = max_z [b phi(z) + delta phi(z)^2 / 2 - (z - h)^2 / 2d] is piecewise quadratic: z on, at the kink, off.
Given b the maximum over h is one of 3^C linear systems.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from meanfield.theories.deep.relu.compiled.direction import climb, condense
from meanfield.theories.deep.relu.setting import ReluSetting
from meanfield.validation import BoolArray, FloatArray

__all__ = [
    "NO_ACTIVATION",
    "NO_LENGTH",
    "Condensed",
    "above",
    "classes_on",
    "climbed",
    "condensed",
    "exist",
    "summits",
    "worst_direction",
]

_RANDOM_DIRECTIONS = 2000
_CLIMB = 200
# Whitened length |beta| of an outlier, and its activation, both in units of sqrt(N), below which there is none.
NO_LENGTH, NO_ACTIVATION = 1e-6, 1e-6
_NOT_ACTIVE = 1e-12  # of the largest activation


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

    @property
    def word(self) -> str:
        """The code word of the classes on which it is active, more than rounding makes where nothing drives a class."""
        least = _NOT_ACTIVE * self.activation.max()
        return "".join("1" if value > least else "0" for value in self.activation)


def exist(outliers: FloatArray) -> BoolArray:
    """(o,) which of the outliers beta (o, m), in units of sqrt(N), a layer has: those of another length than 0."""
    return np.asarray(np.linalg.norm(outliers, axis=1) > NO_LENGTH)


def classes_on(word: Iterable[str]) -> BoolArray:
    """(C,) which classes a code word is active on."""
    return np.array([letter == "1" for letter in word])


def condensed(setting: ReluSetting, beta: FloatArray) -> Condensed:
    """Maximum over h at given beta; gain = inf where the on-branch is unbounded."""
    out = np.zeros((3, len(setting.n)))
    gain = condense(setting.root, np.asarray(beta, dtype=float), *_numbers(setting), out)
    return Condensed(gain, *out)


def climbed(setting: ReluSetting, beta: FloatArray, steps: int = _CLIMB) -> tuple[FloatArray, Condensed, float]:
    """Where the ascent from a direction ends, what condenses there, and the largest gain on the way."""
    beta = beta / np.linalg.norm(beta)
    out = np.zeros((3, len(setting.n)))
    worst = climb(setting.root, beta, *_numbers(setting), steps, out)
    return beta, condensed(setting, beta), worst


def above(setting: ReluSetting, word: Iterable[str], steps: int = _CLIMB) -> tuple[FloatArray, Condensed]:
    """Direction and neuron at which the ascent ends that starts at a code word."""
    beta = setting.root.T @ np.where(classes_on(word), setting.n, 0.0)
    if np.linalg.norm(beta) <= 1e-12:  # opposite classes: nothing drives both
        beta = np.eye(len(beta))[0]
    return climbed(setting, beta, steps)[:2]


def _numbers(setting: ReluSetting) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, bool]:
    inverse = setting.inverse if setting.has_fields else np.zeros_like(setting.covariance)
    return setting.n, setting.d, setting.delta, setting.phi.numbers[:2], inverse, setting.has_fields


def worst_direction(setting: ReluSetting) -> float:
    """Largest gain over all unit beta: Ehat <= 0 in all directions where it is at most 1."""
    return max(gain for _, gain in summits(setting))


def summits(setting: ReluSetting) -> list[tuple[FloatArray, float]]:
    """Where ascents of the gain end, and the largest that each has met.

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
    kept: list[FloatArray] = []
    found = [(np.array(scored[0][1]), float(scored[0][0]))]
    for _, start in scored:
        beta = np.array(start)
        if len(kept) >= 24:
            break
        if any(float(beta @ other) > 0.97 for other in kept):
            continue
        kept.append(beta)
        end, _, worst = climbed(setting, beta)
        found.append((end, float(worst)))
    return found
