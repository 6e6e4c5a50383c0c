"""The readout integral where there is one class for each output: over the others' fields on a lattice (sigma_a = 1).

The integral along the vector that is orthogonal to the t_c of all classes but one depends on a single number; see
`meanfield.theories.single_layer.compiled.marginal`. What is left has one dimension less, and a tenth of the nodes. It
is split into no regions: where codes overlap, their shares need not be unknowns.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from meanfield.numerics.lattice_basis import aliasing, aliasing_length, unit_basis, unlike_shift
from meanfield.numerics.limits import check_time
from meanfield.theories.single_layer.compiled.marginal import marginal_value
from meanfield.theories.single_layer.compiled.product import product_range, product_value
from meanfield.theories.single_layer.readout.check import extra_starts
from meanfield.theories.single_layer.readout.integral import NotIntegrable, ReadoutIntegral
from meanfield.theories.single_layer.readout.nodes import direct_samples
from meanfield.validation import FloatArray, read_only

__all__ = ["Marginal", "Value"]

_BEYOND = 20.0  # what is farther than this beyond the window, in units of P h, is not looked at
_SEEDS = 8.0  # P (h_max - h) beyond the window up to which maxima are seeds: their widths differ
_MAX_NODES = 5_000_000
_MAX_PRODUCT_NODES = 100_000_000  # of all outputs
_ROUGH = 1e-7  # accuracy from which on L is on wide intervals
_WIDTH, _WIDE = 0.5, 2.0  # of the intervals of L, in those of the quick table of G


class Value(NamedTuple):
    """J at one t, with its gradient (C m,) and Hessian (C m, C m), empty where it was not asked for."""

    objective: float
    gradient: FloatArray
    hessian: FloatArray
    n_nodes: int


@lru_cache(maxsize=16)
def _inverse(d: int) -> FloatArray:
    return np.asarray(np.linalg.inv(unit_basis(d)), dtype=np.float64)


@lru_cache(maxsize=64)
def _lengths(d: int, accuracy: float, n_samples: float) -> FloatArray:
    return read_only(np.array([aliasing_length(n, 0.5 * accuracy, n_samples) for n in (d, 1)]))


class Marginal:
    """J of a task with as many classes as outputs, bounded phi, by sums with one class integrated out.

    Attributes
    ----------
    refinement : float
        Lattices are finer by this factor than their accuracy demands.
    level : float
        Maximum of h, and `seeds` all its maxima that carry weight, at the t where they were last looked for.
    """

    def __init__(self, problem: ReadoutIntegral) -> None:
        self.problem = problem
        self.refinement = 1.0
        self.level = np.nan
        self.seeds = np.empty((0, problem.y.shape[1]))

    def look_for_maxima(self, t: FloatArray, accuracy: float, extra: FloatArray | None = None) -> None:
        """Maxima of h from the last ones, the code words, and from `extra` and all signs where these are given."""
        problem = self.problem
        maxima, height = problem.maxima(t, extra, on_the_way=extra is None)
        if len(height) == 0 or not math.isfinite(height[0]):
            raise NotIntegrable(f"at P = {problem.asked:g} the readout posterior has no maximum at a trial step.")
        self.level = float(height[0])
        self.seeds = maxima[problem.n_samples * (height - height[0]) > -_SEEDS - problem.window(accuracy)]

    def lengths(self, accuracy: float) -> FloatArray:
        """Of the lattice of b and of the steps of x, each for half of the accuracy."""
        return self.refinement * _lengths(len(self.problem.p) - 1, accuracy, self.problem.n_samples)

    def aliasing(self, accuracy: float) -> float:
        """Relative error of the sum: that over b and that over x."""
        d, n_samples = len(self.problem.p) - 1, self.problem.n_samples
        return sum(aliasing(n, float(x), n_samples) for n, x in zip((d, 1), self.lengths(accuracy), strict=True))

    def _radius(self, accuracy: float) -> float:
        return math.sqrt(2.0 * (self.problem.window(accuracy) + _BEYOND) / self.problem.n_samples)

    def value(self, t: FloatArray, accuracy: float, hessian: bool) -> Value:
        """J at t with its derivatives.

        Raises
        ------
        NotIntegrable
            If the lattice would be too large, or the t_c are dependent.
        """
        check_time()
        problem, d = self.problem, len(t) - 1
        gradient, matrix = np.empty(t.size), np.empty((t.size, t.size) if hessian else (0, 0))
        width = self.refinement * (_WIDE if accuracy >= _ROUGH else _WIDTH) / problem.quick.inverse
        n_nodes, objective = marginal_value(
            problem.quick, problem.p, problem.y, problem.tau, problem.n_samples, *problem.range, t, self.seeds,
            unit_basis(d), _inverse(d), self.lengths(accuracy), problem.window(accuracy), self._radius(accuracy), width,
            _MAX_NODES, hessian, gradient, matrix,
        )  # fmt: skip
        if n_nodes <= 0 or not math.isfinite(objective + gradient.sum() + matrix.sum()):
            raise NotIntegrable(f"at P = {problem.asked:g} the readout posterior of a trial step is out of reach.")
        return Value(objective, gradient, matrix, n_nodes)

    def checked(self, t: FloatArray, accuracy: float) -> Value:
        """J and its gradient from direct evaluations of G, node by node on other lattices.

        Another class than in `value` has a lattice of its own; maxima of h are searched again, from more starts.
        """
        problem, d = self.problem, len(t) - 1
        self.look_for_maxima(t, accuracy, extra_starts(problem, t))
        shift, x_shift, lengths = unlike_shift(d), float(unlike_shift(1)[0]), self.lengths(accuracy)
        lattice = unit_basis(d), _inverse(d), lengths, shift, x_shift
        radius = self._radius(accuracy)
        fits, low, high = product_range(problem.p, t, *problem.range, problem.n_samples, *lattice, radius)
        if not fits:
            raise NotIntegrable("the box around the readout posterior is too large.")
        samples = direct_samples(problem.single_site)
        grid = samples.cover(low, high)
        if grid is None:
            raise NotIntegrable("|kappa| is beyond direct samples.")
        check_time()
        gradient = np.empty(t.size)
        n_nodes, objective = product_value(
            grid[1], samples.step, grid[0], problem.p, problem.y, problem.tau, problem.n_samples, *problem.range, t,
            self.seeds, self.level, *lattice, problem.window(accuracy), radius, _MAX_PRODUCT_NODES, gradient,
        )  # fmt: skip
        if n_nodes <= 0 or not math.isfinite(objective):
            raise NotIntegrable("the readout posterior covers too many nodes.")
        return Value(objective, gradient, np.empty((0, 0)), n_nodes)
