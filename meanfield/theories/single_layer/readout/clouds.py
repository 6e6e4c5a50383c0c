"""The readout integral at finite P as a sum over codes, by a rule around each in units of its widths (sigma_a = 1).

Where codes are separated each is nearly Gaussian, and Gauss-Hermite rules of few nodes per axis converge geometrically.
What they give is held against a rule unlike them, a lattice in the ball of the same widths, whose error in turn is that
of Poisson summation and of the mass that is left in its outermost shell.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import gammainccinv

from meanfield.numerics.lattice_basis import aliasing_length, unit_basis, unlike_shift
from meanfield.numerics.limits import check_time
from meanfield.theories.single_layer.compiled import cloud as compiled
from meanfield.theories.single_layer.compiled.stretch import ROOM
from meanfield.theories.single_layer.readout.integral import ReadoutIntegral, Sums
from meanfield.theories.single_layer.readout.nodes import direct_samples
from meanfield.validation import FloatArray, IntArray

__all__ = [
    "ORDERS",
    "OVERLAP",
    "Frames",
    "Rule",
    "ball_sums",
    "choose_rules",
    "cloud_sums",
    "framed",
    "hermite_rule",
    "overlapping",
    "violations",
]

ORDERS = (5, 8, 11, 14)  # nodes per axis of the rules of Gauss and Hermite
_CHANGES = np.array([np.inf, 1e-2, 1e-4, 3e-6])  # of the integral from rule to rule, beyond which it does not converge
OVERLAP = 5e-5  # of the integral from the first rule to the second, beyond which no rule converged where it was tried
_ROUNDING = 1e-14  # of P h
_REACHES = (1.0, 1.25, 1.5)  # of balls, in units of that for a normal density
_NEARLY = 30.0  # excess of the change with which the largest ball is tried
_FAINT = 10.0  # mass of the outermost shell with which a ball is large enough, in units of the accuracy
_SHELL = 2.0  # in |z|^2 / 2: of the ball of the lattice, whose mass bounds what is beyond


@dataclass(frozen=True, eq=False)
class Rule:
    """(2 pi)^{-m/2} int dz f(z) ~ sum_i W_i f(z_i), in blocks of `ROOM` nodes, the last filled up with W = 0."""

    z: FloatArray  # (B, m, ROOM)
    weight: FloatArray  # (B, ROOM)
    radius: float  # of the ball that holds the nodes


def _rule(z: FloatArray, weight: FloatArray, radius: float) -> Rule:
    n, m = z.shape
    n_blocks = -(-n // ROOM)
    nodes, weights = np.zeros((n_blocks * ROOM, m)), np.zeros(n_blocks * ROOM)
    nodes[:n], weights[:n] = z, weight
    blocks = np.ascontiguousarray(nodes.reshape(n_blocks, ROOM, m).transpose(0, 2, 1))
    return Rule(blocks, weights.reshape(n_blocks, ROOM), radius)


@lru_cache(maxsize=64)
def hermite_rule(m: int, order: int) -> Rule:
    """Product of Gauss-Hermite rules with `order` nodes on each axis."""
    x, w = np.polynomial.hermite_e.hermegauss(order)
    z = np.array(list(itertools.product(x, repeat=m)))
    weight = np.prod(list(itertools.product(w / w.sum() * np.exp(0.5 * x * x), repeat=m)), axis=1)
    return _rule(z, weight, float(np.sqrt(m) * x.max()))


@lru_cache(maxsize=64)
def ball_rule(m: int, accuracy: float, reach: float, shifted: bool) -> Rule:
    """A lattice in a ball that integrates a normal density to this accuracy, `reach` times as far as that takes."""
    basis = aliasing_length(m, accuracy, 1.0) * unit_basis(m)
    radius = reach * float(np.sqrt(2.0 * (gammainccinv(0.5 * m, accuracy) + 1.0)))
    furthest = [int(np.ceil(radius * np.linalg.norm(row))) + 1 for row in np.linalg.inv(basis).T]
    axes = [np.arange(-n - 1, n + 1) for n in furthest]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, m)
    z = (index + (unlike_shift(m) if shifted else 0.0)) @ basis
    z = z[np.sum(z * z, axis=1) <= radius**2]
    cell = abs(float(np.linalg.det(basis))) / (2.0 * np.pi) ** (0.5 * m)
    return _rule(z, np.full(len(z), cell), radius)


class _Rules(NamedTuple):
    """Several rules, one after the other."""

    every: tuple[Rule, ...]
    z: FloatArray  # (B, m, ROOM)
    weight: FloatArray  # (B, ROOM)
    ends: IntArray  # (R,) of their blocks
    radii: FloatArray  # (R,)


def _joined(rules: Sequence[Rule]) -> _Rules:
    z, weight = np.concatenate([rule.z for rule in rules]), np.concatenate([rule.weight for rule in rules])
    ends = np.cumsum([len(rule.weight) for rule in rules])
    return _Rules(tuple(rules), z, weight, ends, np.array([rule.radius for rule in rules]))


@lru_cache(maxsize=64)
def _placed(rules: tuple[Rule, ...]) -> tuple[_Rules, IntArray, IntArray]:
    """The rules of some codes, each of them once, and for each code where its blocks begin and end."""
    once = list(dict.fromkeys(rules))
    joined = _joined(once)
    ends = joined.ends[[once.index(rule) for rule in rules]]
    return joined, ends - np.array([len(rule.weight) for rule in rules]), ends


@lru_cache(maxsize=64)
def _rules(m: int, accuracy: float) -> _Rules:
    """All rules that a code may have, those of Gauss and Hermite first."""
    balls = [ball_rule(m, accuracy, reach, False) for reach in _REACHES]
    return _joined([hermite_rule(m, order) for order in ORDERS] + balls)


@lru_cache(maxsize=64)
def _unlike_balls(m: int, accuracy: float) -> _Rules:
    return _joined([ball_rule(m, accuracy, reach, True) for reach in _REACHES])


@dataclass(frozen=True, eq=False)
class Frames:
    """Maxima of h and the widths of the codes around them: L L^T = [-P d^2 h]^{-1}."""

    mode: FloatArray  # (K, m)
    height: FloatArray  # (K,)
    factor: FloatArray  # (K, m, m), L
    inverse: FloatArray  # (K, m, m), of L
    log_size: FloatArray  # (K,), of det L in units of P^{-m/2}

    def __len__(self) -> int:
        return len(self.mode)


def framed(problem: ReadoutIntegral, t: FloatArray, near: FloatArray) -> Frames | None:
    """The maxima above `near` (K, m), one for each; None where h does not bend down there."""
    k, m = near.shape
    mode, height, log_size = np.array(near), np.empty(k), np.empty(k)
    factor, inverse = np.empty((k, m, m)), np.empty((k, m, m))
    if not compiled.frames(problem.table, problem.p, t, problem.n_samples, mode, height, factor, inverse, log_size):
        return None
    return Frames(mode, height, factor, inverse, log_size)


def overlapping(
    problem: ReadoutIntegral, t: FloatArray, frames: Frames, weight: FloatArray, most: float = OVERLAP
) -> bool:
    """Whether the first two rules differ by more than `most`, by default so much that none will do."""
    rules = _first_rules(t.shape[1])
    change = compiled.overlap(
        problem.quick, problem.p, t, problem.n_samples, frames.height, frames.mode, frames.factor, weight, rules.z,
        rules.weight, rules.ends,
    )  # fmt: skip
    return not change < most


@lru_cache(maxsize=16)
def _first_rules(m: int) -> _Rules:
    return _joined([hermite_rule(m, order) for order in ORDERS[:2]])


def choose_rules(
    problem: ReadoutIntegral, t: FloatArray, frames: Frames, weight: FloatArray, accuracy: float
) -> tuple[Rule, ...] | None:
    """A rule for each code, so that the integral would change by less than the accuracy with the next better one.

    Gauss and Hermite's with few nodes, else the lattice in a ball, for codes with long tails. Codes of little weight
    may have a larger error. None where no rule does: that code is not alone.
    """
    rules = _rules(t.shape[1], accuracy)
    chosen = np.empty(len(frames), np.int64)
    if not compiled.choose(
        problem.quick, problem.p, t, problem.n_samples, frames.height, frames.mode, frames.factor, weight, rules.z,
        rules.weight, rules.ends, len(ORDERS), rules.radii >= rules.radii[-1], accuracy, _ROUNDING, _NEARLY, _CHANGES,
        chosen,
    ):  # fmt: skip
        return None
    return tuple(rules.every[number] for number in chosen)


def cloud_sums(
    problem: ReadoutIntegral, t: FloatArray, frames: Frames, rules: tuple[Rule, ...], weight: FloatArray | None = None
) -> Sums:
    """The integral over all codes, each by its rule; with the Hessian of J if the codes' weights are given.

    `Sums.detail` is (mean (K, m), covariance (K, m, m)) of the readout in each code.
    """
    k, m, size = len(frames), t.shape[1], t.size
    joined, begins, ends = _placed(rules)
    log_share, first = np.empty(k), np.empty((k, size))
    readout, covariance = np.empty((k, m)), np.empty((k, m, m))
    blocks = np.empty((size, size) if weight is not None else (0, 0))
    objective = compiled.clouds(
        problem.quick, problem.p, problem.y, problem.tau, t, problem.n_samples, frames.height, frames.mode,
        frames.factor, frames.log_size, log_share if weight is None else weight, joined.z, joined.weight, begins, ends,
        weight is not None, log_share, first, readout, covariance, blocks,
    )  # fmt: skip
    level = float(frames.height.max())
    return Sums(objective, log_share, first, blocks, frames.mode, level, (readout, covariance))


def violations(problem: ReadoutIntegral, t: FloatArray, sums: Sums, weight: FloatArray) -> tuple[float, FloatArray]:
    """Largest violation of the equations at these weights, and all: (C m,) of J' = 0, (K,) of shares, and a zero."""
    violation = np.empty(t.size + weight.size + 1)
    worst = compiled.judge(
        problem.p, problem.y, problem.tau, t, problem.n_samples, weight, sums.log_share, sums.first, violation
    )
    return worst, violation


