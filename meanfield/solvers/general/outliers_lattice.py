"""The bulk of an unbounded activation on any data where it is not separated from the outlier directions.

With few or strongly correlated samples the readout posterior has no gap between bulk and outliers, but ridges along the
directions in which t comes close to the edge of its cone. They are integrated with the bulk on the readout lattice,
with the weights by expectation propagation at every node, up to |a| = `reach`. Neurons beyond it count as outliers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from meanfield.activation import Activation
from meanfield.solvers.general.compiled.ep import EP
from meanfield.solvers.general.lattice import Lattice, Nodes, grow, search
from meanfield.solvers.general.neuron import Neuron, Readouts, components, joined
from meanfield.validation import FloatArray

__all__ = ["BoundedNeuron", "LatticeBulk", "lattice_bulk"]

_KEPT = 12.0  # nodes this far below the maximum are kept from one t to the next


class BoundedNeuron(Neuron):
    """A neuron whose readouts beyond |a| = `reach` have no weight (and cost nothing)."""

    # At the foot of a ridge P(w | a) is wide, and |z| many prior deviations: expectation propagation is slow there. (On
    # the ridge of one maximum of q E phi is accurate; where w spreads over several it is off by some per cent.)
    cap = 200
    room = 100.0

    def __init__(self, activation: Activation, matrix: FloatArray, prior: float, reach: float) -> None:
        super().__init__(activation, matrix, prior)
        self.reach = reach

    def evaluate(
        self,
        t: FloatArray,
        readout: FloatArray,
        start: tuple[FloatArray, FloatArray] | None = None,
        tolerance: float | FloatArray = 1e-6,
        *rest: Any,
        **options: Any,
    ) -> Readouts:
        beyond = np.linalg.norm(readout, axis=1) > self.reach
        if not beyond.any() or beyond.all():
            at = super().evaluate(t, readout, start, tolerance, *rest, **options)
            at.exponent[beyond] = -np.inf
            return at
        within = np.flatnonzero(~beyond)
        tolerance = np.broadcast_to(np.asarray(tolerance, dtype=float), (len(readout),))[within]
        some = None if start is None else (start[0][within], start[1][within])
        at = super().evaluate(t, readout[within], some, tolerance, *rest, **options)
        outside = at.take(np.zeros(int(beyond.sum()), dtype=np.int64))
        outside.readout, outside.exponent = readout[beyond], np.full(len(outside), -np.inf)
        outside.status = np.zeros(len(outside), dtype=at.status.dtype)
        return joined([at, outside]).take(np.argsort(np.concatenate([within, np.flatnonzero(beyond)])))


@dataclass(frozen=True)
class LatticeBulk:
    """The bulk at one t as a sum over lattice nodes; the names mean what they do in `joint.Joint`."""

    neuron: Neuron
    nodes: Nodes
    log_z: float
    mean_a_phi: FloatArray
    iterations: int

    @property
    def extrapolated(self) -> float:
        """Weight of the nodes on which expectation propagation failed."""
        return float(self.nodes.weight[self.nodes.at.status != EP].sum())

    @property
    def readout(self) -> FloatArray:
        """(m,) mean readout."""
        return np.asarray(self.nodes.weight @ self.nodes.at.readout)

    def hessian(self, basis: FloatArray | None) -> FloatArray:
        """d^2 log Z / dt^2, nearly (the response of the sites left out); with t = basis @ theta where one is given."""
        nodes = self.nodes.take(np.flatnonzero(self.nodes.weight > 0.0))
        weight = nodes.weight
        inner = self.neuron.curvature(components(nodes.at, weight), basis)
        size = inner.shape[0] * inner.shape[1]
        phi = nodes.at.phi if basis is None else nodes.at.phi @ basis
        rows = (phi[:, :, None] * nodes.at.readout[:, None, :]).reshape(len(weight), size)
        rows -= weight @ rows
        return np.asarray(inner.reshape(size, size) + (rows.T * weight) @ rows)


def lattice_bulk(
    neuron: BoundedNeuron, t: FloatArray, lattice: Lattice, start: LatticeBulk | None, tolerance: float
) -> LatticeBulk | None:
    """Sum over the nodes within the window of the largest, grown from those at a neighbouring t.

    None where expectation propagation fails everywhere, or the nodes are too many.
    """
    if start is None:
        found = search(neuron, t, np.zeros((1, t.shape[1])), lattice)
        index = np.unique(lattice.nearest(np.vstack([found.readout, np.zeros((1, t.shape[1]))])), axis=0)
        nodes = Nodes(lattice, t, index, neuron.evaluate(t, lattice.readouts(index), tolerance=tolerance))
    else:
        # Extrapolated nodes start afresh from a neighbour: extrapolation from one t to the next would pile up.
        known = start.nodes.take(np.flatnonzero(start.nodes.at.status == EP))
        nodes = Nodes(lattice, t, known.index, neuron.moved(known.at, known.t, t, tolerance))
        # While a ridge was heavier than all the rest, the rest may have been dropped.
        centre = lattice.nearest(np.zeros((1, t.shape[1])))
        if not (nodes.index == centre).all(axis=1).any():
            at = joined([nodes.at, neuron.evaluate(t, lattice.readouts(centre), tolerance=tolerance)])
            nodes = Nodes(lattice, t, np.concatenate([nodes.index, centre]), at)
    usable = nodes.at.ok & np.isfinite(nodes.at.exponent)
    if not usable.any():
        return None
    try:
        nodes = grow(neuron, nodes.take(np.flatnonzero(usable)), tolerance)
    except MemoryError:
        return None
    nodes = nodes.take(np.flatnonzero(nodes.depth < _KEPT))
    mean_a_phi = (nodes.at.phi.T * nodes.weight) @ nodes.at.readout
    return LatticeBulk(neuron, nodes, nodes.log_integral, mean_a_phi, int(nodes.at.iterations.max()))
