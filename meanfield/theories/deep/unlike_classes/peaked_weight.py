"""The weight of a neuron where more fields couple the classes than lattices over all of them can take.

Points are v = (beta, alpha): conjugate fields b = R beta + shift, and common fields m = U alpha + N zeta of h, to which
every class adds its own one (`own_fields.py`):

    w(v) = exp(-|v|^2 / 2) prod_c W_c(b_c, m_c) / (2 pi)^(D/2),

averaged, by coarse rules, over narrow common fields zeta, at a few places that are exact to the third order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.deep.compiled.generated.site import KEYS
from meanfield.theories.deep.layers.class_tables import MEANS, PowersOfSums
from meanfield.theories.deep.layers.rules import COARSE, NotCovered, Rule, Setting, activation_range
from meanfield.theories.deep.unlike_classes.own_fields import ROUGH_DEPTH, OwnFieldSites, own_and_common
from meanfield.validation import FloatArray, IntArray

__all__ = ["PeakedWeight", "WeightAt"]

_NARROW_FIELD = 0.15  # sum over classes of its variances in units of the widths of these, up to which one is narrow
_STEEPEST = 1500.0  # of fields b


class _Frame(NamedTuple):
    """b = root beta, h = common alpha + narrow zeta + own^(1/2) xi: root (C, r), common (C, k), narrow (C, q), own
    (C,)."""

    root: FloatArray
    common: FloatArray
    narrow: FloatArray
    own: FloatArray


class WeightAt(NamedTuple):
    """ln of the weight (N,), and by class the means (functions, N) of `class_columns` over the own field."""

    log_weight: FloatArray
    columns: list[FloatArray]

    def means(self, name: str) -> FloatArray:
        """(N, C) one of MEANS, or "field"."""
        at = len(KEYS) + [*MEANS, "field"].index(name)
        return np.array([columns[at] for columns in self.columns]).T


def _turned(fields: FloatArray, before: FloatArray) -> FloatArray:
    """Fields (C, k) as a rotation has them closest to those before, on which nodes are."""
    if not fields.size or before.shape != fields.shape:
        return fields
    left, _, right = np.linalg.svd(fields.T @ before)
    return np.asarray(fields @ left @ right)


@dataclass(eq=False)
class PeakedWeight:
    """The weight of one layer of given class sizes, at settings that are asked for one after another."""

    phi: Activation
    n: FloatArray
    rule: Rule

    def __post_init__(self) -> None:
        self.sites = [OwnFieldSites(self.phi, self.rule, float(n)) for n in self.n]
        self.rough = [OwnFieldSites(self.phi, COARSE, float(n), rough=True) for n in self.n]
        self.known: Setting | None = None
        self.frame: _Frame | None = None

    def _given(self, setting: Setting) -> _Frame:
        """What turns v into fields, and the classes at this setting, whose tables serve as long as it is the same."""
        if self.known is setting and self.frame is not None:
            return self.frame
        size = len(self.n)
        own, common = np.zeros(size), np.zeros((size, 0))
        narrow = common
        if setting.covariance.any():
            own, common = own_and_common(setting.covariance)
            before = _Frame(setting.root, common[:, :0], common[:, :0], own) if self.frame is None else self.frame
            wide = common.shape[1]
            if self.rule.depth < ROUGH_DEPTH:
                wide = self._wide(common, own + setting.d / self.n, before.common.shape[1])
            common, narrow = _turned(common[:, :wide], before.common), _turned(common[:, wide:], before.narrow)
        self.known, self.frame = setting, _Frame(setting.root, common, narrow, own)
        for c, (d, delta, of_class) in enumerate(zip(setting.d.tolist(), setting.delta.tolist(), own.tolist())):
            self.sites[c].at(d, delta, of_class)
            self.rough[c].at(d, delta, of_class)
        return self.frame

    @staticmethod
    def _wide(common: FloatArray, width: FloatArray, before: int) -> int:
        """How many of the fields (C, k), widest first, are on lattices, all but two at most, classes being functions of
        m that are as wide as the roots of `width` (C,): `before` is kept if it may."""
        size, least = (common**2 / width[:, None]).sum(axis=0), max(common.shape[1] - 2, 1)
        most, fewest = (max(least, int(np.count_nonzero(size > x * _NARROW_FIELD))) for x in (0.5, 1.5))
        return before if fewest <= before <= most else max(least, int(np.count_nonzero(size > _NARROW_FIELD)))

    def _fields(self, setting: Setting, v: FloatArray, zeta: FloatArray | None = None) -> tuple[FloatArray, FloatArray]:
        """b (N, C) of points v with narrow fields zeta (N, q), 0 if left out, and h (N, C) without the own fields."""
        root, common, narrow, _ = self._given(setting)
        r = root.shape[1]
        m = v[:, r:] @ common.T
        return v[:, :r] @ root.T + setting.shift, m if zeta is None else m + zeta @ narrow.T

    def _rule_of_narrow(self, setting: Setting, number: IntArray) -> list[tuple[float, FloatArray | None]]:
        """ln of the weights and places (N, q) of nodes in narrow fields, for nodes of these numbers: exact to the third
        order, and of the fourth one in each field alone."""
        q = self._given(setting).narrow.shape[1]
        if q == 0:
            return [(0.0, None)]
        apart = math.sqrt(3.0) * np.eye(q)[number % q]  # neighbours differ in another field
        parts: list[tuple[float, FloatArray | None]] = [(math.log(q / 6.0), apart), (math.log(q / 6.0), -apart)]
        return [(math.log(1.0 - q / 3.0), None), *parts]

    def _at(
        self,
        setting: Setting,
        v: FloatArray,
        highest: int = 0,
        samples: bool = False,
        rough: bool = False,
        zeta: FloatArray | None = None,
        sums: PowersOfSums = (),
    ) -> WeightAt:
        """The weight at points, and means as of `OwnFieldSites` there; to 1e-3 where `rough` ones will do."""
        b, m = self._fields(setting, v, zeta)
        low, high = activation_range(self.phi)
        if np.abs(b).max() * (high - low) > _STEEPEST:
            raise NotCovered("the conjugate fields of a layer are too strong for the quadrature")
        log_weight, columns = -0.5 * (v**2).sum(axis=1) - 0.5 * v.shape[1] * math.log(2.0 * math.pi), []
        for c, sites in enumerate(self.rough if rough else self.sites):
            log_w, means = sites(b[:, c], m[:, c], highest, samples, sums)
            log_weight = log_weight + log_w
            if means is not None:
                columns.append(means)
        return WeightAt(log_weight, columns)

    def _slopes(self, setting: Setting, v: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """ln of the weight (N,), its gradient (N, D), and minus its second derivatives (N, D, D)."""
        root, common, _, _ = self._given(setting)
        size, r = len(self.n), root.shape[1]
        both = np.zeros((2 * size, v.shape[1]))
        both[:size, :r], both[size:, r:] = root, common
        site = self._at(setting, v, 2, rough=True)
        b, h, bb, bh, hh = (
            np.array([columns[KEYS.index((*order, 0, 0))] for columns in site.columns]).T
            for order in ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
        )
        second, at = np.zeros((len(v), 2 * size, 2 * size)), np.arange(size)
        second[:, at, at], second[:, size + at, size + at] = bb - b**2, hh - h**2
        second[:, at, size + at] = second[:, size + at, at] = bh - b * h
        return site.log_weight, np.hstack([b, h]) @ both - v, np.eye(v.shape[1]) - both.T @ second @ both
