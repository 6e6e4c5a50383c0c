"""NumPy source of a SymPy expression, in forms that do not overflow where the function itself is finite."""

from __future__ import annotations

import ast
import builtins
import math
import re
from collections.abc import Callable, Sequence, Set
from typing import Any, cast

import mpmath
import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.logic.boolalg import BooleanAtom
from sympy.printing.codeprinter import PrintMethodNotImplementedError
from sympy.printing.numpy import SciPyPrinter

from meanfield.symbolic.text import is_plain_name
from meanfield.validation import FloatArray, short

__all__ = [
    "compiled_source",
    "derivative",
    "high_precision",
    "mpmath_function",
    "numpy_function",
    "numpy_function_of",
    "numpy_source",
    "printable",
    "remainder",
    "stable",
]


ArrayFunction = Callable[[FloatArray], FloatArray]
_ATOMS = (sp.Number, sp.NumberSymbol, BooleanAtom, type(sp.I), type(sp.zoo), type(sp.S.EmptySet), type(sp.S.Reals))
_BUILTINS = {f.__name__: f for f in (abs, complex, float, int, max, min, range, round, sum)}
_LIBRARY = re.compile(
    r"numpy|numpy\.[a-z]\w*(\.reduce)?|scipy\.(special|integrate|linalg|constants)(\.[a-z]\w*)?|builtins\.(abs|max|min|range|sum)"
)


class expit(sp.Function):
    """1 / (1 + exp(-x)), named as in SciPy."""

    nargs = 1

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return expit(self.args[0]) * expit(-self.args[0])


class softplus(sp.Function):
    """ln(1 + exp(x))."""

    nargs = 1

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return expit(self.args[0])


class upper_tail(sp.Function):
    """erfc(x), which SymPy's own class would turn back into 2 - erfc(-x)."""

    nargs = 1

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return -2 / sp.sqrt(sp.pi) * sp.exp(-(self.args[0] ** 2))


class _Printer(SciPyPrinter):
    def _print_Pi(self, e: sp.Expr) -> str:
        return self._module_format("numpy.pi")

    def _print_expit(self, e: sp.Expr) -> str:
        return f"{self._module_format('scipy.special.expit')}({self._print(e.args[0])})"

    def _print_upper_tail(self, e: sp.Expr) -> str:
        return f"{self._module_format('scipy.special.erfc')}({self._print(e.args[0])})"

    def _print_softplus(self, e: sp.Expr) -> str:
        return f"{self._module_format('numpy.logaddexp')}(0.0, {self._print(e.args[0])})"

    def _fold(self, name: str, args: tuple[sp.Expr, ...]) -> str:
        text = self._print(args[0])
        for a in args[1:]:
            text = f"{self._module_format(name)}({text}, {self._print(a)})"
        return text

    def _print_Max(self, e: sp.Expr) -> str:
        return self._fold("numpy.maximum", e.args)

    def _print_Min(self, e: sp.Expr) -> str:
        return self._fold("numpy.minimum", e.args)

    def _print_Heaviside(self, e: sp.Expr) -> str:
        return f"{self._module_format('numpy.heaviside')}({self._print(e.args[0])}, 0.5)"

    def _print_Piecewise(self, e: sp.Expr) -> str:
        text = self._module_format("numpy.nan")
        for value, condition in reversed(e.args):
            if condition == True:  # noqa: E712
                text = self._print(value)
            else:
                text = f"{self._module_format('numpy.where')}({self._print(condition)}, {self._print(value)}, {text})"
        return text


