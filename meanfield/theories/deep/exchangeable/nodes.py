"""Nodes of a layer of exchangeable classes: b of one class, its h, and the field alpha that classes share.

All are on uniform lattices whose errors are known by Poisson summation, as weights are mixtures of Gaussians in all of
them (THEORY.md, "Exchangeable classes").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.deep.compiled.generated.site import ORDERS
from meanfield.theories.deep.exchangeable.sectors import Contour, Parts, Pushed, Sector, sectors_of
from meanfield.theories.deep.exchangeable.sums import halves, power, product, through
from meanfield.theories.deep.layers.class_tables import PowersOfSums, class_columns
from meanfield.theories.deep.layers.maxima import Maxima
from meanfield.theories.deep.layers.rules import NotCovered, Rule, Setting, above, activation_range, threshold
from meanfield.theories.deep.layers.site import SiteNodes, site_derivatives, site_rule, site_values
from meanfield.theories.deep.layers.work import spend
from meanfield.validation import FloatArray, IntArray

__all__ = ["ExchangeNodes", "Lattice", "Numbers", "OrbitMaxima", "nodes_of"]

_MARGIN, _EDGE = 12.0, 4.0  # nats below the depth of the rule where lattices end at first, and of what is kept
_NEGLIGIBLE = 40.0  # nats, of values of h
_VANISHES = 1e-10  # of lambda in units of kappa: S = 0
_MOST_NODES, _MOST_FIELDS = 4000, 6000
_MOST_GRID, _MOST_PAIRS = 8_000_000, 800_000  # pairs of b and h, and of those that have weight
_PER_COLUMN = 4.0  # multiplications
_STEEPEST = 1500.0
_FAR = 1e6  # nats below everything
_WAVES = 100.0  # sum of sizes in units of the sum, of an imaginary shared field, beyond which sectors are summed
_NARROW, _HERMITE = 0.25, 16  # D in units of d / n below which it has Hermite nodes, and how many
_EXTENSIONS, _HIGHEST = 40, 690.0
_AROUND, _FARTHER = 4.0, 3.0  # of alpha, beyond maxima at first, and at a time
_PLAIN = np.zeros((1, 3), dtype=np.int64)  # products of 1
_FIRST = np.zeros(1, dtype=np.int64)


class Numbers(NamedTuple):
    """What a layer of exchangeable classes is given: k~ = kappa + omega 11^T, covariance of h = wide + common 11^T."""

    classes: int
    n: float
    kappa: float
    omega: float
    wide: float
    common: float
    d: float
    delta: float

    @property
    def shared(self) -> float:
        """lambda: the eigenvalue of k~ along what classes share."""
        return max(self.kappa + self.classes * self.omega, 0.0)

    @property
    def gamma(self) -> float:
        """Precision of S beyond that of independent classes; infinite where S = 0."""
        if self.shared <= _VANISHES * self.kappa:
            return math.inf
        return (1.0 / self.shared - 1.0 / self.kappa) / self.classes

    @property
    def fields(self) -> bool:
        return self.wide > 0.0 or self.common != 0.0

    def log_prior(self, b: FloatArray, step: float) -> FloatArray:
        """ln of the weight of nodes in b, so far apart, under N(0, kappa)."""
        return np.asarray(-0.5 * b**2 / self.kappa + math.log(step) - 0.5 * math.log(2.0 * math.pi * self.kappa))


class Lattice(NamedTuple):
    """b (B,) and its step, h (H,) and how far nodes of it are apart for different alpha; alpha (A,), its step, and for
    each of them which h and ln of their weights."""

    b: FloatArray
    step: float
    h: FloatArray
    cell: float
    alpha: FloatArray
    alpha_step: float
    law: Callable[[int], tuple[slice, FloatArray]]


@dataclass(eq=False)
class ExchangeNodes:
    """The nodes of one setting: lattices, which b have weight (R,), g (R, H) there, and for every alpha the tilt theta
    (A,) of S.

    The weight of a class is taken times exp(-theta b), and what comes with S times exp(theta S). Where a shared
    imaginary field cancels, `sectors` are what is summed, one after the other; `sector`: the nodes are those of one.
    """

    phi: Activation
    rule: Rule
    numbers: Numbers
    lattice: Lattice
    rows: IntArray
    g: FloatArray
    theta: FloatArray
    on: FloatArray | None = None  # (R, H) which part of every cell is active, of sectors
    sectors: tuple[Sector, ...] = ()
    sector: Sector | None = None

    @property
    def count(self) -> int:
        """Classes."""
        return self.numbers.classes

    @property
    def b(self) -> FloatArray:
        """(R,)."""
        return np.asarray(self.lattice.b[self.rows])

    def spread(self, value: FloatArray) -> FloatArray:
        """(..., R, k) at the b that have weight, on all (..., B, k)."""
        found = np.zeros((*value.shape[:-2], len(self.lattice.b), value.shape[-1]), dtype=value.dtype)
        found[..., self.rows, :] = value
        return found

    def means(self) -> tuple[FloatArray, FloatArray]:
        """(R, H) mean of phi at b and h, and which part of their cells has it above its midpoint: those neurons are
        active on a class."""
        s, lattice, axes = self.numbers, self.lattice, ((1, 0), (2, 0), (1, 1))
        found = site_derivatives(self.sites(), self.b, lattice.h, s.d, s.delta, 2)[1]
        mean, by_b, by_h = (found[ORDERS.index(axis)] for axis in axes)
        sides = np.abs([by_b * lattice.step, by_h * lattice.cell])
        return mean, above(mean - threshold(self.phi), sides.min(axis=0), sides.max(axis=0))

    def apart(self) -> Iterator[ExchangeNodes]:
        """What is summed: these nodes, or those of every sector on its own contour."""
        if not self.sectors:
            yield self
            return
        pushed = _pushed(self.numbers, self.lattice)
        for sector in self.sectors:
            lattice = _along(self.lattice, pushed.contour(sector.y))
            theta = np.full(len(lattice.alpha), sector.theta)
            yield replace(self, lattice=lattice, theta=theta, sectors=(), sector=sector)

    def by_part(self, v: FloatArray) -> FloatArray:
        """Weights of one class as `law` has them, from those of its parts (parts, B)."""
        return v if self.sector is not None else v.sum(axis=0)[None]

    def weights(self, terms: FloatArray, share: FloatArray | None) -> tuple[FloatArray, float]:
        """Weights of one class (parts, R, h) from ln of them (R, h), in units of their own, and ln of these units times
        those of the other classes; two parts with the `share` (2, R, h) of inactive and active neurons."""
        active = 0 if self.sector is None else self.sector.active
        if share is None or self.sector is None:
            tops = [float(terms.real.max())]
            weight = np.exp(terms - tops[0])[None]
            found = weight if share is None else weight * share
        else:
            tops = [float(terms.real[part > 0.0].max(initial=-_FAR)) for part in share]
            found = np.stack([np.exp(np.where(part > 0.0, terms - top, 0.0)) * part for part, top in zip(share, tops)])
        return found, active * tops[-1] + (self.count - active) * tops[0]

    def prior(self) -> FloatArray:
        """(A,) ln of the weight of the nodes in alpha under their prior."""
        if not self.numbers.fields:
            return np.zeros(1)
        at = self.lattice.alpha
        found = -0.5 * at**2 + math.log(self.lattice.alpha_step) - 0.5 * math.log(2.0 * math.pi)
        # The sum at -alpha is the complex conjugate of that at alpha, where alpha is imaginary.
        return np.asarray(found + math.log(2.0) * (at > 0.0) if self.numbers.common < 0.0 else found)

    def terms(self) -> Iterator[tuple[slice, FloatArray]]:
        """For every alpha which h there are, and ln of the weight of one class (R, h)."""
        s, b = self.numbers, self.b
        own = s.log_prior(b, self.lattice.step)
        for i, theta in enumerate(self.theta):
            near, law = self.lattice.law(i)
            yield near, s.n * self.g[:, near] + law + (own - theta * b)[:, None]

    def law(self, i: int, one: FloatArray) -> tuple[float, FloatArray]:
        """What comes with the values of S at an alpha, in units of exp(ln of a scale), for classes of weights
        (1, B), or in a sector (2, B) of those that are inactive and active."""
        s, lattice = self.numbers, self.lattice
        sums = s.classes * lattice.b[0] + lattice.step * np.arange(s.classes * (len(lattice.b) - 1) + 1)
        if math.isinf(s.gamma):
            law = np.where(np.abs(sums) < 0.5 * lattice.step, math.sqrt(2.0 * math.pi * s.classes * s.kappa), 0.0)
            return 0.0, law / lattice.step
        law = self.theta[i] * sums - 0.5 * s.gamma * sums**2
        height = float(law.max())
        if s.gamma < 0.0:  # it grows towards ends that sums hardly reach
            with np.errstate(divide="ignore"):
                reached = np.log(np.abs(np.convolve(*(part[0, 0] for part in self.halves(one[:, None], _PLAIN)))))
            height = float((law + reached).max())
        return height + 0.5 * math.log(s.kappa / s.shared), np.exp(np.minimum(law - height, _HIGHEST))

    def halves(self, one: FloatArray, products: IntArray) -> tuple[FloatArray, FloatArray]:
        """Products over either half of the classes, (parts, M, B) each, of polynomials (parts, M, B); in a sector of
        parts that are inactive and active (2, M, B), of which the active ones come first."""
        first, second = halves(self.count)
        if self.sector is None:
            return power(one, first, products), power(one, second, products)
        active = self.sector.active
        here, there = min(active, first), max(active - first, 0)
        return (
            product(one[:1], one[1:], first - here, here, products),
            product(one[:1], one[1:], second - there, there, products),
        )

    def others(self, i: int, one: FloatArray, powers: FloatArray) -> tuple[float, FloatArray]:
        """What the other classes make of b of one, by how many of them are in the second part (parts, B), in units of
        exp(ln of a scale): `one` weights (parts, B) as `law` has them, `powers` those of C - 1 classes."""
        height, law = self.law(i, one)
        return height, through(law, powers, one[:1, None], _FIRST)[:, 0]

    def by_alpha(self, log_v: FloatArray) -> tuple[FloatArray, FloatArray, float]:
        """ln of the size of the weight of every alpha (A,), and of the part of it that has each b of one class (A, B),
        from ln of the weight of one class (A, B); and the sum of sizes in units of the sum."""
        tilted = log_v - self.theta[:, None] * self.lattice.b
        top = tilted.real.max(axis=1)
        found, part, waves = np.empty(len(tilted)), np.empty(tilted.shape), np.empty(len(tilted), dtype=complex)
        with np.errstate(divide="ignore"):
            for i, prior in enumerate(self.prior()):
                values = np.exp(tilted[i] - top[i])
                height, rest = self.others(i, values[None], power(values[None, None], self.count - 1, _PLAIN))
                of_b, scale = rest[0] * values, prior + height + self.count * top[i]
                found[i], part[i] = scale + np.log(abs(of_b.sum())), scale + np.log(np.abs(of_b))
                waves[i] = np.exp(1j * np.angle(of_b.sum()))
        sizes = np.exp(found - found.max())
        total = float((sizes * waves).sum().real)
        return found, part, float(sizes.sum()) / total if total > 0.0 else math.inf

    def sites(self) -> SiteNodes:
        """Nodes of the integral over z."""
        return _sites(self.phi, self.rule, self.numbers, self.lattice)

    def columns(self, highest: int, sums: PowersOfSums = ()) -> FloatArray:
        """(R, H, columns) functions of one class (`class_columns`), with derivatives of g up to a total order."""
        s, b, h = self.numbers, self.b, self.lattice.h
        if len(b) * len(h) > _MOST_PAIRS:
            raise NotCovered("the fields of a layer need too many lattice nodes")
        spend(_PER_COLUMN * len(b) * len(h) * len(ORDERS))
        _, derived = site_derivatives(self.sites(), b, h, s.d, s.delta, highest)
        flat = derived.reshape(len(ORDERS), -1)
        every_h = np.broadcast_to(h, (len(b), len(h))).ravel()
        return class_columns(flat, dict(zip(ORDERS, flat)), every_h, s.n, False, sums).reshape(len(b), len(h), -1)


class OrbitMaxima(Maxima):
    """Maxima of the weight up to permutations of all classes: starts are those that are active on the last k."""

    def _starts(self, setting: Setting, b_cov: FloatArray) -> tuple[FloatArray, FloatArray]:
        count = len(self.n)
        low, high = activation_range(self.phi)
        patterns = np.where(np.arange(count) >= count - np.arange(count + 1)[:, None], high, low)
        return self._from_patterns(setting, b_cov, patterns)


def numbers_of(n: FloatArray, setting: Setting) -> Numbers:
    """What the classes are given, each number the mean of the entries that are equal.

    Raises
    ------
    NotCovered
        If it is no layer of a solution.
    """
    count, pairs = len(n), []
    for matrix in (setting.root @ setting.root.T, setting.covariance):
        own = float(np.trace(matrix)) / count
        other = (float(matrix.sum()) - count * own) / (count * (count - 1))
        pairs += [own - other, other]
    kappa, omega, wide, common = pairs
    if not kappa > 0.0:
        raise NotCovered("the conjugates of a layer are the same for all classes")
    if not setting.d[0] > 0.0:
        raise NotCovered("the noise of a layer vanishes on the way to a solution")
    return Numbers(
        count, float(n[0]), kappa, omega, max(wide, 0.0), common, float(setting.d[0]), float(setting.delta[0])
    )


def nodes_of(phi: Activation, n: FloatArray, rule: Rule, maxima: Maxima, setting: Setting) -> ExchangeNodes:
    """Lattices around what was found to have weight, extended until their ends have none.

    Raises
    ------
    NotCovered
        If there would be too many nodes.
    """
    s = numbers_of(n, setting)
    b, h = maxima.find(setting, rule.depth, True)
    pad = math.sqrt(2.0 * (rule.depth + _MARGIN) * max(s.kappa, s.shared))
    low, high = float(b.min()) - pad, float(b.max()) + pad
    first, last, push, far = 0.0, 0.0, 0.0, float(np.abs(h).max())
    if s.fields:
        centre = np.zeros(1)
        if s.common > 0.0:
            centre = math.sqrt(s.common) * h.sum(axis=1) / (s.wide + s.classes * s.common)
        first, last = float(centre.min()) - _AROUND, float(centre.max()) + _AROUND
        away = h - math.sqrt(max(s.common, 0.0)) * centre[:, None]
        push = 1.5 * float(np.abs(away).max()) / s.wide if s.wide > 0.0 else 0.0
    cut = rule.depth + _EDGE
    for _ in range(_EXTENSIONS):
        lattice = _lattice(phi, rule, s, (low, high), (first, last), push, far)
        g = site_values(_sites(phi, rule, s, lattice), lattice.b, lattice.h, s.d, s.delta)
        log_v, above = _log_v(s, lattice, g)
        known = log_v if s.common >= 0.0 else log_v[[int(np.argmin(np.abs(lattice.alpha)))]]
        theta = np.broadcast_to(_tilts(phi, s, lattice.b, known), len(log_v))
        nodes = ExchangeNodes(phi, rule, s, lattice, np.arange(len(lattice.b)), g, theta)
        total, part, cancelled = nodes.by_alpha(log_v)
        heavy, rows = total > total.max() - cut, (part > total.max() - cut).any(axis=0)
        if cancelled > _WAVES:
            on = nodes.means()[1]
            sectors, of_b, of_alpha, above = sectors_of(_parts(s, lattice, g, on), lattice.alpha, cut)
            nodes = replace(nodes, on=on, sectors=sectors)
            heavy, rows = of_alpha > -cut, of_b > -cut
        if not rows.any():
            raise NotCovered("the weight of a layer is no number at any of its nodes")
        ends = (rows[0], rows[-1], s.common > 0.0 and heavy[0], s.common != 0.0 and heavy[-1], above < _NEGLIGIBLE)
        if not any(ends):
            at = np.flatnonzero(rows)
            kept = slice(int(at[0]), int(at[-1]) + 1)
            columns = np.flatnonzero(heavy)
            lattice = _kept(lattice, kept, columns)
            return replace(
                nodes, lattice=lattice, rows=at - at[0], g=g[at], theta=theta[columns],
                on=None if nodes.on is None else nodes.on[at],
            )  # fmt: skip
        low, high = low - pad * ends[0], high + pad * ends[1]
        first, last = first - _FARTHER * ends[2], last + _FARTHER * ends[3]
        if ends[4]:
            push = 1.5 * push + 3.0 / math.sqrt(s.wide)
    raise NotCovered("the fields of a layer reach too far for the quadrature")


def _parts(s: Numbers, lattice: Lattice, g: FloatArray, on: FloatArray) -> Parts:
    """What sectors are found from, with g (B, H) and which part of every cell is active."""
    value = s.n * g + s.log_prior(lattice.b, lattice.step)[:, None]
    return Parts(value, on, lattice.b, lattice.step, _pushed(s, lattice), s.gamma)


def _pushed(s: Numbers, lattice: Lattice) -> Pushed:
    """The fields of one class, where an imaginary field is shared."""
    constant = math.log(lattice.cell) - 0.5 * math.log(2.0 * math.pi * s.wide)
    return Pushed(lattice.h, s.wide, math.sqrt(-s.common), constant, s.classes)


def _along(lattice: Lattice, contour: Contour) -> Lattice:
    """The lattice with the weights of h on a contour."""
    whole, alpha = slice(0, len(lattice.h)), lattice.alpha
    return lattice._replace(law=lambda i: (whole, contour.at(alpha[i])))


def _sites(phi: Activation, rule: Rule, s: Numbers, lattice: Lattice) -> SiteNodes:
    """Nodes of the integral over z."""
    ends = float(np.abs(lattice.b).max())
    return site_rule(phi, s.d, float(lattice.h.min()), float(lattice.h.max()), rule.z, ends)


def _steps(s: Numbers, rule: Rule, far: float) -> tuple[float, float, float]:
    """Spacings of b, h and alpha that resolve the Gaussians of which the weight is a mixture.

    An imaginary alpha is the Fourier variable of sum_c h_c, whose period has to be beyond what that can be; `far`:
    largest h at a maximum.
    """
    ones = np.arange(1, s.classes + 1)
    if math.isinf(s.gamma):
        ones = ones[:-1]
    least = float((ones * s.kappa + ones**2 * s.omega).min())  # sum of so many b
    least = min(least, 2.0 * s.kappa)
    if not s.fields:
        return rule.beta * math.sqrt(least), 1.0, 1.0
    stiff = s.n / s.d
    of_h = rule.beta / math.sqrt(1.0 / s.wide + stiff) if s.wide > 0.0 else 1.0
    if s.common >= 0.0:
        of_alpha = rule.alpha / math.sqrt(1.0 + s.classes * s.common / (s.wide + 1.0 / stiff))
    else:
        reach = math.sqrt(2.0 * rule.depth)
        unit = s.wide / math.sqrt(-s.common)
        period = s.classes * far + reach * (math.sqrt(s.classes * s.wide) + unit)
        of_alpha = min(rule.alpha, 2.0 * math.pi * unit / period)
    return rule.beta * math.sqrt(least), of_h, of_alpha


def _lattice(
    phi: Activation, rule: Rule, s: Numbers, b: tuple[float, float], alpha: tuple[float, float], push: float, far: float
) -> Lattice:
    """Nodes between these ends; h stays within wide * push of the shared field."""
    of_b, of_h, of_alpha = _steps(s, rule, far)
    offset = 0.0 if math.isinf(s.gamma) else rule.offset
    index = np.arange(math.floor(b[0] / of_b), math.ceil(b[1] / of_b) + 1)
    if len(index) > _MOST_NODES:
        raise NotCovered(f"a layer needs more than {_MOST_NODES} lattice nodes in its conjugate field")
    if max(abs(index[0]), abs(index[-1])) * of_b * float(np.ptp(activation_range(phi))) > _STEEPEST:
        raise NotCovered("the conjugate fields of a layer are too strong for the quadrature")
    nodes = of_b * np.asarray(index + offset, dtype=float)
    if not s.fields:
        none = np.zeros(1)
        return Lattice(nodes, of_b, none, 0.0, none, 1.0, lambda i: (slice(0, 1), none))
    real = s.common >= 0.0
    if real:
        lowest, offset = math.floor(alpha[0] / of_alpha), rule.offset
    else:
        lowest, offset = 0, 0.5 * (rule.offset > 0.0)
    at = of_alpha * np.asarray(np.arange(lowest, math.ceil(alpha[1] / of_alpha) + 1) + offset, dtype=float)
    shift = math.sqrt(abs(s.common)) * at
    if real and s.wide < _NARROW * s.d / s.n:
        x, weight = np.polynomial.hermite_e.hermegauss(_HERMITE if s.wide > 0.0 else 1)
        h: FloatArray = (shift[:, None] + math.sqrt(s.wide) * x).ravel()
        own = np.log(weight / weight.sum())
        cell = math.sqrt(s.common) * of_alpha
        return Lattice(nodes, of_b, h, cell, at, of_alpha, lambda i: (slice(i * len(x), (i + 1) * len(x)), own))
    span = math.sqrt(s.wide) * math.sqrt(2.0 * (rule.depth + _MARGIN)) + s.wide * push
    low, high = (float(shift.min()), float(shift.max())) if real else (0.0, 0.0)
    h = np.asarray(
        of_h * (np.arange(math.floor((low - span) / of_h), math.ceil((high + span) / of_h) + 1) + rule.offset)
    )
    if len(h) > _MOST_FIELDS or len(h) * len(nodes) > _MOST_GRID:
        raise NotCovered("the fields of a layer need too many lattice nodes")
    constant = math.log(of_h) - 0.5 * math.log(2.0 * math.pi * s.wide)

    def law(i: int) -> tuple[slice, FloatArray]:
        if not real:
            return slice(0, len(h)), constant - 0.5 * (h - 1j * shift[i]) ** 2 / s.wide
        near = slice(*np.searchsorted(h, [shift[i] - span, shift[i] + span]))
        return near, constant - 0.5 * (h[near] - shift[i]) ** 2 / s.wide

    return Lattice(nodes, of_b, h, of_h, at, of_alpha, law)


def _log_v(s: Numbers, lattice: Lattice, g: FloatArray) -> tuple[FloatArray, float]:
    """(A, B) ln of the class function, and how far above the ends of the lattice in h its terms are, in nats."""
    prior = s.log_prior(lattice.b, lattice.step)
    if s.common < 0.0:
        return _log_waves(s, lattice, g, prior)
    found, above = np.empty((len(lattice.alpha), len(lattice.b))), math.inf
    spend(400.0 * found.size)
    for i in range(len(found)):
        near, law = lattice.law(i)
        terms = s.n * g[:, near] + law
        top = terms.max(axis=1)
        found[i] = top + np.log(np.exp(terms - top[:, None]).sum(axis=1)) + prior
        if terms.shape[1] > _HERMITE:
            above = min(above, float((top - np.maximum(terms[:, 0], terms[:, -1])).min()))
    return found, above


def _log_waves(s: Numbers, lattice: Lattice, g: FloatArray, prior: FloatArray) -> tuple[FloatArray, float]:
    """The same where alpha is imaginary: one wave in h for each, times the same weights."""
    contour = _pushed(s, lattice).contour(0.0)
    spend(2.0 * g.size * len(lattice.alpha))
    terms = s.n * g + contour.height
    top = terms.max(axis=1)
    waves = np.exp(1j * np.outer(lattice.alpha, contour.phase))
    total = waves @ np.exp(terms - top[:, None]).T
    found = top + np.log(total) + prior + contour.growth * lattice.alpha[:, None] ** 2
    return found, float((top - np.maximum(terms[:, 0], terms[:, -1])).min())


def _tilts(phi: Activation, s: Numbers, b: FloatArray, log_v: FloatArray) -> FloatArray:
    """(A,) theta: exp(theta S) is taken out of the weight of S, so that what is left has its mean where
    exp(theta S - gamma S^2 / 2) is stationary, theta = gamma S."""
    value = np.real(log_v)
    if s.gamma <= 0.0:  # at the maximum of a bound
        best = b[np.argmax(value + 0.5 * b**2 * (1.0 / s.kappa - 1.0 / s.shared), axis=1)]
        return np.asarray(s.gamma * s.classes * best)
    low = np.full(len(value), -1.0) * (
        np.abs(b).max() / s.kappa + s.n * max(abs(end) for end in activation_range(phi)) + 1.0
    )
    high = -low
    for _ in range(60):
        theta = 0.5 * (low + high)
        tilted = value - theta[:, None] * b
        weight = np.exp(tilted - tilted.max(axis=1, keepdims=True))
        mean = (weight @ b) / weight.sum(axis=1)
        above = s.classes * mean > (0.0 if math.isinf(s.gamma) else theta / s.gamma)
        low, high = np.where(above, theta, low), np.where(above, high, theta)
    return 0.5 * (low + high)


def _kept(lattice: Lattice, rows: slice, columns: IntArray) -> Lattice:
    law = lattice.law
    return lattice._replace(b=lattice.b[rows], alpha=lattice.alpha[columns], law=lambda i: law(int(columns[i])))
