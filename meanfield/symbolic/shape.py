"""Shape of a nonlinearity, derived from its SymPy expression: branches, kinks, limits, slopes at infinity, symmetry.

phi is cut at its candidate kinks (where the argument of |.|, max, a step or a condition changes sign, or an argument
of a root, logarithm or denominator vanishes); on each branch it is an analytic expression, which SymPy's limits like.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from itertools import combinations, pairwise, product
from typing import Any, NamedTuple

import mpmath
import numpy as np
import sympy as sp
from mpmath.libmp import NoConvergence
from sympy.core.relational import Relational

from meanfield.symbolic.source import mpmath_function, numpy_function

__all__ = ["Shape", "shape_of"]

_SWITCHES = (sp.Abs, sp.Max, sp.Min, sp.Heaviside, sp.sign, sp.Piecewise, sp.floor, sp.ceiling)
_DECADES = (2, 3, 4, 5, 6, 8, 12, 16, 20)  # how far out limits are looked at
_MAX_OPERATIONS = 25
_PERIODIC = {sp.tan: sp.cos, sp.sec: sp.cos, sp.cot: sp.sin, sp.csc: sp.sin}
_PROBES = [mpmath.mpf(x) for x in ("0.0371", "0.413", "0.927", "1.731", "3.19", "7.77")]


class Shape(NamedTuple):
    """Facts about phi as SymPy expressions in its parameters (numbers where these have values)."""

    kinks: tuple[sp.Expr, ...]
    branches: tuple[sp.Expr, ...]  # one more than kinks, in the order of z
    limits: tuple[sp.Expr, sp.Expr]  # phi(-oo), phi(+oo); nan where phi keeps oscillating
    slopes: tuple[sp.Expr, sp.Expr]  # s = lim phi(z) / z
    intercepts: tuple[sp.Expr, sp.Expr]  # lim phi(z) - s z; may be infinite or nan
    complement: sp.Expr | None  # c in phi(-z) = 2 c - phi(z)
    even: bool

    def linear_pieces(self, z: sp.Symbol) -> tuple[tuple[sp.Expr, sp.Expr], ...] | None:
        """(intercept, slope) of each branch, or None unless all are linear in z."""
        pieces = []
        for branch in self.branches:
            plain = sp.expand(branch)
            if not plain.is_polynomial(z) or sp.degree(plain, z) > 1:
                return None
            pieces.append((sp.simplify(plain.subs(z, 0)), sp.simplify(plain.coeff(z, 1))))
        return tuple(pieces)


def shape_of(phi: sp.Expr, z: sp.Symbol, sample: Mapping[sp.Symbol, float] | None = None) -> Shape:
    """Derive the shape of phi(z).

    Parameters
    ----------
    phi : SymPy expression of the real symbol z and the symbols in `sample`.
    z : SymPy symbol declared real.
    sample : typical values of symbols that stay in the result; they decide the order of kinks.

    Raises
    ------
    ValueError
        If phi is not real and finite, is constant, grows faster than linearly, or phi/z has no limit.
    """
    sample = dict(sample or {})
    unknown = phi.free_symbols - {z} - set(sample)
    if unknown:
        names = ", ".join(sorted(str(s) for s in unknown))
        raise ValueError(f"phi({z}) = {phi} has symbols without a value: {names}; pass parameters={{symbol: value}}")
    concrete = phi.subs(sample)
    _check_values(concrete, z)
    candidates = _candidates(phi, z, sample)
    _check_finite(concrete, z, [float(c.subs(sample)) for c, _ in candidates])
    kinks, branches = _cut(phi, z, candidates, sample)
    left, right = _outermost(phi, branches[0], z, -1, sample), _outermost(phi, branches[-1], z, 1, sample)
    slopes = (_slope(left, z, -1, sample), _slope(right, z, 1, sample))
    limits = (_limit(left, z, -1, slopes[0], sample), _limit(right, z, 1, slopes[1], sample))
    intercepts = (
        _checked_limit(left - slopes[0] * z, z, -1, sample),
        _checked_limit(right - slopes[1] * z, z, 1, sample),
    )
    if len(branches) == 1 and not sp.expand(branches[0]).has(z):
        raise ValueError(f"phi({z}) = {phi} is constant: no neuron could respond to anything")
    complement, even = _symmetry(concrete, z)
    exact = None
    if complement is not None:
        # The closed form of the centre, where SymPy finds one; else the number (in practice 0 or 1/2).
        exact = sp.simplify(sum(limits) / 2) if all(x.is_finite for x in limits) else sp.nsimplify(complement)
    return Shape(tuple(kinks), tuple(branches), limits, slopes, intercepts, exact, even)


def _no_overflow(name: str) -> Any:
    """A function of mpmath that would hang on arguments that are exponentials themselves."""

    def function(x: Any) -> Any:
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
def _evaluator(expression: sp.Expr, z: sp.Symbol) -> Any:
    return mpmath_function(expression, z, [_FUNCTIONS, "mpmath"])


def _at(expression: sp.Expr, z: sp.Symbol, point: Any, digits: int = 40) -> Any:
    """A value in high precision; None where mpmath cannot say."""
    try:
        with mpmath.workdps(digits):
            return mpmath.mpmathify(_evaluator(expression, z)(point))
    except (ArithmeticError, ValueError, TypeError, NameError, KeyError, AttributeError, NoConvergence):
        return None


def _check_values(phi: sp.Expr, z: sp.Symbol) -> None:
    values = []
    for s in (-1, 1):
        for x in _PROBES:
            value = _at(phi, z, s * x)
            if value is None or mpmath.isnan(value):
                raise ValueError(f"phi({z}) = {phi} cannot be evaluated at {z} = {mpmath.nstr(s * x, 5)}")
            if isinstance(value, mpmath.mpc) and abs(value.imag) > mpmath.mpf(10) ** -25 * max(1, abs(value)):
                text = mpmath.nstr(value, 5)
                raise ValueError(f"phi({z}) = {phi} is not real: it is {text} at {z} = {mpmath.nstr(s * x, 5)}")
            values.append(mpmath.re(value))
    if max(values) - min(values) <= mpmath.mpf(10) ** -25 * max(1, *map(abs, values)) and not phi.has(*_SWITCHES):
        raise ValueError(f"phi({z}) = {phi} is constant: no neuron could respond to anything")


def _check_finite(phi: sp.Expr, z: sp.Symbol, points: list[float]) -> None:
    for c in points:
        for side in (-1, 1):
            near = [_at(phi, z, mpmath.mpf(c) + side * mpmath.mpf(10) ** -e) for e in (6, 12, 18)]
            size = [mpmath.inf if v is None else abs(v) for v in near]
            if size[2] > 10 * size[0] > 1000 or (size[1] - size[0] > 1 and size[2] - size[1] > 1):
                raise ValueError(f"phi({z}) = {phi} is not finite at {z} = {c:.6g}; G(kappa) would be infinite")


def _switching(phi: sp.Expr, z: sp.Symbol) -> list[tuple[sp.Expr, bool]]:
    """Expressions whose real zeros are candidate kinks, and whether phi is singular there even if smooth-looking."""
    found: list[tuple[sp.Expr, bool]] = []
    for node in sp.preorder_traversal(phi):
        if not isinstance(node, sp.Basic) or not node.has(z):
            continue
        if isinstance(node, (sp.Abs, sp.Heaviside, sp.sign)):
            found.append((node.args[0], False))
        elif isinstance(node, (sp.Max, sp.Min)):
            found += [(a - b, False) for a, b in combinations(node.args, 2)]
        elif isinstance(node, sp.Piecewise):
            relations = [r for _, condition in node.args for r in condition.atoms(Relational)]
            found += [(r.lhs - r.rhs, False) for r in relations]
        elif isinstance(node, sp.Pow) and not (node.exp.is_integer and node.exp.is_nonnegative):
            found.append((node.base, True))
        elif isinstance(node, sp.log):
            found.append((node.args[0], True))
        elif isinstance(node, (sp.floor, sp.ceiling)):
            found.append((sp.sin(sp.pi * node.args[0]), False))
        elif type(node) in _PERIODIC:
            found.append((_PERIODIC[type(node)](node.args[0]), True))
    return [(u, singular) for u, singular in found if u.has(z) and not (u.is_positive or u.is_negative)]


def _candidates(phi: sp.Expr, z: sp.Symbol, sample: Mapping[sp.Symbol, float]) -> list[tuple[sp.Expr, bool]]:
    """Candidate kinks in the order of z, near-duplicates merged."""
    roots: list[tuple[sp.Expr, bool]] = []
    for u, singular in _switching(phi, z):
        for branch in _alternatives(u):
            for root in _real_roots(branch, z) if branch.has(z) else ():
                if branch == u or abs(float(u.subs({**sample, z: root.subs(sample)}))) < 1e-9:
                    roots.append((root, singular))
    roots.sort(key=lambda r: float(r[0].subs(sample)))
    merged: list[tuple[sp.Expr, bool]] = []
    for root, singular in roots:
        if merged and abs(float((merged[-1][0] - root).subs(sample))) < 1e-11 * max(1.0, abs(float(root.subs(sample)))):
            merged[-1] = (merged[-1][0], merged[-1][1] or singular)
        else:
            merged.append((root, singular))
    return merged


def _alternatives(u: sp.Expr) -> list[sp.Expr]:
    """All analytic expressions that a nested switch may stand for (u itself where they would be too many)."""
    if not u.has(*_SWITCHES):
        return [u]
    choices: list[list[sp.Expr]] = []
    for a in u.args:
        choices.append(_alternatives(a) if isinstance(a, sp.Expr) else [a])
    if isinstance(u, (sp.Max, sp.Min)):
        found = [x for options in choices for x in options]
    elif isinstance(u, sp.Piecewise):
        found = [x for value, _ in u.args for x in _alternatives(value)]
    elif isinstance(u, sp.Abs):
        found = [s * x for x in choices[0] for s in (1, -1)]
    elif isinstance(u, (sp.Heaviside, sp.sign)):
        found = [sp.Integer(x) for x in ((0, 1) if isinstance(u, sp.Heaviside) else (-1, 1))]
    else:
        found = [u.func(*args) for args in product(*choices)]
    return found if len(found) <= 32 else [u]


def _real_roots(u: sp.Expr, z: sp.Symbol) -> list[sp.Expr]:
    if u.is_polynomial(z):
        polynomial = sp.Poly(u, z)
        if polynomial.degree() == 1:
            slope, intercept = polynomial.all_coeffs()
            return [sp.simplify(-intercept / slope)]
        if not u.free_symbols - {z}:
            return [sp.Float(sp.re(r), 17) for r in polynomial.nroots(n=30, maxsteps=200) if abs(sp.im(r)) < 1e-14]
    if u.free_symbols - {z}:
        raise ValueError(f"cannot locate the kinks of phi where {u} = 0: give its parameters values")
    value = numpy_function(u, z)
    grid = np.linspace(-200.0, 200.0, 80001)  # kinks farther out are beyond what a preactivation sees
    with np.errstate(all="ignore"):
        y = value(grid)
    roots = [float(x) for x in grid[y == 0.0]]
    for i in np.flatnonzero(y[:-1] * y[1:] < 0.0):
        low, high = grid[i], grid[i + 1]
        while high - low > 4e-16 * max(abs(low), abs(high)):
            middle = 0.5 * (low + high)
            if not low < middle < high:
                break
            low, high = (middle, high) if value(np.array([middle]))[0] * y[i] > 0.0 else (low, middle)
        roots.append(float(low))
    return [sp.Float(x, 17) for x in roots]


def _cut(
    phi: sp.Expr, z: sp.Symbol, candidates: list[tuple[sp.Expr, bool]], sample: Mapping[sp.Symbol, float]
) -> tuple[list[sp.Expr], list[sp.Expr]]:
    points = [float(c.subs(sample)) for c, _ in candidates]
    inside = [0.5 * (a + b) for a, b in pairwise(points)]
    tests = [points[0] - 1.0, *inside, points[-1] + 1.0] if points else [0.5]
    kinks: list[sp.Expr] = []
    branches = [_branch(phi, {**sample, z: tests[0]})]
    for (kink, singular), test in zip(candidates, tests[1:]):
        right = _branch(phi, {**sample, z: test})
        if singular or sp.expand(right - branches[-1]) != 0:
            kinks.append(kink)
            branches.append(right)
    return kinks, branches


def _branch(expression: sp.Expr, at: Mapping[sp.Symbol, float]) -> sp.Expr:
    """The analytic expression that equals `expression` around the point `at`."""
    if not expression.has(*_SWITCHES):
        return expression
    if isinstance(expression, sp.Piecewise):
        for value, condition in expression.args:
            if condition.subs(at) == True:  # noqa: E712  (SymPy's true)
                return _branch(value, at)
        raise ValueError(f"{expression} has no value at {at}; give a Piecewise a last case with condition True")
    args = [_branch(a, at) if isinstance(a, sp.Expr) else a for a in expression.args]
    if not isinstance(expression, _SWITCHES):
        return expression.func(*args)
    values = [float(a.subs(at)) for a in args]
    if isinstance(expression, (sp.Max, sp.Min)):
        pick = max if isinstance(expression, sp.Max) else min
        return args[values.index(pick(values))]
    if isinstance(expression, (sp.floor, sp.ceiling)):
        return sp.Integer(math.floor(values[0]) if isinstance(expression, sp.floor) else math.ceil(values[0]))
    side = sp.Integer(1) if values[0] > 0 else sp.Integer(-1)
    if isinstance(expression, sp.Abs):
        return side * args[0]
    return side if isinstance(expression, sp.sign) else (1 + side) / 2


def _outermost(
    phi: sp.Expr, branch: sp.Expr, z: sp.Symbol, direction: int, sample: Mapping[sp.Symbol, float]
) -> sp.Expr:
    """The outer branch, or phi itself where the kinks never end (|sin z|) and no branch is the last."""
    if branch == phi:
        return phi
    for far in ("311.37", "1234.5", "99991.3"):
        a, b = (_at(f.subs(sample), z, direction * mpmath.mpf(far)) for f in (phi, branch))
        if a is None or b is None or abs(a - b) > mpmath.mpf(10) ** -20 * max(1, abs(a)):
            return phi
    return branch


def _slope(branch: sp.Expr, z: sp.Symbol, direction: int, sample: Mapping[sp.Symbol, float]) -> sp.Expr:
    """lim phi / z, refusing what makes G(kappa) infinite or its growth undefined."""
    slope = _checked_limit(branch / z, z, direction, sample)
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


def _limit(branch: sp.Expr, z: sp.Symbol, direction: int, slope: sp.Expr, sample: Mapping[sp.Symbol, float]) -> sp.Expr:
    if not slope.is_zero:
        return sp.oo if float(slope.subs(sample)) * direction > 0 else -sp.oo
    return _checked_limit(branch, z, direction, sample)


def _checked_limit(f: sp.Expr, z: sp.Symbol, direction: int, sample: Mapping[sp.Symbol, float]) -> sp.Expr:
    """Limit of f for z -> direction * oo; nan if f oscillates.

    Numbers far out decide where they have settled. SymPy's limit is asked where they have not, or where the result has
    to be a formula in parameters; it is believed if it agrees with the numbers.
    """
    concrete = f.subs(sample)
    far = [_at(concrete, z, direction * mpmath.mpf("1.237") * mpmath.mpf(10) ** e, 80) for e in _DECADES]
    y = [mpmath.re(v) for v in far if v is not None and mpmath.isfinite(v)]
    if not sample and len(y) > 3 and max(y[-3:]) - min(y[-3:]) <= mpmath.mpf(10) ** -13 * max(1, abs(y[-1])):
        return _rounded(y[-1])
    # SymPy's limits can run for hours on long expressions.
    limit = _sympy_limit(f, z, direction) if sample or sp.count_ops(f) <= _MAX_OPERATIONS else None
    if limit is not None and limit.has(sp.AccumBounds):
        return sp.nan
    if limit is not None and limit.is_number and not y:
        return limit
    if limit is not None and limit.is_extended_real:
        value = limit.subs(sample)
        if value.is_infinite and len(y) > 1 and (y[-1] > max(y[0], 0) if value > 0 else y[-1] < min(y[0], 0)):
            return limit
        if value.is_finite and abs(y[-1] - mpmath.mpf(float(value))) <= 1e-12 + abs(y[0] - mpmath.mpf(float(value))):
            return limit
    if len(y) < 3:
        return sp.nan
    if abs(y[-1] - y[-2]) <= mpmath.mpf(10) ** -8 * max(1, abs(y[-1])):
        return _rounded(y[-1])
    steps = [b - a for a, b in pairwise(y[-4:])]
    if all(abs(step) > 0.1 and step * y[-1] > 0 for step in steps):
        return sp.oo if y[-1] > 0 else -sp.oo
    return sp.nan


def _sympy_limit(f: sp.Expr, z: sp.Symbol, direction: int) -> sp.Expr | None:
    try:
        return sp.limit(f, z, sp.oo * direction)
    except Exception:  # they fail in many ways; the numbers decide
        return None


def _rounded(value: Any) -> sp.Expr:
    """A simple fraction where the value is one, else the number."""
    simple = mpmath.nint(24 * value)
    return sp.Rational(int(simple), 24) if abs(24 * value - simple) < 1e-10 else sp.Float(float(value), 17)


def _symmetry(phi: sp.Expr, z: sp.Symbol) -> tuple[float | None, bool]:
    """Whether phi(z) + phi(-z) is constant (its half is returned) and whether phi is even, checked to 25 digits."""
    pairs = [(_at(phi, z, x), _at(phi, z, -x)) for x in _PROBES]
    scale = max(1, *(abs(v) for pair in pairs for v in pair))
    sums = [mpmath.re(a + b) for a, b in pairs]
    tolerance = mpmath.mpf(10) ** -25 * scale
    centre = sum(sums) / (2 * len(sums))
    complement = float(mpmath.chop(centre, tol=tolerance)) if max(sums) - min(sums) <= tolerance else None
    even = all(abs(a - b) <= tolerance for a, b in pairs)
    return complement, even
