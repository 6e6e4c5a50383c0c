"""A nonlinearity as data for compiled code: polynomials on cells, or exact linear pieces."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.activations.cumulant import chebyshev_transforms
from meanfield.numerics.phi_table import DEGREE, Nonlinearity
from meanfield.validation import FloatArray

__all__ = ["SLOPE_ERROR", "VALUE_ERROR", "nonlinearity"]

VALUE_ERROR = 1e-13  # of phi, relative to max(1, |phi|)
SLOPE_ERROR = 1e-11  # of phi', relative to max(1, |phi'|)

_EPS = float(np.finfo(float).eps)
_NODE = np.cos(math.pi * (np.arange(DEGREE) + 0.5) / DEGREE)
_CHECK = np.array([-0.999, -0.92, -0.7, -0.3, 0.0, 0.3, 0.7, 0.92, 0.999])
_UNIFORM_REACH = 64.0  # beyond it cells grow geometrically
_REACH = 2.0**60  # where a phi that never reaches its asymptote is continued linearly
_OSCILLATING_REACH = 256.0
_MAX_CELLS = 40_000


@lru_cache(maxsize=64)
def nonlinearity(activation: Activation) -> Nonlinearity:
    """phi as a table, accurate to 1e-13 max(1, |phi|) for phi and to 1e-11 max(1, |phi'|) for phi'.

    Cells end at the kinks, and are halved until the fit holds at points between the nodes. A phi that keeps
    oscillating is tabulated for |z| < 256.

    Raises
    ------
    ValueError
        If phi is too rough for 40000 cells.
    """
    pieces = activation.pieces
    if pieces is not None:
        breaks, intercepts, slopes = (np.array(part, dtype=float) for part in pieces)
        none = np.empty(0)
        first = np.zeros(1, dtype=np.int64)
        return Nonlinearity(
            True, breaks, intercepts, slopes, 1.0, 0.0, 0.0, first, none, none, np.empty((0, DEGREE + 1))
        )
    low, high = (_end(activation, sign) for sign in (-1, 1))
    reach = min(max(-low, high), _UNIFORM_REACH)
    width = _bucket_width(activation, reach)
    edges = _first_edges(activation, low, high, reach, width)
    edges, coefficients = _refine(activation, edges)
    centre = 0.5 * (edges[1:] + edges[:-1])
    lowest, highest = -round(reach / width) - 1, round(reach / width)
    outside = (np.array([lowest, highest]) + 0.5) * width
    # Linear continuation from the values at both ends.
    ends = np.zeros((2, DEGREE + 1))
    ends[:, 1] = activation.slopes
    ends[:, 0] = activation(edges[[0, -1]]) + ends[:, 1] * (outside - edges[[0, -1]])
    inner = width * np.arange(lowest + 1, highest + 1)
    left = np.concatenate([[-math.inf], edges])
    first = np.concatenate([[0], np.searchsorted(left, inner), [left.size]]).astype(np.int64)
    none = np.empty(0)
    return Nonlinearity(
        piecewise_linear=False,
        breaks=none,
        intercepts=none,
        slopes=none,
        per_unit=1.0 / width,
        lowest=float(lowest),
        highest=float(highest),
        first=first,
        edges=left,
        centre=np.concatenate([outside[:1], centre, outside[1:]]),
        coefficients=np.concatenate([ends[:1], coefficients, ends[1:]]),
    )


def _end(activation: Activation, sign: int) -> float:
    """Power of two (with this sign) beyond which phi is its asymptote to rounding, and beyond all kinks."""
    side = (sign + 1) // 2
    slope, intercept = activation.slopes[side], activation.intercepts[side]
    far = 2.0 ** np.arange(-10, 61)
    if not math.isfinite(intercept):
        oscillates = math.isnan(intercept) or math.isnan(activation.limits[side])
        return sign * (_OSCILLATING_REACH if oscillates else _REACH)
    points = far[:, None] * np.linspace(1.0, 2.0, 8)
    value = activation(sign * points)
    off = np.abs(value - (intercept + slope * sign * points)) > 4 * _EPS * np.maximum(1.0, np.abs(value))
    away = np.abs(activation.derivative(sign * points) - slope) > 1e-13 * max(1.0, abs(slope))
    bad = (off | away).any(axis=1)
    kinks = max([0.0, *(sign * kink for kink in activation.kinks)])
    bad |= far < kinks
    return sign * (float(far[np.flatnonzero(bad)[-1] + 1]) if bad.any() and not bad[-1] else _REACH)


def _bucket_width(activation: Activation, reach: float) -> float:
    """Power of two at which all cells of this width within `reach` are accurate, those next to kinks aside."""
    width = reach / 4
    while True:
        edges = np.asarray(width * np.arange(-round(reach / width), round(reach / width) + 1))
        good = _fit(activation, edges[:-1], edges[1:])[1]
        if np.sum(~good) <= min(4 * len(activation.kinks), 0.05 * good.size) or edges.size > 4000:
            return width
        width /= 2


def _first_edges(activation: Activation, low: float, high: float, reach: float, width: float) -> FloatArray:
    count = round(reach / width)
    uniform = width * np.arange(-count, count + 1)
    tails = [uniform]
    for end in (low, high):
        if abs(end) > reach:
            octaves = round(math.log2(abs(end) / reach))
            tails.append(math.copysign(reach, end) * 2.0 ** (np.arange(1, 4 * octaves + 1) / 4))
    edges = np.concatenate([*tails, activation.kinks])
    return np.unique(edges)


def _refine(activation: Activation, edges: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Halve cells until the fit of each is accurate; edges (n + 1,) and coefficients (n, 8)."""
    left, right = edges[:-1], edges[1:]
    done_left: list[FloatArray] = []
    done: list[FloatArray] = []
    count = 0
    while left.size:
        coefficients, good = _fit(activation, left, right)
        middle = 0.5 * (left + right)
        good |= right - left <= np.maximum(1e-30, 64 * _EPS * np.maximum(np.abs(left), np.abs(right)))
        done_left.append(left[good])
        done.append(coefficients[good])
        count += int(good.sum())
        bad = ~good
        left, right = np.concatenate([left[bad], middle[bad]]), np.concatenate([middle[bad], right[bad]])
        if count + left.size > _MAX_CELLS:
            raise ValueError(f"{activation!r} cannot be tabulated to {VALUE_ERROR}: too rough for {_MAX_CELLS} cells")
    starts = np.concatenate(done_left)
    order = np.argsort(starts)
    return np.append(starts[order], edges[-1]), np.concatenate(done)[order]


def _fit(activation: Activation, left: FloatArray, right: FloatArray) -> tuple[FloatArray, np.ndarray]:
    """Coefficients (n, 8) in powers of z - centre, and whether they are accurate.

    phi' is interpolated in Chebyshev nodes and integrated: differentiating a fit of phi would magnify its rounding.
    """
    centre, half = 0.5 * (left + right), 0.5 * (right - left)
    at = centre[:, None] + half[:, None] * _NODE
    # Two steps (values to Chebyshev coefficients, those to powers): a single matrix would amplify rounding.
    slopes = (activation.derivative(at) @ _CHEBYSHEV.T) @ _MONOMIAL.T
    scaled = np.zeros((centre.size, DEGREE + 1))
    scaled[:, 1:] = half[:, None] * slopes / np.arange(1, DEGREE + 1)
    powers = _NODE[:, None] ** np.arange(DEGREE + 1)
    scaled[:, 0] = np.mean(activation(at) - scaled @ powers.T, axis=1)
    at = centre[:, None] + half[:, None] * _CHECK
    powers = _CHECK[:, None] ** np.arange(DEGREE + 1)
    value, slope = scaled @ powers.T, slopes @ powers[:, :-1].T
    wanted, wanted_slope = activation(at), activation.derivative(at)
    good = np.abs(value - wanted) <= 0.5 * VALUE_ERROR * np.maximum(1.0, np.abs(wanted))
    good &= np.abs(slope - wanted_slope) <= 0.5 * SLOPE_ERROR * np.maximum(1.0, np.abs(wanted_slope))
    return scaled / half[:, None] ** np.arange(DEGREE + 1), good.all(axis=1)


_CHEBYSHEV, _MONOMIAL = chebyshev_transforms(DEGREE)
