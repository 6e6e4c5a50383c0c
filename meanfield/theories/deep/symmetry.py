"""Permutations of classes that leave a task as it is, and arrays that respect them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from meanfield.validation import FloatArray, IntArray

__all__ = ["AllPermutations", "Symmetry", "exchangeable", "exchanged", "no_symmetry", "symmetry"]

_MOST_CLASSES = 7  # all permutations are tried up to here
_CLOSED, _PAIRED = 1e-6, 24  # of the entries of rotations, and so many of them each with each
_SAME = 1e-12  # relative difference of equal sizes and Gram matrices


@dataclass(frozen=True, eq=False)
class Symmetry:
    """Group of a task: permutations of classes with the rotation of the outputs that goes with each.

    Attributes
    ----------
    permutations : (g, C) array of int
    rotations : (g, m, m) array
        O with y[permutation] = y O^T, the identity across the span of the targets.
    """

    permutations: FloatArray
    rotations: FloatArray

    def matrices(self, value: FloatArray) -> FloatArray:
        """Average of a (C, C) matrix over the group."""
        return np.asarray(np.mean([value[np.ix_(p, p)] for p in self.permutations], axis=0))

    def vectors(self, value: FloatArray) -> FloatArray:
        """Average of a (C,) array over the group."""
        return np.asarray(np.mean([value[p] for p in self.permutations], axis=0))

    def outputs(self, value: FloatArray) -> FloatArray:
        """Average of a (C, m) array over the group, t[permutation] = t O^T."""
        turned = [value[p] @ o for p, o in zip(self.permutations, self.rotations)]
        return np.asarray(np.mean(turned, axis=0))

    def permuted(self) -> FloatArray:
        """(g, C, C) permutations as matrices."""
        return np.eye(self.permutations.shape[1], dtype=np.int64)[self.permutations]

    def turned(self) -> FloatArray:
        """(h, m, m) the rotations among those that permute the outputs up to signs."""
        whole = np.round(self.rotations)
        kept = np.abs(self.rotations - whole).max(axis=(1, 2)) < 1e-9
        return whole[kept].astype(np.int64)

    def orbits(self) -> list[FloatArray]:
        """Classes that are exchangeable."""
        return _orbits([tuple(p) for p in self.permutations], [(c,) for c in range(self.permutations.shape[1])])

    def is_group(self) -> bool:
        """Whether a permutation after another is one of them, with the product of their rotations. Else nodes of
        different weight would count as images of each other, which no change of quadrature shows."""
        known = {tuple(p): rotation for p, rotation in zip(self.permutations.tolist(), self.rotations)}
        every = slice(None, None, -(-len(self.permutations) // _PAIRED))
        for p, one in zip(self.permutations[every], self.rotations[every]):
            for q, two in zip(self.permutations[every], self.rotations[every]):
                both = known.get(tuple(p[q].tolist()))
                if both is None or min(np.abs(both - one @ two).max(), np.abs(both - two @ one).max()) > _CLOSED:
                    return False
        return True

    def patterns(self, words: list[str]) -> list[list[str]]:
        """Orbits of code patterns."""
        left = list(words)
        found = []
        while left:
            orbit = sorted({_permuted(left[0], p) for p in self.permutations}, reverse=True)
            found.append(orbit)
            left = [word for word in left if word not in orbit]
        return found

    def vector_basis(self) -> FloatArray:
        """(k, C) indicator vectors that span the symmetric (C,) arrays."""
        n = self.permutations.shape[1]
        basis = np.zeros((0, n))
        for orbit in self.orbits():
            row = np.zeros(n)
            row[orbit[:, 0]] = 1.0
            basis = np.vstack([basis, row])
        return basis

    def matrix_basis(self) -> FloatArray:
        """(k, C, C) indicator matrices that span the symmetric matrices invariant under the group."""
        n = self.permutations.shape[1]
        pairs: list[tuple[int, ...]] = [(c, e) for c in range(n) for e in range(c, n)]
        basis = []
        for orbit in _orbits([tuple(p) for p in self.permutations], pairs):
            matrix = np.zeros((n, n))
            matrix[orbit[:, 0], orbit[:, 1]] = matrix[orbit[:, 1], orbit[:, 0]] = 1.0
            basis.append(matrix)
        return np.array(basis)

    def output_basis(self, y: FloatArray) -> FloatArray:
        """(k, C, m) orthonormal arrays that span the t which respect the group and lie in the span of the targets."""
        _, values, right = np.linalg.svd(y, full_matrices=False)
        right = right[values > 1e-12 * values[0]]
        n, m = y.shape
        rows = []
        for c in range(n):
            for v in right:
                one = np.zeros((n, m))
                one[c] = v
                rows.append(self.outputs(one).ravel())
        _, values, basis = np.linalg.svd(np.array(rows), full_matrices=False)
        return basis[values > 1e-9].reshape(-1, n, m)


class AllPermutations(Symmetry):
    """The group of all permutations of C classes, which are too many to list; `permutations` has the identity alone."""

    def __init__(self, n_classes: int, n_outputs: int) -> None:
        super().__init__(np.array([range(n_classes)]), np.eye(n_outputs)[None])

    def matrices(self, value: FloatArray) -> FloatArray:
        n = len(value)
        own = float(np.trace(value)) / n
        other = (float(value.sum()) - n * own) / (n * (n - 1))
        return np.full((n, n), other) + (own - other) * np.eye(n)

    def vectors(self, value: FloatArray) -> FloatArray:
        return np.full(len(value), value.mean())

    def orbits(self) -> list[FloatArray]:
        return [np.array(range(self.permutations.shape[1]))[:, None]]

    def patterns(self, words: list[str]) -> list[list[str]]:
        found = []
        for active in dict.fromkeys(word.count("1") for word in words):
            n = self.permutations.shape[1]
            chosen = itertools.combinations(range(n), active)
            found.append(["".join("1" if c in one else "0" for c in range(n)) for one in chosen])
        return found

    def vector_basis(self) -> FloatArray:
        return np.ones((1, self.permutations.shape[1]))

    def matrix_basis(self) -> FloatArray:
        one = np.eye(self.permutations.shape[1])
        return np.array([one, 1.0 - one])

    def output_basis(self, y: FloatArray) -> FloatArray:
        """What turns with the targets are these less their mean, and the mean."""
        mean = np.tile(y.mean(axis=0), (len(y), 1))
        parts = (y - mean, mean)
        size = max(float(np.linalg.norm(part)) for part in parts)
        return np.array([part / np.linalg.norm(part) for part in parts if np.linalg.norm(part) > 1e-12 * size])


def exchangeable(n: FloatArray, y: FloatArray) -> bool:
    """Whether all classes are of one size, and every permutation of their targets (C, m) is a rotation."""
    gram = y @ y.T
    return bool(
        len(n) > 1
        and np.abs(n - n[0]).max() <= _SAME * n[0]
        and np.abs(gram - AllPermutations(*y.shape).matrices(gram)).max() <= _SAME * np.abs(gram).max()
    )


def exchanged(n_classes: int, alike: Callable[[IntArray], bool]) -> list[list[int]]:
    """Blocks of classes, in order: those that may be exchanged with the last one of their block, which `alike` says of
    the permutation (C,) that does."""
    blocks: list[list[int]] = []
    for c in range(n_classes):
        for block in blocks:
            swap = np.arange(n_classes)
            swap[[block[-1], c]] = c, block[-1]
            if alike(swap):
                block.append(c)
                break
        else:
            blocks.append([c])
    return blocks


def _permuted(word: str, permutation: FloatArray) -> str:
    return "".join(word[i] for i in permutation)


def _orbits(permutations: list[tuple[int, ...]], items: list[tuple[int, ...]]) -> list[FloatArray]:
    left = dict.fromkeys(items)
    found = []
    while left:
        first = next(iter(left))
        orbit = sorted({tuple(sorted(p[i] for i in first)) for p in permutations})
        for item in orbit:
            left.pop(item, None)
        found.append(np.array(orbit))
    return found


def no_symmetry(n_classes: int, n_outputs: int) -> Symmetry:
    """The group of one element."""
    return Symmetry(np.array([range(n_classes)]), np.eye(n_outputs)[None])


def symmetry(n: FloatArray, y: FloatArray, fractions: Mapping[str, float] | None = None) -> Symmetry:
    """All permutations of classes of equal size that a rotation of the outputs undoes; found from Gram matrices.

    With `fractions` only those that leave the shares of the codes as they are.
    """
    n_classes = len(y)
    gram = y @ y.T
    scale = max(float(np.abs(gram).max()), 1e-300)
    # Directions of the outputs without targets stay as they are: left open, rotations would be no group.
    _, values, right = np.linalg.svd(y)
    without = right[np.count_nonzero(values**2 > _SAME * scale) :]
    fixed = scale * without.T @ without
    candidates = itertools.permutations(range(n_classes)) if n_classes <= _MOST_CLASSES else [tuple(range(n_classes))]
    permutations, rotations = [], []
    for p in candidates:
        index = np.array(p)
        if np.abs(n[index] - n).max() > _SAME * n.max():
            continue
        if np.abs(gram[np.ix_(index, index)] - gram).max() > _SAME * scale:
            continue
        if fractions is not None and any(
            abs(share - fractions.get(_permuted(word, index), 0.0)) > _SAME for word, share in fractions.items()
        ):
            continue
        left, _, right = np.linalg.svd(y[index].T @ y + fixed)
        permutations.append(index)
        rotations.append(left @ right)
    found = Symmetry(np.array(permutations), np.array(rotations))
    return found if found.is_group() else no_symmetry(*y.shape)
