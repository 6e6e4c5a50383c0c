"""Work in a process of its own that ends after so many seconds of processor time, whatever it does."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from typing import Any


def in_child(work: Callable[[], Any], seconds: float) -> Any:
    """What `work` returns, which has to be picklable; None where the process was stopped.

    `work` catches its own exceptions.
    """
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            with os.fdopen(sending, "wb") as pipe:
                pipe.write(pickle.dumps(work()))
        finally:  # never back into the code of the caller
            os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(data) if data else None
