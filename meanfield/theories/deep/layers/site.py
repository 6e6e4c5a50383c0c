"""The single-site function of one class and its derivatives, on grids (THEORY.md, "Single-site function").

    g(b, h) = ln int Dxi exp(b phi(z) + delta phi(z)^2 / 2),    z = h + sqrt(d) xi

g_b and g_bb are mean and variance of phi under the tilted law, g_h = <xi> / sqrt(d), g_hh = (var xi - 1) / d. It is
integrated over z on one set of nodes for all h, so that a table of (b, h) is a matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from meanfield.activations.activation import Activation
from meanfield.activations.facts import Pieces
from meanfield.theories.deep.compiled.generated.site import MOMENTS, ORDERS, derivatives
from meanfield.theories.deep.layers.rules import NotCovered
from meanfield.theories.deep.layers.work import spend
from meanfield.validation import FloatArray, IntArray

__all__ = [
    "EXPONENTIAL",
    "PRODUCT",
    "REACH",
    "Site",
    "SiteNodes",
    "noise_lattice",
    "noise_law",
    "noisy_means",
    "site_derivatives",
    "site_rule",
    "site_table",
    "site_values",
    "slope_between",
    "unit_lattice",
    "z_rule",
]

REACH = 8.6  # standard deviations of z beyond h: exp(-37)
_PANEL_NODES = 24
PRODUCT = 0.4  # what a multiplication of a matrix product counts where these are most of it
_DERIVED = 100.0  # multiplications of the derivatives of g at one pair of b and h, where moments cost nothing
EXPONENTIAL = 40  # multiplications of a matrix product that it takes as long as
_DECAYS = 24.0  # powers of e by which the law may fall over the panel next to a kink
_PLAIN = 0.45  # spacing where nothing is tilted
_TINY = 1e-290
_MOST_NODES = 100_000
_MOST_IN_PANELS = 500_000  # beside kinks; without an end to them a step on its way to silence asked for all memory
_MOST_NOISE = 50_000
_WINDOWS = 3.0  # reaches of z that fields h have to spread over, from where on they are integrated in groups
_ALIASED, _ALIAS, _MOST_TRIED, _FINEST = 0.6, 1e-10, 40, 5e-4  # the coarsest `Rule.z`; part of the range of phi
_SMOOTH = 0.33  # of the width of the step that phi makes: what its strip of analyticity allows


class Site(NamedTuple):
    """g and its derivatives, arrays (n_b, n_h)."""

    g: FloatArray
    b: FloatArray
    bb: FloatArray
    h: FloatArray
    hh: FloatArray


class SiteNodes(NamedTuple):
    """Quadrature over z: points, weights, phi there. With `breaks` (k,) phi is constant between them: there is a point
    in each of the k + 1 intervals, over which the moments of the noise are closed forms. Points further than `reach`
    from h have no weight."""

    z: FloatArray
    weight: FloatArray
    phi: FloatArray
    breaks: FloatArray | None = None
    reach: float = math.inf


def site_rule(phi: Activation, d: float, h_low: float, h_high: float, step: float, tilt: float = 0.0) -> SiteNodes:
    """What g is integrated with: `z_rule`, or the intervals of a phi that is constant between its jumps, which needs
    no quadrature, however little noise there is.

    Raises
    ------
    NotCovered
        As `z_rule`; of a phi with jumps alone only if d vanishes.
    """
    if phi.pieces is None or any(phi.pieces.slopes) or not d > 0.0:
        return z_rule(phi, d, h_low, h_high, step, tilt)
    breaks = np.array(phi.pieces.breaks, dtype=float)
    inside = np.concatenate([[breaks[0] - 1.0], 0.5 * (breaks[1:] + breaks[:-1]), [breaks[-1] + 1.0]])
    return SiteNodes(inside, np.ones(len(inside)), np.array(phi.pieces.intercepts, dtype=float), breaks)


def z_rule(phi: Activation, d: float, h_low: float, h_high: float, step: float, tilt: float = 0.0) -> SiteNodes:
    """Nodes for N(z; h, d) exp(b phi(z)), for every h between the bounds and |b| <= tilt.

    A uniform lattice of spacing step * (width of the tilted law) where phi is analytic (its error falls like
    exp(-2 pi^2 / step^2) for a Gaussian, and with the width of the strip of analyticity), Gauss-Legendre panels between
    kinks elsewhere. Where phi is linear there the tilt makes the law no narrower, but may let it end steeply at a kink.

    Raises
    ------
    NotCovered
        If d is so small that there would be too many of them, or vanishes.
    """
    if tilt > 0.0 and not d > 0.0:
        raise NotCovered("the noise of a layer vanishes on the way to a solution")
    narrow, reach = math.sqrt(d), REACH * math.sqrt(d)
    if phi.bounded:
        # The tilt moves z by at most d b phi', and no further than where it outweighs the Gaussian.
        span = phi.supremum - phi.infimum
        reach = min(reach + d * tilt * span / _width(phi), math.sqrt(d * (REACH**2 + 2.0 * tilt * span)))
        if not phi.piecewise_linear:
            narrow = 1.0 / math.sqrt(1.0 / d + 0.6 * tilt * span / _width(phi) ** 2)
    low, high = h_low - reach, h_high + reach
    kinks = [k for k in phi.kinks if low < k < high]
    if not kinks:
        count = math.ceil(min((high - low) / (step * min(narrow, _smooth(phi))), 2.0 * _MOST_NODES))
        if count > _MOST_NODES:
            raise NotCovered("the noise of a layer is too weak for the quadrature over its preactivations")
        z = low + (high - low) / count * (np.arange(count) + 0.5)
        weight = np.full(count, (high - low) / count)
    else:
        x, w = np.polynomial.legendre.leggauss(_PANEL_NODES)
        slope = slope_between(phi)
        widest = 8.0 * step * (narrow if phi.piecewise_linear or not slope else min(narrow, _width(phi)))
        # At a kink: the slope of the tilt, or that of a Gaussian as far away as the tilt outweighs.
        far = math.sqrt(2.0 * tilt * (phi.supremum - phi.infimum) / d) if tilt > 0.0 else 0.0
        decay = max(tilt * slope + far, 1e-300)
        if (high - low) / widest * _PANEL_NODES > _MOST_IN_PANELS:
            raise NotCovered("the noise of a layer is too weak for the quadrature over its preactivations")
        bounds = _graded([low, *kinks, high], widest, _DECAYS / decay)
        half = 0.5 * np.diff(bounds)
        z = ((bounds[1:] + bounds[:-1]) / 2 + half * x[:, None]).T.ravel()
        weight = (half * w[:, None]).T.ravel()
    return SiteNodes(np.asarray(z, dtype=float), np.asarray(weight, dtype=float), phi(z), None, reach)


def _graded(edges: list[float], widest: float, narrowest: float) -> FloatArray:
    """Ends of panels between these edges: `widest` at most, and towards every edge halved down to `narrowest`."""
    found = [np.array(edges)]
    for left, right in pairwise(edges):
        count = max(1, math.ceil((right - left) / widest))
        size = (right - left) / count
        near = size * 0.5 ** np.arange(1, 1 + max(0, math.ceil(math.log2(size / narrowest))))
        found += [left + size * np.arange(1, count), left + near, right - near]
    return np.unique(np.concatenate(found))


def noisy_means(phi: Activation, h: FloatArray, d: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean of phi(z), its derivative by h, and variance of phi(z), z ~ N(h, d), arrays like h.

    Raises
    ------
    NotCovered
        If phi is so steep on the scale of the noise that the means would need too many nodes.
    """
    if phi.pieces is not None:
        return _piecewise_means(phi.pieces, h, d)
    if phi.kinks:
        nodes = z_rule(phi, d, float(h.min()), float(h.max()), _PLAIN)
        xi, value = (nodes.z - h[..., None]) / math.sqrt(d), nodes.phi
        weight = nodes.weight * np.exp(-0.5 * xi * xi) / math.sqrt(2.0 * math.pi * d)
    else:
        xi, weight = noise_lattice(phi, float(d))
        value = phi(h[..., None] + math.sqrt(d) * xi)
    mean = (value * weight).sum(axis=-1)
    variance = ((value - mean[..., None]) ** 2 * weight).sum(axis=-1)  # of later layers it is far below the square
    return mean, (value * xi * weight).sum(axis=-1) / math.sqrt(d), variance


