"""The segments of a sweep, solved here or on an executor, and written to a checkpoint as they are finished."""

from __future__ import annotations

import os
import pickle
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from functools import lru_cache

import numpy as np

from meanfield.numerics.limits import stop_everything
from meanfield.phases.checkpoint import Checkpoint, Piece
from meanfield.phases.grid import Grid, chunks, fingerprint, parents, segment_size
from meanfield.phases.raster import PointArrays, Problem, physical, solve_segment
from meanfield.validation import file_path

__all__ = ["SweepWork"]

_SAVE_EVERY = 3.0  # seconds between files of a checkpoint: what is lost at most, besides the slice that is being solved
_SLICE = 1.0  # seconds of work of this process before it looks at the clock
_POOL_SLICE = 2.0
_AHEAD = 64  # jobs handed to an executor at a time
_JOBS = 4 * max(2, os.cpu_count() or 2)  # of quick segments, in all: some executors take 10 ms for each


@lru_cache(maxsize=2)
def _grid(pickled: bytes) -> Grid:
    """A grid keeps the networks and tasks that its segments share."""
    grid: Grid = pickle.loads(pickled)
    return grid


_Segment = tuple[list[tuple[int, ...]], PointArrays | None, bool]  # its points, what is known of them, is it a limit


def _solve_pickled(job: bytes) -> list[PointArrays]:
    """A slice of the work on some segments of a grid; of the last ones nothing, where time is over."""
    pickled, segments = pickle.loads(job)
    grid, end = _grid(pickled), time.monotonic() + _POOL_SLICE
    solved: list[PointArrays] = []
    for points, known, limit in segments:
        left = end - time.monotonic()
        if solved and left <= 0.0:
            break
        problems = [grid.problem(at) for at in points]
        solved.append(solve_segment(problems, parents(points), known, left, limit))
    return solved


class SweepWork:
    """The segments of a sweep: what is known of each, and what is yet to be written to the checkpoint."""

    def __init__(self, grid: Grid, checkpoint: str | os.PathLike[str] | None) -> None:
        self.grid = grid
        size = segment_size(grid.problem((0,) * len(grid.shape)))
        self.segments = list(chunks(grid.shape, size))
        self.known: dict[int, PointArrays] = {}
        self.limits: dict[int, bool] = {}
        self.waiting: list[Piece] = []
        self.saved = time.monotonic()
        self.advance: Callable[[], None] = lambda: None
        self.checkpoint = None
        if checkpoint is not None:
            sizes = [len(points) for points in self.segments]
            shape = grid.base[1].targets.shape
            folder = file_path("checkpoint", checkpoint)
            self.checkpoint = Checkpoint(folder, fingerprint(grid, size), sizes, (shape[0], shape[1]))

    def problems(self, number: int) -> list[Problem]:
        return [self.grid.problem(at) for at in self.segments[number]]

    def is_limit(self, number: int) -> bool:
        """Whether the compiled loop solves this segment."""
        if number not in self.limits:
            self.limits[number] = all(self.grid.is_limit(at) for at in self.segments[number])
        return self.limits[number]

    def finished(self, number: int) -> bool:
        return number in self.known and len(self.known[number]) == len(self.segments[number])

    def resume(self) -> None:
        """Take what the checkpoint has."""
        if self.checkpoint is not None:
            for number, points in self.checkpoint.read().items():
                self._add(number, points)

    def here(self) -> None:
        for number in range(len(self.segments)):
            problems, parent, limit = self.problems(number), parents(self.segments[number]), self.is_limit(number)
            while not self.finished(number):
                self._take(number, solve_segment(problems, parent, self.known.get(number), _SLICE, limit))

    def on_pool(self, executor: Executor) -> None:
        """Slices of all segments on the executor, some at a time; taken, and written, as they finish."""
        grid = pickle.dumps(self.grid)
        todo = [number for number in range(len(self.segments)) if not self.finished(number)]
        together = max(1, len(todo) // _JOBS) if all(map(self.is_limit, todo)) else 1
        waiting = deque(todo[i : i + together] for i in range(0, len(todo), together))
        running: dict[Future[list[PointArrays]], list[int]] = {}

        def submit(numbers: list[int]) -> None:
            # As bytes: some executors look through all they are given for futures of theirs, which takes longer than
            # solving; and the problems themselves are made where they are solved.
            segments: list[_Segment] = [(self.segments[n], self.known.get(n), self.is_limit(n)) for n in numbers]
            running[executor.submit(_solve_pickled, pickle.dumps((grid, segments)))] = numbers

        try:
            while waiting or running:
                while waiting and len(running) < _AHEAD:
                    submit(waiting.popleft())
                for future in wait(list(running), timeout=_SAVE_EVERY, return_when=FIRST_COMPLETED).done:
                    numbers = running.pop(future)
                    for number, points in zip(numbers, future.result(), strict=False):
                        self._take(number, points)
                    if rest := [number for number in numbers if not self.finished(number)]:
                        waiting.appendleft(rest)
                self._save_if_due()
        except BaseException:
            for future in running:
                future.cancel()
            stop_everything()
            raise

    def _take(self, number: int, points: PointArrays) -> None:
        first = len(self.known[number]) if number in self.known else 0
        self._add(number, points)
        self.waiting.append(Piece(number, first, points))
        self._save_if_due()

    def _add(self, number: int, points: PointArrays) -> None:
        before = [self.known[number]] if number in self.known else []
        self.known[number] = PointArrays.concatenate([*before, points])
        for _ in range(len(points)):
            self.advance()

    def _save_if_due(self) -> None:
        if time.monotonic() - self.saved >= _SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write what is new."""
        if self.checkpoint is not None and self.waiting:
            self.checkpoint.write(self.waiting)
        self.waiting, self.saved = [], time.monotonic()

    def joined(self) -> PointArrays:
        """All points, in physical units."""
        return PointArrays.concatenate([self._physical(number) for number in range(len(self.segments))])

    def _physical(self, number: int) -> PointArrays:
        if not self.is_limit(number):
            return self.known[number]
        return physical(self.known[number], np.array([self.grid.sigma_a(at) for at in self.segments[number]]))
