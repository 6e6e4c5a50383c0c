"""Neurons between two codes: how many there are where given shares of codes cut one from the other.

At given shares every code has the neurons of its own basin. Far from an instability the valley between two basins is
empty; close to it the answer depends on where the cut is.
"""

from __future__ import annotations

from meanfield.theories.deep.certificate import CodeCut
from meanfield.theories.deep.layers.rules import NotCovered
from meanfield.theories.deep.system import Order, System
from meanfield.validation import FloatArray

__all__ = ["code_cuts", "said_of_cuts", "said_of_layer", "said_of_words"]

_MANY = 1e-3  # share of a code's neurons at its cut, or of all between two codes, from which on it is said


def code_cuts(system: System, order: Order) -> tuple[CodeCut, ...]:
    """Of every code of given shares, the part of its neurons that are at its cut; none at equilibrium."""
    if not system.codes:
        return ()
    top = system.problem.depth - 1
    setting = system.setting(order, top)
    try:
        shares = [system.layers[top].at_cut(setting, code) for code in system.codes]
    except NotCovered:  # of no solution
        return ()
    return tuple(CodeCut(word, share) for orbit, share in zip(system.members, shares) for word in orbit)


def said_of_cuts(cuts: tuple[CodeCut, ...]) -> list[str]:
    """A note if many neurons are at a cut, else none."""
    many = [f"{100.0 * cut.share:.2g} % of {cut.pattern}" for cut in cuts if cut.share > _MANY]
    if not many:
        return []
    return [
        f"close to an instability: of the neurons of a code these are where it is cut from another, {', '.join(many)}; "
        "the answer depends on where the cut is about as much"
    ]


def said_of_words(cuts: tuple[CodeCut, ...], share: FloatArray) -> list[str]:
    """A note if many neurons may have another code than they are counted for, else none."""
    unsure = float(share @ [cut.share for cut in cuts]) if cuts else 0.0
    return [_overlapping("codes", unsure, " (certificate.cuts has the part by code)")] if unsure > _MANY else []


def said_of_layer(layer: int, unsure: float) -> str:
    """The same of layer 1 .. L - 1, of whose neurons the part `unsure` may have another code; "" if there are few."""
    return _overlapping(f"codes of layer {layer}", unsure, "") if unsure > _MANY else ""


def _overlapping(codes: str, unsure: float, where: str) -> str:
    return (
        f"{codes} overlap: about {100.0 * unsure:.2g} % of the neurons may have another code than that of the node "
        f"they are counted at{where}; weights, readouts and activations of codes are those of whole nodes and may be "
        "wrong by twice that and more, take them from drawn neurons; t, kernels and outputs do not depend on it"
    )
