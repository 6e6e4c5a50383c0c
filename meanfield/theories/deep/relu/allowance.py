"""The work that a search for a solution may do, whatever a clock says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["TooMuchWork", "allowance", "spend", "spent", "unspent"]

_DONE: ContextVar[list[float]] = ContextVar("_DONE")  # work that is done, and that may be


class TooMuchWork(Exception):
    """The search has done what it may."""

    WORDS = "left after as much work as is allowed where no max_seconds= is given"


@contextmanager
def allowance(work: float) -> Iterator[None]:
    """`spend` raises inside once so much work is done; infinite: never.

    A unit is about a nanosecond of one core (`average`), whatever the clock says.
    """
    before = _DONE.set([0.0, work])
    try:
        yield
    finally:
        _DONE.reset(before)


def spent() -> float:
    """Work done inside the innermost `allowance`."""
    return _DONE.get([0.0, math.inf])[0]


def unspent() -> float:
    """Work that may still be done inside it."""
    done, most = _DONE.get([0.0, math.inf])
    return most - done


def spend(work: float) -> None:
    """Note work that was done.

    Raises
    ------
    TooMuchWork
    """
    done = _DONE.get(None)
    if done is None:
        return
    done[0] += work
    if done[0] > done[1]:
        raise TooMuchWork
