"""Averages of a layer from the weights of its nodes: sums of products of class means over nodes and shared field."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from meanfield.theories.deep.class_tables import MEANS, ClassTable
from meanfield.theories.deep.compiled.kernels import accumulate
from meanfield.theories.deep.fields import Fields
from meanfield.theories.deep.products import Products
from meanfield.theories.deep.rules import Averages, Setting
from meanfield.validation import FloatArray, IntArray

__all__ = ["BEYOND", "Sums", "View"]

BEYOND = 9.0  # nats below the lightest node that counts, for single terms


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
        b = beta @ self.setting.root.T
        starts, weights = zip(*(self.table(c).rows.stencil(b[:, c]) for c in range(b.shape[1])))
        return np.array(starts), np.array(weights)


class Sums:
    """Sums over the nodes of a layer, block by block.

    Means of the class functions are those of the rows that `start` (C, N) reads.
    """

    def __init__(self, view: View, products: Products, start: IntArray, curvature: bool) -> None:
        self.view, self.products = view, products
        columns = products.offset + len(MEANS) + 1
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
            table.means(rows, curvature, place, self.means)

    def per_node(self, start: IntArray, weight: FloatArray, terms: FloatArray, top: float, depth: float) -> FloatArray:
        """(N, products) of the nodes whose terms (N, alpha) these are, in units of exp(top)."""
        out, products = np.empty((len(terms), len(self.products.table))), self.products.table
        accumulate(start, weight, self.kind, self.place, self.means, terms, top, depth + BEYOND, products, out)
        return out

    def averages(
        self, totals: FloatArray, log_z: float, moments: tuple[FloatArray, FloatArray] | None, curvature: bool
    ) -> Averages:
        """From sums of products in units of Z; `moments` as `Products.second_derivatives` takes them."""
        second = self.products.second_derivatives(totals, moments) if curvature else None
        part = {name: totals[rows] for name, rows in self.products.averages.items()}
        return Averages(log_z, part["kernel"], part["d"], part["tilde"], part["delta"], second)
