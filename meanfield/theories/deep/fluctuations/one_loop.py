"""Fluctuations of the order parameters around a saddle: the term of order 1/N (THEORY.md, "One loop").

ln p(Y) = N Phi + L with L = -1/2 ln det of the second derivatives of Phi by the order parameters of all *samples*, at
any order parameters that respect the classes: their mean is moved by -(Phi'')^-1 L' / N.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from meanfield.posterior.finite_width import OneLoop
from meanfield.theories.deep.fluctuations.expansion import (
    assembled,
    by_sources,
    differences,
    directions,
    log_fluctuations,
)
from meanfield.theories.deep.fluctuations.sectors import sectors
from meanfield.theories.deep.layers.rules import Averages, Setting, activation_range
from meanfield.theories.deep.layers.sums import tilts
from meanfield.theories.deep.reduction import Members
from meanfield.theories.deep.system import Evaluation, Order, System
from meanfield.validation import FloatArray

__all__ = ["one_loop"]

_STEP = 5e-4  # of differences, over P, of the size of a block of order parameters: ln of the weights of codes is ~ P
_SHIFT = 0.05  # of b, in units of 1 / n_c over the range of phi: the weight changes by so much
_TILT = 1e-3  # of a weight, by a source


class _Loop:
    """L as a function of order parameters that respect the symmetry of the task, at the lattice nodes of a solution."""

    def __init__(self, system: System) -> None:
        self.system, self.problem = system, system.problem
        self.distinct = replace(system, distinct=True)
        self.step = _STEP / self.problem.n_samples

    def layers(self, order: Order, grow: bool = False) -> list[Averages]:
        """Averages with everything."""
        found = [
            self.distinct.averages(order, layer, grow=grow, curvature=True, samples=True)
            for layer in range(self.problem.depth)
        ]
        return self.distinct.combined(Evaluation([one[0] for one in found[:-1]], found[-1]))

    def value(self, layers: list[Averages]) -> float:
        """L."""
        return log_fluctuations(sectors(self.distinct, layers))

    def observed(self, order: Order, top: Averages) -> FloatArray:
        """Kernel and d of the last layer, and <|a|^2> = m s + s sum_c n_c t_c.f_c with outputs f."""
        p = self.problem
        output = p.readout_variance * (top.kernel @ (p.n[:, None] * order.t) + top.d[:, None] * order.t)
        square = p.readout_variance * (p.y.shape[1] + float((p.n[:, None] * order.t * output).sum()))
        return np.concatenate([top.kernel.ravel(), top.d, [square]])

    def explicit(self, order: Order, layers: list[Averages]) -> FloatArray:
        """What `observed` changes by at fixed order parameters: derivatives of L by sources of its parts."""
        return by_sources(
            self.system,
            lambda c, e: self._by_field(order, layers, c, e),
            lambda c: self._by_delta(order, layers, c),
            2.0 * self.problem.readout_variance**2 * self._by_variance(order, layers),
        )

    def _by_field(self, order: Order, layers: list[Averages], c: int, e: int) -> float:
        """dL / dk~_ce of the last layer."""
        p = self.problem
        low, high = activation_range(p.phi)
        setting = self.distinct.setting(order, p.depth - 1)
        tilt = _TILT / float(p.n[c] * p.n[e])
        change = np.zeros((len(p.n), len(p.n)))
        change[c, e] = change[e, c] = tilt
        codes: list[str | None] = [*self.distinct.codes] or [None]
        ends = []
        for sign in (-1.0, 1.0):
            copies = [(1.0, np.zeros(len(p.n))), *tilts(sign * change, _SHIFT / (high - low) / p.n)]
            ends.append([self.distinct.layers[-1].tilted(setting, copies, code) for code in codes])
        return self._slope(layers, ends, tilt)

    def _by_delta(self, order: Order, layers: list[Averages], c: int) -> float:
        """dL / ddelta~_c of the last layer."""
        step = _TILT / float(self.problem.n[c])
        setting = self.distinct.setting(order, self.problem.depth - 1)
        unit = np.eye(len(setting.delta))[c]
        ends = [self._top(setting._replace(delta=setting.delta + sign * step * unit)) for sign in (-1.0, 1.0)]
        return self._slope(layers, ends, step)

    def _by_variance(self, order: Order, layers: list[Averages]) -> float:
        """dL / ds: b = sqrt(s) t beta, and derivatives by t are those by sqrt(s) t."""
        p = self.problem
        ends = []
        for sign in (-1.0, 1.0):
            s = p.readout_variance * (1.0 + sign * self.step)
            setting = self.distinct.setting(order, p.depth - 1)
            top = self._top(setting._replace(root=setting.root * math.sqrt(s / p.readout_variance)))
            other = replace(self.distinct, problem=replace(p, readout_variance=s))
            ends.append(log_fluctuations(sectors(other, self._with(layers, top))))
        return (ends[1] - ends[0]) / (2.0 * self.step * p.readout_variance)

    def _top(self, setting: Setting) -> list[Averages]:
        return self.distinct.averages_at(setting, self.problem.depth - 1, grow=False, curvature=True, samples=True)

    def _with(self, layers: list[Averages], top: list[Averages]) -> list[Averages]:
        return self.distinct.combined(Evaluation(layers[:-1], top))

    def _slope(self, layers: list[Averages], ends: list[list[Averages]], step: float) -> float:
        low, high = (self.value(self._with(layers, top)) for top in ends)
        return (high - low) / (2.0 * step)


def one_loop(system: System, order: Order, members: Members) -> OneLoop:
    """The term of order 1/N at a solution; arrays for classes that are `members` of the system's.

    Observables of the last layer follow from L with sources, d<o>/dN^-1 = dL/dsource: at fixed order parameters, and
    with these, which move as their own means do.

    Raises
    ------
    NotCovered
        If integrals beside the solution are outside of what the quadrature covers.
    """
    loop, p = _Loop(system), system.problem
    x = system.pack(order)
    layers = loop.layers(order, grow=True)

    def at(moved: FloatArray) -> tuple[float, FloatArray]:
        there = system.unpack(moved)
        found = loop.layers(there)
        return loop.value(found), loop.observed(there, found[-1])

    steps, central = directions(system, x, loop.step * system.scales(x))
    slope, moving = (np.linalg.solve(steps, along) for along in differences(at, x, steps, central))
    shift = np.asarray(-np.linalg.solve(system.hessian(system.evaluate(x, curvature=True)), slope))
    top = loop.explicit(order, layers) + shift @ moving
    observed, found = loop.observed(order, layers[-1]), sectors(loop.distinct, layers)
    span = np.eye(p.y.shape[1])
    return assembled(p, order, system.unpack(shift), layers, observed, top, found, members, span)
