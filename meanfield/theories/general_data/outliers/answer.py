"""What is reported of a run with outliers: a state, checked anew, as an `OutlierSolution`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.posterior.status import Status
from meanfield.theories.general_data.compiled.ep import EP
from meanfield.theories.general_data.joint.neuron import Joint
from meanfield.theories.general_data.outliers.check import joint_average, node_moments, outlier_violation
from meanfield.theories.general_data.outliers.cone import ConeMaxima
from meanfield.theories.general_data.outliers.dual import OutlierDual, OutlierState
from meanfield.theories.general_data.outliers.solution import OutlierSolution, joint_parts, node_parts
from meanfield.validation import FloatArray, IntArray

__all__ = ["ACCEPTED", "MAX_EXTRAPOLATED", "SEPARATED", "OutlierAnswer", "Shortfalls"]

ACCEPTED = 1e-6
MAX_EXTRAPOLATED = 0.02  # weight
SEPARATED = 12.0  # the tail along an outlier direction has at most e^-12 of the bulk's density
_LIGHTEST = 1e-10  # multipliers below this, relative to the largest, are rounding
_HIGHEST = 1e-6  # starts that end so close below the highest maximum of the cone count as hits


class Shortfalls(NamedTuple):
    """By how much the conditions of a solution are missed."""

    residual: float
    excess: float  # of the highest maximum of the cone
    slackness: float
    violation: float  # of the outliers' own equations


@dataclass(frozen=True, eq=False)
class OutlierAnswer:
    """Turns states of a run into solutions.

    Attributes
    ----------
    dual : OutlierDual
        Of the last stage.
    stopped : float
        tau at which the approach from larger tau ended.
    found : ConeMaxima or None
        By the last search of the cone.
    """

    activation: Activation
    features: FloatArray
    targets: FloatArray
    s2: float
    tau: float
    slopes: tuple[float, float]
    labels: IntArray | None
    rng: np.random.Generator
    n_starts: int
    steps: int
    dual: OutlierDual
    stopped: float
    found: ConeMaxima | None

    def active(self, state: OutlierState) -> np.ndarray:
        """Outliers: the maxima of q with a multiplier, heaviest first."""
        weight = state.multiplier
        order = np.argsort(-weight, kind="stable")
        return np.asarray(order[weight[order] > _LIGHTEST * max(1e-300, float(weight.max(initial=0.0)))])

    def solution(self, state: OutlierState, separation: float, reach: float, hurried: bool) -> OutlierSolution:
        """All numbers of a state, recomputed unless there is no time for that."""
        active, limit = self.active(state), self.dual.limit
        u, w, weight = state.maxima.direction[active], state.maxima.weights[active], state.multiplier[active]
        parts = (
            joint_parts(state.bulk, state.t, self.features) if isinstance(state.bulk, Joint) else node_parts(state.bulk)
        )
        average, mismatch = (state.bulk.mean_a_phi, 0.0) if hurried else self.check(state)
        z = self.features @ w.T
        outputs = (np.where(z > 0, self.slopes[1], self.slopes[0]) * z * weight) @ u
        residual = float(np.abs(self.targets - average - outputs - self.tau * state.t).max())
        found = state.maxima if hurried else self.found
        if found is None:
            found = self.dual.explore(state.t, state.maxima, self.rng, self.n_starts, self.labels)
        highest = float(found.value.max(initial=0.0))
        excess = highest / limit - 1.0
        slackness = float((weight * np.abs(state.maxima.value[active] / limit - 1.0)).max(initial=0.0))
        violation = outlier_violation(self.features, state.t, self.s2, self.slopes, u, w)
        shortfalls = Shortfalls(residual, excess, slackness, violation)
        extrapolated = float(parts["extrapolated_weight"])
        status, message = self._judge(shortfalls, extrapolated, separation, reach)
        return OutlierSolution(
            activation=self.activation,
            features=self.features,
            targets=self.targets,
            prior=self.s2,
            tau=self.tau,
            t=state.t,
            objective=self.dual.linear(state.t) + state.bulk.log_z,
            residual=residual,
            outlier_direction=u,
            outlier_weight=weight,
            outlier_w=w,
            status=status,
            message=message,
            iterations=self.steps,
            outlier_pattern=state.maxima.pattern[active],
            limit=limit,
            cone_excess=excess,
            cone_starts=found.starts,
            cone_hits=int(found.hits[found.value >= highest * (1.0 - _HIGHEST)].sum()),
            cone_failed=found.failed,
            slackness=slackness,
            outlier_violation=violation,
            ep_mismatch=mismatch,
            separation=separation,
            reach=reach,
            soft=np.full(len(parts["weight"]), -1),
            soft_x=np.zeros(len(parts["weight"])),
            directions=np.empty((0, self.features.shape[1])),
            **parts,
        )

    def _judge(self, found: Shortfalls, extrapolated: float, separation: float, reach: float) -> tuple[Status, str]:
        status, message = (
            Status.OPTIMAL,
            "stationarity recomputed; the cone was searched from many starts, which is no proof",
        )
        if not max(found) <= ACCEPTED:
            status = Status.NOT_CONVERGED
            message = (
                f"residual {found.residual:.1e}, excess of the cone {found.excess:.1e}, slackness "
                f"{found.slackness:.1e}, outliers {found.violation:.1e}; wanted {ACCEPTED:.0e}. Use a larger "
                "tau, or more starts (n_starts)."
            )
            if self.stopped > self.tau:
                message += f" The approach from larger tau was lost at tau = {self.stopped:.3g}."
            if extrapolated > MAX_EXTRAPOLATED:
                message += (
                    f" Expectation propagation failed on readouts with {extrapolated:.2g} of the "
                    "weight: single neurons are near or beyond their capacity."
                )
        elif extrapolated > MAX_EXTRAPOLATED:
            status = Status.EP_FAILED
            message = (
                f"expectation propagation failed on readouts with {extrapolated:.2g} of the weight; "
                "they are extrapolated to second order. Predictions are approximate; a larger tau helps."
            )
        elif separation < SEPARATED:
            message += (
                f"; bulk and outliers are not separated (ln of the ratio of densities {separation:.1f}): the bulk has "
                f"ridges, and readouts beyond |a| = {reach:.3g} count as outliers"
            )
        return status, message

    def check(self, state: OutlierState) -> tuple[FloatArray, float]:
        """<a phi>_bulk and the mismatch of expectation propagation, in plain NumPy."""
        bulk = state.bulk
        if isinstance(bulk, Joint):
            return joint_average(self.features, state.t, self.s2, self.slopes, bulk.q, bulk.nu)
        at = bulk.nodes.at.take(np.flatnonzero(bulk.nodes.inside))
        exponent, phi = np.array(at.exponent), np.array(at.phi)
        # The sites of the other nodes do not belong to this t: they are extrapolated, and their weight is reported.
        rows = np.flatnonzero(at.status == EP)
        found = node_moments(self.features, state.t, self.s2, self.slopes, at.readout[rows], at.s[rows], at.nu[rows])
        exponent[rows], phi[rows] = found[:2]
        weight = np.exp(exponent - exponent.max())
        return (phi.T * (weight / weight.sum())) @ at.readout, found[2]
