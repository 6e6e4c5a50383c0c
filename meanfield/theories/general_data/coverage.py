"""Which unbounded activations are solved on data, and from where."""

from __future__ import annotations

from meanfield.activations.activation import Activation

__all__ = ["MAX_SAMPLED", "MAX_UNKNOWNS", "asymptote", "homogeneous", "piecewise_refusal", "unbounded_refusal"]

MAX_UNKNOWNS = 6000  # P m of unbounded nonlinear networks on data
MAX_SAMPLED = 5000  # P m up to which the exact measure is sampled (a matrix of that size is factorised)


def homogeneous(phi: Activation) -> bool:
    """Whether phi(z) = s_- z for z < 0 and s_+ z for z > 0."""
    pieces = phi.pieces
    return pieces is not None and pieces.breaks == (0.0,) and not any(pieces.intercepts)


def asymptote(phi: Activation) -> Activation:
    """The homogeneous function with the slopes that phi has far away."""
    import sympy as sp

    z = sp.Symbol("z", real=True)
    left, right = (sp.Float(s) for s in phi.slopes)
    return Activation(sp.Piecewise((right * z, z > 0), (left * z, True)), z)


def unbounded_refusal(phi: Activation, unknowns: int) -> str | None:
    """Why an unbounded nonlinear phi is not solved on data with P m unknowns; None if it is."""
    if homogeneous(phi):
        return piecewise_refusal(phi, unknowns)
    left, right = phi.slopes
    if left == right:
        return (
            f"{phi!r} is nearly {right:g} z far away: outliers of unbounded networks on data need different slopes on "
            "either side (relu, softplus, gelu), or scaling='lazy'; bounded activations are all available"
        )
    if unknowns > MAX_SAMPLED:
        return (
            f"P m = {unknowns} unknowns are more than {MAX_SAMPLED}, up to which phi that are neither bounded nor "
            "piecewise linear are solved on samples; use fewer samples or outputs, or relu"
        )
    return None


def piecewise_refusal(phi: Activation, unknowns: int) -> str | None:
    """Why the closed forms of s_- z for z < 0 and s_+ z for z > 0 do not solve it with P m unknowns; None if so."""
    if not homogeneous(phi):
        return f"{phi!r} is not treated here: phi(z) = s_- z for z < 0 and s_+ z for z > 0 is (relu, leaky_relu)"
    if unknowns > MAX_UNKNOWNS:
        return f"P m = {unknowns} unknowns are more than {MAX_UNKNOWNS}; use fewer samples or outputs"
    return None
