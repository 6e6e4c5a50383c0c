"""An imaginary field of exchangeable classes, by how many of them are active (THEORY.md, "Exchangeable classes").

Where the h of classes are pushed apart (u < 0), alpha is the Fourier variable of sum_c h_c, which exp(u alpha^2 / 2)
holds near 0. Neurons that are active on all classes, or on none, are far from that: alone they would have most of the
weight, and their waves cancel. Neurons with a number k of active classes have one peak in sum_c h_c; along a contour
alpha = x - i y_k through their saddle point nothing cancels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

from meanfield.theories.deep.layers.work import spend
from meanfield.validation import FloatArray

__all__ = ["Contour", "Parts", "Pushed", "Sector", "sectors_of"]

_CLOSE = 0.15  # of y, in standard deviations of alpha
_TIE = 1e-300


class Contour(NamedTuple):
    """ln of the weights of h for one class, at alpha = x - i y: at x = 0 (H,), what i x multiplies, and x^2."""

    height: FloatArray
    phase: FloatArray
    growth: float

    def at(self, x: float) -> FloatArray:
        """(H,) at this x."""
        return np.asarray(self.height + self.growth * x**2 + 1j * x * self.phase)


class Pushed(NamedTuple):
    """The fields h (H,) of one class: D, sqrt(-u), ln of a cell over the norm of N(h; 0, D), and how many classes."""

    h: FloatArray
    wide: float
    root: float
    constant: float
    classes: int

    def contour(self, y: float) -> Contour:
        """Weights of h along alpha = x - i y; every class has its share of the prior's change."""
        away = self.h - self.root * y
        height = self.constant - 0.5 * away**2 / self.wide + 0.5 * y**2 / self.classes
        phase = self.root * away / self.wide + y / self.classes
        return Contour(height, phase, 0.5 * self.root**2 / self.wide)


class Sector(NamedTuple):
    """Neurons that are active on so many classes: their contour y, and the tilt theta of S."""

    active: int
    y: float
    theta: float


class _Found(NamedTuple):
    """What is known of a sector: ln of its weight at x = 0, of the part with each b of an inactive and an active class
    (2, B), and of its size at each x (A,), and how far above the ends of the lattice in h its terms are."""

    sector: Sector
    height: float
    rows: FloatArray
    sizes: FloatArray
    above: float


@dataclass(frozen=True, eq=False)
class Parts:
    """The weight of one class on its lattice.

    value (B, H): ln of exp(n g) times the prior of b; on (B, H): which part of every cell is active; b (B,) and its
    step; the fields h, and gamma.
    """

    value: FloatArray
    on: FloatArray
    b: FloatArray
    step: float
    fields: Pushed
    gamma: float

    def logs(self, y: float) -> tuple[FloatArray, float]:
        """(2, B) ln of the weight of b of an inactive and an active class at x = 0, and how far the ends of the lattice
        in h are below, in nats."""
        terms = self.value + self.fields.contour(y).height
        top = terms.max(axis=1)
        weight = np.exp(terms - top[:, None])
        up = (weight * self.on).sum(axis=1)
        down = (weight * (1.0 - self.on)).sum(axis=1)
        found = top + np.log(np.maximum([down, up], _TIE))
        ends = np.maximum(terms[:, 0], terms[:, -1])
        heavy = found.max(axis=0) > found.max() - 60.0
        return found, float((top - ends)[heavy].min())

    def log_law(self, count: int) -> FloatArray:
        """ln of what comes with the sums of b of so many classes that are all; -inf beside 0 where S = 0."""
        sums = count * self.b[0] + self.step * np.arange(count * (len(self.b) - 1) + 1)
        if math.isinf(self.gamma):
            return np.where(np.abs(sums) < 0.5 * self.step, 0.0, -np.inf)
        return np.asarray(-0.5 * self.gamma * sums**2)


def _log_convolved(one: FloatArray, two: FloatArray) -> FloatArray:
    """ln of the convolution of exp(one) and exp(two)."""
    spend(4.0 * len(one) * len(two))
    if len(one) > len(two):
        one, two = two, one
    padded = np.full(len(two) + 2 * (len(one) - 1), -np.inf)
    padded[len(one) - 1 : len(one) - 1 + len(two)] = two
    table = np.lib.stride_tricks.sliding_window_view(padded, len(one)) + one[::-1]
    top = table.max(axis=1)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(safe + np.log(np.exp(table - safe[:, None]).sum(axis=1)))


