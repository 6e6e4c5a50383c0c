"""One hidden layer with an unbounded activation of one kink on any data: see general_data/THEORY.md."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.numerics.limits import OutOfTime, check_time, time_limit
from meanfield.posterior.status import Status
from meanfield.progress import Progress
from meanfield.theories.general_data.coverage import piecewise_refusal
from meanfield.theories.general_data.joint.neuron import Joint
from meanfield.theories.general_data.lattice.nodes import Lattice
from meanfield.theories.general_data.outliers.answer import ACCEPTED, MAX_EXTRAPOLATED, SEPARATED, OutlierAnswer
from meanfield.theories.general_data.outliers.cone import ConeMaxima
from meanfield.theories.general_data.outliers.dual import OutlierDual, OutlierState
from meanfield.theories.general_data.outliers.lattice import BoundedNeuron, LatticeBulk
from meanfield.theories.general_data.outliers.solution import OutlierSolution
from meanfield.theories.general_data.solution import GeneralSolution
from meanfield.validation import FloatArray, IntArray, Seed, real_array, real_number

__all__ = ["OutlierSolution", "solve_outliers"]

TOLERANCE = 1e-8
MAX_OUTPUTS = 4  # of the readout lattice
_COMPARED = 20  # maxima
_REACHES = 0.35, 0.5, 0.7, 1.0, 2.0, 4.0  # sigma_a
_COARSE_EP = 1e-4  # tolerance
_HIGHER = 1e-6  # of log Z
_SETTLED = 1e-5  # error at which maxima and fixed points are looked for once more
_COARSE = {"max_steps": 40, "n_random": 30}
_RUNG = 2.5  # from one tau to the next
_EASY = 0.3  # first tau, in units of that at which t is at the edge of the cone
_ROUGH, _LOST = 0.1, 0.5  # error at which one tau is left for the next, and beyond which the approach is given up
_OUTWARD = 0.015  # the same, up to which a larger reach is tried: the final lattice goes into the tails
_COARSE_LATTICE, _LATTICE = (1.6, 6.0), (1.4, 8.0)  # spacing and window
_FIRST_EP, _CLASS_EP = 1e-5, 1e-4  # accuracies of expectation propagation on coarse lattices
_SHARE = 0.1  # of the tolerance: that on the final one
_ROUNDS = 8  # searches that may find the cone violated
_USABLE = 1e-2  # error at which a state serves as a start


def solve_outliers(
    activation: Activation,
    features: object,
    targets: object,
    sigma_a: float,
    tau: float,
    *,
    labels: IntArray | None = None,
    rng: Seed = None,
    warm_start: GeneralSolution | None = None,
    progress: Progress | None = None,
    tolerance: float = TOLERANCE,
    n_starts: int = 200,
    reach: float | None = None,
    method: str = "auto",
) -> OutlierSolution:
    """Bulk and outliers of a network with phi(z) = s_- z for z < 0 and s_+ z for z > 0 on any inputs and targets.

    Parameters
    ----------
    activation : Activation
        ReLU, leaky ReLU, |z|, ...: one kink, at zero, phi(0) = 0.
    features : (P, r) array
        F with input kernel K = F F^T (sigma_w included).
    targets : (P, m) array
        Y.
    sigma_a : float
        Prior scale of the readout.
    tau : float
        N T > 0.
    labels : (P,) integers, optional
        Classes: a first stage keeps t equal within each.
    rng : None, int, SeedSequence or Generator
        For the starts of the cone search.
    warm_start : GeneralSolution, optional
        Start from its t and outliers.
    progress : callable, optional
        Called with (stage, step, error).
    tolerance : float
        Of the stationarity conditions.
    n_starts : int
        Random starts of the last search for violated outlier directions.
    reach : float, optional
        Where bulk and outliers are not separated: readouts with |a| beyond it count as outliers. Larger is more
        accurate, and slower. If not given, the largest of 0.35, 1/2, 0.7, 1, 2 and 4 sigma_a up to which expectation
        propagation works.
    method : {"auto", "joint", "lattice"}
        How the bulk is integrated: by expectation propagation over readout and weights together, or on a lattice over
        the readout (at most four outputs). "auto": jointly where the bulk turns out to be separated, else there.

    Returns
    -------
    OutlierSolution
        `status` is "optimal" only if the conditions, recomputed, hold.

    Raises
    ------
    ValueError
        For input that is not finite or does not fit, an activation with other kinks, and more than 6000 unknowns P m.
    """
    y, matrix, slopes, groups = _checked(activation, features, targets, labels)
    sigma_a = real_number("sigma_a", sigma_a, above=0.0)
    tau = real_number("tau", tau, above=0.0)
    if method not in ("auto", "joint", "lattice"):
        raise ValueError(f"method must be 'auto', 'joint' or 'lattice', got {method!r}.")
    if reach is not None:
        reach = real_number("reach", reach, above=0.0)
    run = _Run(activation, matrix, y, sigma_a, tau, slopes, groups, np.random.default_rng(rng), progress, tolerance)
    run.n_starts = n_starts
    try:
        return _equilibrium(run, warm_start, reach, method)
    except OutOfTime:
        if run.last is None:
            raise
        with time_limit(None):
            neuron = run.final.neuron
            within = math.inf if neuron is None else neuron.reach
            found = run.solution(run.last, 0.0, within, hurried=True)
        return replace(
            found, status=Status.OUT_OF_TIME, message=f"residual {found.residual:.2g} when the time was over."
        )


def _equilibrium(run: _Run, warm_start: GeneralSolution | None, reach: float | None, method: str) -> OutlierSolution:
    sigma_a, y = run.sigma_a, run.targets
    start = None if warm_start is None else np.array(warm_start.t)
    state, separation = None, math.inf
    if method != "lattice":
        either = method == "auto" and y.shape[1] <= MAX_OUTPUTS
        state = run.solve_in_stages(start, SEPARATED if either else -math.inf)
        if state is not None:
            separation = run.separation(state, sigma_a)
        if method == "joint" and state is None:
            raise ArithmeticError(_NO_BULK)
    trusted = state is not None and state.error <= ACCEPTED and separation >= SEPARATED
    if method == "joint" or trusted:
        assert state is not None
        return run.solution(state, separation, math.inf)
    if y.shape[1] > MAX_OUTPUTS:
        if state is None:
            raise ArithmeticError(_NO_BULK)
        return run.solution(state, separation, math.inf)
    state, radius = run.ridges(start, sigma_a, reach)
    if state is None:
        raise ArithmeticError("expectation propagation failed at every readout; use a larger tau, or another reach.")
    return run.solution(state, run.separation(state, sigma_a), radius)


_NO_BULK = (
    "expectation propagation over readout and weights has no fixed point: the bulk is not separated from the outlier "
    "directions; use method='lattice' (at most four outputs), more samples, or a larger tau."
)


def _checked(
    activation: Activation, features: object, targets: object, labels: IntArray | None
) -> tuple[FloatArray, FloatArray, tuple[float, float], IntArray | None]:
    matrix, y = real_array("features", features), real_array("targets", targets)
    if matrix.ndim != 2 or y.ndim != 2 or len(matrix) != len(y):
        raise ValueError(
            f"features (P, r) and targets (P, m) must have equally many rows, got {matrix.shape} and {y.shape}."
        )
    if reason := piecewise_refusal(activation, y.size):
        raise ValueError(f"{reason}.")
    pieces = activation.pieces
    assert pieces is not None
    groups = None if labels is None else np.asarray(labels)
    if groups is not None and (groups.shape != (len(y),) or groups.dtype.kind not in "iu"):
        raise ValueError(f"labels must be {len(y)} integers, one per sample, got an array of shape {groups.shape}.")
    return y, matrix, (float(pieces.slopes[0]), float(pieces.slopes[1])), groups


class _Run:
    """One solve: stages that hand their state on."""

    n_starts = 200

    def __init__(
        self,
        activation: Activation,
        features: FloatArray,
        targets: FloatArray,
        sigma_a: float,
        tau: float,
        slopes: tuple[float, float],
        labels: IntArray | None,
        rng: np.random.Generator,
        progress: Progress | None,
        tolerance: float,
    ) -> None:
        self.activation, self.features, self.targets = activation, features, targets
        self.sigma_a, self.s2, self.tau, self.slopes = sigma_a, sigma_a**2 / len(targets), tau, slopes
        self.labels, self.rng, self.progress, self.tolerance = labels, rng, progress, tolerance
        self.steps = 0
        self.last: OutlierState | None = None  # the best so far
        self.stopped = tau  # the approach from larger tau got there
        self.found: ConeMaxima | None = None  # by the last search of the cone

    def dual(
        self, basis: FloatArray | None, reach: float | None = None, *, coarse: bool = False, tolerance: float = 1e-6
    ) -> OutlierDual:
        dual = OutlierDual(self.features, self.targets, self.s2, self.tau, self.slopes, basis)
        if reach is not None:
            dual.neuron = BoundedNeuron(self.activation, self.features, self.s2, reach)
            dual.lattice = Lattice(self.targets.shape[1], self.s2, *(_COARSE_LATTICE if coarse else _LATTICE))
            dual.ep_tolerance = tolerance
        return dual

    @property
    def by_class(self) -> FloatArray | None:
        """(P, C) one value of t per class."""
        return None if self.labels is None else (self.labels[:, None] == np.unique(self.labels)).astype(float)

    def minimise_from(
        self,
        dual: OutlierDual,
        t: FloatArray | None,
        known: ConeMaxima | None,
        tolerance: float,
        stage: str,
        **options: Any,
    ) -> OutlierState | None:
        if t is None:
            t = dual.start(self.rng, self.labels)
        self.final = dual
        report = self.report(stage)
        return dual.minimise(t, self.rng, tolerance, labels=self.labels, known=known, report=report, **options)

    def confirm(
        self,
        dual: OutlierDual,
        t: FloatArray,
        known: ConeMaxima | None,
        bulk: Joint | LatticeBulk | None = None,
        **options: Any,
    ) -> OutlierState | None:
        """The minimum over all of t; starts again while new starts find the cone violated, or a higher fixed point."""
        if dual.lattice is not None:
            dual.loose, options = _COARSE_EP, {"n_random": _COARSE["n_random"], **options}
            bulk = dual.bulk(t, bulk, thorough=True)
        tolerance = max(self.tolerance, _SETTLED)
        for left in range(_ROUNDS, 0, -1):
            self.found = None
            tolerance = self.tolerance if left < 3 else tolerance
            state = self.minimise_from(
                dual, t, known, tolerance, "samples", n_final=self.n_starts, start=bulk, **options
            )
            if state is None or not state.error <= max(tolerance, ACCEPTED):
                return state
            bulk = state.bulk
            if dual.lattice is not None and tolerance > self.tolerance:
                bulk = dual.bulk(state.t, state.bulk, thorough=True) or state.bulk
            self.found = dual.explore(state.t, state.maxima, self.rng, self.n_starts, self.labels)
            inside = self.found.value.max(initial=0.0) <= dual.limit * (1.0 + max(tolerance, 0.5 * ACCEPTED))
            if inside and bulk.log_z <= state.bulk.log_z + _HIGHER:
                if tolerance <= self.tolerance:
                    return state
                tolerance = self.tolerance
            t, known = state.t, self.found
        return state

    def solve_in_stages(self, t: FloatArray | None, separated: float) -> OutlierState | None:
        """Bulk by joint expectation propagation: one value of t per class, if there are classes, then per sample.

        None where there is no such fixed point, or the separation (see there) of the first stage is below `separated`.
        """
        known: ConeMaxima | None = None
        if self.by_class is not None and t is None:
            state = self.minimise_from(self.dual(self.by_class), None, None, _USABLE, "classes")
            if state is None or not state.error <= _USABLE or self.separation(state, self.sigma_a) < separated:
                return None
            t, known = state.t, state.maxima
        dual = self.dual(None)
        return self.confirm(dual, dual.start(self.rng, self.labels) if t is None else t, known)

    def ridges(self, t: FloatArray | None, sigma_a: float, reach: float | None) -> tuple[OutlierState | None, float]:
        """Bulk on the lattice, as far out along the ridges as expectation propagation works; with its reach.

        From larger tau, then outwards on a coarse lattice, then from the largest usable reach inwards on the final one.
        """
        reaches = [r * sigma_a for r in _REACHES] if reach is None else [reach]
        limit, last = MAX_EXTRAPOLATED if reach is None else math.inf, 0
        if t is not None and reach is not None:
            return self.confirm(self.dual(None, reach, tolerance=_SHARE * self.tolerance), t, None), reach
        state = self.approach(t, reaches[0])
        if state is None or not state.error <= _ROUGH:
            return state, reaches[0]
        for i in range(1, len(reaches)):
            if state.bulk.extrapolated > _OUTWARD or not state.error <= _USABLE:
                break
            dual = self.dual(None, reaches[i], coarse=True, tolerance=_FIRST_EP)
            further = self.minimise_from(
                dual, state.t, state.maxima, _USABLE, "coarse", start=state.bulk, max_extrapolated=_OUTWARD, **_COARSE
            )
            if further is None or not further.error <= _USABLE or further.bulk.extrapolated > _OUTWARD:
                break
            state, last = further, i
        t, known, bulk = state.t, state.maxima, state.bulk
        for i in range(last, -1, -1):
            dual = self.dual(None, reaches[i], tolerance=_SHARE * self.tolerance)
            state = self.confirm(dual, t, known, bulk, max_extrapolated=limit if i > 0 else math.inf)
            if state is not None and state.error <= ACCEPTED and state.bulk.extrapolated <= MAX_EXTRAPOLATED:
                break
            if state is not None and state.error <= _USABLE:
                t, known, bulk = state.t, state.maxima, state.bulk
        return state, reaches[i]

    def approach(self, t: FloatArray | None, reach: float) -> OutlierState | None:
        """Coarse solution, without a start from larger tau: there t is small, and full steps overshoot less."""
        tau, state = self.tau, None
        dual = self.dual(None, reach, coarse=True, tolerance=_FIRST_EP)
        taus, known = [tau], None
        if t is None:
            t = dual.start(self.rng, self.labels)
            # t = c Y is at the edge of the cone: for tau > 1 / c samples are hardly fitted.
            easy = _EASY * float(np.abs(self.targets).max()) / max(float(np.abs(t).max()), 1e-300)
            taus = [tau * _RUNG**k for k in range(max(0, math.ceil(math.log(easy / tau, _RUNG))), -1, -1)]
            if self.by_class is not None:
                by_class = self.dual(self.by_class, reach, coarse=True, tolerance=_CLASS_EP)
                by_class.tau = taus[0]
                state = self.minimise_from(by_class, None, None, _ROUGH, "classes", max_steps=40)
                if state is not None:
                    t, known = state.t, state.maxima
        bulk = None
        for self.tau in taus:
            dual.tau = self.tau
            wanted = _USABLE if self.tau == tau else _ROUGH
            state = self.minimise_from(dual, t, known, wanted, "coarse", start=bulk, **_COARSE)
            if state is None or not state.error <= _LOST:
                break
            t, known, bulk = state.t, state.maxima, state.bulk
        self.stopped, self.tau, dual.tau = self.tau, tau, tau
        return state

    def report(self, stage: str) -> Callable[[OutlierState], None]:
        def inner(state: OutlierState) -> None:
            self.steps += 1
            self.last = state
            check_time()
            if self.progress is not None:
                self.progress(stage, self.steps, state.error)

        return inner

    def separation(self, state: OutlierState, radius: float) -> float:
        """ln of the readout density at its maximum over the largest at |a| = radius along nearly active maxima of q."""
        if not state.maxima.value.size:
            return math.inf
        neuron = BoundedNeuron(self.activation, self.features, self.s2, math.inf)
        near = np.vstack([state.bulk.readout, np.zeros(self.targets.shape[1])])
        inner = neuron.evaluate(state.t, near).exponent
        outer = neuron.evaluate(state.t, radius * state.maxima.direction[:_COMPARED]).exponent
        found = bool(np.isfinite(outer).any() and np.isfinite(inner).any())
        return float(inner.max() - outer.max()) if found else 0.0

    def solution(self, state: OutlierState, separation: float, reach: float, hurried: bool = False) -> OutlierSolution:
        """What is reported of a state."""
        reported = OutlierAnswer(
            self.activation, self.features, self.targets, self.s2, self.tau, self.slopes, self.labels, self.rng,
            self.n_starts, self.steps, self.final, self.stopped, self.found,
        )  # fmt: skip
        return reported.solution(state, separation, reach, hurried)
