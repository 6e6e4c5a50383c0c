"""Finite P where codes are separated and nearly Gaussian: Newton's method with a rule around each code (sigma_a = 1).

Codes and their weights are unknowns beside t, as in `finite_newton.polish`; they come from a neighbour or from
P -> infinity. Wherever anything is out of the ordinary the answer is None, and the lattice over all codes takes over.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from meanfield.numerics.limits import check_time
from meanfield.theories.single_layer.compiled.cloud import closest
from meanfield.theories.single_layer.finite.newton import jacobian, no_outliers, stepped
from meanfield.theories.single_layer.readout.check import extra_starts, stationarity
from meanfield.theories.single_layer.readout.clouds import (
    ORDERS,
    OVERLAP,
    Frames,
    Rule,
    ball_sums,
    choose_rules,
    cloud_sums,
    framed,
    hermite_rule,
    overlapping,
    violations,
)
from meanfield.theories.single_layer.readout.integral import ReadoutIntegral, Sums
from meanfield.validation import BoolArray, FloatArray

__all__ = ["MAX_CLOUD_DIMENSION", "Clouds", "Codes", "solve_clouds"]

MAX_CLOUD_DIMENSION = 4
_MAX_STEPS = 10
_MAX_ROUNDS = 3  # of codes that the check finds and the solution lacks
_SAME = 1e-5  # distance up to which two maxima are one, relative to 1 + |a|
_LIGHTEST = 1e-8  # weight with which a code starts that was not known
_GONE = -50.0  # ln of the weight below which a code is left out
_NEAR = 1e-4  # error of the first rules at which those that are good enough take over
_FAR = 0.5  # change of t in one step, relative to 1 + |t|, beyond which the start was not near


class Codes(NamedTuple):
    """Readouts near the maxima of h (K, m), and weights (K,)."""

    readout: FloatArray
    weight: FloatArray


class Clouds(NamedTuple):
    """A solution by rules around codes, and what the rule unlike them says of it."""

    t: FloatArray
    weight: FloatArray
    sums: Sums
    reached: float  # residual of the rules themselves
    other: float  # residual of the other rule
    error: float  # of the integral: difference of both, or what the other leaves out
    n_nodes: int


def solve_clouds(
    problem: ReadoutIntegral, t: FloatArray, codes: Codes, aim: float, accuracy: float, overlap: float = OVERLAP
) -> tuple[FloatArray, Clouds | None]:
    """Minimise J from near its minimum; None, and the best t so far, where codes overlap or the start is not near."""
    for _ in range(_MAX_ROUNDS):
        solved = _newton(problem, t, codes, 3e-2 * aim, accuracy, overlap)
        if not isinstance(solved, tuple):
            return (t if solved is None else solved), None
        t, weight, frames, rules, sums, reached = solved
        found, height = problem.maxima(t, extra_starts(problem, t))
        seeds = found[problem.n_samples * (height - height[0]) > 2.0 - problem.window(0.1 * accuracy)]
        new = np.flatnonzero(_unknown(seeds, frames.mode))
        if new.size:
            heaviest = int(np.argmax(weight))
            excess = problem.n_samples * (height[new] - frames.height[heaviest])
            weights = np.append(weight, weight[heaviest] * np.exp(np.clip(excess, np.log(_LIGHTEST), 0.0)))
            codes = Codes(np.vstack([frames.mode, seeds[new]]), weights / weights.sum())
            continue
        return t, _checked(problem, t, weight, frames, rules, sums, reached, accuracy)
    return t, None


def _unknown(readouts: FloatArray, modes: FloatArray) -> BoolArray:
    """Which of the readouts (n, m) are none of the modes (K, m)."""
    distance = np.abs(readouts[:, None] - modes).max(axis=2).min(axis=1)
    return np.asarray(~(distance < _SAME * (1.0 + np.abs(readouts).max(axis=1))))


def _newton(
    problem: ReadoutIntegral, t: FloatArray, codes: Codes, enough: float, accuracy: float, overlap: float
) -> tuple[FloatArray, FloatArray, Frames, tuple[Rule, ...], Sums, float] | FloatArray | None:
    """t, weights, frames, rules, sums and residual; t alone where no rules do but the fewest nodes, None without it."""
    frames = framed(problem, t, codes.readout)
    if frames is None:
        return None
    frames, weight = _merged(frames, codes.weight)
    if overlapping(problem, t, frames, weight, overlap):
        return None
    rules: tuple[Rule, ...] | None = None
    inverse: np.ndarray | None = None
    within, before = np.empty((0, 0)), np.inf
    for _ in range(_MAX_STEPS):
        check_time()
        if rules is None:  # on the way: the fewest nodes, with the Hessian
            sums = cloud_sums(problem, t, frames, (hermite_rule(t.shape[1], ORDERS[0]),) * len(frames), weight)
        else:
            sums = cloud_sums(problem, t, frames, rules)
        error, violation = violations(problem, t, sums, weight)
        if rules is not None and error <= enough:
            return t, weight, frames, rules, replace(sums, within=within), error
        if not error < (2.0 if rules is None else 0.5) * before:
            return None
        before = error
        if rules is None:
            within = sums.within
            try:
                inverse = np.linalg.inv(jacobian(problem, sums, weight))
            except np.linalg.LinAlgError:
                return None
        assert inverse is not None
        step = -inverse @ violation
        change = step[: t.size].reshape(t.shape)
        if not np.abs(change).max() <= _FAR * (1.0 + np.abs(t).max()):
            return None
        t, weight = t + change, stepped(weight, step[t.size : -1])
        kept = np.log(weight) > _GONE
        if not kept.all():
            weight, inverse = weight[kept] / weight[kept].sum(), None
        moved = framed(problem, t, frames.mode[kept])
        if moved is None or closest(moved.mode) < _SAME:
            return None
        frames = moved
        if rules is None and error < _NEAR and inverse is not None:
            rules, before = choose_rules(problem, t, frames, weight, accuracy), np.inf
            if rules is None:
                return t
        elif inverse is None:
            rules = None
    return None


def _merged(frames: Frames, weight: FloatArray) -> tuple[Frames, FloatArray]:
    """Each maximum once, with all its weight."""
    if closest(frames.mode) < _SAME:
        kept: list[int] = []
        total: list[float] = []
        for i, a in enumerate(frames.mode):
            same = [n for n, j in enumerate(kept) if not _unknown(a[None], frames.mode[j : j + 1])[0]]
            if same:
                total[same[0]] += weight[i]
            else:
                kept.append(i)
                total.append(weight[i])
        frames, weight = Frames(**{name: array[kept] for name, array in vars(frames).items()}), np.array(total)
    shares = np.maximum(weight, _LIGHTEST)
    return frames, shares / shares.sum()


def _checked(
    problem: ReadoutIntegral, t: FloatArray, weight: FloatArray, frames: Frames, rules: tuple[Rule, ...], sums: Sums,
    reached: float, accuracy: float,
) -> Clouds | None:  # fmt: skip
    """Held against lattices in balls around the codes, with G evaluated directly."""
    unlike = ball_sums(problem, t, frames, weight, accuracy)
    if unlike is None:
        return None
    log_share, first, shell = unlike
    top = log_share.max()
    objective = problem.linear(t) + (top + np.log(np.exp(log_share - top).sum())) / problem.n_samples
    again = Sums(objective, log_share, first, np.empty(0), frames.mode, sums.level, None)
    other = stationarity(problem, t, again, weight, no_outliers(t))
    # What is beyond the balls holds about as much as their outermost shells.
    other = float(other + shell * (1.0 + np.abs(problem.y).max()))
    error = float(max(accuracy, shell, problem.n_samples * abs(objective - sums.objective)))
    n_nodes = sum(rule.weight.size for rule in rules)
    return Clouds(t, weight, sums, reached, other, error, n_nodes)
