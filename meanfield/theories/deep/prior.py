"""Kernels and gains of the layers of a network that has learnt nothing."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.deep.layers.rules import NotCovered
from meanfield.theories.deep.layers.site import REACH, noise_lattice, noisy_means, unit_lattice
from meanfield.theories.deep.system import DeepProblem
from meanfield.validation import FloatArray

__all__ = ["prior_kernels", "shared_field"]

_MOST_SHARED = 20_000  # values of a shared field


def shared_field(phi: Activation, q: float, d: float) -> tuple[FloatArray, FloatArray]:
    """Values of a field h ~ N(0, q) and weights, for functions of it that phi and noise of variance d make smooth."""
    if q <= 0.0:
        return np.zeros(1), np.ones(1)
    count = 2.0 * REACH / (0.4 * min(1.0, math.sqrt(d / q)))  # in the last of many layers d is far below q
    if not phi.kinks:
        x, weight = noise_lattice(phi, float(q), count)
    elif count > _MOST_SHARED:
        raise NotCovered(
            "the noise of a layer is too weak beside the field that its samples share, for a phi with kinks"
        )
    else:
        x, weight = unit_lattice(math.ceil(count))
    return math.sqrt(q) * x, weight


def prior_kernels(problem: DeepProblem) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Of every layer under the prior: common part of the kernel, d, and the largest gain over constant fields.

    Those of odd phi vanish, as the common part does, which is 0 and not rounding (1e-33, and a Gaussian of that width).
    """
    common, own, gain = _prior_kernels(problem.phi, problem.k, tuple(problem.scales))
    return common.copy(), own.copy(), gain.copy()


@lru_cache(maxsize=256)
def _prior_kernels(phi: Activation, k: float, scales: tuple[float, ...]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The same for these variances: a solve asks for them a dozen times."""
    common, own, gain = [], [], []
    q, d = 0.0, k
    for scale in (*scales, 1.0):
        h, weight = shared_field(phi, q, d)
        mean, _, variance = noisy_means(phi, h, d)
        common.append(0.0 if phi.parity == "odd" else float(weight @ mean**2))
        own.append(float(weight @ variance))
        gain.append(_largest_gain(phi, d))
        q, d = scale * common[-1], scale * own[-1]
    return np.array(common), np.array(own), np.array(gain)


def _largest_gain(phi: Activation, d: float) -> float:
    """Largest |d <phi> / dh| over constant fields h, for noise of variance d."""
    if phi.parity == "odd":
        return float(np.abs(noisy_means(phi, np.zeros(1), d)[1][0]))

    def gain(h: FloatArray) -> FloatArray:
        return np.abs(noisy_means(phi, h, d)[1])

    step = 0.1 * max(1.0, math.sqrt(d))
    h: FloatArray = step * np.arange(-120.0, 121.0)
    least = 1e-8 * step
    while step > least:  # narrowed around the best of a grid
        best = h[int(np.argmax(gain(h)))]
        h, step = best + step * np.linspace(-1.0, 1.0, 21), 0.1 * step
    return float(gain(h).max())