def unit_lattice(count: int) -> tuple[FloatArray, FloatArray]:
    """`count` values of a standard normal variable and their weights."""
    x = 2.0 * REACH / count * (np.arange(count) + 0.5) - REACH
    weight = np.exp(-0.5 * x * x)
    return np.asarray(x, dtype=float), np.asarray(weight / weight.sum(), dtype=float)


@lru_cache(maxsize=256)
def noise_lattice(phi: Activation, d: float, enough: float = math.inf) -> tuple[FloatArray, FloatArray]:
    """Unit noise and weights for phi(h + sqrt(d) noise), phi analytic: halved until means and slopes no longer change,
    or `enough` values are reached. Of erf at d = 25 80 Hermite nodes left 2 % of the second moment.
    """
    where = np.concatenate([np.linspace(-8.0, 8.0, 17), math.sqrt(d) * np.linspace(-7.7, 7.9, 14)])
    before, count = None, 40
    while count <= _MOST_NOISE:
        xi, weight = unit_lattice(count)
        value = phi(where[:, None] + math.sqrt(d) * xi)
        found = np.stack([value @ weight, value @ (xi * weight), value**2 @ weight])
        size = max(1e-300, float(np.abs(value).max()))
        if before is not None and np.abs(found - before).max() < 1e-13 * max(size, size**2):
            return xi, weight
        if count >= enough:
            return xi, weight
        before, count = found, 2 * count
    raise NotCovered("phi is too steep on the scale of the noise of a layer: its scale sigma_w, or the gain, is large")


