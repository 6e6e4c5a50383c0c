"""Hidden layers are numbered 1 .. L, from the input; -1 is the last, -L the first. One place that says so."""

from __future__ import annotations

from typing import Any

import numpy as np

from meanfield.validation import short

__all__ = ["layer_index"]


def layer_index(layer: Any, depth: int) -> int:
    """Position 0 .. L - 1 of a hidden layer.

    Raises
    ------
    ValueError
        If `layer` is not an integer 1 .. L or -L .. -1.
    """
    whole = isinstance(layer, (int, np.integer)) and not isinstance(layer, (bool, np.bool_))
    if not whole or layer == 0 or not -depth <= layer <= depth:
        raise ValueError(f"layer must be an integer 1..{depth} (or negative, from the last), got {short(layer)}.")
    return int(layer) - 1 if layer > 0 else int(layer) + depth
