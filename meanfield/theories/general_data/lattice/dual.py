"""The convex dual on lattice nodes: value, gradient, Hessian, and steps accepted only on a grown set of nodes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from meanfield.theories.general_data.lattice.nodes import Lattice, LatticeNodes, _keys, grow, search
from meanfield.theories.general_data.neuron import Neuron, Readouts, components, join
from meanfield.validation import FloatArray, IntArray

__all__ = ["MAX_STEPS", "LatticeDual", "LatticeState", "class_basis", "minimise"]

_FLAT = 1e-6  # nodes below this weight do not enter the Hessian
MAX_STEPS = 80
_SEARCH_EVERY = 1.0  # distance in t after which codes are searched for again,
_SEARCH_GRADIENT = 0.02  # or at every step while |grad| is above this
_SMALLEST_RADIUS = 1e-6
_PATIENCE = 12  # steps without progress in J or in the gradient,
_POLISH = 3  # or in the gradient where it is already accepted
_ATTEMPT = 1e-3  # accuracy at which known readouts are evaluated at another t
_WIDER = 1.2  # lattice of a search, relative to the farthest node
_MISSED = 1e-4  # weight of a node that a search adds
_LOOSEST = 1e-2  # accuracy of expectation propagation at the lightest nodes
_FALLS, _LOWER = 1e-4, 1e-6  # of J: progress, and how much lower another set of nodes must be
_ROUNDING = 1e-9  # of J
_SAME_CLASS = 1e-10  # singular values below this, relative to the largest, are rounding
_CRAWL = 1e-3  # of |theta|: steps cut to less are no progress
_MOSTLY = 0.5  # of the weight: a step that has more of it extrapolated is refused
_CUT = 0.3  # of J, in units of e^-window
_NOISE = 0.03  # of J, in units of the weight of extrapolated nodes


@dataclass
class LatticeState:
    """A point t = basis theta with its nodes; gradient is that of theta (q, m)."""

    theta: FloatArray
    nodes: LatticeNodes
    objective: float
    gradient: FloatArray
    steps: int = 0

    @property
    def error(self) -> float:
        """max |dJ/dtheta|, per sample where t is restricted to a basis."""
        return float(np.abs(self.gradient).max())

    @property
    def extrapolated(self) -> float:
        """Weight of the nodes whose EP failed."""
        return self.nodes.extrapolated


class LatticeDual:
    """J(t) = -<t, Y> + (tau / 2)|t|^2 + ln int da N(a; 0, s2) Z(t a) with t = basis theta.

    basis (P, q), or None for the identity.
    """

    def __init__(
        self,
        neuron: Neuron,
        targets: FloatArray,
        tau: float,
        lattice: Lattice,
        basis: FloatArray | None,
        soft: bool = False,
    ) -> None:
        self.neuron, self.targets, self.tau, self.lattice, self.basis = neuron, targets, tau, lattice, basis
        self.soft = soft
        # Gradients of theta are reported per sample.
        self.scale = np.ones(len(targets)) if basis is None else np.sum(np.abs(basis), axis=0)

    def t(self, theta: FloatArray) -> FloatArray:
        return theta if self.basis is None else self.basis @ theta

    def reduce(self, gradient: FloatArray) -> FloatArray:
        return gradient if self.basis is None else self.basis.T @ gradient

    def objective(self, nodes: LatticeNodes) -> float:
        t = nodes.t
        return float(np.sum(t * (0.5 * self.tau * t - self.targets))) + nodes.log_integral

    def state(self, theta: FloatArray, nodes: LatticeNodes, steps: int = 0) -> LatticeState:
        gradient = self.tau * nodes.t - self.targets + (nodes.at.phi.T * nodes.weight) @ nodes.at.readout
        return LatticeState(theta, nodes, self.objective(nodes), self.reduce(gradient) / self.scale[:, None], steps)

    def hessian(self, nodes: LatticeNodes) -> FloatArray:
        """tau + sum_i w_i C_i (x) a_i a_i^T + sharpness times covariance of phi_i a_i^T over the nodes, (q m, q m)."""
        parts = components(nodes.at, nodes.weight, _FLAT)
        weight = parts.weight
        block = self.neuron.curvature(parts, self.basis)
        size = block.shape[0] * block.shape[1]
        hessian = block.reshape(size, size)
        phi = parts.phi if self.basis is None else parts.phi @ self.basis
        g = (phi[:, :, None] * parts.readout[:, None, :]).reshape(len(weight), size)
        code = nodes.code[parts.node]
        for c, fraction in enumerate(nodes.fractions):
            rows = code == c
            g[rows] -= weight[rows] @ g[rows] / fraction
        g *= np.sqrt(self.lattice.sharpness * weight)[:, None]
        hessian += g.T @ g
        metric = np.eye(self.targets.shape[0]) if self.basis is None else self.basis.T @ self.basis
        hessian += self.tau * np.kron(metric, np.eye(self.targets.shape[1]))
        return hessian

    def starts(self, reach: float, rng: np.random.Generator) -> FloatArray:
        """Readouts to ascend from: patterns of active outputs and a few random ones, of size `reach`."""
        m = self.targets.shape[1]
        if m <= 4:
            patterns = np.array(list(itertools.product((0.0, 1.0), repeat=m)))
        else:
            patterns = np.concatenate([np.zeros((1, m)), np.ones((1, m)), np.eye(m), 1.0 - np.eye(m)])
        signs = 2.0 * np.eye(m) - 1.0
        return reach * np.concatenate([patterns, signs, -signs, rng.uniform(-1, 1, (4, m))])

    def search(
        self, theta: FloatArray, reach: float, rng: np.random.Generator, tolerance: float, known: Readouts | None = None
    ) -> LatticeNodes | None:
        """Lattice nodes where ascents end, and those next to `known` readouts; None where EP fails at every start."""
        t = self.t(theta)
        found = search(self.neuron, t, self.starts(reach, rng), self.lattice)
        if known is not None:
            again = self.neuron.evaluate(t, known.readout, (known.s, known.nu), _ATTEMPT)
            found = join([found, again])
        found = found.take(found.exponent > -np.inf)
        if not len(found):
            return None
        deep = (self.lattice.window + 6.0) / self.lattice.sharpness
        found = found.take(found.exponent > found.exponent.max() - deep)
        index, first = np.unique(self.lattice.nearest(found.readout), axis=0, return_index=True)
        start = found.s[first], found.nu[first]
        at = self.neuron.evaluate(t, self.lattice.readouts(index), start, tolerance)
        nodes = LatticeNodes(self.lattice, t, index, at).take(at.ok)
        return nodes if len(nodes.at) else None

    def merge(self, nodes: LatticeNodes, more: LatticeNodes | None) -> LatticeNodes:
        """Both sets (same t), each index once."""
        if more is None:
            return nodes
        index = np.concatenate([nodes.index, more.index])
        _, first = np.unique(index, axis=0, return_index=True)
        rows = np.sort(first)
        return LatticeNodes(nodes.lattice, nodes.t, index[rows], join([nodes.at, more.at]).take(rows))

    def complete(
        self, nodes: LatticeNodes, theta: FloatArray, rng: np.random.Generator, tolerance: float, look: bool
    ) -> LatticeNodes:
        """All nodes that count at theta, from those known there; codes are searched for if `look`."""
        if look:
            reach = _WIDER * float(np.abs(nodes.at.readout).max())
            nodes = self.merge(nodes, self.search(theta, reach, rng, tolerance))
        return grow(self.neuron, nodes, tolerance, self.soft)

    def return_to(
        self, trial: LatticeNodes, old: LatticeNodes, state: LatticeState, tolerance: float
    ) -> tuple[LatticeNodes, IntArray]:
        """Nodes of `state` with those of a rejected `trial` that `old` did not have; the rows of these."""
        missing = trial.take((trial.weight > _MISSED) & ~np.isin(_keys(trial.index), _keys(old.index)))
        if not len(missing.at):
            return self.move(state.nodes.take(state.nodes.inside), state.theta, tolerance), np.empty(0, np.int64)
        back = self.move(missing, state.theta, tolerance)
        nodes = grow(self.neuron, self.merge(state.nodes, back), tolerance, self.soft)
        return nodes, np.flatnonzero(np.isin(_keys(nodes.index), _keys(back.index)))

    def move(self, nodes: LatticeNodes, theta: FloatArray, tolerance: float) -> LatticeNodes:
        """The same nodes at another theta; light ones less accurately."""
        t = self.t(theta)
        gap = np.minimum(nodes.depth, 6.0)
        at = self.neuron.move(nodes.at, nodes.t, t, np.minimum(tolerance * np.exp(np.maximum(gap, 0.0)), _LOOSEST))
        return LatticeNodes(self.lattice, t, nodes.index, at).take(at.ok)


def step_of(hessian: FloatArray, gradient: FloatArray, radius: float) -> tuple[FloatArray, float, bool]:
    """-(H + shift)^{-1} g with about the smallest shift that keeps its largest entry within `radius`.

    Returns the step, the predicted drop of J, and whether the radius limited it.
    """
    flat = gradient.ravel()
    low, high, shift = 0.0, np.inf, 0.0
    while True:
        try:
            factor = cho_factor(hessian + shift * np.eye(len(hessian)), lower=True, check_finite=False)
            step = -cho_solve(factor, flat, check_finite=False)
            length = float(np.abs(step).max())
        except LinAlgError:
            length = np.inf
        if length <= radius and (shift == 0.0 or length > 0.7 * radius or high < 1.1 * low):
            drop = -float(step @ flat) - 0.5 * float(step @ hessian @ step)
            return step.reshape(gradient.shape), drop, shift > 0.0
        if length > radius:
            low = shift
        else:
            high = shift
        if high == np.inf:
            shift = max(6.0 * low, 1e-6 * float(np.trace(hessian)) / len(hessian))
        else:
            shift = np.sqrt(low * high) if low > 0.0 else 0.1 * high


def minimise(
    dual: LatticeDual,
    state: LatticeState,
    tolerance: float,
    ep_tolerance: float,
    rng: np.random.Generator,
    report: Callable[[LatticeState, str], None],
    accepted: float = 0.0,
    max_steps: int = MAX_STEPS,
) -> LatticeState:
    """Newton's method with honest acceptance, until |grad| < tolerance or there is no more progress.

    A gradient below `accepted` is polished only as long as every few steps reduce it.
    """
    radius = 3.0
    hessian: FloatArray | None = None
    extra = np.empty(0, dtype=np.int64)  # rows of the state's nodes that matter only at a rejected trial
    travelled = np.inf  # since the last search for codes
    best, mark, stalled, crawls = np.inf, np.inf, 0, False
    for step_count in range(1, max_steps + 1):
        # Noise in J (bimodal or extrapolated neurons) ends in a long row of tiny steps: better to stop and say so.
        fine = state.error < accepted
        falls = not fine and not crawls and state.objective < best - _FALLS * (1.0 + abs(best)) ** 0.5
        best = min(best, state.objective)
        if falls or state.error < 0.7 * mark:
            mark, stalled = min(mark, state.error), 0
        else:
            stalled += 1
        if state.error < tolerance or (fine and stalled >= _POLISH):
            if travelled == 0.0 or dual.lattice.frozen is not None:
                break
            travelled = 0.0
            found = dual.state(
                state.theta, dual.complete(state.nodes, state.theta, rng, ep_tolerance, True), step_count
            )
            if found.objective <= state.objective + _LOWER * (1.0 + abs(state.objective)):
                break
            state, hessian, best, mark, stalled = found, None, np.inf, np.inf, 0
            if state.error < tolerance:
                break
        if stalled > _PATIENCE:
            break
        if hessian is None:
            hessian = dual.hessian(state.nodes)
        step, drop, limited = step_of(hessian, state.gradient * dual.scale[:, None], radius)
        length = float(np.abs(step).max())
        crawls = limited and length < _CRAWL * max(1.0, float(np.abs(state.theta).max()))
        theta = state.theta + step
        rows = np.union1d(np.flatnonzero(state.nodes.inside), extra)
        trial = old = dual.move(state.nodes.take(rows), theta, ep_tolerance)
        slack = _ROUNDING * (1.0 + abs(state.objective))
        lower = dual.objective(trial) < state.objective + slack
        # Far from where EP has fixed points extrapolated neurons promise anything.
        lower &= trial.extrapolated <= max(_MOSTLY, state.extrapolated)
        if lower:
            travelled += length
            look = dual.lattice.frozen is None and (state.error > _SEARCH_GRADIENT or travelled > _SEARCH_EVERY)
            trial = dual.complete(trial, theta, rng, ep_tolerance, look)
            travelled = 0.0 if look else travelled
            new = dual.state(theta, trial, step_count)
            # J of nodes that are extrapolated, or enter the window, is not quite a function of t.
            cut = _NOISE * new.extrapolated + _CUT * np.exp(-dual.lattice.window)
            noise = slack + (cut if new.error < 0.8 * state.error else 0.0)
            lower = new.objective < state.objective + noise
            if not lower:
                # What made the difference may count at the present theta as well: J there must include it.
                nodes, extra = dual.return_to(trial, old, state, ep_tolerance)
                state = dual.state(state.theta, nodes, step_count)
                hessian = dual.hessian(state.nodes)
        if not lower:
            report(state, f"rejected {dual.objective(trial) - state.objective:.2g} radius {radius:.2g}")
            radius = 0.35 * min(radius, length)
            if radius < _SMALLEST_RADIUS and not fine:
                break
            continue
        gained = state.objective - new.objective
        if gained < 0.25 * drop:
            radius = 0.5 * length
        elif limited and gained > 0.6 * drop:
            radius *= 3.0
        state, hessian, extra = new, None, np.empty(0, dtype=np.int64)
        report(state, f"accepted {length:.2g} drop {gained:.3g} predicted {drop:.3g}")
    return state


def class_basis(labels: IntArray | None, targets: FloatArray) -> FloatArray:
    """(P, q) basis of the first stage: indicators of the classes, or 1 and the targets."""
    if labels is not None:
        return np.asarray((labels[:, None] == np.unique(labels)).astype(float))
    columns = np.column_stack([np.ones(len(targets)), targets])
    left, singular, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(left[:, singular > _SAME_CLASS * singular[0]])
