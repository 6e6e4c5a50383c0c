"""Copies inside compiled code.

`target[:] = source` between arrays pulls Numba's message for shapes that do not match, with all of its string code,
into its caller and into everything that calls that: a third of the time of a cold compilation. Loops do not.
"""

from __future__ import annotations

from meanfield.numerics.jit import jit

__all__ = ["copy_matrix", "copy_vector"]


@jit
def copy_vector(target, source):
    """Write `source` (n,) into the first n entries of `target`."""
    for i in range(source.shape[0]):
        target[i] = source[i]


@jit
def copy_matrix(target, source):
    """Write `source` (n, m) into the first n rows and m columns of `target`."""
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[i, j] = source[i, j]
