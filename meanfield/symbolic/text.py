"""Expressions as text: a closed grammar, read by Python's `ast` parser, bounded before anything is evaluated.

Text from files, task files and the command line is data. What it can name is listed here: arithmetic, the functions and
constants of `FUNCTIONS` and `CONSTANTS`, comparisons and cases, and the symbols that the caller knows. Nothing of it
reaches `eval`, `sympify` or an attribute of a module, and no number or power is formed that would not fit.
"""

from __future__ import annotations

import ast
import keyword
import re
import warnings
from collections.abc import Callable, Mapping, Sequence

import sympy as sp
from sympy.functions.elementary.piecewise import ExprCondPair

from meanfield.symbolic.bounds import Size, size_of_call, size_of_number, size_of_power, size_of_product, size_of_sum

__all__ = ["CONSTANTS", "FUNCTIONS", "from_formula", "is_plain_name", "to_formula"]

FUNCTIONS: dict[str, Callable[..., sp.Expr]] = {
    name: getattr(sp, name)
    for name in (
        "exp", "log", "sqrt", "cbrt", "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "acot",
        "atan2", "sinc", "sinh", "cosh", "tanh", "coth", "sech", "csch", "asinh", "acosh", "atanh", "acoth",
        "Abs", "sign", "floor", "ceiling", "frac", "Mod", "Max", "Min", "Heaviside", "re", "im", "arg", "conjugate",
        "erf", "erfc", "erfi", "erfinv", "erfcinv", "gamma", "loggamma", "digamma", "polygamma", "lowergamma",
        "uppergamma", "LambertW", "besselj", "bessely", "besseli", "besselk", "airyai", "airybi", "Si", "Ci", "Shi",
        "Chi", "Ei", "expint", "fresnels", "fresnelc",
    )
}  # fmt: skip
FUNCTIONS |= {"abs": sp.Abs, "max": sp.Max, "min": sp.Min, "ln": sp.log, "ceil": sp.ceiling}
CONSTANTS: dict[str, sp.Expr] = {
    name: getattr(sp, name) for name in ("pi", "E", "EulerGamma", "GoldenRatio", "Catalan", "I")
}

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "Lt", ast.LtE: "Le", ast.Gt: "Gt", ast.GtE: "Ge", ast.Eq: "Eq", ast.NotEq: "Ne",
}  # fmt: skip
_RELATIONS = {name: getattr(sp, name) for name in _COMPARISONS.values()}
_RELATIONS |= {
    name: getattr(sp, name)
    for name in ("StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan", "Equality", "Unequality")
}
_LOGIC: dict[str, type[sp.logic.boolalg.BooleanFunction]] = {"And": sp.And, "Or": sp.Or, "Not": sp.Not}
_FLOAT_TEXT = re.compile(r"[+-]?\d{1,400}(\.\d{0,400})?([eE][+-]?\d{1,3})?|[+-]?\.\d{1,400}([eE][+-]?\d{1,3})?")
_LONGEST = 20_000  # characters
_DEEPEST = 60
_MOST_NODES = 4_000
_WIDEST_FLOAT = 4_096  # bits


def is_plain_name(name: str) -> bool:
    """Whether a symbol's name is an identifier of ASCII letters that may stand in an expression or a program."""
    return name.isascii() and name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("__")


