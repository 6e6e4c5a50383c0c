"""What a posterior asks of neurons of a layer of exchangeable classes: laws of one class, powers of means, draws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from meanfield.theories.deep.exchangeable.averages import ExchangeLayer
from meanfield.theories.deep.exchangeable.monomials import moment_algebra
from meanfield.theories.deep.exchangeable.sums import power, through
from meanfield.theories.deep.layers.rules import Setting
from meanfield.validation import FloatArray

__all__ = ["ClassLaw", "class_law", "drawn", "mean_powers"]

_PLAIN, _FIRST = np.zeros((1, 3), dtype=np.int64), np.zeros(1, dtype=np.int64)
_BATCHES = 8  # lattices, shifted evenly from a random place, that neurons are drawn from
_AT_ONCE = 256


class ClassLaw(NamedTuple):
    """The law of the fields of one class at nodes: weight (2, C, R, H), by whether it is active and on how many of the
    other classes the neuron is; b (R,), h (H,), g and mean of phi (R, H); d and delta of the class."""

    weight: FloatArray
    b: FloatArray
    h: FloatArray
    g: FloatArray
    mean: FloatArray
    d: float
    delta: float

    def of(self, word: str | None, c: int) -> FloatArray:
        """(R, H) the law of class c over neurons of a code, or of all."""
        if word is None:
            return np.asarray(self.weight.sum(axis=(0, 1)) / self.weight.sum())
        own = int(word[c])
        chosen = self.weight[own, word.count("1") - own]
        return np.asarray(chosen / chosen.sum())

    def density(self, phi: Callable[[FloatArray], FloatArray], share: FloatArray) -> Callable[[FloatArray], FloatArray]:
        """z -> density of the preactivation on a sample of the class, for a law (R, H)."""
        top = self.g.max(axis=1, keepdims=True)
        inside = share * np.exp(top - self.g)

        def density(z: FloatArray) -> FloatArray:
            found = np.empty(len(z))
            for start in range(0, len(z), _AT_ONCE):
                at = z[start : start + _AT_ONCE]
                gauss = np.exp(-0.5 * (at - self.h[:, None]) ** 2 / self.d) / math.sqrt(2.0 * math.pi * self.d)
                value = phi(at)
                tilt = np.exp(np.clip(self.b[:, None] * value + 0.5 * self.delta * value**2 - top, -700.0, 700.0))
                found[start : start + _AT_ONCE] = ((inside @ gauss) * tilt).sum(axis=0)
            return found

        return density

    def on_and_off(self) -> tuple[float, float]:
        """Mean of <phi> over neurons where it is above and below the midpoint."""
        below, over = self.weight.sum(axis=1)
        with np.errstate(invalid="ignore"):
            active, silent = ((share * self.mean).sum() / share.sum() for share in (over, below))
        return float(active), float(silent)


def class_law(layer: ExchangeLayer, setting: Setting) -> ClassLaw:
    """The law of the fields of one class."""
    whole = layer.word_nodes(setting)
    lattice, count = whole.lattice, whole.count
    mean, on = whole.means()
    share = np.stack([1.0 - on, on])
    total, scale = np.zeros((2, count, *mean.shape)), -math.inf
    for nodes in whole.apart():
        for i, (prior, (near, terms)) in enumerate(zip(nodes.prior(), nodes.terms())):
            split, log = nodes.weights(terms, share[:, :, near])
            parts = nodes.spread(split.sum(axis=2)[..., None])
            others = power(np.ascontiguousarray(parts.transpose(0, 2, 1)), count - 1, _PLAIN)
            height, rest = nodes.others(i, nodes.by_part(parts[..., 0]), others)
            rest = np.stack([rest[:, nodes.rows]] * 2)
            if nodes.sector is not None:
                active = np.arange(2)[:, None] + np.arange(count)
                rest = rest * (active == nodes.sector.active)[..., None]
            log += prior + height
            if log > scale:
                total *= math.exp(scale - log) if math.isfinite(scale) else 0.0
                scale = log
            total[:, :, :, near] += math.exp(log - scale) * (rest[..., None] * split[:, None]).real
    s = whole.numbers
    return ClassLaw(total, whole.b, lattice.h, whole.g, mean, s.d, s.delta)


def mean_powers(
    layer: ExchangeLayer, setting: Setting, one: float | None = None, other: float | None = None
) -> tuple[FloatArray, FloatArray]:
    """Twice (5, 5) <S^i S'^j>, i + j <= 4, S and S' the sums of phi over `one` and `other` samples, all of a class if
    not given: of two classes, and of one (not where these are all of its samples)."""
    nodes, algebra = layer.nodes(setting), moment_algebra()
    counts = [float(layer.n[0]) if count is None else float(count) for count in (one, other)]
    orders = [(i, j) for i, j in itertools.product(range(5), repeat=2) if i + j <= 4]
    sums = tuple(tuple(((count, 0.0), k) for count, k in zip(counts, pair) if k) for pair in orders)
    values = dict(zip(orders, np.moveaxis(nodes.columns(4, sums)[..., : len(sums)], -1, 0)))
    single = [0, *(algebra.index(**{f"power{i}": 1}) for i in range(1, 5))]

    def coefficients(v: FloatArray) -> FloatArray:
        found = np.zeros((*v.shape[:2], len(algebra.monomials)), dtype=v.dtype)
        found[..., single] = v
        return found

    def totals(*columns: FloatArray) -> FloatArray:
        stacked = np.ascontiguousarray(np.stack([values[0, 0], *columns], axis=-1))
        return layer.totals(nodes, algebra, stacked, coefficients, False)[1].sum(axis=0)

    def pair(total: FloatArray, i: int, j: int) -> float:
        at = {f"power{i}": 2} if i == j else {f"power{i}": 1, f"power{j}": 1}
        return float((2.0 if i == j else 1.0) * total[algebra.index(**at)] / (nodes.count * (nodes.count - 1)))

    first, second = (lambda i: values[i, 0]), (lambda j: values[0, j])
    apart, within = np.zeros((2, 5, 5))
    low = totals(first(1), second(2), second(3), first(4))  # S once, the other often, and the reverse
    high = low if counts[0] == counts[1] else totals(second(1), first(2), first(3), second(4))
    both = low if counts[0] == counts[1] else totals(first(1), first(2) + second(2), first(3), first(4))
    apart[0, 0] = 1.0
    for i, (mine, others) in enumerate([(low, high), (high, low), (high, low), (low, high)], 1):
        apart[i, 0], apart[0, i] = mine[single[i]] / nodes.count, others[single[i]] / nodes.count
    apart[1, 1] = pair(low, 1, 1) * counts[1] / counts[0]
    apart[1, 2:4], apart[2:4, 1] = ([pair(total, 1, j) for j in (2, 3)] for total in (low, high))
    apart[2, 2] = pair(low, 2, 2)
    if both is not low:
        apart[2, 2] = 0.5 * (pair(both, 2, 2) - pair(low, 2, 2) - pair(high, 2, 2))
    within[:, 0], within[0] = apart[:, 0], apart[0]
    for places in ([(1, 1), (1, 2), (2, 1), (2, 2)], [(1, 3), (3, 1), (1, 1), (1, 1)]):
        total = totals(*(values[place] for place in places))
        for place, at in zip(places, single[1:]):
            within[place] = total[at] / nodes.count
    return apart, within


def drawn(
    layer: ExchangeLayer, setting: Setting, count: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Neurons (b, h), each (count, C), from lattices that are shifted evenly from a random place.

    Shifts that are all random leave codes whose cut runs through nodes with more neurons, or less, than chance does.
    """
    found, first = [], float(rng.random())
    sizes = np.diff(np.linspace(0, count, min(_BATCHES, count) + 1).astype(int))
    for i, size in enumerate(sizes):
        offset = (first + i / len(sizes)) % 1.0
        shifted = ExchangeLayer(layer.phi, layer.n, layer.rule._replace(offset=offset), layer.last)
        found.append(_Draw(shifted, setting).neurons(int(size), rng))
    b, h = zip(*found)
    return np.concatenate(b), np.concatenate(h)


