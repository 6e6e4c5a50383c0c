"""Limits of a solve: of its time, looked at wherever work is handed to threads, and of the threads of BLAS."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["OutOfTime", "check_time", "one_blas_thread", "time_limit"]

_END: ContextVar[float] = ContextVar("_END", default=math.inf)


class OutOfTime(Exception):
    """The time that was allowed is over."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """`check_time` raises inside when that many seconds have passed; never, if None."""
    token = _END.set(math.inf if seconds is None else time.monotonic() + seconds)
    try:
        yield
    finally:
        _END.reset(token)


def check_time() -> None:
    """Raises `OutOfTime` where the limit of this context has passed."""
    if time.monotonic() > _END.get():
        raise OutOfTime


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS on one thread inside, where threadpoolctl is installed: matrices are small, and many threads call it."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield
        return
    with threadpool_limits(limits=1, user_api="blas"):
        yield
