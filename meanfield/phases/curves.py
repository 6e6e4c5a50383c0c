"""What is drawn over one parameter of a phase diagram: code weights, overlaps of outliers, variances."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from meanfield.phases.boundaries import Boundaries
from meanfield.phases.diagram import PhaseDiagram
from meanfield.posterior.division import ByCode, OfOneGaussian, WithOutliers
from meanfield.validation import FloatArray

__all__ = ["LINE_QUANTITIES", "boundaries", "line_quantities", "orbits"]

# By the parts of phi: name of the quantity in `line_quantities`, and of its keys.
LINE_QUANTITIES = {
    parts: (division.quantity, division.key)
    for parts, division in (("codes", ByCode), ("outliers", WithOutliers), ("gaussian", OfOneGaussian))
}


def line_quantities(diagram: PhaseDiagram) -> dict[str, FloatArray]:
    """What characterises the phases over one parameter: the weight of each code ("1-1-0").

    With outliers the overlap M_cc' of the classes in them ("(1, 2)"), for the analog scheme the readout variances U_rr:
    what the `Division` of the network says.
    """
    return diagram.division.line(diagram)


def orbits(quantities: Mapping[str, FloatArray]) -> list[tuple[list[str], FloatArray]]:
    """Names and values, joined where the values are the same everywhere (an orbit under exchange of classes)."""
    joined: list[tuple[list[str], FloatArray]] = []
    for name, values in quantities.items():
        for names, other in joined:
            if np.allclose(values, other, rtol=0, atol=1e-6, equal_nan=True):
                names.append(name)
                break
        else:
            joined.append(([name], values))
    return joined


def boundaries(diagram: PhaseDiagram) -> Boundaries:
    """`PhaseDiagram.boundaries`."""
    return diagram.boundaries()
