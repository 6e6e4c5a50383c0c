"""Facts about phi against phi itself: far out, on a dense grid and near singular points, after they were derived."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

import mpmath
import numpy as np
import sympy as sp
from numpy.typing import NDArray

from meanfield.symbolic.asymptotics import far_point, value_at
from meanfield.symbolic.shape import Shape

__all__ = [
    "check_digits",
    "check_far_out",
    "check_isolated",
    "check_smooth",
    "check_values",
    "digits_lost",
    "sample_points",
    "unbounded_oscillation",
]

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

VALUE_ERROR = 3e-14  # of the NumPy code, relative to max(1, |phi|), where rounding of z explains no more
SLOPE_ERROR = 1e-11  # of the NumPy code of phi'
_SEEDS = (3, 6, 7, 11)


def sample_points() -> Array:
    """Irregular points, dense at the centre and up to 200."""
    x = np.modf(np.arange(1, 111) * (math.sqrt(5.0) - 1.0) / 2.0)[0]
    return np.sort(np.concatenate([8.0 * x[:60] - 4.0, np.sinh(12.0 * x[60:] - 6.0)]))


def digits_lost(phi: sp.Expr, z: sp.Symbol, code: tuple[Function, Function], points: Array) -> Array:
    """Error of the NumPy code of phi and phi' in units of what is allowed, at each point."""
    exact, slope, bend = np.array([_derivatives(phi, z, x) for x in points]).T
    value, derivative = (f(points) for f in code)
    near = np.abs(points) < 10.0
    size, steepness = (float(np.nanmax(np.abs(y[near]), initial=1.0)) for y in (exact, slope))
    # Rounding of z, and of what is computed of it, moves phi by this much and phi' accordingly.
    moved = 64.0 * np.finfo(float).eps * np.abs(points)
    allowed = VALUE_ERROR * np.maximum(size, np.abs(exact)) + moved * np.abs(slope)
    ratio = np.where(np.isfinite(exact), np.abs(value - exact) / allowed, 0.0)
    allowed = SLOPE_ERROR * np.maximum(steepness, np.abs(slope)) + moved * np.abs(bend)
    ratio = np.maximum(ratio, np.where(np.isfinite(slope + bend), np.abs(derivative - slope) / allowed, 0.0))
    return np.where(np.isnan(ratio), np.inf, ratio)


def _number(phi: sp.Expr, z: sp.Symbol, x: float) -> float:
    value = value_at(phi, z, mpmath.mpf(float(x)), 60)
    return math.nan if value is None else float(mpmath.re(value))


def _derivatives(phi: sp.Expr, z: sp.Symbol, x: float) -> tuple[float, float, float]:
    """phi, phi' and phi'' by differences in high precision; NaN where mpmath cannot say."""
    with mpmath.workdps(60):
        step = mpmath.mpf(10) ** -20
        low, here, high = (value_at(phi, z, mpmath.mpf(float(x)) + s * step, 60) for s in (-1, 0, 1))
        if low is None or here is None or high is None:
            return (math.nan if here is None else float(mpmath.re(here))), math.nan, math.nan
        first, second = (high - low) / (2 * step), (high - 2 * here + low) / step**2
        return float(mpmath.re(here)), float(mpmath.re(first)), float(mpmath.re(second))


def check_digits(phi: sp.Expr, z: sp.Symbol, code: tuple[Function, Function], points: Array) -> None:
    """Refuse an expression whose NumPy code is not what it says."""
    ratio = digits_lost(phi, z, code, points)
    if ratio.max(initial=0.0) > 1.0:
        x = float(points[int(np.argmax(ratio))])
        value, exact = float(code[0](np.array([x]))[0]), _number(phi, z, x)
        raise ValueError(
            f"phi({z}) = {phi} loses its digits in floating point: {value:.17g} at {z} = {x:.6g}, where it is "
            f"{exact:.17g} (or its derivative is wrong there); write it in a form without cancellation"
        )


def check_smooth(phi: sp.Expr, z: sp.Symbol, code: tuple[Function, Function], kinks: Array) -> None:
    """Refuse jumps of phi and of phi' at points that are not listed."""
    grid = np.linspace(-20.0, 20.0, 16001) + 1e-4 * (math.sqrt(5.0) - 2.0)
    between = np.searchsorted(kinks, grid[1:]) == np.searchsorted(kinks, grid[:-1])
    for function, what in zip(code, ("jumps", "has a kink")):
        values = function(grid)
        step = np.where(between, np.diff(values), 0.0)
        padded = np.pad(step, 1, mode="edge")
        around = 0.5 * (padded[:-2] + padded[2:])
        alone = np.where(between, np.abs(step - around), 0.0)
        for i in np.argsort(alone)[:-21:-1]:
            if not alone[i] > 1e-6 * max(1.0, abs(values[i])):
                break
            low, high = grid[i], grid[i + 1]
            slope = around[i] / (high - low)
            for _ in range(44):
                at = np.array([low, 0.5 * (low + high), high])
                first, second = np.abs(np.diff(function(at) - slope * at))
                low, high = (low, at[1]) if first > second else (at[1], high)
            left, right = function(np.array([low, high]))
            if abs(right - left) > 0.5 * alone[i]:
                raise ValueError(f"phi({z}) = {phi} {what} at {z} = {low:.6g}, which its formula does not tell")


