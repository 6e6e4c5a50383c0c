"""Codes of a task with exchangeable classes at finite P: neurons by how many classes of each kind are active.

A class is in the upper part where kappa_c lies above the steepest point of G', which separates two maxima of h if there
are two. The integral of `readout_exchange` splits into orbits of codes exactly; where codes overlap, whose a neuron is
remains a convention (sigma_a = 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meanfield.theories.single_layer.compiled import exchange_codes as compiled
from meanfield.theories.single_layer.kinds.classes import ClassKinds
from meanfield.theories.single_layer.readout.exchange import ExchangeIntegral, Outer
from meanfield.theories.single_layer.solution import heaviest_first
from meanfield.validation import FloatArray

__all__ = ["exchange_codes"]

_MIN_WEIGHT = 1e-8  # lighter codes are not reported
_LISTED = 256  # codes; more are reported as orbits
_FAINT = 1e-16  # weight of nodes of a_0 that codes do without


@dataclass(frozen=True, eq=False)
class _Parts:
    """One kind at all nodes of a_0 (M,): the share of each count, and moments of x_c = (kappa_c - m) / r of both parts.

    Arrays over counts and nodes (J, M): share; mean of x in the lower and the upper part (.., 2); mean of x^2, of x x'
    within a part (.., 2), and of x x' between parts.
    """

    counts: NDArray[np.int64]
    share: FloatArray
    mean: FloatArray
    square: FloatArray
    pair: FloatArray
    between: FloatArray


def exchange_codes(integral: ExchangeIntegral, theta: FloatArray, outer: Outer, accuracy: float) -> dict[str, Any]:
    """Weight, mean, covariance of codes in the space of all outputs, `kind` where they are orbits, `beside_cuts`."""
    kinds = integral.kinds
    w = np.exp(outer.exponent - outer.exponent.max())
    kept = w > _FAINT
    w, a = w[kept] / w[kept].sum(), outer.a[kept]
    parts, beside = [], 0.0
    for k in range(kinds.n_kinds):
        part, near = _parts_of(integral, theta, k, a, w, accuracy)
        parts.append(part)
        beside += near
    found = []
    for chosen in product(*(range(len(part.counts)) for part in parts)):
        joint = w * np.prod([part.share[i] for part, i in zip(parts, chosen, strict=True)], axis=0)
        weight = float(joint.sum())
        if weight > _MIN_WEIGHT:
            found.append((weight, chosen, joint / weight))
    sizes = [
        math.prod(math.comb(int(n), int(part.counts[i])) for n, part, i in zip(integral.n, parts, chosen, strict=True))
        for _, chosen, _ in found
    ]
    listed = sum(sizes) <= _LISTED
    weights, means, covariances = [], [], []
    for (share, chosen, joint), size in zip(found, sizes, strict=True):
        counts = [int(part.counts[i]) for part, i in zip(parts, chosen, strict=True)]
        moments = _group_moments(a, joint, parts, chosen)
        members = kinds.members(np.array(counts)) if listed else [_first(kinds, integral, counts)]
        for upper in members:
            average, covariance = _in_outputs(integral, upper, *moments)
            weights.append(share / size if listed else share)
            means.append(average)
            covariances.append(covariance)
    total, mean = np.array(weights), np.array(means)
    order = heaviest_first(total, mean)
    return {
        "weight": total[order] / total.sum(),
        "mode": mean[order],
        "mean": mean[order],
        "covariance": np.array(covariances)[order],
        "beside_cuts": beside,
        "weight_error": 1e-3,
        "kind": None if listed else kinds.kind.astype(float),
    }


def _first(kinds: ClassKinds, integral: ExchangeIntegral, counts: list[int]) -> NDArray[np.bool_]:
    upper = np.zeros(len(kinds.kind), dtype=bool)
    for k, count in enumerate(counts):
        if integral.n[k] > 1:
            upper[np.flatnonzero(kinds.kind == k)[:count]] = True
    return upper


def _parts_of(
    integral: ExchangeIntegral, theta: FloatArray, k: int, a: FloatArray, w: FloatArray, accuracy: float
) -> tuple[_Parts, float]:
    """Moments of one kind, and the share of neurons beside its cut."""
    n, n_nodes = int(integral.n[k]), len(a)
    if n == 1:
        one, none = np.ones((1, n_nodes)), np.zeros((1, n_nodes, 2))
        return _Parts(np.zeros(1, np.int64), one, none, none, none, none[:, :, 0]), 0.0
    rho = float(integral.kinds.overlaps(theta)[1][k])
    samples, grid = integral.site(theta, k, accuracy, direct=False, shifted=False)
    assert grid is not None
    kappa = grid.low + grid.step * np.arange(grid.size)
    place = np.clip(np.rint(kappa / samples.spacing).astype(np.int64) - samples.origin, 0, len(samples.values) - 1)
    bend = samples.values[place, 2]
    steepest = bend.max()
    if rho * integral.p[k] * steepest <= 1.0:
        cut = 0  # one part
    else:
        flat = np.flatnonzero(bend >= steepest * (1.0 - 1e-9))
        cut = int(flat[np.argmin(np.abs(kappa[flat]))])
        cut += int(kappa[cut] < 0.0)
        cut = min(max(cut, 1), grid.size - 1)
    field = a @ theta[k, :-1]
    s = (n * field - n * grid.low) / grid.step
    first = math.floor(s.min()) - 2
    table = np.empty((n + 1, math.ceil(s.max()) + 3 - first, compiled.MOMENTS))
    arguments = *samples, integral.n_samples, integral.p[k], n, 1.0 / rho, grid.low, grid.step, grid.size
    if cut == 0:
        compiled.split_kind(*arguments, 1, first, table)
        table = _together(table, n, n * grid.low + grid.step * (first + np.arange(table.shape[1])))
        counts = np.array([n])
    else:
        compiled.split_kind(*arguments, cut, first, table)
        counts = np.arange(n + 1)
    values = _interpolated(table, s - first)  # (J, M, MOMENTS)
    share = np.exp(values[:, :, 0] - values[:, :, 0].max(axis=0))
    values[share == 0.0] = 0.0
    share /= share.sum(axis=0)
    some = (share @ w) > 0.1 * _MIN_WEIGHT
    counts, share, values = counts[some], share[some], values[some]
    share = share / np.maximum(share.sum(axis=0), 1e-300)
    part = _moments(counts, share, values, field, n, float(theta[k, -1]))
    near = 0.0
    if cut > 0:
        near = _beside(part, kappa[cut] - 0.5 * grid.step, grid.step, field, float(theta[k, -1]), n, w)
    return part, near


def _together(table: FloatArray, n: int, total: FloatArray) -> FloatArray:
    """One part: all classes are in it."""
    top = table[:, :, 0].max(axis=0)
    share = np.exp(table[:, :, 0] - top)
    mass = share.sum(axis=0)
    whole = np.zeros((1, *table.shape[1:]))
    whole[0, :, 0] = top + np.log(mass)
    whole[0, :, 1] = total
    # Of all classes: sum kappa^2 of both parts less that of a mean field common to all.
    for j in range(n + 1):
        upper, lower = table[j, :, 1], total - table[j, :, 1]
        squares = table[j, :, 3] + table[j, :, 4] + (upper**2 + table[j, :, 2]) / max(j, 1)
        squares += (lower**2 + table[j, :, 2]) / max(n - j, 1)
        whole[0, :, 3] += share[j] / mass * np.maximum(squares - total**2 / n, 0.0)
    return whole


def _interpolated(table: FloatArray, at: FloatArray) -> FloatArray:
    """Cubic interpolation (J, M, .) of rows (J, n, .) at places between nodes: logarithms of Gaussians are quadratic.

    Linear beside places that no classes can have, and nothing there.
    """
    j = np.floor(at).astype(np.int64)
    u = at - j
    v, w = u + 1.0, u - 1.0
    cubic = np.stack([-u * w * (u - 2) / 6, v * w * (u - 2) / 2, -v * u * (u - 2) / 2, v * u * w / 6])  # (4, M)
    linear = np.stack([np.zeros_like(u), 1.0 - u, u, np.zeros_like(u)])
    there = np.isfinite(table[:, :, 0])
    near = np.stack([there[:, j + i - 1] for i in range(4)])  # (4, J, M)
    weights = np.where(near.all(axis=0), cubic[:, None], linear[:, None])
    table = np.where(there[:, :, None], table, 0.0)
    result = sum(weights[i][:, :, None] * table[:, j + i - 1] for i in range(4))
    return np.where((near[1] & near[2])[:, :, None], result, -np.inf)


def _moments(
    counts: NDArray[np.int64], share: FloatArray, values: FloatArray, field: FloatArray, n: int, r: float
) -> _Parts:
    shape = (*share.shape, 2)
    mean, square, pair = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    between = np.zeros(share.shape)
    variance, spreads = np.maximum(values[:, :, 2], 0.0), np.maximum(values[:, :, 4:2:-1], 0.0)
    sums = n * field - values[:, :, 1], values[:, :, 1]
    for i, j in enumerate(counts):
        sizes = n - int(j), int(j)
        away = np.zeros((2, len(field)))
        for side, size in enumerate(sizes):
            if size == 0:
                continue
            away[side] = sums[side][i] / size - field
            common = variance[i] / size**2 + away[side] ** 2
            mean[i, :, side] = away[side] / r
            square[i, :, side] = (spreads[i, :, side] / size + common) / r**2
            if size > 1:
                pair[i, :, side] = (common - spreads[i, :, side] / (size * (size - 1))) / r**2
        if min(sizes) > 0:
            between[i] = (away[0] * away[1] - variance[i] / (sizes[0] * sizes[1])) / r**2
    return _Parts(counts, share, mean, square, pair, between)


def _beside(part: _Parts, cut: float, width: float, field: FloatArray, r: float, n: int, w: FloatArray) -> float:
    """Share of neurons with a class within `width` of the cut, classes of a part taken as Gaussian."""
    x, step = (cut - field) / r, width / r
    total = 0.0
    for i, j in enumerate(part.counts):
        for side, size in enumerate((n - int(j), int(j))):
            if size == 0:
                continue
            spread = np.maximum(part.square[i, :, side] - part.mean[i, :, side] ** 2, 1e-300)
            density = np.exp(-0.5 * (x - part.mean[i, :, side]) ** 2 / spread) / np.sqrt(2.0 * math.pi * spread)
            total += size * float(w @ (part.share[i] * density)) * step
    return min(total, 1.0)


def _group_moments(
    a: FloatArray, joint: FloatArray, parts: list[_Parts], chosen: tuple[int, ...]
) -> tuple[FloatArray, ...]:
    """Of a_0 and of x in the 2 K parts of kinds: means, second moments, and <x^2>, <x x'> within parts."""
    x = np.concatenate([part.mean[i] for part, i in zip(parts, chosen, strict=True)], axis=1)  # (M, 2 K)
    both = np.concatenate([a, x], axis=1)
    second = (both.T * joint) @ both
    d = a.shape[1]
    square = np.concatenate([joint @ part.square[i] for part, i in zip(parts, chosen, strict=True)])
    pair = np.concatenate([joint @ part.pair[i] for part, i in zip(parts, chosen, strict=True)])
    for k, (part, i) in enumerate(zip(parts, chosen, strict=True)):
        lower, upper = d + 2 * k, d + 2 * k + 1
        second[lower, upper] = second[upper, lower] = float(joint @ part.between[i])
        second[lower, lower], second[upper, upper] = pair[2 * k], pair[2 * k + 1]
    return joint @ both, second, square


