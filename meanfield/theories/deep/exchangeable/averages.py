"""Averages of a layer whose classes are exchangeable: of one size, with k~ and the covariance of h of two numbers each.

With k~ = kappa 1 + omega 11^T and sigma^2 Kbar = D 1 + u 11^T

    N(b) ~ exp(-gamma S^2 / 2) prod_c exp(-b_c^2 / 2 kappa),   S = sum_c b_c,   gamma = (1 / lambda - 1 / kappa) / C,

lambda = kappa + C omega what classes share, and h_c = u^(1/2) alpha + D^(1/2) eta_c: given alpha ~ N(0, 1) and S the
classes are independent, each one the same function of its own b, with its own h summed over. Their sum S is distributed
as a C-fold convolution of that function, of positive numbers, whatever the sign of omega (THEORY.md, "Exchangeable
classes"). Derivatives go through convolutions as coefficients of polynomials (`monomials.py`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy.linalg import block_diag

from meanfield.activations.activation import Activation
from meanfield.theories.deep.compiled.generated.site import KEYS
from meanfield.theories.deep.exchangeable.monomials import (
    OPERATORS,
    Algebra,
    averages_algebra,
    class_coefficients,
    curvature_algebra,
    word_algebra,
)
from meanfield.theories.deep.exchangeable.nodes import ExchangeNodes, OrbitMaxima, nodes_of
from meanfield.theories.deep.exchangeable.sums import contracted
from meanfield.theories.deep.layers.class_tables import MEANS
from meanfield.theories.deep.layers.products import pairs_of
from meanfield.theories.deep.layers.rules import Averages, Detail, NotCovered, Rule, Setting
from meanfield.validation import FloatArray

__all__ = ["ExchangeLayer", "Orbit"]

_FINER = 0.25  # spacing of b
_CANCELLED = 1e7  # sum of sizes in units of the sum, of an imaginary shared field; times rounding its error
_ONE = KEYS.index((0, 0, 0, 0))  # column of class functions


class Orbit(NamedTuple):
    """Neurons that are active on so many classes, whichever: their share, and of an inactive and an active class the
    mean (2,) of b, b^2, phi and phi^2 of a sample, and of two classes that of b b' (2, 2)."""

    active: int
    share: float
    field: FloatArray
    square: FloatArray
    product: FloatArray
    activation: FloatArray
    activation_square: FloatArray


