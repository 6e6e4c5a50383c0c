"""Sets of whole numbers, inside compiled code: open hash tables."""

from __future__ import annotations

from meanfield.numerics.jit import jit

__all__ = ["HASH_FACTOR", "enter"]

HASH_FACTOR = -7046029254386353131  # 2^64 / golden ratio, as int64: products wrap around


@jit
def enter(slots, number):
    """Whether a number >= 0 was not yet in the set; it is then. `slots`: 2^k int64, -1 where free, never all taken."""
    mask = slots.shape[0] - 1
    code = number * HASH_FACTOR
    slot = (code ^ (code >> 29)) & mask
    while slots[slot] >= 0:
        if slots[slot] == number:
            return False
        slot = (slot + 1) & mask
    slots[slot] = number
    return True
