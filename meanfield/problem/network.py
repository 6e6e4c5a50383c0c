"""The network and its prior: activation, depth, prior scales, scaling of the readout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from meanfield.activations.activation import Activation, activation
from meanfield.activations.builtin import names
from meanfield.validation import real_number

if TYPE_CHECKING:
    import sympy

_SCALINGS = ("non-lazy", "lazy")


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
        The readout prior is N(0, sigma_a^2 / P^(1/L)) per weight.
    sigma_w : float
        Scale of the weights of every hidden layer; a first-layer kernel K_0 = k 1 has k = sigma_w^2 for inputs with
        |x|^2 = N_0.
    scaling : {"non-lazy", "lazy"}
        Readout divided by N (mean-field, representations learn) or by sqrt(N).

    Raises
    ------
    ValueError
        For an unknown activation or scaling, scales that are not positive, a depth that is not a positive integer.

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

    if TYPE_CHECKING:

        def __init__(
            self,
            activation: str | Activation | sympy.Expr,
            depth: int = 1,
            sigma_a: float = 1.0,
            sigma_w: float = 1.0,
            scaling: str = "non-lazy",
        ) -> None: ...

    def __post_init__(self) -> None:
        if isinstance(self.depth, bool) or not isinstance(self.depth, (int, np.integer)) or self.depth < 1:
            raise ValueError(f"depth, the number of hidden layers, must be an integer >= 1, got {self.depth!r}.")
        if self.scaling not in _SCALINGS:
            raise ValueError(f"scaling must be one of {_SCALINGS}, got {self.scaling!r}.")
        values = {
            "activation": activation(cast(Any, self.activation)),
            "depth": int(self.depth),
            "sigma_a": real_number("sigma_a", self.sigma_a, above=0),
            "sigma_w": real_number("sigma_w", self.sigma_w, above=0),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def k(self) -> float:
        """Variance sigma_w^2 of a preactivation of the first layer under the prior."""
        return self.sigma_w**2

    def with_(self, **changes: Any) -> Network:
        """The same network with some parameters replaced; names the network does not have go to its activation.

        Raises
        ------
        ValueError
            For a name that neither the network nor its activation has, and as for the class itself.
        """
        own = {"activation", "depth", "sigma_a", "sigma_w", "scaling"}
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

    def to_dict(self) -> dict[str, Any]:
        """The network as numbers and strings, for a JSON header; a nonlinearity of the user's as SymPy text."""
        phi = self.activation
        described: dict[str, Any] = {"name": phi.name, "parameters": phi.parameters}
        if phi.name not in names() or activation(phi.name, **phi.parameters) != phi:
            import sympy as sp

            described |= {"expression": sp.srepr(phi.formula), "symbol": phi.symbol.name}
        own = {name: getattr(self, name) for name in ("depth", "sigma_a", "sigma_w", "scaling")}
        return {"activation": described} | own

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Network:
        """Inverse of `to_dict`; ValueError if the text of the nonlinearity is not one."""
        described = values["activation"]
        if "expression" not in described:
            phi = activation(described["name"], **described["parameters"])
        else:
            from meanfield.symbolic.text import from_srepr

            expression = from_srepr(described["expression"])
            symbol = next(s for s in expression.free_symbols if s.name == described["symbol"])
            phi = Activation(expression, symbol, name=described["name"], parameters=described["parameters"])
        return cls(**{**values, "activation": phi})

    def __repr__(self) -> str:
        return (
            f"Network({self.activation!r}, depth={self.depth}, sigma_a={self.sigma_a:.6g}, sigma_w={self.sigma_w:.6g}, "
            f"scaling={self.scaling!r})"
        )
