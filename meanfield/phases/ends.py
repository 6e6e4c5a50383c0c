"""Curves that start at the ends of others: small squares around the ends, along whose sides phases change.

Where three or more boundaries meet each of them may be too short, or too close to another one, for the raster to see
it. All of them leave a square around the place where they meet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

import numpy as np

from meanfield.phases.islands import Leg
from meanfield.phases.points import Plane
from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.posterior import Posterior
from meanfield.validation import FloatArray

__all__ = ["legs_around"]

_HALF = 0.1  # of a cell of the raster: half a side
_ALONG = 9  # points on a side


def legs_around(diagram: Plane, place: FloatArray) -> Iterator[tuple[Leg, set[str]]]:
    """Parts of the sides of a square around `place`, (2,), at whose ends codes differ, and which codes do."""
    names, axes = tuple(diagram.axes), [np.sort(axis) for axis in diagram.axes.values()]
    cell = np.array([float(np.ptp(axis)) / max(len(axis) - 1, 1) for axis in axes])
    low, high = (np.array([axis[k] for axis in axes]) for k in (0, -1))
    first, last = np.maximum(place - _HALF * cell, low), np.minimum(place + _HALF * cell, high)
    for k, name in enumerate(names):
        for other in (first[1 - k], last[1 - k]):
            fixed = {names[1 - k]: float(other)}
            found: list[tuple[float, Posterior]] = []
            for value in map(float, np.linspace(first[k], last[k], _ALONG)):
                with suppress(ConvergenceError, ValueError):
                    found.append((value, diagram.solve(**fixed, **{name: value})))
            for one, two in pairwise(found):
                codes, others = _codes(one[1]), _codes(two[1])
                if codes != others:
                    yield Leg(diagram, name, fixed, (one, two)), {*(codes - others), *(others - codes)}


def _codes(posterior: Posterior) -> Counter[str]:
    return Counter(code.pattern for code in posterior.codes)
