"""Local maxima of the weight of a neuron: its codes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.deep.compiled.ascent_steps import next_fields, pair_sites
from meanfield.theories.deep.layers.rules import Setting, activation_range
from meanfield.validation import FloatArray, IntArray

__all__ = ["Maxima"]

_STRIDE = 0.6
_STILL, _SETTLED = 1e-4, 1e-13  # relative change, at which maxima are found well enough, and exactly
_UNSURE = 15.0  # nats: maxima are found roughly, and their widths differ
# Maxima are looked for afresh every so many settings, when covariances or d have changed by so much, and always of more
# classes and samples: codes come back, and no lattice reaches them.
_RESTART, _MOVED = 12, 0.15
_FEW, _APART = 2, 1000.0
_REACH = 7.0
_X = np.linspace(-_REACH, _REACH, 43)[None, None]  # enough for maxima, of a phi without kinks
_X_WEIGHTS = np.full_like(_X, 2.0 * _REACH / 42.0)
_PANEL, _PANEL_WEIGHTS = np.polynomial.legendre.leggauss(32)  # between its kinks else
_SATURATED, _FARTHER = 0.05, 1.5  # part of the range of phi; times that fields are larger that start by themselves
# Of phi that rises and falls: the change between places .0025 apart that is none, classes up to which each is tried on
# either side of 0, and the other parts of the fields that are tried there.
_RISES, _FEW_SIDES, _NEARER = 1e-12, 4, (0.3,)
_SHORTER, _SHARE = 2, 0.3  # how often steps are shortened, of a phi with kinks, and to what part
_FALLEN = 1e-9  # rounding of ln of the weight, relative where that is more than 1
# Of the standard deviations under the prior: smaller b and h are 0 when it comes to their relative change, and maxima
# that are closer than that are one.
_NOTHING, _ONE = 0.1, 1e-3


@dataclass(eq=False)
class Maxima:
    """Finds the maxima of one layer, and keeps them from one setting to the next."""

    phi: Activation
    n: FloatArray
    known: tuple[FloatArray, FloatArray] | None = None
    visits: int = 0
    started: Setting | None = None  # where they were last looked for afresh
    inverses: tuple[Setting, FloatArray, FloatArray] | None = None  # of the setting met last

    def find(self, setting: Setting, depth: float, every: bool, exact: bool = False) -> tuple[FloatArray, FloatArray]:
        """Local maxima (b, h), each (k, C), of the weight reached from all sign patterns of b, and 0.

        g(b, h) + h^2 / 2 d is convex, so that b <- R R^T n g_b and, S the covariance of h,
        (S^-1 + n / d) h <- n <z> / d never lower the weight. The latter is slow: steps of Newton's method are taken
        where they do not lower it either. Unless `every`, those are left out that lie too low to matter at that depth.
        With `exact` they do not depend on where the search began.
        """
        start, afresh = self._from(setting)
        sweeps, still = (60, _SETTLED) if exact else (40 if afresh else 20, _STILL)
        b, h = self._followed(setting, *start, sweeps, still)
        # All are kept: one that is too low now may be the highest of the next setting.
        self.known = _distinct(b, h, [_ONE * one for one in _spreads(setting)])
        return self.known if every else self._relevant(setting, *self.known, depth)

    def fields(self, setting: Setting, b: FloatArray) -> FloatArray:
        """Maxima in h at given b (k, C), reached from h = 0, and from both sides of it where phi rises and falls."""
        h = np.zeros_like(b)
        if _turns(self.phi):
            b, h = self._on_all_sides(b, np.tile(_spreads(setting)[1], (len(b), 1)), [0.0])
        return self._followed(setting, b, h, 8, 3e-2, hold=True)[1]

    def _followed(
        self, setting: Setting, b: FloatArray, h: FloatArray, sweeps: int, still: float, hold: bool = False
    ) -> tuple[FloatArray, FloatArray]:
        """Where steps that never lower the weight lead from b and h; with `hold` b stays as it is."""
        root, n = setting.root, self.n
        of_root, of_covariance = self.inverses_of(setting)
        beta, u = b @ of_root.T, h @ of_covariance
        b, h = b if hold else beta @ root.T, u @ setting.covariance
        value, least = np.full(len(b), -np.inf), [_NOTHING * one.max() for one in _spreads(setting)]
        now = before = (beta, u, b, h)
        seen, falls = self._site(setting, b, h), np.zeros(len(b), dtype=np.int64)
        for sweep in range(sweeps):
            beta, u, b, h = now
            site = self._site(setting, b, h) if sweep else seen
            new = -0.5 * (beta**2).sum(axis=1) - 0.5 * (u * h).sum(axis=1) + site[0] @ n
            fell = new < value - _FALLEN * np.maximum(np.abs(value), 1.0)
            falls = np.where(fell, falls + 1, 0)
            if fell.any():  # back to where they were, and a shorter or the slow step
                pick = fell[:, None]
                beta, u, b, h = (np.where(pick, old, there) for old, there in zip(before, (beta, u, b, h)))
                site = np.where(pick, seen, site)
            value = np.where(fell, value, new)
            before, seen = (beta, u, b, h), site
            now = self._moved(setting, site, u, h, falls)
            if hold:
                now = (beta, now[1], b, now[3])
            if not fell.any() and all(
                np.abs(one - other).max() <= still * max(np.abs(one).max(), size)
                for one, other, size in zip(now[2:], (b, h), least)
            ):
                break
        return b, h

    def _moved(
        self, setting: Setting, site: FloatArray, u: FloatArray, h: FloatArray, falls: IntArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """The next beta and u, b = R beta and h = S u: the step of Newton's method in h, the slow one after a fall.

        With little noise the slow one is that, and Newton's step overshoots a kink: it is shortened twice first.
        """
        root, covariance = setting.root, setting.covariance
        beta = (site[1] * self.n) @ root
        b = beta @ root.T
        if not covariance.any():
            return beta, u, b, h
        old, u = u, np.array(u, order="C")
        careful = falls > (_SHORTER if self.phi.kinks else 0)
        next_fields(
            np.ascontiguousarray(covariance), self.n, np.ascontiguousarray(setting.d), site, u, careful, _STRIDE
        )
        short = (falls > 0) & ~careful
        u[short] = old[short] + _SHARE ** falls[short, None] * (u[short] - old[short])
        return beta, u, b, u @ covariance

    def _from(self, setting: Setting) -> tuple[tuple[FloatArray, FloatArray], bool]:
        """Where the search begins: maxima of the setting before, and whether afresh as well."""
        last, self.visits = self.started, self.visits + 1
        few = (len(self.n) <= _FEW or float(self.n.sum()) <= _APART) and self.visits % _RESTART > 0
        if self.known is not None and few and not _differ(last, setting):
            return self.known, False
        self.started = setting
        fresh = self._starts(setting, setting.root @ setting.root.T)
        if self.known is None:
            return fresh, True
        b, h = (np.vstack(pair) for pair in zip(self.known, fresh))
        return (b, h), True

    def inverses_of(self, setting: Setting) -> tuple[FloatArray, FloatArray]:
        """Of the root of b's covariance and of the covariance of h."""
        if self.inverses is None or self.inverses[0] is not setting:
            of_root = np.asarray(np.linalg.pinv(setting.root))
            of_covariance = np.asarray(np.linalg.pinv(setting.covariance, hermitian=True))
            self.inverses = (setting, of_root, of_covariance)
        return self.inverses[1], self.inverses[2]

    def _relevant(self, setting: Setting, b: FloatArray, h: FloatArray, depth: float) -> tuple[FloatArray, FloatArray]:
        value, _ = self._heights(setting, b, h)
        kept = value > value.max() - depth - _UNSURE
        return b[kept], h[kept]

    def heights(self, setting: Setting) -> tuple[FloatArray, FloatArray]:
        """ln of the weight (k,) at the maxima that are known, and <phi> (k, C) there."""
        assert self.known is not None
        return self._heights(setting, *self.known)

    def _heights(self, setting: Setting, b: FloatArray, h: FloatArray) -> tuple[FloatArray, FloatArray]:
        """ln of the weight (k,) at pairs of b and h (k, C), and <phi> (k, C) there."""
        of_root, of_covariance = self.inverses_of(setting)
        value = -0.5 * ((b @ of_root.T) ** 2).sum(axis=1) - 0.5 * ((h @ of_covariance) * h).sum(axis=1)
        site = self._site(setting, b, h)
        return np.asarray(value + site[0] @ self.n), site[1]

    def _starts(self, setting: Setting, b_cov: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Codes with strong fields, the same about the middle of the range, codes with fields of their own to come,
        and 0; where fields as strong as the covariance has them saturate nothing, codes with saturated ones as well."""
        n_classes = len(self.n)
        low, high = activation_range(self.phi)
        patterns = np.array(list(itertools.product((low, high), repeat=min(n_classes, 8))))
        if n_classes > 8:
            patterns = np.vstack([np.where(np.eye(n_classes, dtype=bool), a, b) for a, b in ((low, high), (high, low))])
        return self._from_patterns(setting, b_cov, patterns)

    def _from_patterns(
        self, setting: Setting, b_cov: FloatArray, patterns: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """The same for these codes (k, C)."""
        middle = 0.5 * sum(activation_range(self.phi))
        field = 2.0 * np.sqrt(np.diag(setting.covariance)) * np.sign(patterns - middle)
        none = np.zeros((1, len(self.n)))
        b = np.vstack([patterns, patterns - middle, patterns, none])
        h = np.vstack([field, field, 0.0 * field, none])
        saturated = np.where(patterns > middle, *reversed(_saturating(self.phi)))
        if (np.abs(saturated) > _FARTHER * np.abs(field)).all():
            b, h = np.vstack([b, patterns]), np.vstack([h, saturated])
        if _turns(self.phi):  # a class may be active at several fields
            b, h = self._on_all_sides(b, h, _NEARER)
        return (b * self.n) @ b_cov, h

    def _on_all_sides(self, b: FloatArray, h: FloatArray, parts: Sequence[float]) -> tuple[FloatArray, FloatArray]:
        """Starts (k, C) with every class on either side of 0, or all on the same for many of them; and these with
        `parts` of their fields."""
        count = b.shape[1]
        some = count <= _FEW_SIDES
        sides = np.array(list(itertools.product((1.0, -1.0), repeat=count)) if some else [[1.0], [-1.0]])
        factors = np.vstack([part * sides for part in (1.0, *parts)])
        fields = (factors[:, None] * h).reshape(-1, count)
        both = np.unique(np.hstack([np.tile(b, (len(factors), 1)), fields]), axis=0)
        return both[:, :count], both[:, count:]

    def _site(self, setting: Setting, b: FloatArray, h: FloatArray) -> FloatArray:
        """g, <phi>, <xi> and var xi (4, k, C) at pairs of b and h (k, C)."""
        root = np.sqrt(setting.d)[:, None]
        if self.phi.kinks:
            ends = np.clip((np.array(self.phi.kinks) - h[:, :, None]) / root, -_REACH, _REACH)
            edge = np.full((*h.shape, 1), _REACH)
            edges = np.concatenate([-edge, np.sort(ends, axis=2), edge], axis=2)
            half = 0.5 * np.diff(edges, axis=2)[..., None]
            x = ((edges[..., :-1] + edges[..., 1:])[..., None] * 0.5 + half * _PANEL).reshape(*h.shape, -1)
            weight = (half * _PANEL_WEIGHTS).reshape(*h.shape, -1)
        else:
            x, weight = _X, _X_WEIGHTS
        found = np.empty((4, *h.shape))
        pair_sites(
            self.phi(h[:, :, None] + root * x),
            x,
            weight,
            np.ascontiguousarray(b),
            np.ascontiguousarray(setting.delta),
            found,
        )
        return found


@lru_cache(maxsize=64)
def _turns(phi: Activation) -> bool:
    """Whether phi rises and falls."""
    value = phi(np.linspace(-30.0, 30.0, 24001))
    change = np.diff(value) / max(float(np.ptp(value)), 1e-300)
    return bool(change.min() < -_RISES and change.max() > _RISES)


@lru_cache(maxsize=64)
def _saturating(phi: Activation) -> tuple[float, float]:
    """z next to 0 at which phi is nearly as small, and nearly as large, as it becomes."""
    z = np.linspace(-30.0, 30.0, 24001)
    low, high = activation_range(phi)
    share = (phi(z) - low) / (high - low)
    ends = (z[share < _SATURATED], z[share > 1.0 - _SATURATED])
    smallest, largest = (float(at[np.argmin(np.abs(at))]) if len(at) else 0.0 for at in ends)
    return smallest, largest


def _differ(one: Setting | None, other: Setting) -> bool:
    """Whether maxima of one setting may be none of the other, or the other way round."""
    if one is None:
        return True
    pairs = ((a.root @ a.root.T, a.covariance, a.d) for a in (one, other))
    return any(a.shape != b.shape or np.abs(a - b).max() > _MOVED * np.abs(b).max() for a, b in zip(*pairs))


def _spreads(setting: Setting) -> tuple[FloatArray, FloatArray]:
    """Standard deviations of b and h (C,) under the prior."""
    return np.sqrt((setting.root**2).sum(axis=1)), np.sqrt(np.maximum(np.diag(setting.covariance), 0.0))


def _distinct(b: FloatArray, h: FloatArray, least: list[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Rows that differ from all earlier ones by more than 2 % of the largest, and by more than `least` (2, C)."""
    both = np.hstack([b, h])
    unit = np.maximum(np.maximum(0.02 * np.abs(both).max(axis=0), np.hstack(least)), 1e-14)
    kept: list[int] = []
    for i, row in enumerate(both):
        if not kept or (np.abs((row - both[kept]) / unit).max(axis=1) > 1.0).all():
            kept.append(i)
    return b[kept], h[kept]
