"""Long compiled calls that listen to Ctrl-C and to a clock.

Compiled code runs outside the interpreter, where a signal waits until it returns. A call that is known to be long goes
to a thread of its own (kernels release the interpreter lock) while the caller waits, shows progress, and sets the stop
word that the kernel looks at (`meanfield.numerics.budget`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from meanfield.progress import progress_bar
from meanfield.validation import IntArray

__all__ = ["call_in_thread", "check_time", "long_work", "seconds_left", "stop_everything"]

_TICK = 0.1  # seconds between looks at the clock
_GRACE = 0.5  # given to a kernel to end after Ctrl-C or at the time limit, before it is left behind
_TIME_UP, _INTERRUPTED = 1, 2

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)
_progress: ContextVar[bool | None] = ContextVar("progress", default=False)
_Result = TypeVar("_Result")
_running: dict[int, IntArray] = {}  # stop words of the calls in threads


@contextmanager
def long_work(max_seconds: float | None, progress: bool | None) -> Iterator[None]:
    """What holds for the calls inside: a time limit, and whether progress is shown (None: on a terminal)."""
    limit = None if max_seconds is None else time.monotonic() + max_seconds
    before = _deadline.set(limit), _progress.set(progress)
    try:
        yield
    finally:
        _deadline.reset(before[0])
        _progress.reset(before[1])


def seconds_left() -> float | None:
    """Until the time limit; None without one."""
    limit = _deadline.get()
    return None if limit is None else limit - time.monotonic()


def check_time() -> None:
    """TimeoutError if the time is up: for loops in Python."""
    left = seconds_left()
    if left is not None and left <= 0.0:
        raise TimeoutError("stopped at max_seconds")


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
    TimeoutError
        Where the call does not end half a second after the time limit (one that does has results, of which the stop
        word says that they are unfinished). In both cases it may still be running for a moment, and what it writes to
        must not be used.
    """
    done = threading.Event()
    found: list[_Result] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            found.append(function())
        except BaseException as error:  # handed on to the caller
            failed.append(error)
        finally:
            done.set()

    key = id(stop)
    _running[key] = stop
    try:
        with progress_bar(_progress.get(), None, unit="step", title="solving") as advance:
            shown = steps()
            threading.Thread(target=work, name="meanfield-solve", daemon=True).start()
            while not done.wait(_TICK):
                for _ in range(steps() - shown):
                    advance()
                shown = max(shown, steps())
                left = seconds_left()
                if left is not None and left <= 0.0 and not stop[0]:
                    stop[0] = _TIME_UP
                if left is not None and left <= -_GRACE:
                    check_time()
    except BaseException:
        stop[0] = _INTERRUPTED
        done.wait(_GRACE)
        raise
    finally:
        del _running[key]
    if failed:
        raise failed[0]
    if stop[0] == _INTERRUPTED:
        raise KeyboardInterrupt
    return found[0]


def stop_everything() -> None:
    """End all calls in threads of this process (those of a pool do not see Ctrl-C themselves)."""
    for stop in list(_running.values()):
        stop[0] = _INTERRUPTED
