"""Averages of a layer whose classes are exchangeable: of equal size, with k~ and the covariance of h of two numbers each.

With k~ = kappa 1 + omega 11^T and sigma^2 Kbar = D 1 + u 11^T

    N(b) ~ exp(-gamma S^2 / 2) prod_c exp(-b_c^2 / 2 kappa),   S = sum_c b_c,   gamma = (1 / lambda - 1 / kappa) / C,

lambda = kappa + C omega what classes share, and h_c = u^(1/2) alpha + D^(1/2) eta_c: given alpha ~ N(0, 1) and S the
classes are independent, each one the same function of its own b, with its own h summed over. Their sum S is distributed
as a C-fold convolution of that function, of positive numbers, whatever the sign of omega (THEORY.md, "Exchangeable
classes"). Derivatives go through convolutions as coefficients of polynomials (`theories/deep/monomials.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy.linalg import block_diag

from meanfield.activations.activation import Activation
from meanfield.theories.deep.class_tables import MEANS, class_columns
from meanfield.theories.deep.compiled.convolutions import convolved
from meanfield.theories.deep.compiled.generated.site import KEYS, ORDERS
from meanfield.theories.deep.maxima import Maxima
from meanfield.theories.deep.monomials import (
    OPERATORS,
    Algebra,
    averages_algebra,
    class_coefficients,
    curvature_algebra,
    word_algebra,
)
from meanfield.theories.deep.products import pairs_of
from meanfield.theories.deep.rules import Averages, Detail, NotCovered, Rule, Setting, activation_range
from meanfield.theories.deep.site import site_derivatives, site_rule, site_values
from meanfield.theories.deep.work import spend
from meanfield.validation import FloatArray, IntArray

__all__ = ["ExchangeLayer", "Numbers"]

_MARGIN, _EDGE = 12.0, 4.0  # nats below the depth of the rule where lattices end at first, and of what is kept
_NEGLIGIBLE = 40.0  # nats, of values of h
_VANISHES = 1e-10  # of lambda in units of kappa: S = 0
_MOST_NODES, _MOST_FIELDS, _MOST_PAIRS = 4000, 6000, 1_500_000
_STEEPEST = 1500.0
_NARROW, _HERMITE = 0.25, 16  # D in units of d / n below which it has Hermite nodes, and how many
_CANCELLED = 1e5  # sum of sizes in units of the sum, of an imaginary shared field
_EXTENSIONS, _HIGHEST = 40, 690.0
_PLAIN = np.zeros((1, 3), dtype=np.int64)  # products of 1


class Numbers(NamedTuple):
    """What a layer of exchangeable classes is given: k~ = kappa + omega 11^T, covariance of h = wide + common 11^T."""

    count: int
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
        return max(self.kappa + self.count * self.omega, 0.0)

    @property
    def gamma(self) -> float:
        """Precision of S beyond that of independent classes; infinite where S = 0."""
        if self.shared <= _VANISHES * self.kappa:
            return math.inf
        return (1.0 / self.shared - 1.0 / self.kappa) / self.count

    @property
    def fields(self) -> bool:
        return self.wide > 0.0 or self.common != 0.0


class Orbit(NamedTuple):
    """Neurons that are active on so many classes, whichever: their share, and of an inactive and an active class the mean
    (2,) of b, b^2, phi and phi^2 of a sample, and of two classes that of b b' (2, 2)."""

    active: int
    share: float
    field: FloatArray
    square: FloatArray
    product: FloatArray
    activation: FloatArray
    activation_square: FloatArray


class _Lattice(NamedTuple):
    """b (B,), h (H,) and their steps; alpha (A,), its step, and for each of them which h and ln of their weights."""

    b: FloatArray
    step: float
    h: FloatArray
    alpha: FloatArray
    alpha_step: float
    law: Callable[[int], tuple[slice, FloatArray]]


