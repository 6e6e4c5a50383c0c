"""What is drawn over one parameter of a phase diagram: code weights, overlaps of outliers, variances."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from meanfield.phases.boundaries import Boundaries
from meanfield.phases.diagram import PhaseDiagram
from meanfield.validation import FloatArray

__all__ = ["LINE_QUANTITIES", "boundaries", "line_quantities", "orbits"]

# By what the posterior can have: name of the quantity in `line_quantities`, and of its keys.
LINE_QUANTITIES = {
    "codes": (r"code weight $P_\gamma$", "code"),
    "outliers": ("outlier overlap $M_{cc'}$", "$(c, c')$"),
    "gaussian": ("readout variance $U_{rr}$", ""),
}


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


def boundaries(diagram: PhaseDiagram) -> Boundaries:
    """`PhaseDiagram.boundaries`."""
    return diagram.boundaries()
