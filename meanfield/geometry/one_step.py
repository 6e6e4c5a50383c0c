"""Capacity after one step of gradient descent on the hidden layer, in closed form for orthonormal inputs.

Hidden features z = W x with W isometric in the mean (entries N(0, 1/N), N -> infinity), a readout a of length one that
starts with output zero, n inputs with labels y = +-1 and the loss sum (y - f)^2 / 2n. The gradient is of rank one:

    W -> W + eta a b^T,    b = sum_i y_i x_i / n,    so that    z_i.z_j -> x_i.x_j + eta^2 (b.x_i)(b.x_j).

For orthonormal x the signed features y_i z_i have the Gram matrix delta_ij + s, s = (eta / n)^2: n vectors that lean
towards a common direction, the more the larger the step. The capacity of the two classes is 2 / E[a], with a(t) the
squared length of the projection of a Gaussian t on the cone of these vectors. E[a] = sum_k k v_k (the conic intrinsic
volumes), where k vectors carry the projection, and both angles of such a face are Gaussian integrals of products,

    v_k = C(n, k) sqrt(1 + k s) E_w[(faddeeva(w sqrt(s/2)) / 2)^k] E_w[Phi(w sqrt(s / (1 + k s)))^(n - k)].

Chou et al., "Feature learning beyond the lazy-rich dichotomy", have the same step for Gaussian inputs in the limit of
proportionally many dimensions; that capacity grows with eta is their theorem.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, log_ndtr, wofz

from meanfield.validation import real_number, whole_number

__all__ = ["leaning_volumes", "one_step_capacity"]

_LARGEST = 200
_REACH = 12.0
_WRONG = 1e-7  # the volumes add up to one, and those of even dimension to one half


def leaning_volumes(n: int, lean: float) -> NDArray[np.float64]:
    """Conic intrinsic volumes v_0 ... v_n of the cone of n vectors with the Gram matrix delta_ij + lean, (n + 1,).

    Raises
    ------
    ValueError
        For n outside 1 ... 200 or lean < 0.
    ArithmeticError
        Where cancellation leaves fewer than seven digits (many vectors).
    """
    n, lean = whole_number("n", n, at_least=1, at_most=_LARGEST), real_number("lean", lean, at_least=0.0)
    k = np.arange(n + 1)
    w, measure = _normal_rule(math.sqrt(lean))
    internal = np.sqrt(1.0 + k * lean) * np.array([_mean_power(w, measure, int(j), lean) for j in k])
    spread = np.sqrt(lean / (1.0 + k * lean))
    external = np.array([measure @ np.exp((n - j) * log_ndtr(spread[j] * w)) for j in k])
    volumes = np.exp(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)) * internal * external
    # Gauss and Bonnet.
    if abs(volumes.sum() - 1.0) > _WRONG or abs(volumes[::2].sum() - 0.5) > _WRONG:
        raise ArithmeticError(
            f"the volumes of {n} vectors with lean {lean:g} add up to {volumes.sum():.9f}: they are lost in rounding; "
            "take fewer points, or simulate the capacity."
        )
    return np.asarray(volumes)


def _normal_rule(scale: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights for means over a standard normal w of functions of `scale` w."""
    finest = 0.05 / max(1.0, scale)
    half = np.concatenate([[0.0], np.geomspace(finest, _REACH, 90)])
    edges = np.concatenate([-half[:0:-1], half])
    x, weight = np.polynomial.legendre.leggauss(16)
    width, middle = 0.5 * np.diff(edges), 0.5 * (edges[1:] + edges[:-1])
    w = (middle[:, None] + width[:, None] * x).ravel()
    return w, (width[:, None] * weight).ravel() * np.exp(-0.5 * w * w) / math.sqrt(2.0 * math.pi)


def _mean_power(w: NDArray[np.float64], measure: NDArray[np.float64], k: int, lean: float) -> float:
    return float(measure @ ((0.5 * wofz(math.sqrt(0.5 * lean) * w)) ** k).real)


def one_step_capacity(n_points: int, learning_rate: float) -> float:
    """Capacity of two classes with n orthonormal inputs in all, after one gradient step of the hidden layer.

    Parameters
    ----------
    n_points : int
        Inputs of both classes together, 2 to 200.
    learning_rate : float
        eta >= 0, see the module's text; 0 gives 4 / n, infinity would give 4.

    Raises
    ------
    ValueError, ArithmeticError
        As `leaning_volumes`.

    Examples
    --------
    >>> [round(one_step_capacity(20, rate), 4) for rate in (0.0, 10.0, 100.0)]
    [0.2, 0.3944, 2.3507]
    """
    n = whole_number("n_points", n_points, at_least=2, at_most=_LARGEST)
    lean = (real_number("learning_rate", learning_rate, at_least=0.0) / n) ** 2
    volumes = leaning_volumes(n, lean)
    return float(2.0 / (np.arange(n + 1) @ volumes))
