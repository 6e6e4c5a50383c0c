"""Classes that can be exchanged: kinds of classes, coordinates that divide the exchange out, and orbits of readouts.

Classes are of one kind if swapping any two leaves fractions and Gram matrix y y^T as they are. A permutation within
kinds then is an orthogonal map of the outputs, and J, being convex, has a minimum that shares the symmetry
(single_layer/THEORY.md, "Exchangeable classes"):

    t_c = tau_k + r_k u_c,   a = a_0 + sum_k b_k,   kappa_c = a_0.tau_k + r_k b_k.u_c   for c of kind k,

where tau_k and a_0 lie in the space of the kinds' mean targets, and u_c is the unit vector of y_c minus that mean: a
simplex, orthogonal to everything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from meanfield.validation import FloatArray

__all__ = ["ClassKinds", "averaged_over_orbits", "class_kinds", "kinds_of", "log_orbit_sizes", "orbit_size"]

_SAME = 1e-12  # relative difference of fractions and of entries of y y^T that counts as rounding


def kinds_of(fractions: FloatArray, vectors: FloatArray) -> NDArray[np.intp]:
    """(C,) the kind of every class, numbered by first appearance; `vectors` (C, m) are targets."""
    gram = vectors @ vectors.T
    tolerance = _SAME * max(float(np.abs(gram).max()), 1e-300)
    kinds = np.full(len(fractions), -1, dtype=np.intp)
    first: list[int] = []
    for c in range(len(fractions)):
        for kind, d in enumerate(first):
            others = np.ones(len(fractions), dtype=bool)
            others[[c, d]] = False
            if (
                abs(fractions[c] - fractions[d]) <= _SAME
                and abs(gram[c, c] - gram[d, d]) <= tolerance
                and np.abs(gram[c] - gram[d])[others].max(initial=0.0) <= tolerance
            ):
                kinds[c] = kind
                break
        else:
            kinds[c] = len(first)
            first.append(c)
    return kinds


@dataclass(frozen=True, eq=False)
class ClassKinds:
    """A task in reduced coordinates: K kinds, d - 1 outputs that tell kinds apart and one along the simplex.

    Attributes
    ----------
    kind : (C,) int array
    n : (K,) array
        Classes of each kind.
    p : (K,) array
        Fraction of one class of each.
    y : (K, d) array
        Mean target in `basis`, then the distance of a target from it.
    basis : (d - 1, m) array
        Orthonormal, spans the mean targets.
    simplex : (C, m) array
        u_c; zero where a kind has no simplex.
    """

    kind: NDArray[np.intp]
    n: FloatArray
    p: FloatArray
    y: FloatArray
    basis: FloatArray
    simplex: FloatArray

    @property
    def n_kinds(self) -> int:
        return len(self.n)

    @cached_property
    def split(self) -> NDArray[np.bool_]:
        """(K,) whether a kind has a simplex."""
        return np.asarray(self.y[:, -1] > 0.0)

    @cached_property
    def free(self) -> NDArray[np.bool_]:
        """(K, d) the coordinates of theta that exist."""
        free = np.ones(self.y.shape, dtype=bool)
        free[:, -1] = self.split
        return free

    def overlaps(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(K, K) t_c . t_c' of different classes, and (K,) what |t_c|^2 has in excess of it."""
        inner = theta[:, :-1] @ theta[:, :-1].T
        spread = np.where(self.split, theta[:, -1] ** 2 / np.maximum(self.n - 1.0, 1.0), 0.0)
        return np.ascontiguousarray(inner - np.diag(spread)), spread * self.n

    def order_parameters(self, theta: FloatArray) -> FloatArray:
        """(C, m) t_c."""
        return np.asarray(theta[self.kind, :-1] @ self.basis + theta[self.kind, -1:] * self.simplex)

    def readout(self, v: FloatArray, upper: NDArray[np.bool_]) -> FloatArray:
        """(m,) the readout of the orbit v whose upper classes are `upper` (C,)."""
        a = v[: len(self.basis)] @ self.basis
        for k in np.flatnonzero(self.split):
            chosen = self.kind == k
            j, n = int(upper[chosen].sum()), self.n[k]
            if 0 < j < n:
                # b = sum_c x_c e_c with e_c = sqrt(1 - 1/n) u_c and x of two values, sum x = 0, |x| = v_k.
                x = np.where(upper, math.sqrt((n - j) / (j * n)), -math.sqrt(j / ((n - j) * n)))[chosen]
                a = a + v[len(self.basis) + k] * math.sqrt(1.0 - 1.0 / n) * x @ self.simplex[chosen]
        return np.asarray(a)

    def first_readouts(self, v: FloatArray, counts: FloatArray) -> FloatArray:
        """(n, m) readouts of orbits (n, d - 1 + K) whose upper classes are the first `counts` (n, K) of each kind."""
        a = v[:, : len(self.basis)] @ self.basis
        for k in np.flatnonzero(self.split):
            n, j = self.n[k], counts[:, k]
            # As in `readout`; all u_c of a kind together are zero.
            sums = np.vstack([np.zeros(self.simplex.shape[1]), np.cumsum(self.simplex[self.kind == k], axis=0)])
            inside = (j > 0) & (j < n)
            up, low = np.maximum(j, 1.0), np.maximum(n - j, 1.0)
            size = np.where(inside, np.sqrt(low / (up * n)) + np.sqrt(up / (low * n)), 0.0) * math.sqrt(1.0 - 1.0 / n)
            a = a + (size * v[:, len(self.basis) + k])[:, None] * sums[j.astype(np.intp)]
        return np.asarray(a)

    @property
    def span(self) -> int:
        """Dimension of the span of the targets."""
        return len(self.basis) + int((self.n[self.split] - 1.0).sum())

    def moments(self, readouts: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(m,) mean and (m, m) second moment of readouts (n, m), averaged over permutations within kinds."""
        inside = readouts @ self.basis.T @ self.basis
        second = np.asarray((inside.T * weights) @ inside)
        for k in np.flatnonzero(self.split):
            u = self.simplex[self.kind == k]
            # |b|^2 = (n - 1)/n sum_c (b.u_c)^2, shared by the n - 1 directions of the simplex.
            power = float(weights @ ((readouts @ u.T) ** 2).sum(axis=1)) * (self.n[k] - 1.0) / self.n[k]
            second = second + power / self.n[k] * u.T @ u
        return np.asarray(weights @ inside), second

    def averaged_covariance(self, covariance: FloatArray) -> FloatArray:
        """(m, m) matrix of the readout, averaged over permutations within kinds; left alone outside of the span."""
        inside = self.basis.T @ self.basis
        outside = np.eye(len(covariance)) - inside
        averaged = inside @ covariance @ inside
        for k in np.flatnonzero(self.split):
            u = self.simplex[self.kind == k]
            plane = (self.n[k] - 1.0) / self.n[k] * u.T @ u  # a projector
            averaged = averaged + float(np.sum(plane * covariance)) / (self.n[k] - 1.0) * plane
            outside = outside - plane
        return np.asarray(averaged + outside @ covariance @ outside)

    def averaged_output(self, output: FloatArray) -> FloatArray:
        """(C, m) output of a readout, averaged over permutations within kinds."""
        averaged = np.empty(output.shape)
        for k in range(self.n_kinds):
            chosen = self.kind == k
            u = self.simplex[chosen]
            mean = output[chosen].mean(axis=0) @ self.basis.T @ self.basis
            averaged[chosen] = mean + float((output[chosen] * u).sum()) / self.n[k] * u
        return averaged

    def shuffled(self, readouts: FloatArray, generator: np.random.Generator) -> FloatArray:
        """Readouts (n, m), each with the classes of every kind permuted at random."""
        result = readouts.copy()
        for k in np.flatnonzero(self.split):
            u = self.simplex[self.kind == k]
            fields = readouts @ u.T
            result += (self.n[k] - 1.0) / self.n[k] * (generator.permuted(fields, axis=1) - fields) @ u
        return np.asarray(result)

    def members(self, counts: FloatArray) -> list[NDArray[np.bool_]]:
        """All choices of upper classes with these counts."""
        from itertools import combinations, product

        choices = []
        for k in range(self.n_kinds):
            members = np.flatnonzero(self.kind == k)
            choices.append(list(combinations(members, int(counts[k]))))
        found = []
        for chosen in product(*choices):
            upper = np.zeros(len(self.kind), dtype=bool)
            upper[[c for part in chosen for c in part]] = True
            found.append(upper)
        return found


def class_kinds(fractions: FloatArray, targets: FloatArray) -> ClassKinds:
    """Kinds of the classes of a task and its reduced coordinates."""
    kind = kinds_of(fractions, targets)
    n_kinds = int(kind.max()) + 1
    n = np.bincount(kind).astype(float)
    mean = np.array([targets[kind == k].mean(axis=0) for k in range(n_kinds)])
    p = np.array([fractions[kind == k].mean() for k in range(n_kinds)])
    _, singular, right = np.linalg.svd(mean, full_matrices=False)
    size = max(float(np.abs(targets).max()), 1e-300)
    basis = right[singular > 1e-12 * size * math.sqrt(n_kinds)]
    offset = targets - mean[kind]
    offset -= offset @ basis.T @ basis
    distance = np.sqrt((offset**2).sum(axis=1))
    distance[distance <= 1e-11 * size] = 0.0
    simplex = offset / np.where(distance > 0.0, distance, 1.0)[:, None] * (distance > 0.0)[:, None]
    apart = np.array([distance[kind == k].mean() for k in range(n_kinds)])
    return ClassKinds(kind, n, p, np.column_stack([mean @ basis.T, apart]), np.ascontiguousarray(basis), simplex)


def orbit_size(kind: NDArray[np.intp], fields: FloatArray) -> int:
    """Number of codes that exchange makes of one with fields a.t_c (C,): a product of multinomials."""
    size = 1
    for k in range(int(kind.max()) + 1):
        own = np.sort(fields[kind == k])
        steps = np.flatnonzero(np.diff(own) > 1e-6 * (1.0 + np.abs(own).max()))
        size *= math.factorial(len(own))
        for part in np.diff([0, *(steps + 1), len(own)]):
            size //= math.factorial(int(part))
    return size


def log_orbit_sizes(n: FloatArray, counts: FloatArray) -> FloatArray:
    """(N,) ln of the number of readouts that exchange makes of one, of orbits (N, K): a product of binomials."""
    return np.asarray((gammaln(n + 1.0) - gammaln(counts + 1.0) - gammaln(n - counts + 1.0)).sum(axis=1))


def averaged_over_orbits(kind: NDArray[np.intp], matrix: FloatArray) -> FloatArray:
    """(C, C) mean of `matrix` over permutations of classes within kinds."""
    matrix = np.asarray(matrix, dtype=float)
    one = (kind[:, None] == np.arange(int(kind.max()) + 1)).astype(float)  # (C, K)
    n = one.sum(axis=0)
    blocks = one.T @ matrix @ one  # sums over pairs of kinds
    diagonal = one.T @ np.diag(matrix)
    pairs = np.outer(n, n) - np.diag(n)
    mean = (blocks - np.diag(diagonal)) / np.where(pairs > 0.0, pairs, 1.0)
    full = mean[np.ix_(kind, kind)]
    np.fill_diagonal(full, (diagonal / n)[kind])
    return np.asarray(full)
