"""What a file claims of a sweep: shapes, weights, and the equations at its certified points."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from meanfield.phases.grid import checked_axes
from meanfield.phases.kept import has_kept
from meanfield.phases.raster import TEXTS, PointArrays
from meanfield.posterior.claims import check_weights, real_arrays
from meanfield.posterior.swept import Swept
from meanfield.theories.single_layer.claims import check_posterior
from meanfield.theories.single_layer.compiled.sweep import CONVERGED, NUMBERS
from meanfield.theories.single_layer.limit import STATUS
from meanfield.theories.single_layer.posterior import SingleNeuronPosterior
from meanfield.validation import real_number

__all__ = ["check_diagram", "check_points"]

_MOST_POINTS = 200  # of a diagram whose equations are recomputed


def check_points(points: PointArrays, count: int, classes: int, outputs: int) -> None:
    """Refuse arrays of a sweep whose shapes do not fit, and certified points with weights that are none.

    Raises
    ------
    ValueError
    """
    arrays = points.arrays()
    for name in TEXTS:
        told = arrays.pop(name, None)
        if told is not None and (told.dtype.kind != "U" or told.shape != (count,)):
            raise ValueError(f"its {name}s are {told.dtype} of shape {told.shape}, expected {count} texts.")
    real_arrays(arrays)
    whole = np.array([has_kept(points.packed, i) for i in range(count)], dtype=bool)
    kept = arrays.pop("kept", np.empty((count, 0)))
    if kept.ndim != 2 or len(kept) != count:
        raise ValueError(f"its kept numbers have shape {kept.shape}, expected {count} rows.")
    codes, outliers = (arrays[name].shape[1:2] for name in ("weight", "outlier_weight"))
    slots = arrays["covariance"].shape[1:2]
    shapes: dict[str, tuple[int, ...]] = {
        "t": (classes, outputs),
        "weight": codes,
        "readout": (*codes, outputs),
        "outlier_weight": outliers,
        "outlier_direction": (*outliers, outputs),
        "covariance": (*slots, outputs, outputs),
        "gaussian_covariance": (outputs, outputs),
        "numbers": (len(NUMBERS),),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != (count, *shape):
            raise ValueError(f"its {name} has shape {arrays[name].shape}, expected {(count, *shape)}.")
    if slots not in ((0,), codes):
        raise ValueError(f"its covariance has shape {arrays['covariance'].shape}, which does not fit the weights.")
    status = points.column("status")
    if not np.isin(status, range(len(STATUS))).all():
        raise ValueError("it has points of unknown status.")
    good = status == CONVERGED
    for name, width in (("n_codes", codes), ("n_outliers", outliers)):
        number = points.column(name)[good]
        if not (np.isin(number, np.arange(width[0] + 1)).all() if width else not number.any()):
            raise ValueError(f"its {name} do not fit the arrays.")
    for name in ("weight", "outlier_weight"):
        check_weights(f"{name}s", arrays[name][good].ravel(), None)
    linear = np.isfinite(arrays["gaussian_covariance"]).all(axis=(1, 2)) | (whole & (points.column("n_codes") == 0))
    total = arrays["weight"][good & ~linear].sum(axis=1)
    if not (np.abs(total - 1.0) <= 1e-6).all():
        raise ValueError("the weights of some of its points do not sum to 1.")
    for name in ("t", "numbers"):
        if name == "t" and not np.isfinite(arrays[name][good]).all():
            raise ValueError(f"its {name} is not finite at some certified points.")
    levels = points.column("level")[good & ~whole]
    if not (np.isfinite(points.column("objective")[good]).all() and np.isfinite(levels).all()):
        raise ValueError("its objective or level is not finite at some certified points.")


class Pointwise(Swept, Protocol):
    """A diagram with the numbers that it is made of."""

    @property
    def points(self) -> PointArrays: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


def check_diagram(diagram: Pointwise) -> None:
    """Refuse a diagram whose certified points do not solve their equations (all of them, or 200 spread evenly).

    Raises
    ------
    ValueError
    """
    real_number("tau", diagram.tau, at_least=0.0)
    checked_axes(dict(diagram.axes))
    count = math.prod(diagram.shape)
    check_points(diagram.points, count, diagram.task.n_classes, diagram.task.n_outputs)
    good = np.flatnonzero(diagram.certified.ravel())
    chosen = (
        good[np.unique(np.linspace(0, good.size - 1, min(good.size, _MOST_POINTS)).astype(int))] if good.size else ()
    )
    for i in chosen:
        try:
            found = diagram.posterior(int(i) if len(diagram.shape) == 1 else np.unravel_index(i, diagram.shape))
            if not has_kept(diagram.points.packed, int(i)):  # what is kept whole was checked as it was restored
                assert isinstance(found, SingleNeuronPosterior)
                check_posterior(found)
        except ValueError as error:
            raise ValueError(f"point {i}: {error}") from error
