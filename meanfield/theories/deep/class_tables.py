"""One class of a layer as a function of its conjugate field b and the shared field alpha; its own field is summed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.deep.compiled.generated.site import KEYS, ORDERS, class_functions
from meanfield.theories.deep.compiled.kernels import contract, reach
from meanfield.theories.deep.fields import Fields
from meanfield.theories.deep.rows import Rows
from meanfield.theories.deep.rules import NotCovered, Rule, Setting, activation_range
from meanfield.theories.deep.site import site_derivatives, z_rule
from meanfield.validation import BoolArray, FloatArray, IntArray

__all__ = ["FEW", "MEANS", "ClassTable"]

# Columns of a table besides the class functions: orders by b and h of the derivatives of g that are multiplied; h.
MEANS = {
    "b": ((1, 0),),
    "b2": ((1, 0), (1, 0)),
    "bb": ((2, 0),),
    "h": ((0, 1),),
    "h2": ((0, 1), (0, 1)),
    "hh": ((0, 2),),
}
_STEEPEST = 1500.0  # nodes in b grow with it
_ROWS, _AT_ONCE = 48, 4096  # rows at a time, and rows times values of h
_APART = 8  # rows at a time that are as far apart as lattice nodes
_MOST_ROWS = 1_000_000
FEW = 48  # values of the shared field that are all computed for every row
_STRIDE = 6  # of more of them one in so many is computed, and the others where nodes need them


@dataclass(eq=False)
class ClassTable:
    """A class at some rows of b."""

    n: float
    rows: Rows
    fields: Fields
    index: int  # of the class
    nodes: FloatArray  # Chebyshev, in b
    bary: FloatArray
    g: FloatArray  # (nodes, h)
    derivatives: FloatArray  # (orders, nodes, h)
    log_v: FloatArray  # (rows, alpha) ln of the weight of the class, where it was computed
    done: BoolArray
    coarse: IntArray  # columns that are computed for all rows that are `done`
    begin: IntArray  # (rows,) columns from here
    end: IntArray  # to here are computed as well

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
        half = max(0.5 * (high - low), 1e-9)
        ratio = 3.0 / (half * max(supremum - infimum, 1e-9))  # nearest zeros of exp(g): i pi / (range of phi)
        growth = math.log(ratio + math.sqrt(1.0 + ratio**2))
        digits = 16.0 if rule.depth < 20 else 34.0
        size = max(8, math.ceil(digits / growth) + 4)
        theta = math.pi * (np.arange(size) + 0.5) / size
        nodes = 0.5 * (low + high) + half * np.cos(theta)
        bary = (-1.0) ** np.arange(size) * np.sin(theta)
        d, delta, h = float(setting.d[c]), float(setting.delta[c]), fields.h[c]
        rule_z = z_rule(phi, d, float(h.min()), float(h.max()), rule.z, max(abs(low), abs(high)))
        g, derivatives = site_derivatives(rule_z, nodes, h, d, delta)
        log_v = np.zeros((count, len(fields.alpha)))
        n_alpha = len(fields.alpha)
        coarse = np.unique(np.append(np.arange(0, n_alpha, 1 if n_alpha <= FEW else _STRIDE), n_alpha - 1))
        done, whole = np.zeros(count, dtype=bool), np.full(count, n_alpha if n_alpha <= FEW else 0)
        return cls(
            n, rows, fields, c, nodes, bary, g, derivatives, log_v, done, coarse, np.zeros_like(whole), whole,
        )  # fmt: skip

    def _interpolation(self, b: np.ndarray) -> FloatArray:
        difference = b[:, None] - self.nodes
        exact = difference == 0.0
        difference[exact] = 1.0
        weight = self.bary / difference
        weight[exact.any(axis=1)] = 0.0
        weight[exact] = 1.0
        return np.asarray(weight / weight.sum(axis=1, keepdims=True))

    def at(self, b: np.ndarray) -> FloatArray:
        """g (N, h) at any b (N,) of the table."""
        return np.asarray(self._interpolation(b) @ self.g)

    @property
    def sparse(self) -> bool:
        """Whether most values of the shared field are computed only where nodes need them."""
        return len(self.coarse) < len(self.fields.alpha)

    def _contract(
        self,
        g: FloatArray,
        parts: FloatArray,
        columns: IntArray | slice,
        span: tuple[IntArray, IntArray],
        log_v: FloatArray,
        inside: slice = slice(None),
    ) -> FloatArray:
        """Fills log_v (rows, columns) from span[0] to span[1] (rows,); the means of parts there, 0 elsewhere.

        g and parts are given at the h `inside` alone.
        """
        c, fields = self.index, self.fields
        means = np.zeros((*log_v.shape, parts.shape[2]))
        start, count = inside.start or 0, g.shape[1]
        contract(
            g, self.n, fields.log_prior[c][inside], fields.h[c][inside], fields.centre[c][columns], fields.precision[c],
            np.clip(fields.first[c][columns] - start, 0, count), np.clip(fields.last[c][columns] - start, 0, count),
            *span, parts, log_v, means,
        )  # fmt: skip
        return means

    def prepare(self, start: IntArray) -> None:
        """Fills the columns `coarse` of `log_v` where stencils that start at these rows (N,) read it."""
        missing = self.rows.needed(start)
        missing = missing[~self.done[missing]]
        if not len(missing):
            return
        columns = self.coarse
        for at in range(0, len(missing), 512):
            rows = missing[at : at + 512]
            g = self.at(self.rows.b[rows])
            found = np.empty((len(rows), len(columns)))
            span = np.zeros(len(rows), dtype=np.int64), np.full(len(rows), len(columns))
            self._contract(g, np.empty((*g.shape, 0)), columns, span, found)
            self.log_v[np.ix_(rows, columns)] = found
        self.done[missing] = True

    def refine(self, start: IntArray, begin: IntArray, end: IntArray) -> None:
        """Fills `log_v` where the stencils read it, from column begin (N,) to column end (N,)."""
        rows = self.rows.needed(start)
        at = np.searchsorted(rows, start)
        low, high = np.full(len(rows), len(self.fields.alpha)), np.zeros(len(rows), dtype=np.int64)
        for i in range(self.rows.points):  # rows of one stencil are neighbours in `rows` as well
            np.minimum.at(low, at + i, begin)
            np.maximum.at(high, at + i, end)
        wanted = (low < self.begin[rows]) | (high > self.end[rows])
        missing, low, high = rows[wanted], low[wanted], high[wanted]
        new = self.end[missing] == 0
        self.begin[missing] = np.where(new, low, np.minimum(low, self.begin[missing]))
        self.end[missing] = np.maximum(high, self.end[missing])
        every = slice(None)
        for first in range(0, len(missing), 512):
            rows = missing[first : first + 512]
            g = self.at(self.rows.b[rows])
            found = self.log_v[rows]
            self._contract(g, np.empty((*g.shape, 0)), every, (self.begin[rows], self.end[rows]), found)
            self.log_v[rows] = found

    def means(self, at: IntArray, curvature: bool, out: FloatArray) -> None:
        """Fills out (alpha, len(at), columns), of the rows `at` alone.

        Columns: means of all class functions, or of 1 alone, then of the products of MEANS, and of h.
        """
        wanted = range(len(ORDERS)) if curvature else sorted({ORDERS.index(o) for os in MEANS.values() for o in os})
        position = {ORDERS[order]: i for i, order in enumerate(wanted)}
        chosen = self.derivatives[list(wanted)]
        front = len(KEYS) if curvature else 1
        for rows in self._groups(at):
            matrix = self._interpolation(self.rows.b[rows])
            g = matrix @ self.g
            inside = self._reach(g, rows)
            g = np.ascontiguousarray(g[:, inside])
            found = np.tensordot(chosen[:, :, inside], matrix, (1, 1)).transpose(0, 2, 1).reshape(len(chosen), -1)
            parts = np.empty((g.size, front + len(MEANS) + 1))
            if curvature:
                class_functions(np.ascontiguousarray(found), self.n, parts)
            else:
                parts[:, 0] = 1.0
            for i, orders in enumerate(MEANS.values()):
                parts[:, front + i] = np.prod([found[position[order]] for order in orders], axis=0)
            parts[:, -1] = np.tile(self.fields.h[self.index][inside], len(rows))
            span, log_v = (self.begin[rows], self.end[rows]), np.empty((len(rows), len(out)))
            means = self._contract(g, parts.reshape(*g.shape, -1), slice(None), span, log_v, inside)
            places = np.searchsorted(at, rows)
            out[:, places[0] : places[-1] + 1] = means.transpose(1, 0, 2)

    def _groups(self, at: IntArray) -> Iterator[IntArray]:
        """Neighbouring rows, not too many at once: they need about the same h."""
        size = max(_ROWS, _AT_ONCE // len(self.fields.h[self.index])) if self.rows.points > 1 else _APART
        for run in np.split(at, np.flatnonzero(np.diff(at) > size) + 1):
            yield from (run[start : start + size] for start in range(0, len(run), size))

    def _reach(self, g: FloatArray, rows: IntArray) -> slice:
        """The h that count at rows (k,) with g (k, h)."""
        c, fields = self.index, self.fields
        return slice(*reach(
            g, self.n, fields.log_prior[c], fields.h[c], fields.centre[c], fields.precision[c],
            fields.first[c], fields.last[c], self.begin[rows], self.end[rows],
        ))  # fmt: skip
