"""One class of a layer as a function of its conjugate field b and the common fields m, its own field summed.

sigma^2 Kbar = diag(D) + U U^T: h_c = m_c + D_c^(1/2) xi_c, m = U alpha; given (b, alpha) classes are independent,

    W_c(b, m) = int dh N(h; m, D_c) exp(n_c g_c(b, h)),

and alpha has as many dimensions as U columns: of all D the one of the largest sum leaves fewest, C - 2 mostly, and some
of these are narrow. ln W_c and the means of class functions over the own field are tabulated on a grid of (b, m) and
read by ten points along either axis; tenth differences of ln W_c tell how far apart rows and columns may be.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.deep.compiled.generated.site import KEYS, ORDERS, SAMPLE_KEYS
from meanfield.theories.deep.compiled.grids import TOGETHER, read_grid, read_values
from meanfield.theories.deep.compiled.kernels import POINTS
from meanfield.theories.deep.layers.class_tables import MEANS, SQUARES, PowersOfSums, class_columns
from meanfield.theories.deep.layers.rules import NotCovered, Rule, activation_range
from meanfield.theories.deep.layers.scattered import ScatteredSites, stencil_errors, stencils
from meanfield.theories.deep.layers.site import SiteNodes, site_derivatives, site_values, z_rule
from meanfield.theories.deep.layers.work import spend
from meanfield.validation import BoolArray, FloatArray, IntArray

__all__ = ["ROUGH_DEPTH", "OwnFieldSites", "own_and_common"]

ROUGH_DEPTH = 20.0  # of coarse rules

_JITTER, _NO_OWN, _NO_FIELD = 1e-10, 1e-7, 1e-9  # parts of a variance of h: added, of an own field, of a common one
_BARRIER, _ROUNDS, _NEAR = 1e-12, 40, 1e-3
_NARROW, _HERMITE = 0.25, 16  # of d / n, up to which an own field has so many Gauss-Hermite nodes
_EXACT = {True: 1e-5, False: 1e-8}  # nats of W by interpolation, of coarse rules and of others
_ROUGH = 1e-3  # of those that only shapes of peaks are taken from
_BESIDE = 2e-3  # part of the pairs at which it may be larger
_STEP = {True: 0.4, False: 0.28}  # of rows and columns at first, in units of 1 / range of phi and the width of W
_SAFE, _TRIALS = 0.93, 5
_MARGIN, _WIDER = POINTS // 2 + 1, 0.2
_COLUMNS = 24  # of a table, that share values of h
_FAR, _PRIOR, _EXTENSIONS = 24.0, 7.0, 20  # nats at the ends of h; standard deviations of D, at first
_MOST_TABLE, _MOST_H, _MOST_GRID = 400_000, 6000, 8e6
_AT_ONCE, _DEEPEST = 1 << 21, 600.0  # numbers per temporary array; nats that an exponential may have
_READ = 1.5  # multiplications of a number of a stencil
_STEEPEST = 1500.0


def own_and_common(covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """D (C,) >= 0 of the largest sum, in units of the variances, that leaves covariance (C, C) - diag(D) positive, and
    U (C, r) with U U^T what is left, to 1e-9 of the variances: convex, by Newton's method with a barrier."""
    unit = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    size = len(unit)
    matrix = covariance / np.outer(unit, unit) + _JITTER * np.eye(size)
    own, barrier = np.full(size, 0.5 * max(float(np.linalg.eigvalsh(matrix)[0]), 0.5 * _JITTER)), 0.1
    while barrier > _BARRIER:
        for _ in range(_ROUNDS):
            inverse = np.linalg.inv(matrix - np.diag(own))
            slope = 1.0 - barrier * (np.diag(inverse) - 1.0 / own)
            bent = barrier * (inverse**2 + np.diag(1.0 / own**2))
            step, length = np.linalg.solve(bent, slope), 1.0
            while not _inside(matrix, own + length * step):
                length *= 0.5
            own = own + (1.0 if length == 1.0 else 0.9 * length) * step
            if slope @ step < _NEAR * barrier:
                break
        barrier *= 0.2
    own = np.where(own > _NO_OWN, own, 0.0)
    values, vectors = np.linalg.eigh(matrix - _JITTER * np.eye(size) - np.diag(own))
    kept = values > _NO_FIELD * max(float(values[-1]), 1.0)
    return own * unit**2, unit[:, None] * (vectors[:, kept] * np.sqrt(values[kept]))[:, ::-1]


