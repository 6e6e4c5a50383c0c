"""Finite P where classes can be exchanged: Newton's method on J in the order parameters of kinds (sigma_a = 1).

J is convex, so that its minimum over all t has the symmetry of the task and is found among symmetric t. There are at
most K (K + 1) order parameters of K kinds, and the integral over the readout is one over the mean fields of the kinds.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from meanfield.activations.cumulant import Cumulant
from meanfield.theories.single_layer.finite.exchange_codes import exchange_codes
from meanfield.theories.single_layer.finite.solution import FiniteSolution, deferred
from meanfield.theories.single_layer.finite.start import rungs
from meanfield.theories.single_layer.kinds.classes import ClassKinds, class_kinds
from meanfield.theories.single_layer.kinds.orbits import KindTask
from meanfield.theories.single_layer.readout.exchange import MAX_KINDS, ExchangeIntegral, Value, range_of
from meanfield.theories.single_layer.readout.integral import ACCURACY, COARSE, NotIntegrable, OutOfBudget
from meanfield.validation import FloatArray

__all__ = ["MIN_OUTPUTS", "Reduced", "exchange_solve", "exchangeable", "reduced_order_parameters", "solve_exchange"]

MIN_OUTPUTS = 5  # dimensions that targets span, from which on this is faster than lattices over all of them
_MAX_SAMPLES = 1e6  # beyond, P h has lost its digits
_MOST_COUNTS = 1000  # choices of upper classes whose readouts are looked at for the highest
_MARGIN = 1e-2  # error of the sums, relative to the residual that is aimed at
_START = 8.0  # samples at which t is found from anywhere
_FACTOR = 0.25  # of P from rung to rung
_ROUGH = 1e-3  # residual on the way
_MAX_STEPS = 80
_REFINEMENTS = (1.0, 0.8, 0.6, 0.4, 0.25, 0.15)  # where a p_c P is not an integer
_FINER = 0.85  # refinement of the sums that judge, relative to those that are judged
_SHRINK = 0.3  # r_k never falls below this part of itself in one step


class Reduced(NamedTuple):
    """A solution in the order parameters of kinds, and what another rule says of it."""

    integral: ExchangeIntegral
    theta: FloatArray  # (K, d)
    value: Value
    reached: float  # residual of the rule itself
    other: float  # residual of the other rule
    error: float  # of the integral
    n_nodes: int
    steps: int

    @property
    def residual(self) -> float:
        """|other| plus at least the difference of the two rules."""
        return 2.0 * self.other + self.reached

    @property
    def decrement(self) -> float:
        """Newton's estimate of J - min J."""
        gradient = self.value.gradient.ravel()
        return 0.5 * float(gradient @ np.linalg.solve(self.value.hessian, gradient))


def exchange_solve(
    single_site: Cumulant, p: FloatArray, y: FloatArray, tau: float, n_samples: float, t0: FloatArray | None, aim: float
) -> FiniteSolution | None:
    """`finite.finite_solve` where classes can be exchanged; None where that is not so, or sums would take too long."""
    kinds = exchangeable(single_site, p, y)
    if kinds is None or n_samples > _MAX_SAMPLES:
        return None
    try:
        found = solve_exchange(single_site, kinds, tau, n_samples, t0, aim)
    except (NotIntegrable, OutOfBudget, np.linalg.LinAlgError):
        return None
    accuracy = max(ACCURACY, _MARGIN * aim)
    return deferred(
        kinds.order_parameters(found.theta),
        lambda: exchange_codes(found.integral, found.theta, found.value.outer, accuracy),
        objective=found.value.objective,
        level=_level(found),
        residual=found.residual,
        decrement=found.decrement,
        integration_error=found.error,
        method="exchange",
        n_nodes=found.n_nodes,
        iterations=found.steps,
    )


def _level(found: Reduced) -> float:
    """max_a h(a; t), over code words of all counts or, where these are many, of a grid."""
    integral, kinds = found.integral, found.integral.kinds
    task = KindTask(kinds, integral.single_site.table, integral.tau, integral.low, integral.high)
    stride = 1
    while True:
        axes = [sorted({*range(0, int(n), stride), int(n)}) if n > 1 else [0] for n in integral.n]
        if np.prod([float(len(axis)) for axis in axes]) <= _MOST_COUNTS:
            return float(task.readouts(found.theta, list(product(*axes))).heights.max())
        stride *= 2


def exchangeable(single_site: Cumulant, p: FloatArray, y: FloatArray) -> ClassKinds | None:
    """Kinds of classes where phi is bounded, kinds are few and the span of the targets is large; None elsewhere."""
    table = single_site.table
    if min(y.shape) < MIN_OUTPUTS or table.growth_plus > 0 or table.growth_minus > 0:
        return None
    kinds = class_kinds(p, y)
    return kinds if kinds.n_kinds <= MAX_KINDS and kinds.span >= MIN_OUTPUTS else None


def reduced_order_parameters(kinds: ClassKinds, t: FloatArray) -> FloatArray:
    """(K, d) of t (C, m), averaged over permutations of classes within kinds."""
    theta = np.empty(kinds.y.shape)
    for k in range(kinds.n_kinds):
        own = kinds.kind == k
        theta[k, :-1] = kinds.basis @ t[own].mean(axis=0)
        theta[k, -1] = float((t[own] * kinds.simplex[own]).sum()) / kinds.n[k]
    return theta


