"""Which neurons have which code, where fields h decide it as much as b (THEORY.md, "Codes of neurons").

A neuron is active on a class if its mean activation g_b(b_c, h_c), given both of its fields, is above the midpoint of
phi. With h = U alpha + own fields and given (beta, alpha) classes are independent, so that the law of its word is a sum
over a plain lattice of alpha, in one or two dimensions, of products over classes of what is above and below the
midpoint. That is, at given beta, a function of m_c = (U alpha)_c alone: a table on a line.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import correlate1d
from scipy.sparse import csr_matrix
from scipy.special import ndtr

from meanfield.activations.activation import Activation
from meanfield.theories.deep.fields import shared_field, shared_plane
from meanfield.theories.deep.rules import NotCovered, Setting, activation_range
from meanfield.theories.deep.site import site_rule
from meanfield.validation import FloatArray

__all__ = ["OfWord", "WordLaw"]

_REACH, _LOOK = 7.5, (10.0, 20.0, 40.0)  # standard deviations of own fields, of alpha where its weight is looked for
_ROUGH, _DEPTH = 0.3, 20.0  # spacing of alpha there, and how many nats of its weight are kept
_STEP = 0.35  # spacing of alpha in units of what it must resolve
_CROSSING = 2e-3  # part of the area of the plane in one cell, where two classes may be cut at once
_BLURRED = 0.15  # width of a cell in units of own fields, which it widens
_COARSEST = 3.0  # times that spacing, where there are many nodes
_TABLE = 0.25  # spacing of tables in h, in units of the noise
_OWN, _FINE, _NARROWEST = 0.3, 0.06, 1e-3  # spacing of h in units of own and of all fields; least own one, of all
_CORNERS = ((1.0, 1.0), (1.0, -1.0), (-1.0, -1.0), (-1.0, 1.0))
_MOST, _MOST_AT_ONCE = 12_000_000, 600_000  # nodes times alpha; alpha
_MOST_VALUES = 20_000_000  # of tables: nodes times values of h
_MOST_SUMMED = 1_000_000_000  # terms of sums over own fields: nodes times values of h times taps
_AT_ONCE = 400_000  # nodes times alpha, or times values of h, in temporary arrays
_LOOKED_AT = 300  # nodes, the first of which are the heaviest, by which the extent of alpha is found
_NOTHING = 1e-30  # part of the neurons of a node


class OfWord(NamedTuple):
    """Of the neurons with a word at every node: their part (N,), <phi> (N, C) and <phi^2> (N, C)."""

    part: FloatArray
    activation: FloatArray
    square: FloatArray


class _Line(NamedTuple):
    """A class on its line of h: h (H,); at (A, H) sums over own fields at nodes of alpha, or, with the weights own (of
    an odd number) of own fields, reads at nodes of alpha what these sum to on the line; cell: how much m changes over a
    cell of alpha, by axis."""

    h: FloatArray
    at: csr_matrix
    own: FloatArray | None
    cell: FloatArray


class _OnLine(NamedTuple):
    """weight (2, N, H) below and above the midpoint, g, g_b and g_b^2 + g_bb (N, H)."""

    weight: FloatArray
    g: FloatArray
    mean: FloatArray
    square: FloatArray


class WordLaw:
    """The law of words at nodes beta (N, r) of a layer with fields h.

    Raises
    ------
    NotCovered
        Where classes share more than two fields, or lattices that are fine enough are too large.
    """

    def __init__(self, phi: Activation, n: FloatArray, setting: Setting, beta: FloatArray) -> None:
        self.phi, self.n, self.setting = phi, n, setting
        self.b = beta @ setting.root.T + setting.shift
        try:
            own, u = shared_field(setting.covariance)
            shared = u[:, None]
        except NotCovered:
            own, shared = shared_plane(setting.covariance)
            shared = shared @ np.linalg.svd(shared, full_matrices=False)[2].T
        self.size = np.sqrt(np.diag(setting.covariance))
        self.width = np.maximum(np.sqrt(np.maximum(own, 0.0)), _NARROWEST * self.size)
        self.shared = shared
        for look in _LOOK:
            box = self._box(look)
            if float(np.abs(box).max()) < look:
                break
        else:
            raise NotCovered("fields that classes share are far from those of the prior")
        step = self._steps(float(np.prod(box[1] - box[0])))
        self._lattice(box, step)

    # ---- lattices --------------------------------------------------------------------------------

    def _steps(self, area: float) -> FloatArray:
        """(k,) spacings of alpha."""
        weight = self.stiff / (1.0 + self.width**2 * self.stiff)
        smooth = _STEP / np.sqrt(1.0 + self.shared.T**2 @ weight)
        scale = np.maximum(np.abs(self.shared).max(axis=0), 1e-300)
        # A cell in which two classes are cut counts neurons as if these were independent.
        across = (_CROSSING * float(np.prod(scale))) ** (1.0 / len(scale))
        across = max(across, _BLURRED * float(self.width.min()))
        for wider in (1.0, _COARSEST**0.5, _COARSEST):
            step = np.minimum(smooth, wider * across / scale)
            if len(self.b) * area / float(np.prod(step)) <= _MOST and area / float(np.prod(step)) <= _MOST_AT_ONCE:
                return np.asarray(step)
        raise NotCovered("words need too fine a lattice of the fields that classes share")

    def _lattice(self, box: tuple[FloatArray, FloatArray], step: FloatArray) -> None:
        counts = [math.ceil((high - low) / one) + 1 for low, high, one in zip(*box, step)]
        if math.prod(counts) > _MOST_AT_ONCE:
            raise NotCovered("words need too fine a lattice of the fields that classes share")
        axes = [np.linspace(low, high, count) for low, high, count in zip(*box, counts)]
        cell = np.array([axis[1] - axis[0] for axis in axes])
        self.alpha = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
        self.prior = -0.5 * (self.alpha**2).sum(axis=1)
        self.lines = [self._line(c, cell) for c in range(len(self.n))]

    def _line(self, c: int, cell: FloatArray) -> _Line:
        m, width = self.alpha @ self.shared[c], float(self.width[c])
        step = min(_OWN * width, _FINE * float(self.size[c]), _STEP / math.sqrt(max(float(self.stiff[c]), 1e-300)))
        taps = math.ceil(_REACH * width / step)
        low, count = float(m.min()) - 2.0 * step, math.ceil(float(np.ptp(m)) / step) + 5
        length = count + 2 * taps
        if length > _AT_ONCE or len(self.b) * length > _MOST_VALUES or len(self.b) * length * taps > _MOST_SUMMED:
            raise NotCovered("words need too fine a table of the fields of a class")
        h = np.asarray(low + step * np.arange(-taps, count + taps), dtype=float)
        place = (m - low) / step
        first = np.floor(place).astype(np.int64)
        x = (place - first)[:, None]
        by = np.asarray(np.abs(self.shared[c]) * cell, dtype=float)
        if len(m) * (2 * taps + 2) <= min(count * (2 * taps + 1), _AT_ONCE):  # of these alone
            gauss = np.exp(-0.5 * (step / width * (np.arange(-taps, taps + 2) - x)) ** 2)
            return _Line(h, _stencils(first, gauss / gauss.sum(axis=1, keepdims=True), length), None, by)
        gauss = np.exp(-0.5 * (step / width * np.arange(-taps, taps + 1)) ** 2)
        cubic = [-x * (x - 1) * (x - 2) / 6, (x + 1) * (x - 1) * (x - 2) / 2, -(x + 1) * x * (x - 2) / 2,
                 (x + 1) * x * (x - 1) / 6]  # fmt: skip
        return _Line(h, _stencils(first - 1 + taps, np.hstack(cubic), length), gauss / gauss.sum(), by)

    def _box(self, look: float) -> tuple[FloatArray, FloatArray]:
        """Where the weight of alpha is, at any node: looked for on a rough lattice."""
        k = self.shared.shape[1]
        reach = look * np.sqrt((self.shared**2).sum(axis=1) * k) + 1.1 * _REACH * self.width
        self._sites = [_tables(self.phi, self.setting, c, self.b[:, c], float(reach[c])) for c in range(len(self.n))]
        low, high = activation_range(self.phi)
        curved = [_curvature(*site[:2]) for site in self._sites]
        self.stiff = self.n * np.minimum((high - low) ** 2 / self.setting.d, curved)
        self._lattice((np.full(k, -look), np.full(k, look)), np.full(k, _ROUGH))
        counts = np.zeros(len(self.alpha), dtype=bool)
        for rows in self._blocks(_LOOKED_AT):
            found = self.prior[:, None].copy()
            for c in range(len(self.n)):
                line = self._on_line(c, rows)
                with np.errstate(divide="ignore"):
                    found = found + np.log(np.maximum(self._read(c, line.weight.sum(axis=0)[None])[0], 1e-300))
            counts |= (found > found.max(axis=0) - _DEPTH).any(axis=1)
        inside = self.alpha[counts]
        return inside.min(axis=0) - _ROUGH, inside.max(axis=0) + _ROUGH

    # ---- sums ------------------------------------------------------------------------------------

    def _blocks(self, most: int = _MOST) -> list[slice]:
        longest = max(len(self.alpha), *(len(line.h) for line in self.lines))
        size, count = max(1, _AT_ONCE // longest), min(len(self.b), most)
        return [slice(i, min(i + size, count)) for i in range(0, count, size)]

    def _on_line(self, c: int, rows: slice) -> _OnLine:
        (at, *tables), line = self._sites[c], self.lines[c]
        inside = np.clip(line.h, at[0], at[-1])
        g, mean, variance = (CubicSpline(at, table[:, rows])(inside).T for table in tables)
        exponent = self.n[c] * g
        exponent = exponent - (exponent - 0.5 * (line.h / self.size[c]) ** 2).max(axis=1, keepdims=True)
        weight = np.exp(np.clip(exponent, -700.0, 200.0))
        low, high = activation_range(self.phi)
        excess = mean - 0.5 * (low + high)
        steep = np.abs(np.gradient(excess, line.h, axis=1))
        # Averaged over cells of alpha, of which the narrower side may be that of h instead, where it is wider.
        across, along = sorted([*line.cell, float(line.h[1] - line.h[0])])[-2:]
        on = _above(excess, steep * across, steep * along)
        return _OnLine(weight * np.stack([1.0 - on, on]), g, mean, mean**2 + variance)

    def _read(self, c: int, weight: FloatArray) -> FloatArray:
        """(k, A, N) sums over own fields of (k, N, H), at nodes of alpha."""
        line, shape = self.lines[c], weight.shape
        if line.own is not None:
            weight = correlate1d(weight, line.own, axis=2, mode="constant")
        found = line.at @ weight.reshape(-1, shape[2]).T
        return np.asarray(found.T.reshape(*shape[:2], -1).swapaxes(1, 2))

    def _of_fields(self, c: int, others: FloatArray) -> FloatArray:
        """(k, N, H) the transpose of `_read`."""
        line, (k, a, n) = self.lines[c], others.shape
        found = np.ascontiguousarray((line.at.T @ others.swapaxes(0, 1).reshape(a, -1)).T).reshape(k, n, -1)
        return found if line.own is None else np.asarray(correlate1d(found, line.own, axis=2, mode="constant"))

    def _joint(
        self, rows: slice, classes: list[int], words: list[tuple[int, ...]]
    ) -> Iterator[tuple[_OnLine, FloatArray]]:
        """For each of `classes`: weights (words, N, H) of its h and a word, and the class on its line."""
        lines = [self._on_line(c, rows) for c in range(len(self.n))]
        ones = [self._read(c, line.weight) for c, line in enumerate(lines)]
        prior = np.exp(self.prior)[:, None]
        for c in classes:
            rest = list(dict.fromkeys(word[:c] + word[c + 1 :] for word in words))
            others = np.empty((len(rest), *ones[0].shape[1:]))
            for i, bits in enumerate(rest):
                others[i] = prior
                for e, bit in zip((e for e in range(len(self.n)) if e != c), bits):
                    others[i] *= ones[e][bit]
            back = self._of_fields(c, others)
            at = [rest.index(word[:c] + word[c + 1 :]) for word in words]
            yield lines[c], lines[c].weight[[word[c] for word in words]] * back[at]

    def of_words(self) -> dict[str, OfWord]:
        """By word, at the nodes."""
        words = list(itertools.product((0, 1), repeat=len(self.n)))
        shape = len(words), len(self.b), len(self.n)
        part, mean, square = np.empty(shape), np.empty(shape), np.empty(shape)
        for rows in self._blocks():
            for c, (line, joint) in enumerate(self._joint(rows, list(range(len(self.n))), words)):
                part[:, rows, c] = joint.sum(axis=2)
                mean[:, rows, c] = np.einsum("wnh,nh->wn", joint, line.mean)
                square[:, rows, c] = np.einsum("wnh,nh->wn", joint, line.square)
        total = part.sum(axis=0)
        if not (total > 0.0).all():
            raise NotCovered("the law of words has no weight where its class tables have")
        some = part > _NOTHING * total
        mean, square = (np.divide(one, part, out=np.zeros(shape), where=some) for one in (mean, square))
        part = np.where(some, part / total, 0.0).mean(axis=2)
        return {"".join(map(str, word)): OfWord(part[i], mean[i], square[i]) for i, word in enumerate(words)}

    def of_field(self, word: str, c: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """h (H,) of class c, weights over it of neurons with a word (N, H), which sum to their part, and g there."""
        words = list(itertools.product((0, 1), repeat=len(self.n)))
        chosen = words.index(tuple(map(int, word)))
        found, g = (np.empty((len(self.b), len(self.lines[c].h))) for _ in range(2))
        for rows in self._blocks():
            line, joint = next(iter(self._joint(rows, [c], words)))
            found[rows], g[rows] = joint[chosen] / joint.sum(axis=(0, 2))[:, None], line.g
        return self.lines[c].h, found, g


def _stencils(first: np.ndarray, values: FloatArray, columns: int) -> csr_matrix:
    """(rows, columns) with the values (rows, k) from column first (rows,) on."""
    rows, k = values.shape
    at = (first[:, None] + np.arange(k)).ravel()
    return csr_matrix((values.ravel(), at, k * np.arange(rows + 1)), shape=(rows, columns))


def _curvature(h: FloatArray, g: FloatArray) -> float:
    """Largest -g_hh over fields h, at the nodes."""
    return max(float(-np.diff(g, 2, axis=0).min()), 0.0) / float(h[1] - h[0]) ** 2


def _tables(phi: Activation, setting: Setting, c: int, b: FloatArray, reach: float) -> tuple[FloatArray, ...]:
    """h (H,), and there g, g_b, g_bb, (H, N)."""
    noise = float(setting.d[c])
    h = np.linspace(-reach, reach, 2 * math.ceil(reach / (_TABLE * math.sqrt(noise))) + 1)
    rule = site_rule(phi, noise, float(h[0]), float(h[-1]), 0.45, float(np.abs(b).max()))
    if len(h) * len(b) * len(setting.d) > _MOST_VALUES // 3:
        raise NotCovered("tables of so little noise are too large")
    found = np.empty((3, len(h), len(b)))
    size = max(1, _AT_ONCE // max(len(rule.z), len(b)))
    for start in range(0, len(h), size):
        part = slice(start, start + size)
        inside = slice(*np.searchsorted(rule.z, [h[part][0] - rule.reach, h[part][-1] + rule.reach]))
        at = h[part, None]
        if rule.breaks is None:
            normal = np.exp(-0.5 * (rule.z[inside] - at) ** 2 / noise) * rule.weight[inside]
            normal /= math.sqrt(2.0 * math.pi * noise)
        else:
            ones = np.ones((len(at), 1))
            below = ndtr((rule.breaks - at) / math.sqrt(noise))
            normal = np.diff(np.hstack([0.0 * ones, below, ones]), axis=1)
        value = rule.phi[inside]
        exponent = value[:, None] * b + 0.5 * setting.delta[c] * value[:, None] ** 2
        top = exponent.max(axis=0)
        tilt = np.exp(exponent - top)
        total, first, second = (normal @ (tilt * power[:, None]) for power in (value**0, value, value**2))
        mean = first / total
        found[:, part] = np.log(total) + top, mean, second / total - mean**2
    return h, *found


def _above(excess: FloatArray, across: FloatArray, along: FloatArray) -> FloatArray:
    """Part of a cell in which a linear function is positive: its value in the middle, and changes over both sides."""
    wide = np.maximum(np.maximum(across, along), 1e-100)
    narrow = np.maximum(np.minimum(across, along), 1e-6 * wide)
    ends = [0.5 * np.maximum(excess + sign * 0.5 * (wide + other * narrow), 0.0) ** 2 for sign, other in _CORNERS]
    part = (ends[0] - ends[1] - ends[2] + ends[3]) / (wide * narrow)
    outside = np.abs(excess) >= 0.5 * (wide + narrow)
    return np.where(outside, excess > 0.0, np.clip(part, 0.0, 1.0))
