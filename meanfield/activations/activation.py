"""Nonlinearities phi: one SymPy expression each, with everything the theory needs derived from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meanfield.activations import derived
from meanfield.activations.builtin import definition
from meanfield.activations.facts import Facts, Pieces, facts_of_pieces, facts_of_values
from meanfield.validation import FloatArray, real_number, short

if TYPE_CHECKING:
    import sympy as sp

__all__ = ["Activation", "activation", "activation_of_formula"]

# Of each built-in: (phi, phi', remainders below and above 0), shape, default parameters.
DERIVED: dict[str, tuple[Any, Any, dict[str, float]]] = derived.DERIVED


# A user's expression, in the symbols of `_expression`, and the name of its variable; (None, "") for a built-in.
Source = tuple["sp.Expr | None", str]


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Activation:
    """A nonlinearity phi(z), given by a SymPy expression.

    Parameters
    ----------
    expression : SymPy expression of one real variable, for example ``z / (1 + sympy.Abs(z))``.
    symbol : the variable z in it.
    name : what to call it in tables and plots; the expression itself if not given.
    parameters : values of the other symbols of the expression, by symbol or name; they can be swept.

    Attributes
    ----------
    name : str
    kinks : tuple of float
        Points where phi is not analytic, ascending.
    limits : (float, float)
        phi(-inf) and phi(+inf); NaN where phi keeps oscillating.
    slopes : (float, float)
        lim phi(z) / z for z -> -inf and z -> +inf.
    infimum, supremum : float
        Range of phi; that for |z| < 500 where it oscillates without a period.
    midpoint : float or None
        Centre of the range, the threshold of "active" in a code; None where phi is unbounded.
    parity : str or None
        "odd", "even", "complement" (phi(-z) = 2 c - phi(z) with c != 0) or None.
    complement : float or None
        c in phi(-z) = 2 c - phi(z), so that G(-kappa) = G(kappa) - 2 c kappa; 0 for odd phi; None without symmetry.
    piecewise_linear : bool
    growth : (float, float)
        g_minus and g_plus in G(kappa) ~ k g kappa**2 / 2 for kappa -> -inf and +inf.
    parts : str
        What the growth of G lets the single-neuron posterior have: "codes" (no growth), "outliers" (growth on some
        side) or "gaussian" (phi affine: growth is all there is). See
        single_layer/THEORY.md, "Growth of G decides the scheme".

    Raises
    ------
    ValueError
        If phi is not real, not finite at some point, constant, grows faster than linearly, has no asymptotic slope, or
        a symbol has no value.

    Notes
    -----
    Instances are immutable, hashable (two of the same expression and parameters are equal) and can be pickled.
    """

    name: str
    _items: tuple[tuple[str, float], ...]
    _source: Source
    _facts: Facts
    # NumPy source of phi, phi' and phi - slope * z for z < 0 and z > 0 ("" where that slope is 0); () for a built-in.
    _code: tuple[str, ...]

    def __init__(
        self,
        expression: sp.Expr,
        symbol: sp.Symbol,
        *,
        name: str | None = None,
        parameters: Mapping[str, float] | Mapping[sp.Symbol, float] | None = None,
    ) -> None:
        import sympy as sp

        if not isinstance(expression, sp.Expr) or not isinstance(symbol, sp.Symbol):
            raise ValueError(
                f"an Activation needs a SymPy expression and its symbol, got {short(expression)} and {short(symbol)}."
            )
        if not isinstance(parameters, Mapping | None):
            raise ValueError(f"parameters must map names to numbers, got {short(parameters)}.")
        items = tuple(sorted((str(key), _number(str(key), value)) for key, value in (parameters or {}).items()))
        source = _canonical(*_plain(expression, symbol), items)
        facts, code = _derive(*source, items)
        self._set(name or str(expression), items, source, facts, code)

    def _set(
        self,
        name: str,
        items: tuple[tuple[str, float], ...],
        source: Source,
        facts: Facts,
        code: tuple[str, ...],
    ) -> None:
        for key, value in zip(("name", "_items", "_source", "_facts", "_code"), (name, items, source, facts, code)):
            object.__setattr__(self, key, value)

    @classmethod
    def _builtin(cls, name: str, items: tuple[tuple[str, float], ...]) -> Activation:
        self = object.__new__(cls)
        self._set(name, items, (None, ""), _builtin_facts(name, items), ())
        return self

    # What identifies a nonlinearity: a user's name for it does not.
    def _key(self) -> tuple[object, ...]:
        return (self._items, self.name) if self._source[0] is None else (self._items, self._source)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Activation) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        inside = ", ".join([repr(self.name), *(f"{key}={value:g}" for key, value in self._items)])
        return f"{'activation' if self._source[0] is None else 'Activation'}({inside})"

    @property
    def parameters(self) -> dict[str, float]:
        """Parameters of phi and their values (a copy)."""
        return dict(self._items)

    def with_parameters(self, **parameters: float) -> Activation:
        """The same nonlinearity with some parameters changed.

        Raises
        ------
        ValueError
            If phi has no parameter of that name, or the value is not allowed.
        """
        new = self.parameters
        for key, value in parameters.items():
            if key not in new:
                raise ValueError(f"{self.name} has no parameter {key!r}; it has {', '.join(new) or 'none'}")
            new[key] = _number(key, value)
        if self._source[0] is None:
            return activation(self.name, **new)
        items = tuple(sorted(new.items()))
        source = _canonical(*self._source, items)
        facts, code = _derive(*source, items)
        changed = object.__new__(Activation)
        changed._set(self.name, items, source, facts, code)
        return changed

    @property
    def symbol(self) -> sp.Symbol:
        """The real SymPy symbol of the preactivation in `expression`."""
        import sympy as sp

        return sp.Symbol(self._source[1] or "z", real=True)

    @property
    def expression(self) -> sp.Expr:
        """phi as a SymPy expression of `symbol`, parameters replaced by their values."""
        expression, _, values = _expression(self.name, self._source, self._items)
        return expression.subs(values)

    @property
    def formula(self) -> sp.Expr:
        """phi as a SymPy expression of `symbol` and of symbols for its parameters."""
        if self._source[0] is not None:
            return self._source[0]
        z, symbols = _symbols("", self._items)
        return _builtin_formula(self.name, z, tuple(symbols.items()))

    @property
    def kinks(self) -> tuple[float, ...]:
        return self._facts.kinks

    @property
    def reach(self) -> tuple[float, float]:
        """Where the list of endless kinks (floor, |sin z|) stops, below and above; infinite for any other phi."""
        left, right = self._facts.endless
        return (self.kinks[0] if left else -math.inf, self.kinks[-1] if right else math.inf)

    @property
    def limits(self) -> tuple[float, float]:
        return self._facts.limits

    @property
    def slopes(self) -> tuple[float, float]:
        return self._facts.slopes

    @property
    def intercepts(self) -> tuple[float, float]:
        """lim phi(z) - s z for z -> -inf and +inf, s the slope there; infinite or NaN where there is no asymptote."""
        return self._facts.intercepts

    @property
    def infimum(self) -> float:
        return self._facts.infimum

    @property
    def supremum(self) -> float:
        return self._facts.supremum

    @property
    def bounded(self) -> bool:
        """Whether the range of phi is finite."""
        return math.isfinite(self.infimum) and math.isfinite(self.supremum)

    @property
    def midpoint(self) -> float | None:
        return 0.5 * (self.infimum + self.supremum) if self.bounded else None

    @property
    def complement(self) -> float | None:
        return self._facts.complement

    @property
    def parity(self) -> str | None:
        if self._facts.even:
            return "even"
        if self.complement is None:
            return None
        return "odd" if self.complement == 0.0 else "complement"

    @property
    def piecewise_linear(self) -> bool:
        return self._facts.pieces is not None

    @property
    def pieces(self) -> Pieces | None:
        """Breaks, intercepts and slopes of a piecewise linear phi, else None."""
        return self._facts.pieces

    @cached_property
    def growth(self) -> tuple[float, float]:
        left, right = self.slopes
        return max(0.0, -right, left) ** 2, max(0.0, right, -left) ** 2

    @cached_property
    def parts(self) -> str:
        if self.pieces is not None and not self.kinks:
            return "gaussian"
        return "outliers" if max(self.growth) > 0.0 else "codes"

    def __call__(self, z: ArrayLike) -> NDArray[np.float64]:
        """phi(z), elementwise."""
        return self._evaluate(0, z)

    def derivative(self, z: ArrayLike) -> NDArray[np.float64]:
        """phi'(z) wherever it exists, elementwise (a jump counts as 0)."""
        return self._evaluate(1, z)

    def remainder(self, z: ArrayLike) -> NDArray[np.float64]:
        """phi(z) - s z with s = slopes[z > 0], where possible without cancellation; elementwise."""
        at = np.asarray(z, dtype=float)
        values = np.empty(at.shape)
        for order, side in ((2, at < 0.0), (3, at >= 0.0)):
            slope = self.slopes[order - 2]
            written = self._code[order] if self._code else DERIVED[self.name][0][order]
            values[side] = self._evaluate(order, at[side]) if written else self(at[side]) - slope * at[side]
        return values

    def _evaluate(self, order: int, z: ArrayLike) -> NDArray[np.float64]:
        at = np.asarray(z, dtype=float)
        if self._code:
            return _evaluate_source(self._code[order], at, order, self._source, self._items)
        with np.errstate(all="ignore"):
            values = DERIVED[self.name][0][order](at, **self.parameters)
        if getattr(values, "shape", None) == at.shape and values.dtype == float and values.flags.owndata:
            return values if values is not at else at.copy()
        return np.array(np.broadcast_to(values, at.shape), dtype=float)


