"""Progress bars where they are wanted and possible."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Progress", "progress_bar"]

Progress = Callable[[str, int, float], None]  # called by solvers with stage, step, error


@contextmanager
def progress_bar(
    wanted: bool | None, total: int | None, *, unit: str = "it", title: str | None = None
) -> Iterator[Callable[[], None]]:
    """Gives the function that advances a tqdm bar by one; does nothing where tqdm is not installed.

    `wanted` None means: on a terminal, and if there is more than one step.
    """
    bar = None
    if wanted or (wanted is None and total != 1 and sys.stderr.isatty()):
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            bar = tqdm(total=total, unit=unit, desc=title)
    try:
        yield (lambda: None) if bar is None else (lambda: bar.update() and None)
    finally:
        if bar is not None:
            bar.close()
