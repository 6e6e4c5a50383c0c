"""From features and targets to a `GeneralSolution` by joint expectation propagation: many samples or many outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from meanfield.activations.activation import Activation
from meanfield.posterior.certificate import ConvergenceError
from meanfield.progress import Progress
from meanfield.theories.general_data.joint.codes import Codes, Cuts, JointNeuron, pattern
from meanfield.theories.general_data.joint.dual import CodesDual, CodesState, minimise_codes
from meanfield.theories.general_data.joint.neuron import Cut, Joint
from meanfield.theories.general_data.joint.scout import Scout
from meanfield.theories.general_data.neuron import Neuron, Readouts
from meanfield.theories.general_data.solution import GeneralSolution, verdict
from meanfield.validation import FloatArray, IntArray

__all__ = ["JointRun"]

_RECOVERED = 1e-5, 1e-4, 1e-3  # accuracies at which codes of a given solution are looked for, in this order
_EXPENDABLE = 1e-3  # weight of a piece that may be missing
_SEARCHED = 16  # starts of a search for codes
_FEW = 3.0  # largest entry of the first theta
_RARE = 1e-6  # weight below which a code is not kept
_SPREAD = 1e-4  # weight of a code whose readout fluctuations are resolved
_REVISITED = 1e-4  # weight of codes for which EP is tried again
_SAME_LOG_Z = 1e-4
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
        codes = state.codes if self.neuron.variational else self.neuron.regrow_pieces(state.codes, accuracy)
        if self.neuron.fallback:  # on the way there codes come back
            heavy = state.weight[len(state.codes.joints) :] > _REVISITED
            for phi in state.tangents.phi[heavy]:
                codes = self.neuron.split_shoulder(codes, phi, accuracy)
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
        return self.solution(*self.refined(self.approached(basis) if codes is None else codes))

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
        return self.solution(*self.refined(Codes(codes.t, kept), shares))

    def refined(self, codes: Codes, fractions: Mapping[int, float] | None = None) -> tuple[CodesDual, CodesState]:
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

    def approached(self, basis: FloatArray) -> Codes:
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

    def recomputed(self, dual: CodesDual, state: CodesState) -> tuple[float, float]:
        """max |dJ/dt| with EP from second-order sites, and the weight of codes where that ends elsewhere."""
        t = state.codes.t

        def job(joint: Joint) -> Joint:
            if joint.bound:
                return joint
            start = self.scout.sites(t, joint.phi, self.neuron.matrix @ joint.weights)
            found = self.neuron.again(t, joint, start, min(1e-7, self.tolerance))
            return joint if found is None or found.bound else found

        again = self.neuron.map(job, state.codes.joints)
        same = np.array([abs(a.log_z - b.log_z) < _SAME_LOG_Z for a, b in zip(again, state.codes.joints)])
        mixed = tuple(a if ok else b for a, b, ok in zip(again, state.codes.joints, same))
        return self.residual(state, mixed), float(state.weight[: len(mixed)][~same].sum())

    def residual(self, state: CodesState, joints: Sequence[Joint]) -> float:
        """max |dJ/dt| with these codes in place of those of a state."""
        t = state.codes.t
        gradient = self.tau * t - self.targets
        for w, joint in zip(state.weight, joints):
            gradient = gradient + w * joint.mean_a_phi
        rest = state.weight[len(joints) :] @ state.tangents.slope
        return float(np.abs(gradient + rest.reshape(t.shape)).max())

    def readouts(self, state: CodesState) -> tuple[Readouts, FloatArray, IntArray]:
        """Neurons at readouts that stand for those of each piece of a code, their weights and pieces.

        A Gaussian of covariance C is replaced by 2 m points at the mean +- sqrt(m) times the columns of a root of C,
        which have its mean and covariance.
        """
        weight = state.weight[: len(state.codes.joints)]
        t, m = state.codes.t, self.targets.shape[1]
        plain = Neuron(self.activation, self.neuron.matrix, self.prior, self.threads)
        parts, shares, piece = [], [], []
        for g, (w, joint) in enumerate(zip(weight, state.codes.joints)):
            root = np.sqrt(m) * np.linalg.cholesky(joint.covariance).T
            points = joint.readout + (np.concatenate([root, -root]) if w > _SPREAD else np.zeros((1, m)))
            q, nu = joint.q, joint.nu
            start = np.tile(q[:, 1, 1], (len(points), 1)), nu[:, 1] - q[:, 0, 1] * (points @ t.T)
            parts.append((points, *start))
            shares.append(np.full(len(points), w / len(points)))
            piece.append(np.full(len(points), g))
        points, s, nu = (np.concatenate(column) for column in zip(*parts))
        # No iterations: the sites, hence P(w | a), are those of the joint posterior.
        at = plain.evaluate(t, points, (s, nu), np.inf, fallback=True)
        pieces = np.concatenate(piece)
        for g, joint in enumerate(state.codes.joints):
            for cut in joint.cuts:  # which side it is, sites do not know
                rows = pieces == g
                at.phi[rows, cut.sample] = joint.phi[cut.sample]
                at.spread[rows, cut.sample] = joint.spread[cut.sample]
                at.gain[rows, cut.sample] = joint.gain[cut.sample]
        return at, np.concatenate(shares), pieces

    def best(self) -> GeneralSolution:
        """What was reached, without another look at it."""
        assert self.last is not None
        dual, state = self.last
        return self.solution(dual, state, hurried=True)

    def solution(self, dual: CodesDual, state: CodesState, hurried: bool = False) -> GeneralSolution:
        if not dual.frozen:
            order = np.argsort(-state.weight[: len(state.codes.joints)], kind="stable")
            kept = [i for i in order if state.weight[i] > _RARE]
            state = dual.state(
                state.theta, Codes(state.codes.t, tuple(state.codes.joints[i] for i in kept)), state.tangents
            )
        if hurried:
            residual, ambiguous = self.residual(state, state.codes.joints), 0.0
        else:
            residual, ambiguous = self.recomputed(dual, state)
        joints = state.codes.joints
        share = state.weight[: len(joints)]
        extrapolated = state.extrapolated
        bounded = float(share[[joint.bound for joint in joints]].sum())
        at, weight, piece = self.readouts(state)
        other = (at.phi.T * weight) @ at.readout
        own = sum(w * joint.mean_a_phi for w, joint in zip(share, joints))
        method_error = float(np.abs(other - own).max())
        m, rank = self.targets.shape[1], self.neuron.matrix.shape[1]
        code, code_weight, code_readout, code_covariance, code_phi = grouped(joints, share / share.sum())
        status, message = verdict(
            residual, self.tolerance, self.targets, rank, self.tau, extrapolated, bounded, method_error
        )
        return GeneralSolution(
            activation=self.activation,
            features=self.neuron.matrix,
            targets=self.targets,
            prior=self.prior,
            tau=self.tau,
            t=state.codes.t,
            objective=state.objective,
            readout=at.readout,
            weight=weight / weight.sum(),
            phi=at.phi,
            spread=at.spread,
            gain=at.gain,
            s=at.s,
            nu=at.nu,
            basin=code[piece],
            soft=np.full(len(piece), -1),
            soft_x=np.zeros(len(piece)),
            directions=np.empty((0, rank)),
            cuts=np.array([(c, *cut) for c, i in enumerate(piece) for cut in joints[i].cuts], dtype=float).reshape(
                -1, 5
            ),
            code_weight=code_weight,
            code_readout=code_readout,
            code_covariance=code_covariance,
            code_phi=code_phi,
            residual=residual,
            extrapolated_weight=extrapolated + bounded,
            ambiguous_weight=ambiguous,
            outlier_direction=np.empty((0, m)),
            outlier_weight=np.empty(0),
            outlier_w=np.empty((0, rank)),
            frozen=dual.frozen,
            status=status,
            message=message,
            method="joint",
            method_error=method_error,
            n_nodes=len(piece),
            iterations=self.steps,
        )


def grouped(
    joints: Sequence[Joint], share: FloatArray
) -> tuple[NDArray[np.intp], FloatArray, FloatArray, FloatArray, FloatArray]:
    """Code of each piece; weight, mean readout, its covariance and E phi of every code, heaviest first."""
    weights: dict[int, float] = {}
    for joint, part in zip(joints, share):
        weights[joint.family] = weights.get(joint.family, 0.0) + part
    families = sorted(weights, key=lambda family: -weights[family])
    code = np.array([families.index(joint.family) for joint in joints], dtype=np.intp)
    member = (code == np.arange(len(families))[:, None]) * share
    weight = member.sum(axis=1)
    member = member / weight[:, None]
    readouts = np.array([joint.readout for joint in joints])
    readout = member @ readouts
    off = readouts - readout[code]
    inner = np.array([joint.covariance for joint in joints]) + off[:, :, None] * off[:, None, :]
    covariance = np.einsum("gi,irs->grs", member, inner)
    return code, weight, readout, covariance, member @ np.array([joint.phi for joint in joints])
