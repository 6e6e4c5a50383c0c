"""Networks of finite width: what a theory of N -> infinity has beyond its leading order."""

from __future__ import annotations

import math
from dataclasses import dataclass

from meanfield.validation import FloatArray, scale_number

__all__ = ["FiniteWidth", "OneLoop"]


@dataclass(frozen=True, eq=False)
class FiniteWidth:
    """What a network of N neurons per layer has on average, up to terms of order 1/N^2.

    Attributes
    ----------
    width : float
        N, of the last layer where widths differ.
    kernel, d : (L, C, C) and (L, C) arrays
        Kernels between two samples, and what the diagonal has beyond.
    outputs : (C, m) array
        On the training samples.
    second_readout : float
        <|a|^2> of a neuron.
    """

    width: float
    kernel: FloatArray
    d: FloatArray
    outputs: FloatArray
    second_readout: float


@dataclass(frozen=True, eq=False)
class OneLoop:
    """The term of order 1/N of a solution: what fluctuations of the order parameters add to it at width N.

    Attributes
    ----------
    kernel, d : (L, C, C) and (L, C) arrays
        Coefficients of 1/N of the kernels of all layers.
    outputs : (C, m) array
        Of the outputs on training samples, - tau t.
    t : (C, m) array
        Of the conjugate of the outputs.
    second_readout : float
        Of <|a|^2>.
    log_determinant : float
        L in ln p(Y) = N Phi + L + (m P / 2) ln(N / 2 pi).
    curvatures : dict of str to (float, float)
        By kind of perturbation, of the classes and of their samples: smallest relative curvature of Phi over conjugates
        and t (positive: a minimum), and largest over the kernels after that minimisation (negative: a maximum).
    limit : FiniteWidth
        The solution itself. Where it is one of finite width (rectifiers) the term belongs to that width alone.
    """

    kernel: FloatArray
    d: FloatArray
    outputs: FloatArray
    t: FloatArray
    second_readout: float
    log_determinant: float
    curvatures: dict[str, tuple[float, float]]
    limit: FiniteWidth

    def at(self, width: float) -> FiniteWidth:
        """The averages at N neurons per layer.

        Raises
        ------
        ValueError
            If width is not a positive number, or not that of a solution of finite width.
        """
        width = scale_number("width", width)
        if math.isfinite(self.limit.width) and width != self.limit.width:
            raise ValueError(
                f"this term of order 1/N is that of a solution at width {self.limit.width:g}, not {width:g}: solve at "
                "that width."
            )
        names = ("kernel", "d", "outputs", "second_readout")
        found = {name: getattr(self.limit, name) + getattr(self, name) / width for name in names}
        return FiniteWidth(width, **found)

    @property
    def stable(self) -> bool:
        """Whether Phi is a maximum over the kernels of the minimum over the conjugates in every direction, those
        included that tell classes, or samples of a class, apart that the task does not."""
        return all(inner > 0.0 and outer < 0.0 for inner, outer in self.curvatures.values())

    def __repr__(self) -> str:
        return (
            f"<OneLoop: {'stable' if self.stable else 'not stable'} against {len(self.curvatures)} kinds of "
            f"perturbations; ln p(Y) = N Phi + {self.log_determinant:.6g} + (m P / 2) ln(N / 2 pi)>"
        )
