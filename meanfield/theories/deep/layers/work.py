"""How much a part of a solve may integrate: counted, so that the outcome is the same on every machine.

Whoever counts looks at the clock as well: a single evaluation far from any solution can take long.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from meanfield.numerics.limits import check_time

__all__ = ["OutOfWork", "Work", "counted", "spend"]


class OutOfWork(RuntimeError):
    """What was allowed is spent."""


class Work:
    """Numbers computed so far, and how many there may be."""

    def __init__(self, most: float) -> None:
        self.done, self.most = 0.0, most


_NOW: ContextVar[Work | None] = ContextVar("_NOW", default=None)


@contextmanager
def counted(most: float = float("inf"), beyond: bool = False) -> Iterator[Work]:
    """Counts what is spent inside; `spend` raises `OutOfWork` there when it is more than `most`.

    It counts for what is around it as well, whose own limit holds inside unless this may go `beyond` it.
    """
    outer = _NOW.get()
    work = Work(most if outer is None or beyond else min(most, outer.most - outer.done))
    before = _NOW.set(work)
    try:
        yield work
    finally:
        _NOW.reset(before)
        if outer is not None:
            outer.done += work.done


def spend(amount: float) -> None:
    """So many numbers are about to be computed. Raises `OutOfTime` at the time limit of the context."""
    check_time()
    work = _NOW.get()
    if work is not None:
        work.done += amount
        if work.done > work.most:
            raise OutOfWork("the work that was allowed is spent")
