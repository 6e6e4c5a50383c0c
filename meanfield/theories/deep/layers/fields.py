"""Quadrature over the fields h of a layer: one shared field alpha, or two, and given it a field of its own for every
class."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.sparse import csr_matrix

from meanfield.activations.activation import Activation
from meanfield.theories.deep.layers.charts import Axis
from meanfield.theories.deep.layers.extent import extent
from meanfield.theories.deep.layers.rows import Rows, even_rows
from meanfield.theories.deep.layers.rules import NotCovered, Rule, Setting, TooFine, activation_range
from meanfield.theories.deep.layers.stiffness import BEYOND, BOUNDED, Region, around, reached, region_of, stiffness_of
from meanfield.validation import BoolArray, FloatArray, IntArray

__all__ = ["Fields", "Plane", "fields_of", "shared_field", "shared_plane"]

_Found = TypeVar("_Found")

_MOST_FIELDS, _MOST_SHARED = 60_000, 400_000
_MOST_PAIRS = 500_000  # values of two shared fields
_MANY = 120  # values of the shared field, above which its spacing is that of the curvature found and not the bound
_FEWEST = 8  # values of the shared field that a fitted spacing leaves where it was fitted
_MISSED = 4.0  # times that curvatures may be larger between the places where they were looked for
_SMOOTH, _STRONG = 0.5, 4.0
_VALUES = 0.5  # spacing of what a class has of two shared fields, in units of that of rows
_CLOSE, _FEWEST_VALUES = 0.2, 40  # and at most, in units of sqrt(d), and how many there are at least between the ends
_PINNED = 0.02  # own variance in units of d / n, below which few Gauss-Hermite nodes do
# Its nodes, and the largest D (n g_h)^2 and D n / d up to which so many (one, two, ...) leave 1e-13 of exp(n g): k of
# them leave x^k k! / (2k)! of exp(sqrt(x) z) over z ~ N(0, 1)
_HERMITE = [np.polynomial.hermite_e.hermegauss(count) for count in range(1, 10)]
_FEW_DO = [(1e-13 * math.factorial(2 * k) / math.factorial(k)) ** (1.0 / k) for k in range(1, 9)]


def shared_field(covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(D, u) with H = diag(D) + u u^T and D >= 0, for a covariance (C, C) of the common fields.

    Raises
    ------
    NotCovered
        If one shared field does not do.
    """
    h = np.asarray(covariance, dtype=float)
    n = len(h)
    scale = max(float(np.diag(h).max()), 1e-300)
    off = h - np.diag(np.diag(h))
    if np.abs(off).max(initial=0.0) < 1e-14 * scale:
        return np.diag(h).copy(), np.zeros(n)
    if n == 2:
        o = h[0, 1]
        # u = (sqrt(|o| r), sign sqrt(|o| / r)) leaves D_1 = a - |o| r and D_2 = b - |o| / r: equal for this r.
        gap = (h[0, 0] - h[1, 1]) / (2.0 * abs(o))
        r = abs(gap) + math.hypot(gap, 1.0)  # of the larger variance; 1 / r of the other one
        r = r if gap >= 0.0 else 1.0 / r
        u = np.array([math.sqrt(abs(o) * r), math.copysign(math.sqrt(abs(o) / r), o)])
        return np.maximum(np.diag(h) - u * u, 0.0), u
    u = _rank_one(off)
    d = np.diag(h) - u * u
    if np.abs(off - (np.outer(u, u) - np.diag(u * u))).max() > 1e-9 * scale or d.min() < -1e-12 * scale:
        raise NotCovered(
            "the kernel of a layer needs more than one field that its classes share; covered are two and three "
            "classes, and tasks whose classes fall into two groups of equal ones, where all classes are positively "
            "correlated"
        )
    return np.maximum(d, 0.0), u


