"""Annealed importance sampling: points carried to the exact measure where their weights alone are too uneven.

Points go from the proposal q to the exact p through q^{1-b} p^b, b from 0 to 1, with moves that leave each of these in
place: Hamiltonian ones, or elliptical slices where phi jumps and ln p has no gradient. The weights that they collect
are unbiased (R. M. Neal, Statistics and Computing 11:125, 2001), whatever the quality of the moves.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

from meanfield.numerics.limits import check_time
from meanfield.theories.general_data.exact.proposal import Mixture
from meanfield.theories.general_data.exact.quadrature import has_jumps
from meanfield.theories.general_data.exact.readout import readout_given
from meanfield.theories.general_data.exact.sample import Sample, sample_of
from meanfield.theories.general_data.slices import solve_rows
from meanfield.theories.general_data.solution import GeneralSolution
from meanfield.validation import FloatArray

__all__ = ["anneal", "move"]

_STAGES, _LEAPS, _SLICES = 16, 3, 2
_ACCEPTED = 0.75  # rate of acceptance that the step is adapted to
_MOST_CLUSTERS, _PER_COORDINATE = 16, 10  # of points that move together, and their size
_FIRST, _LONGEST = 0.4, 1.2  # step, in units of the proposal's width


class _Path:
    """ln q and ln p with their gradients, and moves between them."""

    def __init__(
        self,
        solution: GeneralSolution,
        mixture: Mixture,
        t: FloatArray,
        rng: np.random.Generator,
        reach: float = math.inf,
    ) -> None:
        self.reach = reach
        self.solution, self.mixture, self.t, self.rng = solution, mixture, t, rng
        self.step = _FIRST
        identity = np.eye(mixture.mean.shape[1])
        self.inverse = [solve_triangular(root, identity, lower=True) for root in mixture.root]
        mass = sum(w * a.T @ a for w, a in zip(mixture.weight, self.inverse))
        self.mass_root = np.linalg.cholesky(mass)

    def exact(self, w: FloatArray) -> tuple[FloatArray, FloatArray]:
        """ln p (n,), without its constant, and phi (n, P)."""
        s = self.solution
        phi = s.activation(w @ s.features.T)
        return readout_given(s.prior * (phi @ self.t), s.prior, self.reach).level - 0.5 * (w**2).sum(axis=1), phi

    def levels(self, w: FloatArray) -> tuple[FloatArray, FloatArray]:
        """ln p and ln q."""
        return self.exact(w)[0], self.mixture.log_density(w)

    def slopes(self, w: FloatArray, b: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """ln p, ln q and the gradient of (1 - b) ln q + b ln p."""
        s = self.solution
        check_time()
        z = w @ s.features.T
        readout = readout_given(s.prior * (s.activation(z) @ self.t), s.prior, self.reach)
        log_p = readout.level - 0.5 * (w**2).sum(axis=1)
        slope = b * (((readout.mean @ self.t.T) * s.activation.derivative(z)) @ s.features - w)
        parts = np.empty((len(w), len(self.inverse)))
        offs = []
        for i, (weight, mean, inverse) in enumerate(zip(self.mixture.weight, self.mixture.mean, self.inverse)):
            check_time()
            off = (w - mean) @ inverse.T
            parts[:, i] = math.log(weight) + np.log(np.diag(inverse)).sum() - 0.5 * (off**2).sum(axis=1)
            offs.append(off)
        log_q = logsumexp(parts, axis=1)
        share = np.exp(parts - log_q[:, None])
        for i, (off, inverse) in enumerate(zip(offs, self.inverse)):
            slope -= (1.0 - b) * share[:, i : i + 1] * (off @ inverse)
        return log_p, log_q, slope

    def hamiltonian(self, w: FloatArray, b: float) -> FloatArray:
        log_p, log_q, slope = self.slopes(w, b)
        start = b * log_p + (1.0 - b) * log_q
        kick = self.rng.standard_normal(w.shape)  # whitened momentum
        start = start - 0.5 * (kick**2).sum(axis=1)
        moved = w
        step = self.step * self.rng.uniform(0.8, 1.2)

        def whiten(slope: FloatArray) -> FloatArray:
            return solve_rows(self.mass_root, slope)

        kick = kick + 0.5 * step * whiten(slope)
        for leap in range(_LEAPS):
            moved = moved + step * solve_triangular(self.mass_root, kick.T, lower=True, trans=1, check_finite=False).T
            log_p, log_q, slope = self.slopes(moved, b)
            kick = kick + (1.0 if leap < _LEAPS - 1 else 0.5) * step * whiten(slope)
        end = b * log_p + (1.0 - b) * log_q - 0.5 * (kick**2).sum(axis=1)
        accepted = np.log(self.rng.uniform(size=len(w))) < end - start
        self.step = min(_LONGEST, self.step * math.exp(0.4 * (float(accepted.mean()) - _ACCEPTED)))
        return np.where(accepted[:, None], moved, w)

    def slices(self, w: FloatArray, b: float) -> FloatArray:
        """Elliptical slice sampling with respect to the prior (I. Murray et al., AISTATS 2010)."""

        def level(points: FloatArray) -> FloatArray:
            log_p, log_q = self.levels(points)
            return np.asarray(b * log_p + (1.0 - b) * log_q + 0.5 * (points**2).sum(axis=1))

        for _ in range(_SLICES):
            other = self.rng.standard_normal(w.shape)
            floor = level(w) + np.log(self.rng.uniform(size=len(w)))
            angle = self.rng.uniform(0.0, 2.0 * math.pi, len(w))
            low, high = angle - 2.0 * math.pi, angle.copy()
            moved, open_ = w.copy(), np.arange(len(w))
            while len(open_):
                check_time()
                trial = w[open_] * np.cos(angle[open_, None]) + other[open_] * np.sin(angle[open_, None])
                inside = (level(trial) > floor[open_]) | (np.abs(high[open_] - low[open_]) < 1e-9)
                moved[open_[inside]] = trial[inside]
                open_ = open_[~inside]
                below = angle[open_] < 0.0
                low[open_] = np.where(below, angle[open_], low[open_])
                high[open_] = np.where(below, high[open_], angle[open_])
                angle[open_] = self.rng.uniform(low[open_], high[open_])
            w = moved
        return w


def anneal(
    solution: GeneralSolution,
    mixture: Mixture,
    t: FloatArray,
    n: int,
    rng: np.random.Generator,
    stages: int = _STAGES,
    reach: float = math.inf,
) -> Sample:
    """A sample whose weights are even at t, and those of the exact measure elsewhere."""
    path = _Path(solution, mixture, t, rng, reach)
    move = path.slices if has_jumps(solution.activation) else path.hamiltonian
    points = mixture.draw(n, rng)
    collected = np.full(n, -math.log(n))
    before = 0.0
    for stage in range(1, stages + 1):
        check_time()
        b = stage / stages
        log_p, log_q = path.levels(points)
        collected = collected + (b - before) * (log_p - log_q)
        points = move(points, b)
        before = b
    found = sample_of(solution.activation, solution.features, points, collected)
    base = collected - readout_given(solution.prior * (found.phi @ t), solution.prior, reach).level
    return Sample(points, found.phi, base)


def move(
    solution: GeneralSolution,
    points: FloatArray,
    t: FloatArray,
    times: int,
    rng: np.random.Generator,
    reach: float = math.inf,
) -> FloatArray:
    """Points of the exact measure at t, moved within it; each with the widths of its own cluster of points."""
    rank = points.shape[1]
    jumps = has_jumps(solution.activation)
    number = 1 if jumps else int(min(_MOST_CLUSTERS, len(points) // (_PER_COORDINATE * rank + 50)))
    label = np.zeros(len(points), dtype=int)
    if number > 1:
        label = kmeans2(points, number, minit="++", rng=rng)[1]
    points = points.copy()
    for cluster in np.unique(label):
        check_time()
        mine = np.flatnonzero(label == cluster)
        whole = len(mine) > 2 * rank + 10
        near = points[mine] if whole else points
        covariance = np.asarray(np.cov(near.T), dtype=np.float64).reshape(rank, rank) + 1e-9 * np.eye(rank)
        root = np.asarray(np.linalg.cholesky(covariance + 1e-6 * np.trace(covariance) / rank * np.eye(rank)))
        around = Mixture(np.ones(1), near.mean(axis=0)[None], root[None], np.zeros(1, dtype=int))
        path = _Path(solution, around, t, rng, reach)
        move = path.slices if jumps else path.hamiltonian
        for _ in range(times):
            points[mine] = move(points[mine], 1.0)
    return points
