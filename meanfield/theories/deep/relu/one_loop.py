"""Fluctuations around the saddle at N neurons: the term of order 1/N with outliers (relu/THEORY.md, "One loop").

N - O neurons of the bulk and O outliers at distances r_o along their rays have the joint action

    N Phi(x, r) = (N - O) ln Z_bulk(x) + sum_o ln W_o(r_o; x) + N (what depends on order parameters alone)

with W_o the weight of a neuron at r_o, fields across the ray integrated. Order parameters of single samples and
distances fluctuate: <(x, r)> = saddle - (Phi'')^-1 L' / N, L = -1/2 ln |det Phi''|.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from meanfield.activations.activation import activation
from meanfield.numerics.limits import check_time
from meanfield.posterior.finite_width import OneLoop
from meanfield.theories.deep.fluctuations.expansion import assembled, by_sources, differences, log_fluctuations
from meanfield.theories.deep.fluctuations.sectors import Sector, sectors
from meanfield.theories.deep.layers.rules import Averages, mixed
from meanfield.theories.deep.layers.sums import Totals, combined, tilts
from meanfield.theories.deep.reduction import Members
from meanfield.theories.deep.relu.coordinates import ReluOrder
from meanfield.theories.deep.relu.neurons import CUT, Nodes, RayProducts, line, plane, summed
from meanfield.theories.deep.relu.outlier import condensed, exist, summits
from meanfield.theories.deep.relu.setting import ReluSetting
from meanfield.theories.deep.relu.system import ReluSystem
from meanfield.theories.deep.system import DeepProblem, Order, System
from meanfield.validation import FloatArray, IntArray

__all__ = ["NotSmall", "Place", "ReluLoop", "relu_one_loop"]

_STEP = 0.001  # of differences, over N, of the size of a block of order parameters
_SHIFT = 0.012  # of b: the weight of a class changes by so much
_TILT = 2e-4  # of a weight, by a source
_LARGEST = 0.15  # part of the distance of an outlier that the term of order 1/N may move it by
_KEPT = 64  # sums over nodes that are remembered
_FARTHER = 1.3  # than the field of the farthest outlier: where weights are looked for,
_BEYOND = 9.0  # and so many standard deviations


class NotSmall(ValueError):
    """The term of order 1/N is not a small one; the text says why."""


@dataclass(frozen=True, eq=False)
class Place:
    """Order parameters, and distances (L, o) of the outliers, whitened; 0 where there is none."""

    order: Order
    size: FloatArray


@dataclass(frozen=True, eq=False)
class _Ray:
    """An outlier: its direction (q,) in whitened fields, root of the covariance of the fields across, and nodes there.

    `push` (C,): direction of b along the ray, below the last layer; `reach` (C,): size of its activations.
    """

    unit: FloatArray
    across: FloatArray
    push: FloatArray
    spread: FloatArray
    nodes: Nodes
    reach: FloatArray


@dataclass(frozen=True, eq=False)
class _Bulk:
    root: FloatArray
    nodes: Nodes
    reach: FloatArray


@dataclass(frozen=True, eq=False)
class _Source:
    """Added to ln of the weight of a neuron of the last layer: sum_ce tilde_ce phi_c phi_e / 2 of class sums,
    sum_c delta_c phi^2 / 2 over samples, readout |a|^2 / 2s."""

    tilde: FloatArray
    delta: FloatArray
    readout: float = 0.0


@dataclass(frozen=True, eq=False)
class Found:
    """A layer: averages over all neurons, <|a|^2> / s, and of every outlier derivatives of ln W by r, once and twice,
    and by r and what ln Z is differentiated by (operators,); variance of readouts of outputs without targets."""

    averages: Averages
    square: float
    slope: FloatArray
    along: FloatArray
    mixed: FloatArray
    unseen: float


class ReluLoop:
    """L as a function of order parameters and distances, at the lattice nodes of a saddle at finite N.

    `unseen`: outputs without targets, beside those of the problem.
    """

    def __init__(self, system: ReluSystem, order: ReluOrder, unseen: int = 0) -> None:
        p = system.problem
        self.system, self.width, self.unseen = system, p.width, unseen
        self.problem = DeepProblem(
            activation("relu"),
            p.depth,
            p.n,
            p.y,
            p.tau,
            p.readout_variance,
            k=p.k,
            scales=p.scales,
            ratios=p.ratios,
        )
        self.distinct, self.symmetric = System(self.problem, distinct=True), System(self.problem)
        self._memory: OrderedDict[tuple[object, ...], Totals] = OrderedDict()
        self.bulks: list[_Bulk] = []
        self.rays: list[list[_Ray]] = []
        lengths = np.zeros((p.depth, len(system.words)))
        for layer in range(p.depth):
            width = p.width_of(layer)
            setting, outliers = system.setting(order, layer), math.sqrt(width) * order.outliers(layer)
            lengths[layer] = np.where(exist(order.outliers(layer)), np.linalg.norm(outliers, axis=1), 0.0)
            outliers = outliers[lengths[layer] > 0.0]
            ends = outliers if len(outliers) else _tails(setting, width)
            far = _FARTHER * max(float(np.abs(condensed(setting, beta).h).max()) for beta in ends)
            far += _BEYOND * math.sqrt(float(np.diag(setting.covariance).max()))
            own = np.sqrt(np.diag(setting.covariance) + setting.d)
            most = float(np.linalg.norm(ends, axis=1).max())
            self.bulks.append(_Bulk(setting.root, plane(setting.root, setting, outliers, most, far), own))
            self.rays.append([_ray(setting, beta, far) for beta in outliers])
        self.place = Place(Order(order.kernel, order.d, order.tilde, order.delta, order.t), lengths)
        self.orbits = self._orbits(system.words)

    def _orbits(self, words: tuple[str, ...]) -> FloatArray:
        """(k, L, o) distances that the symmetry makes equal."""
        found = []
        for layer, sizes in enumerate(self.place.size):
            for orbit in self.symmetric.group.patterns(list(words)):
                one = np.zeros_like(self.place.size)
                one[layer] = [size > 0.0 and word in orbit for word, size in zip(words, sizes)]
                if one.any():
                    found.append(one)
        return np.array(found).reshape(len(found), *self.place.size.shape)

    # ---- coordinates -----------------------------------------------------------------------------

    def pack(self, place: Place) -> FloatArray:
        """Coordinates of order parameters and distances, which are made symmetric."""
        sizes = [float((place.size * orbit).sum() / orbit.sum()) for orbit in self.orbits]
        return np.append(self.symmetric.pack(place.order), sizes)

    def unpack(self, z: FloatArray) -> Place:
        """Order parameters and distances of coordinates."""
        at = self.symmetric.size
        return Place(self.symmetric.unpack(z[:at]), np.tensordot(z[at:], self.orbits, 1))

    def scales(self, z: FloatArray) -> FloatArray:
        """Sizes of what the coordinates belong to."""
        at = self.symmetric.size
        return np.append(self.symmetric.scales(z[:at]), z[at:])

    def _symmetric_directions(self) -> FloatArray:
        """(distinct, symmetric) coordinates."""
        n_x, n_z = self.symmetric.size, self.symmetric.size + len(self.orbits)
        columns = []
        for unit in np.eye(n_z):
            order = self.symmetric.unpack(unit[:n_x])
            sizes = np.tensordot(unit[n_x:], self.orbits, 1)[self.place.size > 0.0]
            columns.append(np.append(self.distinct.pack(order), sizes))
        return np.array(columns).T

    # ---- averages --------------------------------------------------------------------------------

    def layers(self, place: Place) -> list[Found]:
        """All layers."""
        return [self.layer(place, layer) for layer in range(self.problem.depth)]

    def layer(self, place: Place, layer: int, source: _Source | None = None) -> Found:
        """One layer. Below the last, conjugate kernels beside those of the saddle are sources of products of
        activations: b, and with it distances along a ray, mean the same for all of them."""
        check_time()
        p, top = self.problem, layer == self.problem.depth - 1
        n_classes, order = len(p.n), place.order
        if top:
            tilde, delta = np.zeros((n_classes, n_classes)), np.zeros(n_classes)
            if source is not None:
                tilde, delta = source.tilde, source.delta
            root = math.sqrt(p.readout_variance) * order.t
        else:
            tilde, delta = order.tilde[layer] - self.place.order.tilde[layer], order.delta[layer]
            root = self.bulks[layer].root
        covariance, d = np.zeros((n_classes, n_classes)), np.full(n_classes, p.k)
        if layer > 0:
            covariance, d = p.scales[layer - 1] * order.kernel[layer - 1], p.scales[layer - 1] * order.d[layer - 1]
        setting = ReluSetting(root, p.n, d, delta, covariance)
        products = RayProducts(n_classes, True, top, setting.has_fields, True)
        readout = 0.0 if source is None else source.readout
        width = self.system.problem.width_of(layer)
        bulk, share = self.bulks[layer], 1.0 - len(self.rays[layer]) / width
        beta = bulk.nodes.beta
        nodes = bulk.nodes.times(0.5 * readout * (beta**2).sum(axis=1))
        total = self._total(nodes, beta @ root.T, beta, setting, products, tilde, bulk.reach)
        parts = [(share, total.averages(products))]
        square = share * float(np.trace(total.twice[:, :, products.one])) / float(total.plain[products.one])
        square += self.unseen / (1.0 - readout)
        slopes, along, crosses = [], [], []
        for ray, size in zip(self.rays[layer], place.size[layer][place.size[layer] > 0.0]):
            push = root @ ray.unit if top else ray.push
            spread = root @ ray.across if top else ray.spread
            beta = size * ray.unit + ray.nodes.beta @ ray.across.T
            b = size * push + ray.nodes.beta @ spread.T
            nodes = ray.nodes.times(
                0.5 * readout * (beta**2).sum(axis=1) - 0.5 * size**2 - 0.5 * math.log(2.0 * math.pi)
            )
            total = self._total(nodes, b, beta, setting, products, tilde, ray.reach)
            parts.append((1.0 / width, total.averages(products)))
            square += float(np.trace(total.twice[:, :, products.one])) / float(total.plain[products.one]) / width
            slope, twice, cross = _along(products, total, push, ray.unit)
            slopes.append(slope - (1.0 - readout) * size)
            along.append(twice - 1.0 + readout)
            crosses.append(cross)
        variance = p.readout_variance / (1.0 - readout)
        return Found(mixed(parts), square, np.array(slopes), np.array(along), np.array(crosses), variance)

    def _total(
        self, nodes: Nodes, b: FloatArray, beta: FloatArray, setting: ReluSetting, products: RayProducts,
        tilde: FloatArray, reach: FloatArray,
    ) -> Totals:  # fmt: skip
        copies = [(1.0, np.zeros(len(setting.n)))]
        if tilde.any():
            copies += tilts(tilde, _SHIFT / (setting.n * reach))
        return combined([(factor, self._sums(nodes, b + shift, beta, setting, products)) for factor, shift in copies])

    def _sums(
        self, nodes: Nodes, b: FloatArray, beta: FloatArray, setting: ReluSetting, products: RayProducts
    ) -> Totals:
        """`summed`; the last ones are remembered, as sources of either sign and moved outliers ask for the same."""
        arrays = nodes.log_prior, b, beta, setting.d, setting.delta, setting.covariance
        key = len(products.table), *(a.tobytes() for a in arrays)
        if key not in self._memory:
            check_time()
            self._memory[key] = summed(nodes, b, beta, setting, products)
            if len(self._memory) > _KEPT:
                self._memory.popitem(last=False)
        return self._memory[key]

    # ---- L ---------------------------------------------------------------------------------------

    def sectors(self, layers: list[Found]) -> list[Sector]:
        """All perturbations: of the classes and of the distances of outliers, and of their samples."""
        found = sectors(self.distinct, [one.averages for one in layers])
        size, count = self.distinct.size, sum(len(one.along) for one in layers)
        hessian, reference = np.zeros((2, size + count, size + count))
        hessian[:size, :size], reference[:size, :size] = found[0].hessian, found[0].reference
        at = size
        for layer, one in enumerate(layers):
            columns, scaled = self.distinct.placement(layer)
            for twice, cross in zip(one.along, one.mixed):
                hessian[at, columns] = hessian[columns, at] = scaled.T @ cross / self.width
                hessian[at, at], reference[at, at] = twice / self.width, -1.0 / self.width
                at += 1
        outer = np.append(found[0].outer, np.ones(count, dtype=bool))
        rest = self._without_targets(layers[-1]) if self.unseen else []
        return [Sector("classes", 1.0, hessian, reference, outer), *found[1:], *rest]

    def _without_targets(self, top: Found) -> list[Sector]:
        """t of outputs whose mean is zero: they mix with nothing, <a^2 phi phi^T> = <a^2> <phi phi^T>."""
        n, name = self.problem.n, "outputs without targets"
        second = np.outer(n, n) * top.averages.kernel + np.diag(n * top.averages.d)
        tau, inner = self.problem.tau, np.zeros(len(n), dtype=bool)
        found = [Sector(name, float(self.unseen), tau * np.diag(n) + top.unseen * second, np.diag(n), inner)]
        for c, size in enumerate(n):
            one = np.array([[tau + top.unseen * top.averages.d[c]]])
            multiplicity = self.unseen * (float(size) - 1.0)
            found.append(Sector(f"samples of class {c}, {name}", multiplicity, one, np.eye(1), inner[:1]))
        return found

    def value(self, layers: list[Found]) -> float:
        """L."""
        return log_fluctuations(self.sectors(layers))

    def observed(self, top: Found) -> FloatArray:
        """Kernel and d of the last layer, and <|a|^2>."""
        return np.concatenate([
            top.averages.kernel.ravel(), top.averages.d, [self.problem.readout_variance * top.square]
        ])  # fmt: skip

    # ---- the term of order 1/N -------------------------------------------------------------------

    def gradient(self, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """dL / dz (k,), and d observed / dz (k, observables); a layer that does not depend on z_i is kept."""
        start = self.layers(self.unpack(z))

        def at(moved: FloatArray) -> tuple[float, FloatArray]:
            there = self.unpack(moved)
            found = [
                self.layer(there, layer) if self._touched(there, layer) else start[layer]
                for layer in range(self.problem.depth)
            ]
            return self.value(found), self.observed(found[-1])

        steps = _STEP / self.width * self.scales(z)
        slope, moving = differences(at, z, np.diag(steps), np.ones(len(z), dtype=bool))
        return slope / steps, moving / steps[:, None]

    def _touched(self, place: Place, layer: int) -> bool:
        one, other = place.order, self.place.order
        names = [] if layer == 0 else [("kernel", layer - 1), ("d", layer - 1)]
        top = layer == self.problem.depth - 1
        names += [] if top else [("tilde", layer), ("delta", layer)]
        changed = any(bool((getattr(one, name)[at] != getattr(other, name)[at]).any()) for name, at in names)
        changed |= top and bool((one.t != other.t).any())
        return changed or bool((place.size[layer] != self.place.size[layer]).any())

    def hessian(self, layers: list[Found]) -> FloatArray:
        """Second derivatives of Phi by the symmetric coordinates."""
        directions = self._symmetric_directions()
        return np.asarray(directions.T @ self.sectors(layers)[0].hessian @ directions)

    def explicit(self, layers: list[Found]) -> FloatArray:
        """What `observed` changes by at fixed order parameters: derivatives of L by sources of its parts."""
        p, n_classes = self.problem, len(self.problem.n)
        reach = max((float(ray.reach.max()) for ray in self.rays[-1]), default=float(self.bulks[-1].reach.max()))
        none, nothing = np.zeros((n_classes, n_classes)), np.zeros(n_classes)

        def by_pair(c: int, e: int) -> float:
            size = _TILT / (p.n[c] * p.n[e] * reach**2)
            tilde = none.copy()
            tilde[c, e] = tilde[e, c] = size
            return float(self._slope(layers, _Source(tilde, nothing)) / size)

        def by_class(c: int) -> float:
            size = _TILT / (p.n.max() * reach**2)
            return float(self._slope(layers, _Source(none, size * np.eye(n_classes)[c])) / size)

        size = _TILT / self.width
        square = 2.0 * p.readout_variance * self._slope(layers, _Source(none, nothing, size)) / size
        return by_sources(self.symmetric, by_pair, by_class, square)

    def _slope(self, layers: list[Found], source: _Source) -> float:
        ends = []
        for sign in (-1.0, 1.0):
            signed = _Source(sign * source.tilde, sign * source.delta, sign * source.readout)
            ends.append(self.value([*layers[:-1], self.layer(self.place, self.problem.depth - 1, signed)]))
        return 0.5 * (ends[1] - ends[0])


def _tails(setting: ReluSetting, width: float) -> FloatArray:
    """(k, q) where a bulk without outliers ends: along a ray its weight is exp(-(1 - gain) x^2 / 2) at most.

    Raises
    ------
    NotSmall
        If one neuron at a standard deviation 1 / sqrt(1 - gain) counts as much as all of the `width` others.
    """
    found = summits(setting)
    least = 1.0 - max(gain for _, gain in found)
    if least * width < 1.0:
        raise NotSmall(f"the tail of a bulk of gain {1.0 - least:.6f} is longer than sqrt(N)")
    return np.array([beta * math.sqrt(2.0 * CUT / (1.0 - gain)) for beta, gain in found])


def _ray(setting: ReluSetting, beta: FloatArray, far: float) -> _Ray:
    size = float(np.linalg.norm(beta))
    unit = beta / size
    across = np.linalg.svd(unit[None])[2][1:].T
    push, spread = setting.root @ unit, setting.root @ across
    activation = condensed(setting, beta).activation
    return _Ray(
        unit, across, push, spread, line(size * push, spread, setting, far),
        np.maximum(activation, float(np.sqrt(setting.d).max())),
    )  # fmt: skip


def _along(products: RayProducts, total: Totals, push: FloatArray, unit: FloatArray) -> tuple[float, float, FloatArray]:
    """Derivatives of ln W by r without its prior: first, second, and by r and every operator (t by t in the last
    layer, whose factors beta grow with r)."""
    norm = float(total.plain[products.one])
    plain, once = total.plain / norm, total.once / norm
    first = plain[products.once]
    slope = float(push @ first)
    twice = float(push @ plain[products.pairs] @ push) - slope**2
    scale = products.coefficient
    cross = scale * (plain[products.mixed] @ push - plain[products.slopes] * slope)
    if products.by_readout:
        n_classes = products.n_classes
        rows = products.mixed[:n_classes]
        readout = np.einsum("qce,e->cq", once[:, rows], push) - slope * once[:, products.slopes[:n_classes]].T
        readout += plain[products.slopes[:n_classes], None] * unit
        cross = np.append(readout.ravel(), cross[n_classes:])
    return slope, twice, cross


def _check_small(loop: ReluLoop, change: Place) -> None:
    """Refuse where fluctuations move an outlier by a good part of its distance: terms beyond 1/N are as large then."""
    size, moved = loop.place.size, change.size / loop.width
    part = np.abs(moved[size > 0.0] / size[size > 0.0])
    if part.max(initial=0.0) > _LARGEST:
        layer = int(np.argmax(np.abs(moved / np.where(size > 0.0, size, 1.0)).max(axis=1)))
        raise NotSmall(
            f"fluctuations move the outliers of layer {layer + 1} by {100.0 * part.max():.0f} % of their distance: N = "
            f"{loop.width:g} is too small for an expansion in 1/N around them"
        )


def relu_one_loop(system: ReluSystem, order: ReluOrder, index: IntArray, span: FloatArray) -> OneLoop:
    """The term of order 1/N at a saddle at finite N; arrays for classes that are `index` of the system's.

    Raises
    ------
    NotSmall
    """
    loop = ReluLoop(system, order, len(span) - span.shape[1])
    z, layers = loop.pack(loop.place), loop.layers(loop.place)
    slope, moving = loop.gradient(z)
    shift = np.asarray(-np.linalg.solve(loop.hessian(layers), slope))
    change = loop.unpack(shift)
    _check_small(loop, change)
    top = loop.explicit(layers) + shift @ moving
    averages, observed = [one.averages for one in layers], loop.observed(layers[-1])
    members = Members(index, np.ones(len(index)))
    return assembled(
        loop.problem, loop.place.order, change.order, averages, observed, top, loop.sectors(layers), members, span,
        system.problem.width,
    )  # fmt: skip
