"""Gaussian kernels of a layer: E[phi(z) phi(z')] for jointly Gaussian preactivations, for every activation.

Closed forms: affine phi, sigmoid and erf (arcsine kernel), steps at 0, ReLU and leaky ReLU (arc-cosine kernels). Every
other continuous piecewise linear phi by Plackett's identity: with slope changes D_i at b_i,

    E[phi phi'] = E[phi] E[phi'] + k12 E[dphi] E[dphi'] + int_0^k12 (k12 - c) sum_ij D_i D_j p_c(b_i, b_j) dc,

where p_c is the density of the pair at covariance c; c = sqrt(k11 k22) sin(alpha) makes the integrand smooth.
All others by Mehler's series E[phi phi'] = sum_n c_n(k11) c_n(k22) rho^n in Hermite coefficients c_n. Cauchy-Schwarz
bounds what is cut off by rho^n_max times the root of the missing parts of E[phi^2]: this error is known, not estimated.
Pairs for which either is not good enough (kinks, jumps and steep parts at rho near +-1) are integrated one by one, see
`meanfield.theories.lazy.kernel_tables`; two orders of the rule and points between those of the tables measure their
error.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from meanfield.activations.activation import Activation, activation
from meanfield.theories.lazy.compiled.kernel import hermite_coefficients, mehler_sums
from meanfield.theories.lazy.kernel_tables import Panels, near_kernel, panels_of
from meanfield.validation import FloatArray, real_array

__all__ = ["gaussian_kernel", "gaussian_moment", "kernel_layers"]

_TOLERANCE = 1e-10  # of a kernel element, relative to the largest diagonal element; what is worse is refused
_WANTED = 2e-12  # and what a method has to reach for the next one not to be asked
_HERMITE_TERMS = (128, 512, 2048)
_PAIR_COST = 0.05  # of the integral of one pair, relative to the longest series of one variance
_PANELS = 60
_REACH = 11.0  # the Gaussian beyond is below 1e-26
_GAUSS_X, _GAUSS_W = np.polynomial.legendre.leggauss(20)
_PARALLEL = 2e-15  # 1 - |rho| that is rounding
_LEAST = 1e-100  # variance below which a preactivation is 0


class LayerKernel(NamedTuple):
    """Kernel of a layer.

    Attributes
    ----------
    cross : (n, n') array
        E[phi(z_i) phi(z'_j)].
    left, right : (n,) and (n',) arrays
        E[phi(z_i)^2], E[phi(z'_j)^2].
    error : float
        Error of the elements of `cross`: bound of what a series leaves out, or measured by two orders of the rule; 0
        for closed forms (which are exact to rounding).
    """

    cross: FloatArray
    left: FloatArray
    right: FloatArray
    error: float


def gaussian_kernel(phi: Activation | str, cross: FloatArray, left: FloatArray, right: FloatArray) -> LayerKernel:
    """E[phi(z_i) phi(z'_j)] for z, z' of variances `left`, `right` and covariance `cross`.

    Parameters
    ----------
    phi : Activation or name
    cross : (n, n') array
    left, right : (n,) and (n',) arrays
        Variances, >= 0.

    Returns
    -------
    LayerKernel

    Raises
    ------
    ValueError
        For NaN, shapes that do not fit, variances that are negative or smaller than the covariances imply, and if an
        element is not known to 1e-10 of the largest diagonal element.

    Notes
    -----
    1 - |rho| below 2e-15 is taken for rounding and rho for +-1. Where `phi` jumps, the kernel has infinite slope there:
    a relative error e of the covariances is an error of order sqrt(e) of the kernel of inputs that nearly coincide.
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
    squares = gaussian_moment(phi, k11)[1], gaussian_moment(phi, k22)[1]
    largest = math.sqrt(squares[0].max() * squares[1].max())
    values, error = _cross(phi, rho, k11, k22, largest)
    # A second way to the elements of equal inputs, whose errors would else be measured by the rule that made them.
    equal = (rho == 1.0) & np.equal.outer(k11, k22)
    off = np.abs(values - squares[0][:, None])[equal].max(initial=0.0)
    if not off <= _TOLERANCE * largest:
        raise ValueError(
            f"the kernel of {phi.name!r} contradicts itself: two ways of integrating E[phi(z)^2] differ by {off:.1e}, "
            f"where the largest is {largest:.3g}. phi may not be a function of z alone, or not be smooth to rounding."
        )
    return LayerKernel(values, *squares, error)


def kernel_layers(
    phi: Activation | str, cross: FloatArray, left: FloatArray, right: FloatArray, sigma_w: float, depth: int
) -> list[LayerKernel]:
    """Kernels of the hidden layers 1..L of a network at its prior, from the covariance of the first preactivations.

    K_l = E[phi phi] at preactivation covariance sigma_w^2 K_{l-1} for l >= 2 (`cross` has its sigma_w^2 already).
    """
    found = [gaussian_kernel(phi, cross, left, right)]
    for _ in range(depth - 1):
        below = found[-1]
        found.append(gaussian_kernel(phi, *(sigma_w**2 * part for part in (below.cross, below.left, below.right))))
    return found


def gaussian_moment(phi: Activation | str, variance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """E[phi(z)] and E[phi(z)^2] for z ~ N(0, variance), elementwise, by panels that resolve phi."""
    phi = activation(phi)
    flat, back = np.unique(np.ravel(variance), return_inverse=True)
    first, second = np.empty(flat.size), np.empty(flat.size)
    panels = _panels(phi, flat)
    for i, k in enumerate(flat):
        x, w = _nodes(phi, panels, math.sqrt(k))
        value = phi(math.sqrt(k) * x)
        first[i], second[i] = w @ value, w @ value**2
    shape = np.shape(variance)
    return first[back].reshape(shape), second[back].reshape(shape)


# ---- the four ways ---------------------------------------------------------------------------------


def _cross(
    phi: Activation, rho: FloatArray, k11: FloatArray, k22: FloatArray, scale: float
) -> tuple[FloatArray, float]:
    """E[phi phi'] and its error; `scale` is the largest E[phi^2]."""
    closed = _closed_form(phi, rho, k11, k22)
    if closed is not None:
        return closed, 0.0
    spread = 1.0 - np.abs(rho)
    spread[spread <= _PARALLEL] = 0.0
    rho = np.where(spread == 0.0, np.sign(rho), rho)
    mirrored = np.array_equal(k11, k22) and np.array_equal(rho, rho.T)
    if phi.pieces is not None and _continuous(phi):
        values, errors = _plackett(phi, rho, k11, k22)
    else:
        values, errors = np.zeros(rho.shape), np.full(rho.shape, np.inf)
    if mirrored:
        errors[np.tril_indices_from(errors, -1)] = 0.0
    wanted = _WANTED * scale
    if phi.pieces is None or not _continuous(phi):
        _mehler(phi, rho, k11, k22, wanted, values, errors)
    rest = np.nonzero(errors > wanted)
    if rest[0].size:
        sd = np.sqrt(k11[rest[0]]), np.sqrt(k22[rest[1]])
        panels = _panels(phi, np.concatenate([k11, k22]))
        values[rest], errors[rest] = near_kernel(phi, panels, *sd, rho[rest], spread[rest])
    if mirrored:
        values = np.triu(values) + np.triu(values, 1).T
    error = float(errors.max())
    if not error <= _TOLERANCE * scale:
        raise ValueError(
            f"the kernel of {phi.name!r} is known to {error:.1e} only, where its largest element is {scale:.3g}: its "
            "values are not smooth to rounding between its kinks, or it varies too fast. Write it in a form without "
            "cancellation, or scale the inputs down."
        )
    return values, error


def _closed_form(phi: Activation, rho: FloatArray, k11: FloatArray, k22: FloatArray) -> FloatArray | None:
    root = np.sqrt(np.multiply.outer(k11, k22))
    if phi.name in ("sigmoid", "erf") and not _is_users(phi):
        # sigmoid: (1 + erf(b z)) / 2 with b = sqrt(pi) gain / 2; erf: erf(gain sqrt(pi) z / 2) or erf(gain z)
        slope = float(phi.derivative(0.0)) * math.sqrt(math.pi) / 2  # d erf(b z) = 2 b / sqrt(pi)
        b = 2.0 * slope if phi.name == "sigmoid" else slope
        share = 2.0 * b * b * root * rho / np.sqrt(np.multiply.outer(1 + 2 * b * b * k11, 1 + 2 * b * b * k22))
        arcsine = 2.0 / math.pi * np.arcsin(share)
        return np.asarray(0.25 + 0.25 * arcsine if phi.name == "sigmoid" else arcsine)
    pieces = phi.pieces
    if pieces is None:
        return None
    if not pieces.breaks:
        return np.asarray(pieces.intercepts[0] ** 2 + pieces.slopes[0] ** 2 * root * rho)
    if pieces.breaks == (0.0,) and pieces.slopes == (0.0, 0.0):
        parallel = np.where(1.0 - np.abs(rho) <= _PARALLEL, np.sign(rho), rho)
        return _step(parallel, *pieces.intercepts)
    if pieces.breaks == (0.0,) and pieces.intercepts == (0.0, 0.0):
        return root * _arc_cosine(rho, *pieces.slopes)
    return None


def _is_users(phi: Activation) -> bool:
    return phi != activation(phi.name, **phi.parameters)


def _arc_cosine(rho: FloatArray, below: float, above: float) -> FloatArray:
    """Kernel of slope `below` for z < 0 and `above` for z > 0, at unit variances (Cho and Saul 2009)."""
    theta = np.arccos(rho)
    relu = (np.sin(theta) + (math.pi - theta) * rho) / (2 * math.pi)
    # phi = above relu(z) - below relu(-z), and E[relu(z) relu(-z')] = relu kernel at -rho = relu - rho / 2.
    return (above**2 + below**2) * relu - 2 * above * below * (relu - 0.5 * rho)


def _step(rho: FloatArray, low: float, high: float) -> FloatArray:
    """Kernel of a step at 0; where a variance vanishes z = 0, and phi is taken as the mean of both sides."""
    both = 0.25 + np.arcsin(rho) / (2 * math.pi)
    return np.asarray(low * low + low * (high - low) + (high - low) ** 2 * both)


def _continuous(phi: Activation) -> bool:
    assert phi.pieces is not None
    b, a, s = phi.pieces
    return all(math.isclose(a[i] + s[i] * x, a[i + 1] + s[i + 1] * x, abs_tol=1e-12) for i, x in enumerate(b))


def _plackett(phi: Activation, rho: FloatArray, k11: FloatArray, k22: FloatArray) -> tuple[FloatArray, FloatArray]:
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
    for which, order in enumerate((48, 32)):
        nodes, weights = np.polynomial.legendre.leggauss(order)
        for x, w in zip(nodes, weights):
            alpha = 0.5 * top * (1 + x)
            sine, cosine2 = np.sin(alpha), np.maximum(np.cos(alpha) ** 2, 1e-30)
            density = np.zeros_like(rho)
            for u, d in zip(places[0].T[:, :, None], change):
                for v, e in zip(places[1].T[:, None, :], change):
                    density += d * e * np.exp(-(u * u - 2 * sine * u * v + v * v) / (2 * cosine2))
            values[which] += 0.5 * top * w * (rho - sine) * density / (2 * math.pi)
    return total + root * values[0], root * np.abs(values[0] - values[1])


def _mehler(
    phi: Activation,
    rho: FloatArray,
    k11: FloatArray,
    k22: FloatArray,
    wanted: float,
    values: FloatArray,
    errors: FloatArray,
) -> None:
    """Fill in the pairs whose series reaches the wanted error, in more and more terms."""
    for terms in _HERMITE_TERMS:
        waiting = errors > wanted
        variances = k11.size if k22 is k11 else k11.size + k22.size
        if not waiting.any() or (terms == _HERMITE_TERMS[-1] and waiting.sum() * _PAIR_COST < variances):
            return
        left, left_missing = _hermite(phi, k11, terms)
        right, right_missing = (left, left_missing) if k22 is k11 else _hermite(phi, k22, terms)
        mehler_sums(left, right, left_missing, right_missing, rho, wanted, values, errors)


def _hermite(phi: Activation, variance: FloatArray, terms: int) -> tuple[FloatArray, FloatArray]:
    """Hermite coefficients (n, terms) of phi(sqrt(k) x), and the root of the part of E[phi^2] beyond each."""
    flat, back = np.unique(variance, return_inverse=True)
    panels = _panels(phi, flat)
    coefficients, square = np.empty((flat.size, terms)), np.empty(flat.size)
    for i, k in enumerate(flat):
        x, w = _nodes(phi, panels, math.sqrt(k))
        value = phi(math.sqrt(k) * x)
        hermite_coefficients(x, w * value, coefficients[i])
        square[i] = w @ value**2
    missing = square[:, None] - np.cumsum(coefficients**2, axis=1)
    # What cancels in the difference is rounding of the two sums.
    missing = np.sqrt(np.maximum(missing, 1e-15 * square[:, None]))
    return coefficients[back], missing[back]


def _panels(phi: Activation, variances: FloatArray) -> Panels:
    """Panels that resolve phi for these variances; powers of 2 let the layers of a network share them."""
    positive = variances[variances > _LEAST]
    low, high = (positive.min(), positive.max()) if positive.size else (1.0, 1.0)
    return _cached_panels(phi, 2.0 ** math.ceil(0.5 * math.log2(high)), 2.0 ** math.floor(0.5 * math.log2(low)))


@lru_cache(maxsize=8)
def _cached_panels(phi: Activation, high: float, low: float) -> Panels:
    return panels_of(phi, _REACH * high, low)


def _nodes(phi: Activation, panels: Panels, root: float) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights of the standard normal law, on panels that resolve phi(root x) and end at its kinks."""
    if root * root <= _LEAST:
        return np.zeros(1), np.ones(1)
    # The edges next to panels that are narrower than those of the Gaussian itself.
    narrow = np.diff(panels.edges) < 2 * _REACH / _PANELS * root
    cuts = panels.edges[np.append(narrow, False) | np.append(False, narrow)]
    cuts = np.concatenate([cuts, phi.kinks]) / root
    return _with_weights(cuts[np.abs(cuts) < _REACH])


def _with_weights(cuts: FloatArray) -> tuple[FloatArray, FloatArray]:
    edges = np.unique(np.concatenate([np.linspace(-_REACH, _REACH, _PANELS + 1), cuts]))
    half = 0.5 * np.diff(edges)
    nodes = (0.5 * (edges[1:] + edges[:-1])[:, None] + half[:, None] * _GAUSS_X).ravel()
    weights = (half[:, None] * _GAUSS_W).ravel() * np.exp(-0.5 * nodes**2)
    return nodes, weights / weights.sum()
