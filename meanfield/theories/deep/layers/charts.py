"""Coordinates in which lattices of a layer are uniform: spacings that follow the width of the weight (THEORY.md).

A lattice is resolved where the precision of the weight along an axis, times the square of the local spacing, is at most
that of a unit Gaussian at the spacing of the rule. Along x(v) = centre + scale sinh(pace v / scale) the spacing is
pace sqrt(1 + ((x - centre) / scale)^2), and a sum over a uniform lattice in v converges as fast as one in x.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from meanfield.theories.deep.layers.lattice import keys
from meanfield.validation import BoolArray, FloatArray, IntArray

__all__ = [
    "Axis",
    "Chart",
    "Probes",
    "fitted_axis",
    "fitted_chart",
    "node_probes",
    "saved",
    "term_probes",
    "too_coarse",
    "unit_chart",
]

_WHOLE, _LEAST = 31.0, 0.1  # nats that the error of a lattice is below the weight itself, and the share that stays
_FLATTEST = 1e-3  # smallest precision that is made use of
_LONGEST = 6.0  # scale in units of the pace, at least: how fast spacings may change
_SCALES = 2.0 ** np.arange(-3.0, 7.5, 0.5)
_LOOSE, _CAUTION = 1.06, 1.03  # a lattice is too coarse by this, and fitted with some room
_FEWEST = 12  # probes


class Axis(NamedTuple):
    """x(v) = centre + scale sinh(pace v / scale); pace v for an infinite scale."""

    centre: float = 0.0
    pace: float = 1.0
    scale: float = math.inf

    def at(self, v: FloatArray) -> FloatArray:
        """x."""
        if math.isinf(self.scale):
            return self.pace * v
        return self.centre + self.scale * np.sinh(self.pace / self.scale * v)

    def slope(self, v: FloatArray) -> FloatArray:
        """dx/dv."""
        if math.isinf(self.scale):
            return np.full_like(v, self.pace)
        return np.asarray(self.pace * np.cosh(self.pace / self.scale * v))

    def spacing(self, x: FloatArray) -> FloatArray:
        """dx/dv at x."""
        return np.asarray(self.pace * np.sqrt(1.0 + ((x - self.centre) / self.scale) ** 2))

    def inverse(self, x: FloatArray) -> FloatArray:
        """v."""
        if math.isinf(self.scale):
            return x / self.pace
        return np.asarray(self.scale / self.pace * np.arcsinh((x - self.centre) / self.scale))


@dataclass(frozen=True, eq=False)
class Chart:
    """beta = x(v) @ frame, an axis for every row of the orthogonal frame (r, r).

    `flips` (r,): axes that some symmetry of the weight reverses; their lattices are symmetric around zero.
    """

    frame: FloatArray
    axes: tuple[Axis, ...]
    flips: BoolArray

    def beta(self, v: FloatArray) -> FloatArray:
        """Points beta (N, r) at v (N, r)."""
        return np.column_stack([axis.at(v[:, i]) for i, axis in enumerate(self.axes)]) @ self.frame

    def inverse(self, beta: FloatArray) -> FloatArray:
        """v (N, r) of points beta (N, r)."""
        x = beta @ self.frame.T
        return np.column_stack([axis.inverse(x[:, i]) for i, axis in enumerate(self.axes)])

    def log_slope(self, v: FloatArray) -> FloatArray:
        """ln of the determinant of d beta / dv, (N,)."""
        return np.asarray(sum(np.log(axis.slope(v[:, i])) for i, axis in enumerate(self.axes)))

    def offset(self, offset: float) -> FloatArray:
        """Of a lattice, in steps, (r,): such that symmetries are kept, where there are any."""
        return np.where(self.flips, 0.5 if offset else 0.0, offset)


@cache
def unit_chart(r: int, flips: bool = False) -> Chart:
    """beta itself."""
    return Chart(np.eye(r), (Axis(),) * r, np.full(r, flips))


class Probes(NamedTuple):
    """Places (k, ...) where ln of the weight was differenced: its precision there, how far below its maximum, and the
    spacing of the lattice.
    """

    x: FloatArray
    precision: FloatArray
    depth: FloatArray
    spacing: FloatArray

    @property
    def widest(self) -> FloatArray:
        """Largest spacing in units of that of a rule."""
        return np.sqrt(_relief(self.depth) / np.maximum(self.precision, _FLATTEST)) / _CAUTION


def _relief(depth: FloatArray) -> FloatArray:
    """How much larger the squared spacing may be where the weight itself is small."""
    return np.asarray(1.0 / np.maximum(1.0 - depth / _WHOLE, _LEAST))


def node_probes(index: IntArray, heights: FloatArray, v: FloatArray, chart: Chart, step: float) -> Probes | None:
    """At lattice nodes with indices (N, r) all whose neighbours are there: precisions are (k, r, r), by beta.

    heights (N,) are those of the integrand over v.
    """
    names = keys(index)
    order = np.argsort(names)
    names, heights, v = names[order], heights[order], v[order]
    r = index.shape[1]
    origin = keys(np.zeros((1, r), dtype=np.int64))

    def at(shift: IntArray) -> FloatArray:
        wanted = names + (keys(shift[None]) - origin)  # names are linear in the index
        place = np.minimum(np.searchsorted(names, wanted), len(names) - 1)
        return np.where(names[place] == wanted, heights[place], np.nan)

    steps, pairs = np.eye(r, dtype=np.int64), list(itertools.combinations(range(r), 2))
    single = [2.0 * heights - at(one) - at(-one) for one in steps]
    both = [2.0 * heights - at(steps[i] + steps[j]) - at(-steps[i] - steps[j]) for i, j in pairs]
    known = np.isfinite(np.array(single + both)).all(axis=0)
    if known.sum() < _FEWEST:
        return None
    slope = step * np.column_stack([axis.slope(v[known, i]) for i, axis in enumerate(chart.axes)])
    second = np.empty((len(slope), r, r))
    for i in range(r):
        second[:, i, i] = single[i][known]
    for (i, j), mixed in zip(pairs, both):
        second[:, i, j] = second[:, j, i] = 0.5 * (mixed - single[i] - single[j])[known]
    second /= slope[:, :, None] * slope[:, None, :]
    precision = chart.frame.T @ second @ chart.frame
    return Probes(chart.beta(v[known]), precision, heights.max() - heights[known], slope / step)


def term_probes(terms: FloatArray, top: float, deepest: float, axis: Axis, v: FloatArray, step: float) -> Probes:
    """Along a lattice v (n,) of one field, at terms (N, n) not further than `deepest` below the highest, `top`."""
    middle = terms[:, 1:-1]
    with np.errstate(invalid="ignore"):
        second = 2.0 * middle - terms[:, 2:] - terms[:, :-2]
    known = np.isfinite(second) & (middle > top - deepest)
    x, slope = axis.at(v[1:-1]), axis.slope(v[1:-1])
    # Of one column the widest spacing allowed is the smallest.
    allowed = np.where(known, _relief(top - middle) / np.maximum(second, 1e-300), np.inf).min(axis=0)
    kept = known.any(axis=0)
    precision = 1.0 / np.maximum(allowed[kept], 1e-300) / (step * slope[kept]) ** 2
    return Probes(x[kept], precision, np.zeros(int(kept.sum())), slope[kept])


def fitted_axis(probes: Probes, centred: bool, most: float) -> Axis:
    """The axis with fewest nodes that is fine enough at all probes; `centred`: around zero.

    most: spacing up to which the weight is as smooth as its curvature says, where a wider one may be allowed by that.
    """
    x, widest = probes.x, np.minimum(probes.widest, most)
    scales = _SCALES * max(float(np.abs(x).max()), 1e-300)
    centres = [0.0] if centred else [0.0, float(x[np.argmin(widest)]), *np.quantile(x, (0.1, 0.3, 0.5, 0.7, 0.9))]
    best, least = Axis(0.0, float(widest.min())), float((probes.spacing / widest.min()).sum())
    for centre in centres:
        shape = np.sqrt(1.0 + ((x - centre) / scales[:, None]) ** 2)
        pace = (widest / shape).min(axis=1)
        count = (probes.spacing / shape).sum(axis=1) / pace
        count[scales < _LONGEST * pace] = np.inf
        i = int(np.argmin(count))
        if count[i] < 0.95 * least:
            best, least = Axis(float(centre), float(pace[i]), float(scales[i])), float(count[i])
    return best


def fitted_chart(probes: Probes, turns: FloatArray, most: float) -> Chart:
    """The chart with fewest nodes that is fine enough at all probes (precisions (k, r, r)).

    Along the principal axes of the mean precision; turns (g, r, r) that mix them leave only a lattice of cubes.
    """
    r = probes.x.shape[1]
    turns = turns if len(turns) else np.eye(r)[None]
    mean = probes.precision.mean(axis=0)
    symmetric = sum((turn + turn.T for turn in turns), np.zeros((r, r)))
    mean = sum((turn.T @ mean @ turn for turn in turns), np.zeros((r, r))) / len(turns)
    frame = np.linalg.eigh(mean + 1e-3 * symmetric)[1].T
    turned = frame @ turns @ frame.T
    mixed = bool((np.abs(turned) * (1.0 - np.eye(r))).max() > 1e-9)
    flips = np.array([(turned[:, i, i] < 0.0).any() for i in range(r)])
    if mixed:
        largest = np.linalg.eigvalsh(probes.precision)[:, -1]
        widest = min(float(np.sqrt(_relief(probes.depth) / np.maximum(largest, _FLATTEST)).min()), most)
        return Chart(np.eye(r), (Axis(0.0, widest),) * r, np.full(r, bool((turns < 0).any())))
    x, along = probes.x @ frame.T, frame @ probes.precision @ frame.T
    axes = tuple(
        fitted_axis(Probes(x[:, i], along[:, i, i], probes.depth, probes.spacing.prod(axis=1)), bool(flips[i]), most)
        for i in range(r)
    )
    return Chart(frame, axes, flips)


def too_coarse(probes: Probes, chart: Chart | None = None) -> bool:
    """Whether the lattice of the probes is: of one field, or along some axis of a chart."""
    if chart is None:
        return bool((probes.spacing > _LOOSE * _CAUTION * probes.widest).any())
    along = chart.frame @ probes.precision @ chart.frame.T
    return any(
        too_coarse(Probes(probes.x, along[:, i, i], probes.depth, probes.spacing[:, i])) for i in range(len(chart.axes))
    )


def saved(probes: Probes, found: Axis | Chart) -> float:
    """How many times fewer nodes a lattice along these axes would have than the one of the probes."""
    if isinstance(found, Axis):
        share = probes.spacing / found.spacing(probes.x)
    else:
        at = probes.x @ found.frame.T
        dense = np.prod([axis.spacing(at[:, i]) for i, axis in enumerate(found.axes)], axis=0)
        share = probes.spacing.prod(axis=1) / dense
    return len(probes.x) / float(share.sum())
