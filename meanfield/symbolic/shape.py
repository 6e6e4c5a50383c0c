"""Shape of a nonlinearity, derived from its SymPy expression: branches, kinks, limits, slopes at infinity, symmetry.

phi is cut at its candidate kinks (where the argument of |.|, max, a step or a condition changes sign, or an argument
of a root, logarithm or denominator vanishes); on each branch it is an analytic expression, which SymPy's limits like.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations, pairwise, product
from typing import NamedTuple

import mpmath
import numpy as np
import sympy as sp
from sympy.core.relational import Relational

from meanfield.symbolic.asymptotics import asymptotic_slope, checked_limit, limit_of, value_at
from meanfield.symbolic.removable import is_removable
from meanfield.symbolic.source import numpy_function
from meanfield.symbolic.switches import SWITCHES, plain_switches, switching

__all__ = ["Shape", "shape_of"]

_MOST_KINKS = 2000
_MOST_REMOVABLE = 20
_NEAR = (6, 12, 18, 21, 24, 27, 30)  # decades, around a singular point
_SPREAD = [mpmath.mpf(x) for x in ("1.13", "1.57", "2.31", "3.77", "9.1", "101.3", "9973.7", "1e6", "31e12")]
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
    endless: tuple[bool, bool] = (False, False)  # kinks go on beyond the last one listed, for z -> -oo and oo
    candidates: tuple[float, ...] = ()  # all points where the formula of phi switches or is singular
    singular: tuple[float, ...] = ()  # those at which the formula is singular
    removable: tuple[float, ...] = ()  # and phi is not

    def linear_pieces(self, z: sp.Symbol) -> tuple[tuple[sp.Expr, sp.Expr], ...] | None:
        """(intercept, slope) of each branch, or None unless all are linear in z and their number is finite."""
        if any(self.endless):
            return None
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
    phi = plain_switches(phi)
    switching(phi, z)
    concrete = phi.subs(sample)
    _check_values(concrete, z)
    candidates = _candidates(phi, z, sample)
    _check_finite(concrete, z, [float(c.subs(sample)) for c, _ in candidates])
    points = [float(c.subs(sample)) for c, _ in candidates]
    singular_points = tuple(x for x, (_, singular) in zip(points, candidates) if singular)
    removable = _removable(concrete, z, points, singular_points)
    candidates = [(c, singular and x not in removable) for (c, singular), x in zip(candidates, points)]
    kinks, branches = _cut(phi, z, candidates, sample)
    ends = _beyond(points or [0.0])
    _check_branches(concrete, z, ends)
    endless = tuple(not _last_branch(phi, {**sample, z: at}, z, side) for at, side in zip(ends, (-1, 1)))
    left, right = (phi if more else branch for more, branch in zip(endless, (branches[0], branches[-1])))
    slopes = (asymptotic_slope(left, z, -1, sample), asymptotic_slope(right, z, 1, sample))
    limits = (limit_of(left, z, -1, slopes[0], sample), limit_of(right, z, 1, slopes[1], sample))
    intercepts = (
        checked_limit(left - slopes[0] * z, z, -1, sample),
        checked_limit(right - slopes[1] * z, z, 1, sample),
    )
    if len(branches) == 1 and not sp.expand(branches[0]).has(z):
        raise ValueError(f"phi({z}) = {phi} is constant: no neuron could respond to anything")
    complement, even = _symmetry(concrete, z, points)
    exact = None
    if complement is not None:
        # The closed form of the centre, where SymPy finds one; else the number (in practice 0 or 1/2).
        exact = sp.simplify(sum(limits) / 2) if all(x.is_finite for x in limits) else sp.nsimplify(complement)
    return Shape(
        tuple(kinks), tuple(branches), limits, slopes, intercepts, exact, even,
        (endless[0], endless[1]), tuple(points), singular_points, removable,
    )  # fmt: skip


def _check_values(phi: sp.Expr, z: sp.Symbol) -> None:
    values = []
    for s in (-1, 1):
        for x in _PROBES:
            value = value_at(phi, z, s * x)
            if value is None or mpmath.isnan(value):
                raise ValueError(f"phi({z}) = {phi} cannot be evaluated at {z} = {mpmath.nstr(s * x, 5)}")
            if isinstance(value, mpmath.mpc) and abs(value.imag) > mpmath.mpf(10) ** -25 * max(1, abs(value)):
                text = mpmath.nstr(value, 5)
                raise ValueError(f"phi({z}) = {phi} is not real: it is {text} at {z} = {mpmath.nstr(s * x, 5)}")
            values.append(mpmath.re(value))
    if max(values) - min(values) <= mpmath.mpf(10) ** -25 * max(1, *map(abs, values)) and not phi.has(*SWITCHES):
        raise ValueError(f"phi({z}) = {phi} is constant: no neuron could respond to anything")


def _check_branches(phi: sp.Expr, z: sp.Symbol, ends: tuple[float, float]) -> None:
    """Real beyond the candidates, too."""
    for end in ends:
        for shift in ("0", "1.0173", "23.1", "173.9"):
            x = mpmath.mpf(end) + (mpmath.mpf(shift) if end == ends[1] else -mpmath.mpf(shift))
            value = value_at(phi, z, x)
            if value is not None and abs(mpmath.im(value)) > mpmath.mpf(10) ** -25 * max(1, abs(value)):
                text = mpmath.nstr(value, 5)
                raise ValueError(f"phi({z}) = {phi} is not real: it is {text} at {z} = {mpmath.nstr(x, 5)}")


def _check_finite(phi: sp.Expr, z: sp.Symbol, points: list[float]) -> None:
    for c in points:
        for side in (-1, 1):
            with mpmath.workdps(120):
                steps = [side * mpmath.mpf("1.237") * mpmath.mpf(10) ** -e for e in _NEAR]
                near = [value_at(phi, z, c + step, 120) for step in steps]
            size = [mpmath.inf if v is None else abs(v) for v in near]
            grows = size[2] > 10 * size[0] > 1000 or (size[1] - size[0] > 1 and size[2] - size[1] > 1)
            if grows or size[-1] > 100 * size[-2] > 10**4 * size[-3]:
                raise ValueError(f"phi({z}) = {phi} is not finite at {z} = {c:.6g}; G(kappa) would be infinite")
            known = [v for v in near if v is not None]
            if len(known) == len(near) and max(abs(a - b) for a, b in pairwise(known[2:])) > 0.02 * max(1, *size):
                raise ValueError(f"phi({z}) = {phi} has no limit at {z} = {c:.6g}: it oscillates there")


def _candidates(phi: sp.Expr, z: sp.Symbol, sample: Mapping[sp.Symbol, float]) -> list[tuple[sp.Expr, bool]]:
    """Candidate kinks in the order of z, near-duplicates merged."""
    roots: list[tuple[sp.Expr, bool]] = []
    for u, singular in switching(phi, z):
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
    if not u.has(*SWITCHES):
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
    zero = np.pad(y == 0.0, 1)
    inside = zero[:-2] & zero[2:]  # of an interval without a sign: all digits are lost there, or u vanishes on it
    roots = [float(x) for x in grid[zero[1:-1] & ~inside]]
    sign = np.sign(y)
    crossing = np.flatnonzero(sign[:-1] * sign[1:] < 0.0)
    if len(roots) + crossing.size > _MOST_KINKS:
        raise ValueError(f"phi has more than {_MOST_KINKS} kinks within |{z}| < 200 (where {u} = 0): that is too many")
    for i in crossing:
        low, high = grid[i], grid[i + 1]
        while high - low > 4e-16 * max(abs(low), abs(high)):
            middle = 0.5 * (low + high)
            if not low < middle < high:
                break
            low, high = (middle, high) if np.sign(value(np.array([middle]))[0]) == sign[i] else (low, middle)
        roots.append(float(low))
    return [sp.Float(x, 17) for x in roots]


def _removable(phi: sp.Expr, z: sp.Symbol, points: list[float], singular: tuple[float, ...]) -> tuple[float, ...]:
    """Points at which the formula of phi is singular, but phi is analytic; refused where these are too many."""
    found = []
    for x in sorted(singular, key=abs)[:_MOST_REMOVABLE]:
        room = min((abs(x - other) for other in points if other != x), default=math.inf)
        if is_removable(phi, z, x, room):
            found.append(x)
    if found and len(singular) > _MOST_REMOVABLE:
        raise ValueError(
            f"the formula of phi({z}) = {phi} is singular at {len(singular)} points, among them {found[0]:.6g}, where "
            "phi itself is smooth: simplify it"
        )
    return tuple(sorted(found))


def _beyond(points: list[float]) -> tuple[float, float]:
    """Just outside of the outermost candidate kinks, before the next ones that lie out of reach."""
    step = (math.sqrt(5.0) - 1.0) / 2000.0
    return points[0] - step * max(1.0, abs(points[0])), points[-1] + step * max(1.0, abs(points[-1]))


def _cut(
    phi: sp.Expr, z: sp.Symbol, candidates: list[tuple[sp.Expr, bool]], sample: Mapping[sp.Symbol, float]
) -> tuple[list[sp.Expr], list[sp.Expr]]:
    points = [float(c.subs(sample)) for c, _ in candidates]
    inside = [0.5 * (a + b) for a, b in pairwise(points)]
    low, high = _beyond(points or [0.0])
    tests = [low, *inside, high] if points else [high]
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
    if not expression.has(*SWITCHES):
        return expression
    if isinstance(expression, sp.Piecewise):
        for value, condition in expression.args:
            if condition.subs(at) == True:  # noqa: E712  (SymPy's true)
                return _branch(value, at)
        raise ValueError(f"{expression} has no value at {at}; give a Piecewise a last case with condition True")
    args = [_branch(a, at) if isinstance(a, sp.Expr) else a for a in expression.args]
    if not isinstance(expression, SWITCHES):
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


def _last_branch(phi: sp.Expr, at: Mapping[sp.Symbol, sp.Expr | float], z: sp.Symbol, direction: int) -> bool:
    """Whether the branch around the point `at`, beyond all kinks found, goes on for ever (that of |sin z| does not).

    Every switch has to stand far out as it stands there. Rounding may take its argument to the point where it switches
    (4 tanh z is 4 to any number of digits, and below 4), but not beyond.
    """
    if not phi.has(*SWITCHES):
        return True
    numbers = {key: value for key, value in at.items() if key != z}
    reach = max(200.0, 2.0 * abs(at[z]))
    points = [direction * reach * mpmath.sqrt(x) for x in _SPREAD]
    return all(_stays(node, at, numbers, z, points) for node in sp.preorder_traversal(phi) if _switches(node, z))


def _switches(node: object, z: sp.Symbol) -> bool:
    return isinstance(node, SWITCHES) and bool(node.has(z))


def _stays(
    node: sp.Expr,
    at: Mapping[sp.Symbol, sp.Expr | float],
    numbers: Mapping[sp.Symbol, sp.Expr | float],
    z: sp.Symbol,
    points: list[mpmath.mpf],
) -> bool:
    """Whether no argument of one switch passes, at the points, the value at which it would switch."""
    signs: list[sp.Expr] = []  # stay on the side of 0 on which they are
    if isinstance(node, sp.Piecewise):
        relations = [r for _, condition in node.args for r in condition.atoms(Relational)]
        signs = [_branch(r.lhs, at) - _branch(r.rhs, at) for r in relations]
    elif isinstance(node, (sp.Max, sp.Min)):
        args = [_branch(a, at) for a in node.args]
        signs = [a - b for a, b in combinations(args, 2)]
    else:
        argument = _branch(node.args[0], at)
        signs = [argument]
        if isinstance(node, (sp.floor, sp.ceiling)):
            step = math.floor(float(argument.subs(at)))
            signs = [argument - step, argument - step - 1] if argument.has(z) else []
    for u in signs:
        here = mpmath.sign(float(u.subs(at)))
        for x in points:
            there = value_at(u.subs(numbers), z, x)
            if there is None:
                return False
            there, rounding = mpmath.re(there), mpmath.mpf(10) ** -30 * max(1, abs(x))
            if here * there < -rounding or (here == 0 and abs(there) > rounding):
                return False
    return True


def _symmetry(phi: sp.Expr, z: sp.Symbol, kinks: list[float]) -> tuple[float | None, bool]:
    """Whether phi(z) + phi(-z) is constant (its half is returned) and whether phi is even, checked to 25 digits."""
    around = [abs(c) * x for c in (kinks[0], kinks[-1]) for x in (0.9731, 1.0173)] if kinks else []
    points = [*_PROBES, mpmath.mpf("31.37"), mpmath.mpf("173.29"), *(mpmath.mpf(x) for x in around if x)]
    found = [(value_at(phi, z, x), value_at(phi, z, -x)) for x in points]
    pairs = [(plus, minus) for plus, minus in found if plus is not None and minus is not None]
    if len(pairs) < len(found):
        return None, False
    scale = max(1, *(abs(v) for pair in pairs for v in pair))
    sums = [mpmath.re(a + b) for a, b in pairs]
    tolerance = mpmath.mpf(10) ** -25 * scale
    centre = sum(sums) / (2 * len(sums))
    complement = float(mpmath.chop(centre, tol=tolerance)) if max(sums) - min(sums) <= tolerance else None
    even = all(abs(a - b) <= tolerance for a, b in pairs)
    return complement, even
