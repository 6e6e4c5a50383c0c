"""Points of theories whose solutions are more than codes and t: kept whole, as a text and a row of numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from meanfield.posterior.posterior import SolvedPosterior
from meanfield.posterior.registry import Restores, covering_theory
from meanfield.problem.problem import Problem
from meanfield.validation import FloatArray

__all__ = ["Packable", "has_kept", "packed", "restored"]


@runtime_checkable
class Packable(Protocol):
    """A solution that can be kept whole."""

    def pack(self) -> tuple[Mapping[str, object], Mapping[str, FloatArray]]: ...


def packed(solution: Packable) -> tuple[str, FloatArray]:
    """What ``solution.pack()`` gives: the header as text, with the shapes of the arrays, and all numbers of these."""
    header, arrays = solution.pack()
    names = sorted(arrays)
    shapes = {name: list(np.shape(arrays[name])) for name in names}
    numbers = [np.asarray(arrays[name], dtype=float).ravel() for name in names]
    return json.dumps({"solution": header, "shapes": shapes}), np.concatenate(numbers)


def has_kept(header: NDArray[np.str_] | None, i: int) -> bool:
    """Whether point i was kept whole."""
    return header is not None and bool(header[i])


def restored(problem: Problem, header: str, kept: FloatArray) -> SolvedPosterior:
    """The posterior of a problem from what `packed` gave; numbers beyond the arrays are ignored.

    Raises
    ------
    ValueError
        If text, numbers and problem do not fit together.
    """
    try:
        found = json.loads(header)
        shapes = {str(name): tuple(int(n) for n in shape) for name, shape in found["shapes"].items()}
        arrays, at = {}, 0
        for name in sorted(shapes):
            size = math.prod(shapes[name])
            if min(shapes[name], default=0) < 0 or at + size > len(kept):
                raise ValueError("its arrays are larger than the numbers there are.")
            arrays[name] = np.array(kept[at : at + size]).reshape(shapes[name])
            at += size
        theory = covering_theory(*problem)
        assert isinstance(theory, Restores)
        posterior = theory.restore(problem, found["solution"], arrays)
        assert isinstance(posterior, SolvedPosterior)
        return posterior
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it does not hold a solution: {error}.") from error