def solve_exchange(
    single_site: Cumulant, kinds: ClassKinds, tau: float, n_samples: float, t0: FloatArray | None, aim: float
) -> Reduced:
    """Minimise J; the best point found, whatever its residual.

    Raises
    ------
    NotIntegrable
        If grids would be too large, or no way leads to a minimum.
    """
    integral = ExchangeIntegral(single_site, kinds, tau, n_samples, range_of(single_site))
    accuracy = max(ACCURACY, _MARGIN * aim)
    theta, steps = _start(integral, t0)
    best: Reduced | None = None
    for refinement in _REFINEMENTS:
        integral.refinement = refinement
        try:
            found = _polished(integral, theta, accuracy, aim, steps)
        except NotIntegrable:
            if best is None:
                raise
            break
        steps, theta = found.steps, found.theta
        if best is not None and found.residual > 0.3 * best.residual:
            best = found if found.residual < best.residual else best
            break
        best = found
        if best.residual <= aim:
            break
    assert best is not None
    return best


def _start(integral: ExchangeIntegral, t0: FloatArray | None) -> tuple[FloatArray, int]:
    """theta near the minimum: from t0 where that is near, else with P raised in steps."""
    kinds, target = integral.kinds, integral.n_samples
    if t0 is not None:
        theta = reduced_order_parameters(kinds, t0)
        if (theta[kinds.split, -1] > 0.0).all():
            try:
                theta, residual, steps = _minimise(integral, theta, COARSE, _ROUGH)
                if residual <= _ROUGH:
                    return theta, steps
            except NotIntegrable:
                pass
    theta, total = kinds.y.copy(), 0
    try:
        for integral.n_samples in rungs(target, _START, _FACTOR):
            theta, residual, steps = _minimise(integral, theta, COARSE, _ROUGH)
            total += steps
    finally:
        integral.n_samples = target
    return theta, total


def _minimise(
    integral: ExchangeIntegral, theta: FloatArray, accuracy: float, tolerance: float
) -> tuple[FloatArray, float, int]:
    """Damped Newton on J until the residual is below the tolerance or stalls: (theta, residual, steps)."""
    value = integral.value(theta, accuracy)
    residual = integral.residual(value.gradient)
    for steps in range(_MAX_STEPS):
        if residual <= tolerance:
            return theta, residual, steps
        step = _newton_step(integral, theta, value)
        slope = float(value.gradient.ravel() @ step.ravel())
        length = 1.0
        while length > 1e-8:
            try:
                trial = integral.value(theta + length * step, accuracy)
            except NotIntegrable:
                length *= 0.25
                continue
            # Values carry the error of the integral, gradients less of it.
            if (
                trial.objective <= value.objective + 1e-4 * length * slope
                or integral.residual(trial.gradient) < 0.5 * residual
            ):
                break
            length *= 0.3
        else:
            return theta, residual, steps
        theta, value = theta + length * step, trial
        residual = integral.residual(value.gradient)
    return theta, residual, _MAX_STEPS


def _newton_step(integral: ExchangeIntegral, theta: FloatArray, value: Value) -> FloatArray:
    """Newton's step of J, shortened where it is long or would turn a simplex over."""
    scale = np.repeat(np.sqrt(integral.share), theta.shape[1])
    gradient = value.gradient.ravel() / scale
    values, vectors = np.linalg.eigh(value.hessian / np.outer(scale, scale))
    floor = max(1e-14 * float(values[-1]), 1e-300)
    step = (-vectors @ ((vectors.T @ gradient) / np.maximum(values, floor)) / scale).reshape(theta.shape)
    longest = 10.0 * (1.0 + np.abs(integral.kinds.y).max() + np.abs(theta).max())
    step *= min(1.0, longest / max(float(np.abs(step).max()), 1e-300))
    r, dr = theta[integral.kinds.split, -1], step[integral.kinds.split, -1]
    falling = dr < -(1.0 - _SHRINK) * r
    if falling.any():
        step *= float(((1.0 - _SHRINK) * r[falling] / -dr[falling]).min())
    return np.asarray(step)


def _polished(integral: ExchangeIntegral, theta: FloatArray, accuracy: float, aim: float, steps: int) -> Reduced:
    """Newton's method with the final sums, and the residual by finer and shifted ones with a G unlike theirs."""
    enough = 3e-2 * aim
    value = integral.value(theta, accuracy)
    residual = integral.residual(value.gradient)
    best = residual, theta, value
    for _ in range(_MAX_STEPS):
        if residual <= enough:
            break
        steps += 1
        theta = theta + _newton_step(integral, theta, value)
        value = integral.value(theta, accuracy)
        before, residual = residual, integral.residual(value.gradient)
        if residual < best[0]:
            best = residual, theta, value
        if not residual < 0.5 * before:
            break
    reached, theta, value = best
    refinement = integral.refinement
    try:
        integral.refinement = _FINER * refinement
        again = integral.value(theta, 0.1 * accuracy, 1, direct=True, shifted=True)
    finally:
        integral.refinement = refinement
    other = integral.residual(again.gradient)
    error = max(integral.aliasing(accuracy), integral.n_samples * abs(again.objective - value.objective))
    return Reduced(integral, theta, value, reached, other, error, len(again.outer.a), steps)