def stable(expression: sp.Expr) -> sp.Expr:
    """Write logistic functions, softplus and Gaussian tails as such: no overflow, no cancellation, nor in phi'."""
    x = sp.Wild("x")

    def logistic(base: sp.Expr, exponent: sp.Expr) -> sp.Expr:
        match = base.match(1 + sp.exp(x))
        if match and exponent.is_Integer and exponent < 0:
            return expit(-match[x]) ** -exponent
        return sp.Pow(base, exponent)

    def log(argument: sp.Expr) -> sp.Expr:
        match = argument.match(1 + sp.exp(x))
        return softplus(match[x]) if match else sp.log(argument)

    def tail(*terms: sp.Expr) -> sp.Expr:
        # c + c erf(x) = c erfc(-x), which keeps its digits where it is small
        if len(terms) == 2 and terms[0].is_Number:
            ratio = terms[1] / terms[0]
            if isinstance(ratio, sp.erf):
                return terms[0] * upper_tail(-ratio.args[0])
            if isinstance(-ratio, sp.erf):
                return terms[0] * upper_tail((-ratio).args[0])
        return sp.Add(*terms)

    expression = expression.replace(sp.Pow, logistic).replace(sp.log, log).replace(sp.Add, tail)

    def product(*args: sp.Expr) -> sp.Expr:
        # exp(x) expit(-x) = expit(x)
        terms = list(args)
        for term in args:
            if isinstance(term, expit) and sp.exp(-term.args[0]) in terms:
                terms.remove(sp.exp(-term.args[0]))
                terms[terms.index(term)] = expit(-term.args[0])
        return sp.Mul(*terms)

    return expression.replace(sp.Mul, product)


def derivative(expression: sp.Expr, z: sp.Symbol) -> sp.Expr:
    """phi'(z) wherever it exists; the delta functions of jumps are left out."""
    return _without_deltas(sp.diff(stable(expression), z))


def plain_derivative(expression: sp.Expr, z: sp.Symbol) -> sp.Expr:
    """As `derivative`, in the functions of the expression itself (which mpmath knows)."""
    return _without_deltas(sp.diff(expression, z))


def remainder(expression: sp.Expr, z: sp.Symbol, slope: sp.Expr, direction: int) -> sp.Expr:
    """phi(z) - slope z for z of the sign of `direction`, with the linear part cancelled in symbols where it can be."""

    def outward(u: sp.Expr) -> int:
        return 0 if not u.is_polynomial(z) else int(sp.sign(sp.Poly(u, z).LC()) * direction ** sp.degree(u, z))

    def flip(function: type[sp.Function], identity: Callable[[sp.Expr], sp.Expr], side: int) -> None:
        nonlocal expression
        expression = expression.replace(function, lambda u: identity(u) if outward(u) == side else function(u))

    expression = stable(expression)
    flip(softplus, lambda u: u + softplus(-u), 1)
    flip(expit, lambda u: 1 - expit(-u), 1)
    flip(upper_tail, lambda u: 2 - upper_tail(-u), -1)
    flip(sp.erf, lambda u: 1 - upper_tail(u), 1)
    flip(sp.erf, lambda u: upper_tail(-u) - 1, -1)
    flip(sp.tanh, lambda u: 1 - 2 * expit(-2 * u), 1)
    flip(sp.tanh, lambda u: 2 * expit(2 * u) - 1, -1)
    return sp.expand(expression - slope * z)


def _without_deltas(expression: sp.Expr) -> sp.Expr:
    expression = expression.replace(sp.DiracDelta, lambda *args: sp.Integer(0)).doit()
    # SymPy has no derivative of floor and ceiling; it is 0 between their jumps.
    return expression.replace(lambda e: isinstance(e, (sp.Subs, sp.Derivative)), lambda e: sp.Integer(0))


def numpy_source(expression: sp.Expr) -> str:
    """Python expression with fully qualified `numpy` and `scipy.special` names.

    Raises
    ------
    ValueError
        If it contains a function that NumPy and SciPy do not have.
    """
    try:
        source = str(_Printer({"fully_qualified_modules": True}).doprint(stable(printable(expression))))
        _check_source(source, {symbol.name for symbol in expression.atoms(sp.Symbol)})
        return source
    except PrintMethodNotImplementedError as error:
        raise ValueError(f"no NumPy code for {expression}: {str(error).splitlines()[0]}") from error


def numpy_function(expression: sp.Expr, z: sp.Symbol) -> ArrayFunction:
    """Vectorised NumPy function of z."""
    return compiled_source(numpy_source(expression.xreplace({z: sp.Symbol("z", real=True)})))


def numpy_function_of(expression: sp.Expr, symbols: Sequence[sp.Symbol]) -> Callable[..., Any]:
    """Vectorised NumPy function of several symbols, in this order."""
    names = [f"x{i}" for i in range(len(symbols))]
    plain = {symbol: sp.Symbol(name, real=True) for symbol, name in zip(symbols, names, strict=True)}
    return _compiled(numpy_source(expression.xreplace(plain)), names)


