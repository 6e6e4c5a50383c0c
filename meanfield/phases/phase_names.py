"""Codes and phases of the points of a sweep, by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from meanfield.phases.kept import has_kept
from meanfield.phases.points import GridOfPoints
from meanfield.phases.raster import posterior_at
from meanfield.posterior.division import Division
from meanfield.posterior.parts import code_pattern
from meanfield.posterior.registry import division_of
from meanfield.problem.network import Network
from meanfield.theories.single_layer.compiled.sweep import CONVERGED
from meanfield.validation import BoolArray, FloatArray, IntArray

__all__ = ["PhaseNames"]

_PRESENT = 1e-9  # weight above which a code is part of the phase
_SHARED = 1e-7  # overlap of two classes in the outliers, relative to the largest, from which they share some
_PRESENT_SOFT = 1e-3  # the same at finite P, where every code has some neurons


class PhaseNames(GridOfPoints):
    """Which codes every point has, and the phases that they make."""

    def present(self, i: int) -> float:
        """Weight above which a code is part of the phase at point i: any at P = infinity, a thousandth elsewhere."""
        return _PRESENT_SOFT if math.isfinite(self.problem(i).task.n_samples) else _PRESENT

    @cached_property
    def patterns(self) -> list[tuple[str, ...]]:
        """Labels of the codes of each point."""
        found = []
        for i, problem in enumerate(self.problems()):
            if has_kept(self.points.packed, i):
                found.append(tuple(code.pattern for code in posterior_at(self.points, i, problem).codes))
                continue
            readout = self.points.readout[i, : int(self.points.column("n_codes")[i])]
            kappa = readout @ self.points.t[i].T
            found.append(tuple(_labels(problem.network, kappa)))
        return found

    @cached_property
    def codes(self) -> tuple[str, ...]:
        """Patterns of all codes met, the heaviest on average first."""
        total: dict[str, float] = {}
        for patterns, weight in zip(self.patterns, self.points.weight, strict=True):
            for pattern, value in zip(patterns, weight):
                total[pattern] = total.get(pattern, 0.0) + float(value)
        return tuple(sorted(total, key=lambda pattern: (-round(total[pattern], 9), pattern)))

    def weights(self, pattern: str) -> FloatArray:
        """Weight P_gamma of the code(s) with this label at every point; NaN where the point is not certified.

        Raises
        ------
        ValueError
            For a code that occurs nowhere.
        """
        if pattern not in self.codes:
            raise ValueError(f"no point has a code {pattern!r}; there are {', '.join(self.codes) or 'none'}.")
        weight = np.zeros(len(self.patterns))
        for i, patterns in enumerate(self.patterns):
            mine = [k for k, found in enumerate(patterns) if found == pattern]
            weight[i] = self.points.weight[i, mine].sum()
        return np.where(self.certified, self._grid(weight), np.nan)

    @cached_property
    def division(self) -> Division:
        """How the neurons of these networks divide into parts."""
        return division_of(self.network, self.task)

    @cached_property
    def _phases(self) -> tuple[dict[str, frozenset[str]], IntArray]:
        """Names of the phases with the codes that tell them from others, and the phase of every point."""
        telling: dict[str, frozenset[str]] = {}
        index = np.full(len(self.patterns), -1)
        status = self.points.column("status")
        for i, patterns in enumerate(self.patterns):
            if status[i] == CONVERGED:
                present = [pattern for pattern, w in zip(patterns, self.points.weight[i]) if w > self.present(i)]
                name = self._phase_name(i, present)
                telling.setdefault(name, self.division.telling(present))
                index[i] = list(telling).index(name)
        return telling, self._grid(index)

    def _phase_name(self, i: int, patterns: Sequence[str]) -> str:
        """The codes present; with outliers, which classes share them."""
        present = sorted(patterns, key=lambda pattern: (pattern.count("1"), pattern))
        counted = []
        for pattern in dict.fromkeys(present):
            # At finite P one code may be found as several maxima of a flat ridge.
            times = present.count(pattern) if self.present(i) == _PRESENT else 1
            counted.append("-".join(pattern) + (f" ×{times}" if times > 1 else ""))
        return self.division.phase_name(counted, len(present), self._sharing(i))

    def _sharing(self, i: int) -> list[str]:
        """Which classes drive outliers, joined by + where outliers are shared: the zeros of sum_o z_oc z_oc'.

        Joined are classes of which any two share some; 1+2, 1+3 is another phase than 1+2+3, and so is 1+2+3 with fewer
        outliers than span a cone, 1+2+3 (1 alone).
        """
        weight = self.points.outlier_weight[i]
        keep = weight > _PRESENT
        if not keep.any():
            return []
        g_minus, g_plus = self.network.activation.growth
        kappa = self.points.outlier_direction[i][keep] @ self.points.t[i].T
        # Where phi grows on both sides, the steeper one says whose outlier it is.
        on_plus, on_minus = (np.sqrt(g) if g >= other else 0.0 for g, other in ((g_plus, g_minus), (g_minus, g_plus)))
        zbar = np.where(kappa > 0, on_plus, on_minus) * kappa
        overlap = np.abs(zbar.T * weight[keep]) @ np.abs(zbar)
        linked = overlap > _SHARED * overlap.max()
        labels, m = self.task.class_names, self.task.n_outputs
        found = []
        for group in _sets_of_linked(linked):
            inside = sorted(group)
            rank = int(np.linalg.matrix_rank(overlap[np.ix_(inside, inside)], tol=_SHARED * overlap.max()))
            few = f" ({rank} alone)" if rank < min(len(inside), m) else ""
            found.append("+".join(labels[c] for c in inside) + few)
        return sorted(found)

    @property
    def phase_labels(self) -> tuple[str, ...]:
        """Names of the phases met."""
        return tuple(self._phases[0])

    @property
    def phase_codes(self) -> tuple[frozenset[str], ...]:
        """Patterns of the codes that tell each phase from others; what tells phases with outliers is not in them."""
        return tuple(self._phases[0].values())

    @property
    def phase(self) -> IntArray:
        """Int array: index into `phase_labels`; -1 where the point is not certified."""
        return self._phases[1]


def _labels(network: Network, kappa: FloatArray) -> list[str]:
    """Code patterns for kappa (n, C): which classes have a mean activation above the midpoint of phi."""
    from meanfield.activations.cumulant import cumulant

    mean = cumulant(network.activation, network.k).direct(kappa)[1]
    return [code_pattern(network, row) for row in mean]


def _sets_of_linked(linked: BoolArray) -> list[frozenset[int]]:
    """The largest sets of classes any two of which are linked; classes not linked to themselves are in none."""
    sets: list[frozenset[int]] = []
    for c in np.flatnonzero(np.diag(linked)).tolist():
        near = {d for d in range(c) if linked[c, d]}
        grown = [group & near | {c} for group in sets] + [frozenset({c})]
        sets = [group for group in sets if not group <= near] + grown
        sets = [one for one in dict.fromkeys(sets) if not any(one < other for other in sets)]
    return sets
