"""Averages of a layer in which more fields couple the classes than lattices over all of them can take.

Nodes are points v = (beta, eta) of conjugate fields b = R beta and preactivation fields h = H^(1/2) eta. The weight

    w(v) = exp(-|v|^2 / 2) prod_c exp(n_c g_c(b_c, h_c)) / (2 pi)^(D/2)

is a sum of peaks, one per code, each of nearly Gaussian shape: w = sum_k w p_k with the shares p_k of a mixture of
Gaussians fitted to it, and every w p_k is summed over a lattice of its own, uniform where that Gaussian is round
(THEORY.md, "More than three classes").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.deep.class_tables import class_columns
from meanfield.theories.deep.compiled.generated.site import ORDERS
from meanfield.theories.deep.maxima import Maxima
from meanfield.theories.deep.patches import Cluster, Patch, clustered
from meanfield.theories.deep.peaks import Peaks, fitted, moments
from meanfield.theories.deep.products import Products
from meanfield.theories.deep.rules import (
    CHECK,
    Averages,
    Detail,
    NotCovered,
    Rule,
    Setting,
    UnstableCode,
    activation_range,
    code_words,
)
from meanfield.theories.deep.scattered import ScatteredSites
from meanfield.theories.deep.sums import Totals
from meanfield.validation import FloatArray, IntArray

__all__ = ["PatchedLayer"]

_LIGHTEST, _ANY = 20.0, 300.0  # nats below the heaviest peak, from where on one is left out; of given codes
_CLIMBS, _STILL, _FLAT, _SAME = 30, 1e-8, 1e-3, 0.05
_PIECE = 2048  # nodes at a time
_STEEPEST = 1500.0  # of fields b
_MOST_NODES = 3_000_000
_NODES = {True: 30_000, False: 80_000}  # wanted at most of coarse rules, of others
_ROUGH_DEPTH = 20.0  # of coarse rules
_COARSE, _FINE, _LEAST_REACH, _FINER = 0.8, 1.2, 0.6, 0.02  # of `node_lattice`, at most, at least, and steps of it
_MARGIN = 4.0  # nats
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
    clusters: list[Cluster]
    frames: list[FloatArray]  # edges (D, D) of their cells


class _Site(NamedTuple):
    """ln of the weight (N,), fields b and h (N, C), derivatives of g by class (orders, N)."""

    log_weight: FloatArray
    b: FloatArray
    h: FloatArray
    derived: list[FloatArray]


def _joined(parts: list[_Nodes]) -> _Nodes:
    """All nodes of several codes; without the moments of peaks."""
    first = np.cumsum([0] + [len(part.clusters) for part in parts])
    return _Nodes(
        np.concatenate([part.v for part in parts]),
        np.concatenate([part.log_cell for part in parts]),
        np.concatenate([part.shares for part in parts]),
        (np.empty(0),) * 3,
        np.concatenate([part.patch + at for part, at in zip(parts, first)]),
        [cluster for part in parts for cluster in part.clusters],
        [frame for part in parts for frame in part.frames],
    )


@dataclass(eq=False)
class PatchedLayer:
    """One layer of given class sizes; keeps its nodes while the weight stays about where they are.

    `reach`, `depth`: spacing and extent of the lattices, see `node_lattice`, and nats below the top; chosen so that the
    number of nodes stays moderate.
    """

    phi: Activation
    n: FloatArray
    rule: Rule
    last: bool = False
    turns: FloatArray = field(default_factory=lambda: np.empty((0, 0, 0)))
    nodes: _Nodes | None = None
    regions: dict[str, _Nodes] = field(default_factory=dict)  # of given codes
    level: float | None = None  # reach of another rule, that this one has to be finer than
    seed: int = 0

    def __post_init__(self) -> None:
        self.maxima = Maxima(self.phi, self.n)
        self.sites = [ScatteredSites(self.phi, self.rule.z, float(n)) for n in self.n]
        self.known: Setting | None = None
        self.reach = 0.0

    # ---- the weight ------------------------------------------------------------------------------

    def _frame(self, setting: Setting) -> tuple[FloatArray, FloatArray]:
        """Matrices that turn v into b and h: root (C, r) and the symmetric root of the covariance (C, C), or none."""
        if not setting.covariance.any():
            return setting.root, np.zeros((len(self.n), 0))
        values, vectors = np.linalg.eigh(setting.covariance)
        return setting.root, np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)

    def _at(self, setting: Setting, v: FloatArray, highest: int = 0) -> _Site:
        """The weight at points, and derivatives of g there up to a total order."""
        root, field_root = self._frame(setting)
        r = root.shape[1]
        b, h = v[:, :r] @ root.T + setting.shift, v[:, r:] @ field_root.T
        low, high = activation_range(self.phi)
        if np.abs(b).max() * (high - low) > _STEEPEST:
            raise NotCovered("the conjugate fields of a layer are too strong for the quadrature")
        log_weight, derived = -0.5 * (v**2).sum(axis=1) - 0.5 * v.shape[1] * math.log(2.0 * math.pi), []
        for c, sites in enumerate(self._sites(setting)):
            g, found = sites(b[:, c], h[:, c], highest)
            log_weight = log_weight + self.n[c] * g
            derived.append(found)
        return _Site(log_weight, b, h, derived)

    def _sites(self, setting: Setting) -> list[ScatteredSites]:
        """The single sites of every class, tables of which serve as long as the setting is the same."""
        if self.known is not setting:
            self.known = setting
            for sites, d, delta in zip(self.sites, setting.d.tolist(), setting.delta.tolist()):
                sites.at(d, delta)
        return self.sites

    def _slopes(self, setting: Setting, v: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """ln of the weight (N,), its gradient (N, D), and minus its second derivatives (N, D, D)."""
        root, field_root = self._frame(setting)
        size, r = len(self.n), root.shape[1]
        both = np.zeros((2 * size, v.shape[1]))
        both[:size, :r], both[size:, r:] = root, field_root
        site = self._at(setting, v, 2)
        b, h, bb, bh, hh = (
            np.array([n * found[ORDERS.index(order)] for n, found in zip(self.n, site.derived)]).T
            for order in ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
        )
        second, at = np.zeros((len(v), 2 * size, 2 * size)), np.arange(size)
        second[:, at, at], second[:, size + at, size + at] = bb, hh
        second[:, at, size + at] = second[:, size + at, at] = bh
        return site.log_weight, np.hstack([b, h]) @ both - v, np.eye(v.shape[1]) - both.T @ second @ both

    # ---- nodes -----------------------------------------------------------------------------------

    def _maxima(self, setting: Setting, lightest: float) -> Peaks:
        """Laplace's mixture of all maxima of the weight that are not lighter than the heaviest by so many nats."""
        b, h = self.maxima.find(setting, lightest, True)
        root, field_root = self._frame(setting)
        v = b @ np.linalg.pinv(root).T
        if field_root.shape[1]:
            v = np.hstack([v, h @ np.linalg.pinv(field_root).T])
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
        coarse = self.rule.depth < _ROUGH_DEPTH
        reach = least = _COARSE if coarse else _FINE
        if self.level is None:
            least = _LEAST_REACH
        else:
            reach = least = self.level + _FINER
        while reach > least and sum(one.count(reach, _deep(reach)) for one in clusters) > _NODES[coarse]:
            reach -= _FINER
        return reach

    def _peaks(self, setting: Setting, lightest: float) -> Peaks:
        """The mixture that shares the weight among its peaks."""
        maxima = self._maxima(setting, lightest)
        return fitted(lambda v: self._at(setting, v).log_weight, maxima, math.exp(-lightest))

    def _build(self, setting: Setting) -> _Nodes:
        """Lattices around all peaks."""
        peaks = self._peaks(setting, _LIGHTEST)
        clusters = clustered(peaks, np.arange(len(peaks.share)))
        self.reach = self._level(clusters)
        return self._lattices(setting, clusters)

    def _build_codes(self, setting: Setting, patterns: tuple[str, ...]) -> dict[str, _Nodes]:
        """Lattices around the peaks of each code, however light it is: of what is theirs of the weight."""
        peaks = self._peaks(setting, _ANY)
        site = self._at(setting, peaks.mean, 2)
        words = code_words(self.phi, np.array([found[ORDERS.index((1, 0))] for found in site.derived]).T)
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
        top, room, patches = -math.inf, _MOST_NODES, []
        for cluster in clusters:
            patch = Patch(cluster, self.reach, rng if self.seed else None)
            top = patch.grow(lambda v: self._at(setting, v).log_weight, depth, top, room)
            room -= len(patch.v)
            patches.append(patch)
        kept = [patch.height > top - depth - _MARGIN for patch in patches]
        v = np.concatenate([patch.v[good] for patch, good in zip(patches, kept)])
        log_cell = np.concatenate([patch.log_cell[good] for patch, good in zip(patches, kept)])
        of_node: IntArray = np.repeat(np.arange(len(kept)), [int(good.sum()) for good in kept])
        frames = [one.frame for one in patches]
        nodes = _Nodes(v, log_cell, peaks.shares(v), (np.empty(0),) * 3, of_node, clusters, frames)
        return nodes._replace(moments=self._moments(setting, nodes))

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
            mean[k], covariance = moments(nodes.v, parts[:, k], share[k])
            spread[k] = covariance + 1e-9 * np.eye(size)
        return share, mean, spread

    def _size(self, setting: Setting) -> int:
        return int(setting.root.shape[1] + self._frame(setting)[1].shape[1])

    # ---- averages --------------------------------------------------------------------------------

    def evaluate(
        self,
        setting: Setting,
        *,
        grow: bool = True,
        detail: bool = False,
        curvature: bool = False,
        samples: bool = False,
    ) -> tuple[Averages, Detail | None]:
        """Averages of a layer; with `grow` nodes are found anew where peaks have moved, and `samples` needs
        `curvature`."""
        if self.nodes is None or (grow and not self._settled(setting, self.nodes)):
            self.nodes = self._build(setting)
        products = Products(len(self.n), curvature, self.last, bool(setting.covariance.any()), samples)
        averages = self._summed(setting, self.nodes, products).averages(products)
        return averages, self._detail(setting, self.nodes) if detail else None

    def evaluate_codes(
        self,
        setting: Setting,
        patterns: tuple[str, ...],
        *,
        grow: bool = True,
        detail: bool = False,
        curvature: bool = False,
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
        products = Products(len(self.n), curvature, self.last, bool(setting.covariance.any()), samples)
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
        for start in range(0, len(nodes.v), _PIECE):
            part = slice(start, start + _PIECE)
            site = self._at(setting, nodes.v[part], 4 if products.curvature else 2)
            log_weight = site.log_weight + nodes.log_cell[part]
            highest = float(log_weight.max())
            if highest > top:
                for total in (plain, once, twice):
                    total *= math.exp(top - highest)
                top = highest
            terms = self._products(site, products, np.exp(log_weight - top))
            plain += terms.sum(axis=1)
            if products.by_readout:
                beta = nodes.v[part, :r]
                once += (terms @ beta).T
                twice += ((beta[:, :, None] * beta[:, None, :]).reshape(len(beta), -1).T @ terms.T).reshape(twice.shape)
        return Totals(top, plain, once, twice)

    def _products(self, site: _Site, products: Products, weight: FloatArray) -> FloatArray:
        """(products, N) times the weight of nodes."""
        columns = []
        for c, found in enumerate(site.derived):
            derivatives = dict(zip(ORDERS, found))
            every = found if products.curvature else None
            parts = class_columns(every, derivatives, site.h[:, c], float(self.n[c]), products.samples, products.sums)
            columns.append(np.ascontiguousarray(parts.T))
        terms = np.empty((len(products.table), len(weight)))
        for row, factors in zip(terms, products.factors):
            before = weight
            for c, at in factors:
                before = np.multiply(before, columns[c][at], out=row)
            if not factors:
                row[:] = weight
        return terms

    def _detail(self, setting: Setting, nodes: _Nodes) -> Detail:
        site = self._at(setting, nodes.v, 2)
        log_weight = site.log_weight + nodes.log_cell
        share = np.exp(log_weight - log_weight.max())
        mean, noise = (np.array([found[ORDERS.index(order)] for found in site.derived]).T for order in ((1, 0), (2, 0)))
        beta = nodes.v[:, : setting.root.shape[1]]
        return Detail(beta, share / share.sum(), site.log_weight, mean, mean**2, noise, site.h)

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
        root, field_root = self._frame(setting)
        r = root.shape[1]
        v = self.nodes.v[rows]
        b, h = v[:, :r] @ root[c], v[:, r:] @ field_root[c] if field_root.shape[1] else np.zeros(len(v))
        g = self._sites(setting)[c](b, h, 0)[0]

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
        before, after = (
            self._at(setting, where).log_weight + self._log_shares(nodes, where, nodes.patch[base])
            for where in (nodes.v[base], v)
        )
        chance = np.exp(np.minimum(after - before, 30.0))
        pick = np.sort(rng.choice(len(v), size=count, p=chance / chance.sum()))
        root, field_root = self._frame(setting)
        b = v[pick, : root.shape[1]] @ root.T
        h = v[pick, root.shape[1] :] @ field_root.T if field_root.shape[1] else np.zeros_like(b)
        return b, h, pick // _COPIES

    def _log_shares(self, nodes: _Nodes, v: FloatArray, patch: IntArray) -> FloatArray:
        """(N,) ln of the part of the weight at points that belongs to the patch of each."""
        found = np.zeros(len(v))
        for k, cluster in enumerate(nodes.clusters):
            found[patch == k] = cluster.log_share(v[patch == k])
        return found
