"""Predictor of lazy networks: a Gaussian process. Representations are those of the prior."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from meanfield.numerics.symmetric import symmetric_root
from meanfield.posterior.predictor import Drawn
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.theories.lazy.gaussian_process import LazySolution, lazy_kernels
from meanfield.validation import FloatArray

__all__ = ["LazyPredictor"]


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

    def draw(self, n: int, new: FloatArray, rng: np.random.Generator) -> Drawn:
        network, s = self.network, self.solution
        readouts = rng.standard_normal((n, self.task.n_outputs)) * math.sqrt(s.readout_variance)
        if network.depth == 1:
            scale = network.sigma_w / math.sqrt(new.shape[1])
            z = rng.standard_normal((n, new.shape[1])) @ (scale * new.T)
        else:
            covariance = network.sigma_w**2 * lazy_kernels(network, new, new)[-2].cross
            z = rng.standard_normal((n, len(new))) @ symmetric_root(0.5 * (covariance + covariance.T))
        return readouts, np.zeros(n, dtype=np.intp), ("random",), z
