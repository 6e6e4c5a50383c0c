"""Classes of equal targets are one, of odd phi those of opposite ones, too: from network and task to the problem in
numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.theories.deep.solution import DeepSolution
from meanfield.theories.deep.system import DeepProblem, Order
from meanfield.validation import FloatArray, IntArray, real_number

__all__ = ["Members", "code_shares", "problem_of"]

_MIRROR = str.maketrans("01", "10")


@dataclass(frozen=True, eq=False)
class Members:
    """Which of a problem's classes each class of the task is (C,), and sign (C,) -1 where it is the mirror image.

    With odd phi all preactivations of a sample, its activations, output and target may change sign: nothing else does.
    """

    index: IntArray
    sign: FloatArray

    @property
    def first(self) -> IntArray:
        """The first class of the task that is each of the problem's; none of these is a mirror image."""
        return np.unique(self.index, return_index=True)[1]

    @property
    def signs(self) -> FloatArray:
        """(C, C) those of two classes."""
        return np.outer(self.sign, self.sign)

    def means(self, values: FloatArray) -> FloatArray:
        """Of the task's classes from the problem's, along the last axis: what changes sign with the preactivation."""
        return np.asarray(self.sign * values[..., self.index])

    def variances(self, values: FloatArray) -> FloatArray:
        """The same of what does not change sign."""
        return np.asarray(values[..., self.index])

    def matrices(self, values: FloatArray) -> FloatArray:
        """The same along the last two axes, of covariances."""
        return np.asarray(self.signs * values[..., self.index][..., self.index, :])

    def outputs(self, values: FloatArray) -> FloatArray:
        """(C, m) from the (k, m) of the problem's classes."""
        return np.asarray(self.sign[:, None] * values[self.index])

    def order(self, solution: DeepSolution) -> Order:
        """Order parameters of the problem's classes from those of the task's."""
        s, first = solution, self.first
        return Order(
            s.kernel[:-1][:, first][:, :, first], s.d[:-1][:, first], s.tilde[:, first][:, :, first],
            s.delta[:, first], s.t[first],
        )  # fmt: skip

    def word(self, word: str) -> str:
        """Code word of the task's classes."""
        letters = [word[c] for c in self.index]
        return "".join(one if sign > 0.0 else one.translate(_MIRROR) for one, sign in zip(letters, self.sign))


def problem_of(network: Network, task: ClassTask, tau: float, merge: bool = True) -> tuple[DeepProblem, Members]:
    """The problem in numbers, classes of equal targets, or with odd bounded phi opposite ones, taken together; and
    which of its classes each class is.

    Two classes that are all there is stay two: of opposite targets, and then of one size, which makes no difference.
    """
    targets = np.array(task.targets)
    index, sign = np.arange(task.n_classes), np.ones(task.n_classes)
    n = np.array(task.fractions) * task.n_samples
    if merge:
        mirrored = network.activation.bounded and network.activation.parity == "odd"
        index, sign = _alike(targets, mirrored)
        if not index.any():
            index, sign = _alike(targets, False)
            n = np.full(task.n_classes, 1.0) * (n.sum() / 2.0) / np.bincount(index)[index]
        targets = targets[np.unique(index, return_index=True)[1]]
        n = np.asarray(np.bincount(index, weights=n), dtype=float)
    s = network.readout_variance(task.n_samples)
    scales = tuple(sigma**2 for sigma in network.scales[1:])
    phi, depth = network.activation, network.depth
    problem = DeepProblem(phi, depth, n, targets, tau, s, network.k, scales, network.beta, network.ratios)
    return problem, Members(index, sign)


def _alike(targets: FloatArray, mirrored: bool) -> tuple[IntArray, FloatArray]:
    """For every class the number of its kind, in the order in which they come, and its sign."""
    kinds: list[FloatArray] = []
    index, sign = np.empty(len(targets), dtype=np.int64), np.ones(len(targets))
    for c, target in enumerate(targets):
        same = [k for k, kind in enumerate(kinds) if (kind == target).all()]
        opposite = [k for k, kind in enumerate(kinds) if mirrored and not same and (kind == -target).all()]
        if not (same or opposite):
            kinds.append(target)
        index[c] = (same or opposite or [len(kinds) - 1])[0]
        sign[c] = -1.0 if opposite else 1.0
    return index, sign


def code_shares(fractions: Mapping[str, float], n_classes: int) -> dict[str, float]:
    """Shares of codes, normalised patterns."""
    shares: dict[str, float] = {}
    for word, share in fractions.items():
        pattern = str(word).replace("-", "")
        if len(pattern) != n_classes or set(pattern) - {"0", "1"}:
            raise ValueError(f"a code pattern has one 0 or 1 for each of the {n_classes} classes, got {word!r}.")
        if pattern in shares:
            raise ValueError(f"code {pattern} is given twice in fractions.")
        shares[pattern] = real_number(f"the share of code {pattern}", share, above=0.0)
    total = sum(shares.values())
    if abs(total - 1.0) > 1e-8:
        raise ValueError(f"the shares of the codes must sum to 1, got {total:.10g}.")
    return {word: share / total for word, share in shares.items()}
