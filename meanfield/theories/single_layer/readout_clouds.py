"""The readout integral at finite P as a sum over codes, by a rule around each in units of its widths (sigma_a = 1).

Where codes are separated each is nearly Gaussian, and Gauss-Hermite rules of few nodes per axis converge geometrically.
What they give is held against a rule unlike them, a lattice in the ball of the same widths, whose error in turn is that
of Poisson summation and of the mass that is left in its outermost shell.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import gammainccinv

from meanfield.numerics.lattice_basis import aliasing_length, unit_basis, unlike_shift
from meanfield.numerics.limits import check_time
from meanfield.theories.single_layer.compiled import cloud as compiled
from meanfield.theories.single_layer.compiled.stretch import ROOM
from meanfield.theories.single_layer.readout_integral import ReadoutIntegral, Sums
from meanfield.theories.single_layer.readout_nodes import direct_samples, from_lower, lower_size
from meanfield.validation import FloatArray

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
]

ORDERS = (5, 8, 11, 14)  # nodes per axis of the rules of Gauss and Hermite
_CHANGES = (np.inf, 1e-2, 1e-4, 3e-6)  # of the integral from rule to rule, beyond which it does not converge
OVERLAP = 5e-5  # of the integral from the first rule to the second, beyond which no rule converged where it was tried
_ROUNDING = 1e-14  # of P h
_REACHES = (1.0, 1.25, 1.5)  # of balls, in units of that for a normal density
_NEARLY = 30.0  # excess of the change with which the largest ball is tried
_FAINT = 10.0  # mass of the outermost shell with which a ball is large enough, in units of the accuracy
_SHELL = 2.0  # in |z|^2 / 2: of the ball of the lattice, whose mass bounds what is beyond


class Rule(NamedTuple):
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
    mode, height = np.array(near), np.empty(k)
    factor, inverse = np.empty((k, m, m)), np.empty((k, m, m))
    if not compiled.frames(problem.table, problem.p, t, problem.n_samples, mode, height, factor, inverse):
        return None
    log_size = np.log(factor.diagonal(axis1=1, axis2=2)).sum(axis=1) + 0.5 * m * np.log(problem.n_samples)
    return Frames(mode, height, factor, inverse, log_size)


def overlapping(
    problem: ReadoutIntegral, t: FloatArray, frames: Frames, weight: FloatArray, most: float = OVERLAP
) -> bool:
    """Whether the first two rules differ by more than `most`, by default so much that none will do."""
    masses = np.empty((2, len(frames)))
    for order, mass in zip(ORDERS, masses, strict=False):
        rule = hermite_rule(t.shape[1], order)
        compiled.masses(
            problem.quick, problem.p, t, problem.n_samples, frames.height, frames.mode, frames.factor, *rule[:2], mass
        )
    return not float(np.max(weight * np.abs(masses[1] / masses[0] - 1.0))) < most


def choose_rules(
    problem: ReadoutIntegral, t: FloatArray, frames: Frames, weight: FloatArray, accuracy: float
) -> list[Rule] | None:
    """A rule for each code, so that the integral would change by less than the accuracy with the next better one.

    Gauss and Hermite's with few nodes, else the lattice in a ball, for codes with long tails. Codes of little weight
    may have a larger error. None where no rule does: that code is not alone.
    """
    m, n_samples = t.shape[1], problem.n_samples
    allowed = np.maximum(accuracy / np.minimum(1.0, 2.0 * weight), _ROUNDING * n_samples)
    rules: list[Rule | None] = [None] * len(frames)
    balls = [ball_rule(m, accuracy, reach, False) for reach in _REACHES]
    last = balls[-1].radius
    for ways in [hermite_rule(m, order) for order in ORDERS], balls:
        before = np.full(len(frames), np.nan)
        for i, rule in enumerate(ways):
            missing = np.array([k for k, known in enumerate(rules) if known is None])
            if not missing.size:
                break
            mass = np.empty(len(missing))
            compiled.masses(
                problem.quick, problem.p, t, n_samples, frames.height[missing], frames.mode[missing],
                frames.factor[missing], *rule[:2], mass,
            )  # fmt: skip
            change = np.abs(mass / before[missing] - 1.0)
            before[missing] = mass
            if i > 0 and not (weight[missing] * change).max() < _CHANGES[i]:
                return None
            for k, moved in zip(missing, change, strict=True):
                if moved <= allowed[k]:
                    rules[k] = ways[i - 1]
                elif rule.radius >= last and moved <= _NEARLY * allowed[k]:
                    rules[k] = rule
    return None if None in rules else [rule for rule in rules if rule is not None]


def cloud_sums(
    problem: ReadoutIntegral, t: FloatArray, frames: Frames, rules: list[Rule], weight: FloatArray | None = None
) -> Sums:
    """The integral over all codes, each by its rule; with the Hessian of J if the codes' weights are given.

    `Sums.detail` is (mean (K, m), covariance (K, m, m)) of the readout in each code.
    """
    n_classes, m = t.shape
    k, n_samples = len(frames), problem.n_samples
    mass, first = np.empty(k), np.zeros((k, n_classes, m))
    mean, square = np.zeros((k, m)), np.zeros((k, m, m))
    shape = lower_size(n_classes) + n_classes, lower_size(m)
    second = np.zeros((k, *(shape if weight is not None else (0, 0))))
    for i, rule in enumerate(rules):
        mass[i] = compiled.cloud(
            problem.quick, problem.p, t, n_samples, frames.height[i], frames.mode[i], frames.factor[i], *rule[:2],
            first[i], mean[i], square[i], second[i],
        )  # fmt: skip
    with np.errstate(all="ignore"):
        log_share = np.log(mass) + n_samples * frames.height + frames.log_size
        first = first.reshape(k, -1) / mass[:, None]
        top = log_share.max()
        total = top + np.log(np.exp(log_share - top).sum())
        mean /= mass[:, None]
        lower = square / mass[:, None, None]
        square = lower + np.tril(lower, -1).transpose(0, 2, 1) - mean[:, :, None] * mean[:, None, :]
    blocks = np.empty((0, 0))
    if weight is not None:
        blocks = _hessian(problem, first, second / mass[:, None, None], weight)
    readout = frames.mode + (frames.factor @ mean[:, :, None])[:, :, 0]
    detail = readout, frames.factor @ square @ frames.factor.transpose(0, 2, 1)
    level = float(frames.height.max())
    return Sums(problem.linear(t) + total / n_samples, log_share, first, blocks, frames.mode, level, detail)


def _hessian(problem: ReadoutIntegral, first: FloatArray, second: FloatArray, weight: FloatArray) -> FloatArray:
    """Hessian of J (C m, C m) without the part between codes, at these weights."""
    n_classes, m = problem.y.shape
    within = from_lower(np.tensordot(weight, second, 1), n_classes, m)
    product, curvature = within
    blocks = problem.n_samples * (product - (first.T * weight) @ first)
    for c, block in enumerate(curvature):
        rows = slice(c * m, (c + 1) * m)
        blocks[rows, rows] += block
    blocks[np.diag_indices(n_classes * m)] += problem.tau * np.repeat(problem.p, m)
    return blocks


def ball_sums(
    problem: ReadoutIntegral, t: FloatArray, frames: Frames, weight: FloatArray, accuracy: float
) -> tuple[FloatArray, FloatArray, float] | None:
    """ln of each code's share of the integral (K,) and <g> (K, C m) from direct evaluations of G on lattices in balls.

    Each node counts for the code that it is nearest to, in widths. The last is the mass in the outermost shells of the
    balls, which are larger where that is not small. None where |kappa| is beyond direct samples.
    """
    n_classes, m = t.shape
    k = len(frames)
    share, first, shell = np.empty(k), np.empty((k, n_classes, m)), np.empty(1)
    widest = ball_rule(m, accuracy, _REACHES[-1], True).radius
    centre, extent = frames.mode @ t.T, np.sqrt(np.sum((t @ frames.factor) ** 2, axis=2))  # (K, C)
    samples = direct_samples(problem.single_site)
    grid = samples.cover(float((centre - widest * extent).min()), float((centre + widest * extent).max()))
    if grid is None:
        return None
    apart = np.einsum("krq,kjq->kjr", frames.inverse, frames.mode - frames.mode[:, None])
    stretched = np.sqrt(np.sum((frames.inverse[:, None] @ frames.factor) ** 2, axis=(2, 3)))
    close = np.sqrt(np.sum(apart**2, axis=2)) < widest * (1.0 + stretched)
    outermost = 0.0
    for i in range(k):
        near = np.array([j for j in np.flatnonzero(close[i]) if j != i], dtype=np.int64)
        for reach in _REACHES:
            rule = ball_rule(m, accuracy, reach, True)
            first[i] = 0.0
            share[i] = compiled.direct_cloud(
                grid[1], samples.step, grid[0], problem.p, t, problem.n_samples, frames.height[i], i, frames.mode,
                frames.factor[i], frames.inverse, near, *rule[:2], rule.radius**2 - 2.0 * _SHELL, first[i], shell,
            )  # fmt: skip
            beyond = weight[i] * float(shell[0] / share[i])
            if beyond <= _FAINT * accuracy:
                break
        outermost += beyond
        check_time()
    log_share = np.log(share) + problem.n_samples * frames.height + frames.log_size
    return log_share, first.reshape(k, -1) / share[:, None], outermost
