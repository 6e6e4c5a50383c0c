"""Flood fill over blocks of neighbouring nodes on the lines of a lattice, in a box of integers."""

from __future__ import annotations

from meanfield.numerics.jit import jit

__all__ = ["push", "push_seed", "start_of"]


@jit
def start_of(block, low, shape, shift, basis, size, place, base):
    """Integers (d,) of the first of the `size` nodes of a block, and where it is (d,), in place."""
    d = base.shape[0]
    rest = block
    for r in range(d):
        place[r] = rest % shape[r]
        rest //= shape[r]
    for q in range(d):
        base[q] = 0.0
    for r in range(d):
        n = low[r] + place[r] * (size if r == 0 else 1) + shift[r]
        for q in range(d):
            base[q] += n * basis[r, q]


@jit
def _put(code, visited, stack, n_stack):
    """Put a block on the stack, if it was not yet; its new height."""
    if visited[code] == 0:
        visited[code] = 1
        stack[n_stack] = code
        n_stack += 1
    return n_stack


@jit
def push(place, shape, first, last, size, visited, stack, n_stack):
    """Put the blocks of the lines beside `place` that hold nodes first ... last of it on the stack; its new height.

    On the line itself they do too, where they are others.
    """
    d = shape.shape[0]
    for move in range(-1, 2 * (d - 1)):
        r = 1 + (move >> 1)
        here = 0 if move < 0 else place[r] + (1 if move & 1 else -1)
        if move >= 0 and not 0 <= here < shape[r]:
            continue
        begin = max(0, (place[0] * size + first - 2) // size)
        end = min(shape[0] - 1, (place[0] * size + last + 2) // size)
        for b in range(begin, end + 1):
            code, scale = b, shape[0]
            for q in range(1, d):
                code += (here if move >= 0 and q == r else place[q]) * scale
                scale *= shape[q]
            n_stack = _put(code, visited, stack, n_stack)
    return n_stack


@jit
def push_seed(seed, low, shape, size, visited, stack, n_stack):
    """The same for the block that holds the node `seed` (d,)."""
    code, scale = 0, 1
    for r in range(shape.shape[0]):
        n = seed[r] - low[r]
        if r == 0:
            n = n // size
        code += min(max(n, 0), shape[r] - 1) * scale
        scale *= shape[r]
    return _put(code, visited, stack, n_stack)
