"""What calls through a pointer (`numerics/barrier.py`) cost warm solves, and what they spare the first one.

    python benchmarks/barriers.py                               # with all barriers, and with none
    python benchmarks/barriers.py --without certify,kkt_newton   # and with all but these
    python benchmarks/barriers.py --rounds 5

Every variant has a cache of its own, empty at first: "first" is the first class task on it, with compilation. The
variants take turns, each run in a fresh process. CPU seconds of the first solve and milliseconds of the rest (least of
several), then the ratio of each to the variant without barriers (median over rounds).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CASES = ("sigmoid", "relu", "tanh", "sweep of 400", "finite P", "digits 90", "sampler")


def least(function, repeats, times=1):
    """Least CPU milliseconds of a call."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        for _ in range(times):
            function()
        found.append((time.process_time() - start) / times)
    return 1e3 * min(found)


def measure(without):
    """Milliseconds of every case in this process, and CPU seconds of the first solve."""
    from meanfield.numerics import barrier, jit

    if without == "all":
        jit.behind_barrier = lambda dispatcher, returns: dispatcher
    else:
        left_out, kept = set(without.split(",")), barrier.behind_barrier
        jit.behind_barrier = lambda d, returns: d if d.py_func.__name__ in left_out else kept(d, returns)
    import numpy as np

    import meanfield as mf

    task = mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5)
    start = time.process_time()
    mf.solve(mf.Network("sigmoid"), task)
    found = {"first": time.process_time() - start}
    for name, times in (("sigmoid", 30), ("relu", 20), ("tanh", 20)):
        network, own = mf.Network(name), task.with_(off=0.0 if name == "relu" else 0.5)
        mf.solve(network, own)
        found[name] = least(lambda network=network, own=own: mf.solve(network, own), 7, times)
    line = {"off": np.linspace(-0.9, 0.9, 400), "progress": False}
    found["sweep of 400"] = least(lambda: mf.sweep(mf.Network("sigmoid"), task, **line), 4)
    finite = task.with_(n_samples=100)
    mf.solve(mf.Network("sigmoid"), finite, tau=0.01)
    found["finite P"] = least(lambda: mf.solve(mf.Network("sigmoid"), finite, tau=0.01), 5)
    images = mf.datasets.digits().classes(0, 1, 2).split(90, rng=0)[0].task(on=1.0, off=0.0)
    mf.solve(mf.Network("sigmoid"), images, tau=0.01)
    found["digits 90"] = least(lambda: mf.solve(mf.Network("sigmoid"), images, tau=0.01), 3)
    how = {"draws": 20, "warmup": 20, "chains": 1, "rng": 0, "progress": False}
    mf.sample(mf.Network("sigmoid"), finite, 100, 0.01, **how)
    found["sampler"] = least(lambda: mf.sample(mf.Network("sigmoid"), finite, 100, 0.01, **how), 4)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without", action="append", default=[], metavar="NAME,...", help="barriers to leave out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--caches", type=Path, help="folder that keeps the caches; by default they are thrown away")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant is not None:
        print(json.dumps(measure(options.variant)))
        return
    variants = ["", "all", *options.without]
    title = {"": "all barriers", "all": "no barrier"} | {one: f"without {one}" for one in options.without}
    runs = {one: [] for one in variants}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.caches or scratch
        for _ in range(options.rounds):
            for number, one in enumerate(variants):
                environment = {**os.environ, "MEANFIELD_CACHE_DIR": f"{folder}/{number}"}
                command = [sys.executable, __file__, "--variant", one]
                out = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
                runs[one].append(json.loads(out.splitlines()[-1]))
                print(title[one], {name: round(value, 2) for name, value in runs[one][-1].items()}, flush=True)
    print(f"\n{'CPU':<14}" + "".join(f"{title[one]:>24}" for one in variants))
    print(f"{'first, s':<14}" + "".join(f"{runs[one][0]['first']:>24.1f}" for one in variants))
    for case in CASES:
        line = ""
        for one in variants:
            ratio = statistics.median(
                mine[case] / bare[case] for mine, bare in zip(runs[one], runs["all"], strict=True)
            )
            line += f"{min(run[case] for run in runs[one]):>17.2f} ({ratio:.2f})"
        print(f"{case + ', ms':<14}{line}")


if __name__ == "__main__":
    main()
