"""Which neurons have which code, where fields h decide it as much as b (THEORY.md, "Codes of neurons").

A neuron is active on a class if its mean activation g_b(b_c, h_c), given both of its fields, is above the midpoint of
phi. Given beta and the shared field alpha classes are independent, so that the law of its word is a sum over alpha of
products over classes of what is above and below the midpoint, on plain grids of alpha and of each class's own field.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import ndtr

from meanfield.activations.activation import Activation
from meanfield.theories.deep.fields import shared_field
from meanfield.theories.deep.rules import Detail, NotCovered, Setting, activation_range, threshold
from meanfield.theories.deep.site import site_rule
from meanfield.validation import FloatArray

__all__ = ["OfWord", "laws_of_words"]

_REACH = 7.0  # standard deviations of alpha and of a class's own field
_STEP = 0.2  # spacing of both, in standard deviations of what is left of them
_TABLE = 0.25  # spacing of tables in h, in units of the noise
_CLOSEST = 0.01  # values of alpha
_CORNERS = ((1.0, 1.0), (1.0, -1.0), (-1.0, -1.0), (-1.0, 1.0))
_FEWEST = 4  # steps of a table on either side of 0, of a class whose field has next to no variance, too
_MOST = 3_000_000  # values of a class: nodes times alpha times its own field
_LARGEST = 30_000_000  # values of a table


class OfWord(NamedTuple):
    """Of the neurons with a word at every node: their part (N,), <phi> (N, C) and <phi^2> (N, C)."""

    part: FloatArray
    activation: FloatArray
    square: FloatArray


class _Class(NamedTuple):
    """Sums over a class's own field, (2, N, J) below and above the midpoint: of 1, g_b, g_b^2 + g_bb."""

    one: FloatArray
    mean: FloatArray
    square: FloatArray


def laws_of_words(phi: Activation, n: FloatArray, setting: Setting, detail: Detail) -> dict[str, OfWord] | None:
    """By word, at the nodes of a layer with fields h; None where classes share more than one field, or grids that are
    fine enough are too large."""
    b = detail.beta @ setting.root.T
    try:
        own, shared = shared_field(setting.covariance)
        tables = [_tables(phi, setting, c, b[:, c]) for c in range(len(n))]
    except NotCovered:
        return None
    low, high = activation_range(phi)
    stiff = n * (high - low) ** 2 / setting.d  # of exp(n g) in h: -g_hh is at most about that
    stiff = np.minimum(stiff, n * np.array([_curvature(*table[:2]) for table in tables]))
    along = _STEP / math.sqrt(1.0 + float((shared**2 * stiff / (1.0 + own * stiff)).sum()))
    # Two classes are cut at nearly the same alpha: told apart by their own fields only, which have to be wider.
    apart = math.sqrt(float(own.min())) / max(float(np.abs(shared).max()), 1e-300)
    alpha = _lattice(min(along, max(apart, _CLOSEST)))
    fields = [_lattice(_STEP / math.sqrt(1.0 + float(own[c] * stiff[c]))) for c in range(len(n))]
    if len(b) * len(alpha) * max(map(len, fields)) > _MOST:
        return None
    classes = [
        _of_class(phi, tables[c], float(n[c]), float(shared[c]) * alpha, math.sqrt(max(own[c], 0.0)), x)
        for c, x in enumerate(fields)
    ]
    gauss = np.exp(-0.5 * alpha**2)
    found: dict[str, OfWord] = {}
    for word in itertools.product((0, 1), repeat=len(n)):
        ones = [one.one[bit] for one, bit in zip(classes, word)]
        part = np.prod(ones, axis=0) @ gauss
        moments = []
        for kind in (1, 2):
            rows = []
            for c, bit in enumerate(word):
                others = math.prod((one for e, one in enumerate(ones) if e != c), start=gauss)
                rows.append((classes[c][kind][bit] * others).sum(axis=1))
            moments.append(np.array(rows).T)
        found["".join(map(str, word))] = OfWord(part, *moments)
    total = np.sum([one.part for one in found.values()], axis=0)
    if not (total > 0.0).all():  # classes whose weights do not overlap in numbers
        return None
    return {
        word: OfWord(one.part / total, *(m / np.maximum(one.part, 1e-300)[:, None] for m in one[1:]))
        for word, one in found.items()
    }


