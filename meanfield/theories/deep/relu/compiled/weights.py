"""The single-site function of many neurons."""

from __future__ import annotations

import numpy as np

from meanfield.numerics.jit import jit
from meanfield.theories.deep.relu.compiled.site import site

__all__ = ["weights"]


@jit
def weights(b, h, d: float, delta: float, phi):
    """g at pairs b, h (k,)."""
    found = np.empty(len(b))
    for k in range(len(b)):
        found[k] = site(b[k], h[k], d, delta, phi)[0]
    return found