def _inside(matrix: FloatArray, own: FloatArray) -> bool:
    """Whether own (C,) and matrix (C, C) - diag(own) are positive."""
    return bool(own.min() > 0.0 and np.linalg.eigvalsh(matrix - np.diag(own))[0] > 0.0)


class _Block(NamedTuple):
    """Columns of a table, which values of h they need, and ln of the weights of these (columns, H)."""

    columns: slice
    inside: slice
    law: FloatArray


class _Fields(NamedTuple):
    """Values of h (H,), and which of them columns of a table need."""

    h: FloatArray
    blocks: list[_Block]


def _factors(value: FloatArray, law: FloatArray) -> tuple[FloatArray, FloatArray | None, FloatArray]:
    """exp(value (B, H) + law (M, H)) as weights (B, H) times factors (M, H), or whole (B, M, H) where these would
    underflow, in units of exp(top), (B, 1) or (B, M)."""
    top, high = value.max(axis=1), law.max(axis=1)
    lowest = float((value.min(axis=1) - top).min()) + float(law[np.isfinite(law)].min() - high.max())
    if lowest > -_DEEPEST:
        return np.exp(value - top[:, None]), np.exp(law), top[:, None]
    whole = value[:, None, :] + law
    peak = whole.max(axis=2)
    return np.exp(whole - peak[:, :, None]), None, peak


