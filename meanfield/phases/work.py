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
from meanfield.phases.raster import LimitTasks, PointArrays, Problem, physical, solve_segment
from meanfield.validation import folder_path

__all__ = ["SweepWork"]

_SAVE_EVERY = 3.0  # seconds between files of a checkpoint: what is lost at most, besides the slice that is being solved
_SLICE = 1.0  # seconds of work of this process before it looks at the clock
_POOL_SLICE = 2.0
_AHEAD = 64  # jobs handed to an executor at a time
_TOGETHER = 4  # quick segments in a job, about, a third of a second or more: some executors take 5 ms for each job


@lru_cache(maxsize=2)
def _grid(pickled: bytes) -> Grid:
    """A grid keeps the networks and tasks that its segments share."""
    grid: Grid = pickle.loads(pickled)
    return grid


_Problems = LimitTasks | tuple[bytes, list[tuple[int, ...]]]  # of a segment; or the grid, and its points there
_Segment = tuple[_Problems, list[int], PointArrays | None]  # problems, parents, what is known of them


def _solve_pickled(job: bytes) -> list[PointArrays]:
    """A slice of the work on some segments of a grid; of the last ones nothing, where time is over."""
    segments: list[_Segment] = pickle.loads(job)
    end = time.monotonic() + _POOL_SLICE
    solved: list[PointArrays] = []
    for sent, parent, known in segments:
        left = end - time.monotonic()
        if solved and left <= 0.0:
            break
        problems = sent if isinstance(sent, LimitTasks) else [_grid(sent[0]).problem(at) for at in sent[1]]
        solved.append(solve_segment(problems, parent, known, left))
    return solved


def _shared_out(numbers: list[int], parts: int) -> list[list[int]]:
    """In as many parts, of about the same work as far as neighbours are alike; none is empty."""
    return [numbers[i::parts] for i in range(min(parts, len(numbers)))]


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
            folder = folder_path("checkpoint", checkpoint)
            self.checkpoint = Checkpoint(folder, fingerprint(grid, size), sizes, (shape[0], shape[1]))

    def problems(self, number: int) -> list[Problem]:
        return [self.grid.problem(at) for at in self.segments[number]]

    def limit_tasks(self, number: int) -> LimitTasks | None:
        """The segment as the compiled loop takes it; None if it does not."""
        return LimitTasks.of(self.problems(number)) if self.is_limit(number) else None

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
            problems = self.limit_tasks(number) or self.problems(number)
            parent = parents(self.segments[number])
            while not self.finished(number):
                self._take(number, solve_segment(problems, parent, self.known.get(number), _SLICE))

    def on_pool(self, executor: Executor) -> None:
        """Slices of all segments on the executor, some at a time; taken, and written, as they finish."""
        grid, processors = pickle.dumps(self.grid), os.cpu_count() or 1
        todo = [number for number in range(len(self.segments)) if not self.finished(number)]
        jobs = len(todo)
        if all(map(self.is_limit, todo)):
            jobs = max(1, round(jobs / (_TOGETHER * processors))) * processors
        waiting = deque(_shared_out(todo, jobs))
        running: dict[Future[list[PointArrays]], list[int]] = {}

        def submit(numbers: list[int]) -> None:
            # As bytes: some executors look through all they are given for futures of theirs, which takes longer than
            # solving. Where points are quick, making their problems once more would be felt; else they are made there.
            segments: list[_Segment] = []
            for n in numbers:
                sent = self.limit_tasks(n) or (grid, self.segments[n])
                segments.append((sent, parents(self.segments[n]), self.known.get(n)))
            running[executor.submit(_solve_pickled, pickle.dumps(segments))] = numbers

        try:
            while waiting or running:
                while waiting and len(running) < _AHEAD:
                    submit(waiting.popleft())
                for future in wait(list(running), timeout=_SAVE_EVERY, return_when=FIRST_COMPLETED).done:
                    numbers = running.pop(future)
                    for number, points in zip(numbers, future.result(), strict=False):
                        self._take(number, points)
                    rest = [number for number in numbers if not self.finished(number)]
                    waiting.extendleft(_shared_out(rest, 1 if waiting else 2))  # what is left last is slow: share it
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
