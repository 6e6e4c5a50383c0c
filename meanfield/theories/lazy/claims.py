"""What a file claims of a lazy network, checked against its kernel."""

from __future__ import annotations

import math

import numpy as np

from meanfield.posterior.claims import same
from meanfield.theories.lazy.gaussian_process import lazy_kernels
from meanfield.theories.lazy.posterior import LazyPosterior

__all__ = ["check_lazy"]


def check_lazy(posterior: LazyPosterior) -> None:
    """Refuse a solution whose kernel, basis, t or objective is not that of its network and task."""
    s, task, network = posterior.solution, posterior.task, posterior.network
    n, y = task.n_samples, task.targets
    variance = network.readout_variance(n)
    if s.eigenvectors.shape != (n, n) or s.eigenvalues.shape != (n,) or not (s.eigenvalues > 0.0).all():
        raise ValueError("its eigenvectors and eigenvalues have other shapes or signs than those of the kernel.")
    same("readout variance", variance, s.readout_variance, 1e-9, variance)
    if not 0.0 <= s.jitter <= 1e-6 * float(s.eigenvalues.max()) + 1e-300:
        raise ValueError(f"its jitter {s.jitter:g} is not that of a singular kernel.")
    some = np.unique(np.linspace(0, n - 1, min(n, 12)).astype(int))
    kernel = lazy_kernels(network, task.inputs[some], task.inputs[some])[-1].cross
    rows = s.eigenvectors[some]
    noisy = variance * kernel + (posterior.tau + s.jitter) * np.eye(some.size)
    same("kernel", (rows * s.eigenvalues) @ rows.T, noisy, 1e-6, float(np.abs(noisy).max()))
    same("basis", s.eigenvectors.T @ s.eigenvectors, np.eye(n), 1e-8)
    same("t", (s.eigenvectors * s.eigenvalues) @ (s.eigenvectors.T @ s.t), y, 1e-6, float(np.abs(y).max()))
    objective = 0.5 * float(np.sum(y * s.t)) + 0.5 * y.shape[1] * float(np.sum(np.log(s.eigenvalues)))
    objective += 0.5 * y.size * math.log(2 * math.pi)
    same("objective", objective, s.objective, 1e-8, abs(objective))
