"""Which code a readout belongs to where codes overlap at finite P (sigma_a = 1).

It is the one that a <- sum_c p_c G'(a.t_c) t_c leads to from there: steepest ascent of h with unit steps, which never
go down since G is convex. Steepest ascent from node to node of the lattice depends on its axes (codes of one orbit came
to differ by up to 0.04): it is the first guess, and nodes beside a change of code are looked at until none changes.

Sums over nodes know a cut to within a cell only. Along a run it is therefore found by halving, and what lies on either
side is integrated along the run. Across runs that is smooth on the scale of the widths of codes times the sine of the
angle between cut and run, which may be small. So lattices that are shifted across the runs are added (together they are
one whose runs are closer to each other), until that no longer moves the weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from meanfield.numerics.limits import check_time
from meanfield.theories.single_layer.compiled.ascent import ascend
from meanfield.theories.single_layer.compiled.cuts import beside_a_cut, owners, radii, run_moments
from meanfield.theories.single_layer.compiled.lattice import basin_roots, code_moments
from meanfield.theories.single_layer.readout.integral import ReadoutIntegral, Sums
from meanfield.theories.single_layer.readout.nodes import Nodes, fill
from meanfield.validation import BoolArray, FloatArray, IntArray

__all__ = ["lattice_codes"]

_UNCUT = 1e-7  # share of a node beside which no cut is looked for
_UNHALVED = 1e-6  # share of what lies between two places that may hold a cut
_NEAR = 0.05  # of the distance between two codes: closer to one of them than that, a step leads nowhere else
_SLICE = 5_000  # nodes between two looks at the clock
_ALIKE = 1e-5  # distance up to which two maxima are one, relative to 1 + |a|
_ASIDE = 1e-3  # of a cell
_CLEAR = 1e-4  # share of neurons beside a cut below which one lattice is enough
_STEADY = 1e-3  # change of the weights from which on runs are brought closer
_MAX_NODES = 3_000_000  # of all lattices together
_EXACT = 1e-6  # error of the weights with one output, where there is nothing across a run


class _Codes(NamedTuple):
    """Moments of the readouts of each code, around zero."""

    mode: FloatArray  # (n, m)
    weight: FloatArray  # (n,)
    first: FloatArray  # (n, m)
    second: FloatArray  # (n, m, m)

    def joined(self, other: _Codes, share: float) -> _Codes:
        """Both together, `share` of the other; its codes that are not known here are added."""
        weight, first, second = ((1.0 - share) * part for part in self[1:])
        mode = self.mode
        for k, there in enumerate(other.mode):
            same = np.flatnonzero(_is_one(mode, there))
            if same.size == 0:
                mode, same = np.vstack([mode, there]), np.array([len(mode)])
                weight = np.append(weight, 0.0)
                first = np.concatenate([first, np.zeros_like(first[:1])])
                second = np.concatenate([second, np.zeros_like(second[:1])])
            weight[same[0]] += share * other.weight[k]
            first[same[0]] += share * other.first[k]
            second[same[0]] += share * other.second[k]
        return _Codes(mode, weight, first, second)

    def change(self, before: _Codes) -> float:
        """Largest change of a weight."""
        known = np.zeros(len(self.weight))
        known[: len(before.weight)] = before.weight
        return float(np.abs(self.weight - known).max())


def lattice_codes(
    problem: ReadoutIntegral, t: FloatArray, weight: FloatArray, sums: Sums
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, float, float]:
    """Weight, mode, mean, covariance of the basin of every local maximum of h; the share that is beside a cut; the
    error of the weights where codes overlap.

    Where codes overlap, what is whose is a convention: see the head of this file.
    """
    nodes: Nodes = sums.detail
    scale = weight / np.exp(sums.log_share - nodes.log_cell(problem.n_samples) - problem.n_samples * sums.level)
    codes, beside = _on(problem, t, sums, nodes, scale)
    m, error = t.shape[1], _EXACT if t.shape[1] == 1 else beside
    lattices = 1
    for shifts in _between_runs(m) if beside > _CLEAR else ():
        if len(nodes) * (lattices + len(shifts)) > _MAX_NODES:
            break
        before = codes
        for shift in shifts:
            more = _shifted(problem, t, sums, nodes, shift)
            found, _ = _on(problem, t, sums, more, np.full(more.n_regions, 1.0 / np.exp(more.exponent).sum()))
            lattices += 1
            codes = codes.joined(found, 1.0 / lattices)
        error = codes.change(before)
        if error < _STEADY:
            break
    codes = _Codes(*(part[codes.weight > 0.0] for part in codes))
    mean = codes.first / codes.weight[:, None]
    covariance = codes.second / codes.weight[:, None, None] - mean[:, :, None] * mean[:, None, :]
    return codes.weight, codes.mode, mean, covariance, beside, error


def _between_runs(m: int) -> Iterator[list[FloatArray]]:
    """Shifts, in basis vectors, of lattices that are added together.

    Runs of the first lie in the middle between those there are, those of all up to the second and third set at half and
    a quarter of the distance from each other.
    """
    halves = [np.array([0.0, *steps]) / 2.0 for steps in itertools.product((1, 0), repeat=m - 1) if any(steps)]
    quarters = itertools.product(range(4), repeat=m - 1)
    yield from filter(
        None, (halves[:1], halves[1:], [np.array([0.0, *s]) / 4.0 for s in quarters if any(k % 2 for k in s)])
    )


def _shifted(problem: ReadoutIntegral, t: FloatArray, sums: Sums, nodes: Nodes, shift: FloatArray) -> Nodes:
    window = problem.window(problem.accuracy)
    return fill(
        problem.quick, problem.p, t, problem.n_samples, nodes.basis, shift, sums.maxima, sums.level, window, _MAX_NODES
    )


def _on(problem: ReadoutIntegral, t: FloatArray, sums: Sums, nodes: Nodes, scale: FloatArray) -> tuple[_Codes, float]:
    """Codes on one lattice, and the share beside a cut."""
    roots = basin_roots(nodes.exponent, nodes.runs, nodes.slots)
    tops = np.flatnonzero(roots == np.arange(roots.size))
    # Two lattice maxima can belong to one maximum of h, on a ridge that runs across the axes; one that is flat may have
    # no lattice maximum.
    modes = np.empty((0, t.shape[1]))
    aside = _ASIDE * (1.0 + np.sqrt(np.arange(len(nodes.basis)))) @ nodes.basis  # a start may be on a saddle
    code = np.empty(roots.size, dtype=np.int64)
    for i, start in zip([*tops, *[-1] * len(sums.maxima)], np.vstack([nodes.at(tops), sums.maxima]) + aside):
        ascend(problem.table, problem.p, t, start)
        known = np.flatnonzero(_is_one(modes, start))
        if not known.size:
            modes = np.vstack([modes, start])
        if i >= 0:
            code[i] = known[0] if known.size else len(modes) - 1
    label = code[roots]
    for k in set(range(len(modes))).difference(code[tops]):
        label[np.argmin(np.abs(nodes.at(np.arange(len(nodes))) - modes[k]).max(axis=1))] = k
    total, mean, covariance, beside = moments_of_codes(problem, t, nodes, sums.level, scale, modes, label)
    second = covariance + mean[:, :, None] * mean[:, None, :]
    return _Codes(modes, total, total[:, None] * mean, total[:, None, None] * second), beside


def _is_one(modes: FloatArray, a: FloatArray) -> BoolArray:
    """Which of the maxima (n, m) `a` (m,) is."""
    return np.asarray(np.abs(modes - a).max(axis=1) < _ALIKE * (1.0 + np.abs(a).max()))


def moments_of_codes(
    problem: ReadoutIntegral, t: FloatArray, nodes: Nodes, level: float, scale: FloatArray, modes: FloatArray,
    label: IntArray,
) -> tuple[FloatArray, FloatArray, FloatArray, float]:  # fmt: skip
    """Weights (n,), means (n, m), covariances (n, m, m) of the codes with these modes (n, m); what is beside a cut.

    `scale` (K,): mass of a node at the top of each region; `label` (N,): first guess of the code of each node, which is
    put right in place.
    """
    n, m = modes.shape
    whole = np.ones(len(nodes.runs), dtype=np.bool_)
    total, mean, square = np.zeros(n), np.zeros((n, m)), np.zeros((n, m, m))
    where = nodes.basis, nodes.shift, nodes.runs
    beside = 0.0
    if n > nodes.n_regions:  # else each is on its own
        near = radii(modes, _NEAR)
        beside = _put_right(problem, t, nodes, np.log(scale), modes, near, label)
        if beside > 0.0:
            action = problem.table, problem.p, t, problem.n_samples, level
            for begin, end in nodes.slices(_SLICE):
                run_moments(
                    *action, *where, begin, end, nodes.exponent, scale, _UNHALVED, modes, near, label, whole,
                    total, mean, square,
                )  # fmt: skip
    code_moments(*where, nodes.exponent, scale, modes, label, whole, total, mean, square)
    return total, mean, square, beside


def _put_right(
    problem: ReadoutIntegral, t: FloatArray, nodes: Nodes, log_scale: FloatArray, modes: FloatArray, near: FloatArray,
    label: IntArray,
) -> float:  # fmt: skip
    """Codes of nodes that carry weight, in place; the share of the neurons at nodes that have been beside a cut."""
    beside, seen = np.empty(len(nodes), dtype=np.bool_), np.zeros(len(nodes), dtype=np.bool_)
    log_mass = nodes.exponent + log_scale[nodes.region]
    while True:
        beside_a_cut(nodes.runs, nodes.slots, label, beside)
        new = np.flatnonzero(beside & ~seen)
        new = new[log_mass[new] > np.log(_UNCUT)]
        seen[new] = True
        before = label[new]
        for begin in range(0, new.size, _SLICE):
            part = new[begin : begin + _SLICE]
            found = np.empty(part.size, dtype=np.int64)
            owners(problem.table, problem.p, t, nodes.at(part), modes, near, found)
            label[part] = found
            check_time()
        if (label[new] == before).all():
            return float(np.exp(log_mass[seen]).sum())
