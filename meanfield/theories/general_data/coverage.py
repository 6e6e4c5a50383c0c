"""Which unbounded activations are solved on data."""

from __future__ import annotations

from meanfield.activations.activation import Activation

__all__ = ["MAX_UNKNOWNS", "piecewise_refusal"]

MAX_UNKNOWNS = 6000  # P m of unbounded nonlinear networks on data


def piecewise_refusal(phi: Activation, unknowns: int) -> str | None:
    """Why an unbounded nonlinear phi is not solved on data with P m unknowns; None if it is."""
    pieces = phi.pieces
    if pieces is None or pieces.breaks != (0.0,) or any(pieces.intercepts):
        return (
            f"{phi!r} is not treated here: unbounded networks on data need phi(z) = s_- z for z < 0 and s_+ z for "
            "z > 0 (relu, leaky_relu), or scaling='lazy'; bounded activations are all available"
        )
    if unknowns > MAX_UNKNOWNS:
        return f"P m = {unknowns} unknowns are more than {MAX_UNKNOWNS}; use fewer samples or outputs"
    return None