def _piecewise_means(pieces: Pieces, h: FloatArray, d: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The same for a piecewise linear phi, in closed form: moments of the Gaussian between breaks."""
    root, breaks = math.sqrt(d), np.array(pieces.breaks)
    at = (breaks - h[..., None]) / root
    density = np.exp(-0.5 * at * at) / math.sqrt(2.0 * math.pi)
    none = np.zeros((*h.shape, 1))
    below = np.concatenate([none, ndtr(at), none + 1.0], axis=-1)
    above = np.concatenate([none + 1.0, ndtr(-at), none], axis=-1)
    # Differences of the smaller ones.
    inside = np.where(below[..., 1:] < 0.5, below[..., 1:] - below[..., :-1], above[..., :-1] - above[..., 1:])
    ends, moments = (np.concatenate([none, x, none], axis=-1) for x in (density, at * density))
    first = root * (ends[..., :-1] - ends[..., 1:])  # of z - h, and (z - h)^2 / d
    second = inside + moments[..., :-1] - moments[..., 1:]
    slopes = np.array(pieces.slopes)
    middle = np.array(pieces.intercepts) + slopes * h[..., None]  # phi(h), were all of it this piece
    jumps = np.diff(pieces.intercepts) + np.diff(slopes) * breaks
    mean = (middle * inside + slopes * first).sum(axis=-1)
    slope = (slopes * inside).sum(axis=-1) + (jumps * density).sum(axis=-1) / root
    off = middle - mean[..., None]
    variance = (off**2 * inside + 2.0 * off * slopes * first + slopes**2 * d * second).sum(axis=-1)
    return mean, slope, variance


@lru_cache(maxsize=64)
def slope_between(phi: Activation) -> float:
    """Largest slope of phi between its kinks, where it may jump."""
    z = np.linspace(-30.0, 30.0, 24001)
    slopes = np.abs(np.diff(phi(z))) / (z[1] - z[0])
    jumps = np.searchsorted(z, phi.kinks)
    for cells in (jumps - 1, jumps, jumps - 2):
        slopes[cells[(cells >= 0) & (cells < len(slopes))]] = 0.0
    return float(slopes.max())


@lru_cache(maxsize=64)
def _width(phi: Activation) -> float:
    """Range of a bounded phi over its largest slope, the width of its steepest step."""
    if not phi.bounded:
        return math.inf
    z = np.linspace(-30.0, 30.0, 24001)
    slope = float(np.abs(np.diff(phi(z))).max()) / (z[1] - z[0])
    far = np.geomspace(30.0, 1e5, 4000)
    beyond = float(np.abs(phi.derivative(np.concatenate([-far, far]))).max())
    return (phi.supremum - phi.infimum) / max(slope, beyond, 1e-300)


@lru_cache(maxsize=64)
def _smooth(phi: Activation) -> float:
    """Spacing of lattices of z that phi asks for, in units of `Rule.z`: a part of the width of its step, and less where
    its strip of analyticity is narrower than that (atan, a ripple on a step), found where lattices alias.

    At a spacing q sums over one half of the nodes and over the other, of phi times Gaussians of width 3 q anywhere,
    differ by what phi has at the frequency 2 pi / q.
    """
    spacing = _SMOOTH * _width(phi)
    if not math.isfinite(spacing):
        return spacing
    for _ in range(_MOST_TRIED):
        half = 0.5 * _ALIASED * spacing
        if half < _FINEST:
            break
        x = half * np.arange(-math.ceil(30.0 / half), math.ceil(30.0 / half) + 1)
        near = np.arange(-54, 55)  # nine widths
        gauss = np.where(near % 2, -1.0, 1.0) * np.exp(-0.5 * (near / 6.0) ** 2) / (6.0 * math.sqrt(2.0 * math.pi))
        if np.abs(np.convolve(phi(x), gauss, "valid")).max() <= _ALIAS * (phi.supremum - phi.infimum):
            break
        spacing *= 0.84
    return spacing


def noise_law(nodes: SiteNodes, h: FloatArray, d: float) -> FloatArray | None:
    """The law of z given h (n_z, n_h), which all b share; None over intervals, where it is not a matter of nodes, and
    where h are so far apart that groups of them have nodes of their own."""
    if nodes.breaks is not None or _spread(nodes, h):
        return None
    spend(EXPONENTIAL * float(len(nodes.z)) * len(h))
    xi = (nodes.z[:, None] - h) / math.sqrt(d)
    return np.asarray(np.exp(-0.5 * xi * xi) * (nodes.weight / math.sqrt(2.0 * math.pi * d))[:, None])


def _factors(
    nodes: SiteNodes,
    b: FloatArray,
    h: FloatArray,
    d: float,
    delta: float,
    highest: int = 0,
    known: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray, list[FloatArray]]:
    """What the integral over z consists of: ln of a scale (n_b, 1), the tilt (n_b, n_z), and the law of xi times its
    powers up to `highest`, each (n_z, n_h). `known`: `noise_law`."""
    spend(float(len(nodes.z)) * (EXPONENTIAL * (len(b) + len(h)) + len(h) * len(b)))
    if nodes.breaks is None:
        first = noise_law(nodes, h, d) if known is None else known
        assert first is not None
        law = [first]
        if highest > 0:
            xi = (nodes.z[:, None] - h) / math.sqrt(d)
            for _ in range(highest):
                law.append(law[-1] * xi)
    else:
        law = _interval_moments((nodes.breaks[:, None] - h) / math.sqrt(d), highest)
    exponent = b[:, None] * nodes.phi + 0.5 * delta * nodes.phi**2
    top = exponent.max(axis=1, keepdims=True)
    return top, np.exp(exponent - top), law


def _interval_moments(ends: FloatArray, highest: int) -> list[FloatArray]:
    """Moments 0 ... `highest` of a standard normal variable over the intervals that ends (k, n) make, each (k + 1, n).

    M_j = (j - 1) M_{j-2} + a^{j-1} N(a) - b^{j-1} N(b) over a ... b, from the half-line where they are smaller.
    """
    density = np.exp(-0.5 * ends * ends) / math.sqrt(2.0 * math.pi)
    above, below = [ndtr(-ends)], [ndtr(ends)]
    for j in range(1, highest + 1):
        edge = ends ** (j - 1) * density
        for half, sign in ((above, 1.0), (below, -1.0)):
            half.append(sign * edge + ((j - 1) * half[j - 2] if j > 1 else 0.0))
    found = []
    for up, down in zip(above, below):
        between = np.where(ends[:-1] > 0.0, up[:-1] - up[1:], down[1:] - down[:-1])
        found.append(np.concatenate([down[:1], between, up[-1:]]))
    return found


def _spread(nodes: SiteNodes, h: FloatArray) -> bool:
    return float(np.ptp(h)) > _WINDOWS * nodes.reach


def _windows(nodes: SiteNodes, h: FloatArray) -> Iterator[tuple[IntArray | slice, SiteNodes]]:
    """Groups of h (n_h,), and the nodes that have weight at any of a group: few of all where there is little noise."""
    if not _spread(nodes, h):
        yield slice(None), nodes
        return
    order = np.argsort(h, kind="stable")
    ordered = h[order]
    first = 0
    while first < len(h):
        last = int(np.searchsorted(ordered, ordered[first] + nodes.reach, side="right"))
        low, high = np.searchsorted(nodes.z, [ordered[first] - nodes.reach, ordered[last - 1] + nodes.reach])
        inside = slice(int(low), int(high))
        yield order[first:last], SiteNodes(nodes.z[inside], nodes.weight[inside], nodes.phi[inside])
        first = last


def site_values(
    nodes: SiteNodes, b: FloatArray, h: FloatArray, d: float, delta: float, law_of_noise: FloatArray | None = None
) -> FloatArray:
    """g (n_b, n_h) at all pairs of b and h, for a `noise_law` if it is known."""
    g = np.empty((len(b), len(h)))
    for at, inside in _windows(nodes, h):
        top, tilt, law = _factors(inside, b, h[at], d, delta, 0, law_of_noise)
        g[:, at] = top + np.log(np.maximum(tilt @ law[0], _TINY))
    return g


def site_derivatives(
    nodes: SiteNodes,
    b: FloatArray,
    h: FloatArray,
    d: float,
    delta: float,
    highest: int = 4,
    law_of_noise: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """g (n_b, n_h) and its derivatives (orders, n_b, n_h), in the order of ORDERS, at all pairs of b and h, for a
    `noise_law` if it is known.

    Derivatives of a higher total order than `highest` are not meaningful.
    """
    g, found = np.empty((len(b), len(h))), np.empty((len(ORDERS), len(b), len(h)))
    for at, inside in _windows(nodes, h):
        g[:, at], found[:, :, at] = _derivatives(inside, b, h[at], d, delta, highest, law_of_noise)
    return g, found


def _derivatives(
    nodes: SiteNodes,
    b: FloatArray,
    h: FloatArray,
    d: float,
    delta: float,
    highest: int,
    law_of_noise: FloatArray | None,
) -> tuple[FloatArray, FloatArray]:
    """The same with all nodes at all h."""
    most = min(highest, max(max(order) for order in MOMENTS))
    top, tilt, law = _factors(nodes, b, h, d, delta, most, law_of_noise)
    middle = 0.5 * (nodes.phi.max() + nodes.phi.min())
    phi = nodes.phi - middle
    by_phi = np.empty((most + 1, *tilt.shape))
    by_phi[0] = tilt
    for i in range(most):
        np.multiply(by_phi[i], phi, out=by_phi[i + 1])
    size = len(b) * len(h)
    each = PRODUCT * len(MOMENTS) * len(nodes.z)
    spend((each if nodes.breaks is None else each + _DERIVED) * float(size))
    moments = np.zeros((len(MOMENTS), len(b), len(h)))
    total = np.empty(0)
    for j in range(most + 1):  # all powers of phi at once
        rows = [(row, i) for row, (i, other) in enumerate(MOMENTS) if other == j and i + j <= highest]
        count = 1 + max((i for _, i in rows), default=0)
        means = (by_phi[:count].reshape(-1, tilt.shape[1]) @ law[j]).reshape(count, *moments.shape[1:])
        total = np.maximum(means[0], _TINY) if j == 0 else total
        for row, i in rows:
            np.divide(means[i], total, out=moments[row])
    found = np.empty((len(ORDERS), size))
    derivatives(moments.reshape(len(MOMENTS), size), math.sqrt(d), found)
    found[ORDERS.index((1, 0))] += middle
    return top + np.log(total), found.reshape(len(ORDERS), len(b), len(h))


def site_table(nodes: SiteNodes, b: FloatArray, h: FloatArray, d: float, delta: float) -> Site:
    """g, g_b, g_bb, g_h, g_hh at all pairs of b (n_b,) and h (n_h,)."""
    g, found = site_derivatives(nodes, b, h, d, delta, 2)
    return Site(g, *(found[ORDERS.index(order)] for order in ((1, 0), (2, 0), (0, 1), (0, 2))))
