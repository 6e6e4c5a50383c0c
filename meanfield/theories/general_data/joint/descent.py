"""From features and targets to a `GeneralSolution` by joint expectation propagation: many samples or many outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.posterior.certificate import ConvergenceError
from meanfield.progress import Progress
from meanfield.theories.general_data.joint.answer import JointAnswer
from meanfield.theories.general_data.joint.codes import Codes, Cuts, JointNeuron, pattern
from meanfield.theories.general_data.joint.dual import CodesDual, CodesState, minimise_codes
from meanfield.theories.general_data.joint.neuron import Cut, Joint
from meanfield.theories.general_data.joint.scout import Scout
from meanfield.theories.general_data.joint.splitting import regrow_pieces, split_shoulder
from meanfield.theories.general_data.solution import GeneralSolution
from meanfield.validation import FloatArray, IntArray

__all__ = ["JointRun"]

_RECOVERED = 1e-5, 1e-4, 1e-3  # accuracies at which codes of a given solution are looked for, in this order
_EXPENDABLE = 1e-3  # weight of a piece that may be missing
_SEARCHED = 16  # starts of a search for codes
_FEW = 3.0  # largest entry of the first theta
_REVISITED = 1e-4  # weight of codes for which EP is tried again
_CLASS_TOLERANCE = 0.03
_LAST_ACCURACY = 1e-7
_LEAST_FRACTION = 1e-4  # frozen codes with fewer neurons are left out
_LAST_DEPTH = 15.0  # codes this far below the top carry no weight
_RAISED, _LOWERED, _HIGHEST = 4.0, 0.6, 70.0  # factors of tau
_ROUGH, _RUNG_STEPS = 1e-2, 20  # largest gradient and number of steps at another tau
_MOST_TANGENTS = 0.01  # weight of codes that EP has lost, at which bounds take their place


class JointRun:
    """One solve.

    Parameters
    ----------
    activation : Activation
        Bounded.
    matrix : (P, r) array
        F.
    targets : (P, m) array
    prior : float
        s2.
    tau, tolerance : float
    labels : (P,) integers or None
    rng : Generator
    threads : int or None
    report : callable
        Called with (message, steps, error).
    """

    def __init__(
        self,
        activation: Activation,
        matrix: FloatArray,
        targets: FloatArray,
        prior: float,
        tau: float,
        tolerance: float,
        labels: IntArray | None,
        rng: np.random.Generator,
        threads: int | None = None,
        report: Progress | None = None,
    ) -> None:
        self.activation, self.targets, self.prior, self.tau, self.tolerance = activation, targets, prior, tau, tolerance
        self.threads = threads
        self.neuron = JointNeuron(activation, matrix, prior, threads)
        self.scout = Scout(labels, self.neuron, rng)
        self.steps = 0
        self.last: tuple[CodesDual, CodesState] | None = None  # the best so far
        self._report = report

    def report(self, stage: str, dual: CodesDual) -> Callable[[CodesState, str], None]:
        def inner(state: CodesState, message: str) -> None:
            self.steps += 1
            self.last = dual, state
            if self._report is not None:
                self._report(f"{stage}: {message}", self.steps, state.error)

        return inner

    def look(self, state: CodesState, accuracy: float) -> Codes:
        """Known codes and those found by a search; EP is tried again where it failed."""
        codes = state.codes if self.neuron.variational else regrow_pieces(self.neuron, state.codes, accuracy)
        if self.neuron.fallback:  # on the way there codes come back
            heavy = state.weight[len(state.codes.joints) :] > _REVISITED
            for phi in state.tangents.phi[heavy]:
                codes = split_shoulder(self.neuron, codes, phi, accuracy)
        depth = _LAST_DEPTH if self.neuron.fallback else max(40.0, 0.3 * len(self.targets))
        found = self.neuron.search(codes.t, self.scout.starts(codes.t, codes, _SEARCHED), codes, accuracy, depth)
        if self.neuron.variational:
            return found
        floor = codes.top + np.log(_REVISITED)

        def again(joint: Joint) -> Joint:
            if not joint.bound or joint.log_z < floor:
                return joint
            return self.neuron.solve(codes.t, (joint.q, joint.nu), accuracy, family=joint.family) or joint

        return self.neuron.distinct(Codes(codes.t, tuple(self.neuron.map(again, found.joints))))

    def equilibrium(self, basis: FloatArray, warm_start: GeneralSolution | None) -> GeneralSolution:
        """Classes first, by the variational bound, which is always there; then all of t."""
        codes = None
        if warm_start is not None:
            with contextlib.suppress(ConvergenceError):  # a hint, never a constraint
                codes = self.recover_codes(warm_start)
        return self.solution(*self.refine(self.approach(basis) if codes is None else codes))

    def classes(self, basis: FloatArray, tau: float, before: CodesState | None) -> CodesState:
        """Minimum over t = basis theta by the variational bound, from that at another tau."""
        dual = CodesDual(self.neuron, self.targets, tau, basis)
        self.neuron.variational = True
        if before is None:
            off = self.targets - self.targets.mean(axis=0)
            theta = np.linalg.lstsq(basis, _FEW * off / max(np.abs(off).max(), 1e-300), rcond=None)[0]
            t = dual.t(theta)
            codes = self.neuron.search(t, self.scout.starts(t, None, _SEARCHED), None, 1e-4, np.inf)
            if not codes.joints:
                raise ConvergenceError("no Gaussian approximation of any neuron was found; use a larger tau.")
            state = dual.state(theta, codes)
        else:
            state = dual.state(before.theta, before.codes)
        state = minimise_codes(dual, state, _CLASS_TOLERANCE, self.look, self.report("classes", dual))
        self.neuron.variational = False
        return state

    def frozen(self, solution: GeneralSolution, fractions: FloatArray) -> GeneralSolution:
        """The same with given fractions of the neurons in each code of `solution`."""
        codes = self.recover_codes(solution, _EXPENDABLE)
        families = sorted({joint.family for joint in codes.joints})  # in the order of the codes
        used = [g for g, share in enumerate(fractions) if share > _LEAST_FRACTION]
        total = fractions[used].sum()
        shares = {families[g]: float(fractions[g] / total) for g in used}
        kept = tuple(joint for joint in codes.joints if joint.family in shares)
        return self.solution(*self.refine(Codes(codes.t, kept), shares))

    def refine(self, codes: Codes, fractions: Mapping[int, float] | None = None) -> tuple[CodesDual, CodesState]:
        """All of t, from codes at some t; fractions of the neurons in each of them, if they are frozen."""
        dual = CodesDual(self.neuron, self.targets, self.tau, None, fractions)
        state = self.start_from(dual, codes)
        stage = self.report("samples", dual)
        state = minimise_codes(dual, state, self.tolerance, self.look, stage, most_tangents=_MOST_TANGENTS)
        # Codes without a fixed point of EP would only get in the way before.
        self.neuron.fallback = True
        if fractions is None:
            state = dual.state(state.theta, self.look(state, _LAST_ACCURACY), state.tangents)
        state = minimise_codes(dual, state, self.tolerance, self.look, self.report("with bounds", dual))
        return dual, state

    def start_from(self, dual: CodesDual, codes: Codes) -> CodesState:
        def exact(old: Joint) -> Joint:
            return self.neuron.again(codes.t, old._replace(bound=False), (old.q, old.nu), 1e-5) or old

        start = Codes(codes.t, tuple(self.neuron.map(exact, codes.joints)))
        return dual.state(codes.t, start if dual.frozen else self.neuron.distinct(start))

    def approach(self, basis: FloatArray) -> Codes:
        """Codes near the minimum: that at a tau as large as it takes to keep the codes, then at smaller ones.

        At large tau neurons need not meet every sample, at the minimum they do nearly; on the way from afar they meet
        some by halves, which is where EP fails.
        """
        tau, classes, first = self.tau, None, None
        while True:
            classes = self.classes(basis, tau, classes)
            first = first or classes.codes
            dual = CodesDual(self.neuron, self.targets, tau)
            self.neuron.splitting = False
            stage = self.report(f"tau = {tau:.3g}", dual)
            state = minimise_codes(
                dual, self.start_from(dual, classes.codes), _ROUGH, self.look, stage, strict=True, last=False,
                most_tangents=_MOST_TANGENTS,
            )  # fmt: skip
            self.neuron.splitting = True
            if state.error < _ROUGH:
                break
            tau *= _RAISED
            if tau > _HIGHEST * self.tau:
                return first
        while tau > self.tau:
            codes = state.codes
            tau = max(self.tau, _LOWERED * tau)
            if tau == self.tau:
                return codes
            dual = CodesDual(self.neuron, self.targets, tau)
            state = minimise_codes(
                dual, self.start_from(dual, codes), _ROUGH, self.look, self.report(f"tau = {tau:.3g}", dual),
                _RUNG_STEPS, last=False,
            )  # fmt: skip
        return state.codes

    def recover_codes(self, solution: GeneralSolution, expendable: float = 0.0) -> Codes:
        """Codes of a solution; pieces up to the weight `expendable` may be missing."""
        t = np.array(solution.t)
        pieces: dict[tuple[int, Cuts], list[int]] = {}
        for i, g in enumerate(solution.basin):
            cuts = tuple(Cut(int(mu), at, width, int(side)) for c, mu, at, width, side in solution.cuts if c == i)
            pieces.setdefault((int(g), cuts), []).append(i)
        families = [next(self.neuron.families) for _ in range(solution.n_codes)]

        def job(piece: tuple[int, Cuts]) -> Joint | None:
            g, cuts = piece
            rows = pieces[piece]
            share = solution.weight[rows] / solution.weight[rows].sum()
            phi = share @ solution.phi[rows]
            q, nu = pattern(phi)
            q[:, 1, 1] = share @ solution.s[rows]
            nu[:, 1] = share @ solution.nu[rows]
            for accuracy in _RECOVERED:
                for start in ((q, nu), pattern(phi)):
                    found = self.neuron.solve(t, start, accuracy, cuts=cuts, family=families[g])
                    if found is not None:
                        return found
            return None

        found = self.neuron.map(job, pieces)
        kept = {g for (g, _), joint in zip(pieces, found) if joint is not None}
        for (piece, rows), joint in zip(pieces.items(), found):
            # A light piece may have been an expansion from elsewhere; its code is carried by its other pieces.
            if joint is None and (solution.weight[rows].sum() > expendable or piece[0] not in kept):
                raise ConvergenceError("not every code of warm_start was found again; solve without it.")
        return Codes(t, tuple(joint for joint in found if joint is not None))

    def best(self) -> GeneralSolution:
        """What was reached, without another look at it."""
        assert self.last is not None
        dual, state = self.last
        return self.solution(dual, state, hurried=True)

    def solution(self, dual: CodesDual, state: CodesState, hurried: bool = False) -> GeneralSolution:
        """What is reported of a state."""
        reported = JointAnswer(
            self.activation, self.neuron, self.scout, self.targets, self.prior, self.tau, self.tolerance, self.threads
        )
        return reported.solution(dual, state, self.steps, hurried)
