"""Facts and NumPy source of a user's expression, verified against its values in high precision before they are used."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from meanfield.activations.facts import Facts, Pieces, facts_of_pieces, facts_of_values
from meanfield.symbolic.checks import (
    check_digits,
    check_far_out,
    check_isolated,
    check_smooth,
    check_values,
    digits_lost,
    sample_points,
    unbounded_oscillation,
)
from meanfield.symbolic.removable import Patch, patch
from meanfield.symbolic.shape import Shape, shape_of
from meanfield.symbolic.source import derivative, numpy_source, remainder

__all__ = ["derived_facts"]

Array = NDArray[np.float64]
Evaluator = Callable[[str, Array, int], Array]  # of a source; the order says what it is the source of

_DISTANCES = 10.0 ** -np.arange(0.0, 12.5, 0.25)  # from removable points, at which digits are counted
_MOST_BRANCHES = 100
_MOST_SINGULAR = 20
_OSCILLATIONS = 500.0


def derived_facts(phi: sp.Expr, z: sp.Symbol, evaluate: Evaluator) -> tuple[Facts, tuple[str, ...]]:
    """Facts about phi, and NumPy sources of phi, phi' and what remains of phi without its slopes ("" for slope 0).

    Raises
    ------
    ValueError
        As `shape_of`, and where a fact or the NumPy source does not agree with values of phi in high precision.
    """
    shape = shape_of(phi, z)
    variable = sp.Symbol("z", real=True)
    plain = _cases(phi, z, shape).xreplace({z: variable})
    code = (
        numpy_source(plain),
        numpy_source(derivative(plain, variable)),
        *(numpy_source(remainder(plain, variable, s, d)) if s != 0 else "" for s, d in zip(shape.slopes, (-1, 1))),
    )
    for centre in shape.removable:
        code = _without_cancellation(phi, z, centre, 0, shape, code, evaluate)
    for i, kink in enumerate(map(float, shape.kinks)):
        if kink in shape.singular and len(shape.singular) <= _MOST_SINGULAR:
            for side, branch in ((-1, shape.branches[i]), (1, shape.branches[i + 1])):
                code = _without_cancellation(branch, z, kink, side, shape, code, evaluate)

    def functions(order: int) -> Callable[[Array], Array]:
        return lambda x: evaluate(code[order], x, order)

    both = (functions(0), functions(1))
    kinks = np.array([float(x) for x in shape.kinks])
    points = sample_points()
    exact = phi
    if phi.has(sp.floor, sp.ceiling) and not any(shape.endless):
        exact = _cases(phi, z, shape)  # as far out as rounding takes an argument to the point where it switches
    near = np.array(sorted(shape.singular, key=abs)[:_MOST_SINGULAR])
    points = np.concatenate([points, *(near + s * d for d in _DISTANCES[2::3] for s in (-1, 1))])
    check_digits(exact, z, both, _away(points, kinks))
    check_smooth(phi, z, both, kinks)
    check_far_out(phi, z, shape)
    facts = _facts(phi, z, shape, both[0])
    check_values(phi, z, facts, both[0])
    check_isolated(phi, z, np.array(shape.candidates))
    return facts, code


def _away(points: Array, kinks: Array) -> Array:
    """The points that are no kinks."""
    if not kinks.size:
        return points
    distance = np.abs(points[:, None] - kinks).min(axis=1)
    return np.asarray(points[distance > 1e-9])


def _cases(phi: sp.Expr, z: sp.Symbol, shape: Shape) -> sp.Expr:
    """phi with its steps written as cases: floor(4 tanh z) is 4 in floating point where it is 3."""
    if not phi.has(sp.floor, sp.ceiling) or any(shape.endless) or len(shape.branches) > _MOST_BRANCHES:
        return phi
    pairs = [(branch, z < kink) for branch, kink in zip(shape.branches, shape.kinks)]
    return sp.Piecewise(*pairs, (shape.branches[-1], True))


def _without_cancellation(
    phi: sp.Expr, z: sp.Symbol, centre: float, side: int, shape: Shape, code: tuple[str, ...], evaluate: Evaluator
) -> tuple[str, ...]:
    """The code with a polynomial near a point, on both sides (0) or one, if it loses digits and phi is smooth there."""
    room = min((abs(c - centre) for c in shape.candidates if c != centre), default=math.inf)
    distances = _DISTANCES[0.9 * room > _DISTANCES]
    points = np.concatenate([centre + s * distances for s in ([side] if side else [-1, 1])])
    both = (lambda x: evaluate(code[0], x, 0), lambda x: evaluate(code[1], x, 1))
    ratio = digits_lost(phi, z, both, points).reshape(-1, distances.size).max(axis=0)
    if not (ratio > 0.2).any():
        return code
    smallest = 2.0 * float(distances[ratio > 0.2].max())
    for radius in (max(0.25, smallest), max(0.1, smallest), smallest):
        if radius < 0.9 * room and (found := patch(phi, z, centre, radius)) is not None:
            return _patched(found._replace(side=side), code, [float(s) for s in shape.slopes])
    return code  # to be refused with the number


def _patched(found: Patch, code: tuple[str, ...], slopes: Sequence[float]) -> tuple[str, ...]:
    rest = [found.inserted(text, 0, slope) if text else "" for text, slope in zip(code[2:], slopes)]
    return (found.inserted(code[0]), found.inserted(code[1], 1), *rest)


def _facts(phi: sp.Expr, z: sp.Symbol, shape: Shape, value: Callable[[Array], Array]) -> Facts:
    pieces = shape.linear_pieces(z)
    if pieces is not None:
        intercepts, slopes = (tuple(float(p[i]) for p in pieces) for i in range(2))
        return facts_of_pieces(Pieces(tuple(map(float, shape.kinks)), intercepts, slopes))
    facts = facts_of_values(
        value,
        kinks=tuple(float(x) for x in shape.kinks),
        limits=(float(shape.limits[0]), float(shape.limits[1])),
        slopes=(float(shape.slopes[0]), float(shape.slopes[1])),
        intercepts=(float(shape.intercepts[0]), float(shape.intercepts[1])),
        complement=None if shape.complement is None else float(shape.complement),
        even=shape.even,
        endless=shape.endless,
    )
    low, high = _values_at_kinks(value, np.array(facts.kinks))
    low, high = min(low, facts.infimum), max(high, facts.supremum)
    if any(math.isnan(limit) for limit in facts.limits):
        low, high = min(low, -_highest(lambda x: -value(x))), max(high, _highest(value))
    for limit, direction in zip(facts.limits, (-1, 1)):
        if math.isnan(limit):
            down, up = unbounded_oscillation(phi, z, direction)
            low, high = -math.inf if down else low, math.inf if up else high
    rounding = 1e-8 if facts.kinks else 2e-12  # kinks are rounded, and phi may be steep there
    return facts._replace(infimum=-_up(-low, rounding) + 0.0, supremum=_up(high, rounding) + 0.0)


def _highest(value: Callable[[Array], Array]) -> float:
    """Largest value of an oscillating phi as far as preactivations go; its innumerable maxima are never all seen."""
    grid = np.linspace(-_OSCILLATIONS, _OSCILLATIONS, 100_001)
    values = value(grid)
    top = np.argsort(values)[:-201:-1]
    low, high = grid[np.maximum(top - 1, 0)], grid[np.minimum(top + 1, grid.size - 1)]
    for _ in range(12):
        fine = np.linspace(low, high, 11)
        inside = value(fine)
        best = np.argmax(inside, axis=0)
        columns = np.arange(top.size)
        low, high = fine[np.maximum(best - 1, 0), columns], fine[np.minimum(best + 1, 10), columns]
    return float(inside.max())


def _values_at_kinks(value: Callable[[Array], Array], kinks: Array) -> tuple[float, float]:
    near = 4.0 * np.finfo(float).eps * np.maximum(1e-3, np.abs(kinks))
    values = value(np.concatenate([kinks - near, kinks + near]))
    return float(values.min(initial=math.inf)), float(values.max(initial=-math.inf))


def _up(x: float, rounding: float) -> float:
    """The bound itself where rounding stopped just below it (a step is approached, not reached)."""
    if not math.isfinite(x):
        return x
    simple = math.ceil(24.0 * x) / 24.0
    return max(x, simple) if 0.0 <= simple - x <= rounding * max(1.0, abs(x)) else x
