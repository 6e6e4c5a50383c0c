"""A phase diagram as a data set of xarray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.validation import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    import xarray


__all__ = ["dataset"]


class Tabled(Protocol):
    """What of a `meanfield.phases.diagram.PhaseDiagram` goes into the data set."""

    @property
    def network(self) -> Network: ...
    @property
    def task(self) -> ClassTask: ...
    @property
    def axes(self) -> Mapping[str, FloatArray]: ...
    @property
    def objective(self) -> FloatArray: ...
    @property
    def certified(self) -> BoolArray: ...
    @property
    def kkt_residual(self) -> FloatArray: ...
    @property
    def duality_gap(self) -> FloatArray: ...
    @property
    def unique(self) -> np.ndarray: ...
    @property
    def t(self) -> FloatArray: ...
    @property
    def phase(self) -> IntArray: ...
    @property
    def phase_labels(self) -> tuple[str, ...]: ...
    @property
    def codes(self) -> tuple[str, ...]: ...
    def weights(self, pattern: str) -> FloatArray: ...


def dataset(diagram: Tabled) -> xarray.Dataset:
    """Dataset with the swept parameters as coordinates (needs the extra ``xarray``)."""
    import xarray

    dims = tuple(diagram.axes)
    data = {
        "objective": (dims, diagram.objective),
        "certified": (dims, diagram.certified),
        "kkt_residual": (dims, diagram.kkt_residual),
        "duality_gap": (dims, diagram.duality_gap),
        "unique": (dims, diagram.unique),
        "phase": (dims, diagram.phase),
        "t": ((*dims, "class", "output"), diagram.t),
    }
    if diagram.codes:
        stacked = np.stack([diagram.weights(pattern) for pattern in diagram.codes], axis=-1)
        data["weight"] = ((*dims, "code"), stacked)
    coords: dict[str, Any] = {
        name: values if values.ndim == 1 else np.arange(len(values)) for name, values in diagram.axes.items()
    }
    coords |= {"class": list(diagram.task.class_names), "code": list(diagram.codes)}
    attrs = {"phase_labels": list(diagram.phase_labels), "network": repr(diagram.network), "task": repr(diagram.task)}
    return xarray.Dataset(data, coords=coords, attrs=attrs)