def _lattice(step: float) -> FloatArray:
    count = math.ceil(_REACH / step)
    return np.linspace(-_REACH, _REACH, 2 * count + 1)


def _curvature(h: FloatArray, g: FloatArray) -> float:
    """Largest -g_hh over fields h, at the nodes."""
    return max(float(-np.diff(g, 2, axis=0).min()), 0.0) / float(h[1] - h[0]) ** 2


def _tables(phi: Activation, setting: Setting, c: int, b: FloatArray) -> tuple[FloatArray, ...]:
    """h (H,), and there g, g_b, g_bb, (H, N)."""
    noise = float(setting.d[c])
    step = _TABLE * math.sqrt(noise)
    reach = max(_REACH * math.sqrt(float(setting.covariance[c, c])) * 1.5, _FEWEST * step)
    h = np.linspace(-reach, reach, 2 * math.ceil(reach / step) + 1)
    rule = site_rule(phi, noise, float(h[0]), float(h[-1]), 0.45, float(np.abs(b).max()))
    if len(h) * max(len(rule.z), len(b)) > _LARGEST:
        raise NotCovered("tables of so little noise are too large")
    if rule.breaks is None:
        normal = np.exp(-0.5 * (rule.z - h[:, None]) ** 2 / noise) * rule.weight / math.sqrt(2.0 * math.pi * noise)
    else:
        ones = np.ones((len(h), 1))
        below = ndtr((rule.breaks - h[:, None]) / math.sqrt(noise))
        normal = np.diff(np.hstack([0.0 * ones, below, ones]), axis=1)
    exponent = rule.phi[:, None] * b + 0.5 * setting.delta[c] * rule.phi[:, None] ** 2
    top = exponent.max(axis=0)
    tilt = np.exp(exponent - top)
    total, first, second = (normal @ (tilt * power[:, None]) for power in (rule.phi**0, rule.phi, rule.phi**2))
    mean = first / total
    return h, np.log(total) + top, mean, second / total - mean**2


def _of_class(
    phi: Activation, table: tuple[FloatArray, ...], n: float, centre: FloatArray, width: float, x: FloatArray
) -> _Class:
    """Sums over h = centre + width x of N(x) exp(n g), from `_tables`."""
    h, *values = table
    at = np.clip(centre[:, None] + width * x, h[0], h[-1])
    g, mean, variance = (np.moveaxis(CubicSpline(h, value)(at), 2, 0) for value in values)  # (N, J, X)
    w = np.exp(n * (g - g.max(axis=(1, 2), keepdims=True)) - 0.5 * x**2)
    excess = mean - threshold(phi)
    on = _above(excess, *(np.abs(np.gradient(excess, axis=axis)) for axis in (1, 2)))
    parts = np.stack([w * (1.0 - on), w * on])
    return _Class(parts.sum(axis=3), (parts * mean).sum(axis=3), (parts * (mean**2 + variance)).sum(axis=3))


def _above(excess: FloatArray, across: FloatArray, along: FloatArray) -> FloatArray:
    """Part of a cell in which a linear function is positive: its value in the middle, and changes over both sides."""
    wide = np.maximum(np.maximum(across, along), 1e-100)
    narrow = np.maximum(np.minimum(across, along), 1e-6 * wide)
    ends = [0.5 * np.maximum(excess + sign * 0.5 * (wide + other * narrow), 0.0) ** 2 for sign, other in _CORNERS]
    part = (ends[0] - ends[1] - ends[2] + ends[3]) / (wide * narrow)
    outside = np.abs(excess) >= 0.5 * (wide + narrow)
    return np.where(outside, excess > 0.0, np.clip(part, 0.0, 1.0))
