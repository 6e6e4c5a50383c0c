"""Limits of a solve: of its time, looked at wherever work is handed to threads, of BLAS threads, and by Ctrl-C."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import TypeVar

__all__ = ["OutOfTime", "check_time", "interruptible", "one_blas_thread", "seconds_left", "time_limit"]

_END: ContextVar[float] = ContextVar("_END", default=math.inf)
_LEFT: ContextVar[threading.Event | None] = ContextVar("_LEFT", default=None)  # set when nobody waits any more
_TICK = 0.2  # seconds
_Result = TypeVar("_Result")


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


def seconds_left() -> float:
    """Until the limit of this context; infinite without one."""
    return _END.get() - time.monotonic()


def check_time() -> None:
    """Raises `OutOfTime` where the limit of this context has passed, or its caller has left."""
    left = _LEFT.get()
    if time.monotonic() > _END.get() or (left is not None and left.is_set()):
        raise OutOfTime


def interruptible(work: Callable[[], _Result]) -> _Result:
    """The result of `work`, done in a thread of its own: Ctrl-C reaches the caller at once, and work at `check_time`.

    Elsewhere than in the main thread, where there is no Ctrl-C, it is simply done.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    done, left = threading.Event(), threading.Event()
    found: list[_Result] = []
    failed: list[BaseException] = []

    def inner() -> None:
        _LEFT.set(left)
        try:
            found.append(work())
        except BaseException as error:  # handed on to the caller
            failed.append(error)
        finally:
            done.set()

    try:  # from here on: Ctrl-C may come while the thread starts
        threading.Thread(target=copy_context().run, args=(inner,), name="meanfield-data", daemon=True).start()
        while not done.wait(_TICK):
            pass
    except BaseException:
        left.set()
        raise
    if failed:
        raise failed[0]
    return found[0]


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
