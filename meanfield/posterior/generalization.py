"""Predictors: mean, variance, kernels and neurons on any inputs, one class per theory; generalisation error.

A predictor answers for inputs as the network sees them (centred, scaled); `DataPosterior` transforms raw ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.theories.lazy.gaussian_process import LazySolution, lazy_kernels
from meanfield.theories.linear.data_tasks import LinearDataSolution, linear_variance
from meanfield.validation import FloatArray

__all__ = ["Generalization", "LazyPredictor", "LinearPredictor", "Predictor", "generalization", "linear_scale"]


class Predictor(Protocol):
    """What every theory of a data task can say about new inputs (n, N_0)."""

    def mean(self, new: FloatArray) -> FloatArray:
        """(n, m) mean of the outputs f(x)."""

    def variance(self, new: FloatArray, width: float) -> FloatArray:
        """(n, m) variance of f_r(x) over the posterior, for N = `width` neurons (the lazy one does not depend on N)."""

    def kernel(self, left: FloatArray, right: FloatArray | None, layer: int) -> FloatArray:
        """(n, n') posterior kernel <phi(z(x)) phi(z(x'))> of a hidden layer; `right` None: of `left` with itself."""

    def draw(self, n: int, new: FloatArray, rng: np.random.Generator) -> Any:
        """Readouts (N, m), part of the posterior (N,), names of the parts, preactivations (N, n) of N = `n` neurons."""


def linear_scale(network: Network) -> float:
    """g sigma_w, the standard deviation of a weight of any layer in units where phi(z) = z."""
    return abs(network.activation.slopes[1]) * network.sigma_w


@dataclass(frozen=True, eq=False)
class LinearPredictor:
    """Linear networks: kernels K_l = k + f^T M_l f, see `meanfield.theories.linear.data_tasks`.

    With phi(z) = g z all weights of a layer count g sigma_w, and the solution is in units where these are 1: the kernel
    of layer l is that of the solution divided by (g sigma_w)^(2 (L - l)).
    """

    network: Network
    task: DataTask
    tau: float
    solution: LinearDataSolution

    def _features(self, new: FloatArray) -> tuple[FloatArray, FloatArray]:
        return self.task.features(linear_scale(self.network) ** self.network.depth).project(new)

    def mean(self, new: FloatArray) -> FloatArray:
        return np.asarray(self._features(new)[0] @ self.solution.weights)

    def variance(self, new: FloatArray, width: float) -> FloatArray:
        features, residual = self._features(new)
        train = self.task.features(linear_scale(self.network) ** self.network.depth)
        seen = linear_variance(train, self.solution, self.tau, features)
        unseen = np.multiply.outer(residual, np.diag(self.solution.pulled_back))
        return (seen + unseen) / width

    def kernel(self, left: FloatArray, right: FloatArray | None, layer: int) -> FloatArray:
        scale, depth = linear_scale(self.network), self.network.depth
        other = left if right is None else right
        prior = scale ** (2 * depth) / left.shape[1] * left @ other.T
        learned = self.mean(left) @ self.solution.learned[layer] @ self.mean(other).T
        return np.asarray((prior + learned) / scale ** (2 * (depth - layer)))

    def draw(self, n: int, new: FloatArray, rng: np.random.Generator) -> Any:
        s, outputs = self.solution, self.mean(new)
        readouts = rng.standard_normal((n, len(s.readout_covariance))) @ _root(s.readout_covariance)
        learned = rng.standard_normal(readouts.shape) @ _root(s.learned[-2])
        scale = linear_scale(self.network) ** self.network.depth / math.sqrt(new.shape[1])
        z = rng.standard_normal((n, new.shape[1])) @ (scale * new.T)  # weights: the same neurons on any inputs
        z += learned @ outputs.T  # now of covariance K_{L-1}
        z += np.linalg.solve(s.readout_covariance, readouts.T).T @ outputs.T
        return readouts, np.zeros(n, dtype=np.intp), ("Gaussian",), z / self.network.activation.slopes[1]


@dataclass(frozen=True, eq=False)
class LazyPredictor:
    """Gaussian process, see `meanfield.theories.lazy.gaussian_process`. Representations are those of the prior."""

    network: Network
    task: DataTask
    tau: float
    solution: LazySolution

    def mean(self, new: FloatArray) -> FloatArray:
        cross = lazy_kernels(self.network, new, self.task.inputs)[-1].cross
        return np.asarray(self.solution.readout_variance * cross @ self.solution.t)

    def variance(self, new: FloatArray, width: float) -> FloatArray:
        s = self.solution.readout_variance
        kernel = lazy_kernels(self.network, new, self.task.inputs)[-1]
        explained = (kernel.cross @ self.solution.eigenvectors) ** 2 @ (1.0 / self.solution.eigenvalues)
        variance = np.maximum(s * kernel.left - s * s * explained, 0.0)
        return np.repeat(variance[:, None], self.task.n_outputs, axis=1)

    def kernel(self, left: FloatArray, right: FloatArray | None, layer: int) -> FloatArray:
        return lazy_kernels(self.network, left, left if right is None else right)[layer - 1].cross

    def draw(self, n: int, new: FloatArray, rng: np.random.Generator) -> Any:
        network, s = self.network, self.solution
        readouts = rng.standard_normal((n, self.task.n_outputs)) * math.sqrt(s.readout_variance)
        if network.depth == 1:
            scale = network.sigma_w / math.sqrt(new.shape[1])
            z = rng.standard_normal((n, new.shape[1])) @ (scale * new.T)
        else:
            covariance = network.sigma_w**2 * lazy_kernels(network, new, new)[-2].cross
            z = rng.standard_normal((n, len(new))) @ _root(0.5 * (covariance + covariance.T))
        return readouts, np.zeros(n, dtype=np.intp), ("random",), z


def _root(covariance: FloatArray) -> FloatArray:
    value, vector = np.linalg.eigh(covariance)
    return np.asarray((vector * np.sqrt(np.maximum(value, 0.0))).T)


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
        rows: list[Any] = [(name, *row.values()) for name, row in self.per_class().items()]
        rows.append(("all", float(self.bias_per_sample.size), self.bias, self.variance, self.accuracy))
        width = max(5, *(len(row[0]) for row in rows))
        lines = [f"{'class':<{width}} {'samples':>8} {'bias':>10} {'variance':>10} {'accuracy':>9}"]
        for name, count, bias, variance, accuracy in rows:
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
