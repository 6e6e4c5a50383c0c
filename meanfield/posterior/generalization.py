"""Generalisation error of a predictor on test samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meanfield.problem.data_task import DataTask
from meanfield.validation import FloatArray

__all__ = ["Generalization", "generalization", "nearest_class"]


@dataclass(frozen=True, eq=False)
class Generalization:
    """Generalisation error eps(x) = |f(x) - y|^2 + sum_r Var f_r(x) on test samples.

    Attributes
    ----------
    bias_per_sample : (n,) array
        |f(x) - y|^2 of the mean predictor f, summed over outputs.
    variance_per_sample : (n,) array
        sum_r Var f_r(x); zero for infinite width of a non-lazy network.
    correct : (n,) bool array or None
        Whether the class whose targets are nearest to f(x) is the right one; None without classes.
    labels : (n,) integer array or None
        Classes of the test samples.
    class_names : tuple of str
    width : float
        N that the variance is for.
    """

    bias_per_sample: FloatArray
    variance_per_sample: FloatArray
    correct: NDArray[np.bool_] | None
    labels: NDArray[np.intp] | None
    class_names: tuple[str, ...]
    width: float

    @property
    def bias(self) -> float:
        """Mean of |f(x) - y|^2."""
        return float(self.bias_per_sample.mean())

    @property
    def variance(self) -> float:
        """Mean of sum_r Var f_r(x)."""
        return float(self.variance_per_sample.mean())

    @property
    def error(self) -> float:
        """bias + variance."""
        return self.bias + self.variance

    @property
    def accuracy(self) -> float | None:
        """Fraction of test samples whose class is found; None without classes."""
        return None if self.correct is None else float(self.correct.mean())

    def per_class(self) -> dict[str, dict[str, float]]:
        """For every class that occurs: number of samples, bias, variance and accuracy."""
        if self.labels is None or self.correct is None:
            return {}
        found = {}
        for c in np.unique(self.labels):
            mine = self.labels == c
            found[self.class_names[c]] = {
                "samples": float(mine.sum()),
                "bias": float(self.bias_per_sample[mine].mean()),
                "variance": float(self.variance_per_sample[mine].mean()),
                "accuracy": float(self.correct[mine].mean()),
            }
        return found

    def table(self) -> str:
        """Errors as text, one line per class and one for all."""
        rows: list[tuple[str, tuple[float | None, ...]]]
        rows = [(name, tuple(row.values())) for name, row in self.per_class().items()]
        rows.append(("all", (float(self.bias_per_sample.size), self.bias, self.variance, self.accuracy)))
        width = max(5, *(len(name) for name, _ in rows))
        lines = [f"{'class':<{width}} {'samples':>8} {'bias':>10} {'variance':>10} {'accuracy':>9}"]
        for name, (count, bias, variance, accuracy) in rows:
            last = "" if accuracy is None else f"{accuracy:9.4f}"
            lines.append(f"{name:<{width}} {count:8.0f} {bias:10.6f} {variance:10.3e} {last:>9}".rstrip())
        return "\n".join(lines)

    def __repr__(self) -> str:
        accuracy = "" if self.accuracy is None else f", accuracy {self.accuracy:.4f}"
        return f"<Generalization: bias {self.bias:.6g}, variance {self.variance:.3g} (N = {self.width:g}){accuracy}>"


def nearest_class(task: DataTask, outputs: FloatArray) -> NDArray[np.intp] | None:
    """(n,) class whose targets are nearest to the outputs (n, m); None without common targets per class."""
    targets = task.class_targets
    if targets is None:
        return None
    distance = ((outputs[:, None, :] - targets) ** 2).sum(axis=2)
    return np.asarray(np.argmin(distance, axis=1))


def generalization(
    task: DataTask, outputs: FloatArray, variance: FloatArray, targets: FloatArray, width: float
) -> Generalization:
    """Errors of outputs (n, m) with variance (n, m) against targets (n, m)."""
    labels = nearest_class(task, targets)
    if labels is not None and task.class_targets is not None and not np.allclose(task.class_targets[labels], targets):
        labels = None  # these targets are not those of classes
    guess = nearest_class(task, outputs)
    found = None if labels is None or guess is None else np.equal(guess, labels)
    bias = ((outputs - targets) ** 2).sum(axis=1)
    return Generalization(bias, variance.sum(axis=1), found, labels, task.class_names, width)
