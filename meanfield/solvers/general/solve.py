"""From features and targets to a `GeneralSolution`: start restricted to classes, coarse lattices first."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from meanfield.activation import Activation
from meanfield.result import ConvergenceError
from meanfield.solvers.general.compiled.ep import FAILED, VGA
from meanfield.solvers.general.dual import Dual, State, minimise
from meanfield.solvers.general.lattice import Frozen, Lattice, Nodes, basins, grow
from meanfield.solvers.general.neuron import Neuron, components
from meanfield.solvers.general.solution import GeneralSolution
from meanfield.validation import FloatArray, real_array, real_number

__all__ = ["solve_frozen", "solve_general"]

TOLERANCE = 1e-6  # of max |dJ/dt|
_ACCEPTED = 1e-4  # a residual below this still counts as solved
_MAX_EXTRAPOLATED = 0.02
_COMPONENT = 1e-7  # lighter components are not kept
_RARE = 1e-4  # lighter codes are counted to the nearest heavier one
_HALVINGS = 12
_SOFT_SAMPLES = 60.0  # sharpness of the first stage, times P
_SHARPER = 3.0
_MAX_OUTPUTS = 5  # 350 nodes per code; one more output multiplies that by two and a half
_SAME = 1e-4  # in log Z: two runs of expectation propagation this close found the same fixed point

Progress = Callable[[str, int, float], None]


def solve_general(
    activation: Activation,
    features: Any,
    targets: Any,
    sigma_a: float,
    tau: float,
    *,
    labels: Any = None,
    fractions: Any = None,
    warm_start: GeneralSolution | None = None,
    tolerance: float = TOLERANCE,
    spacing: float = 1.4,
    window: float = 8.0,
    shift: float = 0.0,
    threads: int | None = None,
    rng: Any = None,
    progress: Progress | None = None,
) -> GeneralSolution:
    """Minimise J(t) = -<t, Y> + (tau / 2)|t|^2 + ln int da N(a; 0, s2) Z(t a) for one hidden layer on any data.

    Parameters
    ----------
    activation : Activation
    features : (P, r) array
        F with input kernel K = F F^T (sigma_w included).
    targets : (P, m) array
        Y.
    sigma_a : float
        Prior scale of the readout; s2 = sigma_a^2 / P.
    tau : float
        N T > 0.
    labels : (P,) integers, optional
        Classes, for the first stage (t equal within a class). Else t starts in the span of 1 and Y.
    fractions : (g,) array, optional
        Fractions of the neurons per code of `warm_start` (required then): the frozen-weight problem.
    warm_start : GeneralSolution, optional
        Start from its t and codes.
    tolerance : float
        Of max |dJ/dt|.
    spacing, window, shift : float
        Lattice over the readout: spacing in units of sqrt(s2), depth of the tail that counts, offset in steps.
    threads : int, optional
        All processors if not given.
    rng : None, int, SeedSequence or Generator
        For the random starts of the code search.
    progress : callable, optional
        Called with (stage, step, error).

    Returns
    -------
    GeneralSolution
        `status` is "optimal" only if the residual and the extrapolated weight are small.

    Raises
    ------
    ValueError
        If the input is not finite, shapes do not fit, tau or sigma_a is not positive, phi is unbounded, or there are
        more than five outputs.
    ConvergenceError
        If not even a starting point was found.

    Notes
    -----
    general_data.md, section 4.
    """
    matrix, y = real_array("features", features), real_array("targets", targets)
    if matrix.ndim != 2 or y.ndim != 2 or len(matrix) != len(y):
        raise ValueError(
            f"features (P, r) and targets (P, m) must have equally many rows, got {matrix.shape} and {y.shape}."
        )
    sigma_a = real_number("sigma_a", sigma_a, above=0.0)
    tau = real_number("tau", tau, above=0.0)
    groups = None if labels is None else np.asarray(labels)
    if groups is not None and (groups.shape != (len(y),) or groups.dtype.kind not in "iu"):
        raise ValueError(f"labels must be {len(y)} integers, one per sample, got an array of shape {groups.shape}.")
    if y.shape[1] > _MAX_OUTPUTS:
        raise ValueError(
            f"the readout is integrated on a lattice in at most {_MAX_OUTPUTS} dimensions, got {y.shape[1]} outputs; "
            "solve for fewer classes at a time."
        )
    if max(activation.growth) > 0.0:
        raise ValueError(
            f"{activation!r} is unbounded: its posterior has outliers or is Gaussian, which this solver does not treat."
        )
    if fractions is not None and warm_start is None:
        raise ValueError("fractions belong to the codes of a solution: pass it as warm_start.")
    neuron = Neuron(activation, matrix, sigma_a**2 / len(y), threads)
    run = _Run(neuron, y, tau, tolerance, np.random.default_rng(rng), progress)
    final: dict[str, Any] = {"spacing": spacing, "window": window, "shift": shift}
    if fractions is not None:
        assert warm_start is not None
        return run.frozen(warm_start, real_array("fractions", fractions), final)
    return run.equilibrium(groups, warm_start, final)


def solve_frozen(solution: GeneralSolution, fractions: Any, **options: Any) -> GeneralSolution:
    """The same problem with given fractions of the neurons in each code of `solution`, as sampled networks have."""
    return solve_general(
        solution.activation,
        solution.features,
        solution.targets,
        math.sqrt(solution.prior * solution.n_samples),
        solution.tau,
        fractions=fractions,
        warm_start=solution,
        **options,
    )


class _Run:
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

    def dual(self, basis: FloatArray | None, soft: bool, frozen: Frozen | None = None, **lattice: Any) -> Dual:
        outputs = self.targets.shape[1]
        return Dual(
            self.neuron,
            self.targets,
            self.tau,
            Lattice(outputs, self.neuron.prior, frozen=frozen, **lattice),
            basis,
            soft,
        )

    def report(self, stage: str) -> Callable[[State, str], None]:
        def inner(state: State, message: str) -> None:
            if self.progress is not None:
                self.progress(f"{stage}: {message}", state.steps, state.error)

        return inner

    def minimised(self, dual: Dual, start: State, tolerance: float, ep_tolerance: float, stage: str) -> State:
        self.report(stage)(start, "start")
        state = minimise(dual, start, tolerance, ep_tolerance, self.rng, self.report(stage))
        self.steps += state.steps
        return state

    def equilibrium(self, labels: Any, warm_start: GeneralSolution | None, final: dict[str, Any]) -> GeneralSolution:
        state = None
        if warm_start is None:
            basis = _basis(labels, self.targets)
            samples = len(self.targets)
            sharpness = 1.0 if samples <= 2 * _SOFT_SAMPLES else _SOFT_SAMPLES / samples
            dual = self.dual(basis, False, spacing=2.0, window=4.5, sharpness=sharpness)
            start = self.first(dual, basis)
            state = self.minimised(dual, start, 1e-2, 1e-4, "classes")
            theta = basis @ state.theta
            while True:
                dual = self.dual(None, False, spacing=1.8, window=5.0, sharpness=sharpness)
                stage = f"coarse, sharpness {sharpness:.2g}"
                state = self.minimised(dual, self.continued(dual, theta, state, 1e-4), 1e-2, 1e-4, stage)
                theta = state.theta
                if sharpness == 1.0:
                    break
                sharpness = min(1.0, _SHARPER * sharpness)
        else:
            theta = np.array(warm_start.t)
        dual = self.dual(None, False, **final)
        start = self.continued(dual, theta, state, 1e-5, warm_start)
        state = self.minimised(dual, start, max(1e-2, self.tolerance), 1e-5, "samples")
        dual.soft = True
        # Error of E phi at a mismatch e of the sites: about e.
        ep_tolerance = min(1e-4, 0.3 * self.tolerance)
        state = self.minimised(dual, self.refreshed(dual, state, ep_tolerance), self.tolerance, ep_tolerance, "final")
        if state.extrapolated > _MAX_EXTRAPOLATED:
            # A lower bound of log Z where there is nothing better: at least a well-defined J.
            self.neuron.fallback = True
            start = self.continued(dual, state.theta, state, ep_tolerance)
            state = self.minimised(dual, start, self.tolerance, ep_tolerance, "variational")
        return self.solution(dual, state)

    def first(self, dual: Dual, basis: FloatArray) -> State:
        """theta proportional to the centred targets; halved while expectation propagation fails everywhere."""
        off = self.targets - self.targets.mean(axis=0)
        theta = np.linalg.lstsq(basis, 4.0 * off / max(np.abs(off).max(), 1e-300), rcond=None)[0]
        for _ in range(_HALVINGS):
            nodes = dual.search(theta, 1.5, self.rng, 1e-4)
            if nodes is not None:
                return dual.state(theta, grow(self.neuron, nodes, 1e-4))
            theta = 0.5 * theta
        nodes = dual.search(0.0 * theta, 1.5, self.rng, 1e-4)  # Z = 1 there
        assert nodes is not None
        return dual.state(0.0 * theta, grow(self.neuron, nodes, 1e-4))

    def continued(
        self,
        dual: Dual,
        theta: FloatArray,
        state: State | None,
        ep_tolerance: float,
        solution: GeneralSolution | None = None,
    ) -> State:
        """The state of a coarser lattice, or a solution, on the lattice of `dual`."""
        known = None
        reach = 1.5
        if state is not None:
            heavy = state.nodes.weight > 0.02 * state.nodes.weight.max()
            known = state.nodes.at.take(heavy)
            reach = 1.2 * float(np.abs(known.readout).max())
        elif solution is not None:
            rows = np.flatnonzero((solution.weight > 0.02 * solution.weight.max()) & (solution.soft < 0))
            known = self.neuron.evaluate(theta, solution.readout[rows], (solution.s[rows], solution.nu[rows]), 1e-3)
            known = known.take(known.ok)
            reach = 1.2 * float(np.abs(solution.readout).max())
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

    def refreshed(self, dual: Dual, state: State, ep_tolerance: float) -> State:
        """The same nodes at the same point, to another accuracy of expectation propagation."""
        nodes = dual.moved(state.nodes.take(state.nodes.inside), state.theta, ep_tolerance)
        return dual.state(state.theta, grow(self.neuron, nodes, ep_tolerance, dual.soft))

    def frozen(self, solution: GeneralSolution, fractions: FloatArray, final: dict[str, Any]) -> GeneralSolution:
        if fractions.shape != solution.code_weight.shape or (fractions < 0).any() or fractions.sum() <= 0:
            raise ValueError(
                f"fractions must be {solution.n_codes} numbers >= 0, one per code of warm_start, got {fractions}."
            )
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
            1e-5,
        )
        index, first = np.unique(dual.lattice.nearest(at.readout), axis=0, return_index=True)
        nodes = Nodes(dual.lattice, theta, index, at.take(first)).take(at.status[first] != FAILED)
        start = dual.state(theta, grow(self.neuron, nodes, 1e-5, True))
        state = self.minimised(dual, start, max(1e-3, self.tolerance), 1e-5, "frozen")
        ep_tolerance = min(1e-4, 0.3 * self.tolerance)
        state = self.minimised(dual, self.refreshed(dual, state, ep_tolerance), self.tolerance, ep_tolerance, "frozen")
        return self.solution(dual, state)

    def recomputed(self, dual: Dual, state: State) -> tuple[float, float]:
        """max |dJ/dt| with expectation propagation from zero sites, and the weight where it ends elsewhere.

        Where it fails from there, or finds another fixed point (a bimodal P(w | a)), the old moments count.
        """
        nodes = state.nodes.take(state.nodes.inside)
        plain = np.array([line is None for line in nodes.at.line], dtype=bool) & (nodes.at.status == 0)
        cold = self.neuron.evaluate(nodes.t, nodes.at.readout[plain], None, min(1e-7, self.tolerance))
        at = nodes.at.take(slice(None))
        rows = np.flatnonzero(plain)
        same = cold.ok & (np.abs(cold.exponent - at.exponent[rows]) < _SAME)
        at.assign(rows[same], cold.take(same))
        ambiguous = float(nodes.weight[rows[cold.ok & ~same]].sum())
        return dual.state(state.theta, Nodes(nodes.lattice, nodes.t, nodes.index, at)).error, ambiguous

    def solution(self, dual: Dual, state: State) -> GeneralSolution:
        nodes = state.nodes.take(state.nodes.inside)
        weight = nodes.weight
        residual, ambiguous = self.recomputed(dual, state)
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
        status, message = "optimal", ""
        if not residual <= max(_ACCEPTED, 10.0 * self.tolerance):
            status = "not converged"
            message = f"max |dJ/dt| = {residual:.2g}, wanted {self.tolerance:.2g}; try a larger tau or another rng."
        elif extrapolated + bounded > _MAX_EXTRAPOLATED:
            status = "EP failed"
            message = (
                f"expectation propagation failed on readouts that carry {extrapolated + bounded:.2g} of the weight "
                f"({bounded:.2g}: variational bound, {extrapolated:.2g}: second-order expansion): single neurons "
                "are near or beyond their capacity. Results are approximate; a larger tau or more inputs help."
            )
        m, rank = a.shape[1], self.neuron.features.matrix.shape[1]
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
            directions=np.array([u for u, *_ in self.neuron.directions]).reshape(-1, rank),
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


def _basis(labels: Any, targets: FloatArray) -> FloatArray:
    """(P, q) basis of the first stage: indicators of the classes, or 1 and the targets."""
    if labels is not None:
        return np.asarray((labels[:, None] == np.unique(labels)).astype(float))
    columns = np.column_stack([np.ones(len(targets)), targets])
    left, singular, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(left[:, singular > 1e-10 * singular[0]])
