"""Step networks in which a layer falls silent, and Phi has no maximum (THEORY.md, "Silent layers of steps").

A phi that is 0 on one side of 0 and constant on the other one has phi(lambda z) = phi(z): the last layer knows ratios
within K_{L-1} alone. Neurons of layer L - 1 that are 0 on all samples then cost nothing but their own rarity: with a
share of others that vanishes, which do the same on all samples of a class (d = 0), Phi tends to

    ln p_0 + max_w min_t [ln sum_S w_S (exp(E_S) + exp(E_S')) / 2 - sum_c n_c t_c.y_c + (tau/2) sum_c n_c |t_c|^2]

with E_S = s |sum_c S_c n_c t_c|^2 / 2, S' the complement of the code word S, p_0 the probability that a neuron of layer
L - 1 is 0 on all P samples under the prior, and w_S that Gaussian fields of covariance K = sum_S lambda_S S S^T,
lambda >= 0, have the signs of S or S'. Whatever K_{L-1} is, the last layer gives no more than with free w.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize, nnls
from scipy.special import log_ndtr, logsumexp

from meanfield.activations.activation import Activation
from meanfield.theories.deep.layers.rules import NotCovered
from meanfield.theories.deep.layers.work import OutOfWork, counted
from meanfield.theories.deep.newton import Found
from meanfield.theories.deep.prior import prior_kernels
from meanfield.theories.deep.search.branches import Way, polish, prior_branch
from meanfield.theories.deep.search.coding import coding_and_starts
from meanfield.theories.deep.system import DeepProblem, System
from meanfield.validation import FloatArray

__all__ = ["BRIEF", "Silent", "falls_silent", "quiet_solution", "silent_state"]

_MOST_CLASSES = 3  # up to which probabilities of signs are closed forms
_FIELDS = np.linspace(-12.0, 12.0, 4001)
BRIEF = 1.5e9  # multiplications (1 to 2 s) in finding a solution where Phi is known to be large without one
_STEPS, _FLAT = 60, 1e-12  # of Newton's method; relative decrease


@dataclass(frozen=True)
class Silent:
    """Phi that is approached as neurons of layer `layer` fall silent, up to which there is a path: ln p_0 + `top`."""

    layer: int
    log_quiet: float
    top: float

    @property
    def free_energy(self) -> float:
        """The supremum along the path."""
        return self.log_quiet + self.top

    @property
    def likely(self) -> bool:
        """Whether it costs little: samples share fields in all layers but the first, where p_0 = 2^-P."""
        return self.layer > 1

    def words(self, found: float | None) -> str:
        """Why there is no answer; `found` is the largest Phi of a solution, if there is one."""
        other = (
            "and no solution was found in the work that is allowed for it"
            if found is None
            else f"beyond the {found:.6g} of the solution that was found"
        )
        return (
            f"Phi has no maximum: it grows up to {self.free_energy:.6g} as the neurons of layer {self.layer} fall "
            "silent on all samples but for a share that vanishes, whose scale a step does not know "
            f"(phi(lambda z) = phi(z)), {other}; use two layers, an activation with a scale such as hard_sigmoid, or a "
            "larger tau"
        )


def falls_silent(phi: Activation) -> bool:
    """Whether phi is 0 on one side of 0, and constant on the other."""
    pieces = phi.pieces
    if pieces is None or any(pieces.slopes) or tuple(pieces.breaks) != (0.0,):
        return False
    return 0.0 in pieces.intercepts


def silent_state(problem: DeepProblem) -> Silent | None:
    """The state of a network of steps; None for other phi, and for more than three classes of different targets."""
    if not falls_silent(problem.phi) or len(problem.n) > _MOST_CLASSES or problem.depth < 2:
        return None
    rho = 0.0  # correlation of the preactivations of layer L - 1
    if problem.depth > 2:
        common, own, _ = prior_kernels(problem)
        rho = float(common[problem.depth - 3] / (common[problem.depth - 3] + own[problem.depth - 3]))
    quiet = problem.n_samples * log_ndtr(-math.sqrt(rho / (1.0 - rho)) * _FIELDS)
    step = _FIELDS[1] - _FIELDS[0]
    log_quiet = float(logsumexp(quiet - 0.5 * _FIELDS**2)) + math.log(step / math.sqrt(2.0 * math.pi))
    return Silent(problem.depth - 1, problem.ratios[problem.depth - 2] * log_quiet, _sharp_codes(problem))


def _sharp_codes(problem: DeepProblem) -> float:
    """max over w, min over t, of the last layer's part of Phi without noise, from below.

    With the multipliers v of code words at the minimum over t of the largest f_S = ln (exp(E_S) + exp(E_S')) / 2,
    ln sum w exp(f) >= sum v f - sum v ln (v / w).
    """
    (n_classes, m), n = problem.y.shape, problem.n
    low, high = problem.phi.infimum, problem.phi.supremum
    height = high if high != 0.0 else low
    words = height * np.array(list(itertools.product((0.0, 1.0), repeat=n_classes)))
    pairs = np.stack([words[: len(words) // 2], words[::-1][: len(words) // 2]], axis=1)  # (k, 2, C)
    counts = pairs * n
    s, samples = problem.readout_variance, problem.n_samples
    weighted = problem.y * n[:, None]

    def parts(t: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """ln (exp(E_S) + exp(E_S')) / 2 (k,), shares of both (k, 2) and sums a of t (k, 2, m)."""
        sums = counts @ t
        exponent = 0.5 * s * (sums**2).sum(axis=2)
        log_sum = logsumexp(exponent, axis=1)
        return log_sum - math.log(2.0), np.exp(exponent - log_sum[:, None]), sums

    def slopes(share: FloatArray, sums: FloatArray) -> FloatArray:
        """(k, C m)"""
        return np.asarray(s * np.einsum("kp,kpc,kpr->kcr", share, counts, sums).reshape(len(pairs), -1))

    def linear(t: FloatArray) -> tuple[float, FloatArray]:
        value = -float((weighted * t).sum()) + 0.5 * problem.tau * float(n @ (t**2).sum(axis=1))
        return value, (problem.tau * n[:, None] * t - weighted).ravel()

    whole = s * (0.25 * height**2) * (1.0 + np.eye(n_classes)) * n + problem.tau * np.eye(n_classes)
    start = np.asarray(np.linalg.solve(whole, problem.y))
    unit = max(float(np.abs(start).max()), 1e-300)

    def at(x: FloatArray) -> FloatArray:
        return np.asarray(unit * x[:-1].reshape(n_classes, m))

    def goal(x: FloatArray) -> tuple[float, FloatArray]:
        value, slope = linear(at(x))
        return float(x[-1]) + value / samples, np.append(unit / samples * slope, 1.0)

    def room(x: FloatArray) -> FloatArray:
        return np.asarray(x[-1] - parts(at(x))[0] / samples)

    def room_slope(x: FloatArray) -> FloatArray:
        return np.hstack([-unit / samples * slopes(*parts(at(x))[1:]), np.ones((len(pairs), 1))])

    constraint = {"type": "ineq", "fun": room, "jac": room_slope}
    first = np.append(start.ravel() / unit, parts(start)[0].max() / samples)
    options = {"maxiter": 500, "ftol": 1e-15}
    x = minimize(goal, first, jac=True, constraints=[constraint], method="SLSQP", options=options).x
    value, share, sums = parts(at(x))
    rows = unit / samples * slopes(share, sums)
    wanted = -unit / samples * linear(at(x))[1]
    active = value > value.max() - 1e-3 * max(1.0, 1e-3 * abs(float(value.max())))
    scale = max(float(np.abs(rows).max()), 1e-300)
    multipliers, _ = nnls(np.vstack([rows[active].T, scale * np.ones(active.sum())]), np.append(wanted, scale))
    v = np.zeros(len(pairs))
    v[active] = multipliers / multipliers.sum()

    def below(t: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """sum v f and what is linear in t, with its slope and curvature."""
        value, share, sums = parts(t)
        own, slope = linear(t)
        each = s * np.einsum("kpc,kpr->kpcr", counts, sums).reshape(len(pairs), 2, -1)
        mean = np.einsum("kp,kpi->ki", share, each)
        spread = np.einsum("k,kp,kpi,kpj->ij", v, share, each, each) - np.einsum("k,ki,kj->ij", v, mean, mean)
        square = s * np.einsum("k,kp,kpc,kpe->ce", v, share, counts, counts) + problem.tau * np.diag(n)
        return float(v @ value) + own, slope + v @ mean, spread + np.kron(square, np.eye(m))

    return _minimum(below, at(x)) - _unlikely(v)


def _unlikely(v: FloatArray) -> float:
    """min over lambda of sum_S v_S ln (v_S / w_S), for shares v (2^(C - 1),) of pairs of complementary code words."""
    n_classes = int(math.log2(len(v))) + 1
    if n_classes == 1:
        return 0.0
    words = np.array(list(itertools.product((0.0, 1.0), repeat=n_classes)))[1:]
    chosen = v > 0.0

    def distance(x: FloatArray) -> float:
        w = _signs((words.T * np.exp(x - x.max())) @ words)
        return float(v[chosen] @ np.log(v[chosen] / np.maximum(w[chosen], 1e-300)))

    found = [minimize(distance, start, method="L-BFGS-B").fun for start in (np.zeros(len(words)), -words.sum(axis=1))]
    return float(min(found))


def _signs(kernel: FloatArray) -> FloatArray:
    """(2^(C - 1),) probabilities that Gaussian fields of this covariance (C, C), C = 2, 3, have the signs of a code
    word whose first letter is 0, or of its complement; in the order of the words."""
    size = np.sqrt(np.diag(kernel))
    p = np.arccos(np.clip(kernel / np.outer(size, size), -1.0, 1.0)) / math.pi  # that two of them differ
    if len(p) == 2:
        return np.array([1.0 - p[0, 1], p[0, 1]])
    one, two, three = p[0, 1], p[0, 2], p[1, 2]
    return 0.5 * np.array([2.0 - one - two - three, two + three - one, one + three - two, one + two - three])


def _minimum(function: Callable[[FloatArray], tuple[float, FloatArray, FloatArray]], t: FloatArray) -> float:
    """Of a convex function with its slope and curvature, by damped Newton steps."""
    value, slope, curvature = function(t)
    for _ in range(_STEPS):
        move = -np.linalg.lstsq(curvature, slope, rcond=1e-13)[0].reshape(t.shape)
        gain, length = -float(slope @ move.ravel()), 1.0
        if gain <= _FLAT * max(1.0, abs(value)):
            break
        while length > 1e-6 and not function(t + length * move)[0] < value - 0.1 * length * gain:
            length *= 0.5
        t = t + length * move
        value, slope, curvature = function(t)
    return value - 0.5 * max(gain, 0.0)


def quiet_solution(
    problem: DeepProblem, tolerance: float, report: Callable[[str, int, float], None] | None
) -> tuple[System, Found, list[Way] | None]:
    """A solution of three or more layers of steps, looked for briefly: with codes, or that which continues the prior.

    Raises
    ------
    NotCovered
        If there is none.
    """
    reached = None
    try:
        with counted(BRIEF):
            reached = coding_and_starts(problem, tolerance, report)
        if reached[1].residual <= tolerance:
            return reached
    except (NotCovered, np.linalg.LinAlgError):
        pass
    try:
        with counted(BRIEF):
            return *polish(*prior_branch(problem, report), tolerance, report), None
    except (ValueError, OutOfWork, np.linalg.LinAlgError) as error:
        if reached is None:
            raise NotCovered("no solution was found") from error
        return reached