def _log_sums(value: FloatArray, law: FloatArray) -> FloatArray:
    """ln (B, M) of the sums of exp(value (B, H) + law (M, H))."""
    found = np.empty((len(value), len(law)))
    size = max(1, _AT_ONCE // law.size)
    for start in range(0, len(value), size):
        rows = slice(start, start + size)
        weight, factor, top = _factors(value[rows], law)
        spend(float(weight.size if factor is None else weight.size * len(law)))
        found[rows] = top + np.log(weight.sum(axis=2) if factor is None else weight @ factor.T)
    return found


class _Table:
    """ln W and means of class functions, values (rows, columns, functions) at equally spaced b and m, the first of
    which are `low` (2,)."""

    def __init__(self, low: FloatArray, step: FloatArray, values: FloatArray) -> None:
        self.low, self.step, self.values = low, step, values

    def places(self, b: FloatArray, m: FloatArray) -> tuple[IntArray, IntArray, BoolArray]:
        """First rows and columns of the stencils of pairs (N,), and which of them the table covers."""
        row, column = stencils(self.low, self.step, b, m)
        rows, columns = (size - POINTS for size in self.values.shape[:2])
        return row, column, (row >= 0) & (row <= rows) & (column >= 0) & (column <= columns)


class OwnFieldSites:
    """A class of n samples at settings of (d, delta, D), which share spacings."""

    def __init__(self, phi: Activation, rule: Rule, n: float, rough: bool = False) -> None:
        self.phi, self.rule, self.n = phi, rule, n
        low, high = activation_range(phi)
        self.range = max(high - low, 1e-300)
        self.exact = _ROUGH if rough else _EXACT[rule.depth < ROUGH_DEPTH]
        self.spacing = np.full(2, _STEP[rule.depth < ROUGH_DEPTH])
        self.at(math.nan, 0.0, 0.0)

    def at(self, d: float, delta: float, own: float) -> OwnFieldSites:
        """This, at another noise and own field."""
        self.d, self.delta, self.own = d, delta, own
        self.table: _Table | None = None
        self.highest, self.samples = 0, False  # what the table has besides ln W
        self.sums: PowersOfSums = ()
        self.fields: _Fields | None = None
        self.rows = np.empty(0)
        return self

    def __call__(
        self, b: FloatArray, m: FloatArray, highest: int, samples: bool = False, sums: PowersOfSums = ()
    ) -> tuple[FloatArray, FloatArray | None]:
        """ln W (N,), and unless `highest` is 0 the means (functions, N) of `class_columns`, those with derivatives up
        to this order, at b (N,) and m (N,)."""
        row, column = self._held(b, m, highest, samples, sums)
        assert self.table is not None
        at = (np.ascontiguousarray(b), np.ascontiguousarray(m), self.table.low, self.table.step, row, column)
        if highest == 0:
            log_w = np.empty(len(b))
            spend(_READ * POINTS**2 * float(len(b)))
            read_values(*at, np.ascontiguousarray(self.table.values[:, :, 0]), log_w)
            return log_w, None
        out = np.empty((len(b), self.table.values.shape[2]))
        spend(_READ * POINTS**2 * float(out.size))
        read_grid(*at, self.table.values, out)
        return np.ascontiguousarray(out[:, 0]), np.ascontiguousarray(out[:, 1 : _count(samples, sums) + 1].T)

    # ---- tables ----------------------------------------------------------------------------------

    def cover(self, low: FloatArray, high: FloatArray) -> None:
        """Has a table ready for all b and m between low and high (2,), where it is sure to be asked for."""
        self._held(np.array([low[0], high[0]]), np.array([low[1], high[1]]))

    def _held(
        self, b: FloatArray, m: FloatArray, highest: int = 0, samples: bool = False, sums: PowersOfSums = ()
    ) -> tuple[IntArray, IntArray]:
        """Stencils of pairs, of a table that covers them."""
        if self.table is not None:
            row, column, inside = self.table.places(b, m)
            if inside.all():
                if highest > self.highest or (highest and self.sums != sums) or (samples and not self.samples):
                    self._complete(highest, samples, sums)
                return row, column
        self._build(b, m)
        if highest:
            self._complete(highest, samples, sums)
        assert self.table is not None
        row, column, _ = self.table.places(b, m)
        return row, column

    def _build(self, b: FloatArray, m: FloatArray) -> None:
        """A table of ln W that covers pairs, and what the last one did."""
        low, high = np.array([b.min(), m.min()]), np.array([b.max(), m.max()])
        if self.table is not None:
            first = self.table.low + _MARGIN * self.table.step
            last = self.table.low + (np.array(self.table.values.shape[:2]) - 1 - _MARGIN) * self.table.step
            wide = _WIDER * (np.maximum(high, last) - np.minimum(low, first))
            low, high = np.where(low < first, low - wide, first), np.where(high > last, high + wide, last)
        if max(abs(low[0]), abs(high[0])) * self.range > _STEEPEST:
            raise NotCovered("the conjugate fields of a layer are too strong for the quadrature")
        for trial in range(_TRIALS):
            step = self.spacing * [1.0 / self.range, math.sqrt(self.own + self.d / self.n)]
            count = np.ceil((high - low) / step).astype(int) + 2 * _MARGIN + 1
            if float(count[0]) * float(count[1]) > _MOST_TABLE:
                raise NotCovered("the fields of a layer need too many lattice nodes")
            axes = [low[axis] + step[axis] * (np.arange(count[axis]) - _MARGIN) for axis in (0, 1)]
            log_w, fields = self._values(axes[0], axes[1])
            table = _Table(np.array([axes[0][0], axes[1][0]]), step, log_w[:, :, None])
            row, column, _ = table.places(b, m)
            if trial == _TRIALS - 1 or not self._shorten(log_w, row, column):
                break
        self.highest, self.samples, self.sums = 0, False, ()
        self.table, self.fields, self.rows = table, fields, axes[0]

    def _complete(self, highest: int, samples: bool, sums: PowersOfSums) -> None:
        """Adds the means of class functions to the table."""
        assert self.table is not None
        log_w = np.ascontiguousarray(self.table.values[:, :, 0])
        self.table = _Table(self.table.low, self.table.step, self._means(self.rows, log_w, highest, samples, sums))
        self.highest, self.samples, self.sums = highest, samples, sums

    def _shorten(self, log_w: FloatArray, row: IntArray, column: IntArray) -> bool:
        """Spacings at which few pairs are beyond the allowed error; whether those there are were too long."""
        shorter = False
        for axis in (0, 1):
            worst = float(np.quantile(stencil_errors(log_w, axis)[row, column], 1.0 - _BESIDE))
            longer = (self.exact / max(worst, 1e-300)) ** (1.0 / POINTS)
            if longer < 1.0:
                self.spacing[axis] *= max(_SAFE * longer, 0.25)
                shorter = True
        return shorter

    # ---- the own field ---------------------------------------------------------------------------

    def _fields(self, m: FloatArray, reach: FloatArray) -> _Fields:
        """What is summed over for values m (M,), those from m - reach[0] to m + reach[1]."""
        some = [slice(start, min(start + _COLUMNS, len(m))) for start in range(0, len(m), _COLUMNS)]
        if self._narrow:
            x, weight = np.polynomial.hermite_e.hermegauss(_HERMITE if self.own > 0.0 else 1)
            own = np.log(weight / weight.sum())
            blocks = []
            for columns in some:
                law = np.full((columns.stop - columns.start, columns.stop - columns.start, len(x)), -np.inf)
                at = np.arange(len(law))
                law[at, at] = own
                inside = slice(columns.start * len(x), columns.stop * len(x))
                blocks.append(_Block(columns, inside, law.reshape(len(law), -1)))
            return _Fields((m[:, None] + math.sqrt(self.own) * x).ravel(), blocks)
        step = self.rule.beta / math.sqrt(1.0 / self.own + self.n / self.d)
        first, last = math.floor((m[0] - reach[0]) / step), math.ceil((m[-1] + reach[1]) / step)
        if last - first > _MOST_H:
            raise NotCovered("the fields of a layer need too many lattice nodes")
        h = step * (np.arange(first, last + 1) + self.rule.offset)
        constant, blocks = math.log(step) - 0.5 * math.log(2.0 * math.pi * self.own), []
        for columns in some:
            ends = np.searchsorted(h, [m[columns.start] - reach[0], m[columns.stop - 1] + reach[1]])
            inside = slice(max(int(ends[0]) - 1, 0), int(ends[1]) + 1)
            law = constant - 0.5 * (h[inside] - m[columns, None]) ** 2 / self.own
            blocks.append(_Block(columns, inside, law))
        return _Fields(h, blocks)

    @property
    def _narrow(self) -> bool:
        """Whether every m has nodes of its own, and not a lattice that all share."""
        return self.own <= _NARROW * self.d / self.n

    def _sites(self, b: FloatArray, h: FloatArray) -> SiteNodes:
        return z_rule(self.phi, self.d, float(h.min()), float(h.max()), self.rule.z, float(np.abs(b).max()))

    def _values(self, b: FloatArray, m: FloatArray) -> tuple[FloatArray, _Fields]:
        """ln W (B, M), and the values of h that it takes."""
        reach = np.full(2, _PRIOR * math.sqrt(self.own))
        for _ in range(_EXTENSIONS):
            fields = self._fields(m, reach)
            if float(len(b)) * len(fields.h) > _MOST_GRID:
                raise NotCovered("the fields of a layer need too many lattice nodes")
            value = self.n * site_values(self._sites(b, fields.h), b, fields.h, self.d, self.delta)
            found, ends = np.empty((len(b), len(m))), np.full(2, np.inf)
            for columns, inside, law in fields.blocks:
                here = found[:, columns] = _log_sums(value[:, inside], law)
                for side in (0, -1):
                    off = here - value[:, inside][:, side, None] - law[:, side]
                    ends[side] = min(ends[side], float(off.min()))
            if self._narrow or (ends > _FAR).all():
                return found, fields
            reach = np.where(ends > _FAR, reach, 1.4 * reach)
        raise NotCovered("the fields of a layer reach too far for the quadrature")

    def _means(self, b: FloatArray, log_w: FloatArray, highest: int, samples: bool, sums: PowersOfSums) -> FloatArray:
        """(B, M, functions) ln W and means of class functions over the own field."""
        assert self.fields is not None
        count, fields = _count(samples, sums), self.fields
        h = fields.h
        values = np.zeros((*log_w.shape, -(-(count + 1) // TOGETHER) * TOGETHER))
        values[:, :, 0] = log_w
        nodes, size = self._sites(b, h), max(1, _AT_ONCE // (len(h) * (len(ORDERS) + 2 * count)))
        for start in range(0, len(b), size):
            rows = slice(start, start + size)
            g, derived = site_derivatives(nodes, b[rows], h, self.d, self.delta, highest)
            flat = np.ascontiguousarray(derived.reshape(len(ORDERS), -1))
            every_h = np.broadcast_to(h, g.shape).ravel()
            parts = class_columns(flat, dict(zip(ORDERS, flat)), every_h, self.n, samples, sums).reshape(*g.shape, -1)
            for columns, inside, law in fields.blocks:
                spend(float(g.shape[0]) * law.size * count)
                weight, factor, top = _factors(self.n * g[:, inside], law)
                if factor is None:
                    here = np.matmul(weight, parts[:, inside])
                else:
                    here = np.matmul(factor, weight[:, :, None] * parts[:, inside])
                values[rows, columns, 1 : count + 1] = here * np.exp(top - log_w[rows, columns])[:, :, None]
        return values

    def values(self, b: FloatArray, h: FloatArray) -> FloatArray:
        """g (N,) at fields b and h (N,)."""
        return ScatteredSites(self.phi, self.rule.z, self.n).at(self.d, self.delta)(b, h, 0)[0]

    def drawn(self, b: FloatArray, m: FloatArray, uniform: FloatArray) -> FloatArray:
        """h (N,) of neurons at b and m (N,), by the quantiles `uniform` (N,) of its law given these."""
        found = np.empty(len(b))
        if self.own == 0.0:
            return m.copy()
        step = math.sqrt(1.0 / (1.0 / self.own + self.n / self.d))
        for start in range(0, len(b), 256):
            rows = slice(start, start + 256)
            low, high = (float(end) for end in self._span(b[rows], m[rows]))
            h = np.arange(low, high + step, step)
            g = site_values(self._sites(b[rows], h), b[rows], h, self.d, self.delta)
            log_law = self.n * g - 0.5 * (h - m[rows, None]) ** 2 / self.own
            law = np.exp(log_law - log_law.max(axis=1, keepdims=True))
            total = np.cumsum(law, axis=1)
            wanted = uniform[rows, None] * total[:, -1:]
            at = (total < wanted).sum(axis=1)
            row = np.arange(len(at))
            inside = (wanted[:, 0] - (total - law)[row, at]) / law[row, at]
            found[rows] = h[at] + step * (inside - 0.5)
        return found

    def _span(self, b: FloatArray, m: FloatArray) -> tuple[float, float]:
        """Ends of the h that neurons at these fields may have: h - m is D n g_h at the maximum, |g_h| < |b| times the
        largest slope of the mean of phi, at most the range of phi / sqrt(2 pi d)."""
        strong = self.n * (float(np.abs(b).max()) + abs(self.delta) * self.range) * self.range
        away = _PRIOR * math.sqrt(self.own) + self.own * strong / math.sqrt(2.0 * math.pi * self.d)
        reach = float(np.abs(m).max()) + _PRIOR * math.sqrt(self.own) + 12.0 * math.sqrt(self.d) + 12.0
        return max(float(m.min()) - away, -reach), min(float(m.max()) + away, reach)


def _count(samples: bool, sums: PowersOfSums = ()) -> int:
    """Number of class functions, or of powers of sums in their place."""
    return (len(sums) or len(KEYS)) + len(MEANS) + 1 + (len(SAMPLE_KEYS) + len(SQUARES) if samples else 0)
