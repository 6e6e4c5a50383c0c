"""A word that stops compiled loops: set from outside, or by the work they have done (`Table.stop`).

Compiled code does not see Ctrl-C and has no clock. Loops that can last report their work here, a unit being of the
order of a microsecond, and leave early when told so; whoever called them must not trust what they return then.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.jit import jit

__all__ = ["FLAG", "HARD", "ROUNDS", "SOFT", "UNLIMITED", "USED", "exhausted", "new_stop"]

# Entries of the array: stop at once if not 0; units of work done; units after which no further point is begun; units
# after which a point is given up; rounds of the bundle method, for progress.
FLAG, USED, SOFT, HARD, ROUNDS = range(5)
UNLIMITED = 2**62


def new_stop(soft: int = UNLIMITED, hard: int = UNLIMITED) -> np.ndarray:
    """A stop word that is not set, for one call of a compiled function."""
    return np.array([0, 0, soft, hard, 0], dtype=np.int64)


@jit
def exhausted(stop, work):
    """Note so many units of work; True if the loop should end."""
    stop[1] += work
    return stop[0] != 0 or stop[1] > stop[3]
