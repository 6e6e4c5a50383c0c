"""How far the field of one class reaches where it is read between values of fields that classes share."""

from __future__ import annotations

import math

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.deep.layers.site import site_rule, site_values
from meanfield.theories.deep.layers.stiffness import Region

__all__ = ["extent"]

_FIELDS_B, _FEWEST, _MOST = 17, 97, 601  # values of b and of h that are looked at
_TAIL = 1.3  # in units of where the prior alone has fallen by the depth


def extent(
    phi: Activation,
    n: float,
    site: tuple[float, float],
    b: tuple[float, float],
    centres: tuple[float, float],
    variance: float,
    depth: float,
    region: Region,
) -> tuple[float, float]:
    """Smallest and largest h with a weight N(h; m, variance) exp(n g(b, h)) of exp(-depth) of the highest or more.

    For all m between `centres` and b between two ends: for h > h' the ratio of the weights grows with m, so that the
    ends are those of the outermost m. Between the h looked at ln of the weight is higher by (stiffness + 1 / variance)
    times the square of their distance over 8 at most. What the largest force n g_h could reach suffices, but is far
    beyond them where phi saturates, and the force ends.

    site : d and delta of the class.
    region : bounds of stiffness and force.
    """
    d, delta = site
    fields = np.linspace(*b, _FIELDS_B)
    steepest = float(np.abs(fields).max())
    count = int(np.clip(8.0 * math.sqrt(variance * region.stiffness), _FEWEST, _MOST))
    tail = _TAIL * math.sqrt(2.0 * depth * variance)
    ends = []
    for sign, centre, force in zip((-1.0, 1.0), centres, region.force):
        reach, limit = tail, centre + variance * force + sign * tail
        while True:
            outer = sign * min(sign * centre + reach, sign * limit)
            h = np.linspace(centre - sign * tail, outer, count)
            nodes = site_rule(phi, d, float(h.min()), float(h.max()), 0.6, steepest)
            weight = n * site_values(nodes, fields, h, d, delta) - (h - centre) ** 2 / (2.0 * variance)
            between = (region.stiffness + 1.0 / variance) * (h[1] - h[0]) ** 2 / 8.0
            last = int(np.flatnonzero((weight >= weight.max(axis=1, keepdims=True) - depth - between).any(axis=0))[-1])
            if last < count - 1 or outer == limit:
                break
            reach *= 2.0
        ends.append(float(h[min(last + 1, count - 1)]))
    return ends[0], ends[1]
