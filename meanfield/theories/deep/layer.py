"""Averages over the neurons of one layer, by deterministic quadrature (THEORY.md, "One layer").

The weight of a neuron with conjugate fields b and preactivation fields h is

    w(b, h) = N(b; 0, R R^T) N(h; 0, H) prod_c exp(n_c g_c(b_c, h_c)),        b = R beta.

beta in R^r runs over a uniform lattice: w is a positive mixture of unit Gaussians in beta, so that a spacing of 0.95
costs 6e-10 (Poisson summation). H = D + u u^T: given the one shared field alpha the classes are independent, and each
costs a sum over its own h_c. The shared field is on a lattice of proven spacing too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.deep.site import Site, site_table, z_rule
from meanfield.validation import FloatArray

__all__ = [
    "CHECK",
    "COARSE",
    "FINE",
    "Averages",
    "Detail",
    "Layer",
    "NotCovered",
    "Rule",
    "Setting",
    "UnstableCode",
    "code_words",
    "shared_field",
]

_MAX_NODES = 400_000
_BLOCK = 2_000_000  # numbers per temporary array
_LARGEST_EXPONENT = 300.0
_STRIDE = 0.6
_MOST_FIELDS = 5000
_STEEPEST = 500.0  # exp(b phi) must not underflow
_UNSURE = 15.0  # nats: maxima are found roughly, and their widths differ
_RESTART = 12  # maxima are looked for afresh every so many settings
_X = np.linspace(-7.0, 7.0, 43)  # enough for maxima


class NotCovered(ValueError):
    """The integrals of this layer are outside of what the quadrature covers; the text says which."""


class UnstableCode(NotCovered):
    """No neuron is locally stable with the pattern `pattern`."""

    def __init__(self, pattern: str) -> None:
        super().__init__(f"no neuron is locally stable with code {pattern}")
        self.pattern = pattern


class Rule(NamedTuple):
    """How fine the quadrature is: spacings in units of the standard deviation they must resolve."""

    beta: float
    alpha: float
    h: float
    z: float
    depth: float  # nodes lighter than exp(-depth) of the heaviest are left out
    offset: float  # of all lattices, in steps


COARSE = Rule(1.25, 1.15, 0.95, 0.6, 13.0, 0.0)
FINE = Rule(0.92, 0.9, 0.62, 0.45, 27.0, 0.0)
CHECK = Rule(0.8, 0.78, 0.5, 0.37, 31.0, 0.37)


class Setting(NamedTuple):
    """What one layer is given: root (C, r) of the covariance of b, covariance of h (C, C), d and delta (C,)."""

    root: FloatArray
    covariance: FloatArray
    d: FloatArray
    delta: FloatArray


@dataclass(frozen=True, eq=False)
class Averages:
    """<g_b g_b^T> (C, C), <g_bb> (C,), <g_h g_h^T> (C, C), <g_hh> (C,) and ln Z of one layer."""

    log_z: float
    kernel: FloatArray
    d: FloatArray
    tilde: FloatArray
    delta: FloatArray


@dataclass(frozen=True, eq=False)
class Detail:
    """The nodes of a layer: beta (N, r), their share (N,), and given beta the mean g_b, g_bb and field h, (N, C)."""

    beta: FloatArray
    share: FloatArray
    log_weight: FloatArray
    activation: FloatArray
    activation_square: FloatArray
    noise: FloatArray
    field: FloatArray


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
        r = gap + math.hypot(gap, 1.0)
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


@dataclass(eq=False)
class _Grid:
    """Quadrature of the fields h of a layer for one setting."""

    alpha: FloatArray
    log_alpha: FloatArray  # exponent and lattice weight of every alpha
    h: list[FloatArray]  # per class
    log_prior: list[FloatArray]  # ln N(h; 0, D) + ln spacing
    slope: list[float]  # u / D: the shared field multiplies the weight of h by exp(slope alpha h)

    def bins(self, c: int, share: FloatArray) -> Iterator[tuple[Any, FloatArray, FloatArray]]:
        """Rows of `share` (N, n_h), exp(slope alpha (h - h_0)) (n_h, n_alpha), and slope alpha h_0 left out of it.

        h_0 is near the largest weight of these rows, so that nothing overflows where D is small.
        """
        h, steep = self.h[c], self.slope[c] * self.alpha
        largest = float(np.abs(steep).max())
        if largest * float(np.abs(h).max()) <= _LARGEST_EXPONENT:
            yield slice(None), np.exp(np.outer(h, steep)), np.zeros(len(steep))
            return
        width = 0.5 * _LARGEST_EXPONENT / largest
        place = np.round(h[np.argmax(share, axis=1)] / width)
        for one in np.unique(place):
            exponent = np.outer(h - one * width, steep)
            yield (
                np.flatnonzero(place == one),
                np.exp(np.clip(exponent, -600.0, _LARGEST_EXPONENT)),
                one * width * steep,
            )

    def contract(
        self, c: int, share: FloatArray, parts: Sequence[FloatArray] = ()
    ) -> tuple[FloatArray, list[FloatArray]]:
        """ln sum_h share exp(slope alpha h) (N, n_alpha), and the means of `parts` (N, n_h) under these weights."""
        log_z = np.empty((len(share), len(self.alpha)))
        means = [np.empty_like(log_z) for _ in parts]
        for rows, coupling, shift in self.bins(c, share):
            some = share[rows]
            z = np.maximum(some @ coupling, 1e-300)
            log_z[rows] = np.log(z) + shift
            for mean, part in zip(means, parts):
                mean[rows] = ((some * part[rows]) @ coupling) / z
        return log_z, means


@dataclass(eq=False)
class Layer:
    """One layer of given class sizes; keeps the lattice nodes that matter from one evaluation to the next."""

    phi: Activation
    n: FloatArray
    rule: Rule
    index: FloatArray = field(default_factory=lambda: np.empty((0, 0), dtype=np.int64))
    regions: dict[str, FloatArray] = field(default_factory=dict)
    known: tuple[FloatArray, FloatArray] | None = None  # maxima (b, h) of the last setting
    visits: int = 0

    # ---- grids -----------------------------------------------------------------------------------

    def modes(self, setting: Setting, move: bool = True) -> tuple[FloatArray, FloatArray]:
        """Local maxima (b, h), each (k, C), of the weight reached from all sign patterns of b, and 0.

        b <- R R^T n g_b never lowers the weight; h moves by Newton steps. Without `move` those of the last setting are
        good enough.
        """
        n_classes = len(self.n)
        if self.known is not None and self.known[0].shape[1] == n_classes and not move:
            return self.known
        b_cov = setting.root @ setting.root.T
        if self.known is not None and self.visits % _RESTART:
            (b, h), sweeps = self.known, 20
        else:
            (b, h), sweeps = self._starts(setting, b_cov), 60
        self.visits += 1
        for _ in range(sweeps):
            mean, force, stiffness = self._tilted(setting, b, h)
            b = (mean * self.n) @ b_cov
            if setting.covariance.any():
                # Newton in h: (1 - H n g_hh) dh = H n g_h - h, shortened.
                matrix = np.eye(n_classes) + setting.covariance * (self.n * stiffness)[:, None, :]
                wanted = (force * self.n) @ setting.covariance - h
                full = np.linalg.solve(matrix, wanted[:, :, None])[:, :, 0]
                h = h + full * np.minimum(1.0, _STRIDE / np.maximum(np.abs(full).max(axis=1, keepdims=True), 1e-12))
        self.known = _distinct(*self._relevant(setting, b, h))
        return self.known

    def _relevant(self, setting: Setting, b: FloatArray, h: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Maxima that can carry weight; all of them where codes are given."""
        if self.regions:
            return b, h
        beta = b @ np.linalg.pinv(setting.root).T
        value = -0.5 * (beta**2).sum(axis=1)
        if setting.covariance.any():
            value = value - 0.5 * ((h @ np.linalg.pinv(setting.covariance, hermitian=True)) * h).sum(axis=1)
        root = np.sqrt(setting.d)[:, None]
        phi = self.phi(h[:, :, None] + root * _X)
        exponent = b[:, :, None] * phi + 0.5 * setting.delta[:, None] * phi**2 - 0.5 * _X * _X
        top = exponent.max(axis=2)
        g = top + np.log(np.exp(exponent - top[:, :, None]).sum(axis=2))
        value = value + g @ self.n
        kept = value > value.max() - self.rule.depth - _UNSURE
        return b[kept], h[kept]

    def _starts(self, setting: Setting, b_cov: FloatArray) -> tuple[FloatArray, FloatArray]:
        n_classes = len(self.n)
        low, high = _range(self.phi)
        middle = 0.5 * (low + high)
        patterns = np.array(list(itertools.product((low, high), repeat=min(n_classes, 8))))
        if n_classes > 8:
            patterns = np.vstack([np.where(np.eye(n_classes, dtype=bool), a, b) for a, b in ((low, high), (high, low))])
        patterns = np.vstack([patterns, patterns - middle, np.zeros((1, n_classes))])
        b = (patterns * self.n) @ b_cov
        h = np.zeros_like(b)
        if setting.covariance.any():
            h = 2.0 * np.sqrt(np.diag(setting.covariance)) * np.sign(b)
        return b, h

    def _tilted(self, setting: Setting, b: FloatArray, h: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """<phi>, g_h and max(0, -g_hh) at pairs of b and h (k, C)."""
        root = np.sqrt(setting.d)[:, None]
        phi = self.phi(h[:, :, None] + root * _X)
        exponent = b[:, :, None] * phi + 0.5 * setting.delta[:, None] * phi**2 - 0.5 * _X * _X
        weight = np.exp(exponent - exponent.max(axis=2, keepdims=True))
        weight /= weight.sum(axis=2, keepdims=True)
        first = (weight * _X).sum(axis=2)
        second = (weight * _X * _X).sum(axis=2) - first**2
        return (weight * phi).sum(axis=2), first / root[:, 0], np.maximum(1.0 - second, 0.0) / setting.d

    def _grid(self, setting: Setting, b: FloatArray, h: FloatArray) -> _Grid:
        n_classes = len(self.n)
        if not setting.covariance.any():
            one = np.zeros(1)
            return _Grid(one, one, [one] * n_classes, [one] * n_classes, [0.0] * n_classes)
        variance, u = shared_field(setting.covariance)
        # A shared field that carries all of a class leaves no density of its own: keep a little.
        variance = np.maximum(variance, 1e-6 * np.diag(setting.covariance) + 1e-12)
        rule = self.rule
        grids, priors = [], []
        held = 1.0
        for c in range(n_classes):
            least, stiffness = self._stiffness(setting, c, b[:, c], h[:, c])
            held += least * u[c] ** 2
            width = 1.0 / math.sqrt(1.0 / variance[c] + stiffness)
            prior = math.sqrt(setting.covariance[c, c])
            reach = math.sqrt(2.0 * rule.depth)
            low = min(h[:, c].min() - 1.3 * reach * min(3.0 * width, prior), -0.8 * prior)
            high = max(h[:, c].max() + 1.3 * reach * min(3.0 * width, prior), 0.8 * prior)
            step = rule.h * width
            if high - low > _MOST_FIELDS * step:
                raise NotCovered("the kernel of a layer is nearly of rank one, its classes have no fields of their own")
            grid = step * (np.arange(math.floor(low / step), math.ceil(high / step) + 1) + rule.offset)
            grids.append(grid)
            prior_log = -0.5 * grid**2 / variance[c] - 0.5 * math.log(2 * math.pi * variance[c]) + math.log(step)
            priors.append(prior_log)
        precision = 1.0 + float(np.sum(u * u / variance))
        step = rule.alpha / math.sqrt(precision)
        # The mean of alpha given h is u.(h/D) / precision.
        centre = (h @ (u / variance)) / precision
        own = 1.2 * math.sqrt(2.0 * rule.depth) * (1.0 / math.sqrt(precision) + 1.0 / math.sqrt(held))
        low, high = centre.min() - own, centre.max() + own
        alpha = step * (np.arange(math.floor(low / step), math.ceil(high / step) + 1) + rule.offset)
        log_alpha = -0.5 * precision * alpha**2 + math.log(step / math.sqrt(2 * math.pi))
        return _Grid(alpha, log_alpha, grids, priors, [float(x) for x in u / variance])

    def _stiffness(self, setting: Setting, c: int, b: FloatArray, h: FloatArray) -> tuple[float, float]:
        """Smallest (at least 0) and largest -n g_hh at the modes, the curvature of the weight of class c in h."""
        low, high = float(h.min()), float(h.max())
        nodes = z_rule(self.phi, float(setting.d[c]), low, high, 0.6, float(np.abs(b).max()))
        site = site_table(nodes, b, h, float(setting.d[c]), float(setting.delta[c]))
        curvature = np.maximum(-self.n[c] * np.diag(site.hh), 0.0)
        return float(curvature.min()), float(curvature.max())

    # ---- evaluation at nodes ---------------------------------------------------------------------

    def _tables(self, setting: Setting, grid: _Grid, low: FloatArray, high: FloatArray) -> list[_Table]:
        return [
            _Table.build(self.phi, self.rule, setting, c, grid.h[c], float(low[c]), float(high[c]))
            for c in range(len(self.n))
        ]

    def _log_weight(self, setting: Setting, grid: _Grid, tables: list[_Table], beta: FloatArray) -> FloatArray:
        """(N,) ln of the weight of lattice nodes, fields h integrated."""
        b = beta @ setting.root.T
        total = -0.5 * (beta**2).sum(axis=1)[:, None] + grid.log_alpha
        for c, table in enumerate(tables):
            _, top, share = table.weights(b[:, c], self.n[c], grid.log_prior[c])
            total = total + top[:, None] + grid.contract(c, share)[0]
        highest = total.max(axis=1)
        return np.asarray(highest + np.log(np.exp(total - highest[:, None]).sum(axis=1)))

    def _sums(self, setting: Setting, grid: _Grid, tables: list[_Table], beta: FloatArray) -> _Sums:
        """Log weights (N, n_alpha) and conditional means given (beta, alpha) of one block of nodes."""
        b = beta @ setting.root.T
        total = -0.5 * (beta**2).sum(axis=1)[:, None] + grid.log_alpha
        means = []
        for c, table in enumerate(tables):
            site, top, share = table.weights(b[:, c], self.n[c], grid.log_prior[c], full=True)
            assert isinstance(site, Site)
            field = np.broadcast_to(grid.h[c], share.shape)
            log_z, mean = grid.contract(c, share, [site.b, site.b**2, site.bb, site.h, site.h**2, site.hh, field])
            total = total + top[:, None] + log_z
            means.append(mean)
        return _Sums(total, means)

    # ---- what a posterior asks -------------------------------------------------------------------

    def log_density(self, setting: Setting, beta: FloatArray) -> FloatArray:
        """ln of the weight at any beta (k, r), fields h integrated, without the normalisation of N(beta; 0, 1)."""
        grid, _ = self._prepare(setting)
        tables = self._tables(setting, grid, *self._bounds(setting, beta, 0.0))
        return self._log_weight(setting, grid, tables, beta)

    def class_law(self, setting: Setting, beta: FloatArray, c: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Grid of h_c (n_h,), and at nodes beta (N, r): weights over that grid (N, n_h) and g_c there (N, n_h)."""
        grid, _ = self._prepare(setting)
        tables = self._tables(setting, grid, *self._bounds(setting, beta, 0.0))
        b = beta @ setting.root.T
        total = np.broadcast_to(grid.log_alpha, (len(beta), len(grid.alpha)))
        for e, table in enumerate(tables):
            site, top, share = table.weights(b[:, e], self.n[e], grid.log_prior[e], full=e == c)
            log_z, _ = grid.contract(e, share)
            total = total + top[:, None] + log_z
            if e == c:
                assert site is not None
                own, g, own_z = share, site.g, log_z
        weight = np.exp(total - total.max(axis=1, keepdims=True))
        joint = np.empty_like(own)
        for rows, coupling, shift in grid.bins(c, own):
            joint[rows] = own[rows] * ((weight[rows] * np.exp(shift - own_z[rows])) @ coupling.T)
        return grid.h[c], joint / joint.sum(axis=1, keepdims=True), g

    def draw(self, setting: Setting, beta: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, Any]:
        """Neurons (b, h), each (k, C), from nodes beta (k, r) drawn by their shares, and the row each came from.

        The nodes are moved inside their cells and resampled in proportion to the exact weight there; then h given b.
        """
        count, copies = len(beta), 12
        moved = np.repeat(beta, copies, axis=0) + self.rule.beta * (rng.random((count * copies, beta.shape[1])) - 0.5)
        grid, _ = self._prepare(setting)
        tables = self._tables(setting, grid, *self._bounds(setting, moved, 0.0))
        weight = self._log_weight(setting, grid, tables, moved)
        base = np.repeat(self._log_weight(setting, grid, tables, beta), copies)
        chance = np.exp(np.minimum(weight - base, 30.0))
        pick = np.sort(rng.choice(len(moved), size=count, p=chance / chance.sum()))
        chosen = moved[pick]
        b = chosen @ setting.root.T
        h = np.zeros_like(b)
        if not setting.covariance.any():
            return b, h, pick // copies
        total = np.broadcast_to(grid.log_alpha, (count, len(grid.alpha)))
        shares = []
        for c, table in enumerate(tables):
            _, top, share = table.weights(b[:, c], self.n[c], grid.log_prior[c])
            shares.append(share)
            total = total + top[:, None] + grid.contract(c, share)[0]
        alpha = _pick(np.exp(total - total.max(axis=1, keepdims=True)), rng)
        for c, share in enumerate(shares):
            with np.errstate(divide="ignore"):
                exponent = np.log(share) + np.outer(grid.slope[c] * grid.alpha[alpha], grid.h[c])
            row = _pick(np.exp(exponent - exponent.max(axis=1, keepdims=True)), rng)
            step = grid.h[c][1] - grid.h[c][0]
            h[:, c] = grid.h[c][row] + step * (rng.random(count) - 0.5)
        return b, h, pick // copies

    # ---- lattice ---------------------------------------------------------------------------------

    def _nodes(self, index: FloatArray) -> FloatArray:
        return np.asarray(self.rule.beta * (index + self.rule.offset))

    def _prepare(self, setting: Setting, move: bool = True) -> tuple[_Grid, FloatArray]:
        b, h = self.modes(setting, move)
        return self._grid(setting, b, h), b @ np.linalg.pinv(setting.root).T

    def evaluate(self, setting: Setting, *, grow: bool = True, detail: bool = False) -> tuple[Averages, Detail | None]:
        """Averages of a layer; with `grow` the set of nodes is brought up to date first."""
        grid, modes = self._prepare(setting, grow)
        r = setting.root.shape[1]
        if self.index.shape[1] != r or not len(self.index):
            self.index = _unique(np.round(modes / self.rule.beta - self.rule.offset).astype(np.int64))
            grow = True
        if grow:
            self._grow(setting, grid, modes)
        return self._average(setting, grid, detail, self.index)

    def readout_moments(self, setting: Setting, scale: float) -> tuple[float, FloatArray, FloatArray]:
        """ln Z, its gradient (C m,) and Hessian (C m, C m) in t for a top layer with root = scale * t.

        Given a = scale * beta, d ln w / dt_c = a n_c g_b,c; the Hessian is the covariance of that and n_c <a a^T g_bb>.
        """
        grid, modes = self._prepare(setting)
        self._grow(setting, grid, modes)
        beta = self._nodes(self.index)
        tables = self._tables(setting, grid, *self._bounds(setting, beta, 0.0))
        size = self._block(grid)
        parts = [self._sums(setting, grid, tables, beta[i : i + size]).second() for i in range(0, len(beta), size)]
        log_weight, first, product, noise = (np.concatenate(part) for part in zip(*parts))
        top = float(log_weight.max())
        w = np.exp(log_weight - top)
        log_z = top + math.log(w.sum()) + beta.shape[1] * math.log(self.rule.beta / math.sqrt(2 * math.pi))
        w /= w.sum()
        a = scale * beta
        m, n_classes = a.shape[1], len(self.n)
        score = (first * self.n)[:, :, None] * a[:, None, :]
        gradient = np.tensordot(w, score, 1).ravel()
        outer = (w[:, None, None] * a[:, :, None] * a[:, None, :]).reshape(len(w), m * m)
        pairs = (product * np.outer(self.n, self.n)).reshape(len(w), n_classes * n_classes)
        hessian = (pairs.T @ outer).reshape(n_classes, n_classes, m, m).transpose(0, 2, 1, 3)
        own = ((noise * self.n).T @ outer).reshape(n_classes, m, m)
        hessian = hessian.reshape(n_classes * m, n_classes * m) - np.outer(gradient, gradient)
        for c in range(n_classes):
            rows = slice(c * m, (c + 1) * m)
            hessian[rows, rows] += own[c]
        return log_z, gradient, hessian

    def evaluate_codes(
        self, setting: Setting, patterns: tuple[str, ...], *, grow: bool = True, detail: bool = False
    ) -> list[tuple[Averages, Detail | None]]:
        """Averages over the neurons of each code alone: those below the local maximum of the weight with its pattern.

        Raises
        ------
        UnstableCode
            If the weight has no local maximum with that pattern.
        """
        for pattern in patterns:
            self.regions.setdefault(pattern, np.empty((0, 0), dtype=np.int64))
        b, h = self.modes(setting, grow)
        grid = self._grid(setting, b, h)
        mean = self._tilted(setting, b, h)[0]
        words = code_words(self.phi, mean)
        inverse = np.linalg.pinv(setting.root)
        results = []
        for pattern in patterns:
            rows = np.flatnonzero(words == pattern)
            if not len(rows):
                raise UnstableCode(pattern)
            if grow or not len(self.regions[pattern]):
                seeds = np.round((b[rows] @ inverse.T) / self.rule.beta - self.rule.offset).astype(np.int64)
                self.regions[pattern] = self._basin(setting, grid, seeds)
            results.append(self._average(setting, grid, detail, self.regions[pattern]))
        return results

    def _basin(self, setting: Setting, grid: _Grid, seeds: Any) -> FloatArray:
        """Nodes reached from a maximum without ever climbing, down to the depth that counts."""
        r = setting.root.shape[1]
        cube = np.array(list(itertools.product((-1, 0, 1), repeat=r)), dtype=np.int64)
        low, high = self._bounds(setting, self._nodes(seeds), 14.0)
        tables = self._tables(setting, grid, low, high)
        at = _unique(seeds)
        for _ in range(40):
            around = _unique((at[:, None, :] + cube).reshape(-1, r))
            low_now, high_now = self._bounds(setting, self._nodes(around), 0.0)
            if (low_now < low).any() or (high_now > high).any():
                raise NotCovered("a code's maximum moved out of reach")
            best = around[np.argmax(self._blocked(setting, grid, tables, around))]
            if len(at) == 1 and (best == at[0]).all():
                break
            at = best[None, :]
        steps = cube  # along the axes alone a ridge across them would look like a climb
        top = float(self._blocked(setting, grid, tables, at)[0])
        kept, frontier, heights, seen = [at], at, np.array([top]), _keys(at)
        while len(frontier):
            around = (frontier[:, None, :] + steps).reshape(-1, r)
            keys, first, where = np.unique(_keys(around), return_index=True, return_inverse=True)
            ceiling = np.full(len(keys), -np.inf)
            np.maximum.at(ceiling, where.ravel(), np.repeat(heights, len(steps)))
            fresh = ~np.isin(keys, seen)
            around, ceiling = around[first[fresh]], ceiling[fresh]
            if not len(around):
                break
            seen = np.concatenate([seen, keys[fresh]])
            low_now, high_now = self._bounds(setting, self._nodes(around), 0.0)
            if (low_now < low).any() or (high_now > high).any():
                low, high = np.minimum(low, low_now - 1.0), np.maximum(high, high_now + 1.0)
                tables = self._tables(setting, grid, low, high)
            found = self._blocked(setting, grid, tables, around)
            good = (found <= ceiling) & (found > top - self.rule.depth - 2.0)
            frontier, heights = around[good], found[good]
            kept.append(frontier)
            if sum(map(len, kept)) > _MAX_NODES:
                raise NotCovered(f"a code needs more than {_MAX_NODES} lattice nodes")
        return np.concatenate(kept)

    def _bounds(self, setting: Setting, beta: FloatArray, margin: float) -> tuple[FloatArray, FloatArray]:
        b = beta @ setting.root.T
        extra = margin * np.sqrt((setting.root**2).sum(axis=1)) + 1e-9
        return b.min(axis=0) - extra, b.max(axis=0) + extra

    def _grow(self, setting: Setting, grid: _Grid, modes: FloatArray) -> None:
        """Flood the lattice from the modes and the old nodes until its rim is negligible."""
        rule = self.rule
        r = setting.root.shape[1]
        seeds = np.round(modes / rule.beta - rule.offset).astype(np.int64)
        index = _unique(np.vstack([self.index.reshape(-1, r), seeds]))
        steps = np.vstack([np.eye(r, dtype=np.int64), -np.eye(r, dtype=np.int64)])
        reach = 8.0
        low, high = self._bounds(setting, self._nodes(index), reach)
        tables = self._tables(setting, grid, low, high)
        known = np.empty((0, r), dtype=np.int64)
        weight = np.empty(0)
        new = index
        while len(new):
            low_now, high_now = self._bounds(setting, self._nodes(new), 0.0)
            if (low_now < low).any() or (high_now > high).any():
                low, high = self._bounds(setting, self._nodes(np.vstack([known, new])), reach)
                tables = self._tables(setting, grid, low, high)
            found = self._blocked(setting, grid, tables, new)
            known, weight = np.vstack([known, new]), np.append(weight, found)
            if len(known) > _MAX_NODES or np.abs(new).max() >= _HALF - 2:
                raise NotCovered(f"a layer needs more than {_MAX_NODES} lattice nodes")
            alive = new[found > weight.max() - rule.depth]
            around = (alive[:, None, :] + steps).reshape(-1, r)
            new = _difference(around, known)
        self.index = known[weight > weight.max() - rule.depth - 4.0]

    def _blocked(self, setting: Setting, grid: _Grid, tables: list[_Table], index: FloatArray) -> FloatArray:
        size = self._block(grid)
        beta = self._nodes(index)
        parts = [self._log_weight(setting, grid, tables, beta[i : i + size]) for i in range(0, len(beta), size)]
        return np.concatenate(parts)

    def _block(self, grid: _Grid) -> int:
        widest = max(len(grid.alpha), *(len(h) for h in grid.h))
        return max(16, _BLOCK // widest // 8)

    def _average(
        self, setting: Setting, grid: _Grid, detail: bool, index: FloatArray
    ) -> tuple[Averages, Detail | None]:
        beta = self._nodes(index)
        tables = self._tables(setting, grid, *self._bounds(setting, beta, 0.0))
        size = self._block(grid)
        n_classes = len(self.n)
        top, total = -np.inf, 0.0
        kernel, tilde = np.zeros((n_classes, n_classes)), np.zeros((n_classes, n_classes))
        d, delta = np.zeros(n_classes), np.zeros(n_classes)
        rows = []
        for i in range(0, len(beta), size):
            sums = self._sums(setting, grid, tables, beta[i : i + size])
            high = float(sums.log_weight.max())
            if high > top:
                shrink = math.exp(top - high)
                top = high
                for array in (kernel, tilde, d, delta):
                    array *= shrink
                total *= shrink
            w = np.exp(sums.log_weight - top)
            total += float(w.sum())
            for c, (b1, b2, bb, h1, h2, hh, _) in enumerate(sums.means):
                kernel[c, c] += float((w * b2).sum())
                d[c] += float((w * bb).sum())
                tilde[c, c] += float((w * h2).sum())
                delta[c] += float((w * hh).sum())
                wb, wh = w * b1, w * h1
                for e in range(c):
                    kernel[c, e] += float(np.vdot(wb, sums.means[e][0]))
                    tilde[c, e] += float(np.vdot(wh, sums.means[e][3]))
            if detail:
                rows.append(sums.collapsed())
        for matrix in (kernel, tilde):
            matrix += np.tril(matrix, -1).T
        r = setting.root.shape[1]
        log_z = top + math.log(total) + r * math.log(self.rule.beta / math.sqrt(2 * math.pi))
        averages = Averages(log_z, kernel / total, d / total, tilde / total, delta / total)
        if not detail:
            return averages, None
        log_weight, *others = (np.concatenate(parts) for parts in zip(*rows))
        share = np.exp(log_weight - log_weight.max())
        return averages, Detail(beta, share / share.sum(), log_weight, *others)


class _Sums(NamedTuple):
    log_weight: FloatArray
    means: list[list[FloatArray]]

    def second(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Log weight (N,), means of g_b (N, C), g_b g_b^T (N, C, C) and g_bb (N, C) given the node."""
        log_weight, first, square, noise, _ = self.collapsed()
        top = self.log_weight.max(axis=1, keepdims=True)
        w = np.exp(self.log_weight - top)
        w /= w.sum(axis=1, keepdims=True)
        n_classes = len(self.means)
        product = np.empty((len(w), n_classes, n_classes))
        for c in range(n_classes):
            product[:, c, c] = square[:, c]
            for e in range(c):
                product[:, c, e] = product[:, e, c] = (w * self.means[c][0] * self.means[e][0]).sum(axis=1)
        return log_weight, first, product, noise

    def collapsed(self) -> tuple[FloatArray, ...]:
        """Log weight (N,) and means of g_b, g_b^2, g_bb, h given the node, (N, C)."""
        top = self.log_weight.max(axis=1, keepdims=True)
        w = np.exp(self.log_weight - top)
        z = w.sum(axis=1)
        log_weight = top[:, 0] + np.log(z)
        wanted = [np.stack([(w * mean[k]).sum(axis=1) / z for mean in self.means], axis=1) for k in (0, 1, 2, 6)]
        return (log_weight, *wanted)


@dataclass(eq=False)
class _Table:
    """g and derivatives of one class on Chebyshev nodes in b times the grid in h, interpolated in b."""

    low: float
    high: float
    site: Site
    bary: FloatArray
    nodes: FloatArray

    @classmethod
    def build(
        cls, phi: Activation, rule: Rule, setting: Setting, c: int, h: FloatArray, low: float, high: float
    ) -> _Table:
        infimum, supremum = _range(phi)
        half = max(0.5 * (high - low), 1e-9)
        if max(abs(low), abs(high)) * (supremum - infimum) > _STEEPEST:
            raise NotCovered("the conjugate fields of a layer are too strong for the quadrature")
        ratio = 3.0 / (half * max(supremum - infimum, 1e-9))  # nearest zeros of exp(g): i pi / (range of phi)
        growth = math.log(ratio + math.sqrt(1.0 + ratio**2))
        digits = 16.0 if rule.depth < 20 else 34.0
        count = max(8, math.ceil(digits / growth) + 4)
        theta = math.pi * (np.arange(count) + 0.5) / count
        nodes = 0.5 * (low + high) + half * np.cos(theta)
        bary = (-1.0) ** np.arange(count) * np.sin(theta)
        d, delta = float(setting.d[c]), float(setting.delta[c])
        quadrature = z_rule(phi, d, float(h.min()), float(h.max()), rule.z, max(abs(low), abs(high)))
        return cls(low, high, site_table(quadrature, nodes, h, d, delta), np.asarray(bary, dtype=float), nodes)

    def _interpolation(self, b: FloatArray) -> FloatArray:
        difference = b[:, None] - self.nodes
        exact = difference == 0.0
        difference[exact] = 1.0
        weight = self.bary / difference
        weight[exact.any(axis=1)] = 0.0
        weight[exact] = 1.0
        return np.asarray(weight / weight.sum(axis=1, keepdims=True))

    def weights(
        self, b: FloatArray, n: float, log_prior: FloatArray, full: bool = False
    ) -> tuple[Site | None, FloatArray, FloatArray]:
        """Site at (N, n_h), largest exponent (N,), weights exp(n g) N(h; 0, D) relative to it (N, n_h)."""
        matrix = self._interpolation(b)
        g = matrix @ self.site.g
        exponent = n * g + log_prior
        top = exponent.max(axis=1)
        share = np.exp(exponent - top[:, None])
        site = Site(g, *(matrix @ part for part in self.site[1:])) if full else None
        return site, top, share


def code_words(phi: Activation, mean: FloatArray) -> FloatArray:
    """(k,) patterns of mean activations (k, C): "1" above the midpoint of the range of phi."""
    low, high = _range(phi)
    return np.array(["".join("1" if x > 0.5 * (low + high) else "0" for x in row) for row in mean])


def _distinct(b: FloatArray, h: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rows that differ from all earlier ones by more than 2 % of the spread."""
    both = np.hstack([b, h])
    unit = np.maximum(np.abs(both).max(axis=0), 1e-12)
    kept: list[int] = []
    for i, row in enumerate(both):
        if all(np.abs((row - both[j]) / unit).max() > 0.02 for j in kept):
            kept.append(i)
    return b[kept], h[kept]


def _pick(weights: FloatArray, rng: np.random.Generator) -> FloatArray:
    """One column per row, in proportion to the weights."""
    total = np.cumsum(weights, axis=1)
    return np.asarray((total < rng.random((len(total), 1)) * total[:, -1:]).sum(axis=1))


def _range(phi: Activation) -> tuple[float, float]:
    return (phi.infimum, phi.supremum) if phi.bounded else (-1.0, 1.0)


_HALF, _WIDTH = 1 << 15, 1 << 16  # lattice indices lie within 32768 steps of the origin


def _keys(index: FloatArray) -> FloatArray:
    """One integer per row of lattice indices."""
    r = index.shape[1]
    return np.asarray((index + _HALF) @ (np.int64(_WIDTH) ** np.arange(r - 1, -1, -1, dtype=np.int64)))


def _unique(index: FloatArray) -> FloatArray:
    """Distinct rows."""
    _, first = np.unique(_keys(index), return_index=True)
    return index[first]


def _difference(candidates: Any, known: Any) -> FloatArray:
    """Rows of `candidates` that are not rows of `known`, once each."""
    candidates = _unique(candidates)
    return candidates[~np.isin(_keys(candidates), _keys(known))]