def activation(name: str | Activation | sp.Expr, **parameters: float) -> Activation:
    """A nonlinearity by name, or from a SymPy expression of one symbol.

    Parameters
    ----------
    name : a built-in name ("sigmoid", "relu", "tanh", ...), an `Activation`, or a SymPy expression whose only symbols
        are the preactivation and those in `parameters`.
    **parameters : values of its parameters (gain, slope, ...).

    Raises
    ------
    ValueError
        If the name or a parameter is unknown, or the nonlinearity cannot be used (see `Activation`).

    Examples
    --------
    >>> from meanfield.activations.activation import activation
    >>> activation("hard_tanh", gain=2.0).kinks
    (-0.5, 0.5)
    """
    if isinstance(name, Activation):
        return name.with_parameters(**parameters) if parameters else name
    if not isinstance(name, str):
        import sympy as sp

        if not isinstance(name, sp.Expr):
            raise ValueError(f"an activation must be a name, an Activation or a SymPy expression, got {short(name)}.")
        free = [s for s in getattr(name, "free_symbols", ()) if str(s) not in parameters]
        if len(free) != 1:
            raise ValueError(f"cannot tell which symbol of {name!r} is the preactivation; use Activation(expr, symbol)")
        return Activation(name, free[0], parameters=parameters)
    defaults = DERIVED[name][2] if name in DERIVED else definition(name).PARAMETERS
    for key in parameters:
        if key not in defaults:
            raise ValueError(f"{name} has no parameter {key!r}; it has {', '.join(defaults) or 'none'}")
    values = {key: _number(key, parameters.get(key, default)) for key, default in defaults.items()}
    if "gain" in values and not values["gain"] > 0.0:
        raise ValueError(f"the gain of {name} must be positive, got {values['gain']}")
    return _cached_builtin(name, tuple(sorted(values.items())))


