"""Gaussian kernels of a layer: E[phi(z) phi(z')] for jointly Gaussian preactivations, for every activation.

Closed forms: affine phi, sigmoid and erf (arcsine kernel), step, ReLU and leaky ReLU (arc-cosine kernels). Any other
continuous piecewise linear phi by Plackett's identity: with slope changes D_i at b_i,

    E[phi phi'] = E[phi] E[phi'] + k12 E[dphi] E[dphi'] + int_0^k12 (k12 - c) sum_ij D_i D_j p_c(b_i, b_j) dc,

where p_c is the density of the pair at covariance c; c = sqrt(k11 k22) sin(alpha) makes the integrand smooth.
All others by Mehler's series E[phi phi'] = sum_n c_n(k11) c_n(k22) rho^n in Hermite coefficients c_n. Cauchy-Schwarz
bounds what is cut off by rho^n_max times the root of the missing parts of E[phi^2]: this error is known, not estimated.
Coefficients and E[phi^2] are known to rounding unless phi is steep: to 1e-9 and 3e-6 for tanh(100 x), x ~ N(0, 1).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from meanfield.activations.activation import Activation, activation
from meanfield.validation import FloatArray, real_array

__all__ = ["gaussian_kernel", "gaussian_moment", "kernel_layers"]

_TOLERANCE = 1e-6  # of a kernel element, relative to the largest diagonal element; a worse series is refused
_HERMITE_TERMS = 512
_PANELS = 60
_REACH = 11.0  # the Gaussian beyond is below 1e-26
_ALPHA_X, _ALPHA_W = np.polynomial.legendre.leggauss(48)
_LEAST = 1e-100  # variance below which a preactivation is 0


class Kernel(NamedTuple):
    """Kernel of a layer.

    Attributes
    ----------
    cross : (n, n') array
        E[phi(z_i) phi(z'_j)].
    left, right : (n,) and (n',) arrays
        E[phi(z_i)^2], E[phi(z'_j)^2].
    error : float
        Bound of the truncation error of the elements of `cross`, 0 for closed forms (which are exact to rounding).
    """

    cross: FloatArray
    left: FloatArray
    right: FloatArray
    error: float


def gaussian_kernel(phi: Activation | str, cross: FloatArray, left: FloatArray, right: FloatArray) -> Kernel:
    """E[phi(z_i) phi(z'_j)] for z, z' of variances `left`, `right` and covariance `cross`.

    Parameters
    ----------
    phi : Activation or name
    cross : (n, n') array
    left, right : (n,) and (n',) arrays
        Variances, >= 0.

    Returns
    -------
    Kernel

    Raises
    ------
    ValueError
        For NaN, shapes that do not fit, variances that are negative or smaller than the covariances imply, and if the
        series of `phi` does not converge to 1e-6.
    """
    phi = activation(phi)
    k12, k11, k22 = real_array("cross", cross), real_array("left", left), real_array("right", right)
    if k12.shape != (*k11.shape, *k22.shape) or k11.ndim != 1 or k22.ndim != 1:
        shapes = f"{k12.shape}, {k11.shape}, {k22.shape}"
        raise ValueError(f"cross, left, right must have shapes (n, n'), (n,), (n',); got {shapes}.")
    if min(k11.min(), k22.min()) < 0.0:
        raise ValueError(f"variances must not be negative, got {min(k11.min(), k22.min()):g}.")
    scale = np.sqrt(np.multiply.outer(k11, k22))
    if (np.abs(k12) > scale * (1 + 1e-8) + 1e-14 * scale.max()).any():
        raise ValueError("the covariances are larger than the variances allow (|cross| > sqrt(left right)).")
    rho = np.divide(k12, scale, out=np.zeros_like(k12), where=scale > 0.0).clip(-1.0, 1.0)
    values, error = _cross(phi, rho, k11, k22)
    return Kernel(values, gaussian_moment(phi, k11)[1], gaussian_moment(phi, k22)[1], error)


def kernel_layers(
    phi: Activation | str, cross: FloatArray, left: FloatArray, right: FloatArray, sigma_w: float, depth: int
) -> list[Kernel]:
    """Kernels of the hidden layers 1..L of a network at its prior, from the covariance of the first preactivations.

    K_l = E[phi phi] at preactivation covariance sigma_w^2 K_{l-1} for l >= 2 (`cross` has its sigma_w^2 already).
    """
    found = [gaussian_kernel(phi, cross, left, right)]
    for _ in range(depth - 1):
        below = found[-1]
        found.append(gaussian_kernel(phi, *(sigma_w**2 * part for part in (below.cross, below.left, below.right))))
    return found


def gaussian_moment(phi: Activation | str, variance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """E[phi(z)] and E[phi(z)^2] for z ~ N(0, variance), elementwise, by panels that end at the kinks of phi."""
    phi = activation(phi)
    flat, back = np.unique(np.ravel(variance), return_inverse=True)
    first, second = np.empty(flat.size), np.empty(flat.size)
    for i, k in enumerate(flat):
        x, w = _nodes(phi, math.sqrt(k))
        value = phi(math.sqrt(k) * x)
        first[i], second[i] = w @ value, w @ value**2
    shape = np.shape(variance)
    return first[back].reshape(shape), second[back].reshape(shape)


# ---- the three ways --------------------------------------------------------------------------------


def _cross(phi: Activation, rho: FloatArray, k11: FloatArray, k22: FloatArray) -> tuple[FloatArray, float]:
    """E[phi phi'] and a bound of its error."""
    root = np.sqrt(np.multiply.outer(k11, k22))
    if phi.name in ("sigmoid", "erf") and not _is_users(phi):
        # sigmoid: (1 + erf(b z)) / 2 with b = sqrt(pi) gain / 2; erf: erf(gain sqrt(pi) z / 2) or erf(gain z)
        slope = float(phi.derivative(0.0)) * math.sqrt(math.pi) / 2  # d erf(b z) = 2 b / sqrt(pi)
        b = 2.0 * slope if phi.name == "sigmoid" else slope
        share = 2.0 * b * b * root * rho / np.sqrt(np.multiply.outer(1 + 2 * b * b * k11, 1 + 2 * b * b * k22))
        arcsine = 2.0 / math.pi * np.arcsin(share)
        return (0.25 + 0.25 * arcsine if phi.name == "sigmoid" else arcsine), 0.0
    if phi.name == "step" and not _is_users(phi):
        low, high = phi.limits
        return _step(rho, k11, k22, low, high), 0.0
    pieces = phi.pieces
    if pieces is not None and not pieces.breaks:
        return pieces.intercepts[0] ** 2 + pieces.slopes[0] ** 2 * root * rho, 0.0
    if pieces is not None and pieces.breaks == (0.0,) and pieces.intercepts == (0.0, 0.0):
        return root * _arc_cosine(rho, *pieces.slopes), 0.0
    if pieces is not None and _continuous(phi):
        return _plackett(phi, rho, k11, k22)
    return _mehler(phi, rho, k11, k22)


def _is_users(phi: Activation) -> bool:
    return phi != activation(phi.name, **phi.parameters)


def _arc_cosine(rho: FloatArray, below: float, above: float) -> FloatArray:
    """Kernel of slope `below` for z < 0 and `above` for z > 0, at unit variances (Cho and Saul 2009)."""
    theta = np.arccos(rho)
    relu = (np.sin(theta) + (math.pi - theta) * rho) / (2 * math.pi)
    # phi = above relu(z) - below relu(-z), and E[relu(z) relu(-z')] = relu kernel at -rho = relu - rho / 2.
    return (above**2 + below**2) * relu - 2 * above * below * (relu - 0.5 * rho)


def _step(rho: FloatArray, k11: FloatArray, k22: FloatArray, low: float, high: float) -> FloatArray:
    """Kernel of a step at 0; where a variance vanishes z = 0, and phi is taken as the mean of both sides."""
    both = 0.25 + np.arcsin(rho) / (2 * math.pi)
    return low * low + low * (high - low) + (high - low) ** 2 * both


def _continuous(phi: Activation) -> bool:
    assert phi.pieces is not None
    b, a, s = phi.pieces
    return all(math.isclose(a[i] + s[i] * x, a[i + 1] + s[i + 1] * x, abs_tol=1e-12) for i, x in enumerate(b))


def _plackett(phi: Activation, rho: FloatArray, k11: FloatArray, k22: FloatArray) -> tuple[FloatArray, float]:
    assert phi.pieces is not None
    breaks, slopes = np.array(phi.pieces.breaks), np.array(phi.pieces.slopes)
    change = np.diff(slopes)
    root = np.sqrt(np.multiply.outer(k11, k22))
    means = [gaussian_moment(phi, k)[0] for k in (k11, k22)]
    places, tilts = [], []
    for k in (k11, k22):
        at = breaks / np.sqrt(np.maximum(k, _LEAST))[:, None]  # (n, breaks)
        places.append(at)
        tilts.append(slopes[-1] - ndtr(at) @ change)
    total = np.multiply.outer(*means) + root * rho * np.multiply.outer(*tilts)
    top = np.arcsin(rho)
    values = np.zeros((2, *rho.shape))
    for which, (nodes, weights) in enumerate(((_ALPHA_X, _ALPHA_W), np.polynomial.legendre.leggauss(32))):
        for x, w in zip(nodes, weights):
            alpha = 0.5 * top * (1 + x)
            sine, cosine2 = np.sin(alpha), np.maximum(np.cos(alpha) ** 2, 1e-30)
            density = np.zeros_like(rho)
            for u, d in zip(places[0].T[:, :, None], change):
                for v, e in zip(places[1].T[:, None, :], change):
                    density += d * e * np.exp(-(u * u - 2 * sine * u * v + v * v) / (2 * cosine2))
            values[which] += 0.5 * top * w * (rho - sine) * density / (2 * math.pi)
    error = float(np.max(root * np.abs(values[0] - values[1])))
    return total + root * values[0], error


class _Hermite(NamedTuple):
    """Hermite coefficients of phi(sqrt(k) x) for several k."""

    coefficients: FloatArray  # (n, terms)
    missing: FloatArray  # (n, terms) part of E[phi^2] beyond each of them


def _mehler(phi: Activation, rho: FloatArray, k11: FloatArray, k22: FloatArray) -> tuple[FloatArray, float]:
    left, right = (_hermite(phi, k) for k in (k11, k22))
    largest = max(float((part.coefficients**2).sum(axis=1).max()) for part in (left, right))
    power, total, n = np.ones_like(rho), np.zeros_like(rho), 0
    while n < _HERMITE_TERMS:
        total += power * np.multiply.outer(left.coefficients[:, n], right.coefficients[:, n])
        power *= rho
        n += 1
        if math.sqrt(left.missing[:, n - 1].max() * right.missing[:, n - 1].max()) <= 1e-15 * largest:
            break
    bound = np.abs(power) * np.sqrt(np.multiply.outer(left.missing[:, n - 1], right.missing[:, n - 1]))
    error = float(bound.max())
    if error > _TOLERANCE * max(largest, 1e-300):
        raise ValueError(
            f"the kernel of {phi.name!r} is known to {error:.1e} only: its kinks or jumps make the Hermite series "
            "converge slowly for inputs that are nearly parallel. Remove near-duplicates, or smooth the activation."
        )
    return total, error


def _hermite(phi: Activation, variance: FloatArray) -> _Hermite:
    flat, back = np.unique(variance, return_inverse=True)
    if phi.kinks:  # they lie at other x for every variance
        coefficients, square = np.empty((flat.size, _HERMITE_TERMS)), np.empty(flat.size)
        for i, k in enumerate(flat):
            x, w = _nodes(phi, math.sqrt(k))
            value = phi(math.sqrt(k) * x)
            coefficients[i], square[i] = _functions(x) @ (w * value), w @ value**2
    else:
        x, w = _panel_nodes(())
        values = phi(np.sqrt(flat)[:, None] * x)
        coefficients, square = (w * values) @ _smooth_functions().T, values**2 @ w
    missing = square[:, None] - np.cumsum(coefficients**2, axis=1)
    # What cancels in the difference is rounding of the two sums.
    missing = np.maximum(missing, 1e-16 * (coefficients**2).sum(axis=1)[:, None])
    return _Hermite(coefficients[back], missing[back])


def _functions(x: FloatArray) -> FloatArray:
    """(terms, n) Hermite polynomials, orthonormal under the standard normal law."""
    h = np.empty((_HERMITE_TERMS, x.size))
    h[0], h[1] = 1.0, x
    for n in range(1, _HERMITE_TERMS - 1):
        h[n + 1] = (x * h[n] - math.sqrt(n) * h[n - 1]) / math.sqrt(n + 1)
    return h


@lru_cache(maxsize=1)
def _smooth_functions() -> FloatArray:
    return _functions(_panel_nodes(())[0])


def _nodes(phi: Activation, root: float) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights of the standard normal law, panels ending at the kinks of phi(root x)."""
    kinks = tuple(b / root for b in phi.kinks if root > 0.0 and abs(b) < _REACH * root)
    return _panel_nodes(kinks) if not kinks else _with_weights(kinks)


@lru_cache(maxsize=2)
def _panel_nodes(kinks: tuple[float, ...]) -> tuple[FloatArray, FloatArray]:
    return _with_weights(kinks)


def _with_weights(kinks: tuple[float, ...]) -> tuple[FloatArray, FloatArray]:
    edges = np.unique(np.concatenate([np.linspace(-_REACH, _REACH, _PANELS + 1), kinks]))
    x, w = np.polynomial.legendre.leggauss(20)
    half = 0.5 * np.diff(edges)
    nodes = (0.5 * (edges[1:] + edges[:-1])[:, None] + half[:, None] * x).ravel()
    weights = (half[:, None] * w).ravel() * np.exp(-0.5 * nodes**2)
    return nodes, weights / weights.sum()
