"""One class of a layer as a function of its conjugate field b and the shared field alpha; its own field is summed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.deep.compiled.generated.site import KEYS, ORDERS, SAMPLE_KEYS, class_functions, sample_functions
from meanfield.theories.deep.compiled.kernels import contract, reach
from meanfield.theories.deep.layers.fields import Fields
from meanfield.theories.deep.layers.rows import Rows
from meanfield.theories.deep.layers.rules import NotCovered, Rule, Setting, activation_range
from meanfield.theories.deep.layers.single_sites import SingleSites
from meanfield.theories.deep.layers.work import spend
from meanfield.validation import BoolArray, FloatArray, IntArray

__all__ = ["MEANS", "SQUARES", "ClassTable", "PowersOfSums", "class_columns"]

# Products of powers of S, the sum of phi - centre over so many samples (and that centre) of a class, apart from those
# of the other factors.
PowersOfSums = tuple[tuple[tuple[tuple[float, float], int], ...], ...]

# Columns of a table besides the class functions: orders by b and h of the derivatives of g that are multiplied; h.
MEANS = {
    "b": ((1, 0),),
    "b2": ((1, 0), (1, 0)),
    "bb": ((2, 0),),
    "h": ((0, 1),),
    "h2": ((0, 1), (0, 1)),
    "hh": ((0, 2),),
}
SQUARES = {(0, 0): (2, 0), (0, 1): (1, 1), (1, 1): (0, 2)}  # and, after the sample functions, g_bb^2, g_bh^2, g_hh^2
_STEEPEST = 1500.0  # nodes in b grow with it
_ROWS, _AT_ONCE = 48, 4096  # rows at a time, and rows times values of h
_SUMMED = 0.1  # multiplications of a matrix product that adding one number in `contract` takes as long as
_APART = 8  # rows at a time that are as far apart as lattice nodes
_MOST_ROWS = 1_000_000
_FEW = 130  # values of the shared field that are all computed for every row
_STRIDE = 6  # of more of them one in so many is computed, and the others where nodes need them
_COARSE, _FAR = 4, 48.0  # which h a row needs is looked for at one in so many, down to so many nats
_MANY_H = 160  # from how many on
_TOGETHER = 64  # rows that are nodes of their own, up to which all are computed at once


def class_columns(
    every: FloatArray | None,
    derivatives: Mapping[tuple[int, int], FloatArray],
    h: FloatArray,
    n: float,
    samples: bool,
    sums: PowersOfSums = (),
) -> FloatArray:
    """(k, columns) what means of a class are taken of, at k fields: all class functions, or the means of `sums` in
    their place, or 1 alone where `every`, all derivatives of g in the order of ORDERS, is None; the products of MEANS;
    h; with `samples` all sample functions and SQUARES."""
    front = (1 if every is None else len(sums) or len(KEYS)) + len(MEANS) + 1
    parts = np.empty((len(h), front + (len(SAMPLE_KEYS) + len(SQUARES) if samples else 0)))
    if every is None:
        parts[:, 0] = 1.0
    elif sums:
        powers = {part: _powers(every, *part) for part in {part for factors in sums for part, _ in factors}}
        for i, factors in enumerate(sums):
            parts[:, i] = np.prod([powers[part][:, power] for part, power in factors], axis=0)
    else:
        class_functions(every, n, parts)
    for i, orders in enumerate(MEANS.values()):
        parts[:, front - 1 - len(MEANS) + i] = np.prod([derivatives[order] for order in orders], axis=0)
    parts[:, front - 1] = h
    if samples:
        squares = front + len(SAMPLE_KEYS)
        sample_functions(every, n, parts[:, front:squares])
        for i, order in enumerate(SQUARES.values()):
            parts[:, squares + i] = derivatives[order] ** 2
    return parts


def _powers(every: FloatArray, size: float, centre: float) -> FloatArray:
    """(k, 5) <S^i>, S the sum of phi - centre over so many samples: e^(-n g) d_b^i e^(n g), of any n."""
    found, about = np.empty((every.shape[1], len(KEYS))), every.copy()
    about[ORDERS.index((1, 0))] -= centre
    class_functions(about, size, found)
    return found[:, [KEYS.index((i, 0, 0, 0)) for i in range(5)]]


@dataclass(eq=False)
class ClassTable:
    """A class at some rows of b."""

    n: float
    rows: Rows
    fields: Fields
    index: int  # of the class
    sites: SingleSites
    log_v: FloatArray  # (rows, alpha, or values of a plane) ln of the weight of the class, where it was computed
    done: BoolArray
    coarse: IntArray  # columns that are computed for all rows that are `done`
    begin: IntArray  # (rows,) columns from here
    end: IntArray  # to here are computed as well
    inside: IntArray = field(default_factory=lambda: np.empty((0, 2), dtype=np.int64))  # h that given rows need

    @classmethod
    def build(
        cls, phi: Activation, n: float, rule: Rule, setting: Setting, fields: Fields, c: int, rows: Rows
    ) -> ClassTable:
        """The table of class c at these rows.

        Raises
        ------
        NotCovered
            If b is too large for the quadrature.
        """
        infimum, supremum = activation_range(phi)
        low, high, count = float(rows.b[0]), float(rows.b[-1]), len(rows.b)
        if count > _MOST_ROWS or max(abs(low), abs(high)) * (supremum - infimum) > _STEEPEST:
            raise NotCovered("the conjugate fields of a layer are too strong for the quadrature")
        together = rows.points == 1 and count <= _TOGETHER and len(fields.h[c]) < _MANY_H
        noise = float(setting.d[c]), float(setting.delta[c])
        sites = SingleSites(phi, rule, *noise, fields.h[c], (low, high), together=together)
        n_alpha = fields.columns(c)
        log_v = np.zeros((count, n_alpha))
        every = n_alpha <= _FEW or rows.points == 1 or fields.plane is not None
        coarse = np.unique(np.append(np.arange(0, n_alpha, 1 if every else _STRIDE), n_alpha - 1))
        done, whole = np.zeros(count, dtype=bool), np.full(count, n_alpha if every else 0)
        inside = np.tile([0, len(fields.h[c])], (count if rows.points == 1 else 0, 1))
        return cls(n, rows, fields, c, sites, log_v, done, coarse, np.zeros_like(whole), whole, inside)

    def at(self, b: np.ndarray) -> FloatArray:
        """g (N, h) at any b (N,) of the table."""
        return self.sites.interpolated(b)

    @property
    def sparse(self) -> bool:
        """Whether most values of the shared field are computed only where nodes need them."""
        return len(self.coarse) < self.log_v.shape[1]

    @property
    def known(self) -> BoolArray:
        """(rows, alpha) where `log_v` was computed, and is a number."""
        column = np.arange(self.log_v.shape[1])
        found = (column >= self.begin[:, None]) & (column < self.end[:, None])
        found[:, self.coarse] = True
        return np.asarray(found & self.done[:, None] & np.isfinite(self.log_v))

    def _contract(
        self,
        g: FloatArray,
        columns: IntArray | slice,
        span: tuple[IntArray, IntArray],
        log_v: FloatArray,
        inside: slice = slice(None),
        parts: tuple[FloatArray, IntArray, FloatArray] | None = None,
    ) -> None:
        """Fills log_v (rows, columns) from span[0] to span[1] (rows,).

        With parts (rows, h, k), a place (rows,) and means, row `place[row] + column` of the means is theirs. g and
        parts are given at the h `inside` alone.
        """
        c, fields = self.index, self.fields
        if parts is None:
            parts = np.empty((*g.shape, 0)), np.zeros(len(g), dtype=np.int64), np.empty((0, 0))
        start, count = inside.start or 0, g.shape[1]
        first = np.clip(fields.first[c][columns] - start, 0, count)
        last = np.clip(fields.last[c][columns] - start, 0, count)
        before = np.append(0, np.cumsum(last - first))  # values of h up to a column
        pairs = float((before[span[1]] - before[np.minimum(*span)]).sum())
        spend(_SUMMED * pairs * (1 + parts[0].shape[2]))
        contract(
            g, self.n, fields.log_prior[c][inside], fields.h[c][inside], fields.centre[c][columns], fields.precision[c],
            first, last, *span, parts[0], log_v, *parts[1:],
        )  # fmt: skip

    def prepare(self, start: IntArray) -> None:
        """Fills the columns `coarse` of `log_v` where stencils that start at these rows (N,) read it."""
        missing = self.rows.needed(start)
        missing = missing[~self.done[missing]]
        if not len(missing):
            return
        if self.sites.together:
            missing = np.arange(len(self.done))
        columns = self.coarse
        for rows in self._groups(missing, 512):
            b, inside = self.rows.b[rows], slice(None)
            if self.rows.points == 1:
                inside = self._needed_fields(b)
                self.inside[rows] = inside.start, inside.stop
            g = self.sites.values(b, inside) if self.rows.points == 1 else self.at(b)
            found = np.empty((len(rows), len(columns)))
            span = np.zeros(len(rows), dtype=np.int64), np.full(len(rows), len(columns))
            self._contract(g, columns, span, found, inside)
            self.log_v[rows[:, None], columns] = found
        self.done[missing] = True

    def _needed_fields(self, b: FloatArray) -> slice:
        """The h that count at some b (k,), from a coarser lattice of h."""
        c, fields, count = self.index, self.fields, len(self.fields.h[self.index])
        if count < _MANY_H or fields.precision[c] == 0.0:
            return slice(0, count)
        some = slice(0, count, _COARSE)
        centre = fields.centre[c]
        h, ends = fields.h[c][some], np.array([centre.min(), centre.max()])
        exponent = self.n * self.sites.values(b, some)[:, None] - 0.5 * fields.precision[c] * (h - ends[:, None]) ** 2
        counts = np.flatnonzero((exponent > exponent.max(axis=2, keepdims=True) - _FAR).any(axis=(0, 1)))
        return slice(max((counts[0] - 1) * _COARSE, 0), min((counts[-1] + 1) * _COARSE + 1, count))

    def refine(self, start: IntArray, begin: IntArray, end: IntArray) -> None:
        """Fills `log_v` where the stencils read it, from column begin (N,) to column end (N,)."""
        rows = self.rows.needed(start)
        at = np.searchsorted(rows, start)
        low, high = np.full(len(rows), self.log_v.shape[1]), np.zeros(len(rows), dtype=np.int64)
        for i in range(self.rows.points):  # rows of one stencil are neighbours in `rows` as well
            np.minimum.at(low, at + i, begin)
            np.maximum.at(high, at + i, end)
        wanted = (low < self.begin[rows]) | (high > self.end[rows])
        missing, low, high = rows[wanted], low[wanted], high[wanted]
        new = self.end[missing] == 0
        low = np.where(new, low, np.minimum(low, self.begin[missing]))
        high = np.maximum(high, self.end[missing])
        every = slice(None)
        for first in range(0, len(missing), 512):
            some = slice(first, first + 512)
            rows = missing[some]
            g = self.at(self.rows.b[rows])
            found = self.log_v[rows]
            self._contract(g, every, (low[some], high[some]), found)
            self.log_v[rows], self.begin[rows], self.end[rows] = found, low[some], high[some]

    def means(
        self, at: IntArray, curvature: bool, samples: bool, sums: PowersOfSums, place: IntArray, out: FloatArray
    ) -> None:
        """Fills out[place[row] + alpha] for the rows `at`, which are `done`, and the alpha that they have.

        Columns: means of those of `class_columns`.
        """
        wanted = range(len(ORDERS)) if curvature else sorted({ORDERS.index(o) for os in MEANS.values() for o in os})
        size = max(_ROWS, _AT_ONCE // len(self.fields.h[self.index]))
        for rows in self._groups(at, size):
            g, found, inside = self._derivatives(rows, list(wanted))
            derivatives = {ORDERS[order]: row for order, row in zip(wanted, found)}
            h = np.tile(self.fields.h[self.index][inside], len(rows))
            parts = class_columns(found if curvature else None, derivatives, h, self.n, samples, sums)
            span, log_v = (self.begin[rows], self.end[rows]), np.empty((len(rows), self.log_v.shape[1]))
            self._contract(g, slice(None), span, log_v, inside, (parts.reshape(*g.shape, -1), place[rows], out))

    def _derivatives(self, rows: IntArray, wanted: list[int]) -> tuple[FloatArray, FloatArray, slice]:
        """g (rows, h), its derivatives (wanted, rows h), and which h these are."""
        b = self.rows.b[rows]
        if self.rows.points == 1:
            inside = slice(int(self.inside[rows, 0].min()), int(self.inside[rows, 1].max()))
            g, found = self.sites.derivatives(b, inside, max(sum(ORDERS[order]) for order in wanted))
            return g, np.ascontiguousarray(found[wanted].reshape(len(wanted), -1)), inside
        g = self.at(b)
        inside = self._reach(g, rows)
        g = np.ascontiguousarray(g[:, inside])
        return g, self.sites.interpolated_derivatives(b, inside, wanted), inside

    def _groups(self, at: IntArray, size: int) -> Iterator[IntArray]:
        """Neighbouring rows, not too many at once: they need about the same h."""
        if self.sites.together:
            yield at
            return
        size = size if self.rows.points > 1 else _APART
        for run in np.split(at, np.flatnonzero(np.diff(at) > size) + 1):
            yield from (run[start : start + size] for start in range(0, len(run), size))

    def _reach(self, g: FloatArray, rows: IntArray) -> slice:
        """The h that count at rows (k,) with g (k, h)."""
        c, fields = self.index, self.fields
        return slice(*reach(
            g, self.n, fields.log_prior[c], fields.h[c], fields.centre[c], fields.precision[c], fields.first[c],
            fields.last[c], self.begin[rows], self.end[rows],
        ))  # fmt: skip