def activation_of_formula(
    text: str, parameters: Mapping[str, float], *, symbol: str = "z", name: str | None = None
) -> Activation:
    """A nonlinearity from a formula of a file, a task file or the command line, which is data and never executed.

    Parameters
    ----------
    text : formula in `symbol` and the parameters, see `meanfield.symbolic.text`.
    parameters : their values.
    symbol : name of the preactivation.
    name : the formula if not given.

    Raises
    ------
    ValueError
        If `text` is no such formula, and as for `Activation`.
    """
    from meanfield.symbolic.text import from_formula, is_plain_name

    for word in (symbol, *parameters):
        if not is_plain_name(word):
            raise ValueError(f"{short(word)} cannot be the name of a symbol or parameter; use letters, digits and _.")
    if symbol in parameters:
        raise ValueError(f"{symbol!r} is the preactivation and cannot be a parameter, too.")
    items = tuple((key, _number(key, value)) for key, value in parameters.items())
    z, symbols = _symbols(symbol, items)
    return Activation(from_formula(text, {symbol: z, **symbols}), z, name=name or text, parameters=dict(items))


@lru_cache(maxsize=4096)
def _cached_builtin(name: str, items: tuple[tuple[str, float], ...]) -> Activation:
    if name in DERIVED:
        return Activation._builtin(name, items)
    import sympy as sp

    z = sp.Symbol("z", real=True)
    symbols = {key: sp.Symbol(key, real=True) for key, _ in items}
    return Activation(definition(name).expression(z, **symbols), z, name=name, parameters=dict(items))


def _number(name: str, value: object) -> float:
    return real_number(f"parameter {name}", value)


def _facts_of(value: Callable[[FloatArray], FloatArray], shape: dict[str, Any]) -> Facts:
    if "pieces" in shape:
        return facts_of_pieces(Pieces(*(tuple(float(x) for x in part) for part in shape["pieces"])))
    return facts_of_values(value, **shape)


