"""Preactivations on single samples, given the fields of neurons: z ~ N(h, d) exp(b phi(z) + delta phi(z)^2 / 2).

Cells in z are those of the nodes of a quadrature of this law, between the kinks of phi: a fixed grid around h misses
where strong fields b take z, and puts part of a cell on the wrong side of a jump.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import log_ndtr, ndtri_exp

from meanfield.activations.activation import Activation
from meanfield.theories.deep.layers.rules import NotCovered
from meanfield.theories.deep.layers.site import SiteNodes, site_rule
from meanfield.validation import FloatArray, IntArray

__all__ = ["drawn_samples", "sample_means"]

_FINE = 0.1, 0.25, 0.45  # spacing in units of the width of the law; the last one is that of a solver
_WINDOW, _TOGETHER = 20.0, 400_000  # standard deviations over which h of neurons are taken together; values at once
_STRAIGHT = 1e-6  # slopes over a cell, below which it is uniform


class _Cells(NamedTuple):
    """Of neurons `at` (k,): ends low and high (k or 1, cells) of cells and phi there, ln of their mass (k, cells) and
    how much ln of the law rises over each (k, cells); or, of phi that is constant in each, None."""

    at: IntArray
    low: FloatArray
    high: FloatArray
    phi: FloatArray
    log: FloatArray
    rise: FloatArray | None

    def mass(self) -> FloatArray:
        """(k, cells) part of the law in each."""
        mass = np.exp(self.log - self.log.max(axis=1, keepdims=True))
        return np.asarray(mass / mass.sum(axis=1, keepdims=True))


def sample_means(phi: Activation, b: FloatArray, h: FloatArray, d: float, delta: float) -> FloatArray:
    """(n,) mean of phi on a sample of a class, in which neurons have the fields b and h (n,)."""
    found = np.empty(len(b))
    for cells in _cells(phi, b, h, d, delta):
        found[cells.at] = cells.mass() @ cells.phi
    return found


def drawn_samples(
    phi: Activation, b: FloatArray, h: FloatArray, d: float, delta: float, count: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """(n, count) preactivations on samples of a class, in which neurons have the fields b and h (n,), and (n,) the mean
    of phi there."""
    z, mean = np.empty((len(b), count)), np.empty(len(b))
    for cells in _cells(phi, b, h, d, delta):
        mass = cells.mass()
        mean[cells.at], total, row = mass @ cells.phi, np.cumsum(mass, axis=1), np.arange(len(mass))
        for k in range(count):
            pick = np.minimum((total <= rng.random((len(total), 1)) * total[:, -1:]).sum(axis=1), total.shape[1] - 1)
            one = row if len(cells.low) > 1 else 0
            part, ends = rng.random(len(total)), (cells.low[one, pick], cells.high[one, pick])
            if cells.rise is None:
                z[cells.at, k] = h[cells.at] + math.sqrt(d) * _between(*ends, part)
            else:
                z[cells.at, k] = ends[0] + (ends[1] - ends[0]) * _along(cells.rise[row, pick], part)
    return z, mean


def _cells(phi: Activation, b: FloatArray, h: FloatArray, d: float, delta: float) -> Iterator[_Cells]:
    """Neurons of nearly equal h, group by group."""
    order, tilt = np.argsort(h, kind="stable"), float(np.abs(b).max(initial=0.0))
    start = 0
    while start < len(order):
        stop = int(np.searchsorted(h[order], h[order[start]] + _WINDOW * math.sqrt(d), side="right"))
        rule = _nodes(phi, d, float(h[order[start]]), float(h[order[stop - 1]]), tilt)
        size = max(1, _TOGETHER // len(rule.z))
        for first in range(start, stop, size):
            at = order[first : min(first + size, stop)]
            own, field = b[at, None], h[at, None]
            log = own * rule.phi + 0.5 * delta * rule.phi**2
            if rule.breaks is None:
                edges = float(h[order[start]]) - rule.reach + np.append(0.0, np.cumsum(rule.weight))
                log = log - 0.5 * (rule.z - field) ** 2 / d + np.log(rule.weight)
                slope = (own + delta * rule.phi) * phi.derivative(rule.z) - (rule.z - field) / d
                yield _Cells(at, edges[None, :-1], edges[None, 1:], rule.phi, log, slope * rule.weight)
            else:
                breaks = (rule.breaks - field) / math.sqrt(d)
                far = np.full((len(at), 1), np.inf)
                low, high = np.hstack([-far, breaks]), np.hstack([breaks, far])
                yield _Cells(at, low, high, rule.phi, log + _log_part(low, high), None)
        start = stop


def _nodes(phi: Activation, d: float, low: float, high: float, tilt: float) -> SiteNodes:
    """As fine as they may be."""
    for step in _FINE[:-1]:
        try:
            return site_rule(phi, d, low, high, step, tilt)
        except NotCovered:
            continue
    return site_rule(phi, d, low, high, _FINE[-1], tilt)


def _log_part(low: FloatArray, high: FloatArray) -> FloatArray:
    """ln of the probability that a standard normal variable is between two ends, in the tail where both are."""
    flip = low > 0.0
    below, above = np.where(flip, -high, low), np.where(flip, -low, high)
    with np.errstate(divide="ignore"):
        return np.asarray(log_ndtr(above) + np.log(-np.expm1(np.minimum(log_ndtr(below) - log_ndtr(above), 0.0))))


def _between(low: FloatArray, high: FloatArray, part: FloatArray) -> FloatArray:
    """A standard normal variable between two ends, at a part of its probability there."""
    flip = low > 0.0
    below, above = np.where(flip, -high, low), np.where(flip, -low, high)
    with np.errstate(divide="ignore"):
        log = np.logaddexp(log_ndtr(below) + np.log1p(-part), log_ndtr(above) + np.log(part))
    value = np.clip(ndtri_exp(log), below, above)
    return np.asarray(np.where(flip, -value, value))


def _along(rise: FloatArray, part: FloatArray) -> FloatArray:
    """Place in a cell (0 to 1) of a law whose logarithm rises by so much over it, at a part of its probability."""
    steep = np.maximum(np.abs(rise), _STRAIGHT)
    from_top = -np.log1p(part * np.expm1(-steep)) / steep
    return np.asarray(np.where(rise > 0.0, 1.0 - from_top, from_top))
