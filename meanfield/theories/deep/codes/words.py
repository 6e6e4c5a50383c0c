"""Which neurons have which code, where fields h decide it as much as b (THEORY.md, "Codes of neurons").

A neuron is active on a class if its mean activation g_b(b_c, h_c), given both of its fields, is above the midpoint of
phi. With h = U alpha + own fields and given (beta, alpha) classes are independent, so that the law of its word is a sum
over a plain lattice of alpha, in one or two dimensions, of products over classes of what is above and below the
midpoint. That is, at given beta, a function of m_c = (U alpha)_c alone: a table on a line.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import correlate1d
from scipy.sparse import csr_matrix
from scipy.special import betainc, eval_hermitenorm, ndtr

from meanfield.activations.activation import Activation
from meanfield.theories.deep.layers.fields import shared_field, shared_plane
from meanfield.theories.deep.layers.rules import NotCovered, Setting, above, activation_range, beyond, threshold
from meanfield.theories.deep.layers.site import site_rule
from meanfield.validation import FloatArray, IntArray

__all__ = ["OfWord", "WordLaw"]

_REACH, _LOOK = 7.5, (10.0, 20.0, 40.0)  # standard deviations of own fields, of alpha where its weight is looked for
_NEGLIGIBLE, _TRIED = 0.3, 9  # what the tilt moves own fields by, in units of theirs; places in a window of alpha
_ROUGH, _DEPTH = 0.3, 17.0  # spacing of alpha there, and how many nats of its weight are kept
_STEP = 0.35  # spacing of alpha in units of what it must resolve
_CROSSING = 2e-3  # part of the area of the plane in one cell, where two classes may be cut at once
_BLURRED = 0.15  # width of a cell in units of own fields, which it widens
_COARSEST = 3.0  # times that spacing, where there are many nodes
_TABLE = 0.25  # spacing of tables in h, in units of the noise
_OWN, _OF_CELL, _FINE = 0.3, 0.25, 0.06  # spacing of h in units of own fields, or of a cell, and of all fields
_NARROWEST, _BROAD = 1e-3, 0.05  # least own fields in units of all, and where alpha is looked for
_NO_FIELD = 1e-9  # of the largest fields, for a class that has none
_FEWEST = 4  # steps of a table on either side of 0, of a class whose field has next to no variance, too
_MOST, _MOST_AT_ONCE = 12_000_000, 600_000  # nodes times alpha; alpha
_MOST_VALUES = 20_000_000  # of tables: nodes times values of h
_MOST_SUMMED = 1_000_000_000  # terms of sums over own fields: nodes times values of h times taps
_AT_ONCE = 400_000  # nodes times alpha, or times values of h, in temporary arrays
_IN_CELL = (-0.4, -0.2, 0.0, 0.2, 0.4)  # where a cell is looked at, along its sides together
_CERTAIN = 1e-13  # variance of phi, whose higher moments are rounding
_FAR = 30.0  # standard deviations
_NOTHING = 1e-30  # part of the neurons of a node
_MISSED = 1e-4  # of the range of phi, by which means over words may differ from those of the nodes


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
    """weight (N, 2, H) below and above the midpoint, the same times <phi> and <phi^2> there, and g (N, H)."""

    weight: FloatArray
    mean: FloatArray
    square: FloatArray
    g: FloatArray


class WordLaw:
    """The law of words at nodes beta (N, r) of a layer with fields h.

    With `counts` (C,) neurons are active by the mean of phi over so many samples of a class, which given both fields
    has mean g_b, variance g_bb / n_c, and what its skewness and kurtosis change to order 1 / n_c (`_not_normal`); of a
    phi of two values it is binomial.

    Raises
    ------
    NotCovered
        Where classes share more than two fields, or lattices that are fine enough are too large.
    """

    def __init__(
        self, phi: Activation, n: FloatArray, setting: Setting, beta: FloatArray, counts: FloatArray | None = None
    ) -> None:
        self.phi, self.n, self.setting, self.counts = phi, n, setting, counts
        self.b = beta @ setting.root.T + setting.shift
        try:
            own, u = shared_field(setting.covariance)
            shared = u[:, None]
        except NotCovered:
            own, shared = shared_plane(setting.covariance)
            shared = shared @ np.linalg.svd(shared, full_matrices=False)[2].T
        size = np.sqrt(np.diag(setting.covariance))
        self.size = np.maximum(size, _NO_FIELD * size.max())
        self.shared, self.width = shared, np.maximum(np.sqrt(np.maximum(own, 0.0)), _BROAD * self.size)
        self.ends: tuple[FloatArray, FloatArray] | None = None  # the windows of alpha
        self._found: dict[str, OfWord] | None = None
        for look in _LOOK:
            self.low, self.high = self._windows(look)
            box = self.low.min(axis=0), self.high.max(axis=0)
            if float(np.abs(box).max()) < look:
                break
        else:
            raise NotCovered("fields that classes share are far from those of the prior")
        self.width = np.maximum(np.sqrt(np.maximum(own, 0.0)), _NARROWEST * self.size)
        self.ends = self.low, self.high
        self._lattice(box, self._steps(box))

    # ---- lattices --------------------------------------------------------------------------------

    def _steps(self, box: tuple[FloatArray, FloatArray]) -> FloatArray:
        """(k,) spacings of alpha."""
        all_of_it, area = float(np.prod(box[1] - box[0])), float(np.prod(self.high - self.low, axis=1).sum())
        weight = self.stiff / (1.0 + self.width**2 * self.stiff)
        smooth = _STEP / np.sqrt(1.0 + self.shared.T**2 @ weight)
        scale = np.maximum(np.abs(self.shared).max(axis=0), 1e-300)
        # A cell in which two classes are cut counts neurons as if these were independent.
        across = (_CROSSING * float(np.prod(scale))) ** (1.0 / len(scale))
        across = max(across, _BLURRED * float(self.width.min()))
        for wider in (1.0, _COARSEST**0.5, _COARSEST):
            step = np.minimum(smooth, wider * across / scale)
            if max(area / _MOST, all_of_it / _MOST_AT_ONCE) <= float(np.prod(step)):
                return np.asarray(step)
        raise NotCovered("words need too fine a lattice of the fields that classes share")

    def _lattice(self, box: tuple[FloatArray, FloatArray], step: FloatArray) -> None:
        counts = [math.ceil((high - low) / one) + 1 for low, high, one in zip(*box, step)]
        if math.prod(counts) > _MOST_AT_ONCE:
            raise NotCovered("words need too fine a lattice of the fields that classes share")
        self.axes = [np.linspace(low, high, count) for low, high, count in zip(*box, counts)]
        cell = np.array([axis[1] - axis[0] for axis in self.axes])
        self.alpha = np.stack(np.meshgrid(*self.axes, indexing="ij"), -1).reshape(-1, len(counts))
        self.prior = -0.5 * (self.alpha**2).sum(axis=1)
        self.lines = [self._line(c, cell) for c in range(len(self.n))]

    def _line(self, c: int, cell: FloatArray) -> _Line:
        m, width = self.alpha @ self.shared[c], float(self.width[c])
        by = np.asarray(np.abs(self.shared[c]) * cell, dtype=float)
        blurred = min(max(_OWN * width, _OF_CELL * float(by.max())), width)
        step = min(blurred, _FINE * float(self.size[c]), _STEP / math.sqrt(max(float(self.stiff[c]), 1e-300)))
        reach = self._reach(c, width, m)
        # What own fields were summed over is read by cubics, where it may rise by many powers of e from place to place.
        finer = math.ceil(2.0 * (float(np.ptp(m)) + 2.0 * reach) / step), math.ceil(2.0 * reach / step)
        small = finer[0] <= _AT_ONCE // 2 and 4 * len(self.b) * finer[0] <= _MOST_VALUES
        if self.ends is not None and small and 8 * len(self.b) * math.prod(finer) <= _MOST_SUMMED:
            step *= 0.5 if float(self.n[c]) * self._slope(c) * step > 1.0 else 1.0
        taps = math.ceil(reach / step)
        low, count = float(m.min()) - 2.0 * step, math.ceil(float(np.ptp(m)) / step) + 5
        length = count + 2 * taps
        if length > _AT_ONCE or len(self.b) * length > _MOST_VALUES or len(self.b) * length * taps > _MOST_SUMMED:
            raise NotCovered("words need too fine a table of the fields of a class")
        h = np.asarray(low + step * np.arange(-taps, count + taps), dtype=float)
        place = (m - low) / step
        first = np.floor(place).astype(np.int64)
        x = (place - first)[:, None]
        if len(m) * (2 * taps + 2) <= min(count * (2 * taps + 1), _AT_ONCE):  # of these alone
            gauss = np.exp(-0.5 * (step / width * (np.arange(-taps, taps + 2) - x)) ** 2)
            return _Line(h, _stencils(first, gauss / gauss.sum(axis=1, keepdims=True), length), None, by)
        gauss = np.exp(-0.5 * (step / width * np.arange(-taps, taps + 1)) ** 2)
        cubic = [-x * (x - 1) * (x - 2) / 6, (x + 1) * (x - 1) * (x - 2) / 2, -(x + 1) * x * (x - 2) / 2,
                 (x + 1) * x * (x - 1) / 6]  # fmt: skip
        return _Line(h, _stencils(first - 1 + taps, np.hstack(cubic), length), gauss / gauss.sum(), by)

    def _reach(self, c: int, width: float, m: FloatArray) -> float:
        """How far own fields of a class are from 0, tilted by exp(n g(b, m + own)), for fields m at which alpha is.

        Before windows of alpha are known no further than where the tilt by n g outweighs the Gaussian; then by the
        tables of g, at some m of the window of every node.
        """
        h, g = self._sites[c][:2]
        n, variance, least = float(self.n[c]), width**2, _REACH * width
        most = min(n * variance * self._slope(c), math.sqrt(2.0 * n * variance * float(np.ptp(g, axis=0).max())))
        if self.ends is None or most < _NEGLIGIBLE * width:
            return least + most
        ends = [self.shared[c] * end for end in self.ends]
        low, high = np.minimum(*ends).sum(axis=1), np.maximum(*ends).sum(axis=1)
        found = 0.0
        for part in np.linspace(0.0, 1.0, _TRIED):
            own = h[:, None] - (low + part * (high - low))
            log = n * g - 0.5 * own**2 / variance
            near = log > log.max(axis=0) - 0.5 * _REACH**2
            found = max(found, float(np.abs(own[near]).max()))
        return min(max(least, found + float(h[1] - h[0])), least + most)

    def _slope(self, c: int) -> float:
        """Largest |g_h| of a class, at the nodes."""
        h, g = self._sites[c][:2]
        return float(np.abs(np.diff(g, axis=0)).max()) / float(h[1] - h[0])

    def _windows(self, look: float) -> tuple[FloatArray, FloatArray]:
        """Where the weight of alpha is, at every node, from (N, k) to: looked for on a rough lattice."""
        k = self.shared.shape[1]
        reach = look * np.sqrt((self.shared**2).sum(axis=1) * k) + 1.1 * _REACH * self.width
        self._sites = [
            _tables(self.phi, self.setting, c, self.b[:, c], float(reach[c]), self.counts is not None)
            for c in range(len(self.n))
        ]
        low, high = activation_range(self.phi)
        curved = [_curvature(*site[:2]) for site in self._sites]
        self.stiff = self.n * np.minimum((high - low) ** 2 / self.setting.d, curved)
        self._lattice((np.full(k, -look), np.full(k, look)), np.full(k, _ROUGH))
        first, last = np.empty((2, len(self.b), k))
        every = np.arange(len(self.alpha))
        for rows in self._together(np.arange(len(self.b)), np.full(len(self.b), len(every))):
            found = np.repeat(self.prior[:, None], len(rows), axis=1)
            for c in range(len(self.n)):
                weight = self._on_line(c, rows).weight.sum(axis=1, keepdims=True)
                found += np.log(np.maximum(self._read(c, every, weight)[:, 0], 1e-300))
            counts = found > found.max(axis=0) - _DEPTH
            for node, some in zip(rows, counts.T):
                first[node], last[node] = self.alpha[some].min(axis=0), self.alpha[some].max(axis=0)
        return first - _ROUGH, last + _ROUGH

    # ---- sums ------------------------------------------------------------------------------------

    def _together(self, order: IntArray, sizes: FloatArray) -> list[IntArray]:
        """Groups of nodes (N,) in this order, whose arrays with so many values (N,) are not too large."""
        most = _AT_ONCE // max(len(line.h) for line in self.lines)
        groups: list[list[int]] = []
        largest = 0.0
        for node in order:
            largest = max(largest, float(sizes[node]))
            if groups and len(groups[-1]) < most and largest * (len(groups[-1]) + 1) <= _AT_ONCE:
                groups[-1].append(int(node))
            else:
                groups.append([int(node)])
                largest = float(sizes[node])
        return [np.array(group) for group in groups]

    def _blocks(self) -> Iterator[tuple[IntArray, IntArray]]:
        """Nodes, and which alpha have weight there."""
        along = np.array([axis[1] - axis[0] for axis in self.axes])
        sizes = np.prod((self.high - self.low) / along + 2.0, axis=1)
        middle = self.low + self.high
        order = np.argsort(middle[:, np.argmax(np.ptp(middle, axis=0))], kind="stable")
        for rows in self._together(order, 1.5 * sizes):
            low, high = self.low[rows].min(axis=0), self.high[rows].max(axis=0)
            inside = [np.flatnonzero((a >= x) & (a <= y)) for a, x, y in zip(self.axes, low, high)]
            yield rows, np.ravel_multi_index(np.ix_(*inside), [len(axis) for axis in self.axes]).ravel()

    def _on_line(self, c: int, rows: IntArray) -> _OnLine:
        (at, *tables), line = self._sites[c], self.lines[c]
        inside = np.clip(line.h, at[0], at[-1])
        tabled = CubicSpline(at, np.stack([table[:, rows] for table in tables], axis=1))(inside)
        own = tabled.T.swapaxes(0, 1)
        g, mean, variance = own[:3]
        exponent = self.n[c] * g
        exponent = exponent - (exponent - 0.5 * (line.h / self.size[c]) ** 2).max(axis=1, keepdims=True)
        weight = np.exp(np.clip(exponent, -700.0, 200.0))
        excess = mean - threshold(self.phi)
        steep = np.abs(np.gradient(excess, line.h, axis=1))
        # Averaged over cells of alpha, of which the narrower side may be that of h instead, where it is wider.
        across, along = sorted([*line.cell, float(line.h[1] - line.h[0])])[-2:]
        lift = np.zeros_like(mean)
        if self.counts is None:
            on = above(excess, steep * across, steep * along)
        elif _of_two_values(self.phi):
            on, lift = _of_values(self.phi, mean, float(self.counts[c]), steep * (across + along))
        else:
            spread = np.sqrt(np.maximum(variance, 0.0) / self.counts[c])
            on, lift = beyond(excess, spread, steep * across, steep * along)
            more = _not_normal(excess / np.maximum(spread, 1e-300), own[3], own[4], self.counts[c])
            on, lift = np.clip(on + more[0], 0.0, 1.0), lift + spread * more[1]
        sides = np.stack([weight * (1.0 - on), weight * on], axis=1)
        lifted = np.stack([-weight * lift, weight * lift], axis=1)
        return _OnLine(sides, sides * mean[:, None] + lifted, sides * (mean**2 + variance)[:, None], g)

    def _read(self, c: int, at: IntArray, weight: FloatArray) -> FloatArray:
        """(A, k, N) sums over own fields of (N, k, H), at these nodes of alpha (A,)."""
        line, shape = self.lines[c], weight.shape
        if line.own is not None:
            weight = correlate1d(weight, line.own, axis=2, mode="constant")
        table = np.ascontiguousarray(weight.swapaxes(0, 1).reshape(-1, shape[2]).T)
        return np.asarray((line.at[at] @ table).reshape(len(at), shape[1], shape[0]))

    def _of_fields(self, c: int, at: IntArray, others: FloatArray) -> FloatArray:
        """(N, k, H) the transpose of `_read`."""
        line, (a, k, n) = self.lines[c], others.shape
        found = (line.at[at].T @ others.reshape(a, -1)).reshape(-1, k, n).T
        return np.asarray(found if line.own is None else correlate1d(found, line.own, axis=2, mode="constant"))

    def _joint(self, rows: IntArray, at: IntArray, classes: Sequence[int]) -> Iterator[tuple[_OnLine, FloatArray]]:
        """For each of `classes`: the class on its line, and weights (N, 2^(C-1), H) there of all others, by their words
        in the order of `itertools.product`."""
        lines = [self._on_line(c, rows) for c in range(len(self.n))]
        ones = [self._read(c, at, line.weight) for c, line in enumerate(lines)]
        prior = np.exp(self.prior[at])[:, None, None]
        for c in classes:
            others = np.broadcast_to(prior, (len(at), 1, len(rows)))
            for e, one in enumerate(ones):
                if e != c:
                    others = (others[:, :, None] * one[:, None]).reshape(len(at), -1, len(rows))
            yield lines[c], self._of_fields(c, at, np.ascontiguousarray(others))

    def agrees(self, activation: FloatArray, share: FloatArray) -> bool:
        """Whether means over all words are those of the nodes: <phi> (N, C), at shares (N,).

        They are not where forces on different classes pull one field in opposite directions by hundreds of nats, which
        tables of single classes do not hold.
        """
        mean = sum((one.part[:, None] * one.activation for one in self.of_words().values()), np.zeros(activation.shape))
        low, high = activation_range(self.phi)
        off = share @ np.abs(mean - activation) / (share.sum() * (high - low))
        return bool((off < _MISSED).all())

    def of_words(self) -> dict[str, OfWord]:
        """By word, at the nodes; worked out once."""
        if self._found is None:
            self._found = self._of_words()
        return self._found

    def _of_words(self) -> dict[str, OfWord]:
        classes = range(len(self.n))
        words = np.array(list(itertools.product((0, 1), repeat=len(self.n))))
        shape = len(words), len(self.b), len(self.n)
        part, mean, square = np.empty(shape), np.empty(shape), np.empty(shape)
        for rows, at in self._blocks():
            for c, (line, others) in zip(classes, self._joint(rows, at, classes)):
                rest = np.delete(words, c, axis=1) @ (1 << np.arange(len(classes) - 1)[::-1])
                for found, value in ((part, line.weight), (mean, line.mean), (square, line.square)):
                    table = value @ others.swapaxes(1, 2)  # (N, 2, 2^(C-1))
                    found[:, rows, c] = table[:, words[:, c], rest].T
        total = part.sum(axis=0)
        if not (total > 0.0).all():
            raise NotCovered("the law of words has no weight where its class tables have")
        some = part > _NOTHING * total
        mean, square = (np.divide(one, part, out=np.zeros(shape), where=some) for one in (mean, square))
        part = np.where(some, part / total, 0.0).mean(axis=2)
        return {"".join(map(str, word)): OfWord(part[i], mean[i], square[i]) for i, word in enumerate(words)}

    def of_field(self, word: str, c: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """h (H,) of class c, weights over it of neurons with a word (N, H), which sum to their part, and g there."""
        rest = int("0" + word[:c] + word[c + 1 :], 2)
        found, g = (np.empty((len(self.b), len(self.lines[c].h))) for _ in range(2))
        for rows, at in self._blocks():
            line, others = next(self._joint(rows, at, [c]))
            total = (line.weight.sum(axis=1) * others.sum(axis=1)).sum(axis=1)
            found[rows], g[rows] = line.weight[:, int(word[c])] * others[:, rest] / total[:, None], line.g
        return self.lines[c].h, found, g


def _stencils(first: IntArray, values: FloatArray, columns: int) -> csr_matrix:
    """(rows, columns) with the values (rows, k) from column first (rows,) on."""
    rows, k = values.shape
    at = (first[:, None] + np.arange(k)).ravel()
    return csr_matrix((values.ravel(), at, k * np.arange(rows + 1)), shape=(rows, columns))


def _curvature(h: FloatArray, g: FloatArray) -> float:
    """Largest -g_hh over fields h, at the nodes."""
    return max(float(-np.diff(g, 2, axis=0).min()), 0.0) / float(h[1] - h[0]) ** 2


def _not_normal(x: FloatArray, skew: FloatArray, heavy: FloatArray, count: float) -> tuple[FloatArray, FloatArray]:
    """What the shape of the law of a mean of `count` values adds to its probability of being above -x, and to its first
    moment there, in units of its standard deviation: Edgeworth's series to 1 / count."""
    x = np.clip(x, -_FAR, _FAR)
    gauss = np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    odd, even, square = skew / (6.0 * math.sqrt(count)), heavy / (24.0 * count), skew**2 / (72.0 * count)
    he = [eval_hermitenorm(k, -x) for k in range(7)]
    above = odd * he[2] + even * he[3] + square * he[5]
    first = odd * (he[3] + 3.0 * he[1]) + even * (he[4] + 4.0 * he[2]) + square * (he[6] + 6.0 * he[4])
    return gauss * above, gauss * first


