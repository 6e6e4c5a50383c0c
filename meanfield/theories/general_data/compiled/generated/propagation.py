"""Machine-written by ``python -m meanfield.activations.generate`` from symbolic/propagation.py; do not edit.

One sample of expectation propagation: what `meanfield.equations` shows. All arguments are numbers.
"""

import math

from meanfield.numerics.jit import jit

__all__ = [
    "cavity",
    "site_share",
    "matching_site",
    "tilted_piece",
    "given_preactivation",
    "joint_exponent",
    "kink_curvature",
]


@jit
def cavity(mean, variance, precision, linear):
    """Mean and variance of a marginal without its site exp(-precision z^2 / 2 + linear z)."""
    cavity_variance = variance/(-precision*variance + 1)
    cavity_mean = cavity_variance*(-linear + mean/variance)
    return cavity_mean, cavity_variance


@jit
def site_share(mean, variance, cavity_mean, cavity_variance):
    """ln of the integral of cavity times site, from the moments of their product and of the cavity."""
    share = -0.5*cavity_mean**2/cavity_variance + (0.5)*mean**2/variance + (0.5)*math.log(variance/cavity_variance)
    return share


@jit
def matching_site(mean, variance, cavity_mean, cavity_variance):
    """Precision and linear term of the site that gives cavity times site this mean and variance."""
    precision = 1/variance - 1/cavity_variance
    linear = -cavity_mean/cavity_variance + mean/variance
    return precision, linear


@jit
def tilted_piece(k, intercept, slope, mean, variance):
    """Shift of the mean, and height: N(z; mean, variance) e^{k (intercept + slope z)} = e^height N(z; mean + shift, variance)."""
    shift = k*slope*variance
    height = k*(intercept + slope*(mean + (0.5)*shift))
    return shift, height


@jit
def given_preactivation(kappa_variance, covariance, variance):
    """Slope of kappa in z and variance of kappa given z, from the covariance of (kappa, z)."""
    slope = covariance/variance
    rest = -covariance*slope + kappa_variance
    return slope, rest


@jit
def joint_exponent(kappa_mean, slope, rest, x, f):
    """ln E[e^{kappa f} | z], x = z minus its mean."""
    exponent = f*((0.5)*f*rest + kappa_mean + slope*x)
    return exponent


@jit
def kink_curvature(turn, jump, x, sd):
    """Share of an end of a linear piece in d2/dmean2 of E phi, over the density there; x = (end - mean) / sd."""
    curvature = jump*x/sd + turn
    return curvature
