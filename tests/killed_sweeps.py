"""Sweeps killed at random moments (SIGKILL, workers included) and resumed; benchmarks/kills.py counts.

All in processes of their own that find the compiled code in the cache: the one that compiles it may differ from those
in the last digits (of functions that are linked into several others the copy that was loaded first serves all).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest.mock import patch

import numpy as np

import meanfield as mf
from meanfield.numerics.jit import cache_directory
from meanfield.phases import work

OFF = np.linspace(0.0, 0.5, 24)


SMALL = {"segment_size": lambda problem: 8, "_SAVE_EVERY": 0.0, "_SLICE": 0.0, "_POOL_SLICE": 0.0}


def sweep(checkpoint: Path | None = None, pool: bool = False) -> mf.PhaseDiagram:
    """Six segments of points at finite P; with a checkpoint every point is written at once."""
    task = mf.class_task(n_classes=2, n_samples=40)
    problem = mf.Network("sigmoid"), task
    options = {"off": OFF, "tau": [0.01, 0.02], "checkpoint": checkpoint, "progress": False}
    with patch.multiple(work, **SMALL):
        if not pool:
            return mf.sweep(*problem, **options)
        with ProcessPoolExecutor(2) as executor:
            return mf.sweep(*problem, executor=executor, **options)


def same_bits(one: mf.PhaseDiagram, other: mf.PhaseDiagram) -> bool:
    """Whether two diagrams hold the same numbers."""
    arrays, others = one.points.arrays(), other.points.arrays()
    return all(np.array_equal(array, others[name], equal_nan=array.dtype.kind == "f") for name, array in arrays.items())


def _environment() -> dict[str, str]:
    return os.environ | {"MEANFIELD_CACHE_DIR": str(cache_directory()), "PYTHONPATH": os.pathsep.join(sys.path)}


def elsewhere(folder: Path, pool: bool = False) -> mf.PhaseDiagram:
    """The sweep, or what is left of it, in a process of its own."""
    arguments = [sys.executable, __file__, str(folder), *(["--pool"] if pool else [])]
    subprocess.run(arguments, env=_environment(), check=True)
    return sweep(folder)


def killed_and_resumed(folder: Path, kills: int, pool: bool, seed: int) -> tuple[mf.PhaseDiagram, list[int]]:
    """The diagram after so many kills, and the number of files that were there at each.

    A run is killed some time after it has written a random number of further files, so that none of them is idle.
    """
    rng = random.Random(seed)
    found = []
    for _ in range(kills):
        wanted = len(list(folder.glob("*.npz"))) + rng.randint(0, 5)
        arguments = [sys.executable, __file__, str(folder), *(["--pool"] if pool else [])]
        run = subprocess.Popen(arguments, env=_environment(), start_new_session=True)
        while run.poll() is None and len(list(folder.glob("*.npz"))) < wanted:
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.1))
        with contextlib.suppress(ProcessLookupError):  # where all is done
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        found.append(len(list(folder.glob("*.npz"))))
    return elsewhere(folder, pool), found


if __name__ == "__main__":
    sweep(Path(sys.argv[1]), "--pool" in sys.argv)