class _Draw:
    """One class after the other, each given those before: its b, then its h, alpha being summed over throughout."""

    def __init__(self, layer: ExchangeLayer, setting: Setting) -> None:
        whole = self.nodes = layer.nodes(setting)
        size, count = len(whole.lattice.b), whole.count
        self.near, self.weight, self.active, ones = [], [], [], []
        logs: list[float] = []
        self.ahead: list[list[FloatArray]] = [[] for _ in range(count)]  # by classes to come: of sums so far
        share = None if whole.on is None else np.stack([1.0 - whole.on, whole.on])
        for nodes in whole.apart():
            for prior, (near, terms) in zip(nodes.prior(), nodes.terms()):
                weight, log = nodes.weights(terms, None if share is None else share[:, :, near])
                one = weight.sum(axis=2)
                parts = nodes.spread(one[..., None])
                height, law = nodes.law(len(logs) % len(nodes.theta), parts[..., 0])
                self.near.append(near)
                self.weight.append(weight)
                self.active.append(0 if nodes.sector is None else nodes.sector.active)
                ones.append(one)
                logs.append(prior + height + log)
                self.ahead[0].append(law[None])
                for left in range(1, count):
                    sums = np.empty((1, 1, (count - left) * (size - 1) + 1))
                    rest = power(np.ascontiguousarray(parts.transpose(0, 2, 1)), left, _PLAIN)
                    self.ahead[left].append(through(law, rest, sums, _FIRST)[:, 0])
        self.one = np.array(ones)
        self.rest = [np.array(some) for some in self.ahead]
        self.start = np.exp(np.array(logs) - max(logs))

    def neurons(self, count: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """b and h (count, C)."""
        lattice, classes = self.nodes.lattice, self.nodes.count
        b, h = np.empty((count, classes)), np.empty((count, classes))
        parts = self.one.shape[1]
        for k in range(count):
            amplitude, total, active = self.start.astype(self.one.dtype), 0, 0
            for c in range(classes):
                left = classes - 1 - c
                rest = np.zeros(self.one.shape, dtype=self.rest[left].dtype)  # if it is inactive, and active
                for own in range(parts):
                    missing = np.array(self.active) - active - own
                    some = np.flatnonzero((missing >= 0) & (missing <= left))
                    rest[some, own] = self.rest[left][some, missing[some]][:, total + self.nodes.rows]
                pick = _pick((amplitude @ (self.one * rest).reshape(len(amplitude), -1)).real, rng)
                own, at = divmod(pick, len(self.nodes.rows))
                law = np.zeros(len(lattice.h))
                for factor, near, weight in zip(amplitude * rest[:, own, at], self.near, self.weight):
                    law[near] += (factor * weight[own, at]).real
                field = _pick(law, rng)
                amplitude = amplitude * np.array([
                    weight[own, at, field - near.start] if near.start <= field < near.stop else 0.0
                    for near, weight in zip(self.near, self.weight)
                ])  # fmt: skip
                amplitude = amplitude / np.abs(amplitude).max()
                total += int(self.nodes.rows[at])
                active += own
                b[k, c], h[k, c] = self.nodes.b[at], lattice.h[field]
        return b, h


def _pick(weight: FloatArray, rng: np.random.Generator) -> int:
    """An index in proportion to weights, of which rounding may leave some below 0."""
    total = np.cumsum(np.maximum(weight, 0.0))
    return int(np.searchsorted(total, rng.random() * total[-1], side="right"))
