"""Averages of a layer in which more fields couple the classes than lattices over all of them can take.

The weight of points v = (beta, alpha) (`peaked_weight.py`) is a sum of peaks, one per code, of nearly
Gaussian shape: w = sum_k w p_k with the shares p_k of a mixture of Gaussians fitted to it, and every w p_k is summed
over a lattice of its own, uniform where that Gaussian is round (THEORY.md, "More than three classes").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from meanfield.theories.deep.compiled.generated.site import KEYS
from meanfield.theories.deep.layers.maxima import Maxima
from meanfield.theories.deep.layers.products import Products, asked_products
from meanfield.theories.deep.layers.rules import CHECK, Averages, Detail, NotCovered, Setting, UnstableCode, code_words
from meanfield.theories.deep.layers.sums import Totals
from meanfield.theories.deep.unlike_classes.own_fields import ROUGH_DEPTH
from meanfield.theories.deep.unlike_classes.patches import Cluster, Patch, clustered
from meanfield.theories.deep.unlike_classes.peaked_weight import PeakedWeight, WeightAt
from meanfield.theories.deep.unlike_classes.peaks import Peaks, fitted, moments
from meanfield.validation import FloatArray, IntArray

__all__ = ["PatchedLayer"]

_LIGHTEST, _ANY = 20.0, 300.0  # nats below the heaviest peak, from where on one is left out; of given codes
_CLIMBS, _STILL, _FLAT, _SAME = 30, 1e-8, 1e-3, 0.05
_PIECE = 2048  # nodes at a time
_MOST_NODES = 3_000_000
_NODES = {True: 30_000, False: 80_000}  # wanted at most of coarse rules, of others
_COARSE, _FINE, _LEAST_REACH, _FINER = 0.8, 1.2, 0.6, 0.02  # of `node_lattice`, at most, at least, and steps of it
_MARGIN = 4.0  # nats
_CLOSE = 1e-6  # part of the variance of h that may be own at least, where maxima are looked for
_STRATA = 4  # of the own field of a node, for densities
_COPIES, _NO_SHARE = 12, 1e-9  # per neuron that is drawn; share of the largest, that densities can do without
_MOVED, _WIDENED, _GREW = 0.35, 0.5, 1.5  # of a peak, in its own units, before nodes are found anew
_NEGLIGIBLE = 1e-6  # share of a peak that may do as it likes


def _deep(reach: float) -> float:
    """Nats that nodes may be lighter than the heaviest, such that they weigh what the spacing costs."""
    return 30.0 * reach - 11.0


class _Nodes(NamedTuple):
    """Points (N, D), ln of what each stands for (N,), the part of each that belongs to every peak (N, k); where peaks
    were."""

    v: FloatArray
    log_cell: FloatArray
    shares: FloatArray
    moments: tuple[FloatArray, FloatArray, FloatArray]
    patch: IntArray  # (N,) which of the following each is on
    number: IntArray  # (N,) of the node on it
    clusters: list[Cluster]
    frames: list[FloatArray]  # edges (D, D) of their cells


def _joined(parts: list[_Nodes]) -> _Nodes:
    """All nodes of several codes; without the moments of peaks."""
    first = np.cumsum([0] + [len(part.clusters) for part in parts])
    return _Nodes(
        np.concatenate([part.v for part in parts]),
        np.concatenate([part.log_cell for part in parts]),
        np.concatenate([part.shares for part in parts]),
        (np.empty(0),) * 3,
        np.concatenate([part.patch + at for part, at in zip(parts, first)]),
        np.concatenate([part.number for part in parts]),
        [cluster for part in parts for cluster in part.clusters],
        [frame for part in parts for frame in part.frames],
    )


@dataclass(eq=False)
class PatchedLayer(PeakedWeight):
    """One layer of given class sizes; keeps its nodes while the weight stays about where they are.

    `reach`, `depth`: spacing and extent of the lattices, see `node_lattice`, and nats below the top; chosen so that the
    number of nodes stays moderate.
    """

    last: bool = False
    turns: FloatArray = field(default_factory=lambda: np.empty((0, 0, 0)))
    nodes: _Nodes | None = None
    regions: dict[str, _Nodes] = field(default_factory=dict)  # of given codes
    level: float | None = None  # reach of another rule, that this one has to be finer than
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.maxima = Maxima(self.phi, self.n)
        self.reach = 0.0

    # ---- nodes -----------------------------------------------------------------------------------

    def _maxima(self, setting: Setting, lightest: float) -> Peaks:
        """Laplace's mixture of all maxima of the weight that are not lighter than the heaviest by so many nats."""
        b, h = self.maxima.find(setting, lightest, True)
        root, common, _, own = self._given(setting)
        v = b @ np.linalg.pinv(root).T
        if common.shape[1]:  # the likeliest alpha, given h
            scaled = common / (own + _CLOSE * np.diag(setting.covariance))[:, None]
            v = np.hstack([v, h @ scaled @ np.linalg.inv(np.eye(common.shape[1]) + common.T @ scaled)])
        for _ in range(_CLIMBS):
            height, slope, curved = self._slopes(setting, v)
            values, vectors = np.linalg.eigh(curved)
            along = np.einsum("kji,kj->ki", vectors, slope) / np.maximum(np.abs(values), 0.05)
            step = np.einsum("kij,kj->ki", vectors, along)
            length = np.linalg.norm(step, axis=1, keepdims=True)
            v = v + step * np.minimum(1.0, 1.0 / np.maximum(length, 1e-300))
            if length.max() < _STILL:
                break
        height, slope, curved = self._slopes(setting, v)
        good = (np.linalg.eigvalsh(curved)[:, 0] > _FLAT) & (np.abs(slope).max(axis=1) < 1e-3)
        if not good.any():
            raise NotCovered("no maximum of the weight of a layer's neurons was found")
        kept: list[int] = []
        for i in np.argsort(-height):
            if good[i] and all(np.linalg.norm(v[i] - v[j]) > _SAME for j in kept):
                kept.append(int(i))
        log_share = height[kept] - 0.5 * np.linalg.slogdet(curved[kept])[1]
        heavy = log_share > log_share.max() - lightest
        share = np.exp(log_share[heavy] - log_share.max())
        at = np.array(kept)[heavy]
        return Peaks(v[at], np.linalg.inv(curved[at]), share / share.sum())

    def _level(self, clusters: list[Cluster]) -> float:
        """The finest spacing that a moderate number of nodes allows."""
        coarse = self.rule.depth < ROUGH_DEPTH
        reach = least = _COARSE if coarse else _FINE
        if self.level is None:
            least = _LEAST_REACH
        else:
            reach = least = self.level + _FINER
        most = _NODES[coarse] / (1 if self.frame is None or not self.frame.narrow.size else 3)
        while reach > least and sum(one.count(reach, _deep(reach)) for one in clusters) > most:
            reach -= _FINER
        return reach

    def _peaks(self, setting: Setting, lightest: float) -> Peaks:
        """The mixture that shares the weight among its peaks."""
        maxima = self._maxima(setting, lightest)
        return fitted(lambda v: self._at(setting, v, rough=True).log_weight, maxima, math.exp(-lightest))

    def _build(self, setting: Setting) -> _Nodes:
        """Lattices around all peaks."""
        peaks = self._peaks(setting, _LIGHTEST)
        clusters = clustered(peaks, np.arange(len(peaks.share)))
        self.reach = self._level(clusters)
        return self._lattices(setting, clusters)

    def _build_codes(self, setting: Setting, patterns: tuple[str, ...]) -> dict[str, _Nodes]:
        """Lattices around the peaks of each code, however light it is: of what is theirs of the weight."""
        peaks = self._peaks(setting, _ANY)
        words = code_words(self.phi, self._at(setting, peaks.mean, 2, rough=True).means("b"))
        for pattern in patterns:
            if pattern not in words:
                raise UnstableCode(pattern)
        clusters = {pattern: clustered(peaks, np.flatnonzero(words == pattern)) for pattern in patterns}
        self.reach = self._level([one for of_code in clusters.values() for one in of_code])
        return {pattern: self._lattices(setting, of_code) for pattern, of_code in clusters.items()}

    def _lattices(self, setting: Setting, clusters: list[Cluster]) -> _Nodes:
        """Nodes of all clusters, extended until their rims are negligible."""
        peaks, depth = clusters[0].peaks, _deep(self.reach)
        rng = np.random.default_rng([self.seed, peaks.mean.shape[1]])
        self._cover(setting, clusters, depth)
        top, room, patches = -math.inf, _MOST_NODES, []
        for cluster in clusters:
            patch = Patch(cluster, self.reach, rng)
            top = patch.grow(lambda v: self._at(setting, v).log_weight, depth, top, room)
            room -= len(patch.v)
            patches.append(patch)
        kept = [patch.height > top - depth - _MARGIN for patch in patches]
        v = np.concatenate([patch.v[good] for patch, good in zip(patches, kept)])
        log_cell = np.concatenate([patch.corrected(good) for patch, good in zip(patches, kept)])
        of_node: IntArray = np.repeat(np.arange(len(kept)), [int(good.sum()) for good in kept])
        frames = [one.frame for one in patches]
        number = np.concatenate([patch.number[good] for patch, good in zip(patches, kept)])
        nodes = _Nodes(v, log_cell, peaks.shares(v), (np.empty(0),) * 3, of_node, number, clusters, frames)
        return nodes._replace(moments=self._moments(setting, nodes))

    def _cover(self, setting: Setting, clusters: list[Cluster], depth: float) -> None:
        """Has tables ready for nodes of clusters."""
        peaks, kept = clusters[0].peaks, np.concatenate([cluster.members for cluster in clusters])
        root, common, narrow, _ = self._given(setting)
        r, far = root.shape[1], math.sqrt(2.0 * depth)
        moved = np.broadcast_to(setting.shift, len(self.n))
        for c, sites in enumerate(self.sites):
            ends = []
            for row, inside, shift in ((root[c], slice(0, r), moved[c]), (common[c], slice(r, None), 0.0)):
                middle = peaks.mean[kept][:, inside] @ row + shift
                wide = far * np.sqrt(np.einsum("i,kij,j->k", row, peaks.covariance[kept][:, inside, inside], row))
                wide = wide + 2.0 * math.sqrt(float((narrow[c] ** 2).sum())) * (row is not root[c])
                ends.append((float((middle - wide).min()), float((middle + wide).max())))
            sites.cover(np.array([ends[0][0], ends[1][0]]), np.array([ends[0][1], ends[1][1]]))

    def as_fine(self, other: PatchedLayer) -> None:
        """Lattices of another rule: those of the certificate are finer, and turned and shifted at random."""
        if self.rule == CHECK:
            self.level, self.seed = other.reach or None, other.seed + 1

    def _settled(self, setting: Setting, nodes: _Nodes) -> bool:
        """Whether the peaks are still about where they were when the nodes were found."""
        if nodes.v.shape[1] != self._size(setting):
            return False
        share, mean, spread = self._moments(setting, nodes)
        before, middle, root = nodes.moments[0], nodes.moments[1], np.linalg.cholesky(nodes.moments[2])
        for k in np.flatnonzero(np.maximum(share, before) > _NEGLIGIBLE):
            if abs(math.log(max(share[k], 1e-300) / max(before[k], 1e-300))) > _GREW:
                return False
            inverse = np.linalg.inv(root[k])
            wide = np.linalg.eigvalsh(inverse @ spread[k] @ inverse.T)
            if np.linalg.norm(inverse @ (mean[k] - middle[k])) > _MOVED or np.abs(np.log(wide)).max() > _WIDENED:
                return False
        return True

    def _moments(self, setting: Setting, nodes: _Nodes) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Share, mean and covariance of the parts of the weight at nodes that belong to every peak."""
        log_weight = self._at(setting, nodes.v).log_weight + nodes.log_cell
        weight = np.exp(log_weight - log_weight.max())
        parts = nodes.shares * (weight / weight.sum())[:, None]
        share = parts.sum(axis=0)
        size = nodes.v.shape[1]
        mean, spread = np.zeros((len(share), size)), np.tile(np.eye(size), (len(share), 1, 1))
        for k in np.flatnonzero(share > 0.1 * _NEGLIGIBLE):
            rows = nodes.shares[:, k] > _NEGLIGIBLE
            mean[k], covariance = moments(nodes.v[rows], parts[rows, k], share[k])
            spread[k] = covariance + 1e-9 * np.eye(size)
        return share, mean, spread

    def _size(self, setting: Setting) -> int:
        return int(setting.root.shape[1] + self._given(setting).common.shape[1])

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
        """Averages of a layer; with `grow` nodes are found anew where peaks have moved, and `samples` needs
        `curvature`, which of a last layer is that by "t" alone where that is said."""
        if self.nodes is None or (grow and not self._settled(setting, self.nodes)):
            self.nodes = self._build(setting)
        products = asked_products(self.n, self.last, bool(setting.covariance.any()), curvature, samples)
        averages = self._summed(setting, self.nodes, products).averages(products)
        return averages, self._detail(setting, self.nodes) if detail else None

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
        """Averages over the neurons of each code alone: over the part of the weight that belongs to peaks of its
        pattern.

        Raises
        ------
        UnstableCode
            If there is no peak with that pattern.
        """
        known = all(pattern in self.regions for pattern in patterns)
        if not known or (grow and not all(self._settled(setting, self.regions[pattern]) for pattern in patterns)):
            self.regions = self._build_codes(setting, patterns)
        products = asked_products(self.n, self.last, bool(setting.covariance.any()), curvature, samples)
        chosen = [self.regions[pattern] for pattern in patterns]
        self.nodes = _joined(chosen)
        return [
            (
                self._summed(setting, nodes, products).averages(products),
                self._detail(setting, nodes) if detail else None,
            )
            for nodes in chosen
        ]

    def at_cut(self, setting: Setting, pattern: str) -> float:
        """The part of a code's neurons that another one could have as well: where peaks of both overlap."""
        nodes = self.regions[pattern]
        own = nodes.shares[:, np.concatenate([cluster.members for cluster in nodes.clusters])].sum(axis=1)
        log_weight = self._at(setting, nodes.v).log_weight + nodes.log_cell
        weight = np.exp(log_weight - log_weight.max())
        return float(weight @ np.maximum(1.0 - own, 0.0) / weight.sum())

    def _summed(self, setting: Setting, nodes: _Nodes, products: Products) -> Totals:
        """Sums of all products over nodes."""
        r, columns = setting.root.shape[1], len(products.table)
        top, plain = -math.inf, np.zeros(columns)
        once, twice = np.zeros((r, columns)), np.zeros((r, r, columns))
        for beta, site, log_weight in self._pieces(setting, nodes, products):
            highest = float(log_weight.max())
            if highest > top:
                for total in (plain, once, twice):
                    total *= math.exp(top - highest)
                top = highest
            terms = self._products(site, products, np.exp(log_weight - top))
            plain += terms.sum(axis=1)
            if products.by_readout:
                once += (terms @ beta).T
                twice += ((beta[:, :, None] * beta[:, None, :]).reshape(len(beta), -1).T @ terms.T).reshape(twice.shape)
        return Totals(top, plain, once, twice)

    def _pieces(
        self, setting: Setting, nodes: _Nodes, products: Products
    ) -> Iterator[tuple[FloatArray, WeightAt, FloatArray]]:
        """beta (k, r) of some of the nodes, the weight there, and ln of it and of what they stand for (k,): all nodes
        in turn, with every place in narrow fields."""
        r, highest = setting.root.shape[1], 4 if products.curvature or products.samples or products.sums else 2
        for start in range(0, len(nodes.v), _PIECE):
            part = slice(start, start + _PIECE)
            for log_part, zeta in self._rule_of_narrow(setting, nodes.number[part]):
                fields = setting, nodes.v[part]
                site = self._at(*fields, highest, products.samples, zeta=zeta, sums=products.sums)
                yield nodes.v[part, :r], site, site.log_weight + nodes.log_cell[part] + log_part

    def _products(self, site: WeightAt, products: Products, weight: FloatArray) -> FloatArray:
        """(products, N) times the weight of nodes."""
        first = 0 if products.curvature else len(KEYS) - 1  # other columns than 1, which has no factor
        columns = [means[first:] for means in site.columns]
        terms = np.empty((len(products.table), len(weight)))
        for row, factors in zip(terms, products.factors):
            before = weight
            for c, at in factors:
                before = np.multiply(before, columns[c][at], out=row)
            if not factors:
                row[:] = weight
        return terms

    def _detail(self, setting: Setting, nodes: _Nodes) -> Detail:
        log_weight, share, sums = (
            np.empty(len(nodes.v)),
            np.empty(len(nodes.v)),
            np.empty((4, len(nodes.v), len(self.n))),
        )
        for start in range(0, len(nodes.v), _PIECE):
            part = slice(start, start + _PIECE)
            cell, places = nodes.log_cell[part], self._rule_of_narrow(setting, nodes.number[part])
            sites = [(log_part, self._at(setting, nodes.v[part], 2, zeta=zeta)) for log_part, zeta in places]
            height = np.array([log_part + site.log_weight for log_part, site in sites])
            whole = np.logaddexp.reduce(height, axis=0)
            log_weight[part], share[part] = whole, whole + cell
            for i, name in enumerate(("b", "b2", "bb", "field")):
                means = np.array([site.means(name) for _, site in sites])
                sums[i, part] = (np.exp(height - whole)[:, :, None] * means).sum(axis=0)
        share = np.exp(share - share.max())
        beta = nodes.v[:, : setting.root.shape[1]]
        return Detail(beta, share / share.sum(), log_weight, *sums)

    # ---- what a posterior asks -------------------------------------------------------------------

    def totals(self, setting: Setting, products: Products, pattern: str | None = None) -> Totals:
        """Sums of products over old nodes, those of all neurons or of one code."""
        nodes = self.nodes if pattern is None else self.regions[pattern]
        assert nodes is not None
        return self._summed(setting, nodes, products)

    def preactivations(self, setting: Setting, share: FloatArray, c: int) -> Callable[[FloatArray], FloatArray]:
        """z -> density of the preactivation on a sample of class c, nodes having these shares (N,)."""
        assert self.nodes is not None
        rows = np.flatnonzero(share > _NO_SHARE * share.max())
        share, d, delta = share[rows], float(setting.d[c]), float(setting.delta[c])
        v, copies = self.nodes.v[rows], _STRATA if self.sites[c].own > 0.0 else 1
        places = self._rule_of_narrow(setting, self.nodes.number[rows])
        height = np.array([log_part + self._at(setting, v, zeta=zeta).log_weight for log_part, zeta in places])
        parts = np.exp(height - np.logaddexp.reduce(height, axis=0)) * share / copies
        fields = [self._fields(setting, v, zeta) for _, zeta in places]
        b, m = (np.concatenate([pair[i][:, c] for pair in fields]) for i in (0, 1))
        strata = (np.arange(copies) + 0.5) / copies
        h = np.concatenate([self.sites[c].drawn(b, m, np.full(len(b), part)) for part in strata])
        b, share = np.tile(b, copies), np.tile(parts.ravel(), copies)
        g = self.sites[c].values(b, h)

        def density(z: FloatArray) -> FloatArray:
            value = self.phi(z)
            log_law = 0.5 * delta * value**2 - 0.5 * math.log(2.0 * math.pi * d)
            found = np.zeros(len(z))
            for start in range(0, len(b), _PIECE):
                part = slice(start, start + _PIECE)
                exponent = np.outer(b[part], value) - g[part, None] - 0.5 * (z - h[part, None]) ** 2 / d + log_law
                found += share[part] @ np.exp(exponent)
            return found

        return density

    def drawn(
        self, setting: Setting, at: IntArray, rng: np.random.Generator
    ) -> tuple[FloatArray, FloatArray, IntArray]:
        """Neurons (b, h), each (k, C), from nodes `at` (k,) drawn by their shares, and the entry each came from.

        The nodes are moved inside their cells and resampled in proportion to the exact weight there.
        """
        nodes = self.nodes
        assert nodes is not None
        count, base = len(at), np.repeat(at, _COPIES)
        size = nodes.v.shape[1]
        inside = (rng.random((len(base), size)) - 0.5)[:, None, :] @ np.array(nodes.frames)[nodes.patch[base]]
        v = nodes.v[base] + inside[:, 0]
        q = self._given(setting).narrow.shape[1]
        zeta = rng.normal(size=(len(base), q)) if q else None
        before, after = (
            self._at(setting, where, zeta=at_zeta).log_weight + self._log_shares(nodes, where, nodes.patch[base])
            for where, at_zeta in ((nodes.v[base], None), (v, zeta))
        )
        chance = np.exp(np.minimum(after - before, 30.0))
        pick = np.sort(rng.choice(len(v), size=count, p=chance / chance.sum()))
        b, m = self._fields(setting, v[pick], None if zeta is None else zeta[pick])
        h = np.column_stack([
            sites.drawn(b[:, c], m[:, c], rng.random(len(b))) for c, sites in enumerate(self.sites)
        ])  # fmt: skip
        return b, h, pick // _COPIES

    def _log_shares(self, nodes: _Nodes, v: FloatArray, patch: IntArray) -> FloatArray:
        """(N,) ln of the part of the weight at points that belongs to the patch of each."""
        found = np.zeros(len(v))
        for k, cluster in enumerate(nodes.clusters):
            found[patch == k] = cluster.log_share(v[patch == k])
        return found
