"""Lazy (Gaussian process) networks: with readout / sqrt(N), learning leaves the representations as they are.

As N -> infinity the outputs are a Gaussian process with covariance s K_L per output, s = sigma_a^2 / P^beta and K_L
the kernel of the last hidden layer under the prior, observed with noise of variance T:

    f(x) = s k(x)^T (s K_L + T)^{-1} Y,     Var f(x) = s k(x, x) - s k(x)^T (s K_L + T)^{-1} k(x) s,
    -ln p(Y) = tr Y^T (s K_L + T)^{-1} Y / 2 + (m/2) ln det(s K_L + T) + (P m / 2) ln 2 pi.

Here T is the temperature itself: f fluctuates by O(1), where non-lazy networks fluctuate by O(1/sqrt(N)) and need T of
order 1/N. A non-lazy network at finite tau = N T is to be compared with the lazy one at T = 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.theories.lazy.kernel import LayerKernel, kernel_layers
from meanfield.validation import FloatArray

__all__ = ["LazySolution", "lazy_kernels", "lazy_solve"]

_SINGULAR = 1e-10  # eigenvalues of K_L below this share of their mean count as zero at T = 0
_INTERPOLATES = 1e-6


@dataclass(frozen=True, eq=False)
class LazySolution:
    """Gaussian process posterior of a lazy network.

    Attributes
    ----------
    t : (P, m) array
        (s K_L + T)^{-1} Y; the training residual is T t.
    eigenvectors, eigenvalues : (P, P) and (P,) arrays
        Of s K_L + T, the vectors in columns; the inverse itself would lose digits where the kernel is singular.
    readout_variance : float
        s.
    jitter : float
        What was added to the diagonal of s K_L besides T: 0 unless T = 0 and K_L is singular.
    objective : float
        -ln p(Y), the negative log marginal likelihood.
    residual : float
        Largest element of (s K_L + T + jitter) t - Y, relative to the largest target.
    kernel_error : float
        Bound of the error of the elements of K_L (last layer only).
    """

    t: FloatArray
    eigenvectors: FloatArray
    eigenvalues: FloatArray
    readout_variance: float
    jitter: float
    objective: float
    residual: float
    kernel_error: float


def lazy_kernels(network: Network, left: FloatArray, right: FloatArray) -> list[LayerKernel]:
    """Prior kernels of all hidden layers between two sets of inputs (n, N_0), (n', N_0), as the network sees them."""
    scale = network.sigma_w**2 / left.shape[1]
    variances = [scale * (x**2).sum(axis=1) for x in (left, right)]
    cross = scale * left @ right.T
    return kernel_layers(network.activation, cross, variances[0], variances[1], network.sigma_w, network.depth)


def lazy_solve(network: Network, task: DataTask, temperature: float) -> LazySolution:
    """Gaussian process regression with the kernel of the last hidden layer.

    Raises
    ------
    ValueError
        At T = 0 if the kernel is singular and the targets cannot be interpolated, and as for `gaussian_kernel`.
    """
    s = network.readout_variance(task.n_samples)
    last = lazy_kernels(network, task.inputs, task.inputs)[-1]
    covariance = s * 0.5 * (last.cross + last.cross.T)
    value, vector = np.linalg.eigh(covariance)
    jitter = 0.0
    if temperature == 0.0 and value[0] < _SINGULAR * value.mean():
        jitter = _SINGULAR * float(value.mean())
    noisy = np.maximum(value, 0.0) + temperature + jitter
    y = task.targets
    t = (vector / noisy) @ (vector.T @ y)
    if temperature == 0.0:
        misfit = np.abs(jitter * t).max(axis=1)
        worst = int(np.argmax(misfit))
        if misfit[worst] > _INTERPOLATES * np.abs(y).max():
            raise ValueError(
                f"the lazy network cannot interpolate: its kernel is singular ({np.sum(value < jitter)} of "
                f"{len(value)} eigenvalues vanish) and sample {worst} is missed by {misfit[worst]:.2g}. "
                "Duplicated inputs with different targets, or more samples than a linear network has inputs, do this; "
                "give tau = T > 0."
            )
    objective = 0.5 * float(np.sum(y * t)) + 0.5 * y.shape[1] * float(np.sum(np.log(noisy)))
    objective += 0.5 * y.size * math.log(2 * math.pi)
    residual = float(np.abs(covariance @ t + (temperature + jitter) * t - y).max())
    residual /= max(float(np.abs(y).max()), 1e-300)
    return LazySolution(t, vector, noisy, s, jitter, objective, residual, last.error)