def shared_plane(covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(D, U) with H = diag(D) + U U^T, U (C, 2), and the largest D in proportion to diag(H): for any three classes.

    Raises
    ------
    NotCovered
        If two shared fields do not do.
    """
    size = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    values, vectors = np.linalg.eigh(covariance / np.outer(size, size))
    least = max(float(values[0]), 0.0)
    if len(size) > 3 and values[-3] - least > 1e-9 * values[-1]:
        raise NotCovered(
            "the kernel of a layer needs more than two fields that its classes share; covered are three classes, and "
            "more where they fall into few groups of equal ones"
        )
    top = np.sqrt(np.maximum(values[-2:] - least, 0.0))
    return least * size**2, size[:, None] * vectors[:, -2:] * top


def _rank_one(off: FloatArray) -> FloatArray:
    """u with u_i u_j = off_ij for i != j, if there is one."""
    n = len(off)
    square = np.zeros(n)
    for i in range(n):
        values = [
            off[i, j] * off[i, k] / off[j, k]
            for j, k in itertools.combinations([j for j in range(n) if j != i], 2)
            if off[j, k] != 0.0
        ]
        square[i] = np.mean(values) if values else 0.0
    if (square < 0.0).any():
        return np.zeros(n)  # none
    root = np.sqrt(square)
    i = int(np.argmax(root))
    sign = np.where(off[i] < 0.0, -1.0, 1.0)
    sign[i] = 1.0
    return root * sign


@dataclass(frozen=True, eq=False)
class Plane:
    """Lattice of two shared fields, of which a class has the sum u . alpha alone: it is tabulated over values of that.

    cell (2, 2): edges of a cell; shape: of the grid of nodes; rims: nodes at both its ends along the first and along
    the second axis; own (C, nodes): u . alpha of every class; first (C, nodes) and share (C, nodes, points): with which
    tables are read there; values: those of the tables of every class.
    """

    cell: FloatArray
    shape: tuple[int, int]
    rims: list[IntArray]
    own: FloatArray
    first: IntArray
    share: FloatArray
    values: list[Rows]

    def highest(self, weights: FloatArray, c: int) -> FloatArray:
        """(N, values) the largest weight of the pairs that a value is closest below."""
        found, at = np.zeros((len(weights), len(self.values[c].b))), self.first[c] + self.share.shape[2] // 2 - 1
        order = np.argsort(at, kind="stable")
        columns, begin = np.unique(at[order], return_index=True)
        found[:, columns] = np.maximum.reduceat(weights[:, order], begin, axis=1)
        return found


@dataclass(frozen=True, eq=False)
class Fields:
    """Quadrature of the fields h of a layer for one setting; lists have an entry per class.

    The weight of h = h[c][k] given alpha[j] is exp(log_prior[c][k] - precision[c] (h - centre[c][j])^2 / 2) for
    first[c][j] <= k < last[c][j]; with two shared fields j counts the values of `plane`.
    """

    alpha: FloatArray
    log_alpha: FloatArray  # exponent and lattice weight of every alpha
    h: list[FloatArray]
    log_prior: list[FloatArray]
    centre: list[FloatArray]
    precision: list[float]
    first: list[IntArray]
    last: list[IntArray]
    step: list[float]  # of h; 0 where its nodes follow alpha
    shared: FloatArray  # u (C,), U (C, 2) of two shared fields
    kind: IntArray  # (C,) first class that is like this one
    axis: Axis  # that the lattice of alpha is uniform along
    smooth: float  # spacing of alpha up to which the weight is as smooth as its curvature says
    steepest: float  # bound of the precision of the weight along alpha
    plane: Plane | None = None  # of two shared fields, of which `alpha` only counts the nodes

    @property
    def rims(self) -> list[IntArray]:
        """Nodes at the ends of the lattice of the shared field: at both, or at each of the four of two fields."""
        return [np.array([0, len(self.alpha) - 1])] if self.plane is None else self.plane.rims

    def columns(self, c: int) -> int:
        """How many values of what it shares a class is tabulated at."""
        return len(self.first[c])

    def column(self, at: IntArray, c: int) -> tuple[IntArray, FloatArray]:
        """The column of a class next to nodes `at` (k,) of the shared fields, and how far h is beyond it there."""
        if self.plane is None:
            return at, np.zeros(len(at))
        values, own = self.plane.values[c].b, self.plane.own[c][at]
        nearest = np.clip(np.round((own - values[0]) / (values[1] - values[0])).astype(np.int64), 0, len(values) - 1)
        return nearest, own - values[nearest]

    def by_column(self, weights: FloatArray, c: int) -> FloatArray:
        """(N, columns) weights of the columns of a class from those of shared fields (N, nodes)."""
        if self.plane is None:
            return weights
        first, share = self.plane.first[c], self.plane.share[c]
        nodes, points = share.shape
        column = first[:, None] + np.arange(points)
        read = csr_matrix((share.ravel(), column.ravel(), points * np.arange(nodes + 1)), (nodes, self.columns(c)))
        return np.asarray((read.T @ weights.T).T)

    def inside_cells(self, at: IntArray, copies: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Moves (k, copies, C) of the centres for shared fields drawn from the cells of nodes `at` (k,), and ln of what
        the weight of alpha changes by (k, copies)."""
        if self.plane is not None:
            u, cell = self.shared, self.plane.cell
            alpha = self.plane.own[:, at].T @ np.linalg.pinv(u).T
        else:
            u, alpha = self.shared[:, None], self.alpha[at, None]
            cell = (np.gradient(self.alpha) if len(self.alpha) > 1 else np.zeros(1))[at, None, None]
        move = (rng.random((len(at), copies, alpha.shape[1])) - 0.5) @ cell
        return move @ u.T, -(move * (alpha[:, None] + 0.5 * move)).sum(axis=2)


def fields_of(
    phi: Activation,
    n: FloatArray,
    rule: Rule,
    setting: Setting,
    b: FloatArray,
    h: FloatArray,
    bounds: tuple[FloatArray, FloatArray],
    stretch: float = 1.0,
    axis: Axis | None = None,
    far: tuple[FloatArray, FloatArray] | None = None,
    sides: FloatArray | None = None,
) -> Fields:
    """Lattices that cover the neighbourhood of the maxima (b, h), that of the shared field `stretch` times as wide, or
    `sides` (2, 2) times so far beyond them on both sides of the axes of two.

    The weight is a mixture of Gaussians in the shared field, which bounds its curvature. Where that bound asks for many
    nodes the curvature is computed, over the conjugate fields within `bounds`: many samples make the bound useless.
    `axis`: spacings along the shared field that were fitted to its weight, instead of those of the bound.
    `far`: smallest and largest h (C,) of nodes far from the maxima, where lattices of h may not end.
    """
    n_classes = len(n)
    one, none, whole = np.zeros(1), np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64)
    if not setting.covariance.any():
        copies = [one] * n_classes
        kind = _kinds(n, setting, np.zeros(n_classes), np.zeros(n_classes))
        firsts, lasts = [none] * n_classes, [whole] * n_classes
        zeros = [0.0] * n_classes
        ends = Axis(), math.inf, math.inf
        return Fields(one, one, copies, copies, copies, zeros, firsts, lasts, zeros, one, kind, *ends)
    try:
        variance, u = shared_field(setting.covariance)
    except NotCovered:
        sides = np.ones((2, 2)) if sides is None else sides
        return _plane_fields(phi, n, rule, setting, b, h, bounds, stretch * sides, far)
    kind = _kinds(n, setting, variance, u)
    like = [kind == kind[c] for c in range(n_classes)]
    bounds = _of_all(bounds, like)
    own = setting.d / n  # the weight is a mixture of Gaussians of this variance in h, but for N(h) itself
    stiffness = _alike(kind, lambda c: stiffness_of(phi, n, setting, c, b[:, like[c]].ravel(), h[:, like[c]].ravel()))
    held = 1.0 + float(sum(least * u[c] ** 2 for c, (least, _) in enumerate(stiffness)))
    precision = 1.0 + float(np.sum(u * u / (variance + own)))  # in u alpha it is one of variance + own
    safe = _safe(variance, setting.covariance)
    prior_precision = 1.0 + float(np.sum(u * u / safe))
    step, steepest = rule.alpha / math.sqrt(precision), precision
    centre = (h @ (u / safe)) / prior_precision  # mean of alpha given h
    spread = stretch * (1.0 / math.sqrt(prior_precision) + 1.0 / math.sqrt(held))
    reach = 1.2 * math.sqrt(2.0 * rule.depth) * spread
    low, high = centre.min() - reach, centre.max() + reach
    regions: Sequence[Region | None] = [None] * n_classes
    if high - low > _MANY * step:
        far_out = max(-low, high)
        regions = _alike(kind, lambda c: region_of(phi, n, setting, c, bounds, h[:, like[c]], abs(u[c]) * far_out))
        width = [max(own[c], 1.0 / max(r.stiffness, 1e-300)) for c, r in enumerate(regions) if r is not None]
        precision = 1.0 + float(np.sum(u * u / (variance + np.array(width))))
        step, steepest = rule.alpha / math.sqrt(precision), min(steepest, _MISSED * precision)
    # phi(h) is smooth on the scale of sqrt(d), its law under strong fields b is not.
    proven, (infimum, supremum) = step / rule.alpha, activation_range(phi)
    smooth = max(_SMOOTH * float((np.sqrt(setting.d) / np.maximum(np.abs(u), 1e-300)).min()), proven)
    if max(np.abs(bounds[0]).max(), np.abs(bounds[1]).max()) * (supremum - infimum) > _STRONG:
        smooth, axis = proven, None
    axis = Axis(0.0, step / rule.alpha) if axis is None else axis
    between = np.array([low, high])
    first, last = axis.inverse(between) / rule.alpha - rule.offset
    if last - first < _FEWEST:  # fitted where the weight was, far from here
        axis = Axis(0.0, proven)
        first, last = axis.inverse(between) / rule.alpha - rule.offset
    if not last - first <= _MOST_SHARED:
        raise TooFine("the field that the classes of a layer share needs too fine a lattice")
    place = rule.alpha * (np.arange(math.ceil(first), math.floor(last) + 1) + rule.offset)
    alpha = axis.at(place)
    log_alpha = -0.5 * alpha**2 + np.log(axis.slope(place) * (rule.alpha / math.sqrt(2 * math.pi)))
    classes = []
    for c in range(n_classes):
        if variance[c] < _PINNED * own[c]:
            classes.append(_following(u[c] * alpha, float(variance[c])))
        else:
            at = h[:, like[c]]
            region = regions[c]
            if region is None:
                near = b[:, like[c]].ravel(), at.ravel()
                span = float(variance[c]), float(abs(u[c]) * spread), _ends(far, like[c])
                outer = np.array([bounds[0][c], bounds[1][c]])
                stiffest = around(phi, n, setting, c, near, outer, rule.depth, span, stiffness[c][1])
            else:
                stiffest = max(stiffness[c][1], region.stiffness)
            force = None if region is None else region.force
            classes.append(
                _lattice(
                    rule, u[c] * alpha, float(variance[c]), stiffest, at, abs(u[c]) * spread, force, _ends(far, like[c])
                )
            )
    grids, priors, centres, precisions, firsts, lasts, steps = map(list, zip(*classes))
    return Fields(
        alpha, log_alpha, grids, priors, centres, precisions, firsts, lasts, steps, u, kind, axis, smooth, steepest
    )


