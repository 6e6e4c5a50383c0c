"""From orbits of codes in reduced coordinates to a solution: listed where they are few, else as orbits."""

from __future__ import annotations

import math

import numpy as np

from meanfield.activations.cumulant import cumulant
from meanfield.posterior.certificate import Certificate
from meanfield.posterior.status import Status
from meanfield.problem.network import Network
from meanfield.theories.single_layer.kinds.classes import ClassKinds, averaged_over_orbits
from meanfield.theories.single_layer.kinds.solver import KindSolution
from meanfield.theories.single_layer.solution import Solution, heaviest_first
from meanfield.validation import FloatArray

__all__ = ["solution_of_kinds"]

_LISTED = 256  # codes; more are reported as orbits
_RANK = 1e-9  # singular values below this fraction of the largest count as zero


def solution_of_kinds(
    kinds: ClassKinds, point: KindSolution | None, network: Network, tau: float, status: Status, message: str
) -> Solution:
    """Physical units restored; without a point, a solution that says so."""
    if point is None:
        return _nothing(kinds, tau, status, message)
    sizes = [
        math.prod(math.comb(int(n), int(j)) for n, j in zip(kinds.n, counts, strict=True)) for counts in point.counts
    ]
    total = sum(sizes)
    t = kinds.order_parameters(point.theta)
    listed = total <= _LISTED
    if listed or total <= t.size:
        members = [kinds.members(counts) for counts in point.counts]
        weights = np.repeat(point.weights / sizes, sizes)
        rows = [kinds.readout(v, upper) for v, own in zip(point.v, members, strict=True) for upper in own]
        readouts = np.array(rows)
        nullity = total - _rank(network, t, readouts)
    else:
        nullity = total - (len(t) * kinds.span + 1)
    if not listed:
        weights = point.weights
        readouts = kinds.first_readouts(point.v, point.counts)
    t_nullity = _free_order_parameters(kinds, point, network, t)
    notes = []
    least = "" if listed else "at least "
    if not listed:
        notes.append(
            f"{total:.6g} codes differ by permutations of exchangeable classes only; one of each orbit is reported, "
            "with the weight of all"
        )
    if nullity:
        notes.append(
            f"the code weights are not unique ({least}{nullity:.6g} free directions): those of the P -> infinity limit "
            "of the finite-P theory are reported"
        )
    if t_nullity:
        notes.append(
            f"the order parameters t are not unique ({t_nullity} free directions): those of least norm, the limit "
            "tau -> 0, are reported"
        )
    order = heaviest_first(weights, readouts)
    m, sigma_a = t.shape[1], network.sigma_a
    return Solution(
        t=t / sigma_a,
        objective=point.objective,
        level=point.level,
        readout=readouts[order] * sigma_a,
        weight=weights[order],
        outlier_direction=np.empty((0, m)),
        outlier_weight=np.empty(0),
        certificate=Certificate(
            kkt_residual=point.residual * max(1.0, sigma_a),
            duality_gap=point.gap,
            bound_gap=point.excess,
            global_check=status == Status.OPTIMAL,
            unique=nullity + t_nullity == 0,
            nullity=nullity + t_nullity,
            boxes=point.boxes,
        ),
        status=status,
        message=message,
        notes=tuple(notes),
        tau=tau,
        kind=None if listed else kinds.kind.astype(float),
    )


def _nothing(kinds: ClassKinds, tau: float, status: Status, message: str) -> Solution:
    n_classes, m = kinds.simplex.shape
    return Solution(
        t=np.zeros((n_classes, m)),
        objective=math.inf,
        level=0.0,
        readout=np.zeros((1, m)),
        weight=np.ones(1),
        outlier_direction=np.empty((0, m)),
        outlier_weight=np.empty(0),
        certificate=Certificate(math.inf, math.inf, math.inf, global_check=False, unique=False),
        status=status,
        message=message,
        tau=tau,
    )


def _rank(network: Network, t: FloatArray, readouts: FloatArray) -> int:
    """Rank of what the codes contribute to the outputs and to the total weight."""
    _, first, _ = cumulant(network.activation, network.k).direct(readouts @ t.T)  # (n, C)
    columns = (first[:, :, None] * readouts[:, None, :]).reshape(len(readouts), -1)
    return int(np.linalg.matrix_rank(np.column_stack([columns, np.ones(len(readouts))]), rtol=_RANK))


def _free_order_parameters(kinds: ClassKinds, point: KindSolution, network: Network, t: FloatArray) -> int:
    """Dimension of the family of optimal t, for tau = 0.

    The second derivative of J is at least sum_gamma P_gamma p_c G''_c a a^T: none in the span of the targets where the
    readouts span it. Outside, it is that of sum_gamma P_gamma (sum_c p_c G'_c delta_c)^2 / 2.
    """
    outside = t.shape[1] - kinds.span
    readouts = kinds.first_readouts(point.v, point.counts)
    inside = kinds.span - int(np.linalg.matrix_rank(kinds.moments(readouts, point.weights)[1], rtol=1e-10))
    if not outside:
        return inside
    _, first, _ = cumulant(network.activation, network.k).direct(readouts @ t.T)
    kernel = averaged_over_orbits(kinds.kind, (first.T * point.weights) @ first)
    return inside + outside * (len(t) - int(np.linalg.matrix_rank(kernel, rtol=1e-10)))
