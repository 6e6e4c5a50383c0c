"""The weight of a layer at its nodes: class tables, and the terms that every value of the shared fields adds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from meanfield.theories.deep.compiled.kernels import add_log, log_sum, plane_terms, prior_terms, table_lines
from meanfield.theories.deep.layers.class_tables import ClassTable
from meanfield.theories.deep.layers.fields import Fields, Plane
from meanfield.theories.deep.layers.nodes import LayerNodes
from meanfield.theories.deep.layers.rows import Rows, even_rows, given_rows
from meanfield.theories.deep.layers.rules import Setting
from meanfield.theories.deep.layers.sums import BEYOND, PAIRS_BEYOND, View
from meanfield.theories.deep.layers.work import spend
from meanfield.validation import BoolArray, FloatArray, IntArray

__all__ = ["BLOCK", "LayerTerms", "Narrow"]

BLOCK, _PER_TERM = 2_000_000, 8.0  # numbers per temporary array, multiplications of a term
_ROWS_INSIDE = 24.0  # rows in the range of a table, at least, so that those around it do not lie far out
_ROUNDED = 1e-9  # of the standard deviation of b under the prior, by which bounds are wider than their nodes
_EDGE, _LIGHT = 2.0, 0.8  # nats that ends may be heavier than the lightest node; share from which missed ones are light
_WIDE = 4  # of the plane of two shared fields one node in so many along each axis is looked at first
_FEW_PAIRS = 30_000  # values of two shared fields, up to which their lattice grows on all sides at once
_ROUGH, _PAIRS_ROUGH = 6.0, 3.0  # nats that terms are uncertain by where shared fields are looked at here and there


class Narrow(Exception):
    """The lattice of the shared field does not cover its weight; `heavy`: nodes may have been missed. `sides` (2, 2):
    where one of two, of many nodes, does not."""

    def __init__(self, heavy: bool, sides: BoolArray | None) -> None:
        super().__init__()
        self.heavy, self.sides = heavy, sides


@dataclass(eq=False)
class LayerTerms(LayerNodes):
    """Evaluates the weight of a layer."""

    def _view(self, setting: Setting, fields: Fields, low: FloatArray, high: FloatArray, between: bool = False) -> View:
        """Tables that cover b between the bounds, at nodes of the lattice, and with `between` everywhere."""
        low, high = low.copy(), high.copy()
        for c in set(fields.kind.tolist()):
            like = fields.kind == c
            low[like], high[like] = low[like].min(), high[like].max()
        kinds = sorted(set(fields.kind.tolist()))
        if setting.root.shape[1] == 1 and not between:
            rows = {c: self._own_rows(setting, np.flatnonzero(fields.kind == c), low[c], high[c]) for c in kinds}
        else:
            rows = {}
            for c in kinds:
                unit = math.sqrt(float(setting.root[c] @ setting.root[c]))
                step = unit * self.rule.rows
                step = max(step, min(step * self.wider, float(high[c] - low[c]) / _ROWS_INSIDE), 1e-12)
                rows[c] = even_rows(float(low[c]), float(high[c]), step)
        tables = {c: self._table(setting, fields, c, rows[c]) for c in kinds}
        return View(setting, fields, tables, low, high)

    def _table(self, setting: Setting, fields: Fields, c: int, rows: Rows) -> ClassTable:
        return ClassTable.build(self.phi, float(self.n[c]), self.rule, setting, fields, c, rows)

    def _own_rows(self, setting: Setting, like: IntArray, low: float, high: float) -> Rows:
        """Those of the lattice nodes themselves, of one conjugate field, for classes of one kind."""
        step, offset = self.rule.beta, float(self._chart(1).offset(self.rule.offset)[0])
        found = [np.zeros(1)]
        units = step * setting.root[like, 0]
        # Nodes are those of all classes: of one whose target is nearly 0 the bounds of b are those of the others.
        most = max(abs(low), abs(high)) / max(float(np.abs(units).max()), 1e-300)
        for unit in units[units != 0.0]:
            first, last = np.clip(sorted((low / unit, high / unit)), -most, most)
            index = np.arange(math.floor(first) - 2, math.ceil(last) + 3)
            found.append(unit * (index + offset))
        return given_rows(np.concatenate(found), 1e-9 * float(np.abs(units).max()))

    def _terms(self, view: View, beta: FloatArray) -> FloatArray:
        """(N, alpha) ln of the weight of lattice nodes and shared fields; -inf where it is known to be negligible."""
        start, weight = view.stencils(beta)
        outer = -0.5 * (beta**2).sum(axis=1)
        for c, table in view.tables.items():
            table.prepare(start[view.fields.kind == c].ravel())
        if view.fields.plane is not None:
            return self._plane_terms(view, view.fields.plane, outer, start, weight)
        looked_at = 0
        if view.table(0).sparse:
            begin, end = self._window(view, outer, start, weight)
            looked_at = len(view.table(0).coarse)
        else:
            begin, end = np.zeros(len(beta), dtype=np.int64), np.full(len(beta), len(view.fields.alpha))
        spend(_PER_TERM * len(self.n) * float((end - begin + looked_at).sum()))
        total = prior_terms(outer, view.fields.log_alpha, begin, end)
        for c in range(len(self.n)):
            add_log(start[c], weight[c], view.table(c).log_v, begin, end, total)
        return np.asarray(total)

    def _plane_terms(
        self, view: View, plane: Plane, outer: FloatArray, start: IntArray, weight: FloatArray
    ) -> FloatArray:
        """The same for two shared fields: a node needs a window of the plane, found on a wider grid of it."""
        widths = [table.shape[1] for table in (view.table(c).log_v for c in range(len(self.n)))]
        ends = np.cumsum([0, *widths])
        lines = np.empty((len(outer), ends[-1]))
        for c in range(len(self.n)):
            table_lines(start[c], weight[c], view.table(c).log_v, lines[:, ends[c] : ends[c + 1]])
        first = plane.first + ends[:-1, None]
        log_alpha = view.fields.log_alpha
        rows, columns = (np.unique(np.append(np.arange(0, size, _WIDE), size - 1)) for size in plane.shape)
        some = (rows[:, None] * plane.shape[1] + columns).ravel()
        whole = np.tile([0, len(rows), 0, len(columns)], (len(outer), 1))
        rough = np.empty((len(outer), len(some)))
        plane_terms(lines, first[:, some], plane.share[:, some], outer, log_alpha[some], len(columns), whole, rough)
        counts = self._counts(view, rough, PAIRS_BEYOND + _PAIRS_ROUGH).reshape(-1, len(rows), len(columns))
        along, across = np.asarray(counts.any(axis=2)), np.asarray(counts.any(axis=1))
        window = np.column_stack([*_between(along, rows), *_between(across, columns)])
        number = float(((window[:, 1] - window[:, 0]) * (window[:, 3] - window[:, 2])).sum())
        spend(_PER_TERM * len(self.n) * (number + rough.size))
        total = np.empty((len(outer), len(log_alpha)))
        plane_terms(lines, first, plane.share, outer, log_alpha, plane.shape[1], window, total)
        return total

    def _counts(self, view: View, rough: FloatArray, beyond: float) -> BoolArray:
        """Which of some terms (N, k) of nodes are heavy enough, so many nats `beyond` nodes."""
        # Of a node that is lighter than the lightest that counts the highest term is enough.
        view.highest = max(view.highest, float(rough.max()))
        enough = np.minimum(rough.max(axis=1), view.highest - self.rule.depth - beyond)
        found: BoolArray = rough >= enough[:, None]
        return found

    def _window(self, view: View, outer: FloatArray, start: IntArray, weight: FloatArray) -> tuple[IntArray, IntArray]:
        """First and last shared field + 1 that count for every node (N,), from those that all rows have."""
        columns = view.table(0).coarse
        rough = outer[:, None] + view.fields.log_alpha[columns]
        none, whole = np.zeros(len(outer), dtype=np.int64), np.full(len(outer), len(columns))
        some = {c: np.ascontiguousarray(table.log_v[:, columns]) for c, table in view.tables.items()}
        for c in range(len(self.n)):
            add_log(start[c], weight[c], some[int(view.fields.kind[c])], none, whole, rough)
        begin, end = _between(self._counts(view, rough, BEYOND + _ROUGH), columns)
        for c in range(len(self.n)):
            view.table(c).refine(start[c], begin, end)
        return begin, end

    def _log_weight(self, view: View, beta: FloatArray) -> FloatArray:
        """(N,) ln of the weight of lattice nodes, fields summed over."""
        return np.concatenate([_log_sum(terms) for terms in self._blocks(view, beta)])

    def _blocks(self, view: View, beta: FloatArray) -> Iterator[FloatArray]:
        size = max(16, BLOCK // len(view.fields.alpha))
        for i in range(0, len(beta), size):
            yield self._terms(view, beta[i : i + size])

    def _covered(self, view: View, beta: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
        """ln of the weight of all lattice nodes, and its terms (N, alpha) if these are not too many to keep.

        Raises
        ------
        Narrow
            If more than a negligible part of it is at an end of the lattice of the shared field.
        """
        rims = view.fields.rims
        found, ends, kept = [], np.full(len(rims), -math.inf), []
        for terms in self._blocks(view, beta):
            found.append(_log_sum(terms))
            ends = np.maximum(ends, [terms[:, rim].max() for rim in rims])
            kept.append(terms)
            if len(beta) > len(terms):
                kept.clear()
        weight = np.concatenate(found)
        ends -= float(weight.max())
        beyond = ends > _EDGE - self.rule.depth
        if len(view.fields.alpha) > 1 and beyond.any():
            many = view.fields.plane is not None and len(view.fields.alpha) > _FEW_PAIRS
            sides = beyond.reshape(2, 2) if many else None
            raise Narrow(bool(ends.max() > -_LIGHT * self.rule.depth), sides)
        return weight, kept

    def _bounds(self, setting: Setting, beta: FloatArray, margin: float) -> tuple[FloatArray, FloatArray]:
        b = beta @ setting.root.T + setting.shift
        extra = (margin + _ROUNDED) * np.sqrt((setting.root**2).sum(axis=1))
        return b.min(axis=0) - extra, b.max(axis=0) + extra

    def _reached(self, view: View, beta: FloatArray) -> bool:
        low, high = self._bounds(view.setting, beta, 0.0)
        return bool((low >= view.low).all() and (high <= view.high).all())


def _between(counts: BoolArray, at: IntArray) -> tuple[IntArray, IntArray]:
    """From where to where + 1 a line is needed of which the places `at` (k,) were looked at and count (N, k) or not:
    between the last one that counts and the next one there may be more."""
    begin = at[np.maximum(np.argmax(counts, axis=1) - 1, 0)]
    last = np.minimum(len(at) - np.argmax(counts[:, ::-1], axis=1), len(at) - 1)
    return begin, at[last] + 1


def _log_sum(terms: FloatArray) -> FloatArray:
    """ln of the sum over the shared field; nothing far out, where no field h of the lattice is."""
    found = log_sum(terms)
    return np.where(np.isnan(found), -math.inf, found)
