"""Two processes that fill one cache: what one has begun to compile the other waits for, instead of doing the same.

Either leaves a small file with its number beside the file to come, while it is at work. The other one waits, and no
longer than its partner lives. They cannot wait for each other: each would compile what the other's function calls, and
compiled functions do not call each other in circles.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["begin", "end", "sharing_with", "wait_for"]

_ENDING = ".claim"
_PATIENCE = 60.0  # seconds; nothing takes as long
_partner: tuple[int, Callable[[], object]] | None = None


@contextlib.contextmanager
def sharing_with(number: int, ended: Callable[[], object]) -> Iterator[None]:
    """While this lasts, say what is compiled and wait for what the process of that number has begun.

    ended: returns None while that process lives.
    """
    global _partner
    before, _partner = _partner, (number, ended)
    try:
        yield
    finally:
        _partner = before


def begin(path: Path) -> None:
    """Announce a file, if there is a partner."""
    if _partner is not None:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(_ENDING).write_text(str(os.getpid()))


def end(path: Path) -> None:
    """An announced file is there, or cannot be written."""
    if _partner is not None:
        with contextlib.suppress(OSError):
            path.with_suffix(_ENDING).unlink()


def wait_for(path: Path) -> bool:
    """Wait until an announced file is there, or will not come; returns False where none was announced."""
    start, waited = time.monotonic(), False
    while _partner is not None and _partner[1]() is None and time.monotonic() < start + _PATIENCE:
        try:
            if path.with_suffix(_ENDING).read_text() != str(_partner[0]):
                break  # of a process that was killed, or is about to be written
        except OSError:
            break
        waited = True
        time.sleep(0.02)
    return waited