def _in_outputs(
    integral: ExchangeIntegral, upper: NDArray[np.bool_], mean: FloatArray, second: FloatArray, square: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Mean (m,) and covariance (m, m) of the readout of the code whose upper classes are `upper`.

    a = a_0 + sum_k (1 - 1 / n_k) sum_c x_c u_c, and outside of the span of the targets there is the prior.
    """
    kinds, d = integral.kinds, integral.dimension
    group = 2 * kinds.kind + upper
    shrink = (1.0 - 1.0 / np.maximum(kinds.n, 1.0))[kinds.kind]
    axes = np.vstack([kinds.basis, shrink[:, None] * kinds.simplex])  # (d + C, m)
    place = np.concatenate([np.arange(d), d + group])
    full = second[np.ix_(place, place)]
    rows = d + np.arange(len(group))
    full[rows, rows] = square[group]
    average = mean[place] @ axes
    inside = np.linalg.qr(axes.T)[0] if kinds.span == axes.shape[1] else _span(axes, kinds.span)
    outside = np.eye(axes.shape[1]) - inside @ inside.T
    covariance = axes.T @ full @ axes - np.outer(average, average) + outside / integral.n_samples
    return average, 0.5 * (covariance + covariance.T)


def _span(axes: FloatArray, rank: int) -> FloatArray:
    """Orthonormal basis (m, rank) of what rows of `axes` span."""
    return np.asarray(np.linalg.svd(axes, full_matrices=False)[2][:rank].T)
