"""Lattices around the peaks of a weight: one for every cluster of peaks that overlap."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from meanfield.theories.deep.layers.rules import NotCovered, TooFine
from meanfield.theories.deep.unlike_classes.packings import ball, names, node_lattice
from meanfield.theories.deep.unlike_classes.peaks import Peaks
from meanfield.validation import BoolArray, FloatArray, IntArray

__all__ = ["Cluster", "Patch", "clustered"]

_OVERLAP = 10.0  # Bhattacharyya distance, below which two peaks are on one lattice
_AT_ONCE = 20_000  # nodes
_PER_MOMENT, _MOST_CORRECTED, _LEAST_PART = 20, 0.2, 0.1  # nodes; root mean square; of a cell
_NEAR = 3.0  # nats around the top of a peak, where its first nodes are


@dataclass(frozen=True, eq=False)
class Cluster:
    """Some of the peaks of a mixture, a root (D, D) of a covariance that is narrower than all of theirs, and the share
    of the heaviest peak of the sum that they are in."""

    peaks: Peaks
    members: IntArray
    root: FloatArray
    highest: float

    def count(self, reach: float, depth: float) -> float:
        """About how many nodes a lattice needs."""
        size = len(self.root)
        unit = math.pi ** (0.5 * size) / math.gamma(0.5 * size + 1.0)
        cell = abs(float(np.linalg.det(node_lattice(size, reach)) * np.linalg.det(self.root)))
        share, volume = self.peaks.share, np.prod(np.diagonal(self.peaks.roots, axis1=1, axis2=2), axis=1)
        deep = np.maximum(2.0 * (depth + np.log(share / self.highest)), 0.0)
        return float((unit / cell * volume * deep ** (0.5 * size))[self.members].sum())

    def log_share(self, v: FloatArray) -> FloatArray:
        """(N,) ln of the part of the weight that belongs to the cluster."""
        if len(self.members) == len(self.peaks.share):
            return np.zeros(len(v))
        return np.asarray(np.log(np.maximum(self.peaks.shares(v)[:, self.members].sum(axis=1), 1e-300)))


def clustered(peaks: Peaks, among: IntArray) -> list[Cluster]:
    """Clusters of peaks that overlap, of those `among` all: no share of one of them changes where there is weight.

    Its lattice is as fine as the narrowest peak asks for along every direction.
    """
    left, found = set(among.tolist()), []
    highest = float(peaks.share[among].max())
    distance = _distances(peaks)
    while left:
        members, new = set(), {min(left)}
        while new:
            members |= new
            new = {j for j in left - members if (distance[list(members), j] < _OVERLAP).any()}
        left -= members
        rows = np.array(sorted(members))
        precision = np.linalg.inv(peaks.covariance[rows[0]])
        for k in rows[1:]:
            precision = _above(precision, np.linalg.inv(peaks.covariance[k]))
        root = np.asarray(np.linalg.cholesky(np.linalg.inv(precision)), dtype=float)
        found.append(Cluster(peaks, rows, root, highest))
    return found


def _distances(peaks: Peaks) -> FloatArray:
    """(k, k) Bhattacharyya distances."""
    count = len(peaks.share)
    distance = np.zeros((count, count))
    own = np.linalg.slogdet(peaks.covariance)[1]
    for i in range(count):
        for j in range(i):
            middle, apart = 0.5 * (peaks.covariance[i] + peaks.covariance[j]), peaks.mean[i] - peaks.mean[j]
            value = 0.125 * float(apart @ np.linalg.solve(middle, apart))
            value += 0.5 * float(np.linalg.slogdet(middle)[1] - 0.5 * (own[i] + own[j]))
            distance[i, j] = distance[j, i] = value
    return distance


def _above(one: FloatArray, other: FloatArray) -> FloatArray:
    """A matrix that is not smaller than either of two positive ones."""
    root = np.linalg.cholesky(one)
    inverse = np.linalg.inv(root)
    values, vectors = np.linalg.eigh(inverse @ other @ inverse.T)
    frame = root @ vectors
    return np.asarray((frame * np.maximum(values, 1.0)) @ frame.T)


@dataclass(eq=False)
class Patch:
    """The nodes of one cluster: points v (N, D), ln of their cells, ln of the integrand there, and a number of each
    that alternates between neighbours.

    The lattice is turned and shifted at random: with a node at the top of a peak all shortest waves would err alike.
    """

    cluster: Cluster
    reach: float
    rng: np.random.Generator
    v: FloatArray = field(init=False)
    log_cell: FloatArray = field(default_factory=lambda: np.empty(0))
    height: FloatArray = field(default_factory=lambda: np.empty(0))
    number: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __post_init__(self) -> None:
        size = len(self.cluster.root)
        self.v = np.empty((0, size))
        self.basis, self.offset = node_lattice(size, self.reach), self.rng.random(size)
        turn = np.linalg.qr(self.rng.normal(size=(size, size)))[0]
        self.frame = self.basis @ turn @ self.cluster.root.T
        self.origin = self.cluster.peaks.mean[self.cluster.members[0]]
        self.log_unit = math.log(abs(float(np.linalg.det(self.frame))))

    def grow(self, log_weight: Callable[[FloatArray], FloatArray], depth: float, top: float, most: int) -> float:
        """Finds all nodes that are not `depth` below the highest of all and `top`, which is returned.

        Raises
        ------
        NotCovered
            If these are more than `most`.
        """
        size = len(self.frame)
        around = np.vstack([np.eye(size, dtype=np.int64), -np.eye(size, dtype=np.int64)])
        near = ball(self.basis, math.sqrt(2.0 * _NEAR), np.zeros(size))
        means = self.cluster.peaks.mean[self.cluster.members]
        seeds = np.round(np.linalg.solve(self.frame.T, (means - self.origin).T).T - self.offset).astype(np.int64)
        new = (seeds[:, None, :] + near).reshape(-1, size)
        seen = np.empty(0, dtype=np.int64)
        try:
            while len(new):
                called, first = np.unique(names(new), return_index=True)
                fresh = ~np.isin(called, seen, assume_unique=True)
                new = new[first[fresh]]
                seen = np.sort(np.concatenate([seen, called[fresh]]), kind="stable")  # merges two sorted ones
                if len(self.v) + len(new) > most:
                    raise TooFine("a layer needs too many nodes")
                v = self.origin + (new + self.offset) @ self.frame
                cell = self.cluster.log_share(v) + self.log_unit
                height = np.concatenate([log_weight(v[i : i + _AT_ONCE]) for i in range(0, len(v), _AT_ONCE)] or [cell])
                height = height + cell
                top = max(top, float(height.max(initial=-math.inf)))
                self.v, self.log_cell = np.vstack([self.v, v]), np.append(self.log_cell, cell)
                self.height = np.append(self.height, height)
                self.number = np.append(self.number, new.sum(axis=1))
                new = (new[height > top - depth][:, None, :] + around).reshape(-1, size)
        except OverflowError as error:
            raise NotCovered(f"a layer needs {error}") from error
        return top

    def corrected(self, kept: BoolArray) -> FloatArray:
        """ln of what nodes that are `kept` stand for, such that they integrate the cluster's Gaussians times every
        polynomial of the second degree exactly: what the spacing and the rim cost is that of the difference from these
        alone.

        As little as possible is changed, by a polynomial, nowhere to less than a part of a cell; nothing where nodes
        are so few that they weigh nothing, and where that would be no small correction.
        """
        v, log_cell = self.v[kept], self.log_cell[kept]
        size = v.shape[1]
        at = [(i, j) for i in range(size) for j in range(i, size)]
        count = 1 + size + len(at)
        if len(v) < _PER_MOMENT * count:
            return log_cell
        peaks, rows = self.cluster.peaks, self.cluster.members
        share = peaks.share[rows] / peaks.share[rows].sum()
        middle = share @ peaks.mean[rows]
        apart = peaks.mean[rows] - middle
        spread = np.einsum("k,kij->ij", share, peaks.covariance[rows] + apart[:, :, None] * apart[:, None, :])
        inverse = np.linalg.inv(np.linalg.cholesky(spread))
        wanted = np.array([1.0, *[0.0] * size, *(float(i == j) for i, j in at)])
        one, two = (np.array(part) for part in zip(*at))
        gram, parts = np.zeros((count, count)), list[FloatArray]()
        for start in range(0, len(v), _AT_ONCE):
            x = (v[start : start + _AT_ONCE] - middle) @ inverse.T
            parts.append(np.column_stack([np.ones(len(x)), x, x[:, one] * x[:, two]]))
            log_law = peaks.log_parts(v[start : start + _AT_ONCE])[:, rows] - math.log(peaks.share[rows].sum())
            law = np.exp(log_law + self.log_unit - 0.5 * size * math.log(2.0 * math.pi)).sum(axis=1)
            gram += (parts[-1].T * law) @ parts[-1]
        change = np.linalg.lstsq(gram, wanted - gram[0], rcond=1e-10)[0]
        if float(change @ gram @ change) > _MOST_CORRECTED**2:
            return log_cell
        factor = 1.0 + np.concatenate([part @ change for part in parts])
        return np.asarray(log_cell + np.log(np.maximum(factor, _LEAST_PART)))