def ball_sums(
    problem: ReadoutIntegral, t: FloatArray, frames: Frames, weight: FloatArray, accuracy: float
) -> tuple[FloatArray, FloatArray, float] | None:
    """ln of each code's share of the integral (K,) and <g> (K, C m) from direct evaluations of G on lattices in balls.

    Each node counts for the code that it is nearest to, in widths. The last is the mass in the outermost shells of the
    balls, which are larger where that is not small. None where |kappa| is beyond direct samples.
    """
    m, k = t.shape[1], len(frames)
    rules = _unlike_balls(m, accuracy)
    widest = rules.radii[-1]
    centre, extent = frames.mode @ t.T, np.sqrt(np.sum((t @ frames.factor) ** 2, axis=2))  # (K, C)
    samples = direct_samples(problem.single_site)
    grid = samples.cover(float((centre - widest * extent).min()), float((centre + widest * extent).max()))
    if grid is None:
        return None
    log_share, first = np.empty(k), np.empty((k, t.size))
    outermost = compiled.balls(
        grid[1], samples.step, grid[0], problem.p, t, problem.n_samples, frames.height, frames.mode, frames.factor,
        frames.inverse, weight, rules.z, rules.weight, rules.ends, rules.radii, 2.0 * _SHELL, _FAINT * accuracy,
        log_share, first,
    )  # fmt: skip
    check_time()
    return log_share + problem.n_samples * frames.height + frames.log_size, first, outermost
