"""What the theory needs to know about the shape of a nonlinearity phi, in numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Facts", "Pieces", "facts_of_pieces", "facts_of_values"]

Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]


class Pieces(NamedTuple):
    """A piecewise linear phi: phi(z) = intercepts[i] + slopes[i] * z between breaks[i - 1] and breaks[i]."""

    breaks: tuple[float, ...]
    intercepts: tuple[float, ...]
    slopes: tuple[float, ...]


class Facts(NamedTuple):
    """Shape of phi; see the attributes of the same names of `meanfield.activations.activation.Activation`."""

    kinks: tuple[float, ...]
    limits: tuple[float, float]
    slopes: tuple[float, float]
    intercepts: tuple[float, float]
    infimum: float
    supremum: float
    complement: float | None
    even: bool
    pieces: Pieces | None
    # Whether kinks go on beyond the last one listed, for z -> -inf and +inf.
    endless: tuple[bool, bool] = (False, False)


def facts_of_pieces(pieces: Pieces) -> Facts:
    """All facts about a piecewise linear phi; equal neighbours are merged first (leaky ReLU with slope 1 is linear)."""
    breaks, intercepts, slopes = [], [pieces.intercepts[0]], [pieces.slopes[0]]
    for at, alpha, beta in zip(pieces.breaks, pieces.intercepts[1:], pieces.slopes[1:]):
        if (alpha, beta) != (intercepts[-1], slopes[-1]):
            breaks.append(at)
            intercepts.append(alpha)
            slopes.append(beta)
    merged = Pieces(tuple(breaks), tuple(intercepts), tuple(slopes))
    ends = (slopes[0], slopes[-1])
    limits = (
        intercepts[0] if ends[0] == 0.0 else -math.copysign(math.inf, ends[0]),
        intercepts[-1] if ends[1] == 0.0 else math.copysign(math.inf, ends[1]),
    )
    corners = [alpha + beta * at for at, alpha, beta in zip(breaks, intercepts, slopes)]
    corners += [alpha + beta * at for at, alpha, beta in zip(breaks, intercepts[1:], slopes[1:])]
    scale = max(abs(x) for x in (*intercepts, *breaks, *slopes, 1.0))
    mirrored = all(math.isclose(x, -y, abs_tol=1e-14 * scale) for x, y in zip(breaks, reversed(breaks)))
    sums = [alpha + beta for alpha, beta in zip(intercepts, reversed(intercepts))]
    odd = mirrored and all(math.isclose(x, y, abs_tol=1e-14 * scale) for x, y in zip(slopes, reversed(slopes)))
    odd = odd and max(sums) - min(sums) <= 1e-14 * scale
    even = mirrored and all(math.isclose(x, -y, abs_tol=1e-14 * scale) for x, y in zip(slopes, reversed(slopes)))
    even = even and all(math.isclose(x, y, abs_tol=1e-14 * scale) for x, y in zip(intercepts, reversed(intercepts)))
    return Facts(
        kinks=merged.breaks,
        limits=limits,
        slopes=ends,
        intercepts=(intercepts[0], intercepts[-1]),
        infimum=min(*limits, *corners),
        supremum=max(*limits, *corners),
        complement=0.5 * sums[0] if odd else None,
        even=even,
        pieces=merged,
    )


def facts_of_values(
    value: Function,
    *,
    kinks: tuple[float, ...],
    limits: tuple[float, float],
    slopes: tuple[float, float],
    intercepts: tuple[float, float],
    complement: float | None,
    even: bool,
    endless: tuple[bool, bool] = (False, False),
) -> Facts:
    """Complete the facts with the range of phi, searched on a grid that zooms in on its extremes."""
    high = max([_largest(value, kinks), *(x for x in limits if not math.isnan(x))])
    low = min([-_largest(lambda z: -value(z), kinks), *(x for x in limits if not math.isnan(x))])
    return Facts(kinks, limits, slopes, intercepts, low + 0.0, high + 0.0, complement, even, None, endless)


def _largest(value: Function, kinks: tuple[float, ...]) -> float:
    centres = np.array([0.0, *kinks[:50]])
    reach = np.sinh(np.linspace(-9.0, 9.0, 601))  # up to 4e3, spacing 0.03 at the centre
    grid = np.unique((centres[:, None] + reach).ravel())
    values = value(grid)
    # Several starts: the largest value of the grid need not lie next to the largest maximum.
    starts = np.argsort(values)[:-6:-1]
    left, right = grid[np.maximum(starts - 1, 0)], grid[np.minimum(starts + 1, grid.size - 1)]
    best, row = -math.inf, np.arange(starts.size)
    for _ in range(12):
        fine = np.linspace(left, right, 21, axis=1)
        inside = value(fine.ravel()).reshape(fine.shape)
        j = np.argmax(inside, axis=1)
        best = max(best, float(inside[row, j].max()))
        left, right = fine[row, np.maximum(j - 1, 0)], fine[row, np.minimum(j + 1, 20)]
    return best
