"""Values of expressions in high precision, and limits far out: decided by numbers; SymPy is asked within a bound."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from inspect import CO_GENERATOR as _GENERATOR
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import TypeVar

import mpmath
import sympy as sp
from mpmath.libmp import NoConvergence

from meanfield.symbolic.source import mpmath_function
from meanfield.symbolic.switches import SWITCHES

__all__ = ["asymptotic_slope", "checked_limit", "limit_of", "value_at"]

_Value = TypeVar("_Value")
_DECADES = (2, 3, 4, 5, 6, 8, 12, 16, 20)  # how far out limits are looked at
_MAX_OPERATIONS = 25
_SYMPY = str(Path(sp.__file__).parent)
_MAX_CALLS = 1_000_000  # of functions within one limit of SymPy: a few seconds, the same on every machine


def _no_overflow(name: str) -> Callable[[mpmath.mpc], mpmath.mpc]:
    """A function of mpmath that would hang on arguments that are exponentials themselves."""

    def function(x: mpmath.mpc) -> mpmath.mpc:
        if abs(mpmath.re(x)) < mpmath.mpf(10) ** 30:
            return getattr(mpmath, name)(x)
        if name == "tanh":
            return mpmath.sign(mpmath.re(x))
        if name == "exp" and mpmath.re(x) < 0:
            return mpmath.mpf(0)
        raise OverflowError(f"{name} of {mpmath.nstr(x, 3)}")

    return function


_FUNCTIONS = {name: _no_overflow(name) for name in ("exp", "sinh", "cosh", "tanh", "sin", "cos", "tan")}


@lru_cache(maxsize=256)
def _evaluator(expression: sp.Expr, z: sp.Symbol) -> Callable[[mpmath.mpc], mpmath.mpc]:
    return mpmath_function(expression, z, [_FUNCTIONS, "mpmath"])


def value_at(expression: sp.Expr, z: sp.Symbol, point: object, digits: int = 40) -> mpmath.mpc | None:
    """A value in high precision; None where mpmath cannot say."""
    try:
        with mpmath.workdps(digits):
            return mpmath.mpmathify(_evaluator(expression, z)(point))
    except (ArithmeticError, ValueError, TypeError, NameError, KeyError, AttributeError, NoConvergence):
        return None


def asymptotic_slope(branch: sp.Expr, z: sp.Symbol, direction: int, sample: Mapping[sp.Symbol, float]) -> sp.Expr:
    """lim phi / z, refusing what makes G(kappa) infinite or its growth undefined."""
    slope = checked_limit(branch / z, z, direction, sample)
    end = "oo" if direction > 0 else "-oo"
    if slope is sp.nan:
        raise ValueError(f"phi({z}) = {branch} has no asymptotic slope: phi/{z} has no limit as {z} -> {end}")
    if slope.is_infinite:
        raise ValueError(
            f"phi({z}) = {branch} grows faster than linearly as {z} -> {end} (phi/{z} is unbounded): "
            "G(kappa) = ln E exp(kappa phi) then is infinite or grows faster than kappa^2, and no posterior exists; "
            "choose a nonlinearity with |phi| <= A + B|z|"
        )
    return slope


def limit_of(
    branch: sp.Expr, z: sp.Symbol, direction: int, slope: sp.Expr, sample: Mapping[sp.Symbol, float]
) -> sp.Expr:
    if not slope.is_zero:
        return sp.oo if float(slope.subs(sample)) * direction > 0 else -sp.oo
    return checked_limit(branch, z, direction, sample)


def checked_limit(f: sp.Expr, z: sp.Symbol, direction: int, sample: Mapping[sp.Symbol, float]) -> sp.Expr:
    """Limit of f for z -> direction * oo; nan if f oscillates.

    Numbers far out decide where they have settled. SymPy's limit is asked where they have not, or where the result has
    to be a formula in parameters; it is believed if it agrees with the numbers.
    """
    concrete = f.subs(sample)
    y, again = (_far_out(concrete, z, direction, seed) for seed in (2, 5))
    last = [*y[-3:], *again[-3:]]
    if not sample and len(last) == 6 and max(last) - min(last) <= mpmath.mpf(10) ** -13 * max(1, abs(y[-1])):
        return _rounded(y[-1])
    limit = _sympy_limit(f, z, direction) if sample or sp.count_ops(f) <= _MAX_OPERATIONS else None
    if limit is not None and limit.has(sp.AccumBounds):
        return sp.nan
    if limit is not None and limit.is_number and not y:
        return limit
    if limit is not None and limit.is_extended_real and y:
        value = limit.subs(sample)
        if value.is_infinite and len(y) > 1 and (y[-1] > max(y[0], 0) if value > 0 else y[-1] < min(y[0], 0)):
            return limit
        if value.is_finite and abs(y[-1] - mpmath.mpf(float(value))) <= 1e-12 + abs(y[0] - mpmath.mpf(float(value))):
            return limit
    if min(len(y), len(again)) < 6:
        return sp.nan
    ends = [end for values in (y, again) if (end := _power_law(values)) is not None]
    scale = max(1, abs(y[-1]))
    if len(ends) == 2 and abs(ends[1] - ends[0]) <= scale / 1e9 and abs(ends[0] - y[-1]) <= scale / 1000:
        return _rounded(ends[0], 1e-8)
    steps = [b - a for values in (y, again) for a, b in pairwise(values[-6:])]
    if all(abs(step) > 0.1 and step * y[-1] > 0 for step in steps):
        return sp.oo if y[-1] > 0 else -sp.oo
    return sp.nan


def _far_out(f: sp.Expr, z: sp.Symbol, direction: int, seed: int) -> list[mpmath.mpf]:
    values = [value_at(f, z, direction * far_point(e, seed), 80) for e in _DECADES]
    return [mpmath.re(v) for v in values if v is not None and mpmath.isfinite(v)]


def far_point(decade: int, seed: int) -> mpmath.mpf:
    """About 10**decade, at no special place of any period; for one seed in geometric progression."""
    with mpmath.workdps(80):
        return mpmath.sqrt(seed + mpmath.mpf(1) / 7) * mpmath.mpf(10) ** decade


def _power_law(y: list[mpmath.mpf]) -> mpmath.mpf | None:
    """L of L + c x**-a, from values at 1e8, 1e12, 1e16 and 1e20; None where those do not follow such a law."""
    found = []
    for a, b, c in (y[-4:-1], y[-3:]):
        bend = (c - b) - (b - a)
        found.append(c if bend == 0 else c - (c - b) ** 2 / bend)
    return found[1] if abs(found[1] - found[0]) <= mpmath.mpf(10) ** -8 * max(1, abs(found[1])) else None


class _TooLong(BaseException):
    """Not an Exception, which SymPy would catch."""


def _within_calls(function: Callable[[], _Value], calls: int) -> _Value | None:
    """The value of a function written in Python; None if it takes more than so many calls of functions."""
    left = calls

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        left -= 1
        # Where a function of SymPy starts: in a generator that is being deleted the exception would be lost.
        code = frame.f_code
        if left < 0 and event == "call" and code.co_filename.startswith(_SYMPY) and not code.co_flags & _GENERATOR:
            raise _TooLong

    previous = sys.getprofile()
    sys.setprofile(count)
    try:
        return function()
    except _TooLong:
        return None
    finally:
        sys.setprofile(previous)


def _sympy_limit(f: sp.Expr, z: sp.Symbol, direction: int) -> sp.Expr | None:
    if f.has(*SWITCHES):
        return None
    try:
        return _within_calls(lambda: sp.limit(f, z, sp.oo * direction), _MAX_CALLS)
    except Exception:  # they fail in many ways; the numbers decide
        return None


def _rounded(value: mpmath.mpf, tolerance: float = 1e-10) -> sp.Expr:
    """A simple fraction where the value is one, else the number."""
    simple = mpmath.nint(24 * value)
    return sp.Rational(int(simple), 24) if abs(24 * value - simple) < tolerance else sp.Float(float(value), 17)
