"""Which depths and temperatures the closed forms cover."""

from __future__ import annotations

__all__ = ["deep_linear_refusal"]


def deep_linear_refusal(depth: int, tau: float) -> str | None:
    """Why a linear network is not solved on data at this depth and temperature; None if it is."""
    if depth == 1 or tau == 0.0:
        return None
    return (
        f"linear networks of depth {depth} are solved in closed form at tau = 0 only, got tau = {tau:g}: set tau = 0, "
        "or depth = 1"
    )
