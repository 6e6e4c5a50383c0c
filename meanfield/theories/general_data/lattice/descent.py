"""The dual on readout lattices: a start restricted to classes, coarse lattices first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from meanfield.posterior.certificate import ConvergenceError
from meanfield.progress import Progress
from meanfield.theories.general_data.compiled.ep import FAILED, VGA
from meanfield.theories.general_data.lattice.dual import MAX_STEPS, LatticeDual, LatticeState, class_basis, minimise
from meanfield.theories.general_data.lattice.nodes import Frozen, Lattice, LatticeNodes, basins, grow
from meanfield.theories.general_data.neuron import Neuron, components
from meanfield.theories.general_data.solution import (
    MAX_EXTRAPOLATED,
    GeneralSolution,
    accepted_residual,
    beyond_capacity,
    verdict,
)
from meanfield.validation import FloatArray, IntArray

__all__ = ["LatticeRun"]

_COMPONENT = 1e-7  # lighter components are not kept
_FAR = 10.0  # times the error beyond capacity: where variational bounds are not worth a start
_BOUND_STEPS = 5  # with variational bounds, which take seconds each
_RARE = 1e-4  # lighter codes are counted to the nearest heavier one
_HALVINGS = 12
_SOFT_SAMPLES = 60.0  # sharpness of the first stage, times P
_SHARPER = 3.0
_COARSE, _FINE, _CHECKED = 1e-4, 1e-5, 1e-7  # accuracies of expectation propagation: classes, samples, starting anew
_COARSE_ERROR, _FROZEN_ERROR = 1e-2, 1e-3  # largest gradient at which a stage ends, unless the tolerance is larger
_SHARE = 0.3  # of the tolerance: the final accuracy of expectation propagation
_REACH, _WIDER = 1.5, 1.2  # of a first lattice, and of one around known readouts, relative to the farthest
_HEAVY = 0.02  # nodes of this share of the heaviest are starts
_FIRST = 4.0  # largest entry of the first theta
_START = 1e-3  # accuracy at which nodes of a given solution are evaluated
_SAME = 1e-4  # in log Z: two runs of expectation propagation this close found the same fixed point


class LatticeRun:
    """One solve: stages that hand their state on."""

    def __init__(
        self,
        neuron: Neuron,
        targets: FloatArray,
        tau: float,
        tolerance: float,
        rng: np.random.Generator,
        progress: Progress | None,
    ) -> None:
        self.neuron, self.targets, self.tau, self.tolerance, self.rng = neuron, targets, tau, tolerance, rng
        self.progress = progress
        self.steps = 0
        self.last: tuple[LatticeDual, LatticeState] | None = None  # the best so far
        self.accepted = accepted_residual(tolerance)

    def beyond(self, state: LatticeState, factor: float = 1.0) -> bool:
        """Whether J(t) is too rough for steps of Newton's method: EP has several fixed points, or none."""
        return state.error > factor * beyond_capacity(self.targets)

    def dual(self, basis: FloatArray | None, soft: bool, frozen: Frozen | None = None, **lattice: Any) -> LatticeDual:
        outputs = self.targets.shape[1]
        return LatticeDual(
            self.neuron,
            self.targets,
            self.tau,
            Lattice(outputs, self.neuron.prior, frozen=frozen, **lattice),
            basis,
            soft,
        )

    def report(self, stage: str, dual: LatticeDual) -> Callable[[LatticeState, str], None]:
        def inner(state: LatticeState, message: str) -> None:
            self.last = dual, state
            if self.progress is not None:
                self.progress(f"{stage}: {message}", state.steps, state.error)

        return inner

    def minimise_from(
        self, dual: LatticeDual, start: LatticeState, tolerance: float, ep_tolerance: float, stage: str
    ) -> LatticeState:
        self.report(stage, dual)(start, "start")
        if self.neuron.fallback and self.beyond(start, _FAR):
            return start  # what EP had found is not a solution
        max_steps = _BOUND_STEPS if self.neuron.fallback else MAX_STEPS
        accepted = self.accepted if tolerance <= self.accepted else 0.0
        state = minimise(dual, start, tolerance, ep_tolerance, self.rng, self.report(stage, dual), accepted, max_steps)
        self.steps += state.steps
        return state

    def equilibrium(
        self, labels: IntArray | None, warm_start: GeneralSolution | None, final: dict[str, Any]
    ) -> GeneralSolution:
        state = None
        if warm_start is None:
            basis = class_basis(labels, self.targets)
            samples = len(self.targets)
            sharpness = 1.0 if samples <= 2 * _SOFT_SAMPLES else _SOFT_SAMPLES / samples
            dual = self.dual(basis, False, spacing=2.0, window=4.5, sharpness=sharpness)
            start = self.first(dual, basis)
            state = self.minimise_from(dual, start, _COARSE_ERROR, _COARSE, "classes")
            theta = basis @ state.theta
            while True:
                dual = self.dual(None, False, spacing=1.8, window=5.0, sharpness=sharpness)
                stage = f"coarse, sharpness {sharpness:.2g}"
                state = self.minimise_from(
                    dual, self.carry_over(dual, theta, state, _COARSE), _COARSE_ERROR, _COARSE, stage
                )
                theta = state.theta
                if sharpness == 1.0:
                    break
                sharpness = min(1.0, _SHARPER * sharpness)
            if self.beyond(state):
                return self.solution(dual, state)
        else:
            theta = np.array(warm_start.t)
        dual = self.dual(None, False, **final)
        start = self.carry_over(dual, theta, state, _FINE, warm_start)
        state = self.minimise_from(dual, start, max(_COARSE_ERROR, self.tolerance), _FINE, "samples")
        if self.beyond(state):
            return self.solution(dual, state)
        dual.soft = True
        # Error of E phi at a mismatch e of the sites: about e.
        ep_tolerance = min(_COARSE, _SHARE * self.tolerance)
        state = self.minimise_from(dual, self.refresh(dual, state, ep_tolerance), self.tolerance, ep_tolerance, "final")
        if state.extrapolated > MAX_EXTRAPOLATED:
            # A lower bound of log Z where there is nothing better: of use if it leads anywhere.
            self.neuron.fallback = True
            start = self.carry_over(dual, state.theta, state, ep_tolerance)
            bounded = self.minimise_from(dual, start, self.tolerance, ep_tolerance, "variational")
            self.neuron.fallback = bounded.error < max(self.accepted, state.error)
            state = bounded if self.neuron.fallback else state
        return self.solution(dual, state)

    def first(self, dual: LatticeDual, basis: FloatArray) -> LatticeState:
        """theta proportional to the centred targets; halved while expectation propagation fails everywhere."""
        off = self.targets - self.targets.mean(axis=0)
        theta = np.linalg.lstsq(basis, _FIRST * off / max(np.abs(off).max(), 1e-300), rcond=None)[0]
        for _ in range(_HALVINGS):
            nodes = dual.search(theta, _REACH, self.rng, _COARSE)
            if nodes is not None:
                return dual.state(theta, grow(self.neuron, nodes, _COARSE))
            theta = 0.5 * theta
        nodes = dual.search(0.0 * theta, _REACH, self.rng, _COARSE)  # Z = 1 there
        assert nodes is not None
        return dual.state(0.0 * theta, grow(self.neuron, nodes, _COARSE))

    def carry_over(
        self,
        dual: LatticeDual,
        theta: FloatArray,
        state: LatticeState | None,
        ep_tolerance: float,
        solution: GeneralSolution | None = None,
    ) -> LatticeState:
        """The state of a coarser lattice, or a solution, on the lattice of `dual`."""
        known = None
        reach = _REACH
        if state is not None:
            heavy = state.nodes.weight > _HEAVY * state.nodes.weight.max()
            known = state.nodes.at.take(heavy)
            reach = _WIDER * float(np.abs(known.readout).max())
        elif solution is not None:
            rows = np.flatnonzero((solution.weight > _HEAVY * solution.weight.max()) & (solution.soft < 0))
            known = self.neuron.evaluate(theta, solution.readout[rows], (solution.s[rows], solution.nu[rows]), _START)
            known = known.take(known.ok)
            reach = _WIDER * float(np.abs(solution.readout).max())
        nodes = dual.search(theta, reach, self.rng, ep_tolerance, known)
        if nodes is None:
            self.neuron.fallback = True
            nodes = dual.search(theta, reach, self.rng, ep_tolerance, known)
        if nodes is None:
            raise ConvergenceError(
                "no Gaussian approximation of any neuron was found: single neurons are far beyond their capacity; "
                "use a larger tau or more inputs."
            )
        return dual.state(theta, grow(self.neuron, nodes, ep_tolerance, dual.soft))

    def refresh(self, dual: LatticeDual, state: LatticeState, ep_tolerance: float) -> LatticeState:
        """The same nodes at the same point, to another accuracy of expectation propagation."""
        nodes = dual.move(state.nodes.take(state.nodes.inside), state.theta, ep_tolerance)
        return dual.state(state.theta, grow(self.neuron, nodes, ep_tolerance, dual.soft))

    def frozen(self, solution: GeneralSolution, fractions: FloatArray, final: dict[str, Any]) -> GeneralSolution:
        used = np.flatnonzero(fractions > 0)
        rows = np.isin(solution.basin, used)
        code = np.searchsorted(used, solution.basin[rows])
        frozen = Frozen(solution.readout[rows], code, fractions[used] / fractions[used].sum())
        dual = self.dual(None, True, frozen, **final)
        theta = np.array(solution.t)
        at = self.neuron.evaluate(
            theta,
            dual.lattice.readouts(dual.lattice.nearest(solution.readout[rows])),
            (solution.s[rows], solution.nu[rows]),
            _FINE,
        )
        index, first = np.unique(dual.lattice.nearest(at.readout), axis=0, return_index=True)
        nodes = LatticeNodes(dual.lattice, theta, index, at.take(first)).take(at.status[first] != FAILED)
        start = dual.state(theta, grow(self.neuron, nodes, _FINE, True))
        state = self.minimise_from(dual, start, max(_FROZEN_ERROR, self.tolerance), _FINE, "frozen")
        ep_tolerance = min(_COARSE, _SHARE * self.tolerance)
        state = self.minimise_from(
            dual, self.refresh(dual, state, ep_tolerance), self.tolerance, ep_tolerance, "frozen"
        )
        return self.solution(dual, state)

    def recompute(self, dual: LatticeDual, state: LatticeState) -> tuple[float, float]:
        """max |dJ/dt| with expectation propagation from zero sites, and the weight where it ends elsewhere.

        Where it fails from there, or finds another fixed point (a bimodal P(w | a)), the old moments count.
        """
        nodes = state.nodes.take(state.nodes.inside)
        plain = np.array([line is None for line in nodes.at.line], dtype=bool) & (nodes.at.status == 0)
        cold = self.neuron.evaluate(nodes.t, nodes.at.readout[plain], None, min(_CHECKED, self.tolerance))
        at = nodes.at.take(slice(None))
        rows = np.flatnonzero(plain)
        same = cold.ok & (np.abs(cold.exponent - at.exponent[rows]) < _SAME)
        at.assign(rows[same], cold.take(same))
        ambiguous = float(nodes.weight[rows[cold.ok & ~same]].sum())
        return dual.state(state.theta, LatticeNodes(nodes.lattice, nodes.t, nodes.index, at)).error, ambiguous

    def best(self) -> GeneralSolution:
        """What was reached, without another look at it."""
        assert self.last is not None
        dual, state = self.last
        return self.solution(dual, state, hurried=True)

    def solution(self, dual: LatticeDual, state: LatticeState, hurried: bool = False) -> GeneralSolution:
        nodes = state.nodes.take(state.nodes.inside)
        weight = nodes.weight
        residual, ambiguous = (state.error, 0.0) if hurried else self.recompute(dual, state)
        extrapolated = state.extrapolated
        bounded = float(weight[nodes.at.status == VGA].sum())
        label = nodes.code if dual.lattice.frozen is not None else basins(nodes, _RARE)
        parts = components(nodes.at, weight, _COMPONENT)
        share = np.asarray(np.bincount(label, weight), dtype=float)
        order = np.argsort(-share, kind="stable") if dual.lattice.frozen is None else np.arange(share.size)
        place = np.argsort(order)
        a, phi = nodes.at.readout, nodes.at.phi
        inside = [weight * (label == g) / share[g] for g in order]
        mean = np.array([w @ a for w in inside])
        covariance = np.array([((a - c).T * w) @ (a - c) for w, c in zip(inside, mean)])
        rank = self.neuron.features.matrix.shape[1]
        status, message = verdict(residual, self.tolerance, self.targets, rank, self.tau, extrapolated, bounded)
        m = a.shape[1]
        return GeneralSolution(
            activation=self.neuron.activation,
            features=self.neuron.features.matrix,
            targets=self.targets,
            prior=self.neuron.prior,
            tau=self.tau,
            t=nodes.t,
            objective=state.objective,
            readout=parts.readout,
            weight=parts.weight / parts.weight.sum(),
            phi=parts.phi,
            spread=parts.spread,
            gain=parts.gain,
            s=parts.s,
            nu=parts.nu,
            basin=place[label][parts.node],
            soft=parts.direction,
            soft_x=parts.x,
            directions=np.array([u for u, *_ in self.neuron.lines.directions]).reshape(-1, rank),
            code_weight=share[order],
            code_readout=mean,
            code_covariance=covariance,
            code_phi=np.array([w @ phi for w in inside]),
            residual=residual,
            extrapolated_weight=extrapolated + bounded,
            ambiguous_weight=ambiguous,
            outlier_direction=np.empty((0, m)),
            outlier_weight=np.empty(0),
            outlier_w=np.empty((0, rank)),
            frozen=dual.lattice.frozen is not None,
            status=status,
            message=message,
            n_nodes=len(nodes.at),
            iterations=self.steps,
        )