@dataclass(eq=False)
class ExchangeLayer:
    """One layer of C exchangeable classes, as `Layer` has it for few classes of any kind."""

    phi: Activation
    n: FloatArray
    rule: Rule
    last: bool = False
    turns: FloatArray = field(default_factory=lambda: np.empty((0, 0, 0)))

    def __post_init__(self) -> None:
        self.maxima = OrbitMaxima(self.phi, self.n)

    def as_fine(self, other: ExchangeLayer) -> None:
        """Every setting has lattices of its own."""

    def nodes(self, setting: Setting) -> ExchangeNodes:
        """Those of a setting."""
        return nodes_of(self.phi, self.n, self.rule, self.maxima, setting)

    def word_nodes(self, setting: Setting) -> ExchangeNodes:
        """Those for words: finer in a layer without fields h, which smooth cuts in b."""
        if not setting.covariance.any():
            with contextlib.suppress(NotCovered):
                finer = self.rule._replace(beta=_FINER * self.rule.beta)
                return nodes_of(self.phi, self.n, finer, self.maxima, setting)
        return self.nodes(setting)

    def evaluate(
        self,
        setting: Setting,
        *,
        grow: bool = True,
        detail: bool = False,
        curvature: bool | str = False,
        samples: bool = False,
    ) -> tuple[Averages, Detail | None]:
        """Averages of a layer; `grow` has no meaning, as every setting has lattices of its own.

        Raises
        ------
        NotCovered
            If they would need too many nodes.
        """
        if samples or detail:
            raise NotCovered("nodes of a layer of exchangeable classes are not listed")
        nodes = self.nodes(setting)
        algebra = (curvature_algebra if curvature else averages_algebra)(nodes.numbers.fields)
        coded = self.last and bool(curvature)
        factor, column = class_coefficients(algebra)
        columns = nodes.columns(4 if curvature else 2)
        top, totals = self.totals(nodes, algebra, columns, lambda v: factor * v[..., column], coded)
        whole = self._averages(setting, nodes, algebra, top, totals.sum(axis=0), bool(curvature))
        if coded:
            words = ["1" * k + "0" * (nodes.count - k) for k in range(nodes.count + 1)]
            heavy = [(word, part) for word, part in zip(words, totals) if part[0] > 0.0]
            codes = {word: self._averages(setting, nodes, algebra, top, part, True) for word, part in heavy}
            whole = replace(whole, codes=codes)
        return whole, None

    def parts(self, nodes: ExchangeNodes, columns: FloatArray, split: bool) -> Iterator[tuple[float, FloatArray]]:
        """For every alpha ln of a scale of the product over classes, and in its units the weight of a class times its
        class functions (parts, B, K): two parts where that is to be `split`, of neurons that are inactive and active on
        the class, and in a sector."""
        share = None
        if split or nodes.sector is not None:
            on = nodes.means()[1] if nodes.on is None else nodes.on
            share = np.stack([1.0 - on, on])
        for near, terms in nodes.terms():
            weights, log = nodes.weights(terms, None if share is None else share[:, :, near])
            found = [np.matmul(weight[:, None, :], columns[:, near])[:, 0] for weight in weights]
            yield log, nodes.spread(np.stack(found))

    def totals(
        self,
        whole: ExchangeNodes,
        algebra: Algebra,
        columns: FloatArray,
        coefficients: Callable[[FloatArray], FloatArray],
        split: bool,
    ) -> tuple[float, FloatArray]:
        """ln Z, and in units of Z the coefficients (parts, M) of the product over classes, by how many of them are in
        the second part where that is to be `split`; `coefficients` has those (parts, B, M) of one class, from its class
        functions (parts, B, K) times their weight."""
        found = []
        for nodes in whole.apart():
            parts = self.parts(nodes, columns, split)
            for i, (prior, (log, v)) in enumerate(zip(nodes.prior(), parts)):
                one = coefficients(v)
                weight = nodes.by_part(one[..., 0])
                height, law = nodes.law(i, weight)
                total = contracted(
                    *nodes.halves(np.ascontiguousarray(one.transpose(0, 2, 1)), algebra.products), law, algebra
                )
                if nodes.sector is not None:
                    here, total = total[0], np.zeros((nodes.count + 1, total.shape[1]), dtype=total.dtype)
                    total[nodes.sector.active] = math.comb(nodes.count, nodes.sector.active) * here
                found.append((prior + height + log, total))
        top = max(log for log, _ in found)
        scaled = np.array([math.exp(log - top) * total for log, total in found])
        total = scaled.sum(axis=0)
        norm = float(total[:, 0].real.sum())
        sizes = float(np.abs(scaled[:, :, 0].sum(axis=1)).sum())
        if not norm > 0.0 or (whole.numbers.common < 0.0 and sizes > _CANCELLED * norm):
            raise NotCovered("the field that classes share in a layer cancels too much")
        return top + math.log(norm), np.ascontiguousarray(total.real) / norm

    def _averages(
        self, setting: Setting, nodes: ExchangeNodes, algebra: Algebra, top: float, total: FloatArray, curvature: bool
    ) -> Averages:
        """From the coefficients (M,) of all neurons or of those of one code."""
        share, s, at = total[0], nodes.numbers, algebra.index
        count = s.classes
        total = total / share

        def matrix(mark: str, bent: str, shift: str) -> tuple[FloatArray, FloatArray]:
            own, rest = total[at(**{mark: 1})] / count, total[at(**{bent: 1})] / count
            both = (2.0 * total[at(**{shift: 2})] / s.n**2 - count * (own + rest / s.n)) / (count * (count - 1))
            return np.full((count, count), both) + (own - both) * np.eye(count), np.full(count, rest)

        kernel, d = matrix("b2", "bb", "x")
        tilde, delta = matrix("h2", "hh", "y") if s.fields else (np.zeros((count, count)), np.zeros(count))
        second = self._second(setting, nodes, algebra, total) if curvature else None
        return Averages(top + math.log(share), kernel, d, tilde, delta, second)

    def _second(self, setting: Setting, nodes: ExchangeNodes, algebra: Algebra, total: FloatArray) -> FloatArray:
        """Second derivatives of ln Z in the order that `Averages` has: those by the numbers of this layer, spread over
        the entries that are equal."""
        s, count, at = nodes.numbers, nodes.count, algebra.index
        names = OPERATORS if s.fields else OPERATORS[:2]
        shifts = {"b": "x", "h": "y"}
        # Parameters: of every operator, and after those of variances what classes share.
        kinds = [kind for name in names for kind in ((name, "shared") if name in shifts else (name,))]
        labels, last = [], ""
        for kind in kinds:
            labels.append((shifts[last], 2) if kind == "shared" else (kind, 1))
            last = kind
        size = len(labels)
        slope, raw = np.empty(size), np.empty((size, size))
        for i, (one, often) in enumerate(labels):
            slope[i] = total[at(**{one: often})]
            for j, (two, other) in enumerate(labels):
                if one == two:
                    raw[i, j] = total[at(**{one: 2 * often})] * (2.0 if often == 1 else 6.0)
                else:
                    raw[i, j] = total[at(**{one: often, two: other})]
        second = raw - np.outer(slope, slope)
        # kappa = entry on the diagonal less one beside it, omega = the latter
        turn = np.eye(size)
        for i, (one, _) in enumerate(labels):
            if one in ("x", "y"):
                turn[i - 1, i] = -1.0
        second = turn.T @ second @ turn
        pairs = pairs_of(count)
        entries = np.array([[c == e, c != e] for c, e in pairs], dtype=float)
        spread_entries, spread_one = np.linalg.pinv(entries), np.full((1, count), 1.0 / count)
        blocks = []
        for kind in names:
            blocks.append(spread_entries if kind in shifts else spread_one)
        if self.last:
            blocks[0] = self._by_root(setting)
        spread = block_diag(*blocks)
        whole = spread.T @ second @ spread
        if self.last:
            r = setting.root.shape[1]
            beside = (2.0 * total[at(x=2)] - 2.0 * total[at(b=1)]) / (count * (count - 1))
            own = 2.0 * total[at(b=1)] / count
            product = np.full((count, count), beside) + (own - beside) * np.eye(count)
            whole[: count * r, : count * r] += np.kron(product, np.eye(r))
        return np.asarray(whole)

    @staticmethod
    def _by_root(setting: Setting) -> FloatArray:
        """(2, C r) what an entry of k~ on the diagonal, and one beside it, change by the entries of its root."""
        root = setting.root
        count = len(root)
        both = root.sum(axis=0) - root
        return np.array([2.0 * root.ravel() / count, 2.0 * both.ravel() / (count * (count - 1))])

    def orbits(self, setting: Setting) -> list[Orbit]:
        """Neurons by how many classes they are active on."""
        nodes, algebra = self.word_nodes(setting), word_algebra()
        names = [_ONE, *(len(KEYS) + list(MEANS).index(name) for name in ("b", "b2", "bb"))]
        b, index = nodes.lattice.b, algebra.index

        def coefficients(v: FloatArray) -> FloatArray:
            found = np.zeros((2, len(b), len(algebra.monomials)), dtype=v.dtype)
            found[..., 0] = v[..., 0]
            for part in (0, 1):
                one = {"field": b * v[part, :, 0], "square": b**2 * v[part, :, 0], "phi": v[part, :, 1],
                       "phi_square": v[part, :, 2] + v[part, :, 3]}  # fmt: skip
                for name, value in one.items():
                    found[part, :, index(**{f"{name}{part}": 1})] = value
            return found

        _, totals = self.totals(nodes, algebra, nodes.columns(2)[..., names], coefficients, True)
        found = []
        for k, total in enumerate(totals):
            if not total[0] > 0.0:
                continue
            number, mean = np.array([nodes.count - k, k]), total / total[0]
            single = {name: np.array([mean[index(**{f"{name}{part}": 1})] for part in "01"]) / np.maximum(number, 1)
                      for name in ("field", "square", "phi", "phi_square")}  # fmt: skip
            both = mean[index(field0=1, field1=1)] / max(number[0] * number[1], 1)
            same = [2.0 * mean[index(**{f"field{part}": 2})] / max(m * (m - 1), 1) for part, m in zip("01", number)]
            product = np.array([[same[0], both], [both, same[1]]])
            found.append(
                Orbit(
                    k, float(total[0]), single["field"], single["square"], product, single["phi"], single["phi_square"]
                )
            )
        return found
