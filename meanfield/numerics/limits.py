"""Limits of a solve: of its time, by Ctrl-C, and of BLAS threads; one place for work in Python, in threads, compiled.

A limit belongs to a context (`time_limit`, `long_work`) and holds for all that is called inside, in other threads too
where they were handed over by `mapped`, `interruptible` or `call_in_thread`. Work in Python looks at the clock
(`check_time`). Compiled code runs outside the interpreter, where a signal waits until it returns, and has no clock: it
looks at a word that is set from outside (`stop_word`; `meanfield.numerics.budget` for those that count their work). A
call that is known to be long goes to a thread of its own (kernels release the interpreter lock) while the caller waits,
listens, and shows progress.
"""

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

from meanfield.progress import progress_bar
from meanfield.validation import IntArray

__all__ = [
    "OutOfTime",
    "aside",
    "call_in_thread",
    "check_time",
    "interruptible",
    "last_seconds",
    "long_work",
    "mapped",
    "one_blas_thread",
    "seconds_left",
    "stop_everything",
    "stop_word",
    "time_limit",
]

_TICK = 0.1  # seconds between looks at the clock
_GRACE = 0.5  # given to a kernel to end after Ctrl-C or at the time limit, before it is left behind
_TIME_UP, _INTERRUPTED = 1, 2  # what stop words hold

_END: ContextVar[float] = ContextVar("_END", default=math.inf)
_LAST: ContextVar[float] = ContextVar("_LAST", default=math.inf)  # what is kept for the end is over, too
_LEFT: ContextVar[threading.Event | None] = ContextVar("_LEFT", default=None)  # set when nobody waits any more
_NEVER: IntArray = np.zeros(1, np.int64)
_WORD: ContextVar[IntArray] = ContextVar("_WORD", default=_NEVER)
_WORDS: ContextVar[list[IntArray] | None] = ContextVar("_WORDS", default=None)  # those of the work of one caller
_PROGRESS: ContextVar[bool | None] = ContextVar("_PROGRESS", default=False)
_running: dict[int, IntArray] = {}  # stop words of the calls in threads
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class OutOfTime(TimeoutError):
    """The time that was allowed is over."""


@contextmanager
def time_limit(seconds: float | None, kept: float = 0.0) -> Iterator[None]:
    """`check_time` raises inside when that many seconds have passed, less those `kept` for the end; never, if None."""
    last = math.inf if seconds is None else time.monotonic() + seconds
    with _ending(last - kept, last):
        yield


@contextmanager
def long_work(max_seconds: float | None, progress: bool | None) -> Iterator[None]:
    """A `time_limit` for the calls inside, and whether they show progress (None: on a terminal)."""
    before = _PROGRESS.set(progress)
    try:
        if max_seconds is None:
            yield
        else:
            with time_limit(max_seconds):
                yield
    finally:
        _PROGRESS.reset(before)


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
        timer = threading.Timer(max(0.0, end - time.monotonic()), word.__setitem__, (0, _TIME_UP))
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
    """(1,) integers, not 0 when the limit of this context passes, or its caller leaves: for compiled code."""
    return _WORD.get()


def seconds_left() -> float:
    """Until the limit of this context; infinite without one."""
    end = _END.get()
    return end if end == math.inf else end - time.monotonic()


def check_time() -> None:
    """Raises `OutOfTime` where the limit of this context has passed, or its caller has left."""
    left = _LEFT.get()
    if time.monotonic() > _END.get() or (left is not None and left.is_set()):
        raise OutOfTime("stopped at max_seconds")


def mapped(pool: Executor, job: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """`pool.map` with looks at the clock, by the jobs too: theirs is the limit of the caller."""
    context = copy_context()

    def inner(item: _Item) -> _Result:
        return context.copy().run(job, item)

    for found in pool.map(inner, items):
        check_time()
        yield found


# ---- work in a thread of its own -----------------------------------------------------------------


def _attended(
    work: Callable[[], _Result], look: Callable[[], None], leave: Callable[[threading.Event], None]
) -> _Result:
    """The result of `work`, done in a thread under the limits of the caller.

    Meanwhile the caller calls `look` a few times a second; on Ctrl-C, and where `look` raises, it calls `leave` with
    what is set when the work has ended.
    """
    done = threading.Event()
    found: list[_Result] = []
    failed: list[BaseException] = []

    def inner() -> None:
        try:
            found.append(work())
        except BaseException as error:  # handed on to the caller
            failed.append(error)
        finally:
            done.set()

    try:  # from here on: Ctrl-C may come while the thread starts
        threading.Thread(target=copy_context().run, args=(inner,), name="meanfield-solve", daemon=True).start()
        while not done.wait(_TICK):
            look()
    except BaseException:
        leave(done)
        raise
    if failed:
        raise failed[0]
    return found[0]


def aside(work: Callable[[], _Result]) -> _Result:
    """The result of `work`, done in a thread of its own: Ctrl-C reaches the caller at once, and never the work.

    For what cannot be broken off anywhere, as compilation: it goes on, and is there when it is asked for again.
    Elsewhere than in the main thread it is simply done.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    return _attended(work, lambda: None, lambda done: None)


def interruptible(work: Callable[[], _Result]) -> _Result:
    """The result of `work`, done in a thread of its own: Ctrl-C reaches the caller at once, and work at `check_time`.

    Elsewhere than in the main thread, where there is no Ctrl-C, it is simply done.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    left = threading.Event()
    words: list[IntArray] = []

    def told() -> _Result:
        _LEFT.set(left)
        _WORDS.set(words)
        with _ending(_END.get(), _LAST.get()):
            return work()

    def leave(done: threading.Event) -> None:
        left.set()
        for word in words:
            word[0] = _INTERRUPTED

    return _attended(told, lambda: None, leave)


def call_in_thread(function: Callable[[], _Result], stop: IntArray, steps: Callable[[], int]) -> _Result:
    """The result of `function`, a compiled call that obeys the stop word `stop`.

    Parameters
    ----------
    function : callable
    stop : array
        Set to end the call: at the time limit, and on Ctrl-C.
    steps : callable
        Steps done so far, for the progress bar.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C, or where another thread has called `stop_everything`.
    OutOfTime
        Where the call does not end half a second after the time limit (one that does has results, of which the stop
        word says that they are unfinished). In both cases it may still be running for a moment, and what it writes to
        must not be used.
    """
    _running[id(stop)] = stop

    def leave(done: threading.Event) -> None:
        stop[0] = _INTERRUPTED
        done.wait(_GRACE)

    try:
        with progress_bar(_PROGRESS.get(), None, unit="step", title="solving") as advance:
            shown = steps()

            def look() -> None:
                nonlocal shown
                for _ in range(steps() - shown):
                    advance()
                shown = max(shown, steps())
                left = seconds_left()
                if left <= 0.0 and not stop[0]:
                    stop[0] = _TIME_UP
                if left <= -_GRACE:
                    check_time()

            found = _attended(function, look, leave)
    finally:
        del _running[id(stop)]
    if stop[0] == _INTERRUPTED:
        raise KeyboardInterrupt
    return found


def stop_everything() -> None:
    """End all calls in threads of this process (those of a pool do not see Ctrl-C themselves)."""
    for stop in list(_running.values()):
        stop[0] = _INTERRUPTED


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
