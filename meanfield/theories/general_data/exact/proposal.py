"""Mixtures of Gaussians in weight space, made of a solution's components, from which the exact measure is sampled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.special import logsumexp

from meanfield.numerics.limits import check_time
from meanfield.theories.general_data.exact.particles import ParticleSolution
from meanfield.theories.general_data.exact.sample import Sample, sample_of
from meanfield.theories.general_data.slices import solve_rows
from meanfield.theories.general_data.solution import GeneralSolution
from meanfield.validation import FloatArray, IntArray

__all__ = ["FEW", "Mixture", "adapt", "affordable", "mixture_of", "prior_mixture", "refit"]

_LEAST = 0.02  # weight of a component
_WIDE = 0.2  # weight of the components once more, with larger covariance
_PRIOR = 0.05  # weight of the prior
_HEAVY = 48  # components of a piece that its moments are taken from
_MOST_FITTED, _FITS = 12, 5  # components of a fit, and its steps
_MANY_FITTED, FEW = 120, 20  # the same, in few dimensions; and how many are few
_NOTHING = 1e-12  # weight of a component that has no points
_PER_CODE = 3  # Gaussians of the particles of a code
_FLOOR = 1e-10  # of covariances, relative to the prior


@dataclass(frozen=True, eq=False)
class Mixture:
    """sum_k weight_k N(mean_k, root_k root_k^T) over w in R^r; `code` of a component is -1 if it has none."""

    weight: FloatArray  # (K,)
    mean: FloatArray  # (K, r)
    root: FloatArray  # (K, r, r), lower triangular
    code: IntArray  # (K,)

    def draw(self, n: int, rng: np.random.Generator) -> FloatArray:
        """(n, r) points, as nearly as possible in proportion from every component."""
        edges = np.cumsum(self.weight / self.weight.sum())
        chosen = np.searchsorted(edges[:-1], (np.arange(n) + rng.random()) / n)
        points = rng.standard_normal((n, self.mean.shape[1]))
        for k in np.unique(chosen):
            check_time()
            mine = chosen == k
            points[mine] = self.mean[k] + points[mine] @ self.root[k].T
        return points

    def log_parts(self, points: FloatArray) -> FloatArray:
        """(n, K) ln of the weighted density of every component, without (2 pi)^{-r/2}."""
        found = np.empty((len(points), len(self.weight)))
        for k, (mean, root) in enumerate(zip(self.mean, self.root)):
            off = solve_rows(root, points - mean)
            level = math.log(self.weight[k]) - float(np.log(np.diag(root)).sum())
            found[:, k] = level - 0.5 * np.einsum("ij,ij->i", off, off)
        return found

    def log_density(self, points: FloatArray) -> FloatArray:
        return np.asarray(logsumexp(self.log_parts(points), axis=1))

    def codes(self, points: FloatArray) -> IntArray:
        """(n,) the code most likely to have made each point."""
        parts = self.log_parts(points)
        known = self.code >= 0
        names = np.unique(self.code[known])
        levels = np.stack([logsumexp(parts[:, self.code == g], axis=1) for g in names], axis=1)
        return names[np.argmax(levels, axis=1)]

    def sample(self, solution: GeneralSolution, n: int, rng: np.random.Generator, coded: bool = False) -> Sample:
        points = self.draw(n, rng)
        parts = self.log_parts(points)
        base = -0.5 * np.einsum("ij,ij->i", points, points) - logsumexp(parts, axis=1) - math.log(n)
        group = self.codes(points) if coded else None
        return sample_of(solution.activation, solution.features, points, base, group=group)

    def join(self, weight: float, mean: FloatArray, root: FloatArray, code: int = -1) -> Mixture:
        """With one more component."""
        return Mixture(
            np.append((1.0 - weight) * self.weight, weight),
            np.concatenate([self.mean, mean[None]]),
            np.concatenate([self.root, root[None]]),
            np.append(self.code, code),
        )


def mixture_of(solution: GeneralSolution) -> Mixture:
    """The weights of a neuron in a solution: a Gaussian per code and piece, wider copies, and the prior."""
    if isinstance(solution, ParticleSolution):
        return prior_mixture(solution.features.shape[1]) if len(solution.weight) == 1 else _of_particles(solution)
    cuts: dict[int, list[tuple[float, ...]]] = {}
    for component, *cut in solution.cuts:
        cuts.setdefault(int(component), []).append(tuple(cut))
    pieces: dict[tuple[int, tuple[tuple[float, ...], ...]], list[int]] = {}
    for i, g in enumerate(solution.basin):
        pieces.setdefault((int(g), tuple(cuts.get(i, ()))), []).append(i)
    weights, means, covariances, codes = [], [], [], []
    for (g, _), rows in pieces.items():
        total = float(solution.weight[rows].sum())
        if not total > 0.0:
            continue
        kept = sorted(rows, key=lambda i: -solution.weight[i])[:_HEAVY]
        mean, covariance = _moments(solution, kept)
        weights.append(total)
        means.append(mean)
        covariances.append(covariance)
        codes.append(g)
    return _defensive(weights, means, covariances, codes)


def _of_particles(solution: ParticleSolution) -> Mixture:
    """Gaussians of the particles of every code: several where a code has the points for it, as those in pieces need."""
    rng = np.random.default_rng(0)
    weights: list[float] = []
    means: list[FloatArray] = []
    covariances: list[FloatArray] = []
    codes: list[int] = []
    for g in range(solution.n_codes):
        mine = solution.basin == g
        points, share = solution.particles[mine], solution.weight[mine] / solution.code_weight[g]
        number = int(np.clip(affordable(points.shape[1], share), 1, _PER_CODE))
        for weight, mean, covariance in _clusters(points, share, number, rng):
            weights.append(weight * float(solution.code_weight[g]))
            means.append(mean)
            covariances.append(covariance)
            codes.append(g)
    return _defensive(weights, means, covariances, codes)


def affordable(rank: int, share: FloatArray) -> int:
    """How many Gaussians a weighted sample determines."""
    effective = 1.0 / float(share @ share)
    return int(min(_MANY_FITTED if rank <= FEW else _MOST_FITTED, effective / (4.0 * rank + 20.0)))


def _clusters(
    points: FloatArray, share: FloatArray, number: int, rng: np.random.Generator
) -> Iterator[tuple[float, FloatArray, FloatArray]]:
    """Weight, mean and covariance of clusters of a weighted sample; covariances shrunk towards that of all of it."""
    rank = points.shape[1]
    mean = share @ points
    off = points - mean
    if number == 1:
        yield 1.0, mean, (off.T * share) @ off
        return
    size = min(4000, 4 * int(1.0 / float(share @ share)))
    chosen = points[rng.choice(len(points), size=size, p=share / share.sum())]
    label = kmeans2(chosen, number, minit="++", rng=rng)[1]
    whole = np.cov(chosen.T).reshape(rank, rank)
    for k in range(number):
        mine = chosen[label == k]
        if len(mine) < 2:
            continue
        shrink = rank / (rank + len(mine))
        own = np.cov(mine.T).reshape(rank, rank)
        yield len(mine) / len(chosen), mine.mean(axis=0), (1.0 - shrink) * own + shrink * whole


def prior_mixture(rank: int) -> Mixture:
    return Mixture(np.ones(1), np.zeros((1, rank)), np.eye(rank)[None], np.zeros(1, dtype=int))


def _defensive(
    weights: Sequence[float], means: Sequence[FloatArray], covariances: Sequence[FloatArray], codes: Sequence[int]
) -> Mixture:
    rank = len(means[0])
    weight = np.maximum(np.array(weights) / np.sum(weights), _LEAST)
    weight /= weight.sum()
    root = np.array([np.linalg.cholesky(c + _FLOOR * np.eye(rank)) for c in covariances])
    wider = math.sqrt(1.0 + 2.0 / math.sqrt(rank))
    plain = 1.0 - _WIDE - _PRIOR
    return Mixture(
        np.concatenate([plain * weight, _WIDE * weight, [_PRIOR]]),
        np.concatenate([means, means, np.zeros((1, rank))]),
        np.concatenate([root, wider * root, np.eye(rank)[None]]),
        np.concatenate([codes, codes, [-1]]).astype(int),
    )


def _moments(solution: GeneralSolution, rows: Sequence[int]) -> tuple[FloatArray, FloatArray]:
    """Mean (r,) and covariance (r, r) of the weights in components of a solution."""
    share = solution.weight[rows] / solution.weight[rows].sum()
    rank = solution.features.shape[1]
    known: dict[tuple[bytes, int], FloatArray] = {}  # components of one piece may share their precision
    centres = np.empty((len(rows), rank))
    inside = np.zeros((rank, rank))
    for k, i in enumerate(rows):
        features, linear, soft = solution.features, solution.nu[i], int(solution.soft[i])
        offset = np.zeros(rank)
        if soft >= 0:
            u = solution.directions[soft]
            along = features @ u
            features = features - np.outer(along, u)
            linear = linear - solution.s[i] * (solution.soft_x[i] * along)
            offset = solution.soft_x[i] * u
        key = (solution.s[i].tobytes(), soft)
        if key not in known:
            check_time()
            precision = np.eye(rank) + features.T @ (solution.s[i][:, None] * features)
            known[key] = np.linalg.inv(precision)
        covariance = known[key]
        centres[k] = covariance @ (features.T @ linear) + offset
        inside += share[k] * covariance
        if soft >= 0:
            inside -= share[k] * np.outer(solution.directions[soft], solution.directions[soft])
    mean = share @ centres
    off = centres - mean
    return mean, inside + (off.T * share) @ off


def adapt(mixture: Mixture, points: FloatArray, share: FloatArray) -> Mixture:
    """A mixture whose components have the moments of a weighted sample (one step of expectation maximisation)."""
    parts = mixture.log_parts(points)
    codes = mixture.code
    half = (len(codes) - 1) // 2 if (codes < 0).any() else len(codes)
    level = np.exp(parts - logsumexp(parts, axis=1, keepdims=True))
    rank = points.shape[1]
    weights, means, covariances, names = [], [], [], []
    for k in range(half):
        check_time()
        own = share * (level[:, k] + (level[:, k + half] if 2 * half < len(codes) else 0.0))
        total = float(own.sum())
        inside = own / total if total > _NOTHING else own
        if not total > _NOTHING or 1.0 / float(inside @ inside) < 2.0 * rank + 10.0:  # too few points: as it was
            weights.append(max(total, 1e-3))
            means.append(mixture.mean[k])
            covariances.append(mixture.root[k] @ mixture.root[k].T)
        else:
            mean = inside @ points
            off = points - mean
            weights.append(total)
            means.append(mean)
            covariances.append((off.T * inside) @ off)
        names.append(int(codes[k]))
    return _defensive(weights, means, covariances, names)


def refit(mixture: Mixture, points: FloatArray, share: FloatArray, rng: np.random.Generator) -> Mixture:
    """A mixture fitted to a weighted sample, with as many components as it determines."""
    number = affordable(points.shape[1], share)
    if number < 2:
        return mixture
    weights, means, covariances = zip(*_clusters(points, share, number, rng))
    # Points of a fitted component belong to the code that is the most likely one there.
    codes = mixture.codes(np.array(means))
    found = _defensive(weights, means, covariances, [int(g) for g in codes])
    for _ in range(_FITS):
        check_time()
        found = adapt(found, points, share)
    return found
