"""The network and its prior: activation, depth, prior scales, scaling of the readout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from meanfield.activations.activation import Activation, activation, activation_of_formula
from meanfield.activations.builtin import names
from meanfield.validation import entry, real_number, scale_number, short, whole_number

if TYPE_CHECKING:
    import sympy

_SCALINGS = ("non-lazy", "lazy")
_BY_LAYER = ("layer_sigmas", "width_ratios")


@dataclass(frozen=True)
class Network:
    """A fully connected network f_r(x) = (1/N) sum_i a_ir phi(z_i^L(x)) with Gaussian prior.

    Parameters
    ----------
    activation : str, Activation or SymPy expression
        phi. A string is looked up among the built-in ones (``"sigmoid"``, ``"relu"``, ...).
    depth : int
        L >= 1, number of hidden layers.
    sigma_a : float
        The readout prior is N(0, sigma_a^2 / P^beta) per weight.
    sigma_w : float
        Scale of the weights of every hidden layer; a first-layer kernel K_0 = k 1 has k = sigma_w^2 for inputs with
        |x|^2 = N_0.
    scaling : {"non-lazy", "lazy"}
        Readout divided by N (mean-field, representations learn) or by sqrt(N).
    readout_exponent : float, optional
        beta >= 0 of the readout prior. By default what keeps readouts and representations O(1) as P grows: 1 for
        bounded phi at any depth (the last layer saturates and its codes are those of one hidden layer), 1/L for phi
        that grows (linear, ReLU-like). With one hidden layer both are 1, the only value there: another beta is
        sigma_a P^((1 - beta)/2).
    layer_sigmas : tuple of float, optional
        Scales of the weights of the hidden layers 2 to L; sigma_w for all of them by default.
    width_ratios : tuple of float, optional
        N_l / N of the hidden layers 1 to L - 1, where N is the width of the last one (of f = (1/N) sum and tau = N T);
        1 for all of them by default.

    Raises
    ------
    ValueError
        For an unknown activation or scaling, scales that are not positive, a depth that is not a positive integer, a
        negative exponent, an exponent other than 1 with one hidden layer, or not L - 1 scales or widths of layers.

    Examples
    --------
    >>> Network("sigmoid", sigma_a=0.5).k
    1.0
    """

    activation: Activation
    depth: int = 1
    sigma_a: float = 1.0
    sigma_w: float = 1.0
    scaling: Literal["non-lazy", "lazy"] = "non-lazy"
    readout_exponent: float | None = None
    layer_sigmas: tuple[float, ...] | None = None
    width_ratios: tuple[float, ...] | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            activation: str | Activation | sympy.Expr,
            depth: int = 1,
            sigma_a: float = 1.0,
            sigma_w: float = 1.0,
            scaling: str = "non-lazy",
            readout_exponent: float | None = None,
            layer_sigmas: Sequence[float] | None = None,
            width_ratios: Sequence[float] | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        if not isinstance(self.scaling, str) or self.scaling not in _SCALINGS:
            raise ValueError(f"scaling must be one of {_SCALINGS}, got {short(self.scaling)}.")
        values = {
            "activation": activation(self.activation),
            "depth": whole_number("depth, the number of hidden layers,", self.depth, at_least=1, at_most=10**6),
            "sigma_a": scale_number("sigma_a", self.sigma_a),
            "sigma_w": scale_number("sigma_w", self.sigma_w),
        }
        exponent = self.readout_exponent
        if exponent is not None:
            exponent = values["readout_exponent"] = real_number("readout_exponent", exponent, at_least=0.0)
            if self.depth == 1 and exponent != 1.0:
                raise ValueError(
                    f"with one hidden layer the readout prior is N(0, sigma_a^2 / P), got readout_exponent = "
                    f"{exponent:g}; pass sigma_a * P**((1 - readout_exponent) / 2) as sigma_a instead."
                )
        for name in _BY_LAYER:
            values[name] = _by_layer(name, getattr(self, name), self.depth)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def uniform(self) -> bool:
        """Whether all hidden layers have the same width and scale of their weights."""
        return all(s == self.sigma_w for s in self.layer_sigmas or ()) and all(
            r == 1.0 for r in self.width_ratios or ()
        )

    @property
    def scales(self) -> tuple[float, ...]:
        """(L,) scale of the weights of every hidden layer."""
        return (self.sigma_w, *(self.layer_sigmas or (self.sigma_w,) * (self.depth - 1)))

    @property
    def ratios(self) -> tuple[float, ...]:
        """(L,) N_l / N of every hidden layer."""
        return (*(self.width_ratios or (1.0,) * (self.depth - 1)), 1.0)

    @property
    def k(self) -> float:
        """Variance sigma_w^2 of a preactivation of the first layer under the prior."""
        return self.sigma_w**2

    @property
    def beta(self) -> float:
        """Exponent of the readout prior N(0, sigma_a^2 / P^beta): `readout_exponent`, or its default."""
        if self.readout_exponent is not None:
            return self.readout_exponent
        return 1.0 if self.activation.bounded else 1.0 / self.depth

    def readout_variance(self, n_samples: float) -> float:
        """Prior variance sigma_a^2 / P^beta of a readout weight."""
        return self.sigma_a**2 / float(n_samples) ** self.beta

    def with_(self, **changes: Any) -> Network:
        """The same network with some parameters replaced; names the network does not have go to its activation.

        Raises
        ------
        ValueError
            For a name that neither the network nor its activation has, and as for the class itself.
        """
        own = {"activation", "depth", "sigma_a", "sigma_w", "scaling", "readout_exponent", *_BY_LAYER}
        phi = {name: value for name, value in changes.items() if name not in own}
        rest = {name: value for name, value in changes.items() if name in own}
        base = activation(rest.get("activation", self.activation))
        unknown = sorted(set(phi) - set(base.parameters))
        if unknown:
            raise ValueError(
                f"neither the network nor its activation {base.name!r} has a parameter "
                f"{', '.join(map(repr, unknown))}; there are {', '.join(sorted(own | set(base.parameters)))}."
            )
        if phi:
            rest["activation"] = base.with_parameters(**phi)
        return replace(self, **rest)

    def to_dict(self) -> dict[str, object]:
        """The network as numbers and strings, for a JSON header; a nonlinearity of the user's as a formula.

        One that no formula of `meanfield.symbolic.text` describes is marked "unreadable", with the reason: such a
        dictionary tells networks apart, but cannot be written to a file or read back.
        """
        phi = self.activation
        described: dict[str, object] = {"name": phi.name, "parameters": phi.parameters}
        if phi.name not in names() or activation(phi.name, **phi.parameters) != phi:
            from meanfield.symbolic.text import to_formula

            described["symbol"] = phi.symbol.name
            try:
                described["expression"] = to_formula(phi.formula)
            except ValueError as error:
                described |= {"expression": str(phi.formula), "unreadable": str(error)}
        own = {name: getattr(self, name) for name in ("depth", "sigma_a", "sigma_w", "scaling", "readout_exponent")}
        given = {name: list(value) for name in _BY_LAYER if (value := getattr(self, name)) is not None}
        return {"activation": described} | own | given

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Network:
        """Inverse of `to_dict`; without readout_exponent (files written before there was one) it is None.

        Raises
        ------
        ValueError
            If the text of the nonlinearity is no formula, or an entry is missing or of another type. Nothing of the
            text is executed, see `meanfield.symbolic.text`.
        """
        described = entry(values, "activation", dict)
        name, given = entry(described, "name", str), entry(described, "parameters", dict)
        parameters = {str(key): real_number(f"parameter {str(key)[:40]}", value) for key, value in given.items()}
        if "expression" not in described:
            phi = activation(name, **parameters)
        else:
            text, symbol = entry(described, "expression", str), entry(described, "symbol", str)
            phi = activation_of_formula(text, parameters, symbol=symbol, name=name)
        sigma_a, sigma_w = (entry(values, name, (int, float)) for name in ("sigma_a", "sigma_w"))
        exponent = None if values.get("readout_exponent") is None else entry(values, "readout_exponent", (int, float))
        layers = (None if values.get(name) is None else entry(values, name, list) for name in _BY_LAYER)
        return cls(phi, entry(values, "depth", int), sigma_a, sigma_w, entry(values, "scaling", str), exponent, *layers)

    def __repr__(self) -> str:
        exponent = "" if self.readout_exponent is None else f", readout_exponent={self.readout_exponent:.6g}"
        for name in _BY_LAYER:
            given = getattr(self, name)
            exponent += "" if given is None else f", {name}=({', '.join(f'{x:.6g}' for x in given)},)"
        return (
            f"Network({self.activation!r}, depth={self.depth}, sigma_a={self.sigma_a:.6g}, sigma_w={self.sigma_w:.6g}, "
            f"scaling={self.scaling!r}{exponent})"
        )


def _by_layer(name: str, value: object, depth: int) -> tuple[float, ...] | None:
    """One positive number for every hidden layer but one."""
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"{name} must be a sequence of depth - 1 = {depth - 1} numbers, got {short(value)}.")
    numbers = tuple(scale_number(name, x) for x in value)
    if len(numbers) != depth - 1:
        raise ValueError(f"{name} must have depth - 1 = {depth - 1} numbers, got {len(numbers)}.")
    return numbers