def check_far_out(phi: sp.Expr, z: sp.Symbol, shape: Shape) -> None:
    """Refuse limits, slopes and intercepts that phi does not approach."""
    for side, direction in enumerate((-1, 1)):
        end = "oo" if direction > 0 else "-oo"
        outer = phi if shape.endless[side] else shape.branches[-side]
        limit, slope, intercept = shape.limits[side], shape.slopes[side], shape.intercepts[side]
        for name, f, claimed in (
            ("slope", outer / z, slope),
            ("limit", outer, limit),
            ("intercept", outer - slope * z, intercept),
        ):
            values = [value_at(f, z, direction * far_point(e, s), 80) for e, s in zip((3, 7, 11, 15, 19), _SEEDS * 2)]
            y = [mpmath.re(v) for v in values if v is not None and mpmath.isfinite(v)]
            if len(y) == 5 and not _approaches(y, claimed):
                raise ValueError(
                    f"the {name} of phi({z}) = {phi} for {z} -> {end} cannot be told: it is "
                    f"{', '.join(mpmath.nstr(v, 5) for v in y)} at 1e3, 1e7, 1e11, 1e15 and 1e19 of {z}"
                )


def _approaches(y: list[mpmath.mpf], claimed: sp.Expr) -> bool:
    if claimed is sp.nan:  # what goes one way does not oscillate
        steps = [b - a for a, b in pairwise(y)]
        return not (all(s > 0 for s in steps) or all(s < 0 for s in steps))
    if claimed.is_infinite:
        return bool(y[-1] > max(y[0], 0) if claimed > 0 else y[-1] < min(y[0], 0))
    goal = mpmath.mpf(float(claimed))
    return bool(abs(y[-1] - goal) <= max(0.9 * abs(y[0] - goal), mpmath.mpf(10) ** -9 * max(1, abs(goal))))


def unbounded_oscillation(phi: sp.Expr, z: sp.Symbol, direction: int) -> tuple[bool, bool]:
    """Whether a phi without a limit oscillates ever farther down, and up."""
    lows, highs = [], []
    for e in (3, 6, 9, 12):
        found = [value_at(phi, z, direction * far_point(e, s) * mpmath.sqrt(1 + s), 60) for s in range(2, 42)]
        y = [mpmath.re(v) for v in found if v is not None]
        lows.append(min(y))
        highs.append(max(y))

    def grows(x: list[mpmath.mpf]) -> bool:
        return all(b > a + 0.04 * max(abs(a), abs(b)) and b > 0 for a, b in pairwise(x))

    return grows([-x for x in lows]), grows(highs)


class Lines(Protocol):
    """Linear pieces of phi: where they meet, and their coefficients."""

    @property
    def breaks(self) -> tuple[float, ...]: ...
    @property
    def intercepts(self) -> tuple[float, ...]: ...
    @property
    def slopes(self) -> tuple[float, ...]: ...


class Claims(Protocol):
    """What is claimed of phi, `meanfield.activations.facts.Facts` for example."""

    @property
    def infimum(self) -> float: ...
    @property
    def supremum(self) -> float: ...
    @property
    def complement(self) -> float | None: ...
    @property
    def even(self) -> bool: ...
    @property
    def pieces(self) -> Lines | None: ...


def check_values(phi: sp.Expr, z: sp.Symbol, facts: Claims, value: Function) -> None:
    """Refuse a range, symmetry or linear pieces that the values of phi contradict."""
    points = sample_points()
    values = value(points)
    slack = 1e-9 * max(1.0, float(np.abs(values).max()))
    if values.min() < facts.infimum - slack or values.max() > facts.supremum + slack:
        raise ValueError(f"the range of phi({z}) = {phi} cannot be told")
    mirror = value(-points)
    if facts.complement is not None and np.abs(values + mirror - 2.0 * facts.complement).max() > slack:
        raise ValueError(f"the symmetry of phi({z}) = {phi} cannot be told")
    if facts.even and np.abs(values - mirror).max() > slack:
        raise ValueError(f"the symmetry of phi({z}) = {phi} cannot be told")
    if facts.pieces is not None:
        which = np.searchsorted(np.array(facts.pieces.breaks), points)
        lines = np.array(facts.pieces.intercepts)[which] + np.array(facts.pieces.slopes)[which] * points
        if np.abs(lines - values).max() > slack:
            raise ValueError(f"the linear pieces of phi({z}) = {phi} cannot be told")


def check_isolated(phi: sp.Expr, z: sp.Symbol, candidates: Array) -> None:
    """Refuse a value at a single point that is not between those next to it."""
    for c in candidates[np.argsort(np.abs(candidates))[:50]]:
        near = np.array([1e-8, 1e-12]) * max(1.0, abs(c))
        points = np.array([*(c - near), c, *(c + near[::-1])])
        far_left, left, here, right, far_right = (_number(phi, z, x) for x in points)
        # a cusp may rise steeply
        rise = 1e-4 * max(1.0, abs(left), abs(right)) + abs(left - far_left) + abs(right - far_right)
        if here < min(left, right) - rise or here > max(left, right) + rise:
            raise ValueError(
                f"phi({z}) = {phi} has the isolated value {here:.6g} at {z} = {c:.6g}, next to {left:.6g} and "
                f"{right:.6g}; no integral sees it: leave it out"
            )
