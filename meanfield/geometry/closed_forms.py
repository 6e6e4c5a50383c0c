"""Capacities in closed form or by quadrature: points, balls, ellipsoids with uncorrelated centres.

Lengths are in units of the centre norm. Source: Chung, Lee, Sompolinsky, "Classification and geometry of general
perceptual manifolds" (Physical Review X 2018); for a probe ``(t, t0)`` and a manifold {(s, 1)}

    F(t, t0) = min |V - (t, t0)|^2 over V with <V, (s, 1)> >= kappa for all s,     1/capacity = E[F].
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meanfield.geometry.clouds import Seed, streams
from meanfield.validation import real_number, short, squarable_array, whole_number

__all__ = ["Estimate", "ball_capacity", "ellipsoid_capacity", "ellipsoid_distance", "point_capacity"]

Array = NDArray[np.float64]


class Estimate(NamedTuple):
    """A Monte-Carlo value and its standard error."""

    value: float
    standard_error: float


def check_margin(kappa: float) -> float:
    return real_number("the margin kappa", kappa)


def _check_length(value: float, name: str) -> float:
    return real_number(name, value, at_least=0.0, hint=" (in units of the centre norm)")


def point_capacity(kappa: float = 0.0) -> float:
    """Capacity of points at margin kappa, ``1/((1 + kappa^2) Phi(kappa) + kappa phi(kappa))``.

    Examples
    --------
    >>> point_capacity()
    2.0
    """
    kappa = check_margin(kappa)
    cumulative = 0.5 * math.erfc(-kappa / math.sqrt(2.0))
    density = math.exp(-0.5 * kappa**2) / math.sqrt(2.0 * math.pi)
    return 1.0 / ((1.0 + kappa**2) * cumulative + kappa * density)


def ball_capacity(radius: float, dimension: float, kappa: float = 0.0) -> float:
    """Capacity of balls (or spheres) with uncorrelated centres.

    Parameters
    ----------
    radius : float
        In units of the centre norm.
    dimension : float
        Dimension D > 0 of the ball, not counting the centre direction.
    kappa : float
        Margin, in units of the centre norm.

    Returns
    -------
    float
        By quadrature over the length of the probe, relative error below 1e-9.

    Examples
    --------
    >>> round(ball_capacity(1.0, 3), 12)  # a self-dual cone: 2/(D + 1)
    0.5
    """
    from scipy.integrate import quad
    from scipy.special import gammaln, ndtr

    kappa = check_margin(kappa)
    radius = _check_length(radius, "radius")
    dimension = real_number("dimension", dimension, above=0.0)
    if radius == 0.0:
        return point_capacity(kappa)

    def density(x: float) -> float:
        return math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)

    def distance(t: float) -> float:
        low, high = kappa - t / radius, kappa + radius * t
        # Between: the nearest V touches the ball's cone at its surface. Below low: V = (0, kappa).
        between = (1.0 + high**2) * (ndtr(high) - ndtr(low)) + high * density(high) - (2.0 * high - low) * density(low)
        below = (t**2 + 1.0 + kappa**2) * ndtr(low) + (2.0 * kappa - low) * density(low)
        return between / (1.0 + radius**2) + below

    log_norm = (1.0 - 0.5 * dimension) * math.log(2.0) - gammaln(0.5 * dimension)

    def integrand(t: float) -> float:
        if t <= 0.0:
            return 0.0
        return math.exp(log_norm + (dimension - 1.0) * math.log(t) - 0.5 * t * t) * distance(t)

    typical = math.sqrt(dimension)
    points = [0.0, max(typical - 4.0, 0.3 * typical), typical, typical + 4.0, typical + 40.0]
    total = sum(quad(integrand, a, b, epsabs=0.0, epsrel=1e-11, limit=200)[0] for a, b in itertools.pairwise(points))
    return 1.0 / total


def ellipsoid_distance(radii: Array, probes: Array, heights: Array, kappa: float) -> Array:
    """``F`` (T,) of an ellipsoid with semi-axes `radii` (D,) for probes t (T, D) and centre components t0 (T,).

    On the surface ``v_i = t_i/(1 + mu R_i^2)`` with the root of ``(mu - 1) |R v(mu)| = kappa - t0``; the left side
    increases with mu, so bisection in ``mu/(1 + mu)`` cannot fail.
    """
    extended = radii > 0.0
    radii, probes = radii[extended], probes[:, extended]
    missing = kappa - heights
    if not radii.size:
        return np.maximum(missing, 0.0) ** 2
    result = np.zeros(len(probes))
    violated = missing > -np.linalg.norm(radii * probes, axis=1)
    apex = violated & (missing > 0.0)
    apex &= np.sum((probes / radii) ** 2, axis=1) <= missing**2
    result[apex] = np.sum(probes[apex] ** 2, axis=1) + missing[apex] ** 2
    surface = violated & ~apex
    t, gap = probes[surface], missing[surface]
    low, high = np.zeros(len(t)), np.ones(len(t))
    for _ in range(60):
        middle = 0.5 * (low + high)
        # (mu - 1) |R v| with numerator and denominator times 1 - middle, finite for mu -> infinity.
        length = np.linalg.norm(radii * t / (1.0 - middle[:, None] + middle[:, None] * radii**2), axis=1)
        right = (2.0 * middle - 1.0) * length > gap
        high = np.where(right, middle, high)
        low = np.where(right, low, middle)
    scale = 1.0 - low[:, None]
    v = t * scale / (scale + low[:, None] * radii**2)
    support = np.linalg.norm(radii * v, axis=1)
    result[surface] = np.sum((v - t) ** 2, axis=1) + (gap + support) ** 2
    return result


def ellipsoid_capacity(radii: ArrayLike, kappa: float = 0.0, *, n_probes: int = 20_000, seed: Seed = None) -> Estimate:
    """Capacity of ellipsoids with uncorrelated centres, averaged over Gaussian probes.

    Parameters
    ----------
    radii : (D,) array
        Semi-axes in units of the centre norm.
    kappa : float
        Margin, in units of the centre norm.
    n_probes : int
    seed : int, SeedSequence, Generator or None

    Returns
    -------
    Estimate
        Named tuple of value and standard error.
    """
    kappa = check_margin(kappa)
    axes = np.atleast_1d(squarable_array("radii", radii))
    if axes.ndim != 1 or axes.size == 0 or (axes < 0).any():
        raise ValueError(f"radii must be a vector of semi-axes >= 0, got {short(radii)}")
    number = whole_number("n_probes", n_probes, at_least=2, at_most=10**7)
    rng = np.random.default_rng(streams(seed, 1)[0])
    distance = ellipsoid_distance(axes, rng.standard_normal((number, axes.size)), rng.standard_normal(number), kappa)
    value = 1.0 / float(distance.mean())
    return Estimate(value, value**2 * float(distance.std(ddof=1)) / math.sqrt(number))
