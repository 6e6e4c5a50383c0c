"""Averages over the neurons of one layer, by deterministic quadrature (THEORY.md, "One layer").

The weight of a neuron with conjugate fields b and preactivation fields h is

    w(b, h) = N(b; 0, R R^T) N(h; 0, H) prod_c exp(n_c g_c(b_c, h_c)),        b = R beta.

beta in R^r runs over a uniform lattice: w is a positive mixture of unit Gaussians in beta, so that a spacing of 0.95
costs 6e-10 (Poisson summation). H = D + u u^T: given the one shared field alpha the classes are independent, so that
each is a table over (b_c, alpha) (`class_tables`), interpolated at the nodes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from meanfield.theories.deep.compiled.generated.site import ORDERS
from meanfield.theories.deep.compiled.kernels import field_law
from meanfield.theories.deep.layers.fields import Fields, fields_of
from meanfield.theories.deep.layers.lattice import cross, difference, half, keys, unique
from meanfield.theories.deep.layers.nodes import MANY_VALUES, REFITS, TooCoarse
from meanfield.theories.deep.layers.products import Products, asked_products, products_of
from meanfield.theories.deep.layers.rules import (
    Averages,
    Detail,
    NotCovered,
    Setting,
    TooFine,
    UnstableCode,
    code_words,
)
from meanfield.theories.deep.layers.scattered import ScatteredSites
from meanfield.theories.deep.layers.sums import Sums, Totals, View, combined
from meanfield.theories.deep.layers.terms import BLOCK, LayerTerms, Narrow
from meanfield.validation import FloatArray, IntArray

__all__ = ["Layer"]

_MAX_NODES = 400_000
_SOME = 150  # nodes that spacings along the shared field are fitted to
_ROOM = 0.4  # of their extent that nodes of another rule are expected to spread further
_LEAP, _FEW_NODES = 3, 100  # steps at a time by which so few nodes grow
_USUAL = 5.0  # standard deviations of the conjugate fields around the maxima, before nodes are known
_COPIES = 12  # places in its cell that a drawn neuron is resampled from


@dataclass(eq=False)
class Layer(LayerTerms):
    """One layer of given class sizes; keeps the lattice nodes that matter from one evaluation to the next."""

    def _prepared(self, setting: Setting, exact: bool = False) -> tuple[Fields, FloatArray]:
        """Fields, and the maxima in beta; with `exact` the same whatever was asked before."""
        b, h = self.maxima.find(setting, self.rule.depth, bool(self.regions), exact)
        extra = _USUAL * np.sqrt((setting.root**2).sum(axis=1))
        low, high = b.min(axis=0) - extra, b.max(axis=0) + extra
        if len(self.index) and self.index.shape[1] == setting.root.shape[1]:
            known = self._bounds(setting, self._nodes(self._everywhere(self.index)), 0.0)
            low, high = np.minimum(low, known[0]), np.maximum(high, known[1])
        places = self.stretch, self.axis, self.far, self.sides
        fields = fields_of(self.phi, self.n, self.rule, setting, b, h, (low, high), *places)
        return fields, b @ self.maxima.inverses_of(setting)[0].T

    def _covering(self, setting: Setting, beta: FloatArray) -> View:
        fields = self._prepared(setting, exact=True)[0]
        return self._view(setting, fields, *self._bounds(setting, beta, 0.0), between=True)

    # ---- what a posterior asks -------------------------------------------------------------------

    def log_density(self, setting: Setting, beta: FloatArray) -> FloatArray:
        """ln of the weight at any beta (k, r), fields h integrated, without the normalisation of N(beta; 0, 1)."""
        return self._log_weight(self._covering(setting, beta), beta)

    def _joint(self, view: View, beta: FloatArray, c: int, share: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weights of h_c at nodes (N, h) where columns of the class have the weights (N, columns), and g_c there."""
        fields = view.fields
        g = view.table(c).at(beta @ view.setting.root[c])
        joint = np.empty_like(g)
        field_law(
            g, float(self.n[c]), fields.log_prior[c], fields.h[c], fields.centre[c], fields.precision[c],
            fields.first[c], fields.last[c], share, joint,
        )  # fmt: skip
        return joint / joint.sum(axis=1, keepdims=True), g

    def _class_law(self, view: View, beta: FloatArray, c: int) -> tuple[FloatArray, FloatArray]:
        """Weights of h_c at nodes (N, h) and g_c there; some nodes at a time, as shared fields are many."""
        size, parts = max(16, BLOCK // len(view.fields.alpha)), []
        for start in range(0, len(beta), size):
            some = beta[start : start + size]
            total = self._terms(view, some)
            share = np.exp(total - total.max(axis=1, keepdims=True))
            parts.append(self._joint(view, some, c, view.fields.by_column(share / share.sum(axis=1, keepdims=True), c)))
        joint, g = zip(*parts)
        return np.concatenate(joint), np.concatenate(g)

    def class_law(self, setting: Setting, beta: FloatArray, c: int) -> tuple[FloatArray, FloatArray, np.ndarray]:
        """Nodes of h_c (n_h,), and at nodes beta (N, r): weights over them (N, n_h) and g_c there (N, n_h)."""
        view = self._covering(setting, beta)
        joint, g = self._class_law(view, beta, c)
        return view.fields.h[c], joint, g

    def class_means(
        self, setting: Setting, beta: FloatArray, classes: Iterable[int]
    ) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Of some classes, at nodes beta (N, r): weights over the nodes of h_c (N, n_h) and <phi> given both fields."""
        view, order = self._covering(setting, beta), ORDERS.index((1, 0))
        for c in classes:
            joint, _ = self._class_law(view, beta, c)
            b = beta @ setting.root[c]
            yield joint, view.table(c).sites.interpolated_derivatives(b, slice(None), [order]).reshape(joint.shape)

    def totals(self, setting: Setting, products: Products, pattern: str | None = None) -> Totals:
        """Sums of products over old nodes, those of all neurons or of one code."""
        index = self._everywhere(self.index) if pattern is None else self.regions[pattern]
        while True:
            fields, beta = self._prepared(setting)[0], self._nodes(index)
            view = self._view(setting, fields, *self._bounds(setting, beta, 0.0))
            try:
                return self._summed(view, products, index, np.ones(len(index)), False)
            except Narrow as narrow:
                self._stretch(narrow.sides)

    def draw(
        self, setting: Setting, beta: FloatArray, rng: np.random.Generator
    ) -> tuple[FloatArray, FloatArray, np.ndarray]:
        """Neurons (b, h), each (k, C), from nodes beta (k, r) drawn by their shares, and the row each came from.

        The nodes are moved inside their cells and resampled in proportion to the exact weight there; then h given b.
        """
        count, copies = len(beta), _COPIES
        chart = self._chart(beta.shape[1])
        place = np.repeat(chart.inverse(beta), copies, axis=0)
        inside = place + self.rule.beta * (rng.random(place.shape) - 0.5)
        moved = chart.beta(inside)
        view = self._covering(setting, np.vstack([moved, beta]))
        weight = self._log_weight(view, moved) + chart.log_slope(inside)
        base = np.repeat(self._log_weight(view, beta), copies) + chart.log_slope(place)
        chance = np.exp(np.minimum(weight - base, 30.0))
        pick = np.sort(rng.choice(len(moved), size=count, p=chance / chance.sum()))
        chosen = moved[pick]
        b = chosen @ setting.root.T
        h = np.zeros_like(b)
        if not setting.covariance.any():
            return b, h, pick // copies
        fields = view.fields
        total = self._terms(view, chosen)
        alpha = _pick(np.exp(total - total.max(axis=1, keepdims=True)), rng)
        for c in range(len(self.n)):
            at, beyond = fields.column(alpha, c)
            one = np.zeros((count, fields.columns(c)))
            one[np.arange(count), at] = 1.0
            row = _pick(self._joint(view, chosen, c, one)[0], rng)
            h[:, c] = fields.h[c][row] + fields.step[c] * (rng.random(count) - 0.5) + beyond
        again, h = self._between(setting, fields, alpha, b, h, rng)
        return b[again], h, pick[again] // copies

    def _between(
        self, setting: Setting, fields: Fields, at: IntArray, b: FloatArray, h: FloatArray, rng: np.random.Generator
    ) -> tuple[IntArray, FloatArray]:
        """Which neurons (b, h), whose shared field is on nodes `at`, are drawn again between these, and their h.

        Moving h_c by u_c times what alpha moves by leaves N(h; u alpha, D) as it is. Where D is small against the cells
        of alpha the fields h would be a comb without that, and neurons that respond to some classes only too many.
        """
        move, log = fields.inside_cells(at, _COPIES, rng)
        moved = h[:, None, :] + move
        for c, size in enumerate(self.n):
            site = ScatteredSites(self.phi, self.rule.z, float(size)).at(float(setting.d[c]), float(setting.delta[c]))
            base = site(b[:, c], h[:, c], 0)[0]
            g = site(np.repeat(b[:, c], _COPIES), moved[:, :, c].ravel(), 0)[0]
            log += size * (g.reshape(log.shape) - base[:, None])
        chance = np.exp(np.minimum(log, 30.0)).ravel()
        pick = np.sort(rng.choice(chance.size, size=len(at), p=chance / chance.sum()))
        return pick // _COPIES, moved.reshape(-1, moved.shape[2])[pick]

    # ---- averages --------------------------------------------------------------------------------

    def evaluate(
        self,
        setting: Setting,
        *,
        grow: bool = True,
        detail: bool = False,
        curvature: bool | str = False,
        samples: bool = False,
    ) -> tuple[Averages, Detail | None]:
        """Averages of a layer; with `grow` nodes are brought up to date first. `samples` needs `curvature`, that of a
        last layer by "t" alone where that is said, for half the work."""
        self.refits, self.visits = 0, self.visits + 1
        while True:
            try:
                return self._evaluate(setting, grow, detail, curvature, samples)
            except Narrow as narrow:
                self._stretch(narrow.sides)
                grow = grow and narrow.heavy
            except TooCoarse:
                grow = False

    def _evaluate(
        self, setting: Setting, grow: bool, detail: bool, curvature: bool | str, samples: bool
    ) -> tuple[Averages, Detail | None]:
        fields, modes = self._prepared(setting)
        r = setting.root.shape[1]
        if self.index.shape[1] != r or not len(self.index):
            self.index = self._representatives(self._nearest(modes))
            grow = True
        if grow:
            view = self._grow(setting, fields, modes)
            if self._farther(setting, fields.h):
                fields, modes = self._prepared(setting)
                view = self._grow(setting, fields, modes)
            for _ in range(REFITS if r in (2, 3) and not self.regions else 0):
                if not ((self.crowded or self.charted) and self._refitted(setting)):
                    break
                fields, modes = self._prepared(setting)
                view = self._grow(setting, fields, modes)
        else:
            view = self._view(setting, fields, *self._bounds(setting, self._nodes(self.index), 0.0))
        index = self.index
        if detail:
            index = self._everywhere(index)
            view = self._view(setting, fields, *self._bounds(setting, self._nodes(index), 0.0))
        return self._average(view, index, detail, curvature, samples=samples)

    def evaluate_codes(
        self,
        setting: Setting,
        patterns: tuple[str, ...],
        *,
        grow: bool = True,
        detail: bool = False,
        curvature: bool | str = False,
        samples: bool = False,
    ) -> list[tuple[Averages, Detail | None]]:
        """Averages over the neurons of each code alone: those below the local maximum of the weight with its pattern.

        Raises
        ------
        UnstableCode
            If the weight has no local maximum with that pattern.
        """
        for pattern in patterns:
            self.regions.setdefault(pattern, np.empty((0, 0), dtype=np.int64))
        while True:
            try:
                return self._evaluate_codes(setting, patterns, grow, detail, curvature, samples)
            except Narrow as narrow:
                self._stretch(narrow.sides)

    def _evaluate_codes(
        self,
        setting: Setting,
        patterns: tuple[str, ...],
        grow: bool,
        detail: bool,
        curvature: bool | str,
        samples: bool,
    ) -> list[tuple[Averages, Detail | None]]:
        fields, beta = self._prepared(setting)
        assert self.maxima.known is not None
        heights, mean = self.maxima.heights(setting)
        words = code_words(self.phi, mean)
        results = []
        for pattern in patterns:
            rows = np.flatnonzero(words == pattern)
            if not len(rows):
                raise UnstableCode(pattern)
            rows = rows[heights[rows] > heights[rows].max() - self.rule.depth]  # others have no weight
            seeds = self._nearest(beta[rows])
            view = self._view(setting, fields, *self._bounds(setting, self._nodes(seeds), 14.0))
            if grow or not len(self.regions[pattern]):
                view, self.regions[pattern] = self._basin(view, seeds, pattern)
            results.append(self._average(view, self.regions[pattern], detail, curvature, False, samples))
        return results

    def _basin(self, view: View, seeds: IntArray, pattern: str) -> tuple[View, IntArray]:
        """Nodes reached from a maximum without ever climbing, down to the depth that counts."""
        r = view.setting.root.shape[1]
        # Along the axes alone a ridge across them would look like a climb.
        cube = np.array(list(itertools.product((-1, 0, 1), repeat=r)), dtype=np.int64)
        at = unique(seeds)
        for _ in range(40):
            around = unique((at[:, None, :] + cube).reshape(-1, r))
            if not self._reached(view, self._nodes(around)):
                raise NotCovered(f"the maximum of code {pattern} moved out of reach; it may not be locally stable")
            best = around[np.argmax(self._log_weight(view, self._nodes(around)))]
            if len(at) == 1 and (best == at[0]).all():
                break
            at = best[None, :]
        _, peak = self._average(view, at, True, False, False)
        assert peak is not None
        if code_words(self.phi, peak.activation)[0] != pattern:  # what is a maximum at given h may be none without
            raise UnstableCode(pattern)
        top = float(self._log_weight(view, self._nodes(at))[0])
        kept, frontier, heights, seen = [at], at, np.array([top]), keys(at)
        while len(frontier):
            around = (frontier[:, None, :] + cube).reshape(-1, r)
            found_keys, first, where = np.unique(keys(around), return_index=True, return_inverse=True)
            ceiling = np.full(len(found_keys), -np.inf)
            np.maximum.at(ceiling, where.ravel(), np.repeat(heights, len(cube)))
            fresh = ~np.isin(found_keys, seen)
            around, ceiling = around[first[fresh]], ceiling[fresh]
            if not len(around):
                break
            seen = np.concatenate([seen, found_keys[fresh]])
            if not self._reached(view, self._nodes(around)):
                low, high = self._bounds(view.setting, self._nodes(around), 0.0)
                low, high = np.minimum(view.low, low - 1.0), np.maximum(view.high, high + 1.0)
                view = self._view(view.setting, view.fields, low, high)
            found = self._log_weight(view, self._nodes(around))
            good = (found <= ceiling) & (found > top - self.rule.depth - 2.0)
            frontier, heights = around[good], found[good]
            kept.append(frontier)
            if sum(map(len, kept)) > _MAX_NODES:
                raise NotCovered(f"a code needs more than {_MAX_NODES} lattice nodes")
        return view, np.concatenate(kept)

    def at_cut(self, setting: Setting, pattern: str) -> float:
        """The part of a code's neurons that are on nodes next to ones of another basin, about a standard deviation of
        the prior of readouts wide."""
        index = self.regions[pattern]
        r = index.shape[1]
        cube = np.array(list(itertools.product((-1, 0, 1), repeat=r)), dtype=np.int64)
        around = (index[:, None, :] + cube).reshape(-1, r)
        outside = difference(around, np.sort(keys(index)))
        bounds = self._bounds(setting, self._nodes(np.vstack([index, outside])), 1.0)
        view = self._view(setting, self._prepared(setting)[0], *bounds)
        own, other = (self._log_weight(view, self._nodes(at)) for at in (index, outside))
        top = float(own.max())
        beyond = outside[other > top - self.rule.depth - 2.0]  # not left out as light (`_basin`)
        beside = np.isin(keys(around), keys(beyond)).reshape(len(index), -1).any(axis=1)
        share = np.exp(own - top)
        return float(share[beside].sum() / share.sum())

    def _grow(self, setting: Setting, fields: Fields, modes: FloatArray) -> View:
        """Flood the lattice from the modes and the old nodes until its rim is negligible."""
        rule = self.rule
        r = setting.root.shape[1]
        seeds = self._nearest(modes)
        index = self._representatives(np.vstack([self.index.reshape(-1, r), seeds]))
        near, far = (cross(r, steps) for steps in (1, _LEAP if r < 3 else 1))
        reach = _ROOM * (self._nodes(index).max(axis=0) - self._nodes(index).min(axis=0)).max()
        reach = max(8.0 if len(index) <= len(seeds) else 3.0, reach if len(self.heights) == 0 else 0.1 * reach)
        view = self._view(setting, fields, *self._bounds(setting, self._nodes(index), reach))
        known, seen = np.empty((0, r), dtype=np.int64), np.empty(0, dtype=np.int64)
        weight = np.empty(0)
        new = index
        while len(new):
            if not self._reached(view, self._nodes(new)):
                everything = self._nodes(np.vstack([known, new]))
                view = self._view(setting, fields, *self._bounds(setting, everything, reach))
            found = self._log_weight(view, self._nodes(new)) + self._log_cells(new)
            known, weight = np.vstack([known, new]), np.append(weight, found)
            seen = np.sort(np.append(seen, keys(new)), kind="stable")
            if len(known) > _MAX_NODES or np.abs(new).max() >= half(r) - 2:
                raise TooFine(f"a layer needs more than {_MAX_NODES} lattice nodes")
            alive = new[found > weight.max() - rule.depth]
            steps = far if len(alive) < _FEW_NODES else near
            new = difference(self._representatives((alive[:, None, :] + steps).reshape(-1, r)), seen)
        kept = weight > weight.max() - rule.depth - 4.0
        if not kept.any():
            raise NotCovered("the weight of a layer is no number at any of its nodes")
        self.index, self.heights = known[kept], weight[kept]
        return view

    def _average(
        self,
        view: View,
        index: IntArray,
        detail: bool,
        curvature: bool | str,
        whole: bool = True,
        samples: bool = False,
    ) -> tuple[Averages, Detail | None]:
        often = self._often(index) if whole and not detail else np.ones(len(index))
        fields = bool(view.setting.covariance.any())
        if detail:
            products = Products(len(self.n), bool(curvature), self.last, fields, samples)
        else:
            products = asked_products(self.n, self.last, fields, curvature, samples)
        nodes = products.with_nodes() if detail else {}
        found = self._summed(view, products, index, often, whole, detail)
        averages = found.averages(products)
        if not detail:
            return averages, None
        rows, log_weight = np.concatenate(found.rows), found.log_weight
        share = rows[:, products.one]
        conditional = {name: rows[:, at] / np.maximum(share, 1e-300)[:, None] for name, at in nodes.items()}
        return averages, Detail(self._nodes(index), share / share.sum(), log_weight, **conditional)

    def _summed(
        self, view: View, products: Products, index: IntArray, often: FloatArray, whole: bool, detail: bool = False
    ) -> Totals:
        """Sums of all products over nodes, each of which counts `often`."""
        beta, columns = self._nodes(index), len(products.table)
        log_weight, known = self._covered(view, beta)
        cells = self._log_cells(index)
        top = float((log_weight + cells).max())
        if whole and known and self.visits & (self.visits - 1) == 0:
            self._fit_rows(view, beta, known[0] + (cells[:, None] - top))
        fitted = len(view.fields.alpha) > MANY_VALUES or self.axis is not None
        if whole and fitted and view.fields.plane is None:
            stride = math.ceil(len(beta) / _SOME)
            some = known[0][::stride] if known else self._terms(view, beta[::stride])
            self._fit_axis(some + cells[::stride, None], top, view.fields)
        start, weight = view.stencils(beta)
        sums = Sums(view, products, start)
        coded = whole and products.by_readout
        moments: dict[str, list[FloatArray]] = {}
        kept = []
        size = max(16, BLOCK // max(len(view.fields.alpha), columns))
        for i in range(0, len(beta), size):
            part = slice(i, i + size)
            at, terms = beta[part], known[0][part] if known else self._terms(view, beta[part])
            terms = terms + cells[part, None]
            out = sums.per_node(start[:, part], weight[:, part], terms, top, self.rule.depth) * often[part, None]
            if not np.isfinite(out[:, products.one]).all():  # read next to rows that no field h of the lattice reaches
                raise NotCovered("the weight of a layer is no number at one of its nodes, whose fields are too strong")
            words = self._words(out, products) if coded else np.full(len(out), "")
            for word in np.unique(words):
                of_code = slice(None) if (words == word).all() else words == word
                here = products.moments(at[of_code], out[of_code])
                before = moments.get(str(word))
                moments[str(word)] = here if before is None else [one + two for one, two in zip(before, here)]
            if detail:
                kept.append(out)
        codes = {word: Totals(top, found[0], found[1], found[2]) for word, found in moments.items()}
        whole_sum = combined([(1.0, one) for one in codes.values()])
        codes = {word: one for word, one in codes.items() if coded and one.plain[products.one] > 0.0}
        return replace(whole_sum, rows=tuple(kept), log_weight=log_weight, codes=codes)

    def _words(self, out: FloatArray, products: Products) -> np.ndarray:
        """(N,) code words of nodes with the sums of products `out`: what most of their neurons do."""
        return code_words(self.phi, products.activation(out, self.n))

    def tilted(
        self, setting: Setting, copies: Sequence[tuple[float, FloatArray]], pattern: str | None = None
    ) -> Averages:
        """Averages of all kinds over a sum of weights, each as large as its number says and b shifted, at old nodes,
        those of all neurons or of one code. A symmetry of the nodes has to be one of all copies together."""
        index = self.index if pattern is None else self.regions[pattern]
        often = self._often(index) if pattern is None else np.ones(len(index))
        products = products_of(len(self.n), True, self.last, bool(setting.covariance.any()), True)
        while True:
            beta, fields, parts = self._nodes(index), self._prepared(setting)[0], []
            try:
                for factor, shift in copies:
                    moved = setting._replace(shift=shift)
                    view = self._view(moved, fields, *self._bounds(moved, beta, 0.0), between=True)
                    parts.append((factor, self._summed(view, products, index, often, False)))
            except Narrow as narrow:
                self._stretch(narrow.sides)
            else:
                return combined(parts).averages(products)


def _pick(weights: FloatArray, rng: np.random.Generator) -> IntArray:
    """One column per row, in proportion to the weights."""
    total = np.cumsum(weights, axis=1)
    return np.asarray((total < rng.random((len(total), 1)) * total[:, -1:]).sum(axis=1))
