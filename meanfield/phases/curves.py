"""Curves of a phase diagram: code weights along a line, exact phase boundaries in a plane."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from meanfield.phases.diagram import PhaseDiagram
from meanfield.phases.raster import PointArrays
from meanfield.posterior.certificate import ConvergenceError
from meanfield.theories.single_layer.transitions.acceptance import Transition
from meanfield.theories.single_layer.transitions.boundary import Boundary, trace_boundary
from meanfield.validation import FloatArray

__all__ = ["LINE_QUANTITIES", "boundaries", "line_quantities", "orbits"]

# By what the posterior can have: name of the quantity in `line_quantities`, and of its keys.
LINE_QUANTITIES = {
    "codes": (r"code weight $P_\gamma$", "code"),
    "outliers": ("outlier overlap $M_{cc'}$", "$(c, c')$"),
    "gaussian": ("readout variance $U_{rr}$", ""),
}
_SAME_PLACE = 1e-6


def line_quantities(diagram: PhaseDiagram) -> dict[str, FloatArray]:
    """What characterises the phases over one parameter: the weight of each code ("1-1-0").

    With outliers the overlap M_cc' of the classes in them ("(1, 2)"), for the analog scheme the readout variances U_rr.

    M_cc' = sum_o phi(zbar_oc) phi(zbar_oc') is unique, single outliers need not be (phases/THEORY.md, "ReLU").
    """
    if diagram.network.activation.parts == "gaussian":
        covariance = [diagram.posterior(i).readout_covariance for i in range(*diagram.shape)]
        return {f"output {r + 1}": np.array([u[r, r] for u in covariance]) for r in range(diagram.task.n_outputs)}
    if diagram.network.activation.parts == "codes":
        return {"-".join(pattern): diagram.weights(pattern) for pattern in diagram.codes}
    overlap = np.full((*diagram.shape, diagram.task.n_classes, diagram.task.n_classes), np.nan)
    for i in np.flatnonzero(diagram.certified):
        active = np.array([outlier.activation for outlier in diagram.posterior(int(i)).outliers])
        overlap[i] = active.T @ active if active.size else 0.0
    labels = diagram.task.class_names
    pairs = [(c, d) for c in range(len(labels)) for d in range(c, len(labels))]
    pairs.sort(key=lambda pair: pair[0] != pair[1])
    return {f"({labels[c]}, {labels[d]})": overlap[:, c, d] for c, d in pairs}


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


def boundaries(diagram: PhaseDiagram, n_rows: int = 8) -> tuple[Boundary, ...]:
    """Boundaries that cross one of `n_rows` rows, evenly spaced in the second parameter (at least two values).

    A boundary that lies between two rows entirely (an island) is missed; the raster still shows it.

    Raises
    ------
    ValueError
        Unless the diagram has two axes.
    """
    if len(diagram.axes) != 2:
        raise ValueError(f"boundaries are curves in a plane, but the diagram has the axes {list(diagram.axes)}.")
    second, values = list(diagram.axes.items())[1]
    limits = {name: (float(axis.min()), float(axis.max())) for name, axis in diagram.axes.items()}
    found: list[Boundary] = []
    rows = np.floor((np.arange(n_rows) + 0.5) / n_rows * len(values)).astype(int)
    # Boundaries end just inside the limits, where the first and the last row are.
    for j in np.unique(np.clip(rows, 1, max(1, len(values) - 2))):
        for transition in _row(diagram, int(j)).transitions():
            if not hasattr(transition, "network"):  # of a deep network: located, not traced; the raster has its border
                continue
            if not any(_crosses(boundary, transition, second, float(values[j])) for boundary in found):
                try:
                    found.append(trace_boundary(transition, second, limits, longest=0.05))
                except ConvergenceError:
                    continue  # a picture with one curve less, not a wrong one
    return tuple(found)


def _row(diagram: PhaseDiagram, j: int) -> PhaseDiagram:
    """The points with the j-th value of the second parameter, as a diagram over the first."""
    first, values = next(iter(diagram.axes.items()))
    network, task, tau = diagram.problem((0, j))
    index = np.ravel_multi_index((np.arange(len(values)), j), diagram.shape)
    points = PointArrays(**{name: array[index] for name, array in diagram.points.arrays().items()})
    return PhaseDiagram(network, task, tau, {first: values}, points)


def _crosses(boundary: Boundary, transition: Transition, second: str, value: float) -> bool:
    return any(
        other.kind == transition.kind and abs(other.value - transition.value) < _SAME_PLACE
        for other in boundary.at(second, value)
    )