def _log_power(logs: FloatArray, active: int, count: int) -> FloatArray:
    """ln of the convolution of so many classes, so many of them active."""
    found = np.zeros(1)
    for k in range(count):
        found = _log_convolved(found, logs[1 if k < active else 0])
    return found


def _sector(parts: Parts, active: int, alpha: FloatArray) -> _Found:
    """The neurons that are active on so many classes."""
    count = parts.fields.classes
    law = parts.log_law(count)

    def height(y: float) -> float:
        spend(6.0 * parts.value.size)
        total = law + _log_power(parts.logs(y)[0], active, count)
        top = float(total.max())
        return top + math.log(np.exp(total - top).sum()) if math.isfinite(top) else -math.inf

    # The weight of a sector is a moment generating function times a Gaussian: convex in y.
    reach = float(np.abs(parts.fields.h).max()) / parts.fields.root
    y = float(minimize_scalar(height, bounds=(-reach, reach), method="bounded", options={"xatol": _CLOSE}).x)
    logs, above = parts.logs(y)
    whole = _log_power(logs, active, count)
    total = law + whole
    best = int(np.argmax(total))
    around = [whole[i] for i in (best - 1, best + 1) if 0 <= i < len(whole) and np.isfinite(whole[i])]
    theta = float(around[1] - around[0]) / (2.0 * parts.step) if len(around) == 2 else 0.0
    rows = np.full(logs.shape, -np.inf)
    for own in (0, 1):
        if active - own >= 0 and active - own <= count - 1:
            rest = _log_power(logs, active - own, count - 1)
            window = np.lib.stride_tricks.sliding_window_view(law, len(rest))[: len(parts.b)] + rest
            top = window.max(axis=1, keepdims=True)
            safe = np.where(np.isfinite(top), top, 0.0)
            with np.errstate(divide="ignore"):
                rows[own] = logs[own] + safe[:, 0] + np.log(np.exp(window - safe).sum(axis=1))
    sector, often = Sector(active, y, theta), math.log(math.comb(count, active))
    return _Found(sector, often + height(y), often + rows, often + _sizes(parts, sector, alpha, law), above)


def _sizes(parts: Parts, sector: Sector, alpha: FloatArray, law: FloatArray) -> FloatArray:
    """(A,) ln of the size of a sector's part at every x."""
    contour, count = parts.fields.contour(sector.y), parts.fields.classes
    terms = parts.value + contour.height - sector.theta * parts.b[:, None]
    split = [terms + np.log(np.maximum(part, _TIE)) for part in (1.0 - parts.on, parts.on)]
    tops = [float(part.max()) for part in split]
    waves = np.exp(1j * np.outer(contour.phase, alpha))
    spend(8.0 * terms.size * len(alpha))
    down, up = (np.exp(part - top) @ waves for part, top in zip(split, tops))
    sums = law + sector.theta * (count * parts.b[0] + parts.step * np.arange(len(law)))
    scale = float(sums[np.isfinite(sums)].max())
    found = np.empty(len(alpha))
    for i in range(len(alpha)):
        one = np.ones(1, dtype=complex)
        for k in range(count):
            one = np.convolve(one, up[:, i] if k < sector.active else down[:, i])
        with np.errstate(divide="ignore"):
            logs = np.log(np.abs(one)) + sums - scale
        top = float(logs.max())
        total = abs((np.exp(logs - top) * np.exp(1j * np.angle(one))).sum()) if math.isfinite(top) else 0.0
        found[i] = top + scale + math.log(total + _TIE) + (count * contour.growth - 0.5) * alpha[i] ** 2
    return found + sector.active * tops[1] + (count - sector.active) * tops[0]


def sectors_of(parts: Parts, alpha: FloatArray, cut: float) -> tuple[tuple[Sector, ...], FloatArray, FloatArray, float]:
    """The sectors that have weight; which b (B,) and which x (A,) do, by ln of the largest parts relative to the
    heaviest of all; and how far the ends of the lattice in h are below, in nats."""
    found = [_sector(parts, k, alpha) for k in range(parts.fields.classes + 1)]
    top = max(one.height for one in found)
    found = [one for one in found if one.height > top - cut]
    rows = np.max([one.rows.max(axis=0) for one in found], axis=0) - top
    most = max(float(one.sizes.max()) for one in found)
    sizes = np.max([one.sizes for one in found], axis=0) - most
    return tuple(one.sector for one in found), rows, sizes, min(one.above for one in found)
