"""Two processes that fill one cache: what one has begun to compile the other waits for, instead of doing the same.

The process that announces leaves a small file with its number beside the file to come, while it is at work. Only the
one that started it waits, and no longer than it lives.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["announce", "begin", "end", "wait_for", "waiting_for"]

_ENDING = ".claim"
_PATIENCE = 60.0  # seconds; nothing takes as long
_announces = False
_other: subprocess.Popen[bytes] | None = None


def announce() -> None:
    """From now on, this process says what it compiles."""
    global _announces
    _announces = True


@contextlib.contextmanager
def waiting_for(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """While this lasts, wait for what another process has announced."""
    global _other
    before, _other = _other, process
    try:
        yield
    finally:
        _other = before


def begin(path: Path) -> None:
    """Announce a file, if that is wanted."""
    if _announces:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(_ENDING).write_text(str(os.getpid()))


def end(path: Path) -> None:
    """An announced file is there, or cannot be written."""
    if _announces:
        with contextlib.suppress(OSError):
            path.with_suffix(_ENDING).unlink()


def wait_for(path: Path) -> bool:
    """Wait until an announced file is there, or will not come; returns False where none was announced."""
    start, waited = time.monotonic(), False
    while _other is not None and _other.poll() is None and time.monotonic() < start + _PATIENCE:
        try:
            if path.with_suffix(_ENDING).read_text() != str(_other.pid):
                break  # of a process that was killed, or is about to be written
        except OSError:
            break
        waited = True
        time.sleep(0.02)
    return waited
