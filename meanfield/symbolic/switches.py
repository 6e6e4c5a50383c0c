"""Where a nonlinearity may have a kink or a jump: where its functions, of a closed list, switch or are singular.

A function that is not listed may jump anywhere, and is refused in words.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom

__all__ = ["SWITCHES", "plain_switches", "switching"]

SWITCHES = (sp.Abs, sp.Max, sp.Min, sp.Heaviside, sp.sign, sp.Piecewise, sp.floor, sp.ceiling)

# Analytic on the whole real line.
_ANALYTIC: tuple[type[sp.Function], ...] = (
    sp.exp, sp.sin, sp.cos, sp.sinc, sp.sinh, sp.cosh, sp.tanh, sp.sech, sp.asinh, sp.atan, sp.erf, sp.erfc, sp.erfi,
    sp.Si, sp.Shi, sp.fresnels, sp.fresnelc, sp.airyai, sp.airybi, sp.airyaiprime, sp.airybiprime, sp.re, sp.im,
    sp.conjugate, sp.legendre, sp.chebyshevt, sp.chebyshevu, sp.hermite, sp.exp_polar,
)  # fmt: skip


def _negative_integers(x: sp.Expr) -> list[sp.Expr]:
    return [sp.sin(sp.pi * sp.Min(x, sp.Rational(1, 2)))]


# Singular where one of these vanishes; which argument of the function counts is the number.
_SINGULAR: dict[type[sp.Function], tuple[int, Callable[[sp.Expr], list[sp.Expr]]]] = {
    sp.log: (0, lambda x: [x]),
    sp.tan: (0, lambda x: [sp.cos(x)]),
    sp.sec: (0, lambda x: [sp.cos(x)]),
    sp.cot: (0, lambda x: [sp.sin(x)]),
    sp.csc: (0, lambda x: [sp.sin(x)]),
    sp.coth: (0, lambda x: [x]),
    sp.csch: (0, lambda x: [x]),
    sp.acot: (0, lambda x: [x]),
    sp.asin: (0, lambda x: [x - 1, x + 1]),
    sp.acos: (0, lambda x: [x - 1, x + 1]),
    sp.atanh: (0, lambda x: [x - 1, x + 1]),
    sp.acosh: (0, lambda x: [x - 1, x + 1]),
    sp.acoth: (0, lambda x: [x - 1, x + 1]),
    sp.asec: (0, lambda x: [x, x - 1, x + 1]),
    sp.acsc: (0, lambda x: [x, x - 1, x + 1]),
    sp.asech: (0, lambda x: [x, x - 1, x + 1]),
    sp.acsch: (0, lambda x: [x]),
    sp.atan2: (0, lambda y: [y]),
    sp.gamma: (0, _negative_integers),
    sp.loggamma: (0, _negative_integers),
    sp.digamma: (0, _negative_integers),
    sp.factorial: (0, lambda x: _negative_integers(x + 1)),
    sp.polygamma: (1, _negative_integers),
    sp.LambertW: (0, lambda x: [x * sp.E + 1]),
    sp.erfinv: (0, lambda x: [x - 1, x + 1]),
    sp.erfcinv: (0, lambda x: [x, x - 2]),
    sp.Ei: (0, lambda x: [x]),
    sp.Ci: (0, lambda x: [x]),
    sp.Chi: (0, lambda x: [x]),
    sp.li: (0, lambda x: [x, x - 1]),
    sp.expint: (1, lambda x: [x]),
    sp.besselj: (1, lambda x: [x]),
    sp.besseli: (1, lambda x: [x]),
    sp.bessely: (1, lambda x: [x]),
    sp.besselk: (1, lambda x: [x]),
    sp.lowergamma: (1, lambda x: [x]),
    sp.uppergamma: (1, lambda x: [x]),
}
_ENTIRE_FOR_INTEGER_ORDER = (sp.besselj, sp.besseli)


def plain_switches(phi: sp.Expr) -> sp.Expr:
    """phi with its remainders, angles and finite sums written in the functions of this module.

    Raises
    ------
    ValueError
        For delta functions, which have no values.
    """
    for node in phi.atoms(sp.DiracDelta, sp.SingularityFunction):
        if isinstance(node, sp.DiracDelta) or not (node.args[2].is_integer and node.args[2].is_nonnegative):
            raise ValueError(f"phi holds {node}, which is no function: it has no value where it is not zero")

    def angle(x: sp.Expr) -> sp.Expr:
        return sp.pi * sp.Heaviside(-x) if x.is_extended_real else sp.atan2(sp.im(x), sp.re(x))

    def power(x: sp.Expr, a: sp.Expr, n: sp.Expr) -> sp.Expr:
        return sp.Heaviside(x - a) * (x - a) ** n

    phi = phi.replace(lambda e: isinstance(e, (sp.Sum, sp.Product)), lambda e: e.doit())
    phi = phi.replace(sp.frac, lambda x: x - sp.floor(x)).replace(sp.Mod, lambda x, y: x - y * sp.floor(x / y))
    return phi.replace(sp.arg, angle).replace(sp.SingularityFunction, power)


def switching(phi: sp.Expr, z: sp.Symbol) -> list[tuple[sp.Expr, bool]]:
    """Expressions whose real zeros are candidate kinks, and whether phi is singular there even if smooth-looking.

    Raises
    ------
    ValueError
        If phi holds a function whose kinks and jumps are not known.
    """
    found: list[tuple[sp.Expr, bool]] = []
    for node in sp.preorder_traversal(phi):
        if isinstance(node, sp.Basic) and node.has(z):
            found += _zeros_of_node(node, z)
    return [(u, singular) for u, singular in found if u.has(z) and not (u.is_positive or u.is_negative)]


def _zeros_of_node(node: sp.Basic, z: sp.Symbol) -> list[tuple[sp.Expr, bool]]:
    if isinstance(node, (sp.Abs, sp.Heaviside, sp.sign)):
        return [(node.args[0], False)]
    if isinstance(node, (sp.Max, sp.Min)):
        return [(a - b, False) for a, b in combinations(node.args, 2)]
    if isinstance(node, Relational):
        return [(node.lhs - node.rhs, False)]
    if isinstance(node, (sp.floor, sp.ceiling)):
        return [(sp.sin(sp.pi * node.args[0]), False)]
    if isinstance(node, sp.exp):  # in SymPy also the power E**x
        return []
    if isinstance(node, sp.Pow):
        smooth = node.exp.is_integer and node.exp.is_nonnegative
        return [] if smooth else [(node.base, True)]
    for function, (which, zeros) in _SINGULAR.items():
        if isinstance(node, function):
            _check_orders(node, which, z)
            if isinstance(node, _ENTIRE_FOR_INTEGER_ORDER) and node.args[0].is_integer:
                return []
            return [(u, True) for u in zeros(node.args[which])]
    if isinstance(node, _ANALYTIC):
        return []
    known = (sp.Symbol, sp.Add, sp.Mul, sp.Piecewise, sp.Tuple, sp.And, sp.Or, sp.Not, sp.Xor, BooleanAtom)
    if isinstance(node, known) or type(node).__name__ in ("ExprCondPair", "expit", "softplus", "upper_tail"):
        return []
    name = type(node).__name__ if not isinstance(node, AppliedUndef) else str(node.func)
    raise ValueError(
        f"phi({z}) holds {name}, whose kinks and jumps are not known; write it with elementary functions, Abs, Max, "
        "Min, sign, Heaviside, floor or Piecewise"
    )


def _check_orders(node: sp.Basic, which: int, z: sp.Symbol) -> None:
    if isinstance(node, sp.LambertW) and len(node.args) > 1 and node.args[1] != 0:
        raise ValueError(f"phi({z}) holds {node}, of another branch than the principal one; only LambertW(x) is known")
    if any(a.has(z) for i, a in enumerate(node.args) if i != which) and not isinstance(node, sp.atan2):
        raise ValueError(f"phi({z}) holds {node}, whose order depends on {z}: its kinks and jumps are not known")
