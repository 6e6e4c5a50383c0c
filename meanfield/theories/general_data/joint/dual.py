"""Minimum over t of J(t) = -<t, Y> + (tau / 2)|t|^2 + ln sum_g Z_g(t) with one Z_g per code.

With many samples ln Z_g = O(P), so J is nearly a maximum over codes, full of kinks, and which codes there are depends
on t. A step therefore minimises a model in which every ln Z_g is quadratic and their log-sum stays what it is. Codes
that expectation propagation does not find again at another t are kept as tangents: ln Z_g is convex in t, so a tangent
bounds it from below, in the model and in J.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_solve
from scipy.special import logsumexp

from meanfield.numerics.limits import check_time
from meanfield.theories.general_data.joint.codes import Codes, JointNeuron
from meanfield.theories.general_data.joint.neuron import Joint
from meanfield.theories.general_data.slices import factorise
from meanfield.validation import FloatArray

__all__ = ["CodesDual", "CodesState", "Tangents", "minimise_codes"]

_CURVED = 1e-8  # weight of a code that enters the Hessian of the weights
_SLOWEST, _STALLED = 1e-4, 1e-3  # rate, and share of what was gained, at which descent along the bounds ends
_LOWER, _ROUNDING = 1e-6, 1e-9  # of J: progress, and what counts as none
_INNER = 15  # Newton steps on the model
_INNER_TOLERANCE = 0.1
_DENSE, _DENSE_MEMORY = 3600, 2e8  # unknowns, and matrix elements of all codes, up to which the Hessian is a matrix
_CG_STEPS = 300
_CG_TOLERANCE = 0.1
_BLUNT = 30.0  # sharpness of the model's maximum far from the end, times P
_SHARPER = 4.0
_FAR = 0.1  # in the gradient
_CAREFUL = 0.5, 1e-3  # radius down to which a step that loses a heavy code is shortened: far from the end, near it
_NEAR = 0.05
_SECANTS, _LEAST_CURVATURE = 12, 1e-4
_PATIENCE = 8  # steps without progress
_SEARCH_EVERY = 3.0  # distance in t
_SMALLEST_RADIUS, _LARGEST_RADIUS, _RESTART = 1e-7, 30.0, 0.1
_DEPTH = 40.0, 0.3  # codes this far below the top are forgotten: at least, and times P
_TANGENT_DEPTH = 5.0  # the same of tangents, times P
_MAX_CODES = 300
_MAX_TANGENTS = 600
_SAME = 0.005  # mean square difference of activations within one code
_HEAVY = 0.05


class Tangents(NamedTuple):
    """Lower bounds offset + <slope, t> of ln Z_g, one row each; slope (n, P m), phi (n, P) tells the codes apart."""

    offset: FloatArray
    slope: FloatArray
    phi: FloatArray

    @staticmethod
    def of(t: FloatArray, joints: list[Joint]) -> Tangents:
        slope = np.array([joint.mean_a_phi.ravel() for joint in joints]).reshape(-1, t.size)
        phi = np.array([joint.phi for joint in joints]).reshape(-1, len(t))
        return Tangents(np.array([joint.log_z for joint in joints]) - slope @ t.ravel(), slope, phi)

    def at(self, t: FloatArray) -> FloatArray:
        return np.asarray(self.offset + self.slope @ t.ravel())

    def take(self, rows: list[int]) -> Tangents:
        return Tangents(self.offset[rows], self.slope[rows], self.phi[rows])

    def join(self, other: Tangents) -> Tangents:
        return Tangents(*(np.concatenate(pair) for pair in zip(self, other)))

    def besides(self, codes: Codes, least: float) -> Tangents:
        """The highest at t down to `least`: of codes that are not among `codes`, one each."""
        value = self.at(codes.t)
        seen = [joint.phi for joint in codes.joints]
        rows: list[int] = []
        for i in np.argsort(-value, kind="stable"):
            if value[i] < least or len(rows) == _MAX_TANGENTS:
                break
            if np.mean((np.array(seen) - self.phi[i]) ** 2, axis=1).min(initial=np.inf) > _SAME:
                rows.append(int(i))
                seen.append(self.phi[i])
        return self.take(rows)


@dataclass
class CodesState:
    """A point t = basis theta; gradient (q, m) is that of theta, per sample where t is restricted to a basis.

    weight (n,) of the codes and of the tangents after them.
    """

    theta: FloatArray
    codes: Codes
    tangents: Tangents
    objective: float
    gradient: FloatArray
    weight: FloatArray

    @property
    def error(self) -> float:
        return float(np.abs(self.gradient).max())

    @property
    def extrapolated(self) -> float:
        """Weight of codes that are known by a tangent only."""
        return float(self.weight[len(self.codes.joints) :].sum())


class CodesDual:
    """J(t); basis (P, q), or None for the identity; fractions of the neurons per code (family), if they are frozen."""

    def __init__(
        self,
        neuron: JointNeuron,
        targets: FloatArray,
        tau: float,
        basis: FloatArray | None = None,
        fractions: Mapping[int, float] | None = None,
    ) -> None:
        self.neuron, self.targets, self.tau, self.basis = neuron, targets, tau, basis
        self.frozen = fractions is not None
        self.families = {} if fractions is None else {family: g for g, family in enumerate(fractions)}
        self.shares = [1.0] if fractions is None else list(fractions.values())
        self.scale = np.ones(len(targets)) if basis is None else np.sum(np.abs(basis), axis=0)
        self.depth = max(_DEPTH[0], _DEPTH[1] * len(targets))

    def t(self, theta: FloatArray) -> FloatArray:
        return theta if self.basis is None else self.basis @ theta

    def reduce(self, gradient: FloatArray) -> FloatArray:
        return gradient if self.basis is None else self.basis.T @ gradient

    def linear(self, t: FloatArray) -> float:
        return float(np.sum(t * (0.5 * self.tau * t - self.targets)))

    def group(self, joints: Sequence[Joint], others: int) -> NDArray[np.intp]:
        """Number of the share of neurons for which codes compete, and the tangents after them."""
        return np.array([self.families.get(joint.family, 0) for joint in joints] + [0] * others, dtype=np.intp)

    def log_sum(self, log_z: FloatArray, group: NDArray[np.intp], sharpness: float = 1.0) -> tuple[float, FloatArray]:
        """ln Z and the weights of the codes."""
        value, weight = 0.0, np.empty_like(log_z)
        for g, share in enumerate(self.shares):
            rows = group == g
            total = float(logsumexp(sharpness * log_z[rows]))
            value += share * total / sharpness
            weight[rows] = share * np.exp(sharpness * log_z[rows] - total)
        return value, weight

    def complete(self, codes: Codes) -> bool:
        """Whether every share of the neurons has a code."""
        return not self.frozen or {joint.family for joint in codes.joints} >= set(self.families)

    def state(self, theta: FloatArray, codes: Codes, tangents: Tangents | None = None) -> CodesState:
        t = codes.t
        tangents = Tangents.of(t, []) if tangents is None else tangents
        if self.frozen:  # no neuron is in a code that a search finds
            codes = Codes(t, tuple(joint for joint in codes.joints if joint.family in self.families))
            tangents = Tangents.of(t, [])
        else:
            codes, low = codes.without_negligible.split(self.depth, _MAX_CODES)
            tangents = tangents.join(Tangents.of(t, low)).besides(codes, codes.top - _TANGENT_DEPTH * len(t))
        total, weight = self.log_sum(
            np.concatenate([codes.log_z, tangents.at(t)]), self.group(codes.joints, len(tangents.offset))
        )
        gradient = self.tau * t - self.targets
        for w, joint in zip(weight, codes.joints):
            gradient = gradient + w * joint.mean_a_phi
        gradient = gradient + (weight[len(codes.joints) :] @ tangents.slope).reshape(t.shape)
        reduced = self.reduce(gradient) / self.scale[:, None]
        return CodesState(theta, codes, tangents, self.linear(t) + total, reduced, weight)


class _Model:
    """J near a state: codes to second order, tangents."""

    def __init__(self, dual: CodesDual, state: CodesState) -> None:
        self.dual, self.state = dual, state
        t = state.codes.t
        self.joints = state.codes.joints
        self.value = np.concatenate([state.codes.log_z, state.tangents.at(t)])
        slopes = [dual.reduce(joint.mean_a_phi).ravel() for joint in self.joints]
        slopes += [dual.reduce(slope.reshape(t.shape)).ravel() for slope in state.tangents.slope]
        self.slope = np.array(slopes)
        self.metric = None if dual.basis is None else dual.basis.T @ dual.basis
        self.slope_at_rest = dual.reduce(dual.tau * t - dual.targets)
        self.sharpness = 1.0
        self.group = dual.group(self.joints, len(state.tangents.offset))
        self.matrices: dict[int, FloatArray] = {}

    def direct(
        self, gradient: FloatArray, weight: FloatArray, curved: list[int], between: FloatArray
    ) -> FloatArray | None:
        """-H^{-1} gradient by a Cholesky factor; None where rounding makes H indefinite."""
        size = gradient.size
        for i in curved:
            if i not in self.matrices:
                check_time()
                self.matrices[i] = self.joints[i].hessian(None)
        matrix = between.T @ between
        for i in curved:
            check_time()
            matrix += weight[i] * self.matrices[i]
        matrix.flat[:: size + 1] += self.dual.tau
        try:
            factor = factorise(matrix)
        except LinAlgError:
            return None
        return np.asarray(-cho_solve(factor, gradient.ravel(), check_finite=False)).reshape(gradient.shape)

    def bend(self, i: int, v: FloatArray) -> FloatArray:
        return self.dual.reduce(self.joints[i].curvature(self.dual.t(v)))

    def at(self, step: FloatArray) -> tuple[float, FloatArray, FloatArray, FloatArray]:
        """Value less that of the linear part at rest, gradient, weights and slopes (n, q m) of the pieces."""
        dual, flat = self.dual, step.ravel()
        slope = self.slope.copy()
        value = self.value + slope @ flat
        for i, bend in enumerate(dual.neuron.map(lambda i: self.bend(i, step), range(len(self.joints)))):
            value[i] += 0.5 * float(np.sum(bend * step))
            slope[i] += bend.ravel()
        total, weight = dual.log_sum(value, self.group, self.sharpness)
        ridge = dual.tau * (step if self.metric is None else self.metric @ step)
        gradient = self.slope_at_rest + ridge + (weight @ slope).reshape(step.shape)
        return float(np.sum(step * (self.slope_at_rest + 0.5 * ridge))) + total, gradient, weight, slope

    def newton(self, gradient: FloatArray, weight: FloatArray, slopes: FloatArray) -> FloatArray:
        """Step from the Hessian of the model: directly, or, with many unknowns or codes, by conjugate gradients."""
        dual = self.dual
        heavy = np.flatnonzero(weight > _CURVED)
        curved = [int(i) for i in heavy if i < len(self.joints)]
        between = slopes[heavy]
        for g in range(len(dual.shares)):
            rows = self.group[heavy] == g
            share = weight[heavy][rows]
            between[rows] -= (share / share.sum()) @ between[rows]
            between[rows] *= np.sqrt(self.sharpness * share)[:, None]

        if self.metric is None and gradient.size <= _DENSE and len(curved) * gradient.size**2 <= _DENSE_MEMORY:
            found = self.direct(gradient, weight, curved, between)
            if found is not None:
                return found

        def hessian(v: FloatArray) -> FloatArray:
            result = dual.tau * (v if self.metric is None else self.metric @ v)
            for part in dual.neuron.map(lambda i: weight[i] * self.bend(i, v), curved):
                result = result + part
            return result + (between.T @ (between @ v.ravel())).reshape(v.shape)

        x = np.zeros_like(gradient)
        residual = -gradient
        direction = residual.copy()
        size = float(np.sum(residual**2))
        goal = _CG_TOLERANCE**2 * size
        for _ in range(_CG_STEPS):
            if size <= goal:
                break
            image = hessian(direction)
            rate = size / float(np.sum(direction * image))
            x = x + rate * direction
            residual = residual - rate * image
            new = float(np.sum(residual**2))
            direction = residual + (new / size) * direction
            size = new
        return x

    def minimum(self, radius: float) -> tuple[FloatArray, float]:
        """Step within `radius` that lowers the model, and by how much."""
        step = np.zeros_like(self.state.theta)
        rest = self.at(step)[0]
        samples = len(self.dual.targets)
        self.sharpness = min(1.0, _BLUNT / samples) if self.state.error > _FAR else 1.0
        while True:
            step = self._descend(step, radius)
            if self.sharpness == 1.0:
                break
            self.sharpness = min(1.0, _SHARPER * self.sharpness)
        return step, rest - self.at(step)[0]

    def secant_step(self, secants: list[tuple[FloatArray, FloatArray]], radius: float) -> tuple[FloatArray, float]:
        """Step of the limited-memory BFGS method that starts from the inverse Hessian of the model.

        The model leaves out how sites respond to t; changes of the gradient along earlier steps (s, y) tell.
        """
        _, _, weight, slopes = self.at(np.zeros_like(self.state.theta))
        q = gradient = self.state.gradient * self.dual.scale[:, None]
        factors = []
        for s, y in reversed(secants):
            factors.append(float(np.sum(s * q) / np.sum(s * y)))
            q = q - factors[-1] * y
        step = self.newton(q, weight, slopes)
        for (s, y), factor in zip(secants, reversed(factors)):
            step = step - s * (factor + float(np.sum(y * step) / np.sum(s * y)))
        largest = float(np.abs(step).max())
        if largest > radius:
            step = step * (radius / largest)
        return step, -0.5 * float(np.sum(gradient * step))

    def _descend(self, step: FloatArray, radius: float) -> FloatArray:
        value, gradient, weight, slopes = self.at(step)
        scale = self.dual.scale[:, None]
        goal = _INNER_TOLERANCE * min(np.abs(gradient / scale).max(), self.state.error)
        start = value
        for _ in range(_INNER):
            move = self.newton(gradient, weight, slopes)
            rate = 1.0
            while True:
                trial = step + rate * move
                largest = float(np.abs(trial).max())
                if largest > radius:
                    trial *= radius / largest
                new = self.at(trial)
                if new[0] < value or rate < _SLOWEST:
                    break
                rate *= 0.3
            if not new[0] < value:
                break
            gained = value - new[0]
            step, (value, gradient, weight, slopes) = trial, new
            if np.abs(gradient / scale).max() < goal or gained < _STALLED * (start - value):
                break
        return step


def minimise_codes(
    dual: CodesDual,
    state: CodesState,
    tolerance: float,
    look: Callable[[CodesState, float], Codes],
    report: Callable[[CodesState, str], None],
    max_steps: int = 100,
    most_tangents: float = np.inf,
    strict: bool = False,
    last: bool = True,
) -> CodesState:
    """Steps of the model until |grad| < tolerance and, if this is the `last` stage, `look` finds no other code.

    Ends early where, close to the minimum, tangents carry more weight than `most_tangents`, and, if `strict`, where a
    heavy code is lost.
    """
    radius = 3.0
    travelled = 0.0  # since the last search for codes
    secants: list[tuple[FloatArray, FloatArray]] = []
    best, lowest, stalled = np.inf, np.inf, 0
    for _ in range(max_steps):
        accuracy = max(min(1e-5, 1e-2 * state.error), 0.03 * tolerance)
        if state.error < tolerance:
            if travelled == 0.0 or dual.frozen or not last:
                break
            travelled = 0.0
            state = dual.state(state.theta, look(state, accuracy), state.tangents)
            if state.error < tolerance:
                break
            best, lowest, stalled, radius, secants = np.inf, np.inf, 0, max(radius, _RESTART), []
        progress = state.objective < best - _LOWER * (1.0 + abs(state.objective)) or state.error < 0.7 * lowest
        stalled = 0 if progress else stalled + 1
        best, lowest = min(best, state.objective), min(lowest, state.error)
        if stalled > _PATIENCE or (state.error < _NEAR and state.extrapolated > most_tangents):
            break
        model = _Model(dual, state)
        step, drop = model.secant_step(secants, radius) if secants else model.minimum(radius)
        length = float(np.abs(step).max())
        theta = state.theta + step
        codes, left = dual.neuron.move(state.codes, dual.t(theta), accuracy)
        tangents = state.tangents.join(Tangents.of(state.codes.t, left))
        lost = sum(state.weight[[joint is old for joint in state.codes.joints].index(True)] for old in left)
        careful = dual.basis is None and (strict or radius > _CAREFUL[int(state.error < _FAR)])
        if codes.joints and not (lost > _HEAVY and careful) and dual.complete(codes):
            new = dual.state(theta, codes, tangents)
            travelled += length
            missing = lost > _HEAVY or (dual.basis is not None and state.error > _FAR)
            if new.objective < state.objective and (travelled > _SEARCH_EVERY or missing):
                travelled = 0.0
                new = dual.state(theta, look(new, accuracy), tangents)
        else:
            if strict:
                break
            report(state, f"lost {lost:.2g}, radius {radius:.2g}")
            radius = 0.3 * min(radius, length)
            if radius < _SMALLEST_RADIUS:
                break
            continue
        if new.objective > state.objective + _ROUNDING * (1.0 + abs(state.objective)):
            radius = 0.35 * min(radius, length)
            secants = secants[1:] if len(secants) == _SECANTS else secants
            report(
                state,
                f"rejected {new.objective - state.objective:.2g} predicted {-drop:.2g} radius {radius:.2g} "
                f"codes {len(new.codes.joints)} extrapolated {new.extrapolated:.2g}",
            )
            known, left = dual.neuron.move(new.codes, state.codes.t, accuracy)
            merged = dual.neuron.distinct(Codes(state.codes.t, (*state.codes.joints, *known.joints)))
            tangents = state.tangents.join(Tangents.of(new.codes.t, left))
            secants = [] if left or len(merged.joints) > len(state.codes.joints) else secants
            state = dual.state(state.theta, merged, tangents)
            if radius < _SMALLEST_RADIUS:
                break
            continue
        gained = state.objective - new.objective
        change = (new.gradient - state.gradient) * dual.scale[:, None]
        if new.error > _NEAR or left or travelled == 0.0:
            secants = []
        elif float(np.sum(step * change)) > _LEAST_CURVATURE * float(np.sum(step**2)):
            secants = [*secants[1 - _SECANTS :], (step, change)]
        if gained > 0.9 * drop and length > 0.5 * radius:
            radius = min(1.5 * radius, _LARGEST_RADIUS)
        elif gained < 0.25 * drop:
            radius = 0.5 * length
        state = new
        report(
            state,
            f"accepted {length:.2g} drop {gained:.3g} predicted {drop:.3g} codes {len(state.codes.joints)} "
            f"tangents {len(state.tangents.offset)} extrapolated {state.extrapolated:.2g}",
        )
    return state
