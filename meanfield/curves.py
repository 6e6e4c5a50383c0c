"""Boundaries of planes, under the name of their first version; they live in `meanfield.phases.curves`."""

from __future__ import annotations

from meanfield.phases.curves import LINE_QUANTITIES, boundaries, line_quantities, orbits

__all__ = [
    "LINE_QUANTITIES",
    "boundaries",
    "line_quantities",
    "orbits",
]
