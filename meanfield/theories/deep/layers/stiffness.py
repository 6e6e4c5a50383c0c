"""How stiff the weight of a class is against its field h, which spacings of h and of shared fields go by."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.deep.layers.rules import Setting, activation_range
from meanfield.theories.deep.layers.site import site_rule, site_table, slope_between
from meanfield.validation import FloatArray

__all__ = ["BEYOND", "BOUNDED", "Region", "around", "reached", "region_of", "stiffness_of"]

_GRID_B, _GRID_H, BEYOND = 17, 33, 3.0  # where curvatures are looked for; standard deviations beyond the maxima
_PLACES = 13  # beside a maximum
_BESIDE_KINK = 0.5  # distance of places beside a kink of phi, in units of sqrt(d)
_MOST_PLACES = 400  # in all, of a phi with many kinks
_AROUND, _INEXACT = 4.0, 0.06  # widths around the fields of nodes at the ends, and the part of these that is not known
BOUNDED = 1.3  # times wider steps of h do where the stiffness is a bound and not that at the maxima


class Region(NamedTuple):
    """Over the b and h of a class that matter: largest -n g_hh, and the range of n g_h."""

    stiffness: float
    force: tuple[float, float]


def reached(
    h: FloatArray, variance: float, width: float, shared: float, depth: float, far: tuple[float, float]
) -> tuple[float, float]:
    """Ends of a lattice of h, see `fields.py`."""
    reach = 1.3 * math.sqrt(2.0 * depth) * math.sqrt(min(9.0 * width**2, variance) + shared**2)
    low, high = ((1.0 + _INEXACT) * end for end in far)
    return min(float(h.min()) - reach, low - _AROUND * width), max(float(h.max()) + reach, high + _AROUND * width)


def region_of(
    phi: Activation,
    n: FloatArray,
    setting: Setting,
    c: int,
    bounds: tuple[FloatArray, FloatArray],
    h: FloatArray,
    farthest: float,
) -> Region:
    """On a grid over the bounds of b, and over h around the maxima and the kinks of phi up to the `farthest`."""
    d, size = float(setting.d[c]), float(n[c])
    reach = BEYOND * math.sqrt(float(setting.covariance[c, c]))
    b_grid = np.linspace(float(bounds[0][c]), float(bounds[1][c]), _GRID_B)
    h_grid = np.linspace(float(h.min()) - reach, float(h.max()) + reach, _GRID_H)
    low, high = min(-farthest, float(h_grid[0])), max(farthest, float(h_grid[-1]))
    h_grid = np.union1d(h_grid, _beside_kinks(phi, d, float(np.abs(b_grid).max()), low, high))
    nodes = site_rule(phi, d, float(h_grid[0]), float(h_grid[-1]), 0.6, float(np.abs(b_grid).max()))
    site = site_table(nodes, b_grid, h_grid, d, float(setting.delta[c]))
    force = size * float(site.h.min()), size * float(site.h.max())
    return Region(max(size * float(-site.hh.min()), 0.0), force)


def around(
    phi: Activation,
    n: FloatArray,
    setting: Setting,
    c: int,
    maxima: tuple[FloatArray, FloatArray],
    outer: FloatArray,
    depth: float,
    span: tuple[float, float, tuple[float, float]],
    stiffest: float,
) -> float:
    """The stiffness that spacings of h go by: at maxima (b, h) of saturated classes it is small, `stiffest` at most,
    and larger beside them, where there is weight as well.

    With little noise it is large next to the kinks of phi alone, at which a saturated class has its maximum: kinks that
    the lattice reaches (`span`: variance, spread by the shared field, far ends) count in full, at the `outer` b, too.
    """
    b, h = maxima
    variance, shared, far = span
    width = 1.0 / math.sqrt(1.0 / variance + stiffest)
    places = (h[:, None] + math.sqrt(2.0 * depth) * width * np.linspace(-1.0, 1.0, _PLACES)).ravel()
    d, count = float(setting.d[c]), len(b)
    low, high = reached(h, variance, width, shared, depth, far)
    every_b = np.append(b, outer)
    kinks = _beside_kinks(phi, d, float(np.abs(every_b).max()), low, high)
    both = np.append(places, kinks)
    nodes = site_rule(phi, d, float(both.min()), float(both.max()), 0.6, float(np.abs(every_b).max()))
    stiffness = -n[c] * site_table(nodes, every_b, both, d, float(setting.delta[c])).hh
    every = np.arange(count)
    own = stiffness[:count, : count * _PLACES].reshape(count, count, _PLACES)[every, every]
    beside, at_kinks = max(0.0, float(own.max())), float(stiffness[:, count * _PLACES :].max(initial=0.0))
    return max(stiffest, at_kinks, (1.0 / variance + beside) / BOUNDED**2 - 1.0 / variance)


def _beside_kinks(phi: Activation, d: float, steepest: float, low: float, high: float) -> FloatArray:
    """h between two ends at which g may bend with noise d and fields up to `steepest`: where the tilted law of z
    passes a kink, or weighs the same on both sides of a jump."""
    infimum, supremum = activation_range(phi)
    beyond = 3.0 + min(math.sqrt(2.0 * steepest * (supremum - infimum)), steepest * math.sqrt(d) * slope_between(phi))
    count = math.ceil(beyond / _BESIDE_KINK)
    kinks = np.array([kink for kink in phi.kinks if low < kink < high])
    if len(kinks) * (2 * count + 1) > _MOST_PLACES:
        return np.linspace(low, high, _MOST_PLACES)
    around = math.sqrt(d) * beyond / count * np.arange(-count, count + 1)
    places = (kinks[:, None] + around).ravel()
    return places[(places > low) & (places < high)]


def stiffness_of(
    phi: Activation, n: FloatArray, setting: Setting, c: int, b: FloatArray, h: FloatArray
) -> tuple[float, float]:
    """Smallest (at least 0) and largest -n g_hh at the maxima, the curvature of the weight of class c in h."""
    d = float(setting.d[c])
    nodes = site_rule(phi, d, float(h.min()), float(h.max()), 0.6, float(np.abs(b).max()))
    site = site_table(nodes, b, h, d, float(setting.delta[c]))
    curvature = np.maximum(-n[c] * np.diag(site.hh), 0.0)
    return float(curvature.min()), float(curvature.max())
