"""Readout lattice: where the single-neuron posterior P(a) carries weight (general_data/THEORY.md, "Readout lattice").

a = step (n + shift) with integers n whose coordinates are all even or all odd: the body-centred lattice. Its dual has
shortest vector 2 pi / d for step = d / sqrt 2 (d for one output), so a sum over it integrates P(a), a positive measure
convolved with N(0, s2), as accurately as the cubic lattice of spacing d does, with 2^(m/2 - 1) times fewer nodes.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from meanfield.theories.general_data.compiled.ep import FAILED, VGA
from meanfield.theories.general_data.neuron import EXTRAPOLATED, Neuron, Readouts, join
from meanfield.validation import BoolArray, FloatArray, IntArray, Rows

__all__ = ["Frozen", "Lattice", "LatticeNodes", "basins", "grow", "search", "soften"]

_MARGIN = 0.5  # neighbours predicted to lie this far below the window are not evaluated
_MAX_NODES = 40_000
_SOFT_EIGENVALUE = 0.3  # of A: below it P(w | a) is taken to be bimodal
_SOFT_WINDOW = 5.0  # nodes this far below the top are worth integrating along a soft direction
_MAX_DIRECTIONS = 8


@dataclass(frozen=True, eq=False)
class Frozen:
    """Fixed fractions p_g of the neurons per code; a readout belongs to the code of the nearest of `centres` (c, m)."""

    centres: FloatArray
    code: IntArray  # (c,) integers
    fractions: FloatArray  # (g,)

    def code_of(self, readout: FloatArray) -> IntArray:
        distance = np.sum((readout[:, None] - self.centres) ** 2, axis=2)
        return self.code[np.argmin(distance, axis=1)]


@dataclass(frozen=True, eq=False)
class Lattice:
    """Body-centred lattice, as accurate as spacing d = `spacing` sqrt(s2); nodes down to h_max - `window` count.

    `sharpness` b < 1 softens the maximum over codes: (1 / b) ln int da e^{b h} instead of ln int da e^h, on a lattice
    and in a window larger by 1 / sqrt(b) and 1 / b. For many samples h = O(P) jumps from code to code at b = 1.
    """

    outputs: int
    prior: float
    spacing: float
    window: float
    shift: float = 0.0
    frozen: Frozen | None = None
    sharpness: float = 1.0

    @property
    def step(self) -> float:
        return self.spacing * math.sqrt(self.prior / (2.0 if self.outputs > 1 else 1.0) / self.sharpness)

    @property
    def log_cell(self) -> float:
        """ln of the volume of a cell times the density of the prior at its centre."""
        m = self.outputs
        return m * math.log(self.step) + (m - 1) * math.log(2.0) - 0.5 * m * math.log(2.0 * math.pi * self.prior)

    def readouts(self, index: np.ndarray) -> FloatArray:
        return self.step * (index + self.shift)

    def nearest(self, readout: FloatArray) -> IntArray:
        """Index (n, m) of the node nearest to each readout."""
        x = readout / self.step - self.shift
        even, odd = 2.0 * np.round(0.5 * x), 2.0 * np.round(0.5 * (x - 1.0)) + 1.0
        nearer = np.sum((even - x) ** 2, axis=1) <= np.sum((odd - x) ** 2, axis=1)
        return np.where(nearer[:, None], even, odd).astype(np.int64)

    @property
    def moves(self) -> IntArray:
        """Steps to the nearest neighbours (2^m, m)."""
        return np.array(list(itertools.product((-1, 1), repeat=self.outputs)), dtype=np.int64)


@dataclass
class LatticeNodes:
    """Lattice nodes that have been evaluated at t."""

    lattice: Lattice
    t: FloatArray
    index: IntArray  # (n, m) integers
    at: Readouts

    def take(self, rows: Rows) -> LatticeNodes:
        return LatticeNodes(self.lattice, self.t, self.index[rows], self.at.take(rows))

    @cached_property
    def code(self) -> IntArray:
        """(n,) code of each node where the fractions are frozen, else 0."""
        frozen = self.lattice.frozen
        return np.zeros(len(self.at), np.int64) if frozen is None else frozen.code_of(self.at.readout)

    @property
    def fractions(self) -> FloatArray:
        return np.ones(1) if self.lattice.frozen is None else self.lattice.frozen.fractions

    @property
    def top(self) -> float:
        return float(self.at.exponent.max())

    @cached_property
    def depth(self) -> FloatArray:
        """(n,) how far each node lies below the highest of its code, times the sharpness."""
        top = np.full(len(self.fractions), -np.inf)
        np.maximum.at(top, self.code, self.at.exponent)
        return np.asarray(self.lattice.sharpness * (top[self.code] - self.at.exponent))

    @property
    def inside(self) -> BoolArray:
        """Which nodes count."""
        return self.depth < self.lattice.window

    def _sums(self) -> tuple[FloatArray, IntArray]:
        """(n,) e^{-depth} of the nodes that count, and (g,) their sums per code."""
        share = np.where(self.inside, np.exp(-self.depth), 0.0)
        return share, np.bincount(self.code, share, minlength=len(self.fractions))

    @property
    def log_integral(self) -> float:
        """ln int da N(a; 0, s2) Z(t a) over the nodes; with frozen fractions its average over the codes."""
        _, sums = self._sums()
        b = self.lattice.sharpness
        top = np.zeros(len(sums))
        top[self.code] = self.at.exponent + self.depth / b
        return float(self.fractions @ (top + np.log(sums) / b)) + self.lattice.log_cell / b

    @cached_property
    def weight(self) -> FloatArray:
        """w_i, zero outside the window (n,)."""
        share, sums = self._sums()
        return np.asarray(share * (self.fractions / sums)[self.code])

    @property
    def extrapolated(self) -> float:
        """Weight of the nodes whose EP failed."""
        return float(self.weight[self.at.status == EXTRAPOLATED].sum())


def search(
    neuron: Neuron, t: FloatArray, starts: FloatArray, lattice: Lattice, tolerance: float = 1e-3, max_steps: int = 40
) -> Readouts:
    """Where the ascent a <- s2 t^T E phi, 1.5 times over-relaxed, takes each start; where EP fails it is dropped."""
    at = neuron.evaluate(t, starts, tolerance=tolerance)
    done: list[Readouts] = []
    for _ in range(max_steps):
        at = at.take(at.ok & np.isfinite(at.exponent))
        if not len(at):
            break
        target = neuron.prior * (at.phi @ t)
        moved = at.readout + 1.5 * (target - at.readout)
        still = np.abs(target - at.readout).max(axis=1) < 0.3 * lattice.step
        if still.any():
            done.append(at.take(still))
        at, moved = at.take(~still), moved[~still]
        # Ascents that have met go on as one.
        _, first = np.unique(lattice.nearest(moved), axis=0, return_index=True)
        at, moved = at.take(first), moved[first]
        at = neuron.evaluate(t, moved, (at.s, at.nu), tolerance)
    return join([*done, at])


def _keys(index: IntArray) -> np.ndarray:
    """One integer per row of `index` (..., m)."""
    base = 1 << (60 // index.shape[-1])
    return np.asarray((index + base // 2) @ base ** np.arange(index.shape[-1], dtype=np.int64))


def _neighbours(nodes: LatticeNodes) -> tuple[IntArray, IntArray, FloatArray]:
    """Unknown neighbours (k, m) of the nodes inside the window: index, position of the parent, predicted exponent.

    Prediction: gradient at the parent, curvature from the difference of gradients to the node opposite, if known.
    """
    moves = nodes.lattice.moves
    keys = _keys(nodes.index)
    order = np.argsort(keys)
    keys = keys[order]
    parent = np.flatnonzero(nodes.inside & (nodes.at.status <= VGA))
    index = nodes.index[parent][:, None] + moves

    def position(of: IntArray) -> IntArray:
        """Position of a node among the known ones, or -1."""
        wanted = _keys(of)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[at] == wanted, order[at], -1)

    which, move = np.nonzero(position(index) < 0)
    index, parent = index[which, move], parent[which]
    step = moves[move] * nodes.lattice.step
    slope, exponent = nodes.at.slope, nodes.at.exponent
    opposite = position(index - 2 * moves[move])
    bend = np.sum((slope[parent] - slope[opposite]) * step, axis=1)
    guess = exponent[parent] + np.sum(slope[parent] * step, axis=1) + np.where(opposite < 0, 0.0, 0.5 * bend)
    best = np.argsort(-exponent[parent], kind="stable")
    _, first = np.unique(_keys(index[best]), return_index=True)
    rows = best[first]
    return index[rows], parent[rows], guess[rows]


def soften(neuron: Neuron, nodes: LatticeNodes, rows: IntArray, tolerance: float) -> LatticeNodes:
    """Integrate along a soft direction, where one serves, for the heavy nodes among `rows` whose EP is not reliable."""
    at = nodes.at.take(slice(None))
    bad = (at.status[rows] == EXTRAPOLATED) | (at.lowest[rows] < _SOFT_EIGENVALUE)
    plain = np.array([line is None for line in at.line[rows]], dtype=bool)
    rows = rows[bad & plain & (nodes.depth[rows] < _SOFT_WINDOW)]
    place = [(nodes.lattice.spacing, int(key)) for key in _keys(nodes.index[rows])]
    # A node that no direction helped is left alone until there is a new one.
    rows = (
        rows[[neuron.lines.refused.get(key, -1) < len(neuron.lines.directions) for key in place]] if rows.size else rows
    )
    if not rows.size:
        return nodes
    tried = 0
    while rows.size and tried <= len(neuron.lines.directions):
        if tried < len(neuron.lines.directions):
            choice = [tried] * len(rows)
        elif len(neuron.lines.directions) < _MAX_DIRECTIONS:
            worst = rows[np.argmax(at.exponent[rows])][None]
            if neuron.lines.soft_directions(at.readout[worst] @ nodes.t.T, at.s[worst], at.nu[worst])[0] < tried:
                break
            choice = [tried] * len(rows)
        else:
            break
        new = at.take(rows)
        neuron.lines.resolve(new, range(len(rows)), nodes.t, choice, [None] * len(rows), np.full(len(rows), tolerance))
        at.assign(rows[new.ok], new.take(new.ok))
        rows = rows[~new.ok]
        tried += 1
    for key in _keys(nodes.index[rows]):
        neuron.lines.refused[nodes.lattice.spacing, int(key)] = len(neuron.lines.directions)
    return LatticeNodes(nodes.lattice, nodes.t, nodes.index, at)


def grow(neuron: Neuron, nodes: LatticeNodes, tolerance: float, soft: bool = False) -> LatticeNodes:
    """Flood fill: neighbours of the nodes inside the window, until none is new."""
    if soft:
        nodes = soften(neuron, nodes, np.flatnonzero(nodes.inside), tolerance)
    while True:
        index, parent, guess = _neighbours(nodes)
        fall = nodes.lattice.sharpness * (nodes.at.exponent[parent] - guess)
        near = nodes.depth[parent] + fall < nodes.lattice.window + _MARGIN
        if not near.any():
            return nodes
        index, parent = index[near], parent[near]
        readout = nodes.lattice.readouts(index)
        start = nodes.at.s[parent], nodes.at.nu[parent]
        new = neuron.evaluate(nodes.t, readout, start, tolerance)
        failed = np.flatnonzero(new.status == FAILED)
        change = (readout[failed] - nodes.at.readout[parent[failed]]) @ nodes.t.T
        neuron.extrapolate(new, failed, nodes.at.take(parent[failed]), change, nodes.t)
        n = len(nodes.at)
        nodes = LatticeNodes(nodes.lattice, nodes.t, np.concatenate([nodes.index, index]), join([nodes.at, new]))
        if soft:
            nodes = soften(neuron, nodes, np.arange(n, len(nodes.at)), tolerance)
        if len(nodes.at) > _MAX_NODES:
            raise MemoryError(f"the readout posterior covers more than {_MAX_NODES} lattice nodes")


def basins(nodes: LatticeNodes, rare: float) -> IntArray:
    """(n,) label of the local maximum that steepest ascent on the lattice reaches from each node.

    Basins lighter than `rare` count to the heavier one whose highest node is nearest.
    """
    m = nodes.lattice.outputs
    moves = np.concatenate([nodes.lattice.moves, 2 * np.eye(m, dtype=np.int64), -2 * np.eye(m, dtype=np.int64)])
    keys = _keys(nodes.index)
    order = np.argsort(keys)
    wanted = _keys(nodes.index[:, None] + moves)
    at = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
    height = np.where(keys[order][at] == wanted, nodes.at.exponent[order[at]], -np.inf)
    best = np.argmax(height, axis=1)
    rows = np.arange(len(keys))
    parent = np.where(height[rows, best] > nodes.at.exponent, order[at[rows, best]], rows)
    while not np.array_equal(parent[parent], parent):
        parent = parent[parent]
    roots, label = np.unique(parent, return_inverse=True)
    share = np.bincount(label, nodes.weight)
    heavy = np.flatnonzero(share >= rare)
    distance = np.sum((nodes.at.readout[roots][:, None] - nodes.at.readout[roots[heavy]]) ** 2, axis=2)
    return np.where(share >= rare, np.searchsorted(heavy, np.arange(len(roots))), np.argmin(distance, axis=1))[label]
