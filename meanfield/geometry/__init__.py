"""Geometry of representations: manifold capacity and its factors, and what they are usually compared with.

Arrays in, numbers out; nothing here knows about networks. A representation of P classes is a set of point clouds, one
array of shape (points, neurons) per class, or a tuple ``(X, labels)``.

>>> import meanfield.geometry as geometry
>>> manifolds = geometry.spherical_manifolds(P=4, N=100, M=50, D=5, R=0.5, seed=0)
>>> result = geometry.glue(manifolds, seed=0)
>>> result.n_manifolds
4
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "clouds": ("group_by_label", "spherical_manifolds"),
    "cones": ("ConeProjection", "project_onto_cone"),
    "descriptors": ("AnchorPoints", "Glue", "anchor_points", "capacity", "glue"),
    "simulation": ("SimulatedCapacity", "simulated_capacity"),
    "replica": ("ReplicaCapacity", "replica_capacity", "replica_manifold"),
    "centers": ("CenterComponents", "center_correlation", "remove_center_components"),
    "closed_forms": ("Estimate", "ball_capacity", "ellipsoid_capacity", "point_capacity"),
    "one_step": ("one_step_capacity",),
    "comparators": (
        "NeuralCollapse",
        "cka",
        "kernel_target_alignment",
        "neural_collapse",
        "participation_ratio",
        "weight_change",
    ),
    "trajectories": ("Trajectory", "trajectory"),
    "results": ("Result", "load"),
    "plot": (
        "plot_alignment",
        "plot_anchors",
        "plot_factors",
        "plot_radius_dimension",
        "plot_separability",
        "plot_summary",
        "plot_trajectory",
    ),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE)


def __getattr__(name: str) -> Any:
    if name in _MODULE:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULE[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