def _plane_fields(
    phi: Activation,
    n: FloatArray,
    rule: Rule,
    setting: Setting,
    b: FloatArray,
    h: FloatArray,
    bounds: tuple[FloatArray, FloatArray],
    sides: FloatArray,
    far: tuple[FloatArray, FloatArray] | None,
) -> Fields:
    """The same with two shared fields, alpha ~ N(0, 1) in the plane, on a lattice along the axes of the curvature."""
    variance, u = shared_plane(setting.covariance)
    kind, own = _kinds(n, setting, variance, u), setting.d / n
    like = [kind == kind[c] for c in range(len(n))]
    bounds = _of_all(bounds, like)
    farthest = [np.abs(h[:, at]).max() + BEYOND * math.sqrt(setting.covariance[c, c]) for c, at in enumerate(like)]
    regions = _alike(kind, lambda c: region_of(phi, n, setting, c, bounds, h[:, like[c]], farthest[c]))
    width = variance + [max(own[c], 1.0 / max(region.stiffness, 1e-300)) for c, region in enumerate(regions)]
    precision, axes = np.linalg.eigh(np.eye(2) + (u / width[:, None]).T @ u)
    axes = axes * np.sign(axes[np.argmax(np.abs(axes), axis=0), [0, 1]])  # so that sides keep their names
    safe = _safe(variance, setting.covariance)
    given = np.eye(2) + (u / safe[:, None]).T @ u
    centre = h @ (u / safe[:, None]) @ np.linalg.inv(given) @ axes
    least = _alike(kind, lambda c: stiffness_of(phi, n, setting, c, b[:, like[c]].ravel(), h[:, like[c]].ravel()))
    held = np.eye(2) + (u * np.array([one[0] for one in least])[:, None]).T @ u
    usual = sum(np.sqrt(np.diag(axes.T @ np.linalg.inv(matrix) @ axes)) for matrix in (given, held))
    reach, spread = 1.2 * math.sqrt(2.0 * rule.depth) * usual, usual * sides.max(axis=1)
    step = rule.alpha / np.sqrt(precision)
    low, high = centre.min(axis=0) - reach * sides[:, 0], centre.max(axis=0) + reach * sides[:, 1]
    if not float(np.prod((high - low) / step + 1.0)) <= _MOST_PAIRS:
        raise TooFine("two fields that the classes of a layer share need too fine a lattice")
    lines = [
        np.arange(math.ceil(first / size - rule.offset), math.floor(last / size - rule.offset) + 1)
        for first, last, size in zip(low, high, step)
    ]
    place = np.stack(np.meshgrid(*lines, indexing="ij"), -1)
    number = np.arange(place.shape[0] * place.shape[1]).reshape(place.shape[:2])
    rims = [number[0], number[-1], number[:, 0], number[:, -1]]
    place = (place.reshape(-1, 2) + rule.offset) * step
    alpha = place @ axes.T
    log_alpha = -0.5 * (alpha**2).sum(axis=1) + np.log(step / math.sqrt(2 * math.pi)).sum()
    own_field = u @ alpha.T

    def table(c: int) -> tuple[_Own, Rows, tuple[IntArray, FloatArray]]:
        region = regions[c]
        middle, shared = own_field[c], float(np.linalg.norm(u[c] @ axes * spread))
        # Of a class without stiffness the width is no bound: what it has is smooth on the scale of phi's own noise.
        apart = min(_VALUES * rule.rows * math.sqrt(width[c]), _CLOSE * math.sqrt(setting.d[c]))
        apart = min(apart, float(np.ptp(middle)) / _FEWEST_VALUES)
        if not float(np.ptp(middle)) <= _MOST_FIELDS * apart:
            raise TooFine("two fields that the classes of a layer share are too broad for the width of a class")
        rows = even_rows(float(middle.min()), float(middle.max()), max(apart, 1e-12))
        if variance[c] < _PINNED * own[c]:
            force = float(np.abs(region.force).max())
            mine = _following(rows.b, float(variance[c]), max(force**2, 1.0 / own[c]))
        else:
            stiffest = max(least[c][1], region.stiffness)
            v, site = float(variance[c]), (float(setting.d[c]), float(setting.delta[c]))
            strong, ends = (float(bounds[0][c]), float(bounds[1][c])), (float(middle.min()), float(middle.max()))
            held = extent(phi, float(n[c]), site, strong, ends, v, rule.depth, region)
            at, ends = h[:, like[c]], _ends(far, like[c])
            mine = _lattice(rule, rows.b, v, stiffest, at, shared, region.force, ends, held)
        return mine, rows, rows.stencil(middle)

    classes, values, stencils = (list(part) for part in zip(*_alike(kind, table)))
    grids, priors, centres, precisions, firsts, lasts, steps = map(list, zip(*classes))
    starts, shares = (np.array(one) for one in zip(*stencils))
    shape = len(lines[0]), len(lines[1])
    plane = Plane((axes * step).T, shape, rims, own_field, starts, shares, values)
    every = np.arange(len(alpha), dtype=float)
    return Fields(
        every, log_alpha, grids, priors, centres, precisions, firsts, lasts, steps, u, kind, Axis(), math.inf,
        math.inf, plane,
    )  # fmt: skip


