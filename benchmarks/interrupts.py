"""How long Ctrl-C takes to end a solve: processes that solve without end get SIGINT at random times.

    python benchmarks/interrupts.py [--times 4] [--longest 12] [--seed 0] [NAME ...]

Each case runs in a process of its own, which has compiled before the clock starts. Printed is the time from the signal
until KeyboardInterrupt is caught in Python, for every signal: on the clock / in processor time of the process (which
counts on a machine shared with others); in brackets what a process that only sleeps takes. NAME picks the cases whose
names contain it.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np


def different_classes(n_classes, m=None, n_samples=np.inf, tau=0.05, phi="sigmoid", off=0.5):
    """Classes of fractions that all differ; one-hot targets, or m random outputs."""

    def problem(rng):
        import meanfield as mf

        share = rng.dirichlet(np.full(n_classes, 8.0)) * 0.5 + 0.5 / n_classes
        targets = np.where(np.eye(n_classes, dtype=bool), 1.0, off)
        if m is not None:
            targets = rng.uniform(-1.0, 1.0, (n_classes, m))
        task = mf.class_task(fractions=share / share.sum(), targets=targets, n_samples=n_samples)
        return mf.Network(phi), task, tau

    return problem


def equal_classes(n_classes, n_samples, tau=0.02, phi="sigmoid"):
    def problem(rng):
        import meanfield as mf

        off = float(rng.uniform(-0.9, 0.6))
        return mf.Network(phi), mf.class_task(n_classes=n_classes, off=off, n_samples=n_samples), tau

    return problem


def deep_classes(depth, n_classes=3, phi="sigmoid", tau=0.1, n_samples=np.inf):
    def problem(rng):
        import meanfield as mf

        task = mf.class_task(n_classes=n_classes, off=float(rng.uniform(-0.5, 0.5)), n_samples=n_samples)
        return mf.Network(phi, depth=depth), task, tau

    return problem


def data(n_samples, n_inputs=50, m=3, phi="tanh", depth=1, scaling="non-lazy", tau=0.1):
    def problem(rng):
        import meanfield as mf

        x = rng.normal(size=(n_inputs, n_samples))
        y = np.sign(rng.normal(size=(m, n_inputs)) @ x)
        task = mf.data_task(x.T, y.T)
        return mf.Network(phi, depth=depth, scaling=scaling), task, tau

    return problem


def sweep(rng, n_samples=np.inf):
    import meanfield as mf

    task = mf.class_task(fractions=rng.dirichlet(np.full(3, 8.0)), n_samples=n_samples)
    axes = {"off": np.linspace(-1.0, 0.7, 40), "tau": np.geomspace(1e-3, 1.0, 40)}
    return partial(mf.sweep, mf.Network("sigmoid"), task, **axes, progress=False)


def sample(rng, depth=1, width=500, n_samples=300):
    import meanfield as mf

    task = mf.class_task(n_classes=3, off=0.5, n_samples=n_samples)
    network = mf.Network("sigmoid", depth=depth)
    return partial(mf.sample, network, task, width, 0.02, draws=1000, warmup=1000, rng=rng, progress=False)


def manifolds(name, rng):
    import meanfield as mf

    clouds = rng.normal(size=(60, 1, 1000)) + rng.normal(size=(60, 60, 1000))
    return partial(getattr(mf.geometry, name), clouds, seed=0)


CASES = {
    "12 different classes": different_classes(12),
    "24 different classes": different_classes(24),
    "50 different classes": different_classes(50),
    "100 different classes": different_classes(100),
    "100 different classes, random targets": different_classes(100, 100),
    "200 different classes, 4 outputs": different_classes(200, 4),
    "200 different classes, 10 outputs": different_classes(200, 10),
    "100 different classes, 20 outputs, tanh": different_classes(100, 20, phi="tanh"),
    "24 different classes, 100 outputs": different_classes(24, 100),
    "60 different classes, relu": different_classes(60, phi="relu", off=0.0),
    "40 different classes, hard_tanh, tau 1e-4": different_classes(40, phi="hard_tanh", tau=1e-4),
    "6 classes, P 50": equal_classes(6, 50.0),
    "6 different classes, P 500, tanh": different_classes(6, None, 500.0, 0.01, "tanh"),
    "8 classes, 6 outputs, P 30, gelu": different_classes(8, 6, 30.0, 0.05, "gelu"),
    "12 classes, 6 outputs, P 2000": different_classes(12, 6, 2000.0, 0.01),
    "two layers": deep_classes(2),
    "two layers, P 60": deep_classes(2, n_samples=60.0),
    "four layers, erf": deep_classes(4, 4, "erf"),
    "three layers, relu, P 200": deep_classes(3, 3, "relu", n_samples=200.0),
    "data, P 300": data(300),
    "data, P 1000": data(1000),
    "data, P 1000, lazy": data(1000, scaling="lazy"),
    "data, P 1000, lazy, step, 3 layers": data(1000, scaling="lazy", phi="step", depth=3),
    "data, P 1000, linear, 3 layers": data(1000, 1500, phi="linear", depth=3, tau=0.0),
    "sweep, 40 x 40": sweep,
    "sweep, P 300, 40 x 40": partial(sweep, n_samples=300.0),
    "sample, N 500, P 300": sample,
    "sample, two layers, N 200, P 99": partial(sample, depth=2, width=200, n_samples=99),
    "glue, 60 manifolds of 60 in 1000": partial(manifolds, "glue"),
    "replica_capacity, 60 manifolds of 60 in 1000": partial(manifolds, "replica_capacity"),
    "simulated_capacity, 60 manifolds of 60 in 1000": partial(manifolds, "simulated_capacity"),
}


def processor_seconds(pid):
    """Of a process with all its threads (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def until_interrupted(work, idle, ready, caught):
    """Work, or sleep, again and again until Ctrl-C; then the time of the clock and of the processor."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have background jobs ignore it
    ready.set()
    try:
        while True:
            if idle:
                time.sleep(60.0)
            else:
                work()
    except KeyboardInterrupt:
        caught[:] = time.monotonic(), processor_seconds(os.getpid())


def interrupted(target, arguments, after):
    """Seconds of the clock and of the processor from the signal until it is caught, and until the process has ended.

    `target(*arguments, ready, caught)` is the process: it hands both to `until_interrupted`.
    """
    spawn = multiprocessing.get_context("spawn")
    ready, caught = spawn.Event(), spawn.Array("d", 2)
    child = spawn.Process(target=target, args=(*arguments, ready, caught))
    child.start()
    while not ready.wait(1.0):
        if not child.is_alive():
            return np.nan, np.nan, np.nan
    time.sleep(after)
    start, used = time.monotonic(), processor_seconds(child.pid)
    os.kill(child.pid, signal.SIGINT)
    child.join(60.0)
    child.kill()  # if it has not ended
    ended = time.monotonic() - start
    return (caught[0] - start, caught[1] - used, ended) if caught[0] else (np.inf, np.inf, ended)


def _endless(name, seed, idle, ready, caught):
    import meanfield as mf

    rng = np.random.default_rng(seed)

    def work(**limits):
        made = CASES[name](rng)
        with contextlib.suppress(mf.ConvergenceError):
            if callable(made):
                made()
            else:
                mf.solve(*made, on_failure="return", **limits)

    if not idle:  # compiles
        mf.solve(mf.Network("sigmoid"), mf.class_task(n_classes=3))
        if not callable(CASES[name](rng)):
            work(max_seconds=5.0)
    until_interrupted(work, idle, ready, caught)
    os._exit(0)  # what is still running is not waited for


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--times", type=int, default=4)
    parser.add_argument("--longest", type=float, default=12.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    for name in CASES:
        if options.names and not any(word in name for word in options.names):
            continue
        seconds = [
            interrupted(_endless, (name, options.seed + i, False), after)[:2]
            for i, after in enumerate(rng.uniform(0.1, options.longest, options.times))
        ]
        idle = interrupted(_endless, (name, options.seed, True), 0.5)
        text = "  ".join(f"{clock:.2f}/{processor:.2f}" for clock, processor in seconds)
        clock, processor = np.max(seconds, axis=0)
        print(f"{name:42s} {text}  longest {clock:.2f}/{processor:.2f} s ({idle[0]:.2f}/{idle[1]:.2f})", flush=True)


if __name__ == "__main__":
    main()
