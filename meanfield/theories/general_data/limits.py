"""Limits of a solve: of its time, looked at wherever work is handed to threads, of BLAS threads, and by Ctrl-C."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import TypeVar

import numpy as np

from meanfield.validation import IntArray

__all__ = [
    "OutOfTime",
    "check_time",
    "interruptible",
    "last_seconds",
    "mapped",
    "one_blas_thread",
    "seconds_left",
    "stop_word",
    "time_limit",
]

_END: ContextVar[float] = ContextVar("_END", default=math.inf)
_LAST: ContextVar[float] = ContextVar("_LAST", default=math.inf)  # what is kept for the end is over, too
_LEFT: ContextVar[threading.Event | None] = ContextVar("_LEFT", default=None)  # set when nobody waits any more
_NEVER: IntArray = np.zeros(1, np.int64)
_WORD: ContextVar[IntArray] = ContextVar("_WORD", default=_NEVER)
_WORDS: ContextVar[list[IntArray] | None] = ContextVar("_WORDS", default=None)  # those of the work of one caller
_TICK = 0.2  # seconds
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class OutOfTime(Exception):
    """The time that was allowed is over."""


@contextmanager
def time_limit(seconds: float | None, kept: float = 0.0) -> Iterator[None]:
    """`check_time` raises inside when that many seconds have passed, less those `kept` for the end; never, if None."""
    last = math.inf if seconds is None else time.monotonic() + seconds
    with _ending(last - kept, last):
        yield


@contextmanager
def last_seconds() -> Iterator[None]:
    """What was kept for the end counts inside."""
    with _ending(_LAST.get(), _LAST.get()):
        yield


@contextmanager
def _ending(end: float, last: float) -> Iterator[None]:
    word: IntArray = np.zeros(1, np.int64)
    words = _WORDS.get()
    if words is not None:
        words.append(word)
    timer = None
    if math.isfinite(end):
        timer = threading.Timer(max(0.0, end - time.monotonic()), word.__setitem__, (0, 1))
        timer.daemon = True
        timer.start()
    ends, lasts, before = _END.set(end), _LAST.set(last), _WORD.set(word)
    try:
        yield
    finally:
        _END.reset(ends)
        _LAST.reset(lasts)
        _WORD.reset(before)
        if timer is not None:
            timer.cancel()


def stop_word() -> IntArray:
    """(1,) integers that become 1 when the limit of this context passes, or its caller leaves: for compiled code."""
    return _WORD.get()


def seconds_left() -> float:
    """Until the limit of this context; infinite without one."""
    return _END.get() - time.monotonic()


def check_time() -> None:
    """Raises `OutOfTime` where the limit of this context has passed, or its caller has left."""
    left = _LEFT.get()
    if time.monotonic() > _END.get() or (left is not None and left.is_set()):
        raise OutOfTime


def mapped(pool: Executor, job: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """`pool.map` with looks at the clock, by the jobs too: theirs is the limit of the caller."""
    context = copy_context()

    def inner(item: _Item) -> _Result:
        return context.copy().run(job, item)

    for found in pool.map(inner, items):
        check_time()
        yield found


def interruptible(work: Callable[[], _Result]) -> _Result:
    """The result of `work`, done in a thread of its own: Ctrl-C reaches the caller at once, and work at `check_time`.

    Elsewhere than in the main thread, where there is no Ctrl-C, it is simply done.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    done, left = threading.Event(), threading.Event()
    found: list[_Result] = []
    failed: list[BaseException] = []

    words: list[IntArray] = []

    def inner() -> None:
        _LEFT.set(left)
        _WORDS.set(words)
        try:
            with _ending(_END.get(), _LAST.get()):
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
        for word in words:
            word[0] = 1
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
