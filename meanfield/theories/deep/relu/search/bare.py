"""The saddle equations with the kernels eliminated, for following a branch (relu/THEORY.md, "Following a branch").

Given the conjugates, t and the outliers, the kernels of all layers are averages, taken from the first layer upwards:
they are covariances of classes by construction, however near to each other the classes are.
"""

from __future__ import annotations

import itertools
from copy import copy
from dataclasses import replace

import numpy as np

from meanfield.theories.deep.relu.average import ReluRule
from meanfield.theories.deep.relu.coordinates import ReluOrder, add_blocks, directions, packed, packed_changes
from meanfield.theories.deep.relu.outlier import above, exist
from meanfield.theories.deep.relu.setting import BulkDiverges
from meanfield.theories.deep.relu.system import ReluProblem, ReluSystem
from meanfield.validation import BoolArray, FloatArray

__all__ = ["BareSystem", "bare_of", "every_word", "words_on_the_way"]

_MOST_GAIN = 1.002  # of what does not condense
_MOST_COMMON = 0.9999  # of the code of all classes, which never condenses: its bulk is Gaussian
_MOST_TRIAL = 1.3  # of an outlier, on the way
_INDEFINITE = 0.1  # part of a conjugate kernel that is taken as zero on the way
_GUARD = 25  # steps of the ascents that look for divergence


def every_word(n_classes: int, *, common: bool = False) -> tuple[str, ...]:
    """All codes that can condense: some classes but not all, because off-classes end the bulk; with `common` that of
    all classes, too."""
    words = ("".join(word) for word in itertools.product("01", repeat=n_classes))
    return tuple(word for word in words if 0 < word.count("1") < n_classes + common)


def words_on_the_way(problem: ReluProblem) -> tuple[str, ...]:
    """Codes that are outliers somewhere along a branch.

    Where phi is smooth the code of all classes is one for a while: a class of small target is driven so little that the
    weight along the ray falls as if it were on the kink, to exp(-90) and less, and at a longer outlier it is there.
    """
    return every_word(len(problem.n), common=problem.phi.tabulated)


class BareSystem:
    """Residuals in the unknowns other than kernels; `full` has all equations."""

    def __init__(self, problem: ReluProblem, words: tuple[str, ...], present: BoolArray) -> None:
        self.full = ReluSystem(problem, words, present)
        self.problem, self.words, self.present = problem, words, present
        self.blocks = [block for block in self.full.blocks if block[0] not in ("kernel", "d")]

    def pack(self, order: ReluOrder) -> FloatArray:
        return packed(self.blocks, order)

    def scale(self, x: FloatArray) -> FloatArray:
        """What changes of the unknowns are measured in; delta~ may pass through zero and has that of k~."""
        found, at, conjugate = [], 0, 0.0
        for name, _, basis, _ in self.blocks:
            size = np.abs(x[at : at + len(basis)])
            at += len(basis)
            if not len(size):
                continue
            least = 0.3 * max(float(np.sqrt((size**2).mean())), 1e-12)
            if name == "tilde":
                conjugate = least
            found.append(np.maximum(size, max(least, conjugate) if name == "delta" else least))
        return np.concatenate(found)

    def order(self, x: FloatArray, rule: ReluRule) -> ReluOrder:
        """All order parameters: kernels from what is below them.

        Raises
        ------
        BulkDiverges
        """
        order, n_lower = self.bare(x), self.problem.depth - 1
        for layer in range(self.problem.depth):
            self._guard(order, layer)
            if layer < n_lower:
                found = self.full.layer(order, layer, rule)
                order.kernel[layer], order.d[layer] = found.b_b, found.bb
        return order

    def bare(self, x: FloatArray) -> ReluOrder:
        """Order parameters without their kernels."""
        order = self.problem.nothing(len(self.words))
        add_blocks(self.blocks, x, order)
        for tilde in order.tilde:
            value, vector = np.linalg.eigh(tilde)
            if -_INDEFINITE * value[-1] < value[0] < 0.0:  # what it should be is positive
                tilde[:] = (vector * np.maximum(value, 0.0)) @ vector.T
        return order

    def _guard(self, order: ReluOrder, layer: int) -> None:
        """Refuse what diverges before it is integrated."""
        setting = self.full.setting(order, layer)
        setting.check()
        for word in (*self.words, "1" * len(setting.n)):
            _, found = above(setting, word, _GUARD)
            name, most = found.word, _MOST_GAIN
            if name not in self.words:
                most = _MOST_COMMON
            elif self.present[layer, self.words.index(name)]:
                most = _MOST_TRIAL
            if not found.gain < most:
                raise BulkDiverges(f"a code that is none of the outliers has a gain of {found.gain:.4g}.")

    def residual(self, x: FloatArray, rule: ReluRule) -> FloatArray:
        return np.asarray(self.pack(self.full.images(self.order(x, rule), rule)) - x)

    def jacobian(self, x: FloatArray, rule: ReluRule) -> tuple[FloatArray, ReluOrder]:
        """Derivatives of the residual, and of all order parameters along a first axis, by the unknowns."""
        order = self.order(x, rule)
        moved = directions(self.blocks, order)
        found = self.full.change(order, moved, rule, averaged=True)
        jacobian = np.asarray(packed_changes(self.blocks, found) - np.eye(len(x)))
        return jacobian, replace(moved, kernel=found.kernel, d=found.d)

    def moved(self, problem: ReluProblem) -> BareSystem:
        """The same unknowns of another problem with equally many classes and outputs, and the same symmetry."""
        other, full = copy(self), copy(self.full)
        full.problem = other.problem = problem
        if problem.readout_variance != self.problem.readout_variance or (problem.n != self.problem.n).any():
            full.forget()
        other.full = full
        return other

    def with_kernels(self, order: ReluOrder) -> tuple[ReluSystem, FloatArray]:
        """All equations and unknowns, with the codes that are outliers somewhere."""
        used = np.asarray(self.present.any(axis=0))
        if not used.any():
            used = np.array([word.count("1") == 1 for word in self.words])
        words = tuple(word for word, kept in zip(self.words, used) if kept)
        system = ReluSystem(self.problem, words, self.present[:, used])
        return system, system.pack(replace(order, lower=order.lower[:, used], top=order.top[used]))

    def error(self, x: FloatArray, r: FloatArray) -> float:
        """Largest residual in units of the unknowns, of t in those of the targets."""
        unit = self.scale(x)
        at = 0
        for name, _, basis, _ in self.blocks:
            if name == "t":
                unit[at : at + len(basis)] = np.abs(self.problem.y).max()
            at += len(basis)
        return float(np.abs(r / unit).max())


def bare_of(system: ReluSystem, order: ReluOrder) -> tuple[BareSystem, FloatArray]:
    """The same with all codes that can condense, of which those with a length are outliers."""
    words, depth = words_on_the_way(system.problem), system.problem.depth
    all_of = system.problem.nothing(len(words))
    present = np.zeros((depth, len(words)), dtype=bool)
    for layer in range(depth):
        for word, beta, kept in zip(system.words, order.outliers(layer), exist(order.outliers(layer))):
            all_of.outliers(layer)[words.index(word)] = beta
            present[layer, words.index(word)] = kept
    bare = BareSystem(system.problem, words, present)
    return bare, bare.pack(replace(order, lower=all_of.lower, top=all_of.top))
