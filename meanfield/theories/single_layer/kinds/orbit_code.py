"""A code that stands for all codes which exchanging classes makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meanfield.posterior.parts import Code

__all__ = ["OrbitCode"]


@dataclass(frozen=True, eq=False, repr=False)
class OrbitCode(Code):
    """One of `count` codes that differ by permutations of exchangeable classes and share `weight` equally.

    Pattern, readout and activations are those of this one.

    Attributes
    ----------
    kind : (C,) int array
        Classes of equal kind are exchangeable.
    count : int
        Codes in the orbit.
    """

    kind: NDArray[np.intp] = None  # type: ignore[assignment]  # always given; fields before it have defaults
    count: int = 1

    @property
    def label(self) -> str:
        """Active classes of each kind, "6/12" or "25/50-15/30"."""
        active = np.array([character == "1" for character in self.pattern])
        own = [active[self.kind == k] for k in range(int(self.kind.max()) + 1)]
        return "-".join(f"{part.sum()}/{len(part)}" for part in own)

    def __repr__(self) -> str:
        return f"OrbitCode({self.label}, weight={self.weight:.6g}, count={self.count:.6g})"
