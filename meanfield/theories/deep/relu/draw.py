"""Neurons of a layer drawn from its bulk, and their preactivations on single samples."""

from __future__ import annotations

import numpy as np
from scipy.special import log_ndtr, ndtri_exp

from meanfield.theories.deep.relu.compiled.weights import weights
from meanfield.theories.deep.relu.nonlinearity import Nonlinearity
from meanfield.theories.deep.relu.setting import ReluSetting
from meanfield.validation import FloatArray

__all__ = ["draw_bulk", "draw_site"]

_SWEEPS, _FEWEST = 1000, 400  # of all chains; chains
_SCALED, _STEPS = (0.1, 0.4, 1.2), (0.05, 0.2, 0.7)  # of ln of the length of all fields; of each
_CELLS, _REACH = 1500, 8.0  # of a lattice of z, and its ends in standard deviations beyond the means


def draw_site(
    phi: Nonlinearity, b: FloatArray, h: FloatArray, d: float, delta: float, generator: np.random.Generator, size: int
) -> FloatArray:
    """(n, size) preactivations under exp(b phi(z) + delta phi(z)^2 / 2) N(z; h, d) for each of n pairs b, h."""
    if phi.tabulated:
        return _from_lattice(phi, b, h, d, delta, generator, size)
    log_weight, found = [], []
    log_u = np.log(generator.random((len(b), size)))
    for r, sign in ((phi.slopes[1], 1.0), (phi.slopes[0], -1.0)):
        mu, narrow, log_mass, log_part = _half(b, h, d, delta, r, sign)
        log_weight.append(log_mass)
        found.append(mu[:, None] - sign * np.sqrt(narrow) * ndtri_exp(log_u + log_part[:, None]))
    on = 1.0 / (1.0 + np.exp(np.clip(log_weight[1] - log_weight[0], -700.0, 700.0)))
    above, below = np.maximum(found[0], 0.0), np.minimum(found[1], 0.0)
    return np.asarray(np.where(generator.random((len(b), size)) < on[:, None], above, below))


def _from_lattice(
    phi: Nonlinearity, b: FloatArray, h: FloatArray, d: float, delta: float, generator: np.random.Generator, size: int
) -> FloatArray:
    """The same for a phi without closed forms: a place of a lattice of z, and a uniform one in its cell."""
    ends = np.array([h, *(d / (1.0 - delta * r * r * d) * (r * b + h / d) for r in phi.slopes)])
    reach = _REACH * np.sqrt(max(d, *(d / (1.0 - delta * r * r * d) for r in phi.slopes)))
    low, high = ends.min(axis=0) - reach, ends.max(axis=0) + reach
    found = np.empty((len(b), size))
    for part in np.array_split(np.arange(len(b)), max(1, len(b) * _CELLS // 2_000_000)):
        cell = (high[part] - low[part]) / _CELLS
        z = low[part, None] + cell[:, None] * (np.arange(_CELLS) + 0.5)
        y = phi(z)
        height = b[part, None] * y + 0.5 * delta * y**2 - 0.5 * (z - h[part, None]) ** 2 / d
        law = np.cumsum(np.exp(height - height.max(axis=1, keepdims=True)), axis=1)
        law /= law[:, -1:]
        uniform = generator.random((len(part), size))
        place = np.array([np.searchsorted(row, u) for row, u in zip(law, uniform)])
        found[part] = low[part, None] + cell[:, None] * (place + generator.random(place.shape))
    return found


def draw_bulk(
    setting: ReluSetting, walls: FloatArray, count: int, generator: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Whitened conjugate fields (count, q) and class fields (count, C) of neurons of the bulk, which `walls` (o, q + 2)
    end (`ends_of`).

    A population of chains with the exact weight of the fields, samples being integrated over. The bulk has a tail along
    the rays of outliers, where phi is homogeneous: fields are scaled as a whole, and moved by differences of two other
    chains, which have the shape of the bulk. (Chains of the samples given the fields, fields given the samples, take
    thousands of sweeps to get there: after 200 of them <a^2> was half of what it is.)
    """
    bulk = _Bulk(setting, walls)
    size = max(count + count % 2, _FEWEST)
    x = generator.standard_normal((size, bulk.size))
    log = bulk.log(x)
    halves = np.array_split(generator.permutation(size), 2)
    for _ in range(_SWEEPS):
        for own, others in (halves, halves[::-1]):
            moved, factor = _proposed(x[own], x[others], generator)
            new = bulk.log(moved)
            taken = np.log(generator.random(len(own))) < new - log[own] + factor
            x[own[taken]], log[own[taken]] = moved[taken], new[taken]
    return bulk.fields(x[generator.permutation(size)[:count]])


class _Bulk:
    """Whitened fields x = (beta, eta) of neurons, and ln of their weight."""

    def __init__(self, setting: ReluSetting, walls: FloatArray) -> None:
        self.setting, self.walls, self.q = setting, walls, setting.root.shape[1]
        value, vector = np.linalg.eigh(setting.covariance)
        own = value > 1e-14 * max(float(value[-1]), 1e-300)
        self.spread = vector[:, own] * np.sqrt(value[own])
        self.size = self.q + self.spread.shape[1]

    def fields(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """beta and h."""
        return x[:, : self.q], x[:, self.q :] @ self.spread.T

    def log(self, x: FloatArray) -> FloatArray:
        s, (beta, h) = self.setting, self.fields(x)
        b = beta @ s.root.T
        found = -0.5 * (x**2).sum(axis=1)
        for c, n in enumerate(s.n):
            found += n * _log_mass(s.phi, b[:, c], h[:, c], float(s.d[c]), float(s.delta[c]))
        for *direction, place, width in self.walls:
            found += log_ndtr((place - beta @ np.array(direction)) / width)
        return found


def _proposed(x: FloatArray, others: FloatArray, generator: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Where chains may go, and ln of the factor that the chance to go there has."""
    kind, (k, size) = generator.random(), x.shape
    if kind < 0.4:
        log = generator.choice(_SCALED) * generator.standard_normal(k)
        return x * np.exp(log)[:, None], size * log
    if kind < 0.8:
        first, second = generator.integers(len(others), size=(2, k))
        step = generator.choice([0.3, 1.0, 2.38 / np.sqrt(2.0 * size)])
        return x + step * (others[first] - others[second]), np.zeros(k)
    return x + generator.choice(_STEPS) * generator.standard_normal(x.shape), np.zeros(k)


def _log_mass(phi: Nonlinearity, b: FloatArray, h: FloatArray, d: float, delta: float) -> FloatArray:
    """g at pairs b, h (k,)."""
    if phi.tabulated:
        return np.asarray(weights(b, h, d, delta, phi.numbers))
    found = [_half(b, h, d, delta, r, sign)[2] for r, sign in ((phi.slopes[1], 1.0), (phi.slopes[0], -1.0))]
    return np.asarray(np.logaddexp(*found))


def _half(
    b: FloatArray, h: FloatArray, d: float, delta: float, r: float, sign: float
) -> tuple[FloatArray, float, FloatArray, FloatArray]:
    """Mean and variance of z on the side of 0 where phi has the slope r, were it so everywhere; ln of the weight of
    that side, and of the part of the Gaussian there."""
    narrow = d / (1.0 - delta * r * r * d)
    mu = narrow * (r * b + h / d)
    log_part = log_ndtr(sign * mu / np.sqrt(narrow))
    return mu, narrow, 0.5 * np.log(narrow / d) + 0.5 * mu**2 / narrow - 0.5 * h**2 / d + log_part, log_part