def _of_two_values(phi: Activation) -> bool:
    return phi.pieces is not None and len(phi.pieces.intercepts) == 2 and not any(phi.pieces.slopes)


def _of_values(phi: Activation, mean: FloatArray, count: float, change: FloatArray) -> tuple[FloatArray, FloatArray]:
    """What `beyond` gives for the mean of `count` values of a phi that has two: binomial, and inactive at the midpoint;
    where their own mean changes by so much over a cell."""
    low, high = activation_range(phi)
    most = math.floor((threshold(phi) - low) / (high - low) * count)
    p, on, first = (mean - low) / (high - low), np.zeros_like(mean), np.zeros_like(mean)
    for part in _IN_CELL:
        q = np.clip(p + part * change / (high - low), 0.0, 1.0)
        some = betainc(most + 1.0, count - most, q)
        on += some / len(_IN_CELL)
        first += (q * (betainc(float(most), count - most, q) if most > 0 else 1.0) - q * some) / len(_IN_CELL)
    return on, (high - low) * first


def _tables(
    phi: Activation, setting: Setting, c: int, b: FloatArray, reach: float, higher: bool
) -> tuple[FloatArray, ...]:
    """h (H,), and there g, g_b, g_bb, (H, N), with `higher` skewness and excess kurtosis of phi, too."""
    noise = float(setting.d[c])
    step = _TABLE * math.sqrt(noise)
    reach = max(reach, _FEWEST * step)
    h = np.linspace(-reach, reach, 2 * math.ceil(reach / step) + 1)
    rule = site_rule(phi, noise, float(h[0]), float(h[-1]), 0.45, float(np.abs(b).max()))
    if len(h) * len(b) * len(setting.d) > _MOST_VALUES // 3:
        raise NotCovered("tables of so little noise are too large")
    found = np.empty((5 if higher else 3, len(h), len(b)))
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
        total, *sums = (normal @ (tilt * power[:, None]) for power in [value**k for k in range(5 if higher else 3)])
        mean, second, *powers = (one / total for one in sums)
        variance = second - mean**2
        found[:3, part] = np.log(total) + top, mean, variance
        if higher:
            third, fourth = powers
            wide = variance > _CERTAIN
            deviation = np.sqrt(np.where(wide, variance, 1.0))
            skew = third - 3.0 * mean * second + 2.0 * mean**3
            heavy = (fourth - 4.0 * mean * third + 6.0 * mean**2 * second - 3.0 * mean**4) / deviation**4 - 3.0
            found[3:, part] = np.where(wide, skew / deviation**3, 0.0), np.where(wide, heavy, 0.0)
    return h, *found
