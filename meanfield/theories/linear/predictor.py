"""Predictor of linear networks on any inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from meanfield.numerics.symmetric import symmetric_root
from meanfield.posterior.predictor import Drawn
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.theories.linear.data_tasks import LinearDataSolution, linear_variance
from meanfield.validation import FloatArray

__all__ = ["LinearPredictor", "linear_scale"]


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

    def draw(self, n: int, new: FloatArray, rng: np.random.Generator) -> Drawn:
        s, outputs = self.solution, self.mean(new)
        readouts = rng.standard_normal((n, len(s.readout_covariance))) @ symmetric_root(s.readout_covariance)
        learned = rng.standard_normal(readouts.shape) @ symmetric_root(s.learned[-2])
        scale = linear_scale(self.network) ** self.network.depth / math.sqrt(new.shape[1])
        z = rng.standard_normal((n, new.shape[1])) @ (scale * new.T)  # weights: the same neurons on any inputs
        z += learned @ outputs.T  # now of covariance K_{L-1}
        z += np.linalg.solve(s.readout_covariance, readouts.T).T @ outputs.T
        return readouts, np.zeros(n, dtype=np.intp), ("Gaussian",), z / self.network.activation.slopes[1]
