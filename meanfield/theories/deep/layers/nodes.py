"""Where a layer is integrated: lattice nodes up to its symmetries, and spacings that are fitted to its weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.deep.compiled.kernels import POINTS
from meanfield.theories.deep.layers.charts import (
    Axis,
    Chart,
    fitted_axis,
    fitted_chart,
    node_probes,
    saved,
    term_probes,
    too_coarse,
    unit_chart,
)
from meanfield.theories.deep.layers.fields import Fields
from meanfield.theories.deep.layers.lattice import keys, unique
from meanfield.theories.deep.layers.maxima import Maxima
from meanfield.theories.deep.layers.rows import spare
from meanfield.theories.deep.layers.rules import FINE, NotCovered, Rule, Setting, activation_range
from meanfield.theories.deep.layers.sums import BEYOND, View
from meanfield.validation import BoolArray, FloatArray, IntArray

__all__ = ["MANY_VALUES", "REFITS", "LayerNodes", "TooCoarse"]

_ON_LATTICE = 1e-9  # difference of places that are the same, in units of the largest
_MANY_NODES, MANY_VALUES = 100, 40  # from which on lattices, and values of the shared field, are fitted to the weight
_NO_REACH = 1e-9  # of b along the directions of beta: the weight is that of the prior
_ZEROS = 0.3  # spacing of b in units of the range of phi, up to which weights are as smooth as their curvature says
_GAIN = 1.15, 2.0  # of fine and of coarse rules
REFITS, _GROWN = 3, 1.25  # times in a row; and again where a lattice has so many times more nodes
_ROUGH_DEPTH = 20.0  # up to which a lattice that is a little too coarse will do
# Error of tables between rows that is aimed at, and rounding in g, of coarse rules as well; how much closer rows have
# to be for an evaluation to be repeated; limits of the distance and of its growth.
_READ, _ROUNDING, _MISREAD, _WIDEST, _WIDEN = 1e-12, (1e-16, 1e-12), 0.7, 12.0, 4.0


class TooCoarse(Exception):
    """The lattice of the shared field, or that of rows, is too coarse, and was replaced."""


_MOST_STRETCH = 30.0  # times wider than at first


@dataclass(eq=False)
class LayerNodes:
    """The lattices of a layer: of its conjugate fields, of the shared field, and of the rows of its tables.

    `turns` (g, r, r): permutations of the coordinates of beta, up to signs, that leave the weight as it is. Averages
    are then those over one node of every orbit, and right once they are made symmetric.
    """

    phi: Activation
    n: FloatArray
    rule: Rule
    last: bool = False
    turns: FloatArray = field(default_factory=lambda: np.empty((0, 0, 0), dtype=np.int64))
    index: IntArray = field(default_factory=lambda: np.empty((0, 0), dtype=np.int64))
    regions: dict[str, IntArray] = field(default_factory=dict)
    stretch: float = 1.0  # of the lattice of the shared field, as far as it was needed
    sides: FloatArray = field(default_factory=lambda: np.ones((2, 2)))  # the same on the sides of two shared fields
    far: tuple[FloatArray, FloatArray] | None = None  # smallest and largest h (C,) of the nodes at the ends
    chart: Chart | None = None  # coordinates of the lattice; None: beta itself
    axis: Axis | None = None  # of the shared field; None: equal spacings by its proven bound
    wider: float = 1.0  # times that rows of class tables may be apart than they would be for few samples
    refits: int = 0  # in the evaluation at hand
    tried: dict[str, int] = field(default_factory=dict)  # sizes of the lattices that were last fitted
    visits: int = 0  # evaluations
    heights: FloatArray = field(default_factory=lambda: np.empty(0))  # ln of the integrand at the nodes
    maxima: Maxima = field(init=False)
    images: tuple[Chart, list[tuple[IntArray, IntArray]]] | None = None  # symmetries of the lattice of that chart

    def __post_init__(self) -> None:
        self.maxima = Maxima(self.phi, self.n)

    @property
    def crowded(self) -> bool:
        """Whether there are so many nodes that a lattice fitted to the weight pays."""
        return len(self.index) > _MANY_NODES

    @property
    def charted(self) -> bool:
        """Whether the lattice is fitted to what the weight was: few nodes may be the sign that it has changed."""
        return self.chart is not None and len(self.chart.axes) == self.index.shape[1]

    def _chart(self, r: int) -> Chart:
        if self.chart is None or len(self.chart.axes) != r:
            return unit_chart(r, self.turns.shape[1:] == (r, r) and bool((self.turns < 0).any()))
        return self.chart

    def _places(self, index: IntArray) -> FloatArray:
        """Lattice nodes in the coordinates of the chart."""
        offset = self._chart(index.shape[1]).offset(self.rule.offset)
        return np.asarray(self.rule.beta * (index + offset))

    def _nodes(self, index: IntArray) -> FloatArray:
        """Lattice nodes beta (N, r)."""
        return self._chart(index.shape[1]).beta(self._places(index))

    def _nearest(self, beta: FloatArray) -> IntArray:
        """Indices of the lattice nodes next to beta (k, r)."""
        chart = self._chart(beta.shape[1])
        return np.round(chart.inverse(beta) / self.rule.beta - chart.offset(self.rule.offset)).astype(np.int64)

    def in_cells(self, beta: FloatArray) -> FloatArray:
        """(N, r) places of beta in units of the sides of cells, however long one of these is beside another."""
        return np.asarray(self._chart(beta.shape[1]).inverse(beta) / self.rule.beta)

    def split(self, beta: FloatArray, parts: int, size: float = 1.0) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Cells around beta (N, r), of this size along every axis in units of those of the lattice, in parts^r pieces
        each: their middles (k, r), ln of their volumes (k,) and edges (k, r, r)."""
        chart, ticks = self._chart(beta.shape[1]), size * ((np.arange(parts) + 0.5) / parts - 0.5)
        pieces = np.stack(np.meshgrid(*[ticks] * beta.shape[1], indexing="ij"), -1).reshape(-1, beta.shape[1])
        v = (chart.inverse(beta)[:, None] + self.rule.beta * pieces).reshape(-1, beta.shape[1])
        sides = np.column_stack([axis.slope(v[:, i]) for i, axis in enumerate(chart.axes)]) * (
            self.rule.beta * size / parts
        )
        return chart.beta(v), np.log(sides).sum(axis=1), sides[:, :, None] * chart.frame

    def _log_cells(self, index: IntArray) -> FloatArray:
        """(N,) ln of the volumes of the cells of lattice nodes, times the norm of N(beta; 0, 1)."""
        r = index.shape[1]
        unit = r * math.log(self.rule.beta / math.sqrt(2 * math.pi))
        return unit + self._chart(r).log_slope(self._places(index))

    def as_fine(self, other: LayerNodes) -> None:
        """Takes over where another layer, at another rule, has found its weight."""
        self.stretch, self.chart, self.axis, self.wider = other.stretch, other.chart, other.axis, other.wider
        self.sides = other.sides
        if len(other.index) and not other.regions:
            nodes = other._nodes(other._everywhere(other.index))
            self.index, self.heights = self._representatives(self._nearest(nodes)), np.empty(0)

    def _stretch(self, sides: BoolArray | None) -> None:
        """The lattice of the shared field wider, or that of two on some of their `sides` (2, 2)."""
        if sides is None:
            self.stretch *= 1.5
        else:
            self.sides = np.where(sides, 1.5 * self.sides, self.sides)
        if self.stretch * self.sides.max() > _MOST_STRETCH:
            raise NotCovered("the field that the classes of a layer share is too broad for the quadrature")

    def _farther(self, setting: Setting, grids: Sequence[FloatArray]) -> bool:
        """Whether nodes at the ends have their fields h beyond the lattices of these; `far` has them then.

        A soft layer has one maximum, and nodes far from it whose fields are strong.
        """
        if not setting.covariance.any():
            return False
        nodes = self._nodes(self._everywhere(self.index))
        b = nodes @ setting.root.T + setting.shift
        ends = np.unique([end(x) for end in (np.argmin, np.argmax) for x in (*b.T, *nodes.T)])
        h = self.maxima.fields(setting, b[ends])
        self.far = h.min(axis=0), h.max(axis=0)
        return any(low < grid[0] or grid[-1] < high for grid, low, high in zip(grids, *self.far))

    def _images(self, r: int) -> list[tuple[IntArray, IntArray]]:
        """(turn, shift) of the symmetries that the lattice has: index -> index @ turn.T + shift."""
        if self.regions or not len(self.turns) or self.turns.shape[1] != r:
            return [(np.eye(r, dtype=np.int64), np.zeros(r, dtype=np.int64))]
        chart = self._chart(r)
        if self.images is not None and self.images[0] is chart:
            return self.images[1]
        turns: IntArray = np.round(chart.frame @ self.turns @ chart.frame.T).astype(np.int64)
        offset = chart.offset(self.rule.offset)
        shifts = offset @ turns.transpose(0, 2, 1) - offset
        kept = np.abs(shifts - np.round(shifts)).max(axis=1) < 1e-9
        self.images = chart, list(zip(turns[kept], np.round(shifts[kept]).astype(np.int64)))
        return self.images[1]

    def _representatives(self, index: IntArray) -> IntArray:
        """One node of every orbit, once each: the one of the largest name."""
        images = self._images(index.shape[1])
        if len(images) < 2:
            return unique(index)
        each = np.array([index @ turn.T + shift for turn, shift in images])
        best = np.argmax([keys(one) for one in each], axis=0)
        return unique(each[best, np.arange(len(index))])

    def _everywhere(self, index: IntArray) -> IntArray:
        """All nodes of the orbits of representatives."""
        return unique(np.vstack([index @ turn.T + shift for turn, shift in self._images(index.shape[1])]))

    def node_orbits(self, beta: FloatArray) -> tuple[IntArray, IntArray]:
        """Of nodes beta (N, r): which (k,) are the first of their orbits, and the place of every node's own (N,) among
        these; each node by itself where they are none of this lattice."""
        index = self._nearest(beta)
        if np.abs(self._nodes(index) - beta).max(initial=0.0) > _ON_LATTICE * np.abs(beta).max(initial=1.0):
            every = np.arange(len(beta))
            return every, every
        names = np.max([keys(index @ turn.T + shift) for turn, shift in self._images(index.shape[1])], axis=0)
        _, first, place = np.unique(names, return_index=True, return_inverse=True)
        return first, place.ravel()

    def _often(self, index: IntArray) -> FloatArray:
        """(N,) how many nodes there are in the orbits of representatives."""
        names = np.sort([keys(index @ turn.T + shift) for turn, shift in self._images(index.shape[1])], axis=0)
        return 1.0 + (np.diff(names, axis=0) > 0).sum(axis=0)

    def _refitted(self, setting: Setting) -> bool:
        """Fits the lattice to the curvature of the weight at its nodes; whether it was changed."""
        r = self.index.shape[1]
        chart = self._chart(r)
        images = [self.index @ turn.T + shift for turn, shift in self._images(r)]
        index = np.vstack(images)
        first = np.unique(keys(index), return_index=True)[1]
        index, heights = index[first], np.tile(self.heights, len(images))[first]
        probes = node_probes(index, heights, self._places(index), chart, self.rule.beta)
        if probes is None and self.charted:  # too few nodes to tell
            return self._on_chart(None)
        if probes is None or not (too_coarse(probes, chart) or self._due("nodes", len(self.index))):
            return False
        # exp(g) has zeros at imaginary b.
        low, high = activation_range(self.phi)
        reach = (high - low) * float(np.linalg.norm(setting.root, axis=1).max())
        most = max(1.0, _ZEROS / max(reach, _NO_REACH))
        found = fitted_chart(probes, self.turns if self.turns.shape[1:] == (r, r) else np.eye(r)[None], most)
        if not (too_coarse(probes, chart) or saved(probes, found) > self._gain):
            return False
        return self._on_chart(found)

    def _on_chart(self, chart: Chart | None) -> bool:
        """The nodes on another lattice; true."""
        nodes = self._nodes(self._everywhere(self.index))
        self.chart = chart
        self.index, self.heights = self._representatives(self._nearest(nodes)), np.empty(0)
        return True

    @property
    def _gain(self) -> float:
        """How many times fewer nodes are worth another lattice: a coarse one is better than its nominal error."""
        return _GAIN[0] if self.rule.depth > _ROUGH_DEPTH else _GAIN[1]

    def _due(self, what: str, size: int) -> bool:
        """Whether a lattice is to be fitted although it is fine enough: seldom, and where it has grown."""
        due = self.visits & (self.visits - 1) == 0 or size > _GROWN * self.tried.get(what, 0)
        if due:
            self.tried[what] = size
        return due

    def _fit_axis(self, terms: FloatArray, top: float, fields: Fields) -> None:
        """Fits the lattice of the shared field to the terms (N, alpha) of nodes, the highest of all being `top`.

        Raises
        ------
        TooCoarse
            If the lattice that the terms are on was too coarse.
        """
        axis, step = fields.axis, self.rule.alpha
        probes = term_probes(terms, top, self.rule.depth + BEYOND, axis, axis.inverse(fields.alpha), step)
        # Rounding, which second differences of close values blow up, may ask for any spacing; the bound ends that.
        probes = probes._replace(precision=np.minimum(probes.precision, fields.steepest))
        if len(probes.x) < MANY_VALUES and self.axis is None:
            return
        coarse = too_coarse(probes)
        if len(probes.x) < MANY_VALUES:  # a fitted lattice, whose weight has moved: it is kept or given up
            self.axis = None if coarse else self.axis
        elif coarse or self._due("values", len(fields.alpha)):
            found = fitted_axis(probes, False, fields.smooth)
            if coarse or saved(probes, found) > self._gain:
                self.axis = found
        if coarse and self.refits < REFITS and self.rule.depth > _ROUGH_DEPTH:
            self.refits += 1
            raise TooCoarse

    def _fit_rows(self, view: View, beta: FloatArray, terms: FloatArray) -> None:
        """Fits the distance of rows to how smooth the tables are; terms (N, alpha) are relative to the highest.

        Raises
        ------
        TooCoarse
            If they were too far apart.
        """
        start, _ = view.stencils(beta)
        share, factor, wider = np.exp(np.minimum(terms, 0.0)), math.inf, math.inf
        # An error of order POINTS, which each rule may have according to its own distance of rows.
        rounding = _ROUNDING[0] if self.rule.depth > _ROUGH_DEPTH else _ROUNDING[1]
        allowed = _READ * (self.rule.rows / FINE.rows) ** POINTS + rounding * float(self.n.max())
        for c, table in view.tables.items():
            if table.rows.points == 1:
                return
            most = np.zeros_like(table.log_v)
            for e in np.flatnonzero(view.fields.kind == c):
                order = np.argsort(start[e], kind="stable")
                rows, first = np.unique(start[e][order], return_index=True)
                read = share if view.fields.plane is None else view.fields.plane.highest(share, int(e))
                most[rows] = np.maximum(most[rows], np.maximum.reduceat(read[order], first))
            found = spare(table.log_v, table.known, most, allowed)
            # Rows inside a short range are closer than `wider` says.
            unit = self.rule.rows * float(np.linalg.norm(view.setting.root[c]))
            used = float(table.rows.b[1] - table.rows.b[0]) / max(unit, 1e-300)
            factor, wider = min(factor, found), min(wider, min(0.9 * found, _WIDEN) * used)
        if not math.isfinite(factor):
            return
        self.wider = min(max(wider, 1.0), _WIDEST)
        if factor < _MISREAD and self.refits < REFITS and self.rule.depth > _ROUGH_DEPTH:
            self.refits += 1
            raise TooCoarse
