"""Throughput of a sweep: this process, and executors of one and two workers.

``python benchmarks/parallel.py [--points 5000] [--executors processes]`` (loky and dask: extra ``parallel``). Wall
times tell little on a shared machine, so that CPU seconds are printed as well, those of this process and, where the
system tells (Linux, pools of processes), of its workers. "Speed-up by work" is the ratio of the CPU seconds of the
serial sweep to those that each of the processors has to spend: the speed-up of an idle machine with as many processors
as workers, as far as it is a matter of work. "Overhead" is what calling process and workers spend beyond the serial
sweep, as a share of it, the start of workers and their loading of compiled code aside, which come once. dask's
processes work while there is nothing to do, so that theirs grows with the wall time, that is, with what else the
machine does: what they use when idle is measured before, and "overhead per sweep" is without that. Sweeps on an
executor alternate with serial ones, of which the thread is counted that solves; numbers are medians.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from interrupts import processor_seconds

import meanfield as mf

NETWORK, TASK = mf.Network("sigmoid"), mf.class_task(fractions=[0.5, 0.25, 0.25])


@contextmanager
def executors(kind: str, workers: int) -> Iterator[Any]:
    """An executor of this kind; None for this process."""
    if kind == "serial":
        yield None
    elif kind == "processes":
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
            yield executor
    elif kind == "loky":
        from joblib.externals.loky import ProcessPoolExecutor as LokyExecutor

        with LokyExecutor(workers) as executor:
            yield executor
    else:
        from distributed import Client, LocalCluster

        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            yield client.get_executor()


def worker_seconds(executor: Any) -> float:
    """CPU seconds that the processes of a pool have used so far; NaN where that cannot be known."""
    pids = list(getattr(executor, "_processes", None) or ())
    cluster = getattr(getattr(executor, "_client", None), "cluster", None)
    if cluster is not None:  # of dask: each worker is kept by a nanny
        pids = [worker.process.pid for worker in cluster.workers.values()]
    if not pids or not Path("/proc/self/stat").exists():
        return float("nan")
    return float(sum(map(processor_seconds, pids)))


EXECUTORS = "serial", "processes", "loky", "dask"
_REPEATS = 3


def spent(executor: Any, axes: dict[str, Any]) -> tuple[float, float, float, Any]:
    """Wall seconds of a sweep, CPU seconds of this process and of the workers, and its diagram."""
    clock = time.thread_time if executor is None else time.process_time  # threads of an executor may run beside
    wall, cpu, theirs = time.perf_counter(), clock(), worker_seconds(executor)
    diagram = mf.sweep(NETWORK, TASK, executor=executor, progress=False, **axes)
    theirs = worker_seconds(executor) - theirs
    return time.perf_counter() - wall, clock() - cpu, theirs, diagram


def idle_share(executor: Any, seconds: float = 2.0) -> float:
    """CPU seconds per second that this process and the workers use while there is nothing to do."""
    wall, cpu, theirs = time.perf_counter(), time.process_time(), worker_seconds(executor)
    time.sleep(seconds)
    used = time.process_time() - cpu + worker_seconds(executor) - theirs
    return used / (time.perf_counter() - wall)


def measure(points: int, chosen: Sequence[str] = EXECUTORS) -> list[dict[str, Any]]:
    """One row per executor: medians of a few sweeps, when its workers are warm."""
    n = max(2, round((points / 2) ** 0.5))
    axes = {"off": np.linspace(-1, 0.95, 2 * n), "sigma_a": np.linspace(0.5, 2.5, n)}
    reference = spent(None, axes)[-1].objective
    rows = []
    kinds = [(kind, workers) for kind in chosen for workers in ((1,) if kind == "serial" else (1, 2))]
    for kind, workers in kinds:
        with suppress(ImportError), executors(kind, workers) as executor:
            for _ in range(1 + workers):  # start the workers, which load what is compiled
                spent(executor, axes)
            idle = idle_share(executor) if executor is not None else float("nan")
            pairs = [(spent(None, axes), spent(executor, axes)) for _ in range(_REPEATS)]
            serial = float(np.median([one[1] for one, _ in pairs]))
            wall, cpu, theirs = np.median([there[:3] for _, there in pairs], axis=0)
            over = (cpu + theirs) / serial - 1.0
            same = all(np.array_equal(there[-1].objective, reference, equal_nan=True) for _, there in pairs)
            rows.append({
                "executor": kind, "workers": workers, "points": reference.size, "wall / s": f"{wall:.2f}",
                "CPU of this process / s": f"{cpu:.2f}", "of the workers / s": f"{theirs:.2f}",
                "serial / s": f"{serial:.2f}", "speed-up by work": f"{serial * workers / (theirs + cpu):.2f}",
                "overhead": f"{over:.1%}", "idle per second": f"{idle:.3f}",
                "overhead per sweep": f"{over - idle * wall / serial:.1%}", "same bits": same,
            })  # fmt: skip
            print(", ".join(f"{key}: {value}" for key, value in rows[-1].items()), flush=True)
    return rows


def main() -> None:
    """One line per executor."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=5000)
    parser.add_argument("--executors", nargs="+", choices=EXECUTORS, default=EXECUTORS)
    options = parser.parse_args()
    measure(options.points, ("serial", *(kind for kind in options.executors if kind != "serial")))


if __name__ == "__main__":
    main()
