"""Throughput of a sweep: this process, and executors of joblib's loky and dask with one and two workers.

``python benchmarks/parallel.py [--points 5000]`` (extra ``parallel``). Wall times tell little on a shared machine, so
that the CPU seconds of this process are printed as well: what an executor costs here is its overhead, while the points
are solved elsewhere.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

import meanfield as mf

NETWORK, TASK = mf.Network("sigmoid"), mf.class_task(fractions=[0.5, 0.25, 0.25])


@contextmanager
def executors(kind: str, workers: int) -> Iterator[Any]:
    """An executor of this kind; None for this process."""
    if kind == "serial":
        yield None
    elif kind == "loky":
        from joblib.externals.loky import ProcessPoolExecutor

        with ProcessPoolExecutor(workers) as executor:
            yield executor
    else:
        from distributed import Client, LocalCluster

        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            yield client.get_executor()


def measure(points: int) -> list[dict[str, Any]]:
    """One row per executor: wall and own CPU seconds of the second sweep, when its workers are warm."""
    n = max(2, round((points / 2) ** 0.5))
    axes = {"off": np.linspace(-1, 0.95, 2 * n), "sigma_a": np.linspace(0.5, 2.5, n)}
    rows, reference = [], None
    for kind, workers in (("serial", 1), ("loky", 1), ("loky", 2), ("dask", 1), ("dask", 2)):
        with suppress(ImportError), executors(kind, workers) as executor:
            for _ in range(2):
                wall, cpu = time.perf_counter(), time.process_time()
                diagram = mf.sweep(NETWORK, TASK, executor=executor, progress=False, **axes)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if reference is None:
                reference = diagram.objective
            same = bool(np.array_equal(diagram.objective, reference, equal_nan=True))
            rows.append({
                "executor": kind, "workers": workers, "points": reference.size, "wall / s": f"{wall:.2f}",
                "CPU of this process / s": f"{cpu:.2f}", "same bits": same,
            })  # fmt: skip
            print(", ".join(f"{key}: {value}" for key, value in rows[-1].items()), flush=True)
    return rows


def main() -> None:
    """One line per executor."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=5000)
    measure(parser.parse_args().points)


if __name__ == "__main__":
    main()