def _builtin_facts(name: str, items: tuple[tuple[str, float], ...]) -> Facts:
    (value, *_), shape, _ = DERIVED[name]
    parameters = dict(items)

    def phi(z: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(all="ignore"):
            return np.asarray(value(z, **parameters))

    facts = _facts_of(phi, shape(**parameters))
    if facts.infimum == facts.supremum:
        raise ValueError(f"{name} with {parameters} is constant: no neuron could respond to anything")
    return facts


def _plain(expression: sp.Expr, symbol: sp.Symbol) -> tuple[sp.Expr, str]:
    """The expression as source code may hold it, and the name of its variable there: "z" for a name that is none."""
    import sympy as sp

    from meanfield.symbolic.source import printable
    from meanfield.symbolic.text import is_plain_name

    if is_plain_name(symbol.name):
        return printable(expression), symbol.name
    return printable(expression.subs(symbol, sp.Symbol("z", real=True))), "z"


def _canonical(expression: sp.Expr | None, name: str, items: tuple[tuple[str, float], ...]) -> Source:
    """The source with the symbols of `_expression`, so that it does not depend on how the user declared his."""
    z, symbols = _symbols(name, items)
    assert expression is not None
    # By name: SymPy tells symbols of equal names and other assumptions apart.
    renamed = {s: z if s.name == name else symbols.get(s.name, s) for s in expression.free_symbols}
    return expression.subs(renamed), name


def _symbols(name: str, items: tuple[tuple[str, float], ...]) -> tuple[sp.Symbol, dict[str, sp.Symbol]]:
    """The variable, and the parameters by their names, as every expression here has them."""
    import sympy as sp

    symbols = {key: sp.Symbol(key, positive=True) if value > 0 else sp.Symbol(key, real=True) for key, value in items}
    return sp.Symbol(name or "z", real=True), symbols


def _expression(
    name: str, source: Source, items: tuple[tuple[str, float], ...]
) -> tuple[sp.Expr, sp.Symbol, dict[sp.Symbol, sp.Expr]]:
    """phi with symbols for its parameters, its variable, and the values of the parameters (exact decimals)."""
    import sympy as sp

    z, symbols = _symbols(source[1], items)
    values = {symbols[key]: sp.Rational(repr(value)) for key, value in items}
    if source[0] is None:
        return _builtin_formula(name, z, tuple(symbols.items())), z, values
    return source[0], z, values


@lru_cache(maxsize=64)
def _builtin_formula(name: str, z: sp.Symbol, symbols: tuple[tuple[str, sp.Symbol], ...]) -> sp.Expr:
    return definition(name).expression(z, **dict(symbols))


@lru_cache(maxsize=256)
def _derive(expression: sp.Expr, symbol: str, items: tuple[tuple[str, float], ...]) -> tuple[Facts, tuple[str, ...]]:
    """Facts and NumPy source of a user's expression."""
    from meanfield.activations.derivation import derived_facts
    from meanfield.symbolic.switches import plain_switches

    source = (expression, symbol)
    formula, z, values = _expression("", source, items)
    phi = plain_switches(formula.subs(values))
    return derived_facts(phi, z, lambda code, x, order: _evaluate_source(code, x, order, source, items))


def _evaluate_source(
    code: str, z: NDArray[np.float64], order: int, source: Source, items: tuple[tuple[str, float], ...]
) -> NDArray[np.float64]:
    """A user's phi (order 0), phi' (1) or remainder (2, 3) in NumPy; where that overflows, in high precision."""
    values = np.array(_compile(code)(z), dtype=float)
    lost = ~np.isfinite(values) & np.isfinite(z)
    if lost.any():
        from meanfield.symbolic.shape import shape_of
        from meanfield.symbolic.source import high_precision, plain_derivative
        from meanfield.symbolic.switches import plain_switches

        formula, symbol, numbers = _expression("", source, items)
        phi = plain_switches(formula.subs(numbers))
        if order == 1:
            phi = plain_derivative(phi, symbol)
        elif order > 1:
            phi = phi - shape_of(phi, symbol).slopes[order - 2] * symbol
        values[lost] = high_precision(phi, symbol, z[lost])
    return values


@lru_cache(maxsize=256)
def _compile(code: str) -> Callable[[FloatArray], FloatArray]:
    from meanfield.symbolic.source import compiled_source

    function = compiled_source(code)

    def quiet(z: NDArray[np.float64]) -> FloatArray:
        with np.errstate(all="ignore"):
            values = np.asarray(function(z))
            if np.iscomplexobj(values):  # some functions of SciPy return complex numbers of imaginary part 0
                values = np.where(np.abs(values.imag) <= 1e-12 * np.abs(values), values.real, np.nan)
            return np.broadcast_to(values, z.shape)

    return quiet