def mpmath_function(
    expression: sp.Expr, z: sp.Symbol, modules: object = "mpmath"
) -> Callable[[mpmath.mpc], mpmath.mpc]:
    """Function of one mpmath number; `lambdify` executes what it prints, so names must be names."""
    return cast("Callable[[mpmath.mpc], mpmath.mpc]", sp.lambdify(z, printable(expression), modules))


def printable(expression: sp.Expr) -> sp.Expr:
    """The expression with every symbol that is no identifier renamed, so that its text is what it says.

    Raises
    ------
    ValueError
        For what carries other text: undefined functions, symbols of matrices and arrays, strings.
    """
    renamed: dict[sp.Basic, sp.Basic] = {}
    for node in sp.preorder_traversal(expression):
        if isinstance(node, sp.Symbol):
            if not is_plain_name(node.name):
                renamed[node] = sp.Symbol(f"renamed_{len(renamed)}", **node.assumptions0)
        elif isinstance(node, AppliedUndef) and not (hasattr(node, "_imp_") and is_plain_name(node.func.__name__)):
            raise ValueError(f"{short(node)} is an undefined function; give its expression.")
        elif not isinstance(node, sp.Basic) or (node.is_Atom and not isinstance(node, _ATOMS)):
            raise ValueError(f"{short(node)} ({type(node).__name__}) is no number, symbol or function of numbers.")
    return expression.xreplace(renamed) if renamed else expression


def compiled_source(source: str) -> ArrayFunction:
    """Vectorised function of z from its NumPy source, which may hold arithmetic and functions of NumPy and SciPy."""
    return _compiled(source, ("z",))


def _compiled(source: str, names: Sequence[str]) -> Callable[..., Any]:
    """Vectorised function of these names from its NumPy source."""
    import scipy.integrate
    import scipy.special

    _check_source(source, set(names))
    known = {"numpy": np, "scipy": scipy, "builtins": builtins, "__builtins__": _BUILTINS}
    return cast("Callable[..., Any]", eval(f"lambda {', '.join(names)}: {source}", known))


def _check_source(source: str, symbols: Set[str]) -> None:
    """Refuse a program that is more than an expression of symbols, numbers and functions of NumPy and SciPy."""
    bound = {*symbols, "numpy", "scipy", "builtins", *_BUILTINS}
    tree = ast.parse(source, mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
    for node in ast.walk(tree):
        foreign = isinstance(node, ast.Name) and not (node.id in bound and is_plain_name(node.id))
        foreign |= isinstance(node, ast.Attribute) and not _is_library(node)
        foreign |= isinstance(node, ast.Constant) and not isinstance(node.value, (int, float, complex))
        foreign |= isinstance(node, (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom, ast.JoinedStr))
        if foreign:
            raise ValueError(f"no NumPy code for this expression: it would hold {short(ast.unparse(node))}.")


def _is_library(node: ast.Attribute) -> bool:
    """Whether an attribute is a function of NumPy or SciPy's special functions, or one of the builtins printed."""
    parts: list[str] = []
    inner: ast.expr = node
    while isinstance(inner, ast.Attribute):
        parts.append(inner.attr)
        inner = inner.value
    path = ".".join([inner.id if isinstance(inner, ast.Name) else "?", *reversed(parts)])
    return bool(_LIBRARY.fullmatch(path))


def high_precision(expression: sp.Expr, z: sp.Symbol, points: np.ndarray) -> np.ndarray:
    """Values at the given points by mpmath; a removable singularity is stepped over."""
    function = mpmath_function(expression, z)
    result = np.empty(points.shape)
    with mpmath.workdps(40):
        for i, x in enumerate(points):
            result[i] = math.nan
            for step in ("0", "1e-25"):
                try:
                    value = function(mpmath.mpf(float(x)) + mpmath.mpf(step))
                except (ZeroDivisionError, OverflowError, ValueError):
                    continue
                if mpmath.isfinite(value):
                    result[i] = float(mpmath.re(value))
                    break
    return result