def _safe(variance: FloatArray, covariance: FloatArray) -> FloatArray:
    """Own variances (C,), with a floor for those of classes that have none beside what they share, or next to none."""
    diagonal = np.diag(covariance)
    return np.maximum(variance, np.maximum(1e-10 * diagonal, 1e-20 * diagonal.max()))


def _kinds(n: FloatArray, setting: Setting, variance: FloatArray, u: FloatArray) -> IntArray:
    """For every class the first one of the same size, d, delta and fields: their tables are the same."""
    facts = np.column_stack([n, setting.d, setting.delta, variance, u])
    unit = np.maximum(np.abs(facts).max(axis=0), 1e-300)
    near = (np.abs(facts[:, None] - facts) <= 1e-12 * unit).all(axis=2)
    return np.argmax(near, axis=1)


def _alike(kind: IntArray, of_class: Callable[[int], _Found]) -> list[_Found]:
    """What is found of every class, once for those that are alike."""
    found: list[_Found] = []
    for c, first in enumerate(kind):
        found.append(found[first] if first < c else of_class(c))
    return found


# h, ln of the weight, centre, precision, first, last, step
_Own = tuple[FloatArray, FloatArray, FloatArray, float, IntArray, IntArray, float]


def _following(centre: FloatArray, variance: float, steepness: float = math.inf) -> _Own:
    """A class whose own field is narrow, or none: Gauss-Hermite nodes around the shared one, fewer where it is so
    narrow that exp(n g), of a relative second derivative of `steepness` at most, is nearly constant."""
    x, weight = _HERMITE[np.searchsorted(_FEW_DO, variance * steepness) if variance > 0.0 else 0]
    k, count = len(x), len(centre)
    h = (centre[:, None] + math.sqrt(variance) * x).ravel()
    log_prior = np.tile(np.log(weight / weight.sum()), count)
    first = k * np.arange(count)
    return h, log_prior, np.zeros(count), 0.0, first, first + k, 0.0


