"""What is reported of a run of joint expectation propagation: a state, checked anew, as a `GeneralSolution`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meanfield.activations.activation import Activation
from meanfield.theories.general_data.joint.codes import Codes, JointNeuron
from meanfield.theories.general_data.joint.dual import CodesDual, CodesState
from meanfield.theories.general_data.joint.neuron import Joint
from meanfield.theories.general_data.joint.scout import Scout
from meanfield.theories.general_data.neuron import Neuron, Readouts
from meanfield.theories.general_data.solution import GeneralSolution, verdict
from meanfield.validation import FloatArray, IntArray

__all__ = ["JointAnswer"]

_RARE = 1e-6  # weight below which a code is not kept
_SPREAD = 1e-4  # weight of a code whose readout fluctuations are resolved
_SAME_LOG_Z = 1e-4
_CHECKED = 1e-7  # accuracy of expectation propagation that starts anew, at most


@dataclass(frozen=True, eq=False)
class JointAnswer:
    """Turns states of `meanfield.theories.general_data.joint.descent.JointRun` into solutions."""

    activation: Activation
    neuron: JointNeuron
    scout: Scout
    targets: FloatArray
    prior: float
    tau: float
    tolerance: float
    threads: int | None

    def solution(self, dual: CodesDual, state: CodesState, steps: int, hurried: bool) -> GeneralSolution:
        """All numbers of a state, checked anew unless there is no time for that."""
        if not dual.frozen:
            order = np.argsort(-state.weight[: len(state.codes.joints)], kind="stable")
            kept = [i for i in order if state.weight[i] > _RARE]
            state = dual.state(
                state.theta, Codes(state.codes.t, tuple(state.codes.joints[i] for i in kept)), state.tangents
            )
        if hurried:
            residual, ambiguous = self.residual(state, state.codes.joints), 0.0
        else:
            residual, ambiguous = self.check(dual, state)
        joints = state.codes.joints
        share = state.weight[: len(joints)]
        extrapolated = state.extrapolated
        bounded = float(share[[joint.bound for joint in joints]].sum())
        at, weight, piece = self.readouts(state)
        other = (at.phi.T * weight) @ at.readout
        own = sum(w * joint.mean_a_phi for w, joint in zip(share, joints))
        method_error = float(np.abs(other - own).max())
        m, rank = self.targets.shape[1], self.neuron.matrix.shape[1]
        code, code_weight, code_readout, code_covariance, code_phi = group_pieces(joints, share / share.sum())
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
            iterations=steps,
        )

    def check(self, dual: CodesDual, state: CodesState) -> tuple[float, float]:
        """max |dJ/dt| with EP from second-order sites, and the weight of codes where that ends elsewhere."""
        t = state.codes.t

        def job(joint: Joint) -> Joint:
            if joint.bound:
                return joint
            start = self.scout.sites(t, joint.phi, self.neuron.matrix @ joint.weights)
            found = self.neuron.again(t, joint, start, min(_CHECKED, self.tolerance))
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


def group_pieces(
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
