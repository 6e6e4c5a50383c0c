"""How large the parts of an expression are, known before SymPy forms them: what would not fit is refused in words.

SymPy evaluates numbers as it builds (9**9**9**9, gamma of a million), and expands powers of sums when shapes are
derived. Here every part of a parsed text gets a `Size` first: the value of a constant in floating point, and the
number of terms, the degree and the tower of exponentials of everything else.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import sympy as sp

__all__ = ["Size", "size_of_call", "size_of_number", "size_of_power", "size_of_product", "size_of_sum"]

_LARGEST = 1e300
_MOST_TERMS = 5_000
_MOST_BITS = 4_096
_HIGHEST_DEGREE = 1_000
_HIGHEST_TOWER = 3
_MOST_ARGUMENTS = 50
_SPECIAL_REACH = 20.0  # of constant arguments of functions without a bound of their own

_EXPONENTIAL = ("exp", "sinh", "cosh")
_FAST = ("gamma", "erfi", "besseli", "besselk", "Ei", "Shi", "Chi", "expint", "lowergamma", "uppergamma", "airybi")


def _real(function: Callable[..., float]) -> Callable[..., complex]:
    def of(*args: complex) -> complex:
        if any(x.imag for x in map(complex, args)):
            return complex(math.nan)
        return function(*(complex(x).real for x in args))

    return of


_VALUES: dict[str, Callable[..., complex]] = {
    name: getattr(cmath, name)
    for name in ("exp", "log", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh")
} | {
    "atanh": cmath.atanh,
    "ln": cmath.log,
    "Abs": abs,
    "abs": abs,
    "conjugate": lambda x: complex(x).conjugate(),
    "re": lambda x: complex(x).real,
    "im": lambda x: complex(x).imag,
    "floor": _real(math.floor),
    "ceiling": _real(math.ceil),
    "ceil": _real(math.ceil),
    "frac": _real(lambda x: x - math.floor(x)),
    "Mod": _real(lambda x, y: math.fmod(x, y)),
    "Max": _real(max),
    "max": _real(max),
    "Min": _real(min),
    "min": _real(min),
    "erf": _real(math.erf),
    "erfc": _real(math.erfc),
    "gamma": _real(math.gamma),
    "loggamma": _real(math.lgamma),
}


@dataclass(frozen=True)
class Size:
    """Of a part of an expression.

    Attributes
    ----------
    value : complex or None
        In floating point, if it holds no symbol; NaN for a constant that is small but not computed.
    terms, degree : int
        Of the polynomial that it becomes when powers and products of sums are written out.
    tower : int
        How many exponentials stand in each other's exponents.
    """

    value: complex | None = None
    terms: int = 1
    degree: int = 1
    tower: int = 0


def size_of_number(value: complex) -> Size:
    """Of a number, or of the value of a constant part."""
    try:
        magnitude = abs(complex(value))
    except OverflowError:
        magnitude = math.inf
    if magnitude > _LARGEST or 0.0 < magnitude < 1.0 / _LARGEST:
        raise ValueError(f"a number of it lies beyond 1e300 (or below 1e-300): {str(value)[:12]}...")
    return Size(complex(value), 1, 0, 0)


def size_of_sum(parts: Sequence[Size]) -> Size:
    return _joined(parts, sum(part.value for part in parts if part.value is not None), sum(p.terms for p in parts), max)


def size_of_product(parts: Sequence[Size]) -> Size:
    value = math.prod((part.value for part in parts if part.value is not None), start=complex(1.0))
    return _joined(parts, value, math.prod(p.terms for p in parts), sum)


def _joined(parts: Sequence[Size], value: complex, terms: int, degree: Callable[[Iterable[int]], int]) -> Size:
    constant = all(part.value is not None for part in parts)
    checked = size_of_number(value).value
    size = Size(
        checked if constant else None, terms, degree(part.degree for part in parts), max(part.tower for part in parts)
    )
    return _bounded(size)


def size_of_power(base: sp.Expr, below: Size, exponent: sp.Expr, above: Size) -> Size:
    """Of base**exponent; exact powers of fractions are bounded in digits, too."""
    if above.value is None:
        if above.tower:
            raise ValueError("it has exponentials in the exponent of a power; write exp(...) instead.")
        return _bounded(Size(None, 1, 1, below.tower + 1))
    number = above.value
    if cmath.isnan(number) or (abs(number) > _HIGHEST_DEGREE and below.value is None):
        raise ValueError(f"a power of it has the exponent {str(exponent)[:40]}; at most {_HIGHEST_DEGREE} is read.")
    count = math.floor(abs(number))
    if below.value is not None:
        _check_digits(base, exponent, abs(number))
        if cmath.isnan(below.value):
            if count > 4:
                raise ValueError(f"a power of it, {str(base)[:40]}**{str(exponent)[:20]}, may be too large.")
            value = complex(math.nan)
        else:
            value = below.value**number if below.value != 0 or number.real < 0 else complex(number == 0)
        if value == 0 != below.value:
            raise ValueError("a number of it lies below 1e-300.")
        terms = 1 if base.is_Number else _written_out(below.terms, count)
        return _bounded(Size(size_of_number(value).value, terms, 0, 0))
    return _bounded(Size(None, _written_out(below.terms, count), max(1, below.degree * max(count, 1)), below.tower))


def _check_digits(base: sp.Expr, exponent: sp.Expr, size: float) -> None:
    if not isinstance(base, sp.Rational) or not isinstance(exponent, sp.Rational):
        return
    bits = max(int(base.p).bit_length(), int(base.q).bit_length()) if abs(base) != 1 else 0
    if bits and bits * size > _MOST_BITS:
        raise ValueError(f"a power of it, {str(base)[:40]}**{str(exponent)[:20]}, has more than {_MOST_BITS} bits.")


def _written_out(terms: int, exponent: int) -> int:
    """Terms of a sum of so many, raised to a power."""
    if terms <= 1 or exponent <= 1:
        return terms
    return math.comb(exponent + terms - 1, exponent) if exponent < 10 * _MOST_TERMS else exponent


def size_of_call(name: str, parts: Sequence[Size]) -> Size:
    """Of a function of the list of `meanfield.symbolic.text`, by its name."""
    if not 1 <= len(parts) <= _MOST_ARGUMENTS:
        raise ValueError(f"{name} of a SymPy expression may have 1 to {_MOST_ARGUMENTS} arguments, got {len(parts)}.")
    values = [part.value for part in parts]
    known = [value for value in values if value is not None]
    if len(known) == len(values) and name in _VALUES and not any(map(cmath.isnan, known)):
        value = _VALUES[name](*known)
        if name in _EXPONENTIAL and value == 0:
            raise ValueError("a number of it lies below 1e-300.")
        return Size(value) if cmath.isnan(value) else Size(size_of_number(value).value, 1, 0, 0)
    if name not in _VALUES and any(abs(value) > _SPECIAL_REACH or cmath.isnan(value) for value in known):
        raise ValueError(f"numbers in {name}(...) may be at most {_SPECIAL_REACH:g} in the text of an expression.")
    if known and any(map(cmath.isnan, known)) and name in (*_EXPONENTIAL, *_FAST, "tan"):
        raise ValueError(f"a number in {name}(...) is not bounded.")
    tower = max(part.tower for part in parts)
    if name in _FAST and tower:
        raise ValueError(f"it has exponentials inside {name}(...), beyond every bound.")
    tower += name in (*_EXPONENTIAL, *_FAST)
    constant = len(known) == len(values)
    return _bounded(Size(complex(math.nan) if constant else None, 1, 0 if constant else 1, 0 if constant else tower))


def _bounded(size: Size) -> Size:
    if size.terms > _MOST_TERMS:
        raise ValueError(f"written out it has {size.terms} terms; at most {_MOST_TERMS} are read.")
    if size.degree > _HIGHEST_DEGREE:
        raise ValueError(f"it is of degree {size.degree}; at most {_HIGHEST_DEGREE} is read.")
    if size.tower > _HIGHEST_TOWER:
        raise ValueError(f"it has {size.tower} exponentials in each other's exponents; at most {_HIGHEST_TOWER}.")
    return size
