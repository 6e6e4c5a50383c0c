"""Hidden layers are numbered 1 .. L, from the input; -1 is the last, -L the first. One place that says so."""

from __future__ import annotations

import numpy as np

from meanfield.validation import short

__all__ = ["layer_index"]


def layer_index(layer: object, depth: int) -> int:
    """Position 0 .. L - 1 of a hidden layer.

    Raises
    ------
    ValueError
        If `layer` is not an integer 1 .. L or -L .. -1.
    """
    number = int(layer) if isinstance(layer, (int, np.integer)) and not isinstance(layer, (bool, np.bool_)) else 0
    if number == 0 or not -depth <= number <= depth:
        raise ValueError(f"layer must be an integer 1..{depth} (or negative, from the last), got {short(layer)}.")
    return number - 1 if number > 0 else number + depth
