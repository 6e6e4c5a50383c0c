"""How G(kappa) and its derivatives change with the variance k of the preactivations and with the parameters of phi.

Exact integrals over the tilted law of `meanfield.numerics.cumulant_table`, density ~ exp(kappa psi(z) - z**2 / 2) with
psi(z) = phi(sqrt(k) z), at fixed kappa; < > and cumulants are its own:

    d/dk:      density of x = sqrt(k) z differentiated, so that kinks and jumps of phi do not matter:
               dG/dk = <X>,  X = (z**2 - 1) / 2k;   dG^(n)/dk = cumulant(X, psi, ..., psi)   (n times psi)
    d/dtheta:  dG/dtheta = kappa f(kappa),  f = <d psi/dtheta>,  f^(n) = cumulant(d psi/dtheta, psi, ..., psi), so
               dG^(n)/dtheta = kappa f^(n) + n f^(n-1),
               and where phi jumps at z_j(theta), before psi_- and after psi_+, the surface term
               dz_j/dtheta n(z_j) [e^{kappa psi_-} - e^{kappa psi_+}] e^{-G} and its derivatives by kappa.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meanfield.activations.activation import Activation
from meanfield.activations.cumulant import Cumulant
from meanfield.numerics.cumulant_table import NODE, Direct

__all__ = ["cumulant_change", "growth_change", "midpoint_change"]

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

_LOG_WEIGHT = np.log(np.polynomial.legendre.leggauss(NODE.size)[1])
_REACH = 46.0  # exp(-46) = 1e-20, as in the quadrature of G
_PANELS = 5  # per linear piece
_FAR = 2.0**40  # where phi is its asymptote
_JUMP = 1e-9  # distance from a kink, relative, at which its two sides are compared


def cumulant_change(single_site: Cumulant, name: str, kappa: Array) -> Array:
    """Derivatives of G, G', G'', G''' by a parameter, at fixed kappa.

    Parameters
    ----------
    single_site : Cumulant
    name : str
        "k", or a parameter of the activation.
    kappa : array of any shape

    Returns
    -------
    (4, ...) array

    Raises
    ------
    ValueError
        If phi jumps at a place that has no formula in its parameters.
    """
    at = np.asarray(kappa, dtype=float)
    flat = at.ravel()
    if single_site.direct_data.slope.size:
        found = np.concatenate([_by_pieces(single_site, name, flat[i : i + 1]) for i in range(flat.size)], axis=1)
    else:
        found = _by_panels(single_site, name, flat)
    return found.reshape(4, *at.shape)


def growth_change(activation: Activation, name: str, k: float) -> tuple[float, float]:
    """Derivatives of the growth k g of G for kappa -> +inf and -inf by "k" or a parameter of the activation."""
    minus, plus = activation.growth
    if name == "k":
        return plus, minus
    left, right = activation.slopes
    d_left, d_right = (float(_asymptotic_slope(_by_parameter(activation, name), sign)) for sign in (-1, 1))

    def change(candidates: tuple[tuple[float, float], ...]) -> float:
        slope, moved = max(((0.0, 0.0), *candidates))
        return 2.0 * k * slope * moved

    return change(((right, d_right), (-left, -d_left))), change(((-right, -d_right), (left, d_left)))


def midpoint_change(activation: Activation, name: str) -> float:
    """Derivative of the centre of phi's range by a parameter: that of phi where it is lowest and highest."""
    if name not in activation.parameters:
        return 0.0
    far = np.sinh(np.linspace(-30.0, 30.0, 4001))
    z = np.unique(np.concatenate([far, *(far + kink for kink in activation.kinks[:20])]))
    values = activation(z)
    # Of a plateau its far end: at a kink there is no derivative.
    ends = [max(z[values == extreme], key=abs) for extreme in (values.min(), values.max())]
    return float(np.mean(_by_parameter(activation, name)(np.array(ends))))


def _asymptotic_slope(function: Function, sign: int) -> float:
    near, far = function(sign * _FAR * np.array([1.0, 2.0]))
    return float(sign * (far - near) / _FAR)


def _by_panels(single_site: Cumulant, name: str, kappa: Array) -> Array:
    """(4, n) at n kappa, from the nodes of the fixed rule."""
    direct = single_site.direct_data
    z = (direct.centre[:, None] + direct.half[:, None] * NODE).ravel()
    log = -0.5 * z * z + (direct.log_half[:, None] + _LOG_WEIGHT).ravel() - 0.5 * math.log(2.0 * math.pi)
    psi = direct.value.ravel()
    tilted = np.multiply.outer(kappa, psi) + log
    kept = (tilted > tilted.max(axis=1, initial=-math.inf)[:, None] - _REACH).any(axis=0)
    return _derivatives(single_site, name, kappa, z[kept], psi[kept], tilted[:, kept])


def _by_pieces(single_site: Cumulant, name: str, kappa: Array) -> Array:
    """(4, 1) at one kappa, of a piecewise linear phi."""
    z, log_weight = _piece_nodes(single_site.direct_data, float(kappa[0]))
    psi = single_site.activation(math.sqrt(single_site.k) * z)
    return _derivatives(single_site, name, kappa, z, psi, log_weight[None])


