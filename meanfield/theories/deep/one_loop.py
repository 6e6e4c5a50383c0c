"""Fluctuations of the order parameters around a saddle: the term of order 1/N (THEORY.md, "One loop").

ln p(Y) = N Phi + L with L = -1/2 ln det of the second derivatives of Phi by the order parameters of all *samples*, at
any order parameters that respect the classes: their mean is moved by -(Phi'')^-1 L' / N.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from meanfield.posterior.finite_width import FiniteWidth, OneLoop
from meanfield.theories.deep.rules import Averages, Setting, activation_range
from meanfield.theories.deep.sectors import sectors
from meanfield.theories.deep.system import Evaluation, Order, System
from meanfield.validation import FloatArray, IntArray, read_only

__all__ = ["one_loop"]

_STEP = 2e-4  # of differences, of the size of a block of order parameters
_SHIFT = 0.05  # of b, in units of 1 / n_c over the range of phi: the weight changes by so much
_TILT = 1e-3  # of a weight, by a source


def _value(system: System, layers: list[Averages]) -> float:
    return -0.5 * sum(sector.multiplicity * sector.log_determinant for sector in sectors(system, layers))


class _Loop:
    """L as a function of order parameters that respect the symmetry of the task, at the lattice nodes of a solution."""

    def __init__(self, system: System) -> None:
        self.system, self.problem = system, system.problem
        self.distinct = replace(system, distinct=True)

    def layers(self, order: Order, grow: bool = False) -> list[Averages]:
        """Averages with everything."""
        found = [
            self.distinct.averages(order, layer, grow=grow, curvature=True, samples=True)
            for layer in range(self.problem.depth)
        ]
        return self.distinct.combined(Evaluation([one[0] for one in found[:-1]], found[-1]))

    def value(self, layers: list[Averages]) -> float:
        """L."""
        return _value(self.distinct, layers)

    def observed(self, order: Order, top: Averages) -> FloatArray:
        """Kernel and d of the last layer, and <|a|^2> = m s + s sum_c n_c t_c.f_c with outputs f."""
        p = self.problem
        output = p.readout_variance * (top.kernel @ (p.n[:, None] * order.t) + top.d[:, None] * order.t)
        square = p.readout_variance * (p.y.shape[1] + float((p.n[:, None] * order.t * output).sum()))
        return np.concatenate([top.kernel.ravel(), top.d, [square]])

    def explicit(self, order: Order, layers: list[Averages]) -> FloatArray:
        """What `observed` changes by at fixed order parameters: derivatives of L by sources of its parts."""
        p, n_classes = self.problem, len(self.problem.n)
        slopes = np.zeros((n_classes, n_classes))
        for basis in self.system.matrices:  # one entry for all that the symmetry makes equal
            c, e = np.argwhere(basis)[0]
            slopes[basis > 0.0] = self._by_field(order, layers, int(c), int(e))
        own = np.zeros(n_classes)
        for row in self.system.vectors:
            own[row > 0.0] = self._by_delta(order, layers, int(np.flatnonzero(row)[0]))
        kernel = slopes / np.outer(p.n, p.n)
        index = np.arange(n_classes)
        kernel[index, index] = 2.0 * (np.diag(slopes) - own) / (p.n**2 - p.n)
        d = 2.0 * own / p.n - np.diag(kernel)
        return np.concatenate([kernel.ravel(), d, [2.0 * p.readout_variance**2 * self._by_variance(order, layers)]])

    def _by_field(self, order: Order, layers: list[Averages], c: int, e: int) -> float:
        """dL / dk~_ce of the last layer: of a weight, half its second derivative by b_c, and that by b_c and b_e."""
        p, unit = self.problem, np.eye(len(self.problem.n))
        low, high = activation_range(p.phi)
        curved: list[tuple[float, FloatArray]] = []
        for size, share in ((1.0, -1.0 / 3.0), (0.5, 4.0 / 3.0)):
            steps = size * _SHIFT / (high - low) / p.n[:, None] * unit
            if c == e:
                parts = [(0.5, steps[c]), (0.5, -steps[c]), (-1.0, 0.0 * steps[c])]
            else:
                up, down = steps[c] + steps[e], steps[c] - steps[e]
                parts = [(0.25, up), (0.25, -up), (-0.25, down), (-0.25, -down)]
            area = float(steps[c, c] * steps[e, e])
            curved += [(share * factor / area, shift) for factor, shift in parts]
        setting = self.distinct.setting(order, p.depth - 1)
        tilt = _TILT / float(p.n[c] * p.n[e])
        ends = []
        for sign in (-1.0, 1.0):
            copies = [(1.0, 0.0 * unit[0]), *((sign * tilt * factor, shift) for factor, shift in curved)]
            codes: list[str | None] = [*self.distinct.codes] or [None]
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
            s = p.readout_variance * (1.0 + sign * _STEP)
            setting = self.distinct.setting(order, p.depth - 1)
            top = self._top(setting._replace(root=setting.root * math.sqrt(s / p.readout_variance)))
            other = replace(self.distinct, problem=replace(p, readout_variance=s))
            ends.append(_value(other, self._with(layers, top)))
        return (ends[1] - ends[0]) / (2.0 * _STEP * p.readout_variance)

    def _top(self, setting: Setting) -> list[Averages]:
        return self.distinct.averages_at(setting, self.problem.depth - 1, grow=False, curvature=True, samples=True)

    def _with(self, layers: list[Averages], top: list[Averages]) -> list[Averages]:
        return self.distinct.combined(Evaluation(layers[:-1], top))

    def _slope(self, layers: list[Averages], ends: list[list[Averages]], step: float) -> float:
        low, high = (self.value(self._with(layers, top)) for top in ends)
        return (high - low) / (2.0 * step)


def one_loop(system: System, order: Order, index: IntArray) -> OneLoop:
    """The term of order 1/N at a solution; arrays for classes that are `index` of the system's.

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
    slope, moving = np.empty(len(x)), []
    for i, step in enumerate(_STEP * system.scales(x)):
        ends = []
        for sign in (-1.0, 1.0):
            moved = x.copy()
            moved[i] += sign * step
            there = system.unpack(moved)
            found = loop.layers(there)
            ends.append((loop.value(found), loop.observed(there, found[-1])))
        slope[i] = (ends[1][0] - ends[0][0]) / (2.0 * step)
        moving.append((ends[1][1] - ends[0][1]) / (2.0 * step))
    shift = np.asarray(-np.linalg.solve(system.hessian(system.evaluate(x, curvature=True)), slope))
    change = system.unpack(shift)
    top, size = loop.explicit(order, layers) + shift @ np.array(moving), len(p.n)
    kernel = np.append(change.kernel, top[: size**2].reshape(1, size, size), axis=0)
    d = np.append(change.d, top[None, size**2 : -1], axis=0)
    own = np.array([one.kernel for one in layers])[:, index][:, :, index]
    limit = FiniteWidth(
        math.inf, read_only(own), read_only(np.array([one.d for one in layers])[:, index]),
        read_only((p.y - p.tau * order.t)[index]), float(loop.observed(order, layers[-1])[-1]),
    )  # fmt: skip
    curvatures = {one.name: one.curvature for one in sectors(loop.distinct, layers) if one.multiplicity > 0.0}
    return OneLoop(
        read_only(kernel[:, index][:, :, index]), read_only(d[:, index]), read_only(-p.tau * change.t[index]),
        read_only(change.t[index]), float(top[-1]), loop.value(layers),
        {name: (signs.inner, signs.outer) for name, signs in curvatures.items()}, limit,
    )  # fmt: skip