@dataclass(eq=False)
class ExchangeLayer:
    """One layer of C exchangeable classes, as `Layer` has it for few classes of any kind."""

    phi: Activation
    n: FloatArray
    rule: Rule
    last: bool = False
    turns: FloatArray = field(default_factory=lambda: np.empty((0, 0, 0)))

    def __post_init__(self) -> None:
        self.maxima = OrbitMaxima(self.phi, self.n)
        self.reach: tuple[float, float] | None = None

    # ---- the setting -----------------------------------------------------------------------------

    def numbers(self, setting: Setting) -> Numbers:
        """What the classes are given, each number the mean of the entries that are equal."""
        count = len(self.n)
        tilde = setting.root @ setting.root.T
        pairs = []
        for matrix in (tilde, setting.covariance):
            own = float(np.trace(matrix)) / count
            other = (float(matrix.sum()) - count * own) / (count * (count - 1))
            pairs += [own - other, other]
        kappa, omega, wide, common = pairs
        if not kappa > 0.0:
            raise NotCovered("conjugates of a layer are the same for all classes")
        if common == 0.0 and wide <= 0.0:
            wide = common = 0.0
        return Numbers(
            count, float(self.n[0]), kappa, omega, max(wide, 0.0), common, float(setting.d[0]), float(setting.delta[0])
        )

    def as_fine(self, other: ExchangeLayer) -> None:
        """Lattices are found anew by every rule."""

    # ---- lattices --------------------------------------------------------------------------------

    def _steps(self, s: Numbers, far: float) -> tuple[float, float, float]:
        """Spacings of b, h and alpha that resolve the Gaussians of which the weight is a mixture.

        An imaginary alpha is the Fourier variable of sum_c h_c, whose period has to be beyond what that can be; `far`:
        largest h at a maximum.
        """
        ones = np.arange(1, s.count + 1)
        if math.isinf(s.gamma):
            ones = ones[:-1]
        least = float((ones * s.kappa + ones**2 * s.omega).min())  # sum of so many b
        least = min(least, 2.0 * s.kappa)
        if not s.fields:
            return self.rule.beta * math.sqrt(least), 1.0, 1.0
        stiff = s.n / s.d
        of_h = self.rule.beta / math.sqrt(1.0 / s.wide + stiff) if s.wide > 0.0 else 1.0
        if s.common >= 0.0:
            of_alpha = self.rule.alpha / math.sqrt(1.0 + s.count * s.common / (s.wide + 1.0 / stiff))
        else:
            reach = math.sqrt(2.0 * self.rule.depth)
            unit = s.wide / math.sqrt(-s.common)
            period = s.count * far + reach * (math.sqrt(s.count * s.wide) + unit)
            of_alpha = min(self.rule.alpha, 2.0 * math.pi * unit / period)
        return self.rule.beta * math.sqrt(least), of_h, of_alpha

    def _lattice(self, s: Numbers, b: tuple[float, float], alpha: tuple[float, float], push: float, far: float) -> _Lattice:
        """Nodes between these ends; h stays within wide * push of the shared field."""
        of_b, of_h, of_alpha = self._steps(s, far)
        offset = 0.0 if math.isinf(s.gamma) else self.rule.offset
        index = np.arange(math.floor(b[0] / of_b), math.ceil(b[1] / of_b) + 1)
        if len(index) > _MOST_NODES:
            raise NotCovered(f"a layer needs more than {_MOST_NODES} lattice nodes in its conjugate field")
        if max(abs(index[0]), abs(index[-1])) * of_b * float(np.ptp(activation_range(self.phi))) > _STEEPEST:
            raise NotCovered("the conjugate fields of a layer are too strong for the quadrature")
        nodes = of_b * (index + offset)
        if not s.fields:
            none = np.zeros(1)
            return _Lattice(nodes, of_b, none, none, 1.0, lambda i: (slice(0, 1), none))
        at = of_alpha * (np.arange(math.floor(alpha[0] / of_alpha), math.ceil(alpha[1] / of_alpha) + 1) + self.rule.offset)
        shift = math.sqrt(abs(s.common)) * at
        if s.common >= 0.0 and s.wide < _NARROW * s.d / s.n:
            x, weight = np.polynomial.hermite_e.hermegauss(_HERMITE if s.wide > 0.0 else 1)
            h = (shift[:, None] + math.sqrt(s.wide) * x).ravel()
            own = np.log(weight / weight.sum())
            return _Lattice(nodes, of_b, h, at, of_alpha, lambda i: (slice(i * len(x), (i + 1) * len(x)), own))
        span = math.sqrt(s.wide) * math.sqrt(2.0 * (self.rule.depth + _MARGIN)) + s.wide * push
        real = s.common >= 0.0
        low, high = (float(shift.min()), float(shift.max())) if real else (0.0, 0.0)
        h = of_h * (np.arange(math.floor((low - span) / of_h), math.ceil((high + span) / of_h) + 1) + self.rule.offset)
        if len(h) > _MOST_FIELDS or len(h) * len(nodes) > _MOST_PAIRS:
            raise NotCovered("the fields of a layer need too many lattice nodes")
        constant = math.log(of_h) - 0.5 * math.log(2.0 * math.pi * s.wide)

        def law(i: int) -> tuple[slice, FloatArray]:
            if not real:
                return slice(0, len(h)), constant - 0.5 * (h - 1j * shift[i]) ** 2 / s.wide
            near = slice(*np.searchsorted(h, [shift[i] - span, shift[i] + span]))
            return near, constant - 0.5 * (h[near] - shift[i]) ** 2 / s.wide

        return _Lattice(nodes, of_b, h, at, of_alpha, law)

    def _log_v(self, s: Numbers, lattice: _Lattice, g: FloatArray) -> tuple[FloatArray, float]:
        """(A, B) ln of the class function, and how far above the ends of the lattice in h its terms are, in nats."""
        found, above = np.empty((len(lattice.alpha), len(lattice.b)), dtype=self._kind(s)), math.inf
        prior = -0.5 * lattice.b**2 / s.kappa + math.log(lattice.step) - 0.5 * math.log(2.0 * math.pi * s.kappa)
        spend(10.0 * found.size * (len(lattice.h) if s.common < 0.0 else 40.0))
        for i in range(len(found)):
            near, law = lattice.law(i)
            terms = s.n * g[:, near] + law
            top = terms.real.max(axis=1)
            found[i] = top + np.log(np.exp(terms - top[:, None]).sum(axis=1)) + prior
            if terms.shape[1] > _HERMITE:
                above = min(above, float((top - np.maximum(terms[:, 0].real, terms[:, -1].real)).min()))
        return found, above

    @staticmethod
    def _kind(s: Numbers) -> type:
        return complex if s.common < 0.0 else float

    def _tilts(self, s: Numbers, b: FloatArray, log_v: FloatArray) -> FloatArray:
        """(A,) theta: exp(theta S) is taken out of the weight of S, so that what is left has its mean where
        exp(theta S - gamma S^2 / 2) is stationary, theta = gamma S."""
        value = np.real(log_v)
        if s.gamma <= 0.0:  # at the maximum of a bound
            best = b[np.argmax(value + 0.5 * b**2 * (1.0 / s.kappa - 1.0 / s.shared), axis=1)]
            return np.asarray(s.gamma * s.count * best)
        low = np.full(len(value), -1.0) * (np.abs(b).max() / s.kappa + s.n * self._largest() + 1.0)
        high = -low
        for _ in range(60):
            theta = 0.5 * (low + high)
            tilted = value - theta[:, None] * b
            weight = np.exp(tilted - tilted.max(axis=1, keepdims=True))
            mean = (weight @ b) / weight.sum(axis=1)
            above = s.count * mean > (0.0 if math.isinf(s.gamma) else theta / s.gamma)
            low, high = np.where(above, theta, low), np.where(above, high, theta)
        return 0.5 * (low + high)

    def _largest(self) -> float:
        low, high = activation_range(self.phi)
        return max(abs(low), abs(high))

    def _prepared(self, setting: Setting) -> tuple[Numbers, _Lattice, FloatArray, FloatArray]:
        """Numbers, the lattice, g (B, H) on it, and the tilts (A,)."""
        s = self.numbers(setting)
        if not s.d > 0.0:
            raise NotCovered("the noise of a layer vanishes on the way to a solution")
        b, h = self.maxima.find(setting, self.rule.depth, True)
        pad = math.sqrt(2.0 * (self.rule.depth + _MARGIN) * max(s.kappa, s.shared))
        of_b = [float(b.min()) - pad, float(b.max()) + pad]
        of_alpha, push = [0.0, 0.0], 0.0
        if s.fields:
            centre = np.zeros(1)
            if s.common > 0.0:
                centre = math.sqrt(s.common) * h.sum(axis=1) / (s.wide + s.count * s.common)
            of_alpha = [float(centre.min()) - 4.0, float(centre.max()) + 4.0]
            away = h - math.sqrt(max(s.common, 0.0)) * centre[:, None]
            push = 1.5 * float(np.abs(away).max()) / s.wide if s.wide > 0.0 else 0.0
        cut = self.rule.depth + _EDGE
        for _ in range(_EXTENSIONS):
            lattice = self._lattice(s, (of_b[0], of_b[1]), (of_alpha[0], of_alpha[1]), push, float(np.abs(h).max()))
            g = self._site(s, lattice)
            log_v, above = self._log_v(s, lattice, g)
            theta = self._tilts(s, lattice.b, log_v if s.common >= 0.0 else log_v[[len(log_v) // 2]])
            theta = np.broadcast_to(theta, len(log_v))
            total, part = self._by_alpha(s, lattice, theta, log_v)
            heavy = total > total.max() - cut
            rows = (part > total.max() - cut).any(axis=0)
            if not rows.any():
                raise NotCovered("the weight of a layer is no number at any of its nodes")
            grown = False
            if rows[0]:
                of_b[0], grown = of_b[0] - pad, True
            if rows[-1]:
                of_b[1], grown = of_b[1] + pad, True
            if s.common != 0.0 and heavy[0]:
                of_alpha[0], grown = of_alpha[0] - 3.0, True
            if s.common != 0.0 and heavy[-1]:
                of_alpha[1], grown = of_alpha[1] + 3.0, True
            if above < _NEGLIGIBLE:
                push, grown = 1.5 * push + 3.0 / math.sqrt(s.wide), True
            if not grown:
                break
        else:
            raise NotCovered("the fields of a layer reach too far for the quadrature")
        first, last = np.flatnonzero(rows)[[0, -1]]
        lattice = self._kept(lattice, slice(first, last + 1), np.flatnonzero(heavy))
        return s, lattice, g[first : last + 1], theta[heavy]

    @staticmethod
    def _kept(lattice: _Lattice, rows: slice, columns: IntArray) -> _Lattice:
        law = lattice.law
        return lattice._replace(b=lattice.b[rows], alpha=lattice.alpha[columns], law=lambda i: law(int(columns[i])))

    def _nodes(self, s: Numbers, lattice: _Lattice):  # noqa: ANN202
        ends = float(np.abs(lattice.b).max())
        return site_rule(self.phi, s.d, float(lattice.h.min()), float(lattice.h.max()), self.rule.z, ends)

    def _site(self, s: Numbers, lattice: _Lattice) -> FloatArray:
        return site_values(self._nodes(s, lattice), lattice.b, lattice.h, s.d, s.delta)

    def _columns(self, s: Numbers, lattice: _Lattice, highest: int) -> FloatArray:
        """(B, H, columns) functions of one class (`class_columns`), with derivatives of g up to a total order."""
        _, derived = site_derivatives(self._nodes(s, lattice), lattice.b, lattice.h, s.d, s.delta, highest)
        flat = derived.reshape(len(ORDERS), -1)
        shape = (len(lattice.b), len(lattice.h))
        every_h = np.broadcast_to(lattice.h, shape).ravel()
        return class_columns(flat, dict(zip(ORDERS, flat)), every_h, s.n, False).reshape(*shape, -1)

    # ---- averages --------------------------------------------------------------------------------

    def evaluate(
        self,
        setting: Setting,
        *,
        grow: bool = True,
        detail: bool = False,
        curvature: bool | str = False,
        samples: bool = False,
    ) -> tuple[Averages, Detail | None]:
        """Averages of a layer; `grow` has no meaning, as every setting has lattices of its own.

        Raises
        ------
        NotCovered
            If they would need too many nodes.
        """
        if samples or detail:
            raise NotCovered("nodes of a layer of exchangeable classes are not listed")
        s, lattice, g, theta = self._prepared(setting)
        algebra = (curvature_algebra if curvature else averages_algebra)(s.fields)
        coded = self.last and bool(curvature)
        factor, column = class_coefficients(algebra)
        columns = self._columns(s, lattice, 4 if curvature else 2)
        parts = self._parts(s, lattice, g, theta, columns, coded, len(KEYS) + list(MEANS).index("b"))
        top, totals = self._totals(s, lattice, theta, algebra, ((log, factor * v[..., column]) for log, v in parts))
        whole = self._averages(setting, s, algebra, top, totals.sum(axis=0), bool(curvature))
        if coded:
            words = ["1" * k + "0" * (s.count - k) for k in range(s.count + 1)]
            heavy = [(word, part) for word, part in zip(words, totals) if part[0] > 0.0]
            codes = {word: self._averages(setting, s, algebra, top, part, True) for word, part in heavy}
            whole = replace(whole, codes=codes)
        return whole, None

    def orbits(self, setting: Setting) -> list[Orbit]:
        """Neurons by how many classes they are active on."""
        s, lattice, g, theta = self._prepared(setting)
        algebra = word_algebra()
        names = [KEYS.index((0, 0, 0, 0)), *(len(KEYS) + list(MEANS).index(name) for name in ("b", "b2", "bb"))]
        columns = self._columns(s, lattice, 2)[..., names]
        b, index = lattice.b, algebra.index

        def coefficients(v: FloatArray) -> FloatArray:
            found = np.zeros((2, len(b), len(algebra.monomials)), dtype=v.dtype)
            found[..., 0] = v[..., 0]
            for part in (0, 1):
                one = {"field": b * v[part, :, 0], "square": b**2 * v[part, :, 0], "phi": v[part, :, 1],
                       "phi_square": v[part, :, 2] + v[part, :, 3]}  # fmt: skip
                for name, value in one.items():
                    found[part, :, index(**{f"{name}{part}": 1})] = value
            return found

        parts = self._parts(s, lattice, g, theta, columns, True, 1)
        _, totals = self._totals(s, lattice, theta, algebra, ((log, coefficients(v)) for log, v in parts))
        found = []
        for k, total in enumerate(totals):
            if not total[0] > 0.0:
                continue
            number, mean = np.array([s.count - k, k]), total / total[0]
            single = {name: np.array([mean[index(**{f"{name}{part}": 1})] for part in "01"]) / np.maximum(number, 1)
                      for name in ("field", "square", "phi", "phi_square")}  # fmt: skip
            both = mean[index(field0=1, field1=1)] / max(number[0] * number[1], 1)
            same = [2.0 * mean[index(**{f"field{part}": 2})] / max(m * (m - 1), 1) for part, m in zip("01", number)]
            product = np.array([[same[0], both], [both, same[1]]])
            found.append(
                Orbit(k, float(total[0]), single["field"], single["square"], product, single["phi"], single["phi_square"])
            )
        return found

    def _parts(
        self, s: Numbers, lattice: _Lattice, g: FloatArray, theta: FloatArray, columns: FloatArray, split: bool, at: int
    ) -> Iterator[tuple[float, FloatArray]]:
        """For every alpha the weight of a class times its class functions (parts, B, K), in units of exp(ln of a scale):
        two parts where that is to be `split`, of rows where phi, whose mean is in column `at`, is below and above its
        midpoint."""
        prior = -0.5 * lattice.b**2 / s.kappa + math.log(lattice.step) - 0.5 * math.log(2.0 * math.pi * s.kappa)
        middle = 0.5 * sum(activation_range(self.phi))
        for i in range(len(lattice.alpha)):
            near, law = lattice.law(i)
            terms = s.n * g[:, near] + law + (prior - theta[i] * lattice.b)[:, None]
            top = float(terms.real.max())
            v = np.matmul(np.exp(terms - top)[:, None, :], columns[:, near])[:, 0]
            if split:
                up = (v[:, at] / v[:, 0]).real > middle
                yield top, np.stack([np.where(up[:, None], 0.0, v), np.where(up[:, None], v, 0.0)])
            else:
                yield top, v[None]

    def _totals(
        self,
        s: Numbers,
        lattice: _Lattice,
        theta: FloatArray,
        algebra: Algebra,
        classes: Iterable[tuple[float, FloatArray]],
    ) -> tuple[float, FloatArray]:
        """ln of a scale, and in units of it the coefficients (parts, M) of the product over classes, by how many of them
        are in the second part; `classes` has the coefficients (parts, B, M) of one class for every alpha."""
        low = np.flatnonzero(algebra.degree <= algebra.degree.max() // 2)
        found = []
        for prior, tilt, (log, one) in zip(self._prior(s, lattice), theta, classes):
            height, law = self._law(s, lattice, tilt, one[..., 0].sum(axis=0))
            first = np.ascontiguousarray(one.transpose(0, 2, 1))
            halves = [_power(first, k, algebra.products) for k in _halves(s.count)]
            found.append((prior + height + s.count * log, _contracted(*halves, law, algebra, low)))
        top = max(log for log, _ in found)
        scaled = np.array([math.exp(log - top) * total for log, total in found])
        total = scaled.sum(axis=0)
        norm = float(total[:, 0].real.sum())
        if not norm > 0.0 or (s.common < 0.0 and np.abs(scaled[:, :, 0].sum(axis=1)).sum() > _CANCELLED * norm):
            raise NotCovered("the field that classes share in a layer cancels too much")
        return top + math.log(norm), np.ascontiguousarray(total.real) / norm

    def _prior(self, s: Numbers, lattice: _Lattice) -> FloatArray:
        """(A,) ln of the weight of the nodes in alpha under their prior."""
        if not s.fields:
            return np.zeros(1)
        return -0.5 * lattice.alpha**2 + math.log(lattice.alpha_step) - 0.5 * math.log(2.0 * math.pi)

    def _law(self, s: Numbers, lattice: _Lattice, tilt: float, one: FloatArray) -> tuple[float, FloatArray]:
        """What comes with the values of S, in units of exp(ln of a scale), for classes of these weights (B,)."""
        sums = s.count * lattice.b[0] + lattice.step * np.arange(s.count * (len(lattice.b) - 1) + 1)
        if math.isinf(s.gamma):
            law = np.where(np.abs(sums) < 0.5 * lattice.step, math.sqrt(2.0 * math.pi * s.count * s.kappa), 0.0)
            return 0.0, law / lattice.step
        law = tilt * sums - 0.5 * s.gamma * sums**2
        height = float(law.max())
        if s.gamma < 0.0:  # it grows towards ends that sums hardly reach
            with np.errstate(divide="ignore"):
                reached = np.log(np.abs(np.convolve(*(_power(one[None, None], k, _PLAIN)[0, 0] for k in _halves(s.count)))))
            height = float((law + reached).max())
        return height + 0.5 * math.log(s.kappa / s.shared), np.exp(np.minimum(law - height, _HIGHEST))

    def _by_alpha(
        self, s: Numbers, lattice: _Lattice, theta: FloatArray, log_v: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """ln of the size of the weight of every alpha (A,), and of the part of it that has each b of one class (A, B)."""
        tilted = log_v - theta[:, None] * lattice.b
        top, first = tilted.real.max(axis=1), np.zeros(1, dtype=np.int64)
        found, part = np.empty(len(log_v)), np.empty(log_v.shape)
        with np.errstate(divide="ignore"):
            for i, prior in enumerate(self._prior(s, lattice)):
                values = np.exp(tilted[i] - top[i])
                height, law = self._law(s, lattice, theta[i], values)
                others = _power(values[None, None], s.count - 1, _PLAIN)
                of_b = _through(law, others, values[None, None], first)[0, 0] * values
                scale = prior + height + s.count * top[i]
                found[i], part[i] = scale + np.log(abs(of_b.sum())), scale + np.log(np.abs(of_b))
        return found, part

    def _averages(
        self, setting: Setting, s: Numbers, algebra: Algebra, top: float, total: FloatArray, curvature: bool
    ) -> Averages:
        """From the coefficients (M,) of all neurons or of those of one code."""
        share, count, at = total[0], s.count, algebra.index
        total = total / share

        def matrix(mark: str, bent: str, shift: str) -> tuple[FloatArray, FloatArray]:
            own, rest = total[at(**{mark: 1})] / count, total[at(**{bent: 1})] / count
            both = (2.0 * total[at(**{shift: 2})] / s.n**2 - count * (own + rest / s.n)) / (count * (count - 1))
            return np.full((count, count), both) + (own - both) * np.eye(count), np.full(count, rest)

        kernel, d = matrix("b2", "bb", "x")
        tilde, delta = matrix("h2", "hh", "y") if s.fields else (np.zeros((count, count)), np.zeros(count))
        if not s.fields:
            tilde, delta = self._unshared(setting)
        second = self._second(setting, s, algebra, total) if curvature else None
        return Averages(top + math.log(share), kernel, d, tilde, delta, second)

    def _second(self, setting: Setting, s: Numbers, algebra: Algebra, total: FloatArray) -> FloatArray:
        """Second derivatives of ln Z in the order that `Averages` has: those by the numbers of this layer, spread over
        the entries that are equal."""
        count, at = s.count, algebra.index
        names = OPERATORS if s.fields else OPERATORS[:2]
        shifts = {"b": "x", "h": "y"}
        # Parameters: of every operator, and after those of variances what classes share.
        kinds = [kind for name in names for kind in ((name, "shared") if name in shifts else (name,))]
        labels, last = [], ""
        for kind in kinds:
            labels.append((shifts[last], 2) if kind == "shared" else (kind, 1))
            last = kind
        size = len(labels)
        slope, raw = np.empty(size), np.empty((size, size))
        for i, (one, power) in enumerate(labels):
            slope[i] = total[at(**{one: power})]
            for j, (two, other) in enumerate(labels):
                if one == two:
                    raw[i, j] = total[at(**{one: 2 * power})] * (2.0 if power == 1 else 6.0)
                else:
                    raw[i, j] = total[at(**{one: power, two: other})]
        second = raw - np.outer(slope, slope)
        # kappa = entry on the diagonal less one beside it, omega = the latter
        turn = np.eye(size)
        for i, (one, _) in enumerate(labels):
            if one in ("x", "y"):
                turn[i - 1, i] = -1.0
        second = turn.T @ second @ turn
        pairs = pairs_of(count)
        entries = np.array([[c == e, c != e] for c, e in pairs], dtype=float)
        spread_entries, spread_one = np.linalg.pinv(entries), np.full((1, count), 1.0 / count)
        blocks = []
        for kind in names:
            blocks.append(spread_entries if kind in shifts else spread_one)
        if self.last:
            blocks[0] = self._by_root(setting)
        spread = block_diag(*blocks)
        whole = spread.T @ second @ spread
        if self.last:
            r = setting.root.shape[1]
            beside = (2.0 * total[at(x=2)] - 2.0 * total[at(b=1)]) / (count * (count - 1))
            own = 2.0 * total[at(b=1)] / count
            product = np.full((count, count), beside) + (own - beside) * np.eye(count)
            whole[: count * r, : count * r] += np.kron(product, np.eye(r))
        return np.asarray(whole)

    @staticmethod
    def _by_root(setting: Setting) -> FloatArray:
        """(2, C r) what an entry of k~ on the diagonal, and one beside it, change by the entries of its root."""
        root = setting.root
        count, r = root.shape
        both = root.sum(axis=0) - root
        return np.array([2.0 * root.ravel() / count, 2.0 * both.ravel() / (count * (count - 1))])

    def _unshared(self, setting: Setting) -> tuple[FloatArray, FloatArray]:
        """<g_h g_h^T> and <g_hh>, which no layer is below of."""
        count = len(self.n)
        return np.zeros((count, count)), np.zeros(count)


class OrbitMaxima(Maxima):
    """Maxima of the weight up to permutations of all classes."""

    def _starts(self, setting: Setting, b_cov: FloatArray) -> tuple[FloatArray, FloatArray]:
        b, h = super()._starts(setting, b_cov)
        kept = (np.diff(b, axis=1) <= 1e-9 * np.abs(b).max()).all(axis=1)
        return b[kept], h[kept]


def _halves(count: int) -> tuple[int, int]:
    """Classes in two parts."""
    return count // 2, count - count // 2


def _power(one: FloatArray, count: int, products: IntArray) -> FloatArray:
    """(parts, M, B) a polynomial (parts, M, B) to the power of `count`, convolved."""
    if count == 1:
        return one
    left = _power(one, count // 2, products)
    whole = _convolved(left, left, products, True)
    return whole if count % 2 == 0 else _convolved(whole, one, products, False)


def _convolved(left: FloatArray, right: FloatArray, products: IntArray, same: bool) -> FloatArray:
    """Their product; `same`: it is a square."""
    shape = len(left) + len(right) - 1, left.shape[1], left.shape[2] + right.shape[2] - 1
    spend(2.0 * len(products) * len(left) * len(right) * left.shape[2] * right.shape[2] * (0.5 if same else 1.0))
    found = np.zeros(shape, dtype=left.dtype)
    convolved(left, right, products, same, found)
    return found


def _contracted(
    one: FloatArray, two: FloatArray, law: FloatArray, algebra: Algebra, low: IntArray
) -> FloatArray:
    """(parts, M) sums over S of a weight `law` times the product of two polynomials, functions of parts of S."""
    low_one, low_two = (_through(law, a, b, low) for a, b in ((one, two), (two, one)))
    parts, size = len(one) + len(two) - 1, one.shape[1]
    total = np.zeros((parts, size), dtype=one.dtype)
    left = np.einsum("ims,jls->imjl", one, low_two, optimize=True)
    right = np.einsum("ils,jms->iljm", low_one, two, optimize=True)
    a, b, made = algebra.products.T
    place = {int(m): k for k, m in enumerate(low)}
    on_two = np.array([int(m) in place for m in b])
    for i in range(len(one)):
        for j in range(len(two)):
            column = np.array([place.get(int(m), 0) for m in b])
            row = np.array([place.get(int(m), 0) for m in a])
            value = np.where(on_two, left[i, a, j, column], right[i, row, j, b])
            np.add.at(total[i + j], made, value)
    return total


def _through(law: FloatArray, one: FloatArray, two: FloatArray, low: IntArray) -> FloatArray:
    """Monomials `low` of the first polynomial, summed over its part of S for every value of the other's."""
    window = np.lib.stride_tricks.sliding_window_view(law, one.shape[2])
    return np.matmul(one[:, low], np.ascontiguousarray(window[: two.shape[2]].T))