def _derivatives(single_site: Cumulant, name: str, kappa: Array, z: Array, psi: Array, log_weight: Array) -> Array:
    """(4, n) at n kappa, from nodes z (j,), psi there, and ln of the weight times the tilted density, (n, j)."""
    activation, k = single_site.activation, single_site.k
    top = log_weight.max(axis=1, initial=-math.inf)
    weight = np.exp(log_weight - top[:, None])
    total = weight.sum(axis=1)
    weight /= total[:, None]
    moved = (z * z - 1.0) / (2.0 * k) if name == "k" else _by_parameter(activation, name)(math.sqrt(k) * z)
    mean, mean_moved = weight @ psi, weight @ moved
    x = psi - mean[:, None]
    weighted = weight * x
    variance = np.sum(weighted * x, axis=1)
    y = moved - mean_moved[:, None]
    covariance = np.sum(weighted * y, axis=1)
    weighted *= x
    bend = np.sum(weighted * y, axis=1)
    weighted *= x
    third = np.sum(weighted, axis=1)
    f = np.array([mean_moved, covariance, bend, np.sum(weighted * y, axis=1) - 3.0 * covariance * variance])
    if name == "k":
        return f
    change = kappa * f
    change[1:] += np.arange(1.0, 4.0)[:, None] * f[:3]
    for place, speed, sides in _jumps(activation, name):
        log_density = -0.5 * place * place / k - 0.5 * math.log(2.0 * math.pi) - top - np.log(total)
        for value, sign in zip(sides, (1.0, -1.0)):
            d = value - mean
            powers = np.array([np.ones_like(d), d, d * d - variance, d**3 - 3.0 * d * variance - third])
            change += sign * speed / math.sqrt(k) * np.exp(log_density + kappa * value) * powers
    return change


def _piece_nodes(direct: Direct, kappa: float) -> tuple[Array, Array]:
    """Nodes z and ln of (their weight times the tilted density), for linear pieces: panels around the mode in each."""
    lower, upper, beta = direct.lower, direct.upper, direct.slope
    mode = np.clip(kappa * beta, lower, upper)
    pull = mode - kappa * beta
    reach = 2.0 * _REACH / (np.abs(pull) + np.sqrt(pull * pull + 2.0 * _REACH))
    left, right = np.maximum(lower, mode - reach), np.minimum(upper, mode + reach)
    half = 0.5 * (right - left) / _PANELS
    centre = left[:, None] + (2.0 * np.arange(_PANELS) + 1.0) * half[:, None]
    z = centre[:, :, None] + half[:, None, None] * NODE
    log = kappa * (direct.intercept[:, None, None] + beta[:, None, None] * z) - 0.5 * z * z
    log += np.log(half)[:, None, None] + _LOG_WEIGHT - 0.5 * math.log(2.0 * math.pi)
    return z.ravel(), log.ravel()


@lru_cache(maxsize=64)
def _by_parameter(activation: Activation, name: str) -> Function:
    """d phi/d parameter as a function of the preactivation; jumps do not count."""
    formula, z = activation.formula, activation.symbol
    general, symbols = _derivative_of(formula, z, name)
    values = [activation.parameters[symbol] for symbol in symbols]

    def evaluate(at: Array) -> Array:
        with np.errstate(all="ignore"):
            found = np.array(np.broadcast_to(np.asarray(general(at, *values), dtype=float), at.shape))
            if not np.isfinite(found).all():  # a special value, at which the formula simplifies
                found = np.array(np.broadcast_to(np.asarray(_simplified(activation, name)(at), dtype=float), at.shape))
        return found

    return evaluate


@lru_cache(maxsize=64)
def _derivative_of(formula: Any, z: Any, name: str) -> tuple[Callable[..., Any], tuple[str, ...]]:
    """d formula/d parameter as a function of z and all parameters, compiled once for all their values; their names."""
    from meanfield.symbolic.source import derivative, numpy_function_of

    symbols = sorted(formula.free_symbols - {z}, key=lambda symbol: str(symbol.name))
    (symbol,) = (s for s in symbols if s.name == name)
    return numpy_function_of(derivative(formula, symbol), [z, *symbols]), tuple(s.name for s in symbols)


@lru_cache(maxsize=64)
def _simplified(activation: Activation, name: str) -> Callable[[Any], Any]:
    """d phi/d parameter, simplified after the values of the parameters are put in."""
    from meanfield.symbolic.source import derivative, numpy_function

    formula, z = activation.formula, activation.symbol
    values = {s: activation.parameters[s.name] for s in formula.free_symbols - {z}}
    (symbol,) = (s for s in values if s.name == name)
    return numpy_function(derivative(formula, symbol).subs(values), z)


@lru_cache(maxsize=64)
def _jumps(activation: Activation, name: str) -> tuple[tuple[float, float, tuple[float, float]], ...]:
    """Jumps of phi that move with a parameter: (place, its derivative by the parameter, (phi before, phi after))."""
    found = []
    for i, place in enumerate(activation.kinks):
        step = _JUMP * (1.0 + abs(place))
        before, after = (float(x) for x in activation(np.array([place - step, place + step])))
        if abs(after - before) > 1e-6 * max(abs(before), abs(after)):
            found.append((i, place, before, after))
    if not found:
        return ()
    from meanfield.symbolic.shape import shape_of

    formula, z = activation.formula, activation.symbol
    values = {s: activation.parameters[s.name] for s in formula.free_symbols - {z}}
    (symbol,) = (s for s in values if s.name == name)
    try:
        kinks = shape_of(formula, z, values).kinks
    except ValueError as error:
        raise ValueError(
            f"{activation!r} jumps at a place without a formula in its parameters, so that transitions cannot be "
            f"located along {name!r}; locate them along another parameter."
        ) from error
    speeds = [float(kink.diff(symbol).subs(values)) if hasattr(kink, "diff") else 0.0 for kink in kinks]
    moving = ((place, speeds[i], (before, after)) for i, place, before, after in found)
    return tuple(jump for jump in moving if jump[1] != 0.0)
