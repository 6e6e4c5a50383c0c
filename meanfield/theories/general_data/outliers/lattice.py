"""The bulk of an unbounded activation on any data where it is not separated from the outlier directions.

With few or strongly correlated samples the readout posterior has no gap between bulk and outliers, but ridges along the
directions in which t comes close to the edge of its cone. They are integrated with the bulk on the readout lattice,
with the weights by expectation propagation at every node, up to |a| = `reach`. Neurons beyond it count as outliers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.general_data.compiled.ep import EP
from meanfield.theories.general_data.compiled.mixed import evaluate_mixed
from meanfield.theories.general_data.lattice.nodes import Lattice, LatticeNodes, grow, search
from meanfield.theories.general_data.neuron import Neuron, Readouts, components, join
from meanfield.validation import BoolArray, FloatArray

__all__ = ["BoundedNeuron", "LatticeBulk", "lattice_bulk"]

_DAMPINGS = np.array([1.0, 0.8, 0.4])  # from known sites, then from zero sites
_LAST_CAP = 30  # iterations of the one attempt where it failed before
_SWEEPS = 3  # for higher fixed points
_HIGHER = 1e-4  # of log Z
_KEPT = 12.0  # nodes this far below the maximum are kept from one t to the next


class BoundedNeuron(Neuron):
    """A neuron whose readouts beyond |a| = `reach` have no weight (and cost nothing)."""

    # At the foot of a ridge P(w | a) is wide, and |z| many prior deviations: expectation propagation is slow there. (On
    # the ridge of one maximum of q E phi is accurate; where w spreads over several it is off by some per cent.)
    cap = 100
    room = 100.0
    compiled = staticmethod(evaluate_mixed)

    def __init__(self, activation: Activation, matrix: FloatArray, prior: float, reach: float) -> None:
        super().__init__(activation, matrix, prior)
        self.reach = reach
        self.hopeless: set[bytes] = set()  # readouts where expectation propagation failed the last time

    def evaluate(
        self,
        t: FloatArray,
        readout: FloatArray,
        start: tuple[FloatArray, FloatArray] | None = None,
        tolerance: float | FloatArray = 1e-6,
        *rest: Any,
        **options: Any,
    ) -> Readouts:
        if not len(readout):
            return super().evaluate(t, readout, start, tolerance, *rest, **options)
        beyond = np.linalg.norm(readout, axis=1) > self.reach
        names = [a.round(9).tobytes() for a in readout]
        # Where it failed before, one attempt is enough.
        hopeless = ~beyond & np.array([name in self.hopeless for name in names], dtype=bool)
        tolerance = np.broadcast_to(np.asarray(tolerance, dtype=float), (len(readout),))
        parts, order = [], []
        once = {**options, "dampings": _DAMPINGS[:2] if start is None else _DAMPINGS[:1]}
        for rows, more in ((~beyond & ~hopeless, options), (hopeless, once)):
            if rows.any():
                self.cap = _LAST_CAP if more is not options else type(self).cap
                some = None if start is None else (start[0][rows], start[1][rows])
                parts.append(super().evaluate(t, readout[rows], some, tolerance[rows], *rest, **more))
                order.append(np.flatnonzero(rows))
        if beyond.any():
            source = parts[0] if parts else super().evaluate(t, readout[:1], None, 1e-3, *rest, **options)
            outside = source.take(np.zeros(int(beyond.sum()), dtype=np.int64))
            outside.readout, outside.exponent = readout[beyond], np.full(len(outside), -np.inf)
            outside.status, outside.phi = np.full_like(outside.status, EP), np.zeros_like(outside.phi)
            parts.append(outside)
            order.append(np.flatnonzero(beyond))
        self.cap = type(self).cap
        at = join(parts).take(np.argsort(np.concatenate(order)))
        self.hopeless -= {name for name, failed in zip(names, ~at.ok) if not failed}
        self.hopeless |= {name for name, failed in zip(names, ~at.ok) if failed}
        return at


@dataclass(frozen=True)
class LatticeBulk:
    """The bulk at one t as a sum over lattice nodes; the names mean what they do in `joint.Joint`."""

    neuron: Neuron
    nodes: LatticeNodes
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


def add(neuron: BoundedNeuron, nodes: LatticeNodes, near: FloatArray, tolerance: float) -> LatticeNodes:
    """With the nodes to which ascents from readouts `near` (n, m) lead, where they are not among the known ones."""
    lattice, t = nodes.lattice, nodes.t

    def unknown(readout: FloatArray) -> BoolArray:
        index = np.unique(lattice.nearest(readout), axis=0)
        known = (index[:, None] == nodes.index).all(axis=2).any(axis=1)
        return index[~known & (np.linalg.norm(lattice.readouts(index), axis=1) <= neuron.reach)]

    first = unknown(near)
    if not len(first):
        return nodes
    found = search(neuron, t, lattice.readouts(first), lattice)
    index = unknown(np.vstack([lattice.readouts(first), found.readout]))
    at = join([nodes.at, neuron.evaluate(t, lattice.readouts(index), tolerance=tolerance)])
    return LatticeNodes(lattice, t, np.concatenate([nodes.index, index]), at)


def raise_heights(neuron: BoundedNeuron, nodes: LatticeNodes, tolerance: float) -> LatticeNodes:
    """With the larger log Z where a start from a neighbour farther out, or farther in, leads to another fixed point.

    Where P(w | a) has several maxima there is a fixed point for each, and the sum over them is nearest to the largest.
    """
    length = np.linalg.norm(nodes.at.readout, axis=1)
    distance = np.abs(nodes.index[:, None] - nodes.index[None]).max(axis=2)
    near = (distance == 1) & (nodes.at.status == EP)
    changed = np.ones(len(nodes.at), dtype=bool)
    at = nodes.at.take(slice(None))
    for _ in range(_SWEEPS):
        before, changed = changed, np.zeros(len(nodes.at), dtype=bool)
        for sign in (1.0, -1.0):
            source = np.argmax(np.where(near, sign * length, -np.inf), axis=1)
            rows = np.flatnonzero(near.any(axis=1) & before[source] & nodes.inside)
            if not rows.size:
                continue
            sites = at.s[source[rows]], at.nu[source[rows]]
            new = neuron.evaluate(nodes.t, at.readout[rows], sites, tolerance, dampings=_DAMPINGS[:1])
            better = (new.status == EP) & ((new.exponent > at.exponent[rows] + _HIGHER) | (at.status[rows] != EP))
            at.assign(rows[better], new.take(better))
            changed[rows[better]] = True
    return LatticeNodes(nodes.lattice, nodes.t, nodes.index, at)


def lattice_bulk(
    neuron: BoundedNeuron,
    t: FloatArray,
    lattice: Lattice,
    start: LatticeBulk | None,
    tolerance: float,
    seeds: FloatArray,
    thorough: bool = False,
) -> LatticeBulk | None:
    """Sum over the nodes within the window of the largest, grown from those at a neighbouring t.

    None where expectation propagation fails everywhere, or the nodes are too many.
    """
    if start is None:
        found = search(neuron, t, np.zeros((1, t.shape[1])), lattice)
        index = np.unique(lattice.nearest(np.vstack([found.readout, np.zeros((1, t.shape[1]))])), axis=0)
        nodes = LatticeNodes(lattice, t, index, neuron.evaluate(t, lattice.readouts(index), tolerance=tolerance))
    elif start.nodes.lattice.step != lattice.step:
        other = start.nodes.at.take(np.flatnonzero(start.nodes.at.status == EP))
        index, first = np.unique(lattice.nearest(other.readout), axis=0, return_index=True)
        sites = other.s[first], other.nu[first]
        nodes = LatticeNodes(lattice, t, index, neuron.evaluate(t, lattice.readouts(index), sites, tolerance))
    else:
        # Extrapolated nodes start afresh from a neighbour: extrapolation from one t to the next would pile up.
        known = start.nodes.take(np.flatnonzero(start.nodes.at.status == EP))
        nodes = LatticeNodes(lattice, t, known.index, neuron.move(known.at, known.t, t, tolerance))
        # While a ridge was heavier than all the rest, the rest may have been dropped; and the other way round.
        nodes = add(neuron, nodes, np.vstack([np.zeros((1, t.shape[1])), seeds]), tolerance)
    usable = nodes.at.ok & np.isfinite(nodes.at.exponent)
    if not usable.any():
        return None
    try:
        nodes = grow(neuron, nodes.take(np.flatnonzero(usable)), tolerance)
    except MemoryError:
        return None
    if thorough:
        nodes = grow(neuron, raise_heights(neuron, nodes, tolerance), tolerance)
    nodes = nodes.take(np.flatnonzero(nodes.depth < _KEPT))
    mean_a_phi = (nodes.at.phi.T * nodes.weight) @ nodes.at.readout
    return LatticeBulk(neuron, nodes, nodes.log_integral, mean_a_phi, int(nodes.at.iterations.max()))