def _lattice(
    rule: Rule,
    centre: FloatArray,
    variance: float,
    stiffness: float,
    h: FloatArray,
    shared: float,
    force: tuple[float, float] | None,
    far: tuple[float, float],
    held: tuple[float, float] = (math.inf, -math.inf),
) -> _Own:
    """A lattice in h for all values of the shared field, which spreads h by `shared`; far from the maxima it ends.

    Where the force of the class on h is known to stay within bounds, only the h that it can reach from the shared field
    take part. The lattice is one between the ends `held` at least: where it is read between values of the shared field
    it would be cut off at the outermost ones.
    """
    width = 1.0 / math.sqrt(1.0 / variance + stiffness)
    alone = 1.3 * math.sqrt(2.0 * rule.depth) * math.sqrt(min(9.0 * width**2, variance))
    low, high = reached(h, variance, width, shared, rule.depth, far)
    low, high = min(low, held[0]), max(high, held[1])
    step = rule.h * width * (1.0 if force is None else BOUNDED)
    if high - low > _MOST_FIELDS * step:
        raise NotCovered("the kernel of a layer is nearly of rank one, its classes have no fields of their own")
    index = np.arange(math.floor(low / step), math.ceil(high / step) + 1)
    grid = np.asarray(step * (index + rule.offset), dtype=float)
    log_prior = np.full(len(grid), math.log(step) - 0.5 * math.log(2 * math.pi * variance))
    if force is None:
        first: IntArray = np.zeros(len(centre), dtype=np.int64)
        last: IntArray = first + len(grid)
    else:
        first = np.searchsorted(grid, centre + variance * force[0] - alone)
        last = np.searchsorted(grid, centre + variance * force[1] + alone)
        first = np.minimum(first, len(grid) - 1)
        last = np.maximum(last, first + 1)
    return grid, log_prior, centre, 1.0 / variance, first, last, step


def _of_all(bounds: tuple[FloatArray, FloatArray], like: list[BoolArray]) -> tuple[FloatArray, FloatArray]:
    """Bounds of b (C,), (C,) of all classes that are like each one: they have one table."""
    low, high = bounds
    return np.array([low[at].min() for at in like]), np.array([high[at].max() for at in like])


def _ends(far: tuple[FloatArray, FloatArray] | None, classes: Sequence[int] | BoolArray) -> tuple[float, float]:
    """Smallest and largest h of `far` among these classes."""
    return (math.inf, -math.inf) if far is None else (float(far[0][classes].min()), float(far[1][classes].max()))
