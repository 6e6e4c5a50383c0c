"""Averages of a layer from the weights of its nodes: sums of products of class means over nodes and shared field."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np

from meanfield.theories.deep.compiled.generated.site import SAMPLE_KEYS
from meanfield.theories.deep.compiled.kernels import accumulate, accumulate_plane
from meanfield.theories.deep.layers.class_tables import MEANS, SQUARES, ClassTable
from meanfield.theories.deep.layers.fields import Fields
from meanfield.theories.deep.layers.products import Products
from meanfield.theories.deep.layers.rules import Averages, Setting
from meanfield.theories.deep.layers.work import spend
from meanfield.validation import FloatArray, IntArray

__all__ = ["BEYOND", "PAIRS_BEYOND", "Sums", "Totals", "View", "combined", "tilts"]

_PRODUCT = 0.4  # what a multiplication counts where a few of them are done at once
BEYOND, PAIRS_BEYOND = 9.0, 4.0  # nats below the lightest node that counts, for single terms, and those of a plane


@dataclass(eq=False)
class View:
    """Fields and class tables of one setting, which cover part of the lattice; the highest term that was met."""

    setting: Setting
    fields: Fields
    tables: dict[int, ClassTable]  # by the first class of a kind
    low: FloatArray
    high: FloatArray
    highest: float = -math.inf

    def table(self, c: int) -> ClassTable:
        """That of class c."""
        return self.tables[int(self.fields.kind[c])]

    def stencils(self, beta: FloatArray) -> tuple[IntArray, FloatArray]:
        """First rows (C, N), and weights (C, N, points), with which the tables are read at nodes."""
        b = beta @ self.setting.root.T + self.setting.shift
        starts, weights = zip(*(self.table(c).rows.stencil(b[:, c]) for c in range(b.shape[1])))
        return np.array(starts), np.array(weights)


class Sums:
    """Sums over the nodes of a layer, block by block.

    Means of the class functions are those of the rows that `start` (C, N) reads.
    """

    def __init__(self, view: View, products: Products, start: IntArray) -> None:
        self.view, self.products = view, products
        columns = products.offset + len(MEANS) + 1 + (len(SAMPLE_KEYS) + len(SQUARES) if products.samples else 0)
        needed = [table.rows.needed(start[view.fields.kind == c].ravel()) for c, table in view.tables.items()]
        tables = list(view.tables.values())
        self.kind = np.searchsorted(list(view.tables), view.fields.kind)
        self.place = np.zeros((len(tables), max(len(table.rows.b) for table in tables)), dtype=np.int64)
        used = 0
        for place, rows, table in zip(self.place, needed, tables):
            width = table.end[rows] - table.begin[rows]
            place[rows] = used + np.cumsum(width) - width - table.begin[rows]
            used += int(width.sum())
        self.means = np.empty((used, columns))  # of row r of a table at shared field j in row place[r] + j
        for place, rows, table in zip(self.place, needed, tables):
            table.means(rows, products.curvature, products.samples, products.sums, place, self.means)

    def per_node(self, start: IntArray, weight: FloatArray, terms: FloatArray, top: float, depth: float) -> FloatArray:
        """(N, products) of the nodes whose terms (N, alpha) these are, in units of exp(top)."""
        out, products = np.empty((len(terms), len(self.products.table))), self.products.table
        plane, given = self.view.fields.plane, (start, weight, self.kind, self.place, self.means)
        if plane is None:
            accumulate(*given, terms, top, depth + BEYOND, products, out)
        else:
            size, wide = self.means.shape[1], plane.share.shape[2]
            one = size * wide * len(start) + products.size
            spend(_PRODUCT * one * float(np.count_nonzero(terms >= top - depth - PAIRS_BEYOND)))
            accumulate_plane(*given, plane.first, plane.share, terms, top, depth + PAIRS_BEYOND, products, out)
        return out


@dataclass(frozen=True, eq=False)
class Totals:
    """Sums over nodes of all products (products,), of beta times them (r, products) and of beta beta^T times them, in
    units of exp(top); where asked for, ln of the weight of every node and its own products (N, products), in
    pieces; those of the nodes of every code."""

    top: float
    plain: FloatArray
    once: FloatArray
    twice: FloatArray
    rows: tuple[FloatArray, ...] = ()
    log_weight: FloatArray = field(default_factory=lambda: np.empty(0))
    codes: dict[str, Totals] = field(default_factory=dict)

    def averages(self, products: Products) -> Averages:
        """Averages, and what else `products` has."""
        norm = float(self.plain[products.one])
        total = self.plain / norm
        by_readout = (self.once / norm, self.twice / norm) if products.by_readout else None
        curved = products.curvature or products.by_readout
        second = products.second_derivatives(total, by_readout) if curved else None
        samples = products.by_sample(total, by_readout) if products.samples else None
        part = {name: total[rows] for name, rows in products.averages.items()}
        log_z = self.top + math.log(norm)
        codes = {word: some.averages(products) for word, some in self.codes.items()}
        return Averages(log_z, part["kernel"], part["d"], part["tilde"], part["delta"], second, samples, codes)


def combined(parts: list[tuple[float, Totals]]) -> Totals:
    """Sum of several weights, each times a number."""
    top = parts[0][1].top
    scaled = [(factor * math.exp(found.top - top), found) for factor, found in parts]
    plain, once, twice = (
        np.asarray(sum(factor * getattr(found, name) for factor, found in scaled))
        for name in ("plain", "once", "twice")
    )
    return Totals(top, plain, once, twice)


def tilts(change: FloatArray, unit: FloatArray) -> list[tuple[float, FloatArray]]:
    """Factors and shifts of b, for `combined`, that add sum_ce change_ce d^2 / db_c db_e / 2 of the weight: what a
    change of the covariance of b adds (Price). By differences of size unit (C,), extrapolated once."""
    found: list[tuple[float, FloatArray]] = []
    classes = np.eye(len(unit))
    for c, e in itertools.combinations_with_replacement(range(len(unit)), 2):
        if change[c, e] == 0.0:
            continue
        for size, share in ((1.0, -1.0 / 3.0), (0.5, 4.0 / 3.0)):
            one, two = size * unit[c] * classes[c], size * unit[e] * classes[e]
            if c == e:
                factor = 0.5 * share * change[c, c] / (size * unit[c]) ** 2
                found += [(factor, one), (factor, -one), (-2.0 * factor, 0.0 * one)]
            else:
                factor = 0.25 * share * change[c, e] / (size**2 * unit[c] * unit[e])
                found += [(factor, one + two), (factor, -one - two), (-factor, one - two), (-factor, two - one)]
    return found
