"""The single-site density q(z) = N(z; 0, k) exp(kappa phi(z) - G(kappa)): values, quantiles, and the law of phi(z).

It is the density of a preactivation z on one training sample of class c for a neuron with readout a, kappa = a.t_c.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.activations.cumulant import cumulant
from meanfield.validation import FloatArray

_CELLS = 4096  # the density is linear in each: the distribution function is off by less than 1e-6
_DEPTH = 45.0  # the support kept: where ln q is within 45 of its maximum (outside lies less than 1e-18)
_GAUSS_X, _GAUSS_W = np.polynomial.legendre.leggauss(2)


def preactivation_density(phi: Activation, k: float, kappa: float, z: FloatArray) -> FloatArray:
    """q(z) at the points `z`."""
    return cumulant(phi, k).tilted_density(kappa, z)


def preactivation_quantile(phi: Activation, k: float, kappa: FloatArray, u: FloatArray) -> FloatArray:
    """z with distribution function `u` (n, s), one `kappa` (n,) per row; uniform `u` give samples of q."""
    distinct, row_of = np.unique(kappa, return_inverse=True)
    order = np.argsort(row_of, kind="stable")
    rows = np.split(order, np.searchsorted(row_of[order], np.arange(1, distinct.size)))
    z = np.empty(u.shape)
    first = 0
    while first < distinct.size:
        # kappas less than 1 apart share the support of the outermost two, and with it the evaluations of phi
        last = int(np.searchsorted(distinct, distinct[first] + 1.0))
        grid = _grid(phi, *_hull(support(phi, k, x) for x in distinct[[first, last - 1]]))
        for i in range(first, last):
            z[rows[i]] = _inverse(grid, k, distinct[i], u[rows[i]])
        first = last
    return z


def activation_density(phi: Activation, k: float, kappa: float, value: FloatArray) -> FloatArray:
    """Density of phi(z) at `value`, z ~ q: sum over the solutions of phi(z) = value of q(z) / |phi'(z)|.

    The continuous part only: where phi is constant on an interval (ReLU, step, hard sigmoid) there is an atom besides,
    see `activation_atoms`. At an extremum of phi the density is infinite (and integrable).
    """
    value = np.asarray(value, dtype=np.float64)
    total = np.zeros(value.shape)
    for piece in _pieces(phi, *support(phi, k, kappa)):
        if piece.flat:
            continue
        inside = (value > min(piece.ends)) & (value < max(piece.ends))
        z = piece.invert(phi, value[inside])
        with np.errstate(divide="ignore"):
            total[inside] += preactivation_density(phi, k, kappa, z) / np.abs(phi.derivative(z))
    return total


def activation_atoms(phi: Activation, k: float, kappa: float) -> tuple[FloatArray, FloatArray]:
    """Values that phi(z), z ~ q, takes with positive probability, and these probabilities."""
    atoms: dict[float, float] = {}
    low, high = support(phi, k, kappa)
    grid = _grid(phi, low, high)
    distribution = _distribution(grid, k, kappa)
    for piece in _pieces(phi, low, high):
        if piece.flat:
            mass = float(np.diff(np.interp([piece.low, piece.high], grid.edges, distribution))[0])
            atoms[piece.ends[0]] = atoms.get(piece.ends[0], 0.0) + mass
    values = sorted(atoms)
    return np.array(values), np.array([atoms[value] for value in values])


@lru_cache(maxsize=1024)
def support(phi: Activation, k: float, kappa: float) -> tuple[float, float]:
    """An interval that holds all but a fraction 1e-18 of q."""
    # |phi(z) - phi(0)| <= offset + slope |z| bounds where z^2/2k may be outweighed by kappa phi(z).
    slope = max(abs(s) for s in phi.slopes)
    probe = np.concatenate([-np.geomspace(1e4, 1e-4, 400), [0.0], np.geomspace(1e-4, 1e4, 400)])
    offset = max(0.0, float(np.max(np.abs(phi(probe) - phi(np.zeros(1))) - slope * np.abs(probe))))
    drift = k * slope * abs(kappa)
    reach = drift + math.sqrt(drift**2 + 2 * k * (_DEPTH + abs(kappa) * offset))
    low, high = -reach, reach
    for _ in range(2):  # the second pass resolves a density much narrower than the bound
        z = np.linspace(low, high, _CELLS + 1)
        log_weight = kappa * phi(z) - z**2 / (2 * k)
        kept = np.flatnonzero(log_weight > log_weight.max() - _DEPTH)
        low, high = float(z[max(kept[0] - 1, 0)]), float(z[min(kept[-1] + 1, z.size - 1)])
    return low, high


@dataclass(frozen=True)
class _Grid:
    """Cells between `edges` (n + 1,), the kinks among them, and Gauss-Legendre nodes `z`, `phi` (n, q) inside."""

    edges: FloatArray
    z: FloatArray
    phi: FloatArray
    weight: FloatArray


def _grid(phi: Activation, low: float, high: float) -> _Grid:
    kinks = [kink for kink in phi.kinks if low < kink < high]
    edges = np.unique(np.concatenate([np.linspace(low, high, _CELLS + 1), kinks]))
    half = 0.5 * np.diff(edges)[:, None]
    z = edges[:-1, None] + half * (1 + _GAUSS_X)
    return _Grid(edges, z, phi(z), half * _GAUSS_W)


def _distribution(grid: _Grid, k: float, kappa: float) -> FloatArray:
    """Distribution function of q at the edges of the grid."""
    return _integrated(_masses(grid, k, kappa))


def _masses(grid: _Grid, k: float, kappa: float) -> FloatArray:
    """The mass at each node (n, q), in units of the largest density."""
    log_weight = kappa * grid.phi - grid.z**2 / (2 * k)
    return np.asarray(grid.weight * np.exp(log_weight - log_weight.max()))


def _integrated(masses: FloatArray) -> FloatArray:
    distribution = np.concatenate([[0.0], np.cumsum(masses.sum(axis=1))])
    return np.asarray(distribution / distribution[-1])


def _inverse(grid: _Grid, k: float, kappa: float, u: FloatArray) -> FloatArray:
    """z at which the distribution function of q is u, with the linear density through both nodes of each cell."""
    masses = _masses(grid, k, kappa)
    distribution = _integrated(masses)
    cell = np.clip(np.searchsorted(distribution, u, side="right") - 1, 0, len(masses) - 1)
    left, right = masses[cell, 0], masses[cell, 1]
    inside = np.maximum(distribution[cell + 1] - distribution[cell], 1e-300)
    part = np.clip((u - distribution[cell]) / inside, 0.0, 1.0)
    # The distribution within a cell is s + r (s^2 - s) / 2, s from 0 to 1; |r| < 2 where it rises.
    slope = math.sqrt(12.0) * (right - left) / np.maximum(left + right, 1e-300)
    half = 0.5 * np.clip(slope, -2.0, 2.0)
    root = np.sqrt(np.maximum((1.0 - half) ** 2 + 4.0 * half * part, 0.0))
    s = 2.0 * part / np.maximum(1.0 - half + root, 1e-300)
    return np.asarray(grid.edges[cell] + np.minimum(s, 1.0) * (grid.edges[cell + 1] - grid.edges[cell]))


def _hull(intervals: Iterable[tuple[float, float]]) -> tuple[float, float]:
    lows, highs = zip(*intervals, strict=True)
    return min(lows), max(highs)


@dataclass(frozen=True)
class _Piece:
    """An interval on which phi is strictly monotone, or constant (`flat`); `ends` are its values at low and high."""

    low: float
    high: float
    ends: tuple[float, float]
    flat: bool

    def invert(self, phi: Activation, value: FloatArray) -> FloatArray:
        """Solve phi(z) = value on the piece by bisection to the last bit."""
        low, high = np.full(value.shape, self.low), np.full(value.shape, self.high)
        rising = self.ends[1] > self.ends[0]
        for _ in range(64):
            middle = 0.5 * (low + high)
            right = (phi(middle) < value) == rising
            low, high = np.where(right, middle, low), np.where(right, high, middle)
        return 0.5 * (low + high)


@lru_cache(maxsize=1024)
def _pieces(phi: Activation, low: float, high: float) -> list[_Piece]:
    pieces = []
    kinks = [kink for kink in sorted(phi.kinks) if low < kink < high]
    for left, right in pairwise([low, *kinks, high]):
        # One-sided values: phi may jump at a kink. A step of 1e-9 of the interval away it is on this side.
        inner = np.linspace(left, right, 1025)
        inner[[0, -1]] += np.array([1e-9, -1e-9]) * (right - left)
        values, slope = phi(inner), phi.derivative(inner)
        if not slope.any() and np.ptp(values) == 0:
            pieces.append(_Piece(left, right, (float(values[0]), float(values[0])), flat=True))
            continue
        turns = np.flatnonzero(slope[:-1] * slope[1:] < 0)
        bounds = [inner[0], *(_root(phi, inner[i], inner[i + 1]) for i in turns), inner[-1]]
        for start, stop in pairwise(bounds):
            ends = phi(np.array([start, stop]))
            pieces.append(_Piece(float(start), float(stop), (float(ends[0]), float(ends[1])), flat=False))
    return pieces


def _root(phi: Activation, low: float, high: float) -> float:
    sign = math.copysign(1.0, float(phi.derivative(np.array([low]))[0]))
    for _ in range(64):
        middle = 0.5 * (low + high)
        if sign * float(phi.derivative(np.array([middle]))[0]) > 0:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)
