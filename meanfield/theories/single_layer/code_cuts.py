"""Which code a readout belongs to where codes overlap at finite P (sigma_a = 1).

It is the one that a <- sum_c p_c G'(a.t_c) t_c leads to from there: steepest ascent of h with unit steps, which never
go down since G is convex. Steepest ascent from node to node of the lattice depends on its axes (codes of one orbit came
to differ by up to 0.04): it is the first guess, and nodes beside a change of code are looked at until none changes.

Sums over nodes know a cut to within a cell only. Along a run it is therefore found by halving, and what lies on either
side is integrated along the run; that is smooth across runs, so that their sum is nearly as good as that of all nodes.
What remains (1e-3 of the neurons at most, 1e-4 mostly) comes from cuts that run along the runs, and where three meet.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.limits import check_time
from meanfield.theories.single_layer.compiled.cuts import beside_a_cut, owners, radii, run_moments
from meanfield.theories.single_layer.compiled.lattice import code_moments
from meanfield.theories.single_layer.readout_integral import ReadoutIntegral, Sums
from meanfield.theories.single_layer.readout_nodes import Nodes
from meanfield.validation import FloatArray, IntArray

__all__ = ["moments_of_codes"]

_UNCUT = 1e-7  # share of a node beside which no cut is looked for
_UNHALVED = 1e-6  # share of what lies between two places that may hold a cut
_NEAR = 0.05  # of the distance between two codes: closer to one of them than that, a step leads nowhere else
_SLICE = 5_000  # nodes between two looks at the clock


def moments_of_codes(
    problem: ReadoutIntegral, t: FloatArray, sums: Sums, scale: FloatArray, modes: FloatArray, label: IntArray
) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    """Weights (n,), means (n, m), covariances (n, m, m) of the codes with these modes (n, m); what is beside a cut.

    `scale` (K,): mass of a node at the top of each region; `label` (N,): first guess of the code of each node, which is
    put right in place.
    """
    nodes: Nodes = sums.detail
    n, m = modes.shape
    whole = np.ones(len(nodes.runs), dtype=np.bool_)
    total, mean, square = np.zeros(n), np.zeros((n, m)), np.zeros((n, m, m))
    where = nodes.basis, nodes.shift, nodes.runs
    beside = 0.0
    if n > nodes.n_regions:  # else each is on its own
        near = radii(modes, _NEAR)
        beside = _put_right(problem, t, nodes, np.log(scale), modes, near, label)
        if beside > 0.0:
            action = problem.table, problem.p, t, problem.n_samples, sums.level
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