def from_formula(text: str, symbols: Mapping[str, sp.Symbol]) -> sp.Expr:
    """The SymPy expression of a formula such as ``z / (1 + Abs(z))``, with exact integers.

    Parameters
    ----------
    text : str
        Arithmetic, numbers, `symbols`, functions and constants of the lists above, comparisons and ``Piecewise``. The
        text of `to_formula`, and that of `sympy.srepr` as far as it is of these things.
    symbols : mapping of str to Symbol
        Names that stand for symbols; there are no others.

    Raises
    ------
    ValueError
        If `text` holds anything else, is too long or nested too deeply, or forms numbers, powers or towers of
        exponentials out of bounds.
    """
    if not isinstance(text, str):
        raise ValueError(f"a SymPy expression must be given as text, got {type(text).__name__}.")
    if len(text) > _LONGEST:
        raise ValueError(f"the text of a SymPy expression may have {_LONGEST} characters, this one has {len(text)}.")
    shown = text if len(text) <= 80 else text[:77] + "..."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", SyntaxWarning)  # e.g. a number that is called
            tree = ast.parse(text.strip().replace("^", "**"), mode="eval").body
        _check_extent(tree)
        expression = _Reader(symbols).read(tree)[0]
    except (SyntaxError, SyntaxWarning, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ValueError(f"{shown!r} is not a SymPy expression ({error}).") from error
    except ValueError as error:
        raise ValueError(f"{shown!r} cannot be read as a SymPy expression: {error}") from error
    if not isinstance(expression, sp.Expr):
        raise ValueError(f"{shown!r} is not a SymPy expression but a condition.")
    return expression


def _check_extent(tree: ast.expr) -> None:
    """Bound nodes and depth without recursion."""
    waiting: list[tuple[ast.AST, int]] = [(tree, 1)]
    count = 0
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if count > _MOST_NODES or depth > _DEEPEST:
            raise ValueError(f"it may have {_MOST_NODES} parts, nested {_DEEPEST} deep, and has more.")
        # A chain a + b + c + ... leans to the left and is read in a loop: only its right sides are nested.
        for child in ast.iter_child_nodes(node):
            chained = isinstance(node, ast.BinOp) and child is node.left and _chain(child) == _chain(node) != ""
            waiting.append((child, depth + (not chained)))


def _chain(node: ast.AST) -> str:
    """Which n-ary operation a node belongs to: "+", "*" or none."""
    if not isinstance(node, ast.BinOp):
        return ""
    return "+" if isinstance(node.op, (ast.Add, ast.Sub)) else "*" if isinstance(node.op, (ast.Mult, ast.Div)) else ""


class _Reader:
    """Builds expressions bottom up; of each part the size is known, and bounded, before SymPy sees it."""

    def __init__(self, symbols: Mapping[str, sp.Symbol]) -> None:
        self.symbols = symbols

    def read(self, node: ast.expr) -> tuple[sp.Basic, Size]:
        match node:
            case ast.Constant(value=bool() as value):
                return sp.true if value else sp.false, Size()
            case ast.Constant(value=int() | float() as value):
                return self.number(value)
            case ast.Name(id=name):
                return self.name(name)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if not isinstance(
                value, bool
            ):
                return self.number(-value)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                value, size = self.value(operand)
                return sp.Mul(-1, value), size_of_product([size_of_number(-1.0), size])
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.value(operand)
            case ast.UnaryOp(op=ast.Invert() | ast.Not(), operand=operand):
                return sp.Not(self.condition(operand)), Size()
            case ast.BinOp(op=ast.Pow(), left=left, right=right):
                return self.power(self.value(left), self.value(right))
            case ast.BinOp(op=ast.Add() | ast.Sub()):
                return self.add(self.flattened(node, "+"))
            case ast.BinOp(op=ast.Mult() | ast.Div()):
                return self.multiply(self.flattened(node, "*"))
            case ast.BinOp(op=ast.BitAnd() | ast.BitOr() as op, left=left, right=right):
                both = self.condition(left), self.condition(right)
                return (sp.And if isinstance(op, ast.BitAnd) else sp.Or)(*both), Size()
            case ast.BoolOp(op=op, values=values):
                parts = [self.condition(value) for value in values]
                return (sp.And if isinstance(op, ast.And) else sp.Or)(*parts), Size()
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                values = [self.value(part)[0] for part in (left, *comparators)]
                pairs = zip(ops, values, values[1:])
                relations = [_RELATIONS[self.comparison(op)](a, b) for op, a, b in pairs]
                return sp.And(*relations), Size()
            case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
                return self.call(name, args, keywords)
        raise ValueError(f"a SymPy expression cannot hold {_shown(node)}.")

    def value(self, node: ast.expr) -> tuple[sp.Expr, Size]:
        found, size = self.read(node)
        if not isinstance(found, sp.Expr):
            raise ValueError(f"{_shown(node)} is a condition; a SymPy expression has numbers here.")
        return found, size

    def condition(self, node: ast.expr) -> sp.Basic:
        found = self.read(node)[0]
        if isinstance(found, sp.Expr):
            raise ValueError(f"{_shown(node)} is a number; a SymPy expression has a condition here.")
        return found

    def number(self, value: int | float) -> tuple[sp.Expr, Size]:
        size = size_of_number(value)
        return (sp.Integer(value) if isinstance(value, int) else sp.Float(value)), size

    def name(self, name: str) -> tuple[sp.Expr, Size]:
        if name in self.symbols:
            return self.symbols[name], Size()
        if name in CONSTANTS:
            constant = CONSTANTS[name]
            return constant, size_of_number(complex(constant) if name == "I" else float(constant))
        if name in ("true", "false"):
            return (sp.true if name == "true" else sp.false), Size()
        known = ", ".join(self.symbols) or "none"
        raise ValueError(f"{name!r} is no symbol here (known: {known}) and no constant of a SymPy expression.")

    def comparison(self, op: ast.cmpop) -> str:
        if type(op) not in _COMPARISONS:
            raise ValueError("a SymPy expression compares with <, <=, >, >=, == and != only.")
        return _COMPARISONS[type(op)]

    def flattened(self, node: ast.expr, chain: str) -> list[tuple[sp.Expr, Size]]:
        """Terms (or factors) of a chain, those subtracted (divided by) with their sign (as inverse)."""
        found: list[tuple[sp.Expr, Size]] = []
        while isinstance(node, ast.BinOp) and _chain(node) == chain:
            right = self.value(node.right)
            if isinstance(node.op, ast.Sub):
                right = self.multiply([self.number(-1), right])
            elif isinstance(node.op, ast.Div):
                right = self.power(right, self.number(-1))
            found.append(right)
            node = node.left
        return [self.value(node), *reversed(found)]

    def add(self, parts: list[tuple[sp.Expr, Size]]) -> tuple[sp.Expr, Size]:
        size = size_of_sum([part[1] for part in parts])
        return sp.Add(*(part[0] for part in parts)), size

    def multiply(self, parts: list[tuple[sp.Expr, Size]]) -> tuple[sp.Expr, Size]:
        size = size_of_product([part[1] for part in parts])
        return sp.Mul(*(part[0] for part in parts)), size

    def power(self, base: tuple[sp.Expr, Size], exponent: tuple[sp.Expr, Size]) -> tuple[sp.Expr, Size]:
        size = size_of_power(base[0], base[1], exponent[0], exponent[1])
        return sp.Pow(base[0], exponent[0]), size

    def call(self, name: str, args: list[ast.expr], keywords: list[ast.keyword]) -> tuple[sp.Basic, Size]:
        match name, args:
            case "Symbol", [ast.Constant(value=str() as text)]:
                return self.name(text) if text in self.symbols else self.unknown_symbol(text)
            case "Float", [ast.Constant(value=str() as text), *_]:
                return self.float_of_text(text, keywords)
            case "Piecewise", _ if args and not keywords:
                pairs = [self.pair(node) for node in args]
                size = size_of_sum([size for _, size in pairs])
                return sp.Piecewise(*(pair for pair, _ in pairs)), size
        if keywords:
            raise ValueError(f"a SymPy expression cannot hold arguments by name, as in {name}(...).")
        if name in _LOGIC:
            return _LOGIC[name](*map(self.condition, args)), Size()
        parts = [self.value(node) for node in args]
        values, sizes = [part[0] for part in parts], [part[1] for part in parts]
        match name, len(args):
            case "Add", n if n:
                return self.add(parts)
            case "Mul", n if n:
                return self.multiply(parts)
            case "Pow", 2:
                return self.power(*parts)
            case "Integer", 1 if isinstance(values[0], sp.Integer):
                return parts[0]
            case "Rational", 2 if all(isinstance(value, sp.Integer) for value in values):
                return self.multiply([parts[0], self.power(parts[1], self.number(-1))])
            case "Float", 3 if all(isinstance(value, sp.Integer) for value in values):
                return self.float_of_bits(*map(int, values))
        if name in ("sqrt", "cbrt") and len(parts) == 1:
            return self.power(parts[0], (sp.Rational(1, 2 if name == "sqrt" else 3), size_of_number(0.5)))
        if name in _RELATIONS and len(args) == 2:
            return _RELATIONS[name](*values), Size()
        if name not in FUNCTIONS:
            raise ValueError(f"{name!r} is no function that the text of a SymPy expression may name.")
        size = size_of_call(name, sizes)
        return FUNCTIONS[name](*values), size

    def unknown_symbol(self, name: str) -> tuple[sp.Basic, Size]:
        known = ", ".join(self.symbols) or "none"
        raise ValueError(f"{name[:40]!r} is no symbol of this SymPy expression (known: {known}).")

    def pair(self, node: ast.expr) -> tuple[sp.Basic, Size]:
        match node:
            case ast.Tuple(elts=[value, condition]):
                pass
            case ast.Call(func=ast.Name(id="ExprCondPair"), args=[value, condition], keywords=[]):
                pass
            case _:
                raise ValueError(f"the cases of a Piecewise are pairs (value, condition), got {_shown(node)}.")
        found, size = self.value(value)
        return (found, self.condition(condition)), size

    def float_of_text(self, text: str, keywords: list[ast.keyword]) -> tuple[sp.Expr, Size]:
        """``Float('0.1', precision=53)``, as `sympy.srepr` writes numbers."""
        bits = 53
        for item in keywords:
            if item.arg != "precision" or not isinstance(item.value, ast.Constant):
                raise ValueError("a Float of a SymPy expression has digits and a precision in bits.")
            bits = item.value.value  # type: ignore[assignment]
        if type(bits) is not int or not 1 <= bits <= _WIDEST_FLOAT or not _FLOAT_TEXT.fullmatch(text):
            raise ValueError(f"Float({text[:40]!r}, precision={bits!r}) is no number of at most {_WIDEST_FLOAT} bits.")
        return sp.Float(text, precision=bits), size_of_number(float(text))

    def float_of_bits(self, mantissa: int, exponent: int, bits: int) -> tuple[sp.Expr, Size]:
        """``Float(mantissa, exponent, bits)``: mantissa 2**exponent with so many bits."""
        if not (1 <= bits <= _WIDEST_FLOAT and mantissa.bit_length() <= bits and abs(exponent) <= 2 * _WIDEST_FLOAT):
            raise ValueError(f"Float(..., {exponent}, {bits}) is no number of at most {_WIDEST_FLOAT} bits.")
        number = sp.Float((int(mantissa < 0), abs(mantissa), exponent, mantissa.bit_length()), precision=bits)
        return number, size_of_number(float(number))


def _shown(node: ast.expr) -> str:
    text = ast.unparse(node)
    return repr(text if len(text) <= 60 else text[:57] + "...")


# ---- writing -----------------------------------------------------------------------------------------------------

_NAME_OF: dict[Callable[..., sp.Expr], str] = {function: name for name, function in reversed(FUNCTIONS.items())}
_NAME_OF_CONSTANT: dict[sp.Expr, str] = {constant: name for name, constant in CONSTANTS.items()}
_SIGNS = {sp.StrictLessThan: "<", sp.LessThan: "<=", sp.StrictGreaterThan: ">", sp.GreaterThan: ">="}


def to_formula(expression: sp.Expr) -> str:
    """Text from which `from_formula`, with the symbols of the expression, makes the same expression, bit for bit.

    Raises
    ------
    ValueError
        If the expression holds something that `from_formula` does not read, or is too large for it.
    """
    symbols = {symbol.name: symbol for symbol in expression.free_symbols if isinstance(symbol, sp.Symbol)}
    text = _write(expression, set(symbols))
    if len(symbols) < len(expression.free_symbols) or from_formula(text, symbols) != expression:
        raise ValueError(f"{text[:80]!r} does not read as the SymPy expression that it was written from.")
    return text


def _write(node: sp.Basic, symbols: set[str]) -> str:
    def arguments(items: Sequence[sp.Basic]) -> str:
        return ", ".join(_write(item, symbols) for item in items)

    def joined(sign: str) -> str:
        return sign.join(_atomic(item, symbols) for item in node.args)

    match node:
        case sp.Symbol(name=name) if is_plain_name(name):
            return str(name)
        case sp.Integer() | sp.Rational():
            return str(node)
        case sp.Float():
            return _write_float(node)
        case _ if node in (sp.true, sp.false):
            return str(bool(node))
        case _ if node in _NAME_OF_CONSTANT and _NAME_OF_CONSTANT[node] not in symbols:
            return _NAME_OF_CONSTANT[node]
        case sp.Add():
            return joined(" + ")
        case sp.Mul():
            return joined("*")
        case sp.Pow():
            return joined("**")
        case sp.Piecewise():
            return f"Piecewise({arguments(node.args)})"
        case ExprCondPair():
            return f"({arguments(node.args)})"
        case sp.And() | sp.Or() | sp.Not() | sp.Equality() | sp.Unequality():
            return f"{type(node).__name__}({arguments(node.args)})"
        case _ if type(node) in _SIGNS:
            return joined(f" {_SIGNS[type(node)]} ")
        case _ if getattr(node, "func", None) in _NAME_OF:
            return f"{_NAME_OF[node.func]}({arguments(node.args)})"
    raise ValueError(f"the text of a SymPy expression cannot hold {type(node).__name__} ({str(node)[:60]}).")


def _atomic(node: sp.Basic, symbols: set[str]) -> str:
    text = _write(node, symbols)
    plain = re.fullmatch(r"\w+", text) or (getattr(node, "func", None) in _NAME_OF and not node.is_Atom)
    return text if plain else f"({text})"


def _write_float(number: sp.Float) -> str:
    if not number.is_finite:
        raise ValueError(f"the text of a SymPy expression cannot hold {number}.")
    if number._prec == 53 and sp.Float(float(number)) == number:
        return repr(float(number))
    sign, mantissa, exponent, _ = number._mpf_
    return f"Float({-int(mantissa) if sign else int(mantissa)}, {exponent}, {number._prec})"
