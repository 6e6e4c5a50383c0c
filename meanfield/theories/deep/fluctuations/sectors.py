"""Perturbations of the order parameters of single samples, sorted by what they mix with (THEORY.md, "One loop").

Order parameters K_mu,nu, K~_mu,nu and t_mu of samples that are exchangeable within their classes: what permutations of
the samples of a class leave apart. Blocks of classes are `System.hessian`; here are, for every class, u over its
samples with sum u = 0, and products of two of these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from meanfield.theories.deep.certificate import SecondOrder
from meanfield.theories.deep.layers.rules import Averages
from meanfield.theories.deep.stability import signs
from meanfield.theories.deep.system import System
from meanfield.validation import BoolArray, FloatArray

__all__ = ["TWO", "Sector", "sectors"]

TWO = 1e-9  # samples of a class that differ from two by less are two


@dataclass(frozen=True, eq=False)
class Sector:
    """Perturbations that mix among themselves alone, and how often the same matrix occurs.

    Attributes
    ----------
    name : str
    multiplicity : float
    hessian, reference : (k, k) arrays
        Second derivatives of Phi, and their part that does not come from neurons, with tau = 1.
    outer : (k,) array of bool
        Kernels; the others are conjugates.
    """

    name: str
    multiplicity: float
    hessian: FloatArray
    reference: FloatArray
    outer: BoolArray

    @property
    def log_determinant(self) -> float:
        """ln |det| relative to the reference, whose integral is 1."""
        return float(np.linalg.slogdet(self.hessian)[1] - np.linalg.slogdet(self.reference)[1])

    @property
    def curvature(self) -> SecondOrder:
        """Signs of the curvature of Phi among these perturbations."""
        return signs(self.hessian, self.outer)


def sectors(system: System, layers: list[Averages]) -> list[Sector]:
    """All perturbations of `distinct` order parameters, from averages of every layer with `samples`."""
    n, outer = system.problem.n, np.zeros(system.size, dtype=bool)
    for name, _, at in system.blocks:
        outer[at] = name in ("kernel", "d")
    found = [Sector("classes", 1.0, system.hessian_of(layers), system.free, outer)]
    found += [_one_class(system, layers, c) for c in range(len(n))]
    if system.problem.depth > 1:
        found += [_two_classes(system, layers, c, e) for c in range(len(n)) for e in range(c, len(n))]
    return found


def _one_class(system: System, layers: list[Averages], c: int) -> Sector:
    """K_mu,nu = u_mu kappa_e for nu in class e (u_mu + u_nu where that is the same), K_mu,mu + u_mu delta, t = u_mu.

    Of two samples u_mu + u_nu = 0: kappa of their own class is nothing but 2 delta, and left out.
    """
    p, n_classes = system.problem, len(system.problem.n)
    half, lower = n_classes + 1, system.problem.depth - 1
    q = p.y.shape[1]
    size = 2 * half * lower + q
    reference, total = np.zeros((size, size)), np.zeros((size, size))
    trace = np.zeros((half, half))
    trace[np.arange(n_classes), np.arange(n_classes)] = -p.n
    trace[c, -1] = trace[-1, c] = -1.0
    trace[-1, -1] = -0.5
    for layer in range(lower):
        low = slice(2 * half * layer, 2 * half * layer + half)
        high = slice(low.stop, low.stop + half)
        reference[low, high], reference[high, low] = p.ratios[layer] * trace, p.ratios[layer] * trace.T
    at = np.arange(size - q, size)
    reference[at, at] = 1.0
    total += reference
    total[at, at] = p.tau
    for layer, averages in enumerate(layers):
        assert averages.samples is not None
        second = averages.samples.one_class[c]
        top = layer == lower
        own = at if top else np.arange(2 * half * layer + half, 2 * half * (layer + 1))
        unit = np.full(len(own), math.sqrt(p.readout_variance) if top else 1.0)
        if layer > 0:
            own = np.append(own, np.arange(2 * half * (layer - 1), 2 * half * (layer - 1) + half))
            unit = np.append(unit, np.full(half, p.scales[layer - 1]))
        total[np.ix_(own, own)] += p.ratios[layer] * unit[:, None] * unit * second
    outer = np.zeros(size, dtype=bool)
    for layer in range(lower):
        outer[2 * half * layer : 2 * half * layer + half] = True
    kept = np.ones(size, dtype=bool)
    kept[c : size - q : half] = _more_than_two(p.n[c])
    both = np.ix_(kept, kept)
    return Sector(f"samples of class {c}", float(p.n[c]) - 1.0, total[both], reference[both], outer[kept])


def _more_than_two(n: float) -> bool:
    return bool(n > 2.0 + TWO)


def _two_classes(system: System, layers: list[Averages], c: int, e: int) -> Sector:
    """K_mu,nu = u_mu v_nu."""
    p, lower = system.problem, system.problem.depth - 1
    unit_trace = 0.5 if c == e else 1.0
    reference = np.zeros((2 * lower, 2 * lower))
    for layer in range(lower):
        reference[2 * layer, 2 * layer + 1] = reference[2 * layer + 1, 2 * layer] = -unit_trace * p.ratios[layer]
    total = reference.copy()
    for layer, averages in enumerate(layers):
        assert averages.samples is not None
        second = unit_trace * averages.samples.two_classes[c, e]
        if layer < lower:
            total[2 * layer + 1, 2 * layer + 1] += p.ratios[layer] * second[0, 0]
        if layer > 0:
            scale = p.scales[layer - 1]
            total[2 * layer - 2, 2 * layer - 2] += p.ratios[layer] * scale**2 * second[1, 1]
            if layer < lower:
                total[2 * layer - 2, 2 * layer + 1] += p.ratios[layer] * scale * second[0, 1]
                total[2 * layer + 1, 2 * layer - 2] += p.ratios[layer] * scale * second[0, 1]
    n_c, n_e = float(p.n[c]), float(p.n[e])
    within = n_c * (n_c - 3.0) / 2.0 if _more_than_two(n_c) else 0.0
    multiplicity = within if c == e else (n_c - 1.0) * (n_e - 1.0)
    outer = np.arange(2 * lower) % 2 == 0
    return Sector(f"pairs of samples of classes {c} and {e}", multiplicity, total, reference, outer)
