"""Steps along which no mode of the bulk reaches gain 1 (relu/THEORY.md, "From a linear network").

What a mode has depends on 1 - gain, which a step that is small in all unknowns may take below zero. Here 1 - gain
changes by the factor that its derivative gives, and a conjugate is stretched along the field of the mode to that.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from meanfield.theories.deep.relu.coordinates import ReluOrder
from meanfield.theories.deep.relu.outlier import above, climbed, condensed
from meanfield.theories.deep.relu.setting import BulkDiverges
from meanfield.theories.deep.relu.system import ReluSystem
from meanfield.validation import FloatArray

__all__ = ["retracted"]

_NEAR = 0.97  # gain from which a mode is looked at
_FARTHEST = 1.0  # change of 1 - gain to first order, in units of itself
_DIFFERENCE = 1e-5  # of a step: for the derivative of the gain along it
_SAME = 0.999  # cosine of the angle between directions that are one
_ROUNDS = 3  # codes that a symmetry maps into each other are stretched one after the other


def retracted(path: Callable[[float], tuple[ReluSystem, FloatArray]]) -> FloatArray:
    """Unknowns at the end, 1, of a path from 0, which agree with it to first order in its length.

    Raises
    ------
    BulkDiverges
        If the derivative takes a gain far beyond 1, or the end has no conjugates.
    """
    (start, x0), (beside, x1), (end, x) = path(0.0), path(_DIFFERENCE), path(1.0)
    first, second, order = start.unpack(x0), beside.unpack(x1), end.unpack(x)
    wanted = []
    for layer in range(start.problem.depth):
        for beta, gain in _modes(start, first, layer):
            slope = (condensed(beside.setting(second, layer), beta).gain - gain) / _DIFFERENCE
            room = 1.0 - gain
            if slope > _FARTHEST * room:
                raise BulkDiverges("a code would condense on the way.")
            wanted.append((layer, beta, room / (1.0 + slope / room) if slope > 0.0 else room - slope))
    for _ in range(_ROUNDS if wanted else 0):
        for layer, beta, room in wanted:
            setting = end.setting(order, layer)
            there, found, _ = climbed(setting, beta)
            if math.isfinite(found.gain):
                order = _stretched(order, layer, setting.root @ there, there, (1.0 - room) / found.gain - 1.0)
        order = end.unpack(end.pack(order))
    return end.pack(order)


def _stretched(order: ReluOrder, layer: int, b: FloatArray, beta: FloatArray, part: float) -> ReluOrder:
    """With a gain that is larger by `part` of its own along b = R beta, beta being stationary and of length 1."""
    if layer == len(order.kernel):
        return replace(order, t=order.t + (math.sqrt(1.0 + part) - 1.0) * np.outer(order.t @ beta, beta))
    tilde = order.tilde.copy()
    tilde[layer] += part * np.outer(b, b)
    return replace(order, tilde=tilde)


def _modes(system: ReluSystem, order: ReluOrder, layer: int) -> Iterator[tuple[FloatArray, float]]:
    """Directions of codes of a layer that are near to condensing and no outliers, and their gains."""
    setting = system.setting(order, layer)
    known = [beta / np.linalg.norm(beta) for beta in order.outliers(layer) if beta.any()]
    for word in itertools.product("01", repeat=len(setting.n)):
        if "1" not in word:
            continue
        beta, found = above(setting, word)
        if _NEAR < found.gain < 1.0 and all(float(beta @ other) < _SAME for other in known):
            known.append(beta)
            yield beta, found.gain
